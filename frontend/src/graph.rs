//! The stages and the images that they need, as nodes, and who needs whom. It does not know what
//! instructions do.

use crate::contexts::Contexts;
use crate::env::Env;
use crate::error::{LowerError, Place};
use crate::hints::Names;
use crate::lint::Lints;
use crate::lint_file;
use crate::options::{BuildOptions, NamedContext};
use crate::stage_context::StandIns;
use kiln_grammar::ast::CopySource;
use kiln_grammar::expand::{Expanded, expand_word};
use kiln_grammar::{Dockerfile, Instruction, InstructionKind, Stage, Word};
use kiln_oci::Platform;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// The number of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(pub usize);

/// A stage, or an image or context that an instruction names.
pub(crate) struct Node<'a> {
    /// Whether it is a stage of the Dockerfile.
    pub is_stage: bool,
    /// Its name for people, `stage-2` where it has none.
    pub name: String,
    /// What it is made from, variables replaced.
    pub base_name: String,
    /// The platform that it asks for.
    pub platform: Option<Platform>,
    /// The stage that it is made from.
    pub base: Option<NodeId>,
    /// The context that takes its place.
    pub context: Option<&'a NamedContext>,
    /// Its instructions, the triggers of its base first.
    pub commands: Vec<Command<'a>>,
    /// What its instructions copy or mount from.
    pub needs: Vec<(NodeId, Place)>,
    /// Where it is named: the instruction, and the word in it.
    pub place: Place,
    pub word: Place,
    /// Whether the triggers of its base are among its instructions.
    pub has_triggers: bool,
    /// Whether what is known of it from before is not used.
    pub ignore_cache: bool,
}

/// An instruction, and the nodes that it copies or mounts from.
#[derive(Clone)]
pub(crate) struct Command<'a> {
    pub instruction: Cow<'a, Instruction>,
    /// One for COPY with `--from`; one for each mount of RUN.
    pub sources: Vec<Option<NodeId>>,
    pub is_trigger: bool,
}

/// The nodes.
pub(crate) struct Graph<'a> {
    pub nodes: Vec<Node<'a>>,
    by_name: HashMap<String, NodeId>,
    images: HashMap<String, NodeId>,
    stages: usize,
    /// The stages that stand for names.
    pub stand_ins: StandIns<'a>,
    /// Where names are given, to explain those that are not known.
    pub names: Names<'a>,
}

/// What FROM is expanded with.
pub(crate) struct Scope<'s, 'a> {
    pub options: &'a BuildOptions,
    pub contexts: &'s Contexts<'a>,
    pub global: &'s Env,
    pub escape: char,
}

impl<'a> Graph<'a> {
    /// The stages of a Dockerfile with what they need.
    pub(crate) fn new(
        dockerfile: &'a Dockerfile,
        scope: &Scope<'_, 'a>,
        lints: &mut Lints,
    ) -> Result<Graph<'a>, LowerError> {
        let stages = dockerfile.stages.len();
        let mut graph = Graph {
            nodes: Vec::with_capacity(stages),
            by_name: HashMap::new(),
            images: HashMap::new(),
            stages,
            stand_ins: StandIns::default(),
            names: Names::of(dockerfile),
        };
        let declared = declared(dockerfile);
        for (index, stage) in dockerfile.stages.iter().enumerate() {
            lints.enter(&stage.from.comments);
            let seen = Seen { declared: &declared, names: &graph.names };
            let node = stage_node(index, stage, scope, seen, lints)?;
            graph.add_stage(node, stage.name.as_deref());
        }
        graph.put_stand_ins(scope.contexts, &scope.options.target_platform)?;
        for (index, stage) in dockerfile.stages.iter().enumerate() {
            if graph.nodes[index].context.is_none() {
                graph.add_commands(NodeId(index), &stage.instructions)?;
            }
        }
        graph.refuse_circles()?;
        // As BuildKit: a mount counts as something besides, even one that is of no stage or image.
        let has_mounts = |command: &Command<'_>| match &command.instruction.kind {
            InstructionKind::Run(run) => !run.mounts.is_empty(),
            _ => false,
        };
        if let [only] = graph.nodes.as_mut_slice()
            && !only.commands.iter().any(has_mounts)
        {
            only.name.clear();
        }
        Ok(graph)
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node<'a> {
        &self.nodes[id.0]
    }

    /// The stage that is built for.
    pub(crate) fn target(&self, name: Option<&str>) -> Result<NodeId, LowerError> {
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Ok(self.standing_for(NodeId(self.stages - 1)));
        };
        if let Some(id) = self.by_name.get(&name.to_lowercase()) {
            return Ok(self.standing_for(*id));
        }
        let place = self.nodes.first().map(|node| node.place).unwrap_or_default();
        let message = format!("target stage {name:?} could not be found");
        let listed = self.names.listed();
        Err(match self.names.near_stage(name) {
            Some(near) => place.hinted(message, format!("did you mean {near}?")),
            None if listed.is_empty() => place.hinted(message, "no stage has a name"),
            None => place.hinted(message, format!("the stages are {listed}")),
        })
    }

    /// Which nodes a node needs, itself among them.
    pub(crate) fn needed_by(&self, target: NodeId) -> Vec<bool> {
        let mut needed = vec![false; self.nodes.len()];
        let mut open = vec![target];
        while let Some(id) = open.pop() {
            if !std::mem::replace(&mut needed[id.0], true) {
                let node = self.node(id);
                open.extend(node.base);
                open.extend(node.needs.iter().map(|(id, _)| *id));
            }
        }
        needed
    }

    /// Puts the triggers of a base before the instructions of a node. Says whether they need nodes.
    pub(crate) fn add_triggers(
        &mut self,
        id: NodeId,
        triggers: Vec<Instruction>,
    ) -> Result<bool, LowerError> {
        let mut commands = Vec::with_capacity(triggers.len());
        for trigger in triggers {
            let command = self.command(id, Cow::Owned(trigger), true)?;
            commands.push(command);
        }
        let needs_more = commands.iter().any(|command| command.sources.iter().any(Option::is_some));
        self.nodes[id.0].commands.splice(0..0, commands);
        Ok(needs_more)
    }

    fn add_stage(&mut self, mut node: Node<'a>, name: Option<&str>) {
        let id = NodeId(self.nodes.len());
        if node.context.is_none() {
            // As BuildKit: other than after --from, only the name in lower case is the stage's.
            node.base = self.by_name.get(&node.base_name).copied();
        }
        self.nodes.push(node);
        if let Some(name) = name {
            self.by_name.insert(name.to_owned(), id);
        }
    }

    fn add_commands(&mut self, id: NodeId, instructions: &'a [Instruction]) -> Result<(), LowerError> {
        let mut commands = Vec::with_capacity(instructions.len());
        for instruction in instructions {
            commands.push(self.command(id, Cow::Borrowed(instruction), false)?);
        }
        self.nodes[id.0].commands = commands;
        Ok(())
    }

    fn command(
        &mut self,
        id: NodeId,
        instruction: Cow<'a, Instruction>,
        is_trigger: bool,
    ) -> Result<Command<'a>, LowerError> {
        let place = Place::of(&instruction);
        let sources = match &instruction.kind {
            InstructionKind::Copy(copy) => match &copy.from {
                Some(from) if !from.raw.is_empty() => {
                    vec![Some(self.copy_source(&from.raw, place.at(from))?)]
                }
                _ => Vec::new(),
            },
            InstructionKind::Run(run) => {
                let from = |mount: &kiln_grammar::ast::Mount| {
                    let from = mount.fields.iter().rev().find(|(key, _)| key == "from")?.1.clone()?;
                    (!from.is_empty()).then(|| (from, place.at(&mount.value)))
                };
                let names: Vec<Option<(String, Place)>> = run.mounts.iter().map(from).collect();
                let mut named =
                    |name: Option<(String, Place)>| name.map(|(name, at)| self.named(&name, at)).transpose();
                names.into_iter().map(&mut named).collect::<Result<_, _>>()?
            }
            _ => Vec::new(),
        };
        let place = match &instruction.kind {
            InstructionKind::Copy(copy) => copy.from.as_ref().map_or(place, |from| place.at(from)),
            _ => place,
        };
        let needs = sources.iter().flatten().map(|source| (*source, place));
        self.nodes[id.0].needs.extend(needs);
        Ok(Command { instruction, sources, is_trigger })
    }

    /// The stage with a number or a name, or the image.
    fn copy_source(&mut self, from: &str, place: Place) -> Result<NodeId, LowerError> {
        if from.contains('$') {
            return Err(place.error(
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from \
                 global scope as a workaround",
            ));
        }
        let Ok(number) = from.parse::<i64>() else { return self.named(from, place) };
        let index = usize::try_from(number).ok().filter(|index| *index < self.stages);
        index.map(|index| self.standing_for(NodeId(index))).ok_or_else(|| {
            let hint = format!("stages are counted from 0; the last is {}", self.stages.saturating_sub(1));
            place.hinted(format!("invalid stage index {number}"), hint)
        })
    }

    fn named(&mut self, name: &str, place: Place) -> Result<NodeId, LowerError> {
        if let Some(id) = self.by_name.get(&name.to_lowercase()).or_else(|| self.images.get(name)) {
            return Ok(self.standing_for(*id));
        }
        if let Some(id) = self.stand_in_of(name)? {
            return Ok(id);
        }
        let id = NodeId(self.nodes.len());
        self.nodes.push(Node {
            is_stage: false,
            name: String::new(),
            base_name: name.to_owned(),
            platform: None,
            base: None,
            context: None,
            commands: Vec::new(),
            needs: Vec::new(),
            place,
            word: place,
            has_triggers: true,
            ignore_cache: false,
        });
        self.images.insert(name.to_owned(), id);
        Ok(id)
    }

    /// No stage copies from itself, by whatever way round.
    fn refuse_circles(&self) -> Result<(), LowerError> {
        let mut seen = vec![false; self.nodes.len()];
        let mut on_path = vec![false; self.nodes.len()];
        for root in 0..self.nodes.len() {
            let mut path = if seen[root] { Vec::new() } else { vec![(root, 0)] };
            while let Some((at, next)) = path.last_mut() {
                let at = *at;
                seen[at] = true;
                on_path[at] = true;
                let node = &self.nodes[at];
                let base = node.base.filter(|_| self.has_stand_ins()).map(|base| (base, node.place));
                let mut needs = node.needs.iter().copied().chain(base);
                let Some((need, place)) = needs.nth(*next) else {
                    on_path[at] = false;
                    path.pop();
                    continue;
                };
                *next += 1;
                if on_path[need.0] {
                    let name = &self.nodes[root].name;
                    let hint = "a stage can't have files of one that is made from it";
                    return Err(place.hinted(format!("circular dependency detected on stage: {name}"), hint));
                }
                if !seen[need.0] {
                    path.push((need.0, 0));
                }
            }
        }
        Ok(())
    }
}

impl Node<'_> {
    /// How many steps are counted: the base, if it is fetched, and what makes layers.
    pub(crate) fn steps(&self) -> usize {
        if !self.is_stage || self.context.is_some() {
            return 0;
        }
        let is_step = |command: &&Command<'_>| {
            use InstructionKind::{Add, Copy, Run, Workdir};
            matches!(command.instruction.kind, Add(_) | Copy(_) | Run(_) | Workdir(_))
        };
        let base = usize::from(self.base.is_none() && self.base_name != "scratch");
        base + self.commands.iter().filter(is_step).count()
    }
}

/// What is known of names when a FROM is read.
#[derive(Clone, Copy)]
struct Seen<'s> {
    /// The arguments that are declared before the first FROM.
    declared: &'s HashSet<&'s str>,
    names: &'s Names<'s>,
}

fn declared(dockerfile: &Dockerfile) -> HashSet<&str> {
    let mut names = HashSet::new();
    for instruction in &dockerfile.global_args {
        if let InstructionKind::Arg(args) = &instruction.kind {
            names.extend(args.iter().map(|(name, _)| name.raw.as_str()));
        }
    }
    names
}

fn stage_node<'a>(
    index: usize,
    stage: &'a Stage,
    scope: &Scope<'_, 'a>,
    seen: Seen<'_>,
    lints: &mut Lints,
) -> Result<Node<'a>, LowerError> {
    let place = Place::of(&stage.from);
    let InstructionKind::From { image, platform, .. } = &stage.from.kind else {
        return Err(place.error("a stage begins with FROM"));
    };
    let expanded = expand(&image.raw, scope, place.at(image))?;
    undeclared(&expanded, scope, seen, place.at(image), lints);
    if expanded.value.is_empty() {
        let message = format!("base name ({}) should not be blank", image.raw);
        return Err(place.at(image).perhaps_hinted(message, why_empty(&expanded, scope, seen)));
    }
    let name = stage.name.as_deref();
    let platform = match platform {
        Some(word) if !word.raw.is_empty() => {
            Some(platform_of(word, name.unwrap_or_default(), scope, seen, place.at(word), lints)?)
        }
        _ => None,
    };
    let wanted = platform.as_ref().unwrap_or(&scope.options.target_platform);
    Ok(Node {
        is_stage: true,
        name: name.map_or_else(|| format!("stage-{index}"), str::to_owned),
        base_name: expanded.value,
        context: name.and_then(|name| scope.contexts.find(name, wanted)),
        platform,
        base: None,
        commands: Vec::new(),
        needs: Vec::new(),
        place,
        word: place.at(image),
        has_triggers: false,
        ignore_cache: scope.options.ignores_cache_of(name.unwrap_or_default()),
    })
}

fn platform_of(
    word: &Word,
    stage: &str,
    scope: &Scope<'_, '_>,
    seen: Seen<'_>,
    place: Place,
    lints: &mut Lints,
) -> Result<Platform, LowerError> {
    let expanded = expand(&word.raw, scope, place)?;
    undeclared(&expanded, scope, seen, place, lints);
    lint_file::platform_flag(&word.raw, &expanded, stage, scope.global, place, lints);
    let error = |message: String| place.perhaps_hinted(message, why_empty(&expanded, scope, seen));
    if expanded.value.is_empty() {
        return Err(error(format!("empty platform value from expression {}", word.raw)));
    }
    expanded.value.parse().map_err(|why| error(format!("failed to parse platform {}: {why}", word.raw)))
}

/// FROM uses arguments that nobody has declared.
fn undeclared(
    expanded: &Expanded,
    scope: &Scope<'_, '_>,
    Seen { declared, names }: Seen<'_>,
    place: Place,
    lints: &mut Lints,
) {
    for name in expanded.unmatched.iter().filter(|name| !declared.contains(name.as_str())) {
        let known = scope.global.names().chain(declared.iter().copied());
        lint_file::undeclared(name, place, lints, || names.argument_of_from(name, known));
    }
}

/// Why an expression of FROM came out empty.
fn why_empty(expanded: &Expanded, scope: &Scope<'_, '_>, seen: Seen<'_>) -> Option<String> {
    let name = expanded.unmatched.first()?;
    seen.names.argument_of_from(name, scope.global.names())
}

fn expand(text: &str, scope: &Scope<'_, '_>, place: Place) -> Result<Expanded, LowerError> {
    let look_up = |name: &str| scope.global.get(name).map(str::to_owned);
    expand_word(text, scope.escape, &look_up).map_err(|why| place.hinted(why.to_string(), why.hint()))
}

/// The paths among the sources of COPY and ADD.
pub(crate) fn source_paths(sources: &[CopySource]) -> impl Iterator<Item = &Word> {
    sources.iter().filter_map(|source| match source {
        CopySource::Path(word) => Some(word),
        CopySource::Heredoc(_) => None,
    })
}
