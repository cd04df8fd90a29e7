//! Sockets of the host, for the translation of a guest's traffic that needs no privileges (`usernet`).
//!
//! Every call answers at once. What would wait answers EAGAIN, and [`HostNetwork::take_ready`] names the socket later, by the token that it was
//! made with.

use abi::Errno;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use sync::Observer;

bitflags::bitflags! {
    /// What may have become possible at a socket.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct SocketReady: u8 {
        /// Data, a connection to accept, or the end of the stream.
        const READ = 1;
        /// Room, or the end of connecting.
        const WRITE = 2;
        /// The peer sends no more, or the socket failed.
        const HANGUP = 4;
    }
}

/// Where the host's routing table leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Out of the host, to one station.
    Remote,
    /// To the host itself, whatever the address looks like.
    Local,
    /// To everybody on a network, or to a group.
    Group,
    /// Nowhere.
    Nowhere,
}

/// The host's network, as an ordinary process may use it.
pub trait HostNetwork: Send + Sync {
    /// Begins a TCP connection. [`HostStream::connected`] tells how it went.
    fn connect(&self, to: SocketAddr, token: u64) -> Result<Box<dyn HostStream>, Errno>;
    /// Listens for TCP connections.
    fn listen(&self, at: SocketAddr, token: u64) -> Result<Box<dyn HostListener>, Errno>;
    /// A UDP socket that speaks with `to` only.
    fn connect_datagram(&self, to: SocketAddr, token: u64) -> Result<Box<dyn HostDatagram>, Errno>;
    /// A UDP socket at an address of the host.
    fn bind_datagram(&self, at: SocketAddr, token: u64) -> Result<Box<dyn HostDatagram>, Errno>;
    /// A ping socket (icmp(7)) towards `to`: its messages are ICMP echo requests and replies, with an identifier that the host chooses. EACCES
    /// where `net.ipv4.ping_group_range` does not include us.
    fn connect_echo(&self, to: IpAddr, token: u64) -> Result<Box<dyn HostDatagram>, Errno>;
    /// Where packets to `to` would go.
    fn reach(&self, to: IpAddr) -> Reach;
    /// The host's name servers now, in order (resolv.conf(5)).
    fn resolvers(&self) -> Vec<SocketAddr>;
    /// Adds the sockets that became ready since the last call, each at most once for each change.
    fn take_ready(&self, into: &mut Vec<(u64, SocketReady)>);
    /// Has the observer told once, when the next socket becomes ready or one already is. To be called before every sleep.
    fn arm(&self);
    /// Who is told.
    fn observe(&self, observer: Arc<dyn Observer>);
}

/// A TCP connection of the host. Dropping it closes it.
pub trait HostStream: Send {
    /// EAGAIN while it still connects; then `Ok`, or why not.
    fn connected(&self) -> Result<(), Errno>;
    /// Whether it leads from the host to the host itself.
    fn is_local(&self) -> bool;
    /// Reads from `skip` bytes behind the first that has not been consumed, and leaves everything where it is; 0 at the end of the stream.
    fn peek(&mut self, skip: usize, buffer: &mut [u8]) -> Result<usize, Errno>;
    /// Takes away bytes that have been peeked at.
    fn consume(&mut self, len_bytes: usize) -> Result<(), Errno>;
    /// Sends what there is room for.
    fn send(&mut self, data: &[u8]) -> Result<usize, Errno>;
    /// How much of what was sent, the end of the stream counted as one byte, the peer has not acknowledged yet.
    fn unacknowledged(&self) -> Result<usize, Errno>;
    /// Nothing more will be sent.
    fn shut_write(&mut self) -> Result<(), Errno>;
    /// Ends it as if it broke: the peer sees a reset.
    fn reset(self: Box<Self>);
}

/// A listening TCP socket of the host. Dropping it closes it.
pub trait HostListener: Send {
    /// Where it listens, with the port that the host chose if it was to.
    fn address(&self) -> SocketAddr;
    /// The next connection and who made it. EAGAIN when there is none.
    fn accept(&self, token: u64) -> Result<(Box<dyn HostStream>, SocketAddr), Errno>;
}

/// A datagram socket of the host. Dropping it closes it.
pub trait HostDatagram: Send {
    /// Where it is bound.
    fn address(&self) -> SocketAddr;
    /// Whether it leads from the host to the host itself.
    fn is_local(&self) -> bool;
    /// The next datagram and its sender. Errors that a connected socket learns of by ICMP come out here or in [`HostDatagram::send`]: ECONNREFUSED,
    /// EHOSTUNREACH.
    fn receive(&self, buffer: &mut [u8]) -> Result<(usize, SocketAddr), Errno>;
    /// Sends one datagram, to `to` if the socket is not connected.
    fn send(&self, data: &[u8], to: Option<SocketAddr>) -> Result<(), Errno>;
}
