//! What a local socket holds for its reader: pieces of frames, in order, each perhaps the end of a message and with a note of what came with it.
//!
//! Small pieces share frames: the queue's last frame is filled up by appending, so a byte costs a byte. Bytes of a frame behind what was
//! filled belong to the queue alone; those before never change while a reader may hold a piece.
//!
//! What it is not: waiting, waking and accounting (`endpoint`).

use crate::message::Ucred;
use crate::unix::endpoint::Endpoint;
use crate::unix::rights::Rights;
use abi::PAGE_SIZE;
use ram::{Charge, Frame};
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes that a piece costs its sender beside its data.
pub(crate) const PIECE_COST: usize = 256;
/// Pieces whose places are paid for at once.
pub(crate) const PLACES: usize = 16;
/// Bytes charged for [`PLACES`].
pub(crate) const PLACES_COST: usize = PLACES * size_of::<Piece>() * 2;
/// Bytes charged for a note.
pub(crate) const NOTE_COST: usize = 192;

/// What came with a message.
#[derive(Default)]
pub(crate) struct Note {
    /// The sender of a datagram, who pays for it.
    pub sender: Option<Arc<Endpoint>>,
    pub credentials: Option<Ucred>,
    pub rights: Option<Rights>,
    /// For the note itself.
    pub _charge: Option<Charge>,
}

/// Part of a message.
pub(crate) struct Piece {
    pub frame: Frame,
    pub offset: usize,
    pub len: usize,
    /// The message ends here. Streams have none.
    pub end: bool,
    pub note: Option<Box<Note>>,
}

impl Piece {
    /// What its sender pays for it.
    pub fn cost(&self) -> usize {
        self.len + PIECE_COST
    }
    pub fn credentials(&self) -> Option<Ucred> {
        self.note.as_ref().and_then(|note| note.credentials)
    }
    pub fn has_rights(&self) -> bool {
        self.note.as_ref().is_some_and(|note| note.rights.is_some())
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Queue {
    pub pieces: VecDeque<Piece>,
    /// Bytes in all pieces.
    pub bytes: usize,
    /// Messages that are there as a whole.
    pub messages: usize,
    tail: Option<Frame>,
    tail_used: usize,
    /// Nothing more is to come: the reader's receiving side, and its peer's sending side, is shut.
    pub shut: bool,
    /// The reader's socket is gone.
    pub closed: bool,
    places: usize,
    charge: Option<Charge>,
}

/// What [`Queue::append`] lacks.
pub(crate) enum Lacks {
    Place,
    Frame,
}

impl Queue {
    /// Whether `n` more pieces are paid for.
    pub fn has_places(&self, n: usize) -> bool {
        self.pieces.len() + n <= self.places
    }
    /// [`PLACES`] more are.
    pub fn add_places(&mut self, charge: Charge) {
        self.places += PLACES;
        match &mut self.charge {
            Some(kept) => kept.absorb(charge),
            none => *none = Some(charge),
        }
    }
    /// Puts a piece behind the others; there is a place.
    pub fn push(&mut self, piece: Piece) {
        self.bytes += piece.len;
        self.messages += usize::from(piece.end);
        self.pieces.push_back(piece);
    }
    fn has_tail_room(&mut self, len: usize) -> bool {
        match &self.tail {
            None => false,
            Some(tail) if tail.is_unique() => {
                self.tail_used = 0;
                true
            }
            Some(_) => self.tail_used + len <= PAGE_SIZE,
        }
    }
    /// Appends a few bytes, in the last piece if neither ends a message nor has a note. Answers what it costs. `fresh` and `note` are taken only
    /// if that succeeds.
    pub fn append(&mut self, data: &[u8], end: bool, note: &mut Option<Box<Note>>, fresh: &mut Option<Frame>) -> Result<usize, Lacks> {
        let len = data.len();
        if !self.has_tail_room(len) {
            if !self.has_places(1) {
                return Err(Lacks::Place);
            }
            self.tail = Some(fresh.take().ok_or(Lacks::Frame)?);
            self.tail_used = 0;
        }
        let Some(tail) = &self.tail else { return Err(Lacks::Frame) };
        if !end
            && note.is_none()
            && let Some(last) = self.pieces.back_mut()
            && last.note.is_none()
            && !last.end
            && last.offset + last.len == self.tail_used
            && last.frame.pfn() == tail.pfn()
        {
            tail.write(self.tail_used, data);
            last.len += len;
            self.tail_used += len;
            self.bytes += len;
            return Ok(len);
        }
        if !self.has_places(1) {
            return Err(Lacks::Place);
        }
        tail.write(self.tail_used, data);
        let piece = Piece { frame: tail.clone(), offset: self.tail_used, len, end, note: note.take() };
        self.tail_used += len;
        let cost = piece.cost();
        self.push(piece);
        Ok(cost)
    }
    /// Takes `len` bytes off the first piece, or all of it. Answers what its sender need not pay any more, and what is to be dropped without the
    /// lock.
    pub fn consume(&mut self, len: usize) -> (usize, Option<Piece>) {
        let Some(first) = self.pieces.front_mut() else { return (0, None) };
        if len < first.len {
            first.offset += len;
            first.len -= len;
            self.bytes -= len;
            return (len, None);
        }
        let Some(piece) = self.pieces.pop_front() else { return (0, None) };
        self.bytes -= piece.len;
        self.messages -= usize::from(piece.end);
        (piece.cost(), Some(piece))
    }
    /// Takes the first message out. `None` if there is no whole one.
    pub fn take_message(&mut self) -> Option<Message> {
        if self.messages == 0 {
            return None;
        }
        let first = self.pieces.pop_front()?;
        let mut message = Message { len: first.len, cost: first.cost(), first, rest: Vec::new() };
        let mut ended = message.first.end;
        while !ended {
            let Some(piece) = self.pieces.pop_front() else { break };
            ended = piece.end;
            message.len += piece.len;
            message.cost += piece.cost();
            message.rest.push(piece);
        }
        self.messages -= 1;
        self.bytes -= message.len;
        Some(message)
    }
    /// Everything, to be dropped without the lock.
    pub fn clear(&mut self) -> (VecDeque<Piece>, Option<Frame>) {
        (self.bytes, self.messages) = (0, 0);
        (std::mem::take(&mut self.pieces), self.tail.take())
    }
}

/// A message that was taken out, or looked at.
pub(crate) struct Message {
    pub first: Piece,
    pub rest: Vec<Piece>,
    pub len: usize,
    pub cost: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use ram::Ram;

    fn queue(ram: &'static Ram) -> Queue {
        let mut queue = Queue::default();
        queue.add_places(ram.charge(PLACES_COST).unwrap());
        queue
    }
    fn append(ram: &'static Ram, queue: &mut Queue, data: &[u8], end: bool) -> bool {
        let mut fresh = Some(ram.alloc().unwrap());
        queue.append(data, end, &mut None, &mut fresh).is_ok()
    }

    #[test]
    fn small_writes_to_a_stream_fill_one_frame_and_one_piece() {
        let ram = Ram::for_tests(1 << 20);
        let mut queue = queue(ram);
        for _ in 0..100 {
            assert!(append(ram, &mut queue, b"0123456789", false));
        }
        assert_eq!((queue.pieces.len(), queue.bytes), (1, 1000));
        assert_eq!(queue.consume(999).0, 999);
        let (cost, piece) = queue.consume(1);
        assert_eq!(cost, 1 + PIECE_COST);
        drop(piece);
        assert!(append(ram, &mut queue, b"x", false));
        assert_eq!(queue.pieces[0].offset, 0, "the frame is used again from its beginning");
    }

    #[test]
    fn messages_share_frames_and_keep_their_borders() {
        let ram = Ram::for_tests(1 << 20);
        let free = ram.stats().free;
        let mut queue = queue(ram);
        for n in 1..=PLACES {
            assert!(append(ram, &mut queue, &vec![n as u8; n], true));
        }
        assert!(!append(ram, &mut queue, b"x", true), "no place is left");
        assert_eq!(ram.stats().free, free - 1);
        for n in 1..=PLACES {
            let message = queue.take_message().unwrap();
            let mut data = vec![0; n];
            message.first.frame.read(message.first.offset, &mut data);
            assert_eq!((message.len, data), (n, vec![n as u8; n]));
        }
        assert!(queue.take_message().is_none());
        assert_eq!(queue.bytes, 0);
    }
}
