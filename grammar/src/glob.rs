//! The patterns of `${x#p}`, `${x%p}` and `${x/p/r}`: literal characters, `?` and `*`, matched in time
//! linear in the text. It does not know paths or variables.

/// One piece of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Literal(char),
    /// `?`: any character but a line's end.
    Any,
    /// `*`: any run of such characters.
    Run,
}

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob {
    pieces: Vec<Piece>,
}

/// How much of the text a pattern takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    Shortest,
    Longest,
}

impl Glob {
    /// Compiles a pattern; the error is the character that must not follow a backslash.
    pub(crate) fn new(pattern: &str) -> Result<Glob, Option<char>> {
        let mut pieces = Vec::new();
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            pieces.push(match c {
                '*' => Piece::Run,
                '?' => Piece::Any,
                '\\' => match chars.next() {
                    Some(next @ ('*' | '?' | '\\' | '}' | '/')) => Piece::Literal(next),
                    other => return Err(other),
                },
                _ => Piece::Literal(c),
            });
        }
        Ok(Glob { pieces })
    }

    /// `text` without the beginning that matches.
    pub(crate) fn trim_prefix(&self, text: &str, reach: Reach) -> String {
        let chars: Vec<char> = text.chars().collect();
        match self.find(&chars, 0, true, reach) {
            Some((_, end)) => chars[end..].iter().collect(),
            None => text.to_owned(),
        }
    }

    /// `text` without the end that matches.
    pub(crate) fn trim_suffix(&self, text: &str, reach: Reach) -> String {
        let mirrored = Glob { pieces: self.pieces.iter().rev().copied().collect() };
        let chars: Vec<char> = text.chars().rev().collect();
        match mirrored.find(&chars, 0, true, reach) {
            Some((_, end)) => chars[end..].iter().rev().collect(),
            None => text.to_owned(),
        }
    }

    /// `text` with its first match replaced, the replacement taken as it is.
    pub(crate) fn replace_first(&self, text: &str, replacement: &str) -> String {
        let chars: Vec<char> = text.chars().collect();
        let Some((start, end)) = self.find(&chars, 0, false, Reach::Longest) else { return text.to_owned() };
        let mut out: String = chars[..start].iter().collect();
        out.push_str(replacement);
        out.extend(&chars[end..]);
        out
    }

    /// `text` with all matches replaced; `None` if that is longer than `most` bytes. BuildKit reads `$0` and `$name` in such a replacement as Go's
    /// regular expressions do: the match, and nothing.
    pub(crate) fn replace_all(&self, text: &str, replacement: &str, most: usize) -> Option<String> {
        let chars: Vec<char> = text.chars().collect();
        let mut out = String::new();
        let (mut last_end, mut from) = (0, 0);
        while from <= chars.len() {
            let Some((start, end)) = self.find(&chars, from, false, Reach::Longest) else { break };
            out.extend(&chars[last_end..start]);
            if end > last_end || start == 0 {
                push_template(&mut out, replacement, &chars[start..end]);
            }
            last_end = end;
            from = if end > from { end } else { from + 1 };
            if out.len() > most {
                return None;
            }
        }
        out.extend(&chars[last_end..]);
        (out.len() <= most).then_some(out)
    }

    /// The leftmost match at or after `from`. Keeps for every place in the pattern the earliest start
    /// of a match that got there, so that the text is read once.
    fn find(&self, text: &[char], from: usize, anchored: bool, reach: Reach) -> Option<(usize, usize)> {
        let count = self.pieces.len();
        let mut places: Vec<Option<usize>> = vec![None; count + 1];
        let mut best: Option<(usize, usize)> = None;
        for at in from..=text.len() {
            if best.is_none() && (at == from || !anchored) {
                places[0] = Some(places[0].map_or(at, |start: usize| start.min(at)));
            }
            self.skip_runs(&mut places);
            if let Some(start) = places[count]
                && best.is_none_or(|(first, _)| start <= first)
            {
                best = Some((start, at));
                if reach == Reach::Shortest {
                    return best;
                }
            }
            let Some(&next) = text.get(at) else { break };
            places = self.step(&places, next, best.map(|(start, _)| start));
            if places.iter().all(Option::is_none) && (best.is_some() || anchored) {
                break;
            }
        }
        best
    }

    /// A run may be empty: whoever stands before one stands after it as well.
    fn skip_runs(&self, places: &mut [Option<usize>]) {
        for (i, piece) in self.pieces.iter().enumerate() {
            if *piece == Piece::Run {
                places[i + 1] = earliest(places[i + 1], places[i]);
            }
        }
    }

    fn step(&self, places: &[Option<usize>], next: char, limit: Option<usize>) -> Vec<Option<usize>> {
        let mut out = vec![None; places.len()];
        for (i, piece) in self.pieces.iter().enumerate() {
            let Some(start) = places[i].filter(|start| limit.is_none_or(|limit| *start <= limit)) else {
                continue;
            };
            match piece {
                Piece::Literal(c) if *c == next => out[i + 1] = earliest(out[i + 1], Some(start)),
                Piece::Any if next != '\n' => out[i + 1] = earliest(out[i + 1], Some(start)),
                Piece::Run if next != '\n' => out[i] = earliest(out[i], Some(start)),
                _ => {}
            }
        }
        out
    }
}

fn earliest(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn push_template(out: &mut String, template: &str, matched: &[char]) {
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let Some((name, after)) = template_name(after) else {
            out.push('$');
            rest = after;
            continue;
        };
        if name.bytes().all(|b| b == b'0') {
            out.extend(matched);
        }
        rest = after;
    }
    out.push_str(rest);
}

fn template_name(text: &str) -> Option<(&str, &str)> {
    let braced = text.strip_prefix('{');
    let text = braced.unwrap_or(text);
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, after) = text.split_at(end);
    if name.is_empty() {
        return None;
    }
    if braced.is_none() { Some((name, after)) } else { Some((name, after.strip_prefix('}')?)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(pattern: &str) -> Glob {
        Glob::new(pattern).unwrap()
    }

    #[test]
    fn a_prefix_is_cut_at_its_shortest_or_longest() {
        for (pattern, reach, expect) in [
            ("*/", Reach::Shortest, "usr/local/lib"),
            ("*/", Reach::Longest, "lib"),
            ("/usr", Reach::Shortest, "/local/lib"),
            ("lib", Reach::Shortest, "/usr/local/lib"),
            ("/?sr", Reach::Shortest, "/local/lib"),
            ("*", Reach::Longest, ""),
            ("", Reach::Shortest, "/usr/local/lib"),
            ("/u*l", Reach::Shortest, "ocal/lib"),
        ] {
            assert_eq!(glob(pattern).trim_prefix("/usr/local/lib", reach), expect, "{pattern}");
        }
    }

    #[test]
    fn a_suffix_is_cut_at_its_shortest_or_longest() {
        for (pattern, reach, expect) in [
            (".*", Reach::Shortest, "archive.tar"),
            (".*", Reach::Longest, "archive"),
            ("gz", Reach::Shortest, "archive.tar."),
            ("tar", Reach::Shortest, "archive.tar.gz"),
            (".??", Reach::Shortest, "archive.tar"),
            ("*", Reach::Longest, ""),
            ("a*r", Reach::Shortest, "archive.tar.gz"),
        ] {
            assert_eq!(glob(pattern).trim_suffix("archive.tar.gz", reach), expect, "{pattern}");
        }
    }

    #[test]
    fn matches_are_replaced_from_the_left() {
        for (pattern, with, first, all) in [
            ("an", "AN", "bANana", "bANANa"),
            ("a", "", "bnana", "bnn"),
            ("x", "y", "banana", "banana"),
            ("a*a", "-", "b-", "b-"),
            ("?a", "-", "-nana", "---"),
            ("", "-", "-banana", "-b-a-n-a-n-a-"),
            ("*", "x", "x", "x"),
            ("n", "[$0]", "ba[$0]ana", "ba[n]a[n]a"),
            ("n", "$x", "ba$xana", "baaa"),
        ] {
            assert_eq!(glob(pattern).replace_first("banana", with), first, "first {pattern}");
            assert_eq!(glob(pattern).replace_all("banana", with, 99).as_deref(), Some(all), "all {pattern}");
        }
    }

    #[test]
    fn only_some_characters_may_be_escaped() {
        assert_eq!(glob(r"a\*").trim_prefix("a*b", Reach::Shortest), "b");
        assert_eq!(glob(r"a\}").trim_prefix("a}b", Reach::Shortest), "b");
        assert_eq!(Glob::new(r"a\b"), Err(Some('b')));
        assert_eq!(Glob::new(r"a\"), Err(None));
    }

    #[test]
    fn a_long_text_without_a_match_is_read_once() {
        let text = "a".repeat(200_000);
        assert_eq!(glob("a*b").replace_all(&text, "x", text.len()), Some(text));
    }
}
