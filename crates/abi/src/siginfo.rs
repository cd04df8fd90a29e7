//! What travels with a signal, and what a program may do about it: sigaction(2), sigaltstack(2), `include/uapi/asm-generic/siginfo.h`.

use crate::{SigSet, Signal};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a `siginfo_t`.
pub const SIGINFO_LEN: usize = 128;

/// Values of `si_code`.
pub mod code {
    pub const SI_USER: i32 = 0;
    pub const SI_KERNEL: i32 = 0x80;
    pub const SI_QUEUE: i32 = -1;
    pub const SI_TIMER: i32 = -2;
    pub const SI_MESGQ: i32 = -3;
    pub const SI_ASYNCIO: i32 = -4;
    pub const SI_SIGIO: i32 = -5;
    pub const SI_TKILL: i32 = -6;
    pub const ILL_ILLOPN: i32 = 2;
    pub const FPE_INTDIV: i32 = 1;
    pub const SEGV_MAPERR: i32 = 1;
    pub const SEGV_ACCERR: i32 = 2;
    pub const BUS_ADRALN: i32 = 1;
    pub const BUS_ADRERR: i32 = 2;
    pub const TRAP_BRKPT: i32 = 1;
    pub const TRAP_TRACE: i32 = 2;
    pub const CLD_EXITED: i32 = 1;
    pub const CLD_KILLED: i32 = 2;
    pub const CLD_DUMPED: i32 = 3;
    pub const CLD_TRAPPED: i32 = 4;
    pub const CLD_STOPPED: i32 = 5;
    pub const CLD_CONTINUED: i32 = 6;
    pub const POLL_IN: i32 = 1;
    pub const POLL_HUP: i32 = 6;
    pub const SYS_SECCOMP: i32 = 1;
}

/// What `si_code` selects of the union in `siginfo_t`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SigFields {
    /// All zero: the sender could not queue anything.
    None,
    /// kill(2), tgkill(2): who sent it.
    Kill { pid: i32, uid: u32 },
    /// sigqueue(3) and message queues.
    Queue { pid: i32, uid: u32, value: u64 },
    /// A POSIX timer.
    Timer { id: i32, overrun: i32, value: u64 },
    /// SIGCHLD. Times are clock ticks (1/100 s).
    Child { pid: i32, uid: u32, status: i32, user_ticks: i64, system_ticks: i64 },
    /// SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP: where.
    Fault { addr: u64 },
    /// SIGIO.
    Poll { band: i64, fd: i32 },
    /// SIGSYS.
    Sys { call_addr: u64, number: i32, arch: u32 },
    /// What rt_sigqueueinfo(2) was given: bytes 12.. of the structure.
    Raw([u8; SIGINFO_LEN - 12]),
}

/// A signal with what is known about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SigInfo {
    pub signal: Signal,
    pub errno: i32,
    pub code: i32,
    pub fields: SigFields,
}

impl SigInfo {
    /// From the kernel itself (`SEND_SIG_PRIV`).
    #[must_use]
    pub fn kernel(signal: Signal) -> SigInfo {
        SigInfo { signal, errno: 0, code: code::SI_KERNEL, fields: SigFields::None }
    }
    /// As kill(2) sends it.
    #[must_use]
    pub fn user(signal: Signal, pid: i32, uid: u32) -> SigInfo {
        SigInfo { signal, errno: 0, code: code::SI_USER, fields: SigFields::Kill { pid, uid } }
    }
    /// As tkill(2) and tgkill(2) send it.
    #[must_use]
    pub fn tkill(signal: Signal, pid: i32, uid: u32) -> SigInfo {
        SigInfo { code: code::SI_TKILL, ..SigInfo::user(signal, pid, uid) }
    }
    /// A fault at `addr`.
    #[must_use]
    pub fn fault(signal: Signal, code: i32, addr: u64) -> SigInfo {
        SigInfo { signal, errno: 0, code, fields: SigFields::Fault { addr } }
    }
    /// What is left when the information could not be queued: `SI_USER` from nobody.
    #[must_use]
    pub fn lost(signal: Signal) -> SigInfo {
        SigInfo { signal, errno: 0, code: code::SI_USER, fields: SigFields::Kill { pid: 0, uid: 0 } }
    }

    /// Whether a program sent it, so that it counts as sent by a user (`SI_FROMUSER`).
    #[must_use]
    pub fn is_from_user(&self) -> bool {
        self.code <= 0
    }

    /// A `siginfo_t` as a guest passed it, with the signal that its call names. The rest is kept as it is.
    #[must_use]
    pub fn from_bytes(signal: Signal, bytes: &[u8; SIGINFO_LEN]) -> SigInfo {
        let word = |at: usize| i32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut raw = [0; SIGINFO_LEN - 12];
        raw.copy_from_slice(&bytes[12..]);
        SigInfo { signal, errno: word(4), code: word(8), fields: SigFields::Raw(raw) }
    }

    /// The bytes of a `siginfo_t`.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; SIGINFO_LEN] {
        let mut bytes = [0; SIGINFO_LEN];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &self.signal.number().to_ne_bytes());
        put(4, &self.errno.to_ne_bytes());
        put(8, &self.code.to_ne_bytes());
        match self.fields {
            SigFields::None => {}
            SigFields::Kill { pid, uid } => {
                put(16, &pid.to_ne_bytes());
                put(20, &uid.to_ne_bytes());
            }
            SigFields::Queue { pid, uid, value } => {
                put(16, &pid.to_ne_bytes());
                put(20, &uid.to_ne_bytes());
                put(24, &value.to_ne_bytes());
            }
            SigFields::Timer { id, overrun, value } => {
                put(16, &id.to_ne_bytes());
                put(20, &overrun.to_ne_bytes());
                put(24, &value.to_ne_bytes());
            }
            SigFields::Child { pid, uid, status, user_ticks, system_ticks } => {
                put(16, &pid.to_ne_bytes());
                put(20, &uid.to_ne_bytes());
                put(24, &status.to_ne_bytes());
                put(32, &user_ticks.to_ne_bytes());
                put(40, &system_ticks.to_ne_bytes());
            }
            SigFields::Fault { addr } => put(16, &addr.to_ne_bytes()),
            SigFields::Poll { band, fd } => {
                put(16, &band.to_ne_bytes());
                put(24, &fd.to_ne_bytes());
            }
            SigFields::Sys { call_addr, number, arch } => {
                put(16, &call_addr.to_ne_bytes());
                put(24, &number.to_ne_bytes());
                put(28, &arch.to_ne_bytes());
            }
            SigFields::Raw(raw) => put(12, &raw),
        }
        bytes
    }
}

bitflags::bitflags! {
    /// Flags of sigaction(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct SaFlags: u64 {
        const NOCLDSTOP = 1;
        const NOCLDWAIT = 2;
        const SIGINFO = 4;
        const UNSUPPORTED = 0x400;
        const EXPOSE_TAGBITS = 0x800;
        const RESTORER = 0x0400_0000;
        const ONSTACK = 0x0800_0000;
        const RESTART = 0x1000_0000;
        const NODEFER = 0x4000_0000;
        const RESETHAND = 0x8000_0000;
    }
}

/// `SIG_DFL`.
pub const SIG_DFL: u64 = 0;
/// `SIG_IGN`.
pub const SIG_IGN: u64 = 1;

/// `struct sigaction` as rt_sigaction(2) passes it on x86-64.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SigAction {
    /// `SIG_DFL`, `SIG_IGN`, or the handler's address.
    pub handler: u64,
    /// [`SaFlags`].
    pub flags: u64,
    /// Where the handler returns to (`SA_RESTORER`).
    pub restorer: u64,
    /// Signals blocked while the handler runs.
    pub mask: u64,
}

impl SigAction {
    /// Its flags, unknown bits dropped.
    #[must_use]
    pub fn flags(&self) -> SaFlags {
        SaFlags::from_bits_truncate(self.flags)
    }
    /// Signals blocked while the handler runs.
    #[must_use]
    pub fn mask(&self) -> SigSet {
        SigSet(self.mask)
    }
}

/// No alternate stack is set.
pub const SS_DISABLE: u32 = 2;
/// The thread runs on it.
pub const SS_ONSTACK: u32 = 1;
/// Forget it while a handler runs on it.
pub const SS_AUTODISARM: u32 = 1 << 31;

/// `stack_t` of sigaltstack(2).
///
/// The default is what a thread begins with: no stack (`size` 0), and flags 0, as signal frames on Linux show it.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AltStack {
    pub sp: u64,
    pub flags: u32,
    pub padding: u32,
    pub size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_s_information_lies_where_the_headers_say() {
        let fields = SigFields::Child { pid: 5, uid: 6, status: 7, user_ticks: 8, system_ticks: 9 };
        let bytes = SigInfo { signal: Signal::SIGCHLD, errno: 0, code: code::CLD_EXITED, fields }.to_bytes();
        assert_eq!(&bytes[..12], &[17, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!((bytes[16], bytes[20], bytes[24], bytes[32], bytes[40]), (5, 6, 7, 8, 9));
    }

    #[test]
    fn what_a_guest_queues_comes_out_as_it_went_in() {
        let mut bytes = [0xabu8; SIGINFO_LEN];
        bytes[..12].copy_from_slice(&[34, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        let info = SigInfo::from_bytes(Signal::new(34).unwrap(), &bytes);
        assert_eq!(info.code, code::SI_QUEUE);
        assert_eq!(info.to_bytes(), bytes);
    }
}
