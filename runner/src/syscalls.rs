//! The system calls that no safe wrapper exists for, each with the narrowest signature that is sound. It knows
//! nothing of the order in which a sandbox needs them.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::{Errno, Result};
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

use crate::seccomp::Instruction;

/// Forks this process, which must have one thread only; gives `None` in the child.
pub(crate) fn fork() -> Result<Option<Pid>> {
    // SAFETY: only the helper calls this, and it never starts a thread, so the child's memory is consistent.
    let pid = unsafe { libc::fork() };
    if pid < 0 { Err(last_error()) } else { Ok(Pid::from_raw(pid)) }
}

/// Replaces this process; comes back only with the reason why that was not possible.
pub(crate) fn execve(path: &CStr, args: &[CString], env: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| {
        let mut all: Vec<*const libc::c_char> = strings.iter().map(|string| string.as_ptr()).collect();
        all.push(std::ptr::null());
        all
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and point to strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    last_error()
}

/// Moves this process, which must have one thread only, into new namespaces.
pub(crate) fn unshare(namespaces: UnshareFlags) -> Result<()> {
    // SAFETY: descriptors are not unshared, and no other thread exists that could be surprised.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

/// Adds `attributes` (`MOUNT_ATTR_*`) to a mount, or to all of its tree, and makes it private: what is mounted
/// beneath it is then not seen where it was cloned from.
pub(crate) fn restrict_mount(mount: BorrowedFd<'_>, attributes: u64, recursive: bool) -> Result<()> {
    let propagation = libc::MS_PRIVATE;
    let change = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string and the structure has the size that is told.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    if done < 0 { Err(last_error()) } else { Ok(()) }
}

/// Installs a filter without setting "no new privileges"; needs CAP_SYS_ADMIN.
pub(crate) fn install_filter(filter: &[Instruction]) -> Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut().cast() };
    // SAFETY: Instruction has the layout of sock_filter; the kernel only reads the program.
    let done =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if done < 0 { Err(last_error()) } else { Ok(()) }
}

/// Joins a new, anonymous session keyring, so that the caller's keys are out of reach.
pub(crate) fn join_new_session_keyring() -> Result<()> {
    // SAFETY: a null name asks for an anonymous keyring.
    let done = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, 0usize) };
    if done < 0 { Err(last_error()) } else { Ok(()) }
}

/// Brings up the interface `lo` of this process's network namespace; `socket` is any socket of it.
pub(crate) fn bring_loopback_up(socket: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: all zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is a complete ifreq with a name that ends in zeros.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if done < 0 { Err(last_error()) } else { Ok(()) }
}

/// Gives every signal its default action and blocks none.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: setting the default action runs no code of ours; KILL, STOP and unknown numbers just fail.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: an all-zero set is empty; sigemptyset then makes it so by the rules.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Lets every descriptor above standard error end with the next exec.
pub(crate) fn close_the_rest_on_exec() -> Result<()> {
    // SAFETY: setting close-on-exec closes nothing now.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done < 0 { Err(last_error()) } else { Ok(()) }
}

/// Makes `number` (0, 1 or 2) a copy of `from`.
pub(crate) fn replace_standard_stream(number: i32, from: impl AsFd) -> Result<()> {
    assert!((0..=2).contains(&number));
    // SAFETY: no OwnedFd of ours has one of the three standard numbers.
    let done = unsafe { libc::dup2(from.as_fd().as_raw_fd(), number) };
    if done < 0 { Err(last_error()) } else { Ok(()) }
}

/// Standard input, output or error by number.
pub(crate) fn standard_stream(number: i32) -> BorrowedFd<'static> {
    assert!((0..=2).contains(&number));
    // SAFETY: the three standard descriptors are open all the time: Rust's start-up opens them if need be.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Ends this process without running anything more.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit never returns and touches no memory.
    unsafe { libc::_exit(code) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
