//! Claims about compression, against the programs gzip, zstd, bzip2 and xz.

use super::gzip::GzipWriter;
use super::*;
use kiln_oci::Digest;
use std::collections::HashMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Text, noise and runs, always the same.
fn sample(bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes + 64);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    while out.len() < bytes {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        match seed % 7 {
            0 => out.extend_from_slice(&seed.to_le_bytes()),
            1 => out.extend(std::iter::repeat_n(0, (seed >> 40) as usize % 200)),
            2 => {
                let from = out.len().saturating_sub((seed >> 32) as usize % 40_000 + 1);
                let to = (from + 200).min(out.len());
                out.extend_from_within(from..to);
            }
            word => {
                writeln!(out, "/usr/lib/word{word}/{}", seed >> 54).ok();
            }
        }
    }
    out.truncate(bytes);
    out
}

/// Bytes of which none tells of another, always the same.
fn noise(bytes: usize) -> Vec<u8> {
    let mut seed = 1_u64;
    let next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 56) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

fn piped(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
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

fn decoded(bytes: &[u8], compression: Compression) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    decoder(bytes, compression)?.read_to_end(&mut out)?;
    Ok(out)
}

fn gzipped(content: &[u8], level: u32, piece: usize) -> Vec<u8> {
    let mut writer = GzipWriter::new(Vec::new(), level, None).unwrap_or_else(|err| panic!("{err}"));
    for piece in content.chunks(piece) {
        writer.write_all(piece).unwrap_or_else(|err| panic!("{err}"));
        writer.flush().unwrap_or_else(|err| panic!("{err}"));
    }
    writer.finish().unwrap_or_else(|err| panic!("{err}")).0
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap_or_else(|err| panic!("{err}"))
}

#[test]
fn gzip_of_a_known_input_never_changes() {
    let content = sample(5_000_000);
    let made = GOLDEN_GZIP.map(|(level, _)| (level, Digest::of(&gzipped(&content, level, 1 << 16)).hex()));
    assert_eq!(made, GOLDEN_GZIP.map(|(level, hex)| (level, hex.to_owned())));
}

const GOLDEN_GZIP: [(u32, &str); 4] = [
    (0, "e9e3e095309b7f8d2dbafb9d6fea81c905946783e8ec2e1a4e46cfdb9ff3c574"),
    (1, "efc1ae84c62625eb3e0d86bdd5c26c93a9fcc0b5c490053722eecade1592f1ef"),
    (6, "141c703b16eb1ac4865bfb614a61e881a8fee3abb3f49db549b2dd0bb3310e41"),
    (9, "8f4840881b327add17734eea6fb3c55071bc123a57034b8b4b4058db93044040"),
];

/// Keeps the blocks of the streams that it is told of.
#[derive(Debug, Default)]
struct Kept {
    blocks: Mutex<HashMap<Digest, Vec<u8>>>,
    found: AtomicUsize,
}

impl Kept {
    fn keep(&self, stream: &[u8], blocks: &[PackedBlock]) {
        let mut all = self.blocks.lock().unwrap_or_else(|err| panic!("{err}"));
        for block in blocks {
            let bytes = &stream[block.at as usize..][..block.bytes as usize];
            assert!(block.is(bytes));
            all.insert(block.key, bytes.to_vec());
        }
    }
}

impl Blocks for Kept {
    fn find(&self, key: &Digest, bytes: &mut Vec<u8>) -> bool {
        let all = self.blocks.lock().unwrap_or_else(|err| panic!("{err}"));
        let Some(known) = all.get(key) else { return false };
        self.found.fetch_add(1, Ordering::Relaxed);
        bytes.clear();
        bytes.extend_from_slice(known);
        true
    }
}

fn gzipped_by(kept: &Arc<Kept>, content: &[u8]) -> (Vec<u8>, Vec<PackedBlock>) {
    let writer = GzipWriter::new(Vec::new(), 6, Some(kept.clone() as Arc<dyn Blocks>));
    let written = writer.and_then(|mut writer| {
        writer.write_all(content)?;
        writer.finish()
    });
    written.unwrap_or_else(|err| panic!("{err}"))
}

#[test]
fn what_was_compressed_before_is_not_compressed_again_and_the_bytes_are_the_same() {
    let kept = Arc::new(Kept::default());
    let before = sample(12 << 20);
    let (stream, blocks) = gzipped_by(&kept, &before);
    assert!(stream == gzipped(&before, 6, 1 << 16) && blocks.len() >= 12, "{}", blocks.len());
    kept.keep(&stream, &blocks);
    // A file of three units less and another of two more: all else has moved.
    let mut after = before;
    after.drain(1_000_448..1_000_448 + 3 * 512);
    let more = sample(4 << 20)[3 << 20..][..1024].to_vec();
    after.splice(5_000_192..5_000_192, more);
    let (stream, blocks) = gzipped_by(&kept, &after);
    assert!(stream == gzipped(&after, 6, 1 << 16));
    let found = kept.found.load(Ordering::Relaxed);
    assert!(blocks.len() - found <= 6, "{found} of {}", blocks.len());
    assert!(decoded(&stream, Compression::Gzip).is_ok_and(|plain| plain == after));
}

#[test]
fn noise_is_stored_and_what_only_seems_to_be_noise_is_not() {
    let noise = noise(6 << 20);
    let packed = gzipped(&noise, 6, 1 << 20);
    assert!(
        packed.len() > noise.len() && packed.len() < noise.len() + noise.len() / 4000,
        "{}",
        packed.len()
    );
    let hex: Vec<u8> = noise.iter().map(|byte| b'a' + byte % 16).collect();
    assert!(gzipped(&hex, 6, 1 << 20).len() < hex.len() * 6 / 10);
    let base64: Vec<u8> = noise.iter().map(|byte| b' ' + byte % 64).collect();
    assert!(gzipped(&base64, 6, 1 << 20).len() < base64.len() * 8 / 10);
    // The same noise again and again, so that every byte is as likely as any other.
    let again = noise[..4 << 10].repeat(600);
    assert!(gzipped(&again, 6, 1 << 20).len() < again.len() / 10);
    // Half of it noise.
    let half: Vec<u8> = noise.chunks(100_000).flat_map(|part| [part, &[7; 100_000]].concat()).collect();
    assert!(gzipped(&half, 6, 1 << 20).len() < half.len() * 6 / 10);
}

#[test]
fn gzip_depends_on_neither_threads_nor_writes() {
    let content = sample(4 << 20);
    let want = gzipped(&content, 6, content.len());
    assert_eq!(gzipped(&content, 6, 777), want);
    // On a thread of the pool itself, even if it is the only one.
    for threads in [1, 2, 5] {
        assert!(pool(threads).install(|| gzipped(&content, 6, 100_000)) == want, "{threads} threads");
    }
}

#[test]
fn a_pool_of_many_threads_holds_no_more_blocks_than_one_of_few() {
    let pool = pool(100);
    pool.install(|| {
        let mut writer = GzipWriter::new(Vec::new(), 9, None).unwrap_or_else(|err| panic!("{err}"));
        let content = sample(8 << 20);
        for _ in 0..8 {
            writer.write_all(&content).unwrap_or_else(|err| panic!("{err}"));
            assert!(writer.on_their_way() <= 32, "{}", writer.on_their_way());
        }
    });
}

#[test]
fn gzip_writers_on_all_threads_of_a_pool_do_not_wait_for_each_other() {
    let content = sample(3 << 20);
    let want = gzipped(&content, 1, content.len());
    let pool = pool(2);
    pool.scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|_| assert!(gzipped(&content, 1, 65_536) == want));
        }
    });
}

#[test]
fn gzip_is_read_by_gzip_at_all_lengths_around_the_block() {
    let all = sample((3 << 20) + 1);
    for length in
        [0, 1, 511, (1 << 18) - 1, 1 << 18, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20, (3 << 20) + 1]
    {
        for level in [0, 1, 3, 6, 9] {
            let packed = gzipped(&all[..length], level, 1 << 18);
            assert!(piped("gzip", &["-dc"], &packed) == all[..length], "{length} {level}");
            assert!(decoded(&packed, Compression::Gzip).is_ok_and(|plain| plain == all[..length]));
        }
    }
}

#[test]
fn noise_grows_by_little_at_every_level() {
    let noise = noise(2 << 20);
    for level in 0..=9 {
        let packed = gzipped(&noise, level, 1 << 20);
        assert!(packed.len() < noise.len() + noise.len() / 8, "{level}: {}", packed.len());
        assert!(decoded(&packed, Compression::Gzip).is_ok_and(|plain| plain == noise));
    }
}

/// Takes a few bytes, then fails.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(buf.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_error_below_stops_the_gzip_stream() {
    let content = sample(40 << 20);
    let result = GzipWriter::new(Full(1 << 20), 1, None).and_then(|mut writer| {
        writer.write_all(&content)?;
        writer.finish().map(|_| ())
    });
    assert_eq!(result.map_err(|err| err.kind()), Err(io::ErrorKind::StorageFull));
}

#[test]
fn zstd_depends_on_neither_workers_nor_writes() {
    let content = sample(11 << 20);
    let with = |workers, piece| {
        let mut encoder = encode::zstd_encoder(Vec::new(), 3, workers).unwrap_or_else(|err| panic!("{err}"));
        for piece in content.chunks(piece) {
            encoder.write_all(piece).unwrap_or_else(|err| panic!("{err}"));
        }
        encoder.finish().unwrap_or_else(|err| panic!("{err}"))
    };
    let want = with(1, content.len());
    assert!(with(2, content.len()) == want && with(4, 1234) == want && with(0, 99_999) == want);
    assert_eq!(Digest::of(&want).hex(), "f6b6d9559d75bd151d4ef01a6e796a60b6e3ec3e80bf085d576d87daca544ed2");
    assert!(piped("zstd", &["-dc"], &want) == content);
}

#[test]
fn encoders_write_what_decoders_read() {
    for content in [sample(0), sample(1), sample(3_000_000)] {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let packed = Encoder::new(Vec::new(), compression, None).and_then(|mut encoder| {
                encoder.write_all(&content)?;
                encoder.flush()?;
                encoder.finish()
            });
            let packed = packed.unwrap_or_else(|err| panic!("{err}"));
            assert!(decoded(&packed, compression).is_ok_and(|plain| plain == content));
        }
    }
    for (compression, level) in
        [(Compression::Xz, None), (Compression::Gzip, Some(10)), (Compression::Zstd, Some(99))]
    {
        assert!(Encoder::new(Vec::new(), compression, level).is_err());
    }
}

#[test]
fn streams_of_other_programs_are_read() {
    let content = sample(3_000_000);
    for (compression, program, args) in [
        (Compression::Gzip, "gzip", &["-9c"][..]),
        (Compression::Zstd, "zstd", &["-19c"]),
        (Compression::Bzip2, "bzip2", &["-c"]),
        (Compression::Xz, "xz", &["-c"]),
        (Compression::Xz, "xz", &["-0c", "--check=crc32"]),
        (Compression::Xz, "xz", &["-9c", "--check=sha256"]),
        (Compression::Xz, "xz", &["-c", "--check=none", "--block-size=100000"]),
        (Compression::Xz, "xz", &["-c", "-T2", "--block-size=1000000"]),
        (Compression::Xz, "xz", &["-c", "--lzma2=dict=4096,lc=0,lp=4,pb=4,nice=273"]),
        (Compression::Xz, "xz", &["-c", "--lzma2=dict=64KiB,lc=4,lp=0,pb=0,mode=fast"]),
    ] {
        let packed = piped(program, args, &content);
        assert_eq!(crate::archive::sniff::detect(&packed), compression);
        assert!(decoded(&packed, compression).is_ok_and(|plain| plain == content), "{program} {args:?}");
        // Two streams, one after the other.
        let twice = [packed.clone(), packed].concat();
        let plain = decoded(&twice, compression).unwrap_or_default();
        assert!(plain.len() == 2 * content.len() && plain.ends_with(&content), "{program} {args:?}");
    }
}

#[test]
fn stored_chunks_and_empty_streams_of_xz_are_read() {
    let mut noise = gzipped(&sample(3_000_000), 9, 1 << 20);
    noise.extend_from_within(..);
    assert!(decoded(&piped("xz", &["-c"], &noise), Compression::Xz).is_ok_and(|plain| plain == noise));
    let empty = piped("xz", &["-c"], b"");
    assert!(decoded(&empty, Compression::Xz).is_ok_and(|plain| plain.is_empty()));
    let padded = [&empty[..], &[0; 8], &empty].concat();
    assert!(decoded(&padded, Compression::Xz).is_ok_and(|plain| plain.is_empty()));
    assert!(decoded(&[&empty[..], &[0; 3]].concat(), Compression::Xz).is_err());
}

#[test]
fn every_truncation_is_an_error() {
    let content = sample(3000);
    let gzip = gzipped(&content, 6, 3000);
    let zstd = piped("zstd", &["-c"], &content);
    let bzip2 = piped("bzip2", &["-c"], &content);
    let xz = piped("xz", &["-c"], &content);
    for (compression, packed) in [
        (Compression::Gzip, gzip),
        (Compression::Zstd, zstd),
        (Compression::Bzip2, bzip2),
        (Compression::Xz, xz),
    ] {
        for length in 1..packed.len() {
            assert!(decoded(&packed[..length], compression).is_err(), "{compression:?} {length}");
        }
        assert!(decoded(&packed, compression).is_ok(), "{compression:?}");
    }
}

#[test]
fn behind_gzip_only_zeros_are_tolerated() {
    let packed = gzipped(b"content", 6, 7);
    let zeros = [&packed[..], &[0; 70_000]].concat();
    assert_eq!(decoded(&zeros, Compression::Gzip).ok().as_deref(), Some(&b"content"[..]));
    for garbage in [&b"garbage"[..], b"\0\0x", b"\x1f\x8b"] {
        assert!(decoded(&[&packed[..], garbage].concat(), Compression::Gzip).is_err());
    }
}

#[test]
fn damaged_xz_gives_an_error_or_the_content_but_no_panic() {
    let content = sample(20_000);
    let packed = piped("xz", &["-c"], &content);
    for at in 0..packed.len() {
        let mut damaged = packed.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(decoded(&damaged, Compression::Xz).is_err(), "{at}");
    }
}
