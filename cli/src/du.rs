//! `kiln du`: what the store has and how large it is. It does not know how that is found out.

use crate::args::DuArgs;
use crate::error::CommandError;
use crate::images::{human_size, print};
use crate::sizes::ago;
use crate::table::table;
use kiln_worker::{Kind, UsageItem, Worker};

pub(crate) fn run(worker: &Worker, args: &DuArgs) -> Result<(), CommandError> {
    let items = worker.usage()?.items;
    if args.format == "json" {
        let text: String = items.iter().map(|item| format!("{}\n", json(item))).collect();
        return print(text);
    }
    let mut rows = vec![["TYPE", "COUNT", "SIZE", "RECLAIMABLE"].map(str::to_owned).to_vec()];
    for kind in Kind::ALL {
        let of_kind = items.iter().filter(|item| item.kind == kind);
        let free = of_kind.clone().filter(|item| item.is_reclaimable());
        rows.push(vec![
            kind.name().to_owned(),
            of_kind.clone().count().to_string(),
            human_size(of_kind.map(|item| item.bytes).sum()),
            human_size(free.map(|item| item.bytes).sum()),
        ]);
    }
    let free = items.iter().filter(|item| item.is_reclaimable());
    rows.push(vec![
        "total".to_owned(),
        items.len().to_string(),
        human_size(items.iter().map(|item| item.bytes).sum()),
        human_size(free.map(|item| item.bytes).sum()),
    ]);
    let mut text = table(&rows);
    if args.verbose {
        let head = ["TYPE", "ID", "SIZE", "LAST USED", "COST", "NEEDED BY", "MADE BY"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(items.iter().map(row));
        text.push('\n');
        text.push_str(&table(&rows));
    }
    print(text)
}

fn row(item: &UsageItem) -> Vec<String> {
    vec![
        item.kind.name().to_owned(),
        item.id.clone(),
        human_size(item.bytes),
        ago(item.used_s),
        format!("{:.1}s", item.cost_ms as f64 / 1000.0),
        item.needed_by.clone().unwrap_or_else(|| "-".to_owned()),
        item.made_by.replace(['\n', '\r'], " "),
    ]
}

/// One thing as JSON.
pub(crate) fn json(item: &UsageItem) -> serde_json::Value {
    serde_json::json!({
        "type": item.kind.name(),
        "id": item.id,
        "size": item.bytes,
        "lastUsed": item.used_s,
        "costMs": item.cost_ms,
        "madeBy": item.made_by,
        "neededBy": item.needed_by,
        "reclaimable": item.is_reclaimable(),
    })
}
