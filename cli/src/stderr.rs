//! The one way to standard error: what is written there can't command a terminal, whoever it came from.
//! It does not know what is said.

use std::io::Write as _;

/// Writes text that has its newlines. That nobody reads it is no reason to fail.
pub(crate) fn write(text: impl AsRef<[u8]>) {
    let mut clean = Vec::new();
    filter(text.as_ref(), &mut clean);
    let _ = std::io::stderr().lock().write_all(&clean);
}

/// Writes a line, or several.
pub(crate) fn say(text: &str) {
    write(format!("{text}\n"));
}

/// What a program wrote as one line, in the lines that a terminal would show of it: what stands before a
/// carriage return would be overwritten there, and has its own.
pub(crate) fn shown_lines(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut text = line;
    while let Some(rest) = text.strip_suffix(b"\r") {
        text = rest;
    }
    text.split(|c| matches!(c, b'\r' | b'\n'))
}

/// Text without escape sequences and without control characters (C0, DEL and C1) but newlines and tabs.
/// Bytes that are no UTF-8 stay unless a terminal could take them for C1.
fn filter(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some((&c, more)) = rest.split_first() {
        rest = match c {
            0x1b => after_escape(more),
            b'\t' | b'\n' => {
                out.push(c);
                more
            }
            0..=31 | 127 => more,
            32..=126 => {
                out.push(c);
                more
            }
            128.. => {
                let (c, more) = rest.split_at(char_len(rest));
                if !matches!(c, [0x80..=0x9f] | [0xc2, 0x80..=0x9f]) {
                    out.extend_from_slice(c);
                }
                more
            }
        }
    }
}

/// The length in bytes of the first character; one byte where it is no UTF-8.
fn char_len(text: &[u8]) -> usize {
    let fits = |len: &usize| text.get(..*len).is_some_and(|c| std::str::from_utf8(c).is_ok());
    (2..=4).find(fits).unwrap_or(1)
}

/// What follows an escape sequence that has just begun. None goes on beyond its line.
fn after_escape(text: &[u8]) -> &[u8] {
    let position = |from: usize, ends: fn(u8) -> bool| {
        text[from..].iter().position(|c| ends(*c)).map_or(text.len(), |n| from + n)
    };
    let end = match text.first() {
        Some(b'[') => {
            let end = position(1, |c| !(0x20..=0x3f).contains(&c));
            end + usize::from(text.get(end).is_some_and(|c| (0x40..=0x7e).contains(c)))
        }
        Some(b']' | b'P' | b'X' | b'^' | b'_') => {
            let end = position(1, |c| matches!(c, 0x07 | 0x1b | b'\n'));
            end + usize::from(text.get(end) == Some(&0x07))
        }
        Some(0x20..=0x2f) => {
            let end = position(1, |c| !(0x20..=0x2f).contains(&c));
            end + usize::from(text.get(end).is_some_and(|c| (0x30..=0x7e).contains(c)))
        }
        Some(0x30..=0x7e) => 1,
        _ => 0,
    };
    &text[end..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_do_not_reach_the_terminal() {
        for (line, want) in [
            ("plain\tö☺\n", "plain\tö☺\n"),
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07x", "x"),
            ("\x1b]52;c;aGk=\x1b\\x", "x"),
            ("\x1b]8;;http://x\nnext", "\nnext"),
            ("\x1b(Bx\x1b7y\x1bcz", "xyz"),
            ("a\x07b\x08\x7f", "ab"),
            ("a\rb", "ab"),
            ("end\x1b[", "end"),
            ("end\x1b[\n#4 DONE", "end\n#4 DONE"),
            ("end\x1b\nnext", "end\nnext"),
            ("\x1b\x1b[2Jx", "x"),
            ("\u{9b}2Jx\u{85}\u{a0}", "2Jx\u{a0}"),
        ] {
            let mut out = Vec::new();
            filter(line.as_bytes(), &mut out);
            assert_eq!(String::from_utf8_lossy(&out), want, "{line:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_utf_8_stay_unless_they_command() {
        let mut out = Vec::new();
        filter(b"caf\xe9 \x9b2J \xc3\xbc \xf0\x9f\x98\x80 \xc3", &mut out);
        assert_eq!(out, b"caf\xe9 2J \xc3\xbc \xf0\x9f\x98\x80 \xc3");
    }

    #[test]
    fn a_carriage_return_begins_a_line() {
        for (line, want) in
            [("50%\r100%", &["50%", "100%"][..]), ("done\r", &["done"]), ("", &[""]), ("a\r\r", &["a"])]
        {
            let lines: Vec<&[u8]> = shown_lines(line.as_bytes()).collect();
            assert_eq!(lines, want.iter().map(|l| l.as_bytes()).collect::<Vec<_>>(), "{line:?}");
        }
    }
}
