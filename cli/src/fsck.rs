//! `kiln fsck`: looks for damage in the store, and repairs it. It does not know how.

use crate::args::FsckArgs;
use crate::error::CommandError;
use crate::images::print;
use crate::stderr::say;
use kiln_worker::{Damage, Worker, WorkerError};
use std::path::Path;

pub(crate) fn run(
    open: impl Fn() -> Result<Worker, WorkerError>,
    root: &Path,
    args: &FsckArgs,
) -> Result<(), CommandError> {
    let mut found = Vec::new();
    let worker = match open() {
        Err(error @ WorkerError::Metadata { .. }) => {
            found.push(Damage::Metadata(error.to_string()));
            None
        }
        opened => Some(opened?),
    };
    if let Some(worker) = &worker {
        found.extend(worker.check_store(args.full, args.repair)?);
    }
    let is_bad = found.iter().any(|damage| matches!(damage, Damage::Metadata(_)));
    if is_bad && args.repair {
        drop(worker);
        Worker::renew_metadata(root)?;
        say("meta.db is kept as meta.db.bad; names of images and records of steps begin anew");
        found.extend(open()?.check_store(args.full, true)?);
    }
    let lines: String = found.iter().map(|damage| format!("{damage}\n")).collect();
    print(lines)?;
    if found.is_empty() {
        return Ok(());
    }
    let lost: Vec<&Damage> = found.iter().filter(|d| matches!(d, Damage::MissingBlob { .. })).collect();
    if !args.repair || !lost.is_empty() {
        return Err(CommandError::Damaged { count: if args.repair { lost.len() } else { found.len() } });
    }
    say(&format!(
        "repaired: {} things that were damaged are forgotten, and made anew when needed",
        found.len()
    ));
    Ok(())
}
