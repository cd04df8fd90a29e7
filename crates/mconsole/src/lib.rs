//! The management console's wire protocol.
#![forbid(unsafe_code)]
