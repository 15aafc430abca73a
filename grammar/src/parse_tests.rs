//! Claims about whole Dockerfiles. They read nothing from the disk.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::ast::{Command, CopySource, Healthcheck, Word};

/// The kind of the one instruction after `FROM x`.
fn kind(text: &str) -> InstructionKind {
    let source = format!("FROM x\n{text}");
    let parse = parse(&source);
    assert_eq!(errors(&parse), [""; 0], "{text}");
    parse.dockerfile.stages[0].instructions[0].kind.clone()
}

fn errors(parse: &Parse) -> Vec<&str> {
    let errors = parse.diagnostics.iter().filter(|d| d.severity == Severity::Error);
    errors.map(|d| d.message.as_str()).collect()
}

/// The text has one error, and this is how its message begins.
fn refused(source: &str, message: &str) {
    let parse = parse(source);
    let errors = errors(&parse);
    assert_eq!(errors.len(), 1, "{source:?}: {errors:?}");
    assert!(errors[0].starts_with(message), "{source:?}: {errors:?}");
}

fn refused_after_from(line: &str, message: &str) {
    refused(&format!("FROM x\n{line}"), message);
}

fn raws(words: &[Word]) -> Vec<&str> {
    words.iter().map(|word| word.raw.as_str()).collect()
}

fn shell(text: &str) -> Command {
    Command::Shell(text.to_owned())
}

fn exec(words: &[&str]) -> Command {
    Command::Exec(words.iter().map(|word| (*word).to_owned()).collect())
}

#[test]
fn stages_hold_their_instructions() {
    let parse = parse("ARG A=1 B\nFROM --platform=$P base AS Build\nrun a\nFROM build\n");
    assert_eq!(errors(&parse), [""; 0]);
    let file = parse.dockerfile;
    assert_eq!(file.global_args.len(), 1);
    assert_eq!(file.stages[0].name.as_deref(), Some("build"));
    let InstructionKind::From { image, platform, alias } = &file.stages[0].from.kind else { panic!() };
    assert_eq!((image.raw.as_str(), platform.as_ref().unwrap().raw.as_str()), ("base", "$P"));
    assert_eq!(alias.as_ref().map(|(a, b)| (a.raw.as_str(), b.raw.as_str())), Some(("Build", "AS")));
    assert_eq!(file.stages[0].instructions[0].keyword.raw, "run");
    assert_eq!(file.stages[1].name, None);
}

#[test]
fn errors_of_the_file() {
    refused("", "the Dockerfile is empty: file with no instructions");
    refused("# only\n\n", "the Dockerfile is empty: file with no instructions");
    refused("ARG A", "dockerfile contains no stages to build");
    refused("RUN a\nRUN b\nFROM x", "no build stage in current context");
    refused("# escape=x\nFROM x", "invalid escape token 'x' does not match ` or \\");
    refused("# escape=`\n# escape=`\nFROM x", "only one escape parser directive can be used");
    refused(
        &format!("FROM x\nRUN {}", "a".repeat(70_000)),
        "dockerfile line greater than max allowed size of 65535",
    );
    refused(&"x".repeat(MAX_DOCKERFILE_SIZE + 1), "the Dockerfile has 16777217 bytes");
    refused_after_from("COPY <<EOF /f\nx\n", "unterminated heredoc");
}

#[test]
fn errors_of_from() {
    let count = "FROM requires either one or three arguments";
    for line in ["FROM", "FROM a b", "FROM a b c", "FROM a AS b c", "FROM a AS"] {
        refused(line, count);
    }
    for name in ["1a", "$N", "a/b", "é", "-a"] {
        refused(&format!("FROM x AS {name}"), "invalid name for build stage: ");
    }
    refused("FROM --plattform=a x", "unknown flag: --plattform");
    refused("FROM --platform x", "missing a value on flag: --platform");
    assert_eq!(errors(&parse("FROM x as A-b_c.9")), [""; 0]);
}

#[test]
fn errors_of_flags() {
    refused_after_from("COPY --frm=a b c", "unknown flag: --frm");
    refused_after_from("COPY --link=yes b c", "expecting boolean value for flag --link, not: yes");
    refused_after_from("COPY --link= b c", "missing a value on flag: --link");
    refused_after_from("COPY --link --link b c", "duplicate flag specified: --link");
    refused_after_from("ADD --from=a b c", "unknown flag: --from");
    refused_after_from("WORKDIR --x /a", "unknown flag: --x");
    refused_after_from("RUN --network=foo true", "invalid network mode \"foo\"");
    refused_after_from("RUN --security=foo true", "security \"foo\" is not valid");
    let parse = parse("FROM x\nCOPY --frm=a b c\nFORM y");
    let hints: Vec<_> = parse.diagnostics.iter().filter_map(|d| d.hint.as_deref()).collect();
    assert_eq!(hints, ["did you mean --from?", "did you mean FROM?"]);
    assert_eq!(parse.diagnostics[1].line, 3);
}

#[test]
fn errors_of_arguments() {
    let two =
        "requires at least two arguments, but only one was provided. Destination could not be determined";
    for (line, message) in [
        ("NONSENSE here", "unknown instruction: NONSENSE"),
        ("COPY f", &format!("COPY {two}")),
        ("ADD [\"f\"]", &format!("ADD {two}")),
        ("COPY a <<EOF\nEOF", "COPY cannot accept a heredoc as a destination"),
        ("COPY [\"<<EOF\", \"/f\"]", "COPY cannot accept a heredoc in the JSON form"),
        ("COPY --from=$S a b", "variable expansion is not supported for --from"),
        ("COPY [\"a\", 1]", "when using JSON array syntax, arrays must be comprised of strings only"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV A", "ENV must have two arguments"),
        ("LABEL a", "LABEL must have two arguments"),
        ("ENV A=1 B", "Syntax error - can't find = in \"B\". Must be of the form: name=value"),
        ("ENV =1", "ENV names can not be blank"),
        ("ARG", "ARG requires at least one argument"),
        ("ARG =1", "ARG names can not be blank"),
        ("EXPOSE", "EXPOSE requires at least one argument"),
        ("VOLUME []", "VOLUME requires at least one argument"),
        ("VOLUME [\" \"]", "VOLUME specified can not be an empty string"),
        ("USER", "USER requires exactly one argument"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("MAINTAINER", "MAINTAINER requires exactly one argument"),
        ("SHELL", "SHELL requires at least one argument"),
        ("SHELL []", "SHELL requires at least one argument"),
        ("SHELL /bin/sh", "SHELL requires the arguments to be in JSON form"),
        ("RUN [1]", "when using JSON array syntax"),
        ("ONBUILD", "ONBUILD requires at least one argument"),
        ("ONBUILD ONBUILD RUN a", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("ONBUILD from x", "FROM isn't allowed as an ONBUILD trigger"),
        ("ONBUILD MAINTAINER x", "MAINTAINER isn't allowed as an ONBUILD trigger"),
        ("ONBUILD ENV A", "ENV must have two arguments"),
    ] {
        refused_after_from(line, message);
    }
}

#[test]
fn errors_of_healthcheck() {
    for (line, message) in [
        ("", "HEALTHCHECK requires at least one argument"),
        ("NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("CMD", "Missing command after HEALTHCHECK CMD"),
        ("CMD []", "Missing command after HEALTHCHECK CMD"),
        ("foo x", "Unknown type \"FOO\" in HEALTHCHECK (try CMD)"),
        ("--retries=-1 CMD true", "--retries cannot be negative (-1)"),
        ("--retries=a CMD true", "--retries must be a whole number"),
        ("--interval=1 CMD true", "time: missing unit in duration \"1\""),
        ("--timeout=1us CMD true", "Interval \"timeout\" cannot be less than 1ms"),
        ("--interval=-1s CMD true", "Interval \"interval\" cannot be less than 1ms"),
    ] {
        refused_after_from(&format!("HEALTHCHECK {line}"), message);
    }
    let InstructionKind::Healthcheck(check) = kind("HEALTHCHECK --interval=1m30s --retries=4 cmd --x a")
    else {
        panic!()
    };
    let Healthcheck::Cmd { command, interval_ns, timeout_ns, retries, .. } = check else { panic!() };
    assert_eq!((command, interval_ns, timeout_ns, retries), (shell("--x a"), 90_000_000_000, 0, 4));
    assert_eq!(kind("HEALTHCHECK none"), InstructionKind::Healthcheck(Healthcheck::None));
}

#[test]
fn errors_of_mounts() {
    for (value, message) in [
        ("typ=cache", "unexpected key 'typ' in 'typ=cache'"),
        ("target", "invalid field 'target' must be a key=value pair"),
        ("from=$S,target=/m", "'from' doesn't support variable expansion, define alias stage instead"),
        ("type=bind,", "invalid field '' must be a key=value pair"),
        ("\\\"a", "failed to parse csv mounts"),
    ] {
        refused_after_from(&format!("RUN --mount={value} true"), message);
    }
    let InstructionKind::Run(run) =
        kind("RUN --mount=TYPE=cache,target=/c,ro --mount='type=tmpfs,target=/a b' x")
    else {
        panic!()
    };
    assert_eq!(run.mounts[0].fields[0], ("type".to_owned(), Some("cache".to_owned())));
    assert_eq!(run.mounts[0].fields[2], ("ro".to_owned(), None));
    assert_eq!(run.mounts[1].value.raw, "type=tmpfs,target=/a b");
    assert_eq!(run.command, shell("x"));
}

#[test]
fn commands_have_two_forms() {
    for (line, expect) in [
        ("CMD a  b\t", shell("a  b")),
        ("CMD", shell("")),
        ("CMD []", exec(&[])),
        ("CMD [ \"a b\" ,\"\" ]", exec(&["a b", ""])),
        ("CMD ['a', 'b']", shell("['a', 'b']")),
        ("CMD [\"a\"] && c", shell("[\"a\"] && c")),
        ("CMD \"a\", \"b\"", shell("\"a\", \"b\"")),
        ("CMD a # no comment", shell("a # no comment")),
    ] {
        assert_eq!(kind(line), InstructionKind::Cmd(expect), "{line}");
    }
    let InstructionKind::Run(run) = kind("RUN  echo  \"a  b\"\t&& \\\n    # comment\n    true") else {
        panic!()
    };
    assert_eq!(run.command, shell("echo  \"a  b\"\t&&     true"));
}

#[test]
fn pairs_keep_their_quotes() {
    let pairs = |line: &str| match kind(line) {
        InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => {
            pairs.into_iter().map(|p| (p.key.raw, p.value.raw, p.legacy)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let new = |key: &str, value: &str| (key.to_owned(), value.to_owned(), false);
    assert_eq!(
        pairs("LABEL a=1 \"b c\"=\"d e\" h="),
        [new("a", "1"), new("\"b c\"", "\"d e\""), new("h", "")]
    );
    assert_eq!(pairs("ENV A=b\\ c=d"), [new("A", "b\\ c=d")]);
    assert_eq!(
        pairs("LABEL old  form  of a \"l\""),
        [("old".to_owned(), "form  of a \"l\"".to_owned(), true)]
    );
    assert_eq!(pairs("ENV A b=c"), [("A".to_owned(), "b=c".to_owned(), true)]);
    assert_eq!(pairs("LABEL long=\"first \\\nsecond\""), [new("long", "\"first second\"")]);
}

#[test]
fn words_of_the_simple_instructions() {
    let InstructionKind::Arg(args) = kind("ARG a b=c d=\"e f\" g=") else { panic!() };
    let args: Vec<_> =
        args.iter().map(|(n, v)| (n.raw.as_str(), v.as_ref().map(|v| v.raw.as_str()))).collect();
    assert_eq!(args, [("a", None), ("b", Some("c")), ("d", Some("\"e f\"")), ("g", Some(""))]);
    let InstructionKind::Volume(words) = kind("VOLUME [/a, /b]") else { panic!() };
    assert_eq!(raws(&words), ["[/a,", "/b]"]);
    let InstructionKind::Volume(words) = kind("VOLUME [\" /a b \"]") else { panic!() };
    assert_eq!(raws(&words), ["/a b"]);
    let InstructionKind::Expose(words) = kind("EXPOSE 80\t$P/udp") else { panic!() };
    assert_eq!(raws(&words), ["80", "$P/udp"]);
    let InstructionKind::Workdir(word) = kind("WORKDIR /a b ") else { panic!() };
    assert_eq!(word.raw, "/a b");
    let InstructionKind::Stopsignal(word) = kind("STOPSIGNAL --x SIGINT") else { panic!() };
    assert_eq!(word.raw, "SIGINT");
    assert_eq!(kind("SHELL [\"a\", \"-c\"]"), InstructionKind::Shell(vec!["a".to_owned(), "-c".to_owned()]));
}

#[test]
fn copy_takes_words_json_and_heredocs() {
    let line = "COPY --from=s --chown=1:2 --link --parents=FALSE --exclude=a --exclude=b x \"y z\" /d/";
    let InstructionKind::Copy(copy) = kind(line) else { panic!() };
    assert_eq!((copy.link, copy.parents), (true, false));
    assert_eq!(raws(&copy.exclude), ["a", "b"]);
    assert_eq!((copy.sources.len(), copy.dest.raw.as_str()), (3, "/d/"));
    let InstructionKind::Copy(copy) = kind("COPY [\"a file\", \"/b dir/\"]") else { panic!() };
    assert_eq!(copy.dest.raw, "/b dir/");
    let InstructionKind::Copy(copy) = kind("COPY a <<b <<-'c' /d/\n$made\nb\n\tx\n\tc\n") else { panic!() };
    let heredocs: Vec<_> = copy.sources.iter().filter_map(heredoc_of).collect();
    assert_eq!(heredocs[0], ("b", "$made\n", true, false));
    assert_eq!(heredocs[1], ("c", "x\n", false, true));
    let InstructionKind::Add(add) = kind("ADD --unpack --keep-git-dir=false --checksum=$C a b") else {
        panic!()
    };
    assert_eq!((add.unpack, add.keep_git_dir, add.link), (Some(true), Some(false), false));
}

fn heredoc_of(source: &CopySource) -> Option<(&str, &str, bool, bool)> {
    match source {
        CopySource::Heredoc(h) => Some((&h.name, &h.body, h.expand, h.chomp)),
        CopySource::Path(_) => None,
    }
}

#[test]
fn run_keeps_its_heredocs_beside_its_line() {
    let text = "RUN cat <<ONE > /one \\\n  # c\n  && cat 3<<-\"TWO\"\n1\nONE\n\t2\n\tTWO\nENV A=1";
    let source = format!("FROM x\n{text}");
    let parse = parse(&source);
    assert_eq!(errors(&parse), [""; 0]);
    let instructions = &parse.dockerfile.stages[0].instructions;
    assert_eq!(instructions.len(), 2);
    let InstructionKind::Run(run) = &instructions[0].kind else { panic!() };
    assert_eq!(run.command, shell("cat <<ONE > /one   && cat 3<<-\"TWO\""));
    let bodies: Vec<_> = run.heredocs.iter().map(|h| (h.body.as_str(), h.raw_body.as_str(), h.fd)).collect();
    assert_eq!(bodies, [("1\n", "1\n", 0), ("2\n", "\t2\n", 3)]);
    assert_eq!((instructions[0].line, instructions[0].end_line), (2, 8));
    assert_eq!(source[instructions[0].span.start..instructions[0].span.end], text[..text.len() - 8]);
    let body = run.heredocs[1].span;
    assert_eq!(&source[body.start..body.end], "\t2\n");
}

#[test]
fn an_exec_form_and_other_instructions_have_no_heredocs() {
    assert!(matches!(kind("RUN [\"touch\", \"/<<EOF\"]\nENV A=1"), InstructionKind::Run(_)));
    assert!(matches!(kind("CMD cat <<EOF"), InstructionKind::Cmd(_)));
    assert!(matches!(kind("RUN echo '<<EOF'"), InstructionKind::Run(_)));
    assert!(matches!(kind("RUN cat <<<EOF"), InstructionKind::Run(_)));
    assert!(matches!(kind("RUN echo $((1<<2))"), InstructionKind::Run(_)));
}

#[test]
fn a_trigger_is_kept_and_read() {
    let InstructionKind::Onbuild { trigger, instruction } = kind("ONBUILD  COPY --from=$S <<-A /d\n\tx\nA\n")
    else {
        panic!()
    };
    assert_eq!(trigger.raw, "COPY --from=$S <<-A /d\n\tx\nA");
    assert!(instruction.is_some_and(|copy| matches!(*copy, InstructionKind::Copy(_))));
    let again = parse_instruction(&trigger.raw.replace("$S", "s"), '\\').unwrap();
    assert!(matches!(again, InstructionKind::Copy(_)));
    assert!(parse_instruction(&trigger.raw, '\\').is_err());
    assert!(parse_instruction("RUN a\nRUN b", '\\').is_err());
    assert!(parse_instruction("FROM a", '\\').is_err());
    assert!(parse_instruction("", '\\').is_err());
}

#[test]
fn a_trigger_that_is_wrong_is_so_only_where_it_acts() {
    for trigger in ["NONSENSE x", "COPY one", "COPY --no-such=x a b", "RUN --network=x ls", "ENV"] {
        let kind = kind(&format!("ONBUILD {trigger}\n"));
        let InstructionKind::Onbuild { trigger: kept, instruction } = kind else { panic!("{trigger}") };
        assert_eq!((kept.raw.as_str(), instruction), (trigger, None));
        assert!(parse_instruction(trigger, '\\').is_err(), "{trigger}");
    }
}

#[test]
fn the_escape_directive_changes_the_escape_character() {
    let parse = parse("# escape=`\nFROM x\nENV A=1 `\n    B=c:\\d\n");
    let InstructionKind::Env(pairs) = &parse.dockerfile.stages[0].instructions[0].kind else { panic!() };
    assert_eq!(pairs[1].value.raw, "c:\\d");
    assert_eq!(parse.dockerfile.directives.escape, '`');
}

#[test]
fn carriage_returns_end_lines_but_stay_in_heredocs() {
    let source = "# c\r\nFROM x\r\n\r\nENV A=1 \\\r\n  # within\r\n    B=2\r\nCOPY <<END /f\r\none\r\nEND\r\nCMD [\"x\"]\r\n";
    let parse = parse(source);
    assert_eq!(errors(&parse), [""; 0]);
    let instructions = &parse.dockerfile.stages[0].instructions;
    assert_eq!(instructions[0].text, "ENV A=1     B=2");
    let InstructionKind::Copy(copy) = &instructions[1].kind else { panic!() };
    assert_eq!(heredoc_of(&copy.sources[0]).unwrap().1, "one\r\n");
    assert_eq!(instructions[2].kind, InstructionKind::Cmd(exec(&["x"])));
}

#[test]
fn a_blank_line_within_an_instruction_is_warned_of() {
    let parse = parse("FROM x\nLABEL a=b \\\n\n\n  c=d\n");
    assert_eq!(parse.diagnostics.len(), 1);
    let warning = &parse.diagnostics[0];
    assert_eq!(
        (warning.severity, warning.rule, warning.line),
        (Severity::Warning, Some("NoEmptyContinuation"), 5)
    );
}

#[test]
fn spans_survive_joining() {
    let source = "\u{feff}FROM x\nENV A=1 \\\n  # é\n  Bé=\"2 3\"\nCOPY --chown=\"a:b\" [x] \\\n /d";
    let parse = parse(source);
    let instructions = &parse.dockerfile.stages[0].instructions;
    let at = |word: &Word| &source[word.span.start..word.span.end];
    let InstructionKind::Env(pairs) = &instructions[0].kind else { panic!() };
    assert_eq!((at(&pairs[1].key), at(&pairs[1].value)), ("Bé", "\"2 3\""));
    let InstructionKind::Copy(copy) = &instructions[1].kind else { panic!() };
    assert_eq!((at(&copy.dest), at(copy.chown.as_ref().unwrap())), ("/d", "\"a:b\""));
    assert_eq!(at(&instructions[1].keyword), "COPY");
}

#[test]
fn errors_after_a_broken_from_are_not_about_stages() {
    let parse = parse("FROM a b\nRUN x\nCOPY y\nFROM z\nRUN w");
    assert_eq!(errors(&parse).len(), 2);
    assert_eq!(parse.dockerfile.stages.len(), 1);
    assert_eq!(parse.dockerfile.stages[0].instructions.len(), 1);
}

#[test]
fn comments_above_an_instruction_are_kept() {
    let parse = parse("# syntax=a\n# about x\nFROM x\n  # check=skip=all\n\nRUN y");
    assert_eq!(parse.dockerfile.stages[0].from.comments, ["about x"]);
    assert_eq!(parse.dockerfile.stages[0].instructions[0].comments, ["check=skip=all"]);
}

#[test]
fn many_errors_end_the_reading() {
    let parse = parse(&format!("FROM x\n{}", "NONSENSE\n".repeat(10_000)));
    assert!(parse.diagnostics.len() <= MAX_ERRORS + 2);
}

/// The best of three, so that a busy machine does not count.
fn time_of(source: &str) -> Duration {
    let once = || {
        let start = Instant::now();
        assert_eq!(errors(&parse(source)), [""; 0]);
        start.elapsed()
    };
    (0..3).map(|_| once()).min().unwrap_or_default()
}

#[test]
fn time_grows_with_the_text_and_no_faster() {
    let lines = "RUN --mount=type=cache,target=/c make  all && \\\n  true\nENV A=1 B=\"two words\"\nCOPY --link a b /c/\n\
                 CMD [\"x\", \"y\"]\nLABEL a=b\n";
    let text = |count: usize| format!("FROM x\n{}", lines.repeat(count / 5));
    let few = time_of(&text(2_000));
    let many = time_of(&text(10_000));
    assert!(many < few * 15, "{few:?} {many:?}");
    // Optimised, this is some tens of milliseconds; this bound is for builds that are not.
    let bound = if cfg!(debug_assertions) { 3_000 } else { 100 };
    assert!(many < Duration::from_millis(bound), "{many:?}");
}

#[test]
fn a_huge_instruction_is_read_in_linear_time() {
    for piece in ["a=b \\\n", "'a' \\\n", "\"\\\" \\\n", "$ \\\n"] {
        let half = time_of_any(&format!("FROM x\nENV A={}x", piece.repeat(50_000)));
        let whole = time_of_any(&format!("FROM x\nENV A={}x", piece.repeat(200_000)));
        assert!(whole < half * 12 + Duration::from_millis(200), "{piece:?}: {half:?} {whole:?}");
    }
}

fn time_of_any(source: &str) -> Duration {
    let start = Instant::now();
    let _ = parse(source);
    start.elapsed()
}

#[test]
fn hostile_texts_are_read_to_the_end() {
    for source in [
        "\0\0\0",
        "FROM \0",
        "\u{feff}",
        "\\",
        "\\\n",
        "FROM x\nRUN [[[[[[",
        "FROM x\nONBUILD ONBUILD ONBUILD",
        "FROM x\nRUN <<\nRUN <<-\nRUN 99999999999999999999<<E\nE\n",
        "FROM x\nCOPY --\nCOPY -- a b\n",
        "FROM x\nHEALTHCHECK \u{a0}CMD\u{2003}x",
        "\u{85}FROM\u{a0}x",
    ] {
        let _ = parse(source);
    }
    let _ = parse(&format!("FROM x\nRUN {}", "[".repeat(60_000)));
    let _ = parse(&format!("FROM x\nCOPY {}", "<<a ".repeat(10_000)));
}

proptest! {
    #[test]
    fn parsing_never_panics(source in "(?s).{0,200}") {
        let _ = parse(&source);
        let _ = parse_instruction(&source, '\\');
    }

    #[test]
    fn dockerfile_like_texts_have_spans_within_them(
        lines in prop::collection::vec(
            "(FROM|RUN|COPY|ADD|ENV|ARG|LABEL|CMD|ONBUILD RUN|HEALTHCHECK|SHELL|VOLUME|#|EOF|# escape=`)?\
             [ \t]?(--(from|mount|link|chown|interval)=?)?[a-zé=\"'\\\\`$\\[\\], <-]{0,16}(<<-?'?EOF'?)?[ \\\\`\r]{0,2}",
            0..12,
        )
    ) {
        let source = lines.join("\n");
        let parse = parse(&source);
        for diagnostic in &parse.diagnostics {
            prop_assert!(source.get(diagnostic.span.start..diagnostic.span.end).is_some());
        }
        for stage in &parse.dockerfile.stages {
            for instruction in stage.instructions.iter().chain([&stage.from]) {
                prop_assert!(source.get(instruction.span.start..instruction.span.end).is_some());
                prop_assert!(instruction.line <= instruction.end_line);
            }
        }
    }
}
