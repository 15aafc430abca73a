//! A device specification of the Container Device Interface, as a file has it: read strictly, and checked as
//! far as that can be done without looking at the host. It does not know where specifications are.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::path::Path;

/// The largest numbers of a device that the kernel has.
const MAJOR_MAX: u32 = 0xfff;
const MINOR_MAX: u32 = 0xf_ffff;
/// The versions that there are.
const VERSIONS: [&str; 10] =
    ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

/// A specification: devices of one kind.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    #[serde(rename = "cdiVersion")]
    version: String,
    /// `vendor.com/class`.
    pub kind: String,
    #[serde(default, deserialize_with = "texts")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub devices: Vec<DeviceSpec>,
    /// What is done for any of its devices.
    #[serde(default, deserialize_with = "or_default")]
    pub container_edits: Edits,
}

/// A device.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeviceSpec {
    #[serde(deserialize_with = "text")]
    pub name: String,
    #[serde(default, deserialize_with = "texts")]
    pub annotations: BTreeMap<String, String>,
    pub container_edits: Edits,
}

/// What a process is given.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Edits {
    #[serde(default, deserialize_with = "or_default")]
    pub env: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub device_nodes: Vec<NodeSpec>,
    #[serde(default, deserialize_with = "or_default")]
    pub net_devices: Vec<Value>,
    #[serde(default, deserialize_with = "or_default")]
    pub hooks: Vec<HookSpec>,
    #[serde(default, deserialize_with = "or_default")]
    pub mounts: Vec<MountSpec>,
    #[serde(default)]
    pub intel_rdt: Option<Value>,
    #[serde(default, rename = "additionalGids", alias = "additionalGIDs", deserialize_with = "or_default")]
    pub additional_gids: Vec<u32>,
}

/// A device node.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NodeSpec {
    pub path: String,
    #[serde(default)]
    pub host_path: Option<String>,
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    #[serde(default)]
    pub major: Option<u32>,
    #[serde(default)]
    pub minor: Option<u32>,
    #[serde(default)]
    pub file_mode: Option<u32>,
    #[serde(default)]
    permissions: Option<String>,
    #[serde(default)]
    pub uid: Option<u32>,
    #[serde(default)]
    pub gid: Option<u32>,
}

/// A mount of something of the host's.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct MountSpec {
    pub host_path: String,
    pub container_path: String,
    #[serde(default, deserialize_with = "or_default")]
    pub options: Vec<String>,
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
}

/// A program that an engine runs on the host.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HookSpec {
    pub hook_name: String,
    pub path: String,
}

impl Spec {
    /// Reads a file's text; its name says what it is.
    pub(super) fn read(path: &Path, text: &str) -> Result<Spec, String> {
        let spec: Spec = if path.extension() == Some(OsStr::new("json")) {
            serde_json::from_str(text).map_err(|e| e.to_string())?
        } else {
            let value = super::yaml::read(text).map_err(|e| e.to_string())?;
            serde_json::from_value(value).map_err(|e| e.to_string())?
        };
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), String> {
        let own = self.version.strip_prefix('v').unwrap_or(&self.version);
        let place = |version: &str| VERSIONS.iter().position(|known| *known == version);
        let Some(at) = place(own) else {
            return Err(format!("the version {:?} of its specification is not known", self.version));
        };
        let needed = self.needed_version();
        if place(needed).is_some_and(|needed| needed > at) {
            return Err(format!("what it says needs the version {needed}, and it is of {}", self.version));
        }
        if !is_kind(&self.kind) {
            return Err(format!("its kind {:?} is none: it is written vendor.com/class", self.kind));
        }
        self.container_edits.check()?;
        let mut names = HashSet::new();
        for device in &self.devices {
            if !is_device_name(&device.name) {
                return Err(format!("the device name {:?} is not valid", device.name));
            }
            if !names.insert(&device.name) {
                return Err(format!("the device {:?} is there twice", device.name));
            }
            if device.container_edits.is_empty() {
                return Err(format!("the device {:?} gives nothing", device.name));
            }
            device.container_edits.check().map_err(|why| format!("the device {:?}: {why}", device.name))?;
        }
        Ok(())
    }

    /// The oldest version that has all that this one uses.
    fn needed_version(&self) -> &'static str {
        let all = || self.devices.iter().map(|device| &device.container_edits).chain([&self.container_edits]);
        let class = self.kind.split_once('/').map_or("", |(_, class)| class);
        let annotated = |device: &DeviceSpec| !device.annotations.is_empty();
        let needs = [
            ("1.1.0", all().any(|edits| !edits.net_devices.is_empty())),
            ("0.7.0", all().any(|edits| edits.intel_rdt.is_some() || !edits.additional_gids.is_empty())),
            (
                "0.6.0",
                class.contains('.') || !self.annotations.is_empty() || self.devices.iter().any(annotated),
            ),
            (
                "0.5.0",
                self.devices.iter().any(|device| !device.name.starts_with(|c: char| c.is_ascii_alphabetic()))
                    || all().any(|edits| edits.device_nodes.iter().any(|node| node.host_path.is_some())),
            ),
            ("0.4.0", all().any(|edits| edits.mounts.iter().any(|mount| mount.kind.is_some()))),
        ];
        needs.into_iter().find(|(_, needed)| *needed).map_or("0.3.0", |(version, _)| version)
    }
}

impl Edits {
    fn is_empty(&self) -> bool {
        let Edits { env, device_nodes, net_devices, hooks, mounts, intel_rdt, additional_gids } = self;
        env.is_empty()
            && device_nodes.is_empty()
            && net_devices.is_empty()
            && hooks.is_empty()
            && mounts.is_empty()
            && intel_rdt.is_none()
            && additional_gids.is_empty()
    }

    fn check(&self) -> Result<(), String> {
        if let Some(pair) = self.env.iter().find(|pair| pair.find('=').is_none_or(|at| at == 0)) {
            return Err(format!("the variable {pair:?} is not NAME=VALUE"));
        }
        for node in &self.device_nodes {
            let wrong = |why: String| Err(format!("the device node {:?}: {why}", node.path));
            if !node.path.starts_with('/') {
                return wrong("its path does not begin at the root".to_owned());
            }
            if let Some(kind) = node.kind.as_deref().filter(|kind| !["", "b", "c", "u", "p"].contains(kind)) {
                return wrong(format!("its type {kind:?} is none of b, c, u and p"));
            }
            if node.major.unwrap_or(0) > MAJOR_MAX || node.minor.unwrap_or(0) > MINOR_MAX {
                return wrong(format!("its numbers are more than {MAJOR_MAX} and {MINOR_MAX}"));
            }
            let permissions = node.permissions.as_deref().unwrap_or_default();
            if permissions != "none" && permissions.contains(|c| !"rwm".contains(c)) {
                return wrong(format!("its permissions {permissions:?} are none of r, w and m"));
            }
        }
        for mount in &self.mounts {
            if mount.host_path.is_empty() || !mount.container_path.starts_with('/') {
                return Err(format!(
                    "the mount of {:?} at {:?} has no place",
                    mount.host_path, mount.container_path
                ));
            }
        }
        Ok(())
    }
}

/// Whether a text is `vendor.com/class`.
pub(super) fn is_kind(text: &str) -> bool {
    let is_name = |name: &str| {
        let ends = |c: char| c.is_ascii_alphanumeric();
        name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.ends_with(ends)
            && name.chars().all(|c| ends(c) || "_-.".contains(c))
    };
    text.split_once('/').is_some_and(|(vendor, class)| is_name(vendor) && is_name(class))
}

fn is_device_name(name: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    name.starts_with(ends) && name.ends_with(ends) && name.chars().all(|c| ends(c) || "_-.:".contains(c))
}

/// `null` is as good as nothing.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// A text, or what is one in YAML without quotes.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    shown(Value::deserialize(from)?).ok_or_else(|| serde::de::Error::custom("a text is expected"))
}

fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let map: BTreeMap<String, Value> = or_default(from)?;
    let wrong = || serde::de::Error::custom("annotations must be texts");
    map.into_iter().map(|(key, value)| Ok((key, shown(value).ok_or_else(wrong)?))).collect()
}

fn shown(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Spec, String> {
        let as_yaml = Spec::read(Path::new("x.yaml"), text);
        if text.starts_with('{') {
            let as_json = Spec::read(Path::new("x.json"), text);
            assert_eq!(as_json.is_ok(), as_yaml.is_ok(), "{text}");
        }
        as_yaml
    }

    #[test]
    fn a_specification_is_read_from_json_and_from_yaml() {
        let json = r#"{"cdiVersion": "0.6.0", "kind": "vendor.com/class", "annotations": {"a": "b"},
            "devices": [{"name": "0", "containerEdits": {"env": ["A=b"], "deviceNodes": [
            {"path": "/dev/x", "hostPath": "/dev/null", "fileMode": 432, "permissions": "rw"}]}}]}"#;
        let yaml = "cdiVersion: v0.6.0\nkind: vendor.com/class\nannotations: {a: true}\ndevices:\n- name: 0\n  \
            containerEdits:\n    env: [A=b]\n    hooks: null\n    deviceNodes:\n    - path: /dev/x\n      \
            hostPath: /dev/null\n      fileMode: 0660\n      permissions: none\n";
        for text in [json, yaml] {
            let spec = read(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let device = &spec.devices[0];
            assert_eq!((spec.kind.as_str(), device.name.as_str()), ("vendor.com/class", "0"));
            assert_eq!(device.container_edits.env, ["A=b"]);
            assert_eq!(device.container_edits.device_nodes[0].file_mode, Some(0o660));
        }
    }

    #[test]
    fn a_specification_that_is_not_understood_is_refused_with_a_reason() {
        let with = |version: &str, kind: &str, devices: &str| {
            format!(r#"{{"cdiVersion": "{version}", "kind": "{kind}", "devices": [{devices}]}}"#)
        };
        let device =
            |name: &str, edits: &str| format!(r#"{{"name": "{name}", "containerEdits": {{{edits}}}}}"#);
        let env = r#""env": ["A=b"]"#;
        for (text, expect) in [
            (with("9.0.0", "a/b", ""), "is not known"),
            (with("0.3.0", "ab", ""), "its kind \"ab\" is none"),
            (with("0.5.0", "a/b", &device("-", env)), "device name \"-\""),
            (with("0.3.0", "a/b", &device("x", "")), "gives nothing"),
            (with("0.3.0", "a/b", &[device("x", env), device("x", env)].join(",")), "is there twice"),
            (with("0.3.0", "a/b", &device("x", r#""env": ["=b"]"#)), "NAME=VALUE"),
            (with("0.3.0", "a/b", &device("x", r#""deviceNodes": [{"path": "dev"}]"#)), "begin at the root"),
            (with("0.3.0", "a/b", &device("x", r#""deviceNodes": [{"path": "/d", "type": "q"}]"#)), "\"q\""),
            (with("0.3.0", "a/b", &device("x", r#""new": 1"#)), "unknown field `new`"),
            (with("0.4.0", "a/b", &device("1", env)), "needs the version 0.5.0"),
            (with("0.6.0", "a/b", &device("x", r#""additionalGids": [1]"#)), "needs the version 0.7.0"),
            (with("1.0.0", "a/b", &device("x", r#""netDevices": [{}]"#)), "needs the version 1.1.0"),
            ("- a".to_owned(), "invalid"),
        ] {
            let why = read(&text).err().unwrap_or_default();
            assert!(why.contains(expect), "{text}: {why}");
        }
    }
}
