//! Which devices a name means, who may have them, and what they give.

use super::*;
use kiln_runner::{DeviceKind, DeviceNode, MountSource, ProcessSpec};
use kiln_solver::{ExecMeta, NetworkMode, SecurityMode};

/// Two folders of specifications, the second with one of its own for `two`.
struct Host {
    folder: tempfile::TempDir,
}

const SPEC: &str = r#"
cdiVersion: 0.6.0
kind: vendor.com/class
annotations: {org.mobyproject.buildkit.device.class: slow}
containerEdits:
  env: [FOR_ALL=1]
devices:
- name: one
  containerEdits: {env: [NAME=one], deviceNodes: [{path: /dev/one, hostPath: /dev/null}]}
- name: two
  annotations: {org.mobyproject.buildkit.device.class: fast}
  containerEdits: {env: [NAME=old]}
- name: free
  annotations: {org.mobyproject.buildkit.device.autoallow: true}
  containerEdits: {env: [FREE=1]}
"#;
const LATER: &str = r#"{"cdiVersion": "0.3.0", "kind": "vendor.com/class",
    "devices": [{"name": "two", "containerEdits": {"env": ["NAME=two"]}}]}"#;

impl Host {
    fn new() -> Host {
        let host = Host { folder: tempfile::tempdir().unwrap_or_else(|e| panic!("{e}")) };
        host.write("a/vendor.yaml", SPEC);
        host.write("b/vendor.json", LATER);
        host
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        let parent = path.parent().unwrap_or(self.folder.path());
        let written = std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, text));
        written.unwrap_or_else(|e| panic!("{e}"));
    }

    fn devices(&self) -> Devices {
        Devices::load(&["a", "b", "missing"].map(|name| self.folder.path().join(name)))
    }

    fn granted(&self, access: &DeviceAccess, names: &[&str]) -> Result<Vec<Arc<Device>>, DeviceError> {
        access.granted(&self.devices(), &exec(names))
    }

    /// What a process gets that has these devices, all of them being allowed.
    fn spec(&self, names: &[&str]) -> Result<ProcessSpec, DeviceError> {
        let null = File::open("/dev/null").unwrap_or_else(|e| panic!("{e}"));
        let mut spec = ProcessSpec::new(null.into(), Vec::new());
        spec.env = vec![("NAME".into(), "before".into()), ("KEPT".into(), "1".into())];
        apply(&self.granted(&allowing(&[""]), names)?, &mut spec)?;
        Ok(spec)
    }
}

/// A step that asks for devices; those with a question mark may be missing.
fn exec(names: &[&str]) -> ExecOp {
    let device = |name: &&str| CdiDevice {
        name: name.trim_end_matches('?').to_owned(),
        optional: name.ends_with('?'),
    };
    ExecOp {
        meta: ExecMeta::default(),
        mounts: Vec::new(),
        network: NetworkMode::Unset,
        security: SecurityMode::Sandbox,
        secret_env: Vec::new(),
        devices: names.iter().map(device).collect(),
    }
}

fn allowing(texts: &[&str]) -> DeviceAccess {
    let mut access = DeviceAccess::default();
    for text in texts {
        access.allow(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    }
    access
}

fn names(granted: Result<Vec<Arc<Device>>, DeviceError>) -> Result<Vec<String>, String> {
    let short = |device: &Arc<Device>| device.name().trim_start_matches("vendor.com/class=").to_owned();
    granted.map(|devices| devices.iter().map(short).collect()).map_err(|e| e.to_string())
}

#[test]
fn a_name_means_one_device_or_the_first_or_all_or_those_of_a_class() {
    let host = Host::new();
    let find =
        |asked: &[&str]| names(host.granted(&allowing(&[""]), asked)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(find(&["vendor.com/class=one"]), ["one"]);
    assert_eq!(find(&["vendor.com/class"]), ["free"]);
    assert_eq!(find(&["vendor.com/class=*"]), ["free", "one", "two"]);
    assert_eq!(find(&["vendor.com/class=slow"]), ["free", "one"]);
    assert_eq!(find(&["vendor.com/class=one", "vendor.com/class=*"]), ["one", "free", "two"]);
    assert!(find(&["vendor.com/class=none?", "other.com/x?"]).is_empty());
}

#[test]
fn a_device_that_is_not_there_is_told_with_those_that_are() {
    let host = Host::new();
    host.write("a/broken.json", "{");
    let missing = names(host.granted(&allowing(&[""]), &["vendor.com/class=none"])).unwrap_err();
    assert!(missing.starts_with("required device \"vendor.com/class=none\" is not registered"), "{missing}");
    assert!(missing.contains("there are vendor.com/class=free, vendor.com/class=one, "), "{missing}");
    assert!(missing.contains("broken.json was not used: EOF"), "{missing}");
    let invalid = names(host.granted(&allowing(&[""]), &["gpu"])).unwrap_err();
    assert!(invalid.starts_with("invalid device \"gpu\""), "{invalid}");
}

#[test]
fn devices_are_had_only_by_who_may_have_them() {
    let host = Host::new();
    let with = |allowed: &[&str], asked: &[&str]| names(host.granted(&allowing(allowed), asked));
    let [one, two, free] = ["vendor.com/class=one", "vendor.com/class=two", "vendor.com/class=free"];
    let refused = with(&[], &[one]).unwrap_err();
    assert!(refused.starts_with("device vendor.com/class=one is requested by the build but not allowed"));
    let refused = with(&[], &["vendor.com/class=*"]).unwrap_err();
    assert!(refused.starts_with("devices vendor.com/class=one, vendor.com/class=two are requested by"));
    assert_eq!(with(&[], &[free]).as_deref(), Ok(&["free".to_owned()][..]));
    assert!(with(&[two], &[one]).is_err());
    assert!(with(&[one, "other.com/x=y"], &[one]).is_ok());
    assert!(with(&["vendor.com/class=*"], &[one, two]).is_ok());
    assert!(with(&[""], &[one, two]).is_ok());
    let alias = with(&["vendor.com/class=two,alias=some.com/gpu"], &["some.com/gpu"]);
    assert_eq!(alias.as_deref(), Ok(&["two".to_owned()][..]));
    assert!(DeviceAccess::default().allow("x,aka=y").is_err());
}

#[test]
fn the_later_folder_counts_and_a_name_twice_in_one_counts_for_none() {
    let host = Host::new();
    let env = |names: &[&str]| host.spec(names).map(|spec| spec.env).unwrap_or_else(|e| panic!("{e}"));
    assert!(env(&["vendor.com/class=two"]).contains(&("NAME".into(), "two".into())));
    host.write("b/again.json", LATER);
    let missing = names(host.granted(&allowing(&[""]), &["vendor.com/class=two"])).unwrap_err();
    assert!(missing.contains("again.json was not used: vendor.com/class=two is in another"), "{missing}");
}

#[test]
fn variables_and_nodes_are_given_in_order() {
    let spec = Host::new().spec(&["vendor.com/class=one", "vendor.com/class=free"]);
    let spec = spec.unwrap_or_else(|e| panic!("{e}"));
    let pairs = [("KEPT", "1"), ("FOR_ALL", "1"), ("NAME", "one"), ("FREE", "1")];
    assert_eq!(spec.env, pairs.map(|(name, value)| (name.into(), value.into())));
    let (kind, path) = (DeviceKind::Character, PathBuf::from("/dev/one"));
    assert_eq!(spec.devices, [DeviceNode { path, kind, number: (1, 3), mode: 0o666, uid: None, gid: None }]);
}

/// What a device with these edits gives.
fn given(edits: &str) -> Result<ProcessSpec, String> {
    let host = Host::new();
    let text = format!(
        r#"{{"cdiVersion": "1.1.0", "kind": "a.b/c", "devices": [{{"name": "d", "containerEdits": {{{edits}}}}}]}}"#
    );
    host.write("a/given.json", &text);
    host.spec(&["a.b/c=d"]).map_err(|e| e.to_string())
}

#[test]
fn nodes_are_what_their_specification_says_or_what_the_host_has() {
    let node = |node: &str| match given(&format!(r#""deviceNodes": [{node}]"#)) {
        Ok(spec) => Ok((spec.devices[0].kind, spec.devices[0].number)),
        Err(why) => Err(why),
    };
    assert_eq!(node(r#"{"path": "/dev/zero"}"#), Ok((DeviceKind::Character, (1, 5))));
    let all = r#"{"path": "/dev/none", "type": "b", "major": 7, "minor": 3}"#;
    assert_eq!(node(all), Ok((DeviceKind::Block, (7, 3))));
    assert_eq!(node(r#"{"path": "/dev/fifo", "type": "p"}"#), Ok((DeviceKind::Fifo, (0, 0))));
    for (wrong, expect) in [
        (r#"{"path": "/dev/zero", "type": "b"}"#, "/dev/zero: it is not of the type b"),
        (r#"{"path": "/dev/none"}"#, "/dev/none: No such file"),
        (r#"{"path": "/dev/x", "hostPath": "/etc/passwd"}"#, "/etc/passwd: it is no device"),
    ] {
        assert!(node(wrong).is_err_and(|why| why.contains(expect)), "{wrong}");
    }
}

#[test]
fn groups_are_given_but_roots() {
    let spec = given(r#""additionalGids": [0, 5, 44]"#).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(spec.additional_gids, [5, 44]);
}

#[test]
fn what_kiln_does_not_have_is_refused_with_the_file() {
    let hook = r#"{"hookName": "createContainer", "path": "/usr/bin/hook", "args": ["hook"]}"#;
    for (edits, expect) in [
        (
            format!(r#""hooks": [{hook}]"#),
            "/usr/bin/hook is to be run on the host, as its hook createContainer",
        ),
        (r#""netDevices": [{"hostInterfaceName": "eth0", "name": "eth1"}]"#.to_owned(), "network devices"),
        (r#""intelRdt": {"closID": "x"}"#.to_owned(), "intelRdt"),
        (r#""mounts": [{"hostPath": "/", "containerPath": "/m", "type": "nfs"}]"#.to_owned(), "type \"nfs\""),
        (
            r#""mounts": [{"hostPath": "/", "containerPath": "/m", "options": ["x"]}]"#.to_owned(),
            "option \"x\"",
        ),
        (
            r#""mounts": [{"hostPath": "/none/such", "containerPath": "/m"}]"#.to_owned(),
            "/none/such: No such",
        ),
    ] {
        let why = given(&edits).err().unwrap_or_default();
        assert!(why.contains(expect) && why.contains("given.json"), "{edits}: {why}");
    }
}

#[test]
fn a_mount_of_memory_needs_nothing_of_the_host() {
    let mount = r#"{"hostPath": "none", "containerPath": "/m", "type": "tmpfs", "options": ["ro"]}"#;
    let spec = given(&format!(r#""mounts": [{mount}]"#)).unwrap_or_else(|e| panic!("{e}"));
    assert!(matches!(spec.mounts[0].source, MountSource::Tmpfs { .. }) && spec.mounts[0].readonly);
}
