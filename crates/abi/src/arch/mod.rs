//! What differs by processor: registers, signal frames, system-call numbers. One module per processor, the one in use re-exported.

mod x86_64;
pub use x86_64::*;
