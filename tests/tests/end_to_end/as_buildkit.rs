//! What only a whole build shows of doing as BuildKit and buildx do: times, contexts, mounts, checks, flags.

use super::remote_contexts::GitServer;
use super::{NONE, on_busybox};
use kiln_tests::{FakeRegistry, Finished, ImageAssert, Reply, TestContext};
use serde_json::Value;
use std::process::Command;

/// The time of [`committed`]'s commit.
const COMMITTED_S: u64 = 1_500_000_000;
/// The time that [`downloads`] says of `/dated`.
const DATED_S: u64 = 1_400_000_000;
/// The time of the newest file in [`archive`].
const NEWEST_S: u64 = 1_300_000_000;
/// Shows what a step knows of the time.
const SHOWS: &str = "ARG SOURCE_DATE_EPOCH\nRUN echo \"${SOURCE_DATE_EPOCH-unset}\" > /time\n";

/// A tar in which a folder and a link are newer than the newest file.
fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, kind, time_s) in [
        ("inner", tar::EntryType::Directory, NEWEST_S + 2),
        ("inner/newest", tar::EntryType::Regular, NEWEST_S),
        ("inner/older", tar::EntryType::Regular, NEWEST_S - 1),
        ("link", tar::EntryType::Symlink, NEWEST_S + 1),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_mtime(time_s);
        header.set_size(0);
        if kind == tar::EntryType::Symlink {
            header.set_link_name("inner/newest").expect("a short target");
        }
        tar.append_data(&mut header, path, std::io::empty()).expect("memory");
    }
    tar.into_inner().expect("memory")
}

/// A web server with `/dated`, a file with a time, and without one `/archive.tar` and `/plain`.
fn downloads() -> FakeRegistry {
    FakeRegistry::start(|_, target| match target {
        "/dated" => Reply::new(200, "x").header("Last-Modified", "Tue, 13 May 2014 16:53:20 GMT"),
        "/archive.tar" => Reply::new(200, archive()),
        "/plain" => Reply::new(200, "x"),
        _ => Reply::new(404, ""),
    })
}

/// Serves the context as a repository `ctx`; its commit is of [`COMMITTED_S`], and its author wrote earlier.
fn committed(context: &TestContext) -> GitServer {
    let server = GitServer::start(context);
    let amended = Command::new("git")
        .args(["-c", "user.name=test", "-c", "user.email=test@test", "commit", "-q", "--amend", "--no-edit"])
        .args(["--date", "1450000000 +0000"])
        .env("GIT_COMMITTER_DATE", format!("{COMMITTED_S} +0000"))
        .env("HOME", context.path("home"))
        .current_dir(context.context())
        .status();
    assert!(amended.expect("git").success());
    server
}

/// `kiln build ARGS… ADDRESS`, which must succeed, and its image.
#[track_caller]
fn image_of(context: &TestContext, args: &[&str], address: &str) -> ImageAssert {
    let output = format!("type=oci,dest={}", context.text("image.tar"));
    let mut all = vec!["build", "--progress=plain", "-o", &output];
    all.extend(args);
    all.push(address);
    context.kiln(all).run().success();
    ImageAssert::of_archive(&context.path("image.tar"))
}

/// Asserts that a build had this time, in its steps and in what it says of itself.
#[track_caller]
fn has_time(image: &ImageAssert, time_s: u64, created: &str) {
    image.file_is("/time", &format!("{time_s}\n"));
    assert_eq!(image.config.created.as_deref(), Some(created));
    let declared = format!("ARG SOURCE_DATE_EPOCH={time_s}");
    assert!(image.history().contains(&declared), "{:?}", image.history());
}

/// Asserts that a build had no time of its own.
#[track_caller]
fn has_no_time(image: &ImageAssert) {
    image.file_is("/time", "unset\n");
    let declared = "ARG SOURCE_DATE_EPOCH".to_owned();
    assert!(image.history().contains(&declared), "{:?}", image.history());
}

#[test]
fn the_time_of_the_context_is_that_of_its_commit() {
    let context = on_busybox(&format!("FROM @\n{SHOWS}"));
    let server = committed(&context);
    let address = format!("git://{}/ctx", server.address);
    let args = ["--build-arg", "SOURCE_DATE_EPOCH=context"];
    has_time(&image_of(&context, &args, &address), COMMITTED_S, "2017-07-14T02:40:00Z");
    // A folder has none.
    has_no_time(&context.image(args));
}

#[test]
fn the_time_of_the_context_is_that_of_the_download() {
    let context = on_busybox(&format!("FROM @\n{SHOWS}"));
    let text = std::fs::read(context.context().join("Dockerfile")).expect("a Dockerfile");
    let web = FakeRegistry::start(move |_, _| {
        Reply::new(200, text.clone()).header("Last-Modified", "Tue, 13 May 2014 16:53:20 GMT")
    });
    let address = format!("http://{}/Dockerfile", web.address());
    let image = image_of(&context, &["--build-arg", "SOURCE_DATE_EPOCH=context"], &address);
    has_time(&image, DATED_S, "2014-05-13T16:53:20Z");
}

#[test]
fn the_time_can_be_that_of_a_stage_that_is_one_download() {
    let web = downloads();
    let context = on_busybox(&format!(
        "FROM scratch AS dated\nARG NAME=dated\nADD http://{web}/$NAME /\n\
         FROM scratch AS archived\nADD http://{web}/archive.tar /\n\
         FROM scratch AS plain\nADD http://{web}/plain /\nFROM @\n{SHOWS}",
        web = web.address(),
    ));
    let of = |name: &str| context.image(["--build-arg", &format!("SOURCE_DATE_EPOCH={name}")]);
    has_time(&of("dated"), DATED_S, "2014-05-13T16:53:20Z");
    has_time(&of("DATED"), DATED_S, "2014-05-13T16:53:20Z");
    // What is shown of a build has its time too.
    let llb = ["debug", "llb", "--build-arg", "SOURCE_DATE_EPOCH=dated", &context.text("ctx")];
    let shown = context.kiln(llb).run().success().stdout_text().to_owned();
    assert!(shown.contains(&format!("SOURCE_DATE_EPOCH={DATED_S}")), "{shown}");
    has_time(&of("archived"), NEWEST_S, "2011-03-13T07:06:40Z");
    has_no_time(&of("plain"));
}

#[test]
fn the_time_can_be_that_of_a_commit_by_a_stage_or_a_named_context() {
    let code = TestContext::new();
    code.write("a.txt", "a");
    let server = committed(&code);
    let address = format!("git://{}/ctx", server.address);
    let context = on_busybox(&format!("FROM scratch AS code\nADD {address}#main /\nFROM @\n{SHOWS}"));
    let image = context.image(["--build-arg", "SOURCE_DATE_EPOCH=code"]);
    has_time(&image, COMMITTED_S, "2017-07-14T02:40:00Z");
    let named = |value: &str| {
        let named = format!("named={value}");
        context.image(["--build-arg", "SOURCE_DATE_EPOCH=named", "--build-context", &named])
    };
    has_time(&named(&address), COMMITTED_S, "2017-07-14T02:40:00Z");
    has_no_time(&named(&code.text("ctx")));
}

#[test]
fn a_time_stands_in_the_dockerfile_or_in_the_environment_or_is_empty() {
    let context = on_busybox(&format!("ARG SOURCE_DATE_EPOCH={DATED_S}\nFROM @\n{SHOWS}"));
    has_time(&context.image(NONE), DATED_S, "2014-05-13T16:53:20Z");
    has_no_time(&context.image(["--build-arg", "SOURCE_DATE_EPOCH="]));
    let output = format!("type=oci,dest={}", context.text("image.tar"));
    let environment = ("SOURCE_DATE_EPOCH", COMMITTED_S.to_string());
    context.building(["-o", &output]).env(environment.0, environment.1).run().success();
    let image = ImageAssert::of_archive(&context.path("image.tar"));
    has_time(&image, COMMITTED_S, "2017-07-14T02:40:00Z");
}

#[test]
fn a_stage_that_is_not_one_download_has_no_time() {
    let web = format!("http://{}/dated", downloads().address());
    for (stage, words, line) in [
        (format!("FROM nowhere AS src\nADD {web} /"), "stage must use FROM scratch", 1),
        (
            "FROM scratch AS src\nCOPY Dockerfile /".to_owned(),
            "stage does not meet source-only requirements: unsupported COPY instruction",
            2,
        ),
        (
            format!("FROM scratch AS src\nADD {web} /\nADD {web} /two"),
            "stage must contain exactly one remote ADD",
            3,
        ),
        ("FROM scratch AS src\nARG A=1".to_owned(), "stage must contain exactly one remote ADD", 1),
        (
            format!("FROM scratch AS src\nADD {web} {web} /"),
            "stage must contain exactly one remote ADD source",
            2,
        ),
        (
            "FROM scratch AS src\nADD Dockerfile /".to_owned(),
            "stage source must be a single HTTP(S) or Git ADD",
            2,
        ),
    ] {
        let context = TestContext::with_dockerfile(&format!("{stage}\nFROM scratch\nLABEL a=b\n"));
        let finished = context.build(["--build-arg", "SOURCE_DATE_EPOCH=src"]).fails_with(2);
        finished.says(&format!("SOURCE_DATE_EPOCH {words}")).says(&format!("Dockerfile:{line}:"));
    }
    let context = TestContext::with_dockerfile("FROM scratch\nLABEL a=b\n");
    context.build(["--build-arg", "SOURCE_DATE_EPOCH=1.5"]).fails_with(2).says("invalid SOURCE_DATE_EPOCH");
}

#[test]
fn folders_that_copy_makes_on_the_way_have_the_time_of_the_build() {
    let context = on_busybox("FROM @\nCOPY f /d/e/f\nCOPY --chown=1:1 f /x/y/\nCOPY --link s/f /l/f\n");
    context.write("f", "f").write("s/f", "f").date(DATED_S);
    let image = context.image(["--build-arg", &format!("SOURCE_DATE_EPOCH={COMMITTED_S}")]);
    for folder in ["/d", "/d/e", "/x", "/x/y", "/l"] {
        assert_eq!(image.node(folder).mtime_s, COMMITTED_S, "{folder}");
    }
    for file in ["/d/e/f", "/x/y/f", "/l/f"] {
        assert_eq!(image.node(file).mtime_s, DATED_S, "{file}: a file keeps its own time");
    }
}

#[test]
fn a_folder_that_receives_a_folder_takes_its_time() {
    let context = on_busybox("FROM @\nRUN mkdir /there\nCOPY s /made/s\nCOPY s/ /there\nCOPY s/f /t/f\n");
    context.write("s/f", "f").write("s/deep/g", "g").date(DATED_S);
    let image = context.image(NONE);
    for folder in ["/made/s", "/made/s/deep", "/there", "/there/deep"] {
        assert_eq!(image.node(folder).mtime_s, DATED_S, "{folder}");
    }
    assert!(image.node("/made").mtime_s > DATED_S, "a folder on the way is new");
    assert!(image.node("/t").mtime_s > DATED_S, "a folder for a file is new");
}

#[test]
fn a_repository_keeps_its_git_folder_where_it_is_asked_for() {
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY . /\n");
    context.write("a.txt", "a");
    let server = committed(&context);
    let address = format!("git://{}/ctx", server.address);
    for (value, kept) in [("1", true), ("true", true), ("0", false), ("perhaps", false)] {
        let argument = format!("BUILDKIT_CONTEXT_KEEP_GIT_DIR={value}");
        let image = image_of(&context, &["--build-arg", &argument], &address);
        assert_eq!(image.file_is("/a.txt", "a").has("/.git/HEAD"), kept, "{value}");
    }
    image_of(&context, &[], &address).lacks("/.git");
    // What the address itself says goes before it.
    let keep = ["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"];
    image_of(&context, &keep, &format!("{address}?keep-git-dir=false")).lacks("/.git");
    let drop = ["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=0"];
    assert!(image_of(&context, &drop, &format!("{address}?keep-git-dir=true")).has("/.git/HEAD"));
}

#[test]
fn a_named_context_on_the_web_is_one_file_even_if_it_is_an_archive() {
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY --from=web . /a\n");
    let web = downloads();
    let image = context.image(["--build-context", &format!("web=http://{}/archive.tar", web.address())]);
    image.is("/a/context", 0o600, (0, 0)).lacks("/a/inner");
    assert_eq!(image.node("/a/context").kind, kiln_tests::Kind::File(archive()));
}

#[test]
fn the_relative_target_of_a_secret_is_in_the_working_folder() {
    let context = on_busybox(
        "FROM @\nRUN --mount=type=secret,id=s,target=rel/x cat /rel/x > /top\nWORKDIR /w\n\
         RUN --mount=type=secret,id=s,target=rel/x cat /w/rel/x > /below; ls / > /all\n",
    );
    let secret = context.write_beside("secret", "hush");
    let image = context.image(["--secret", &format!("id=s,src={}", secret.display())]);
    image.file_is("/top", "hush").file_is("/below", "hush").lacks("/w/rel/x");
    assert!(!image.file("/all").lines().any(|name| name == "rel"), "{}", image.file("/all"));
}

#[test]
fn a_mount_of_another_folder_with_the_same_files_is_no_change() {
    const TEXT: &str = "FROM @\nRUN --mount=target=/t,source=SOURCE cat /proc/sys/kernel/random/uuid > /u\n";
    let context = on_busybox(&TEXT.replace("SOURCE", "d"));
    context.write("d/f", "same").write("e/f", "same").write("other/f", "different").date(DATED_S);
    let first = context.image(NONE).file("/u");
    let from = |source: &str| {
        context.write("Dockerfile", TEXT.replace("SOURCE", source).replace('@', &super::busybox()));
        context.image(NONE).file("/u")
    };
    assert_eq!(from("e"), first);
    assert_ne!(from("other"), first);
}

#[test]
fn a_malformed_pattern_fails_where_it_stands() {
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY f d[ /x/\n");
    context.write("f", "f").write("d[", "a bracket");
    let finished = context.build(NONE);
    assert_ne!(finished.code, Some(0), "{finished}");
    finished.says("syntax error in pattern").says("d[").says("Dockerfile:2");
    for (file, name) in
        [(".dockerignore", ".dockerignore"), ("Dockerfile.dockerignore", "Dockerfile.dockerignore")]
    {
        let context = TestContext::with_dockerfile("FROM scratch\nLABEL a=b\n");
        context.write(file, "# first\nx\n ! \n");
        let finished = context.build(NONE).fails_with(2);
        finished.says(&format!("{name}:3")).says("illegal exclusion pattern: \"!\"");
    }
}

/// Asserts that the texts come in this order.
#[track_caller]
fn in_order(finished: &Finished, texts: &[&str]) {
    let mut rest = finished.stderr.as_str();
    for text in texts {
        let (_, after) = rest
            .split_once(text)
            .unwrap_or_else(|| panic!("{text:?} should come next in {texts:?}:\n{finished}"));
        rest = after;
    }
}

#[test]
fn warnings_come_before_the_error_that_ends_a_build_or_a_check() {
    for (text, texts) in [
        (
            "FROM scratch AS Bad\nMAINTAINER x\nBADCMD\n",
            ["StageNameCasing", "MaintainerDeprecated", "parse error on line 3: unknown instruction: BADCMD"],
        ),
        (
            "FROM scratch AS Bad\nLABEL a b\nSTOPSIGNAL foo\n",
            ["StageNameCasing", "LegacyKeyValueFormat", "invalid signal: foo"],
        ),
        (
            "FROM --platform=$BULIDPLATFORM scratch\nLABEL a b\n",
            ["UndefinedArgInFrom", "$BULIDPLATFORM", "empty platform value"],
        ),
    ] {
        let context = TestContext::with_dockerfile(text);
        in_order(&context.build(NONE).fails_with(2), &texts);
        in_order(&context.build(["--check"]).fails_with(2), &texts);
    }
}

/// The one JSON document of standard output.
#[track_caller]
fn document(finished: &Finished) -> Value {
    serde_json::from_slice(&finished.stdout).unwrap_or_else(|e| panic!("{e}:\n{finished}"))
}

#[test]
fn a_check_tells_its_findings_as_json() {
    let context = TestContext::with_dockerfile("FROM scratch AS Bad\nLABEL a b\n");
    let finished = context.build(["--check", "--format", "json"]).fails_with(1);
    let told = document(&finished);
    let warnings = told["warnings"].as_array().expect("warnings");
    let rules: Vec<_> = warnings.iter().map(|warning| warning["ruleName"].as_str()).collect();
    assert_eq!(rules, [Some("StageNameCasing"), Some("LegacyKeyValueFormat")]);
    let second = &warnings[1];
    assert_eq!(second["location"]["ranges"][0]["start"]["line"], 2);
    assert_eq!(second["url"], "https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/");
    assert_eq!(told["sources"][0]["filename"], "Dockerfile");
    assert_eq!(told["sources"][0]["data"], "RlJPTSBzY3JhdGNoIEFTIEJhZApMQUJFTCBhIGIK");
    assert_eq!(told.get("buildError"), None);
    for call in ["check,format=json", "lint,format=json"] {
        let called = context.build(["--call", call]).fails_with(1);
        assert_eq!(document(&called), told, "--call={call}");
    }
    context.write("Dockerfile", "FROM scratch\nLABEL a=b\n");
    let told = document(&context.build(["--check", "--format=json"]).success());
    assert_eq!(told["warnings"], Value::Array(Vec::new()));
    for (text, message) in
        [("NONSENSE\n", "unknown instruction"), ("STOPSIGNAL foo\n", "invalid signal: foo")]
    {
        context.write("Dockerfile", format!("FROM scratch AS Bad\n{text}"));
        let told = document(&context.build(["--check", "--format=json"]).fails_with(2));
        let said = told["buildError"]["message"].as_str().expect("an error");
        assert!(said.contains(message), "{said}");
        assert_eq!(told["buildError"]["location"]["ranges"][0]["start"]["line"], 2);
        assert_eq!(told["warnings"][0]["ruleName"], "StageNameCasing");
    }
}

#[test]
fn a_check_tells_its_findings_as_sarif() {
    let context = TestContext::with_dockerfile("FROM scratch AS Bad\nLABEL a b\n");
    let told = document(&context.build(["--check", "--format", "sarif"]).fails_with(1));
    assert_eq!(told["version"], "2.1.0");
    let run = &told["runs"][0];
    assert_eq!(run["tool"]["driver"]["name"], "kiln");
    let result = &run["results"][1];
    assert_eq!((&result["ruleId"], &result["level"]), (&"LegacyKeyValueFormat".into(), &"warning".into()));
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "Dockerfile");
    assert_eq!(place["region"]["startLine"], 2);
    let rules = run["tool"]["driver"]["rules"].as_array().expect("rules");
    for result in run["results"].as_array().expect("results") {
        assert!(rules.iter().any(|rule| rule["id"] == result["ruleId"]), "{result} is of no rule");
    }
    context.write("Dockerfile", "FROM scratch\nNONSENSE\n");
    let told = document(&context.build(["--check", "--format=sarif"]).fails_with(2));
    assert_eq!(told["runs"][0]["results"][0]["level"], "error");
    context.write("Dockerfile", "FROM scratch\nLABEL a=b\n");
    let told = document(&context.build(["--check", "--format=sarif"]).success());
    assert_eq!(told["runs"][0]["results"], Value::Array(Vec::new()));
}

#[test]
fn a_check_builds_nothing_and_its_format_is_for_it_alone() {
    let context = TestContext::with_dockerfile("FROM scratch\nLABEL a=b\n");
    let output = format!("type=oci,dest={}", context.text("image.tar"));
    for args in [["--check", "-o", &output], ["--call=check", "-o", &output]] {
        let finished = context.build(args).success().says("Check complete, no warnings found.");
        assert!(finished.stdout.is_empty(), "{finished}");
        assert!(!context.path("image.tar").exists());
    }
    context.build(["--format", "json"]).fails_with(2).says("--format").says("--check");
    context.build(["--check", "--format", "yaml"]).fails_with(2).says("yaml");
    context.build(["--call", "outline"]).fails_with(2).says("build and check");
    context.build(["--call", "check,form=json"]).fails_with(2).says("format=");
    context.build(["--call=build", "-o", &output]).success();
    assert!(context.path("image.tar").exists());
}

#[test]
fn flags_of_old_scripts_change_nothing() {
    let context = TestContext::with_dockerfile("FROM scratch\nCOPY f /\n");
    context.write("f", "f");
    let plain = context.image(NONE).digest;
    for flags in [
        &["--compress", "--rm", "--force-rm=false", "--disable-content-trust"][..],
        &["--isolation=default", "--isolation", "hyperv", "--security-opt=x", "--security-opt", "y"],
        &["--memory=1g", "-m", "2g", "--memory-swap", "-1", "-c", "1", "--cpu-shares=2"],
        &["--cpu-period=1", "--cpu-quota", "-1", "--cpuset-cpus=0", "--cpuset-mems=0", "--builder=default"],
        &["--provenance=false", "--sbom=false", "--provenance=0"],
    ] {
        let (image, finished) = context.image_and_log(flags.iter());
        assert_eq!(image.digest, plain, "{flags:?}");
        finished.says("CACHED");
    }
    for (flag, told) in [
        ("--provenance=mode=all", "min or max"),
        ("--provenance=version=v0.2", "there is v1"),
        ("--sbom=generator=x", "leave out generator"),
        ("--attest=type=vuln", "unknown type"),
    ] {
        let name = flag.split('=').next().unwrap_or(flag);
        context.build([flag]).fails_with(2).says(name).says(told);
    }
}

#[test]
fn of_a_flag_that_is_given_twice_the_later_counts() {
    let context = TestContext::with_dockerfile(
        "FROM scratch AS one\nCOPY f /one\nFROM scratch AS two\nCOPY f /two\nFROM scratch\nCOPY f /three\n",
    );
    context.write("f", "f").write("Other", "FROM scratch AS one\nCOPY f /other\n");
    let (_, log) = context.image_and_log(["--progress=plain", "--progress=none", "--target=one"]);
    assert_eq!(log.stderr, "", "{log}");
    let (_, log) = context.image_and_log(["--progress=none", "--progress=plain", "--target=one"]);
    log.says("COPY f /one");
    context.image(["--target=one", "--target=two"]).file_is("/two", "f").lacks("/one");
    let other = context.context().join("Other");
    let files = ["-f", "nowhere", "-f", &other.to_string_lossy()];
    context.image(files).file_is("/other", "f");
    // Those that make a list are all counted.
    let labels = context.image(["--label", "a=1", "--label", "b=2", "--label", "a=3"]).config.config.labels;
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(labels, ["a=3", "b=2"]);
}
