//! JSON text laid out anew without being read: numbers and strings stay as they were written.

/// The text on one line, or with indentation for people.
pub(crate) fn lay_out(json: &str, pretty: bool) -> String {
    let mut out = String::with_capacity(json.len());
    let mut depth = 0_usize;
    let mut characters = json.chars().filter(|c| !c.is_ascii_control()).peekable();
    let line = |out: &mut String, depth: usize| {
        if pretty {
            out.push('\n');
            out.push_str(&"  ".repeat(depth));
        }
    };
    while let Some(c) = characters.next() {
        match c {
            '"' => {
                out.push(c);
                while let Some(inside) = characters.next() {
                    out.push(inside);
                    match inside {
                        '\\' => out.extend(characters.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '{' | '[' => {
                out.push(c);
                while characters.next_if(|next| *next == ' ').is_some() {}
                if let Some(close) = characters.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' if pretty => out.push_str(": "),
            ' ' => {}
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str =
        "{ \"a\" :[1, 2.50,\n 12345678901234567890123 ],\"b: {\\\"\" : {}, \"c\":[ ] }";

    #[test]
    fn one_line_keeps_numbers_and_strings() {
        assert_eq!(
            lay_out(JSON, false),
            r#"{"a":[1,2.50,12345678901234567890123],"b: {\"":{},"c":[]}"#
        );
        assert_eq!(lay_out(" \"a  b\" ", false), "\"a  b\"");
    }

    #[test]
    fn indentation_is_for_people() {
        let pretty = "{\n  \"a\": [\n    1,\n    2.50,\n    12345678901234567890123\n  ],\n  \"b: {\\\"\": {},\n  \"c\": []\n}";
        assert_eq!(lay_out(JSON, true), pretty);
    }
}
