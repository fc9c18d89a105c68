//! The service as its clients meet it.

use std::{fs, os::unix::fs::MetadataExt as _, thread, time::Duration};

use ampoule_testkit::{Suite, eventually, processes_with, unique_word};
use rustix::process::Signal;
use serde_json::json;

use crate::support::{HELLO, Service, ampoule, answer, done, kill, write};

/// The host id of the process that has `word` in its arguments.
fn owner_of(word: &str) -> Option<u32> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let arguments = fs::read(entry.path().join("cmdline")).ok()?;
        let found = String::from_utf8_lossy(&arguments).contains(word);
        found.then(|| fs::metadata(entry.path()).ok().map(|data| data.uid()))?
    })
}

pub(crate) fn add(suite: &mut Suite) {
    suite.test("serving::a_client_that_goes_away_cancels_its_run", || {
        let word = unique_word();
        let service = Service::start();
        let stream = service.start_run(&format!("import subprocess, sys, time\ndef main():\n  subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', '{word}'])\n  time.sleep(60)"));
        eventually("the child runs", || !processes_with(&word).is_empty())?;
        drop(stream);
        eventually("the run is gone", || processes_with(&word).is_empty())
    });
    suite.test("serving::healthz_answers_at_once_under_full_load", || {
        let service = Service::start_with(ampoule().env("SANDBOX_EXECUTOR_MANAGER_POOL_SIZE", "2"));
        let busy: Vec<_> =
            (0..8).map(|_| service.start_run("def main():\n  while True: pass")).collect();
        for _ in 0..20 {
            assert_eq!(service.get("/healthz")?, (200, json!({"status": "ok"})));
            assert_eq!(service.get("/")?, (200, json!({"status": "ok"})));
        }
        drop(busy);
        Ok(())
    });
    suite.test("serving::sigterm_lets_a_run_finish", || {
        let service = Service::start();
        let stream = service.start_run("import time\ndef main():\n  time.sleep(1)\n  return 7");
        thread::sleep(Duration::from_millis(300));
        kill(service.child.id(), Signal::TERM);
        let said = answer(stream).ok_or("no answer")?;
        assert_eq!(said["result"]["value"], 7, "{said}");
        Ok(())
    });
    suite.test("serving::sigterm_stops_what_outlasts_the_grace", || {
        let word = unique_word();
        let service = Service::start_with(ampoule().env("SANDBOX_TIMEOUT", "60s"));
        let _stream = service.start_run(&format!("import subprocess, sys, time\ndef main():\n  subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', '{word}'])\n  time.sleep(60)"));
        eventually("the child runs", || !processes_with(&word).is_empty())?;
        assert_eq!(service.stop(), Some(0));
        assert_eq!(processes_with(&word), Vec::<String>::new());
        Ok(())
    });
    suite.test("serving::the_manager_is_not_root_and_holds_no_capability", || {
        let service = Service::start();
        let status = fs::read_to_string(format!("/proc/{}/status", service.child.id()))?;
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        if rustix::process::geteuid().is_root() {
            assert!(!field("Uid:").split_whitespace().any(|id| id == "0"), "{status}");
        }
        assert_eq!(field("CapEff:"), "0000000000000000");
        Ok(())
    });
    suite.test("serving::a_program_sees_nothing_of_the_manager", || {
        let service = Service::start_with(ampoule().env("AMPOULE_CANARY", "SBXCANARY"));
        let code = "import os\ndef main():\n  found = []\n  for base in ('/proc', '/workspace', '/tmp', '/etc', '/dev', '/opt'):\n    for d, ds, fs in os.walk(base):\n      for f in fs:\n        try: text = os.read(os.open(os.path.join(d, f), os.O_RDONLY | os.O_NONBLOCK), 1 << 16)\n        except OSError: continue\n        if b'SBX' + b'CANARY' in text: found.append(d + '/' + f)\n  return [found, sorted(os.environ)]";
        let said = service.run("python", code, &json!({}));
        assert_eq!(said["result"]["value"][0], json!([]), "{said}");
        let names = said["result"]["value"][1].to_string();
        assert!(!names.contains("AMPOULE") && names.contains("MPLBACKEND"), "{names}");
        Ok(())
    });
    suite.test("serving::logs_hold_nothing_of_the_user", || {
        let service = Service::start();
        let code = "import sys\ndef main(word):\n  print('wordout')\n  print('worderr', file=sys.stderr)\n  open('artifacts/wordfile.csv', 'w').write('wordcontent')\n  raise ValueError('wordfailed' + word)";
        service.run("python", code, &json!({"word": "wordargument"}));
        service.run("python", "def main(:\n  wordsyntax", &json!({}));
        eventually("both are logged", || service.log().matches("execution finished").count() >= 4)?;
        assert!(!service.log().contains("word"), "{}", service.log());
        Ok(())
    });
    suite.test("serving::a_run_finds_nothing_of_the_one_before", || {
        let service = Service::start();
        for round in 0..3 {
            for place in ["/tmp/left", "/workspace/left", "/dev/shm/left"] {
                let code = format!("import os\ndef main():\n  seen = os.path.exists('{place}')\n  open('{place}', 'w').write('x')\n  return seen");
                let said = service.run("python", code, &json!({}));
                assert_eq!(said["result"]["value"], false, "{round} {said}");
            }
        }
        Ok(())
    });
    suite.test("serving::two_managers_share_no_host_id", || {
        let ids = |service: &Service| {
            let word = unique_word();
            let code = format!("import subprocess, sys, time\ndef main():\n  subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)', '{word}'])");
            let stream = service.start_run(&code);
            let mut owner = None;
            eventually("the child runs", || {
                owner = owner_of(&word);
                owner.is_some()
            })
            .unwrap();
            drop(stream);
            owner
        };
        let (one, other) = (Service::start(), Service::start());
        let (one, other) = (ids(&one), ids(&other));
        if rustix::process::geteuid().is_root() {
            assert_ne!(one, other);
        }
        Ok(())
    });
    suite.test("serving::low_limits_above_us_refuse_nothing", || {
        let file = write("x.py", HELLO[0].1);
        let script = format!(
            "ulimit -l 32 -i 100 -n 4096 -s 4096; exec '{}' run '{}' --args '{{\"n\": 1}}'",
            env!("CARGO_BIN_EXE_ampoule"),
            file.display()
        );
        let shown = done(std::process::Command::new("bash").args(["-c", &script]));
        assert_eq!((shown.code, shown.stdout.as_str()), (0, "hello 1\n{\"n\":2}\n"), "{shown:?}");
        Ok(())
    });
    suite.test("serving::signals_to_the_keeper_do_nothing", || {
        let service = Service::start();
        for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
            kill(service.keeper(), signal);
            kill(service.launcher().ok_or("no launcher")?, signal);
        }
        let said = service.run("python", HELLO[0].1, &json!({"n": 1}));
        assert_eq!(said["status"], "success", "{said}");
        Ok(())
    });
    suite.test("serving::a_second_signal_does_not_wait_for_the_grace", || {
        let word = unique_word();
        let service = Service::start_with(ampoule().env("SANDBOX_TIMEOUT", "60s"));
        let _stream = service.start_run(&format!("import subprocess, sys\ndef main():\n  subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)', '{word}'])"));
        eventually("the child runs", || !processes_with(&word).is_empty())?;
        kill(service.child.id(), Signal::TERM);
        eventually("it stops listening", || service.get("/healthz").is_err())?;
        kill(service.child.id(), Signal::TERM);
        eventually("it hurries", || service.log().contains("asked again"))?;
        assert_eq!(service.stop(), Some(0));
        assert_eq!(processes_with(&word), Vec::<String>::new());
        Ok(())
    });
}
