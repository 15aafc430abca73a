//! `kiln build --check`: findings as text, as JSON in the form of `docker build --call=check,format=json`,
//! or as SARIF 2.1.0. It does not know how they are found.

use crate::error::CommandError;
use crate::images;
use crate::render::{self, Source};
use crate::stderr::say;
use kiln_frontend::LINTS;
use kiln_grammar::{Diagnostic, Severity};
use serde_json::{Value, json};

/// How findings are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum CheckFormat {
    /// For people, on standard error
    #[default]
    Text,
    /// As docker build --call=check,format=json
    Json,
    /// For code scanners: SARIF 2.1.0
    Sarif,
}

/// Tells what was found, and says by its error whether that is anything. `mistakes` are why the Dockerfile can't
/// be built, and `error` is how that ends the command.
pub(crate) fn report(
    format: CheckFormat,
    source: Source<'_>,
    warnings: &[Diagnostic],
    mistakes: &[Diagnostic],
    error: Option<CommandError>,
) -> Result<(), CommandError> {
    let document = match format {
        CheckFormat::Text => return text(source, warnings, error),
        CheckFormat::Json => as_json(source, warnings, mistakes.first()),
        CheckFormat::Sarif => as_sarif(source, warnings, mistakes),
    };
    let mut bytes = serde_json::to_vec_pretty(&document).unwrap_or_default();
    bytes.push(b'\n');
    images::print(&bytes)?;
    match error {
        // What is wrong stands in the document.
        Some(CommandError::Dockerfile { .. }) => Err(CommandError::Dockerfile { text: String::new() }),
        Some(other) => Err(other),
        None if counted(warnings) > 0 => Err(CommandError::Findings { text: String::new() }),
        None => Ok(()),
    }
}

fn text(
    source: Source<'_>,
    warnings: &[Diagnostic],
    error: Option<CommandError>,
) -> Result<(), CommandError> {
    let text = render::diagnostics(source, warnings);
    match (error, counted(warnings)) {
        (Some(CommandError::Dockerfile { text: error }), _) => {
            Err(CommandError::Dockerfile { text: text + &error })
        }
        (Some(error), _) => {
            if !text.is_empty() {
                say(text.trim_end());
            }
            Err(error)
        }
        (None, 0) => {
            say(&format!("{text}Check complete, no warnings found."));
            Ok(())
        }
        (None, count) => {
            let noun = if count == 1 { "warning has" } else { "warnings have" };
            Err(CommandError::Findings {
                text: format!("{text}Check complete, {count} {noun} been found!\n"),
            })
        }
    }
}

/// What counts as a finding: what belongs to no rule is told and does not.
fn counted(warnings: &[Diagnostic]) -> usize {
    warnings.iter().filter(|warning| warning.rule.is_some()).count()
}

fn description(rule: &str) -> &'static str {
    LINTS.iter().find(|lint| lint.name == rule).map_or("", |lint| lint.description)
}

/// The page of BuildKit's documentation about a rule.
pub(crate) fn page(rule: &str) -> String {
    let mut name = String::new();
    let mut before = 'A';
    let chars: Vec<char> = rule.chars().collect();
    for (i, c) in chars.iter().enumerate() {
        let starts_word = before.is_lowercase() || chars.get(i + 1).is_some_and(|next| next.is_lowercase());
        if i > 0 && c.is_uppercase() && starts_word {
            name.push('-');
        }
        name.extend(c.to_lowercase());
        before = *c;
    }
    format!("https://docs.docker.com/go/dockerfile/rule/{name}/")
}

fn as_json(source: Source<'_>, warnings: &[Diagnostic], error: Option<&Diagnostic>) -> Value {
    use base64::Engine as _;
    let location = |finding: &Diagnostic| json!({"sourceIndex": 0, "ranges": [ranges(source, finding)]});
    let warning = |finding: &Diagnostic| {
        let rule = finding.rule.unwrap_or_default();
        json!({
            "ruleName": rule,
            "description": description(rule),
            "url": finding.rule.map_or_else(String::new, page),
            "detail": detail(finding),
            "location": location(finding),
        })
    };
    let data = base64::engine::general_purpose::STANDARD.encode(source.text);
    let mut document = json!({
        "warnings": warnings.iter().map(warning).collect::<Vec<_>>(),
        "sources": [{"filename": source.name, "language": "Dockerfile", "data": data}],
    });
    if let Some(error) = error {
        document["buildError"] = json!({"message": error.message, "location": location(error)});
    }
    document
}

/// The lines of a finding, and the characters in them, counted from 1 and from 0 as BuildKit's are.
fn ranges(source: Source<'_>, finding: &Diagnostic) -> Value {
    let (first, last) = lines(source, finding);
    json!({
        "start": {"line": first.line, "character": first.column - 1},
        "end": {"line": last.line, "character": last.column - 1},
    })
}

fn as_sarif(source: Source<'_>, warnings: &[Diagnostic], mistakes: &[Diagnostic]) -> Value {
    let rules = LINTS.iter().map(|lint| {
        json!({
            "id": lint.name,
            "shortDescription": {"text": lint.description},
            "helpUri": page(lint.name),
            "defaultConfiguration": {"level": "warning", "enabled": !lint.experimental},
        })
    });
    let result = |finding: &Diagnostic| {
        let (first, last) = lines(source, finding);
        let mut result = json!({
            "level": if finding.severity == Severity::Error { "error" } else { "warning" },
            "message": {"text": detail(finding)},
            "locations": [{"physicalLocation": {
                "artifactLocation": {"uri": as_uri(source.name)},
                "region": {
                    "startLine": first.line,
                    "startColumn": first.column,
                    "endLine": last.line,
                    "endColumn": last.column,
                },
            }}],
        });
        if let Some(rule) = finding.rule {
            result["ruleId"] = rule.into();
        }
        result
    };
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "kiln",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules.collect::<Vec<_>>(),
            }},
            "columnKind": "unicodeCodePoints",
            "results": warnings.iter().chain(mistakes).map(result).collect::<Vec<_>>(),
        }],
    })
}

/// A file's name as a relative reference of RFC 3986.
fn as_uri(name: &str) -> String {
    let mut uri = String::new();
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                uri.push(byte.into())
            }
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri
}

/// What a finding says, with what to do about it.
fn detail(finding: &Diagnostic) -> String {
    match &finding.hint {
        Some(hint) => format!("{}: {hint}", finding.message),
        None => finding.message.clone(),
    }
}

/// A place in a text, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct At {
    line: usize,
    column: usize,
}

/// Where a finding begins and ends.
fn lines(source: Source<'_>, finding: &Diagnostic) -> (At, At) {
    let range = render::place(source, finding);
    let at = |offset: usize| {
        let above = &source.text[..offset];
        let start = above.rfind('\n').map_or(0, |newline| newline + 1);
        At { line: above.matches('\n').count() + 1, column: above[start..].chars().count() + 1 }
    };
    (at(range.start), at(range.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_uris() {
        assert_eq!(as_uri("Dockerfile.dev"), "Dockerfile.dev");
        assert_eq!(as_uri("D #%ä"), "D%20%23%25%C3%A4");
    }

    #[test]
    fn pages_are_named_after_their_rules() {
        for (rule, want) in [
            ("JSONArgsRecommended", "json-args-recommended"),
            ("StageNameCasing", "stage-name-casing"),
            ("SecretsUsedInArgOrEnv", "secrets-used-in-arg-or-env"),
        ] {
            assert_eq!(page(rule), format!("https://docs.docker.com/go/dockerfile/rule/{want}/"));
        }
    }
}
