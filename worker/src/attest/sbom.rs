//! A bill of materials of an image, made of the files of its final tree: what package managers wrote down of
//! what they installed. Which files are worth reading is seen in the layers' indexes; only those are read. It
//! does not know where the bill goes.

mod go_binary;
mod languages;
mod licence;
mod package;
mod rpm;
mod spdx;
mod system;

pub(super) use spdx::Bill;

use crate::WorkerError;
use crate::export::Exporter;
use crate::layer::Stack;
use crate::output::stopping;
use crate::progress::Progress;
use jiff::Timestamp;
use kiln_oci::{DiffId, Digest};
use kiln_snapshotter::{Kind, SnapshotId, Tree, TreeView};
use package::{Distribution, Package};
use serde_json::Value;
use spdx::Listed;
use std::collections::BTreeMap;
use std::io::{self, Read};

/// A larger database in text is not read, in bytes.
const TEXT_BYTES_MAX: u64 = 64 << 20;
/// A larger file of a language's is not read, in bytes: JSON takes many times its size in memory.
const LANGUAGE_BYTES_MAX: u64 = 16 << 20;
/// A larger database of rpm is not read, in bytes.
const DATABASE_BYTES_MAX: u64 = 1 << 30;
/// A smaller program can't be Go's, in bytes.
const GO_PROGRAM_BYTES_MIN: u64 = 256 << 10;
/// More packages are not listed.
const PACKAGES_MAX: usize = 200_000;
/// Where rpm has its database.
const RPM_FOLDERS: [&str; 3] = ["var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"];

/// What a file is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Dpkg,
    Apk,
    RpmSqlite,
    /// A database of rpm in a form that is not read.
    RpmOther(&'static str),
    PackageJson,
    PackageLock,
    YarnLock,
    CargoLock,
    PythonLock,
    PythonMetadata,
    Requirements,
    GemfileLock,
    Composer,
    GoProgram,
}

impl Form {
    /// What the file at `path` is worth reading as, by its name and where it lies.
    fn of(path: &str) -> Option<Form> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let is_below =
            |part: &str| path.starts_with(&format!("{part}/")) || path.contains(&format!("/{part}/"));
        if RPM_FOLDERS.contains(&folder) {
            return match name {
                "rpmdb.sqlite" => Some(Form::RpmSqlite),
                "Packages" => Some(Form::RpmOther("Berkeley DB")),
                "Packages.db" => Some(Form::RpmOther("ndb")),
                _ => None,
            };
        }
        match (folder, name) {
            ("var/lib/dpkg", "status") => return Some(Form::Dpkg),
            ("var/lib/dpkg/status.d", name) if !name.ends_with(".md5sums") => return Some(Form::Dpkg),
            ("lib/apk/db" | "usr/lib/apk/db", "installed") => return Some(Form::Apk),
            _ => {}
        }
        match name {
            "package.json" if is_module(folder) => Some(Form::PackageJson),
            "METADATA" if folder.ends_with(".dist-info") => Some(Form::PythonMetadata),
            "PKG-INFO" if folder.ends_with(".egg-info") => Some(Form::PythonMetadata),
            name if name.ends_with(".egg-info") => Some(Form::PythonMetadata),
            "installed.json" if folder.ends_with("vendor/composer") => Some(Form::Composer),
            // What a package brings along of its own says nothing of what is installed.
            _ if is_below("node_modules") || is_below("site-packages") || is_below("dist-packages") => None,
            _ if is_below("registry/src") => None,
            "package-lock.json" => Some(Form::PackageLock),
            "yarn.lock" => Some(Form::YarnLock),
            "Cargo.lock" => Some(Form::CargoLock),
            "poetry.lock" | "uv.lock" => Some(Form::PythonLock),
            "requirements.txt" => Some(Form::Requirements),
            "Gemfile.lock" => Some(Form::GemfileLock),
            "composer.lock" => Some(Form::Composer),
            _ => None,
        }
    }

    /// Whether a file has what all layers so far have installed, so that its copies below tell who came when.
    fn is_of_system(self) -> bool {
        matches!(self, Form::Dpkg | Form::Apk | Form::RpmSqlite)
    }
}

/// Whether a folder is that of a module itself: `node_modules/NAME` or `node_modules/@SCOPE/NAME`.
fn is_module(folder: &str) -> bool {
    let mut parts = folder.rsplit('/').skip(1);
    match parts.next() {
        Some("node_modules") => true,
        Some(scope) if scope.starts_with('@') => parts.next() == Some("node_modules"),
        _ => false,
    }
}

/// Looks through an image. What can't be read is told, and the bill goes on without it.
pub(super) fn bill(exporter: &Exporter<'_>, stack: &Stack) -> Result<Bill, WorkerError> {
    let snapshots = exporter.images.unpacked(stack)?;
    let indexes = snapshots.iter().map(|id| exporter.store.snapshots.index(id));
    let view = TreeView::new(indexes.collect::<Result<Vec<_>, _>>()?);
    let tree = exporter.store.snapshots.mount_readonly(&snapshots)?.root()?;
    let mut scan = Scan { exporter, snapshots, view, tree, distribution: Distribution::default() };
    scan.distribution = scan.distribution()?;
    let mut found: BTreeMap<String, Listed> = BTreeMap::new();
    for (path, form) in scan.candidates() {
        stopping::check(exporter.images.cancel)?;
        let shown = format!("/{}", String::from_utf8_lossy(&path));
        let listed = match scan.read(&scan.tree, &path, form) {
            Ok(listed) => listed,
            Err(reason) => {
                exporter.progress.send(Progress::Unlisted { path: &shown, reason: &reason });
                continue;
            }
        };
        let layers = scan.layers_of(&path, form, &listed)?;
        for package in listed {
            let purl = package.purl.text();
            let layer = layers.get(&purl).copied().or_else(|| scan.view.layer_of(&path));
            // The first file that names it stands for all; paths come in order.
            found.entry(purl).or_insert_with(|| Listed { package, path: shown.clone(), layer });
        }
        if found.len() > PACKAGES_MAX {
            let reason = format!("the image has more than {PACKAGES_MAX} packages: what follows is left out");
            exporter.progress.send(Progress::Unlisted { path: &shown, reason: &reason });
            break;
        }
    }
    Ok(Bill { listed: found.into_values().take(PACKAGES_MAX).collect(), distribution: scan.distribution })
}

/// The bill as a document, of the image with this digest and these layers.
pub(super) fn document(bill: &Bill, digest: &Digest, created: Timestamp, layers: &[DiffId]) -> Value {
    spdx::document(bill, digest, created, layers)
}

struct Scan<'a> {
    exporter: &'a Exporter<'a>,
    snapshots: Vec<SnapshotId>,
    view: TreeView,
    tree: Tree,
    distribution: Distribution,
}

impl Scan<'_> {
    fn distribution(&self) -> Result<Distribution, WorkerError> {
        for path in ["etc/os-release", "usr/lib/os-release"] {
            let resolved = self.view.resolve(path.as_bytes(), true)?;
            if let Some(entry) = resolved.entry
                && matches!(entry.kind, Kind::File { .. })
                && let Ok(text) = text_of(&self.tree, &resolved.path, LANGUAGE_BYTES_MAX)
            {
                return Ok(Distribution::read(&text));
            }
        }
        Ok(Distribution::default())
    }

    /// The files that are worth reading, by path.
    fn candidates(&self) -> Vec<(Vec<u8>, Form)> {
        let form = |(path, entry): (Vec<u8>, &kiln_snapshotter::Entry)| {
            let Kind::File { size, .. } = entry.kind else { return None };
            let is_program = entry.mode & 0o111 != 0 && size >= GO_PROGRAM_BYTES_MIN;
            let by_name = std::str::from_utf8(&path).ok().and_then(Form::of);
            let form = by_name.or_else(|| is_program.then_some(Form::GoProgram))?;
            (size > 0).then_some((path, form))
        };
        let mut all: Vec<(Vec<u8>, Form)> = self.view.walk(b"").filter_map(form).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// The packages that a file names, or why it can't be read.
    fn read(&self, tree: &Tree, path: &[u8], form: Form) -> Result<Vec<Package>, String> {
        let max_bytes = if form.is_of_system() { TEXT_BYTES_MAX } else { LANGUAGE_BYTES_MAX };
        let text = || text_of(tree, path, max_bytes);
        match form {
            Form::Dpkg => system::dpkg(&text()?, &self.distribution),
            Form::Apk => system::apk(&text()?, &self.distribution),
            Form::RpmSqlite => self.rpm(tree, path),
            Form::RpmOther(name) => {
                Err(format!("a database of rpm in the form of {name}, which kiln can't read"))
            }
            Form::PackageJson => languages::package_json(&text()?),
            Form::PackageLock => languages::package_lock(&text()?),
            Form::YarnLock => languages::yarn_lock(&text()?),
            Form::CargoLock => languages::toml_lock("cargo", &text()?),
            Form::PythonLock => languages::toml_lock("pypi", &text()?),
            Form::PythonMetadata => languages::python_metadata(&text()?),
            Form::Requirements => languages::requirements(&text()?),
            Form::GemfileLock => languages::gemfile_lock(&text()?),
            Form::Composer => languages::composer(&text()?),
            Form::GoProgram => {
                let file = tree.open_file(path).map_err(|e| e.to_string())?;
                go_binary::modules(&file).map_err(|e| e.to_string())
            }
        }
    }

    /// SQLite wants a file of its own: the database, and what was not yet written into it.
    fn rpm(&self, tree: &Tree, path: &[u8]) -> Result<Vec<Package>, String> {
        let (folder, _lock) = self.exporter.store.temporary_folder().map_err(|e| e.to_string())?;
        let copied = folder.path().join("rpmdb.sqlite");
        copy(tree, path, &copied)?;
        let log = [path, b"-wal"].concat();
        if tree.stat(&log, false).is_ok() {
            copy(tree, &log, &folder.path().join("rpmdb.sqlite-wal"))?;
        }
        rpm::sqlite(&copied, &self.distribution)
    }

    /// In which layers packages of the system came: each in the lowest from which on all have it.
    fn layers_of(
        &self,
        path: &[u8],
        form: Form,
        listed: &[Package],
    ) -> Result<BTreeMap<String, usize>, WorkerError> {
        let mut since = BTreeMap::new();
        if !form.is_of_system() {
            return Ok(since);
        }
        let Some(top) = self.view.layer_of(path) else { return Ok(since) };
        for (layer, index) in self.view.layers().iter().enumerate().take(top) {
            let packages = match index.get(path).map(|entry| &entry.kind) {
                None => continue,
                Some(Kind::File { .. }) => {
                    stopping::check(self.exporter.images.cancel)?;
                    let below = &self.snapshots[..=layer];
                    let tree = self.exporter.store.snapshots.mount_readonly(below)?.root()?;
                    // A copy that can't be read tells nothing, and the one on top tells of it.
                    self.read(&tree, path, form).unwrap_or_default()
                }
                Some(_) => Vec::new(),
            };
            since = in_layer(since, &packages, layer);
        }
        Ok(in_layer(since, listed, top))
    }
}

/// Who is in a layer's copy, and since when.
fn in_layer(before: BTreeMap<String, usize>, packages: &[Package], layer: usize) -> BTreeMap<String, usize> {
    let since = |package: &Package| {
        let purl = package.purl.text();
        let first = before.get(&purl).copied().unwrap_or(layer);
        (purl, first)
    };
    packages.iter().map(since).collect()
}

fn text_of(tree: &Tree, path: &[u8], max_bytes: u64) -> Result<String, String> {
    let file = tree.open_file(path).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > max_bytes {
        return Err(format!("it is larger than {} MiB", max_bytes >> 20));
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
    })
}

fn copy(tree: &Tree, path: &[u8], to: &std::path::Path) -> Result<(), String> {
    let file = tree.open_file(path).map_err(|e| e.to_string())?;
    let mut copy = std::fs::File::create_new(to).map_err(|e| e.to_string())?;
    let copied = io::copy(&mut file.take(DATABASE_BYTES_MAX + 1), &mut copy).map_err(|e| e.to_string())?;
    match copied > DATABASE_BYTES_MAX {
        true => Err(format!("it is larger than {} MiB", DATABASE_BYTES_MAX >> 20)),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_chosen_by_name_and_place() {
        for (path, form) in [
            ("var/lib/dpkg/status", Some(Form::Dpkg)),
            ("var/lib/dpkg/status.d/tzdata", Some(Form::Dpkg)),
            ("var/lib/dpkg/status.d/tzdata.md5sums", None),
            ("srv/var/lib/dpkg/status", None),
            ("usr/lib/apk/db/installed", Some(Form::Apk)),
            ("usr/lib/sysimage/rpm/rpmdb.sqlite", Some(Form::RpmSqlite)),
            ("var/lib/rpm/Packages", Some(Form::RpmOther("Berkeley DB"))),
            ("usr/lib/sysimage/rpm/Packages.db", Some(Form::RpmOther("ndb"))),
            ("app/package.json", None),
            ("app/node_modules/a/package.json", Some(Form::PackageJson)),
            ("node_modules/@s/a/package.json", Some(Form::PackageJson)),
            ("app/node_modules/a/lib/package.json", None),
            ("app/node_modules/a/package-lock.json", None),
            ("app/package-lock.json", Some(Form::PackageLock)),
            ("Cargo.lock", Some(Form::CargoLock)),
            ("usr/lib/python3/dist-packages/a-1.dist-info/METADATA", Some(Form::PythonMetadata)),
            ("usr/lib/python3/dist-packages/a-1.egg-info", Some(Form::PythonMetadata)),
            ("usr/lib/python3/site-packages/a/requirements.txt", None),
            ("app/vendor/composer/installed.json", Some(Form::Composer)),
            ("app/METADATA", None),
        ] {
            assert_eq!(Form::of(path), form, "{path}");
        }
    }

    #[test]
    fn a_package_came_in_the_lowest_layer_from_which_on_all_have_it() {
        let packages = |names: &[&str]| -> Vec<Package> {
            names.iter().filter_map(|name| Package::of("deb", "", name, "1")).collect()
        };
        let mut since = BTreeMap::new();
        for (layer, names) in [(0, &["a", "b"][..]), (2, &["a"]), (3, &["a", "b", "c"])] {
            since = in_layer(since, &packages(names), layer);
        }
        let expect = [("pkg:deb/a@1", 0), ("pkg:deb/b@1", 3), ("pkg:deb/c@1", 3)];
        assert_eq!(since, expect.map(|(purl, layer)| (purl.to_owned(), layer)).into());
    }
}
