//! The flags of an instruction: known or not, given once or often, with or without a value. It does
//! not know which instruction has which flags.

use std::ops::Range;

use crate::ast::{Span, Word};
use crate::statement::{Problem, Statement};
use crate::suggest::nearest;
use crate::tokens::Token;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// `true`, `false` or nothing.
    Bool,
    /// A value, once.
    One,
    /// A value, each time.
    Many,
}

/// A known flag.
pub(crate) type Known = (&'static str, Takes);

/// The flags that were given.
pub(crate) struct Flags {
    given: Vec<Given>,
}

/// A flag that was given. A word's text is the value without quotes and escapes, as BuildKit has it
/// before variables are expanded.
pub(crate) struct Given {
    name: &'static str,
    pub word: Word,
    pub range: Range<usize>,
}

impl Flags {
    /// Checks the flags of a statement against those that are known.
    pub(crate) fn read(statement: &Statement<'_>, known: &[Known]) -> Result<Flags, Problem> {
        let mut given: Vec<Given> = Vec::new();
        for token in &statement.flags {
            if token.text == "--" {
                break;
            }
            let flag = read_one(statement, token, known)?;
            let repeatable = known.iter().any(|(name, takes)| *name == flag.name && *takes == Takes::Many);
            if !repeatable && given.iter().any(|other| other.name == flag.name) {
                let message = format!("duplicate flag specified: --{}", flag.name);
                return Err(statement.problem(message).at(token.range.clone()));
            }
            given.push(flag);
        }
        Ok(Flags { given })
    }

    /// The value of a flag that is given once.
    pub(crate) fn one(&self, name: &str) -> Option<Word> {
        self.all(name).next().map(|given| given.word.clone())
    }

    /// The values of a flag that may be repeated.
    pub(crate) fn many(&self, name: &str) -> Vec<Word> {
        self.all(name).map(|given| given.word.clone()).collect()
    }

    /// A flag that says yes or no.
    pub(crate) fn bool(&self, name: &str) -> Option<bool> {
        self.all(name).next().map(|given| !given.word.raw.eq_ignore_ascii_case("false"))
    }

    /// Every time that a flag was given.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Given> {
        self.given.iter().filter(move |given| given.name == name)
    }
}

fn read_one(statement: &Statement<'_>, token: &Token, known: &[Known]) -> Result<Given, Problem> {
    let problem = |message: String| statement.problem(message).at(token.range.clone());
    let text = token.text.strip_prefix("--").unwrap_or(&token.text);
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    let Some(&(name, takes)) = known.iter().find(|(known, _)| *known == name) else {
        let unknown = problem(format!("unknown flag: --{name}"));
        return Err(match nearest(name, known.iter().map(|(name, _)| *name)) {
            Some(near) => unknown.hint(format!("did you mean --{near}?")),
            None if known.is_empty() => unknown.hint(format!("{} takes no flags", statement.name())),
            None => unknown,
        });
    };
    match (takes, value) {
        (Takes::Bool, None) => {}
        (Takes::Bool, Some("")) | (Takes::One | Takes::Many, None) => {
            return Err(problem(format!("missing a value on flag: --{name}"))
                .hint(format!("write --{name}=VALUE, without blanks")));
        }
        (Takes::Bool, Some(value)) if !["true", "false"].iter().any(|b| value.eq_ignore_ascii_case(b)) => {
            let problem = problem(format!("expecting boolean value for flag --{name}, not: {value}"));
            return Err(problem.hint(format!("write --{name}, or --{name}=false")));
        }
        _ => {}
    }
    let raw = value.unwrap_or_default().to_owned();
    Ok(Given { name, word: Word { raw, span: value_span(statement, token) }, range: token.range.clone() })
}

/// The place of the value, or of the whole flag where it has none.
fn value_span(statement: &Statement<'_>, token: &Token) -> Span {
    let before = token.text.find('=').map_or(0, |equals| equals + 1);
    let start = token.range.start + before.min(token.range.len());
    statement.span(&(start..token.range.end))
}
