//! Frames: references to them, their bytes, and the bound on all of it.
//!
//! Frames come in runs of [`RUN_FRAMES`]; requests get frames that lie together where they can (`pool` has the free ones).
//!
//! Always true: a frame's count is at least 1 while it is allocated; a frame whose count is 0 is not in any page table, page cache or stub
//! (whoever drops the last reference to a frame that stubs may have mapped first makes sure they do not: `mm` does). The room that is left is one
//! number, free frames less what kernel objects are charged; whoever takes, takes from it first, so neither frames nor charges can exceed RAM
//! whatever runs at the same time.

use crate::Backing;
use crate::charge::Charge;
use crate::pool::Pool;
use abi::{Errno, PAGE_SIZE};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use sync::{Rank, SpinLock};

/// Frames in a run: 64 KiB.
pub const RUN_FRAMES: usize = 16;

/// How often owners are asked, with borrowers in between, before there is no memory.
const RECLAIM_ROUNDS: usize = 4;

/// Times in a row that reclaim may free nothing before there is no memory.
const FRUITLESS_TRIES: usize = 3;

/// The number of a frame.
pub type Pfn = u32;

/// Somebody who can do something when frames run out: page caches, caches of kernel objects, address spaces.
///
/// Called from whoever needs memory, with whatever sleeping locks they hold.
pub trait Reclaim: Send + Sync {
    /// Tries to free at least `frames` frames; answers how many it freed. It must not allocate frames and must not sleep on I/O that needs them.
    fn reclaim(&self, frames: usize) -> usize;
    /// Lets go of about `frames` frames that it only borrows, so that whoever owns them can free them; answers how many.
    fn let_go(&self, frames: usize) -> usize {
        let _ = frames;
        0
    }
}

/// How RAM is used, in frames but for `charged_bytes`.
#[derive(Clone, Copy, Default, Debug)]
pub struct Stats {
    /// All frames, but for those taken out of the machine.
    pub total: usize,
    /// Frames that nobody holds.
    pub free: usize,
    /// Kernel objects, bytes.
    pub charged_bytes: usize,
}

/// Guest RAM.
pub struct Ram {
    backing: Box<dyn Backing>,
    counts: Vec<AtomicU32>,
    pool: SpinLock<Pool>,
    /// Bytes of free frames less [`Ram::charged_bytes`].
    room_bytes: AtomicUsize,
    charged_bytes: AtomicUsize,
    offline_frames: AtomicUsize,
    reclaimers: SpinLock<Vec<std::sync::Weak<dyn Reclaim>>>,
    next_to_let_go: AtomicUsize,
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
        Box::leak(Box::new(Ram {
            backing,
            counts: (0..total).map(|_| AtomicU32::new(0)).collect(),
            pool: SpinLock::ranked(Rank::Frames, Pool::new(total)),
            room_bytes: AtomicUsize::new(total * PAGE_SIZE),
            charged_bytes: AtomicUsize::new(0),
            offline_frames: AtomicUsize::new(0),
            reclaimers: SpinLock::new(Vec::new()),
            next_to_let_go: AtomicUsize::new(0),
        }))
    }

    /// RAM for a test.
    pub fn for_tests(len_bytes: usize) -> &'static Ram {
        Ram::new(Box::new(crate::HeapBacking::new(len_bytes)))
    }

    /// Frames in all, those taken out of the machine included: every frame's number is below this.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.counts.len()
    }

    /// How it is used.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let charged_bytes = self.charged_bytes.load(Ordering::Relaxed);
        Stats {
            total: self.frames() - self.offline_frames.load(Ordering::Relaxed),
            free: (self.room_bytes.load(Ordering::Relaxed) + charged_bytes) / PAGE_SIZE,
            charged_bytes,
        }
    }

    /// Frames that can still be had: the free ones less what kernel objects are charged.
    #[must_use]
    pub fn available(&self) -> usize {
        self.room_bytes.load(Ordering::Relaxed) / PAGE_SIZE
    }

    /// Whether so little is left (less than a sixteenth) that nobody should take more than they need.
    #[must_use]
    pub fn is_scarce(&self) -> bool {
        self.available() < self.frames() / 16
    }

    /// Registers somebody who can free frames. They are asked in the order of registration.
    pub fn register_reclaim(&self, reclaimer: std::sync::Weak<dyn Reclaim>) {
        let mut reclaimers = self.reclaimers.lock();
        // Those that are gone are taken out when the list would grow, so that registering costs nothing to speak of.
        if reclaimers.len() == reclaimers.capacity() {
            reclaimers.retain(|known| known.strong_count() > 0);
            let room = reclaimers.len() + 64;
            reclaimers.reserve(room);
        }
        reclaimers.push(reclaimer);
    }

    /// One frame, contents undefined. ENOMEM when RAM is used up and nothing can be reclaimed. May sleep, as everything here that asks for memory:
    /// whoever reclaims may take any lock that it may take while the caller's are held.
    pub fn alloc(&'static self) -> Result<Frame, Errno> {
        let mut one = [0];
        self.alloc_pfns(false, &mut one)?;
        Ok(Frame { ram: self, pfn: one[0] })
    }

    /// One frame of zeroes.
    pub fn alloc_zeroed(&'static self) -> Result<Frame, Errno> {
        let mut one = [0];
        self.alloc_pfns(true, &mut one)?;
        Ok(Frame { ram: self, pfn: one[0] })
    }

    /// `count` frames, in contiguous runs where possible, appended to `out` in order. All or nothing: ENOMEM leaves `out` as it was.
    pub fn alloc_many(&'static self, count: usize, zeroed: bool, out: &mut Vec<Frame>) -> Result<(), Errno> {
        let begin = out.len();
        let mut pfns = [0; 64];
        while out.len() - begin < count {
            let n = (count - (out.len() - begin)).min(pfns.len());
            if let Err(errno) = self.alloc_pfns(zeroed, &mut pfns[..n]) {
                out.truncate(begin);
                return Err(errno);
            }
            out.extend(pfns[..n].iter().map(|pfn| Frame { ram: self, pfn: *pfn }));
        }
        Ok(())
    }

    /// Fills `out` with frames, in contiguous runs where possible; each entry is a reference that the caller owns ([`Ram::frame_from_pfn`],
    /// [`Ram::release`]). All or nothing.
    pub fn alloc_pfns(&'static self, zeroed: bool, out: &mut [Pfn]) -> Result<(), Errno> {
        let bytes = out.len() * PAGE_SIZE;
        self.make_room(bytes)?;
        for chunk in out.chunks_mut(64) {
            // The room was ours, so the frames are there.
            let zero = self.pool.lock().take(chunk).unwrap_or_else(|| unreachable!("frames are counted before they are taken"));
            for pfn in chunk.iter() {
                self.counts[*pfn as usize].store(1, Ordering::Relaxed);
            }
            if zeroed {
                self.zero(chunk, zero);
            }
        }
        Ok(())
    }

    /// Zeroes those of `pfns` whose bit is not in `zero`, neighbours in one go.
    fn zero(&self, pfns: &[Pfn], zero: u64) {
        let mut i = 0;
        while i < pfns.len() {
            let mut n = 1;
            if zero & 1 << i == 0 {
                while i + n < pfns.len() && zero & 1 << (i + n) == 0 && pfns[i + n] == pfns[i] + n as Pfn {
                    n += 1;
                }
                self.backing.fill(pfns[i] as usize * PAGE_SIZE, n * PAGE_SIZE, 0);
            }
            i += n;
        }
    }

    /// Charges `len_bytes` of kernel memory. ENOMEM when RAM has no room for it. May sleep.
    pub fn charge(&'static self, len_bytes: usize) -> Result<Charge, Errno> {
        self.make_room(len_bytes)?;
        self.charged_bytes.fetch_add(len_bytes, Ordering::Relaxed);
        Ok(Charge::new(self, len_bytes))
    }

    pub(crate) fn uncharge(&self, len_bytes: usize) {
        self.charged_bytes.fetch_sub(len_bytes, Ordering::Relaxed);
        self.room_bytes.fetch_add(len_bytes, Ordering::Relaxed);
    }

    fn take_room(&self, bytes: usize) -> bool {
        self.room_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(bytes)).is_ok()
    }

    /// Takes room, and has frames freed until there is enough. What one thread has freed another may take first, so it takes more than one fruitless
    /// try to say that there is none.
    fn make_room(&self, bytes: usize) -> Result<(), Errno> {
        let mut fruitless = 0;
        while !self.take_room(bytes) {
            if bytes > self.frames() * PAGE_SIZE || fruitless == FRUITLESS_TRIES {
                return Err(Errno::ENOMEM);
            }
            if self.reclaim(bytes.div_ceil(PAGE_SIZE)) {
                fruitless = 0;
            } else {
                fruitless += 1;
                sync::yield_now();
            }
        }
        Ok(())
    }

    /// Has frames freed: by their owners; if that is not enough, by those who borrow them first, and then by the owners again. Answers whether
    /// any were.
    fn reclaim(&self, frames: usize) -> bool {
        let reclaimers: Vec<_> = self.reclaimers.lock().iter().filter_map(std::sync::Weak::upgrade).collect();
        let want = frames.max(RUN_FRAMES);
        let mut freed = 0;
        for _ in 0..RECLAIM_ROUNDS {
            for reclaimer in &reclaimers {
                if freed >= want {
                    return true;
                }
                freed += reclaimer.reclaim(want - freed);
            }
            // Not always the same first, and more than is wanted, since several may borrow a frame.
            let begin = self.next_to_let_go.fetch_add(1, Ordering::Relaxed);
            let mut let_go = 0;
            for i in 0..reclaimers.len() {
                if let_go >= 4 * want {
                    break;
                }
                let_go += reclaimers[(begin + i) % reclaimers.len()].let_go(2 * want);
            }
            if let_go == 0 {
                break;
            }
        }
        freed > 0
    }

    /// Gives up to `max_bytes` of free memory back to the host; answers how much. The frames stay free: this is for idle times, since a frame
    /// whose memory is gone costs more to use again.
    pub fn give_back(&self, max_bytes: usize) -> usize {
        let mut given = 0;
        while given + RUN_FRAMES * PAGE_SIZE <= max_bytes {
            // While a run is on no list it must not count as free.
            if !self.take_room(RUN_FRAMES * PAGE_SIZE) {
                break;
            }
            let run = self.pool.lock().dirty_run();
            if let Some(run) = run {
                given += self.punch(run);
                self.pool.lock().cleaned(run);
            }
            self.room_bytes.fetch_add(RUN_FRAMES * PAGE_SIZE, Ordering::Relaxed);
            if run.is_none() {
                break;
            }
        }
        given
    }

    /// Takes up to `len_bytes` of RAM out of the machine (`config mem=-N`), after reclaiming; answers how much. Only whole free runs can go.
    pub fn offline(&'static self, len_bytes: usize) -> usize {
        let mut gone = 0;
        let mut reclaimed = false;
        while gone < len_bytes {
            if !self.take_room(RUN_FRAMES * PAGE_SIZE) {
                if reclaimed {
                    break;
                }
                reclaimed = true;
                self.reclaim((len_bytes - gone).div_ceil(PAGE_SIZE));
                continue;
            }
            let Some((run, dirty)) = self.pool.lock().any_free_run() else {
                self.room_bytes.fetch_add(RUN_FRAMES * PAGE_SIZE, Ordering::Relaxed);
                if reclaimed {
                    break;
                }
                reclaimed = true;
                self.reclaim((len_bytes - gone).div_ceil(PAGE_SIZE));
                continue;
            };
            if dirty {
                self.punch(run);
            }
            let mut pool = self.pool.lock();
            let frames = pool.frames_in(run);
            pool.gone(run);
            drop(pool);
            self.room_bytes.fetch_add((RUN_FRAMES - frames) * PAGE_SIZE, Ordering::Relaxed);
            self.offline_frames.fetch_add(frames, Ordering::Relaxed);
            gone += frames * PAGE_SIZE;
        }
        gone
    }

    /// Brings back up to `len_bytes` of what [`Ram::offline`] took; answers how much.
    pub fn online(&self, len_bytes: usize) -> usize {
        let mut back = 0;
        while back < len_bytes {
            let Some(frames) = self.pool.lock().back() else { break };
            self.offline_frames.fetch_sub(frames, Ordering::Relaxed);
            self.room_bytes.fetch_add(frames * PAGE_SIZE, Ordering::Relaxed);
            back += frames * PAGE_SIZE;
        }
        back
    }

    fn punch(&self, run: u32) -> usize {
        let first = run as usize * RUN_FRAMES;
        let len = RUN_FRAMES.min(self.frames() - first) * PAGE_SIZE;
        self.backing.punch(first * PAGE_SIZE, len);
        len
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

    /// Adds a reference to an allocated frame without making a [`Frame`] of it.
    pub fn share(&self, pfn: Pfn) {
        self.counts[pfn as usize].fetch_add(1, Ordering::Relaxed);
    }
    /// Drops one reference to each, for page tables that keep bare numbers: what many drops of [`Frame`] do, in one go.
    pub fn release(&self, pfns: &[Pfn]) {
        for chunk in pfns.chunks(256) {
            let mut freed = 0;
            let mut pool = None;
            for pfn in chunk {
                if self.counts[*pfn as usize].fetch_sub(1, Ordering::AcqRel) == 1 {
                    pool.get_or_insert_with(|| self.pool.lock()).give(*pfn);
                    freed += 1;
                }
            }
            drop(pool);
            self.room_bytes.fetch_add(freed * PAGE_SIZE, Ordering::Relaxed);
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
        self.ram.release(&[self.pfn]);
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({:#x})", self.pfn)
    }
}
