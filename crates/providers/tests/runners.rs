//! Speaks the runners' protocol to them, without a sandbox: every rule of it is a row of a table.
//!
//! The programs here are unruly but harmless. Those that need walls around them are run by the tests
//! of the providers.

#[path = "runners/bash.rs"]
mod bash;
#[path = "runners/harness.rs"]
mod harness;
#[path = "runners/javascript.rs"]
mod javascript;
#[path = "runners/perl.rs"]
mod perl;
#[path = "runners/python.rs"]
mod python;

use harness::{Runner, check};

#[test]
fn python_programs_end_as_they_should() {
    check("python", python::CASES);
}

#[test]
fn javascript_programs_end_as_they_should() {
    check("javascript", javascript::CASES);
}

#[test]
fn bash_programs_end_as_they_should() {
    check("bash", bash::CASES);
}

#[test]
fn perl_programs_end_as_they_should() {
    check("perl", perl::CASES);
}

/// What a program printed before it was killed is kept, the unfinished line too.
#[test]
fn output_before_a_kill_is_there() {
    for (language, code) in [
        (
            "python",
            "import os\ndef main():\n    print('a'); print('b', end=''); os.kill(os.getpid(), 9)",
        ),
        (
            "javascript",
            "function main() { console.log('a'); process.stdout.write('b'); process.kill(process.pid, 'SIGKILL') }",
        ),
        ("bash", "main() { echo a; printf b; kill -9 $$; }"),
        ("perl", "sub main { print \"a\\n\"; print 'b'; kill 9, $$ }"),
    ] {
        let end = Runner::new(language).run(code, "{}");
        assert_eq!((end.stdout.as_str(), end.frame.as_deref()), ("a\nb", None), "{language}");
        assert_eq!(end.code, None, "{language}");
    }
}

/// Twenty thousand lines arrive, also where pipes are written to without waiting.
#[test]
fn all_lines_are_flushed_before_the_frame() {
    for (language, code) in [
        ("python", "def main():\n    for i in range(20000): print('line', i)\n    return 1"),
        (
            "javascript",
            "function main() { for (let i = 0; i < 20000; i++) console.log('line', i); return 1 }",
        ),
        ("bash", "main() { for ((i = 0; i < 20000; i++)); do echo line $i; done; result 1; }"),
        ("perl", "sub main { print \"line $_\\n\" for 0 .. 19999; return 1 }"),
    ] {
        let end = Runner::new(language).run(code, "{}");
        assert_eq!(end.stdout.lines().count(), 20_000, "{language}");
        assert!(end.stdout.ends_with("line 19999\n"), "{language}");
        assert!(end.frame.is_some(), "{language}");
    }
}

/// Files that a program left open hold all that it wrote, as at an interpreter's own end.
#[test]
fn files_left_open_are_written_out() {
    let runner = Runner::new("python");
    let code = "f = open('artifacts/a.csv', 'w')\nf.write('a,b')\ndef main():\n    return 1";
    assert_eq!(runner.run(code, "{}").value(), Some("1"));
    assert_eq!(runner.read("artifacts/a.csv"), "a,b");

    let runner = Runner::new("perl");
    let code = "open our $f, '>', 'artifacts/a.csv'; sub main { print $f 'a,b'; return 1 }";
    assert_eq!(runner.run(code, "{}").value(), Some("1"));
    assert_eq!(runner.read("artifacts/a.csv"), "a,b");
}

/// A traceback shows the program's lines, whatever became of its file.
#[test]
fn a_traceback_survives_its_file() {
    for act in ["os.remove('main.py')", "open('main.py', 'w').write('x\\n' * 9)"] {
        let code = format!(
            "import os\ndef main():\n    {act}; os.chdir('/')\n    raise ValueError('gone')"
        );
        let end = Runner::new("python").run(&code, "{}");
        assert!(end.stderr.contains("    raise ValueError('gone')\n"), "{}", end.stderr);
    }
}

/// Nothing of the runner stands in the way of a program's own modules, and its files come last.
#[test]
fn the_standard_library_comes_before_the_workspace() {
    let runner = Runner::new("python");
    runner.write("helper.py", "x = 5");
    runner.write("random.py", "choice = 'shadowed'");
    let code = "import helper, random\ndef main():\n    return [helper.x, callable(random.choice)]";
    assert_eq!(runner.run(code, "{}").value(), Some("[5,true]"));

    let runner = Runner::new("javascript");
    runner.write("helper.js", "exports.x = 5");
    let code = "const { x } = require('./helper'); function main() { return [x, require.main === module] }";
    assert_eq!(runner.run(code, "{}").value(), Some("[5,false]"));
}

/// In code that runs after the program, the Python runner uses no name that a program can patch.
#[test]
fn the_python_runner_uses_no_global_name() {
    let runner = Runner::new("python");
    runner.write("runner_source.py", &runner.source());
    let code = r"
import dis, types
def names(code, depth):
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            for step in dis.get_instructions(part) if depth else ():
                if step.opname in ('LOAD_GLOBAL', 'LOAD_NAME') and step.argval != '__name__':
                    yield part.co_name + ': ' + step.argval
            yield from names(part, depth + 1)
def main():
    source = open('runner_source.py').read()
    return list(names(compile(source, 'runner', 'exec'), 0))
";
    assert_eq!(runner.run(code, "{}").value(), Some("[]"));
}
