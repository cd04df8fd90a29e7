//! Writing a transaction to the log: revoke records, descriptors with the blocks they name, then the commit block.
//!
//! Not here: which blocks, and their checksums as metadata (`core` sealed them).

use block::{Durability, SECTOR_SIZE};

use super::{Journal, MAGIC, block_type, incompat, tag_flags};
use crate::checksum::crc32c;
use crate::core::Sealed;
use crate::error::{Error, Result};
use crate::field::{be32, part, put_be16, put_be32, put_be64, put_byte, put_part};
use crate::inode::Timestamp;

/// Log bytes written at once.
const BATCH_BYTES: usize = 256 * 1024;

/// Gathers consecutive log blocks into large writes.
struct Writer<'a> {
    journal: &'a Journal,
    at: u32,
    pending: Vec<u8>,
    pending_at: u64,
    written: u32,
}

impl Writer<'_> {
    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let place = self.journal.place(self.at)?;
        let continues = self.pending_at + (self.pending.len() / self.journal.block_size) as u64 == place;
        if !continues || self.pending.len() >= BATCH_BYTES {
            self.drain()?;
            self.pending_at = place;
        }
        self.pending.extend_from_slice(bytes);
        self.at = self.journal.after(self.at);
        self.written += 1;
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        if !self.pending.is_empty() {
            let sector = self.pending_at * (self.journal.block_size / SECTOR_SIZE) as u64;
            self.journal.device.write(sector, &self.pending, Durability::Cached)?;
            self.pending.clear();
        }
        Ok(())
    }
}

/// Bytes of one tag.
pub(super) fn tag_len(features: u32) -> usize {
    if features & incompat::CSUM_V3 != 0 {
        return 16;
    }
    8 + if features & incompat::BIT64 != 0 { 4 } else { 0 } + if features & incompat::CSUM_V2 != 0 { 2 } else { 0 }
}

impl Journal {
    fn header(&self, kind: u32, tid: u32) -> Vec<u8> {
        let mut block = vec![0; self.block_size];
        put_be32(&mut block, 0, MAGIC);
        put_be32(&mut block, 4, kind);
        put_be32(&mut block, 8, tid);
        block
    }

    fn tail_len(&self) -> usize {
        if self.has_csum() { 4 } else { 0 }
    }

    fn seal_tail(&self, block: &mut [u8]) {
        if self.has_csum() {
            let at = block.len() - 4;
            put_be32(block, at, 0);
            let sum = crc32c(self.seed(), block);
            put_be32(block, at, sum);
        }
    }

    fn tags_per_block(&self) -> usize {
        (self.block_size - 12 - 16 - self.tail_len()) / tag_len(self.incompat())
    }

    fn revokes_per_block(&self) -> usize {
        (self.block_size - 16 - self.tail_len()) / if self.incompat() & incompat::BIT64 != 0 { 8 } else { 4 }
    }

    /// Log blocks that a transaction takes.
    fn log_blocks(&self, blocks: usize, revokes: usize) -> u32 {
        (blocks + blocks.div_ceil(self.tags_per_block()) + revokes.div_ceil(self.revokes_per_block()) + 1) as u32
    }

    /// Whether so many blocks and revoke records go into the log without a checkpoint.
    pub(crate) fn has_room_for(&self, blocks: usize, revokes: usize) -> bool {
        self.log_blocks(blocks, revokes) < self.free
    }

    /// Whether a checkpoint is due.
    pub(crate) fn is_half_full(&self) -> bool {
        self.free < self.len() / 2
    }

    /// Writes a transaction and makes it durable. File data that it needs was written before, to the same device or to one that
    /// the caller flushed.
    pub(crate) fn commit(&mut self, transaction: &Sealed, now: Timestamp) -> Result<()> {
        if !self.has_room_for(transaction.blocks.len(), transaction.revoked.len()) {
            return Err(Error::NoSpace);
        }
        if be32(&self.raw, 0x1c) == 0 {
            put_be32(&mut self.raw, 0x18, transaction.tid);
            put_be32(&mut self.raw, 0x1c, self.head);
            self.write_superblock()?;
        }
        let mut writer = Writer { journal: self, at: self.head, pending: Vec::new(), pending_at: u64::MAX, written: 0 };
        for chunk in transaction.revoked.chunks(self.revokes_per_block()) {
            writer.push(&self.revoke_block(chunk, transaction.tid))?;
        }
        for chunk in transaction.blocks.chunks(self.tags_per_block()) {
            let mut bodies = Vec::with_capacity(chunk.len());
            let mut descriptor = self.header(block_type::DESCRIPTOR, transaction.tid);
            let mut at = 12;
            for (i, (home, block)) in chunk.iter().enumerate() {
                // A block that begins like a journal header would end the log.
                let escaped = be32(block, 0) == MAGIC;
                let mut body = std::borrow::Cow::Borrowed(&block[..]);
                if escaped {
                    put_be32(body.to_mut(), 0, 0);
                }
                let mut flags = if escaped { tag_flags::ESCAPED } else { 0 };
                flags |= if i > 0 { tag_flags::SAME_UUID } else { 0 } | if i + 1 == chunk.len() { tag_flags::LAST } else { 0 };
                self.put_tag(&mut descriptor, at, *home, flags, &body, transaction.tid);
                at += tag_len(self.incompat()) + if i == 0 { 16 } else { 0 };
                bodies.push(body);
            }
            self.seal_tail(&mut descriptor);
            writer.push(&descriptor)?;
            for body in bodies {
                writer.push(&body)?;
            }
        }
        writer.drain()?;
        let (at, used) = (writer.at, writer.written + 1);
        self.flush()?;
        let sector = self.place(at)? * (self.block_size / SECTOR_SIZE) as u64;
        self.device.write(sector, &self.commit_block(transaction.tid, now), self.durability())?;
        self.head = self.after(at);
        self.free -= used;
        Ok(())
    }

    fn put_tag(&self, descriptor: &mut [u8], at: usize, home: u64, flags: u32, body: &[u8], tid: u32) {
        let features = self.incompat();
        put_be32(descriptor, at, home as u32);
        let sum = if self.has_csum() { crc32c(crc32c(self.seed(), &tid.to_be_bytes()), body) } else { 0 };
        if features & incompat::CSUM_V3 != 0 {
            put_be32(descriptor, at + 4, flags);
            put_be32(descriptor, at + 8, (home >> 32) as u32);
            put_be32(descriptor, at + 12, sum);
        } else {
            put_be16(descriptor, at + 4, sum as u16);
            put_be16(descriptor, at + 6, flags as u16);
            if features & incompat::BIT64 != 0 {
                put_be32(descriptor, at + 8, (home >> 32) as u32);
            }
        }
        if flags & tag_flags::SAME_UUID == 0 {
            put_part(descriptor, at + tag_len(features), part(&self.raw, 0x30, 16));
        }
    }

    fn revoke_block(&self, blocks: &[u64], tid: u32) -> Vec<u8> {
        let mut block = self.header(block_type::REVOKE, tid);
        let wide = self.incompat() & incompat::BIT64 != 0;
        let mut at = 16;
        for &number in blocks {
            if wide {
                put_be64(&mut block, at, number);
            } else {
                put_be32(&mut block, at, number as u32);
            }
            at += if wide { 8 } else { 4 };
        }
        put_be32(&mut block, 12, at as u32);
        self.seal_tail(&mut block);
        block
    }

    fn commit_block(&self, tid: u32, now: Timestamp) -> Vec<u8> {
        let mut block = self.header(block_type::COMMIT, tid);
        put_be64(&mut block, 0x30, now.seconds as u64);
        put_be32(&mut block, 0x38, now.nanoseconds);
        if self.has_csum() {
            let sum = crc32c(self.seed(), &block);
            put_be32(&mut block, 0x10, sum);
        } else {
            put_byte(&mut block, 0xc, 0);
        }
        block
    }
}
