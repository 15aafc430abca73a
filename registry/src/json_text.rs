//! Changes one entry of a JSON text and leaves every other byte as it is.
//! It does not know what the text means, and takes only texts that were read as JSON before.

use std::ops::Range;

/// One member of an object: where it is in the text, and where its value is.
struct Member {
    key: String,
    whole: Range<usize>,
    value: Range<usize>,
}

/// An object: where it is, braces and all, and what is in it.
struct Object {
    place: Range<usize>,
    members: Vec<Member>,
}

/// The text with `value`, which is JSON, under `outer` and in there under `inner`; `None` if it is no object, or what
/// is under `outer` is none.
pub(crate) fn set(text: &str, outer: &str, inner: &str, value: &str) -> Option<String> {
    let top = Object::at(text, skip_space(text.as_bytes(), 0))?;
    let Some(found) = top.last(outer) else {
        let name = serde_json::to_string(outer).ok()?;
        return Some(
            set(&top.with(text, &format!("{name}: {{}}"), ""), outer, inner, value).unwrap_or_default(),
        );
    };
    let object = Object::at(text, found.value.start)?;
    match object.last(inner) {
        Some(old) => Some(spliced(text, old.value.clone(), value)),
        None => {
            let name = serde_json::to_string(inner).ok()?;
            let depth = top.lead(text).to_owned();
            Some(object.with(text, &format!("{name}: {value}"), &depth))
        }
    }
}

/// The text without what is under `outer` and in there under `inner`; `None` if there is no such thing.
pub(crate) fn remove(text: &str, outer: &str, inner: &str) -> Option<String> {
    let top = Object::at(text, skip_space(text.as_bytes(), 0))?;
    let object = Object::at(text, top.last(outer)?.value.start)?;
    let index = object.members.iter().position(|member| member.key == inner)?;
    let place = &object.members[index].whole;
    let gone = match (index.checked_sub(1), object.members.get(index + 1)) {
        (Some(before), _) => object.members[before].whole.end..place.end,
        (None, Some(next)) => place.start..next.whole.start,
        (None, None) => object.place.start + 1..object.place.end - 1,
    };
    let text = spliced(text, gone, "");
    // A name may stand there more than once.
    Some(remove(&text, outer, inner).unwrap_or(text))
}

impl Object {
    fn at(text: &str, start: usize) -> Option<Object> {
        let bytes = text.as_bytes();
        if bytes.get(start) != Some(&b'{') {
            return None;
        }
        let mut members = Vec::new();
        let mut at = skip_space(bytes, start + 1);
        while bytes.get(at)? != &b'}' {
            let key_end = value_end(bytes, at)?;
            let key = serde_json::from_str(text.get(at..key_end)?).ok()?;
            let colon = skip_space(bytes, key_end);
            let value = skip_space(bytes, colon + 1);
            let end = value_end(bytes, value)?;
            members.push(Member { key, whole: at..end, value: value..end });
            at = skip_space(bytes, end);
            if bytes.get(at)? == &b',' {
                at = skip_space(bytes, at + 1);
            }
        }
        Some(Object { place: start..at + 1, members })
    }

    /// The member that counts, where several have one name.
    fn last(&self, key: &str) -> Option<&Member> {
        self.members.iter().rev().find(|member| member.key == key)
    }

    /// What stands before the first member: a line's end and an indentation, or nothing.
    fn lead<'a>(&self, text: &'a str) -> &'a str {
        let end = self.members.first().map_or(self.place.start + 1, |first| first.whole.start);
        text.get(self.place.start + 1..end).unwrap_or_default()
    }

    /// The text with one more member at the end. `outer` is what stands before the members of the object around it.
    fn with(&self, text: &str, member: &str, outer: &str) -> String {
        match self.members.last() {
            Some(last) => {
                let lead = self.lead(text);
                spliced(text, last.whole.end..last.whole.end, &format!(",{lead}{member}"))
            }
            None => {
                let outer = if outer.contains('\n') { outer } else { "\n" };
                let unit = outer.trim_start_matches(['\r', '\n']);
                let unit = if unit.is_empty() { "\t" } else { unit };
                spliced(text, self.place.clone(), &format!("{{{outer}{unit}{member}{outer}}}"))
            }
        }
    }
}

fn spliced(text: &str, place: Range<usize>, new: &str) -> String {
    format!("{}{new}{}", &text[..place.start], &text[place.end..])
}

fn skip_space(bytes: &[u8], from: usize) -> usize {
    let is_space = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
    from + bytes.get(from..).unwrap_or_default().iter().take_while(|b| is_space(b)).count()
}

/// The end of the value that begins at `from`.
fn value_end(bytes: &[u8], from: usize) -> Option<usize> {
    let (mut at, mut depth) = (from, 0_usize);
    loop {
        match bytes.get(at)? {
            b'"' => {
                at += 1;
                while bytes.get(at)? != &b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            _ => {
                let is_end = |b: &u8| matches!(b, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n');
                if depth == 0 {
                    let rest = bytes.get(at..)?;
                    return Some(at + rest.iter().position(is_end).unwrap_or(rest.len()));
                }
            }
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_set(text: &str, want: &str) {
        let got = set(text, "auths", "r.io", r#"{"auth":"x"}"#).expect(text);
        assert_eq!(got, want);
        serde_json::from_str::<serde_json::Value>(&got).expect("JSON");
    }

    #[test]
    fn an_entry_is_put_in_and_the_rest_stays() {
        check_set("{}", "{\n\t\"auths\": {\n\t\t\"r.io\": {\"auth\":\"x\"}\n\t}\n}");
        check_set(
            "{\"a\" : [1 , \"}\\\"\"]}",
            "{\"a\" : [1 , \"}\\\"\"],\"auths\": {\n\t\"r.io\": {\"auth\":\"x\"}\n}}",
        );
        check_set(
            "{\n  \"auths\": {\n    \"a.io\": {},\n    \"b.io\": null\n  },\n  \"z\": 1.50e1\n}\n",
            "{\n  \"auths\": {\n    \"a.io\": {},\n    \"b.io\": null,\n    \"r.io\": {\"auth\":\"x\"}\n  },\n  \"z\": 1.50e1\n}\n",
        );
        check_set(
            r#"{"auths":{"r.io":{"auth":"old","email":"e"}},"x":[[{}]]}"#,
            r#"{"auths":{"r.io":{"auth":"x"}},"x":[[{}]]}"#,
        );
        check_set(r#"{"auths":{"a":1}}"#, r#"{"auths":{"a":1,"r.io": {"auth":"x"}}}"#);
        check_set(r#"{"auths":{"r\u002eio":1}}"#, r#"{"auths":{"r\u002eio":{"auth":"x"}}}"#);
        assert_eq!(set(r#"{"auths":1}"#, "auths", "r.io", "1"), None);
        assert_eq!(set("[]", "auths", "r.io", "1"), None);
    }

    #[test]
    fn an_entry_is_taken_out_and_the_rest_stays() {
        for (text, want) in [
            (r#"{"auths":{"r.io":1}}"#, Some(r#"{"auths":{}}"#)),
            (r#"{"auths":{"r.io":1 , "b":2 }}"#, Some(r#"{"auths":{"b":2 }}"#)),
            (r#"{"auths":{ "a":"}", "r.io":{"x":[1]} }, "c":0}"#, Some(r#"{"auths":{ "a":"}" }, "c":0}"#)),
            (r#"{"auths":{"r.io":1,"a":2,"r.io":3}}"#, Some(r#"{"auths":{"a":2}}"#)),
            (r#"{"auths":{"a":1}}"#, None),
            (r#"{"other":{"r.io":1}}"#, None),
        ] {
            assert_eq!(remove(text, "auths", "r.io").as_deref(), want, "{text}");
        }
    }
}
