//! TCP connections.
//!
//! What arrives is peeked at and stays in the host's socket until the guest has it. From Linux 6.9 on a TCP socket remembers where to peek next
//! (SO_PEEK_OFF, socket(7)); before that, what has been peeked at already is copied once more, to nowhere.

use super::{Shared, errno, is_local};
use abi::Errno;
use platform::HostStream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketType, sockopt};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// What is known of SO_PEEK_OFF.
pub const UNKNOWN: u8 = 0;
const WORKS: u8 = 1;
const MISSING: u8 = 2;

pub struct Stream {
    fd: OwnedFd,
    shared: Arc<Shared>,
    /// Where the host would peek next; `None`: it was never told to remember.
    offset: Option<usize>,
}

impl Stream {
    pub fn connect(shared: &Arc<Shared>, to: SocketAddr, token: u64) -> Result<Stream, Errno> {
        let fd = shared.open(to.ip(), SocketType::STREAM, None)?;
        match rustix::net::connect(&fd, &to) {
            Ok(()) | Err(io::Errno::INPROGRESS) => {}
            Err(error) => return Err(errno(error)),
        }
        Stream::adopt(shared, fd, token)
    }

    /// A connection that exists.
    pub fn adopt(shared: &Arc<Shared>, fd: OwnedFd, token: u64) -> Result<Stream, Errno> {
        // The guest's stack has decided already what to send when.
        sockopt::set_tcp_nodelay(&fd, true).map_err(errno)?;
        shared.watch(std::os::fd::AsFd::as_fd(&fd), token)?;
        Ok(Stream { fd, shared: Arc::clone(shared), offset: None })
    }

    /// Has the host peek from `skip` on. `false` where it can't.
    fn set_offset(&mut self, skip: usize) -> bool {
        if self.offset == Some(skip) {
            return true;
        }
        if self.shared.peek_offset.load(Ordering::Relaxed) == MISSING {
            return false;
        }
        let Ok(value) = libc::c_int::try_from(skip) else { return false };
        let len = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the option's value is an int, which lives across the call.
        let result = unsafe { libc::setsockopt(self.fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, (&raw const value).cast(), len) };
        let works = result == 0;
        self.shared.peek_offset.store(if works { WORKS } else { MISSING }, Ordering::Relaxed);
        self.offset = works.then_some(skip);
        works
    }

    /// Peeks past `skip` bytes by reading them into nowhere.
    fn peek_over(&self, skip: usize, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut scratch = self.shared.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if scratch.len() < skip {
            scratch.resize(skip, 0);
        }
        let mut once = || {
            let skipped = scratch.get_mut(..skip).unwrap_or_default();
            let mut parts = [io::IoSliceMut::new(skipped), io::IoSliceMut::new(buffer)];
            let mut control = rustix::net::RecvAncillaryBuffer::default();
            rustix::net::recvmsg(&self.fd, &mut parts, &mut control, RecvFlags::PEEK | RecvFlags::DONTWAIT).map_err(errno)
        };
        let len = once()?.bytes;
        if len > skip || skip == 0 {
            return Ok(len - skip);
        }
        // Nothing new: is there more to come? What came before the end was in the socket before it said so.
        let mut ended = [PollFd::new(&self.fd, PollFlags::RDHUP)];
        let at_once = Timespec::default();
        let is_over = poll(&mut ended, Some(&at_once)).is_ok_and(|count| count > 0);
        match once()?.bytes.checked_sub(skip) {
            Some(0) | None if is_over => Ok(0),
            Some(0) | None => Err(Errno::EAGAIN),
            Some(len) => Ok(len),
        }
    }
}

impl HostStream for Stream {
    fn connected(&self) -> Result<(), Errno> {
        sockopt::socket_error(&self.fd).map_err(errno)?.map_err(errno)?;
        match rustix::net::getpeername(&self.fd) {
            Ok(_) => Ok(()),
            Err(io::Errno::NOTCONN) => Err(Errno::EAGAIN),
            Err(error) => Err(errno(error)),
        }
    }

    fn is_local(&self) -> bool {
        is_local(&self.fd)
    }

    fn peek(&mut self, skip: usize, buffer: &mut [u8]) -> Result<usize, Errno> {
        if !self.set_offset(skip) {
            return self.peek_over(skip, buffer);
        }
        let (len, _) = rustix::net::recv(&self.fd, buffer, RecvFlags::PEEK | RecvFlags::DONTWAIT).map_err(errno)?;
        self.offset = Some(skip + len);
        Ok(len)
    }

    fn consume(&mut self, len_bytes: usize) -> Result<(), Errno> {
        // With MSG_TRUNC a TCP socket drops the bytes and writes nothing (tcp(7)): the buffer only has to be long enough.
        let mut scratch = self.shared.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if scratch.len() < len_bytes {
            scratch.resize(len_bytes, 0);
        }
        let mut left = len_bytes;
        while left > 0 {
            let nowhere = scratch.get_mut(..left).unwrap_or_default();
            match rustix::net::recv(&self.fd, nowhere, RecvFlags::TRUNC | RecvFlags::DONTWAIT) {
                // What was peeked at is there, unless the connection broke meanwhile.
                Ok((_, 0)) => return Err(Errno::ECONNRESET),
                Ok((_, taken)) => left = left.saturating_sub(taken),
                Err(io::Errno::INTR) => {}
                Err(error) => return Err(errno(error)),
            }
        }
        drop(scratch);
        // The host's offset counts from what is there, and has moved down by as much.
        self.offset = self.offset.map(|offset| offset.saturating_sub(len_bytes));
        Ok(())
    }

    fn send(&mut self, data: &[u8]) -> Result<usize, Errno> {
        rustix::net::send(&self.fd, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(errno)
    }

    fn unacknowledged(&self) -> Result<usize, Errno> {
        let mut value: libc::c_int = 0;
        // SAFETY: SIOCOUTQ (tcp(7), the same number as TIOCOUTQ) writes one int.
        crate::sys::check(unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut value) })?;
        Ok(usize::try_from(value).unwrap_or(0))
    }

    fn shut_write(&mut self) -> Result<(), Errno> {
        rustix::net::shutdown(&self.fd, Shutdown::Write).map_err(errno)
    }

    fn reset(self: Box<Self>) {
        // Closing with a linger time of nothing sends a reset (socket(7)); if that fails, it is an ordinary end.
        let _ = sockopt::set_socket_linger(&self.fd, Some(Duration::ZERO));
    }
}
