//! The `WWW-Authenticate` header: what a registry wants to see before it answers.
//! It does not know credentials.

const HEADER_BYTES_MAX: usize = 16 * 1024;

/// One way to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The challenges of one header line. What is malformed is passed over.
    pub(crate) fn parse_all(header: &str) -> Vec<Challenge> {
        let mut cursor = Cursor { rest: header.get(..HEADER_BYTES_MAX).unwrap_or(header) };
        let mut challenges: Vec<Challenge> = Vec::new();
        loop {
            cursor.skip(|c| c == ',' || c.is_whitespace());
            if cursor.rest.is_empty() {
                return challenges;
            }
            let word = cursor.take(is_token).to_ascii_lowercase();
            if word.is_empty() {
                cursor.skip_one();
                continue;
            }
            let before = cursor.rest;
            cursor.skip(char::is_whitespace);
            let Some(value) = cursor.rest.strip_prefix('=') else {
                cursor.rest = before;
                challenges.push(Challenge { scheme: word, parameters: Vec::new() });
                continue;
            };
            cursor.rest = value;
            cursor.skip(char::is_whitespace);
            let value = cursor.value();
            if let Some(challenge) = challenges.last_mut() {
                challenge.parameters.push((word, value));
            }
        }
    }

    /// Whether it is of this scheme, in lower case.
    pub(crate) fn is(&self, scheme: &str) -> bool {
        self.scheme == scheme
    }

    /// The first parameter of this name, in lower case.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn skip(&mut self, of: impl Fn(char) -> bool) {
        self.rest = self.rest.trim_start_matches(of);
    }

    fn skip_one(&mut self) {
        let mut chars = self.rest.chars();
        chars.next();
        self.rest = chars.as_str();
    }

    fn take(&mut self, of: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !of(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// A quoted string, or, for servers that forget the quotes, all up to a comma or a space.
    fn value(&mut self) -> String {
        let Some(quoted) = self.rest.strip_prefix('"') else {
            return self.take(|c| c != ',' && !c.is_whitespace()).to_owned();
        };
        let mut value = String::new();
        let mut chars = quoted.chars();
        while let Some(c) = chars.next() {
            match c {
                '"' => break,
                '\\' => value.extend(chars.next()),
                c => value.push(c),
            }
        }
        self.rest = chars.as_str();
        value
    }
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_servers_write_them() {
        let check = |header: &str, want: &[(&str, &[(&str, &str)])]| {
            let want: Vec<Challenge> = want
                .iter()
                .map(|(scheme, parameters)| Challenge {
                    scheme: (*scheme).to_owned(),
                    parameters: parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
                })
                .collect();
            assert_eq!(Challenge::parse_all(header), want, "{header}");
        };
        check(
            r#"Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push""#,
            &[(
                "bearer",
                &[("realm", "https://a/t"), ("service", "s"), ("scope", "repository:a/b:pull,push")],
            )],
        );
        check(
            r#"basic Realm = "a \"b\", c" , Bearer realm=https://x/?q=1 service=y"#,
            &[
                ("basic", &[("realm", "a \"b\", c")]),
                ("bearer", &[("realm", "https://x/?q=1"), ("service", "y")]),
            ],
        );
        check("Negotiate, Basic realm=\"open", &[("negotiate", &[]), ("basic", &[("realm", "open")])]);
        check("", &[]);
        check(",,= ;", &[]);
        check("realm=\"no scheme\"", &[]);
    }

    #[test]
    fn no_header_makes_the_parser_fail_or_hang() {
        let seeds = [
            r#"Bearer realm="https://a/t",service="s\"",scope="repository:a:pull""#,
            "ä=\"\\",
            "a b c=,=\"\"",
        ];
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for round in 0..20_000 {
            let mut text: Vec<char> = seeds[round % seeds.len()].chars().collect();
            for _ in 0..next() % 6 {
                let at = usize::try_from(next()).unwrap_or(0) % (text.len() + 1);
                let c = ['"', '\\', ',', '=', ' ', 'ß', '\0', 'x'][usize::try_from(next() % 8).unwrap_or(0)];
                if next() % 2 == 0 || at >= text.len() {
                    text.insert(at, c);
                } else {
                    text[at] = c;
                }
            }
            let text: String = text.into_iter().collect();
            for challenge in Challenge::parse_all(&text) {
                assert!(!challenge.scheme.is_empty(), "{text:?}");
            }
        }
        assert!(Challenge::parse_all(&"a=".repeat(1_000_000)).is_empty());
    }
}
