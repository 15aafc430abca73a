//! What a build may not leave behind: processes and mounts. It does not end or unmount anything.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A word that no other test and no other run of the tests uses: written into the command of a RUN,
/// it finds that command's processes.
pub fn unique(word: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    format!("{word}-{}-{nanos}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The processes of this machine whose command line contains `marker`, as `pid: command line`.
pub fn processes_naming(marker: &str) -> Vec<String> {
    let Ok(folder) = std::fs::read_dir("/proc") else { return Vec::new() };
    folder
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains(marker).then(|| format!("{pid}: {line}"))
        })
        .collect()
}

/// The mounts below `folder` that this process sees, a line of `mountinfo` each.
pub fn mounts_below(folder: &Path) -> Vec<String> {
    let folder = folder.to_string_lossy();
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    table.lines().filter(|line| line.contains(folder.as_ref())).map(str::to_owned).collect()
}

/// Asks `condition` again and again until it holds or the time is over; says whether it held.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
