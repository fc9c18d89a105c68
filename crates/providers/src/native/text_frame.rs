//! The same request and the same result as text, for runners that cannot easily read JSON.
//!
//! ```text
//! request   an item after the other, each a line with its name and the number of bytes of the next
//!           line, then that line; in it `\\` stands for a backslash, `\n` for a line feed, `\0` for
//!           a null byte:
//!               nonce, max_value_bytes, max_depth, code, arguments (the JSON object),
//!               for each key of the object: key, then string (its text) or json (any other value),
//!               end (empty)
//! result    `NONCE value LENGTH`, a line feed, LENGTH bytes of JSON; or
//!           `NONCE error LENGTH`, a line feed, LENGTH bytes: the type, a line feed, the line of the
//!           program or nothing, a line feed, the message
//! ```
//!
//! A shell reads an item with `read` and writes a result with `printf`. What it gives for a value
//! need not be JSON, because nothing there checks it: that is an error of the program.

use std::{collections::BTreeMap, io::Write as _};

use ampoule_core::{
    ExecuteRequest, FrameEvidence, MAX_JSON_DEPTH, ProgramError, RawValue, json_depth,
};

use super::frame::{MAX_VALUE, malformed, program_error};

/// The longest first line of a result: nonce, kind and length, with room to spare.
const MAX_HEADER: usize = 128;

/// Lays out the request of one run.
pub(super) fn request(request: &ExecuteRequest, nonce: &str) -> Result<Vec<u8>, std::io::Error> {
    let arguments = request.arguments.as_raw().get();
    let mut bytes = Vec::new();
    item(&mut bytes, "nonce", nonce)?;
    item(&mut bytes, "max_value_bytes", &MAX_VALUE.to_string())?;
    item(&mut bytes, "max_depth", &MAX_JSON_DEPTH.to_string())?;
    item(&mut bytes, "code", request.code.as_str())?;
    item(&mut bytes, "arguments", arguments)?;
    let arguments: BTreeMap<String, &RawValue> = serde_json::from_str(arguments)?;
    for (key, value) in arguments {
        item(&mut bytes, "key", &key)?;
        // Half a surrogate pair is no text, and stays the JSON that it came as.
        match serde_json::from_str::<String>(value.get()) {
            Ok(text) => item(&mut bytes, "string", &text)?,
            Err(_) => item(&mut bytes, "json", value.get())?,
        }
    }
    item(&mut bytes, "end", "")?;
    Ok(bytes)
}

fn item(bytes: &mut Vec<u8>, name: &str, text: &str) -> std::io::Result<()> {
    let escaped = text.replace('\\', r"\\").replace('\n', r"\n").replace('\0', r"\0");
    write!(bytes, "{name} {}\n{escaped}\n", escaped.len())
}

/// The length of a whole result, once its first line is there. A first line that no runner writes
/// makes it longer than any may be.
pub(super) fn wanted(bytes: &[u8]) -> Option<usize> {
    let first = bytes.iter().take(MAX_HEADER).position(|byte| *byte == b'\n');
    match first {
        Some(end) => Some(
            Header::read(&bytes[..end])
                .map_or(usize::MAX, |header| header.length.saturating_add(end + 1)),
        ),
        None if bytes.len() >= MAX_HEADER => Some(usize::MAX),
        None => None,
    }
}

/// What a whole result says.
pub(super) fn finish(bytes: &[u8], nonce: &str) -> (FrameEvidence, Option<Box<RawValue>>) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (header, body) = (Header::read(&bytes[..end]), bytes.get(end + 1..).unwrap_or_default());
    match header {
        Some(header) if header.nonce != nonce => malformed("a frame without this run's nonce"),
        Some(Header { kind: "value", .. }) => value(body),
        Some(Header { kind: "error", .. }) => program_error(error(body)),
        _ => malformed("a frame that is not the runner's"),
    }
}

/// The first line of a result.
struct Header<'a> {
    nonce: &'a str,
    kind: &'a str,
    length: usize,
}

impl<'a> Header<'a> {
    fn read(line: &'a [u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(line).ok()?.split(' ');
        let (nonce, kind, length) = (words.next()?, words.next()?, words.next()?);
        let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let length = is_number.then(|| length.parse().ok())??;
        words.next().is_none().then_some(Self { nonce, kind, length })
    }
}

fn value(body: &[u8]) -> (FrameEvidence, Option<Box<RawValue>>) {
    if body.len() > MAX_VALUE {
        return malformed("a value that is too large");
    }
    let refuse = |message: String| {
        program_error(ProgramError { kind: "ValueError".to_owned(), message, line: None })
    };
    match serde_json::from_slice::<Box<RawValue>>(body) {
        // The parser tells a place and never the text.
        Err(error) => refuse(format!("the value is not JSON: {error}")),
        Ok(value) if json_depth(value.get()) > MAX_JSON_DEPTH => {
            refuse(format!("the value is nested deeper than {MAX_JSON_DEPTH} levels"))
        }
        Ok(value) => (FrameEvidence::Value, Some(value)),
    }
}

fn error(body: &[u8]) -> ProgramError {
    let text = String::from_utf8_lossy(body);
    let mut parts = text.splitn(3, '\n');
    let mut part = || parts.next().unwrap_or_default();
    let (kind, line, message) = (part(), part(), part());
    ProgramError { kind: kind.to_owned(), message: message.to_owned(), line: line.parse().ok() }
}

#[cfg(test)]
#[path = "text_frame_tests.rs"]
mod tests;
