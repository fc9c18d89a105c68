//! The languages that every installation has.

mod javascript;
mod python;

use ampoule_core::Language;
use serde_json::Value;

use super::act::{Act, Programs};

/// A port on the loopback that nothing is expected on.
const PORT: u16 = 47_811;

/// Programs in Python and JavaScript.
#[derive(Clone, Copy, Debug, Default)]
pub struct BuiltIn;

impl Programs for BuiltIn {
    fn knows(&self, language: &Language) -> bool {
        matches!(language.as_str(), "python" | "javascript")
    }

    fn statements(&self, language: &Language, act: &Act) -> Option<String> {
        match language.as_str() {
            "python" => python::statements(act),
            "javascript" => javascript::statements(act),
            _ => None,
        }
    }

    fn program(&self, language: &Language, statements: &[String]) -> String {
        match language.as_str() {
            "python" => python::program(statements),
            _ => javascript::program(statements),
        }
    }
}

/// A string literal: JSON is one in both languages.
fn quote(text: &str) -> String {
    Value::from(text).to_string()
}
