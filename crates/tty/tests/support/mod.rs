//! Scripts for a pty pair, what they observe, and the two that run them: the library and the host's kernel.

pub mod generate;
pub mod host;
pub mod model;
pub mod script;
