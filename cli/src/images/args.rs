//! The arguments of the commands around images. It does not know what they lead to.

use clap::{Parser, ValueEnum};
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
    /// [docker://]REF, store:NAME, oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:NAME]
    pub source: String,
    /// The same
    #[arg(required = true, value_name = "DESTINATION")]
    pub destinations: Vec<String>,
}
