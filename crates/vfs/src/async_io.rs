//! Signal-driven I/O: O_ASYNC, F_SETOWN, F_SETSIG of fcntl(2). Who signals processes, only `task` knows; it installs a [`SignalSink`].

use crate::file::SignalOwner;
use std::sync::{Arc, OnceLock};
use sync::{Events, Observer, SpinLock};

/// Sends signals on behalf of files. Called on whatever thread caused the event, without locks; must not sleep.
pub trait SignalSink: Send + Sync {
    /// I/O is possible on `fd` (as its owner numbered it when O_ASYNC was set): SIGIO, or the owner's own signal with details.
    fn io_possible(&self, owner: &SignalOwner, fd: i32, events: Events);
}

static SINK: OnceLock<Arc<dyn SignalSink>> = OnceLock::new();

/// Installs the machine's sink, once; later calls answer false and change nothing.
pub fn install_signal_sink(sink: Arc<dyn SignalSink>) -> bool {
    SINK.set(sink).is_ok()
}

/// What listens on the queues of a file with O_ASYNC.
pub(crate) struct AsyncNotify {
    pub owner: Arc<SpinLock<Option<SignalOwner>>>,
    pub fd: i32,
}

impl Observer for AsyncNotify {
    fn notify(&self, events: Events) {
        let owner = *self.owner.lock();
        if let (Some(owner), Some(sink)) = (owner, SINK.get()) {
            sink.io_possible(&owner, self.fd, events);
        }
    }
}
