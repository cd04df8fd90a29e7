//! What a protocol family does for a socket: Linux's `struct proto_ops`.

use crate::message::{ReceiveRequest, Received, SendRequest};
use crate::patience::Patience;
use abi::{Errno, SysResult};
use std::any::Any;
use std::sync::Arc;
use sync::Events;
use vfs::{Caller, IoctlCaller, OpenFile, PollTable, Sink, Source};

/// Who calls, for what leads through the tree of names.
pub struct Call<'a> {
    pub caller: Caller<'a>,
    /// The socket's own file.
    pub file: &'a OpenFile,
}

/// What shutdown(2) shuts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    Receive,
    Send,
    Both,
}

impl How {
    /// From shutdown's argument.
    #[must_use]
    pub fn from_raw(how: i32) -> Option<How> {
        Some(match how {
            0 => How::Receive,
            1 => How::Send,
            2 => How::Both,
            _ => return None,
        })
    }
    pub(crate) fn receives(self) -> bool {
        self != How::Send
    }
    pub(crate) fn sends(self) -> bool {
        self != How::Receive
    }
}

/// A family's socket. Addresses are `struct sockaddr` as bytes; what the guest gave has at least a family and at most 128 bytes.
pub(crate) trait Protocol: Any + Send + Sync {
    /// bind(2).
    fn bind(&self, _call: &Call<'_>, _address: &[u8]) -> SysResult<()> {
        Err(Errno::EOPNOTSUPP.into())
    }
    /// connect(2).
    fn connect(&self, _call: &Call<'_>, _address: &[u8], _patience: Patience) -> SysResult<()> {
        Err(Errno::EOPNOTSUPP.into())
    }
    /// listen(2).
    fn listen(&self, _backlog: i32) -> SysResult<()> {
        Err(Errno::EOPNOTSUPP.into())
    }
    /// accept(2).
    fn accept(&self, _patience: Patience) -> SysResult<Arc<crate::Socket>> {
        Err(Errno::EOPNOTSUPP.into())
    }
    /// getsockname(2).
    fn name(&self) -> Result<Vec<u8>, Errno>;
    /// getpeername(2).
    fn peer_name(&self) -> Result<Vec<u8>, Errno>;
    /// shutdown(2).
    fn shutdown(&self, how: How) -> Result<(), Errno>;
    /// Sends. The caller raises SIGPIPE.
    fn send(&self, call: Option<&Call<'_>>, patience: Patience, request: SendRequest<'_>, source: &mut dyn Source) -> SysResult<usize>;
    /// Receives.
    fn receive(&self, patience: Patience, request: ReceiveRequest, sink: &mut dyn Sink) -> SysResult<Received>;
    /// Readiness.
    fn poll(&self, table: Option<&mut PollTable>) -> Events;
    /// An option of level SOL_SOCKET that `Options` keeps has changed.
    fn changed(&self, _name: u32) {}
    /// setsockopt(2) but for what `Options` keeps. ENOPROTOOPT.
    fn set_option(&self, _level: i32, _name: i32, _value: &[u8]) -> Result<(), Errno> {
        Err(Errno::ENOPROTOOPT)
    }
    /// getsockopt(2) but for what `Options` keeps. ENOPROTOOPT.
    fn option(&self, _level: i32, _name: i32) -> Result<Vec<u8>, Errno> {
        Err(Errno::ENOPROTOOPT)
    }
    /// SO_ERROR: the pending error, which is none after that.
    fn take_error(&self) -> Option<Errno>;
    /// SO_ACCEPTCONN.
    fn is_listening(&self) -> bool {
        false
    }
    /// Whether an EPIPE comes with SIGPIPE.
    fn raises_sigpipe(&self) -> bool {
        false
    }
    /// ioctl(2). ENOTTY.
    fn ioctl(&self, _caller: &IoctlCaller<'_>, _command: u32, _argument: u64) -> SysResult<i64> {
        Err(Errno::ENOTTY.into())
    }
    /// The descriptor is gone.
    fn release(&self);
}
