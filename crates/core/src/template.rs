//! What a sandbox is made from, and how a source shows which would suit it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Code, Language};

/// The name of a template of a language beside its bare one, such as `python-data`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TemplateName(String);

impl TemplateName {
    /// Wraps the name that a manifest gives.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TemplateName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A template and the imports that it has ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TemplateHint {
    /// The language that it is of.
    pub language: Language,
    /// Its name.
    pub template: TemplateName,
    /// The modules whose import in a source says that this template would suit it.
    pub imports: Vec<String>,
}

/// The first of `hints` of which a source in `language` imports a module. It only makes a run
/// faster: a source with another look runs in any template.
pub(crate) fn suiting<'hints>(
    hints: &'hints [TemplateHint],
    language: &Language,
    code: &Code,
) -> Option<&'hints TemplateName> {
    let of_language = || hints.iter().filter(|hint| hint.language == *language);
    of_language().next()?;
    let mut found: Option<usize> = None;
    for module in code.as_str().lines().flat_map(imported) {
        let place = of_language().position(|hint| hint.imports.iter().any(|word| word == module));
        found = match (found, place) {
            (Some(found), Some(place)) => Some(found.min(place)),
            (found, place) => found.or(place),
        };
        if found == Some(0) {
            break;
        }
    }
    of_language().nth(found?).map(|hint| &hint.template)
}

/// The modules, without what is below them, that a line imports.
fn imported(line: &str) -> impl Iterator<Item = &str> {
    let statement = line.trim_start();
    let is_import = statement.starts_with("import ") || statement.starts_with("from ");
    let statements = is_import.then(|| statement.split(';')).into_iter().flatten();
    statements.flat_map(|statement| {
        let statement = statement.trim_start();
        let one = statement.strip_prefix("from ");
        let many = statement.strip_prefix("import ").map(|names| names.split(','));
        one.into_iter().chain(many.into_iter().flatten()).map(module)
    })
}

/// The module that a text begins with.
fn module(text: &str) -> &str {
    let text = text.trim_start();
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(template: &str, imports: &[&str]) -> TemplateHint {
        TemplateHint {
            language: Language::new("python"),
            template: TemplateName::new(template),
            imports: imports.iter().map(|&word| word.to_owned()).collect(),
        }
    }

    fn chosen(source: &str) -> Option<String> {
        let hints = [hint("python-data", &["numpy", "pandas"]), hint("python-web", &["requests"])];
        let code = Code::new(source).unwrap();
        suiting(&hints, &Language::new("python"), &code).map(TemplateName::to_string)
    }

    #[test]
    fn an_import_of_any_shape_chooses_its_template() {
        for source in [
            "import numpy",
            "import numpy as np",
            "import os, numpy as np",
            "import os,numpy",
            "import numpy.linalg",
            "from numpy.linalg import svd",
            "from pandas import *",
            "def main():\n    import pandas as pd\n",
            "\timport  pandas",
            "import os; import numpy",
            "import numpy # the usual",
            "x = 1\r\nimport numpy\r\n",
        ] {
            assert_eq!(chosen(source).as_deref(), Some("python-data"), "{source:?}");
        }
        assert_eq!(chosen("import requests").as_deref(), Some("python-web"));
    }

    #[test]
    fn whatever_else_has_the_word_chooses_none() {
        for source in [
            "numpy = 1",
            "importnumpy = 1",
            "import numpy_financial",
            "from .numpy import x",
            "from my.numpy import x",
            "import os as numpy",
            "print('import numpy')",
            "# import numpy",
            "import",
            "from ",
            "import ,",
        ] {
            assert_eq!(chosen(source), None, "{source:?}");
        }
    }

    #[test]
    fn the_first_template_wins_and_another_language_has_its_own() {
        let both = "import requests\nimport numpy";
        assert_eq!(chosen(both).as_deref(), Some("python-data"));
        let hints = [hint("python-data", &["numpy"])];
        let code = Code::new("import numpy").unwrap();
        assert_eq!(suiting(&hints, &Language::new("javascript"), &code), None);
    }
}
