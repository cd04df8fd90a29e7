//! The turn of a stream's readers: one copies at a time, so that data stays in order (Linux's `iolock`).
//!
//! It is outside the order of ranks because it is held over user copies; its holder takes no second one, and gives it back to wait for data.

use std::sync::atomic::{AtomicBool, Ordering};
use sync::WaitQueue;

#[derive(Default)]
pub(crate) struct Turn {
    taken: AtomicBool,
    waiters: WaitQueue,
}

/// Holds a [`Turn`].
pub(crate) struct Taken<'a>(&'a Turn);

impl Turn {
    pub fn take(&self) -> Taken<'_> {
        let try_take = || self.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).ok();
        if try_take().is_none() {
            self.waiters.wait_until(try_take);
        }
        Taken(self)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
        self.0.waiters.wake_one();
    }
}
