//! Why a name means nothing where it stands: it is set later, or in another stage, or written
//! otherwise. It does not know what names are used for.

use crate::lower::UnusedBuildArg;
use kiln_grammar::suggest::nearest;
use kiln_grammar::{Dockerfile, Instruction, InstructionKind};
use std::collections::{BTreeSet, HashMap};

/// Where a Dockerfile gives names to stages and variables.
#[derive(Default)]
pub(crate) struct Names<'a> {
    /// The lines where each variable is set, and in which stage; `None` is before the first FROM.
    variables: HashMap<&'a str, Vec<(u32, Option<usize>)>>,
    /// The stages that have names, with their lines.
    stages: Vec<(&'a str, u32)>,
    /// The line of each stage's FROM.
    begins: Vec<u32>,
}

impl<'a> Names<'a> {
    /// Gathers them.
    pub(crate) fn of(dockerfile: &'a Dockerfile) -> Names<'a> {
        let mut names = Names::default();
        for instruction in &dockerfile.global_args {
            names.note(instruction, None);
        }
        for (index, stage) in dockerfile.stages.iter().enumerate() {
            names.begins.push(stage.from.line);
            names.stages.extend(stage.name.as_deref().map(|name| (name, stage.from.line)));
            for instruction in &stage.instructions {
                names.note(instruction, Some(index));
            }
        }
        names
    }

    /// Why a variable has no value in a line of a stage; `known` are those that have one.
    pub(crate) fn variable<'n>(
        &self,
        name: &str,
        line: u32,
        known: impl Iterator<Item = &'n str>,
    ) -> Option<String> {
        let here = self.begins.partition_point(|begin| *begin <= line).checked_sub(1);
        let places = self.variables.get(name).map(Vec::as_slice).unwrap_or_default();
        if let Some((later, _)) = places.iter().find(|(at, stage)| *stage == here && *at > line) {
            return Some(format!("{name} is set in line {later}, after its use: move that line up"));
        }
        if places.iter().any(|(_, stage)| stage.is_none()) {
            return Some(format!(
                "an ARG before the first FROM counts in FROM only: write ARG {name} in this stage too"
            ));
        }
        if let Some((at, _)) = places.first() {
            return Some(format!("{name} is set in line {at}, in another stage: each has its own variables"));
        }
        nearest(name, known).map(|near| format!("did you mean ${near}?"))
    }

    /// Why an argument has no value in a FROM.
    pub(crate) fn argument_of_from<'n>(
        &self,
        name: &str,
        known: impl Iterator<Item = &'n str>,
    ) -> Option<String> {
        let places = self.variables.get(name).map(Vec::as_slice).unwrap_or_default();
        if places.iter().any(|(_, stage)| stage.is_none()) {
            return Some(format!("give it a default, as in ARG {name}=VALUE, or --build-arg {name}=VALUE"));
        }
        if let Some((at, _)) = places.first() {
            return Some(format!(
                "{name} is set in line {at}, inside a stage: FROM sees only what ARG declares before the \
                 first FROM"
            ));
        }
        nearest(name, known).map(|near| format!("did you mean ${near}?"))
    }

    /// Why a name that stands in a line is no stage: it comes later, or is written otherwise.
    pub(crate) fn stage(&self, name: &str, line: u32) -> Option<String> {
        let is_it = |stage: &&(&str, u32)| stage.0.eq_ignore_ascii_case(name);
        if let Some((known, _)) = self.stages.iter().find(|stage| stage.1 < line && is_it(stage)) {
            return (*known != name).then(|| format!("the stage is called {known}, in lower case"));
        }
        if let Some((name, at)) = self.stages.iter().find(|stage| stage.1 >= line && is_it(stage)) {
            return Some(match *at == line {
                true => format!("a stage can't be made from itself: {name} begins here"),
                false => format!("the stage {name} begins in line {at}, after this: move it up"),
            });
        }
        if name.contains(['/', ':', '@']) {
            return None;
        }
        let earlier = self.stages.iter().filter(|stage| stage.1 < line).map(|stage| stage.0);
        nearest(name, earlier).map(|near| format!("did you mean the stage {near}?"))
    }

    /// The name of a stage that was probably meant.
    pub(crate) fn near_stage(&self, name: &str) -> Option<&str> {
        nearest(name, self.stages.iter().map(|stage| stage.0))
    }

    /// The stages that can be named, as a list for people.
    pub(crate) fn listed(&self) -> String {
        const SHOWN: usize = 12;
        let names: Vec<&str> = self.stages.iter().map(|stage| stage.0).take(SHOWN).collect();
        let more = if self.stages.len() > SHOWN { ", …" } else { "" };
        format!("{}{more}", names.join(", "))
    }

    fn note(&mut self, instruction: &'a Instruction, stage: Option<usize>) {
        let line = instruction.line;
        let mut add = |name: &'a str| self.variables.entry(name).or_default().push((line, stage));
        match &instruction.kind {
            InstructionKind::Arg(args) => args.iter().for_each(|(name, _)| add(&name.raw)),
            InstructionKind::Env(pairs) => pairs.iter().for_each(|pair| add(&pair.key.raw)),
            _ => {}
        }
    }
}

/// A frontend that a Dockerfile is written for and that is not Docker's, so that kiln may read it wrongly.
pub(crate) fn foreign_frontend(reference: &str) -> bool {
    let name = reference.split(['@', ' ']).next().unwrap_or_default();
    let name =
        name.rsplit_once(':').map_or(name, |(name, tag)| if tag.contains('/') { reference } else { name });
    let name = name.trim_start_matches("docker.io/");
    !["docker/dockerfile", "docker/dockerfile-upstream", "dockerfile.v0"].contains(&name)
}

/// What is wrong with a command that looks like a JSON array and is none; nothing where it does not
/// look like one, as `[ -f "$x" ] && make`.
pub(crate) fn broken_array(text: &str) -> Option<&'static str> {
    const QUOTES: [char; 5] = ['"', '\'', '\u{201c}', '\u{201d}', '\u{2019}'];
    let inside = text.trim().strip_prefix('[')?;
    if !inside.trim_start().starts_with(QUOTES) {
        return None;
    }
    let is_listed = QUOTES.iter().any(|quote| inside.contains(&format!("{quote},")));
    if inside.starts_with(char::is_whitespace) && !is_listed {
        return None;
    }
    Some(if inside.contains(['\u{201c}', '\u{201d}']) {
        "its quotes are not the plain \" that JSON has"
    } else if inside.trim_start().starts_with('\'') {
        "in JSON strings stand in double quotes: [\"a\", \"b\"]"
    } else if inside.trim_end().ends_with(",]") || inside.trim_end().ends_with(", ]") {
        "JSON has no comma after the last string"
    } else {
        "it is not valid JSON: each string in double quotes, commas between, \\ written twice, ] at the end"
    })
}

/// The build arguments that were given, that no ARG of the Dockerfile or of a base's triggers declares,
/// and that mean nothing to the builder itself.
pub(crate) fn unused_build_args<'i>(
    given: &[(String, Option<String>)],
    instructions: impl Iterator<Item = &'i InstructionKind>,
) -> Vec<UnusedBuildArg> {
    let mut declared: BTreeSet<&str> = BTreeSet::new();
    for kind in instructions {
        let kind = match kind {
            InstructionKind::Onbuild { instruction: Some(trigger), .. } => trigger,
            other => other,
        };
        if let InstructionKind::Arg(args) = kind {
            declared.extend(args.iter().map(|(name, _)| name.raw.as_str()));
        }
    }
    let unused = |name: &str| !declared.contains(name) && !is_predefined(name);
    let names: BTreeSet<&str> = given.iter().map(|(name, _)| name.as_str()).filter(|n| unused(n)).collect();
    let told = |name: &str| UnusedBuildArg {
        name: name.to_owned(),
        near: nearest(name, declared.iter().copied()).map(str::to_owned),
    };
    names.into_iter().map(told).collect()
}

/// Whether a build argument means something without being declared.
fn is_predefined(name: &str) -> bool {
    const PLATFORM: [&str; 5] = ["PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT"];
    let platform = name.strip_prefix("TARGET").or_else(|| name.strip_prefix("BUILD"));
    let is_proxy = name.to_ascii_lowercase().strip_suffix("_proxy").is_some();
    is_proxy
        || name.starts_with("BUILDKIT_")
        || name == "SOURCE_DATE_EPOCH"
        || name == "TARGETSTAGE"
        || platform.is_some_and(|rest| PLATFORM.contains(&rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "ARG GLOBAL=1\nFROM scratch AS first\nENV OTHER=1\nFROM scratch AS second\n\
                        WORKDIR /$X\nARG LATER=1\n";

    fn check(question: impl Fn(&Names<'_>) -> Option<String>, want: Option<&str>) {
        let parse = kiln_grammar::parse(TEXT);
        assert_eq!(question(&Names::of(&parse.dockerfile)).as_deref(), want);
    }

    #[test]
    fn a_variable_without_a_value_is_explained() {
        let known = || ["LABER"].into_iter();
        for (name, want) in [
            ("LATER", Some("LATER is set in line 6, after its use: move that line up")),
            (
                "GLOBAL",
                Some("an ARG before the first FROM counts in FROM only: write ARG GLOBAL in this stage too"),
            ),
            ("OTHER", Some("OTHER is set in line 3, in another stage: each has its own variables")),
            ("LABEL", Some("did you mean $LABER?")),
            ("NOTHING", None),
        ] {
            check(|names| names.variable(name, 5, known()), want);
        }
        let inside = "OTHER is set in line 3, inside a stage: FROM sees only what ARG declares before the first \
                      FROM";
        check(|names| names.argument_of_from("OTHER", known()), Some(inside));
        let default = "give it a default, as in ARG GLOBAL=VALUE, or --build-arg GLOBAL=VALUE";
        check(|names| names.argument_of_from("GLOBAL", known()), Some(default));
    }

    #[test]
    fn a_shell_test_is_no_broken_array() {
        for (text, broken) in [
            ("['ls', '-l']", true),
            ("[\"ls\",]", true),
            ("[ 'ls', '-l' ]", true),
            ("[“ls”]", true),
            ("[\"ls\" \"-l\"]", true),
            ("[ -f \"$x\" ] && make", false),
            ("[ \"$x\" = 1 ] && make", false),
            ("[[ $x ]]", false),
            ("ls", false),
        ] {
            assert_eq!(broken_array(text).is_some(), broken, "{text}");
        }
    }

    #[test]
    fn only_dockers_own_frontends_are_what_kiln_is() {
        for (reference, foreign) in [
            ("docker/dockerfile:1", false),
            ("docker.io/docker/dockerfile:1.20-labs@sha256:00", false),
            ("dockerfile.v0", false),
            ("localhost:5000/my/frontend", true),
            ("earthly/dockerfile:1", true),
        ] {
            assert_eq!(foreign_frontend(reference), foreign, "{reference}");
        }
    }

    #[test]
    fn build_arguments_that_nothing_declares_are_told() {
        let given = ["VERSON", "BUILDKIT_INLINE_CACHE", "http_proxy", "TARGETARCH", "INNER", "VERSION"];
        let given: Vec<_> = given.map(|name| (name.to_owned(), None)).into();
        let parse = kiln_grammar::parse("ARG VERSION\nFROM scratch\nONBUILD ARG INNER\n");
        let stages = parse.dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
        let all = parse.dockerfile.global_args.iter().chain(stages).map(|i| &i.kind);
        let want = UnusedBuildArg { name: "VERSON".to_owned(), near: Some("VERSION".to_owned()) };
        assert_eq!(unused_build_args(&given, all), [want]);
    }

    #[test]
    fn a_name_that_is_no_stage_is_explained() {
        for (name, line, want) in [
            ("second", 2, Some("the stage second begins in line 4, after this: move it up")),
            ("second", 4, Some("a stage can't be made from itself: second begins here")),
            ("First", 5, Some("the stage is called first, in lower case")),
            ("fisrt", 5, Some("did you mean the stage first?")),
            ("example.com/first", 5, None),
            ("debian", 5, None),
        ] {
            check(|names| names.stage(name, line), want);
        }
    }
}
