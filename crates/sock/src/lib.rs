//! Socket objects.
#![forbid(unsafe_code)]
