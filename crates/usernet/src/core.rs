//! What all parts of the translation share: the guest's side of the wire, the host's sockets, the time, and how much may be held.

use crate::config::Config;
use crate::dhcp::Leases;
use crate::frame::{self, Route};
use abi::Errno;
use net::packet::{Gso, Packet};
use net::random::Random;
use net::wire::checksum::Sum;
use net::wire::icmp::{self, IcmpHeader, v4, v6};
use net::wire::{MacAddress, protocol};
use platform::HostNetwork;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Bytes of frames for the guest that wait; beyond it nothing more is read from the host's sockets.
pub const OUT_MAX_BYTES: usize = 2 << 20;
/// Bytes of the guest's TCP data that the host's sockets have not taken yet, all connections together.
pub const PENDING_MAX_BYTES: usize = 16 << 20;
/// Nanoseconds in a millisecond and in a second.
pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1000 * MS;

/// What became of the guest's traffic (`ethtool -S`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Flows that were begun.
    pub flows: u64,
    /// Flows that the policy forbade.
    pub denied: u64,
    /// Flows for which there was no room, or that the host refused.
    pub failed: u64,
    /// Frames that were nothing we know.
    pub ignored: u64,
}

/// See the module.
pub struct Core {
    pub config: Config,
    pub host: Arc<dyn HostNetwork>,
    pub now_ns: u64,
    pub random: Random,
    pub guest_mac: MacAddress,
    /// The address that the guest uses, for connections that come to it.
    pub guest: Option<Ipv4Addr>,
    pub out: VecDeque<Packet>,
    pub out_bytes: usize,
    pub pending_bytes: usize,
    /// Flows of every kind.
    pub flows: usize,
    pub statistics: Statistics,
    /// A large buffer that nothing was read into.
    pub spare: Option<Packet>,
    /// Which of the name servers is asked.
    pub resolver: usize,
    pub leases: Leases,
    /// When the next router advertisement is due.
    pub advertise_at: Option<u64>,
    tokens: u64,
}

/// What a token's low bits say about the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Tcp = 0,
    Datagram = 1,
    Published = 2,
}

impl Kind {
    pub fn of(token: u64) -> Kind {
        match token & 3 {
            0 => Kind::Tcp,
            1 => Kind::Datagram,
            _ => Kind::Published,
        }
    }
}

/// Where the guest's traffic goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    To(SocketAddr),
    Denied,
}

impl Core {
    pub fn new(config: Config, host: Arc<dyn HostNetwork>, key: [u64; 2]) -> Core {
        Core {
            config,
            host,
            now_ns: 0,
            random: Random::new(key),
            guest_mac: MacAddress::BROADCAST,
            guest: None,
            out: VecDeque::new(),
            out_bytes: 0,
            pending_bytes: 0,
            flows: 0,
            statistics: Statistics::default(),
            spare: None,
            resolver: 0,
            leases: Leases::default(),
            advertise_at: None,
            tokens: 0,
        }
    }

    /// A token that no socket had before.
    pub fn token(&mut self, kind: Kind) -> u64 {
        self.tokens += 1;
        self.tokens << 2 | kind as u64
    }

    /// Where on the host's side a destination of the guest's is, and whether the guest may go there.
    pub fn target(&self, to: SocketAddr) -> Target {
        let config = &self.config;
        let ip = to.ip();
        if self.is_dns(ip) {
            // The host's resolver may well live on its loopback: this one door is open, and leads nowhere else.
            return match self.resolver() {
                Some(resolver) if to.port() == 53 => Target::To(resolver),
                _ => Target::Denied,
            };
        }
        let to = match self.loopback_for(ip) {
            Some(loopback) => SocketAddr::new(loopback, to.port()),
            None if config.is_inside(ip) => return Target::Denied,
            None => to,
        };
        if config.policy.permits(to, &*self.host) { Target::To(to) } else { Target::Denied }
    }

    /// The gateway stands for the host's loopback.
    pub fn loopback_for(&self, ip: IpAddr) -> Option<IpAddr> {
        match ip {
            IpAddr::V4(ip) if ip == self.config.gateway => Some(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip == self.config.gateway6 || ip == self.config.link_local => Some(Ipv6Addr::LOCALHOST.into()),
            _ => None,
        }
    }

    /// Whether an address is our name server's.
    pub fn is_dns(&self, ip: IpAddr) -> bool {
        ip == IpAddr::V4(self.config.dns) || ip == IpAddr::V6(self.config.dns6)
    }

    fn resolver(&self) -> Option<SocketAddr> {
        let own = &self.config.resolvers;
        let resolvers = if own.is_empty() { self.host.resolvers() } else { own.clone() };
        resolvers.get(self.resolver % resolvers.len().max(1)).copied()
    }

    /// Whether one more flow may be.
    pub fn has_room(&self) -> bool {
        self.flows < self.config.flows_max
    }

    /// Queues a frame for the guest.
    pub fn push(&mut self, packet: Packet) {
        self.out_bytes += packet.cost();
        self.out.push_back(packet);
    }

    /// The way to the guest from an address that we stand for.
    pub fn route(&self, src: IpAddr, dst: IpAddr) -> Route {
        Route { src_mac: self.config.gateway_mac, dst_mac: self.guest_mac, src, dst }
    }

    /// Sends the guest a packet whose transport part is there behind room for the headers; `checksum_at` is where in it the checksum belongs.
    pub fn send(&mut self, mut packet: Packet, src: IpAddr, dst: IpAddr, protocol: u8, checksum_at: usize, gso: Option<u16>) {
        frame::emit_headers(&mut packet, self.route(src, dst), protocol, None);
        frame::leave_checksum(&mut packet, src, dst, protocol, checksum_at);
        packet.gso = gso.map(|size| Gso { v6: dst.is_ipv6(), size });
        self.push(packet);
    }

    /// Sends the guest an ICMP message with its checksum.
    pub fn send_icmp(&mut self, src: IpAddr, dst: IpAddr, header: IcmpHeader, data: &[u8], hop_limit: Option<u8>) {
        let at = frame::headers_len(dst);
        let mut packet = Packet::zeroed(at + icmp::HEADER_LEN + data.len());
        let Some(message) = packet.bytes_mut().get_mut(at..) else { return };
        header.emit(message);
        message[icmp::HEADER_LEN..].copy_from_slice(data);
        let (number, sum) = match dst {
            IpAddr::V4(_) => (protocol::ICMP, Sum::new()),
            IpAddr::V6(_) => (protocol::ICMPV6, Sum::pseudo(src, dst, protocol::ICMPV6, message.len())),
        };
        let check = sum.with(message).finish();
        message[2..4].copy_from_slice(&check.to_be_bytes());
        let mut route = self.route(src, dst);
        match dst {
            IpAddr::V6(group) if group.is_multicast() => route.dst_mac = MacAddress::from_ipv6_group(group),
            _ => {}
        }
        frame::emit_headers(&mut packet, route, number, hop_limit);
        self.push(packet);
    }

    /// Tells the guest why a packet did not arrive. `quoted` is the packet from its IP header on.
    pub fn send_unreachable(&mut self, guest: IpAddr, remote: IpAddr, why: Errno, quoted: &[u8]) {
        let src = match remote {
            IpAddr::V4(_) => IpAddr::V4(self.config.gateway),
            IpAddr::V6(_) => IpAddr::V6(self.config.gateway6),
        };
        let (kind, code) = match (guest, why) {
            (IpAddr::V4(_), Errno::ECONNREFUSED) => (v4::UNREACHABLE, v4::unreachable::PORT),
            (IpAddr::V4(_), Errno::ENETUNREACH | Errno::ENETDOWN) => (v4::UNREACHABLE, v4::unreachable::NET),
            (IpAddr::V4(_), Errno::EACCES | Errno::EPERM) => (v4::UNREACHABLE, v4::unreachable::ADMIN),
            (IpAddr::V4(_), _) => (v4::UNREACHABLE, v4::unreachable::HOST),
            (IpAddr::V6(_), Errno::ECONNREFUSED) => (v6::UNREACHABLE, v6::unreachable::PORT),
            (IpAddr::V6(_), Errno::ENETUNREACH | Errno::ENETDOWN) => (v6::UNREACHABLE, v6::unreachable::NO_ROUTE),
            (IpAddr::V6(_), Errno::EACCES | Errno::EPERM) => (v6::UNREACHABLE, v6::unreachable::ADMIN),
            (IpAddr::V6(_), _) => (v6::UNREACHABLE, v6::unreachable::ADDRESS),
        };
        // A port is refused by the station that has it.
        let src = if why == Errno::ECONNREFUSED { remote } else { src };
        // Header, options and eight bytes are what every stack looks at; 548 keep the message within the least MTU (RFC 1812 4.3.2.3).
        let quoted = &quoted[..quoted.len().min(520)];
        self.send_icmp(src, guest, IcmpHeader { kind, code, rest: 0 }, quoted, None);
    }
}
