//! Where an image comes from, as a predicate of SLSA 1.0 with the fields that BuildKit gives it (BuildKit,
//! `docs/attestations/slsa-definitions.md`). It does not know where it goes.
//!
//! What is said comes from the graph that was built and from what was fetched for it, never from a file of the
//! build: neither a Dockerfile nor a step can change it. Secrets are known by their ids alone; what is said goes
//! through [`Redactor`] all the same, as a user may have written one where it does not belong.

mod steps;

use super::purl;
use super::redact::Redactor;
use crate::WorkerError;
use crate::image_name::ImageName;
use crate::worker::{BuildRequest, Target};
use jiff::Timestamp;
use kiln_oci::{Digest, Platform, Reference};
use kiln_solver::{Definition, MountKind, NetworkMode, Op, SourceOp, Vertex};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// BuildKit's description of these fields.
const BUILD_TYPE: &str = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
/// What lowers Dockerfiles is called so, as in BuildKit.
const FRONTEND: &str = "dockerfile.v0";
/// Arguments of which only `max` tells.
const PRIVATE: [&str; 2] = ["build-arg:", "label:"];

/// How much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProvenanceMode {
    /// Neither arguments nor steps nor the Dockerfile.
    Min,
    /// All but the values of secrets.
    Max,
}

/// What is told of where an image comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenanceRequest {
    /// How much.
    pub mode: ProvenanceMode,
    /// Who builds, as an address; empty if nobody said.
    pub builder_id: String,
    /// How it is called beside files.
    pub file: String,
    /// Whether the user says that the same build gives the same bytes.
    pub reproducible: bool,
    /// Whether it is left out beside files.
    pub inline_only: bool,
    /// The source that the context came from, if that is not a folder of this machine.
    pub context: Option<SourceOp>,
    /// The Dockerfile's path, as it was named.
    pub dockerfile_path: String,
    /// The Dockerfile's text.
    pub dockerfile: String,
    /// What else was asked for, under BuildKit's names: `build-arg:NAME`, `label:NAME`, `target`.
    pub args: BTreeMap<String, String>,
}

/// What a source turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// A commit of a repository.
    Commit(String),
    /// A file with this digest.
    File(Digest),
}

/// What is known of a build only when it is done.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Its own name.
    pub invocation: String,
    /// When it began.
    pub started: Timestamp,
    /// What was fetched, by the sources' identifiers.
    pub fetched: BTreeMap<String, Fetched>,
}

/// The predicate of a target.
pub(super) fn predicate(
    request: &BuildRequest,
    wanted: &ProvenanceRequest,
    target: &Target,
    facts: &Facts,
) -> Result<Value, WorkerError> {
    let redactor = Redactor::new(request.secrets.values());
    let graph = Graph::of(&request.definition, target);
    let materials = graph.materials(request, wanted, facts);
    let is_max = wanted.mode == ProvenanceMode::Max;
    let (asked, is_all_told) = asked(wanted, &graph, &redactor);
    // As in BuildKit: a folder of this machine is no dependency that could be had again.
    let is_complete = asked["locals"].as_array().is_none_or(Vec::is_empty);
    let config_source = config_source(wanted, facts);
    let mut internal = json!({"builderPlatform": Platform::host().to_string()});
    let mut metadata = json!({
        "invocationID": facts.invocation,
        "startedOn": facts.started.to_string(),
        "finishedOn": Timestamp::now().to_string(),
        "buildkit_metadata": {},
        "buildkit_hermetic": is_complete && !graph.has_network(),
        "buildkit_completeness": {"request": is_all_told, "resolvedDependencies": is_complete},
        "buildkit_reproducible": wanted.reproducible,
    });
    if is_max {
        let told = steps::told(&request.definition, target, wanted, &redactor)?;
        internal["buildConfig"] = told.config;
        metadata["buildkit_metadata"]["source"] = told.source;
    }
    let said = json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"configSource": config_source, "request": asked},
            "resolvedDependencies": materials,
        },
        "runDetails": {"builder": {"id": wanted.builder_id}, "metadata": metadata},
    });
    let mut said = redactor.value(said);
    // The steps were looked through one by one.
    said["buildDefinition"]["internalParameters"] = internal;
    Ok(said)
}

/// Where the Dockerfile is.
fn config_source(wanted: &ProvenanceRequest, facts: &Facts) -> Value {
    let mut out = json!({"path": wanted.dockerfile_path});
    if let Some(context) = &wanted.context {
        out["uri"] = address(context).into();
        if let Some(pin) = facts.fetched.get(&context.identifier) {
            out["digest"] = digest(pin);
        }
    }
    out
}

/// What was asked for, and whether that is all of it.
fn asked(wanted: &ProvenanceRequest, graph: &Graph<'_>, redactor: &Redactor) -> (Value, bool) {
    let is_max = wanted.mode == ProvenanceMode::Max;
    let is_private = |name: &String| PRIVATE.iter().any(|prefix| name.starts_with(prefix));
    let shown = wanted.args.iter().filter(|(name, _)| is_max || !is_private(name));
    let args: Map<String, Value> =
        shown.clone().map(|(name, value)| (redactor.text(name), value.as_str().into())).collect();
    let is_all_told = shown.count() == wanted.args.len();
    let mut locals: BTreeSet<&str> = graph.locals();
    match wanted.context {
        Some(_) => drop(locals.remove("context")),
        None => drop(locals.insert("dockerfile")),
    }
    let locals: Vec<Value> = locals.into_iter().map(|name| json!({"name": name})).collect();
    let mut out = json!({"frontend": FRONTEND, "args": args, "locals": locals});
    if is_max {
        let (secrets, ssh) = graph.secrets();
        let listed = |all: BTreeMap<String, bool>| -> Vec<Value> {
            let one = |(id, optional)| {
                if optional { json!({"id": id, "optional": true}) } else { json!({"id": id}) }
            };
            all.into_iter().map(one).collect()
        };
        out["secrets"] = listed(secrets).into();
        out["ssh"] = listed(ssh).into();
    }
    (out, is_all_told)
}

/// What a target is made of.
struct Graph<'a> {
    vertices: Vec<&'a Vertex>,
}

impl<'a> Graph<'a> {
    fn of(definition: &'a Definition, target: &Target) -> Graph<'a> {
        let mut wanted = vec![false; definition.vertices().len()];
        if let Some(edge) = target.edge {
            wanted[edge.vertex.index()] = true;
        }
        // Inputs come before those that use them.
        for at in (0..wanted.len()).rev() {
            if wanted[at] {
                definition.vertices()[at].inputs.iter().for_each(|input| wanted[input.vertex.index()] = true);
            }
        }
        let vertices = definition.vertices().iter().zip(wanted).filter(|(_, wanted)| *wanted);
        Graph { vertices: vertices.map(|(vertex, _)| vertex).collect() }
    }

    fn sources(&self) -> impl Iterator<Item = (&'a SourceOp, Option<&'a Platform>)> {
        self.vertices.iter().filter_map(|vertex| match &vertex.op {
            Op::Source(source) => Some((source, vertex.platform.as_ref())),
            _ => None,
        })
    }

    fn locals(&self) -> BTreeSet<&'a str> {
        self.sources().filter_map(|(source, _)| source.identifier.strip_prefix("local://")).collect()
    }

    fn has_network(&self) -> bool {
        self.vertices.iter().any(|vertex| match &vertex.op {
            Op::Exec(exec) => exec.network != NetworkMode::None,
            _ => false,
        })
    }

    /// The ids of secrets and of agents, each with whether it may be missing.
    fn secrets(&self) -> (BTreeMap<String, bool>, BTreeMap<String, bool>) {
        let (mut secrets, mut ssh) = (BTreeMap::new(), BTreeMap::new());
        let add = |all: &mut BTreeMap<String, bool>, id: &str, optional: bool| {
            all.entry(id.to_owned()).and_modify(|known| *known &= optional).or_insert(optional);
        };
        for vertex in &self.vertices {
            let Op::Exec(exec) = &vertex.op else { continue };
            for mount in &exec.mounts {
                match &mount.kind {
                    MountKind::Secret(secret) => add(&mut secrets, &secret.id, secret.optional),
                    MountKind::Ssh(agent) => add(&mut ssh, &agent.id, agent.optional),
                    _ => {}
                }
            }
            exec.secret_env.iter().for_each(|secret| add(&mut secrets, &secret.id, secret.optional));
        }
        (secrets, ssh)
    }

    /// What came from outside, sorted, each once.
    fn materials(&self, request: &BuildRequest, wanted: &ProvenanceRequest, facts: &Facts) -> Vec<Value> {
        let of_context = wanted.context.as_ref().map(|context| (context, None));
        let all = self.sources().chain(of_context).filter_map(|(source, platform)| {
            let (uri, digest) = match request.images.get(&source.identifier) {
                Some(image) => (of_image(&image.name, platform), json!({"sha256": image.top.hex()})),
                None => (address(source), digest(facts.fetched.get(&source.identifier)?)),
            };
            Some((uri, digest.to_string(), digest))
        });
        let mut all: Vec<(String, String, Value)> = all.collect();
        all.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        all.dedup_by(|a, b| (&a.0, &a.1) == (&b.0, &b.1));
        all.into_iter().map(|(uri, _, digest)| json!({"uri": uri, "digest": digest})).collect()
    }
}

fn of_image(name: &ImageName, platform: Option<&Platform>) -> String {
    match name {
        ImageName::Registry(reference) => purl::of_image("docker", reference, platform),
        ImageName::Layout(layout) => {
            // Where the folder lies is nobody's business.
            let folder = layout.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            let tag = layout.tag.as_deref().map_or_else(String::new, |tag| format!(":{tag}"));
            let digest = layout.digest.map_or_else(String::new, |digest| format!("@{digest}"));
            let name = format!("{}{tag}{digest}", folder.to_lowercase()).parse::<Reference>();
            name.map_or_else(|_| "pkg:oci/layout".to_owned(), |name| purl::of_image("oci", &name, platform))
        }
    }
}

/// Where a source is, as people write it.
fn address(source: &SourceOp) -> String {
    let (place, fragment) = source.identifier.split_once('#').unwrap_or((&source.identifier, ""));
    let place = source.attrs.get("git.fullurl").map_or(place, String::as_str);
    let reference = fragment.split(':').next().unwrap_or_default();
    if reference.is_empty() { place.to_owned() } else { format!("{place}#{reference}") }
}

fn digest(fetched: &Fetched) -> Value {
    match fetched {
        Fetched::Commit(commit) if commit.len() == 64 => json!({"sha256": commit}),
        Fetched::Commit(commit) => json!({"sha1": commit}),
        Fetched::File(digest) => json!({"sha256": digest.hex()}),
    }
}

#[cfg(test)]
mod tests;
