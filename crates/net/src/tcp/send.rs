//! What a connection has to send: the bytes from the first that is not acknowledged, and the segments that are on their way with what is known
//! of each (the scoreboard of RFC 6675 and RFC 8985).
//!
//! Always true: segments lie next to each other without gaps from `una` to `nxt`, in order; a segment is lost or sacked, never both.

use std::collections::VecDeque;

use super::seq::Seq;
use crate::packet::{OVERHEAD, Packet};

/// A segment that was sent and is not acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// First sequence number.
    pub seq: Seq,
    /// Behind the last, with SYN or FIN.
    pub end: Seq,
    /// Carries the SYN.
    pub syn: bool,
    /// Carries the FIN.
    pub fin: bool,
    /// When it was sent last.
    pub sent_ns: u64,
    /// Which transmission of the connection that was: the clock stands still while many are made, so time alone does not order them.
    pub order: u64,
    /// When it was sent first.
    pub first_sent_ns: u64,
    /// How often it was sent.
    pub transmissions: u32,
    /// The peer has it.
    pub sacked: bool,
    /// It is taken for lost.
    pub lost: bool,
    /// After it was taken for lost it was sent again, and that is on its way.
    pub resent: bool,
}

impl Segment {
    /// Sequence numbers that it covers.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.end.since(self.seq)
    }

    /// Bytes in the network.
    fn in_flight(&self) -> u64 {
        if self.sacked || (self.lost && !self.resent) { 0 } else { u64::from(self.len()) }
    }
}

/// The send queue.
#[derive(Clone, Debug, Default)]
pub struct SendQueue {
    data: VecDeque<u8>,
    base: Seq,
    /// On their way.
    pub segments: VecDeque<Segment>,
}

impl SendQueue {
    /// An empty queue whose first byte has this number.
    #[must_use]
    pub fn new(base: Seq) -> SendQueue {
        SendQueue { data: VecDeque::new(), base, segments: VecDeque::new() }
    }

    /// Bytes not acknowledged, sent or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Behind the last byte.
    #[must_use]
    pub fn end(&self) -> Seq {
        self.base + self.data.len() as u32
    }

    /// What it costs.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.data.len() + self.segments.len() * OVERHEAD
    }

    /// Appends.
    pub fn push(&mut self, bytes: &[u8]) {
        self.data.extend(bytes);
    }

    /// Bytes from `seq` on, at most `len`, appended to `packet`.
    pub fn copy_into(&self, seq: Seq, len: usize, packet: &mut Packet) {
        let from = seq.since(self.base) as usize;
        let (first, second) = self.data.as_slices();
        let mut left = len.min(self.data.len().saturating_sub(from));
        for (slice, skip) in [(first, from), (second, from.saturating_sub(first.len()))] {
            let part = slice.get(skip..).unwrap_or_default();
            let take = part.len().min(left);
            packet.extend(&part[..take]);
            left -= take;
        }
    }

    /// Forgets bytes before `una`.
    pub fn release(&mut self, una: Seq) {
        let count = (una.since(self.base) as usize).min(self.data.len());
        self.data.drain(..count);
        self.base += count as u32;
        if self.data.is_empty() && self.data.capacity() > 1 << 16 {
            self.data.shrink_to(1 << 12);
        }
    }

    /// The index of the segment that holds `seq`, or of the first behind it.
    #[must_use]
    pub fn find(&self, seq: Seq) -> usize {
        self.segments.partition_point(|segment| segment.end.at_or_before(seq))
    }

    /// Cuts the segment at `index` in two at `seq`, when that lies inside.
    pub fn split(&mut self, index: usize, seq: Seq) -> bool {
        let Some(segment) = self.segments.get_mut(index) else { return false };
        if !(seq.after(segment.seq) && seq.before(segment.end)) {
            return false;
        }
        let second = Segment { seq, syn: false, ..*segment };
        segment.end = seq;
        segment.fin = false;
        self.segments.insert(index + 1, second);
        true
    }

    /// Bytes in the network (`pipe` of RFC 6675).
    #[must_use]
    pub fn pipe(&self) -> u64 {
        self.segments.iter().map(Segment::in_flight).sum()
    }

    /// The first segment that is lost and not sent again.
    #[must_use]
    pub fn first_lost(&self) -> Option<usize> {
        self.segments.iter().position(|segment| segment.lost && !segment.resent && !segment.sacked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_by_sequence_number_across_the_wrap() {
        let mut queue = SendQueue::new(Seq(u32::MAX - 2));
        queue.push(b"abcdefgh");
        queue.release(Seq(u32::MAX));
        queue.push(b"ij");
        let mut packet = Packet::with_capacity(4);
        queue.copy_into(Seq(1), 4, &mut packet);
        assert_eq!(packet.bytes(), b"efgh");
        assert_eq!(queue.end(), Seq(7));
    }

    #[test]
    fn a_split_keeps_the_fin_at_the_end() {
        let mut queue = SendQueue::new(Seq(0));
        let whole = Segment {
            seq: Seq(0),
            end: Seq(101),
            syn: false,
            fin: true,
            sent_ns: 0,
            order: 0,
            first_sent_ns: 0,
            transmissions: 1,
            sacked: false,
            lost: false,
            resent: false,
        };
        queue.segments.push_back(whole);
        assert!(!queue.split(0, Seq(0)) && !queue.split(0, Seq(101)) && queue.split(0, Seq(40)));
        assert_eq!((queue.segments[0].fin, queue.segments[1].fin), (false, true));
        queue.segments[1].lost = true;
        assert_eq!((queue.pipe(), queue.first_lost(), queue.find(Seq(40))), (40, Some(1), 1));
    }
}
