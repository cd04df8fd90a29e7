//! The page cache of one file: which frames hold which pages, and the copies between them and those who read and write.
//!
//! Two kinds of file use it. A *backed* one (a disk's file, a block device) fills missing pages through its [`PageSource`], has dirty ones written
//! back and loses clean ones when frames run out. One *of memory* (tmpfs, shared memory) has nothing behind it: a missing page is a hole of
//! zeroes, pages stay until truncated.
//!
//! What it is not: the file's size on disk, its blocks, its times; the file system keeps those. Nor the lock that keeps writers and truncation
//! apart: the file system's inode lock does; faults and readers come without it.
//!
//! Always true: at most one frame stands for a page, the same for readers, writers and every mapping; a frame is in the index only while its
//! page lies below the end of the file or a writer is just extending it; no user copy happens under the index's lock or on a frame that is being
//! read in; a frame of a mapped, dirty or busy page is never reclaimed; bytes beyond the end in the last page read as zeroes after extension.

mod index;
mod write_back;

pub use write_back::PageCaches;

use crate::pages::{Mapper, Pages};
use crate::user::{Sink, Source};
use abi::{Errno, PAGE_SIZE};
use index::{Index, Page};
use ram::{Frame, Ram};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use sync::{Rank, SpinLock, WaitQueue};

const PAGE: u64 = PAGE_SIZE as u64;
/// Pages read ahead at most: 128 KiB, Linux's default.
const READ_AHEAD_MAX: u64 = 32;
/// Frames looked up per lock in a large read.
const BATCH: usize = 16;

/// What is behind a page cache. Calls may sleep; none is made under a short lock.
pub trait PageSource: Send + Sync {
    /// Whether missing pages are read and dirty ones written. `false`: memory only.
    fn is_backed(&self) -> bool;
    /// Fills frames with pages `first`, `first + 1`, ...; what lies beyond the end of the file with zeroes.
    fn read_pages(&self, _first: u64, _frames: &[Frame]) -> Result<(), Errno> {
        Err(Errno::EIO)
    }
    /// Writes frames to pages `first`, `first + 1`, ... of the file.
    fn write_pages(&self, _first: u64, _frames: &[Frame]) -> Result<(), Errno> {
        Err(Errno::EIO)
    }
    /// Called before pages `first..end` are made dirty that were not: reserves storage. ENOSPC, EDQUOT, EROFS.
    fn reserve(&self, first: u64, end: u64) -> Result<(), Errno>;
    /// Tells that `pages` pages of memory are gone again: takes back [`PageSource::reserve`] of a file of memory.
    fn release(&self, _pages: u64) {}
    /// A mapping stored to the file: its times change.
    fn written_by_mapping(&self) {}
}

/// How far a reader has read ahead: one per open file.
#[derive(Default)]
pub struct ReadAhead {
    /// Page after the last one read ahead, and how many were last time.
    next: AtomicU64,
    window: AtomicU32,
}

/// How a page enters the index.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Clean,
    Dirty,
    Reading,
}

/// Whether a page may lie beyond the end: only a writer that is about to move the end adds such.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beyond {
    Refused,
    Allowed,
}

/// Pages of a file in memory.
pub struct PageCache {
    ram: &'static Ram,
    id: u64,
    source: Weak<dyn PageSource>,
    backed: bool,
    size_bytes: AtomicU64,
    index: SpinLock<Index>,
    /// Told when a busy page becomes free.
    settled: WaitQueue,
    mappers: SpinLock<Vec<Weak<dyn Mapper>>>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl PageCache {
    /// A cache of no page over `source`, for a file of `size_bytes`.
    #[must_use]
    pub fn new(ram: &'static Ram, source: Weak<dyn PageSource>, backed: bool, size_bytes: u64) -> Arc<PageCache> {
        Arc::new(PageCache {
            ram,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            source,
            backed,
            size_bytes: AtomicU64::new(size_bytes),
            index: SpinLock::ranked(Rank::PageCache, Index::default()),
            settled: WaitQueue::new(),
            mappers: SpinLock::default(),
        })
    }
    /// The RAM that its frames come from.
    #[must_use]
    pub fn ram(&self) -> &'static Ram {
        self.ram
    }
    /// Where the file ends, bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }
    /// Frames that it holds.
    #[must_use]
    pub fn cached_pages(&self) -> usize {
        self.index.lock().len()
    }
    /// The first page at or after `from` that is in memory.
    #[must_use]
    pub fn next_cached(&self, from: u64) -> Option<u64> {
        self.index.lock().next_from(from)
    }
    fn source(&self) -> Result<Arc<dyn PageSource>, Errno> {
        self.source.upgrade().ok_or(Errno::EIO)
    }

    /// A page that is in memory and can be used.
    fn ready(&self, index: u64) -> Option<Frame> {
        let mut pages = self.index.lock();
        let page = pages.get_mut(index)?;
        page.referenced = true;
        (!page.reading).then(|| page.frame.clone())
    }

    /// The frame of page `index`, read in if the file is backed, made of zeroes if it is of memory. ENXIO beyond the end.
    fn obtain(&self, index: u64, read_ahead: u64) -> Result<Frame, Errno> {
        loop {
            if let Some(frame) = self.ready(index) {
                return Ok(frame);
            }
            if !self.backed {
                return self.add_zeroed(index, Beyond::Refused);
            }
            if self.read_in(index, read_ahead)? {
                continue;
            }
            // Somebody else is at it.
            self.settled.wait_until(|| self.index.lock().get(index).is_none_or(|page| !page.is_busy()).then_some(()));
        }
    }

    /// Adds a page of zeroes to a file of memory.
    fn add_zeroed(&self, index: u64, beyond: Beyond) -> Result<Frame, Errno> {
        let source = self.source()?;
        source.reserve(index, index + 1)?;
        let added = self.ram.alloc_zeroed().and_then(|frame| self.add(index, frame, State::Clean, beyond));
        match added {
            Ok((frame, true)) => Ok(frame),
            Ok((frame, false)) => {
                source.release(1);
                Ok(frame)
            }
            Err(errno) => {
                source.release(1);
                Err(errno)
            }
        }
    }

    /// Puts a frame into the index: it, or the one that is there, and whether it was put in.
    fn add(&self, index: u64, frame: Frame, state: State, beyond: Beyond) -> Result<(Frame, bool), Errno> {
        loop {
            {
                let mut pages = self.index.lock();
                if let Some(page) = pages.get(index) {
                    return Ok((page.frame.clone(), false));
                }
                // Under the lock that truncation takes to move the end.
                if beyond == Beyond::Refused && index >= self.len_pages() {
                    return Err(Errno::ENXIO);
                }
                if pages.has_room(index) {
                    let (dirty, reading) = (self.backed && state == State::Dirty, state == State::Reading);
                    pages.insert(index, Page { frame: frame.clone(), dirty, reading, writing: false, referenced: true });
                    return Ok((frame, true));
                }
            }
            let room = index::room(self.ram)?;
            self.index.lock().add_room(index, room);
        }
    }

    /// Reads page `index` and up to `ahead` more that are missing. `false`: the page is busy or came in meanwhile.
    fn read_in(&self, index: u64, ahead: u64) -> Result<bool, Errno> {
        let source = self.source()?;
        let end = self.len_pages().max(index + 1).min(index + 1 + ahead);
        let mut frames = Vec::new();
        for at in index..end {
            // Frames for reading ahead are a favour, not a need.
            let frame = match self.ram.alloc() {
                Ok(frame) => frame,
                Err(_) if at > index => break,
                Err(errno) => return Err(errno),
            };
            match self.add(at, frame.clone(), State::Reading, Beyond::Refused) {
                Ok((_, true)) => frames.push(frame),
                Ok((_, false)) | Err(_) if at > index => break,
                Ok(_) => return Ok(false),
                Err(errno) => return Err(errno),
            }
        }
        let result = source.read_pages(index, &frames);
        let dropped = {
            let mut pages = self.index.lock();
            let mut dropped = Vec::new();
            for at in index..index + frames.len() as u64 {
                if result.is_err() {
                    dropped.extend(pages.remove(at));
                } else if let Some(page) = pages.get_mut(at) {
                    page.reading = false;
                }
            }
            dropped
        };
        drop(dropped);
        self.settled.wake_all();
        result.map(|()| true)
    }

    /// How many pages to read beyond `index` for a reader that wants up to `end`, and notes that it was there.
    fn window(&self, ahead: Option<&ReadAhead>, index: u64, end: u64) -> u64 {
        let wanted = (end - index - 1).min(READ_AHEAD_MAX);
        let Some(ahead) = ahead else { return wanted };
        // Sequential: this is the page that the last reading ahead stopped before.
        let sequential = index == 0 || ahead.next.load(Ordering::Relaxed) == index;
        let window = if sequential { (u64::from(ahead.window.load(Ordering::Relaxed)) * 2).clamp(4, READ_AHEAD_MAX) } else { 0 };
        ahead.window.store(window as u32, Ordering::Relaxed);
        let pages = wanted.max(window);
        ahead.next.store(index + 1 + pages, Ordering::Relaxed);
        pages
    }

    /// Reads from `position` to the end of the file or of `sink`; answers how much.
    pub fn read(&self, position: u64, sink: &mut dyn Sink, ahead: Option<&ReadAhead>) -> Result<usize, Errno> {
        let mut at = position;
        loop {
            let left = self.size_bytes().saturating_sub(at).min(sink.room() as u64);
            if left == 0 {
                break;
            }
            match self.read_batch(at, left, sink, ahead) {
                Ok(0) => break,
                Ok(n) => at += n,
                Err(_) if at > position => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok((at - position) as usize)
    }

    /// Reads up to [`BATCH`] pages.
    fn read_batch(&self, position: u64, left: u64, sink: &mut dyn Sink, ahead: Option<&ReadAhead>) -> Result<u64, Errno> {
        let first = position / PAGE;
        let end = (position + left).div_ceil(PAGE);
        let mut frames: [Option<Frame>; BATCH] = [const { None }; BATCH];
        {
            let mut pages = self.index.lock();
            for (slot, index) in frames.iter_mut().zip(first..end) {
                *slot = pages.get_mut(index).filter(|page| !page.reading).map(|page| {
                    page.referenced = true;
                    page.frame.clone()
                });
                if slot.is_none() && self.backed {
                    break;
                }
            }
        }
        let mut done = 0;
        for (slot, index) in frames.into_iter().zip(first..end) {
            let offset = ((position + done) % PAGE) as usize;
            let want = (PAGE_SIZE - offset).min((left - done) as usize);
            let copied = match slot {
                Some(frame) => sink.put_frame(&frame, offset, want),
                None if self.backed => {
                    if done > 0 {
                        break;
                    }
                    let frame = self.obtain(index, self.window(ahead, index, end))?;
                    sink.put_frame(&frame, offset, want)
                }
                None => sink.put_zeroes(want),
            };
            match copied {
                Ok(n) => done += n as u64,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
            if !(position + done).is_multiple_of(PAGE) {
                break;
            }
        }
        Ok(done)
    }

    /// Writes at `position`, extending the file if need be; answers how much. The caller holds the file's lock against other writers and
    /// truncation, checked limits, and changes times.
    pub fn write(&self, position: u64, source: &mut dyn Source) -> Result<usize, Errno> {
        if position > self.size_bytes() {
            self.wipe_tail(position);
        }
        let mut at = position;
        while source.left() > 0 {
            let offset = (at % PAGE) as usize;
            let want = (PAGE_SIZE - offset).min(source.left());
            match self.write_page(at / PAGE, offset, want, source) {
                Ok(0) => break,
                Ok(n) => at += n as u64,
                Err(_) if at > position => break,
                Err(errno) => return Err(errno),
            }
            self.size_bytes.fetch_max(at, Ordering::AcqRel);
        }
        Ok((at - position) as usize)
    }

    /// Wipes what a mapping may have stored in the last page beyond the end, up to `to`, because the end is about to move there.
    fn wipe_tail(&self, to: u64) {
        let end = self.size_bytes();
        let tail = (end % PAGE) as usize;
        if tail != 0
            && let Some(frame) = self.ready(end / PAGE)
        {
            let until = (to - (end - tail as u64)).min(PAGE) as usize;
            frame.fill(tail, until - tail, 0);
        }
    }

    fn write_page(&self, index: u64, offset: usize, want: usize, source: &mut dyn Source) -> Result<usize, Errno> {
        let mut frame = self.ready(index);
        if frame.is_none() {
            let inside = index * PAGE < self.size_bytes();
            if !self.backed || want == PAGE_SIZE || !inside {
                return self.write_new_page(index, offset, want, source);
            }
            frame = Some(self.obtain(index, 0)?);
        }
        let Some(frame) = frame else { return Err(Errno::EIO) };
        self.make_dirty(index)?;
        let taken = source.take_to_frame(&frame, offset, want);
        self.mark_dirty_again(index);
        taken
    }

    /// Writes to a page that is not in memory and whose old contents are zeroes or written over. Nobody sees the frame before it is filled.
    fn write_new_page(&self, index: u64, offset: usize, want: usize, source: &mut dyn Source) -> Result<usize, Errno> {
        let behind = self.source()?;
        behind.reserve(index, index + 1)?;
        let filled = self.ram.alloc().and_then(|frame| {
            frame.fill(0, offset, 0);
            let n = source.take_to_frame(&frame, offset, want)?;
            frame.fill(offset + n, PAGE_SIZE - offset - n, 0);
            let (there, added) = self.add(index, frame.clone(), State::Dirty, Beyond::Allowed)?;
            if !added {
                // A fault was quicker.
                frame.ram().copy(frame.pfn(), offset, there.pfn(), offset, n);
                self.make_dirty(index)?;
                behind.release(1);
            }
            Ok(n)
        });
        if filled.is_err() {
            behind.release(1);
        }
        filled
    }

    /// Counts page `index` as dirty, reserving its storage first.
    fn make_dirty(&self, index: u64) -> Result<(), Errno> {
        if !self.backed || self.index.lock().get(index).is_none_or(|page| page.dirty) {
            return Ok(());
        }
        self.source()?.reserve(index, index + 1)?;
        self.index.lock().set_dirty(index, true);
        Ok(())
    }

    /// Notes that the bytes are in the frame now: write-back may have taken the page between the mark and the copy.
    fn mark_dirty_again(&self, index: u64) {
        if self.backed {
            self.index.lock().set_dirty(index, true);
        }
    }

    /// Sets the end of the file; the caller holds the file's lock, and frees storage beyond the end afterwards. Pages beyond are unmapped and
    /// dropped; what is added reads as zeroes.
    pub fn truncate(&self, size_bytes: u64) -> Result<(), Errno> {
        let old = self.size_bytes();
        if size_bytes >= old {
            if size_bytes > old {
                self.wipe_tail(size_bytes);
                self.size_bytes.store(size_bytes, Ordering::Release);
            }
            return Ok(());
        }
        let tail = (size_bytes % PAGE) as usize;
        if tail != 0 {
            self.zero_in_page(size_bytes / PAGE, tail, PAGE_SIZE - tail)?;
        }
        {
            let _pages = self.index.lock();
            self.size_bytes.store(size_bytes, Ordering::Release);
        }
        self.drop_pages(size_bytes.div_ceil(PAGE), u64::MAX);
        Ok(())
    }

    /// Makes a hole: `first..end`, in bytes, reads as zeroes. Whole pages are dropped; the size stays. The caller frees storage.
    pub fn punch(&self, first: u64, end: u64) -> Result<(), Errno> {
        let end = end.min(self.size_bytes().next_multiple_of(PAGE));
        if first >= end {
            return Ok(());
        }
        let (first_page, end_page) = (first.div_ceil(PAGE), end / PAGE);
        if first / PAGE == end / PAGE {
            return self.zero_in_page(first / PAGE, (first % PAGE) as usize, (end - first) as usize);
        }
        if !first.is_multiple_of(PAGE) {
            self.zero_in_page(first / PAGE, (first % PAGE) as usize, (PAGE - first % PAGE) as usize)?;
        }
        if !end.is_multiple_of(PAGE) {
            self.zero_in_page(end / PAGE, 0, (end % PAGE) as usize)?;
        }
        if first_page < end_page {
            self.drop_pages(first_page, end_page);
        }
        Ok(())
    }

    fn zero_in_page(&self, index: u64, offset: usize, len: usize) -> Result<(), Errno> {
        let frame = match self.ready(index) {
            Some(frame) => frame,
            // A hole of memory is zeroes already.
            None if !self.backed => return Ok(()),
            None => self.obtain(index, 0)?,
        };
        self.make_dirty(index)?;
        frame.fill(offset, len, 0);
        self.mark_dirty_again(index);
        Ok(())
    }

    /// Unmaps and drops pages `first..end`, waiting for those being read or written.
    fn drop_pages(&self, first: u64, end: u64) {
        self.each_mapper(|mapper| mapper.unmap_object(self.id, first, end, true));
        let mut dropped = 0;
        loop {
            let (gone, busy) = {
                let mut pages = self.index.lock();
                pages.drain(first, end)
            };
            dropped += gone.len() as u64;
            drop(gone);
            match busy {
                None => break,
                Some(index) => {
                    self.settled.wait_until(|| self.index.lock().get(index).is_none_or(|page| !page.is_busy()).then_some(()));
                }
            }
        }
        // Faults that came in between the unmapping and the dropping.
        self.each_mapper(|mapper| mapper.unmap_object(self.id, first, end, true));
        if dropped > 0
            && !self.backed
            && let Some(source) = self.source.upgrade()
        {
            source.release(dropped);
        }
    }

    fn each_mapper(&self, act: impl Fn(&dyn Mapper)) {
        let mappers: Vec<_> = self.mappers.lock().iter().filter_map(Weak::upgrade).collect();
        for mapper in mappers {
            act(&*mapper);
        }
    }

    /// Reserves and makes pages for `first..end`, in bytes, of a file of memory (fallocate). The size stays.
    pub fn preallocate(&self, first: u64, end: u64) -> Result<(), Errno> {
        for index in first / PAGE..end.div_ceil(PAGE) {
            if self.ready(index).is_none() {
                self.add_zeroed(index, Beyond::Allowed)?;
            }
        }
        Ok(())
    }
}

impl Drop for PageCache {
    fn drop(&mut self) {
        if !self.backed
            && let Some(source) = self.source.upgrade()
        {
            source.release(self.index.get_mut().len() as u64);
        }
    }
}

impl Pages for PageCache {
    fn page(&self, index: u64, write: bool) -> Result<Frame, Errno> {
        if index >= self.len_pages() {
            return Err(Errno::ENXIO);
        }
        let frame = self.obtain(index, 15)?;
        if write {
            self.make_dirty(index)?;
            if let Some(source) = self.source.upgrade() {
                source.written_by_mapping();
            }
        }
        Ok(frame)
    }
    fn page_if_cached(&self, index: u64) -> Option<Frame> {
        if index < self.len_pages() { self.ready(index) } else { None }
    }
    fn pages_if_cached(&self, first: u64, end: u64, take: &mut dyn FnMut(u64, Frame)) {
        let end = end.min(self.len_pages());
        self.index.lock().for_each_mut(first, end, |index, page| {
            page.referenced = true;
            if !page.reading {
                take(index, page.frame.clone());
            }
        });
    }
    fn len_pages(&self) -> u64 {
        self.size_bytes().div_ceil(PAGE)
    }
    fn id(&self) -> u64 {
        self.id
    }
    fn register_mapper(&self, mapper: Weak<dyn Mapper>) {
        let mut mappers = self.mappers.lock();
        mappers.retain(|known| known.strong_count() > 0);
        if !mappers.iter().any(|known| Weak::ptr_eq(known, &mapper)) {
            mappers.push(mapper);
        }
    }
}
