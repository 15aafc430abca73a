//! Runs through a stage: each instruction to what does it, and what all of them use. It does not
//! know single instructions.

use crate::contexts::{ContextSource, local, source_of, unpack};
use crate::error::{LowerError, Place};
use crate::file_op::FileOpBuilder;
use crate::graph::{Command, NodeId};
use crate::lower::Lowering;
use crate::options::NamedContext;
use crate::resolve::RootSource;
use crate::stage::{Asked, StageState};
use kiln_grammar::expand::Lexer;
use kiln_grammar::{InstructionKind, Word};
use kiln_oci::Platform;
use kiln_solver::{Edge, Metadata, Op, SourceOp, Vertex};

/// The longest value of a variable, label, path or flag, in bytes: one that doubles itself ends here.
const MAX_VALUE: usize = 1 << 20;

/// How much a Dockerfile may come to, in bytes of values, paths and lines of the history: each RUN tells all
/// arguments, each copy has all that is left out, so that what is short to write may be more than there is
/// room for.
const MAX_MADE: usize = 64 << 20;

impl Lowering<'_> {
    /// Lowers a stage; what it is made from is lowered already.
    pub(crate) fn run_stage(&mut self, id: NodeId) -> Result<(), LowerError> {
        let node = self.graph.node(id);
        let (base, steps, is_replaced) = (node.base, node.steps(), node.context.is_some());
        let (name, ignore_cache) = (node.name.clone(), node.ignore_cache);
        let mut state = match base.map(|base| self.states[base.0].as_ref()) {
            Some(Some(base)) => base.child(),
            Some(None) => return Err(node.place.error("the stage that it is made from was not lowered")),
            None => self.root_state(id, steps)?,
        };
        state.steps.stage.clone_from(&name);
        state.steps.total = steps;
        state.steps.with_platform = self.options.multi_platform;
        state.name = name;
        state.ignore_cache = ignore_cache;
        if !is_replaced {
            state.begin();
            let commands = std::mem::take(&mut self.graph.nodes[id.0].commands);
            for command in &commands {
                self.lints.enter(&command.instruction.comments);
                state.steps.is_trigger = command.is_trigger;
                state.asked = Asked::of(&command.instruction.advice);
                let done = self.instruction(&mut state, command);
                done.map_err(|error| {
                    if command.is_trigger { error.of_trigger(&command.instruction) } else { error }
                })?;
                let line = state.history.last().map_or(0, |line| line.created_by.len());
                self.count(Place::of(&command.instruction), line + state.dir().len())?;
            }
            self.graph.nodes[id.0].commands = commands;
        }
        self.states[id.0] = Some(state);
        Ok(())
    }

    fn instruction(&mut self, state: &mut StageState, command: &Command<'_>) -> Result<(), LowerError> {
        let instruction = &*command.instruction;
        let place = Place::of(instruction);
        match &instruction.kind {
            InstructionKind::From { .. } => Ok(()),
            InstructionKind::Run(run) => self.run(state, command, run),
            InstructionKind::Copy(copy) => self.copy(state, command, copy),
            InstructionKind::Add(add) => self.add(state, command, add),
            InstructionKind::Workdir(path) => self.work_dir(state, instruction, path),
            InstructionKind::Cmd(words) => self.cmd(state, instruction, words),
            InstructionKind::Entrypoint(words) => self.entrypoint(state, instruction, words),
            InstructionKind::Env(pairs) => self.env(state, instruction, pairs),
            InstructionKind::Label(pairs) => self.label(state, instruction, pairs),
            InstructionKind::Arg(args) => self.arg(state, place, args),
            InstructionKind::Expose(words) => self.expose(state, place, words),
            InstructionKind::Volume(words) => self.volume(state, place, words),
            InstructionKind::User(word) => self.user(state, place, word),
            InstructionKind::Stopsignal(word) => self.stop_signal(state, place, word),
            InstructionKind::Healthcheck(check) => self.healthcheck(state, instruction, check),
            InstructionKind::Shell(words) => {
                self.shell(state, words);
                Ok(())
            }
            InstructionKind::Onbuild { trigger, instruction } => {
                if instruction.is_none() {
                    self.warn_of_trigger(place, trigger);
                }
                self.onbuild(state, trigger);
                Ok(())
            }
            InstructionKind::Maintainer(author) => {
                self.maintainer(state, author);
                Ok(())
            }
        }
    }

    /// Expands a word with the variables of a stage.
    pub(crate) fn expand(
        &mut self,
        state: &StageState,
        text: &str,
        place: Place,
    ) -> Result<String, LowerError> {
        let value = self.expand_with(Lexer::new(self.escape), state, text, place)?;
        if value.len() > MAX_VALUE {
            return Err(place.error(format!("a value has more than the {MAX_VALUE} bytes that it may have")));
        }
        Ok(value)
    }

    /// Expands every word.
    pub(crate) fn expand_all(
        &mut self,
        state: &StageState,
        words: &[Word],
        place: Place,
    ) -> Result<Vec<String>, LowerError> {
        words.iter().map(|word| self.expand(state, &word.raw, place.at(word))).collect()
    }

    /// Expands a text by rules of its own.
    pub(crate) fn expand_with(
        &mut self,
        lexer: Lexer,
        state: &StageState,
        text: &str,
        place: Place,
    ) -> Result<String, LowerError> {
        if !text.contains(['$', '\'', '"', lexer.escape, '\u{feff}']) {
            return Ok(text.to_owned());
        }
        let expanded =
            lexer.expand(text, &state.look_up()).map_err(|why| place.hinted(why.to_string(), why.hint()))?;
        self.warn_of_unset(state, &expanded.unmatched, place);
        self.count(place, expanded.value.len())?;
        Ok(expanded.value)
    }

    /// Counts bytes that an instruction adds to what is made.
    pub(crate) fn count(&mut self, place: Place, bytes: usize) -> Result<(), LowerError> {
        self.made = self.made.saturating_add(bytes);
        if self.made > MAX_MADE {
            let message = format!("the Dockerfile comes to more than {} MiB here", MAX_MADE >> 20);
            return Err(place.hinted(
                message,
                "the line of each RUN in the history has all arguments, so long values count often",
            ));
        }
        Ok(())
    }

    /// Warns of variables that were used and are not set.
    pub(crate) fn warn_of_unset(&mut self, state: &StageState, names: &[String], place: Place) {
        for name in names {
            if state.declared.contains(name) || crate::args::NOT_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            let names = &self.graph.names;
            let hint = || names.variable(name, place.line, state.env.names());
            self.lints.warn_with(
                "UndefinedVar",
                place,
                || format!("the variable `${name}` is not set"),
                hint,
            );
        }
    }

    /// Adds a vertex and gives its first output.
    pub(crate) fn vertex(
        &mut self,
        op: Op,
        inputs: Vec<Edge>,
        platform: Option<Platform>,
        metadata: Metadata,
    ) -> Edge {
        let vertex = self.definition.add(Vertex { op, inputs, platform, metadata });
        Edge { vertex, output: 0 }
    }

    /// What people are told of a vertex of a stage.
    pub(crate) fn metadata(&self, state: &StageState, name: String, place: Place) -> Metadata {
        Metadata {
            name,
            lines: vec![(place.line, place.end_line)],
            stage: state.name.clone(),
            ignore_cache: state.ignore_cache || state.asked.no_cache,
            max_age_s: state.asked.max_age_s,
        }
    }

    /// The main context.
    pub(crate) fn main_context(&mut self) -> Result<Option<Edge>, LowerError> {
        if self.context_edge.is_none() {
            let context = &self.options.main_context;
            let why = |why: String| Place::default().error(why);
            let source = match source_of(context).map_err(why)? {
                ContextSource::Empty => RootSource::Empty,
                ContextSource::Plain(op) => RootSource::Plain(op),
                ContextSource::Archive(op) => RootSource::Archive(op),
                ContextSource::Local { name, excludes } => RootSource::Local { name, excludes },
                ContextSource::Image(reference) => {
                    return Err(why(format!("the main context can't be the image {reference}")));
                }
            };
            let patterns = self.excludes();
            let source = match source {
                RootSource::Local { name, excludes: [] } => RootSource::Plain(local(name, &patterns)),
                other => other,
            };
            let metadata =
                Metadata { name: "[internal] load build context".to_owned(), ..Metadata::default() };
            self.context_edge = self.root_vertex(&source, None, metadata);
        }
        Ok(self.context_edge)
    }

    /// What an image or a context is made of; `None` is an empty file system.
    pub(crate) fn root_edge(&mut self, id: NodeId) -> Option<Edge> {
        let root = self.roots[id.0].as_ref()?;
        if let Some(edge) = root.edge {
            return edge;
        }
        let (source, platform) = (root.source.clone(), root.platform.clone());
        let lines = vec![(self.graph.node(id).place.line, self.graph.node(id).place.end_line)];
        let metadata = Metadata { name: root.label.clone(), lines, ..Metadata::default() };
        let edge = self.root_vertex(&source, Some(platform), metadata);
        if let Some(root) = self.roots[id.0].as_mut() {
            root.edge = Some(edge);
        }
        edge
    }

    /// The files of a stage, image or context that an instruction copies or mounts from; `None` where
    /// it comes later.
    pub(crate) fn source_edge(&mut self, id: NodeId) -> Option<Option<Edge>> {
        if self.graph.node(id).is_stage {
            return self.states[id.0].as_ref().map(|state| state.fs);
        }
        Some(self.root_edge(id))
    }

    /// Whether the main context is a folder.
    pub(crate) fn has_local_context(&self) -> bool {
        matches!(self.options.main_context, NamedContext::Local { .. })
    }

    fn root_state(&mut self, id: NodeId, steps: usize) -> Result<StageState, LowerError> {
        let place = self.graph.node(id).place;
        let (label, platform, is_image) = match &self.roots[id.0] {
            Some(root) => (root.label.clone(), root.platform.clone(), root.label.starts_with("FROM ")),
            None => return Err(place.error("nothing is known about its base image")),
        };
        let mut counted = crate::progress::Steps {
            stage: self.graph.node(id).name.clone(),
            total: steps,
            with_platform: self.options.multi_platform,
            ..Default::default()
        };
        let is_empty = matches!(self.roots[id.0].as_ref().map(|root| &root.source), Some(RootSource::Empty));
        if !is_empty && steps > 0 {
            let name = counted.next(&label, &platform, &crate::env::Env::default());
            if let Some(root) = self.roots[id.0].as_mut().filter(|_| is_image) {
                root.label = name;
            }
        }
        let fs = self.root_edge(id);
        let root = self.roots[id.0].as_ref().ok_or_else(|| place.error("its base is not known"))?;
        let mut state = StageState::of_root(root, fs);
        state.steps = counted;
        Ok(state)
    }

    fn root_vertex(
        &mut self,
        source: &RootSource<'_>,
        platform: Option<Platform>,
        metadata: Metadata,
    ) -> Option<Edge> {
        let mut plain = |op: &SourceOp, platform: Option<Platform>| {
            self.vertex(Op::Source(op.clone()), Vec::new(), platform, metadata.clone())
        };
        match source {
            RootSource::Empty => None,
            RootSource::Plain(op) if op.identifier.contains("-image://") => Some(plain(op, platform)),
            RootSource::Plain(op) if op.identifier.starts_with("oci-layout://") => Some(plain(op, platform)),
            RootSource::Plain(op) => Some(plain(op, None)),
            RootSource::Local { name, excludes } => Some(plain(&local(name, excludes), None)),
            RootSource::Archive(op) => {
                let file = plain(op, None);
                let mut unpacked = FileOpBuilder::new(None);
                unpacked.push(unpack(), Some(Some(file)));
                let (op, inputs) = unpacked.finish();
                Some(self.vertex(op, inputs, platform, metadata))
            }
        }
    }

    /// The patterns of the ignore file, as the source of the context takes them.
    fn excludes(&self) -> Vec<String> {
        let patterns = self.options.ignore.iter().filter(|pattern| !pattern.pattern.is_empty());
        patterns.map(|p| if p.negated { format!("!{}", p.pattern) } else { p.pattern.clone() }).collect()
    }
}
