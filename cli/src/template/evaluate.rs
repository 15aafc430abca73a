//! Fills a template's tree in. It does not know how the tree was read.

use super::functions::call;
use super::syntax::{Base, Command, Node, Operand, Pipeline};
use super::{Flaw, Value};
use kiln_grammar::suggest::nearest;

/// How many fields a message lists.
const LISTED_MAX: usize = 40;
/// What a template may write at most.
const OUTPUT_BYTES_MAX: usize = 64 << 20;

/// A template that is being filled in.
pub(super) struct Evaluation<'v> {
    root: &'v Value,
    /// Whether it is filled in with the heads of columns.
    heads: bool,
    variables: Vec<(String, Value)>,
    out: String,
}

/// How a list of nodes ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

impl Evaluation<'_> {
    pub fn new(root: &Value, heads: bool) -> Evaluation<'_> {
        Evaluation { root, heads, variables: Vec::new(), out: String::new() }
    }

    pub fn run(mut self, nodes: &[Node]) -> Result<String, Flaw> {
        self.nodes(nodes, &self.root.clone())?;
        Ok(self.out)
    }

    /// Fills nodes in; variables that they set are gone behind them.
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, Flaw> {
        let known = self.variables.len();
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::On {
                self.variables.truncate(known);
                return Ok(flow);
            }
        }
        self.variables.truncate(known);
        Ok(Flow::On)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, Flaw> {
        let known = self.variables.len();
        let flow = match node {
            Node::Text(text) => {
                self.out.push_str(text);
                Flow::On
            }
            Node::Print(pipeline) => {
                let value = self.set(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    self.out.push_str(&value.shown());
                }
                return self.limited(pipeline).map(|()| Flow::On);
            }
            Node::If { condition, then, otherwise } => {
                let chosen = if self.set(condition, dot)?.is_true() { then } else { otherwise };
                self.nodes(chosen, dot)?
            }
            Node::With { value, then, otherwise } => match self.set(value, dot)? {
                value if value.is_true() => self.nodes(then, &value)?,
                _ => self.nodes(otherwise, dot)?,
            },
            Node::Range { over, body, otherwise } => self.range(over, body, otherwise, dot)?,
            Node::Break => Flow::Break,
            Node::Continue => Flow::Continue,
        };
        self.variables.truncate(known);
        Ok(flow)
    }

    fn limited(&self, pipeline: &Pipeline) -> Result<(), Flaw> {
        match self.out.len() > OUTPUT_BYTES_MAX {
            true => Err(Flaw::new(place(pipeline), "the template writes more than 64 MiB")),
            false => Ok(()),
        }
    }

    fn range(
        &mut self,
        over: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, Flaw> {
        let value = self.pipeline(over, dot)?;
        let items: Vec<(Value, Value)> = match value {
            Value::List(items) => {
                items.into_iter().enumerate().map(|(at, item)| (Value::number(at as i64), item)).collect()
            }
            Value::Map(entries) | Value::Record(entries) => {
                entries.into_iter().map(|(key, item)| (Value::Text(key), item)).collect()
            }
            Value::None | Value::Nil => Vec::new(),
            _ if self.heads => Vec::new(),
            other => return Err(Flaw::new(place(over), format!("range can't go over {}", other.kind()))),
        };
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        let known = self.variables.len();
        for (key, item) in items {
            match over.variables.as_slice() {
                [one] => self.variables.push((one.clone(), item.clone())),
                [one, two, ..] => {
                    self.variables.push((one.clone(), key));
                    self.variables.push((two.clone(), item.clone()));
                }
                [] => {}
            }
            let flow = self.nodes(body, &item)?;
            self.variables.truncate(known);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    /// A pipeline's value; the variable that it sets has it too.
    fn set(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, Flaw> {
        let value = self.pipeline(pipeline, dot)?;
        if let Some(name) = pipeline.variables.first() {
            if pipeline.is_new {
                self.variables.push((name.clone(), value.clone()));
            } else if let Some((_, old)) = self.variables.iter_mut().rev().find(|(known, _)| known == name) {
                *old = value.clone();
            } else {
                return Err(Flaw::new(place(pipeline), format!("the variable ${name} is not there")));
            }
        }
        Ok(value)
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, Flaw> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, last, dot)?);
        }
        Ok(last.unwrap_or(Value::None))
    }

    /// What a command gives; what came through the pipe stands behind all its words.
    fn command(&mut self, command: &Command, piped: Option<Value>, dot: &Value) -> Result<Value, Flaw> {
        let Some((first, rest)) = command.words.split_first() else { return Ok(Value::None) };
        let Operand { at, base: Base::Function(name), fields } = first else {
            if let Some(word) = rest.first() {
                return Err(Flaw::new(word.at, "only a function can have something behind it"));
            }
            if piped.is_some() {
                return Err(Flaw::new(first.at, "a value can't be given what is before the |"));
            }
            return self.operand(first, dot);
        };
        let value = match name.as_str() {
            "and" | "or" => self.chosen(name, *at, rest, piped, dot)?,
            name => {
                let mut args =
                    rest.iter().map(|word| self.operand(word, dot)).collect::<Result<Vec<_>, _>>()?;
                args.extend(piped);
                // `join .X ","` and `.X | join ","` are both written.
                if self.heads {
                    args.into_iter().find(|arg| matches!(arg, Value::Text(_))).unwrap_or(Value::text(""))
                } else {
                    call(name, &args).map_err(|problem| Flaw::new(*at, problem))?
                }
            }
        };
        self.fields(value, fields)
    }

    /// `and` and `or` look no further than they must.
    fn chosen(
        &mut self,
        name: &str,
        at: usize,
        words: &[Operand],
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Value, Flaw> {
        let mut last = None;
        for word in words {
            let value = self.operand(word, dot)?;
            if value.is_true() == (name == "or") {
                return Ok(value);
            }
            last = Some(value);
        }
        piped.or(last).ok_or_else(|| Flaw::new(at, format!("`{name}` needs something behind it")))
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, Flaw> {
        let value = match &operand.base {
            Base::Dot => dot.clone(),
            Base::Variable(name) if name.is_empty() => self.root.clone(),
            Base::Variable(name) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                let missing = || Flaw::new(operand.at, format!("the variable ${name} is not there"));
                known.map(|(_, value)| value.clone()).ok_or_else(missing)?
            }
            Base::Text(text) => Value::text(text),
            Base::Number(number) => Value::Number(number.clone()),
            Base::Bool(bool) => Value::Bool(*bool),
            Base::Nil => Value::None,
            Base::Function(name) if self.heads => Value::text(name),
            Base::Function(name) => call(name, &[]).map_err(|problem| Flaw::new(operand.at, problem))?,
            Base::Group(pipeline) => self.pipeline(pipeline, dot)?,
        };
        self.fields(value, &operand.fields)
    }

    fn fields(&self, value: Value, fields: &[(usize, String)]) -> Result<Value, Flaw> {
        fields.iter().try_fold(value, |value, (at, name)| match value {
            Value::Map(mut entries) => Ok(entries.remove(name).unwrap_or(Value::None)),
            Value::Nil | Value::None => Ok(Value::None),
            Value::Record(mut known) => match known.remove(name) {
                Some(value) => Ok(value),
                None => Err(Flaw::new(*at, unknown(name, known.keys().map(String::as_str)))),
            },
            Value::Text(head) if self.heads => Ok(Value::Text(head)),
            other => Err(Flaw::new(*at, format!("{} has no field .{name}", other.kind()))),
        })
    }
}

fn place(pipeline: &Pipeline) -> usize {
    pipeline.commands.first().and_then(|command| command.words.first()).map_or(1, |word| word.at)
}

fn unknown<'k>(name: &str, known: impl Iterator<Item = &'k str> + Clone) -> String {
    let same = known.clone().find(|other| other.eq_ignore_ascii_case(name));
    match same.or_else(|| nearest(name, known.clone())) {
        Some(near) => format!("there is no field .{name}; did you mean .{near}?"),
        None => {
            let known: Vec<String> = known.take(LISTED_MAX).map(|known| format!(".{known}")).collect();
            format!("there is no field .{name}; there are {}", known.join(" "))
        }
    }
}
