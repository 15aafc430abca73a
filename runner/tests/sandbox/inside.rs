//! Claims about what a step is and sees: its identity, privileges, devices, environment and network.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use kiln_runner::{DeviceKind, DeviceNode, ExitStatus, Network, RunError, Security};

use crate::tree::{Tree, check, check_as, output, run_it};

pub(crate) fn a_step_of_root_has_the_fourteen_capabilities() {
    let script = "grep ^Cap /proc/self/status | tr -d '\\t'";
    let expect = "CapInh:0000000000000000\nCapPrm:00000000a80425fb\nCapEff:00000000a80425fb\n\
                  CapBnd:00000000a80425fb\nCapAmb:0000000000000000";
    check(script, expect);
}

pub(crate) fn a_step_of_a_user_has_none_of_them() {
    let script = "grep ^Cap /proc/self/status | tr -d '\\t'";
    let expect = "CapInh:0000000000000000\nCapPrm:0000000000000000\nCapEff:0000000000000000\n\
                  CapBnd:00000000a80425fb\nCapAmb:0000000000000000";
    check_as("app", script, expect);
}

pub(crate) fn an_insecure_step_has_all_of_the_callers() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let callers = status.lines().find_map(|line| line.strip_prefix("CapPrm:\t")).unwrap().to_owned();
    for user in ["", "app"] {
        let tree = Tree::new();
        let mut spec =
            tree.spec("grep -E '^(Cap|Seccomp:)' /proc/self/status | cut -f 2; head -c 1 /proc/interrupts");
        spec.security = Security::Insecure;
        spec.user = user.into();
        let text = output(spec);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..5], [&callers[..]; 5], "{user:?}");
        assert_eq!(lines[5], "0");
    }
}

pub(crate) fn system_calls_are_filtered() {
    check(
        "grep -E '^(Seccomp|NoNewPrivs)' /proc/self/status | tr -d '\\t'",
        "NoNewPrivs:0\nSeccomp:2\nSeccomp_filters:1",
    );
    check(
        "mount -t tmpfs x /tmp 2>&1; unshare -n true 2>&1 | cut -d : -f 3",
        "mount: permission denied (are you root?)\n Operation not permitted",
    );
}

pub(crate) fn secrets_of_the_kernel_are_masked() {
    let script = "for f in kcore keys timer_list latency_stats sched_debug interrupts; do \
        if [ -e /proc/$f ]; then n=$(head -c 10 /proc/$f | wc -c); [ $n = 0 ] || echo $f; fi; done; \
        for d in /proc/acpi /proc/scsi /sys/firmware /sys/devices/virtual/powercap /sys/devices/system/cpu/cpu*/thermal_throttle; do \
        [ -d $d ] && ls $d; done; echo looked";
    check(script, "looked");
}

pub(crate) fn kernel_settings_are_read_only() {
    let script = "for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/profiling; do \
        if [ -e $f ] && (echo 0 > $f) 2> /dev/null; then echo $f; fi; done; \
        touch /sys/fs/cgroup/x 2> /dev/null && echo cgroup; echo looked";
    check(script, "looked");
}

pub(crate) fn no_descriptor_leaks_into_the_step() {
    let file = fs::File::open("/etc").unwrap();
    let leaked = rustix::io::fcntl_dupfd_cloexec(&file, 50).unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    check("ls /proc/1/fd; true", "0\n1\n2");
}

pub(crate) fn the_step_is_process_one_of_its_own_session() {
    check(
        "echo $$; cd /proc; for p in [0-9]*; do echo $p; done; cut -d ' ' -f 4-7 /proc/$$/stat",
        "1\n1\n0 1 1 0",
    );
}

pub(crate) fn host_name_and_hosts_are_as_asked() {
    let tree = Tree::new();
    let mut spec = tree.spec("hostname; cat /etc/hosts; (echo > /etc/hosts) 2>/dev/null || echo kept");
    spec.extra_hosts =
        vec![("far".into(), "10.0.0.9".parse().unwrap()), ("six".into(), "fe80::1".parse().unwrap())];
    let hosts = "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.9\tfar\nfe80::1\tsix";
    assert_eq!(output(spec), format!("buildkitsandbox\n{hosts}\nkept"));
    let mut spec = tree.spec("hostname; head -n 1 /etc/hosts; cat /etc/resolv.conf | wc -c");
    spec.hostname = "other".into();
    let resolv = fs::read("/etc/resolv.conf").unwrap_or_default().len();
    assert_eq!(output(spec), format!("other\n127.0.0.1\tlocalhost other\n{resolv}"));
}

pub(crate) fn the_mounts_are_the_usual_ones() {
    let script = "while read source target kind options rest; do echo $target $kind ${options%%,size*}; done < /proc/mounts";
    let text = output(Tree::new().spec(script));
    for expect in [
        "/proc proc rw,nosuid,nodev,noexec,relatime",
        "/dev tmpfs rw,nosuid,nodev",
        "/dev/pts devpts rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666",
        "/dev/shm tmpfs rw,nosuid,nodev,noexec,relatime",
        "/dev/mqueue mqueue rw,nosuid,nodev,noexec,relatime",
        "/sys sysfs ro,nosuid,nodev,noexec,relatime",
        "/etc/resolv.conf tmpfs ro,nosuid,nodev,noexec,relatime",
        "/etc/hosts tmpfs ro,nosuid,nodev,noexec,relatime",
    ] {
        assert!(text.lines().any(|line| line == expect), "{expect} is not in\n{text}");
    }
    assert!(text.lines().any(|line| line.starts_with("/sys/fs/cgroup ")), "{text}");
    let roots = text.lines().filter(|line| line.starts_with("/ ")).count();
    assert_eq!(roots, 1, "the old root is gone:\n{text}");
    let foreign = text.lines().find(|line| {
        !["/ ", "/proc", "/dev", "/sys", "/etc/resolv.conf ", "/etc/hosts "]
            .iter()
            .any(|ours| line.starts_with(ours))
    });
    assert_eq!(foreign, None, "{text}");
}

pub(crate) fn devices_are_the_usual_ones() {
    let script = "cd /dev; for n in null zero full random urandom tty; do stat -c '%F %a %t:%T %u:%g' $n; done; \
        for n in shm mqueue; do stat -c '%F %a' $n; done; for n in fd stdin stdout stderr ptmx; do readlink $n; done";

    let node = |numbers: &str| format!("character special file 666 {numbers} 0:0\n");
    let nodes: String = ["1:3", "1:5", "1:7", "1:8", "1:9", "5:0"].into_iter().map(node).collect();
    let links = "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx";
    check(script, &format!("{nodes}directory 1777\ndirectory 1777\n{links}"));
    check("echo x > /dev/null && head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c", "3\n3");
    // Nodes can be made, but no device be reached through them.
    check(
        "for d in /tmp /dev /dev/shm; do mknod $d/m c 1 3 && (echo > $d/m) 2>/dev/null || echo refused; done",
        "refused\nrefused\nrefused",
    );
}

pub(crate) fn given_devices_can_be_used() {
    let device = |path: &str, uid| DeviceNode {
        path: path.into(),
        kind: DeviceKind::Character,
        number: (1, 5),
        mode: 0o640,
        uid,
        gid: uid,
    };
    for security in [Security::Sandbox, Security::Insecure] {
        let tree = Tree::new();
        let before = tree.listing();
        let script = "for d in /dev/own/mine /dev/other /opt/zero /dev/null; do stat -c '%F %a %t:%T %u:%g' $d; done; \
            head -c 2 /opt/zero | wc -c; head -c 2 /dev/own/mine | wc -c; stat -c %F /dev/pipe";
        let mut spec = tree.spec(script);
        spec.user = "app".into();
        spec.security = security;
        spec.devices = vec![
            device("/dev/own/mine", None),
            device("/dev/other", Some(7)),
            device("/opt/zero", None),
            device("/dev/null", None),
            DeviceNode { kind: DeviceKind::Fifo, ..device("/dev/pipe", None) },
        ];
        let (mine, other) =
            ("character special file 640 1:5 1000:1000", "character special file 640 1:5 7:7");
        assert_eq!(output(spec), format!("{mine}\n{other}\n{mine}\n{mine}\n2\n2\nfifo"), "{security:?}");
        assert_eq!(tree.listing(), before);
    }
}

pub(crate) fn given_groups_are_added() {
    for (user, expect) in [("", "0 5 33"), ("app", "1000 33 5"), ("app:app", "1000 5 33")] {
        let tree = Tree::new();
        let mut spec = tree.spec("id -G");
        spec.user = user.into();
        spec.additional_gids = vec![5, 33];
        let groups = output(spec);
        let sorted = |text: &str| {
            let mut all: Vec<u32> = text.split_whitespace().map(|gid| gid.parse().unwrap()).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(sorted(&groups), sorted(expect), "{user:?}");
    }
}

pub(crate) fn shm_has_the_size_that_was_asked_for() {
    let tree = Tree::new();
    let mut spec = tree.spec("df -k /dev/shm | tail -n 1 | awk '{print $2}' 2>/dev/null || df -k /dev/shm");
    spec.args[2] = "df -k /dev/shm | awk 'NR==2 {print $2}'".into();
    spec.shm_size_bytes = 3 << 20;
    assert_eq!(output(spec), "3072");
}

pub(crate) fn users_are_resolved_in_the_root() {
    check_as("", "id", "uid=0(root) gid=0(root) groups=0(root)");
    check_as("root", "id", "uid=0(root) gid=0(root) groups=0(root),10(wheel)");
    check_as("app", "id", "uid=1000(app) gid=1000(app) groups=33(www),1000(app)");
    check_as("app:www", "id", "uid=1000(app) gid=33(www) groups=33(www)");
    check_as("4242", "id; echo $HOME", "uid=4242 gid=0(root) groups=0(root)\n/");
    check_as("4242:4243", "id", "uid=4242 gid=4243 groups=4243");
}

pub(crate) fn an_unknown_user_is_an_error_of_its_own() {
    let tree = Tree::new();
    let before = tree.listing();
    for user in ["ghost", "4294967296", "app:ghosts"] {
        let mut spec = tree.spec("echo ran");
        spec.user = user.into();
        let (result, lines) = run_it(spec);
        let error = result.unwrap_err();
        assert!(lines.is_empty());
        match user {
            "ghost" => assert!(matches!(error, RunError::UnknownUser { .. }), "{error}"),
            "app:ghosts" => assert!(matches!(error, RunError::UnknownGroup { .. }), "{error}"),
            _ => assert!(matches!(error, RunError::InvalidUser { .. }), "{error}"),
        }
    }
    assert_eq!(tree.listing(), before);
}

pub(crate) fn special_passwd_files_do_not_hang() {
    for make in ["mknod /etc/passwd p", "ln -s /dev/zero /etc/passwd", "mkdir /etc/passwd"] {
        let tree = Tree::new();
        fs::remove_file(tree.at("etc/passwd")).unwrap();
        output(tree.spec(&format!("rm -rf /etc/passwd; {make}; true")));
        let mut spec = tree.spec("true");
        spec.user = "app".into();
        let error = run_it(spec).0.unwrap_err();
        assert!(matches!(error, RunError::UserFile { .. } | RunError::UnknownUser { .. }), "{make}: {error}");
    }
}

pub(crate) fn the_working_directory_is_made_for_the_user() {
    let tree = Tree::new();
    let mut spec = tree.spec("pwd; stat -c '%a %u:%g' /srv /srv/deep");
    spec.cwd = "/srv/deep".into();
    spec.user = "app".into();
    assert_eq!(output(spec), "/srv/deep\n755 1000:1000\n755 1000:1000");
    assert!(tree.at("srv/deep").is_dir());
    let mut spec = tree.spec("pwd");
    spec.cwd = "/etc/passwd".into();
    assert!(matches!(run_it(spec).0, Err(RunError::WorkingDirectory { .. })));
}

pub(crate) fn a_working_directory_cannot_lead_out() {
    let tree = Tree::new();
    let canary = Tree::new();
    symlink(&canary.0, tree.at("link")).unwrap();
    let before = canary.listing();
    let mut spec = tree.spec("pwd");
    spec.cwd = "/link/made".into();
    assert_eq!(output(spec), canary.at("made").display().to_string());
    assert_eq!(canary.listing(), before);
    for number in 0..20 {
        let mut spec = tree.spec("ls /home");
        spec.cwd = format!("/proc/self/fd/{number}").into();
        if let Ok(status) = run_it(spec).0 {
            panic!("descriptor {number} was entered: {status:?}");
        }
    }
}

pub(crate) fn home_and_path_are_added() {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    check_as("app", "echo $PATH $HOME", &format!("{path} /home/app"));
    let tree = Tree::new();
    let mut spec = tree.spec("");
    spec.args = vec!["env".into()];
    spec.env = vec![("B".into(), "2".into()), ("HOME".into(), "/h".into()), ("A".into(), "1".into())];
    assert_eq!(output(spec), format!("PATH={path}\nB=2\nHOME=/h\nA=1"));
}

pub(crate) fn standard_streams_are_usable() {
    check("cat | wc -c", "0");
    check_as(
        "app",
        "echo a > /dev/stdout; sleep 0.1; echo b > /dev/stderr; sleep 0.1; cat /dev/stdin | wc -c",
        "a\nb\n0",
    );
    check("(: < /dev/tty) 2>/dev/null || echo none", "none");
}

pub(crate) fn limits_are_set_and_mask_is_022() {
    let tree = Tree::new();
    let mut spec = tree.spec("ulimit -Sn; ulimit -Hn; umask; cat /proc/self/oom_score_adj");
    spec.ulimits = vec![("nofile".into(), 100, 200)];
    let adjusted = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!(output(spec), format!("100\n200\n0022\n{}", adjusted.trim()));
    let mut spec = tree.spec("true");
    spec.ulimits = vec![("files".into(), 1, 1)];
    assert!(matches!(run_it(spec).0, Err(RunError::Limit { name, .. }) if name == "files"));
}

pub(crate) fn without_a_network_there_is_only_loopback() {
    let tree = Tree::new();
    let mut spec = tree.spec("ip -o link | grep '<.*UP' | cut -d : -f 2 | tr -d '\\n'; ls /sys/class/net");
    spec.network = Network::None;
    assert_eq!(output(spec), " lolo");
    let host = output(tree.spec("readlink /proc/self/ns/net"));
    assert_eq!(host, fs::read_link("/proc/self/ns/net").unwrap().display().to_string());
}

/// A program of 32 bits that ends with the code 42.
#[cfg(target_arch = "x86_64")]
const PROGRAM_OF_I386: &[u8] = &[
    0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 3, 0, 1, 0, 0, 0, 0x54, 0x80, 4, 8, 52,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 52, 0, 32, 0, 1, 0, 0, 0, 0, 0, 0,
    0, // the header, and one segment:
    1, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 4, 8, 0, 0x80, 4, 8, 0x60, 0, 0, 0, 0x60, 0, 0, 0, 5, 0, 0, 0, 0, 0x10,
    0, 0, 0x31, 0xc0, 0x40, 0xbb, 42, 0, 0, 0, 0xcd, 0x80, 0x90,
    0x90, // eax = 1 (exit), ebx = 42, int 0x80
];

#[cfg(target_arch = "x86_64")]
pub(crate) fn programs_of_32_bits_run() {
    let tree = Tree::new();
    fs::write(tree.at("bin/old"), PROGRAM_OF_I386).unwrap();
    fs::set_permissions(tree.at("bin/old"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut spec = tree.spec("");
    spec.args = vec!["old".into()];
    match run_it(spec).0 {
        Ok(status) => assert_eq!(status, ExitStatus::Code(42)),
        // A kernel that runs no such programs at all.
        Err(error) => {
            assert!(matches!(error, RunError::Exec { .. }), "{error}");
            println!("    this kernel runs none: {error}");
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn programs_of_32_bits_run() {}
