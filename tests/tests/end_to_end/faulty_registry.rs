//! `kiln pull`, `kiln push` and `kiln build --push` against a registry that fails in every way that real ones do.
//! Each case says which requests were sent, how it ended, that hardly a byte was moved twice, and that nobody saw
//! credentials that are not for him. With `--nocapture` each case is a line of a table.

mod pulls;
mod pushes;
mod trust;

use kiln_oci::Digest;
use kiln_tests::{BaseImage, FaultyRegistry, Finished, Invocation, LayerEntry, Parts, TestContext, Told};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `kiln` with the password `s3cret`, for every registry of these tests.
const LOGIN: &str = "a2lsbjpzM2NyZXQ=";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Bytes that nothing compresses, always the same for the same seed.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(bytes);
    out
}

/// An image of one layer of about so many bytes.
fn image(bytes: usize) -> Parts {
    BaseImage::of(&[LayerEntry::File("data", 0o644, noise(bytes, bytes as u64))]).parts()
}

/// The bytes of all that an image is made of.
fn needed(parts: &Parts) -> u64 {
    let all = parts.layers.iter().chain([&parts.config, &parts.manifest]);
    all.map(|bytes| bytes.len() as u64).sum()
}

/// Puts an image into a registry, as `a/b:1`.
fn serve(registry: &FaultyRegistry, parts: &Parts) {
    for bytes in parts.layers.iter().chain([&parts.config]) {
        registry.put_blob("a/b", bytes);
    }
    registry.put_manifest("a/b", "1", MANIFEST, &parts.manifest);
}

/// A command of somebody in a hurry.
fn hasty(command: Invocation) -> Invocation {
    command.env("KILN_RETRY", "5").env("KILN_RETRY_DELAY", "10ms").env("KILN_NETWORK_TIMEOUT", "10s")
}

/// A context of somebody who is logged in at a registry.
fn logged_in(registry: &FaultyRegistry) -> TestContext {
    let context = TestContext::new();
    let config = format!("{{\"auths\":{{\"{}\":{{\"auth\":\"{LOGIN}\"}}}}}}", registry.address());
    context.write_beside("home/.docker/config.json", config);
    context
}

/// 429, and to come back in a second or two, in one of the two forms.
fn told_to_wait(form: &str) -> Told {
    let wait = match form {
        "seconds" => "1".to_owned(),
        _ => http_date(SystemTime::now() + Duration::from_secs(2)),
    };
    Told::status(429).header("Retry-After", wait)
}

/// A time as HTTP writes it. Nobody looks at the day of the week.
fn http_date(time: SystemTime) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = time.duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs();
    let (mut day, mut year, mut month) = (seconds / 86_400, 1970, 0);
    loop {
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = [31, 28 + u64::from(is_leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month];
        if day < days {
            break;
        }
        day -= days;
        month += 1;
        (year, month) = (year + month / 12, month % 12);
    }
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("Mon, {:02} {} {year} {hour:02}:{minute:02}:{second:02} GMT", day + 1, MONTHS[month])
}

/// What a case must not do, as it is checked for every one.
struct Case<'a> {
    name: &'a str,
    registry: &'a FaultyRegistry,
    /// Another host, where it leads to one.
    elsewhere: Option<&'a FaultyRegistry>,
    /// The bytes that have to be moved.
    needed: u64,
    /// How many times as many may be.
    at_most: f64,
}

impl<'a> Case<'a> {
    fn new(name: &'a str, registry: &'a FaultyRegistry, needed: u64) -> Case<'a> {
        Case { name, registry, elsewhere: None, needed, at_most: 1.1 }
    }

    /// Looks at what was moved and who saw what, and prints the case's line.
    #[track_caller]
    fn ended(&self, finished: &Finished) {
        let others = self.elsewhere.map(|other| (other.recorded().len(), other.moved(), other.leaks(false)));
        let (requests, moved, leaks) = others.unwrap_or_default();
        let requests = requests + self.registry.recorded().len();
        let moved = moved + self.registry.moved();
        let leaks = leaks + self.registry.leaks(true);
        let last = finished.stderr.lines().rev().find(|line| line.contains("ERROR")).unwrap_or_default();
        let last = last.replace(self.registry.address(), "HOST");
        let end = if finished.code == Some(0) { "right".to_owned() } else { format!("3 {last}") };
        let mut line = format!("| {:<56} | {requests:>3} | {:>9} | {moved:>9} ", self.name, self.needed);
        let _ = write!(line, "| {leaks} | {:>5} ms | {} |", finished.took.as_millis(), end.trim_end());
        row(&line);
        assert_eq!(leaks, 0, "{}: credentials at a stranger's: {finished}", self.name);
        // A hundred bytes are an error's text.
        let most = (self.needed as f64 * self.at_most) as u64 + 100 * requests as u64;
        let lines = self.registry.lines();
        assert!(moved <= most, "{}: {moved} bytes of {}: {lines:#?} {finished}", self.name, self.needed);
    }
}

/// Prints a line of the table, and its head before the first.
#[expect(clippy::print_stdout, reason = "the table is for who runs it with --nocapture")]
fn row(line: &str) {
    static HEAD: std::sync::Once = std::sync::Once::new();
    HEAD.call_once(|| {
        let head = ["case", "req", "needed", "moved", "leaks", "took", "end"];
        println!("| {} |\n|{}", head.join(" | "), " --- |".repeat(head.len()));
    });
    println!("{line}");
}

/// Whether the store has these bytes as a blob, whole and right.
fn has_blob(context: &TestContext, bytes: &[u8]) -> bool {
    let path = context.store().join("content/blobs/sha256").join(Digest::of(bytes).hex());
    std::fs::read(path).is_ok_and(|kept| kept == bytes)
}

/// Checks every blob of a store against its name: nothing bad stays.
#[track_caller]
fn is_clean(context: &TestContext) {
    let folder = context.store().join("content");
    for entry in std::fs::read_dir(folder.join("blobs/sha256")).into_iter().flatten().flatten() {
        let bytes = std::fs::read(entry.path()).expect("a blob");
        assert_eq!(entry.file_name().to_string_lossy(), Digest::of(&bytes).hex().to_string());
    }
    let begun: Vec<_> = std::fs::read_dir(folder.join("ingest")).into_iter().flatten().flatten().collect();
    assert!(begun.is_empty(), "{begun:?}");
}
