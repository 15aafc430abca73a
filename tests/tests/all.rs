//! The proof of kiln from outside: its architecture, and the built binary end to end.

mod dependencies;
mod end_to_end;
mod harness;
mod tidy;
