//! The kernel's end of a filter: seccomp_unotify(2).

use crate::sys::{check, last_errno, raw};
use abi::Errno;
use std::os::fd::OwnedFd;

/// `struct seccomp_notif`.
#[repr(C)]
#[derive(Default, Clone, Copy, Debug)]
pub struct Notification {
    pub id: u64,
    pub tid: u32,
    pub flags: u32,
    pub number: i32,
    pub arch: u32,
    pub ip: u64,
    pub args: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;
const SET_FLAGS: libc::c_ulong = 0x4008_2104;
const SYNC_WAKE_UP: u64 = 1;
const CONTINUE: u32 = 1;

/// A filter's listener.
pub struct Listener(OwnedFd);

/// How a notification is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The call returns this.
    Value(u64),
    /// The host runs the call.
    HostRuns,
}

impl Listener {
    /// Takes over a listener, and has its thread woken on the CPU of whoever answers it (Linux 6.6).
    pub fn new(fd: OwnedFd) -> Result<Listener, Errno> {
        // SAFETY: the ioctl takes its argument by value.
        check(unsafe { libc::ioctl(raw(&fd), SET_FLAGS, SYNC_WAKE_UP) })?;
        Ok(Listener(fd))
    }

    /// Waits for the next notification. EINTR when a host signal came; ENOENT when the thread is gone.
    pub fn receive(&self) -> Result<Notification, Errno> {
        let mut notification = Notification::default();
        // SAFETY: the structure is the one the ioctl fills, and zeroed as it demands.
        if unsafe { libc::ioctl(raw(&self.0), RECEIVE, &raw mut notification) } != 0 {
            return Err(last_errno());
        }
        Ok(notification)
    }

    /// Answers notification `id`. ENOENT when the thread is gone.
    pub fn answer(&self, id: u64, answer: Answer) -> Result<(), Errno> {
        let (value, flags) = match answer {
            Answer::Value(value) => (value as i64, 0),
            Answer::HostRuns => (0, CONTINUE),
        };
        let response = Response { id, value, error: 0, flags };
        // SAFETY: the structure is the one the ioctl reads.
        check(unsafe { libc::ioctl(raw(&self.0), SEND, &raw const response) }).map(drop)
    }
}

/// Whether a filter of this process could have a listener as we need it: EBUSY when a filter around us has one, EINVAL when the host is older than
/// Linux 6.6. Tried in a child. Call it before the process has a second thread.
pub fn probe() -> Result<(), Errno> {
    const SET_MODE_FILTER: libc::c_uint = 1;
    const NEW_LISTENER_AND_WAIT_KILLABLE: libc::c_uint = 0x28;
    // One instruction: allow.
    let mut allow = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x7fff_0000 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut allow };
    // SAFETY: the process has one thread, so the child finds everything in a usable state; it makes system calls only, on structures of this
    // frame, and ends.
    let child = unsafe {
        let child = check(libc::fork())?;
        if child == 0 {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            let fd = libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, NEW_LISTENER_AND_WAIT_KILLABLE, &raw const program) as libc::c_int;
            let good = fd >= 0 && libc::ioctl(fd, SET_FLAGS, SYNC_WAKE_UP) == 0;
            libc::_exit(if good { 0 } else { last_errno().raw() });
        }
        child
    };
    loop {
        match rustix::process::waitpid(rustix::process::Pid::from_raw(child), rustix::process::WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(Some((_, status))) if status.exit_status() == Some(0) => return Ok(()),
            Ok(Some((_, status))) => return Err(status.exit_status().and_then(Errno::from_raw).unwrap_or(Errno::EIO)),
            _ => return Err(Errno::EIO),
        }
    }
}
