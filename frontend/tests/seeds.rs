//! The claims of the fuzz targets about ignore files, lowering, addresses and graphs, on every input that is
//! kept in `fuzz/seeds`: those written by hand, and those that once broke a claim. It does not look at
//! memory, which takes an allocator of its own.

/// Stands in for the allocator of the fuzz targets.
mod meter {
    /// Does the work; what it held is not known.
    pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
        (work(), 0)
    }
}

#[path = "../../fuzz/claims/git_address.rs"]
mod git_address;
#[path = "../../fuzz/claims/ignore.rs"]
mod ignore;
#[path = "../../fuzz/claims/llb_decode.rs"]
mod llb_decode;
#[path = "../../fuzz/claims/lowering.rs"]
mod lowering;
#[path = "../../fuzz/claims/memory.rs"]
#[expect(dead_code, reason = "the claims about the grammar use the rest")]
mod memory;
#[path = "../../fuzz/claims/mount_flag.rs"]
mod mount_flag;
#[path = "../../fuzz/claims/tree.rs"]
#[expect(dead_code, reason = "the claims about the grammar use the rest")]
mod tree;

/// Runs a claim on the inputs of a target.
fn each(target: &str, claim: fn(&[u8])) {
    let folder = format!("{}/../fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
    let files: Vec<_> = std::fs::read_dir(folder).expect("the seeds").flatten().collect();
    assert!(files.len() > 2, "{target} has seeds");
    for file in files {
        let seed = std::fs::read(file.path()).expect("a seed");
        let holds = std::panic::catch_unwind(|| claim(&seed)).is_ok();
        assert!(holds, "a claim does not hold of {}", file.path().display());
    }
}

#[test]
fn seeds_of_ignore_files_hold() {
    each("ignore", ignore::check);
}

#[test]
fn seeds_of_the_lowering_hold() {
    each("lowering", lowering::check);
    each("grammar", lowering::check);
}

#[test]
fn seeds_of_mounts_hold() {
    each("mount_flag", mount_flag::check);
}

#[test]
fn seeds_of_addresses_hold() {
    each("git_address", git_address::check);
}

#[test]
fn seeds_of_graphs_hold() {
    each("llb_decode", llb_decode::check);
}
