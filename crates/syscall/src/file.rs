//! Reading and writing, read(2) to sendfile(2).

use crate::args::{UserAddr, UserRef};
use crate::data::{RW_MAX, file, read_iovec};
use abi::{Errno, Resource, Signal, SysError, SysResult};
use std::sync::Arc;
use task::Current;
use vfs::{Fd, OpenFile, OpenFlags, SliceSink, SliceSource, SyncKind, UserSink, UserSource, Whence};

/// read(2). A zero-length read checks the descriptor and nothing else, as Linux does: a bad buffer is not noticed.
pub fn read(current: &mut Current, fd: Fd, buf: UserAddr, len: usize) -> SysResult<usize> {
    let file = current.files().get_usable(fd)?;
    let memory = current.memory().clone();
    file.read(&mut UserSink::new(&*memory, buf.0, len.min(RW_MAX)))
}

/// write(2).
pub fn write(current: &mut Current, fd: Fd, buf: UserAddr, len: usize) -> SysResult<usize> {
    let file = current.files().get_usable(fd)?;
    let memory = current.memory().clone();
    let limit = size_limit(current);
    let result = file.write_within(&mut UserSource::new(&*memory, buf.0, len.min(RW_MAX)), limit);
    signal_failure(current, &file, result, limit)
}

/// How far this process's files may grow, bytes.
fn size_limit(current: &Current) -> u64 {
    current.process().rlimit(Resource::Fsize).soft
}

/// A write that nobody will read comes with SIGPIPE, one past the size limit of its process with SIGXFSZ.
pub(crate) fn signal_failure(current: &mut Current, file: &OpenFile, result: SysResult<usize>, limit: u64) -> SysResult<usize> {
    let signal = match result {
        Err(SysError::Errno(Errno::EPIPE)) if file.ops().raises_sigpipe() => Signal::SIGPIPE,
        Err(SysError::Errno(Errno::EFBIG)) if limit != u64::MAX => Signal::SIGXFSZ,
        _ => return result,
    };
    // A signal to oneself is never refused.
    let _ = current.task().signal(abi::SigInfo::kernel(signal));
    result
}

/// readv(2).
pub fn readv(current: &mut Current, fd: Fd, iov: UserAddr, count: usize) -> SysResult<usize> {
    let file = current.files().get_usable(fd)?;
    let ranges = read_iovec(current, iov.0, count)?;
    let memory = current.memory().clone();
    file.read(&mut UserSink::vectored(&*memory, ranges))
}

/// writev(2).
pub fn writev(current: &mut Current, fd: Fd, iov: UserAddr, count: usize) -> SysResult<usize> {
    let file = current.files().get_usable(fd)?;
    let ranges = read_iovec(current, iov.0, count)?;
    let memory = current.memory().clone();
    let limit = size_limit(current);
    let result = file.write_within(&mut UserSource::vectored(&*memory, ranges), limit);
    signal_failure(current, &file, result, limit)
}

fn position(offset: i64) -> Result<u64, Errno> {
    u64::try_from(offset).map_err(|_| Errno::EINVAL)
}

/// pread64(2).
pub fn pread64(current: &mut Current, fd: Fd, buf: UserAddr, len: usize, offset: i64) -> SysResult<usize> {
    let at = position(offset)?;
    let file = current.files().get_usable(fd)?;
    let memory = current.memory().clone();
    file.read_at(at, &mut UserSink::new(&*memory, buf.0, len.min(RW_MAX)))
}

/// pwrite64(2).
pub fn pwrite64(current: &mut Current, fd: Fd, buf: UserAddr, len: usize, offset: i64) -> SysResult<usize> {
    let at = position(offset)?;
    let file = current.files().get_usable(fd)?;
    let memory = current.memory().clone();
    let limit = size_limit(current);
    let result = file.write_at_within(at, &mut UserSource::new(&*memory, buf.0, len.min(RW_MAX)), limit);
    signal_failure(current, &file, result, limit)
}

/// preadv(2).
pub fn preadv(current: &mut Current, fd: Fd, iov: UserAddr, count: usize, offset: i64) -> SysResult<usize> {
    let at = position(offset)?;
    let file = current.files().get_usable(fd)?;
    let ranges = read_iovec(current, iov.0, count)?;
    let memory = current.memory().clone();
    file.read_at(at, &mut UserSink::vectored(&*memory, ranges))
}

/// pwritev(2).
pub fn pwritev(current: &mut Current, fd: Fd, iov: UserAddr, count: usize, offset: i64) -> SysResult<usize> {
    let at = position(offset)?;
    let file = current.files().get_usable(fd)?;
    let ranges = read_iovec(current, iov.0, count)?;
    let memory = current.memory().clone();
    let limit = size_limit(current);
    let result = file.write_at_within(at, &mut UserSource::vectored(&*memory, ranges), limit);
    signal_failure(current, &file, result, limit)
}

/// Flags of preadv2 and pwritev2 that change nothing for a cache that is always in memory: `RWF_HIPRI`, `RWF_DSYNC`, `RWF_SYNC`, `RWF_NOWAIT`.
const RWF_ACCEPTED: u32 = 0x0f;

/// preadv2(2); offset -1 is the file's own position.
pub fn preadv2(current: &mut Current, fd: Fd, iov: UserAddr, count: usize, offset: i64, _high: u64, flags: u32) -> SysResult<usize> {
    if flags & !RWF_ACCEPTED != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if offset == -1 { readv(current, fd, iov, count) } else { preadv(current, fd, iov, count, offset) }
}

/// pwritev2(2); offset -1 is the file's own position.
pub fn pwritev2(current: &mut Current, fd: Fd, iov: UserAddr, count: usize, offset: i64, _high: u64, flags: u32) -> SysResult<usize> {
    const SYNC: u32 = 0x06;
    if flags & !RWF_ACCEPTED != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let n = if offset == -1 { writev(current, fd, iov, count) } else { pwritev(current, fd, iov, count, offset) }?;
    if flags & SYNC != 0 {
        fdatasync(current, fd)?;
    }
    Ok(n)
}

/// lseek(2).
pub fn lseek(current: &mut Current, fd: Fd, offset: i64, whence: u32) -> SysResult<u64> {
    let file = file(current, fd)?;
    file.seek(offset, Whence::from_raw(whence).ok_or(Errno::EINVAL)?)
}

/// fsync(2).
pub fn fsync(current: &mut Current, fd: Fd) -> SysResult<()> {
    file(current, fd)?.fsync(0, u64::MAX, SyncKind::All)
}

/// fdatasync(2).
pub fn fdatasync(current: &mut Current, fd: Fd) -> SysResult<()> {
    file(current, fd)?.fsync(0, u64::MAX, SyncKind::DataOnly)
}

/// sync_file_range(2).
pub fn sync_file_range(current: &mut Current, fd: Fd, offset: i64, len: i64, flags: u32) -> SysResult<()> {
    let (first, len) = (position(offset)?, position(len)?);
    if flags & !7 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let end = if len == 0 { u64::MAX } else { first.checked_add(len).ok_or(Errno::EINVAL)? };
    file(current, fd)?.fsync(first, end, SyncKind::DataOnly)
}

/// sync(2).
pub fn sync(current: &mut Current) -> SysResult<()> {
    current.caller().vfs.sync_all();
    Ok(())
}

/// syncfs(2).
pub fn syncfs(current: &mut Current, fd: Fd) -> SysResult<()> {
    let file = file(current, fd)?;
    Ok(file.path().mount.superblock().file_system().sync()?)
}

/// fallocate(2).
pub fn fallocate(current: &mut Current, fd: Fd, mode: u32, offset: i64, len: i64) -> SysResult<()> {
    let (at, len) = (position(offset)?, position(len)?);
    if len == 0 {
        return Err(Errno::EINVAL.into());
    }
    file(current, fd)?.fallocate(mode, at, len)
}

/// fadvise64(2): there is nothing to advise, but the descriptor and the advice are checked.
pub fn fadvise64(current: &mut Current, fd: Fd, _offset: i64, _len: i64, advice: u32) -> SysResult<()> {
    let file = file(current, fd)?;
    if file.ops().positioning() == vfs::Positioning::Stream {
        return Err(Errno::ESPIPE.into());
    }
    if advice > 5 { Err(Errno::EINVAL.into()) } else { Ok(()) }
}

/// readahead(2).
pub fn readahead(current: &mut Current, fd: Fd, _offset: i64, _count: usize) -> SysResult<()> {
    let file = file(current, fd)?;
    if !file.flags().can_read() {
        return Err(Errno::EBADF.into());
    }
    Ok(())
}

/// Bytes moved at once between two files.
const COPY_CHUNK: usize = 64 << 10;

/// Moves up to `len` bytes from one file to another; each at a position of its own if given, else at the file's.
fn copy(
    from: &Arc<OpenFile>,
    mut from_at: Option<&mut u64>,
    to: &Arc<OpenFile>,
    mut to_at: Option<&mut u64>,
    len: usize,
) -> SysResult<usize> {
    let mut buffer = vec![0; len.min(COPY_CHUNK)];
    let mut total = 0;
    while total < len {
        let want = buffer.len().min(len - total);
        let part = buffer.get_mut(..want).unwrap_or_default();
        let mut sink = SliceSink::new(part);
        let read = match &from_at {
            Some(at) => from.read_at(**at, &mut sink),
            None => from.read(&mut sink),
        };
        let n = match read {
            Ok(0) => break,
            Ok(n) => n,
            Err(_) if total > 0 => break,
            Err(error) => return Err(error),
        };
        let mut rest = buffer.get(..n).unwrap_or_default();
        while !rest.is_empty() {
            let mut source = SliceSource::new(rest);
            let written = match &to_at {
                Some(at) => to.write_at(**at, &mut source),
                None => to.write(&mut source),
            };
            match written {
                Ok(done) => {
                    rest = rest.get(done..).unwrap_or_default();
                    total += done;
                    if let Some(at) = &mut to_at {
                        **at += done as u64;
                    }
                    if let Some(at) = &mut from_at {
                        **at += done as u64;
                    }
                }
                Err(error) => {
                    // What was read and can't be written must not be lost to the next reader.
                    if from_at.is_none() && from.ops().positioning() == vfs::Positioning::Seekable {
                        from.seek(-(rest.len() as i64), Whence::Current)?;
                    }
                    return if total > 0 { Ok(total) } else { Err(error) };
                }
            }
        }
    }
    Ok(total)
}

pub(crate) fn user_offset(current: &Current, offset: UserRef<i64>) -> Result<Option<u64>, Errno> {
    offset.read_optional(current)?.map(position).transpose()
}

/// sendfile(2).
pub fn sendfile(current: &mut Current, out: Fd, input: Fd, offset: UserRef<i64>, count: usize) -> SysResult<usize> {
    let (from, to) = (file(current, input)?, file(current, out)?);
    if to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EINVAL.into());
    }
    let mut at = user_offset(current, offset)?;
    let result = copy(&from, at.as_mut(), &to, None, count.min(RW_MAX));
    if let Some(at) = at {
        offset.write(current, &(at as i64))?;
    }
    signal_failure(current, &to, result, u64::MAX)
}

/// copy_file_range(2).
pub fn copy_file_range(
    current: &mut Current,
    input: Fd,
    in_offset: UserRef<i64>,
    out: Fd,
    out_offset: UserRef<i64>,
    len: usize,
    flags: u32,
) -> SysResult<usize> {
    if flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (from, to) = (file(current, input)?, file(current, out)?);
    for file in [&from, &to] {
        match file.inode().metadata()?.kind {
            vfs::FileKind::Regular => {}
            vfs::FileKind::Directory => return Err(Errno::EISDIR.into()),
            _ => return Err(Errno::EINVAL.into()),
        }
    }
    if !from.flags().can_read() || !to.flags().can_write() || to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EBADF.into());
    }
    let (mut in_at, mut out_at) = (user_offset(current, in_offset)?, user_offset(current, out_offset)?);
    let result = copy(&from, in_at.as_mut(), &to, out_at.as_mut(), len.min(RW_MAX));
    if let Some(at) = in_at {
        in_offset.write(current, &(at as i64))?;
    }
    if let Some(at) = out_at {
        out_offset.write(current, &(at as i64))?;
    }
    result
}

/// truncate(2).
pub fn truncate(current: &mut Current, path: UserAddr, len: i64) -> SysResult<()> {
    let size = position(len)?;
    let path = crate::data::read_path(current, path)?;
    let caller = current.caller();
    let found = caller.lookup(vfs::PathAt::cwd(&path), vfs::LookupFlags::FOLLOW)?;
    Ok(caller.truncate(&found, size)?)
}

/// ftruncate(2).
pub fn ftruncate(current: &mut Current, fd: Fd, len: i64) -> SysResult<()> {
    let size = position(len)?;
    let file = file(current, fd)?;
    if !file.flags().can_write() {
        return Err(Errno::EINVAL.into());
    }
    Ok(current.caller().truncate_open(file.path(), size)?)
}
