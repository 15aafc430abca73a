//! The fields of `--mount=`: a line of comma-separated values whose keys are known here. It does not
//! know what a mount is: values are checked where variables have been expanded.

use crate::ast::Mount;
use crate::flags::Given;
use crate::statement::{Problem, Statement};
use crate::suggest::nearest;

/// The keys that a mount may have.
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];

/// The keys that need no value.
const BARE: [&str; 5] = ["readonly", "ro", "readwrite", "rw", "required"];

/// Reads a mount.
pub(crate) fn read(statement: &Statement<'_>, given: &Given) -> Result<Mount, Problem> {
    let problem = |message: String| statement.problem(message).at(given.range.clone());
    let record =
        record(&given.word.raw).map_err(|why| problem(format!("failed to parse csv mounts: {why}")))?;
    let mut fields = Vec::with_capacity(record.len());
    for field in record {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value.to_owned())),
            None => (field.to_lowercase(), None),
        };
        if value.is_none() && !BARE.contains(&key.as_str()) {
            let message = format!("invalid field '{field}' must be a key=value pair");
            return Err(with_suggestion(problem(message), &key));
        }
        if !KEYS.contains(&key.as_str()) {
            let message = format!("unexpected key '{key}' in '{field}'");
            return Err(with_suggestion(problem(message), &key));
        }
        if key == "from" && value.as_deref().is_some_and(has_variable) {
            let message = "'from' doesn't support variable expansion, define alias stage instead".to_owned();
            return Err(problem(message).hint("write FROM $X AS name, and from=name here"));
        }
        fields.push((key, value));
    }
    Ok(Mount { value: given.word.clone(), fields })
}

fn with_suggestion(problem: Problem, key: &str) -> Problem {
    match nearest(key, KEYS) {
        Some(near) if near != key => problem.hint(format!("did you mean {near}?")),
        _ => problem,
    }
}

/// A dollar sign that something follows.
fn has_variable(value: &str) -> bool {
    value.find('$').is_some_and(|at| at + 1 < value.len())
}

/// One record as Go's `encoding/csv` reads it.
pub fn record(text: &str) -> Result<Vec<String>, &'static str> {
    if text.is_empty() {
        return Err("EOF");
    }
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
            if field.contains('"') {
                return Err("bare \" in non-quoted field");
            }
            fields.push(field.to_owned());
            match after.strip_prefix(',') {
                Some(after) => rest = after,
                None => return Ok(fields),
            }
            continue;
        };
        let (field, after) = quoted_field(quoted)?;
        fields.push(field);
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None if after.is_empty() => return Ok(fields),
            None => return Err("extraneous or missing \" in quoted-field"),
        }
    }
}

/// A field after its opening quote, and what follows its closing one.
fn quoted_field(mut rest: &str) -> Result<(String, &str), &'static str> {
    let mut field = String::new();
    loop {
        let (text, after) = rest.split_once('"').ok_or("extraneous or missing \" in quoted-field")?;
        field.push_str(text);
        match after.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return Ok((field, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_go_does() {
        for (text, expect) in [
            ("a,b=c", Ok(vec!["a", "b=c"])),
            ("a,,", Ok(vec!["a", "", ""])),
            ("\"a,b\"\"c\",d", Ok(vec!["a,b\"c", "d"])),
            ("", Err("EOF")),
            ("a=\"b\"", Err("bare \" in non-quoted field")),
            ("\"a", Err("extraneous or missing \" in quoted-field")),
            ("\"a\"b", Err("extraneous or missing \" in quoted-field")),
        ] {
            assert_eq!(record(text), expect.map(|f| f.into_iter().map(str::to_owned).collect()), "{text}");
        }
    }
}
