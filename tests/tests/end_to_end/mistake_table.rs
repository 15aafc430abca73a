//! The table of mistakes: each file of `tests/mistakes` holds a build that goes wrong, or that warns, and
//! what kiln says of it, word for word. `UPDATE_GOLDEN=1` writes what it says now.
//!
//! ```text
//! -- args --          more arguments, one in each line
//! -- Dockerfile --    and other files of the context; `{base}` is busybox, `{registry}` its registry
//! -- expected --      `exit N`, then standard error; `{context}` is the context's folder
//! ```

use super::busybox;
use kiln_tests::{Registry, TestContext};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many mistakes the table has at the least.
const MISTAKES_MIN: usize = 100;
/// How many are tried at once: some wait for a network that does not answer.
const THREADS: usize = 8;

fn table() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("mistakes");
    let entries = std::fs::read_dir(&folder).expect("tests/mistakes");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// The sections of a file: name and text.
fn sections(text: &str) -> Vec<(&str, String)> {
    let mut sections: Vec<(&str, String)> = Vec::new();
    for line in text.split_inclusive('\n') {
        let name = line.trim_end().strip_prefix("-- ").and_then(|rest| rest.strip_suffix(" --"));
        match (name, sections.last_mut()) {
            (Some(name), _) => sections.push((name, String::new())),
            (None, Some((_, body))) => body.push_str(line),
            (None, None) => panic!("a section must come first"),
        }
    }
    sections
}

/// What kiln says of a mistake, in the form of the section `expected`.
fn told(sections: &[(&str, String)]) -> String {
    let context = TestContext::new();
    let registry = Registry::shared().address();
    let mut args = vec!["build".to_owned(), "--progress=none".to_owned()];
    for (name, body) in sections {
        let body = body.replace("{base}", &busybox()).replace("{registry}", registry);
        match *name {
            "args" => args.extend(body.lines().map(str::to_owned)),
            "expected" => {}
            name => drop(context.write(name, body)),
        }
    }
    args.push(context.text("ctx"));
    // Nothing of the internet is asked for, wherever the test runs.
    let (dead, near) = ("http://127.0.0.1:1", "127.0.0.1,localhost");
    let mut kiln = context.kiln(&args);
    for (name, value) in
        [("HTTPS_PROXY", dead), ("https_proxy", dead), ("NO_PROXY", near), ("no_proxy", near)]
    {
        kiln = kiln.env(name, value);
    }
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        kiln = kiln.env_remove(name);
    }
    let finished = kiln.run();
    let said = finished.stderr.replace(&busybox(), "{base}").replace(registry, "{registry}");
    let said = said.replace(&context.text("ctx"), "{context}");
    let said: Vec<&str> = said.lines().map(str::trim_end).collect();
    format!("exit {}\n{}\n", finished.code.unwrap_or(-1), said.join("\n"))
}

/// What a file says otherwise than kiln; nothing once it was updated.
fn difference(file: &Path, update: bool) -> Option<String> {
    let text = std::fs::read_to_string(file).expect("a mistake");
    let sections = sections(&text);
    let told = told(&sections);
    let want = sections.iter().find(|(name, _)| *name == "expected").map(|(_, body)| body.as_str());
    if want == Some(told.as_str()) {
        return None;
    }
    if update {
        let before = text.split("-- expected --\n").next().expect("a mistake");
        std::fs::write(file, format!("{before}-- expected --\n{told}")).expect("a golden file");
        return None;
    }
    Some(format!("{}\nwanted: {}\ngot: {told}", file.display(), want.unwrap_or("nothing")))
}

#[test]
fn every_mistake_is_told_as_its_golden_file_says() {
    let files = table();
    assert!(files.len() >= MISTAKES_MIN, "there are {} mistakes", files.len());
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut wrong = Vec::new();
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            wrong.extend(difference(file, update));
        }
        wrong
    };
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a thread")).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
