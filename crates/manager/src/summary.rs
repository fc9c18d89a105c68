//! The verdict as one sentence for people.

use ampoule_core::{Denial, Evidence, LimitKind, Outcome, StopReason};

/// The longest part of a program's own message that a summary repeats, in characters.
const MESSAGE_CHARACTERS: usize = 500;

/// Says in one line how a program ended: a fragment, without a full stop.
pub fn summary(outcome: &Outcome, evidence: &Evidence) -> String {
    match outcome {
        Outcome::Succeeded => "main returned".to_owned(),
        Outcome::Failed { exit_code, signal, error } => match (error, signal, exit_code) {
            (Some(error), _, _) => {
                let kind = first_line(&error.kind);
                let message = first_line(&error.message);
                let place = error.line.map(|line| format!(" (line {line})")).unwrap_or_default();
                match (kind.as_str(), message.as_str()) {
                    ("", "") => format!("an uncaught error{place}"),
                    (kind, "") => format!("{kind}{place}"),
                    ("", message) => format!("{message}{place}"),
                    (kind, message) => format!("{kind}: {message}{place}"),
                }
            }
            (None, Some(signal), _) => match signal_name(*signal) {
                Some(name) => format!("signal {signal} ({name}) ended the program"),
                None => format!("signal {signal} ended the program"),
            },
            (None, None, Some(code)) => {
                format!("the program exited with code {code} before main returned")
            }
            (None, None, None) => "the program ended before main returned".to_owned(),
        },
        Outcome::LimitExceeded { limit } => exceeded(*limit, evidence),
        Outcome::Denied { what } => {
            let what: Vec<String> = what.iter().map(denial).collect();
            format!("the sandbox refused {}", what.join(", "))
        }
        Outcome::Cancelled => "the run was cancelled".to_owned(),
    }
}

fn exceeded(limit: LimitKind, evidence: &Evidence) -> String {
    match limit {
        LimitKind::Time => "the time limit was exceeded".to_owned(),
        LimitKind::Cpu => "the limit of CPU time was exceeded".to_owned(),
        LimitKind::Memory => {
            let memory = &evidence.memory;
            let limit = memory.limit >> 10;
            let by = match (evidence.stopped, memory.oom_kills) {
                (Some(StopReason::Memory), _) => "stopped by a watch on its memory",
                (_, 1..) => "killed by the kernel",
                (_, 0) => "the interpreter's heap met it",
            };
            format!("the memory limit of {limit} KiB was exceeded ({by})")
        }
        LimitKind::Processes => {
            let limit = evidence.processes.limit;
            let by = match evidence.stopped {
                Some(StopReason::Processes) => " (stopped by a watch on them)",
                _ => "",
            };
            format!("the limit of {limit} processes and threads was exceeded{by}")
        }
        LimitKind::Output => "the output limit was exceeded".to_owned(),
        LimitKind::Disk => "the disk limit was exceeded".to_owned(),
    }
}

fn denial(denial: &Denial) -> String {
    match denial {
        Denial::Syscall { name, count: 0 | 1 } => format!("the system call {name}"),
        Denial::Syscall { name, count } => format!("the system call {name} ({count} times)"),
        Denial::Network { packets: 1 } => "the network (1 packet without a route)".to_owned(),
        Denial::Network { packets } => format!("the network ({packets} packets without a route)"),
    }
}

/// The first line of a stranger's text, cut, without control characters.
fn first_line(text: &str) -> String {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    let mut characters = line.chars().filter(|c| !c.is_control());
    let mut shown: String = characters.by_ref().take(MESSAGE_CHARACTERS).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

/// The name of a signal that programs die of, on Linux.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use ampoule_core::ProgramError;

    use super::*;

    fn failed(exit_code: Option<i32>, signal: Option<i32>, error: Option<ProgramError>) -> String {
        summary(&Outcome::Failed { exit_code, signal, error }, &Evidence::default())
    }

    #[test]
    fn an_error_is_told_in_one_line() {
        let error = ProgramError {
            kind: "ValueError".to_owned(),
            message: "bad\u{1b} value\nsecond line".to_owned(),
            line: Some(3),
        };
        assert_eq!(failed(Some(1), None, Some(error)), "ValueError: bad value (line 3)");
        let long = ProgramError { message: "x".repeat(10_000), ..ProgramError::default() };
        assert_eq!(failed(Some(1), None, Some(long)).chars().count(), 501);
        assert_eq!(failed(Some(1), None, Some(ProgramError::default())), "an uncaught error");
    }

    #[test]
    fn ends_limits_and_denials_are_told() {
        assert_eq!(failed(None, Some(11), None), "signal 11 (SIGSEGV) ended the program");
        assert_eq!(failed(None, Some(40), None), "signal 40 ended the program");
        assert_eq!(
            failed(Some(0), None, None),
            "the program exited with code 0 before main returned"
        );
        let what = vec![
            Denial::Syscall { name: "ptrace".to_owned(), count: 2 },
            Denial::Network { packets: 1 },
        ];
        assert_eq!(
            summary(&Outcome::Denied { what }, &Evidence::default()),
            "the sandbox refused the system call ptrace (2 times), the network (1 packet without a route)"
        );
        let mut evidence = Evidence::default();
        evidence.memory.limit = 1 << 20;
        evidence.stopped = Some(StopReason::Memory);
        assert_eq!(
            summary(&Outcome::LimitExceeded { limit: LimitKind::Memory }, &evidence),
            "the memory limit of 1024 KiB was exceeded (stopped by a watch on its memory)"
        );
    }
}
