//! Compiles the code that is loaded into an interpreter, with the compiler that builds the rest.

use std::{env, path::PathBuf, process::Command};

fn main() {
    let source = PathBuf::from("src/inside/lib.rs");
    println!("cargo::rerun-if-changed=src/inside");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let output = PathBuf::from(variable("OUT_DIR")).join("ampoule_inside.so");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .args(["--crate-name", "ampoule_inside", "--crate-type", "cdylib", "--edition", "2024"])
        .args(["--target", &variable("TARGET")])
        // No unwinding: it may not cross into an interpreter. Nothing of std, nothing of libc's
        // start-up files; `dlsym` is left for the loading process to resolve.
        .args([
            "-C",
            "panic=abort",
            "-C",
            "opt-level=s",
            "-C",
            "strip=symbols",
            "-C",
            "debuginfo=0",
        ])
        // Across core as well, so that nothing of its unwinding is left to resolve.
        .args(["-C", "lto=fat"])
        .args(["-C", "link-arg=-nostdlib", "-C", "link-arg=-nostartfiles"])
        .args(["-D", "warnings"])
        .arg("-o")
        .arg(&output)
        .arg(&source);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    let status = rustc.status().unwrap_or_else(|error| panic!("failed to start rustc: {error}"));
    assert!(status.success(), "failed to compile {}: {status}", source.display());
}
