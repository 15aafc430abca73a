//! The sources and the destination of COPY and ADD, and their flags. It does not know files.

use std::collections::{HashMap, VecDeque};

use crate::ast::{Add, Copy, CopySource, Heredoc, InstructionKind, Word};
use crate::flags::{Flags, Known, Takes};
use crate::heredoc::mark;
use crate::statement::{Problem, Statement};
use crate::tokens::{self, Json};

const COPY_FLAGS: [Known; 6] = [
    ("from", Takes::One),
    ("chown", Takes::One),
    ("chmod", Takes::One),
    ("link", Takes::Bool),
    ("parents", Takes::Bool),
    ("exclude", Takes::Many),
];

const ADD_FLAGS: [Known; 7] = [
    ("keep-git-dir", Takes::Bool),
    ("checksum", Takes::One),
    ("unpack", Takes::Bool),
    ("chown", Takes::One),
    ("chmod", Takes::One),
    ("link", Takes::Bool),
    ("exclude", Takes::Many),
];

/// Reads COPY. In a trigger that is only defined, `--from` is not looked at: it may be used elsewhere.
pub(crate) fn copy(
    statement: &Statement<'_>,
    heredocs: Vec<Heredoc>,
    nested: bool,
) -> Result<InstructionKind, Problem> {
    let words = words(statement, "COPY")?;
    let flags = Flags::read(statement, &COPY_FLAGS)?;
    if let Some(given) = flags.all("from").next().filter(|given| !nested && given.word.raw.contains('$')) {
        let message = "variable expansion is not supported for --from, define a new stage with FROM using \
                       ARG from global scope as a workaround";
        let hint = "write FROM with the variable as a stage of its own, and --from=its name here";
        return Err(statement.problem(message).at(given.range.clone()).hint(hint));
    }
    let (sources, dest) = sources(statement, "COPY", words, heredocs)?;
    Ok(InstructionKind::Copy(Copy {
        from: flags.one("from"),
        chown: flags.one("chown"),
        chmod: flags.one("chmod"),
        link: flags.bool("link") == Some(true),
        parents: flags.bool("parents") == Some(true),
        exclude: flags.many("exclude"),
        sources,
        dest,
    }))
}

/// Reads ADD.
pub(crate) fn add(statement: &Statement<'_>, heredocs: Vec<Heredoc>) -> Result<InstructionKind, Problem> {
    let words = words(statement, "ADD")?;
    let flags = Flags::read(statement, &ADD_FLAGS)?;
    let (sources, dest) = sources(statement, "ADD", words, heredocs)?;
    Ok(InstructionKind::Add(Add {
        keep_git_dir: flags.bool("keep-git-dir"),
        checksum: flags.one("checksum"),
        unpack: flags.bool("unpack"),
        chown: flags.one("chown"),
        chmod: flags.one("chmod"),
        link: flags.bool("link") == Some(true),
        exclude: flags.many("exclude"),
        sources,
        dest,
    }))
}

/// The words of either form, and whether it was the JSON form.
fn words(statement: &Statement<'_>, name: &str) -> Result<(Vec<Word>, bool), Problem> {
    let (words, is_json) = list(statement)?;
    if words.len() < 2 {
        let message = format!(
            "{name} requires at least two arguments, but only one was provided. \
             Destination could not be determined"
        );
        return Err(statement.problem(message).hint(format!("write {name} SOURCE... DESTINATION")));
    }
    Ok((words, is_json))
}

/// The strings of a JSON array, or the words between blanks.
pub(crate) fn list(statement: &Statement<'_>) -> Result<(Vec<Word>, bool), Problem> {
    let (tokens, is_json) = match tokens::json(statement.args()) {
        Json::Strings(tokens) => (tokens, true),
        Json::Other(range) => return Err(not_strings(statement).at(statement.in_line(&range))),
        Json::No => (tokens::plain_words(statement.args()), false),
    };
    Ok((tokens.into_iter().map(|token| statement.word(token)).collect(), is_json))
}

/// An array with something else than strings in it.
pub(crate) fn not_strings(statement: &Statement<'_>) -> Problem {
    statement.problem("when using JSON array syntax, arrays must be comprised of strings only").syntax()
}

fn sources(
    statement: &Statement<'_>,
    name: &str,
    (mut words, is_json): (Vec<Word>, bool),
    heredocs: Vec<Heredoc>,
) -> Result<(Vec<CopySource>, Word), Problem> {
    let Some(dest) = words.pop() else { return Err(statement.problem(format!("{name} has no destination"))) };
    if mark(&dest.raw).is_some() {
        return Err(statement.problem(format!("{name} cannot accept a heredoc as a destination")));
    }
    let mut bodies: HashMap<String, VecDeque<Heredoc>> = HashMap::new();
    for heredoc in heredocs {
        bodies.entry(heredoc.name.clone()).or_default().push_back(heredoc);
    }
    let mut sources = Vec::with_capacity(words.len());
    for word in words {
        let Some(mark) = mark(&word.raw) else {
            sources.push(CopySource::Path(word));
            continue;
        };
        if is_json {
            return Err(statement
                .problem(format!("{name} cannot accept a heredoc in the JSON form"))
                .hint("write the sources and the destination without brackets and quotes"));
        }
        let body = bodies.get_mut(&mark.name).and_then(VecDeque::pop_front);
        sources.push(CopySource::Heredoc(match body {
            Some(heredoc) => heredoc,
            // Quotes elsewhere in the line kept its marks from being read: there is no body.
            None => Heredoc {
                name: mark.name,
                body: String::new(),
                raw_body: String::new(),
                expand: mark.expand,
                chomp: mark.chomp,
                fd: mark.fd,
                span: word.span,
            },
        }));
    }
    Ok((sources, dest))
}
