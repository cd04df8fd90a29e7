//! Guest RAM in a memory file.

use crate::sys::{self, Mapping};
use abi::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

/// A memory file, mapped once as a whole. Stubs map pieces of the same file.
pub struct MemoryFile {
    file: OwnedFd,
    mapping: Mapping,
    len: usize,
}

impl MemoryFile {
    /// A sparse memory file of `len_bytes`, a multiple of the page size.
    pub fn new(len_bytes: usize) -> Result<MemoryFile, Errno> {
        let file = sys::memory_file(c"vm_file-umlaut", len_bytes as u64)?;
        let mapping = Mapping::shared(file.as_fd(), 0, len_bytes)?;
        Ok(MemoryFile { file, mapping, len: len_bytes })
    }

    /// Its descriptor, for the stubs.
    #[must_use]
    pub fn descriptor(&self) -> &OwnedFd {
        &self.file
    }

    /// A second handle to the same file and mapping bounds, for [`ram::Ram::new`], which takes the backing over.
    pub fn into_backing(self) -> Box<dyn ram::Backing> {
        Box::new(self)
    }

    fn range(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "inside RAM");
        self.mapping.base().wrapping_add(offset)
    }

    fn atomic(&self, offset: usize) -> &AtomicU32 {
        let pointer = self.range(offset, 4).cast::<u32>();
        assert!(pointer.is_aligned());
        // SAFETY: aligned, inside a mapping that lives as long as `self`.
        unsafe { AtomicU32::from_ptr(pointer) }
    }
}

// Guests write to RAM while we copy. The copies below go through raw pointers into memory that no Rust reference covers, so what they read is some
// mixture of old and new bytes, and nothing else can come of it.
impl ram::Backing for MemoryFile {
    fn len_bytes(&self) -> usize {
        self.len
    }
    fn read(&self, offset: usize, buffer: &mut [u8]) {
        let from = self.range(offset, buffer.len());
        // SAFETY: `range` checked the bounds; the buffer is not part of RAM.
        unsafe { std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), buffer.len()) }
    }
    fn write(&self, offset: usize, data: &[u8]) {
        let to = self.range(offset, data.len());
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) }
    }
    fn copy(&self, from: usize, to: usize, len: usize) {
        let (from, to) = (self.range(from, len), self.range(to, len));
        // SAFETY: both inside RAM; `copy` allows overlap.
        unsafe { std::ptr::copy(from, to, len) }
    }
    fn fill(&self, offset: usize, len: usize, value: u8) {
        let to = self.range(offset, len);
        // SAFETY: inside RAM.
        unsafe { std::ptr::write_bytes(to, value, len) }
    }
    fn compare_exchange_u32(&self, offset: usize, old: u32, new: u32) -> Result<u32, u32> {
        self.atomic(offset).compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
    }
    fn load_u32(&self, offset: usize) -> u32 {
        self.atomic(offset).load(Ordering::SeqCst)
    }
    fn punch(&self, offset: usize, len: usize) {
        self.range(offset, len);
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        if rustix::fs::fallocate(&self.file, flags, offset as u64, len as u64).is_err() {
            self.fill(offset, len, 0);
        }
    }
}

/// Bytes of memory that this process has from the host now, guest RAM that it touched included: proc_pid_statm(5). 0 when the host does not say.
#[must_use]
pub fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

/// Gives memory of objects that are gone back to the host: malloc_trim(3).
pub fn trim() {
    // SAFETY: it only gives back pages that hold nothing.
    unsafe { libc::malloc_trim(0) };
}
