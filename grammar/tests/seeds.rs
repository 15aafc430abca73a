//! The claims of the fuzz targets about the language, on every input that is kept in `fuzz/seeds`: those
//! written by hand, and those that once broke a claim. It does not look at memory, which takes an allocator
//! of its own.

/// Stands in for the allocator of the fuzz targets.
mod meter {
    /// Does the work; what it held is not known.
    pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
        (work(), 0)
    }
}

#[path = "../../fuzz/claims/assembler.rs"]
mod assembler;
#[path = "../../fuzz/claims/expansion.rs"]
mod expansion;
#[path = "../../fuzz/claims/grammar.rs"]
mod grammar;
#[path = "../../fuzz/claims/memory.rs"]
mod memory;
#[path = "../../fuzz/claims/tree.rs"]
mod tree;

/// Runs a claim on the inputs of a target.
fn each(target: &str, claim: fn(&[u8])) {
    let folder = format!("{}/../fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
    let files: Vec<_> = std::fs::read_dir(folder).expect("the seeds").flatten().collect();
    assert!(files.len() > 3, "{target} has seeds");
    for file in files {
        let seed = std::fs::read(file.path()).expect("a seed");
        let holds = std::panic::catch_unwind(|| claim(&seed)).is_ok();
        assert!(holds, "a claim does not hold of {}", file.path().display());
    }
}

#[test]
fn seeds_of_the_assembler_hold() {
    each("assembler", assembler::check);
}

#[test]
fn seeds_of_the_grammar_hold() {
    each("grammar", grammar::check);
    each("assembler", grammar::check);
}

#[test]
fn seeds_of_the_expansion_hold() {
    each("expansion", expansion::check);
}
