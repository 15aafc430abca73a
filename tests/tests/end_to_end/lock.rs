//! `--lock FILE` and `kiln lock update`: tags that stay what they were until they are told to move.

use super::NONE;
use super::remote_contexts::GitServer;
use kiln_oci::Digest;
use kiln_tests::{BaseImage, FakeRegistry, Finished, ImageAssert, Registry, Reply, TestContext};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

fn base(registry: &Registry, version: &str) -> Digest {
    let image = BaseImage::busybox().with_config(|config| config.env.push(format!("VERSION={version}")));
    let digest = Digest::of(&image.parts().manifest);
    image.push(registry, "base", "1");
    digest
}

#[test]
fn a_locked_tag_moves_only_by_update() {
    let registry = Registry::start();
    let old = base(&registry, "old");
    let name = registry.reference("base:1");
    let context = TestContext::with_dockerfile(&format!("FROM {name}\nLABEL a=b\n"));
    let file = context.path("kiln.lock");
    let lock = context.text("kiln.lock");
    let env = |image: kiln_tests::ImageAssert| image.config.config.env.join(" ");
    assert!(env(context.image(["--lock", &lock])).contains("VERSION=old"));
    let text = std::fs::read_to_string(&file).expect("it was written");
    assert_eq!(
        text,
        format!("{{\n  \"images\": {{\n    \"{name}\": \"{old}\"\n  }},\n  \"version\": 1\n}}\n")
    );
    let new = base(&registry, "new");
    assert!(env(context.image(["--lock", &lock])).contains("VERSION=old"));
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), text);
    assert!(env(context.image(NONE)).contains("VERSION=new"));
    let update = || context.kiln(["lock", "update", "--lock", &lock]).run().success().stdout_text();
    assert_eq!(update(), format!("{name} {old} → {new}\n"));
    assert_eq!(update(), "");
    assert!(env(context.image(["--lock", &lock])).contains("VERSION=new"));
}

#[test]
fn a_lock_that_cannot_be_used_says_where_and_what() {
    let registry = Registry::start();
    base(&registry, "one");
    let name = registry.reference("base:1");
    let context = TestContext::with_dockerfile(&format!("FROM {name}\nLABEL a=b\n"));
    let lock = context.text("kiln.lock");
    context.write_beside("kiln.lock", "{\n  \"images\": [],\n");
    context.build(["--lock", &lock]).fails_with(2).says("kiln.lock:2").says("remove it");
    let gone = Digest::of(b"gone");
    let text = format!("{{\"images\": {{\"{name}\": \"{gone}\"}}, \"version\": 1}}");
    context.write_beside("kiln.lock", text);
    context.build(["--lock", &lock]).fails_with(3).says(&name).says(&gone.to_string());
}

/// A web server whose one file says what it is told to.
struct Web {
    server: FakeRegistry,
    text: Arc<Mutex<String>>,
}

impl Web {
    fn start(text: &str) -> Web {
        let text = Arc::new(Mutex::new(text.to_owned()));
        let said = text.clone();
        let server = FakeRegistry::start(move |_, _| Reply::new(200, said.lock().expect("a text").clone()));
        Web { server, text }
    }

    fn url(&self) -> String {
        format!("http://{}/file", self.server.address())
    }

    fn says_now(&self, text: &str) -> String {
        text.clone_into(&mut self.text.lock().expect("a text"));
        Digest::of(text.as_bytes()).to_string()
    }
}

/// A repository with one file, `a.txt`, in its branch `main`.
struct Code {
    context: TestContext,
    server: GitServer,
}

impl Code {
    fn start(text: &str) -> Code {
        let context = TestContext::new();
        context.write("a.txt", text);
        let server = GitServer::start(&context);
        Code { context, server }
    }

    fn name(&self) -> String {
        format!("git://{}/ctx#main", self.server.address)
    }

    fn git(&self, args: &[&str]) -> String {
        let who = ["-c", "user.name=test", "-c", "user.email=test@test"];
        let (folder, home) = (self.context.context(), self.context.path("home"));
        let done = Command::new("git").args(who).args(args).current_dir(folder).env("HOME", home).output();
        let done = done.expect("git");
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }

    fn commit(&self) -> String {
        self.git(&["rev-parse", "main"])
    }

    fn says_now(&self, text: &str) -> String {
        self.context.write("a.txt", text);
        self.git(&["commit", "-qam", text]);
        self.commit()
    }
}

fn adding(code: &Code, web: &Web) -> TestContext {
    let (branch, url) = (code.name(), web.url());
    TestContext::with_dockerfile(&format!("FROM scratch\nADD {branch} /code\nADD {url} /file\n"))
}

fn text_of(file: impl AsRef<Path>) -> String {
    std::fs::read_to_string(file).expect("the lock file")
}

/// `kiln build ARGS… ADDRESS`, with the image beside the context.
fn build_of(context: &TestContext, args: &[&str], address: &str) -> Finished {
    let output = format!("type=oci,dest={}", context.text("image.tar"));
    context.kiln([&["build", "-o", &output], args, &[address]].concat()).run()
}

fn image_of(context: &TestContext) -> ImageAssert {
    ImageAssert::of_archive(&context.path("image.tar"))
}

#[test]
fn a_locked_branch_stays_at_its_commit_and_a_web_file_is_refused_if_it_is_another() {
    let (code, web) = (Code::start("one"), Web::start("one"));
    let (context, elsewhere) = (adding(&code, &web), adding(&code, &web));
    let lock = context.text("kiln.lock");
    let (branch, url) = (code.name(), web.url());
    let (old, old_digest) = (code.commit(), Digest::of(b"one").to_string());
    let first = context.image(["--lock", &lock]);
    let text = text_of(&lock);
    let want = format!(
        "{{\n  \"git\": {{\n    \"{branch}\": {{\n      \"commit\": \"{old}\",\n      \
         \"ref\": \"refs/heads/main\"\n    }}\n  }},\n  \"images\": {{}},\n  \"version\": 2,\n  \
         \"web\": {{\n    \"{url}\": \"{old_digest}\"\n  }}\n}}\n"
    );
    assert_eq!(text, want);
    let new = code.says_now("two");
    assert_eq!(context.image(["--lock", &lock]).digest, first.digest);
    elsewhere.image(["--lock", &lock]).file_is("/code/a.txt", "one").file_is("/file", "one");

    let new_digest = web.says_now("two");
    // What is pinned is here: nobody is asked for it. Where it is not, what comes is another.
    assert_eq!(context.image(["--lock", &lock]).digest, first.digest);
    context.image(NONE).file_is("/code/a.txt", "two").file_is("/file", "two");
    for context in [&context, &adding(&code, &web)] {
        let refused = context.build(["--lock", &lock]).fails_with(1).says(&url);
        let refused = refused.says(&old_digest).says(&new_digest);
        refused.says(&format!("`kiln lock update --lock {lock} '{url}'`"));
    }
    assert_eq!(text_of(&lock), text);

    let update = |names: &[&str]| {
        let args = [&["lock", "update", "--lock", &lock], names].concat();
        context.kiln(args).run().success().stdout_text()
    };
    assert_eq!(update(&[&branch]), format!("{branch} {old} → {new}\n"));
    assert_eq!(update(&[]), format!("{url} {old_digest} → {new_digest}\n"));
    assert_eq!(update(&[]), "");
    context.image(["--lock", &lock]).file_is("/code/a.txt", "two").file_is("/file", "two");
}

#[test]
fn a_name_that_the_file_lacks_is_added_by_update() {
    let (code, web, registry) = (Code::start("one"), Web::start("one"), Registry::start());
    let digest = base(&registry, "one");
    let context = TestContext::new();
    let (branch, url, image) = (code.name(), web.url(), registry.reference("base:1"));
    // The folder is no part of a name.
    let folder = format!("{branch}:sub");
    let args = ["lock", "update", "--lock", &context.text("kiln.lock"), &folder, &url, &image];
    let said = context.kiln(args).run().success().stdout_text();
    let web_digest = Digest::of(b"one");
    assert_eq!(said, format!("{image} {digest}\n{branch} {}\n{url} {web_digest}\n", code.commit()));
    let named = format!("git://{}/ctx#{}", code.server.address, code.commit());
    let args = ["lock", "update", "--lock", &context.text("kiln.lock"), &named];
    context.kiln(args).run().fails_with(1).says("never moves");
    let none = context.text("none.lock");
    context.kiln(["lock", "update", "--lock", &none]).run().fails_with(1).says("none.lock");
}

#[test]
fn contexts_are_held_to_the_file_too() {
    let code = Code::start("one");
    code.context.write("Dockerfile", "FROM scratch\nCOPY a.txt /\nCOPY --from=more / /more/\n");
    code.git(&["add", "-A"]);
    let old = {
        code.git(&["commit", "-qm", "a Dockerfile"]);
        code.commit()
    };
    let web = Web::start("more");
    let context = TestContext::new();
    let (branch, lock) = (code.name(), context.text("kiln.lock"));
    let more = format!("more={}", web.url());
    let flags = ["--lock", lock.as_str(), "--build-context", &more];
    build_of(&context, &flags, &branch).success();
    let text = text_of(&lock);
    assert!(text.contains(&old) && text.contains(&Digest::of(b"more").to_string()), "{text}");
    code.says_now("two");
    build_of(&context, &flags, &branch).success();
    image_of(&context).file_is("/a.txt", "one");
    web.says_now("less");
    // Without the file it is what is there now, and no longer what is pinned.
    build_of(&context, &["--build-context", &more], &branch).success();
    image_of(&context).file_is("/a.txt", "two");
    build_of(&context, &flags, &branch).fails_with(1).says(&web.url()).says("kiln lock update");
}

#[test]
fn what_the_dockerfile_pins_itself_is_not_in_the_file_but_agrees_with_it() {
    let (code, web) = (Code::start("one"), Web::start("one"));
    let (commit, digest) = (code.commit(), Digest::of(b"one").to_string());
    let (branch, url) = (code.name(), web.url());
    let named = branch.replace("main", &commit);
    let context = TestContext::with_dockerfile(&format!(
        "FROM scratch\nADD {named} /named\nADD --checksum={commit} {branch} /code\nADD --checksum={digest} {url} /file\n"
    ));
    let lock = context.text("kiln.lock");
    let _ = context.image(["--lock", &lock]);
    assert!(!context.path("kiln.lock").exists());
    let (other, zeros) = (Digest::of(b"other"), "0".repeat(40));
    for (text, name, pinned, asked) in [
        (format!("\"git\": {{\"{named}\": {{\"commit\": \"{zeros}\"}}}}"), &named, &zeros, &commit),
        (format!("\"git\": {{\"{branch}\": {{\"commit\": \"{zeros}\"}}}}"), &branch, &zeros, &commit),
        (format!("\"web\": {{\"{url}\": \"{other}\"}}"), &url, &other.to_string(), &digest),
    ] {
        context.write_beside("kiln.lock", format!("{{{text}, \"version\": 2}}"));
        let refused = context.build(["--lock", &lock]).fails_with(1);
        refused.says(name).says(pinned).says(asked).says("kiln.lock");
    }
    let held = format!(
        "{{\"git\": {{\"{branch}\": {{\"commit\": \"{commit}\"}}}}, \"version\": 2, \"web\": {{\"{url}\": \"{digest}\"}}}}"
    );
    context.write_beside("kiln.lock", &held);
    let _ = context.image(["--lock", &lock, "--locked"]);
    assert_eq!(text_of(&lock), held);
}

#[test]
fn a_digest_of_the_dockerfiles_own_agrees_with_the_file() {
    let registry = Registry::start();
    let digest = base(&registry, "one");
    let name = registry.reference("base:1");
    let context = TestContext::with_dockerfile(&format!("FROM {name}@{digest}\nLABEL a=b\n"));
    let lock = context.text("kiln.lock");
    let held = |digest: &Digest| format!("{{\"images\": {{\"{name}\": \"{digest}\"}}, \"version\": 1}}");
    let other = Digest::of(b"other");
    context.write_beside("kiln.lock", held(&other));
    let refused = context.build(["--lock", &lock]).fails_with(1).says(&name);
    refused.says(&other.to_string()).says(&format!("the Dockerfile asks for {digest}"));
    for text in [held(&digest), "{\"version\": 2}".to_owned()] {
        context.write_beside("kiln.lock", &text);
        let _ = context.image(["--lock", &lock, "--locked"]);
        assert_eq!(text_of(&lock), text);
    }
}

#[test]
fn an_update_shows_servers_the_secrets_that_they_want() {
    let server = Registry::with_password();
    let url = format!("http://{}/v2/", server.address());
    let context = TestContext::new();
    let update = ["lock", "update", "--lock", &context.text("kiln.lock"), &url];
    context.kiln(update).run().fails_with(1).says(&url).says("401");
    assert!(!context.path("kiln.lock").exists());
    let secret = format!("id=HTTP_AUTH_HEADER_{},env=WHO", server.address());
    let update = context.kiln([&update[..], &["--secret", &secret]].concat());
    update.env("WHO", "Basic cG90dGVyOm9wZW4tc2VzYW1l").run().success();
    assert!(text_of(context.path("kiln.lock")).contains(&url));
}

#[test]
fn locked_refuses_what_the_file_lacks_and_asks_nobody_for_it() {
    let (code, web, registry) = (Code::start("one"), Web::start("one"), Registry::start());
    base(&registry, "one");
    let image = registry.reference("base:1");
    let context = TestContext::new();
    let lock = context.text("kiln.lock");
    context.write("Dockerfile", "FROM scratch\n");
    context.build(["--locked"]).fails_with(2).says("--lock");
    context.build(["--lock", &lock, "--locked"]).fails_with(1).says("kiln.lock");
    context.write_beside("kiln.lock", "{\"images\": {}, \"version\": 1}");
    for (dockerfile, name) in [
        (format!("FROM {image}\nLABEL a=b\n"), &image),
        (format!("FROM scratch\nADD {} /code\n", code.name()), &code.name()),
        (format!("FROM scratch\nADD {} /file\n", web.url()), &web.url()),
    ] {
        context.write("Dockerfile", &dockerfile);
        let refused = context.build(["--lock", &lock, "--locked"]).fails_with(1);
        let update = format!("kiln lock update --lock {lock} '{name}'");
        refused.says(&format!("has no entry for {name}")).says("--locked").says(&update);
        assert_eq!(text_of(&lock), "{\"images\": {}, \"version\": 1}");
    }
    assert_eq!(web.server.requests(), Vec::<String>::new());
    context
        .write("Dockerfile", format!("FROM {image}\nADD {} /code\nADD {} /file\n", code.name(), web.url()));
    let _ = context.image(["--lock", &lock]);
    let text = text_of(&lock);
    let _ = context.image(["--lock", &lock, "--locked"]);
    assert_eq!(text_of(&lock), text);
}

#[test]
fn a_dry_run_and_a_check_write_nothing() {
    let (code, web) = (Code::start("one"), Web::start("one"));
    let context = adding(&code, &web);
    let lock = context.text("kiln.lock");
    for flag in ["--dry-run", "--check"] {
        context.kiln(["build", "--lock", &lock, flag, &context.text("ctx")]).run().success();
        assert!(!context.path("kiln.lock").exists(), "{flag}");
    }
}

#[test]
fn who_may_not_ask_says_whether_the_entry_or_the_thing_is_missing() {
    let (code, web, registry) = (Code::start("one"), Web::start("one"), Registry::start());
    base(&registry, "one");
    let image = registry.reference("base:1");
    let lines = [
        (format!("FROM {image}\nLABEL a=b\n"), image.clone()),
        (format!("FROM scratch\nADD {} /code\n", code.name()), code.name()),
        (format!("FROM scratch\nADD {} /file\n", web.url()), web.url()),
    ];
    for (dockerfile, name) in lines {
        let context = TestContext::with_dockerfile(&dockerfile);
        let lock = context.text("kiln.lock");
        let refused = context.build(["--lock", &lock, "--offline"]).fails_with(1);
        let refused = refused.says(&format!("kiln.lock has no entry for {name}")).says("not in the store");
        refused.says("with --offline nobody is asked");
        // It is known somewhere else, so that here the file has an entry and the store has nothing.
        let elsewhere = TestContext::with_dockerfile(&dockerfile);
        let _ = elsewhere.image(["--lock", &lock]);
        let refused = context.build(["--lock", &lock, "--offline"]).fails_with(1);
        refused.says(&format!("kiln.lock pins {name} to ")).says("not in the store").does_not_say("no entry");
        // Here the store has it and the file is gone: it is used, and pinned again.
        let text = text_of(&lock);
        std::fs::remove_file(&lock).expect("the lock file");
        let _ = elsewhere.image(["--lock", &lock, "--offline"]);
        assert_eq!(text_of(&lock), text);
    }
    let context = TestContext::with_dockerfile(&format!("FROM {image}\nLABEL a=b\n"));
    let refused = context.build(["--lock", &context.text("kiln.lock"), "--pull=never"]).fails_with(1);
    refused.says(&format!("no entry for {image}")).says("--pull=never");
}

#[test]
fn what_came_earlier_is_told_with_its_age_where_nobody_is_asked() {
    let (code, web) = (Code::start("one"), Web::start("one"));
    let context = adding(&code, &web);
    let lock = context.text("kiln.lock");
    let _ = context.image(NONE);
    let aged = |name: &str| format!("warning: cannot ask for {name} (--offline); using what it was");
    let (_, log) = context.image_and_log(["--offline"]);
    let log = log.says(&aged(&code.name())).says(&code.commit());
    log.says(&aged(&web.url())).says(&format!(" s ago: {}", Digest::of(b"one")));
    let _ = context.image(["--lock", &lock]);
    let (_, log) = context.image_and_log(["--lock", &lock, "--offline"]);
    log.does_not_say("cannot ask");
}

#[test]
fn an_update_that_may_ask_nobody_says_so() {
    let context = TestContext::new();
    let lock = context.text("kiln.lock");
    context.write_beside("kiln.lock", "{\"images\": {}, \"version\": 1}");
    let update = ["lock", "update", "--lock", &lock];
    context.kiln([&update[..], &["--offline"]].concat()).run().fails_with(1).says("--offline").says("asks");
    context.kiln(update).env("KILN_OFFLINE", "1").run().fails_with(1).says("KILN_OFFLINE");
    context.kiln(update).env("KILN_OFFLINE", "maybe").run().fails_with(2).says("neither 1 nor 0");
    context.kiln(update).run().success();
}

#[test]
fn builds_at_once_lose_no_entry_and_keep_the_files_mode_and_link() {
    const BUILDS: usize = 8;
    let server = FakeRegistry::start(|_, target| Reply::new(200, target.as_bytes()));
    let first = TestContext::new();
    first.write_beside("real.lock", "{\"images\": {}, \"version\": 1}\n");
    let (real, lock) = (first.path("real.lock"), first.path("kiln.lock"));
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).expect("a mode");
    std::os::unix::fs::symlink("real.lock", &lock).expect("a link");
    let url = |i: usize| format!("http://{}/{i}", server.address());
    let contexts: Vec<TestContext> = (0..BUILDS)
        .map(|i| TestContext::with_dockerfile(&format!("FROM scratch\nADD {} /file\n", url(i))))
        .collect();
    let lock_text = lock.to_string_lossy().into_owned();
    for (round, flags) in [("into one", vec![]), ("into none", vec!["--no-cache"])] {
        let running: Vec<_> = contexts
            .iter()
            .map(|context| context.building([&["--lock", &lock_text], &flags[..]].concat()).start())
            .collect();
        for build in running {
            build.wait(std::time::Duration::from_secs(120)).success();
        }
        let text = text_of(&real);
        for i in 0..BUILDS {
            let digest = Digest::of(format!("/{i}").as_bytes());
            assert!(text.contains(&format!("\"{}\": \"{digest}\"", url(i))), "{round}: {text}");
        }
        assert!(std::fs::symlink_metadata(&lock).expect("a link").is_symlink());
        if round == "into one" {
            let mode = std::fs::metadata(&real).expect("the file").permissions().mode();
            assert_eq!(mode & 0o777, 0o640);
        }
        std::fs::remove_file(&real).expect("the file");
    }
}

#[test]
fn an_image_that_no_registry_gave_is_told_as_not_pinned_and_a_pulled_one_is_pinned() {
    let registry = Registry::start();
    let digest = base(&registry, "one");
    let name = registry.reference("base:1");
    let context = TestContext::with_dockerfile(&format!("FROM {name}\nLABEL a=b\n"));
    let (lock, own) = (context.text("kiln.lock"), context.text("own.lock"));
    context.kiln(["pull", &name]).run().success();
    let _ = context.image(["--lock", &lock]);
    assert!(text_of(&lock).contains(&format!("\"{name}\": \"{digest}\"")), "{}", text_of(&lock));
    let made = TestContext::with_dockerfile("FROM scratch\nLABEL made=here\n");
    made.write("file", "x");
    let other = registry.reference("own:1");
    let build = ["build", "-t", &other, &made.text("ctx")];
    context.kiln(build).run().success();
    context.write("Dockerfile", format!("FROM {other}\nLABEL a=b\n"));
    let (_, log) = context.image_and_log(["--lock", &own]);
    log.says(&format!("own.lock does not pin {other}: the store's own image was taken"));
    assert!(!context.path("own.lock").exists());
}

#[test]
fn files_that_are_damaged_or_of_the_future_are_refused_with_their_line() {
    let context = TestContext::with_dockerfile("FROM scratch\nLABEL a=b\n");
    let lock = context.text("kiln.lock");
    for (text, line, why) in [
        ("{\n  \"things\": [],\n  \"version\": 7\n}\n", 3, "it has version 7"),
        ("{\n  \"git\": {\n<<<<<<< HEAD\n", 3, "mend it"),
        ("{\n  \"version\": 2,\n  \"web\": {\n    \"http://h/\": \"sha256:1\"\n  }\n}\n", 4, "mend it"),
    ] {
        context.write_beside("kiln.lock", text);
        context.build(["--lock", &lock]).fails_with(2).says(&format!("kiln.lock:{line}:")).says(why);
        let update = context.kiln(["lock", "update", "--lock", &lock]).run();
        update.fails_with(2).says(&format!("kiln.lock:{line}:")).says(why);
        assert_eq!(text_of(&lock), text);
    }
    context.build(["--lock", &context.text("ctx")]).fails_with(2).says("it is not a regular file");
}
