//! The machine's clock. Times are nanoseconds in a `u64`: 584 years from boot, or until the year 2554.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Where the time comes from. A virtual or stopped clock is another implementation of this trait.
pub trait Clock: Send + Sync {
    /// Nanoseconds since some fixed point, never going back (`CLOCK_MONOTONIC`).
    fn monotonic_ns(&self) -> u64;
    /// Nanoseconds since the epoch (`CLOCK_REALTIME`).
    fn realtime_ns(&self) -> u64;
}

/// The host's clocks.
pub struct HostClock {
    origin: Instant,
}

impl HostClock {
    /// A monotonic clock that starts at zero now.
    #[must_use]
    pub fn new() -> HostClock {
        HostClock { origin: Instant::now() }
    }
}

impl Default for HostClock {
    fn default() -> Self {
        HostClock::new()
    }
}

impl Clock for HostClock {
    fn monotonic_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }
    fn realtime_ns(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
    }
}

static CLOCK: OnceLock<Box<dyn Clock>> = OnceLock::new();

fn clock() -> &'static dyn Clock {
    CLOCK.get_or_init(|| Box::new(HostClock::new())).as_ref()
}

/// Makes `clock` the machine's clock. It can be set once, before the first look at it; later calls answer false and change nothing.
pub fn install_clock(clock: Box<dyn Clock>) -> bool {
    CLOCK.set(clock).is_ok()
}

/// `CLOCK_MONOTONIC` of the machine, nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    clock().monotonic_ns()
}

/// `CLOCK_REALTIME` of the machine before the guest's own offset, nanoseconds since the epoch.
#[must_use]
pub fn realtime_ns() -> u64 {
    clock().realtime_ns()
}
