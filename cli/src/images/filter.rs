//! Which images `kiln images` lists: docker's filters. It does not know how they are shown.

use super::list::created;
use super::{familiar, times};
use crate::error::CommandError;
use kiln_grammar::suggest::nearest;
use kiln_oci::Reference;
use kiln_worker::NamedImages;

const NAMES: [&str; 5] = ["dangling", "label", "before", "since", "reference"];

/// What an image must be to be listed. Several labels must all be there, of several patterns one must match.
#[derive(Debug, Default)]
pub(super) struct Filters {
    labels: Vec<(String, Option<String>)>,
    references: Vec<String>,
    before_s: Option<i64>,
    since_s: Option<i64>,
    dangling: bool,
    name: Option<Reference>,
    repository: Option<String>,
}

impl Filters {
    /// Reads filters, and the name behind the command.
    pub fn read(texts: &[String], name: Option<&str>, all: &[NamedImages]) -> Result<Filters, CommandError> {
        let mut filters = Filters::default();
        for text in texts {
            filters.add(text, all)?;
        }
        if let Some(name) = name {
            let reference = crate::outputs::reference("NAME", name)?;
            // Without a tag all tags are meant.
            let is_tagged = reference.familiar() == name || reference.to_string() == name;
            match is_tagged {
                true => filters.name = Some(reference),
                false => filters.repository = Some(repository(&reference)),
            }
        }
        Ok(filters)
    }

    fn add(&mut self, text: &str, all: &[NamedImages]) -> Result<(), CommandError> {
        let usage = |problem: String| CommandError::usage(format!("--filter {text}"), problem);
        let (name, value) = text.split_once('=').ok_or_else(|| usage("write it as NAME=VALUE".to_owned()))?;
        let time = || -> Result<Option<i64>, CommandError> {
            let image = crate::outputs::reference("--filter", value)?.to_string();
            let named = all.iter().find(|named| {
                named.row.name == image || value.len() >= 4 && named.row.id.hex().starts_with(value)
            });
            let named = named.ok_or_else(|| usage(format!("there is no image `{value}` in the store")))?;
            Ok(created(&named.images).and_then(|text| times::seconds(&text)))
        };
        match name {
            "label" => {
                let (name, wanted) = match value.split_once('=') {
                    Some((name, wanted)) => (name, Some(wanted.to_owned())),
                    None => (value, None),
                };
                self.labels.push((name.to_owned(), wanted));
            }
            "before" => self.before_s = time()?,
            "since" => self.since_s = time()?,
            "reference" => self.references.push(value.to_owned()),
            "dangling" => match value {
                "true" | "1" => self.dangling = true,
                "false" | "0" => {}
                _ => return Err(usage("it is true or false".to_owned())),
            },
            other => {
                let near =
                    nearest(other, NAMES).map_or_else(String::new, |near| format!("; did you mean {near}?"));
                return Err(usage(format!("there are {}{near}", NAMES.join(", "))));
            }
        }
        Ok(())
    }

    /// Whether an image is listed. None is without a name, so that none is dangling.
    pub fn pass(&self, named: &NamedImages) -> bool {
        let made_s = || created(&named.images).and_then(|text| times::seconds(&text));
        let has = |(name, wanted): &(String, Option<String>)| {
            named.images.iter().any(|(_, image)| {
                let value = image.config.config.labels.get(name);
                value.is_some_and(|value| wanted.as_ref().is_none_or(|wanted| wanted == value))
            })
        };
        let is_of = |wanted: &String| {
            named.row.name.parse::<Reference>().is_ok_and(|name| repository(&name) == *wanted)
        };
        !self.dangling
            && self.labels.iter().all(has)
            && (self.references.is_empty() || self.references.iter().any(|p| is_like(p, &named.row.name)))
            && self.before_s.is_none_or(|s| made_s().is_some_and(|made| made < s))
            && self.since_s.is_none_or(|s| made_s().is_some_and(|made| made > s))
            && self.name.as_ref().is_none_or(|name| name.to_string() == named.row.name)
            && self.repository.as_ref().is_none_or(is_of)
    }
}

fn repository(name: &Reference) -> String {
    format!("{}/{}", name.registry(), name.repository())
}

/// Whether a pattern is that of a name, with its tag or without, as people write it or in full.
fn is_like(pattern: &str, name: &str) -> bool {
    let names = [familiar(name), name.to_owned()];
    names.iter().any(|name| {
        let short =
            name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(name.as_str(), |n| n.0);
        matches(pattern.as_bytes(), name.as_bytes()) || matches(pattern.as_bytes(), short.as_bytes())
    })
}

/// Go's `path.Match`: `*` and `?` do not match a slash; `[a-z]` and `[^a]` are one letter; `\` quotes.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at_pattern, mut at_text) = (0, 0);
    // Where to go on behind the last star, if what follows it does not match.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if at_pattern == pattern.len() && at_text == text.len() {
            return true;
        }
        if pattern.get(at_pattern) == Some(&b'*') {
            star = Some((at_pattern, at_text));
            at_pattern += 1;
            continue;
        }
        if let (Some(letter), Some(width)) = (text.get(at_text), width(&pattern[at_pattern..]))
            && is_letter(&pattern[at_pattern..at_pattern + width], *letter)
        {
            (at_pattern, at_text) = (at_pattern + width, at_text + 1);
            continue;
        }
        match star {
            Some((pattern, skipped)) if text.get(skipped).is_some_and(|letter| *letter != b'/') => {
                star = Some((pattern, skipped + 1));
                (at_pattern, at_text) = (pattern + 1, skipped + 1);
            }
            _ => return false,
        }
    }
}

/// How long the part of a pattern is that stands for one letter.
fn width(pattern: &[u8]) -> Option<usize> {
    match pattern.first()? {
        b'[' => Some(pattern.iter().skip(2).position(|c| *c == b']')? + 3),
        b'\\' if pattern.len() > 1 => Some(2),
        _ => Some(1),
    }
}

fn is_letter(part: &[u8], letter: u8) -> bool {
    match part {
        [b'?'] => letter != b'/',
        [b'\\', quoted] => *quoted == letter,
        [b'[', class @ .., b']'] => {
            let (is_not, class) = class.strip_prefix(b"^").map_or((false, class), |class| (true, class));
            let mut rest = class;
            let mut is_in = false;
            while let Some(first) = rest.first() {
                let (last, used) =
                    if rest.get(1) == Some(&b'-') && rest.len() > 2 { (rest[2], 3) } else { (*first, 1) };
                is_in |= (*first..=last).contains(&letter);
                rest = &rest[used..];
            }
            is_in != is_not
        }
        [one] => *one == letter,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_go() {
        for (pattern, text, want) in [
            ("app", "app", true),
            ("a*", "app", true),
            ("a*", "a/b", false),
            ("*/*", "a/b", true),
            ("*:1.?", "app:1.2", true),
            ("ap[a-p]", "app", true),
            ("ap[^a-p]", "app", false),
            ("*a*b", "xxaxxb", true),
            ("*a*b", "xxaxxc", false),
            ("a\\*", "a*", true),
            ("", "", true),
            ("[", "[", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), want, "{pattern} {text}");
        }
        assert!(is_like("busy*", "docker.io/library/busybox:latest"));
        assert!(is_like("busy*:latest", "docker.io/library/busybox:latest"));
        assert!(!is_like("busy", "docker.io/library/busybox:latest"));
    }
}
