//! What is wrong between keys.

use ampoule_core::{Excess, Language, SandboxSpec, TrustGroup};

use super::Config;
use crate::exit::Failure;

/// Refuses what no run could ever have, and what contradicts itself.
pub(super) fn check(config: &Config) -> Result<(), Failure> {
    // The language decides nothing here.
    let spec = config.spec(Language::new(""));
    let excesses = config.manager.bounds.excesses(&spec);
    if let Some(excess) = excesses.first() {
        return Err(config.refuse(excess, excess.rule == "at most"));
    }
    if config.api_token.is_some() && config.api_token_file.is_some() {
        return Err(Failure::usage(format!(
            "`auth.api_token` ({}) and `auth.api_token_file` ({}) are both set; hint: keep one",
            config.source("auth.api_token"),
            config.source("auth.api_token_file"),
        )));
    }
    Ok(())
}

impl Config {
    /// The sandbox of a run in `language` that asks for nothing.
    pub(crate) fn spec(&self, language: Language) -> SandboxSpec {
        let (limits, network, profile) = (self.limits, self.network, self.profile);
        let trust_group = TrustGroup::default();
        SandboxSpec { language, template: None, limits, network, profile, trust_group }
    }

    /// Says of something that is not allowed who asked for it, and who does not allow it.
    pub(crate) fn refuse(&self, excess: &Excess, is_by_bound: bool) -> Failure {
        let Excess { field, asked, rule, allowed, why } = excess;
        let (key, bound) = match *field {
            "network" => ("network.policy".to_owned(), "network.most".to_owned()),
            field => (format!("limits.{field}"), format!("limits.max.{field}")),
        };
        let (by, hint) = if is_by_bound {
            let source = self.source(&bound);
            let hint = format!("hint: ask for less, or let the operator raise `{bound}`");
            (format!(" by `{bound}` ({source})"), hint)
        } else {
            let hint = why.clone().unwrap_or_else(|| "hint: ask for what is".to_owned());
            (" here".to_owned(), hint)
        };
        let source = self.source(&key);
        Failure::usage(format!(
            "`{key}` is {asked} ({source}), and {rule} {allowed} is allowed{by}; {hint}"
        ))
    }
}
