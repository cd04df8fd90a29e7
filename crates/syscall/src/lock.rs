//! Record locks of fcntl(2) and flock(2).
//!
//! Not yet: the lock tables belong to `vfs`; until they are there, taking a lock is ENOLCK and asking finds none.

use crate::args::UserRef;
use abi::raw::general as raw;
use abi::{Errno, SysResult};
use task::Current;
use vfs::OpenFile;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `struct flock` of x86-64.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable, Clone, Copy)]
pub struct Flock {
    pub kind: i16,
    pub whence: i16,
    pad: i32,
    pub start: i64,
    pub len: i64,
    pub pid: i32,
    pad2: i32,
}

/// F_GETLK, F_SETLK, F_SETLKW and their OFD variants.
pub fn fcntl_lock(current: &mut Current, _file: &OpenFile, command: u32, lock: UserRef<Flock>) -> SysResult<i64> {
    let mut wanted = lock.read(current)?;
    if command == raw::F_GETLK || command == raw::F_OFD_GETLK {
        wanted.kind = raw::F_UNLCK as i16;
        lock.write(current, &wanted)?;
        return Ok(0);
    }
    if wanted.kind == raw::F_UNLCK as i16 { Ok(0) } else { Err(Errno::ENOLCK.into()) }
}

/// The process closes a descriptor of `file`: its record locks there go.
pub fn drop_process_locks(_current: &Current, _file: &OpenFile) {}
