//! Sockets that keep message boundaries: UDP (RFC 768), ping sockets (icmp(7)) and raw sockets (raw(7)). What they share is here: endpoints,
//! queues, errors, group memberships; `udp` and `raw` hold what differs.
//!
//! What it is not: TCP, and packet sockets, which see frames (`packet_socket`).
//!
//! Always true: what waits in a socket's queues costs at most its receive buffer, and one datagram more; every byte is counted in
//! [`crate::core::Core::memory_bytes`].

mod raw;
mod udp;

use core::net::{IpAddr, SocketAddr};
use std::collections::{BTreeMap, VecDeque};

use abi::Errno;

use crate::core::{Core, IcmpError, Ready, SocketId};
use crate::interface::InterfaceId;
use crate::ip::{PathMtu, SendOptions};
use crate::packet::{OVERHEAD, Packet};
use crate::prefix::{Family, is_link_local};
use crate::route::Query;

/// An address, a port (or an ICMP identifier), and the interface that a link-local address needs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Endpoint {
    /// Address.
    pub address: IpAddr,
    /// Port; 0 is any.
    pub port: u16,
    /// `sin6_scope_id`.
    pub interface: InterfaceId,
}

impl Endpoint {
    /// An endpoint without a scope.
    #[must_use]
    pub fn new(address: IpAddr, port: u16) -> Endpoint {
        Endpoint { address, port, interface: InterfaceId::NONE }
    }

    /// Any address and port of a family.
    #[must_use]
    pub fn any(family: Family) -> Endpoint {
        Endpoint::new(family.unspecified(), 0)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(from: SocketAddr) -> Endpoint {
        let interface = match from {
            SocketAddr::V4(_) => InterfaceId::NONE,
            SocketAddr::V6(v6) => InterfaceId(v6.scope_id()),
        };
        Endpoint { address: from.ip(), port: from.port(), interface }
    }
}

/// Which kind of datagram socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// UDP.
    Udp,
    /// `socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP)`.
    Ping,
    /// A raw socket for this protocol.
    Raw(u8),
}

/// A source filter of a membership (RFC 3376 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FilterMode {
    /// All sources but the listed.
    Exclude,
    /// Only the listed sources.
    Include,
}

/// One membership of a socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// The group.
    pub group: IpAddr,
    /// On which interface.
    pub interface: InterfaceId,
    /// What the list means.
    pub mode: FilterMode,
    /// Listed sources, at most 64.
    pub sources: Vec<IpAddr>,
}

/// A datagram that waits to be read.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// What the reader gets: the payload, or for raw IPv4 the packet with its IP header.
    pub payload: Packet,
    /// From where.
    pub from: Endpoint,
    /// To which address (`IP_PKTINFO`).
    pub to: IpAddr,
    /// Arrived on.
    pub interface: InterfaceId,
    /// Hop limit.
    pub ttl: u8,
    /// Traffic class.
    pub tos: u8,
    /// When it arrived.
    pub at_ns: u64,
}

/// An entry of the error queue (`struct sock_extended_err`, ip(7) `IP_RECVERR`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ErrorReport {
    /// `ee_errno`
    pub errno: Errno,
    /// `ee_origin`: 1 local, 2 ICMP, 3 ICMPv6.
    pub origin: u8,
    /// `ee_type`
    pub icmp_type: u8,
    /// `ee_code`
    pub icmp_code: u8,
    /// `ee_info`
    pub info: u32,
    /// Who reported it.
    pub offender: Option<IpAddr>,
    /// To whom the datagram was sent.
    pub destination: Endpoint,
    /// What is left of the datagram's payload.
    pub payload: Vec<u8>,
}

/// Options of one send call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SendCall {
    /// More follows for the same datagram (`MSG_MORE`).
    pub more: bool,
    /// The peer is known to be alive (`MSG_CONFIRM`).
    pub confirm: bool,
    /// Only to a directly attached network (`MSG_DONTROUTE`).
    pub dont_route: bool,
    /// Source address from `IP_PKTINFO`.
    pub source: Option<IpAddr>,
    /// Interface from `IP_PKTINFO`.
    pub interface: InterfaceId,
    /// `IP_TTL` or `IPV6_HOPLIMIT` as control data.
    pub ttl: Option<u8>,
    /// `IP_TOS` or `IPV6_TCLASS` as control data.
    pub tos: Option<u8>,
    /// `UDP_SEGMENT`: cut into datagrams of this many bytes; 0 is one datagram.
    pub segment: u16,
}

/// A datagram being put together.
#[derive(Clone, Debug)]
struct Cork {
    to: Endpoint,
    call: SendCall,
    data: Vec<u8>,
}

/// A datagram socket. The public fields are its options, to be read and set as setsockopt(2) does.
#[derive(Debug)]
pub struct DatagramSocket {
    kind: Kind,
    family: Family,
    local: Endpoint,
    remote: Option<Endpoint>,
    /// `IPV6_V6ONLY`
    pub v6_only: bool,
    /// `SO_REUSEADDR`
    pub reuse_address: bool,
    /// `SO_REUSEPORT`
    pub reuse_port: bool,
    /// Who opened it: only sockets of one user share a port by `SO_REUSEPORT`.
    pub owner: u32,
    /// `SO_BROADCAST`
    pub broadcast: bool,
    /// `SO_NO_CHECK`
    pub no_check: bool,
    /// `IP_RECVERR`
    pub receive_errors: bool,
    /// `IP_FREEBIND`, `IP_TRANSPARENT`
    pub free_bind: bool,
    /// `UDP_CORK`
    pub corked: bool,
    /// `IP_HDRINCL`
    pub header_included: bool,
    /// `ICMP_FILTER`: set bits are not wanted. For ICMPv6 the 256 bits of `ICMPV6_FILTER`.
    pub icmp_filter: [u32; 8],
    /// `IPV6_CHECKSUM`: where a raw socket's checksum goes.
    pub checksum_at: Option<u16>,
    /// `SO_ATTACH_FILTER`: sees a datagram from its transport header on, raw IPv4 from the IP header
    pub filter: Option<crate::bpf::Program>,
    /// What goes into headers, `SO_BINDTODEVICE` in its `interface`.
    pub send: SendOptions,
    /// `IP_MULTICAST_TTL`, `IPV6_MULTICAST_HOPS`
    pub multicast_ttl: u8,
    /// `IP_MULTICAST_IF`
    pub multicast_interface: InterfaceId,
    /// `IP_MULTICAST_ALL`
    pub multicast_all: bool,
    /// `SO_RCVBUF`, as doubled
    pub receive_limit: usize,
    /// `SO_SNDBUF`, as doubled
    pub send_limit: usize,
    memberships: Vec<Membership>,
    queue: VecDeque<Datagram>,
    queued_bytes: usize,
    errors: VecDeque<ErrorReport>,
    error: Option<Errno>,
    cork: Option<Cork>,
    shut: (bool, bool),
    drops: u64,
}

impl DatagramSocket {
    fn new(kind: Kind, family: Family, core: &Core) -> DatagramSocket {
        DatagramSocket {
            kind,
            family,
            local: Endpoint::any(family),
            remote: None,
            v6_only: false,
            reuse_address: false,
            reuse_port: false,
            owner: 0,
            broadcast: false,
            no_check: false,
            receive_errors: false,
            free_bind: false,
            corked: false,
            header_included: kind == Kind::Raw(crate::wire::protocol::RAW),
            icmp_filter: [0; 8],
            checksum_at: None,
            filter: None,
            send: SendOptions { path_mtu: if kind == Kind::Udp { PathMtu::Want } else { PathMtu::Dont }, ..SendOptions::default() },
            multicast_ttl: 1,
            multicast_interface: InterfaceId::NONE,
            multicast_all: true,
            receive_limit: core.config.receive_default,
            send_limit: core.config.send_default,
            memberships: Vec::new(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            errors: VecDeque::new(),
            error: None,
            cork: None,
            shut: (false, false),
            drops: 0,
        }
    }

    /// UDP, ping or raw.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The socket's family; an IPv6 socket may carry IPv4 too.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// `getsockname`
    #[must_use]
    pub fn local(&self) -> Endpoint {
        self.local
    }

    /// `getpeername`; ENOTCONN when there is none.
    pub fn remote(&self) -> Result<Endpoint, Errno> {
        self.remote.ok_or(Errno::ENOTCONN)
    }

    /// Memberships.
    #[must_use]
    pub fn memberships(&self) -> &[Membership] {
        &self.memberships
    }

    /// Bytes of the next datagram (`FIONREAD`).
    #[must_use]
    pub fn next_len(&self) -> usize {
        self.queue.front().map_or(0, |datagram| datagram.payload.len())
    }

    /// Datagrams dropped because the queue was full (`SO_RXQ_OVFL`).
    #[must_use]
    pub fn drops(&self) -> u64 {
        self.drops
    }

    /// Takes the pending error (`SO_ERROR`).
    pub fn take_error(&mut self) -> Option<Errno> {
        self.error.take()
    }

    /// What poll(2) sees.
    #[must_use]
    pub fn ready(&self) -> Ready {
        let mut ready = Ready::OUT;
        if !self.queue.is_empty() || self.shut.0 {
            ready |= Ready::IN;
        }
        if self.shut.0 {
            ready |= Ready::RDHUP;
        }
        if self.shut == (true, true) {
            ready |= Ready::HUP;
        }
        if self.error.is_some() || !self.errors.is_empty() {
            ready |= Ready::ERR;
        }
        ready
    }

    fn filter_keeps(&self, bytes: &[u8], interface: InterfaceId) -> bool {
        let ancillary = crate::bpf::Ancillary { interface: interface.0, ..crate::bpf::Ancillary::default() };
        self.filter.as_ref().is_none_or(|filter| filter.run(bytes, &ancillary) != 0)
    }

    fn speaks(&self, family: Family) -> bool {
        self.family == family || (self.family == Family::V6 && !self.v6_only)
    }

    fn is_bound_to(&self, local: IpAddr, interface: InterfaceId) -> bool {
        let address = self.local.address.is_unspecified() || self.local.address == local;
        let device = self.send.interface == InterfaceId::NONE || self.send.interface == interface;
        let scope = self.local.interface == InterfaceId::NONE || self.local.interface == interface;
        self.speaks(Family::of(local)) && address && device && scope
    }

    fn is_connected_to(&self, remote: IpAddr, port: u16) -> bool {
        self.remote.is_none_or(|peer| peer.address == remote && (peer.port == port || self.kind != Kind::Udp))
    }

    /// Whether a group datagram from `src` is wanted.
    fn wants_group(&self, group: IpAddr, src: IpAddr, interface: InterfaceId) -> bool {
        let member = self.memberships.iter().find(|m| m.group == group && m.interface == interface);
        match member {
            Some(m) => m.sources.contains(&src) == (m.mode == FilterMode::Include),
            None => self.multicast_all,
        }
    }

    /// Queues a datagram; false when there is no room.
    fn enqueue(&mut self, datagram: Datagram, core: &mut Core) -> bool {
        let cost = datagram.payload.cost();
        if self.shut.0 || self.queued_bytes + cost > self.receive_limit.max(cost) || !core.has_memory(cost) {
            self.drops += 1;
            return false;
        }
        self.queued_bytes += cost;
        core.memory_bytes += cost;
        self.queue.push_back(datagram);
        true
    }

    fn report(&mut self, report: ErrorReport, core: &mut Core) {
        let cost = report.payload.len() + OVERHEAD;
        if self.queued_bytes + cost <= self.receive_limit {
            self.queued_bytes += cost;
            core.memory_bytes += cost;
            self.errors.push_back(report);
        }
    }
}

/// All datagram sockets of a stack.
#[derive(Default)]
pub struct Datagrams {
    sockets: BTreeMap<SocketId, DatagramSocket>,
    /// Bound UDP sockets and ping sockets by port or identifier, in order of binding.
    udp: BTreeMap<u16, Vec<SocketId>>,
    ping: BTreeMap<u16, Vec<SocketId>>,
    raw: Vec<SocketId>,
}

impl Datagrams {
    pub(crate) fn open(&mut self, core: &mut Core, kind: Kind, family: Family) -> SocketId {
        let id = core.new_socket_id();
        self.sockets.insert(id, DatagramSocket::new(kind, family, core));
        if matches!(kind, Kind::Raw(_)) {
            self.raw.push(id);
        }
        id
    }

    pub(crate) fn get(&self, id: SocketId) -> Option<&DatagramSocket> {
        self.sockets.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: SocketId) -> Option<&mut DatagramSocket> {
        self.sockets.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (SocketId, &DatagramSocket)> {
        self.sockets.iter().map(|(id, socket)| (*id, socket))
    }

    fn table(&mut self, kind: Kind) -> Option<&mut BTreeMap<u16, Vec<SocketId>>> {
        match kind {
            Kind::Udp => Some(&mut self.udp),
            Kind::Ping => Some(&mut self.ping),
            Kind::Raw(_) => None,
        }
    }

    fn unhash(&mut self, id: SocketId, kind: Kind, port: u16) {
        if let Some(table) = self.table(kind)
            && let Some(ids) = table.get_mut(&port)
        {
            ids.retain(|there| *there != id);
            if ids.is_empty() {
                table.remove(&port);
            }
        }
    }

    pub(crate) fn close(&mut self, core: &mut Core, id: SocketId) {
        let Some(socket) = self.sockets.remove(&id) else { return };
        self.unhash(id, socket.kind, socket.local.port);
        self.raw.retain(|there| *there != id);
        core.memory_bytes = core.memory_bytes.saturating_sub(socket.queued_bytes);
        for membership in socket.memberships {
            core.leave(membership.interface, membership.group);
        }
        core.forget_ready(id);
    }

    /// bind(2). EINVAL when bound, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT.
    pub(crate) fn bind(&mut self, core: &mut Core, id: SocketId, to: Endpoint) -> Result<(), Errno> {
        let socket = self.sockets.get(&id).ok_or(Errno::EBADF)?;
        if !socket.speaks(Family::of(to.address)) {
            return Err(Errno::EAFNOSUPPORT);
        }
        let raw = matches!(socket.kind, Kind::Raw(_));
        if !raw && socket.local.port != 0 {
            return Err(Errno::EINVAL);
        }
        let mut to = to;
        if !to.address.is_unspecified() && !to.address.is_multicast() && !is_broadcast(core, to.address) && !socket.free_bind {
            if to.address.is_ipv6()
                && is_link_local(to.address)
                && to.interface == InterfaceId::NONE
                && socket.send.interface == InterfaceId::NONE
            {
                return Err(Errno::EINVAL);
            }
            if core.interfaces.owner(to.address).is_none() && !is_loopback_net(core, to.address) && !core.config.nonlocal_bind {
                return Err(Errno::EADDRNOTAVAIL);
            }
        }
        if !raw {
            to.port = self.claim_port(core, id, to)?;
        }
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.local = to;
        }
        Ok(())
    }

    fn claim_port(&mut self, core: &mut Core, id: SocketId, to: Endpoint) -> Result<u16, Errno> {
        let kind = self.sockets.get(&id).ok_or(Errno::EBADF)?.kind;
        let port = if to.port != 0 {
            if self.conflicts(id, to, to.port) {
                return Err(Errno::EADDRINUSE);
            }
            to.port
        } else {
            let (low, high) = if kind == Kind::Ping { (1, 65_535) } else { core.config.local_ports };
            let count = u32::from(high.saturating_sub(low)) + 1;
            let start = core.random.below(count.into()) as u32;
            let mut candidates = (0..count).map(|n| low + ((start + n) % count) as u16);
            candidates.find(|port| self.table(kind).is_some_and(|table| !table.contains_key(port))).ok_or(Errno::EADDRINUSE)?
        };
        if let Some(table) = self.table(kind) {
            table.entry(port).or_default().push(id);
        }
        Ok(port)
    }

    /// Whether another socket on `port` forbids this one (Linux's `udp_lib_lport_inuse`).
    fn conflicts(&self, id: SocketId, to: Endpoint, port: u16) -> bool {
        let Some(socket) = self.sockets.get(&id) else { return true };
        let table = if socket.kind == Kind::Ping { &self.ping } else { &self.udp };
        table.get(&port).into_iter().flatten().filter(|other| **other != id).filter_map(|other| self.sockets.get(other)).any(|other| {
            let device = socket.send.interface == InterfaceId::NONE
                || other.send.interface == InterfaceId::NONE
                || socket.send.interface == other.send.interface;
            let shares =
                (socket.reuse_address && other.reuse_address) || (socket.reuse_port && other.reuse_port && socket.owner == other.owner);
            device && !shares && overlap((to.address, socket.v6_only), (other.local.address, other.v6_only))
        })
    }

    /// connect(2); `None` dissolves the association (`AF_UNSPEC`).
    pub(crate) fn connect(&mut self, core: &mut Core, id: SocketId, to: Option<Endpoint>) -> Result<(), Errno> {
        let socket = self.sockets.get(&id).ok_or(Errno::EBADF)?;
        let Some(mut to) = to else {
            if let Some(socket) = self.sockets.get_mut(&id) {
                socket.remote = None;
            }
            return Ok(());
        };
        if to.address.is_unspecified() {
            to.address = loopback_of(Family::of(to.address));
        }
        if !socket.speaks(Family::of(to.address)) {
            return Err(Errno::EAFNOSUPPORT);
        }
        let src = (!socket.local.address.is_unspecified()).then_some(socket.local.address);
        let output = output_for(socket, to.address, to.interface, InterfaceId::NONE);
        let query = Query { src, output, mark: socket.send.mark, tos: socket.send.tos, ..Query::to(to.address) };
        let (decision, source) = core.route(&query)?;
        if decision.kind == crate::route::RouteKind::Broadcast && !socket.broadcast {
            return Err(Errno::EACCES);
        }
        if socket.local.port == 0 && !matches!(socket.kind, Kind::Raw(_)) {
            let any = Endpoint { port: 0, ..socket.local };
            let port = self.claim_port(core, id, any)?;
            if let Some(socket) = self.sockets.get_mut(&id) {
                socket.local.port = port;
            }
        }
        if let Some(socket) = self.sockets.get_mut(&id) {
            if socket.local.address.is_unspecified() {
                socket.local.address = source;
            }
            socket.remote = Some(to);
        }
        Ok(())
    }

    /// recvfrom(2) without waiting: EAGAIN when nothing is there, or the pending error.
    pub(crate) fn receive(&mut self, core: &mut Core, id: SocketId, peek: bool) -> Result<Option<Datagram>, Errno> {
        let socket = self.sockets.get_mut(&id).ok_or(Errno::EBADF)?;
        if let Some(errno) = socket.error.take() {
            return Err(errno);
        }
        if peek {
            return match socket.queue.front() {
                Some(datagram) => Ok(Some(datagram.clone())),
                None if socket.shut.0 => Ok(None),
                None => Err(Errno::EAGAIN),
            };
        }
        match socket.queue.pop_front() {
            Some(datagram) => {
                let cost = datagram.payload.cost();
                socket.queued_bytes = socket.queued_bytes.saturating_sub(cost);
                core.memory_bytes = core.memory_bytes.saturating_sub(cost);
                Ok(Some(datagram))
            }
            None if socket.shut.0 => Ok(None),
            None => Err(Errno::EAGAIN),
        }
    }

    /// `MSG_ERRQUEUE`
    pub(crate) fn receive_error(&mut self, core: &mut Core, id: SocketId) -> Result<ErrorReport, Errno> {
        let socket = self.sockets.get_mut(&id).ok_or(Errno::EBADF)?;
        let report = socket.errors.pop_front().ok_or(Errno::EAGAIN)?;
        let cost = report.payload.len() + OVERHEAD;
        socket.queued_bytes = socket.queued_bytes.saturating_sub(cost);
        core.memory_bytes = core.memory_bytes.saturating_sub(cost);
        // The next report's error becomes pending, as ip(7) has it.
        socket.error = socket.errors.front().map(|next| next.errno);
        Ok(report)
    }

    /// shutdown(2). ENOTCONN on a socket without a peer, which is shut all the same.
    pub(crate) fn shutdown(&mut self, core: &mut Core, id: SocketId, read: bool, write: bool) -> Result<(), Errno> {
        let socket = self.sockets.get_mut(&id).ok_or(Errno::EBADF)?;
        socket.shut.0 |= read;
        socket.shut.1 |= write;
        core.wake(id, socket.ready());
        if socket.remote.is_none() { Err(Errno::ENOTCONN) } else { Ok(()) }
    }

    /// Joins a group, on `interface` or where the route to the group leads. EADDRINUSE when a member, ENODEV, EINVAL, ENOBUFS beyond
    /// `igmp_max_memberships`.
    pub(crate) fn join(&mut self, core: &mut Core, id: SocketId, membership: Membership) -> Result<(), Errno> {
        let socket = self.sockets.get_mut(&id).ok_or(Errno::EBADF)?;
        if !membership.group.is_multicast() || membership.sources.len() > 64 {
            return Err(Errno::EINVAL);
        }
        let interface = group_interface(core, membership.group, membership.interface)?;
        let membership = Membership { interface, ..membership };
        if let Some(there) = socket.memberships.iter_mut().find(|m| m.group == membership.group && m.interface == interface) {
            // A source-specific join adds a source to the list; a second plain one is an error.
            if there.mode != FilterMode::Include || membership.mode != FilterMode::Include {
                return Err(Errno::EADDRINUSE);
            }
            for source in membership.sources {
                if there.sources.contains(&source) || there.sources.len() >= 64 {
                    return Err(Errno::EADDRNOTAVAIL);
                }
                there.sources.push(source);
            }
            return Ok(());
        }
        if socket.memberships.len() >= core.config.max_memberships {
            return Err(Errno::ENOBUFS);
        }
        core.join(interface, membership.group);
        socket.memberships.push(membership);
        Ok(())
    }

    /// Leaves a group. EADDRNOTAVAIL when not a member.
    pub(crate) fn leave(&mut self, core: &mut Core, id: SocketId, group: IpAddr, interface: InterfaceId) -> Result<(), Errno> {
        let socket = self.sockets.get_mut(&id).ok_or(Errno::EBADF)?;
        let found = |m: &Membership| m.group == group && (interface == InterfaceId::NONE || m.interface == interface);
        let at = socket.memberships.iter().position(found).ok_or(Errno::EADDRNOTAVAIL)?;
        let membership = socket.memberships.remove(at);
        core.leave(membership.interface, group);
        Ok(())
    }

    /// Blocks or unblocks one source of a membership (`IP_BLOCK_SOURCE`, `IP_DROP_SOURCE_MEMBERSHIP` and their opposites).
    pub(crate) fn set_source(
        &mut self,
        id: SocketId,
        group: IpAddr,
        interface: InterfaceId,
        source: IpAddr,
        listed: bool,
    ) -> Result<(), Errno> {
        let socket = self.sockets.get_mut(&id).ok_or(Errno::EBADF)?;
        let found = |m: &&mut Membership| m.group == group && (interface == InterfaceId::NONE || m.interface == interface);
        let membership = socket.memberships.iter_mut().find(found).ok_or(Errno::EINVAL)?;
        match (listed, membership.sources.iter().position(|there| *there == source)) {
            (true, None) if membership.sources.len() >= 64 => Err(Errno::ENOBUFS),
            (true, None) => {
                membership.sources.push(source);
                Ok(())
            }
            (false, Some(at)) => {
                membership.sources.remove(at);
                Ok(())
            }
            _ => Err(Errno::EADDRNOTAVAIL),
        }
    }

    /// An ICMP error about a UDP or ping datagram of ours.
    pub(crate) fn icmp_error(&mut self, core: &mut Core, error: &IcmpError) {
        let echo = matches!(error.protocol, crate::wire::protocol::ICMP | crate::wire::protocol::ICMPV6);
        if error.protocol != crate::wire::protocol::UDP {
            self.raw_error(core, error);
            if !echo {
                return;
            }
        }
        let Some((local_port, remote_port)) = crate::ip::icmp::quoted_ports(error) else { return };
        let (table, local_port, remote_port, header) = match error.protocol {
            crate::wire::protocol::UDP => (&self.udp, local_port, remote_port, 8),
            crate::wire::protocol::ICMP | crate::wire::protocol::ICMPV6 => {
                let Some(ident) = crate::wire::icmp::echo_ident(&error.quoted) else { return };
                (&self.ping, ident, 0, 8)
            }
            _ => return,
        };
        let ids = table.get(&local_port).cloned().unwrap_or_default();
        for id in ids {
            let Some(socket) = self.sockets.get_mut(&id) else { continue };
            if socket.is_bound_to(error.local, error.interface) && socket.is_connected_to(error.remote, remote_port) {
                let payload = error.quoted.get(header..).unwrap_or_default();
                socket.hear(core, id, error, Endpoint::new(error.remote, remote_port), payload);
                return;
            }
        }
    }
}

impl DatagramSocket {
    fn hear(&mut self, core: &mut Core, id: SocketId, error: &IcmpError, destination: Endpoint, payload: &[u8]) {
        let fragmentation = error.errno == Errno::EMSGSIZE;
        if self.receive_errors {
            self.report(
                ErrorReport {
                    errno: error.errno,
                    origin: if error.remote.is_ipv4() { 2 } else { 3 },
                    icmp_type: error.icmp_type,
                    icmp_code: error.icmp_code,
                    info: error.info,
                    offender: Some(error.offender),
                    destination,
                    payload: payload.to_vec(),
                },
                core,
            );
        } else if fragmentation || !error.hard || self.remote.is_none() {
            return;
        }
        self.error = Some(error.errno);
        core.wake(id, Ready::ERR | Ready::IN | Ready::OUT);
    }
}

/// Whether two bindings to one port would both get a datagram. The flag is `IPV6_V6ONLY`.
pub(crate) fn overlap(a: (IpAddr, bool), b: (IpAddr, bool)) -> bool {
    match (a.0, b.0) {
        (IpAddr::V6(any), IpAddr::V4(_)) => any.is_unspecified() && !a.1,
        (IpAddr::V4(_), IpAddr::V6(any)) => any.is_unspecified() && !b.1,
        (one, two) => one.is_unspecified() || two.is_unspecified() || one == two,
    }
}

pub(crate) fn is_broadcast(core: &Core, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_broadcast() || core.interfaces.iter().any(|i| i.up && i.addresses.iter().any(|own| own.prefix.broadcast() == Some(v4)))
        }
        IpAddr::V6(_) => false,
    }
}

/// All of 127/8 is ours once `lo` is up.
pub(crate) fn is_loopback_net(core: &Core, address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.is_loopback()) && core.interfaces.loopback().is_some_and(|lo| lo.up)
}

pub(crate) fn loopback_of(family: Family) -> IpAddr {
    match family {
        Family::V4 => core::net::Ipv4Addr::LOCALHOST.into(),
        Family::V6 => core::net::Ipv6Addr::LOCALHOST.into(),
    }
}

/// The interface that a datagram must leave on, if any.
fn output_for(socket: &DatagramSocket, dst: IpAddr, scope: InterfaceId, call: InterfaceId) -> InterfaceId {
    let multicast = if dst.is_multicast() { socket.multicast_interface } else { InterfaceId::NONE };
    [socket.send.interface, call, scope, multicast].into_iter().find_map(InterfaceId::some).unwrap_or(InterfaceId::NONE)
}

/// Where to join a group when no interface is named: where the route to it leads, else the first that can.
fn group_interface(core: &Core, group: IpAddr, interface: InterfaceId) -> Result<InterfaceId, Errno> {
    if let Some(id) = interface.some() {
        return core.interfaces.get(id).map(|interface| interface.id).ok_or(Errno::ENODEV);
    }
    if let Ok(decision) = core.routes.lookup(&Query::to(group), &core.interfaces) {
        return Ok(decision.interface);
    }
    let capable = |interface: &&crate::interface::Interface| interface.up && interface.capabilities().multicast;
    core.interfaces.iter().find(capable).map(|interface| interface.id).ok_or(Errno::ENODEV)
}
