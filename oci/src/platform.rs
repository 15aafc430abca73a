//! Platforms: operating system, architecture, variant. It does not know which of them can run here.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A platform of the image specification's index, normalised as containerd's `platforms` does:
/// `x86_64` is `amd64`, `aarch64` is `arm64` without variant `v8`, `arm` is `v7` where nothing is said.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// The processor's architecture, in Go's words.
    #[serde(default)]
    pub architecture: String,
    /// The operating system, in Go's words.
    #[serde(default)]
    pub os: String,
    /// The version of the operating system.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features that the operating system must have.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// The architecture's variant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// A text that names no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a platform: write os/architecture or os/architecture/variant, as linux/arm64")]
pub struct PlatformError(String);

const SYSTEMS: [&str; 12] = [
    "linux",
    "windows",
    "darwin",
    "freebsd",
    "netbsd",
    "openbsd",
    "dragonfly",
    "solaris",
    "illumos",
    "aix",
    "android",
    "wasip1",
];

impl Platform {
    /// A platform, normalised.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
        let os = if os == "macos" { "darwin".to_owned() } else { os.to_lowercase() };
        let (architecture, variant) =
            normal_architecture(&architecture.to_lowercase(), variant.map(str::to_lowercase));
        Platform { architecture, os, os_version: None, os_features: Vec::new(), variant }
    }

    /// Linux on the architecture that this program was compiled for.
    pub fn host() -> Platform {
        Platform::new("linux", std::env::consts::ARCH, None)
    }

    /// Whether an image of the platform `have` serves where `self` is asked for, better ones first:
    /// `Some(0)` is exact; a lower variant of arm, or amd64 of a lower level, comes after it.
    pub fn rank(&self, have: &Platform) -> Option<u32> {
        let have = Platform::new(&have.os, &have.architecture, have.variant.as_deref());
        let want = Platform::new(&self.os, &self.architecture, self.variant.as_deref());
        if have.os != want.os {
            return None;
        }
        if have.architecture == want.architecture && have.variant == want.variant {
            return Some(0);
        }
        let level =
            |p: &Platform| p.variant.as_deref().and_then(|v| v.strip_prefix('v')?.parse::<u32>().ok());
        match (want.architecture.as_str(), have.architecture.as_str()) {
            ("arm", "arm") => {
                let (want, have) = (level(&want)?, level(&have)?);
                (have <= want && have >= 5).then(|| want - have)
            }
            ("arm64", "arm64") => have.variant.is_none().then_some(1),
            ("arm64", "arm") => Some(10),
            ("amd64", "amd64") => {
                let (want, have) = (level(&want).unwrap_or(1), level(&have).unwrap_or(1));
                (have <= want).then(|| want - have)
            }
            ("amd64", "386") => Some(10),
            _ => None,
        }
    }
}

fn normal_architecture(architecture: &str, variant: Option<String>) -> (String, Option<String>) {
    let variant = variant.filter(|v| !v.is_empty());
    let (name, variant) = match architecture {
        "x86_64" | "x86-64" | "amd64" => ("amd64", variant.filter(|v| v != "v1")),
        "i386" | "i486" | "i586" | "i686" | "386" | "x86" => ("386", None),
        "aarch64" | "arm64" => ("arm64", variant.filter(|v| v != "8" && v != "v8")),
        "armhf" => ("arm", Some("v7".to_owned())),
        "armel" => ("arm", Some("v6".to_owned())),
        "arm" => {
            let variant = match variant.as_deref() {
                None | Some("7") => "v7".to_owned(),
                Some(v @ ("5" | "6" | "8")) => format!("v{v}"),
                Some(v) => v.to_owned(),
            };
            ("arm", Some(variant))
        }
        other => (other, variant),
    };
    (name.to_owned(), variant)
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Platform, PlatformError> {
        let bad = || PlatformError(text.to_owned());
        let plain =
            |s: &&str| !s.is_empty() && s.bytes().all(|c| c.is_ascii_alphanumeric() || b"_.-".contains(&c));
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(plain) {
            return Err(bad());
        }
        match parts[..] {
            ["local"] => Ok(Platform::host()),
            [one] if SYSTEMS.contains(&one.to_lowercase().as_str()) => {
                let host = Platform::host();
                Ok(Platform::new(one, &host.architecture, host.variant.as_deref()))
            }
            [one] => {
                let known = [
                    "amd64", "386", "arm64", "arm", "ppc64le", "s390x", "riscv64", "loong64", "mips64le",
                    "wasm",
                ];
                let platform = Platform::new("linux", one, None);
                if known.contains(&platform.architecture.as_str()) { Ok(platform) } else { Err(bad()) }
            }
            [os, architecture] => Ok(Platform::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Platform::new(os, architecture, Some(variant))),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |v| write!(f, "/{v}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_are_normalised() {
        for (text, want) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("arm64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
        ] {
            assert_eq!(text.parse::<Platform>().map(|p| p.to_string()), Ok(want.to_owned()), "{text}");
        }
        assert!("plattform".parse::<Platform>().is_err());
        assert!("linux//x".parse::<Platform>().is_err());
    }

    #[test]
    fn a_lower_variant_serves_and_a_higher_does_not() {
        let p = |s: &str| s.parse::<Platform>().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(p("linux/arm/v7").rank(&p("linux/arm/v6")), Some(1));
        assert_eq!(p("linux/arm/v6").rank(&p("linux/arm/v7")), None);
        assert_eq!(p("linux/amd64").rank(&p("linux/arm64")), None);
        assert_eq!(p("linux/arm64").rank(&p("linux/arm64/v8")), Some(0));
    }
}
