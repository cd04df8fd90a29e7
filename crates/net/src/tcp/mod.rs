//! TCP.

pub mod congestion;
pub mod seq;
