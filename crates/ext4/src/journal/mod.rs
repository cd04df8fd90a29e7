//! The jbd2 journal: its superblock, where its blocks are, and the circle of log blocks.
//!
//! `recovery` reads what a crash left, `commit` writes transactions, `fast_commit` replays Linux's short records.
//!
//! Not here: what transactions hold (`core`), and when to commit or checkpoint (`filesystem`).
//!
//! Always true: the journal superblock's start never moves past a transaction whose blocks are not all home and durable; a commit block
//! is written only after everything before it is durable.
//!
//! Source: Linux `Documentation/filesystems/ext4/journal.rst`.

mod commit;
pub(crate) mod fast_commit;
mod recovery;

use std::sync::Arc;

use block::{BlockDevice, Durability, SECTOR_SIZE};

use crate::checksum::crc32c;
use crate::core::Core;
use crate::error::{Error, Result, corrupt};
use crate::field::{be32, byte, le16, le32, part, put_be32, put_byte};
use crate::mapping::MappingState;
use crate::superblock::Incompat;

const MAGIC: u32 = 0xc03b_3998;
/// Smallest journal that Linux accepts.
const MIN_BLOCKS: u32 = 1024;
const DEFAULT_FAST_COMMIT_BLOCKS: u32 = 256;

mod block_type {
    pub(super) const DESCRIPTOR: u32 = 1;
    pub(super) const COMMIT: u32 = 2;
    pub(super) const SUPERBLOCK_V1: u32 = 3;
    pub(super) const SUPERBLOCK_V2: u32 = 4;
    pub(super) const REVOKE: u32 = 5;
}

mod compat {
    pub(super) const CHECKSUM: u32 = 1;
}

mod incompat {
    pub(super) const REVOKE: u32 = 1;
    pub(super) const BIT64: u32 = 2;
    pub(super) const ASYNC_COMMIT: u32 = 4;
    pub(super) const CSUM_V2: u32 = 8;
    pub(super) const CSUM_V3: u32 = 16;
    pub(super) const FAST_COMMIT: u32 = 32;
    pub(super) const KNOWN: u32 = 63;
}

mod tag_flags {
    pub(super) const ESCAPED: u32 = 1;
    pub(super) const SAME_UUID: u32 = 2;
    pub(super) const LAST: u32 = 8;
}

/// An open journal.
pub(crate) struct Journal {
    device: Arc<dyn BlockDevice>,
    block_size: usize,
    /// (first log block, its place on the device, length), in order.
    runs: Vec<(u32, u64, u32)>,
    /// The log block that holds the journal superblock.
    superblock_at: u32,
    raw: Vec<u8>,
    /// First block of the circle, and the one behind its last.
    first: u32,
    end: u32,
    /// Fast-commit area, behind the circle.
    fast_commit_end: u32,
    /// Where the next transaction goes.
    head: u32,
    /// Blocks of the circle that hold no transaction that may still be needed.
    free: u32,
    /// Blocks of the file system that the log may name.
    target_blocks: u64,
    pub(crate) barrier: bool,
}

impl Journal {
    /// Opens the journal that the superblock names; `external` is its device when it has one of its own.
    pub(crate) fn open(core: &Core, external: Option<Arc<dyn BlockDevice>>) -> Result<Journal> {
        let block_size = core.geometry.block_size;
        let (device, runs, superblock_at) = match (core.superblock.journal_inode(), external) {
            (0, Some(device)) => {
                let (superblock_at, len) = external_place(core, device.as_ref())?;
                (device, vec![(0, 0, len)], superblock_at)
            }
            (0, None) => return Err(Error::BadOption("the journal is on another device: name it with journal_path")),
            (ino, _) => (core.device.clone(), journal_runs(core, ino)?, 0),
        };
        let mut journal = Journal {
            device,
            block_size,
            runs,
            superblock_at,
            raw: Vec::new(),
            first: 0,
            end: 0,
            fast_commit_end: 0,
            head: 0,
            free: 0,
            target_blocks: core.geometry.blocks_count,
            barrier: true,
        };
        let mut raw = journal.read_log(superblock_at)?;
        raw.truncate(1024);
        journal.raw = raw;
        journal.check()?;
        Ok(journal)
    }

    fn check(&mut self) -> Result<()> {
        let home = self.place(self.superblock_at).unwrap_or(0);
        if be32(&self.raw, 0) != MAGIC {
            return corrupt(home, "journal superblock magic");
        }
        let kind = be32(&self.raw, 4);
        if kind == block_type::SUPERBLOCK_V1 {
            self.raw[0x24..].fill(0);
        } else if kind != block_type::SUPERBLOCK_V2 {
            return corrupt(home, "journal superblock type");
        }
        if self.incompat() & !incompat::KNOWN != 0 || be32(&self.raw, 0x2c) != 0 {
            return Err(Error::Unsupported("a journal feature without a name here"));
        }
        if self.incompat() & incompat::CSUM_V2 != 0 && self.incompat() & incompat::CSUM_V3 != 0 {
            return corrupt(home, "journal superblock: two kinds of checksums");
        }
        if self.has_csum() && (byte(&self.raw, 0x50) != 4 || be32(&self.raw, 0xfc) != self.checksum()) {
            return corrupt(home, "journal superblock checksum");
        }
        let (len, first) = (be32(&self.raw, 0x10), be32(&self.raw, 0x14));
        let mapped = self.runs.last().map_or(0, |run| run.0 + run.2);
        if be32(&self.raw, 0xc) as usize != self.block_size
            || len > mapped
            || len < MIN_BLOCKS
            || first <= self.superblock_at
            || first >= len
        {
            return corrupt(home, "journal superblock geometry");
        }
        let fast = match (self.incompat() & incompat::FAST_COMMIT != 0, be32(&self.raw, 0x54)) {
            (false, _) => 0,
            (true, 0) => DEFAULT_FAST_COMMIT_BLOCKS,
            (true, blocks) => blocks,
        };
        // A journal too small for both has no area for fast commits.
        let fast = if fast <= len - MIN_BLOCKS && len - fast > first { fast } else { 0 };
        (self.first, self.end, self.fast_commit_end) = (first, len - fast, len);
        let start = be32(&self.raw, 0x1c);
        if start != 0 && (start < self.first || start >= self.end) {
            return corrupt(home, "journal superblock: start");
        }
        (self.head, self.free) = (self.first, self.end - self.first);
        Ok(())
    }

    fn incompat(&self) -> u32 {
        if be32(&self.raw, 4) == block_type::SUPERBLOCK_V2 { be32(&self.raw, 0x28) } else { 0 }
    }

    fn has_csum(&self) -> bool {
        self.incompat() & (incompat::CSUM_V2 | incompat::CSUM_V3) != 0
    }

    fn seed(&self) -> u32 {
        crc32c(!0, part(&self.raw, 0x30, 16))
    }

    fn checksum(&self) -> u32 {
        crc32c(crc32c(crc32c(!0, part(&self.raw, 0, 0xfc)), &[0; 4]), part(&self.raw, 0x100, 1024))
    }

    /// Whether a crash left transactions.
    pub(crate) fn needs_recovery(&self) -> bool {
        be32(&self.raw, 0x1c) != 0
    }

    /// The number that the next transaction must have.
    pub(crate) fn next_tid(&self) -> u32 {
        be32(&self.raw, 0x18)
    }

    /// The error that an aborted journal recorded, 0 without.
    pub(crate) fn recorded_error(&self) -> u32 {
        be32(&self.raw, 0x20)
    }

    pub(crate) fn is_external(&self) -> bool {
        self.superblock_at != 0
    }

    /// Blocks of log in all.
    pub(crate) fn len(&self) -> u32 {
        self.end - self.first
    }

    fn place(&self, log_block: u32) -> Result<u64> {
        let index = self.runs.partition_point(|run| run.0 <= log_block);
        match index.checked_sub(1).and_then(|i| self.runs.get(i)) {
            Some(&(first, physical, len)) if log_block - first < len => Ok(physical + u64::from(log_block - first)),
            _ => corrupt(0, "journal: hole"),
        }
    }

    fn read_log(&self, log_block: u32) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.block_size];
        self.device.read(self.place(log_block)? * (self.block_size / SECTOR_SIZE) as u64, &mut bytes)?;
        Ok(bytes)
    }

    fn after(&self, log_block: u32) -> u32 {
        if log_block + 1 >= self.end { self.first } else { log_block + 1 }
    }

    /// Sets the features that transactions will use, as Linux does when it mounts for writing.
    pub(crate) fn prepare_for_writing(&mut self, core: &Core) -> Result<()> {
        if be32(&self.raw, 4) != block_type::SUPERBLOCK_V2 {
            put_be32(&mut self.raw, 4, block_type::SUPERBLOCK_V2);
        }
        let mut features = self.incompat() | incompat::REVOKE;
        if core.geometry.is_64bit() {
            features |= incompat::BIT64;
        }
        if core.geometry.has_metadata_csum() && features & incompat::CSUM_V2 == 0 {
            features |= incompat::CSUM_V3;
        }
        if features & (incompat::CSUM_V2 | incompat::CSUM_V3) != 0 {
            let compat_bits = be32(&self.raw, 0x24) & !compat::CHECKSUM;
            put_be32(&mut self.raw, 0x24, compat_bits);
            put_byte(&mut self.raw, 0x50, 4);
        }
        put_be32(&mut self.raw, 0x28, features & !incompat::ASYNC_COMMIT);
        self.write_superblock()
    }

    fn write_superblock(&mut self) -> Result<()> {
        if self.has_csum() {
            let sum = self.checksum();
            put_be32(&mut self.raw, 0xfc, sum);
        }
        let sector = self.place(self.superblock_at)? * (self.block_size / SECTOR_SIZE) as u64;
        Ok(self.device.write(sector, &self.raw, self.durability())?)
    }

    fn durability(&self) -> Durability {
        if self.barrier { Durability::ForceUnitAccess } else { Durability::Cached }
    }

    /// Everything up to `next_tid` is home and durable: the log holds nothing that is needed. It stays marked as in use.
    pub(crate) fn empty_to(&mut self, next_tid: u32) -> Result<()> {
        self.free = self.end - self.first;
        put_be32(&mut self.raw, 0x18, next_tid);
        put_be32(&mut self.raw, 0x1c, self.head);
        self.write_superblock()
    }

    /// As [`Journal::empty_to`], and a reader finds nothing to replay.
    pub(crate) fn mark_clean(&mut self, next_tid: u32) -> Result<()> {
        self.free = self.end - self.first;
        self.head = self.first;
        put_be32(&mut self.raw, 0x18, next_tid);
        put_be32(&mut self.raw, 0x1c, 0);
        self.write_superblock()
    }

    /// Records why the journal was aborted, for the next mount.
    pub(crate) fn record_error(&mut self, errno: i32) -> Result<()> {
        put_be32(&mut self.raw, 0x20, errno.wrapping_neg() as u32);
        self.write_superblock()
    }

    pub(crate) fn clear_error(&mut self) {
        put_be32(&mut self.raw, 0x20, 0);
    }

    /// Durable on the journal's device.
    pub(crate) fn flush(&self) -> Result<()> {
        if self.barrier { Ok(self.device.flush()?) } else { Ok(()) }
    }
}

fn journal_runs(core: &Core, ino: u32) -> Result<Vec<(u32, u64, u32)>> {
    let inode = core.read_inode(ino)?;
    let blocks = inode.size() >> core.geometry.block_bits;
    if inode.links() == 0 || blocks > u64::from(u32::MAX) || blocks > core.geometry.blocks_count {
        return corrupt(inode.table_block, "journal inode");
    }
    let (mut runs, mut at) = (Vec::new(), 0);
    while at < blocks {
        let mapping = core.map(&inode, at, blocks - at)?;
        if mapping.state == MappingState::Hole {
            return corrupt(inode.table_block, "journal inode: hole");
        }
        runs.push((at as u32, mapping.physical, mapping.len as u32));
        at += mapping.len;
    }
    Ok(runs)
}

/// Where the journal superblock of an external journal is, behind an ext superblock of its own, and the blocks of the device. Log blocks
/// are counted from the device's start.
fn external_place(core: &Core, device: &dyn BlockDevice) -> Result<(u32, u32)> {
    let mut sb = vec![0; 1024];
    device.read(2, &mut sb)?;
    let features = Incompat::from_bits_retain(le32(&sb, 0x60));
    if le16(&sb, 0x38) != 0xef53 || !features.contains(Incompat::JOURNAL_DEV) {
        return corrupt(0, "external journal: superblock");
    }
    if part(&sb, 0x68, 16) != core.superblock.journal_uuid() {
        return Err(Error::BadOption("journal_path: this journal belongs to another file system"));
    }
    let block_size = core.geometry.block_size as u64;
    let blocks = device.sectors() * SECTOR_SIZE as u64 / block_size;
    Ok(((1024 / block_size) as u32 + 1, u32::try_from(blocks).unwrap_or(u32::MAX)))
}
