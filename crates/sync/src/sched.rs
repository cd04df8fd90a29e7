//! The fair scheduler: which fiber a virtual CPU runs next.
//!
//! Each fiber has a virtual run time; the one with the least runs next. A fiber that wakes gets at most [`WAKE_CREDIT_NS`] of credit over the
//! least of all, so sleepers are served soon and can't save up. A running fiber is preempted when a woken one is behind it by more than
//! [`WAKE_GRANULARITY_NS`], or when its slice is over and others wait.
//!
//! There is one queue for all virtual CPUs. A virtual CPU that runs out of work sleeps; the ticker wakes it when something in the queue has
//! waited longer than [`STEAL_AFTER_NS`], so that a pair of tasks that hand each other the turn stays on one CPU, as it should, and work that
//! really is parallel spreads within a millisecond.
//!
//! What it is not: code that knows how contexts are switched, how threads sleep or how guest code is stopped. That is [`Machine`]; a test gives
//! a fake one.

use crate::fiber::{self, Fiber};
use crate::lock::SpinLock;
use crate::rank::Rank;
use crate::timer;
use abi::Errno;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

/// Most that a fiber gains over the others by sleeping.
pub const WAKE_CREDIT_NS: u64 = 3_000_000;
/// How far behind a woken fiber must be to preempt the running one.
pub const WAKE_GRANULARITY_NS: u64 = 500_000;
/// How long a fiber may run while others wait.
pub const SLICE_NS: u64 = 4_000_000;
/// How long a fiber waits in the queue before an idle virtual CPU takes it.
pub const STEAL_AFTER_NS: u64 = 300_000;
/// How often the ticker looks while virtual CPUs are busy.
pub const TICK_NS: u64 = 1_000_000;

/// A stack with somebody on it.
pub trait Context: Send + Sync {
    /// Goes on where the context left off; returns when it leaves. Called by the virtual CPU's own loop only.
    fn enter(&self);
    /// Goes back to whoever entered. Called on the context only.
    fn leave(&self);
}

/// What the scheduler needs from the host.
pub trait Machine: Send + Sync {
    /// A context on a stack of its own that runs `entry` when first entered and leaves for good when that returns. ENOMEM, EAGAIN.
    fn new_context(&self, entry: Box<dyn FnOnce() + Send>) -> Result<Box<dyn Context>, Errno>;
    /// Stops the guest thread that was announced by [`enter_guest`] as `token`, soon; harmless if it has stopped already. It was first asked
    /// at `asked_ns` of the monotonic clock, which is `now_ns` by now: a thread that does not stop is the host's to deal with.
    fn kick(&self, token: u64, asked_ns: u64, now_ns: u64);
}

/// How a fiber gives up its virtual CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leaving {
    Yields,
    Parks,
    Exits,
}

/// What the scheduler keeps of a fiber.
pub struct Entity {
    context: OnceLock<Box<dyn Context>>,
    scheduler: &'static Scheduler,
    vruntime_ns: AtomicU64,
    run_ns: AtomicU64,
    leaving: SpinLock<Leaving>,
}

struct Cpu {
    number: usize,
    /// Virtual run time of the running fiber when it was entered, and when that was; zero when idle.
    entered_vruntime_ns: AtomicU64,
    entered_at_ns: AtomicU64,
    resched: AtomicBool,
    /// The fiber that runs here; 0 for none.
    fiber: AtomicU64,
    /// It has taken a fiber from the queue and has not given it back yet.
    busy: AtomicBool,
    /// The guest thread that runs here, as announced; 0 for none.
    in_guest: AtomicU64,
    kicked_at_ns: AtomicU64,
    /// How often a guest thread stopped here. Only this CPU writes it.
    stops: AtomicU64,
    idle: AtomicBool,
    sleep: Mutex<bool>,
    wake: Condvar,
}

struct Queue {
    /// Nothing is taken from it: the machine is frozen.
    paused: bool,
    ready: BTreeMap<(u64, u64), (Fiber, u64)>,
    min_vruntime_ns: u64,
}

/// The scheduler of the machine.
pub struct Scheduler {
    machine: Box<dyn Machine>,
    queue: SpinLock<Queue>,
    /// Length of the queue, readable without its lock.
    waiting: AtomicU32,
    cpus: Vec<Cpu>,
    stop: AtomicBool,
    /// As in the queue, readable without its lock; the ticker sleeps on the condition.
    paused: AtomicBool,
    ticker: (Mutex<()>, Condvar),
    /// Counters for `/proc`.
    pub stats: Stats,
}

/// What the scheduler has done so far.
#[derive(Default)]
pub struct Stats {
    /// Fibers entered.
    pub switches: AtomicU64,
    /// Guest threads asked to stop.
    pub kicks: AtomicU64,
    /// Idle virtual CPUs woken to take a waiting fiber.
    pub steals: AtomicU64,
}

static SCHEDULER: OnceLock<&'static Scheduler> = OnceLock::new();

thread_local! {
    static CPU: Cell<Option<&'static Cpu>> = const { Cell::new(None) };
}

#[inline(never)]
fn this_cpu() -> Option<&'static Cpu> {
    CPU.with(Cell::get)
}

impl Entity {
    pub(crate) fn scheduler(&self) -> &'static Scheduler {
        self.scheduler
    }

    /// Called on the fiber: back to the virtual CPU's loop.
    pub(crate) fn leave(&self, how: Leaving) {
        *self.leaving.lock() = how;
        if let Some(context) = self.context.get() {
            context.leave();
        }
    }
}

impl Scheduler {
    /// Makes the machine's scheduler, for `cpus` virtual CPUs. Once in a process; EBUSY after that.
    pub fn install(machine: Box<dyn Machine>, cpus: usize) -> Result<&'static Scheduler, Errno> {
        let cpus = (0..cpus.max(1))
            .map(|number| Cpu {
                number,
                entered_vruntime_ns: AtomicU64::new(0),
                entered_at_ns: AtomicU64::new(0),
                resched: AtomicBool::new(false),
                fiber: AtomicU64::new(0),
                busy: AtomicBool::new(false),
                in_guest: AtomicU64::new(0),
                kicked_at_ns: AtomicU64::new(0),
                stops: AtomicU64::new(0),
                idle: AtomicBool::new(false),
                sleep: Mutex::new(false),
                wake: Condvar::new(),
            })
            .collect();
        let scheduler: &'static Scheduler = Box::leak(Box::new(Scheduler {
            machine,
            queue: SpinLock::ranked(Rank::RunQueue, Queue { paused: false, ready: BTreeMap::new(), min_vruntime_ns: 0 }),
            waiting: AtomicU32::new(0),
            cpus,
            stop: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            ticker: (Mutex::new(()), Condvar::new()),
            stats: Stats::default(),
        }));
        timer::drive();
        SCHEDULER.set(scheduler).map_err(|_| Errno::EBUSY)?;
        Ok(scheduler)
    }

    /// Number of virtual CPUs.
    #[must_use]
    pub fn cpus(&self) -> usize {
        self.cpus.len()
    }

    /// Starts a fiber that runs `entry`. EAGAIN or ENOMEM when the host has no room for its stack.
    pub fn spawn(&'static self, entry: impl FnOnce() + Send + 'static) -> Result<Fiber, Errno> {
        let entity = Entity {
            context: OnceLock::new(),
            scheduler: self,
            vruntime_ns: AtomicU64::new(self.queue.lock().min_vruntime_ns),
            run_ns: AtomicU64::new(0),
            leaving: SpinLock::ranked(Rank::RunQueue, Leaving::Exits),
        };
        let fiber = Fiber::scheduled(entity);
        let context = self.machine.new_context(Box::new(entry))?;
        if let Some(entity) = fiber.entity() {
            let _ = entity.context.set(context);
        }
        self.enqueue(fiber.clone());
        Ok(fiber)
    }

    /// The loop of virtual CPU `number`, on the calling host thread, until [`Scheduler::stop`].
    pub fn run_cpu(&'static self, number: usize) {
        let Some(cpu) = self.cpus.get(number) else { return };
        CPU.with(|c| c.set(Some(cpu)));
        while !self.stop.load(Ordering::SeqCst) {
            match self.pick(cpu) {
                Some(fiber) => {
                    self.run(cpu, fiber);
                    cpu.busy.store(false, Ordering::SeqCst);
                }
                None => self.idle(cpu),
            }
        }
        CPU.with(|c| c.set(None));
    }

    /// The loop of the ticker, on the calling host thread, until [`Scheduler::stop`]: runs timers, ends slices, spreads work.
    pub fn run_ticker(&'static self) {
        let mut quiet = 0;
        while !self.stop.load(Ordering::SeqCst) {
            self.wait_while_paused();
            let next = timer::run_timers(crate::monotonic_ns());
            let now = crate::monotonic_ns();
            let busy = self.tick(now);
            quiet = if busy { 0 } else { quiet + 1 };
            // It lingers for a few ticks, so that a machine that is busy off and on does not wake it each time.
            let until = if quiet < 8 { Some(next.map_or(now + TICK_NS, |at| at.min(now + TICK_NS))) } else { next };
            timer::sleep_driver(until, || self.waiting.load(Ordering::SeqCst) != 0);
        }
    }

    /// Ends the loops of all virtual CPUs and of the ticker, as soon as what they run leaves.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        for cpu in &self.cpus {
            cpu.resched.store(true, Ordering::SeqCst);
            self.kick(cpu, crate::monotonic_ns());
            wake_cpu(cpu);
        }
        let held = self.ticker.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.ticker.1.notify_all();
        drop(held);
        timer::wake_driver();
    }

    /// Whether [`Scheduler::stop`] was called.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Takes no fiber from the queue any more, and waits until none runs. Guests must have been stopped for good before.
    pub(crate) fn pause(&self) {
        self.set_paused(true);
        while self.running() != 0 {
            self.stop_guests();
            std::thread::sleep(std::time::Duration::from_nanos(TICK_NS / 8));
        }
    }

    /// Goes on.
    pub(crate) fn unpause(&self) {
        self.set_paused(false);
        for cpu in &self.cpus {
            wake_cpu(cpu);
        }
        let _held = self.ticker.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.ticker.1.notify_all();
    }

    fn set_paused(&self, paused: bool) {
        let mut queue = self.queue.lock();
        queue.paused = paused;
        self.paused.store(paused, Ordering::SeqCst);
    }

    /// No timer runs while the clock stands still, and none is looked for.
    fn wait_while_paused(&self) {
        let mut held = self.ticker.0.lock().unwrap_or_else(PoisonError::into_inner);
        while self.paused.load(Ordering::SeqCst) && !self.stop.load(Ordering::SeqCst) {
            held = self.ticker.1.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Virtual CPUs on which a fiber runs.
    pub(crate) fn running(&self) -> usize {
        self.cpus.iter().filter(|cpu| cpu.busy.load(Ordering::SeqCst)).count()
    }

    /// Asks every guest thread to stop.
    pub(crate) fn stop_guests(&self) {
        let now = crate::monotonic_ns();
        for cpu in self.cpus.iter().filter(|cpu| cpu.in_guest.load(Ordering::SeqCst) != 0) {
            cpu.resched.store(true, Ordering::SeqCst);
            self.kick(cpu, now);
        }
    }

    /// How often guest threads have stopped so far, for whatever reason.
    #[must_use]
    pub fn guest_stops(&self) -> u64 {
        self.cpus.iter().map(|cpu| cpu.stops.load(Ordering::Relaxed)).sum()
    }

    /// Fibers that wait for a virtual CPU.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    fn run(&self, cpu: &'static Cpu, fiber: Fiber) {
        let Some(entity) = fiber.entity() else { return };
        let Some(context) = entity.context.get() else { return };
        fiber.set_running();
        let before = entity.vruntime_ns.load(Ordering::Relaxed);
        let entered = crate::monotonic_ns();
        cpu.entered_vruntime_ns.store(before, Ordering::Relaxed);
        cpu.entered_at_ns.store(entered, Ordering::Relaxed);
        cpu.resched.store(false, Ordering::SeqCst);
        cpu.fiber.store(fiber.id(), Ordering::SeqCst);
        fiber::set_current(Some(fiber.clone()));
        self.stats.switches.fetch_add(1, Ordering::Relaxed);
        context.enter();
        fiber::set_current(None);
        cpu.fiber.store(0, Ordering::SeqCst);
        cpu.entered_at_ns.store(0, Ordering::Relaxed);
        let ran = crate::monotonic_ns().saturating_sub(entered);
        entity.vruntime_ns.store(before + ran, Ordering::Relaxed);
        entity.run_ns.fetch_add(ran, Ordering::Relaxed);
        let leaving = std::mem::replace(&mut *entity.leaving.lock(), Leaving::Exits);
        match leaving {
            Leaving::Exits => {}
            Leaving::Yields => {
                fiber.set_queued();
                self.enqueue(fiber);
            }
            Leaving::Parks => {
                // Woken between its decision to park and now: it is ready at once.
                if !fiber.exchange(fiber::RUNNING, fiber::PARKED) {
                    fiber.set_queued();
                    self.enqueue(fiber);
                }
            }
        }
    }

    fn pick(&self, cpu: &Cpu) -> Option<Fiber> {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut queue = self.queue.lock();
        if queue.paused {
            return None;
        }
        let ((vruntime, _), (fiber, _)) = queue.ready.pop_first()?;
        // Under the lock, so that whoever pauses sees either the fiber in the queue or this CPU at work.
        cpu.busy.store(true, Ordering::SeqCst);
        let left = queue.ready.len() as u32;
        self.waiting.store(left, Ordering::SeqCst);
        queue.min_vruntime_ns = queue.min_vruntime_ns.max(vruntime);
        drop(queue);
        if left > 0 {
            // Whoever waits counts on the ticker: to end our slice, or to wake an idle CPU.
            self.rouse_ticker(crate::monotonic_ns());
        }
        Some(fiber)
    }

    fn enqueue(&self, fiber: Fiber) {
        let Some(entity) = fiber.entity() else { return };
        let vruntime = entity.vruntime_ns.load(Ordering::Relaxed);
        let now = crate::monotonic_ns();
        let mut queue = self.queue.lock();
        queue.ready.insert((vruntime, fiber.id()), (fiber, now));
        self.waiting.store(queue.ready.len() as u32, Ordering::SeqCst);
        drop(queue);
        if this_cpu().is_none() {
            self.find_cpu_for(vruntime, now);
        }
    }

    pub(crate) fn enqueue_woken(&self, fiber: Fiber) {
        let Some(entity) = fiber.entity() else { return };
        let now = crate::monotonic_ns();
        let mut queue = self.queue.lock();
        let vruntime = entity.vruntime_ns.load(Ordering::Relaxed).max(queue.min_vruntime_ns.saturating_sub(WAKE_CREDIT_NS));
        entity.vruntime_ns.store(vruntime, Ordering::Relaxed);
        queue.ready.insert((vruntime, fiber.id()), (fiber, now));
        self.waiting.store(queue.ready.len() as u32, Ordering::SeqCst);
        drop(queue);
        match this_cpu() {
            // The waker's own CPU preempts itself at its next look; idle ones are told by the ticker if that takes long.
            Some(cpu) => {
                if runs_ahead_of(cpu, vruntime, now) {
                    cpu.resched.store(true, Ordering::SeqCst);
                }
                self.rouse_ticker(now);
            }
            None => self.find_cpu_for(vruntime, now),
        }
    }

    /// Somebody off the virtual CPUs made a fiber ready: an idle CPU takes it, else the busy one that is furthest ahead makes room.
    fn find_cpu_for(&self, vruntime: u64, now: u64) {
        // Claimed, so that the next one who comes finds another.
        let claim = |cpu: &&Cpu| cpu.idle.compare_exchange(true, false, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if let Some(idle) = self.cpus.iter().find(claim) {
            wake_cpu(idle);
            return;
        }
        self.rouse_ticker(now);
        let ahead =
            |cpu: &&Cpu| cpu.entered_vruntime_ns.load(Ordering::Relaxed) + now.saturating_sub(cpu.entered_at_ns.load(Ordering::Relaxed));
        if let Some(cpu) = self.cpus.iter().max_by_key(ahead)
            && runs_ahead_of(cpu, vruntime, now)
        {
            cpu.resched.store(true, Ordering::SeqCst);
            self.kick(cpu, now);
        }
    }

    fn rouse_ticker(&self, now: u64) {
        if timer::driver_sleeps_past(now + 2 * TICK_NS) {
            timer::wake_driver();
        }
    }

    /// One look at the machine. Returns whether any virtual CPU is busy.
    fn tick(&self, now: u64) -> bool {
        let mut busy = false;
        let oldest =
            if self.waiting.load(Ordering::SeqCst) == 0 { None } else { self.queue.lock().ready.values().map(|(_, since)| *since).min() };
        let mut steal = oldest.is_some_and(|since| now.saturating_sub(since) >= STEAL_AFTER_NS);
        for cpu in &self.cpus {
            let entered = cpu.entered_at_ns.load(Ordering::Relaxed);
            if entered == 0 {
                if steal && cpu.idle.load(Ordering::SeqCst) {
                    steal = false;
                    self.stats.steals.fetch_add(1, Ordering::Relaxed);
                    wake_cpu(cpu);
                }
                continue;
            }
            busy = true;
            if cpu.resched.load(Ordering::SeqCst) {
                // Asked before and still there: the request was lost, or the guest defies it.
                self.kick(cpu, now);
            } else if oldest.is_some() && now.saturating_sub(entered) >= SLICE_NS {
                cpu.resched.store(true, Ordering::SeqCst);
                self.kick(cpu, now);
            }
        }
        busy
    }

    /// Stops the guest thread of `fiber` if it runs on a virtual CPU, so that the fiber looks around. A fiber that is in the kernel is not disturbed.
    pub fn kick_fiber(&self, fiber: &Fiber) {
        if let Some(cpu) = self.cpus.iter().find(|cpu| cpu.fiber.load(Ordering::SeqCst) == fiber.id()) {
            // Not only now: if it is about to enter the guest, it must turn back.
            cpu.resched.store(true, Ordering::SeqCst);
            let now = crate::monotonic_ns();
            self.kick(cpu, now);
            // Should the kick be lost, the ticker repeats it.
            self.rouse_ticker(now);
        }
    }

    fn kick(&self, cpu: &Cpu, now: u64) {
        let token = cpu.in_guest.load(Ordering::SeqCst);
        if token == 0 {
            return;
        }
        let first = match cpu.kicked_at_ns.compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => now,
            Err(first) => first,
        };
        self.stats.kicks.fetch_add(1, Ordering::Relaxed);
        self.machine.kick(token, first, now);
    }

    fn idle(&self, cpu: &'static Cpu) {
        cpu.idle.store(true, Ordering::SeqCst);
        let mut woken = cpu.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at after `idle` is visible: whoever queues from now on wakes us.
        let nothing = || self.waiting.load(Ordering::SeqCst) == 0 || self.paused.load(Ordering::SeqCst);
        while !*woken && nothing() && !self.stop.load(Ordering::SeqCst) {
            woken = cpu.wake.wait(woken).unwrap_or_else(PoisonError::into_inner);
        }
        *woken = false;
        drop(woken);
        cpu.idle.store(false, Ordering::SeqCst);
    }
}

fn runs_ahead_of(cpu: &Cpu, vruntime: u64, now: u64) -> bool {
    let entered = cpu.entered_at_ns.load(Ordering::Relaxed);
    entered != 0
        && cpu.entered_vruntime_ns.load(Ordering::Relaxed) + now.saturating_sub(entered) > vruntime.saturating_add(WAKE_GRANULARITY_NS)
}

fn wake_cpu(cpu: &Cpu) {
    *cpu.sleep.lock().unwrap_or_else(PoisonError::into_inner) = true;
    cpu.wake.notify_one();
}

/// The machine's scheduler, once it is installed.
#[must_use]
pub fn scheduler() -> Option<&'static Scheduler> {
    SCHEDULER.get().copied()
}

/// The number of the virtual CPU that the caller runs on; 0 off the virtual CPUs.
#[must_use]
pub fn cpu_number() -> usize {
    this_cpu().map_or(0, |cpu| cpu.number)
}

#[inline]
/// Announces that the guest thread `token` (never 0) is about to run on this virtual CPU, so that [`Machine::kick`] can stop it.
///
/// Returns false, and announces nothing, when the caller should yield first.
pub fn enter_guest(token: u64) -> bool {
    let Some(cpu) = this_cpu() else { return true };
    // Orders need not be strict before the announcement itself, which is.
    cpu.kicked_at_ns.store(0, Ordering::Release);
    cpu.in_guest.store(token, Ordering::SeqCst);
    // A kicker sets `resched` first and reads `in_guest` then, we the other way round: one of us sees the other.
    if cpu.resched.load(Ordering::SeqCst) {
        cpu.in_guest.store(0, Ordering::SeqCst);
        return false;
    }
    true
}

/// The guest thread of this virtual CPU has stopped.
pub fn leave_guest() {
    if let Some(cpu) = this_cpu() {
        // A kicker that still sees the thread kicks it for nothing, which is harmless.
        cpu.in_guest.store(0, Ordering::Release);
        cpu.stops.store(cpu.stops.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// Whether the caller should call [`crate::yield_now`].
#[must_use]
pub fn should_yield() -> bool {
    this_cpu().is_some_and(|cpu| cpu.resched.load(Ordering::SeqCst))
}

/// Time that the fiber has run, nanoseconds; 0 for a host thread. Of a running fiber: up to when it was last entered.
#[must_use]
pub fn run_time_ns(fiber: &Fiber) -> u64 {
    fiber.entity().map_or(0, |entity| entity.run_ns.load(Ordering::Relaxed))
}
