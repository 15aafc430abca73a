//! `kiln inspect`: images with the keys that `docker image inspect` has. It does not know how images are kept.

use super::args::InspectArgs;
use super::{familiar, for_platform, print};
use crate::error::CommandError;
use crate::outputs::reference;
use crate::template::{Template, Value, format_error};
use kiln_oci::{Platform, Reference};
use kiln_worker::{Image, ImageRow, NamedImages, Worker};
use serde_json::{Value as Json, json};

/// What docker shows of a config even where it is not set.
const ALWAYS: [(&str, Json); 8] = [
    ("Cmd", Json::Null),
    ("Entrypoint", Json::Null),
    ("Env", Json::Null),
    ("Labels", Json::Null),
    ("OnBuild", Json::Null),
    ("User", Json::String(String::new())),
    ("Volumes", Json::Null),
    ("WorkingDir", Json::String(String::new())),
];
/// What a template may ask for besides.
const ASKED: [(&str, Json); 4] = [
    ("ExposedPorts", Json::Null),
    ("Healthcheck", Json::Null),
    ("Shell", Json::Null),
    ("StopSignal", Json::String(String::new())),
];

pub(crate) fn run(worker: &Worker, args: &InspectArgs) -> Result<(), CommandError> {
    let template = match args.format.as_deref() {
        None | Some("json") => None,
        Some(text) => Some(Template::parse(text).map_err(format_error)?),
    };
    let rows: Vec<ImageRow> = worker.list()?.into_iter().map(|named| named.row).collect();
    let mut all = Vec::new();
    for name in &args.names {
        let found = for_platform(worker.find(&reference("NAME", name)?)?, args.platform.as_deref())?;
        let NamedImages { row, images, .. } = found;
        for (platform, image) in &images {
            all.push(shown(worker, &rows, &row, platform, image)?);
        }
    }
    let Some(template) = template else {
        let all = Json::Array(all);
        let text = match args.format {
            Some(_) => all.to_string(),
            None => serde_json::to_string_pretty(&all).unwrap_or_default(),
        };
        return print(format!("{text}\n"));
    };
    let mut out = String::new();
    for mut image in all {
        fill_in(&mut image["Config"], ASKED);
        out.push_str(&template.fill(&Value::of(image)).map_err(format_error)?);
        out.push('\n');
    }
    print(out)
}

/// An image as docker shows it, and what kiln knows besides: `Digest`, `Index`, `History`.
fn shown(
    worker: &Worker,
    rows: &[ImageRow],
    row: &ImageRow,
    platform: &Platform,
    image: &Image,
) -> Result<Json, CommandError> {
    let same: Vec<&ImageRow> = rows.iter().filter(|other| other.id == row.id).collect();
    let names: Vec<String> = same.iter().map(|other| familiar(&other.name)).collect();
    let mut digests: Vec<String> = same.iter().filter_map(|other| repo_digest(other)).collect();
    digests.dedup();
    let config = &image.config;
    let mut runtime = json!(config.config);
    fill_in(&mut runtime, ALWAYS);
    let comment = config.history.last().map_or("", |last| last.comment.as_str());
    Ok(json!({
        "Id": image.config_digest,
        "RepoTags": names,
        "RepoDigests": digests,
        "Digest": image.manifest.as_ref().map(|_| image.digest),
        "Index": row.index().map(|(digest, _)| digest),
        "Comment": comment,
        "Created": config.created,
        "Author": config.author,
        "Architecture": platform.architecture,
        "Variant": platform.variant,
        "Os": platform.os,
        "OsVersion": platform.os_version,
        "Size": worker.size_bytes(&config.rootfs.diff_ids)?,
        "Config": runtime,
        "RootFS": {"Type": "layers", "Layers": config.rootfs.diff_ids},
        "History": config.history,
    }))
}

/// A name's repository at the digest that a registry has, or would have, of it.
pub(super) fn repo_digest(row: &ImageRow) -> Option<String> {
    let (digest, _) = row.manifest.as_ref()?;
    let name: Reference = row.name.parse().ok()?;
    Some(name.with_digest(*digest).familiar())
}

fn fill_in<const N: usize>(config: &mut Json, known: [(&str, Json); N]) {
    let Some(config) = config.as_object_mut() else { return };
    for (name, value) in known {
        config.entry(name).or_insert(value);
    }
}
