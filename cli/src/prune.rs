//! `kiln prune`: gives up what nobody needs, and says what. It does not know how that is chosen.

use crate::args::PruneArgs;
use crate::error::CommandError;
use crate::images::{human_size, print};
use crate::sizes::{ago, seconds, size_bytes};
use crate::stderr::say;
use crate::table::table;
use kiln_worker::{Filter, Kind, Pruning, UsageItem, Worker};
use std::io::{IsTerminal as _, stdin};

pub(crate) fn run(worker: &Worker, args: &PruneArgs) -> Result<(), CommandError> {
    let keep = args.keep_storage.as_deref().map_or(Ok(0), |text| size_bytes("--keep-storage", text))?;
    let mut pruning =
        Pruning { all: args.all, filter: filter(&args.filter)?, keep_bytes: keep, dry_run: args.dry_run };
    if !args.force && !args.dry_run && stdin().is_terminal() {
        pruning.dry_run = true;
        print(shown(&worker.prune(&pruning)?.items, true))?;
        say("Remove these? [y/N]");
        let mut answer = String::new();
        stdin().read_line(&mut answer).map_err(CommandError::file("read", "standard input"))?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(());
        }
        pruning.dry_run = false;
    }
    let removed = worker.prune(&pruning)?;
    print(shown(&removed.items, args.dry_run))
}

fn shown(items: &[UsageItem], dry_run: bool) -> String {
    let total = human_size(items.iter().map(|item| item.bytes).sum());
    let mut rows = vec![["TYPE", "ID", "SIZE", "LAST USED", "WHY", "MADE BY"].map(str::to_owned).to_vec()];
    let row = |item: &UsageItem| {
        let why = format!("no image or build needs it; {:.1}s to make", item.cost_ms as f64 / 1000.0);
        let made_by = item.made_by.replace(['\n', '\r'], " ");
        vec![
            item.kind.name().to_owned(),
            item.id.clone(),
            human_size(item.bytes),
            ago(item.used_s),
            why,
            made_by,
        ]
    };
    rows.extend(items.iter().map(row));
    let list = if items.is_empty() { String::new() } else { table(&rows) };
    format!("{list}{}: {total}\n", if dry_run { "Would be reclaimed" } else { "Total reclaimed" })
}

fn filter(given: &[String]) -> Result<Filter, CommandError> {
    let mut filter = Filter::default();
    for text in given {
        let usage = |problem: &str| CommandError::usage(format!("--filter {text}"), problem);
        match text.split_once('=') {
            Some(("until" | "unused-for", value)) => {
                filter.unused_s = Some(seconds("--filter until", value)?)
            }
            Some(("type", value)) => {
                let kind = Kind::ALL.into_iter().find(|kind| kind.name() == value);
                let kind = kind.ok_or_else(|| usage("the types are layer, blob, cache-mount and report"))?;
                filter.kinds.push(kind);
            }
            Some(("id", value)) if !value.is_empty() => filter.ids.push(value.to_owned()),
            _ => return Err(usage("write until=24h, type=TYPE or id=ID")),
        }
    }
    Ok(filter)
}
