//! Templates as Go's text/template has them, as far as people write them behind `--format`: fields, pipelines,
//! if, with, range, variables, and the functions that docker adds. It does not know what is shown by them.

mod evaluate;
mod functions;
mod lex;
mod syntax;
mod value;

#[cfg(test)]
mod tests;

use crate::error::CommandError;
use evaluate::Evaluation;
use syntax::Node;
pub(crate) use value::Value;

/// A template that was read.
#[derive(Debug)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

/// Why a template can't be read or filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// The character of the template that it is about, counted from 1.
    pub at: usize,
    /// What is wrong.
    pub problem: String,
}

impl Flaw {
    fn new(at: usize, problem: impl Into<String>) -> Flaw {
        Flaw { at, problem: problem.into() }
    }
}

impl Template {
    /// Reads a template.
    pub fn parse(text: &str) -> Result<Template, Flaw> {
        Ok(Template { nodes: syntax::parse(&lex::lex(text)?)? })
    }

    /// Fills it in.
    pub fn fill(&self, data: &Value) -> Result<String, Flaw> {
        Evaluation::new(data, false).run(&self.nodes)
    }

    /// Fills it in with the words above the columns: functions leave them as they are.
    pub fn heads(&self, heads: &Value) -> Result<String, Flaw> {
        Evaluation::new(heads, true).run(&self.nodes)
    }
}

/// A flaw as a failure of `--format`.
pub(crate) fn format_error(flaw: Flaw) -> CommandError {
    CommandError::usage("--format", format!("{}, at character {}", flaw.problem, flaw.at))
}
