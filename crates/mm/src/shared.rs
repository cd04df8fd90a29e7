//! Shared anonymous memory: an object with no file. mmap(2) with `MAP_SHARED | MAP_ANONYMOUS` makes one; SysV segments are others.
//!
//! Pages come into being as zeroes when first touched, a whole run at a time where nothing of it is there yet, and stay until the object goes.
//! They are always dirty: there is nowhere to write them to.

use abi::{Errno, PAGE_SIZE};
use ram::{Charge, Frame, RUN_FRAMES, Ram};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use sync::{Rank, SpinLock};
use vfs::{Mapper, Pages};

const RUN: u64 = RUN_FRAMES as u64;
/// Ids of these objects have the highest bit set; those of files do not.
const ID_BIT: u64 = 1 << 63;
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// One run of pages, as far as they are there, and what keeping them is charged.
struct Run {
    frames: [Option<Frame>; RUN_FRAMES],
    _charge: Charge,
}

/// See the module.
pub struct SharedMemory {
    id: u64,
    ram: &'static Ram,
    len_pages: u64,
    runs: SpinLock<BTreeMap<u64, Box<Run>>>,
    _charge: Charge,
}

impl SharedMemory {
    /// An object of so many pages. ENOMEM when it could never be filled.
    pub fn new(ram: &'static Ram, len_pages: u64) -> Result<Arc<SharedMemory>, Errno> {
        if len_pages > ram.frames() as u64 {
            return Err(Errno::ENOMEM);
        }
        let charge = ram.charge(size_of::<SharedMemory>())?;
        Ok(Arc::new(SharedMemory {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed) | ID_BIT,
            ram,
            len_pages,
            runs: SpinLock::ranked(Rank::PageCache, BTreeMap::new()),
            _charge: charge,
        }))
    }

    /// Pages that are there.
    #[must_use]
    pub fn resident(&self) -> u64 {
        self.runs.lock().values().map(|run| run.frames.iter().flatten().count() as u64).sum()
    }

    /// Frames for the pages of the run of `index` that are to be made: all of it if nothing is there and memory is not scarce, or only this one.
    fn make(&self, index: u64, whole: bool) -> Result<(u64, Vec<Frame>), Errno> {
        let first = index / RUN * RUN;
        let mut frames = Vec::new();
        if whole && !self.ram.is_scarce() {
            let count = (self.len_pages - first).min(RUN) as usize;
            if self.ram.alloc_many(count, true, &mut frames).is_ok() {
                return Ok((first, frames));
            }
        }
        self.ram.alloc_many(1, true, &mut frames)?;
        Ok((index, frames))
    }
}

impl Pages for SharedMemory {
    fn page(&self, index: u64, _write: bool) -> Result<Frame, Errno> {
        if index >= self.len_pages {
            return Err(Errno::ENXIO);
        }
        if let Some(frame) = self.page_if_cached(index) {
            return Ok(frame);
        }
        let whole = !self.runs.lock().contains_key(&(index / RUN));
        let (first, frames) = self.make(index, whole)?;
        let charge = self.ram.charge(size_of::<Run>() + PAGE_SIZE / 64)?;
        let mut unused = Vec::new();
        let mut spare = Some(charge);
        let mut runs = self.runs.lock();
        let run = match runs.entry(index / RUN) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let Some(charge) = spare.take() else { return Err(Errno::ENOMEM) };
                entry.insert(Box::new(Run { frames: Default::default(), _charge: charge }))
            }
        };
        for (page, frame) in (first..).zip(frames) {
            // Somebody else may have been quicker: theirs stays.
            match &mut run.frames[(page % RUN) as usize] {
                Some(_) => unused.push(frame),
                place => *place = Some(frame),
            }
        }
        run.frames[(index % RUN) as usize].clone().ok_or(Errno::ENOMEM)
    }

    fn page_if_cached(&self, index: u64) -> Option<Frame> {
        self.runs.lock().get(&(index / RUN))?.frames[(index % RUN) as usize].clone()
    }
    fn len_pages(&self) -> u64 {
        self.len_pages
    }
    fn id(&self) -> u64 {
        self.id
    }
    fn register_mapper(&self, _mapper: Weak<dyn Mapper>) {
        // Nothing is ever taken back from those who map it.
    }
}
