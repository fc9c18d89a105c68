//! Limits that a request asks for, held by the kernel; and services that are refused and leave nothing.

use std::net::TcpListener;

use ampoule_testkit::Suite;
use serde_json::{Value, json};

use crate::support::{Service, ampoule, base64, done, own_data_dir, unused_data_dir};

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
        let used = answer["result"]["value"].as_f64().unwrap();
        assert!(used < 0.5, "a fifth of a second of CPU time was given: {used}");
        Ok(())
    });
    suite.test("limits::of_the_command_are_held_and_bounded", || {
        let file = crate::support::write("eat.py", CASES[0].0);
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
    suite.test("limits::a_refused_service_leaves_nothing", || {
        let taken = TcpListener::bind("127.0.0.1:0")?;
        let taken = taken.local_addr()?.to_string();
        let shared = Service::start();
        let unused = unused_data_dir();
        let own = own_data_dir();
        let free = "127.0.0.1:0";
        for (listen, data_dir, memory, said) in [
            (taken.as_str(), unused.as_path(), "256m", "failed to listen on"),
            ("0.0.0.0:0", &unused, "256m", "needs a token"),
            (free, &shared.data_dir, "256m", "another `ampoule serve`"),
            // Only the provider knows what its interpreters start with.
            (
                free,
                &own,
                "1m",
                "`limits.memory` is 1m (environment SANDBOX_MAX_MEMORY), and at least",
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
