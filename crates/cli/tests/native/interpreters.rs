//! Interpreters that are not the system's, and ones that are missing.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use ampoule_testkit::{Suite, unique_word};
use serde_json::{Value, json};

use crate::support::{HELLO, Service, ampoule, done, write};

pub(crate) fn add(suite: &mut Suite) {
    suite.test("interpreters::a_version_managers_python_in_a_private_home_works", || {
        // What a version manager leaves: a whole prefix somewhere in a home that only its owner
        // may enter.
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique_word());
        let prefix = home.join("versions/3.11");
        fs::create_dir_all(prefix.join("bin"))?;
        fs::create_dir_all(prefix.join("lib"))?;
        let real = fs::canonicalize("/usr/bin/python3")?;
        let name = real.file_name().ok_or("no name")?.to_owned();
        fs::copy(&real, prefix.join("bin").join(&name))?;
        let copied = Command::new("cp")
            .arg("-r")
            .arg(Path::new("/usr/lib").join(&name))
            .arg(prefix.join("lib"))
            .status()?;
        assert!(copied.success());
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700))?;
        let file =
            write("x.py", "import sys, json\ndef main(): return [sys.prefix, json.__file__]");
        let shown = done(
            ampoule()
                .env("AMPOULE_PYTHON_BIN", prefix.join("bin").join(&name))
                .arg("run")
                .arg(&file),
        );
        let kept = fs::remove_dir_all(&home);
        assert_eq!(shown.code, 0, "{shown:?}");
        assert!(
            shown.stdout.starts_with("[\"/opt/interpreter\",\"/opt/interpreter/lib/"),
            "{shown:?}"
        );
        Ok(kept?)
    });
    suite.test("interpreters::a_node_alone_in_a_directory_works", || {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique_word()).join("bin");
        fs::create_dir_all(&directory)?;
        fs::copy(fs::canonicalize("/usr/bin/node")?, directory.join("node"))?;
        let file = write("x.js", "function main() { return process.execPath }");
        let shown =
            done(ampoule().env("AMPOULE_NODE_BIN", directory.join("node")).arg("run").arg(&file));
        assert_eq!(
            (shown.code, shown.stdout.as_str()),
            (0, "\"/opt/interpreter/bin/node\"\n"),
            "{shown:?}"
        );
        Ok(())
    });
    suite.test("interpreters::one_that_is_missing_is_said", || {
        let file = write("x.js", HELLO[1].1);
        let mut command = ampoule();
        let shown = done(command.env("AMPOULE_NODE_BIN", "/nowhere/node").arg("run").arg(&file));
        assert_ne!(shown.code, 0);
        assert!(
            shown.stderr.contains("/nowhere/node") && shown.stderr.contains("AMPOULE_NODE_BIN"),
            "{shown:?}"
        );
        let service = Service::start_unready(ampoule().env("AMPOULE_NODE_BIN", "/nowhere/node"));
        // Python goes on, and readiness tells what does not.
        let said = service.run("python", HELLO[0].1, &json!({"n": 1}));
        assert_eq!(said["status"], "success", "{said}");
        let (status, ready) = service.get("/readyz")?;
        assert_eq!(status, 503);
        assert!(ready.to_string().contains("javascript"), "{ready}");
        let (status, answer) = service
            .post(json!({"code_b64": "YQ==", "language": "nodejs"}).to_string().as_bytes())?;
        assert!(status == 422 || answer["status"] == "program_runner_error", "{status} {answer}");
        assert_ne!(answer, Value::Null);
        Ok(())
    });
    suite.test("interpreters::one_is_not_told_the_services_token", || {
        let token = unique_word();
        let told = write("told", "");
        let script =
            format!("#!/bin/sh\nenv >> {}\nexec /usr/bin/python3 \"$@\"\n", told.display());
        let shim = write("python3", script);
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755))?;
        for name in ["SANDBOX_EXECUTOR_MANAGER_API_TOKEN", "AMPOULE_AUTH_API_TOKEN"] {
            let mut command = ampoule();
            command.env(name, &token).env("AMPOULE_PYTHON_BIN", &shim);
            let shown = done(command.args(["runtimes", "list"]));
            assert!(shown.stdout.contains("python"), "{shown:?}");
        }
        let told = fs::read_to_string(told)?;
        assert_eq!(told.matches("AMPOULE_PYTHON_BIN=").count(), 2, "{told}");
        assert!(!told.contains(&token), "{told}");
        Ok(())
    });
    suite.test("interpreters::the_installed_packages_are_seen_read_only", || {
        let file = write("x.py", "import os\ndef main():\n  import numpy, pandas, requests, matplotlib\n  matplotlib.use('Agg')\n  import matplotlib.pyplot as plt\n  plt.plot([1, 2]); plt.savefig('artifacts/p.png')\n  try: open(os.path.join(os.path.dirname(numpy.__file__), 'x'), 'w'); wrote = True\n  except OSError: wrote = False\n  return [float(pandas.DataFrame({'a': [1, 2]}).a.sum()), wrote]");
        let shown = done(ampoule().arg("run").arg(&file).args(["--memory", "512m", "--timeout", "60s"]));
        assert_eq!((shown.code, shown.stdout.as_str()), (0, "[3.0,false]\n"), "{shown:?}");
        let file = write("x.js", "const axios = require('axios'); async function main() { const m = await import('axios'); return [typeof axios.get, typeof m.default.get] }");
        let shown = done(ampoule().arg("run").arg(&file));
        assert_eq!((shown.code, shown.stdout.as_str()), (0, "[\"function\",\"function\"]\n"), "{shown:?}");
        Ok(())
    });
}
