//! Stages: which are lowered, how they are named, what is asked about images, what is refused.

use super::*;

#[test]
fn only_the_stages_that_the_target_needs_are_lowered() {
    let text =
        "FROM busybox AS unused\nRUN false\nFROM busybox AS one\nRUN a\nFROM scratch\nCOPY --from=one /a /";
    let lowered = lowered(text, &options()).unwrap_or_else(|e| panic!("{e}"));
    let base = format!("docker.io/library/busybox:latest@{}", Digest::from_bytes([0; 32]));
    let from = format!("[one 1/2] FROM {base}");
    assert_eq!(names(&lowered.definition), [&from, "[one 2/2] RUN a", "[stage-2 1/1] COPY --from=one /a /"]);
}

#[test]
fn images_are_asked_for_at_once_and_once_more_for_triggers() {
    let text = "FROM triggers\nFROM busybox AS b\nFROM triggers\nCOPY --from=b /a /\nCOPY --from=0 /x /";
    let mut asked = Vec::new();
    let outcome = lower(&kiln_grammar::parse(text), &options(), &mut |requests| {
        asked.push(requests.iter().map(|r| r.reference.clone()).collect::<Vec<_>>());
        requests.iter().map(image).collect()
    });
    assert!(outcome.is_ok(), "{:?}", outcome.err());
    let busybox = ["docker.io/library/triggers:latest", "docker.io/library/busybox:latest"];
    assert_eq!(asked, [busybox.to_vec(), vec!["docker.io/library/more:latest"]]);
}

#[test]
fn triggers_run_first_and_are_gone() {
    check(
        "FROM triggers\nRUN echo after",
        &[
            "`[2/4] ONBUILD RUN echo t`",
            "`[4/4] RUN echo after`",
            "history base +\nhistory ARG T=t\nhistory RUN |1 T=t /bin/sh -c echo $T # kiln +\nhistory COPY /x /x # kiln +\n",
        ],
    );
    check("FROM busybox\nONBUILD RUN x", &[r#""OnBuild":["RUN x"]"#]);
    check("FROM busybox AS a\nONBUILD LABEL x=y\nFROM a", &[r#""Labels":{"x":"y"}"#]);
}

#[test]
fn a_mistake_in_a_trigger_names_the_trigger() {
    match lowered("FROM busybox AS a\nONBUILD WORKDIR ${X\nFROM a", &options()) {
        Err(LowerError::Diagnostic(d)) => {
            assert_eq!(d.line, 3);
            let hint = d.hint.unwrap_or_default();
            assert!(
                hint.starts_with("this is about the trigger `ONBUILD WORKDIR ${X` of the base: "),
                "{hint}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_target_is_named_in_any_case() {
    let with = |target: &str| BuildOptions { target: Some(target.to_owned()), ..options() };
    let text = "FROM busybox AS One\nLABEL a=1\nFROM nowhere";
    check_with(text, &with("ONE"), &[r#""Labels":{"a":"1"}"#]);
    check_with(text, &with("0"), &["error target stage \"0\" could not be found"]);
    match lowered(text, &with("on")) {
        Err(LowerError::Diagnostic(d)) => assert_eq!(d.hint.as_deref(), Some("did you mean one?")),
        other => panic!("{other:?}"),
    }
    match lowered("FROM busybox AS build", &with("bulid")) {
        Err(LowerError::Diagnostic(d)) => assert_eq!(d.hint.as_deref(), Some("did you mean build?")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn circles_and_later_stages_are_refused() {
    check("FROM a AS one\nCOPY --from=one /a /", &["error circular dependency detected on stage: one"]);
    check(
        "FROM busybox AS one\nCOPY --from=two /a /\nFROM busybox AS two\nCOPY --from=one /a /",
        &["error circular dependency detected on stage: one"],
    );
    check(
        "FROM busybox AS one\nCOPY --from=two /a /\nFROM busybox AS two\nFROM one",
        &["error cannot copy from stage \"two\", it needs to be defined before current stage \"one\""],
    );
    check("FROM busybox\nCOPY --from=7 /a /", &["error invalid stage index 7"]);
}

#[test]
fn what_cannot_be_fetched_is_named_with_its_line() {
    match lowered("FROM busybox\nCOPY --from=none/such /a /", &options()) {
        Err(LowerError::Image { reference, line, message, .. }) => {
            assert_eq!(
                (reference.as_str(), line, message.as_str()),
                ("docker.io/none/such:latest", 2, "not found")
            );
        }
        other => panic!("{other:?}"),
    }
    check("FROM Busy", &["error failed to parse stage name \"Busy\""]);
    check("ARG B\nFROM $B", &["error base name ($B) should not be blank"]);
}

#[test]
fn named_contexts_go_before_images_and_stages() {
    let mut options = options();
    let local = |name: &str| NamedContext::Local { name: name.to_owned(), excludes: vec!["x".to_owned()] };
    options.contexts.insert("none/such:1".to_owned(), local("replaced"));
    options.contexts.insert("two".to_owned(), NamedContext::Git("https://h/r.git#main:sub".to_owned()));
    options.contexts.insert("web".to_owned(), NamedContext::Http("https://h/a.tar".to_owned()));
    check_with(
        "FROM busybox AS two\nRUN false\nFROM none/such:1\nCOPY --from=two / /two\nCOPY --from=web / /web",
        &options,
        &[
            r#"<local://replaced local.excludepatterns=["x"]>"#,
            "<git://h/r.git#main:sub git.fullurl=https://h/r.git>",
            // As it comes: only the main context is unpacked.
            "<https://h/a.tar http.filename=context>",
            r#""WorkingDir":"/""#,
        ],
    );
}

#[test]
fn the_platform_is_that_of_the_base_unless_asked_for() {
    let platform = |text: &str, explicit: bool| {
        let mut options = options();
        options.explicit_platform = explicit;
        let lowered = lowered(text, &options).unwrap_or_else(|e| panic!("{e}"));
        let warned = lowered.warnings.iter().any(|w| w.rule == Some("InvalidBaseImagePlatform"));
        (lowered.platform.to_string(), warned)
    };
    assert_eq!(platform("FROM --platform=$BUILDPLATFORM arm", false), ("linux/arm64".to_owned(), true));
    assert_eq!(platform("FROM arm", true), ("linux/amd64".to_owned(), true));
    assert_eq!(platform("FROM scratch", false), ("linux/amd64".to_owned(), false));
    check("FROM --platform=$NONE busybox", &["error empty platform value from expression $NONE"]);
}

#[test]
fn a_stage_can_be_built_anew() {
    let options = BuildOptions { no_cache_filter: vec!["ONE".to_owned()], ..options() };
    check_with(
        "FROM busybox AS one\nRUN a\nFROM one\nRUN b",
        &options,
        &["> anew `[one 2/2] RUN a`", "> `[stage-1 1/1] RUN b`"],
    );
}

#[test]
fn nothing_takes_the_place_of_an_image_that_is_named_scratch() {
    let nothing = NamedContext::Image("docker-image://scratch".to_owned());
    let named = BuildOptions { contexts: [("base".to_owned(), nothing)].into(), ..options() };
    let expect = ["0  <local://context>", "from in0 on scratch> `[stage-1 1/1] COPY a /`"];
    check_with("FROM busybox AS base\nFROM base\nCOPY a /", &named, &expect);
}

fn with_stages(named: &[(&str, &str)]) -> BuildOptions {
    let stage = |(name, stage): &(&str, &str)| ((*name).to_owned(), NamedContext::Stage((*stage).to_owned()));
    BuildOptions { contexts: named.iter().map(stage).collect(), ..options() }
}

#[test]
fn a_stage_stands_for_a_name_that_is_given_to_it() {
    let text = "FROM nowhere AS app\nCOPY --from=tools /a /a\nRUN --mount=from=tools,target=/t x\n\
                FROM busybox AS dev\nRUN make\nFROM app";
    let named = with_stages(&[("nowhere", "dev"), ("tools", "dev")]);
    let lowered = lowered(text, &named).unwrap_or_else(|e| panic!("{e}"));
    let names = names(&lowered.definition);
    assert!(names[0].starts_with("[dev 1/2] FROM docker.io/library/busybox"), "{names:?}");
    assert_eq!(
        names[1..],
        [
            "[dev 2/2] RUN make",
            "[app 1/2] COPY --from=tools /a /a",
            "[app 2/2] RUN --mount=from=tools,target=/t x"
        ]
    );
}

#[test]
fn a_stage_takes_the_place_of_another() {
    let text = "FROM nowhere AS base\nRUN old\nFROM busybox AS new\nRUN new\nFROM base\nCOPY --from=0 /a /\nRUN last";
    let expect = ["[new 2/2] RUN new", "[stage-2 1/2] COPY --from=0 /a /", "[stage-2 2/2] RUN last"];
    let lowered = lowered(text, &with_stages(&[("base", "new")])).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(names(&lowered.definition)[1..], expect);
    let named = with_stages(&[("base", "new")]);
    let looked = crate::check(&kiln_grammar::parse(text), &named, &mut |all| all.iter().map(image).collect());
    assert_eq!(looked.error, None);
    let both = BuildOptions { target: Some("base".to_owned()), ..with_stages(&[("base", "new")]) };
    check_with(text, &both, &["`[new 2/2] RUN new`"]);
}

#[test]
fn a_stage_that_stands_for_itself_or_that_is_not_there_is_refused() {
    let text = "FROM busybox AS base\nFROM base AS app\nRUN x\nFROM app";
    let circle = ["error circular dependency detected on stage: base"];
    check_with(text, &with_stages(&[("base", "base")]), &circle);
    check_with(text, &with_stages(&[("base", "app"), ("app", "base")]), &["error circular dependency"]);
    check_with(text, &with_stages(&[("busybox", "app")]), &circle);
    check_with(text, &with_stages(&[("base", "app")]), &circle);
    let unknown = ["error the build context tools: target stage \"ap\" could not be found"];
    check_with(text, &with_stages(&[("tools", "ap")]), &unknown);
}

#[test]
fn an_alias_is_for_the_short_name_alone() {
    let aliases = [("mine".to_owned(), "r.io/x/mine".to_owned())].into();
    let options = BuildOptions { aliases, ..options() };
    for (written, want) in [
        ("mine", "r.io/x/mine"),
        ("mine:1", "r.io/x/mine:1"),
        ("mine@sha256:0", "r.io/x/mine@sha256:0"),
        ("docker.io/library/mine", "docker.io/library/mine"),
        ("localhost:5000/mine", "localhost:5000/mine"),
        ("miner", "miner"),
    ] {
        assert_eq!(options.aliased(written), want);
    }
}
