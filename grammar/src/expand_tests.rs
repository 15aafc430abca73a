//! Claims about expansion. They know no files.

use proptest::prelude::*;

use super::*;

fn env(name: &str) -> Option<String> {
    let value = match name {
        "A" => "one",
        "A_B" => "two",
        "B" => "bee",
        "EMPTY" => "",
        "P" => "/usr/local/lib",
        "F" => "archive.tar.gz",
        "V" => "v1.2.3",
        "PRE" => "v",
        "R" => "_",
        "PORTS" => "80 443",
        "DOLLAR" => "$A",
        _ => return None,
    };
    Some(value.to_owned())
}

fn check(word: &str, expect: &str) {
    let got = expand_word(word, '\\', &env).map(|expanded| expanded.value);
    assert_eq!(got.as_deref(), Ok(expect), "{word}");
}

fn fails(word: &str, expect: &str) {
    let got = expand_word(word, '\\', &env).map(|expanded| expanded.value);
    assert_eq!(got.map_err(|error| error.to_string()), Err(expect.to_owned()), "{word}");
}

#[test]
fn variables_are_replaced() {
    check("$A", "one");
    check("${A}", "one");
    check("x$A.y", "xone.y");
    check("${A}_B", "one_B");
    check("$A_B", "two");
    check("$A-B", "one-B");
    check("$A$A_B${A}", "onetwoone");
    check("x${NONE}y$NONE", "xy");
    check("$DOLLAR", "$A");
    check("$", "$");
    check("a$ b", "a$ b");
    check("$1x$@y$#z$12", "xyz");
    check("$$A", "A");
}

#[test]
fn quotes_are_removed() {
    check(r#""$A""#, "one");
    check("'$A'", "$A");
    check(r#""'$A'""#, "'one'");
    check(r#"'"$A"'"#, r#""$A""#);
    check(r#"x"$A"'$A'$A"#, "xone$Aone");
    check(r#""a\b\"\\\$""#, r#"a\b"\$"#);
    fails("'a", "unexpected end of statement while looking for matching single-quote");
    fails("\"a", "unexpected end of statement while looking for matching double-quote");
}

#[test]
fn escapes_are_removed() {
    check(r"\$A", "$A");
    check(r"\${A}", "${A}");
    check(r"\\$A", r"\one");
    check(r"a\ b\x", "a bx");
    check(r"a\", "a");
    let got = expand_word(r"c:\d`$A", '`', &env).unwrap();
    assert_eq!(got.value, r"c:\d$A");
}

#[test]
fn defaults_depend_on_being_set_and_being_empty() {
    check("${A:-x} ${NONE:-x} ${EMPTY:-x}", "one x x");
    check("${A-x} ${NONE-x} ${EMPTY-x}", "one x ");
    check("${A:+x} ${NONE:+x} ${EMPTY:+x}", "x  ");
    check("${A+x} ${NONE+x} ${EMPTY+x}", "x  x");
    check("${A:?m} ${A?m} x${EMPTY?m}", "one one x");
    fails("${NONE?}", "NONE: is not allowed to be unset");
    fails("${EMPTY:?}", "EMPTY: is not allowed to be empty");
    fails("${NONE:?say $A}", "NONE: say one");
}

#[test]
fn substitutions_nest() {
    check("${NONE:-${NADA:-$A}}", "one");
    check("${A:+<${A}>}", "<one>");
    check("${NONE:-x${NADA}y}", "xy");
    check(r#""${NONE:-"quoted"}""#, "quoted");
    check(r"${NONE:-\}}", "}");
    check("${V#$PRE}", "1.2.3");
    check("${V#${PRE}?}", ".2.3");
    check("${V/${PRE}/$R}", "_1.2.3");
    let deep = format!("{}x{}", "${N:-".repeat(10_000), "}".repeat(10_000));
    fails(&deep, "substitutions are nested too deeply");
}

#[test]
fn patterns_cut_and_replace() {
    check("${P#*/} ${P##*/}", "usr/local/lib lib");
    check("${F%.*} ${F%%.*}", "archive.tar archive");
    check(r"${P/\/usr/x} ${P//\//_}", "x/local/lib _usr_local_lib");
    check("${NONE#a}${NONE%a}${NONE/a/b}", "");
    fails(r"${P#\a}", r"invalid pattern (\a) in substitution: invalid escape");
}

#[test]
fn broken_substitutions_are_errors() {
    for word in ["${", "${A", "${A:", "${A:-x", "${A:-'x", "${A/b/c", "${A:-${B}"] {
        fails(word, "syntax error: missing '}'");
    }
    fails("${A/b", "syntax error: missing '/' in ${}");
    for word in ["${}", "${:}", "${{A}}", "${:-x}"] {
        fails(word, "syntax error: bad substitution");
    }
    fails("${A!x}", "unsupported modifier (!) in substitution");
    fails("${A:x}", "unsupported modifier (:x) in substitution");
}

#[test]
fn words_split_at_blanks_that_were_not_quoted() {
    for (word, expect) in [
        ("$PORTS/udp 90", vec!["80", "443/udp", "90"]),
        (r#""$PORTS" a\ b 'c d'"#, vec!["80 443", "a b", "c d"]),
        ("  ", vec![]),
        ("''", vec![]),
    ] {
        assert_eq!(expand_words(word, '\\', &env).unwrap(), expect, "{word}");
    }
}

#[test]
fn looked_up_names_are_told() {
    let got = expand_word("$B $A $NONE ${X:-$Y} $A", '\\', &env).unwrap();
    assert_eq!(got.used, ["A", "B"]);
    assert_eq!(got.unmatched, ["NONE", "X", "Y"]);
}

#[test]
fn a_heredocs_body_keeps_its_quotes() {
    let got = expand_word_raw_quotes("it's \"$A\" '$A' \\$A\n", '\\', &env).unwrap();
    assert_eq!(got.value, "it's \"one\" 'one' $A\n");
}

#[test]
fn raw_rules_keep_what_was_written() {
    let lexer = Lexer { raw_quotes: true, raw_escapes: true, skip_unset: true, ..Lexer::new('\\') };
    let text = r#"cat <<'E O' "a\"b" \x ${N:-y} $N ${N} ${N/a/b} ${N#c}"#;
    assert_eq!(lexer.expand(text, &|_| None).unwrap().value, text);
}

proptest! {
    #[test]
    fn expanding_never_panics(word in ".{0,80}", shellish in "[a-zA-Z${}:+?#%/\\\\'\" *`-]{0,80}") {
        for word in [word, shellish] {
            for escape in ['\\', '`'] {
                let _ = expand_word(&word, escape, &env);
                let _ = expand_word_raw_quotes(&word, escape, &env);
            }
        }
    }

    #[test]
    fn a_word_of_plain_characters_is_itself(word in "[a-zA-Z0-9_./:@=-]{0,40}") {
        prop_assert_eq!(expand_word(&word, '\\', &env).unwrap().value, word);
    }
}

#[test]
fn substitutions_that_grow_by_themselves_have_an_end() {
    let value = "x".repeat(40);
    let env = |name: &str| (name == "a").then(|| value.clone());
    let nested = (0..20).fold("$a".to_owned(), |inner, _| format!("${{a//?/{inner}}}"));
    assert_eq!(expand_word(&nested, '\\', &env), Err(ExpandError::TooLong));
    let many = "$a".repeat(MAX_ADDED / 40 + 1);
    assert_eq!(expand_word(&many, '\\', &env), Err(ExpandError::TooLong));
    let once = "$a".repeat(MAX_ADDED / 40);
    assert_eq!(expand_word(&once, '\\', &env).map(|expanded| expanded.value.len()), Ok(MAX_ADDED / 40 * 40));
}

#[test]
fn a_long_pattern_is_not_sought_in_a_long_value() {
    let value = "a".repeat(MAX_ADDED / 2);
    let env = |name: &str| Some(if name == "p" { format!("*{}b", &value[..100]) } else { value.clone() });
    for form in ["${v//$p/x}", "${v/$p/x}", "${v#$p}", "${v%%$p}"] {
        assert_eq!(expand_word(form, '\\', &env), Err(ExpandError::TooLong), "{form}");
    }
}
