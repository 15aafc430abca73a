//! The lock file: what tags, branches and web files stand for, made to be committed.
//! It does not know how registries and servers are asked, nor the file's form.

mod text;
mod update;

pub(crate) use update::update;

use crate::args::BuildArgs;
use crate::contexts::read_limited;
use crate::error::CommandError;
use crate::stderr::say;
use kiln_oci::{Digest, Reference};
use kiln_worker::{Image, ImageName, PinError, Pins, change_whole};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use text::Entries;

/// A lock file that is larger is refused: 4 MiB, as documents are.
const BYTES_MAX: u64 = 4 << 20;

/// A lock file that was read.
#[derive(Debug)]
pub(crate) struct LockFile {
    path: PathBuf,
    is_locked: bool,
    /// The images of the file, and those that this build adds.
    images: BTreeMap<String, Digest>,
    added: BTreeMap<String, Digest>,
    /// The same of other sources.
    pins: Arc<Pins>,
    /// What was warned of.
    told: BTreeSet<String>,
}

impl LockFile {
    /// Reads the file that a build is given. One that is not there pins nothing yet, unless nothing may be added.
    pub(crate) fn of(args: &BuildArgs) -> Result<Option<LockFile>, CommandError> {
        let Some(path) = &args.lock else { return Ok(None) };
        let Entries { images, sources } = match read(path)? {
            Some(entries) => entries,
            None if args.locked => return Err(missing(path)),
            None => Entries::default(),
        };
        let pins = Arc::new(Pins::new(path.display().to_string(), sources, args.locked));
        let (path, is_locked) = (path.clone(), args.locked);
        let (added, told) = (BTreeMap::new(), BTreeSet::new());
        Ok(Some(LockFile { path, is_locked, images, added, pins, told }))
    }

    /// What sources other than images are held to.
    pub(crate) fn pins(&self) -> Arc<Pins> {
        self.pins.clone()
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// The name with the digest that the file has for it. A name without one is refused if none may be added.
    pub(crate) fn pinned(&self, name: &ImageName) -> Result<ImageName, PinError> {
        let ImageName::Registry(reference) = name else { return Ok(name.clone()) };
        if let Some(asked) = reference.digest() {
            return self.agrees(reference, asked).map(|()| name.clone());
        }
        match self.images.get(&reference.to_string()) {
            Some(digest) => Ok(reference.with_digest(*digest).into()),
            None if self.is_locked => {
                Err(PinError::Locked { file: self.name(), name: reference.to_string() })
            }
            None => Ok(name.clone()),
        }
    }

    /// Whether a digest that the Dockerfile gives a tag is that of the file, if it has one for the tag.
    fn agrees(&self, reference: &Reference, asked: Digest) -> Result<(), PinError> {
        let tag = reference.tag().and_then(|tag| reference.with_tag(tag).ok());
        let tag = tag.map_or_else(String::new, |tag| tag.to_string());
        match self.images.get(&tag).filter(|pinned| **pinned != asked) {
            Some(pinned) => Err(PinError::Disagrees {
                file: self.name(),
                name: tag.clone(),
                pinned: pinned.to_string(),
                asked: asked.to_string(),
            }),
            None => Ok(()),
        }
    }

    /// What a name's absence from the file, or from the store, is called where nobody may be asked.
    pub(crate) fn not_asked(&self, name: &str, flag: &'static str) -> Option<PinError> {
        let Ok(ImageName::Registry(reference)) = name.parse() else { return None };
        if reference.digest().is_some() {
            return None;
        }
        let (file, name) = (self.name(), reference.to_string());
        Some(match self.images.get(&name) {
            Some(pinned) => PinError::NotHere { file, name, pinned: pinned.to_string(), flag },
            None => PinError::Unknown { file, name, flag },
        })
    }

    /// Pins what a name stands for. What no registry has can't be pinned: that is told.
    pub(crate) fn add(&mut self, image: &Image) {
        let ImageName::Registry(reference) = &image.name else { return };
        let name = reference.to_string();
        if reference.digest().is_some() {
            return;
        }
        if image.is_of_registry {
            self.added.insert(name, image.top);
        } else if self.told.insert(name.clone()) {
            let file = self.name();
            say(&format!(
                "warning: {file} does not pin {name}: the store's own image was taken, which is not what a registry \
                 said last; --pull=newer asks for it"
            ));
        }
    }

    /// Adds to the file what this build has found out. What another process has added meanwhile stays.
    pub(crate) fn save(&mut self) -> Result<(), CommandError> {
        let mine = Entries { images: self.added.clone(), sources: self.pins.learnt() };
        if self.is_locked || mine.is_empty() {
            return Ok(());
        }
        let mut others = Vec::new();
        change(&self.path, |entries| {
            others = entries.add(&mine);
        })?;
        for (name, theirs, ours) in others {
            if self.told.insert(name.clone()) {
                let file = self.name();
                say(&format!(
                    "warning: another process pinned {name} to {theirs} in {file} meanwhile; this build took {ours}"
                ));
            }
        }
        Ok(())
    }
}

/// What a file has; nothing if it is not there.
fn read(path: &Path) -> Result<Option<Entries>, CommandError> {
    match read_limited(path, BYTES_MAX) {
        Ok(bytes) => text::parse(path, &bytes).map(Some),
        Err(CommandError::File { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(CommandError::Context(_)) => {
            Err(CommandError::usage(format!("--lock {}", path.display()), "it is not a regular file"))
        }
        Err(e) => Err(e),
    }
}

fn missing(path: &Path) -> CommandError {
    CommandError::file("read", path)(rustix::io::Errno::NOENT.into())
}

/// Changes a file while nobody else does, and writes it whole or not at all, if something in it is new. It keeps its
/// mode. A symbolic link, which is the user's own as the path is, is followed: what it leads to is replaced, and the
/// link stays, so that a lock file may be shared by folders.
fn change(path: &Path, mut add: impl FnMut(&mut Entries)) -> Result<(), CommandError> {
    change_whole(path, BYTES_MAX, |before| {
        let before = before.map(|bytes| text::parse(path, bytes)).transpose()?;
        let mut entries = before.clone().unwrap_or_default();
        add(&mut entries);
        Ok((before.as_ref() != Some(&entries)).then(|| text::print(&entries).into_bytes()))
    })
}
