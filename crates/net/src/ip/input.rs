//! Packets that arrive: checked, filtered, routed to this machine or through it.

use core::net::IpAddr;

use crate::core::{Core, Delivery, IpInfo};
use crate::hook::{Hook, Verdict};
use crate::interface::InterfaceId;
use crate::packet::{Packet, PacketKind};
use crate::prefix::{Family, is_link_local};
use crate::route::{Query, RouteKind};
use crate::wire::ipv4::Ipv4Header;
use crate::wire::ipv6::{self, Ipv6Header, Problem};
use crate::wire::{Malformed, protocol};

impl Core {
    /// An IPv4 packet.
    pub(crate) fn ipv4_input(&mut self, mut packet: Packet) {
        self.statistics.ip[0].in_receives += 1;
        self.statistics.ip[0].in_bytes += packet.len() as u64;
        let mut header = match self.parse_v4(&mut packet) {
            Ok(header) => header,
            Err(error) => {
                let counters = &mut self.statistics.ip[0];
                match error {
                    Malformed::Checksum => counters.in_checksum_errors += 1,
                    Malformed::Truncated => counters.in_truncated += 1,
                    Malformed::Header => {}
                }
                counters.in_header_errors += 1;
                return;
            }
        };
        if self.judge(&mut packet, Hook::PreRouting, InterfaceId::NONE) == Verdict::Drop {
            return;
        }
        if !self.filters.is_empty() {
            let Ok(again) = Ipv4Header::parse_quoted(packet.bytes()) else { return };
            header = again;
        }
        let Some(kind) = self.route_input(&packet, header.src.into(), header.dst.into(), header.tos) else { return };
        if kind == RouteKind::Unicast {
            self.forward(packet);
            return;
        }
        if header.is_fragment() {
            let Some(whole) = self.reassemble_v4(packet, &header) else { return };
            packet = whole;
            let Ok(again) = Ipv4Header::parse_quoted(packet.bytes()) else { return };
            header = again;
        }
        let info = IpInfo {
            src: header.src.into(),
            dst: header.dst.into(),
            protocol: header.protocol,
            ttl: header.ttl,
            tos: header.tos,
            transport: header.header_len(),
            interface: packet.interface,
            kind,
        };
        self.deliver_local(packet, info);
    }

    fn parse_v4(&mut self, packet: &mut Packet) -> Result<Ipv4Header, Malformed> {
        let header = if packet.gso.is_some() { Ipv4Header::parse_quoted(packet.bytes())? } else { Ipv4Header::parse(packet.bytes())? };
        if packet.gso.is_none() || header.total_len != 0 {
            // Padding of short Ethernet frames.
            packet.truncate(usize::from(header.total_len));
        }
        let src = header.src;
        if src.is_multicast() || src.is_broadcast() || (src.octets()[0] == 0 && !src.is_unspecified()) || header.dst.octets()[0] == 0 {
            return Err(Malformed::Header);
        }
        let loops = self.interfaces.get(packet.interface).is_some_and(crate::interface::Interface::is_loopback);
        if (src.is_loopback() || header.dst.is_loopback()) && !loops {
            // A martian (RFC 1812 5.3.7).
            self.statistics.ip[0].in_address_errors += 1;
            return Err(Malformed::Header);
        }
        Ok(header)
    }

    /// What a received packet's destination is to us; `None` drops it.
    fn route_input(&mut self, packet: &Packet, src: IpAddr, dst: IpAddr, tos: u8) -> Option<RouteKind> {
        let family = Family::of(dst);
        let interface = self.interfaces.get(packet.interface)?;
        if dst.is_multicast() {
            self.statistics.ip[family.index()].in_multicast += 1;
            let wanted = interface.groups.contains_key(&dst) || interface.is_loopback();
            return wanted.then_some(RouteKind::Multicast);
        }
        if matches!(dst, IpAddr::V4(dst) if dst.is_broadcast()) {
            self.statistics.ip[0].in_broadcast += 1;
            return Some(RouteKind::Broadcast);
        }
        let forwarding = interface.settings.forwarding[family.index()];
        // A link-local address is ours only on its own link; the loopback carries those of all.
        if dst.is_ipv6() && is_link_local(dst) {
            let ours = interface.has_address(dst) || (interface.is_loopback() && self.interfaces.owner(dst).is_some());
            return ours.then_some(RouteKind::Local);
        }
        let query = Query { src: Some(src), input: packet.interface, mark: packet.mark, tos, ..Query::to(dst) };
        let decision = match self.routes.lookup(&query, &self.interfaces) {
            Ok(decision) => decision,
            Err(errno) => {
                self.statistics.ip[family.index()].in_no_routes += 1;
                if forwarding && packet.kind == PacketKind::Host {
                    self.icmp_no_route(packet, errno);
                }
                return None;
            }
        };
        if !self.passes_reverse_path(packet, src, decision.kind) {
            self.statistics.ip[family.index()].in_address_errors += 1;
            return None;
        }
        match decision.kind {
            RouteKind::Local => Some(RouteKind::Local),
            RouteKind::Broadcast => {
                self.statistics.ip[0].in_broadcast += 1;
                Some(RouteKind::Broadcast)
            }
            // Only what was sent to this station is forwarded, and nothing that came in a group frame.
            _ if packet.kind != PacketKind::Host || !forwarding => {
                self.statistics.ip[family.index()].in_address_errors += 1;
                None
            }
            _ => Some(RouteKind::Unicast),
        }
    }

    /// `rp_filter` (RFC 3704): would an answer leave where this came in?
    fn passes_reverse_path(&self, packet: &Packet, src: IpAddr, kind: RouteKind) -> bool {
        let Some(interface) = self.interfaces.get(packet.interface) else { return false };
        let mode = interface.settings.rp_filter;
        if src.is_ipv6() || mode == 0 || interface.is_loopback() || src.is_unspecified() || kind == RouteKind::Broadcast {
            return true;
        }
        match self.routes.lookup(&Query { mark: packet.mark, ..Query::to(src) }, &self.interfaces) {
            Ok(back) if back.kind == RouteKind::Unicast => mode == 2 || back.interface == packet.interface,
            _ => false,
        }
    }

    /// An IPv6 packet.
    pub(crate) fn ipv6_input(&mut self, mut packet: Packet) {
        self.statistics.ip[1].in_receives += 1;
        self.statistics.ip[1].in_bytes += packet.len() as u64;
        let Some(interface) = self.interfaces.get(packet.interface) else { return };
        if interface.settings.disable_ipv6 {
            self.statistics.ip[1].in_discards += 1;
            return;
        }
        let loops = interface.is_loopback();
        let parsed = if packet.gso.is_some() { Ipv6Header::parse_quoted(packet.bytes()) } else { Ipv6Header::parse(packet.bytes()) };
        let Ok(header) = parsed else {
            self.statistics.ip[1].in_header_errors += 1;
            return;
        };
        if packet.gso.is_none() || header.payload_len != 0 {
            packet.truncate(ipv6::HEADER_LEN + usize::from(header.payload_len));
        }
        let martian = header.src.is_multicast()
            || header.dst.is_unspecified()
            || ((header.src.is_loopback() || header.dst.is_loopback()) && !loops)
            || (header.dst.is_multicast() && header.dst.octets()[1] & 0xf == 0);
        if martian {
            self.statistics.ip[1].in_address_errors += 1;
            return;
        }
        if self.judge(&mut packet, Hook::PreRouting, InterfaceId::NONE) == Verdict::Drop {
            return;
        }
        let Some((src, dst)) = super::addresses(&packet) else { return };
        let Some(kind) = self.route_input(&packet, src, dst, header.traffic_class) else { return };
        if kind == RouteKind::Unicast {
            self.forward(packet);
            return;
        }
        self.ipv6_local(packet, src, dst, kind);
    }

    fn ipv6_local(&mut self, mut packet: Packet, src: IpAddr, dst: IpAddr, kind: RouteKind) {
        let mut walked = match ipv6::walk(packet.bytes()) {
            Ok(walked) => walked,
            Err(problem) => {
                self.statistics.ip[1].in_header_errors += 1;
                if let Problem::Parameter { code, pointer, even_multicast } = problem
                    && (kind == RouteKind::Local || even_multicast)
                {
                    self.icmp_parameter_problem(&packet, code, pointer);
                }
                return;
            }
        };
        // An atomic fragment is a whole packet that carries the header for nothing (RFC 6946).
        if let Some((fragment, at)) = walked.fragment
            && (fragment.offset != 0 || fragment.more)
        {
            let next_header_at = previous_header(packet.bytes(), at);
            let Some(whole) = self.reassemble_v6(packet, src, dst, at, next_header_at) else { return };
            packet = whole;
            match ipv6::walk(packet.bytes()) {
                Ok(again) if again.fragment.is_none() => walked = again,
                _ => return,
            }
        }
        let Ok(header) = Ipv6Header::parse_quoted(packet.bytes()) else { return };
        let info = IpInfo {
            src,
            dst,
            protocol: walked.protocol,
            ttl: header.hop_limit,
            tos: header.traffic_class,
            transport: walked.offset,
            interface: packet.interface,
            kind,
        };
        if info.protocol == protocol::NO_NEXT {
            return;
        }
        self.deliver_local(packet, info);
    }

    fn deliver_local(&mut self, mut packet: Packet, info: IpInfo) {
        if self.judge(&mut packet, Hook::LocalIn, InterfaceId::NONE) == Verdict::Drop {
            return;
        }
        self.statistics.ip[Family::of(info.dst).index()].in_delivers += 1;
        self.deliver(Delivery::Packet(packet, info));
    }
}

/// Where the byte is that names the header at `at`.
fn previous_header(packet: &[u8], at: usize) -> usize {
    let (mut here, mut names_next) = (ipv6::HEADER_LEN, 6);
    // The walk has seen that these lengths lead to `at`; each step is at least eight bytes.
    while here < at {
        names_next = here;
        here += (packet.get(here + 1).map_or(0, |len| usize::from(*len)) + 1) * 8;
    }
    names_next
}
