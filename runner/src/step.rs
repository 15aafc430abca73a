//! The step's process from the fork to the exec: process 1 of a new process namespace builds the other
//! namespaces, the mounts and the privileges around itself and becomes the program. It knows nothing of what
//! comes after.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, Uid};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::Signal;
use rustix::thread::UnshareFlags;

use crate::devices;
use crate::environment;
use crate::error::{RunError, set_up};
use crate::in_root::{self, Kind};
use crate::masks;
use crate::mounts::{self, INERT, Planned, Whose};
use crate::privileges;
use crate::seccomp::Instruction;
use crate::spec::{DEFAULT_HOSTNAME, DEFAULT_SHM_SIZE, Network, Security};
use crate::stubs::Stub;
use crate::syscalls;
use crate::system_files::{self, Cgroups, PrivateFiles};
use crate::user::{self, Identity};
use crate::wire::{self, Received, Reply, WireMount, WireSource, WireSpec};

/// The file mode creation mask of every step.
const UMASK: Mode = Mode::from_bits_retain(0o022);

/// How long a program's file may be busy, and how often that is looked at.
const LONGEST_BUSY: Duration = Duration::from_secs(1);
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// Becomes the program of the specification, or tells the caller through `control` why that was not possible.
/// `helper` is the process that forked this one.
pub(crate) fn become_it(received: Received, control: BorrowedFd<'_>, helper: BorrowedFd<'_>) -> ! {
    let mut stubs = Vec::new();
    let Received { spec, filter, root, mounts } = received;
    let outcome = prepare(&spec, root, mounts, helper, &mut stubs).and_then(|who| {
        wire::send_reply(control, &Reply::Ready { stubs: std::mem::take(&mut stubs) });
        execute(spec, &who, &filter, helper)
    });
    if let Err(error) = outcome {
        wire::send_reply(control, &Reply::Failed { error, stubs });
    }
    syscalls::exit_now(1)
}

/// Builds all that is around the process, up to the new root and the working directory.
fn prepare(
    spec: &WireSpec,
    root: OwnedFd,
    descriptors: Vec<OwnedFd>,
    helper: BorrowedFd<'_>,
    stubs: &mut Vec<Stub>,
) -> Result<Identity, RunError> {
    die_with(helper)?;
    let mut who = user::resolve(root.as_fd(), &spec.user)?;
    who.add_groups(&spec.additional_gids);
    let cgroups = system_files::cgroups();
    unshare(spec.network, &cgroups)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(set_up("making mounts private"))?;
    rustix::process::umask(Mode::empty());
    let resolv_conf = system_files::resolv_conf();
    let host_devices = devices::look_at_host(spec.security);

    let files = PrivateFiles::mount().map_err(set_up("mounting the private files"))?;
    place_root(&root, &files, spec.security).map_err(set_up("placing the root"))?;
    devices::make_nodes(&files).map_err(set_up("making device nodes"))?;
    let cwd = Path::new(OsStr::from_bytes(spec.cwd.as_bytes()));
    make_cwd(root.as_fd(), cwd, &who)?;
    let shm_size = if spec.shm_size_bytes == 0 { DEFAULT_SHM_SIZE } else { spec.shm_size_bytes };
    let mut planned =
        devices::plan(&files, spec.security, &host_devices, shm_size).map_err(set_up("making /dev"))?;
    planned.extend(kernel_mounts(spec.security).map_err(set_up("making /proc and /sys"))?);
    planned.extend(network_files(&files, spec, &resolv_conf).map_err(set_up("making network files"))?);
    planned.extend(system_files::plan_cgroups(cgroups, spec.security == Security::Sandbox));
    planned.extend(devices::plan_given(&files, &spec.devices, &who)?);
    planned.extend(callers_mounts(&files, spec, descriptors)?);
    mounts::attach_all(root.as_fd(), planned, stubs)?;
    if spec.security == Security::Sandbox {
        masks::apply(root.as_fd(), &files).map_err(set_up("masking /proc and /sys"))?;
    }

    // It may be inside one of the mounts.
    make_cwd(root.as_fd(), cwd, &who)?;
    let hostname = hostname(spec);
    rustix::system::sethostname(hostname.as_bytes()).map_err(set_up("setting the host name"))?;
    if spec.network == Network::None {
        loopback_up().map_err(set_up("bringing up the loopback interface"))?;
    }
    // Without a kernel that has keyrings there is nothing to be kept from the step.
    let _ = syscalls::join_new_session_keyring();
    pivot(&root).map_err(set_up("changing the root"))?;
    enter(cwd)?;
    Ok(who)
}

/// Takes on the privileges and becomes the program; comes back only with an error.
fn execute(
    spec: WireSpec,
    who: &Identity,
    filter: &[Instruction],
    helper: BorrowedFd<'_>,
) -> Result<(), RunError> {
    rustix::process::umask(UMASK);
    // Who is not root may still open /dev/stdout.
    for number in 0..=2 {
        let owner = Some(Uid::from_raw(who.uid));
        rustix::fs::fchown(syscalls::standard_stream(number), owner, None)
            .map_err(set_up("handing over the standard streams"))?;
    }
    privileges::set_limits(&spec.ulimits)?;
    syscalls::reset_signals();
    // `setsid` takes the place of the helper's session; process 1 never leads a group before that.
    rustix::process::setsid().map_err(set_up("making a session"))?;
    privileges::take_on(who, spec.security, filter)?;
    // The kernel forgets the signal at a change of user.
    die_with(helper)?;

    let args: Vec<OsString> = spec.args.into_iter().map(OsString::from).collect();
    let env = spec.env.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let env = environment::complete(env, &who.home);
    let reason = "no program is given".to_owned();
    let program = args.first().ok_or(RunError::InvalidSpec { reason })?;
    let path = environment::find_program(program, &env)?;
    let c_args =
        args.iter().map(|arg| environment::c_string(arg.as_bytes())).collect::<Result<Vec<_>, _>>()?;
    let c_env = env.into_iter().map(variable).collect::<Result<Vec<_>, _>>()?;
    syscalls::close_the_rest_on_exec().map_err(set_up("closing descriptors"))?;
    let program = program.to_string_lossy().into_owned();
    Err(match execve_when_free(&path, &c_args, &c_env) {
        Errno::NOENT => RunError::NotFound { program },
        Errno::ACCESS | Errno::PERM => RunError::PermissionDenied { program },
        error => RunError::Exec { program, source: error.into() },
    })
}

/// Executes a program. Its file may just have been written by the caller, whose other threads start helpers of
/// their own: until such a helper has executed, it holds all of the caller's files open, and the kernel says that
/// the program is busy. That passes.
fn execve_when_free(path: &CStr, args: &[CString], env: &[CString]) -> Errno {
    let start = Instant::now();
    loop {
        match syscalls::execve(path, args, env) {
            Errno::TXTBSY if start.elapsed() < LONGEST_BUSY => std::thread::sleep(BUSY_PAUSE),
            error => return error,
        }
    }
}

/// Has the kernel kill this process when the helper dies; ends it if the helper is dead already.
fn die_with(helper: BorrowedFd<'_>) -> Result<(), RunError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(set_up("asking for a death signal"))?;
    let mut ended = [PollFd::from_borrowed_fd(helper, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut ended, Some(&at_once)) {
        Ok(0) => Ok(()),
        _ => syscalls::exit_now(1),
    }
}

fn unshare(network: Network, cgroups: &Cgroups) -> Result<(), RunError> {
    let mut namespaces = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    namespaces.set(UnshareFlags::NEWNET, network == Network::None);
    namespaces.set(UnshareFlags::NEWCGROUP, matches!(cgroups, Cgroups::Unified));
    syscalls::unshare(namespaces).map_err(set_up("making namespaces"))
}

fn place_root(root: &OwnedFd, files: &PrivateFiles, security: Security) -> rustix::io::Result<()> {
    if security == Security::Sandbox {
        mounts::restrict(root, MountAttrFlags::MOUNT_ATTR_NODEV, false)?;
    }
    mounts::attach(root, files.place_of_root()?)
}

fn kernel_mounts(security: Security) -> rustix::io::Result<Vec<Planned>> {
    let mut of_sys = INERT;
    of_sys.set(MountAttrFlags::MOUNT_ATTR_RDONLY, security == Security::Sandbox);
    let system = |target: &str, mount| Planned { target: target.into(), mount, whose: Whose::System };
    Ok(vec![
        system("/proc", mounts::make("proc", "proc", &[], INERT)?),
        system("/sys", mounts::make("sysfs", "sysfs", &[], of_sys)?),
    ])
}

fn network_files(
    files: &PrivateFiles,
    spec: &WireSpec,
    resolv_conf: &[u8],
) -> rustix::io::Result<Vec<Planned>> {
    let hosts = system_files::hosts(hostname(spec), &spec.extra_hosts);
    let mut planned = Vec::new();
    for (name, content) in [("resolv.conf", resolv_conf), ("hosts", &hosts)] {
        files.file(name, content, 0o644, (0, 0))?;
        let mount = files.mount_of(name, INERT | MountAttrFlags::MOUNT_ATTR_RDONLY)?;
        planned.push(Planned { target: Path::new("/etc").join(name), mount, whose: Whose::System });
    }
    Ok(planned)
}

fn callers_mounts(
    files: &PrivateFiles,
    spec: &WireSpec,
    descriptors: Vec<OwnedFd>,
) -> Result<Vec<Planned>, RunError> {
    let mut descriptors = descriptors.into_iter();
    let mut planned = Vec::new();
    for (number, wanted) in spec.mounts.iter().enumerate() {
        let target = Path::new(OsStr::from_bytes(wanted.target.as_bytes())).to_owned();
        let refused = |error: Errno| RunError::MountTarget {
            target: target.clone(),
            reason: format!("its source can't be mounted: {error}"),
        };
        let mount = callers_mount(files, number, wanted, spec.security, &mut descriptors).map_err(refused)?;
        planned.push(Planned { target, mount, whose: Whose::Callers });
    }
    Ok(planned)
}

fn callers_mount(
    files: &PrivateFiles,
    number: usize,
    wanted: &WireMount,
    security: Security,
    descriptors: &mut impl Iterator<Item = OwnedFd>,
) -> rustix::io::Result<OwnedFd> {
    let mut attributes = MountAttrFlags::empty();
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, wanted.readonly);
    match &wanted.source {
        WireSource::Descriptor => {
            attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, security == Security::Sandbox);
            let mount = descriptors.next().ok_or(Errno::BADF)?;
            mounts::restrict(&mount, attributes, true)?;
            Ok(mount)
        }
        WireSource::Host { nosuid, noexec } => {
            attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, security == Security::Sandbox);
            attributes.set(MountAttrFlags::MOUNT_ATTR_NOSUID, *nosuid);
            attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, *noexec);
            let mount = descriptors.next().ok_or(Errno::BADF)?;
            mounts::restrict(&mount, attributes, true)?;
            Ok(mount)
        }
        WireSource::Tmpfs { size_bytes, mode } => {
            let mode = format!("{mode:o}");
            let size = size_bytes.map(|size| size.to_string());
            let mut options = vec![("mode", &mode[..])];
            options.extend(size.as_deref().map(|size| ("size", size)));
            attributes.insert(MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV);
            mounts::make("tmpfs", "tmpfs", &options, attributes)
        }
        WireSource::Secret { data, mode, uid, gid } => {
            let name = format!("secret-{number}");
            files.file(&name, data.as_bytes(), *mode, (*uid, *gid))?;
            attributes.insert(INERT);
            attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, mode & 0o111 == 0);
            files.mount_of(&name, attributes)
        }
    }
}

fn hostname(spec: &WireSpec) -> &str {
    if spec.hostname.is_empty() { DEFAULT_HOSTNAME } else { &spec.hostname }
}

fn loopback_up() -> rustix::io::Result<()> {
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    syscalls::bring_loopback_up(socket.as_fd())
}

/// Makes the working directory if it is missing. What is made belongs to the user, and to the layer.
fn make_cwd(root: BorrowedFd<'_>, cwd: &Path, who: &Identity) -> Result<(), RunError> {
    in_root::open_or_make(root, cwd, Kind::Directory, (who.uid, who.gid), &mut Vec::new())
        .map(drop)
        .map_err(|error| RunError::WorkingDirectory { cwd: cwd.to_owned(), source: error.into() })
}

/// Makes `root` the root of the mount namespace; the old one is gone with all that was on it.
fn pivot(root: &OwnedFd) -> rustix::io::Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

/// Goes to the working directory, which must be one inside the root.
fn enter(cwd: &Path) -> Result<(), RunError> {
    let wrong = |error: Errno| RunError::WorkingDirectory { cwd: cwd.to_owned(), source: error.into() };
    rustix::process::chdir(Path::new("/").join(cwd)).map_err(wrong)?;
    let now = rustix::process::getcwd(Vec::new()).map_err(wrong)?;
    if now.as_bytes().starts_with(b"/") { Ok(()) } else { Err(wrong(Errno::NOENT)) }
}

fn variable((name, value): (OsString, OsString)) -> Result<CString, RunError> {
    let mut text = name.into_vec();
    text.push(b'=');
    text.extend(value.as_bytes());
    environment::c_string(text)
}
