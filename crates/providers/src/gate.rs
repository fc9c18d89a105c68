//! The gate: capability and limits, checked in one place before anything is built.
//!
//! What does not fit is refused with the field, what was asked and what is allowed. Nothing is
//! clamped quietly: a caller who asks for ten minutes and gets one would blame the program.

use ampoule_core::{
    Capabilities, Error, ErrorKind, Excess, ExecuteRequest, Result, SandboxSpec, format_bytes,
    format_duration,
};

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
    let found = excesses(capabilities, spec);
    let Some(excess) = found.first() else { return Ok(()) };
    let kind = match excess.field {
        "network" => ErrorKind::Unsupported,
        _ => ErrorKind::InvalidRequest,
    };
    Err(Error::new(kind, OPERATION, excess.to_string()))
}

/// Says whether a sandbox that was created as `spec` asks can run `request`.
///
/// Only what is built into a sandbox is compared: one that was created with less memory would be
/// told as having more, and one of another trust group may be a fork of what that group has touched.
/// Wall clock, CPU time and output are the request's own, and the template is a hint.
pub fn check_request(spec: &SandboxSpec, request: &ExecuteRequest) -> Result<()> {
    let differs = [
        ("language", request.language != spec.language),
        ("network", request.network != spec.network),
        ("limits", request.limits.built_in() != spec.limits.built_in()),
        ("profile", request.profile != spec.profile),
        ("trust_group", request.trust_group != spec.trust_group),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        None => Ok(()),
        Some((field, _)) => {
            let message = format!(
                "`{field}` is not what the sandbox was created with; hint: create it with the \
                 request's own `spec()`"
            );
            Err(Error::new(ErrorKind::InvalidRequest, "execute the program", message))
        }
    }
}

/// Everything that `spec` asks for and that is outside of what the provider can do.
pub fn excesses(capabilities: &Capabilities, spec: &SandboxSpec) -> Vec<Excess> {
    let (limits, mut found) = (&spec.limits, Vec::new());
    if !capabilities.networks.contains(&spec.network) {
        let known: Vec<&str> = capabilities.networks.iter().map(|n| n.as_str()).collect();
        let (asked, allowed) = (spec.network.as_str().to_owned(), known.join(", "));
        let why = capabilities.network_hurdle.clone();
        found.push(Excess { field: "network", asked, rule: "only", allowed, why });
    }
    if limits.wall.is_zero() {
        let (asked, allowed) = ("0s".to_owned(), "0s".to_owned());
        found.push(Excess { field: "timeout", asked, rule: "more than", allowed, why: None });
    }
    if limits.wall > capabilities.max_wall {
        let allowed = format_duration(capabilities.max_wall);
        let asked = format_duration(limits.wall);
        found.push(Excess { field: "timeout", asked, rule: "at most", allowed, why: None });
    }
    let memory = |rule, bound| Excess {
        field: "memory",
        asked: format_bytes(limits.memory),
        rule,
        allowed: format_bytes(bound),
        why: None,
    };
    if limits.memory > capabilities.max_memory {
        found.push(memory("at most", capabilities.max_memory));
    }
    let least = capabilities.least_memory(&spec.language);
    if limits.memory < least {
        found.push(memory("at least", least));
    }
    found
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
        let spec = SandboxSpec { limits, ..SandboxSpec::of(Language::new(language)) };
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
        assert_eq!(wall.message(), "`timeout` is 2h, and at most 1h is allowed");
        assert_eq!(most.message(), "`memory` is 1048576g, and at most 4g is allowed");
        assert_eq!(least.message(), "`memory` is 1m, and at least 16m is allowed");
        assert_eq!(none.message(), "`timeout` is 0s, and more than 0s is allowed");
    }

    #[test]
    fn a_network_policy_that_is_not_held_is_refused_with_those_that_are() {
        let spec = SandboxSpec {
            network: NetworkPolicy::Open,
            ..SandboxSpec::of(Language::new("python"))
        };
        let error = check(&MemoryConfig::default().capabilities, &spec).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.message(), "`network` is open, and only none is allowed");
        let capabilities = Capabilities {
            network_hurdle: Some("no helper; hint: install one".to_owned()),
            ..MemoryConfig::default().capabilities
        };
        assert_eq!(
            check(&capabilities, &spec).unwrap_err().message(),
            "`network` is open, and only none is allowed; no helper; hint: install one"
        );
    }

    #[test]
    fn a_language_that_needs_much_memory_refuses_only_itself() {
        let mut capabilities = MemoryConfig::default().capabilities;
        capabilities.min_memory.insert(Language::new("javascript"), 1 << 30);
        let spec = |language: &str| SandboxSpec::of(Language::new(language));
        check(&capabilities, &spec("python")).unwrap();
        let error = check(&capabilities, &spec("javascript")).unwrap_err();
        assert_eq!(error.message(), "`memory` is 256m, and at least 1g is allowed");
    }

    #[test]
    fn what_fits_passes() {
        let spec = SandboxSpec::of(Language::new("python"));
        check(&MemoryConfig::default().capabilities, &spec).unwrap();
    }
}
