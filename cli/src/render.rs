//! Findings in a Dockerfile as text: the line, a caret, a hint. It does not know how they were found.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use kiln_grammar::{Diagnostic, Severity, Span};

/// A Dockerfile and what it is called.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub name: &'a str,
    pub text: &'a str,
}

/// How many errors are shown: whoever mends them sees the next ones.
const ERRORS_SHOWN: usize = 20;

/// Renders findings one after another: all warnings, and the first errors.
pub(crate) fn diagnostics(source: Source<'_>, all: &[Diagnostic]) -> String {
    let mut out = String::new();
    let mut errors = 0;
    for diagnostic in all {
        errors += usize::from(diagnostic.severity == Severity::Error);
        if diagnostic.severity == Severity::Error && errors > ERRORS_SHOWN {
            continue;
        }
        out.push_str(&one(source, diagnostic));
        out.push('\n');
    }
    if errors > ERRORS_SHOWN {
        let more = errors - ERRORS_SHOWN;
        out.push_str(&format!("{more} more error{} found\n", if more == 1 { " was" } else { "s were" }));
    }
    out
}

fn one(source: Source<'_>, diagnostic: &Diagnostic) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut title = diagnostic.message.clone();
    if let Some(rule) = diagnostic.rule {
        title = format!("{rule}: {title}");
    }
    let span = place(source, diagnostic);
    let snippet = Snippet::source(source.text)
        .path(source.name)
        .fold(true)
        .annotation(AnnotationKind::Primary.span(span));
    let mut groups: Vec<Group<'_>> = vec![level.primary_title(title).element(snippet)];
    if let Some(hint) = &diagnostic.hint {
        groups.push(Group::with_title(Level::HELP.secondary_title(hint.clone())));
    }
    let place = format!("{}:{}", source.name, diagnostic.line);
    let text = Renderer::plain().render(&groups).to_string();
    // A span of nothing has no place of its own in the picture.
    if text.contains(&place) { text } else { format!("{place}: {text}") }
}

/// The place in the text that a finding is about.
pub(crate) fn place(source: Source<'_>, diagnostic: &Diagnostic) -> std::ops::Range<usize> {
    let span = within(source.text, diagnostic.span);
    let line_of_span = 1 + source.text[..span.start].matches('\n').count();
    if diagnostic.rule.is_some() && line_of_span != diagnostic.line as usize {
        // A rule's finding is told by the line that its instruction begins in, as BuildKit does.
        return whole_line(source.text, diagnostic.line).unwrap_or(span);
    }
    span
}

/// A span that lies in the text, on character boundaries, and ends with its first line.
fn within(text: &str, span: Span) -> std::ops::Range<usize> {
    let mut start = span.start.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let mut end = span.end.clamp(start, text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let line_end = text[start..].find('\n').map_or(text.len(), |n| start + n);
    start..end.min(line_end).max(start)
}

/// A line, counted from 1, without the blanks around it.
fn whole_line(text: &str, line: u32) -> Option<std::ops::Range<usize>> {
    let line = text.split_inclusive('\n').nth(usize::try_from(line).ok()?.checked_sub(1)?)?;
    let start = line.as_ptr() as usize - text.as_ptr() as usize;
    let start = start + (line.len() - line.trim_start().len());
    Some(start..start + line.trim().len())
}

/// The lines of a failing instruction with their neighbours and a mark, as BuildKit shows them.
pub(crate) fn lines(source: Source<'_>, ranges: &[(u32, u32)]) -> String {
    const AROUND: u32 = 3;
    let Some(first) = ranges.iter().map(|r| r.0).min() else { return String::new() };
    let last = ranges.iter().map(|r| r.1).max().unwrap_or(first);
    let mut out = format!("{}:{first}\n--------------------\n", source.name);
    for (i, line) in (1u32..).zip(source.text.lines()) {
        if i + AROUND < first || i > last + AROUND {
            continue;
        }
        let hit = ranges.iter().any(|(a, b)| (*a..=*b).contains(&i));
        out.push_str(&format!("{i:4} | {} {line}\n", if hit { ">>>" } else { "   " }));
    }
    out.push_str("--------------------\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(text: &str) -> String {
        diagnostics(Source { name: "Dockerfile", text }, &kiln_grammar::parse(text).diagnostics)
    }

    #[test]
    fn only_the_first_errors_are_shown_and_the_others_counted() {
        let text = format!("FROM x\n{}", "WHAT\n".repeat(23));
        let shown = picture(&text);
        assert_eq!(shown.matches("error: ").count(), ERRORS_SHOWN, "{shown}");
        assert!(shown.ends_with("\n3 more errors were found\n"), "{shown}");
        let shown = picture(&format!("FROM x\n{}", "WHAT\n".repeat(20)));
        assert!(!shown.contains("more error"), "{shown}");
    }

    #[test]
    fn carets_stand_below_the_word() {
        for (line, want) in [
            ("\tCOPPY\ta\t/b", "2 |     COPPY    a    /b\n  |     ^^^^^\n"),
            ("COPY --chwon=1 a /b", "2 | COPY --chwon=1 a /b\n  |      ^^^^^^^^^\n"),
            ("日本 x", "2 | 日本 x\n  | ^^^^\n"),
        ] {
            let shown = picture(&format!("FROM x\n{line}\n"));
            assert!(shown.contains(want), "{shown}");
        }
    }
}
