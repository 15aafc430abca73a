//! The parser directives at the top of a Dockerfile: `# escape=`, `# syntax=`, `# check=`. It does not
//! know what their values mean, but for the escape character.

use crate::ast::{Directives, Span, Word};
use crate::diagnostic::{Diagnostic, Severity};
use crate::lines::{Lines, Physical};

/// Reads the directives and leaves `lines` at the first line that is none.
pub(crate) fn read(lines: &mut Lines<'_>, diagnostics: &mut Vec<Diagnostic>) -> Directives {
    let mut found = Directives::default();
    let mut seen: Vec<&str> = Vec::new();
    skip_shebang(lines, &mut found);
    loop {
        let mut ahead = lines.clone();
        let Some(line) = ahead.physical(&mut Vec::new()) else { break };
        let Some((name, value)) = directive(line) else { break };
        *lines = ahead;
        if seen.contains(&name) {
            diagnostics.push(error(
                line,
                value.span,
                format!("only one {name} parser directive can be used"),
            ));
            continue;
        }
        seen.push(name);
        // As BuildKit: one that is indented is one, but only for the escape character.
        let is_indented = line.text.starts_with(char::is_whitespace);
        match name {
            "syntax" | "check" if is_indented => {}
            "syntax" => found.syntax = Some(value),
            "check" => found.check = Some(value),
            _ => match value.raw.as_str() {
                "\\" => found.escape = '\\',
                "`" => found.escape = '`',
                other => {
                    let message = format!("invalid escape token '{other}' does not match ` or \\");
                    diagnostics.push(error(line, value.span, message));
                }
            },
        }
    }
    lines.escape = found.escape;
    found
}

/// After a `#!` line BuildKit still finds `syntax` and `check`, but no escape character.
fn skip_shebang(lines: &Lines<'_>, found: &mut Directives) {
    let mut ahead = lines.clone();
    if !ahead.physical(&mut Vec::new()).is_some_and(|line| line.text.starts_with("#!")) {
        return;
    }
    while let Some((name, value)) = ahead.physical(&mut Vec::new()).and_then(directive) {
        match name {
            "syntax" if found.syntax.is_none() => found.syntax = Some(value),
            "check" if found.check.is_none() => found.check = Some(value),
            _ => {}
        }
    }
}

fn directive(line: Physical<'_>) -> Option<(&'static str, Word)> {
    let (name, value) = line.text.trim_start().strip_prefix('#')?.split_once('=')?;
    let name = name.trim_start().trim_end_matches(is_directive_space);
    let name = ["escape", "syntax", "check"].into_iter().find(|known| known.eq_ignore_ascii_case(name))?;
    let value = value.trim_matches(is_directive_space);
    if value.is_empty() {
        return None;
    }
    let start = line.start + (line.text.trim_end_matches(is_directive_space).len() - value.len());
    Some((name, Word { raw: value.to_owned(), span: Span { start, end: start + value.len() } }))
}

fn is_directive_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{0C}')
}

fn error(line: Physical<'_>, span: Span, message: String) -> Diagnostic {
    Diagnostic { severity: Severity::Error, rule: None, message, span, line: line.number, hint: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, escape: char, syntax: Option<&str>, errors: usize) {
        let mut diagnostics = Vec::new();
        let mut lines = Lines::new(source, '\\');
        let found = read(&mut lines, &mut diagnostics);
        assert_eq!(found.escape, escape, "{source:?}");
        assert_eq!(found.syntax.as_ref().map(|w| w.raw.as_str()), syntax, "{source:?}");
        assert_eq!(diagnostics.len(), errors, "{source:?}");
        for word in [found.syntax, found.check].into_iter().flatten() {
            assert_eq!(source[word.span.start..word.span.end], word.raw);
        }
    }

    #[test]
    fn directives_are_read_from_the_top() {
        check("# escape=`\nFROM x", '`', None, 0);
        check("#\t EsCaPe  =  ` \nFROM x", '`', None, 0);
        check("# syntax=docker/dockerfile:1 \n# escape=`", '`', Some("docker/dockerfile:1"), 0);
        check("\u{feff}# escape=`\r\n", '`', None, 0);
    }

    #[test]
    fn the_first_other_line_ends_them() {
        check("\n# escape=`", '\\', None, 0);
        check("# colour=blue\n# escape=`", '\\', None, 0);
        check("# a comment\n# syntax=x", '\\', None, 0);
        check("# escape=", '\\', None, 0);
        check("#!/bin/x\n# syntax=y\n# escape=`", '\\', Some("y"), 0);
    }

    #[test]
    fn repeated_and_unknown_values_are_errors() {
        check("# escape=`\n# escape=`", '`', None, 1);
        check("# syntax=a\n# Syntax=b", '\\', Some("a"), 1);
        check("# escape=x", '\\', None, 1);
    }
}
