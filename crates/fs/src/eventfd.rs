//! eventfd(2): a counter that can be waited for.

use abi::{Errno, SysResult};
use std::sync::Arc;
use sync::{Events, SpinLock, WaitQueue};
use vfs::{Caller, FileOps, OpenFile, OpenFlags, PollTable, Positioning, Sink, Source};

/// What a read takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventFdMode {
    /// All of the counter.
    Counter,
    /// One (`EFD_SEMAPHORE`).
    Semaphore,
}

/// An eventfd. The counter is at most `u64::MAX - 1`.
pub struct EventFd {
    count: SpinLock<u64>,
    mode: EventFdMode,
    queue: Arc<WaitQueue>,
}

/// Opens a new eventfd that holds `initial`. `flags`: O_NONBLOCK.
pub fn eventfd(caller: &Caller<'_>, initial: u32, mode: EventFdMode, flags: OpenFlags) -> SysResult<Arc<OpenFile>> {
    let ops = Arc::new(EventFd { count: SpinLock::new(u64::from(initial)), mode, queue: Arc::default() });
    caller.open_anon("anon_inode:[eventfd]", ops, OpenFlags::RDWR | flags.intersection(OpenFlags::NONBLOCK))
}

impl EventFd {
    /// Adds to the counter from inside the kernel; a full counter stays full.
    pub fn signal(&self, by: u64) {
        let mut count = self.count.lock();
        *count = count.saturating_add(by).min(u64::MAX - 1);
        drop(count);
        self.queue.notify(Events::IN | Events::RDNORM);
    }
    fn take(&self) -> Option<u64> {
        let mut count = self.count.lock();
        let taken = if self.mode == EventFdMode::Semaphore { (*count).min(1) } else { *count };
        *count -= taken;
        (taken > 0).then_some(taken)
    }
    fn add(&self, by: u64) -> Option<()> {
        let mut count = self.count.lock();
        let sum = count.checked_add(by).filter(|sum| *sum < u64::MAX)?;
        *count = sum;
        Some(())
    }
}

impl FileOps for EventFd {
    fn positioning(&self) -> Positioning {
        Positioning::Stream
    }
    fn read(&self, file: &OpenFile, _: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        if sink.room() < 8 {
            return Err(Errno::EINVAL.into());
        }
        let value = match self.take() {
            Some(value) => value,
            None if file.is_nonblocking() => return Err(Errno::EAGAIN.into()),
            None => self.queue.wait_interruptible(|| self.take())?,
        };
        self.queue.notify(Events::OUT | Events::WRNORM);
        if sink.put(&value.to_ne_bytes())? < 8 {
            return Err(Errno::EFAULT.into());
        }
        Ok(8)
    }
    fn write(&self, file: &OpenFile, _: &mut u64, source: &mut dyn Source) -> SysResult<usize> {
        let mut bytes = [0; 8];
        if source.left() < 8 {
            return Err(Errno::EINVAL.into());
        }
        if source.take(&mut bytes)? < 8 {
            return Err(Errno::EFAULT.into());
        }
        let value = u64::from_ne_bytes(bytes);
        if value == u64::MAX {
            return Err(Errno::EINVAL.into());
        }
        if self.add(value).is_none() {
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN.into());
            }
            self.queue.wait_interruptible(|| self.add(value))?;
        }
        self.queue.notify(Events::IN | Events::RDNORM);
        Ok(8)
    }
    fn can_poll(&self) -> bool {
        true
    }
    fn poll(&self, _: &OpenFile, table: Option<&mut PollTable>) -> Events {
        if let Some(table) = table {
            table.listen(&self.queue);
        }
        let count = *self.count.lock();
        let mut events = Events::empty();
        if count > 0 {
            events |= Events::IN;
        }
        if count < u64::MAX - 1 {
            events |= Events::OUT;
        }
        events
    }
    fn fdinfo(&self, _: &OpenFile) -> String {
        let semaphore = i32::from(self.mode == EventFdMode::Semaphore);
        format!("eventfd-count: {:16x}\neventfd-semaphore: {semaphore}\n", *self.count.lock())
    }
}
