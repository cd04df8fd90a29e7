//! Record locks of fcntl(2) and flock(2).

use crate::args::UserRef;
use crate::data::file;
use abi::raw::general as raw;
use abi::{Errno, SysResult};
use std::sync::Arc;
use task::Current;
use vfs::{
    Fd, LockKind, LockOwner, LockWait, OpenFile, RangeLock, flock as flock_inode, get_lock, note_locked, release_locks, set_lock, unlock,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `struct flock` of x86-64.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, Clone, Copy)]
pub struct Flock {
    kind: i16,
    whence: i16,
    pad: i32,
    start: i64,
    len: i64,
    pid: i32,
    pad2: i32,
}

/// POSIX locks belong to a table of descriptors.
fn process_owner(current: &Current) -> LockOwner {
    LockOwner::Process(Arc::as_ptr(current.files()) as u64)
}

/// The first and last byte that a `struct flock` names. EINVAL, EOVERFLOW.
fn range(file: &OpenFile, lock: &Flock) -> Result<(u64, u64), Errno> {
    let base = match lock.whence {
        0 => 0,
        1 => i64::try_from(file.position()).map_err(|_| Errno::EOVERFLOW)?,
        2 => i64::try_from(file.inode().metadata()?.size_bytes).map_err(|_| Errno::EOVERFLOW)?,
        _ => return Err(Errno::EINVAL),
    };
    let at = base.checked_add(lock.start).ok_or(Errno::EOVERFLOW)?;
    let (first, last) = match lock.len {
        0 => (at, i64::MAX),
        len if len > 0 => (at, at.checked_add(len - 1).ok_or(Errno::EOVERFLOW)?),
        // A negative length counts backwards from the start.
        len => (at.checked_add(len).ok_or(Errno::EINVAL)?, at - 1),
    };
    let first = u64::try_from(first).map_err(|_| Errno::EINVAL)?;
    Ok((first, if last == i64::MAX { u64::MAX } else { last as u64 }))
}

/// F_GETLK, F_SETLK, F_SETLKW and their OFD variants.
pub fn fcntl_lock(current: &mut Current, file: &OpenFile, command: u32, at: UserRef<Flock>) -> SysResult<i64> {
    let mut lock = at.read(current)?;
    let is_ofd = matches!(command, raw::F_OFD_GETLK | raw::F_OFD_SETLK | raw::F_OFD_SETLKW);
    if is_ofd && lock.pid != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (start, end) = range(file, &lock)?;
    let kind = match i64::from(lock.kind) as u32 {
        raw::F_RDLCK => Some(LockKind::Shared),
        raw::F_WRLCK => Some(LockKind::Exclusive),
        raw::F_UNLCK => None,
        _ => return Err(Errno::EINVAL.into()),
    };
    let (owner, pid) = if is_ofd { (LockOwner::File(file.id()), -1) } else { (process_owner(current), current.pid()) };
    let inode = file.inode();
    if matches!(command, raw::F_GETLK | raw::F_OFD_GETLK) {
        let kind = kind.ok_or(Errno::EINVAL)?;
        match get_lock(inode, &RangeLock { owner, kind, start, end, pid }) {
            None => lock.kind = raw::F_UNLCK as i16,
            Some(other) => {
                lock.kind = if other.kind == LockKind::Shared { raw::F_RDLCK } else { raw::F_WRLCK } as i16;
                lock.whence = 0;
                lock.start = other.start as i64;
                lock.len = if other.end == u64::MAX { 0 } else { (other.end - other.start + 1) as i64 };
                lock.pid = other.pid;
            }
        }
        at.write(current, &lock)?;
        return Ok(0);
    }
    let ram = current.system().ram;
    match kind {
        None => unlock(ram, inode, owner, start, end)?,
        Some(LockKind::Shared) if !file.flags().can_read() => return Err(Errno::EBADF.into()),
        Some(LockKind::Exclusive) if !file.flags().can_write() => return Err(Errno::EBADF.into()),
        Some(kind) => {
            let wait = if matches!(command, raw::F_SETLKW | raw::F_OFD_SETLKW) { LockWait::Yes } else { LockWait::No };
            set_lock(ram, inode, RangeLock { owner, kind, start, end, pid }, wait)?;
            note_locked(file);
        }
    }
    Ok(0)
}

/// flock(2).
pub fn flock(current: &mut Current, fd: Fd, operation: u32) -> SysResult<()> {
    let file = file(current, fd)?;
    let wait = if operation & raw::LOCK_NB != 0 { LockWait::No } else { LockWait::Yes };
    let kind = match operation & !raw::LOCK_NB {
        raw::LOCK_SH => Some(LockKind::Shared),
        raw::LOCK_EX => Some(LockKind::Exclusive),
        raw::LOCK_UN => None,
        _ => return Err(Errno::EINVAL.into()),
    };
    if file.flags().contains(vfs::OpenFlags::PATH) {
        return Err(Errno::EBADF.into());
    }
    flock_inode(current.system().ram, file.inode(), (file.id(), current.pid()), kind, wait)?;
    if kind.is_some() {
        note_locked(&file);
    }
    Ok(())
}

/// The process closes a descriptor of `file`: its record locks there go.
pub fn drop_process_locks(current: &Current, file: &OpenFile) {
    if !file.flags().contains(vfs::OpenFlags::PATH) {
        release_locks(file.inode(), process_owner(current));
    }
}
