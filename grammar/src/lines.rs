//! Physical lines to logical ones: continuation lines joined, comments and blank lines between them
//! dropped, heredoc bodies cut out, and a map back to where each byte stood. It does not know what an
//! instruction means.

use crate::advice::{self, Said};
use crate::ast::Span;
use crate::diagnostic::{Diagnostic, Severity};

/// The longest line, in bytes and without its end, that BuildKit reads.
pub const MAX_LINE: usize = 65535;

/// A line of the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Physical<'a> {
    /// The text without the carriage returns and the newline at its end.
    pub text: &'a str,
    /// The text with its end.
    pub full: &'a str,
    /// Where it begins.
    pub start: usize,
    /// Its number, from 1.
    pub number: u32,
}

/// An instruction's text on one line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logical {
    pub text: String,
    pub map: OffsetMap,
    /// The comment lines since the instruction before.
    pub comments: Vec<String>,
    /// Those of them that are for kiln.
    pub said: Vec<Said>,
    /// The first blank line between its lines.
    pub blank: Option<(Span, u32)>,
    pub line: u32,
    pub end_line: u32,
    /// The end of its last physical line.
    pub end: usize,
}

/// Where the bytes of a logical line stand in the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct OffsetMap {
    segments: Vec<Segment>,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    at: usize,
    source: usize,
    line: u32,
}

/// Reads a file line by line.
#[derive(Clone)]
pub(crate) struct Lines<'a> {
    source: &'a str,
    at: usize,
    number: u32,
    /// The escape character, which also continues a line.
    pub escape: char,
}

/// A heredoc's body, or what was read of it.
pub(crate) struct Body {
    pub text: String,
    pub span: Span,
    /// The end and the number of the terminating line; `None` when there is none.
    pub terminator: Option<(usize, u32)>,
    /// A line that would be the terminator but for blanks around it.
    pub near_miss: Option<u32>,
}

impl OffsetMap {
    /// Where the first physical line's text begins, which an escape character alone may be.
    pub(crate) fn start(&self) -> usize {
        self.segments.first().map_or(0, |s| s.source)
    }

    /// The span of a range of the logical line.
    pub(crate) fn span(&self, start: usize, end: usize) -> Span {
        let from = self.segment(start).map_or(0, |s| s.source + (start - s.at));
        if end <= start {
            return Span { start: from, end: from };
        }
        let to = self.segment(end - 1).map_or(from, |s| s.source + (end - s.at));
        Span { start: from, end: to }
    }

    /// The line on which a byte of the logical line stands.
    pub(crate) fn line(&self, at: usize) -> u32 {
        self.segment(at).map_or(1, |s| s.line)
    }

    fn push(&mut self, at: usize, source: usize, line: u32) {
        self.segments.push(Segment { at, source, line });
    }

    fn segment(&self, at: usize) -> Option<&Segment> {
        let after = self.segments.partition_point(|s| s.at <= at);
        self.segments.get(after.saturating_sub(1))
    }
}

impl<'a> Lines<'a> {
    pub(crate) fn new(source: &'a str, escape: char) -> Lines<'a> {
        let at = if source.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Lines { source, at, number: 0, escape }
    }

    /// The text of the line before the one that holds a place.
    pub(crate) fn before(&self, at: usize) -> &'a str {
        let above = self.source.get(..at).unwrap_or_default();
        let Some((above, _)) = above.rsplit_once('\n') else { return "" };
        above.rsplit_once('\n').map_or(above, |(_, line)| line)
    }

    /// The next line of the file, whatever it is.
    pub(crate) fn physical(&mut self, diagnostics: &mut Vec<Diagnostic>) -> Option<Physical<'a>> {
        let rest = self.source.get(self.at..).filter(|rest| !rest.is_empty())?;
        let length = rest.find('\n').map_or(rest.len(), |newline| newline + 1);
        let full = &rest[..length];
        let start = self.at;
        self.at += length;
        self.number += 1;
        if full.strip_suffix('\n').unwrap_or(full).len() > MAX_LINE {
            diagnostics.push(Diagnostic {
                severity: Severity::Error,
                rule: None,
                message: format!("dockerfile line greater than max allowed size of {MAX_LINE}"),
                span: Span { start, end: start + full.trim_end().len() },
                line: self.number,
                hint: Some(
                    "break the line with the escape character, or COPY the text from a file".to_owned(),
                ),
            });
        }
        Some(Physical { text: full.trim_end_matches(['\r', '\n']), full, start, number: self.number })
    }

    /// The next instruction's logical line.
    pub(crate) fn logical(&mut self, diagnostics: &mut Vec<Diagnostic>) -> Option<Logical> {
        let mut out = Logical::default();
        let mut open = loop {
            let Some(line) = self.physical(diagnostics) else {
                advice::without_instruction(&out.said, diagnostics);
                return None;
            };
            let text = line.text.trim_start();
            if let Some(comment) = text.strip_prefix('#') {
                out.said.extend(advice::said(line.text, line.start, line.number));
                // As BuildKit: an empty comment parts those above it from the instruction.
                match comment.trim() {
                    "" => out.comments.clear(),
                    comment => out.comments.push(comment.to_owned()),
                }
                continue;
            }
            if text.is_empty() {
                out.said.iter_mut().for_each(Said::part);
                continue;
            }
            out.line = line.number;
            break self.append(&mut out, line, text);
        };
        while open {
            let Some(line) = self.physical(diagnostics) else { break };
            let text = line.text.trim_start();
            if text.starts_with('#') {
                out.end_line = line.number;
            } else if text.is_empty() {
                let span = Span { start: line.start, end: line.start + line.text.len() };
                out.blank.get_or_insert((span, line.number));
                out.end_line = line.number;
            } else {
                open = self.append(&mut out, line, line.text);
            }
        }
        Some(out)
    }

    /// The body of a heredoc, from the line that comes next.
    pub(crate) fn body(&mut self, name: &str, chomp: bool, diagnostics: &mut Vec<Diagnostic>) -> Body {
        let start = self.at;
        let mut body =
            Body { text: String::new(), span: Span { start, end: start }, terminator: None, near_miss: None };
        while let Some(line) = self.physical(diagnostics) {
            let text = if chomp { line.text.trim_start_matches('\t') } else { line.text };
            if text == name {
                body.terminator = Some((line.start + line.text.len(), line.number));
                break;
            }
            if text.trim() == name {
                body.near_miss.get_or_insert(line.number);
            }
            body.text.push_str(line.full);
            body.span.end = self.at;
        }
        body
    }

    /// Adds a physical line; whether the logical one goes on after it.
    fn append(&self, out: &mut Logical, line: Physical<'_>, text: &str) -> bool {
        let (kept, open) = match continued(text, self.escape) {
            Some(kept) => (kept, true),
            None => (text, false),
        };
        let indent = line.text.len() - text.len();
        out.map.push(out.text.len(), line.start + indent, line.number);
        out.text.push_str(kept);
        out.end_line = line.number;
        out.end = line.start + line.text.len();
        open
    }
}

/// The text without the escape character that ends it, if one does: blanks may follow it, and
/// another escape character must not stand before it.
fn continued(text: &str, escape: char) -> Option<&str> {
    let kept = text.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    if kept.ends_with(escape) { None } else { Some(kept) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logical(source: &str) -> Vec<Logical> {
        let mut lines = Lines::new(source, '\\');
        std::iter::from_fn(|| lines.logical(&mut Vec::new())).collect()
    }

    fn check(source: &str, expect: &[&str]) {
        let got: Vec<_> = logical(source).into_iter().map(|l| l.text).collect();
        assert_eq!(got, expect, "{source:?}");
    }

    #[test]
    fn lines_are_joined_as_they_are() {
        check("RUN a \\\n   b", &["RUN a    b"]);
        check("RUN a\\\nb", &["RUN ab"]);
        check("FR\\\nOM x\nA", &["FROM x", "A"]);
        check("RUN a \\ \t\n b", &["RUN a  b"]);
        check("RUN a\\\\\n b", &["RUN a\\\\", " b".trim_start()]);
        check("CMD a b \\", &["CMD a b "]);
        check("RUN a \\\r\n  b\r\n", &["RUN a   b"]);
        check("\\\nRUN a", &["RUN a"]);
    }

    #[test]
    fn comments_and_blank_lines_within_are_dropped() {
        check("RUN a && \\\n  # c \\\n\n   b", &["RUN a &&    b"]);
        let lines = logical("RUN a \\\n\n b\nRUN c");
        assert_eq!(lines[0].blank, Some((Span { start: 8, end: 8 }, 2)));
        assert_eq!(lines[1].blank, None);
        assert_eq!((lines[0].line, lines[0].end_line, lines[1].line), (1, 3, 4));
    }

    #[test]
    fn comments_above_belong_to_the_next_instruction() {
        let lines = logical("# one\n  #two\nFROM x\n# three\nRUN y\n");
        assert_eq!(lines[0].comments, ["one", "two"]);
        assert_eq!(lines[1].comments, ["three"]);
    }

    #[test]
    fn offsets_lead_back_to_the_file() {
        let source = "\u{feff}  RUN ab \\\n  # c\n  cd";
        let line = &logical(source)[0];
        assert_eq!(line.text, "RUN ab   cd");
        let at = line.text.find("cd").unwrap();
        let span = line.map.span(at, at + 2);
        assert_eq!(&source[span.start..span.end], "cd");
        assert_eq!(line.map.line(at), 3);
        let span = line.map.span(0, 3);
        assert_eq!(&source[span.start..span.end], "RUN");
    }

    #[test]
    fn an_instruction_begins_where_its_first_line_does() {
        let line = &logical("A\n  \\\nRUN a")[1];
        assert_eq!((line.text.as_str(), line.line), ("RUN a", 2));
        assert_eq!((line.map.start(), line.map.span(0, 3)), (4, Span { start: 6, end: 9 }));
    }

    #[test]
    fn a_body_ends_at_its_name_alone() {
        let mut lines = Lines::new(" EOF\nEOF \n\tEOF\nEOF\r\nx", '\\');
        let body = lines.body("EOF", false, &mut Vec::new());
        assert_eq!(body.text, " EOF\nEOF \n\tEOF\n");
        assert_eq!(body.terminator, Some((18, 4)));
        let mut lines = Lines::new("a\n\tEOF\n", '\\');
        assert!(lines.body("EOF", true, &mut Vec::new()).terminator.is_some());
        let mut lines = Lines::new("a\nEOF \n", '\\');
        let body = lines.body("EOF", true, &mut Vec::new());
        assert_eq!((body.terminator, body.near_miss), (None, Some(2)));
    }

    #[test]
    fn a_line_may_have_65535_bytes() {
        for (length, errors) in [(MAX_LINE, 0), (MAX_LINE + 1, 1)] {
            let source = format!("{}\n", "x".repeat(length));
            let mut diagnostics = Vec::new();
            Lines::new(&source, '\\').logical(&mut diagnostics);
            assert_eq!(diagnostics.len(), errors, "{length}");
        }
    }
}
