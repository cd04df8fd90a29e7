//! ext2, ext3 and ext4 with jbd2, on any block device.
#![forbid(unsafe_code)]
