//! `--sbom`, `--provenance`, `--attest`, `--attest-as` and `--sign-key`: what is attested of a build. It does not
//! know what an attestation says.

use crate::args::{AttestAs, BuildArgs};
use crate::contexts::{self, Inputs};
use crate::error::CommandError;
use crate::outputs;
use kiln_frontend::{BuildOptions, NamedContext, NetworkMode, boolean};
use kiln_worker::{
    Attest, AttestPlace, Form, Output, ProvenanceMode, ProvenanceRequest, SignKeyError, SigningKey,
};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::Arc;

/// What buildx's users say of the provenance in the metadata file.
const METADATA_PROVENANCE: &str = "BUILDX_METADATA_PROVENANCE";
/// A private key is no larger, in bytes.
const KEY_BYTES_MAX: u64 = 64 << 10;
/// What unlocks a key, as with cosign.
const PASSWORD: &str = "COSIGN_PASSWORD";
/// How provenance is called beside files, as BuildKit calls it.
const PROVENANCE_FILE: &str = "provenance.json";

/// What the flags ask for.
#[derive(Debug, Default)]
pub(super) struct Asked {
    sbom: bool,
    provenance: Option<Provenance>,
    place: AttestPlace,
    key: Option<Arc<SigningKey>>,
}

/// How provenance is to be.
#[derive(Debug, PartialEq, Eq)]
struct Provenance {
    mode: ProvenanceMode,
    builder_id: String,
    file: String,
    reproducible: bool,
    inline_only: bool,
}

/// Reads the flags. As with buildx the shorthands go over `--attest`, and the last of a kind counts.
pub(super) fn asked(args: &BuildArgs) -> Result<Asked, CommandError> {
    let mut asked = Asked::default();
    if args.attest_as == AttestAs::Referrers {
        asked.place = AttestPlace::Referrers;
    }
    for text in &args.attest {
        let usage = |problem: String| CommandError::usage(format!("--attest {text}"), problem);
        asked.add(text).map_err(usage)?;
    }
    for (kind, texts) in [("provenance", &args.provenance), ("sbom", &args.sbom)] {
        for text in texts {
            let full = match boolean(text) {
                Some(on) => format!("type={kind},disabled={}", !on),
                None => format!("type={kind},{text}"),
            };
            let usage = |problem: String| CommandError::usage(format!("--{kind}={text}"), problem);
            asked.add(&full).map_err(usage)?;
        }
    }
    if let Some(file) = &args.sign_key {
        asked.key = Some(Arc::new(key(file)?));
    }
    Ok(asked)
}

fn key(file: &Path) -> Result<SigningKey, CommandError> {
    let bytes = contexts::read_limited(file, KEY_BYTES_MAX)?;
    let password = std::env::var_os(PASSWORD).map(OsStringExt::into_vec);
    let text = String::from_utf8(bytes).map_err(|_| SignKeyError::Pem);
    let read = text.and_then(|text| SigningKey::read(&text, password.as_deref()));
    read.map_err(|e| CommandError::usage(format!("--sign-key {}", file.display()), e.to_string()))
}

impl Asked {
    /// Whether an image becomes an index.
    pub(super) fn makes_index(&self) -> bool {
        (self.sbom || self.provenance.is_some()) && self.place == AttestPlace::Index
    }

    /// Adds what one flag says, in the words of `--attest`.
    fn add(&mut self, text: &str) -> Result<(), String> {
        let fields = kiln_grammar::csv_record(text)?;
        let mut pairs = Vec::new();
        let (mut kind, mut disabled) = (String::new(), false);
        for field in &fields {
            let (key, value) =
                field.split_once('=').ok_or_else(|| format!("write KEY=VALUE, not `{field}`"))?;
            match key.trim().to_ascii_lowercase().as_str() {
                "type" => value.clone_into(&mut kind),
                "disabled" => disabled = flag("disabled", value)?,
                key => pairs.push((key.to_owned(), value.to_owned())),
            }
        }
        match kind.as_str() {
            "sbom" => {
                if let Some((key, _)) = pairs.first() {
                    return Err(match key.as_str() {
                        "generator" => "kiln lists packages itself: leave out generator".to_owned(),
                        other => format!("unknown key `{other}`: an sbom has none but type and disabled"),
                    });
                }
                self.sbom = !disabled;
            }
            "provenance" => {
                let provenance = Provenance::of(&pairs)?;
                self.provenance = Some(provenance).filter(|_| !disabled);
            }
            "" => return Err("needs type=sbom or type=provenance".to_owned()),
            other => return Err(format!("unknown type `{other}`: sbom or provenance")),
        }
        Ok(())
    }

    /// Refuses what no output could hold.
    pub(super) fn check(&self, outputs: &[Output], is_index: bool) -> Result<(), CommandError> {
        if is_index {
            outputs::refuse_docker(outputs)?;
        }
        let has = |wanted: fn(&Form) -> bool| outputs.iter().any(|output| wanted(&output.form));
        if self.key.is_some() && !has(|form| *form == Form::Registry) {
            let problem = "a signature lies at a registry: add --push, or an output of type=registry";
            return Err(CommandError::usage("--sign-key", problem));
        }
        let can_refer = has(|form| !matches!(form, Form::Store | Form::Daemon(_) | Form::CacheOnly));
        let is_any = self.sbom || self.provenance.is_some();
        if is_any && self.place == AttestPlace::Referrers && !can_refer {
            let problem =
                "the store keeps nothing that refers to an image: add --push, or an output of type=oci";
            return Err(CommandError::usage("--attest-as referrers", problem));
        }
        Ok(())
    }

    /// The same with what provenance tells of this build.
    pub(super) fn settled(
        self,
        args: &BuildArgs,
        inputs: &Inputs,
        options: &BuildOptions,
    ) -> Result<Attest, CommandError> {
        let told = metadata_mode(args, std::env::var(METADATA_PROVENANCE).ok().as_deref())?;
        let told = told.map(|mode| Provenance { mode, ..Provenance::plain() });
        let is_wanted = self.provenance.is_some() || told.is_some();
        let context = if is_wanted { contexts::remote_context(args)? } else { None };
        let request = |provenance: Provenance| ProvenanceRequest {
            mode: provenance.mode,
            builder_id: provenance.builder_id,
            file: provenance.file,
            reproducible: provenance.reproducible,
            inline_only: provenance.inline_only,
            context: context.clone(),
            dockerfile_path: match args.file.as_deref() {
                Some(file) if file != "-" && !Path::new(file).is_absolute() => file.to_owned(),
                _ => inputs.name.clone(),
            },
            dockerfile: inputs.dockerfile.clone(),
            args: frontend_args(args, options),
        };
        let (provenance, told) = (self.provenance.map(request), told.map(request));
        Ok(Attest { sbom: self.sbom, provenance, told, place: self.place, key: self.key })
    }
}

/// How much of where it comes from the metadata file tells: as much as buildx's.
fn metadata_mode(args: &BuildArgs, named: Option<&str>) -> Result<Option<ProvenanceMode>, CommandError> {
    if args.metadata_file.is_none() {
        return Ok(None);
    }
    match named.unwrap_or_default() {
        "" | "min" => Ok(Some(ProvenanceMode::Min)),
        "max" => Ok(Some(ProvenanceMode::Max)),
        "disabled" => Ok(None),
        other => match kiln_frontend::boolean(other) {
            Some(false) => Ok(None),
            _ => {
                let problem = format!("`{other}` is none of min, max and disabled");
                Err(CommandError::usage(METADATA_PROVENANCE, problem))
            }
        },
    }
}

impl Provenance {
    /// As it is where nothing is said, in BuildKit too.
    fn plain() -> Provenance {
        Provenance {
            mode: ProvenanceMode::Max,
            builder_id: String::new(),
            file: PROVENANCE_FILE.to_owned(),
            reproducible: false,
            inline_only: false,
        }
    }

    fn of(pairs: &[(String, String)]) -> Result<Provenance, String> {
        let mut out = Provenance::plain();
        for (key, value) in pairs {
            match key.as_str() {
                "mode" => {
                    out.mode = match value.as_str() {
                        "min" => ProvenanceMode::Min,
                        "max" | "full" => ProvenanceMode::Max,
                        _ => return Err(format!("mode is min or max, not `{value}`")),
                    }
                }
                "builder-id" => value.clone_into(&mut out.builder_id),
                "filename" if value.is_empty() || value.contains('/') || value == "." || value == ".." => {
                    return Err(format!("filename is the name of a file, not `{value}`"));
                }
                "filename" => value.clone_into(&mut out.file),
                "reproducible" => out.reproducible = flag(key, value)?,
                "inline-only" => out.inline_only = flag(key, value)?,
                "version" if value == "v1" => {}
                "version" => return Err(format!("version={value} of SLSA is not made: there is v1")),
                other => {
                    return Err(format!(
                        "unknown key `{other}`: mode, builder-id, filename, reproducible, inline-only or version"
                    ));
                }
            }
        }
        Ok(out)
    }
}

fn flag(key: &str, value: &str) -> Result<bool, String> {
    boolean(value).ok_or_else(|| format!("{key} is true or false, not `{value}`"))
}

/// What was asked for, under the names that BuildKit's frontend has for it. Folders go by their names, as where
/// they lie is nobody's business.
fn frontend_args(args: &BuildArgs, options: &BuildOptions) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (name, value) in &options.build_args {
        if let Some(value) = value {
            all.insert(format!("build-arg:{name}"), value.clone());
        }
    }
    all.extend(options.labels.iter().map(|(name, value)| (format!("label:{name}"), value.clone())));
    for (name, context) in &options.contexts {
        let text = match context {
            NamedContext::Local { name, .. } => format!("local:{name}"),
            NamedContext::Image(reference) => format!("docker-image://{reference}"),
            NamedContext::Git(address) | NamedContext::Http(address) => address.clone(),
            NamedContext::Stage(stage) => format!("target:{stage}"),
            NamedContext::OciLayout { .. } => "oci-layout".to_owned(),
        };
        all.insert(format!("context:{name}"), text);
    }
    let network = match options.network {
        NetworkMode::Unset => None,
        NetworkMode::Host => Some("host".to_owned()),
        NetworkMode::None => Some("none".to_owned()),
    };
    let listed = |texts: &[String]| Some(texts.join(",")).filter(|text| !text.is_empty());
    let more = [
        ("target", options.target.clone()),
        ("force-network-mode", network),
        ("add-hosts", listed(&args.add_host)),
        ("ulimit", listed(&args.ulimit)),
        ("shm-size", args.shm_size.clone()),
        ("no-cache", args.no_cache.then(String::new).or_else(|| listed(&args.no_cache_filter))),
    ];
    all.extend(more.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(texts: &[&str]) -> Result<(bool, Option<ProvenanceMode>), String> {
        let mut asked = Asked::default();
        for text in texts {
            asked.add(text)?;
        }
        Ok((asked.sbom, asked.provenance.map(|provenance| provenance.mode)))
    }

    #[test]
    fn the_last_of_a_kind_counts_and_nothing_is_made_unasked() {
        use ProvenanceMode::{Max, Min};
        for (texts, expect) in [
            (&[][..], (false, None)),
            (&["type=sbom"], (true, None)),
            (&["type=sbom", "type=sbom,disabled=true"], (false, None)),
            (&["type=provenance"], (false, Some(Max))),
            (&["type=provenance,mode=min", "type=sbom,disabled=0"], (true, Some(Min))),
            (&["TYPE=provenance,Mode=full,version=v1"], (false, Some(Max))),
        ] {
            assert_eq!(added(texts), Ok(expect), "{texts:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_told() {
        for (text, expect) in [
            ("sbom", "KEY=VALUE"),
            ("mode=min", "needs type="),
            ("type=vuln", "unknown type `vuln`"),
            ("type=sbom,generator=x", "leave out generator"),
            ("type=provenance,mode=all", "min or max"),
            ("type=provenance,version=v0.2", "there is v1"),
            ("type=provenance,filename=../x", "name of a file"),
            ("type=provenance,reproducible=yes", "true or false"),
            ("type=provenance,builder=x", "unknown key `builder`"),
        ] {
            assert!(added(&[text]).is_err_and(|told| told.contains(expect)), "{text}");
        }
    }
}
