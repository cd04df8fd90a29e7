//! Locks that the kernel hands over: `FUTEX_LOCK_PI`, `FUTEX_UNLOCK_PI`, futex(2) "Priority-inheritance futexes".
//!
//! The word is 0 or the owner's thread number, with `WAITERS` while somebody sleeps. The owner that finds `WAITERS` must come here, and gives the
//! lock to the waiter that came first, so nobody can overtake it.

use super::{ANY, FutexMemory, Futexes, aligned};
use abi::raw::general::{FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS};
use abi::{Errno, SysResult};

impl Futexes {
    /// `FUTEX_LOCK_PI`, `FUTEX_LOCK_PI2`. `is_alive` tells whether a thread number still has a thread.
    ///
    /// # Errors
    /// EDEADLK (the caller has it), ESRCH (the owner is gone), ETIMEDOUT, EINVAL, EFAULT; a restart when interrupted.
    pub fn lock_pi(
        &self,
        memory: &dyn FutexMemory,
        addr: u64,
        shared: bool,
        tid: i32,
        deadline_ns: Option<u64>,
        is_alive: &dyn Fn(i32) -> bool,
    ) -> SysResult<()> {
        let key = memory.futex_key(aligned(addr)?, shared)?;
        loop {
            if self.try_lock_pi(memory, addr, tid)? {
                return Ok(());
            }
            let waiter = self.enqueue(key, ANY, tid);
            let now = memory.load_u32(addr);
            let asleep = match now {
                Ok(word) if word & FUTEX_TID_MASK == 0 => Ok(false),
                Ok(word) if !is_alive((word & FUTEX_TID_MASK) as i32) => Err(Errno::ESRCH),
                Ok(word) => memory.compare_exchange_u32(addr, word, word | FUTEX_WAITERS).map(|r| r.is_ok()),
                Err(errno) => Err(errno),
            };
            match asleep {
                Ok(true) => return self.sleep(&waiter, deadline_ns),
                // Between our enqueueing and now the owner may have handed the lock to us.
                _ if !self.dequeue(&waiter) => return Ok(()),
                Ok(false) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// `FUTEX_TRYLOCK_PI`: whether the caller has it now.
    ///
    /// # Errors
    /// EDEADLK, EFAULT, EINVAL.
    pub fn try_lock_pi(&self, memory: &dyn FutexMemory, addr: u64, tid: i32) -> Result<bool, Errno> {
        let mut word = memory.load_u32(aligned(addr)?)?;
        loop {
            let owner = word & FUTEX_TID_MASK;
            if owner == tid as u32 {
                return Err(Errno::EDEADLK);
            }
            if owner != 0 {
                return Ok(false);
            }
            let mine = tid as u32 | (word & (FUTEX_WAITERS | FUTEX_OWNER_DIED));
            match memory.compare_exchange_u32(addr, word, mine)? {
                Ok(_) => return Ok(true),
                Err(now) => word = now,
            }
        }
    }

    /// `FUTEX_UNLOCK_PI`.
    ///
    /// # Errors
    /// EPERM when the caller does not have it; EINVAL, EFAULT.
    pub fn unlock_pi(&self, memory: &dyn FutexMemory, addr: u64, shared: bool, tid: i32) -> Result<(), Errno> {
        let key = memory.futex_key(aligned(addr)?, shared)?;
        loop {
            let word = memory.load_u32(addr)?;
            if word & FUTEX_TID_MASK != tid as u32 {
                return Err(Errno::EPERM);
            }
            let heirs: Vec<_> = {
                let bucket = self.bucket(&key).lock();
                bucket.iter().filter(|w| w.tid != 0 && *w.key.lock() == key).take(2).cloned().collect()
            };
            let Some(heir) = heirs.first() else {
                if memory.compare_exchange_u32(addr, word, 0)?.is_ok() {
                    return Ok(());
                }
                continue;
            };
            // Out of the bucket first: from then on it can't give up any more, and what we write stands.
            if !self.dequeue(heir) {
                continue;
            }
            let value = heir.tid as u32 | if heirs.len() > 1 { FUTEX_WAITERS } else { 0 };
            let mut old = word;
            let written = loop {
                match memory.compare_exchange_u32(addr, old, value) {
                    Ok(Ok(_)) => break Ok(()),
                    Ok(Err(now)) => old = now,
                    Err(errno) => break Err(errno),
                }
            };
            heir.wake();
            return written;
        }
    }
}
