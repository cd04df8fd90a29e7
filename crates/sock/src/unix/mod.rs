//! Local sockets, unix(7).
//!
//! * `endpoint`: what others may refer to; `queue`: the data in it.
//! * `socket`: names, connections, shutdown, readiness; `stream` and `datagram`: sending and receiving.
//! * `name`: addresses; `rights`: descriptors in flight.

mod datagram;
mod endpoint;
mod name;
mod queue;
mod rights;
mod socket;
mod stream;
#[cfg(test)]
mod tests;
mod turn;

pub(crate) use name::Names;
pub(crate) use rights::Flight;
pub use rights::SCM_MAX_FD;

use crate::options::Options;
use crate::socket::{Kind, Socket};
use crate::sockets::Sockets;
use abi::Errno;
use abi::raw::net::AF_UNIX;
pub(crate) use socket::UnixSocket;
use std::sync::Arc;

fn kind_for(kind: Kind, protocol: i32) -> Result<Kind, Errno> {
    if protocol != 0 && protocol != AF_UNIX as i32 {
        return Err(Errno::EPROTONOSUPPORT);
    }
    // `unix_create`: raw sockets are datagram sockets.
    Ok(if kind == Kind::Raw { Kind::Datagram } else { kind })
}

fn wrap(socket: Arc<UnixSocket>) -> Arc<Socket> {
    let endpoint = socket.endpoint();
    Socket::new(endpoint.sockets, AF_UNIX, endpoint.kind, 0, endpoint.options.clone(), socket)
}

/// socket(2).
pub(crate) fn create(sockets: &'static Sockets, kind: Kind, protocol: i32) -> Result<Arc<Socket>, Errno> {
    Ok(wrap(UnixSocket::new(sockets, kind_for(kind, protocol)?, Arc::new(Options::default()))?))
}

/// socketpair(2).
pub(crate) fn pair(sockets: &'static Sockets, kind: Kind, protocol: i32) -> Result<(Arc<Socket>, Arc<Socket>), Errno> {
    let kind = kind_for(kind, protocol)?;
    let make = || UnixSocket::new(sockets, kind, Arc::new(Options::default()));
    let (a, b) = (make()?, make()?);
    UnixSocket::join(&a, &b);
    Ok((wrap(a), wrap(b)))
}
