//! The code that is loaded into an interpreter, loaded into both. It is at work in every warm run of
//! the native provider's tests.

use std::{io::Write as _, path::PathBuf, process::Command};

use ampoule_jail::INSIDE;

/// The embedded library as a file. Each test has its own: a loaded library must not be rewritten.
fn library(test: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("inside-{test}.so"));
    std::fs::File::create(&path).unwrap().write_all(INSIDE).unwrap();
    path
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {:?}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn python_loads_it() {
    let path = library("python");
    let code = format!("import ctypes; print(ctypes.CDLL({path:?}).ampoule_inside_abi())");
    assert_eq!(output("/usr/bin/python3", &["-I", "-c", &code]), "1");
}

#[test]
fn node_loads_it() {
    let path = library("node");
    let code = format!(
        "const m = {{exports: {{}}}}; process.dlopen(m, {path:?}); console.log(m.exports.abi)"
    );
    assert_eq!(output("node", &["-e", &code]), "1");
}
