//! The frame allocator.
//!
//! Frames come in runs of [`RUN_FRAMES`]. A whole run is given to whoever asks for a whole run; single frames come out of open runs, one after
//! the other. A run whose last frame is freed goes to the free list; when a run can't be had, single free frames inside used runs serve.
//!
//! Always true: a frame's count is at least 1 while it is allocated; a frame on a free list is not in any page table, page cache or stub
//! (whoever frees a frame that stubs may have mapped first makes sure they do not: `mm` does).

use crate::Backing;
use crate::charge::Charge;
use abi::{Errno, PAGE_SIZE};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use sync::{Rank, SpinLock};

/// Frames in a run: 64 KiB.
pub const RUN_FRAMES: usize = 16;

/// The number of a frame.
pub type Pfn = u32;

/// Somebody who can free frames when they run out: page caches, caches of kernel objects.
pub trait Reclaim: Send + Sync {
    /// Tries to free at least `frames` frames; answers how many it freed. It must not allocate frames and must not sleep on I/O that needs them.
    fn reclaim(&self, frames: usize) -> usize;
}

/// How RAM is used, in frames but for `charged_bytes`.
#[derive(Clone, Copy, Default, Debug)]
pub struct Stats {
    /// All frames.
    pub total: usize,
    /// Frames that nobody holds.
    pub free: usize,
    /// Kernel objects, bytes.
    pub charged_bytes: usize,
}

struct Pool {
    /// Never used so far: from here to the end, in frames. Fresh memory reads as zeroes.
    fresh: usize,
    free_runs: Vec<u32>,
    /// Free frames that belong to runs in use.
    free_singles: Vec<Pfn>,
    /// The run that single frames are cut from: next frame and end.
    open: (usize, usize),
    /// Allocated frames per run.
    used: Vec<u8>,
}

/// Guest RAM.
pub struct Ram {
    backing: Box<dyn Backing>,
    counts: Vec<AtomicU32>,
    pool: SpinLock<Pool>,
    free: AtomicUsize,
    charged_bytes: AtomicUsize,
    reclaimers: SpinLock<Vec<std::sync::Weak<dyn Reclaim>>>,
}

/// A reference to one frame. Cloning shares it; the last drop frees it.
pub struct Frame {
    ram: &'static Ram,
    pfn: Pfn,
}

impl Ram {
    /// RAM over `backing`, which lives as long as the process.
    pub fn new(backing: Box<dyn Backing>) -> &'static Ram {
        let total = backing.len_bytes() / PAGE_SIZE;
        let pool =
            Pool { fresh: 0, free_runs: Vec::new(), free_singles: Vec::new(), open: (0, 0), used: vec![0; total.div_ceil(RUN_FRAMES)] };
        Box::leak(Box::new(Ram {
            backing,
            counts: (0..total).map(|_| AtomicU32::new(0)).collect(),
            pool: SpinLock::ranked(Rank::Frames, pool),
            free: AtomicUsize::new(total),
            charged_bytes: AtomicUsize::new(0),
            reclaimers: SpinLock::new(Vec::new()),
        }))
    }

    /// RAM for a test.
    pub fn for_tests(len_bytes: usize) -> &'static Ram {
        Ram::new(Box::new(crate::HeapBacking::new(len_bytes)))
    }

    /// Frames in all.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.counts.len()
    }

    /// How it is used.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats { total: self.frames(), free: self.free.load(Ordering::Relaxed), charged_bytes: self.charged_bytes.load(Ordering::Relaxed) }
    }

    /// Frames that can still be had: the free ones less what kernel objects are charged.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.load(Ordering::Relaxed).saturating_sub(self.charged_bytes.load(Ordering::Relaxed).div_ceil(PAGE_SIZE))
    }

    /// Registers somebody who can free frames.
    pub fn register_reclaim(&self, reclaimer: std::sync::Weak<dyn Reclaim>) {
        self.reclaimers.lock().push(reclaimer);
    }

    /// One frame, contents undefined. ENOMEM when RAM is used up and nothing can be reclaimed.
    pub fn alloc(&'static self) -> Result<Frame, Errno> {
        let mut out = Vec::with_capacity(1);
        self.alloc_many(1, false, &mut out)?;
        out.pop().ok_or(Errno::ENOMEM)
    }

    /// One frame of zeroes.
    pub fn alloc_zeroed(&'static self) -> Result<Frame, Errno> {
        let mut out = Vec::with_capacity(1);
        self.alloc_many(1, true, &mut out)?;
        out.pop().ok_or(Errno::ENOMEM)
    }

    /// `count` frames, in contiguous runs where possible, appended to `out` in order. All or nothing: ENOMEM leaves `out` as it was.
    pub fn alloc_many(&'static self, count: usize, zeroed: bool, out: &mut Vec<Frame>) -> Result<(), Errno> {
        if self.available() < count {
            self.reclaim(count);
        }
        if self.available() < count {
            return Err(Errno::ENOMEM);
        }
        let begin = out.len();
        let mut dirty = Vec::new();
        {
            let mut pool = self.pool.lock();
            while out.len() - begin < count {
                let left = count - (out.len() - begin);
                let Some((first, n, fresh)) = pool.take(left, self.frames()) else { break };
                for pfn in first..first + n {
                    self.counts[pfn].store(1, Ordering::Relaxed);
                    out.push(Frame { ram: self, pfn: pfn as Pfn });
                }
                self.free.fetch_sub(n, Ordering::Relaxed);
                if zeroed && !fresh {
                    dirty.push((first, n));
                }
            }
        }
        if out.len() - begin < count {
            out.truncate(begin);
            return Err(Errno::ENOMEM);
        }
        for (first, n) in dirty {
            self.backing.fill(first * PAGE_SIZE, n * PAGE_SIZE, 0);
        }
        Ok(())
    }

    /// Charges `len_bytes` of kernel memory. ENOMEM when RAM has no room for it.
    pub fn charge(&'static self, len_bytes: usize) -> Result<Charge, Errno> {
        let frames = len_bytes.div_ceil(PAGE_SIZE);
        if self.available() <= frames {
            self.reclaim(frames + 1);
            if self.available() <= frames {
                return Err(Errno::ENOMEM);
            }
        }
        self.charged_bytes.fetch_add(len_bytes, Ordering::Relaxed);
        Ok(Charge::new(self, len_bytes))
    }

    pub(crate) fn uncharge(&self, len_bytes: usize) {
        self.charged_bytes.fetch_sub(len_bytes, Ordering::Relaxed);
    }

    fn reclaim(&self, frames: usize) {
        let reclaimers: Vec<_> = self.reclaimers.lock().iter().filter_map(std::sync::Weak::upgrade).collect();
        let mut freed = 0;
        for reclaimer in reclaimers {
            if freed >= frames.max(RUN_FRAMES) {
                break;
            }
            freed += reclaimer.reclaim(frames.max(RUN_FRAMES) - freed);
        }
    }

    fn offset(&self, pfn: Pfn, offset: usize, len: usize) -> usize {
        assert!((pfn as usize) < self.counts.len() && offset + len <= PAGE_SIZE, "a frame access stays inside its frame");
        pfn as usize * PAGE_SIZE + offset
    }

    /// Copies bytes of a frame out. `offset + buffer.len()` is at most [`PAGE_SIZE`], here and below.
    pub fn read(&self, pfn: Pfn, offset: usize, buffer: &mut [u8]) {
        self.backing.read(self.offset(pfn, offset, buffer.len()), buffer);
    }
    /// Copies bytes into a frame.
    pub fn write(&self, pfn: Pfn, offset: usize, data: &[u8]) {
        self.backing.write(self.offset(pfn, offset, data.len()), data);
    }
    /// Copies bytes from one frame to another.
    pub fn copy(&self, from: Pfn, from_offset: usize, to: Pfn, to_offset: usize, len: usize) {
        let (from, to) = (self.offset(from, from_offset, len), self.offset(to, to_offset, len));
        self.backing.copy(from, to, len);
    }
    /// Sets bytes of a frame.
    pub fn fill(&self, pfn: Pfn, offset: usize, len: usize, value: u8) {
        self.backing.fill(self.offset(pfn, offset, len), len, value);
    }
    /// Atomic compare and exchange of the aligned 32-bit word at `offset`; EFAULT's cousin for misalignment is a panic: callers check.
    pub fn compare_exchange_u32(&self, pfn: Pfn, offset: usize, old: u32, new: u32) -> Result<u32, u32> {
        assert!(offset.is_multiple_of(4), "atomic words are aligned");
        self.backing.compare_exchange_u32(self.offset(pfn, offset, 4), old, new)
    }
    /// Reads the aligned 32-bit word at `offset` in one piece.
    pub fn load_u32(&self, pfn: Pfn, offset: usize) -> u32 {
        assert!(offset.is_multiple_of(4), "atomic words are aligned");
        self.backing.load_u32(self.offset(pfn, offset, 4))
    }

    /// Adds a reference to an allocated frame, for page tables that keep bare numbers.
    pub fn frame(&'static self, pfn: Pfn) -> Frame {
        self.counts[pfn as usize].fetch_add(1, Ordering::Relaxed);
        Frame { ram: self, pfn }
    }
    /// Takes over the reference that [`Frame::into_pfn`] left in a page table.
    pub fn frame_from_pfn(&'static self, pfn: Pfn) -> Frame {
        Frame { ram: self, pfn }
    }
    /// How many references a frame has.
    pub fn count(&self, pfn: Pfn) -> u32 {
        self.counts[pfn as usize].load(Ordering::Acquire)
    }

    fn free(&self, pfn: Pfn) {
        self.pool.lock().give(pfn);
        self.free.fetch_add(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// Up to `want` contiguous frames: first, how many, and whether they are fresh (zero).
    fn take(&mut self, want: usize, total: usize) -> Option<(usize, usize, bool)> {
        if want < RUN_FRAMES && self.open.0 < self.open.1 {
            let n = want.min(self.open.1 - self.open.0);
            let first = self.open.0;
            self.open.0 += n;
            self.used[first / RUN_FRAMES] += n as u8;
            return Some((first, n, false));
        }
        if want < RUN_FRAMES
            && let Some(pfn) = self.free_singles.pop()
        {
            self.used[pfn as usize / RUN_FRAMES] += 1;
            return Some((pfn as usize, 1, false));
        }
        let (run, fresh) = if let Some(run) = self.free_runs.pop() {
            (run as usize * RUN_FRAMES, false)
        } else if self.fresh < total {
            self.fresh += RUN_FRAMES;
            (self.fresh - RUN_FRAMES, true)
        } else {
            let pfn = self.free_singles.pop()? as usize;
            self.used[pfn / RUN_FRAMES] += 1;
            return Some((pfn, 1, false));
        };
        let len = RUN_FRAMES.min(total - run);
        let n = want.min(len);
        if n < len {
            self.open = (run + n, run + len);
        }
        self.used[run / RUN_FRAMES] += n as u8;
        Some((run, n, fresh))
    }

    fn give(&mut self, pfn: Pfn) {
        let run = pfn as usize / RUN_FRAMES;
        self.used[run] -= 1;
        self.free_singles.push(pfn);
        let (begin, end) = (run * RUN_FRAMES, (run + 1) * RUN_FRAMES);
        let open_here = self.open.0 < self.open.1 && (begin..end).contains(&self.open.0);
        if self.used[run] == 0 && !open_here && end <= self.fresh {
            // The whole run is free again: its singles become one run.
            self.free_singles.retain(|p| !(begin..end).contains(&(*p as usize)));
            self.free_runs.push(run as u32);
        }
    }
}

impl Frame {
    /// Its number.
    #[must_use]
    pub fn pfn(&self) -> Pfn {
        self.pfn
    }
    /// The RAM that it is part of.
    #[must_use]
    pub fn ram(&self) -> &'static Ram {
        self.ram
    }
    /// Gives the number and keeps the reference alive; [`Ram::frame_from_pfn`] takes it back.
    #[must_use]
    pub fn into_pfn(self) -> Pfn {
        let pfn = self.pfn;
        std::mem::forget(self);
        pfn
    }
    /// Whether nobody else holds the frame.
    #[must_use]
    pub fn is_unique(&self) -> bool {
        self.ram.count(self.pfn) == 1
    }
    /// Copies bytes out.
    pub fn read(&self, offset: usize, buffer: &mut [u8]) {
        self.ram.read(self.pfn, offset, buffer);
    }
    /// Copies bytes in.
    pub fn write(&self, offset: usize, data: &[u8]) {
        self.ram.write(self.pfn, offset, data);
    }
    /// Sets bytes.
    pub fn fill(&self, offset: usize, len: usize, value: u8) {
        self.ram.fill(self.pfn, offset, len, value);
    }
}

impl Clone for Frame {
    fn clone(&self) -> Frame {
        self.ram.frame(self.pfn)
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if self.ram.counts[self.pfn as usize].fetch_sub(1, Ordering::AcqRel) == 1 {
            self.ram.free(self.pfn);
        }
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({:#x})", self.pfn)
    }
}
