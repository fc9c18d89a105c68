//! Why a case gave no figures.

/// Why a case gave no figures.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The service answered something else than it had to. The one thing that a benchmark forgives
    /// nobody: a wrong answer is no fast one.
    #[error("a wrong answer: {0}")]
    Wrong(String),
    /// Nothing could be measured.
    #[error("{0}")]
    Broken(String),
}

impl Failure {
    /// Something did not work that measuring needs.
    pub(crate) fn broken(doing: &str, error: &dyn std::error::Error) -> Self {
        Self::Broken(format!("failed to {doing}: {error}"))
    }
}

/// What a part of a case gives.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Turns an error into a [`Failure::Broken`] with what was being done.
pub(crate) trait Doing<T> {
    fn doing(self, what: &str) -> Result<T>;
}

impl<T, E: std::error::Error> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: &str) -> Result<T> {
        self.map_err(|error| Failure::broken(what, &error))
    }
}
