//! `kiln debug`: what kiln makes of a Dockerfile before it builds: its tree, its Definition, its stages.
//! It does not know how any of them is made.

pub(crate) mod args;
mod drawing;

use crate::args::BuildArgs;
use crate::build::{self, Resolver};
use crate::contexts::{self, Inputs};
use crate::error::CommandError;
use crate::images::print;
use crate::render::{self, Source};
use crate::stderr::say;
use args::{AstArgs, AstFormat, DebugCommand, GraphArgs, GraphFormat, LlbArgs, LlbFormat};
use kiln_frontend::{LowerError, pb};
use kiln_grammar::{Diagnostic, Dockerfile};
use kiln_worker::{Worker, WorkerError};
use serde::Serialize;
use std::io::{IsTerminal, Read};

/// Shows what was asked for.
pub(crate) fn run(
    command: DebugCommand,
    open: impl FnOnce(&[String]) -> Result<Worker, WorkerError>,
) -> Result<(), CommandError> {
    match command {
        DebugCommand::Ast(args) => ast(args, open),
        DebugCommand::Llb(args) => match &args.read {
            Some(file) => read_llb(file),
            None => llb(args, open),
        },
        DebugCommand::Graph(args) => graph(args, open),
    }
}

/// What `kiln debug ast` prints.
#[derive(Serialize)]
struct Tree<'a> {
    /// The Dockerfile's name.
    name: &'a str,
    dockerfile: &'a Dockerfile,
    diagnostics: &'a [Diagnostic],
}

/// Prints the tree. Mistakes are in it, and are told as a build tells them.
fn ast(
    args: AstArgs,
    open: impl FnOnce(&[String]) -> Result<Worker, WorkerError>,
) -> Result<(), CommandError> {
    let format = args.format;
    let args = args.source.into_build_args()?;
    let inputs = dockerfile(&args, open)?;
    let parse = kiln_grammar::parse(&inputs.dockerfile);
    let tree = Tree { name: &inputs.name, dockerfile: &parse.dockerfile, diagnostics: &parse.diagnostics };
    let AstFormat::Json = format;
    let json = serde_json::to_string_pretty(&tree);
    print(json.map_err(|error| CommandError::usage(&inputs.name, error.to_string()))? + "\n")?;
    build::refuse_mistakes(&parse, source_of(&inputs), &args)
}

/// Prints the Definition that a build would run.
fn llb(
    args: LlbArgs,
    open: impl FnOnce(&[String]) -> Result<Worker, WorkerError>,
) -> Result<(), CommandError> {
    if args.format == LlbFormat::Pb && std::io::stdout().is_terminal() {
        let problem = "protobuf is not for terminals: write it to a file or a pipe";
        return Err(CommandError::usage("--format pb", problem));
    }
    let format = args.format;
    let args = args.source.into_build_args()?;
    let (worker, lock) = build::opened(&args, &args.insecure_registry, open)?;
    let inputs = contexts::read(&args, &worker)?;
    let parse = kiln_grammar::parse(&inputs.dockerfile);
    let source = source_of(&inputs);
    build::refuse_mistakes(&parse, source, &args)?;
    let (named, _) = contexts::named(&args)?;
    let mut options = build::options(&args, &inputs, named)?;
    options.aliases = worker.aliases();
    let mut resolver = Resolver::of(&args, &worker, lock);
    build::settle_time(&parse, &mut options, source, &mut resolver, &mut build::Times::new(), &args)?;
    let lowered = build::lower(&parse, &options, source, &mut resolver)?;
    let file = pb::SourceFile { name: &inputs.name, text: &inputs.dockerfile };
    let bytes = pb::encode(&lowered.definition, Some(file));
    match format {
        LlbFormat::Pb => print(bytes),
        LlbFormat::Json => print(json_lines(&bytes, "LLB")?),
    }
}

/// Prints a Definition that kiln or another program has written.
fn read_llb(file: &str) -> Result<(), CommandError> {
    let limit = pb::DEFINITION_BYTES_MAX as u64 + 1;
    let mut bytes = Vec::new();
    let read = match file {
        "-" => std::io::stdin().lock().take(limit).read_to_end(&mut bytes),
        path => std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)),
    };
    read.map_err(CommandError::file("read", file))?;
    let argument = format!("--read {file}");
    print(json_lines(&bytes, &argument)?)?;
    if let Err(error) = pb::decode(&bytes) {
        say(&format!("note: kiln could not build this: {error}"));
    }
    Ok(())
}

/// A line for each op, as `buildctl debug dump-llb` prints them.
fn json_lines(bytes: &[u8], argument: &str) -> Result<String, CommandError> {
    let ops = pb::dump(bytes).map_err(|error| CommandError::usage(argument, error.to_string()))?;
    let mut out = String::new();
    for op in &ops {
        let line = serde_json::to_string(op);
        out += &line.map_err(|error| CommandError::usage(argument, error.to_string()))?;
        out.push('\n');
    }
    Ok(out)
}

/// Prints the stages and what they are made of.
fn graph(
    args: GraphArgs,
    open: impl FnOnce(&[String]) -> Result<Worker, WorkerError>,
) -> Result<(), CommandError> {
    let format = args.format;
    let args = args.source.into_build_args()?;
    let inputs = dockerfile(&args, open)?;
    let parse = kiln_grammar::parse(&inputs.dockerfile);
    let source = source_of(&inputs);
    build::refuse_mistakes(&parse, source, &args)?;
    let (named, _) = contexts::named(&args)?;
    let options = build::options(&args, &inputs, named)?;
    let graph = kiln_frontend::stage_graph(&parse, &options).map_err(|error| match error {
        LowerError::Diagnostic(d) => CommandError::Dockerfile { text: render::diagnostics(source, &[d]) },
        // No image is asked for and nothing is linted.
        other => CommandError::Dockerfile { text: format!("error: {other}\n") },
    })?;
    print(match format {
        GraphFormat::Mermaid => drawing::mermaid(&graph),
        GraphFormat::Dot => drawing::dot(&graph),
    })
}

/// The Dockerfile; a store is opened only for one from the network or in an archive.
fn dockerfile(
    args: &BuildArgs,
    open: impl FnOnce(&[String]) -> Result<Worker, WorkerError>,
) -> Result<Inputs, CommandError> {
    match contexts::dockerfile_here(args)? {
        Some(inputs) => Ok(inputs),
        None => contexts::read(args, &build::opened(args, &args.insecure_registry, open)?.0),
    }
}

fn source_of(inputs: &Inputs) -> Source<'_> {
    Source { name: &inputs.name, text: &inputs.dockerfile }
}
