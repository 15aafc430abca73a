//! The claims about the tree of a Dockerfile: its form, that the ends of lines do not matter, and that a
//! trigger means later what it means here. It does not know where things stand.

use crate::memory::{self, Held};
use crate::meter::peak_of;
use crate::tree::{heredocs, instructions, placeless, text_of, words};
use kiln_grammar::ast::{Command, Healthcheck};
use kiln_grammar::{Dockerfile, Instruction, InstructionKind, MAX_LINE, Parse, parse, parse_instruction};

/// Fails if a claim does not hold of the text.
pub fn check(data: &[u8]) {
    let source = text_of(data);
    let (first, peak) = peak_of(|| parse(&source));
    let things = memory::of_dockerfile(&source);
    memory::check(Held { what: "parse", peak, input: source.len(), things });
    assert!(first == parse(&source), "two readings differ");
    check_form(&first.dockerfile);
    for instruction in instructions(&first.dockerfile) {
        check_kind(&instruction.kind);
        if let InstructionKind::Onbuild { trigger, instruction } = &instruction.kind {
            check_trigger(&trigger.raw, instruction.as_deref(), first.dockerfile.directives.escape);
        }
    }
    check_line_ends(&source);
}

fn check_form(dockerfile: &Dockerfile) {
    for instruction in &dockerfile.global_args {
        assert!(
            matches!(instruction.kind, InstructionKind::Arg(_)),
            "before the first FROM: {instruction:?}"
        );
    }
    for stage in &dockerfile.stages {
        let InstructionKind::From { alias, .. } = &stage.from.kind else { panic!("{:?}", stage.from) };
        let name = alias.as_ref().map(|(name, _)| name.raw.to_lowercase());
        assert_eq!(stage.name, name);
        let is_name_char = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        assert!(name.is_none_or(|name| {
            name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(is_name_char)
        }));
        let is_from = |kind: &InstructionKind| matches!(kind, InstructionKind::From { .. });
        assert!(!stage.instructions.iter().any(|instruction| is_from(&instruction.kind)));
    }
}

/// What each instruction has at least.
fn check_kind(kind: &InstructionKind) {
    use InstructionKind as K;
    let is_command = |command: &Command| match command {
        Command::Exec(words) => !words.is_empty(),
        Command::Shell(text) => !text.is_empty(),
    };
    let all_there = match kind {
        K::From { image, .. } => !image.raw.is_empty(),
        K::Env(pairs) | K::Label(pairs) => {
            !pairs.is_empty() && pairs.iter().all(|pair| !pair.key.raw.is_empty())
        }
        K::Arg(args) => !args.is_empty() && args.iter().all(|(name, _)| !name.raw.is_empty()),
        K::Expose(words) | K::Volume(words) => {
            !words.is_empty() && words.iter().all(|word| !word.raw.is_empty())
        }
        K::User(word) | K::Workdir(word) | K::Stopsignal(word) | K::Maintainer(word) => !word.raw.is_empty(),
        K::Shell(words) => !words.is_empty(),
        K::Copy(copy) => !copy.sources.is_empty(),
        K::Add(add) => !add.sources.is_empty(),
        K::Healthcheck(Healthcheck::None) => true,
        K::Healthcheck(Healthcheck::Cmd {
            command,
            interval_ns,
            timeout_ns,
            start_period_ns,
            start_interval_ns,
            ..
        }) => {
            let times = [interval_ns, timeout_ns, start_period_ns, start_interval_ns];
            is_command(command) && times.iter().all(|time| **time == 0 || **time >= 1_000_000)
        }
        K::Run(run) => run.mounts.iter().all(|mount| !mount.fields.is_empty()),
        K::Onbuild { trigger, instruction } => {
            let never = |kind: &K| matches!(kind, K::Onbuild { .. } | K::From { .. } | K::Maintainer(_));
            instruction.as_deref().into_iter().for_each(check_kind);
            !instruction.as_deref().is_some_and(never) && !trigger.raw.is_empty()
        }
        K::Cmd(_) | K::Entrypoint(_) => true,
    };
    assert!(all_there, "{kind:?}");
}

/// A trigger that is read again when it is used means what it means where it is defined.
fn check_trigger(text: &str, instruction: Option<&InstructionKind>, escape: char) {
    let first_line = text.split('\n').next().unwrap_or_default();
    // An escape character at the end is of no use here, and there it would continue the line.
    if first_line.trim_end().ends_with(escape) || first_line.len() > MAX_LINE {
        return;
    }
    match (parse_instruction(text, escape), instruction) {
        (Ok(again), Some(kind)) => assert_eq!(placeless(&again), placeless(kind), "the trigger {text:?}"),
        (Ok(_), None) => panic!("the trigger {text:?} is wrong only where it is defined"),
        // Where a trigger is only defined, --from is not looked at.
        (Err(why), Some(kind)) => assert!(
            matches!(kind, InstructionKind::Copy(copy) if copy.from.is_some()),
            "the trigger {text:?}: {}",
            why.message
        ),
        (Err(_), None) => {}
    }
}

/// Lines that end as on Windows say the same.
fn check_line_ends(source: &str) {
    let unix = source.replace("\r\n", "\n");
    if unix.contains('\r') || unix.split('\n').any(|line| line.len() + 2 > MAX_LINE) {
        return;
    }
    let windows = unix.replace('\n', "\r\n");
    let (unix, windows) = (parse(&unix), parse(&windows));
    let (one, other) = (instructions(&unix.dockerfile), instructions(&windows.dockerfile));
    assert!(one.map(said).eq(other.map(said)), "the ends of lines matter");
    let told = |parse: &Parse| -> Vec<_> {
        let told = parse.diagnostics.iter();
        told.map(|d| (d.severity, d.rule, d.message.clone(), d.line, d.hint.clone())).collect()
    };
    assert_eq!(told(&unix), told(&windows));
}

/// What an instruction says, and on which lines. The bodies of heredocs keep the ends of their lines.
fn said(instruction: &Instruction) -> (InstructionKind, u32, u32, &str, &[String]) {
    let mut kind = placeless(&instruction.kind);
    for heredoc in heredocs(&mut kind) {
        heredoc.body = heredoc.body.replace("\r\n", "\n");
        heredoc.raw_body = heredoc.raw_body.replace("\r\n", "\n");
    }
    if matches!(kind, InstructionKind::Onbuild { .. }) {
        words(&mut kind).into_iter().for_each(|word| word.raw = word.raw.replace("\r\n", "\n"));
    }
    (kind, instruction.line, instruction.end_line, &instruction.text, &instruction.comments)
}
