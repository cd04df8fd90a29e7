//! The two filters: what the host lets a thread of a stub do by itself.
//!
//! A range of instruction addresses is no wall, since guest code can jump to any `syscall` instruction of the stub. So each is known by its exact
//! address, and may do one thing with exact arguments. All else stops: as a notification where the cheap hand-over serves, as SIGSYS (which
//! enters the handler with all registers) where the kernel needs them, and for whatever a Linux without it would not know: `int 0x80`, x32,
//! vsyscall, number -1.
//!
//! Source: seccomp(2), seccomp_unotify(2); the design's section 3.

use super::code::Addresses;
use super::layout as l;
use abi::raw::general as nr;

/// One classic BPF instruction, `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub if_true: u8,
    pub if_false: u8,
    pub k: u32,
}

const RET_TRAP: u32 = 0x0003_0000;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const X32_BIT: u32 = 0x4000_0000;

// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const IP_LOW: u32 = 8;
const IP_HIGH: u32 = 12;
const fn arg_low(n: u32) -> u32 {
    16 + 8 * n
}
const fn arg_high(n: u32) -> u32 {
    20 + 8 * n
}

/// Calls for which the kernel needs all registers.
pub const NEED_REGISTERS: [u32; 14] = [
    nr::__NR_clone,
    nr::__NR_fork,
    nr::__NR_vfork,
    nr::__NR_clone3,
    nr::__NR_execve,
    nr::__NR_execveat,
    nr::__NR_rt_sigreturn,
    nr::__NR_arch_prctl,
    nr::__NR_exit,
    nr::__NR_exit_group,
    nr::__NR_kill,
    nr::__NR_tkill,
    nr::__NR_tgkill,
    nr::__NR_restart_syscall,
];

fn load(offset: u32) -> Instruction {
    Instruction { code: 0x20, if_true: 0, if_false: 0, k: offset }
}
fn answer(value: u32) -> Instruction {
    Instruction { code: 0x06, if_true: 0, if_false: 0, k: value }
}
fn jump_equal(k: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code: 0x15, if_true, if_false, k }
}
fn jump_greater_equal(k: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code: 0x35, if_true, if_false, k }
}

/// `body` if the low half of the instruction address, which is loaded, is that of `ip`; goes on behind it otherwise.
fn at(ip: u64, body: Vec<Instruction>) -> Vec<Instruction> {
    let mut code = vec![jump_equal(ip as u32, 0, body.len() as u8)];
    code.extend(body);
    code
}

/// Allows the call if each word at an offset is what it should be, else traps.
fn exactly(conditions: &[(u32, u32)]) -> Vec<Instruction> {
    let mut code = Vec::new();
    for (i, (offset, value)) in conditions.iter().enumerate() {
        let behind = 2 * (conditions.len() - 1 - i) + 1;
        code.push(load(*offset));
        code.push(jump_equal(*value, 0, behind as u8));
    }
    code.push(answer(RET_ALLOW));
    code.push(answer(RET_TRAP));
    code
}

/// The filter of guest threads.
pub fn guest(ip: &Addresses) -> Vec<Instruction> {
    let mask = l::CONST + l::GUEST_MASK as u64;
    let mut stub = vec![load(IP_LOW)];
    stub.extend(at(ip.trap, vec![answer(RET_USER_NOTIF)]));
    stub.extend(at(ip.sigreturn, exactly(&[(NUMBER, nr::__NR_rt_sigreturn)])));
    stub.extend(at(
        ip.mask,
        exactly(&[
            (NUMBER, nr::__NR_rt_sigprocmask),
            (arg_low(0), 2),
            (arg_low(1), mask as u32),
            (arg_high(1), (mask >> 32) as u32),
            (arg_low(2), 0),
            (arg_high(2), 0),
        ]),
    ));
    stub.extend(at(ip.birth, vec![answer(RET_USER_NOTIF)]));
    stub.push(answer(RET_TRAP));

    // vsyscall's page has all ones in its high word.
    let mut code = vec![
        load(ARCH),
        jump_equal(AUDIT_ARCH_X86_64, 1, 0),
        answer(RET_TRAP),
        load(IP_HIGH),
        jump_equal(u32::MAX, 0, 1),
        answer(RET_TRAP),
    ];
    let mut ordinary = vec![load(NUMBER), jump_greater_equal(X32_BIT, 0, 1), answer(RET_TRAP)];
    for (i, number) in NEED_REGISTERS.iter().enumerate() {
        ordinary.push(jump_equal(*number, (NEED_REGISTERS.len() - i) as u8, 0));
    }
    ordinary.push(answer(RET_USER_NOTIF));
    ordinary.push(answer(RET_TRAP));
    code.push(jump_equal(l::HIGH_WORD, ordinary.len() as u8, 0));
    code.extend(ordinary);
    code.extend(stub);
    code
}

/// The filter of the command thread: notifications, unmapping, changing rights, and mapping of guest RAM and nothing else.
pub fn command(ip: &Addresses) -> Vec<Instruction> {
    let mut code = vec![
        load(ARCH),
        jump_equal(AUDIT_ARCH_X86_64, 1, 0),
        answer(RET_TRAP),
        load(IP_HIGH),
        jump_equal(l::HIGH_WORD, 1, 0),
        answer(RET_TRAP),
        load(IP_LOW),
    ];
    code.extend(at(ip.done, vec![answer(RET_USER_NOTIF)]));
    code.extend(at(
        ip.command,
        vec![
            load(NUMBER),
            jump_equal(nr::__NR_munmap, 4, 0),
            jump_equal(nr::__NR_mprotect, 3, 0),
            jump_equal(nr::__NR_mmap, 0, 3),
            load(arg_low(4)),
            jump_equal(l::FD_RAM as u32, 0, 1),
            answer(RET_ALLOW),
            answer(RET_TRAP),
        ],
    ));
    code.push(answer(RET_TRAP));
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: Addresses = Addresses {
        handler: 0,
        restorer: 0,
        trap: l::CODE + 0x20,
        sigreturn: l::CODE + 0x40,
        mask: l::CODE + 0x60,
        birth: l::CODE + 0x80,
        done: l::CODE + 0xa0,
        command: l::CODE + 0xc0,
    };

    /// Runs a filter as the host would.
    fn run(code: &[Instruction], number: u32, arch: u32, ip: u64, args: [u64; 6]) -> u32 {
        let word = |offset: u32| match offset {
            NUMBER => number,
            ARCH => arch,
            IP_LOW => ip as u32,
            IP_HIGH => (ip >> 32) as u32,
            _ => (args[(offset as usize - 16) / 8] >> (8 * (offset % 8))) as u32,
        };
        let (mut pc, mut a) = (0, 0);
        loop {
            let i = code[pc];
            pc += 1;
            match i.code {
                0x20 => a = word(i.k),
                0x06 => return i.k,
                0x15 => pc += usize::from(if a == i.k { i.if_true } else { i.if_false }),
                0x35 => pc += usize::from(if a >= i.k { i.if_true } else { i.if_false }),
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    fn guest_answer(number: u32, ip: u64, args: [u64; 6]) -> u32 {
        run(&guest(&IP), number, AUDIT_ARCH_X86_64, ip, args)
    }

    #[test]
    fn ordinary_calls_of_guest_code_are_notified_and_those_that_need_registers_trap() {
        for number in 0..500 {
            let want = if NEED_REGISTERS.contains(&number) { RET_TRAP } else { RET_USER_NOTIF };
            assert_eq!(guest_answer(number, 0x40_1000, [7; 6]), want, "call {number}");
            assert_eq!(guest_answer(number, l::BASE - 2, [7; 6]), want, "call {number} just below the stub");
        }
    }

    #[test]
    fn what_a_linux_without_it_would_not_know_traps() {
        assert_eq!(run(&guest(&IP), 20, 0x4000_0003, 0x40_1000, [0; 6]), RET_TRAP, "int 0x80");
        assert_eq!(guest_answer(X32_BIT | 39, 0x40_1000, [0; 6]), RET_TRAP, "x32");
        assert_eq!(guest_answer(u32::MAX, 0x40_1000, [0; 6]), RET_TRAP, "number -1");
        assert_eq!(guest_answer(96, 0xffff_ffff_ff60_0002, [0; 6]), RET_TRAP, "vsyscall");
    }

    #[test]
    fn no_address_in_the_stub_lets_guest_code_do_anything_but_its_one_thing() {
        let mask = l::CONST + l::GUEST_MASK as u64;
        for offset in 0..l::CODE_LEN as u64 {
            let ip = l::CODE + offset;
            for number in (0..450).chain([0xf01, 0xf02, 0xf03]) {
                let got = guest_answer(number, ip, [2, mask, 0, 8, 0, 0]);
                let want = match ip {
                    _ if ip == IP.trap || ip == IP.birth => RET_USER_NOTIF,
                    _ if ip == IP.sigreturn && number == nr::__NR_rt_sigreturn => RET_ALLOW,
                    _ if ip == IP.mask && number == nr::__NR_rt_sigprocmask => RET_ALLOW,
                    _ => RET_TRAP,
                };
                assert_eq!(got, want, "call {number} at {ip:#x}");
            }
        }
        for args in [
            [1, mask, 0, 8, 0, 0],
            [2, mask + 8, 0, 8, 0, 0],
            [2, mask ^ 1 << 40, 0, 8, 0, 0],
            [2, mask, 1, 8, 0, 0],
            [2, mask, 1 << 32, 8, 0, 0],
        ] {
            assert_eq!(guest_answer(nr::__NR_rt_sigprocmask, IP.mask, args), RET_TRAP);
        }
    }

    #[test]
    fn the_command_thread_maps_guest_ram_and_nothing_else() {
        let answer = |number, ip, args| run(&command(&IP), number, AUDIT_ARCH_X86_64, ip, args);
        assert_eq!(answer(nr::__NR_mmap, IP.command, [0, 0, 0, 0, l::FD_RAM as u64, 0]), RET_ALLOW);
        assert_eq!(answer(nr::__NR_mmap, IP.command, [0, 0, 0, 0, l::FD_SOCKET as u64, 0]), RET_TRAP);
        assert_eq!(answer(nr::__NR_mmap, IP.command, [0, 0, 0, 0, u64::MAX, 0]), RET_TRAP);
        for number in 0..450 {
            let allowed = [nr::__NR_munmap, nr::__NR_mprotect].contains(&number);
            assert_eq!(answer(number, IP.command, [0, 0, 0, 0, 5, 0]), if allowed { RET_ALLOW } else { RET_TRAP });
            assert_eq!(answer(number, IP.trap, [0; 6]), RET_TRAP);
            assert_eq!(answer(number, 0x40_1000, [0; 6]), RET_TRAP);
        }
    }
}
