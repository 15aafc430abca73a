//! The claims about graphs in protobuf: any bytes are read or refused, and what is read is written so that
//! it reads the same. It does not know Dockerfiles.

use crate::memory::{self, Held};
use crate::meter::peak_of;
use kiln_solver::Definition;
use kiln_solver::pb::{decode, dump, encode};

/// What a field of two bytes may cost: it may be a message of its own, as it is read and as it is used.
const FIELD: usize = 2048;

/// Fails if a claim does not hold of the bytes.
pub fn check(data: &[u8]) {
    let (outcome, peak) = peak_of(|| decode(data));
    memory::check(Held { what: "decode", peak, input: data.len(), things: data.len() / 2 * FIELD });
    let Ok(definition) = outcome else {
        // What kiln can't do can be shown all the same.
        let _ = dump(data);
        return;
    };
    check_edges(&definition);
    assert!(dump(data).is_ok(), "what can be read can be shown");
    let bytes = encode(&definition, None);
    match decode(&bytes) {
        Ok(again) => {
            assert_eq!(again.target, definition.target);
            assert_eq!(again.vertices(), definition.vertices());
            assert!(encode(&again, None) == bytes, "it is written otherwise the second time");
        }
        Err(why) => panic!("what was written can't be read: {why}"),
    }
}

fn check_edges(definition: &Definition) {
    let vertices = definition.vertices();
    for (number, vertex) in vertices.iter().enumerate() {
        assert!(vertex.inputs.iter().all(|edge| edge.vertex.index() < number), "{:?}", vertex.inputs);
    }
    assert!(definition.target.is_none_or(|edge| edge.vertex.index() < vertices.len()));
}
