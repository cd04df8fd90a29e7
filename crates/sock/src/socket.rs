//! A socket as a file: what read(2), write(2), poll(2), ioctl(2) and the socket calls do before and after the family's own part.

use crate::message::{MessageFlags, ReceiveRequest, Received, SendRequest};
use crate::options::Options;
use crate::protocol::{Call, How, Protocol};
use crate::sockets::Sockets;
use abi::raw::net as raw;
use abi::{Errno, SysError, SysResult};
use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use sync::Events;
use vfs::{FileOps, IoctlCaller, OpenFile, PollTable, Positioning, Sink, Source};

/// The type of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    Stream,
    Datagram,
    Raw,
    SeqPacket,
}

impl Kind {
    /// From socket(2)'s argument without its flags. ESOCKTNOSUPPORT.
    pub fn from_raw(kind: u32) -> Result<Kind, Errno> {
        Ok(match kind {
            raw::SOCK_STREAM => Kind::Stream,
            raw::SOCK_DGRAM => Kind::Datagram,
            raw::SOCK_RAW => Kind::Raw,
            raw::SOCK_SEQPACKET => Kind::SeqPacket,
            _ => return Err(Errno::ESOCKTNOSUPPORT),
        })
    }
    /// As SO_TYPE tells it.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Kind::Stream => raw::SOCK_STREAM,
            Kind::Datagram => raw::SOCK_DGRAM,
            Kind::Raw => raw::SOCK_RAW,
            Kind::SeqPacket => raw::SOCK_SEQPACKET,
        }
    }
}

/// A socket.
pub struct Socket {
    sockets: &'static Sockets,
    domain: u32,
    kind: Kind,
    protocol_number: i32,
    options: Arc<Options>,
    protocol: Arc<dyn Protocol>,
    ino: AtomicU64,
}

impl Socket {
    pub(crate) fn new(
        sockets: &'static Sockets,
        domain: u32,
        kind: Kind,
        protocol_number: i32,
        options: Arc<Options>,
        protocol: Arc<dyn Protocol>,
    ) -> Arc<Socket> {
        Arc::new(Socket { sockets, domain, kind, protocol_number, options, protocol, ino: AtomicU64::new(0) })
    }
    /// The socket behind an open file. ENOTSOCK.
    pub fn from_file(file: &OpenFile) -> Result<&Socket, Errno> {
        file.ops().downcast::<Socket>().ok_or(Errno::ENOTSOCK)
    }
    /// Its family's own part, if it is a `T`.
    pub(crate) fn protocol<T: Protocol>(&self) -> Option<&T> {
        let any: &dyn Any = &*self.protocol;
        any.downcast_ref()
    }
    pub(crate) fn set_ino(&self, ino: u64) {
        self.ino.store(ino, Ordering::Relaxed);
    }
    /// Its type.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// bind(2).
    pub fn bind(&self, call: &Call<'_>, address: &[u8]) -> SysResult<()> {
        self.protocol.bind(call, address)
    }
    /// connect(2).
    pub fn connect(&self, call: &Call<'_>, address: &[u8]) -> SysResult<()> {
        self.protocol.connect(call, address, self.options.send_patience(call.file.is_nonblocking()))
    }
    /// listen(2).
    pub fn listen(&self, backlog: i32) -> SysResult<()> {
        self.protocol.listen(backlog)
    }
    /// accept(2): the new socket; [`Socket::peer_name`] of it is the address to tell.
    pub fn accept(&self, file: &OpenFile) -> SysResult<Arc<Socket>> {
        self.protocol.accept(self.options.receive_patience(file.is_nonblocking()))
    }
    /// getsockname(2).
    pub fn name(&self) -> Result<Vec<u8>, Errno> {
        self.protocol.name()
    }
    /// getpeername(2).
    pub fn peer_name(&self) -> Result<Vec<u8>, Errno> {
        self.protocol.peer_name()
    }
    /// shutdown(2).
    pub fn shutdown(&self, how: How) -> Result<(), Errno> {
        self.protocol.shutdown(how)
    }
    /// send(2), sendto(2), sendmsg(2).
    pub fn send(&self, call: &Call<'_>, request: SendRequest<'_>, source: &mut dyn Source) -> SysResult<usize> {
        let nonblocking = request.flags.contains(MessageFlags::DONTWAIT) || call.file.is_nonblocking();
        self.protocol.send(Some(call), self.options.send_patience(nonblocking), request, source)
    }
    /// recv(2), recvfrom(2), recvmsg(2).
    pub fn receive(&self, file: &OpenFile, request: ReceiveRequest, sink: &mut dyn Sink) -> SysResult<Received> {
        let nonblocking = request.flags.contains(MessageFlags::DONTWAIT) || file.is_nonblocking();
        self.protocol.receive(self.options.receive_patience(nonblocking), request, sink)
    }
    /// The process at the other end of a local socket, as [`crate::Identity`] had it: SO_PEERPIDFD. ENOPROTOOPT for other families, ENODATA
    /// without a peer.
    pub fn peer_process(&self) -> Result<Weak<dyn Any + Send + Sync>, Errno> {
        let socket = self.protocol::<crate::unix::UnixSocket>().ok_or(Errno::ENOPROTOOPT)?;
        Ok(socket.peer_owner().ok_or(Errno::ENODATA)?.process)
    }
    /// setsockopt(2). `is_admin`: the caller has CAP_NET_ADMIN.
    pub fn set_option(&self, level: i32, name: i32, value: &[u8], is_admin: bool) -> Result<(), Errno> {
        if level == raw::SOL_SOCKET as i32
            && let Some(result) = self.options.set(name as u32, value, is_admin)
        {
            if result.is_ok() {
                self.protocol.changed(name as u32);
            }
            return result;
        }
        self.protocol.set_option(level, name, value)
    }
    /// getsockopt(2): the option's whole value.
    pub fn option(&self, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
        let number = |number: i32| Ok(number.to_ne_bytes().to_vec());
        if level == raw::SOL_SOCKET as i32 {
            match name as u32 {
                raw::SO_TYPE => return number(self.kind.number() as i32),
                raw::SO_DOMAIN => return number(self.domain as i32),
                raw::SO_PROTOCOL => return number(self.protocol_number),
                raw::SO_ERROR => return number(self.protocol.take_error().map_or(0, |errno| errno.raw())),
                raw::SO_ACCEPTCONN => return number(self.protocol.is_listening().into()),
                raw::SO_COOKIE => return Ok(self.ino.load(Ordering::Relaxed).to_ne_bytes().to_vec()),
                name => {
                    if let Some(value) = self.options.get(name) {
                        return Ok(value);
                    }
                }
            }
        }
        self.protocol.option(level, name)
    }
}

impl FileOps for Socket {
    fn positioning(&self) -> Positioning {
        Positioning::Stream
    }
    fn read(&self, file: &OpenFile, _: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        // `sock_read_iter`: reading nothing is not receiving nothing.
        if sink.room() == 0 {
            return Ok(0);
        }
        let patience = self.options.receive_patience(file.is_nonblocking());
        // Descriptors that came with the data are lost, as nobody asked for them.
        Ok(self.protocol.receive(patience, ReceiveRequest::default(), sink)?.len)
    }
    fn write(&self, file: &OpenFile, _: &mut u64, source: &mut dyn Source) -> SysResult<usize> {
        let patience = self.options.send_patience(file.is_nonblocking());
        self.protocol.send(None, patience, SendRequest::default(), source)
    }
    fn raises_sigpipe(&self) -> bool {
        self.protocol.raises_sigpipe()
    }
    fn can_poll(&self) -> bool {
        true
    }
    fn poll(&self, _: &OpenFile, table: Option<&mut PollTable>) -> Events {
        self.protocol.poll(table)
    }
    fn ioctl(&self, _: &OpenFile, caller: &IoctlCaller<'_>, command: u32, argument: u64) -> SysResult<i64> {
        match self.protocol.ioctl(caller, command, argument) {
            Err(SysError::Errno(Errno::ENOTTY)) if crate::interface::is_for_interfaces(command) => {
                crate::interface::ioctl(self.sockets.network(), caller, command, argument)
            }
            other => other,
        }
    }
    fn release(&self, _: &OpenFile) {
        self.protocol.release();
    }
}
