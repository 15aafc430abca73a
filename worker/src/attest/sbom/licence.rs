//! Licences as SPDX wants them: expressions of known identifiers, and everything else by a reference of the
//! document's own beside its text. It does not know who stated them.

use kiln_oci::Digest;
use std::collections::BTreeMap;

/// Identifiers of SPDX's list that packages state most. Others become references, which is as true.
const KNOWN: [&str; 96] = [
    "0BSD",
    "AFL-2.1",
    "AFL-3.0",
    "AGPL-3.0",
    "AGPL-3.0-only",
    "AGPL-3.0-or-later",
    "Apache-1.1",
    "Apache-2.0",
    "Artistic-1.0",
    "Artistic-1.0-Perl",
    "Artistic-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-2-Clause-Views",
    "BSD-3-Clause",
    "BSD-3-Clause-Clear",
    "BSD-4-Clause",
    "BSD-4-Clause-UC",
    "BSL-1.0",
    "BlueOak-1.0.0",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
    "CC-PDDC",
    "CC0-1.0",
    "CDDL-1.0",
    "CDDL-1.1",
    "CDLA-Permissive-2.0",
    "CPL-1.0",
    "EPL-1.0",
    "EPL-2.0",
    "EUPL-1.1",
    "EUPL-1.2",
    "FSFAP",
    "FSFUL",
    "FSFULLR",
    "FTL",
    "GFDL-1.1-or-later",
    "GFDL-1.2-or-later",
    "GFDL-1.3-only",
    "GFDL-1.3-or-later",
    "GPL-1.0-only",
    "GPL-1.0-or-later",
    "GPL-2.0",
    "GPL-2.0-only",
    "GPL-2.0-or-later",
    "GPL-3.0",
    "GPL-3.0-only",
    "GPL-3.0-or-later",
    "HPND",
    "ICU",
    "IJG",
    "ISC",
    "LGPL-2.0-only",
    "LGPL-2.0-or-later",
    "LGPL-2.1",
    "LGPL-2.1-only",
    "LGPL-2.1-or-later",
    "LGPL-3.0",
    "LGPL-3.0-only",
    "LGPL-3.0-or-later",
    "Libpng",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "MPL-1.1",
    "MPL-2.0",
    "MPL-2.0-no-copyleft-exception",
    "MS-PL",
    "NCSA",
    "OFL-1.0",
    "OFL-1.1",
    "OLDAP-2.8",
    "OpenSSL",
    "PHP-3.01",
    "PSF-2.0",
    "PostgreSQL",
    "Python-2.0",
    "Python-2.0.1",
    "Ruby",
    "SGI-B-2.0",
    "SISSL",
    "Sleepycat",
    "TCL",
    "UPL-1.0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Vim",
    "W3C",
    "WTFPL",
    "X11",
    "ZPL-2.1",
    "Zlib",
    "curl",
];

/// Exceptions of SPDX's list.
const EXCEPTIONS: [&str; 10] = [
    "Autoconf-exception-2.0",
    "Autoconf-exception-3.0",
    "Bison-exception-2.2",
    "Classpath-exception-2.0",
    "Font-exception-2.0",
    "GCC-exception-2.0",
    "GCC-exception-3.1",
    "LLVM-exception",
    "OpenJDK-assembly-exception-1.0",
    "libtool-exception",
];

/// How long a reference may be besides its digest.
const REFERENCE_CHARS_MAX: usize = 48;

/// The references that a document makes, each with the text that it stands for.
pub(super) type References = BTreeMap<String, String>;

/// A stated licence as an expression.
pub(super) fn expression(stated: &str, references: &mut References) -> String {
    let stated = stated.trim();
    let tokens = tokens(stated);
    match is_expression(&tokens) {
        true => {
            let mut out = String::new();
            for (i, token) in tokens.iter().enumerate() {
                let is_close = |token: &String| token == ")";
                if i > 0 && !is_close(token) && tokens[i - 1] != "(" {
                    out.push(' ');
                }
                out.push_str(&match is_word(token) && !is_listed(token) {
                    true => reference(token, references),
                    false => token.clone(),
                });
            }
            out
        }
        false => reference(stated, references),
    }
}

/// Words and brackets; operators in capitals, as older packages write them otherwise.
fn tokens(text: &str) -> Vec<String> {
    let spaced = text.replace('(', " ( ").replace(')', " ) ");
    let operator = |word: &str| {
        let capitals = word.to_uppercase();
        if matches!(capitals.as_str(), "AND" | "OR" | "WITH") { capitals } else { word.to_owned() }
    };
    spaced.split_whitespace().map(operator).collect()
}

fn is_operator(token: &str) -> bool {
    matches!(token, "AND" | "OR" | "WITH")
}

fn is_word(token: &str) -> bool {
    !is_operator(token) && token != "(" && token != ")"
}

fn is_listed(word: &str) -> bool {
    KNOWN.contains(&word.strip_suffix('+').unwrap_or(word)) || EXCEPTIONS.contains(&word)
}

/// Whether words and operators take turns, brackets close, and only known exceptions stand behind `WITH`.
fn is_expression(tokens: &[String]) -> bool {
    let (mut depth, mut wants_word, mut before) = (0usize, true, "");
    for token in tokens {
        match (token.as_str(), wants_word) {
            ("(", true) if before != "WITH" => depth += 1,
            (")", false) if depth > 0 => depth -= 1,
            (operator, false) if is_operator(operator) => wants_word = true,
            (word, true) if is_word(word) => {
                let is_exception = EXCEPTIONS.contains(&word);
                if is_exception != (before == "WITH") {
                    return false;
                }
                wants_word = false;
            }
            _ => return false,
        }
        before = token;
    }
    depth == 0 && !wants_word
}

/// The document's own name for a licence that is not on the list.
fn reference(text: &str, references: &mut References) -> String {
    let plain: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let short: String = plain.chars().take(REFERENCE_CHARS_MAX).collect();
    let name = match short == text {
        true => format!("LicenseRef-{short}"),
        false => {
            format!("LicenseRef-{}-{}", short.trim_matches('-'), &Digest::of(text.as_bytes()).hex()[..8])
        }
    };
    references.insert(name.clone(), text.to_owned());
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stated: &str, expect: &str, named: &[&str]) {
        let mut references = References::new();
        assert_eq!(expression(stated, &mut references), expect, "{stated}");
        assert_eq!(references.into_values().collect::<Vec<_>>(), named, "{stated}");
    }

    #[test]
    fn expressions_of_known_identifiers_stay_as_they_are() {
        for text in [
            "MIT",
            "GPL-2.0-only AND (MIT OR BSD-3-Clause)",
            "GPL-3.0-or-later WITH GCC-exception-3.1",
            "Apache-2.0 WITH LLVM-exception OR MIT",
            "GPL-2.0+",
        ] {
            check(text, text, &[]);
        }
        check("(MIT or  Apache-2.0)", "(MIT OR Apache-2.0)", &[]);
    }

    #[test]
    fn what_is_not_on_the_list_is_a_reference_with_its_text() {
        check(
            "GPLv2+ and MIT",
            "LicenseRef-GPLv2-f7df0c2d AND MIT"
                .replace("f7df0c2d", &Digest::of(b"GPLv2+").hex()[..8])
                .as_str(),
            &["GPLv2+"],
        );
        check("custom", "LicenseRef-custom", &["custom"]);
        let odd = "see the file, please (all of it";
        let name =
            format!("LicenseRef-see-the-file--please--all-of-it-{}", &Digest::of(odd.as_bytes()).hex()[..8]);
        check(odd, &name, &[odd]);
        for odd in ["MIT AND", "OR MIT", "MIT MIT", "(MIT", "MIT)", "MIT WITH MIT", "LLVM-exception", ""] {
            let mut references = References::new();
            let told = expression(odd, &mut references);
            assert!(told.starts_with("LicenseRef-") && references.len() == 1, "{odd}: {told}");
        }
    }

    #[test]
    fn the_tables_are_in_order_so_that_a_second_entry_is_seen() {
        assert!(KNOWN.windows(2).all(|two| two[0] < two[1]));
        assert!(EXCEPTIONS.windows(2).all(|two| two[0] < two[1]));
    }
}
