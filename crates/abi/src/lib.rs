//! Linux numbers, flags and structures as a guest program sees them.
//!
//! What it is: names and layouts, taken from the kernel's own headers by way of `linux-raw-sys` ([`raw`]), with the few that we want typed.
//! What differs by processor is in [`arch`].
//!
//! What it is not: behaviour. Nothing here decides anything.
#![forbid(unsafe_code)]

pub mod arch;
mod errno;
mod process;
mod resource;
pub mod siginfo;
mod signal;
mod time;

pub use errno::{Errno, Interrupted, Restart, SysError, SysResult};
pub use linux_raw_sys as raw;
pub use process::{CLONE_ARGS_SIZE_VER0, CloneArgs, CloneFlags, WaitFor, WaitOptions, WaitStatus};
pub use resource::{RLIM_INFINITY, RLIM_NLIMITS, Resource, Rlimit, Rusage};
pub use siginfo::{AltStack, SaFlags, SigAction, SigFields, SigInfo};
pub use signal::{SigSet, Signal};
pub use time::{ClockId, Itimerspec, Itimerval, NS_PER_SEC, TIMER_ABSTIME, Timespec, Timeval};

/// Bytes in a page, on the guest and on every host we run on.
pub const PAGE_SIZE: usize = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
