//! The IP layer of both families: out (this file), in (`input`), through (`forward`), in pieces (`fragment`, `reassembly`), and ICMP (`icmp`).
//!
//! Follows RFC 791, RFC 1122, RFC 1812, RFC 8200, RFC 8201.

pub(crate) mod forward;
pub(crate) mod fragment;
pub(crate) mod icmp;
pub(crate) mod input;
pub(crate) mod reassembly;

use core::net::{IpAddr, Ipv4Addr};

use abi::Errno;

use crate::core::{Core, MAX_BACKLOG};
use crate::hook::{Hook, Verdict};
use crate::interface::{InterfaceId, Scope, source_rank};
use crate::packet::Packet;
use crate::prefix::{Family, is_link_local};
use crate::route::{Decision, Query, RouteKind};
use crate::wire::ipv4::{self, Ipv4Header};
use crate::wire::ipv6::{self, Ipv6Header};

/// What a sender wants of path MTU discovery (`IP_PMTUDISC_*`, ip(7)).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PathMtu {
    /// Never set DF; fragment here.
    Dont,
    /// Set DF while the packet fits; fragment here when it does not.
    #[default]
    Want,
    /// Always set DF; EMSGSIZE when the packet does not fit the path.
    Do,
    /// Always set DF, and look only at the interface's MTU.
    Probe,
    /// Never set DF, look only at the interface's MTU, refuse to fragment.
    Interface,
    /// As `Interface`, but fragment.
    Omit,
}

/// What goes into the IP header and how the packet is routed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SendOptions {
    /// Hop limit; `None` is the default for the kind of destination.
    pub ttl: Option<u8>,
    /// Traffic class byte.
    pub tos: u8,
    /// Path MTU discovery.
    pub path_mtu: PathMtu,
    /// `SO_MARK`
    pub mark: u32,
    /// `SO_PRIORITY`
    pub priority: u32,
    /// Bound to leave on.
    pub interface: InterfaceId,
    /// IPv4 options.
    pub options: ipv4::Options,
    /// IPv6 flow label.
    pub flow_label: u32,
    /// Members on this machine hear what is sent to a group.
    pub multicast_loop: bool,
    /// Put a hop-by-hop router alert in front (MLD).
    pub router_alert: bool,
}

impl Default for SendOptions {
    fn default() -> SendOptions {
        SendOptions {
            ttl: None,
            tos: 0,
            path_mtu: PathMtu::Want,
            mark: 0,
            priority: 0,
            interface: InterfaceId::NONE,
            options: ipv4::Options::NONE,
            flow_label: 0,
            multicast_loop: true,
            router_alert: false,
        }
    }
}

impl Core {
    /// Where a packet goes, with a source address chosen when the query leaves it open.
    ///
    /// ENETUNREACH without a route, EADDRNOTAVAIL without a source, EINVAL for a link-local destination without an interface, or what a
    /// refusing route says.
    pub fn route(&self, query: &Query) -> Result<(Decision, IpAddr), Errno> {
        let mut decision = match query.dst {
            IpAddr::V4(Ipv4Addr::BROADCAST) => self.route_limited_broadcast(query)?,
            dst if query.output == InterfaceId::NONE && dst.is_ipv6() && is_link_local(dst) && self.interfaces.owner(dst).is_none() => {
                return Err(Errno::EINVAL);
            }
            dst => match self.routes.lookup(query, &self.interfaces) {
                Ok(decision) => decision,
                // A bound sender reaches its link without any route, as Linux assumes it for multicast and for IPv4.
                Err(Errno::ENETUNREACH) if query.output != InterfaceId::NONE && (dst.is_multicast() || dst.is_ipv4()) => {
                    self.direct(query.output, dst)
                }
                Err(errno) => return Err(errno),
            },
        };
        if query.dst.is_multicast() {
            decision.kind = RouteKind::Multicast;
            decision.next = query.dst;
        }
        let source = match query.src.or(decision.source) {
            Some(source) => source,
            None => self.source(&decision, query.dst).ok_or(Errno::EADDRNOTAVAIL)?,
        };
        Ok((decision, source))
    }

    fn direct(&self, interface: InterfaceId, next: IpAddr) -> Decision {
        let (kind, via_gateway, source) = (RouteKind::Unicast, false, None);
        Decision { kind, interface, next, via_gateway, source, mtu: 0, advertised_mss: 0, initial_window: 0 }
    }

    fn route_limited_broadcast(&self, query: &Query) -> Result<Decision, Errno> {
        let id = match query.output.some() {
            Some(id) => id,
            None => self.routes.lookup(query, &self.interfaces)?.interface,
        };
        Ok(Decision { kind: RouteKind::Broadcast, ..self.direct(id, query.dst) })
    }

    /// An address to send from.
    fn source(&self, decision: &Decision, dst: IpAddr) -> Option<IpAddr> {
        if decision.kind == RouteKind::Local {
            return Some(dst);
        }
        let own = self.interfaces.get(decision.interface)?;
        match dst {
            IpAddr::V4(_) => own.source_for(decision.next, self.now_ns).or_else(|| {
                let others = self.interfaces.iter().filter(|interface| interface.up && !interface.is_loopback());
                others.flat_map(|interface| interface.usable(Family::V4)).find(|a| a.scope == Scope::Universe).map(|a| a.prefix.address)
            }),
            // Link-local and group destinations need an address of that link; others may borrow.
            IpAddr::V6(_) if is_link_local(dst) || dst.is_multicast() => own.source_for(dst, self.now_ns),
            IpAddr::V6(to) => {
                let all = self.interfaces.iter().filter(|interface| interface.up);
                let candidates = all.flat_map(|interface| interface.usable(Family::V6).map(move |address| (interface.id, address)));
                candidates
                    .filter(|(id, address)| address.scope != Scope::Host && (*id == own.id || !is_link_local(address.prefix.address)))
                    .max_by_key(|(id, address)| {
                        let (same, scope, fresh, common) = source_rank(address, to, self.now_ns);
                        (same, scope, fresh, *id == own.id, common)
                    })
                    .map(|(_, address)| address.prefix.address)
            }
        }
    }

    /// The most bytes that an IP packet to `dst` may have.
    #[must_use]
    pub fn mtu(&self, decision: &Decision, dst: IpAddr) -> u32 {
        let own = self.interface_mtu(decision, dst);
        let path = self.routes.path_mtu(dst, self.now_ns).unwrap_or(u32::MAX);
        let decreed = if decision.mtu == 0 { u32::MAX } else { decision.mtu };
        own.min(path).min(decreed)
    }

    pub(crate) fn interface_mtu(&self, decision: &Decision, dst: IpAddr) -> u32 {
        let interface = match decision.kind {
            RouteKind::Local => self.interfaces.loopback(),
            _ => self.interfaces.get(decision.interface),
        };
        interface.map_or(1500, |interface| interface.mtu_for(Family::of(dst)))
    }

    /// Puts an IP header in front of a transport packet and sends it on its way.
    ///
    /// EMSGSIZE when it may not be fragmented and does not fit, EPERM when a filter drops it, or what route and device say.
    pub fn ip_send(
        &mut self,
        decision: &Decision,
        src: IpAddr,
        dst: IpAddr,
        protocol: u8,
        options: &SendOptions,
        mut packet: Packet,
    ) -> Result<(), Errno> {
        let family = Family::of(dst);
        self.statistics.ip[family.index()].out_requests += 1;
        packet.mark = options.mark;
        packet.priority = options.priority;
        let group = decision.kind == RouteKind::Multicast;
        let header_len = match family {
            Family::V4 => ipv4::HEADER_LEN + options.options.as_slice().len(),
            Family::V6 => ipv6::HEADER_LEN,
        };
        let local = self.interface_mtu(decision, dst);
        let mtu = match options.path_mtu {
            PathMtu::Probe | PathMtu::Interface | PathMtu::Omit => local,
            PathMtu::Dont | PathMtu::Want | PathMtu::Do => self.mtu(decision, dst),
        };
        let too_long = packet.gso.is_none() && packet.len() + header_len > mtu as usize;
        if too_long && matches!(options.path_mtu, PathMtu::Do | PathMtu::Probe | PathMtu::Interface) {
            self.statistics.ip[family.index()].fragment_failures += 1;
            return Err(Errno::EMSGSIZE);
        }
        if packet.gso.is_none() && packet.len() + header_len > 65_535 + if family == Family::V6 { 40 } else { 0 } {
            return Err(Errno::EMSGSIZE);
        }
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let dont_fragment = match options.path_mtu {
                    PathMtu::Do | PathMtu::Probe => true,
                    PathMtu::Want => !too_long && !self.config.no_path_mtu_discovery,
                    PathMtu::Dont | PathMtu::Interface | PathMtu::Omit => false,
                };
                let default_ttl = if group { 1 } else { self.config.default_ttl };
                let header = Ipv4Header {
                    tos: options.tos,
                    total_len: u16::try_from(packet.len() + header_len).unwrap_or(0),
                    ident: self.random.next_u32() as u16,
                    dont_fragment,
                    more_fragments: false,
                    fragment_offset: 0,
                    ttl: options.ttl.unwrap_or(default_ttl),
                    protocol,
                    src,
                    dst,
                    options: options.options,
                };
                header.emit(packet.push(header_len));
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut next_header = protocol;
                if options.router_alert {
                    packet.push(8).copy_from_slice(&ipv6::HOP_BY_HOP_MLD);
                    packet.bytes_mut()[0] = protocol;
                    next_header = crate::wire::protocol::HOP_BY_HOP;
                }
                let default_ttl = self.interfaces.get(decision.interface).map_or(64, |interface| interface.settings.hop_limit);
                let header = Ipv6Header {
                    traffic_class: options.tos,
                    flow_label: options.flow_label,
                    payload_len: u16::try_from(packet.len()).unwrap_or(0),
                    next_header,
                    hop_limit: options.ttl.unwrap_or(if group { 1 } else { default_ttl }),
                    src,
                    dst,
                };
                header.emit(packet.push(ipv6::HEADER_LEN));
            }
            _ => return Err(Errno::EAFNOSUPPORT),
        }
        self.send_local(decision, dst, options, packet, mtu)
    }

    /// A packet of ours with its IP header: filters, loops it back to members here, and sends it.
    pub(crate) fn send_local(
        &mut self,
        decision: &Decision,
        dst: IpAddr,
        options: &SendOptions,
        mut packet: Packet,
        mtu: u32,
    ) -> Result<(), Errno> {
        let mark = packet.mark;
        let mut decision = *decision;
        if !self.filters.is_empty() {
            if self.judge(&mut packet, Hook::LocalOut, decision.interface) == Verdict::Drop {
                return Err(Errno::EPERM);
            }
            // Address translation or a new mark may want another way.
            let (src, now_dst) = addresses(&packet).ok_or(Errno::EINVAL)?;
            if now_dst != dst || packet.mark != mark {
                let query = Query { src: Some(src), mark: packet.mark, output: options.interface, ..Query::to(now_dst) };
                decision = self.route(&query)?.0;
            }
        }
        let index = Family::of(dst).index();
        match decision.kind {
            RouteKind::Multicast => {
                self.statistics.ip[index].out_multicast += 1;
                let member = self.interfaces.get(decision.interface).is_some_and(|interface| interface.groups.contains_key(&dst));
                if options.multicast_loop && member {
                    self.loop_back(&packet, decision.interface);
                }
                if options.ttl == Some(0) || is_interface_local(dst) {
                    return Ok(());
                }
            }
            RouteKind::Broadcast => {
                self.statistics.ip[index].out_broadcast += 1;
                self.loop_back(&packet, decision.interface);
            }
            _ => {}
        }
        self.ip_output(&decision, packet, mtu)
    }

    /// What a multicast or broadcast sender's own machine hears.
    fn loop_back(&mut self, packet: &Packet, interface: InterfaceId) {
        if self.backlog.len() >= MAX_BACKLOG {
            return;
        }
        let mut copy = packet.clone();
        copy.interface = interface;
        if copy.checksum == crate::packet::Checksum::InData {
            copy.checksum = crate::packet::Checksum::Verified;
        }
        copy.kind = crate::packet::PacketKind::Multicast;
        self.backlog.push_back(copy);
    }

    /// A packet with its IP header and its way: filters it for the last time, cuts it to the MTU and hands it to the neighbour.
    pub(crate) fn ip_output(&mut self, decision: &Decision, mut packet: Packet, mtu: u32) -> Result<(), Errno> {
        if self.judge(&mut packet, Hook::PostRouting, decision.interface) == Verdict::Drop {
            return Err(Errno::EPERM);
        }
        let index = usize::from(packet.bytes().first().is_some_and(|byte| byte >> 4 == 6));
        self.statistics.ip[index].out_bytes += packet.len() as u64;
        if packet.len() <= mtu as usize || packet.gso.is_some() {
            self.statistics.ip[index].out_transmits += 1;
            return self.send_to_neighbour(decision, packet);
        }
        let ident = self.random.next_u32();
        let Some(pieces) = fragment::fragment(packet, mtu as usize, ident) else {
            self.statistics.ip[index].fragment_failures += 1;
            return Err(Errno::EMSGSIZE);
        };
        self.statistics.ip[index].fragmented += 1;
        for piece in pieces {
            self.statistics.ip[index].fragments_created += 1;
            self.statistics.ip[index].out_transmits += 1;
            self.send_to_neighbour(decision, piece)?;
        }
        Ok(())
    }
}

/// Source and destination of a packet that starts at its IP header.
pub(crate) fn addresses(packet: &Packet) -> Option<(IpAddr, IpAddr)> {
    match packet.bytes().first()? >> 4 {
        4 => Ipv4Header::parse_quoted(packet.bytes()).ok().map(|header| (header.src.into(), header.dst.into())),
        6 => Ipv6Header::parse_quoted(packet.bytes()).ok().map(|header| (header.src.into(), header.dst.into())),
        _ => None,
    }
}

fn is_interface_local(dst: IpAddr) -> bool {
    matches!(dst, IpAddr::V6(dst) if dst.octets()[0] == 0xff && dst.octets()[1] & 0xf == 1)
}
