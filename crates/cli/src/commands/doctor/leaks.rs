//! What managers have left behind.

use ampoule_jail::Leak;
use serde_json::json;

use super::report::Check;
use crate::{
    exit::{ExitCode, Failure},
    output,
};

/// Lists what was left behind; it is a failure of the platform if there is anything.
pub(super) fn list(json: bool) -> Result<ExitCode, Failure> {
    let leaks = find()?;
    let shown: Vec<String> = leaks.iter().map(Leak::to_string).collect();
    if json {
        output::print(&format!("{}\n", json!({ "leaks": shown })))?;
    } else if shown.is_empty() {
        output::print("no leaks\n")?;
    } else {
        output::print(&shown.iter().map(|leak| format!("{leak}\n")).collect::<String>())?;
    }
    if shown.is_empty() {
        return Ok(ExitCode::Success);
    }
    Err(Failure::platform(format!("{} things were left behind", leaks.len())))
}

/// The same in one line.
pub(super) fn check() -> Check {
    match find() {
        Ok(leaks) if leaks.is_empty() => Check::ok("machine", "leaks", "nothing was left behind"),
        Ok(leaks) => Check::warning(
            "machine",
            "leaks",
            format!("{} things were left behind", leaks.len()),
            "`ampoule doctor --leaks` lists them",
        ),
        Err(failure) => Check::warning("machine", "leaks", failure.message, "run it as root"),
    }
}

fn find() -> Result<Vec<Leak>, Failure> {
    ampoule_jail::leaks()
        .map_err(|error| Failure::platform(format!("failed to look for leaks: {error}")))
}
