//! The commands on cache mounts of the store: list, export, import, remove. It does not know how they are kept.

use crate::error::CommandError;
use crate::images::print;
use crate::stderr::say;
use crate::table::table;
use clap::{Parser, Subcommand};
use kiln_worker::{CacheMount, MountsPlace, MovedMount, Taken, Worker, WorkerError};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, Subcommand)]
pub(crate) enum CacheMountCommand {
    /// List the cache mounts of the store
    Ls(LsArgs),
    /// Write cache mounts to a folder or a tar; into a folder only what is new
    Export(ExportArgs),
    /// Bring cache mounts from a folder or a tar
    Import(ImportArgs),
    /// Remove cache mounts that no step uses
    Rm(RmArgs),
}

#[derive(Debug, Parser)]
pub(crate) struct LsArgs {
    /// table or json
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    pub format: String,
}

#[derive(Debug, Parser)]
pub(crate) struct ExportArgs {
    /// Their ids
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    pub ids: Vec<String>,
    /// All of them; those that a folder has besides are removed from it
    #[arg(long)]
    pub all: bool,
    /// A folder, or a tar: a name that ends in .tar, or - for standard output
    #[arg(short, long, value_name = "DEST")]
    pub output: PathBuf,
}

#[derive(Debug, Parser)]
pub(crate) struct ImportArgs {
    /// A folder or a tar that `export` wrote; - is standard input
    #[arg(value_name = "SOURCE")]
    pub source: PathBuf,
    /// Only those with these ids
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
}

#[derive(Debug, Parser)]
pub(crate) struct RmArgs {
    /// Their ids, or names as ls shows them
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    pub ids: Vec<String>,
    /// All of them
    #[arg(long)]
    pub all: bool,
}

pub(crate) fn run(
    what: CacheMountCommand,
    open: impl FnOnce(&[String]) -> Result<Worker, WorkerError>,
) -> Result<(), CommandError> {
    // What can't be done is said before a store is made.
    let place = match &what {
        CacheMountCommand::Export(args) => Some(place_to(args)?),
        CacheMountCommand::Import(args) => Some(place_from(args)),
        CacheMountCommand::Ls(_) | CacheMountCommand::Rm(_) => None,
    };
    let worker = open(&[])?;
    match (what, place) {
        (CacheMountCommand::Export(args), Some(place)) => {
            let wanted = (!args.all).then_some(args.ids.as_slice());
            let moved = worker.export_cache_mounts(wanted, &place, &tell)?;
            moved.iter().for_each(|mount| say(&exported(mount)));
            Ok(())
        }
        (CacheMountCommand::Import(args), Some(place)) => {
            let moved = worker.import_cache_mounts(&args.ids, &place, &tell)?;
            moved.iter().for_each(|mount| say(&imported(mount)));
            Ok(())
        }
        (CacheMountCommand::Rm(args), _) => remove(&worker, &args),
        (CacheMountCommand::Ls(args), _) => list(&worker, &args),
        (CacheMountCommand::Export(_) | CacheMountCommand::Import(_), None) => Ok(()),
    }
}

fn place_to(args: &ExportArgs) -> Result<MountsPlace, CommandError> {
    use std::io::IsTerminal;
    if args.output.as_os_str() == "-" {
        if std::io::stdout().is_terminal() {
            let problem = "a tar is nothing for a terminal: name a file, or pipe it on";
            return Err(CommandError::usage("--output -", problem));
        }
        return Ok(MountsPlace::Tar(None));
    }
    let is_tar = args.output.extension().is_some_and(|e| e == "tar") && !args.output.is_dir();
    let path = args.output.clone();
    Ok(if is_tar { MountsPlace::Tar(Some(path)) } else { MountsPlace::Folder(path) })
}

fn place_from(args: &ImportArgs) -> MountsPlace {
    match args.source.as_os_str() == "-" {
        true => MountsPlace::Tar(None),
        false if args.source.is_dir() => MountsPlace::Folder(args.source.clone()),
        false => MountsPlace::Tar(Some(args.source.clone())),
    }
}

/// Says what is waited for.
fn tell(id: &str, holder: Option<u32>) {
    let holder = holder.map_or_else(String::new, |holder| format!(" (process {holder})"));
    say(&format!("waiting for the cache mount {id}, which a build uses{holder}"));
}

fn exported(mount: &MovedMount) -> String {
    let MovedMount { id, pieces, moved_pieces, moved_bytes, .. } = mount;
    format!("exported {id}: {moved_pieces} of {pieces} pieces, {moved_bytes} bytes written")
}

fn imported(mount: &MovedMount) -> String {
    let MovedMount { id, pieces, moved_pieces, moved_bytes, .. } = mount;
    let read = format!("{moved_pieces} of {pieces} pieces, {moved_bytes} bytes read");
    match mount.taken {
        Some(Taken::Added(files)) => format!("imported {id}: {files} files added to what is there; {read}"),
        Some(Taken::Whole) => format!("imported {id}: {read}"),
        Some(Taken::Left) | None => format!("imported {id}: all of it was there; {read}"),
    }
}

fn list(worker: &Worker, args: &LsArgs) -> Result<(), CommandError> {
    let mounts = worker.cache_mounts()?;
    let mut out = String::new();
    if args.format == "json" {
        for mount in &mounts {
            let line = serde_json::json!({"id": mount.id, "name": mount.name, "begins": mount.begins,
                "size": mount.bytes, "used": mount.used_s, "private": mount.fork()});
            out.push_str(&format!("{line}\n"));
        }
        return print(&out);
    }
    let mut rows = vec![["ID", "NAME", "BEGINS WITH", "SIZE", "USED"].map(str::to_owned)];
    rows.extend(mounts.iter().map(row));
    print(table(&rows))
}

fn row(mount: &CacheMount) -> [String; 5] {
    let id = mount.id.as_deref().unwrap_or("-").replace(char::is_control, "?");
    // As much of the digest as tells it from others, and which of the private ones it is.
    let (digest, _) = mount.name.split_at(mount.name.len().min(12));
    let name = mount.fork().map_or_else(|| digest.to_owned(), |fork| format!("{digest}-{fork}"));
    let begins = match mount.begins.split_once(' ') {
        Some((content, path)) => {
            let content = content.strip_prefix("sha256:").unwrap_or(content);
            format!("{}:{path}", content.get(..12).unwrap_or(content))
        }
        None => String::new(),
    };
    [id, name, begins, crate::images::human_size(mount.bytes), mount.used_s.map(ago).unwrap_or_default()]
}

/// How long ago something was, as people say it.
fn ago(then_s: i64) -> String {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let passed_s = (now_s - then_s).max(0);
    let counted = |count: i64, unit: &str| format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" });
    match passed_s {
        0..60 => counted(passed_s, "second"),
        60..3600 => counted(passed_s / 60, "minute"),
        3600..86_400 => counted(passed_s / 3600, "hour"),
        _ => counted(passed_s / 86_400, "day"),
    }
}

fn remove(worker: &Worker, args: &RmArgs) -> Result<(), CommandError> {
    let mounts = if args.all {
        worker.cache_mounts()?
    } else {
        let found = args.ids.iter().map(|id| worker.find_cache_mounts(id));
        found.collect::<Result<Vec<_>, _>>()?.concat()
    };
    let mut failed = None;
    for mount in mounts {
        match worker.remove_cache_mount(&mount) {
            Ok(()) => print(format!("Removed: {}\n", mount.id.as_ref().unwrap_or(&mount.name)))?,
            // The others can go all the same.
            Err(error) if failed.is_none() => failed = Some(error),
            Err(error) => say(&format!("ERROR: {error}")),
        }
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_said_in_its_largest_unit() {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
        for (passed_s, want) in
            [(61, "1 minute ago"), (7300, "2 hours ago"), (90_000, "1 day ago"), (-5, "0 seconds ago")]
        {
            assert_eq!(ago(now_s - passed_s), want);
        }
    }
}
