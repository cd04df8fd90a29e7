//! File systems: tmpfs, overlay, proc, devtmpfs, hostfs and the like.
#![forbid(unsafe_code)]

pub mod blockdev;
pub mod cpio;
pub mod devices;
pub mod devtmpfs;
pub mod epoll;
pub mod eventfd;
pub mod ext4;
pub mod hostfs;
pub mod hostroot;
pub mod inotify;
pub mod kernfs;
mod listing;
pub mod overlay;
pub mod proc;
pub mod signalfd;
mod sysblock;
pub mod sysfs;
pub mod timerfd;
pub mod tmpfs;
