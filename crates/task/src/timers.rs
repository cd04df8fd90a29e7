//! The timers of a process: setitimer(2), timer_create(2), and `RLIMIT_CPU`.
//!
//! A timer on a clock of the wall sleeps in the machine's timer queue until it expires. One on processor time can't: it wakes when it could expire
//! at the earliest, looks, and sleeps again.
//!
//! A POSIX timer whose signal has been queued stays still until that signal is taken; only then are the expirations since counted (the overrun)
//! and the next one set. So a short interval costs nothing while its signal is blocked, timer_getoverrun(2).
//!
//! Always true: a timer's own lock is never held while a signal is sent; at most one signal of a timer is pending.

use crate::process::Process;
use crate::signal::{Slot, To};
use crate::task::Task;
use abi::siginfo::code;
use abi::{ClockId, Errno, NS_PER_SEC, RLIM_INFINITY, Resource, SigFields, SigInfo, Signal};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use sync::{SpinLock, Timer};

/// When and how often, nanoseconds. A `value_ns` of 0 is a timer that is stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TimerSpec {
    pub value_ns: u64,
    pub interval_ns: u64,
}

/// What an expiry does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notify {
    /// Nothing: the timer is only looked at.
    Nothing,
    /// A signal to the process, or to one thread of it.
    Signal { signal: Signal, value: u64, thread: Option<i32> },
}

/// The interval timers of setitimer(2), by their numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IntervalTimer {
    /// SIGALRM by the clock on the wall.
    Real = 0,
    /// SIGVTALRM by time in guest code.
    Virtual = 1,
    /// SIGPROF by processor time.
    Prof = 2,
}

impl IntervalTimer {
    /// By number. EINVAL.
    pub fn new(number: i32) -> Result<IntervalTimer, Errno> {
        match number {
            0 => Ok(IntervalTimer::Real),
            1 => Ok(IntervalTimer::Virtual),
            2 => Ok(IntervalTimer::Prof),
            _ => Err(Errno::EINVAL),
        }
    }
    fn signal(self) -> Signal {
        match self {
            IntervalTimer::Real => Signal::SIGALRM,
            IntervalTimer::Virtual => Signal::SIGVTALRM,
            IntervalTimer::Prof => Signal::SIGPROF,
        }
    }
}

/// How often a timer on processor time looks, nanoseconds: not more often, not less often.
const LOOK_MIN_NS: u64 = 1_000_000;
const LOOK_MAX_NS: u64 = 20_000_000;

/// What a timer counts.
#[derive(Clone)]
enum Source {
    /// The monotonic clock; with `realtime` a deadline that was given on the real-time clock.
    Wall { realtime: bool },
    /// Processor time of the process: in all, or in guest code.
    Process { user_only: bool },
    /// Processor time of one thread.
    Thread(Weak<Task>),
}

#[derive(Clone, Copy, Default)]
struct State {
    /// When it expires next, on its own clock; none: stopped.
    next_ns: Option<u64>,
    interval_ns: u64,
    /// It was set to this time on the real-time clock, and follows that when it is set.
    realtime_ns: Option<u64>,
    /// Its signal is pending.
    queued: bool,
    /// Expirations between the last signal and its being taken.
    overrun: i32,
}

/// What a timer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    Interval(IntervalTimer),
    Posix { id: i32, notify: Notify },
    CpuLimit,
}

struct ProcessTimer {
    process: Weak<Process>,
    purpose: Purpose,
    source: Source,
    state: SpinLock<State>,
    timer: Timer,
    _slot: Option<Slot>,
}

/// The first expiry after `now`, and how many there were up to `now`, of a timer that was due at `next`. Pure.
fn forward(next: u64, interval: u64, now: u64) -> (u64, u64) {
    if now < next {
        return (next, 0);
    }
    let passed = (now - next) / interval.max(1) + 1;
    (next.saturating_add(interval.saturating_mul(passed)), passed)
}

impl ProcessTimer {
    fn new(process: Weak<Process>, purpose: Purpose, source: Source, slot: Option<Slot>) -> Arc<ProcessTimer> {
        Arc::new_cyclic(|this: &Weak<ProcessTimer>| {
            let this = this.clone();
            let timer = Timer::new(move || {
                if let Some(this) = this.upgrade() {
                    this.expire();
                }
            });
            ProcessTimer { process, purpose, source, state: SpinLock::default(), timer, _slot: slot }
        })
    }

    /// What its own clock says.
    fn now_ns(&self) -> u64 {
        match &self.source {
            Source::Wall { .. } => sync::monotonic_ns(),
            Source::Process { user_only } => {
                let (user, total) = self.process.upgrade().map_or((0, 0), |p| p.cpu_time_ns());
                if *user_only { user } else { total }
            }
            Source::Thread(task) => task.upgrade().map_or(0, |t| t.cpu_time_ns().1),
        }
    }

    fn is_silent(&self) -> bool {
        matches!(self.purpose, Purpose::Posix { notify: Notify::Nothing, .. })
    }

    /// Puts it into the machine's queue, or takes it out.
    fn schedule(&self, state: &State) {
        match state.next_ns {
            Some(next) if !state.queued && !self.is_silent() => match self.source {
                Source::Wall { .. } => self.timer.arm(next),
                _ => {
                    let left = next.saturating_sub(self.now_ns());
                    let cpus = sync::sched::scheduler().map_or(1, sync::sched::Scheduler::cpus) as u64;
                    self.timer.arm(sync::monotonic_ns().saturating_add((left / cpus).clamp(LOOK_MIN_NS, LOOK_MAX_NS)));
                }
            },
            _ => self.timer.cancel(),
        }
    }

    fn remaining(&self, state: &State) -> TimerSpec {
        let now = self.now_ns();
        let value_ns = match state.next_ns {
            None => 0,
            Some(next) if now < next => next - now,
            Some(next) if state.interval_ns > 0 => forward(next, state.interval_ns, now).0 - now,
            // Due, and not run yet: 0 would say that it is stopped.
            Some(_) if !self.is_silent() => 1,
            Some(_) => 0,
        };
        TimerSpec { value_ns, interval_ns: state.interval_ns }
    }

    /// Sets it; `spec.value_ns` is from now unless `at_ns` is the time on its own clock. What was set before.
    fn set(&self, spec: TimerSpec, at_ns: Option<u64>, realtime_ns: Option<u64>) -> TimerSpec {
        let mut state = self.state.lock();
        let old = self.remaining(&state);
        let next = at_ns.unwrap_or_else(|| self.now_ns().saturating_add(spec.value_ns));
        *state =
            State { next_ns: (spec.value_ns != 0).then_some(next), interval_ns: spec.interval_ns, realtime_ns, queued: false, overrun: 0 };
        self.schedule(&state);
        old
    }

    /// Called by whoever runs the machine's timers.
    fn expire(&self) {
        let Some(process) = self.process.upgrade() else { return };
        let due = {
            let mut state = self.state.lock();
            let now = self.now_ns();
            let Some(next) = state.next_ns.filter(|_| !state.queued) else { return };
            if now < next {
                // Processor time that has not been used up yet.
                self.schedule(&state);
                return;
            }
            if self.purpose != Purpose::CpuLimit && !matches!(self.purpose, Purpose::Posix { .. }) {
                // Interval timers count nothing: the next one is set at once.
                state.next_ns = (state.interval_ns > 0).then(|| forward(next, state.interval_ns, now).0);
                self.schedule(&state);
            }
            now
        };
        match self.purpose {
            Purpose::Interval(which) => {
                // A standard signal always finds room.
                let _ = process.send(To::Process, SigInfo::kernel(which.signal()));
            }
            Purpose::Posix { id, notify } => self.notify(&process, id, notify),
            Purpose::CpuLimit => self.enforce_cpu_limit(&process, due),
        }
    }

    fn notify(&self, process: &Arc<Process>, id: i32, notify: Notify) {
        let Notify::Signal { signal, value, thread } = notify else { return };
        let info = SigInfo { signal, errno: 0, code: code::SI_TIMER, fields: SigFields::Timer { id, overrun: 0, value } };
        self.state.lock().queued = true;
        let sent = process.signals().send_timer(thread.map_or(To::Process, To::Thread), info, id);
        match sent {
            Some(sent) if sent.queued => process.after_send(&sent),
            // Ignored, or the thread is gone: the timer runs on unheard.
            other => {
                if let Some(sent) = other {
                    process.after_send(&sent);
                }
                self.taken();
            }
        }
    }

    /// Its signal has been taken: sets the next expiry, and answers how many there were besides the one that was told.
    fn taken(&self) -> i32 {
        let mut state = self.state.lock();
        if !state.queued {
            return state.overrun;
        }
        state.queued = false;
        let now = self.now_ns();
        match state.next_ns {
            Some(next) if state.interval_ns > 0 => {
                let (after, passed) = forward(next, state.interval_ns, now);
                state.next_ns = Some(after);
                // As POSIX has DELAYTIMER_MAX.
                state.overrun = i32::try_from(passed.saturating_sub(1)).unwrap_or(i32::MAX);
            }
            _ => {
                state.next_ns = None;
                state.overrun = 0;
            }
        }
        self.schedule(&state);
        state.overrun
    }

    /// getrlimit(2): SIGXCPU at the soft limit and each second after it, SIGKILL at the hard one.
    fn enforce_cpu_limit(&self, process: &Arc<Process>, used_ns: u64) {
        let limit = process.rlimit(Resource::Cpu);
        if limit.hard != RLIM_INFINITY && used_ns >= limit.hard.saturating_mul(NS_PER_SEC) {
            process.kill_forcibly();
            return;
        }
        {
            let mut state = self.state.lock();
            state.next_ns = Some((used_ns / NS_PER_SEC + 1) * NS_PER_SEC);
            self.schedule(&state);
        }
        if used_ns >= limit.soft.saturating_mul(NS_PER_SEC) {
            // A standard signal always finds room.
            let _ = process.send(To::Process, SigInfo::kernel(Signal::SIGXCPU));
        }
    }
}

#[derive(Default)]
struct Timers {
    intervals: [Option<Arc<ProcessTimer>>; 3],
    posix: BTreeMap<i32, Arc<ProcessTimer>>,
    next_id: i32,
    cpu_limit: Option<Arc<ProcessTimer>>,
}

/// The timers of one process.
pub struct ProcessTimers {
    process: Weak<Process>,
    timers: SpinLock<Timers>,
}

impl ProcessTimers {
    pub(crate) fn new(process: Weak<Process>) -> ProcessTimers {
        ProcessTimers { process, timers: SpinLock::default() }
    }

    fn interval(&self, which: IntervalTimer) -> Arc<ProcessTimer> {
        let mut timers = self.timers.lock();
        let slot = &mut timers.intervals[which as usize];
        slot.get_or_insert_with(|| {
            let source = match which {
                IntervalTimer::Real => Source::Wall { realtime: false },
                IntervalTimer::Virtual => Source::Process { user_only: true },
                IntervalTimer::Prof => Source::Process { user_only: false },
            };
            ProcessTimer::new(self.process.clone(), Purpose::Interval(which), source, None)
        })
        .clone()
    }

    /// setitimer(2), alarm(2); what was set before.
    pub fn set_interval(&self, which: IntervalTimer, spec: TimerSpec) -> TimerSpec {
        self.interval(which).set(spec, None, None)
    }
    /// getitimer(2).
    #[must_use]
    pub fn interval_left(&self, which: IntervalTimer) -> TimerSpec {
        let timer = self.timers.lock().intervals[which as usize].clone();
        timer.map_or(TimerSpec::default(), |t| t.remaining(&t.state.lock()))
    }

    fn posix(&self, id: i32) -> Result<Arc<ProcessTimer>, Errno> {
        self.timers.lock().posix.get(&id).cloned().ok_or(Errno::EINVAL)
    }

    /// timer_create(2) by `task`, a thread of this process; the timer's number. `notify` gets that number, for those who want it as the value.
    ///
    /// # Errors
    /// EAGAIN (`RLIMIT_SIGPENDING`, memory), EINVAL (a clock that is nobody's), EOPNOTSUPP (one that has no timers).
    pub fn create(&self, clock: ClockId, task: &Arc<Task>, notify: impl FnOnce(i32) -> Notify) -> Result<i32, Errno> {
        let process = self.process.upgrade().ok_or(Errno::ESRCH)?;
        let system = process.system;
        let source = match clock {
            ClockId::Realtime | ClockId::Tai | ClockId::RealtimeAlarm => Source::Wall { realtime: true },
            ClockId::Monotonic | ClockId::Boottime | ClockId::BoottimeAlarm => Source::Wall { realtime: false },
            ClockId::ProcessCpu | ClockId::CpuOfProcess(0) => Source::Process { user_only: false },
            ClockId::CpuOfProcess(pid) if pid == process.pid() => Source::Process { user_only: false },
            ClockId::ThreadCpu | ClockId::CpuOfThread(0) => Source::Thread(Arc::downgrade(task)),
            ClockId::CpuOfThread(tid) => {
                let other = system.task(tid).ok().filter(|t| t.process().pid() == process.pid()).ok_or(Errno::EINVAL)?;
                Source::Thread(Arc::downgrade(&other))
            }
            ClockId::CpuOfProcess(_) => return Err(Errno::EINVAL),
            ClockId::MonotonicRaw | ClockId::RealtimeCoarse | ClockId::MonotonicCoarse => return Err(Errno::EOPNOTSUPP),
        };
        let account = system.account(task.credentials().uid);
        let slot = Slot::take(&account, process.rlimit(Resource::Sigpending).soft, Some(system.ram))?;
        let mut timers = self.timers.lock();
        let mut id = timers.next_id;
        while timers.posix.contains_key(&id) {
            id = if id == i32::MAX { 0 } else { id + 1 };
        }
        timers.next_id = if id == i32::MAX { 0 } else { id + 1 };
        let timer = ProcessTimer::new(self.process.clone(), Purpose::Posix { id, notify: notify(id) }, source, Some(slot));
        timers.posix.insert(id, timer);
        Ok(id)
    }

    /// timer_settime(2); what was set before.
    ///
    /// # Errors
    /// EINVAL for a number that is no timer's.
    pub fn set(&self, id: i32, spec: TimerSpec, absolute: bool) -> Result<TimerSpec, Errno> {
        let timer = self.posix(id)?;
        let process = self.process.upgrade().ok_or(Errno::ESRCH)?;
        // A signal of its old life must not be taken for one of the new.
        process.signals().forget_timer(id);
        let realtime = absolute && matches!(timer.source, Source::Wall { realtime: true });
        let at = match (absolute, realtime) {
            (false, _) => None,
            (true, false) => Some(spec.value_ns),
            (true, true) => process.system.deadline_ns(ClockId::Realtime, spec.value_ns),
        };
        Ok(timer.set(spec, at, realtime.then_some(spec.value_ns)))
    }

    /// timer_gettime(2). EINVAL.
    pub fn left(&self, id: i32) -> Result<TimerSpec, Errno> {
        let timer = self.posix(id)?;
        let state = timer.state.lock();
        Ok(timer.remaining(&state))
    }

    /// timer_getoverrun(2). EINVAL.
    pub fn overrun(&self, id: i32) -> Result<i32, Errno> {
        Ok(self.posix(id)?.state.lock().overrun)
    }

    /// timer_delete(2). EINVAL.
    pub fn delete(&self, id: i32) -> Result<(), Errno> {
        let timer = self.timers.lock().posix.remove(&id).ok_or(Errno::EINVAL)?;
        timer.timer.cancel();
        drop(timer);
        if let Some(process) = self.process.upgrade() {
            process.signals().forget_timer(id);
        }
        Ok(())
    }

    /// Exit: all of them go.
    pub fn clear(&self) {
        self.clear_for_exec();
        let (intervals, limit) = {
            let mut timers = self.timers.lock();
            (std::mem::take(&mut timers.intervals), timers.cpu_limit.take())
        };
        for timer in intervals.into_iter().flatten().chain(limit) {
            timer.timer.cancel();
        }
    }

    /// execve(2): POSIX timers go, interval timers stay.
    pub fn clear_for_exec(&self) {
        let posix = std::mem::take(&mut self.timers.lock().posix);
        for (id, timer) in posix {
            timer.timer.cancel();
            if let Some(process) = self.process.upgrade() {
                process.signals().forget_timer(id);
            }
        }
    }

    /// `RLIMIT_CPU` has been set: watches for it from now on.
    pub fn watch_cpu_limit(&self, soft_seconds: u64) {
        let mut timers = self.timers.lock();
        if soft_seconds == RLIM_INFINITY {
            let old = timers.cpu_limit.take();
            drop(timers);
            drop(old);
            return;
        }
        let timer = timers
            .cpu_limit
            .get_or_insert_with(|| ProcessTimer::new(self.process.clone(), Purpose::CpuLimit, Source::Process { user_only: false }, None))
            .clone();
        drop(timers);
        // A limit of 0 is enforced as one of a second.
        let at = soft_seconds.max(1).saturating_mul(NS_PER_SEC);
        timer.set(TimerSpec { value_ns: at, interval_ns: NS_PER_SEC }, Some(at), None);
    }

    /// The real-time clock has been set: timers that were given a time on it follow.
    pub(crate) fn clock_was_set(&self) {
        let Some(process) = self.process.upgrade() else { return };
        let posix: Vec<_> = self.timers.lock().posix.values().cloned().collect();
        for timer in posix {
            let mut state = timer.state.lock();
            if let (Some(at), Some(_)) = (state.realtime_ns, state.next_ns)
                && !state.queued
            {
                state.next_ns = process.system.deadline_ns(ClockId::Realtime, at);
                timer.schedule(&state);
            }
        }
    }

    /// Pending signals have been forgotten because they are ignored now: timers that waited for theirs to be taken run on unheard.
    pub fn signals_were_flushed(&self) {
        let Some(process) = self.process.upgrade() else { return };
        let posix: Vec<_> = self.timers.lock().posix.iter().map(|(id, timer)| (*id, timer.clone())).collect();
        for (id, timer) in posix {
            let is_waiting = timer.state.lock().queued;
            if is_waiting && !process.signals().has_timer(id) {
                timer.taken();
            }
        }
    }

    /// Fills in what is known only when a timer's signal is taken: how often it has expired since.
    #[must_use]
    pub fn deliver(&self, info: SigInfo) -> SigInfo {
        let SigFields::Timer { id, value, .. } = info.fields else { return info };
        let Ok(timer) = self.posix(id) else { return info };
        SigInfo { fields: SigFields::Timer { id, overrun: timer.taken(), value }, ..info }
    }
}

#[cfg(test)]
mod tests {
    use super::forward;

    #[test]
    fn forwarding_counts_every_expiry_up_to_now_and_finds_the_next() {
        for (next, interval, now, expected) in [
            (100, 10, 99, (100, 0)),
            (100, 10, 100, (110, 1)),
            (100, 10, 109, (110, 1)),
            (100, 10, 110, (120, 2)),
            (100, 0, 100, (100, 1)),
            (100, u64::MAX, 200, (u64::MAX, 1)),
            (0, 1, u64::MAX - 1, (u64::MAX, u64::MAX)),
        ] {
            assert_eq!(forward(next, interval, now), expected, "{next} {interval} {now}");
        }
    }
}
