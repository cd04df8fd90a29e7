//! How an open file is asked what it is ready for, and how the asker hears of changes: the core of poll(2), select(2), epoll(7) and O_ASYNC.
//!
//! A file's `poll` first announces every queue on which its readiness can change ([`PollTable::listen`]), then looks. The asker that finds nothing
//! sleeps on its observer, and asks again: level-triggered use. An epoll instance keeps the table and counts each notification as an edge.
//!
//! Always true: a change of readiness after `poll` looked reaches the observer, because it listened before.

use crate::file::OpenFile;
use abi::Interrupted;
use std::sync::Arc;
use sync::{Events, Observer, Poller, Registration, WaitError, WaitQueue};

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

/// A file that poll(2) asks about, and for what.
pub struct PollItem {
    /// `None`: not an open descriptor.
    pub file: Option<Arc<OpenFile>>,
    pub wanted: Events,
    /// What it is ready for; filled in.
    pub ready: Events,
}

impl PollItem {
    /// An item, not yet looked at.
    #[must_use]
    pub fn new(file: Option<Arc<OpenFile>>, wanted: Events) -> PollItem {
        PollItem { file, wanted, ready: Events::empty() }
    }
    fn look(&mut self, table: Option<&mut PollTable>) -> bool {
        let always = Events::ERR | Events::HUP | Events::NVAL;
        self.ready = match &self.file {
            Some(file) => file.poll(table) & (self.wanted | always),
            None => Events::NVAL,
        };
        !self.ready.is_empty()
    }
}

/// poll(2) and, with the right events, select(2): waits until an item is ready or the deadline passes, and answers how many are. Only a wait
/// is interrupted: what is ready is told though a signal is there.
pub fn poll_files(items: &mut [PollItem], deadline_ns: Option<u64>) -> Result<usize, Interrupted> {
    let look = |items: &mut [PollItem]| items.iter_mut().map(|item| usize::from(item.look(None))).sum::<usize>();
    let ready = look(items);
    if ready > 0 || deadline_ns.is_some_and(|at| at <= sync::monotonic_ns()) {
        return Ok(ready);
    }
    let poller = Poller::new();
    let mut table = PollTable::new(poller.clone());
    let mut ready = items.iter_mut().map(|item| usize::from(item.look(Some(&mut table)))).sum::<usize>();
    while ready == 0 {
        match poller.wait(deadline_ns) {
            Ok(()) => ready = look(items),
            Err(WaitError::TimedOut) => return Ok(look(items)),
            Err(WaitError::Interrupted) => return Err(Interrupted),
        }
    }
    Ok(ready)
}
