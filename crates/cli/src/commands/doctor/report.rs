//! The checks and how they are shown.

use std::fmt::Write as _;

use ampoule_core::{FenceProof, ForkProof};
use serde::Serialize;

use crate::exit::Failure;

/// The table fits this many columns.
const WIDTH: usize = 100;
/// Where the findings begin: two spaces, the mark, the name.
const INDENT: usize = 2 + 6 + 20;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    /// As it should be.
    Ok,
    /// A service works, and could work better.
    Warning,
    /// A service lacks this.
    Failed,
}

impl Status {
    fn mark(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warn",
            Self::Failed => "FAIL",
        }
    }

    fn colour(self) -> u8 {
        match self {
            Self::Ok => 32,
            Self::Warning => 33,
            Self::Failed => 31,
        }
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// What it belongs to.
    pub(super) section: &'static str,
    /// What was looked at.
    pub(super) name: String,
    /// How it ended.
    pub(super) status: Status,
    /// What was found.
    pub(super) detail: String,
    /// What to do about it.
    pub(super) fix: Option<String>,
}

impl Check {
    pub(super) fn ok(
        section: &'static str,
        name: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        let (name, detail) = (name.into(), detail.into());
        Self { section, name, status: Status::Ok, detail, fix: None }
    }

    pub(super) fn warning(
        section: &'static str,
        name: impl Into<String>,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let fix = Some(fix.into());
        Self { status: Status::Warning, fix, ..Self::ok(section, name, detail) }
    }

    pub(super) fn failed(
        section: &'static str,
        name: impl Into<String>,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { status: Status::Failed, ..Self::warning(section, name, detail, fix) }
    }
}

/// One meter that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct MeterRow {
    /// The limit.
    pub(super) limit: &'static str,
    /// Whether it held.
    pub(super) held: bool,
    /// Who stopped the probe.
    pub(super) by: &'static str,
    /// The rung of meters in force.
    pub(super) meters: &'static str,
    /// How long the probe ran.
    pub(super) wall_us: u64,
    /// What it used, where that is counted.
    pub(super) cpu_us: Option<u64>,
    pub(super) memory_peak: Option<u64>,
    pub(super) processes_peak: Option<u64>,
}

/// Everything that was looked at and tried.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    pub(super) checks: Vec<Check>,
    pub(super) probes: Vec<FenceProof>,
    pub(super) meters: Vec<MeterRow>,
    pub(super) forks: Vec<ForkProof>,
}

impl Report {
    /// Whether a service has everything that it needs.
    pub(super) fn is_ok(&self) -> bool {
        self.count(Status::Failed) == 0
    }

    fn count(&self, status: Status) -> usize {
        self.checks.iter().filter(|check| check.status == status).count()
    }

    /// One JSON object.
    pub(super) fn json(&self) -> Result<String, Failure> {
        #[derive(Serialize)]
        struct Shown<'a> {
            ok: bool,
            checks: &'a [Check],
            probes: &'a [FenceProof],
            meters: &'a [MeterRow],
            forks: &'a [ForkProof],
        }
        let shown = Shown {
            ok: self.is_ok(),
            checks: &self.checks,
            probes: &self.probes,
            meters: &self.meters,
            forks: &self.forks,
        };
        serde_json::to_string(&shown)
            .map(|text| text + "\n")
            .map_err(|error| Failure::platform(format!("failed to lay out JSON: {error}")))
    }

    /// A line per check, by section, and one line that sums up.
    pub(super) fn table(&self, coloured: bool) -> String {
        let mut text = String::new();
        let mut sections: Vec<&str> = Vec::new();
        for check in &self.checks {
            if !sections.contains(&check.section) {
                sections.push(check.section);
            }
        }
        for section in sections {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{section}");
            for check in self.checks.iter().filter(|check| check.section == section) {
                push_line(&mut text, check, coloured);
            }
        }
        let (failed, warnings) = (self.count(Status::Failed), self.count(Status::Warning));
        let sum = match failed {
            0 => "everything that a service needs is there".to_owned(),
            1 => "1 check failed".to_owned(),
            many => format!("{many} checks failed"),
        };
        let _ = match warnings {
            0 => writeln!(text, "{sum}"),
            1 => writeln!(text, "{sum}; 1 warning"),
            many => writeln!(text, "{sum}; {many} warnings"),
        };
        text
    }
}

fn push_line(text: &mut String, check: &Check, coloured: bool) {
    let mark = format!("{:<4}", check.status.mark());
    let mark = match (coloured, check.status.colour()) {
        (true, colour) => format!("\u{1b}[{colour}m{mark}\u{1b}[0m"),
        (false, _) => mark,
    };
    let _ = write!(text, "  {mark}  {:<18}  ", check.name);
    let mut told = check.detail.clone();
    if let Some(fix) = &check.fix {
        let _ = write!(told, "; fix: {fix}");
    }
    let mut column = INDENT;
    for (place, word) in told.split_whitespace().enumerate() {
        let width = word.chars().count();
        if place > 0 && column + 1 + width > WIDTH {
            let _ = write!(text, "\n{:INDENT$}", "");
            column = INDENT;
        } else if place > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += width;
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let checks = vec![
            Check::ok("kernel", "release", "6.1 x86_64"),
            Check::warning("machine", "swap", "swap is on", "turn it off"),
            Check::failed("kernel", "landlock", "word ".repeat(20).trim(), "boot another kernel"),
        ];
        Report { checks, ..Report::default() }
    }

    #[test]
    fn the_table_has_a_line_per_check_with_its_fix_and_fits() {
        let table = report().table(false);
        assert_eq!(
            table,
            "kernel\n  ok    release             6.1 x86_64\n  FAIL  landlock            word word word word word word word word word word word word word word\n                            word word word word word word; fix: boot another kernel\nmachine\n  warn  swap                swap is on; fix: turn it off\n1 check failed; 1 warning\n"
        );
        assert!(table.lines().all(|line| line.chars().count() <= WIDTH), "{table}");
    }

    #[test]
    fn colours_are_for_terminals() {
        assert!(report().table(true).contains("\u{1b}[31mFAIL\u{1b}[0m"));
        assert!(!report().table(false).contains('\u{1b}'));
    }

    #[test]
    fn a_warning_is_no_failure() {
        let mut report = report();
        assert!(!report.is_ok());
        report.checks.pop();
        assert!(report.is_ok());
    }
}
