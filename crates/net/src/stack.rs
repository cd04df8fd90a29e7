//! A stack: everything joined, and the loop that moves packets through it.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use abi::Errno;

use crate::config::Config;
use crate::core::{Core, Delivery, Event, IpInfo, Ready, SocketId};
use crate::datagram::{Datagram, DatagramSocket, Datagrams, Endpoint, ErrorReport, Kind, Membership, SendCall};
use crate::hook::Filter;
use crate::interface::{Address, InterfaceId};
use crate::link::{Link, Loopback};
use crate::packet::Packet;
use crate::packet_socket::{Frame, FrameMode, LinkAddress, PacketMembership, PacketSocket, PacketSockets};
use crate::prefix::{Family, Prefix};
use crate::tcp::{self, Tcp, TcpSocket};
use crate::wire::icmp::{v4, v6};
use crate::wire::protocol;

/// Rounds of one poll before it gives its caller a turn.
const ROUNDS: usize = 64;

/// A network namespace's whole network: devices, tables, sockets.
///
/// It dereferences to [`Core`] for what is not a socket: interfaces, routes, neighbours, settings, counters.
pub struct Stack {
    core: Core,
    datagrams: Datagrams,
    tcp: Tcp,
    packets: PacketSockets,
}

impl Deref for Stack {
    type Target = Core;
    fn deref(&self) -> &Core {
        &self.core
    }
}

impl DerefMut for Stack {
    fn deref_mut(&mut self) -> &mut Core {
        &mut self.core
    }
}

impl Stack {
    /// A stack with only `lo`, down. `key` must be secret: sequence numbers, ports and cookies come from it.
    #[must_use]
    pub fn new(config: Config, key: [u64; 2]) -> Stack {
        let mut core = Core::new(config, key);
        // The table is empty, so the name is free.
        let _ = core.add_link("lo", Box::new(Loopback::default()));
        Stack { core, datagrams: Datagrams::default(), tcp: Tcp::default(), packets: PacketSockets::default() }
    }

    /// Adds a device under a name, up, with addresses.
    pub fn attach(&mut self, name: &str, link: Box<dyn Link>, prefixes: &[Prefix]) -> Result<InterfaceId, Errno> {
        let id = self.core.add_link(name, link)?;
        self.core.set_up(id, true)?;
        for prefix in prefixes {
            self.core.add_address_at_once(id, Address::new(*prefix))?;
        }
        Ok(id)
    }

    /// Adds a packet filter behind those that are there.
    pub fn add_filter(&mut self, filter: Box<dyn Filter>) {
        self.core.filters.push(filter);
    }

    /// Moves everything that can be moved at `now_ns` (nanoseconds of a clock that never goes back) and answers when to call again at the
    /// latest; `None` is when something arrives. An answer at or before `now_ns` says that there is more to do.
    pub fn poll(&mut self, now_ns: u64) -> Option<u64> {
        self.core.now_ns = self.core.now_ns.max(now_ns);
        self.core.check_carriers();
        self.poll_timers();
        for _ in 0..ROUNDS {
            let received = self.core.receive_all();
            self.deliver_all();
            let flushed = self.core.flush_queues();
            if !received && !flushed {
                self.poll_timers();
                return self.next_deadline();
            }
        }
        Some(self.core.now_ns)
    }

    fn poll_timers(&mut self) {
        self.core.keep_house();
        self.core.poll_neighbours();
        self.core.poll_reassembly();
        self.tcp.poll(&mut self.core);
        self.deliver_all();
    }

    fn next_deadline(&self) -> Option<u64> {
        let house = Some(self.core.housekeeping_ns).filter(|at| *at != u64::MAX);
        [house, self.core.neighbours.next_deadline(), self.core.reassembly.next_deadline(), self.tcp.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Tells the time to calls that come before the next poll.
    pub fn set_now(&mut self, now_ns: u64) {
        self.core.now_ns = self.core.now_ns.max(now_ns);
    }

    fn deliver_all(&mut self) {
        self.show_taps();
        while let Some(delivery) = self.core.inbox.pop_front() {
            match delivery {
                Delivery::Packet(packet, info) => self.deliver_packet(packet, &info),
                Delivery::Error(error) if error.protocol == protocol::TCP => self.tcp.icmp_error(&mut self.core, &error),
                Delivery::Error(error) => self.datagrams.icmp_error(&mut self.core, &error),
            }
        }
    }

    fn deliver_packet(&mut self, packet: Packet, info: &IpInfo) {
        let seen = self.datagrams.raw_input(&mut self.core, &packet, info);
        match (info.protocol, info.dst.is_ipv4()) {
            (protocol::TCP, _) => self.tcp.input(&mut self.core, packet, info),
            (protocol::UDP, _) => self.datagrams.udp_input(&mut self.core, packet, info),
            (protocol::ICMP, true) | (protocol::ICMPV6, false) => {
                self.datagrams.ping_input(&mut self.core, &packet, info);
                self.core.icmp_input(&packet, info);
            }
            (protocol::IGMP, true) => self.core.igmp_input(&packet, info),
            _ if seen => {}
            (_, true) => {
                self.core.statistics.ip[0].in_unknown_protocols += 1;
                self.core.icmp_error(&packet, v4::UNREACHABLE, v4::unreachable::PROTOCOL, 0);
            }
            (_, false) => {
                self.core.statistics.ip[1].in_unknown_protocols += 1;
                let pointer = crate::wire::ipv6::walk(packet.bytes()).map_or(6, |walked| walked.next_header_at);
                self.core.icmp_error(&packet, v6::PARAMETER, 1, pointer as u32);
            }
        }
    }

    /// Takes the frames that packet sockets are to see, when calls between polls have sent some.
    fn show_taps(&mut self) {
        while let Some(frame) = self.core.taps.pop_front() {
            self.packets.input(&mut self.core, frame);
        }
    }

    /// Sockets that became ready for something since the last call: poll their state, wake their waiters.
    pub fn take_ready(&mut self) -> BTreeMap<SocketId, Ready> {
        self.core.take_ready()
    }

    /// What happened to interfaces, addresses, routes and neighbours since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.core.take_events()
    }
}

/// Datagram sockets: UDP, ping, raw.
impl Stack {
    /// A new socket.
    pub fn datagram_open(&mut self, kind: Kind, family: Family) -> SocketId {
        self.datagrams.open(&mut self.core, kind, family)
    }

    /// A new UDP socket.
    pub fn udp_open(&mut self, family: Family) -> SocketId {
        self.datagram_open(Kind::Udp, family)
    }

    /// The socket, to ask.
    #[must_use]
    pub fn datagram(&self, id: SocketId) -> Option<&DatagramSocket> {
        self.datagrams.get(id)
    }

    /// The socket, to set options.
    pub fn datagram_mut(&mut self, id: SocketId) -> Option<&mut DatagramSocket> {
        self.datagrams.get_mut(id)
    }

    /// All datagram sockets (`/proc/net/udp`, `raw`, `icmp`).
    pub fn datagram_sockets(&self) -> impl Iterator<Item = (SocketId, &DatagramSocket)> {
        self.datagrams.iter()
    }

    /// bind(2): EINVAL when bound, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT.
    pub fn datagram_bind(&mut self, id: SocketId, to: Endpoint) -> Result<(), Errno> {
        self.datagrams.bind(&mut self.core, id, to)
    }

    /// connect(2); `None` dissolves the association.
    pub fn datagram_connect(&mut self, id: SocketId, to: Option<Endpoint>) -> Result<(), Errno> {
        self.datagrams.connect(&mut self.core, id, to)
    }

    /// sendto(2); never blocks.
    pub fn datagram_send(&mut self, id: SocketId, data: &[u8], to: Option<Endpoint>, call: SendCall) -> Result<usize, Errno> {
        self.datagrams.send_to(&mut self.core, id, data, to, call)
    }

    /// `UDP_CORK` off: sends what was held back.
    pub fn datagram_uncork(&mut self, id: SocketId) -> Result<(), Errno> {
        self.datagrams.uncork(&mut self.core, id)
    }

    /// recvfrom(2): EAGAIN when nothing is there, `None` after shutdown.
    pub fn datagram_receive(&mut self, id: SocketId, peek: bool) -> Result<Option<Datagram>, Errno> {
        self.datagrams.receive(&mut self.core, id, peek)
    }

    /// recvmsg(2) with `MSG_ERRQUEUE`.
    pub fn datagram_receive_error(&mut self, id: SocketId) -> Result<ErrorReport, Errno> {
        self.datagrams.receive_error(&mut self.core, id)
    }

    /// shutdown(2).
    pub fn datagram_shutdown(&mut self, id: SocketId, read: bool, write: bool) -> Result<(), Errno> {
        self.datagrams.shutdown(&mut self.core, id, read, write)
    }

    /// Joins a group.
    pub fn datagram_join(&mut self, id: SocketId, membership: Membership) -> Result<(), Errno> {
        self.datagrams.join(&mut self.core, id, membership)
    }

    /// Leaves a group.
    pub fn datagram_leave(&mut self, id: SocketId, group: ::core::net::IpAddr, interface: InterfaceId) -> Result<(), Errno> {
        self.datagrams.leave(&mut self.core, id, group, interface)
    }

    /// Adds a source to a membership's list, or takes it off.
    pub fn datagram_set_source(
        &mut self,
        id: SocketId,
        group: ::core::net::IpAddr,
        interface: InterfaceId,
        source: ::core::net::IpAddr,
        listed: bool,
    ) -> Result<(), Errno> {
        self.datagrams.set_source(id, group, interface, source, listed)
    }

    /// close(2).
    pub fn datagram_close(&mut self, id: SocketId) {
        self.datagrams.close(&mut self.core, id);
    }
}

/// TCP sockets. No call waits: EAGAIN says that it would, [`Stack::take_ready`] when to try again.
impl Stack {
    /// A new socket.
    pub fn tcp_open(&mut self, family: Family) -> SocketId {
        self.tcp.open(&mut self.core, family)
    }

    /// The socket, to ask.
    #[must_use]
    pub fn tcp(&self, id: SocketId) -> Option<&TcpSocket> {
        self.tcp.get(id)
    }

    /// The socket, to set options; [`Stack::tcp_push`] lets a change take effect on what waits.
    pub fn tcp_mut(&mut self, id: SocketId) -> Option<&mut TcpSocket> {
        self.tcp.get_mut(id)
    }

    /// All TCP sockets (`/proc/net/tcp`), those that are closed but not gone included.
    pub fn tcp_sockets(&self) -> impl Iterator<Item = (SocketId, &TcpSocket)> {
        self.tcp.iter()
    }

    /// Connections in TIME-WAIT (`tw` in `/proc/net/sockstat`).
    #[must_use]
    pub fn tcp_time_waits(&self) -> usize {
        self.tcp.time_waits()
    }

    /// bind(2): EINVAL when bound, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT.
    pub fn tcp_bind(&mut self, id: SocketId, to: Endpoint) -> Result<(), Errno> {
        self.tcp.bind(&mut self.core, id, to)
    }

    /// listen(2): EINVAL when connected, EADDRINUSE when another listens.
    pub fn tcp_listen(&mut self, id: SocketId, backlog: usize) -> Result<(), Errno> {
        self.tcp.listen(&mut self.core, id, backlog)
    }

    /// accept(2).
    pub fn tcp_accept(&mut self, id: SocketId) -> Result<SocketId, Errno> {
        self.tcp.accept(id)
    }

    /// Connections that wait for accept(2).
    #[must_use]
    pub fn tcp_accept_queue_len(&self, id: SocketId) -> usize {
        self.tcp.accept_queue_len(id)
    }

    /// connect(2): EINPROGRESS is the good answer; the socket becomes writable when it is connected.
    pub fn tcp_connect(&mut self, id: SocketId, to: Endpoint) -> Result<(), Errno> {
        self.tcp.connect(&mut self.core, id, to)
    }

    /// send(2): how much was taken; EPIPE when nothing may be sent any more.
    pub fn tcp_send(&mut self, id: SocketId, data: &[u8], call: tcp::SendCall) -> Result<usize, Errno> {
        self.tcp.send(&mut self.core, id, data, call)
    }

    /// recv(2): 0 at the end of the stream.
    pub fn tcp_receive(&mut self, id: SocketId, out: &mut [u8], call: tcp::ReceiveCall) -> Result<usize, Errno> {
        self.tcp.receive(&mut self.core, id, out, call)
    }

    /// Sends what changed options now allow (`TCP_NODELAY` on, `TCP_CORK` off).
    pub fn tcp_push(&mut self, id: SocketId) {
        self.tcp.push(&mut self.core, id);
    }

    /// shutdown(2): ENOTCONN without a connection.
    pub fn tcp_shutdown(&mut self, id: SocketId, read: bool, write: bool) -> Result<(), Errno> {
        self.tcp.shutdown(&mut self.core, id, read, write)
    }

    /// close(2). The id may still be asked for [`TcpSocket::is_flushed`] while the connection ends, and then is gone.
    pub fn tcp_close(&mut self, id: SocketId) {
        self.tcp.close(&mut self.core, id);
    }
}

/// Packet sockets.
impl Stack {
    /// A new socket for frames of `protocol`: an EtherType, 3 for all, 0 for none until it is bound.
    pub fn packet_open(&mut self, mode: FrameMode, protocol: u16) -> SocketId {
        self.packets.open(&mut self.core, mode, protocol)
    }

    /// The socket, for options and questions.
    pub fn packet_mut(&mut self, id: SocketId) -> Option<&mut PacketSocket> {
        self.packets.get_mut(id)
    }

    /// bind(2): ENODEV without such an interface.
    pub fn packet_bind(&mut self, id: SocketId, protocol: u16, interface: InterfaceId) -> Result<(), Errno> {
        self.packets.bind(&self.core, id, protocol, interface)
    }

    /// Promiscuous mode and all-multicast, for as long as the socket lives.
    pub fn packet_membership(&mut self, id: SocketId, interface: InterfaceId, membership: PacketMembership, on: bool) -> Result<(), Errno> {
        self.packets.set_membership(&mut self.core, id, interface, membership, on)
    }

    /// recvfrom(2).
    pub fn packet_receive(&mut self, id: SocketId, peek: bool) -> Result<Frame, Errno> {
        self.show_taps();
        self.packets.receive(&mut self.core, id, peek)
    }

    /// sendto(2).
    pub fn packet_send(&mut self, id: SocketId, data: &[u8], to: Option<LinkAddress>) -> Result<usize, Errno> {
        self.packets.send(&mut self.core, id, data, to)
    }

    /// close(2).
    pub fn packet_close(&mut self, id: SocketId) {
        self.packets.close(&mut self.core, id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_may_move_between_threads() {
        fn moves<T: Send>(_: &T) {}
        moves(&Stack::new(Config::default(), [0, 0]));
    }
}
