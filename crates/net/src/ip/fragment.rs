//! Cutting a packet that is longer than the MTU (RFC 791 3.2, RFC 8200 4.5).

use crate::packet::Packet;
use crate::wire::ipv4::Ipv4Header;
use crate::wire::ipv6::{self, Fragment};
use crate::wire::{protocol, put};

/// The pieces of `packet`, which starts at its IP header; `None` when it can't be cut to `mtu`. `ident` names the datagram in IPv6.
#[must_use]
pub fn fragment(mut packet: Packet, mtu: usize, ident: u32) -> Option<Vec<Packet>> {
    packet.finish_checksum();
    match packet.bytes().first()? >> 4 {
        4 => fragment_v4(&packet, mtu),
        6 => fragment_v6(&packet, mtu, ident),
        _ => None,
    }
}

fn piece(whole: &Packet, header: &[u8], data: &[u8]) -> Packet {
    let mut piece = Packet::with_capacity(header.len() + data.len());
    piece.extend(header);
    piece.extend(data);
    (piece.mark, piece.priority, piece.interface) = (whole.mark, whole.priority, whole.interface);
    piece
}

fn fragment_v4(packet: &Packet, mtu: usize) -> Option<Vec<Packet>> {
    let mut header = Ipv4Header::parse_quoted(packet.bytes()).ok()?;
    let data = packet.bytes().get(header.header_len()..)?;
    let (first_offset, last_more) = (usize::from(header.fragment_offset), header.more_fragments);
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let room = mtu.checked_sub(header.header_len())?;
        let len = if data.len() - at <= room { data.len() - at } else { room & !7 };
        if len == 0 {
            return None;
        }
        header.fragment_offset = u16::try_from(first_offset + at).ok()?;
        header.more_fragments = last_more || at + len < data.len();
        header.total_len = u16::try_from(header.header_len() + len).ok()?;
        let mut bytes = [0; 60];
        header.emit(&mut bytes);
        pieces.push(piece(packet, &bytes[..header.header_len()], &data[at..at + len]));
        at += len;
        if pieces.len() == 1 {
            header.options = header.options.for_later_fragments();
        }
    }
    Some(pieces)
}

fn fragment_v6(packet: &Packet, mtu: usize, ident: u32) -> Option<Vec<Packet>> {
    let bytes = packet.bytes();
    // The unfragmentable part is the fixed header and a hop-by-hop header, which is all that this machine sends in front.
    let (mut cut_at, mut next_at) = (ipv6::HEADER_LEN, 6);
    if *bytes.get(6)? == protocol::HOP_BY_HOP {
        next_at = cut_at;
        cut_at += (usize::from(*bytes.get(cut_at + 1)?) + 1) * 8;
    }
    let next_header = *bytes.get(next_at)?;
    let mut head = bytes.get(..cut_at)?.to_vec();
    head[next_at] = protocol::FRAGMENT;
    head.extend_from_slice(&[0; ipv6::FRAGMENT_LEN]);
    let data = &bytes[cut_at..];
    let room = mtu.checked_sub(head.len())? & !7;
    if room == 0 {
        return None;
    }
    let mut pieces = Vec::new();
    for (index, part) in data.chunks(room).enumerate() {
        let offset = index * room;
        let more = offset + part.len() < data.len();
        Fragment { next_header, offset: u16::try_from(offset).ok()?, more, ident }.emit(head.get_mut(cut_at..)?);
        let payload_len = u16::try_from(head.len() - ipv6::HEADER_LEN + part.len()).ok()?;
        put(&mut head, 4, &payload_len.to_be_bytes());
        pieces.push(piece(packet, &head, part));
    }
    Some(pieces)
}
