//! The two filters: what the host lets a thread of a stub do by itself.
//!
//! A range of instruction addresses is no wall, since guest code can jump to any `syscall` instruction of the stub. So each is known by its exact
//! address, and may do one thing with exact arguments. All else stops: as a notification where the cheap hand-over serves, as SIGSYS (which
//! enters the handler with all registers) where the kernel needs them, and for whatever a Linux without it would not know: `int 0x80`, x32,
//! vsyscall, number -1.
//!
//! Two things change with the host. Without notifications every call of a guest traps, and each thread has a filter of its own that knows its
//! socket ([`guest_with_socket`]). And where a sandbox around us has a filter too, the host takes the strictest answer of all filters: an error of
//! that one comes before a notification of ours, but after a trap. So there only calls that no sandbox forbids are notified ([`Around::Sandbox`]).
//!
//! Source: seccomp(2), seccomp_unotify(2); the design's section 3.

use super::code::Addresses;
use super::layout as l;
use crate::holes::{self, Hole};
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

/// Calls that are frequent, and that every sandbox allows which lets a program run at all.
const FREQUENT: [u32; 46] = [
    nr::__NR_read,
    nr::__NR_write,
    nr::__NR_readv,
    nr::__NR_writev,
    nr::__NR_pread64,
    nr::__NR_pwrite64,
    nr::__NR_open,
    nr::__NR_openat,
    nr::__NR_close,
    nr::__NR_stat,
    nr::__NR_fstat,
    nr::__NR_lstat,
    nr::__NR_newfstatat,
    nr::__NR_statx,
    nr::__NR_access,
    nr::__NR_lseek,
    nr::__NR_fcntl,
    nr::__NR_dup,
    nr::__NR_dup2,
    nr::__NR_pipe,
    nr::__NR_pipe2,
    nr::__NR_poll,
    nr::__NR_select,
    nr::__NR_getdents64,
    nr::__NR_readlink,
    nr::__NR_mmap,
    nr::__NR_munmap,
    nr::__NR_mprotect,
    nr::__NR_madvise,
    nr::__NR_brk,
    nr::__NR_rt_sigaction,
    nr::__NR_rt_sigprocmask,
    nr::__NR_futex,
    nr::__NR_sched_yield,
    nr::__NR_nanosleep,
    nr::__NR_clock_nanosleep,
    nr::__NR_clock_gettime,
    nr::__NR_getpid,
    nr::__NR_getppid,
    nr::__NR_gettid,
    nr::__NR_getuid,
    nr::__NR_wait4,
    nr::__NR_epoll_wait,
    nr::__NR_epoll_ctl,
    nr::__NR_sendto,
    nr::__NR_recvfrom,
];

/// What filters there are around ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Around {
    Nothing,
    Sandbox,
}

/// What the filter of one guest thread knows in the hand-over by signals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketOf {
    /// The thread's descriptor in the stub.
    pub descriptor: i32,
    /// First byte of its slot.
    pub slot: u64,
    /// Where its signal frame is; `None` while that is not known yet, for a thread that never runs guest code.
    pub frame: Option<u64>,
}

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

/// The conditions for an argument to be this address.
fn address(n: u32, value: u64) -> [(u32, u32); 2] {
    [(arg_low(n), value as u32), (arg_high(n), (value >> 32) as u32)]
}

/// What both kinds of guest threads may do besides reporting: go back to guest code, and unblock the signals of the hand-over at birth.
fn sigreturn_and_mask(ip: &Addresses) -> Vec<Instruction> {
    if holes::open(Hole::AddressRange) {
        return vec![answer(RET_ALLOW)];
    }
    let mut code = at(ip.sigreturn, exactly(&[(NUMBER, nr::__NR_rt_sigreturn)]));
    if holes::open(Hole::SetUpAddress) {
        code.extend(at(ip.mask, vec![answer(RET_ALLOW)]));
    }
    let mut mask = vec![(NUMBER, nr::__NR_rt_sigprocmask), (arg_low(0), 2)];
    mask.extend(address(1, l::CONST + l::GUEST_MASK as u64));
    mask.extend(address(2, 0));
    code.extend(at(ip.mask, exactly(&mask)));
    code
}

/// The filter of guest threads.
pub fn guest(ip: &Addresses, around: Around) -> Vec<Instruction> {
    let mut stub = vec![load(IP_LOW)];
    stub.extend(at(ip.trap, vec![answer(RET_USER_NOTIF)]));
    stub.extend(at(ip.birth, vec![answer(RET_USER_NOTIF)]));
    stub.extend(sigreturn_and_mask(ip));
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
    let (listed, others, numbers) = match around {
        // What the handler can answer alone goes to the handler.
        Around::Nothing => (RET_TRAP, RET_USER_NOTIF, [&NEED_REGISTERS[..], &l::ANSWERED_ALONE].concat()),
        Around::Sandbox => (RET_USER_NOTIF, RET_TRAP, FREQUENT.to_vec()),
    };
    for (i, number) in numbers.iter().enumerate() {
        ordinary.push(jump_equal(*number, (numbers.len() - i) as u8, 0));
    }
    ordinary.push(answer(others));
    ordinary.push(answer(listed));
    code.push(jump_equal(l::HIGH_WORD, ordinary.len() as u8, 0));
    code.extend(ordinary);
    code.extend(stub);
    code
}

/// The filter of one guest thread in the hand-over by signals: it may report over its own socket and wait there, with its own addresses.
pub fn guest_with_socket(ip: &Addresses, of: SocketOf) -> Vec<Instruction> {
    let report = of.slot + l::SLOT_REPORT as u64;
    let mut send = vec![
        (NUMBER, nr::__NR_sendto),
        (arg_low(0), of.descriptor as u32),
        (arg_low(2), l::REPORT_LEN as u32),
        (arg_high(2), 0),
        (arg_low(3), libc::MSG_NOSIGNAL as u32),
    ];
    send.extend(address(1, report));
    send.extend(address(4, 0));
    let mut receive = vec![
        (NUMBER, nr::__NR_recvfrom),
        (arg_low(0), of.descriptor as u32),
        (arg_low(2), l::WORD_LEN as u32),
        (arg_high(2), 0),
        (arg_low(3), 0),
    ];
    receive.extend(address(1, report));
    receive.extend(address(4, 0));
    // The host does not look at the sixth argument when there is no fifth. The handler goes back through the frame that it points to.
    receive.extend(of.frame.iter().flat_map(|frame| address(5, *frame)));

    let mut code = in_stub();
    code.extend(at(ip.birth, vec![answer(RET_TRAP)]));
    code.extend(sigreturn_and_mask(ip));
    code.extend(at(ip.send, exactly(&send)));
    code.extend(at(ip.receive, exactly(&receive)));
    code.push(answer(RET_TRAP));
    code
}

/// Traps whatever does not come from the stub's own range; leaves the low half of the instruction address loaded.
fn in_stub() -> Vec<Instruction> {
    vec![
        load(ARCH),
        jump_equal(AUDIT_ARCH_X86_64, 1, 0),
        answer(RET_TRAP),
        load(IP_HIGH),
        jump_equal(l::HIGH_WORD, 1, 0),
        answer(RET_TRAP),
        load(IP_LOW),
    ]
}

/// What the command thread may do besides telling that it is done.
fn commands(ip: &Addresses) -> Vec<Instruction> {
    at(
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
    )
}

/// The filter of the command thread: notifications, unmapping, changing rights, and mapping of guest RAM and nothing else.
pub fn command(ip: &Addresses) -> Vec<Instruction> {
    let mut code = in_stub();
    code.extend(at(ip.done, vec![answer(RET_USER_NOTIF)]));
    code.extend(commands(ip));
    code.push(answer(RET_TRAP));
    code
}

/// The same in the hand-over by signals: a socket, which only this thread may use, instead of notifications.
pub fn command_with_socket(ip: &Addresses) -> Vec<Instruction> {
    let mut send = vec![(NUMBER, nr::__NR_sendto), (arg_low(0), l::FD_LISTENER as u32)];
    send.extend(address(1, l::CONST + l::PAYLOAD as u64));
    send.extend(address(4, 0));
    let mut receive = vec![(NUMBER, nr::__NR_recvfrom), (arg_low(0), l::FD_LISTENER as u32)];
    receive.extend(address(2, 0));
    receive.extend(address(4, 0));
    let mut code = in_stub();
    code.extend(at(ip.command_send, exactly(&send)));
    code.extend(at(ip.command_receive, exactly(&receive)));
    code.extend(commands(ip));
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
        handler_socket: 0,
        send: l::CODE + 0xe0,
        receive: l::CODE + 0x100,
        command_send: l::CODE + 0x120,
        command_receive: l::CODE + 0x140,
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
        run(&guest(&IP, Around::Nothing), number, AUDIT_ARCH_X86_64, ip, args)
    }

    #[test]
    fn ordinary_calls_of_guest_code_are_notified_and_those_that_need_registers_trap() {
        for number in 0..500 {
            let traps = NEED_REGISTERS.contains(&number) || l::ANSWERED_ALONE.contains(&number);
            let want = if traps { RET_TRAP } else { RET_USER_NOTIF };
            assert_eq!(guest_answer(number, 0x40_1000, [7; 6]), want, "call {number}");
            assert_eq!(guest_answer(number, l::BASE - 2, [7; 6]), want, "call {number} just below the stub");
        }
    }

    #[test]
    fn what_a_linux_without_it_would_not_know_traps() {
        assert_eq!(run(&guest(&IP, Around::Nothing), 20, 0x4000_0003, 0x40_1000, [0; 6]), RET_TRAP, "int 0x80");
        assert_eq!(guest_answer(X32_BIT | 39, 0x40_1000, [0; 6]), RET_TRAP, "x32");
        assert_eq!(guest_answer(u32::MAX, 0x40_1000, [0; 6]), RET_TRAP, "number -1");
        assert_eq!(guest_answer(96, 0xffff_ffff_ff60_0002, [0; 6]), RET_TRAP, "vsyscall");
    }

    #[test]
    fn no_address_in_the_stub_lets_guest_code_do_anything_but_its_one_thing() {
        let mask = l::CONST + l::GUEST_MASK as u64;
        let code = guest(&IP, Around::Nothing);
        for offset in 0..l::CODE_LEN as u64 {
            let ip = l::CODE + offset;
            for number in (0..450).chain([0xf01, 0xf02, 0xf03]) {
                let got = run(&code, number, AUDIT_ARCH_X86_64, ip, [2, mask, 0, 8, 0, 0]);
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

    #[test]
    fn in_a_sandbox_only_frequent_calls_are_notified() {
        let code = guest(&IP, Around::Sandbox);
        for number in 0..500 {
            let want = if FREQUENT.contains(&number) { RET_USER_NOTIF } else { RET_TRAP };
            assert_eq!(run(&code, number, AUDIT_ARCH_X86_64, 0x40_1000, [7; 6]), want, "call {number}");
        }
        assert!(NEED_REGISTERS.iter().all(|number| !FREQUENT.contains(number)));
        assert_eq!(run(&code, 0, AUDIT_ARCH_X86_64, IP.trap, [0; 6]), RET_USER_NOTIF);
        assert_eq!(run(&code, 0, AUDIT_ARCH_X86_64, IP.trap + 2, [0; 6]), RET_TRAP);
    }

    #[test]
    fn a_thread_with_a_socket_may_use_that_socket_with_its_own_addresses_and_nothing_else() {
        let slot = l::SLOTS + 3 * l::SLOT_LEN as u64;
        let (report, frame) = (slot + l::SLOT_REPORT as u64, slot + 0xd000);
        let code = guest_with_socket(&IP, SocketOf { descriptor: 7, slot, frame: Some(frame) });
        assert!(code.len() * 8 <= l::COMMAND_LEN - l::THREAD_PROGRAM);
        let answer = |number, ip, args| run(&code, number, AUDIT_ARCH_X86_64, ip, args);
        let send = [7, report, 56, 0x4000, 0, 12345];
        let receive = [7, report, 8, 0, 0, frame];
        for number in 0..450 {
            assert_eq!(answer(number, 0x40_1000, send), RET_TRAP, "call {number} of guest code");
            for offset in 0..0x180 {
                let want_send = number == nr::__NR_sendto && l::CODE + offset == IP.send;
                let want_receive = number == nr::__NR_recvfrom && l::CODE + offset == IP.receive;
                let other = number == nr::__NR_rt_sigreturn && l::CODE + offset == IP.sigreturn;
                assert_eq!(answer(number, l::CODE + offset, send) == RET_ALLOW, want_send || other);
                assert_eq!(answer(number, l::CODE + offset, receive) == RET_ALLOW, want_receive || other);
            }
        }
        for i in 0..6 {
            for flip in [1, 1 << 40] {
                let (mut other_send, mut other_receive) = (send, receive);
                other_send[i] ^= flip;
                other_receive[i] ^= flip;
                // Descriptor and flags are 32 bits to the host.
                let ignored = matches!(i, 0 | 3) && flip > u64::from(u32::MAX);
                assert_eq!(answer(nr::__NR_sendto, IP.send, other_send) == RET_ALLOW, ignored || i == 5, "{i} {flip}");
                assert_eq!(answer(nr::__NR_recvfrom, IP.receive, other_receive) == RET_ALLOW, ignored, "{i} {flip}");
            }
        }
    }

    #[test]
    fn the_command_thread_with_a_socket_uses_no_other() {
        let answer = |number, ip, args| run(&command_with_socket(&IP), number, AUDIT_ARCH_X86_64, ip, args);
        let payload = l::CONST + l::PAYLOAD as u64;
        assert_eq!(answer(nr::__NR_sendto, IP.command_send, [3, payload, 2, 0, 0, 0]), RET_ALLOW);
        assert_eq!(answer(nr::__NR_sendto, IP.command_send, [4, payload, 2, 0, 0, 0]), RET_TRAP);
        assert_eq!(answer(nr::__NR_sendto, IP.command_send, [3, payload + 8, 2, 0, 0, 0]), RET_TRAP);
        assert_eq!(answer(nr::__NR_recvfrom, IP.command_receive, [3, 0, 0, 0x20, 0, 0]), RET_ALLOW);
        assert_eq!(answer(nr::__NR_recvfrom, IP.command_receive, [3, 0, 8, 0x20, 0, 0]), RET_TRAP);
        assert_eq!(answer(nr::__NR_mmap, IP.command, [0, 0, 0, 0, l::FD_RAM as u64, 0]), RET_ALLOW);
        assert_eq!(answer(nr::__NR_mmap, IP.command, [0, 0, 0, 0, l::FD_CONTROL as u64, 0]), RET_TRAP);
    }
}
