//! Internet sockets: UDP, TCP, ping and raw sockets over the machine's network stack, ip(7), udp(7), tcp(7).
//!
//! What it is not: the protocols (`net`), or interfaces (`interface`).
//!
//! Always true: the stack never waits; whoever would block sleeps on the socket's queue and asks it again.

pub(crate) mod address;
mod datagram;
mod options;
mod tcp;

use crate::message::{MessageFlags, ReceiveRequest, Received, SendRequest};
use crate::network::{Network, events, unless_again};
use crate::options::Options;
use crate::patience::Patience;
use crate::protocol::{Call, How, Protocol};
use crate::socket::{Kind, Socket};
use crate::sockets::Sockets;
use abi::raw::net as raw;
use abi::{Errno, SysResult};
use net::datagram::Kind as DatagramKind;
use net::tcp::State;
use net::{Endpoint, Family, SocketId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use sync::{Events, WaitQueue};
use vfs::{Capability, IoctlCaller, PollTable, Sink, Source};

/// Bytes charged for a socket: the stack's part, its queue, options, file operations.
const SOCKET_COST: usize = 3072;

/// Which protocol a socket speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Which {
    Tcp,
    Datagram(DatagramKind),
}

/// See the module.
pub(crate) struct InetSocket {
    pub sockets: &'static Sockets,
    pub network: &'static Network,
    pub id: SocketId,
    pub which: Which,
    pub family: Family,
    pub options: Arc<Options>,
    pub queue: Arc<WaitQueue>,
    /// Which control messages are wanted, a bit for each.
    asked: AtomicU32,
    released: AtomicBool,
    _charge: ram::Charge,
}

fn which(sockets: &Sockets, family: Family, kind: Kind, protocol: i32) -> Result<(Which, i32), Errno> {
    const IP: i32 = 0;
    const ICMP: i32 = 1;
    const TCP: i32 = 6;
    const UDP: i32 = 17;
    const ICMPV6: i32 = 58;
    if !(0..256).contains(&protocol) {
        return Err(Errno::EINVAL);
    }
    match (kind, protocol) {
        (Kind::Stream, IP | TCP) => Ok((Which::Tcp, TCP)),
        (Kind::Datagram, IP | UDP) => Ok((Which::Datagram(DatagramKind::Udp), UDP)),
        // `ping_group_range` is empty at first, so nobody may.
        (Kind::Datagram, ICMP) if family == Family::V4 => Err(Errno::EACCES),
        (Kind::Datagram, ICMPV6) if family == Family::V6 => Err(Errno::EACCES),
        (Kind::Raw, protocol) if protocol != IP => {
            sockets.who().credentials.require(Capability::NET_RAW)?;
            Ok((Which::Datagram(DatagramKind::Raw(protocol as u8)), protocol))
        }
        (Kind::SeqPacket, _) => Err(Errno::ESOCKTNOSUPPORT),
        _ => Err(Errno::EPROTONOSUPPORT),
    }
}

/// socket(2) of AF_INET and AF_INET6.
pub(crate) fn create(sockets: &'static Sockets, family: Family, kind: Kind, protocol: i32) -> Result<Arc<Socket>, Errno> {
    let (which, protocol) = which(sockets, family, kind, protocol)?;
    let charge = sockets.ram.charge(SOCKET_COST)?;
    let network = sockets.network();
    let owner = sockets.who().credentials.euid;
    let id = network.look(|stack| match which {
        Which::Tcp => {
            let id = stack.tcp_open(family);
            if let Some(socket) = stack.tcp_mut(id) {
                socket.options.owner = owner;
            }
            id
        }
        Which::Datagram(kind) => {
            let id = stack.datagram_open(kind, family);
            if let Some(socket) = stack.datagram_mut(id) {
                socket.owner = owner;
            }
            id
        }
    });
    Ok(InetSocket::wrap(sockets, network, id, which, family, kind, protocol, charge))
}

impl InetSocket {
    #[allow(clippy::too_many_arguments, reason = "all that a socket is made of, at its two births")]
    fn wrap(
        sockets: &'static Sockets,
        network: &'static Network,
        id: SocketId,
        which: Which,
        family: Family,
        kind: Kind,
        protocol: i32,
        charge: ram::Charge,
    ) -> Arc<Socket> {
        let options = Arc::new(Options::default());
        let (send, receive) = network
            .look(|stack| match which {
                Which::Tcp => stack.tcp(id).map(|tcp| (tcp.options.send_limit, tcp.options.receive_limit)),
                Which::Datagram(_) => stack.datagram(id).map(|socket| (socket.send_limit, socket.receive_limit)),
            })
            .unwrap_or_default();
        options.send_buffer.store(send, Ordering::Relaxed);
        options.receive_buffer.store(receive, Ordering::Relaxed);
        let queue = network.watch(id);
        let released = AtomicBool::new(false);
        let socket = InetSocket {
            sockets,
            network,
            id,
            which,
            family,
            options: options.clone(),
            queue,
            asked: AtomicU32::new(0),
            released,
            _charge: charge,
        };
        let domain = if family == Family::V4 { raw::AF_INET } else { raw::AF_INET6 };
        Socket::new(sockets, domain, kind, protocol, options, Arc::new(socket))
    }

    /// Waits until `attempt` gives something else than EAGAIN.
    pub fn retry<R>(&self, patience: Patience, mut attempt: impl FnMut(&mut net::Stack) -> Result<R, Errno>) -> SysResult<R> {
        Ok(patience.wait(&self.queue, || unless_again(self.network.with(&mut attempt)))??)
    }

    fn is_tcp(&self) -> bool {
        self.which == Which::Tcp
    }
    fn state(&self) -> State {
        self.network.look(|stack| stack.tcp(self.id).map_or(State::Closed, |tcp| tcp.state()))
    }

    /// Takes over what accept gave.
    fn accepted(&self, id: SocketId) -> Result<Arc<Socket>, Errno> {
        let charge = self.sockets.ram.charge(SOCKET_COST).inspect_err(|_| self.network.with(|stack| stack.tcp_close(id)))?;
        Ok(InetSocket::wrap(self.sockets, self.network, id, Which::Tcp, self.family, Kind::Stream, 6, charge))
    }
}

impl Drop for InetSocket {
    fn drop(&mut self) {
        self.release();
    }
}

impl Protocol for InetSocket {
    fn bind(&self, _: &Call<'_>, address: &[u8]) -> SysResult<()> {
        let to = match address::parse(self.family, address) {
            Err(Errno::EAFNOSUPPORT) => address::unspecified(self.family, address)?,
            other => other?,
        };
        let start = self.network.look(|stack| stack.config.unprivileged_port_start);
        if to.port != 0 && to.port < start && !self.sockets.who().credentials.has(Capability::NET_BIND_SERVICE) {
            return Err(Errno::EACCES.into());
        }
        Ok(self.network.with(|stack| if self.is_tcp() { stack.tcp_bind(self.id, to) } else { stack.datagram_bind(self.id, to) })?)
    }
    fn connect(&self, _: &Call<'_>, address: &[u8], patience: Patience) -> SysResult<()> {
        if self.is_tcp() {
            return self.connect_tcp(address, patience);
        }
        if address::family(address) == raw::AF_UNSPEC {
            return Ok(self.network.with(|stack| stack.datagram_connect(self.id, None))?);
        }
        let to = address::parse(self.family, address)?;
        Ok(self.network.with(|stack| stack.datagram_connect(self.id, Some(to)))?)
    }
    fn listen(&self, backlog: i32) -> SysResult<()> {
        if !self.is_tcp() {
            return Err(Errno::EOPNOTSUPP.into());
        }
        Ok(self.network.with(|stack| stack.tcp_listen(self.id, (backlog as u32 as usize).min(4096)))?)
    }
    fn accept(&self, patience: Patience) -> SysResult<Arc<Socket>> {
        if !self.is_tcp() {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let id = self.retry(patience, |stack| stack.tcp_accept(self.id))?;
        Ok(self.accepted(id)?)
    }
    fn name(&self) -> Result<Vec<u8>, Errno> {
        let local = self.network.look(|stack| {
            let tcp = stack.tcp(self.id).map(|socket| socket.local());
            tcp.or_else(|| stack.datagram(self.id).map(|socket| socket.local()))
        });
        Ok(address::format(self.family, local.unwrap_or_else(|| Endpoint::any(self.family))))
    }
    fn peer_name(&self) -> Result<Vec<u8>, Errno> {
        let remote = self.network.look(|stack| match self.which {
            Which::Tcp => stack.tcp(self.id).ok_or(Errno::ENOTCONN)?.remote(),
            Which::Datagram(_) => stack.datagram(self.id).ok_or(Errno::ENOTCONN)?.remote(),
        })?;
        Ok(address::format(self.family, remote))
    }
    fn shutdown(&self, how: How) -> Result<(), Errno> {
        let (read, write) = (how.receives(), how.sends());
        let result = self.network.with(|stack| match self.which {
            Which::Tcp => stack.tcp_shutdown(self.id, read, write),
            Which::Datagram(_) => stack.datagram_shutdown(self.id, read, write),
        });
        self.queue.notify(Events::IN | Events::OUT | Events::HUP | Events::RDHUP);
        result
    }
    fn send(&self, _: Option<&Call<'_>>, patience: Patience, request: SendRequest<'_>, source: &mut dyn Source) -> SysResult<usize> {
        let result = if self.is_tcp() { self.send_tcp(patience, &request, source) } else { self.send_datagram(patience, &request, source) };
        self.network.settle();
        result
    }
    fn receive(&self, patience: Patience, request: ReceiveRequest, sink: &mut dyn Sink) -> SysResult<Received> {
        if request.flags.contains(MessageFlags::ERRQUEUE) {
            return self.receive_error(request, sink);
        }
        let result = if self.is_tcp() { self.receive_tcp(patience, request, sink) } else { self.receive_datagram(patience, request, sink) };
        self.network.settle();
        result
    }
    fn poll(&self, table: Option<&mut PollTable>) -> Events {
        if let Some(table) = table {
            table.listen(&self.queue);
        }
        let ready = self.network.look(|stack| match self.which {
            Which::Tcp => stack.tcp(self.id).map(|socket| socket.ready()),
            Which::Datagram(_) => stack.datagram(self.id).map(|socket| socket.ready()),
        });
        ready.map_or(Events::ERR | Events::HUP, events)
    }
    fn changed(&self, name: u32) {
        self.apply(name);
    }
    fn set_option(&self, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        self.set(level, name, value)
    }
    fn option(&self, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
        self.get(level, name)
    }
    fn take_error(&self) -> Option<Errno> {
        self.network.look(|stack| match self.which {
            Which::Tcp => stack.tcp_mut(self.id)?.take_error(),
            Which::Datagram(_) => stack.datagram_mut(self.id)?.take_error(),
        })
    }
    fn is_listening(&self) -> bool {
        self.is_tcp() && self.state() == State::Listen
    }
    fn raises_sigpipe(&self) -> bool {
        self.is_tcp()
    }
    fn ioctl(&self, caller: &IoctlCaller<'_>, command: u32, argument: u64) -> SysResult<i64> {
        const SIOCINQ: u32 = 0x541b;
        const SIOCOUTQ: u32 = 0x5411;
        const SIOCATMARK: u32 = 0x8905;
        let answer = self.network.look(|stack| match (self.which, command) {
            (Which::Tcp, SIOCINQ) if stack.tcp(self.id).is_some_and(|t| t.state() == State::Listen) => Err(Errno::EINVAL),
            (Which::Tcp, SIOCINQ) => Ok(stack.tcp(self.id).map_or(0, |tcp| tcp.readable())),
            (Which::Tcp, SIOCOUTQ) => Ok(stack.tcp(self.id).map_or(0, |tcp| tcp.unacknowledged())),
            (Which::Tcp, SIOCATMARK) => Ok(stack.tcp(self.id).is_some_and(|tcp| tcp.at_mark()).into()),
            (Which::Datagram(_), SIOCINQ) => Ok(stack.datagram(self.id).map_or(0, |socket| socket.next_len())),
            (Which::Datagram(_), SIOCOUTQ) => Ok(0),
            _ => Err(Errno::ENOTTY),
        })?;
        caller.memory.write_all(argument, &(answer as i32).to_ne_bytes())?;
        Ok(0)
    }
    fn release(&self) {
        if self.released.swap(true, Ordering::AcqRel) {
            return;
        }
        match self.which {
            Which::Tcp => self.close_tcp(),
            Which::Datagram(_) => self.network.with(|stack| stack.datagram_close(self.id)),
        }
        self.network.unwatch(self.id);
        self.network.settle();
    }
}
