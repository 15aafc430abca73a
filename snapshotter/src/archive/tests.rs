//! Claims about reading and writing, against Python's tarfile and GNU tar, and against archives that lie.

use super::header::{self, HeaderBuilder};
use super::*;
use proptest::prelude::*;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};

type Read1 = (OwnedEntry, Vec<u8>);

fn read_all(tar: &[u8]) -> Result<Vec<Read1>, ArchiveError> {
    let mut reader = LayerReader::new(tar);
    let mut out = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        assert_eq!(content.len() as u64, entry.size_bytes);
        out.push((entry, content));
    }
    Ok(out)
}

fn good(tar: &[u8]) -> Vec<Read1> {
    read_all(tar).unwrap_or_else(|err| panic!("{err}"))
}

fn run(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|err| panic!("{program}: {err}"));
    let mut stdin = child.stdin.take().unwrap_or_else(|| panic!("no pipe"));
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).ok());
        child.wait_with_output()
    });
    let output = output.unwrap_or_else(|err| panic!("{program}: {err}"));
    assert!(output.status.success(), "{program} {args:?}");
    output.stdout
}

fn entry<'a>(path: &'a [u8], kind: EntryKind<'a>) -> Entry<'a> {
    Entry { path, kind, mode: 0o644, uid: 0, gid: 0, mtime_s: 1_700_000_000, mtime_ns: 0, xattrs: &[] }
}

const FILE: EntryKind<'static> = EntryKind::File { size_bytes: 0 };

/// What the reader should say of an entry that was written.
fn as_read(entry: &Entry<'_>) -> OwnedEntry {
    let mut path = entry.path.to_vec();
    if entry.kind == EntryKind::Directory {
        path.push(b'/');
    }
    let (kind, size_bytes) = match entry.kind {
        EntryKind::File { size_bytes } => (OwnedKind::File, size_bytes),
        EntryKind::Directory => (OwnedKind::Directory, 0),
        EntryKind::Symlink { target } => (OwnedKind::Symlink { target: target.to_vec() }, 0),
        EntryKind::Hardlink { target } => (OwnedKind::Hardlink { target: target.to_vec() }, 0),
        EntryKind::CharDevice { major, minor } => (OwnedKind::CharDevice { major, minor }, 0),
        EntryKind::BlockDevice { major, minor } => (OwnedKind::BlockDevice { major, minor }, 0),
        EntryKind::Fifo => (OwnedKind::Fifo, 0),
    };
    let Entry { mode, uid, gid, mtime_s, mtime_ns, .. } = *entry;
    let xattrs = entry.xattrs.to_vec();
    OwnedEntry { path, kind, mode, uid, gid, mtime_s, mtime_ns, xattrs, size_bytes, sparse: false }
}

fn write_all(entries: &[(Entry<'_>, &[u8])]) -> Vec<u8> {
    let mut writer = LayerWriter::new(Vec::new());
    for (entry, content) in entries {
        writer.append(entry, &mut &content[..]).unwrap_or_else(|err| panic!("{entry:?}: {err}"));
    }
    writer.finish().unwrap_or_else(|err| panic!("{err}"))
}

const LIST: &str = r#"
import sys, tarfile
tar = tarfile.open(fileobj=sys.stdin.buffer, mode='r|', errors='surrogateescape', encoding='utf-8')
raw = lambda text: text.encode('utf-8', 'surrogateescape').hex()
for m in tar:
    content = tar.extractfile(m).read().hex() if m.isreg() else ''
    xattrs = [(raw(k[13:]), raw(v)) for k, v in m.pax_headers.items() if k.startswith('SCHILY.xattr.')]
    xattrs = ','.join(k + '=' + v for k, v in sorted(xattrs))
    device = (m.devmajor, m.devminor) if m.isdev() and not m.isfifo() else (0, 0)
    print(m.type.decode(), raw(m.name), raw(m.linkname), m.size, oct(m.mode), m.uid, m.gid,
          '%.3f' % m.mtime, *device, 'x' + xattrs, 'c' + content)
"#;

/// The line that the script above prints for an entry.
fn listed(entry: &Entry<'_>, content: &[u8]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (flag, target, device): (_, &[u8], _) = match entry.kind {
        EntryKind::File { .. } => (0, b"", (0, 0)),
        EntryKind::Hardlink { target } => (1, target, (0, 0)),
        EntryKind::Symlink { target } => (2, target, (0, 0)),
        EntryKind::CharDevice { major, minor } => (3, b"", (major, minor)),
        EntryKind::BlockDevice { major, minor } => (4, b"", (major, minor)),
        EntryKind::Directory => (5, b"", (0, 0)),
        EntryKind::Fifo => (6, b"", (0, 0)),
    };
    let xattrs: Vec<_> = entry.xattrs.iter().map(|(k, v)| format!("{}={}", hex(k), hex(v))).collect();
    let time = entry.mtime_s as f64 + f64::from(entry.mtime_ns) / 1e9;
    format!(
        "{flag} {} {} {} 0o{:o} {} {} {time:.3} {} {} x{} c{}\n",
        hex(entry.path),
        hex(target),
        content.len(),
        entry.mode,
        entry.uid,
        entry.gid,
        device.0,
        device.1,
        xattrs.join(","),
        hex(content)
    )
}

#[test]
fn python_lists_what_was_written_and_so_do_we() {
    let long = [b"directory/".repeat(30).as_slice(), b"file"].concat();
    let split = [b"directory/".repeat(12).as_slice(), b"file"].concat();
    let wide = [b'w'; 255];
    let xattrs = [
        (b"security.capability".to_vec(), b"\x01\0\0\x02\n\0\n\0".to_vec()),
        (b"user.empty".to_vec(), vec![]),
        (b"user.text".to_vec(), b"a=b\n12 path=evil\n".to_vec()),
    ];
    let content = vec![7; 1025];
    let sized = EntryKind::File { size_bytes: 1025 };
    let entries: Vec<(Entry<'_>, &[u8])> = vec![
        (Entry { mode: 0o1777, ..entry(b"tmp", EntryKind::Directory) }, b""),
        (Entry { mode: 0o4755, ..entry(b"tmp/su", sized) }, &content),
        (Entry { xattrs: &xattrs, mtime_ns: 250_000_000, ..entry(b"tmp/cap", sized) }, &content),
        (entry(&long, sized), &content),
        (entry(&split, sized), &content),
        (entry(&split[..split.len() - 5], EntryKind::Directory), b""),
        (entry(&wide, FILE), b""),
        (entry(b"caf\xc3\xa9", FILE), b""),
        (entry(b"latin\xe9\xff", FILE), b""),
        (entry(b"new\nline", FILE), b""),
        (entry(b"l", EntryKind::Symlink { target: &long }), b""),
        (entry(b"m", EntryKind::Symlink { target: b"\xff/../.." }), b""),
        (entry(b"h", EntryKind::Hardlink { target: &long }), b""),
        (entry(b"c", EntryKind::CharDevice { major: 4095, minor: 1_048_575 }), b""),
        (entry(b"b", EntryKind::BlockDevice { major: 8, minor: 1 }), b""),
        (entry(b"p", EntryKind::Fifo), b""),
        (Entry { uid: u32::MAX - 1, gid: 2_097_152, ..entry(b"big", FILE) }, b""),
        (Entry { uid: 2_097_151, gid: 2_097_151, ..entry(b"fits", FILE) }, b""),
        (Entry { mtime_s: -2, mtime_ns: 500_000_000, ..entry(b"old", FILE) }, b""),
        (Entry { mtime_s: -1, ..entry(b"older", FILE) }, b""),
        (Entry { mtime_s: 1 << 33, ..entry(b"late", FILE) }, b""),
        (Entry { mtime_s: 1 << 40, ..entry(b"later", FILE) }, b""),
        (entry(b"dir/.wh.gone", FILE), b""),
    ];
    let tar = write_all(&entries);
    let want: String = entries.iter().map(|(entry, content)| listed(entry, content)).collect();
    assert_eq!(String::from_utf8_lossy(&run("python3", &["-c", LIST], &tar)), want);
    let read = good(&tar);
    assert_eq!(read.len(), entries.len());
    for ((got, got_content), (entry, content)) in read.iter().zip(&entries) {
        assert_eq!((got, got_content.as_slice()), (&as_read(entry), *content));
    }
    let names = run("tar", &["-tf", "-", "--quoting-style=literal"], &tar);
    let paths: Vec<u8> = read.iter().flat_map(|(entry, _)| [&entry.path[..], b"\n"].concat()).collect();
    assert_eq!(names.escape_ascii().to_string(), paths.escape_ascii().to_string());
}

#[test]
fn a_file_of_more_than_8_gib_is_measured_by_a_record() {
    let size_bytes = 9 << 30;
    let mut tar = Vec::new();
    let mut writer = LayerWriter::new(&mut tar);
    writer.begin(&entry(b"f", EntryKind::File { size_bytes })).unwrap_or_else(|err| panic!("{err}"));
    assert!(writer.end().is_err());
    let mut reader = LayerReader::new(tar.chain(io::repeat(0).take(size_bytes + 1024)));
    assert_eq!(reader.next().ok().flatten().map(|entry| entry.size_bytes), Some(size_bytes));
    assert_eq!(tar[512..].split(|&c| c == b'\n').next(), Some(&b"19 size=9663676416"[..]));
}

const MAKE: &str = r#"
import io, sys, tarfile
format = getattr(tarfile, sys.argv[1])
tar = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=format,
                   pax_headers={'comment': 'global'} if format == tarfile.PAX_FORMAT else {})
def add(name, type=tarfile.REGTYPE, content=b'', **fields):
    m = tarfile.TarInfo(name)
    m.type, m.size, m.uname, m.gname = type, len(content), 'someone', 'staff'
    for key, value in fields.items(): setattr(m, key, value)
    tar.addfile(m, io.BytesIO(content))
add('d', tarfile.DIRTYPE, mode=0o755)
add('d/f', content=b'x' * 700, mode=0o4755, uid=1000, gid=50, mtime=1234567890)
add('d/' + 'n' * 90, content=b'y')
add('prefix/' * 20 + 'name', content=b'z')
add('s', tarfile.SYMTYPE, linkname='t' * 90)
add('h', tarfile.LNKTYPE, linkname='d/f')
add('c', tarfile.CHRTYPE, devmajor=1, devminor=3)
add('b', tarfile.BLKTYPE, devmajor=7, devminor=0)
add('p', tarfile.FIFOTYPE)
if format != tarfile.USTAR_FORMAT:
    add('l' * 300, content=b'long')
    add('caf\u00e9', tarfile.SYMTYPE, linkname='\u00e9' * 200)
    add('big', uid=3000000000, gid=2097152, mtime=8589934592 * 2)
if format == tarfile.PAX_FORMAT:
    add('frac', mtime=1.5)
tar.close()
"#;

#[test]
fn archives_of_python_in_all_formats_are_read() {
    for format in ["USTAR_FORMAT", "GNU_FORMAT", "PAX_FORMAT"] {
        let read = good(&run("python3", &["-c", MAKE, format], b""));
        let find = |path: &[u8]| {
            let found = read.iter().find(|(entry, _)| entry.path == path);
            found.unwrap_or_else(|| panic!("{format}: {}", path.escape_ascii()))
        };
        assert_eq!(find(b"d/").0.kind, OwnedKind::Directory);
        let (file, content) = find(b"d/f");
        assert_eq!((file.mode, file.uid, file.gid, file.mtime_s), (0o4755, 1000, 50, 1_234_567_890));
        assert_eq!(content, &[b'x'; 700]);
        assert_eq!(find(&[b"prefix/".repeat(20).as_slice(), b"name"].concat()).1, b"z");
        assert_eq!(find(b"s").0.kind, OwnedKind::Symlink { target: vec![b't'; 90] });
        assert_eq!(find(b"h").0.kind, OwnedKind::Hardlink { target: b"d/f".to_vec() });
        assert_eq!(find(b"c").0.kind, OwnedKind::CharDevice { major: 1, minor: 3 });
        assert_eq!(find(b"b").0.kind, OwnedKind::BlockDevice { major: 7, minor: 0 });
        assert_eq!(find(b"p").0.kind, OwnedKind::Fifo);
        if format == "USTAR_FORMAT" {
            continue;
        }
        assert_eq!(find(&[b'l'; 300]).1, b"long");
        let target = "\u{e9}".repeat(200).into_bytes();
        assert_eq!(find("caf\u{e9}".as_bytes()).0.kind, OwnedKind::Symlink { target });
        let big = &find(b"big").0;
        assert_eq!((big.uid, big.gid, big.mtime_s), (3_000_000_000, 2_097_152, 1 << 34));
        if format == "PAX_FORMAT" {
            assert_eq!((find(b"frac").0.mtime_s, find(b"frac").0.mtime_ns), (1, 500_000_000));
        }
    }
}

/// A folder with a file of many holes, and that file's content.
fn holes(folder: &std::path::Path, pieces: u64) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(folder.join("holes"))?;
    file.set_len(pieces * 65_536 + 5000)?;
    for piece in 0..pieces {
        file.write_all_at(&[piece as u8 + 1; 3000], piece * 65_536 + 4096)?;
    }
    std::fs::write(folder.join("after"), "after")?;
    std::fs::read(folder.join("holes"))
}

#[test]
fn sparse_files_of_gnu_tar_are_read_in_all_versions() {
    let folder = tempfile::tempdir().unwrap_or_else(|err| panic!("{err}"));
    for pieces in [0, 1, 3, 4, 5, 30, 200] {
        let content = holes(folder.path(), pieces).unwrap_or_else(|err| panic!("{err}"));
        for args in [
            &["--format=gnu"][..],
            &["--format=pax", "--sparse-version=0.0"],
            &["--format=pax", "--sparse-version=0.1"],
            &["--format=pax", "--sparse-version=1.0"],
        ] {
            let place = folder.path().to_string_lossy();
            let all = [&["-cS", "-f", "-", "-C", &place][..], args, &["holes", "after"]].concat();
            let tar = run("tar", &all, b"");
            assert!(tar.len() < content.len() / 2 || pieces == 0, "{args:?} is not sparse");
            let read = good(&tar);
            assert_eq!(read[0].0.path, b"holes", "{args:?}");
            assert!(read[0].0.sparse, "{args:?}");
            assert!(read[0].1 == content, "{args:?} {pieces}");
            assert_eq!(read[1].1, b"after", "{args:?}");
            check_pieces(&tar, &content);
        }
    }
}

/// Reads the first file by its pieces only.
fn check_pieces(tar: &[u8], content: &[u8]) {
    let mut reader = LayerReader::new(tar);
    reader.next().unwrap_or_else(|err| panic!("{err}"));
    let stored: u64 = reader.segments().iter().map(|segment| segment.length).sum();
    let mut rebuilt = vec![0; content.len()];
    let mut buf = [0; 700];
    let mut total = 0;
    while let Some((offset, n)) = reader.read_data(&mut buf).unwrap_or_else(|err| panic!("{err}")) {
        rebuilt[offset as usize..][..n].copy_from_slice(&buf[..n]);
        total += n as u64;
    }
    assert!(rebuilt == content && total == stored);
    assert_eq!(reader.read(&mut buf).ok(), Some(0));
    assert!(reader.next().is_ok_and(|entry| entry.is_some_and(|entry| entry.path == b"after")));
}

/// A member in raw form: header fields as they are given, then the body.
fn raw(typeflag: u8, name: &[u8], size: u64, body: &[u8]) -> Vec<u8> {
    let mut block = HeaderBuilder::new(typeflag);
    block.text(header::NAME, name).number(header::MODE, 0o644).number(header::SIZE, size);
    block.number(header::UID, 0).number(header::GID, 0).number(header::MTIME, 0);
    let mut out = block.finish().to_vec();
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn pax(records: &[u8]) -> Vec<u8> {
    raw(b'x', b"PaxHeaders.0/f", records.len() as u64, records)
}

/// An extended header with these records, in this order, which may repeat a key.
fn records(typeflag: u8, texts: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for text in texts {
        let rest = text.len() + 2;
        let length = (rest..).find(|length| rest + length.to_string().len() == *length).unwrap_or(0);
        body.extend_from_slice(format!("{length} {text}\n").as_bytes());
    }
    raw(typeflag, b"PaxHeaders.0/f", body.len() as u64, &body)
}

fn resummed(mut member: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    member[at..at + bytes.len()].copy_from_slice(bytes);
    member[148..156].fill(b' ');
    let sum: u32 = member[..512].iter().map(|&byte| u32::from(byte)).sum();
    member[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    member
}

#[test]
fn a_size_in_a_record_rules_what_is_read_and_what_is_skipped() {
    let hidden = raw(b'0', b"hidden", 0, b"");
    let next = raw(b'0', b"next", 0, b"");
    for header_size in [0, 512, 1] {
        let tar = [pax(b"12 size=512\n"), raw(b'0', b"f", header_size, &hidden), next.clone()].concat();
        let read = good(&tar);
        assert_eq!(read.len(), 2, "{header_size}");
        assert_eq!((&read[0].1, &read[1].0.path[..]), (&hidden, &b"next"[..]));
        // The records are of the member, not of the long name between.
        let long = raw(b'L', b"././@LongLink", 2, b"g\0");
        let tar = [pax(b"12 size=512\n"), long, raw(b'0', b"f", header_size, &hidden), next.clone()].concat();
        assert_eq!(good(&tar)[0].0.path, b"g");
        assert_eq!(good(&tar)[1].0.path, b"next");
    }
    let tar = [pax(b"10 size=0\n"), raw(b'0', b"f", 512, &hidden), next].concat();
    let paths: Vec<_> = good(&tar).into_iter().map(|(entry, _)| entry.path).collect();
    assert_eq!(paths, [&b"f"[..], b"hidden", b"next"]);
}

#[test]
fn a_value_with_line_feeds_does_not_hide_the_records_after_it() {
    let mut records = pax::Records::default();
    records.insert(b"SCHILY.xattr.security.capability", b"\x01\0\0\x02\n12 size=99\n\0");
    records.insert(b"size", b"3");
    let tar = [pax(&records.encode()), raw(b'0', b"f", 0, b"abc")].concat();
    let read = good(&tar);
    assert_eq!(read[0].1, b"abc");
    assert_eq!(read[0].0.xattrs[0].1, b"\x01\0\0\x02\n12 size=99\n\0");
}

#[test]
fn contradictions_and_impossible_numbers_are_refused() {
    let file = raw(b'0', b"f", 0, b"");
    let long = |typeflag, name: &[u8]| raw(typeflag, b"././@LongLink", name.len() as u64, name);
    let x = |texts: &[&str]| records(b'x', texts);
    let negative: &[u8] = &[0xff; 8];
    let huge = b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff";
    let device = resummed(raw(b'3', b"c", 0, b""), 329, negative);
    for (tar, why) in [
        ([x(&["size=1", "size=2"]), file.clone()].concat(), "a key twice"),
        ([x(&["path=a\0b"]), file.clone()].concat(), "a NUL"),
        ([x(&["linkpath=a\0b"]), file.clone()].concat(), "a NUL"),
        ([long(b'L', b"a"), x(&["path=b"]), file.clone()].concat(), "two names"),
        ([long(b'K', b"a"), x(&["linkpath=b"]), file.clone()].concat(), "two names"),
        ([long(b'L', b"a"), long(b'L', b"a"), file.clone()].concat(), "two headers of one kind"),
        ([x(&["uid=1"]), x(&["uid=1"]), file.clone()].concat(), "two headers of one kind"),
        ([records(b'g', &["size=9"]), file.clone()].concat(), "a global header"),
        ([records(b'g', &["path=b"]), file.clone()].concat(), "a global header"),
        ([x(&["uid=-1"]), file.clone()].concat(), "invalid uid"),
        ([x(&["size=9223372036854775808"]), file.clone()].concat(), "invalid size"),
        (resummed(file.clone(), 108, negative), "invalid uid"),
        (resummed(file.clone(), 124, &[0xff; 12]), "invalid size"),
        (resummed(file.clone(), 108, b"\x80\0\0\x01\0\0\0\0"), "invalid uid"),
        (resummed(file.clone(), 124, huge), "invalid size"),
        (device, "invalid devmajor"),
        (resummed(file.clone(), 124, b"0x000000000\0"), "invalid size"),
        (raw(b'V', b"label", 0, b""), "type V"),
        (raw(b'M', b"f", 0, b""), "type M"),
        ([&file[..4], b"x", &file[5..]].concat(), "not a tar header at byte 0"),
        ([&[0; 512][..], &file].concat(), "not a tar header at byte 512"),
        (x(&["uid=100"]), "truncated"),
        (raw(b'x', b"x", 1 << 21, b""), "exceeds 1048576"),
        (raw(b'0', b"f", 1 << 30, b"x"), "truncated"),
        ([x(&["GNU.sparse.size=10"]), file.clone()].concat(), "no map"),
        ([x(&["GNU.sparse.major=2"]), file.clone()].concat(), "unknown version"),
        ([x(&["GNU.sparse.map=0,1", "GNU.sparse.size=1"]), file.clone()].concat(), "what is stored"),
        ([x(&["GNU.sparse.map=5,1", "GNU.sparse.size=1"]), file.clone()].concat(), "beyond its end"),
        ([x(&["GNU.sparse.major=1", "GNU.sparse.size=1"]), file.clone()].concat(), "malformed"),
    ] {
        match read_all(&tar) {
            Ok(_) => panic!("not refused: {why}"),
            Err(err) => assert!(err.to_string().contains(why), "{err}, not {why}"),
        }
    }
    let negative_time = resummed(file.clone(), 136, &[0xff; 12]);
    assert_eq!(good(&negative_time)[0].0.mtime_s, -1);
    let global = [raw(b'g', b"g", 9, b"9 uid=77\n"), file].concat();
    assert_eq!(good(&global)[0].0.uid, 0);
}

#[test]
fn only_files_have_content() {
    for typeflag in *b"123456" {
        let tar = [raw(typeflag, b"d/", 512, b""), raw(b'0', b"f", 0, b"")].concat();
        assert_eq!(good(&tar).len(), 2, "{}", typeflag as char);
    }
    assert_eq!(good(&raw(0, b"d/", 0, b""))[0].0.kind, OwnedKind::Directory);
    for typeflag in *b"\x007" {
        assert_eq!(good(&raw(typeflag, b"f", 1, b"x"))[0].1, b"x");
    }
    assert_eq!(good(&raw(b'0', b"", 0, b""))[0].0.path, b"");
}

#[test]
fn the_end_may_be_missing_or_followed_by_anything() {
    let file = raw(b'0', b"f", 600, &[1; 600]);
    assert_eq!(good(&file).len(), 1);
    assert_eq!(good(&file[..512 + 600]).len(), 1, "without padding");
    assert!(read_all(&file[..512 + 599]).is_err());
    assert!(read_all(&file[..512 + 601]).is_err());
    assert_eq!(good(&[&file[..], &[0; 512]].concat()).len(), 1);
    let mut more = [&file[..], &[0; 1024], b"garbage"].concat();
    more.resize(more.len() + 1_000_000, 9);
    let mut source = CountingReader(more.as_slice(), 0);
    let mut reader = LayerReader::new(&mut source);
    while reader.next().is_ok_and(|entry| entry.is_some()) {}
    assert!(reader.finish().is_ok());
    assert_eq!(source.1, more.len());
    assert_eq!(good(b"").len(), 0);
}

struct CountingReader<'a>(&'a [u8], usize);

impl Read for CountingReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(buf)?;
        self.1 += n;
        Ok(n)
    }
}

/// A small archive with all that can precede or follow a header.
fn small() -> Vec<u8> {
    let xattrs = [(b"user.a".to_vec(), b"b\n".to_vec())];
    let entries: [(Entry<'_>, &[u8]); 4] = [
        (entry(b"d", EntryKind::Directory), b""),
        (Entry { xattrs: &xattrs, ..entry(b"d/f", EntryKind::File { size_bytes: 600 }) }, &[1; 600]),
        (entry(&[b'l'; 120], EntryKind::Symlink { target: b"t" }), b""),
        (entry(b"d/g", EntryKind::File { size_bytes: 3 }), b"abc"),
    ];
    let mut tar = raw(b'L', b"././@LongLink", 4, b"long");
    tar.extend(raw(b'0', b"short", 2, b"ab"));
    tar.extend(records(b'x', &["GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.realsize=1000"]));
    tar.extend(raw(b'0', b"s", 515, &[&b"1\n900\n3\n"[..], &[0; 504], b"xyz"].concat()));
    tar.extend(write_all(&entries));
    tar
}

#[test]
fn every_truncation_is_an_error_or_a_prefix() {
    let tar = small();
    let all = good(&tar);
    assert_eq!(all.len(), 6);
    for length in 0..tar.len() {
        match read_all(&tar[..length]) {
            Ok(read) => assert!(all.starts_with(&read), "{length}"),
            Err(ArchiveError::Truncated) => {}
            Err(ArchiveError::Io(err)) if err.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(err) => panic!("{length}: {err}"),
        }
    }
}

#[test]
fn archives_are_recognised_by_their_first_bytes() {
    let tar = small();
    assert!(sniff::is_tar(&tar) && !sniff::is_tar(&tar[..511]) && !sniff::is_tar(&[0; 1024]));
    assert!(sniff::is_archive(&tar[..]).is_ok_and(|is| is));
    for (program, want) in [
        ("gzip", crate::compress::Compression::Gzip),
        ("bzip2", crate::compress::Compression::Bzip2),
        ("xz", crate::compress::Compression::Xz),
        ("zstd", crate::compress::Compression::Zstd),
    ] {
        let packed = run(program, &["-c"], &tar);
        assert_eq!(sniff::detect(&packed[..sniff::PREFIX_BYTES]), want);
        assert!(sniff::is_archive(&packed[..]).is_ok_and(|is| is), "{program}");
        assert!(sniff::is_archive(&packed[..30]).is_ok_and(|is| !is), "{program}");
        assert!(sniff::is_archive(&run(program, &["-c"], b"text")[..]).is_ok_and(|is| !is));
    }
    for text in [&b""[..], b"#!/bin/sh\n", &[b'a'; 2000], b"\x1f\x8b\x08 not gzip"] {
        assert!(sniff::is_archive(text).is_ok_and(|is| !is));
    }
}

fn check_never_panics(tar: &[u8]) {
    let mut reader = LayerReader::new(tar);
    let mut buf = [0; 4096];
    for _ in 0..100 {
        match reader.next() {
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return,
        }
        // Holes may be endless; a few reads of each kind will do.
        for _ in 0..4 {
            let _ = reader.read(&mut buf);
            let _ = reader.read_data(&mut buf);
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        check_never_panics(&bytes);
    }

    #[test]
    fn no_change_to_an_archive_makes_the_reader_panic(
        changes in proptest::collection::vec((0_usize..8000, any::<u8>()), 1..20),
    ) {
        let mut tar = small();
        for (at, byte) in changes {
            let at = at % tar.len();
            tar[at] = byte;
            // Headers with the right sum get further.
            let block = at / 512 * 512;
            if &tar[block + 257..block + 262] == b"ustar" {
                tar = [&tar[..block], &resummed(tar[block..].to_vec(), 0, b"")].concat();
            }
        }
        check_never_panics(&tar);
    }

    #[test]
    fn records_with_any_bytes_never_panic(body in "([0-9]{1,3} [a-zGNUsparse.]{1,12}=[0-9,]{0,5}\n){0,6}") {
        let _ = pax::parse(body.as_bytes());
        check_never_panics(&[pax(body.as_bytes()), small()].concat());
    }

    #[test]
    fn what_is_written_is_read(
        path in "[a-z\u{e9}/]{1,300}",
        target in proptest::collection::vec(1_u8.., 1..300),
        uid in any::<u32>(),
        mtime_s in -(1_i64 << 40)..1 << 40,
        mtime_ns in 0_u32..1_000_000_000,
        value in proptest::collection::vec(any::<u8>(), 0..200),
        content in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        let path: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
        let path = path.join("/").into_bytes();
        prop_assume!(!path.is_empty());
        let xattrs = [(b"user.x".to_vec(), value)];
        let size_bytes = content.len() as u64;
        let file = Entry { uid, mtime_s, mtime_ns, xattrs: &xattrs, ..entry(&path, EntryKind::File { size_bytes }) };
        let entries = [(file, &content[..]), (entry(&path, EntryKind::Symlink { target: &target }), b"")];
        for ((got, got_content), (entry, content)) in good(&write_all(&entries)).iter().zip(&entries) {
            prop_assert_eq!(got, &as_read(entry));
            prop_assert_eq!(&got_content[..], *content);
        }
    }
}
