//! Where the files of other programs are. It does not read them.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where settings and credentials are looked for, each list in its order.
#[derive(Clone, Default)]
pub struct Places {
    /// `registries.conf` and the files beside it that add to it; what comes later counts more.
    pub registries_files: Vec<PathBuf>,
    /// Whether the user named the first of them, which then has to be there.
    pub are_registries_named: bool,
    /// Folders with a folder for each host, which holds certificates.
    pub certificate_folders: Vec<PathBuf>,
    /// Folders with a folder for each host, which holds containerd's `hosts.toml`.
    pub containerd_folders: Vec<PathBuf>,
    /// BuildKit's own settings; the first that is there is read.
    pub buildkitd_files: Vec<PathBuf>,
    /// The file with credentials that the user named: no other place has any then.
    pub auth_file: Option<PathBuf>,
    /// The text of a file with credentials (`$DOCKER_AUTH_CONFIG`).
    pub auth_text: Option<String>,
    /// Files with credentials as podman writes them.
    pub auth_files: Vec<PathBuf>,
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text has secrets in it.
        f.debug_struct("Places")
            .field("registries_files", &self.registries_files)
            .field("auth_file", &self.auth_file)
            .field("auth_files", &self.auth_files)
            .finish_non_exhaustive()
    }
}

impl Places {
    /// Where they are for this user, in this environment.
    pub fn from_env() -> Places {
        Places::of(&|name| std::env::var_os(name))
    }

    fn of(variable: &dyn Fn(&str) -> Option<OsString>) -> Places {
        let path = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = path("HOME");
        let user = path("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
        let of_user = |name: &str| user.as_ref().map(|user| user.join(name));
        let both = |name: &str| of_user(name).into_iter().chain([Path::new("/etc").join(name)]);
        let runtime = path("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json"));
        Places {
            are_registries_named: path("CONTAINERS_REGISTRIES_CONF").is_some(),
            registries_files: registries_files(path("CONTAINERS_REGISTRIES_CONF"), of_user("containers")),
            certificate_folders: both("containers/certs.d").chain(both("docker/certs.d")).collect(),
            containerd_folders: both("containerd/certs.d").collect(),
            buildkitd_files: both("buildkit/buildkitd.toml").collect(),
            auth_file: path("REGISTRY_AUTH_FILE"),
            auth_text: variable("DOCKER_AUTH_CONFIG")
                .map(|text| text.to_string_lossy().into_owned())
                .filter(|text| !text.trim().is_empty()),
            auth_files: runtime.into_iter().chain(of_user("containers/auth.json")).collect(),
        }
    }
}

/// The file that is named, else the user's, else the system's; and what is in the folders beside it.
fn registries_files(named: Option<PathBuf>, user: Option<PathBuf>) -> Vec<PathBuf> {
    let system = Path::new("/etc/containers");
    let of_user = user.map(|folder| folder.join("registries.conf"));
    let (main, folders) = match (named, of_user) {
        (Some(named), _) => (named.clone(), vec![beside(&named)]),
        (None, Some(own)) if own.exists() => (own.clone(), vec![beside(&own)]),
        (None, own) => {
            let main = system.join("registries.conf");
            let folders = [beside(&main)].into_iter().chain(own.map(|own| beside(&own))).collect();
            (main, folders)
        }
    };
    let mut files = vec![main];
    for folder in folders {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut more: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == "conf")).collect();
        more.sort();
        files.extend(more);
    }
    files
}

/// `registries.conf.d` of `registries.conf`.
fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".d");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Places {
        Places::of(&|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn the_users_files_come_before_the_systems() {
        let places = of(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/u")]);
        let folders: Vec<_> = places.certificate_folders.iter().map(|p| p.to_string_lossy()).collect();
        assert_eq!(
            folders,
            [
                "/h/.config/containers/certs.d",
                "/etc/containers/certs.d",
                "/h/.config/docker/certs.d",
                "/etc/docker/certs.d"
            ]
        );
        let auth: Vec<_> = places.auth_files.iter().map(|p| p.to_string_lossy()).collect();
        assert_eq!(auth, ["/run/u/containers/auth.json", "/h/.config/containers/auth.json"]);
        assert_eq!(
            of(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c")]).buildkitd_files[0],
            Path::new("/c/buildkit/buildkitd.toml")
        );
    }

    #[test]
    fn a_named_registries_conf_is_read_with_what_is_beside_it_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let main = folder.path().join("registries.conf");
        std::fs::create_dir(beside(&main)).expect("a folder");
        for name in ["b.conf", "a.conf", "a.txt"] {
            std::fs::write(beside(&main).join(name), "").expect("written");
        }
        let places = of(&[("CONTAINERS_REGISTRIES_CONF", &main.to_string_lossy()), ("HOME", "/h")]);
        let want = [main.clone(), beside(&main).join("a.conf"), beside(&main).join("b.conf")];
        assert_eq!(places.registries_files, want);
    }

    #[test]
    fn the_text_of_credentials_is_not_in_debug_output() {
        let places = of(&[("DOCKER_AUTH_CONFIG", "hunter2")]);
        assert!(places.auth_text.is_some() && !format!("{places:?}").contains("hunter2"));
        assert_eq!(of(&[("DOCKER_AUTH_CONFIG", " ")]).auth_text, None);
    }
}
