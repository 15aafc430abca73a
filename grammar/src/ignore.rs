//! The lines of a `.dockerignore` file, cleaned as BuildKit cleans them. It does not match them
//! against paths, and does not know files.

use crate::path::clean;

/// A pattern of an ignore file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnorePattern {
    /// The pattern, cleaned, without `!` and without its leading slash. It is empty for a lone `!`,
    /// which matches nothing and which BuildKit refuses.
    pub pattern: String,
    /// Whether it was written with `!`: what it matches is kept.
    pub negated: bool,
    /// The line, counted from 1.
    pub line: u32,
    /// The line as it was written, without its end.
    pub original: String,
}

/// Reads the patterns, in order. Lines that are blank or begin with `#` say nothing.
pub fn parse_ignore(text: &str) -> Vec<IgnorePattern> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut patterns = Vec::new();
    for (number, original) in (1..).zip(text.split('\n')) {
        if original.starts_with('#') {
            continue;
        }
        let trimmed = original.trim();
        if trimmed.is_empty() {
            continue;
        }
        let (negated, pattern) = match trimmed.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, trimmed),
        };
        patterns.push(IgnorePattern {
            pattern: clean_pattern(pattern),
            negated,
            line: number,
            original: original.strip_suffix('\r').unwrap_or(original).to_owned(),
        });
    }
    patterns
}

fn clean_pattern(pattern: &str) -> String {
    if pattern.is_empty() {
        return String::new();
    }
    let cleaned = clean(pattern);
    match cleaned.strip_prefix('/') {
        Some(rest) if !rest.is_empty() => rest.to_owned(),
        _ => cleaned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[(&str, bool, u32)]) {
        let got = parse_ignore(text);
        let got: Vec<_> = got.iter().map(|p| (p.pattern.as_str(), p.negated, p.line)).collect();
        assert_eq!(got, expect, "{text:?}");
    }

    #[test]
    fn lines_are_trimmed_and_counted() {
        check("one.md\n\n  two \n", &[("one.md", false, 1), ("two", false, 3)]);
        check("\u{feff}one.md\r\n\r\n# c\r\ntwo.txt", &[("one.md", false, 1), ("two.txt", false, 4)]);
        assert_eq!(parse_ignore(" a \r\n")[0].original, " a ");
    }

    #[test]
    fn only_a_hash_in_the_first_column_makes_a_comment() {
        check("#a\n #b\n\\#c", &[("#b", false, 2), ("\\#c", false, 3)]);
    }

    #[test]
    fn an_exclamation_mark_negates() {
        check(
            "!a\n! b\n  !c\n!\n\\!d",
            &[("a", true, 1), ("b", true, 2), ("c", true, 3), ("", true, 4), ("\\!d", false, 5)],
        );
    }

    #[test]
    fn paths_are_cleaned() {
        check(
            "/a\n./b/\nc//d\nd/../e\n../f\n.\n/\n!/g/\n/../h",
            &[
                ("a", false, 1),
                ("b", false, 2),
                ("c/d", false, 3),
                ("e", false, 4),
                ("../f", false, 5),
                (".", false, 6),
                ("/", false, 7),
                ("g", true, 8),
                ("h", false, 9),
            ],
        );
    }
}
