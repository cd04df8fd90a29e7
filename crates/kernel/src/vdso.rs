//! The guest's vDSO as pages to be mapped: the image, and the page of data that it reads.

use abi::Errno;
use ram::{Frame, Ram};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use vfs::{Mapper, Pages};

/// No file's or memory object's number: objects count from 1 upwards.
const ID: u64 = u64::MAX;

/// The two pages.
pub struct Vdso {
    frames: [Frame; 2],
    host_clock_gettime: u64,
    realtime_offset_ns: AtomicI64,
}

impl Vdso {
    /// The pages, with clocks as the host's plus the machine's offsets. `host_clock_gettime` is where stubs have the host's own function.
    pub fn new(ram: &'static Ram, host_clock_gettime: u64) -> Result<Arc<Vdso>, Errno> {
        let frames = [ram.alloc_zeroed()?, ram.alloc_zeroed()?];
        let [image, _] = &frames;
        image.write(0, &host::vdso::image());
        let vdso = Vdso { frames, host_clock_gettime, realtime_offset_ns: AtomicI64::new(0) };
        vdso.clocks_changed();
        Ok(Arc::new(vdso))
    }

    /// The guest's real-time clock shows this much more than the host's.
    pub fn set_realtime_offset(&self, offset_ns: i64) {
        self.realtime_offset_ns.store(offset_ns, Ordering::SeqCst);
        self.clocks_changed();
    }

    /// The machine's clocks have other offsets now: it was stopped, and goes on.
    pub fn clocks_changed(&self) {
        let mut offsets_ns = host::clock::MachineClock::vdso_offsets_ns();
        offsets_ns[0] = self.realtime_offset_ns.load(Ordering::SeqCst);
        let [_, data] = &self.frames;
        data.write(0, &host::vdso::Data { trap: false, offsets_ns }.bytes(self.host_clock_gettime));
    }
}

impl Pages for Vdso {
    fn page(&self, index: u64, write: bool) -> Result<Frame, Errno> {
        if write {
            return Err(Errno::EACCES);
        }
        self.page_if_cached(index).ok_or(Errno::ENXIO)
    }
    fn page_if_cached(&self, index: u64) -> Option<Frame> {
        self.frames.get(usize::try_from(index).ok()?).cloned()
    }
    fn len_pages(&self) -> u64 {
        host::vdso::LEN_PAGES as u64
    }
    fn id(&self) -> u64 {
        ID
    }
    fn register_mapper(&self, _: Weak<dyn Mapper>) {
        // These pages are never taken away.
    }
}
