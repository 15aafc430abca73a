//! What a failure of an object store was: an answer that is no success, or none. It does not know what was asked.

use crate::cache::CacheError;
use std::error::Error;

/// What stands before a status in the text of the library's error, which has no other way to tell it.
const STATUS_MARK: &str = "non-2xx status code: ";
/// How much of an answer is shown.
const BODY_CHARS_MAX: usize = 300;

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Answer {
    /// The server said no.
    Status {
        /// The HTTP status.
        status: u16,
        /// What it said.
        body: String,
    },
    /// There was no answer, or none that is understood.
    None(String),
}

impl Answer {
    /// Whether the server gave this code as its reason.
    pub fn says(&self, code: &str) -> bool {
        matches!(self, Answer::Status { body, .. } if body.contains(code))
    }

    pub fn into_error(self, request: String) -> CacheError {
        match self {
            Answer::Status { status, body } => CacheError::Status { request, status, body: told(&body) },
            Answer::None(reason) => CacheError::Unreachable { request, reason },
        }
    }
}

/// Finds out of an error of the library what happened.
pub(super) fn answer(error: &(dyn Error + 'static)) -> Answer {
    let mut cause = error;
    loop {
        let text = cause.to_string();
        // An outer error repeats the text of the inner one: only that one begins with it.
        if let Some(rest) = text.strip_prefix("Server returned ").and_then(|t| t.strip_prefix(STATUS_MARK)) {
            let status = rest.split(' ').next().unwrap_or_default().trim_end_matches(':').parse();
            let body = rest.split_once(": ").map_or("", |(_, body)| body);
            return Answer::Status { status: status.unwrap_or_default(), body: body.to_owned() };
        }
        match cause.source() {
            Some(inner) => cause = inner,
            None => return Answer::None(printable(&text)),
        }
    }
}

/// What an answer says, without its XML.
pub(super) fn told(body: &str) -> String {
    let of = |name: &str| {
        let (_, rest) = body.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
    };
    match (of("Code"), of("Message")) {
        (Some(code), Some(message)) => printable(&format!("{code}: {message}")),
        (Some(code), None) => printable(code),
        _ => printable(body),
    }
}

/// The beginning of what somebody else wrote, on one line.
fn printable(text: &str) -> String {
    let text = text.split(|c: char| c.is_control() || c == ' ').filter(|w| !w.is_empty());
    text.collect::<Vec<_>>().join(" ").chars().take(BODY_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::told;

    #[test]
    fn an_answer_is_told_on_one_line_without_its_xml() {
        for (body, expect) in [
            (
                "<Error><Code>NoSuchBucket</Code><Message>It is\nnot there</Message></Error>",
                "NoSuchBucket: It is not there",
            ),
            ("<Error><Code>SlowDown</Code></Error>", "SlowDown"),
            ("oh \u{1b}[31mno", "oh [31mno"),
            ("", ""),
        ] {
            assert_eq!(told(body), expect);
        }
        assert_eq!(told(&"x".repeat(9999)).len(), 300);
    }
}
