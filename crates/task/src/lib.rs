//! Processes, threads, signals, futexes, timers, wait, exec.
//!
//! Pure parts first: [`signal`] decides what happens next, [`tree`] keeps families as numbers, [`futex`] and [`credentials`] follow their rules.
//! [`system`], [`process`] and [`task`] are the shared objects; [`current::Current`] is the running thread, and [`run`] is what the kernel's loop
//! calls.
//!
//! What it is not: system calls' arguments (`syscall`), mapping and faults (`mm`), files (`vfs`).
#![forbid(unsafe_code)]

mod calls;
pub mod cgroup;
pub mod clock;
mod clone;
pub mod credentials;
pub mod current;
pub mod exec;
mod exit;
pub mod futex;
pub mod ipc;
pub mod load;
pub mod mapped;
mod pidfd;
pub mod process;
pub mod ptrace;
pub mod run;
pub mod seccomp;
pub mod signal;
pub mod system;
pub mod task;
pub mod timers;
pub mod tree;
pub mod uts;
mod wait;

pub use clone::CloneRequest;
pub use current::{Current, Shared};
pub use pidfd::PidFd;
pub use process::Process;
pub use run::{Next, Outcome, current_task};
pub use system::{Hooks, Limits, System};
pub use task::Task;
