//! The comments that begin with `kiln:` and what they ask for: `# kiln: no-cache max-age=24h`. They are for
//! the instruction right below; what can't be understood is a warning, never an error. It does not know
//! what is cached.

use crate::ast::{Advice, AdviceKind, InstructionKind, Span};
use crate::diagnostic::{Diagnostic, Severity};
use crate::duration;
use crate::suggest::nearest;

const WORDS: [&str; 2] = ["no-cache", "max-age"];

/// A comment that begins with `kiln:`.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    /// What follows the colon.
    text: String,
    /// Where that begins.
    start: usize,
    line: u32,
    /// Whether an empty line parts it from what follows.
    is_parted: bool,
}

/// Reads a comment line, whose text begins at `start`, if it is for kiln.
pub(crate) fn said(text: &str, start: usize, line: u32) -> Option<Said> {
    let comment = text.trim_start().strip_prefix('#')?.trim_start();
    let name = comment.get(.."kiln:".len())?;
    if !name.eq_ignore_ascii_case("kiln:") {
        return None;
    }
    let rest = &comment[name.len()..];
    Some(Said { text: rest.to_owned(), start: start + (text.len() - rest.len()), line, is_parted: false })
}

impl Said {
    /// An empty line follows.
    pub(crate) fn part(&mut self) {
        self.is_parted = true;
    }

    /// The words, with where they begin in the file.
    fn words(&self) -> impl Iterator<Item = (&str, Span)> {
        let words = self.text.split([' ', '\t', ',']).filter(|word| !word.is_empty());
        words.map(|word| {
            let start = self.start + (word.as_ptr() as usize - self.text.as_ptr() as usize);
            (word, Span { start, end: start + word.len() })
        })
    }

    fn warning(&self, span: Span, message: String, hint: &str) -> Diagnostic {
        let hint = Some(hint.to_owned());
        Diagnostic { severity: Severity::Warning, rule: None, message, span, line: self.line, hint }
    }

    fn whole(&self) -> Span {
        let text = self.text.trim();
        let start = self.start + (self.text.len() - self.text.trim_start().len());
        Span { start, end: start + text.len() }
    }

    fn read(&self, diagnostics: &mut Vec<Diagnostic>) -> Vec<Advice> {
        let mut out = Vec::new();
        for (word, span) in self.words() {
            match kind(word) {
                Ok(kind) => out.push(Advice { kind, span }),
                Err((message, hint)) => {
                    // Prose may begin so too: one warning is enough for it.
                    diagnostics.push(self.warning(span, message, &hint));
                    break;
                }
            }
        }
        if self.text.trim().is_empty() {
            let message = "`# kiln:` says nothing".to_owned();
            diagnostics.push(self.warning(self.whole(), message, "there are no-cache and max-age=24h"));
        }
        out
    }
}

/// What comments say about an instruction. Those that it can't follow are warned of.
pub(crate) fn about(
    said: &[Said],
    instruction: &InstructionKind,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Advice> {
    use InstructionKind::{Add, Copy, From, Onbuild, Run, Workdir};
    if said.is_empty() {
        return Vec::new();
    }
    let why = match instruction {
        Run(_) | Copy(_) | Add(_) | Workdir(_) => None,
        From { .. } => Some(("FROM", "a whole stage is done again with --no-cache-filter STAGE")),
        Onbuild { .. } => {
            Some(("ONBUILD", "what it says is done in the builds that are based on this image"))
        }
        _ => Some(("this instruction", "it makes no files; put it above a RUN, COPY, ADD or WORKDIR")),
    };
    let mut out = Vec::new();
    for said in said {
        let advice = if said.is_parted { Vec::new() } else { said.read(diagnostics) };
        match why {
            _ if said.is_parted => diagnostics.push(lost(said)),
            None => out.extend(advice),
            Some((name, hint)) if !advice.is_empty() => {
                let message = format!("`# kiln:{}` changes nothing above {name}", said.text.trim_end());
                diagnostics.push(said.warning(said.whole(), message, hint));
            }
            Some(_) => {}
        }
    }
    out
}

/// Warns of comments that no instruction follows.
pub(crate) fn without_instruction(said: &[Said], diagnostics: &mut Vec<Diagnostic>) {
    diagnostics.extend(said.iter().map(lost));
}

fn lost(said: &Said) -> Diagnostic {
    let message = format!("`# kiln:{}` stands above no instruction", said.text.trim_end());
    said.warning(said.whole(), message, "put it right above the instruction, without an empty line between")
}

/// What a word asks for, or why it asks for nothing, and a hint.
fn kind(word: &str) -> Result<AdviceKind, (String, String)> {
    let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
    match (name, value) {
        ("no-cache", None) => Ok(AdviceKind::NoCache),
        ("no-cache", Some(_)) => {
            Err((format!("`{word}`: no-cache takes no value"), "write `# kiln: no-cache`".to_owned()))
        }
        ("max-age", Some(value)) => match duration::parse_with_days(value).map(|ns| ns / 1_000_000_000) {
            Ok(seconds @ 1..) => Ok(AdviceKind::MaxAge { seconds: seconds.unsigned_abs() }),
            Ok(_) => Err((
                format!("`{word}`: the age must be a second at least"),
                "what is to run in every build is `# kiln: no-cache`".to_owned(),
            )),
            Err(_) => Err((
                format!("`{word}`: `{value}` is no duration"),
                "write it as 90s, 15m, 24h, 7d or 1h30m".to_owned(),
            )),
        },
        ("max-age", None) => {
            Err(("`max-age` needs a duration".to_owned(), "write it as max-age=24h".to_owned()))
        }
        _ => {
            let hint = match nearest(name, WORDS) {
                Some("max-age") => "did you mean max-age=24h?".to_owned(),
                Some(near) => format!("did you mean {near}?"),
                None => "there are no-cache and max-age=24h".to_owned(),
            };
            Err((format!("`# kiln:` does not know `{name}`"), hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    /// What the last instruction is told, and the warnings.
    fn check(text: &str, expect: &[AdviceKind], warnings: &[&str]) {
        let parse = parse(text);
        let last = parse.dockerfile.stages.last().and_then(|stage| stage.instructions.last());
        let advice = last.map(|last| last.advice.clone()).unwrap_or_default();
        assert_eq!(advice.iter().map(|a| a.kind).collect::<Vec<_>>(), expect, "{text:?}");
        for Advice { kind, span } in advice {
            let word = &text[span.start..span.end];
            assert_eq!(super::kind(word), Ok(kind), "{word:?} of {text:?}");
        }
        let got: Vec<_> = parse.diagnostics.iter().map(|d| d.message.as_str()).collect();
        assert_eq!(got, warnings, "{text:?}");
        assert!(parse.diagnostics.iter().all(|d| d.severity == Severity::Warning && d.hint.is_some()));
    }

    const NO: AdviceKind = AdviceKind::NoCache;

    fn age(seconds: u64) -> AdviceKind {
        AdviceKind::MaxAge { seconds }
    }

    #[test]
    fn a_comment_right_above_is_for_the_instruction() {
        check("FROM x\n# kiln: no-cache\nRUN a", &[NO], &[]);
        check("FROM x\n#kiln:no-cache,max-age=1h30m\nRUN a", &[NO, age(5400)], &[]);
        check("FROM x\n  # Kiln:\tno-cache  max-age=7d \r\nCOPY a b\r\n", &[NO, age(604_800)], &[]);
        check("FROM x\n# kiln: max-age=90s\n# why\n#\n# kiln: no-cache\nADD a b", &[age(90), NO], &[]);
        check("\u{feff}FROM x\n# kiln: max-age=15m\nWORKDIR /a", &[age(900)], &[]);
        check("# escape=`\nFROM x\n# kiln: no-cache\nRUN a `\n b", &[NO], &[]);
        check("FROM x\n# kiln: no-cache\nRUN <<E\n# kiln: max-age=1h\nE", &[NO], &[]);
    }

    #[test]
    fn a_comment_within_an_instruction_is_not_above_it() {
        check("FROM x\nRUN a \\\n# kiln: no-cache\n b", &[], &[]);
        check("FROM x\nRUN a <<E\n# kiln: no-cache\nE\nRUN b", &[], &[]);
        check("FROM x\n# kiln: no-cache\nRUN a\nRUN b", &[], &[]);
        check("FROM x\n# kilns are hot\nRUN a # kiln: no-cache", &[], &[]);
    }

    #[test]
    fn what_is_lost_or_not_understood_is_a_warning() {
        let above_none = "`# kiln: no-cache` stands above no instruction";
        check("FROM x\n# kiln: no-cache\n\nRUN a", &[], &[above_none]);
        check("FROM x\nRUN a\n# kiln: no-cache\n", &[], &[above_none]);
        check("# kiln: no-cache\nFROM x", &[], &["`# kiln: no-cache` changes nothing above FROM"]);
        check(
            "FROM x\n# kiln: no-cache\nENV a=b",
            &[],
            &["`# kiln: no-cache` changes nothing above this instruction"],
        );
        check(
            "FROM x\n# kiln: no-cache\nONBUILD RUN a",
            &[],
            &["`# kiln: no-cache` changes nothing above ONBUILD"],
        );
        check("FROM x\n# kiln: nocache\nRUN a", &[], &["`# kiln:` does not know `nocache`"]);
        check("FROM x\n# kiln: a builder of images\nRUN a", &[], &["`# kiln:` does not know `a`"]);
        check("FROM x\n# kiln:\nRUN a", &[], &["`# kiln:` says nothing"]);
        check("FROM x\n# kiln: no-cache=1\nRUN a", &[], &["`no-cache=1`: no-cache takes no value"]);
        check("FROM x\n# kiln: max-age\nRUN a", &[], &["`max-age` needs a duration"]);
        check("FROM x\n# kiln: max-age=x\nRUN a", &[], &["`max-age=x`: `x` is no duration"]);
        for short in ["0", "500ms", "-1h"] {
            let message = format!("`max-age={short}`: the age must be a second at least");
            check(&format!("FROM x\n# kiln: max-age={short}\nRUN a"), &[], &[&message]);
        }
    }

    #[test]
    fn a_near_word_is_named() {
        for (word, hint) in
            [("nocache", "did you mean no-cache?"), ("maxage=1h", "did you mean max-age=24h?")]
        {
            assert_eq!(kind(word).unwrap_err().1, hint);
        }
    }
}
