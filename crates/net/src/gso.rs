//! Cutting one large TCP packet into segments (generic segmentation offload), for devices that can't.

use crate::packet::{Checksum, Packet};
use crate::wire::checksum::Sum;
use crate::wire::ipv4::Ipv4Header;
use crate::wire::ipv6;
use crate::wire::tcp::Flags;
use crate::wire::{be16, be32, protocol, put};

/// The segments of `frame`, whose IP header is `link_len` bytes in, each with a finished checksum; nothing when it is not TCP after all.
#[must_use]
pub fn segment(frame: &Packet, link_len: usize) -> Vec<Packet> {
    cut(frame, link_len).unwrap_or_default()
}

fn cut(frame: &Packet, link_len: usize) -> Option<Vec<Packet>> {
    let size = usize::from(frame.gso?.size).max(1);
    let bytes = frame.bytes();
    let network = bytes.get(link_len..)?;
    let (v6, ip_len) = match network.first()? >> 4 {
        4 => (false, usize::from(network[0] & 0xf) * 4),
        6 => (true, ipv6::walk(network).ok().filter(|e| e.protocol == protocol::TCP)?.offset),
        _ => return None,
    };
    let tcp_at = link_len + ip_len;
    let tcp = bytes.get(tcp_at..)?;
    let tcp_len = usize::from(*tcp.get(12)? >> 4) * 4;
    let headers = bytes.get(..tcp_at + tcp_len.max(20))?;
    let payload = &bytes[headers.len()..];
    let (seq, flags, ident) = (be32(tcp, 4)?, Flags(*tcp.get(13)?), be16(network, 4)?);
    let count = payload.len().div_ceil(size).max(1);
    let mut segments = Vec::with_capacity(count);
    for (index, piece) in payload.chunks(size).enumerate() {
        let mut segment = Packet::with_capacity(headers.len() + piece.len());
        segment.extend(headers);
        segment.extend(piece);
        (segment.mark, segment.priority, segment.at_ns, segment.interface, segment.kind) =
            (frame.mark, frame.priority, frame.at_ns, frame.interface, frame.kind);
        let out = segment.bytes_mut();
        let ip_total = out.len() - link_len;
        let (_, ip) = out.split_at_mut(link_len);
        if v6 {
            put(ip, 4, &((ip_total - ipv6::HEADER_LEN) as u16).to_be_bytes());
        } else {
            put(ip, 4, &ident.wrapping_add(index as u16).to_be_bytes());
            put(ip, 2, &(ip_total as u16).to_be_bytes());
            put(ip, 10, &[0, 0]);
            let check = crate::wire::checksum::checksum(ip.get(..ip_len)?);
            put(ip, 10, &check.to_be_bytes());
        }
        // The first keeps CWR, the last FIN and PSH (Linux: tcp_gso_segment).
        let mut own = flags;
        if index > 0 {
            own = own.without(Flags::CWR);
        }
        if index + 1 < count {
            own = own.without(Flags::FIN).without(Flags::PSH);
        }
        let (src, dst) = addresses(ip, v6)?;
        let tcp = ip.get_mut(ip_len..)?;
        put(tcp, 4, &seq.wrapping_add((index * size) as u32).to_be_bytes());
        put(tcp, 13, &[own.0]);
        put(tcp, 16, &[0, 0]);
        let check = Sum::pseudo(src, dst, protocol::TCP, tcp.len()).with(tcp).finish();
        put(tcp, 16, &check.to_be_bytes());
        segment.checksum = Checksum::InData;
        segments.push(segment);
    }
    Some(segments)
}

fn addresses(ip: &[u8], v6: bool) -> Option<(core::net::IpAddr, core::net::IpAddr)> {
    if v6 {
        let header = ipv6::Ipv6Header::parse_quoted(ip).ok()?;
        Some((header.src.into(), header.dst.into()))
    } else {
        let header = Ipv4Header::parse_quoted(ip).ok()?;
        Some((header.src.into(), header.dst.into()))
    }
}
