//! The tables of docs/configuration.md, held against the list of keys.

use std::fmt::Write;

use super::{
    Config, Host,
    foreign::FOREIGN,
    keys::{KEYS, Key},
};

const PAGE: &str = include_str!("../../../../docs/configuration.md");

/// A machine on which nothing is set.
fn bare() -> Host {
    Host { variables: Vec::new(), is_root: true, system_file: "/nowhere/ampoule.toml".into() }
}

fn default_of(key: &Key) -> String {
    match key.default {
        Some(words) => words.to_owned(),
        None => match key.shown(&Config::defaults(&bare())) {
            value if value == "none" => value,
            value => format!("`{value}`"),
        },
    }
}

fn keys_table() -> String {
    let mut text = "| key | variable | flag | decides | allowed | default |\n\
                    | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for key in KEYS {
        let flag = key.flag.map(|flag| format!("`{flag}`")).unwrap_or_default();
        let (path, variable, effect, allowed) = (key.path, key.variable(), key.effect, key.allowed);
        let default = default_of(key);
        let _ = writeln!(
            text,
            "| `{path}` | `{variable}` | {flag} | {effect} | {allowed} | {default} |"
        );
    }
    text
}

fn variables_table() -> String {
    let mut text =
        "| variable | of | effect here | default |\n| --- | --- | --- | --- |\n".to_owned();
    for key in KEYS {
        let Some(name) = key.contract else { continue };
        let (path, effect, default) = (key.path, key.effect, default_of(key));
        let _ = writeln!(
            text,
            "| `{name}` | executor manager, every provider | `{path}`: {effect} | {default} |"
        );
    }
    for foreign in FOREIGN {
        let (name, reader) = (foreign.name, foreign.reader);
        let (meaning, default) = (foreign.meaning, foreign.default);
        let _ = writeln!(text, "| `{name}` | {reader} | not applied: {meaning} | {default} |");
    }
    text
}

/// The part of the page between two marks.
fn part(mark: &str) -> &'static str {
    let (start, end) = (format!("<!-- {mark} -->\n\n"), format!("\n<!-- end of {mark} -->"));
    let from = PAGE.find(&start).map(|at| at + start.len());
    let rest = from.map(|from| &PAGE[from..]).unwrap_or_else(|| panic!("there is no `{mark}`"));
    &rest[..rest.find(&end).unwrap_or_else(|| panic!("`{mark}` has no end"))]
}

#[test]
fn the_page_lists_every_key_and_variable_as_it_is() {
    for (mark, table) in [("keys", keys_table()), ("variables", variables_table())] {
        assert!(part(mark) == table, "docs/configuration.md should have as `{mark}`:\n{table}");
    }
}
