//! Progress as plain lines, in BuildKit's form: `#3 [2/4] RUN make`, `#3 0.512 output`, `#3 DONE 1.2s`.
//! It does not know what the steps do.

use kiln_worker::Progress;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
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
}

impl Plain {
    /// A view that shows nothing if `quiet`.
    pub fn new(quiet: bool) -> Plain {
        Plain { quiet, state: Mutex::default() }
    }

    /// Shows one thing that happened.
    pub fn show(&self, progress: Progress<'_>) {
        if self.quiet {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let text = state.text(progress);
        if !text.is_empty() {
            // Progress that nobody reads is no reason to fail.
            let _ = std::io::stderr().lock().write_all(&text);
        }
    }
}

impl State {
    fn number(&mut self, key: String, name: &str) -> (usize, bool) {
        if let Some(number) = self.numbers.get(&key) {
            return (*number, false);
        }
        let number = self.numbers.len() + 1;
        self.numbers.insert(key, number);
        self.names.push(name.to_owned());
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
                out.extend_from_slice(format!("#{number} {:.3} ", line.at.as_secs_f64()).as_bytes());
                sanitised(&line.line, &mut out);
                out.push(b'\n');
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
            Progress::Transfer(_) => {}
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

fn done(number: usize, took: Duration) -> String {
    format!("#{number} DONE {:.1}s\n\n", took.as_secs_f64())
}

/// A step's line without what would command the terminal: of control characters only tabs stay.
pub(crate) fn sanitised(line: &[u8], out: &mut Vec<u8>) {
    let mut rest = line;
    while let Some((&c, more)) = rest.split_first() {
        rest = more;
        match c {
            0x1b => rest = after_escape(rest),
            b'\t' => out.push(c),
            // What stands before a carriage return is overwritten on a terminal; here it is a line of its own.
            b'\r' if !rest.is_empty() => out.push(b'\n'),
            0..=31 | 127 => {}
            _ => out.push(c),
        }
    }
}

/// What follows an escape sequence that has just begun.
fn after_escape(text: &[u8]) -> &[u8] {
    match text.first() {
        Some(b'[') => {
            let end = text[1..].iter().position(|c| (0x40..=0x7e).contains(c));
            end.map_or(&[], |n| &text[n + 2..])
        }
        Some(b']' | b'P' | b'X' | b'^' | b'_') => {
            let end = text.iter().position(|c| *c == 0x07 || *c == 0x1b);
            end.map_or(&[], |n| &text[n + 1..])
        }
        Some(_) => &text[1..],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_of_a_step_do_not_reach_the_terminal() {
        for (line, want) in [
            ("plain\tö", "plain\tö"),
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07x", "x"),
            ("\x1b]52;c;aGk=\x1b\\x", "\\x"),
            ("a\x07b\x08", "ab"),
            ("50%\r100%", "50%\n100%"),
            ("end\x1b[", "end"),
        ] {
            let mut out = Vec::new();
            sanitised(line.as_bytes(), &mut out);
            assert_eq!(String::from_utf8_lossy(&out), want, "{line:?}");
        }
    }
}
