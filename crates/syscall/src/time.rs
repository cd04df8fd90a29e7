//! Clocks, sleeping.

use crate::args::UserRef;
use abi::{ClockId, Errno, Restart, SysError, SysResult, TIMER_ABSTIME, Timespec, Timeval};
use sync::WaitError;
use task::Current;
use vfs::Capability;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// clock_gettime(2).
pub fn clock_gettime(current: &mut Current, clock: i32, to: UserRef<Timespec>) -> SysResult<()> {
    let now = current.system().clock_ns(ClockId::new(clock)?, current.task())?;
    Ok(to.write(current, &Timespec::from_ns(now))?)
}

/// clock_getres(2).
pub fn clock_getres(current: &mut Current, clock: i32, to: Option<UserRef<Timespec>>) -> SysResult<()> {
    let clock = ClockId::new(clock)?;
    // A clock that can't be read has no resolution either.
    current.system().clock_ns(clock, current.task())?;
    let coarse = matches!(clock, ClockId::RealtimeCoarse | ClockId::MonotonicCoarse);
    let ns = if coarse { task::clock::COARSE_NS } else { 1 };
    match to {
        Some(to) => Ok(to.write(current, &Timespec::from_ns(ns))?),
        None => Ok(()),
    }
}

/// clock_settime(2).
pub fn clock_settime(current: &mut Current, clock: i32, from: UserRef<Timespec>) -> SysResult<()> {
    if ClockId::new(clock)? != ClockId::Realtime {
        return Err(Errno::EINVAL.into());
    }
    let ns = from.read(current)?.to_ns()?;
    current.credentials().require(Capability::SYS_TIME)?;
    set(current, ns);
    Ok(())
}

fn set(current: &Current, ns: u64) {
    current.system().set_realtime_ns(ns);
    fs::timerfd::clock_was_set();
}

/// gettimeofday(2). There is no time zone.
pub fn gettimeofday(current: &mut Current, to: Option<UserRef<Timeval>>, zone: Option<UserRef<[i32; 2]>>) -> SysResult<()> {
    if let Some(to) = to {
        to.write(current, &Timeval::from_ns(current.system().realtime_ns()))?;
    }
    if let Some(zone) = zone {
        zone.write(current, &[0, 0])?;
    }
    Ok(())
}

/// settimeofday(2). A time zone is accepted and forgotten.
pub fn settimeofday(current: &mut Current, from: Option<UserRef<Timeval>>, _zone: u64) -> SysResult<()> {
    let ns = match from {
        Some(from) => Some(from.read(current)?.to_ns()?),
        None => None,
    };
    current.credentials().require(Capability::SYS_TIME)?;
    if let Some(ns) = ns {
        set(current, ns);
    }
    Ok(())
}

/// time(2).
pub fn time(current: &mut Current, to: Option<UserRef<i64>>) -> SysResult<i64> {
    let now = (current.system().realtime_ns() / abi::NS_PER_SEC) as i64;
    if let Some(to) = to {
        to.write(current, &now)?;
    }
    Ok(now)
}

/// nanosleep(2).
pub fn nanosleep(current: &mut Current, request: UserRef<Timespec>, remaining: Option<UserRef<Timespec>>) -> SysResult<()> {
    let ns = request.read(current)?.to_ns()?;
    sleep_until(current, sync::monotonic_ns().saturating_add(ns), remaining)
}

/// clock_nanosleep(2).
pub fn clock_nanosleep(
    current: &mut Current,
    clock: i32,
    flags: u32,
    request: UserRef<Timespec>,
    remaining: Option<UserRef<Timespec>>,
) -> SysResult<()> {
    let clock = ClockId::new(clock)?;
    if matches!(clock, ClockId::ThreadCpu | ClockId::CpuOfThread(_)) {
        return Err(Errno::EINVAL.into());
    }
    let ns = request.read(current)?.to_ns()?;
    if matches!(clock, ClockId::ProcessCpu | ClockId::CpuOfProcess(_)) {
        return sleep_on_cpu_clock(current, clock, flags, ns);
    }
    if flags & TIMER_ABSTIME == 0 {
        return sleep_until(current, sync::monotonic_ns().saturating_add(ns), remaining);
    }
    let deadline = current.system().deadline_ns(clock, ns).ok_or(Errno::EOPNOTSUPP)?;
    match wait(deadline) {
        Err(WaitError::Interrupted) => Err(SysError::Restart(Restart::IfNoHandler)),
        _ => Ok(()),
    }
}

fn wait(deadline_ns: u64) -> Result<(), WaitError> {
    sync::WaitQueue::new().wait_deadline(Some(deadline_ns), || None)
}

fn sleep_until(current: &mut Current, deadline_ns: u64, remaining: Option<UserRef<Timespec>>) -> SysResult<()> {
    if wait(deadline_ns) != Err(WaitError::Interrupted) {
        return Ok(());
    }
    let left = deadline_ns.saturating_sub(sync::monotonic_ns());
    if left == 0 {
        return Ok(());
    }
    if let Some(remaining) = remaining {
        remaining.write(current, &Timespec::from_ns(left))?;
    }
    current.set_restart(Box::new(move |current| sleep_until(current, deadline_ns, remaining).map(|()| 0)));
    Err(SysError::Restart(Restart::Block))
}

/// Sleeps until the process has used processor time: looks now and then, since nothing tells.
fn sleep_on_cpu_clock(current: &mut Current, clock: ClockId, flags: u32, ns: u64) -> SysResult<()> {
    let system = current.system();
    let now = system.clock_ns(clock, current.task())?;
    let until = if flags & TIMER_ABSTIME == 0 { now.saturating_add(ns) } else { ns };
    loop {
        let now = system.clock_ns(clock, current.task())?;
        if now >= until {
            return Ok(());
        }
        // It can't come sooner than with every virtual CPU at work for us.
        let cpus = sync::sched::scheduler().map_or(1, sync::sched::Scheduler::cpus) as u64;
        let step = ((until - now) / cpus).max(1_000_000);
        if wait(sync::monotonic_ns().saturating_add(step)) == Err(WaitError::Interrupted) {
            return Err(SysError::Restart(Restart::IfNoHandler));
        }
    }
}

/// `struct timex`.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Timex {
    modes: u32,
    padding: u32,
    offset: i64,
    frequency: i64,
    max_error: i64,
    estimated_error: i64,
    status: i32,
    padding_too: i32,
    constant: i64,
    precision: i64,
    tolerance: i64,
    time: Timeval,
    tick: i64,
    /// Pulse-per-second fields and the offset of TAI: all zero.
    rest: [i64; 14],
}

/// `ADJ_SETOFFSET`, `ADJ_NANO`.
const ADJ_SETOFFSET: u32 = 0x100;
const ADJ_NANO: u32 = 0x2000;
/// `STA_UNSYNC`, and what the call answers then (`TIME_ERROR`).
const STA_UNSYNC: i32 = 0x40;
const TIME_ERROR: i32 = 5;

/// adjtimex(2). The host keeps the clock's pace: only a step is obeyed, a rate is accepted and forgotten.
pub fn adjtimex(current: &mut Current, timex: UserRef<Timex>) -> SysResult<i32> {
    let wanted = timex.read(current)?;
    if wanted.modes != 0 {
        current.credentials().require(Capability::SYS_TIME)?;
    }
    if wanted.modes & ADJ_SETOFFSET != 0 {
        let unit = if wanted.modes & ADJ_NANO != 0 { 1 } else { 1000 };
        let fraction = wanted.time.usec.checked_mul(unit).filter(|ns| (0..abi::NS_PER_SEC as i64).contains(ns)).ok_or(Errno::EINVAL)?;
        let step = wanted.time.sec.checked_mul(abi::NS_PER_SEC as i64).and_then(|s| s.checked_add(fraction)).ok_or(Errno::EINVAL)?;
        let now = current.system().realtime_ns().checked_add_signed(step).ok_or(Errno::EINVAL)?;
        set(current, now);
    }
    let now = Timex {
        modes: wanted.modes,
        max_error: 16_000_000,
        estimated_error: 16_000_000,
        status: STA_UNSYNC,
        constant: 2,
        precision: 1,
        tolerance: 32_768_000,
        time: Timeval::from_ns(current.system().realtime_ns()),
        tick: 10_000,
        ..Timex::default()
    };
    timex.write(current, &now)?;
    Ok(TIME_ERROR)
}

/// clock_adjtime(2).
pub fn clock_adjtime(current: &mut Current, clock: i32, timex: UserRef<Timex>) -> SysResult<i32> {
    match ClockId::new(clock)? {
        ClockId::Realtime => adjtimex(current, timex),
        _ => Err(Errno::EOPNOTSUPP.into()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_timex_is_as_long_as_the_header_s() {
        assert_eq!(size_of::<super::Timex>(), 208);
    }
}
