//! Durations in Go's syntax (`1m30s`, `1.5h`, `-2ms`), in nanoseconds, and with days (`7d`). It does not know which are
//! allowed where.

/// Reads a duration; the error is Go's message.
pub fn parse(text: &str) -> Result<i64, String> {
    read(text, unit)
}

/// The same, where `d` is a day of 24 hours and `w` are seven of them.
pub(crate) fn parse_with_days(text: &str) -> Result<i64, String> {
    read(text, |name| match name {
        "d" => Some(24 * 3_600_000_000_000),
        "w" => Some(7 * 24 * 3_600_000_000_000),
        _ => unit(name),
    })
}

fn read(text: &str, unit: impl Fn(&str) -> Option<u128>) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (whole, fraction) = rest[..number].split_once('.').unwrap_or((&rest[..number], ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 19 {
            return Err(invalid());
        }
        rest = &rest[number..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        if name.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let unit = unit(name).ok_or_else(|| format!("time: unknown unit {name:?} in duration {text:?}"))?;
        total += digits(whole) * unit
            + digits(fraction.get(..15).unwrap_or(fraction)) * unit
                / 10_u128.pow(fraction.len().min(15) as u32);
        rest = after;
        if total > i64::MAX as u128 {
            return Err(invalid());
        }
    }
    let total = i64::try_from(total).map_err(|_| invalid())?;
    Ok(if negative { -total } else { total })
}

fn digits(text: &str) -> u128 {
    text.bytes().fold(0, |value, byte| value * 10 + u128::from(byte - b'0'))
}

fn unit(name: &str) -> Option<u128> {
    Some(match name {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, expect) in [
            ("0", 0),
            ("5s", 5_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5ms", 500_000),
            ("1.s", 1_000_000_000),
            ("-1h", -3_600_000_000_000),
            ("+2us3µs", 5_000),
        ] {
            assert_eq!(parse(text), Ok(expect), "{text}");
        }
        for text in
            ["", "-", "5", "s", "1d", "1.2.3s", ".s", " 1s", "9999999999h", "1s 2s", "99999999999999999999s"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse_with_days("1w1d1h"), Ok((8 * 24 + 1) * 3_600_000_000_000));
        assert!(parse_with_days("1y").is_err());
        assert_eq!(parse("1d").unwrap_err(), r#"time: unknown unit "d" in duration "1d""#);
    }
}
