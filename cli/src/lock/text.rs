//! The lock file's form, read, written and merged. It does not know where the file is.
//!
//! ```text
//! {
//!   "git": {
//!     "https://github.com/o/r.git#main": {
//!       "commit": "…",
//!       "ref": "refs/heads/main"
//!     }
//!   },
//!   "images": {
//!     "docker.io/library/alpine:3.20": "sha256:…"
//!   },
//!   "version": 2,
//!   "web": {
//!     "https://example.com/file": "sha256:…"
//!   }
//! }
//! ```
//! The digest of an image is that of the index where there is one, so that it serves all platforms. A file that
//! pins images alone has version 1: kilns that know no other can use it.

use crate::error::CommandError;
use kiln_oci::Digest;
use kiln_worker::{GitPin, Pin, PinnedSources};
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::{Display, Formatter};
use std::marker::PhantomData;
use std::path::Path;

/// The newest version that is read.
const VERSION: u32 = 2;
/// The version of a file that pins images alone.
const OF_IMAGES: u32 = 1;

/// What is pinned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entries {
    /// Tags of images.
    pub images: BTreeMap<String, Digest>,
    /// Other sources.
    pub sources: PinnedSources,
}

/// A file as it is written; it is read with values of any kind, to name the line of one that is wrong.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Text<G, D> {
    #[serde(
        default = "BTreeMap::new",
        deserialize_with = "unique",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[serde(bound(deserialize = "G: Deserialize<'de>"))]
    git: BTreeMap<String, G>,
    #[serde(default = "BTreeMap::new", deserialize_with = "unique")]
    #[serde(bound(deserialize = "D: Deserialize<'de>"))]
    images: BTreeMap<String, D>,
    version: u32,
    #[serde(
        default = "BTreeMap::new",
        deserialize_with = "unique",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[serde(bound(deserialize = "D: Deserialize<'de>"))]
    web: BTreeMap<String, D>,
}

/// What every version of the file has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Reads a file's text. The error has its line.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Entries, CommandError> {
    let refused = |line: usize, what: String| {
        let argument = format!("--lock {}:{}", path.display(), line.max(1));
        CommandError::usage(argument, format!("{what}; mend it, or remove it to have it made anew"))
    };
    let read = serde_json::from_slice::<Text<Value, Value>>(bytes);
    // A newer file may have more in it than can be read: its version is what is wrong with it.
    let version = serde_json::from_slice(bytes).map(|Version { version }| version).ok();
    if let Some(version) = version.filter(|version| !(OF_IMAGES..=VERSION).contains(version)) {
        let what = format!("it has version {version}, this kiln reads up to {VERSION}");
        return Err(refused(line_of(bytes, "version"), what));
    }
    let Text { git, images, version: _, web } = read.map_err(|e| refused(e.line(), e.to_string()))?;
    let wrong = |(name, why): (String, String)| refused(line_of(bytes, &name), format!("{name}: {why}"));
    let images = checked(images).map_err(wrong)?;
    let sources = PinnedSources { git: checked(git).map_err(wrong)?, web: checked(web).map_err(wrong)? };
    Ok(Entries { images, sources })
}

/// The values as they must be, or the name and the reason of one that is not so.
fn checked<V: DeserializeOwned>(
    read: BTreeMap<String, Value>,
) -> Result<BTreeMap<String, V>, (String, String)> {
    let check = |(name, value)| match serde_json::from_value(value) {
        Ok(value) => Ok((name, value)),
        Err(error) => Err((name, error.to_string())),
    };
    read.into_iter().map(check).collect()
}

/// The first line with a name, or the first of all.
fn line_of(bytes: &[u8], name: &str) -> usize {
    let quoted = Value::from(name).to_string();
    let has = |line: &[u8]| line.windows(quoted.len()).any(|word| word == quoted.as_bytes());
    bytes.split(|c| *c == b'\n').position(has).map_or(1, |at| at + 1)
}

/// The text of a file.
pub(super) fn print(entries: &Entries) -> String {
    let Entries { images, sources: PinnedSources { git, web } } = entries.clone();
    let version = if git.is_empty() && web.is_empty() { OF_IMAGES } else { VERSION };
    serde_json::to_string_pretty(&Text { git, images, version, web }).unwrap_or_default() + "\n"
}

/// A map in which no name is twice, as it is where two branches were merged by hand.
fn unique<'de, D: Deserializer<'de>, V: Deserialize<'de>>(from: D) -> Result<BTreeMap<String, V>, D::Error> {
    struct Unique<V>(PhantomData<V>);
    impl<'de, V: Deserialize<'de>> Visitor<'de> for Unique<V> {
        type Value = BTreeMap<String, V>;

        fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut read = BTreeMap::new();
            while let Some(name) = map.next_key::<String>()? {
                match read.entry(name) {
                    Entry::Vacant(place) => drop(place.insert(map.next_value()?)),
                    Entry::Occupied(there) => {
                        return Err(serde::de::Error::custom(format!("{} is in it twice", there.key())));
                    }
                }
            }
            Ok(read)
        }
    }
    from.deserialize_map(Unique(PhantomData))
}

/// A name, what it was pinned to and what it is pinned to now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub name: String,
    pub old: Option<String>,
    pub new: String,
}

impl Display for Moved {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let old = self.old.as_ref().map_or_else(String::new, |old| format!("{old} → "));
        write!(f, "{} {old}{}", self.name, self.new)
    }
}

impl Entries {
    pub fn is_empty(&self) -> bool {
        self.images.is_empty() && self.sources.git.is_empty() && self.sources.web.is_empty()
    }

    /// Adds what is not there. What is there stays: the names that have another value, with that and the one
    /// that was to be added.
    pub fn add(&mut self, more: &Entries) -> Vec<(String, String, String)> {
        let mut others = Vec::new();
        let git = |pin: &GitPin| Pin::Git(pin.clone()).to_string();
        add_to(&mut self.images, &more.images, Digest::to_string, &mut others);
        add_to(&mut self.sources.git, &more.sources.git, git, &mut others);
        add_to(&mut self.sources.web, &more.sources.web, Digest::to_string, &mut others);
        others
    }

    /// Puts what is new in the place of what is there: what moved.
    pub fn set(&mut self, new: &Entries) -> Vec<Moved> {
        let mut moved = Vec::new();
        let git = |old: Option<&GitPin>, pin: &GitPin| {
            let (old, new) = (old.map(|pin| Pin::Git(pin.clone())), Pin::Git(pin.clone()));
            match old {
                // The same commit by another name.
                Some(old) if old.to_string() == new.to_string() => {
                    (Some(format!("{old:#}")), format!("{new:#}"))
                }
                old => (old.map(|old| old.to_string()), new.to_string()),
            }
        };
        let digests = |old: Option<&Digest>, new: &Digest| (old.map(Digest::to_string), new.to_string());
        set_in(&mut self.images, &new.images, digests, &mut moved);
        set_in(&mut self.sources.git, &new.sources.git, git, &mut moved);
        set_in(&mut self.sources.web, &new.sources.web, digests, &mut moved);
        moved
    }
}

fn add_to<V: Clone + PartialEq>(
    to: &mut BTreeMap<String, V>,
    more: &BTreeMap<String, V>,
    shown: impl Fn(&V) -> String,
    others: &mut Vec<(String, String, String)>,
) {
    for (name, ours) in more {
        match to.entry(name.clone()) {
            Entry::Vacant(place) => drop(place.insert(ours.clone())),
            Entry::Occupied(there) if there.get() != ours => {
                others.push((name.clone(), shown(there.get()), shown(ours)));
            }
            Entry::Occupied(_) => {}
        }
    }
}

fn set_in<V: Clone + PartialEq>(
    to: &mut BTreeMap<String, V>,
    new: &BTreeMap<String, V>,
    shown: impl Fn(Option<&V>, &V) -> (Option<String>, String),
    moved: &mut Vec<Moved>,
) {
    for (name, value) in new {
        let before = to.insert(name.clone(), value.clone());
        if before.as_ref() != Some(value) {
            let (old, new) = shown(before.as_ref(), value);
            moved.push(Moved { name: name.clone(), old, new });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "1111111111111111111111111111111111111111";

    fn parsed(text: &str) -> Result<Entries, String> {
        parse(Path::new("kiln.lock"), text.as_bytes()).map_err(|e| e.to_string())
    }

    fn entries(image: &str, git: Option<&str>, web: Option<&str>) -> Entries {
        let digest = |text: &str| Digest::of(text.as_bytes()).to_string();
        let git = git.map_or_else(String::new, |commit| format!(r#""r#main": {{"commit": "{commit}"}}"#));
        let web = web.map_or_else(String::new, |web| format!(r#""http://h/x": "{}""#, digest(web)));
        let images = format!(r#""a:1": "{}""#, digest(image));
        let text = format!(r#"{{"git": {{{git}}}, "images": {{{images}}}, "version": 2, "web": {{{web}}}}}"#);
        parsed(&text).expect("a lock file")
    }

    #[test]
    fn a_bad_file_is_named_with_its_line() {
        for (text, want) in [
            ("{\n  \"images\": {\n    \"a\": \"sha256:12\"\n  },\n  \"version\": 1\n}\n", "kiln.lock:3"),
            ("{\"images\": {}, \"version\": 3}", "it has version 3"),
            ("{\n\"images\": {},\n\"things\": {},\n\"version\": 9\n}", "kiln.lock:4"),
            ("", "kiln.lock:1"),
            ("{\n\"webs\": {}}", "kiln.lock:2"),
            ("{\n\"webs\": {},\n\"version\": 1}", "kiln.lock:2"),
            ("{\"version\": 2,\n\"git\": {\"a\": {\"commit\": \"12\"}}}", "kiln.lock:2"),
            ("{\"version\": 2,\n<<<<<<< HEAD\n", "kiln.lock:2"),
            ("{\"version\": 2,\n\"git\": {\n\"a\": {\"commit\": \"--x\"}}}", "kiln.lock:3"),
        ] {
            let error = parsed(text).expect_err(text);
            assert!(error.contains(want), "{text}: {error}");
        }
        let digest = Digest::of(b"x");
        let twice =
            format!("{{\"images\": {{\n\"a\": \"{digest}\",\n\"a\": \"{digest}\"}}, \"version\": 1}}");
        let error = parsed(&twice).expect_err("twice");
        assert!(error.contains("kiln.lock:3") && error.contains("a is in it twice"), "{error}");
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_has_the_oldest_version_that_can_say_it() {
        for (entries, version) in [
            (Entries::default(), 1),
            (entries("one", None, None), 1),
            (entries("one", Some(COMMIT), None), 2),
            (entries("one", Some(COMMIT), Some("web")), 2),
        ] {
            let text = print(&entries);
            assert!(text.contains(&format!("\"version\": {version}")), "{text}");
            assert_eq!(parsed(&text), Ok(entries));
        }
    }

    #[test]
    fn what_is_there_stays_when_more_is_added() {
        let mut there = entries("one", None, Some("web"));
        let others = there.add(&entries("two", Some(COMMIT), Some("web")));
        assert_eq!(there, entries("one", Some(COMMIT), Some("web")));
        let digest = |text: &str| Digest::of(text.as_bytes()).to_string();
        assert_eq!(others, [("a:1".to_owned(), digest("one"), digest("two"))]);
    }

    #[test]
    fn what_moved_is_told_with_what_it_was() {
        let mut there = entries("one", None, Some("web"));
        let moved = there.set(&entries("one", Some(COMMIT), Some("other")));
        let (old, new) = (Digest::of(b"web"), Digest::of(b"other"));
        let lines: Vec<String> = moved.iter().map(Moved::to_string).collect();
        assert_eq!(lines, [format!("r#main {COMMIT}"), format!("http://h/x {old} → {new}")]);
        assert_eq!(there.set(&entries("one", Some(COMMIT), Some("other"))), []);
    }
}
