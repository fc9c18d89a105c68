//! The names by which callers mean a language.

use ampoule_core::Language;

/// The languages of this service, each with its other names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Languages(Vec<(Language, Vec<String>)>);

impl Languages {
    /// Languages with their aliases.
    pub fn new(languages: impl IntoIterator<Item = (Language, Vec<String>)>) -> Self {
        Self(languages.into_iter().collect())
    }

    /// The language that `name` means, in any case.
    pub fn resolve(&self, name: &str) -> Option<&Language> {
        self.0
            .iter()
            .find(|(language, aliases)| {
                language.as_str().eq_ignore_ascii_case(name)
                    || aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
            })
            .map(|(language, _)| language)
    }

    /// The canonical languages.
    pub fn canonical(&self) -> impl Iterator<Item = &Language> {
        self.0.iter().map(|(language, _)| language)
    }

    /// Every name that [`Languages::resolve`] knows.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|(language, aliases)| {
            std::iter::once(language.as_str()).chain(aliases.iter().map(String::as_str))
        })
    }
}

impl Default for Languages {
    /// Python and JavaScript, by the names that RAGFlow and people use.
    fn default() -> Self {
        let aliases = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self::new([
            (Language::new("python"), aliases(&["python3"])),
            (Language::new("javascript"), aliases(&["nodejs", "js", "node"])),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_mean_their_language_in_any_case() {
        let languages = Languages::default();
        for name in ["nodejs", "JavaScript", "JS", "node"] {
            assert_eq!(languages.resolve(name).unwrap().as_str(), "javascript");
        }
        assert_eq!(languages.resolve("Python3").unwrap().as_str(), "python");
        assert_eq!(languages.resolve("ruby"), None);
        assert_eq!(languages.names().count(), 6);
    }
}
