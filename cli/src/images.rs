//! The commands on images: list, show, name, push, pull, save, load, compare, copy. It does not know builds.

pub(crate) mod args;
pub(crate) mod diff;
pub(crate) mod files;
mod filter;
pub(crate) mod history;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod manifest;
pub(crate) mod moving;
mod rows;
mod times;
pub(crate) mod verify;

use crate::args::{PullArgs, PushArgs, RmiArgs, TagArgs};
use crate::error::CommandError;
use crate::outputs::reference;
use crate::plain::Plain;
use kiln_oci::Platform;
use kiln_worker::{NamedImages, ProgressSink, Worker};
use std::io::Write;

/// Writes to standard output.
pub(crate) fn print(text: impl AsRef<[u8]>) -> Result<(), CommandError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        // Who reads only the head of a list is done.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(CommandError::file("write to", "standard output")),
    }
}

pub(crate) fn push(worker: &Worker, args: &PushArgs) -> Result<(), CommandError> {
    let name = reference("NAME", &args.name)?;
    let plain = Plain::new(args.quiet);
    let show = |p: kiln_worker::Progress<'_>| plain.show(p);
    let digest = worker.push(&name, &name, &ProgressSink::new(&show))?;
    print(format!("{digest}\n"))
}

pub(crate) fn pull(worker: &Worker, args: &PullArgs) -> Result<(), CommandError> {
    let name = reference("NAME", &worker.aliased(&args.name)?)?;
    let platform = match &args.platform {
        Some(text) => platform_of(text)?,
        None => Platform::host(),
    };
    let plain = Plain::new(args.quiet);
    let show = |p: kiln_worker::Progress<'_>| plain.show(p);
    let image = worker.pull(&name, &platform, &ProgressSink::new(&show))?;
    print(format!("{}\n", image.digest))
}

/// A name as people write it.
fn familiar(name: &str) -> String {
    name.parse::<kiln_oci::Reference>().map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}

/// Bytes in the units of 1000 that Docker uses.
pub(crate) fn human_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB"].iter();
    let mut unit = units.next().unwrap_or(&"B");
    while value >= 1000.0 {
        let Some(next) = units.next() else { break };
        value /= 1000.0;
        unit = next;
    }
    if *unit == "B" { format!("{bytes}B") } else { format!("{value:.1}{unit}") }
}

/// The images for a platform, of what a name stands for; all if none is named.
fn for_platform(named: NamedImages, platform: Option<&str>) -> Result<NamedImages, CommandError> {
    let Some(text) = platform else { return Ok(named) };
    let wanted = platform_of(text)?;
    let NamedImages { row, images, flaw } = named;
    let has = images.iter().map(|(platform, _)| platform.to_string()).collect();
    let best = images.into_iter().filter_map(|image| Some((wanted.rank(&image.0)?, image)));
    match best.min_by_key(|(rank, _)| *rank) {
        Some((_, image)) => Ok(NamedImages { row, images: vec![image], flaw }),
        None => {
            let (reference, platform) = (familiar(&row.name), wanted.to_string());
            Err(CommandError::NoPlatform { reference, platform, has })
        }
    }
}

/// Reads `--platform`.
fn platform_of(text: &str) -> Result<Platform, CommandError> {
    text.parse().map_err(|e: kiln_oci::PlatformError| CommandError::usage("--platform", e.to_string()))
}

pub(crate) fn tag(worker: &Worker, args: &TagArgs) -> Result<(), CommandError> {
    Ok(worker.tag(&reference("NAME", &args.name)?, &reference("NEW", &args.new)?)?)
}

pub(crate) fn remove(worker: &Worker, args: &RmiArgs) -> Result<(), CommandError> {
    for name in &args.names {
        let row = worker.untag(&reference("NAME", name)?)?;
        print(format!("Untagged: {}\n", row.name))?;
    }
    Ok(())
}
