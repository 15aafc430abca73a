//! Asks the pest grammar for the tokens of a logical line. It does not know which instruction takes
//! which tokens.

use std::ops::Range;

use pest::Parser;
use pest::iterators::Pair;

/// How deep arrays and objects may nest in a JSON form before it is taken for shell form; none that
/// nests at all can be run.
const MAX_JSON_DEPTH: usize = 100;

/// A piece of a line, with its text after the rules for its kind were applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub text: String,
    /// Its bytes in the text that was given.
    pub range: Range<usize>,
}

/// What `[…]` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Json {
    /// No JSON array: the shell form.
    No,
    /// An array with something else than strings in it, and where that stands.
    Other(Range<usize>),
    /// An array of strings.
    Strings(Vec<Token>),
}

#[derive(pest_derive::Parser)]
#[grammar = "dockerfile.pest"]
struct Grammar;

/// The instruction's name and where its arguments begin.
pub(crate) fn head(text: &str) -> (Range<usize>, usize) {
    let Some(head) = first(Rule::head, text) else { return (0..0, text.len()) };
    let rest = head.as_span().end();
    let keyword = head.into_inner().next().map_or(0..0, |keyword| range(&keyword));
    (keyword, rest)
}

/// The leading flags, quotes and escapes removed, and where the arguments begin.
pub(crate) fn flags(text: &str) -> (Vec<Token>, usize) {
    if !text.trim_start().starts_with("--") {
        return (Vec::new(), 0);
    }
    let Some(flags) = first(Rule::flags, text) else { return (Vec::new(), 0) };
    let end = flags.as_span().end();
    let flag = |pair: Pair<'_, Rule>| Token { range: range(&pair), text: plain_text(pair) };
    (flags.into_inner().filter(|pair| pair.as_rule() == Rule::flag).map(flag).collect(), end)
}

/// The words between blanks.
pub(crate) fn plain_words(text: &str) -> Vec<Token> {
    words(Rule::plain_words, text)
}

/// The words in which quotes and the escape character hold blanks together.
pub(crate) fn quoted_words(text: &str, escape: char) -> Vec<Token> {
    words(if escape == '`' { Rule::tick_words } else { Rule::slash_words }, text)
}

/// The array of a JSON form.
pub(crate) fn json(text: &str) -> Json {
    if !text.starts_with('[') || depth(text) > MAX_JSON_DEPTH {
        return Json::No;
    }
    let Some(array) = first(Rule::json, text) else { return Json::No };
    let mut strings = Vec::new();
    for pair in array.into_inner() {
        match pair.as_rule() {
            Rule::string => strings.push(Token { range: range(&pair), text: json_text(pair) }),
            Rule::EOI => {}
            _ => return Json::Other(range(&pair)),
        }
    }
    Json::Strings(strings)
}

fn first(rule: Rule, text: &str) -> Option<Pair<'_, Rule>> {
    Grammar::parse(rule, text).ok()?.next()
}

fn words(rule: Rule, text: &str) -> Vec<Token> {
    let Some(words) = first(rule, text) else { return Vec::new() };
    let word = |pair: Pair<'_, Rule>| Token { range: range(&pair), text: pair.as_str().to_owned() };
    words.into_inner().filter(|pair| pair.as_rule() != Rule::EOI).map(word).collect()
}

fn range(pair: &Pair<'_, Rule>) -> Range<usize> {
    pair.as_span().start()..pair.as_span().end()
}

fn plain_text(flag: Pair<'_, Rule>) -> String {
    let literal = |pair: &Pair<'_, Rule>| {
        matches!(pair.as_rule(), Rule::flag_plain | Rule::flag_char | Rule::single_text | Rule::double_text)
    };
    flag.into_inner().flatten().filter(literal).map(|pair| pair.as_str()).collect()
}

fn json_text(string: Pair<'_, Rule>) -> String {
    let mut units: Vec<u16> = Vec::new();
    let mut out = String::new();
    for pair in string.into_inner() {
        let text = pair.as_str();
        if let Some(hex) = text.strip_prefix("\\u").filter(|_| pair.as_rule() == Rule::string_escape) {
            units.push(u16::from_str_radix(hex, 16).unwrap_or(0xFFFD));
            continue;
        }
        out.extend(char::decode_utf16(units.drain(..)).map(|c| c.unwrap_or('\u{FFFD}')));
        match text {
            _ if pair.as_rule() == Rule::string_text => out.push_str(text),
            "\\b" => out.push('\u{8}'),
            "\\f" => out.push('\u{c}'),
            "\\n" => out.push('\n'),
            "\\r" => out.push('\r'),
            "\\t" => out.push('\t'),
            _ => out.push_str(&text[1..]),
        }
    }
    out.extend(char::decode_utf16(units).map(|c| c.unwrap_or('\u{FFFD}')));
    out
}

/// How deep brackets nest, strings left out.
fn depth(text: &str) -> usize {
    let (mut now, mut most) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => now += 1,
            b']' | b'}' if !in_string => now = now.saturating_sub(1),
            _ => {}
        }
        most = most.max(now);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(tokens: Vec<Token>) -> Vec<String> {
        tokens.into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn flags_lose_their_quotes_and_escapes() {
        for (text, expect, rest) in [
            ("--a=b --c d", vec!["--a=b", "--c"], " d"),
            ("--a='b c'd --x", vec!["--a=b cd", "--x"], ""),
            (r#"--a="b\"c" e"#, vec![r#"--a=b"c"#], " e"),
            ("-- --a b", vec![], " --a b"),
            ("--a -- b", vec!["--a"], " b"),
            ("a --b", vec![], "a --b"),
            ("--a\\", vec!["--a"], ""),
            ("--a='b", vec!["--a=b"], ""),
            ("-a", vec![], "-a"),
        ] {
            let (got, end) = flags(text);
            assert_eq!(texts(got), expect, "{text}");
            assert_eq!(&text[end..], rest, "{text}");
        }
    }

    #[test]
    fn quoted_words_keep_their_quotes() {
        for (text, expect) in [
            (r#"a=1 "b c"="d e" f='g "h"'"#, vec!["a=1", r#""b c"="d e""#, r#"f='g "h"'"#]),
            (r"a=b\ c d", vec![r"a=b\ c", "d"]),
            (r"a\", vec!["a"]),
            (r#"a="b\"#, vec![r#"a="b"#]),
            (r#"a="b c"#, vec![r#"a="b c"#]),
            (r"\", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(texts(quoted_words(text, '\\')), expect, "{text}");
        }
        assert_eq!(texts(quoted_words(r"a=c:\ b=`  c`", '`')), [r"a=c:\", "b=` ", "c"]);
    }

    #[test]
    fn json_strings_are_decoded() {
        for (text, expect) in [
            (r#"["a", "b c"]"#, vec!["a", "b c"]),
            ("[]", vec![]),
            (r#"[ "" ,"t\tn\n\/\\\"" ]"#, vec!["", "t\tn\n/\\\""]),
            (r#"["\u0041\u00e9\ud83d\ude00\ud83d"]"#, vec!["Aé😀\u{FFFD}"]),
        ] {
            let Json::Strings(got) = json(text) else { panic!("{text}") };
            assert_eq!(texts(got), expect, "{text}");
        }
    }

    #[test]
    fn what_is_no_json_array_is_shell_form() {
        for text in ["['a']", r#"["a""#, r#"["a",]"#, r#"["a"] && b"#, "[a]", r#""a""#, "[\"\t\"]", "[01]"] {
            assert_eq!(json(text), Json::No, "{text}");
        }
        assert_eq!(json(&"[".repeat(100_000)), Json::No);
        for text in ["[1]", r#"["a", null]"#, r#"[{"a": [1.5e3, true]}]"#, "[[]]"] {
            assert!(matches!(json(text), Json::Other(_)), "{text}");
        }
    }
}
