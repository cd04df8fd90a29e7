//! Putting fragments together (RFC 791 3.2, RFC 815, RFC 8200 4.5, RFC 5722).
//!
//! Always true: all unfinished datagrams together hold at most `ipfrag_high_thresh` bytes, the oldest going first; a datagram with overlapping
//! pieces is forgotten whole, as Linux does for both families; none is longer than 65,535 bytes.

use core::net::IpAddr;
use std::collections::BTreeMap;

use crate::core::{Core, SECOND};
use crate::interface::InterfaceId;
use crate::packet::{OVERHEAD, Packet};
use crate::prefix::Family;
use crate::timers::Timers;
use crate::wire::ipv4::Ipv4Header;
use crate::wire::{ipv6, put};

/// What pieces of one datagram have in common.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Key {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    ident: u32,
    interface: InterfaceId,
}

/// One piece: where its data belongs.
#[derive(Clone, Copy, Debug)]
struct Piece {
    offset: usize,
    more: bool,
    /// Where the data starts in the packet.
    data_at: usize,
}

#[derive(Default)]
struct Datagram {
    pieces: BTreeMap<usize, Vec<u8>>,
    /// The first piece as it arrived, for its header and for an ICMP error.
    first: Option<(Packet, usize, usize)>,
    have: usize,
    end: Option<usize>,
    cost: usize,
    born_ns: u64,
}

/// Unfinished datagrams.
#[derive(Default)]
pub struct Reassembly {
    table: BTreeMap<Key, Datagram>,
    timers: Timers<Key>,
    bytes: usize,
}

impl Reassembly {
    /// The earliest deadline.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.next()
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn forget(&mut self, key: Key) -> Option<Datagram> {
        self.timers.set(key, None);
        let datagram = self.table.remove(&key)?;
        self.bytes -= datagram.cost;
        Some(datagram)
    }
}

enum Added {
    Waiting,
    Whole,
    /// A duplicate of what is there.
    Ignored,
    Bad,
}

impl Datagram {
    fn add(&mut self, data: &[u8], piece: Piece) -> Added {
        let end = piece.offset + data.len();
        if end > 65_535 || (piece.more && (data.is_empty() || !data.len().is_multiple_of(8))) {
            return Added::Bad;
        }
        match (piece.more, self.end) {
            (false, Some(there)) if there != end => return Added::Bad,
            (true, Some(there)) if end > there => return Added::Bad,
            (false, None) if self.pieces.last_key_value().is_some_and(|(at, last)| at + last.len() > end) => return Added::Bad,
            (false, None) => self.end = Some(end),
            _ => {}
        }
        if let Some((at, before)) = self.pieces.range(..=piece.offset).next_back()
            && at + before.len() > piece.offset
        {
            let duplicate = *at <= piece.offset && end <= at + before.len();
            return if duplicate { Added::Ignored } else { Added::Bad };
        }
        if self.pieces.range(piece.offset..end).next().is_some() {
            return Added::Bad;
        }
        self.have += data.len();
        self.cost += data.len() + OVERHEAD;
        self.pieces.insert(piece.offset, data.to_vec());
        if self.end == Some(self.have) && self.first.is_some() { Added::Whole } else { Added::Waiting }
    }
}

impl Core {
    /// Adds an IPv4 fragment; answers the whole datagram, starting at its IP header, when this completes it.
    pub(crate) fn reassemble_v4(&mut self, packet: Packet, header: &Ipv4Header) -> Option<Packet> {
        let key = Key {
            src: header.src.into(),
            dst: header.dst.into(),
            protocol: header.protocol,
            ident: header.ident.into(),
            interface: InterfaceId::NONE,
        };
        let piece = Piece { offset: header.fragment_offset.into(), more: header.more_fragments, data_at: header.header_len() };
        self.reassemble(Family::V4, key, packet, piece, piece.data_at, 0)
    }

    /// Adds an IPv6 fragment.
    pub(crate) fn reassemble_v6(&mut self, packet: Packet, src: IpAddr, dst: IpAddr, at: usize, next_header_at: usize) -> Option<Packet> {
        let fragment = ipv6::Fragment::parse(packet.bytes().get(at..)?)?;
        let scoped = crate::prefix::is_link_local(src) || dst.is_multicast();
        let interface = if scoped { packet.interface } else { InterfaceId::NONE };
        let key = Key { src, dst, protocol: 0, ident: fragment.ident, interface };
        let piece = Piece { offset: fragment.offset.into(), more: fragment.more, data_at: at + ipv6::FRAGMENT_LEN };
        if piece.more && !(packet.len() - piece.data_at.min(packet.len())).is_multiple_of(8) {
            // RFC 8200 4.5: the length field is the problem.
            self.statistics.ip[1].reassembly_failures += 1;
            self.icmp_parameter_problem(&packet, 0, 4);
            return None;
        }
        self.reassemble(Family::V6, key, packet, piece, at, next_header_at)
    }

    fn reassemble(
        &mut self,
        family: Family,
        key: Key,
        packet: Packet,
        piece: Piece,
        head_len: usize,
        next_header_at: usize,
    ) -> Option<Packet> {
        let now_ns = self.now_ns;
        let wait_s = if family == Family::V4 { self.config.reassembly_s } else { 60 };
        self.statistics.ip[family.index()].reassembly_required += 1;
        let datagram = self.reassembly.table.entry(key).or_insert_with(|| Datagram { born_ns: now_ns, ..Datagram::default() });
        let before = datagram.cost;
        if before == 0 {
            datagram.cost = OVERHEAD;
            self.reassembly.timers.set(key, Some(now_ns + wait_s * SECOND));
        }
        let data = packet.bytes().get(piece.data_at..).unwrap_or_default().to_vec();
        if piece.offset == 0 && datagram.first.is_none() {
            datagram.cost += packet.cost();
            datagram.first = Some((packet, head_len, next_header_at));
        }
        let added = datagram.add(&data, piece);
        self.reassembly.bytes = self.reassembly.bytes + datagram.cost - before;
        let counters = &mut self.statistics.ip[family.index()];
        match added {
            Added::Waiting | Added::Ignored => {
                self.bound_reassembly(family);
                None
            }
            Added::Bad => {
                counters.reassembly_failures += 1;
                self.reassembly.forget(key);
                None
            }
            Added::Whole => {
                let whole = self.reassembly.forget(key).and_then(|datagram| join(family, datagram));
                let counters = &mut self.statistics.ip[family.index()];
                match &whole {
                    Some(_) => counters.reassembled += 1,
                    None => counters.reassembly_failures += 1,
                }
                whole
            }
        }
    }

    fn bound_reassembly(&mut self, family: Family) {
        while self.reassembly.bytes > self.config.reassembly_bytes {
            let Some(oldest) = self.reassembly.table.iter().min_by_key(|(_, datagram)| datagram.born_ns).map(|(key, _)| *key) else {
                return;
            };
            self.reassembly.forget(oldest);
            self.statistics.ip[family.index()].reassembly_failures += 1;
        }
    }

    /// Forgets datagrams whose time is up, telling their senders when the first piece was there.
    pub(crate) fn poll_reassembly(&mut self) {
        for key in self.reassembly.timers.take_due(self.now_ns) {
            let Some(datagram) = self.reassembly.forget(key) else { continue };
            let family = Family::of(key.src);
            self.statistics.ip[family.index()].reassembly_timeouts += 1;
            self.statistics.ip[family.index()].reassembly_failures += 1;
            if let Some((first, _, _)) = datagram.first {
                self.icmp_time_exceeded(&first, 1);
            }
        }
    }
}

fn join(family: Family, datagram: Datagram) -> Option<Packet> {
    let (first, head_len, next_header_at) = datagram.first?;
    let mut whole = Packet::with_capacity(head_len + datagram.have);
    (whole.interface, whole.kind, whole.mark, whole.at_ns) = (first.interface, first.kind, first.mark, first.at_ns);
    whole.extend(first.bytes().get(..head_len)?);
    datagram.pieces.values().for_each(|piece| whole.extend(piece));
    match family {
        Family::V4 => {
            let mut header = Ipv4Header::parse_quoted(whole.bytes()).ok()?;
            (header.more_fragments, header.fragment_offset) = (false, 0);
            header.total_len = u16::try_from(whole.len()).ok()?;
            header.emit(whole.bytes_mut());
        }
        Family::V6 => {
            let next_header = *first.bytes().get(head_len)?;
            let payload_len = u16::try_from(whole.len() - ipv6::HEADER_LEN).ok()?;
            put(whole.bytes_mut(), next_header_at, &[next_header]);
            put(whole.bytes_mut(), 4, &payload_len.to_be_bytes());
        }
    }
    Some(whole)
}
