//! What a build is asked for besides its Dockerfile, and what is asked of and told by the one who
//! knows registries. It does not know flags.

use kiln_grammar::{IgnorePattern, Span};
use kiln_oci::{Digest, ImageConfig, Platform};
use kiln_solver::NetworkMode;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The options of a build for one platform.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// The stage to build; the last one where none is named.
    pub target: Option<String>,
    /// `--build-arg`. One without a value, whose value came from nowhere, is as good as not given.
    pub build_args: Vec<(String, Option<String>)>,
    /// `--label`: put over the labels of the Dockerfile.
    pub labels: Vec<(String, String)>,
    /// The platform that the build runs on.
    pub build_platform: Platform,
    /// The platform that is built for.
    pub target_platform: Platform,
    /// Whether the platform was asked for, so that the image says it whatever its base says.
    pub explicit_platform: bool,
    /// Whether several platforms are built, so that names in the progress say which.
    pub multi_platform: bool,
    /// The main context; a local one is `Local` with the name `context`.
    pub main_context: NamedContext,
    /// `--build-context`, by name, perhaps with `::platform` at its end.
    pub contexts: BTreeMap<String, NamedContext>,
    /// What short names of images stand for; those that are not here are docker.io's.
    pub aliases: BTreeMap<String, String>,
    /// Whether nothing known from before is used.
    pub no_cache: bool,
    /// The names of the stages of which nothing known from before is used. As in BuildKit: an empty name
    /// alone is for all stages, among others it is for those without a name; numbers are no names.
    pub no_cache_filter: Vec<String>,
    /// The network of a RUN that names none.
    pub network: NetworkMode,
    /// The host name of a RUN; else the build argument `BUILDKIT_SANDBOX_HOSTNAME`, else the default.
    pub hostname: Option<String>,
    /// More lines for `/etc/hosts`: name and address.
    pub extra_hosts: Vec<(String, String)>,
    /// The size of `/dev/shm`; 0 is the default.
    pub shm_size_bytes: i64,
    /// Limits of a RUN.
    pub ulimits: Vec<Ulimit>,
    /// The control group of a RUN; empty is the default.
    pub cgroup_parent: String,
    /// The patterns of the main context's ignore file.
    pub ignore: Vec<IgnorePattern>,
    /// Whether `RUN --security=insecure` may be used.
    pub allow_insecure: bool,
    /// Whether a RUN may have the host's network.
    pub allow_host_network: bool,
    /// The time that goes for now, in seconds since 1970; else the argument `SOURCE_DATE_EPOCH` says it.
    pub source_date_epoch: Option<i64>,
    /// The name of the Dockerfile, for messages.
    pub dockerfile_name: String,
}

impl BuildOptions {
    /// A build of a folder for a platform, without anything else.
    pub fn new(platform: Platform) -> BuildOptions {
        BuildOptions {
            target: None,
            build_args: Vec::new(),
            labels: Vec::new(),
            build_platform: platform.clone(),
            target_platform: platform,
            explicit_platform: false,
            multi_platform: false,
            main_context: NamedContext::Local { name: "context".to_owned(), excludes: Vec::new() },
            contexts: BTreeMap::new(),
            aliases: BTreeMap::new(),
            no_cache: false,
            no_cache_filter: Vec::new(),
            network: NetworkMode::Unset,
            hostname: None,
            extra_hosts: Vec::new(),
            shm_size_bytes: 0,
            ulimits: Vec::new(),
            cgroup_parent: String::new(),
            ignore: Vec::new(),
            allow_insecure: false,
            allow_host_network: false,
            source_date_epoch: None,
            dockerfile_name: "Dockerfile".to_owned(),
        }
    }

    /// Whether nothing known from before is used of a stage, by its name.
    pub(crate) fn ignores_cache_of(&self, stage: &str) -> bool {
        let filter = &self.no_cache_filter;
        let is_for_all = matches!(filter.as_slice(), [name] if name.is_empty());
        self.no_cache || is_for_all || filter.iter().any(|name| name.eq_ignore_ascii_case(stage))
    }

    /// The name of an image, or what it is an alias of; tag and digest stay.
    pub(crate) fn aliased<'a>(&self, written: &'a str) -> Cow<'a, str> {
        let name = written.split('@').next().unwrap_or(written);
        let folder = name.rfind('/').map_or(0, |slash| slash + 1);
        let name = name[folder..].find(':').map_or(name, |colon| &name[..folder + colon]);
        match self.aliases.get(name) {
            Some(full) => Cow::Owned(format!("{full}{}", &written[name.len()..])),
            None => Cow::Borrowed(written),
        }
    }

    /// The value given for a build argument; the last one counts.
    pub(crate) fn build_arg(&self, name: &str) -> Option<&str> {
        self.build_args.iter().rev().find(|(key, _)| key == name).and_then(|(_, value)| value.as_deref())
    }
}

/// A limit of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ulimit {
    /// Its name, as `nofile`.
    pub name: String,
    /// The soft limit.
    pub soft: i64,
    /// The hard limit.
    pub hard: i64,
}

/// Where a context comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// A folder, whose source is `local://NAME`.
    Local {
        /// What the folder goes by in the graph.
        name: String,
        /// The patterns of what is left out, `!` before exceptions.
        excludes: Vec<String>,
    },
    /// An image, by its reference.
    Image(String),
    /// A git repository, by its address with branch and folder.
    Git(String),
    /// A file or an archive on the web, by its URL.
    Http(String),
    /// A stage of the same Dockerfile, by its name.
    Stage(String),
    /// An image in a folder of the OCI layout.
    OciLayout {
        /// The folder.
        path: String,
        /// The tag, where it is named by one.
        tag: Option<String>,
        /// The digest, where it is named by one.
        digest: Option<Digest>,
    },
}

/// A question: what is this image?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRequest {
    /// The reference, normalised; or `oci-layout://PATH[:TAG][@DIGEST]`.
    pub reference: String,
    /// The platform that is wanted.
    pub platform: Platform,
    /// The line that asks for it, counted from 1.
    pub line: u32,
    /// The instruction that asks for it.
    pub span: Span,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedImage {
    /// The digest of the manifest, or of the index that it came from.
    pub digest: Digest,
    /// The image's config.
    pub config: ImageConfig,
    /// The reference by which it is to be fetched, with or without the digest.
    pub reference: String,
}
