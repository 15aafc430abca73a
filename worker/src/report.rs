//! What is told of a build when it is over: what each step was, and why it was done or not. Reports are kept in the
//! store, the newest of them.
//!
//! ```text
//! <root>/builds/<id>/report.json    <id>: nine digits of base 32, the milliseconds since 1970, so that they sort
//! ```
//! The form of the file is described in docs/explain.md. It does not know how reasons are found, nor words for them.

use crate::WorkerError;
use crate::store::private_folder;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The version of the form.
pub const REPORT_SCHEMA: u32 = 1;
/// How many builds are kept.
const BUILDS_MAX: usize = 50;
/// The digits of an id: as Crockford's, no letter looks like a digit.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const ID_LEN: u32 = 9;

/// A build that is over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildReport {
    /// The version of the form.
    pub schema: u32,
    /// The build's id; empty of a dry run, which is not kept.
    pub id: String,
    /// When it began, in seconds since 1970.
    pub started_s: i64,
    /// How long it took.
    pub seconds: f64,
    /// How it ended.
    pub status: BuildStatus,
    /// Whether nothing was to be done.
    pub dry_run: bool,
    /// Which Dockerfile it was of.
    pub place: String,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The digest of the image's config or of the index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// The names that it was given.
    pub names: Vec<String>,
    /// The platforms that it was for.
    pub platforms: Vec<String>,
    /// Its steps, in the order of the Dockerfile.
    pub steps: Vec<StepReport>,
    /// Sums.
    pub totals: Totals,
}

/// How a build ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BuildStatus {
    /// With a result.
    #[default]
    Done,
    /// With an error.
    Failed,
    /// The user stopped it.
    Canceled,
}

/// Sums over a build.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// How many steps there are.
    pub steps: usize,
    /// How many were known.
    pub hits: usize,
    /// How many were not, and were done or would be.
    pub misses: usize,
    /// How many were not needed.
    pub not_needed: usize,
    /// The bytes of the layers that were made.
    pub layer_bytes: u64,
    /// The bytes of images' layers that were pulled.
    pub pulled_bytes: u64,
}

/// A step of a build.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepReport {
    /// Its name, as in the progress.
    pub name: String,
    /// Its stage, where that has a name.
    pub stage: String,
    /// Its lines in the Dockerfile.
    pub lines: Vec<(u32, u32)>,
    /// The platform that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Its key by how it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// Of a hit: where its result came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Of a hit in a shared cache: which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
    /// Of a hit: when it was made, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_s: Option<i64>,
    /// Of a miss: why.
    pub reasons: Vec<Reason>,
    /// How long it took.
    pub seconds: f64,
    /// The bytes of the layers that it made, as tars.
    pub layer_bytes: u64,
    /// The bytes that were pulled for it.
    pub pulled_bytes: u64,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Its result was known.
    Hit,
    /// It was done.
    Ran,
    /// It was begun, and failed or was stopped.
    Failed,
    /// What is made of it was known.
    NotNeeded,
    /// The build ended before it was its turn.
    #[default]
    NotReached,
    /// A source: what it is was found out, its files were not needed, or were here.
    Here,
    /// A source: its files were brought here.
    Pulled,
    /// In a dry run: it would be done.
    WouldRun,
    /// In a dry run: it would be done, unless what it is made of comes out as it did before.
    MightRun,
    /// In a dry run: a source whose files would be brought here.
    WouldPull,
}

impl Outcome {
    /// Whether the step was not known, or would not be.
    pub fn is_miss(self) -> bool {
        matches!(self, Outcome::Ran | Outcome::Failed | Outcome::WouldRun | Outcome::MightRun)
    }
}

/// Where the result of a step that was known came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The same step was done before on inputs that were made in the same way.
    Chain,
    /// The same step was done before on the same files, however they came about.
    Content,
    /// Another process did it just now.
    OtherProcess,
    /// It is in a shared cache.
    Cache,
}

/// Why a step was not known, in one respect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reason {
    /// Nothing like it was built here before.
    First,
    /// The user wanted it so.
    NoCache,
    /// It was known, but is older than the comment above it allows.
    TooOld,
    /// It was known, but its layers were removed.
    Pruned,
    /// It was done before, but there is no record of that any more.
    Forgotten,
    /// A step that it is made from is not what it was.
    After {
        /// That step's name.
        step: String,
        /// What became of it.
        outcome: Outcome,
    },
    /// A file that it reads differs.
    File {
        /// What is different.
        change: FileChange,
        /// Its path.
        path: String,
        /// What it was, where that is something short.
        #[serde(skip_serializing_if = "Option::is_none")]
        old: Option<String>,
        /// What it is.
        #[serde(skip_serializing_if = "Option::is_none")]
        new: Option<String>,
    },
    /// Further files that it reads differ.
    MoreFiles {
        /// How many.
        count: usize,
    },
    /// Files that it reads differ, and which is not known (any more).
    Files,
    /// Another command.
    Command {
        /// What it was.
        old: String,
        /// What it is.
        new: String,
    },
    /// A build argument has another value. What is missing was not set.
    Arg {
        /// Its name.
        name: String,
        /// What it was.
        #[serde(skip_serializing_if = "Option::is_none")]
        old: Option<String>,
        /// What it is.
        #[serde(skip_serializing_if = "Option::is_none")]
        new: Option<String>,
        /// Whether the values are not kept, as the name is that of a credential.
        #[serde(default)]
        hidden: bool,
    },
    /// A variable of the environment has another value. What is missing was not set.
    Env {
        /// Its name.
        name: String,
        /// What it was.
        #[serde(skip_serializing_if = "Option::is_none")]
        old: Option<String>,
        /// What it is.
        #[serde(skip_serializing_if = "Option::is_none")]
        new: Option<String>,
        /// Whether the values are not kept, as the name is that of a credential.
        #[serde(default)]
        hidden: bool,
    },
    /// Another base image.
    BaseImage {
        /// Its name, without digest.
        image: String,
        /// What it was: a digest if the name was the same, which moved; else a name with its digest.
        old: String,
        /// What it is.
        new: String,
        /// Whether the name was the same.
        moved: bool,
    },
    /// Another setting: user, workdir, network, a mount, a destination.
    Setting {
        /// Which.
        name: String,
        /// What it was.
        old: String,
        /// What it is.
        new: String,
    },
}

/// What is different about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileChange {
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// Its content, or what else counts of it.
    Changed,
    /// Its mode alone.
    Mode,
    /// Its owner alone.
    Owner,
    /// It is something else.
    Type,
}

impl BuildReport {
    /// Gives it an id and keeps it in the store at `root`, and lets go of those that are too old.
    pub(crate) fn keep(&mut self, root: &Path) -> Result<(), WorkerError> {
        let builds = root.join("builds");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        private_folder(&builds)?;
        // Two builds may end in the same moment.
        let mut ids = (now..).map(id_of);
        let folder = loop {
            self.id = ids.next().unwrap_or_default();
            let folder = builds.join(&self.id);
            match std::fs::create_dir(&folder) {
                Ok(()) => break folder,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(WorkerError::io("create", folder)(e)),
            }
        };
        let (new, path) = (folder.join("report.new"), folder.join("report.json"));
        let text = serde_json::to_vec(self).unwrap_or_default();
        std::fs::write(&new, text).map_err(WorkerError::io("write", &new))?;
        std::fs::rename(&new, &path).map_err(WorkerError::io("write", path))?;
        let ids = kept_ids(root)?;
        for old in ids.iter().take(ids.len().saturating_sub(BUILDS_MAX)) {
            // Another process may be removing it too.
            let _ = std::fs::remove_dir_all(builds.join(old));
        }
        Ok(())
    }
}

/// The digits of a number of milliseconds.
fn id_of(milliseconds: u64) -> String {
    let digit = |place: u32| char::from(DIGITS[(milliseconds >> (5 * place)) as usize & 31]);
    (0..ID_LEN).rev().map(digit).collect()
}

/// The ids of the builds that are kept, the oldest first.
pub(crate) fn kept_ids(root: &Path) -> Result<Vec<String>, WorkerError> {
    let builds = root.join("builds");
    let entries = match std::fs::read_dir(&builds) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(WorkerError::io("list", builds)(e)),
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut ids: Vec<String> = names.filter(|name| is_id(name)).collect();
    ids.sort_unstable();
    Ok(ids)
}

fn is_id(name: &str) -> bool {
    name.len() == ID_LEN as usize && name.bytes().all(|c| DIGITS.contains(&c))
}

/// The report of a build; `None` if there is no such build (any more).
pub(crate) fn read(root: &Path, id: &str) -> Result<Option<BuildReport>, WorkerError> {
    if !is_id(id) {
        return Ok(None);
    }
    let path: PathBuf = root.join("builds").join(id).join("report.json");
    match std::fs::read(&path) {
        // A report that can't be read is as good as none.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(WorkerError::io("read", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_as_the_builds_follow_each_other_and_only_the_newest_are_kept() -> Result<(), WorkerError> {
        assert!((0..1 << 20).step_by(997).map(id_of).is_sorted());
        assert_eq!(id_of((5 << 10) + 31), "00000050z");
        let root = tempfile::tempdir().map_err(WorkerError::io("create", "temp"))?;
        assert_eq!(kept_ids(root.path())?, [""; 0]);
        let mut made = Vec::new();
        for n in 0..BUILDS_MAX + 3 {
            let mut report = BuildReport { place: n.to_string(), ..BuildReport::default() };
            report.keep(root.path())?;
            made.push(report.id);
        }
        assert_eq!(kept_ids(root.path())?, made[3..]);
        let newest = read(root.path(), &made[BUILDS_MAX + 2])?.map(|report| report.place);
        assert_eq!(newest, Some((BUILDS_MAX + 2).to_string()));
        assert_eq!(read(root.path(), &made[0])?, None);
        assert_eq!(read(root.path(), "../../etc")?, None);
        Ok(())
    }
}
