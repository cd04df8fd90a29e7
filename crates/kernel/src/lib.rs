//! Boot, command line, wiring, the run loop.
#![forbid(unsafe_code)]
