//! Processes, threads, signals, futexes, timers, exec.
#![forbid(unsafe_code)]
