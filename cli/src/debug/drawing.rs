//! A graph of stages as text for programs that draw: Mermaid and Graphviz. It does not know Dockerfiles.

use kiln_frontend::{
    StageGraph, StageGraphEdge, StageGraphEdgeKind, StageGraphNode, StageGraphNodeKind as Kind,
};
use std::fmt::Write as _;

/// The graph for Mermaid: stages are boxes, the target is round, images are drums, contexts are slanted.
pub(crate) fn mermaid(graph: &StageGraph) -> String {
    let mut out = "flowchart LR\n".to_owned();
    for (index, node) in graph.nodes.iter().enumerate() {
        let (left, right) = match node.kind {
            Kind::Stage if index == graph.target => ("([", "])"),
            Kind::Stage => ("[", "]"),
            Kind::Image => ("[(", ")]"),
            Kind::Context | Kind::MainContext => ("[/", "/]"),
            Kind::Address => ("{{", "}}"),
        };
        let _ = writeln!(out, "    n{index}{left}\"{}\"{right}", escaped(&label(node), mermaid_letter));
    }
    for StageGraphEdge { from, to, kind } in &graph.edges {
        let _ = writeln!(out, "    n{from} -->|{}| n{to}", word(*kind));
    }
    let idle = graph.nodes.iter().enumerate().filter(|(_, node)| !node.is_needed);
    let idle: Vec<String> = idle.map(|(index, _)| format!("n{index}")).collect();
    if !idle.is_empty() {
        out.push_str("    classDef notNeeded stroke-dasharray:4 4,opacity:0.5\n");
        let _ = writeln!(out, "    class {} notNeeded", idle.join(","));
    }
    out
}

/// The graph for Graphviz: the same shapes in its words.
pub(crate) fn dot(graph: &StageGraph) -> String {
    let mut out = "digraph stages {\n  rankdir=LR;\n  node [shape=box];\n".to_owned();
    for (index, node) in graph.nodes.iter().enumerate() {
        let shape = match node.kind {
            Kind::Stage if index == graph.target => ", shape=box, style=rounded, peripheries=2",
            Kind::Stage => "",
            Kind::Image => ", shape=cylinder",
            Kind::Context | Kind::MainContext => ", shape=folder",
            Kind::Address => ", shape=hexagon",
        };
        let idle = if node.is_needed { "" } else { ", style=dashed, fontcolor=gray" };
        let _ = writeln!(out, "  n{index} [label=\"{}\"{shape}{idle}];", escaped(&label(node), dot_letter));
    }
    for StageGraphEdge { from, to, kind } in &graph.edges {
        let _ = writeln!(out, "  n{from} -> n{to} [label=\"{}\"];", word(*kind));
    }
    out.push_str("}\n");
    out
}

fn label(node: &StageGraphNode) -> String {
    let StageGraphNode { name, platform, .. } = node;
    match platform {
        Some(platform) => format!("{name} ({platform})"),
        None => name.clone(),
    }
}

fn word(kind: StageGraphEdgeKind) -> &'static str {
    match kind {
        StageGraphEdgeKind::From => "FROM",
        StageGraphEdgeKind::Copy => "COPY",
        StageGraphEdgeKind::Add => "ADD",
        StageGraphEdgeKind::Mount => "mount",
    }
}

/// A text with the letters that mean something replaced, and without control characters.
fn escaped(text: &str, letter: fn(char) -> Option<&'static str>) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match letter(c) {
            Some(escape) => out.push_str(escape),
            None if c.is_control() => out.push(' '),
            None => out.push(c),
        }
    }
    out
}

/// Between double quotes Mermaid reads entities, with `#` for `&`, and what begins with a backtick as
/// Markdown.
fn mermaid_letter(c: char) -> Option<&'static str> {
    Some(match c {
        '"' => "#quot;",
        '#' => "#35;",
        '&' => "#amp;",
        '<' => "#lt;",
        '>' => "#gt;",
        '`' => "#96;",
        '\\' => "#92;",
        _ => return None,
    })
}

fn dot_letter(c: char) -> Option<&'static str> {
    Some(match c {
        '"' => "\\\"",
        '\\' => "\\\\",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> StageGraph {
        let node = |kind, name: &str, is_needed| StageGraphNode {
            kind,
            name: name.to_owned(),
            platform: None,
            is_needed,
        };
        let edge = |from, to, kind| StageGraphEdge { from, to, kind };
        StageGraph {
            nodes: vec![
                node(Kind::Stage, "idle", false),
                node(Kind::Stage, "app", true),
                node(Kind::Image, "busybox:1", true),
                node(Kind::MainContext, "context", true),
                node(Kind::Address, "https://x.io/?a=\"1\"&b=\\#`<\n>", true),
            ],
            edges: vec![
                edge(2, 0, StageGraphEdgeKind::From),
                edge(2, 1, StageGraphEdgeKind::From),
                edge(3, 1, StageGraphEdgeKind::Copy),
                edge(4, 1, StageGraphEdgeKind::Add),
                edge(0, 1, StageGraphEdgeKind::Mount),
            ],
            target: 1,
        }
    }

    #[test]
    fn names_cannot_break_out_of_a_mermaid_picture() {
        assert_eq!(
            mermaid(&graph()),
            "flowchart LR
    n0[\"idle\"]
    n1([\"app\"])
    n2[(\"busybox:1\")]
    n3[/\"context\"/]
    n4{{\"https://x.io/?a=#quot;1#quot;#amp;b=#92;#35;#96;#lt; #gt;\"}}
    n2 -->|FROM| n0
    n2 -->|FROM| n1
    n3 -->|COPY| n1
    n4 -->|ADD| n1
    n0 -->|mount| n1
    classDef notNeeded stroke-dasharray:4 4,opacity:0.5
    class n0 notNeeded
"
        );
    }

    #[test]
    fn names_cannot_break_out_of_a_dot_picture() {
        assert_eq!(
            dot(&graph()),
            r#"digraph stages {
  rankdir=LR;
  node [shape=box];
  n0 [label="idle", style=dashed, fontcolor=gray];
  n1 [label="app", shape=box, style=rounded, peripheries=2];
  n2 [label="busybox:1", shape=cylinder];
  n3 [label="context", shape=folder];
  n4 [label="https://x.io/?a=\"1\"&b=\\#`< >", shape=hexagon];
  n2 -> n0 [label="FROM"];
  n2 -> n1 [label="FROM"];
  n3 -> n1 [label="COPY"];
  n4 -> n1 [label="ADD"];
  n0 -> n1 [label="mount"];
}
"#
        );
    }
}
