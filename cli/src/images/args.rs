//! The arguments of the commands around images. It does not know what they lead to.

use crate::args::BuildArgs;
use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Parser)]
pub(crate) struct ImagesArgs {
    /// Taken for the sake of scripts: all images are listed anyway
    #[arg(short, long)]
    pub all: bool,
    /// Show digests too
    #[arg(long)]
    pub digests: bool,
    /// Only what matches: label=NAME[=VALUE], before=IMAGE, since=IMAGE, reference=PATTERN, dangling=BOOL
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// table, json or a template
    #[arg(long, value_name = "FORMAT", conflicts_with_all = ["quiet", "tree"])]
    pub format: Option<String>,
    /// Do not shorten ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Print only the ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Show the images of an index below it
    #[arg(long, conflicts_with = "quiet")]
    pub tree: bool,
    /// Only images of this repository, or of this name
    pub name: Option<String>,
}

#[derive(Debug, Parser)]
pub(crate) struct InspectArgs {
    /// A template, or json
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Only the image for this platform
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// What is inspected: there are only images
    #[arg(long = "type", value_name = "TYPE", value_parser = ["image"])]
    pub kind: Option<String>,
    /// The images
    #[arg(required = true)]
    pub names: Vec<String>,
}

#[derive(Debug, Parser)]
pub(crate) struct HistoryArgs {
    /// table, json or a template
    #[arg(long, value_name = "FORMAT", conflicts_with = "quiet")]
    pub format: Option<String>,
    /// Sizes and times as people read them; false for bytes and RFC 3339
    #[arg(short = 'H', long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = clap::ArgAction::Set)]
    pub human: bool,
    /// Do not shorten
    #[arg(long)]
    pub no_trunc: bool,
    /// Print only the ids
    #[arg(short, long)]
    pub quiet: bool,
    /// The platform, of an index
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// The image
    pub name: String,
}

/// What `kiln save` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SaveFormat {
    /// What `docker load` reads
    DockerArchive,
    /// An OCI layout in a tar
    OciArchive,
    /// An OCI layout in a folder
    OciDir,
}

#[derive(Debug, Parser)]
pub(crate) struct SaveArgs {
    /// The file, or the folder of an oci-dir [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// What is written
    #[arg(long, value_name = "FORMAT", default_value = "docker-archive")]
    pub format: SaveFormat,
    /// Of an index only the image for this platform
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
    /// The images
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

#[derive(Debug, Parser)]
pub(crate) struct LoadArgs {
    /// The archive [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Of an index only the image for this platform
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// The name, for an archive of one image
    #[arg(short, long, value_name = "NAME")]
    pub tag: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Parser)]
pub(crate) struct CopyArgs {
    /// All that an index lists, not only the image for one platform
    #[arg(short, long, conflicts_with = "platform")]
    pub all: bool,
    /// Of an index only the image for this platform [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Registries that may be spoken to without TLS
    #[arg(long, value_name = "HOST")]
    pub insecure_registry: Vec<String>,
    /// Print only the digest
    #[arg(short, long)]
    pub quiet: bool,
    /// REF or docker://REF, store:NAME, oci:DIR:TAG, oci-archive:FILE:TAG or docker-archive:FILE:NAME, the last part as needed
    pub source: String,
    /// The same
    #[arg(required = true, value_name = "DESTINATION")]
    pub destinations: Vec<String>,
}

#[derive(Debug, Parser)]
pub(crate) struct ImportArgs {
    /// An instruction for the image, as 'CMD ["sh"]' or 'ENV A=b'
    #[arg(short, long, value_name = "CHANGE")]
    pub change: Vec<String>,
    /// What its history says
    #[arg(short, long, value_name = "MESSAGE")]
    pub message: Option<String>,
    /// The platform [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
    /// A tar of a root file system, compressed or not; - is standard input
    pub file: PathBuf,
    /// The image's name
    pub name: String,
}

#[derive(Debug, Parser)]
pub(crate) struct ExportArgs {
    /// The file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The platform, of an index [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
    /// The image
    pub name: String,
}

/// A part of what tells images apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DiffPart {
    Files,
    Config,
    Layers,
}

#[derive(Debug, Parser)]
pub(crate) struct DiffArgs {
    /// End with 1 if they differ
    #[arg(long)]
    pub exit_code: bool,
    /// text or json
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    pub format: String,
    /// Only files, config or layers
    #[arg(long, value_name = "PART")]
    pub only: Option<DiffPart>,
    /// The platform, of an index [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Times count too
    #[arg(long)]
    pub times: bool,
    /// Registries that may be spoken to without TLS
    #[arg(long, value_name = "HOST")]
    pub insecure_registry: Vec<String>,
    /// An image of the store or of a registry
    pub before: String,
    /// Another
    pub after: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ManifestCommand {
    /// Make an index of images of the store or of registries
    Create {
        /// An annotation of the index
        #[arg(long, value_name = "NAME=VALUE")]
        annotation: Vec<String>,
        /// Registries that may be spoken to without TLS
        #[arg(long, value_name = "HOST")]
        insecure_registry: Vec<String>,
        /// The index's name
        name: String,
        /// The images
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Change what an index of the store says of an image
    Annotate {
        /// The operating system
        #[arg(long)]
        os: Option<String>,
        /// The architecture
        #[arg(long)]
        arch: Option<String>,
        /// The architecture's variant
        #[arg(long)]
        variant: Option<String>,
        /// The version of the operating system
        #[arg(long)]
        os_version: Option<String>,
        /// An annotation of the image in the index
        #[arg(long, value_name = "NAME=VALUE")]
        annotation: Vec<String>,
        /// The index
        name: String,
        /// Its image: a name of the store, a digest or a platform
        image: String,
    },
    /// Show the manifest or index of a name, of the store or of its registry
    Inspect {
        /// Those that an index lists, with their descriptors
        #[arg(short, long)]
        verbose: bool,
        /// Registries that may be spoken to without TLS
        #[arg(long, value_name = "HOST")]
        insecure_registry: Vec<String>,
        /// The image
        name: String,
    },
    /// Push an index of the store
    Push {
        /// Registries that may be spoken to without TLS
        #[arg(long, value_name = "HOST")]
        insecure_registry: Vec<String>,
        /// The index
        name: String,
        /// Where to [default: its name]
        destination: Option<String>,
    },
}

#[derive(Debug, Parser)]
pub(crate) struct SearchArgs {
    /// table, json or a template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// How many are listed at most
    #[arg(long, value_name = "N", default_value_t = 25)]
    pub limit: usize,
    /// List the tags of a repository
    #[arg(long)]
    pub list_tags: bool,
    /// Registries that may be spoken to without TLS
    #[arg(long, value_name = "HOST")]
    pub insecure_registry: Vec<String>,
    /// [REGISTRY/]TERM: what the names contain; with --list-tags the repository
    pub term: String,
}

#[derive(Debug, Parser)]
#[command(args_override_self = true)]
pub(crate) struct VerifyArgs {
    /// Only files, config or layers
    #[arg(long, value_name = "PART")]
    pub only: Option<DiffPart>,
    /// Times count too, and with them layers
    #[arg(long)]
    pub times: bool,
    /// The image, of the store or of a registry
    pub image: String,
    #[command(flatten)]
    pub build: BuildArgs,
}
