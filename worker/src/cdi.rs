//! The host's devices as the Container Device Interface describes them: which there are, which are meant by
//! a name, and who may have them. It does not know Dockerfiles.
//!
//! ```text
//! <folder>/<name>.json, <folder>/<name>.yaml    a specification: a kind, and devices of it
//! ```
//! Of devices with the same name the one in the later folder counts; twice in one folder it counts for none.

mod edits;
mod spec;
mod yaml;

pub(crate) use edits::apply;

use kiln_solver::{CdiDevice, Definition, ExecOp, Op, VertexId};
use spec::{Edits, Spec};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where specifications are, if nothing else is said.
pub const DEFAULT_SPEC_DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// A specification that is larger is not read: 4 MiB.
const SPEC_BYTES_MAX: u64 = 4 << 20;
/// The annotation of devices that anybody may have.
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";
/// The annotation that is one more name, which devices may share.
const CLASS: &str = "org.mobyproject.buildkit.device.class";

/// Which devices steps may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceAccess {
    /// The folders of specifications, the later before the earlier; none are the usual ones.
    spec_dirs: Vec<PathBuf>,
    /// Whether any device may be had.
    all: bool,
    /// The names that may be had.
    allowed: BTreeSet<String>,
    /// Names, and which device each stands for; it may be had.
    aliases: BTreeMap<String, String>,
}

/// A device of the host's.
#[derive(Debug)]
pub(crate) struct Device {
    /// Its full name, `vendor.com/class=name`.
    name: String,
    /// The file that describes it.
    file: PathBuf,
    spec: Arc<Spec>,
    /// Its place in the specification.
    index: usize,
}

/// The devices that there are.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    by_name: BTreeMap<String, Arc<Device>>,
    folders: Vec<PathBuf>,
    /// What was not understood: files, and why.
    problems: Vec<(PathBuf, String)>,
}

/// The devices of the steps that have some.
pub(crate) type Granted = HashMap<VertexId, Vec<Arc<Device>>>;

/// Why a step can't have a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Nobody has allowed it.
    #[error("{}", forbidden(.0))]
    Forbidden(Vec<String>),
    /// There is none of that name.
    #[error("required device {name:?} is not registered; {there}")]
    Missing {
        /// The name.
        name: String,
        /// What there is instead.
        there: String,
    },
    /// The name is none.
    #[error("invalid device {0:?}: write vendor.com/class=name")]
    Name(String),
    /// Its specification names a program that is to be run on the host.
    #[error("the device {device} can't be used: {file} says that {program} is to be run on the host, as its hook {hook}, and kiln runs no hooks", file = .file.display())]
    Hook {
        /// The specification.
        file: PathBuf,
        /// The device.
        device: String,
        /// When it is to be run.
        hook: String,
        /// The program.
        program: String,
    },
    /// Its specification asks for something that steps don't have.
    #[error("the device {device} can't be used: {file} asks for {what}, which kiln does not have", file = .file.display())]
    Unsupported {
        /// The specification.
        file: PathBuf,
        /// The device.
        device: String,
        /// What it asks for.
        what: String,
    },
    /// What its specification names is not on the host.
    #[error("the device {device} can't be used: {file} names {path}: {reason}", file = .file.display(), path = .path.display())]
    Host {
        /// The specification.
        file: PathBuf,
        /// The device.
        device: String,
        /// What it names.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The devices of the steps of a graph that ask for some; or which step can't have what it asks for.
pub(crate) fn grant(
    definition: &Definition,
    access: &DeviceAccess,
) -> Result<Granted, (VertexId, DeviceError)> {
    let asking = definition.vertices().iter().zip(0..).filter_map(|(vertex, id)| match &vertex.op {
        Op::Exec(exec) if !exec.devices.is_empty() => Some((VertexId(id), exec)),
        _ => None,
    });
    let mut devices = None;
    let mut granted = HashMap::new();
    for (vertex, exec) in asking {
        let devices = devices.get_or_insert_with(|| Devices::load(&access.spec_dirs));
        granted.insert(vertex, access.granted(devices, exec).map_err(|error| (vertex, error))?);
    }
    Ok(granted)
}

impl DeviceAccess {
    /// No device but those that anybody may have, as the specifications of some folders describe them.
    pub fn of(spec_dirs: Vec<PathBuf>) -> DeviceAccess {
        DeviceAccess { spec_dirs, ..DeviceAccess::default() }
    }

    /// Allows what stands behind `device=`: a device, and perhaps `alias=` with the name that stands for it;
    /// or, with nothing there, all devices. The error says what is wrong.
    pub fn allow(&mut self, text: &str) -> Result<(), String> {
        let mut fields = text.split(',');
        let device = fields.next().unwrap_or_default().to_owned();
        let mut alias = None;
        for field in fields {
            match field.split_once('=') {
                Some(("alias", name)) => alias = Some(name.to_owned()),
                _ => return Err(format!("`{field}` is not alias=NAME")),
            }
        }
        match (device.is_empty(), alias) {
            (true, None) => self.all = true,
            (true, Some(_)) => return Err("an alias needs a device to stand for".to_owned()),
            (false, Some(alias)) => {
                self.aliases.insert(alias, device);
            }
            (false, None) => {
                self.allowed.insert(device);
            }
        }
        Ok(())
    }

    /// The devices of a step, if it may have them.
    pub(crate) fn granted(&self, devices: &Devices, exec: &ExecOp) -> Result<Vec<Arc<Device>>, DeviceError> {
        let mut granted: Vec<Arc<Device>> = Vec::new();
        let mut forbidden = Vec::new();
        let allowed = self.allowed_of(devices);
        for asked in &exec.devices {
            let alias = self.aliases.get(&asked.name);
            let name = alias.unwrap_or(&asked.name);
            for device in devices.find(&CdiDevice { name: name.clone(), optional: asked.optional })? {
                let is_allowed =
                    self.all || alias.is_some() || allowed.contains(&device.name) || device.is_for_anybody();
                let (is_new, name) = (granted.iter().all(|g| g.name != device.name), &device.name);
                if !is_allowed && !forbidden.contains(name) {
                    forbidden.push(name.clone());
                } else if is_allowed && is_new {
                    granted.push(device.clone());
                }
            }
        }
        if forbidden.is_empty() { Ok(granted) } else { Err(DeviceError::Forbidden(forbidden)) }
    }

    /// The full names of what is allowed by name. That a device is not there is no mistake here.
    fn allowed_of(&self, devices: &Devices) -> BTreeSet<String> {
        let found = self.allowed.iter().filter_map(|name| {
            let device = CdiDevice { name: name.clone(), optional: true };
            devices.find(&device).ok()
        });
        found.flatten().map(|device| device.name.clone()).collect()
    }
}

impl Device {
    /// Its full name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn edits(&self) -> &Edits {
        &self.spec.devices[self.index].container_edits
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        let own = self.spec.devices[self.index].annotations.get(name);
        own.or_else(|| self.spec.annotations.get(name)).map(String::as_str)
    }

    fn is_for_anybody(&self) -> bool {
        let truths = ["1", "t", "T", "TRUE", "true", "True"];
        self.annotation(AUTO_ALLOW).is_some_and(|value| truths.contains(&value))
    }
}

impl Devices {
    /// Reads the specifications of some folders; one that is not there has none. A file that is not
    /// understood is told of only where a device is missing: it may be of no interest here.
    pub fn load(folders: &[PathBuf]) -> Devices {
        let usual = || DEFAULT_SPEC_DIRS.iter().map(PathBuf::from).collect();
        let folders: Vec<PathBuf> = if folders.is_empty() { usual() } else { folders.to_vec() };
        let mut devices = Devices::default();
        for folder in &folders {
            devices.load_folder(folder);
        }
        devices.folders = folders;
        devices
    }

    fn load_folder(&mut self, folder: &Path) {
        let mut here: BTreeMap<String, Vec<Arc<Device>>> = BTreeMap::new();
        for file in files_of(folder) {
            let spec = match read(&file).and_then(|text| Spec::read(&file, &text)) {
                Ok(spec) => Arc::new(spec),
                Err(why) => {
                    self.problems.push((file, why));
                    continue;
                }
            };
            for (index, device) in spec.devices.iter().enumerate() {
                let name = format!("{}={}", spec.kind, device.name);
                let device = Device { name: name.clone(), file: file.clone(), spec: spec.clone(), index };
                here.entry(name).or_default().push(Arc::new(device));
            }
        }
        for (name, found) in here {
            if let [one] = found.as_slice() {
                self.by_name.insert(name, one.clone());
                continue;
            }
            self.by_name.remove(&name);
            for device in found {
                self.problems.push((device.file.clone(), format!("{name} is in another file too")));
            }
        }
    }

    /// The devices that a name means: `vendor.com/class=name`, where the name may also be that of a class by
    /// annotation; `vendor.com/class=*` for all of a kind; `vendor.com/class` for the first.
    fn find(&self, wanted: &CdiDevice) -> Result<Vec<Arc<Device>>, DeviceError> {
        let (kind, name) = wanted.name.split_once('=').unwrap_or((&wanted.name, ""));
        if !spec::is_kind(kind) {
            return Err(DeviceError::Name(wanted.name.clone()));
        }
        let mut of_kind = self.by_name.values().filter(|device| device.spec.kind == kind).cloned();
        let found: Vec<Arc<Device>> = match name {
            "" => of_kind.next().into_iter().collect(),
            "*" => of_kind.collect(),
            name => match self.by_name.get(&wanted.name) {
                Some(device) => vec![device.clone()],
                None => of_kind.filter(|device| device.annotation(CLASS) == Some(name)).collect(),
            },
        };
        if found.is_empty() && !wanted.optional {
            return Err(DeviceError::Missing { name: wanted.name.clone(), there: self.there() });
        }
        Ok(found)
    }

    /// What there is, for somebody who asked for something else.
    fn there(&self) -> String {
        let names: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
        let mut text = match names.as_slice() {
            [] => {
                let folders: Vec<String> =
                    self.folders.iter().map(|folder| folder.display().to_string()).collect();
                format!("{} have no device", folders.join(" and "))
            }
            names => format!("there are {}", names.join(", ")),
        };
        for (file, why) in &self.problems {
            text.push_str(&format!("; {} was not used: {why}", file.display()));
        }
        text
    }
}

/// The specifications of a folder, in the order of their names.
fn files_of(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_spec = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "json" || ext == "yaml");
    let mut files: Vec<PathBuf> = entries.filter(is_spec).collect();
    files.sort_unstable();
    files
}

fn read(path: &Path) -> Result<String, String> {
    const O_NONBLOCK: i32 = 0o4000;
    let open = File::options().read(true).custom_flags(O_NONBLOCK).open(path);
    let file = open.map_err(|e| e.to_string())?;
    if !file.metadata().is_ok_and(|stat| stat.is_file()) {
        return Err("it is not a regular file".to_owned());
    }
    let mut text = String::new();
    file.take(SPEC_BYTES_MAX + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
    if text.len() as u64 > SPEC_BYTES_MAX {
        return Err(format!("it is larger than {SPEC_BYTES_MAX} bytes"));
    }
    Ok(text)
}

fn forbidden(names: &[String]) -> String {
    let hint = "; give --allow device=NAME, if the Dockerfile is to be trusted";
    match names {
        [one] => format!("device {one} is requested by the build but not allowed{hint}"),
        names => format!("devices {} are requested by the build but not allowed{hint}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests;
