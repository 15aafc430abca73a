//! What the worker is asked for: the graph with the images, secrets, agents and devices that steps may have.
//! It does not know how the graph was made.

use super::agents;
use super::annotations::annotations;
use super::graph::Graph;
use super::options::{device_entitlement, pair};
use crate::args::BuildArgs;
use crate::error::CommandError;
use kiln_frontend::BuildOptions;
use kiln_worker::{
    Attest, BuildRequest, Definition, DeviceAccess, Image, ImageName, LocalFolder, Output, Place,
};
use std::collections::{BTreeMap, HashMap};

/// Steps that run at once for each core: most steps wait more than they compute.
const JOBS_PER_CORE: usize = 8;

/// All that the worker needs.
pub(super) fn request(
    args: &BuildArgs,
    graph: Graph,
    images: Vec<Image>,
    locals: BTreeMap<String, LocalFolder>,
    (outputs, attest): (Vec<Output>, Attest),
    (options, place): (&BuildOptions, Place),
) -> Result<BuildRequest, CommandError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(BuildRequest {
        images: by_identifier(&graph.definition, images),
        definition: graph.definition,
        targets: graph.targets,
        is_index: options.multi_platform,
        locals,
        secrets: secrets(&args.secret)?,
        ssh: agents::of(&args.ssh)?,
        devices: device_access(args)?,
        jobs: args.jobs.map_or(cores * JOBS_PER_CORE, usize::from),
        shm_size_bytes: u64::try_from(options.shm_size_bytes).unwrap_or_default(),
        empty_caches: args.no_cache,
        verify_cache: args.verify_cache,
        annotations: annotations(&args.annotation, options.multi_platform || attest.makes_index())?,
        outputs,
        attest,
        cache_imports: Vec::new(),
        cache_exports: Vec::new(),
        cache_strict: args.cache_strict,
        place,
        dry_run: args.dry_run,
    })
}

/// The images by what the graph calls them: `docker-image://REPOSITORY…@DIGEST`.
fn by_identifier(definition: &Definition, images: Vec<Image>) -> HashMap<String, Image> {
    let mut known = HashMap::new();
    for vertex in definition.vertices() {
        let Some(identifier) = kiln_frontend::image_identifier(vertex) else { continue };
        let Ok(name) = identifier.trim_start_matches("docker-image://").parse::<ImageName>() else {
            continue;
        };
        if let Some(image) = images.iter().find(|image| image.is_called(&name)) {
            known.insert(identifier.to_owned(), image.clone());
        }
    }
    known
}

/// Which of the host's devices steps may have.
fn device_access(args: &BuildArgs) -> Result<DeviceAccess, CommandError> {
    let mut access = DeviceAccess::of(args.cdi_spec_dir.clone());
    for allowed in &args.allow {
        if let Some(device) = device_entitlement(allowed) {
            access
                .allow(device)
                .map_err(|problem| CommandError::usage(format!("--allow {allowed}"), problem))?;
        }
    }
    Ok(access)
}

/// The secrets, by id: of each id=ID[,src=FILE|,env=NAME].
pub(crate) fn secrets(texts: &[String]) -> Result<BTreeMap<String, Vec<u8>>, CommandError> {
    let mut out = BTreeMap::new();
    for text in texts {
        let (mut id, mut src, mut env, mut kind) = (None, None, None, None);
        for field in text.split(',') {
            let (key, value) = pair(field);
            match key.as_str() {
                "id" => id = Some(value),
                "src" | "source" => src = Some(value),
                "env" => env = Some(value),
                "type" => kind = Some(value),
                _ => {
                    return Err(CommandError::usage(
                        "--secret",
                        format!("unknown key `{key}`: id, src, env or type"),
                    ));
                }
            }
        }
        let usage = |problem: &str| CommandError::usage("--secret", problem);
        let id = id.or_else(|| src.clone()).ok_or_else(|| usage("needs id=NAME"))?;
        let from_env = env.or_else(|| (kind.as_deref() == Some("env")).then(|| src.clone()).flatten());
        let name = if src.is_none() && kind.as_deref() != Some("file") { Some(id.clone()) } else { None };
        let value = match (from_env.or_else(|| name.filter(|n| std::env::var_os(n).is_some())), src) {
            (Some(name), _) => {
                use std::os::unix::ffi::OsStringExt;
                let value = std::env::var_os(&name);
                value.ok_or_else(|| usage(&format!("the environment has no {name}")))?.into_vec()
            }
            (None, src) => {
                let path = src.unwrap_or_else(|| id.clone());
                std::fs::read(&path).map_err(CommandError::file("read the secret", path))?
            }
        };
        out.insert(id, value);
    }
    Ok(out)
}
