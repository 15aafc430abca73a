//! Progress as plain lines, in BuildKit's form: `#3 [2/4] RUN make`, `#3 0.512 output`, `#3 DONE 1.2s`.
//! It does not know what the steps do.

use crate::images::human_size;
use crate::stderr;
use kiln_worker::{CacheTrouble, Notice, Progress, WorkerError};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Shows progress on standard error.
#[derive(Debug, Default)]
pub(crate) struct Plain {
    quiet: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    numbers: HashMap<String, usize>,
    /// The step whose lines were shown last: another one's are headed anew.
    last: usize,
    names: Vec<String>,
    notices: Vec<Noticed>,
}

/// Something about a step that is shown again after the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Noticed {
    /// The step's lines in the Dockerfile.
    pub lines: Vec<(u32, u32)>,
    pub message: String,
    pub hint: String,
}

impl Plain {
    /// A view that shows nothing if `quiet`.
    pub fn new(quiet: bool) -> Plain {
        Plain { quiet, state: Mutex::default() }
    }

    /// Shows one thing that happened.
    pub fn show(&self, progress: Progress<'_>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Progress::Notice { lines, notice, .. } = progress {
            let noticed = noticed(lines, notice);
            if !state.notices.contains(&noticed) {
                state.notices.push(noticed);
            }
        }
        if self.quiet {
            return;
        }
        let text = state.text(progress);
        if !text.is_empty() {
            stderr::write(&text);
        }
    }

    /// What was noticed, in the order of the lines.
    pub fn notices(&self) -> Vec<Noticed> {
        let mut notices = self.state.lock().unwrap_or_else(PoisonError::into_inner).notices.clone();
        notices.sort_by(|a, b| a.lines.cmp(&b.lines));
        notices
    }
}

fn noticed(lines: &[(u32, u32)], notice: Notice<'_>) -> Noticed {
    let (message, hint) = match notice {
        Notice::UnknownUser(name) => (
            format!("the image has no user `{name}`: the files belong to root"),
            format!("add {name} before this, as RUN useradd {name} does, or give a number"),
        ),
        Notice::UnknownGroup(name) => (
            format!("the image has no group `{name}`: the files belong to the group of their owner"),
            format!("add {name} before this, as RUN groupadd {name} does, or give a number"),
        ),
        Notice::RunAgain => (
            "this step failed while the store's disk was full: room was made there, and it runs once more"
                .to_owned(),
            "give the store more room: kiln prune, --store-max, or --root on another disk".to_owned(),
        ),
    };
    Noticed { lines: lines.to_vec(), message, hint }
}

impl State {
    fn number(&mut self, key: String, name: &str) -> (usize, bool) {
        if let Some(number) = self.numbers.get(&key) {
            return (*number, false);
        }
        let number = self.numbers.len() + 1;
        self.numbers.insert(key, number);
        // A name with newlines could pass for lines of kiln's own.
        self.names.push(one_line(name));
        (number, true)
    }

    fn text(&mut self, progress: Progress<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        match progress {
            Progress::Started { vertex, name } => drop(self.head(format!("v{}", vertex.0), name, &mut out)),
            Progress::Cached { vertex, name } => {
                let number = self.head(format!("v{}", vertex.0), name, &mut out);
                out.extend_from_slice(format!("#{number} CACHED\n").as_bytes());
                self.last = 0;
            }
            Progress::Log { vertex, line } => {
                let number = self.head(format!("v{}", vertex.0), "", &mut out);
                for shown in stderr::shown_lines(&line.line) {
                    out.extend_from_slice(format!("#{number} {:.3} ", line.at.as_secs_f64()).as_bytes());
                    out.extend_from_slice(shown);
                    out.push(b'\n');
                }
            }
            Progress::Done { vertex, name, took } => {
                let number = self.head(format!("v{}", vertex.0), name, &mut out);
                out.extend_from_slice(done(number, took).as_bytes());
                self.last = 0;
            }
            Progress::Task { name, took } => {
                let number = self.head(name.to_owned(), name, &mut out);
                if let Some(took) = took {
                    out.extend_from_slice(done(number, took).as_bytes());
                    self.last = 0;
                }
            }
            Progress::Transfer(_) | Progress::Report(_) => {}
            Progress::Cache { place, trouble } => {
                self.last = 0;
                out.extend_from_slice(format!("WARNING: {}\n\n", cache_words(place, trouble)).as_bytes());
            }
            Progress::Unlisted { path, reason } => {
                self.last = 0;
                let (path, reason) = (one_line(path), one_line(reason));
                let text =
                    format!("WARNING: the bill of materials is without what {path} says: {reason}\n\n");
                out.extend_from_slice(text.as_bytes());
            }
            Progress::Waiting { vertex, name, process } => {
                let number = self.head(format!("v{}", vertex.0), name, &mut out);
                let who = process.map_or_else(|| "another process".to_owned(), |id| format!("process {id}"));
                let text = format!("#{number} waiting for \"{}\", which {who} is building\n", one_line(name));
                out.extend_from_slice(text.as_bytes());
            }
            Progress::OverCap { bytes, max_bytes } => {
                let (bytes, max) = (human_size(bytes), human_size(max_bytes));
                let text = format!(
                    "warning: the store takes {bytes}, more than the {max} of --store-max: all that is left is needed by this build or by names\n"
                );
                out.extend_from_slice(text.as_bytes());
            }
            Progress::Notice { vertex, lines, notice } => {
                let number = self.head(format!("v{}", vertex.0), "", &mut out);
                let text = noticed(lines, notice).message;
                out.extend_from_slice(format!("#{number} WARNING: {text}\n").as_bytes());
            }
        }
        out
    }

    /// Names the step that the next line is of, if that is not clear from what stands above.
    fn head(&mut self, key: String, name: &str, out: &mut Vec<u8>) -> usize {
        let (number, is_new) = self.number(key, name);
        if self.last != number || is_new {
            let mut text = String::new();
            if self.last != 0 {
                text.push('\n');
            }
            let name = &self.names[number - 1];
            let _ = if is_new { writeln!(text, "#{number} {name}") } else { writeln!(text, "#{number} ...") };
            out.extend_from_slice(text.as_bytes());
            self.last = number;
        }
        number
    }
}

/// What is the matter with a shared cache, in one line.
fn cache_words(place: &str, trouble: CacheTrouble<'_>) -> String {
    let reason = |error: &WorkerError| match error {
        WorkerError::Cache { error, .. } => one_line(&error.to_string()),
        WorkerError::CacheLayer { error, .. } => one_line(&error.to_string()),
        other => one_line(&other.to_string()),
    };
    match trouble {
        CacheTrouble::Missing => format!("there is no cache {place} yet"),
        CacheTrouble::Foreign => {
            format!("the cache {place} was written by another builder: nothing in it is for kiln")
        }
        CacheTrouble::Unread(error) => {
            format!("cannot read the cache {place}, going on without it: {}", one_line(&error.to_string()))
        }
        CacheTrouble::Lost(error) => {
            format!("the cache {place} lacks what it names, going on without it: {}", reason(error))
        }
        CacheTrouble::Unwritten(error) => format!("cannot write the cache {place}: {}", reason(error)),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn done(number: usize, took: Duration) -> String {
    format!("#{number} DONE {:.1}s\n\n", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_pass_for_lines_of_kiln() {
        let mut state = State::default();
        let shown = state.text(Progress::Task { name: "RUN a\n#1 DONE 0.0s", took: None });
        assert_eq!(String::from_utf8_lossy(&shown), "#1 RUN a #1 DONE 0.0s\n");
        let shown =
            state.text(Progress::Task { name: "RUN a\n#1 DONE 0.0s", took: Some(Duration::from_secs(1)) });
        assert_eq!(String::from_utf8_lossy(&shown), "#1 DONE 1.0s\n\n");
    }
}
