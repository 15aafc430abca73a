//! `kiln history`: how an image came about, the newest first. It does not know how layers are made.

use super::args::HistoryArgs;
use super::rows::Form;
use super::{for_platform, human_size, print, times};
use crate::error::CommandError;
use crate::outputs::reference;
use crate::table::table;
use kiln_worker::{Image, Worker};
use serde_json::{Value as Json, json};

const HEADS: [(&str, &str); 6] = [
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];
/// What is shown of a command unless all of it is asked for.
const COMMAND_CHARS: usize = 45;

pub(crate) fn run(worker: &Worker, args: &HistoryArgs) -> Result<(), CommandError> {
    let form = Form::read(args.format.as_deref())?;
    let found = for_platform(worker.find(&reference("NAME", &args.name)?)?, args.platform.as_deref())?;
    let image = match found.images.as_slice() {
        [(_, image)] => image,
        several => {
            let has: Vec<String> = several.iter().map(|(platform, _)| platform.to_string()).collect();
            let problem = format!("it is an index of several images; say --platform {}", has.join(" or "));
            return Err(CommandError::usage(&args.name, problem));
        }
    };
    let rows = rows(worker, args, image)?;
    if args.quiet {
        let ids = rows.iter().map(|row| format!("{}\n", row["ID"].as_str().unwrap_or_default()));
        return print(ids.collect::<String>());
    }
    let time = if args.human { "CreatedSince" } else { "CreatedAt" };
    print(form.show(&HEADS, &rows, || {
        let keys = ["ID", time, "CreatedBy", "Size", "Comment"];
        let head = ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"].map(str::to_owned);
        let cell = |row: &Json, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let cells = rows.iter().map(|row| keys.map(|key| cell(row, key)));
        table(&std::iter::once(head).chain(cells).collect::<Vec<_>>())
    })?)
}

/// A row for each line of the history. Only the newest is an image: those below have no id.
fn rows(worker: &Worker, args: &HistoryArgs, image: &Image) -> Result<Vec<Json>, CommandError> {
    let mut layers = image.config.rootfs.diff_ids.iter();
    let mut rows = Vec::new();
    for line in &image.config.history {
        let layer = if line.empty_layer { None } else { layers.next() };
        let size = layer.map_or(Ok(0), |diff_id| worker.size_bytes(&[*diff_id]))?;
        let created = line.created.clone().unwrap_or_default();
        let by = line.created_by.replace('\t', " ");
        let since = if args.human { times::since(&created) } else { created.clone() };
        rows.push(json!({
            "ID": "<missing>",
            "CreatedAt": created,
            "CreatedSince": since,
            "CreatedBy": if args.no_trunc { by } else { shortened(&by) },
            "Size": if args.human { human_size(size) } else { size.to_string() },
            "Comment": line.comment,
        }));
    }
    if let Some(newest) = rows.last_mut() {
        let id = image.config_digest;
        newest["ID"] = if args.no_trunc { id.to_string().into() } else { id.hex()[..12].into() };
    }
    rows.reverse();
    Ok(rows)
}

/// The beginning of a command that is too long for a table.
fn shortened(text: &str) -> String {
    if text.chars().count() <= COMMAND_CHARS {
        return text.to_owned();
    }
    text.chars().take(COMMAND_CHARS - 1).chain(['…']).collect()
}
