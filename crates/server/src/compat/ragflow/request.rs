//! The body of `/run`, checked field by field so that each error names its field.
//!
//! Fields stay raw JSON text until they are looked at: a number in the arguments arrives in the
//! program as it was written, and nesting of any depth is refused without recursion.

use std::{borrow::Cow, collections::HashMap};

use ampoule_core::{Arguments, ArgumentsError, Code, CodeError, Language, RawValue};
use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{ServerConfig, error::Problem};

/// What a caller of `/run` wants.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) language: Language,
    pub(super) code: Code,
    pub(super) arguments: Arguments,
}

/// Reads a body, whatever its content type; unknown fields are ignored, as FastAPI does.
pub(super) fn parse(body: &[u8], config: &ServerConfig) -> Result<Wanted, Vec<Problem>> {
    let fields = fields(body).map_err(|problem| vec![problem])?;
    let mut problems = Vec::new();
    let mut taken = Taken { fields: &fields, problems: &mut problems };
    let code = taken.field("code_b64", code);
    let language = taken.field("language", |raw| language(raw, config));
    let arguments = taken.field("arguments", arguments);
    taken.field("base_image", |raw| base_image(raw, config));
    match (language, code, arguments) {
        (Some(language), Some(code), Some(arguments)) if problems.is_empty() => {
            Ok(Wanted { language, code, arguments })
        }
        _ => Err(problems),
    }
}

/// The fields of one body, and what was wrong with those that were looked at.
struct Taken<'a> {
    fields: &'a HashMap<String, &'a RawValue>,
    problems: &'a mut Vec<Problem>,
}

/// What is wrong with a field: pydantic's type, and words.
type Fault = (&'static str, String);

impl Taken<'_> {
    fn field<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Option<&RawValue>) -> Result<T, Fault>,
    ) -> Option<T> {
        match read(self.fields.get(name).copied()) {
            Ok(value) => Some(value),
            Err((kind, message)) => {
                self.problems.push(Problem::of_field(name, kind, message));
                None
            }
        }
    }
}

fn fields(body: &[u8]) -> Result<HashMap<String, &RawValue>, Problem> {
    let text = std::str::from_utf8(body).map_err(|error| {
        Problem::at_offset("json_invalid", error.valid_up_to(), "JSON decode error: not UTF-8")
    })?;
    if text.trim().is_empty() {
        return Err(Problem::of_body("missing", "Field required"));
    }
    // First as a whole: what is no JSON at all is that, and not an object of the wrong type.
    let whole: &RawValue = serde_json::from_str(text).map_err(|error| {
        let offset = offset_of(text, error.line(), error.column());
        Problem::at_offset("json_invalid", offset, format!("JSON decode error: {error}"))
    })?;
    serde_json::from_str(whole.get()).map_err(|_| {
        let message = "Input should be a valid dictionary or object to extract fields from";
        Problem::of_body("model_attributes_type", message)
    })
}

/// The byte at a line and column, both from 1.
fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (before + column.saturating_sub(1)).min(text.len())
}

fn code(raw: Option<&RawValue>) -> Result<Code, Fault> {
    let raw = raw.ok_or_else(|| ("missing", "Field required".to_owned()))?;
    let text = string(raw)?;
    let bytes = STANDARD.decode(text.as_bytes()).map_err(|error| {
        let hint = "hint: standard base64 with padding and without white space";
        value_error(format!("the code is not base64 ({}); {hint}", base64_problem(&error)))
    })?;
    Code::from_bytes(&bytes).map_err(|error| match error {
        CodeError::Empty | CodeError::NotUtf8(_) => value_error(error.to_string()),
    })
}

/// What is wrong, without repeating what was sent.
fn base64_problem(error: &base64::DecodeError) -> String {
    use base64::DecodeError;
    match error {
        DecodeError::InvalidByte(offset, _) => format!("an invalid character at offset {offset}"),
        DecodeError::InvalidLength(_) => "a wrong length".to_owned(),
        DecodeError::InvalidLastSymbol { .. } => "an invalid last character".to_owned(),
        DecodeError::InvalidPadding => "wrong padding".to_owned(),
    }
}

fn language(raw: Option<&RawValue>, config: &ServerConfig) -> Result<Language, Fault> {
    let name = match raw {
        Some(raw) => string(raw)?,
        None => Cow::Borrowed("python"),
    };
    config.languages.resolve(&name).cloned().ok_or_else(|| {
        let known: Vec<String> = config.languages.names().map(|name| format!("'{name}'")).collect();
        ("enum", format!("Input should be one of {}", known.join(", ")))
    })
}

fn arguments(raw: Option<&RawValue>) -> Result<Arguments, Fault> {
    let Some(raw) = raw else { return Ok(Arguments::none()) };
    Arguments::from_raw(raw).map_err(|error| match error {
        ArgumentsError::NotAnObject(kind) => {
            ("dict_type", format!("Input should be a valid dictionary, not {kind}"))
        }
        ArgumentsError::TooDeep | ArgumentsError::NotJson(_) => value_error(error.to_string()),
    })
}

fn base_image(raw: Option<&RawValue>, config: &ServerConfig) -> Result<(), Fault> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(()) };
    let name = string(raw)?;
    // Go's client may send its zero value for "none".
    if name.is_empty() || config.base_images.iter().any(|known| *known == name) {
        return Ok(());
    }
    let known = config.base_images.join("', '");
    Err(value_error(format!("no template has this base image; hint: '{known}'")))
}

fn string(raw: &RawValue) -> Result<Cow<'_, str>, Fault> {
    // Borrowed where it has no escapes, and source code in base64 has none.
    let borrowed = serde_json::from_str::<&str>(raw.get()).map(Cow::Borrowed);
    borrowed
        .or_else(|_| serde_json::from_str::<String>(raw.get()).map(Cow::Owned))
        .map_err(|_| ("string_type", "Input should be a valid string".to_owned()))
}

fn value_error(message: String) -> Fault {
    ("value_error", format!("Value error, {message}"))
}
