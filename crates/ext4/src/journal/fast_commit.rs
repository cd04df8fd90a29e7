//! Replaying fast commits: short records of what changed since the last full commit, behind the circle of log blocks.
//!
//! Records say what was done (this name was added, these blocks belong to that file) rather than what blocks hold, so they are done again
//! on the recovered metadata. The result is committed as one ordinary transaction under the number that the records carry: until it is
//! durable a new crash replays the records again on the old state, afterwards they are out of date.
//!
//! Not here: writing them. This implementation commits fully.
//!
//! Source: Linux `Documentation/filesystems/ext4/journal.rst`, "Fast commits".

use std::collections::BTreeSet;

use super::Journal;
use crate::checksum::crc32c;
use crate::core::Core;
use crate::dir::Named;
use crate::error::{Result, corrupt};
use crate::extent::{self, Extent, MAX_WRITTEN};
use crate::field::{le16, le32, part};
use crate::inode::{Inode, inode_flags};

mod tag {
    pub(super) const ADD_RANGE: u16 = 1;
    pub(super) const DEL_RANGE: u16 = 2;
    pub(super) const CREATE: u16 = 3;
    pub(super) const LINK: u16 = 4;
    pub(super) const UNLINK: u16 = 5;
    pub(super) const INODE: u16 = 6;
    pub(super) const PAD: u16 = 7;
    pub(super) const TAIL: u16 = 8;
    pub(super) const HEAD: u16 = 9;
}

/// Bytes before each record's value: its tag and length.
const HEADER: usize = 4;
/// Runs removed from a file in one go.
const RUNS: usize = 256;

/// One thing to do again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Record {
    AddRange { ino: u32, extent: Extent },
    DeleteRange { ino: u32, logical: u32, len: u32 },
    AddName { parent: u32, ino: u32, name: Vec<u8> },
    RemoveName { parent: u32, ino: u32, name: Vec<u8> },
    Inode { ino: u32, raw: Vec<u8> },
}

fn record(kind: u16, value: &[u8]) -> Option<Record> {
    let ino = le32(value, 0);
    let (parent, child) = (ino, le32(value, 4));
    let name = || value.get(8..).filter(|name| !name.is_empty() && name.len() <= 255).map(<[u8]>::to_vec);
    match kind {
        tag::ADD_RANGE if value.len() >= 16 => {
            let raw = u32::from(le16(value, 8));
            let unwritten = raw > MAX_WRITTEN;
            let extent = Extent {
                logical: le32(value, 4),
                len: if unwritten { raw - MAX_WRITTEN } else { raw },
                physical: u64::from(le32(value, 12)) | u64::from(le16(value, 10)) << 32,
                unwritten,
            };
            Some(Record::AddRange { ino, extent })
        }
        tag::DEL_RANGE if value.len() >= 12 => Some(Record::DeleteRange { ino, logical: child, len: le32(value, 8) }),
        tag::CREATE | tag::LINK => Some(Record::AddName { parent, ino: child, name: name()? }),
        tag::UNLINK => Some(Record::RemoveName { parent, ino: child, name: name()? }),
        tag::INODE if value.len() >= 4 + 128 => Some(Record::Inode { ino, raw: value[4..].to_vec() }),
        _ => None,
    }
}

impl Journal {
    /// The records of all complete fast commits that follow transaction `tid - 1`.
    pub(crate) fn fast_commits(&self, tid: u32) -> Result<Vec<Record>> {
        let (mut complete, mut pending, mut sum) = (Vec::new(), Vec::new(), 0);
        // The block behind the circle stays unused.
        for log_block in self.end + 1..self.fast_commit_end {
            let block = self.read_log(log_block)?;
            let mut at = 0;
            while at + HEADER <= block.len() {
                let (kind, len) = (le16(&block, at), usize::from(le16(&block, at + 2)));
                let Some(value) = block.get(at + HEADER..at + HEADER + len) else { return Ok(complete) };
                let covered = if kind == tag::TAIL { 4 } else { len };
                sum = crc32c(sum, part(&block, at, HEADER + covered));
                match kind {
                    tag::HEAD if le32(value, 0) == 0 && le32(value, 4) == tid => {}
                    tag::TAIL if le32(value, 0) == tid && le32(value, 4) == sum => {
                        complete.append(&mut pending);
                        sum = 0;
                    }
                    tag::PAD => {}
                    _ => match record(kind, value) {
                        Some(record) => pending.push(record),
                        None => return Ok(complete),
                    },
                }
                at += HEADER + len;
            }
        }
        Ok(complete)
    }
}

/// Does the records again, in the running transaction.
pub(crate) fn apply(core: &mut Core, records: &[Record]) -> Result<()> {
    let mut touched = BTreeSet::new();
    for record in records {
        // Blocks that a later record needs must not be taken for extent tree or directory blocks before.
        if let Record::AddRange { extent, .. } = record {
            core.hold_run(extent.physical, u64::from(extent.len))?;
        }
    }
    for record in records {
        match record {
            Record::Inode { ino, raw } => {
                core.redo_inode(*ino, raw)?;
                touched.insert(*ino);
            }
            Record::AddRange { ino, extent } => {
                core.redo_range(*ino, u64::from(extent.logical), extent.end(), Some(*extent))?;
                touched.insert(*ino);
            }
            Record::DeleteRange { ino, logical, len } => {
                core.redo_range(*ino, u64::from(*logical), u64::from(*logical) + u64::from(*len), None)?;
                touched.insert(*ino);
            }
            Record::AddName { parent, ino, name } => {
                core.redo_name(*parent, *ino, name)?;
                touched.extend([*parent, *ino]);
            }
            Record::RemoveName { parent, ino, name } => {
                let mut dir = core.read_inode(*parent)?;
                if let Some(slot) = core.find_entry(&dir, name)?.filter(|slot| slot.ino == *ino) {
                    core.remove_entry(&mut dir, slot)?;
                    core.write_inode(&mut dir)?;
                }
            }
        }
    }
    touched.into_iter().try_for_each(|ino| core.recount(ino))
}

impl Core {
    fn hold_run(&mut self, start: u64, len: u64) -> Result<()> {
        if !self.is_data_run(start, len) {
            return corrupt(start, "fast commit: blocks outside the data area");
        }
        let g = self.geometry.clone();
        let (mut at, end) = (start, start + len);
        while at < end {
            let group = g.group_of(at);
            let first = (at - g.group_first_block(group)) as u32;
            let count = (end - at).min(u64::from(g.blocks_in_group(group) - first)) as u32;
            self.hold(group, first, count);
            at += u64::from(count);
        }
        Ok(())
    }

    fn redo_inode(&mut self, ino: u32, raw: &[u8]) -> Result<()> {
        let in_use = self.is_inode_in_use(ino)?;
        let old = if in_use { Some(self.read_inode(ino)?) } else { None };
        let mut inode = Inode::logged(ino, raw, &self.geometry);
        if inode.has(inode_flags::EXTENTS) {
            // The record's own map may be older than the ranges: the map is what is on disk plus the ranges.
            match old.filter(|old| old.has(inode_flags::EXTENTS) && old.generation() == inode.generation()) {
                Some(old) => inode.i_block_mut().copy_from_slice(old.i_block()),
                None => extent::make_root(inode.i_block_mut()),
            }
        }
        if !in_use {
            self.take_inode(ino, inode.is_directory())?;
        }
        self.write_inode(&mut inode)
    }

    /// Unmaps `lo..hi` and maps `new` there.
    fn redo_range(&mut self, ino: u32, lo: u64, hi: u64, new: Option<Extent>) -> Result<()> {
        let mut inode = self.read_inode(ino)?;
        if !inode.has(inode_flags::EXTENTS) || hi > extent::LOGICAL_END || lo >= hi {
            return corrupt(inode.table_block, "fast commit: range");
        }
        let mut done = false;
        while !done {
            let (runs, all) = self.remove_extents(&mut inode, lo, hi, RUNS)?;
            for (start, len) in runs {
                self.free_used(start, len)?;
            }
            done = all;
        }
        if let Some(new) = new {
            self.claim_run(new.physical, new.len)?;
            self.insert_extent(&mut inode, new)?;
        }
        self.write_inode(&mut inode)
    }

    fn redo_name(&mut self, parent: u32, ino: u32, name: &[u8]) -> Result<()> {
        let mut child = self.read_inode(ino)?;
        if !self.is_inode_in_use(ino)? {
            return corrupt(child.table_block, "fast commit: a name for an unused inode");
        }
        if child.is_directory() && self.mapped_block(&child, 0)?.is_none() {
            child.set_size(0);
            self.start_directory(&mut child, parent)?;
            self.write_inode(&mut child)?;
        }
        let mut dir = self.read_inode(parent)?;
        if !dir.is_directory() {
            return corrupt(dir.table_block, "fast commit: a name outside a directory");
        }
        match self.find_entry(&dir, name)? {
            Some(slot) if slot.ino == ino => return Ok(()),
            Some(slot) => self.change_entry(&mut dir, slot, ino, child.file_type())?,
            None => {
                let file_type = self.type_number(child.file_type());
                self.add_entry(&mut dir, &Named { ino, file_type, name: name.to_vec() })?;
            }
        }
        self.write_inode(&mut dir)
    }

    /// Frees those blocks of a run that are in use: another record may have given some of them to another file already, which
    /// [`Core::recount`] takes again.
    fn free_used(&mut self, start: u64, len: u64) -> Result<()> {
        for block in start..start + len {
            let group = self.geometry.group_of(block);
            let bit = (block - self.geometry.group_first_block(group)) as u32;
            if crate::bitmap::is_set(&self.block_bitmap(group)?, bit) {
                self.free_run(block, 1)?;
            }
        }
        Ok(())
    }

    /// Makes bitmaps and the inode's block count what its map says.
    fn recount(&mut self, ino: u32) -> Result<()> {
        let mut inode = self.read_inode(ino)?;
        if !inode.has(inode_flags::EXTENTS) {
            return Ok(());
        }
        let (mut at, mut blocks) = (0, self.tree_blocks(&inode)?);
        while let Some(extent) = self.next_extent(&inode, at, extent::LOGICAL_END)? {
            self.claim_run(extent.physical, extent.len)?;
            blocks += u64::from(extent.len);
            at = extent.end();
        }
        blocks += u64::from(inode.attribute_block() != 0);
        let g = self.geometry.clone();
        inode.set_sectors(blocks * (g.block_size as u64 / 512), &g)?;
        self.write_inode(&mut inode)
    }
}
