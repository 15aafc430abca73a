//! The claims about `RUN --mount=`: its fields are those that were written, and a flag that is read lowers
//! to mounts in the image or to an error with a place. It does not know how things are mounted.

use crate::lowering;
use crate::memory::{self, Held};
use crate::meter::peak_of;
use crate::tree::text_of;
use kiln_grammar::{InstructionKind, parse_instruction};

/// Fails if a claim does not hold of the flag's value.
pub fn check(data: &[u8]) {
    let value = text_of(data);
    if value.contains(['\n', '\r', '\\', '\'', '"', '$']) || value.contains(char::is_whitespace) {
        // Quotes and continuation are the business of other claims.
        return lowering::check(format!("FROM scratch\nRUN --mount={value} true\n").as_bytes());
    }
    let line = format!("RUN --mount={value} true");
    let (outcome, peak) = peak_of(|| parse_instruction(&line, '\\'));
    memory::check(Held { what: "mount", peak, input: line.len(), things: 0 });
    if let Ok(kind) = outcome {
        let InstructionKind::Run(run) = kind else { panic!("{kind:?}") };
        let [mount] = run.mounts.as_slice() else { panic!("{:?}", run.mounts) };
        assert_eq!(mount.value.raw, value);
        let fields = mount.fields.iter().map(|(key, value)| match value {
            Some(value) => format!("{key}={value}"),
            None => key.clone(),
        });
        let written = value.split(',').map(|field| match field.split_once('=') {
            Some((key, value)) => format!("{}={value}", key.to_lowercase()),
            None => field.to_lowercase(),
        });
        assert!(fields.eq(written), "{:?}", mount.fields);
    }
    lowering::check(format!("FROM scratch\n{line}\n").as_bytes());
}
