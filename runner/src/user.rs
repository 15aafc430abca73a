//! Who a process runs as: a user's text resolved in the root's passwd and group files. It knows nothing of how a
//! process takes on an identity, and asks no library of the host.

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::error::RunError;
use crate::in_root;

/// A resolved user.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// All supplementary groups; the primary one is the first.
    pub(crate) groups: Vec<u32>,
    /// The home folder by passwd, `/` when it has none.
    pub(crate) home: Vec<u8>,
}

impl Identity {
    /// Adds supplementary groups.
    pub(crate) fn add_groups(&mut self, gids: &[u32]) {
        for gid in gids {
            if !self.groups.contains(gid) {
                self.groups.push(*gid);
            }
        }
    }
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// The largest passwd or group file that is read.
const LARGEST_FILE: u64 = 10 << 20;

/// Resolves `user` in the root.
pub(crate) fn resolve(root: BorrowedFd<'_>, user: &str) -> Result<Identity, RunError> {
    resolve_by(user, &mut |path| read(root, path))
}

/// A user or group as written: a number if it is all digits.
enum Who<'a> {
    Number(u32),
    Name(&'a str),
}

type ReadFile<'a> = dyn FnMut(&'static str) -> Result<Vec<u8>, RunError> + 'a;

fn resolve_by(user: &str, read: &mut ReadFile<'_>) -> Result<Identity, RunError> {
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, (!group.is_empty()).then_some(group)),
        None => (user, None),
    };
    let wanted = if name.is_empty() { Who::Number(0) } else { who(name, user)? };
    let passwd = read(PASSWD)?;
    let entry = entries(&passwd, 7).find(|fields| match wanted {
        Who::Number(uid) => number(fields[2]) == Some(uid),
        Who::Name(name) => fields[0] == name.as_bytes(),
    });
    let known = entry.and_then(|fields| Some((fields[0], number(fields[2])?, number(fields[3])?, fields[5])));
    let (uid, own_gid) = match (&known, wanted) {
        (Some((_, uid, gid, _)), _) => (*uid, *gid),
        (None, Who::Number(uid)) => (uid, 0),
        (None, Who::Name(name)) => return Err(RunError::UnknownUser { user: name.to_owned() }),
    };
    let home = match &known {
        Some((_, _, _, home)) if !home.is_empty() => home.to_vec(),
        _ => b"/".to_vec(),
    };
    // A run that names no user is root with no further group, and no group file is needed for that.
    let (gid, mut groups) = match (group, &known) {
        _ if user.is_empty() => (0, Vec::new()),
        (Some(group), _) => (group_id(group, user, read)?, Vec::new()),
        (None, Some((name, ..))) => (own_gid, memberships(name, &read(GROUP)?)),
        (None, None) => (own_gid, Vec::new()),
    };
    groups.retain(|&other| other != gid);
    groups.insert(0, gid);
    Ok(Identity { uid, gid, groups, home })
}

fn group_id(group: &str, user: &str, read: &mut ReadFile<'_>) -> Result<u32, RunError> {
    match who(group, user)? {
        Who::Number(gid) => Ok(gid),
        Who::Name(name) => entries(&read(GROUP)?, 4)
            .find(|fields| fields[0] == name.as_bytes())
            .and_then(|fields| number(fields[2]))
            .ok_or_else(|| RunError::UnknownGroup { group: name.to_owned() }),
    }
}

fn memberships(name: &[u8], group: &[u8]) -> Vec<u32> {
    let mut groups: Vec<u32> = Vec::new();
    for fields in entries(group, 4) {
        let is_member = fields[3].split(|&byte| byte == b',').any(|member| member.trim_ascii() == name);
        if let Some(gid) = number(fields[2]).filter(|gid| is_member && !groups.contains(gid)) {
            groups.push(gid);
        }
    }
    groups
}

fn who<'a>(text: &'a str, user: &str) -> Result<Who<'a>, RunError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Who::Name(text));
    }
    number(text.as_bytes()).map(Who::Number).ok_or_else(|| RunError::InvalidUser { user: user.to_owned() })
}

/// A uid or gid; the largest number means "unchanged" to the kernel, so it is none.
fn number(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|&id| id != u32::MAX)
}

/// The lines of a colon-separated file as fields; missing ones are empty.
fn entries(file: &[u8], count: usize) -> impl Iterator<Item = Vec<&[u8]>> {
    file.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()).map(
        move |line| {
            let mut fields: Vec<&[u8]> = line.split(|&byte| byte == b':').collect();
            fields.resize(fields.len().max(count), b"");
            fields
        },
    )
}

/// The content of a small regular file of the root; empty when there is none.
fn read(root: BorrowedFd<'_>, path: &'static str) -> Result<Vec<u8>, RunError> {
    let wrong = |reason: String| RunError::UserFile { path: path.into(), reason };
    let file = match in_root::open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
        Err(error) => return Err(wrong(error.to_string())),
    };
    let metadata = file.metadata().map_err(|error| wrong(error.to_string()))?;
    if !metadata.is_file() {
        return Err(wrong("not a regular file".to_owned()));
    }
    if metadata.len() > LARGEST_FILE {
        return Err(wrong(format!("larger than {LARGEST_FILE} bytes")));
    }
    let mut content = Vec::new();
    file.take(LARGEST_FILE).read_to_end(&mut content).map_err(|error| wrong(error.to_string()))?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD_FILE: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n\
        odd:x:4294967295:1:::\n1234:x:77:77:::\nbare:x:5:6\n";
    const GROUP_FILE: &str =
        "root:x:0:\nwheel:x:10:root,app\nwww:x:33:app\napp:x:1000:\nmore:x:44:other, app\n";

    fn lookup(user: &str) -> Result<Identity, RunError> {
        resolve_by(user, &mut |path| Ok(if path == PASSWD { PASSWD_FILE } else { GROUP_FILE }.into()))
    }

    fn check(user: &str, uid: u32, gid: u32, groups: &[u32], home: &str) {
        let expect = Identity { uid, gid, groups: groups.to_vec(), home: home.into() };
        assert_eq!(lookup(user).unwrap(), expect, "{user:?}");
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        check("", 0, 0, &[0], "/root");
        check("root", 0, 0, &[0, 10], "/root");
        check("app", 1000, 1000, &[1000, 10, 33, 44], "/home/app");
        check("1000", 1000, 1000, &[1000, 10, 33, 44], "/home/app");
        check("4242", 4242, 0, &[0], "/");
        check("007", 7, 0, &[0], "/");
        check("bare", 5, 6, &[6], "/");
    }

    #[test]
    fn a_given_group_replaces_all_groups() {
        check("app:www", 1000, 33, &[33], "/home/app");
        check("app:12", 1000, 12, &[12], "/home/app");
        check("4242:www", 4242, 33, &[33], "/");
        check(":www", 0, 33, &[33], "/root");
        check("app:", 1000, 1000, &[1000, 10, 33, 44], "/home/app");
    }

    #[test]
    fn digits_are_never_a_name_and_never_overflow() {
        check("1234", 1234, 0, &[0], "/");
        for user in ["4294967295", "4294967296", "99999999999999999999", "app:4294967296"] {
            assert!(matches!(lookup(user), Err(RunError::InvalidUser { .. })), "{user:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for user in ["ghost", "+0", "-1", "0x0", " 0", "0 ", "٣", "odd"] {
            assert!(matches!(lookup(user), Err(RunError::UnknownUser { .. })), "{user:?}");
        }
        assert!(matches!(lookup("app:ghosts"), Err(RunError::UnknownGroup { .. })));
    }
}
