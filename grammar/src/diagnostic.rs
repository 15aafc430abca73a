//! What is wrong, or could be better, with a text: where, what, and what to do. Rendering is cli's.

use crate::ast::Span;
use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// A lint's finding.
    Warning,
    /// The Dockerfile can't be built.
    Error,
}

/// A finding in a Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The rule's name for a lint (`JSONArgsRecommended`), or `None` for a plain error.
    pub rule: Option<&'static str>,
    /// One sentence without a final stop.
    pub message: String,
    /// Where it is.
    pub span: Span,
    /// The line of `span`'s start, counted from 1.
    pub line: u32,
    /// What to do about it, if there is something to say.
    pub hint: Option<String>,
}
