//! The program `kiln`: arguments in; words, pictures and exit codes out. It does not know how anything
//! is done.

mod args;
mod build;
mod cache_mount;
mod caches;
mod check;
mod contexts;
mod debug;
mod error;
mod explain;
mod failure;
mod images;
mod interrupt;
mod lock;
mod outputs;
mod plain;
mod render;
mod report;
mod stderr;

use crate::args::{Args, Command, LockCommand};
use crate::error::CommandError;
use clap::Parser;
use kiln_runner::child_entry_point;
use kiln_worker::{RegistryOptions, Worker};
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    // A process that is the runner's child must come here before any thread starts.
    child_entry_point();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            // Help and version are data and a success; anything else is a usage error.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            error::report(&e);
            ExitCode::from(e.exit_code())
        }
    }
}

fn run(args: Args) -> Result<(), CommandError> {
    let cancel = interrupt::watch()?;
    let root = store_root(args.root)?;
    let open = |insecure: &[String]| {
        let options =
            RegistryOptions { insecure_registries: insecure.to_vec(), ..RegistryOptions::from_env() };
        Worker::open(&root, options, &cancel)
    };
    match args.command {
        Command::Build(args) => build::run(args.settled()?, open, &cancel),
        Command::Push(args) => images::push(&open(&args.insecure_registry)?, &args),
        Command::Pull(args) => images::pull(&open(&args.insecure_registry)?, &args),
        Command::Images(args) => images::list(&open(&[])?, &args),
        Command::Inspect(args) => images::inspect(&open(&[])?, &args),
        Command::Tag(args) => images::tag(&open(&[])?, &args),
        Command::Rmi(args) => images::remove(&open(&[])?, &args),
        Command::Explain(args) => explain::run(&open(&[])?, &args),
        Command::CacheMount { what } => cache_mount::run(what, open),
        Command::Lock { what: LockCommand::Update(args) } => lock::update(&args, open),
        Command::Debug { what } => debug::run(what, open),
    }
}

/// Where the store is: `--root`, else `$KILN_ROOT`, else the data folder of root or of the user.
fn store_root(given: Option<PathBuf>) -> Result<PathBuf, CommandError> {
    let named = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(root) = given.or_else(|| named("KILN_ROOT")) {
        return Ok(root);
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/kiln"));
    }
    let data = named("XDG_DATA_HOME").or_else(|| Some(named("HOME")?.join(".local/share")));
    data.map(|d| d.join("kiln")).ok_or(CommandError::NoStore)
}
