//! Guest RAM as numbered frames of 4096 bytes.
//!
//! RAM is reached by copying only: [`Ram::read`], [`Ram::write`], [`Ram::copy`], [`Ram::fill`] and atomic words. No slice into it ever leaves this
//! crate, because guests write to it while we look.
//!
//! Frames are counted references ([`Frame`]); the allocator hands them out in contiguous runs of [`RUN_FRAMES`] where it can, so that mappings
//! of neighbours merge on the host. Everything a guest can make the kernel remember is charged here too ([`Ram::charge`]), so `mem=` bounds
//! kernel objects as well as pages.
//!
//! What it is not: paging or mapping (`mm`), or where the bytes really are ([`Backing`], which `host` implements with a memory file).
#![forbid(unsafe_code)]

mod charge;
mod frames;
mod heap;
mod pool;

pub use charge::Charge;
pub use frames::{Frame, Pfn, RUN_FRAMES, Ram, Reclaim, Stats};
pub use heap::HeapBacking;

/// The bytes behind the frames. Offsets are byte offsets into RAM; callers stay inside [`Backing::len_bytes`].
pub trait Backing: Send + Sync {
    /// Size of RAM, a whole number of pages.
    fn len_bytes(&self) -> usize;
    /// Copies out.
    fn read(&self, offset: usize, buffer: &mut [u8]);
    /// Copies in.
    fn write(&self, offset: usize, data: &[u8]);
    /// Copies within RAM; the ranges do not overlap.
    fn copy(&self, from: usize, to: usize, len: usize);
    /// Sets `len` bytes to `value`.
    fn fill(&self, offset: usize, len: usize, value: u8);
    /// Atomically replaces the aligned 32-bit word at `offset` if it is `old`; gives what was there. Sequentially consistent.
    fn compare_exchange_u32(&self, offset: usize, old: u32, new: u32) -> Result<u32, u32>;
    /// Reads the aligned 32-bit word at `offset` in one piece.
    fn load_u32(&self, offset: usize) -> u32;
    /// Gives the memory behind a range back to the host; it reads as zeroes from then on.
    fn punch(&self, offset: usize, len: usize);
}
