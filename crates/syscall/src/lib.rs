//! The system-call table and its thin handlers.
#![forbid(unsafe_code)]
