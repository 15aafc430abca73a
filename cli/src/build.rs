//! `kiln build`: reads, parses, lowers, builds, and tells of it. It does not know how any of them is done.

use crate::args::{BuildArgs, ProgressMode};
use crate::contexts::{self, Inputs};
use crate::error::{CommandError, is_registry};
use crate::outputs;
use crate::plain::Plain;
use crate::render::{self, Source};
use crate::stderr::{self, say};
use kiln_frontend::{BuildOptions, ImageRequest, LowerError, Lowered, NamedContext, ResolvedImage, Ulimit};
use kiln_grammar::{Diagnostic, Parse, Severity};
use kiln_oci::{Platform, Reference};
use kiln_worker::{
    BuildRequest, BuildResult, CancelToken, Image, LocalFolder, Output, Progress, ProgressSink, Worker,
    WorkerError,
};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

/// Steps that run at once for each core: most steps wait more than they compute.
const JOBS_PER_CORE: usize = 8;

/// Builds.
pub(crate) fn run(
    args: BuildArgs,
    open: impl FnOnce(&[String]) -> Result<Worker, WorkerError>,
    cancel: &CancelToken,
) -> Result<(), CommandError> {
    let outputs = outputs::parse_all(&args.outputs, &args.tags, args.push, args.load)?;
    let worker = open(&args.insecure_registry)?;
    let inputs = contexts::read(&args, &worker)?;
    let source = Source { name: &inputs.name, text: &inputs.dockerfile };
    let parse = kiln_grammar::parse(&inputs.dockerfile);
    let errors: Vec<Diagnostic> =
        parse.diagnostics.iter().filter(|d| d.severity == Severity::Error).cloned().collect();
    if !errors.is_empty() {
        return Err(CommandError::Dockerfile { text: render::diagnostics(source, &errors) });
    }
    let (named, mut folders) = contexts::named(&args)?;
    folders.insert("context".to_owned(), inputs.folder.clone());
    let keeps_owners = |name: &str| name == "context" && inputs.keeps_owners;
    let folders = folders
        .into_iter()
        .map(|(name, path)| (name.clone(), LocalFolder { path, keeps_owners: keeps_owners(&name) }));
    let folders: BTreeMap<String, LocalFolder> = folders.collect();
    let options = options(&args, &inputs, named)?;
    let mut resolver = Resolver { worker: &worker, pull: args.pull, images: Vec::new(), failure: None };
    if args.check {
        return check(&parse, &options, source, &mut resolver);
    }
    let lowered = lower(&parse, &options, source, &mut resolver)?;
    let warnings = lowered.warnings.clone();
    let quiet = args.quiet || args.progress == ProgressMode::Quiet;
    let request = request(&args, lowered, resolver.images, folders, outputs, &options)?;
    let plain = Plain::new(quiet || args.progress == ProgressMode::None);
    let show = |p: Progress<'_>| plain.show(p);
    let result =
        worker.build(&request, &ProgressSink::new(&show), cancel).map_err(|e| step_error(e, source))?;
    tell(&args, quiet, &result, &warnings, source)
}

fn lower(
    parse: &Parse,
    options: &BuildOptions,
    source: Source<'_>,
    resolver: &mut Resolver<'_>,
) -> Result<Lowered, CommandError> {
    let lowered = kiln_frontend::lower(parse, options, &mut |wanted| resolver.resolve(wanted));
    lowered.map_err(|e| lower_error(e, source, resolver))
}

fn lower_error(error: LowerError, source: Source<'_>, resolver: &mut Resolver<'_>) -> CommandError {
    let words = error.to_string();
    match error {
        LowerError::Diagnostic(d) => CommandError::Dockerfile { text: render::diagnostics(source, &[d]) },
        LowerError::Image { reference, message, line, .. } => {
            let failure = resolver.failure.take();
            if let Some(error @ WorkerError::Canceled) = failure {
                return error.into();
            }
            let registry = failure.is_some_and(|e| is_registry(&e));
            let picture = render::lines(source, &[(line, line)]);
            CommandError::Image {
                text: format!("failed to resolve {reference}: {message}\n{picture}"),
                registry,
            }
        }
        LowerError::Lint { warnings, .. } => {
            let text = render::diagnostics(source, &warnings);
            CommandError::Dockerfile { text: format!("{text}error: {words}\n") }
        }
    }
}

fn check(
    parse: &Parse,
    options: &BuildOptions,
    source: Source<'_>,
    resolver: &mut Resolver<'_>,
) -> Result<(), CommandError> {
    let checked = kiln_frontend::check(parse, options, &mut |wanted| resolver.resolve(wanted));
    if let Some(error) = checked.error {
        return Err(lower_error(error, source, resolver));
    }
    let count = checked.warnings.len();
    if count == 0 {
        say("Check complete, no warnings found.");
        return Ok(());
    }
    let text = render::diagnostics(source, &checked.warnings);
    let noun = if count == 1 { "warning has" } else { "warnings have" };
    Err(CommandError::Findings { text: format!("{text}Check complete, {count} {noun} been found!\n") })
}

/// Answers the frontend's questions, and keeps the images for the build.
struct Resolver<'a> {
    worker: &'a Worker,
    pull: bool,
    images: Vec<Image>,
    failure: Option<WorkerError>,
}

impl Resolver<'_> {
    fn resolve(&mut self, wanted: &[ImageRequest]) -> Vec<Result<ResolvedImage, String>> {
        let parsed: Vec<Result<(Reference, Platform), String>> = wanted
            .iter()
            .map(|w| {
                w.reference
                    .parse()
                    .map(|r| (r, w.platform.clone()))
                    .map_err(|e: kiln_oci::ReferenceError| e.to_string())
            })
            .collect();
        let good: Vec<(Reference, Platform)> = parsed.iter().flatten().cloned().collect();
        let mut answers = self.worker.resolve(&good, self.pull).into_iter();
        let mut out = Vec::new();
        for parsed in parsed {
            let answer = match parsed {
                Ok(_) => answers.next(),
                Err(message) => {
                    out.push(Err(message));
                    continue;
                }
            };
            out.push(match answer {
                Some(Ok(image)) => {
                    let resolved = ResolvedImage {
                        digest: image.digest,
                        config: image.config.clone(),
                        reference: image.reference.to_string(),
                    };
                    self.images.push(image);
                    Ok(resolved)
                }
                Some(Err(error)) => {
                    let message = error.to_string();
                    self.failure.get_or_insert(error);
                    Err(message)
                }
                None => Err("no answer".to_owned()),
            });
        }
        out
    }
}

fn options(
    args: &BuildArgs,
    inputs: &Inputs,
    named: BTreeMap<String, NamedContext>,
) -> Result<BuildOptions, CommandError> {
    let host = Platform::host();
    let default_platform = std::env::var("DOCKER_DEFAULT_PLATFORM").ok().filter(|v| !v.is_empty());
    let asked = args.platform.clone().or(default_platform);
    let platform = match &asked {
        Some(text) => text
            .parse()
            .map_err(|e: kiln_oci::PlatformError| CommandError::usage("--platform", e.to_string()))?,
        None => host.clone(),
    };
    let mut options = BuildOptions::new(platform);
    options.build_platform = host;
    options.explicit_platform = asked.is_some();
    options.target.clone_from(&args.target);
    options.build_args = build_args(args);
    options.labels = args.label.iter().map(|l| pair(l)).collect();
    options.main_context =
        NamedContext::Local { name: "context".to_owned(), excludes: contexts::patterns(&inputs.ignore) };
    options.contexts = named;
    options.no_cache = args.no_cache;
    options.no_cache_filter.clone_from(&args.no_cache_filter);
    options.network = match args.network.as_str() {
        "default" | "" => kiln_frontend::NetworkMode::Unset,
        "none" => kiln_frontend::NetworkMode::None,
        "host" => kiln_frontend::NetworkMode::Host,
        other => {
            return Err(CommandError::usage(
                "--network",
                format!("unknown network `{other}`: default, host or none"),
            ));
        }
    };
    options.extra_hosts = args.add_host.iter().map(|h| add_host(h)).collect::<Result<_, _>>()?;
    options.shm_size_bytes = args.shm_size.as_deref().map_or(Ok(0), size_bytes)?;
    options.ulimits = args.ulimit.iter().map(|u| ulimit(u)).collect::<Result<_, _>>()?;
    options.ignore.clone_from(&inputs.ignore);
    for allowed in &args.allow {
        match allowed.as_str() {
            "network.host" => options.allow_host_network = true,
            "security.insecure" => options.allow_insecure = true,
            other => return Err(CommandError::usage("--allow", format!("unknown entitlement `{other}`"))),
        }
    }
    // Whoever names the host's network for all steps has allowed it.
    options.allow_host_network |= args.network == "host";
    options.dockerfile_name.clone_from(&inputs.name);
    Ok(options)
}

fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (name.to_owned(), value.to_owned())
}

/// Build arguments; one without a value has that of the environment. The time of the source is taken
/// from there without being asked for.
fn build_args(args: &BuildArgs) -> Vec<(String, Option<String>)> {
    let mut all: Vec<(String, Option<String>)> = args
        .build_arg
        .iter()
        .map(|text| match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (text.clone(), std::env::var(text).ok()),
        })
        .collect();
    if !all.iter().any(|(name, _)| name == "SOURCE_DATE_EPOCH")
        && let Ok(value) = std::env::var("SOURCE_DATE_EPOCH")
        && !value.is_empty()
    {
        all.push(("SOURCE_DATE_EPOCH".to_owned(), Some(value)));
    }
    all
}

fn add_host(text: &str) -> Result<(String, String), CommandError> {
    let split = text.split_once('=').or_else(|| text.split_once(':'));
    match split.filter(|(name, address)| !name.is_empty() && !address.is_empty()) {
        Some((name, address)) => Ok((name.to_owned(), address.to_owned())),
        None => Err(CommandError::usage(format!("--add-host {text}"), "write NAME:ADDRESS")),
    }
}

/// A size as Docker writes it: bytes, or with k, m, g for the powers of 1024.
fn size_bytes(text: &str) -> Result<i64, CommandError> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches('b');
    let (number, shift) = match digits.chars().last() {
        Some('k') => (&digits[..digits.len() - 1], 10),
        Some('m') => (&digits[..digits.len() - 1], 20),
        Some('g') => (&digits[..digits.len() - 1], 30),
        _ => (digits, 0),
    };
    let parsed = number.parse::<i64>().ok().filter(|n| *n >= 0).and_then(|n| n.checked_mul(1 << shift));
    parsed.ok_or_else(|| CommandError::usage("--shm-size", format!("`{text}` is not a size, as 64m")))
}

fn ulimit(text: &str) -> Result<Ulimit, CommandError> {
    let usage = || CommandError::usage(format!("--ulimit {text}"), "write NAME=SOFT[:HARD]");
    let (name, limits) = text.split_once('=').ok_or_else(usage)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    match (soft.parse(), hard.parse()) {
        (Ok(soft), Ok(hard)) => Ok(Ulimit { name: name.to_owned(), soft, hard }),
        _ => Err(usage()),
    }
}

fn request(
    args: &BuildArgs,
    lowered: Lowered,
    images: Vec<Image>,
    locals: BTreeMap<String, LocalFolder>,
    outputs: Vec<Output>,
    options: &BuildOptions,
) -> Result<BuildRequest, CommandError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(BuildRequest {
        images: by_identifier(&lowered, images),
        definition: lowered.definition,
        config: lowered.config,
        locals,
        secrets: secrets(args)?,
        ssh: agents(args)?,
        jobs: args.jobs.map_or(cores * JOBS_PER_CORE, usize::from),
        shm_size_bytes: u64::try_from(options.shm_size_bytes).unwrap_or_default(),
        empty_caches: args.no_cache,
        source_date_epoch_s: lowered.source_date_epoch,
        annotations: args.annotation.iter().map(|a| pair(a)).collect(),
        outputs,
    })
}

/// The images by what the graph calls them: `docker-image://REPOSITORY…@DIGEST`.
fn by_identifier(lowered: &Lowered, images: Vec<Image>) -> HashMap<String, Image> {
    let mut known = HashMap::new();
    for vertex in lowered.definition.vertices() {
        let Some(identifier) = kiln_frontend::image_identifier(vertex) else { continue };
        let Ok(named) = identifier.trim_start_matches("docker-image://").parse::<Reference>() else {
            continue;
        };
        let same = |image: &&Image| {
            let asked = &image.reference;
            named.digest() == Some(image.digest)
                && (named.registry(), named.repository()) == (asked.registry(), asked.repository())
        };
        if let Some(image) = images.iter().find(same) {
            known.insert(identifier.to_owned(), image.clone());
        }
    }
    known
}

fn secrets(args: &BuildArgs) -> Result<BTreeMap<String, Vec<u8>>, CommandError> {
    let mut out = BTreeMap::new();
    for text in &args.secret {
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

fn agents(args: &BuildArgs) -> Result<BTreeMap<String, PathBuf>, CommandError> {
    let mut out = BTreeMap::new();
    for text in &args.ssh {
        let (id, socket) =
            text.split_once('=').map_or((text.as_str(), None), |(id, s)| (id, Some(PathBuf::from(s))));
        let socket = socket.or_else(|| std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from));
        let socket = socket
            .ok_or_else(|| CommandError::usage("--ssh", "SSH_AUTH_SOCK is not set; write ID=SOCKET"))?;
        out.insert(id.to_owned(), socket);
    }
    Ok(out)
}

/// A failed step as BuildKit shows it: the end of its output, its lines, what went wrong.
fn step_error(error: WorkerError, source: Source<'_>) -> CommandError {
    let WorkerError::Vertex { name, lines, log, error, .. } = error else {
        return error.into();
    };
    let mut text = String::from("failed to build: ");
    text.push_str(&error.to_string());
    let mut picture = String::new();
    if !log.is_empty() {
        let name = name.replace(['\n', '\r'], " ");
        picture.push_str(&format!("------\n > {name}:\n"));
        for line in log.iter().flat_map(|line| stderr::shown_lines(line)) {
            picture.push_str(&String::from_utf8_lossy(line));
            picture.push('\n');
        }
        picture.push_str("------\n");
    }
    picture.push_str(&render::lines(source, &lines));
    if !picture.is_empty() {
        say(picture.trim_end());
    }
    CommandError::Step { text, error }
}

/// Writes what was made to where it was asked for.
fn tell(
    args: &BuildArgs,
    quiet: bool,
    result: &BuildResult,
    warnings: &[Diagnostic],
    source: Source<'_>,
) -> Result<(), CommandError> {
    let id = result.config_digest.map_or_else(String::new, |d| d.to_string());
    if let Some(path) = &args.iidfile {
        kiln_worker::write_whole(path, id.as_bytes())?;
    }
    if let Some(path) = &args.metadata_file {
        let text = serde_json::to_string_pretty(&metadata(result)).unwrap_or_default();
        kiln_worker::write_whole(path, (text + "\n").as_bytes())?;
    }
    if quiet && outputs::any_on_standard_output(&args.outputs, &args.tags) {
        return Ok(());
    }
    if quiet {
        use std::io::Write;
        return writeln!(std::io::stdout(), "{id}")
            .map_err(CommandError::file("write to", "standard output"));
    }
    if !warnings.is_empty() {
        let count = warnings.len();
        say(&format!("\n {count} warning{} found:\n", if count == 1 { "" } else { "s" }));
        say(render::diagnostics(source, warnings).trim_end());
    }
    Ok(())
}

/// What BuildKit's metadata file holds, under the same keys.
fn metadata(result: &BuildResult) -> serde_json::Value {
    let mut map = serde_json::Map::new();
    if let Some(digest) = result.config_digest {
        map.insert("containerimage.config.digest".to_owned(), digest.to_string().into());
    }
    if let Some(manifest) = &result.manifest {
        map.insert("containerimage.digest".to_owned(), manifest.digest.to_string().into());
        map.insert(
            "containerimage.descriptor".to_owned(),
            serde_json::to_value(manifest).unwrap_or_default(),
        );
    }
    if !result.names.is_empty() {
        map.insert("image.name".to_owned(), result.names.join(",").into());
    }
    map.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_writes_them() {
        for (text, want) in
            [("3m", Some(3 << 20)), ("64", Some(64)), ("1GB", Some(1 << 30)), ("x", None), ("-1", None)]
        {
            assert_eq!(size_bytes(text).ok(), want, "{text}");
        }
    }
}
