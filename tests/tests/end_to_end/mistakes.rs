//! Mistakes in a Dockerfile or on the command line: exit code 2, and words that help.

use super::{NONE, on_busybox};
use kiln_tests::{Finished, TestContext};

/// Builds `text`, which must be refused as a mistake, before anything runs.
#[track_caller]
fn refused(text: &str) -> Finished {
    TestContext::with_dockerfile(text).build(NONE).fails_with(2)
}

#[test]
fn a_mistake_is_shown_with_its_line_a_caret_and_a_hint() {
    let context = on_busybox("FROM @\nENV A=1\nCOYP a b\n");
    let finished = context.build(NONE).fails_with(2).says("COYP a b").says("^").says_one_of(&["COPY"]);
    let places = ["Dockerfile:3", "line 3", "3 |"];
    finished.says_one_of(&places);
}

#[test]
fn every_mistake_is_told_with_the_line_where_it_stands() {
    let cases = [
        ("FROM scratch\nRUN --mont=type=cache,target=/x true\n", "--mont", "2"),
        ("FROM scratch\nCOPY onlyone\n", "COPY", "2"),
        ("FROM scratch\nEXPOSE many\n", "many", "2"),
        ("FROM scratch\nHEALTHCHECK --retries=x CMD true\n", "retries", "2"),
        ("FROM scratch\nENV\n", "ENV", "2"),
        ("FROM scratch\nCOPY <<EOF /x\nnever ended\n", "EOF", "2"),
        ("RUN true\n", "FROM", "1"),
        ("FROM ${NOTHING}\n", "FROM", "1"),
    ];
    for (text, word, line) in cases {
        let finished = refused(text).says(word).says("^");
        let places = [format!("Dockerfile:{line}"), format!("{line} |")];
        finished.says_one_of(&places.each_ref().map(String::as_str));
    }
}

#[test]
fn a_mistake_in_a_stage_that_is_not_needed_is_a_mistake_too() {
    refused("FROM scratch AS unused\nNONSENSE\nFROM scratch\nLABEL a=b\n").says("NONSENSE");
}

#[test]
fn an_empty_dockerfile_is_refused() {
    for text in ["", "\n\n", "# only a comment\n", "\u{feff}", "ARG A=1\n"] {
        refused(text).says_one_of(&["empty", "no build stage", "no FROM", "without FROM", "no stage"]);
    }
}

#[test]
fn a_binary_dockerfile_is_refused() {
    let bytes: Vec<u8> = (0..20_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let context = TestContext::new();
    context.write("Dockerfile", bytes);
    let finished = context.build(NONE).fails_with(2);
    assert!(finished.stderr.len() < 20_000, "a binary is not echoed: {} bytes", finished.stderr.len());
    let raw = finished.stderr.bytes().filter(|b| *b < 0x20 && !matches!(b, b'\n' | b'\t' | 0x1b)).count();
    assert_eq!(raw, 0, "control characters of a file do not reach the terminal:\n{finished}");
}

#[test]
fn a_dockerfile_of_100_mb_is_refused_without_reading_it_all_into_words() {
    let context = TestContext::new();
    let mut text = b"FROM scratch\n".to_vec();
    text.resize(100 << 20, b'x');
    context.write("Dockerfile", &text);
    let finished = context.build(NONE).fails_with(2);
    assert!(finished.stderr.len() < 20_000, "{} bytes", finished.stderr.len());
    assert!(finished.took.as_secs() < 20, "{:?}", finished.took);
}

#[test]
fn a_dockerfile_full_of_unknown_words_is_refused_in_few_lines() {
    let text: String = (0..20_000).map(|i| format!("WORD{i} some thing\n")).collect();
    let finished = refused(&format!("FROM scratch\n{text}")).says("WORD0");
    assert!(finished.stderr.lines().count() < 1000, "{} lines", finished.stderr.lines().count());
}

#[test]
fn a_dockerfile_that_is_not_there_is_named() {
    let context = TestContext::new();
    context.build(NONE).fails_with(2).says("Dockerfile");
    context.build(["-f", "elsewhere/Other.dockerfile"]).fails_with(2).says("Other.dockerfile");
}

#[test]
fn a_target_that_is_not_there_is_named() {
    let context =
        TestContext::with_dockerfile("FROM scratch AS one\nLABEL a=b\nFROM scratch AS two\nLABEL a=b\n");
    context.build(["--target", "twoo"]).fails_with(2).says("twoo").says("two");
}

#[test]
fn a_command_line_that_is_wrong_is_a_usage_error() {
    let context = TestContext::with_dockerfile("FROM scratch\nLABEL a=b\n");
    context.build(["--no-such-flag"]).fails_with(2).says("--no-such-flag");
    context.build(["-t", "UPPER/Case"]).fails_with(2).says("Case").says("lower case");
    context.build(["-o", "type=nonsense"]).fails_with(2).says("nonsense");
    context.build(["--platform", "not a platform"]).fails_with(2).says("not a platform");
    context.kiln(["frobnicate"]).run().fails_with(2).says("frobnicate");
    context.kiln(["build"]).run().fails_with(2);
}

#[test]
fn a_check_tells_of_what_cannot_be_parsed_in_every_format() {
    let context = TestContext::with_dockerfile("FROM scratch\nFOO x\nBAR y\n");
    context.build(["--check", "--format=text"]).fails_with(2).says("FOO x").says("BAR y");
    context.build(["--check"]).fails_with(2).says("FOO x").says("BAR y");
    let finished = context.build(["--check", "--format=sarif"]).fails_with(2);
    assert!(finished.stdout_text().contains("FOO") && finished.stdout_text().contains("BAR"), "{finished}");
}

#[test]
fn help_goes_to_standard_output_and_is_a_success() {
    let context = TestContext::new();
    for args in [vec!["--help"], vec!["build", "--help"], vec!["push", "--help"], vec!["--version"]] {
        let finished = context.kiln(args).run().success();
        assert!(finished.stdout_text().contains("kiln"), "{finished}");
    }
}
