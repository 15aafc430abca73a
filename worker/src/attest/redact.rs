//! Takes credentials out of texts that leave the machine: who and with which password in addresses, and the
//! values of secrets wherever they stand. It does not know what the texts are.

use serde_json::Value;

/// What stands in the place of a secret's value.
const INSTEAD: &str = "***";
/// A shorter value would be found in what is no secret, digests among it.
const SECRET_BYTES_MIN: usize = 8;

/// What must not be seen.
#[derive(Debug, Default)]
pub(super) struct Redactor {
    /// Values of secrets, the longest first.
    secrets: Vec<String>,
}

impl Redactor {
    /// One that knows these secrets. A value that is no text can't be in a text.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Vec<u8>>) -> Redactor {
        let mut known = Vec::new();
        for secret in secrets {
            let Ok(text) = std::str::from_utf8(secret) else { continue };
            // Whole as it is, and line by line: a file of secrets may be quoted in part.
            known.extend(
                [text, text.trim()].into_iter().chain(text.lines().map(str::trim)).map(str::to_owned),
            );
        }
        known.retain(|text| text.len() >= SECRET_BYTES_MIN);
        known.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        known.dedup();
        Redactor { secrets: known }
    }

    /// The text without what must not be seen.
    pub fn text(&self, text: &str) -> String {
        let text = without_credentials(text);
        self.secrets.iter().fold(text, |text, secret| match text.contains(secret.as_str()) {
            true => text.replace(secret.as_str(), INSTEAD),
            false => text,
        })
    }

    /// The same for bytes that may be a text.
    pub fn bytes(&self, bytes: &[u8]) -> Vec<u8> {
        std::str::from_utf8(bytes).map_or_else(|_| bytes.to_vec(), |text| self.text(text).into_bytes())
    }

    /// The same for all texts in a document. The names of its fields are not the user's.
    pub fn value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(all) => all.into_iter().map(|one| self.value(one)).collect(),
            Value::Object(all) => all.into_iter().map(|(name, one)| (name, self.value(one))).collect(),
            other => other,
        }
    }
}

/// The text, in which no address has a password; one of the web has no user either, as that may be a token.
fn without_credentials(text: &str) -> String {
    const MARK: &str = "://";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(MARK) {
        let (head, tail) = rest.split_at(at + MARK.len());
        out.push_str(head);
        let scheme = head[..at].rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '+').next();
        let is_web = scheme.is_some_and(|scheme| {
            scheme.eq_ignore_ascii_case("http") || { scheme.eq_ignore_ascii_case("https") }
        });
        let end = tail.find(|c: char| c.is_whitespace() || "/?#\"'`<>\\".contains(c)).unwrap_or(tail.len());
        rest = tail;
        if let Some(host) = tail[..end].rfind('@') {
            let user = &tail[..host];
            let name = user.split(':').next().unwrap_or_default();
            if !is_web && !name.is_empty() {
                out.push_str(name);
                out.push('@');
            }
            rest = &tail[host + 1..];
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_lose_passwords_and_those_of_the_web_their_users() {
        for (text, expect) in [
            ("https://me:pw@host/a", "https://host/a"),
            ("https://ghp_token@github.com/a.git#main", "https://github.com/a.git#main"),
            ("ssh://git:pw@host/a", "ssh://git@host/a"),
            ("ssh://git@host/a", "ssh://git@host/a"),
            ("git@github.com:a/b.git", "git@github.com:a/b.git"),
            ("http_proxy=HTTP://u:p@w@proxy:3128 x", "http_proxy=HTTP://proxy:3128 x"),
            ("curl 'https://a:b@c' https://d/e@f", "curl 'https://c' https://d/e@f"),
            ("socks5://u:p@h", "socks5://u@h"),
            ("https://h/?to=me@x", "https://h/?to=me@x"),
            ("://", "://"),
        ] {
            assert_eq!(without_credentials(text), expect, "{text}");
        }
    }

    #[test]
    fn values_of_secrets_are_seen_nowhere_in_a_document() {
        let secrets = [b"hunter22\n".to_vec(), b"ab\nlong-line-one\nlong-line-two".to_vec(), vec![0xff; 9]];
        let redactor = Redactor::new(&secrets);
        let value = json!({"hunter22": ["x=hunter22;", 1, {"b": "long-line-two"}], "ab": "ab"});
        let expect = json!({"hunter22": ["x=***;", 1, {"b": "***"}], "ab": "ab"});
        assert_eq!(redactor.value(value), expect);
        assert_eq!(redactor.bytes(b"echo hunter22"), b"echo ***");
        assert_eq!(redactor.bytes(&[0xff, 0xfe]), [0xff, 0xfe]);
    }
}
