//! Open files: what an open file can do ([`FileOps`]) and its description ([`OpenFile`], Linux's `struct file`), which descriptors share.
//!
//! What it is not: descriptors (`fdtable`), or permission to open (`ops`).
//!
//! Always true: reads and writes through one description's own position are one after the other (read(2), "f_pos" is locked); the mode of access is
//! checked here, once, before the file's own code runs.

use crate::async_io::AsyncNotify;
use crate::credentials::Credentials;
use crate::flags::OpenFlags;
use crate::inode::{Emit, Inode};
use crate::pages::Pages;
use crate::path::Path;
use crate::poll::PollTable;
use crate::types::FileKind;
use crate::user::{FirstBytes, Sink, Source, UserMemory};
use abi::{Errno, Signal, SysResult};
use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use sync::{Events, SpinLock, WaitQueue};

/// Where lseek(2) counts from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whence {
    Set,
    Current,
    End,
    /// The next data at or after the offset.
    Data,
    /// The next hole.
    Hole,
}

impl Whence {
    /// From lseek's argument.
    #[must_use]
    pub fn from_raw(whence: u32) -> Option<Whence> {
        Some(match whence {
            0 => Whence::Set,
            1 => Whence::Current,
            2 => Whence::End,
            3 => Whence::Data,
            4 => Whence::Hole,
            _ => return None,
        })
    }
}

/// What fsync is to make durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncKind {
    /// fsync(2).
    All,
    /// fdatasync(2).
    DataOnly,
}

/// Whether a file has a position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Positioning {
    /// Reads and writes move a position; pread and lseek work.
    Seekable,
    /// Has none: pipes, sockets, terminals. pread and lseek answer ESPIPE.
    Stream,
}

bitflags::bitflags! {
    /// What mmap(2) wants of a file.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MapAccess: u32 {
        const READ = 1;
        const WRITE = 2;
        const EXEC = 4;
        /// Stores reach the file.
        const SHARED = 8;
    }
}

/// What mmap(2) asks of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapRequest {
    pub offset: u64,
    pub len: u64,
    pub access: MapAccess,
}

/// Who calls an ioctl.
pub struct IoctlCaller<'a> {
    pub memory: &'a dyn UserMemory,
    pub credentials: &'a Credentials,
}

/// What an open file can do. Default bodies answer what Linux answers for a file that lacks the operation.
///
/// Calls that wait do so unless the file's flags hold [`OpenFlags::NONBLOCK`], then they answer EAGAIN; an interrupted wait is
/// `SysError::Restart`. Data that was transferred before an error counts: the error is answered only when nothing was.
pub trait FileOps: Any + Send + Sync {
    /// Whether it has a position.
    fn positioning(&self) -> Positioning {
        Positioning::Seekable
    }
    /// Reads into `sink`, from `position` on if seekable, and moves it. 0 is the end of the file.
    fn read(&self, _file: &OpenFile, _position: &mut u64, _sink: &mut dyn Sink) -> SysResult<usize> {
        Err(Errno::EINVAL.into())
    }
    /// Writes from `source`, at `position` if seekable (at the end, with [`OpenFlags::APPEND`] in the file's flags), and moves it.
    fn write(&self, _file: &OpenFile, _position: &mut u64, _source: &mut dyn Source) -> SysResult<usize> {
        Err(Errno::EINVAL.into())
    }
    /// Where lseek leads. The default knows the size from the inode and takes the whole file for data.
    fn seek(&self, file: &OpenFile, current: u64, offset: i64, whence: Whence) -> SysResult<u64> {
        Ok(default_seek(file, current, offset, whence)?)
    }
    /// Gives directory entries from `position` on to `emit` and moves it, `.` and `..` included. ENOTDIR.
    fn readdir(&self, _file: &OpenFile, _position: &mut u64, _emit: Emit<'_>) -> SysResult<()> {
        Err(Errno::ENOTDIR.into())
    }
    /// ioctl(2). ENOTTY for a command that it does not know.
    fn ioctl(&self, _file: &OpenFile, _caller: &IoctlCaller<'_>, _command: u32, _argument: u64) -> SysResult<i64> {
        Err(Errno::ENOTTY.into())
    }
    /// What it is ready for. Announces its queues to `table` first, if there is one (see `poll`). Always-ready files keep the default.
    fn poll(&self, _file: &OpenFile, _table: Option<&mut PollTable>) -> Events {
        Events::IN | Events::OUT | Events::RDNORM | Events::WRNORM
    }
    /// Whether `poll` means anything: epoll_ctl answers EPERM for files without (regular files and directories).
    fn can_poll(&self) -> bool {
        false
    }
    /// The pages to map; page `n` of the mapping is page `offset / PAGE_SIZE + n` of them. ENODEV.
    fn mmap(&self, _file: &OpenFile, _request: &MapRequest) -> SysResult<Arc<dyn Pages>> {
        Err(Errno::ENODEV.into())
    }
    /// fsync(2), of the bytes `first..end` at least.
    fn fsync(&self, _file: &OpenFile, _first: u64, _end: u64, _kind: SyncKind) -> SysResult<()> {
        Err(Errno::EINVAL.into())
    }
    /// fallocate(2); `mode` as given.
    fn fallocate(&self, _file: &OpenFile, _mode: u32, _offset: u64, _len: u64) -> SysResult<()> {
        Err(if self.positioning() == Positioning::Stream { Errno::ESPIPE } else { Errno::EOPNOTSUPP }.into())
    }
    /// fcntl(2) commands that belong to the kind of file: F_SETPIPE_SZ, F_GETPIPE_SZ, F_ADD_SEALS, F_GET_SEALS. EINVAL for others.
    fn fcntl(&self, _file: &OpenFile, _command: u32, _argument: u64) -> SysResult<i64> {
        Err(Errno::EINVAL.into())
    }
    /// Called when fcntl(F_SETFL) is about to change flags.
    fn set_flags(&self, _file: &OpenFile, _flags: OpenFlags) -> Result<(), Errno> {
        Ok(())
    }
    /// Whether an EPIPE from `write` comes with SIGPIPE: pipes and stream sockets.
    fn raises_sigpipe(&self) -> bool {
        false
    }
    /// Called at each close(2) of a descriptor, before locks of that process are dropped.
    fn flush(&self, _file: &OpenFile) -> Result<(), Errno> {
        Ok(())
    }
    /// Called once, when the description goes away. No operation runs any more.
    fn release(&self, _file: &OpenFile) {}
    /// Lines for `/proc/PID/fdinfo/N` after `pos`, `flags`, `mnt_id` and `ino`.
    fn fdinfo(&self, _file: &OpenFile) -> String {
        String::new()
    }
}

impl dyn FileOps {
    /// As its own type, for calls that take one kind of file only (epoll_ctl, accept, timerfd_settime).
    #[must_use]
    pub fn downcast<T: FileOps>(&self) -> Option<&T> {
        let any: &dyn Any = self;
        any.downcast_ref()
    }
    /// The same for a counted reference.
    pub fn downcast_arc<T: FileOps>(self: Arc<Self>) -> Option<Arc<T>> {
        let any: Arc<dyn Any + Send + Sync> = self;
        any.downcast().ok()
    }
}

/// Whom F_SETOWN names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OwnerKind {
    Thread,
    Process,
    Group,
}

/// Who gets SIGIO, and with which identity it is sent: F_SETOWN, F_SETSIG.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SignalOwner {
    pub kind: OwnerKind,
    /// Thread, process or process-group number.
    pub id: i32,
    pub uid: u32,
    pub euid: u32,
    /// `None`: SIGIO without details.
    pub signal: Option<Signal>,
}

/// The position and its lock. The lock is outside the order of ranks because it is held over user copies and everything that a file does; its
/// holder takes no second one.
#[derive(Default)]
struct Position {
    taken: AtomicBool,
    value: AtomicU64,
    waiters: WaitQueue,
}

/// Holds the position; what `value` is at the end is stored.
struct PositionGuard<'a> {
    value: u64,
    position: &'a Position,
}

impl Position {
    fn lock(&self) -> PositionGuard<'_> {
        let take = || self.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).ok();
        if take().is_none() {
            self.waiters.wait_until(take);
        }
        PositionGuard { value: self.value.load(Ordering::Relaxed), position: self }
    }
}

impl Drop for PositionGuard<'_> {
    fn drop(&mut self) {
        self.position.value.store(self.value, Ordering::Relaxed);
        self.position.taken.store(false, Ordering::Release);
        self.position.waiters.wake_one();
    }
}

/// An open file description.
pub struct OpenFile {
    ops: Arc<dyn FileOps>,
    path: Path,
    flags: AtomicU32,
    position: Position,
    credentials: Arc<Credentials>,
    owner: Arc<SpinLock<Option<SignalOwner>>>,
    /// Listens on the file's queues while O_ASYNC is set.
    async_io: SpinLock<Option<Box<PollTable>>>,
    id: u64,
    /// What its mappings have in common, see [`OpenFile::mapped_as`].
    mapped: SpinLock<Option<Weak<dyn Any + Send + Sync>>>,
    /// It holds a count of its inode's writers.
    counts_as_writer: bool,
    _charge: Option<ram::Charge>,
}

static NEXT_FILE_ID: AtomicU64 = AtomicU64::new(1);
static OPEN_FILES: AtomicU64 = AtomicU64::new(0);

/// Open file descriptions of the machine, `/proc/sys/fs/file-nr`.
#[must_use]
pub fn open_files() -> u64 {
    OPEN_FILES.load(Ordering::Relaxed)
}

impl OpenFile {
    /// A description of what was opened. `flags` as open(2) had them; those that act only once are dropped.
    #[must_use]
    pub fn new(
        ops: Arc<dyn FileOps>,
        path: Path,
        flags: OpenFlags,
        credentials: Arc<Credentials>,
        charge: Option<ram::Charge>,
    ) -> OpenFile {
        OPEN_FILES.fetch_add(1, Ordering::Relaxed);
        OpenFile {
            ops,
            path,
            flags: AtomicU32::new(flags.difference(OpenFlags::TRANSIENT).bits()),
            position: Position::default(),
            credentials,
            owner: Arc::default(),
            async_io: SpinLock::new(None),
            id: NEXT_FILE_ID.fetch_add(1, Ordering::Relaxed),
            mapped: SpinLock::new(None),
            counts_as_writer: false,
            _charge: charge,
        }
    }
    /// Notes that it holds a count of [`crate::Attachments::begin_write`], to be given back at the end.
    pub(crate) fn set_counts_as_writer(&mut self, counts: bool) {
        self.counts_as_writer = counts;
    }
    /// What it can do.
    #[must_use]
    pub fn ops(&self) -> &Arc<dyn FileOps> {
        &self.ops
    }
    /// What was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// The inode behind the path.
    #[must_use]
    pub fn inode(&self) -> &Arc<dyn Inode> {
        self.path.inode()
    }
    /// The status flags and access mode, as F_GETFL tells them.
    #[must_use]
    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }
    /// Whether calls must not wait.
    #[must_use]
    pub fn is_nonblocking(&self) -> bool {
        self.flags().contains(OpenFlags::NONBLOCK)
    }
    /// Who opened it.
    #[must_use]
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }
    /// A number that no other description has: owner of flock and OFD locks, kcmp(2).
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }
    /// What all mappings of this open file share, made when there is none: mappings become one only if they have the same.
    pub fn mapped_as<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let there = || self.mapped.lock().as_ref().and_then(Weak::upgrade).and_then(|any| any.downcast::<T>().ok());
        if let Some(there) = there() {
            return there;
        }
        let made = Arc::new(make());
        let erased: Arc<dyn Any + Send + Sync> = made.clone();
        let old = self.mapped.lock().replace(Arc::downgrade(&erased));
        drop(old);
        made
    }
    /// Who gets SIGIO.
    #[must_use]
    pub fn signal_owner(&self) -> Option<SignalOwner> {
        *self.owner.lock()
    }
    /// F_SETOWN, F_SETSIG.
    pub fn set_signal_owner(&self, owner: Option<SignalOwner>) {
        *self.owner.lock() = owner;
    }
    /// F_SETFL through descriptor `fd`: changes those of [`OpenFlags::SETTABLE`].
    pub fn set_flags_by(&self, fd: i32, flags: OpenFlags) -> Result<(), Errno> {
        self.set_flags(flags)?;
        let wanted = flags.contains(OpenFlags::ASYNC) && self.ops.can_poll();
        let table = wanted.then(|| {
            let notify = AsyncNotify { owner: self.owner.clone(), fd };
            let mut table = PollTable::new(Arc::new(notify));
            self.ops.poll(self, Some(&mut table));
            Box::new(table)
        });
        let old = std::mem::replace(&mut *self.async_io.lock(), table);
        drop(old);
        Ok(())
    }
    /// F_SETFL without signal-driven I/O: FIONBIO, open's own flags.
    pub fn set_flags(&self, flags: OpenFlags) -> Result<(), Errno> {
        self.ops.set_flags(self, flags)?;
        let (keep, set) = (!OpenFlags::SETTABLE.bits(), flags.intersection(OpenFlags::SETTABLE).bits());
        let _ = self.flags.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |old| Some(old & keep | set));
        Ok(())
    }

    fn readable(&self) -> Result<(), Errno> {
        if self.flags().can_read() { Ok(()) } else { Err(Errno::EBADF) }
    }
    fn writable(&self) -> Result<(), Errno> {
        if self.flags().can_write() { Ok(()) } else { Err(Errno::EBADF) }
    }
    fn not_path(&self) -> Result<(), Errno> {
        if self.flags().contains(OpenFlags::PATH) { Err(Errno::EBADF) } else { Ok(()) }
    }
    fn seekable(&self) -> Result<(), Errno> {
        if self.ops.positioning() == Positioning::Stream { Err(Errno::ESPIPE) } else { Ok(()) }
    }

    /// read(2), readv(2).
    pub fn read(&self, sink: &mut dyn Sink) -> SysResult<usize> {
        self.readable()?;
        if self.ops.positioning() == Positioning::Stream {
            return self.ops.read(self, &mut 0, sink);
        }
        let mut position = self.position.lock();
        self.read_positioned(&mut position.value, sink)
    }
    fn read_positioned(&self, position: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        let len = self.ops.read(self, position, sink)?;
        if len > 0 {
            self.note_access();
            crate::notify::accessed(&self.path);
        }
        Ok(len)
    }
    fn write_positioned(&self, position: &mut u64, source: &mut dyn Source, limit: u64) -> SysResult<usize> {
        if source.left() > 0 {
            crate::attributes::drop_privileges(&self.credentials, self.inode())?;
        }
        let len = if limit == u64::MAX || source.left() == 0 || self.inode().kind() != FileKind::Regular {
            self.ops.write(self, position, source)?
        } else {
            let append = self.flags().contains(OpenFlags::APPEND);
            let at = if append { self.inode().metadata()?.size_bytes } else { *position };
            let left = limit.checked_sub(at).filter(|left| *left > 0).ok_or(Errno::EFBIG)?;
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            self.ops.write(self, position, &mut FirstBytes::new(source, left))?
        };
        if len > 0 {
            crate::notify::modified(&self.path);
            let flags = self.flags();
            if flags.contains(OpenFlags::DSYNC) {
                let kind = if flags.contains(OpenFlags::SYNC) { SyncKind::All } else { SyncKind::DataOnly };
                self.ops.fsync(self, position.saturating_sub(len as u64), *position, kind)?;
            }
        }
        Ok(len)
    }
    fn note_access(&self) {
        if !self.flags().contains(OpenFlags::NOATIME) {
            self.path.touch_accessed();
        }
    }
    /// write(2), writev(2).
    pub fn write(&self, source: &mut dyn Source) -> SysResult<usize> {
        self.write_within(source, u64::MAX)
    }
    /// The same, for a writer whose files may grow to `limit` bytes (RLIMIT_FSIZE): EFBIG at the limit, and the caller sends SIGXFSZ.
    pub fn write_within(&self, source: &mut dyn Source, limit: u64) -> SysResult<usize> {
        self.writable()?;
        if self.ops.positioning() == Positioning::Stream {
            return self.ops.write(self, &mut 0, source);
        }
        let mut position = self.position.lock();
        self.write_positioned(&mut position.value, source, limit)
    }
    /// pread(2), preadv(2). ESPIPE for streams.
    pub fn read_at(&self, mut position: u64, sink: &mut dyn Sink) -> SysResult<usize> {
        self.seekable()?;
        self.readable()?;
        self.read_positioned(&mut position, sink)
    }
    /// pwrite(2), pwritev(2). ESPIPE for streams.
    pub fn write_at(&self, position: u64, source: &mut dyn Source) -> SysResult<usize> {
        self.write_at_within(position, source, u64::MAX)
    }
    /// The same within a limit, as [`OpenFile::write_within`].
    pub fn write_at_within(&self, mut position: u64, source: &mut dyn Source, limit: u64) -> SysResult<usize> {
        self.seekable()?;
        self.writable()?;
        self.write_positioned(&mut position, source, limit)
    }
    /// close(2) of a descriptor of the table `owner`: tells the file and drops the table's POSIX locks on it.
    pub fn closed_by(&self, owner: u64) -> Result<(), Errno> {
        if self.flags().contains(OpenFlags::PATH) {
            return Ok(());
        }
        let result = self.ops.flush(self);
        crate::locks::release_locks(self.inode(), crate::locks::LockOwner::Process(owner));
        result
    }
    /// lseek(2).
    pub fn seek(&self, offset: i64, whence: Whence) -> SysResult<u64> {
        self.not_path()?;
        self.seekable()?;
        let mut position = self.position.lock();
        position.value = self.ops.seek(self, position.value, offset, whence)?;
        Ok(position.value)
    }
    /// The position now, for `/proc/PID/fdinfo`.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position.value.load(Ordering::Relaxed)
    }
    /// getdents64(2): `emit` copies into a kernel buffer and never sleeps.
    pub fn readdir(&self, emit: Emit<'_>) -> SysResult<()> {
        self.not_path()?;
        let mut position = self.position.lock();
        self.ops.readdir(self, &mut position.value, emit)
    }
    /// ioctl(2), for commands that belong to the file.
    pub fn ioctl(&self, caller: &IoctlCaller<'_>, command: u32, argument: u64) -> SysResult<i64> {
        self.not_path()?;
        match crate::ioctl::of_file_system(self, caller, command, argument) {
            Some(answer) => answer,
            None => self.ops.ioctl(self, caller, command, argument),
        }
    }
    /// What it is ready for (see [`FileOps::poll`]).
    pub fn poll(&self, table: Option<&mut PollTable>) -> Events {
        if self.flags().contains(OpenFlags::PATH) { Events::NVAL } else { self.ops.poll(self, table) }
    }
    /// mmap(2): checks the access mode and gives the pages. EACCES.
    pub fn mmap(&self, request: &MapRequest) -> SysResult<Arc<dyn Pages>> {
        self.not_path()?;
        let flags = self.flags();
        let stores = request.access.contains(MapAccess::SHARED | MapAccess::WRITE);
        let read_write = flags.can_read() && flags.can_write();
        if !flags.can_read() || (stores && !read_write) {
            return Err(Errno::EACCES.into());
        }
        self.ops.mmap(self, request)
    }
    /// fsync(2), fdatasync(2), sync_file_range(2).
    pub fn fsync(&self, first: u64, end: u64, kind: SyncKind) -> SysResult<()> {
        self.not_path()?;
        self.ops.fsync(self, first, end, kind)
    }
    /// fallocate(2). EBADF if not open for writing.
    pub fn fallocate(&self, mode: u32, offset: u64, len: u64) -> SysResult<()> {
        self.writable()?;
        self.ops.fallocate(self, mode, offset, len)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        OPEN_FILES.fetch_sub(1, Ordering::Relaxed);
        if self.flags().contains(OpenFlags::PATH) {
            return;
        }
        crate::locks::release_file(self.inode().attachments(), self.id);
        self.ops.release(self);
        crate::notify::closed(&self.path, self.flags().can_write());
        if self.counts_as_writer {
            self.inode().attachments().end_write();
        }
    }
}

/// lseek of a file whose size its inode knows: EINVAL for a negative result, ENXIO for data or a hole past the end.
pub fn default_seek(file: &OpenFile, current: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
    let size = || file.inode().metadata().map(|m| m.size_bytes);
    let base = match whence {
        Whence::Set => 0,
        Whence::Current => current,
        Whence::End => size()?,
        Whence::Data | Whence::Hole => {
            let size = size()?;
            let at = u64::try_from(offset).ok().filter(|&at| at < size).ok_or(Errno::ENXIO)?;
            return Ok(if whence == Whence::Data { at } else { size });
        }
    };
    base.checked_add_signed(offset).filter(|&at| i64::try_from(at).is_ok()).ok_or(Errno::EINVAL)
}
