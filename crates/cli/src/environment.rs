//! The variables that are honoured, and those that are not.
//!
//! RAGFlow's compose hands its whole `.env` to the executor manager. What belongs to RAGFlow's side
//! there must not change or stop the service: it is read by nobody, and said so in the debug log.
//! A variable that is set to nothing counts as not set, as compose writes `X=${X:-}`.

use std::{ffi::OsString, num::NonZeroUsize, time::Duration};

use ampoule_core::{parse_bytes, parse_duration};

use crate::exit::Failure;

/// RAGFlow's own variables that sound as if they were ours.
const NOT_APPLIED: [&str; 2] = ["SANDBOX_EXECUTOR_MANAGER_PORT", "SANDBOX_PROVIDER_TYPE"];

/// What the environment says to `serve`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServeEnvironment {
    /// Runs at the same time.
    pub(crate) pool_size: Option<NonZeroUsize>,
    /// Memory of a run.
    pub(crate) memory: Option<u64>,
    /// Wall clock of a run.
    pub(crate) timeout: Option<Duration>,
    /// Further names of base images.
    pub(crate) base_images: Vec<String>,
    /// Variables that are set and not applied.
    pub(crate) not_applied: Vec<&'static str>,
}

/// Reads variables through `get`, which tests replace.
pub(crate) struct Environment<'a>(pub(crate) &'a dyn Fn(&str) -> Option<OsString>);

impl Environment<'_> {
    /// What the environment says to `serve`.
    pub(crate) fn serve(&self) -> Result<ServeEnvironment, Failure> {
        let base_images = ["SANDBOX_BASE_PYTHON_IMAGE", "SANDBOX_BASE_NODEJS_IMAGE"]
            .into_iter()
            .filter_map(|name| self.text(name).transpose())
            .collect::<Result<_, _>>()?;
        let is_set = |name: &&str| (self.0)(name).is_some();
        Ok(ServeEnvironment {
            pool_size: self.read(
                "SANDBOX_EXECUTOR_MANAGER_POOL_SIZE",
                "a whole number from 1 to 1024",
                |text| {
                    let size: NonZeroUsize = text.trim().parse().ok()?;
                    (size.get() <= 1024).then_some(size)
                },
            )?,
            memory: self.read(
                "SANDBOX_MAX_MEMORY",
                "a whole number with an optional b, k, m or g, as in `256m`",
                |text| parse_bytes(text).ok(),
            )?,
            timeout: self.read(
                "SANDBOX_TIMEOUT",
                "`90s`, `2m`, `1m30s` or a number of seconds",
                |text| parse_duration(text).ok(),
            )?,
            base_images,
            not_applied: NOT_APPLIED.into_iter().filter(is_set).collect(),
        })
    }

    /// The provider type that was asked for.
    pub(crate) fn provider(&self) -> Result<Option<String>, Failure> {
        self.text("AMPOULE_PROVIDER")
    }

    fn read<T>(
        &self,
        name: &str,
        allowed: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match parse(&text) {
            Some(value) => Ok(Some(value)),
            None => Err(Failure::usage(format!("{name} is `{text}`; hint: {allowed}"))),
        }
    }

    fn text(&self, name: &str) -> Result<Option<String>, Failure> {
        let Some(value) = (self.0)(name).filter(|value| !value.is_empty()) else { return Ok(None) };
        value.into_string().map(Some).map_err(|value| {
            let shown = value.to_string_lossy();
            Failure::usage(format!("{name} is `{shown}`, which is not UTF-8; hint: plain text"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(variables: &[(&str, &str)]) -> Result<ServeEnvironment, Failure> {
        let get = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        };
        Environment(&get).serve()
    }

    #[test]
    fn the_contracts_variables_are_read() {
        let read = serve(&[
            ("SANDBOX_EXECUTOR_MANAGER_POOL_SIZE", "5"),
            ("SANDBOX_MAX_MEMORY", "512M"),
            ("SANDBOX_TIMEOUT", "1m30s"),
            ("SANDBOX_BASE_PYTHON_IMAGE", "registry/python:1"),
            ("SANDBOX_EXECUTOR_MANAGER_PORT", "nonsense"),
            ("SANDBOX_PROVIDER_TYPE", "self_managed"),
        ])
        .unwrap();
        assert_eq!(read.pool_size, NonZeroUsize::new(5));
        assert_eq!(read.memory, Some(512 << 20));
        assert_eq!(read.timeout, Some(Duration::from_secs(90)));
        assert_eq!(read.base_images, ["registry/python:1"]);
        assert_eq!(read.not_applied, NOT_APPLIED);
    }

    #[test]
    fn nothing_and_the_empty_string_are_the_defaults() {
        assert_eq!(serve(&[]).unwrap(), ServeEnvironment::default());
        assert_eq!(serve(&[("SANDBOX_TIMEOUT", "")]).unwrap(), ServeEnvironment::default());
    }

    #[test]
    fn a_bad_value_names_the_variable_the_value_and_what_is_allowed() {
        for (name, value, allowed) in [
            ("SANDBOX_EXECUTOR_MANAGER_POOL_SIZE", "0", "from 1 to 1024"),
            ("SANDBOX_EXECUTOR_MANAGER_POOL_SIZE", "many", "from 1 to 1024"),
            ("SANDBOX_MAX_MEMORY", "256x", "`256m`"),
            ("SANDBOX_TIMEOUT", "soon", "`1m30s`"),
        ] {
            let failure = serve(&[(name, value)]).unwrap_err();
            assert_eq!(failure.code, crate::ExitCode::Usage);
            for part in [name, value, allowed, "hint:"] {
                assert!(failure.message.contains(part), "{}", failure.message);
            }
        }
    }
}
