//! `ampoule runtimes`: the interpreters and packages that programs find.

use crate::{
    arguments::{RuntimesArguments, RuntimesCommand},
    exit::{ExitCode, Failure},
};

/// Shows or prepares runtimes.
pub(crate) fn runtimes(arguments: RuntimesArguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        RuntimesCommand::List { json: _ } | RuntimesCommand::Install { languages: _ } => {
            Err(Failure::platform("runtimes are not part of this build"))
        }
    }
}
