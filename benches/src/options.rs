//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::Parser;

use crate::{
    cases::{CASES, Case},
    failure::{Doing, Failure, Result},
    service::Setup,
};

/// Measures the service beside the bare interpreters.
#[derive(Debug, Parser)]
#[command(name = "ampoule-bench")]
pub(crate) struct Options {
    /// The binary to measure, in release
    #[arg(long, value_name = "FILE", default_value = "target/release/ampoule")]
    binary: PathBuf,
    /// Where `ampoule runtimes install` put the packages
    #[arg(long, value_name = "DIR", env = "AMPOULE_DATA_DIR", default_value = ".data")]
    data_dir: PathBuf,
    /// Where everything that was measured is written
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Only these cases, by their names
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    only: Vec<String>,
    /// Rounds of the short cases; the others take a share [default: 200, or 40 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: Option<u32>,
    /// A few minutes for all of it
    #[arg(long)]
    pub(crate) quick: bool,
    /// Measures everything so often, and shows the runs side by side
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub(crate) repeat: u8,
    /// What a paced client sleeps between calls, in milliseconds, so that the pool can refill
    #[arg(long, value_name = "MS", default_value_t = 5)]
    pause: u16,
    /// A further variable for the service, after those of a case
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    variables: Vec<(String, String)>,
    /// Shows the cases
    #[arg(long)]
    pub(crate) list: bool,
}

fn variable(text: &str) -> std::result::Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("NAME=VALUE is wanted"),
    }
}

impl Options {
    /// The cases that were asked for, in our order.
    pub(crate) fn cases(&self) -> Result<Vec<Case>> {
        let is_unknown = |name: &&String| !CASES.iter().any(|case| case.name == **name);
        if let Some(unknown) = self.only.iter().find(is_unknown) {
            let known: Vec<&str> = CASES.iter().map(|case| case.name).collect();
            return Err(Failure::Broken(format!(
                "there is no case `{unknown}`; hint: one of {}",
                known.join(", ")
            )));
        }
        let is_wanted =
            |case: &Case| self.only.is_empty() || self.only.iter().any(|name| name == case.name);
        Ok(CASES.into_iter().filter(is_wanted).collect())
    }

    pub(crate) fn rounds(&self) -> usize {
        let rounds = self.rounds.unwrap_or(if self.quick { 40 } else { 200 });
        usize::try_from(rounds).unwrap_or(usize::MAX)
    }

    pub(crate) fn pause(&self) -> Duration {
        Duration::from_millis(self.pause.into())
    }

    pub(crate) fn setup(&self) -> Result<Setup> {
        Ok(Setup {
            binary: self.binary.canonicalize().doing("find the binary")?,
            data_dir: self.data_dir.canonicalize().doing("find the data directory")?,
            variables: self.variables.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &[&str]) -> Options {
        Options::try_parse_from([&["ampoule-bench"], arguments].concat()).unwrap()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn only_known_cases_can_be_chosen() {
        assert_eq!(parse(&[]).cases().unwrap().len(), CASES.len());
        let chosen = parse(&["--only", "soak,python-hit"]).cases().unwrap();
        assert_eq!(chosen.iter().map(|case| case.name).collect::<Vec<_>>(), ["python-hit", "soak"]);
        let wrong = parse(&["--only", "python"]).cases().err().unwrap().to_string();
        assert!(wrong.contains("python-8-clients"), "{wrong}");
    }

    #[test]
    fn quick_has_fewer_rounds_unless_they_are_given() {
        assert_eq!((parse(&[]).rounds(), parse(&["--quick"]).rounds()), (200, 40));
        assert_eq!(parse(&["--quick", "--rounds", "7"]).rounds(), 7);
        assert_eq!(parse(&["--env", "A=b=c"]).variables, [("A".to_owned(), "b=c".to_owned())]);
    }
}
