//! What `--output` says, parsed. It does not know how an output is written.

use crate::build::platforms::boolean;
use crate::error::CommandError;
use kiln_oci::Reference;
use kiln_worker::{Compress, Form, Output};
use std::path::PathBuf;

/// What people call standard output.
const STANDARD_OUTPUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

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
            platform_split: None,
        });
    }
    if load || all.is_empty() {
        all.push(Output {
            form: Form::Store,
            names,
            compress: Compress::default(),
            rewrite_timestamp: false,
            platform_split: None,
        });
    }
    if all.iter().filter(|output| is_on_standard_output(&output.form)).count() > 1 {
        let problem = "only one output can go to standard output: give the others dest=FILE";
        return Err(CommandError::usage("--output", problem));
    }
    Ok(all)
}

/// Refuses what holds one image only, where the result is an index.
pub(crate) fn refuse_docker(outputs: &[Output]) -> Result<(), CommandError> {
    match outputs.iter().any(|output| matches!(output.form, Form::Docker(_))) {
        true => {
            let problem = "what `docker load` reads holds one platform: write type=oci, or build for one";
            Err(CommandError::usage("--output type=docker", problem))
        }
        false => Ok(()),
    }
}

/// Whether standard output belongs to an output, so that nothing else may be printed there.
pub(crate) fn any_on_standard_output(outputs: &[String], tags: &[String]) -> bool {
    parse_all(outputs, tags, false, false)
        .is_ok_and(|all| all.iter().any(|output| is_on_standard_output(&output.form)))
}

fn is_on_standard_output(form: &Form) -> bool {
    matches!(form, Form::Oci(None) | Form::Docker(None) | Form::Tar(None))
}

/// One output: `type=oci,dest=FILE`, or a folder alone.
fn one(text: &str, tags: &[Reference]) -> Result<Output, CommandError> {
    let usage = |problem: String| CommandError::usage(format!("--output {text}"), problem);
    if !text.contains('=') {
        let form = if text == "-" { Form::Tar(None) } else { Form::Local(PathBuf::from(text)) };
        refuse_terminal(&form, text)?;
        return Ok(Output {
            form,
            names: Vec::new(),
            compress: Compress::default(),
            rewrite_timestamp: false,
            platform_split: None,
        });
    }
    let (mut kind, mut dest, mut names, mut compress, mut push) =
        (None, None, Vec::new(), Compress::default(), false);
    let (mut rewrite_timestamp, mut platform_split) = (false, None);
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, "true"));
        match key.trim().to_ascii_lowercase().as_str() {
            "type" => kind = Some(value.to_owned()),
            "dest" if value.is_empty() => return Err(usage("dest is empty".to_owned())),
            "dest" => dest = Some(value.to_owned()),
            "name" => names.push(reference("--output name", value)?),
            "push" => push = value == "true",
            "platform-split" => match boolean(value) {
                None => return Err(usage(format!("platform-split is true or false, not `{value}`"))),
                split => platform_split = split,
            },
            "rewrite-timestamp" => rewrite_timestamp = value == "true",
            "compression" => compress = compress_of(value).map_err(usage)?,
            "oci-mediatypes" | "tar" | "store" if value == "true" => {}
            other => return Err(usage(format!("unknown option `{other}`"))),
        }
    }
    if names.is_empty() {
        names = tags.to_vec();
    }
    let path = dest.as_deref().filter(|d| !STANDARD_OUTPUT.contains(d)).map(PathBuf::from);
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
    refuse_terminal(&form, text)?;
    Ok(Output { form, names, compress, rewrite_timestamp, platform_split })
}

fn compress_of(value: &str) -> Result<Compress, String> {
    match value {
        "gzip" => Ok(Compress::Gzip),
        "zstd" => Ok(Compress::Zstd),
        "uncompressed" => Ok(Compress::None),
        _ => Err(format!("unknown compression `{value}`: gzip, zstd or uncompressed")),
    }
}

fn refuse_terminal(form: &Form, text: &str) -> Result<(), CommandError> {
    if is_on_standard_output(form) && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        let problem = "needs dest=FILE where standard output is a terminal";
        return Err(CommandError::usage(format!("--output {text}"), problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_output_takes_one_output_under_all_its_names() {
        let parse = |outputs: &[&str]| {
            let outputs: Vec<String> = outputs.iter().map(|o| (*o).to_owned()).collect();
            parse_all(&outputs, &[], false, false).map(|all| all.iter().map(|o| o.form.clone()).collect())
        };
        let forms: Result<Vec<Form>, _> = parse(&["type=tar,dest=/dev/stdout", "type=oci,dest=x.tar"]);
        if std::io::IsTerminal::is_terminal(&std::io::stdout()) {
            assert!(forms.is_err());
        } else {
            assert_eq!(forms.ok(), Some(vec![Form::Tar(None), Form::Oci(Some("x.tar".into()))]));
        }
        for second in ["type=docker", "type=oci,dest=-", "type=tar,dest=/proc/self/fd/1"] {
            assert!(matches!(parse(&["-", second]), Err(CommandError::Usage { .. })), "{second}");
        }
    }
}
