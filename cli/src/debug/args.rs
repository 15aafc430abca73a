//! The command line of `kiln debug`. It does not know what it leads to.

use crate::args::BuildArgs;
use crate::error::CommandError;
use clap::{Parser, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum DebugCommand {
    /// Print the tree that the Dockerfile parses to, as JSON
    Ast(AstArgs),
    /// Print the Definition that a build would run
    Llb(LlbArgs),
    /// Print the stages and what they are made of, as a picture's text
    Graph(GraphArgs),
}

/// Which Dockerfile, and what it is read with: the flags of `kiln build`.
#[derive(Debug, Parser)]
pub(crate) struct SourceArgs {
    /// The Dockerfile [default: CONTEXT/Dockerfile; - is standard input]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<String>,
    /// Set a build argument; without a value it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    /// A further context: a folder, docker-image://REF, or a git or web address
    #[arg(long, value_name = "NAME=CONTEXT")]
    pub build_context: Vec<String>,
    /// The stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// The platform to build for, as linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Allow what a Dockerfile asks for beyond the ordinary: network.host, security.insecure
    #[arg(long, value_name = "ENTITLEMENT")]
    pub allow: Vec<String>,
    /// Registries that may be spoken to without TLS
    #[arg(long, value_name = "HOST")]
    pub insecure_registry: Vec<String>,
    /// A folder, or - for a Dockerfile or a tar on standard input
    #[arg(value_name = "CONTEXT", default_value = ".")]
    pub context: String,
}

#[derive(Debug, Parser)]
pub(crate) struct AstArgs {
    /// How it is written
    #[arg(long, value_enum, default_value_t = AstFormat::Json)]
    pub format: AstFormat,
    #[command(flatten)]
    pub source: SourceArgs,
}

#[derive(Debug, Parser)]
pub(crate) struct LlbArgs {
    /// How it is written: JSON, a line for each op, or BuildKit's protobuf
    #[arg(long, value_enum, default_value_t = LlbFormat::Json)]
    pub format: LlbFormat,
    /// Print a Definition in protobuf instead, kiln's or BuildKit's; - is standard input
    #[arg(long, value_name = "FILE")]
    #[arg(conflicts_with_all = ["format", "file", "build_arg", "build_context", "target", "platform"])]
    #[arg(conflicts_with_all = ["allow", "insecure_registry", "context"])]
    pub read: Option<String>,
    #[command(flatten)]
    pub source: SourceArgs,
}

#[derive(Debug, Parser)]
pub(crate) struct GraphArgs {
    /// For which program it is written
    #[arg(long, value_enum, default_value_t = GraphFormat::Mermaid)]
    pub format: GraphFormat,
    #[command(flatten)]
    pub source: SourceArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AstFormat {
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LlbFormat {
    Json,
    Pb,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GraphFormat {
    Mermaid,
    Dot,
}

impl SourceArgs {
    /// The same as arguments of a build, everything else as it is there by default.
    pub(crate) fn into_build_args(self) -> Result<BuildArgs, CommandError> {
        let SourceArgs {
            file,
            build_arg,
            build_context,
            target,
            platform,
            allow,
            insecure_registry,
            context,
        } = self;
        if platform.as_ref().is_some_and(|platform| platform.contains(',')) {
            return Err(CommandError::usage("--platform", "give one: each has a graph of its own"));
        }
        let defaults = BuildArgs::try_parse_from(["build", "--", &context]);
        let defaults = defaults.map_err(|error| CommandError::usage(&context, error.to_string()))?;
        Ok(BuildArgs {
            file,
            build_arg,
            build_context,
            target,
            platform: platform.into_iter().collect(),
            allow,
            insecure_registry,
            ..defaults
        })
    }
}
