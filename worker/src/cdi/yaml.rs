//! YAML as far as device specifications use it, read into JSON's values: one document, plain scalars as
//! numbers and truth values where they look like it. It does not know what a specification is.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError};
use serde_json::{Map, Number, Value};
use std::collections::HashMap;

/// How deep collections may be in each other.
const DEPTH_MAX: usize = 64;
/// How many values a document may have, those that aliases repeat counted each time.
const VALUES_MAX: usize = 100_000;
/// How many bytes its texts may have, those that aliases repeat counted each time.
const TEXT_BYTES_MAX: usize = 16 << 20;

/// Why a text is not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum YamlError {
    /// No YAML.
    #[error(transparent)]
    Syntax(#[from] ScanError),
    /// A key that is a collection.
    #[error("a key is not a word")]
    Key,
    /// A key that is there twice.
    #[error("the key `{0}` is there twice")]
    Twice(String),
    /// More than one document.
    #[error("it has more than one document")]
    Documents,
    /// Too much of it.
    #[error("it has more values, or they are deeper in each other, than a specification can have")]
    TooMuch,
}

/// A collection that is being read, and its anchor.
enum Open {
    List(Vec<Value>, usize),
    Map(Map<String, Value>, Option<String>, usize),
}

/// Reads a document; an empty one is `null`.
pub(super) fn read(text: &str) -> Result<Value, YamlError> {
    let mut reader = Reader::default();
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        match event?.0 {
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return Err(YamlError::Documents);
                }
            }
            Event::Alias(anchor) => {
                let value = reader.anchors.get(&anchor).cloned().unwrap_or_default();
                reader.count(values_in(&value))?;
                reader.count_bytes(bytes_in(&value))?;
                reader.put(value, 0)?;
            }
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = style != ScalarStyle::Plain
                    || tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
                reader.count(1)?;
                reader.count_bytes(text.len())?;
                reader.put(if is_text { text.into() } else { plain(&text) }, anchor)?;
            }
            Event::SequenceStart(anchor, _) => reader.open(Open::List(Vec::new(), anchor))?,
            Event::MappingStart(anchor, _) => reader.open(Open::Map(Map::new(), None, anchor))?,
            Event::SequenceEnd | Event::MappingEnd => reader.close()?,
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
    }
    Ok(reader.whole)
}

#[derive(Default)]
struct Reader {
    open: Vec<Open>,
    anchors: HashMap<usize, Value>,
    values: usize,
    bytes: usize,
    whole: Value,
}

impl Reader {
    fn count(&mut self, values: usize) -> Result<(), YamlError> {
        self.values += values;
        if self.values > VALUES_MAX { Err(YamlError::TooMuch) } else { Ok(()) }
    }

    fn count_bytes(&mut self, bytes: usize) -> Result<(), YamlError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > TEXT_BYTES_MAX { Err(YamlError::TooMuch) } else { Ok(()) }
    }

    fn open(&mut self, collection: Open) -> Result<(), YamlError> {
        self.count(1)?;
        self.open.push(collection);
        if self.open.len() > DEPTH_MAX { Err(YamlError::TooMuch) } else { Ok(()) }
    }

    fn close(&mut self) -> Result<(), YamlError> {
        match self.open.pop() {
            Some(Open::List(list, anchor)) => self.put(Value::Array(list), anchor),
            Some(Open::Map(map, _, anchor)) => self.put(Value::Object(map), anchor),
            None => Ok(()),
        }
    }

    /// Puts a value where it belongs: as an element, a key, or a key's value.
    fn put(&mut self, value: Value, anchor: usize) -> Result<(), YamlError> {
        if anchor > 0 {
            self.anchors.insert(anchor, value.clone());
        }
        match self.open.last_mut() {
            None => self.whole = value,
            Some(Open::List(list, _)) => list.push(value),
            Some(Open::Map(map, key, _)) => match key.take() {
                Some(key) => {
                    map.insert(key, value);
                }
                None => {
                    let name = match value {
                        Value::String(name) => name,
                        Value::Number(number) => number.to_string(),
                        Value::Bool(truth) => truth.to_string(),
                        Value::Null | Value::Array(_) | Value::Object(_) => return Err(YamlError::Key),
                    };
                    if map.contains_key(&name) {
                        return Err(YamlError::Twice(name));
                    }
                    *key = Some(name);
                }
            },
        }
        Ok(())
    }
}

/// The bytes of a value's texts.
fn bytes_in(value: &Value) -> usize {
    match value {
        Value::Array(list) => list.iter().map(bytes_in).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + bytes_in(value)).sum(),
        Value::String(text) => text.len(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

fn values_in(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(values_in).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(values_in).sum::<usize>(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
    }
}

/// What a plain scalar stands for. Digits after a zero are octal, as the writers of specifications mean them.
fn plain(text: &str) -> Value {
    let unsigned = text.trim_start_matches(['-', '+']);
    let digits = |prefix: &str, radix| {
        unsigned.strip_prefix(prefix).and_then(|digits| i64::from_str_radix(digits, radix).ok())
    };
    let is_number = unsigned.starts_with(|c: char| c.is_ascii_digit()) && text.len() <= unsigned.len() + 1;
    let number = match is_number {
        true if unsigned == "0" => Some(0),
        true => digits("0o", 8)
            .or_else(|| digits("0x", 16))
            .or_else(|| digits("0", 8))
            .or_else(|| (!unsigned.starts_with('0')).then(|| unsigned.parse().ok()).flatten()),
        false => None,
    };
    match (text, number) {
        (_, Some(number)) => {
            Value::Number(Number::from(if text.starts_with('-') { -number } else { number }))
        }
        ("" | "~" | "null" | "Null" | "NULL", _) => Value::Null,
        ("true" | "True" | "TRUE", _) => Value::Bool(true),
        ("false" | "False" | "FALSE", _) => Value::Bool(false),
        (text, None) => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(text: &str, expect: Value) {
        assert_eq!(read(text).unwrap_or_else(|e| panic!("{text}: {e}")), expect, "{text}");
    }

    #[test]
    fn a_document_is_read_as_json_would_be() {
        check("a: 1\nb:\n- x\n- {c: \"0\", d: ~}\n", json!({"a": 1, "b": ["x", {"c": "0", "d": null}]}));
        check("{\"a\": [1, true], \"b\": \"true\"}", json!({"a": [1, true], "b": "true"}));
        check("---\nv: 0.6.0\nt: |\n  two\n  lines\n", json!({"v": "0.6.0", "t": "two\nlines\n"}));
        check("", Value::Null);
    }

    #[test]
    fn numbers_are_decimal_octal_or_hexadecimal() {
        check("[0, 7, -7, 0660, 0o660, 0x1f]", json!([0, 7, -7, 432, 432, 31]));
        check("[08, 1.5, 1a, --1, !!str 7, '7']", json!(["08", "1.5", "1a", "--1", "7", "7"]));
    }

    #[test]
    fn aliases_repeat_what_they_name_within_limits() {
        check("a: &x {b: 1}\nc: *x\n", json!({"a": {"b": 1}, "c": {"b": 1}}));
        let mut bomb = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
        for level in 1..10 {
            let below = format!("*a{}", level - 1);
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", [below.as_str(); 10].join(", ")));
        }
        assert!(matches!(read(&bomb), Err(YamlError::TooMuch)));
        assert!(matches!(read(&"[".repeat(100)), Err(YamlError::TooMuch)));
    }

    #[test]
    fn what_has_no_one_meaning_is_refused() {
        assert!(matches!(read("a: 1\na: 2\n"), Err(YamlError::Twice(_))));
        assert!(matches!(read("[a]: 1\n"), Err(YamlError::Key)));
        assert!(matches!(read("a: 1\n---\nb: 2\n"), Err(YamlError::Documents)));
        assert!(matches!(read("a: [1\n"), Err(YamlError::Syntax(_))));
    }
}
