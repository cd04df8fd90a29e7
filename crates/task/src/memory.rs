//! What tasks need of an address space.

use crate::futex::FutexMemory;
use abi::{Errno, Signal};
use platform::{Access, GuestSpace};
use std::sync::Arc;
use vfs::UserMemory;

/// Why a fault could not be resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultError {
    /// The thread gets this signal.
    Signal { signal: Signal, code: i32 },
    /// No memory.
    Oom,
    /// The stub is gone.
    Gone,
}

/// An address space.
pub trait Memory: UserMemory + FutexMemory + Send + Sync {
    /// The stub that shows it.
    fn guest_space(&self) -> &Arc<dyn GuestSpace>;
    /// Resolves a fault of guest code.
    fn fault(&self, addr: u64, access: Access) -> Result<(), FaultError>;
    /// Pages in memory, for `/proc` and the out-of-memory killer.
    fn resident_pages(&self) -> usize;
    /// A copy for fork(2), shown in an empty stub.
    fn fork(&self, into: Arc<dyn GuestSpace>) -> Result<Arc<dyn Memory>, Errno>;
}
