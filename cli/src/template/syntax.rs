//! The pieces of a template as a tree. It does not know values.

use super::Flaw;
use super::functions::NAMES;
use super::lex::{Kind, Token};
use kiln_grammar::suggest::nearest;

/// How deep actions and parentheses may nest.
const DEPTH_MAX: usize = 100;
const KEYWORDS: [&str; 7] = ["if", "else", "end", "range", "with", "break", "continue"];

/// A part of a template.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Text(String),
    /// A pipeline whose value is written, unless it sets a variable.
    Print(Pipeline),
    /// `if`: the first of the branches whose pipeline is true, else the last.
    If {
        condition: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        value: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Break,
    Continue,
}

/// `$x, $y := a | b | c`.
#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    /// The variables that it sets, and whether they are new.
    pub variables: Vec<String>,
    pub is_new: bool,
    pub commands: Vec<Command>,
}

/// A function or value, and what stands behind it.
#[derive(Clone, Debug)]
pub(super) struct Command {
    pub words: Vec<Operand>,
}

/// A word of a command, with the character where it begins.
#[derive(Clone, Debug)]
pub(super) struct Operand {
    pub at: usize,
    pub base: Base,
    /// The fields behind it, each with its place.
    pub fields: Vec<(usize, String)>,
}

/// What an operand begins with.
#[derive(Clone, Debug)]
pub(super) enum Base {
    Dot,
    Variable(String),
    Text(String),
    Number(serde_json::Number),
    Bool(bool),
    Nil,
    Function(String),
    Group(Box<Pipeline>),
}

/// What ended a list of nodes.
#[derive(Clone, Debug, PartialEq)]
enum End {
    All,
    Closed,
    Else,
    ElseIf,
    ElseWith,
}

/// The tree of the pieces.
pub(super) fn parse(tokens: &[Token]) -> Result<Vec<Node>, Flaw> {
    let mut parser = Parser { tokens, at: 0, depth: 0, loops: 0 };
    let (nodes, end) = parser.nodes()?;
    match end {
        End::All => Ok(nodes),
        _ => Err(Flaw::new(parser.place(), "there is no {{if}}, {{range}} or {{with}} that this is of")),
    }
}

struct Parser<'t> {
    tokens: &'t [Token],
    at: usize,
    depth: usize,
    loops: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Kind> {
        self.tokens.get(self.at).map(|token| &token.kind)
    }

    /// The character of the piece that comes next, or else of the last.
    fn place(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |token| token.at)
    }

    fn name(&self) -> Option<&str> {
        match self.peek() {
            Some(Kind::Name(name)) => Some(name),
            _ => None,
        }
    }

    fn takes(&mut self, kind: &Kind) -> bool {
        let is_so = self.peek() == Some(kind);
        self.at += usize::from(is_so);
        is_so
    }

    fn close(&mut self) -> Result<(), Flaw> {
        if self.takes(&Kind::Close) { Ok(()) } else { Err(Flaw::new(self.place(), "}} is expected here")) }
    }

    fn nested<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Flaw>) -> Result<T, Flaw> {
        if self.depth == DEPTH_MAX {
            return Err(Flaw::new(self.place(), "too much is nested here"));
        }
        self.depth += 1;
        let done = work(self);
        self.depth -= 1;
        done
    }

    fn nodes(&mut self) -> Result<(Vec<Node>, End), Flaw> {
        let mut nodes = Vec::new();
        while let Some(kind) = self.peek().cloned() {
            self.at += 1;
            match kind {
                Kind::Text(text) => nodes.push(Node::Text(text)),
                _ => match self.action()? {
                    Ok(node) => nodes.push(node),
                    Err(end) => return Ok((nodes, end)),
                },
            }
        }
        Ok((nodes, End::All))
    }

    /// An action behind its `{{`: a node, or what ends a list of them.
    fn action(&mut self) -> Result<Result<Node, End>, Flaw> {
        let keyword = self.name().filter(|name| KEYWORDS.contains(name)).map(str::to_owned);
        let at = self.place();
        self.at += usize::from(keyword.is_some());
        let node = match keyword.as_deref() {
            None => {
                let printed = self.pipeline()?;
                self.close()?;
                Node::Print(printed)
            }
            Some("end") => return self.close().map(|()| Err(End::Closed)),
            Some("else") => return self.otherwise().map(Err),
            Some(word @ ("break" | "continue")) => {
                self.close()?;
                if self.loops == 0 {
                    return Err(Flaw::new(at, format!("{{{{{word}}}}} stands in no {{{{range}}}}")));
                }
                if word == "break" { Node::Break } else { Node::Continue }
            }
            Some(word) => self.nested(|parser| parser.block(word, at))?,
        };
        Ok(Ok(node))
    }

    fn otherwise(&mut self) -> Result<End, Flaw> {
        let end = match self.name() {
            Some("if") => End::ElseIf,
            Some("with") => End::ElseWith,
            _ => return self.close().map(|()| End::Else),
        };
        self.at += 1;
        Ok(end)
    }

    /// What stands between an `if`, `with` or `range` and its end.
    fn block(&mut self, word: &str, at: usize) -> Result<Node, Flaw> {
        let head = self.pipeline()?;
        self.close()?;
        self.loops += usize::from(word == "range");
        let body = self.nodes();
        self.loops -= usize::from(word == "range");
        let (body, end) = body?;
        let unended = || Flaw::new(at, format!("this {{{{{word}}}}} has no {{{{end}}}}"));
        let otherwise = match end {
            End::Closed => Vec::new(),
            End::Else => match self.nodes()? {
                (nodes, End::Closed) => nodes,
                (_, End::All) => return Err(unended()),
                _ => return Err(Flaw::new(self.place(), "{{end}} is expected behind the last {{else}}")),
            },
            End::ElseIf if word == "if" => vec![self.nested(|parser| parser.block("if", at))?],
            End::ElseWith if word == "with" => vec![self.nested(|parser| parser.block("with", at))?],
            End::All => return Err(unended()),
            _ => {
                return Err(Flaw::new(
                    self.place(),
                    format!("this {{{{else}}}} does not fit {{{{{word}}}}}"),
                ));
            }
        };
        Ok(match word {
            "if" => Node::If { condition: head, then: body, otherwise },
            "with" => Node::With { value: head, then: body, otherwise },
            _ => Node::Range { over: head, body, otherwise },
        })
    }

    fn pipeline(&mut self) -> Result<Pipeline, Flaw> {
        let (variables, is_new) = self.variables();
        let mut commands = vec![self.command()?];
        while self.takes(&Kind::Mark("|")) {
            commands.push(self.command()?);
        }
        Ok(Pipeline { variables, is_new, commands })
    }

    /// The variables that a pipeline sets, if it does.
    fn variables(&mut self) -> (Vec<String>, bool) {
        let kind = |at: usize| self.tokens.get(at).map(|token| &token.kind);
        let (mut at, mut names) = (self.at, Vec::new());
        while let Some(Kind::Variable(name)) = kind(at) {
            names.push(name.clone());
            at += 1;
            if kind(at) != Some(&Kind::Mark(",")) {
                break;
            }
            at += 1;
        }
        match kind(at) {
            Some(Kind::Mark(mark @ (":=" | "="))) if !names.is_empty() => {
                self.at = at + 1;
                (names, *mark == ":=")
            }
            _ => (Vec::new(), false),
        }
    }

    fn command(&mut self) -> Result<Command, Flaw> {
        let mut words = Vec::new();
        while let Some(operand) = self.operand()? {
            words.push(operand);
        }
        if words.is_empty() {
            return Err(Flaw::new(self.place(), "a value or function is missing here"));
        }
        Ok(Command { words })
    }

    fn operand(&mut self) -> Result<Option<Operand>, Flaw> {
        let at = self.place();
        let (mut base, mut fields) = (Base::Dot, Vec::new());
        match self.peek().cloned() {
            Some(Kind::Dot) => {}
            Some(Kind::Field { name, .. }) => fields.push((at, name)),
            Some(Kind::Variable(name)) => base = Base::Variable(name),
            Some(Kind::Quoted(text)) => base = Base::Text(text),
            Some(Kind::Number(number)) => base = Base::Number(number),
            Some(Kind::Name(name)) => base = named(at, name)?,
            Some(Kind::Mark("(")) => {
                self.at += 1;
                let inner = self.nested(Parser::pipeline)?;
                if self.peek() != Some(&Kind::Mark(")")) {
                    return Err(Flaw::new(at, "this ( has no )"));
                }
                base = Base::Group(Box::new(inner));
            }
            Some(Kind::Mark("|" | ")") | Kind::Close) | None => return Ok(None),
            Some(_) => return Err(Flaw::new(at, "this means nothing here")),
        }
        self.at += 1;
        while let Some(Kind::Field { name, joined: true }) = self.peek().cloned() {
            fields.push((self.place(), name));
            self.at += 1;
        }
        Ok(Some(Operand { at, base, fields }))
    }
}

/// A word that is a constant or a function.
fn named(at: usize, name: String) -> Result<Base, Flaw> {
    match name.as_str() {
        "true" | "false" => Ok(Base::Bool(name == "true")),
        "nil" => Ok(Base::Nil),
        name if NAMES.contains(&name) => Ok(Base::Function(name.to_owned())),
        name => {
            let near = nearest(name, NAMES.into_iter().chain(KEYWORDS));
            let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            Err(Flaw::new(at, format!("there is no function `{name}`{near}")))
        }
    }
}
