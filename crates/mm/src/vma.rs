//! The mappings of an address space: ranges of pages with rights, flags and what is behind them.
//!
//! Always true: mappings do not overlap, none is empty, and neighbours that could be one are one (so that `/proc/PID/maps` and the limit on
//! their number are as on Linux).
//!
//! What it is not: which pages are present (`table`), or what to do about anything.

use platform::Protection;
use std::collections::BTreeMap;
use std::sync::Arc;
use vfs::Pages;

/// What a mapping is charged.
pub(crate) const VMA_BYTES: usize = 320;
/// Pages kept free below a stack that grows (`stack_guard_gap`), 1 MiB.
pub const STACK_GUARD_GAP: u64 = 256;
/// Most mappings in an address space (`vm.max_map_count`).
pub const MAX_MAP_COUNT: usize = 65530;

bitflags::bitflags! {
    /// What is special about a mapping.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct VmaFlags: u16 {
        /// Stores are seen by everybody who maps the object.
        const SHARED = 1;
        /// Grows down when touched below: a stack.
        const GROWSDOWN = 2;
        /// Counts as locked in memory, mlock(2).
        const LOCKED = 4;
        /// A fork's child does not get it, madvise(2).
        const DONTFORK = 8;
        /// A fork's child gets it empty, madvise(2).
        const WIPEONFORK = 16;
        /// `MAP_NORESERVE`.
        const NORESERVE = 32;
        /// Not in core dumps, madvise(2).
        const DONTDUMP = 64;
        /// With [`VmaFlags::LOCKED`]: only what is touched, mlock2(2).
        const ONFAULT = 128;
    }
}

/// What `mm` and `/proc` want to know of a mapped file; dropping it lets go of the file. Mappings become one only if they have the very same
/// value: make one for each open file.
pub trait MappedFile: Send + Sync {
    /// The path as `/proc/PID/maps` shows it, with ` (deleted)` if so; raw bytes, not escaped.
    fn path(&self) -> Vec<u8>;
    /// Device, as `dev_t` is encoded in stat(2).
    fn device(&self) -> u64;
    /// Inode number.
    fn inode(&self) -> u64;
    /// Writes the pages back and waits (msync(2) with `MS_SYNC`). May sleep.
    fn sync_pages(&self, first: u64, end: u64) -> Result<(), abi::Errno>;
    /// Whether its pages count as shared memory rather than as file pages.
    fn is_shared_memory(&self) -> bool {
        false
    }
    /// For whoever made it to know it again (SysV shared memory, the executable).
    fn as_any(&self) -> &dyn std::any::Any;
}

/// What is behind a mapping that is not anonymous and private.
#[derive(Clone)]
pub struct Backing {
    /// The object's pages.
    pub pages: Arc<dyn Pages>,
    /// The file, for those who show it; none for shared anonymous memory.
    pub file: Option<Arc<dyn MappedFile>>,
    /// Index of the object's page at the beginning of the mapping.
    pub offset: u64,
}

impl Backing {
    fn same_object(&self, other: &Backing) -> bool {
        // By identity: when one of two goes, it must not be the last reference, since that could let go of the file under a lock.
        let same_file = match (&self.file, &other.file) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        same_file && Arc::ptr_eq(&self.pages, &other.pages)
    }
}

/// How the mapping has been faulted lately.
#[derive(Clone, Copy, Default)]
pub(crate) struct Pattern {
    /// Where a fault would be that goes on where the last one ended.
    pub next: u64,
    /// Pages that the last fault brought.
    pub around: u16,
    /// The same for copies.
    pub copy_next: u64,
    pub copied: u16,
}

/// One mapping.
#[derive(Clone)]
pub(crate) struct Vma {
    /// Pages `first..end`.
    pub first: u64,
    pub end: u64,
    pub rights: Protection,
    /// Rights that mprotect(2) may give it: a shared mapping of a file that is not open for writing never becomes writable.
    pub max_rights: Protection,
    pub flags: VmaFlags,
    pub backing: Option<Backing>,
    /// `[vdso]` and its like.
    pub name: Option<&'static str>,
    pub pattern: Pattern,
}

impl Vma {
    pub fn pages(&self) -> u64 {
        self.end - self.first
    }
    pub fn is_shared(&self) -> bool {
        self.flags.contains(VmaFlags::SHARED)
    }
    /// Counts towards `RLIMIT_DATA`: private, writable, not a stack.
    pub fn is_data(&self) -> bool {
        counts_as_data(self.rights, self.flags)
    }
    /// Index of the object's page at `page`.
    pub fn index(&self, page: u64) -> u64 {
        self.backing.as_ref().map_or(page, |b| b.offset + (page - self.first))
    }
    /// Where nothing else may be put: a stack has its guard gap.
    fn guarded_first(&self) -> u64 {
        if self.flags.contains(VmaFlags::GROWSDOWN) { self.first.saturating_sub(STACK_GUARD_GAP) } else { self.first }
    }
    fn goes_on_as(&self, next: &Vma) -> bool {
        self.end == next.first
            && self.rights == next.rights
            && self.max_rights == next.max_rights
            && self.flags == next.flags
            && self.name.is_none()
            && next.name.is_none()
            && match (&self.backing, &next.backing) {
                (None, None) => true,
                (Some(a), Some(b)) => a.offset + self.pages() == b.offset && a.same_object(b),
                _ => false,
            }
    }
    /// The part of it from `page` on; `self` keeps what is below.
    fn cut(&mut self, page: u64) -> Vma {
        let mut upper = self.clone();
        if let Some(backing) = &mut upper.backing {
            backing.offset += page - self.first;
        }
        self.end = page;
        upper.first = page;
        upper
    }
}

/// Whether a mapping of this kind counts towards `RLIMIT_DATA`.
pub(crate) fn counts_as_data(rights: Protection, flags: VmaFlags) -> bool {
    rights.contains(Protection::WRITE) && !flags.intersects(VmaFlags::SHARED | VmaFlags::GROWSDOWN)
}

/// All mappings of a space, by first page, with their sums.
#[derive(Default)]
pub(crate) struct VmaTree {
    vmas: BTreeMap<u64, Vma>,
    /// Pages mapped, of which data, of which locked.
    pub total: u64,
    pub data: u64,
    pub locked: u64,
}

impl VmaTree {
    pub fn len(&self) -> usize {
        self.vmas.len()
    }
    pub fn iter(&self) -> impl Iterator<Item = &Vma> {
        self.vmas.values()
    }
    /// The mapping that has `page`.
    pub fn find(&self, page: u64) -> Option<&Vma> {
        self.vmas.range(..=page).next_back().map(|(_, vma)| vma).filter(|vma| page < vma.end)
    }
    /// How it is faulted, to note what comes.
    pub fn pattern_mut(&mut self, page: u64) -> Option<&mut Pattern> {
        self.vmas.range_mut(..=page).next_back().map(|(_, vma)| vma).filter(|vma| page < vma.end).map(|vma| &mut vma.pattern)
    }
    /// The mapping that has `page`, or else the next one above.
    pub fn at_or_above(&self, page: u64) -> Option<&Vma> {
        self.find(page).or_else(|| self.vmas.range(page..).next().map(|(_, vma)| vma))
    }
    /// The last mapping that ends at or below `page`.
    pub fn below(&self, page: u64) -> Option<&Vma> {
        self.vmas.range(..page).next_back().map(|(_, vma)| vma).filter(|vma| vma.end <= page)
    }
    /// Those with a page in `first..end`, in order.
    pub fn overlapping(&self, first: u64, end: u64) -> impl Iterator<Item = &Vma> {
        let from = self.find(first).map_or(first, |vma| vma.first);
        self.vmas.range(from..end.max(from)).map(|(_, vma)| vma)
    }
    /// Whether every page of `first..end` is in some mapping.
    pub fn covers(&self, first: u64, end: u64) -> bool {
        let mut at = first;
        for vma in self.overlapping(first, end) {
            if vma.first > at {
                return false;
            }
            at = vma.end;
        }
        at >= end
    }
    /// How many mappings more there are once there is a boundary at `first` and at `end`.
    pub fn splits(&self, first: u64, end: u64) -> usize {
        [first, end].into_iter().filter(|page| self.find(*page).is_some_and(|vma| vma.first < *page)).count()
    }

    fn add(&mut self, vma: Vma) {
        self.account(&vma, true);
        self.vmas.insert(vma.first, vma);
    }
    fn take(&mut self, first: u64) -> Option<Vma> {
        let vma = self.vmas.remove(&first)?;
        self.account(&vma, false);
        Some(vma)
    }
    fn account(&mut self, vma: &Vma, more: bool) {
        let change = |sum: &mut u64, counts: bool| {
            if counts {
                *sum = if more { *sum + vma.pages() } else { *sum - vma.pages() };
            }
        };
        change(&mut self.total, true);
        change(&mut self.data, vma.is_data());
        change(&mut self.locked, vma.flags.contains(VmaFlags::LOCKED));
    }

    /// Makes a boundary at `page`.
    fn split(&mut self, page: u64) {
        let Some(first) = self.find(page).map(|vma| vma.first).filter(|first| *first < page) else { return };
        if let Some(vma) = self.vmas.get_mut(&first) {
            let upper = vma.cut(page);
            self.vmas.insert(page, upper);
        }
    }

    /// Adds a mapping where there is none, as one with its neighbours if it goes on as they do.
    pub fn insert(&mut self, vma: Vma) {
        let (first, end) = (vma.first, vma.end);
        self.add(vma);
        self.join(first, end);
    }

    /// Makes one of what may be one, from the boundary at `first` to the one at `end`.
    pub fn join(&mut self, first: u64, end: u64) {
        let mut at = self.vmas.range(..first).next_back().map_or(first, |(key, _)| *key);
        while at <= end {
            let Some((&key, lower)) = self.vmas.range(at..=end).next() else { return };
            let next = lower.end;
            if next > end || !self.vmas.get(&next).is_some_and(|upper| lower.goes_on_as(upper)) {
                at = key + 1;
                continue;
            }
            // The sums do not change: only a boundary goes.
            let end_of_both = self.vmas.remove(&next).map_or(next, |upper| upper.end);
            if let Some(lower) = self.vmas.get_mut(&key) {
                lower.end = end_of_both;
            }
        }
    }

    /// Takes out what is in `first..end`; answers it in order.
    pub fn remove(&mut self, first: u64, end: u64) -> Vec<Vma> {
        self.split(first);
        self.split(end);
        let keys: Vec<u64> = self.vmas.range(first..end).map(|(key, _)| *key).collect();
        keys.into_iter().filter_map(|key| self.take(key)).collect()
    }

    /// Changes every mapping in `first..end`, and only there.
    pub fn change(&mut self, first: u64, end: u64, mut change: impl FnMut(&mut Vma)) {
        for mut vma in self.remove(first, end) {
            change(&mut vma);
            self.add(vma);
        }
        self.join(first, end);
    }

    /// Lets the mapping that begins at `old` begin at `new`, below.
    pub fn grow_down(&mut self, old: u64, new: u64) {
        if let Some(mut vma) = self.take(old) {
            vma.first = new;
            self.add(vma);
            self.join(new, new);
        }
    }

    /// The highest place for `len` pages in `low..high` whose number is a multiple of `align`, outside all mappings and stack gaps; also the
    /// longest hole that was passed on the way.
    pub fn gap_below(&self, len: u64, low: u64, high: u64, align: u64) -> (Option<u64>, u64) {
        let mut ceiling = self.at_or_above(high).map_or(high, |vma| vma.guarded_first().min(high));
        let mut passed = 0u64;
        for vma in self.vmas.range(..high).rev().map(|(_, vma)| vma) {
            let floor = vma.end.max(low);
            if let Some(at) = fits(len, floor, ceiling, align) {
                return (Some(at), passed.max(ceiling - len - at));
            }
            passed = passed.max(ceiling.saturating_sub(floor));
            ceiling = ceiling.min(vma.guarded_first());
            if ceiling <= low {
                return (None, passed);
            }
        }
        (fits(len, low, ceiling, align), passed)
    }

    /// Whether `first..end` is free, stack gaps included, as mmap's hint wants it.
    pub fn is_free(&self, first: u64, end: u64) -> bool {
        self.at_or_above(first).is_none_or(|vma| end <= vma.guarded_first())
    }
}

fn fits(len: u64, floor: u64, ceiling: u64, align: u64) -> Option<u64> {
    let at = ceiling.checked_sub(len)? / align * align;
    (at >= floor).then_some(at)
}
