//! Address spaces, faults, copy-on-write, user-memory access.
#![forbid(unsafe_code)]
