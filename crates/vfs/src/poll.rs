//! How an open file is asked what it is ready for, and how the asker hears of changes: the core of poll(2), select(2), epoll(7) and O_ASYNC.
//!
//! A file's `poll` first announces every queue on which its readiness can change ([`PollTable::listen`]), then looks. The asker that finds nothing
//! sleeps on its observer, and asks again: level-triggered use. An epoll instance keeps the table and counts each notification as an edge.
//!
//! Always true: a change of readiness after `poll` looked reaches the observer, because it listened before.

use std::sync::Arc;
use sync::{Observer, Registration, WaitQueue};

/// Where an observer listens. Dropping it ends that.
pub struct PollTable {
    observer: Arc<dyn Observer>,
    listening: Vec<(Arc<WaitQueue>, Registration)>,
}

impl PollTable {
    /// A table for this observer (a [`sync::Poller`], an epoll item), listening to nothing yet.
    #[must_use]
    pub fn new(observer: Arc<dyn Observer>) -> PollTable {
        PollTable { observer, listening: Vec::new() }
    }
    /// Listens to one more queue.
    pub fn listen(&mut self, queue: &Arc<WaitQueue>) {
        let registration = queue.register(self.observer.clone());
        self.listening.push((queue.clone(), registration));
    }
    /// Whether no queue was announced: the file's readiness never changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listening.is_empty()
    }
}

impl Drop for PollTable {
    fn drop(&mut self) {
        for (queue, registration) in self.listening.drain(..) {
            queue.unregister(registration);
        }
    }
}
