//! What the figures should reach: one place, each with the row that asks for it.

use serde::Serialize;

/// How a figure is held against a number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// At most so far from 1.
    Within(f64),
}

impl Bound {
    pub(crate) fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
            Self::Within(share) => (value - 1.0).abs() <= share,
        }
    }

    /// In a table.
    pub(crate) fn shown(self) -> String {
        match self {
            Self::AtMost(most) => format!("<= {most}"),
            Self::AtLeast(least) => format!(">= {least}"),
            Self::Within(share) => format!("1 +- {share}"),
        }
    }
}

/// What one figure of one case should reach.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Target {
    pub(crate) case: &'static str,
    pub(crate) figure: &'static str,
    pub(crate) bound: Bound,
    /// The row of the table in SPECIFICATION.md ("Latency").
    pub(crate) row: &'static str,
}

/// The median of the case over that of its baseline, measured in the same rounds.
pub(crate) const RATIO: &str = "ratio of medians";
/// Right answers in a second.
pub(crate) const PER_SECOND: &str = "runs a second";

const fn target(
    case: &'static str,
    figure: &'static str,
    bound: Bound,
    row: &'static str,
) -> Target {
    Target { case, figure, bound, row }
}

use Bound::{AtLeast, AtMost, Within};

const SOAK: &str = "20,000 runs and 5 s of quiet, against 200 runs";

/// All of them.
pub(crate) const TARGETS: [Target; 24] = [
    target("python-hit", RATIO, AtMost(0.10), "trivial Python, hit"),
    target("python-miss-cell", RATIO, AtMost(0.35), "a miss with a cell ready"),
    target("python-miss-bare", RATIO, AtMost(0.45), "a miss with nothing ready"),
    target("pandas-hit", RATIO, AtMost(0.025), "a small DataFrame, hit"),
    target("node-hit", RATIO, AtMost(0.06), "trivial Node.js, hit"),
    target("python-8-clients", PER_SECOND, AtLeast(700.0), "Python, 8 clients"),
    target("node-8-clients", "runs a second, forked", AtLeast(250.0), "Node.js, 8 clients, forked"),
    target("node-8-clients", "runs a second, exec'd", AtLeast(60.0), "Node.js, 8 clients, exec'd"),
    target("python-1000-at-once", "seconds to the last answer", AtMost(2.0), "1,000 runs at once"),
    target("python-2-clients-p99", "p99 over median", AtMost(0.35), "p99, 2 paced clients"),
    target("strict-hit", RATIO, AtMost(0.10), "strict, hit"),
    target("strict-8-clients", "rate over bare starts", AtLeast(0.8), "strict, sustained"),
    target("fork-bomb", "p99, ms beyond the limit", AtMost(100.0), "kill and reap of a fork bomb"),
    target("memory", "MB, python worker", AtMost(1.5), "private memory of a ready worker"),
    target("memory", "MB, node worker", AtMost(1.5), "private memory of a ready worker"),
    target("cpu-time", "inside over outside", Within(0.02), "cpu time of a computation"),
    target("soak", "descriptors, more", AtMost(0.0), SOAK),
    target("soak", "mounts, more", AtMost(0.0), SOAK),
    target("soak", "control groups, more", AtMost(0.0), SOAK),
    target("soak", "processes, more", AtMost(0.0), SOAK),
    target("soak", "resident memory, ours", AtMost(1.02), SOAK),
    target("soak", "resident memory, all", AtMost(1.02), SOAK),
    target("soak", "median, python", AtMost(1.10), SOAK),
    target("soak", "median, node", AtMost(1.10), SOAK),
];

/// The target of a figure, if it has one.
pub(crate) fn target_of(case: &str, figure: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.case == case && target.figure == figure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_at_their_edge() {
        assert!(AtMost(0.1).is_met(0.1) && !AtMost(0.1).is_met(0.101));
        assert!(AtLeast(700.0).is_met(700.0) && !AtLeast(700.0).is_met(699.9));
        assert!(Within(0.02).is_met(1.019) && Within(0.02).is_met(0.981));
        assert!(!Within(0.02).is_met(0.97) && !Within(0.02).is_met(f64::NAN));
    }

    #[test]
    fn a_figure_has_one_target() {
        for each in &TARGETS {
            let same = |other: &&Target| (other.case, other.figure) == (each.case, each.figure);
            assert_eq!(TARGETS.iter().filter(same).count(), 1, "{} {}", each.case, each.figure);
        }
    }

    #[test]
    fn every_row_is_in_the_specification_with_its_case() {
        let specification = include_str!("../../SPECIFICATION.md");
        for each in &TARGETS {
            let is_told = specification
                .lines()
                .any(|line| line.contains(&format!("`{}`", each.case)) && line.contains(each.row));
            assert!(is_told, "`{}` with \"{}\"", each.case, each.row);
        }
    }
}
