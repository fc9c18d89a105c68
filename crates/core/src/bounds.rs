//! What a request may ask for at most, as the operator decides.

use std::{fmt, time::Duration};

use crate::{
    Limits, NetworkPolicy, Profile, SandboxSpec, format_bytes, format_cpus, format_duration,
};

/// The least CPU bandwidth that the kernel can hold a run to, in thousandths of a CPU.
const MIN_MILLICPUS: u32 = 10;

/// The most that a request may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Wall clock.
    pub wall: Duration,
    /// Memory of the whole process tree, in bytes.
    pub memory: u64,
    /// CPU time of the whole process tree, where a request bounds it; none bounds nothing.
    pub cpu: Option<Duration>,
    /// CPU bandwidth in thousandths of a CPU.
    pub millicpus: u32,
    /// Processes and threads alive at once.
    pub processes: u32,
    /// Bytes of stdout and stderr together that are kept.
    pub output: u64,
    /// Bytes of the working directory.
    pub disk: u64,
    /// The widest network policy.
    pub network: NetworkPolicy,
    /// The least strict profile.
    pub profile: Profile,
}

impl Default for Bounds {
    fn default() -> Self {
        Self::of(&Limits::default(), NetworkPolicy::None, Profile::Fast)
    }
}

/// Something that was asked for and is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// What it is called in a request and in the configuration.
    pub field: &'static str,
    /// What was asked for.
    pub asked: String,
    /// How the allowed is meant: `at most`, `at least`, `more than`, `only`.
    pub rule: &'static str,
    /// What is allowed.
    pub allowed: String,
    /// Why it is so, with the fix, where that is known.
    pub why: Option<String>,
}

impl fmt::Display for Excess {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, asked, rule, allowed, why } = self;
        write!(formatter, "`{field}` is {asked}, and {rule} {allowed} is allowed")?;
        match why {
            Some(why) => write!(formatter, "; {why}"),
            None => Ok(()),
        }
    }
}

impl Bounds {
    /// What is given to a request that asks for nothing, and no more.
    pub fn of(limits: &Limits, network: NetworkPolicy, profile: Profile) -> Self {
        Self {
            wall: limits.wall,
            memory: limits.memory,
            cpu: limits.cpu,
            millicpus: limits.millicpus,
            processes: limits.processes,
            output: limits.output,
            disk: limits.disk,
            network,
            profile,
        }
    }

    /// Everything that `spec` asks for and that is outside of these bounds.
    pub fn excesses(&self, spec: &SandboxSpec) -> Vec<Excess> {
        let (limits, network) = (&spec.limits, spec.network);
        let mut found = Vec::new();
        let mut at_most = |field, is_within: bool, said: &dyn Fn() -> (String, String)| {
            // Nearly every request is within: only what is not is put into words.
            if !is_within {
                let (asked, allowed) = said();
                found.push(Excess { field, asked, rule: "at most", allowed, why: None });
            }
        };
        at_most("timeout", limits.wall <= self.wall, &|| {
            (format_duration(limits.wall), format_duration(self.wall))
        });
        at_most("memory", limits.memory <= self.memory, &|| {
            (format_bytes(limits.memory), format_bytes(self.memory))
        });
        if let (Some(cpu), Some(most)) = (limits.cpu, self.cpu) {
            at_most("cpu_time", cpu <= most, &|| (format_duration(cpu), format_duration(most)));
        }
        at_most("cpus", limits.millicpus <= self.millicpus, &|| {
            (format_cpus(limits.millicpus), format_cpus(self.millicpus))
        });
        at_most("processes", limits.processes <= self.processes, &|| {
            (limits.processes.to_string(), self.processes.to_string())
        });
        at_most("output", limits.output <= self.output, &|| {
            (format_bytes(limits.output), format_bytes(self.output))
        });
        at_most("disk", limits.disk <= self.disk, &|| {
            (format_bytes(limits.disk), format_bytes(self.disk))
        });
        at_most("network", network <= self.network, &|| {
            (network.as_str().to_owned(), self.network.as_str().to_owned())
        });
        if spec.profile < self.profile {
            let (asked, allowed) = (spec.profile.as_str(), self.profile.as_str());
            let (asked, allowed) = (asked.to_owned(), allowed.to_owned());
            found.push(Excess { field: "profile", asked, rule: "only", allowed, why: None });
        }
        found.extend(below_the_least(limits));
        found
    }
}

/// Limits under which no program could run at all, whatever the operator allows.
fn below_the_least(limits: &Limits) -> Vec<Excess> {
    let mut found = Vec::new();
    let mut refuse = |field, asked: String, rule, allowed: &str| {
        found.push(Excess { field, asked, rule, allowed: allowed.to_owned(), why: None });
    };
    if limits.wall.is_zero() {
        refuse("timeout", "0s".to_owned(), "more than", "0s");
    }
    if limits.cpu.is_some_and(|cpu| cpu.is_zero()) {
        refuse("cpu_time", "0s".to_owned(), "more than", "0s");
    }
    if limits.millicpus < MIN_MILLICPUS {
        refuse("cpus", format_cpus(limits.millicpus), "at least", &format_cpus(MIN_MILLICPUS));
    }
    if limits.processes == 0 {
        refuse("processes", "0".to_owned(), "at least", "1");
    }
    // A file system of size zero has no limit at all.
    if limits.disk == 0 {
        refuse("disk", "0".to_owned(), "more than", "0");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(limits: Limits, network: NetworkPolicy) -> SandboxSpec {
        SandboxSpec { limits, network, ..SandboxSpec::of(crate::Language::new("python")) }
    }

    fn told(limits: Limits, network: NetworkPolicy) -> Vec<String> {
        let found = Bounds::default().excesses(&spec(limits, network));
        found.iter().map(Excess::to_string).collect()
    }

    #[test]
    fn where_strict_is_the_least_nothing_less_can_be_asked_for() {
        let mut asked = spec(Limits::default(), NetworkPolicy::None);
        let bounds = Bounds { profile: Profile::Strict, ..Bounds::default() };
        let told = bounds.excesses(&asked)[0].to_string();
        assert_eq!(told, "`profile` is fast, and only strict is allowed");
        asked.profile = Profile::Strict;
        assert_eq!(bounds.excesses(&asked), []);
        assert_eq!(Bounds::default().excesses(&asked), []);
    }

    #[test]
    fn the_defaults_are_within_the_default_bounds() {
        assert_eq!(told(Limits::default(), NetworkPolicy::None), [""; 0]);
    }

    #[test]
    fn cpu_time_is_bounded_where_there_is_a_limit_of_it() {
        let asked =
            |seconds| Limits { cpu: Some(Duration::from_secs(seconds)), ..Limits::default() };
        assert_eq!(told(asked(5400), NetworkPolicy::None), [""; 0]);
        let bounds = Bounds::of(&asked(30), NetworkPolicy::None, Profile::Fast);
        assert_eq!(bounds.excesses(&spec(asked(30), NetworkPolicy::None)), []);
        assert_eq!(
            bounds.excesses(&spec(asked(31), NetworkPolicy::None))[0].to_string(),
            "`cpu_time` is 31s, and at most 30s is allowed"
        );
    }

    #[test]
    fn everything_beyond_the_bounds_is_told_at_once() {
        let limits = Limits {
            wall: Duration::from_secs(11),
            memory: 257 << 20,
            millicpus: 1500,
            processes: 65,
            output: 2 << 20,
            disk: 1 << 30,
            ..Limits::default()
        };
        assert_eq!(
            told(limits, NetworkPolicy::Open),
            [
                "`timeout` is 11s, and at most 10s is allowed",
                "`memory` is 257m, and at most 256m is allowed",
                "`cpus` is 1.5, and at most 1 is allowed",
                "`processes` is 65, and at most 64 is allowed",
                "`output` is 2m, and at most 1m is allowed",
                "`disk` is 1g, and at most 100m is allowed",
                "`network` is open, and at most none is allowed",
            ]
        );
    }

    #[test]
    fn what_no_program_could_run_under_is_told() {
        let limits = Limits {
            wall: Duration::ZERO,
            cpu: Some(Duration::ZERO),
            millicpus: 9,
            processes: 0,
            disk: 0,
            ..Limits::default()
        };
        assert_eq!(
            told(limits, NetworkPolicy::None),
            [
                "`timeout` is 0s, and more than 0s is allowed",
                "`cpu_time` is 0s, and more than 0s is allowed",
                "`cpus` is 0.009, and at least 0.01 is allowed",
                "`processes` is 0, and at least 1 is allowed",
                "`disk` is 0, and more than 0 is allowed",
            ]
        );
    }
}
