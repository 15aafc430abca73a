//! The steps of a build as BuildKit's provenance tells them: each op in JSON with the steps that it needs, and
//! the lines of the Dockerfile that it comes from. It does not know what else is told.

use super::ProvenanceRequest;
use crate::WorkerError;
use crate::attest::redact::Redactor;
use crate::worker::Target;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kiln_oci::LAYOUT_SCHEME;
use kiln_solver::Definition;
use kiln_solver::pb::messages::{Action, Op, OpKind};
use kiln_solver::pb::{self, DumpedOp, SourceFile};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What is told of the steps.
pub(super) struct Told {
    /// `buildConfig`: the steps, and the numbers of those whose digests can be told.
    pub config: Value,
    /// `source`: the Dockerfile, and each step's lines in it.
    pub source: Value,
}

/// All steps that a target is made by.
pub(super) fn told(
    definition: &Definition,
    target: &Target,
    wanted: &ProvenanceRequest,
    redactor: &Redactor,
) -> Result<Told, WorkerError> {
    let mut definition = definition.clone();
    definition.target = target.edge;
    // It may be an address.
    let name = redactor.text(&wanted.dockerfile_path);
    let text = redactor.text(&wanted.dockerfile);
    let message = pb::to_message(&definition, Some(SourceFile { name: &name, text: &text }));
    let ops = pb::dump(&pb::encode(&definition, None))
        .map_err(|e| WorkerError::Unsupported(format!("provenance with mode=max for this build ({e})")))?;
    let ops = needed(ops);
    let numbers: BTreeMap<String, usize> =
        ops.iter().enumerate().map(|(number, dumped)| (dumped.digest.to_string(), number)).collect();
    let (mut steps, mut mapping) = (Vec::new(), Map::new());
    let mut altered: BTreeSet<usize> = BTreeSet::new();
    for (number, dumped) in ops.iter().enumerate() {
        let of = |digest: &str| numbers.get(digest).copied().unwrap_or_default();
        let inputs =
            dumped.op.inputs.iter().map(|input| format!("step{}:{}", of(&input.digest), input.index));
        let (op, is_altered) = shown(&dumped.op, redactor);
        // The digest of what holds a password could be used to find it out, and so those that follow from it.
        if is_altered || dumped.op.inputs.iter().any(|input| altered.contains(&of(&input.digest))) {
            altered.insert(number);
        } else {
            mapping.insert(dumped.digest.to_string(), format!("step{number}").into());
        }
        let mut step = json!({"id": format!("step{number}"), "op": op});
        let inputs: Vec<String> = inputs.collect();
        if !inputs.is_empty() {
            step["inputs"] = inputs.into();
        }
        steps.push(step);
    }
    let mut locations = Map::new();
    for (digest, places) in message.source.iter().flat_map(|source| &source.locations) {
        if let Some(number) = numbers.get(digest) {
            locations.insert(format!("step{number}"), serde_json::to_value(places).unwrap_or_default());
        }
    }
    let info = json!({"filename": name, "language": "Dockerfile", "data": BASE64_STANDARD.encode(&text)});
    Ok(Told {
        config: json!({"llbDefinition": steps, "digestMapping": mapping}),
        source: json!({"locations": locations, "infos": [info]}),
    })
}

/// Those ops that the last one needs, in the same order: inputs before those that use them.
fn needed(mut ops: Vec<DumpedOp>) -> Vec<DumpedOp> {
    let mut wanted: BTreeSet<String> = ops.last().map(|last| last.digest.to_string()).into_iter().collect();
    ops.reverse();
    ops.retain(|dumped| {
        let is_needed = wanted.contains(&dumped.digest.to_string());
        if is_needed {
            wanted.extend(dumped.op.inputs.iter().map(|input| input.digest.clone()));
        }
        is_needed
    });
    ops.reverse();
    ops
}

/// An op without what must not be seen, and whether there was something of that kind in it.
fn shown(op: &Op, redactor: &Redactor) -> (Value, bool) {
    let mut op = op.clone();
    op.inputs.clear();
    let before = op.clone();
    match &mut op.op {
        // Which proxy was used is no part of what was built.
        Some(OpKind::Exec(exec)) => exec.meta.iter_mut().for_each(|meta| meta.proxy_env = None),
        Some(OpKind::File(file)) => {
            for action in &mut file.actions {
                if let Some(Action::Mkfile(made)) = &mut action.action {
                    made.data = redactor.bytes(&made.data);
                }
            }
        }
        // Where the folder lies is nobody's business.
        Some(OpKind::Source(source)) if source.identifier.starts_with(LAYOUT_SCHEME) => {
            let name = source.identifier.rsplit('/').next().unwrap_or_default();
            source.identifier = format!("{LAYOUT_SCHEME}{name}");
        }
        _ => {}
    }
    let value = serde_json::to_value(&op).unwrap_or_default();
    let redacted = redactor.value(value.clone());
    let is_altered = op != before || redacted != value;
    (redacted, is_altered)
}
