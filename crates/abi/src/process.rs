//! Making processes and waiting for them: clone(2), wait(2), prctl(2)'s neighbours.

use crate::{Errno, Signal};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

bitflags::bitflags! {
    /// What a new task shares with its maker (`CLONE_*`), without the exit signal in the low byte of clone(2)'s argument.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct CloneFlags: u64 {
        const NEWTIME = 0x80;
        const VM = 0x100;
        const FS = 0x200;
        const FILES = 0x400;
        const SIGHAND = 0x800;
        const PIDFD = 0x1000;
        const PTRACE = 0x2000;
        const VFORK = 0x4000;
        const PARENT = 0x8000;
        const THREAD = 0x1_0000;
        const NEWNS = 0x2_0000;
        const SYSVSEM = 0x4_0000;
        const SETTLS = 0x8_0000;
        const PARENT_SETTID = 0x10_0000;
        const CHILD_CLEARTID = 0x20_0000;
        const DETACHED = 0x40_0000;
        const UNTRACED = 0x80_0000;
        const CHILD_SETTID = 0x100_0000;
        const NEWCGROUP = 0x200_0000;
        const NEWUTS = 0x400_0000;
        const NEWIPC = 0x800_0000;
        const NEWUSER = 0x1000_0000;
        const NEWPID = 0x2000_0000;
        const NEWNET = 0x4000_0000;
        const IO = 0x8000_0000;
        const CLEAR_SIGHAND = 0x1_0000_0000;
        const INTO_CGROUP = 0x2_0000_0000;
    }
}

impl CloneFlags {
    /// The flags that ask for a new namespace.
    pub const NAMESPACES: CloneFlags = CloneFlags::NEWNS
        .union(CloneFlags::NEWCGROUP)
        .union(CloneFlags::NEWUTS)
        .union(CloneFlags::NEWIPC)
        .union(CloneFlags::NEWUSER)
        .union(CloneFlags::NEWPID)
        .union(CloneFlags::NEWNET)
        .union(CloneFlags::NEWTIME);
}

/// `struct clone_args` of clone3(2).
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CloneArgs {
    pub flags: u64,
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
    pub exit_signal: u64,
    pub stack: u64,
    pub stack_size: u64,
    pub tls: u64,
    pub set_tid: u64,
    pub set_tid_size: u64,
    pub cgroup: u64,
}

/// Size of the first published [`CloneArgs`]; a smaller one is EINVAL.
pub const CLONE_ARGS_SIZE_VER0: usize = 64;

bitflags::bitflags! {
    /// Options of wait4(2) and waitid(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct WaitOptions: u32 {
        const NOHANG = 1;
        /// `WUNTRACED`, `WSTOPPED`.
        const STOPPED = 2;
        const EXITED = 4;
        const CONTINUED = 8;
        const NOWAIT = 0x0100_0000;
        const NOTHREAD = 0x2000_0000;
        const ALL = 0x4000_0000;
        const CLONE = 0x8000_0000;
    }
}

/// What a process did, as wait(2) encodes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitStatus {
    /// `exit(code)`; the low 8 bits count.
    Exited(u8),
    /// Killed by a signal, and whether a core file was written.
    Killed(Signal, bool),
    /// Stopped by a signal.
    Stopped(Signal),
    /// Stopped for its tracer, ptrace(2): the signal, 0x80 and the event, as wait(2) shows them.
    Traced(i32),
    /// Continued by SIGCONT.
    Continued,
}

impl WaitStatus {
    /// The number that wait4(2) stores.
    #[must_use]
    pub fn encode(self) -> i32 {
        match self {
            WaitStatus::Exited(code) => i32::from(code) << 8,
            WaitStatus::Killed(signal, core) => signal.number() | if core { 0x80 } else { 0 },
            WaitStatus::Stopped(signal) => (signal.number() << 8) | 0x7f,
            WaitStatus::Traced(report) => (report << 8) | 0x7f,
            WaitStatus::Continued => 0xffff,
        }
    }

    /// `si_code` and `si_status` of SIGCHLD and of waitid(2).
    #[must_use]
    pub fn child_code(self) -> (i32, i32) {
        use crate::siginfo::code;
        match self {
            WaitStatus::Exited(status) => (code::CLD_EXITED, i32::from(status)),
            WaitStatus::Killed(signal, false) => (code::CLD_KILLED, signal.number()),
            WaitStatus::Killed(signal, true) => (code::CLD_DUMPED, signal.number()),
            WaitStatus::Stopped(signal) => (code::CLD_STOPPED, signal.number()),
            WaitStatus::Traced(report) => (code::CLD_TRAPPED, report),
            WaitStatus::Continued => (code::CLD_CONTINUED, Signal::SIGCONT.number()),
        }
    }
}

/// Whom wait4(2) or waitid(2) waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitFor {
    Any,
    Process(i32),
    Group(i32),
}

impl WaitFor {
    /// wait4(2)'s first argument. `own_group` stands for 0.
    ///
    /// # Errors
    /// ESRCH for `i32::MIN`, which has no positive twin.
    pub fn from_wait4(pid: i32, own_group: i32) -> Result<WaitFor, Errno> {
        match pid {
            -1 => Ok(WaitFor::Any),
            0 => Ok(WaitFor::Group(own_group)),
            i32::MIN => Err(Errno::ESRCH),
            pid if pid < 0 => Ok(WaitFor::Group(-pid)),
            pid => Ok(WaitFor::Process(pid)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_are_the_numbers_that_the_macros_of_sys_wait_h_take_apart() {
        for (status, number, code) in [
            (WaitStatus::Exited(0), 0, (1, 0)),
            (WaitStatus::Exited(3), 0x300, (1, 3)),
            (WaitStatus::Killed(Signal::SIGKILL, false), 9, (2, 9)),
            (WaitStatus::Killed(Signal::SIGSEGV, true), 0x8b, (3, 11)),
            (WaitStatus::Stopped(Signal::SIGTSTP), 0x147f, (5, 20)),
            (WaitStatus::Continued, 0xffff, (6, 18)),
        ] {
            assert_eq!(status.encode(), number, "{status:?}");
            assert_eq!(status.child_code(), code, "{status:?}");
        }
    }

    #[test]
    fn the_argument_of_wait4_names_a_process_a_group_or_anybody() {
        assert_eq!(WaitFor::from_wait4(-1, 7), Ok(WaitFor::Any));
        assert_eq!(WaitFor::from_wait4(0, 7), Ok(WaitFor::Group(7)));
        assert_eq!(WaitFor::from_wait4(-9, 7), Ok(WaitFor::Group(9)));
        assert_eq!(WaitFor::from_wait4(9, 7), Ok(WaitFor::Process(9)));
        assert_eq!(WaitFor::from_wait4(i32::MIN, 7), Err(Errno::ESRCH));
    }
}
