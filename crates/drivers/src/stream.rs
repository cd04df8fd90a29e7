//! A standard stream of the host that is no terminal, as a file of the guest: `umlaut run` in a pipeline.
//!
//! Always true: end of file, a vanished reader and every byte pass through unchanged; nothing is buffered here.

use abi::{Errno, SysResult};
use platform::{Blocking, HostChannel};
use std::sync::Arc;
use sync::{Events, Observer, WaitQueue};
use vfs::{Device, FileOps, Open, OpenFile, PollTable, Positioning, Sink, Source};

/// Bytes moved at once.
const CHUNK: usize = 64 << 10;

/// One stream.
pub struct HostStream {
    channel: Arc<dyn HostChannel>,
    moved: Arc<WaitQueue>,
}

struct Watch(std::sync::Weak<WaitQueue>);

impl Observer for Watch {
    fn notify(&self, events: Events) {
        if let Some(queue) = self.0.upgrade() {
            queue.notify(events);
        }
    }
}

impl HostStream {
    /// A stream on `channel`.
    pub fn new(channel: Arc<dyn HostChannel>) -> Arc<HostStream> {
        let moved = Arc::new(WaitQueue::new());
        channel.observe(Arc::new(Watch(Arc::downgrade(&moved))));
        Arc::new(HostStream { channel, moved })
    }
}

/// The same stream, opened.
pub struct StreamFile(pub Arc<HostStream>);

/// The device node of a stream.
pub struct StreamDevice(pub Arc<HostStream>);

impl Device for StreamDevice {
    fn open(&self, _: &Open<'_>) -> SysResult<Arc<dyn FileOps>> {
        Ok(Arc::new(StreamFile(self.0.clone())))
    }
}

impl StreamFile {
    /// Tries `step` until it answers something else than EAGAIN, waiting for the channel between two tries.
    fn retry(&self, file: &OpenFile, mut step: impl FnMut() -> Result<usize, Errno>) -> SysResult<usize> {
        match step() {
            Err(Errno::EAGAIN) if !file.is_nonblocking() => {}
            result => return Ok(result?),
        }
        let result = self.0.moved.wait_interruptible(|| match step() {
            Err(Errno::EAGAIN) => None,
            result => Some(result),
        })?;
        Ok(result?)
    }
}

impl FileOps for StreamFile {
    fn positioning(&self) -> Positioning {
        Positioning::Stream
    }
    fn read(&self, file: &OpenFile, _: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        let mut buffer = vec![0; sink.room().min(CHUNK)];
        if buffer.is_empty() {
            return Ok(0);
        }
        let n = self.retry(file, || self.0.channel.read(&mut buffer, Blocking::No))?;
        Ok(sink.put(buffer.get(..n).unwrap_or_default())?)
    }
    fn write(&self, file: &OpenFile, _: &mut u64, source: &mut dyn Source) -> SysResult<usize> {
        let mut total = 0;
        while source.left() > 0 {
            let mut buffer = vec![0; source.left().min(CHUNK)];
            let n = source.take(&mut buffer)?;
            let mut rest = buffer.get(..n).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            while !rest.is_empty() {
                match self.retry(file, || self.0.channel.write(rest, Blocking::No)) {
                    Ok(n) => {
                        total += n;
                        rest = rest.get(n..).unwrap_or_default();
                    }
                    Err(_) if total > 0 => return Ok(total),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(total)
    }
    fn raises_sigpipe(&self) -> bool {
        true
    }
    fn poll(&self, _: &OpenFile, table: Option<&mut PollTable>) -> Events {
        if let Some(table) = table {
            table.listen(&self.0.moved);
        }
        // The channel has no way to look without taking; a reader that is told too early gets EAGAIN or waits.
        Events::IN | Events::RDNORM | Events::OUT | Events::WRNORM
    }
    fn can_poll(&self) -> bool {
        true
    }
}
