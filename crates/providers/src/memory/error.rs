//! What a script calls an error, as ours.

use ampoule_core::{Error, ErrorKind};

/// The error that a script asks for by the stable word of its kind.
pub(super) fn scripted(kind: &str, message: String) -> Error {
    let kinds = [
        ErrorKind::InvalidRequest,
        ErrorKind::Unsupported,
        ErrorKind::Busy,
        ErrorKind::Cancelled,
        ErrorKind::Unavailable,
        ErrorKind::Config,
    ];
    let kind = kinds.into_iter().find(|known| known.as_str() == kind);
    Error::new(kind.unwrap_or(ErrorKind::Internal), "follow the script", message)
}

/// A script that cannot be read: a fault of the test that wrote it.
pub(super) fn unreadable(source: serde_json::Error) -> Error {
    Error::new(ErrorKind::InvalidRequest, "read the script", "it is no list of steps")
        .with_source(source)
}

/// A sandbox that is asked for a second execution.
pub(super) fn second_execution() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "execute the program",
        "the sandbox has already been used; hint: one sandbox, one execution",
    )
}
