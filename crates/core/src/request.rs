//! What a caller asks for.

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::{
    ExecutionId, Language, Limits, NetworkPolicy, Profile, TemplateName, TrustGroup,
    text::json_depth,
};

/// The deepest nesting that arguments and values may have.
pub const MAX_JSON_DEPTH: usize = 100;

/// One program to run, with everything it may use.
#[derive(Clone, Debug)]
pub struct ExecuteRequest {
    /// Names the execution.
    pub id: ExecutionId,
    /// The canonical language.
    pub language: Language,
    /// The program.
    pub code: Code,
    /// The JSON object for `main`.
    pub arguments: Arguments,
    /// What it may use.
    pub limits: Limits,
    /// What it may reach.
    pub network: NetworkPolicy,
    /// How much of an interpreter it may share with others.
    pub profile: Profile,
    /// With whom it may share that.
    pub trust_group: TrustGroup,
}

impl ExecuteRequest {
    /// The sandbox that this request needs, made from the bare template of its language. Which
    /// template would suit it better, [`Capabilities::template_for`] says.
    ///
    /// [`Capabilities::template_for`]: crate::Capabilities::template_for
    pub fn spec(&self) -> SandboxSpec {
        SandboxSpec {
            language: self.language.clone(),
            template: None,
            limits: self.limits,
            network: self.network,
            profile: self.profile,
            trust_group: self.trust_group.clone(),
        }
    }
}

/// The sandbox that a request needs.
///
/// Of the limits, memory, disk, processes and CPU bandwidth are built into a sandbox, as is all
/// else here. Wall clock, CPU time and output are looked after while a program runs: they are those
/// of the request that is executed, and here they only say what will be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SandboxSpec {
    /// The canonical language.
    pub language: Language,
    /// What the sandbox is best made from; none is the bare template of the language. Only a hint:
    /// a provider without it, and one that has it elsewhere, makes the sandbox from the bare one.
    pub template: Option<TemplateName>,
    /// What its program may use.
    pub limits: Limits,
    /// What it may reach.
    pub network: NetworkPolicy,
    /// How much of an interpreter it may share with others.
    pub profile: Profile,
    /// With whom it may share that.
    pub trust_group: TrustGroup,
}

impl SandboxSpec {
    /// A sandbox of a language that says nothing of anything else.
    pub fn of(language: Language) -> Self {
        Self {
            language,
            template: None,
            limits: Limits::default(),
            network: NetworkPolicy::default(),
            profile: Profile::default(),
            trust_group: TrustGroup::default(),
        }
    }

    /// What is built into the sandbox: the same with every limit that is looked after per execution
    /// at its default. Two specs of which this is equal mean sandboxes that can stand in for each
    /// other.
    #[must_use]
    pub fn built_in(&self) -> Self {
        Self { limits: self.limits.built_in(), ..self.clone() }
    }
}

/// The source of a program: UTF-8, not empty. Never logged: its `Debug` shows the length only.
///
/// A clone shares the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Code(Arc<str>);

/// Source that no interpreter should see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// Nothing but white space.
    #[error("the code is empty; hint: define a function `main`")]
    Empty,
    /// Not UTF-8.
    #[error(
        "the code is not UTF-8 (first bad byte at offset {0}); hint: encode the source as UTF-8"
    )]
    NotUtf8(usize),
}

impl Code {
    /// Takes source text; a leading byte order mark is dropped.
    pub fn new(source: &str) -> Result<Self, CodeError> {
        let source = source.strip_prefix('\u{feff}').unwrap_or(source);
        if source.trim().is_empty() {
            return Err(CodeError::Empty);
        }
        Ok(Self(source.into()))
    }

    /// Takes source bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodeError> {
        match std::str::from_utf8(bytes) {
            Ok(source) => Self::new(source),
            Err(error) => Err(CodeError::NotUtf8(error.valid_up_to())),
        }
    }

    /// The source text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Code {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Code({} bytes)", self.0.len())
    }
}

/// The JSON object handed to `main`, as text, so that numbers and strings arrive as they were
/// written. Never logged: its `Debug` shows the length only.
///
/// A clone shares the text.
#[derive(Clone)]
pub struct Arguments(Arc<RawValue>);

/// Arguments that are no JSON object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentsError {
    /// Some other JSON value.
    #[error("the arguments are {0}; hint: pass a JSON object such as {{\"name\": \"value\"}}")]
    NotAnObject(&'static str),
    /// Nested too deeply.
    #[error("the arguments are nested deeper than {MAX_JSON_DEPTH} levels; hint: flatten them")]
    TooDeep,
    /// Not JSON.
    #[error(
        "the arguments are not JSON ({0}); hint: pass a JSON object such as {{\"name\": \"value\"}}"
    )]
    NotJson(String),
}

impl Arguments {
    /// No arguments: `{}`.
    pub fn none() -> Self {
        Self(RawValue::from_string("{}".to_owned()).expect("`{}` is JSON").into())
    }

    /// Takes JSON text that must be an object; `null` means `{}`.
    pub fn from_raw(raw: &RawValue) -> Result<Self, ArgumentsError> {
        let kind = match raw.get().as_bytes().first() {
            Some(b'{') if json_depth(raw.get()) > MAX_JSON_DEPTH => {
                return Err(ArgumentsError::TooDeep);
            }
            Some(b'{') => return Ok(Self(raw.to_owned().into())),
            Some(b'n') => return Ok(Self::none()),
            Some(b'[') => "an array",
            Some(b'"') => "a string",
            Some(b't' | b'f') => "a boolean",
            _ => "a number",
        };
        Err(ArgumentsError::NotAnObject(kind))
    }

    /// Reads JSON text.
    pub fn parse(text: &str) -> Result<Self, ArgumentsError> {
        let raw: Box<RawValue> = serde_json::from_str(text.trim())
            .map_err(|error| ArgumentsError::NotJson(error.to_string()))?;
        Self::from_raw(&raw)
    }

    /// The object as JSON.
    pub fn as_raw(&self) -> &RawValue {
        &self.0
    }
}

impl std::fmt::Debug for Arguments {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Arguments({} bytes)", self.0.get().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_checked_and_its_byte_order_mark_dropped() {
        assert_eq!(Code::from_bytes(b"\xef\xbb\xbfx = 1").unwrap().as_str(), "x = 1");
        assert_eq!(Code::from_bytes(b"a\xff"), Err(CodeError::NotUtf8(1)));
        assert_eq!(Code::new(" \r\n"), Err(CodeError::Empty));
    }

    #[test]
    fn arguments_are_an_object_or_a_clear_error() {
        assert_eq!(Arguments::parse("null").unwrap().as_raw().get(), "{}");
        assert_eq!(
            Arguments::parse(" {\"n\":12345678901234567890123} ").unwrap().as_raw().get(),
            "{\"n\":12345678901234567890123}"
        );
        assert_eq!(Arguments::parse("[1]").unwrap_err(), ArgumentsError::NotAnObject("an array"));
        assert!(matches!(Arguments::parse("{"), Err(ArgumentsError::NotJson(_))));
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(Arguments::parse(&deep).unwrap_err(), ArgumentsError::TooDeep);
    }

    #[test]
    fn what_is_per_execution_makes_no_other_sandbox() {
        let spec = SandboxSpec::of(Language::new("python"));
        let with = |limits| SandboxSpec { limits, ..spec.clone() }.built_in();
        let ordinary = Limits::default();
        let second = std::time::Duration::from_secs(1);
        let output = crate::OnOutputLimit::Stop;
        let per_execution =
            Limits { wall: second, cpu: Some(second), output: 1, on_output: output, ..ordinary };
        assert_eq!(with(per_execution), spec.built_in());
        for built_in in [
            Limits { memory: 1, ..ordinary },
            Limits { disk: 1, ..ordinary },
            Limits { processes: 1, ..ordinary },
            Limits { millicpus: 1, ..ordinary },
        ] {
            assert_ne!(with(built_in), spec.built_in());
        }
        let strict = SandboxSpec { profile: Profile::Strict, ..spec.clone() };
        assert_ne!(strict.built_in(), spec.built_in());
    }

    #[test]
    fn debug_shows_no_content() {
        let shown = format!(
            "{:?} {:?}",
            Code::new("secret").unwrap(),
            Arguments::parse("{\"k\":\"secret\"}").unwrap()
        );
        assert!(!shown.contains("secret"), "{shown}");
    }
}
