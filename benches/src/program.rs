//! The programs that are run, and how their answers are checked.
//!
//! Every call carries a number of its own, and its answer must be the value for that number: an answer
//! that got to somebody else, or came from an earlier run, is seen. Nothing is parsed for that: the
//! programs print nothing, so what they did not return cannot be in the body.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    client::Answer,
    failure::{Failure, Result},
};

/// The first of the numbers: they all have eight digits, so that a request keeps its length.
const FIRST: u32 = 10_000_000;
const NUMBERS: u32 = 89_999_999;

/// A program and the value that it must return for a number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    pub(crate) language: &'static str,
    pub(crate) code: &'static str,
    pub(crate) value: fn(u32) -> u64,
    /// More fields of the request, as JSON with a comma before.
    pub(crate) fields: &'static str,
}

fn same(n: u32) -> u64 {
    n.into()
}

/// A trivial `main`.
pub(crate) const PYTHON: Program =
    Program { language: "python", code: "def main(n):\n    return n\n", value: same, fields: "" };

/// The same in an interpreter of its own exec.
pub(crate) const STRICT: Program = Program { fields: ",\"profile\":\"strict\"", ..PYTHON };

/// A trivial `main`.
pub(crate) const NODE: Program = Program {
    language: "nodejs",
    code: "function main({ n }) { return n }\n",
    value: same,
    fields: "",
};

/// A small DataFrame.
pub(crate) const PANDAS: Program = Program {
    language: "python",
    code: "import pandas\n\ndef main(n):\n    frame = pandas.DataFrame({'a': [n, n + 1, n + 2], \
           'b': [1, 2, 3]})\n    return int((frame.a * frame.b).sum())\n",
    value: |n| u64::from(n) * 6 + 8,
    fields: "",
};

/// Which way a run came by its sandbox, where the answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pool {
    Hit,
    Miss,
    Untold,
}

/// A request of `/run` as it goes over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    /// Where the number stands.
    number_at: usize,
    number: u32,
    value: fn(u32) -> u64,
}

impl Request {
    /// Builds it once.
    pub(crate) fn new(program: &Program) -> Self {
        let body = format!(
            "{{\"code_b64\":\"{}\",\"language\":\"{}\"{},\"arguments\":{{\"n\":{FIRST}}}}}",
            STANDARD.encode(program.code),
            program.language,
            program.fields,
        );
        let bytes = post(&body);
        let number_at = bytes.len() - "}}".len() - FIRST.to_string().len();
        Self { bytes, number_at, number: FIRST, value: program.value }
    }

    /// Begins at another number, so that clients do not share numbers.
    pub(crate) fn starting_at(mut self, index: u32) -> Self {
        self.number = FIRST + index % NUMBERS;
        self.write_number();
        self
    }

    /// Takes the next number and gives what goes over the wire.
    pub(crate) fn next(&mut self) -> &[u8] {
        self.number = FIRST + (self.number - FIRST + 1) % NUMBERS;
        self.write_number();
        &self.bytes
    }

    fn write_number(&mut self) {
        let digits = self.number.to_string();
        self.bytes[self.number_at..self.number_at + digits.len()]
            .copy_from_slice(digits.as_bytes());
    }

    /// Checks the answer to what [`Request::next`] gave last.
    pub(crate) fn check(&self, answer: Answer<'_>) -> Result<Pool> {
        let value = (self.value)(self.number);
        let wanted = format!("\"result\":{{\"present\":true,\"value\":{value},\"type\":\"json\"}}");
        let is_right = answer.status == 200
            && answer.body.contains("\"status\":\"success\"")
            && answer.body.contains(&wanted);
        if is_right {
            return Ok(pool(answer.body));
        }
        let shown: String = answer.body.chars().take(600).collect();
        Err(Failure::Wrong(format!("{value} was wanted, HTTP {}: {shown}", answer.status)))
    }
}

/// A `POST /run` with this body.
pub(crate) fn post(body: &str) -> Vec<u8> {
    format!(
        "POST /run HTTP/1.1\r\nHost: ampoule\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn pool(body: &str) -> Pool {
    if body.contains("\"pool\":\"hit\"") {
        Pool::Hit
    } else if body.contains("\"pool\":\"miss\"") {
        Pool::Miss
    } else {
        Pool::Untold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(request: &[u8]) -> serde_json::Value {
        let text = str::from_utf8(request).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        serde_json::from_str(body).unwrap()
    }

    #[test]
    fn each_request_has_its_number_and_keeps_its_length() {
        for program in [PYTHON, STRICT, NODE, PANDAS] {
            let mut request = Request::new(&program).starting_at(99_998);
            let (first, second) = (request.next().to_vec(), request.next().to_vec());
            assert_eq!(first.len(), second.len());
            assert_eq!(body(&first)["arguments"]["n"], 10_099_999);
            assert_eq!(body(&second)["arguments"]["n"], 10_100_000);
            let code = STANDARD.decode(body(&first)["code_b64"].as_str().unwrap()).unwrap();
            assert_eq!(code, program.code.as_bytes());
        }
        assert_eq!(body(Request::new(&STRICT).next())["profile"], "strict");
    }

    #[test]
    fn only_the_value_for_its_own_number_is_right() {
        let mut request = Request::new(&PYTHON);
        request.next();
        let answer = |status, word, value: u64| {
            let body = format!(
                "{{\"status\":\"{word}\",\"pool\":\"hit\",\"result\":{{\"present\":true,\
                 \"value\":{value},\"type\":\"json\"}}}}"
            );
            request.check(Answer { status, body: &body })
        };
        assert_eq!(answer(200, "success", 10_000_001).unwrap(), Pool::Hit);
        for (status, word, value) in [
            (200, "success", 10_000_000),
            (200, "success", 100_000_010),
            (200, "program_error", 10_000_001),
            (500, "success", 10_000_001),
        ] {
            let checked = answer(status, word, value);
            assert!(matches!(checked, Err(Failure::Wrong(_))), "{status} {word} {value}");
        }
    }
}
