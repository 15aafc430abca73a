//! Heredoc marks (`<<EOF`, `3<<-"EOF"`) in the words of a line. It does not read bodies, and does not
//! know what is done with them.

use crate::expand::Lexer;
use crate::statement::Statement;
use crate::tokens::{Json, json};

/// A heredoc as its mark announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub name: String,
    pub expand: bool,
    pub chomp: bool,
    pub fd: u32,
}

/// The marks of a logical line, if its instruction takes heredocs. Whatever the escape directive says,
/// they are read with a backslash as the escape character.
pub(crate) fn marks(line: &str, statement: &Statement<'_>) -> Vec<Mark> {
    if !line.contains("<<") || !takes_heredocs(statement) {
        return Vec::new();
    }
    let lexer = Lexer { raw_quotes: true, raw_escapes: true, skip_unset: true, ..Lexer::new('\\') };
    match lexer.expand(line, &|_| None) {
        Ok(expanded) => expanded.words.iter().filter_map(|word| mark(word)).collect(),
        Err(_) => Vec::new(),
    }
}

/// Reads a word as a mark: digits, `<<`, perhaps a dash, and a name without `<`.
pub(crate) fn mark(word: &str) -> Option<Mark> {
    let (fd, rest) = word.split_once("<<")?;
    if !fd.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{0C}']);
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let lexer = Lexer { skip_unset: true, ..Lexer::new('\\') };
    let name = only_word(lexer, rest)?;
    let raw = only_word(Lexer { raw_quotes: true, ..lexer }, rest)?;
    let expand = quotes(&name) == quotes(&raw);
    let fd = if fd.is_empty() { 0 } else { fd.parse().unwrap_or(u32::MAX) };
    Some(Mark { name, expand, chomp, fd })
}

/// A body without the tabs at the start of its lines.
pub(crate) fn chomp(body: &str) -> String {
    body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

fn takes_heredocs(statement: &Statement<'_>) -> bool {
    let inner;
    let statement = if statement.is("ONBUILD") {
        inner = statement.nested();
        &inner
    } else {
        statement
    };
    ["RUN", "COPY", "ADD"].into_iter().any(|name| statement.is(name))
        && !matches!(json(statement.args()), Json::Strings(_))
}

fn only_word(lexer: Lexer, text: &str) -> Option<String> {
    let mut words = lexer.expand(text, &|_| None).ok()?.words;
    if words.len() == 1 { words.pop() } else { None }
}

fn quotes(text: &str) -> usize {
    text.matches(['\'', '"']).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_a_whole_word() {
        for (word, expect) in [
            ("<<EOF", Some(("EOF", true, false, 0))),
            ("<<-EOF", Some(("EOF", true, true, 0))),
            ("3<<'E O'", Some(("E O", false, false, 3))),
            ("<<\"EOF\"", Some(("EOF", false, false, 0))),
            ("<<E'O'F", Some(("EOF", false, false, 0))),
            ("<<$X", Some(("$X", true, false, 0))),
            ("<<<EOF", None),
            ("<<", None),
            ("<<-", None),
            ("a<<EOF", None),
            ("<<\"a", None),
            ("<EOF", None),
        ] {
            let got = mark(word);
            let got = got.as_ref().map(|m| (m.name.as_str(), m.expand, m.chomp, m.fd));
            assert_eq!(got, expect, "{word}");
        }
    }

    #[test]
    fn chomping_takes_the_leading_tabs_only() {
        assert_eq!(chomp("\ta\n\t\tb\tc\n  \td\n"), "a\nb\tc\n  \td\n");
    }
}
