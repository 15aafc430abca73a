//! Makes the system call filter of a sandboxed step as BPF code: the allow list, EPERM for the rest, ENOSYS for
//! what is newer than the list, and rules on arguments. It knows nothing of processes; installing is elsewhere.

use std::sync::OnceLock;

use crate::syscall_table::{ALLOWED, Call, NEWEST_KNOWN, NONE};

/// One instruction in the kernel's layout (`struct sock_filter`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) if_true: u8,
    pub(crate) if_false: u8,
    pub(crate) value: u32,
}

/// The filter for this machine, made once per process.
pub(crate) fn default_filter() -> &'static [Instruction] {
    static FILTER: OnceLock<Vec<Instruction>> = OnceLock::new();
    FILTER.get_or_init(|| compile(NATIVE))
}

/// The architectures whose calls a filter for this machine must tell apart, the native one first.
const NATIVE: &[Abi] = if cfg!(target_arch = "aarch64") { &[AARCH64] } else { &[X86_64, I386] };

/// The numbers that an architecture has for the calls whose arguments are looked at.
struct Abi {
    audit_arch: u32,
    number: fn(&Call) -> i32,
    socket: u32,
    personality: u32,
    clone: u32,
}

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
const AUDIT_ARCH_AARCH64: u32 = 0xc000_00b7;

const X86_64: Abi = Abi {
    audit_arch: AUDIT_ARCH_X86_64,
    number: |call| call.x86_64,
    socket: 41,
    personality: 135,
    clone: 56,
};
const I386: Abi =
    Abi { audit_arch: AUDIT_ARCH_I386, number: |call| call.i386, socket: 359, personality: 136, clone: 120 };
const AARCH64: Abi = Abi {
    audit_arch: AUDIT_ARCH_AARCH64,
    number: |call| call.aarch64,
    socket: 198,
    personality: 92,
    clone: 220,
};

/// `clone3` has one number everywhere. Its flags are behind a pointer, so it is said not to exist.
const CLONE3: u32 = 435;
/// The flags of `clone` that make a namespace.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
const AF_ALG: u32 = 38;
const AF_VSOCK: u32 = 40;
/// The personalities that programs ask for: Linux, Linux32, each with and without the short uname, and "tell me".
const PERSONALITIES: [u32; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

const LOAD_WORD: u16 = 0x20;
const RETURN: u16 = 0x06;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_NOT_LESS: u16 = 0x35;
const JUMP_IF_ANY_BIT: u16 = 0x45;
const JUMP: u16 = 0x05;

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
/// The low half of the first argument. The kernel looks at no more of it in any call that is checked here.
const OFFSET_FIRST_ARGUMENT: u32 = 16;

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const EPERM: u32 = ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = ERRNO | libc::ENOSYS as u32;

fn compile(abis: &[Abi]) -> Vec<Instruction> {
    let mut code = vec![load(OFFSET_ARCH)];
    for abi in abis {
        let body = body(abi);
        // A body is too long for a conditional jump, so a plain one leaps over it.
        code.push(branch(JUMP_IF_EQUAL, abi.audit_arch, 1, 0));
        code.push(Instruction { code: JUMP, if_true: 0, if_false: 0, value: body.len() as u32 });
        code.extend(body);
    }
    // An ABI that the list has no numbers for: its calls do not exist, but nobody is killed.
    code.push(answer(ENOSYS));
    code
}

fn body(abi: &Abi) -> Vec<Instruction> {
    let mut code = vec![load(OFFSET_NUMBER)];
    code.extend(checked_call(CLONE3, vec![answer(ENOSYS)]));
    code.extend(checked_call(
        abi.clone,
        vec![branch(JUMP_IF_ANY_BIT, NEW_NAMESPACES, 0, 1), answer(EPERM), answer(ALLOW)],
    ));
    let family = vec![
        branch(JUMP_IF_EQUAL, AF_ALG, 1, 0),
        branch(JUMP_IF_EQUAL, AF_VSOCK, 0, 1),
        answer(EPERM),
        answer(ALLOW),
    ];
    code.extend(checked_call(abi.socket, family));
    let mut personality = Vec::new();
    for known in PERSONALITIES {
        personality.extend([branch(JUMP_IF_EQUAL, known, 0, 1), answer(ALLOW)]);
    }
    personality.push(answer(EPERM));
    code.extend(checked_call(abi.personality, personality));
    for (first, last) in ranges(abi) {
        // Ranges ascend: a number up to the last is in this range or in the gap before it.
        code.push(branch(JUMP_IF_GREATER, last, 3, 0));
        code.push(branch(JUMP_IF_NOT_LESS, first, 0, 1));
        code.push(answer(ALLOW));
        code.push(answer(EPERM));
    }
    // x32's numbers begin at 2^30 and end here as well.
    code.push(branch(JUMP_IF_GREATER, NEWEST_KNOWN, 0, 1));
    code.push(answer(ENOSYS));
    code.push(answer(EPERM));
    code
}

/// `rule` for the call `number`, applied to its first argument; every path of it must end in an answer.
fn checked_call(number: u32, rule: Vec<Instruction>) -> Vec<Instruction> {
    let mut code =
        vec![branch(JUMP_IF_EQUAL, number, 0, (rule.len() + 1) as u8), load(OFFSET_FIRST_ARGUMENT)];
    code.extend(rule);
    code
}

/// The allowed numbers as ascending ranges, both ends included.
fn ranges(abi: &Abi) -> Vec<(u32, u32)> {
    let mut numbers: Vec<u32> =
        ALLOWED.iter().map(abi.number).filter(|&number| number != NONE).map(|number| number as u32).collect();
    numbers.sort_unstable();
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if number <= *last + 1 => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD_WORD, if_true: 0, if_false: 0, value: offset }
}

fn branch(code: u16, value: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code, if_true, if_false, value }
}

fn answer(value: u32) -> Instruction {
    Instruction { code: RETURN, if_true: 0, if_false: 0, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a filter answers to a call, by interpreting it.
    fn answer_of(filter: &[Instruction], arch: u32, number: u32, argument: u32) -> u32 {
        let (mut at, mut word) = (0, 0);
        loop {
            let Instruction { code, if_true, if_false, value } = filter[at];
            at += 1;
            let holds = match code {
                LOAD_WORD => {
                    word = [number, arch, 0, 0, argument][value as usize / 4];
                    continue;
                }
                JUMP => {
                    at += value as usize;
                    continue;
                }
                RETURN => return value,
                JUMP_IF_EQUAL => word == value,
                JUMP_IF_GREATER => word > value,
                JUMP_IF_NOT_LESS => word >= value,
                JUMP_IF_ANY_BIT => word & value != 0,
                _ => panic!("unknown instruction {code:#x}"),
            };
            at += usize::from(if holds { if_true } else { if_false });
        }
    }

    fn check(abi: &Abi, number: u32, argument: u32, expect: u32) {
        let filter = compile(&[X86_64, I386, AARCH64]);
        assert_eq!(
            answer_of(&filter, abi.audit_arch, number, argument),
            expect,
            "call {number} ({argument:#x})"
        );
    }

    #[test]
    fn every_call_of_the_table_is_allowed_and_no_other() {
        let filter = compile(&[X86_64, I386, AARCH64]);
        for abi in [X86_64, I386, AARCH64] {
            let checked = [abi.socket, abi.personality, abi.clone, CLONE3];
            for number in (0..=NEWEST_KNOWN).filter(|number| !checked.contains(number)) {
                let listed = ALLOWED.iter().any(|call| (abi.number)(call) == number as i32);
                let expect = if listed { ALLOW } else { EPERM };
                assert_eq!(
                    answer_of(&filter, abi.audit_arch, number, 0),
                    expect,
                    "{:#x} {number}",
                    abi.audit_arch
                );
            }
        }
    }

    #[test]
    fn sockets_of_two_families_are_refused() {
        for (family, expect) in
            [(0, ALLOW), (2, ALLOW), (37, ALLOW), (38, EPERM), (39, ALLOW), (40, EPERM), (41, ALLOW)]
        {
            check(&X86_64, 41, family, expect);
            check(&I386, 359, family, expect);
        }
    }

    #[test]
    fn a_clone_that_makes_a_namespace_is_refused_and_clone3_does_not_exist() {
        check(&X86_64, 56, 0x0120_0011, ALLOW);
        check(&X86_64, 56, 0x1000_0011, EPERM);
        check(&I386, 120, 0x0002_0011, EPERM);
        check(&X86_64, CLONE3, 0, ENOSYS);
    }

    #[test]
    fn only_the_usual_personalities_can_be_taken() {
        for (personality, expect) in
            [(0, ALLOW), (8, ALLOW), (0x2_0008, ALLOW), (0xffff_ffff, ALLOW), (0x40000, EPERM)]
        {
            check(&X86_64, 135, personality, expect);
        }
    }

    #[test]
    fn calls_that_are_newer_or_of_a_foreign_abi_do_not_exist() {
        check(&X86_64, 467, 0, ENOSYS);
        check(&X86_64, 0x4000_0000, 0, ENOSYS);
        check(&X86_64, 165, 0, EPERM);
        check(&X86_64, 425, 0, EPERM);
        let filter = compile(&[X86_64]);
        assert_eq!(answer_of(&filter, AUDIT_ARCH_I386, 1, 0), ENOSYS);
    }

    #[test]
    fn a_filter_fits_the_kernels_limit() {
        assert!(compile(&[X86_64, I386]).len() < 4096);
    }
}
