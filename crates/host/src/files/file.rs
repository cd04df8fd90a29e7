//! An open regular file of the host, or a disk image that the command line names: [`HostFile`].

use super::descriptors::Descriptor;
use super::helpers;
use super::locks::{self, FileLock};
use super::node::Node;
use super::sys::{self, errno};
use abi::Errno;
use platform::{HostFile, HostMetadata};
use rustix::fs::{self, FallocateFlags, Mode};
use rustix::io;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

enum Handle {
    /// Opened again at need.
    Node(Arc<Node>),
    /// Open as long as the file is.
    Open(Arc<Descriptor>),
}

/// A regular file, or for images a block device.
pub(super) struct File {
    handle: Handle,
    locks: Mutex<Vec<FileLock>>,
    /// Whether the host's file system can say "that would block"; found out by the first read.
    can_say_busy: AtomicBool,
    /// The same of writes, which fewer file systems can.
    can_write_busy: AtomicBool,
    /// A block device's length; a file's is asked for.
    fixed_len_bytes: Option<u64>,
}

impl File {
    pub fn of_node(node: Arc<Node>) -> File {
        File::new(Handle::Node(node), None)
    }
    pub fn of_descriptor(open: Arc<Descriptor>, fixed_len_bytes: Option<u64>) -> File {
        File::new(Handle::Open(open), fixed_len_bytes)
    }
    fn new(handle: Handle, fixed_len_bytes: Option<u64>) -> File {
        File {
            handle,
            locks: Mutex::default(),
            can_say_busy: AtomicBool::new(true),
            can_write_busy: AtomicBool::new(true),
            fixed_len_bytes,
        }
    }
    fn descriptor(&self) -> Result<Arc<Descriptor>, Errno> {
        match &self.handle {
            Handle::Node(node) => node.descriptor(),
            Handle::Open(open) => Ok(open.clone()),
        }
    }

    /// Writes what the host takes without waiting; how much.
    fn write_cached(&self, open: &Descriptor, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while self.can_write_busy.load(Ordering::Relaxed)
            && let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty())
        {
            let at = offset.saturating_add(done as u64);
            match io::pwritev2(open, &[IoSlice::new(rest)], at, io::ReadWriteFlags::NOWAIT) {
                Ok(0) | Err(io::Errno::AGAIN) => break,
                Ok(n) => done += n,
                Err(io::Errno::INTR) => {}
                Err(io::Errno::OPNOTSUPP | io::Errno::NOSYS | io::Errno::INVAL) => self.can_write_busy.store(false, Ordering::Relaxed),
                Err(error) => return Err(errno(error)),
            }
        }
        Ok(done)
    }

    /// Reads what the host has in memory: how much, and whether the file ended there.
    fn read_cached(&self, open: &Descriptor, offset: u64, buffer: &mut [u8]) -> Result<(usize, bool), Errno> {
        let mut done = 0;
        while done < buffer.len() && self.can_say_busy.load(Ordering::Relaxed) {
            let rest = buffer.get_mut(done..).unwrap_or_default();
            let at = offset.saturating_add(done as u64);
            match io::preadv2(open, &mut [IoSliceMut::new(rest)], at, io::ReadWriteFlags::NOWAIT) {
                Ok(0) => return Ok((done, true)),
                Ok(n) => done += n,
                Err(io::Errno::INTR) => {}
                Err(io::Errno::AGAIN) => break,
                Err(io::Errno::OPNOTSUPP | io::Errno::NOSYS | io::Errno::INVAL) => self.can_say_busy.store(false, Ordering::Relaxed),
                Err(error) => return Err(errno(error)),
            }
        }
        Ok((done, false))
    }
}

/// Refuses positions that are negative to the host: -1 means "where the file stands" to preadv2(2).
fn check_range(offset: u64, len: u64) -> Result<(), Errno> {
    match offset.checked_add(len) {
        Some(end) if i64::try_from(end).is_ok() => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

/// Reads until the buffer is full or the file ends. May block.
fn read_fully(open: &Descriptor, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while done < buffer.len() {
        let rest = buffer.get_mut(done..).unwrap_or_default();
        match io::pread(open, rest, offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(io::Errno::INTR) => {}
            Err(error) if done == 0 => return Err(errno(error)),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Writes all of it. May block.
fn write_fully(open: &Descriptor, offset: u64, data: &[u8]) -> Result<(), Errno> {
    let mut done = 0;
    while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
        match io::pwrite(open, rest, offset.saturating_add(done as u64)) {
            Ok(0) => return Err(Errno::ENOSPC),
            Ok(n) => done += n,
            Err(io::Errno::INTR) => {}
            Err(error) => return Err(errno(error)),
        }
    }
    Ok(())
}

impl HostFile for File {
    fn metadata(&self) -> Result<HostMetadata, Errno> {
        let (_, mut metadata) = sys::stat_fd(self.descriptor()?.as_fd())?;
        if let Some(len) = self.fixed_len_bytes {
            metadata.size_bytes = len;
        }
        Ok(metadata)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        check_range(offset, buffer.len() as u64)?;
        let open = self.descriptor()?;
        let (done, ended) = self.read_cached(&open, offset, buffer)?;
        let rest = buffer.get_mut(done..).unwrap_or_default();
        if ended || rest.is_empty() {
            return Ok(done);
        }
        // The host's disk has to move: not on this thread.
        let (len, at) = (rest.len(), offset.saturating_add(done as u64));
        let read = helpers::run(move || {
            let mut bytes = vec![0; len];
            let n = read_fully(&open, at, &mut bytes)?;
            bytes.truncate(n);
            Ok(bytes)
        });
        match read {
            Ok(bytes) => {
                if let Some(part) = rest.get_mut(..bytes.len()) {
                    part.copy_from_slice(&bytes);
                }
                Ok(done + bytes.len())
            }
            Err(errno) if done == 0 => Err(errno),
            Err(_) => Ok(done),
        }
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        check_range(offset, data.len() as u64)?;
        let open = self.descriptor()?;
        let done = self.write_cached(&open, offset, data)?;
        let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) else { return Ok(()) };
        let at = offset.saturating_add(done as u64);
        if helpers::may_block() {
            return write_fully(&open, at, rest);
        }
        // The host has to wait for its disk, or can't say whether it would: not on this thread.
        let rest = rest.to_vec();
        helpers::run(move || write_fully(&open, at, &rest))
    }

    fn set_len(&self, len_bytes: u64) -> Result<(), Errno> {
        fs::ftruncate(&*self.descriptor()?, len_bytes).map_err(errno)
    }

    fn sync(&self, data_only: bool) -> Result<(), Errno> {
        let open = self.descriptor()?;
        helpers::run(move || if data_only { fs::fdatasync(&*open) } else { fs::fsync(&*open) }.map_err(errno))
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let open = self.descriptor()?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        helpers::run(move || fs::fallocate(&*open, flags, offset, len).map_err(errno))
    }

    fn zero(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let open = self.descriptor()?;
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        helpers::run(move || fs::fallocate(&*open, flags, offset, len).map_err(errno))
    }

    fn lock(&self, exclusive: bool) -> Result<(), (Errno, Option<i32>)> {
        let open = self.descriptor().map_err(|errno| (errno, None))?;
        let lock = locks::lock(open.file(), open.as_fd(), exclusive)?;
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).push(lock);
        Ok(())
    }

    fn set_mode(&self, mode: u32) -> Result<(), Errno> {
        fs::fchmod(&*self.descriptor()?, Mode::from_raw_mode(mode & 0o7777)).map_err(errno)
    }

    fn set_times(&self, accessed_ns: Option<i128>, modified_ns: Option<i128>) -> Result<(), Errno> {
        fs::futimens(&*self.descriptor()?, &sys::timestamps(accessed_ns, modified_ns)).map_err(errno)
    }
}
