//! The locks of this crate, in one place, so that what they park can be changed in one place.
//!
//! Order, first taken first: a [`Gate`] pass (a journal handle), the journal, the core. A task that holds the core never waits for the
//! journal or the gate.
//!
//! Not here: poisoning. A task that died inside has had its half operation taken back (`crate::core::Undo`).

use std::sync::{Condvar, MutexGuard, PoisonError, RwLockReadGuard, RwLockWriteGuard};

/// A sleeping lock for one.
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(std::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sleeping lock for many readers or one writer.
pub(crate) struct RwLock<T>(std::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> RwLock<T> {
        RwLock(std::sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Passes {
    open: u32,
    credits: u32,
    closed: bool,
}

/// Lets handles into the running transaction, and keeps new ones out while a commit waits for the open ones to end.
#[derive(Default)]
pub(crate) struct Gate {
    passes: std::sync::Mutex<Passes>,
    changed: Condvar,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Passes> {
        self.passes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, passes: MutexGuard<'a, Passes>) -> MutexGuard<'a, Passes> {
        self.changed.wait(passes).unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a handle that may dirty `credits` blocks. False, and no handle, when all open handles together would pass `limit`.
    pub(crate) fn enter(&self, credits: u32, limit: u32) -> bool {
        let mut passes = self.lock();
        while passes.closed {
            passes = self.wait(passes);
        }
        if passes.open > 0 && passes.credits.saturating_add(credits) > limit {
            return false;
        }
        passes.open += 1;
        passes.credits += credits;
        true
    }

    /// Ends a handle.
    pub(crate) fn leave(&self, credits: u32) {
        let mut passes = self.lock();
        passes.open = passes.open.saturating_sub(1);
        passes.credits = passes.credits.saturating_sub(credits);
        drop(passes);
        self.changed.notify_all();
    }

    /// Keeps new handles out and returns when the last one has left. Only the holder of the journal calls it.
    pub(crate) fn close(&self) {
        let mut passes = self.lock();
        passes.closed = true;
        while passes.open > 0 {
            passes = self.wait(passes);
        }
    }

    /// Lets handles in again.
    pub(crate) fn reopen(&self) {
        self.lock().closed = false;
        self.changed.notify_all();
    }
}
