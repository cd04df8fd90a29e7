//! ICMP of both families: echo, errors in and out, path MTU, redirects (RFC 792, RFC 1122 3.2.2, RFC 1191, RFC 1812 4.3, RFC 4443, RFC 8201).
//!
//! Always true: no error answers an error, a later fragment, a group or broadcast, or a sender that can't be named; errors are limited by
//! `icmp_msgs_per_sec`; an error is believed only when it quotes one of our own addresses as the sender.

use core::net::{IpAddr, Ipv4Addr};

use abi::Errno;

use crate::core::{Core, Delivery, IcmpError, IpInfo, MILLISECOND, SECOND};
use crate::frame::is_trusted;
use crate::interface::InterfaceId;
use crate::ip::SendOptions;
use crate::packet::{Packet, PacketKind};
use crate::prefix::Family;
use crate::route::{Query, RouteKind};
use crate::wire::checksum::Sum;
use crate::wire::icmp::{HEADER_LEN, IcmpHeader, v4, v6};
use crate::wire::ipv4::Ipv4Header;
use crate::wire::ipv6::{self, Ipv6Header};
use crate::wire::{be16, protocol, put};

impl Core {
    /// An ICMP message of either family for this machine; sockets have had their look at it.
    pub(crate) fn icmp_input(&mut self, packet: &Packet, info: &IpInfo) {
        let message = packet.bytes().get(info.transport..).unwrap_or_default();
        let family = Family::of(info.dst);
        let index = family.index();
        self.statistics.icmp[index].in_messages += 1;
        let sum = match family {
            Family::V4 => Sum::new(),
            Family::V6 => Sum::pseudo(info.src, info.dst, protocol::ICMPV6, message.len()),
        };
        if !is_trusted(packet) && !sum.with(message).is_valid() {
            self.statistics.icmp[index].in_checksum_errors += 1;
            self.statistics.icmp[index].in_errors += 1;
            return;
        }
        let Ok(header) = IcmpHeader::parse(message) else {
            self.statistics.icmp[index].in_errors += 1;
            return;
        };
        match family {
            Family::V4 => self.icmp_v4(info, header, message),
            Family::V6 => self.icmp_v6(packet, info, header, message),
        }
    }

    fn icmp_v4(&mut self, info: &IpInfo, header: IcmpHeader, message: &[u8]) {
        let counters = &mut self.statistics.icmp[0];
        match header.kind {
            v4::ECHO_REQUEST => {
                counters.in_echos += 1;
                self.echo_reply(info, message, v4::ECHO_REPLY);
            }
            v4::ECHO_REPLY => counters.in_echo_replies += 1,
            v4::UNREACHABLE | v4::TIME_EXCEEDED | v4::PARAMETER => {
                match header.kind {
                    v4::UNREACHABLE => counters.in_unreachable += 1,
                    v4::TIME_EXCEEDED => counters.in_time_exceeded += 1,
                    _ => counters.in_parameter += 1,
                }
                self.icmp_v4_error(info, header, &message[HEADER_LEN..]);
            }
            v4::REDIRECT => {
                counters.in_redirects += 1;
                self.redirected(info, header, &message[HEADER_LEN..]);
            }
            v4::TIMESTAMP if info.kind == RouteKind::Local && message.len() >= 20 => {
                // Milliseconds since midnight UT are not known without a calendar; RFC 792 marks other clocks by the top bit.
                let stamp = ((self.now_ns / MILLISECOND) as u32 & 0x7fff_ffff | 0x8000_0000).to_be_bytes();
                let mut reply = message[..20].to_vec();
                reply[0] = v4::TIMESTAMP_REPLY;
                put(&mut reply, 12, &stamp);
                put(&mut reply, 16, &stamp);
                self.send_icmp(info.dst, info.src, info.interface, info.tos, &reply);
            }
            _ => {}
        }
    }

    fn icmp_v6(&mut self, packet: &Packet, info: &IpInfo, header: IcmpHeader, message: &[u8]) {
        let counters = &mut self.statistics.icmp[1];
        match header.kind {
            v6::ECHO_REQUEST => {
                counters.in_echos += 1;
                self.echo_reply(info, message, v6::ECHO_REPLY);
            }
            v6::ECHO_REPLY => counters.in_echo_replies += 1,
            v6::UNREACHABLE | v6::TOO_BIG | v6::TIME_EXCEEDED | v6::PARAMETER => {
                match header.kind {
                    v6::UNREACHABLE => counters.in_unreachable += 1,
                    v6::TOO_BIG => counters.in_too_big += 1,
                    v6::TIME_EXCEEDED => counters.in_time_exceeded += 1,
                    _ => counters.in_parameter += 1,
                }
                self.icmp_v6_error(info, header, &message[HEADER_LEN..]);
            }
            v6::MLD_QUERY => self.mld_query(info, message),
            v6::MLD_REPORT => self.group_reported(info.interface, message.get(8..24)),
            v6::ROUTER_SOLICITATION..=v6::REDIRECT => self.nd_input(packet, info, message),
            _ => {}
        }
    }

    fn echo_reply(&mut self, info: &IpInfo, message: &[u8], kind: u8) {
        let ignored =
            self.config.echo_ignore_all || (info.kind != RouteKind::Local && info.dst.is_ipv4() && self.config.echo_ignore_broadcasts);
        if ignored || info.src.is_unspecified() {
            return;
        }
        self.statistics.icmp[Family::of(info.dst).index()].out_echo_replies += 1;
        let src = if info.kind == RouteKind::Local { Some(info.dst) } else { None };
        let mut reply = message.to_vec();
        reply[0] = kind;
        match src {
            Some(src) => self.send_icmp(src, info.src, info.interface, info.tos, &reply),
            None => {
                let query = Query { output: scoped(info.src, info.interface), ..Query::to(info.src) };
                if let Ok((_, src)) = self.route(&query) {
                    self.send_icmp(src, info.src, info.interface, info.tos, &reply);
                }
            }
        }
    }

    /// Sends an ICMP message; its checksum is filled in here.
    pub(crate) fn send_icmp(&mut self, src: IpAddr, dst: IpAddr, interface: InterfaceId, tos: u8, message: &[u8]) {
        let options = SendOptions { tos, interface: scoped(dst, interface), path_mtu: crate::ip::PathMtu::Dont, ..SendOptions::default() };
        self.send_icmp_with(src, dst, &options, message);
    }

    /// As [`Core::send_icmp`] with everything chosen by the caller.
    pub(crate) fn send_icmp_with(&mut self, src: IpAddr, dst: IpAddr, options: &SendOptions, message: &[u8]) {
        let family = Family::of(dst);
        let query = Query { src: Some(src), output: options.interface, mark: options.mark, tos: options.tos, ..Query::to(dst) };
        let Ok((decision, _)) = self.route(&query) else { return };
        let mut packet = Packet::copy_of(message);
        let (number, sum) = match family {
            Family::V4 => (protocol::ICMP, Sum::new()),
            Family::V6 => (protocol::ICMPV6, Sum::pseudo(src, dst, protocol::ICMPV6, message.len())),
        };
        let out = packet.bytes_mut();
        put(out, 2, &[0, 0]);
        let check = sum.with(out).finish();
        put(out, 2, &check.to_be_bytes());
        self.statistics.icmp[family.index()].out_messages += 1;
        let _ = self.ip_send(&decision, src, dst, number, options, packet);
    }

    /// Answers `original`, which starts at its IP header, with an error.
    pub(crate) fn icmp_error(&mut self, original: &Packet, kind: u8, code: u8, rest: u32) {
        let Some((src, dst)) = crate::ip::addresses(original) else { return };
        let family = Family::of(dst);
        let index = family.index();
        if !self.deserves_error(original, src, dst, kind) {
            return;
        }
        if !self.icmp_allowed() {
            self.statistics.icmp[index].out_rate_limited += 1;
            return;
        }
        let counters = &mut self.statistics.icmp[index];
        counters.out_errors += 1;
        match (family, kind) {
            (Family::V4, v4::UNREACHABLE) | (Family::V6, v6::UNREACHABLE) => counters.out_unreachable += 1,
            (Family::V4, v4::TIME_EXCEEDED) | (Family::V6, v6::TIME_EXCEEDED) => counters.out_time_exceeded += 1,
            (Family::V4, v4::PARAMETER) | (Family::V6, v6::PARAMETER) => counters.out_parameter += 1,
            (Family::V4, v4::REDIRECT) => counters.out_redirects += 1,
            (Family::V6, v6::TOO_BIG) => counters.out_too_big += 1,
            _ => {}
        }
        // As much as fits into 576 bytes (RFC 1812 4.3.2.3), or into IPv6's least MTU (RFC 4443 2.4).
        let room = if family == Family::V4 { 576 - 20 - HEADER_LEN } else { 1280 - 40 - HEADER_LEN };
        let quoted = &original.bytes()[..original.len().min(room)];
        let mut message = vec![0; HEADER_LEN];
        IcmpHeader { kind, code, rest }.emit(&mut message);
        message.extend_from_slice(quoted);
        let output = scoped(src, original.interface);
        let own = self.interfaces.owner(dst).map(|_| dst);
        let query = Query { src: own, output, ..Query::to(src) };
        let Ok((_, from)) = self.route(&query) else { return };
        self.send_icmp(from, src, output, 0, &message);
    }

    fn deserves_error(&self, original: &Packet, src: IpAddr, dst: IpAddr, kind: u8) -> bool {
        if src.is_unspecified() || src.is_multicast() || matches!(src, IpAddr::V4(Ipv4Addr::BROADCAST)) {
            return false;
        }
        let bytes = original.bytes();
        match dst {
            IpAddr::V4(dst) => {
                let Ok(header) = Ipv4Header::parse_quoted(bytes) else { return false };
                let group = dst.is_multicast() || dst.is_broadcast() || original.kind != PacketKind::Host;
                let is_error = header.protocol == protocol::ICMP
                    && bytes
                        .get(header.header_len())
                        .is_none_or(|kind| !matches!(*kind, v4::ECHO_REQUEST | v4::ECHO_REPLY | v4::TIMESTAMP | v4::TIMESTAMP_REPLY));
                !group && header.fragment_offset == 0 && !is_error
            }
            IpAddr::V6(dst) => {
                let group = dst.is_multicast() || original.kind != PacketKind::Host;
                let Ok(walked) = ipv6::walk(bytes) else { return !group || kind == v6::PARAMETER };
                let later = walked.fragment.is_some_and(|(fragment, _)| fragment.offset != 0);
                let is_error = walked.protocol == protocol::ICMPV6
                    && !later
                    && bytes.get(walked.offset).is_none_or(|kind| *kind < 128 || *kind == v6::REDIRECT);
                !is_error && !later && (!group || matches!(kind, v6::TOO_BIG | v6::PARAMETER))
            }
        }
    }

    /// A token bucket over all errors.
    fn icmp_allowed(&mut self) -> bool {
        let (tokens, at_ns) = self.icmp_tokens;
        let (rate, burst) = (u64::from(self.config.icmp_per_second), u64::from(self.config.icmp_burst));
        // Tokens are kept in billionths, so that no rate is lost to rounding.
        let fresh = if at_ns == 0 { burst * SECOND } else { tokens + (self.now_ns - at_ns.min(self.now_ns)).saturating_mul(rate) };
        let fresh = fresh.min(burst * SECOND);
        let allowed = fresh >= SECOND;
        self.icmp_tokens = (if allowed { fresh - SECOND } else { fresh }, self.now_ns.max(1));
        allowed
    }

    /// Time exceeded: code 0 in transit, 1 in reassembly.
    pub(crate) fn icmp_time_exceeded(&mut self, original: &Packet, code: u8) {
        let v6 = original.bytes().first().is_some_and(|byte| byte >> 4 == 6);
        self.icmp_error(original, if v6 { v6::TIME_EXCEEDED } else { v4::TIME_EXCEEDED }, code, 0);
    }

    /// IPv6 parameter problem.
    pub(crate) fn icmp_parameter_problem(&mut self, original: &Packet, code: u8, pointer: u32) {
        self.icmp_error(original, v6::PARAMETER, code, pointer);
    }

    /// No route for a packet that should be forwarded.
    pub(crate) fn icmp_no_route(&mut self, original: &Packet, errno: Errno) {
        let v6 = original.bytes().first().is_some_and(|byte| byte >> 4 == 6);
        self.statistics.ip[usize::from(v6)].out_no_routes += 1;
        match (v6, errno) {
            (_, Errno::EINVAL) => {}
            (false, Errno::EACCES) => self.icmp_error(original, v4::UNREACHABLE, v4::unreachable::ADMIN, 0),
            (false, Errno::EHOSTUNREACH) => self.icmp_error(original, v4::UNREACHABLE, v4::unreachable::HOST, 0),
            (false, _) => self.icmp_error(original, v4::UNREACHABLE, v4::unreachable::NET, 0),
            (true, Errno::EACCES) => self.icmp_error(original, v6::UNREACHABLE, v6::unreachable::ADMIN, 0),
            (true, _) => self.icmp_error(original, v6::UNREACHABLE, v6::unreachable::NO_ROUTE, 0),
        }
    }

    /// The neighbour of a packet on its way out does not answer: its sender hears of it, whether here or elsewhere.
    pub(crate) fn host_unreachable(&mut self, packet: Packet) {
        let Some((src, _)) = crate::ip::addresses(&packet) else { return };
        let v6 = src.is_ipv6();
        if self.interfaces.owner(src).is_some() {
            let header = if v6 {
                IcmpHeader { kind: v6::UNREACHABLE, code: v6::unreachable::ADDRESS, rest: 0 }
            } else {
                IcmpHeader { kind: v4::UNREACHABLE, code: v4::unreachable::HOST, rest: 0 }
            };
            self.deliver_error(src, header, packet.bytes(), packet.interface);
        } else if v6 {
            self.icmp_error(&packet, v6::UNREACHABLE, v6::unreachable::ADDRESS, 0);
        } else {
            self.icmp_error(&packet, v4::UNREACHABLE, v4::unreachable::HOST, 0);
        }
    }

    fn icmp_v4_error(&mut self, info: &IpInfo, header: IcmpHeader, quoted: &[u8]) {
        let Ok(inner) = Ipv4Header::parse_quoted(quoted) else {
            self.statistics.icmp[0].in_errors += 1;
            return;
        };
        let mut header = header;
        if (header.kind, header.code) == (v4::UNREACHABLE, v4::unreachable::FRAGMENTATION)
            && self.interfaces.owner(inner.src.into()).is_some()
        {
            let mtu = match header.rest & 0xffff {
                // Routers before RFC 1191 say nothing: the next lower plateau.
                0 => plateau(u32::from(inner.total_len)),
                mtu => mtu,
            };
            header.rest = mtu.max(self.config.min_path_mtu);
            self.learn_path_mtu(inner.dst.into(), header.rest);
        }
        self.deliver_error(info.src, header, quoted, info.interface);
    }

    fn icmp_v6_error(&mut self, info: &IpInfo, header: IcmpHeader, quoted: &[u8]) {
        let Ok(inner) = Ipv6Header::parse_quoted(quoted) else {
            self.statistics.icmp[1].in_errors += 1;
            return;
        };
        let mut header = header;
        if header.kind == v6::TOO_BIG && self.interfaces.owner(inner.src.into()).is_some() {
            header.rest = header.rest.max(1280);
            self.learn_path_mtu(inner.dst.into(), header.rest);
        }
        self.deliver_error(info.src, header, quoted, info.interface);
    }

    fn learn_path_mtu(&mut self, dst: IpAddr, mtu: u32) {
        let Ok((decision, _)) = self.route(&Query::to(dst)) else { return };
        if mtu < self.mtu(&decision, dst) {
            let expires_ns = self.now_ns + self.config.path_mtu_expires_s * SECOND;
            self.routes.set_path_mtu(dst, mtu, expires_ns);
            self.keep_house_at(expires_ns);
        }
    }

    fn deliver_error(&mut self, offender: IpAddr, header: IcmpHeader, quoted: &[u8], interface: InterfaceId) {
        let (local, remote, number, transport) = match quoted.first().map(|byte| byte >> 4) {
            Some(4) => {
                let Ok(inner) = Ipv4Header::parse_quoted(quoted) else { return };
                if inner.fragment_offset != 0 {
                    return;
                }
                (IpAddr::from(inner.src), IpAddr::from(inner.dst), inner.protocol, inner.header_len())
            }
            Some(6) => {
                let Ok(inner) = Ipv6Header::parse_quoted(quoted) else { return };
                let Ok(walked) = ipv6::walk(quoted) else { return };
                if walked.fragment.is_some_and(|(fragment, _)| fragment.offset != 0) {
                    return;
                }
                (IpAddr::from(inner.src), IpAddr::from(inner.dst), walked.protocol, walked.offset)
            }
            _ => return,
        };
        if self.interfaces.owner(local).is_none() {
            return;
        }
        let (errno, hard) = errno_of(remote.is_ipv6(), header.kind, header.code);
        let quoted = quoted.get(transport..).unwrap_or_default().to_vec();
        self.deliver(Delivery::Error(IcmpError {
            offender,
            icmp_type: header.kind,
            icmp_code: header.code,
            errno,
            hard,
            info: header.rest,
            local,
            remote,
            protocol: number,
            quoted,
            interface,
        }));
    }

    /// An ICMPv4 redirect: believed from the present gateway, towards a neighbour (RFC 1122 3.2.2.2).
    fn redirected(&mut self, info: &IpInfo, header: IcmpHeader, quoted: &[u8]) {
        let Ok(inner) = Ipv4Header::parse_quoted(quoted) else { return };
        let (gateway, dst) = (IpAddr::from(Ipv4Addr::from_bits(header.rest)), IpAddr::from(inner.dst));
        let Some(interface) = self.interfaces.get(info.interface) else { return };
        let on_link = interface.addresses.iter().any(|address| address.prefix.contains(gateway));
        let router = interface.settings.forwarding[0];
        if !interface.settings.accept_redirects[0] || router || !on_link || self.interfaces.owner(gateway).is_some() {
            return;
        }
        let Ok((decision, _)) = self.route(&Query::to(dst)) else { return };
        if decision.next == info.src && decision.interface == info.interface {
            let expires_ns = self.now_ns + 300 * SECOND;
            self.routes.set_redirect(dst, gateway, info.interface, expires_ns);
            self.keep_house_at(expires_ns);
        }
    }
}

/// The interface that an address needs to be told apart, or none.
pub(crate) fn scoped(address: IpAddr, interface: InterfaceId) -> InterfaceId {
    let local = address.is_ipv6() && (crate::prefix::is_link_local(address) || address.is_multicast());
    if local { interface } else { InterfaceId::NONE }
}

/// The next lower of the plateaus of RFC 1191 7.
fn plateau(len: u32) -> u32 {
    [32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68].into_iter().find(|mtu| *mtu < len).unwrap_or(68)
}

/// What a socket sees of an ICMP error, and whether it is final (RFC 1122 4.2.3.9; Linux's `icmp_err_convert` and `tab_unreach`).
pub(crate) fn errno_of(v6: bool, kind: u8, code: u8) -> (Errno, bool) {
    if v6 {
        return match (kind, code) {
            (v6::UNREACHABLE, 0) => (Errno::ENETUNREACH, false),
            (v6::UNREACHABLE, 1 | 5 | 6) => (Errno::EACCES, true),
            (v6::UNREACHABLE, 2 | 3) => (Errno::EHOSTUNREACH, false),
            (v6::UNREACHABLE, 4) => (Errno::ECONNREFUSED, true),
            (v6::TOO_BIG, _) => (Errno::EMSGSIZE, false),
            (v6::TIME_EXCEEDED, _) => (Errno::EHOSTUNREACH, false),
            (v6::PARAMETER, _) => (Errno::EPROTO, true),
            _ => (Errno::EPROTO, false),
        };
    }
    match (kind, code) {
        (v4::UNREACHABLE, 0 | 6 | 9 | 11) => (Errno::ENETUNREACH, code == 6 || code == 9),
        (v4::UNREACHABLE, 1 | 5 | 12) => (Errno::EHOSTUNREACH, false),
        (v4::UNREACHABLE, 2) => (Errno::ENOPROTOOPT, true),
        (v4::UNREACHABLE, 3) => (Errno::ECONNREFUSED, true),
        (v4::UNREACHABLE, 4) => (Errno::EMSGSIZE, false),
        (v4::UNREACHABLE, 7) => (Errno::EHOSTDOWN, true),
        (v4::UNREACHABLE, 8) => (Errno::ENONET, true),
        (v4::UNREACHABLE, _) => (Errno::EHOSTUNREACH, true),
        (v4::PARAMETER, _) => (Errno::EPROTO, true),
        _ => (Errno::EHOSTUNREACH, false),
    }
}

/// The ports that an error quotes.
pub(crate) fn quoted_ports(error: &IcmpError) -> Option<(u16, u16)> {
    Some((be16(&error.quoted, 0)?, be16(&error.quoted, 2)?))
}
