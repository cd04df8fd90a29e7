//! Files, inodes, dentries, mounts, path walk, page cache, descriptor tables.
#![forbid(unsafe_code)]
