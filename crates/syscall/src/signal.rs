//! Signals: dispositions, masks, waiting, sigreturn. Sending is with `process` (kill) and here (sigqueue).

use crate::args::{UserAddr, UserRef};
use abi::siginfo::{SIGINFO_LEN, SS_AUTODISARM, SS_ONSTACK};
use abi::{AltStack, Errno, Restart, SigAction, SigInfo, SigSet, Signal, SysError, SysResult, Timespec};
use sync::WaitError;
use task::signal::To;
use task::{Current, Outcome};

/// Bytes of the kernel's signal set: the only size that is accepted.
const SIGSET_LEN: usize = 8;

pub(crate) fn check_size(size: usize) -> Result<(), Errno> {
    if size == SIGSET_LEN { Ok(()) } else { Err(Errno::EINVAL) }
}

/// rt_sigaction(2).
pub fn rt_sigaction(
    current: &mut Current,
    signal: i32,
    new: Option<UserRef<SigAction>>,
    old: Option<UserRef<SigAction>>,
    size: usize,
) -> SysResult<()> {
    check_size(size)?;
    let signal = Signal::new(signal).ok_or(Errno::EINVAL)?;
    let previous = match new {
        Some(new) => {
            let mut action = new.read(current)?;
            if SigSet::UNBLOCKABLE.has(signal) {
                return Err(Errno::EINVAL.into());
            }
            // Flags that Linux does not know read back as absent, so that programs can find out.
            action.flags = action.flags().difference(abi::SaFlags::UNSUPPORTED).bits();
            let previous = current.process().signals().set_action(signal, action);
            if action.handler <= abi::siginfo::SIG_IGN {
                current.process().timers.signals_were_flushed();
            }
            previous
        }
        None => current.process().signals().actions.lock().get(signal),
    };
    if let Some(old) = old {
        old.write(current, &previous)?;
    }
    Ok(())
}

/// rt_sigprocmask(2).
pub fn rt_sigprocmask(current: &mut Current, how: u32, set: Option<UserRef<u64>>, old: Option<UserRef<u64>>, size: usize) -> SysResult<()> {
    check_size(size)?;
    let now = mask(current);
    if let Some(set) = set {
        let set = SigSet(set.read(current)?);
        let new = match how {
            0 => now.union(set),
            1 => now.without(set),
            2 => set,
            _ => return Err(Errno::EINVAL.into()),
        };
        current.set_signal_mask(new);
    }
    if let Some(old) = old {
        old.write(current, &now.0)?;
    }
    Ok(())
}

fn mask(current: &Current) -> SigSet {
    current.process().signals().thread(current.tid()).map_or(SigSet::EMPTY, |t| t.blocked)
}

/// rt_sigpending(2).
pub fn rt_sigpending(current: &mut Current, set: UserRef<u64>, size: usize) -> SysResult<()> {
    if size > SIGSET_LEN {
        return Err(Errno::EINVAL.into());
    }
    let pending = {
        let signals = current.process().signals();
        signals.pending(current.tid()).0 & signals.thread(current.tid()).map_or(0, |t| t.blocked.0)
    };
    Ok(set.write(current, &pending)?)
}

/// rt_sigsuspend(2): another mask until a handler has run.
pub fn rt_sigsuspend(current: &mut Current, set: UserRef<u64>, size: usize) -> SysResult<()> {
    check_size(size)?;
    let set = SigSet(set.read(current)?);
    current.with_signal_mask(Some(set), |_| wait_for_signal())
}

fn wait_for_signal() -> SysResult<()> {
    // Nothing but a signal ends it.
    match sync::WaitQueue::new().wait_interruptible(|| None::<()>) {
        Ok(()) | Err(_) => Err(SysError::Restart(Restart::IfNoHandler)),
    }
}

/// pause(2).
pub fn pause(_current: &mut Current) -> SysResult<()> {
    wait_for_signal()
}

/// rt_sigtimedwait(2).
pub fn rt_sigtimedwait(
    current: &mut Current,
    set: UserRef<u64>,
    info: UserAddr,
    timeout: Option<UserRef<Timespec>>,
    size: usize,
) -> SysResult<i32> {
    check_size(size)?;
    let set = SigSet(set.read(current)?).without(SigSet::UNBLOCKABLE);
    let deadline = match timeout {
        Some(timeout) => Some(sync::monotonic_ns().saturating_add(timeout.read(current)?.to_ns()?)),
        None => None,
    };
    let tid = current.tid();
    let process = current.process().clone();
    let taken = process.signals().dequeue(tid, set);
    let taken = match taken {
        Some(info) => Ok(info),
        None => {
            process.signals().open_for_wait(tid, set);
            let waited = sync::WaitQueue::new().wait_deadline(deadline, || process.signals().dequeue(tid, set));
            let mut signals = process.signals();
            signals.close_wait(tid);
            // What came between the last look and closing is not left behind.
            waited.or_else(|why| signals.dequeue(tid, set).ok_or(why))
        }
    };
    match taken {
        Ok(found) => {
            let found = process.timers.deliver(found);
            if !info.is_null() {
                UserRef::<[u8; SIGINFO_LEN]>::at(info.0).write(current, &found.to_bytes())?;
            }
            Ok(found.signal.number())
        }
        Err(WaitError::TimedOut) => Err(Errno::EAGAIN.into()),
        Err(WaitError::Interrupted) => Err(Errno::EINTR.into()),
    }
}

/// rt_sigqueueinfo(2).
pub fn rt_sigqueueinfo(current: &mut Current, pid: i32, signal: i32, info: UserRef<[u8; SIGINFO_LEN]>) -> SysResult<()> {
    let bytes = info.read(current)?;
    queue(current, pid, None, signal, &bytes)
}

/// rt_tgsigqueueinfo(2).
pub fn rt_tgsigqueueinfo(current: &mut Current, pid: i32, tid: i32, signal: i32, info: UserRef<[u8; SIGINFO_LEN]>) -> SysResult<()> {
    if pid <= 0 || tid <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let bytes = info.read(current)?;
    queue(current, pid, Some(tid), signal, &bytes)
}

fn queue(current: &Current, pid: i32, tid: Option<i32>, number: i32, bytes: &[u8; SIGINFO_LEN]) -> SysResult<()> {
    let signal = crate::process::signal_or_check(number)?;
    let info = SigInfo::from_bytes(signal.unwrap_or(Signal::SIGHUP), bytes);
    // Nobody may pretend to be kill(2), tgkill(2) or the kernel to somebody else.
    let pretends = info.code >= 0 || info.code == abi::siginfo::code::SI_TKILL;
    if pretends && current.pid() != pid {
        return Err(Errno::EPERM.into());
    }
    let process = current.system().process(pid)?;
    let target = match tid {
        Some(tid) => {
            let task = current.system().task(tid)?;
            if task.process().pid() != pid {
                return Err(Errno::ESRCH.into());
            }
            Some(task)
        }
        None => process.any_thread(),
    };
    let Some(target) = target else { return Ok(()) };
    target.may_signal(current.task(), signal)?;
    if signal.is_some() {
        process.send(tid.map_or(To::Process, To::Thread), info)?;
    }
    Ok(())
}

/// sigaltstack(2).
pub fn sigaltstack(current: &mut Current, new: Option<UserRef<AltStack>>, old: Option<UserRef<AltStack>>) -> SysResult<()> {
    let sp = current.thread().regs().map_err(|_| Errno::ESRCH)?.rsp;
    let previous = {
        let signals = current.process().signals();
        let thread = signals.thread(current.tid()).ok_or(Errno::ESRCH)?;
        AltStack { flags: thread.alt_stack_flags(sp) | (thread.alt_stack.flags & SS_AUTODISARM), padding: 0, ..thread.alt_stack }
    };
    if let Some(new) = new {
        let stack = new.read(current)?;
        if previous.flags & SS_ONSTACK != 0 && (stack.sp, stack.size, stack.flags) == (previous.sp, previous.size, previous.flags) {
            return Ok(()); // Linux lets a thread set the stack that it is on to what it is.
        }
        current.set_alt_stack(stack, sp)?;
    }
    if let Some(old) = old {
        old.write(current, &previous)?;
    }
    Ok(())
}

/// rt_sigreturn(2).
pub fn rt_sigreturn(current: &mut Current) -> Outcome {
    current.signal_return()
}

/// restart_syscall(2): goes on with what was interrupted.
pub fn restart_syscall(current: &mut Current) -> SysResult<u64> {
    match current.take_restart() {
        Some(block) => block(current),
        None => Err(Errno::EINTR.into()),
    }
}
