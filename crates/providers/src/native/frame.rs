//! The frames between us and a runner: one request in, one result out.
//!
//! A frame is its length as four bytes, little-endian, then JSON. A runner that says so in its
//! manifest speaks [`text_frame`] instead. Everything that comes out is hostile: it is bounded before
//! it is read and strict after.

use ampoule_core::{
    ExecuteRequest, FrameEvidence, MAX_JSON_DEPTH, ProgramError, Protocol, RawValue, json_depth,
};
use serde::{Deserialize, Serialize};

use super::text_frame;

/// The byte with which a runner says that it waits for its request.
pub(super) const READY: u8 = 1;
/// The largest value, in bytes of JSON.
pub(super) const MAX_VALUE: usize = 8 << 20;
/// The largest result frame: the value, the nonce and the keys.
const MAX_FRAME: usize = MAX_VALUE + 1024;
/// The longest error text that is kept.
const MAX_ERROR_TEXT: usize = 16 << 10;

#[derive(Serialize)]
struct RequestFrame<'a> {
    nonce: &'a str,
    code: &'a str,
    arguments: &'a RawValue,
    max_value_bytes: usize,
    max_depth: usize,
}

/// Lays out the request of one run.
pub(super) fn request(
    protocol: Protocol,
    request: &ExecuteRequest,
    nonce: &str,
) -> Result<Vec<u8>, std::io::Error> {
    match protocol {
        Protocol::Frames => json_request(request, nonce),
        Protocol::Text => text_frame::request(request, nonce),
    }
}

fn json_request(request: &ExecuteRequest, nonce: &str) -> Result<Vec<u8>, std::io::Error> {
    let mut bytes = vec![0; 4];
    let frame = RequestFrame {
        nonce,
        code: request.code.as_str(),
        arguments: request.arguments.as_raw(),
        max_value_bytes: MAX_VALUE,
        max_depth: MAX_JSON_DEPTH,
    };
    serde_json::to_writer(&mut bytes, &frame)?;
    let length = u32::try_from(bytes.len() - 4).map_err(std::io::Error::other)?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResultFrame {
    nonce: String,
    // `null` is a value like any other; only a missing key is none.
    #[serde(default, deserialize_with = "present")]
    value: Option<Box<RawValue>>,
    #[serde(default)]
    error: Option<ProgramError>,
}

fn present<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// Takes what comes on the result channel, piece by piece.
#[derive(Debug)]
pub(super) struct FrameReader {
    protocol: Protocol,
    bytes: Vec<u8>,
    /// Bytes beyond what one frame may be.
    overrun: bool,
}

impl FrameReader {
    /// A reader of the one frame of a runner.
    pub(super) fn new(protocol: Protocol) -> Self {
        Self { protocol, bytes: Vec::new(), overrun: false }
    }

    /// Takes a piece. `true` when nothing more of worth can come: the frame is complete, or it
    /// cannot become one.
    pub(super) fn push(&mut self, piece: &[u8]) -> bool {
        if self.overrun {
            return true;
        }
        self.bytes.extend_from_slice(piece);
        let Some(wanted) = self.wanted() else { return false };
        self.overrun = wanted > MAX_FRAME + 4 || self.bytes.len() > wanted;
        self.overrun || self.bytes.len() == wanted
    }

    /// The length of header and frame, once the header is there.
    fn wanted(&self) -> Option<usize> {
        match self.protocol {
            Protocol::Frames => {
                let header = self.bytes.first_chunk::<4>()?;
                usize::try_from(u32::from_le_bytes(*header)).ok()?.checked_add(4)
            }
            Protocol::Text => text_frame::wanted(&self.bytes),
        }
    }

    /// What came, after the channel is closed.
    pub(super) fn finish(self, nonce: &str) -> (FrameEvidence, Option<Box<RawValue>>) {
        if self.bytes.is_empty() && !self.overrun {
            return (FrameEvidence::Absent, None);
        }
        if self.overrun {
            return malformed("more than one frame, or one that is too long");
        }
        if self.wanted() != Some(self.bytes.len()) {
            return malformed("a frame that is cut short");
        }
        match self.protocol {
            Protocol::Frames => finish_json(&self.bytes[4..], nonce),
            Protocol::Text => text_frame::finish(&self.bytes, nonce),
        }
    }
}

fn finish_json(bytes: &[u8], nonce: &str) -> (FrameEvidence, Option<Box<RawValue>>) {
    let frame: ResultFrame = match serde_json::from_slice(bytes) {
        Ok(frame) => frame,
        Err(_) => return malformed("a frame that is not the runner's"),
    };
    if frame.nonce != nonce {
        return malformed("a frame without this run's nonce");
    }
    match (frame.value, frame.error) {
        (Some(value), None) if value.get().len() > MAX_VALUE => {
            malformed("a value that is too large")
        }
        (Some(value), None) if json_depth(value.get()) > MAX_JSON_DEPTH => {
            malformed("a value that is nested too deeply")
        }
        (Some(value), None) => (FrameEvidence::Value, Some(value)),
        (None, Some(error)) => program_error(error),
        _ => malformed("a frame with neither a value nor an error, or with both"),
    }
}

/// A frame that no runner writes.
pub(super) fn malformed(what: &str) -> (FrameEvidence, Option<Box<RawValue>>) {
    (FrameEvidence::Malformed(what.to_owned()), None)
}

/// An error of the program's, with no more text than is of use.
pub(super) fn program_error(mut error: ProgramError) -> (FrameEvidence, Option<Box<RawValue>>) {
    shorten(&mut error.kind, 256);
    shorten(&mut error.message, MAX_ERROR_TEXT);
    (FrameEvidence::Error(error), None)
}

fn shorten(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(json: &str) -> Vec<u8> {
        let mut bytes = u32::try_from(json.len()).unwrap().to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        bytes
    }

    fn read(bytes: &[u8], piece: usize) -> FrameEvidence {
        let mut reader = FrameReader::new(Protocol::Frames);
        for piece in bytes.chunks(piece) {
            reader.push(piece);
        }
        reader.finish("n").0
    }

    #[test]
    fn one_frame_is_read_however_it_is_cut() {
        let bytes = frame(r#"{"nonce":"n","value":null}"#);
        for piece in 1..bytes.len() {
            assert_eq!(read(&bytes, piece), FrameEvidence::Value);
        }
    }

    #[test]
    fn anything_else_is_malformed() {
        let good = frame(r#"{"nonce":"n","value":1}"#);
        let twice = [good.clone(), good.clone()].concat();
        let deep = format!(r#"{{"nonce":"n","value":{}{}}}"#, "[".repeat(101), "]".repeat(101));
        for bytes in [
            &good[..good.len() - 1],
            &good[..3],
            &twice,
            &frame(r#"{"nonce":"x","value":1}"#),
            &frame(r#"{"nonce":"n","value":1,"value":2}"#),
            &frame(r#"{"nonce":"n","value":1,"extra":2}"#),
            &frame(r#"{"nonce":"n","value":1,"error":{"type":"X"}}"#),
            &frame(r#"{"nonce":"n"}"#),
            &frame("[1]"),
            &frame(&deep),
            b"{\"ok\":1}\n",
            &u32::MAX.to_le_bytes(),
        ] {
            for piece in [1, 3, bytes.len()] {
                assert!(
                    matches!(read(bytes, piece), FrameEvidence::Malformed(_)),
                    "{:?}",
                    String::from_utf8_lossy(bytes)
                );
            }
        }
        assert_eq!(read(&[], 1), FrameEvidence::Absent);
    }

    #[test]
    fn a_frame_that_cannot_end_well_is_given_up_at_once() {
        let mut reader = FrameReader::new(Protocol::Frames);
        assert!(reader.push(&[0xff; 8]));
        assert!(reader.push(&[0; 1 << 20]));
        assert!(reader.bytes.len() <= 16);
    }
}
