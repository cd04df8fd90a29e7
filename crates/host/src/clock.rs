//! The host's clocks as the machine's: monotonic time begins at zero when the machine starts, and stands still while the machine is stopped.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the monotonic clock shows while it is stopped; 0 while it runs.
static STOPPED_AT_NS: AtomicU64 = AtomicU64::new(0);
/// How long it was stopped before, in all.
static SKIPPED_NS: AtomicU64 = AtomicU64::new(0);

/// What the host's clocks showed when the machine started.
#[derive(Clone, Copy, Debug)]
struct Start {
    monotonic_ns: u64,
    boottime_ns: u64,
}

/// The machine's clock over clock_gettime(2) of the host.
pub struct MachineClock {
    start: Start,
}

fn host_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is ours to fill; these clocks exist on every host we run on.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn start() -> Start {
    static START: OnceLock<Start> = OnceLock::new();
    *START.get_or_init(|| Start { monotonic_ns: host_ns(libc::CLOCK_MONOTONIC), boottime_ns: host_ns(libc::CLOCK_BOOTTIME) })
}

impl MachineClock {
    /// The machine's clock; the first call decides when zero was.
    #[must_use]
    pub fn new() -> MachineClock {
        MachineClock { start: start() }
    }

    /// What the vDSO has to add to the host's realtime, monotonic and boottime clocks, nanoseconds.
    #[must_use]
    pub fn vdso_offsets_ns() -> [i64; 3] {
        let start = start();
        let skipped = SKIPPED_NS.load(Ordering::SeqCst);
        [0, -((start.monotonic_ns + skipped) as i64), -(start.boottime_ns as i64)]
    }
}

impl Default for MachineClock {
    fn default() -> Self {
        MachineClock::new()
    }
}

impl MachineClock {
    /// The host's clock since the machine's start.
    fn since_start_ns(&self) -> u64 {
        host_ns(libc::CLOCK_MONOTONIC).saturating_sub(self.start.monotonic_ns)
    }
}

impl sync::Clock for MachineClock {
    fn monotonic_ns(&self) -> u64 {
        loop {
            let skipped = SKIPPED_NS.load(Ordering::SeqCst);
            let now = self.since_start_ns();
            let stopped_at = STOPPED_AT_NS.load(Ordering::SeqCst);
            if stopped_at != 0 {
                return stopped_at;
            }
            // It was stopped and went on while we looked: what we saw belongs to two times.
            if SKIPPED_NS.load(Ordering::SeqCst) == skipped {
                return now.saturating_sub(skipped);
            }
        }
    }
    fn boottime_ns(&self) -> u64 {
        host_ns(libc::CLOCK_BOOTTIME).saturating_sub(self.start.boottime_ns)
    }
    fn set_stopped(&self, stopped: bool) {
        let stopped_at = STOPPED_AT_NS.load(Ordering::SeqCst);
        if stopped && stopped_at == 0 {
            STOPPED_AT_NS.store(self.monotonic_ns().max(1), Ordering::SeqCst);
        } else if !stopped && stopped_at != 0 {
            SKIPPED_NS.store(self.since_start_ns().saturating_sub(stopped_at), Ordering::SeqCst);
            STOPPED_AT_NS.store(0, Ordering::SeqCst);
        }
    }
    fn realtime_ns(&self) -> u64 {
        host_ns(libc::CLOCK_REALTIME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sync::Clock;

    #[test]
    fn a_stopped_clock_goes_on_from_where_it_stood() {
        let clock = MachineClock::new();
        std::thread::sleep(std::time::Duration::from_millis(2));
        let before = clock.monotonic_ns();
        clock.set_stopped(true);
        let stood = clock.monotonic_ns();
        let (boot, offsets) = (clock.boottime_ns(), MachineClock::vdso_offsets_ns());
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(stood >= before && clock.monotonic_ns() == stood);
        assert!(clock.boottime_ns() >= boot + 20_000_000, "it counts the pause");
        clock.set_stopped(false);
        let after = clock.monotonic_ns();
        assert!(after >= stood && after < stood + 15_000_000, "{stood} {after}");
        assert!(MachineClock::vdso_offsets_ns()[1] <= offsets[1] - 20_000_000);
        clock.set_stopped(false);
        assert!(clock.monotonic_ns() >= after);
    }
}
