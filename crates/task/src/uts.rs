//! UTS namespaces: what a part of the machine calls itself, uts_namespaces(7).

use crate::system::Names;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use sync::SpinLock;

/// What `/proc/PID/ns/uts` shows of the first one.
const FIRST: u64 = 0xefff_fffe;

/// Names that the tasks in it see and change.
pub struct Uts {
    id: u64,
    pub names: SpinLock<Names>,
}

impl Uts {
    pub(crate) fn first(names: Names) -> Arc<Uts> {
        Arc::new(Uts { id: FIRST, names: SpinLock::new(names) })
    }
    /// Another with the same names, for now.
    #[must_use]
    pub fn copy(&self) -> Arc<Uts> {
        // Behind the numbers of Linux's first namespaces, and apart from those of mounts.
        static NEXT: AtomicU64 = AtomicU64::new(0xf100_0000);
        Arc::new(Uts { id: NEXT.fetch_add(1, Ordering::Relaxed), names: SpinLock::new(self.names.lock().clone()) })
    }
    /// The number that `/proc/PID/ns/uts` shows.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }
}
