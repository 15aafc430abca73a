//! The commands on images of the store: list, show, name, push, pull. It does not know builds.

use crate::args::{ImagesArgs, InspectArgs, PullArgs, PushArgs, RmiArgs, TagArgs};
use crate::error::CommandError;
use crate::outputs::reference;
use crate::plain::Plain;
use crate::stderr::say;
use crate::table::table;
use kiln_oci::Platform;
use kiln_worker::{Image, NamedImages, ProgressSink, Worker, WorkerError};
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
        Some(text) => text
            .parse()
            .map_err(|e: kiln_oci::PlatformError| CommandError::usage("--platform", e.to_string()))?,
        None => Platform::host(),
    };
    let plain = Plain::new(args.quiet);
    let show = |p: kiln_worker::Progress<'_>| plain.show(p);
    let image = worker.pull(&name, &platform, &ProgressSink::new(&show))?;
    print(format!("{}\n", image.digest))
}

pub(crate) fn list(worker: &Worker, args: &ImagesArgs) -> Result<(), CommandError> {
    let mut out = String::new();
    let images = worker.list()?;
    if args.quiet {
        for NamedImages { row, .. } in images {
            out.push_str(&format!("{}\n", row.id));
        }
        return print(&out);
    }
    if args.format == "json" {
        for NamedImages { row, images: found, flaw } in images {
            tell_of_flaw(&row.name, flaw.as_ref());
            let line = serde_json::json!({"name": row.name, "id": row.id, "digest": row.manifest.as_ref().map(|m| m.0),
                "created": created(&found), "size": worker.size_bytes(&row.diff_ids)?, "platform": platforms(&found)});
            out.push_str(&format!("{line}\n"));
        }
        return print(&out);
    }
    let head = ["NAME", "ID", "PLATFORM", "CREATED", "SIZE"].map(str::to_owned);
    let mut rows = vec![head];
    for NamedImages { row, images: found, flaw } in images {
        tell_of_flaw(&row.name, flaw.as_ref());
        let name = familiar(&row.name);
        let created = created(&found).unwrap_or_default();
        let created = created.get(..19).unwrap_or(&created).replace('T', " ");
        let id = row.id.hex()[..12].to_owned();
        let size = human_size(worker.size_bytes(&row.diff_ids)?);
        rows.push([name, id, platforms(&found), created, size]);
    }
    print(table(&rows))
}

/// Says which image can't be read; the others are listed all the same.
fn tell_of_flaw(name: &str, flaw: Option<&WorkerError>) {
    if let Some(flaw) = flaw {
        let name = familiar(name);
        say(&format!("warning: {name} can't be read: {flaw}; build or pull it again, or kiln rmi {name}"));
    }
}

/// The platforms of what a name stands for.
fn platforms(found: &[(Platform, Image)]) -> String {
    let names: Vec<String> = found.iter().map(|(platform, _)| platform.to_string()).collect();
    names.join(",")
}

/// When the last of what a name stands for was made.
fn created(found: &[(Platform, Image)]) -> Option<String> {
    found.iter().filter_map(|(_, image)| image.config.created.clone()).max()
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

pub(crate) fn inspect(worker: &Worker, args: &InspectArgs) -> Result<(), CommandError> {
    let mut all = Vec::new();
    for name in &args.names {
        let NamedImages { row, images: found, .. } = worker.find(&reference("NAME", name)?)?;
        let same = worker.list()?.into_iter().filter(|other| other.row.id == row.id);
        let names: Vec<String> = same.map(|other| familiar(&other.row.name)).collect();
        let index = row.index().map(|(digest, _)| digest);
        for (platform, image) in found {
            let manifest = image.manifest.as_ref().map(|_| image.digest);
            all.push(serde_json::json!({
                "Id": image.config_digest,
                "RepoTags": names,
                "Digest": manifest,
                "Index": index,
                "Created": image.config.created,
                "Author": image.config.author,
                "Architecture": platform.architecture,
                "Variant": platform.variant,
                "Os": platform.os,
                "Size": worker.size_bytes(&image.config.rootfs.diff_ids)?,
                "Config": image.config.config,
                "RootFS": {"Type": "layers", "Layers": image.config.rootfs.diff_ids},
                "History": image.config.history,
            }));
        }
    }
    let text = serde_json::to_string_pretty(&all).unwrap_or_default();
    print(format!("{text}\n"))
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
