//! Why the kernel can't run a program: it is for another architecture, and no emulator is registered for it.
//!
//! Steps of other platforms are simply run: what the kernel can run (its own architecture, 386 on amd64,
//! what binfmt_misc has an emulator for) is known to the kernel best, and what an image says of its platform
//! need not be true. Only when it refuses a program is that looked at. It does not know how a process is run.

use crate::WorkerError;
use kiln_oci::Platform;
use kiln_runner::RunError;
use kiln_snapshotter::Tree;
use kiln_solver::ExecOp;
use rustix::io::Errno;
use std::io::Read;
use std::path::Path;

/// Where the kernel shows its emulators.
const BINFMT_MISC: &str = "/proc/sys/fs/binfmt_misc";
/// What the kernel looks at of a program.
const HEAD_BYTES: u64 = 256;
/// As many scripts that are run by scripts as the kernel follows.
const SCRIPTS_MAX: usize = 5;
/// What `tonistiigi/binfmt --install` knows.
const INSTALLABLE: [&str; 10] =
    ["386", "amd64", "arm", "arm64", "loong64", "mips64", "mips64le", "ppc64le", "riscv64", "s390x"];

/// A program that the kernel can't run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "exec {program}: {own} can't run this program for {architecture}{}: {reason}; {}",
    in_step(.platform), .reason.remedy(.architecture)
)]
pub struct ForeignProgram {
    /// The program as given.
    pub program: String,
    /// The architecture that it is for.
    pub architecture: String,
    /// The platform of the step.
    pub platform: Option<Platform>,
    /// This machine's platform.
    pub own: Platform,
    /// Why no emulator runs it.
    pub reason: NoEmulator,
}

/// Why there is no emulator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEmulator {
    /// The kernel shows none at all.
    #[error("binfmt_misc is not mounted at {BINFMT_MISC}")]
    NotMounted,
    /// There is none for the architecture.
    #[error("no emulator is registered for it in {BINFMT_MISC}")]
    NotRegistered,
    /// There is one that is switched off.
    #[error("its emulator {0} is switched off in {BINFMT_MISC}")]
    Disabled(String),
    /// There is one that the kernel looks for in the image, which has none.
    #[error(
        "its emulator {name} is registered without the flag F, so that {interpreter} would have to be in the image"
    )]
    NotFixed {
        /// What it is registered as.
        name: String,
        /// The emulator's program.
        interpreter: String,
    },
}

impl NoEmulator {
    /// What to do about it.
    pub(crate) fn remedy(&self, architecture: &str) -> String {
        let image = match INSTALLABLE.contains(&architecture) {
            true => format!(", or `docker run --privileged --rm tonistiigi/binfmt --install {architecture}`"),
            false => String::new(),
        };
        match self {
            NoEmulator::NotMounted => format!(
                "mount it with `mount -t binfmt_misc binfmt_misc {BINFMT_MISC}`, and register one with \
                 `apt-get install qemu-user-static binfmt-support`{image}"
            ),
            NoEmulator::NotRegistered => {
                format!("register one with `apt-get install qemu-user-static binfmt-support`{image}")
            }
            NoEmulator::Disabled(name) => format!("switch it on with `echo 1 > {BINFMT_MISC}/{name}`"),
            NoEmulator::NotFixed { name, .. } => format!(
                "remove it with `echo -1 > {BINFMT_MISC}/{name}`, and register one that has it, with \
                 `apt-get install qemu-user-static binfmt-support`{image}"
            ),
        }
    }
}

/// An architecture, as the head of a program has it: Go's name, the class (1: 32 bits, 2: 64 bits), the
/// order of bytes (1: the lowest first) and the number of the machine.
struct Architecture {
    name: &'static str,
    class: u8,
    order: u8,
    machine: u16,
}

const fn architecture(name: &'static str, class: u8, order: u8, machine: u16) -> Architecture {
    Architecture { name, class, order, machine }
}

const ARCHITECTURES: [Architecture; 15] = [
    architecture("386", 1, 1, 3),
    architecture("amd64", 2, 1, 62),
    architecture("arm", 1, 1, 40),
    architecture("arm64", 2, 1, 183),
    architecture("loong64", 2, 1, 258),
    architecture("mips", 1, 2, 8),
    architecture("mips64", 2, 2, 8),
    architecture("mips64le", 2, 1, 8),
    architecture("mipsle", 1, 1, 8),
    architecture("ppc64", 2, 2, 21),
    architecture("ppc64le", 2, 1, 21),
    architecture("riscv64", 2, 1, 243),
    architecture("s390", 1, 2, 22),
    architecture("s390x", 2, 2, 22),
    architecture("sparc64", 2, 2, 43),
];

/// An error of a run, told as what it comes of: where the kernel refused a program because it is for another
/// architecture, that. `root` is the root of the process.
pub(crate) fn explained(
    error: RunError,
    root: &Tree,
    exec: &ExecOp,
    platform: Option<&Platform>,
) -> WorkerError {
    let is_refused = match &error {
        RunError::Exec { source, .. } => source.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()),
        // So the kernel says where it finds no emulator in the root.
        RunError::NotFound { .. } => false,
        _ => return error.into(),
    };
    let own = Platform::host();
    let Some(program) = exec.meta.args.first() else { return error.into() };
    let Some(head) = head_of(root, program, &exec.meta.env.to_list()) else { return error.into() };
    let foreign = architecture_of(&head).filter(|architecture| *architecture != own.architecture);
    let reason = no_emulator(Path::new(BINFMT_MISC), &head);
    let reason = reason.filter(|reason| is_refused || matches!(reason, NoEmulator::NotFixed { .. }));
    let (Some(architecture), Some(reason)) = (foreign, reason) else { return error.into() };
    let (program, architecture) = (program.clone(), architecture.to_owned());
    let platform = platform.cloned();
    WorkerError::Foreign(Box::new(ForeignProgram { program, architecture, platform, own, reason }))
}

fn in_step(platform: &Option<Platform>) -> String {
    platform.as_ref().map_or_else(String::new, |platform| format!(" in a step for {platform}"))
}

/// The head of the program that a process begins with; of a script, that of its interpreter.
fn head_of(root: &Tree, program: &str, env: &[&str]) -> Option<Vec<u8>> {
    let mut path = path_of(root, program, env)?;
    for _ in 0..SCRIPTS_MAX {
        let mut head = Vec::new();
        root.open_file(&path).ok()?.take(HEAD_BYTES).read_to_end(&mut head).ok()?;
        let Some(line) = head.strip_prefix(b"#!") else { return Some(head) };
        let line = line.split(|c| *c == b'\n').next().unwrap_or_default();
        let mut words = line.split(|c| *c == b' ' || *c == b'\t').filter(|word| !word.is_empty());
        path = words.next()?.to_vec();
    }
    None
}

/// Where a program is in a root, looked up in `$PATH` unless its name has a slash.
fn path_of(root: &Tree, program: &str, env: &[&str]) -> Option<Vec<u8>> {
    if program.contains('/') {
        return Some(program.as_bytes().to_vec());
    }
    let path = env.iter().rev().find_map(|pair| pair.strip_prefix("PATH="))?;
    let candidates = path.split(':').map(|folder| format!("{folder}/{program}").into_bytes());
    candidates.into_iter().find(|candidate| root.stat(candidate, true).is_ok())
}

/// The architecture that a program says it is for, if it is one at all.
fn architecture_of(head: &[u8]) -> Option<&'static str> {
    let (class, order) = (*head.get(4)?, *head.get(5)?);
    let machine = [*head.get(18)?, *head.get(19)?];
    let machine = if order == 2 { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) };
    let is_it = |a: &&Architecture| (a.class, a.order, a.machine) == (class, order, machine);
    let found = ARCHITECTURES.iter().find(is_it)?;
    head.starts_with(b"\x7fELF").then_some(found.name)
}

/// Why no emulator runs a program with this head; `None` where one should.
fn no_emulator(folder: &Path, head: &[u8]) -> Option<NoEmulator> {
    // What is not mounted is an empty folder, or none.
    if !folder.join("status").exists() {
        return Some(NoEmulator::NotMounted);
    }
    let mut best = NoEmulator::NotRegistered;
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Some(entry) = Entry::read(&file.path()).filter(|entry| entry.fits(head)) else { continue };
        let Entry { is_enabled, is_fixed, name, interpreter, .. } = entry;
        match (is_enabled, is_fixed) {
            (true, true) => return None,
            (true, false) => best = NoEmulator::NotFixed { name, interpreter },
            (false, _) if best == NoEmulator::NotRegistered => best = NoEmulator::Disabled(name),
            (false, _) => {}
        }
    }
    Some(best)
}

/// An emulator, as the kernel shows it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Entry {
    name: String,
    is_enabled: bool,
    /// Whether the kernel has opened it already, so that no root needs to have it.
    is_fixed: bool,
    interpreter: String,
    offset: usize,
    magic: Vec<u8>,
    mask: Vec<u8>,
}

impl Entry {
    fn read(path: &Path) -> Option<Entry> {
        let text = std::fs::read_to_string(path).ok()?;
        let mut entry = Entry { name: path.file_name()?.to_string_lossy().into_owned(), ..Entry::default() };
        for line in text.lines() {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            match key {
                "enabled" => entry.is_enabled = true,
                "interpreter" => entry.interpreter = value.to_owned(),
                "flags:" => entry.is_fixed = value.contains('F'),
                "offset" => entry.offset = value.parse().ok()?,
                "magic" => entry.magic = bytes_of(value)?,
                "mask" => entry.mask = bytes_of(value)?,
                _ => {}
            }
        }
        // Those that go by a file's extension have no magic.
        Some(entry).filter(|entry| !entry.magic.is_empty())
    }

    fn fits(&self, head: &[u8]) -> bool {
        let Some(part) = head.get(self.offset..self.offset + self.magic.len()) else { return false };
        let mask = self.mask.iter().copied().chain(std::iter::repeat(0xff));
        part.iter().zip(&self.magic).zip(mask).all(|((have, want), mask)| (have ^ want) & mask == 0)
    }
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head of a program.
    fn head(class: u8, order: u8, machine: u16) -> Vec<u8> {
        let mut head = b"\x7fELF".to_vec();
        head.extend([class, order, 1]);
        head.resize(16, 0);
        for number in [2, machine] {
            head.extend(if order == 2 { u16::to_be_bytes(number) } else { u16::to_le_bytes(number) });
        }
        head.resize(64, 0);
        head
    }

    /// As the kernel shows what qemu-user-static registers.
    const AARCH64: &str = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\n\
        mask ffffffffffffff00fffffffffffffffffeffffff\n";

    fn reason(entries: &[(&str, String)], head: &[u8]) -> Option<NoEmulator> {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in entries {
            std::fs::write(folder.path().join(name), text).expect("a file");
        }
        no_emulator(folder.path(), head)
    }

    #[test]
    fn programs_say_what_they_are_for() {
        for (class, order, machine, expect) in [
            (2, 1, 183, Some("arm64")),
            (2, 2, 22, Some("s390x")),
            (1, 2, 22, Some("s390")),
            (2, 1, 62, Some("amd64")),
            (2, 1, 4242, None),
        ] {
            assert_eq!(architecture_of(&head(class, order, machine)), expect, "{machine}");
        }
        assert_eq!(architecture_of(b"#!/bin/sh\nexit 0 # and more than twenty bytes"), None);
        assert_eq!(architecture_of(b"\x7fELF"), None);
    }

    #[test]
    fn an_emulator_must_be_there_be_on_and_be_held_open_by_the_kernel() {
        let (status, arm64) = (("status", "enabled\n".to_owned()), head(2, 1, 183));
        let with = |text: String| reason(&[status.clone(), ("qemu-aarch64", text)], &arm64);
        assert_eq!(with(AARCH64.to_owned()), None);
        let off = with(AARCH64.replace("enabled", "disabled"));
        assert_eq!(off, Some(NoEmulator::Disabled("qemu-aarch64".to_owned())));
        let interpreter = "/usr/libexec/qemu-binfmt/aarch64-binfmt-P".to_owned();
        let loose = with(AARCH64.replace("POCF", "POC"));
        assert_eq!(loose, Some(NoEmulator::NotFixed { name: "qemu-aarch64".to_owned(), interpreter }));
        let other = [status.clone(), ("qemu-aarch64", AARCH64.to_owned())];
        assert_eq!(reason(&other, &head(2, 1, 243)), Some(NoEmulator::NotRegistered));
        assert_eq!(reason(&[status], &arm64), Some(NoEmulator::NotRegistered));
        assert_eq!(reason(&[], &arm64), Some(NoEmulator::NotMounted));
    }

    #[test]
    fn the_program_of_a_script_is_its_interpreter() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, bytes).expect("a file");
        };
        write("usr/bin/tool", b"#! /bin/sh -e\nexit 0\n");
        write("bin/sh", &head(2, 1, 183));
        write("bin/loop", b"#!/bin/loop\n");
        let tree = Tree::open(folder.path()).expect("a tree");
        let found = |program| head_of(&tree, program, &["PATH=/usr/local/bin:/usr/bin:/bin"]);
        let architecture = |program| found(program).as_deref().and_then(architecture_of);
        assert_eq!(architecture("tool"), Some("arm64"));
        assert_eq!(architecture("/bin/sh"), Some("arm64"));
        assert_eq!((found("/bin/loop"), found("missing"), found("/missing")), (None, None, None));
    }

    #[test]
    fn what_to_do_names_the_architecture_only_where_there_is_something_to_install() {
        assert!(NoEmulator::NotRegistered.remedy("arm64").contains("--install arm64"));
        assert!(!NoEmulator::NotRegistered.remedy("s390").contains("--install"));
        assert!(NoEmulator::NotMounted.remedy("arm64").contains("mount -t binfmt_misc"));
        assert!(NoEmulator::Disabled("qemu-x".to_owned()).remedy("arm64").contains("binfmt_misc/qemu-x`"));
    }
}
