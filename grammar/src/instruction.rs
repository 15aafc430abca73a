//! The meaning of each instruction: which flags and arguments it takes, and how BuildKit refuses
//! others. It does not know the instructions around it.

use std::ops::Range;

use crate::ast::{Command, Heredoc, InstructionKind, KeyValue, Run, Word};
use crate::fileset::{add, copy, list, not_strings};
use crate::flags::{Flags, Known, Takes};
use crate::health::healthcheck;
use crate::mount;
use crate::statement::{Problem, Statement};
use crate::suggest::nearest;
use crate::tokens::{self, Json, Token};
use crate::unknown;

/// The instructions.
const NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

const RUN_FLAGS: [Known; 4] =
    [("mount", Takes::Many), ("network", Takes::One), ("security", Takes::One), ("device", Takes::Many)];

/// Reads an instruction. `before` is the line before it; `nested` is one that ONBUILD holds.
pub(crate) fn read(
    statement: &Statement<'_>,
    heredocs: Vec<Heredoc>,
    before: &str,
    nested: bool,
) -> Result<InstructionKind, Problem> {
    let name = statement.name().to_ascii_uppercase();
    match name.as_str() {
        "FROM" => from(statement),
        "RUN" => run(statement, heredocs),
        "COPY" => copy(statement, heredocs, nested),
        "ADD" => add(statement, heredocs),
        "HEALTHCHECK" => healthcheck(statement),
        "ONBUILD" => onbuild(statement, heredocs),
        "ARG" => arg(statement),
        "SHELL" => shell(statement),
        "STOPSIGNAL" => exactly_one(statement, &name).map(InstructionKind::Stopsignal),
        "ENV" | "LABEL" | "CMD" | "ENTRYPOINT" | "EXPOSE" | "VOLUME" | "USER" | "WORKDIR" | "MAINTAINER" => {
            flagless(statement, &name)
        }
        _ => {
            let unknown = statement.problem(format!("unknown instruction: {}", statement.name()));
            let mut unknown = unknown.at(statement.keyword.clone());
            unknown.hint = unknown::hint(statement.name(), &NAMES, before, statement.escape);
            Err(unknown)
        }
    }
}

/// The command in a range of the line.
pub(crate) fn command(statement: &Statement<'_>, range: Range<usize>) -> Result<Command, Problem> {
    let offset = range.start - statement.arguments.start;
    let text = &statement.args()[offset..];
    Ok(match tokens::json(text) {
        Json::Strings(strings) => Command::Exec(strings.into_iter().map(|token| token.text).collect()),
        Json::Other(within) => {
            return Err(not_strings(statement).at(range.start + within.start..range.start + within.end));
        }
        Json::No => Command::Shell(text.to_owned()),
    })
}

/// The instructions whose flags are looked at only to be refused.
fn flagless(statement: &Statement<'_>, name: &str) -> Result<InstructionKind, Problem> {
    Flags::read(statement, &[])?;
    let arguments = || statement.arguments.clone();
    Ok(match name {
        "ENV" => InstructionKind::Env(pairs(statement, name)?),
        "LABEL" => InstructionKind::Label(pairs(statement, name)?),
        "CMD" => InstructionKind::Cmd(command(statement, arguments())?),
        "ENTRYPOINT" => InstructionKind::Entrypoint(command(statement, arguments())?),
        "EXPOSE" => {
            let words = tokens::plain_words(statement.args()).into_iter();
            InstructionKind::Expose(at_least_one(
                statement,
                name,
                words.map(|w| statement.word(w)).collect(),
            )?)
        }
        "VOLUME" => {
            let (words, _) = list(statement)?;
            let mut words = at_least_one(statement, name, words)?;
            for word in &mut words {
                word.raw = word.raw.trim().to_owned();
                if word.raw.is_empty() {
                    return Err(statement.problem("VOLUME specified can not be an empty string"));
                }
            }
            InstructionKind::Volume(words)
        }
        "USER" => InstructionKind::User(exactly_one(statement, name)?),
        "WORKDIR" => InstructionKind::Workdir(exactly_one(statement, name)?),
        _ => InstructionKind::Maintainer(exactly_one(statement, name)?),
    })
}

fn from(statement: &Statement<'_>) -> Result<InstructionKind, Problem> {
    let count = || {
        let problem = statement.problem("FROM requires either one or three arguments");
        problem.hint("write FROM image, or FROM image AS name")
    };
    let tokens = tokens::plain_words(statement.args());
    if let Some(flag) = tokens.iter().find(|token| token.text.starts_with("--platform")) {
        return Err(count().at(statement.in_line(&flag.range)).hint("flags stand before the image"));
    }
    let name_range = tokens.get(2).map(|token| statement.in_line(&token.range));
    let mut words = tokens.into_iter().map(|token| statement.word(token));
    let image = words.next().ok_or_else(count)?;
    let alias = match (words.next(), words.next(), words.next()) {
        (None, _, _) => None,
        (Some(with), Some(name), None) if with.raw.eq_ignore_ascii_case("as") => {
            if !is_stage_name(&name.raw.to_lowercase()) {
                let message = format!(
                    "invalid name for build stage: {:?}, name can't start with a number or contain symbols",
                    name.raw
                );
                let problem = statement.problem(message).at(name_range.unwrap_or_else(|| statement.whole()));
                return Err(problem.hint("it begins with a letter; letters, digits, - _ and . may follow"));
            }
            Some((name, with))
        }
        _ => return Err(count()),
    };
    let flags = Flags::read(statement, &[("platform", Takes::One)])?;
    Ok(InstructionKind::From { image, platform: flags.one("platform"), alias })
}

fn is_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
}

fn run(statement: &Statement<'_>, heredocs: Vec<Heredoc>) -> Result<InstructionKind, Problem> {
    let flags = Flags::read(statement, &RUN_FLAGS)?;
    let mounts = flags.all("mount").map(|given| mount::read(statement, given)).collect::<Result<_, _>>()?;
    if let Some(given) = flags.all("network").next()
        && !["default", "none", "host"].contains(&given.word.raw.as_str())
    {
        let problem = statement.problem(format!("invalid network mode {:?}", given.word.raw));
        let near = nearest(&given.word.raw, ["default", "none", "host"]);
        let hint = near.map_or_else(
            || "it is one of default, none and host".to_owned(),
            |near| format!("did you mean {near}?"),
        );
        return Err(problem.at(given.range.clone()).hint(hint));
    }
    if let Some(given) = flags.all("security").next()
        && !["sandbox", "insecure"].contains(&given.word.raw.as_str())
    {
        let problem = statement.problem(format!("security {:?} is not valid", given.word.raw));
        return Err(problem.at(given.range.clone()).hint("it is one of sandbox and insecure"));
    }
    Ok(InstructionKind::Run(Run {
        mounts,
        network: flags.one("network"),
        security: flags.one("security"),
        devices: flags.many("device"),
        command: command(statement, statement.arguments.clone())?,
        heredocs,
    }))
}

fn onbuild(statement: &Statement<'_>, heredocs: Vec<Heredoc>) -> Result<InstructionKind, Problem> {
    if statement.args().is_empty() {
        return Err(statement.problem("ONBUILD requires at least one argument"));
    }
    Flags::read(statement, &[])?;
    let inner = statement.nested();
    if inner.is("ONBUILD") {
        let problem = statement.problem("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed");
        return Err(problem.at(inner.keyword).hint("a trigger acts in the very next build only"));
    }
    if inner.is("MAINTAINER") || inner.is("FROM") {
        let name = inner.name().to_ascii_uppercase();
        let problem = statement.problem(format!("{name} isn't allowed as an ONBUILD trigger"));
        return Err(problem.at(inner.keyword));
    }
    let mut trigger = statement.args_word();
    for heredoc in &heredocs {
        trigger.raw.push('\n');
        trigger.raw.push_str(&heredoc.raw_body);
        trigger.raw.push_str(&heredoc.name);
    }
    // As BuildKit: what a trigger says is looked at where it acts; here only its form is.
    let instruction = match read(&inner, heredocs, "", true) {
        Ok(instruction) => Some(Box::new(instruction)),
        Err(problem) if problem.is_syntax => return Err(problem),
        Err(_) => None,
    };
    Ok(InstructionKind::Onbuild { trigger, instruction })
}

/// ARG. BuildKit does not look at its flags.
fn arg(statement: &Statement<'_>) -> Result<InstructionKind, Problem> {
    let words = tokens::quoted_words(statement.args(), statement.escape);
    if words.is_empty() {
        return Err(statement.problem("ARG requires at least one argument").hint("write ARG NAME=DEFAULT"));
    }
    let mut args = Vec::with_capacity(words.len());
    for word in words {
        args.push(match split(&word) {
            Some((name, _)) if name.text.is_empty() => {
                let problem = statement.problem("ARG names can not be blank").hint("write ARG NAME=VALUE");
                return Err(problem.at(statement.in_line(&word.range)));
            }
            Some((name, value)) => (statement.word(name), Some(statement.word(value))),
            None => (statement.word(word), None),
        });
    }
    Ok(InstructionKind::Arg(args))
}

fn shell(statement: &Statement<'_>) -> Result<InstructionKind, Problem> {
    Flags::read(statement, &[])?;
    match command(statement, statement.arguments.clone())? {
        Command::Exec(words) if !words.is_empty() => Ok(InstructionKind::Shell(words)),
        Command::Shell(text) if !text.is_empty() => Err(statement
            .problem("SHELL requires the arguments to be in JSON form")
            .hint("as in SHELL [\"/bin/sh\", \"-c\"]")),
        _ => Err(statement.problem("SHELL requires at least one argument")),
    }
}

/// The pairs of ENV and LABEL: `k=v …`, or `k v` with blanks in the value.
fn pairs(statement: &Statement<'_>, name: &str) -> Result<Vec<KeyValue>, Problem> {
    let words = tokens::quoted_words(statement.args(), statement.escape);
    let Some(first) = words.first() else {
        return Err(statement.problem(format!("{name} requires at least one argument")));
    };
    if !first.text.contains('=') {
        return Ok(vec![legacy_pair(statement, name)?]);
    }
    let mut pairs = Vec::with_capacity(words.len());
    for word in words {
        let Some((key, value)) = split(&word) else {
            let message =
                format!("Syntax error - can't find = in {:?}. Must be of the form: name=value", word.text);
            let problem = statement.problem(message).syntax().at(statement.in_line(&word.range));
            let blank = ["=", "=\"\""].contains(&word.text.as_str());
            let hint = if blank {
                "write it without blanks around ="
            } else {
                "quote a value that has blanks in it"
            };
            return Err(problem.hint(hint));
        };
        if key.text.is_empty() {
            let problem = statement.problem(format!("{name} names can not be blank"));
            return Err(problem
                .at(statement.in_line(&word.range))
                .hint("write NAME=VALUE, with no blanks around the equals sign"));
        }
        pairs.push(KeyValue { key: statement.word(key), value: statement.word(value), legacy: false });
    }
    Ok(pairs)
}

fn legacy_pair(statement: &Statement<'_>, name: &str) -> Result<KeyValue, Problem> {
    let text = statement.args();
    let is_blank = |c: char| matches!(c, ' ' | '\t' | '\r' | '\u{0B}' | '\u{0C}');
    let Some(end) = text.find(is_blank) else {
        return Err(statement
            .problem(format!("{name} must have two arguments"))
            .syntax()
            .hint(format!("write {name} {text}=VALUE")));
    };
    let value = text[end..].trim_start_matches(is_blank);
    let start = text.len() - value.len();
    Ok(KeyValue {
        key: statement.word(Token { text: text[..end].to_owned(), range: 0..end }),
        value: statement.word(Token { text: value.to_owned(), range: start..text.len() }),
        legacy: true,
    })
}

/// The two sides of the first equals sign.
fn split(word: &Token) -> Option<(Token, Token)> {
    let (key, value) = word.text.split_once('=')?;
    let middle = word.range.start + key.len();
    let end = middle + 1 + value.len();
    Some((
        Token { text: key.to_owned(), range: word.range.start..middle },
        Token { text: value.to_owned(), range: middle + 1..end },
    ))
}

fn at_least_one(statement: &Statement<'_>, name: &str, words: Vec<Word>) -> Result<Vec<Word>, Problem> {
    if words.is_empty() {
        return Err(statement.problem(format!("{name} requires at least one argument")));
    }
    Ok(words)
}

fn exactly_one(statement: &Statement<'_>, name: &str) -> Result<Word, Problem> {
    if statement.args().is_empty() {
        return Err(statement.problem(format!("{name} requires exactly one argument")));
    }
    Ok(statement.args_word())
}
