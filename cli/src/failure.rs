//! A failed step as people see it: its output, its line, and what may help. It does not know how steps
//! are done.

use crate::error::CommandError;
use crate::plain::Noticed;
use crate::render::{self, Source};
use crate::stderr::{self, say};
use kiln_frontend::{BuildOptions, UnusedBuildArg};
use kiln_grammar::ast::CopySource;
use kiln_grammar::suggest::nearest;
use kiln_grammar::{Diagnostic, IgnorePattern, Instruction, InstructionKind, Parse, Severity, Word};
use kiln_worker::{Absence, ExitStatus, RunError, WorkerError};
use std::path::Path;

/// What a message may refer to.
#[derive(Clone, Copy)]
pub(crate) struct Told<'a> {
    pub source: Source<'a>,
    pub parse: &'a Parse,
    /// The context's ignore file: its name and its patterns.
    pub ignore_name: &'a str,
    pub ignore: &'a [IgnorePattern],
}

/// Shows where a step failed, and gives the error that ends the command.
pub(crate) fn of_step(error: WorkerError, told: Told<'_>) -> CommandError {
    let WorkerError::Vertex { name, lines, log, error, .. } = error else {
        return error.into();
    };
    let mut picture = String::new();
    let name = name.replace(['\n', '\r'], " ");
    // With several platforms the name says for which one it failed.
    let names_platform = name.starts_with("[linux/") || name.starts_with("[windows/");
    if !log.is_empty() || names_platform {
        picture.push_str(&format!("------\n > {name}:\n"));
        for line in log.iter().flat_map(|line| stderr::shown_lines(line)) {
            picture.push_str(&String::from_utf8_lossy(line));
            picture.push('\n');
        }
        picture.push_str("------\n");
    }
    match (&*error, instruction_at(told.parse, &lines)) {
        (WorkerError::NotFound { path, around, .. }, Some(instruction)) => {
            let word = word_of(instruction, path);
            let written = word.map_or(path.as_str(), |word| &word.raw);
            let of_context = is_of_context(instruction, word).then(|| hint_of_context(written, around, told));
            let hint = of_context.flatten().or_else(|| near_by(around));
            let diagnostic = Diagnostic {
                severity: Severity::Error,
                rule: None,
                message: error.to_string(),
                span: word.map_or(instruction.span, |word| word.span),
                line: instruction.line,
                hint,
            };
            picture.push_str(&render::diagnostics(told.source, &[diagnostic]));
        }
        _ => {
            picture.push_str(&render::lines(told.source, &lines));
            if let Some(hint) = hint(&error) {
                picture.push_str(&format!("help: {hint}\n"));
            }
        }
    }
    if !picture.is_empty() {
        say(picture.trim_end());
    }
    CommandError::Step { text: format!("failed to build: {error}"), error }
}

/// What was noticed about a step, as a warning about its instruction.
pub(crate) fn of_notice(noticed: &Noticed, told: Told<'_>) -> Diagnostic {
    let instruction = instruction_at(told.parse, &noticed.lines);
    let chown = instruction.and_then(|instruction| match &instruction.kind {
        InstructionKind::Copy(copy) => copy.chown.as_ref(),
        InstructionKind::Add(add) => add.chown.as_ref(),
        _ => None,
    });
    let span = chown.map(|word| word.span).or(instruction.map(|instruction| instruction.span));
    Diagnostic {
        severity: Severity::Warning,
        rule: None,
        message: noticed.message.clone(),
        span: span.unwrap_or_default(),
        line: noticed.lines.first().map_or(1, |(first, _)| *first),
        hint: Some(noticed.hint.clone()),
    }
}

/// Tells of build arguments that change nothing.
pub(crate) fn tell_of_unused(unused: &[UnusedBuildArg]) {
    for UnusedBuildArg { name, near } in unused {
        let near = near.as_ref().map_or_else(String::new, |near| format!(": did you mean {near}?"));
        say(&format!("warning: no ARG declares the build argument {name}{near}"));
    }
}

/// Tells of a frontend that was asked for: kiln is its own.
pub(crate) fn tell_of_frontend(options: &BuildOptions) {
    let asked = options.build_args.iter().rfind(|(name, _)| name == "BUILDKIT_SYNTAX");
    if let Some((_, Some(frontend))) = asked {
        say(&format!("warning: kiln reads the Dockerfile itself: BUILDKIT_SYNTAX={frontend} is not used"));
    }
}

/// The instruction that a step was made of.
fn instruction_at<'p>(parse: &'p Parse, lines: &[(u32, u32)]) -> Option<&'p Instruction> {
    let (first, _) = lines.first()?;
    let stages = parse.dockerfile.stages.iter();
    stages.flat_map(|stage| &stage.instructions).find(|instruction| instruction.line == *first)
}

/// The word of an instruction that names a path, or the only one that could.
fn word_of<'i>(instruction: &'i Instruction, path: &str) -> Option<&'i Word> {
    let words: Vec<&Word> = match &instruction.kind {
        InstructionKind::Copy(copy) => paths(&copy.sources),
        InstructionKind::Add(add) => paths(&add.sources),
        InstructionKind::Run(run) => {
            let mounts = run.mounts.iter().map(|mount| &mount.value);
            mounts.filter(|value| value.raw.contains(path.trim_start_matches('/'))).collect()
        }
        _ => return None,
    };
    let names = |word: &&Word| kiln_grammar::path::clean(&format!("/{}", word.raw)) == path;
    let only = if let [word] = words.as_slice() { Some(*word) } else { None };
    words.iter().find(|word| names(word)).copied().or(only)
}

fn paths(sources: &[CopySource]) -> Vec<&Word> {
    let words = sources.iter().map(|source| match source {
        CopySource::Path(word) => Some(word),
        CopySource::Heredoc(_) => None,
    });
    words.flatten().collect()
}

/// Whether a word of an instruction is looked for in the main context.
fn is_of_context(instruction: &Instruction, word: Option<&Word>) -> bool {
    match &instruction.kind {
        InstructionKind::Copy(copy) => copy.from.is_none(),
        InstructionKind::Add(_) => true,
        InstructionKind::Run(run) => {
            let mut named =
                run.mounts.iter().filter(|mount| word.is_some_and(|w| w.span == mount.value.span));
            named.any(|mount| mount.fields.iter().all(|(key, _)| key != "from"))
        }
        _ => false,
    }
}

/// Why a path is not in the context, and what to write instead.
fn hint_of_context(written: &str, around: &Absence, told: Told<'_>) -> Option<String> {
    let name = told.ignore_name;
    if let Some(pattern) = &around.ignored_by {
        let of_line = |p: &&IgnorePattern| !p.negated && p.pattern == *pattern;
        return Some(match told.ignore.iter().rfind(of_line) {
            Some(p) => format!("it is there, but {name}:{} leaves it out: `{}`", p.line, p.original.trim()),
            None => format!("it is there, but the ignore file leaves it out: `{pattern}`"),
        });
    }
    if leaves_root(written) {
        return Some(format!(
            "`{written}` leads out of the context: build with a folder above it as the context and --file, or \
             give --build-context NAME=FOLDER and write COPY --from=NAME"
        ));
    }
    if written.starts_with('~') {
        return Some("~ is not expanded: paths begin at the context, not at a home folder".to_owned());
    }
    if written.contains('\\') && !written.contains('/') {
        return Some("names in a path have / between them".to_owned());
    }
    let is_of_host = near_by(around).is_none() && written.starts_with('/') && Path::new(written).exists();
    is_of_host.then(|| {
        format!(
            "{written} of this machine is not in the context: paths begin at the context; give --build-context \
             NAME=FOLDER and write COPY --from=NAME for what is elsewhere"
        )
    })
}

/// What there is instead of a path, in the place where it was looked for.
fn near_by(around: &Absence) -> Option<String> {
    if around.folder.is_empty() {
        return None;
    }
    let below = |name: &str| format!("{}/{name}", around.folder.trim_end_matches('/'));
    if let Some(there) = around.siblings.iter().find(|name| name.eq_ignore_ascii_case(&around.missing)) {
        return Some(format!("there is {}, which differs in case only", below(there)));
    }
    if let Some(near) = nearest(&around.missing, around.siblings.iter().map(String::as_str)) {
        return Some(format!("did you mean {}?", below(near)));
    }
    if let Some(there) = &around.elsewhere {
        return Some(format!("there is {there}; paths begin at /, not at WORKDIR"));
    }
    around.siblings.is_empty().then(|| format!("{} is empty", around.folder))
}

/// Whether a path goes up further than it went down.
fn leaves_root(path: &str) -> bool {
    let mut depth = 0_i32;
    path.split('/').filter(|name| !name.is_empty() && *name != ".").any(|name| {
        depth += if name == ".." { -1 } else { 1 };
        depth < 0
    })
}

/// What may help against a failure that does not say so itself.
fn hint(error: &WorkerError) -> Option<&'static str> {
    match error {
        WorkerError::Step { status: ExitStatus::Code(127), .. } => {
            Some("exit code 127: a program was not found. Is it installed in this stage, and in $PATH?")
        }
        WorkerError::Step { status: ExitStatus::Code(126), .. } => {
            Some("exit code 126: a file can't be executed. Does it have the right mode, as by chmod +x?")
        }
        WorkerError::Step { status: ExitStatus::Code(137), .. } => {
            Some("exit code 137: it was killed, most often because memory ran out")
        }
        WorkerError::Run(RunError::NotFound { .. }) => Some(
            "if the file is there, the interpreter in its #! line is not: does that line end with a carriage \
             return, or is it a program linked for another libc?",
        ),
        WorkerError::Run(RunError::NotInPath { .. }) => Some(
            "is it installed in this stage? The exec form (a JSON array) has no shell: no &&, no variables",
        ),
        WorkerError::Run(RunError::UnknownUser { .. } | RunError::UnknownGroup { .. }) => {
            Some("add it before this, as RUN useradd does, or give a number")
        }
        WorkerError::Checksum { .. } => Some("if it was meant to change, write the new checksum"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_goes_up_too_far_leaves_the_context() {
        for (path, leaves) in
            [("../a", true), ("a/../../b", true), ("./a/../b", false), ("/..", true), ("a", false)]
        {
            assert_eq!(leaves_root(path), leaves, "{path}");
        }
    }

    #[test]
    fn the_word_with_the_path_is_found() {
        let parse = kiln_grammar::parse("FROM x\nCOPY ./a /b c/ /to/\nRUN --mount=source=/x,target=/y ls\n");
        let text = |line, path| {
            let instruction = instruction_at(&parse, &[(line, line)])?;
            word_of(instruction, path).map(|word| word.raw.as_str())
        };
        for (line, path, want) in [
            (2, "/a", Some("./a")),
            (2, "/c", Some("c/")),
            (2, "/d", None),
            (3, "/x", Some("source=/x,target=/y")),
        ] {
            assert_eq!(text(line, path), want, "{line} {path}");
        }
    }
}
