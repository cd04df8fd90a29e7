//! The order in which locks may be taken.
//!
//! A lock may be taken only while every lock held has a lower rank; debug builds check it. The table below is the whole order: sleeping locks
//! first (they may be held while short ones are taken, never the other way), from the outermost to the innermost.

/// The rank of a lock. `None` is for locks that are never held while another is taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Rank {
    // Sleeping locks.
    /// Which devices of a kind there are, while one comes or goes.
    Configuration,
    /// `s_vfs_rename_mutex`.
    Rename,
    /// The mount tree.
    Mounts,
    /// A directory inode.
    Directory,
    /// A file inode.
    Inode,
    /// An address space's list of mappings.
    AddressSpace,
    /// One page of a file.
    Page,
    /// A file system's journal handle.
    Journal,
    /// Any other sleeping lock that is taken last, or before a device's only.
    SleepingLeaf,
    /// A block device below file systems.
    Device,
    /// What a block device looks up while it flushes: a COW file's bitmap.
    DeviceMap,
    // Short locks.
    /// The process table.
    Processes,
    /// A process's signal state.
    Signals,
    /// A page table.
    PageTable,
    /// A page cache's index.
    PageCache,
    /// Any other short lock, under which at most frames and wait queues are touched.
    Leaf,
    /// The frame allocator.
    Frames,
    /// A wait queue.
    WaitQueue,
    /// The timer queue.
    Timers,
    /// The scheduler's run queue.
    RunQueue,
}

impl Rank {
    /// Whether a lock of this rank may be held across a sleep.
    #[must_use]
    pub fn is_sleeping(self) -> bool {
        self <= Rank::DeviceMap
    }
}

#[cfg(debug_assertions)]
pub(crate) mod held {
    use super::Rank;
    use crate::fiber::current;

    /// Notes that the current fiber takes a lock. Two locks of one rank are allowed for those ranks whose users order them by address.
    pub fn take(rank: Rank) {
        if rank >= Rank::WaitQueue {
            return;
        }
        let fiber = current();
        let mut held = fiber.held().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(highest) = held.iter().max() {
            assert!(
                *highest < rank
                    || (*highest == rank
                        && matches!(rank, Rank::Directory | Rank::Inode | Rank::PageTable | Rank::Leaf | Rank::SleepingLeaf)),
                "lock order: {rank:?} taken while {held:?} is held"
            );
        }
        held.push(rank);
    }

    /// Notes that it is released.
    pub fn release(rank: Rank) {
        if rank >= Rank::WaitQueue {
            return;
        }
        let fiber = current();
        let mut held = fiber.held().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(at) = held.iter().rposition(|r| *r == rank) {
            held.remove(at);
        }
    }
}

#[cfg(not(debug_assertions))]
pub(crate) mod held {
    use super::Rank;
    pub fn take(_: Rank) {}
    pub fn release(_: Rank) {}
}
