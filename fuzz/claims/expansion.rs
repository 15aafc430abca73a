//! The claims about the expansion of variables: what is not special stays, what is quoted stays, names are
//! told, and however substitutions nest the result has a limit. It does not know Dockerfiles.
//!
//! The input: a line of letters for the rules, lines `NAME=value`, a blank line, and the text.

use crate::memory::{self, Held};
use crate::meter::peak_of;
use crate::tree::text_of;
use kiln_grammar::expand::{ExpandError, Expanded, Lexer, MAX_ADDED};
use std::collections::BTreeMap;

/// The input, taken apart.
struct Case<'a> {
    lexer: Lexer,
    env: BTreeMap<&'a str, &'a str>,
    text: &'a str,
}

/// Fails if a claim does not hold of the input.
pub fn check(data: &[u8]) {
    let input = text_of(data);
    let case = read(&input);
    let env = |name: &str| case.env.get(name).map(|value| (*value).to_owned());
    let (outcome, peak) = peak_of(|| case.lexer.expand(case.text, &env));
    memory::check(Held { what: "expand", peak, input: input.len() + added(&case), things: 0 });
    assert!(outcome == case.lexer.expand(case.text, &env), "two expansions differ");
    match &outcome {
        Ok(expanded) => check_expanded(&case, expanded),
        Err(why) => check_error(&case, why),
    }
    check_plain(&case, outcome.as_ref().ok());
    check_quoted(&case);
    check_variables(&case);
}

fn read(input: &str) -> Case<'_> {
    let (rules, mut rest) = input.split_once('\n').unwrap_or(("", input));
    let mut env = BTreeMap::new();
    while let Some((line, after)) = rest.split_once('\n') {
        rest = after;
        let Some((name, value)) = line.split_once('=') else { break };
        env.insert(name, value);
    }
    let lexer = Lexer {
        raw_quotes: rules.contains('q'),
        raw_escapes: rules.contains('e'),
        skip_quotes: rules.contains('s'),
        skip_unset: rules.contains('u'),
        ..Lexer::new(if rules.contains('`') { '`' } else { '\\' })
    };
    Case { lexer, env, text: rest }
}

/// What variables may add to the text. Only `${v//p/r}` can put a value in more than once for each dollar;
/// what it makes is held a few times over before it is found to be too long.
fn added(case: &Case<'_>) -> usize {
    let longest = case.env.values().map(|value| value.len()).max().unwrap_or(0);
    let dollars = case.text.matches('$').count();
    if dollars > 0 && case.text.contains("//") { MAX_ADDED / 4 } else { (dollars * longest).min(MAX_ADDED) }
}

fn check_expanded(case: &Case<'_>, expanded: &Expanded) {
    assert!(expanded.value.len() <= case.text.len() + MAX_ADDED, "{} bytes", expanded.value.len());
    let without_blanks = |text: &str| text.split_whitespace().collect::<String>();
    let words: String = expanded.words.iter().map(|word| without_blanks(word)).collect();
    assert_eq!(without_blanks(&expanded.value), words, "the words are not those of the value");
    assert!(expanded.words.iter().all(|word| !word.is_empty()) || expanded.value.contains(['\'', '"']));
    for names in [&expanded.used, &expanded.unmatched] {
        assert!(names.is_sorted() && names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
    assert!(expanded.used.iter().all(|name| case.env.contains_key(name.as_str())), "{:?}", expanded.used);
    assert!(!expanded.unmatched.iter().any(|name| case.env.contains_key(name.as_str())));
}

fn check_error(case: &Case<'_>, why: &ExpandError) {
    let needs: &[char] = match why {
        ExpandError::SingleQuote => &['\''],
        ExpandError::DoubleQuote => &['"'],
        _ => &['$'],
    };
    assert!(case.text.contains(needs), "{why} in {:?}", case.text);
    if let ExpandError::Required { name, .. } = why {
        assert!(case.env.get(name.as_str()).is_none_or(|value| value.is_empty()), "{name} has a value");
    }
}

/// A text without anything special is itself.
fn check_plain(case: &Case<'_>, expanded: Option<&Expanded>) {
    let is_quote = |c: char| matches!(c, '\'' | '"') && !case.lexer.skip_quotes;
    let is_special = |c: char| c == '$' || c == case.lexer.escape || is_quote(c);
    if case.text.contains(is_special) || case.text.starts_with('\u{feff}') {
        return;
    }
    let Some(expanded) = expanded else { panic!("{:?} can't be expanded", case.text) };
    assert_eq!(expanded.value, case.text);
    assert!(expanded.words.iter().map(String::as_str).eq(case.text.split_whitespace()));
    assert!(expanded.used.is_empty() && expanded.unmatched.is_empty());
}

/// A text in single quotes is itself, and is one word.
fn check_quoted(case: &Case<'_>) {
    if case.text.contains('\'') || case.lexer.skip_quotes {
        return;
    }
    let quoted = format!("'{}'", case.text);
    let lexer = Lexer { raw_quotes: false, ..case.lexer };
    let expanded = lexer.expand(&quoted, &|_| None);
    let Ok(expanded) = expanded else { panic!("{quoted:?}: {expanded:?}") };
    assert_eq!(expanded.value, case.text);
    assert!(expanded.words.len() <= 1);
}

/// A variable's value is put in as it is, and is not looked into.
fn check_variables(case: &Case<'_>) {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let env = |name: &str| case.env.get(name).map(|value| (*value).to_owned());
    for (name, value) in case.env.iter().filter(|(name, value)| is_name(name) && value.len() <= MAX_ADDED) {
        for text in
            [format!("${name}"), format!("${{{name}}}"), format!("\"${name}\""), format!("${{{name}-x}}")]
        {
            let lexer = Lexer { raw_quotes: false, skip_quotes: false, ..case.lexer };
            let expanded = lexer.expand(&text, &env);
            assert_eq!(expanded.as_ref().map(|e| e.value.as_str()), Ok(*value), "{text}");
        }
        let length = case.lexer.expand(&format!("${{{name}##*}}"), &env).map(|e| e.value);
        assert_eq!(length.as_deref(), Ok(""), "{name} without all that it has");
    }
}
