//! The terminal line discipline, pty pairs and job-control decisions.
#![forbid(unsafe_code)]
