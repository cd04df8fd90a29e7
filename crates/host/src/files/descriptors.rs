//! A bounded number of host descriptors, for any number of files that a guest holds on to.
//!
//! Always true: at most [`Descriptors::capacity`] descriptors rest in the cache; beyond it the least recently used are closed, unless someone is
//! in the middle of using them. What is pinned can't be opened again (its name is gone, or a lock hangs on it) and is counted apart, up to
//! the same number.

use super::locks;
use abi::Errno;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// An open host descriptor, and which file it is. Closing goes through [`locks`], since closing any descriptor of a file drops our locks on it.
pub(super) struct Descriptor {
    fd: Option<OwnedFd>,
    file: (u64, u64),
}

impl Descriptor {
    /// `file` is the device and inode number.
    pub fn new(fd: OwnedFd, file: (u64, u64)) -> Arc<Descriptor> {
        Arc::new(Descriptor { fd: Some(fd), file })
    }
    pub fn file(&self) -> (u64, u64) {
        self.file
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().unwrap_or_else(|| unreachable!("a descriptor is empty only while it is dropped")).as_fd()
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if let Some(fd) = self.fd.take() {
            locks::close(self.file, fd);
        }
    }
}

/// The cache of descriptors that can be opened again.
pub(super) struct Descriptors {
    capacity: usize,
    cached: Mutex<HashMap<u64, (Arc<Descriptor>, u64)>>,
    /// Counts uses; the smallest stamp is the least recently used.
    clock: AtomicU64,
    next_slot: AtomicU64,
    pinned: AtomicUsize,
}

impl Descriptors {
    pub fn new(capacity: usize) -> Arc<Descriptors> {
        Arc::new(Descriptors {
            capacity: capacity.max(4),
            cached: Mutex::new(HashMap::new()),
            clock: AtomicU64::new(0),
            next_slot: AtomicU64::new(0),
            pinned: AtomicUsize::new(0),
        })
    }

    /// The one that all trees share: a quarter of what the process may open, at most 4096.
    pub fn shared() -> Arc<Descriptors> {
        static SHARED: OnceLock<Arc<Descriptors>> = OnceLock::new();
        SHARED
            .get_or_init(|| {
                let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(16384);
                Descriptors::new(usize::try_from(limit / 4).unwrap_or(4096).min(4096))
            })
            .clone()
    }

    /// A key that no other user of the cache has.
    pub fn new_slot(&self) -> u64 {
        self.next_slot.fetch_add(1, Ordering::Relaxed)
    }

    pub fn get(&self, slot: u64) -> Option<Arc<Descriptor>> {
        let stamp = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut cached = self.cached();
        let (descriptor, used) = cached.get_mut(&slot)?;
        *used = stamp;
        Some(descriptor.clone())
    }

    /// Keeps a descriptor, and lets go of the oldest quarter when there are too many.
    pub fn insert(&self, slot: u64, descriptor: Arc<Descriptor>) {
        let stamp = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut evicted = Vec::new();
        {
            let mut cached = self.cached();
            cached.insert(slot, (descriptor, stamp));
            if cached.len() > self.capacity {
                let mut stamps: Vec<u64> = cached.values().map(|(_, used)| *used).collect();
                let middle = stamps.len() / 4;
                let (_, limit, _) = stamps.select_nth_unstable(middle);
                let limit = *limit;
                let old: Vec<u64> = cached.iter().filter(|(_, (_, used))| *used <= limit).map(|(slot, _)| *slot).collect();
                evicted.extend(old.iter().filter_map(|slot| cached.remove(slot)));
            }
        }
        // Closed here, with the lock released.
        drop(evicted);
    }

    pub fn remove(&self, slot: u64) {
        let removed = self.cached().remove(&slot);
        drop(removed);
    }

    /// Counts one more descriptor that must stay open; ENFILE when there are too many of them.
    pub fn pin(&self) -> Result<(), Errno> {
        if self.pinned.fetch_add(1, Ordering::Relaxed) >= self.capacity {
            self.unpin();
            return Err(Errno::ENFILE);
        }
        Ok(())
    }

    pub fn unpin(&self) {
        self.pinned.fetch_sub(1, Ordering::Relaxed);
    }

    /// Descriptors that rest in the cache.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.cached().len()
    }

    fn cached(&self) -> MutexGuard<'_, HashMap<u64, (Arc<Descriptor>, u64)>> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
