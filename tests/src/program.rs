//! Finds the binary that the tests drive. It does not build it.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

const HOW: &str = "there is no kiln to test: build it with `cargo static`, or name one in KILN_BIN";

/// The kiln to test: the one that `KILN_BIN` names, else the newer of `target/release/kiln` and
/// `target/debug/kiln`, both beside the test's own binary. Panics, and says what to do, where there
/// is none: a test that did not run must not look like one that passed.
pub fn kiln_program() -> PathBuf {
    if let Some(named) = std::env::var_os("KILN_BIN") {
        let named = PathBuf::from(named);
        let named = if named.is_absolute() { named } else { workspace().join(named) };
        assert!(named.is_file(), "KILN_BIN names {}, which is no file; {HOW}", named.display());
        return named;
    }
    let target = target_folder();
    ["release/kiln", "debug/kiln"]
        .iter()
        .map(|name| target.join(name))
        .filter_map(|path| Some((modified(&path)?, path)))
        .max()
        .map(|(_, path)| path)
        .unwrap_or_else(|| panic!("{HOW} (looked in {})", target.display()))
}

/// `target`, from the place of the running test: `target/<profile>/deps/<test>`.
fn target_folder() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.ancestors().nth(3).map_or_else(|| workspace().join("target"), Path::to_owned)
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().ok().filter(|m| m.is_file())?.modified().ok()
}
