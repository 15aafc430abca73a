//! `kiln lock update`: asks again what names stand for, and writes what moved. It does not know how it is asked.

use super::text::{Entries, Moved};
use super::{change, missing, read};
use crate::args::LockUpdateArgs;
use crate::build::{offline_flag, secrets, ssh_agents};
use crate::contexts::is_remote;
use crate::error::CommandError;
use crate::images::print;
use kiln_oci::Reference;
use kiln_worker::{Access, Pin, SourceName, Worker, WorkerError};

/// What is asked for.
#[derive(Debug, Default)]
struct Names {
    images: Vec<Reference>,
    sources: Vec<SourceName>,
}

/// Asks again for what the file has, or for what is named, and writes what moved. If one name can't be asked for,
/// nothing is written.
pub(crate) fn update(
    args: &LockUpdateArgs,
    open: impl FnOnce(&[String]) -> Result<Worker, WorkerError>,
) -> Result<(), CommandError> {
    if let Some(flag) = offline_flag(args.offline)? {
        return Err(CommandError::Offline { command: "kiln lock update", flag });
    }
    let there = match read(&args.lock)? {
        Some(entries) => entries,
        None if args.names.is_empty() => return Err(missing(&args.lock)),
        None => Entries::default(),
    };
    let names = Names::of(&args.names, &there)?;
    let access = Access { secrets: secrets(&args.secret)?, ssh: ssh_agents(&args.ssh)? };
    let worker = open(&args.insecure_registry)?;
    let mut now = Entries::default();
    for (reference, answer) in names.images.iter().zip(worker.ask(&names.images)) {
        now.images.insert(reference.to_string(), answer?);
    }
    for (name, answer) in names.sources.iter().zip(worker.ask_sources(&names.sources, access)) {
        match answer? {
            Pin::Git(pin) => drop(now.sources.git.insert(name.to_string(), pin)),
            Pin::Web(digest) => drop(now.sources.web.insert(name.to_string(), digest)),
        }
    }
    let mut moved = Vec::new();
    change(&args.lock, |entries| moved = entries.set(&now))?;
    print(moved.into_iter().map(line).collect::<String>())
}

/// A line for what moved, with the name of an image as people write it.
fn line(moved: Moved) -> String {
    let name = match moved.name.parse::<Reference>() {
        Ok(reference) if reference.to_string() == moved.name => reference.familiar(),
        _ => moved.name.clone(),
    };
    format!("{}\n", Moved { name, ..moved })
}

impl Names {
    fn of(given: &[String], there: &Entries) -> Result<Names, CommandError> {
        let mut names = Names::default();
        let (git, web) = (&there.sources.git, &there.sources.web);
        let all: Vec<&String> = if given.is_empty() {
            there.images.keys().chain(git.keys()).chain(web.keys()).collect()
        } else {
            given.iter().collect()
        };
        for name in all {
            if git.contains_key(name) {
                names.sources.push(SourceName::Git(name.clone()));
            } else if web.contains_key(name) {
                names.sources.push(SourceName::Web(name.clone()));
            } else if !there.images.contains_key(name) && is_remote(name) {
                names.sources.push(source_name(name)?);
            } else {
                names.images.push(reference(name)?);
            }
        }
        Ok(names)
    }
}

/// The image that a name is.
fn reference(name: &str) -> Result<Reference, CommandError> {
    match name.parse::<Reference>() {
        Ok(reference) if reference.digest().is_none() => Ok(reference),
        Ok(_) => Err(CommandError::usage(name, "it has a digest, and never moves")),
        Err(e) => Err(CommandError::usage(name, e.to_string())),
    }
}

/// The source that an address is which the file lacks, in the file's words.
fn source_name(address: &str) -> Result<SourceName, CommandError> {
    let source = kiln_frontend::remote_context(address).map_err(|why| CommandError::usage(address, why))?;
    Ok(Worker::source_name(source.source())?)
}
