//! `--report` and `--explain`: what is told of a build when it is over. It does not know words for reasons.

use crate::args::{BuildArgs, ProgressMode};
use crate::build::build_args;
use crate::error::CommandError;
use crate::explain;
use crate::images::print;
use crate::outputs;
use crate::plain::Plain;
use crate::stderr;
use kiln_frontend::BuildOptions;
use kiln_grammar::{Instruction, InstructionKind, Parse};
use kiln_worker::{BuildReport, BuildStatus, Place, Progress, ProgressSink, REPORT_SCHEMA};

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// What is to be told of a build, and what there is to tell.
#[derive(Debug)]
pub(crate) struct Report {
    /// The file; `-` is standard output.
    file: Option<PathBuf>,
    explain: bool,
    dry_run: bool,
    started: SystemTime,
    kept: Mutex<Option<BuildReport>>,
    is_told: AtomicBool,
}

impl Report {
    /// What the arguments want.
    pub fn of(args: &BuildArgs) -> Result<Report, CommandError> {
        let on_standard_output = args.report.as_deref() == Some(Path::new("-"));
        let is_quiet = args.quiet || args.progress == ProgressMode::Quiet;
        if on_standard_output && outputs::any_on_standard_output(&args.outputs, &args.tags) {
            return Err(CommandError::usage(
                "--report -",
                "an --output goes to standard output already: name a file",
            ));
        }
        if on_standard_output && is_quiet && !args.dry_run {
            return Err(CommandError::usage(
                "--report -",
                "--quiet prints the image's id there: name a file",
            ));
        }
        Ok(Report {
            file: args.report.clone(),
            explain: args.explain,
            dry_run: args.dry_run,
            started: SystemTime::now(),
            kept: Mutex::default(),
            is_told: AtomicBool::new(false),
        })
    }

    /// Does a build while `plain` shows it, and takes in its report.
    pub fn watch<T>(&self, plain: &Plain, build: impl FnOnce(&ProgressSink<'_>) -> T) -> T {
        let show = |p: Progress<'_>| match p {
            Progress::Report(report) => self.keep(report),
            other => plain.show(other),
        };
        build(&ProgressSink::new(&show))
    }

    fn keep(&self, report: &BuildReport) {
        if self.file.is_some() || self.explain || self.dry_run {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(report.clone());
        }
    }

    /// Tells what is to be told: the explanation on standard error, the report where it is wanted.
    pub fn tell(&self, quiet: bool) -> Result<(), CommandError> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(report) = kept else { return Ok(()) };
        self.is_told.store(true, Ordering::Relaxed);
        if self.explain || (self.dry_run && !quiet) {
            stderr::write(explain::text(&report));
        }
        self.write(&report)
    }

    /// The command is over. A build that did not even begin is reported too.
    pub fn ended(&self, error: Option<&CommandError>) -> Result<(), CommandError> {
        let Some(error) = error.filter(|_| !self.is_told.load(Ordering::Relaxed)) else { return Ok(()) };
        let started_s = self.started.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
        self.write(&BuildReport {
            schema: REPORT_SCHEMA,
            started_s,
            seconds: self.started.elapsed().map_or(0.0, |d| d.as_secs_f64()),
            status: if error.exit_code() == 130 { BuildStatus::Canceled } else { BuildStatus::Failed },
            dry_run: self.dry_run,
            error: Some(error.to_string().trim_end().to_owned()),
            ..BuildReport::default()
        })
    }

    fn write(&self, report: &BuildReport) -> Result<(), CommandError> {
        match self.file.as_deref() {
            None => Ok(()),
            Some(file) if file == Path::new("-") => print(json(report)),
            Some(file) => Ok(kiln_worker::write_whole(file, json(report).as_bytes())?),
        }
    }
}

/// A report as it is written.
pub(crate) fn json(report: &BuildReport) -> String {
    serde_json::to_string_pretty(report).unwrap_or_default() + "\n"
}

/// Which Dockerfile it is, and what has to be known of it to explain its steps.
pub(crate) fn place(args: &BuildArgs, parse: &Parse, options: &BuildOptions) -> Place {
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned()).display().to_string();
    let context = Path::new(&args.context);
    let mut name = match args.file.as_deref() {
        None if context.is_dir() => whole(&context.join("Dockerfile")),
        None => format!("Dockerfile of {}", args.context),
        Some(file) if file != "-" && Path::new(file).is_file() => whole(Path::new(file)),
        Some(file) => format!("{file} with {}", whole(context)),
    };
    if !args.platform.is_empty() {
        name.push_str(&format!(" for {}", args.platform.join(",")));
    }
    let dockerfile = &parse.dockerfile;
    let all =
        dockerfile.global_args.iter().chain(dockerfile.stages.iter().flat_map(|stage| &stage.instructions));
    let declared = |instruction: &Instruction| match &instruction.kind {
        InstructionKind::Arg(args) => args.iter().map(|(name, _)| name.raw.clone()).collect(),
        _ => Vec::new(),
    };
    let names: BTreeSet<String> = all.flat_map(declared).collect();
    let given = if options.build_args.is_empty() { build_args(args) } else { options.build_args.clone() };
    Place::new(name, names, &given)
}
