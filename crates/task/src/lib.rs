//! Processes, threads, signals, futexes, timers, exec.
#![forbid(unsafe_code)]

pub mod futex;
pub mod signal;
pub mod tree;
