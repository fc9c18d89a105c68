//! The gate: capability and limits, checked in one place before anything is built.
//!
//! What does not fit is refused with the field, what was asked and what is allowed. Nothing is
//! clamped quietly: a caller who asks for ten minutes and gets one would blame the program.

use ampoule_core::{Capabilities, Error, ErrorKind, Result, SandboxSpec};

const OPERATION: &str = "create a sandbox";

/// Says whether a provider with `capabilities` can build what `spec` asks for.
///
/// - An unknown language is [`ErrorKind::Unsupported`], with the known ones.
/// - A network policy that is not held here is [`ErrorKind::Unsupported`], with those that are.
/// - A limit outside the provider's range is [`ErrorKind::InvalidRequest`], with its name, what was
///   asked and what is allowed.
pub fn check(capabilities: &Capabilities, spec: &SandboxSpec) -> Result<()> {
    if !capabilities.languages.contains(&spec.language) {
        let known: Vec<&str> = capabilities.languages.iter().map(|l| l.as_str()).collect();
        let hint = match known.as_slice() {
            [] => "hint: no language has an interpreter and a runner here".to_owned(),
            known => format!("hint: available here are {}", known.join(", ")),
        };
        let message = format!("language `{}` is not available; {hint}", spec.language);
        return Err(Error::new(ErrorKind::Unsupported, OPERATION, message));
    }
    if !capabilities.networks.contains(&spec.network) {
        let known: Vec<&str> = capabilities.networks.iter().map(|n| n.as_str()).collect();
        let why = capabilities.network_hurdle.clone();
        let message = format!(
            "`network` is `{}`, which is not available; {}",
            spec.network.as_str(),
            why.unwrap_or_else(|| format!("hint: available here are {}", known.join(", ")))
        );
        return Err(Error::new(ErrorKind::Unsupported, OPERATION, message));
    }
    let limits = &spec.limits;
    let out_of_range = |field: &str, asked: String, bound: &str, allowed: String| {
        let message = format!("`{field}` is {asked}, and {bound} {allowed} is allowed");
        Err(Error::new(ErrorKind::InvalidRequest, OPERATION, message))
    };
    if limits.wall.is_zero() {
        return out_of_range("wall", "0s".to_owned(), "more than", "0s".to_owned());
    }
    if limits.wall > capabilities.max_wall {
        let (asked, allowed) = (limits.wall, capabilities.max_wall);
        return out_of_range("wall", format!("{asked:?}"), "at most", format!("{allowed:?}"));
    }
    if limits.memory > capabilities.max_memory {
        let (asked, allowed) = (bytes(limits.memory), bytes(capabilities.max_memory));
        return out_of_range("memory", asked, "at most", allowed);
    }
    if limits.memory < capabilities.min_memory {
        let (asked, allowed) = (bytes(limits.memory), bytes(capabilities.min_memory));
        return out_of_range("memory", asked, "at least", allowed);
    }
    Ok(())
}

/// A size as people write it: whole units where they fit, else bytes.
fn bytes(count: u64) -> String {
    for (shift, unit) in [(30, "g"), (20, "m"), (10, "k")] {
        if count >> shift > 0 && count.trailing_zeros() >= shift {
            return format!("{}{unit}", count >> shift);
        }
    }
    format!("{count} bytes")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ampoule_core::{Language, Limits, NetworkPolicy};

    use super::*;
    use crate::memory::MemoryConfig;

    fn refusal(language: &str, change: impl FnOnce(&mut Limits)) -> Error {
        let mut limits = Limits::default();
        change(&mut limits);
        let spec =
            SandboxSpec { language: Language::new(language), limits, network: NetworkPolicy::None };
        check(&MemoryConfig::default().capabilities, &spec).unwrap_err()
    }

    #[test]
    fn an_unknown_language_is_answered_with_the_known_ones() {
        let error = refusal("cobol", |_| {});
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(
            error.message(),
            "language `cobol` is not available; hint: available here are python, javascript"
        );
    }

    #[test]
    fn limits_out_of_range_name_the_field_what_was_asked_and_what_is_allowed() {
        let wall = refusal("python", |limits| limits.wall = Duration::from_secs(7200));
        let most = refusal("python", |limits| limits.memory = 1 << 50);
        let least = refusal("python", |limits| limits.memory = 1 << 20);
        let none = refusal("python", |limits| limits.wall = Duration::ZERO);
        for error in [&wall, &most, &least, &none] {
            assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        }
        assert_eq!(wall.message(), "`wall` is 7200s, and at most 3600s is allowed");
        assert_eq!(most.message(), "`memory` is 1048576g, and at most 4g is allowed");
        assert_eq!(least.message(), "`memory` is 1m, and at least 16m is allowed");
        assert_eq!(none.message(), "`wall` is 0s, and more than 0s is allowed");
    }

    #[test]
    fn a_network_policy_that_is_not_held_is_refused_with_those_that_are() {
        let spec = SandboxSpec {
            language: Language::new("python"),
            limits: Limits::default(),
            network: NetworkPolicy::Open,
        };
        let error = check(&MemoryConfig::default().capabilities, &spec).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(
            error.message(),
            "`network` is `open`, which is not available; hint: available here are none"
        );
        let capabilities = Capabilities {
            network_hurdle: Some("no helper; hint: install one".to_owned()),
            ..MemoryConfig::default().capabilities
        };
        assert_eq!(
            check(&capabilities, &spec).unwrap_err().message(),
            "`network` is `open`, which is not available; no helper; hint: install one"
        );
    }

    #[test]
    fn sizes_are_written_in_whole_units() {
        assert_eq!(bytes(256 << 20), "256m");
        assert_eq!(bytes((1 << 20) + 1), "1048577 bytes");
    }

    #[test]
    fn what_fits_passes() {
        let spec = SandboxSpec {
            language: Language::new("python"),
            limits: Limits::default(),
            network: NetworkPolicy::None,
        };
        check(&MemoryConfig::default().capabilities, &spec).unwrap();
    }
}
