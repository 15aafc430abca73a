//! What templates are filled in with: JSON, but that records, whose fields are known, are told from maps, which
//! may have any key; and how each is written. It does not know templates.

use serde_json::{Map as JsonMap, Number, Value as Json};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// The keys under which any key may stand: a missing one is no mistake.
const MAPS: [&str; 6] = ["Labels", "ExposedPorts", "Volumes", "Annotations", "annotations", "Extra"];
/// The keys under which a list stands, even where there is none.
const LISTS: [&str; 7] = ["Entrypoint", "Cmd", "Env", "OnBuild", "Shell", "RepoTags", "RepoDigests"];

/// A value in a template.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// Nothing: a key that a map has not.
    None,
    /// A list or map that there is none of.
    Nil,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Value>),
    /// Fields: to ask for one that is not there is a mistake.
    Record(BTreeMap<String, Value>),
    /// Keys that may be there or not.
    Map(BTreeMap<String, Value>),
}

impl Value {
    /// JSON as a value.
    pub fn of(json: Json) -> Value {
        Value::under("", json)
    }

    fn under(key: &str, json: Json) -> Value {
        match json {
            Json::Null if LISTS.contains(&key) || MAPS.contains(&key) => Value::Nil,
            Json::Null => Value::None,
            Json::Bool(bool) => Value::Bool(bool),
            Json::Number(number) => Value::Number(number),
            Json::String(text) => Value::Text(text),
            Json::Array(items) => Value::List(items.into_iter().map(Value::of).collect()),
            Json::Object(fields) => {
                let fields = fields.into_iter().map(|(name, value)| {
                    let value = Value::under(&name, value);
                    (name, value)
                });
                if MAPS.contains(&key) {
                    Value::Map(fields.collect())
                } else {
                    Value::Record(fields.collect())
                }
            }
        }
    }

    /// A number.
    pub fn number(n: i64) -> Value {
        Value::Number(n.into())
    }

    /// A text.
    pub fn text(text: impl Into<String>) -> Value {
        Value::Text(text.into())
    }

    /// The same as JSON.
    pub fn json(&self) -> Json {
        match self {
            Value::None | Value::Nil => Json::Null,
            Value::Bool(bool) => Json::Bool(*bool),
            Value::Number(number) => Json::Number(number.clone()),
            Value::Text(text) => Json::String(text.clone()),
            Value::List(items) => Json::Array(items.iter().map(Value::json).collect()),
            Value::Record(fields) | Value::Map(fields) => {
                let fields = fields.iter().map(|(name, value)| (name.clone(), value.json()));
                Json::Object(fields.collect::<JsonMap<String, Json>>())
            }
        }
    }

    /// Whether `if` takes it for true: nothing, zero and what is empty are not.
    pub fn is_true(&self) -> bool {
        match self {
            Value::None | Value::Nil => false,
            Value::Bool(bool) => *bool,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::Text(text) => !text.is_empty(),
            Value::List(items) => !items.is_empty(),
            Value::Record(_) => true,
            Value::Map(entries) => !entries.is_empty(),
        }
    }

    /// As Go's `%v` writes it.
    pub fn shown(&self) -> String {
        let all = |parts: Vec<String>| parts.join(" ");
        match self {
            Value::None => "<no value>".to_owned(),
            Value::Nil => "[]".to_owned(),
            Value::Bool(bool) => bool.to_string(),
            Value::Number(number) => number.to_string(),
            Value::Text(text) => text.clone(),
            Value::List(items) => format!("[{}]", all(items.iter().map(Value::shown).collect())),
            Value::Record(fields) => format!("{{{}}}", all(fields.values().map(Value::shown).collect())),
            Value::Map(entries) => {
                let entries = entries.iter().map(|(key, value)| format!("{key}:{}", value.shown()));
                format!("map[{}]", all(entries.collect()))
            }
        }
    }

    /// Which is less, where two can be compared.
    pub fn order(&self, other: &Value) -> Option<Ordering> {
        match (self, other) {
            (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
            (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    /// What kind of thing it is, in a message.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::None | Value::Nil => "nothing",
            Value::Bool(_) => "a truth value",
            Value::Number(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Record(_) => "a record",
            Value::Map(_) => "a map",
        }
    }
}
