//! Changes of a file's mode as people write them: octal, or symbolic as for chmod(1).
//! It does not know files.

use crate::error::SnapshotError;
use crate::tree::NodeType;

/// How the permission bits of a source's files are seen, before any change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceModes {
    /// As they are.
    #[default]
    Exact,
    /// As git keeps them: 0755 for folders and for files that their owner may run, 0644 for others. What
    /// the umask of a checkout was is then not seen.
    Git,
}

impl SourceModes {
    /// The bits that something with `mode` has.
    pub fn of(self, mode: u32, kind: NodeType) -> u32 {
        match (self, kind) {
            (SourceModes::Exact, _) | (SourceModes::Git, NodeType::Symlink) => mode,
            (SourceModes::Git, NodeType::Directory) => 0o755,
            (SourceModes::Git, _) if mode & 0o100 != 0 => 0o755,
            (SourceModes::Git, _) => 0o644,
        }
    }
}

/// A change of permission bits, to be applied to any number of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModeChange {
    /// These bits, whatever was there.
    Octal(u32),
    /// Changes to what is there, one after the other.
    Symbolic(Vec<Clause>),
}

/// One operation of a symbolic change: who, how, and which bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// Bits 0o700, 0o070 and 0o007 for user, group and others.
    who: u32,
    /// Bits that the operation does not touch although they are its own: the umask, if nobody is named.
    masked: u32,
    operator: Operator,
    bits: Bits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bits {
    /// Permissions: read, write and execution for all three; conditional execution; set-id; sticky.
    Named { rwx: u32, conditional: bool, set_id: bool, sticky: bool },
    /// What the user (6), the group (3) or others (0) have: how far their bits are shifted.
    CopyOf(u32),
}

/// What a clause that names nobody leaves alone.
const UMASK: u32 = 0o022;

impl ModeChange {
    /// Reads `0644` or `u=rwX,go=rX`.
    pub fn parse(text: &str) -> Result<ModeChange, SnapshotError> {
        let bad = || SnapshotError::BadMode(text.chars().take(100).collect());
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let octal = text.bytes().all(|c| matches!(c, b'0'..=b'7'));
            return match u32::from_str_radix(text, 8) {
                Ok(mode) if octal && mode <= 0o7777 => Ok(ModeChange::Octal(mode)),
                _ => Err(bad()),
            };
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            parse_clauses(part.as_bytes(), &mut clauses).ok_or_else(bad)?;
        }
        Ok(ModeChange::Symbolic(clauses))
    }

    /// The mode of a file or directory that had `mode`.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            ModeChange::Octal(mode) => *mode,
            ModeChange::Symbolic(clauses) => {
                clauses.iter().fold(mode, |mode, clause| clause.apply(mode, is_dir))
            }
        }
    }

    /// The mode of a directory that is made on the way: the nine lower bits of an octal change; a
    /// symbolic one has nothing to start from and leaves 0755.
    pub fn for_new_parents(&self) -> u32 {
        match self {
            ModeChange::Octal(mode) => mode & 0o777,
            ModeChange::Symbolic(_) => 0o755,
        }
    }
}

fn parse_clauses(part: &[u8], clauses: &mut Vec<Clause>) -> Option<()> {
    let names = part.iter().take_while(|c| b"ugoa".contains(c)).count();
    let mut who = part[..names].iter().fold(0, |who, c| {
        who | match c {
            b'u' => 0o700,
            b'g' => 0o070,
            b'o' => 0o007,
            _ => 0o777,
        }
    });
    let masked = if names == 0 { UMASK } else { 0 };
    if names == 0 {
        who = 0o777;
    }
    let mut rest = &part[names..];
    if rest.is_empty() {
        return None;
    }
    while let Some((operator, after)) = rest.split_first() {
        let operator = match operator {
            b'+' => Operator::Add,
            b'-' => Operator::Remove,
            b'=' => Operator::Set,
            _ => return None,
        };
        let length = after.iter().take_while(|c| !b"+-=".contains(c)).count();
        let bits = parse_bits(&after[..length])?;
        clauses.push(Clause { who, masked, operator, bits });
        rest = &after[length..];
    }
    Some(())
}

fn parse_bits(letters: &[u8]) -> Option<Bits> {
    match letters {
        b"u" => return Some(Bits::CopyOf(6)),
        b"g" => return Some(Bits::CopyOf(3)),
        b"o" => return Some(Bits::CopyOf(0)),
        _ => {}
    }
    let (mut rwx, mut conditional, mut set_id, mut sticky) = (0, false, false, false);
    for letter in letters {
        match letter {
            b'r' => rwx |= 0o444,
            b'w' => rwx |= 0o222,
            b'x' => rwx |= 0o111,
            b'X' => conditional = true,
            b's' => set_id = true,
            b't' => sticky = true,
            _ => return None,
        }
    }
    Some(Bits::Named { rwx, conditional, set_id, sticky })
}

impl Clause {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let mut special = 0;
        let rwx = match self.bits {
            Bits::CopyOf(shift) => (mode >> shift & 0o7) * 0o111,
            Bits::Named { rwx, conditional, set_id, sticky } => {
                if set_id && self.who & 0o700 != 0 {
                    special |= 0o4000;
                }
                if set_id && self.who & 0o070 != 0 {
                    special |= 0o2000;
                }
                if sticky && (self.who == 0o777 || self.who & 0o007 != 0) {
                    special |= 0o1000;
                }
                rwx | if conditional && (is_dir || mode & 0o111 != 0) { 0o111 } else { 0 }
            }
        };
        let bits = (rwx & self.who & !self.masked) | special;
        match self.operator {
            Operator::Add => mode | bits,
            Operator::Remove => mode & !bits,
            Operator::Set => mode & !(self.who | self.cleared_by_set(is_dir)) | bits,
        }
    }

    /// The special bits that `=` takes away: those of whom it names, but for a directory none, as
    /// chmod(1) has it.
    fn cleared_by_set(&self, is_dir: bool) -> u32 {
        if is_dir {
            return 0;
        }
        let bit = |who: u32, special: u32| if self.who & who != 0 { special } else { 0 };
        bit(0o700, 0o4000) | bit(0o070, 0o2000) | if self.who == 0o777 { 0o1000 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, from: u32, is_dir: bool, expect: u32) {
        let applied = ModeChange::parse(text).map(|change| change.apply(from, is_dir));
        assert_eq!(applied.ok().map(|mode| format!("{mode:o}")), Some(format!("{expect:o}")), "{text}");
    }

    #[test]
    fn octal_replaces_the_mode() {
        check("640", 0o7777, false, 0o640);
        check("07777", 0, true, 0o7777);
        check("0", 0o755, false, 0);
    }

    #[test]
    fn symbolic_starts_from_the_mode() {
        for (text, expect) in [
            ("+x", 0o753),
            ("a-r", 0o202),
            ("u=rwx,go=rx", 0o755),
            ("g=u", 0o662),
            ("o=", 0o640),
            ("u+s,g+s", 0o6642),
            ("+t", 0o1642),
            ("go-w+x", 0o651),
            ("a+X", 0o642),
            ("+w", 0o642),
        ] {
            check(text, 0o642, false, expect);
        }
    }

    #[test]
    fn conditional_execution_is_for_folders_and_programs() {
        check("u=rwX,go=rX", 0o740, false, 0o755);
        check("u=rwX,go=rX", 0o660, false, 0o644);
        check("u=rwX,go=rX", 0o500, true, 0o755);
        check("a+X", 0o500, true, 0o511);
        check("go-rwx", 0o740, false, 0o700);
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for bad in ["", "8", "10000", "0x1", "rwx", "u", "u=q", "u+r,", "z+x", "-1", "+1", "u=ug", "٣"] {
            assert!(ModeChange::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn git_sees_who_may_run_a_file_and_nothing_else() {
        for mode in [0o644, 0o600, 0o664, 0o666, 0o444, 0o4611] {
            assert_eq!(SourceModes::Git.of(mode, NodeType::File), 0o644, "{mode:o}");
        }
        for mode in [0o755, 0o700, 0o775, 0o100] {
            assert_eq!(SourceModes::Git.of(mode, NodeType::File), 0o755, "{mode:o}");
        }
        assert_eq!(SourceModes::Git.of(0o2700, NodeType::Directory), 0o755);
        assert_eq!(SourceModes::Git.of(0o777, NodeType::Symlink), 0o777);
        assert_eq!(SourceModes::Exact.of(0o2700, NodeType::Directory), 0o2700);
    }
}
