//! Wait queues: where fibers sleep for a condition and observers hear of events.
//!
//! Every wait takes the condition as a closure and tests it after registering and after each wake-up, so no wake-up is lost whatever the order
//! of the waker's store and the sleeper's test. The condition must not sleep itself: it looks, under short locks at most.
//! To wait on several queues at once, register one [`Poller`] with all of them.

use crate::events::{Events, Observer};
use crate::fiber::{Fiber, current, park};
use crate::lock::SpinLock;
use crate::rank::Rank;
use abi::{Interrupted, SysError};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

/// Why a wait ended before its condition held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitError {
    /// A signal is deliverable to the sleeper.
    Interrupted,
    /// The deadline passed.
    TimedOut,
}

impl From<Interrupted> for WaitError {
    fn from(_: Interrupted) -> Self {
        WaitError::Interrupted
    }
}

impl WaitError {
    /// As the end of a system call that gives `ETIMEDOUT` (or whatever `timeout` says) when time is up.
    #[must_use]
    pub fn or_timeout(self, timeout: abi::Errno) -> SysError {
        match self {
            WaitError::Interrupted => Interrupted.into(),
            WaitError::TimedOut => timeout.into(),
        }
    }
}

enum Sleeper {
    Fiber(Fiber),
    Observer(Arc<dyn Observer>),
}

struct Entry {
    key: u64,
    sleeper: Sleeper,
}

/// A queue of sleepers.
pub struct WaitQueue {
    entries: SpinLock<VecDeque<Entry>>,
    /// Length of `entries`, readable without the lock so that waking an empty queue costs one load.
    count: AtomicUsize,
    next_key: AtomicU64,
}

/// Waits on several queues at once (poll, select, epoll_wait): register it with each, look at each object, then [`Poller::wait`].
#[derive(Default)]
pub struct Poller {
    notified: AtomicBool,
    queue: WaitQueue,
}

impl Poller {
    /// A poller that no event has reached yet.
    #[must_use]
    pub fn new() -> Arc<Poller> {
        Arc::new(Poller::default())
    }

    /// Sleeps until an event reached it since it was made or since the last `wait`.
    pub fn wait(&self, deadline_ns: Option<u64>) -> Result<(), WaitError> {
        self.queue.wait_deadline(deadline_ns, || self.notified.swap(false, Ordering::SeqCst).then_some(()))
    }
}

impl Observer for Poller {
    fn notify(&self, _: Events) {
        self.notified.store(true, Ordering::SeqCst);
        self.queue.wake_all();
    }
}

/// An observer's place in a queue; give it back to [`WaitQueue::unregister`].
#[derive(Debug, PartialEq, Eq)]
pub struct Registration(u64);

impl Default for WaitQueue {
    fn default() -> Self {
        WaitQueue::new()
    }
}

impl WaitQueue {
    /// An empty queue.
    #[must_use]
    pub const fn new() -> WaitQueue {
        WaitQueue { entries: SpinLock::ranked(Rank::WaitQueue, VecDeque::new()), count: AtomicUsize::new(0), next_key: AtomicU64::new(1) }
    }

    /// Sleeps until `condition` gives a value; nothing but the condition ends it.
    pub fn wait_until<R>(&self, mut condition: impl FnMut() -> Option<R>) -> R {
        let fiber = current();
        loop {
            let key = self.enqueue(Sleeper::Fiber(fiber.clone()));
            if let Some(value) = condition() {
                self.leave(key, true);
                return value;
            }
            fiber.set_blocked(true);
            park(None);
            fiber.set_blocked(false);
            self.leave(key, true);
        }
    }

    /// Sleeps until `condition` gives a value or a signal is deliverable to the current task.
    pub fn wait_interruptible<R>(&self, condition: impl FnMut() -> Option<R>) -> Result<R, Interrupted> {
        self.wait_deadline(None, condition).map_err(|_| Interrupted)
    }

    /// Sleeps until `condition` gives a value, a signal is deliverable, or the monotonic clock reaches `deadline_ns`.
    ///
    /// The condition is preferred: when it holds, its value is returned though time is up or a signal is there.
    pub fn wait_deadline<R>(&self, deadline_ns: Option<u64>, mut condition: impl FnMut() -> Option<R>) -> Result<R, WaitError> {
        let fiber = current();
        loop {
            let key = self.enqueue(Sleeper::Fiber(fiber.clone()));
            if let Some(value) = condition() {
                self.leave(key, true);
                return Ok(value);
            }
            let over = if fiber.is_interrupted() {
                Some(WaitError::Interrupted)
            } else if deadline_ns.is_some_and(|at| crate::monotonic_ns() >= at) {
                Some(WaitError::TimedOut)
            } else {
                None
            };
            if let Some(why) = over {
                self.leave(key, false);
                return Err(why);
            }
            park(deadline_ns);
            self.leave(key, true);
        }
    }

    /// Adds an observer, told of every event until [`WaitQueue::unregister`].
    pub fn register(&self, observer: Arc<dyn Observer>) -> Registration {
        Registration(self.enqueue(Sleeper::Observer(observer)))
    }

    /// Takes a registration back. An observer may still be running its last notification when this returns.
    pub fn unregister(&self, registration: Registration) {
        self.leave(registration.0, true);
    }

    /// Wakes the first sleeper, and all observers.
    pub fn wake_one(&self) {
        self.wake(Events::empty(), 1);
    }

    /// Wakes every sleeper and observer.
    pub fn wake_all(&self) {
        self.wake(Events::empty(), usize::MAX);
    }

    /// Wakes every sleeper, and tells observers what happened.
    pub fn notify(&self, events: Events) {
        self.wake(events, usize::MAX);
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    fn wake(&self, events: Events, mut sleepers: usize) {
        // Pairs with the sleeper's increment of `count` before it tests its condition: either it sees our store or we see it.
        fence(Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut observers = Vec::new();
        let mut fibers: Vec<Fiber> = Vec::new();
        {
            let mut entries = self.entries.lock();
            entries.retain(|entry| match &entry.sleeper {
                Sleeper::Observer(observer) => {
                    observers.push(observer.clone());
                    true
                }
                Sleeper::Fiber(fiber) if sleepers > 0 => {
                    sleepers -= 1;
                    fibers.push(fiber.clone());
                    false
                }
                Sleeper::Fiber(_) => true,
            });
            self.count.store(entries.len(), Ordering::SeqCst);
        }
        for fiber in fibers {
            fiber.unpark();
        }
        for observer in observers {
            observer.notify(events);
        }
    }

    fn enqueue(&self, sleeper: Sleeper) -> u64 {
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let mut entries = self.entries.lock();
        entries.push_back(Entry { key, sleeper });
        self.count.store(entries.len(), Ordering::SeqCst);
        drop(entries);
        fence(Ordering::SeqCst);
        key
    }

    /// Takes entry `key` out. When a waker already took it and we do not use the wake-up, the next sleeper gets it.
    fn leave(&self, key: u64, used: bool) {
        let mut entries = self.entries.lock();
        let found = entries.iter().position(|e| e.key == key).and_then(|at| entries.remove(at)).is_some();
        self.count.store(entries.len(), Ordering::SeqCst);
        drop(entries);
        if !found && !used {
            self.wake_one();
        }
    }
}
