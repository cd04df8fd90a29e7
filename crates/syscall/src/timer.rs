//! Interval timers and POSIX timers: setitimer(2), alarm(2), timer_create(2) and their kin.

use crate::args::UserRef;
use abi::{ClockId, Errno, Itimerspec, Itimerval, NS_PER_SEC, Signal, SysResult, TIMER_ABSTIME, Timespec, Timeval};
use task::Current;
use task::timers::{IntervalTimer, Notify, TimerSpec};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

fn to_itimerval(spec: TimerSpec) -> Itimerval {
    // A timer that has not expired must not look stopped.
    let value_ns = if spec.value_ns == 0 { 0 } else { spec.value_ns.max(1000) };
    Itimerval { interval: Timeval::from_ns(spec.interval_ns), value: Timeval::from_ns(value_ns) }
}

fn to_itimerspec(spec: TimerSpec) -> Itimerspec {
    Itimerspec { interval: Timespec::from_ns(spec.interval_ns), value: Timespec::from_ns(spec.value_ns) }
}

/// getitimer(2).
pub fn getitimer(current: &mut Current, which: i32, to: UserRef<Itimerval>) -> SysResult<()> {
    let left = current.process().timers.interval_left(IntervalTimer::new(which)?);
    Ok(to.write(current, &to_itimerval(left))?)
}

/// setitimer(2). No new value means: stop it, as Linux has always done.
pub fn setitimer(current: &mut Current, which: i32, new: Option<UserRef<Itimerval>>, old: Option<UserRef<Itimerval>>) -> SysResult<()> {
    let which = IntervalTimer::new(which)?;
    let spec = match new {
        Some(new) => {
            let value = new.read(current)?;
            TimerSpec { value_ns: value.value.to_ns()?, interval_ns: value.interval.to_ns()? }
        }
        None => TimerSpec::default(),
    };
    let before = current.process().timers.set_interval(which, spec);
    if let Some(old) = old {
        old.write(current, &to_itimerval(before))?;
    }
    Ok(())
}

/// alarm(2). What is left of the alarm before is told in whole seconds, never 0 if something was left.
pub fn alarm(current: &mut Current, seconds: u32) -> SysResult<u64> {
    let spec = TimerSpec { value_ns: u64::from(seconds) * NS_PER_SEC, interval_ns: 0 };
    let left = current.process().timers.set_interval(IntervalTimer::Real, spec).value_ns;
    if left == 0 {
        return Ok(0);
    }
    Ok((left / NS_PER_SEC + u64::from(left % NS_PER_SEC >= NS_PER_SEC / 2)).max(1))
}

/// `struct sigevent`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SigEvent {
    value: u64,
    signal: i32,
    notify: i32,
    tid: i32,
    padding: [i32; 11],
}

const SIGEV_SIGNAL: i32 = 0;
const SIGEV_NONE: i32 = 1;
const SIGEV_THREAD: i32 = 2;
const SIGEV_THREAD_ID: i32 = 4;

/// timer_create(2).
pub fn timer_create(current: &mut Current, clock: i32, event: Option<UserRef<SigEvent>>, id: UserRef<i32>) -> SysResult<()> {
    let clock = ClockId::new(clock)?;
    let event = match event {
        Some(event) => Some(event.read(current)?),
        None => None,
    };
    let notify = match event {
        None => None,
        Some(event) if event.notify == SIGEV_NONE => Some(Notify::Nothing),
        Some(event) => {
            let signal = Signal::new(event.signal).ok_or(Errno::EINVAL)?;
            let thread = match event.notify {
                // What runs a thread is the C library's affair: the kernel sends a signal.
                SIGEV_SIGNAL | SIGEV_THREAD => None,
                SIGEV_THREAD_ID => {
                    let task = current.system().task(event.tid).map_err(|_| Errno::EINVAL)?;
                    if task.process().pid() != current.pid() {
                        return Err(Errno::EINVAL.into());
                    }
                    Some(event.tid)
                }
                _ => return Err(Errno::EINVAL.into()),
            };
            Some(Notify::Signal { signal, value: event.value, thread })
        }
    };
    let timers = &current.process().timers;
    let new = timers.create(clock, current.task(), |id| {
        // Without a word about it: SIGALRM with the timer's number.
        notify.unwrap_or(Notify::Signal { signal: Signal::SIGALRM, value: id as u64, thread: None })
    })?;
    if let Err(errno) = id.write(current, &new) {
        timers.delete(new)?;
        return Err(errno.into());
    }
    Ok(())
}

/// timer_settime(2).
pub fn timer_settime(
    current: &mut Current,
    id: i32,
    flags: u32,
    new: UserRef<Itimerspec>,
    old: Option<UserRef<Itimerspec>>,
) -> SysResult<()> {
    if new.0 == 0 {
        return Err(Errno::EINVAL.into());
    }
    let value = new.read(current)?;
    let spec = TimerSpec { value_ns: value.value.to_ns()?, interval_ns: value.interval.to_ns()? };
    let before = current.process().timers.set(id, spec, flags & TIMER_ABSTIME != 0)?;
    if let Some(old) = old {
        old.write(current, &to_itimerspec(before))?;
    }
    Ok(())
}

/// timer_gettime(2).
pub fn timer_gettime(current: &mut Current, id: i32, to: UserRef<Itimerspec>) -> SysResult<()> {
    let left = current.process().timers.left(id)?;
    Ok(to.write(current, &to_itimerspec(left))?)
}

/// timer_getoverrun(2).
pub fn timer_getoverrun(current: &mut Current, id: i32) -> SysResult<i32> {
    Ok(current.process().timers.overrun(id)?)
}

/// timer_delete(2).
pub fn timer_delete(current: &mut Current, id: i32) -> SysResult<()> {
    Ok(current.process().timers.delete(id)?)
}
