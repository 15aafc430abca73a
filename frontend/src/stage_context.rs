//! Named contexts that are stages of the same Dockerfile: what stands for what, and in which order stages
//! are lowered then. It does not know what stages do.

use crate::contexts::Contexts;
use crate::error::LowerError;
use crate::graph::{Graph, NodeId};
use crate::options::NamedContext;
use kiln_oci::Platform;
use std::collections::{HashMap, HashSet};

/// The stages that stand for names.
#[derive(Default)]
pub(crate) struct StandIns<'a> {
    /// The contexts, where there are such among them, and the platform that is asked for.
    named: Option<(Contexts<'a>, &'a Platform)>,
    /// The stages that others stand for, and which.
    replaced: HashMap<NodeId, NodeId>,
    /// The stages that stand for something.
    used: HashSet<NodeId>,
}

impl<'a> Graph<'a> {
    /// Puts stages in the place of the stages and bases whose names they are given.
    pub(crate) fn put_stand_ins(
        &mut self,
        contexts: &Contexts<'a>,
        platform: &'a Platform,
    ) -> Result<(), LowerError> {
        for (name, stage) in contexts.stages() {
            let used = self.stage_of_context(name, stage)?;
            self.stand_ins.used.insert(used);
        }
        if self.stand_ins.used.is_empty() {
            return Ok(());
        }
        self.stand_ins.named = Some((contexts.clone(), platform));
        let mut replaced = HashMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            if let Some(NamedContext::Stage(stage)) = node.context {
                replaced.insert(NodeId(index), self.stage_of_context(&node.name, stage)?);
            }
        }
        for from in replaced.keys() {
            let at = self.last_of(&replaced, *from)?;
            self.stand_ins.replaced.insert(*from, at);
            self.stand_ins.used.insert(at);
        }
        for index in 0..self.nodes.len() {
            let id = NodeId(index);
            let node = &self.nodes[index];
            let base = match (self.stand_ins.replaced.get(&id), node.base) {
                (Some(stand_in), _) => Some(*stand_in),
                (None, Some(base)) => Some(self.standing_for(base)),
                (None, None) if node.context.is_some() => None,
                (None, None) => {
                    let platform = node.platform.as_ref().unwrap_or(platform);
                    self.stand_in(&node.base_name, platform)?
                }
            };
            self.nodes[index].base = base;
        }
        Ok(())
    }

    /// The stage that is meant where a stage is named.
    pub(crate) fn standing_for(&self, id: NodeId) -> NodeId {
        self.stand_ins.replaced.get(&id).copied().unwrap_or(id)
    }

    /// The stage that stands for a name that no stage has.
    pub(crate) fn stand_in_of(&self, name: &str) -> Result<Option<NodeId>, LowerError> {
        match &self.stand_ins.named {
            Some((_, platform)) => self.stand_in(name, platform),
            None => Ok(None),
        }
    }

    /// The nodes in an order in which each comes after what it is made from, and after the stages that
    /// stand for what it names: those may be later ones in the Dockerfile.
    pub(crate) fn order(&self, count: usize) -> Vec<NodeId> {
        if self.stand_ins.named.is_none() {
            return (0..count).map(NodeId).collect();
        }
        let mut order = Vec::with_capacity(count);
        let mut seen = vec![false; self.nodes.len()];
        for root in (0..count).map(NodeId) {
            let mut open = vec![(root, false)];
            while let Some((id, is_ready)) = open.pop() {
                if is_ready {
                    order.push(id);
                } else if !std::mem::replace(&mut seen[id.0], true) {
                    open.push((id, true));
                    open.extend(self.before(id).map(|id| (id, false)));
                }
            }
        }
        order
    }

    /// Whether a node can be made from a later one.
    pub(crate) fn has_stand_ins(&self) -> bool {
        self.stand_ins.named.is_some()
    }

    /// What must be lowered before a node, whatever the order in the Dockerfile.
    fn before(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        let node = self.node(id);
        let needs = node.needs.iter().map(|(need, _)| *need);
        node.base.into_iter().chain(needs.filter(|need| self.stand_ins.used.contains(need)))
    }

    fn stand_in(&self, name: &str, platform: &Platform) -> Result<Option<NodeId>, LowerError> {
        let contexts = self.stand_ins.named.as_ref().map(|(contexts, _)| contexts);
        match contexts.and_then(|contexts| contexts.find(name, platform)) {
            Some(NamedContext::Stage(stage)) => {
                self.stage_of_context(name, stage).map(|id| Some(self.standing_for(id)))
            }
            _ => Ok(None),
        }
    }

    /// The stage that a context names.
    fn stage_of_context(&self, context: &str, stage: &str) -> Result<NodeId, LowerError> {
        self.target(Some(stage)).map_err(|error| match error {
            LowerError::Diagnostic(mut diagnostic) => {
                diagnostic.message = format!("the build context {context}: {}", diagnostic.message);
                LowerError::Diagnostic(diagnostic)
            }
            other => other,
        })
    }

    /// The end of a chain of stages that stand for each other.
    fn last_of(&self, replaced: &HashMap<NodeId, NodeId>, from: NodeId) -> Result<NodeId, LowerError> {
        let mut at = from;
        for _ in 0..=replaced.len() {
            match replaced.get(&at) {
                Some(next) => at = *next,
                None => return Ok(at),
            }
        }
        let node = self.node(from);
        Err(node.place.error(format!("circular dependency detected on stage: {}", node.name)))
    }
}
