//! `kiln import` and `export`: a root file system to an image and back. It does not know how either is done.

use super::args::{ExportArgs, ImportArgs};
use super::{platform_of, print};
use crate::error::CommandError;
use crate::outputs::reference;
use crate::plain::Plain;
use kiln_frontend::BuildOptions;
use kiln_oci::{ImageConfig, Platform};
use kiln_worker::{Import, ProgressSink, Worker};
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;

/// The instructions that `--change` takes.
const CHANGES: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

pub(crate) fn import(worker: &Worker, args: &ImportArgs) -> Result<(), CommandError> {
    let name = reference("NAME", &args.name)?;
    let platform = args.platform.as_deref().map(platform_of).transpose()?.unwrap_or_else(Platform::host);
    let config = changed(platform, &args.change)?;
    let (shown, stream): (String, Box<dyn Read + Send>) = if args.file == Path::new("-") {
        ("standard input".to_owned(), Box::new(std::io::stdin()))
    } else {
        let file = File::open(&args.file).map_err(CommandError::file("open", &args.file))?;
        (args.file.display().to_string(), Box::new(file))
    };
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok().filter(|text| !text.is_empty());
    let source_date_epoch_s = epoch.map(|text| text.parse()).transpose();
    let source_date_epoch_s = source_date_epoch_s
        .map_err(|_| CommandError::usage("SOURCE_DATE_EPOCH", "it is not a number of seconds"))?;
    let message = args.message.clone().unwrap_or_else(|| format!("Imported from {}", args.file.display()));
    let import = Import { config, message, source_date_epoch_s };
    let plain = Plain::new(args.quiet);
    let show = |p: kiln_worker::Progress<'_>| plain.show(p);
    let id = worker.import(&shown, stream, import, &name, &ProgressSink::new(&show))?;
    print(format!("{id}\n"))
}

pub(crate) fn export(worker: &Worker, args: &ExportArgs) -> Result<(), CommandError> {
    let name = reference("NAME", &args.name)?;
    let platform = args.platform.as_deref().map(platform_of).transpose()?.unwrap_or_else(Platform::host);
    let dest = args.output.as_deref().filter(|path| *path != Path::new("-"));
    if dest.is_none() && std::io::stdout().is_terminal() {
        return Err(CommandError::usage(
            "--output",
            "a tar is not for a terminal: say -o FILE or redirect it",
        ));
    }
    let plain = Plain::new(args.quiet);
    let show = |p: kiln_worker::Progress<'_>| plain.show(p);
    Ok(worker.export(&name, &platform, dest, &ProgressSink::new(&show))?)
}

/// The config that instructions make on an empty image.
fn changed(platform: Platform, changes: &[String]) -> Result<ImageConfig, CommandError> {
    let usage = |change: &str, problem: String| CommandError::usage(format!("--change {change}"), problem);
    let mut text = "FROM scratch\n".to_owned();
    for change in changes {
        let word = change.split_whitespace().next().unwrap_or_default().to_uppercase();
        if !CHANGES.contains(&word.as_str()) {
            return Err(usage(change, format!("it begins with one of {}", CHANGES.join(", "))));
        }
        if change.contains('\n') {
            return Err(usage(change, "it is one instruction on one line".to_owned()));
        }
        text.push_str(change);
        text.push('\n');
    }
    let shown = changes.join("; ");
    let parse = kiln_grammar::parse(&text);
    if let Some(mistake) = parse.diagnostics.iter().find(|d| d.severity == kiln_grammar::Severity::Error) {
        return Err(usage(&shown, mistake.message.clone()));
    }
    let options = BuildOptions { explicit_platform: true, ..BuildOptions::new(platform) };
    let mut nobody = |_: &[kiln_frontend::ImageRequest]| Vec::new();
    let lowered = kiln_frontend::lower(&parse, &options, &mut nobody);
    Ok(lowered.map_err(|e| usage(&shown, e.to_string()))?.config)
}
