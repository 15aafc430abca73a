//! The drawing of ARCHITECTURE.md as a test: which crate may know which, and what may come from
//! outside. It does not look into source files.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Every crate of the workspace, and the crates of the workspace that it may depend on.
const DRAWING: [(&str, &[&str]); 10] = [
    ("kiln", &["kiln-worker", "kiln-frontend", "kiln-grammar", "kiln-oci", "kiln-runner"]),
    ("kiln-worker", &["kiln-solver", "kiln-snapshotter", "kiln-registry", "kiln-runner", "kiln-oci"]),
    ("kiln-frontend", &["kiln-solver", "kiln-grammar", "kiln-oci"]),
    ("kiln-solver", &["kiln-oci"]),
    ("kiln-snapshotter", &["kiln-oci"]),
    ("kiln-registry", &["kiln-oci"]),
    ("kiln-oci", &[]),
    ("kiln-grammar", &[]),
    ("kiln-runner", &[]),
    ("kiln-tests", &["kiln-oci"]),
];

/// What nobody may bring in, and why.
const BANNED: [(&str, &str); 5] = [
    ("tokio-tar", "abandoned, and two readers of one tar could disagree"),
    ("async-tar", "the parent of tokio-tar, with the same flaws"),
    ("openssl-sys", "the binary is static, and TLS is rustls"),
    ("libz-sys", "layers are compressed by zlib-rs alone, so that their digests stay the same"),
    ("miniz_oxide", "layers are compressed by zlib-rs alone, so that their digests stay the same"),
];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// What cargo says of the workspace, without asking any network.
fn metadata(args: &[&str]) -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--offline", "--format-version", "1"])
        // Without this cargo wants the crates of every other platform too.
        .args(["--filter-platform", &format!("{}-unknown-linux-gnu", std::env::consts::ARCH)])
        .args(args)
        .current_dir(root())
        .output()
        .expect("cargo");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

#[test]
fn crates_know_only_what_the_drawing_allows() {
    let metadata = metadata(&["--no-deps"]);
    let drawing: BTreeMap<&str, BTreeSet<&str>> =
        DRAWING.iter().map(|(name, may)| (*name, may.iter().copied().collect())).collect();
    let mut wrong = Vec::new();
    for package in list(&metadata, "packages") {
        let name = text(package, "name");
        let Some(may) = drawing.get(name) else {
            wrong.push(format!("{name} is not in the drawing"));
            continue;
        };
        let ours = list(package, "dependencies").iter().filter(|d| drawing.contains_key(text(d, "name")));
        for dependency in ours.filter(|d| !may.contains(text(d, "name"))) {
            wrong.push(format!("{name} must not depend on {}", text(dependency, "name")));
        }
    }
    assert!(wrong.is_empty(), "not as drawn in tests/tests/dependencies.rs:\n{}", wrong.join("\n"));
}

#[test]
fn the_drawing_has_no_crate_that_is_not_there() {
    let metadata = metadata(&["--no-deps"]);
    let there: BTreeSet<&str> = list(&metadata, "packages").iter().map(|p| text(p, "name")).collect();
    let drawn: BTreeSet<&str> = DRAWING.iter().map(|(name, _)| *name).collect();
    assert_eq!(drawn, there);
}

#[test]
fn every_crate_lies_in_the_folder_that_its_name_says() {
    let metadata = metadata(&["--no-deps"]);
    for package in list(&metadata, "packages") {
        let name = text(package, "name");
        let folder = name.strip_prefix("kiln-").unwrap_or("cli");
        let manifest = text(package, "manifest_path");
        assert!(manifest.ends_with(&format!("/{folder}/Cargo.toml")), "{name} lies in {manifest}");
    }
}

/// A layer's digest is the digest of what the compressor makes: another backend or another release
/// would change the digests of images that did not change.
#[test]
fn layers_are_compressed_by_one_pinned_compressor() {
    let metadata = metadata(&[]);
    let packages = list(&metadata, "packages");
    let flate2 = packages.iter().find(|p| text(p, "name") == "flate2").expect("flate2 is a dependency");
    let nodes = list(&metadata["resolve"], "nodes");
    let node = nodes.iter().find(|n| n["id"] == flate2["id"]).expect("flate2 is resolved");
    let features: BTreeSet<&str> = list(node, "features").iter().filter_map(Value::as_str).collect();
    let wrong: Vec<&&str> = features
        .iter()
        .filter(|f| {
            matches!(
                **f,
                "rust_backend"
                    | "miniz_oxide"
                    | "zlib"
                    | "zlib-ng"
                    | "cloudflare_zlib"
                    | "zlib-default"
                    | "zlib-ng-compat"
                    | "miniz-sys"
            )
        })
        .collect();
    assert!(features.contains("zlib-rs") && wrong.is_empty(), "flate2's features are {features:?}");
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("the root manifest");
    let pin = manifest.lines().find(|line| line.starts_with("zlib-rs")).unwrap_or_default();
    assert!(pin.contains("\"="), "zlib-rs must be pinned exactly in Cargo.toml: {pin:?}");
}

#[test]
fn banned_crates_are_not_in_the_lock_file() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    for (name, why) in BANNED {
        assert!(!lock.contains(&format!("name = \"{name}\"\n")), "{name} is in Cargo.lock: {why}");
    }
}

#[test]
fn every_dependency_has_a_licence_that_deny_toml_allows() {
    let policy = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    let allowed: BTreeSet<&str> = policy
        .split("allow = [")
        .nth(1)
        .and_then(|rest| rest.split(']').next())
        .expect("deny.toml has a list `allow`")
        .split('"')
        .skip(1)
        .step_by(2)
        .collect();
    let metadata = metadata(&[]);
    let mut wrong = Vec::new();
    for package in list(&metadata, "packages") {
        let licence = text(package, "license");
        if !is_allowed(licence, &allowed) {
            wrong.push(format!("{} {}: {licence:?}", text(package, "name"), text(package, "version")));
        }
    }
    assert!(wrong.is_empty(), "licences that deny.toml does not allow:\n{}", wrong.join("\n"));
}

/// Whether an SPDX expression can be satisfied with allowed licences. `A/B` is old for `A OR B`.
fn is_allowed(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let words = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = words.split_whitespace().collect();
    let mut at = 0;
    either(&words, &mut at, allowed) && at == words.len()
}

fn either(words: &[&str], at: &mut usize, allowed: &BTreeSet<&str>) -> bool {
    let mut holds = both(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        holds |= both(words, at, allowed);
    }
    holds
}

fn both(words: &[&str], at: &mut usize, allowed: &BTreeSet<&str>) -> bool {
    let mut holds = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        holds &= one(words, at, allowed);
    }
    holds
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<&str>) -> bool {
    let word = words.get(*at).copied().unwrap_or_default();
    *at += 1;
    if word == "(" {
        let holds = either(words, at, allowed);
        *at += 1;
        return holds;
    }
    if words.get(*at) == Some(&"WITH") {
        // An exception only ever allows more.
        *at += 2;
    }
    allowed.contains(word)
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = BTreeSet::from(["MIT", "Apache-2.0", "Unicode-3.0"]);
    for good in [
        "MIT",
        "GPL-3.0 OR MIT",
        "(GPL-3.0 OR MIT) AND Unicode-3.0",
        "MIT/GPL-3.0",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(is_allowed(good, &allowed), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND GPL-3.0"] {
        assert!(!is_allowed(bad, &allowed), "{bad}");
    }
}
