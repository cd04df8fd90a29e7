//! Arguments that lead to data: iovecs, paths, descriptors' files.

use crate::args::{UserAddr, UserPath};
use abi::arch::TASK_SIZE;
use abi::{Errno, Resource};
use std::sync::Arc;
use task::Current;
use vfs::{Fd, OpenFile, UserMemory, UserRange};
use zerocopy::IntoBytes;

/// `UIO_MAXIOV`.
const IOV_MAX: usize = 1024;
/// `MAX_RW_COUNT`: more than this is silently not transferred.
pub const RW_MAX: usize = 0x7fff_f000;

/// A path argument. EFAULT, ENAMETOOLONG.
pub fn read_path(current: &Current, addr: UserAddr) -> Result<Vec<u8>, Errno> {
    UserPath(addr.0).read(current)
}

/// A string of at most `max` bytes; `too_long` when it does not end within them. EFAULT.
pub fn read_string(current: &Current, addr: u64, max: usize, too_long: Errno) -> Result<Vec<u8>, Errno> {
    crate::args::read_string(current, addr, max)?.ok_or(too_long)
}

/// An iovec array: at most 1024 entries, in all at most [`RW_MAX`] bytes. EINVAL, EFAULT.
pub fn read_iovec(current: &Current, addr: u64, count: usize) -> Result<Vec<UserRange>, Errno> {
    if count > IOV_MAX {
        return Err(Errno::EINVAL);
    }
    let mut words = vec![0u64; count * 2];
    current.memory().read_exact(addr, words.as_mut_bytes())?;
    let mut left = RW_MAX;
    let mut ranges = Vec::with_capacity(count);
    for pair in words.chunks_exact(2) {
        let [addr, len] = pair else { continue };
        let len = isize::try_from(*len).map_err(|_| Errno::EINVAL)? as usize;
        if addr.checked_add(len as u64).is_none_or(|end| end > TASK_SIZE) && len > 0 {
            return Err(Errno::EFAULT);
        }
        ranges.push(UserRange { addr: *addr, len: len.min(left) });
        left -= len.min(left);
    }
    Ok(ranges)
}

/// A descriptor's file.
pub fn file(current: &Current, fd: Fd) -> Result<Arc<OpenFile>, Errno> {
    current.files().get(fd)
}

/// The soft limit on descriptors.
pub fn nofile(current: &Current) -> u64 {
    current.process().rlimit(Resource::Nofile).soft
}
