//! RUN: its command, its mounts, what it may do.

use super::*;

#[test]
fn a_run_has_arguments_and_variables_in_its_environment() {
    check(
        "FROM busybox\nARG A=1 B\nENV E=$A\nUSER u\nWORKDIR /w\nRUN echo $A",
        &[
            r#"exec ["/bin/sh", "-c", "echo $A"] in /w as "u" env ["PATH=/bin", "BASE=base", "A=1", "E=1"]"#,
            "history RUN |2 A=1 B= /bin/sh -c echo $A # kiln +",
            "| / bind in0 out0",
            "`[3/3] RUN echo 1`",
        ],
    );
    check("FROM busybox\nRUN [\"a\", \"b c\"]", &[r#"exec ["a", "b c"]"#, "history RUN a b c # kiln +"]);
    check("FROM busybox\nSHELL [\"x\", \"y\"]\nRUN z", &[r#"exec ["x", "y", "z"]"#]);
}

#[test]
fn heredocs_are_scripts_or_left_to_the_shell() {
    check(
        "FROM busybox\nRUN <<EOF\na\nb\nEOF",
        &[r#"exec ["/bin/sh", "-c", "a\nb\n"]"#, "`[2/2] RUN <<EOF (a...)`"],
    );
    check(
        "FROM busybox\nRUN cat <<A <<-B\n1\nA\n\t2\n\tB",
        &[r#"exec ["/bin/sh", "-c", "cat <<A <<-B\n1\nA\n\t2\nB"]"#],
    );
    check(
        "FROM busybox\nRUN <<EOF\n#!/bin/x\na\nEOF",
        &[
            r#"<mkfile /EOF 755 "#,
            r#"exec ["/bin/sh", "-c", "/dev/pipes/EOF"]"#,
            "| / bind in0 out0 | /dev/pipes bind in1 ro",
        ],
    );
}

#[test]
fn mounts_have_their_defaults() {
    check(
        "FROM busybox AS one\nFROM busybox\nWORKDIR /w\n\
         RUN --mount=target=m --mount=source=a/../b,target=/c,rw --mount=from=one,target=/o \
         --mount=type=cache,target=/k/ --mount=type=cache,id=i,target=/l,sharing=locked,uid=5 \
         --mount=type=tmpfs,target=/t,size=1k x",
        &[
            "| / bind in0 out0 | /c bind in1/b | /k cache //k Shared empty | /l cache /i Locked in3/cache \
             | /o bind in2 ro | /t tmpfs 1024 empty | /w/m bind in1 ro",
            "<mkdir /cache 755 owner 5:0 on scratch>",
            "<local://context>",
        ],
    );
}

#[test]
fn secrets_and_agents_are_mounted_last() {
    check(
        "FROM busybox\nRUN --mount=type=secret,id=a --mount=type=secret,target=/e/key,required,mode=0440,uid=3 \
         --mount=type=secret,id=v,env=V --mount=type=ssh --mount=type=ssh,id=o,target=/s,required x $V",
        &[
            "| /run/secrets/a secret a 0:0 400 optional=true empty ro \
             | /e/key secret key 3:0 440 optional=false empty ro \
             | /run/buildkit/ssh_agent.0 ssh default 0:0 600 optional=true empty ro \
             | /s ssh o 0:0 600 optional=false empty ro | $V=v",
            r#""SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0"]"#,
            "x ****`",
        ],
    );
}

#[test]
fn mounts_that_cannot_be_are_refused() {
    for (mount, expect) in [
        ("target=/", "error invalid mount target \"/\""),
        ("type=bind,target=/m,mode=7", "error mode not allowed for \"bind\" type mounts"),
        ("type=$NONE,target=/m", "error unsupported mount type \"\""),
        ("from=later,target=/m", "error cannot mount from stage \"later\" to \"/m\""),
    ] {
        let text = format!("FROM busybox AS one\nRUN --mount={mount} x\nFROM busybox AS later\nFROM one");
        check(&text, &[expect]);
    }
}

#[test]
fn variables_in_mounts_are_expanded() {
    check(
        "FROM busybox\nARG T=cache D=/d\nRUN --mount=type=$T,target=$D,id=${D}x y",
        &["| /d cache //dx Shared empty"],
    );
}

#[test]
fn more_than_usual_must_be_allowed() {
    check("FROM busybox\nRUN --security=insecure x", &["error security.insecure is not allowed"]);
    check("FROM busybox\nRUN --network=host x", &["error network.host is not allowed"]);
    let allowed = BuildOptions { allow_insecure: true, allow_host_network: true, ..options() };
    check_with("FROM busybox\nRUN --security=insecure --network=host x", &allowed, &["Host Insecure"]);
    let offline = BuildOptions { network: kiln_solver::NetworkMode::None, ..options() };
    check_with("FROM busybox\nRUN x", &offline, &["None Sandbox"]);
}

#[test]
fn proxies_are_no_part_of_the_environment() {
    let mut options = options();
    options.build_args.push(("HTTP_PROXY".to_owned(), Some("http://p".to_owned())));
    let lowered = lowered("FROM busybox\nRUN x", &options).unwrap_or_else(|e| panic!("{e}"));
    let Some(Op::Exec(exec)) = lowered.definition.vertices().last().map(|vertex| &vertex.op) else {
        panic!("no exec");
    };
    assert_eq!(exec.meta.env.to_list(), ["PATH=/bin", "BASE=base"]);
    let both = [("HTTP_PROXY", "http://p"), ("http_proxy", "http://p")];
    assert_eq!(exec.meta.proxy_env, both.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn devices_are_named_and_may_be_required() {
    check(
        "FROM busybox\nRUN --device=vendor.com/class=one,required --device=name=vendor.com/class \
         --device=Required=true,vendor.com/class=* x",
        &[
            " | device vendor.com/class=one required | device vendor.com/class | device vendor.com/class=* required",
        ],
    );
    for (flag, expect) in [
        ("name=a/b=c,name=d", "error device name already set to a/b=c"),
        ("a/b=c,required=perhaps", "error invalid value for required: perhaps"),
        ("a/b=c,d", "error invalid field 'd' must be a key=value pair"),
        ("a/b=c,requird=1", "error unexpected key 'requird' in 'requird=1'"),
        ("required", "error --device names no device"),
    ] {
        check(&format!("FROM busybox\nRUN --device={flag} x"), &[expect]);
    }
}
