//! Dockerfile and .dockerignore text to a tree with spans, and the rules of shell-word expansion.
//! It does not know images, files or the values of build arguments.

pub mod ast;
pub mod diagnostic;
