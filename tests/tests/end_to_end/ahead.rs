//! Layers are compressed and sent while the build still runs, and no piece of one is compressed twice.

use super::on_busybox;
use kiln_tests::{ImageAssert, Registry, Relay, TIME_LIMIT, TestContext, wait_until};
use std::time::Duration;

fn uploads(relay: &Relay) -> usize {
    let passed = relay.take_passed();
    passed.iter().filter(|p| p.request_bytes > 0 && p.target.contains("/blobs/uploads/")).count()
}

#[test]
fn uploads_start_while_the_build_runs() {
    let registry = Registry::start();
    let relay = Relay::to(registry.address());
    let context = on_busybox("FROM @\nRUN echo first > /first\nRUN sleep 4\n");
    let name = relay.reference("early/app:1");
    let running = context.building(["-t", &name, "--push"]).start();
    let early = wait_until(Duration::from_secs(3), || uploads(&relay) > 0);
    running.wait(TIME_LIMIT).success();
    assert!(early, "no layer came while the second step slept");
    assert!(registry.manifest("early/app", "1").is_some());
}

#[test]
fn a_build_that_fails_names_nothing_and_other_stages_stay_here() {
    let registry = Registry::start();
    let relay = Relay::to(registry.address());
    let context = on_busybox(
        "FROM @ AS other\nRUN echo other > /other && sleep 1\nFROM @\nRUN echo mine > /mine\n\
         COPY --from=other /other /\nRUN sleep 2; exit 3\n",
    );
    let name = relay.reference("early/fails:1");
    context.build(["-t", &name, "--push"]).fails_with(1);
    let passed = relay.take_passed();
    let sent = passed.iter().filter(|p| p.method == "PUT" && p.target.contains("/blobs/uploads/")).count();
    assert_eq!(sent, 2, "the two layers of the result, not that of the other stage: {passed:?}");
    assert!(!passed.iter().any(|p| p.method == "PUT" && p.target.contains("/manifests/")), "{passed:?}");
}

/// A context with `count` text files of 40 KiB each.
fn with_files(count: usize) -> TestContext {
    let context = on_busybox("FROM @\nCOPY f /f\n");
    for number in 0..count {
        let lines: Vec<String> =
            (0..1600).map(|line| format!("{:024x}", line * 7_919 + number * 104_729)).collect();
        context.write(&format!("f/{number:03}"), lines.join("\n"));
    }
    context
}

#[test]
fn a_changed_layer_has_the_bytes_that_it_has_on_a_machine_that_knew_nothing() {
    let build = |context: &TestContext| {
        let output = context.path("out.tar");
        let arguments = ["-o", &format!("type=oci,rewrite-timestamp=true,dest={}", output.display())];
        context.building(arguments).env("SOURCE_DATE_EPOCH", "1700000000").run().success();
        std::fs::read(&output).expect("the archive")
    };
    let (here, fresh) = (with_files(60), with_files(60));
    build(&here);
    for context in [&here, &fresh] {
        context.write("f/030", "short now");
    }
    let expected = build(&fresh);
    assert!(build(&here) == expected, "pieces of the first layer were put together wrongly");
    // Damage where the pieces are: it is noticed, and they are compressed anew.
    let layer = ImageAssert::of_archive(&here.path("out.tar")).manifest.layers[1].digest;
    let blob = here.store().join("content/blobs/sha256").join(layer.hex());
    let mut bytes = std::fs::read(&blob).expect("the layer's blob");
    bytes.iter_mut().step_by(1000).for_each(|byte| *byte ^= 1);
    std::fs::write(&blob, bytes).expect("a damaged blob");
    for context in [&here, &fresh] {
        context.write("f/030", "the last");
    }
    assert!(build(&here) == build(&fresh), "a damaged piece was taken");
}
