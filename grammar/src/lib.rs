//! Dockerfile and .dockerignore text to a tree with spans, and the rules of shell-word expansion.
//! It does not know images, files or the values of build arguments.

pub mod ast;
pub mod diagnostic;
pub mod expand;
pub mod ignore;
pub mod path;
pub mod suggest;

mod advice;
mod directives;
mod duration;
mod fileset;
mod flags;
mod glob;
mod health;
mod heredoc;
mod instruction;
mod lines;
mod mount;
mod parse;
mod statement;
mod tokens;
mod unknown;

pub use ast::{Advice, AdviceKind, Dockerfile, Heredoc, Instruction, InstructionKind, Span, Stage, Word};
pub use diagnostic::{Diagnostic, Severity};
pub use duration::parse as go_duration;
pub use ignore::{IgnorePattern, parse_ignore};
pub use mount::record as csv_record;
pub use parse::{MAX_DOCKERFILE_SIZE, Parse, parse, parse_instruction};

/// The longest line, in bytes and without its end, that BuildKit reads.
pub use lines::MAX_LINE;
