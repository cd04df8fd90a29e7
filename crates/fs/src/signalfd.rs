//! signalfd(2): signals that are read. Which signals wait for the reader, only `task` knows; it gives a [`SignalSource`].

use abi::{Errno, SigSet, SysResult};
use std::sync::Arc;
use sync::{Events, SpinLock, WaitQueue};
use vfs::{Caller, FileOps, OpenFile, OpenFlags, PollTable, Positioning, Sink};

/// Bytes of `struct signalfd_siginfo`.
pub const SIGINFO_SIZE: usize = 128;

/// The signals of whoever calls: not of whoever made the descriptor.
pub trait SignalSource: Send + Sync {
    /// Takes a pending signal that is in `mask`, as `struct signalfd_siginfo`.
    fn take(&self, mask: SigSet) -> Option<[u8; SIGINFO_SIZE]>;
    /// Whether one is pending.
    fn is_pending(&self, mask: SigSet) -> bool;
    /// Told when a signal becomes pending for the caller.
    fn queue(&self) -> Arc<WaitQueue>;
}

/// A signalfd.
pub struct SignalFd {
    source: Arc<dyn SignalSource>,
    mask: SpinLock<SigSet>,
}

/// Opens a new signalfd. SIGKILL and SIGSTOP are left out of `mask`. `flags`: O_NONBLOCK.
pub fn signalfd(caller: &Caller<'_>, source: Arc<dyn SignalSource>, mask: SigSet, flags: OpenFlags) -> SysResult<Arc<OpenFile>> {
    let ops = Arc::new(SignalFd { source, mask: SpinLock::new(mask.without(SigSet::UNBLOCKABLE)) });
    caller.open_anon("anon_inode:[signalfd]", ops, OpenFlags::RDWR | flags.intersection(OpenFlags::NONBLOCK))
}

impl SignalFd {
    /// signalfd(2) on a descriptor that is one.
    pub fn set_mask(&self, mask: SigSet) {
        *self.mask.lock() = mask.without(SigSet::UNBLOCKABLE);
    }
    fn mask(&self) -> SigSet {
        *self.mask.lock()
    }
}

impl FileOps for SignalFd {
    fn positioning(&self) -> Positioning {
        Positioning::Stream
    }
    fn read(&self, file: &OpenFile, _: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        if sink.room() < SIGINFO_SIZE {
            return Err(Errno::EINVAL.into());
        }
        let mut done = 0;
        while sink.room() >= SIGINFO_SIZE {
            let info = match self.source.take(self.mask()) {
                Some(info) => info,
                None if done > 0 => break,
                None if file.is_nonblocking() => return Err(Errno::EAGAIN.into()),
                None => self.source.queue().wait_interruptible(|| self.source.take(self.mask()))?,
            };
            if sink.put(&info)? < SIGINFO_SIZE {
                return Err(Errno::EFAULT.into());
            }
            done += SIGINFO_SIZE;
        }
        Ok(done)
    }
    fn can_poll(&self) -> bool {
        true
    }
    fn poll(&self, _: &OpenFile, table: Option<&mut PollTable>) -> Events {
        if let Some(table) = table {
            table.listen(&self.source.queue());
        }
        if self.source.is_pending(self.mask()) { Events::IN | Events::RDNORM } else { Events::empty() }
    }
    fn fdinfo(&self, _: &OpenFile) -> String {
        format!("sigmask:\t{:016x}\n", self.mask().0)
    }
}
