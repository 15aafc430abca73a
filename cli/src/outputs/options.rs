//! The options of one `--output`: read one by one, each value checked, unknown names told with what was
//! probably meant. It does not know what comes of them together.

use crate::build::annotations::annotation;
use kiln_frontend::boolean;
use kiln_grammar::suggest::nearest;
use kiln_worker::{Annotation, Compress};

/// What an `--output` says.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub kind: Option<Kind>,
    pub dest: Option<String>,
    pub names: Vec<String>,
    pub push: Option<bool>,
    pub push_by_digest: bool,
    pub store: Option<bool>,
    /// Whether it goes into a Docker daemon.
    pub into_daemon: bool,
    pub tar: Option<bool>,
    pub oci_media_types: Option<bool>,
    pub compress: Compress,
    pub level: Option<u8>,
    pub force_compression: bool,
    pub rewrite_timestamp: bool,
    pub platform_split: Option<bool>,
    pub attestation_artifact: Option<bool>,
    pub attestation_prefix: String,
    pub insecure: bool,
    pub source_date_epoch_s: Option<i64>,
    pub name_canonical: bool,
    pub dangling_prefix: Option<String>,
    pub dangling_empty_only: bool,
    pub delete: bool,
    pub annotations: Vec<Annotation>,
}

/// The types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Oci,
    Docker,
    Tar,
    Local,
    Image,
    Registry,
    CacheOnly,
}

const KINDS: [(&str, Kind); 7] = [
    ("oci", Kind::Oci),
    ("docker", Kind::Docker),
    ("tar", Kind::Tar),
    ("local", Kind::Local),
    ("image", Kind::Image),
    ("registry", Kind::Registry),
    ("cacheonly", Kind::CacheOnly),
];

const COMPRESSIONS: [(&str, Compress); 4] = [
    ("gzip", Compress::Gzip),
    ("zstd", Compress::Zstd),
    ("estargz", Compress::Estargz),
    ("uncompressed", Compress::None),
];

/// The options that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Type,
    Dest,
    Name,
    Push,
    PushByDigest,
    Store,
    Context,
    Tar,
    OciMediaTypes,
    Compression,
    CompressionLevel,
    ForceCompression,
    RewriteTimestamp,
    PlatformSplit,
    OciArtifact,
    AttestationPrefix,
    Insecure,
    SourceDateEpoch,
    NameCanonical,
    DanglingPrefix,
    DanglingEmptyOnly,
    Mode,
}

const KEYS: [(&str, Key); 23] = [
    ("type", Key::Type),
    ("dest", Key::Dest),
    ("name", Key::Name),
    ("push", Key::Push),
    ("push-by-digest", Key::PushByDigest),
    ("store", Key::Store),
    ("context", Key::Context),
    ("tar", Key::Tar),
    ("oci-mediatypes", Key::OciMediaTypes),
    ("compression", Key::Compression),
    ("compression-level", Key::CompressionLevel),
    ("force-compression", Key::ForceCompression),
    ("rewrite-timestamp", Key::RewriteTimestamp),
    ("platform-split", Key::PlatformSplit),
    ("oci-artifact", Key::OciArtifact),
    ("attestation-prefix", Key::AttestationPrefix),
    ("registry.insecure", Key::Insecure),
    ("source-date-epoch", Key::SourceDateEpoch),
    ("name-canonical", Key::NameCanonical),
    ("dangling-name-prefix", Key::DanglingPrefix),
    ("dangling-name-empty-only", Key::DanglingEmptyOnly),
    // As BuildKit spells it.
    ("danging-name-empty-only", Key::DanglingEmptyOnly),
    ("mode", Key::Mode),
];

/// What BuildKit knows and what changes nothing here: what is in the store can be run from, and attestations are
/// always beside the image. Each is true or false.
const WITHOUT_EFFECT: [&str; 2] = ["unpack", "attestation-inline"];

/// What BuildKit knows and what is not done here: a name, what it is when it asks for nothing, and what to do
/// instead.
const REFUSED: [(&str, &str, &str); 1] =
    [("prefer-nondist-layers", "false", "kiln makes no layers of that kind")];

/// Whether a folder loses what is not in the result.
const MODES: [(&str, bool); 2] = [("copy", false), ("delete", true)];

/// What an annotation's option begins with.
const ANNOTATION: &str = "annotation";

impl Options {
    /// Reads `KEY=VALUE,…`, where a field with commas stands in quotation marks.
    pub fn read(text: &str, is_index: bool) -> Result<Options, String> {
        let mut options = Options::default();
        let mut level = None;
        for field in kiln_grammar::csv_record(text)? {
            let (key, value) = field.split_once('=').unwrap_or((&field, ""));
            let key = key.trim();
            if let Some(rest) = key.strip_prefix(ANNOTATION).filter(|rest| rest.starts_with(['.', '-', '[']))
                && !WITHOUT_EFFECT.contains(&key)
            {
                options.annotations.extend(annotation(&as_flag(rest, value)?, is_index)?);
                continue;
            }
            let key = key.to_ascii_lowercase();
            match KEYS.iter().find(|(name, _)| *name == key) {
                Some((_, Key::CompressionLevel)) => level = Some(number(&key, value)?),
                Some((_, known)) => options.set(*known, &key, value)?,
                None => refuse(&key, value)?,
            }
        }
        options.level = level.map(|level| level_of(options.compress, level)).transpose()?;
        Ok(options)
    }

    fn set(&mut self, known: Key, key: &str, value: &str) -> Result<(), String> {
        match known {
            Key::Type => self.kind = Some(choice(&KINDS, key, value)?),
            Key::Dest if value.is_empty() => return Err("dest is empty".to_owned()),
            Key::Dest => self.dest = Some(value.to_owned()),
            Key::Name => self.names.extend(value.split(',').filter(|n| !n.is_empty()).map(str::to_owned)),
            Key::Push => self.push = Some(flag(key, value)?),
            Key::PushByDigest => self.push_by_digest = flag(key, value)?,
            Key::Store => self.store = Some(flag(key, value)?),
            Key::Context if value == "default" => self.into_daemon = true,
            Key::Context => {
                return Err(format!(
                    "context is default, the daemon of DOCKER_HOST or of its usual socket, not `{value}`"
                ));
            }
            Key::Tar => self.tar = Some(flag(key, value)?),
            Key::OciMediaTypes => self.oci_media_types = Some(flag(key, value)?),
            Key::Compression => self.compress = choice(&COMPRESSIONS, key, value)?,
            // It means something only with the compression, which may come after it.
            Key::CompressionLevel => {}
            Key::ForceCompression => self.force_compression = flag(key, value)?,
            Key::RewriteTimestamp => self.rewrite_timestamp = flag(key, value)?,
            Key::PlatformSplit => self.platform_split = Some(flag(key, value)?),
            Key::OciArtifact => self.attestation_artifact = Some(flag(key, value)?),
            Key::AttestationPrefix if value.contains(['/', '\0']) => {
                return Err(format!("{key} is the beginning of a file's name, not `{value}`"));
            }
            Key::AttestationPrefix => value.clone_into(&mut self.attestation_prefix),
            Key::Insecure => self.insecure = flag(key, value)?,
            Key::SourceDateEpoch if value.is_empty() => self.source_date_epoch_s = None,
            Key::SourceDateEpoch => self.source_date_epoch_s = Some(number(key, value)?),
            Key::NameCanonical => self.name_canonical = flag(key, value)?,
            Key::DanglingPrefix => self.dangling_prefix = Some(value.to_owned()).filter(|v| !v.is_empty()),
            Key::DanglingEmptyOnly => self.dangling_empty_only = flag(key, value)?,
            Key::Mode => self.delete = choice(&MODES, key, value)?,
        }
        Ok(())
    }
}

/// What follows `annotation`, `[-LEVEL][[PLATFORM]].NAME`, as `--annotation` writes it.
fn as_flag(rest: &str, value: &str) -> Result<String, String> {
    let problem = || format!("write annotation[-LEVEL][[PLATFORM]].NAME=VALUE, not `{ANNOTATION}{rest}`");
    // A platform has no dot, and a name may have brackets.
    let (of, name) = rest.split_once('.').ok_or_else(problem)?;
    let (level, platform) = of.split_at(of.find('[').unwrap_or(of.len()));
    let level = match level.strip_prefix('-') {
        Some(level) => level,
        None if level.is_empty() => "manifest",
        None => return Err(problem()),
    };
    if name.is_empty() || !(platform.is_empty() || platform.ends_with(']')) {
        return Err(problem());
    }
    Ok(format!("{level}{platform}:{name}={value}"))
}

/// A truth value; nothing at all is true.
fn flag(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" => Ok(true),
        _ => boolean(value).ok_or_else(|| format!("{key} is true or false, not `{value}`")),
    }
}

fn number(key: &str, value: &str) -> Result<i64, String> {
    value.parse().map_err(|_| format!("{key} is a number, not `{value}`"))
}

fn level_of(compress: Compress, level: i64) -> Result<u8, String> {
    let levels = compress.levels();
    u8::try_from(level).ok().filter(|level| levels.contains(level)).ok_or_else(|| {
        let name = COMPRESSIONS.iter().find(|(_, known)| *known == compress).map_or("", |(name, _)| name);
        format!("compression-level is {} to {} for {name}, not `{level}`", levels.start(), levels.end())
    })
}

fn choice<T: Copy>(all: &[(&str, T)], key: &str, value: &str) -> Result<T, String> {
    let known = all.iter().find(|(name, _)| *name == value);
    let names = || all.iter().map(|(name, _)| *name);
    known
        .map(|(_, choice)| *choice)
        .ok_or_else(|| format!("unknown {key} `{value}`{}", meant(value, names())))
}

/// Passes what has no effect; all else is an error.
fn refuse(key: &str, value: &str) -> Result<(), String> {
    if WITHOUT_EFFECT.contains(&key) {
        return flag(key, value).map(drop);
    }
    if let Some((_, nothing, instead)) = REFUSED.iter().find(|(name, _, _)| *name == key) {
        let is_nothing = value == *nothing || (*nothing == "false" && boolean(value) == Some(false));
        return if is_nothing { Ok(()) } else { Err(format!("{key} is not for kiln: {instead}")) };
    }
    let names = KEYS.iter().map(|(name, _)| *name).chain([ANNOTATION]);
    Err(format!("unknown option `{key}`{}", meant(key, names)))
}

/// What was probably meant, and what there is.
fn meant<'a>(written: &str, names: impl Iterator<Item = &'a str> + Clone) -> String {
    let all: Vec<&str> = names.clone().collect();
    let all = all.join(", ");
    match nearest(written, names) {
        Some(near) => format!("; did you mean {near}? There are {all}"),
        None => format!("; there are {all}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Options, String> {
        Options::read(text, true)
    }

    #[test]
    fn names_come_in_a_list_one_by_one_or_quoted() {
        for text in ["name=a,name=b", "\"name=a,b\"", "NAME=a, name=b", "\"name=a,b,\""] {
            let names = read(text).map(|options| options.names);
            assert_eq!(names, Ok(vec!["a".to_owned(), "b".to_owned()]), "{text}");
        }
        assert!(read("\"name=a").is_err_and(|e| e.contains("quoted-field")));
    }

    #[test]
    fn truth_is_as_go_reads_it_and_nothing_is_true() {
        for (text, expect) in [
            ("push=1", Some(true)),
            ("push=T", Some(true)),
            ("push=", Some(true)),
            ("push", Some(true)),
            ("push=False", Some(false)),
            ("push=0", Some(false)),
            ("type=oci", None),
        ] {
            assert_eq!(read(text).map(|options| options.push), Ok(expect), "{text}");
        }
        for key in
            ["push", "tar", "store", "oci-mediatypes", "force-compression", "rewrite-timestamp", "unpack"]
        {
            assert!(
                read(&format!("{key}=yes")).is_err_and(|e| e.contains(key) && e.contains("`yes`")),
                "{key}"
            );
        }
    }

    #[test]
    fn levels_are_those_of_the_compression_wherever_it_stands() {
        for (text, expect) in [
            ("compression-level=9", Ok(Some(9))),
            ("compression-level=22,compression=zstd", Ok(Some(22))),
            ("compression=zstd,compression-level=0", Ok(Some(0))),
            ("compression=uncompressed,compression-level=3", Ok(Some(3))),
            ("compression=zstd", Ok(None)),
            ("compression-level=10", Err("0 to 9 for gzip")),
            ("compression=gzip,compression-level=-1", Err("not `-1`")),
            ("compression=zstd,compression-level=23", Err("0 to 22 for zstd")),
            ("compression-level=fast", Err("a number, not `fast`")),
            ("compression-level=", Err("a number")),
        ] {
            match (read(text).map(|options| options.level), expect) {
                (Ok(level), Ok(expect)) => assert_eq!(level, expect, "{text}"),
                (Err(told), Err(expect)) => assert!(told.contains(expect), "{text}: {told}"),
                (other, _) => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn annotations_are_put_where_their_option_says() {
        for (text, expect) in [
            ("annotation.org.x=a=b", "Manifest org.x=a=b"),
            ("annotation.A:b=c", "Manifest A:b=c"),
            ("annotation[linux/arm64].a=", "Manifest[linux/arm64] a="),
            ("annotation-index.a=b", "Index a=b"),
            ("annotation-manifest-descriptor[linux/amd64].a=b", "ManifestDescriptor[linux/amd64] a=b"),
            ("\"annotation-manifest.a=b,c\"", "Manifest a=b,c"),
        ] {
            let shown = |a: &Annotation| {
                let platform = a.platform.as_ref().map_or_else(String::new, |p| format!("[{p}]"));
                format!("{:?}{platform} {}={}", a.level, a.name, a.value)
            };
            let all = read(text).map(|options| options.annotations.iter().map(shown).collect::<Vec<_>>());
            assert_eq!(all, Ok(vec![expect.to_owned()]), "{text}");
        }
        for text in
            ["annotation.=b", "annotation-image.a=b", "annotation[linux.a=b", "annotation-index[arm].a=b"]
        {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(Options::read("annotation-index.a=b", false).is_err());
    }

    #[test]
    fn what_is_unknown_is_told_with_what_was_meant() {
        for (text, expect) in [
            (
                "compresion=gzip",
                "unknown option `compresion`; did you mean compression? There are type, dest",
            ),
            ("oci-mediatype=true", "did you mean oci-mediatypes?"),
            ("anotation.a=b", "unknown option `anotation.a`"),
            ("xyzzyxyzzy=1", "unknown option `xyzzyxyzzy`; there are type, dest, name"),
            ("type=dockr", "unknown type `dockr`; did you mean docker?"),
            ("compression=gzipp", "unknown compression `gzipp`; did you mean gzip?"),
            ("compression=estargzz", "did you mean estargz?"),
            ("prefer-nondist-layers=true", "no layers of that kind"),
            ("mode=move", "there are copy, delete"),
            ("source-date-epoch=now", "a number, not `now`"),
            ("dest=", "dest is empty"),
        ] {
            match read(text) {
                Err(told) => assert!(told.contains(expect), "{text}: {told}"),
                Ok(options) => panic!("{text}: {options:?}"),
            }
        }
    }

    #[test]
    fn what_changes_nothing_here_passes() {
        let text =
            "type=image,unpack=true,prefer-nondist-layers=0,source-date-epoch=,mode=copy,attestation-inline=";
        assert!(read(text).is_ok());
    }
}
