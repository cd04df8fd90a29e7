//! UML's copy-on-write file format, versions 1 to 3.
//!
//! A COW file is a header, a bitmap with one bit for each 512-byte sector, and a sparse data area. A set bit says that the sector lives in
//! the data area; a clear one that it is still the backing file's. Many machines can so share one backing file that none of them changes.
//!
//! * [`header`]: the five byte layouts, read and written exactly;
//! * [`device`]: the two files as one [`block::BlockDevice`], with the order of writes that survives a crash;
//! * [`open`]: which backing file to use, whether it is the right one, and the messages that users know;
//! * [`merge`]: one file out of two (`uml_moo`).
//!
//! What it is not: the host. Files are reached through [`Storage`], names through [`open::BackingFiles`]; locks and flags are the driver's.
//!
//! Format: "Sharing filesystems between virtual machines" and "UML utilities" in the UML documentation, and files that UML wrote.
#![forbid(unsafe_code)]

mod bitmap;
pub mod device;
pub mod header;
pub mod merge;
pub mod open;
mod storage;

pub use device::Device;
pub use header::{Header, HeaderError, Layout, Version};
pub use storage::{MemoryStorage, Storage};

/// Bytes in a sector: the unit of the bitmap. Every COW file ever written has this value in its header.
pub const SECTOR_SIZE: u32 = block::SECTOR_SIZE as u32;
