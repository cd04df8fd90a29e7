//! fcntl(2) record locks on whole files, as other User Mode Linux programs take them on their images.
//!
//! Such a lock belongs to the process, not to the descriptor: closing *any* descriptor of the file drops it, and the process never conflicts
//! with itself. Both are mended here: while a file is locked its descriptors are put aside instead of being closed, and holders inside this
//! process are checked against each other.

use abi::Errno;
use rustix::fs::OFlags;
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

#[derive(Default)]
struct Held {
    holders: usize,
    exclusive: bool,
    /// Descriptors whose closing would drop the lock. The next open of the file takes one from here, so that they do not add up.
    put_aside: Vec<OwnedFd>,
}

type Table = HashMap<(u64, u64), Held>;

/// Number of files locked, readable without the table's lock: nearly always none.
static LOCKED: AtomicUsize = AtomicUsize::new(0);

fn table() -> MutexGuard<'static, Table> {
    static TABLE: OnceLock<Mutex<Table>> = OnceLock::new();
    TABLE.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes a descriptor of `file` (device and inode number), or puts it aside while the file is locked.
pub(super) fn close(file: (u64, u64), fd: OwnedFd) {
    if LOCKED.load(Ordering::Acquire) > 0
        && let Some(held) = table().get_mut(&file)
    {
        held.put_aside.push(fd);
        return;
    }
    drop(fd);
}

/// A descriptor of `file` that was put aside and is good for what is wanted.
pub(super) fn reuse(file: (u64, u64), write: bool) -> Option<OwnedFd> {
    if LOCKED.load(Ordering::Acquire) == 0 {
        return None;
    }
    let mut table = table();
    let put_aside = &mut table.get_mut(&file)?.put_aside;
    let wanted = if write { OFlags::RDWR } else { OFlags::RDONLY };
    let fits = |fd: &OwnedFd| rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags & OFlags::RWMODE == wanted);
    // The first one is what the lock was taken on; it stays.
    let at = put_aside.iter().skip(1).position(fits)? + 1;
    Some(put_aside.swap_remove(at))
}

/// A lock on a file; dropped, it is released when the last holder in this process is gone.
pub(super) struct FileLock {
    file: (u64, u64),
}

/// Takes the lock. EAGAIN with the holder's process number (our own for a holder in this process).
pub(super) fn lock(file: (u64, u64), fd: BorrowedFd<'_>, exclusive: bool) -> Result<FileLock, (Errno, Option<i32>)> {
    let mut table = table();
    if let Some(held) = table.get_mut(&file) {
        if held.exclusive || exclusive {
            return Err((Errno::EAGAIN, Some(std::process::id() as i32)));
        }
        held.holders += 1;
        return Ok(FileLock { file });
    }
    set_lock(fd, if exclusive { libc::F_WRLCK } else { libc::F_RDLCK })?;
    // The lock hangs on the file, not on this descriptor; keep one open whatever becomes of the others.
    let kept = fd.try_clone_to_owned().map_err(|error| (super::sys::io_errno(&error), None))?;
    table.insert(file, Held { holders: 1, exclusive, put_aside: vec![kept] });
    LOCKED.fetch_add(1, Ordering::Release);
    Ok(FileLock { file })
}

fn set_lock(fd: BorrowedFd<'_>, kind: i32) -> Result<(), (Errno, Option<i32>)> {
    let fd = fd.as_fd().as_raw_fd();
    let mut wanted = libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
    // SAFETY: `fd` is open for the call, and `wanted` outlives it; F_SETLK only reads it.
    if unsafe { libc::fcntl(fd, libc::F_SETLK, &raw const wanted) } == 0 {
        return Ok(());
    }
    let error = super::sys::io_errno(&std::io::Error::last_os_error());
    if !matches!(error, Errno::EAGAIN | Errno::EACCES) {
        return Err((error, None));
    }
    // SAFETY: as above; F_GETLK writes into `wanted`, which is ours.
    let asked = unsafe { libc::fcntl(fd, libc::F_GETLK, &raw mut wanted) };
    let holder = (asked == 0 && wanted.l_type != libc::F_UNLCK as i16).then_some(wanted.l_pid);
    Err((Errno::EAGAIN, holder))
}

impl Drop for FileLock {
    fn drop(&mut self) {
        let mut table = table();
        let Some(held) = table.get_mut(&self.file) else { return };
        held.holders -= 1;
        if held.holders == 0 {
            // Closing what was put aside releases the lock.
            let put_aside = table.remove(&self.file).map(|held| held.put_aside);
            LOCKED.fetch_sub(1, Ordering::Release);
            drop(put_aside);
        }
    }
}
