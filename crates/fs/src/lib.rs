//! File systems: tmpfs, overlay, proc, devtmpfs, hostfs and the like.
#![forbid(unsafe_code)]

pub mod cpio;
pub mod devices;
pub mod devtmpfs;
pub mod tmpfs;
