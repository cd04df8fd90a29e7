//! The host: the only `unsafe` code and the only host system calls of the machine.
//!
//! It implements the traits of `platform`, the backing of `ram` and the machine of `sync::sched`. It knows nothing of what is above them.

pub mod channel;
pub mod checks;
pub mod clock;
pub mod fiber;
pub mod files;
mod holes;
pub mod identity;
pub mod link;
pub mod machine;
pub mod memory;
pub mod network;
pub mod start;
pub mod stub;
mod sys;
pub mod termination;
pub mod tun;
pub mod vdso;
