//! Files, inodes, dentries, mounts, path walk, page cache, descriptor tables.
#![forbid(unsafe_code)]

mod pages;
mod user;

pub use pages::{Mapper, Pages};
pub use user::{Sink, SliceSink, SliceSource, Source, UserMemory, UserRange, UserSink, UserSource};
