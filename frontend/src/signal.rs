//! The names of signals that STOPSIGNAL may give. It does not send any.

const NAMES: [&str; 34] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

/// How far the numbered real-time signals are from the first and from the last.
const REAL_TIME_REACH: std::ops::RangeInclusive<u32> = 1..=15;

/// Whether a text names a signal: by number, or by name with or without `SIG`, in any case.
pub(crate) fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let near = |start: &str, last: u32| {
        let offset = name.strip_prefix(start).and_then(|rest| rest.parse::<u32>().ok());
        offset.is_some_and(|n| REAL_TIME_REACH.contains(&n) && n <= last)
    };
    NAMES.contains(&name) || matches!(name, "RTMIN" | "RTMAX") || near("RTMIN+", 15) || near("RTMAX-", 14)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["9", "SIGQUIT", "quit", "sigterm", "RTMIN", "SIGRTMIN+3", "RTMAX-14"] {
            assert!(is_signal(text), "{text}");
        }
        for text in ["", "0", "SIGNONE", "RTMIN+16", "RTMAX-15"] {
            assert!(!is_signal(text), "{text}");
        }
    }
}
