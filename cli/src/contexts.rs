//! Where a build's files come from: the context, further contexts, the Dockerfile and its ignore file.
//! It does not know what a Dockerfile says.

use crate::args::BuildArgs;
use crate::error::CommandError;
use kiln_frontend::{NamedContext, normal_context_name};
use kiln_grammar::IgnorePattern;
use kiln_grammar::ignore::parse_ignore;
use kiln_worker::Worker;
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
    /// The patterns of the ignore file.
    pub ignore: Vec<IgnorePattern>,
}

/// Reads the context's Dockerfile and ignore file.
pub(crate) fn read(args: &BuildArgs, worker: &Worker) -> Result<Inputs, CommandError> {
    if args.context == "-" {
        return from_stdin(args, worker);
    }
    if is_remote(&args.context) {
        return from_remote(args, worker);
    }
    let folder = PathBuf::from(&args.context);
    match std::fs::metadata(&folder) {
        Ok(stat) if stat.is_dir() => {}
        Ok(_) => {
            return Err(CommandError::Context(format!("context must be a directory: {}", folder.display())));
        }
        Err(e) => return Err(CommandError::Context(format!("path \"{}\": {e}", folder.display()))),
    }
    in_folder(args, folder, None)
}

/// Whether a context is not a folder of this machine.
fn is_remote(context: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@", "github.com/"].iter().any(|p| context.starts_with(p))
}

fn in_folder(
    args: &BuildArgs,
    folder: PathBuf,
    unpacked: Option<tempfile::TempDir>,
) -> Result<Inputs, CommandError> {
    let (dockerfile, name, path) = dockerfile_of(args, &folder)?;
    let ignore = ignore_of(&folder, path.as_deref())?;
    let keeps_owners = unpacked.is_some();
    Ok(Inputs { folder, keeps_owners, _unpacked: unpacked, dockerfile, name, ignore })
}

/// The Dockerfile's text, its name for messages, and where it is, if it is a file.
fn dockerfile_of(args: &BuildArgs, folder: &Path) -> Result<(String, String, Option<PathBuf>), CommandError> {
    let given = match args.file.as_deref() {
        Some("-") => {
            let mut bytes = Vec::new();
            let stdin = std::io::stdin().lock();
            stdin
                .take(DOCKERFILE_BYTES_MAX)
                .read_to_end(&mut bytes)
                .map_err(CommandError::file("read", "-"))?;
            return Ok((text_of(bytes, "-")?, "Dockerfile".to_owned(), None));
        }
        Some(file) => file,
        None => "Dockerfile",
    };
    let in_context = folder.join(given);
    let mut candidates = match &args.file {
        // As Docker: from where the command is given; the context's folder is tried after it.
        Some(_) => vec![PathBuf::from(given), in_context],
        None => vec![in_context, folder.join("dockerfile")],
    };
    let found = candidates.iter().position(|p| p.exists());
    let path = candidates.swap_remove(found.unwrap_or(0));
    if found.is_none() {
        let hint = if args.file.is_none() { "; name another with --file" } else { "" };
        let message =
            format!("failed to read dockerfile: open {}: no such file or directory{hint}", path.display());
        return Err(CommandError::Context(message));
    }
    let bytes = read_limited(&path, DOCKERFILE_BYTES_MAX)?;
    let name = path.file_name().map_or_else(|| given.to_owned(), |n| n.to_string_lossy().into_owned());
    Ok((text_of(bytes, &name)?, name, Some(path)))
}

/// Reads a regular file up to a limit; a fifo or device in its place is not waited for.
fn read_limited(path: &Path, max_bytes: u64) -> Result<Vec<u8>, CommandError> {
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
fn ignore_of(folder: &Path, dockerfile: Option<&Path>) -> Result<Vec<IgnorePattern>, CommandError> {
    let own = dockerfile.map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    let path = own.filter(|p| p.exists()).unwrap_or_else(|| folder.join(".dockerignore"));
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = read_limited(&path, IGNORE_BYTES_MAX + 1)?;
    if bytes.len() as u64 > IGNORE_BYTES_MAX {
        return Err(CommandError::Context(format!(
            "{} is larger than {IGNORE_BYTES_MAX} bytes",
            path.display()
        )));
    }
    Ok(parse_ignore(&String::from_utf8_lossy(&bytes)))
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
        return in_folder(args, context, Some(folder));
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
        ignore: Vec::new(),
    })
}

/// A context from the network: brought here whole, then as a folder.
fn from_remote(args: &BuildArgs, worker: &Worker) -> Result<Inputs, CommandError> {
    let source = kiln_frontend::remote_context(&args.context)
        .map_err(|problem| CommandError::usage(&args.context, problem))?;
    let folder = worker.temporary_folder()?;
    let context = folder.path().join("context");
    let is_tree = worker.bring_context(source.source(), &context)?;
    if is_tree {
        return in_folder(args, context, Some(folder));
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
        ignore: Vec::new(),
    })
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
        } else if value.starts_with("oci-layout://") {
            return Err(CommandError::usage(argument(), "OCI layouts as contexts are not supported yet"));
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
            let ignore = ignore_of(&folder, None)?;
            folders.insert(local.clone(), folder);
            NamedContext::Local { name: local, excludes: patterns(&ignore) }
        };
        contexts.insert(normal_context_name(name), context);
    }
    Ok((contexts, folders))
}

/// Ignore rules in the form of a source's attribute.
pub(crate) fn patterns(ignore: &[IgnorePattern]) -> Vec<String> {
    ignore.iter().map(|p| if p.negated { format!("!{}", p.pattern) } else { p.pattern.clone() }).collect()
}
