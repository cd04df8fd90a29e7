//! The network stack of the machine as sockets use it: one lock around it, a timer that calls it again, and the queues of those who wait.
//!
//! What it is not: protocols (`net`).
//!
//! Always true: nothing is copied from or to a guest under the stack's lock; whoever changed the stack moves its packets before the lock is
//! released, and wakes whom that concerns after.

use abi::Errno;
use net::config::Config;
use net::link::Link;
use net::{Event, InterfaceId, Ready, SocketId, Stack};
use ram::{Charge, Ram};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use sync::{Events, SpinLock, Timer, WaitQueue};

/// Rounds in which packets are moved before a caller goes on.
const ROUNDS: usize = 16;
/// Bytes of packets are charged in steps of this.
const CHARGE_STEP: usize = 64 << 10;
/// No call is due.
const NEVER: u64 = u64::MAX;

/// Hears of what happened to interfaces, addresses, routes and neighbours. No lock is held meanwhile.
pub type Subscriber = Box<dyn Fn(&[Event]) + Send + Sync>;

/// See the module. One per machine.
pub struct Network {
    stack: SpinLock<Stack>,
    waiters: SpinLock<HashMap<SocketId, Weak<WaitQueue>>>,
    timer: OnceLock<Timer>,
    armed_at: AtomicU64,
    subscribers: SpinLock<Vec<Arc<Subscriber>>>,
    ram: &'static Ram,
    charge: SpinLock<Option<Charge>>,
}

impl Network {
    /// A network with nothing but `lo`, which is down.
    pub(crate) fn new(ram: &'static Ram, key: [u64; 2]) -> &'static Network {
        let mut config = Config::default();
        config.memory_max = config.memory_max.min(ram.frames() * abi::PAGE_SIZE / 8);
        let network: &'static Network = Box::leak(Box::new(Network {
            stack: SpinLock::new(Stack::new(config, key)),
            waiters: SpinLock::default(),
            timer: OnceLock::new(),
            armed_at: AtomicU64::new(NEVER),
            subscribers: SpinLock::default(),
            ram,
            charge: SpinLock::new(None),
        }));
        network.timer.get_or_init(|| {
            Timer::new(move || {
                network.armed_at.store(NEVER, Ordering::Release);
                network.with(|_| ());
            })
        });
        network
    }

    /// Looks at the stack, or changes what moves no packet.
    pub fn look<R>(&self, look: impl FnOnce(&mut Stack) -> R) -> R {
        let mut stack = self.stack.lock();
        stack.set_now(sync::monotonic_ns());
        look(&mut stack)
    }

    /// Changes the stack, moves packets, and wakes those who can go on.
    pub fn with<R>(&self, change: impl FnOnce(&mut Stack) -> R) -> R {
        let (result, ready, changes, next) = {
            let mut stack = self.stack.lock();
            stack.set_now(sync::monotonic_ns());
            let result = change(&mut stack);
            let mut next = None;
            for _ in 0..ROUNDS {
                let now = sync::monotonic_ns();
                next = stack.poll(now);
                if next.is_none_or(|at| at > now) {
                    break;
                }
            }
            (result, stack.take_ready(), stack.take_events(), next)
        };
        for (id, ready) in ready {
            let queue = self.waiters.lock().get(&id).and_then(Weak::upgrade);
            if let Some(queue) = queue {
                queue.notify(events(ready));
            }
        }
        if let Some(at) = next {
            self.call_at(at);
        }
        if !changes.is_empty() {
            let subscribers = self.subscribers.lock().clone();
            subscribers.iter().for_each(|subscriber| subscriber(&changes));
        }
        result
    }

    /// Has `subscriber` told of changes from now on.
    pub fn subscribe(&self, subscriber: Subscriber) {
        self.subscribers.lock().push(Arc::new(subscriber));
    }

    /// Adds an interface, down and without addresses. EEXIST, EINVAL for its name.
    pub fn attach(&self, name: &str, link: Box<dyn Link>) -> Result<InterfaceId, Errno> {
        self.with(|stack| stack.add_link(name, link))
    }

    /// Takes an interface away that is down. EBUSY when it is up, ENODEV when it is not there.
    pub fn detach(&self, id: InterfaceId) -> Result<(), Errno> {
        let gone = self.with(|stack| match stack.interfaces.get(id) {
            None => Err(Errno::ENODEV),
            Some(interface) if interface.up => Err(Errno::EBUSY),
            Some(_) => stack.remove_link(id).ok_or(Errno::ENODEV),
        })?;
        // Its end may take a while: not under the stack's lock.
        drop(gone);
        Ok(())
    }

    /// Sees that packets are moved at `at_ns` at the latest. A call that comes too early costs nothing but itself.
    fn call_at(&self, at_ns: u64) {
        if self.armed_at.fetch_min(at_ns, Ordering::AcqRel) > at_ns
            && let Some(timer) = self.timer.get()
        {
            timer.arm(at_ns);
        }
    }

    /// Where those wait who want to know of a socket.
    pub(crate) fn watch(&self, id: SocketId) -> Arc<WaitQueue> {
        let queue = Arc::new(WaitQueue::new());
        self.waiters.lock().insert(id, Arc::downgrade(&queue));
        queue
    }
    pub(crate) fn unwatch(&self, id: SocketId) {
        self.waiters.lock().remove(&id);
    }

    /// Charges what sockets hold now. The stack bounds that by itself; when RAM has no room for it, it takes no more. May sleep.
    pub(crate) fn settle(&self) {
        let held = self.look(|stack| stack.memory_bytes);
        let charged = self.charge.lock().as_ref().map_or(0, Charge::len_bytes);
        if held + CHARGE_STEP < charged / 2 {
            if let Some(charge) = self.charge.lock().as_mut() {
                charge.shrink_to(held + CHARGE_STEP);
            }
        } else if held > charged {
            match self.ram.charge(held - charged + CHARGE_STEP) {
                Ok(more) => {
                    let mut charge = self.charge.lock();
                    match charge.as_mut() {
                        Some(charge) => charge.absorb(more),
                        None => *charge = Some(more),
                    }
                }
                Err(_) => self.look(|stack| stack.config.memory_max = held.max(CHARGE_STEP)),
            }
        }
    }
}

/// As poll(2) has it.
pub(crate) fn events(ready: Ready) -> Events {
    let mut events = Events::from_bits_truncate(u32::from(ready.0));
    if ready.any(Ready::IN) {
        events |= Events::RDNORM;
    }
    if ready.any(Ready::OUT) {
        events |= Events::WRNORM;
    }
    events
}

/// EAGAIN is no answer yet.
pub(crate) fn unless_again<R>(result: Result<R, Errno>) -> Option<Result<R, Errno>> {
    match result {
        Err(Errno::EAGAIN) => None,
        other => Some(other),
    }
}
