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
