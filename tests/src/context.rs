//! A test's own world: a temporary folder with a build context, a store and a home, gone at the end.
//!
//! ```text
//! <temporary>/ctx/     the build context
//! <temporary>/store/   KILN_ROOT
//! <temporary>/home/    HOME, and DOCKER_CONFIG in it
//! ```
//! It does not know what is built.

use crate::{Finished, ImageAssert, Invocation, kiln_program};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};
use tempfile::TempDir;

/// A test's own world.
#[derive(Debug)]
pub struct TestContext {
    folder: TempDir,
}

impl Default for TestContext {
    fn default() -> TestContext {
        TestContext::new()
    }
}

impl TestContext {
    /// An empty context and an empty store.
    pub fn new() -> TestContext {
        let folder = tempfile::Builder::new().prefix("kiln-test-").tempdir().expect("a temporary folder");
        for name in ["ctx", "home/.docker"] {
            std::fs::create_dir_all(folder.path().join(name)).expect("a folder");
        }
        TestContext { folder }
    }

    /// A context with one file, the Dockerfile.
    pub fn with_dockerfile(text: &str) -> TestContext {
        let context = TestContext::new();
        context.write("Dockerfile", text);
        context
    }

    /// A path in the temporary folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as text, for command lines.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// The build context.
    pub fn context(&self) -> PathBuf {
        self.path("ctx")
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// Writes a file of the context, and the folders above it.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> &TestContext {
        write(&self.context().join(name), bytes.as_ref());
        self
    }

    /// Writes a file beside the context.
    pub fn write_beside(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        write(&self.path(name), bytes.as_ref());
        self.path(name)
    }

    /// Makes a symbolic link in the context.
    pub fn link(&self, name: &str, target: &str) -> &TestContext {
        let path = self.context().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        symlink(target, path).expect("a link");
        self
    }

    /// Sets the mode of a file of the context.
    pub fn chmod(&self, name: &str, mode: u32) -> &TestContext {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.context().join(name), permissions).expect("a mode");
        self
    }

    /// Gives every file and folder of the context the same time of modification, which a layer keeps.
    pub fn date(&self, time_s: u64) -> &TestContext {
        let time = UNIX_EPOCH + Duration::from_secs(time_s);
        let mut paths = vec![self.context()];
        while let Some(path) = paths.pop() {
            if path.is_dir() {
                paths.extend(std::fs::read_dir(&path).expect("a folder").flatten().map(|entry| entry.path()));
            }
            let file = std::fs::File::open(&path).expect("a file of the context");
            file.set_modified(time).expect("its own file");
        }
        self
    }

    /// A folder that holds the static busybox: the named context `tools` of tests without a registry.
    pub fn tools(&self) -> PathBuf {
        let folder = self.path("tools");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::copy(crate::BUSYBOX_PATH, folder.join("busybox")).expect("the package busybox-static");
        folder
    }

    /// `kiln ARGS…` with this store and this home, started beside the context.
    pub fn kiln<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Invocation {
        Invocation::new(kiln_program())
            .args(args)
            .current_dir(self.folder.path())
            .env("KILN_ROOT", self.store())
            .env("HOME", self.path("home"))
            .env("DOCKER_CONFIG", self.path("home/.docker"))
            .env_remove("SOURCE_DATE_EPOCH")
            .env_remove("XDG_DATA_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("REGISTRY_AUTH_FILE")
            .env_remove("DOCKER_AUTH_CONFIG")
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_TLS_VERIFY")
            .env_remove("CONTAINERS_REGISTRIES_CONF")
            .env_remove("NO_COLOR")
    }

    /// `kiln build --progress=plain ARGS… CONTEXT`, not yet started.
    pub fn building<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> Invocation {
        let mut all = vec!["build".to_owned(), "--progress=plain".to_owned()];
        all.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        all.push(self.text("ctx"));
        self.kiln(all)
    }

    /// `kiln build --progress=plain ARGS… CONTEXT`, to its end.
    #[must_use = "whether it succeeded is known when its exit code is looked at"]
    #[track_caller]
    pub fn build<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> Finished {
        self.building(args).run()
    }

    /// Builds into an OCI archive, which must succeed, and reads the image back.
    #[track_caller]
    pub fn image<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> ImageAssert {
        self.image_and_log(args).0
    }

    /// The same, with what the build said.
    #[track_caller]
    pub fn image_and_log<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> (ImageAssert, Finished) {
        let archive = self.path("image.tar");
        let mut all = vec!["--output".to_owned(), format!("type=oci,dest={}", archive.display())];
        all.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        let finished = self.build(all).success();
        (ImageAssert::of_archive(&archive), finished)
    }
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    std::fs::write(path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
