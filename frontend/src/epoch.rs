//! SOURCE_DATE_EPOCH: a number, or the name of something that has a time: the context, a named context, or
//! a stage that is one download. It does not find out that time.

use crate::args;
use crate::contexts::{ContextSource, Contexts, source_of};
use crate::copy::web_source;
use crate::env::Env;
use crate::error::{LowerError, Place};
use crate::git;
use crate::options::BuildOptions;
use kiln_grammar::ast::{Add, CopySource};
use kiln_grammar::expand::expand_word;
use kiln_grammar::{Instruction, InstructionKind, Parse, Stage};
use kiln_solver::SourceOp;

/// The argument.
pub(crate) const NAME: &str = "SOURCE_DATE_EPOCH";

/// What SOURCE_DATE_EPOCH names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EpochSource {
    /// The main context.
    Context,
    /// A download.
    Source(SourceOp),
    /// Something that has no time, as a folder.
    Timeless,
}

/// What SOURCE_DATE_EPOCH names, if it is no number: whoever builds finds out its time, and gives it as
/// [`BuildOptions::source_date_epoch`]. As BuildKit's `resolveSourceDateEpochValue`.
pub fn epoch_source(parse: &Parse, options: &BuildOptions) -> Result<Option<EpochSource>, LowerError> {
    let platform = args::of_platform(options, options.target.as_deref().unwrap_or_default());
    let global = args::global(&parse.dockerfile, &platform, Some(options))?;
    let text = text(options, &global);
    if options.source_date_epoch.is_some() || text.is_empty() || text.parse::<i64>().is_ok() {
        return Ok(None);
    }
    if text == "context" {
        return Ok(Some(EpochSource::Context));
    }
    let place = parse.dockerfile.stages.first().map(|stage| Place::of(&stage.from)).unwrap_or_default();
    if let Some(context) = Contexts::new(options).find(text, &options.target_platform) {
        return Ok(Some(match source_of(context).map_err(|why| place.error(why))? {
            ContextSource::Plain(source) | ContextSource::Archive(source)
                if !source.identifier.starts_with("local://") =>
            {
                EpochSource::Source(source)
            }
            _ => EpochSource::Timeless,
        }));
    }
    let is_it = |stage: &&Stage| stage.name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(text));
    let Some(stage) = parse.dockerfile.stages.iter().rfind(is_it) else {
        return Err(place.hinted(
            format!("invalid SOURCE_DATE_EPOCH: {text}"),
            "give the seconds since 1970, or context, or the name of a stage or a context",
        ));
    };
    let escape = parse.dockerfile.directives.escape;
    of_stage(stage, options, &global, escape).map(|source| Some(EpochSource::Source(source)))
}

/// The time that goes for now. An argument whose time nobody has found out is as good as not given.
pub(crate) fn settled(options: &BuildOptions, global: &mut Env) -> Option<i64> {
    let text = text(options, global);
    let epoch = options.source_date_epoch.or_else(|| text.parse().ok());
    if global.get(NAME).is_some() {
        match epoch {
            Some(epoch) => global.set(NAME, &epoch.to_string()),
            None => global.remove(NAME),
        }
    }
    epoch
}

fn text<'t>(options: &'t BuildOptions, global: &'t Env) -> &'t str {
    options.build_arg(NAME).or_else(|| global.get(NAME)).unwrap_or_default()
}

/// The download that a stage is: from nothing, with arguments and one ADD of one address.
fn of_stage(
    stage: &Stage,
    options: &BuildOptions,
    global: &Env,
    escape: char,
) -> Result<SourceOp, LowerError> {
    let InstructionKind::From { image, .. } = &stage.from.kind else {
        return Err(Place::of(&stage.from).error("a stage begins with FROM"));
    };
    if image.raw != "scratch" {
        let place = Place::of(&stage.from).at(image);
        return Err(place.error(format!("{NAME} stage must use FROM scratch")));
    }
    let mut env = Env::default();
    let mut found: Option<(&Instruction, &Add)> = None;
    for instruction in &stage.instructions {
        let place = Place::of(instruction);
        match &instruction.kind {
            InstructionKind::Arg(declared) => {
                for (name, default) in declared {
                    let name = name.raw.as_str();
                    let value = options.build_arg(name).or_else(|| global.get(name)).map(str::to_owned);
                    let value = match (value, default) {
                        (None, Some(default)) => {
                            Some(expanded(&default.raw, &env, escape, place.at(default))?)
                        }
                        (value, _) => value,
                    };
                    if let Some(value) = value {
                        env.set(name, &value);
                    }
                }
            }
            InstructionKind::Add(add) if found.is_none() => found = Some((instruction, add)),
            InstructionKind::Add(_) => return Err(one_add(place)),
            _ => {
                let name = instruction.keyword.raw.to_uppercase();
                return Err(place.error(format!(
                    "{NAME} stage does not meet source-only requirements: unsupported {name} instruction"
                )));
            }
        }
    }
    let (instruction, add) = found.ok_or_else(|| one_add(Place::of(&stage.from)))?;
    let place = Place::of(instruction);
    let [CopySource::Path(word)] = add.sources.as_slice() else {
        return Err(place.error(format!("{NAME} stage must contain exactly one remote ADD source")));
    };
    let path = expanded(&word.raw, &env, escape, place.at(word))?;
    if let Some(git) = git::parse(&path) {
        return git.map(|git| git.source()).map_err(|why| place.at(word).error(why));
    }
    if path.starts_with("http://") || path.starts_with("https://") {
        return Ok(web_source(&path, "").0);
    }
    Err(place.at(word).error(format!("{NAME} stage source must be a single HTTP(S) or Git ADD")))
}

fn one_add(place: Place) -> LowerError {
    place.error(format!("{NAME} stage must contain exactly one remote ADD"))
}

fn expanded(text: &str, env: &Env, escape: char, place: Place) -> Result<String, LowerError> {
    let look_up = |name: &str| env.get(name).map(str::to_owned);
    let expanded = expand_word(text, escape, &look_up);
    expanded.map(|expanded| expanded.value).map_err(|why| place.hinted(why.to_string(), why.hint()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_oci::Platform;

    fn check(text: &str, value: &str, want: Result<Option<&str>, &str>) {
        let parse = kiln_grammar::parse(text);
        let mut options = BuildOptions::new(Platform::new("linux", "amd64", None));
        options.build_args.push((NAME.to_owned(), Some(value.to_owned())));
        let found = match epoch_source(&parse, &options) {
            Ok(None) => Ok(None),
            Ok(Some(EpochSource::Context)) => Ok(Some("context".to_owned())),
            Ok(Some(EpochSource::Timeless)) => Ok(Some("nothing".to_owned())),
            Ok(Some(EpochSource::Source(source))) => Ok(Some(source.identifier)),
            Err(error) => Err(error.to_string()),
        };
        assert_eq!(found, want.map(|o| o.map(str::to_owned)).map_err(str::to_owned), "{text} {value}");
    }

    #[test]
    fn a_time_is_a_number_or_that_of_a_download() {
        let stage = |body: &str| format!("FROM scratch AS src\n{body}\nFROM busybox\n");
        check(&stage(""), "15", Ok(None));
        check(&stage(""), "", Ok(None));
        check(&stage(""), "context", Ok(Some("context")));
        check(&stage(""), "yesterday", Err("invalid SOURCE_DATE_EPOCH: yesterday"));
        let add = "ARG V=1\nADD https://example.com/$V.tar /";
        check(&stage(add), "SRC", Ok(Some("https://example.com/1.tar")));
        check(&stage("ADD https://example.com/x.git /"), "src", Ok(Some("git://example.com/x.git")));
    }

    #[test]
    fn a_stage_that_is_more_than_a_download_has_no_time() {
        let only = "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD";
        for (text, want) in [
            ("FROM busybox AS s\nADD https://x.org/a /", "SOURCE_DATE_EPOCH stage must use FROM scratch"),
            (
                "FROM scratch AS s\nCOPY a /",
                "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported COPY instruction",
            ),
            ("FROM scratch AS s", only),
            ("FROM scratch AS s\nADD https://x.org/a /\nADD https://x.org/b /", only),
            (
                "FROM scratch AS s\nADD https://x.org/a https://x.org/b /",
                "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source",
            ),
            (
                "FROM scratch AS s\nADD a /",
                "SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD",
            ),
        ] {
            check(&format!("{text}\nFROM busybox\n"), "s", Err(want));
        }
    }
}
