//! Contexts by name, and the sources that bring them in. It does not know what is in them.

use crate::git;
use crate::options::{BuildOptions, NamedContext};
use crate::progress::full_platform;
use kiln_oci::{Platform, Reference};
use kiln_solver::{CopyAction, FileActionKind, SourceOp};
use std::collections::{BTreeMap, HashMap};

/// The named contexts of a build, by their normal names.
#[derive(Clone)]
pub(crate) struct Contexts<'a> {
    by_name: HashMap<String, &'a NamedContext>,
}

/// The name by which a context is looked up: in lower case, an image's name in its short form and
/// without the tag `latest`.
pub fn normal_context_name(name: &str) -> String {
    let name = name.to_lowercase();
    let (name, platform) = name.split_once("::").map_or((name.as_str(), None), |(n, p)| (n, Some(p)));
    let familiar =
        name.parse::<Reference>().map_or_else(|_| name.to_owned(), |reference| reference.familiar());
    let familiar = familiar.strip_suffix(":latest").unwrap_or(&familiar);
    match platform {
        Some(text) => {
            let platform = text.parse::<Platform>().map_or_else(|_| text.to_owned(), |p| full_platform(&p));
            format!("{familiar}::{platform}")
        }
        None => familiar.to_owned(),
    }
}

impl<'a> Contexts<'a> {
    pub(crate) fn new(options: &'a BuildOptions) -> Contexts<'a> {
        let named = options.contexts.iter().map(|(name, context)| (normal_context_name(name), context));
        Contexts { by_name: named.collect() }
    }

    /// The contexts that are stages: what they are called, and the names of the stages.
    pub(crate) fn stages(&self) -> impl Iterator<Item = (&str, &'a str)> {
        let mut stages: Vec<(&str, &'a str)> = self
            .by_name
            .iter()
            .filter_map(|(name, context)| match context {
                NamedContext::Stage(stage) => Some((name.as_str(), stage.as_str())),
                _ => None,
            })
            .collect();
        stages.sort_unstable();
        stages.into_iter()
    }

    /// The context of a name, if there is one; one for the platform goes before one for all.
    pub(crate) fn find(&self, name: &str, platform: &Platform) -> Option<&'a NamedContext> {
        if self.by_name.is_empty()
            || name.eq_ignore_ascii_case("scratch")
            || name.eq_ignore_ascii_case("context")
        {
            return None;
        }
        let name = normal_context_name(name);
        let of_platform = self.by_name.get(&format!("{name}::{}", full_platform(platform)));
        of_platform.or_else(|| self.by_name.get(&name)).copied()
    }
}

/// What brings a context in.
pub(crate) enum ContextSource<'a> {
    /// Nothing.
    Empty,
    /// A source as it is.
    Plain(SourceOp),
    /// A file that is unpacked where it is an archive.
    Archive(SourceOp),
    /// An image, by its reference.
    Image(String),
    /// A folder, whose excludes are given.
    Local { name: &'a str, excludes: &'a [String] },
}

/// How a context is brought in.
pub(crate) fn source_of(context: &NamedContext) -> Result<ContextSource<'_>, String> {
    Ok(match context {
        NamedContext::Local { name, excludes } => ContextSource::Local { name, excludes },
        NamedContext::Image(reference) => {
            let reference = reference.strip_prefix("docker-image://").unwrap_or(reference);
            if reference == "scratch" {
                return Ok(ContextSource::Empty);
            }
            let reference = reference.parse::<Reference>().map_err(|error| error.to_string())?;
            ContextSource::Image(reference.to_string())
        }
        NamedContext::Stage(stage) => return Err(format!("the stage {stage} can't be brought in")),
        NamedContext::OciLayout { path, tag, digest } => {
            let tag = tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
            let digest = digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
            ContextSource::Image(format!("oci-layout://{path}{tag}{digest}"))
        }
        NamedContext::Git(address) => match git::parse_context(address) {
            Some(git) => ContextSource::Plain(git?.source()),
            None => return Err(format!("`{address}` is no address of a git repository")),
        },
        NamedContext::Http(url) => {
            let attrs = BTreeMap::from([("http.filename".to_owned(), "context".to_owned())]);
            ContextSource::Archive(SourceOp { identifier: url.clone(), attrs })
        }
    })
}

/// The source of a folder.
pub(crate) fn local(name: &str, excludes: &[String]) -> SourceOp {
    let mut attrs = BTreeMap::new();
    if !excludes.is_empty() {
        let list = serde_json::Value::from(excludes.to_vec()).to_string();
        attrs.insert("local.excludepatterns".to_owned(), list);
    }
    SourceOp { identifier: format!("local://{name}"), attrs }
}

/// Unpacks the file `context` of a download, or takes it as it is where it is no archive.
pub(crate) fn unpack() -> FileActionKind {
    let copy = CopyAction { src: "/context".to_owned(), dest: "/".to_owned(), ..CopyAction::default() };
    FileActionKind::Copy(Box::new(CopyAction { attempt_unpack: true, create_dest_path: true, ..copy }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_normal() {
        for (name, expect) in [
            ("Extra", "extra"),
            ("alpine:latest", "alpine"),
            ("docker.io/library/alpine", "alpine"),
            ("some/image:1", "some/image:1"),
            ("base::linux/aarch64", "base::linux/arm64"),
        ] {
            assert_eq!(normal_context_name(name), expect);
        }
    }
}
