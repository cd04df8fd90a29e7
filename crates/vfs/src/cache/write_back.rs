//! Getting dirty pages to disk and clean ones out of memory.
//!
//! Always true: the mark of dirtiness goes first, then mappings are write-protected, then the bytes are read: a store after that makes the page
//! dirty again. A page that is being written stays usable; one that could not be written is dirty again.

use super::{PAGE, PageCache};
use crate::pages::Pages;
use abi::{Errno, PAGE_SIZE};
use ram::{Frame, Ram, Reclaim};
use std::sync::{Arc, Weak};
use sync::SpinLock;

/// Pages written in one call of the source.
const RUN: u64 = 64;
/// Dirty pages that a file may have whatever memory there is.
const DIRTY_MIN: usize = 64;

impl PageCache {
    /// Dirty pages.
    #[must_use]
    pub fn dirty_pages(&self) -> usize {
        self.index.lock().dirty()
    }

    /// Writes dirty pages of `first..end` (in pages) and waits for it: all that were dirty when the call began are on their way to the medium.
    /// The first error is answered; pages that could not be written stay dirty.
    pub fn write_back(&self, first: u64, end: u64) -> Result<(), Errno> {
        let mut at = first;
        let mut result = Ok(());
        loop {
            let (start, frames) = self.take_dirty_run(at, end);
            if frames.is_empty() {
                break;
            }
            let written = self.write_run(start, &frames);
            at = start + frames.len() as u64;
            result = result.and(written);
        }
        // Those that somebody else was writing.
        self.settled.wait_until(|| {
            let pages = self.index.lock();
            let mut at = first;
            while let Some(index) = pages.next_from(at).filter(|index| *index < end) {
                if pages.get(index).is_some_and(|page| page.writing) {
                    return None;
                }
                at = index + 1;
            }
            Some(())
        });
        result
    }

    /// A run of neighbouring dirty pages, marked busy.
    fn take_dirty_run(&self, from: u64, end: u64) -> (u64, Vec<Frame>) {
        let mut pages = self.index.lock();
        let Some(start) = pages.next_dirty(from, end) else { return (from, Vec::new()) };
        let mut frames = Vec::new();
        for index in start..end.min(start.saturating_add(RUN)) {
            match pages.get_mut(index) {
                Some(page) if page.dirty && !page.is_busy() => {
                    page.writing = true;
                    frames.push(page.frame.clone());
                }
                _ => break,
            }
            pages.set_dirty(index, false);
        }
        (start, frames)
    }

    fn write_run(&self, start: u64, frames: &[Frame]) -> Result<(), Errno> {
        let end = start + frames.len() as u64;
        self.each_mapper(|mapper| mapper.write_protect_object(self.id(), start, end));
        self.wipe_beyond_end(start, frames);
        let result = self.source().and_then(|source| source.write_pages(start, frames));
        {
            let mut pages = self.index.lock();
            for index in start..end {
                if let Some(page) = pages.get_mut(index) {
                    page.writing = false;
                }
                if result.is_err() {
                    pages.set_dirty(index, true);
                }
            }
        }
        self.settled.wake_all();
        result
    }

    /// What a mapping stored beyond the end of the file does not reach the medium.
    fn wipe_beyond_end(&self, start: u64, frames: &[Frame]) {
        let size = self.size_bytes();
        let tail = (size % PAGE) as usize;
        if tail != 0
            && let Some(last) = (size / PAGE).checked_sub(start).and_then(|at| frames.get(at as usize))
        {
            last.fill(tail, PAGE_SIZE - tail, 0);
        }
    }

    /// Called after a write, without the file's lock: a file that dirties memory faster than it is written back writes some itself, so that clean
    /// frames are left for reclaim, which can't write. An error shows at the next fsync.
    pub fn balance(&self) {
        if self.backed && self.dirty_pages() > DIRTY_MIN.max(self.ram.available() / 4) {
            let _ = self.sync();
        }
    }

    /// Writes everything and waits.
    pub fn sync(&self) -> Result<(), Errno> {
        self.write_back(0, u64::MAX)
    }

    /// Drops clean pages that nobody maps: `posix_fadvise(POSIX_FADV_DONTNEED)`, `/proc/sys/vm/drop_caches`, reclaim. Answers how many.
    pub fn drop_clean(&self, want: usize) -> usize {
        if !self.backed {
            return 0;
        }
        let gone = self.index.lock().evict(want);
        gone.len()
    }

    /// Forgets every page, dirty or not: the device behind is gone, or O_DIRECT wrote past the cache.
    pub fn invalidate(&self, first: u64, end: u64) {
        self.drop_pages(first, end);
    }
}

/// All backed page caches of the machine: where reclaim finds clean pages and sync finds dirty ones.
pub struct PageCaches {
    caches: SpinLock<Vec<Weak<PageCache>>>,
}

impl PageCaches {
    /// A list that serves `ram`'s reclaim.
    #[must_use]
    pub fn new(ram: &'static Ram) -> Arc<PageCaches> {
        let caches = Arc::new(PageCaches { caches: SpinLock::default() });
        let weak: Weak<PageCaches> = Arc::downgrade(&caches);
        ram.register_reclaim(weak as Weak<dyn Reclaim>);
        caches
    }
    /// Adds a backed cache.
    pub fn add(&self, cache: &Arc<PageCache>) {
        let mut caches = self.caches.lock();
        if caches.len().is_power_of_two() {
            caches.retain(|weak| weak.strong_count() > 0);
        }
        caches.push(Arc::downgrade(cache));
    }
    fn all(&self) -> Vec<Arc<PageCache>> {
        self.caches.lock().iter().filter_map(Weak::upgrade).collect()
    }
    /// Writes every dirty page there is. Errors are kept by the sources for a later fsync.
    pub fn write_back_all(&self) {
        for cache in self.all() {
            if cache.dirty_pages() > 0 {
                let _ = cache.sync();
            }
        }
    }
    /// Dirty pages and cached pages of backed files, for `/proc/meminfo` and to know when to write back.
    #[must_use]
    pub fn stats(&self) -> (usize, usize) {
        self.all().iter().fold((0, 0), |(dirty, cached), cache| (dirty + cache.dirty_pages(), cached + cache.cached_pages()))
    }
    /// Drops every clean page.
    pub fn drop_clean(&self) -> usize {
        // Twice: the first round clears the marks of use.
        (0..2).map(|_| self.all().iter().map(|cache| cache.drop_clean(usize::MAX)).sum::<usize>()).sum()
    }
}

impl Reclaim for PageCaches {
    fn reclaim(&self, frames: usize) -> usize {
        let caches = self.all();
        let mut freed = 0;
        for _ in 0..2 {
            for cache in &caches {
                if freed >= frames {
                    return freed;
                }
                freed += cache.drop_clean(frames - freed);
            }
        }
        freed
    }
}
