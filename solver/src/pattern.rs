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
    matcher: Matcher,
    negated: bool,
}

/// A pattern in the form that is quickest to match. Each takes time in proportion to the path at most.
#[derive(Clone, Debug)]
enum Matcher {
    /// Text without a wildcard.
    Exact(Vec<u8>),
    /// Text with `**` behind it.
    Prefix(Vec<u8>),
    /// Text with `**/` before it.
    Anywhere(Vec<u8>),
    /// Everything else.
    Automaton(Box<Automaton>),
}

/// All ways to match a pattern followed at once: bit `i` of a state says that element `i` may be next,
/// the bit after the last element that all have matched.
#[derive(Clone, Debug)]
struct Automaton {
    elements: Vec<Element>,
    /// The slash and the ASCII characters that the pattern names, in order.
    named: Vec<u8>,
    /// For each of them, and then for all other ASCII characters at once, the elements that are done once
    /// they take it; but for classes.
    done_by: Vec<u64>,
    /// The classes, which are asked only where they may be next.
    classes: Vec<u64>,
    /// Those that may take nothing at all when they are reached, or go on taking: all kinds of stars.
    stays: Vec<u64>,
    /// Those of them that take slashes too.
    crosses: Vec<u64>,
    /// Those of them that may end after each character: all but gaps.
    repeats: Vec<u64>,
    start: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Element {
    /// One character.
    Char(u32),
    /// `?`: one character that is no slash.
    AnyChar,
    /// `[…]`, as written.
    Class(Vec<u8>),
    /// `*`: any text without a slash.
    Star,
    /// `**` or `**/` before something: nothing, or any text with a slash at its end.
    Gap,
    /// `**` at the end, or before text without wildcards: any text.
    AnyText,
}

/// What an automaton is asked about a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Question {
    /// Whether it matches the path or a folder that this is in.
    Matches,
    /// Whether it may match something beneath the path.
    GoesOn,
}

/// A pattern that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern `{0}`: a bracket is not closed, or the escape character is last")]
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
            let matcher = Matcher::read(&clean(body))
                .ok_or_else(|| PatternError(String::from_utf8_lossy(text).into_owned()))?;
            list.has_exceptions |= negated;
            list.patterns.push(Pattern { matcher, negated });
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
        let mut decided = None;
        let mut matched = false;
        for (i, pattern) in self.patterns.iter().enumerate() {
            // One that would not change the answer need not be tried.
            if pattern.negated == matched && pattern.matcher.matches(path) {
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
        let beneath =
            self.has_exceptions && self.patterns.iter().any(|p| p.negated && p.matcher.goes_on(path));
        if beneath { Matched::Partly } else { Matched::Whole }
    }

    /// Whether something beneath the folder `path` may match although the folder itself does not.
    pub fn may_match_beneath(&self, path: &[u8]) -> bool {
        self.patterns.iter().any(|p| !p.negated && p.matcher.goes_on(path))
    }
}

impl Matcher {
    /// Reads a pattern that is clean; `None` if it is malformed.
    fn read(pattern: &[u8]) -> Option<Matcher> {
        if is_literal(pattern) {
            return Some(Matcher::Exact(pattern.to_vec()));
        }
        match (pattern.strip_suffix(b"**"), pattern.strip_prefix(b"**/")) {
            (Some(text), _) if is_literal(text) => Some(Matcher::Prefix(text.to_vec())),
            (_, Some(text)) if is_literal(text) => Some(Matcher::Anywhere(text.to_vec())),
            _ => Some(Matcher::Automaton(Box::new(Automaton::new(elements(pattern)?)))),
        }
    }

    /// Whether it matches `path` or a folder that this is in.
    fn matches(&self, path: &[u8]) -> bool {
        match self {
            Matcher::Exact(text) => is_or_is_in(path, text),
            Matcher::Prefix(text) => path.starts_with(text),
            Matcher::Anywhere(text) => {
                let ends = (path.iter().enumerate()).filter(|(_, c)| **c == b'/').map(|(at, _)| at + 1);
                std::iter::once(0).chain(ends).any(|at| is_or_is_in(&path[at..], text))
            }
            Matcher::Automaton(automaton) => automaton.answer(path, Question::Matches),
        }
    }

    /// Whether it may match something beneath `folder` for what it is called there.
    fn goes_on(&self, folder: &[u8]) -> bool {
        match self {
            Matcher::Exact(text) => is_in(text, folder),
            Matcher::Prefix(text) => is_in(text, folder) || folder.starts_with(text),
            Matcher::Anywhere(_) => true,
            Matcher::Automaton(automaton) => automaton.answer(folder, Question::GoesOn),
        }
    }
}

fn is_literal(pattern: &[u8]) -> bool {
    !pattern.iter().any(|c| b"*?[]\\".contains(c))
}

/// Whether `path` is `folder` or beneath it.
fn is_or_is_in(path: &[u8], folder: &[u8]) -> bool {
    path.strip_prefix(folder).is_some_and(|below| matches!(below.first(), None | Some(b'/')))
}

fn is_in(path: &[u8], folder: &[u8]) -> bool {
    path.len() > folder.len() && is_or_is_in(path, folder)
}

/// The elements of a pattern as moby's regular expression has them; `None` if it is malformed.
fn elements(pattern: &[u8]) -> Option<Vec<Element>> {
    let mut out: Vec<Element> = Vec::new();
    let mut rest = pattern;
    while !rest.is_empty() {
        let (element, used) = match rest {
            [b'*', b'*', b'/', _, ..] => (Element::Gap, 3),
            [b'*', b'*', after @ ..] => {
                let is_text = after.is_empty() || (out.is_empty() && is_literal(after));
                (if is_text { Element::AnyText } else { Element::Gap }, 2)
            }
            [b'*', ..] => (Element::Star, 1),
            [b'?', ..] => (Element::AnyChar, 1),
            [b'[', ..] => {
                let (used, _) = match_class(rest, b"x")?;
                (Element::Class(rest[..used].to_vec()), used)
            }
            [b'\\', after @ ..] => {
                let len = char_len(after);
                (len > 0).then(|| (Element::Char(code(&after[..len])), 1 + len))?
            }
            _ => (Element::Char(code(&rest[..char_len(rest)])), char_len(rest)),
        };
        // A gap after a gap adds nothing.
        if element != Element::Gap || out.last() != Some(&Element::Gap) {
            out.push(element);
        }
        rest = &rest[used..];
    }
    Some(out)
}

/// A character's scalar value; a byte that is no UTF-8 has one beyond all of them.
fn code(c: &[u8]) -> u32 {
    match c {
        [b] if !b.is_ascii() => 0x11_0000 + u32::from(*b),
        _ => scalar(c),
    }
}

impl Automaton {
    fn new(elements: Vec<Element>) -> Automaton {
        let words = elements.len() / 64 + 1;
        let none = vec![0; words];
        let mut named = vec![b'/'];
        named.extend(elements.iter().filter_map(|element| match element {
            Element::Char(c) => u8::try_from(*c).ok().filter(u8::is_ascii),
            _ => None,
        }));
        named.sort_unstable();
        named.dedup();
        let mut it = Automaton {
            done_by: vec![0; words * (named.len() + 1)],
            classes: none.clone(),
            stays: none.clone(),
            crosses: none.clone(),
            repeats: none.clone(),
            start: none,
            named,
            elements,
        };
        for (i, element) in it.elements.iter().enumerate() {
            let (word, bit) = (i / 64, 1 << (i % 64));
            if matches!(element, Element::Class(_)) {
                it.classes[word] |= bit;
                continue;
            }
            for (row, c) in it.named.iter().enumerate() {
                if element.is_done_by(&[*c]) {
                    it.done_by[row * words + word] |= bit;
                }
            }
            if *element == Element::AnyChar {
                it.done_by[it.named.len() * words + word] |= bit;
            }
            let (crosses, repeats) = match element {
                Element::Char(_) | Element::AnyChar | Element::Class(_) => continue,
                Element::Star => (0, bit),
                Element::Gap => (bit, 0),
                Element::AnyText => (bit, bit),
            };
            it.stays[word] |= bit;
            it.crosses[word] |= crosses;
            it.repeats[word] |= repeats;
        }
        let mut carry = 1;
        for word in 0..words {
            (it.start[word], carry) = it.with_what_follows(word, carry);
        }
        it
    }

    fn answer(&self, path: &[u8], question: Question) -> bool {
        // Nearly every pattern has less than 64 elements, and then needs no memory of its own.
        match *self.start {
            [state] => self.run([state], path, question),
            _ => self.run(self.start.clone(), path, question),
        }
    }

    fn run(&self, mut state: impl AsMut<[u64]>, path: &[u8], question: Question) -> bool {
        let state = state.as_mut();
        let mut rest = path;
        while let Some(&first) = rest.first() {
            if first == b'/' && question == Question::Matches && self.has_matched(state) {
                return true;
            }
            let len = if first < 0x80 { 1 } else { char_len(rest) };
            if !self.step(state, &rest[..len]) {
                return false;
            }
            rest = &rest[len..];
        }
        match question {
            Question::Matches => self.has_matched(state),
            Question::GoesOn => {
                self.step(state, b"/");
                let last = self.elements.len();
                state[last / 64] &= !(1 << (last % 64));
                state.iter().any(|w| *w != 0)
            }
        }
    }

    fn has_matched(&self, state: &[u64]) -> bool {
        let last = self.elements.len();
        state[last / 64] >> (last % 64) & 1 == 1
    }

    /// Takes a character; false if nothing can match any more.
    #[inline(always)]
    fn step(&self, state: &mut [u64], c: &[u8]) -> bool {
        let words = state.len();
        let mut carry = 0;
        let mut alive = 0;
        let row = match c {
            [c] if c.is_ascii() => Some(self.named.iter().position(|n| n == c).unwrap_or(self.named.len())),
            _ => None,
        };
        for (word, bits) in state.iter_mut().enumerate() {
            let done = match row {
                Some(row) => self.done_by[row * words + word] | self.classes_done_by(word, *bits, c),
                None => self.done_by_other(word, c),
            };
            let stays = if c == b"/" { self.crosses[word] } else { self.stays[word] };
            let (done, stays) = (*bits & done, *bits & stays);
            let reached = done << 1 | carry | stays & self.repeats[word];
            let (reached, follows) = self.with_what_follows(word, reached);
            *bits = reached | stays;
            carry = done >> 63 | follows;
            alive |= *bits;
        }
        alive != 0
    }

    /// What has been reached in one word of a state, with what stands behind elements that may be empty.
    #[inline(always)]
    fn with_what_follows(&self, word: usize, mut reached: u64) -> (u64, u64) {
        let may_be_empty = self.stays[word];
        loop {
            let all = reached | (reached & may_be_empty) << 1;
            if all == reached {
                return (all, (all & may_be_empty) >> 63);
            }
            reached = all;
        }
    }

    /// The classes among those that may be next which take the character.
    #[inline(always)]
    fn classes_done_by(&self, word: usize, bits: u64, c: &[u8]) -> u64 {
        let mut open = bits & self.classes[word];
        let mut done = 0;
        while open != 0 {
            let i = open.trailing_zeros();
            if self.elements[word * 64 + i as usize].is_done_by(c) {
                done |= 1 << i;
            }
            open &= open - 1;
        }
        done
    }

    fn done_by_other(&self, word: usize, c: &[u8]) -> u64 {
        let here = self.elements.iter().skip(word * 64).take(64);
        here.enumerate().filter(|(_, e)| e.is_done_by(c)).fold(0, |bits, (i, _)| bits | 1 << i)
    }
}

impl Element {
    /// Whether it has matched once it has taken the character.
    fn is_done_by(&self, c: &[u8]) -> bool {
        match self {
            Element::Char(wanted) => *wanted == code(c),
            Element::AnyChar => c != b"/",
            Element::Class(class) => match_class(class, c).is_some_and(|(_, matched)| matched),
            Element::Gap => c == b"/",
            Element::Star | Element::AnyText => false,
        }
    }
}

/// Go's `filepath.Clean`. A slash in front stays, which no path has: reading an ignore file takes it away,
/// a pattern given otherwise keeps it and so matches nothing.
fn clean(pattern: &[u8]) -> Vec<u8> {
    let is_rooted = pattern.first() == Some(&b'/');
    let mut out: Vec<&[u8]> = Vec::new();
    for component in pattern.split(|&c| c == b'/') {
        match component {
            b"" | b"." => {}
            b".." if out.last().is_some_and(|last| *last != b"..") => {
                out.pop();
            }
            b".." if is_rooted => {}
            other => out.push(other),
        }
    }
    let text = out.join(&b'/');
    match (is_rooted, text.is_empty()) {
        (true, _) => [b"/", text.as_slice()].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => text,
    }
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

/// Whether [`wildcard_match`] can read a pattern (Go's `ErrBadPattern`).
pub fn check_wildcards(pattern: &[u8]) -> Result<(), PatternError> {
    let bad = || PatternError(String::from_utf8_lossy(pattern).into_owned());
    let mut at = 0;
    while let Some(c) = pattern.get(at) {
        at += match c {
            b'[' => match_class(&pattern[at..], b"a").ok_or_else(bad)?.0,
            b'\\' => 1 + char_len(pattern.get(at + 1..).filter(|rest| !rest.is_empty()).ok_or_else(bad)?),
            _ => char_len(&pattern[at..]),
        };
    }
    Ok(())
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
    use proptest::prelude::*;

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
    fn patterns_that_are_malformed_are_told_from_those_that_match_nothing() {
        for (pattern, is_good) in [
            ("", true),
            ("a*?.txt", true),
            ("a]", true),
            ("[a-c]/[^x]", true),
            ("[\\]]", true),
            ("\\[", true),
            ("ö[ä-ü]", true),
            ("a[", false),
            ("[]a]", false),
            ("[a", false),
            ("[a-]", false),
            ("[^]", false),
            ("[-a]", false),
            ("[a]b[", false),
            ("a\\", false),
            ("[\\", false),
        ] {
            assert_eq!(check_wildcards(pattern.as_bytes()).is_ok(), is_good, "{pattern}");
        }
        let error = check_wildcards(b"x/d[").expect_err("it is not closed");
        assert!(error.to_string().contains("syntax error in pattern `x/d[`"), "{error}");
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
            (&["a**b"], "a/x/b", true),
            (&["a**b"], "axb", false),
            (&["**foo"], "xfoo", true),
            (&["**foo*"], "xfoo", false),
            (&["**foo*"], "x/foos", true),
            (&["abc/**"], "abc", false),
            (&["abc**"], "abcd/e", true),
            (&["a/**/b"], "a/b/c", true),
            (&["a[^b]c"], "a/c", true),
            (&["\\*"], "*", true),
            (&["\\*"], "x", false),
            (&["ö?"], "öä", true),
            (&["**/a/b"], "x/a/b/c", true),
            (&["**/a/b"], "xa/b", false),
            (&["/**/a"], "a", false),
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

    #[test]
    fn matching_takes_time_in_proportion_to_the_path() {
        let many_stars = format!("{}b", "**a".repeat(8));
        let one_by_one = format!("{}b", "*a".repeat(100));
        let nested = "a/".repeat(60) + "a";
        let many_folders = format!("{}b", "**/a/".repeat(6));
        let all_at_once = format!("{}b", "**/*a*/".repeat(100));
        let long = "a".repeat(20_000);
        let started = std::time::Instant::now();
        for (pattern, path) in [
            (many_stars.as_str(), &long[..120]),
            (&many_folders, &nested),
            (&all_at_once, &nested),
            (&one_by_one, &long),
            (&many_stars, &long),
        ] {
            let list = PatternList::parse([pattern]).unwrap_or_else(|e| panic!("{e}"));
            assert!(!list.matches(path.as_bytes()), "{pattern}");
            list.may_match_beneath(path.as_bytes());
        }
        assert!(started.elapsed() < std::time::Duration::from_secs(2), "{:?}", started.elapsed());
    }

    #[test]
    fn a_pattern_of_many_elements_matches() {
        for count in [62, 63, 64, 65, 127, 128, 200] {
            let pattern = format!("**/{}*?[x]*end", "ab".repeat(count / 2));
            let path = format!("dir/{}-ö-x/end/of", "ab".repeat(count / 2));
            let list = PatternList::parse([&pattern]).unwrap_or_else(|e| panic!("{e}"));
            assert!(!list.matches(path.as_bytes()), "{count}");
            assert!(list.matches(path.replace("x/", "x-").as_bytes()), "{count}");
        }
    }

    #[test]
    fn only_what_may_match_beneath_a_folder_is_walked_for_it() {
        for (pattern, folder, want) in [
            ("src/*.c", "src", true),
            ("src/*.c", "sr", false),
            ("src/*.c", "src/x", false),
            ("src", "src", false),
            ("src/a", "src", true),
            ("src/**", "src", true),
            ("src/**", "sr", false),
            ("src/**", "src/a/b", true),
            ("**/x", "any/where", true),
            ("a/**/x*", "any/where", false),
            ("a/**/x*", "a/where", true),
            ("?/x", "ab", false),
        ] {
            let list = PatternList::parse([pattern]).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(list.may_match_beneath(folder.as_bytes()), want, "{pattern} {folder}");
        }
    }

    /// Moby's regular expression for a pattern, tried in every way.
    fn slowly(pattern: &[u8], path: &[u8], is_first: bool) -> bool {
        let somewhere = |after: &[u8]| (0..=path.len()).any(|n| slowly(after, &path[n..], false));
        match pattern {
            [] => path.is_empty(),
            [b'*', b'*'] | [b'*', b'*', b'/'] => true,
            [b'*', b'*', after @ ..] => {
                let slash = after.first() == Some(&b'/');
                if is_first && !slash && !after.iter().any(|c| b"*?[]\\".contains(c)) {
                    return somewhere(after);
                }
                let after = &after[usize::from(slash)..];
                let ends = (0..path.len()).filter(|n| path[*n] == b'/').map(|n| n + 1);
                std::iter::once(0).chain(ends).any(|n| slowly(after, &path[n..], false))
            }
            [b'*', after @ ..] => {
                let end = path.iter().position(|c| *c == b'/').unwrap_or(path.len());
                (0..=end).any(|n| slowly(after, &path[n..], false))
            }
            _ => match match_one(pattern, path) {
                Some((used, true)) => slowly(&pattern[used..], &path[char_len(path)..], false),
                _ => false,
            },
        }
    }

    fn joined_from(pieces: &'static [&'static str], count: usize) -> impl Strategy<Value = String> {
        proptest::collection::vec(proptest::sample::select(pieces), 1..count).prop_map(|all| all.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn patterns_match_what_the_slow_way_matches(
            pattern in joined_from(&["a", "b", "ö", "*", "**", "**/", "?", "/", "[ab]", "[^a]", "\\*"], 8),
            path in joined_from(&["a", "b", "ö", "*", "/", "/a"], 9),
        ) {
            let (pattern, path) = (clean(pattern.as_bytes()), clean(path.trim_matches('/').as_bytes()));
            let list = PatternList::parse([&pattern]).map_err(|e| TestCaseError::fail(e.to_string()))?;
            let ends = (0..=path.len()).filter(|n| path.get(*n).is_none_or(|c| *c == b'/'));
            let matching: Vec<usize> = ends.filter(|n| slowly(&pattern, &path[..*n], true)).collect();
            prop_assert_eq!(list.matches(&path), !matching.is_empty());
            for (n, _) in path.iter().enumerate().filter(|(n, c)| **c == b'/' && matching.iter().any(|m| m > n)) {
                prop_assert!(list.may_match_beneath(&path[..n]), "{}", n);
            }
        }
    }

    #[test]
    fn a_short_pattern_is_small() {
        for pattern in ["?", "a*", "[a-z]*", "**/*.pyc"] {
            let Some(elements) = elements(pattern.as_bytes()) else { panic!("{pattern}") };
            let it = Automaton::new(elements);
            let words = [&it.done_by, &it.classes, &it.stays, &it.crosses, &it.repeats, &it.start];
            let bytes = it.named.len() + words.iter().map(|words| words.len() * 8).sum::<usize>();
            assert!(bytes <= 128, "{pattern}: {bytes}");
        }
    }

    #[test]
    fn ten_patterns_match_20000_files_in_no_time() {
        let patterns = ["node_modules", "**/.git", "*.md", "**/*.pyc", "docs/**", "build/*/out"];
        let further = ["**/__pycache__", "!docs/keep/**", "**/tmp*/x", "a?c/[b-d]*"];
        let list = PatternList::parse(patterns.iter().chain(&further)).unwrap_or_else(|e| panic!("{e}"));
        let file = |i| format!("src/package{}/module{}/file{i}.rs", i % 50, i % 300);
        let files: Vec<String> = (0..20_000).map(file).collect();
        let started = std::time::Instant::now();
        assert!(!files.iter().any(|f| list.matches(f.as_bytes())));
        // Optimised it takes less than 10 ms.
        assert!(started.elapsed() < std::time::Duration::from_secs(2), "{:?}", started.elapsed());
    }
}
