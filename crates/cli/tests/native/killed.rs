//! Whoever is killed, whenever: no process, no mount, no control group is left.

use std::{thread, time::Duration};

use ampoule_testkit::{
    Failure, Suite, children_of, eventually, is_gone, processes_with, unique_word,
};
use rustix::process::Signal;
use serde_json::json;

use crate::support::{HELLO, Service, ampoule, answer, done, kill};

/// A program that has started a child with `word` in its arguments, and sleeps.
fn sleeper(word: &str) -> String {
    format!(
        "import subprocess, sys, time\ndef main():\n  subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', '{word}'], start_new_session=True)\n  time.sleep(60)"
    )
}

fn no_leaks() -> bool {
    done(ampoule().args(["doctor", "--leaks"])).code == 0
}

/// The whole family of a service: manager, keeper, launcher.
fn family(service: &Service) -> Vec<u32> {
    let keeper = service.keeper();
    [vec![service.child.id(), keeper], children_of(keeper)].concat()
}

fn everything_is_gone(word: &str, family: &[u32]) -> Result<(), Failure> {
    eventually("the programs are gone", || processes_with(word).is_empty())?;
    eventually("the family is gone", || family.iter().copied().all(is_gone))?;
    eventually("nothing leaks", no_leaks)
}

pub(crate) fn add(suite: &mut Suite) {
    suite.test("killed::the_manager_takes_everything_along", || {
        let word = unique_word();
        let service = Service::start();
        let _streams: Vec<_> = (0..2).map(|_| service.start_run(&sleeper(&word))).collect();
        eventually("both children run", || processes_with(&word).len() == 2)?;
        let family = family(&service);
        kill(service.child.id(), Signal::KILL);
        everything_is_gone(&word, &family)
    });
    suite.test("killed::the_launcher_is_replaced_and_the_run_answered", || {
        let word = unique_word();
        let service = Service::start();
        let stream = service.start_run(&sleeper(&word));
        eventually("the child runs", || !processes_with(&word).is_empty())?;
        kill(service.launcher().ok_or("no launcher")?, Signal::KILL);
        let said = answer(stream).ok_or("no answer")?;
        assert_eq!(said["status"], "program_runner_error", "{said}");
        assert_eq!(processes_with(&word), Vec::<String>::new());
        let said = service.run("python", HELLO[0].1, &json!({"n": 1}));
        assert_eq!(said["status"], "success", "{said}");
        eventually("nothing leaks", no_leaks)?;
        assert_eq!(service.stop(), Some(0));
        Ok(())
    });
    suite.test("killed::the_launcher_takes_its_stock_along_and_no_request", || {
        let service = Service::start();
        for _ in 0..3 {
            let launcher = service.launcher().ok_or("no launcher")?;
            // Its zygotes, its spare cells, and sandboxes that are ready.
            eventually("there is a stock", || children_of(launcher).len() >= 8)?;
            kill(launcher, Signal::KILL);
            // Before that, a program may have begun.
            eventually("it is gone, and what it had", || is_gone(launcher))?;
            for _ in 0..4 {
                let said = service.run("python", HELLO[0].1, &json!({"n": 1}));
                assert_eq!(said["status"], "success", "{said}");
            }
            let next = || service.launcher().is_some_and(|next| next != launcher);
            eventually("there is another launcher", next)?;
        }
        assert_eq!(service.stop(), Some(0));
        eventually("nothing leaks", no_leaks)
    });
    suite.test("killed::the_keeper_takes_everything_along_and_its_groups_are_swept", || {
        let word = unique_word();
        let mut service = Service::start();
        let _stream = service.start_run(&sleeper(&word));
        eventually("the child runs", || !processes_with(&word).is_empty())?;
        let keeper = service.keeper();
        let launcher = children_of(keeper);
        kill(keeper, Signal::KILL);
        eventually("the programs are gone", || processes_with(&word).is_empty())?;
        eventually("the launcher is gone", || launcher.iter().copied().all(is_gone))?;
        // Nobody is left who could build a sandbox: whoever watches over the service must see it.
        let mut ended = None;
        eventually("the service ends", || {
            ended = service.child.try_wait().ok().flatten();
            ended.is_some()
        })?;
        assert_eq!(ended.and_then(|status| status.code()), Some(5));
        drop(service);
        // The next keeper removes the empty groups that nobody was left to remove.
        drop(Service::start());
        eventually("nothing leaks", no_leaks)
    });
    for (who, pick) in [
        ("manager", (|service| Some(service.child.id())) as fn(&Service) -> Option<u32>),
        ("launcher", Service::launcher),
    ] {
        suite.test(format!("killed::the_{who}_at_any_moment"), move || {
            // Moments from the first process of a cell to the end of a run and the removal of its
            // group, many times over.
            for moment in 0..12 {
                let word = unique_word();
                let service = Service::start();
                let family = family(&service);
                let streams: Vec<_> = (0..4).map(|n| {
                    let code = format!("import subprocess, sys\ndef main():\n  subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', '{word}'])\n  return {n}");
                    service.start_run(&code)
                }).collect();
                thread::sleep(Duration::from_micros(moment * 3_700));
                kill(pick(&service).ok_or("nobody to kill")?, Signal::KILL);
                for stream in streams {
                    let said = answer(stream);
                    // With the manager the connection goes; without, everyone is answered.
                    assert!(said.is_some() || who == "manager", "no answer at moment {moment}");
                    if let Some(said) = said {
                        let status = said["status"].as_str().unwrap_or_default();
                        assert!(matches!(status, "success" | "program_runner_error"), "{said}");
                    }
                }
                drop(service);
                everything_is_gone(&word, &family)?;
            }
            Ok(())
        });
    }
}
