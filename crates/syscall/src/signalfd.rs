//! signalfd(2): the caller's pending signals, as `fs::signalfd` wants them.

use crate::args::UserRef;
use abi::{Errno, SigFields, SigInfo, SigSet, SysResult};
use fs::signalfd::{SIGINFO_SIZE, SignalFd, SignalSource};
use std::sync::Arc;
use sync::WaitQueue;
use task::{Current, Process, current_task};
use vfs::{OnExec, OpenFlags};

/// The signals of whoever reads or polls; those of the maker for observers that belong to nobody.
struct CallersSignals {
    maker: Arc<Process>,
}

impl CallersSignals {
    /// The process and the thread that calls.
    fn caller(&self) -> (Arc<Process>, i32) {
        match current_task() {
            Some(task) => (task.process().clone(), task.tid()),
            None => (self.maker.clone(), self.maker.pid()),
        }
    }
}

impl SignalSource for CallersSignals {
    fn take(&self, mask: SigSet) -> Option<[u8; SIGINFO_SIZE]> {
        let (process, tid) = self.caller();
        let info = process.signals().dequeue(tid, mask)?;
        Some(signalfd_siginfo(&process.timers.deliver(info)))
    }
    fn is_pending(&self, mask: SigSet) -> bool {
        let (process, tid) = self.caller();
        let pending = process.signals().pending(tid);
        pending.0 & mask.0 != 0
    }
    fn queue(&self) -> Arc<WaitQueue> {
        self.caller().0.signal_arrived.clone()
    }
}

/// `struct signalfd_siginfo`.
fn signalfd_siginfo(info: &SigInfo) -> [u8; SIGINFO_SIZE] {
    let mut bytes = [0u8; SIGINFO_SIZE];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &info.signal.number().to_ne_bytes());
    put(4, &info.errno.to_ne_bytes());
    put(8, &info.code.to_ne_bytes());
    match info.fields {
        SigFields::None => {}
        SigFields::Kill { pid, uid } => {
            put(12, &pid.to_ne_bytes());
            put(16, &uid.to_ne_bytes());
        }
        SigFields::Queue { pid, uid, value } => {
            put(12, &pid.to_ne_bytes());
            put(16, &uid.to_ne_bytes());
            put(44, &(value as i32).to_ne_bytes());
            put(48, &value.to_ne_bytes());
        }
        SigFields::Timer { id, overrun, value } => {
            put(24, &id.to_ne_bytes());
            put(32, &overrun.to_ne_bytes());
            put(44, &(value as i32).to_ne_bytes());
            put(48, &value.to_ne_bytes());
        }
        SigFields::Child { pid, uid, status, user_ticks, system_ticks } => {
            put(12, &pid.to_ne_bytes());
            put(16, &uid.to_ne_bytes());
            put(40, &status.to_ne_bytes());
            put(56, &user_ticks.to_ne_bytes());
            put(64, &system_ticks.to_ne_bytes());
        }
        SigFields::Fault { addr } => put(72, &addr.to_ne_bytes()),
        SigFields::Poll { band, fd } => {
            put(20, &fd.to_ne_bytes());
            put(28, &(band as u32).to_ne_bytes());
        }
        SigFields::Sys { call_addr, number, arch } => {
            put(84, &number.to_ne_bytes());
            put(88, &call_addr.to_ne_bytes());
            put(96, &arch.to_ne_bytes());
        }
        SigFields::Raw(raw) => {
            // Bytes 12.. of a siginfo: pid, uid and value lie where SI_QUEUE has them.
            put(12, raw.get(4..8).unwrap_or_default());
            put(16, raw.get(8..12).unwrap_or_default());
            put(44, raw.get(12..16).unwrap_or_default());
            put(48, raw.get(12..20).unwrap_or_default());
        }
    }
    bytes
}

/// signalfd4(2).
pub fn signalfd4(current: &mut Current, fd: i32, mask: UserRef<u64>, size: usize, flags: u32) -> SysResult<i32> {
    crate::signal::check_size(size)?;
    let flags = OpenFlags::from_bits_retain(flags);
    if !(OpenFlags::NONBLOCK | OpenFlags::CLOEXEC).contains(flags) {
        return Err(Errno::EINVAL.into());
    }
    let mask = SigSet(mask.read(current)?);
    if fd != -1 {
        let file = current.files().get(fd)?;
        file.ops().downcast::<SignalFd>().ok_or(Errno::EINVAL)?.set_mask(mask);
        return Ok(fd);
    }
    let source = Arc::new(CallersSignals { maker: current.process().clone() });
    let file = fs::signalfd::signalfd(&current.caller(), source, mask, flags)?;
    let on_exec = if flags.contains(OpenFlags::CLOEXEC) { OnExec::Close } else { OnExec::Keep };
    Ok(current.files().add(file, current.process().rlimit(abi::Resource::Nofile).soft, on_exec)?)
}

/// signalfd(2).
pub fn signalfd(current: &mut Current, fd: i32, mask: UserRef<u64>, size: usize) -> SysResult<i32> {
    signalfd4(current, fd, mask, size, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::Signal;

    #[test]
    fn what_was_queued_reads_as_what_it_was_sent_with() {
        let mut raw = [0u8; 128];
        raw[8..12].copy_from_slice(&(-1i32).to_ne_bytes());
        raw[16..20].copy_from_slice(&7i32.to_ne_bytes());
        raw[20..24].copy_from_slice(&8u32.to_ne_bytes());
        raw[24..32].copy_from_slice(&0x1_0000_0009u64.to_ne_bytes());
        let bytes = signalfd_siginfo(&SigInfo::from_bytes(Signal::new(34).unwrap(), &raw));
        let word = |at: usize| i32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(8), word(12), word(16), word(44), word(52)), (34, -1, 7, 8, 9, 1));
    }
}
