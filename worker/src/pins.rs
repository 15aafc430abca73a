//! What branches, tags and files of the web are held to by a lock file, and what those turned out to be that it lacks.
//! It does not know the file's form.
//!
//! A git name is `ADDRESS#REF`, or `ADDRESS` for the default branch; a web name is the address. Neither has
//! credentials in it. Within one process a name stands for one thing, in all its sources.

use crate::WorkerError;
use crate::remote::{is_commit, is_ref_name};
use kiln_oci::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a name in a repository stands for: all that makes a difference in the layer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Unchecked")]
pub struct GitPin {
    /// The commit, in 40 digits.
    pub(crate) commit: String,
    /// The name in full, as `refs/heads/main`; empty if that is not known.
    #[serde(rename = "ref", skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    /// The object of a tag with a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tag: Option<String>,
}

/// The same as it was written, by anybody.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    commit: String,
    #[serde(rename = "ref", default)]
    name: String,
    tag: Option<String>,
}

impl TryFrom<Unchecked> for GitPin {
    type Error = String;

    /// Nothing of it may be taken by git for anything but what it says.
    fn try_from(Unchecked { commit, name, tag }: Unchecked) -> Result<GitPin, String> {
        if let Some(wrong) = [Some(&commit), tag.as_ref()].into_iter().flatten().find(|text| !is_commit(text))
        {
            return Err(format!("`{wrong}` is no commit: write all 40 digits"));
        }
        if !name.is_empty() && !is_ref_name(&name) {
            return Err(format!("{name:?} can't be the name of a branch or tag"));
        }
        Ok(GitPin { commit, name, tag })
    }
}

/// What names of sources stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PinnedSources {
    /// Names in repositories.
    pub git: BTreeMap<String, GitPin>,
    /// Addresses of the web, and the digests of what is there.
    pub web: BTreeMap<String, Digest>,
}

/// A name that can be pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceName {
    /// In a repository.
    Git(String),
    /// An address of the web.
    Web(String),
}

/// What a name is pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// What it stands for in its repository.
    Git(GitPin),
    /// The digest of what is at the address.
    Web(Digest),
}

impl Display for Pin {
    /// The commit or digest; with `#` all that is known of a commit.
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Pin::Git(pin) if f.alternate() => {
                let tag = pin.tag.as_deref().unwrap_or_default();
                f.write_str(format!("{} {} {tag}", pin.commit, pin.name).trim_end())
            }
            Pin::Git(pin) => f.write_str(&pin.commit),
            Pin::Web(digest) => digest.fmt(f),
        }
    }
}

impl Display for SourceName {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let (SourceName::Git(name) | SourceName::Web(name)) = self;
        f.write_str(name)
    }
}

/// Why what a lock file says, or does not say, ends a build.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// There is no entry, and none may be added.
    #[error(
        "{file} has no entry for {name}, and with --locked none is added: \
         run `kiln lock update --lock {file} '{name}'`, or build once without --locked"
    )]
    Locked {
        /// The lock file.
        file: String,
        /// What should be in it.
        name: String,
    },
    /// There is no entry, the thing is not here, and nobody may be asked.
    #[error(
        "{file} has no entry for {name}, it is not in the store either, and with {flag} nobody is asked for it: \
         build once without {flag}"
    )]
    Unknown {
        /// The lock file.
        file: String,
        /// What was wanted.
        name: String,
        /// The flag that says so.
        flag: &'static str,
    },
    /// What the entry says is not here, and nobody may be asked.
    #[error(
        "{file} pins {name} to {pinned}, which is not in the store, and with {flag} nobody is asked for it: \
         build once without {flag}"
    )]
    NotHere {
        /// The lock file.
        file: String,
        /// What was wanted.
        name: String,
        /// What it is pinned to.
        pinned: String,
        /// The flag that says so.
        flag: &'static str,
    },
    /// What is there now is another thing.
    #[error(
        "{name}: {file} pins it to {pinned}, but now it is {got}: \
         if that is meant, `kiln lock update --lock {file} '{name}'` takes it over"
    )]
    Moved {
        /// The lock file.
        file: String,
        /// What was wanted.
        name: String,
        /// What it is pinned to.
        pinned: String,
        /// What it is.
        got: String,
    },
    /// The lock file and the Dockerfile want different things.
    #[error(
        "{name}: {file} pins it to {pinned}, but the Dockerfile asks for {asked}: \
         remove the entry, which the Dockerfile does not need, or change what it asks for"
    )]
    Disagrees {
        /// The lock file.
        file: String,
        /// What was wanted.
        name: String,
        /// What it is pinned to.
        pinned: String,
        /// What the Dockerfile says.
        asked: String,
    },
}

/// What sources of one process are held to.
#[derive(Debug, Default)]
pub struct Pins {
    /// The lock file's name; without one, nothing is held.
    file: Option<String>,
    is_locked: bool,
    held: PinnedSources,
    learnt: Mutex<Learnt>,
}

#[derive(Debug, Default)]
struct Learnt {
    sources: PinnedSources,
    aged: BTreeMap<String, AgedSource>,
}

/// What a source was answered with where nobody could be asked: what had come earlier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgedSource {
    /// The flag for whose sake nobody was asked.
    pub flag: &'static str,
    /// How old it is in seconds, where that is known.
    pub age_s: Option<i64>,
    /// The commit or digest.
    pub what: String,
}

impl Pins {
    /// Holds sources to what a lock file says; nothing is added to it if it `is_locked`.
    pub fn new(file: String, held: PinnedSources, is_locked: bool) -> Pins {
        Pins { file: Some(file), is_locked, held, learnt: Mutex::default() }
    }

    /// What was found out that the file does not say.
    pub fn learnt(&self) -> PinnedSources {
        self.lock().sources.clone()
    }

    /// The names since the last call that were answered with what had come earlier, each once.
    pub fn take_aged(&self) -> Vec<(String, AgedSource)> {
        std::mem::take(&mut self.lock().aged).into_iter().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a name was answered with where nobody could be asked.
    pub(crate) fn note_age(&self, name: &str, aged: AgedSource) {
        self.lock().aged.insert(name.to_owned(), aged);
    }

    /// What the file says of a name in a repository, or what it turned out to be in this process.
    pub(crate) fn git(&self, name: &str) -> Option<GitPin> {
        self.held.git.get(name).cloned().or_else(|| self.lock().sources.git.get(name).cloned())
    }

    /// What the file alone says of a name in a repository.
    pub(crate) fn held_git(&self, name: &str) -> Option<&GitPin> {
        self.held.git.get(name)
    }

    /// The same of an address of the web.
    pub(crate) fn web(&self, name: &str) -> Option<Digest> {
        self.held.web.get(name).copied().or_else(|| self.lock().sources.web.get(name).copied())
    }

    /// What the file alone says of an address of the web.
    pub(crate) fn held_web(&self, name: &str) -> Option<Digest> {
        self.held.web.get(name).copied()
    }

    /// Takes in what a name stands for. If another thread has found out something else, that is an error.
    pub(crate) fn learn(&self, name: &str, pin: Pin) -> Result<(), PinError> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut learnt = self.lock();
        let (before, got) = match pin {
            Pin::Git(pin) => {
                let kept = learnt.sources.git.entry(name.to_owned()).or_insert_with(|| pin.clone());
                (kept.commit.clone(), pin.commit)
            }
            Pin::Web(digest) => {
                let kept = learnt.sources.web.entry(name.to_owned()).or_insert(digest);
                (kept.to_string(), digest.to_string())
            }
        };
        if before == got {
            return Ok(());
        }
        Err(PinError::Moved { file: file.clone(), name: name.to_owned(), pinned: before, got })
    }

    /// Refuses a name that is not pinned where nothing may be added.
    pub(crate) fn allow_new(&self, name: &str) -> Result<(), PinError> {
        match &self.file {
            Some(file) if self.is_locked => {
                Err(PinError::Locked { file: file.clone(), name: name.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Why something that is not here is not asked for.
    pub(crate) fn not_asked(&self, name: String, pinned: Option<String>, flag: &'static str) -> WorkerError {
        let Some(file) = self.file.clone() else { return WorkerError::NotAsked { what: name, flag } };
        match pinned {
            Some(pinned) => PinError::NotHere { file, name, pinned, flag }.into(),
            None => PinError::Unknown { file, name, flag }.into(),
        }
    }

    pub(crate) fn moved(&self, name: &str, pinned: String, got: String) -> PinError {
        let file = self.file.clone().unwrap_or_default();
        PinError::Moved { file, name: name.to_owned(), pinned, got }
    }

    pub(crate) fn disagrees(&self, name: &str, pinned: String, asked: &str) -> PinError {
        let file = self.file.clone().unwrap_or_default();
        PinError::Disagrees { file, name: name.to_owned(), pinned, asked: asked.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "1111111111111111111111111111111111111111";

    fn git(commit: &str) -> Pin {
        Pin::Git(GitPin { commit: commit.to_owned(), name: String::new(), tag: None })
    }

    #[test]
    fn a_name_stands_for_one_thing_in_a_process() {
        let pins = Pins::new("kiln.lock".to_owned(), PinnedSources::default(), false);
        assert_eq!(pins.learn("x", git(ONE)), Ok(()));
        assert_eq!(pins.learn("x", git(ONE)), Ok(()));
        assert_eq!(pins.git("x").map(|pin| pin.commit), Some(ONE.to_owned()));
        let other = pins.learn("x", git("2")).expect_err("it moved").to_string();
        assert!(other.contains(ONE) && other.contains("now it is 2"), "{other}");
    }

    #[test]
    fn without_a_file_nothing_is_held() {
        let pins = Pins::default();
        assert_eq!(pins.learn("x", git(ONE)), Ok(()));
        assert_eq!(pins.git("x"), None);
        assert_eq!(pins.allow_new("x"), Ok(()));
    }

    #[test]
    fn what_git_could_take_for_an_option_is_no_pin() {
        for text in [
            r#"{"commit": "--upload-pack=x"}"#,
            r#"{"commit": "1111"}"#,
            r#"{"commit": "1111111111111111111111111111111111111111", "ref": "--x"}"#,
            r#"{"commit": "1111111111111111111111111111111111111111", "tag": "v1"}"#,
            r#"{"commit": "1111111111111111111111111111111111111111", "branch": "x"}"#,
        ] {
            assert!(serde_json::from_str::<GitPin>(text).is_err(), "{text}");
        }
        let pin = serde_json::from_str::<GitPin>(&format!(r#"{{"commit": "{ONE}"}}"#));
        assert_eq!(pin.ok().map(Pin::Git), Some(git(ONE)));
    }
}
