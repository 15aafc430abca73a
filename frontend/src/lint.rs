//! The lint rules, which of them are on, and the warnings that they gave. What each looks at is where
//! it is looked at. It does not know how warnings are shown.

use crate::error::Place;
use kiln_grammar::{Diagnostic, Severity};
use std::collections::BTreeSet;

/// How many warnings come with a hint.
const HINTS_MAX: usize = 200;

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lint {
    /// Its name.
    pub name: &'static str,
    /// What it asks for.
    pub description: &'static str,
    /// Whether it is off unless asked for.
    pub experimental: bool,
}

const fn rule(name: &'static str, description: &'static str) -> Lint {
    Lint { name, description, experimental: false }
}

/// Every rule, with BuildKit's names.
pub const LINTS: [Lint; 22] = [
    rule("StageNameCasing", "names of stages are in lower case"),
    rule("FromAsCasing", "AS is written in the case of its FROM"),
    rule("NoEmptyContinuation", "continued lines have no empty lines between them"),
    rule("ConsistentInstructionCasing", "all instructions are written in the same case"),
    rule("DuplicateStageName", "no two stages have the same name"),
    rule("ReservedStageName", "no stage is called context or scratch"),
    rule("JSONArgsRecommended", "CMD and ENTRYPOINT are JSON arrays, so that signals reach the program"),
    rule("MaintainerDeprecated", "an author is given by a label, not by MAINTAINER"),
    rule("UndefinedArgInFrom", "FROM uses only arguments that are declared before it"),
    rule("WorkdirRelativePath", "the first WORKDIR is absolute"),
    rule("UndefinedVar", "variables are set before they are used"),
    rule("MultipleInstructionsDisallowed", "a stage has one CMD, ENTRYPOINT and HEALTHCHECK at most"),
    rule("LegacyKeyValueFormat", "ENV and LABEL are written with an equals sign"),
    rule("InvalidBaseImagePlatform", "the base is of the platform that is built for"),
    rule("RedundantTargetPlatform", "FROM does not ask for the platform that it has anyway"),
    rule("SecretsUsedInArgOrEnv", "secrets are mounted, not put into ARG or ENV"),
    rule("InvalidDefaultArgInFrom", "FROM names a base with the defaults of its arguments too"),
    rule("FromPlatformFlagConstDisallowed", "the platform of FROM is no constant"),
    rule("CopyIgnoredFile", "what is copied is not left out by the ignore file"),
    Lint {
        name: "InvalidDefinitionDescription",
        description: "a comment above a stage or an argument begins with its name",
        experimental: true,
    },
    rule("ExposeProtoCasing", "the protocol of a port is in lower case"),
    rule("ExposeInvalidFormat", "EXPOSE names ports of the container only"),
];

/// Which rules are on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LintOptions {
    skip: BTreeSet<String>,
    skip_all: bool,
    experimental: BTreeSet<String>,
    experimental_all: bool,
    pub is_error: bool,
}

impl LintOptions {
    /// Reads `skip=A,B;error=true;experimental=all`.
    pub(crate) fn parse(text: &str) -> Result<LintOptions, String> {
        let mut options = LintOptions::default();
        if text.is_empty() {
            return Ok(options);
        }
        for part in text.split(';').map(str::trim) {
            let (key, value) =
                part.split_once('=').ok_or_else(|| format!("invalid check option {part:?}"))?;
            let value = value.trim();
            let names = || value.split(',').map(|name| name.trim().to_owned()).collect();
            match key.trim() {
                "skip" if value == "all" => options.skip_all = true,
                "skip" => options.skip = names(),
                "experimental" if value == "all" => options.experimental_all = true,
                "experimental" => options.experimental = names(),
                "error" => {
                    let truth = crate::mount::boolean(value);
                    options.is_error =
                        truth.ok_or_else(|| format!("failed to parse check option {part:?}"))?;
                }
                key => return Err(format!("invalid check option {key:?}")),
            }
        }
        Ok(options)
    }

    fn allows(&self, name: &str) -> bool {
        // As BuildKit: only their own list counts for experimental rules.
        if is_experimental(name) {
            return self.experimental_all || self.experimental.contains(name);
        }
        !self.skip_all && !self.skip.contains(name)
    }
}

fn is_experimental(name: &str) -> bool {
    LINTS.iter().any(|lint| lint.name == name && lint.experimental)
}

/// The warnings so far.
#[derive(Debug, Default)]
pub(crate) struct Lints {
    pub options: LintOptions,
    scope: Option<LintOptions>,
    warnings: Vec<Diagnostic>,
    told: BTreeSet<(u32, &'static str, String)>,
}

impl Lints {
    pub(crate) fn new(options: LintOptions) -> Lints {
        Lints { options, ..Lints::default() }
    }

    /// What follows is about the instruction below these comments, which may say `check=skip=…`.
    pub(crate) fn enter(&mut self, comments: &[String]) {
        let said = comments.iter().filter_map(|comment| comment.trim().strip_prefix("check="));
        self.scope = said.filter_map(|text| LintOptions::parse(text).ok()).next_back();
    }

    /// Warns, if the rule is on.
    pub(crate) fn warn(&mut self, name: &'static str, place: Place, message: impl FnOnce() -> String) {
        self.warn_with(name, place, message, || None);
    }

    /// Warns with a hint, if the rule is on.
    pub(crate) fn warn_with(
        &mut self,
        name: &'static str,
        place: Place,
        message: impl FnOnce() -> String,
        hint: impl FnOnce() -> Option<String>,
    ) {
        let here = self.scope.as_ref();
        let experimental = is_experimental(name);
        let on_here = experimental || here.is_none_or(|scope| !scope.skip_all && !scope.skip.contains(name));
        let asked_here = here.is_some_and(|scope| scope.allows(name));
        if !on_here || !(self.options.allows(name) || asked_here && (experimental || !self.is_skipped(name)))
        {
            return;
        }
        let mut diagnostic = place.diagnostic(Severity::Warning, message());
        diagnostic.rule = Some(name);
        // Hints are searched for among all names: beyond what anybody reads they are left out.
        diagnostic.hint = if self.warnings.len() < HINTS_MAX { hint() } else { None };
        if self.told.insert((diagnostic.line, name, diagnostic.message.clone())) {
            self.warnings.push(diagnostic);
        }
    }

    /// Warns of what BuildKit says nothing about. It belongs to no rule, and never makes a build fail.
    pub(crate) fn note(&mut self, place: Place, message: String, hint: String) {
        let mut diagnostic = place.diagnostic(Severity::Warning, message);
        diagnostic.hint = Some(hint);
        self.warnings.push(diagnostic);
    }

    /// Takes over a warning that was made elsewhere, if its rule is on.
    pub(crate) fn adopt(&mut self, diagnostic: &Diagnostic) {
        if diagnostic.rule.is_none_or(|name| self.options.allows(name)) {
            self.warnings.push(diagnostic.clone());
        }
    }

    /// The warnings, in the order of the lines.
    pub(crate) fn into_warnings(mut self) -> Vec<Diagnostic> {
        self.warnings.sort_by_key(|warning| warning.line);
        self.warnings
    }

    fn is_skipped(&self, name: &str) -> bool {
        self.options.skip_all || self.options.skip.contains(name)
    }
}
