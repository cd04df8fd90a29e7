//! The kernel: command line, boot, wiring, the run loop.
//!
//! It is the only room that knows all others; it joins them and decides nothing that one of them could.
#![forbid(unsafe_code)]

mod balance;
mod boot;
mod cgroupfs;
pub mod cmdline;
mod config;
mod console;
mod disks;
mod flusher;
mod hosttree;
mod machine;
mod management;
mod network;
mod procfs;
mod procmem;
mod run;
mod sigio;
mod sysctls;
mod sysrq;
mod vdso;
mod wiring;

pub use config::{Config, End, HostTree, Program, Root, Streams};
pub use machine::start;
pub use management::ManagementConfig;

/// What `uname -r` says: the Linux release whose behaviour we follow.
pub const RELEASE: &str = "6.12.0-umlaut";
/// Most virtual CPUs.
pub const MAX_CPUS: usize = 64;

/// `--showconfig`: how this kernel was built.
#[must_use]
pub fn configuration() -> String {
    let mode = if cfg!(debug_assertions) { "debug" } else { "release" };
    format!(
        "CONFIG_UML=y\nCONFIG_64BIT=y\nCONFIG_X86_64=y\nCONFIG_SMP=y\nCONFIG_NR_CPUS={MAX_CPUS}\nCONFIG_HOSTFS=y\nCONFIG_TMPFS=y\n# built for {mode}\n"
    )
}
