//! Makes small base images and puts them in a registry, without the program under test.
//! It does not know Dockerfiles.

use crate::Registry;
use kiln_oci::{
    Descriptor, DiffId, Digest, History, ImageConfig, Index, Manifest, MediaType, Platform, RootFs,
    RuntimeConfig,
};
use std::io::Write;
use std::process::{Command, Stdio};

/// Debian's static busybox, of the package busybox-static.
pub const BUSYBOX_PATH: &str = "/bin/busybox";
const SEARCH_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const CREATED: &str = "2023-11-14T22:13:20Z";
const CREATED_SECONDS: u64 = 1_700_000_000;
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n\
                      nobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\nstaff:x:50:app\napp:x:1000:\nextra:x:2000:app\nnogroup:x:65534:\n";

/// One entry of a layer.
#[derive(Clone, Debug)]
pub enum LayerEntry {
    /// A folder with its mode.
    Folder(&'static str, u32),
    /// A file with its mode and its bytes.
    File(&'static str, u32, Vec<u8>),
    /// A symbolic link and its target.
    Link(String, &'static str),
}

/// An image to start from.
#[derive(Clone, Debug)]
pub struct BaseImage {
    layers: Vec<Vec<u8>>,
    config: RuntimeConfig,
    platform: Platform,
}

impl BaseImage {
    /// A small userland: busybox with a link for each of its programs, users and groups.
    pub fn busybox() -> BaseImage {
        use LayerEntry::{File, Folder, Link};
        let program = std::fs::read(BUSYBOX_PATH).expect("Debian's package busybox-static");
        let mut entries = vec![
            Folder("bin", 0o755),
            Folder("dev", 0o755),
            Folder("etc", 0o755),
            Folder("home", 0o755),
            Folder("proc", 0o755),
            Folder("root", 0o700),
            Folder("sys", 0o755),
            Folder("tmp", 0o1777),
            Folder("var", 0o755),
            File("bin/busybox", 0o755, program),
            File("etc/passwd", 0o644, PASSWD.into()),
            File("etc/group", 0o644, GROUP.into()),
        ];
        let names = programs().into_iter().filter(|name| name != "busybox");
        entries.extend(names.map(|name| Link(format!("bin/{name}"), "busybox")));
        let config = RuntimeConfig {
            env: vec![SEARCH_PATH.to_owned()],
            cmd: Some(vec!["sh".to_owned()]),
            ..RuntimeConfig::default()
        };
        BaseImage { layers: vec![layer(&entries)], config, platform: Platform::host() }
    }

    /// An image of these files and nothing else.
    pub fn of(entries: &[LayerEntry]) -> BaseImage {
        let config = RuntimeConfig { env: vec![SEARCH_PATH.to_owned()], ..RuntimeConfig::default() };
        BaseImage { layers: vec![layer(entries)], config, platform: Platform::host() }
    }

    /// The same, saying that it is for a platform, whatever its files are for.
    #[must_use]
    pub fn with_platform(mut self, platform: &str) -> BaseImage {
        self.platform = platform.parse().expect("a platform");
        self
    }

    /// The same with one more layer.
    #[must_use]
    pub fn with_layer(mut self, entries: &[LayerEntry]) -> BaseImage {
        self.layers.push(layer(entries));
        self
    }

    /// The same with another runtime config.
    #[must_use]
    pub fn with_config(mut self, change: impl FnOnce(&mut RuntimeConfig)) -> BaseImage {
        change(&mut self.config);
        self
    }

    /// Puts it in a registry; its layers in gzip.
    pub fn push(&self, registry: &Registry, repository: &str, tag: &str) -> Digest {
        let parts = self.parts();
        for bytes in parts.layers.iter().chain([&parts.config]) {
            registry.put_blob(repository, bytes);
        }
        registry.put_manifest(repository, tag, &MediaType::OciManifest, &parts.manifest)
    }

    /// Puts several in a registry, with an index of them under the tag.
    pub fn push_index(images: &[BaseImage], registry: &Registry, repository: &str, tag: &str) -> Digest {
        let listed = |image: &BaseImage| {
            let parts = image.parts();
            image.push(registry, repository, &Digest::of(&parts.manifest).to_string());
            let platform = Some(image.platform.clone());
            Descriptor { platform, ..Descriptor::of(MediaType::OciManifest, &parts.manifest) }
        };
        let index = Index {
            schema_version: 2,
            media_type: Some(MediaType::OciIndex),
            manifests: images.iter().map(listed).collect(),
            annotations: Default::default(),
        };
        let bytes = serde_json::to_vec(&index).expect("an index");
        registry.put_manifest(repository, tag, &MediaType::OciIndex, &bytes)
    }

    /// Its manifest, its config and its compressed layers.
    pub fn parts(&self) -> Parts {
        let diff_ids = self.layers.iter().map(|bytes| DiffId(Digest::of(bytes))).collect();
        let created = Some(CREATED.to_owned());
        let history = (0..self.layers.len())
            .map(|i| History {
                created: created.clone(),
                created_by: format!("base layer {i}"),
                ..History::default()
            })
            .collect();
        let config = ImageConfig {
            architecture: self.platform.architecture.clone(),
            os: self.platform.os.clone(),
            variant: self.platform.variant.clone(),
            created,
            config: self.config.clone(),
            history,
            rootfs: RootFs { diff_ids, ..RootFs::default() },
            ..ImageConfig::default()
        };
        let config = serde_json::to_vec(&config).expect("a config");
        let layers: Vec<Vec<u8>> = self.layers.iter().map(|bytes| piped("gzip", &["-nc"], bytes)).collect();
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MediaType::OciManifest),
            artifact_type: None,
            config: Descriptor::of(MediaType::OciConfig, &config),
            layers: layers.iter().map(|bytes| Descriptor::of(MediaType::OciLayerGzip, bytes)).collect(),
            subject: None,
            annotations: Default::default(),
        };
        Parts { manifest: serde_json::to_vec(&manifest).expect("a manifest"), config, layers }
    }
}

/// The documents and blobs of an image.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The manifest.
    pub manifest: Vec<u8>,
    /// The config.
    pub config: Vec<u8>,
    /// The layers, compressed.
    pub layers: Vec<Vec<u8>>,
}

fn programs() -> Vec<String> {
    let list = Command::new(BUSYBOX_PATH).arg("--list").output().expect("Debian's package busybox-static");
    String::from_utf8_lossy(&list.stdout).lines().map(str::to_owned).collect()
}

fn layer(entries: &[LayerEntry]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mtime(CREATED_SECONDS);
        header.set_uid(0);
        header.set_gid(0);
        let (path, bytes): (&str, &[u8]) = match entry {
            LayerEntry::Folder(path, mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                (path, &[])
            }
            LayerEntry::File(path, mode, bytes) => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_mode(*mode);
                (path, bytes)
            }
            LayerEntry::Link(path, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                header.set_link_name(target).expect("a short target");
                (path, &[])
            }
        };
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, path, bytes).expect("memory");
    }
    archive.into_inner().expect("memory")
}

/// What `program` makes of `input`.
pub(crate) fn piped(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let mut pipe = child.stdin.take().expect("a pipe");
    std::thread::scope(|scope| {
        scope.spawn(move || pipe.write_all(input).expect("a program that reads all its input"));
        let output = child.wait_with_output().expect("its own child");
        assert!(output.status.success(), "{program} {args:?} failed");
        output.stdout
    })
}
