//! The signal state of a process: all its threads' masks and pending signals under one lock.

use super::{Actions, DefaultAction, Pending, STOP_SIGNALS, Slot, default_action};
use abi::siginfo::{AltStack, SIG_DFL, SIG_IGN, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK};
use abi::{SaFlags, SigAction, SigInfo, SigSet, Signal, WaitStatus};
use std::collections::BTreeMap;
use std::sync::Arc;
use sync::{Fiber, SpinLock};

/// To whom a signal goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To {
    /// One thread, by number.
    Thread(i32),
    /// Any thread of the process that does not block it.
    Process,
}

/// What sending did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// Threads whose interrupt token is now set. A thread that is running guest code must be stopped to notice.
    pub wake: Vec<i32>,
    /// SIGCONT ended a stop that the parent was told of: it is to hear of this too.
    pub continued: bool,
    /// It is pending now (and not ignored, or there before).
    pub queued: bool,
}

/// What the thread that asks has to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// Go on.
    None,
    /// Run the handler; then call [`Signals::enter_handler`]. `saved_mask` goes into the frame.
    Handler { info: SigInfo, action: SigAction, saved_mask: SigSet },
    /// The whole process dies; `info` is what killed it when this thread is the first to know. With `core`, a core file is due.
    Die { status: WaitStatus, core: bool },
    /// A tracer is to be asked about this signal; then [`Signals::inject`] what it answers.
    Traced(SigInfo),
    /// A tracer wants the thread to stop.
    Trap,
    /// Only this thread ends: another one runs a new program.
    ExitThread,
    /// A stop signal. If it is not SIGSTOP and the process group is orphaned, ask again; else [`Signals::begin_stop`].
    StopSignal(Signal),
    /// Park until [`Signals::must_park`] says no. With `complete` this was the last thread to stop: tell the parent.
    Park { complete: Option<Signal> },
}

/// One thread's part.
#[derive(Default)]
pub struct ThreadSignals {
    /// Signals that are not delivered now.
    pub blocked: SigSet,
    /// The mask to return to when a call that replaced it (sigsuspend, ppoll...) is over.
    pub saved_mask: Option<SigSet>,
    /// sigaltstack(2).
    pub alt_stack: AltStack,
    /// Only death interrupts a wait (vfork, exec).
    pub killable_only: bool,
    /// The real mask while sigtimedwait(2) has some signals open.
    real_blocked: Option<SigSet>,
    pending: Pending,
    fiber: Option<Fiber>,
    killed: bool,
    exiting: bool,
    parked: bool,
    /// A tracer is asked before signals are delivered.
    traced: bool,
    /// A tracer wants it to stop.
    trap: bool,
    /// Its tracer let it go on though its process is stopped.
    past_stop: bool,
}

impl ThreadSignals {
    /// As clone(2) begins a thread: the maker's mask, nothing pending. The alternate stack is kept unless memory is shared without `vfork`.
    #[must_use]
    pub fn inherited(blocked: SigSet, alt_stack: AltStack) -> ThreadSignals {
        ThreadSignals { blocked, alt_stack, ..ThreadSignals::default() }
    }

    /// `SS_ONSTACK`, `SS_DISABLE` or 0 for a thread whose stack pointer is `sp` (`sas_ss_flags`).
    #[must_use]
    pub fn alt_stack_flags(&self, sp: u64) -> u32 {
        let stack = &self.alt_stack;
        if stack.size == 0 {
            SS_DISABLE
        } else if stack.flags & SS_AUTODISARM == 0 && sp > stack.sp && sp - stack.sp <= stack.size {
            SS_ONSTACK
        } else {
            0
        }
    }
}

struct Stop {
    signal: Signal,
    reported: bool,
}

/// The signal state of a process.
pub struct Signals {
    /// What it wants done. A lock of its own because `CLONE_SIGHAND` shares it with other processes.
    pub actions: Arc<SpinLock<Actions>>,
    threads: BTreeMap<i32, ThreadSignals>,
    shared: Pending,
    group_exit: Option<WaitStatus>,
    stop: Option<Stop>,
    /// A stop signal has been taken and nothing has revoked it yet.
    stop_taken: bool,
    /// The machine's init: default actions don't touch it.
    unkillable: bool,
    /// Its control group is frozen: threads park as if stopped, but nobody is told.
    frozen: bool,
}

impl Signals {
    /// A process with one thread.
    #[must_use]
    pub fn new(actions: Arc<SpinLock<Actions>>, tid: i32, thread: ThreadSignals, unkillable: bool) -> Signals {
        let threads = BTreeMap::from([(tid, thread)]);
        Signals { actions, threads, shared: Pending::default(), group_exit: None, stop: None, stop_taken: false, unkillable, frozen: false }
    }

    /// Another thread joins. False while the process dies or stops (the maker's clone is to be restarted then).
    pub fn add_thread(&mut self, tid: i32, thread: ThreadSignals) -> bool {
        if self.group_exit.is_some() || self.stop.is_some() {
            return false;
        }
        self.threads.insert(tid, thread);
        true
    }

    /// The thread's fiber is running: what is already pending interrupts it.
    pub fn set_fiber(&mut self, tid: i32, fiber: Fiber) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.fiber = Some(fiber);
        }
        self.recalc(tid);
    }

    /// A thread is gone. Shared signals that only it would have taken are offered to the others; if all others have stopped by now the stop is
    /// complete and its signal is returned.
    pub fn remove_thread(&mut self, tid: i32) -> (Vec<i32>, Option<Signal>) {
        self.threads.remove(&tid);
        let wake = self.retarget(self.shared.set());
        let complete = if self.threads.is_empty() { None } else { self.complete_stop() };
        (wake, complete)
    }

    /// The thread takes no more signals: it is on its way out.
    pub fn set_exiting(&mut self, tid: i32) -> Vec<i32> {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.exiting = true;
        }
        self.retarget(self.shared.set())
    }

    /// De-threading: `to` takes the number of the leader.
    pub fn rename_thread(&mut self, from: i32, to: i32) {
        if let Some(thread) = self.threads.remove(&from) {
            self.threads.insert(to, thread);
        }
    }

    /// The thread's own part.
    #[must_use]
    pub fn thread(&self, tid: i32) -> Option<&ThreadSignals> {
        self.threads.get(&tid)
    }
    /// The thread's own part, to change. Call [`Signals::recalc`] after changing a mask.
    pub fn thread_mut(&mut self, tid: i32) -> Option<&mut ThreadSignals> {
        self.threads.get_mut(&tid)
    }
    /// Number of threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.len()
    }
    /// How the process ends, once that is decided.
    #[must_use]
    pub fn group_exit(&self) -> Option<WaitStatus> {
        self.group_exit
    }
    /// The signal that stopped the process, once all its threads have stopped.
    #[must_use]
    pub fn stopped_by(&self) -> Option<Signal> {
        self.stop.as_ref().filter(|s| s.reported).map(|s| s.signal)
    }
    /// The signal that stops the process, though not all threads have stopped yet.
    #[must_use]
    pub fn stopping_by(&self) -> Option<Signal> {
        self.stop.as_ref().map(|s| s.signal)
    }
    /// Drops init's protection: it made a fault.
    pub fn set_unkillable(&mut self, unkillable: bool) {
        self.unkillable = unkillable;
    }
    /// Signals pending for the thread, its own and the process's (sigpending(2) shows those of them that are blocked).
    #[must_use]
    pub fn pending(&self, tid: i32) -> SigSet {
        self.threads.get(&tid).map_or(SigSet::EMPTY, |t| t.pending.set()).union(self.shared.set())
    }
    /// Pending for the thread alone, and for the process: `/proc/PID/status`.
    #[must_use]
    pub fn pending_parts(&self, tid: i32) -> (SigSet, SigSet) {
        (self.threads.get(&tid).map_or(SigSet::EMPTY, |t| t.pending.set()), self.shared.set())
    }

    fn is_ignored(&self, to: To, signal: Signal) -> bool {
        // A blocked signal is kept even if it is ignored now: the thread may change its mind before it unblocks it.
        let blocked_by = |t: &ThreadSignals| t.blocked.has(signal) || t.real_blocked.is_some_and(|m| m.has(signal));
        let blocked = match to {
            To::Thread(tid) => self.threads.get(&tid).is_some_and(blocked_by),
            To::Process => self.threads.values().next().is_some_and(blocked_by),
        };
        // A tracer sees even what is ignored.
        let traced = match to {
            To::Thread(tid) => self.threads.get(&tid).is_some_and(|t| t.traced),
            To::Process => self.threads.values().any(|t| t.traced),
        };
        if blocked || (traced && signal != Signal::SIGKILL) {
            return false;
        }
        let actions = self.actions.lock();
        (self.unkillable && actions.get(signal).handler == SIG_DFL) || actions.ignores(signal)
    }

    /// SIGCONT and stop signals revoke each other, whatever is done about them. True if SIGCONT ended a reported stop.
    fn prepare(&mut self, signal: Signal, wake: &mut Vec<i32>) -> bool {
        let flush = if signal == Signal::SIGCONT {
            STOP_SIGNALS
        } else if STOP_SIGNALS.has(signal) {
            SigSet::of(Signal::SIGCONT)
        } else {
            return false;
        };
        self.shared.flush(flush);
        for thread in self.threads.values_mut() {
            thread.pending.flush(flush);
        }
        if signal != Signal::SIGCONT {
            return false;
        }
        self.stop_taken = false;
        let Some(stop) = self.stop.take() else { return false };
        for (tid, thread) in &mut self.threads {
            thread.parked = false;
            thread.past_stop = false;
            wake.push(*tid);
            if let Some(fiber) = &thread.fiber {
                fiber.unpark();
            }
        }
        stop.reported
    }

    /// Sends a signal. The caller has checked that it may, and has the place in the queue if one is needed and to be had.
    pub fn send(&mut self, to: To, info: SigInfo, slot: Option<Slot>) -> Sent {
        let mut sent = Sent::default();
        let signal = info.signal;
        if self.group_exit.is_some() || self.threads.is_empty() {
            return sent;
        }
        sent.continued = self.prepare(signal, &mut sent.wake);
        if self.is_ignored(to, signal) {
            return sent;
        }
        if signal == Signal::SIGKILL {
            sent.queued = true;
            sent.wake = self.start_group_exit(WaitStatus::Killed(Signal::SIGKILL, false));
            return sent;
        }
        match to {
            To::Process => sent.queued = self.shared.add(info, slot),
            To::Thread(tid) => match self.threads.get_mut(&tid) {
                Some(thread) => sent.queued = thread.pending.add(info, slot),
                None => return sent,
            },
        }
        if sent.queued {
            let woken = match to {
                To::Thread(tid) => self.wants(tid, signal).then_some(tid),
                To::Process => self.threads.keys().copied().find(|tid| self.wants(*tid, signal)),
            };
            if let Some(tid) = woken {
                self.recalc(tid);
                sent.wake.push(tid);
            }
        }
        sent
    }

    /// Sends the signal of POSIX timer `id` unless its last one is still pending; false then, and the timer counts an overrun.
    pub fn send_timer(&mut self, to: To, info: SigInfo, id: i32) -> Option<Sent> {
        let there = match to {
            To::Process => self.shared.has_timer(id),
            To::Thread(tid) => self.threads.get(&tid).is_some_and(|t| t.pending.has_timer(id)),
        };
        // The timer itself is charged, and at most one signal of it is queued: a slot without an account.
        (!there).then(|| self.send(to, info, Slot::take(&Arc::default(), u64::MAX, None).ok()))
    }

    /// Whether a signal of POSIX timer `id` is pending.
    #[must_use]
    pub fn has_timer(&self, id: i32) -> bool {
        self.shared.has_timer(id) || self.threads.values().any(|t| t.pending.has_timer(id))
    }

    /// A deleted timer's signal goes with it.
    pub fn forget_timer(&mut self, id: i32) {
        self.shared.remove_timer(id);
        for thread in self.threads.values_mut() {
            thread.pending.remove_timer(id);
        }
    }

    /// Makes a thread take a signal that its own instruction caused: if it is blocked or ignored, the default action kills the process.
    pub fn force(&mut self, tid: i32, info: SigInfo) {
        let signal = info.signal;
        let mut actions = self.actions.lock();
        let handler = actions.get(signal).handler;
        let blocked = self.threads.get(&tid).is_some_and(|t| t.blocked.has(signal));
        if blocked || handler == SIG_IGN {
            actions.set(signal, SigAction::default());
        }
        if actions.get(signal).handler == SIG_DFL {
            // Even init dies of its own faults.
            self.unkillable = false;
        }
        drop(actions);
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.blocked.remove(signal);
            thread.pending.flush(SigSet::of(signal));
            thread.pending.add(info, None);
        }
        self.recalc(tid);
    }

    /// As [`Signals::force`], but no handler can catch it (`force_fatal_sig`): a frame could not be written or read.
    pub fn force_fatal(&mut self, tid: i32, info: SigInfo) {
        self.actions.lock().set(info.signal, SigAction::default());
        self.force(tid, info);
    }

    /// Decides that the whole process dies. All threads are interrupted; they are returned to be stopped in guest code.
    pub fn start_group_exit(&mut self, status: WaitStatus) -> Vec<i32> {
        if self.group_exit.is_none() {
            self.group_exit = Some(status);
        }
        self.stop = None;
        self.stop_taken = false;
        let tids: Vec<i32> = self.threads.keys().copied().collect();
        for tid in &tids {
            self.recalc(*tid);
        }
        tids
    }

    /// execve(2): every thread but `tid` ends. They are returned to be stopped in guest code.
    pub fn kill_others(&mut self, tid: i32) -> Vec<i32> {
        let mut wake = Vec::new();
        for (other, thread) in &mut self.threads {
            if *other != tid {
                thread.killed = true;
                wake.push(*other);
            }
        }
        for other in &wake {
            self.recalc(*other);
        }
        wake
    }

    fn wants(&self, tid: i32, signal: Signal) -> bool {
        self.threads.get(&tid).is_some_and(|t| !t.exiting && !t.killed && !t.blocked.has(signal))
    }

    /// Interrupts a thread for each shared signal in `which` that somebody wants. Call it with what a thread has just blocked.
    pub fn retarget(&mut self, which: SigSet) -> Vec<i32> {
        let mut wake = Vec::new();
        let mut left = SigSet(which.0 & self.shared.set().0);
        while let Some(signal) = left.first() {
            left.remove(signal);
            let wanting = self.threads.keys().copied().find(|tid| self.wants(*tid, signal));
            if let Some(tid) = wanting
                && !wake.contains(&tid)
            {
                self.recalc(tid);
                wake.push(tid);
            }
        }
        wake
    }

    /// Whether a wait of the thread is to be interrupted.
    #[must_use]
    pub fn is_interrupted(&self, tid: i32) -> bool {
        let Some(thread) = self.threads.get(&tid) else { return false };
        if thread.exiting {
            return false;
        }
        self.group_exit.is_some()
            || thread.killed
            || (!thread.killable_only
                && (thread.trap
                    || (self.stop.is_some() && !thread.past_stop)
                    || self.frozen
                    || !self.pending(tid).without(thread.blocked).is_empty()))
    }

    /// Sets or clears the thread's interrupt token by what is pending and blocked now.
    pub fn recalc(&mut self, tid: i32) {
        let interrupted = self.is_interrupted(tid);
        if let Some(fiber) = self.threads.get(&tid).and_then(|t| t.fiber.as_ref())
            && (interrupted || fiber.is_interrupted())
        {
            fiber.set_interrupted(interrupted);
        }
    }

    /// Replaces the thread's mask; returns the old one, and threads that are to take over shared signals which it now blocks.
    pub fn set_mask(&mut self, tid: i32, mask: SigSet) -> (SigSet, Vec<i32>) {
        let Some(thread) = self.threads.get_mut(&tid) else { return (SigSet::EMPTY, Vec::new()) };
        let old = std::mem::replace(&mut thread.blocked, mask.without(SigSet::UNBLOCKABLE));
        let newly_blocked = mask.without(old);
        self.recalc(tid);
        (old, self.retarget(newly_blocked))
    }

    /// A new action; a signal that is ignored now is forgotten where it is pending. Returns the old action.
    pub fn set_action(&mut self, signal: Signal, action: SigAction) -> SigAction {
        let mut actions = self.actions.lock();
        let old = actions.get(signal);
        actions.set(signal, action);
        let ignored = actions.ignores(signal);
        drop(actions);
        if ignored {
            self.shared.flush(SigSet::of(signal));
            for thread in self.threads.values_mut() {
                thread.pending.flush(SigSet::of(signal));
            }
        }
        old
    }

    /// Takes one pending signal out of `allowed`: the thread's own first.
    pub fn dequeue(&mut self, tid: i32, allowed: SigSet) -> Option<SigInfo> {
        let own = self.threads.get_mut(&tid).and_then(|t| t.pending.take(allowed));
        let info = own.or_else(|| self.shared.take(allowed))?;
        if STOP_SIGNALS.has(info.signal) {
            self.stop_taken = true;
        }
        Some(info)
    }

    /// sigtimedwait(2) begins: signals in `set` interrupt the thread though it blocks them.
    pub fn open_for_wait(&mut self, tid: i32, set: SigSet) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.real_blocked = Some(thread.blocked);
            thread.blocked = thread.blocked.without(set);
        }
        self.recalc(tid);
    }

    /// sigtimedwait(2) is over.
    pub fn close_wait(&mut self, tid: i32) {
        if let Some(thread) = self.threads.get_mut(&tid)
            && let Some(mask) = thread.real_blocked.take()
        {
            thread.blocked = mask;
        }
        self.recalc(tid);
    }

    /// What the thread has to do before it may run guest code again.
    pub fn next(&mut self, tid: i32) -> Delivery {
        loop {
            let Some(thread) = self.threads.get(&tid) else { return Delivery::ExitThread };
            if let Some(status) = self.group_exit {
                return Delivery::Die { status, core: false };
            }
            if thread.killed {
                return Delivery::ExitThread;
            }
            if (self.stop.is_some() && !thread.past_stop) || self.frozen {
                if let Some(thread) = self.threads.get_mut(&tid) {
                    thread.parked = true;
                }
                return Delivery::Park { complete: self.complete_stop() };
            }
            let (blocked, traced) = (thread.blocked, thread.traced);
            if let Some(thread) = self.threads.get_mut(&tid)
                && std::mem::take(&mut thread.trap)
            {
                return Delivery::Trap;
            }
            let Some(info) = self.dequeue(tid, SigSet::ALL.without(blocked)) else {
                self.recalc(tid);
                return Delivery::None;
            };
            if traced {
                return Delivery::Traced(info);
            }
            if let Some(delivery) = self.decide(tid, info) {
                return delivery;
            }
        }
    }

    /// What a tracer made of a signal is delivered; or waits, if the thread blocks it by now.
    pub fn inject(&mut self, tid: i32, info: SigInfo) -> Option<Delivery> {
        if self.group_exit.is_some() {
            return None;
        }
        let thread = self.threads.get_mut(&tid)?;
        if thread.blocked.has(info.signal) {
            thread.pending.add(info, None);
            return None;
        }
        if info.signal == Signal::SIGKILL {
            self.start_group_exit(WaitStatus::Killed(Signal::SIGKILL, false));
            return None;
        }
        if STOP_SIGNALS.has(info.signal) {
            self.stop_taken = true;
        }
        self.decide(tid, info)
    }
    /// A tracer begins or ends.
    pub fn set_traced(&mut self, tid: i32, traced: bool) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.traced = traced;
            thread.trap &= traced;
            thread.past_stop &= traced;
        }
        self.recalc(tid);
    }
    /// The thread is to stop for its tracer; whether it has to be stopped in guest code for that.
    pub fn set_trap(&mut self, tid: i32) -> bool {
        let Some(thread) = self.threads.get_mut(&tid) else { return false };
        thread.trap = true;
        self.recalc(tid);
        true
    }
    /// Its tracer lets it go on though its process is stopped.
    pub fn pass_stop(&mut self, tid: i32) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.past_stop = thread.traced && self.stop.is_some();
            thread.parked &= !thread.past_stop;
        }
        self.recalc(tid);
    }
    /// Whether the thread alone is to end.
    #[must_use]
    pub fn is_killed(&self, tid: i32) -> bool {
        self.threads.get(&tid).is_none_or(|t| t.killed)
    }

    fn decide(&mut self, tid: i32, info: SigInfo) -> Option<Delivery> {
        let signal = info.signal;
        let action = self.actions.lock().get(signal);
        if action.handler == SIG_IGN {
            return None;
        }
        if action.handler != SIG_DFL {
            let thread = self.threads.get_mut(&tid)?;
            let saved_mask = thread.saved_mask.take().unwrap_or(thread.blocked);
            if action.flags().contains(SaFlags::RESETHAND) {
                self.actions.lock().set(signal, SigAction { handler: SIG_DFL, ..action });
            }
            return Some(Delivery::Handler { info, action, saved_mask });
        }
        let default = default_action(signal);
        if matches!(default, DefaultAction::Ignore | DefaultAction::Continue) || self.unkillable {
            return None;
        }
        match default {
            DefaultAction::Stop => Some(Delivery::StopSignal(signal)),
            DefaultAction::Core => Some(Delivery::Die { status: WaitStatus::Killed(signal, false), core: true }),
            _ => Some(Delivery::Die { status: WaitStatus::Killed(signal, false), core: false }),
        }
    }

    /// The frame is written: block what the handler wants blocked.
    pub fn enter_handler(&mut self, tid: i32, signal: Signal, action: &SigAction) {
        let mut mask = self.threads.get(&tid).map_or(SigSet::EMPTY, |t| t.blocked).union(action.mask());
        if !action.flags().contains(SaFlags::NODEFER) {
            mask.add(signal);
        }
        self.set_mask(tid, mask);
        if let Some(thread) = self.threads.get_mut(&tid)
            && thread.alt_stack.flags & SS_AUTODISARM != 0
        {
            thread.alt_stack = AltStack::default();
        }
    }

    /// No handler ran: a mask that a call replaced for its duration comes back.
    pub fn restore_saved_mask(&mut self, tid: i32) {
        if let Some(mask) = self.threads.get_mut(&tid).and_then(|t| t.saved_mask.take()) {
            self.set_mask(tid, mask);
        }
    }

    /// Stops the process by `signal`, unless SIGCONT or death came since it was taken. Threads to be stopped in guest code are returned; each of
    /// them, the caller too, then finds [`Delivery::Park`].
    pub fn begin_stop(&mut self, signal: Signal) -> Vec<i32> {
        if !self.stop_taken || self.group_exit.is_some() {
            return Vec::new();
        }
        self.stop_taken = false;
        if self.stop.is_none() {
            self.stop = Some(Stop { signal, reported: false });
            for thread in self.threads.values_mut() {
                thread.past_stop = false;
            }
        }
        let tids: Vec<i32> = self.threads.keys().copied().collect();
        for tid in &tids {
            self.recalc(*tid);
        }
        tids
    }

    /// Freezes the process or lets it go on. Threads to be stopped in guest code are returned.
    pub fn set_frozen(&mut self, frozen: bool) -> Vec<i32> {
        if self.frozen == frozen {
            return Vec::new();
        }
        self.frozen = frozen;
        let tids: Vec<i32> = self.threads.keys().copied().collect();
        for tid in &tids {
            if let Some(thread) = self.threads.get_mut(tid)
                && !frozen
                && self.stop.is_none()
            {
                thread.parked = false;
            }
            self.recalc(*tid);
        }
        if frozen { tids } else { Vec::new() }
    }
    /// Whether it is frozen and all its threads have come to rest.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen && self.threads.values().all(|t| t.parked || t.exiting)
    }

    fn complete_stop(&mut self) -> Option<Signal> {
        let stop = self.stop.as_mut()?;
        let all = self.threads.values().all(|t| t.parked || t.exiting);
        (all && !std::mem::replace(&mut stop.reported, all)).then_some(stop.signal)
    }

    /// Whether a parked thread has to stay so.
    #[must_use]
    pub fn must_park(&self, tid: i32) -> bool {
        (self.stop.is_some() || self.frozen) && self.group_exit.is_none() && self.threads.get(&tid).is_some_and(|t| t.parked && !t.killed)
    }

    /// execve(2): handlers reset in a table of its own, the alternate stack forgotten; pending signals and the mask stay.
    pub fn reset_for_exec(&mut self, tid: i32) {
        let mut actions = self.actions.lock().clone();
        actions.reset_for_exec();
        self.actions = Arc::new(SpinLock::new(actions));
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.alt_stack = AltStack::default();
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
