//! The machine's clock. Times are nanoseconds in a `u64`: 584 years from boot, or until the year 2554.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Where the time comes from. A virtual or stopped clock is another implementation of this trait.
pub trait Clock: Send + Sync {
    /// Nanoseconds since some fixed point, never going back (`CLOCK_MONOTONIC`).
    fn monotonic_ns(&self) -> u64;
    /// Nanoseconds since the epoch (`CLOCK_REALTIME`).
    fn realtime_ns(&self) -> u64;
    /// As the monotonic clock, but it goes on while that is stopped (`CLOCK_BOOTTIME`).
    fn boottime_ns(&self) -> u64 {
        self.monotonic_ns()
    }
    /// Stops the monotonic clock, or lets it go on from where it stood. A clock that can't be stopped goes on.
    fn set_stopped(&self, _stopped: bool) {}
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

/// `CLOCK_BOOTTIME` of the machine, nanoseconds.
#[must_use]
pub fn boottime_ns() -> u64 {
    clock().boottime_ns()
}

/// Stops the monotonic clock: nothing that waits for a time comes to its end.
pub fn stop_clock() {
    clock().set_stopped(true);
}

/// Lets the monotonic clock go on from where it stands.
pub fn continue_clock() {
    clock().set_stopped(false);
}
