//! How long and how often a registry is waited for, as flags and variables of the environment say it.
//! It does not know what is asked.

use crate::error::CommandError;
use clap::Args;
use kiln_worker::Patience;
use std::time::Duration;

const RETRIES_MAX: u32 = 1000;
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// What a user says about it.
#[derive(Debug, Default, Args)]
pub(crate) struct PatienceArgs {
    /// How often a request that failed is sent again, if the failure may pass [default: $KILN_RETRY, else 4]
    #[arg(long, global = true, value_name = "COUNT")]
    pub retry: Option<String>,
    /// The wait before it is sent again, as 500ms or 2s; it doubles each time [default: $KILN_RETRY_DELAY, else 250ms]
    #[arg(long, global = true, value_name = "DURATION")]
    pub retry_delay: Option<String>,
    /// How long a registry may send nothing, as 30s [default: $KILN_NETWORK_TIMEOUT, else 30s]
    #[arg(long, global = true, value_name = "DURATION")]
    pub network_timeout: Option<String>,
}

impl PatienceArgs {
    /// The limits, with those that nobody spoke of as they are.
    pub(crate) fn patience(self) -> Result<Patience, CommandError> {
        let from_env = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        self.over(from_env)
    }

    fn over(self, from_env: impl Fn(&str) -> Option<String>) -> Result<Patience, CommandError> {
        let said = |given: Option<String>, flag, variable| match given {
            Some(text) => Some((flag, text)),
            None => from_env(variable).map(|text| (variable, text)),
        };
        let mut patience = Patience::default();
        if let Some((name, text)) = said(self.retry, "--retry", "KILN_RETRY") {
            let count = text.trim().parse::<u32>().ok().filter(|count| *count <= RETRIES_MAX);
            patience.attempts = 1 + count.ok_or_else(|| {
                CommandError::usage(name, format!("`{text}` is not a number from 0 to {RETRIES_MAX}"))
            })?;
        }
        if let Some((name, text)) = said(self.retry_delay, "--retry-delay", "KILN_RETRY_DELAY") {
            patience.backoff = wait(name, &text)?;
        }
        if let Some((name, text)) = said(self.network_timeout, "--network-timeout", "KILN_NETWORK_TIMEOUT") {
            patience = patience.with_idle(wait(name, &text)?);
        }
        Ok(patience)
    }
}

/// A wait, as `500ms`, `2s`, `1.5m`; a number alone is seconds.
fn wait(name: &str, text: &str) -> Result<Duration, CommandError> {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let unit = match unit {
        "ms" => Some(0.001),
        "" | "s" => Some(1.0),
        "m" => Some(60.0),
        "h" => Some(3600.0),
        _ => None,
    };
    let seconds = unit.zip(number.parse::<f64>().ok()).map(|(unit, number)| unit * number);
    let wait = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
    wait.filter(|wait| !wait.is_zero() && *wait <= WAIT_MAX)
        .ok_or_else(|| CommandError::usage(name, format!("`{text}` is not a wait, as 500ms, 2s or 1m")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_above_the_environment_and_that_above_the_default() {
        let env = |name: &str| match name {
            "KILN_RETRY" => Some("7".to_owned()),
            "KILN_RETRY_DELAY" => Some("1.5s".to_owned()),
            _ => None,
        };
        let args = PatienceArgs { retry: Some("0".to_owned()), ..PatienceArgs::default() };
        let patience = args.over(env).expect("good values");
        assert_eq!((patience.attempts, patience.backoff), (1, Duration::from_millis(1500)));
        assert_eq!(patience.idle, Patience::default().idle);
    }

    #[test]
    fn what_is_no_wait_is_refused_by_the_name_it_was_given_under() {
        for (text, want) in [("500ms", 500), ("2s", 2000), ("2", 2000), ("0.5m", 30_000), ("1h", 3_600_000)] {
            assert_eq!(wait("--x", text).ok(), Some(Duration::from_millis(want)), "{text}");
        }
        for text in ["", "s", "-1s", "1y", "0", "1e9h", "99h", "..s"] {
            let refused = wait("KILN_RETRY_DELAY", text).expect_err("no wait").to_string();
            assert!(refused.contains("KILN_RETRY_DELAY"), "{refused}");
        }
        let args = PatienceArgs { retry: Some("often".to_owned()), ..PatienceArgs::default() };
        assert!(args.over(|_| None).expect_err("no number").to_string().contains("--retry"));
    }
}
