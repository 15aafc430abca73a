//! `kiln images`: what names the store has. It does not know how images are kept.

use super::args::ImagesArgs;
use super::filter::Filters;
use super::rows::Form;
use super::{familiar, human_size, print, times};
use crate::error::CommandError;
use crate::stderr::say;
use crate::table::table;
use kiln_oci::{Digest, Platform, Reference};
use kiln_worker::{Image, NamedImages, Worker, WorkerError};
use serde_json::{Value as Json, json};

const HEADS: [(&str, &str); 9] = [
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("Digest", "DIGEST"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
    ("Platform", "PLATFORM"),
    ("Labels", "LABELS"),
];
/// What stands for a tag or digest that there is none of, as in docker.
const NONE: &str = "<none>";

pub(crate) fn run(worker: &Worker, args: &ImagesArgs) -> Result<(), CommandError> {
    let form = Form::read(args.format.as_deref())?;
    let mut images = worker.list()?;
    let filters = Filters::read(&args.filter, args.name.as_deref(), &images)?;
    images.retain(|named| filters.pass(named));
    let id = |id: &Digest| if args.no_trunc { id.to_string() } else { id.hex()[..12].to_owned() };
    if args.quiet {
        return print(images.iter().map(|named| format!("{}\n", named.row.id)).collect::<String>());
    }
    let mut rows = Vec::new();
    for NamedImages { row, images: found, flaw } in &images {
        tell_of_flaw(&row.name, flaw.as_ref());
        rows.push(shown(id(&row.id), row, found, worker.size_bytes(&row.diff_ids)?));
    }
    let mut cells = Vec::new();
    if matches!(form, Form::Table) {
        for NamedImages { row, images: found, .. } in &images {
            let line = [familiar(&row.name), id(&row.id), platforms(found)];
            let digest = row.manifest.as_ref().map_or(NONE.to_owned(), |(digest, _)| digest.to_string());
            cells.push(line_of(args, line, digest, created(found), worker.size_bytes(&row.diff_ids)?));
            if !args.tree || row.index().is_none() {
                continue;
            }
            for (at, (platform, image)) in found.iter().enumerate() {
                let branch = if at + 1 == found.len() { "└─ " } else { "├─ " };
                let line = [format!("{branch}{platform}"), id(&image.config_digest), platform.to_string()];
                let size = worker.size_bytes(&image.config.rootfs.diff_ids)?;
                let created = image.config.created.clone();
                cells.push(line_of(args, line, image.digest.to_string(), created, size));
            }
        }
    }
    print(form.show(&HEADS, &rows, || {
        let mut head: Vec<&str> = vec!["NAME", "ID", "PLATFORM", "CREATED", "SIZE"];
        if args.digests {
            head.insert(2, "DIGEST");
        }
        let head = head.into_iter().map(str::to_owned).collect();
        table(&std::iter::once(head).chain(cells).collect::<Vec<_>>())
    })?)
}

/// One line of the table.
fn line_of(
    args: &ImagesArgs,
    [name, id, platform]: [String; 3],
    digest: String,
    created: Option<String>,
    size: u64,
) -> Vec<String> {
    let created = created.unwrap_or_default();
    let created = created.get(..19).unwrap_or(&created).replace('T', " ");
    let mut line = vec![name, id, platform, created, human_size(size)];
    if args.digests {
        line.insert(2, digest);
    }
    line
}

/// A name as docker's `images --format json` shows it, with the platforms besides.
fn shown(id: String, row: &kiln_worker::ImageRow, found: &[(Platform, Image)], size: u64) -> Json {
    let name = row.name.parse::<Reference>().ok();
    let tag = name.as_ref().and_then(Reference::tag).unwrap_or(NONE);
    let repository = familiar(&row.name);
    let repository = repository.split('@').next().unwrap_or_default();
    let repository = repository.strip_suffix(&format!(":{tag}")).unwrap_or(repository);
    let created = created(found).unwrap_or_default();
    let digest = row.manifest.as_ref().map_or(NONE.to_owned(), |(digest, _)| digest.to_string());
    let labels = found.first().map(|(_, image)| &image.config.config.labels);
    let labels = labels.map_or_else(Vec::new, |labels| {
        labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
    });
    json!({
        "Containers": "N/A",
        "CreatedAt": times::at(&created),
        "CreatedSince": times::since(&created),
        "Digest": digest,
        "ID": id,
        "Labels": labels.join(","),
        "Platform": platforms(found),
        "Repository": repository,
        "SharedSize": "N/A",
        "Size": human_size(size),
        "Tag": tag,
        "UniqueSize": "N/A",
        "VirtualSize": human_size(size),
    })
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
pub(super) fn created(found: &[(Platform, Image)]) -> Option<String> {
    found.iter().filter_map(|(_, image)| image.config.created.clone()).max()
}
