//! What the kernel hangs on an inode whatever its file system: the pipe of a FIFO, a bound socket, counts of writers. Made when first needed, so
//! that an idle inode pays two words.

use crate::locks::FileLocks;
use crate::notify::{WATCHES, Watch};
use crate::pipe::Pipe;
use abi::Errno;
use std::any::Any;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use sync::SpinLock;

/// One field of every inode.
#[derive(Default)]
pub struct Attachments {
    /// Files open for writing if positive (`i_writecount`), programs being run if negative.
    writers: AtomicI32,
    more: OnceLock<Box<More>>,
}

#[derive(Default)]
struct More {
    socket: SpinLock<Option<Weak<dyn Any + Send + Sync>>>,
    fifo: SpinLock<Weak<Pipe>>,
    watches: SpinLock<Vec<Arc<dyn Watch>>>,
    locks: FileLocks,
}

impl Attachments {
    /// Nothing attached.
    #[must_use]
    pub const fn new() -> Attachments {
        Attachments { writers: AtomicI32::new(0), more: OnceLock::new() }
    }
    fn more(&self) -> &More {
        self.more.get_or_init(Box::default)
    }

    /// Counts a file opened for writing. ETXTBSY while the file is being executed.
    pub fn begin_write(&self) -> Result<(), Errno> {
        self.writers.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| (n >= 0).then_some(n + 1)).map(drop).map_err(|_| Errno::ETXTBSY)
    }
    /// Takes back [`Attachments::begin_write`].
    pub fn end_write(&self) {
        self.writers.fetch_sub(1, Ordering::AcqRel);
    }
    /// Counts a program that runs from this file. ETXTBSY while it is open for writing.
    pub fn begin_execute(&self) -> Result<(), Errno> {
        self.writers.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| (n <= 0).then_some(n - 1)).map(drop).map_err(|_| Errno::ETXTBSY)
    }
    /// Takes back [`Attachments::begin_execute`].
    pub fn end_execute(&self) {
        self.writers.fetch_add(1, Ordering::AcqRel);
    }

    /// The pipe of a FIFO that somebody has open.
    pub(crate) fn fifo(&self) -> Option<Arc<Pipe>> {
        self.more.get()?.fifo.lock().upgrade()
    }
    /// The pipe of a FIFO: `new`, unless somebody was quicker.
    pub(crate) fn fifo_or(&self, new: Arc<Pipe>) -> Arc<Pipe> {
        let mut fifo = self.more().fifo.lock();
        match fifo.upgrade() {
            Some(there) => there,
            None => {
                *fifo = Arc::downgrade(&new);
                new
            }
        }
    }
    pub(crate) fn locks(&self) -> &FileLocks {
        &self.more().locks
    }
    pub(crate) fn locks_if_any(&self) -> Option<&FileLocks> {
        self.more.get().map(|more| &more.locks)
    }
    /// Adds a watch; [`Attachments::remove_watch`] takes it off again.
    pub fn add_watch(&self, watch: Arc<dyn Watch>) {
        self.more().watches.lock().push(watch);
        WATCHES.fetch_add(1, Ordering::Relaxed);
    }
    /// Takes a watch off. Nothing happens if it is not there.
    pub fn remove_watch(&self, watch: &Arc<dyn Watch>) {
        let Some(more) = self.more.get() else { return };
        let gone = {
            let mut watches = more.watches.lock();
            watches.iter().position(|there| Arc::ptr_eq(there, watch)).map(|at| watches.swap_remove(at))
        };
        if gone.is_some() {
            WATCHES.fetch_sub(1, Ordering::Relaxed);
        }
    }
    pub(crate) fn watches(&self) -> Vec<Arc<dyn Watch>> {
        self.more.get().map(|more| more.watches.lock().clone()).unwrap_or_default()
    }
    /// The socket that is bound to this name, as `sock` left it with [`Attachments::bind_socket`].
    #[must_use]
    pub fn socket(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.more.get()?.socket.lock().as_ref()?.upgrade()
    }
    /// Binds a socket to this name.
    pub fn bind_socket(&self, socket: Weak<dyn Any + Send + Sync>) {
        *self.more().socket.lock() = Some(socket);
    }
}
