//! What a connection has received: bytes in order that wait for the reader, pieces that came early, the SACK blocks that tell of them
//! (RFC 2018, RFC 2883), and the urgent byte (RFC 6093).
//!
//! Positions are counted from the first byte after the SYN in 64 bits, so that nothing wraps.
//!
//! Always true: early pieces do not overlap and lie behind `next`; everything held is in [`ReceiveQueue::cost`].

use std::collections::{BTreeMap, VecDeque};

use crate::packet::{OVERHEAD, Packet};

/// A run of bytes.
#[derive(Clone, Debug)]
struct Chunk {
    bytes: Vec<u8>,
    start: usize,
}

impl Chunk {
    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn cost(&self) -> usize {
        self.bytes.capacity() + OVERHEAD
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// A chunk that does not hold on to much more memory than it has bytes.
    fn new(packet: Packet) -> Chunk {
        let (bytes, start) = packet.into_parts();
        let len = bytes.len() - start;
        if len * 2 < bytes.capacity() {
            return Chunk { bytes: bytes[start..].to_vec(), start: 0 };
        }
        Chunk { bytes, start }
    }
}

/// The urgent byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Urgent {
    /// None announced.
    #[default]
    None,
    /// Announced at this position, not arrived.
    Announced(u64),
    /// Arrived.
    Here(u64, u8),
    /// Read, but the stream has not passed it.
    Read(u64),
}

impl Urgent {
    /// Its position.
    #[must_use]
    pub fn at(self) -> Option<u64> {
        match self {
            Urgent::None => None,
            Urgent::Announced(at) | Urgent::Here(at, _) | Urgent::Read(at) => Some(at),
        }
    }
}

/// What became of a piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Insert {
    /// The next bytes; this many became readable.
    InOrder(usize),
    /// Early; kept.
    Early,
    /// Nothing new in it.
    Duplicate,
}

/// The receive queue.
#[derive(Clone, Debug, Default)]
pub struct ReceiveQueue {
    chunks: VecDeque<Chunk>,
    readable: usize,
    early: BTreeMap<u64, Chunk>,
    cost: usize,
    /// The next position expected.
    pub next: u64,
    /// The urgent byte.
    pub urgent: Urgent,
    /// Runs of early bytes, the youngest first, for SACK.
    recent: Vec<(u64, u64)>,
}

impl ReceiveQueue {
    /// Bytes that can be read, the urgent one included when it lies among them.
    #[must_use]
    pub fn readable(&self) -> usize {
        self.readable
    }

    /// The position of the next byte to be read.
    #[must_use]
    pub fn read_at(&self) -> u64 {
        self.next - self.readable as u64
    }

    /// Memory held.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// Whether pieces wait for earlier ones.
    #[must_use]
    pub fn has_early(&self) -> bool {
        !self.early.is_empty()
    }

    /// Takes a piece that starts at `at`.
    pub fn insert(&mut self, at: u64, mut packet: Packet) -> Insert {
        let end = at + packet.len() as u64;
        if end <= self.next || packet.is_empty() {
            return Insert::Duplicate;
        }
        let mut at = at;
        if at < self.next {
            packet.pull((self.next - at) as usize);
            at = self.next;
        }
        if at == self.next {
            let before = self.next;
            self.append(packet);
            self.join_early();
            self.note_urgent();
            return Insert::InOrder((self.next - before) as usize);
        }
        self.insert_early(at, end, packet)
    }

    fn append(&mut self, packet: Packet) {
        let len = packet.len();
        self.next += len as u64;
        self.readable += len;
        // Small pieces share a chunk, or a byte would cost a packet.
        if let Some(last) = self.chunks.back_mut()
            && last.bytes.capacity() - last.bytes.len() >= len
            && len <= 4096
        {
            last.bytes.extend_from_slice(packet.bytes());
            return;
        }
        let chunk = if len < 1024 {
            let mut bytes = Vec::with_capacity(4096);
            bytes.extend_from_slice(packet.bytes());
            Chunk { bytes, start: 0 }
        } else {
            Chunk::new(packet)
        };
        self.cost += chunk.cost();
        self.chunks.push_back(chunk);
    }

    fn join_early(&mut self) {
        while let Some((&at, _)) = self.early.first_key_value() {
            if at > self.next {
                break;
            }
            let Some((_, chunk)) = self.early.pop_first() else { break };
            self.cost -= chunk.cost();
            let end = at + chunk.len() as u64;
            if end <= self.next {
                continue;
            }
            let mut packet = Packet::from_vec(chunk.bytes, chunk.start);
            packet.pull((self.next - at) as usize);
            self.append(packet);
        }
        let next = self.next;
        self.recent.retain(|(_, end)| *end > next);
    }

    fn insert_early(&mut self, at: u64, end: u64, mut packet: Packet) -> Insert {
        let (mut at, mut end) = (at, end);
        if let Some((&before, chunk)) = self.early.range(..=at).next_back() {
            let covered = before + chunk.len() as u64;
            if covered >= end {
                self.touch(at);
                return Insert::Duplicate;
            }
            if covered > at {
                packet.pull((covered - at) as usize);
                at = covered;
            }
        }
        while let Some((&behind, chunk)) = self.early.range(at..end).next() {
            if behind + chunk.len() as u64 <= end {
                self.cost -= chunk.cost();
                self.early.remove(&behind);
            } else {
                packet.truncate((behind - at) as usize);
                end = behind;
            }
        }
        if at < end {
            let chunk = Chunk::new(packet);
            self.cost += chunk.cost();
            self.early.insert(at, chunk);
        }
        self.touch(at);
        Insert::Early
    }

    /// Notes that the run around `at` is the youngest.
    fn touch(&mut self, at: u64) {
        let (mut left, mut right) = (at, at);
        for (&start, chunk) in self.early.range(..=at).rev() {
            let end = start + chunk.len() as u64;
            if end < left {
                break;
            }
            (left, right) = (start, right.max(end));
        }
        for (&start, chunk) in self.early.range(at..) {
            if start > right {
                break;
            }
            right = right.max(start + chunk.len() as u64);
        }
        self.recent.retain(|(start, end)| *end < left || *start > right);
        self.recent.insert(0, (left, right));
        self.recent.truncate(4);
    }

    /// Runs of early bytes, the youngest first.
    #[must_use]
    pub fn sack_runs(&self) -> &[(u64, u64)] {
        &self.recent
    }

    /// Forgets early pieces, the farthest first, until at most `limit` is held; answers how many went.
    pub fn prune(&mut self, limit: usize) -> u64 {
        let mut count = 0;
        while self.cost > limit {
            let Some((_, chunk)) = self.early.pop_last() else { break };
            self.cost -= chunk.cost();
            count += 1;
        }
        if count > 0 {
            let end = self.early.last_key_value().map_or(self.next, |(at, chunk)| at + chunk.len() as u64);
            self.recent.retain(|run| run.1 <= end);
        }
        count
    }

    /// The urgent byte is at `at`. An older announcement is forgotten unless it is a later byte.
    pub fn announce_urgent(&mut self, at: u64) -> bool {
        if self.urgent.at().is_some_and(|there| there >= at) || at < self.read_at() {
            return false;
        }
        self.urgent = Urgent::Announced(at);
        self.note_urgent();
        true
    }

    fn note_urgent(&mut self) {
        if let Urgent::Announced(at) = self.urgent
            && at < self.next
            && let Some(byte) = self.byte_at(at)
        {
            self.urgent = Urgent::Here(at, byte);
        }
    }

    fn byte_at(&self, at: u64) -> Option<u8> {
        let mut offset = usize::try_from(at.checked_sub(self.read_at())?).ok()?;
        for chunk in &self.chunks {
            if offset < chunk.len() {
                return chunk.as_slice().get(offset).copied();
            }
            offset -= chunk.len();
        }
        None
    }

    /// Copies out bytes, up to the urgent mark, which ends a read; the urgent byte itself is passed over unless `inline`. With `peek` all stays.
    pub fn read(&mut self, out: &mut [u8], peek: bool, inline: bool) -> usize {
        let mut room = out.len();
        let mut skip = 0;
        if let Some(mark) = self.urgent.at() {
            let here = self.read_at();
            if mark > here {
                room = room.min(usize::try_from(mark - here).unwrap_or(usize::MAX));
            } else if mark == here && mark < self.next {
                // At the mark: the byte is read inline, or jumped.
                if !inline {
                    skip = 1;
                }
                if !peek {
                    self.urgent = Urgent::None;
                }
            }
        }
        if peek { self.peek(out, skip, room) } else { self.take(out, skip, room) }
    }

    fn peek(&self, out: &mut [u8], skip: usize, room: usize) -> usize {
        let (mut skip, mut done) = (skip, 0);
        for chunk in &self.chunks {
            let part = &chunk.as_slice()[skip.min(chunk.len())..];
            skip = skip.saturating_sub(chunk.len());
            let take = part.len().min(room - done);
            out[done..done + take].copy_from_slice(&part[..take]);
            done += take;
        }
        done
    }

    fn take(&mut self, out: &mut [u8], skip: usize, room: usize) -> usize {
        let (mut skip, mut done) = (skip, 0);
        while let Some(chunk) = self.chunks.front_mut() {
            let jump = skip.min(chunk.len());
            chunk.start += jump;
            skip -= jump;
            self.readable -= jump;
            let take = chunk.len().min(room - done);
            out[done..done + take].copy_from_slice(&chunk.as_slice()[..take]);
            chunk.start += take;
            self.readable -= take;
            done += take;
            if chunk.len() > 0 {
                break;
            }
            self.cost -= chunk.cost();
            self.chunks.pop_front();
        }
        done
    }

    /// Takes the urgent byte (`MSG_OOB`). `None` when it has not arrived or was read.
    pub fn take_urgent(&mut self, peek: bool) -> Option<u8> {
        let Urgent::Here(at, byte) = self.urgent else { return None };
        if !peek {
            self.urgent = Urgent::Read(at);
        }
        Some(byte)
    }

    /// Whether the next byte to be read is the urgent one (`SIOCATMARK`).
    #[must_use]
    pub fn at_mark(&self) -> bool {
        self.urgent.at() == Some(self.read_at())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(from: u64, to: u64) -> Packet {
        let bytes: Vec<u8> = (from..to).map(|n| n as u8).collect();
        Packet::copy_of(&bytes)
    }

    #[test]
    fn pieces_in_any_order_with_any_overlap_make_the_stream() {
        let mut queue = ReceiveQueue::default();
        for (from, to) in [(50, 60), (10, 20), (15, 30), (28, 52), (55, 70), (0, 5), (90, 95), (3, 12), (70, 90)] {
            queue.insert(from, piece(from, to));
        }
        assert_eq!(queue.next, 95);
        let mut out = [0; 200];
        assert_eq!(queue.read(&mut out, false, false), 95);
        assert!((0..95).all(|n| out[n] == n as u8));
        assert_eq!((queue.cost(), queue.readable()), (0, 0));
    }

    #[test]
    fn sack_tells_of_the_youngest_run_first() {
        let mut queue = ReceiveQueue::default();
        for (from, to) in [(10, 20), (30, 40), (50, 60), (20, 25)] {
            assert_eq!(queue.insert(from, piece(from, to)), Insert::Early);
        }
        assert_eq!(queue.sack_runs(), [(10, 25), (50, 60), (30, 40)]);
        assert_eq!(queue.insert(31, piece(31, 35)), Insert::Duplicate);
        assert_eq!(queue.sack_runs()[0], (30, 40));
        assert_eq!(queue.insert(0, piece(0, 10)), Insert::InOrder(25));
        assert_eq!(queue.sack_runs(), [(30, 40), (50, 60)]);
        assert!(queue.prune(queue.cost() - 1) == 1 && queue.sack_runs() == [(30, 40)]);
    }

    #[test]
    fn a_read_stops_at_the_urgent_byte_and_then_passes_over_it() {
        let mut queue = ReceiveQueue::default();
        assert!(queue.announce_urgent(3));
        queue.insert(0, piece(0, 10));
        let mut out = [0; 20];
        assert_eq!(queue.read(&mut out, false, false), 3);
        assert!(queue.at_mark());
        assert_eq!((queue.take_urgent(true), queue.take_urgent(false), queue.take_urgent(false)), (Some(3), Some(3), None));
        assert_eq!(queue.read(&mut out, true, false), 6);
        assert_eq!(queue.read(&mut out, false, false), 6);
        assert_eq!(out[..6], [4, 5, 6, 7, 8, 9]);
        queue.announce_urgent(12);
        queue.insert(10, piece(10, 15));
        assert_eq!((queue.read(&mut out, false, true), queue.read(&mut out, false, true)), (2, 3));
    }
}
