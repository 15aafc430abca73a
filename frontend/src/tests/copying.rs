//! COPY and ADD: their sources, their flags, what is refused.

use super::*;

#[test]
fn files_of_the_context_are_copied() {
    let mut options = options();
    options.ignore = kiln_grammar::parse_ignore("a/b\n!a/b/c");
    check_with(
        "FROM busybox\nWORKDIR /w\nCOPY a /b* ../c d/",
        &options,
        &[
            r#"<local://context local.excludepatterns=["a/b","!a/b/c"]> `[internal] load build context`"#,
            "<copy /a to /w/d/ follow contents create wild from in1 on in0; \
             copy /b* to /w/d/ follow contents create wild from in1 on act0; \
             copy /c to /w/d/ follow contents create wild from in1 on act1> `[3/3] COPY a /b* ../c d/`",
            "history COPY a /b* ../c d/ # kiln +",
        ],
    );
}

#[test]
fn owners_and_modes_are_given_and_shown() {
    check(
        "FROM busybox\nARG U=web\nCOPY --chown=$U:33 --chmod=0640 a /",
        &[
            "owner \"web\":33 follow contents create wild mode 640",
            "history COPY --chown=web:33 --chmod=0640 a / #",
        ],
    );
    check("FROM busybox\nCOPY --chmod=888 a /", &["error invalid chmod parameter: '888'"]);
    check("FROM scratch\nCOPY --chown=app a /", &["error invalid user"]);
    check("FROM busybox\nCOPY --link --chown=app a /", &["error invalid user"]);
}

#[test]
fn a_linked_copy_is_laid_over_what_is_below() {
    check(
        "FROM busybox\nCOPY --link a /b",
        &[
            "copy /a to /b follow contents create wild from in0 on scratch>",
            "#0 #2 <merge> `[2/2] LINK COPY --link a /b`",
        ],
    );
    check("FROM busybox\nCOPY --link --chmod=7 a /b", &["mode 7 from in1 on in0>"]);
    check("FROM scratch\nCOPY --link a /b", &["target #1"]);
}

#[test]
fn parents_are_kept_below_the_pivot() {
    check(
        "FROM busybox\nCOPY --parents --exclude=*.md x/y ./a/./b/*.c /d/",
        &[
            "copy / to /d/ follow contents create wild include x/y exclude *.md required /x/y from",
            "copy /a to /d/ follow contents create wild include b/*.c exclude *.md from",
            "history COPY --parents x/y ./a/./b/*.c /d/ # kiln +",
        ],
    );
}

#[test]
fn documents_become_files() {
    check(
        "FROM busybox\nENV V=\"it's\"\nCOPY a <<one <<'two' /d/\n$V \\$x 'q'\none\n$V\ntwo",
        &[
            "<mkfile /one 644 \"it's $x 'q'\\n\" on scratch>",
            "<mkfile /two 644 \"$V\\n\" on scratch>",
            "copy /one to /d/ create from in2 on act0",
            "history COPY a <<one <<two /d/ # kiln +",
        ],
    );
    let text = "FROM scratch\nCOPY <<EOF /\nEOF";
    let lowered = lowered(text, &options()).unwrap_or_else(|e| panic!("{e}"));
    assert!(!names(&lowered.definition).contains(&"[internal] load build context"));
}

#[test]
fn add_unpacks_what_is_local_and_fetches_the_rest() {
    check(
        "FROM busybox\nADD a.tar /a\nADD --unpack=false a.tar /b\nADD https://h/x/f.tgz?q#z /c/\n\
         ADD --checksum=sha256:00 --unpack http://h/ /d\nADD --keep-git-dir=true https://h/r.git#v1:sub /e",
        &[
            "copy /a.tar to /a follow contents unpack create wild",
            "copy /a.tar to /b follow contents create wild",
            "<https://h/x/f.tgz?q#z http.filename=f.tgz>",
            "copy /f.tgz to /c/ create from",
            "<http://h/ http.checksum=sha256:00 http.filename=__unnamed__>",
            "copy /__unnamed__ to /d unpack create from",
            "<git://h/r.git#v1:sub git.fullurl=https://h/r.git git.keepgitdir=true>",
            "copy / to /e create from",
        ],
    );
}

#[test]
fn what_cannot_be_copied_is_refused() {
    for (line, expect) in [
        ("COPY https://h/f /", "error source can't be a URL for COPY"),
        ("COPY git://h/r.git /", "error source can't be a git ref for COPY"),
        ("ADD --checksum=x a /", "error checksum requires HTTP(S) or Git sources"),
        ("ADD --checksum=x a b /", "error checksum can't be specified for multiple sources"),
        (
            "ADD --keep-git-dir=false git://h/r?keep-git-dir=true /",
            "error inconsistent keep-git-dir configuration",
        ),
        ("ADD --checksum=1 git://h/r?commit=2 /", "error checksum mismatch \"1\" != \"2\""),
    ] {
        check(&format!("FROM busybox\n{line}"), &[expect]);
    }
}

#[test]
fn a_time_for_now_is_that_of_folders() {
    let mut options = options();
    options.build_args.push(("SOURCE_DATE_EPOCH".to_owned(), Some("15".to_owned())));
    check_with("FROM busybox\nWORKDIR /w", &options, &["mkdir /w 755 at 15000000000 on in0"]);
    options.build_args.push(("SOURCE_DATE_EPOCH".to_owned(), Some("yesterday".to_owned())));
    check_with("FROM busybox", &options, &["error invalid SOURCE_DATE_EPOCH: yesterday"]);
}
