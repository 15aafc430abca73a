//! The lint rules that look at the Dockerfile as it is written: names, cases, comments. They do not
//! know values of variables, except the defaults that FROM uses.

use crate::env::Env;
use crate::error::Place;
use crate::lint::Lints;
use kiln_grammar::expand::{Expanded, expand_word};
use kiln_grammar::{Dockerfile, Instruction, InstructionKind};
use kiln_oci::{Platform, Reference};
use std::collections::HashSet;

const SECRETS: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
const NO_SECRETS: [&str; 3] = ["public", "file", "version"];

/// Looks at the whole file.
pub(crate) fn look_at(dockerfile: &Dockerfile, lints: &mut Lints) {
    casing(dockerfile, lints);
    let mut names = HashSet::new();
    for stage in &dockerfile.stages {
        lints.enter(&stage.from.comments);
        stage_names(&stage.from, stage.name.as_deref(), &mut names, lints);
        for instruction in &stage.instructions {
            look_at_one(instruction, lints);
        }
    }
    for instruction in &dockerfile.global_args {
        lints.enter(&instruction.comments);
        description(instruction, lints);
    }
}

/// Looks at the instructions above a line, where the file can be read no further.
pub(crate) fn look_above(dockerfile: &Dockerfile, line: u32, lints: &mut Lints) {
    let mut names = HashSet::new();
    for stage in dockerfile.stages.iter().filter(|stage| stage.from.line < line) {
        lints.enter(&stage.from.comments);
        stage_names(&stage.from, stage.name.as_deref(), &mut names, lints);
        for instruction in stage.instructions.iter().filter(|instruction| instruction.line < line) {
            look_at_one(instruction, lints);
        }
    }
}

fn look_at_one(instruction: &Instruction, lints: &mut Lints) {
    lints.enter(&instruction.comments);
    let place = Place::of(instruction);
    if matches!(instruction.kind, InstructionKind::Maintainer(_)) {
        lints.warn("MaintainerDeprecated", place, || {
            "MAINTAINER is deprecated: use a label for the author".to_owned()
        });
    }
    description(instruction, lints);
}

fn stage_names<'a>(
    from: &Instruction,
    name: Option<&'a str>,
    names: &mut HashSet<&'a str>,
    lints: &mut Lints,
) {
    let InstructionKind::From { alias: Some((written, with)), .. } = &from.kind else { return };
    let (place, keyword) = (Place::of(from), &from.keyword.raw);
    if written.raw.to_lowercase() != written.raw {
        let message = || format!("the name of the stage `{}` should be in lower case", written.raw);
        lints.warn("StageNameCasing", place, message);
    }
    let is_lower = *keyword == keyword.to_lowercase();
    let is_upper = *keyword == keyword.to_uppercase();
    let right = if is_lower { with.raw.to_lowercase() } else { with.raw.to_uppercase() };
    if (is_lower || is_upper) && right != with.raw {
        let message = || format!("`{}` and `{keyword}` are not written in the same case", with.raw);
        lints.warn("FromAsCasing", place, message);
    }
    let Some(name) = name else { return };
    // As BuildKit: comments above a stage say nothing about these two rules.
    lints.enter(&[]);
    if ["context", "scratch"].contains(&name) {
        lints.warn("ReservedStageName", place, || {
            format!("`{name}` is a reserved word, and no good name for a stage")
        });
    }
    if !names.insert(name) {
        lints.warn("DuplicateStageName", place, || format!("there is another stage called `{name}` already"));
    }
    lints.enter(&from.comments);
    let comment_is_about_it = |comment: &String| comment.trim().split(' ').next() == Some(name);
    if let Some(comment) = about(from).filter(|comment| !comment_is_about_it(comment)) {
        let message = || format!("the comment on the stage `{name}` should begin with its name: `{comment}`");
        lints.warn("InvalidDefinitionDescription", place, message);
    }
}

/// The comment right above an instruction, unless it is one for a tool.
fn about(instruction: &Instruction) -> Option<&String> {
    instruction.comments.last().filter(|comment| !comment.trim().starts_with("check="))
}

fn description(instruction: &Instruction, lints: &mut Lints) {
    let InstructionKind::Arg(args) = &instruction.kind else { return };
    let Some((name, _)) = args.first() else { return };
    let is_about_it = |comment: &String| {
        let first = comment.trim().split(' ').next();
        args.iter().any(|(name, _)| first == Some(name.raw.as_str()))
    };
    if let Some(comment) = about(instruction).filter(|comment| !is_about_it(comment)) {
        let message =
            || format!("the comment on the argument `{}` should begin with its name: `{comment}`", name.raw);
        lints.warn("InvalidDefinitionDescription", Place::of(instruction), message);
    }
}

/// All instructions are written in the case that most are written in.
fn casing(dockerfile: &Dockerfile, lints: &mut Lints) {
    let all =
        || dockerfile.stages.iter().flat_map(|stage| std::iter::once(&stage.from).chain(&stage.instructions));
    let lower = all().filter(|i| i.keyword.raw == i.keyword.raw.to_lowercase()).count();
    let upper = all().filter(|i| i.keyword.raw == i.keyword.raw.to_uppercase()).count();
    for instruction in all() {
        let written = &instruction.keyword.raw;
        let (right, case) =
            if lower > upper { (written.to_lowercase(), "lower") } else { (written.to_uppercase(), "upper") };
        if *written != right {
            lints.enter(&[]);
            let message = || format!("`{written}` should be in {case} case, as most instructions are");
            lints.warn("ConsistentInstructionCasing", Place::of(instruction), message);
        }
    }
}

/// Each FROM still names an image when no build argument is given.
pub(crate) fn default_bases(dockerfile: &Dockerfile, defaults: &Env, lints: &mut Lints) {
    for stage in &dockerfile.stages {
        let InstructionKind::From { image, .. } = &stage.from.kind else { continue };
        let look_up = |name: &str| defaults.get(name).map(str::to_owned);
        let Ok(expanded) = expand_word(&image.raw, dockerfile.directives.escape, &look_up) else { return };
        if expanded.value.parse::<Reference>().is_err() {
            lints.enter(&[]);
            let message =
                || format!("with the defaults of its arguments, `{}` names no base image", image.raw);
            lints.warn("InvalidDefaultArgInFrom", Place::of(&stage.from), message);
        }
    }
}

/// FROM uses an argument that nobody has declared.
pub(crate) fn undeclared(name: &str, place: Place, lints: &mut Lints, hint: impl FnOnce() -> Option<String>) {
    let message = || format!("the argument `{name}` is not declared before FROM");
    lints.warn_with("UndefinedArgInFrom", place, message, hint);
}

/// The platform of FROM is one that it has anyway, or always the same.
pub(crate) fn platform_flag(
    written: &str,
    expanded: &Expanded,
    stage: &str,
    global: &Env,
    place: Place,
    lints: &mut Lints,
) {
    let only_target = expanded.used == ["TARGETPLATFORM"] && expanded.unmatched.is_empty();
    if only_target && global.get("TARGETPLATFORM") == Some(&expanded.value) {
        let message = || format!("--platform={written} says what is so anyway");
        lints.warn("RedundantTargetPlatform", place, message);
    }
    if !expanded.used.is_empty() || !expanded.unmatched.is_empty() {
        return;
    }
    let Ok(platform) = expanded.value.parse::<Platform>() else { return };
    if !stage.contains(&platform.os) && !stage.contains(&platform.architecture) {
        let message = || {
            format!(
                "--platform is always `{}`: the image can be built for that platform only",
                expanded.value
            )
        };
        lints.warn("FromPlatformFlagConstDisallowed", place, message);
    }
}

/// A name that sounds like that of a secret.
pub(crate) fn secret_name(instruction: &str, name: &str, place: Place, lints: &mut Lints) {
    let lower = name.to_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    if has(&SECRETS) && !has(&NO_SECRETS) {
        let message = || format!("{instruction} `{name}` looks like a secret, which would stay in the image");
        lints.warn_with("SecretsUsedInArgOrEnv", place, message, || {
            Some("use RUN --mount=type=secret".to_owned())
        });
    }
}
