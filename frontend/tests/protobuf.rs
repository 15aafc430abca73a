//! What Dockerfiles lower to is written as BuildKit's protobuf and read back to the same: the Dockerfiles of
//! `tests/dockerfiles`, which have the shapes that real projects use, and examples/app. It does not know
//! how anything is run.

use kiln_frontend::{BuildOptions, ImageRequest, NamedContext, ResolvedImage, lower, pb};
use kiln_oci::{Digest, ImageConfig, Platform};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every image is there, and has a path, a name and a time.
fn image(request: &ImageRequest) -> Result<ResolvedImage, String> {
    let Platform { architecture, os, .. } = request.platform.clone();
    let mut config = ImageConfig { architecture, os, ..ImageConfig::default() };
    config.config.env = vec!["PATH=/usr/bin:/bin".to_owned()];
    let digest = Digest::of(request.reference.as_bytes());
    Ok(ResolvedImage { digest, config, reference: request.reference.clone() })
}

fn options() -> BuildOptions {
    let mut options = BuildOptions::new(Platform::new("linux", "arm64", None));
    options.build_platform = Platform::new("linux", "amd64", None);
    options.allow_insecure = true;
    options.allow_host_network = true;
    options.source_date_epoch = Some(1_700_000_000);
    options.build_args = vec![("HTTPS_PROXY".to_owned(), Some("http://proxy:3128".to_owned()))];
    let tools = NamedContext::Local { name: "context:tools".to_owned(), excludes: vec!["*.md".to_owned()] };
    options.contexts.insert("tools".to_owned(), tools);
    options
}

/// Whether a Dockerfile lowers; what it lowers to must come back.
fn comes_back(name: &str, text: &str, options: &BuildOptions) -> bool {
    let parse = kiln_grammar::parse(text);
    let lowered = lower(&parse, options, &mut |requests| requests.iter().map(image).collect());
    let Ok(lowered) = lowered else { return false };
    let bytes = pb::encode(&lowered.definition, Some(pb::SourceFile { name, text }));
    let back = pb::decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(back == lowered.definition, "{name}: {:#?}\nis not\n{:#?}", back, lowered.definition);
    true
}

#[test]
fn what_real_dockerfiles_lower_to_comes_back_from_protobuf() {
    let folder = std::fs::read_dir(root().join("tests/dockerfiles")).expect("tests/dockerfiles");
    let paths = folder.flatten().map(|entry| entry.path());
    let paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "Dockerfile")).collect();
    let lowered = |path: &&PathBuf| {
        let text = std::fs::read_to_string(path).expect("a Dockerfile");
        comes_back(&path.to_string_lossy(), &text, &options())
    };
    let count = paths.iter().filter(lowered).count();
    assert!(count > 40, "{count} of {} lower", paths.len());
}

#[test]
fn examples_app_comes_back_from_protobuf_in_every_stage() {
    let text = std::fs::read_to_string(root().join("examples/app/Dockerfile")).expect("the example");
    for target in ["userland", "style", "pages", ""] {
        let options = BuildOptions { target: Some(target.to_owned()), ..options() };
        assert!(comes_back("Dockerfile", &text, &options), "{target}");
    }
}

#[test]
fn a_stage_that_is_filtered_from_the_cache_comes_back() {
    let text = "FROM a AS b\nRUN x\nFROM scratch\nCOPY --from=b /x /\n";
    let options = BuildOptions { no_cache_filter: vec!["b".to_owned()], ..options() };
    assert!(comes_back("Dockerfile", text, &options));
}
