//! The command line. Names are Docker's wherever Docker has one. It does not know what they lead to.

use crate::cache_mount::CacheMountCommand;
use crate::check::CheckFormat;
use crate::debug::args::DebugCommand;
use crate::error::CommandError;
use crate::images::args::{
    CopyArgs, DiffArgs, ExportArgs, HistoryArgs, ImagesArgs, ImportArgs, InspectArgs, LoadArgs,
    ManifestCommand, SaveArgs, SearchArgs, VerifyArgs,
};
use crate::login::{LoginArgs, LogoutArgs};
use crate::patience::PatienceArgs;
use crate::registry::RegistryCommand;
use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use kiln_worker::{PullPolicy, SourceModes};
use std::path::PathBuf;

/// Builds container images from Dockerfiles, without a daemon.
#[derive(Debug, Parser)]
#[command(name = "kiln", version, about, disable_help_subcommand = true)]
pub(crate) struct Args {
    /// The folder of the store [default: $KILN_ROOT, else /var/lib/kiln or ~/.local/share/kiln]
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// What the store may take, as 10GiB; the least worth goes [default: $KILN_STORE_MAX, else the store's settings.json, else no limit]
    #[arg(long, global = true, value_name = "SIZE")]
    pub store_max: Option<String>,
    #[command(flatten)]
    pub patience: PatienceArgs,
    /// The file with credentials, and no other [default: $REGISTRY_AUTH_FILE, else several: docs/registries.md]
    #[arg(long, global = true, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Push an image of the store to its registry
    Push(PushArgs),
    /// Pull an image into the store
    Pull(PullArgs),
    /// List the images of the store
    Images(ImagesArgs),
    /// Show images of the store as JSON
    Inspect(InspectArgs),
    /// Show how an image came about, layer by layer
    History(HistoryArgs),
    /// Write images of the store to an archive
    Save(SaveArgs),
    /// Take the images of an archive into the store
    Load(LoadArgs),
    /// Make a tar of a root file system an image
    Import(ImportArgs),
    /// Write the files of an image to a tar
    Export(ExportArgs),
    /// Show what tells two images apart
    Diff(DiffArgs),
    /// Build an image once more, and show what is not as it is there
    Verify(Box<VerifyArgs>),
    /// Copy an image between registries, the store, folders and archives
    Copy(CopyArgs),
    /// Make, change, show and push indexes of images
    Manifest {
        #[command(subcommand)]
        what: ManifestCommand,
    },
    /// List the repositories of a registry, or their tags
    Search(SearchArgs),
    /// Give an image one more name
    Tag(TagArgs),
    /// Take a name away from an image
    Rmi(RmiArgs),
    /// Show why the steps of an earlier build ran, or did not
    Explain(ExplainArgs),
    /// List, export, import and remove what RUN --mount=type=cache keeps
    CacheMount {
        #[command(subcommand)]
        what: CacheMountCommand,
    },
    /// Look after the file in which build --lock pins images, branches and web files
    Lock {
        #[command(subcommand)]
        what: LockCommand,
    },
    /// Show what the store has and how large it is
    Du(DuArgs),
    /// Remove what no image and no running build needs
    Prune(PruneArgs),
    /// Look for damage in the store
    Fsck(FsckArgs),
    /// Check credentials for a registry, and keep them
    Login(LoginArgs),
    /// Forget the credentials for a registry
    Logout(LogoutArgs),
    /// Show how registries are reached
    Registry {
        #[command(subcommand)]
        what: RegistryCommand,
    },
    /// Show what kiln makes of a Dockerfile before it builds
    Debug {
        #[command(subcommand)]
        what: DebugCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LockCommand {
    /// Ask registries, git servers and the web again, and write what moved
    Update(LockUpdateArgs),
}

#[derive(Debug, Parser)]
pub(crate) struct LockUpdateArgs {
    /// The file
    #[arg(long, value_name = "FILE", default_value = "kiln.lock")]
    pub lock: PathBuf,
    /// Registries that may be spoken to without TLS
    #[arg(long, value_name = "HOST")]
    pub insecure_registry: Vec<String>,
    /// Ask nobody for anything, which is an error here [default: $KILN_OFFLINE]
    #[arg(long)]
    pub offline: bool,
    /// A secret that git and web servers want, as id=GIT_AUTH_TOKEN
    #[arg(long, value_name = "SECRET")]
    pub secret: Vec<String>,
    /// An ssh agent or key for git servers
    #[arg(long, value_name = "AGENT")]
    pub ssh: Vec<String>,
    /// The images, git addresses with their refs, and web addresses [default: all that are in the file]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProgressMode {
    /// What suits where it is shown
    Auto,
    /// Every line of every step
    Plain,
    /// What suits a terminal; as yet the same
    Tty,
    /// Nothing but the image's id at the end
    Quiet,
    /// Nothing but what goes wrong
    None,
}

impl ProgressMode {
    const NAMED: [(&str, ProgressMode); 5] = [
        ("auto", ProgressMode::Auto),
        ("plain", ProgressMode::Plain),
        ("tty", ProgressMode::Tty),
        ("quiet", ProgressMode::Quiet),
        ("none", ProgressMode::None),
    ];

    fn read(text: &str) -> Result<ProgressMode, &'static str> {
        match ProgressMode::NAMED.iter().find(|(name, _)| *name == text) {
            Some((_, mode)) => Ok(*mode),
            None if text == "rawjson" => {
                Err("it is not supported; there are auto, plain, tty, quiet and none")
            }
            None => Err("there are auto, plain, tty, quiet and none"),
        }
    }

    /// The name of what the environment asks for. That may be meant for another builder, and is no
    /// reason to fail.
    fn of_environment(value: &str) -> &'static str {
        let known = ProgressMode::NAMED.iter().find(|(name, _)| *name == value);
        match known {
            Some((name, _)) => name,
            None if value.is_empty() => "auto",
            None => "plain",
        }
    }
}

fn progress_of_environment() -> &'static str {
    ProgressMode::of_environment(&std::env::var("BUILDKIT_PROGRESS").unwrap_or_default())
}

/// Which modes the files of contexts have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ContextMode {
    Exact,
    Git,
}

impl ContextMode {
    /// The same for the worker.
    pub fn modes(self) -> SourceModes {
        match self {
            ContextMode::Exact => SourceModes::Exact,
            ContextMode::Git => SourceModes::Git,
        }
    }
}

/// How an image and its attestations belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AttestAs {
    Index,
    Referrers,
}

#[derive(Debug, Parser)]
#[command(args_override_self = true)]
pub(crate) struct BuildArgs {
    /// Names for the image, as name:tag
    #[arg(short, long = "tag", value_name = "NAME")]
    pub tags: Vec<String>,
    /// The Dockerfile, or its web address [default: CONTEXT/Dockerfile; - is standard input]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<String>,
    /// Set a build argument; without a value it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    /// A further context: a folder, docker-image://REF, oci-layout://DIR, target:STAGE, or a git or web address
    #[arg(long, value_name = "NAME=CONTEXT")]
    pub build_context: Vec<String>,
    /// The stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// The platforms to build for, as linux/amd64,linux/arm64; several make an index [default: this machine's]
    #[arg(long, value_name = "PLATFORMS")]
    pub platform: Vec<String>,
    /// Put a label on the image
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// Put an annotation on the image's manifest, or as index:NAME=VALUE on the index
    #[arg(long, value_name = "[LEVEL:]NAME=VALUE")]
    pub annotation: Vec<String>,
    /// Use nothing that is known from earlier builds
    #[arg(long)]
    pub no_cache: bool,
    /// The same for some stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,
    /// A cache that machines share to read, as type=registry,ref=NAME; types: registry, local, gha, s3, azblob
    #[arg(long, value_name = "CACHE")]
    pub cache_from: Vec<String>,
    /// A cache to write, as type=registry,ref=NAME,mode=max; also inline, and ,mounts=all for cache mounts
    #[arg(long, value_name = "CACHE")]
    pub cache_to: Vec<String>,
    /// Fail, with exit code 4, where a cache can't be read or written
    #[arg(long)]
    pub cache_strict: bool,
    /// Read every file of the contexts again, whatever is remembered of it
    #[arg(long)]
    pub verify_cache: bool,
    /// Which modes the contexts' files have: exact, or git (0644 and 0755, whatever the umask was)
    #[arg(long, value_name = "MODE", default_value = "exact")]
    pub context_mode: ContextMode,
    /// Whom to ask for images: always the registry, newer, missing or never [default: the registry, for 2 s]
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "always")]
    #[arg(value_parser = pull_policy)]
    pub pull: Option<PullPolicy>,
    /// Ask nobody for anything: what is not here is an error [default: $KILN_OFFLINE]
    #[arg(long)]
    pub offline: bool,
    /// Take images, branches and web files as a file pins them, and pin what it has not
    #[arg(long, value_name = "FILE")]
    pub lock: Option<PathBuf>,
    /// Leave the lock file as it is: what it does not pin is an error
    #[arg(long, requires = "lock")]
    pub locked: bool,
    /// How many steps run at once at most [default: 8 for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// Where the result goes, as type=oci,dest=FILE
    #[arg(short, long = "output", value_name = "OUTPUT")]
    pub outputs: Vec<String>,
    /// Push the image to the registries of its names
    #[arg(long)]
    pub push: bool,
    /// Keep the image in the store (as without any --output), and load it into the Docker daemon, if one is there
    #[arg(long)]
    pub load: bool,
    /// List the packages that are in the image, as an attestation (SPDX)
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(action = ArgAction::Append)]
    pub sbom: Vec<String>,
    /// Tell where the image comes from, as an attestation (SLSA): true, false, or mode=min|max,…
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(action = ArgAction::Append)]
    pub provenance: Vec<String>,
    /// An attestation, as type=sbom or type=provenance,mode=min
    #[arg(long, value_name = "ATTESTATION")]
    pub attest: Vec<String>,
    /// How image and attestations belong together: an index lists both, or they are referrers to the image
    #[arg(long, value_name = "FORM", default_value = "index")]
    pub attest_as: AttestAs,
    /// Sign what is pushed with a private key of cosign's; $COSIGN_PASSWORD unlocks it
    #[arg(long, value_name = "FILE")]
    pub sign_key: Option<PathBuf>,
    /// How progress is shown: auto, plain, tty, quiet or none [default: $BUILDKIT_PROGRESS, else auto]
    #[arg(long, value_name = "MODE", value_parser = ProgressMode::read)]
    #[arg(default_value = progress_of_environment(), hide_default_value = true)]
    pub progress: ProgressMode,
    /// Show nothing, print the image's id
    #[arg(short, long)]
    pub quiet: bool,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Write what was made to a JSON file
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// A secret for RUN, as id=NAME,src=FILE or id=NAME,env=VARIABLE
    #[arg(long, value_name = "SECRET")]
    pub secret: Vec<String>,
    /// An ssh agent for RUN: default, ID=SOCKET or ID=KEYFILE[,KEYFILE…]
    #[arg(long, value_name = "AGENT")]
    pub ssh: Vec<String>,
    /// The network of RUN: default, host or none
    #[arg(long, value_name = "MODE", default_value = "default")]
    pub network: String,
    /// A line for /etc/hosts, as NAME:ADDRESS
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
    /// The size of /dev/shm, as 64m
    #[arg(long, value_name = "SIZE")]
    pub shm_size: Option<String>,
    /// A limit for RUN, as nofile=1024:2048
    #[arg(long, value_name = "LIMIT")]
    pub ulimit: Vec<String>,
    /// Allow what a Dockerfile asks for beyond the ordinary: network.host, security.insecure, device[=NAME]
    #[arg(long, value_name = "ENTITLEMENT")]
    pub allow: Vec<String>,
    /// A folder of device specifications (CDI) [default: /etc/cdi and /var/run/cdi]
    #[arg(long, value_name = "DIR")]
    pub cdi_spec_dir: Vec<PathBuf>,
    /// Say why each step ran, or did not, once the build is over
    #[arg(long)]
    pub explain: bool,
    /// Write what became of each step to a JSON file; - is standard output
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Say what would be done, and do nothing
    #[arg(long, conflicts_with = "check")]
    pub dry_run: bool,
    /// Look for mistakes and bad habits, and build nothing
    #[arg(long)]
    pub check: bool,
    /// What is done: build, or check as --check does; check,format=json is both in one
    #[arg(long, value_name = "METHOD")]
    pub call: Option<String>,
    /// How --check tells what it found [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<CheckFormat>,
    /// Registries that may be spoken to without TLS
    #[arg(long, value_name = "HOST")]
    pub insecure_registry: Vec<String>,
    /// Taken for the sake of old scripts; they change nothing
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, action = ArgAction::Append)]
    pub rm: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, action = ArgAction::Append)]
    pub force_rm: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, action = ArgAction::Append)]
    pub compress: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, action = ArgAction::Append)]
    pub disable_content_trust: Vec<String>,
    #[arg(long, hide = true)]
    pub isolation: Vec<String>,
    #[arg(long, hide = true)]
    pub security_opt: Vec<String>,
    #[arg(short, long, hide = true)]
    pub memory: Vec<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub memory_swap: Vec<String>,
    #[arg(short, long, hide = true)]
    pub cpu_shares: Vec<String>,
    #[arg(long, hide = true)]
    pub cpu_period: Vec<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    pub cpu_quota: Vec<String>,
    #[arg(long, hide = true)]
    pub cpuset_cpus: Vec<String>,
    #[arg(long, hide = true)]
    pub cpuset_mems: Vec<String>,
    #[arg(long, hide = true)]
    pub builder: Vec<String>,
    /// A folder, a git or web address, oci-layout://DIR, or - for a Dockerfile or a tar on standard input
    #[arg(value_name = "CONTEXT")]
    pub context: String,
}

impl BuildArgs {
    /// The flags that were given and that change nothing, but which somebody may count on.
    pub fn without_effect(&self) -> Vec<&'static str> {
        let given = [
            ("--isolation", self.isolation.iter().all(|value| value == "default")),
            ("--security-opt", self.security_opt.is_empty()),
            ("--memory", self.memory.is_empty()),
            ("--memory-swap", self.memory_swap.is_empty()),
            ("--cpu-shares", self.cpu_shares.is_empty()),
            ("--cpu-period", self.cpu_period.is_empty()),
            ("--cpu-quota", self.cpu_quota.is_empty()),
            ("--cpuset-cpus", self.cpuset_cpus.is_empty()),
            ("--cpuset-mems", self.cpuset_mems.is_empty()),
        ];
        given.into_iter().filter(|(_, is_nothing)| !is_nothing).map(|(flag, _)| flag).collect()
    }

    /// Reads `--call` as what it stands for.
    pub fn settled(mut self) -> Result<BuildArgs, CommandError> {
        if let Some(call) = self.call.take() {
            let usage = |problem: &str| CommandError::usage(format!("--call {call}"), problem);
            let (method, options) = call.split_once(',').unwrap_or((&call, ""));
            match method {
                "build" => {}
                "check" | "lint" => self.check = true,
                _ => return Err(usage("there are build and check")),
            }
            if let Some(format) = options.strip_prefix("format=") {
                let format = CheckFormat::from_str(format, true);
                self.format = Some(format.map_err(|_| usage("the formats are text, json and sarif"))?);
            } else if !options.is_empty() {
                return Err(usage("only format= may stand behind the method"));
            }
        }
        if self.format.is_some() && !self.check {
            return Err(CommandError::usage("--format", "it is for --check"));
        }
        Ok(self)
    }
}

/// The words of docker, buildx and buildah.
fn pull_policy(text: &str) -> Result<PullPolicy, &'static str> {
    match text {
        "always" | "true" | "1" => Ok(PullPolicy::Always),
        "newer" | "ifnewer" => Ok(PullPolicy::Newer),
        "missing" | "ifmissing" => Ok(PullPolicy::Missing),
        "never" => Ok(PullPolicy::Never),
        "false" | "0" => Ok(PullPolicy::Usual),
        _ => Err("there are always, newer, missing and never"),
    }
}

#[derive(Debug, Parser)]
pub(crate) struct ExplainArgs {
    /// The build's id, or ls to list the builds [default: the last build]
    #[arg(value_name = "BUILD")]
    pub build: Option<String>,
    /// text, or json as --report writes it
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    pub format: String,
}

#[derive(Debug, Parser)]
pub(crate) struct PushArgs {
    /// The image
    pub name: String,
    /// Registries that may be spoken to without TLS
    #[arg(long, value_name = "HOST")]
    pub insecure_registry: Vec<String>,
    /// Print only the digest
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Parser)]
pub(crate) struct PullArgs {
    /// The image
    pub name: String,
    /// The platform
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Registries that may be spoken to without TLS
    #[arg(long, value_name = "HOST")]
    pub insecure_registry: Vec<String>,
    /// Print only the digest
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Parser)]
pub(crate) struct TagArgs {
    /// The image
    pub name: String,
    /// Its new name
    pub new: String,
}

#[derive(Debug, Parser)]
pub(crate) struct RmiArgs {
    /// The images
    #[arg(required = true)]
    pub names: Vec<String>,
}

#[derive(Debug, Parser)]
pub(crate) struct DuArgs {
    /// Show each thing
    #[arg(short, long)]
    pub verbose: bool,
    /// table or json
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    pub format: String,
}

#[derive(Debug, Parser)]
pub(crate) struct PruneArgs {
    /// Cache mounts too, which nothing can make anew
    #[arg(short, long)]
    pub all: bool,
    /// Only what matches: until=24h (not used for so long), type=TYPE, id=ID
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// Stop once the store is no larger than this, as 10GiB
    #[arg(long, value_name = "SIZE")]
    pub keep_storage: Option<String>,
    /// Only say what would go
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Debug, Parser)]
pub(crate) struct FsckArgs {
    /// Forget what is damaged: it is made or fetched anew when it is needed
    #[arg(long)]
    pub repair: bool,
    /// Read every byte of every layer
    #[arg(long)]
    pub full: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_progress_that_kiln_does_not_know_is_an_error_only_as_a_flag() {
        for (text, flag, environment) in [
            ("", None, "auto"),
            ("auto", Some(ProgressMode::Auto), "auto"),
            ("tty", Some(ProgressMode::Tty), "tty"),
            ("none", Some(ProgressMode::None), "none"),
            ("quiet", Some(ProgressMode::Quiet), "quiet"),
            ("rawjson", None, "plain"),
            ("colourful", None, "plain"),
        ] {
            assert_eq!(ProgressMode::read(text).ok(), flag, "{text}");
            assert_eq!(ProgressMode::of_environment(text), environment, "{text}");
        }
    }
}
