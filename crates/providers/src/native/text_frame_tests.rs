//! Text frames, as they should be and as they should not.

use ampoule_core::{
    Arguments, Code, ExecutionId, Language, Limits, NetworkPolicy, Profile, Protocol, TrustGroup,
};
use proptest::prelude::*;

use super::*;
use crate::native::frame::FrameReader;

fn read(bytes: &[u8], piece: usize) -> (FrameEvidence, Option<Box<RawValue>>) {
    let mut reader = FrameReader::new(Protocol::Text);
    for piece in bytes.chunks(piece) {
        reader.push(piece);
    }
    reader.finish("n")
}

fn frame(kind: &str, body: &str) -> Vec<u8> {
    format!("n {kind} {}\n{body}", body.len()).into_bytes()
}

fn lay_out(code: &str, arguments: &str) -> String {
    let run = ExecuteRequest {
        id: ExecutionId::new("test"),
        language: Language::new("bash"),
        code: Code::new(code).unwrap(),
        arguments: Arguments::parse(arguments).unwrap(),
        limits: Limits::default(),
        network: NetworkPolicy::None,
        profile: Profile::Fast,
        trust_group: TrustGroup::default(),
    };
    String::from_utf8(request(&run, "n").unwrap()).unwrap()
}

/// Reads a request as a runner does.
fn items(text: &str) -> Vec<(String, String)> {
    let mut rest = text;
    let mut items = Vec::new();
    while !rest.is_empty() {
        let (header, after) = rest.split_once('\n').unwrap();
        let (name, length) = header.split_once(' ').unwrap();
        let (line, after) = after.split_at(length.parse().unwrap());
        assert!(!line.contains('\n') && !line.contains('\0'));
        let mut characters = line.chars();
        let mut plain = String::new();
        while let Some(character) = characters.next() {
            plain.push(match character {
                '\\' => match characters.next().unwrap() {
                    'n' => '\n',
                    '0' => '\0',
                    '\\' => '\\',
                    other => panic!("`\\{other}` stands for nothing"),
                },
                other => other,
            });
        }
        items.push((name.to_owned(), plain));
        rest = after.strip_prefix('\n').unwrap();
    }
    items
}

#[test]
fn a_request_is_one_item_after_the_other() {
    let arguments = r#"{"n": 1, "text": "a\nb", "list": [1,
 2], "half": "\ud800"}"#;
    assert_eq!(
        lay_out("echo 'a\\b'\n", arguments),
        concat!(
            "nonce 1\nn\nmax_value_bytes 7\n8388608\nmax_depth 3\n100\n",
            "code 13\necho 'a\\\\b'\\n\n",
            "arguments 62\n{\"n\": 1, \"text\": \"a\\\\nb\", \"list\": [1,\\n 2], \"half\": \"\\\\ud800\"}\n",
            "key 4\nhalf\njson 9\n\"\\\\ud800\"\n",
            "key 4\nlist\njson 8\n[1,\\n 2]\n",
            "key 1\nn\njson 1\n1\n",
            "key 4\ntext\nstring 4\na\\nb\n",
            "end 0\n\n",
        )
    );
}

#[test]
fn one_text_frame_is_read_however_it_is_cut() {
    let bytes = frame("value", " {\"a\":\n [1]}\n");
    for piece in 1..=bytes.len() {
        let (evidence, value) = read(&bytes, piece);
        assert_eq!(evidence, FrameEvidence::Value);
        assert_eq!(value.unwrap().get(), "{\"a\":\n [1]}");
    }
}

#[test]
fn an_error_has_a_type_a_line_and_a_message() {
    for (body, kind, line, message) in [
        ("SyntaxError\n3\nnear `(`\nand so on", "SyntaxError", Some(3), "near `(`\nand so on"),
        ("Error\n\n", "Error", None, ""),
        ("Error", "Error", None, ""),
        ("Error\n-1\nx", "Error", None, "x"),
        ("", "", None, ""),
    ] {
        let wanted = ProgramError { kind: kind.into(), message: message.into(), line };
        assert_eq!(read(&frame("error", body), 7).0, FrameEvidence::Error(wanted));
    }
    let long = format!("{}\n\n{}", "T".repeat(1000), "é".repeat(1 << 20));
    let FrameEvidence::Error(error) = read(&frame("error", &long), 1 << 16).0 else {
        panic!("no error")
    };
    assert!(error.kind.len() == 256 && error.message.len() == 16 << 10);
}

#[test]
fn a_value_that_is_not_json_is_the_programs_error() {
    let deep = format!("{}{}", "[".repeat(101), "]".repeat(101));
    let very_deep = "[".repeat(1 << 20);
    for (body, said) in [
        ("", "not JSON: EOF"),
        ("yes", "not JSON: expected value at line 1 column 1"),
        ("{\"a\": 1", "not JSON: EOF"),
        ("1 2", "not JSON: trailing characters at line 1 column 3"),
        ("'a'", "not JSON"),
        ("\"a\nb\"", "not JSON: control character"),
        ("\0", "not JSON"),
        (deep.as_str(), "deeper than 100 levels"),
        (very_deep.as_str(), "not JSON"),
    ] {
        let (evidence, value) = read(&frame("value", body), 1 << 16);
        let FrameEvidence::Error(error) = evidence else { panic!("{body:?}: {evidence:?}") };
        assert_eq!(error.kind, "ValueError");
        assert!(error.message.contains(said), "{body:?}: {}", error.message);
        assert!(value.is_none());
    }
    let not_text = [b"n value 3\n\"".as_slice(), b"\xff\""].concat();
    assert!(matches!(read(&not_text, 3).0, FrameEvidence::Error(_)));
}

#[test]
fn any_other_text_is_malformed() {
    let good = frame("value", "1");
    let twice = [good.clone(), good.clone()].concat();
    let large = format!("n value {}\n", MAX_VALUE + 2000).into_bytes();
    for bytes in [
        &good[..good.len() - 1],
        &good[..5],
        &twice,
        &[good.as_slice(), b"\n"].concat(),
        b"x value 1\n1",
        b"n result 1\n1",
        b"n value +1\n1",
        b"n value -1\n",
        b"n value 1 \n1",
        b"n  value 1\n1",
        b" n value 1\n1",
        b"n value\n1",
        b"n value 99999999999999999999999\n1",
        b"\n",
        b"1\n",
        b"{\"nonce\":\"n\",\"value\":1}\n",
        b"\x17\0\0\0{\"nonce\":\"n\",\"value\":1}",
        &large,
        &[b'a'; 4096],
    ] {
        for piece in [1, 3, bytes.len()] {
            assert!(
                matches!(read(bytes, piece).0, FrameEvidence::Malformed(_)),
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }
    assert_eq!(read(&[], 1).0, FrameEvidence::Absent);
}

#[test]
fn a_text_frame_that_cannot_end_well_is_given_up_at_once() {
    for start in [b"rubbish\n".as_slice(), b"n value 99999999\n", &[b'a'; MAX_HEADER]] {
        let mut reader = FrameReader::new(Protocol::Text);
        assert!(reader.push(start), "{start:?}");
        assert!(reader.push(&[0; 1 << 20]));
    }
}

proptest! {
    #[test]
    fn a_runner_reads_what_was_asked(code in "\\PC*|[\\\\\0\n\ra]{0,40}", text in "[\\\\\0\n\"{}é]{0,40}", key in "[\\\\\n a-z]{0,9}") {
        prop_assume!(Code::new(&code).is_ok());
        let arguments = serde_json::json!({ &key: text, "number": 7 });
        let found = items(&lay_out(&code, &arguments.to_string()));
        let has = |name: &str, text: &str| found.iter().any(|item| item.0 == name && item.1 == text);
        prop_assert!(has("code", Code::new(&code).unwrap().as_str()));
        prop_assert!(has("arguments", &arguments.to_string()));
        prop_assert!(has("key", &key) && has("json", "7"));
        prop_assert!(key == "number" || has("string", &text));
        prop_assert_eq!(found.last().unwrap().0.as_str(), "end");
    }

    #[test]
    fn no_bytes_give_a_value_without_the_nonce(bytes in proptest::collection::vec(any::<u8>(), 0..200), piece in 1_usize..50) {
        // The nonce is one letter here, so that chance could meet it: those are left out.
        prop_assume!(!bytes.starts_with(b"n "));
        let (evidence, value) = read(&bytes, piece);
        prop_assert!(value.is_none());
        prop_assert!(matches!(evidence, FrameEvidence::Malformed(_)) || bytes.is_empty());
    }

    #[test]
    fn a_frame_gives_its_value_and_only_whole(number in any::<i64>(), text in "\\PC*", cut in any::<proptest::sample::Index>(), more in "\\PC+") {
        let json = serde_json::json!([number, text]).to_string();
        let whole = frame("value", &json);
        let (evidence, value) = read(&whole, 7);
        prop_assert_eq!(evidence, FrameEvidence::Value);
        prop_assert_eq!(value.map(|value| value.get().to_owned()), Some(json));
        let short = &whole[..cut.index(whole.len())];
        prop_assert!(read(short, 7).1.is_none());
        let long = [whole.as_slice(), more.as_bytes()].concat();
        prop_assert!(matches!(read(&long, 7).0, FrameEvidence::Malformed(_)));
    }
}
