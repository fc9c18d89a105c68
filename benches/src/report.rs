//! What was found, as tables for people and JSON for programs.

use std::{fmt::Write as _, fs, path::Path};

use serde::Serialize;
use serde_json::json;

use crate::{
    failure::{Doing, Result},
    statistics::Summary,
    targets::{RATIO, Target, target_of},
};

/// Many measurements of one thing.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) summary: Summary,
    /// What it is compared with: another row of the same case.
    pub(crate) baseline: Option<String>,
    pub(crate) ratio_of_medians: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) values: Vec<f64>,
}

/// One number that something is said about.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    pub(crate) target: Option<&'static Target>,
    pub(crate) met: Option<bool>,
}

/// What one case found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Findings {
    pub(crate) case: &'static str,
    pub(crate) rows: Vec<Row>,
    pub(crate) figures: Vec<Figure>,
    /// What one has to know beside.
    pub(crate) notes: Vec<String>,
    /// Why the case found less than it should.
    pub(crate) failure: Option<String>,
}

impl Findings {
    pub(crate) fn of(case: &'static str) -> Self {
        Self { case, rows: Vec::new(), figures: Vec::new(), notes: Vec::new(), failure: None }
    }

    /// Adds measurements; nothing if there are none.
    pub(crate) fn row(&mut self, name: impl Into<String>, unit: &'static str, values: Vec<f64>) {
        let Some(summary) = Summary::of(&values) else { return };
        let (baseline, ratio_of_medians) = (None, None);
        self.rows.push(Row {
            name: name.into(),
            unit,
            summary,
            baseline,
            ratio_of_medians,
            values,
        });
    }

    /// Adds measurements that are compared with an earlier row.
    pub(crate) fn compared(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        values: Vec<f64>,
        baseline: &str,
    ) {
        self.row(name, unit, values);
        let median = self.median_of(baseline);
        let Some(row) = self.rows.last_mut() else { return };
        row.ratio_of_medians = median.map(|median| row.summary.median / median);
        row.baseline = Some(baseline.to_owned());
    }

    /// Says the ratio of the last row as a figure.
    pub(crate) fn ratio_is_a_figure(&mut self) {
        if let Some(ratio) = self.rows.last().and_then(|row| row.ratio_of_medians) {
            self.figure(RATIO, ratio);
        }
    }

    /// Adds a figure, with its target if there is one.
    pub(crate) fn figure(&mut self, name: &'static str, value: f64) {
        let target = target_of(self.case, name);
        let met = target.map(|target| target.bound.is_met(value));
        self.figures.push(Figure { name, value, target, met });
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    pub(crate) fn median_of(&self, row: &str) -> Option<f64> {
        Some(self.summary_of(row)?.median)
    }

    pub(crate) fn summary_of(&self, row: &str) -> Option<Summary> {
        Some(self.rows.iter().find(|each| each.name == row)?.summary)
    }

    /// What was measured, for people.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("\n{}\n", self.case);
        if !self.rows.is_empty() {
            let heads = ["n", "min", "median", "p90", "p99"];
            let _ = write!(text, "  {:<34}", "");
            for head in heads {
                let _ = write!(text, "{head:>9}");
            }
            text.push_str("  unit  ratio of medians\n");
        }
        for row in &self.rows {
            let Summary { n, min, median, p90, p99, .. } = row.summary;
            let _ = write!(text, "  {:<34}{n:>9}", row.name);
            for value in [min, median, p90, p99] {
                let _ = write!(text, "{:>9}", number(value));
            }
            let _ = write!(text, "  {:<4}", row.unit);
            if let (Some(baseline), Some(ratio)) = (&row.baseline, row.ratio_of_medians) {
                let _ = write!(text, "  {ratio:.3} of `{baseline}`");
            }
            text.push('\n');
        }
        for figure in &self.figures {
            let _ = write!(text, "  {:<34}{:>9}", figure.name, number(figure.value));
            if let (Some(target), Some(met)) = (figure.target, figure.met) {
                let _ = write!(text, "  {} {}", target.bound.shown(), word(met));
            }
            text.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(text, "  - {note}");
        }
        if let Some(failure) = &self.failure {
            let _ = writeln!(text, "  FAILED: {failure}");
        }
        text
    }
}

fn word(met: bool) -> &'static str {
    if met { "met" } else { "NOT MET" }
}

/// A number with as many digits as say something.
fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1000.0 || value == 0.0 {
        format!("{value:.0}")
    } else if size >= 100.0 {
        format!("{value:.1}")
    } else if size >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}")
    }
}

/// The figures of all runs side by side, with what they should reach.
pub(crate) fn side_by_side(runs: &[Vec<Findings>]) -> String {
    let mut listed: Vec<(&'static str, &'static str)> = Vec::new();
    for findings in runs.iter().flatten() {
        for figure in &findings.figures {
            if !listed.contains(&(findings.case, figure.name)) {
                listed.push((findings.case, figure.name));
            }
        }
    }
    let mut text = format!("\n  {:<21}{:<28}", "case", "figure");
    for run in 1..=runs.len() {
        let _ = write!(text, "{:>9}", format!("run {run}"));
    }
    let _ = writeln!(text, "  {:<11}", "target");
    for (case, name) in listed {
        let of_run = |run: &Vec<Findings>| {
            let findings = run.iter().find(|findings| findings.case == case)?;
            findings.figures.iter().find(|figure| figure.name == name).cloned()
        };
        let figures: Vec<Option<Figure>> = runs.iter().map(of_run).collect();
        let _ = write!(text, "  {case:<21}{name:<28}");
        for figure in &figures {
            let shown = figure.as_ref().map_or("-".to_owned(), |figure| number(figure.value));
            let _ = write!(text, "{shown:>9}");
        }
        if let Some(target) = target_of(case, name) {
            let words: Vec<&str> =
                figures.iter().map(|f| f.as_ref().and_then(|f| f.met).map_or("-", word)).collect();
            let _ = write!(text, "  {:<11} {}", target.bound.shown(), words.join(", "));
        } else {
            text.push_str("  (reported)");
        }
        text.push('\n');
    }
    text
}

/// What the measurements were made on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpus: usize,
    pub(crate) kernel: String,
    pub(crate) architecture: String,
    pub(crate) load_before: f64,
    pub(crate) load_after: f64,
}

impl Machine {
    pub(crate) fn now() -> Self {
        let names = rustix::system::uname();
        let load = load();
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: names.release().to_string_lossy().into_owned(),
            architecture: names.machine().to_string_lossy().into_owned(),
            load_before: load,
            load_after: load,
        }
    }

    pub(crate) fn finish(&mut self) {
        self.load_after = load();
    }

    pub(crate) fn line(&self) -> String {
        let Self { cpus, kernel, architecture, load_before, load_after } = self;
        format!(
            "{cpus} cpus, {architecture}, kernel {kernel}, load {load_before:.2} before and \
             {load_after:.2} after"
        )
    }
}

/// The load of the last minute.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}

/// Writes everything, each single measurement too.
pub(crate) fn write_json(path: &Path, machine: &Machine, runs: &[Vec<Findings>]) -> Result<()> {
    let all = json!({ "machine": machine, "runs": runs });
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).doing("make the directory of the JSON file")?;
    }
    let text = serde_json::to_string(&all).doing("write JSON")?;
    fs::write(path, text + "\n").doing("write the JSON file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(ours: f64) -> Findings {
        let mut findings = Findings::of("python-hit");
        findings.row("bare", "ms", vec![10.0, 11.0, 12.0]);
        findings.compared("run", "ms", vec![ours; 3], "bare");
        findings.ratio_is_a_figure();
        findings.figure("unbound", 1234.5);
        findings.row("nothing", "ms", Vec::new());
        findings
    }

    #[test]
    fn a_row_is_compared_with_its_baseline_and_held_against_its_target() {
        let met = findings(1.1);
        assert_eq!((met.rows.len(), met.figures[0].met), (2, Some(true)));
        assert_eq!(met.figures[0].value, 0.1);
        assert_eq!(findings(2.0).figures[0].met, Some(false));
        assert_eq!(met.figures[1].met, None);
        let table = met.table();
        assert!(table.contains("0.100 of `bare`"), "{table}");
        assert!(table.contains("<= 0.1 met"), "{table}");
    }

    #[test]
    fn runs_stand_side_by_side() {
        let table = side_by_side(&[vec![findings(1.1)], vec![], vec![findings(2.2)]]);
        let line = table.lines().find(|line| line.contains(RATIO)).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            words,
            [
                "python-hit",
                "ratio",
                "of",
                "medians",
                "0.1000",
                "-",
                "0.2000",
                "<=",
                "0.1",
                "met,",
                "-,",
                "NOT",
                "MET"
            ]
        );
        assert!(table.contains("(reported)"), "{table}");
    }

    #[test]
    fn numbers_keep_the_digits_that_say_something() {
        assert_eq!(
            [0.0, 0.0213, 2.345, 234.56, 1234.5].map(number),
            ["0", "0.0213", "2.35", "234.6", "1234"]
        );
    }
}
