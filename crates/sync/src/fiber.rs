//! Fibers: who is running, going to sleep, and being woken.
//!
//! The token rule is that of `std::thread::park`: each fiber has one token; [`Fiber::unpark`] puts it there, [`park`] takes it or sleeps until it comes.

use crate::sched::{self, Entity};
use crate::timer;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::Duration;

/// A thread of control: a guest task's kernel side, a kernel thread, or an ordinary host thread.
#[derive(Clone)]
pub struct Fiber(Arc<Inner>);

pub(crate) struct Inner {
    id: u64,
    pub(crate) state: AtomicU8,
    interrupted: AtomicBool,
    blocked: AtomicBool,
    home: Home,
    #[cfg(debug_assertions)]
    held: std::sync::Mutex<Vec<crate::rank::Rank>>,
}

enum Home {
    /// A host thread of its own; parks as that thread.
    Thread(Thread),
    /// Runs on virtual CPUs.
    Scheduled(Entity),
}

pub(crate) const RUNNING: u8 = 0;
/// Runs, and has a token.
pub(crate) const NOTIFIED: u8 = 1;
pub(crate) const PARKED: u8 = 2;
pub(crate) const QUEUED: u8 = 3;
/// Queued, and has a token that came after it was queued.
pub(crate) const QUEUED_NOTIFIED: u8 = 4;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static CURRENT: RefCell<Option<Fiber>> = const { RefCell::new(None) };
}

/// The fiber that runs here.
// Never inlined: a fiber may go on on another host thread after a switch, so the thread-local's address must not be kept across one.
#[inline(never)]
#[must_use]
pub fn current() -> Fiber {
    CURRENT.with(|current| current.borrow_mut().get_or_insert_with(|| Fiber::new(Home::Thread(std::thread::current()))).clone())
}

#[inline(never)]
pub(crate) fn set_current(fiber: Option<Fiber>) {
    let old = CURRENT.with(|current| current.replace(fiber));
    drop(old);
}

/// Sleeps until the current fiber's token is there, and takes it; with a deadline, at most until the monotonic clock reaches it.
///
/// May also return for no reason: test the condition again.
pub fn park(deadline_ns: Option<u64>) {
    let fiber = current();
    let wakeup = deadline_ns.map(|at| match fiber.0.home {
        Home::Thread(_) => (at, 0),
        Home::Scheduled(_) => timer::insert_wakeup(at, fiber.clone()),
    });
    match &fiber.0.home {
        Home::Thread(_) => {
            if fiber.0.state.swap(RUNNING, Ordering::SeqCst) != NOTIFIED {
                match deadline_ns {
                    None => std::thread::park(),
                    Some(at) => std::thread::park_timeout(Duration::from_nanos(at.saturating_sub(crate::monotonic_ns()))),
                }
                fiber.0.state.store(RUNNING, Ordering::SeqCst);
            }
        }
        Home::Scheduled(entity) => {
            if fiber.0.state.compare_exchange(NOTIFIED, RUNNING, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                entity.leave(sched::Leaving::Parks);
            }
            if let Some(key) = wakeup {
                timer::remove(key);
            }
        }
    }
}

/// Lets others run first, if there are any who should.
pub fn yield_now() {
    let fiber = current();
    match &fiber.0.home {
        Home::Thread(_) => std::thread::yield_now(),
        Home::Scheduled(entity) => entity.leave(sched::Leaving::Yields),
    }
}

impl Fiber {
    fn new(home: Home) -> Fiber {
        Fiber(Arc::new(Inner {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            state: AtomicU8::new(RUNNING),
            interrupted: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            home,
            #[cfg(debug_assertions)]
            held: std::sync::Mutex::new(Vec::new()),
        }))
    }

    pub(crate) fn scheduled(entity: Entity) -> Fiber {
        let fiber = Fiber::new(Home::Scheduled(entity));
        fiber.0.state.store(QUEUED, Ordering::SeqCst);
        fiber
    }

    /// A number that no other fiber of this process ever has.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Gives the fiber its token, and wakes it if it is parked.
    pub fn unpark(&self) {
        match &self.0.home {
            Home::Thread(thread) => {
                if self.0.state.swap(NOTIFIED, Ordering::SeqCst) != NOTIFIED {
                    thread.unpark();
                }
            }
            Home::Scheduled(entity) => loop {
                match self.0.state.load(Ordering::SeqCst) {
                    RUNNING => {
                        if self.exchange(RUNNING, NOTIFIED) {
                            return;
                        }
                    }
                    PARKED => {
                        if self.exchange(PARKED, QUEUED) {
                            entity.scheduler().enqueue_woken(self.clone());
                            return;
                        }
                    }
                    QUEUED => {
                        if self.exchange(QUEUED, QUEUED_NOTIFIED) {
                            return;
                        }
                    }
                    _ => return,
                }
            },
        }
    }

    pub(crate) fn exchange(&self, from: u8, to: u8) -> bool {
        self.0.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// From queued to running, keeping a token that came meanwhile.
    pub(crate) fn set_running(&self) {
        if self.0.state.swap(RUNNING, Ordering::SeqCst) == QUEUED_NOTIFIED {
            self.0.state.store(NOTIFIED, Ordering::SeqCst);
        }
    }

    /// From running to queued without having parked, keeping a token that is there.
    pub(crate) fn set_queued(&self) {
        if !self.exchange(RUNNING, QUEUED) {
            self.0.state.store(QUEUED_NOTIFIED, Ordering::SeqCst);
        }
    }

    /// The interrupt token: while set, interruptible waits of this fiber end at once. Set when a signal becomes deliverable, cleared by the
    /// signal code when none is left.
    pub fn set_interrupted(&self, interrupted: bool) {
        self.0.interrupted.store(interrupted, Ordering::SeqCst);
        if interrupted {
            self.unpark();
        }
    }

    /// Whether the interrupt token is set.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.0.interrupted.load(Ordering::SeqCst)
    }

    /// Notes that it sleeps where nothing but the event that it waits for wakes it, or does so no more.
    pub(crate) fn set_blocked(&self, blocked: bool) {
        self.0.blocked.store(blocked, Ordering::Relaxed);
    }

    /// Whether it sleeps so (state `D`).
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.0.blocked.load(Ordering::Relaxed)
    }

    /// What the scheduler keeps of it; none for a host thread.
    pub(crate) fn entity(&self) -> Option<&Entity> {
        match &self.0.home {
            Home::Scheduled(entity) => Some(entity),
            Home::Thread(_) => None,
        }
    }

    #[cfg(debug_assertions)]
    pub(crate) fn held(&self) -> &std::sync::Mutex<Vec<crate::rank::Rank>> {
        &self.0.held
    }
}

impl PartialEq for Fiber {
    fn eq(&self, other: &Fiber) -> bool {
        self.0.id == other.0.id
    }
}
impl Eq for Fiber {}

impl std::fmt::Debug for Fiber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fiber({})", self.0.id)
    }
}
