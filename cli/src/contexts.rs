//! Where a build's files come from: the context, further contexts, the Dockerfile and its ignore file.
//! It does not know what a Dockerfile says.

use crate::args::BuildArgs;
use crate::error::CommandError;
use kiln_frontend::{EpochSource, NamedContext, RemoteContext, normal_context_name};
use kiln_grammar::IgnorePattern;
use kiln_grammar::ignore::parse_ignore;
use kiln_grammar::suggest::nearest;
use kiln_oci::{LAYOUT_SCHEME, LayoutReference, LayoutReferenceError, Platform};
use kiln_worker::{ImageNameError, SourceOp, Worker, WorkerError};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A Dockerfile that is larger is not read: 16 MiB, and a little so that the parser sees it is too large.
const DOCKERFILE_BYTES_MAX: u64 = (16 << 20) + 1;
/// An ignore file that is larger is refused.
const IGNORE_BYTES_MAX: u64 = 4 << 20;

/// What a build reads before it parses.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// The folder of the context.
    pub folder: PathBuf,
    /// Whether the files' owners count: those that an archive brought.
    pub keeps_owners: bool,
    /// A context that came in by standard input lies here until the build is over.
    _unpacked: Option<tempfile::TempDir>,
    /// The Dockerfile's text.
    pub dockerfile: String,
    /// The Dockerfile's name, for messages.
    pub name: String,
    /// The ignore file.
    pub ignore: IgnoreFile,
}

/// An ignore file; one that is not there has no patterns.
#[derive(Debug, Default)]
pub(crate) struct IgnoreFile {
    /// Its name, for messages.
    pub name: String,
    /// What it says.
    pub patterns: Vec<IgnorePattern>,
}

/// Reads the context's Dockerfile and ignore file.
pub(crate) fn read(args: &BuildArgs, worker: &Worker) -> Result<Inputs, CommandError> {
    if args.context == "-" {
        return from_stdin(args, worker);
    }
    if args.context.starts_with(LAYOUT_SCHEME) {
        return from_layout(args, worker);
    }
    let folder = PathBuf::from(&args.context);
    if is_remote(&args.context) && !folder.is_dir() {
        return from_remote(args, worker);
    }
    match std::fs::metadata(&folder) {
        Ok(stat) if stat.is_dir() => {}
        Ok(_) => {
            return Err(CommandError::Context(format!("context must be a directory: {}", folder.display())));
        }
        Err(e) => return Err(CommandError::Context(format!("path \"{}\": {e}", folder.display()))),
    }
    in_folder(args, worker, folder, None)
}

/// Reads the Dockerfile alone, where that takes neither a store nor a network: in a folder of this machine,
/// or on standard input.
pub(crate) fn dockerfile_here(args: &BuildArgs) -> Result<Option<Inputs>, CommandError> {
    let folder = PathBuf::from(&args.context);
    let (dockerfile, name) = match args.file.as_deref() {
        Some("-") if args.context != "-" => (text_of(standard_input()?, "-")?, "Dockerfile".to_owned()),
        Some(file) if is_web(file) => return Ok(None),
        _ if folder.is_dir() => {
            let (dockerfile, name, _) = dockerfile_of(args, &folder, Whose::Users)?;
            (dockerfile, name)
        }
        _ => return Ok(None),
    };
    let ignore = IgnoreFile::default();
    Ok(Some(Inputs { folder, keeps_owners: false, _unpacked: None, dockerfile, name, ignore }))
}

/// Whether a context is not a folder of this machine.
pub(crate) fn is_remote(context: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@", "github.com/"].iter().any(|p| context.starts_with(p))
}

fn in_folder(
    args: &BuildArgs,
    worker: &Worker,
    folder: PathBuf,
    unpacked: Option<tempfile::TempDir>,
) -> Result<Inputs, CommandError> {
    let keeps_owners = unpacked.is_some();
    let whose = if keeps_owners { Whose::Strangers } else { Whose::Users };
    let (dockerfile, name, path) = match args.file.as_deref() {
        Some("-") => (text_of(standard_input()?, "-")?, "Dockerfile".to_owned(), None),
        Some(file) if is_web(file) => {
            let (dockerfile, name) = from_web(file, worker)?;
            (dockerfile, name, None)
        }
        _ => dockerfile_of(args, &folder, whose)?,
    };
    let ignore = ignore_of(&folder, path.as_deref(), whose)?;
    Ok(Inputs { folder, keeps_owners, _unpacked: unpacked, dockerfile, name, ignore })
}

/// Who laid out a context's folder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The user: links lead where they lead.
    Users,
    /// Who made an archive, a repository or an image: no link leads out of it.
    Strangers,
}

fn is_web(file: &str) -> bool {
    file.starts_with("http://") || file.starts_with("https://")
}

fn standard_input() -> Result<Vec<u8>, CommandError> {
    let mut bytes = Vec::new();
    let stdin = std::io::stdin().lock();
    stdin.take(DOCKERFILE_BYTES_MAX).read_to_end(&mut bytes).map_err(CommandError::file("read", "-"))?;
    Ok(bytes)
}

/// A Dockerfile by its web address: its text, and its name for messages.
fn from_web(url: &str, worker: &Worker) -> Result<(String, String), CommandError> {
    let usage = |problem: &str| CommandError::usage(format!("--file {url}"), problem);
    let source = match kiln_frontend::remote_context(url) {
        Ok(RemoteContext::Http(source)) => source,
        Ok(RemoteContext::Git(_)) => return Err(usage("a repository is no Dockerfile")),
        Err(problem) => return Err(usage(&problem)),
    };
    let folder = worker.temporary_folder()?;
    let path = folder.path().join("dockerfile");
    if worker.bring_context(&source, &path)? {
        return Err(usage("an archive is no Dockerfile"));
    }
    let path_of_url = url.split(['?', '#']).next().unwrap_or_default();
    let name = path_of_url.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("Dockerfile");
    Ok((text_of(read_limited(&path, DOCKERFILE_BYTES_MAX)?, name)?, name.to_owned()))
}

/// The Dockerfile's text, its name for messages, and where it is.
fn dockerfile_of(
    args: &BuildArgs,
    folder: &Path,
    whose: Whose,
) -> Result<(String, String, Option<PathBuf>), CommandError> {
    let given = args.file.as_deref().unwrap_or("Dockerfile");
    let in_context = folder.join(given);
    let mut candidates = match (&args.file, whose) {
        // As Docker: from where the command is given; the context's folder is tried after it.
        (Some(_), Whose::Users) => vec![PathBuf::from(given), in_context],
        (Some(_), Whose::Strangers) => vec![in_context],
        (None, _) => vec![in_context, folder.join("dockerfile")],
    };
    let found = candidates.iter().position(|p| p.exists());
    let path = candidates.swap_remove(found.unwrap_or(0));
    if found.is_none() {
        let hint = near_dockerfile(&path).map_or_else(
            || "name it with --file".to_owned(),
            |near| format!("there is {}: name it with --file", near.display()),
        );
        let message =
            format!("failed to read dockerfile: open {}: no such file or directory; {hint}", path.display());
        return Err(CommandError::Context(message));
    }
    stays_inside(folder, &path, whose)?;
    let bytes = read_limited(&path, DOCKERFILE_BYTES_MAX)?;
    let name = path.file_name().map_or_else(|| given.to_owned(), |n| n.to_string_lossy().into_owned());
    Ok((text_of(bytes, &name)?, name, Some(path)))
}

/// Refuses a file of a stranger's folder that is a link out of it. A path that begins at the root is the
/// user's own.
fn stays_inside(folder: &Path, path: &Path, whose: Whose) -> Result<(), CommandError> {
    if whose == Whose::Users || !path.starts_with(folder) {
        return Ok(());
    }
    let real = |path: &Path| std::fs::canonicalize(path).map_err(CommandError::file("read", path));
    if real(path)?.starts_with(real(folder)?) {
        return Ok(());
    }
    let name = path.strip_prefix(folder).unwrap_or(path).display();
    Err(CommandError::Context(format!("{name} leads out of the context")))
}

/// A file beside a missing Dockerfile that is probably meant.
fn near_dockerfile(missing: &Path) -> Option<PathBuf> {
    let folder = missing.parent()?;
    let wanted = missing.file_name()?.to_str()?;
    let names: Vec<String> =
        std::fs::read_dir(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
            .ok()?
            .flatten()
            .filter(|entry| entry.path().is_file())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
    let is_one = |name: &&String| {
        let name = name.to_lowercase();
        !name.ends_with(".dockerignore") && (name.contains("dockerfile") || name == "containerfile")
    };
    let near = nearest(wanted, names.iter().map(String::as_str));
    let near = near.or_else(|| names.iter().filter(is_one).min().map(String::as_str));
    near.map(|name| folder.join(name))
}

/// Reads a regular file up to a limit; a fifo or device in its place is not waited for.
pub(crate) fn read_limited(path: &Path, max_bytes: u64) -> Result<Vec<u8>, CommandError> {
    const O_NONBLOCK: i32 = 0o4000;
    let open = File::options().read(true).custom_flags(O_NONBLOCK).open(path);
    let file = open.map_err(CommandError::file("read", path))?;
    let stat = file.metadata().map_err(CommandError::file("read", path))?;
    if !stat.is_file() {
        return Err(CommandError::Context(format!("{} is not a regular file", path.display())));
    }
    let mut bytes = Vec::new();
    file.take(max_bytes).read_to_end(&mut bytes).map_err(CommandError::file("read", path))?;
    Ok(bytes)
}

fn text_of(bytes: Vec<u8>, name: &str) -> Result<String, CommandError> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = e.as_bytes()[..at].iter().filter(|c| **c == b'\n').count() + 1;
        let text = format!("error: {name}:{line}: byte {at} is not UTF-8 text: is this a Dockerfile?\n");
        CommandError::Dockerfile { text }
    })
}

/// The ignore rules: of the file that is named after the Dockerfile, else of the context's own.
fn ignore_of(folder: &Path, dockerfile: Option<&Path>, whose: Whose) -> Result<IgnoreFile, CommandError> {
    let own = dockerfile.map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    let path = own.filter(|p| p.exists()).unwrap_or_else(|| folder.join(".dockerignore"));
    if !path.exists() {
        return Ok(IgnoreFile::default());
    }
    stays_inside(folder, &path, whose)?;
    let bytes = read_limited(&path, IGNORE_BYTES_MAX + 1)?;
    if bytes.len() as u64 > IGNORE_BYTES_MAX {
        return Err(CommandError::Context(format!(
            "{} is larger than {IGNORE_BYTES_MAX} bytes",
            path.display()
        )));
    }
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let patterns = parse_ignore(&String::from_utf8_lossy(&bytes));
    if let Some(lone) = patterns.iter().find(|pattern| pattern.negated && pattern.pattern.is_empty()) {
        let text = format!(
            "error: {name}:{}: illegal exclusion pattern: \"!\": write behind it what is not to be left out\n",
            lone.line
        );
        return Err(CommandError::Dockerfile { text });
    }
    Ok(IgnoreFile { name, patterns })
}

/// A context on standard input: a tar, perhaps compressed, or a Dockerfile alone.
fn from_stdin(args: &BuildArgs, worker: &Worker) -> Result<Inputs, CommandError> {
    if args.file.as_deref() == Some("-") {
        return Err(CommandError::usage(
            "-f -",
            "standard input can't be both the Dockerfile and the context",
        ));
    }
    let folder = worker.temporary_folder()?;
    let path = folder.path().join("stdin");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(CommandError::file("create", &path))?;
    std::io::copy(&mut std::io::stdin().lock(), &mut file)
        .map_err(CommandError::file("read", "standard input"))?;
    file.flush().and_then(|()| file.rewind()).map_err(CommandError::file("read", &path))?;
    let context = folder.path().join("context");
    std::fs::create_dir(&context).map_err(CommandError::file("create", &context))?;
    let again = file.try_clone().map_err(CommandError::file("read", &path))?;
    if worker.unpack_context(again, &context)? {
        std::fs::remove_file(&path).map_err(CommandError::file("remove", &path))?;
        return in_folder(args, worker, context, Some(folder));
    }
    if args.file.is_some() {
        return Err(CommandError::Context(
            "standard input is no tar, so that --file can't be in it".to_owned(),
        ));
    }
    file.rewind().map_err(CommandError::file("read", &path))?;
    let mut bytes = Vec::new();
    file.take(DOCKERFILE_BYTES_MAX).read_to_end(&mut bytes).map_err(CommandError::file("read", &path))?;
    let dockerfile = text_of(bytes, "standard input")?;
    Ok(Inputs {
        folder: context,
        keeps_owners: false,
        _unpacked: Some(folder),
        dockerfile,
        name: "Dockerfile".to_owned(),
        ignore: IgnoreFile::default(),
    })
}

/// A context from the network: brought here whole, then as a folder.
fn from_remote(args: &BuildArgs, worker: &Worker) -> Result<Inputs, CommandError> {
    let source = remote_source(args)?;
    let folder = worker.temporary_folder()?;
    let context = folder.path().join("context");
    let is_tree = worker.bring_context(source.source(), &context)?;
    if is_tree {
        return in_folder(args, worker, context, Some(folder));
    }
    if args.file.is_some() {
        return Err(CommandError::Context(format!(
            "{} is one file and no archive: with --file there would be two Dockerfiles",
            args.context
        )));
    }
    let bytes = read_limited(&context, DOCKERFILE_BYTES_MAX)?;
    let dockerfile = text_of(bytes, &args.context)?;
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).map_err(CommandError::file("create", &empty))?;
    Ok(Inputs {
        folder: empty,
        keeps_owners: false,
        _unpacked: Some(folder),
        dockerfile,
        name: "Dockerfile".to_owned(),
        ignore: IgnoreFile::default(),
    })
}

/// The source that a context comes from which is not on this machine.
pub(crate) fn remote_context(args: &BuildArgs) -> Result<Option<SourceOp>, CommandError> {
    if !is_remote(&args.context) || Path::new(&args.context).is_dir() {
        return Ok(None);
    }
    Ok(Some(remote_source(args)?.source().clone()))
}

/// What a context from the network is.
fn remote_source(args: &BuildArgs) -> Result<RemoteContext, CommandError> {
    let source = kiln_frontend::remote_context(&args.context)
        .map_err(|problem| CommandError::usage(&args.context, problem))?;
    let keep =
        crate::build::build_args(args).into_iter().rfind(|(name, _)| name == "BUILDKIT_CONTEXT_KEEP_GIT_DIR");
    let keep = keep.and_then(|(_, value)| value);
    let is_kept = keep.as_deref().and_then(kiln_frontend::boolean);
    Ok(if is_kept == Some(true) { source.keeping_git_dir(&args.context) } else { source })
}

/// The time that SOURCE_DATE_EPOCH stands for where it names something that has one, in seconds since 1970.
pub(crate) fn epoch_of(
    named: &EpochSource,
    args: &BuildArgs,
    worker: &Worker,
) -> Result<Option<i64>, CommandError> {
    Ok(match named {
        EpochSource::Source(source) => worker.source_time(source)?,
        EpochSource::Context if is_remote(&args.context) => {
            worker.source_time(remote_source(args)?.source())?
        }
        EpochSource::Context | EpochSource::Timeless => None,
    })
}

/// A context that is an image in a folder: its files, brought here whole.
fn from_layout(args: &BuildArgs, worker: &Worker) -> Result<Inputs, CommandError> {
    let name = args
        .context
        .parse()
        .map_err(|e: ImageNameError| CommandError::usage(&args.context, e.to_string()))?;
    // Only files are wanted, and for one platform they are mostly those of any other.
    let folder = worker.temporary_folder()?;
    let context = folder.path().join("context");
    worker.bring_files(&name, &Platform::host(), &context).map_err(|error| match error {
        WorkerError::ImageFolder(error) => CommandError::Context(error.to_string()),
        other => other.into(),
    })?;
    in_folder(args, worker, context, Some(folder))
}

/// The further contexts, and the folders of those that are on this machine.
pub(crate) type Named = (BTreeMap<String, NamedContext>, BTreeMap<String, PathBuf>);

/// Reads `--build-context NAME=CONTEXT`.
pub(crate) fn named(args: &BuildArgs) -> Result<Named, CommandError> {
    let (mut contexts, mut folders) = Named::default();
    for text in &args.build_context {
        let argument = || format!("--build-context {text}");
        let Some((name, value)) =
            text.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty())
        else {
            return Err(CommandError::usage(argument(), "write NAME=CONTEXT"));
        };
        let context = if let Some(reference) = value.strip_prefix("docker-image://") {
            NamedContext::Image(reference.to_owned())
        } else if value.starts_with(LAYOUT_SCHEME) {
            let layout: LayoutReference = value
                .parse()
                .map_err(|e: LayoutReferenceError| CommandError::usage(argument(), e.to_string()))?;
            NamedContext::OciLayout { path: layout.path, tag: layout.tag, digest: layout.digest }
        } else if let Some(stage) = value.strip_prefix("target:") {
            if stage.is_empty() {
                return Err(CommandError::usage(argument(), "write NAME=target:STAGE"));
            }
            NamedContext::Stage(stage.to_owned())
        } else if is_remote(value) {
            match kiln_frontend::remote_context(value) {
                Ok(kiln_frontend::RemoteContext::Git(_)) => NamedContext::Git(value.to_owned()),
                Ok(kiln_frontend::RemoteContext::Http(_)) => NamedContext::Http(value.to_owned()),
                Err(problem) => return Err(CommandError::usage(argument(), problem)),
            }
        } else {
            let folder = PathBuf::from(value);
            if !folder.is_dir() {
                let message =
                    format!("failed to get build context {name}: {value}: no such file or directory");
                return Err(CommandError::Context(message));
            }
            let local = format!("context:{}", normal_context_name(name));
            let ignore = ignore_of(&folder, None, Whose::Users)?;
            folders.insert(local.clone(), folder);
            NamedContext::Local { name: local, excludes: patterns(&ignore.patterns) }
        };
        contexts.insert(normal_context_name(name), context);
    }
    Ok((contexts, folders))
}

/// Ignore rules in the form of a source's attribute.
pub(crate) fn patterns(ignore: &[IgnorePattern]) -> Vec<String> {
    ignore.iter().map(|p| if p.negated { format!("!{}", p.pattern) } else { p.pattern.clone() }).collect()
}
