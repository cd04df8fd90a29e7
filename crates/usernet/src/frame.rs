//! Frames of the guest taken apart, and frames for it put together.
//!
//! Always true: what [`parse`] answers lies inside of the packet. Fragments are not put together: with the MTU that this network has nobody needs
//! to make them.

use net::packet::{Checksum, Packet};
use net::wire::checksum::Sum;
use net::wire::ethernet::{self, EthernetHeader, ethertype};
use net::wire::ipv4::{Ipv4Header, Options};
use net::wire::ipv6::{self, Ipv6Header};
use net::wire::{MacAddress, protocol};
use std::net::IpAddr;

/// Where in a frame the IP header starts.
pub const IP_AT: usize = ethernet::HEADER_LEN;
/// Hops that our packets have left.
const TTL: u8 = 64;

/// A whole IP packet of the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parsed {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
    /// Where the transport's header starts in the frame, and where its data ends.
    pub at: usize,
    pub end: usize,
    pub hop_limit: u8,
}

impl Parsed {
    /// The transport's header and data.
    #[must_use]
    pub fn payload<'a>(&self, packet: &'a Packet) -> &'a [u8] {
        packet.bytes().get(self.at..self.end).unwrap_or_default()
    }

    /// Whether the transport's checksum is right, or somebody else answers for it.
    #[must_use]
    pub fn is_intact(&self, packet: &Packet) -> bool {
        let payload = self.payload(packet);
        packet.checksum != Checksum::InData
            || match self.protocol {
                protocol::ICMP => Sum::new().with(payload).is_valid(),
                // No checksum was made, which only IPv4 allows.
                protocol::UDP if self.src.is_ipv4() && payload.get(6..8) == Some(&[0, 0]) => true,
                _ => Sum::pseudo(self.src, self.dst, self.protocol, payload.len()).with(payload).is_valid(),
            }
    }
}

/// Takes an IP frame apart; `None` for what is no whole, well-formed IP packet.
#[must_use]
pub fn parse(packet: &Packet, kind: u16) -> Option<Parsed> {
    let ip = packet.bytes().get(IP_AT..)?;
    if kind == ethertype::IPV4 {
        let header = Ipv4Header::parse(ip).ok()?;
        if header.is_fragment() {
            return None;
        }
        let (at, end) = (IP_AT + header.header_len(), IP_AT + usize::from(header.total_len));
        return Some(Parsed { src: header.src.into(), dst: header.dst.into(), protocol: header.protocol, at, end, hop_limit: header.ttl });
    }
    let header = Ipv6Header::parse(ip).ok()?;
    let end = ipv6::HEADER_LEN + usize::from(header.payload_len);
    let walked = ipv6::walk(ip.get(..end)?).ok()?;
    if walked.fragment.is_some() || walked.offset > end {
        return None;
    }
    Some(Parsed {
        src: header.src.into(),
        dst: header.dst.into(),
        protocol: walked.protocol,
        at: IP_AT + walked.offset,
        end: IP_AT + end,
        hop_limit: header.hop_limit,
    })
}

/// Bytes in front of the transport's header in a frame of ours to `dst`.
#[must_use]
pub fn headers_len(dst: IpAddr) -> usize {
    IP_AT + if dst.is_ipv4() { net::wire::ipv4::HEADER_LEN } else { ipv6::HEADER_LEN }
}

/// Who sends a frame to whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    pub src_mac: MacAddress,
    pub dst_mac: MacAddress,
    pub src: IpAddr,
    pub dst: IpAddr,
}

/// Writes the Ethernet and IP headers into the [`headers_len`] first bytes of a frame that has its transport part already.
pub fn emit_headers(packet: &mut Packet, route: Route, protocol: u8, hop_limit: Option<u8>) {
    let transport_len = packet.len().saturating_sub(headers_len(route.dst));
    let bytes = packet.bytes_mut();
    let ethertype = if route.dst.is_ipv4() { ethertype::IPV4 } else { ethertype::IPV6 };
    EthernetHeader { dst: route.dst_mac, src: route.src_mac, ethertype }.emit(bytes);
    let Some(ip) = bytes.get_mut(IP_AT..) else { return };
    match (route.src, route.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Ipv4Header {
            tos: 0,
            total_len: (transport_len + net::wire::ipv4::HEADER_LEN) as u16,
            ident: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: hop_limit.unwrap_or(TTL),
            protocol,
            src,
            dst,
            options: Options::NONE,
        }
        .emit(ip),
        (IpAddr::V6(src), IpAddr::V6(dst)) => Ipv6Header {
            traffic_class: 0,
            flow_label: 0,
            payload_len: transport_len as u16,
            next_header: protocol,
            hop_limit: hop_limit.unwrap_or(TTL),
            src,
            dst,
        }
        .emit(ip),
        // The callers take both addresses from one flow, which has one family.
        _ => {}
    }
}

/// Leaves the transport's checksum to whoever needs it in the bytes: the field at `offset` gets the pseudo header's sum.
pub fn leave_checksum(packet: &mut Packet, src: IpAddr, dst: IpAddr, protocol: u8, offset: usize) {
    let at = headers_len(dst);
    let sum = Sum::pseudo(src, dst, protocol, packet.len().saturating_sub(at)).folded();
    if let Some(field) = packet.bytes_mut().get_mut(at + offset..at + offset + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    packet.set_partial_checksum(at, offset);
}

/// Big-endian numbers out of messages.
pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
