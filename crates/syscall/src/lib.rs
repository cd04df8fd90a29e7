//! System calls: the table, one typed line per call, and thin handlers, one file per family.
//!
//! [`call`] is what the run loop needs. A handler says what is special about its call; objects of the rooms below do the work.
//!
//! What it is not: the decision how an interrupted call goes on (`task::run`), or anything that is not reached by a system call.
//!
//! Always true: an argument has its type before a handler sees it; guest memory is read once and validated after that; what isn't implemented
//! answers the errno of an unconfigured kernel, is logged once and counted ([`unimplemented_counts`]).
#![forbid(unsafe_code)]

mod args;

mod credentials;
mod data;
mod descriptor;
mod events;
mod exec;
mod file;
mod futex;
mod ioprio;
mod klog;
mod lock;
mod memory;
mod mount;
mod path;
mod pidfd;
mod poll;
mod process;
mod ptrace;
#[cfg(test)]
mod reference;
mod resource;
mod sched;
mod seccomp;
mod signal;
mod signalfd;
mod socket;
mod splice;
mod system;
mod sysv;
mod table;
mod time;
mod timer;
mod unimplemented;
mod xattr;

pub use args::{Fd, UserAddr, UserPath, UserRef};
pub use socket::of_machine as sockets;
pub use table::{call, name};
pub use unimplemented::counts as unimplemented_counts;
