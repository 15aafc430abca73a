//! What a bill of materials lists. It does not know where it was read.

use crate::attest::purl::Purl;

/// A package that a file of the image names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Package {
    /// What it is called all over the world.
    pub purl: Purl,
    /// Its licence as the file states it.
    pub licence: Option<String>,
    /// Who made or distributes it, as the file states it.
    pub supplier: Option<String>,
}

impl Package {
    /// A package of a kind; nothing if it has no name or one that no package has.
    pub fn of(kind: &'static str, namespace: &str, name: &str, version: &str) -> Option<Package> {
        let is_sane = |text: &str| text.len() <= NAME_BYTES_MAX && !text.contains(char::is_control);
        let all_sane = [namespace, name, version].into_iter().all(is_sane);
        (all_sane && !name.is_empty()).then(|| Package {
            purl: Purl {
                kind,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                version: version.to_owned(),
                qualifiers: Vec::new(),
            },
            licence: None,
            supplier: None,
        })
    }

    /// The same with a qualifier, which is nothing where it is empty.
    pub fn with(mut self, key: &'static str, value: &str) -> Package {
        if !value.is_empty() {
            self.purl.qualifiers.push((key, value.to_owned()));
        }
        self
    }

    /// The name with what stands before it, as its own world writes it.
    pub fn full_name(&self) -> String {
        let separator = if self.purl.kind == "maven" { ":" } else { "/" };
        match (self.purl.kind, self.purl.namespace.as_str()) {
            ("npm" | "golang" | "composer", namespace) if !namespace.is_empty() => {
                format!("{namespace}{separator}{}", self.purl.name)
            }
            _ => self.purl.name.clone(),
        }
    }
}

/// A longer name or version is none.
const NAME_BYTES_MAX: usize = 1024;

/// The distribution that an image is of, from its os-release.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Distribution {
    /// `ID`.
    pub id: String,
    /// `VERSION_ID`.
    pub version: String,
}

impl Distribution {
    /// Reads os-release(5).
    pub fn read(text: &str) -> Distribution {
        let value = |key: &str| {
            let line = text.lines().rev().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned()
        };
        Distribution { id: value("ID").to_lowercase(), version: value("VERSION_ID") }
    }

    /// As a qualifier: `debian-12`.
    pub fn qualifier(&self) -> String {
        match (self.id.as_str(), self.version.as_str()) {
            ("", _) => String::new(),
            (id, "") => id.to_owned(),
            (id, version) => format!("{id}-{version}"),
        }
    }

    /// As a namespace of its packages; `other` where the image does not say.
    pub fn namespace<'a>(&'a self, other: &'a str) -> &'a str {
        match self.id.as_str() {
            "" => other,
            "rhel" => "redhat",
            id if id.starts_with("opensuse") => "opensuse",
            id => id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_is_read_with_and_without_quotes() {
        let text = "PRETTY_NAME=\"x\"\nVERSION_ID=\"12\"\nID=debian\n";
        let read = Distribution::read(text);
        assert_eq!((read.qualifier().as_str(), read.namespace("x")), ("debian-12", "debian"));
        let rhel = Distribution::read("ID='rhel'\n");
        assert_eq!((rhel.qualifier().as_str(), rhel.namespace("x")), ("rhel", "redhat"));
        assert_eq!(Distribution::read("ID_LIKE=x\n").namespace("debian"), "debian");
    }

    #[test]
    fn a_name_with_a_newline_or_of_a_megabyte_is_none() {
        assert!(Package::of("npm", "", "a\nb", "1").is_none());
        assert!(Package::of("npm", "", &"a".repeat(1 << 20), "1").is_none());
        assert!(Package::of("npm", "", "", "1").is_none());
    }
}
