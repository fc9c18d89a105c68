//! Bad input: each a clear error of the right class, and the service goes on.

use ampoule_testkit::Suite;
use serde_json::{Value, json};

use crate::support::{HELLO, Service, ampoule, base64, done, write};

/// Programs that only the interpreter can find wrong: the error and a part of what is said.
const PROGRAMS: [(&str, &str, &[u8], &str, &str); 9] = [
    ("nul", "python", b"def main():\n  return '\0'", "", "null byte"),
    ("syntax", "python", b"x = 1\ndef main(:\n  pass", "SyntaxError", "line 2"),
    ("tabs", "python", b"def main():\n\tif 1:\n        return 1", "TabError", "line 3"),
    ("no main", "python", b"x = 1", "NameError", "main"),
    ("main is no function", "python", b"main = 3", "TypeError", "main"),
    ("syntax", "nodejs", b"let a = 1;\nfunction main( { return 1 }", "SyntaxError", "main.js:2"),
    ("no main", "nodejs", b"let x = 1", "", "main"),
    ("main is no function", "nodejs", b"module.exports = { main: 3 }", "TypeError", "main"),
    (
        "a module",
        "nodejs",
        b"import fs from 'fs'; export function main() {}",
        "SyntaxError",
        "require",
    ),
];

pub(crate) fn add(suite: &mut Suite) {
    suite.test("bad_input::programs_are_answered_with_their_own_error", || {
        let service = Service::start();
        for (what, language, code, kind, said) in PROGRAMS {
            let answer = service.run(language, code, &json!({}));
            assert_eq!(answer["status"], "program_error", "{language} {what}: {answer}");
            let shown = answer["stderr"].as_str().unwrap();
            assert!(shown.contains(said), "{language} {what}: {shown}");
            if !kind.is_empty() {
                assert_eq!(answer["error"]["type"], kind, "{language} {what}: {answer}");
            }
        }
        Ok(())
    });
    suite.test("bad_input::marks_and_line_ends_do_no_harm", || {
        let service = Service::start();
        let marked = service.run("python", b"\xef\xbb\xbfdef main(): return 'a'", &Value::Null);
        assert_eq!(marked["result"]["value"], "a", "{marked}");
        let ends = service.run("python", b"def main():\r\n  return 'a'\r\n", &json!({}));
        assert_eq!(ends["result"]["value"], "a", "{ends}");
        let marked =
            service.run("nodejs", b"\xef\xbb\xbffunction main() { return 'a' }", &json!({}));
        assert_eq!(marked["result"]["value"], "a", "{marked}");
        Ok(())
    });
    suite.test("bad_input::requests_are_refused_by_field", || {
        let service = Service::start();
        let good = base64(HELLO[0].1.as_bytes());
        let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        let cases: [(String, &str); 12] = [
            ("{".into(), ""),
            ("[]".into(), ""),
            ("{}".into(), "code_b64"),
            (json!({"code_b64": 1}).to_string(), "code_b64"),
            (json!({"code_b64": "@@@"}).to_string(), "code_b64"),
            (json!({"code_b64": "YQ"}).to_string(), "code_b64"),
            (json!({"code_b64": base64(b"\xff\xfe")}).to_string(), "code_b64"),
            (json!({"code_b64": ""}).to_string(), "code_b64"),
            (json!({"code_b64": good, "language": "cobol"}).to_string(), "language"),
            (json!({"code_b64": good, "arguments": [1]}).to_string(), "arguments"),
            (
                format!("{{\"code_b64\": \"{good}\", \"arguments\": {{\"a\": {deep}}}}}"),
                "arguments",
            ),
            (json!({"code_b64": good, "base_image": "nobody/knows:1"}).to_string(), "base_image"),
        ];
        for (body, field) in cases {
            let (status, answer) = service.post(body.as_bytes())?;
            assert_eq!(status, 422, "{answer}");
            let first = &answer["detail"][0];
            assert!(first["msg"].is_string() && first["type"].is_string(), "{answer}");
            if !field.is_empty() {
                assert_eq!(first["loc"], json!(["body", field]), "{answer}");
            }
        }
        let answer = service.run("python", HELLO[0].1, &json!({"n": 1}));
        assert_eq!(answer["status"], "success", "{answer}");
        Ok(())
    });
    suite.test("bad_input::a_hundred_megabytes_are_refused", || {
        let service = Service::start();
        let (status, answer) = service.post(&vec![b'x'; 100 << 20])?;
        assert_eq!(status, 413, "{answer}");
        let answer = service.run("python", HELLO[0].1, &json!({"n": 1}));
        assert_eq!(answer["status"], "success", "{answer}");
        Ok(())
    });
    suite.test("bad_input::a_large_program_with_large_arguments_is_run", || {
        let service = Service::start();
        let code = format!("# {}\ndef main(text): return len(text)", "x".repeat(5 << 20));
        let answer = service.run("python", code, &json!({"text": "y".repeat(5 << 20)}));
        assert_eq!(answer["result"]["value"], 5 << 20, "{}", answer["stderr"]);
        Ok(())
    });
    suite.test("bad_input::the_command_says_what_is_wrong", || {
        let file = write("x.py", HELLO[0].1);
        let file = file.to_str().unwrap();
        let empty = write("empty.py", " \n");
        let binary = write("binary.py", b"\xff\xfe");
        for (arguments, said) in [
            (vec!["run", "/nowhere/x.py"], "/nowhere/x.py"),
            (vec!["run", file, "--args", "[1]"], "JSON object"),
            (vec!["run", file, "--args", "{"], "JSON"),
            (vec!["run", file, "--lang", "cobol"], "cobol"),
            (vec!["run", file, "--timeout", "soon"], "soon"),
            (vec!["run", file, "--memory", "1k"], "memory"),
            (vec!["run", empty.to_str().unwrap()], "empty"),
            (vec!["run", binary.to_str().unwrap()], "UTF-8"),
        ] {
            let shown = done(ampoule().args(&arguments));
            assert_eq!(shown.code, 2, "{arguments:?}: {shown:?}");
            assert!(shown.stderr.contains(said), "{arguments:?}: {shown:?}");
        }
        Ok(())
    });
}
