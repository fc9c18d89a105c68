//! Where one run's time goes, read from the log.
//!
//! Every line of the log that has a field `stages_us="name=microseconds …"` counts, whoever writes
//! it; lines with the same message are one group.

use std::collections::BTreeMap;

use crate::statistics::Summary;

/// The stages that one message tells of.
#[derive(Debug, PartialEq)]
pub(crate) struct Group {
    /// Who says it: target and message.
    pub(crate) name: String,
    pub(crate) lines: usize,
    /// In the order in which they first appeared, with their microseconds.
    pub(crate) stages: Vec<(String, Vec<f64>)>,
}

impl Group {
    /// Each stage in a few numbers.
    pub(crate) fn summaries(&self) -> impl Iterator<Item = (&str, Summary)> {
        self.stages.iter().filter_map(|(name, values)| Some((name.as_str(), Summary::of(values)?)))
    }
}

/// Reads all groups of a log.
pub(crate) fn read(log: &str) -> Vec<Group> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for line in log.lines() {
        let Some((name, pairs)) = parse(line) else { continue };
        let group = groups.entry(name.clone()).or_insert_with(|| Group {
            name,
            lines: 0,
            stages: Vec::new(),
        });
        group.lines += 1;
        for (stage, value) in pairs {
            match group.stages.iter_mut().find(|(name, _)| name == stage) {
                Some((_, values)) => values.push(value),
                None => group.stages.push((stage.to_owned(), vec![value])),
            }
        }
    }
    groups.into_values().collect()
}

/// The message of a line and its pairs, if it has any.
fn parse(line: &str) -> Option<(String, Vec<(&str, f64)>)> {
    let (before, rest) = line.split_once("stages_us=")?;
    let text = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"')?.0,
        // Without quotes it is one pair.
        None => rest.split_whitespace().next()?,
    };
    let pairs: Vec<(&str, f64)> = text
        .split_whitespace()
        .filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            Some((name, value.parse().ok()?))
        })
        .collect();
    // After time and level, and without other fields.
    let words = before.split_whitespace().skip(2).filter(|word| !word.contains('='));
    Some((words.collect::<Vec<_>>().join(" "), pairs))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage<'a>(group: &'a Group, name: &str) -> Option<&'a [f64]> {
        group.stages.iter().find(|(each, _)| each == name).map(|(_, values)| values.as_slice())
    }

    const LOG: &str = "\
2026-11-22T02:57:24.1Z DEBUG ampoule_providers::native::stages: sandbox stages stages_us=\"cell=2139 worker=872\"
2026-11-22T02:57:24.2Z  INFO ampoule_server::http::access_log: request method=\"POST\" duration_us=28747
2026-11-22T02:57:24.3Z DEBUG ampoule_manager::execution: execution stages execution_id=1f stages_us=\"admit=3 take=10\" more=1
2026-11-22T02:57:24.4Z DEBUG ampoule_providers::native::stages: sandbox stages stages_us=\"cell=2141 worker=900 odd kill=x extra=7\"
2026-11-22T02:57:24.5Z DEBUG other: one stages_us=parse=4";

    #[test]
    fn lines_are_grouped_by_who_says_them() {
        let groups = read(LOG);
        let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "ampoule_manager::execution: execution stages",
                "ampoule_providers::native::stages: sandbox stages",
                "other: one",
            ]
        );
        let sandbox = &groups[1];
        assert_eq!(sandbox.lines, 2);
        assert_eq!(stage(sandbox, "cell"), Some(&[2139.0, 2141.0][..]));
        assert_eq!(stage(sandbox, "extra"), Some(&[7.0][..]));
        assert_eq!(stage(sandbox, "kill"), None);
        let told: Vec<(&str, f64)> =
            sandbox.summaries().map(|(name, summary)| (name, summary.median)).collect();
        assert_eq!(told, [("cell", 2140.0), ("worker", 886.0), ("extra", 7.0)]);
        assert_eq!(stage(&groups[0], "take"), Some(&[10.0][..]));
        assert_eq!(stage(&groups[2], "parse"), Some(&[4.0][..]));
    }

    #[test]
    fn other_lines_say_nothing() {
        assert_eq!(read("2026 INFO a: b\n\n stages_us=\"open"), []);
    }
}
