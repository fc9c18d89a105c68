//! Names of files that a stranger chose.

/// Whether a name is fit to be a file name of ours: not empty, no separators, no `..`, no control
/// characters, no leading dot, and no longer than a file system takes.
pub fn is_safe_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('.')
        && !name.contains("..")
        && !name.contains(|c: char| matches!(c, '/' | '\\') || c.is_control())
}

/// A name fit to be shown: control characters replaced, and cut to a readable length.
pub fn shown_name(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(255).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_not_safe() {
        for name in ["chart.png", "Übersicht 1.csv", "a.b"] {
            assert!(is_safe_name(name), "{name}");
        }
        let long = "x".repeat(256);
        for name in
            ["", ".", "..", "../x", "a/b", "a\\b", ".bashrc", "a\nb", "a..b", "\u{7f}", &long]
        {
            assert!(!is_safe_name(name), "{name}");
        }
        assert_eq!(shown_name("a\u{1b}[31mb"), "a\u{fffd}[31mb");
    }
}
