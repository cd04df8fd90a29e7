//! The run loop's side of a thread. The loop itself is `kernel::run`, on the thread's own fiber:
//!
//! ```text
//! current.begin();
//! while current.before_guest() == Next::Resume {
//!     if sync::gate() { continue }
//!     match current.resume() {
//!         Exit::Syscall { number, args, ip } => {
//!             current.note_call(number, ip);
//!             let outcome = syscall::call(&mut current, number, args);
//!             current.finish_call(number, outcome);
//!         }
//!         Exit::Fault { addr, access } => current.handle_fault(addr, access),
//!         Exit::Exception { signal, code, addr } => current.handle_exception(signal, code, addr),
//!         Exit::Kicked => {}
//!         Exit::Gone => current.handle_gone(),
//!     }
//!     if sync::sched::should_yield() { sync::yield_now() }
//! }
//! current.exit();
//! ```
//!
//! Always true: signals are delivered in [`Current::before_guest`] and nowhere else; a system call that was interrupted is decided there too, so no
//! restart code reaches a guest.

use crate::current::{Call, Current};
use crate::process::Process;
use crate::signal::frame::{self, FRAME_LEN, FXSAVE_LEN, Frame, Stack};
use crate::signal::{Delivery, Resumption, resumption};
use abi::arch::Regs;
use abi::siginfo::{SIG_DFL, code};
use abi::{AltStack, Errno, Restart, SigAction, SigInfo, SigSet, Signal, SysError, WaitStatus};
use mm::FaultError;
use platform::{Access, Exit, SpaceGone};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use sync::SpinLock;
use vfs::UserMemory;

/// How a system call ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It returns this.
    Value(u64),
    /// It fails, or was interrupted.
    Error(SysError),
    /// It has set all registers itself: rt_sigreturn(2), execve(2). Or the thread does not come back.
    Registers,
}

impl<T: Into<i64>> From<abi::SysResult<T>> for Outcome {
    fn from(result: abi::SysResult<T>) -> Outcome {
        match result {
            Ok(value) => Outcome::Value(value.into() as u64),
            Err(error) => Outcome::Error(error),
        }
    }
}

/// What the run loop does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Run guest code.
    Resume,
    /// Call [`Current::exit`] and leave the loop.
    Exit,
}

/// Which task runs on which fiber, for drivers that have no `Current` at hand.
static RUNNING: LazyLock<SpinLock<HashMap<u64, Arc<crate::task::Task>>>> = LazyLock::new(SpinLock::default);

/// The task that runs on the calling fiber; none on helper threads.
///
/// For what the layers between can't carry down: a terminal's job-control check, `/proc/self`.
#[must_use]
pub fn current_task() -> Option<Arc<crate::task::Task>> {
    RUNNING.lock().get(&sync::current().id()).cloned()
}

impl Current {
    /// First thing on the thread's own fiber.
    pub fn begin(&mut self) {
        let fiber = sync::current();
        RUNNING.lock().insert(fiber.id(), self.task().clone());
        self.task().set_fiber(fiber.clone());
        self.task().host_thread.store(self.thread.host_number(), Ordering::Relaxed);
        self.process().signals().set_fiber(self.tid(), fiber);
    }

    /// Whether a signal or something like it wants to be looked at.
    fn is_interrupted(&self) -> bool {
        self.task().fiber().is_none_or(|fiber| fiber.is_interrupted())
    }

    /// Last thing on it.
    pub(crate) fn end(&self) {
        RUNNING.lock().remove(&sync::current().id());
    }

    /// Runs guest code until it needs the kernel, and counts the time as the thread's own.
    pub fn resume(&mut self) -> Exit {
        let before = sync::monotonic_ns();
        self.task().usage.entered_at_ns.store(before, Ordering::Relaxed);
        self.task().in_guest.store(true, Ordering::Relaxed);
        let exit = self.thread.resume();
        // It has stopped, so the call that the host ran for it is over.
        self.deferred = None;
        let task = self.task();
        task.in_guest.store(false, Ordering::Release);
        // Only this thread writes these counters.
        let usage = &task.usage;
        usage.exits.store(usage.exits.load(Ordering::Relaxed) + 1, Ordering::Release);
        usage.entered_at_ns.store(0, Ordering::Relaxed);
        let inside = sync::monotonic_ns().saturating_sub(before);
        usage.user_ns.store(usage.user_ns.load(Ordering::Relaxed) + inside, Ordering::Relaxed);
        exit
    }

    /// Notes, for those who look at the thread from outside, that a call is served for it.
    pub fn note_call(&self, number: u64, ip: u64) {
        let task = self.task();
        task.in_call.store(number.wrapping_add(1), Ordering::Relaxed);
        task.last_ip.store(ip, Ordering::Relaxed);
    }

    /// Sets what a system call returns, or remembers that it was interrupted.
    pub fn finish_call(&mut self, number: u64, outcome: Outcome) {
        self.call = None;
        self.task().in_call.store(0, Ordering::Relaxed);
        match outcome {
            Outcome::Value(value) => self.thread.set_result(value),
            Outcome::Error(SysError::Errno(errno)) => self.thread.set_result(-i64::from(errno.raw()) as u64),
            Outcome::Error(SysError::Restart(restart)) => self.call = Some(Call { number, restart: Some(restart) }),
            Outcome::Registers => {}
        }
    }

    /// Resolves a page fault, or makes the thread take the signal for it.
    pub fn handle_fault(&mut self, addr: u64, access: Access) {
        match self.memory().fault(addr, access) {
            Ok(()) => {
                self.task().usage.minor_faults.fetch_add(1, Ordering::Relaxed);
            }
            Err(FaultError::Signal { signal, code }) => {
                self.log_fault(signal, code, addr, access);
                self.force(SigInfo::fault(signal, code, addr));
            }
            Err(FaultError::Oom) => self.system().out_of_memory(self.process()),
            Err(FaultError::Gone) => self.handle_gone(),
        }
    }

    /// Makes the thread take the signal for an exception of its own.
    pub fn handle_exception(&mut self, signal: Signal, code: i32, addr: u64) {
        if signal == Signal::SIGTRAP {
            self.stop_stepping();
        }
        self.force(SigInfo::fault(signal, code, addr));
    }

    /// The stub is gone: the guest sees SIGKILL.
    pub fn handle_gone(&mut self) {
        self.process().kill_forcibly();
    }

    /// Makes this thread take a signal, whatever it blocks or ignores (`force_sig_info`).
    pub fn force(&self, info: SigInfo) {
        self.process().signals().force(self.tid(), info);
    }

    /// exit(2): this thread ends when its call returns to the run loop.
    pub fn begin_exit(&mut self, code: i32) {
        self.exiting = Some(WaitStatus::Exited(code as u8));
    }

    /// exit_group(2): all threads end.
    pub fn begin_group_exit(&mut self, code: i32) {
        self.process().start_group_exit(WaitStatus::Exited(code as u8));
    }

    /// Delivers signals and settles an interrupted system call.
    pub fn before_guest(&mut self) -> Next {
        if self.exiting.is_some() {
            return Next::Exit;
        }
        let mut call = self.call.take().and_then(|call| call.restart.map(|restart| (call.number, restart)));
        if call.is_none() && !self.is_interrupted() {
            return Next::Resume;
        }
        let process = self.process().clone();
        let tid = self.tid();
        let mut injected = None;
        loop {
            let delivery = match injected.take() {
                Some(delivery) => delivery,
                None => process.signals().next(tid),
            };
            match delivery {
                Delivery::Traced(info) => injected = self.ask_tracer(info, &mut call),
                Delivery::Trap => {
                    let stopping = process.signals().stopping_by();
                    self.trace_group_stop(stopping);
                    process.signals().pass_stop(tid);
                }
                Delivery::None => {
                    process.signals().restore_saved_mask(tid);
                    if let Some((number, restart)) = call.take() {
                        self.run_again(number, restart);
                    }
                    return Next::Resume;
                }
                Delivery::Handler { info, action, saved_mask } => {
                    if self.enter_handler(&info, &action, saved_mask, call.take()).is_err() {
                        self.handle_gone();
                    }
                }
                Delivery::Die { status, core } => return self.die(&process, status, core),
                Delivery::ExitThread => {
                    self.exiting = Some(WaitStatus::Exited(0));
                    return Next::Exit;
                }
                Delivery::StopSignal(signal) => {
                    let orphaned = signal != Signal::SIGSTOP && {
                        let table = self.system().table();
                        table.tree.get(process.pid()).is_some_and(|n| table.tree.is_orphaned(n.group, None))
                    };
                    if !orphaned {
                        let wake = process.signals().begin_stop(signal);
                        process.kick(&wake);
                    }
                }
                Delivery::Park { complete } => {
                    // A parent that traces it hears of it as its tracer.
                    if let Some(signal) = complete.filter(|_| self.task().tracer() != process.parent()) {
                        process.tell_parent_of_stop(WaitStatus::Stopped(signal));
                    }
                    let frozen = process.signals().is_frozen();
                    if frozen {
                        self.system().cgroups.note_frozen(&process);
                    }
                    let stopping = process.signals().stopping_by();
                    if self.is_traced() && stopping.is_some() {
                        self.trace_group_stop(stopping);
                        process.signals().pass_stop(tid);
                    }
                    process.stopped.wait_until(|| (!process.signals().must_park(tid)).then_some(()));
                }
            }
        }
    }

    /// Stops for the tracer with a signal; what is to be delivered then. An interrupted call shows as such, and the tracer may call it off.
    fn ask_tracer(&mut self, info: SigInfo, call: &mut Option<(u64, Restart)>) -> Option<Delivery> {
        if let Some((number, restart)) = *call {
            self.orig_rax = Some(number);
            self.thread.set_result(crate::ptrace::restart_number(restart));
        }
        let answer = self.trace_signal(info);
        if let Some((number, _)) = *call
            && self.orig_rax.take() != Some(number)
        {
            *call = None;
        }
        self.orig_rax = None;
        let tid = self.tid();
        answer.and_then(|info| self.process().signals().inject(tid, info))
    }

    fn die(&mut self, process: &Arc<Process>, status: WaitStatus, core: bool) -> Next {
        let mut status = status;
        if core && let WaitStatus::Killed(signal, _) = status {
            let dumped = self.system().hooks.dump_core(self, &SigInfo::kernel(signal));
            status = WaitStatus::Killed(signal, dumped);
        }
        process.start_group_exit(status);
        self.exiting = Some(process.signals().group_exit().unwrap_or(status));
        Next::Exit
    }

    /// The interrupted call runs again: no handler did.
    fn run_again(&mut self, number: u64, restart: Restart) {
        let number = match resumption(restart, None) {
            Resumption::RestartSyscall => u64::from(abi::raw::general::__NR_restart_syscall),
            Resumption::Again | Resumption::Interrupted => number,
        };
        let rewound = self.thread.regs().and_then(|mut regs| {
            regs.rewind_syscall(number);
            self.thread.set_regs(&regs)
        });
        if rewound.is_err() {
            self.handle_gone();
        }
    }

    fn enter_handler(
        &mut self,
        info: &SigInfo,
        action: &SigAction,
        saved_mask: SigSet,
        call: Option<(u64, Restart)>,
    ) -> Result<(), SpaceGone> {
        let stepped = self.stop_stepping();
        let mut regs = self.thread.regs()?;
        if let Some((number, restart)) = call {
            match resumption(restart, Some(action)) {
                Resumption::Again => regs.rewind_syscall(number),
                Resumption::Interrupted | Resumption::RestartSyscall => regs.set_result(-i64::from(Errno::EINTR.raw()) as u64),
            }
            // A handler may make calls of its own; the block is of no use after it.
            self.restart_block = None;
        }
        let info = self.finish_info(info);
        let xstate = self.thread.xstate()?;
        let tid = self.tid();
        let stack = {
            let signals = self.process().signals();
            let (alt, on_it) = signals
                .thread(tid)
                .map_or((AltStack::default(), false), |t| (t.alt_stack, t.alt_stack_flags(regs.rsp) == abi::siginfo::SS_ONSTACK));
            Stack { alt, on_it }
        };
        let written = Frame::build(&regs, &xstate, &info, action, saved_mask, stack).ok().and_then(|frame| {
            self.write_frame(&frame, &xstate).ok()?;
            Some(frame)
        });
        match written {
            Some(frame) => {
                self.thread.set_regs(&frame.regs)?;
                // A handler begins with a fresh vector state.
                self.thread.set_xstate(&[])?;
                self.process().signals().enter_handler(tid, info.signal, action);
                if stepped {
                    // The handler's first instruction is where a step ends.
                    self.force(SigInfo {
                        signal: Signal::SIGTRAP,
                        errno: 0,
                        code: code::TRAP_TRACE,
                        fields: abi::SigFields::Fault { addr: 0 },
                    });
                }
            }
            None => {
                // The interrupted call must not seem to go on if a SIGSEGV handler looks at the registers.
                self.thread.set_regs(&regs)?;
                self.bad_frame(info.signal);
            }
        }
        Ok(())
    }

    /// What is filled in when a signal is taken: a POSIX timer's overruns.
    fn finish_info(&self, info: &SigInfo) -> SigInfo {
        self.process().timers.deliver(*info)
    }

    fn write_frame(&self, frame: &Frame, xstate: &[u8]) -> Result<(), Errno> {
        let memory = self.memory();
        memory.write_all(frame.xstate_addr, xstate.get(..frame.xstate_len).unwrap_or(xstate))?;
        if frame.xstate_len < xstate.len()
            && let Some((at, magic)) = frame::closing_magic(xstate)
        {
            memory.write_all(frame.xstate_addr + at as u64, &magic)?;
        }
        memory.write_all(frame.addr, &frame.bytes)
    }

    /// No frame could be written or read: SIGSEGV, which kills if it was SIGSEGV's own frame (`force_sigsegv`).
    fn bad_frame(&self, signal: Signal) {
        let info = SigInfo::kernel(Signal::SIGSEGV);
        let mut signals = self.process().signals();
        if signal == Signal::SIGSEGV {
            signals.force_fatal(self.tid(), info);
        } else {
            signals.force(self.tid(), info);
        }
    }

    /// rt_sigreturn(2): goes back to what a handler interrupted. A frame that can't be read is SIGSEGV.
    pub fn signal_return(&mut self) -> Outcome {
        match self.try_signal_return() {
            Ok(Some(())) => {}
            Ok(None) => self.force(SigInfo::kernel(Signal::SIGSEGV)),
            Err(SpaceGone) => self.handle_gone(),
        }
        Outcome::Registers
    }

    fn try_signal_return(&mut self) -> Result<Option<()>, SpaceGone> {
        let now = self.thread.regs()?;
        let mut bytes = [0; FRAME_LEN];
        if self.memory().read_exact(Frame::addr_on_return(now.rsp), &mut bytes).is_err() {
            return Ok(None);
        }
        let restored = Frame::parse(&bytes, &now);
        let Ok(xstate) = self.read_xstate(restored.xstate_addr) else { return Ok(None) };
        let tid = self.tid();
        let wake = self.process().signals().set_mask(tid, restored.mask).1;
        self.process().kick(&wake);
        self.thread.set_regs(&restored.regs)?;
        self.thread.set_xstate(&xstate)?;
        // As sigaltstack(2) would; what it would refuse is left as it is.
        let _ = self.set_alt_stack(restored.alt_stack, restored.regs.rsp);
        Ok(Some(()))
    }

    fn read_xstate(&self, addr: u64) -> Result<Vec<u8>, Errno> {
        if addr == 0 {
            return Ok(Vec::new());
        }
        let mut legacy = [0; FXSAVE_LEN];
        self.memory().read_exact(addr, &mut legacy)?;
        let len = frame::len_to_restore(&legacy, self.system().platform.xstate_len());
        if len == FXSAVE_LEN {
            return Ok(legacy.to_vec());
        }
        let mut xstate = legacy.to_vec();
        xstate.resize(len, 0);
        // The legacy part was validated: it is not read again.
        self.memory().read_exact(addr.wrapping_add(FXSAVE_LEN as u64), xstate.get_mut(FXSAVE_LEN..).unwrap_or_default())?;
        if !frame::is_closed(&xstate) {
            xstate.truncate(FXSAVE_LEN);
        }
        Ok(xstate)
    }

    /// sigaltstack(2) with a new stack, by a thread whose stack pointer is `sp`.
    ///
    /// # Errors
    /// EPERM while it runs on the old one, EINVAL for unknown flags, ENOMEM for a stack that no frame fits on.
    pub fn set_alt_stack(&self, new: AltStack, sp: u64) -> Result<(), Errno> {
        use abi::siginfo::{SS_AUTODISARM, SS_DISABLE, SS_ONSTACK};
        let mut signals = self.process().signals();
        let thread = signals.thread_mut(self.tid()).ok_or(Errno::ESRCH)?;
        if thread.alt_stack_flags(sp) == SS_ONSTACK {
            return Err(Errno::EPERM);
        }
        let mode = new.flags & !SS_AUTODISARM;
        if mode != 0 && mode != SS_ONSTACK && mode != SS_DISABLE {
            return Err(Errno::EINVAL);
        }
        thread.alt_stack = if mode == SS_DISABLE {
            AltStack { sp: 0, size: 0, padding: 0, flags: new.flags }
        } else {
            if new.size < 2048 {
                return Err(Errno::ENOMEM);
            }
            AltStack { padding: 0, ..new }
        };
        Ok(())
    }

    fn log_fault(&mut self, signal: Signal, fault_code: i32, addr: u64, access: Access) {
        let handler = self.process().signals().actions.lock().get(signal).handler;
        if signal != Signal::SIGSEGV || handler > SIG_DFL {
            return;
        }
        let Ok(Regs { rip, rsp, .. }) = self.thread.regs() else { return };
        let error =
            4 | match access {
                Access::Read => 0,
                Access::Write => 2,
                Access::Execute => 16,
            } | i32::from(fault_code == code::SEGV_ACCERR);
        let program = self.process().program();
        let file = program.rsplit(|b| *b == b'/').next().unwrap_or_default();
        self.system().hooks.log(&format!(
            "{}[{}]: segfault at {addr:x} ip {rip:016x} sp {rsp:016x} error {error:x} in {}",
            self.task().comm_text(),
            self.tid(),
            String::from_utf8_lossy(file)
        ));
    }
}

/// How long a process that was killed for its memory has to give it back before another one is killed, nanoseconds.
const OOM_PATIENCE_NS: u64 = 1_000_000_000;

impl crate::system::System {
    /// Memory is used up and nothing can be reclaimed: the process that holds the most of it, by its own and its `oom_score_adj`'s reckoning, dies;
    /// `asking`, if there is no other. While one is dying already, only waits a moment for what it gives back.
    pub fn out_of_memory(&self, asking: &Arc<Process>) {
        let now = sync::monotonic_ns();
        let last = self.last_oom_ns.load(Ordering::Relaxed);
        if last != 0 && now.saturating_sub(last) < OOM_PATIENCE_NS && self.someone_is_dying() {
            if asking.signals().group_exit().is_none() {
                sync::park(Some(now + 2_000_000));
            }
            return;
        }
        self.last_oom_ns.store(now.max(1), Ordering::Relaxed);
        self.kill_for_memory(&self.oom_victim().unwrap_or_else(|| asking.clone()));
    }

    /// Kills the process that [`System::out_of_memory`] would kill; false when there is none but the first.
    pub fn kill_somebody(&self) -> bool {
        let victim = self.oom_victim();
        if let Some(victim) = &victim {
            self.kill_for_memory(victim);
        }
        victim.is_some()
    }

    fn kill_for_memory(&self, victim: &Process) {
        let name = victim.any_thread().map(|t| t.comm_text()).unwrap_or_default();
        self.hooks.log(&format!("Out of memory: Killed process {} ({name})", victim.pid()));
        victim.kill_forcibly();
    }
}

impl Current {
    /// Replaces the thread's signal mask (sigprocmask(2)).
    pub fn set_signal_mask(&mut self, mask: SigSet) {
        let wake = self.process().signals().set_mask(self.tid(), mask).1;
        self.process().kick(&wake);
    }

    /// Runs `call` under another signal mask, as sigsuspend(2), ppoll(2) and their kin do. If it is interrupted the mask stays until the signal is
    /// delivered, and comes back then.
    pub fn with_signal_mask<R>(&mut self, mask: Option<SigSet>, call: impl FnOnce(&mut Current) -> abi::SysResult<R>) -> abi::SysResult<R> {
        let Some(mask) = mask else { return call(self) };
        let tid = self.tid();
        let (old, wake) = self.process().signals().set_mask(tid, mask);
        self.process().kick(&wake);
        let result = call(self);
        let interrupted = matches!(result, Err(SysError::Restart(_) | SysError::Errno(Errno::EINTR)));
        let mut signals = self.process().signals();
        if interrupted && let Some(thread) = signals.thread_mut(tid) {
            thread.saved_mask = Some(old);
            return result;
        }
        let wake = signals.set_mask(tid, old).1;
        drop(signals);
        self.process().kick(&wake);
        result
    }
}
