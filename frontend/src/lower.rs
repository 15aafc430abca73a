//! From a parsed Dockerfile to a graph and an image config: the order of the work. It does not know
//! single instructions.

use crate::args;
use crate::contexts::Contexts;
use crate::env::Env;
use crate::epoch;
use crate::error::{LowerError, Place};
use crate::graph::{Graph, NodeId, Scope};
use crate::hints;
use crate::lint::{LintOptions, Lints};
use crate::lint_file;
use crate::options::{BuildOptions, ImageRequest, ResolvedImage};
use crate::resolve::Root;
use crate::stage::StageState;
use kiln_grammar::{Diagnostic, Dockerfile, Parse, Severity};
use kiln_oci::{History, ImageConfig, Platform};
use kiln_solver::{Definition, Edge};

/// Says what images are, an answer for each question in order; an error is a message for people.
pub type Resolver<'r> = dyn FnMut(&[ImageRequest]) -> Vec<Result<ResolvedImage, String>> + 'r;

/// A Dockerfile, lowered.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// What must run, with its target set.
    pub definition: Definition,
    /// The image's config: everything but its layers and times. Its history is whole.
    pub config: ImageConfig,
    /// How many lines of the history, at its beginning, are those of the base image.
    pub base_history_len: usize,
    /// How many layers, at the bottom, are those of the base image.
    pub base_layers_len: usize,
    /// The image's platform.
    pub platform: Platform,
    /// The name of the stage that is built; empty where it is the only one and has no name.
    pub stage: String,
    /// The time that goes for now, in seconds since 1970.
    pub source_date_epoch: Option<i64>,
    /// The warnings, in the order of the lines: those of lint rules, and some that belong to no rule.
    pub warnings: Vec<Diagnostic>,
    /// The build arguments that were given and that nothing declares.
    pub unused_build_args: Vec<UnusedBuildArg>,
}

/// A build argument that changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusedBuildArg {
    /// Its name.
    pub name: String,
    /// The declared name that was probably meant.
    pub near: Option<String>,
}

/// What a look at a Dockerfile without building it has shown.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The warnings of the lint rules, in the order of the lines.
    pub warnings: Vec<Diagnostic>,
    /// Why it can't be built.
    pub error: Option<LowerError>,
}

/// Lowers the stages that the target needs. `resolve` is asked what images are: once, and again only
/// where triggers name more of them.
pub fn lower(
    parse: &Parse,
    options: &BuildOptions,
    resolve: &mut Resolver<'_>,
) -> Result<Lowered, LowerError> {
    lower_telling(parse, options, resolve, &mut Vec::new())
}

/// The same; what was warned of before an error goes to `told`.
pub fn lower_telling(
    parse: &Parse,
    options: &BuildOptions,
    resolve: &mut Resolver<'_>,
    told: &mut Vec<Diagnostic>,
) -> Result<Lowered, LowerError> {
    let (lints, outcome) = attempt(parse, options, false, resolve);
    let is_error = lints.options.is_error;
    let warnings = lints.into_warnings();
    let mut lowered = match outcome {
        Ok(lowered) => lowered,
        Err(error) => {
            told.extend(warnings);
            return Err(error);
        }
    };
    lowered.warnings = warnings;
    let mut rules: Vec<&'static str> = lowered.warnings.iter().filter_map(|warning| warning.rule).collect();
    if is_error && !rules.is_empty() {
        rules.sort_unstable();
        rules.dedup();
        return Err(LowerError::Lint { rules, warnings: lowered.warnings });
    }
    Ok(lowered)
}

/// Looks at every stage, or at those that the target needs if there is one, and makes nothing.
pub fn check(parse: &Parse, options: &BuildOptions, resolve: &mut Resolver<'_>) -> Checked {
    let (lints, outcome) = attempt(parse, options, options.target.is_none(), resolve);
    Checked { warnings: lints.into_warnings(), error: outcome.err() }
}

/// The state of the work.
pub(crate) struct Lowering<'a> {
    pub options: &'a BuildOptions,
    pub dockerfile: &'a Dockerfile,
    pub escape: char,
    /// The arguments that stages may declare.
    pub global: Env,
    pub epoch: Option<i64>,
    pub contexts: Contexts<'a>,
    pub graph: Graph<'a>,
    /// What nodes begin with, by their numbers.
    pub roots: Vec<Option<Root<'a>>>,
    /// What has become of nodes, by their numbers.
    pub states: Vec<Option<StageState>>,
    pub lints: Lints,
    pub definition: Definition,
    /// The main context's place in the graph, once it is there.
    pub context_edge: Option<Edge>,
    pub proxies: Vec<(String, String)>,
    /// The patterns of the ignore file, for the rule that looks at them.
    pub ignored: Option<kiln_solver::pattern::PatternList>,
    /// How many bytes the instructions have come to.
    pub made: usize,
}

fn attempt(
    parse: &Parse,
    options: &BuildOptions,
    all: bool,
    resolve: &mut Resolver<'_>,
) -> (Lints, Result<Lowered, LowerError>) {
    let mut lints = match lint_options(parse, options) {
        Ok(options) => Lints::new(options),
        Err(error) => return (Lints::default(), Err(error)),
    };
    for diagnostic in &parse.diagnostics {
        if diagnostic.severity == Severity::Error {
            lint_file::look_above(&parse.dockerfile, diagnostic.line, &mut lints);
            return (lints, Err(LowerError::Diagnostic(diagnostic.clone())));
        }
        lints.adopt(diagnostic);
    }
    if let Some(syntax) = &parse.dockerfile.directives.syntax
        && options.build_arg("BUILDKIT_SYNTAX").is_none()
        && hints::foreign_frontend(&syntax.raw)
    {
        let message = format!("kiln reads the Dockerfile itself: the frontend {} is not used", syntax.raw);
        let hint = "what only that frontend knows is not understood".to_owned();
        lints.note(Place::of_line(syntax.span, 1), message, hint);
    }
    let mut lowering = match prepare(parse, options, &mut lints) {
        Ok(lowering) => lowering,
        Err(error) => return (lints, Err(error)),
    };
    lowering.lints = lints;
    let outcome = lowering.lower(all, resolve);
    (lowering.lints, outcome)
}

/// `# check=`, or the build argument that goes before it.
fn lint_options(parse: &Parse, options: &BuildOptions) -> Result<LintOptions, LowerError> {
    let directive = parse.dockerfile.directives.check.as_ref();
    let given = options.build_arg("BUILDKIT_DOCKERFILE_CHECK");
    // As BuildKit: of a directive only what stands before the first blank counts.
    let written = directive.and_then(|word| word.raw.split_whitespace().next());
    let text = given.or(written).unwrap_or_default();
    LintOptions::parse(text).map_err(|why| {
        let span = directive.map(|word| word.span).unwrap_or_default();
        Place::of_line(span, 1).error(format!("failed to parse check options: {why}"))
    })
}

pub(crate) fn prepare<'a>(
    parse: &'a Parse,
    options: &'a BuildOptions,
    lints: &mut Lints,
) -> Result<Lowering<'a>, LowerError> {
    let dockerfile = &parse.dockerfile;
    let Some(last) = dockerfile.stages.last() else {
        return Err(Place::default().error("dockerfile contains no stages to build"));
    };
    lint_file::look_at(dockerfile, lints);
    let target = options.target.as_deref().or(last.name.as_deref()).unwrap_or_default();
    let platform = args::of_platform(options, target);
    if let Ok(defaults) = args::global(dockerfile, &platform, None) {
        lint_file::default_bases(dockerfile, &defaults, lints);
    }
    let mut global = args::global(dockerfile, &platform, Some(options))?;
    epoch::epoch_source(parse, options)?;
    let epoch = epoch::settled(options, &mut global);
    let contexts = Contexts::new(options);
    let escape = dockerfile.directives.escape;
    let scope = Scope { options, contexts: &contexts, global: &global, escape };
    let graph = Graph::new(dockerfile, &scope, lints)?;
    Ok(Lowering {
        options,
        dockerfile,
        escape,
        global,
        epoch,
        contexts,
        graph,
        roots: Vec::new(),
        states: Vec::new(),
        lints: Lints::default(),
        definition: Definition::new(),
        context_edge: None,
        proxies: args::proxies(options),
        ignored: ignored(options),
        made: 0,
    })
}

/// The patterns of the ignore file, unless they have exceptions: then what is left out can't be said
/// without looking at the files.
fn ignored(options: &BuildOptions) -> Option<kiln_solver::pattern::PatternList> {
    if options.ignore.is_empty() || options.ignore.iter().any(|pattern| pattern.negated) {
        return None;
    }
    kiln_solver::pattern::PatternList::parse(options.ignore.iter().map(|pattern| &pattern.pattern)).ok()
}

impl Lowering<'_> {
    fn lower(&mut self, all: bool, resolver: &mut Resolver<'_>) -> Result<Lowered, LowerError> {
        let target = self.graph.target(self.options.target.as_deref())?;
        let needed = self.resolve(target, all, resolver)?;
        self.states.resize_with(needed.len(), || None);
        for id in self.graph.order(needed.len()) {
            if needed[id.0] && self.graph.node(id).is_stage {
                self.run_stage(id)?;
            }
        }
        let state = self.states[target.0].take();
        let state = state.ok_or_else(|| Place::default().error("the target was not lowered"))?;
        Ok(self.finish(target, state))
    }

    fn finish(&mut self, target: NodeId, state: StageState) -> Lowered {
        let (history, base_history_len, base_layers_len) = self.history(target, &state);
        let mut config = (*state.image).clone();
        config.config.env = state.image_env.to_list();
        config.config.labels.extend(self.options.labels.iter().cloned());
        config.history = history;
        config.created = None;
        for words in [&mut config.config.entrypoint, &mut config.config.cmd] {
            *words = words.take().filter(|words| !words.is_empty());
        }
        if self.options.explicit_platform || config.os.is_empty() || config.architecture.is_empty() {
            put_platform(&mut config, &self.options.target_platform);
        }
        let platform = config.platform();
        put_platform(&mut config, &platform);
        let mut definition = std::mem::take(&mut self.definition);
        definition.target = state.fs;
        Lowered {
            definition,
            platform,
            config,
            base_history_len,
            base_layers_len,
            stage: self.graph.node(target).name.clone(),
            source_date_epoch: self.epoch,
            warnings: Vec::new(),
            unused_build_args: self.unused_build_args(),
        }
    }

    fn unused_build_args(&self) -> Vec<UnusedBuildArg> {
        let stages = self.dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
        let written = self.dockerfile.global_args.iter().chain(stages).map(|instruction| &instruction.kind);
        let commands = self.graph.nodes.iter().flat_map(|node| &node.commands);
        let triggers = commands.filter(|command| command.is_trigger).map(|command| &command.instruction.kind);
        hints::unused_build_args(&self.options.build_args, written.chain(triggers))
    }

    /// The history of a stage: that of its base image, of the stages that it is made from, its own;
    /// and how many lines and layers are those of the base image.
    fn history(&self, target: NodeId, state: &StageState) -> (Vec<History>, usize, usize) {
        let mut parts = vec![&state.history];
        let mut at = target;
        while let Some(base) = self.graph.node(at).base {
            at = base;
            parts.extend(self.states[at.0].as_ref().map(|state| &state.history));
        }
        let root = self.roots[at.0].as_ref().map(|root| &root.config);
        let mut history = root.map(|config| config.history.clone()).unwrap_or_default();
        let (lines, layers) = (history.len(), root.map_or(0, |config| config.rootfs.diff_ids.len()));
        for part in parts.iter().rev() {
            history.extend(part.iter().cloned());
        }
        (history, lines, layers)
    }
}

/// Makes a config say a platform. A variant or version of the same architecture stays if none is given.
fn put_platform(config: &mut ImageConfig, platform: &Platform) {
    let same = config.os == platform.os && config.architecture == platform.architecture;
    config.os.clone_from(&platform.os);
    config.architecture.clone_from(&platform.architecture);
    if platform.variant.is_some() || !same {
        config.variant.clone_from(&platform.variant);
    }
    if platform.os_version.is_some() || !same {
        config.os_version.clone_from(&platform.os_version);
    }
    if !platform.os_features.is_empty() {
        config.os_features.clone_from(&platform.os_features);
    }
}
