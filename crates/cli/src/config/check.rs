//! What is wrong between keys.

use super::Config;
use crate::exit::Failure;

/// Refuses what no run could ever have, and what contradicts itself.
pub(super) fn check(config: &Config) -> Result<(), Failure> {
    let excesses = config.manager.bounds.excesses(&config.limits, config.network);
    if let Some(excess) = excesses.first() {
        let (asked, bound) = match excess.field {
            "network" => ("network.policy".to_owned(), "network.most".to_owned()),
            field => (format!("limits.{field}"), format!("limits.max.{field}")),
        };
        let is_bounded = excess.rule == "at most";
        let by = if is_bounded {
            format!(" by `{bound}` ({})", config.source(&bound))
        } else {
            String::new()
        };
        let hint = if is_bounded {
            format!("hint: ask for less, or let the operator raise `{bound}`")
        } else {
            "hint: ask for more".to_owned()
        };
        return Err(Failure::usage(format!(
            "`{asked}` is {} ({}), and {} {} is allowed{by}; {hint}",
            excess.asked,
            config.source(&asked),
            excess.rule,
            excess.allowed,
        )));
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
