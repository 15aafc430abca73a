//! The functions of templates: Go's own, and those that docker adds. It does not know where they stand.

use super::Value;
use std::cmp::Ordering;

/// All of them, but `and` and `or`, which do not look at all that stands behind them.
pub(super) const NAMES: [&str; 26] = [
    "and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "len", "index", "slice", "print", "println",
    "printf", "json", "join", "split", "lower", "upper", "title", "pad", "truncate", "trim", "html",
    "urlquery",
];

/// What a function gives, or what is wrong with what it was given.
pub(super) fn call(name: &str, args: &[Value]) -> Result<Value, String> {
    match (name, args) {
        ("not", [one]) => Ok(Value::Bool(!one.is_true())),
        ("eq", [first, others @ ..]) if !others.is_empty() => {
            Ok(Value::Bool(others.iter().any(|other| equal(first, other))))
        }
        ("ne", [a, b]) => Ok(Value::Bool(!equal(a, b))),
        ("lt" | "le" | "gt" | "ge", [a, b]) => {
            let order = a.order(b);
            let order = order.ok_or_else(|| format!("{} and {} can't be compared", a.kind(), b.kind()))?;
            Ok(Value::Bool(match name {
                "lt" => order == Ordering::Less,
                "le" => order != Ordering::Greater,
                "gt" => order == Ordering::Greater,
                _ => order != Ordering::Less,
            }))
        }
        ("len", [one]) => length(one),
        ("index", [from, keys @ ..]) => keys.iter().try_fold(from.clone(), |from, key| index(&from, key)),
        ("slice", [from, bounds @ ..]) if bounds.len() <= 2 => slice(from, bounds),
        ("print", args) => Ok(Value::Text(spaced(args, false))),
        ("println", args) => Ok(Value::Text(spaced(args, true) + "\n")),
        ("printf", [Value::Text(format), args @ ..]) => printf(format, args).map(Value::Text),
        ("json", [one]) => Ok(Value::Text(one.json().to_string())),
        ("join", [Value::List(items), Value::Text(between)]) => {
            let items: Vec<String> = items.iter().map(Value::shown).collect();
            Ok(Value::Text(items.join(between)))
        }
        ("join", [Value::None | Value::Nil, Value::Text(_)]) => Ok(Value::text("")),
        ("split", [Value::Text(text), Value::Text(at)]) => {
            let is_empty = at.is_empty();
            let parts = text.split(at.as_str()).filter(|part| !is_empty || !part.is_empty());
            Ok(Value::List(parts.map(Value::text).collect()))
        }
        ("lower", [Value::Text(text)]) => Ok(Value::Text(text.to_lowercase())),
        ("upper", [Value::Text(text)]) => Ok(Value::Text(text.to_uppercase())),
        ("title", [Value::Text(text)]) => Ok(Value::Text(title(text))),
        ("trim", [Value::Text(text)]) => Ok(Value::text(text.trim())),
        ("pad", [Value::Text(text), Value::Number(before), Value::Number(after)]) => {
            let blanks = |n: &serde_json::Number| " ".repeat(n.as_u64().unwrap_or(0).min(1000) as usize);
            // As docker: nothing stays nothing.
            let padded = format!("{}{text}{}", blanks(before), blanks(after));
            Ok(Value::Text(if text.is_empty() { String::new() } else { padded }))
        }
        ("truncate", [Value::Text(text), Value::Number(n)]) => {
            Ok(Value::Text(text.chars().take(n.as_u64().unwrap_or(0) as usize).collect()))
        }
        ("html" | "urlquery", _) => Err(format!("`{name}` is not done by kiln")),
        (name, args) => {
            let kinds: Vec<&str> = args.iter().map(Value::kind).collect();
            let given = if kinds.is_empty() { "nothing".to_owned() } else { kinds.join(", ") };
            Err(format!("`{name}` can't be given {given}"))
        }
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    match a.order(b) {
        Some(order) => order == Ordering::Equal,
        None => a == b || matches!((a, b), (Value::None | Value::Nil, Value::None | Value::Nil)),
    }
}

fn length(of: &Value) -> Result<Value, String> {
    let length = match of {
        Value::Text(text) => text.len(),
        Value::List(items) => items.len(),
        Value::Map(entries) => entries.len(),
        Value::None | Value::Nil => 0,
        other => return Err(format!("{} has no length", other.kind())),
    };
    Ok(Value::number(length as i64))
}

/// One step of `index`: a map's missing key is nothing, a list's is a mistake.
fn index(from: &Value, key: &Value) -> Result<Value, String> {
    match (from, key) {
        // Go gives the zero value of the map's type, which is mostly an empty text.
        (Value::Map(entries), Value::Text(key)) => {
            Ok(entries.get(key).cloned().unwrap_or_else(|| Value::text("")))
        }
        (Value::Record(fields), Value::Text(key)) => {
            fields.get(key).cloned().ok_or_else(|| format!("there is no field `{key}`"))
        }
        (Value::Nil | Value::None, Value::Text(_)) => Ok(Value::text("")),
        (Value::List(items), Value::Number(n)) => {
            let at = n.as_u64().and_then(|n| items.get(usize::try_from(n).ok()?));
            at.cloned().ok_or_else(|| format!("the index {n} is out of range: there are {}", items.len()))
        }
        (Value::Nil, Value::Number(n)) => Err(format!("the index {n} is out of range: there are 0")),
        (from, key) => Err(format!("{} has nothing at {}", from.kind(), key.shown())),
    }
}

fn slice(from: &Value, bounds: &[Value]) -> Result<Value, String> {
    let length = length(from)?.order(&Value::number(0)).map_or(0, |_| match from {
        Value::Text(text) => text.len(),
        Value::List(items) => items.len(),
        _ => 0,
    });
    let bound = |at: usize, default: usize| match bounds.get(at) {
        Some(Value::Number(n)) => {
            n.as_u64().map(|n| n as usize).filter(|n| *n <= length).ok_or(n.to_string())
        }
        Some(other) => Err(other.shown()),
        None => Ok(default),
    };
    let (begin, end) = match (bound(0, 0), bound(1, length)) {
        (Ok(begin), Ok(end)) if begin <= end => (begin, end),
        (Ok(begin), Ok(end)) => return Err(format!("a slice can't go from {begin} to {end}")),
        (Err(bad), _) | (_, Err(bad)) => return Err(format!("{bad} is out of range: there are {length}")),
    };
    match from {
        Value::Text(text) => text
            .get(begin..end)
            .map(Value::text)
            .ok_or_else(|| "the slice would cut a letter in two".to_owned()),
        Value::List(items) => Ok(Value::List(items[begin..end].to_vec())),
        other => Err(format!("{} can't be sliced", other.kind())),
    }
}

/// As Go's print: a blank between two that are no texts, or between all.
fn spaced(args: &[Value], always: bool) -> String {
    let mut out = String::new();
    for (at, arg) in args.iter().enumerate() {
        let is_text = |value: &Value| matches!(value, Value::Text(_));
        if at > 0 && (always || !is_text(arg) && !is_text(&args[at - 1])) {
            out.push(' ');
        }
        out.push_str(&arg.shown());
    }
    out
}

fn title(text: &str) -> String {
    let mut is_first = true;
    let letter = |c: char| {
        let shown = if is_first { c.to_uppercase().to_string() } else { c.to_string() };
        is_first = !c.is_alphanumeric();
        shown
    };
    text.chars().map(letter).collect()
}

/// Go's verbs `%s %v %d %q %t %x %%`, with a width and a minus sign.
fn printf(format: &str, args: &[Value]) -> Result<String, String> {
    let mut out = String::new();
    let (mut chars, mut args) = (format.chars().peekable(), args.iter());
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut flags = String::new();
        while let Some(flag) = chars.next_if(|c| c.is_ascii_digit() || matches!(c, '-' | '.' | '+')) {
            flags.push(flag);
        }
        let verb = chars.next().ok_or("a % stands at the end of the format")?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let arg = args.next().ok_or_else(|| format!("there is nothing for %{verb}"))?;
        let shown = match (verb, arg) {
            ('s' | 'v', arg) => arg.shown(),
            ('d', Value::Number(n)) => n.to_string(),
            ('t', Value::Bool(bool)) => bool.to_string(),
            ('q', arg) => serde_json::Value::String(arg.shown()).to_string(),
            ('x', Value::Number(n)) => format!("{:x}", n.as_i64().unwrap_or_default()),
            ('f', Value::Number(n)) => format!("{:.*}", places(&flags), n.as_f64().unwrap_or_default()),
            (verb, arg) => return Err(format!("%{verb} can't show {}", arg.kind())),
        };
        let width = flags.split('.').next().unwrap_or_default();
        let cells = width.trim_start_matches(['-', '+']).parse::<usize>().unwrap_or(0).min(1000);
        out.push_str(&match width.starts_with('-') {
            true => format!("{shown:cells$}"),
            false => format!("{shown:>cells$}"),
        });
    }
    Ok(out)
}

fn places(flags: &str) -> usize {
    flags.split_once('.').and_then(|(_, places)| places.parse().ok()).unwrap_or(6).min(100)
}
