//! `ampoule doctor`: what works on this machine, what does not, and the fix.
//!
//! ```text
//! kernel, machine, meters, runtimes, service    looked at, each by itself
//! fences, and the meters once more              tried: probes in real sandboxes
//! ```
//!
//! Each section stands alone: what keeps sandboxes from being built here is one line, and the rest
//! is told all the same.

mod fences;
mod kernel;
mod leaks;
mod machine;
mod report;
mod runtimes;

use ampoule_providers::runtimes::{Catalogue, default_data_dir};

use self::report::Report;
use crate::{
    arguments::DoctorArguments,
    exit::{ExitCode, Failure},
    logging, output,
};

/// Looks and tries; it is a failure of the platform if a service would lack something.
pub(crate) fn doctor(arguments: &DoctorArguments) -> Result<ExitCode, Failure> {
    if arguments.leaks {
        return leaks::list(arguments.json);
    }
    logging::start("off", Some(logging::LogFormat::Text))?;
    let data_dir = default_data_dir();
    let mut report = Report::default();
    report.checks.extend(kernel::checks());
    report.checks.extend(machine::checks());
    // Processes are started here: nothing before may have made a thread.
    // Nothing can be given up by configuration yet.
    fences::try_all(&arguments.without, &[], &mut report)?;
    report.checks.extend(runtimes::checks(&Catalogue::builtin(), &data_dir));
    report.checks.push(machine::data_directory(&data_dir));
    let listen = arguments.listen.clone().or_else(|| std::env::var("AMPOULE_LISTEN").ok());
    report.checks.push(machine::address(listen.as_deref().unwrap_or_default()));
    report.checks.push(leaks::check());
    let text = if arguments.json { report.json()? } else { report.table(output::is_terminal()) };
    output::print(&text)?;
    Ok(if report.is_ok() { ExitCode::Success } else { ExitCode::PlatformFailed })
}
