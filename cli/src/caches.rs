//! `--cache-to` and `--cache-from`: their types, options and defaults, which are BuildKit's, and what the environment
//! fills in. It does not know what a cache holds.

use crate::error::CommandError;
use kiln_frontend::boolean;
use kiln_grammar::suggest::nearest;
use kiln_oci::Reference;
use kiln_worker::{
    AzureOptions, CacheExport, CacheImport, CacheKind, CacheMode, Compress, GhaOptions, LayerForm,
    LocalCache, MountsExport, S3Options,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The types of a cache.
const KINDS: [&str; 6] = ["registry", "local", "inline", "gha", "s3", "azblob"];
/// What an export may say of whatever type.
const OF_EXPORTS: [&str; 9] = [
    "mode",
    "compression",
    "compression-level",
    "force-compression",
    "oci-mediatypes",
    "image-manifest",
    "ignore-error",
    "mounts",
    "type",
];

/// What the environment says.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's own environment; an empty variable is as good as none.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The caches of a build.
pub(crate) struct Caches {
    /// Those to read.
    pub imports: Vec<CacheImport>,
    /// Those to write.
    pub exports: Vec<CacheExport>,
}

impl Caches {
    /// What `--cache-from` and `--cache-to` say, and the environment.
    pub fn of(from: &[String], to: &[String]) -> Result<Caches, CommandError> {
        Ok(Caches { imports: imports(from, &environment)?, exports: exports(to, &environment)? })
    }

    /// The registries that may be spoken to without TLS: those, and those of caches that say so.
    pub fn insecure_registries(&self, others: &[String]) -> Vec<String> {
        let imports = self.imports.iter().map(|import| &import.kind);
        let kinds = imports.chain(self.exports.iter().map(|export| &export.kind));
        let hosts = kinds.filter_map(|kind| match kind {
            CacheKind::Registry { reference, insecure: true } => Some(reference.registry().to_owned()),
            _ => None,
        });
        others.iter().cloned().chain(hosts).collect()
    }
}

fn imports(texts: &[String], env: Environment<'_>) -> Result<Vec<CacheImport>, CommandError> {
    let import = |text: &String| {
        let read = || {
            let mut given = Given::read(text)?;
            let kind = kind(&mut given, env, false)?;
            given.nothing_left(&[])?;
            Ok(CacheImport { kind })
        };
        read()
            .map_err(|problem: String| CommandError::usage(format!("--cache-from {}", masked(text)), problem))
    };
    texts.iter().map(import).collect()
}

fn exports(texts: &[String], env: Environment<'_>) -> Result<Vec<CacheExport>, CommandError> {
    let export = |text: &String| {
        let read = || {
            let mut given = Given::read(text)?;
            let kind = kind(&mut given, env, true)?;
            let export = export(kind, &mut given)?;
            given.nothing_left(&OF_EXPORTS)?;
            Ok(export)
        };
        read().map_err(|problem: String| CommandError::usage(format!("--cache-to {}", masked(text)), problem))
    };
    texts.iter().map(export).collect()
}

/// One option's fields; each is taken by who knows it.
struct Given {
    kind: String,
    fields: BTreeMap<String, String>,
    known: Vec<&'static str>,
}

impl Given {
    fn read(text: &str) -> Result<Given, String> {
        let record = kiln_grammar::csv_record(text)?;
        let mut fields = BTreeMap::new();
        if let [only] = record.as_slice()
            && !only.contains('=')
        {
            fields.insert("type".to_owned(), "registry".to_owned());
            fields.insert("ref".to_owned(), only.trim().to_owned());
        } else {
            for field in &record {
                let Some((key, value)) = field.split_once('=') else {
                    return Err(format!("write KEY=VALUE, not `{field}`"));
                };
                fields.insert(key.trim().to_ascii_lowercase(), value.to_owned());
            }
        }
        let kind =
            fields.remove("type").ok_or("type= is missing: registry, local, inline, gha, s3 or azblob")?;
        Ok(Given { kind, fields, known: Vec::new() })
    }

    fn take(&mut self, key: &'static str) -> Option<String> {
        self.known.push(key);
        self.fields.remove(key).filter(|value| !value.is_empty())
    }

    fn flag(&mut self, key: &'static str) -> Result<Option<bool>, String> {
        self.known.push(key);
        match self.fields.remove(key).as_deref() {
            None => Ok(None),
            Some("") => Ok(Some(true)),
            Some(value) => match boolean(value) {
                Some(value) => Ok(Some(value)),
                None => Err(format!("{key} is true or false, not `{value}`")),
            },
        }
    }

    fn number<T: std::str::FromStr>(&mut self, key: &'static str) -> Result<Option<T>, String> {
        let read = |value: String| value.parse().map_err(|_| format!("{key} is a number, not `{value}`"));
        self.take(key).map(read).transpose()
    }

    fn duration(&mut self, key: &'static str) -> Result<Option<Duration>, String> {
        let read = |value: String| match kiln_grammar::go_duration(&value) {
            Ok(ns) if ns > 0 => Ok(Duration::from_nanos(ns as u64)),
            _ => Err(format!("{key} is a time as 10m or 24h, not `{value}`")),
        };
        self.take(key).map(read).transpose()
    }

    /// A value that must be there: given, or in the environment.
    fn needed(&mut self, key: &'static str, env: Environment<'_>, names: &[&str]) -> Result<String, String> {
        let of_env = || names.iter().find_map(|name| env(name));
        self.take(key).or_else(of_env).ok_or_else(|| match names {
            [] => format!("{key}= is missing"),
            _ => format!("{key}= is missing, and so is ${}", names.join(" and $")),
        })
    }

    /// Refuses what nobody took.
    fn nothing_left(&self, others: &[&'static str]) -> Result<(), String> {
        let Some(key) = self.fields.keys().next() else { return Ok(()) };
        let names = || self.known.iter().chain(others).copied();
        let mut all: Vec<&str> = names().collect();
        all.sort_unstable();
        all.dedup();
        let meant = nearest(key, names()).map_or_else(String::new, |near| format!("; did you mean {near}?"));
        Err(format!("unknown option `{key}` of type={}{meant} There are {}", self.kind, all.join(", ")))
    }
}

fn kind(given: &mut Given, env: Environment<'_>, is_export: bool) -> Result<CacheKind, String> {
    match given.kind.as_str() {
        "registry" => {
            let text = given.needed("ref", env, &[])?;
            let reference: Reference = text.parse().map_err(|e| format!("ref={text}: {e}"))?;
            let insecure = given.flag("registry.insecure")?.unwrap_or_default();
            Ok(CacheKind::Registry { reference, insecure })
        }
        "local" => local(given, env, is_export),
        "inline" if is_export => Ok(CacheKind::Inline),
        "inline" => Err("a cache in an image is read by type=registry,ref=IMAGE".to_owned()),
        "gha" => gha(given, env),
        "s3" => s3(given, env),
        "azblob" => azblob(given, env),
        other => {
            let meant = nearest(other, KINDS);
            let meant = meant.map_or_else(String::new, |near| format!("; did you mean {near}?"));
            Err(format!("unknown type `{other}`{meant} There are {}", KINDS.join(", ")))
        }
    }
}

fn local(given: &mut Given, env: Environment<'_>, is_export: bool) -> Result<CacheKind, String> {
    let folder = PathBuf::from(given.needed(if is_export { "dest" } else { "src" }, env, &[])?);
    let tag = given.take("tag").unwrap_or_else(|| "latest".to_owned());
    let digest = match is_export {
        true => None,
        false => given.take("digest"),
    };
    let digest = digest.map(|text| text.parse().map_err(|e| format!("digest={text}: {e}"))).transpose()?;
    let reset = is_export && given.flag("reset")?.unwrap_or_default();
    Ok(CacheKind::Local(LocalCache { folder, tag, digest, reset }))
}

fn gha(given: &mut Given, env: Environment<'_>) -> Result<CacheKind, String> {
    let version = given.number("version")?;
    if version.is_some_and(|version| !(1..=2).contains(&version)) {
        return Err("version is 1 or 2".to_owned());
    }
    let says_two = || env("ACTIONS_CACHE_SERVICE_V2").is_some_and(|value| boolean(&value) != Some(false));
    Ok(CacheKind::Gha(GhaOptions {
        scope: given.take("scope"),
        url: given.take("url").or_else(|| env("ACTIONS_CACHE_URL")),
        url_v2: given.take("url_v2").or_else(|| env("ACTIONS_RESULTS_URL")),
        token: given.take("token").or_else(|| env("ACTIONS_RUNTIME_TOKEN")),
        ghtoken: given.take("ghtoken"),
        repository: given.take("repository").or_else(|| env("GITHUB_REPOSITORY")),
        version: version.or_else(|| says_two().then_some(2)),
        timeout: given.duration("timeout")?,
    }))
}

fn s3(given: &mut Given, env: Environment<'_>) -> Result<CacheKind, String> {
    // What BuildKit's client has and needs no word here.
    for key in ["disable_accept_encoding", "retry_mode"] {
        given.take(key);
    }
    let (access_key_id, secret_access_key, session_token) =
        (given.take("access_key_id"), given.take("secret_access_key"), given.take("session_token"));
    // A token of the environment's belongs to the key of the environment's.
    let of_env = |name: &str| if access_key_id.is_none() { env(name) } else { None };
    let session_token = session_token.or_else(|| of_env("AWS_SESSION_TOKEN"));
    let secret_access_key = secret_access_key.or_else(|| of_env("AWS_SECRET_ACCESS_KEY"));
    let access_key_id = access_key_id.clone().or_else(|| env("AWS_ACCESS_KEY_ID"));
    Ok(CacheKind::S3(S3Options {
        bucket: given.needed("bucket", env, &["AWS_BUCKET"])?,
        region: given.needed("region", env, &["AWS_REGION", "AWS_DEFAULT_REGION"])?,
        prefix: given.take("prefix").unwrap_or_default(),
        manifests_prefix: given.take("manifests_prefix"),
        blobs_prefix: given.take("blobs_prefix"),
        names: names(given),
        touch_refresh: given.duration("touch_refresh")?,
        endpoint_url: given.take("endpoint_url").or_else(|| env("AWS_ENDPOINT_URL_S3")),
        access_key_id,
        secret_access_key,
        session_token,
        use_path_style: given.flag("use_path_style")?.unwrap_or_default(),
        upload_parallelism: given.number("upload_parallelism")?,
        retry_max_attempts: given.number("retry_max_attempts")?,
    }))
}

fn azblob(given: &mut Given, env: Environment<'_>) -> Result<CacheKind, String> {
    let of = |name: &str| env(&format!("BUILDKIT_AZURE_STORAGE_{name}"));
    Ok(CacheKind::Azure(AzureOptions {
        account_url: given.needed("account_url", env, &["BUILDKIT_AZURE_STORAGE_ACCOUNT_URL"])?,
        account_name: given.take("account_name").or_else(|| of("ACCOUNT_NAME")),
        secret_access_key: given.take("secret_access_key").or_else(|| of("SECRET_ACCESS_KEY")),
        container: given.take("container").or_else(|| of("CONTAINER")),
        prefix: given.take("prefix").or_else(|| of("PREFIX")).unwrap_or_default(),
        manifests_prefix: given.take("manifests_prefix"),
        blobs_prefix: given.take("blobs_prefix"),
        names: names(given),
    }))
}

fn names(given: &mut Given) -> Vec<String> {
    let names = given.take("name").unwrap_or_default();
    names.split(';').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn export(kind: CacheKind, given: &mut Given) -> Result<CacheExport, String> {
    let mode = match given.take("mode").as_deref() {
        None | Some("min") => CacheMode::Min,
        Some("max") if kind == CacheKind::Inline => {
            return Err("an image can hold the records of its own layers only: mode=min".to_owned());
        }
        Some("max") => CacheMode::Max,
        Some(other) => return Err(format!("mode is min or max, not `{other}`")),
    };
    let compress = match given.take("compression").as_deref() {
        None | Some("gzip") => Compress::Gzip,
        Some("zstd") => Compress::Zstd,
        Some("uncompressed") => Compress::None,
        Some(other) => return Err(format!("compression is gzip, zstd or uncompressed, not `{other}`")),
    };
    let level: Option<u8> = given.number("compression-level")?;
    if let Some(level) = level.filter(|level| !compress.levels().contains(level)) {
        let levels = compress.levels();
        return Err(format!("compression-level is {} to {}, not {level}", levels.start(), levels.end()));
    }
    let force = given.flag("force-compression")?.unwrap_or_default();
    let oci_mediatypes = given.flag("oci-mediatypes")?.unwrap_or(true);
    let image_manifest = given.flag("image-manifest")?;
    if image_manifest == Some(true) && !oci_mediatypes {
        return Err("an image manifest of a cache has OCI's media types: leave one of the two out".to_owned());
    }
    Ok(CacheExport {
        kind,
        mode,
        form: LayerForm { compress, level, force },
        oci_mediatypes,
        image_manifest: image_manifest.unwrap_or(oci_mediatypes),
        ignore_error: given.flag("ignore-error")?.unwrap_or_default(),
        mounts: mounts(given),
    })
}

/// `mounts=all`, or ids: a list of several stands in quotation marks, or its members are joined by `;`.
fn mounts(given: &mut Given) -> MountsExport {
    match given.take("mounts").as_deref() {
        None => MountsExport::None,
        Some("all") => MountsExport::All,
        Some(ids) => {
            let ids = ids.split([',', ';']).map(str::trim).filter(|id| !id.is_empty());
            MountsExport::Named(ids.map(str::to_owned).collect())
        }
    }
}

/// An option as it may be shown.
fn masked(text: &str) -> String {
    const SECRET: [&str; 6] =
        ["token=", "ghtoken=", "secret_access_key=", "session_token=", "access_key_id=", "password="];
    let field = |field: &str| match SECRET.iter().find(|name| field.trim_start().starts_with(**name)) {
        Some(name) => format!("{name}…"),
        None => field.to_owned(),
    };
    text.split(',').map(field).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
#[path = "caches_tests.rs"]
mod tests;
