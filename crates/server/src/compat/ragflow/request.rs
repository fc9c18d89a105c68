//! The body of `/run`, checked field by field so that each error names its field.
//!
//! Fields stay raw JSON text until they are looked at: a number in the arguments arrives in the
//! program as it was written, and nesting of any depth is refused without recursion.

use std::{borrow::Cow, collections::HashMap};

use ampoule_core::{
    Arguments, ArgumentsError, BadTrustGroup, Code, CodeError, Language, Limits, LimitsError,
    NetworkPolicy, Profile, RawValue, TrustGroup, parse_bytes, parse_cpus, parse_duration,
};
use ampoule_manager::shown_name;
use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{ServerConfig, error::Problem};

/// What a caller of `/run` wants.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) language: Language,
    pub(super) code: Code,
    pub(super) arguments: Arguments,
    pub(super) limits: Limits,
    pub(super) network: NetworkPolicy,
    pub(super) profile: Profile,
    pub(super) trust_group: TrustGroup,
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
    let network = taken.field("network", |raw| network(raw, config));
    let profile = taken.field("profile", |raw| profile(raw, config));
    let trust_group = taken.field("trust_group", trust_group);
    let limits = limits(&fields, config.limits, &mut problems);
    match (language, code, arguments, network, profile, trust_group) {
        (
            Some(language),
            Some(code),
            Some(arguments),
            Some(network),
            Some(profile),
            Some(trust_group),
        ) if problems.is_empty() => {
            Ok(Wanted { language, code, arguments, limits, network, profile, trust_group })
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

fn network(raw: Option<&RawValue>, config: &ServerConfig) -> Result<NetworkPolicy, Fault> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(config.network) };
    string(raw)?.parse().map_err(|_| {
        let known = NetworkPolicy::ALL.map(NetworkPolicy::as_str).join("', '");
        ("enum", format!("Input should be one of '{known}'"))
    })
}

fn profile(raw: Option<&RawValue>, config: &ServerConfig) -> Result<Profile, Fault> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(config.profile) };
    string(raw)?.parse().map_err(|_| {
        let known = Profile::ALL.map(Profile::as_str).join("', '");
        ("enum", format!("Input should be one of '{known}'"))
    })
}

fn trust_group(raw: Option<&RawValue>) -> Result<TrustGroup, Fault> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else {
        return Ok(TrustGroup::default());
    };
    string(raw)?.parse().map_err(|error: BadTrustGroup| value_error(error.to_string()))
}

/// The limits of a run: the operator's defaults, and what the request says of each. What is allowed
/// is looked at later, at the same place for every door.
fn limits(
    fields: &HashMap<String, &RawValue>,
    mut limits: Limits,
    problems: &mut Vec<Problem>,
) -> Limits {
    let Some(raw) = fields.get("limits").filter(|raw| raw.get() != "null") else { return limits };
    let Ok(asked) = serde_json::from_str::<HashMap<String, &RawValue>>(raw.get()) else {
        let message = "Input should be a valid dictionary";
        problems.push(Problem::of_field("limits", "dict_type", message));
        return limits;
    };
    // The first by name, so that the same request is always answered alike.
    if let Some(name) = asked.keys().filter(|name| !LIMITS.contains(&name.as_str())).min() {
        let shown: String = shown_name(name).chars().take(LONGEST_SHOWN).collect();
        let known = LIMITS.join("', '");
        let (kind, message) = value_error(format!("unknown limit '{shown}'; hint: '{known}'"));
        problems.push(Problem::of_field("limits", kind, message));
    }
    let mut set = |name: &'static str, take: &mut dyn FnMut(&str) -> Result<(), LimitsError>| {
        let Some(raw) = asked.get(name).filter(|raw| raw.get() != "null") else { return };
        let taken =
            number_or_text(raw).and_then(|text| take(&text).map_err(|error| allowed(&error)));
        if let Err((kind, message)) = taken {
            problems.push(Problem::of_limit(name, kind, message));
        }
    };
    set("timeout", &mut |text| parse_duration(text).map(|wall| limits.wall = wall));
    set("memory", &mut |text| parse_bytes(text).map(|memory| limits.memory = memory));
    set("cpu_time", &mut |text| parse_duration(text).map(|cpu| limits.cpu = Some(cpu)));
    set("cpus", &mut |text| parse_cpus(text).map(|millicpus| limits.millicpus = millicpus));
    set("processes", &mut |text| {
        let number = text.parse().map_err(|_| LimitsError::Processes(text.to_owned()))?;
        limits.processes = number;
        Ok(())
    });
    set("output", &mut |text| parse_bytes(text).map(|output| limits.output = output));
    set("disk", &mut |text| parse_bytes(text).map(|disk| limits.disk = disk));
    limits
}

/// The limits that a request may name.
const LIMITS: [&str; 7] = ["timeout", "memory", "cpu_time", "cpus", "processes", "output", "disk"];

/// How much of an unknown limit's name is repeated, in characters.
const LONGEST_SHOWN: usize = 40;

/// A JSON number as it is written, or the text of a string.
fn number_or_text(raw: &RawValue) -> Result<Cow<'_, str>, Fault> {
    match raw.get().as_bytes().first() {
        Some(b'0'..=b'9' | b'-') => Ok(Cow::Borrowed(raw.get())),
        Some(b'"') => string(raw),
        _ => Err(value_error("a number or a string is needed".to_owned())),
    }
}

/// What is wrong with a limit, without repeating what was sent.
fn allowed(error: &LimitsError) -> Fault {
    value_error(match error {
        LimitsError::Bytes(_) => "not a size; hint: bytes, or `256m` with b, k, m or g".to_owned(),
        LimitsError::Duration(_) => {
            "not a duration; hint: seconds, or as in `90s`, `1m30s`, `500ms`".to_owned()
        }
        LimitsError::Cpus(_) => "not a number of CPUs; hint: as in 1, 0.5 or 2.25".to_owned(),
        LimitsError::Processes(_) => "not a whole number".to_owned(),
        LimitsError::Network(_) => "not a network policy".to_owned(),
    })
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
