//! Which locks this crate takes, in which order.
//!
//! Outermost first: a pass of the [`Gate`] (an open journal handle; not a lock, but waiting for it is), the journal (`Rank::Journal`), the
//! core (`Rank::SleepingLeaf`), then short locks, which are held for a few instructions. Whoever holds the core never waits for the journal
//! or the gate. Inode and page locks of the layers above come before all of these.

use sync::{SpinLock, WaitQueue};

#[derive(Default)]
struct Passes {
    open: u32,
    credits: u32,
    closed: bool,
}

/// Lets handles into the running transaction, and keeps new ones out while a commit waits for the open ones to end.
pub(crate) struct Gate {
    passes: SpinLock<Passes>,
    changed: WaitQueue,
}

impl Gate {
    pub(crate) fn new() -> Gate {
        Gate { passes: SpinLock::default(), changed: WaitQueue::new() }
    }

    /// Opens a handle that may dirty `credits` blocks, after waiting while the gate is closed. False, and no handle, when all open
    /// handles together would pass `limit`.
    pub(crate) fn enter(&self, credits: u32, limit: u32) -> bool {
        self.changed.wait_until(|| {
            let mut passes = self.passes.lock();
            if passes.closed {
                return None;
            }
            let fits = passes.open == 0 || passes.credits.saturating_add(credits) <= limit;
            if fits {
                passes.open += 1;
                passes.credits += credits;
            }
            Some(fits)
        })
    }

    /// Ends a handle.
    pub(crate) fn leave(&self, credits: u32) {
        {
            let mut passes = self.passes.lock();
            passes.open = passes.open.saturating_sub(1);
            passes.credits = passes.credits.saturating_sub(credits);
        }
        self.changed.wake_all();
    }

    /// Keeps new handles out and returns when the last one has left. Only the holder of the journal calls it.
    pub(crate) fn close(&self) {
        self.passes.lock().closed = true;
        self.changed.wait_until(|| (self.passes.lock().open == 0).then_some(()));
    }

    /// Lets handles in again.
    pub(crate) fn reopen(&self) {
        self.passes.lock().closed = false;
        self.changed.wake_all();
    }
}
