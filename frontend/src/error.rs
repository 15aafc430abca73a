//! Why a Dockerfile can't be lowered, and where it says so. It does not know how errors are shown.

use kiln_grammar::{Diagnostic, Instruction, Severity, Span, Word};

/// Why a Dockerfile can't be lowered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LowerError {
    /// The Dockerfile, or an option about it, is wrong.
    #[error("{}", .0.message)]
    Diagnostic(Diagnostic),
    /// An image is not to be had.
    #[error("{reference}: {message}")]
    Image {
        /// The image, normalised.
        reference: String,
        /// What was told about it.
        message: String,
        /// The line that asks for it, counted from 1.
        line: u32,
        /// The instruction that asks for it.
        span: Span,
        /// What to do about it, if there is something to say.
        hint: Option<String>,
    },
    /// There are warnings, and `error=true` makes them errors.
    #[error("lint violation found for rules: {}", .rules.join(", "))]
    Lint {
        /// The rules, each once.
        rules: Vec<&'static str>,
        /// The warnings.
        warnings: Vec<Diagnostic>,
    },
}

impl LowerError {
    /// The same about a trigger of a base, which is not in the file that is shown.
    pub(crate) fn of_trigger(self, trigger: &Instruction) -> LowerError {
        let LowerError::Diagnostic(mut diagnostic) = self else { return self };
        let of_base = format!("this is about the trigger `ONBUILD {}` of the base", trigger.text);
        diagnostic.hint = Some(match diagnostic.hint {
            Some(hint) => format!("{of_base}: {hint}"),
            None => of_base,
        });
        LowerError::Diagnostic(diagnostic)
    }
}

/// Where an instruction, or a word of it, stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub span: Span,
    /// The first and the last line of the instruction.
    pub line: u32,
    pub end_line: u32,
    /// Whether its words have places of their own: those of a base's triggers are not in this file.
    has_words: bool,
}

impl Place {
    pub(crate) fn of(instruction: &Instruction) -> Place {
        let Instruction { span, line, end_line, ref keyword, .. } = *instruction;
        Place { span, line, end_line, has_words: keyword.span != span }
    }

    /// A place that is no instruction's.
    pub(crate) fn of_line(span: Span, line: u32) -> Place {
        Place { span, line, end_line: line, has_words: false }
    }

    /// A word of the instruction.
    pub(crate) fn at(self, word: &Word) -> Place {
        if self.has_words { Place { span: word.span, ..self } } else { self }
    }

    pub(crate) fn diagnostic(self, severity: Severity, message: String) -> Diagnostic {
        Diagnostic { severity, rule: None, message, span: self.span, line: self.line, hint: None }
    }

    pub(crate) fn error(self, message: impl Into<String>) -> LowerError {
        LowerError::Diagnostic(self.diagnostic(Severity::Error, message.into()))
    }

    pub(crate) fn hinted(self, message: impl Into<String>, hint: impl Into<String>) -> LowerError {
        let mut diagnostic = self.diagnostic(Severity::Error, message.into());
        diagnostic.hint = Some(hint.into());
        LowerError::Diagnostic(diagnostic)
    }

    /// An error, with what to do about it where that is known.
    pub(crate) fn perhaps_hinted(self, message: impl Into<String>, hint: Option<String>) -> LowerError {
        let mut diagnostic = self.diagnostic(Severity::Error, message.into());
        diagnostic.hint = hint;
        LowerError::Diagnostic(diagnostic)
    }
}
