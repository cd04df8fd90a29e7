//! Guest memory as the kernel's upper floors see it, and the two ends of every data transfer: [`Sink`] takes what is read, [`Source`] gives what is
//! written. An iovec and the address space it lies in travel down as one value ([`UserSink`], [`UserSource`]); kernel buffers are ends too.
//!
//! Guest memory changes under our hands: what is copied in is copied once and validated after that.
//!
//! No copy here is made while a short lock is held, nor while a page is locked: it may fault, and a fault may sleep.

use abi::Errno;
use ram::Frame;

/// An address space to copy from and to. `mm` implements it.
///
/// Every call copies as far as it gets and answers the number of bytes; EFAULT only when it got nowhere (and something was asked for).
pub trait UserMemory: Send + Sync {
    /// Copies from `addr` into `buffer`.
    fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<usize, Errno>;
    /// Copies `data` to `addr`.
    fn write(&self, addr: u64, data: &[u8]) -> Result<usize, Errno>;
    /// Sets `len` bytes at `addr` to zero.
    fn zero(&self, addr: u64, len: usize) -> Result<usize, Errno>;
    /// Copies from `addr` straight into a frame, at `offset`.
    fn read_to_frame(&self, addr: u64, frame: &Frame, offset: usize, len: usize) -> Result<usize, Errno>;
    /// Copies straight out of a frame to `addr`.
    fn write_from_frame(&self, addr: u64, frame: &Frame, offset: usize, len: usize) -> Result<usize, Errno>;

    /// All of `buffer` or EFAULT.
    fn read_exact(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        if self.read(addr, buffer)? == buffer.len() { Ok(()) } else { Err(Errno::EFAULT) }
    }
    /// All of `data` or EFAULT.
    fn write_all(&self, addr: u64, data: &[u8]) -> Result<(), Errno> {
        if self.write(addr, data)? == data.len() { Ok(()) } else { Err(Errno::EFAULT) }
    }
}

/// A piece of guest memory: one iovec.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UserRange {
    pub addr: u64,
    pub len: usize,
}

/// Where a read puts its data. Each call takes as much as it can and answers how much; fewer than offered means that the end is full or a fault
/// came; EFAULT only when nothing at all could be taken by this call.
pub trait Sink {
    /// Bytes that it still takes.
    fn room(&self) -> usize;
    fn put(&mut self, data: &[u8]) -> Result<usize, Errno>;
    fn put_zeroes(&mut self, len: usize) -> Result<usize, Errno>;
    fn put_frame(&mut self, frame: &Frame, offset: usize, len: usize) -> Result<usize, Errno>;
}

/// Where a write gets its data, with the same rules.
pub trait Source {
    /// Bytes that it still gives.
    fn left(&self) -> usize;
    fn take(&mut self, buffer: &mut [u8]) -> Result<usize, Errno>;
    fn take_to_frame(&mut self, frame: &Frame, offset: usize, len: usize) -> Result<usize, Errno>;
}

/// An iovec being gone through.
struct Cursor {
    ranges: Vec<UserRange>,
    index: usize,
    left: usize,
}

impl Cursor {
    fn new(ranges: Vec<UserRange>) -> Cursor {
        let left = ranges.iter().fold(0usize, |sum, r| sum.saturating_add(r.len));
        Cursor { ranges, index: 0, left }
    }

    /// Goes through up to `len` bytes, range by range, with `copy(addr, done, len)`.
    fn advance(&mut self, len: usize, mut copy: impl FnMut(u64, usize, usize) -> Result<usize, Errno>) -> Result<usize, Errno> {
        let mut done = 0;
        while done < len {
            let Some(range) = self.ranges.get_mut(self.index) else { break };
            if range.len == 0 {
                self.index += 1;
                continue;
            }
            let want = range.len.min(len - done);
            let n = match copy(range.addr, done, want) {
                Ok(n) => n,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => 0,
            };
            range.addr = range.addr.wrapping_add(n as u64);
            range.len -= n;
            self.left -= n;
            done += n;
            if n < want {
                break;
            }
        }
        Ok(done)
    }
}

/// Guest memory that a read fills.
pub struct UserSink<'a> {
    memory: &'a dyn UserMemory,
    cursor: Cursor,
}

impl<'a> UserSink<'a> {
    /// One buffer.
    pub fn new(memory: &'a dyn UserMemory, addr: u64, len: usize) -> UserSink<'a> {
        UserSink::vectored(memory, vec![UserRange { addr, len }])
    }
    /// Several, one after the other.
    pub fn vectored(memory: &'a dyn UserMemory, ranges: Vec<UserRange>) -> UserSink<'a> {
        UserSink { memory, cursor: Cursor::new(ranges) }
    }
}

impl Sink for UserSink<'_> {
    fn room(&self) -> usize {
        self.cursor.left
    }
    fn put(&mut self, data: &[u8]) -> Result<usize, Errno> {
        let memory = self.memory;
        self.cursor.advance(data.len(), |addr, done, len| memory.write(addr, data.get(done..done + len).unwrap_or_default()))
    }
    fn put_zeroes(&mut self, len: usize) -> Result<usize, Errno> {
        let memory = self.memory;
        self.cursor.advance(len, |addr, _, len| memory.zero(addr, len))
    }
    fn put_frame(&mut self, frame: &Frame, offset: usize, len: usize) -> Result<usize, Errno> {
        let memory = self.memory;
        self.cursor.advance(len, |addr, done, len| memory.write_from_frame(addr, frame, offset + done, len))
    }
}

/// Guest memory that a write empties.
pub struct UserSource<'a> {
    memory: &'a dyn UserMemory,
    cursor: Cursor,
}

impl<'a> UserSource<'a> {
    /// One buffer.
    pub fn new(memory: &'a dyn UserMemory, addr: u64, len: usize) -> UserSource<'a> {
        UserSource::vectored(memory, vec![UserRange { addr, len }])
    }
    /// Several, one after the other.
    pub fn vectored(memory: &'a dyn UserMemory, ranges: Vec<UserRange>) -> UserSource<'a> {
        UserSource { memory, cursor: Cursor::new(ranges) }
    }
}

impl Source for UserSource<'_> {
    fn left(&self) -> usize {
        self.cursor.left
    }
    fn take(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let memory = self.memory;
        self.cursor.advance(buffer.len(), |addr, done, len| match buffer.get_mut(done..done + len) {
            Some(part) => memory.read(addr, part),
            None => Ok(0),
        })
    }
    fn take_to_frame(&mut self, frame: &Frame, offset: usize, len: usize) -> Result<usize, Errno> {
        let memory = self.memory;
        self.cursor.advance(len, |addr, done, len| memory.read_to_frame(addr, frame, offset + done, len))
    }
}

/// A kernel buffer that a read fills.
pub struct SliceSink<'a> {
    buffer: &'a mut [u8],
    done: usize,
}

impl<'a> SliceSink<'a> {
    /// Fills `buffer` from its beginning.
    pub fn new(buffer: &'a mut [u8]) -> SliceSink<'a> {
        SliceSink { buffer, done: 0 }
    }
    /// Bytes filled so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.done
    }
    /// Whether nothing has been put yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.done == 0
    }
    fn next(&mut self, len: usize) -> &mut [u8] {
        let end = self.buffer.len().min(self.done + len);
        let part = &mut self.buffer[self.done..end];
        self.done = end;
        part
    }
}

impl Sink for SliceSink<'_> {
    fn room(&self) -> usize {
        self.buffer.len() - self.done
    }
    fn put(&mut self, data: &[u8]) -> Result<usize, Errno> {
        let part = self.next(data.len());
        let n = part.len();
        part.copy_from_slice(&data[..n]);
        Ok(n)
    }
    fn put_zeroes(&mut self, len: usize) -> Result<usize, Errno> {
        let part = self.next(len);
        part.fill(0);
        Ok(part.len())
    }
    fn put_frame(&mut self, frame: &Frame, offset: usize, len: usize) -> Result<usize, Errno> {
        let part = self.next(len);
        frame.read(offset, part);
        Ok(part.len())
    }
}

/// A kernel buffer that a write empties.
pub struct SliceSource<'a> {
    data: &'a [u8],
}

impl<'a> SliceSource<'a> {
    /// Gives `data` from its beginning.
    #[must_use]
    pub fn new(data: &'a [u8]) -> SliceSource<'a> {
        SliceSource { data }
    }
    fn next(&mut self, len: usize) -> &'a [u8] {
        let (part, rest) = self.data.split_at(len.min(self.data.len()));
        self.data = rest;
        part
    }
}

impl Source for SliceSource<'_> {
    fn left(&self) -> usize {
        self.data.len()
    }
    fn take(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let part = self.next(buffer.len());
        buffer[..part.len()].copy_from_slice(part);
        Ok(part.len())
    }
    fn take_to_frame(&mut self, frame: &Frame, offset: usize, len: usize) -> Result<usize, Errno> {
        let part = self.next(len);
        frame.write(offset, part);
        Ok(part.len())
    }
}

/// The first bytes of a source: for writes that may not go on to its end.
pub struct FirstBytes<'a> {
    source: &'a mut dyn Source,
    left: usize,
}

impl<'a> FirstBytes<'a> {
    /// At most `len` bytes of `source`.
    pub fn new(source: &'a mut dyn Source, len: usize) -> FirstBytes<'a> {
        FirstBytes { source, left: len }
    }
}

impl Source for FirstBytes<'_> {
    fn left(&self) -> usize {
        self.source.left().min(self.left)
    }
    fn take(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let want = buffer.len().min(self.left);
        let n = self.source.take(buffer.get_mut(..want).unwrap_or_default())?;
        self.left -= n;
        Ok(n)
    }
    fn take_to_frame(&mut self, frame: &Frame, offset: usize, len: usize) -> Result<usize, Errno> {
        let n = self.source.take_to_frame(frame, offset, len.min(self.left))?;
        self.left -= n;
        Ok(n)
    }
}
