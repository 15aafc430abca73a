//! One member of a layer, as it is handed to the writer and as it comes from the reader.
//! It does not know how either is spelled in a tar header.

/// A member to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The path below the root: no slash at either end, not necessarily UTF-8. Empty only for the root
    /// directory itself.
    pub path: &'a [u8],
    /// What it is.
    pub kind: EntryKind<'a>,
    /// Permission bits with set-user-id, set-group-id and sticky: at most 0o7777.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The modification time in seconds since 1970; may be negative.
    pub mtime_s: i64,
    /// The nanoseconds to add to `mtime_s`; zero keeps the time in the plain header.
    pub mtime_ns: u32,
    /// Extended attributes, sorted by name, each name once.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// What a member to be written is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind<'a> {
    /// A regular file; whiteouts are empty ones.
    File {
        /// The length of its content.
        size_bytes: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// What it points to, as written in the link.
        target: &'a [u8],
    },
    /// Another name for a member that was written before.
    Hardlink {
        /// The path of that member, in the form of `Entry::path`.
        target: &'a [u8],
    },
    /// A character device.
    CharDevice {
        /// The driver's number.
        major: u32,
        /// The device's number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// The driver's number.
        major: u32,
        /// The device's number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// A member that was read. Nothing in it is cleaned: paths and targets are what the archive says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedEntry {
    /// The path as written: it may be absolute, empty, end in a slash, or hold `..`. It holds no NUL.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: OwnedKind,
    /// The mode's lower twelve bits.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The modification time in seconds since 1970; may be negative.
    pub mtime_s: i64,
    /// The nanoseconds to add to `mtime_s`.
    pub mtime_ns: u32,
    /// Extended attributes, sorted by name, each name once.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The length of the content with its holes; zero for all but files.
    pub size_bytes: u64,
    /// Whether the content was stored with holes.
    pub sparse: bool,
}

/// What a member that was read is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnedKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link with its target as written.
    Symlink {
        /// What it points to.
        target: Vec<u8>,
    },
    /// Another name for an earlier member.
    Hardlink {
        /// The path of that member as written.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// The driver's number.
        major: u32,
        /// The device's number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// The driver's number.
        major: u32,
        /// The device's number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}
