//! What a build has made, told: its id, its metadata, the warnings. It does not know how it was made.

use super::age_text;
use crate::args::BuildArgs;
use crate::error::CommandError;
use crate::outputs;
use crate::render::{self, Source};
use crate::stderr::say;
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
        let text = serde_json::to_string_pretty(&metadata(result)).unwrap_or_default();
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
    map.into()
}
