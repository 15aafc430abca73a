//! The expansion of variables in words, as BuildKit's shell lexer does it: quotes, escapes, `$v` and
//! the forms of `${v}`. It does not know where values come from: it asks a function.

use std::collections::BTreeSet;

use crate::glob::{Glob, Reach};

/// How deep `${a:-${b:-…}}` may nest.
pub const MAX_NESTING: usize = 100;

/// How many bytes substitutions may add to a word: `${a//?/$a}` in itself squares its length each time.
pub const MAX_ADDED: usize = 1 << 20;

/// How many steps the patterns of a word may take: the characters of a value times those of the pattern.
const MAX_STEPS: usize = 1 << 24;

/// What an expansion made of a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The word's value.
    pub value: String,
    /// The value split at the blanks that were not quoted.
    pub words: Vec<String>,
    /// The names that were looked up and are not set, sorted.
    pub unmatched: Vec<String>,
    /// The names that were looked up and are set, sorted.
    pub used: Vec<String>,
}

/// Why a word can't be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// A `'` without its partner.
    #[error("unexpected end of statement while looking for matching single-quote")]
    SingleQuote,
    /// A `"` without its partner.
    #[error("unexpected end of statement while looking for matching double-quote")]
    DoubleQuote,
    /// A `${` without its end.
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    /// A `${v/p` without its second slash.
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    /// `${}`, `${:…}` or `${{…`.
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    /// What follows the name in `${v…}` is no known form.
    #[error("unsupported modifier ({0}) in substitution")]
    UnsupportedModifier(String),
    /// `${v?m}` or `${v:?m}` of a variable without a value.
    #[error("{name}: {message}")]
    Required {
        /// The variable's name.
        name: String,
        /// The message after `?`, or a default.
        message: String,
    },
    /// A pattern that escapes a character which may not be.
    #[error("invalid pattern ({pattern}) in substitution: invalid escape")]
    Pattern {
        /// The pattern.
        pattern: String,
    },
    /// More than [`MAX_NESTING`] levels.
    #[error("substitutions are nested too deeply")]
    TooDeep,
    /// More than [`MAX_ADDED`] bytes, or too many steps to find a long pattern in a long value.
    #[error("a value has more than the {} bytes that it may have", MAX_ADDED)]
    TooLong,
}

impl ExpandError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            ExpandError::SingleQuote => "close the quote, or write \\' for one that is meant".to_owned(),
            ExpandError::DoubleQuote => "close the quote, or write \\\" for one that is meant".to_owned(),
            ExpandError::MissingBrace => "end it with }, or write \\$ for a dollar sign that is meant".to_owned(),
            ExpandError::MissingSlash => "write ${NAME/PATTERN/REPLACEMENT}".to_owned(),
            ExpandError::BadSubstitution | ExpandError::UnsupportedModifier(_) => {
                "there are ${v}, ${v:-word}, ${v:+word}, ${v:?message}, the same without the colon, ${v#pattern}, \
                 ${v##pattern}, ${v%pattern}, ${v%%pattern}, ${v/pattern/word} and ${v//pattern/word}"
                    .to_owned()
            }
            ExpandError::Required { name, .. } => {
                format!("give {name} a value, by ARG or ENV before this, or with --build-arg {name}=VALUE")
            }
            ExpandError::Pattern { .. } => {
                "in a pattern \\ stands before one of * ? / $ } or itself".to_owned()
            }
            ExpandError::TooDeep => format!("at most {MAX_NESTING} may be within each other"),
            ExpandError::TooLong => {
                "a variable that has itself in its value twice doubles each time".to_owned()
            }
        }
    }
}

/// The rules of one expansion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lexer {
    /// The escape character.
    pub escape: char,
    /// Whether quotes stay in the result.
    pub raw_quotes: bool,
    /// Whether escape characters stay in the result.
    pub raw_escapes: bool,
    /// Whether quotes are characters like others.
    pub skip_quotes: bool,
    /// Whether a variable that is not set stays as it was written.
    pub skip_unset: bool,
}

impl Lexer {
    /// The plain rules: quotes and escapes are removed, unset variables become nothing.
    pub fn new(escape: char) -> Lexer {
        Lexer { escape, raw_quotes: false, raw_escapes: false, skip_quotes: false, skip_unset: false }
    }

    /// Expands a word.
    pub fn expand(&self, word: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Expanded, ExpandError> {
        let text = word.strip_prefix('\u{feff}').unwrap_or(word);
        let mut run = Run {
            lexer: *self,
            env,
            rest: text.chars(),
            used: BTreeSet::new(),
            unmatched: BTreeSet::new(),
            raw_escapes: self.raw_escapes,
            depth: 0,
            added: 0,
            steps: 0,
        };
        let mut splitter = Splitter::default();
        let value = run.until(None, self.raw_escapes, Some(&mut splitter))?;
        Ok(Expanded {
            value,
            words: splitter.finish(),
            unmatched: run.unmatched.into_iter().collect(),
            used: run.used.into_iter().collect(),
        })
    }
}

/// Expands a word: variables replaced, quotes and escapes removed.
pub fn expand_word(
    word: &str,
    escape: char,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Expanded, ExpandError> {
    Lexer::new(escape).expand(word, env)
}

/// Expands a word and splits it at the blanks that were not quoted, as `EXPOSE` does.
pub fn expand_words(
    word: &str,
    escape: char,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<String>, ExpandError> {
    Ok(Lexer::new(escape).expand(word, env)?.words)
}

/// Expands the body of a heredoc: quotes are characters like others, and need no partner; an escape
/// character is removed and what follows it kept.
pub fn expand_word_raw_quotes(
    word: &str,
    escape: char,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Expanded, ExpandError> {
    Lexer { skip_quotes: true, ..Lexer::new(escape) }.expand(word, env)
}

/// One expansion under way.
struct Run<'a> {
    lexer: Lexer,
    env: &'a dyn Fn(&str) -> Option<String>,
    rest: std::str::Chars<'a>,
    used: BTreeSet<String>,
    unmatched: BTreeSet<String>,
    raw_escapes: bool,
    depth: usize,
    /// The bytes of values and of what patterns made of them.
    added: usize,
    /// The steps that patterns may have taken.
    steps: usize,
}

impl Run<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn next(&mut self) -> Option<char> {
        self.rest.next()
    }

    /// Expands up to `stop`, which is consumed, or to the end.
    fn until(
        &mut self,
        stop: Option<char>,
        raw_escapes: bool,
        mut words: Option<&mut Splitter>,
    ) -> Result<String, ExpandError> {
        if self.depth > MAX_NESTING {
            return Err(ExpandError::TooDeep);
        }
        let outer = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        self.depth += 1;
        let mut out = String::new();
        let mut ended = stop.is_none();
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.next();
                ended = true;
                break;
            }
            self.piece(c, &mut out, words.as_deref_mut())?;
        }
        self.depth -= 1;
        self.raw_escapes = outer;
        if ended { Ok(out) } else { Err(ExpandError::MissingBrace) }
    }

    /// Expands one character, quoted run or substitution.
    fn piece(&mut self, c: char, out: &mut String, words: Option<&mut Splitter>) -> Result<(), ExpandError> {
        let from = out.len();
        let mut quoted = true;
        match c {
            '\'' if !self.lexer.skip_quotes => self.single_quoted(out)?,
            '"' if !self.lexer.skip_quotes => self.double_quoted(out)?,
            '$' => {
                quoted = false;
                let value = self.dollar()?;
                out.push_str(&value);
            }
            _ => {
                self.next();
                let escaped = c == self.lexer.escape;
                quoted = escaped;
                if !escaped || self.raw_escapes {
                    out.push(c);
                }
                if escaped {
                    out.extend(self.next());
                }
            }
        }
        if let Some(words) = words {
            if quoted { words.push_quoted(&out[from..]) } else { words.push(&out[from..]) }
        }
        Ok(())
    }

    fn single_quoted(&mut self, out: &mut String) -> Result<(), ExpandError> {
        self.next();
        if self.lexer.raw_quotes {
            out.push('\'');
        }
        loop {
            match self.next().ok_or(ExpandError::SingleQuote)? {
                '\'' => break,
                c => out.push(c),
            }
        }
        if self.lexer.raw_quotes {
            out.push('\'');
        }
        Ok(())
    }

    fn double_quoted(&mut self, out: &mut String) -> Result<(), ExpandError> {
        self.next();
        if self.lexer.raw_quotes {
            out.push('"');
        }
        loop {
            match self.peek().ok_or(ExpandError::DoubleQuote)? {
                '"' => break,
                '$' => {
                    let value = self.dollar()?;
                    out.push_str(&value);
                }
                mut c => {
                    self.next();
                    if c == self.lexer.escape {
                        if self.raw_escapes {
                            out.push(c);
                        }
                        match self.peek() {
                            None => continue,
                            Some(next) if next == '"' || next == '$' || next == c => {
                                self.next();
                                c = next;
                            }
                            Some(_) => {}
                        }
                    }
                    out.push(c);
                }
            }
        }
        self.next();
        if self.lexer.raw_quotes {
            out.push('"');
        }
        Ok(())
    }

    /// `$v` or `${v…}`.
    fn dollar(&mut self) -> Result<String, ExpandError> {
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.look_up(&name)? {
                None if self.lexer.skip_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.next();
        match self.peek() {
            None => return Err(ExpandError::MissingBrace),
            Some('{' | '}' | ':') => return Err(ExpandError::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        match self.next() {
            None => Err(ExpandError::MissingBrace),
            Some('}') => Ok(match self.look_up(&name)? {
                None if self.lexer.skip_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            }),
            Some(':') => {
                let modifier = self.next().ok_or(ExpandError::MissingBrace)?;
                self.modified(&name, modifier, true)
            }
            Some(modifier @ ('+' | '-' | '?' | '#' | '%')) => self.modified(&name, modifier, false),
            Some('/') => self.replaced(&name),
            Some(other) => Err(ExpandError::UnsupportedModifier(other.to_string())),
        }
    }

    /// The rest of `${v-w}` and its like, and of the same with a colon.
    fn modified(&mut self, name: &str, modifier: char, colon: bool) -> Result<String, ExpandError> {
        let raw_escapes = matches!(modifier, '#' | '%');
        let word = self.part('}', raw_escapes, ExpandError::MissingBrace)?;
        let value = self.look_up(name)?;
        let form = if colon { format!(":{modifier}") } else { modifier.to_string() };
        if value.is_none() && self.lexer.skip_unset {
            return Ok(format!("${{{name}{form}{word}}}"));
        }
        let missing = value.as_ref().is_none_or(|value| colon && value.is_empty());
        match modifier {
            '-' if missing => Ok(word),
            '-' => Ok(value.unwrap_or_default()),
            '+' if missing => Ok(String::new()),
            '+' => Ok(word),
            '?' if missing => {
                let reason = if value.is_none() { "unset" } else { "empty" };
                let message = if word.is_empty() { format!("is not allowed to be {reason}") } else { word };
                Err(ExpandError::Required { name: name.to_owned(), message })
            }
            '?' => Ok(value.unwrap_or_default()),
            '#' | '%' => {
                let (pattern, reach) = match word.strip_prefix(modifier) {
                    Some(pattern) => (pattern, Reach::Longest),
                    None => (word.as_str(), Reach::Shortest),
                };
                let value = value.unwrap_or_default();
                let glob = self.compile(pattern, &value)?;
                let trim = if modifier == '#' { Glob::trim_prefix } else { Glob::trim_suffix };
                Ok(trim(&glob, &value, reach))
            }
            _ => Err(ExpandError::UnsupportedModifier(form)),
        }
    }

    /// The rest of `${v/p/r}` and `${v//p/r}`.
    fn replaced(&mut self, name: &str) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.part('/', true, ExpandError::MissingSlash)?;
        let replacement = self.part('}', true, ExpandError::MissingBrace)?;
        let value = self.look_up(name)?;
        if value.is_none() && self.lexer.skip_unset {
            return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
        }
        let value = value.unwrap_or_default();
        let glob = self.compile(&pattern, &value)?;
        if !all {
            return Ok(glob.replace_first(&value, &replacement));
        }
        let longest = value.len() + (MAX_ADDED - self.added);
        let replaced = glob.replace_all(&value, &replacement, longest).ok_or(ExpandError::TooLong)?;
        self.add(replaced.len().saturating_sub(value.len()))?;
        Ok(replaced)
    }

    /// A part of a substitution up to `stop`. An error at the text's end is said to be the missing end.
    fn part(&mut self, stop: char, raw_escapes: bool, missing: ExpandError) -> Result<String, ExpandError> {
        match self.until(Some(stop), raw_escapes, None) {
            Err(error @ (ExpandError::TooDeep | ExpandError::TooLong)) => Err(error),
            Err(_) if self.peek().is_none() => Err(missing),
            other => other,
        }
    }

    /// A name: digits, or one special character, or letters, digits and underscores.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.peek() {
            Some(c) if c.is_ascii_digit() => {
                while let Some(c) = self.peek().filter(|c| c.is_ascii_digit()) {
                    name.push(c);
                    self.next();
                }
            }
            Some(c @ ('@' | '*' | '#' | '?' | '-' | '$' | '!')) => {
                name.push(c);
                self.next();
            }
            _ => {
                while let Some(c) =
                    self.peek().filter(|c| c.is_alphabetic() || c.is_ascii_digit() || *c == '_')
                {
                    name.push(c);
                    self.next();
                }
            }
        }
        name
    }

    fn look_up(&mut self, name: &str) -> Result<Option<String>, ExpandError> {
        let value = (self.env)(name);
        let names = if value.is_some() { &mut self.used } else { &mut self.unmatched };
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
        self.add(value.as_ref().map_or(0, String::len))?;
        Ok(value)
    }

    /// Counts bytes that a value has put in.
    fn add(&mut self, bytes: usize) -> Result<(), ExpandError> {
        self.added = self.added.saturating_add(bytes);
        if self.added > MAX_ADDED { Err(ExpandError::TooLong) } else { Ok(()) }
    }

    /// Compiles a pattern that is to be sought in a value.
    fn compile(&mut self, pattern: &str, value: &str) -> Result<Glob, ExpandError> {
        self.steps = self.steps.saturating_add(pattern.len().saturating_mul(value.len()));
        if self.steps > MAX_STEPS {
            return Err(ExpandError::TooLong);
        }
        Glob::new(pattern).map_err(|_| ExpandError::Pattern { pattern: pattern.to_owned() })
    }
}

/// Splits a value into words while it is made.
#[derive(Default)]
struct Splitter {
    word: String,
    words: Vec<String>,
}

impl Splitter {
    fn push(&mut self, text: &str) {
        for c in text.chars() {
            if !c.is_whitespace() {
                self.word.push(c);
            } else if !self.word.is_empty() {
                self.words.push(std::mem::take(&mut self.word));
            }
        }
    }

    fn push_quoted(&mut self, text: &str) {
        self.word.push_str(text);
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        self.words
    }
}

#[cfg(test)]
#[path = "expand_tests.rs"]
mod tests;
