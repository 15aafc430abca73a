//! Package URLs, as the package-url specification writes them. It does not know what packages are.

use kiln_oci::{Platform, Reference};
use std::fmt::Write;

/// A package URL: `pkg:KIND/NAMESPACE/NAME@VERSION?QUALIFIERS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Purl {
    /// The kind, as `deb`.
    pub kind: &'static str,
    /// What stands before the name, with slashes in it; empty if nothing does.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The version; empty if there is none.
    pub version: String,
    /// More about it. One without a value is left out.
    pub qualifiers: Vec<(&'static str, String)>,
}

impl Purl {
    /// Its text.
    pub fn text(&self) -> String {
        let mut out = format!("pkg:{}/", self.kind);
        for part in self.namespace.split('/').filter(|part| !part.is_empty()) {
            out.push_str(&escaped(part));
            out.push('/');
        }
        out.push_str(&escaped(&self.name));
        if !self.version.is_empty() {
            let _ = write!(out, "@{}", escaped(&self.version));
        }
        let mut qualifiers: Vec<_> = self.qualifiers.iter().filter(|(_, value)| !value.is_empty()).collect();
        qualifiers.sort();
        for (i, (key, value)) in qualifiers.into_iter().enumerate() {
            let _ = write!(out, "{}{key}={}", if i == 0 { '?' } else { '&' }, escaped(value));
        }
        out
    }
}

/// The package URL of an image by its name, as BuildKit writes it.
pub(super) fn of_image(kind: &'static str, name: &Reference, platform: Option<&Platform>) -> String {
    let untagged = name.familiar();
    let untagged = untagged.split('@').next().unwrap_or_default();
    let path = match name.tag() {
        Some(tag) => untagged.strip_suffix(&format!(":{tag}")).unwrap_or(untagged),
        None => untagged,
    };
    let (namespace, short) = path.rsplit_once('/').unwrap_or(("", path));
    let qualifiers = vec![
        ("digest", name.digest().map_or_else(String::new, |digest| digest.to_string())),
        ("platform", platform.map_or_else(String::new, Platform::to_string)),
    ];
    let version = name.tag().unwrap_or_default().to_owned();
    Purl { kind, namespace: namespace.to_owned(), name: short.to_owned(), version, qualifiers }.text()
}

/// Percent-encoded but for what the specification leaves as it is.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => {
                out.push(byte as char)
            }
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_versions_and_qualifiers_are_escaped_and_sorted() {
        let purl = |kind, namespace: &str, name: &str, version: &str, qualifiers| Purl {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            version: version.to_owned(),
            qualifiers,
        };
        let qualifiers =
            vec![("distro", "debian-12".to_owned()), ("arch", "all".to_owned()), ("x", String::new())];
        for (purl, expect) in [
            (
                purl("deb", "debian", "libstdc++6", "1:12.2.0-14+deb12u1~x", qualifiers),
                "pkg:deb/debian/libstdc%2B%2B6@1:12.2.0-14%2Bdeb12u1~x?arch=all&distro=debian-12",
            ),
            (purl("npm", "@angular", "core", "1.0.0", vec![]), "pkg:npm/%40angular/core@1.0.0"),
            (purl("golang", "github.com/a/b", "c", "", vec![]), "pkg:golang/github.com/a/b/c"),
        ] {
            assert_eq!(purl.text(), expect);
        }
    }

    #[test]
    fn images_are_written_as_buildkit_writes_them() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let platform = Platform::new("linux", "arm64", None);
        for (name, platform, expect) in [
            ("alpine", None, "pkg:docker/alpine@latest".to_owned()),
            ("docker.io/library/alpine:3.15", None, "pkg:docker/alpine@3.15".to_owned()),
            ("user/test:v2", None, "pkg:docker/user/test@v2".to_owned()),
            ("ghcr.io/foo/bar", None, "pkg:docker/ghcr.io/foo/bar@latest".to_owned()),
            ("localhost:5000/a:1", None, "pkg:docker/localhost:5000/a@1".to_owned()),
            (
                &format!("busybox@{digest}"),
                Some(&platform),
                format!("pkg:docker/busybox?digest={digest}&platform=linux%2Farm64"),
            ),
            (&format!("busybox:1@{digest}"), None, format!("pkg:docker/busybox@1?digest={digest}")),
        ] {
            let name: Reference = name.parse().unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(of_image("docker", &name, platform), expect, "{name}");
        }
    }
}
