//! How the patterns in an operation's attributes match paths: Go's `filepath.Match` for wildcards,
//! and moby's `patternmatcher` for include and exclude lists. It does not know files.
//!
//! Paths and patterns are bytes, with `/` between components and none at either end.

/// A list of patterns of which the last that matches decides (moby's `patternmatcher`).
#[derive(Clone, Debug, Default)]
pub struct PatternList {
    patterns: Vec<Pattern>,
    has_exceptions: bool,
}

#[derive(Clone, Debug)]
struct Pattern {
    components: Vec<Vec<u8>>,
    negated: bool,
}

/// A pattern that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid pattern `{0}`: a bracket is not closed, or the escape character is last")]
pub struct PatternError(pub String);

/// What a list says of a folder and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matched {
    /// No pattern holds.
    No,
    /// It is matched, and so is all beneath it.
    Whole,
    /// It is matched, but an exception may hold beneath it.
    Partly,
}

impl PatternList {
    /// Reads patterns, each perhaps with `!` before it. Blank ones are dropped.
    pub fn parse<S: AsRef<[u8]>>(patterns: impl IntoIterator<Item = S>) -> Result<PatternList, PatternError> {
        let mut list = PatternList::default();
        for text in patterns {
            let text = text.as_ref().trim_ascii();
            let (negated, body) = match text.strip_prefix(b"!") {
                Some(rest) => (true, rest.trim_ascii()),
                None => (false, text),
            };
            if body.is_empty() {
                continue;
            }
            let components = clean(body);
            for component in components.iter().filter(|c| c.as_slice() != b"**") {
                check(component).map_err(|()| PatternError(String::from_utf8_lossy(text).into_owned()))?;
            }
            list.has_exceptions |= negated;
            list.patterns.push(Pattern { components, negated });
        }
        Ok(list)
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether the list matches `path`, or one of the folders that it is in and nothing later says no.
    pub fn matches(&self, path: &[u8]) -> bool {
        self.deciding(path).is_some_and(|i| !self.patterns[i].negated)
    }

    /// The number of the pattern that decides about `path`, or `None` if none matches.
    pub fn deciding(&self, path: &[u8]) -> Option<usize> {
        let components: Vec<&[u8]> = path.split(|&c| c == b'/').collect();
        let mut decided = None;
        let mut matched = false;
        for (i, pattern) in self.patterns.iter().enumerate() {
            // One that would not change the answer need not be tried.
            if pattern.negated != matched {
                continue;
            }
            if (1..=components.len()).any(|n| match_components(&pattern.components, &components[..n])) {
                matched = !pattern.negated;
                decided = Some(i);
            }
        }
        decided
    }

    /// What the list says of the folder `path`: whether a walk can leave it out.
    pub fn matches_folder(&self, path: &[u8]) -> Matched {
        if !self.matches(path) {
            return Matched::No;
        }
        if !self.has_exceptions {
            return Matched::Whole;
        }
        let components: Vec<&[u8]> = path.split(|&c| c == b'/').collect();
        let beneath =
            self.patterns.iter().any(|p| p.negated && may_match_beneath(&p.components, &components));
        if beneath { Matched::Partly } else { Matched::Whole }
    }

    /// Whether something beneath the folder `path` may match although the folder itself does not.
    pub fn may_match_beneath(&self, path: &[u8]) -> bool {
        let components: Vec<&[u8]> = path.split(|&c| c == b'/').collect();
        self.patterns.iter().any(|p| !p.negated && may_match_beneath(&p.components, &components))
    }
}

/// Go's `filepath.Clean`, in components. A slash in front stays, as an empty component that no path has:
/// reading an ignore file takes it away, a pattern given otherwise keeps it and so matches nothing.
fn clean(pattern: &[u8]) -> Vec<Vec<u8>> {
    let mut out: Vec<Vec<u8>> = Vec::new();
    if pattern.first() == Some(&b'/') {
        out.push(Vec::new());
    }
    for component in pattern.split(|&c| c == b'/') {
        match component {
            b"" | b"." => {}
            b".." if out.last().is_some_and(|last| !last.is_empty() && last != b"..") => {
                out.pop();
            }
            b".." if pattern.first() == Some(&b'/') => {}
            other => out.push(other.to_vec()),
        }
    }
    if out.is_empty() {
        out.push(b".".to_vec());
    }
    out
}

/// Whether pattern components match path components; `**` stands for any number of them. In moby a
/// component may hold `**` beside other text, where it crosses slashes too.
fn match_components(pattern: &[Vec<u8>], path: &[&[u8]]) -> bool {
    if pattern.iter().any(|c| c.as_slice() != b"**" && contains_double_star(c)) {
        let pattern = pattern.join(&b'/');
        return match_across(&pattern, &path.join(&b'/'));
    }
    let Some((first, rest)) = pattern.split_first() else { return path.is_empty() };
    if first == b"**" {
        if rest.is_empty() {
            return !path.is_empty();
        }
        return (0..=path.len()).any(|n| match_components(rest, &path[n..]));
    }
    match path.split_first() {
        Some((name, below)) => wildcard_match(first, name) && match_components(rest, below),
        None => false,
    }
}

fn contains_double_star(component: &[u8]) -> bool {
    component.windows(2).any(|w| w == b"**")
}

/// Matches a whole pattern in which `**` crosses slashes and `*` does not.
fn match_across(pattern: &[u8], path: &[u8]) -> bool {
    match pattern {
        [] => path.is_empty(),
        [b'*', b'*', b'/', rest @ ..] => {
            match_across(rest, path)
                || (0..path.len()).any(|n| path[n] == b'/' && match_across(rest, &path[n + 1..]))
        }
        [b'*', b'*', rest @ ..] => (0..=path.len()).any(|n| match_across(rest, &path[n..])),
        [b'*', rest @ ..] => {
            let end = path.iter().position(|&c| c == b'/').unwrap_or(path.len());
            (0..=end).any(|n| match_across(rest, &path[n..]))
        }
        _ => match (match_one(pattern, path), path) {
            (Some((used, true)), [_, below @ ..]) => match_across(&pattern[used..], below),
            _ => false,
        },
    }
}

fn may_match_beneath(pattern: &[Vec<u8>], folder: &[&[u8]]) -> bool {
    for (i, component) in pattern.iter().enumerate() {
        if contains_double_star(component) {
            return true;
        }
        match folder.get(i) {
            Some(name) if wildcard_match(component, name) => {}
            Some(_) => return false,
            None => return true,
        }
    }
    false
}

/// Go's `filepath.Match` for one component: `*`, `?`, `[class]`, `\c`. A malformed pattern matches nothing.
pub fn wildcard_match(pattern: &[u8], name: &[u8]) -> bool {
    // The last star seen, and where in the name it began: greedy matching with one step back.
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, n));
            p += 1;
            continue;
        }
        if p == pattern.len() && n == name.len() {
            return true;
        }
        if name.get(n).is_some_and(|c| *c != b'/')
            && let Some((used, true)) = match_one(&pattern[p..], &name[n..])
        {
            p += used;
            n += char_len(&name[n..]);
            continue;
        }
        match star {
            Some((after, start)) if start < name.len() && name[start] != b'/' => {
                let next = start + char_len(&name[start..]);
                star = Some((after, next));
                (p, n) = (after, next);
            }
            _ => return false,
        }
    }
}

/// Whether the pattern's first element matches the first character of `name`, and its length.
fn match_one(pattern: &[u8], name: &[u8]) -> Option<(usize, bool)> {
    let (first, rest) = pattern.split_first()?;
    let name_len = char_len(name);
    let c = name.get(..name_len)?;
    if c.is_empty() {
        return None;
    }
    match first {
        b'?' => Some((1, c != b"/")),
        b'[' => match_class(pattern, c),
        b'\\' => {
            let len = char_len(rest);
            (len > 0).then(|| (1 + len, &rest[..len] == c))
        }
        _ => {
            let len = char_len(pattern);
            Some((len, &pattern[..len] == c))
        }
    }
}

fn match_class(pattern: &[u8], c: &[u8]) -> Option<(usize, bool)> {
    let mut at = 1;
    let negated = pattern.get(at) == Some(&b'^');
    at += usize::from(negated);
    let mut matched = false;
    let mut ranges = 0;
    loop {
        if pattern.get(at) == Some(&b']') && ranges > 0 {
            return Some((at + 1, matched != negated));
        }
        let (low, next) = class_char(pattern, at)?;
        at = next;
        let mut high = low;
        if pattern.get(at) == Some(&b'-') {
            (high, at) = class_char(pattern, at + 1)?;
        }
        matched |= (low..=high).contains(&scalar(c));
        ranges += 1;
    }
}

fn class_char(pattern: &[u8], mut at: usize) -> Option<(u32, usize)> {
    match pattern.get(at)? {
        b'-' | b']' => return None,
        b'\\' => at += 1,
        _ => {}
    }
    let len = char_len(pattern.get(at..)?);
    (len > 0).then(|| (scalar(&pattern[at..at + len]), at + len))
}

fn scalar(c: &[u8]) -> u32 {
    match std::str::from_utf8(c).ok().and_then(|s| s.chars().next()) {
        Some(c) => u32::from(c),
        None => c.first().map_or(0, |b| u32::from(*b)),
    }
}

/// The length in bytes of the first character; one byte where it is no UTF-8.
fn char_len(text: &[u8]) -> usize {
    let wanted = match text.first() {
        None => return 0,
        Some(b) if *b < 0xc0 => 1,
        Some(b) if *b < 0xe0 => 2,
        Some(b) if *b < 0xf0 => 3,
        Some(_) => 4,
    };
    if text.get(..wanted).is_some_and(|c| std::str::from_utf8(c).is_ok()) { wanted } else { 1 }
}

fn check(component: &[u8]) -> Result<(), ()> {
    let mut at = 0;
    while at < component.len() {
        match component[at] {
            b'[' => at += match_class(&component[at..], b"x").ok_or(())?.0,
            b'\\' if at + 1 == component.len() => return Err(()),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    Ok(())
}

/// Whether the text has a wildcard in it that is not escaped (Go's `containsWildcards`).
pub fn has_wildcard(pattern: &str) -> bool {
    let mut escaped = false;
    pattern.bytes().any(|c| {
        let special = !escaped && matches!(c, b'*' | b'?' | b'[');
        escaped = !escaped && c == b'\\';
        special
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_as_in_go() {
        for (pattern, name, want) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*b*c*d*e*f", "axbxcxdxexxxf", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("[\\]a]", "]", true),
            ("[\\-x]", "x", true),
            ("[]a]", "]", false),
            ("[x-]", "x", false),
            ("*x", "xxx", true),
            ("a[", "a", false),
            ("", "", true),
            ("[[]x", "[x", true),
            ("{a,b}", "a", false),
        ] {
            assert_eq!(wildcard_match(pattern.as_bytes(), name.as_bytes()), want, "{pattern} {name}");
        }
    }

    #[test]
    fn lists_match_as_in_moby() {
        for (patterns, path, want) in [
            (&["**"][..], "file", true),
            (&["**"], "dir/file", true),
            (&["**/"], "dir/file", true),
            (&["**/**"], "dir/file", true),
            (&["dir/**"], "dir/file", true),
            (&["dir/**"], "dir/dir2/file", true),
            (&["**/dir2/*"], "dir/dir2/file", true),
            (&["**/dir2/**"], "dir/dir2/dir3/file", true),
            (&["**file"], "dir/dir/file", true),
            (&["**/file"], "dir/dir/file", true),
            (&["**/file*"], "dir/dir/file.txt", true),
            (&["a**/*.txt"], "abc/def/x.txt", true),
            (&["**.txt"], "a/b.txt", true),
            (&["*.md", "!README.md"], "README.md", false),
            (&["*.md", "!README.md"], "x.md", true),
            (&["docs", "!docs/keep"], "docs/keep", false),
            (&["docs", "!docs/keep", "docs/keep/x"], "docs/keep/x", true),
            (&["*"], "a/b", true),
            (&["/foo"], "foo", false),
            (&["foo/"], "foo/x", true),
            (&["a/../b"], "b", true),
            (&["x"], "a/x", false),
            (&["!x"], "x", false),
            (&["."], "x", false),
            (&["**/*.go", "!**/a.go"], "d/a.go", false),
        ] {
            let list = PatternList::parse(patterns).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(list.matches(path.as_bytes()), want, "{patterns:?} {path}");
        }
        assert!(PatternList::parse(["[a"]).is_err());
    }

    #[test]
    fn a_folder_is_left_out_only_where_no_exception_can_hold() {
        let list = PatternList::parse(["docs", "vendor", "!docs/*/keep"]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(list.matches_folder(b"vendor"), Matched::Whole);
        assert_eq!(list.matches_folder(b"docs"), Matched::Partly);
        assert_eq!(list.matches_folder(b"docs/a"), Matched::Partly);
        assert_eq!(list.matches_folder(b"docs/a/b"), Matched::Whole);
        assert_eq!(list.matches_folder(b"src"), Matched::No);
    }
}
