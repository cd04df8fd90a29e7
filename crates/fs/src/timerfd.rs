//! timerfd_create(2): timers that are read.
//!
//! Always true: a timer on the real-time clock that was set to an absolute time follows the clock when that is set ([`clock_was_set`]).

use abi::{Errno, SysResult};
use std::sync::{Arc, Weak};
use sync::{Events, SpinLock, Timer, WaitQueue};
use vfs::{Caller, FileOps, OpenFile, OpenFlags, PollTable, Positioning, Sink, Timestamp};

/// Which clock a timer goes by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerClock {
    Monotonic,
    Realtime,
}

/// When and how often it expires: `struct itimerspec`, nanoseconds. A `value_ns` of 0 stops it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TimerSpec {
    pub value_ns: u64,
    pub interval_ns: u64,
}

/// What a time means to timerfd_settime.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerStart {
    /// From now.
    Relative,
    /// `TFD_TIMER_ABSTIME`.
    Absolute,
    /// Absolute, and reads answer ECANCELED when the clock is set (`TFD_TIMER_CANCEL_ON_SET`).
    AbsoluteUnlessSet,
}

#[derive(Default)]
struct State {
    /// Monotonic time of the next expiry.
    next_ns: Option<u64>,
    interval_ns: u64,
    /// Absolute real time of the next expiry, if the timer was set so.
    realtime_ns: Option<u64>,
    expirations: u64,
    cancel_on_set: bool,
    cancelled: bool,
}

/// A timerfd.
pub struct TimerFd {
    clock: TimerClock,
    state: SpinLock<State>,
    queue: Arc<WaitQueue>,
    timer: Timer,
}

static REALTIME_TIMERS: SpinLock<Vec<Weak<TimerFd>>> = SpinLock::new(Vec::new());

/// Opens a new timerfd, stopped. `flags`: O_NONBLOCK.
pub fn timerfd(caller: &Caller<'_>, clock: TimerClock, flags: OpenFlags) -> SysResult<Arc<OpenFile>> {
    let ops = Arc::new_cyclic(|this: &Weak<TimerFd>| {
        let this = this.clone();
        let timer = Timer::new(move || {
            if let Some(timer) = this.upgrade() {
                timer.expire();
            }
        });
        TimerFd { clock, state: SpinLock::default(), queue: Arc::default(), timer }
    });
    if clock == TimerClock::Realtime {
        let mut timers = REALTIME_TIMERS.lock();
        timers.retain(|timer| timer.strong_count() > 0);
        timers.push(Arc::downgrade(&ops));
    }
    caller.open_anon("anon_inode:[timerfd]", ops, OpenFlags::RDWR | flags.intersection(OpenFlags::NONBLOCK))
}

/// Tells timers that the guest's real-time clock was set.
pub fn clock_was_set() {
    let timers: Vec<_> = REALTIME_TIMERS.lock().iter().filter_map(Weak::upgrade).collect();
    for timer in timers {
        timer.clock_was_set();
    }
}

fn realtime_ns() -> u64 {
    u64::try_from(Timestamp::now().as_ns()).unwrap_or(0)
}

impl TimerFd {
    /// timerfd_settime(2): answers what it was set to, the value relative to now.
    pub fn set(&self, start: TimerStart, spec: TimerSpec) -> TimerSpec {
        let now = sync::monotonic_ns();
        let old = self.get();
        let mut state = self.state.lock();
        *state = State { interval_ns: spec.interval_ns, ..State::default() };
        if spec.value_ns > 0 {
            let next = match start {
                TimerStart::Relative => now.saturating_add(spec.value_ns),
                _ if self.clock == TimerClock::Realtime => {
                    state.realtime_ns = Some(spec.value_ns);
                    state.cancel_on_set = start == TimerStart::AbsoluteUnlessSet;
                    now.saturating_add(spec.value_ns.saturating_sub(realtime_ns()))
                }
                _ => spec.value_ns,
            };
            state.next_ns = Some(next);
        }
        self.rearm(&state);
        old
    }
    /// timerfd_gettime(2).
    #[must_use]
    pub fn get(&self) -> TimerSpec {
        let state = self.state.lock();
        let now = sync::monotonic_ns();
        // A timer that is due but has not been run yet is about to expire: never 0, which would say "stopped".
        let value_ns = state.next_ns.map_or(0, |next| next.saturating_sub(now).max(1));
        TimerSpec { value_ns, interval_ns: state.interval_ns }
    }
    fn rearm(&self, state: &State) {
        match state.next_ns {
            Some(at) => self.timer.arm(at),
            None => self.timer.cancel(),
        }
    }
    fn expire(&self) {
        {
            let mut state = self.state.lock();
            let now = sync::monotonic_ns();
            let Some(next) = state.next_ns.filter(|next| *next <= now) else { return };
            let interval = state.interval_ns;
            let missed = (now - next).checked_div(interval).unwrap_or(0);
            state.expirations = state.expirations.saturating_add(missed + 1);
            let step = (missed + 1).saturating_mul(interval);
            state.next_ns = (interval > 0).then(|| next.saturating_add(step));
            state.realtime_ns = state.realtime_ns.filter(|_| interval > 0).map(|at| at.saturating_add(step));
            self.rearm(&state);
        }
        self.queue.notify(Events::IN | Events::RDNORM);
    }
    fn clock_was_set(&self) {
        {
            let mut state = self.state.lock();
            let Some(at) = state.realtime_ns else { return };
            state.cancelled |= state.cancel_on_set;
            state.next_ns = Some(sync::monotonic_ns().saturating_add(at.saturating_sub(realtime_ns())));
            self.rearm(&state);
        }
        self.queue.notify(Events::IN | Events::RDNORM);
    }
    fn take(&self) -> Option<Result<u64, Errno>> {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.cancelled) {
            return Some(Err(Errno::ECANCELED));
        }
        let taken = std::mem::take(&mut state.expirations);
        (taken > 0).then_some(Ok(taken))
    }
}

impl FileOps for TimerFd {
    fn positioning(&self) -> Positioning {
        Positioning::Stream
    }
    fn read(&self, file: &OpenFile, _: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        if sink.room() < 8 {
            return Err(Errno::EINVAL.into());
        }
        let value = match self.take() {
            Some(value) => value,
            None if file.is_nonblocking() => return Err(Errno::EAGAIN.into()),
            None => self.queue.wait_interruptible(|| self.take())?,
        }?;
        if sink.put(&value.to_ne_bytes())? < 8 {
            return Err(Errno::EFAULT.into());
        }
        Ok(8)
    }
    fn can_poll(&self) -> bool {
        true
    }
    fn poll(&self, _: &OpenFile, table: Option<&mut PollTable>) -> Events {
        if let Some(table) = table {
            table.listen(&self.queue);
        }
        let state = self.state.lock();
        if state.expirations > 0 || state.cancelled { Events::IN } else { Events::empty() }
    }
    fn fdinfo(&self, _: &OpenFile) -> String {
        let clock = if self.clock == TimerClock::Realtime { 0 } else { 1 };
        let spec = self.get();
        let time = |ns: u64| format!("({}, {})", ns / 1_000_000_000, ns % 1_000_000_000);
        let ticks = self.state.lock().expirations;
        let (value, interval) = (time(spec.value_ns), time(spec.interval_ns));
        format!("clockid: {clock}\nticks: {ticks}\nsettime flags: 00\nit_value: {value}\nit_interval: {interval}\n")
    }
}
