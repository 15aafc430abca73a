//! What is listed and shown of images, and in which forms.

use super::on_busybox;
use kiln_tests::{BaseImage, Registry, TestContext};
use serde_json::Value;

fn built() -> TestContext {
    let context = on_busybox(
        "FROM @\nENV A=1\nLABEL team=red \"com.example/x\"=y\nCOPY a.txt /a.txt\nCMD [\"sh\", \"-c\", \"true\"]\n",
    );
    context.write("a.txt", "a".repeat(5000));
    context.build(["-t", "app:1.0", "-t", "example.org/team/app:two"]).success();
    context
}

#[track_caller]
fn shown(context: &TestContext, args: &[&str]) -> String {
    context.kiln(args).run().success().stdout_text()
}

#[test]
fn inspect_fills_templates_in_as_docker_does() {
    let context = built();
    let of = |format: &str| shown(&context, &["inspect", "-f", format, "app:1.0"]);
    assert_eq!(of("{{.Os}}/{{json .Config.Cmd}}"), "linux/[\"sh\",\"-c\",\"true\"]\n");
    assert_eq!(of("{{index .Config.Labels \"com.example/x\"}} {{.Config.Labels.team}}"), "y red\n");
    assert_eq!(of("{{len .RootFS.Layers}} {{.RootFS.Type}}"), "2 layers\n");
    assert!(of("{{range .Config.Env}}{{println .}}{{end}}").contains("A=1\n"));
    assert_eq!(of("{{.Config.Entrypoint}}{{.Config.User}}"), "[]\n");
    assert_eq!(of("{{join .RepoTags \",\"}}"), "app:1.0,example.org/team/app:two\n");
    let finished = context.kiln(["inspect", "-f", "{{.Confg}}", "app:1.0"]).run().fails_with(2);
    finished.says("no field .Confg").says("did you mean .Config?").says("at character 3");
    context.kiln(["inspect", "-f", "{{if .Id}}", "app:1.0"]).run().fails_with(2).says("has no {{end}}");
}

#[test]
fn inspect_shows_several_images_with_dockers_keys() {
    let context = built();
    let text = shown(&context, &["inspect", "--type", "image", "app:1.0", "example.org/team/app:two"]);
    let all: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(all.as_array().map(Vec::len), Some(2), "{all}");
    let image = &all[0];
    assert_eq!(image["RootFS"]["Layers"].as_array().map(Vec::len), Some(2), "{image}");
    assert_eq!((&image["Config"]["Entrypoint"], &image["Config"]["User"]), (&Value::Null, &Value::from("")));
    assert!(image["Size"].as_u64().is_some_and(|size| size > 5000), "{image}");
    context.kiln(["inspect", "--type", "volume", "app:1.0"]).run().fails_with(2);
}

#[test]
fn inspect_takes_the_image_for_a_platform() {
    let registry = Registry::start();
    let images = ["linux/amd64", "linux/arm64"].map(|p| BaseImage::busybox().with_platform(p));
    BaseImage::push_index(&images, &registry, "multi", "1");
    let name = registry.reference("multi:1");
    let context = TestContext::with_dockerfile(&format!("FROM {name}\nLABEL a=b\n"));
    context.build(["--platform", "linux/amd64,linux/arm64", "-t", "both:1"]).success();
    let of = |platform: &str| {
        shown(&context, &["inspect", "--platform", platform, "-f", "{{.Architecture}}", "both:1"])
    };
    assert_eq!((of("linux/amd64"), of("linux/arm64")), ("amd64\n".to_owned(), "arm64\n".to_owned()));
    let finished = context.kiln(["inspect", "--platform", "linux/s390x", "both:1"]).run().fails_with(1);
    finished.says("linux/s390x").says("linux/amd64, linux/arm64");
    let tree = shown(&context, &["images", "--tree"]);
    assert!(tree.contains("├─ linux/amd64") && tree.contains("└─ linux/arm64"), "{tree}");
    context.kiln(["history", "both:1"]).run().fails_with(2).says("--platform linux/amd64 or linux/arm64");
    assert!(shown(&context, &["history", "--platform", "linux/arm64", "both:1"]).contains("LABEL a=b"));
}

#[test]
fn history_has_a_line_for_each_step_and_the_sizes_of_layers() {
    let context = built();
    let table = shown(&context, &["history", "app:1.0"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("IMAGE") && lines[0].contains("CREATED BY"), "{table}");
    assert!(lines[1].contains("CMD") && lines[1].contains("0B"), "{table}");
    assert!(lines[2].starts_with("<missing>") && lines[2].contains("COPY a.txt"), "{table}");
    let of = |args: &[&str]| shown(&context, &[&["history"][..], args, &["app:1.0"]].concat());
    let id = shown(&context, &["inspect", "-f", "{{.Id}}", "app:1.0"]);
    assert_eq!(of(&["-q", "--no-trunc"]).lines().next(), id.lines().next());
    assert_eq!(of(&["--format", "{{.ID}}"]).lines().next(), id.get(7..19));
    let bytes = of(&["-H=false", "--format", "{{.Size}} {{.CreatedAt}}"]);
    assert!(bytes.lines().nth(1).is_some_and(|line| line.starts_with("6656 20")), "{bytes}");
    let first: Value =
        serde_json::from_str(of(&["--format", "json"]).lines().next().expect("a line")).expect("JSON");
    assert!(first["CreatedBy"].as_str().is_some_and(|by| by.contains("CMD")), "{first}");
}

#[test]
fn images_are_filtered_and_shown_in_every_form() {
    let context = built();
    let of = |args: &[&str]| shown(&context, &[&["images"][..], args].concat());
    let line: Value =
        serde_json::from_str(of(&["--format", "json"]).lines().next().expect("a line")).expect("JSON");
    assert_eq!((&line["Repository"], &line["Tag"]), (&Value::from("app"), &Value::from("1.0")), "{line}");
    assert_eq!(line["ID"].as_str().map(str::len), Some(12), "{line}");
    let names = of(&["--format", "{{.Repository}}:{{.Tag}}"]);
    assert_eq!(names, "app:1.0\nexample.org/team/app:two\n");
    let table = of(&["--format", "table {{.Repository}}\\t{{.Tag}}"]);
    assert_eq!(table, "REPOSITORY             TAG\napp                    1.0\nexample.org/team/app   two\n");
    assert!(of(&["--digests"]).contains("<none>"), "it was not pushed");
    let filtered = |filter: &str| of(&["--filter", filter, "--format", "{{.Tag}}"]);
    assert_eq!(filtered("reference=app"), "1.0\n");
    assert_eq!(filtered("reference=example.org/*/app:t*"), "two\n");
    assert_eq!(filtered("label=team=red"), "1.0\ntwo\n");
    assert_eq!(filtered("label=team=blue"), "");
    assert_eq!(filtered("dangling=true"), "");
    assert_eq!(filtered("before=app:1.0"), "");
    assert_eq!(of(&["app", "--format", "{{.Tag}}"]), "1.0\n");
    assert_eq!(of(&["app:2.0", "--format", "{{.Tag}}"]), "");
    context.kiln(["images", "--filter", "lable=x"]).run().fails_with(2).says("did you mean label?");
    context.kiln(["images", "--format", "{{.Repo}}"]).run().fails_with(2).says("no field .Repo");
}
