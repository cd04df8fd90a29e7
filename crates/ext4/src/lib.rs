//! ext2, ext3 and ext4 with jbd2, on any block device.
//!
//! [`Filesystem::mount`] gives a file system whose operations work on inode numbers. It is pure: no clock (times are arguments), no
//! caching of file data, no permissions, no path walk. Metadata goes through transactions that are taken back whole when anything in them
//! fails; corruption is a value ([`Error::Corrupt`]) and follows the `errors=` policy.
//!
//! Not here: quota, encryption, verity, case folding (such images mount read-only), resizing, and `data=journal`.
//!
//! The rooms, lowest first: `field`, `checksum`, `bitmap`, `hash` are pure; `superblock`, `group`, `inode` are structures; `cache` and
//! `core` hold metadata and take operations back; `block_alloc`, `inode_alloc`, `extent`, `indirect`, `mapping`, `dir`, `htree`, `xattr`,
//! `inline`, `orphan` change it; `journal` makes it durable; `filesystem` joins them; `names`, `files` and `space` are the operations.
#![forbid(unsafe_code)]

mod bitmap;
mod block_alloc;
mod cache;
mod checksum;
mod core;
mod dir;
mod error;
mod extent;
mod field;
mod files;
mod filesystem;
mod group;
mod hash;
mod htree;
mod indirect;
mod inline;
mod inode;
mod inode_alloc;
mod journal;
mod lock;
mod mapping;
mod names;
mod options;
mod orphan;
pub mod probe;
mod space;
mod superblock;
mod xattr;

pub use block_alloc::Claim;
pub use dir::{DirEntry, NAME_MAX};
pub use error::{Error, Result};
pub use files::{Attributes, SetAttributes};
pub use filesystem::{Event, Filesystem, Handle, Statistics};
pub use inode::{FileType, ROOT_INODE, Timestamp, inode_flags};
pub use mapping::{Mapping, MappingState};
pub use names::{NewInode, RenameMode};
pub use options::{DataMode, ErrorPolicy, Options};
pub use space::{Fallocate, FiemapExtent, fiemap_flags};
pub use superblock::{Compat, Incompat, RoCompat};
pub use xattr::SetMode;
