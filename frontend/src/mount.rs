//! The mounts of a RUN: their keys checked and put together. It does not know what is mounted.

use kiln_grammar::suggest::nearest;
use kiln_solver::CacheSharing;

/// What kind a mount is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MountType {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

const TYPES: [(&str, MountType); 5] = [
    ("bind", MountType::Bind),
    ("cache", MountType::Cache),
    ("tmpfs", MountType::Tmpfs),
    ("secret", MountType::Secret),
    ("ssh", MountType::Ssh),
];

const SHARING: [(&str, CacheSharing); 3] =
    [("shared", CacheSharing::Shared), ("private", CacheSharing::Private), ("locked", CacheSharing::Locked)];

/// A mount as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountSpec {
    pub kind: MountType,
    pub from: String,
    pub source: String,
    pub target: String,
    pub id: String,
    pub env: Option<String>,
    pub sharing: Option<CacheSharing>,
    pub readonly: bool,
    pub required: bool,
    pub size_bytes: i64,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// What is wrong with a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountProblem {
    pub message: String,
    pub hint: Option<String>,
}

impl From<String> for MountProblem {
    fn from(message: String) -> MountProblem {
        MountProblem { message, hint: None }
    }
}

impl MountProblem {
    fn hinted(message: String, hint: impl Into<String>) -> MountProblem {
        MountProblem { message, hint: Some(hint.into()) }
    }
}

/// Reads the fields of a mount, in order, their values expanded.
pub(crate) fn read<'f>(
    fields: impl IntoIterator<Item = (&'f str, Option<String>)>,
) -> Result<MountSpec, MountProblem> {
    let mut mount = MountSpec::default();
    let mut readonly = None;
    for (key, value) in fields {
        let truth = || match &value {
            None => Ok(true),
            Some(text) => boolean(text).ok_or_else(|| format!("invalid value for {key}: {text}")),
        };
        let text = value.as_deref().unwrap_or_default();
        match key {
            "type" => {
                let unknown = || unknown(format!("unsupported mount type {text:?}"), text, &TYPES);
                mount.kind = one_of(&TYPES, text).ok_or_else(unknown)?;
            }
            "from" => mount.from = text.to_owned(),
            "source" | "src" => mount.source = text.to_owned(),
            "target" | "dst" | "destination" => mount.target = text.to_owned(),
            "readonly" | "ro" => readonly = Some(truth()?),
            "readwrite" | "rw" => readonly = Some(!truth()?),
            "id" => mount.id = text.to_owned(),
            "sharing" => {
                let unknown = || unknown(format!("unsupported sharing value {text:?}"), text, &SHARING);
                mount.sharing = Some(one_of(&SHARING, text).ok_or_else(unknown)?);
            }
            "required" if matches!(mount.kind, MountType::Secret | MountType::Ssh) => {
                mount.required = truth()?
            }
            "size" if mount.kind == MountType::Tmpfs => {
                mount.size_bytes = size(text).ok_or_else(|| format!("invalid value for size: {text}"))?;
            }
            "env" if mount.kind == MountType::Secret => mount.env = Some(text.to_owned()),
            "mode" => mount.mode = Some(number(key, text, 8)?),
            "uid" => mount.uid = Some(number(key, text, 10)?),
            "gid" => mount.gid = Some(number(key, text, 10)?),
            _ => return Err(misplaced(key, mount.kind)),
        }
    }
    mount.check()?;
    let is_open = matches!(mount.kind, MountType::Cache | MountType::Tmpfs);
    mount.readonly = readonly.unwrap_or(!is_open);
    Ok(mount)
}

impl MountSpec {
    /// Whether it says who owns it.
    pub(crate) fn has_owner(&self) -> bool {
        self.mode.is_some() || self.uid.is_some() || self.gid.is_some()
    }

    fn check(&self) -> Result<(), MountProblem> {
        let is_secret = self.kind == MountType::Secret;
        if matches!(self.kind, MountType::Bind | MountType::Tmpfs) {
            let given = [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)];
            if let Some((key, _)) = given.iter().find(|(_, value)| value.is_some()) {
                let message = format!("{key} not allowed for {:?} type mounts", name(self.kind));
                return Err(MountProblem::hinted(message, "cache, secret and ssh mounts have it"));
            }
        }
        if is_secret && !self.from.is_empty() {
            return Err("secret mount should not have a from".to_owned().into());
        }
        if is_secret && self.sharing.is_some() {
            return Err("secret mount should not define sharing".to_owned().into());
        }
        if is_secret && self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
            let message = "invalid secret mount. one of source, target required".to_owned();
            return Err(MountProblem::hinted(message, "write --mount=type=secret,id=NAME"));
        }
        if is_secret && !self.source.is_empty() && !self.id.is_empty() {
            let message = "both source and id can't be set".to_owned();
            return Err(MountProblem::hinted(message, "they are two names for the same: keep id"));
        }
        if self.sharing.is_some() && self.kind != MountType::Cache {
            let message = format!("invalid cache sharing set for {} mount", name(self.kind));
            return Err(MountProblem::hinted(
                message,
                "only cache mounts are shared: is type=cache missing?",
            ));
        }
        if self.kind == MountType::Ssh && !self.source.is_empty() {
            let message = "ssh does not support source".to_owned();
            return Err(MountProblem::hinted(
                message,
                "write id=NAME here, and --ssh NAME=SOCKET for the build",
            ));
        }
        Ok(())
    }
}

/// A yes or no, as Go's `strconv.ParseBool` reads it.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn name(kind: MountType) -> &'static str {
    TYPES.iter().find(|(_, other)| *other == kind).map_or("", |(name, _)| name)
}

/// A value that is none of those that there are.
fn unknown<T>(message: String, text: &str, table: &[(&str, T)]) -> MountProblem {
    let names = || table.iter().map(|(name, _)| *name);
    match nearest(text, names()) {
        Some(near) => MountProblem::hinted(message, format!("did you mean {near}?")),
        None => {
            MountProblem::hinted(message, format!("there are {}", names().collect::<Vec<_>>().join(", ")))
        }
    }
}

/// A key that belongs to other kinds of mounts, or comes before its kind is known.
fn misplaced(key: &str, kind: MountType) -> MountProblem {
    let owner = match key {
        "required" => "secret and ssh mounts have",
        "size" => "tmpfs mounts have",
        _ => "secret mounts have",
    };
    let message = format!("unexpected key '{key}' for mount type '{}'", name(kind));
    MountProblem::hinted(message, format!("{owner} it, and type= must stand before it"))
}

fn one_of<T: Copy>(table: &[(&str, T)], text: &str) -> Option<T> {
    table.iter().find(|(name, _)| text.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
}

fn number(key: &str, text: &str, radix: u32) -> Result<u32, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| u32::from_str_radix(text, radix).ok()).flatten();
    number.ok_or_else(|| format!("invalid value {text} for {key}"))
}

/// A number of bytes, perhaps with a unit of which each is 1024 times the one before.
fn size(text: &str) -> Option<i64> {
    let lower = text.to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (digits, unit) = lower.split_at(end);
    let unit = unit.trim_start();
    let power = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit) {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let factor = 1024_i64.pow(power);
    if let Ok(whole) = digits.parse::<i64>() {
        return whole.checked_mul(factor);
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    let bytes = digits.parse::<f64>().ok().map(|number| (number * factor as f64) as i64);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<MountSpec, String> {
        let fields = text.split(',').map(|field| match field.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (field, None),
        });
        read(fields).map_err(|problem| problem.message)
    }

    #[test]
    fn bind_and_secret_are_read_only_and_the_others_are_not() {
        for (text, expect) in [
            ("target=/m", true),
            ("target=/m,rw", false),
            ("type=cache,target=/m", false),
            ("type=cache,target=/m,ro=true", true),
            ("type=tmpfs,target=/m", false),
            ("type=secret,id=x", true),
        ] {
            assert_eq!(check(text).map(|mount| mount.readonly), Ok(expect), "{text}");
        }
    }

    #[test]
    fn keys_that_a_type_has_not_are_refused() {
        for (text, expect) in [
            ("target=/m,mode=0755", "mode not allowed for \"bind\" type mounts"),
            ("type=volume", "unsupported mount type \"volume\""),
            ("type=bind,required", "unexpected key 'required' for mount type 'bind'"),
            ("type=cache,size=1m", "unexpected key 'size' for mount type 'cache'"),
            ("type=secret", "invalid secret mount. one of source, target required"),
            ("type=secret,id=a,src=b", "both source and id can't be set"),
            ("type=tmpfs,sharing=shared", "invalid cache sharing set for tmpfs mount"),
            ("type=cache,uid=-1", "invalid value -1 for uid"),
            ("ro=maybe", "invalid value for ro: maybe"),
        ] {
            assert_eq!(check(text), Err(expect.to_owned()), "{text}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, expect) in [
            ("64m", Some(64 << 20)),
            ("1.5k", Some(1536)),
            ("2GiB", Some(2 << 30)),
            ("7", Some(7)),
            ("x", None),
            ("1x", None),
        ] {
            assert_eq!(size(text), expect, "{text}");
        }
    }
}
