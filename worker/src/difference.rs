//! What tells two images apart: their files, by what the indexes of their layers say, their layers and their
//! configs. No file is read. It does not know where the images are from.

use kiln_oci::{DiffId, Digest, ImageConfig};
use kiln_snapshotter::{Entry, Kind, TreeView, path_order};
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// What tells two images apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// The files, in the order of their paths.
    pub files: Vec<FileDifference>,
    /// All layers, those that both have first.
    pub layers: Vec<LayerDifference>,
    /// The settings, by name.
    pub config: Vec<SettingDifference>,
}

/// A path that is not the same in both images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDifference {
    /// The path, without a slash in front.
    pub path: Vec<u8>,
    /// What the first has there.
    pub before: Option<FileState>,
    /// What the second has there.
    pub after: Option<FileState>,
    /// In what the two differ; empty where only one has it.
    pub aspects: Vec<Aspect>,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileState {
    /// What it is: file, directory, link, device, pipe.
    pub kind: &'static str,
    /// The bytes of a file; 0 of all else.
    pub size_bytes: u64,
    /// The permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// When it was last written, in seconds since 1970.
    pub mtime_s: i64,
    /// The digest of a file's bytes.
    pub digest: Option<Digest>,
    /// What a link says.
    pub target: Option<Vec<u8>>,
}

/// In what two things at a path differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aspect {
    /// One is a file, say, and the other a folder.
    Kind,
    /// The number of bytes.
    Size,
    /// The bytes.
    Content,
    /// The permission bits.
    Mode,
    /// User or group.
    Owner,
    /// What a link says.
    Target,
    /// The numbers of a device.
    Device,
    /// The extended attributes.
    Attributes,
    /// The time of the last change.
    Time,
}

/// A layer of one of the images, or of both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerDifference {
    /// The layer.
    pub diff_id: DiffId,
    /// The size of its tar.
    pub size_bytes: u64,
    /// Whether the first has it.
    pub before: bool,
    /// Whether the second has it.
    pub after: bool,
}

/// A setting that is not the same in both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingDifference {
    /// As `Env.PATH`.
    pub name: String,
    /// What the first has.
    pub before: Option<Value>,
    /// What the second has.
    pub after: Option<Value>,
}

impl Difference {
    /// Whether nothing differs.
    pub fn is_none(&self) -> bool {
        self.files.is_empty() && self.config.is_empty() && self.layers.iter().all(|l| l.before == l.after)
    }
}

impl Aspect {
    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Aspect::Kind => "kind",
            Aspect::Size => "size",
            Aspect::Content => "content",
            Aspect::Mode => "mode",
            Aspect::Owner => "owner",
            Aspect::Target => "target",
            Aspect::Device => "device",
            Aspect::Attributes => "attributes",
            Aspect::Time => "time",
        }
    }
}

/// The files that differ. With `times` those too that differ in nothing else.
pub(crate) fn files(before: &TreeView, after: &TreeView, times: bool) -> Vec<FileDifference> {
    let mut found = Vec::new();
    let (mut left, mut right) = (before.walk(b"").peekable(), after.walk(b"").peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return found,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => path_order(a, b),
        };
        let a = if order == Ordering::Greater { None } else { left.next() };
        let b = if order == Ordering::Less { None } else { right.next() };
        let aspects = match (&a, &b) {
            (Some((_, a)), Some((_, b))) => match aspects(a, b, times) {
                same if same.is_empty() => continue,
                aspects => aspects,
            },
            _ => Vec::new(),
        };
        let (before, after) =
            (a.as_ref().map(|a| FileState::of(a.1)), b.as_ref().map(|b| FileState::of(b.1)));
        let Some((path, _)) = a.or(b) else { return found };
        found.push(FileDifference { path, before, after, aspects });
    }
}

fn aspects(a: &Entry, b: &Entry, times: bool) -> Vec<Aspect> {
    let mut aspects = match (&a.kind, &b.kind) {
        (Kind::File { size: a, digest: x, .. }, Kind::File { size: b, digest: y, .. }) => {
            [(a != b, Aspect::Size), (x != y, Aspect::Content)]
                .into_iter()
                .filter(|(is, _)| *is)
                .map(|(_, a)| a)
                .collect()
        }
        (Kind::Directory { .. }, Kind::Directory { .. }) | (Kind::Fifo, Kind::Fifo) => Vec::new(),
        (Kind::Symlink { target: a }, Kind::Symlink { target: b }) => {
            if a == b {
                Vec::new()
            } else {
                vec![Aspect::Target]
            }
        }
        (Kind::CharDevice { .. }, Kind::CharDevice { .. })
        | (Kind::BlockDevice { .. }, Kind::BlockDevice { .. }) => {
            if a.kind == b.kind {
                Vec::new()
            } else {
                vec![Aspect::Device]
            }
        }
        _ => vec![Aspect::Kind],
    };
    let is_link = matches!((&a.kind, &b.kind), (Kind::Symlink { .. }, Kind::Symlink { .. }));
    if a.mode != b.mode && !is_link {
        aspects.push(Aspect::Mode);
    }
    if (a.uid, a.gid) != (b.uid, b.gid) {
        aspects.push(Aspect::Owner);
    }
    if a.xattrs != b.xattrs {
        aspects.push(Aspect::Attributes);
    }
    if times && a.mtime_s != b.mtime_s {
        aspects.push(Aspect::Time);
    }
    aspects
}

impl FileState {
    fn of(entry: &Entry) -> FileState {
        let (kind, size_bytes, digest, target) = match &entry.kind {
            Kind::File { size, digest, .. } => ("file", *size, Some(*digest), None),
            Kind::Directory { .. } => ("directory", 0, None, None),
            Kind::Symlink { target } => ("link", 0, None, Some(target.clone())),
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } => ("device", 0, None, None),
            Kind::Fifo => ("pipe", 0, None, None),
            Kind::Whiteout => ("nothing", 0, None, None),
        };
        let Entry { mode, uid, gid, mtime_s, .. } = entry;
        FileState { kind, size_bytes, mode: *mode, owner: (*uid, *gid), mtime_s: *mtime_s, digest, target }
    }
}

/// The layers: those that both have at the bottom, then the others of the first, then those of the second.
pub(crate) fn layers(before: &[(DiffId, u64)], after: &[(DiffId, u64)]) -> Vec<LayerDifference> {
    let same = before.iter().zip(after).take_while(|(a, b)| a.0 == b.0).count();
    let row = |(diff_id, size_bytes): &(DiffId, u64), before, after| LayerDifference {
        diff_id: *diff_id,
        size_bytes: *size_bytes,
        before,
        after,
    };
    let both = before[..same].iter().map(|layer| row(layer, true, true));
    let old = before[same..].iter().map(|layer| row(layer, true, false));
    both.chain(old).chain(after[same..].iter().map(|layer| row(layer, false, true))).collect()
}

/// The settings that differ. With `times` the time that the image was made counts too.
pub(crate) fn settings(before: &ImageConfig, after: &ImageConfig, times: bool) -> Vec<SettingDifference> {
    let (mut before, mut after) = (flat(before, times), flat(after, times));
    let names: Vec<String> = before.keys().chain(after.keys()).cloned().collect();
    let mut found: Vec<SettingDifference> = Vec::new();
    for name in names {
        let (before, after) = (before.remove(&name), after.remove(&name));
        if before != after {
            found.push(SettingDifference { name, before, after });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// A config's settings, each by its name.
fn flat(config: &ImageConfig, times: bool) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    let mut document = json!(config);
    let mut runtime = document.get_mut("config").map(Value::take).unwrap_or_default();
    for variable in &config.config.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        all.insert(format!("Env.{name}"), value.into());
    }
    let mut add = |prefix: &str, fields: &mut Value, without: &[&str]| {
        let Some(fields) = fields.as_object_mut() else { return };
        for (name, value) in
            std::mem::take(fields).into_iter().filter(|(name, _)| !without.contains(&name.as_str()))
        {
            match value {
                Value::Object(entries) if ["Labels", "ExposedPorts", "Volumes"].contains(&name.as_str()) => {
                    all.extend(entries.into_iter().map(|(key, value)| (format!("{name}.{key}"), value)));
                }
                value => drop(all.insert(format!("{prefix}{name}"), value)),
            }
        }
    };
    add("", &mut runtime, &["Env"]);
    let without = ["config", "rootfs", "history", if times { "" } else { "created" }];
    add("", &mut document, &without);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_compared_one_by_one() {
        let of = |env: &[&str], label: &str| {
            let mut config = ImageConfig { architecture: "amd64".to_owned(), ..ImageConfig::default() };
            config.config.env = env.iter().map(|text| (*text).to_owned()).collect();
            config.config.labels.insert("l".to_owned(), label.to_owned());
            config.created = Some(label.to_owned());
            config
        };
        let (a, b) = (of(&["A=1", "B=2"], "x"), of(&["B=3", "C="], "x"));
        let found = settings(&a, &b, true);
        let names: Vec<&str> = found.iter().map(|setting| setting.name.as_str()).collect();
        assert_eq!(names, ["Env.A", "Env.B", "Env.C"]);
        assert_eq!((&found[1].before, &found[1].after), (&Some("2".into()), &Some("3".into())));
        let other = of(&["A=1", "B=2"], "y");
        assert_eq!(settings(&a, &other, false).len(), 1);
        assert_eq!(settings(&a, &other, true).len(), 2);
        assert_eq!(settings(&a, &a, true), []);
    }

    #[test]
    fn layers_are_the_same_as_far_as_they_are_from_the_bottom() {
        let id = |text: &str| (DiffId(Digest::of(text.as_bytes())), 1);
        let found = layers(&[id("a"), id("b"), id("c")], &[id("a"), id("x"), id("c")]);
        let marks: Vec<(bool, bool)> = found.iter().map(|layer| (layer.before, layer.after)).collect();
        assert_eq!(marks, [(true, true), (true, false), (true, false), (false, true), (false, true)]);
    }
}
