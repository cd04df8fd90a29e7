//! One packet on its way through the stack: bytes with headroom, and what is known about them.
//!
//! What it is not: a socket buffer with references into guest RAM. The bytes are owned, so a packet may cross threads and stacks (veth).
//!
//! Always true: with [`Checksum::Partial`] the checksum field holds the folded pseudo-header sum and the field lies inside the packet;
//! a packet with [`Gso`] has a partial checksum.

use crate::interface::InterfaceId;
use crate::wire::checksum::checksum;
use crate::wire::put;

/// Room in front of a transport header for every header that goes there: Ethernet 14, IPv6 40, hop-by-hop 8, fragment 8.
pub const HEADROOM: usize = 80;
/// The cost of a packet beyond its bytes, charged to the queue that holds it (Linux charges `sizeof(struct sk_buff)` and more).
pub const OVERHEAD: usize = 256;

/// Who answers for the transport checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Checksum {
    /// Complete in the bytes; on receive not verified yet.
    #[default]
    InData,
    /// Received, and known to be good: the device or the same machine says so.
    Verified,
    /// To be finished: sum from `start` to the end of the packet into the field `offset` bytes behind `start`.
    Partial {
        /// Index into the packet's buffer, independent of headers pushed later.
        start: usize,
        /// From `start` to the checksum field.
        offset: usize,
    },
}

/// A packet that carries several segments, to be cut by the device or just before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gso {
    /// IPv6 rather than IPv4.
    pub v6: bool,
    /// Payload bytes of each segment but the last.
    pub size: u16,
}

/// To whom a frame was sent, as `sll_pkttype` in packet(7) has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PacketKind {
    /// To this machine.
    #[default]
    Host = 0,
    /// To everyone.
    Broadcast = 1,
    /// To a group.
    Multicast = 2,
    /// To some other station, seen in promiscuous mode.
    OtherHost = 3,
    /// From this machine.
    Outgoing = 4,
}

/// A packet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Packet {
    buffer: Vec<u8>,
    start: usize,
    /// State of the transport checksum.
    pub checksum: Checksum,
    /// Set when this is several segments in one.
    pub gso: Option<Gso>,
    /// Where it came from; the default (none) for what this machine makes.
    pub interface: InterfaceId,
    /// To whom the frame was sent.
    pub kind: PacketKind,
    /// The firewall mark, `SO_MARK`.
    pub mark: u32,
    /// `SO_PRIORITY`.
    pub priority: u32,
    /// When it arrived or left, on the stack's clock.
    pub at_ns: u64,
}

impl Packet {
    /// `len` zero bytes with [`HEADROOM`] in front.
    #[must_use]
    pub fn zeroed(len: usize) -> Packet {
        Packet { buffer: vec![0; HEADROOM + len], start: HEADROOM, ..Packet::default() }
    }

    /// A copy of `bytes` with [`HEADROOM`] in front.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Packet {
        let mut packet = Packet::with_capacity(bytes.len());
        packet.buffer.extend_from_slice(bytes);
        packet
    }

    /// An empty packet with [`HEADROOM`] in front and room for `len` bytes.
    #[must_use]
    pub fn with_capacity(len: usize) -> Packet {
        let mut buffer = Vec::with_capacity(HEADROOM + len);
        buffer.resize(HEADROOM, 0);
        Packet { buffer, start: HEADROOM, ..Packet::default() }
    }

    /// The bytes `buffer[start..]` of a received frame, without a copy.
    #[must_use]
    pub fn from_vec(buffer: Vec<u8>, start: usize) -> Packet {
        let start = start.min(buffer.len());
        Packet { buffer, start, ..Packet::default() }
    }

    /// The bytes from the outermost header that has not been pulled.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// As [`Packet::bytes`], to change.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..]
    }

    /// Count of [`Packet::bytes`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Whether no bytes are left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What holding this packet costs, in bytes.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.buffer.capacity() + OVERHEAD
    }

    /// Appends bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Opens `len` bytes in front and answers them; grows the buffer when the headroom is used up.
    pub fn push(&mut self, len: usize) -> &mut [u8] {
        if len > self.start {
            let more = len - self.start + HEADROOM;
            self.buffer.splice(0..0, core::iter::repeat_n(0, more));
            self.start += more;
            if let Checksum::Partial { start, .. } = &mut self.checksum {
                *start += more;
            }
        }
        self.start -= len;
        &mut self.buffer[self.start..self.start + len]
    }

    /// Drops `len` bytes from the front, or all when there are fewer.
    pub fn pull(&mut self, len: usize) {
        self.start = (self.start + len).min(self.buffer.len());
    }

    /// Keeps the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.buffer.truncate(self.start + len);
    }

    /// Takes the bytes out: the buffer, and where they start in it.
    #[must_use]
    pub fn into_parts(self) -> (Vec<u8>, usize) {
        (self.buffer, self.start)
    }

    /// Leaves the checksum to the device: it covers `start` (from the current front) to the end, and goes `offset` bytes behind `start`.
    /// Refused, as a device would, when the field lies outside.
    pub fn set_partial_checksum(&mut self, start: usize, offset: usize) -> bool {
        let fits = start.checked_add(offset).and_then(|at| at.checked_add(2)).is_some_and(|end| end <= self.len());
        if fits {
            self.checksum = Checksum::Partial { start: self.start + start, offset };
        }
        fits
    }

    /// Start (from the current front) and offset of an unfinished checksum.
    #[must_use]
    pub fn partial_checksum(&self) -> Option<(usize, usize)> {
        match self.checksum {
            Checksum::Partial { start, offset } => Some((start.checked_sub(self.start)?, offset)),
            _ => None,
        }
    }

    /// Finishes a partial checksum in the bytes; nothing when there is none.
    pub fn finish_checksum(&mut self) {
        let Checksum::Partial { start, offset } = self.checksum else { return };
        self.checksum = Checksum::InData;
        let Some(covered) = self.buffer.get(start..) else { return };
        let check = match checksum(covered) {
            // Zero would mean "none" in UDP, and both are zero to TCP.
            0 => 0xffff,
            check => check,
        };
        put(&mut self.buffer, start + offset, &check.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushing_beyond_the_headroom_keeps_bytes_and_checksum_position() {
        let mut packet = Packet::copy_of(&[1, 2, 3, 4, 0, 0]);
        assert!(packet.set_partial_checksum(0, 4));
        packet.push(HEADROOM).fill(7);
        packet.push(3).fill(8);
        assert_eq!(packet.len(), 6 + HEADROOM + 3);
        assert_eq!(packet.partial_checksum(), Some((HEADROOM + 3, 4)));
        packet.pull(HEADROOM + 3);
        packet.finish_checksum();
        assert_eq!(packet.bytes(), [1, 2, 3, 4, 0xfb, 0xf9]);
    }

    #[test]
    fn a_checksum_outside_of_the_packet_is_refused() {
        let mut packet = Packet::copy_of(&[0; 10]);
        assert!(!packet.set_partial_checksum(9, 0));
        assert!(!packet.set_partial_checksum(usize::MAX, 2));
        assert!(packet.set_partial_checksum(4, 4));
    }
}
