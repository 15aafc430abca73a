//! One instruction's text taken apart: its name, its flags, its arguments, each with its place in the
//! file. It does not know the instructions.

use std::ops::Range;

use crate::ast::{Span, Word};
use crate::lines::OffsetMap;
use crate::tokens::{self, Token};

/// What is wrong with an instruction, and where in its logical line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub message: String,
    pub range: Range<usize>,
    pub hint: Option<String>,
    /// Whether even a trigger of ONBUILD may not be like this.
    pub is_syntax: bool,
}

/// An instruction's parts. All ranges are in the logical line.
pub(crate) struct Statement<'a> {
    line: &'a str,
    map: &'a OffsetMap,
    /// The escape character of the file.
    pub escape: char,
    /// The name.
    pub keyword: Range<usize>,
    /// The flags, without quotes and escapes.
    pub flags: Vec<Token>,
    /// What follows the flags, without outer blanks.
    pub arguments: Range<usize>,
}

impl<'a> Statement<'a> {
    /// Takes the logical line apart.
    pub(crate) fn new(line: &'a str, map: &'a OffsetMap, escape: char) -> Statement<'a> {
        Statement::at(line, map, escape, 0..line.len())
    }

    /// The arguments as an instruction of its own: what ONBUILD holds.
    pub(crate) fn nested(&self) -> Statement<'a> {
        Statement::at(self.line, self.map, self.escape, self.arguments.clone())
    }

    /// Whether the instruction has this name.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name().eq_ignore_ascii_case(name)
    }

    /// The name as it was written.
    pub(crate) fn name(&self) -> &'a str {
        &self.line[self.keyword.clone()]
    }

    /// The arguments' text.
    pub(crate) fn args(&self) -> &'a str {
        &self.line[self.arguments.clone()]
    }

    /// The whole instruction, for a problem that has no better place.
    pub(crate) fn whole(&self) -> Range<usize> {
        self.keyword.start..self.arguments.end.max(self.keyword.end)
    }

    /// The place of a range in the file.
    pub(crate) fn span(&self, range: &Range<usize>) -> Span {
        self.map.span(range.start, range.end)
    }

    /// A range of the arguments as a range of the line.
    pub(crate) fn in_line(&self, range: &Range<usize>) -> Range<usize> {
        self.arguments.start + range.start..self.arguments.start + range.end
    }

    /// A token of the arguments as a word.
    pub(crate) fn word(&self, token: Token) -> Word {
        let span = self.span(&self.in_line(&token.range));
        Word { raw: token.text, span }
    }

    /// All the arguments as one word.
    pub(crate) fn args_word(&self) -> Word {
        Word { raw: self.args().to_owned(), span: self.span(&self.arguments) }
    }

    /// The name as a word.
    pub(crate) fn keyword_word(&self) -> Word {
        Word { raw: self.name().to_owned(), span: self.span(&self.keyword) }
    }

    /// A problem with the whole instruction.
    pub(crate) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem { message: message.into(), range: self.whole(), hint: None, is_syntax: false }
    }

    fn at(line: &'a str, map: &'a OffsetMap, escape: char, within: Range<usize>) -> Statement<'a> {
        let within = trimmed(line, within);
        let (keyword, rest) = tokens::head(&line[within.clone()]);
        let keyword = within.start + keyword.start..within.start + keyword.end;
        let rest = within.start + rest;
        let (mut flags, end) = tokens::flags(&line[rest..within.end]);
        for flag in &mut flags {
            flag.range = rest + flag.range.start..rest + flag.range.end;
        }
        let arguments = trimmed(line, rest + end..within.end);
        Statement { line, map, escape, keyword, flags, arguments }
    }
}

impl Problem {
    /// The same, with what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }

    /// The same, about the form of the line rather than its meaning.
    pub(crate) fn syntax(mut self) -> Problem {
        self.is_syntax = true;
        self
    }

    /// The same at a place of its own.
    pub(crate) fn at(mut self, range: Range<usize>) -> Problem {
        self.range = range;
        self
    }
}

fn trimmed(line: &str, range: Range<usize>) -> Range<usize> {
    let text = &line[range.clone()];
    let kept = text.trim_start();
    let start = range.start + (text.len() - kept.len());
    start..start + kept.trim_end().len()
}
