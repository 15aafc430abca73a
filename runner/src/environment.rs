//! The environment of a process and where its program is. It knows nothing of users beyond a home folder.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{Access, AtFlags, FileType};
use rustix::io::Errno;

use crate::error::RunError;

/// The `PATH` of a process whose environment has none.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `given` with `PATH` first and `HOME` last where they are missing; of a name's values the last is taken.
pub(crate) fn complete(given: Vec<(OsString, OsString)>, home: &[u8]) -> Vec<(OsString, OsString)> {
    let mut env = vec![(OsString::from("PATH"), OsString::from_vec(DEFAULT_PATH.to_owned()))];
    for (name, value) in given {
        set(&mut env, name, value);
    }
    if !env.iter().any(|(name, value)| name == "HOME" && !value.is_empty()) {
        set(&mut env, "HOME".into(), OsStr::from_bytes(home).to_owned());
    }
    env
}

/// Where the program is; looked up in the `PATH` of `env` unless its name has a slash.
pub(crate) fn find_program(program: &OsStr, env: &[(OsString, OsString)]) -> Result<CString, RunError> {
    let shown = program.to_string_lossy().into_owned();
    if program.as_bytes().contains(&b'/') {
        return match executable(program) {
            Ok(()) => c_string(program.as_bytes()),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(RunError::NotFound { program: shown }),
            Err(Errno::ACCESS | Errno::PERM) => Err(RunError::PermissionDenied { program: shown }),
            Err(error) => Err(RunError::Exec { program: shown, source: error.into() }),
        };
    }
    let path = env.iter().find(|(name, _)| name == "PATH").map_or(&[][..], |(_, value)| value.as_bytes());
    for folder in path.split(|&byte| byte == b':').filter(|folder| folder.starts_with(b"/")) {
        let candidate = OsString::from_vec([folder, b"/", program.as_bytes()].concat());
        if executable(&candidate).is_ok() {
            return c_string(candidate.as_bytes());
        }
    }
    Err(RunError::NotInPath { program: shown })
}

/// A C string for an argument, a name or a value.
pub(crate) fn c_string(bytes: impl Into<Vec<u8>>) -> Result<CString, RunError> {
    let reason = "an argument or variable has a zero byte".to_owned();
    CString::new(bytes).map_err(|_| RunError::InvalidSpec { reason })
}

fn set(env: &mut Vec<(OsString, OsString)>, name: OsString, value: OsString) {
    match env.iter_mut().find(|(known, _)| *known == name) {
        Some((_, old)) => *old = value,
        None => env.push((name, value)),
    }
}

fn executable(path: &OsStr) -> rustix::io::Result<()> {
    if FileType::from_raw_mode(rustix::fs::stat(path)?.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    rustix::fs::accessat(rustix::fs::CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: &[(&str, &str)], expect: &str) {
        let given = given.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let env = complete(given, b"/home/app");
        let shown: Vec<String> =
            env.iter().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect();
        assert_eq!(shown.join(" "), expect.replace("$PATH", str::from_utf8(DEFAULT_PATH).unwrap()));
    }

    #[test]
    fn path_and_home_are_added_where_they_are_missing() {
        check(&[], "PATH=$PATH HOME=/home/app");
        check(&[("A", "1"), ("PATH", "/p"), ("HOME", "/h"), ("B", "2")], "PATH=/p A=1 HOME=/h B=2");
        check(&[("HOME", ""), ("A", "1"), ("A", "2")], "PATH=$PATH HOME=/home/app A=2");
    }
}
