//! The claims about lowering: whatever the Dockerfile, the options and the base images say, what comes out
//! is a graph that can be built, and the same each time. It does not know how anything is built.
//!
//! The input: lines of options, a line `---`, and the Dockerfile.

use crate::memory::{self, FIXED, Held, TIMES};
use crate::meter::peak_of;
use crate::tree::{check_span, instructions, text_of};
use kiln_frontend::{
    BuildOptions, ImageRequest, LowerError, Lowered, NamedContext, NetworkMode, ResolvedImage, check as look,
    lower, normal_context_name,
};
use kiln_grammar::{Parse, Severity, parse, parse_ignore};
use kiln_oci::{DiffId, Digest, History, ImageConfig, Platform};
use kiln_solver::{Definition, Edge, FileActionKind, FileInput, FileOp, MountKind, Op, Vertex};

/// What an instruction costs although it is short: a vertex with its platform, places and names, a line of
/// the history, warnings.
const INSTRUCTION: usize = 4 * 1024;

/// What may have been made before a mistake is found.
const BEFORE_A_MISTAKE: usize = 32 << 20;

/// The input, taken apart.
struct Case<'a> {
    options: BuildOptions,
    /// The config of every image.
    base: ImageConfig,
    dockerfile: &'a str,
}

/// Fails if a claim does not hold of the input.
pub fn check(data: &[u8]) {
    let input = text_of(data);
    let case = read(&input);
    let parse = parse(case.dockerfile);
    let (outcome, peak) = peak_of(|| lowered(&case, &parse));
    check_memory(&case, &parse, &outcome, peak, input.len());
    let again = lowered(&case, &parse);
    match (&outcome, &again) {
        (Ok(one), Ok(other)) => {
            assert!(one.definition == other.definition, "the graph is another the second time");
            assert!(one.config == other.config && one.warnings == other.warnings && one.stage == other.stage);
        }
        (Err(one), Err(other)) => assert_eq!(one, other),
        _ => panic!("it lowers once, and once it does not"),
    }
    let is_bad = parse.diagnostics.iter().any(|d| d.severity == Severity::Error);
    assert!(!is_bad || outcome.is_err(), "a tree with an error is lowered");
    match &outcome {
        Ok(lowered) => check_lowered(&case, lowered),
        Err(error) => check_error(&case, error),
    }
    let looked = look(&parse, &case.options, &mut |requests| answers(&case, requests));
    for warning in &looked.warnings {
        assert!(warning.severity == Severity::Warning, "{warning:?}");
        check_span(case.dockerfile, warning.span);
    }
    if case.options.target.is_some() {
        let fails = matches!(&outcome, Err(error) if !matches!(error, LowerError::Lint { .. }));
        assert_eq!(looked.error.is_some(), fails, "a look says otherwise: {:?}", looked.error);
    }
}

fn lowered(case: &Case<'_>, parse: &Parse) -> Result<Lowered, LowerError> {
    lower(parse, &case.options, &mut |requests| answers(case, requests))
}

fn read(input: &str) -> Case<'_> {
    let (lines, dockerfile) = input.split_once("\n---\n").unwrap_or(("", input));
    let platform = Platform::new("linux", "amd64", None);
    let mut case = Case { options: BuildOptions::new(platform.clone()), base: base(&platform), dockerfile };
    for line in lines.lines() {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        read_option(&mut case, name, value);
    }
    case
}

fn base(platform: &Platform) -> ImageConfig {
    let mut config = ImageConfig {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        ..ImageConfig::default()
    };
    config.config.env = vec!["PATH=/bin".to_owned()];
    config.config.cmd = Some(vec!["sh".to_owned()]);
    config.rootfs.diff_ids = vec![DiffId(Digest::of(b"layer"))];
    config.history = vec![History { created_by: "base".to_owned(), ..History::default() }];
    config
}

fn read_option(case: &mut Case<'_>, name: &str, value: &str) {
    let options = &mut case.options;
    let pair = || {
        let (key, value) = value.split_once('=').unwrap_or((value, ""));
        (key.to_owned(), value.to_owned())
    };
    match name {
        "target" => options.target = Some(value.to_owned()),
        "arg" => options.build_args.push(match value.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (value.to_owned(), None),
        }),
        "label" => options.labels.push(pair()),
        "trigger" => case.base.config.on_build.push(value.replace("\\n", "\n")),
        "env" => case.base.config.env.push(value.to_owned()),
        "dir" => case.base.config.working_dir = value.to_owned(),
        "ignore" => options.ignore.extend(parse_ignore(value)),
        "context" => {
            let (name, address) = pair();
            options.contexts.insert(normal_context_name(&name), context(&name, &address));
        }
        "main" => options.main_context = context("context", value),
        "platform" => {
            if let Ok(platform) = value.parse() {
                options.target_platform = platform;
                options.explicit_platform = true;
            }
        }
        "several" => options.multi_platform = true,
        "no-cache" => options.no_cache = true,
        "no-cache-filter" => options.no_cache_filter.push(value.to_owned()),
        "host" => (options.network, options.allow_host_network) = (NetworkMode::Host, true),
        "offline" => options.network = NetworkMode::None,
        "insecure" => options.allow_insecure = true,
        "hostname" => options.hostname = Some(value.to_owned()),
        "shm" => options.shm_size_bytes = value.parse().unwrap_or(0),
        "epoch" => options.source_date_epoch = value.parse().ok(),
        _ => {}
    }
}

fn context(name: &str, address: &str) -> NamedContext {
    match address.split_once("://").map_or("", |(scheme, _)| scheme) {
        "docker-image" => NamedContext::Image(address.to_owned()),
        "git" | "ssh" => NamedContext::Git(address.to_owned()),
        "http" | "https" => NamedContext::Http(address.to_owned()),
        "oci-layout" => NamedContext::OciLayout { path: address.to_owned(), tag: None, digest: None },
        _ => NamedContext::Local { name: name.to_owned(), excludes: Vec::new() },
    }
}

/// Every image is there but those called `missing`; `empty` has no layers, `other` another platform.
fn answers(case: &Case<'_>, requests: &[ImageRequest]) -> Vec<Result<ResolvedImage, String>> {
    let answer = |request: &ImageRequest| {
        let mut config = case.base.clone();
        if request.reference.contains("missing") {
            return Err("not found".to_owned());
        }
        if request.reference.contains("empty") {
            config.rootfs.diff_ids.clear();
            config.history.clear();
        }
        if request.reference.contains("other") {
            config.architecture = "s390x".to_owned();
        }
        let digest = Digest::of(request.reference.as_bytes());
        Ok(ResolvedImage { digest, config, reference: request.reference.clone() })
    };
    requests.iter().map(answer).collect()
}

/// What is held is in proportion to what goes in and what comes out: an instruction of six bytes may be a
/// step with the whole environment, or a range of 65535 ports.
fn check_memory(
    case: &Case<'_>,
    parse: &Parse,
    outcome: &Result<Lowered, LowerError>,
    peak: usize,
    input: usize,
) {
    let triggers = case.base.config.on_build.len() * parse.dockerfile.stages.len();
    let things = (instructions(&parse.dockerfile).count() + triggers) * INSTRUCTION;
    if peak <= TIMES * input + FIXED + things {
        return;
    }
    let made = match outcome {
        Ok(lowered) => format!("{:?}", (&lowered.definition, &lowered.config)).len(),
        Err(_) => BEFORE_A_MISTAKE / TIMES,
    };
    memory::check(Held { what: "lower", peak, input: input + made, things });
}

fn check_lowered(case: &Case<'_>, lowered: &Lowered) {
    check_definition(&lowered.definition);
    let Lowered { config, base_history_len, base_layers_len, .. } = lowered;
    assert!(config.history.len() >= *base_history_len && *base_layers_len <= 1);
    assert!(!config.os.is_empty() && !config.architecture.is_empty());
    assert!(config.config.entrypoint.as_ref().is_none_or(|words| !words.is_empty()));
    assert!(config.config.env.iter().all(|pair| pair.contains('=')), "{:?}", config.config.env);
    for (key, value) in &case.options.labels {
        let last = case.options.labels.iter().rev().find(|(name, _)| name == key);
        let is_last = last.is_some_and(|(_, last)| last == value);
        assert!(!is_last || config.config.labels.get(key) == Some(value), "the label {key}");
    }
    for warning in &lowered.warnings {
        check_span(case.dockerfile, warning.span);
    }
}

fn check_error(case: &Case<'_>, error: &LowerError) {
    assert!(!error.to_string().is_empty());
    match error {
        LowerError::Diagnostic(diagnostic) => check_span(case.dockerfile, diagnostic.span),
        LowerError::Image { reference, span, line, .. } => {
            check_span(case.dockerfile, *span);
            assert!(reference.contains("missing") && *line > 0, "{reference}");
        }
        LowerError::Lint { warnings, rules } => assert!(!warnings.is_empty() && !rules.is_empty()),
    }
}

fn check_definition(definition: &Definition) {
    let vertices = definition.vertices();
    let has_output = |edge: &Edge| outputs(&vertices[edge.vertex.index()]).contains(&edge.output);
    for (number, vertex) in vertices.iter().enumerate() {
        for input in &vertex.inputs {
            assert!(input.vertex.index() < number, "an input comes after what uses it");
            assert!(has_output(input), "{input:?} is no output of {:?}", vertices[input.vertex.index()]);
        }
        check_vertex(vertex);
        let is_twice = vertices[..number].iter().any(|other| {
            other.op == vertex.op
                && other.inputs == vertex.inputs
                && other.platform == vertex.platform
                && other.metadata.ignore_cache == vertex.metadata.ignore_cache
                && other.metadata.max_age_s == vertex.metadata.max_age_s
        });
        assert!(!is_twice, "two vertices are equal: {vertex:?}");
    }
    if let Some(target) = &definition.target {
        assert!(target.vertex.index() < vertices.len() && has_output(target), "the target is not there");
    }
}

fn outputs(vertex: &Vertex) -> Vec<u32> {
    match &vertex.op {
        Op::Exec(exec) => exec.mounts.iter().filter_map(|mount| mount.output).collect(),
        Op::File(file) => file.actions.iter().filter_map(|action| action.output).collect(),
        Op::Source(_) | Op::Merge | Op::Diff => vec![0],
    }
}

fn check_vertex(vertex: &Vertex) {
    let outputs = outputs(vertex);
    assert!(outputs.iter().enumerate().all(|(n, output)| *output as usize == n), "outputs {outputs:?}");
    assert!(!outputs.is_empty(), "nothing comes of {vertex:?}");
    let inputs = vertex.inputs.len();
    match &vertex.op {
        Op::Source(source) => {
            assert!(inputs == 0 && source.identifier.contains("://"), "{}", source.identifier);
        }
        Op::Exec(exec) => {
            // A secret or an agent may be asked for at `/`, as in BuildKit: it comes behind the root.
            let mut roots = exec.mounts.iter().filter(|mount| mount.dest == "/");
            assert!(roots.next().is_some_and(|root| root.kind == MountKind::Bind && !root.readonly));
            assert!(roots.all(|it| matches!(it.kind, MountKind::Secret(_) | MountKind::Ssh(_))), "one root");
            assert!(exec.mounts.iter().all(|mount| mount.dest.starts_with('/')), "{:?}", exec.mounts);
            assert!(exec.mounts.iter().all(|mount| mount.input.is_none_or(|i| (i as usize) < inputs)));
            let is_used = |i: usize| exec.mounts.iter().any(|mount| mount.input == Some(i as u32));
            assert!((0..inputs).all(is_used), "an input that nothing uses");
            assert!(exec.meta.cwd.starts_with('/'), "{}", exec.meta.cwd);
        }
        Op::File(file) => check_file(file, inputs),
        Op::Merge => assert!(inputs >= 2),
        Op::Diff => assert_eq!(inputs, 2),
    }
}

fn check_file(file: &FileOp, inputs: usize) {
    assert!(!file.actions.is_empty());
    for (number, action) in file.actions.iter().enumerate() {
        let is_copy = matches!(action.kind, FileActionKind::Copy(_));
        assert_eq!(action.secondary_input.is_some(), is_copy, "a copy, and nothing else, has a source");
        for input in std::iter::once(action.input).chain(action.secondary_input) {
            match input {
                FileInput::Scratch => {}
                FileInput::Input(i) => assert!((i as usize) < inputs, "input {i} of {inputs}"),
                FileInput::Action(i) => assert!((i as usize) < number, "action {i} at {number}"),
            }
        }
    }
}
