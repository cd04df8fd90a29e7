//! Filters of system calls that guest programs put on themselves, seccomp(2). They have nothing to do with those that hold the guest in its stub.
//!
//! Always true: a filter is checked before it is attached and never changes; a thread runs all filters that it and its makers attached, the newest
//! first, and the strictest answer counts.

use crate::current::Current;
use crate::run::Outcome;
use abi::siginfo::code;
use abi::{Errno, SigFields, SigInfo, Signal, WaitStatus};
use net::bpf::{Ancillary, Instruction, Program};
use ram::Charge;
use std::sync::Arc;
use vfs::Capability;

/// `AUDIT_ARCH_X86_64`.
pub const ARCH: u32 = 0xc000_003e;
/// Bytes of `struct seccomp_data`.
const DATA_LEN: u32 = 64;
/// Instructions of all filters of a thread together, with four for each filter (`MAX_INSNS_PER_PATH`).
const PATH_MAX: usize = 32_768;

/// `SECCOMP_RET_*`: what a filter answers, in its upper half.
pub mod action {
    pub const KILL_PROCESS: u32 = 0x8000_0000;
    pub const KILL_THREAD: u32 = 0;
    pub const TRAP: u32 = 0x0003_0000;
    pub const ERRNO: u32 = 0x0005_0000;
    pub const USER_NOTIF: u32 = 0x7fc0_0000;
    pub const TRACE: u32 = 0x7ff0_0000;
    pub const LOG: u32 = 0x7ffc_0000;
    pub const ALLOW: u32 = 0x7fff_0000;
    /// The action, without its data.
    pub const MASK: u32 = 0xffff_0000;
}

/// How a thread's calls are restricted.
#[derive(Clone, Default)]
pub enum Mode {
    #[default]
    Off,
    /// read(2), write(2), exit(2) and rt_sigreturn(2), nothing else.
    Strict,
    Filtered(Arc<Filter>),
}

impl Mode {
    /// As prctl(PR_GET_SECCOMP) and `/proc/PID/status` tell it.
    #[must_use]
    pub fn number(&self) -> i32 {
        match self {
            Mode::Off => 0,
            Mode::Strict => 1,
            Mode::Filtered(_) => 2,
        }
    }
    /// How many filters there are.
    #[must_use]
    pub fn filters(&self) -> usize {
        if let Mode::Filtered(newest) = self { newest.chain().count() } else { 0 }
    }
}

/// One filter, and those that were there before it.
pub struct Filter {
    program: Program,
    before: Option<Arc<Filter>>,
    _charge: Charge,
}

impl Filter {
    fn chain(&self) -> impl Iterator<Item = &Filter> {
        std::iter::successors(Some(self), |filter| filter.before.as_deref())
    }
    /// The strictest answer of all, and what the newest of those gave with it.
    fn run(&self, data: &[u8]) -> u32 {
        let rank = |answer: u32| (answer & action::MASK) as i32;
        let mut strictest = action::ALLOW;
        for filter in self.chain() {
            let answer = filter.program.run(data, &Ancillary::default());
            if rank(answer) < rank(strictest) {
                strictest = answer;
            }
        }
        strictest
    }
}

/// Whether an instruction may stand in a filter: whole words of the data, no packet's.
fn is_allowed(instruction: &Instruction) -> bool {
    match (instruction.code & 7, instruction.code & 0xe0) {
        // Loads: a word of the data, a constant, a cell, the length of the data.
        (0, 0x20) => instruction.code == 0x20 && instruction.k.is_multiple_of(4) && instruction.k < DATA_LEN,
        (0 | 1, mode) => matches!(mode, 0 | 0x60 | 0x80),
        _ => true,
    }
}

/// `struct seccomp_data` with each 32-bit word in network order, since that is how the interpreter reads words.
fn data(number: u64, args: [u64; 6], ip: u64) -> [u8; DATA_LEN as usize] {
    let mut bytes = [0; DATA_LEN as usize];
    let halves = |value: u64| [value as u32, (value >> 32) as u32];
    let words = [number as u32, ARCH].into_iter().chain(halves(ip)).chain(args.into_iter().flat_map(halves));
    for (slot, word) in bytes.chunks_exact_mut(4).zip(words) {
        slot.copy_from_slice(&word.to_be_bytes());
    }
    bytes
}

impl Current {
    /// How this thread's calls are restricted.
    #[must_use]
    pub fn seccomp(&self) -> &Mode {
        &self.seccomp
    }

    fn set_seccomp(&mut self, mode: Mode) {
        *self.task().seccomp.lock() = mode.clone();
        self.seccomp = mode;
        // Filters see every call.
        self.system().platform.forget_answers();
    }

    /// `SECCOMP_SET_MODE_STRICT`.
    ///
    /// # Errors
    /// EINVAL when there are filters.
    pub fn seccomp_strict(&mut self) -> Result<(), Errno> {
        match self.seccomp {
            Mode::Filtered(_) => Err(Errno::EINVAL),
            _ => {
                self.set_seccomp(Mode::Strict);
                Ok(())
            }
        }
    }

    /// `SECCOMP_SET_MODE_FILTER`: adds a filter to this thread, or with `all` to every thread of the process.
    ///
    /// # Errors
    /// EACCES without no_new_privs and CAP_SYS_ADMIN, EINVAL for a program that is not one, ENOMEM when they are too long together; with `all`, the
    /// number of a thread whose filters are others.
    pub fn seccomp_filter(&mut self, instructions: Vec<Instruction>, all: bool) -> Result<i32, Errno> {
        if !self.credentials().no_new_privs && !self.credentials().has(Capability::SYS_ADMIN) {
            return Err(Errno::EACCES);
        }
        if !instructions.iter().all(is_allowed) {
            return Err(Errno::EINVAL);
        }
        let len = instructions.len();
        let program = Program::new(instructions)?;
        let before = match &self.seccomp {
            Mode::Off => None,
            Mode::Strict => return Err(Errno::EINVAL),
            Mode::Filtered(newest) => Some(newest.clone()),
        };
        let chained: usize = before.iter().flat_map(|f| f.chain()).map(|f| f.program.instructions().len() + 4).sum();
        if chained + len > PATH_MAX {
            return Err(Errno::ENOMEM);
        }
        let others: Vec<_> = self.process().threads().into_iter().filter(|t| !Arc::ptr_eq(t, self.task())).collect();
        if all {
            // Each must have what this thread has, or less of the same.
            let ours: Vec<*const Filter> = before.iter().flat_map(|f| f.chain()).map(std::ptr::from_ref).collect();
            for other in &others {
                let fits = match &*other.seccomp.lock() {
                    Mode::Off => true,
                    Mode::Strict => false,
                    Mode::Filtered(newest) => ours.contains(&Arc::as_ptr(newest)),
                };
                if !fits {
                    return Ok(other.tid());
                }
            }
        }
        let charge = self.system().ram.charge(size_of::<Filter>() + len * size_of::<Instruction>())?;
        let mode = Mode::Filtered(Arc::new(Filter { program, before, _charge: charge }));
        if all {
            for other in others {
                *other.seccomp.lock() = mode.clone();
                other.seccomp_changed.store(true, std::sync::atomic::Ordering::Release);
            }
        }
        self.set_seccomp(mode);
        Ok(0)
    }

    /// What the filters say of a call: `None` to run it.
    pub fn judge_call(&mut self, number: u64, args: [u64; 6], ip: u64) -> Option<Outcome> {
        if self.task().seccomp_changed.swap(false, std::sync::atomic::Ordering::Acquire) {
            let mode = self.task().seccomp.lock().clone();
            self.seccomp = mode;
        }
        let filter = match &self.seccomp {
            Mode::Off => return None,
            Mode::Strict => {
                // read, write, rt_sigreturn, exit
                if matches!(number, 0 | 1 | 15 | 60) {
                    return None;
                }
                self.end_by_filter(Signal::SIGKILL, false);
                return Some(Outcome::Registers);
            }
            Mode::Filtered(filter) => filter.clone(),
        };
        let answer = filter.run(&data(number, args, ip));
        let low = (answer & 0xffff) as i32;
        match answer & action::MASK {
            action::ALLOW => None,
            action::LOG => {
                self.system().hooks.log(&format!(
                    "seccomp: pid={} comm={} syscall={number} ip={ip:#x}",
                    self.pid(),
                    self.task().comm_text()
                ));
                None
            }
            action::ERRNO => {
                let errno = low.min(4095);
                Some(Outcome::Value(-i64::from(errno) as u64))
            }
            action::TRAP => {
                let fields = SigFields::Sys { call_addr: ip, number: number as i32, arch: ARCH };
                self.force(SigInfo { signal: Signal::SIGSYS, errno: low, code: code::SYS_SECCOMP, fields });
                Some(Outcome::Registers)
            }
            action::KILL_THREAD => {
                self.end_by_filter(Signal::SIGSYS, true);
                Some(Outcome::Registers)
            }
            // Nobody listens, and nobody traces by filters.
            action::USER_NOTIF | action::TRACE => Some(Outcome::Error(Errno::ENOSYS.into())),
            _ => {
                self.end_by_filter(Signal::SIGSYS, false);
                Some(Outcome::Registers)
            }
        }
    }

    /// Ends the process by a signal that nothing can catch; with `thread` only this thread, unless it is the last one.
    fn end_by_filter(&mut self, signal: Signal, thread: bool) {
        let status = WaitStatus::Killed(signal, false);
        if thread && self.process().signals().threads() > 1 {
            self.exiting = Some(status);
            return;
        }
        self.process().start_group_exit(status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(words: &[(u16, u8, u8, u32)]) -> Vec<Instruction> {
        words.iter().map(|&(code, jump_true, jump_false, k)| Instruction { code, jump_true, jump_false, k }).collect()
    }

    #[test]
    fn words_of_the_data_are_read_as_the_processor_has_them() {
        let bytes = data(39, [0x1_0000_0002, 0, 0, 0, 0, 7], 0x7fff_0000_1234);
        for (at, wanted) in [(0, 39), (4, ARCH), (8, 0x1234), (12, 0x7fff), (16, 2), (20, 1), (56, 7), (60, 0)] {
            let load = Program::new(program(&[(0x20, 0, 0, at), (0x16, 0, 0, 0)])).unwrap();
            let expected = if at == 8 { 0x0000_1234 } else { wanted };
            assert_eq!(load.run(&bytes, &Ancillary::default()), expected, "at {at}");
        }
    }

    #[test]
    fn only_whole_words_inside_the_data_are_loaded() {
        let ok = |code, k| is_allowed(&Instruction { code, jump_true: 0, jump_false: 0, k });
        assert!(ok(0x20, 0) && ok(0x20, 60) && ok(0x80, 0) && ok(0x00, 5) && ok(0x60, 1) && ok(0x15, 3));
        assert!(!ok(0x20, 64) && !ok(0x20, 2) && !ok(0x28, 0) && !ok(0x30, 0) && !ok(0x40, 0) && !ok(0xb1, 0));
    }
}
