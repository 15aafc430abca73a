//! `kiln login`, `kiln logout`, and where credentials come from.

use kiln_tests::{
    BASIC_PASSWORD, BASIC_USER, BaseImage, Door, FakeRegistry, Finished, Invocation, Registry, Reply,
    TestContext,
};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

const AUTH: &str = "cG90dGVyOm9wZW4tc2VzYW1l";
const WRONG: &str = "not-open-at-all";

/// A registry that wants a password, and one without in front of the same images.
fn guarded() -> (Registry, Registry) {
    let open = Registry::start();
    BaseImage::busybox().push(&open, "team/base", "1");
    let guarded = open.beside(Door { password: true, ..Door::default() });
    (open, guarded)
}

fn login(context: &TestContext, host: &str, password: &str) -> Invocation {
    context.kiln(["login", host, "-u", BASIC_USER, "--password-stdin"]).stdin(format!("{password}\n"))
}

fn pull(context: &TestContext, registry: &Registry) -> Invocation {
    context.kiln(["pull", &registry.reference("team/base:1")])
}

#[track_caller]
fn tells_no_secret(finished: &Finished) {
    for secret in [BASIC_PASSWORD, AUTH, WRONG] {
        assert!(!finished.stderr.contains(secret) && !finished.stdout_text().contains(secret), "{finished}");
    }
}

fn config(context: &TestContext) -> String {
    std::fs::read_to_string(context.path("home/.docker/config.json")).unwrap_or_default()
}

/// A program that keeps credentials in a file of `home`, in a folder that is to be in the PATH.
fn helper(context: &TestContext) -> String {
    let script = r#"#!/bin/sh
kept="$HOME/kept"
case "$1" in
store) cat > "$kept" ;;
erase) cat > /dev/null; rm "$kept" || { echo "credentials not found in native keychain"; exit 1; } ;;
get)
    read -r asked
    if [ -f "$kept" ] && grep -q "\"ServerURL\":\"$asked\"" "$kept"; then cat "$kept"; else
        echo "credentials not found in native keychain"; exit 1; fi ;;
esac
"#;
    let file = context.write_beside("bin/docker-credential-kilntest", script);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    format!("{}:{}", context.text("bin"), std::env::var("PATH").unwrap_or_default())
}

#[test]
fn only_a_password_that_the_registry_takes_is_kept() {
    let (_open, registry) = guarded();
    let context = TestContext::new();
    let refused = login(&context, registry.address(), WRONG).run().fails_with(3).says(registry.address());
    tells_no_secret(&refused);
    assert_eq!(config(&context), "", "nothing is kept of a password that is wrong");
    let before = "{\n  \"auths\": {\n    \"other.io\": {\"auth\": \"eDp5\", \"odd\": [1]}\n  },\n  \"detachKeys\": \"ctrl-q\"\n}\n";
    context.write_beside("home/.docker/config.json", before);
    pull(&context, &registry).run().fails_with(3).says(&format!("kiln login {}", registry.address()));
    let done = login(&context, registry.address(), BASIC_PASSWORD).run().success().says("config.json");
    tells_no_secret(&done);
    let after = config(&context);
    let entry = format!(",\n    \"{}\": {{\"auth\": \"{AUTH}\"}}", registry.address());
    assert_eq!(after.replace(&entry, ""), before, "the rest stays byte for byte");
    let mode = context.path("home/.docker/config.json").metadata().expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    tells_no_secret(&pull(&context, &registry).run().success());
    context.kiln(["logout", registry.address()]).run().success().says("config.json");
    assert_eq!(config(&context), before);
    context.kiln(["logout", registry.address()]).run().success().says("not logged in");
    pull(&context, &registry).run().fails_with(3);
}

/// A registry with a token server, which gives a token only where `takes` says so.
fn with_tokens(takes: bool) -> FakeRegistry {
    let address = Arc::new(OnceLock::<String>::new());
    let (own, asked) = (address.clone(), AtomicBool::new(false));
    let fake = FakeRegistry::start(move |_, target| {
        if target.starts_with("/token") {
            asked.store(true, Ordering::Relaxed);
            return if takes { Reply::new(200, "{\"token\":\"good\"}") } else { Reply::new(401, "{}") };
        }
        if asked.load(Ordering::Relaxed) {
            return Reply::new(200, "{}");
        }
        let realm = own.get().map_or("", String::as_str);
        let challenge = format!("Bearer realm=\"http://{realm}/token\",service=\"s\"");
        Reply::new(401, "{}").header("WWW-Authenticate", challenge)
    });
    address.set(fake.address().to_owned()).expect("once");
    fake
}

#[test]
fn a_token_server_says_whether_a_password_is_right() {
    let context = TestContext::new();
    let taking = with_tokens(true);
    login(&context, taking.address(), BASIC_PASSWORD).run().success();
    assert_eq!(taking.authorizations(), [format!("Basic {AUTH}"), "Bearer good".to_owned()]);
    assert!(config(&context).contains(taking.address()) && config(&context).contains(AUTH));
    let refusing = with_tokens(false);
    tells_no_secret(
        &login(&context, refusing.address(), BASIC_PASSWORD).run().fails_with(3).says("refuses access"),
    );
    assert!(!config(&context).contains(refusing.address()));
}

#[test]
fn a_password_on_the_command_line_is_refused_and_not_repeated() {
    let context = TestContext::new();
    for args in [["-u", "me", "-p", WRONG], ["-u", "me", "--password", WRONG]] {
        let finished = context.kiln(["login", "127.0.0.1:1"]).args(args).run().fails_with(2);
        tells_no_secret(&finished.says("--password-stdin"));
    }
    let unasked = context.kiln(["login", "127.0.0.1:1", "-u", "me", "--password-stdin"]).stdin("").run();
    unasked.fails_with(2).says("empty");
    context.kiln(["login", "r.io/team", "-u", "me", "--password-stdin"]).stdin("x").run().fails_with(2);
}

#[test]
fn a_helper_keeps_gives_and_forgets() {
    let (_open, registry) = guarded();
    let context = TestContext::new();
    let path = helper(&context);
    let before = "{\"credsStore\": \"kilntest\"}";
    context.write_beside("home/.docker/config.json", before);
    let done = login(&context, registry.address(), BASIC_PASSWORD).env("PATH", &path).run().success();
    tells_no_secret(&done.says("docker-credential-kilntest"));
    assert_eq!(config(&context), before, "the password is not in the file");
    tells_no_secret(&pull(&context, &registry).env("PATH", &path).run().success());
    let check = ["registry", "check", &registry.reference("team/base:1")];
    let said = context.kiln(check).env("PATH", &path).run().success().stdout_text();
    assert!(said.contains("docker-credential-kilntest, which ") && !said.contains(BASIC_PASSWORD), "{said}");
    let logout = ["logout", registry.address()];
    context.kiln(logout).env("PATH", &path).run().success().says("docker-credential-kilntest");
    assert!(!context.path("home/kept").exists());
    context.kiln(logout).env("PATH", &path).run().success().says("not logged in");
}

#[test]
fn a_helper_that_is_missing_is_named_with_the_file_that_names_it() {
    let (_open, registry) = guarded();
    let context = TestContext::new();
    context.write_beside("home/.docker/config.json", "{\"credsStore\": \"kiln-missing\"}");
    let words = "docker-credential-kiln-missing failed: there is no program of that name in the PATH";
    pull(&context, &registry).run().fails_with(3).says(words).says("config.json names it");
    let finished = login(&context, registry.address(), BASIC_PASSWORD).run().fails_with(3);
    tells_no_secret(&finished.says("docker-credential-kiln-missing, which ").says("no program of that name"));
    context.kiln(["logout", registry.address()]).run().fails_with(3).says("docker-credential-kiln-missing");
}

#[test]
fn credentials_come_from_each_place_that_people_use() {
    let (_open, registry) = guarded();
    let context = TestContext::new();
    let text = |key: &str| format!("{{\"auths\":{{\"{key}\":{{\"auth\":\"{AUTH}\"}}}}}}");
    let right = text(registry.address());
    let wrong = right.replace(AUTH, "cG90dGVyOm5vdA==");
    pull(&context, &registry).run().fails_with(3);
    pull(&context, &registry).env("DOCKER_AUTH_CONFIG", &right).run().success();
    let file = context.write_beside("named.json", &right);
    pull(&context, &registry).env("REGISTRY_AUTH_FILE", &file).run().success();
    let named = format!("--authfile={}", file.display());
    pull(&context, &registry).arg(&named).env("DOCKER_AUTH_CONFIG", &wrong).run().success();
    context.write_beside("home/.config/containers/auth.json", &right);
    context.write_beside("home/.docker/config.json", &wrong);
    pull(&context, &registry).run().success();
    context.write_beside("run/containers/auth.json", text(&registry.reference("team")));
    context.write_beside("home/.config/containers/auth.json", &wrong);
    pull(&context, &registry).env("XDG_RUNTIME_DIR", context.path("run")).run().success();
    context.write_beside("run/containers/auth.json", text(&registry.reference("tea")));
    pull(&context, &registry).env("XDG_RUNTIME_DIR", context.path("run")).run().fails_with(3);
}

#[test]
fn logging_in_changes_the_file_that_is_asked_first() {
    let (_open, registry) = guarded();
    let context = TestContext::new();
    let wrong = format!("{{\"auths\":{{\"{}\":{{\"auth\":\"eDp5\"}}}}}}", registry.address());
    let file = context.write_beside("home/.config/containers/auth.json", &wrong);
    login(&context, registry.address(), BASIC_PASSWORD).run().success().says("containers/auth.json");
    assert!(std::fs::read_to_string(&file).expect("there").contains(AUTH));
    assert_eq!(config(&context), "");
    pull(&context, &registry).run().success();
    let variable = login(&context, registry.address(), BASIC_PASSWORD).env("DOCKER_AUTH_CONFIG", &wrong);
    variable.run().success().says("$DOCKER_AUTH_CONFIG has credentials").says("asked before");
    let own = context.text("own.json");
    login(&context, registry.address(), BASIC_PASSWORD).args(["--authfile", &own]).run().success().says(&own);
    assert!(std::fs::read_to_string(&own).expect("there").contains(AUTH));
    context.kiln(["logout", "--all", "--authfile", &own]).run().success().says(&own);
    assert!(!std::fs::read_to_string(&own).expect("there").contains(AUTH));
    assert!(std::fs::read_to_string(&file).expect("there").contains(AUTH), "another file is not touched");
    context.kiln(["logout", "--all"]).run().success();
    assert!(!std::fs::read_to_string(&file).expect("there").contains(AUTH));
}

#[test]
fn a_link_of_another_user_is_not_followed() {
    let (_open, registry) = guarded();
    let context = TestContext::new();
    let (real, link) = (context.write_beside("real.json", "{}"), context.path("link.json"));
    symlink(&real, &link).expect("a link");
    let own = login(&context, registry.address(), BASIC_PASSWORD).arg("--authfile").arg(&link);
    own.run().success();
    assert!(link.is_symlink() && std::fs::read_to_string(&real).expect("there").contains(AUTH));
    std::os::unix::fs::lchown(&link, Some(65_534), None).expect("as root");
    std::fs::write(&real, "{}").expect("written");
    let others = login(&context, registry.address(), BASIC_PASSWORD).arg("--authfile").arg(&link);
    tells_no_secret(&others.run().fails_with(3).says("symbolic link of another user"));
    assert_eq!(std::fs::read_to_string(&real).expect("there"), "{}");
}
