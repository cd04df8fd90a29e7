//! Waiting: fibers and the fair scheduler that runs them, short and sleeping locks, wait queues, timers, the clock.
//!
//! A guest task is a *fiber*: straight-line code on a stack of its own that gives up its virtual CPU by [`park`] and goes on after
//! [`Fiber::unpark`], possibly on another host thread. Everything that waits here is built on those two calls, and they work the same from
//! an ordinary host thread (helpers, unit tests), which then parks itself.
//!
//! Always true: a wake-up is never lost (`unpark` before `park` makes that `park` return at once), and a wait is always on a condition
//! that is tested again ([`WaitQueue::wait_until`]), so a spurious wake-up is harmless.
//!
//! What it is not: host code. Context switches, host threads and signals come from [`sched::Machine`], which `host` implements.
#![forbid(unsafe_code)]

mod clock;
mod events;
mod fiber;
mod freeze;
mod lock;
mod rank;
pub mod sched;
mod timer;
mod wait;

pub use clock::{Clock, HostClock, boottime_ns, continue_clock, install_clock, monotonic_ns, realtime_ns, stop_clock};
pub use events::{Events, Observer};
pub use fiber::{Fiber, current, park, yield_now};
pub use freeze::{Outside, gate};
pub use lock::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, SpinGuard, SpinLock};
pub use rank::Rank;
pub use timer::{Timer, run_timers, timers_pending};
pub use wait::{Poller, Registration, WaitError, WaitQueue};
