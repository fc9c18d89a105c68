//! The native provider against the real kernel: what programs do, and what is said of it.

mod containment;
mod forks;
mod lifecycle;
mod proofs;
mod rig;
mod verdicts;
mod zygotes;

use std::{process::ExitCode, sync::Arc};

use ampoule_core::Outcome;
use ampoule_testkit::Suite;
use rig::Rig;

fn main() -> ExitCode {
    // Launcher processes are this very program, started again.
    ampoule_jail::entry();
    let rig = Arc::new(Rig::start());
    let tried = Arc::new(proofs::rig());
    let zygotes = zygotes::Rigs::start();
    let mut suite = Suite::new();
    for (language, code) in [
        ("python", "def main():\n  print('hi')\n  return {'a': [1, None]}"),
        ("javascript", "function main() { console.log('hi'); return {a: [1, null]} }"),
    ] {
        let rig = Arc::clone(&rig);
        suite.control(format!("{language}_says_hello"), move || {
            let result = rig.run(language, code)?;
            assert_eq!(result.finished.outcome, Outcome::Succeeded, "{result:?}");
            let value = result.value.ok_or("no value")?;
            assert_eq!(value.get().replace(' ', ""), r#"{"a":[1,null]}"#);
            assert_eq!(result.stdout, "hi\n");
            Ok(())
        });
    }
    lifecycle::add_controls(&mut suite, &rig);
    proofs::add_control(&mut suite, &tried);
    for (heading, rig) in [("", &rig), ("cold_", &zygotes.cold)] {
        verdicts::add(&mut suite, &format!("{heading}verdict"), rig);
        containment::add(&mut suite, &format!("{heading}containment"), rig);
    }
    zygotes::add(&mut suite, &rig, &zygotes);
    forks::add(&mut suite, &rig);
    proofs::add(&mut suite, &tried);
    let last = Arc::clone(&rig);
    suite.run(move || {
        zygotes.stop();
        tried.stop();
        last.stop();
    })
}
