//! `ampoule doctor`: what is wrong on this machine.

use crate::{
    arguments::DoctorArguments,
    exit::{ExitCode, Failure},
    output,
};

/// Lists what was left behind; it is a failure of the platform if there is anything.
pub(crate) fn doctor(_arguments: &DoctorArguments) -> Result<ExitCode, Failure> {
    let leaks = ampoule_jail::leaks()
        .map_err(|error| Failure::platform(format!("failed to look for leaks: {error}")))?;
    if leaks.is_empty() {
        output::print("no leaks\n")?;
        return Ok(ExitCode::Success);
    }
    for leak in &leaks {
        output::print(&format!("{leak}\n"))?;
    }
    Err(Failure::platform(format!("{} things were left behind", leaks.len())))
}
