//! `kiln build`: reads, parses, lowers, builds, and tells of it. It does not know how any of them is done.

mod agents;
pub(crate) mod annotations;
mod attest;
mod graph;
mod options;
pub(crate) mod platforms;
mod request;
mod resolver;
mod tell;

pub(crate) use agents::of as ssh_agents;
pub(crate) use options::{build_args, options};
pub(crate) use request::secrets;
pub(crate) use resolver::{Resolver, age_text};

use crate::args::{BuildArgs, ProgressMode};
use crate::caches::Caches;
use crate::check::{self, CheckFormat};
use crate::contexts;
use crate::error::{CommandError, is_registry};
use crate::failure;
use crate::lock::LockFile;
use crate::outputs;
use crate::plain::Plain;
use crate::render::{self, Source};
use crate::report::{self, Report};
use crate::stderr::say;
use graph::Graph;
use kiln_frontend::{BuildOptions, EpochSource, ImageRequest, LowerError, Lowered};
use kiln_grammar::{Diagnostic, Parse, Severity, Span};
use kiln_oci::Platform;
use kiln_worker::{BuildRequest, CancelToken, LocalFolder, Output, PullPolicy, Worker, WorkerError};
use platforms::Platforms;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Builds, and reports on it however it ends.
pub(crate) fn run(
    args: BuildArgs,
    open: impl FnOnce(&[String]) -> Result<Worker, WorkerError>,
    cancel: &CancelToken,
) -> Result<(), CommandError> {
    let report = Report::of(&args)?;
    let ended = build(args, open, cancel, &report);
    report.ended(ended.as_ref().err())?;
    ended
}

fn build(
    args: BuildArgs,
    open: impl FnOnce(&[String]) -> Result<Worker, WorkerError>,
    cancel: &CancelToken,
    report: &Report,
) -> Result<(), CommandError> {
    let platforms = Platforms::of(&args)?;
    let asked = attest::asked(&args)?;
    let outputs = outputs_of(&args, platforms.is_index, &asked)?;
    for flag in args.without_effect() {
        say(&format!("warning: {flag} is taken for the sake of old scripts, and changes nothing"));
    }
    let caches = Caches::of(&args.cache_from, &args.cache_to)?;
    let mut insecure = caches.insecure_registries(&args.insecure_registry);
    insecure.extend(outputs::insecure_registries(&outputs));
    let (worker, lock) = opened(&args, &insecure, open)?;
    let inputs = contexts::read(&args, &worker)?;
    tell::tell_of_age(worker.pins());
    let source = Source { name: &inputs.name, text: &inputs.dockerfile };
    let parse = kiln_grammar::parse(&inputs.dockerfile);
    refuse_mistakes(&parse, source, &args)?;
    let (named, folders) = contexts::named(&args)?;
    let folders = local_folders(&args, &inputs, folders);
    let options = BuildOptions { aliases: worker.aliases(), ..options(&args, &inputs, named)? };
    let mut resolver = Resolver::of(&args, &worker, lock);
    let all = options_of_all(&args, &parse, &options, source, &mut resolver, platforms.all)?;
    if args.check {
        return check_all(&parse, &all, source, &mut resolver, args.format.unwrap_or_default());
    }
    let mut graph = Graph::default();
    for options in &all {
        graph.add(options.target_platform.clone(), lower(&parse, options, source, &mut resolver)?);
    }
    resolver.save_lock(&args)?;
    let (mut warnings, unused) = (graph.warnings.clone(), graph.unused.clone());
    let quiet = args.quiet || args.progress == ProgressMode::Quiet;
    let place = report::place(&args, &parse, &options);
    let attest = asked.settled(&args, &inputs, &options)?;
    let request = request::request(
        &args,
        graph,
        std::mem::take(&mut resolver.images),
        folders,
        (outputs, attest),
        (&options, place),
    )?;
    let request = BuildRequest { cache_imports: caches.imports, cache_exports: caches.exports, ..request };
    let told = failure::Told {
        source,
        parse: &parse,
        ignore_name: &inputs.ignore.name,
        ignore: &inputs.ignore.patterns,
    };
    let plain = Plain::new(quiet || args.progress == ProgressMode::None);
    let result = report.watch(&plain, |sink| worker.build(&request, sink, cancel));
    tell::tell_of_age(worker.pins());
    let saved = resolver.save_lock(&args);
    report.tell(quiet)?;
    let result = result.map_err(|e| failure::of_step(e, told))?;
    saved?;
    if args.dry_run {
        return Ok(());
    }
    warnings.extend(plain.notices().iter().map(|noticed| failure::of_notice(noticed, told)));
    failure::tell_of_unused(&unused);
    failure::tell_of_frontend(&options);
    tell::tell(&args, quiet, &result, &warnings, source)
}

/// Where the result goes.
fn outputs_of(args: &BuildArgs, is_index: bool, asked: &attest::Asked) -> Result<Vec<Output>, CommandError> {
    let is_index = is_index || asked.makes_index();
    let wanted = outputs::Wanted { push: args.push, load: args.load, is_index };
    let outputs = outputs::parse_all(&args.outputs, &args.tags, wanted)?;
    asked.check(&outputs, is_index)?;
    outputs::refuse_delete(&outputs, &args.allow)?;
    Ok(outputs)
}

/// The options for each platform, with the times that they name.
fn options_of_all(
    args: &BuildArgs,
    parse: &Parse,
    options: &BuildOptions,
    source: Source<'_>,
    resolver: &mut Resolver<'_>,
    platforms: Vec<Platform>,
) -> Result<Vec<BuildOptions>, CommandError> {
    let (mut all, mut times) = (Vec::new(), Times::new());
    for platform in platforms {
        let mut options = BuildOptions { target_platform: platform, ..options.clone() };
        // A check needs no times, and reports what is wrong with their names by itself.
        if !args.check {
            settle_time(parse, &mut options, source, resolver, &mut times, args)?;
        }
        all.push(options);
    }
    Ok(all)
}

/// The folders that the graph may read, by their names in it.
fn local_folders(
    args: &BuildArgs,
    inputs: &contexts::Inputs,
    mut folders: BTreeMap<String, PathBuf>,
) -> BTreeMap<String, LocalFolder> {
    folders.insert("context".to_owned(), inputs.folder.clone());
    let keeps_owners = |name: &str| name == "context" && inputs.keeps_owners;
    let folders = folders.into_iter().map(|(name, path)| {
        let (keeps_owners, modes) = (keeps_owners(&name), args.context_mode.modes());
        (name, LocalFolder { path, keeps_owners, modes })
    });
    folders.collect()
}

/// The store, held to the lock file, if there is one; and the network unless nobody is to be asked.
pub(crate) fn opened(
    args: &BuildArgs,
    insecure_registries: &[String],
    open: impl FnOnce(&[String]) -> Result<Worker, WorkerError>,
) -> Result<(Worker, Option<LockFile>), CommandError> {
    let flag = offline_flag(args.offline)?;
    if let (Some(flag), Some(PullPolicy::Always)) = (flag, args.pull) {
        return Err(CommandError::usage("--pull=always", format!("{flag} says that nobody is asked")));
    }
    let lock = LockFile::of(args)?;
    let mut worker = open(insecure_registries)?;
    if let Some(flag) = flag {
        worker.go_offline(flag);
    }
    if let Some(lock) = &lock {
        worker.hold_to(lock.pins());
    }
    Ok((worker, lock))
}

/// What says that nobody is asked: the flag, if it is given, or the environment.
pub(crate) fn offline_flag(is_given: bool) -> Result<Option<&'static str>, CommandError> {
    let named = std::env::var("KILN_OFFLINE").unwrap_or_default();
    match kiln_frontend::boolean(&named) {
        _ if is_given => Ok(Some("--offline")),
        Some(true) => Ok(Some("KILN_OFFLINE")),
        Some(false) => Ok(None),
        None if named.is_empty() => Ok(None),
        None => Err(CommandError::usage("KILN_OFFLINE", format!("`{named}` is neither 1 nor 0"))),
    }
}

/// What `SOURCE_DATE_EPOCH` has named so far, and the times that were found out.
pub(crate) type Times = Vec<(EpochSource, Option<i64>)>;

/// Finds out the time that `SOURCE_DATE_EPOCH` names, if it names something; once, as it mostly is the same
/// for all platforms.
pub(crate) fn settle_time(
    parse: &Parse,
    options: &mut BuildOptions,
    source: Source<'_>,
    resolver: &mut Resolver<'_>,
    known: &mut Times,
    args: &BuildArgs,
) -> Result<(), CommandError> {
    let named = kiln_frontend::epoch_source(parse, options).map_err(|e| lower_error(e, source, resolver))?;
    let Some(named) = named else { return Ok(()) };
    options.source_date_epoch = match known.iter().find(|(source, _)| *source == named) {
        Some((_, time)) => *time,
        None => {
            let time = contexts::epoch_of(&named, args, resolver.worker)?;
            known.push((named, time));
            time
        }
    };
    Ok(())
}

pub(crate) fn lower(
    parse: &Parse,
    options: &BuildOptions,
    source: Source<'_>,
    resolver: &mut Resolver<'_>,
) -> Result<Lowered, CommandError> {
    let mut told = Vec::new();
    let mut resolve = |wanted: &[ImageRequest]| resolver.resolve(wanted);
    let lowered = kiln_frontend::lower_telling(parse, options, &mut resolve, &mut told);
    lowered.map_err(|e| after(&told, lower_error(e, source, resolver), source))
}

/// Refuses a Dockerfile that can't be read: all that is wrong with it is shown, and what is warned of above.
pub(crate) fn refuse_mistakes(
    parse: &Parse,
    source: Source<'_>,
    args: &BuildArgs,
) -> Result<(), CommandError> {
    let errors = parse.diagnostics.iter().filter(|d| d.severity == Severity::Error);
    let errors: Vec<Diagnostic> = errors.cloned().collect();
    let Some(first) = errors.first() else { return Ok(()) };
    let mut options = BuildOptions::new(kiln_oci::Platform::host());
    options.build_args = build_args(args);
    let mut warnings = Vec::new();
    // Nothing is resolved: it ends at the first mistake.
    let _ = kiln_frontend::lower_telling(parse, &options, &mut |_| Vec::new(), &mut warnings);
    if let (true, Some(format @ (CheckFormat::Json | CheckFormat::Sarif))) = (args.check, args.format) {
        let error = CommandError::Dockerfile { text: String::new() };
        return check::report(format, source, &warnings, &errors, Some(error));
    }
    let mut text = render::diagnostics(source, &errors);
    text.push_str(&format!("ERROR: dockerfile parse error on line {}: {}\n", first.line, first.message));
    Err(after(&warnings, CommandError::Dockerfile { text }, source))
}

/// An error, with the warnings that came before it.
fn after(warnings: &[Diagnostic], error: CommandError, source: Source<'_>) -> CommandError {
    let told = render::diagnostics(source, warnings);
    match error {
        CommandError::Dockerfile { text } => CommandError::Dockerfile { text: told + &text },
        other => {
            if !told.is_empty() {
                say(told.trim_end());
            }
            other
        }
    }
}

fn lower_error(error: LowerError, source: Source<'_>, resolver: &mut Resolver<'_>) -> CommandError {
    let words = error.to_string();
    match error {
        LowerError::Diagnostic(d) => CommandError::Dockerfile { text: render::diagnostics(source, &[d]) },
        LowerError::Image { reference, message, line, span, hint } => {
            let failure = resolver.failure.take();
            if let Some(error @ WorkerError::Canceled) = failure {
                return error.into();
            }
            let registry = failure.is_some_and(|e| is_registry(&e));
            let text = format!("failed to resolve {reference}: {message}");
            let severity = Severity::Error;
            let shown = Diagnostic { severity, rule: None, message: text.clone(), span, line, hint };
            say(render::diagnostics(source, &[shown]).trim_end());
            CommandError::Image { text, registry }
        }
        LowerError::Lint { warnings, .. } => {
            let text = render::diagnostics(source, &warnings);
            CommandError::Dockerfile { text: format!("{text}error: {words}\n") }
        }
    }
}

/// The mistake that an error is about.
fn shown(error: &LowerError) -> Diagnostic {
    let at = |message, span, line| Diagnostic {
        severity: Severity::Error,
        rule: None,
        message,
        span,
        line,
        hint: None,
    };
    match error {
        LowerError::Diagnostic(diagnostic) => diagnostic.clone(),
        LowerError::Image { span, line, .. } => at(error.to_string(), *span, *line),
        LowerError::Lint { .. } => at(error.to_string(), Span::default(), 1),
    }
}

fn check_all(
    parse: &Parse,
    all: &[BuildOptions],
    source: Source<'_>,
    resolver: &mut Resolver<'_>,
    format: CheckFormat,
) -> Result<(), CommandError> {
    let mut warnings = Vec::new();
    for options in all {
        let checked = kiln_frontend::check(parse, options, &mut |wanted| resolver.resolve(wanted));
        graph::add_warnings(&mut warnings, checked.warnings);
        if let Some(error) = checked.error {
            let shown = shown(&error);
            let error = lower_error(error, source, resolver);
            return check::report(format, source, &warnings, &[shown], Some(error));
        }
    }
    check::report(format, source, &warnings, &[], None)
}
