//! TCP (RFC 9293 and what it names): the tables of sockets, and who gets a segment.
//!
//! The rooms: `socket` is one connection's state and the calls of its user; `input` and `ack` what a segment does to it, `rack` how losses are
//! found, `output` what is sent, `timer` what time does, `congestion` and `rtt` how much and how fast, `send` and `receive` the bytes;
//! `listen` is half-open connections and cookies, `time_wait` what is left of closed ones.
//!
//! Always true: after every call that touches a socket, [`Tcp::settle`] puts its timers, its memory charge and its place in the tables right.

mod ack;
pub mod congestion;
mod input;
mod listen;
mod output;
mod rack;
pub(crate) mod receive;
pub mod rtt;
mod send;
pub mod seq;
mod socket;
mod time_wait;
mod timer;
mod user;

use core::net::IpAddr;
use std::collections::BTreeMap;

use abi::Errno;

use crate::core::{Core, IcmpError, IpInfo, Ready, SocketId};
use crate::datagram::{Endpoint, is_loopback_net, overlap};
use crate::frame::is_trusted;
use crate::interface::InterfaceId;
use crate::ip::SendOptions;
use crate::packet::Packet;
use crate::prefix::{Family, is_link_local};
use crate::route::{Query, RouteKind};
use crate::timers::Timers;
use crate::wire::checksum::Sum;
use crate::wire::protocol;
use crate::wire::tcp::{Flags, TcpHeader};

pub use socket::{Options, State, TcpInfo, TcpSocket};
pub use user::{ReceiveCall, SendCall};

use listen::ListenAnswer;
use time_wait::{TimeWait, TimeWaitAnswer};

/// Both ends of a connection, and the interface when an address is link-local.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Quad {
    /// Our address.
    pub local: IpAddr,
    /// Our port.
    pub local_port: u16,
    /// Their address.
    pub remote: IpAddr,
    /// Their port.
    pub remote_port: u16,
    /// Where a link-local peer is.
    pub scope: InterfaceId,
}

impl Quad {
    fn of(info: &IpInfo, header: &TcpHeader) -> Quad {
        Quad {
            local: info.dst,
            local_port: header.dst_port,
            remote: info.src,
            remote_port: header.src_port,
            scope: crate::ip::icmp::scoped(info.src, info.interface),
        }
    }

    fn remote_endpoint(&self) -> Endpoint {
        Endpoint { address: self.remote, port: self.remote_port, interface: self.scope }
    }

    fn local_endpoint(&self) -> Endpoint {
        Endpoint { address: self.local, port: self.local_port, interface: self.scope }
    }
}

/// All TCP sockets of a stack.
#[derive(Default)]
pub struct Tcp {
    sockets: BTreeMap<SocketId, TcpSocket>,
    connections: BTreeMap<Quad, SocketId>,
    bound: BTreeMap<u16, Vec<SocketId>>,
    listeners: BTreeMap<u16, Vec<SocketId>>,
    time_waits: BTreeMap<Quad, TimeWait>,
    time_wait_timers: Timers<Quad>,
    timers: Timers<SocketId>,
    orphans: usize,
}

impl Tcp {
    pub(crate) fn get(&self, id: SocketId) -> Option<&TcpSocket> {
        self.sockets.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: SocketId) -> Option<&mut TcpSocket> {
        self.sockets.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (SocketId, &TcpSocket)> {
        self.sockets.iter().map(|(id, socket)| (*id, socket))
    }

    pub(crate) fn time_waits(&self) -> usize {
        self.time_waits.len()
    }

    /// A segment for this machine.
    pub(crate) fn input(&mut self, core: &mut Core, mut packet: Packet, info: &IpInfo) {
        core.statistics.tcp.in_segments += 1;
        if info.kind != RouteKind::Local {
            return;
        }
        let bytes = packet.bytes().get(info.transport..).unwrap_or_default();
        let Ok((header, data_at)) = TcpHeader::parse(bytes) else {
            core.statistics.tcp.in_errors += 1;
            return;
        };
        if !is_trusted(&packet) && !Sum::pseudo(info.src, info.dst, protocol::TCP, bytes.len()).with(bytes).is_valid() {
            core.statistics.tcp.in_checksum_errors += 1;
            core.statistics.tcp.in_errors += 1;
            return;
        }
        packet.pull(info.transport + data_at);
        let quad = Quad::of(info, &header);
        if let Some(&id) = self.connections.get(&quad) {
            if let Some(socket) = self.sockets.get_mut(&id) {
                socket.input(core, &header, packet);
            }
            self.settle(core, id);
            return;
        }
        if let Some(waiting) = self.time_waits.get_mut(&quad) {
            match waiting.input(core, &quad, &header, packet.len()) {
                TimeWaitAnswer::Done => return,
                TimeWaitAnswer::Restart(at_ns) => return self.time_wait_timers.set(quad, Some(at_ns)),
                TimeWaitAnswer::Kill => return self.forget_time_wait(&quad),
                TimeWaitAnswer::NewConnection if self.listener_for(&quad, info.interface).is_some() => self.forget_time_wait(&quad),
                TimeWaitAnswer::NewConnection => {}
            }
        }
        match self.listener_for(&quad, info.interface) {
            Some(listener) => self.listener_input(core, listener, quad, &header, packet, info),
            None => send_reset(core, &quad, &header, packet.len()),
        }
    }

    fn listener_input(&mut self, core: &mut Core, id: SocketId, quad: Quad, header: &TcpHeader, packet: Packet, info: &IpInfo) {
        let Some(listener) = self.sockets.get_mut(&id) else { return };
        match listener.listen_input(core, quad, header, packet.len(), info) {
            ListenAnswer::Done => {}
            ListenAnswer::Reset => send_reset(core, &quad, header, packet.len()),
            ListenAnswer::Connected(mut child) => {
                let child_id = core.new_socket_id();
                child.id = child_id;
                child.input(core, header, packet);
                self.connections.insert(quad, child_id);
                self.bound.entry(quad.local_port).or_default().push(child_id);
                self.sockets.insert(child_id, *child);
                if let Some(listener) = self.sockets.get_mut(&id) {
                    listener.accepted(child_id);
                }
                core.wake(id, Ready::IN);
                self.settle(core, child_id);
            }
        }
        self.settle(core, id);
    }

    /// The listener for a connection: bound to the address rather than to any, to the device rather than to none; a shared port by flow.
    fn listener_for(&self, quad: &Quad, interface: InterfaceId) -> Option<SocketId> {
        let ids = self.listeners.get(&quad.local_port)?;
        let fits = |id: &&SocketId| self.sockets.get(id).is_some_and(|socket| socket.listens_at(quad.local, interface));
        let score = |id: &SocketId| self.sockets.get(id).map_or(0, TcpSocket::binding_score);
        let best = ids.iter().filter(fits).map(score).max()?;
        let equal: Vec<SocketId> = ids.iter().filter(fits).filter(|id| score(id) == best).copied().collect();
        let flow = crate::random::siphash([quad.remote_port.into(), 0], &quad.local_port.to_be_bytes());
        equal.get(flow as usize % equal.len()).copied()
    }

    /// Puts right what a call may have changed.
    pub(crate) fn settle(&mut self, core: &mut Core, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let cost = socket.cost();
        core.memory_bytes = core.memory_bytes.saturating_add(cost).saturating_sub(socket.charged);
        socket.charged = cost;
        if let Some(waiting) = socket.time_wait.take() {
            self.begin_time_wait(core, waiting);
        }
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        if socket.state == State::Closed
            && let Some(quad) = socket.hashed.take()
        {
            self.connections.remove(&quad);
        }
        if socket.state == State::Closed && socket.orphan {
            self.drop_socket(core, id);
            return;
        }
        self.timers.set(id, socket.next_deadline());
    }

    fn drop_socket(&mut self, core: &mut Core, id: SocketId) {
        let Some(socket) = self.sockets.remove(&id) else { return };
        if socket.orphan {
            self.orphans = self.orphans.saturating_sub(1);
        }
        core.memory_bytes = core.memory_bytes.saturating_sub(socket.charged);
        if let Some(quad) = socket.hashed {
            self.connections.remove(&quad);
        }
        self.timers.set(id, None);
        for table in [&mut self.bound, &mut self.listeners] {
            if let Some(ids) = table.get_mut(&socket.local.port) {
                ids.retain(|there| *there != id);
                if ids.is_empty() {
                    table.remove(&socket.local.port);
                }
            }
        }
        core.forget_ready(id);
    }

    fn begin_time_wait(&mut self, core: &mut Core, waiting: TimeWait) {
        if self.time_waits.len() >= core.config.tcp.max_time_wait {
            return;
        }
        core.statistics.tcp.time_waits += 1;
        let quad = waiting.quad;
        self.time_wait_timers.set(quad, Some(core.now_ns + time_wait::LENGTH_NS));
        self.time_waits.insert(quad, waiting);
        // The socket's place in the table is free for the next connection.
        self.connections.remove(&quad);
    }

    fn forget_time_wait(&mut self, quad: &Quad) {
        self.time_waits.remove(quad);
        self.time_wait_timers.set(*quad, None);
    }

    /// Runs timers that are due.
    pub(crate) fn poll(&mut self, core: &mut Core) {
        for id in self.timers.take_due(core.now_ns) {
            if let Some(socket) = self.sockets.get_mut(&id) {
                socket.on_time(core);
            }
            self.settle(core, id);
        }
        while let Some(quad) = self.time_wait_timers.pop_due(core.now_ns) {
            self.time_waits.remove(&quad);
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        [self.timers.next(), self.time_wait_timers.next()].into_iter().flatten().min()
    }

    /// An ICMP error about a segment of ours.
    pub(crate) fn icmp_error(&mut self, core: &mut Core, error: &IcmpError) {
        let Some((local_port, remote_port)) = crate::ip::icmp::quoted_ports(error) else { return };
        let Some(seq) = crate::wire::be32(&error.quoted, 4) else { return };
        let scope = crate::ip::icmp::scoped(error.remote, error.interface);
        let quad = Quad { local: error.local, local_port, remote: error.remote, remote_port, scope };
        let Some(&id) = self.connections.get(&quad) else { return };
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.icmp_error(core, error, seq::Seq(seq));
        }
        self.settle(core, id);
    }

    /// bind(2).
    pub(crate) fn bind(&mut self, core: &mut Core, id: SocketId, to: Endpoint) -> Result<(), Errno> {
        let socket = self.sockets.get(&id).ok_or(Errno::EBADF)?;
        if !socket.speaks(Family::of(to.address)) {
            return Err(Errno::EAFNOSUPPORT);
        }
        if socket.local.port != 0 || socket.state != State::Closed {
            return Err(Errno::EINVAL);
        }
        if !to.address.is_unspecified() && !socket.options.free_bind && !core.config.nonlocal_bind {
            if to.address.is_ipv6() && is_link_local(to.address) && to.interface == InterfaceId::NONE {
                return Err(Errno::EINVAL);
            }
            if to.address.is_multicast() || (core.interfaces.owner(to.address).is_none() && !is_loopback_net(core, to.address)) {
                return Err(Errno::EADDRNOTAVAIL);
            }
        }
        let port = match to.port {
            0 => self.free_port(core, |tcp, port| !tcp.bound.contains_key(&port)).ok_or(Errno::EADDRINUSE)?,
            port if self.conflicts(id, to) => return Err(if port == 0 { Errno::EAGAIN } else { Errno::EADDRINUSE }),
            port => port,
        };
        self.bound.entry(port).or_default().push(id);
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.local = Endpoint { port, ..to };
        }
        Ok(())
    }

    fn free_port(&self, core: &mut Core, free: impl Fn(&Tcp, u16) -> bool) -> Option<u16> {
        let (low, high) = core.config.local_ports;
        let count = u32::from(high.saturating_sub(low)) + 1;
        let start = core.random.below(count.into()) as u32;
        (0..count).map(|n| low + ((start + n) % count) as u16).find(|port| free(self, *port))
    }

    /// Whether another socket on the port forbids this binding (Linux's `inet_csk_bind_conflict`): both must allow sharing, and a listener
    /// shares only by `SO_REUSEPORT`.
    fn conflicts(&self, id: SocketId, to: Endpoint) -> bool {
        let Some(socket) = self.sockets.get(&id) else { return true };
        let others = self.bound.get(&to.port).into_iter().flatten().filter(|other| **other != id);
        others.filter_map(|other| self.sockets.get(other)).any(|other| {
            let (one, two) = (&socket.options, &other.options);
            let device = one.send.interface == InterfaceId::NONE
                || two.send.interface == InterfaceId::NONE
                || one.send.interface == two.send.interface;
            let shares = (one.reuse_address && two.reuse_address && other.state != State::Listen)
                || (one.reuse_port && two.reuse_port && one.owner == two.owner);
            device && !shares && overlap((to.address, one.v6_only), (other.local.address, two.v6_only))
        })
    }
}

/// Answers a segment that belongs to nothing (RFC 9293 3.10.7.1).
fn send_reset(core: &mut Core, quad: &Quad, header: &TcpHeader, len: usize) {
    if header.flags.has(Flags::RST) {
        return;
    }
    let mut reset = TcpHeader { src_port: quad.local_port, dst_port: quad.remote_port, flags: Flags::RST, ..TcpHeader::default() };
    if header.flags.has(Flags::ACK) {
        reset.seq = header.ack;
    } else {
        let extra = u32::from(header.flags.has(Flags::SYN)) + u32::from(header.flags.has(Flags::FIN));
        reset.ack = header.seq + (len as u32 + extra);
        reset.flags = Flags::RST.with(Flags::ACK);
    }
    core.statistics.tcp.out_resets += 1;
    send_bare(core, quad, &reset, &SendOptions::default());
}

/// Sends a segment without data that belongs to no full socket.
fn send_bare(core: &mut Core, quad: &Quad, header: &TcpHeader, options: &SendOptions) {
    let output = if quad.scope == InterfaceId::NONE { options.interface } else { quad.scope };
    let query = Query { src: Some(quad.local), output, mark: options.mark, tos: options.tos, ..Query::to(quad.remote) };
    let Ok((decision, _)) = core.route(&query) else { return };
    let mut packet = Packet::zeroed(header.header_len());
    header.emit(packet.bytes_mut());
    let sum = Sum::pseudo(quad.local, quad.remote, protocol::TCP, packet.len()).folded();
    crate::wire::put(packet.bytes_mut(), 16, &sum.to_be_bytes());
    packet.set_partial_checksum(0, 16);
    core.statistics.tcp.out_segments += 1;
    let _ = core.ip_send(&decision, quad.local, quad.remote, protocol::TCP, options, packet);
}
