//! The texts of an image's history, as BuildKit writes them: Go's way to show strings, lists and
//! times. It does not know instructions.

/// A text in quotes, as Go's `%q`.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if is_shown(c) => out.push(c),
            c if u32::from(c) < 0x10000 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// Whether Go shows a character as it is.
fn is_shown(c: char) -> bool {
    let formats = ['\u{ad}', '\u{feff}', '\u{61c}', '\u{180e}'];
    let hidden =
        matches!(u32::from(c), 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xe000..=0xf8ff);
    c == ' ' || !(c.is_control() || c.is_whitespace() || formats.contains(&c) || hidden)
}

/// A list of texts in quotes, as Go's `%q`.
pub(crate) fn quoted_list(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("[{}]", words.join(" "))
}

/// A list of texts as they are, as Go's `%v`.
pub(crate) fn plain_list(words: &[String]) -> String {
    format!("[{}]", words.join(" "))
}

/// A time in nanoseconds as Go shows a `time.Duration`.
pub(crate) fn duration(ns: i64) -> String {
    let size = ns.unsigned_abs();
    let sign = if ns < 0 { "-" } else { "" };
    let fraction = |unit: u64| {
        let width = unit.ilog10() as usize;
        let rest = format!("{:0width$}", size % unit);
        let rest = rest.trim_end_matches('0');
        if rest.is_empty() { String::new() } else { format!(".{rest}") }
    };
    match size {
        0 => "0s".to_owned(),
        1..=999 => format!("{sign}{size}ns"),
        1_000..=999_999 => format!("{sign}{}{}µs", size / 1_000, fraction(1_000)),
        1_000_000..=999_999_999 => format!("{sign}{}{}ms", size / 1_000_000, fraction(1_000_000)),
        _ => {
            let seconds = size / 1_000_000_000;
            let rest = format!("{}{}s", seconds % 60, fraction(1_000_000_000));
            match (seconds / 3600, seconds / 60 % 60) {
                (0, 0) => format!("{sign}{rest}"),
                (0, minutes) => format!("{sign}{minutes}m{rest}"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{rest}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_as_go_does() {
        assert_eq!(quoted("Aé \"q\" \\ \t\n\u{1}\u{a0}<&>"), "\"Aé \\\"q\\\" \\\\ \\t\\n\\x01\\u00a0<&>\"");
    }

    #[test]
    fn times_are_shown_as_go_does() {
        for (ns, expect) in [
            (0, "0s"),
            (90_000_000_000, "1m30s"),
            (500_000_000, "500ms"),
            (1_500_000_000, "1.5s"),
            (3_600_000_000_000, "1h0m0s"),
            (1_000_001, "1.000001ms"),
        ] {
            assert_eq!(duration(ns), expect);
        }
    }
}
