//! What `--output` says, parsed. It does not know how an output is written.

use crate::error::CommandError;
use kiln_oci::Reference;
use kiln_worker::{Compress, Form, Output};
use std::path::PathBuf;

/// A name of an image, or a usage error that says which argument is wrong.
pub(crate) fn reference(argument: &str, name: &str) -> Result<Reference, CommandError> {
    name.parse().map_err(|e: kiln_oci::ReferenceError| CommandError::usage(argument, e.to_string()))
}

/// The outputs of a build.
pub(crate) fn parse_all(
    outputs: &[String],
    tags: &[String],
    push: bool,
    load: bool,
) -> Result<Vec<Output>, CommandError> {
    let names = tags.iter().map(|t| reference("--tag", t)).collect::<Result<Vec<_>, _>>()?;
    let mut all = outputs.iter().map(|o| one(o, &names)).collect::<Result<Vec<_>, _>>()?;
    if push {
        if names.is_empty() {
            return Err(CommandError::usage("--push", "needs a name: give one with --tag"));
        }
        all.push(Output {
            form: Form::Registry,
            names: names.clone(),
            compress: Compress::default(),
            rewrite_timestamp: false,
        });
    }
    if load || all.is_empty() {
        all.push(Output {
            form: Form::Store,
            names,
            compress: Compress::default(),
            rewrite_timestamp: false,
        });
    }
    Ok(all)
}

/// One output: `type=oci,dest=FILE`, or a folder alone.
fn one(text: &str, tags: &[Reference]) -> Result<Output, CommandError> {
    let usage = |problem: String| CommandError::usage(format!("--output {text}"), problem);
    if !text.contains('=') {
        let form = if text == "-" { Form::Tar(None) } else { Form::Local(PathBuf::from(text)) };
        return Ok(Output {
            form,
            names: Vec::new(),
            compress: Compress::default(),
            rewrite_timestamp: false,
        });
    }
    let (mut kind, mut dest, mut names, mut compress, mut push) =
        (None, None, Vec::new(), Compress::default(), false);
    let mut rewrite_timestamp = false;
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, "true"));
        match key.trim().to_ascii_lowercase().as_str() {
            "type" => kind = Some(value.to_owned()),
            "dest" => dest = Some(value.to_owned()),
            "name" => names.push(reference("--output name", value)?),
            "push" => push = value == "true",
            "rewrite-timestamp" => rewrite_timestamp = value == "true",
            "compression" => {
                compress = match value {
                    "gzip" => Compress::Gzip,
                    "zstd" => Compress::Zstd,
                    "uncompressed" => Compress::None,
                    _ => {
                        return Err(usage(format!(
                            "unknown compression `{value}`: gzip, zstd or uncompressed"
                        )));
                    }
                }
            }
            "oci-mediatypes" | "tar" | "store" if value == "true" => {}
            other => return Err(usage(format!("unknown option `{other}`"))),
        }
    }
    if names.is_empty() {
        names = tags.to_vec();
    }
    let path = dest.as_deref().filter(|d| *d != "-").map(PathBuf::from);
    let form = match kind.as_deref() {
        Some("oci") => Form::Oci(path),
        Some("docker") => Form::Docker(path),
        Some("tar") => Form::Tar(path),
        Some("local") => match path {
            Some(path) => Form::Local(path),
            None => return Err(usage("needs dest=FOLDER".to_owned())),
        },
        Some("image") if !push => Form::Store,
        Some("image" | "registry") if names.is_empty() => {
            return Err(usage("needs a name: add name=REFERENCE, or --tag".to_owned()));
        }
        Some("image" | "registry") => Form::Registry,
        Some("cacheonly") => Form::CacheOnly,
        Some(other) => {
            let known = "oci, docker, tar, local, image, registry or cacheonly";
            return Err(usage(format!("unknown type `{other}`: {known}")));
        }
        None => return Err(usage("needs type=".to_owned())),
    };
    if matches!(form, Form::Oci(None) | Form::Docker(None) | Form::Tar(None))
        && dest.is_none()
        && is_terminal()
    {
        return Err(usage("dest is required where standard output is a terminal".to_owned()));
    }
    Ok(Output { form, names, compress, rewrite_timestamp })
}

fn is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stdout())
}
