//! Metadata blocks in memory: shared, copy-on-write, and a bounded cache of clean ones.
//!
//! Not here: dirty blocks. Those are in the running transaction or waiting for their checkpoint (`core`), so that anything in this cache
//! may be dropped at any moment. File data is never here: the page cache above has it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use sync::SpinLock;

/// What kind of content a block's checksum and structure were checked as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Nothing was checked.
    Unknown = 0,
    DirectoryLeaf,
    DirectoryIndex,
    Extents,
    BlockBitmap,
    InodeBitmap,
    Attributes,
    OrphanFile,
}

/// The bytes of one metadata block.
pub(crate) struct BlockData {
    bytes: Vec<u8>,
    checked: AtomicU8,
}

impl Clone for BlockData {
    fn clone(&self) -> BlockData {
        BlockData { bytes: self.bytes.clone(), checked: AtomicU8::new(self.checked.load(Ordering::Relaxed)) }
    }
}

impl BlockData {
    pub(crate) fn new(bytes: Vec<u8>, kind: Kind) -> BlockData {
        BlockData { bytes, checked: AtomicU8::new(kind as u8) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Whether it was already checked as this kind, so that a checksum is taken once a load and not once a look.
    pub(crate) fn is_checked(&self, kind: Kind) -> bool {
        self.checked.load(Ordering::Relaxed) == kind as u8
    }

    pub(crate) fn set_checked(&self, kind: Kind) {
        self.checked.store(kind as u8, Ordering::Relaxed);
    }
}

impl std::ops::Deref for BlockData {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A block as it was at one moment: later changes go to a copy.
pub(crate) type Block = Arc<BlockData>;

struct Entry {
    block: Block,
    used: AtomicBool,
}

#[derive(Default)]
struct Slots {
    blocks: HashMap<u64, Entry>,
    /// Block numbers in the order the clock's hand visits them; may hold numbers that are gone.
    ring: std::collections::VecDeque<u64>,
}

/// Clean metadata blocks, at most `capacity` of them, replaced by the clock algorithm.
pub(crate) struct Cache {
    slots: SpinLock<Slots>,
    capacity: usize,
}

impl Cache {
    pub(crate) fn new(capacity: usize) -> Cache {
        Cache { slots: SpinLock::new(Slots::default()), capacity: capacity.max(16) }
    }

    pub(crate) fn get(&self, number: u64) -> Option<Block> {
        let slots = self.slots.lock();
        let entry = slots.blocks.get(&number)?;
        entry.used.store(true, Ordering::Relaxed);
        Some(entry.block.clone())
    }

    pub(crate) fn insert(&self, number: u64, block: Block) {
        let mut slots = self.slots.lock();
        if slots.blocks.insert(number, Entry { block, used: AtomicBool::new(false) }).is_none() {
            slots.ring.push_back(number);
        }
        while slots.blocks.len() > self.capacity || slots.ring.len() > 2 * self.capacity {
            let Some(victim) = slots.ring.pop_front() else { break };
            match slots.blocks.get(&victim) {
                Some(entry) if entry.used.swap(false, Ordering::Relaxed) => slots.ring.push_back(victim),
                Some(_) => {
                    slots.blocks.remove(&victim);
                }
                None => {}
            }
        }
    }

    pub(crate) fn remove(&self, number: u64) {
        self.slots.lock().blocks.remove(&number);
    }

    /// Drops everything (memory pressure).
    pub(crate) fn clear(&self) {
        *self.slots.lock() = Slots::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_keeps_to_its_capacity_and_prefers_what_was_used() {
        let cache = Cache::new(16);
        for n in 0..16 {
            cache.insert(n, Arc::new(BlockData::new(vec![n as u8], Kind::Unknown)));
        }
        assert!(cache.get(3).is_some());
        for n in 100..110 {
            cache.insert(n, Arc::new(BlockData::new(vec![0], Kind::Unknown)));
        }
        assert!(cache.get(3).is_some() && cache.get(0).is_none());
        assert!(cache.slots.lock().blocks.len() <= 16);
        cache.remove(3);
        cache.insert(3, Arc::new(BlockData::new(vec![9], Kind::Unknown)));
        assert_eq!(cache.get(3).unwrap()[0], 9);
    }
}
