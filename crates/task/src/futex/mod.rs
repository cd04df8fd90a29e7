//! Futexes: sleeping on a word of guest memory, futex(2), and robust lists, set_robust_list(2).
//!
//! A waiter puts itself into its bucket *first* and looks at the word *then*: who changes the word and wakes afterwards either finds the waiter or
//! was seen by it. So the word is never read under a short lock, and reading may fault like any user access.
//! The price is small: a wake may be spent on a waiter that would have found the word changed; it returns 0, which futex(2) allows.
//!
//! What it is not: priority inheritance. `FUTEX_LOCK_PI` and its kin hand the lock over in order of arrival; the fair scheduler has no priorities
//! to lend.
//!
//! Always true: a waiter is in exactly one bucket, that of its key, until it is woken or leaves.

mod op;
mod pi;
mod robust;

pub use op::WakeOp;
pub use robust::{HEAD_LEN as ROBUST_HEAD_LEN, RobustList};

use abi::{Errno, SysError, SysResult};
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use sync::{SpinLock, WaitError, WaitQueue};

/// Matches every waiter (`FUTEX_BITSET_MATCH_ANY`).
pub const ANY: u32 = u32::MAX;

pub use mm::FutexKey as Key;

/// Guest memory as futexes need it. Addresses are multiples of 4.
pub trait FutexMemory {
    /// The key of the word at `addr`. With `shared`, of what is mapped there: private anonymous memory keeps a private key. EFAULT.
    fn futex_key(&self, addr: u64, shared: bool) -> Result<Key, Errno>;
    /// Reads the word in one piece. EFAULT.
    fn load_u32(&self, addr: u64) -> Result<u32, Errno>;
    /// Replaces the word by `new` if it is `old`; what was there in either case. EFAULT.
    fn compare_exchange_u32(&self, addr: u64, old: u32, new: u32) -> Result<Result<u32, u32>, Errno>;
}

impl FutexMemory for mm::AddressSpace {
    fn futex_key(&self, addr: u64, shared: bool) -> Result<Key, Errno> {
        mm::AddressSpace::futex_key(self, addr, shared)
    }
    fn load_u32(&self, addr: u64) -> Result<u32, Errno> {
        mm::AddressSpace::load_u32(self, addr)
    }
    fn compare_exchange_u32(&self, addr: u64, old: u32, new: u32) -> Result<Result<u32, u32>, Errno> {
        mm::AddressSpace::compare_exchange_u32(self, addr, old, new)
    }
}

struct Waiter {
    key: SpinLock<Key>,
    bitset: u32,
    /// The thread, for locks that are handed over.
    tid: i32,
    woken: AtomicBool,
    queue: WaitQueue,
}

impl Waiter {
    fn wake(&self) {
        self.woken.store(true, Ordering::SeqCst);
        self.queue.wake_all();
    }
    fn is_woken(&self) -> bool {
        self.woken.load(Ordering::SeqCst)
    }
}

type Bucket = SpinLock<VecDeque<Arc<Waiter>>>;

/// Buckets of the table.
const BUCKETS: usize = 256;

/// All futex waiters of the machine.
pub struct Futexes {
    buckets: Vec<Bucket>,
    hasher: RandomState,
}

impl Default for Futexes {
    fn default() -> Self {
        Futexes { buckets: (0..BUCKETS).map(|_| Bucket::default()).collect(), hasher: RandomState::new() }
    }
}

/// EINVAL unless the word is aligned.
fn aligned(addr: u64) -> Result<u64, Errno> {
    if addr & 3 == 0 { Ok(addr) } else { Err(Errno::EINVAL) }
}

impl Futexes {
    fn index(&self, key: &Key) -> usize {
        // The remainder is below the number of buckets.
        self.hasher.hash_one(key) as usize % BUCKETS
    }
    fn bucket(&self, key: &Key) -> &Bucket {
        &self.buckets[self.index(key)]
    }

    fn enqueue(&self, key: Key, bitset: u32, tid: i32) -> Arc<Waiter> {
        let waiter = Arc::new(Waiter { key: SpinLock::new(key), bitset, tid, woken: AtomicBool::new(false), queue: WaitQueue::new() });
        self.bucket(&key).lock().push_back(waiter.clone());
        waiter
    }

    /// Takes a waiter out of its bucket; false if a waker has done so.
    fn dequeue(&self, waiter: &Arc<Waiter>) -> bool {
        loop {
            let key = *waiter.key.lock();
            let mut bucket = self.bucket(&key).lock();
            if *waiter.key.lock() != key {
                continue; // It was moved to another bucket meanwhile.
            }
            let before = bucket.len();
            bucket.retain(|w| !Arc::ptr_eq(w, waiter));
            return bucket.len() != before;
        }
    }

    /// `FUTEX_WAIT`, `FUTEX_WAIT_BITSET`: sleeps while the word is `value`, until woken with a matching bit or the monotonic clock reaches
    /// `deadline_ns`.
    ///
    /// # Errors
    /// EAGAIN when the word is something else, ETIMEDOUT, EINVAL, EFAULT; a restart when interrupted (of the kind without a timeout).
    pub fn wait(
        &self,
        memory: &dyn FutexMemory,
        addr: u64,
        shared: bool,
        value: u32,
        bitset: u32,
        deadline_ns: Option<u64>,
    ) -> SysResult<()> {
        if bitset == 0 {
            return Err(Errno::EINVAL.into());
        }
        let key = memory.futex_key(aligned(addr)?, shared)?;
        let waiter = self.enqueue(key, bitset, 0);
        let now = memory.load_u32(addr);
        if now != Ok(value) {
            let was_woken = !self.dequeue(&waiter);
            return match now {
                Err(errno) => Err(errno.into()),
                Ok(_) if was_woken => Ok(()),
                Ok(_) => Err(Errno::EAGAIN.into()),
            };
        }
        self.sleep(&waiter, deadline_ns)
    }

    fn sleep(&self, waiter: &Arc<Waiter>, deadline_ns: Option<u64>) -> SysResult<()> {
        match waiter.queue.wait_deadline(deadline_ns, || waiter.is_woken().then_some(())) {
            Ok(()) => Ok(()),
            // A waker that came first has counted us.
            Err(_) if !self.dequeue(waiter) => Ok(()),
            Err(WaitError::TimedOut) => Err(Errno::ETIMEDOUT.into()),
            Err(error @ WaitError::Interrupted) => Err(error.or_timeout(Errno::ETIMEDOUT)),
        }
    }

    fn wake_key(&self, key: &Key, count: usize, bitset: u32) -> usize {
        let mut woken = Vec::new();
        self.bucket(key).lock().retain(|waiter| {
            let matches = woken.len() < count && waiter.bitset & bitset != 0 && *waiter.key.lock() == *key;
            if matches {
                woken.push(waiter.clone());
            }
            !matches
        });
        for waiter in &woken {
            waiter.wake();
        }
        woken.len()
    }

    /// `FUTEX_WAKE`, `FUTEX_WAKE_BITSET`: wakes up to `count` waiters; how many.
    ///
    /// # Errors
    /// EINVAL, EFAULT.
    pub fn wake(&self, memory: &dyn FutexMemory, addr: u64, shared: bool, count: usize, bitset: u32) -> Result<usize, Errno> {
        if bitset == 0 {
            return Err(Errno::EINVAL);
        }
        let key = memory.futex_key(aligned(addr)?, shared)?;
        Ok(self.wake_key(&key, count, bitset))
    }

    /// `FUTEX_REQUEUE`, `FUTEX_CMP_REQUEUE`: wakes up to `wake` waiters of one word and moves up to `requeue` others to wait for the second word. How
    /// many it woke and moved. With `expected`, only if the first word is that.
    ///
    /// # Errors
    /// EAGAIN when it is not; EINVAL, EFAULT.
    pub fn requeue(
        &self,
        memory: &dyn FutexMemory,
        from: u64,
        to: u64,
        shared: bool,
        (wake, requeue): (usize, usize),
        expected: Option<u32>,
    ) -> Result<(usize, usize), Errno> {
        let from_key = memory.futex_key(aligned(from)?, shared)?;
        let to_key = memory.futex_key(aligned(to)?, shared)?;
        if let Some(expected) = expected
            && memory.load_u32(from)? != expected
        {
            return Err(Errno::EAGAIN);
        }
        let (from_index, to_index) = (self.index(&from_key), self.index(&to_key));
        let mut woken = Vec::new();
        let mut moved = Vec::new();
        {
            // Two buckets are locked in the order of their places.
            let mut first = self.buckets[from_index.min(to_index)].lock();
            let mut second = (from_index != to_index).then(|| self.buckets[from_index.max(to_index)].lock());
            let take = |bucket: &mut VecDeque<Arc<Waiter>>, woken: &mut Vec<_>, moved: &mut Vec<Arc<Waiter>>| {
                bucket.retain(|waiter| {
                    if *waiter.key.lock() != from_key {
                        return true;
                    }
                    if woken.len() < wake {
                        woken.push(waiter.clone());
                        return false;
                    }
                    if moved.len() < requeue {
                        *waiter.key.lock() = to_key;
                        moved.push(waiter.clone());
                        return false;
                    }
                    true
                });
            };
            match &mut second {
                None => {
                    take(&mut first, &mut woken, &mut moved);
                    first.extend(moved.iter().cloned());
                }
                Some(second) if from_index < to_index => {
                    take(&mut first, &mut woken, &mut moved);
                    second.extend(moved.iter().cloned());
                }
                Some(second) => {
                    take(second, &mut woken, &mut moved);
                    first.extend(moved.iter().cloned());
                }
            }
        }
        for waiter in &woken {
            waiter.wake();
        }
        Ok((woken.len(), moved.len()))
    }

    /// `FUTEX_WAKE_OP`: changes the second word, wakes waiters of the first, and those of the second if its old value passes the test.
    ///
    /// # Errors
    /// EINVAL, ENOSYS (an unknown operation), EFAULT.
    pub fn wake_op(
        &self,
        memory: &dyn FutexMemory,
        addr: u64,
        second: u64,
        shared: bool,
        (wake, wake_second): (usize, usize),
        op: WakeOp,
    ) -> Result<usize, Errno> {
        let key = memory.futex_key(aligned(addr)?, shared)?;
        let second_key = memory.futex_key(aligned(second)?, shared)?;
        let mut old = memory.load_u32(second)?;
        loop {
            match memory.compare_exchange_u32(second, old, op.apply(old)?)? {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        let mut woken = self.wake_key(&key, wake, ANY);
        if op.test(old)? {
            woken += self.wake_key(&second_key, wake_second, ANY);
        }
        Ok(woken)
    }

    /// `futex_waitv(2)`: sleeps while every word has its value; the index of one that was woken.
    ///
    /// # Errors
    /// As [`Futexes::wait`].
    pub fn wait_any(&self, memory: &dyn FutexMemory, words: &[(u64, bool, u32)], deadline_ns: Option<u64>) -> SysResult<usize> {
        let queue = Arc::new(WaitQueue::new());
        let mut waiters: Vec<Arc<Waiter>> = Vec::new();
        let leave = |waiters: &[Arc<Waiter>]| {
            let mut woken = None;
            for (index, waiter) in waiters.iter().enumerate() {
                if !self.dequeue(waiter) {
                    woken = woken.or(Some(index));
                }
            }
            woken
        };
        for (addr, shared, value) in words {
            let tried: SysResult<()> = (|| {
                let key = memory.futex_key(aligned(*addr)?, *shared)?;
                waiters.push(self.enqueue(key, ANY, 0));
                if memory.load_u32(*addr)? == *value { Ok(()) } else { Err(Errno::EAGAIN.into()) }
            })();
            if let Err(error) = tried {
                return leave(&waiters).ok_or(error);
            }
        }
        let observer: Arc<dyn sync::Observer> = Arc::new(WakeOther(queue.clone()));
        let registrations: Vec<_> = waiters.iter().map(|w| w.queue.register(observer.clone())).collect();
        let ended = queue.wait_deadline(deadline_ns, || waiters.iter().any(|w| w.is_woken()).then_some(()));
        for (waiter, registration) in waiters.iter().zip(registrations) {
            waiter.queue.unregister(registration);
        }
        let woken = leave(&waiters);
        match (woken, ended) {
            (Some(index), _) => Ok(index),
            (None, Err(WaitError::Interrupted)) => Err(WaitError::Interrupted.or_timeout(Errno::ETIMEDOUT)),
            (None, _) => Err(SysError::Errno(Errno::ETIMEDOUT)),
        }
    }

    /// Number of waiters, for tests and `/proc`.
    #[must_use]
    pub fn waiters(&self) -> usize {
        self.buckets.iter().map(|b| b.lock().len()).sum()
    }
}

struct WakeOther(Arc<WaitQueue>);

impl sync::Observer for WakeOther {
    fn notify(&self, _: sync::Events) {
        self.0.wake_all();
    }
}

#[cfg(test)]
mod tests;
