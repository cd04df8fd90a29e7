//! The virtual switch's wire protocol and forwarding.
#![forbid(unsafe_code)]
