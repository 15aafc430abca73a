//! Claims about eStargz layers, read back by a reader that knows the format's words alone.

use super::*;
use flate2::read::{GzDecoder, MultiGzDecoder};

fn entry<'e>(path: &'e [u8], kind: EntryKind<'e>, xattrs: &'e [(Vec<u8>, Vec<u8>)]) -> Entry<'e> {
    Entry { path, kind, mode: 0o644, uid: 7, gid: 8, mtime_s: 1_700_000_000, mtime_ns: 0, xattrs }
}

fn content(bytes: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b'a' + (state >> 28) as u8
    };
    std::iter::repeat_with(byte).take(bytes).collect()
}

/// A layer with all that there can be.
fn layer() -> Vec<u8> {
    let mut tar = LayerWriter::new(Vec::new());
    let mut add = |path: &str, kind, xattrs: &[(Vec<u8>, Vec<u8>)], bytes: &[u8]| {
        let mut bytes = bytes;
        tar.append(&entry(path.as_bytes(), kind, xattrs), &mut bytes).expect("an entry");
    };
    let file = |bytes: &[u8]| EntryKind::File { size_bytes: bytes.len() as u64 };
    let (small, large) = (content(700), content(2 * CHUNK_BYTES + 1234));
    add("d", EntryKind::Directory, &[], b"");
    add("d/small", file(&small), &[(b"user.x".to_vec(), b"\x01value".to_vec())], &small);
    add("d/empty", file(b""), &[], b"");
    add("d/.wh.gone", file(b""), &[], b"");
    add("d/large", file(&large), &[], &large);
    add("d/exact", file(&large[..CHUNK_BYTES]), &[], &large[..CHUNK_BYTES]);
    add("d/link", EntryKind::Symlink { target: b"small" }, &[], b"");
    add("d/second", EntryKind::Hardlink { target: b"d/small" }, &[], b"");
    add("d/null", EntryKind::CharDevice { major: 1, minor: 3 }, &[], b"");
    add("d/fifo", EntryKind::Fifo, &[], b"");
    let long = format!("d/{}", "long".repeat(60));
    add(&long, file(b"end"), &[], b"end");
    tar.finish().expect("a tar")
}

fn packed(tar: &[u8]) -> (Vec<u8>, Estargz) {
    let mut out = Vec::new();
    let made = write(&mut &tar[..], &mut out, 3).expect("a layer");
    (out, made)
}

fn toc_of(blob: &[u8]) -> (usize, Vec<u8>, Value) {
    let footer = &blob[blob.len() - 51..];
    assert_eq!(&footer[..4], [0x1f, 0x8b, 8, 4]);
    assert_eq!((&footer[12..14], &footer[32..38]), (&b"SG"[..], &b"STARGZ"[..]));
    let at =
        usize::from_str_radix(std::str::from_utf8(&footer[16..32]).expect("digits"), 16).expect("a place");
    let mut empty = Vec::new();
    GzDecoder::new(footer).read_to_end(&mut empty).expect("a gzip stream");
    assert!(empty.is_empty());
    let mut reader = LayerReader::new(GzDecoder::new(&blob[at..]));
    let entry = reader.next().expect("a tar").expect("the TOC");
    assert_eq!(entry.path, TOC_NAME.as_bytes());
    let mut toc = Vec::new();
    reader.read_to_end(&mut toc).expect("the TOC");
    let read = serde_json::from_slice(&toc).expect("JSON");
    (at, toc, read)
}

#[test]
fn every_file_is_found_and_inflated_by_itself() {
    let tar = layer();
    let (blob, made) = packed(&tar);
    let (_, toc, read) = toc_of(&blob);
    assert_eq!((Digest::of(&toc), &read["version"]), (made.toc, &json!(1)));
    let entries = read["entries"].as_array().expect("entries");
    let of = |name: &str| -> Vec<&Value> { entries.iter().filter(|e| e["name"] == name).collect() };
    let content_of = |name: &str| {
        let mut out = Vec::new();
        for chunk in of(name) {
            let Some(at) = chunk["offset"].as_u64() else { continue };
            let whole = of(name)[0]["size"].as_u64().expect("a size");
            let begins = chunk["chunkOffset"].as_u64().unwrap_or(0);
            let length = chunk["chunkSize"].as_u64().unwrap_or(whole - begins) as usize;
            let mut bytes = vec![0; length];
            GzDecoder::new(&blob[at as usize..]).read_exact(&mut bytes).expect("a chunk");
            assert_eq!(chunk["chunkDigest"], Digest::of(&bytes).to_string(), "{name} at {begins}");
            assert_eq!(begins, out.len() as u64);
            out.extend(bytes);
        }
        assert_eq!(of(name)[0]["digest"], Digest::of(&out).to_string(), "{name}");
        out
    };
    let (small, large) = (content(700), content(2 * CHUNK_BYTES + 1234));
    assert!(content_of("d/small") == small && content_of("d/large") == large);
    assert!(content_of("d/exact") == large[..CHUNK_BYTES] && content_of("d/empty").is_empty());
    assert_eq!(
        of("d/large").iter().map(|e| e["type"].as_str().expect("a type")).collect::<Vec<_>>(),
        ["reg", "chunk", "chunk"]
    );
    assert_eq!(of("d/small")[0]["xattrs"], json!({"user.x": "AXZhbHVl"}));
    assert_eq!((&of("d/small")[0]["mode"], &of("d/small")[0]["uid"]), (&json!(0o644), &json!(7)));
    assert_eq!(of("d/small")[0]["modtime"], "2023-11-14T22:13:20Z");
    assert_eq!(
        (&of("d/link")[0]["type"], &of("d/link")[0]["linkName"]),
        (&json!("symlink"), &json!("small"))
    );
    assert_eq!(of("d/second")[0]["type"], "hardlink");
    assert_eq!((&of("d/null")[0]["devMajor"], &of("d/null")[0]["devMinor"]), (&json!(1), &json!(3)));
    assert_eq!(content_of(&format!("d/{}", "long".repeat(60))), b"end");
}

#[test]
fn to_who_knows_nothing_of_it_it_is_gzip_of_the_same_tar() {
    let tar = layer();
    let (blob, made) = packed(&tar);
    let mut plain = Vec::new();
    MultiGzDecoder::new(&blob[..]).read_to_end(&mut plain).expect("a gzip stream");
    assert!(plain.starts_with(&tar));
    assert_eq!((Digest::of(&plain), plain.len() as u64), (made.tar, made.tar_bytes));
    let mut reader = LayerReader::new(&plain[..]);
    let mut paths = Vec::new();
    while let Some(entry) = reader.next().expect("a tar") {
        paths.push(String::from_utf8_lossy(&entry.path).into_owned());
    }
    assert!(paths.len() == 11 && !paths.iter().any(|path| path == TOC_NAME), "{paths:?}");
}

#[test]
fn the_same_layer_is_the_same_blob_whatever_the_threads_and_reads() {
    /// Gives a byte or two at a time.
    struct Slow<'t>(&'t [u8]);
    impl Read for Slow<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = buf.len().min(1 + self.0.len() % 2).min(self.0.len());
            self.0.read(&mut buf[..n])
        }
    }
    let tar = layer();
    let (blob, _) = packed(&tar);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool");
    assert!(pool.install(|| packed(&tar).0) == blob);
    let mut slow = Vec::new();
    write(&mut Slow(&tar[..tar.len()]), &mut slow, 3).expect("a layer");
    assert!(slow == blob);
    assert_eq!(Digest::of(&blob).hex(), GOLDEN);
}

const GOLDEN: &str = "e895ff32421b1a8496f398f4c8a07bd4783f8209483a574c7dfd18aefc53d7ce";

#[test]
fn what_can_not_be_in_one_is_refused() {
    let mut tar = LayerWriter::new(Vec::new());
    let path = TOC_NAME.as_bytes();
    tar.append(&entry(path, EntryKind::File { size_bytes: 1 }, &[]), &mut &b"x"[..]).expect("an entry");
    let tar = tar.finish().expect("a tar");
    let error = write(&mut &tar[..], &mut Vec::new(), 3).expect_err("it is refused");
    assert!(error.to_string().contains("name of the TOC"), "{error}");
    let cut = &layer()[..5000];
    assert!(write(&mut &cut[..], &mut Vec::new(), 3).is_err());
}
