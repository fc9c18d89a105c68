//! Measures the service beside the bare interpreters: `make bench`.
//!
//! ```text
//! main ─ options   what to measure
//!      ├ cases     a file for each kind of measuring; each starts the service as it needs it
//!      │   ├ service, client, program, pool    the service, one connection, what is run and checked
//!      │   ├ bare                              the bare interpreters
//!      │   └ processes, stages                 what /proc and the log say
//!      └ report    tables and JSON; targets    what the figures should reach
//! ```
//!
//! A missed target is no failure: machines differ, and what must hold is in the tests. A wrong answer is.

mod bare;
mod cases;
mod client;
mod failure;
mod options;
mod pool;
mod processes;
mod program;
mod report;
mod service;
mod stages;
mod statistics;
mod targets;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    cases::{CASES, Case, Context},
    failure::Failure,
    options::Options,
    report::{Findings, Machine},
    service::Interpreters,
};

/// An answer was wrong.
const WRONG: u8 = 1;
/// Something could not be measured.
const BROKEN: u8 = 2;

fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        for case in CASES {
            say(&format!("{:<22}{}", case.name, case.about));
        }
        return ExitCode::SUCCESS;
    }
    match measure(&options) {
        Ok(code) => code,
        Err(failure) => {
            say(&format!("error: {failure}"));
            ExitCode::from(BROKEN)
        }
    }
}

fn measure(options: &Options) -> failure::Result<ExitCode> {
    raise_descriptors();
    let chosen = options.cases()?;
    let setup = options.setup()?;
    let context = Context {
        interpreters: Interpreters::of(&setup)?,
        setup,
        rounds: options.rounds(),
        pause: options.pause(),
        quick: options.quick,
    };
    let mut machine = Machine::now();
    let (mut runs, mut code) = (Vec::new(), 0);
    for run in 1..=options.repeat {
        if options.repeat > 1 {
            say(&format!("\n=== run {run} of {}", options.repeat));
        }
        let mut all = Vec::new();
        for case in &chosen {
            let (findings, failed) = one(case, &context);
            // A wrong answer outweighs what could not be measured.
            code = match (code, failed) {
                (WRONG, _) | (_, Some(Failure::Wrong(_))) => WRONG,
                (_, Some(Failure::Broken(_))) => BROKEN,
                (code, None) => code,
            };
            all.push(findings);
        }
        runs.push(all);
    }
    machine.finish();
    say(&report::side_by_side(&runs));
    say(&machine.line());
    say("with fewer than 100 values p99 is the maximum");
    if let Some(path) = &options.json {
        report::write_json(path, &machine, &runs)?;
        say(&format!("written to {}", path.display()));
    }
    Ok(ExitCode::from(code))
}

fn one(case: &Case, context: &Context) -> (Findings, Option<Failure>) {
    let (findings, done) = case.run(context);
    say(findings.table().trim_end());
    (findings, done.err())
}

/// A thousand connections need as many descriptors, here and in the service, which inherits it.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // As it was, then; opening them says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Says a line; where nobody reads there is nobody to tell.
fn say(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}
