//! Times as system calls pass them, and the clocks' numbers: clock_gettime(2), timer_create(2), setitimer(2).

use crate::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Nanoseconds in a second.
pub const NS_PER_SEC: u64 = 1_000_000_000;

/// `struct timespec`.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Timespec {
    pub sec: i64,
    pub nsec: i64,
}

impl Timespec {
    /// From nanoseconds.
    #[must_use]
    pub fn from_ns(ns: u64) -> Timespec {
        Timespec { sec: (ns / NS_PER_SEC) as i64, nsec: (ns % NS_PER_SEC) as i64 }
    }
    /// As nanoseconds, saturating at some 584 years as Linux saturates at `KTIME_MAX`.
    ///
    /// # Errors
    /// EINVAL for negative seconds, or nanoseconds outside 0..=999,999,999.
    pub fn to_ns(self) -> Result<u64, Errno> {
        if self.sec < 0 || !(0..NS_PER_SEC as i64).contains(&self.nsec) {
            return Err(Errno::EINVAL);
        }
        Ok((self.sec as u64).saturating_mul(NS_PER_SEC).saturating_add(self.nsec as u64))
    }
}

/// `struct timeval`.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Timeval {
    pub sec: i64,
    pub usec: i64,
}

impl Timeval {
    /// From nanoseconds, cut to microseconds.
    #[must_use]
    pub fn from_ns(ns: u64) -> Timeval {
        Timeval { sec: (ns / NS_PER_SEC) as i64, usec: (ns % NS_PER_SEC / 1000) as i64 }
    }
    /// As nanoseconds, saturating.
    ///
    /// # Errors
    /// EINVAL for negative seconds, or microseconds outside 0..=999,999.
    pub fn to_ns(self) -> Result<u64, Errno> {
        if self.sec < 0 || !(0..1_000_000).contains(&self.usec) {
            return Err(Errno::EINVAL);
        }
        Ok((self.sec as u64).saturating_mul(NS_PER_SEC).saturating_add(self.usec as u64 * 1000))
    }
}

/// `struct itimerspec`: when, and how often after that.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Itimerspec {
    pub interval: Timespec,
    pub value: Timespec,
}

/// `struct itimerval`.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Itimerval {
    pub interval: Timeval,
    pub value: Timeval,
}

/// A clock by number (`CLOCK_*`), or the processor-time clock of a process or thread (a negative number).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClockId {
    Realtime,
    Monotonic,
    /// `CLOCK_PROCESS_CPUTIME_ID`: the caller's process.
    ProcessCpu,
    /// `CLOCK_THREAD_CPUTIME_ID`: the caller.
    ThreadCpu,
    MonotonicRaw,
    RealtimeCoarse,
    MonotonicCoarse,
    Boottime,
    RealtimeAlarm,
    BoottimeAlarm,
    Tai,
    /// The processor time of the process `pid` (0: the caller's), clock_getcpuclockid(3).
    CpuOfProcess(i32),
    /// The processor time of the thread `tid`, pthread_getcpuclockid(3).
    CpuOfThread(i32),
}

impl ClockId {
    /// The clock that `number` names.
    ///
    /// # Errors
    /// EINVAL for a number that names none.
    pub fn new(number: i32) -> Result<ClockId, Errno> {
        Ok(match number {
            0 => ClockId::Realtime,
            1 => ClockId::Monotonic,
            2 => ClockId::ProcessCpu,
            3 => ClockId::ThreadCpu,
            4 => ClockId::MonotonicRaw,
            5 => ClockId::RealtimeCoarse,
            6 => ClockId::MonotonicCoarse,
            7 => ClockId::Boottime,
            8 => ClockId::RealtimeAlarm,
            9 => ClockId::BoottimeAlarm,
            11 => ClockId::Tai,
            // Kernel's include/linux/posix-timers_types.h: ~pid in the upper bits, bit 2 "of a thread", low bits the kind of time (3: a descriptor).
            n if n < 0 && n & 3 != 3 => {
                let pid = !(n >> 3);
                if n & 4 != 0 { ClockId::CpuOfThread(pid) } else { ClockId::CpuOfProcess(pid) }
            }
            _ => return Err(Errno::EINVAL),
        })
    }
}

/// `TIMER_ABSTIME`.
pub const TIMER_ABSTIME: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_outside_its_range_is_invalid_and_a_huge_one_saturates() {
        assert_eq!(Timespec { sec: 1, nsec: 5 }.to_ns(), Ok(1_000_000_005));
        assert_eq!(Timespec { sec: -1, nsec: 0 }.to_ns(), Err(Errno::EINVAL));
        assert_eq!(Timespec { sec: 0, nsec: 1_000_000_000 }.to_ns(), Err(Errno::EINVAL));
        assert_eq!(Timespec { sec: i64::MAX, nsec: 0 }.to_ns(), Ok(u64::MAX));
        assert_eq!(Timeval { sec: 0, usec: 1_000_000 }.to_ns(), Err(Errno::EINVAL));
        assert_eq!(Timeval::from_ns(1_500_000_999), Timeval { sec: 1, usec: 500_000 });
    }

    #[test]
    fn processor_clocks_of_others_are_negative_numbers() {
        // What pthread_getcpuclockid(3) and clock_getcpuclockid(3) of glibc compute for 1234.
        assert_eq!(ClockId::new((!1234i32 << 3) | 6), Ok(ClockId::CpuOfThread(1234)));
        assert_eq!(ClockId::new((!1234i32 << 3) | 2), Ok(ClockId::CpuOfProcess(1234)));
        assert_eq!(ClockId::new(10), Err(Errno::EINVAL));
        assert_eq!(ClockId::new(-1), Err(Errno::EINVAL));
    }
}
