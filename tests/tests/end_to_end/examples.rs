//! The examples are what they say: examples/app is built, is cached, and serves its pages.

use kiln_tests::{BUSYBOX_PATH, ImageAssert, TestContext, request, wait_until};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/app")
}

#[test]
fn examples_app_is_built_and_the_second_time_cached() {
    let context = TestContext::new();
    let tools = format!("tools={}", context.tools().display());
    let archive = context.path("image.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let folder = example();
    let folder = folder.to_string_lossy();
    let args = [
        "build",
        "--progress=plain",
        "--build-context",
        &tools,
        "--build-arg",
        "TITLE=T & T",
        "-o",
        &output,
        &folder,
    ];
    let first = context.kiln(args).run().success().says("made 2 pages for T & T");
    let image = ImageAssert::of_archive(&archive);
    assert!(image.file("/www/index.html").contains("<a href=\"glazes.html\">Glazes</a>"));
    assert!(image.file("/www/glazes.html").contains("<li>shino: &lt; 3 %"), "{first}");
    image.lacks("/www/secret-glaze.html").is("/www/style.css", 0o644, (1000, 1000));
    assert_eq!(image.config.config.user, "web");
    assert!(image.config.config.env.contains(&"PORT=8080".to_owned()));
    let second = context.kiln(args).run().success().does_not_say("made 2 pages");
    assert!(second.stderr.matches("CACHED").count() >= 5, "{second}");
    assert_eq!(image.digest, ImageAssert::of_archive(&archive).digest);
}

#[test]
fn examples_app_serves_its_pages() {
    let context = TestContext::new();
    let tools = format!("tools={}", context.tools().display());
    let out = context.path("out");
    let output = format!("type=local,dest={}", out.display());
    let folder = example();
    let args =
        ["build", "--progress=plain", "--build-context", &tools, "-o", &output, &folder.to_string_lossy()];
    context.kiln(args).run().success();
    let address = kiln_tests::closed_port();
    let mut server = Command::new(BUSYBOX_PATH)
        .args(["httpd", "-f", "-p", &address, "-h"])
        .arg(out.join("www"))
        .stdin(Stdio::null())
        .spawn()
        .expect("busybox");
    let mut page = None;
    wait_until(Duration::from_secs(10), || {
        page = request(&address, "GET", "/firing.html", &[], &[]).ok();
        page.is_some()
    });
    let _ = server.kill();
    let _ = server.wait();
    let page = page.expect("an answer");
    assert_eq!(page.status, 200);
    assert!(String::from_utf8_lossy(&page.body).contains("1240 °C &amp; steady"));
}
