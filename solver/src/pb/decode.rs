//! From messages to a definition: every index, choice and number is looked at before it is used. It does
//! not know bytes.

mod exec;
mod file;

use super::encode::NOTHING;
use super::{MAX_AGE, NAME, PROXY, PbError, STAGE, messages as pb};
use crate::definition::{Definition, Edge, ExecOp, Metadata, Op, SourceOp, Vertex, VertexId};
use kiln_oci::{Digest, Platform};
use std::collections::HashMap;

/// One output of an op, by the op's number.
type Output = (usize, u32);

pub(super) fn definition(message: &pb::Definition, ops: &[(Digest, pb::Op)]) -> Result<Definition, PbError> {
    let mut definition = Definition::new();
    let Some(((_, last), ops)) = ops.split_last() else { return Ok(definition) };
    if last.op.is_some() || last.inputs.len() > 1 {
        return Err(PbError::NoTarget);
    }
    let inputs = inputs(ops, last)?;
    let mut ids: Vec<Option<VertexId>> = vec![None; ops.len()];
    let mut outputs: Vec<Vec<u32>> = vec![Vec::new(); ops.len()];
    for number in in_order(&inputs[..ops.len()])? {
        let reader = Reader { op: number };
        let edge = |output: &Output| reader.edge(*output, &ids, &outputs);
        let edges = inputs[number].iter().map(edge).collect::<Result<Vec<Edge>, PbError>>()?;
        let (digest, op) = &ops[number];
        let (vertex, given) = reader.vertex(op, edges, &digest.to_string(), message)?;
        ids[number] = Some(definition.add(vertex));
        outputs[number] = given;
    }
    let reader = Reader { op: ops.len() };
    if let Some(target) = inputs[ops.len()].first() {
        definition.target = Some(reader.edge(*target, &ids, &outputs)?);
    }
    Ok(definition)
}

/// What each op is done on, by the numbers of ops; the target's at the end.
fn inputs(ops: &[(Digest, pb::Op)], last: &pb::Op) -> Result<Vec<Vec<Output>>, PbError> {
    let mut numbers: HashMap<String, usize> = HashMap::with_capacity(ops.len());
    for (op, (digest, _)) in ops.iter().enumerate() {
        let digest = digest.to_string();
        if numbers.insert(digest.clone(), op).is_some() {
            return Err(PbError::Duplicate { op, digest });
        }
    }
    let of_op = |(op, message): (usize, &pb::Op)| -> Result<Vec<Output>, PbError> {
        let find = |pb::Input { digest, index }: &pb::Input| {
            let input = numbers.get(digest).copied();
            let input = input.ok_or_else(|| PbError::MissingInput { op, digest: digest.clone() })?;
            let output = u32::try_from(*index);
            Ok((input, output.map_err(|_| PbError::Index { op, field: "Input.index", value: *index })?))
        };
        message.inputs.iter().map(find).collect()
    };
    ops.iter().map(|(_, op)| op).chain([last]).enumerate().map(of_op).collect()
}

/// The ops, each after its inputs; those that are in such an order stay in it.
fn in_order(inputs: &[Vec<Output>]) -> Result<Vec<usize>, PbError> {
    let mut order = Vec::with_capacity(inputs.len());
    let mut done = vec![false; inputs.len()];
    let mut on_path = vec![false; inputs.len()];
    for root in 0..inputs.len() {
        let mut path = vec![(root, 0)];
        while let Some((op, next)) = path.last_mut() {
            let op = *op;
            if done[op] {
                path.pop();
                continue;
            }
            on_path[op] = true;
            if let Some((input, _)) = inputs[op].get(*next) {
                *next += 1;
                if on_path[*input] && !done[*input] {
                    return Err(PbError::Circle { op: *input });
                }
                path.push((*input, 0));
                continue;
            }
            done[op] = true;
            order.push(op);
            path.pop();
        }
    }
    Ok(order)
}

/// Reads one op, and says which one where something is wrong with it.
#[derive(Clone, Copy)]
struct Reader {
    op: usize,
}

impl Reader {
    /// An output of an op that was read before.
    fn edge(
        self,
        (op, output): Output,
        ids: &[Option<VertexId>],
        outputs: &[Vec<u32>],
    ) -> Result<Edge, PbError> {
        let there = outputs[op].contains(&output).then_some(()).and(ids[op]);
        let vertex = there.ok_or_else(|| self.index("Input.index", i64::from(output)))?;
        Ok(Edge { vertex, output })
    }

    /// The vertex of an op, and the outputs that it has.
    fn vertex(
        self,
        message: &pb::Op,
        inputs: Vec<Edge>,
        digest: &str,
        definition: &pb::Definition,
    ) -> Result<(Vertex, Vec<u32>), PbError> {
        if message.constraints.as_ref().is_some_and(|constraints| !constraints.filter.is_empty()) {
            return Err(self.unsupported("constraints on who runs it"));
        }
        let said = definition.metadata.get(digest);
        let (op, inputs, outputs) = match &message.op {
            None => return Err(PbError::NoKind { op: self.op }),
            Some(pb::OpKind::Source(source)) => (self.source(source, &inputs)?, inputs, vec![0]),
            Some(pb::OpKind::Exec(exec)) => {
                let (mut exec, outputs) = self.exec(exec, inputs.len())?;
                self.proxies_as_they_were(&mut exec, said)?;
                (Op::Exec(Box::new(exec)), inputs, outputs)
            }
            Some(pb::OpKind::File(file)) => {
                let (file, outputs) = self.file(file, inputs.len())?;
                (Op::File(file), inputs, outputs)
            }
            Some(pb::OpKind::Merge(merge)) => (Op::Merge, self.merge(merge, &inputs)?, vec![0]),
            Some(pb::OpKind::Diff(diff)) => (Op::Diff, self.diff(*diff, &inputs)?, vec![0]),
            Some(pb::OpKind::Build(_)) => return Err(self.unsupported("a BuildOp, a build in a build")),
            Some(pb::OpKind::Passthrough(_)) => return Err(self.unsupported("a PassthroughOp")),
        };
        let platform = message.platform.as_ref().map(platform);
        let metadata = self.metadata(said, digest, definition.source.as_ref())?;
        Ok((Vertex { op, inputs, platform, metadata }, outputs))
    }

    fn source(self, source: &pb::SourceOp, inputs: &[Edge]) -> Result<Op, PbError> {
        let pb::SourceOp { identifier, attrs } = source.clone();
        if identifier.is_empty() {
            return Err(self.missing("SourceOp.identifier"));
        }
        if !inputs.is_empty() {
            return Err(self.unsupported("a source that has inputs"));
        }
        Ok(Op::Source(SourceOp { identifier, attrs }))
    }

    fn merge(self, merge: &pb::MergeOp, inputs: &[Edge]) -> Result<Vec<Edge>, PbError> {
        if merge.inputs.is_empty() {
            return Err(self.missing("MergeOp.inputs"));
        }
        merge.inputs.iter().map(|input| self.input_edge("MergeInput.input", input.input, inputs)).collect()
    }

    fn diff(self, diff: pb::DiffOp, inputs: &[Edge]) -> Result<Vec<Edge>, PbError> {
        let lower = diff.lower.ok_or_else(|| self.missing("DiffOp.lower"))?.input;
        let upper = diff.upper.ok_or_else(|| self.missing("DiffOp.upper"))?.input;
        if lower == NOTHING || upper == NOTHING {
            return Err(self.unsupported("a DiffOp of an empty file system"));
        }
        Ok(vec![
            self.input_edge("LowerDiffInput.input", lower, inputs)?,
            self.input_edge("UpperDiffInput.input", upper, inputs)?,
        ])
    }

    fn input_edge(self, field: &'static str, value: i64, inputs: &[Edge]) -> Result<Edge, PbError> {
        let edge = usize::try_from(value).ok().and_then(|number| inputs.get(number));
        edge.copied().ok_or_else(|| self.index(field, value))
    }

    fn proxies_as_they_were(self, exec: &mut ExecOp, said: Option<&pb::OpMetadata>) -> Result<(), PbError> {
        if let Some(text) = said.and_then(|metadata| metadata.description.get(PROXY)) {
            exec.meta.proxy_env = serde_json::from_str(text).map_err(|source| PbError::Description {
                op: self.op,
                key: PROXY,
                source,
            })?;
        }
        Ok(())
    }

    fn metadata(
        self,
        said: Option<&pb::OpMetadata>,
        digest: &str,
        source: Option<&pb::Source>,
    ) -> Result<Metadata, PbError> {
        let text = |key: &str| said.and_then(|metadata| metadata.description.get(key)).cloned();
        let locations = source.and_then(|source| source.locations.get(digest));
        let mut lines = Vec::new();
        for location in locations.iter().flat_map(|locations| &locations.locations) {
            // Further files are those that the Dockerfile came from, or was made of.
            let ranges = if location.source_index == 0 { location.ranges.as_slice() } else { &[] };
            for range in ranges {
                let line = |position: Option<pb::Position>| {
                    let line = position.unwrap_or_default().line;
                    u32::try_from(line).map_err(|_| self.number("Position.line", i64::from(line)))
                };
                lines.push((line(range.start)?, line(range.end)?));
            }
        }
        Ok(Metadata {
            name: text(NAME).unwrap_or_default(),
            lines,
            stage: text(STAGE).unwrap_or_default(),
            ignore_cache: said.is_some_and(|metadata| metadata.ignore_cache),
            // One that can't be read is none: what would follow is only that more is known.
            max_age_s: text(MAX_AGE).and_then(|age| age.parse().ok()),
        })
    }

    /// `-1` is none; anything else must be one of `count`.
    fn optional(self, field: &'static str, value: i64, count: usize) -> Result<Option<u32>, PbError> {
        if value == NOTHING {
            return Ok(None);
        }
        let number = u32::try_from(value).ok().filter(|number| (*number as usize) < count);
        number.map(Some).ok_or_else(|| self.index(field, value))
    }

    /// The outputs that are given, each once.
    fn outputs(self, given: impl Iterator<Item = Option<u32>>) -> Result<Vec<u32>, PbError> {
        let mut outputs: Vec<u32> = given.flatten().collect();
        outputs.sort_unstable();
        if let Some(twice) = outputs.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(PbError::TwoOutputs { op: self.op, output: twice[0] });
        }
        Ok(outputs)
    }

    fn index(self, field: &'static str, value: i64) -> PbError {
        PbError::Index { op: self.op, field, value }
    }

    fn number(self, field: &'static str, value: i64) -> PbError {
        PbError::Number { op: self.op, field, value }
    }

    fn missing(self, field: &'static str) -> PbError {
        PbError::Missing { op: self.op, field }
    }

    fn unsupported(self, what: &'static str) -> PbError {
        PbError::Unsupported { op: self.op, what }
    }
}

fn platform(platform: &pb::Platform) -> Platform {
    let pb::Platform { architecture, os, variant, os_version, os_features } = platform.clone();
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    Platform { architecture, os, os_version: given(os_version), os_features, variant: given(variant) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_come_after_their_inputs_and_stay_where_they_are_if_they_do() {
        let order = |inputs: &[&[usize]]| {
            let inputs: Vec<Vec<Output>> =
                inputs.iter().map(|inputs| inputs.iter().map(|input| (*input, 0)).collect()).collect();
            in_order(&inputs).map_err(|error| error.to_string())
        };
        assert_eq!(order(&[&[], &[], &[0], &[1, 2]]), Ok(vec![0, 1, 2, 3]));
        assert_eq!(order(&[&[1, 2], &[2, 2], &[]]), Ok(vec![2, 1, 0]));
        assert_eq!(order(&[&[], &[2], &[3], &[1]]), Err("op 1 needs itself".to_owned()));
        assert_eq!(order(&[&[0]]), Err("op 0 needs itself".to_owned()));
    }
}
