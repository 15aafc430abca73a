//! `kiln save`, `load` and `copy`: images into files, out of them, and from place to place. It does not know how
//! they are written.

use super::args::{CopyArgs, LoadArgs, SaveArgs, SaveFormat};
use super::{platform_of, print};
use crate::error::CommandError;
use crate::outputs::reference;
use crate::plain::Plain;
use kiln_oci::Platform;
use kiln_worker::{ImagePlace, ProgressSink, Saved, Worker};
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;

pub(crate) fn save(worker: &Worker, args: &SaveArgs) -> Result<(), CommandError> {
    let names = args.names.iter().map(|name| reference("NAME", name)).collect::<Result<Vec<_>, _>>()?;
    let file = args.output.clone().filter(|path| path != Path::new("-"));
    let to = match (args.format, file) {
        (SaveFormat::DockerArchive, file) => Saved::Docker(file),
        (SaveFormat::OciArchive, file) => Saved::Oci(file),
        (SaveFormat::OciDir, Some(folder)) => Saved::Folder(folder),
        (SaveFormat::OciDir, None) => {
            return Err(CommandError::usage("--format oci-dir", "say with -o in which folder"));
        }
    };
    if matches!(to, Saved::Docker(None) | Saved::Oci(None)) && std::io::stdout().is_terminal() {
        return Err(CommandError::usage(
            "--output",
            "an archive is not for a terminal: say -o FILE or redirect it",
        ));
    }
    let platform = args.platform.as_deref().map(platform_of).transpose()?;
    let plain = Plain::new(args.quiet);
    let show = |p: kiln_worker::Progress<'_>| plain.show(p);
    Ok(worker.save(&names, &to, platform.as_ref(), &ProgressSink::new(&show))?)
}

pub(crate) fn load(worker: &Worker, args: &LoadArgs) -> Result<(), CommandError> {
    let platform = args.platform.as_deref().map(platform_of).transpose()?;
    let tag = args.tag.as_deref().map(|tag| reference("--tag", tag)).transpose()?;
    let file = args.input.as_deref().filter(|path| *path != Path::new("-"));
    let (shown, stream): (String, Box<dyn Read + Send>) = match file {
        Some(path) => {
            let file = File::open(path).map_err(CommandError::file("open", path))?;
            (path.display().to_string(), Box::new(file))
        }
        None if std::io::stdin().is_terminal() => {
            return Err(CommandError::usage("--input", "there is nothing on standard input: say -i FILE"));
        }
        None => ("standard input".to_owned(), Box::new(std::io::stdin())),
    };
    let plain = Plain::new(args.quiet);
    let show = |p: kiln_worker::Progress<'_>| plain.show(p);
    let loaded = worker.load(&shown, stream, platform.as_ref(), tag.as_ref(), &ProgressSink::new(&show))?;
    let lines = loaded.iter().map(|(name, _)| format!("Loaded image: {}\n", name.familiar()));
    print(lines.collect::<String>())
}

pub(crate) fn copy(worker: &Worker, args: &CopyArgs) -> Result<(), CommandError> {
    let place = |text: &String| {
        text.parse::<ImagePlace>().map_err(|e| CommandError::usage(text.clone(), e.to_string()))
    };
    let (from, to) =
        (place(&args.source)?, args.destinations.iter().map(place).collect::<Result<Vec<_>, _>>()?);
    let platform = match (&args.platform, args.all) {
        (Some(text), _) => Some(platform_of(text)?),
        (None, true) => None,
        (None, false) => Some(Platform::host()),
    };
    let plain = Plain::new(args.quiet);
    let show = |p: kiln_worker::Progress<'_>| plain.show(p);
    let digest = worker.copy(&from, &to, platform.as_ref(), &ProgressSink::new(&show))?;
    print(format!("{digest}\n"))
}
