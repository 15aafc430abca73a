//! A template's text as pieces: literal text, and the words of each action. It does not know what they mean.

use super::Flaw;

/// A piece, and the character at which it begins, counted from 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub at: usize,
    pub kind: Kind,
}

/// What a piece is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// Text outside of actions.
    Text(String),
    /// `{{` and `}}`.
    Open,
    Close,
    /// A name: a keyword or a function.
    Name(String),
    /// `.A`: one field, right behind what it is a field of if `joined`.
    Field {
        name: String,
        joined: bool,
    },
    /// `.` alone.
    Dot,
    /// `$x`, without its dollar sign.
    Variable(String),
    /// Texts and numbers.
    Quoted(String),
    Number(serde_json::Number),
    /// `|`, `(`, `)`, `,`, `:=`, `=`.
    Mark(&'static str),
}

/// The blanks that `{{-` and `-}}` take away.
const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];
const MARKS: [&str; 6] = [":=", "=", "|", "(", ")", ","];

/// The pieces of a template.
pub(super) fn lex(text: &str) -> Result<Vec<Token>, Flaw> {
    let mut lexer = Lexer { chars: text.chars().collect(), at: 0, tokens: Vec::new() };
    lexer.all()?;
    Ok(lexer.tokens)
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    tokens: Vec<Token>,
}

impl Lexer {
    fn starts_with(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(i, c)| self.chars.get(self.at + i) == Some(&c))
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn push(&mut self, from: usize, kind: Kind) {
        self.tokens.push(Token { at: from + 1, kind });
    }

    fn taken(&mut self, while_so: impl Fn(char) -> bool) -> String {
        let from = self.at;
        while self.peek().is_some_and(&while_so) {
            self.at += 1;
        }
        self.chars[from..self.at].iter().collect()
    }

    fn all(&mut self) -> Result<(), Flaw> {
        let mut is_trimmed = false;
        while self.at < self.chars.len() {
            let from = self.at;
            while self.at < self.chars.len() && !self.starts_with("{{") {
                self.at += 1;
            }
            let mut text: String = self.chars[from..self.at].iter().collect();
            if is_trimmed {
                text = text.trim_start_matches(BLANKS).to_owned();
            }
            let trims = |c: Option<&char>| c.is_some_and(|c| BLANKS.contains(c));
            let is_cut =
                self.starts_with("{{-") && trims(self.chars.get(self.at + 3)) && self.at < self.chars.len();
            if is_cut {
                text = text.trim_end_matches(BLANKS).to_owned();
            }
            if !text.is_empty() {
                self.push(from, Kind::Text(text));
            }
            if self.at == self.chars.len() {
                break;
            }
            let open = self.at;
            self.at += if is_cut { 3 } else { 2 };
            is_trimmed = self.action(open)?;
        }
        Ok(())
    }

    /// One action to its end; whether the blanks behind it go.
    fn action(&mut self, open: usize) -> Result<bool, Flaw> {
        self.taken(|c| BLANKS.contains(&c));
        if self.starts_with("/*") {
            return self.comment(open);
        }
        self.push(open, Kind::Open);
        loop {
            let is_spaced = !self.taken(|c| BLANKS.contains(&c)).is_empty();
            let from = self.at;
            let trims = is_spaced && self.starts_with("-}}");
            if trims || self.starts_with("}}") {
                self.at += if trims { 3 } else { 2 };
                self.push(from, Kind::Close);
                return Ok(trims);
            }
            match self.peek() {
                None => return Err(Flaw::new(open + 1, "this {{ has no }}")),
                Some(c) => self.word(c, from, is_spaced)?,
            }
        }
    }

    fn comment(&mut self, open: usize) -> Result<bool, Flaw> {
        while self.at < self.chars.len() && !self.starts_with("*/") {
            self.at += 1;
        }
        self.at += 2;
        self.taken(|c| BLANKS.contains(&c));
        for (end, trims) in [("-}}", true), ("}}", false)] {
            if self.starts_with(end) {
                self.at += end.len();
                return Ok(trims);
            }
        }
        Err(Flaw::new(open + 1, "this comment does not end in */}}"))
    }

    fn word(&mut self, first: char, from: usize, is_spaced: bool) -> Result<(), Flaw> {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let next = self.chars.get(self.at + 1).copied();
        if let Some(mark) = MARKS.into_iter().find(|mark| self.starts_with(mark)) {
            self.at += mark.len();
            self.push(from, Kind::Mark(mark));
            return Ok(());
        }
        match first {
            '"' | '\'' | '`' => {
                let text = self.quoted(first, from)?;
                self.push(from, Kind::Quoted(text));
            }
            '$' => {
                self.at += 1;
                let name = self.taken(is_name);
                self.push(from, Kind::Variable(name));
            }
            '.' if next.is_some_and(is_name) => {
                self.at += 1;
                let name = self.taken(is_name);
                let joined =
                    !is_spaced && !matches!(self.tokens.last(), Some(Token { kind: Kind::Open, .. }));
                let joined = joined
                    && !matches!(self.tokens.last(), Some(Token { kind: Kind::Mark(m), .. }) if *m != ")");
                self.push(from, Kind::Field { name, joined });
            }
            '.' => {
                self.at += 1;
                self.push(from, Kind::Dot);
            }
            c if c.is_ascii_digit() || c == '-' || c == '+' => {
                self.at += 1;
                let rest = self.taken(|c| c.is_alphanumeric() || c == '.');
                let text = format!("{}{rest}", if c == '+' { String::new() } else { c.to_string() });
                let number = serde_json::from_str(&text);
                let number = number.map_err(|_| Flaw::new(from + 1, format!("`{text}` is no number")))?;
                self.push(from, Kind::Number(number));
            }
            c if is_name(c) => {
                let name = self.taken(is_name);
                self.push(from, Kind::Name(name));
            }
            c => return Err(Flaw::new(from + 1, format!("`{c}` means nothing here"))),
        }
        Ok(())
    }

    /// A text in quotes; in backquotes a backslash is itself.
    fn quoted(&mut self, quote: char, from: usize) -> Result<String, Flaw> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let c = self.peek().ok_or_else(|| Flaw::new(from + 1, "this quote is not closed"))?;
            self.at += 1;
            match c {
                c if c == quote => return Ok(text),
                '\\' if quote != '`' => {
                    let escaped = self.peek().unwrap_or('\\');
                    self.at += 1;
                    text.push(match escaped {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        '\\' | '"' | '\'' => escaped,
                        other => {
                            return Err(Flaw::new(
                                self.at,
                                format!("`\\{other}` is no escape that is known"),
                            ));
                        }
                    });
                }
                c => text.push(c),
            }
        }
    }
}
