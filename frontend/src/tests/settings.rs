//! Arguments, variables, the config, and the warnings of the lint rules.

use super::*;

#[test]
fn an_argument_and_a_variable_of_one_name_go_by_their_order() {
    check("FROM busybox\nENV V=e\nARG V=a\nLABEL l=$V", &[r#""Labels":{"l":"a"}"#, r#""V=e""#]);
    check("FROM busybox\nARG V=a\nENV V=e\nLABEL l=$V", &[r#""Labels":{"l":"e"}"#]);
    check("FROM busybox AS a\nENV V=e\nARG V=a\nFROM a\nLABEL l=$V", &[r#""Labels":{"l":"e"}"#]);
}

#[test]
fn arguments_before_the_first_from_must_be_named_again() {
    let mut options = options();
    options.build_args.push(("A".to_owned(), Some("cli".to_owned())));
    options.build_args.push(("N".to_owned(), None));
    check_with(
        "ARG A=1 B=${A}2 N=n\nFROM busybox\nARG B\nARG N TARGETARCH\nLABEL a=${A-unset} b=$B n=$N t=$TARGETARCH",
        &options,
        &[r#""Labels":{"a":"unset","b":"cli2","n":"n","t":"amd64"}"#, "history ARG N=n TARGETARCH=amd64"],
    );
}

#[test]
fn entrypoint_drops_the_command_of_the_base_and_not_its_own() {
    check("FROM busybox\nENTRYPOINT [\"a\"]", &[r#"config {"Entrypoint":["a"],"Env""#]);
    check("FROM busybox\nCMD [\"c\"]\nENTRYPOINT [\"a\"]", &[r#""Cmd":["c"]"#]);
    check(
        "FROM busybox\nCMD a b",
        &[r#""Cmd":["/bin/sh","-c","a b"]"#, r#"history CMD ["/bin/sh" "-c" "a b"]"#],
    );
}

#[test]
fn an_image_from_nothing_has_a_path_and_a_folder() {
    check(
        "FROM scratch\nUSER 7",
        &[
            r#""Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]"#,
            r#""WorkingDir":"/""#,
            "target scratch",
        ],
    );
}

#[test]
fn labels_of_options_go_over_those_of_the_file() {
    let options = BuildOptions { labels: vec![("a".to_owned(), "$X".to_owned())], ..options() };
    check_with("FROM busybox\nLABEL a=1 b=2", &options, &[r#""Labels":{"a":"$X","b":"2"}"#]);
}

#[test]
fn signals_ports_and_volumes_are_checked() {
    check("FROM busybox\nSTOPSIGNAL SIGNONE", &["error invalid signal: SIGNONE"]);
    check("FROM busybox\nEXPOSE 90-80", &["error invalid containerPort: 90-80"]);
    check("FROM busybox\nVOLUME $NONE", &["error VOLUME specified can not be an empty string"]);
    check("FROM busybox\nENV P=\"80 443\"\nEXPOSE $P 7/udp", &["history EXPOSE [80/tcp 443/tcp 7/udp]"]);
    check("FROM busybox\nLABEL a=${X:?needed}", &["error X: needed"]);
}

#[test]
fn each_rule_warns() {
    for (text, rule) in [
        ("FROM busybox AS Two", "1 StageNameCasing"),
        ("FROM busybox as two", "1 FromAsCasing"),
        ("FROM busybox\nLABEL a=1 \\\n\n b=2", "NoEmptyContinuation"),
        ("FROM busybox\nLABEL a=1\nlabel b=1", "3 ConsistentInstructionCasing"),
        ("FROM busybox AS a\nFROM busybox AS a", "2 DuplicateStageName"),
        ("FROM busybox AS context", "1 ReservedStageName"),
        ("FROM busybox\nCMD x", "2 JSONArgsRecommended"),
        ("FROM busybox\nMAINTAINER x", "2 MaintainerDeprecated"),
        ("FROM busybox$x", "1 UndefinedArgInFrom"),
        ("FROM busybox\nWORKDIR x", "2 WorkdirRelativePath"),
        ("FROM busybox\nLABEL a=$BASES", "2 UndefinedVar"),
        ("FROM busybox\nCMD [\"a\"]\nCMD [\"b\"]", "2 MultipleInstructionsDisallowed"),
        ("FROM busybox\nENV a b", "2 LegacyKeyValueFormat"),
        ("FROM arm", "1 InvalidBaseImagePlatform"),
        ("FROM --platform=$TARGETPLATFORM busybox", "1 RedundantTargetPlatform"),
        ("FROM busybox\nARG API_TOKEN", "2 SecretsUsedInArgOrEnv"),
        ("FROM --platform=linux/amd64 busybox", "1 FromPlatformFlagConstDisallowed"),
        ("FROM busybox\nCOPY hidden/x /", "2 CopyIgnoredFile"),
        ("# check=experimental=all\n\n# other\nARG A=1\nFROM busybox", "4 InvalidDefinitionDescription"),
        ("FROM busybox\nEXPOSE 80/TCP", "2 ExposeProtoCasing"),
        ("FROM busybox\nEXPOSE 1:2", "2 ExposeInvalidFormat"),
    ] {
        let options = BuildOptions { ignore: kiln_grammar::parse_ignore("hidden"), ..options() };
        check_with(text, &options, &[&format!("{rule}: ")]);
    }
    let given = BuildOptions { build_args: vec![("T".to_owned(), Some("1".to_owned()))], ..options() };
    check_with("ARG T\nFROM busybox:$T", &given, &["warning 2 InvalidDefaultArgInFrom: "]);
}

#[test]
fn a_dockerfile_without_fault_has_no_warnings() {
    let text = "ARG T=1\nFROM busybox:$T AS one\nARG PUBLIC_KEY\nWORKDIR /a\nWORKDIR b\nSHELL [\"a\"]\nCMD x\n\
                ENV N=$PUBLIC_KEY\nCOPY . .\nEXPOSE 80/tcp";
    let lowered = lowered(text, &options()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(lowered.warnings, []);
}

#[test]
fn rules_are_skipped_and_made_errors() {
    let warned = |text: &str| lowered(text, &options()).map(|lowered| lowered.warnings.len());
    assert_eq!(warned("FROM busybox\nENV a b\nCMD x"), Ok(2));
    assert_eq!(warned("# check=skip=LegacyKeyValueFormat\nFROM busybox\nENV a b\nCMD x"), Ok(1));
    assert_eq!(warned("# check=skip=all\nFROM busybox\nENV a b\nCMD x"), Ok(0));
    assert_eq!(warned("FROM busybox\n# check=skip=LegacyKeyValueFormat\nENV a b\nCMD x"), Ok(1));
    match lowered("# check=error=true\nFROM busybox\nENV a b", &options()) {
        Err(LowerError::Lint { rules, .. }) => assert_eq!(rules, ["LegacyKeyValueFormat"]),
        other => panic!("{other:?}"),
    }
    let check = "BUILDKIT_DOCKERFILE_CHECK".to_owned();
    let options = BuildOptions { build_args: vec![(check, Some("skip=all".to_owned()))], ..options() };
    check_with("# check=error=true\nFROM busybox\nENV a b", &options, &["history ENV a=b\n"]);
    check_with("# check=nonsense\nFROM busybox", &options, &["history base"]);
    super::check("# check=nonsense\nFROM busybox", &["error failed to parse check options"]);
}

#[test]
fn a_check_looks_at_every_stage_and_goes_on_to_the_error() {
    let text = "FROM busybox AS unused\nENV a b\nFROM busybox\nSTOPSIGNAL none";
    let mut resolve = |requests: &[ImageRequest]| requests.iter().map(image).collect();
    let checked = super::super::check(&kiln_grammar::parse(text), &options(), &mut resolve);
    assert_eq!(checked.warnings.len(), 1);
    assert!(matches!(checked.error, Some(LowerError::Diagnostic(d)) if d.line == 4));
}

#[test]
fn a_value_that_doubles_itself_ends() {
    for (before, name, after) in
        [("FROM busybox\n", "ENV", ""), ("FROM busybox\n", "ARG", ""), ("", "ARG", "FROM $A")]
    {
        let doubled = format!("{name} A=$A$A\n").repeat(60);
        let text = format!("{before}{name} A=0123456789abcdef\n{doubled}{after}");
        check(&text, &["error a value has more than the 1048576 bytes that it may have"]);
    }
}

#[test]
fn what_is_short_to_write_does_not_fill_the_memory() {
    let doubled = format!("FROM busybox\nARG A=0123456789abcdef\n{}", "ARG A=$A$A\n".repeat(15));
    let folders = format!("FROM busybox\n{}", format!("WORKDIR {}\n", "a".repeat(1000)).repeat(500));
    let sources = format!("FROM busybox\nCOPY {} {} /d/\n", "--exclude=a ".repeat(4000), "a ".repeat(4000));
    for text in [doubled + &"RUN x\n".repeat(200), folders, sources] {
        match lowered(&text, &options()) {
            Err(error) => assert_eq!(error.to_string(), "the Dockerfile comes to more than 64 MiB here"),
            Ok(_) => panic!("{} lowers", &text[..60]),
        }
    }
}
