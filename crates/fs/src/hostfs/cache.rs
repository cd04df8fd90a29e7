//! The pages of one host file, in frames of RAM.
//!
//! Always true: a page in the table was read from the host since the last [`PageCache::forget`], or is dirty (stored to through a shared mapping).
//! Reads from the host come in chunks that grow while a reader goes forward. What a write puts on the host it puts here too, if the page is
//! here. One chunk of a file is read at a time; the table's short lock is never held over that.

use abi::{Errno, PAGE_SIZE};
use platform::HostFile;
use ram::{Frame, Ram};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use sync::{Mutex, Rank, SpinLock};
use vfs::Mapper;

/// Pages read at once for a fault or read out of order: 128 KiB.
const CHUNK_PAGES: u64 = 32;
/// Pages read at once for a reader that goes forward: 1 MiB.
const MAX_CHUNK_PAGES: u64 = 256;

struct Page {
    frame: Frame,
    dirty: bool,
}

#[derive(Default)]
struct Table {
    pages: BTreeMap<u64, Page>,
    mappers: Vec<Weak<dyn Mapper>>,
    /// Where a reader that goes forward misses next, and how much it is given then.
    next: u64,
    window: u64,
}

/// The pages of a file.
pub(super) struct PageCache {
    ram: &'static Ram,
    table: SpinLock<Table>,
    /// One filling at a time.
    io: Mutex<()>,
}

impl PageCache {
    pub fn new(ram: &'static Ram) -> PageCache {
        PageCache { ram, table: SpinLock::ranked(Rank::PageCache, Table::default()), io: Mutex::ranked(Rank::Page, ()) }
    }

    /// The page if it is here.
    pub fn cached(&self, index: u64) -> Option<Frame> {
        self.table.lock().pages.get(&index).map(|page| page.frame.clone())
    }

    /// The page, read in if need be; `size_bytes` is the file's. With `write` it counts as dirty from now on.
    pub fn page(&self, file: &dyn HostFile, index: u64, size_bytes: u64, write: bool) -> Result<Frame, Errno> {
        loop {
            {
                let mut table = self.table.lock();
                if let Some(page) = table.pages.get_mut(&index) {
                    page.dirty |= write;
                    return Ok(page.frame.clone());
                }
            }
            self.fill(file, index, size_bytes)?;
        }
    }

    /// Reads a chunk that contains `index`.
    fn fill(&self, file: &dyn HostFile, index: u64, size_bytes: u64) -> Result<(), Errno> {
        let len_pages = size_bytes.div_ceil(PAGE_SIZE as u64);
        if index >= len_pages {
            return Err(Errno::ENXIO);
        }
        let (mut first, mut end) = {
            let mut table = self.table.lock();
            let forward = index == table.next && table.window > 0;
            table.window = if forward { (table.window * 2).min(MAX_CHUNK_PAGES) } else { CHUNK_PAGES };
            let first = if forward { index } else { index - index % CHUNK_PAGES };
            let end = (first + table.window).min(len_pages);
            table.next = end;
            // What is here at either side is not read again.
            let first = table.pages.range(first..index).next_back().map_or(first, |(at, _)| at + 1);
            let end = table.pages.range(index + 1..end).next().map_or(end, |(at, _)| *at);
            (first, end)
        };
        // Before the lock: finding room may mean giving up other pages.
        let mut frames = Vec::new();
        if self.ram.alloc_many((end - first) as usize, false, &mut frames).is_err() {
            (first, end) = (index, index + 1);
            self.ram.alloc_many(1, false, &mut frames)?;
        }
        let _io = self.io.lock();
        if self.cached(index).is_some() {
            return Ok(());
        }
        let mut bytes = vec![0; (end - first) as usize * PAGE_SIZE];
        // Shorter than expected: the file shrank meanwhile, and what is not there reads as zeroes until that is noticed.
        file.read_at(first * PAGE_SIZE as u64, &mut bytes)?;
        let mut table = self.table.lock();
        for ((index, frame), data) in (first..).zip(frames).zip(bytes.chunks_exact(PAGE_SIZE)) {
            frame.write(0, data);
            table.pages.entry(index).or_insert(Page { frame, dirty: false });
        }
        Ok(())
    }

    /// The file is about to grow from `size_bytes`: what a mapping stored behind its end is wiped.
    pub fn wipe_tail(&self, size_bytes: u64) {
        let inside = (size_bytes % PAGE_SIZE as u64) as usize;
        if inside != 0
            && let Some(frame) = self.cached(size_bytes / PAGE_SIZE as u64)
        {
            frame.fill(inside, PAGE_SIZE - inside, 0);
        }
    }

    /// Puts what was written to the host at `offset` into the pages that are here.
    pub fn update(&self, offset: u64, data: &[u8]) {
        let page_size = PAGE_SIZE as u64;
        let end = offset + data.len() as u64;
        let table = self.table.lock();
        for (index, page) in table.pages.range(offset / page_size..end.div_ceil(page_size)) {
            let at = index * page_size;
            let (from, to) = (offset.max(at), end.min(at + page_size));
            let part = data.get((from - offset) as usize..(to - offset) as usize).unwrap_or_default();
            page.frame.write((from - at) as usize, part);
        }
    }

    /// The file ends at `size_bytes` now: pages behind go, out of every mapping, and the rest of the last one is zero.
    pub fn truncate(&self, id: u64, size_bytes: u64) {
        let first = size_bytes.div_ceil(PAGE_SIZE as u64);
        let gone = self.table.lock().pages.split_off(&first);
        self.unmap(id, first, u64::MAX, true);
        drop(gone);
        self.wipe_tail(size_bytes);
    }

    /// The file on the host is another one now: clean pages are read again when next asked for.
    pub fn forget(&self, id: u64) {
        let gone = {
            let mut table = self.table.lock();
            if table.pages.is_empty() {
                return;
            }
            let pages = std::mem::take(&mut table.pages);
            let (dirty, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = pages.into_iter().partition(|(_, page)| page.dirty);
            table.pages = dirty;
            (table.next, table.window) = (0, 0);
            gone
        };
        self.unmap(id, 0, u64::MAX, false);
        drop(gone);
    }

    /// Writes dirty pages among `first..end` to the host, up to `size_bytes`. One caller at a time: the inode sees to that.
    pub fn write_back(&self, id: u64, file: &dyn HostFile, first: u64, end: u64, size_bytes: u64) -> Result<(), Errno> {
        let dirty: Vec<(u64, Frame)> = {
            let mut table = self.table.lock();
            let range = table.pages.range_mut(first..end).filter(|(_, page)| page.dirty);
            range
                .map(|(index, page)| {
                    page.dirty = false;
                    (*index, page.frame.clone())
                })
                .collect()
        };
        let mut result = Ok(());
        for (index, frame) in dirty {
            let at = index * PAGE_SIZE as u64;
            // A store after this faults and makes the page dirty again.
            for mapper in self.mappers() {
                mapper.write_protect_object(id, index, index + 1);
            }
            let mut bytes = [0; PAGE_SIZE];
            frame.read(0, &mut bytes);
            let len = size_bytes.saturating_sub(at).min(PAGE_SIZE as u64) as usize;
            let written = file.write_at(at, bytes.get(..len).unwrap_or_default());
            if written.is_err()
                && let Some(page) = self.table.lock().pages.get_mut(&index)
            {
                page.dirty = true;
            }
            result = result.and(written);
        }
        result
    }

    pub fn has_dirty(&self) -> bool {
        self.table.lock().pages.values().any(|page| page.dirty)
    }

    /// Frees up to `want` clean pages that nobody maps. Answers how many.
    ///
    /// Called from allocation, under whatever locks: mapped pages, whose address spaces would have to be locked, are `mm`'s to give up first.
    pub fn reclaim(&self, want: usize) -> usize {
        let mut table = self.table.lock();
        let idle = table.pages.iter().filter(|(_, page)| !page.dirty && page.frame.is_unique());
        let chosen: Vec<u64> = idle.map(|(index, _)| *index).take(want).collect();
        let freed: Vec<Page> = chosen.iter().filter_map(|index| table.pages.remove(index)).collect();
        drop(table);
        freed.len()
    }

    pub fn register(&self, mapper: Weak<dyn Mapper>) {
        let mut table = self.table.lock();
        table.mappers.retain(|known| known.strong_count() > 0 && !known.ptr_eq(&mapper));
        table.mappers.push(mapper);
    }

    fn mappers(&self) -> Vec<Arc<dyn Mapper>> {
        self.table.lock().mappers.iter().filter_map(Weak::upgrade).collect()
    }

    fn unmap(&self, id: u64, first: u64, end: u64, private_too: bool) {
        for mapper in self.mappers() {
            mapper.unmap_object(id, first, end, private_too);
        }
    }
}
