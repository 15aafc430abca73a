//! The rules of the house that a program can check, as tests over the source text. It does not
//! parse Rust: it relies on rustfmt's layout, which ./check demands first.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// One screen.
const FUNCTION_LINES_MAX: usize = 70;
/// What one can hold in mind; tests at a file's end don't count.
const FILE_LINES_MAX: usize = 600;
/// ARCHITECTURE.md must stay something that one reads.
const ARCHITECTURE_LINES_MAX: usize = 300;
/// Flat tables: long, but nothing to understand. `path` or `path: function`, and why.
const TABLES: &[(&str, &str)] = &[];
/// Where `unsafe` is allowed, each block with its SAFETY comment.
const UNSAFE_ALLOWED: [&str; 2] = ["runner/src/syscalls.rs", "snapshotter/src/mount.rs"];
/// Crates without input, output, threads, clock and environment.
const PURE: [&str; 3] = ["grammar/src/", "frontend/src/", "solver/src/"];
/// What a pure crate does not name.
const IMPURE_MODULES: [&str; 7] = ["fs", "net", "thread", "env", "time", "process", "os"];
/// What they may name all the same: values that ask nobody for anything.
const PURE_VALUES: [&str; 3] = ["std::net::Ip", "std::net::{Ip", "std::time::Duration"];
/// Names that say nothing.
const EMPTY_NAMES: [&str; 7] = ["utils", "util", "common", "helpers", "helper", "misc", "shared"];

/// A source file.
struct Source {
    /// Its path from the root.
    path: String,
    text: String,
}

impl Source {
    /// The lines before `#[cfg(test)]`; none of a file that holds tests only.
    fn lines_before_tests(&self) -> impl Iterator<Item = (usize, &str)> {
        let only_tests = self.path.ends_with("_tests.rs")
            || self.path.ends_with("/tests.rs")
            || self.path.contains("/tests/") && !self.path.starts_with("tests/");
        let limit = if only_tests { 0 } else { usize::MAX };
        self.lines().take_while(|(_, line)| line.trim_start() != "#[cfg(test)]").take(limit)
    }

    /// Its lines, counted from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(i, line)| (i + 1, line))
    }

    fn is_table(&self, what: &str) -> bool {
        let named = if what.is_empty() { self.path.clone() } else { format!("{}: {what}", self.path) };
        TABLES.iter().any(|(name, _)| *name == named)
    }
}

/// Every file below the root whose name ends in one of `endings`, but for what is built or not ours.
fn files(endings: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the project").flatten() {
            let path: PathBuf = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().expect("a type");
            if kind.is_dir() && !matches!(name.as_str(), "target" | ".git") {
                folders.push(path);
            } else if kind.is_file() && endings.iter().any(|ending| name.ends_with(ending)) {
                let text = String::from_utf8_lossy(&std::fs::read(&path).expect("a file")).into_owned();
                let path = path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn rust() -> Vec<Source> {
    files(&[".rs"])
}

/// Fails with all findings at once, `file:line: what` each.
#[track_caller]
fn none(rule: &str, findings: Vec<(String, usize, String)>) {
    let mut message = String::new();
    for (path, line, what) in &findings {
        let _ = writeln!(message, "{path}:{line}: {what}");
    }
    assert!(findings.is_empty(), "{rule}\n{message}");
}

/// The first of the findings that `check` makes of each line before the tests.
fn in_code(
    sources: &[Source],
    check: impl Fn(&Source, &str) -> Option<String>,
) -> Vec<(String, usize, String)> {
    let of_file = |source: &Source| -> Vec<_> {
        let lines = source.lines_before_tests();
        lines.filter_map(|(n, line)| Some((source.path.clone(), n, check(source, code_of(line))?))).collect()
    };
    sources.iter().flat_map(of_file).collect()
}

/// A line without its comment. What stands in quotes is taken for code, which is good enough.
fn code_of(line: &str) -> &str {
    let line = line.trim_start();
    if line.starts_with("//") { "" } else { line.split(" // ").next().unwrap_or_default() }
}

/// Whether `word` stands in `text` as a word of its own.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part))
}

#[test]
fn every_file_says_its_job_first() {
    let silent = rust().into_iter().filter(|s| !s.text.starts_with("//! "));
    none(
        "every file opens with `//!`: its job in a sentence",
        silent.map(|s| (s.path, 1, "does not open with `//! `".to_owned())).collect(),
    );
}

#[test]
fn files_fit_in_the_mind() {
    let mut findings = Vec::new();
    for source in rust() {
        let count = source.lines_before_tests().count();
        if count > FILE_LINES_MAX && !source.is_table("") {
            findings.push((source.path, count, format!("{count} lines before the tests")));
        }
    }
    none(&format!("a file has at most {FILE_LINES_MAX} lines before its tests"), findings);
}

#[test]
fn functions_fit_on_a_screen() {
    let mut findings = Vec::new();
    for source in rust() {
        for (name, line, count) in functions(&source.text) {
            if count > FUNCTION_LINES_MAX && !source.is_table(&name) {
                findings.push((source.path.clone(), line, format!("`{name}` has {count} lines")));
            }
        }
    }
    none(&format!("a function has at most {FUNCTION_LINES_MAX} lines"), findings);
}

/// The functions of a text in rustfmt's layout: name, first line, number of lines from the signature
/// to the closing brace at the same indent.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        for (end, last) in lines.iter().enumerate().skip(start) {
            let at_indent = last.len() - last.trim_start().len() == indent;
            let one_line = end == start && (last.ends_with('}') || last.ends_with(';'));
            let declared = at_indent && end > start && last.ends_with(';');
            if one_line || declared || end > start && at_indent && last.trim() == "}" {
                found.push((name.to_owned(), start + 1, end - start + 1));
                break;
            }
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    loop {
        let (word, after) = rest.split_once(' ')?;
        match word {
            "fn" => return after.split(['(', '<']).next(),
            "pub" | "const" | "async" | "unsafe" | "extern" | "\"C\"" => rest = after,
            _ if word.starts_with("pub(") => rest = after,
            _ => return None,
        }
    }
}

#[test]
fn functions_are_found_and_measured() {
    let text = "fn a() {}\nimpl X {\n    pub(crate) const fn b(\n        x: u8,\n    ) -> u8 {\n        x\n    }\n}\n";
    let found = functions(text);
    assert_eq!(found, [("a".to_owned(), 1, 1), ("b".to_owned(), 3, 5)]);
}

#[test]
fn names_say_something() {
    let mut findings = Vec::new();
    for source in rust() {
        for part in source.path.trim_end_matches(".rs").split('/') {
            if EMPTY_NAMES.contains(&part) {
                findings.push((source.path.clone(), 1, format!("`{part}` says nothing")));
            }
        }
        for (n, line) in source.lines() {
            let words = code_of(line).trim_start_matches("pub ").trim_start_matches("pub(crate) ");
            let Some(name) = words.strip_prefix("mod ") else { continue };
            if EMPTY_NAMES.contains(&name.trim_end_matches([';', '{', ' '])) {
                findings.push((source.path.clone(), n, format!("`{words}` says nothing")));
            }
        }
    }
    none("no file and no module is named utils, common, helpers", findings);
}

#[test]
fn no_line_ends_in_blanks() {
    let mut findings = Vec::new();
    let named = ["check", "quickstart", "debian-end-to-end", ".ci/run"];
    for source in
        files(&[".rs", ".toml", ".md", ".pest", "Dockerfile", "check", "quickstart", "run", "end-to-end"])
    {
        let script = !source.path.contains('.') && source.path.ends_with("run");
        if script && !named.iter().any(|name| source.path.ends_with(name)) {
            continue;
        }
        let text = source.text.as_str();
        for (n, line) in source.lines().filter(|(_, line)| line.ends_with([' ', '\t'])) {
            findings.push((source.path.clone(), n, format!("ends in blanks: {line:?}")));
        }
        if !text.ends_with('\n') || text.ends_with("\n\n") {
            findings.push((
                source.path.clone(),
                text.lines().count(),
                "does not end in one newline".to_owned(),
            ));
        }
    }
    none("no trailing blanks, and a newline at the end", findings);
}

#[test]
fn unsafe_stands_where_it_may_and_says_why() {
    let mut findings = Vec::new();
    for source in rust() {
        let lines: Vec<&str> = source.text.lines().collect();
        for (n, line) in source.lines() {
            let code = code_of(line);
            let is_unsafe =
                ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|u| code.contains(u));
            if !is_unsafe || code.contains('"') {
                continue;
            }
            if !UNSAFE_ALLOWED.iter().any(|allowed| source.path.starts_with(allowed)) {
                findings.push((source.path.clone(), n, "`unsafe` is not allowed in this file".to_owned()));
            } else if !is_explained(&lines, n - 1) {
                findings.push((
                    source.path.clone(),
                    n,
                    "`unsafe` without a SAFETY comment above it".to_owned(),
                ));
            }
        }
    }
    none("`unsafe` only where tidy.rs names the file, each with its reason", findings);
}

/// Whether the comment above a line, or above the statement that it belongs to, says SAFETY.
fn is_explained(lines: &[&str], at: usize) -> bool {
    const STATEMENT_LINES_MAX: usize = 4;
    let says = |line: &str| line.contains("SAFETY:") || line.contains("# Safety");
    if says(lines[at]) {
        return true;
    }
    let mut above = at;
    let mut code_lines = 0;
    while above > 0 && code_lines < STATEMENT_LINES_MAX {
        above -= 1;
        let line = lines[above].trim_start();
        if says(line) {
            return true;
        }
        if line.is_empty() || line == "}" {
            return false;
        }
        code_lines += usize::from(!line.starts_with("//") && !line.starts_with("#["));
    }
    false
}

#[test]
fn nothing_is_left_for_later() {
    let words = ["todo!", "unimplemented!", "dbg!"];
    let own = "tests/tests/tidy.rs";
    let sources: Vec<Source> = rust().into_iter().filter(|s| s.path != own).collect();
    let findings = in_code(&sources, |_, line| {
        words.iter().find(|word| line.contains(*word)).map(|word| format!("`{word}`"))
    });
    none("no code that is not there yet", findings);
}

#[test]
fn pure_crates_stay_pure() {
    let sources: Vec<Source> =
        rust().into_iter().filter(|s| PURE.iter().any(|pure| s.path.starts_with(pure))).collect();
    let findings = in_code(&sources, |_, line| {
        if PURE_VALUES.iter().any(|value| line.contains(value)) {
            return None;
        }
        let named = IMPURE_MODULES.iter().find(|module| {
            has_word(line, &format!("std::{module}"))
                || line.contains("std::{") && has_word(line, module) && !line.contains(&format!("::{module}"))
        });
        named.map(|module| format!("names `std::{module}`"))
    });
    none("grammar, frontend and solver do no input or output, start no thread, read no clock", findings);
}

#[test]
fn errors_can_be_told_apart() {
    let mut findings = Vec::new();
    for source in rust().into_iter().filter(|s| !s.path.starts_with("tests/")) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let Some(rest) = line.strip_prefix("pub enum ").or_else(|| line.strip_prefix("pub struct "))
            else {
                continue;
            };
            let name = rest.split([' ', '<', '(', ';']).next().unwrap_or_default();
            let attributes =
                lines[..at].iter().rev().take_while(|l| l.starts_with('#') || l.starts_with("///"));
            let is_error = attributes.clone().any(|l| l.starts_with("#[derive") && has_word(l, "Error"));
            if name.ends_with("Error") && !is_error {
                findings.push((
                    source.path.clone(),
                    at + 1,
                    format!("`{name}` does not derive thiserror::Error"),
                ));
            }
            let body = lines[at..].iter().take_while(|l| **l != "}");
            let other = body.enumerate().find(|(_, l)| is_error && l.trim_start().starts_with("Other"));
            if let Some((n, _)) = other {
                findings.push((source.path.clone(), at + n + 1, format!("`{name}` has a variant Other")));
            }
        }
    }
    none("an error is an enum of what a caller can tell apart", findings);
}

#[test]
fn the_architecture_is_written_down_and_short() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md");
    let text = std::fs::read_to_string(path).expect("ARCHITECTURE.md");
    let count = text.lines().count();
    assert!(
        count <= ARCHITECTURE_LINES_MAX,
        "ARCHITECTURE.md has {count} lines, {ARCHITECTURE_LINES_MAX} at most"
    );
}

#[test]
fn exceptions_are_still_needed() {
    let sources = rust();
    for (name, why) in TABLES {
        assert!(!why.is_empty(), "{name}: an exception needs a reason");
        let (path, function) = name.split_once(": ").unwrap_or((name, ""));
        let source = sources.iter().find(|s| s.path == path);
        let source = source.unwrap_or_else(|| panic!("{path} is excepted as a table, but is not there"));
        let too_long = if function.is_empty() {
            source.lines_before_tests().count() > FILE_LINES_MAX
        } else {
            functions(&source.text).iter().any(|(n, _, count)| n == function && *count > FUNCTION_LINES_MAX)
        };
        assert!(too_long, "{name} is excepted as a table, but is short enough");
    }
    for path in UNSAFE_ALLOWED {
        let source = sources.iter().find(|s| s.path == path);
        assert!(source.is_some_and(|s| s.text.contains("unsafe {")), "{path} may use `unsafe`, but does not");
    }
}
