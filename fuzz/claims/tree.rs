//! What holds of any text and any tree: places that are places, and a tree without them. It does not know
//! what is claimed of them.

use kiln_grammar::ast::CopySource;
use kiln_grammar::{Dockerfile, Heredoc, Instruction, InstructionKind, Span, Word};

/// The input as text: what is no UTF-8 becomes U+FFFD.
pub fn text_of(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

/// All instructions, in the order of the text.
pub fn instructions(dockerfile: &Dockerfile) -> impl Iterator<Item = &Instruction> {
    let stages = dockerfile.stages.iter();
    let of_stages = stages.flat_map(|stage| std::iter::once(&stage.from).chain(&stage.instructions));
    dockerfile.global_args.iter().chain(of_stages)
}

/// What an instruction says, without where.
pub fn placeless(kind: &InstructionKind) -> InstructionKind {
    let mut kind = kind.clone();
    words(&mut kind).into_iter().for_each(|word| word.span = Span::default());
    heredocs(&mut kind).into_iter().for_each(|heredoc| heredoc.span = Span::default());
    kind
}

/// Fails unless a place is one in the text.
#[track_caller]
pub fn check_span(source: &str, span: Span) {
    let Span { start, end } = span;
    assert!(start <= end && end <= source.len(), "{span:?} is beyond {}", source.len());
    assert!(source.is_char_boundary(start) && source.is_char_boundary(end), "{span:?} cuts a character");
}

/// Fails unless a line is the one on which a place begins.
#[track_caller]
pub fn check_line(source: &str, at: usize, line: u32) {
    let newlines = source.as_bytes()[..at].iter().filter(|c| **c == b'\n').count();
    assert_eq!(line as usize, newlines + 1, "the line of byte {at}");
}

/// The heredocs of an instruction.
pub fn heredocs(kind: &mut InstructionKind) -> Vec<&mut Heredoc> {
    match kind {
        InstructionKind::Run(run) => run.heredocs.iter_mut().collect(),
        InstructionKind::Copy(copy) => copy.sources.iter_mut().filter_map(heredoc).collect(),
        InstructionKind::Add(add) => add.sources.iter_mut().filter_map(heredoc).collect(),
        InstructionKind::Onbuild { instruction: Some(kind), .. } => heredocs(kind),
        _ => Vec::new(),
    }
}

/// The words of an instruction that have places of their own.
pub fn words(kind: &mut InstructionKind) -> Vec<&mut Word> {
    use InstructionKind as K;
    let mut out: Vec<&mut Word> = Vec::new();
    match kind {
        K::From { image, platform, alias } => {
            out.push(image);
            out.extend(platform);
            out.extend(alias.iter_mut().flat_map(|(name, with)| [name, with]));
        }
        K::Run(run) => {
            out.extend(run.mounts.iter_mut().map(|mount| &mut mount.value));
            out.extend(run.network.iter_mut().chain(&mut run.security).chain(&mut run.devices));
        }
        K::Copy(copy) => {
            out.extend(copy.from.iter_mut().chain(&mut copy.chown).chain(&mut copy.chmod));
            out.extend(copy.exclude.iter_mut().chain(copy.sources.iter_mut().filter_map(path)));
            out.push(&mut copy.dest);
        }
        K::Add(add) => {
            out.extend(add.checksum.iter_mut().chain(&mut add.chown).chain(&mut add.chmod));
            out.extend(add.exclude.iter_mut().chain(add.sources.iter_mut().filter_map(path)));
            out.push(&mut add.dest);
        }
        K::Env(pairs) | K::Label(pairs) => {
            out.extend(pairs.iter_mut().flat_map(|pair| [&mut pair.key, &mut pair.value]));
        }
        K::Arg(args) => {
            out.extend(args.iter_mut().flat_map(|(name, value)| std::iter::once(name).chain(value)));
        }
        K::Expose(words) | K::Volume(words) => out.extend(words),
        K::User(word) | K::Workdir(word) | K::Stopsignal(word) | K::Maintainer(word) => out.push(word),
        K::Onbuild { trigger, instruction } => {
            out.push(trigger);
            out.extend(instruction.iter_mut().flat_map(|kind| words(kind)));
        }
        K::Shell(_) | K::Cmd(_) | K::Entrypoint(_) | K::Healthcheck(_) => {}
    }
    out
}

fn heredoc(source: &mut CopySource) -> Option<&mut Heredoc> {
    match source {
        CopySource::Heredoc(heredoc) => Some(heredoc),
        CopySource::Path(_) => None,
    }
}

fn path(source: &mut CopySource) -> Option<&mut Word> {
    match source {
        CopySource::Path(word) => Some(word),
        CopySource::Heredoc(_) => None,
    }
}
