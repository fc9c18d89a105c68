//! Bytes of a stranger, made text.

/// Decodes UTF-8 that arrives in pieces. A character split over two reads survives; other bytes
/// become U+FFFD.
#[derive(Clone, Debug, Default)]
pub struct Utf8Decoder {
    held: Vec<u8>,
}

impl Utf8Decoder {
    /// Decodes what `bytes` completes, holding back the start of an unfinished character.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.held.len());
        let mut rest: &[u8] = &self.held;
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    let Some(bad) = error.error_len() else {
                        rest = after;
                        break;
                    };
                    text.push('\u{fffd}');
                    rest = &after[bad..];
                }
            }
        }
        self.held = rest.to_vec();
        text
    }

    /// Gives what is left at the end: an unfinished character is U+FFFD.
    pub fn finish(&mut self) -> String {
        let left = std::mem::take(&mut self.held);
        String::from_utf8_lossy(&left).into_owned()
    }
}

/// The deepest nesting of arrays and objects in JSON text that has already been found well-formed.
pub fn json_depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in json.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However the bytes are cut, the text is what decoding them at once gives.
        #[test]
        fn pieces_decode_as_the_whole(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 1_usize..7) {
            let mut decoder = Utf8Decoder::default();
            let mut text = String::new();
            for piece in bytes.chunks(cut) {
                text.push_str(&decoder.push(piece));
            }
            text.push_str(&decoder.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn a_split_character_survives(text in "\\PC{0,40}", cut in 1_usize..5) {
            let mut decoder = Utf8Decoder::default();
            let joined: String = text.as_bytes().chunks(cut).map(|piece| decoder.push(piece)).collect();
            prop_assert_eq!(joined, text);
        }
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert_eq!(json_depth(r#"{"a":[1,{"b":"[[[\"[["}]}"#), 3);
        assert_eq!(json_depth("1"), 0);
    }
}
