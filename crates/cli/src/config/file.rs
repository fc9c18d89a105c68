//! ampoule.toml, read with the place of everything in it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{keys::KEYS, layers::Host, values::Given};
use crate::exit::Failure;

/// What the operator of this machine decides.
pub(super) const SYSTEM_FILE: &str = "/etc/ampoule/ampoule.toml";

/// A value of the file.
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) given: Given,
    pub(super) line: usize,
    /// Where the value is, for an error.
    pub(super) place: String,
}

/// The file that holds here: the one that is named, else the first of those that are there.
///
/// Never one of the current directory: it may have come with somebody's checkout. For root the
/// system's only, because a home may be somebody else's when `sudo` keeps it.
pub(super) fn find(host: &Host, named: Option<&Path>) -> Option<PathBuf> {
    if let Some(path) = named {
        return Some(path.to_owned());
    }
    candidates(host).into_iter().find(|path| path.exists())
}

/// Where a file is looked for that nobody names.
pub(super) fn candidates(host: &Host) -> Vec<PathBuf> {
    let set = |name| host.variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    let own = own.filter(|_| !host.is_root).map(|path| path.join("ampoule/ampoule.toml"));
    own.into_iter().chain([host.system_file.clone()]).collect()
}

/// Reads a file. Every key in it is known, and has a value that can be a key's.
pub(super) fn read(path: &Path) -> Result<Vec<Entry>, Failure> {
    let shown = path.display();
    let bytes = fs::read(path).map_err(|error| {
        let hint = "hint: `--config` or AMPOULE_CONFIG name another";
        Failure::usage(format!("failed to read the configuration `{shown}`: {error}; {hint}"))
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        Failure::usage(format!("`{shown}` is not UTF-8 (first bad byte at offset {offset})"))
    })?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Vec<Entry>, Failure> {
    let mut reader = Reader { path, text, entries: Vec::new() };
    let table = DeTable::parse(text).map_err(|error| {
        let place = reader.place(error.span().map_or(0, |span| span.start));
        // Of the parser's words the first line; more of the file is not repeated.
        let message = error.message().lines().next().unwrap_or_default();
        Failure::usage(format!("{place}: it is not TOML ({message})"))
    })?;
    reader.table("", table.get_ref())?;
    Ok(reader.entries)
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    entries: Vec<Entry>,
}

impl Reader<'_> {
    /// `file:line:column` of a byte.
    fn place(&self, offset: usize) -> String {
        let (line, column) = self.line_and_column(offset);
        format!("{}:{line}:{column}", self.path.display())
    }

    fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    fn table(&mut self, parent: &str, table: &DeTable<'_>) -> Result<(), Failure> {
        for (name, value) in table {
            let path = match parent {
                "" => name.get_ref().to_string(),
                parent => format!("{parent}.{}", name.get_ref()),
            };
            let is_key = KEYS.iter().any(|key| key.path == path);
            let is_table = KEYS.iter().any(|key| {
                key.path.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with('.'))
            });
            let place = self.place(name.span().start);
            match value.get_ref() {
                DeValue::Table(table) if is_table => self.table(&path, table)?,
                _ if !is_key && !is_table => return Err(unknown(&place, parent, &path)),
                DeValue::Table(_) => {
                    return Err(Failure::usage(format!("{place}: `{path}` has a value, no keys")));
                }
                _ if is_table => {
                    let known = known_in(&path).join("`, `");
                    return Err(Failure::usage(format!(
                        "{place}: `{path}` has keys, no value; hint: `{known}`"
                    )));
                }
                _ => {
                    let entry = self.entry(path, value)?;
                    self.entries.push(entry);
                }
            }
        }
        Ok(())
    }

    fn entry(&self, path: String, value: &Spanned<DeValue<'_>>) -> Result<Entry, Failure> {
        let offset = value.span().start;
        let place = self.place(offset);
        let given = match value.get_ref() {
            DeValue::Array(values) => {
                let texts = values.iter().map(|value| text(value.get_ref())).collect();
                let texts: Option<Vec<String>> = texts;
                texts.map(Given::List)
            }
            value => text(value).map(Given::Text),
        };
        let given = given.ok_or_else(|| {
            let hint = "hint: a string, a number, `true`, `false`, or a list of them";
            Failure::usage(format!("{place}: `{path}` cannot have such a value; {hint}"))
        })?;
        Ok(Entry { path, given, line: self.line_and_column(offset).0, place })
    }
}

/// A single value as text.
fn text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            i128::from_str_radix(number.as_str(), number.radix()).ok().map(|it| it.to_string())
        }
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(value) => Some(value.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// The names that may stand in a table.
fn known_in(parent: &str) -> Vec<&'static str> {
    let mut known: Vec<&str> = KEYS
        .iter()
        .filter_map(|key| match parent {
            "" => Some(key.path),
            parent => key.path.strip_prefix(parent)?.strip_prefix('.'),
        })
        .map(|rest| rest.split('.').next().unwrap_or(rest))
        .collect();
    known.dedup();
    known
}

fn unknown(place: &str, parent: &str, path: &str) -> Failure {
    let nearest = nearest(path, KEYS.iter().map(|key| key.path.to_owned()));
    let meant = nearest.map(|near| format!("perhaps `{near}`; ")).unwrap_or_default();
    let known = known_in(parent).join("`, `");
    Failure::usage(format!("{place}: unknown key `{path}`; hint: {meant}known here are `{known}`"))
}

/// What was probably meant: the name that is fewest slips away, and not more than a few.
pub(super) fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let slips = known.map(|known| (strsim::damerau_levenshtein(name, &known), known));
    let best = slips.min_by_key(|(slips, _)| *slips);
    best.filter(|(slips, known)| *slips <= 3 && *slips * 3 <= known.len()).map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever stands in a file, it is read, or refused with the place of what is wrong.
        #[test]
        fn any_text_is_read_or_refused_with_a_place(
            pieces in proptest::collection::vec(
                "limits|queue|listen|max|timeout|\\[|\\]|=|\\.|\"|'|[0-9]{1,3}|\\{|\\}|,|\n|\r\n| |#|é|\\\\|true",
                0..30,
            )
        ) {
            let text = pieces.concat();
            match parse(Path::new("FILE"), &text) {
                Ok(entries) => for entry in entries {
                    prop_assert!(entry.line >= 1 && entry.line <= text.matches('\n').count() + 1);
                },
                Err(failure) => prop_assert!(failure.message.starts_with("FILE:"), "{}", failure.message),
            }
        }
    }
}
