//! The host's system calls, as thin as they can be: one function each, errors as [`Errno`].

use abi::Errno;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// The calling thread's errno.
pub fn last_errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().and_then(Errno::from_raw).unwrap_or(Errno::EIO)
}

/// The value of a call that answers -1 for an error.
pub fn check(value: libc::c_int) -> Result<libc::c_int, Errno> {
    if value == -1 { Err(last_errno()) } else { Ok(value) }
}

/// A memory file of `len_bytes`, close-on-exec.
pub fn memory_file(name: &CStr, len_bytes: u64) -> Result<OwnedFd, Errno> {
    let number = |error: rustix::io::Errno| Errno::from_raw(error.raw_os_error()).unwrap_or(Errno::EIO);
    let file = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).map_err(number)?;
    rustix::fs::ftruncate(&file, len_bytes).map_err(number)?;
    Ok(file)
}

/// A shared mapping of part of a file, unmapped when dropped.
pub struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: a mapping is memory that belongs to nobody in particular; those who use it bring their own order.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `file` at `offset` for reading and writing.
    pub fn shared(file: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Mapping, Errno> {
        // SAFETY: the kernel chooses a free place.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file.as_raw_fd(), offset as i64)
        };
        if base == libc::MAP_FAILED { Err(last_errno()) } else { Ok(Mapping { base: base.cast(), len }) }
    }
    /// Its first byte.
    pub fn base(&self) -> *mut u8 {
        self.base
    }
    /// The address of a byte inside it.
    pub fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len);
        self.base.wrapping_add(offset)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping's own, and nobody refers to it any more.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// Sends `signal` to thread `tid` of process `pid`.
pub fn tgkill(pid: i32, tid: i32, signal: libc::c_int) -> Result<(), Errno> {
    // SAFETY: no memory is involved.
    let value = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) };
    check(value as libc::c_int).map(drop)
}

/// Sends SIGKILL to a process of ours.
pub fn kill_process(pid: i32) {
    // SAFETY: no memory is involved. That it is gone already is no error.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Waits on a word in shared memory while it holds `value`; wakes for any reason.
pub fn futex_wait(word: *const u32, value: u32, timeout: Option<std::time::Duration>) -> Result<(), Errno> {
    let timeout = timeout.map(|t| libc::timespec { tv_sec: t.as_secs() as i64, tv_nsec: i64::from(t.subsec_nanos()) });
    let pointer = timeout.as_ref().map_or(std::ptr::null(), |t| t as *const libc::timespec);
    // SAFETY: the word lies in a live mapping, and the timeout lives across the call.
    let value = unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, value, pointer) };
    check(value as libc::c_int).map(drop)
}

/// Wakes whoever waits on a word in shared memory.
pub fn futex_wake(word: *const u32) {
    // SAFETY: the address is only a key; the kernel checks it.
    unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, i32::MAX) };
}

/// The number of a descriptor.
pub fn raw(fd: &OwnedFd) -> RawFd {
    fd.as_raw_fd()
}
