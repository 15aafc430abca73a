//! The stages of a Dockerfile and what they are made of, without asking what images are. It does not know
//! how the graph is drawn.

use crate::error::LowerError;
use crate::git;
use crate::graph::{Command, Graph, NodeId, source_paths};
use crate::lint::Lints;
use crate::lower::{Lowering, prepare};
use crate::options::BuildOptions;
use kiln_grammar::ast::{CopySource, Mount};
use kiln_grammar::{Instruction, InstructionKind, Parse, Severity, Word};
use kiln_oci::Platform;
use std::collections::{HashMap, HashSet};

/// The stages of a Dockerfile, what they are made of, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageGraph {
    /// The stages, in their order; after them images, contexts and addresses, as they come up.
    pub nodes: Vec<StageGraphNode>,
    /// Who is made of what, each once.
    pub edges: Vec<StageGraphEdge>,
    /// The stage that is built.
    pub target: usize,
}

/// A stage, or something from outside that a stage is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageGraphNode {
    /// What it is.
    pub kind: StageGraphNodeKind,
    /// Its name; `stage-2` where a stage has none.
    pub name: String,
    /// The platform that FROM asks for.
    pub platform: Option<Platform>,
    /// Whether the target needs it.
    pub is_needed: bool,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StageGraphNodeKind {
    /// A stage of the Dockerfile.
    Stage,
    /// An image.
    Image,
    /// A named context.
    Context,
    /// The main context.
    MainContext,
    /// A web or git address.
    Address,
}

/// One node is made of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StageGraphEdge {
    /// What is needed.
    pub from: usize,
    /// Who needs it.
    pub to: usize,
    /// For what.
    pub kind: StageGraphEdgeKind,
}

/// For what a node needs another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StageGraphEdgeKind {
    /// FROM.
    From,
    /// COPY.
    Copy,
    /// ADD.
    Add,
    /// A mount of RUN.
    Mount,
}

/// The stages of a Dockerfile and what they are made of. What images bring along, their triggers, is not
/// known here.
pub fn stage_graph(parse: &Parse, options: &BuildOptions) -> Result<StageGraph, LowerError> {
    if let Some(error) = parse.diagnostics.iter().find(|d| d.severity == Severity::Error) {
        return Err(LowerError::Diagnostic(error.clone()));
    }
    let mut lowering = prepare(parse, options, &mut Lints::default())?;
    let target = lowering.graph.target(options.target.as_deref())?;
    add_known_triggers(&mut lowering.graph, parse.dockerfile.stages.len())?;
    let mut drawing = Drawing::of_stages(&lowering, parse.dockerfile.stages.len());
    for index in 0..drawing.stages {
        drawing.draw(NodeId(index));
    }
    Ok(drawing.finish(target))
}

/// Gives stages the triggers of the stages that they are made from.
fn add_known_triggers(graph: &mut Graph<'_>, stages: usize) -> Result<(), LowerError> {
    for id in (0..stages).map(NodeId) {
        let Some(base) = graph.node(id).base.filter(|_| graph.node(id).context.is_none()) else { continue };
        let trigger = |command: &Command<'_>| match &command.instruction.kind {
            InstructionKind::Onbuild { instruction: Some(instruction), .. } => {
                Some(Instruction { kind: (**instruction).clone(), ..command.instruction.as_ref().clone() })
            }
            _ => None,
        };
        let triggers = graph.node(base).commands.iter().filter_map(trigger).collect();
        graph.add_triggers(id, triggers)?;
    }
    Ok(())
}

/// A node from outside, by what makes it the same as another.
type Outside = (StageGraphNodeKind, String, Option<Platform>);

struct Drawing<'d, 'a> {
    lowering: &'d Lowering<'a>,
    stages: usize,
    nodes: Vec<StageGraphNode>,
    outside: HashMap<Outside, usize>,
    edges: Vec<StageGraphEdge>,
    seen: HashSet<StageGraphEdge>,
}

impl<'d, 'a> Drawing<'d, 'a> {
    fn of_stages(lowering: &'d Lowering<'a>, stages: usize) -> Drawing<'d, 'a> {
        let nodes = lowering.graph.nodes[..stages].iter().enumerate().map(|(index, node)| StageGraphNode {
            kind: StageGraphNodeKind::Stage,
            name: if node.name.is_empty() { format!("stage-{index}") } else { node.name.clone() },
            platform: node.platform.clone(),
            is_needed: false,
        });
        let nodes = nodes.collect();
        Drawing { lowering, stages, nodes, outside: HashMap::new(), edges: Vec::new(), seen: HashSet::new() }
    }

    /// Draws what a stage is made of.
    fn draw(&mut self, id: NodeId) {
        let lowering = self.lowering;
        let node = lowering.graph.node(id);
        let platform = node.platform.clone();
        let base = match (node.base, node.context) {
            (Some(base), _) => self.of_node(base),
            (None, Some(_)) => Some(self.outsider(StageGraphNodeKind::Context, &node.name, None)),
            (None, None) => self.named(&node.base_name, platform),
        };
        self.edge(base, id, StageGraphEdgeKind::From);
        for command in &node.commands {
            match &command.instruction.kind {
                InstructionKind::Copy(copy) => match command.sources.first().copied().flatten() {
                    Some(source) => {
                        let from = self.of_node(source);
                        self.edge(from, id, StageGraphEdgeKind::Copy);
                    }
                    None => self.draw_paths(id, &copy.sources, StageGraphEdgeKind::Copy),
                },
                InstructionKind::Add(add) => self.draw_paths(id, &add.sources, StageGraphEdgeKind::Add),
                InstructionKind::Run(run) => {
                    for (mount, source) in run.mounts.iter().zip(&command.sources) {
                        let from = match source {
                            Some(source) => self.of_node(*source),
                            None if is_bind(mount) => Some(self.main_context()),
                            None => None,
                        };
                        self.edge(from, id, StageGraphEdgeKind::Mount);
                    }
                }
                _ => {}
            }
        }
    }

    /// Draws where sources come from that no `--from` names.
    fn draw_paths(&mut self, id: NodeId, sources: &[CopySource], kind: StageGraphEdgeKind) {
        for Word { raw: path, .. } in source_paths(sources) {
            let is_address = path.starts_with("http://")
                || path.starts_with("https://")
                || git::parse(path).is_some_and(|git| git.is_ok());
            let from = match kind {
                StageGraphEdgeKind::Add if is_address => {
                    self.outsider(StageGraphNodeKind::Address, path, None)
                }
                _ => self.main_context(),
            };
            self.edge(Some(from), id, kind);
        }
    }

    /// A node of the frontend's own graph: a stage, or a name that an instruction gives.
    fn of_node(&mut self, id: NodeId) -> Option<usize> {
        let node = self.lowering.graph.node(id);
        if node.is_stage { Some(id.0) } else { self.named(&node.base_name, node.platform.clone()) }
    }

    /// A context or an image; nothing for an empty file system.
    fn named(&mut self, name: &str, platform: Option<Platform>) -> Option<usize> {
        if name == "scratch" {
            return None;
        }
        let wanted = platform.as_ref().unwrap_or(&self.lowering.options.target_platform);
        Some(match self.lowering.contexts.find(name, wanted) {
            Some(_) => self.outsider(StageGraphNodeKind::Context, name, None),
            None => self.outsider(StageGraphNodeKind::Image, name, platform),
        })
    }

    fn main_context(&mut self) -> usize {
        self.outsider(StageGraphNodeKind::MainContext, "context", None)
    }

    fn outsider(&mut self, kind: StageGraphNodeKind, name: &str, platform: Option<Platform>) -> usize {
        let next = self.nodes.len();
        let index = *self.outside.entry((kind, name.to_owned(), platform.clone())).or_insert(next);
        if index == next {
            self.nodes.push(StageGraphNode { kind, name: name.to_owned(), platform, is_needed: false });
        }
        index
    }

    fn edge(&mut self, from: Option<usize>, to: NodeId, kind: StageGraphEdgeKind) {
        let Some(from) = from else { return };
        let edge = StageGraphEdge { from, to: to.0, kind };
        if self.seen.insert(edge) {
            self.edges.push(edge);
        }
    }

    fn finish(mut self, target: NodeId) -> StageGraph {
        let mut needs: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        for edge in &self.edges {
            needs[edge.to].push(edge.from);
        }
        let mut open = vec![target.0];
        while let Some(index) = open.pop() {
            if !std::mem::replace(&mut self.nodes[index].is_needed, true) {
                open.extend(&needs[index]);
            }
        }
        StageGraph { nodes: self.nodes, edges: self.edges, target: target.0 }
    }
}

/// Whether a mount that names no source is one of the main context.
fn is_bind(mount: &Mount) -> bool {
    let kind = mount.fields.iter().rev().find(|(key, _)| key == "type");
    let kind = kind.and_then(|(_, value)| value.as_deref());
    kind.is_none_or(|kind| kind.eq_ignore_ascii_case("bind"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NamedContext;
    use std::path::Path;

    /// The graph in a short form: the nodes that no target needs in brackets, then the edges.
    fn drawn(dockerfile: &str, set: impl Fn(&mut BuildOptions)) -> String {
        let mut options = BuildOptions::new(Platform::new("linux", "amd64", None));
        set(&mut options);
        let graph = match stage_graph(&kiln_grammar::parse(dockerfile), &options) {
            Ok(graph) => graph,
            Err(error) => return format!("error {error}"),
        };
        let name = |index: usize| {
            let StageGraphNode { kind, name, platform, is_needed } = &graph.nodes[index];
            let platform = platform.as_ref().map(|p| format!("@{p}")).unwrap_or_default();
            let shown = match kind {
                StageGraphNodeKind::Stage => format!("{name}{platform}"),
                kind => format!("{kind:?} {name}{platform}"),
            };
            if *is_needed { shown } else { format!("({shown})") }
        };
        let edges: Vec<String> = graph
            .edges
            .iter()
            .map(|edge| format!("{} -{:?}-> {}", name(edge.from), edge.kind, name(edge.to)))
            .collect();
        format!("{}: {}", name(graph.target), edges.join(", "))
    }

    #[track_caller]
    fn check(dockerfile: &str, expect: &str) {
        assert_eq!(drawn(dockerfile, |_| ()), expect);
    }

    #[test]
    fn stages_images_and_contexts_are_told_apart() {
        check("FROM scratch\nRUN x", "stage-0: ");
        check("FROM a AS b\nFROM b", "stage-1: Image a -From-> b, b -From-> stage-1");
        check(
            "ARG V=1\nFROM a:$V AS b\nFROM scratch\nCOPY --from=b x y\nCOPY --from=0 z z\nCOPY --from=c x y",
            "stage-1: Image a:1 -From-> b, b -Copy-> stage-1, Image c -Copy-> stage-1",
        );
        check("FROM --platform=linux/arm64 a\nCOPY --from=a x y", {
            "stage-0@linux/arm64: Image a@linux/arm64 -From-> stage-0@linux/arm64, \
             Image a -Copy-> stage-0@linux/arm64"
        });
    }

    #[test]
    fn what_comes_from_the_context_or_an_address_is_drawn() {
        check("FROM scratch\nCOPY a b /\nCOPY <<E /x\nE", "stage-0: MainContext context -Copy-> stage-0");
        check(
            "FROM scratch\nADD https://x.io/a.tgz https://github.com/a/b.git c /",
            "stage-0: Address https://x.io/a.tgz -Add-> stage-0, \
             Address https://github.com/a/b.git -Add-> stage-0, MainContext context -Add-> stage-0",
        );
        check(
            "FROM a AS b\nFROM b\nRUN --mount=from=b,target=/b --mount=type=cache,target=/c \
             --mount=type=cache,from=d,target=/d --mount=target=/e x",
            "stage-1: Image a -From-> b, b -From-> stage-1, b -Mount-> stage-1, Image d -Mount-> stage-1, \
             MainContext context -Mount-> stage-1",
        );
    }

    #[test]
    fn stages_that_the_target_does_not_need_are_marked() {
        let dockerfile = "FROM a AS one\nFROM b AS two\nFROM one AS three\nCOPY x y";
        check(
            dockerfile,
            "three: Image a -From-> one, (Image b) -From-> (two), one -From-> three, \
             MainContext context -Copy-> three",
        );
        assert_eq!(
            drawn(dockerfile, |options| options.target = Some("two".to_owned())),
            "two: (Image a) -From-> (one), Image b -From-> two, (one) -From-> (three), \
             (MainContext context) -Copy-> (three)"
        );
    }

    #[test]
    fn triggers_of_a_stage_belong_to_the_stages_made_from_it() {
        check(
            "FROM a AS b\nONBUILD COPY --from=c x y\nFROM b AS d\nFROM d",
            "stage-2: Image a -From-> b, b -From-> d, Image c -Copy-> d, d -From-> stage-2",
        );
    }

    #[test]
    fn named_contexts_take_the_place_of_stages_and_images() {
        let set = |options: &mut BuildOptions| {
            for name in ["a", "two"] {
                let context = NamedContext::Image("other".to_owned());
                options.contexts.insert(name.to_owned(), context);
            }
        };
        assert_eq!(
            drawn("FROM a AS one\nFROM b AS two\nCOPY x y\nFROM two\nCOPY --from=one x y", set),
            "stage-2: Context a -From-> one, Context two -From-> two, two -From-> stage-2, \
             one -Copy-> stage-2"
        );
    }

    #[test]
    fn mistakes_are_told_as_a_build_tells_them() {
        check("FROM", "error FROM requires either one or three arguments");
        check("FROM a AS b\nCOPY --from=b x y", "error circular dependency detected on stage: b");
    }

    #[test]
    fn the_example_of_the_project_is_drawn() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/app/Dockerfile");
        let dockerfile = std::fs::read_to_string(path).expect("the example");
        let set = |options: &mut BuildOptions| {
            let tools = NamedContext::Local { name: "context:tools".to_owned(), excludes: Vec::new() };
            options.contexts.insert("tools".to_owned(), tools);
        };
        assert_eq!(
            drawn(&dockerfile, set),
            "stage-3: Context tools -Copy-> userland, userland -From-> style, \
             MainContext context -Copy-> style, userland -From-> pages, MainContext context -Copy-> pages, \
             userland -From-> stage-3, pages -Copy-> stage-3, style -Copy-> stage-3"
        );
    }
}
