//! Timers: one queue for the machine, run by whoever drives it (the scheduler's ticker; in a test, a thread of its own).

use crate::fiber::Fiber;
use crate::lock::SpinLock;
use crate::rank::Rank;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

pub(crate) enum Action {
    Unpark(Fiber),
    Call(Arc<dyn Fn() + Send + Sync>),
}

static QUEUE: SpinLock<BTreeMap<(u64, u64), Action>> = SpinLock::ranked(Rank::Timers, BTreeMap::new());
static NEXT_ID: AtomicU64 = AtomicU64::new(1);
/// Deadline that the driver sleeps for: a timer that comes earlier has to wake it.
static SLEEPING_UNTIL: AtomicU64 = AtomicU64::new(0);
static DRIVEN: AtomicBool = AtomicBool::new(false);
static WAKE: Mutex<bool> = Mutex::new(false);
static WOKEN: Condvar = Condvar::new();

/// Something that happens at a time. Dropping it cancels it.
pub struct Timer {
    id: u64,
    armed_at: SpinLock<Option<u64>>,
    action: Arc<dyn Fn() + Send + Sync>,
}

impl Timer {
    /// A timer that calls `action` each time it expires. The call comes from the thread that runs timers and must not sleep.
    pub fn new(action: impl Fn() + Send + Sync + 'static) -> Timer {
        Timer { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), armed_at: SpinLock::new(None), action: Arc::new(action) }
    }

    /// Sets it to expire when the monotonic clock reaches `at_ns`, instead of whatever it was set to.
    pub fn arm(&self, at_ns: u64) {
        let mut armed_at = self.armed_at.lock();
        if let Some(old) = armed_at.replace(at_ns) {
            remove((old, self.id));
        }
        insert((at_ns, self.id), Action::Call(self.action.clone()));
    }

    /// Cancels it. An expiry that has begun may still be running.
    pub fn cancel(&self) {
        if let Some(old) = self.armed_at.lock().take() {
            remove((old, self.id));
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// A wake-up of `fiber` at `at_ns`; give the key back to [`remove`].
pub(crate) fn insert_wakeup(at_ns: u64, fiber: Fiber) -> (u64, u64) {
    let key = (at_ns, NEXT_ID.fetch_add(1, Ordering::Relaxed));
    insert(key, Action::Unpark(fiber));
    key
}

pub(crate) fn remove(key: (u64, u64)) {
    let removed = QUEUE.lock().remove(&key);
    drop(removed);
}

fn insert(key: (u64, u64), action: Action) {
    QUEUE.lock().insert(key, action);
    if key.0 < SLEEPING_UNTIL.load(Ordering::SeqCst) {
        wake_driver();
    } else if !DRIVEN.load(Ordering::Relaxed) && !DRIVEN.swap(true, Ordering::SeqCst) {
        // No scheduler runs: a unit test. A thread of its own drives the timers for the rest of the process.
        std::thread::spawn(|| {
            loop {
                let next = run_timers(crate::monotonic_ns());
                sleep_driver(next, || false);
            }
        });
    }
}

/// Timers and timed waits that have not expired.
#[must_use]
pub fn timers_pending() -> usize {
    QUEUE.lock().len()
}

/// Declares that the caller drives the timers from now on.
pub(crate) fn drive() {
    DRIVEN.store(true, Ordering::SeqCst);
}

/// Runs every timer that is due at `now_ns`; returns when the next one is.
pub fn run_timers(now_ns: u64) -> Option<u64> {
    loop {
        let action = {
            let mut queue = QUEUE.lock();
            match queue.first_key_value() {
                None => return None,
                Some((key, _)) if key.0 > now_ns => return Some(key.0),
                Some(_) => queue.pop_first(),
            }
        };
        match action {
            Some((_, Action::Unpark(fiber))) => fiber.unpark(),
            Some((_, Action::Call(call))) => call(),
            None => return None,
        }
    }
}

/// Sleeps until `until_ns` (for ever, if none) or [`wake_driver`]; no longer than a tick while there is `work`.
pub(crate) fn sleep_driver(until_ns: Option<u64>, work: impl Fn() -> bool) {
    SLEEPING_UNTIL.store(until_ns.unwrap_or(u64::MAX), Ordering::SeqCst);
    // Work that came before the store above found a driver that does not sleep: look once more. A tick ahead of time costs nothing.
    let until_ns = if until_ns.is_none_or(|at| at > crate::monotonic_ns() + crate::sched::TICK_NS) && work() {
        Some(crate::monotonic_ns() + crate::sched::TICK_NS)
    } else {
        until_ns
    };
    // A timer inserted before the store above did not see it: look once more.
    let earliest = QUEUE.lock().first_key_value().map(|(key, _)| key.0);
    let until_ns = match (until_ns, earliest) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let mut woken = WAKE.lock().unwrap_or_else(PoisonError::into_inner);
    if !*woken {
        woken = match until_ns {
            None => WOKEN.wait(woken).unwrap_or_else(PoisonError::into_inner),
            Some(at) => {
                let wait = Duration::from_nanos(at.saturating_sub(crate::monotonic_ns()));
                WOKEN.wait_timeout(woken, wait).unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
    *woken = false;
    SLEEPING_UNTIL.store(0, Ordering::SeqCst);
}

/// Wakes the thread that runs the timers.
pub(crate) fn wake_driver() {
    *WAKE.lock().unwrap_or_else(PoisonError::into_inner) = true;
    WOKEN.notify_one();
}

/// Whether the driver sleeps with nothing to do before a timer is due.
pub(crate) fn driver_sleeps_past(at_ns: u64) -> bool {
    SLEEPING_UNTIL.load(Ordering::SeqCst) > at_ns
}
