//! Claims about what is at a path, and what is not, after it was written or not written to.

use super::*;
use std::io::Read;
use std::os::unix::fs::symlink;

struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture { folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn with(self, name: &str, content: &str) -> Fixture {
        std::fs::create_dir_all(folder_of(&self.path(name))).expect("a folder");
        std::fs::write(self.path(name), content).expect("a file");
        self
    }

    #[track_caller]
    fn check(&self, name: &str, content: &str) {
        let found = std::fs::read_to_string(self.path(name)).expect("a file");
        assert_eq!(found, content, "{name}");
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).expect("a folder").flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

#[test]
fn a_file_is_made_or_replaced_and_nothing_is_left_beside_it() {
    let here = Fixture::new().with("old", "old");
    std::fs::set_permissions(here.path("old"), Permissions::from_mode(0o600)).expect("a mode");
    for name in ["old", "new"] {
        assert!(write_whole(&here.path(name), b"now").is_ok());
        here.check(name, "now");
    }
    assert_eq!(here.names(), ["new", "old"]);
    let mode = |name| std::fs::metadata(here.path(name)).expect("a file").mode() & 0o777;
    assert_eq!(mode("old"), 0o600, "what was private stays so");
    std::fs::write(here.path("ordinary"), "").expect("a file");
    assert_eq!(mode("new"), mode("ordinary"));
}

#[test]
fn a_link_at_the_end_is_followed_even_where_it_leads_nowhere_yet() {
    let here = Fixture::new().with("real/there", "old");
    symlink("real/there", here.path("link")).expect("a link");
    symlink("link", here.path("link-to-link")).expect("a link");
    symlink("real/missing", here.path("dangling")).expect("a link");
    symlink("loop", here.path("loop")).expect("a link");
    assert!(write_whole(&here.path("link-to-link"), b"1").is_ok());
    assert!(write_whole(&here.path("dangling"), b"2").is_ok());
    assert!(write_whole(&here.path("loop"), b"3").is_err());
    here.check("real/there", "1");
    here.check("real/missing", "2");
    for link in ["link", "link-to-link", "dangling", "loop"] {
        assert!(here.path(link).is_symlink(), "{link}");
    }
}

#[test]
fn pipes_devices_and_descriptors_are_written_to_and_not_replaced() {
    let here = Fixture::new();
    assert!(write_whole(Path::new("/dev/null"), b"gone").is_ok());
    assert!(!std::fs::metadata("/dev/null").expect("a device").is_file());

    let (mut reader, writer) = io::pipe().expect("a pipe");
    symlink(format!("/proc/self/fd/{}", writer.as_raw_fd()), here.path("pipe")).expect("a link");
    assert!(write_whole(&here.path("pipe"), b"through").is_ok());
    drop(writer);
    let mut got = String::new();
    reader.read_to_string(&mut got).expect("the other end");
    assert_eq!(got, "through");
    assert!(here.path("pipe").is_symlink());

    let mut file = File::create(here.path("file")).expect("a file");
    file.write_all(b"first ").expect("written");
    let number = file.as_raw_fd();
    assert!(write_whole(Path::new(&format!("/dev/fd/{number}")), b"then").is_ok());
    here.check("file", "first then");
}

#[test]
fn what_fails_or_is_cancelled_leaves_what_was_there_and_nothing_else() {
    let here = Fixture::new().with("old", "old");
    let token = CancelToken::new();
    let failed = whole(Some(&here.path("old")), &token, |out| {
        out.write_all(b"half").map_err(WorkerError::io("write", "it"))?;
        assert_eq!(here.names(), ["old"], "what is unfinished has no name");
        Err(WorkerError::Panicked)
    });
    assert!(matches!(failed, Err(WorkerError::Panicked)));
    let cancelled = whole(Some(&here.path("old")), &token, |out| {
        token.cancel();
        out.write_all(b"half").map_err(WorkerError::io("write", "it"))
    });
    assert!(matches!(cancelled, Err(WorkerError::Canceled)));
    let late = CancelToken::new();
    let cancelled = whole(Some(&here.path("new")), &late, |_| {
        late.cancel();
        Ok(())
    });
    assert!(matches!(cancelled, Err(WorkerError::Canceled)));
    here.check("old", "old");
    assert_eq!(here.names(), ["old"]);
}

#[test]
fn a_file_system_without_nameless_files_is_written_to_all_the_same() {
    let here = Fixture::new().with("old", "old");
    let file = tempfile::Builder::new().prefix(PREFIX).tempfile_in(here.folder.path()).expect("a file");
    file.as_file().write_all(b"now").expect("written");
    assert!(Unfinished::Named(file).publish(&here.path("old")).is_ok());
    here.check("old", "now");
    assert_eq!(here.names(), ["old"]);
}

const SMALL: u64 = 1 << 16;

/// Adds a line to a file.
fn add(path: &Path, line: &str) -> Result<(), WorkerError> {
    change_whole(path, SMALL, |before| {
        let before = before.unwrap_or_default();
        // Whoever does not hold the lock by now would lose a line.
        std::thread::sleep(Duration::from_millis(2));
        Ok(Some([before, line.as_bytes(), b"\n"].concat()))
    })
}

#[test]
fn changes_at_once_lose_nothing_even_of_a_file_that_was_not_there() {
    let here = Fixture::new();
    std::fs::create_dir(here.path("real")).expect("a folder");
    symlink("real/file", here.path("link")).expect("a link");
    let paths = [here.path("link"), here.path("real/file")];
    std::thread::scope(|scope| {
        for i in 0..16 {
            let path = &paths[i % 2];
            scope.spawn(move || add(path, &i.to_string()).expect("a change"));
        }
    });
    let text = std::fs::read_to_string(here.path("real/file")).expect("a file");
    let mut lines: Vec<usize> = text.lines().map(|line| line.parse().expect("a number")).collect();
    lines.sort_unstable();
    assert_eq!(lines, (0..16).collect::<Vec<_>>());
    assert!(here.path("link").is_symlink());
    assert_eq!(here.names(), ["link", "real"]);
}

#[test]
fn a_change_keeps_mode_and_owner_and_one_that_changes_nothing_writes_nothing() {
    let here = Fixture::new().with("file", "");
    std::fs::set_permissions(here.path("file"), Permissions::from_mode(0o440)).expect("a mode");
    // Only root can make a file somebody else's.
    let given = std::os::unix::fs::chown(here.path("file"), Some(1234), Some(1234)).is_ok();
    add(&here.path("file"), "x").expect("a change");
    here.check("file", "x\n");
    let there = std::fs::metadata(here.path("file")).expect("a file");
    assert_eq!(there.mode() & 0o777, 0o440);
    assert!(!given || (there.uid(), there.gid()) == (1234, 1234));
    let same = change_whole(&here.path("file"), SMALL, |_| Ok::<_, WorkerError>(None));
    assert!(same.is_ok());
    assert_eq!(std::fs::metadata(here.path("file")).expect("a file").ino(), there.ino());
    let none = change_whole(&here.path("none"), SMALL, |before| {
        assert_eq!(before, None);
        Ok::<_, WorkerError>(None)
    });
    assert!(none.is_ok());
    assert_eq!(here.names(), ["file"]);
}

#[test]
fn only_files_of_a_sane_size_are_changed() {
    let here = Fixture::new().with("large", "12345");
    let change = |name: &str| {
        change_whole(&here.path(name), 4, |_| Ok::<_, WorkerError>(Some(b"x".to_vec())))
            .map_err(|e| e.to_string())
    };
    assert!(change("large").is_err_and(|e| e.contains("large")));
    assert!(change(".").is_err());
    here.check("large", "12345");
}
