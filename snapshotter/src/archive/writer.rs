//! Writes a layer's tar: the same entries always give the same bytes, those that Go's `archive/tar` gives
//! BuildKit and containerd. A member is plain ustar if that holds it, else a PAX header with sorted keys
//! goes before it; never GNU's forms.
//! It does not know where entries come from, nor in which order they belong.

use super::entry::{Entry, EntryKind};
use super::header::{
    self, BLOCK_BYTES, DEVMAJOR, DEVMINOR, Field, GID, HeaderBuilder, LINKNAME, MODE, MTIME, NAME,
    NAME_BYTES, PREFIX, PREFIX_BYTES, SIZE, UID,
};
use super::pax::{self, METADATA_BYTES_MAX, Records};
use std::io::{self, Read, Write};

const COPY_BYTES: usize = 128 << 10;
const NANOSECONDS: u32 = 1_000_000_000;

/// Writes members one after the other.
pub struct LayerWriter<W> {
    inner: W,
    /// Bytes of the current file that are still to come.
    due: u64,
    /// Zeros that follow the current file.
    padding: usize,
    buffer: Vec<u8>,
}

impl<W: Write> LayerWriter<W> {
    /// Writes to `inner`, in pieces as small as a block: a buffer below may pay.
    pub fn new(inner: W) -> LayerWriter<W> {
        LayerWriter { inner, due: 0, padding: 0, buffer: Vec::new() }
    }

    /// Writes a member; `content` must hold exactly as many bytes as a file's entry says, and none for
    /// anything else. After an error the archive is of no use.
    pub fn append(&mut self, entry: &Entry<'_>, content: &mut dyn Read) -> io::Result<()> {
        self.begin(entry)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(COPY_BYTES, 0);
        loop {
            let n = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) => return Err(err),
            };
            self.write_content(&buffer[..n])?;
        }
        self.buffer = buffer;
        self.end()
    }

    /// Writes a member without content.
    pub fn append_empty(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        self.begin(entry)?;
        self.end()
    }

    /// Writes a member's headers; its content follows by `write_content`, then `end`.
    pub fn begin(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        if self.due > 0 || self.padding > 0 {
            return Err(invalid(entry.path, "the file before it was not ended"));
        }
        check(entry)?;
        let member = Member::of(entry);
        let records = member.records(entry)?;
        // A path that can be split needs no record of its own, unless there must be records anyway.
        let split = if records.is_empty() { split_path(&member.path) } else { None };
        if split.is_none() {
            self.write_records(&member, records)?;
        }
        let mut block = HeaderBuilder::new(member.typeflag);
        match split {
            Some((prefix, name)) => block.text(NAME, name).text(PREFIX, prefix),
            None => block.text(NAME, &ascii(&member.path)),
        };
        block.text(LINKNAME, &ascii(&member.target));
        block.number(MODE, entry.mode.into()).number(UID, entry.uid.into()).number(GID, entry.gid.into());
        block.number(SIZE, member.size).number(MTIME, u64::try_from(entry.mtime_s).unwrap_or(u64::MAX));
        block.number(DEVMAJOR, member.device.0.into()).number(DEVMINOR, member.device.1.into());
        self.inner.write_all(block.finish())?;
        self.due = member.size;
        self.padding = padding(member.size);
        Ok(())
    }

    /// Writes a piece of the current file's content.
    pub fn write_content(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(due) = self.due.checked_sub(bytes.len() as u64) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more content than the entry's size"));
        };
        self.inner.write_all(bytes)?;
        self.due = due;
        Ok(())
    }

    /// Ends the current member.
    pub fn end(&mut self) -> io::Result<()> {
        if self.due > 0 {
            let text = format!("{} bytes of content missing to the entry's size", self.due);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        let padding = std::mem::take(&mut self.padding);
        self.inner.write_all(&[0; BLOCK_BYTES][..padding])
    }

    /// Ends the archive and gives back the writer below, not flushed.
    pub fn finish(mut self) -> io::Result<W> {
        self.end()?;
        self.inner.write_all(&[0; 2 * BLOCK_BYTES])?;
        Ok(self.inner)
    }

    fn write_records(&mut self, member: &Member<'_>, mut records: Records) -> io::Result<()> {
        if needs_record(&member.path) {
            records.insert(b"path", &member.path);
        }
        if records.is_empty() {
            return Ok(());
        }
        let body = records.encode();
        if body.len() > METADATA_BYTES_MAX {
            return Err(invalid(&member.path, "its names and extended attributes exceed 1 MiB"));
        }
        let mut name = ascii(&records_name(&member.path));
        name.truncate(NAME_BYTES);
        let keep = name.iter().rposition(|&c| c != b'/').map_or(0, |at| at + 1);
        let mut block = HeaderBuilder::new(b'x');
        block.text(NAME, &name[..keep]).number(SIZE, body.len() as u64);
        for field in [MODE, UID, GID, MTIME] {
            block.number(field, 0);
        }
        self.inner.write_all(block.finish())?;
        self.inner.write_all(&body)?;
        self.inner.write_all(&[0; BLOCK_BYTES][..padding(body.len() as u64)])
    }
}

/// An entry in a header's terms.
struct Member<'a> {
    typeflag: u8,
    path: Vec<u8>,
    target: std::borrow::Cow<'a, [u8]>,
    size: u64,
    device: (u32, u32),
}

impl<'a> Member<'a> {
    fn of(entry: &Entry<'a>) -> Member<'a> {
        let (typeflag, target, size, device): (_, &'a [u8], _, _) = match entry.kind {
            EntryKind::File { size_bytes } => (b'0', &[], size_bytes, (0, 0)),
            EntryKind::Hardlink { target } => (b'1', target, 0, (0, 0)),
            EntryKind::Symlink { target } => (b'2', target, 0, (0, 0)),
            EntryKind::CharDevice { major, minor } => (b'3', &[], 0, (major, minor)),
            EntryKind::BlockDevice { major, minor } => (b'4', &[], 0, (major, minor)),
            EntryKind::Directory => (b'5', &[], 0, (0, 0)),
            EntryKind::Fifo => (b'6', &[], 0, (0, 0)),
        };
        let mut path = entry.path.to_vec();
        if path.is_empty() {
            path.push(b'.');
        }
        if entry.kind == EntryKind::Directory {
            path.push(b'/');
        }
        Member { typeflag, path, target: target.into(), size, device }
    }

    /// The records that the entry cannot do without, save that of its path.
    fn records(&self, entry: &Entry<'_>) -> io::Result<Records> {
        let mut records = Records::default();
        if needs_record(&self.target) {
            records.insert(b"linkpath", &self.target);
        }
        let numbers: [(&[u8], Field, u64); 3] =
            [(b"uid", UID, entry.uid.into()), (b"gid", GID, entry.gid.into()), (b"size", SIZE, self.size)];
        for (key, field, value) in numbers {
            if !header::fits_octal(field, value) {
                records.insert(key, value.to_string().as_bytes());
            }
        }
        let fits = u64::try_from(entry.mtime_s).is_ok_and(|time| header::fits_octal(MTIME, time));
        if !fits || entry.mtime_ns > 0 {
            records.insert(b"mtime", pax::format_time(entry.mtime_s, entry.mtime_ns).as_bytes());
        }
        for (name, value) in entry.xattrs {
            if name.is_empty() || name.iter().any(|c| matches!(c, b'=' | 0)) {
                return Err(invalid(entry.path, "a tar cannot hold the name of its extended attribute"));
            }
            records.insert(&[pax::XATTR_PREFIX, name].concat(), value);
        }
        // The splitting of a path is of no use once it can't be told without a record.
        if needs_record(&self.path) && split_path(&self.path).is_none() {
            records.insert(b"path", &self.path);
        }
        Ok(records)
    }
}

fn check(entry: &Entry<'_>) -> io::Result<()> {
    let path = entry.path;
    let (target, needs_target): (&[u8], _) = match entry.kind {
        EntryKind::Symlink { target } | EntryKind::Hardlink { target } => (target, true),
        _ => (&[], false),
    };
    let device = match entry.kind {
        EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => major.max(minor),
        _ => 0,
    };
    let size = if let EntryKind::File { size_bytes } = entry.kind { size_bytes } else { 0 };
    let why = if path.is_empty() && entry.kind != EntryKind::Directory {
        "only a directory can be the root"
    } else if path.starts_with(b"/") || path.ends_with(b"/") {
        "its path starts or ends with a slash"
    } else if path.contains(&0) || target.contains(&0) {
        "its path or target holds a NUL"
    } else if needs_target && target.is_empty() {
        "it links to nothing"
    } else if entry.mode > 0o7777 {
        "its mode holds more than permissions"
    } else if entry.mtime_ns >= NANOSECONDS {
        "its nanoseconds make a second"
    } else if !header::fits_octal(DEVMAJOR, device.into()) {
        "its device numbers are too great for a tar"
    } else if i64::try_from(size).is_err() {
        "its size is too great for a tar"
    } else if !entry.xattrs.is_sorted_by(|a, b| a.0 < b.0) {
        "its extended attributes are not sorted or not distinct"
    } else {
        return Ok(());
    };
    Err(invalid(path, why))
}

fn invalid(path: &[u8], why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("`{}`: {why}", path.escape_ascii()))
}

/// Zeros to the end of the block.
fn padding(size: u64) -> usize {
    (size.wrapping_neg() % BLOCK_BYTES as u64) as usize
}

/// Whether a path or a link's target can't stand in its header field.
fn needs_record(text: &[u8]) -> bool {
    text.len() > NAME_BYTES || !text.is_ascii()
}

/// `text` without the bytes that are not ASCII.
fn ascii(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(u8::is_ascii).collect()
}

/// Prefix and name of a path that is too long for the name alone, if it can be split at a slash.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= NAME_BYTES || !path.is_ascii() {
        return None;
    }
    let searched = if path.len() > PREFIX_BYTES + 1 {
        PREFIX_BYTES + 1
    } else {
        path.len() - usize::from(path.ends_with(b"/"))
    };
    let slash = path[..searched].iter().rposition(|&c| c == b'/')?;
    let name = &path[slash + 1..];
    (slash > 0 && !name.is_empty() && name.len() <= NAME_BYTES).then_some((&path[..slash], name))
}

/// The name of a member's extended header: `PaxHeaders.0` between its folder and its name.
fn records_name(path: &[u8]) -> Vec<u8> {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let cut = path.iter().rposition(|&c| c == b'/').map_or(0, |at| at + 1);
    let (folder, name) = path.split_at(cut);
    let mut out = [folder, b"PaxHeaders.0"].concat();
    if !name.is_empty() {
        out.push(b'/');
        out.extend_from_slice(name);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_oci::Digest;

    fn file(path: &[u8], size_bytes: u64) -> Entry<'_> {
        let kind = EntryKind::File { size_bytes };
        Entry { path, kind, mode: 0o644, uid: 0, gid: 0, mtime_s: 1, mtime_ns: 0, xattrs: &[] }
    }

    fn written(entry: &Entry<'_>) -> Vec<u8> {
        let mut writer = LayerWriter::new(Vec::new());
        writer.append_empty(entry).unwrap_or_else(|err| panic!("{err}"));
        writer.finish().unwrap_or_else(|err| panic!("{err}"))
    }

    #[test]
    fn a_plain_member_is_one_ustar_block() {
        let tar = written(&file(b"etc/motd", 0));
        assert_eq!(tar.len(), 3 * 512);
        assert_eq!(&tar[..9], b"etc/motd\0");
        assert_eq!(
            &tar[100..157],
            b"0000644\x000000000\x000000000\x0000000000000\x0000000000001\x00010635\x00 0".as_slice()
        );
        assert_eq!(&tar[257..265], b"ustar\x0000");
        assert_eq!(&tar[329..345], b"0000000\x000000000\x00");
    }

    #[test]
    fn what_ustar_cannot_hold_goes_to_sorted_records() {
        let name = [b"d/".repeat(60).as_slice(), b"n"].concat();
        // Long, but it can be split.
        let tar = written(&file(&name, 0));
        assert_eq!((tar[156], tar.len()), (b'0', 3 * 512));
        assert_eq!(&tar[345..347], b"d/");
        // Long and with another record: both are written.
        let xattrs = [(b"user.b".to_vec(), b"\n\0=".to_vec())];
        let tar = written(&Entry { uid: 2_097_152, mtime_s: -1, xattrs: &xattrs, ..file(&name, 0) });
        assert_eq!(tar[156], b'x');
        let mut want = b"27 SCHILY.xattr.user.b=\n\0=\n12 mtime=-1\n131 path=".to_vec();
        want.extend_from_slice(&name);
        want.extend_from_slice(b"\n15 uid=2097152\n");
        assert!(tar[512..].starts_with(&want), "{}", tar[512..1024].escape_ascii());
        assert_eq!(&tar[1024 + 108..1024 + 116], b"0000000\0");
    }

    #[test]
    fn bytes_of_a_known_layer_never_change() {
        let long = vec![b'x'; 300];
        let xattrs = [(b"security.capability".to_vec(), b"\x01\0\0\x02\n\0".to_vec())];
        let mut writer = LayerWriter::new(Vec::new());
        let dir = Entry { kind: EntryKind::Directory, mode: 0o1777, ..file(b"tmp", 0) };
        writer.append_empty(&dir).ok();
        writer.append(&file(b"tmp/a", 5), &mut &b"hello"[..]).ok();
        writer.append_empty(&Entry { kind: EntryKind::Hardlink { target: b"tmp/a" }, ..file(b"b", 0) }).ok();
        writer.append_empty(&Entry { kind: EntryKind::Symlink { target: &long }, ..file(b"l", 0) }).ok();
        writer.append_empty(&Entry { xattrs: &xattrs, mtime_ns: 5, ..file(b"caf\xc3\xa9", 0) }).ok();
        let kind = EntryKind::CharDevice { major: 1, minor: 3 };
        writer.append_empty(&Entry { kind, ..file(b"null", 0) }).ok();
        let tar = writer.finish().unwrap_or_default();
        assert_eq!(
            Digest::of(&tar).hex(),
            "90cf0947c8e29d5fe74d413f7419ef448e6d50e24abd6ee20dfabd28d3733124"
        );
    }

    #[test]
    fn content_that_does_not_fit_its_size_is_an_error() {
        for content in [&b"1234"[..], b"123456"] {
            let mut writer = LayerWriter::new(Vec::new());
            assert!(writer.append(&file(b"f", 5), &mut { content }).is_err());
            assert!(writer.begin(&file(b"g", 5)).is_err());
        }
    }

    #[test]
    fn entries_that_no_tar_can_hold_are_refused() {
        let bad_name = [(b"user.a=b".to_vec(), vec![])];
        let twice = [(b"user.a".to_vec(), vec![]), (b"user.a".to_vec(), vec![])];
        let huge = [(b"user.a".to_vec(), vec![0; METADATA_BYTES_MAX])];
        for entry in [
            file(b"", 0),
            file(b"/etc", 0),
            file(b"etc/", 0),
            file(b"a\0b", 0),
            file(b"a", u64::MAX),
            Entry { mode: 0o100_644, ..file(b"a", 0) },
            Entry { kind: EntryKind::Symlink { target: b"" }, ..file(b"a", 0) },
            Entry { kind: EntryKind::CharDevice { major: 1 << 21, minor: 0 }, ..file(b"a", 0) },
            Entry { xattrs: &bad_name, ..file(b"a", 0) },
            Entry { xattrs: &twice, ..file(b"a", 0) },
            Entry { xattrs: &huge, ..file(b"a", 0) },
        ] {
            let mut writer = LayerWriter::new(Vec::new());
            assert!(writer.append_empty(&entry).is_err(), "{entry:?}");
        }
    }
}
