//! Address spaces: mappings, faults, copy-on-write, fork, and the kernel's way into guest memory.
//!
//! [`AddressSpace`] is the one type: system calls change its mappings, the run loop gives it faults, everybody copies through it
//! ([`vfs::UserMemory`]), and files take their pages back through it ([`vfs::Mapper`]). Its page table is the truth; what a stub has mapped is a
//! cache of it that may lose any page at any time, and never shows a frame that the table does not have there.
//!
//! What it is not: files and their pages (`vfs`), who runs in the space (`task`), or how commands reach the host (`platform`).
//! Sources: the manual pages mmap(2), munmap(2), mprotect(2), mremap(2), brk(2), madvise(2), msync(2), mincore(2), mlock(2), fork(2), futex(2),
//! proc(5).
#![forbid(unsafe_code)]

mod advise;
mod batch;
mod fault;
mod fork;
mod lessons;
mod map;
mod object;
mod protect;
mod reclaim;
mod remap;
mod shared;
mod space;
mod stats;
mod table;
mod user;
mod vma;

pub use advise::{Advice, Msync};
pub use fault::FaultError;
pub use map::{Changed, Deferred, HostRun, MapFlags, Mapping};
pub use remap::RemapFlags;
pub use shared::SharedMemory;
pub use space::{AddressSpace, Layout, Limits, SpaceId};
pub use stats::{Smaps, Usage, VmaInfo};
pub use table::Resident;
pub use user::FutexKey;
pub use vma::{Backing, MAX_MAP_COUNT, MappedFile, STACK_GUARD_GAP, VmaFlags};
