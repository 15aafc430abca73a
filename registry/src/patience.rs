//! How long to wait, how often to try again, and when a registry says to.
//! It does not know what is tried.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const BACKOFF_MAX: Duration = Duration::from_secs(8);
/// Who sends more slowly counts as silent.
pub(crate) const SLOWEST_BYTES_PER_S: u64 = 1000;

/// The limits of every wait for a registry.
#[derive(Clone, Debug)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For an answer, and between two bytes of one.
    pub idle: Duration,
    /// For an answer after the last byte of an upload, when the registry checks and stores it.
    pub commit: Duration,
    /// How often one thing is tried, in all.
    pub attempts: u32,
    /// The wait after the first failure; it doubles with each, up to 8 s, and a random part of it is left out.
    pub backoff: Duration,
    /// A registry that says to wait for longer than this is not waited for.
    pub retry_after_max: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            commit: Duration::from_secs(300),
            attempts: 5,
            backoff: Duration::from_millis(250),
            retry_after_max: Duration::from_secs(120),
        }
    }
}

impl Patience {
    /// The same, with another limit of silence, and the others in proportion.
    #[must_use]
    pub fn with_idle(self, idle: Duration) -> Patience {
        let connect = self.connect.min(idle);
        Patience { idle, connect, commit: idle.saturating_mul(10), ..self }
    }
}

/// How fast a body comes. A peer that sends a byte now and then is not silent, and would hold a build for ever.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// Counts a wait, and the bytes that ended it. Whether over twice the limit of silence, of waiting alone, there
    /// came less than [`SLOWEST_BYTES_PER_S`]; the count begins anew then.
    pub(crate) fn is_too_slow(&mut self, patience: &Patience, waited: Duration, bytes: usize) -> bool {
        // No peer is waited for any longer: what goes beyond it is this process's own, as if it was stopped.
        self.waited += waited.min(patience.idle);
        self.bytes += bytes as u64;
        if self.waited < patience.idle.saturating_mul(2) {
            return false;
        }
        let past = std::mem::take(self);
        (past.bytes as f64) < SLOWEST_BYTES_PER_S as f64 * past.waited.as_secs_f64()
    }
}

/// The count of the failures of one thing that is tried.
#[derive(Debug, Default)]
pub(crate) struct Retry {
    failures: u32,
}

impl Retry {
    /// Counts a failure and waits. `false`, at once, if it is not to be tried again.
    pub(crate) async fn pause(&mut self, patience: &Patience, told: Option<Duration>) -> bool {
        self.failures += 1;
        if self.failures >= patience.attempts || told.is_some_and(|wait| wait > patience.retry_after_max) {
            return false;
        }
        tokio::time::sleep(delay(patience.backoff, self.failures, told, random())).await;
        true
    }

    /// Forgets the failures, because there was progress.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// What a `Retry-After` header says: a number of seconds or a date. A date that is past is no wait.
pub(crate) fn retry_after(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim();
    if !header.is_empty() && header.bytes().all(|c| c.is_ascii_digit()) {
        // A number that is too large for any clock is a wait that nobody accepts.
        return Some(Duration::from_secs(header.parse().unwrap_or(u64::from(u32::MAX))));
    }
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(http_date(header)?))?;
    Some(at.duration_since(now).unwrap_or_default())
}

/// At least what the registry told; else between half and all of the doubled wait.
fn delay(first: Duration, failures: u32, told: Option<Duration>, random: u64) -> Duration {
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(BACKOFF_MAX.max(first));
    let share = f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX);
    match told {
        Some(wait) => wait + first.mul_f64(share),
        None => doubled.mul_f64(0.5 + share / 2.0),
    }
}

/// The standard library seeds each `RandomState` anew.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` in seconds since 1970.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words.as_slice() else { return None };
    let number = |text: &str, max: u64| text.parse::<u64>().ok().filter(|n| *n <= max);
    let month = u64::try_from(MONTHS.iter().position(|m| m == month)?).ok()?;
    let (day, year) = (number(day, 31)?.checked_sub(1)?, number(year, 9999)?.checked_sub(1970)?);
    let mut clock = time.split(':').map(|part| number(part, 60));
    let (hours, minutes, seconds) = (clock.next()??, clock.next()??, clock.next()??);
    let is_leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let leap_days = (1970..1970 + year).filter(|y| is_leap(*y)).count() as u64;
    let days_before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][usize::try_from(month).ok()?];
    let this_leap = u64::from(month > 1 && is_leap(1970 + year));
    let days = year * 365 + leap_days + days_before + this_leap + day;
    Some(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (header, want) in [
            ("2", Some(2)),
            (" 120 ", Some(120)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sat, 05 Nov 1994 08:49:37 GMT", Some(0)),
            ("99999999999999999999999", Some(u64::from(u32::MAX))),
            ("-1", None),
            ("", None),
            ("soon", None),
            ("Sun, 00 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49 GMT", None),
        ] {
            assert_eq!(retry_after(header, now), want.map(Duration::from_secs), "{header}");
        }
    }

    #[test]
    fn dates_count_leap_days() {
        for (text, want) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Thu, 29 Feb 2024 12:00:00 GMT", 1_709_208_000),
            ("Fri, 01 Mar 2024 00:00:00 GMT", 1_709_251_200),
            ("Sat, 01 Mar 2025 00:00:00 GMT", 1_740_787_200),
            ("Sun, 22 Nov 2026 16:00:00 GMT", 1_795_363_200),
        ] {
            assert_eq!(http_date(text), Some(want), "{text}");
        }
    }

    #[test]
    fn who_sends_a_byte_now_and_then_is_too_slow_and_waits_of_our_own_do_not_count() {
        let patience = Patience::default().with_idle(Duration::from_secs(5));
        let slow_after = |wait_ms: u64, bytes: usize| {
            let mut pace = Pace::default();
            (1..=100).find(|_| pace.is_too_slow(&patience, Duration::from_millis(wait_ms), bytes))
        };
        assert_eq!(slow_after(1000, 1), Some(10));
        assert_eq!(slow_after(1000, 999), Some(10));
        assert_eq!(slow_after(1000, 1000), None);
        assert_eq!(slow_after(0, 0), None, "bytes that were there before they were asked for");
        let mut pace = Pace::default();
        let mut after = |seconds, bytes| pace.is_too_slow(&patience, Duration::from_secs(seconds), bytes);
        assert!(!after(5, 1 << 20));
        assert!(!after(5, 1), "of all of that time it was enough");
        assert!(!after(3600, 1), "no more than the limit of silence counts");
        assert!(after(5, 1), "and it counts anew after each span");
    }

    #[test]
    fn waits_double_to_a_limit_and_never_undercut_the_registry() {
        let second = Duration::from_secs(1);
        for random in [0, u64::MAX, 1 << 63] {
            assert!(delay(second, 1, None, random) <= second);
            assert!(delay(second, 3, None, random) >= second * 2);
            assert!(delay(second, 30, None, random) <= BACKOFF_MAX);
            assert!(delay(second, 1, Some(second * 5), random) >= second * 5);
        }
    }
}
