//! The whole file: directives, then instruction after instruction, put into stages. It goes on after
//! an error, so that all are told at once. It does not know single instructions.

use crate::advice;
use crate::ast::{Dockerfile, Heredoc, Instruction, InstructionKind, Span, Stage};
use crate::diagnostic::{Diagnostic, Severity};
use crate::directives;
use crate::heredoc::{Mark, chomp, marks};
use crate::instruction;
use crate::lines::{Lines, Logical};
use crate::statement::Statement;

/// The longest Dockerfile that is read, in bytes.
pub const MAX_DOCKERFILE_SIZE: usize = 16 * 1024 * 1024;

/// How many errors are told before the rest is left unread.
pub const MAX_ERRORS: usize = 100;

/// What a text says, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parse {
    /// The tree, without the instructions that could not be read.
    pub dockerfile: Dockerfile,
    /// Errors and warnings, in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads a Dockerfile. It always gives a tree; one with an error among the diagnostics can't be built.
pub fn parse(source: &str) -> Parse {
    let mut parse = Parse::default();
    if source.len() > MAX_DOCKERFILE_SIZE {
        let size = source.len();
        let message =
            format!("the Dockerfile has {size} bytes, more than the {MAX_DOCKERFILE_SIZE} that are read");
        parse.diagnostics.push(error(message, Span::default(), 1));
        return parse;
    }
    let mut lines = Lines::new(source, '\\');
    let mut stages = Stages::default();
    parse.dockerfile.directives = directives::read(&mut lines, &mut parse.diagnostics);
    let (mut seen, mut errors) = (0, 0);
    while let Some(logical) = lines.logical(&mut parse.diagnostics) {
        errors += parse.diagnostics[seen..].iter().filter(|d| d.severity == Severity::Error).count();
        seen = parse.diagnostics.len();
        if errors > MAX_ERRORS {
            let message = "too many errors: the rest of the Dockerfile is not read".to_owned();
            parse.diagnostics.push(error(message, logical.map.span(0, logical.text.len()), logical.line));
            return stages.into_parse(parse);
        }
        stages.any = true;
        warn_of_blank_lines(&logical, &mut parse.diagnostics);
        match read(&mut lines, logical, &mut parse.diagnostics) {
            Ok(instruction) => stages.add(instruction, &mut parse.diagnostics),
            Err((diagnostic, was_from)) => {
                stages.broken |= was_from;
                parse.diagnostics.push(diagnostic);
            }
        }
    }
    stages.into_parse(parse)
}

/// Reads one instruction by itself: a trigger from a base image's configuration.
pub fn parse_instruction(text: &str, escape: char) -> Result<InstructionKind, Diagnostic> {
    let single = || error("onbuild trigger should be a single expression".to_owned(), Span::default(), 1);
    if text.len() > MAX_DOCKERFILE_SIZE {
        return Err(error("the trigger is too long".to_owned(), Span::default(), 1));
    }
    let mut lines = Lines::new(text, escape);
    let mut diagnostics = Vec::new();
    let logical = lines.logical(&mut diagnostics).ok_or_else(single)?;
    let instruction = read(&mut lines, logical, &mut diagnostics).map_err(|(diagnostic, _)| diagnostic)?;
    if lines.logical(&mut diagnostics).is_some() {
        return Err(single());
    }
    if matches!(instruction.kind, InstructionKind::From { .. }) {
        let message = "FROM isn't allowed as an ONBUILD trigger".to_owned();
        return Err(error(message, instruction.span, instruction.line));
    }
    match diagnostics.into_iter().find(|diagnostic| diagnostic.severity == Severity::Error) {
        Some(diagnostic) => Err(diagnostic),
        None => Ok(instruction.kind),
    }
}

/// The stages so far.
#[derive(Default)]
struct Stages {
    global_args: Vec<Instruction>,
    stages: Vec<Stage>,
    /// Whether a FROM could not be read: what follows it belongs to no stage that is known.
    broken: bool,
    /// Whether it was told that an instruction stands before the first FROM.
    told: bool,
    /// Whether there was an instruction at all.
    any: bool,
}

impl Stages {
    fn add(&mut self, instruction: Instruction, diagnostics: &mut Vec<Diagnostic>) {
        if let InstructionKind::From { alias, .. } = &instruction.kind {
            let name = alias.as_ref().map(|(name, _)| name.raw.to_lowercase());
            self.stages.push(Stage { from: instruction, name, instructions: Vec::new() });
            self.broken = false;
        } else if self.broken {
            // Its stage is unknown; the error about FROM stands already.
        } else if let Some(stage) = self.stages.last_mut() {
            stage.instructions.push(instruction);
        } else if matches!(instruction.kind, InstructionKind::Arg(_)) {
            self.global_args.push(instruction);
        } else if !self.told {
            self.told = true;
            let mut diagnostic = error(
                "no build stage in current context".to_owned(),
                instruction.keyword.span,
                instruction.line,
            );
            diagnostic.hint = Some("only ARG may stand before the first FROM".to_owned());
            diagnostics.push(diagnostic);
        }
    }

    fn into_parse(self, mut parse: Parse) -> Parse {
        let failed = parse.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
        if self.stages.is_empty() && !failed {
            let message = if self.any {
                "dockerfile contains no stages to build"
            } else {
                "the Dockerfile is empty: file with no instructions"
            };
            let mut diagnostic = error(message.to_owned(), Span::default(), 1);
            diagnostic.hint = Some("begin with FROM image".to_owned());
            parse.diagnostics.push(diagnostic);
        }
        parse.dockerfile.global_args = self.global_args;
        parse.dockerfile.stages = self.stages;
        parse
    }
}

/// Reads an instruction with its heredocs. An error comes with whether it is one of a FROM.
fn read(
    lines: &mut Lines<'_>,
    logical: Logical,
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<Instruction, (Diagnostic, bool)> {
    let statement = Statement::new(&logical.text, &logical.map, lines.escape);
    let is_from = statement.is("FROM");
    let mut end = (logical.end, logical.end_line);
    let mut heredocs = Vec::new();
    for mark in marks(&logical.text, &statement) {
        let (heredoc, terminator) =
            heredoc(lines, mark, &logical, diagnostics).map_err(|diagnostic| (diagnostic, false))?;
        heredocs.push(heredoc);
        end = terminator;
    }
    let before = lines.before(logical.map.start());
    let kind = instruction::read(&statement, heredocs, before, false).map_err(|problem| {
        let mut diagnostic =
            error(problem.message, statement.span(&problem.range), logical.map.line(problem.range.start));
        diagnostic.hint = problem.hint;
        (diagnostic, is_from)
    })?;
    let advice = advice::about(&logical.said, &kind, diagnostics);
    Ok(Instruction {
        span: Span { start: logical.map.start(), end: end.0 },
        line: logical.line,
        end_line: end.1,
        keyword: statement.keyword_word(),
        text: logical.text.trim().to_owned(),
        comments: logical.comments,
        advice,
        kind,
    })
}

/// Reads a heredoc's body, and where its last line ends.
fn heredoc(
    lines: &mut Lines<'_>,
    mark: Mark,
    logical: &Logical,
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<(Heredoc, (usize, u32)), Diagnostic> {
    let body = lines.body(&mark.name, mark.chomp, diagnostics);
    let Some(end) = body.terminator else {
        let span = logical.map.span(0, logical.text.len());
        let mut diagnostic = error("unterminated heredoc".to_owned(), span, logical.line);
        let name = &mark.name;
        diagnostic.hint = Some(match body.near_miss {
            Some(line) => format!("line {line} has blanks around {name}, which must stand alone"),
            None => format!("a line with nothing but {name} must end it"),
        });
        return Err(diagnostic);
    };
    let heredoc = Heredoc {
        body: if mark.chomp { chomp(&body.text) } else { body.text.clone() },
        raw_body: body.text,
        name: mark.name,
        expand: mark.expand,
        chomp: mark.chomp,
        fd: mark.fd,
        span: body.span,
    };
    Ok((heredoc, end))
}

fn warn_of_blank_lines(logical: &Logical, diagnostics: &mut Vec<Diagnostic>) {
    let Some((span, blank)) = logical.blank else { return };
    diagnostics.push(Diagnostic {
        severity: Severity::Warning,
        rule: Some("NoEmptyContinuation"),
        message: "Empty continuation line".to_owned(),
        span,
        // As BuildKit: the line in which the instruction ends.
        line: logical.end_line,
        hint: Some(format!(
            "line {blank} is empty, which will become an error: drop it, or make it a comment"
        )),
    });
}

fn error(message: String, span: Span, line: u32) -> Diagnostic {
    Diagnostic { severity: Severity::Error, rule: None, message, span, line, hint: None }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
