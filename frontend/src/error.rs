//! Why a Dockerfile can't be lowered, and where it says so. It does not know how errors are shown.

use kiln_grammar::{Diagnostic, Instruction, Severity, Span};

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

/// Where an instruction stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub span: Span,
    pub line: u32,
    pub end_line: u32,
}

impl Place {
    pub(crate) fn of(instruction: &Instruction) -> Place {
        Place { span: instruction.span, line: instruction.line, end_line: instruction.end_line }
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
}
