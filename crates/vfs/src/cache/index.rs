//! Which frame holds which page: a tree of chunks of 16 pages, each charged when it is made.

use abi::Errno;
use ram::{Charge, Frame, Ram};
use std::collections::BTreeMap;

const CHUNK: u64 = 16;
/// Chunks that reclaim looks at under one lock.
const SCAN: usize = 256;

/// A page in memory.
pub(super) struct Page {
    pub frame: Frame,
    /// Newer than what is on disk.
    pub dirty: bool,
    /// Being read in: its frame is not to be used yet.
    pub reading: bool,
    /// Being written back: usable, but not to be dropped.
    pub writing: bool,
    /// Used since reclaim last looked.
    pub referenced: bool,
}

impl Page {
    /// Whether the frame has to stay where it is.
    pub fn is_busy(&self) -> bool {
        self.reading || self.writing
    }
}

/// Room for 16 pages.
pub(super) struct Chunk {
    pages: [Option<Page>; CHUNK as usize],
    used: u8,
    dirty: u16,
    _charge: Charge,
}

/// Room that has been paid for.
pub(super) fn room(ram: &'static Ram) -> Result<Box<Chunk>, Errno> {
    let charge = ram.charge(size_of::<Chunk>() + 32)?;
    Ok(Box::new(Chunk { pages: [const { None }; CHUNK as usize], used: 0, dirty: 0, _charge: charge }))
}

#[derive(Default)]
pub(super) struct Index {
    chunks: BTreeMap<u64, Box<Chunk>>,
    len: usize,
    dirty: usize,
    /// Chunk where reclaim goes on.
    hand: u64,
}

fn split(index: u64) -> (u64, usize) {
    (index / CHUNK, (index % CHUNK) as usize)
}

impl Index {
    pub fn len(&self) -> usize {
        self.len
    }
    pub fn dirty(&self) -> usize {
        self.dirty
    }
    pub fn get(&self, index: u64) -> Option<&Page> {
        let (chunk, at) = split(index);
        self.chunks.get(&chunk)?.pages.get(at)?.as_ref()
    }
    pub fn get_mut(&mut self, index: u64) -> Option<&mut Page> {
        let (chunk, at) = split(index);
        self.chunks.get_mut(&chunk)?.pages.get_mut(at)?.as_mut()
    }
    /// Goes through the pages of `first..end` in order.
    pub fn for_each_mut(&mut self, first: u64, end: u64, mut visit: impl FnMut(u64, &mut Page)) {
        if first >= end {
            return;
        }
        for (number, chunk) in self.chunks.range_mut(first / CHUNK..=(end - 1) / CHUNK) {
            let base = number * CHUNK;
            for (index, page) in (base..).zip(chunk.pages.iter_mut()) {
                if let Some(page) = page.as_mut().filter(|_| (first..end).contains(&index)) {
                    visit(index, page);
                }
            }
        }
    }
    pub fn has_room(&self, index: u64) -> bool {
        self.chunks.contains_key(&split(index).0)
    }
    pub fn add_room(&mut self, index: u64, room: Box<Chunk>) {
        self.chunks.entry(split(index).0).or_insert(room);
    }
    /// Puts a page where there is room and none yet.
    pub fn insert(&mut self, index: u64, page: Page) {
        let (chunk, at) = split(index);
        let Some(chunk) = self.chunks.get_mut(&chunk) else { return };
        let dirty = page.dirty;
        if let Some(slot) = chunk.pages.get_mut(at) {
            *slot = Some(page);
            chunk.used += 1;
            self.len += 1;
            if dirty {
                chunk.dirty |= 1 << at;
                self.dirty += 1;
            }
        }
    }
    pub fn set_dirty(&mut self, index: u64, dirty: bool) {
        let (chunk, at) = split(index);
        let Some(chunk) = self.chunks.get_mut(&chunk) else { return };
        let Some(page) = chunk.pages.get_mut(at).and_then(Option::as_mut) else { return };
        if page.dirty != dirty {
            page.dirty = dirty;
            chunk.dirty ^= 1 << at;
            self.dirty = if dirty { self.dirty + 1 } else { self.dirty - 1 };
        }
    }
    /// Takes a page out; an empty chunk goes with it.
    pub fn remove(&mut self, index: u64) -> Option<Page> {
        self.set_dirty(index, false);
        let (number, at) = split(index);
        let chunk = self.chunks.get_mut(&number)?;
        let page = chunk.pages.get_mut(at)?.take()?;
        chunk.used -= 1;
        self.len -= 1;
        if chunk.used == 0 {
            self.chunks.remove(&number);
        }
        Some(page)
    }
    /// The first page at or after `from`.
    pub fn next_from(&self, from: u64) -> Option<u64> {
        let (chunk, _) = split(from);
        self.chunks.range(chunk..).find_map(|(number, chunk)| {
            let at = chunk.pages.iter().enumerate().find(|(at, page)| page.is_some() && number * CHUNK + *at as u64 >= from)?.0;
            Some(number * CHUNK + at as u64)
        })
    }
    /// Takes out the pages `first..end`, as many as one go allows, and names a busy one that has to be waited for.
    pub fn drain(&mut self, first: u64, end: u64) -> (Vec<Page>, Option<u64>) {
        let (mut gone, mut busy, mut at) = (Vec::new(), None, first);
        while let Some(index) = self.next_from(at).filter(|index| *index < end) {
            if self.get(index).is_some_and(|page| page.is_busy()) {
                busy = Some(index);
            } else {
                gone.extend(self.remove(index));
            }
            at = index + 1;
        }
        (gone, busy)
    }
    /// The first dirty page in `from..end` that is not busy.
    pub fn next_dirty(&self, from: u64, end: u64) -> Option<u64> {
        if self.dirty == 0 {
            return None;
        }
        self.chunks.range(split(from).0..).take_while(|(number, _)| **number * CHUNK < end).find_map(|(number, chunk)| {
            if chunk.dirty == 0 {
                return None;
            }
            let pages = chunk.pages.iter().enumerate().map(|(at, page)| (number * CHUNK + at as u64, page));
            pages
                .filter(|(index, _)| (from..end).contains(index))
                .find(|(_, p)| p.as_ref().is_some_and(|p| p.dirty && !p.is_busy()))
                .map(|(i, _)| i)
        })
    }
    /// Takes out up to `want` clean pages that nobody else holds and nobody used since it last came by; looks at [`SCAN`] chunks at most.
    pub fn evict(&mut self, want: usize) -> Vec<Page> {
        let mut victims = Vec::new();
        let hand = self.hand;
        let mut next = 0;
        for (scanned, (number, chunk)) in self.chunks.range_mut(hand..).enumerate() {
            if victims.len() >= want || scanned == SCAN {
                next = *number;
                break;
            }
            for (at, slot) in chunk.pages.iter_mut().enumerate() {
                let Some(page) = slot else { continue };
                let unused = !page.dirty && !page.is_busy() && page.frame.is_unique();
                if unused && !std::mem::take(&mut page.referenced) && victims.len() < want {
                    victims.push(number * CHUNK + at as u64);
                }
            }
        }
        self.hand = next;
        victims.into_iter().filter_map(|index| self.remove(index)).collect()
    }
}
