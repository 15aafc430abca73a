//! What a build has made, told: its id, its metadata, the warnings. It does not know how it was made.

use super::age_text;
use crate::args::BuildArgs;
use crate::error::CommandError;
use crate::outputs;
use crate::render::{self, Source};
use crate::stderr::say;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kiln_grammar::Diagnostic;
use kiln_worker::{AgedSource, BuildResult, Pins};

/// Says so, a line for each, where a branch or a file of the web was answered with what had come earlier.
pub(super) fn tell_of_age(pins: &Pins) {
    for (name, AgedSource { flag, age_s, what }) in pins.take_aged() {
        let then = match age_s {
            Some(age_s) => format!("what it was {} ago", age_text(age_s)),
            None => "what came earlier".to_owned(),
        };
        say(&format!("warning: cannot ask for {name} ({flag}); using {then}: {what}"));
    }
}

/// Writes what was made to where it was asked for.
pub(super) fn tell(
    args: &BuildArgs,
    quiet: bool,
    result: &BuildResult,
    warnings: &[Diagnostic],
    source: Source<'_>,
) -> Result<(), CommandError> {
    let id = result.id().map_or_else(String::new, |d| d.to_string());
    if let Some(path) = &args.iidfile {
        kiln_worker::write_whole(path, id.as_bytes())?;
    }
    if let Some(path) = &args.metadata_file {
        let mut metadata = metadata(result);
        if metadata_has_warnings() && !warnings.is_empty() {
            let warnings: Vec<_> = warnings.iter().map(|warning| warning_of(warning, source)).collect();
            metadata["buildx.build.warnings"] = warnings.into();
        }
        let text = serde_json::to_string_pretty(&metadata).unwrap_or_default();
        kiln_worker::write_whole(path, (text + "\n").as_bytes())?;
    }
    if args.cache_strict && result.cache_failures > 0 {
        return Err(CommandError::Caches { count: result.cache_failures });
    }
    if quiet && (id.is_empty() || outputs::any_on_standard_output(&args.outputs, &args.tags)) {
        return Ok(());
    }
    if quiet {
        use std::io::Write;
        return writeln!(std::io::stdout(), "{id}")
            .map_err(CommandError::file("write to", "standard output"));
    }
    if !warnings.is_empty() {
        let count = warnings.len();
        say(&format!("\n {count} warning{} found:\n", if count == 1 { "" } else { "s" }));
        say(render::diagnostics(source, warnings).trim_end());
    }
    Ok(())
}

/// What BuildKit's metadata file holds, under the same keys.
fn metadata(result: &BuildResult) -> serde_json::Value {
    let mut map = serde_json::Map::new();
    if let Some(digest) = result.config_digest {
        map.insert("containerimage.config.digest".to_owned(), digest.to_string().into());
    }
    if let Some(manifest) = &result.manifest {
        map.insert("containerimage.digest".to_owned(), manifest.digest.to_string().into());
        map.insert(
            "containerimage.descriptor".to_owned(),
            serde_json::to_value(manifest).unwrap_or_default(),
        );
    }
    if let Some(cache) = result.cache_manifests.first() {
        map.insert("cache.manifest".to_owned(), serde_json::to_value(cache).unwrap_or_default());
    }
    if !result.names.is_empty() {
        map.insert("image.name".to_owned(), result.names.join(",").into());
    }
    // There: builder, node and build. Here the first two are the program.
    map.insert("buildx.build.ref".to_owned(), format!("kiln/kiln/{}", result.invocation).into());
    for (platform, provenance) in &result.provenance {
        let key = match result.provenance.len() {
            1 => "buildx.build.provenance".to_owned(),
            _ => format!("buildx.build.provenance/{platform}"),
        };
        map.insert(key, provenance.clone());
    }
    map.into()
}

/// Whether buildx's users want warnings there.
fn metadata_has_warnings() -> bool {
    std::env::var("BUILDX_METADATA_WARNINGS").is_ok_and(|said| kiln_frontend::boolean(&said) == Some(true))
}

/// A warning in the form of BuildKit's client (`client.VertexWarning`), in which texts are in base64 as bytes are.
fn warning_of(warning: &Diagnostic, source: Source<'_>) -> serde_json::Value {
    let base64 = |text: &str| BASE64_STANDARD.encode(text);
    let short = match warning.rule {
        Some(rule) => format!("{rule}: {}", warning.message),
        None => warning.message.clone(),
    };
    let (start, end) = (position(source.text, warning.span.start), position(source.text, warning.span.end));
    let mut out = serde_json::json!({
        "vertex": "",
        "level": 1,
        "short": base64(&short),
        "sourceInfo": {"filename": source.name, "data": base64(source.text), "language": "Dockerfile"},
        "range": [{"start": start, "end": end}],
    });
    if let Some(hint) = &warning.hint {
        out["detail"] = vec![base64(hint)].into();
    }
    if let Some(rule) = warning.rule {
        out["url"] = crate::check::page(rule).into();
    }
    out
}

/// A place in a text: its line from 1, and the byte in it from 0, as LLB counts them.
fn position(text: &str, at: usize) -> serde_json::Value {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let character = before.len() - before.rfind('\n').map_or(0, |end| end + 1);
    serde_json::json!({"line": line, "character": character})
}
