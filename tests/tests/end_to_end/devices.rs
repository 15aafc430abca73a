//! `RUN --device`: devices of the Container Device Interface, who may have them, and what they give.

use super::on_busybox;
use kiln_tests::{Finished, ImageAssert, Invocation, TestContext, kiln_program};

/// A build with the specifications beside the context.
fn build(context: &TestContext, args: &[&str]) -> Finished {
    let mut all = vec!["--cdi-spec-dir".to_owned(), context.text("cdi")];
    all.extend(["-o".to_owned(), format!("type=oci,dest={}", context.text("image.tar"))]);
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    context.build(all)
}

fn image(context: &TestContext) -> ImageAssert {
    ImageAssert::of_archive(&context.path("image.tar"))
}

/// A device that is the host's /dev/null and /dev/zero by other names, with a variable, a mount and a group.
fn with_device(dockerfile: &str) -> TestContext {
    let context = on_busybox(dockerfile);
    context.write_beside("shared/lib.txt", "from the host");
    let mount = format!(
        r#"{{"hostPath": "{}", "containerPath": "/opt/lib", "options": ["ro", "nosuid", "rbind"]}}"#,
        context.text("shared")
    );
    let spec = format!(
        r#"{{"cdiVersion": "0.7.0", "kind": "vendor.com/class", "containerEdits": {{"env": ["KIND=class"]}},
        "devices": [
            {{"name": "test", "containerEdits": {{
                "env": ["DEVICE=test"],
                "deviceNodes": [
                    {{"path": "/dev/kiln/test", "hostPath": "/dev/null", "fileMode": 384, "uid": 7, "gid": 8}},
                    {{"path": "/opt/zero", "type": "c", "major": 1, "minor": 5}}
                ],
                "mounts": [{mount}],
                "additionalGids": [44]
            }}}},
            {{"name": "hooked", "containerEdits": {{
                "hooks": [{{"hookName": "createContainer", "path": "/usr/bin/some-hook"}}]
            }}}}
        ]}}"#
    );
    context.write_beside("cdi/vendor.json", spec);
    context
}

const SHOW: &str = "FROM @\n\
    RUN --device=vendor.com/class=test,required \
        (stat -c '%F %a %t:%T %u:%g' /dev/kiln/test && echo x > /dev/kiln/test && head -c 2 /opt/zero | wc -c && \
        echo $KIND $DEVICE && cat /opt/lib/lib.txt && echo && id -G) > /out\n";

#[test]
fn a_device_gives_nodes_variables_mounts_and_groups_and_leaves_no_trace() {
    let context = with_device(SHOW);
    build(&context, &["--allow", "device"]).success();
    let expect = "character special file 600 1:3 7:8\n2\nclass test\nfrom the host\n0 44\n";
    image(&context).file_is("/out", expect).lacks("/dev/kiln").lacks("/opt");
}

#[test]
fn a_device_must_be_allowed() {
    let context = with_device(SHOW);
    build(&context, &[])
        .fails_with(1)
        .says("device vendor.com/class=test is requested by the build but not allowed")
        .says("--allow device=")
        .says("RUN --device=vendor.com/class=test");
    build(&context, &["--allow", "device=vendor.com/class=other"]).fails_with(1).says("but not allowed");
    build(&context, &["--allow", "device=vendor.com/class=test"]).success();
    // What is allowed is asked for even where the step is known.
    build(&context, &[]).fails_with(1).says("but not allowed");
}

#[test]
fn a_device_that_anybody_may_have_needs_no_allowance() {
    let context = on_busybox("FROM @\nRUN --device=vendor.com/class=free echo $FREE > /out\n");
    context.write_beside(
        "cdi/free.yaml",
        "cdiVersion: 0.6.0\nkind: vendor.com/class\ndevices:\n- name: free\n  annotations:\n    \
         org.mobyproject.buildkit.device.autoallow: true\n  containerEdits:\n    env: [FREE=yes]\n",
    );
    build(&context, &[]).success();
    image(&context).file_is("/out", "yes\n");
}

#[test]
fn a_device_that_is_missing_is_an_error_only_if_it_is_required() {
    let context = with_device("FROM @\nRUN --device=vendor.com/class=none echo \"[$DEVICE]\" > /out\n");
    build(&context, &["--allow", "device"]).success();
    image(&context).file_is("/out", "[]\n");
    let context = with_device("FROM @\nRUN --device=vendor.com/class=none,required true\n");
    build(&context, &["--allow", "device"])
        .fails_with(1)
        .says("required device \"vendor.com/class=none\" is not registered")
        .says("vendor.com/class=hooked, vendor.com/class=test");
}

#[test]
fn a_step_is_run_again_where_its_device_appears() {
    let context = with_device("FROM @\nRUN --device=vendor.com/class=late echo \"[$LATE]\" > /out\n");
    build(&context, &["--allow", "device"]).success();
    image(&context).file_is("/out", "[]\n");
    let late = "cdiVersion: 0.5.0\nkind: vendor.com/class\ndevices:\n- name: late\n  containerEdits: {env: [LATE=1]}\n";
    context.write_beside("cdi/late.yaml", late);
    build(&context, &["--allow", "device"]).success();
    image(&context).file_is("/out", "[1]\n");
    build(&context, &["--allow", "device"]).success().says("CACHED");
}

#[test]
fn a_device_that_needs_a_hook_is_refused_with_its_specification() {
    let context = with_device("FROM @\nRUN --device=vendor.com/class=hooked true\n");
    build(&context, &["--allow", "device"])
        .fails_with(1)
        .says("vendor.json")
        .says("/usr/bin/some-hook")
        .says("kiln runs no hooks");
}

#[test]
fn an_entitlement_that_can_not_be_read_is_refused() {
    let context = with_device(SHOW);
    build(&context, &["--allow", "device=a,b"]).fails_with(2).says("alias=NAME");
    build(&context, &["--allow", "devices"]).fails_with(2).says("unknown entitlement");
}

#[test]
fn what_an_insecure_step_mounts_on_a_folder_of_the_host_is_not_on_the_host() {
    let context = on_busybox(
        "FROM @\nRUN --security=insecure --device=vendor.com/class=disk mount -t tmpfs leak /hd/sub && \
         grep -c ' /hd .*shared:' /proc/self/mountinfo; grep -q leak /proc/self/mountinfo\n",
    );
    let folder = context.text("shared");
    let spec = format!(
        r#"{{"cdiVersion": "0.7.0", "kind": "vendor.com/class", "devices": [{{"name": "disk", "containerEdits": {{
            "mounts": [{{"hostPath": "{folder}", "containerPath": "/hd", "options": ["rw", "rbind"]}}]
        }}}}]}}"#
    );
    context.write_beside("cdi/vendor.json", spec);
    context.write_beside("shared/keep", "");
    // In a namespace of its own, so that the folder can be a shared mount as a host's folders mostly are.
    let script = format!(
        "mount -t tmpfs none {folder} && mount --make-shared {folder} && mkdir {folder}/sub || exit 90\n\
         {} build --progress=plain --allow device --allow security.insecure --cdi-spec-dir {} {} || exit 91\n\
         ! grep leak /proc/self/mountinfo",
        kiln_program().display(),
        context.text("cdi"),
        context.text("ctx"),
    );
    let unshare =
        Invocation::new("unshare").args(["-m", "sh", "-c", &script]).env("KILN_ROOT", context.store());
    unshare.env("HOME", context.path("home")).run().success();
}
