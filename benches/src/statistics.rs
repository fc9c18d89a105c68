//! What many measurements say in a few numbers.

use serde::Serialize;

/// A few numbers about many.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) n: usize,
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// Sums up, or gives nothing if there is nothing.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        Some(Self {
            n: sorted.len(),
            min,
            median: middle(&sorted),
            p90: rank(&sorted, 90),
            p99: rank(&sorted, 99),
            max,
        })
    }
}

/// The median; 0 of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    Summary::of(values).map_or(0.0, |summary| summary.median)
}

fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) }
}

/// The nearest rank: the smallest value that so many percent of all are not above. With fewer than
/// 100 values the 99th is the maximum.
fn rank(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted[rank.clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_the_nearest() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let summary = Summary::of(&values).unwrap();
        assert_eq!((summary.n, summary.min, summary.max), (200, 1.0, 200.0));
        assert_eq!((summary.median, summary.p90, summary.p99), (100.5, 180.0, 198.0));
    }

    #[test]
    fn of_few_values_the_last_percentile_is_the_maximum() {
        let summary = Summary::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((summary.median, summary.p90, summary.p99), (2.0, 3.0, 3.0));
        let one = Summary::of(&[7.0]).unwrap();
        assert_eq!((one.min, one.median, one.p99), (7.0, 7.0, 7.0));
    }

    #[test]
    fn of_nothing_nothing_is_said() {
        assert_eq!(Summary::of(&[]), None);
    }
}
