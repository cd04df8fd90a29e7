//! The host's clocks as the machine's: monotonic time begins at zero when the machine starts.

use std::sync::OnceLock;

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
        [0, -(start.monotonic_ns as i64), -(start.boottime_ns as i64)]
    }
}

impl Default for MachineClock {
    fn default() -> Self {
        MachineClock::new()
    }
}

impl sync::Clock for MachineClock {
    fn monotonic_ns(&self) -> u64 {
        host_ns(libc::CLOCK_MONOTONIC).saturating_sub(self.start.monotonic_ns)
    }
    fn realtime_ns(&self) -> u64 {
        host_ns(libc::CLOCK_REALTIME)
    }
}
