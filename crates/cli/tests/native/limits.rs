//! Limits that a request asks for, held by the kernel; and services that are refused and leave nothing.

use std::{fs, net::TcpListener};

use ampoule_testkit::{Outcome, Suite, skip};
use serde_json::{Value, json};

use crate::support::{Service, ampoule, base64, done, unused_data_dir, write};

/// Runs Python with limits of its own.
fn run_within(service: &Service, code: &str, limits: &Value) -> Value {
    let body = json!({"code_b64": base64(code.as_bytes()), "limits": limits});
    let (status, answer) = service.post(body.to_string().as_bytes()).unwrap();
    assert_eq!(status, 200, "{answer}");
    answer
}

/// A program, the limit that ends it, and the word for that; without the limit it succeeds.
const CASES: [(&str, &str, &str, &str); 5] = [
    ("def main():\n  return len(bytearray(100 << 20))", "memory", "\"64m\"", "memory"),
    ("import time\ndef main():\n  time.sleep(2)\n  return 1", "timeout", "0.5", "time"),
    (
        "import time\ndef main():\n  end = time.process_time() + 1\n  while time.process_time() < end: pass\n  return 1",
        "cpu_time",
        "\"300ms\"",
        "time",
    ),
    (
        "import subprocess\ndef main():\n  all = [subprocess.Popen(['sleep', '9']) for _ in range(8)]\n  return len(all)",
        "processes",
        "4",
        "processes",
    ),
    (
        "def main():\n  with open('big', 'wb') as file: file.write(bytes(8 << 20))\n  return 1",
        "disk",
        "\"4m\"",
        "disk",
    ),
];

pub(crate) fn add(suite: &mut Suite) {
    suite.test("limits::of_a_request_are_held_by_the_kernel", || {
        let service = Service::start();
        for (code, name, value, word) in CASES {
            let answer = run_within(&service, code, &json!({}));
            assert_eq!(answer["status"], "success", "{name}: {answer}");
            let limits = json!({name: serde_json::from_str::<Value>(value)?});
            let answer = run_within(&service, code, &limits);
            assert_eq!(answer["status"], "resource_limit_exceeded", "{name}: {answer}");
            assert_eq!(answer["resource_limit_type"], word, "{name}: {answer}");
        }
        Ok(())
    });
    suite.test("limits::of_output_and_cpus_are_held_too", || {
        let service = Service::start();
        let answer = run_within(&service, "def main():\n  print('x' * 5000)", &json!({"output": "1k"}));
        assert_eq!(answer["stdout"].as_str().unwrap().len() as u64 + answer["output_discarded_bytes"].as_u64().unwrap(), 5001);
        assert!(answer["stdout"].as_str().unwrap().len() <= 1024, "{answer}");
        let busy = "import time\ndef main():\n  end = time.monotonic() + 1\n  while time.monotonic() < end: pass\n  return time.process_time()";
        let answer = run_within(&service, busy, &json!({"cpus": 0.2}));
        let missing = answer["isolation"]["missing"].as_array().unwrap();
        if missing.contains(&json!("cpu_meter")) {
            return skip("output is held; without control groups nobody bounds the CPU");
        }
        let used = answer["result"]["value"].as_f64().unwrap();
        assert!(used < 0.5, "a fifth of a second of CPU time was given: {used}");
        Ok(Outcome::Passed)
    });
    suite.test("limits::of_the_command_are_held_and_bounded", || {
        let file = write("eat.py", CASES[0].0);
        let run = |flags: &[&str], bound: &str| {
            done(
                ampoule().arg("run").arg(&file).args(flags).env("AMPOULE_LIMITS_MAX_MEMORY", bound),
            )
        };
        assert_eq!(run(&[], "256m").stdout, "104857600\n");
        assert_eq!(run(&["--memory", "64m"], "256m").code, 3);
        let refused = run(&["--memory", "257m"], "256m");
        assert_eq!(refused.code, 2);
        assert!(refused.stderr.contains("(environment AMPOULE_LIMITS_MAX_MEMORY)"), "{refused:?}");
        Ok(())
    });
    suite.test("limits::a_flag_raises_its_own_bound", || {
        let file = write("eat.py", CASES[0].0.replace("100", "300"));
        let run = |flags: &[&str]| done(ampoule().arg("run").arg(&file).args(flags));
        assert_eq!(run(&[]).code, 3);
        let raised = run(&["--memory", "1g", "--timeout", "5m", "--network", "open"]);
        // Where nothing on this machine can hold `open`, that is said with the fix.
        if raised.code == 0 {
            assert_eq!(raised.stdout, "314572800\n");
        } else {
            assert!(
                raised.stderr.contains("`network` is open, and only none is allowed; "),
                "{raised:?}"
            );
            assert!(raised.stderr.contains("hint: "), "{raised:?}");
        }
        assert_eq!(run(&["--memory", "1g", "--timeout", "5m"]).stdout, "314572800\n");
        Ok(())
    });
    suite.test("limits::a_language_that_needs_much_memory_does_not_stop_the_others", || {
        // Enough for Python, and not for Node.js.
        let service = Service::start_unready(ampoule().env("SANDBOX_MAX_MEMORY", "48m"));
        let answer = service.run("python", "def main():\n  return 1", &json!({}));
        assert_eq!(answer["result"]["value"], 1, "{answer}");
        let code = base64(b"function main() { return 1; }");
        let body = json!({"code_b64": code, "language": "nodejs"}).to_string();
        let (status, answer) = service.post(body.as_bytes())?;
        assert_eq!(status, 422, "{answer}");
        assert!(answer["detail"][0]["msg"].as_str().unwrap().contains("at least 64m"), "{answer}");
        Ok(())
    });
    suite.test("limits::an_added_language_is_tried_with_the_operators_and_its_own", || {
        let folder = write("manifest.toml", "");
        let folder = folder.parent().unwrap();
        for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../runtimes/bash"))? {
            let entry = entry?;
            fs::copy(entry.path(), folder.join(entry.file_name()))?;
        }
        let manifest = fs::read_to_string(folder.join("manifest.toml"))?;
        let manifest: String = manifest
            .lines()
            .map(|line| match line {
                _ if line.starts_with("minimum_memory") => "minimum_memory = \"300m\"\n".to_owned(),
                // A sandbox that is ready may run the rest within a millisecond.
                "main() {" => "main() {\n    sleep 0.5\n".to_owned(),
                _ => format!("{line}\n"),
            })
            .collect();
        fs::write(folder.join("manifest.toml"), manifest)?;
        let add = |timeout: &str| {
            let mut command = ampoule();
            command.args(["runtimes", "add", "--replace"]).arg(folder);
            command.env("AMPOULE_DATA_DIR", unused_data_dir()).env("SANDBOX_TIMEOUT", timeout);
            done(&mut command)
        };
        let added = add("10s");
        assert_eq!(added.code, 0, "{added:?}");
        let hint = "hint: it needs 300m of memory; `limits.memory` is 256m";
        assert!(added.stdout.contains(hint), "{added:?}");
        let late = add("100ms");
        assert_eq!(late.code, 2, "{late:?}");
        assert!(late.stderr.contains("the time limit was exceeded"), "{late:?}");
        Ok(())
    });
    suite.test("limits::a_refused_service_leaves_nothing", || {
        let taken = TcpListener::bind("127.0.0.1:0")?;
        let taken = taken.local_addr()?.to_string();
        let shared = Service::start();
        let unused = unused_data_dir();
        let free = "127.0.0.1:0";
        for (listen, data_dir, memory, said) in [
            (taken.as_str(), unused.as_path(), "256m", "failed to listen on"),
            ("0.0.0.0:0", &unused, "256m", "needs a token"),
            (free, &shared.data_dir, "256m", "another `ampoule serve`"),
            (
                free,
                &unused,
                "4m",
                "`limits.memory` is 4m (environment SANDBOX_MAX_MEMORY), and at least 24m is needed for `python`",
            ),
        ] {
            // It returns when nobody holds the other end of its stderr any more.
            let mut command = ampoule();
            command.args(["serve", "--listen", listen]);
            command.env("AMPOULE_DATA_DIR", data_dir).env("SANDBOX_MAX_MEMORY", memory);
            let refused = done(&mut command);
            assert_eq!(refused.code, 2, "{refused:?}");
            assert!(refused.stderr.contains(said), "{refused:?}");
        }
        assert!(!unused.exists(), "a service that did not start made its data directory");
        Ok(())
    });
}
