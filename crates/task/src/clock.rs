//! The clocks of the machine, clock_gettime(2), time_namespaces(7)'s place: the host's clocks with the guest's own offsets, and the processor time
//! of threads and processes.
//!
//! Always true: deadlines inside the kernel are on the monotonic clock. One on the real-time clock is turned into one when the wait begins, so
//! that a later clock_settime(2) does not move it; Linux would wake the sleeper. [`System::set_realtime_ns`] says so.

use crate::system::System;
use crate::task::Task;
use abi::{ClockId, Errno};
use std::sync::atomic::Ordering;
use vfs::Timestamp;

/// Granularity of the coarse clocks, as a kernel with 250 ticks a second has it.
pub const COARSE_NS: u64 = 4_000_000;

impl System {
    /// `CLOCK_REALTIME` as the guest has set it, nanoseconds since the epoch.
    #[must_use]
    pub fn realtime_ns(&self) -> u64 {
        sync::realtime_ns().saturating_add_signed(self.realtime_offset_ns.load(Ordering::Relaxed))
    }

    /// clock_settime(2): only the guest's offset changes. Timers follow; sleeps that have begun keep the deadline that they had.
    pub fn set_realtime_ns(&self, ns: u64) {
        let offset = ns.wrapping_sub(sync::realtime_ns()) as i64;
        self.realtime_offset_ns.store(offset, Ordering::Relaxed);
        Timestamp::set_realtime_offset_ns(offset);
        self.hooks.realtime_was_set(offset);
        let processes: Vec<_> = self.table().all_processes();
        for process in processes {
            process.timers.clock_was_set();
        }
    }

    /// Nanoseconds since the machine was started.
    #[must_use]
    pub fn uptime_ns(&self) -> u64 {
        sync::monotonic_ns().saturating_sub(self.started_at_ns)
    }

    /// What `clock` says now to `task`.
    ///
    /// # Errors
    /// EINVAL for the processor time of a thread or process that is not there.
    pub fn clock_ns(&self, clock: ClockId, task: &Task) -> Result<u64, Errno> {
        Ok(match clock {
            ClockId::Realtime | ClockId::RealtimeAlarm | ClockId::Tai => self.realtime_ns(),
            ClockId::RealtimeCoarse => self.realtime_ns() / COARSE_NS * COARSE_NS,
            ClockId::Monotonic | ClockId::MonotonicRaw => sync::monotonic_ns(),
            ClockId::Boottime | ClockId::BoottimeAlarm => sync::boottime_ns(),
            ClockId::MonotonicCoarse => sync::monotonic_ns() / COARSE_NS * COARSE_NS,
            ClockId::ProcessCpu | ClockId::CpuOfProcess(0) => task.process().cpu_time_ns().1,
            ClockId::ThreadCpu | ClockId::CpuOfThread(0) => task.cpu_time_ns().1,
            ClockId::CpuOfProcess(pid) => self.process(pid).map_err(|_| Errno::EINVAL)?.cpu_time_ns().1,
            ClockId::CpuOfThread(tid) => {
                let other = self.task(tid).map_err(|_| Errno::EINVAL)?;
                if other.process().pid() != task.process().pid() {
                    return Err(Errno::EINVAL);
                }
                other.cpu_time_ns().1
            }
        })
    }

    /// The monotonic deadline of a wait until `at_ns` on `clock`; none for clocks that can't be slept on.
    #[must_use]
    pub fn deadline_ns(&self, clock: ClockId, at_ns: u64) -> Option<u64> {
        match clock {
            ClockId::Monotonic | ClockId::MonotonicRaw | ClockId::Boottime | ClockId::BoottimeAlarm => Some(at_ns),
            ClockId::Realtime | ClockId::RealtimeAlarm | ClockId::Tai => {
                let left = at_ns.saturating_sub(self.realtime_ns());
                Some(sync::monotonic_ns().saturating_add(left))
            }
            _ => None,
        }
    }
}
