//! Packets that go through this machine (RFC 1812 5, RFC 8200 3).

use core::net::IpAddr;

use crate::core::Core;
use crate::hook::{Hook, Verdict};
use crate::packet::Packet;
use crate::prefix::{Family, is_link_local};
use crate::route::{Decision, Query};
use crate::wire::checksum::adjust;
use crate::wire::icmp::{v4, v6};
use crate::wire::ipv4::Ipv4Header;
use crate::wire::{be16, put};

impl Core {
    /// Sends a received packet on. It starts at its IP header and is not for us.
    pub(crate) fn forward(&mut self, mut packet: Packet) {
        let Some((src, dst)) = super::addresses(&packet) else { return };
        let family = Family::of(dst);
        let index = family.index();
        if !may_travel(src, dst) {
            self.statistics.ip[index].in_address_errors += 1;
            return;
        }
        let query = self.forward_query(&packet, src, dst);
        let Ok(decision) = self.routes.lookup(&query, &self.interfaces) else { return };
        let Some(ttl) = packet.bytes().get(if family == Family::V4 { 8 } else { 7 }).copied() else { return };
        if ttl <= 1 {
            self.statistics.ip[index].in_header_errors += 1;
            self.icmp_time_exceeded(&packet, 0);
            return;
        }
        let mtu = match decision.mtu {
            0 => self.interface_mtu(&decision, dst),
            decreed => decreed.min(self.interface_mtu(&decision, dst)),
        };
        if !self.fits(&packet, family, mtu) {
            return;
        }
        if self.judge(&mut packet, Hook::Forward, decision.interface) == Verdict::Drop {
            return;
        }
        if decision.interface == packet.interface {
            self.send_redirect(&packet, src, dst, &decision);
        }
        decrement_ttl(&mut packet, family);
        self.statistics.ip[index].forwarded += 1;
        let _ = self.ip_output(&decision, packet, mtu);
    }

    fn forward_query(&self, packet: &Packet, src: IpAddr, dst: IpAddr) -> Query {
        let flow = self.random.flow(b'm', (src, 0), (dst, 0), 0);
        let tos = match packet.bytes() {
            [first, second, ..] if first >> 4 == 4 => *second,
            _ => 0,
        };
        Query { src: Some(src), input: packet.interface, mark: packet.mark, tos, flow, ..Query::to(dst) }
    }

    /// Whether the packet may go out with this MTU; if not, its sender hears of it.
    fn fits(&mut self, packet: &Packet, family: Family, mtu: u32) -> bool {
        let len = match packet.gso {
            // It will be cut: what counts is one segment with its headers (at most 120 bytes of them).
            Some(gso) => usize::from(gso.size) + family.header_len() + 20,
            None => packet.len(),
        };
        if len <= mtu as usize {
            return true;
        }
        match family {
            Family::V4 => {
                let may = packet.gso.is_none() && Ipv4Header::parse_quoted(packet.bytes()).is_ok_and(|header| !header.dont_fragment);
                if !may {
                    self.statistics.ip[0].fragment_failures += 1;
                    self.icmp_error(packet, v4::UNREACHABLE, v4::unreachable::FRAGMENTATION, mtu & 0xffff);
                }
                may
            }
            Family::V6 => {
                self.statistics.ip[1].in_too_big += 1;
                self.icmp_error(packet, v6::TOO_BIG, 0, mtu);
                false
            }
        }
    }

    /// Tells a neighbour that a better way starts at another neighbour (RFC 1812 5.2.7.2, RFC 4861 8.2).
    fn send_redirect(&mut self, packet: &Packet, src: IpAddr, dst: IpAddr, decision: &Decision) {
        let Some(interface) = self.interfaces.get(packet.interface) else { return };
        let neighbour = interface.addresses.iter().any(|address| address.prefix.contains(src));
        if !interface.settings.send_redirects || !neighbour {
            return;
        }
        match decision.next {
            IpAddr::V4(gateway) => self.icmp_error(packet, v4::REDIRECT, 1, gateway.to_bits()),
            IpAddr::V6(target) => self.nd_redirect(packet, dst, target),
        }
    }
}

/// Whether the addresses may cross a router at all.
fn may_travel(src: IpAddr, dst: IpAddr) -> bool {
    let stays = |address: IpAddr| address.is_loopback() || (address.is_ipv6() && is_link_local(address));
    !stays(src) && !stays(dst) && !src.is_unspecified() && !dst.is_multicast()
}

fn decrement_ttl(packet: &mut Packet, family: Family) {
    let bytes = packet.bytes_mut();
    match family {
        Family::V4 => {
            let (Some(old), Some(check)) = (be16(bytes, 8), be16(bytes, 10)) else { return };
            let new = old.wrapping_sub(0x100);
            put(bytes, 8, &new.to_be_bytes());
            put(bytes, 10, &adjust(check, old, new).to_be_bytes());
        }
        Family::V6 => {
            if let Some(hops) = bytes.get_mut(7) {
                *hops = hops.saturating_sub(1);
            }
        }
    }
}
