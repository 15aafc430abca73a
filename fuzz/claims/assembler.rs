//! The claims about lines, continuations, directives and heredocs: all that the tree says of where things
//! stand is so, and an instruction cut out of the text reads the same. It does not know what instructions
//! mean.

use crate::memory::{self, Held};
use crate::meter::peak_of;
use crate::tree::{check_line, check_span, heredocs, instructions, placeless, text_of, words};
use kiln_grammar::ast::Directives;
use kiln_grammar::{Instruction, InstructionKind, MAX_LINE, Parse, Severity, parse, parse_instruction};

/// Fails if a claim does not hold of the text.
pub fn check(data: &[u8]) {
    let source = text_of(data);
    let (parse, peak) = peak_of(|| parse(&source));
    let things = memory::of_dockerfile(&source);
    memory::check(Held { what: "parse", peak, input: source.len(), things });
    for diagnostic in &parse.diagnostics {
        check_span(&source, diagnostic.span);
    }
    check_directives(&source, &parse.dockerfile.directives);
    let mut end = 0;
    for instruction in instructions(&parse.dockerfile) {
        check_span(&source, instruction.span);
        assert!(end <= instruction.span.start, "{:?} begins before the one above ends", instruction.span);
        end = instruction.span.end;
        check_instruction(&source, instruction);
        check_alone(&source, &parse, instruction);
    }
}

fn check_directives(source: &str, directives: &Directives) {
    assert!(matches!(directives.escape, '\\' | '`'));
    for word in directives.syntax.iter().chain(&directives.check) {
        check_span(source, word.span);
        assert_eq!(source[word.span.start..word.span.end], word.raw, "a directive's value");
    }
}

fn check_instruction(source: &str, instruction: &Instruction) {
    let Instruction { span, line, end_line, keyword, text, kind, .. } = instruction;
    check_line(source, span.start, *line);
    let newlines = source[span.start..span.end].matches('\n').count();
    assert!(*end_line as usize >= *line as usize + newlines, "the last line of {span:?}");
    assert!(!text.contains('\n') && text.starts_with(&keyword.raw), "the logical line {text:?}");
    let mut kind = kind.clone();
    for word in std::iter::once(keyword).chain(words(&mut kind).into_iter().map(|word| &*word)) {
        check_span(source, word.span);
        assert!(span.start <= word.span.start && word.span.end <= span.end, "{word:?} is not in {span:?}");
    }
    let whole = source[span.start..span.end].trim_end();
    if newlines == 0 {
        assert_eq!(source[keyword.span.start..keyword.span.end], keyword.raw, "a keyword's place");
        // The escape character at the end of the file's last line is no part of the text.
        assert!(whole == text || whole.ends_with(['\\', '`']), "the line {whole:?} is not {text:?}");
    }
    for heredoc in heredocs(&mut kind) {
        check_span(source, heredoc.span);
        assert!(span.start <= heredoc.span.start && heredoc.span.end <= span.end, "{:?}", heredoc.span);
        // A mark in quotes has no body; its place is that of the word.
        if heredoc.raw_body.is_empty() {
            assert!(heredoc.body.is_empty());
            continue;
        }
        assert_eq!(source[heredoc.span.start..heredoc.span.end], heredoc.raw_body, "a body's place");
        assert!(source[..heredoc.span.start].ends_with('\n') && heredoc.raw_body.ends_with('\n'));
        let end = source[heredoc.span.end..].split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let end = if heredoc.chomp { end.trim_start_matches('\t') } else { end };
        assert_eq!(end, heredoc.name, "the line that ends a body");
        let lines = |body: &str| body.matches('\n').count();
        assert_eq!(lines(&heredoc.body), lines(&heredoc.raw_body));
        assert!(heredoc.chomp || heredoc.body == heredoc.raw_body);
    }
}

/// An instruction cut out of the text means the same.
fn check_alone(source: &str, parse: &Parse, instruction: &Instruction) {
    let text = &source[instruction.span.start..instruction.span.end];
    let is_from = matches!(instruction.kind, InstructionKind::From { .. });
    let has_long_line = text.split('\n').any(|line| line.len() > MAX_LINE);
    if is_from || has_long_line || text.starts_with('\u{feff}') {
        return;
    }
    let alone = parse_instruction(text, parse.dockerfile.directives.escape);
    let errors = parse.diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
    match alone {
        Ok(kind) => assert_eq!(placeless(&kind), placeless(&instruction.kind), "{text:?} by itself"),
        Err(why) => panic!("{text:?} by itself: {} ({errors} errors in all)", why.message),
    }
}
