//! The index of large directories: a tree of hashes, two or three levels deep, whose leaves are ordinary directory blocks.
//!
//! Not here: entries (`dir`) and the hash functions (`hash`).
//!
//! Always true: a name is in the leaf that its hash leads to, or in one that follows it under the same hash, marked by the lowest bit of
//! the following index entry.
//!
//! Source: Linux `Documentation/filesystems/ext4/directory.rst`, "Hash Tree Directories".

use crate::cache::{Block, Kind};
use crate::core::{Core, Seal, has_right_checksum};
use crate::dir::{DirEntry, Named, Slot, entries, entry_len, find_in, put_entry, rec_len_raw};
use crate::error::{Error, Result, corrupt};
use crate::field::{byte, le16, le32, put_byte, put_le16, put_le32};
use crate::hash::{HashKind, hash};
use crate::inode::{Inode, inode_flags};
use crate::superblock::Incompat;

const ROOT_ENTRIES: usize = 32;
const NODE_ENTRIES: usize = 8;
/// Cursors of "." and "..", and the end of a directory.
const DOTS: u64 = 2;
const END: u64 = i64::MAX as u64;

/// What the root says of the whole index.
#[derive(Clone, Copy)]
pub(crate) struct Index {
    kind: HashKind,
    levels: u8,
}

/// An index block on the way to a leaf.
struct Frame {
    home: u64,
    /// Where its entries begin.
    offset: usize,
    /// (hash, logical block); the first hash is not stored and counts as 0.
    entries: Vec<(u32, u32)>,
    at: usize,
}

pub(crate) fn looks_like_root(block: &[u8]) -> bool {
    le16(block, 4) == 12 && le16(block, 16) as usize + 12 == block.len() && le32(block, 24) == 0 && byte(block, 29) == 8
        || (block.len() == 65536 && le16(block, 4) == 12 && le32(block, 24) == 0 && byte(block, 29) == 8)
}

fn decode(block: &[u8], offset: usize) -> Vec<(u32, u32)> {
    let count = usize::from(le16(block, offset + 2));
    (0..count).map(|i| (if i == 0 { 0 } else { le32(block, offset + i * 8) }, le32(block, offset + i * 8 + 4) & 0x0fff_ffff)).collect()
}

impl Core {
    fn index_limit(&self, offset: usize) -> usize {
        let tail = if self.geometry.has_metadata_csum() { 8 } else { 0 };
        (self.geometry.block_size - offset - tail) / 8
    }

    pub(crate) fn check_index(&self, inode: &Inode, home: u64, block: &[u8]) -> Result<()> {
        let offset = if looks_like_root(block) { ROOT_ENTRIES } else { NODE_ENTRIES };
        let (limit, count) = (usize::from(le16(block, offset)), usize::from(le16(block, offset + 2)));
        if limit != self.index_limit(offset) || count == 0 || count > limit {
            return corrupt(home, "directory index counts");
        }
        if offset == ROOT_ENTRIES && entries(block, block.len()).count() != 2 {
            return corrupt(home, "directory index root");
        }
        if !has_right_checksum(Seal::DirectoryIndex(inode.seed(&self.geometry)), home, block, &self.geometry) {
            return corrupt(home, "directory index checksum");
        }
        let mut last = 0;
        for (i, (hash, _)) in decode(block, offset).into_iter().enumerate() {
            if i > 0 && hash < last {
                return corrupt(home, "directory index order");
            }
            last = hash;
        }
        Ok(())
    }

    /// The index of a directory; None when it is of a kind that can't be used here and the blocks must be searched in order.
    pub(crate) fn index(&self, inode: &Inode) -> Result<Option<Index>> {
        let Some(home) = self.mapped_block(inode, 0)? else { return corrupt(inode.table_block, "directory without a first block") };
        let block = self.block(home)?;
        if !looks_like_root(&block) {
            return Ok(None);
        }
        if !block.is_checked(Kind::DirectoryIndex) {
            self.check_index(inode, home, &block)?;
            block.set_checked(Kind::DirectoryIndex);
        }
        let (version, levels) = (byte(&block, 28), byte(&block, 30));
        let max_levels = if self.geometry.incompat.contains(Incompat::LARGEDIR) { 2 } else { 1 };
        if levels > max_levels || byte(&block, 31) & 1 != 0 {
            return corrupt(home, "directory index depth");
        }
        let kind = match version {
            0..=2 => HashKind { version, unsigned: self.geometry.unsigned_hash },
            3..=5 => HashKind { version: version - 3, unsigned: true },
            _ => return Ok(None),
        };
        Ok(Some(Index { kind, levels }))
    }

    fn hash_of(&self, index: &Index, name: &[u8]) -> (u32, u32) {
        hash(name, index.kind, &self.geometry.hash_seed).unwrap_or((0, 0))
    }

    fn node(&self, inode: &Inode, logical: u32) -> Result<(u64, Block)> {
        if u64::from(logical) >= self.dir_blocks(inode) {
            return corrupt(inode.table_block, "directory index: block past the end");
        }
        let Some(home) = self.mapped_block(inode, u64::from(logical))? else { return corrupt(inode.table_block, "directory index: hole") };
        let block = self.block(home)?;
        if looks_like_root(&block) || le32(&block, 0) != 0 || byte(&block, 6) != 0 {
            return corrupt(home, "directory index node");
        }
        if !block.is_checked(Kind::DirectoryIndex) {
            self.check_index(inode, home, &block)?;
            block.set_checked(Kind::DirectoryIndex);
        }
        Ok((home, block))
    }

    /// The index blocks from the root down to the one that names the leaf of `hash`.
    fn frames(&self, inode: &Inode, index: &Index, hash: u32) -> Result<Vec<Frame>> {
        let mut frames: Vec<Frame> = Vec::new();
        for level in 0..=usize::from(index.levels) {
            let (home, block, offset) = match frames.last() {
                None => {
                    let home =
                        self.mapped_block(inode, 0)?.ok_or(Error::Corrupt { block: inode.table_block, what: "directory index root" })?;
                    (home, self.block(home)?, ROOT_ENTRIES)
                }
                Some(above) => {
                    let (home, block) = self.node(inode, above.entries[above.at].1)?;
                    (home, block, NODE_ENTRIES)
                }
            };
            let list = decode(&block, offset);
            if list.is_empty() || level > 2 {
                return corrupt(home, "directory index counts");
            }
            let at = list.partition_point(|entry| entry.0 <= hash).max(1) - 1;
            frames.push(Frame { home, offset, entries: list, at });
        }
        Ok(frames)
    }

    /// Steps to the next leaf and gives the hash it starts at, with its lowest bit set when it continues the last one's; None at the end.
    fn advance(&self, inode: &Inode, frames: &mut [Frame]) -> Result<Option<u32>> {
        let Some(level) = frames.iter().rposition(|frame| frame.at + 1 < frame.entries.len()) else { return Ok(None) };
        frames[level].at += 1;
        let hash = frames[level].entries[frames[level].at].0;
        for below in level + 1..frames.len() {
            let above = &frames[below - 1];
            let (home, block) = self.node(inode, above.entries[above.at].1)?;
            let list = decode(&block, NODE_ENTRIES);
            if list.is_empty() {
                return corrupt(home, "directory index counts");
            }
            frames[below] = Frame { home, offset: NODE_ENTRIES, entries: list, at: 0 };
        }
        Ok(Some(hash))
    }

    fn leaf(&self, inode: &Inode, frames: &[Frame]) -> Result<(u64, Block)> {
        let Some(frame) = frames.last() else { return corrupt(inode.table_block, "directory index") };
        let logical = u64::from(frame.entries[frame.at].1);
        if logical == 0 || logical >= self.dir_blocks(inode) {
            return corrupt(frame.home, "directory index: leaf past the end");
        }
        self.leaf_block(inode, logical)?.ok_or(Error::Corrupt { block: frame.home, what: "directory index: leaf" })
    }

    pub(crate) fn find_indexed(&self, inode: &Inode, index: &Index, name: &[u8]) -> Result<Option<Slot>> {
        let (hash, _) = self.hash_of(index, name);
        let mut frames = self.frames(inode, index, hash)?;
        loop {
            let (home, block) = self.leaf(inode, &frames)?;
            if let Some(slot) = find_in(&block, home, name) {
                return Ok(Some(slot));
            }
            match self.advance(inode, &mut frames)? {
                Some(next) if next & !1 == hash => {}
                _ => return Ok(None),
            }
        }
    }

    /// Entries in order of their hashes, so that splitting a leaf neither hides nor repeats one.
    pub(crate) fn read_indexed(&self, inode: &Inode, index: &Index, cursor: u64) -> Result<Vec<DirEntry>> {
        if cursor >= END {
            return Ok(Vec::new());
        }
        let size = self.geometry.block_size;
        let mut found: Vec<(u64, DirEntry)> = Vec::new();
        if cursor < DOTS
            && let Some((_, block)) = self.dir_block(inode, 0)?
        {
            for (i, entry) in entries(&block, size).take(2).enumerate().filter(|(i, _)| *i as u64 >= cursor) {
                found.push((i as u64, self.entry_of(&entry, i as u64 + 1)));
            }
        }
        let start = ((cursor >> 32) as u32) << 1;
        let mut frames = self.frames(inode, index, start)?;
        loop {
            let mut batch = Vec::new();
            let next = self.collect_leaves(inode, index, &mut frames, &mut batch)?;
            batch.sort_unstable_by(|a: &(u64, DirEntry), b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name)));
            // Equal keys, and keys that would look like "." and "..", move up to be unique.
            let mut least = DOTS;
            for (key, entry) in &mut batch {
                *key = (*key).max(least);
                least = *key + 1;
                entry.next = least;
            }
            found.extend(batch.into_iter().filter(|(key, _)| *key >= cursor));
            if !found.is_empty() || next.is_none() {
                return Ok(found.into_iter().map(|(_, entry)| entry).collect());
            }
        }
    }

    /// Adds the entries of the leaf at hand, and of those that continue its last hash, with their keys. Leaves `frames` at the next one.
    fn collect_leaves(&self, inode: &Inode, index: &Index, frames: &mut [Frame], batch: &mut Vec<(u64, DirEntry)>) -> Result<Option<u32>> {
        // A hash shared by more leaves than any directory that was made by adding names.
        const MOST_LEAVES: usize = 64;
        for _ in 0..MOST_LEAVES {
            let (_, block) = self.leaf(inode, frames)?;
            for entry in entries(&block, block.len()).filter(|e| e.ino != 0) {
                let (major, minor) = self.hash_of(index, entry.name);
                batch.push((u64::from(major >> 1) << 32 | u64::from(minor), self.entry_of(&entry, 0)));
            }
            match self.advance(inode, frames)? {
                Some(hash) if hash & 1 != 0 => {}
                next => return Ok(next),
            }
        }
        corrupt(inode.table_block, "directory index: one hash in too many leaves")
    }

    /// Turns a full directory of one block into an indexed one. False when its form does not allow that.
    pub(crate) fn make_indexed(&mut self, inode: &mut Inode) -> Result<bool> {
        let size = self.geometry.block_size;
        let Some((home, block)) = self.dir_block(inode, 0)? else { return Ok(false) };
        let list: Vec<Named> = named(&block);
        let dots = list.len() >= 2 && list[0].name == b"." && list[1].name == b"..";
        let version = self.geometry.default_hash;
        if !dots || le16(&block, 4) != 12 || version > 2 {
            return Ok(false);
        }
        let seed = inode.seed(&self.geometry);
        let (logical, leaf) = self.append_dir_block(inode)?;
        self.write_leaf(leaf, Seal::DirectoryLeaf(seed), &list[2..]);
        let limit = self.index_limit(ROOT_ENTRIES);
        let root = self.new_block(home, Seal::DirectoryIndex(seed));
        put_entry(root, 0, 12, list[0].ino, list[0].file_type, b".");
        put_entry(root, 12, rec_len_raw(size - 12, size), list[1].ino, list[1].file_type, b"..");
        put_byte(root, 28, version);
        put_byte(root, 29, 8);
        put_le16(root, ROOT_ENTRIES, limit as u16);
        put_le16(root, ROOT_ENTRIES + 2, 1);
        put_le32(root, ROOT_ENTRIES + 4, logical as u32);
        inode.set_flags(inode.flags() | inode_flags::INDEX);
        Ok(true)
    }

    pub(crate) fn add_indexed(&mut self, inode: &mut Inode, index: Index, new: &Named) -> Result<()> {
        let (wanted, _) = self.hash_of(&index, &new.name);
        let mut frames = self.frames(inode, &index, wanted)?;
        let (home, block) = self.leaf(inode, &frames)?;
        let seal = Seal::DirectoryLeaf(inode.seed(&self.geometry));
        if self.insert_into(home, &block, seal, new)? {
            return Ok(());
        }
        let mut list: Vec<(u32, Named)> = named(&block).into_iter().map(|entry| (self.hash_of(&index, &entry.name).0, entry)).collect();
        list.push((wanted, new.clone()));
        list.sort_by_key(|(hash, _)| *hash);
        let total: usize = list.iter().map(|(_, entry)| entry_len(entry.name.len())).sum();
        if total <= self.leaf_len() || list.len() < 2 {
            // There was room, but in pieces.
            let names: Vec<Named> = list.into_iter().map(|(_, entry)| entry).collect();
            self.write_leaf(home, seal, &names);
            return Ok(());
        }
        let (mut kept, mut cut) = (0, 0);
        while cut + 1 < list.len() && (cut == 0 || kept + entry_len(list[cut].1.name.len()) / 2 <= total / 2) {
            kept += entry_len(list[cut].1.name.len());
            cut += 1;
        }
        let key = list[cut].0 | u32::from(list[cut - 1].0 == list[cut].0);
        let (logical, right) = self.append_dir_block(inode)?;
        let names: Vec<Named> = list.into_iter().map(|(_, entry)| entry).collect();
        self.write_leaf(home, seal, &names[..cut]);
        self.write_leaf(right, seal, &names[cut..]);
        let level = frames.len() - 1;
        self.insert_index(inode, &index, &mut frames, level, (key, logical as u32))
    }

    fn insert_index(&mut self, inode: &mut Inode, index: &Index, frames: &mut Vec<Frame>, level: usize, new: (u32, u32)) -> Result<()> {
        let frame = &mut frames[level];
        let limit = self.index_limit(frame.offset);
        if frame.entries.len() < limit {
            frame.entries.insert(frame.at + 1, new);
            return self.store_frame(inode, &frames[level]);
        }
        let (logical, home) = self.append_dir_block(inode)?;
        if level == 0 {
            let max_levels = if self.geometry.incompat.contains(Incompat::LARGEDIR) { 2 } else { 1 };
            if index.levels >= max_levels {
                return Err(Error::NoSpace);
            }
            // The root's entries move one level down; only the root's own block number must stay.
            let root = &mut frames[0];
            let (list, at) = (std::mem::replace(&mut root.entries, vec![(0, logical as u32)]), root.at);
            root.at = 0;
            self.store_frame(inode, &frames[0])?;
            let seal = Seal::DirectoryIndex(inode.seed(&self.geometry));
            put_byte(self.block_mut(frames[0].home, seal)?, 30, index.levels + 1);
            let mut below = Frame { home, offset: NODE_ENTRIES, entries: list, at };
            below.entries.insert(at + 1, new);
            return self.store_frame(inode, &below);
        }
        let frame = &mut frames[level];
        frame.entries.insert(frame.at + 1, new);
        let list = frame.entries.split_off(frame.entries.len() / 2);
        let key = list.first().map_or(0, |entry| entry.0);
        let right = Frame { home, offset: NODE_ENTRIES, entries: list, at: 0 };
        self.store_frame(inode, &right)?;
        self.store_frame(inode, &frames[level])?;
        self.insert_index(inode, index, frames, level - 1, (key, logical as u32))
    }

    fn store_frame(&mut self, inode: &Inode, frame: &Frame) -> Result<()> {
        let size = self.geometry.block_size;
        let (seal, limit) = (Seal::DirectoryIndex(inode.seed(&self.geometry)), self.index_limit(frame.offset));
        let bytes = match frame.offset {
            ROOT_ENTRIES => self.block_mut(frame.home, seal)?,
            _ => self.new_block(frame.home, seal),
        };
        if frame.offset == NODE_ENTRIES {
            put_le16(bytes, 4, rec_len_raw(size, size));
        }
        for (i, (hash, logical)) in frame.entries.iter().enumerate() {
            put_le32(bytes, frame.offset + i * 8, *hash);
            put_le32(bytes, frame.offset + i * 8 + 4, *logical);
        }
        put_le16(bytes, frame.offset, limit as u16);
        put_le16(bytes, frame.offset + 2, frame.entries.len() as u16);
        Ok(())
    }
}

/// The names in a leaf.
fn named(block: &[u8]) -> Vec<Named> {
    let used = entries(block, block.len()).filter(|e| e.ino != 0);
    used.map(|e| Named { ino: e.ino, file_type: e.file_type, name: e.name.to_vec() }).collect()
}
