//! Why a line begins with no instruction: a name written otherwise, a line before that should have
//! gone on, a text that is no Dockerfile. It does not know what instructions mean.

use crate::suggest::nearest;

/// What was probably meant by `written`, which is none of `names`; `before` is the line before it.
pub(crate) fn hint(written: &str, names: &[&'static str], before: &str, escape: char) -> Option<String> {
    if let Some(blank) = written.find(is_odd_blank) {
        let name = &written[..blank];
        return Some(format!("the blank after {name} is no plain space: type it again"));
    }
    if ["<<<<<<<", "=======", ">>>>>>>", "|||||||"].iter().any(|mark| written.starts_with(mark)) {
        return Some("this is the mark of a merge conflict that was not resolved".to_owned());
    }
    if written.starts_with("//") || written.starts_with("/*") || written.starts_with("--") {
        return Some("comments begin with #".to_owned());
    }
    if let Some((name, _)) = written.split_once(['=', ':', '['])
        && let Some(known) = names.iter().find(|known| known.eq_ignore_ascii_case(name))
    {
        return Some(format!("a blank stands after {known}"));
    }
    if written.starts_with(['<', '{', '%']) {
        return Some("is this a Dockerfile? it should begin with FROM".to_owned());
    }
    let shell = written.starts_with(['&', '|', ';', '-', '(', ')', '"', '\'', '$', '.', '/']);
    if !shell && let Some(near) = nearest(&written.to_ascii_uppercase(), names.iter().copied()) {
        return Some(format!("did you mean {near}?"));
    }
    let before = before.trim_end();
    if before.trim().is_empty() || before.trim_start().starts_with('#') {
        return None;
    }
    if let Some((_, after)) = before.rsplit_once(escape)
        && after.trim_start().starts_with('#')
    {
        return Some(format!("in the line before, nothing may stand after {escape}, not even a comment"));
    }
    let looks_like_more = shell || written.chars().all(|c| !c.is_uppercase());
    looks_like_more.then(|| format!("is a {escape} missing at the end of the line before?"))
}

/// A blank that BuildKit does not take for one, and that nobody sees.
fn is_odd_blank(c: char) -> bool {
    matches!(
        c,
        '\u{a0}' | '\u{1680}' | '\u{2000}'
            ..='\u{200d}' | '\u{202f}' | '\u{205f}' | '\u{2060}' | '\u{3000}' | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_guessed() {
        let names = ["ENV", "RUN", "COPY"];
        for (written, before, want) in [
            ("COPPY", "RUN x", Some("did you mean COPY?")),
            ("RUN\u{a0}make", "", Some("the blank after RUN is no plain space: type it again")),
            ("<<<<<<<", "", Some("this is the mark of a merge conflict that was not resolved")),
            ("//", "", Some("comments begin with #")),
            ("ENV=x", "", Some("a blank stands after ENV")),
            ("<!DOCTYPE", "", Some("is this a Dockerfile? it should begin with FROM")),
            ("&&", "RUN make", Some("is a \\ missing at the end of the line before?")),
            ("nginx", "RUN apt-get install curl", Some("is a \\ missing at the end of the line before?")),
            (
                "nginx",
                "RUN apt-get install \\ # some",
                Some("in the line before, nothing may stand after \\, not even a comment"),
            ),
            ("nginx", "# a comment", None),
            ("NGINX", "RUN x", None),
        ] {
            assert_eq!(hint(written, &names, before, '\\').as_deref(), want, "{written} after {before}");
        }
    }
}
