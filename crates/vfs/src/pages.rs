//! The seam between files and address spaces: a file's pages as `mm` maps them.

use abi::Errno;
use ram::Frame;
use std::sync::Weak;

/// The pages of something that can be mapped: a file's page cache, shared anonymous memory.
pub trait Pages: Send + Sync {
    /// The frame of page `index`, read in if need be. The same frame for everybody, until it is truncated away. May sleep.
    ///
    /// With `write` the caller is about to make it writable for a shared mapping: the page counts as dirty from now on, and storage is reserved
    /// (ENOSPC). `Err(ENXIO)` past the end of the file: the guest gets SIGBUS. `Err(EIO)` likewise.
    fn page(&self, index: u64, write: bool) -> Result<Frame, Errno>;
    /// The frame if it is in memory and up to date, for mapping around a fault; never sleeps.
    fn page_if_cached(&self, index: u64) -> Option<Frame>;
    /// Gives `take` the number and frame of each page of `first..end` for which [`Pages::page_if_cached`] has one, in order.
    fn pages_if_cached(&self, first: u64, end: u64, take: &mut dyn FnMut(u64, Frame)) {
        for index in first..end {
            if let Some(frame) = self.page_if_cached(index) {
                take(index, frame);
            }
        }
    }
    /// Number of pages, the last partial one included.
    fn len_pages(&self) -> u64;
    /// A number that is the same for two mappings if and only if they map the same object: key of shared futexes and `/proc/PID/maps`.
    fn id(&self) -> u64;
    /// Tells of an address space that maps pages of this object, to be asked to let go when they are truncated away.
    fn register_mapper(&self, mapper: Weak<dyn Mapper>);
}

/// An address space that maps pages of files.
pub trait Mapper: Send + Sync {
    /// Unmaps pages `first..end` of the object `id` wherever they are mapped shared or not yet copied; they fault again. When it returns no guest
    /// code can reach those frames. Private copies stay unless `private_too` (truncation).
    fn unmap_object(&self, id: u64, first: u64, end: u64, private_too: bool);
    /// Write-protects pages `first..end` of the object, so that the next store faults and counts as dirtying.
    fn write_protect_object(&self, id: u64, first: u64, end: u64);
}
