//! The claims about ignore files: each path is decided as a slow and simple reading of moby's rules decides
//! it, and no folder is left out that holds something which an exception brings back. It does not know
//! folders and files.
//!
//! The input: an ignore file, a line `---`, and paths, one a line.

use crate::memory::{self, Held};
use crate::meter::peak_of;
use crate::tree::text_of;
use kiln_grammar::path::clean;
use kiln_grammar::{IgnorePattern, parse_ignore};
use kiln_solver::pattern::{Matched, PatternList};

/// What a pattern costs although it is short, while the list of them grows.
const PATTERN: usize = 3 * size_of::<IgnorePattern>();

/// What a pattern costs in the form in which it is matched, while the list of them grows.
const MATCHER: usize = 3 * 224;

/// Fails if a claim does not hold of the input.
pub fn check(data: &[u8]) {
    let input = text_of(data);
    let (text, paths) = input.split_once("\n---\n").unwrap_or((&input, ""));
    let (patterns, peak) = peak_of(|| parse_ignore(text));
    memory::check(Held { what: "parse_ignore", peak, input: text.len(), things: patterns.len() * PATTERN });
    check_lines(text, &patterns);
    // What the lowering hands on.
    let there = patterns.iter().filter(|pattern| !pattern.pattern.is_empty());
    let written: Vec<String> =
        there.map(|p| if p.negated { format!("!{}", p.pattern) } else { p.pattern.clone() }).collect();
    let (list, peak) = peak_of(|| PatternList::parse(&written));
    memory::check(Held { what: "patterns", peak, input: text.len(), things: written.len() * MATCHER });
    let rules: Vec<Rule> = written.iter().filter_map(|text| Rule::read(text)).collect();
    let is_good = rules.iter().all(|rule| is_well_formed(&rule.pattern));
    let Ok(list) = list else {
        assert!(!is_good, "{written:?} can be read");
        return;
    };
    assert!(is_good, "{written:?} can't be read");
    // The simple reading takes time beyond all measure where there are many stars.
    if rules.iter().any(|rule| rule.pattern.iter().filter(|c| **c == '*').count() > 8) {
        return;
    }
    for path in paths.lines().map(clean).filter(|path| is_path(path)).take(16) {
        check_path(&list, &rules, &path);
    }
}

fn check_lines(text: &str, patterns: &[IgnorePattern]) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = text.split('\n').collect();
    let mut last = 0;
    for pattern in patterns {
        assert!(pattern.line > last, "lines are in order, and each says one pattern");
        last = pattern.line;
        let line = lines[pattern.line as usize - 1];
        assert_eq!(line.strip_suffix('\r').unwrap_or(line), pattern.original);
        assert_eq!(pattern.negated, line.trim().starts_with('!'), "{line:?}");
        let text = pattern.pattern.as_str();
        assert!(text.is_empty() || text == "/" || clean(text) == text && !text.starts_with('/'), "{text:?}");
    }
    let says_something = |line: &&&str| !line.starts_with('#') && !line.trim().is_empty();
    assert_eq!(patterns.len(), lines.iter().filter(says_something).count());
}

fn check_path(list: &PatternList, rules: &[Rule], path: &str) {
    let wanted = is_ignored(rules, path);
    assert_eq!(list.matches(path.as_bytes()), wanted, "{path:?} by {:?}", texts(rules));
    for (at, _) in path.match_indices('/') {
        let folder = &path.as_bytes()[..at];
        let of_folder = list.matches_folder(folder);
        assert_eq!(of_folder != Matched::No, list.matches(folder));
        if !wanted {
            assert!(
                of_folder != Matched::Whole,
                "{path:?} is lost with {:?}: {:?}",
                &path[..at],
                texts(rules)
            );
        } else {
            let is_reached = of_folder != Matched::No || list.may_match_beneath(folder);
            assert!(is_reached, "{path:?} is not found in {:?}: {:?}", &path[..at], texts(rules));
        }
    }
}

fn texts(rules: &[Rule]) -> Vec<String> {
    let mark = |rule: &Rule| if rule.negated { "!" } else { "" };
    rules.iter().map(|rule| mark(rule).to_owned() + &rule.pattern.iter().collect::<String>()).collect()
}

/// A path as a walk gives it.
fn is_path(path: &str) -> bool {
    !path.is_empty() && path != "." && path != ".." && !path.starts_with('/') && !path.starts_with("../")
}

/// A pattern, for the simple reading.
struct Rule {
    pattern: Vec<char>,
    negated: bool,
}

impl Rule {
    fn read(text: &str) -> Option<Rule> {
        let trim = |text: &str| text.trim_matches(|c: char| c.is_ascii_whitespace()).to_owned();
        let text = trim(text);
        let (negated, text) = match text.strip_prefix('!') {
            Some(rest) => (true, trim(rest)),
            None => (false, text),
        };
        (!text.is_empty()).then(|| Rule { pattern: clean(&text).chars().collect(), negated })
    }
}

/// The last rule that matches the path, or a folder that it is in, decides.
fn is_ignored(rules: &[Rule], path: &str) -> bool {
    let path: Vec<char> = path.chars().collect();
    let ends: Vec<usize> = (1..=path.len()).filter(|at| path.get(*at).is_none_or(|c| *c == '/')).collect();
    let deciding = rules.iter().rev().find(|rule| ends.iter().any(|end| holds(&rule.pattern, &path[..*end])));
    deciding.is_some_and(|rule| !rule.negated)
}

/// Whether a whole pattern matches a whole path.
fn holds(pattern: &[char], path: &[char]) -> bool {
    let is_text = |text: &[char]| !text.iter().any(|c| "*?[]\\".contains(*c));
    match pattern {
        // `**/text` and `**text`: the path ends so; with the slash it may also be just that.
        ['*', '*', rest @ ..] if is_text(rest) => {
            path.ends_with(rest) || rest.first() == Some(&'/') && path == &rest[1..]
        }
        // `text**`: the path begins so.
        [text @ .., '*', '*'] if is_text(text) => path.starts_with(text),
        _ => fits(pattern, path),
    }
}

/// The same for a pattern of any form, element by element, trying everything.
fn fits(pattern: &[char], path: &[char]) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return path.is_empty() };
    match (first, rest) {
        ('*', ['*', rest @ ..]) => {
            let rest = rest.strip_prefix(&['/']).unwrap_or(rest);
            if rest.is_empty() {
                return true;
            }
            let below = (0..path.len()).filter(|at| path[*at] == '/').map(|at| at + 1);
            std::iter::once(0).chain(below).any(|at| fits(rest, &path[at..]))
        }
        ('*', _) => {
            let end = path.iter().position(|c| *c == '/').unwrap_or(path.len());
            (0..=end).any(|at| fits(rest, &path[at..]))
        }
        _ => {
            let Some((c, below)) = path.split_first() else { return false };
            match (first, rest) {
                ('?', _) => *c != '/' && fits(rest, below),
                ('[', _) => {
                    class(rest).is_some_and(|class| class.has(*c) && fits(&rest[class.length..], below))
                }
                ('\\', [escaped, rest @ ..]) => escaped == c && fits(rest, below),
                _ => first == c && fits(rest, below),
            }
        }
    }
}

/// A class, without its first bracket.
struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
    length: usize,
}

impl Class {
    fn has(&self, c: char) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != self.negated
    }
}

/// Go's classes: `^`, then one or more characters or ranges; `-` and `]` stand for themselves only behind
/// a backslash.
fn class(text: &[char]) -> Option<Class> {
    let negated = text.first() == Some(&'^');
    let mut at = usize::from(negated);
    let mut ranges = Vec::new();
    let one = |at: &mut usize| -> Option<char> {
        if matches!(text.get(*at)?, '-' | ']') {
            return None;
        }
        *at += usize::from(text[*at] == '\\');
        *at += 1;
        text.get(*at - 1).copied()
    };
    while ranges.is_empty() || text.get(at) != Some(&']') {
        let low = one(&mut at)?;
        let mut high = low;
        if text.get(at) == Some(&'-') {
            at += 1;
            high = one(&mut at)?;
        }
        ranges.push((low, high));
    }
    Some(Class { negated, ranges, length: at + 1 })
}

/// Whether Go takes the pattern: classes end, and something follows each backslash.
fn is_well_formed(pattern: &[char]) -> bool {
    match pattern {
        [] => true,
        ['\\', rest @ ..] => rest.split_first().is_some_and(|(_, rest)| is_well_formed(rest)),
        ['[', rest @ ..] => class(rest).is_some_and(|class| is_well_formed(&rest[class.length..])),
        [_, rest @ ..] => is_well_formed(rest),
    }
}
