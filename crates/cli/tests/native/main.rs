//! The command and the service end to end, on the real native provider.

mod bad_input;
mod doctor;
mod interpreters;
mod killed;
mod language_page;
mod languages;
mod limits;
mod machines;
mod serving;
mod support;

use std::process::ExitCode;

use ampoule_testkit::Suite;
use serde_json::json;
use support::{HELLO, Service, ampoule, done, write};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.control("the_command_runs_both_languages", || {
        for (name, code) in HELLO {
            let file = write(name, code);
            let shown = done(ampoule().arg("run").arg(&file).args(["--args", r#"{"n": 41}"#]));
            assert_eq!(shown.code, 0, "{shown:?}");
            assert_eq!(shown.stdout, "hello 41\n{\"n\":42}\n");
        }
        Ok(())
    });
    suite.control("the_service_runs_both_languages", || {
        let service = Service::start();
        for (name, code) in HELLO {
            let language = if name.ends_with("py") { "python" } else { "nodejs" };
            let answer = service.run(language, code, &json!({"n": 41}));
            assert_eq!(answer["status"], "success", "{answer}");
            assert_eq!(
                answer["result"],
                json!({"present": true, "value": {"n": 42}, "type": "json"})
            );
            assert_eq!(answer["stdout"], "hello 41\n");
        }
        Ok(())
    });
    bad_input::add(&mut suite);
    doctor::add(&mut suite);
    interpreters::add(&mut suite);
    killed::add(&mut suite);
    language_page::add(&mut suite);
    languages::add(&mut suite);
    limits::add(&mut suite);
    machines::add(&mut suite);
    serving::add(&mut suite);
    suite.run(|| {
        machines::clear();
        support::nothing_is_left();
    })
}
