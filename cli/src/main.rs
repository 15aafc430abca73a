//! The program `kiln`: arguments in; words, pictures and exit codes out. It does not know how anything
//! is done.

mod args;
mod build;
mod cache_mount;
mod caches;
mod check;
mod contexts;
mod debug;
mod du;
mod error;
mod explain;
mod failure;
mod fsck;
mod images;
mod interrupt;
mod lock;
mod login;
mod outputs;
mod patience;
mod plain;
mod prompt;
mod prune;
mod registry;
mod render;
mod report;
mod sizes;
mod stderr;
mod table;
mod template;

use crate::args::{Args, Command, LockCommand};
use crate::error::CommandError;
use clap::Parser;
use kiln_runner::child_entry_point;
use kiln_worker::{RegistryOptions, Worker};
use std::path::{Path, PathBuf};
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
    let max = store_max(args.store_max, &root)?;
    let patience = args.patience.patience()?;
    let authfile = args.authfile;
    let registries = |insecure: &[String]| {
        let (insecure_registries, patience) = (insecure.to_vec(), patience.clone());
        let mut options = RegistryOptions { insecure_registries, patience, ..RegistryOptions::from_env() };
        options.places.auth_file = authfile.clone().or(options.places.auth_file);
        options
    };
    let open = |insecure: &[String]| {
        Worker::open(&root, registries(insecure), &cancel).map(|worker| worker.with_store_max(max))
    };
    match args.command {
        Command::Build(args) => build::run(args.settled()?, open, &cancel),
        Command::Push(args) => images::push(&open(&args.insecure_registry)?, &args),
        Command::Pull(args) => images::pull(&open(&args.insecure_registry)?, &args),
        Command::Images(args) => images::list::run(&open(&[])?, &args),
        Command::Inspect(args) => images::inspect::run(&open(&[])?, &args),
        Command::History(args) => images::history::run(&open(&[])?, &args),
        Command::Save(args) => images::moving::save(&open(&[])?, &args),
        Command::Load(args) => images::moving::load(&open(&[])?, &args),
        Command::Copy(args) => images::moving::copy(&open(&args.insecure_registry)?, &args),
        Command::Import(args) => images::files::import(&open(&[])?, &args),
        Command::Export(args) => images::files::export(&open(&[])?, &args),
        Command::Diff(args) => images::diff::run(&open(&args.insecure_registry)?, &args),
        Command::Verify(args) => images::verify::run(*args, open, &cancel),
        Command::Manifest { what } => images::manifest::run(what, open),
        Command::Search(args) => images::manifest::search(&open(&args.insecure_registry)?, &args),
        Command::Tag(args) => images::tag(&open(&[])?, &args),
        Command::Rmi(args) => images::remove(&open(&[])?, &args),
        Command::Explain(args) => explain::run(&open(&[])?, &args),
        Command::CacheMount { what } => cache_mount::run(what, open),
        Command::Lock { what: LockCommand::Update(args) } => lock::update(&args, open),
        Command::Du(args) => du::run(&open(&[])?, &args),
        Command::Prune(args) => prune::run(&open(&[])?, &args),
        Command::Fsck(args) => fsck::run(|| open(&[]), &root, &args),
        Command::Login(args) => login::log_in(&args, registries, &cancel),
        Command::Logout(args) => login::log_out(&args, registries(&[])),
        Command::Registry { what } => registry::run(what, registries),
        Command::Debug { what } => debug::run(what, open),
    }
}

/// What the store may take: `--store-max`, else `$KILN_STORE_MAX`, else `store_max` in its `settings.json`.
fn store_max(given: Option<String>, root: &Path) -> Result<Option<u64>, CommandError> {
    if let Some(text) = given {
        return sizes::size_bytes("--store-max", &text).map(Some);
    }
    if let Some(text) = std::env::var("KILN_STORE_MAX").ok().filter(|text| !text.is_empty()) {
        return sizes::size_bytes("KILN_STORE_MAX", &text).map(Some);
    }
    let path = root.join("settings.json");
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(None) };
    let settings: serde_json::Value = serde_json::from_str(&text)
        .map_err(|e| CommandError::usage(path.display().to_string(), format!("it is no JSON: {e}")))?;
    match settings.get("store_max") {
        None => Ok(None),
        Some(value) => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            sizes::size_bytes(&format!("store_max in {}", path.display()), &text).map(Some)
        }
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
