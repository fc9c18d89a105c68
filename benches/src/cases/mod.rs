//! What is measured, a file for each kind of measuring.

mod clients;
mod command;
mod cpu_time;
mod fork_bomb;
mod memory;
mod paced;
mod refill;
mod soak;
mod stages;
mod storm;
mod tail;

use std::{thread, time::Duration};

use crate::{
    failure::Result,
    report::Findings,
    service::{Interpreters, Service, Setup},
};

/// What every case is given.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) setup: Setup,
    pub(crate) interpreters: Interpreters,
    /// Rounds of a case whose rounds are short; others take a share of it.
    pub(crate) rounds: usize,
    /// What a paced client sleeps between calls.
    pub(crate) pause: Duration,
    pub(crate) quick: bool,
}

impl Context {
    /// Starts the service as a case needs it.
    pub(crate) fn service(&self, variables: &[(&str, &str)]) -> Result<Service> {
        Service::start(&self.setup, variables)
    }

    /// A share of the rounds, and no fewer than so many.
    pub(crate) fn share(&self, divisor: usize, least: usize) -> usize {
        (self.rounds / divisor).max(least)
    }

    /// One number for a whole measurement, another for a quick one.
    pub(crate) fn either<T>(&self, whole: T, quick: T) -> T {
        if self.quick { quick } else { whole }
    }

    pub(crate) fn rest(&self, times: u32) {
        thread::sleep(self.pause * times);
    }
}

/// Something that is measured.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// One line for `--list`.
    pub(crate) about: &'static str,
    run: fn(&Context, &mut Findings) -> Result<()>,
}

impl Case {
    /// Measures. What was found before a failure is kept.
    pub(crate) fn run(&self, context: &Context) -> (Findings, Result<()>) {
        let mut findings = Findings::of(self.name);
        let done = (self.run)(context, &mut findings);
        findings.failure = done.as_ref().err().map(ToString::to_string);
        (findings, done)
    }
}

const fn case(
    name: &'static str,
    about: &'static str,
    run: fn(&Context, &mut Findings) -> Result<()>,
) -> Case {
    Case { name, about, run }
}

/// All cases, in the order in which they are run.
pub(crate) const CASES: [Case; 20] = [
    case("python-hit", "trivial Python from a ready worker, paced", paced::python_hit),
    case("python-miss-cell", "trivial Python, a cell ready, paced", paced::python_miss_cell),
    case("python-miss-bare", "trivial Python, nothing ready, paced", paced::python_miss_bare),
    case("pandas-hit", "a small DataFrame from a ready worker, paced", paced::pandas_hit),
    case("node-hit", "trivial Node.js from a ready worker, paced", paced::node_hit),
    case(
        "strict-hit",
        "trivial Python in an interpreter of its own exec, paced",
        paced::strict_hit,
    ),
    case("python-2-clients-p99", "the tail with two paced clients", tail::two_clients),
    case("python-8-clients", "Python a second, 8 clients without pause", clients::python),
    case("node-8-clients", "Node.js a second, 8 clients without pause", clients::node),
    case("strict-8-clients", "strict Python a second, beside bare starts", clients::strict),
    case("python-1000-at-once", "1,000 requests written at once", storm::thousand),
    case("refill-16", "a drained pool of 16 full again, and what that costs", refill::sixteen),
    case("fork-bomb", "from the limit of a fork bomb to its answer", fork_bomb::bomb),
    case("memory", "memory of ready workers, and the kernel's for them", memory::workers),
    case("cpu-time", "cpu time of a computation, inside and outside", cpu_time::pairs),
    case("soak", "what 20,000 runs leave behind", soak::soak),
    case("stages-python", "where the time of a Python run goes", stages::python),
    case("stages-node", "where the time of a Node.js run goes", stages::node),
    case("command-python", "`ampoule run` of a Python script", command::python),
    case("command-node", "`ampoule run` of a Node.js script", command::node),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::TARGETS;

    #[test]
    fn every_target_has_its_case() {
        for target in &TARGETS {
            assert!(CASES.iter().any(|case| case.name == target.case), "{}", target.case);
        }
    }

    #[test]
    fn the_page_tells_of_every_case() {
        let page = include_str!("../../../docs/benchmarks.md");
        for case in CASES {
            assert!(page.contains(&format!("`{}`", case.name)), "{}", case.name);
        }
    }
}
