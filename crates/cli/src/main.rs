//! The one binary, `ampoule`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    // Launcher processes are this very program, started again: they must leave here, before any
    // thread exists.
    ampoule_jail::entry();
    ampoule_cli::main().into()
}
