//! `kiln diff`: what tells two images apart, in lines or as JSON. It does not know how they are compared.

use super::args::{DiffArgs, DiffPart};
use super::{human_size, platform_of, print};
use crate::error::CommandError;
use crate::plain::Plain;
use kiln_oci::Platform;
use kiln_worker::{
    Aspect, Difference, FileDifference, FileState, ImageName, LayerDifference, ProgressSink, Worker,
};
use serde_json::{Value as Json, json};

pub(crate) fn run(worker: &Worker, args: &DiffArgs) -> Result<(), CommandError> {
    let name = |text: &String| {
        text.parse::<ImageName>().map_err(|e| CommandError::usage(text.clone(), e.to_string()))
    };
    let platform = args.platform.as_deref().map(platform_of).transpose()?.unwrap_or_else(Platform::host);
    let plain = Plain::new(true);
    let show = |p: kiln_worker::Progress<'_>| plain.show(p);
    let sink = ProgressSink::new(&show);
    let all = worker.diff(&name(&args.before)?, &name(&args.after)?, &platform, args.times, &sink)?;
    let shown = only(all, args.only);
    print(match args.format.as_str() {
        "json" => format!("{}\n", as_json(&shown)),
        _ => as_text(&shown, args.only),
    })?;
    if args.exit_code && !shown.is_none() { Err(CommandError::Different) } else { Ok(()) }
}

/// What is asked for of a difference.
pub(super) fn only(all: Difference, part: Option<DiffPart>) -> Difference {
    let Difference { files, layers, config } = all;
    match part {
        None => Difference { files, layers, config },
        Some(DiffPart::Files) => Difference { files, ..Difference::default() },
        Some(DiffPart::Layers) => Difference { layers, ..Difference::default() },
        Some(DiffPart::Config) => Difference { config, ..Difference::default() },
    }
}

/// A line for each thing that differs.
pub(super) fn as_text(shown: &Difference, part: Option<DiffPart>) -> String {
    let mut out = String::new();
    for file in &shown.files {
        out.push_str(&format!("{} /{}{}\n", letter(file), path(&file.path), told(file)));
    }
    // Layers that both have tell nothing, unless they are asked for.
    let is_told = |layer: &&LayerDifference| part.is_some() || layer.before != layer.after;
    for layer in shown.layers.iter().filter(is_told) {
        let mark = match (layer.before, layer.after) {
            (true, false) => "-",
            (false, true) => "+",
            _ => "=",
        };
        out.push_str(&format!("{mark} layer {} {}\n", layer.diff_id, human_size(layer.size_bytes)));
    }
    for setting in &shown.config {
        let value = |value: &Option<Json>| value.as_ref().map_or("nothing".to_owned(), Json::to_string);
        out.push_str(&format!(
            "C {}: {} -> {}\n",
            setting.name,
            value(&setting.before),
            value(&setting.after)
        ));
    }
    out
}

/// A path without what could steer a terminal.
fn path(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn letter(file: &FileDifference) -> char {
    match (&file.before, &file.after) {
        (None, _) => 'A',
        (_, None) => 'D',
        _ => 'C',
    }
}

/// What is said behind a path.
fn told(file: &FileDifference) -> String {
    let (before, after) = match (&file.before, &file.after) {
        (Some(before), Some(after)) => (before, after),
        (Some(one), None) | (None, Some(one)) if one.kind == "file" => {
            return format!("   {}", human_size(one.size_bytes));
        }
        _ => return String::new(),
    };
    let change = |from: String, to: String, name: &str| format!("{name} {from} -> {to}");
    let of = |aspect: &Aspect| match aspect {
        Aspect::Kind => change(before.kind.to_owned(), after.kind.to_owned(), "kind"),
        Aspect::Size => change(human_size(before.size_bytes), human_size(after.size_bytes), "size"),
        Aspect::Mode => change(format!("{:04o}", before.mode), format!("{:04o}", after.mode), "mode"),
        Aspect::Owner => change(owner(before), owner(after), "owner"),
        Aspect::Target => change(target(before), target(after), "target"),
        other => other.name().to_owned(),
    };
    format!("   {}", file.aspects.iter().map(of).collect::<Vec<_>>().join(", "))
}

fn owner(state: &FileState) -> String {
    format!("{}:{}", state.owner.0, state.owner.1)
}

fn target(state: &FileState) -> String {
    path(state.target.as_deref().unwrap_or_default())
}

fn as_json(shown: &Difference) -> Json {
    let state = |state: &Option<FileState>| {
        state.as_ref().map(|state| {
            json!({
                "kind": state.kind, "size": state.size_bytes, "mode": format!("{:04o}", state.mode),
                "uid": state.owner.0, "gid": state.owner.1, "digest": state.digest,
                "target": state.target.as_ref().map(|target| String::from_utf8_lossy(target)),
                "mtime": state.mtime_s,
            })
        })
    };
    let file = |file: &FileDifference| {
        json!({
            "path": format!("/{}", String::from_utf8_lossy(&file.path)), "change": letter(file),
            "what": file.aspects.iter().map(|aspect| aspect.name()).collect::<Vec<_>>(),
            "before": state(&file.before), "after": state(&file.after),
        })
    };
    let layer = |layer: &LayerDifference| json!({"diffId": layer.diff_id, "size": layer.size_bytes, "before": layer.before, "after": layer.after});
    let settings = shown.config.iter();
    json!({
        "files": shown.files.iter().map(file).collect::<Vec<_>>(),
        "layers": shown.layers.iter().map(layer).collect::<Vec<_>>(),
        "config": settings.map(|s| json!({"name": s.name, "before": s.before, "after": s.after})).collect::<Vec<_>>(),
    })
}
