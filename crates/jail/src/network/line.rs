//! The messages between launcher and keeper: one datagram each, told apart by their first byte.

/// The longest message.
pub(crate) const LINE_LEN: usize = 320;

/// What the launcher asks. With it come the cell's network namespace, its user namespace, and the
/// end of a pipe: when the other end closes, the helper is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connect {
    /// The launcher's name for the run.
    pub(crate) token: u64,
}

/// What the keeper answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The way is open.
    Up {
        /// Of the request.
        token: u64,
    },
    /// The helper has ended and is reaped; empty if it did what it was told to.
    Gone {
        /// Of the request.
        token: u64,
        /// What it said at its end.
        text: String,
    },
}

fn message(kind: u8, token: u64, text: &str) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&token.to_le_bytes());
    let most = text.floor_char_boundary(LINE_LEN - bytes.len());
    bytes.extend_from_slice(&text.as_bytes()[..most]);
    bytes
}

fn split(bytes: &[u8]) -> Option<(u8, u64, &[u8])> {
    let (kind, rest) = bytes.split_first()?;
    let (token, text) = rest.split_first_chunk()?;
    Some((*kind, u64::from_le_bytes(*token), text))
}

impl Connect {
    pub(crate) fn encode(self) -> Vec<u8> {
        message(b'C', self.token, "")
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        match split(bytes)? {
            (b'C', token, []) => Some(Self { token }),
            _ => None,
        }
    }
}

impl Answer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Up { token } => message(b'U', *token, ""),
            Self::Gone { token, text } => message(b'G', *token, text),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        match split(bytes)? {
            (b'U', token, []) => Some(Self::Up { token }),
            (b'G', token, text) => {
                Some(Self::Gone { token, text: String::from_utf8_lossy(text).into_owned() })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_survive_the_line_and_others_are_none(token: u64, text in "[a-zé ]{0,400}", noise in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(Connect::decode(&Connect { token }.encode()), Some(Connect { token }));
            let bytes = Answer::Gone { token, text: text.clone() }.encode();
            prop_assert!(bytes.len() <= LINE_LEN);
            let Some(Answer::Gone { token: heard, text: kept }) = Answer::decode(&bytes) else { panic!() };
            prop_assert!(heard == token && text.starts_with(&kept));
            prop_assert_eq!(Answer::decode(&Answer::Up { token }.encode()), Some(Answer::Up { token }));
            let _ = (Connect::decode(&noise), Answer::decode(&noise));
        }
    }
}
