//! Standing still: guest threads are held before they go on, and when all that the kernel does for them is done, no fiber runs any more.
//!
//! Two steps, because a fiber in the middle of its work may hold locks. First a gate is shut ([`gate`] is where guest threads pass) and what runs in
//! the kernel may finish. Then, when nothing is ready to run and the host works on nothing of ours, the virtual CPUs stop. So while the machine
//! is frozen every fiber sleeps at a point where it waits for something outside, and host threads may use all of the kernel.
//!
//! What it is not: the clock, which the caller stops ([`crate::stop_clock`]), and file systems.

use crate::sched::{Scheduler, TICK_NS};
use crate::wait::WaitQueue;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

static SHUT: AtomicBool = AtomicBool::new(false);
static HELD: WaitQueue = WaitQueue::new();
static OUTSIDE: AtomicUsize = AtomicUsize::new(0);

/// Where a fiber passes that holds no lock and is about to run guest code; sleeps there while the gate is shut. Whether it slept.
pub fn gate() -> bool {
    if !SHUT.load(Ordering::Relaxed) {
        return false;
    }
    HELD.wait_until(|| (!SHUT.load(Ordering::SeqCst)).then_some(()));
    true
}

/// Work that a host thread does for a fiber which sleeps meanwhile. As long as one of these lives the machine does not count as still.
#[derive(Debug)]
pub struct Outside(());

impl Outside {
    /// Begins before the fiber sleeps; is dropped after it has been woken.
    #[must_use]
    pub fn begin() -> Outside {
        OUTSIDE.fetch_add(1, Ordering::SeqCst);
        Outside(())
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        OUTSIDE.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Scheduler {
    /// Freezes the machine. Called on a host thread that runs no fibers.
    ///
    /// Answers whether all work came to its end within `patience`. If not, the machine stands still all the same, but a fiber may be in
    /// the middle of something and hold a lock.
    pub fn freeze(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        SHUT.store(true, Ordering::SeqCst);
        loop {
            self.stop_guests();
            let over = Instant::now() >= until;
            if over || self.looks_still() {
                self.pause();
                let still = self.waiting() == 0 && OUTSIDE.load(Ordering::SeqCst) == 0;
                if still || over {
                    return still;
                }
                self.unpause();
            }
            std::thread::sleep(Duration::from_nanos(TICK_NS / 4));
        }
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        SHUT.store(false, Ordering::SeqCst);
        self.unpause();
        HELD.wake_all();
    }

    fn looks_still(&self) -> bool {
        self.waiting() == 0 && OUTSIDE.load(Ordering::SeqCst) == 0 && self.running() == 0
    }
}
