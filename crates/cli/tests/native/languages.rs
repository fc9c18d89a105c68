//! Languages as folders: added, checked by runs, used by every command, removed; and what is broken.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use ampoule_testkit::{Suite, eventually, unique_word};
use serde_json::{Value, json};

use crate::support::{Done, Service, ampoule, done, write};

const RUNTIMES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../runtimes");

/// An empty directory with a data directory of its own.
pub(crate) struct Place {
    root: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique_word());
        fs::create_dir_all(&root).unwrap();
        Self { root }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = ampoule();
        command.env("AMPOULE_DATA_DIR", self.path("data")).current_dir(&self.root);
        command
    }

    fn ampoule(&self, arguments: &[&str]) -> Done {
        done(self.command().args(arguments))
    }

    /// A copy of one of the repository's folders, to be spoiled.
    fn copy(&self, name: &str) -> PathBuf {
        let folder = self.path(name);
        fs::create_dir_all(&folder).unwrap();
        for entry in fs::read_dir(Path::new(RUNTIMES).join(name)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
        folder
    }

    fn add(&self, name: &str) {
        let folder = Path::new(RUNTIMES).join(name);
        let shown = self.ampoule(&["runtimes", "add", folder.to_str().unwrap()]);
        assert_eq!(shown.code, 0, "{shown:?}");
        assert!(shown.stdout.contains("example      gave {\"n\": 42}"), "{shown:?}");
    }

    /// The languages in the data directory; none if nothing was ever written there.
    fn added(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path("data/languages")) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != ".lock").collect()
    }

    fn run(&self, file: &str, code: &str, more: &[&str]) -> Done {
        let file = write(file, code);
        done(self.command().arg("run").arg(file).args(more))
    }

    fn run_json(&self, file: &str, code: &str, timeout: &str) -> Value {
        let shown = self.run(file, code, &["--json", "--timeout", timeout]);
        serde_json::from_str(&shown.stdout).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

pub(crate) fn add(suite: &mut Suite) {
    suite.test("languages::bash_and_perl_are_added_run_served_and_removed", || {
        let place = Place::new();
        let before = place.run("x.sh", "main() { :; }", &[]);
        assert_eq!(before.code, 2, "{before:?}");
        assert!(before.stderr.contains("one of python, javascript"), "{before:?}");
        place.add("bash");
        place.add("perl");
        let shown = place.run(
            "x.sh",
            "main() { echo \"hi ${args[name]}\"; result \"$1\"; echo 1 >artifacts/a.txt; }",
            &["--args", r#"{"name": "é"}"#],
        );
        assert_eq!((shown.code, shown.stdout.as_str()), (0, "hi é\n{\"name\":\"é\"}\n"));
        let shown = place.run("x.pl", "sub main { return [1, $_[0]] }", &["--args", "{\"a\":1}"]);
        assert_eq!((shown.code, shown.stdout.as_str()), (0, "[1,{\"a\":1}]\n"), "{shown:?}");

        let listed = place.ampoule(&["runtimes", "list", "--json"]);
        let listed: Value = serde_json::from_str(&listed.stdout)?;
        let find = |name: &str| listed.as_array().unwrap().iter().find(|it| it["language"] == name);
        assert_eq!(find("bash").unwrap()["is_complete"], true, "{listed}");
        assert_eq!(find("python").unwrap()["folder"], Value::Null, "{listed}");

        let service = Service::start_with(&mut place.command());
        let answer = service.run("sh", "main() { result \"${args[n]}\"; }", &json!({"n": [1]}));
        assert_eq!(answer["result"]["value"], json!([1]), "{answer}");
        let answer = service.run("perl", "sub main { die 'x' }", &json!({}));
        assert_eq!(answer["status"], "program_error", "{answer}");
        assert_eq!(answer["error"]["line"], 1, "{answer}");
        drop(service);

        for name in ["bash", "perl"] {
            let shown = place.ampoule(&["runtimes", "remove", name]);
            assert_eq!(shown.code, 0, "{shown:?}");
        }
        assert_eq!(place.added(), [""; 0]);
        assert_eq!(place.run("x.pl", "sub main { 1 }", &[]).code, 2);
        Ok(())
    });
    suite.test("languages::ends_of_bash_and_perl_are_told_by_their_evidence", || {
        let place = Place::new();
        place.add("bash");
        place.add("perl");
        for (file, code, outcome) in [
            ("x.sh", "main() { exit 3; }", json!({"kind": "failed", "exit_code": 3, "signal": null, "error": null})),
            ("x.sh", "main() { kill -SEGV $$; }", json!({"kind": "failed", "exit_code": null, "signal": 11, "error": null})),
            ("x.sh", "main() { while :; do :; done; }", json!({"kind": "limit_exceeded", "limit": "time"})),
            ("x.sh", "main() { x=$(head -c 600000000 /dev/zero | tr '\\0' x); }", json!({"kind": "limit_exceeded", "limit": "memory"})),
            ("x.sh", "main() { head -c 900M /dev/zero >artifacts/x; }", json!({"kind": "limit_exceeded", "limit": "disk"})),
            ("x.sh", "main() { unshare -U true; }", json!({"kind": "denied", "what": [{"kind": "syscall", "name": "unshare", "count": 1}]})),
            ("x.sh", "main() { result yes; }", json!({"kind": "failed", "exit_code": 1, "signal": null, "error":
                {"type": "ValueError", "message": "the value is not JSON: expected value at line 1 column 1"}})),
            ("x.sh", "main() {\n  if; }", json!({"kind": "failed", "exit_code": 1, "signal": null, "error":
                {"type": "SyntaxError", "message": "syntax error near unexpected token `;'", "line": 2}})),
            ("x.sh", "main() { echo rubbish >&200; sleep 2; }", json!({"kind": "failed", "exit_code": 1, "signal": null, "error":
                {"type": "ResultChannelError", "message": "the program wrote to the result channel: more than one frame, or one that is too long"}})),
            ("x.sh", "main() { echo '{\"status\": \"success\"}'; exit 0; }", json!({"kind": "failed", "exit_code": 0, "signal": null, "error": null})),
            ("x.pl", "sub main { exit 3 }", json!({"kind": "failed", "exit_code": 3, "signal": null, "error": null})),
            ("x.pl", "sub main { kill 11, $$ }", json!({"kind": "failed", "exit_code": null, "signal": 11, "error": null})),
            ("x.pl", "sub main { my $x = 'x' x 600_000_000; 1 }", json!({"kind": "limit_exceeded", "limit": "memory"})),
            ("x.pl", "sub main {\n  die \"oops\" }", json!({"kind": "failed", "exit_code": 1, "signal": null, "error":
                {"type": "Error", "message": "oops", "line": 2}})),
            ("x.pl", "use Socket; sub main { socket my $s, PF_INET, SOCK_STREAM, 0; connect $s, sockaddr_in(80, inet_aton('1.1.1.1')) or die }",
                json!({"kind": "denied", "what": [{"kind": "network", "packets": 1}]})),
        ] {
            let timeout = if outcome["limit"] == "time" { "2s" } else { "30s" };
            let report = place.run_json(file, code, timeout);
            assert_eq!(report["outcome"], outcome, "{code}: {report}");
        }
        // What the interpreters try by themselves is no denial.
        for (file, code) in [("x.sh", "main() { result 1; }"), ("x.pl", "sub main { 1 }")] {
            let report = place.run_json(file, code, "30s");
            assert_eq!(report["evidence"]["denied"], json!([]), "{report}");
            assert_eq!(report["value"], 1, "{report}");
        }
        Ok(())
    });
    suite.test("languages::they_start_in_the_memory_that_they_name", || {
        let place = Place::new();
        for (name, file, code, memory) in [
            ("bash", "x.sh", "main() { result 1; }", "8m"),
            ("perl", "x.pl", "sub main { 1 }", "24m"),
        ] {
            place.add(name);
            let shown = place.run(file, code, &["--memory", memory]);
            assert_eq!((shown.code, shown.stdout.as_str()), (0, "1\n"), "{shown:?}");
        }
        Ok(())
    });
    suite.test("languages::large_programs_and_arguments_arrive_whole", || {
        let place = Place::new();
        place.add("bash");
        let code = format!("# {}\nmain() {{ result \"${{#args[t]}}\"; }}", "\\x".repeat(2 << 20));
        let arguments = write("a.json", json!({"t": "é\n".repeat(1 << 20)}).to_string());
        let arguments = format!("@{}", arguments.display());
        let shown = place.run("x.sh", &code, &["--args", &arguments, "--timeout", "60s"]);
        assert_eq!((shown.code, shown.stdout.as_str()), (0, "2097152\n"), "{}", shown.stderr);
        Ok(())
    });
    suite.test("languages::a_broken_runner_is_said_and_nothing_is_left", || {
        for (spoiled, said) in [
            ("", "the interpreter did not start: it ended; it said nothing"),
            (
                "echo cannot find myself >&2; exit 1",
                "the interpreter did not start: it ended; it said: cannot find myself",
            ),
            (
                "printf rubbish >&3; echo I am lost >&2; sleep 1",
                "the runner wrote something else than its ready byte; it said: I am lost",
            ),
            ("nonsense here", "nonsense: command not found"),
            (
                "echo never ready >&2; sleep 60",
                "the runner was not ready in time; it said: never ready",
            ),
            (
                "printf '\\x01' >&3; sleep 60",
                "it gave no value; it ended so: the time limit was exceeded",
            ),
            // Whether it ends before its request comes or after is chance.
            ("printf '\\x01' >&3", "`example.code`"),
            ("printf '\\x01' >&3; cat", "it ended so: the program exited with code 0"),
            (
                "printf '\\x01' >&3; read -r _; echo why >&2; exit 7",
                "exited with code 7 before main returned; stderr said: why",
            ),
            (
                "printf '\\x01' >&3; read -r _; read -r n; printf 'x value 1\\n1' >&3",
                "without this run's nonce",
            ),
            ("printf '\\x01rubbish\\n' >&3; sleep 1", "ResultChannelError"),
            ("printf '\\x01' >&3; read -r _; kill -9 $$", "signal 9 (SIGKILL)"),
        ] {
            let place = Place::new();
            let folder = place.copy("bash");
            fs::write(folder.join("runner.sh"), spoiled)?;
            let started = Instant::now();
            let shown = place.ampoule(&["runtimes", "add", "bash"]);
            assert_eq!(shown.code, 2, "{spoiled}: {shown:?}");
            assert!(shown.stderr.contains(said), "{spoiled}: {shown:?}");
            assert_eq!(shown.stderr.matches("hint: ").count(), 1, "{spoiled}: {shown:?}");
            assert!(started.elapsed() < Duration::from_secs(20), "{spoiled}");
            assert!(!place.path("data").exists(), "{spoiled}");
        }
        Ok(())
    });
    suite.test("languages::examples_must_end_as_they_say", || {
        for (good, bad, said) in [
            ("failing = \"main() { cd /nowhere; }\"", "failing = \"main() { result 1; }\"", "`example.failing` of the manifest: it is to fail by its own doing; it ended so: main returned"),
            ("failing = \"main() { cd /nowhere; }\"", "failing = \"while :; do :; done\"", "it is to fail by its own doing; it ended so: the time limit"),
            ("endless = \"while :; do :; done\"", "endless = \"exit 1\"", "`example.endless` of the manifest: it is to go on until its time is up"),
            ("value = '{\"n\": 42}'", "value = '{\"n\": 43}'", "it returned `{\"n\": 42}` instead of `{\"n\": 43}`; it ended so: main returned; stdout said: adding to 41"),
        ] {
            let place = Place::new();
            let manifest = place.copy("bash").join("manifest.toml");
            let text = fs::read_to_string(&manifest)?;
            assert!(text.contains(good), "{good}");
            fs::write(&manifest, text.replace(good, bad))?;
            let shown = place.ampoule(&["runtimes", "add", "bash"]);
            assert_eq!(shown.code, 2, "{bad}: {shown:?}");
            assert!(shown.stderr.contains(said), "{bad}: {shown:?}");
            assert!(!place.path("data").exists(), "{bad}");
        }
        Ok(())
    });
    suite.test("languages::an_interpreter_that_is_missing_or_old_is_said", || {
        for (good, bad, said) in [
            ("[\"/usr/bin/bash\", \"bash\"]", "[\"/nowhere/bash\"]", "AMPOULE_BASH_BIN"),
            ("\"5.0\"", "\"99\"", "need 99 or newer"),
            ("[\"--version\"]", "[\"-c\", \"echo no\"]", "tells no version; hint:"),
            ("[\"--version\"]", "[\"-c\", \"sleep 600\"]", "it did not end within 10 s; hint:"),
            ("[\"--version\"]", "[\"-c\", \"yes\"]", "it says more than 64 KiB; hint:"),
        ] {
            let place = Place::new();
            let manifest = place.copy("bash").join("manifest.toml");
            let text = fs::read_to_string(&manifest)?;
            fs::write(&manifest, text.replacen(good, bad, 1))?;
            let shown = place.ampoule(&["runtimes", "add", "bash"]);
            assert_eq!(shown.code, 2, "{bad}: {shown:?}");
            assert!(shown.stderr.contains(said), "{bad}: {shown:?}");
            assert!(!place.path("data").exists(), "{bad}");
        }
        Ok(())
    });
    suite.test("languages::a_second_time_needs_to_be_asked_for", || {
        let place = Place::new();
        place.add("bash");
        let folder = place.copy("bash");
        let shown = place.ampoule(&["runtimes", "add", "bash"]);
        assert_eq!(shown.code, 2, "{shown:?}");
        assert!(shown.stderr.contains("`bash` is there already; hint: `--replace`"), "{shown:?}");
        fs::write(folder.join("runner.sh"), "exit 1")?;
        let shown = place.ampoule(&["runtimes", "add", "--replace", "bash"]);
        assert_eq!(shown.code, 2, "{shown:?}");
        let shown = place.run("x.sh", "main() { result 1; }", &[]);
        assert_eq!(shown.code, 0, "the one before is still there: {shown:?}");
        place.copy("bash");
        let shown = place.ampoule(&["runtimes", "add", "--replace", "bash"]);
        assert_eq!(shown.code, 0, "{shown:?}");
        assert_eq!(place.added(), ["bash"]);
        Ok(())
    });
    suite.test("languages::a_builtin_one_is_replaced_only_when_asked_and_comes_back", || {
        let place = Place::new();
        let manifest = place.copy("python").join("manifest.toml");
        let text = fs::read_to_string(&manifest)?;
        fs::write(&manifest, text.replace("[environment]", "[environment]\nHOUSE = 'ours'"))?;
        let shown = place.ampoule(&["runtimes", "add", "python"]);
        assert_eq!(shown.code, 2, "{shown:?}");
        assert!(shown.stderr.contains("`python` is part of ampoule; hint:"), "{shown:?}");
        let shown = place.ampoule(&["runtimes", "add", "--replace", "python"]);
        assert_eq!(shown.code, 0, "{shown:?}");
        assert!(shown.stdout.contains("hint: `ampoule runtimes install python`"), "{shown:?}");
        let code = "import os\ndef main(): return os.environ.get('HOUSE')";
        let shown = place.run("x.py", code, &[]);
        assert_eq!((shown.code, shown.stdout.as_str()), (0, "\"ours\"\n"), "{shown:?}");
        assert_eq!(place.ampoule(&["runtimes", "remove", "python"]).code, 0);
        let shown = place.run("x.py", code, &[]);
        assert_eq!((shown.code, shown.stdout.as_str()), (0, "null\n"), "{shown:?}");
        Ok(())
    });
    suite.test("languages::a_name_that_is_taken_is_refused_before_anything_runs", || {
        let place = Place::new();
        let folder = place.copy("bash");
        let text = fs::read_to_string(folder.join("manifest.toml"))?;
        fs::write(folder.join("manifest.toml"), text.replace("\"shell\"", "\"node\""))?;
        fs::write(folder.join("runner.sh"), "exit 1")?;
        let shown = place.ampoule(&["runtimes", "add", "bash"]);
        assert_eq!(shown.code, 2, "{shown:?}");
        assert!(shown.stderr.contains("`nodejs` and `bash` both answer to `node`"), "{shown:?}");
        assert!(!place.path("data").exists());
        Ok(())
    });
    suite.test("languages::a_folder_that_broke_later_stops_commands_and_is_listed", || {
        let place = Place::new();
        place.add("bash");
        let manifest = place.path("data/languages/bash/manifest.toml");
        let text = fs::read_to_string(&manifest)?;
        fs::write(&manifest, text.replace("runner = ", "runer = "))?;
        let line = 1 + text.lines().position(|line| line.starts_with("runner = ")).unwrap();
        let program = write("x.py", "def main(): return 1");
        for arguments in
            [vec!["run", program.to_str().unwrap()], vec!["serve", "--listen", "127.0.0.1:0"]]
        {
            let shown = place.ampoule(&arguments);
            assert_eq!(shown.code, 2, "{shown:?}");
            for part in [
                "data/languages/bash",
                &format!("line {line}"),
                "`runer`",
                "ampoule runtimes remove bash",
            ] {
                assert!(shown.stderr.contains(part), "{part}: {shown:?}");
            }
        }
        let shown = place.ampoule(&["runtimes", "list"]);
        assert_eq!(shown.code, 2, "{shown:?}");
        assert!(shown.stdout.contains("python\n  interpreter"), "{shown:?}");
        assert!(
            shown.stdout.contains("bash\n  folder")
                && shown.stdout.contains("unknown field `runer`"),
            "{shown:?}"
        );
        // The way out that is named: add it again, or remove it.
        let folder = Path::new(RUNTIMES).join("bash");
        let shown = place.ampoule(&["runtimes", "add", "--replace", folder.to_str().unwrap()]);
        assert_eq!(shown.code, 0, "{shown:?}");
        fs::write(&manifest, "rubbish")?;
        assert_eq!(place.ampoule(&["runtimes", "remove", "bash"]).code, 0);
        assert_eq!(done(place.command().arg("run").arg(&program)).code, 0);
        Ok(())
    });
    suite.test("languages::a_service_is_ready_when_every_example_gave_its_value", || {
        let place = Place::new();
        place.add("bash");
        let manifest = place.path("data/languages/bash/manifest.toml");
        let text = fs::read_to_string(&manifest)?;
        fs::write(&manifest, text.replace("value = '{\"n\": 42}'", "value = '{\"n\": 43}'"))?;
        let service = Service::start_unready(&mut place.command());
        let reason = json!([{"name": "bash", "reason": "it gave a wrong value"}]);
        eventually("the example is tried", || {
            let answer = service.get("/readyz");
            answer.is_ok_and(|(status, ready)| status == 503 && ready["not_ready"] == reason)
        })?;
        Ok(())
    });
    suite.test("languages::a_data_directory_that_cannot_be_written_is_said", || {
        let place = Place::new();
        fs::write(place.path("data"), "a file")?;
        let folder = Path::new(RUNTIMES).join("bash");
        let shown = place.ampoule(&["runtimes", "add", folder.to_str().unwrap()]);
        assert_eq!(shown.code, 2, "{shown:?}");
        assert!(
            shown.stderr.contains("AMPOULE_DATA_DIR") || shown.stderr.contains("cannot be read"),
            "{shown:?}"
        );
        Ok(())
    });
}
