//! Writes a file with credentials: aside, for its owner alone, and then in place of the old one.
//! It does not know what is in it.

use crate::RegistryError;
use crate::credentials::read_text;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Changes the text of a file, one process at a time. `change` gives the new text, or `None` if nothing is to be done.
/// Says whether it was changed.
pub(crate) fn change(
    file: &Path,
    change: impl FnOnce(&str) -> Option<String>,
) -> Result<bool, RegistryError> {
    let bad = |e: io::Error| RegistryError::Keeping { file: file.to_owned(), reason: e.to_string() };
    let real = followed(file)?;
    let folder = real.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(bad)?;
    let lock = File::open(folder).map_err(bad)?;
    lock.lock().map_err(bad)?;
    let text = read_text(&real)?.unwrap_or_else(|| "{}".to_owned());
    match change(&text) {
        Some(new) if new != text => replace(&real, folder, &new).map_err(bad).map(|()| true),
        _ => Ok(false),
    }
}

/// The file itself, where its name is a symbolic link. Whoever may put a link there could name a file that others
/// read: only the user's own links to the user's own files are followed.
fn followed(file: &Path) -> Result<PathBuf, RegistryError> {
    let refused = |reason: &str| {
        Err(RegistryError::Keeping {
            file: file.to_owned(),
            reason: format!("it is a symbolic link {reason}"),
        })
    };
    let Ok(link) = std::fs::symlink_metadata(file) else { return Ok(file.to_owned()) };
    if !link.file_type().is_symlink() {
        return Ok(file.to_owned());
    }
    let user = std::fs::metadata("/proc/self").map(|own| own.uid()).ok();
    match std::fs::canonicalize(file).and_then(|to| Ok((std::fs::metadata(&to)?, to))) {
        Err(_) => refused("that leads to no file"),
        _ if Some(link.uid()) != user => refused("of another user"),
        Ok((to, _)) if Some(to.uid()) != user => refused("to another user's file"),
        Ok((_, to)) => Ok(to),
    }
}

fn replace(file: &Path, folder: &Path, text: &str) -> io::Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let aside = folder.join(format!(".{name}.{}", std::process::id()));
    // The folder is locked: what is left of that name is of a process that died.
    let _ = std::fs::remove_file(&aside);
    let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    let written = (|| {
        new.write_all(text.as_bytes())?;
        new.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        if let Ok(old) = std::fs::metadata(file) {
            // Root may write a user's file, which then stays the user's.
            let _ = std::os::unix::fs::fchown(&new, Some(old.uid()), Some(old.gid()));
        }
        new.sync_all()?;
        std::fs::rename(&aside, file)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&aside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_is_for_its_owner_alone_and_a_link_to_it_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, link) = (folder.path().join("a/real.json"), folder.path().join("link.json"));
        assert!(change(&file, |text| Some(text.replace("{}", "{\"a\":1}"))).expect("written"));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("a mode");
        symlink(&file, &link).expect("a link");
        assert!(change(&link, |text| Some(text.replace('1', "2"))).expect("written"));
        assert_eq!(std::fs::read_to_string(&file).expect("there"), "{\"a\":2}");
        assert_eq!(std::fs::metadata(&file).expect("there").mode() & 0o777, 0o600);
        assert!(link.is_symlink());
        assert!(!change(&file, |_| None).expect("nothing"));
        let names = std::fs::read_dir(file.parent().expect("a folder")).expect("listed").count();
        assert_eq!(names, 1, "nothing is left aside");
    }

    #[test]
    fn a_link_into_nothing_or_to_others_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let link = folder.path().join("link.json");
        symlink("missing.json", &link).expect("a link");
        let error = change(&link, |text| Some(format!("{text} "))).expect_err("refused").to_string();
        assert!(error.contains("symbolic link that leads to no file"), "{error}");
        if std::os::unix::fs::lchown(&link, Some(65_534), None).is_ok() {
            std::fs::write(folder.path().join("missing.json"), "{}").expect("written");
            let error = change(&link, |text| Some(format!("{text} "))).expect_err("refused").to_string();
            assert!(error.contains("of another user"), "{error}");
        }
    }
}
