//! Pipes and FIFOs, pipe(7), fifo(7).
//!
//! Data lies in frames of RAM, one per slot, so that a byte is copied once in and once out; writes of a few bytes go through a small buffer on the
//! stack and are put behind what the last slot holds. No lock is held over a copy from or to a guest: a writer fills frames first and hands
//! them over, a reader takes its piece out of the ring and copies then (and puts back what it could not deliver).
//!
//! Always true: a write of at most [`PIPE_BUF`] bytes is never torn; slots are never empty; in packet mode (O_DIRECT) a slot is one packet.

use crate::anon::{AnonInode, AnonKind};
use crate::attachments::Attachments;
use crate::credentials::Capability;
use crate::file::{FileOps, IoctlCaller, OpenFile, Positioning};
use crate::flags::OpenFlags;
use crate::fscontext::Caller;
use crate::inode::{Inode, Open};
use crate::poll::PollTable;
use crate::types::{FileKind, Owner};
use crate::user::{Sink, Source};
use crate::vfs::Vfs;
use abi::raw::general::{F_GETPIPE_SZ, F_SETPIPE_SZ};
use abi::{Errno, PAGE_SIZE, SysResult};
use ram::{Frame, Ram};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use sync::{Events, SpinLock, WaitQueue};

/// Bytes that a write puts in as a whole.
pub const PIPE_BUF: usize = 4096;
/// Slots of a new pipe.
const DEFAULT_SLOTS: usize = 16;
/// Writes up to this size go through the stack.
const SMALL: usize = 512;
/// Bytes charged for a pipe, its inode and its ends.
const PIPE_COST: usize = 512;
/// `ioctl_tty(2)`: bytes that can be read.
const FIONREAD: u32 = 0x541b;

/// `/proc/sys/fs/pipe-max-size`, bytes: most that F_SETPIPE_SZ gives without CAP_SYS_RESOURCE.
pub static PIPE_MAX_SIZE: AtomicUsize = AtomicUsize::new(1024 * 1024);

struct Slot {
    frame: Frame,
    offset: usize,
    len: usize,
    packet: bool,
}

impl Slot {
    /// Where the next byte could go.
    fn end(&self) -> usize {
        self.offset + self.len
    }
}

struct Ring {
    slots: VecDeque<Slot>,
    capacity: usize,
    /// A frame kept for the next write.
    spare: Option<Frame>,
    readers: usize,
    writers: usize,
}

/// The buffer between the ends.
pub struct Pipe {
    ram: &'static Ram,
    ring: SpinLock<Ring>,
    /// Where reads and writes sleep: woken one at a time, each passing on what it leaves.
    readers: WaitQueue,
    writers: WaitQueue,
    /// Where poll listens: told of what happened, once.
    readable: Arc<WaitQueue>,
    writable: Arc<WaitQueue>,
    /// Count ends that were ever opened: an open that waits for the other end must not miss one that was closed again.
    readers_seen: AtomicU64,
    writers_seen: AtomicU64,
    opened: WaitQueue,
    _charge: ram::Charge,
}

impl Pipe {
    fn new(ram: &'static Ram) -> Result<Arc<Pipe>, Errno> {
        let ring = Ring { slots: VecDeque::new(), capacity: DEFAULT_SLOTS, spare: None, readers: 0, writers: 0 };
        Ok(Arc::new(Pipe {
            ram,
            ring: SpinLock::new(ring),
            readers: WaitQueue::new(),
            writers: WaitQueue::new(),
            readable: Arc::default(),
            writable: Arc::default(),
            readers_seen: AtomicU64::new(0),
            writers_seen: AtomicU64::new(0),
            opened: WaitQueue::new(),
            _charge: ram.charge(PIPE_COST)?,
        }))
    }

    fn open_end(self: &Arc<Pipe>, read: bool, write: bool) -> Arc<PipeEnd> {
        let has_writers = {
            let mut ring = self.ring.lock();
            ring.readers += usize::from(read);
            ring.writers += usize::from(write);
            ring.writers > 0
        };
        self.readers_seen.fetch_add(u64::from(read), Ordering::SeqCst);
        let seen = self.writers_seen.fetch_add(u64::from(write), Ordering::SeqCst) + u64::from(write);
        self.opened.wake_all();
        Arc::new(PipeEnd { pipe: self.clone(), read, write, writers_before: seen - u64::from(has_writers && seen > 0) })
    }

    /// Takes up to `room` bytes of the first slot. `None` if there is none.
    fn take(&self, room: usize) -> Option<Slot> {
        let mut ring = self.ring.lock();
        let first = ring.slots.front_mut()?;
        if room >= first.len || first.packet {
            return ring.slots.pop_front();
        }
        let piece = Slot { frame: first.frame.clone(), offset: first.offset, len: room, packet: false };
        first.offset += room;
        first.len -= room;
        Some(piece)
    }

    fn put_back(&self, slot: Slot) {
        self.ring.lock().slots.push_front(slot);
    }

    fn recycle(&self, frame: Frame) {
        if frame.is_unique() {
            let old = self.ring.lock().spare.replace(frame);
            drop(old);
        }
    }

    fn is_full(&self) -> bool {
        let ring = self.ring.lock();
        ring.slots.len() >= ring.capacity
    }

    /// Reads what is there, no more than one packet in packet mode.
    fn read_some(&self, sink: &mut dyn Sink) -> Result<usize, Errno> {
        let mut done = 0;
        while sink.room() > 0 {
            let Some(mut slot) = self.take(sink.room()) else { break };
            let want = slot.len.min(sink.room());
            let copied = sink.put_frame(&slot.frame, slot.offset, want);
            let n = *copied.as_ref().unwrap_or(&0);
            done += n;
            if n < want {
                slot.offset += n;
                slot.len -= n;
                self.put_back(slot);
                return if done > 0 { Ok(done) } else { Err(copied.err().unwrap_or(Errno::EFAULT)) };
            }
            let packet = slot.packet;
            self.recycle(slot.frame);
            if packet {
                break;
            }
        }
        Ok(done)
    }

    fn read(&self, nonblocking: bool, sink: &mut dyn Sink) -> SysResult<usize> {
        if sink.room() == 0 {
            return Ok(0);
        }
        loop {
            let was_full = self.is_full();
            let done = self.read_some(sink)?;
            if done > 0 {
                if was_full {
                    self.writers.wake_one();
                    self.writable.notify(Events::OUT | Events::WRNORM);
                }
                if !self.readers.is_empty() && !self.ring.lock().slots.is_empty() {
                    self.readers.wake_one();
                }
                return Ok(done);
            }
            let ready = || {
                let ring = self.ring.lock();
                (!ring.slots.is_empty() || ring.writers == 0).then_some(ring.slots.is_empty())
            };
            let ended = match ready() {
                Some(ended) => ended,
                None if nonblocking => return Err(Errno::EAGAIN.into()),
                None => self.readers.wait_interruptible(ready)?,
            };
            if ended {
                return Ok(0);
            }
        }
    }

    /// Puts a few bytes behind the last slot or into a new one. `false` if there is no room.
    fn push_small(&self, data: &[u8], packet: bool) -> Result<bool, Errno> {
        let mut fresh = None;
        loop {
            let mut ring = self.ring.lock();
            if ring.readers == 0 {
                return Err(Errno::EPIPE);
            }
            if let Some(last) = ring.slots.back_mut()
                && !packet
                && !last.packet
                && last.end() + data.len() <= PAGE_SIZE
                // Of two halves of a torn slot, only the ring's may grow; a frame that came from elsewhere may not at all.
                && last.frame.ram().count(last.frame.pfn()) == 1
            {
                last.frame.write(last.end(), data);
                last.len += data.len();
                return Ok(true);
            }
            if ring.slots.len() >= ring.capacity {
                return Ok(false);
            }
            if let Some(frame) = fresh.take().or_else(|| ring.spare.take()) {
                let frame: Frame = frame;
                frame.write(0, data);
                ring.slots.push_back(Slot { frame, offset: 0, len: data.len(), packet });
                return Ok(true);
            }
            drop(ring);
            fresh = Some(self.ram.alloc()?);
        }
    }

    fn has_room(&self) -> bool {
        let ring = self.ring.lock();
        ring.readers == 0 || ring.slots.len() < ring.capacity
    }

    /// Waits for room. EAGAIN, EPIPE.
    fn wait_room(&self, nonblocking: bool) -> SysResult<()> {
        if !self.has_room() {
            if nonblocking {
                return Err(Errno::EAGAIN.into());
            }
            self.writers.wait_interruptible(|| self.has_room().then_some(()))?;
        }
        Ok(())
    }

    fn write(&self, nonblocking: bool, packet: bool, source: &mut dyn Source) -> SysResult<usize> {
        if source.left() == 0 {
            return Ok(0);
        }
        if self.ring.lock().readers == 0 {
            return Err(Errno::EPIPE.into());
        }
        let mut done = 0;
        while source.left() > 0 {
            match self.write_page(nonblocking, packet, source) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
            self.readers.wake_one();
        }
        self.readable.notify(Events::IN | Events::RDNORM);
        if !self.writers.is_empty() && self.has_room() {
            self.writers.wake_one();
        }
        Ok(done)
    }

    /// Writes up to a page, waiting for room first.
    fn write_page(&self, nonblocking: bool, packet: bool, source: &mut dyn Source) -> SysResult<usize> {
        let len = source.left().min(PAGE_SIZE);
        if len <= SMALL {
            let mut buffer = [0u8; SMALL];
            let got = source.take(buffer.get_mut(..len).unwrap_or_default())?;
            let data = buffer.get(..got).unwrap_or_default();
            while !self.push_small(data, packet)? {
                self.wait_room(nonblocking)?;
            }
            return Ok(got);
        }
        self.wait_room(nonblocking)?;
        let spare = self.ring.lock().spare.take();
        let frame = match spare {
            Some(frame) => frame,
            None => self.ram.alloc()?,
        };
        let got = source.take_to_frame(&frame, 0, len)?;
        let mut slot = Some(Slot { frame, offset: 0, len: got, packet });
        loop {
            {
                let mut ring = self.ring.lock();
                if ring.readers == 0 {
                    return Err(Errno::EPIPE.into());
                }
                if ring.slots.len() < ring.capacity {
                    ring.slots.extend(slot.take());
                    return Ok(got);
                }
            }
            self.wait_room(nonblocking)?;
        }
    }

    /// Tells everybody that an end was closed.
    fn hang_up(&self) {
        self.readers.wake_all();
        self.writers.wake_all();
        self.readable.notify(Events::IN | Events::HUP);
        self.writable.notify(Events::OUT | Events::ERR);
    }

    fn bytes(&self) -> usize {
        self.ring.lock().slots.iter().map(|slot| slot.len).sum()
    }

    /// F_SETPIPE_SZ: answers the new size.
    fn resize(&self, wanted: u64, privileged: bool) -> Result<i64, Errno> {
        if wanted > 1 << 31 {
            return Err(Errno::EINVAL);
        }
        let size = (wanted as usize).max(PAGE_SIZE).next_power_of_two();
        let mut ring = self.ring.lock();
        if size > PIPE_MAX_SIZE.load(Ordering::Relaxed) && size > ring.capacity * PAGE_SIZE && !privileged {
            return Err(Errno::EPERM);
        }
        if size / PAGE_SIZE < ring.slots.len() {
            return Err(Errno::EBUSY);
        }
        ring.capacity = size / PAGE_SIZE;
        drop(ring);
        self.writers.wake_all();
        self.writable.notify(Events::OUT | Events::WRNORM);
        Ok(size as i64)
    }
}

/// One end of a pipe, or both (a FIFO opened for reading and writing).
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    read: bool,
    write: bool,
    /// Writers that had gone before this end was opened: their leaving is not its hang-up.
    writers_before: u64,
}

impl FileOps for PipeEnd {
    fn positioning(&self) -> Positioning {
        Positioning::Stream
    }
    fn read(&self, file: &OpenFile, _: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        self.pipe.read(file.is_nonblocking(), sink)
    }
    fn write(&self, file: &OpenFile, _: &mut u64, source: &mut dyn Source) -> SysResult<usize> {
        let flags = file.flags();
        self.pipe.write(flags.contains(OpenFlags::NONBLOCK), flags.contains(OpenFlags::DIRECT), source)
    }
    fn raises_sigpipe(&self) -> bool {
        true
    }
    fn can_poll(&self) -> bool {
        true
    }
    fn poll(&self, _: &OpenFile, table: Option<&mut PollTable>) -> Events {
        if let Some(table) = table {
            if self.read {
                table.listen(&self.pipe.readable);
            }
            if self.write {
                table.listen(&self.pipe.writable);
            }
        }
        let ring = self.pipe.ring.lock();
        let mut events = Events::empty();
        if self.read {
            if !ring.slots.is_empty() {
                events |= Events::IN | Events::RDNORM;
            }
            // A FIFO that had no writer since it was opened has not been hung up.
            if ring.writers == 0 && self.pipe.writers_seen.load(Ordering::Relaxed) > self.writers_before {
                events |= Events::HUP;
            }
        }
        if self.write {
            if ring.slots.len() < ring.capacity {
                events |= Events::OUT | Events::WRNORM;
            }
            if ring.readers == 0 {
                events |= Events::ERR;
            }
        }
        events
    }
    fn ioctl(&self, _: &OpenFile, caller: &IoctlCaller<'_>, command: u32, argument: u64) -> SysResult<i64> {
        if command != FIONREAD {
            return Err(Errno::ENOTTY.into());
        }
        caller.memory.write_all(argument, &(self.pipe.bytes() as i32).to_ne_bytes())?;
        Ok(0)
    }
    fn fcntl(&self, file: &OpenFile, command: u32, argument: u64) -> SysResult<i64> {
        match command {
            F_GETPIPE_SZ => Ok((self.pipe.ring.lock().capacity * PAGE_SIZE) as i64),
            F_SETPIPE_SZ => Ok(self.pipe.resize(argument, file.credentials().has(Capability::SYS_RESOURCE))?),
            _ => Err(Errno::EINVAL.into()),
        }
    }
    fn release(&self, _: &OpenFile) {
        let old = {
            let mut ring = self.pipe.ring.lock();
            ring.readers -= usize::from(self.read);
            ring.writers -= usize::from(self.write);
            // A FIFO forgets its data when everybody is gone.
            if ring.readers + ring.writers == 0 { std::mem::take(&mut ring.slots) } else { VecDeque::new() }
        };
        drop(old);
        self.pipe.hang_up();
    }
}

impl PipeEnd {
    /// Whether bytes come out here.
    #[must_use]
    pub fn is_reader(&self) -> bool {
        self.read
    }
    /// Whether bytes go in here.
    #[must_use]
    pub fn is_writer(&self) -> bool {
        self.write
    }
    /// Waits until there is room for a page at least; answers how many bytes certainly fit. EAGAIN, EPIPE.
    pub fn wait_room(&self, nonblocking: bool) -> SysResult<usize> {
        loop {
            {
                let ring = self.pipe.ring.lock();
                if ring.readers == 0 {
                    return Err(Errno::EPIPE.into());
                }
                if ring.slots.len() < ring.capacity {
                    return Ok((ring.capacity - ring.slots.len()) * PAGE_SIZE);
                }
            }
            self.pipe.wait_room(nonblocking)?;
        }
    }
    /// Waits until there is something to read: `false` at the end, when nobody writes any more. EAGAIN.
    pub fn wait_data(&self, nonblocking: bool) -> SysResult<bool> {
        let ready = || {
            let ring = self.pipe.ring.lock();
            (!ring.slots.is_empty() || ring.writers == 0).then_some(!ring.slots.is_empty())
        };
        match ready() {
            Some(there) => Ok(there),
            None if nonblocking => Err(Errno::EAGAIN.into()),
            None => Ok(self.pipe.readers.wait_interruptible(ready)?),
        }
    }
    /// Gives up to `len` waiting bytes, piece by piece, to `put`, which answers how many it took; the rest stays. Does not wait: 0 when there is
    /// nothing. An error counts only if nothing was taken.
    pub fn drain(&self, len: usize, put: &mut dyn FnMut(&[u8]) -> SysResult<usize>) -> SysResult<usize> {
        let pipe = &self.pipe;
        let was_full = pipe.is_full();
        let mut done = 0;
        let mut failed = None;
        while done < len {
            let Some(mut slot) = pipe.take(len - done) else { break };
            let want = slot.len.min(len - done);
            let mut bytes = vec![0; want];
            slot.frame.read(slot.offset, &mut bytes);
            let put = put(&bytes);
            let taken = *put.as_ref().unwrap_or(&0);
            done += taken;
            if taken < slot.len && (taken < want || !slot.packet) {
                slot.offset += taken;
                slot.len -= taken;
                pipe.put_back(slot);
                failed = put.err();
                break;
            }
            pipe.recycle(slot.frame);
        }
        if done > 0 && was_full {
            pipe.writers.wake_one();
            pipe.writable.notify(Events::OUT | Events::WRNORM);
        }
        match failed {
            Some(error) if done == 0 => Err(error),
            _ => Ok(done),
        }
    }
    /// tee(2): what waits in this pipe, up to `len` bytes, is put into `to` as well. Does not wait; 0 when there is nothing or no room.
    pub fn copy_to(&self, to: &PipeEnd, len: usize) -> usize {
        let mut copies = Vec::new();
        let mut done = 0;
        for slot in &self.pipe.ring.lock().slots {
            if done == len {
                break;
            }
            let len = slot.len.min(len - done);
            copies.push(Slot { frame: slot.frame.clone(), offset: slot.offset, len, packet: slot.packet });
            done += len;
        }
        let mut copied = 0;
        {
            let mut ring = to.pipe.ring.lock();
            let room = ring.capacity.saturating_sub(ring.slots.len());
            copies.truncate(room);
            for slot in copies {
                copied += slot.len;
                ring.slots.push_back(slot);
            }
        }
        if copied > 0 {
            to.pipe.readers.wake_one();
            to.pipe.readable.notify(Events::IN | Events::RDNORM);
        }
        copied
    }
    /// Writes without regard to the file's flags: for splice(2) and vmsplice(2), which bring their own.
    pub fn put(&self, nonblocking: bool, source: &mut dyn Source) -> SysResult<usize> {
        self.pipe.write(nonblocking, false, source)
    }
    /// The same for reading.
    pub fn get(&self, nonblocking: bool, sink: &mut dyn Sink) -> SysResult<usize> {
        self.pipe.read(nonblocking, sink)
    }

    /// Bytes that wait to be read.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.pipe.bytes()
    }
    /// Whether two ends are of one pipe (tee(2) refuses that).
    #[must_use]
    pub fn is_same_pipe(&self, other: &PipeEnd) -> bool {
        Arc::ptr_eq(&self.pipe, &other.pipe)
    }
}

impl Caller<'_> {
    /// pipe2(2): the reading and the writing end. Flags are O_NONBLOCK, O_DIRECT and O_CLOEXEC (which the caller's table keeps).
    pub fn pipe(&self, flags: OpenFlags) -> SysResult<(Arc<OpenFile>, Arc<OpenFile>)> {
        let pipe = Pipe::new(self.vfs.ram())?;
        let owner = Owner { mode: 0o600, uid: self.credentials.fsuid, gid: self.credentials.fsgid };
        let path = self.vfs.anon_path(AnonKind::Pipe, FileKind::Fifo, owner)?;
        // So that /proc/PID/fd/N opens this pipe and not another.
        path.inode().attachments().fifo_or(pipe.clone());
        let flags = flags.intersection(OpenFlags::NONBLOCK | OpenFlags::DIRECT);
        let reader = self.open_with(path.clone(), pipe.open_end(true, false), flags)?;
        let writer = self.open_with(path, pipe.open_end(false, true), flags | OpenFlags::WRONLY)?;
        Ok((reader, writer))
    }
}

/// The pipe of a FIFO, kept by its inode while anybody has it open.
fn fifo(vfs: &'static Vfs, attachments: &Attachments) -> Result<Arc<Pipe>, Errno> {
    if let Some(pipe) = attachments.fifo() {
        return Ok(pipe);
    }
    Ok(attachments.fifo_or(Pipe::new(vfs.ram())?))
}

/// Opens a FIFO: waits for the other end, fifo(7). ENXIO for O_WRONLY | O_NONBLOCK without a reader. A pipe that is opened again through
/// `/proc/PID/fd` waits for nobody: its ends may all have gone already.
pub(crate) fn open_fifo(vfs: &'static Vfs, inode: &Arc<dyn Inode>, open: &Open<'_>) -> SysResult<Arc<dyn FileOps>> {
    let pipe = fifo(vfs, inode.attachments())?;
    let (read, write) = (open.flags.can_read(), open.flags.can_write());
    let is_pipe = inode.downcast::<AnonInode>().is_some();
    let nonblocking = open.flags.contains(OpenFlags::NONBLOCK) || is_pipe;
    if !is_pipe && write && !read && nonblocking && pipe.ring.lock().readers == 0 {
        return Err(Errno::ENXIO.into());
    }
    let (readers_before, writers_before) = (pipe.readers_seen.load(Ordering::SeqCst), pipe.writers_seen.load(Ordering::SeqCst));
    let end = FifoEnd::new(&pipe, read, write);
    if !nonblocking && (!read || !write) {
        pipe.opened.wait_interruptible(|| {
            let ring = pipe.ring.lock();
            let met = if read {
                ring.writers > 0 || pipe.writers_seen.load(Ordering::SeqCst) > writers_before
            } else {
                ring.readers > 0 || pipe.readers_seen.load(Ordering::SeqCst) > readers_before
            };
            met.then_some(())
        })?;
    }
    Ok(end.into_ops())
}

/// An end that is being opened: closed again if the wait for its other end is interrupted.
struct FifoEnd(Option<Arc<PipeEnd>>);

impl FifoEnd {
    fn new(pipe: &Arc<Pipe>, read: bool, write: bool) -> FifoEnd {
        FifoEnd(Some(pipe.open_end(read, write)))
    }
    fn into_ops(mut self) -> Arc<dyn FileOps> {
        match self.0.take() {
            Some(end) => end,
            None => unreachable!("taken once, here"),
        }
    }
}

impl Drop for FifoEnd {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            let mut ring = end.pipe.ring.lock();
            ring.readers -= usize::from(end.read);
            ring.writers -= usize::from(end.write);
            drop(ring);
            end.pipe.hang_up();
        }
    }
}
