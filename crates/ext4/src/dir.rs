//! Directories: entries in blocks, searched one after another, and the operations on names that both forms share.
//!
//! Not here: the index of large directories (`htree`) and directories inside an inode (`inline`).
//!
//! Always true of a block that [`Core::dir_block`] gave: its entries fill it exactly, so a walk over them ends.
//!
//! Source: Linux `Documentation/filesystems/ext4/directory.rst`.

use crate::cache::{Block, Kind};
use crate::core::{Core, Seal, has_right_checksum};
use crate::error::{Error, Result, corrupt};
use crate::field::{byte, le16, le32, part, put_byte, put_le16, put_le32, put_part};
use crate::inode::{FileType, Inode, inode_flags};
use crate::mapping::MappingState;
use crate::superblock::{Compat, Incompat};
use crate::{block_alloc::Claim, htree};

/// Longest name, in bytes.
pub const NAME_MAX: usize = 255;
/// Fixed bytes of an entry.
pub(crate) const ENTRY_HEADER: usize = 8;
/// Bytes of the entry-shaped checksum at a block's end.
pub(crate) const TAIL: usize = 12;
/// Directories without `largedir` end here.
const SMALL_DIR_END: u64 = 1 << 31;

/// One name, as reading a directory gives it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// The inode.
    pub ino: u32,
    /// Its type, as the directory has it; `Unknown` without the filetype feature.
    pub file_type: FileType,
    /// The name, any bytes but `/` and NUL.
    pub name: Vec<u8>,
    /// Where reading goes on behind this entry (`d_off`).
    pub next: u64,
}

/// Where an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    pub(crate) block: u64,
    pub(crate) at: usize,
    pub(crate) ino: u32,
    pub(crate) file_type: u8,
}

/// A name and what it means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Named {
    pub(crate) ino: u32,
    pub(crate) file_type: u8,
    pub(crate) name: Vec<u8>,
}

/// One entry inside its block.
#[derive(Clone, Copy)]
pub(crate) struct RawEntry<'a> {
    pub(crate) at: usize,
    pub(crate) rec_len: usize,
    pub(crate) ino: u32,
    pub(crate) file_type: u8,
    pub(crate) name: &'a [u8],
}

/// Bytes that an entry with such a name needs.
pub(crate) fn entry_len(name_len: usize) -> usize {
    (ENTRY_HEADER + name_len).next_multiple_of(4)
}

/// Decodes a record length: blocks of 64 KiB need 17 bits.
fn rec_len_of(raw: u16, block_size: usize) -> usize {
    match (block_size, raw) {
        (65536, 65535 | 0) => block_size,
        (65536, raw) => usize::from(raw & 0xfffc) | usize::from(raw & 3) << 16,
        (_, raw) => usize::from(raw),
    }
}

pub(crate) fn rec_len_raw(len: usize, block_size: usize) -> u16 {
    if block_size == 65536 && len == 65536 { 65535 } else { len as u16 }
}

/// The entries of a block or of a part of one. It ends early at an entry that makes no sense.
pub(crate) fn entries(bytes: &[u8], block_size: usize) -> impl Iterator<Item = RawEntry<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at + ENTRY_HEADER > bytes.len() {
            return None;
        }
        let rec_len = rec_len_of(le16(bytes, at + 4), block_size);
        let name_len = usize::from(byte(bytes, at + 6));
        if rec_len < ENTRY_HEADER || !rec_len.is_multiple_of(4) || at + rec_len > bytes.len() || ENTRY_HEADER + name_len > rec_len {
            return None;
        }
        let entry =
            RawEntry { at, rec_len, ino: le32(bytes, at), file_type: byte(bytes, at + 7), name: part(bytes, at + ENTRY_HEADER, name_len) };
        at += rec_len;
        Some(entry)
    })
}

pub(crate) fn put_entry(bytes: &mut [u8], at: usize, rec_len: u16, ino: u32, file_type: u8, name: &[u8]) {
    put_le32(bytes, at, ino);
    put_le16(bytes, at + 4, rec_len);
    put_byte(bytes, at + 6, name.len() as u8);
    put_byte(bytes, at + 7, file_type);
    put_part(bytes, at + ENTRY_HEADER, name);
}

impl Core {
    /// Bytes of a leaf that entries may use.
    pub(crate) fn leaf_len(&self) -> usize {
        self.geometry.block_size - if self.geometry.has_metadata_csum() { TAIL } else { 0 }
    }

    fn check_leaf(&self, inode: &Inode, home: u64, bytes: &[u8]) -> Result<()> {
        let size = bytes.len();
        let mut end = 0;
        for entry in entries(bytes, size) {
            end = entry.at + entry.rec_len;
            if entry.ino > self.geometry.inodes_count {
                return corrupt(home, "directory entry: inode number");
            }
            if entry.rec_len < entry_len(1) || (entry.ino != 0 && entry.name.is_empty()) {
                return corrupt(home, "directory entry: length");
            }
        }
        if end != size {
            return corrupt(home, "directory entry: record length");
        }
        if self.geometry.has_metadata_csum() {
            let at = size - TAIL;
            if le32(bytes, at) != 0 || le16(bytes, at + 4) != TAIL as u16 || le16(bytes, at + 6) != 0xde00 {
                return corrupt(home, "directory block without room for its checksum");
            }
            if !has_right_checksum(Seal::DirectoryLeaf(inode.seed(&self.geometry)), home, bytes, &self.geometry) {
                return corrupt(home, "directory block checksum");
            }
        }
        Ok(())
    }

    /// Blocks of a directory.
    pub(crate) fn dir_blocks(&self, inode: &Inode) -> u64 {
        inode.size() >> self.geometry.block_bits
    }

    pub(crate) fn is_indexed(&self, inode: &Inode) -> bool {
        self.geometry.compat.contains(Compat::DIR_INDEX) && inode.has(inode_flags::INDEX)
    }

    /// A directory's block that holds entries, and its place; None for a hole or an index block.
    pub(crate) fn dir_block(&self, inode: &Inode, logical: u64) -> Result<Option<(u64, Block)>> {
        let Some(home) = self.mapped_block(inode, logical)? else { return Ok(None) };
        let block = self.block(home)?;
        let is_node = le32(&block, 0) == 0 && le16(&block, 6) == 0 && rec_len_of(le16(&block, 4), block.len()) == block.len();
        if self.is_indexed(inode) && (logical == 0 || is_node) {
            if is_node || block.is_checked(Kind::DirectoryIndex) {
                return Ok((!is_node).then_some((home, block)));
            }
            if htree::looks_like_root(&block) {
                self.check_index(inode, home, &block)?;
                block.set_checked(Kind::DirectoryIndex);
                return Ok(Some((home, block)));
            }
        }
        self.leaf_block(inode, logical)
    }

    /// A block that must be a leaf; None for a hole.
    pub(crate) fn leaf_block(&self, inode: &Inode, logical: u64) -> Result<Option<(u64, Block)>> {
        let Some(home) = self.mapped_block(inode, logical)? else { return Ok(None) };
        let block = self.checked(home, Kind::DirectoryLeaf, |bytes| self.check_leaf(inode, home, bytes))?;
        Ok(Some((home, block)))
    }

    /// The seal of a block that [`Core::dir_block`] gave.
    pub(crate) fn dir_seal(&self, inode: &Inode, block: &Block) -> Seal {
        let seed = inode.seed(&self.geometry);
        if block.is_checked(Kind::DirectoryIndex) { Seal::DirectoryIndex(seed) } else { Seal::DirectoryLeaf(seed) }
    }

    /// Finds a name.
    pub(crate) fn find_entry(&self, inode: &Inode, name: &[u8]) -> Result<Option<Slot>> {
        if name.len() > NAME_MAX {
            return Err(Error::NameTooLong);
        }
        if inode.has(inode_flags::INLINE_DATA) {
            let found = self.inline_entries(inode)?.into_iter().find(|entry| entry.name == name);
            return Ok(found.map(|entry| Slot {
                block: inode.table_block,
                at: 0,
                ino: entry.ino,
                file_type: entry.file_type.entry_number(),
            }));
        }
        let dots = name == b"." || name == b"..";
        if self.is_indexed(inode)
            && !dots
            && let Some(index) = self.index(inode)?
        {
            return self.find_indexed(inode, &index, name);
        }
        let blocks = if dots { 1 } else { self.dir_blocks(inode) };
        let mut logical = 0;
        while let Some(next) = self.next_mapped(inode, logical, blocks)? {
            if let Some((home, block)) = self.dir_block(inode, next)?
                && let Some(slot) = find_in(&block, home, name)
            {
                return Ok(Some(slot));
            }
            logical = next + 1;
        }
        Ok(None)
    }

    /// A batch of entries from `cursor` on (0 is the start); empty at the end.
    pub(crate) fn read_entries(&self, inode: &Inode, cursor: u64) -> Result<Vec<DirEntry>> {
        if inode.has(inode_flags::INLINE_DATA) {
            return Ok(self.inline_entries(inode)?.into_iter().filter(|entry| entry.next > cursor).collect());
        }
        if self.is_indexed(inode)
            && let Some(index) = self.index(inode)?
        {
            return self.read_indexed(inode, &index, cursor);
        }
        let size = self.geometry.block_size;
        let (bits, blocks) = (self.geometry.block_bits, self.dir_blocks(inode));
        let mut logical = cursor >> bits;
        let mut skip = (cursor & (size as u64 - 1)) as usize;
        while let Some(next) = self.next_mapped(inode, logical, blocks)? {
            if next != logical {
                skip = 0;
            }
            let mut found = Vec::new();
            if let Some((_, block)) = self.dir_block(inode, next)? {
                for entry in entries(&block, size).filter(|e| e.ino != 0 && e.at >= skip) {
                    found.push(self.entry_of(&entry, (next << bits) + (entry.at + entry.rec_len) as u64));
                }
            }
            if !found.is_empty() {
                return Ok(found);
            }
            (logical, skip) = (next + 1, 0);
        }
        Ok(Vec::new())
    }

    pub(crate) fn entry_of(&self, entry: &RawEntry<'_>, next: u64) -> DirEntry {
        let file_type = match self.geometry.incompat.contains(Incompat::FILETYPE) {
            true => FileType::from_entry(entry.file_type),
            false => FileType::Unknown,
        };
        DirEntry { ino: entry.ino, file_type, name: entry.name.to_vec(), next }
    }

    /// The number that an entry stores for a type.
    pub(crate) fn type_number(&self, file_type: FileType) -> u8 {
        if self.geometry.incompat.contains(Incompat::FILETYPE) { file_type.entry_number() } else { 0 }
    }

    /// Adds a name that is not there. The caller stores the inode.
    pub(crate) fn add_entry(&mut self, inode: &mut Inode, new: &Named) -> Result<()> {
        if new.name.is_empty() || new.name.len() > NAME_MAX {
            return Err(Error::NameTooLong);
        }
        inode.bump_version();
        if self.is_indexed(inode) {
            match self.index(inode)? {
                Some(index) => return self.add_indexed(inode, index, new),
                // An index that can't be used is given up, as Linux does; e2fsck may make a new one.
                None => inode.set_flags(inode.flags() & !inode_flags::INDEX),
            }
        }
        let blocks = self.dir_blocks(inode);
        let mut logical = 0;
        while let Some(next) = self.next_mapped(inode, logical, blocks)? {
            if let Some((home, block)) = self.dir_block(inode, next)? {
                let seal = self.dir_seal(inode, &block);
                if self.insert_into(home, &block, seal, new)? {
                    return Ok(());
                }
            }
            logical = next + 1;
        }
        if blocks == 1 && self.geometry.compat.contains(Compat::DIR_INDEX) && self.make_indexed(inode)? {
            let Some(index) = self.index(inode)? else { return corrupt(inode.table_block, "a new index") };
            return self.add_indexed(inode, index, new);
        }
        let (_, home) = self.append_dir_block(inode)?;
        let seal = Seal::DirectoryLeaf(inode.seed(&self.geometry));
        self.write_leaf(home, seal, std::slice::from_ref(new));
        Ok(())
    }

    /// Puts an entry where it fits. False when the block is too full.
    pub(crate) fn insert_into(&mut self, home: u64, block: &Block, seal: Seal, new: &Named) -> Result<bool> {
        let size = self.geometry.block_size;
        let (needed, usable) = (entry_len(new.name.len()), self.leaf_len());
        let Some(gap) = entries(block, size).filter(|e| e.at < usable).find(|e| {
            let used = if e.ino == 0 { 0 } else { entry_len(e.name.len()) };
            e.rec_len >= used + needed
        }) else {
            return Ok(false);
        };
        let (at, rec_len, used) = (gap.at, gap.rec_len, if gap.ino == 0 { 0 } else { entry_len(gap.name.len()) });
        let bytes = self.block_mut(home, seal)?;
        if used > 0 {
            put_le16(bytes, at + 4, rec_len_raw(used, size));
        }
        put_entry(bytes, at + used, rec_len_raw(rec_len - used, size), new.ino, new.file_type, &new.name);
        Ok(true)
    }

    /// Fills a block with exactly these entries, which fit.
    pub(crate) fn write_leaf(&mut self, home: u64, seal: Seal, list: &[Named]) {
        let (usable, size) = (self.leaf_len(), self.geometry.block_size);
        let bytes = self.new_block(home, seal);
        let mut at = 0;
        for (i, entry) in list.iter().enumerate() {
            let len = if i + 1 == list.len() { usable - at } else { entry_len(entry.name.len()) };
            put_entry(bytes, at, rec_len_raw(len, size), entry.ino, entry.file_type, &entry.name);
            at += len;
        }
        if list.is_empty() {
            put_le16(bytes, 4, rec_len_raw(usable, size));
        }
        if usable < size {
            put_le16(bytes, usable + 4, TAIL as u16);
            put_byte(bytes, usable + 7, 0xde);
        }
    }

    /// Makes a directory one block longer. The block's content is the caller's to write.
    pub(crate) fn append_dir_block(&mut self, inode: &mut Inode) -> Result<(u64, u64)> {
        let logical = self.dir_blocks(inode);
        let size = (logical + 1) << self.geometry.block_bits;
        if size > SMALL_DIR_END && !self.geometry.incompat.contains(Incompat::LARGEDIR) {
            return Err(Error::NoSpace);
        }
        let mapping = self.fill_hole(inode, logical, 1, Claim::Promised, MappingState::Written)?;
        inode.set_size(size);
        Ok((logical, mapping.physical))
    }

    /// Removes the entry in a slot that [`Core::find_entry`] gave.
    pub(crate) fn remove_entry(&mut self, inode: &mut Inode, slot: Slot) -> Result<()> {
        let size = self.geometry.block_size;
        let block = self.block(slot.block)?;
        let seal = self.dir_seal(inode, &block);
        let mut before: Option<(usize, usize)> = None;
        let mut target = None;
        for entry in entries(&block, size) {
            if entry.at == slot.at {
                target = Some(entry.rec_len);
                break;
            }
            before = Some((entry.at, entry.rec_len));
        }
        drop(block);
        let Some(rec_len) = target else { return corrupt(slot.block, "directory entry vanished") };
        let bytes = self.block_mut(slot.block, seal)?;
        match before {
            Some((at, len)) => {
                put_le16(bytes, at + 4, rec_len_raw(len + rec_len, size));
                let end = (slot.at + rec_len).min(bytes.len());
                bytes[slot.at..end].fill(0);
            }
            None => put_le32(bytes, slot.at, 0),
        }
        inode.bump_version();
        Ok(())
    }

    /// Lets an entry mean another inode.
    pub(crate) fn change_entry(&mut self, inode: &mut Inode, slot: Slot, ino: u32, file_type: FileType) -> Result<()> {
        let block = self.block(slot.block)?;
        let (seal, number) = (self.dir_seal(inode, &block), self.type_number(file_type));
        drop(block);
        let bytes = self.block_mut(slot.block, seal)?;
        put_le32(bytes, slot.at, ino);
        put_byte(bytes, slot.at + 7, number);
        inode.bump_version();
        Ok(())
    }

    /// Whether only "." and ".." are there.
    pub(crate) fn is_empty_dir(&self, inode: &Inode) -> Result<bool> {
        let blocks = self.dir_blocks(inode);
        let mut logical = 0;
        while let Some(next) = self.next_mapped(inode, logical, blocks)? {
            if let Some((_, block)) = self.dir_block(inode, next)?
                && entries(&block, block.len()).any(|e| e.ino != 0 && e.name != b"." && e.name != b"..")
            {
                return Ok(false);
            }
            logical = next + 1;
        }
        Ok(true)
    }

    /// Writes the first block of a new directory.
    pub(crate) fn start_directory(&mut self, inode: &mut Inode, parent: u32) -> Result<()> {
        let (_, home) = self.append_dir_block(inode)?;
        let file_type = self.type_number(FileType::Directory);
        let dots = [Named { ino: inode.ino, file_type, name: b".".to_vec() }, Named { ino: parent, file_type, name: b"..".to_vec() }];
        let seal = Seal::DirectoryLeaf(inode.seed(&self.geometry));
        self.write_leaf(home, seal, &dots);
        Ok(())
    }
}

/// Finds a name in one block.
pub(crate) fn find_in(block: &[u8], home: u64, name: &[u8]) -> Option<Slot> {
    entries(block, block.len()).find(|entry| entry.ino != 0 && entry.name == name).map(|entry| Slot {
        block: home,
        at: entry.at,
        ino: entry.ino,
        file_type: entry.file_type,
    })
}
