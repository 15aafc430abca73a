//! Sizes and durations as people write them. It does not know what they are for.

use crate::error::CommandError;
use std::time::{SystemTime, UNIX_EPOCH};

/// Units of 1000 and of 1024.
const UNITS: [(&str, u64); 14] = [
    ("", 1),
    ("b", 1),
    ("k", 1000),
    ("kb", 1000),
    ("kib", 1 << 10),
    ("m", 1_000_000),
    ("mb", 1_000_000),
    ("mib", 1 << 20),
    ("g", 1_000_000_000),
    ("gb", 1_000_000_000),
    ("gib", 1 << 30),
    ("t", 1_000_000_000_000),
    ("tb", 1_000_000_000_000),
    ("tib", 1 << 40),
];

/// A size, as `300MB` or `10GiB`.
pub(crate) fn size_bytes(flag: &str, text: &str) -> Result<u64, CommandError> {
    let lower = text.trim().to_ascii_lowercase();
    let at = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(at);
    let unit = UNITS.iter().find(|(name, _)| *name == unit.trim()).map(|(_, bytes)| *bytes);
    let number = number.parse::<f64>().ok();
    match (number, unit) {
        (Some(number), Some(unit)) if number * (unit as f64) < u64::MAX as f64 => {
            Ok((number * unit as f64) as u64)
        }
        _ => Err(CommandError::usage(flag, format!("`{text}` is not a size, as 300MB or 10GiB"))),
    }
}

/// A duration in seconds, as `24h`, `90m` or `7d`.
pub(crate) fn seconds(flag: &str, text: &str) -> Result<i64, CommandError> {
    let usage = || CommandError::usage(flag, format!("`{text}` is not a duration, as 24h, 90m or 7d"));
    let (mut total, mut number) = (0i64, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return Err(usage()),
        };
        let part = number.parse::<i64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(usage)?;
        total = total.checked_add(part).ok_or_else(usage)?;
        number.clear();
    }
    if text.is_empty() || !number.is_empty() { Err(usage()) } else { Ok(total) }
}

/// How long ago a time was.
pub(crate) fn ago(time_s: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    match (now - time_s).max(0) {
        s if s < 60 => format!("{s}s ago"),
        s if s < 3600 => format!("{}m ago", s / 60),
        s if s < 172_800 => format!("{}h ago", s / 3600),
        s => format!("{}d ago", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_read_or_refused_by_name() {
        for (text, want) in [("300MB", 300_000_000), ("10GiB", 10 << 30), ("1.5k", 1500), ("7", 7)] {
            assert_eq!(size_bytes("--x", text).ok(), Some(want), "{text}");
        }
        for (text, want) in [("24h", 86_400), ("1h30m", 5400), ("7d", 604_800), ("0s", 0)] {
            assert_eq!(seconds("--x", text).ok(), Some(want), "{text}");
        }
        for text in ["", "MB", "-1", "1XB", "1e30TB", "1..2"] {
            let refused = size_bytes("--store-max", text).expect_err("no size").to_string();
            assert!(refused.contains("--store-max"), "{refused}");
        }
        for text in ["", "24", "h", "-1h", "1y", "99999999999999999999h"] {
            assert!(seconds("--x", text).is_err(), "{text}");
        }
    }
}
