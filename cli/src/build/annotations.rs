//! What `--annotation` says, parsed. It does not know what is annotated.

use crate::error::CommandError;
use kiln_oci::PlatformError;
use kiln_worker::{Annotation, AnnotationLevel};

/// What stands before the colon: levels, comma-separated, each perhaps with a platform in brackets.
const LEVELS: [(&str, AnnotationLevel); 4] = [
    ("manifest", AnnotationLevel::Manifest),
    ("manifest-descriptor", AnnotationLevel::ManifestDescriptor),
    ("index", AnnotationLevel::Index),
    ("index-descriptor", AnnotationLevel::IndexDescriptor),
];

/// Reads `[LEVEL[[PLATFORM]][,…]:]NAME=VALUE` of each flag.
pub(super) fn annotations(texts: &[String], is_index: bool) -> Result<Vec<Annotation>, CommandError> {
    let mut all = Vec::new();
    for text in texts {
        let usage = |problem: String| CommandError::usage(format!("--annotation {text}"), problem);
        all.extend(annotation(text, is_index).map_err(usage)?);
    }
    Ok(all)
}

/// Reads one flag.
pub(crate) fn annotation(text: &str, is_index: bool) -> Result<Vec<Annotation>, String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let (levels, name) = name.split_once(':').unwrap_or(("manifest", name));
    if name.is_empty() {
        return Err("write NAME=VALUE".to_owned());
    }
    let mut all = Vec::new();
    for written in levels.split(',') {
        let (written, platform) = match written.strip_suffix(']').and_then(|text| text.split_once('[')) {
            Some((level, platform)) => (level, Some(platform)),
            None => (written, None),
        };
        let known = LEVELS.iter().find(|(name, _)| *name == written);
        let (_, level) = known.ok_or_else(|| {
            let names = LEVELS.map(|(name, _)| name).join(", ");
            format!("there is no level `{written}`; there are {names}")
        })?;
        let is_of_index = matches!(level, AnnotationLevel::Index | AnnotationLevel::IndexDescriptor);
        if is_of_index && !is_index {
            return Err("there is an index only where several platforms are built".to_owned());
        }
        if is_of_index && platform.is_some() {
            return Err("an index is of no platform".to_owned());
        }
        let platform = platform.map(str::parse).transpose().map_err(|e: PlatformError| e.to_string())?;
        let (name, value) = (name.to_owned(), value.to_owned());
        all.push(Annotation { level: *level, platform, name, value });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_platforms_stand_before_the_name() {
        let read = |text: &str, is_index| {
            let all = annotation(text, is_index)?;
            let shown = |a: &Annotation| {
                let platform = a.platform.as_ref().map_or_else(String::new, |p| format!("[{p}]"));
                format!("{:?}{platform} {}={}", a.level, a.name, a.value)
            };
            Ok::<_, String>(all.iter().map(shown).collect::<Vec<_>>().join("; "))
        };
        for (text, expect) in [
            ("a=b=c:d", "Manifest a=b=c:d"),
            ("index:org.x=", "Index org.x="),
            ("manifest[linux/aarch64],index:a=b", "Manifest[linux/arm64] a=b; Index a=b"),
            ("manifest-descriptor,index-descriptor:a=b", "ManifestDescriptor a=b; IndexDescriptor a=b"),
        ] {
            assert_eq!(read(text, true).as_deref(), Ok(expect), "{text}");
        }
        for (text, is_index) in [
            ("a", true),
            ("index:=b", true),
            ("image:a=b", true),
            ("index:a=b", false),
            ("index[linux/arm]:a=b", true),
        ] {
            assert!(read(text, is_index).is_err(), "{text}");
        }
    }
}
