//! Space inside files and on the device: preallocation, hole punching, where extents lie, and trimming of free space.
//!
//! Source: fallocate(2), Linux `Documentation/filesystems/fiemap.rst`, fstrim(8).

use abi::Errno;
use block::SECTOR_SIZE;

use crate::bitmap;
use crate::block_alloc::Claim;
use crate::error::{Error, Result};
use crate::files::UNMAP_CREDITS;
use crate::filesystem::{CREDITS, Filesystem};
use crate::inode::{FileType, Timestamp, inode_flags};
use crate::mapping::MappingState;

/// Modes of fallocate(2) that ext4 has here. Collapsing and inserting ranges are not supported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fallocate {
    /// 0: allocate, and extend the file.
    Extend,
    /// `FALLOC_FL_KEEP_SIZE`: allocate only.
    KeepSize,
    /// `FALLOC_FL_PUNCH_HOLE`, which always keeps the size.
    PunchHole,
    /// `FALLOC_FL_ZERO_RANGE`, extending the file.
    ZeroRange,
    /// `FALLOC_FL_ZERO_RANGE` with `FALLOC_FL_KEEP_SIZE`.
    ZeroRangeKeepSize,
}

/// `FIEMAP_EXTENT_*`.
pub mod fiemap_flags {
    /// The last extent of the file.
    pub const LAST: u32 = 0x1;
    /// The place on the device is not known.
    pub const UNKNOWN: u32 = 0x2;
    /// Not at a block's start.
    pub const NOT_ALIGNED: u32 = 0x100;
    /// Inside the inode.
    pub const DATA_INLINE: u32 = 0x200;
    /// Allocated but not written.
    pub const UNWRITTEN: u32 = 0x800;
}

/// One extent of FIEMAP, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FiemapExtent {
    /// Where in the file.
    pub logical: u64,
    /// Where on the device.
    pub physical: u64,
    /// How long.
    pub len: u64,
    /// [`fiemap_flags`].
    pub flags: u32,
}

impl Filesystem {
    /// fallocate(2). Partial blocks at the ends of a hole or zero range are zeroed on the device: a cache above drops or zeroes its own
    /// pages first.
    ///
    /// # Errors
    /// [`Error::NotSupported`] where blocks would have to be unwritten and the file has no extents; [`Error::NoSpace`].
    pub fn fallocate(&self, ino: u32, offset: u64, len: u64, mode: Fallocate, now: Timestamp, claim: Claim) -> Result<()> {
        self.set_clock(now);
        let end = offset.checked_add(len).filter(|_| len > 0).ok_or(Error::Invalid)?;
        let size = self.look(|core| {
            let inode = core.regular(ino)?;
            if inode.has(inode_flags::IMMUTABLE) {
                return Err(Error::NotPermitted);
            }
            if end > core.size_limit(&inode) {
                return Err(Error::FileTooBig);
            }
            if !inode.has(inode_flags::EXTENTS) && mode != Fallocate::PunchHole {
                return Err(Error::NotSupported);
            }
            Ok(inode.size())
        })?;
        let block = self.block_size() as u64;
        let (whole_start, whole_end) = (offset.div_ceil(block), end / block);
        match mode {
            Fallocate::Extend | Fallocate::KeepSize => self.preallocate(ino, offset / block, end.div_ceil(block), claim)?,
            Fallocate::PunchHole => {
                self.zero_edges(ino, offset, end)?;
                self.punch(ino, whole_start, whole_end)?;
            }
            Fallocate::ZeroRange | Fallocate::ZeroRangeKeepSize => {
                self.zero_edges(ino, offset, end)?;
                self.unwrite(ino, whole_start, whole_end)?;
                self.preallocate(ino, offset / block, end.div_ceil(block), claim)?;
            }
        }
        let new_size = if matches!(mode, Fallocate::Extend | Fallocate::ZeroRange) { size.max(end) } else { size };
        self.update(CREDITS, |core| {
            let mut inode = core.regular(ino)?;
            inode.set_size(inode.size().max(new_size));
            inode.set_changed(now);
            if mode != Fallocate::KeepSize {
                inode.set_modified(now);
            }
            inode.bump_version();
            core.write_inode(&mut inode)
        })
    }

    fn preallocate(&self, ino: u32, first: u64, end: u64, claim: Claim) -> Result<()> {
        let mut at = first;
        while at < end {
            at += self.update(CREDITS, |core| {
                let mut inode = core.regular(ino)?;
                let mapping = core.fill_hole(&mut inode, at, end - at, claim, MappingState::Unwritten)?;
                core.write_inode(&mut inode)?;
                Ok(mapping.len)
            })?;
        }
        Ok(())
    }

    fn punch(&self, ino: u32, first: u64, end: u64) -> Result<()> {
        let mut done = first >= end;
        while !done {
            done = self.update(UNMAP_CREDITS, |core| {
                let mut inode = core.regular(ino)?;
                let done = core.unmap_step(&mut inode, first, end)?;
                core.write_inode(&mut inode)?;
                Ok(done)
            })?;
        }
        Ok(())
    }

    fn unwrite(&self, ino: u32, first: u64, end: u64) -> Result<()> {
        let mut at = first;
        while at < end {
            at = self.update(UNMAP_CREDITS, |core| {
                let mut inode = core.regular(ino)?;
                let next = core.mark_unwritten(&mut inode, at, end)?;
                core.write_inode(&mut inode)?;
                Ok(next)
            })?;
        }
        Ok(())
    }

    fn zero_edges(&self, ino: u32, start: u64, end: u64) -> Result<()> {
        let block = self.block_size() as u64;
        let first_end = end.min(start.next_multiple_of(block));
        self.zero_bytes(ino, start, first_end - start)?;
        let last_start = end - end % block;
        if last_start >= first_end {
            self.zero_bytes(ino, last_start, end - last_start)?;
        }
        Ok(())
    }

    /// Where a file's extents lie, `most` of them, from byte `start` on over `len` bytes (FIEMAP).
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub fn fiemap(&self, ino: u32, start: u64, len: u64, most: usize) -> Result<Vec<FiemapExtent>> {
        self.look(|core| {
            let inode = core.live_inode(ino)?;
            if inode.has(inode_flags::INLINE_DATA) {
                let flags = fiemap_flags::DATA_INLINE | fiemap_flags::NOT_ALIGNED | fiemap_flags::LAST;
                return Ok(vec![FiemapExtent { logical: 0, physical: 0, len: inode.size(), flags }]);
            }
            let bits = core.geometry.block_bits;
            let mut at = start >> bits;
            let end = start.saturating_add(len).div_ceil(1 << bits).min(core.logical_end(&inode));
            let mut list: Vec<FiemapExtent> = Vec::new();
            while let Some(logical) = core.next_mapped(&inode, at, end)? {
                if list.len() >= most {
                    break;
                }
                let run = core.map(&inode, logical, u64::from(u32::MAX))?;
                let flags = if run.state == MappingState::Unwritten { fiemap_flags::UNWRITTEN } else { 0 };
                list.push(FiemapExtent { logical: logical << bits, physical: run.physical << bits, len: run.len << bits, flags });
                at = logical + run.len;
            }
            if let Some(last) = list.last_mut()
                && core.next_mapped(&inode, (last.logical + last.len) >> bits, u64::MAX)?.is_none()
            {
                last.flags |= fiemap_flags::LAST;
            }
            Ok(list)
        })
    }

    /// The next byte at or after `offset` that is data, or that is a hole (`SEEK_DATA`, `SEEK_HOLE`); None behind the end. Unwritten
    /// blocks count as holes: a cache above knows of its own dirty pages.
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub fn seek(&self, ino: u32, offset: u64, data: bool) -> Result<Option<u64>> {
        self.look(|core| {
            let inode = core.live_inode(ino)?;
            let (bits, size) = (core.geometry.block_bits, inode.size());
            if offset >= size {
                return Ok(None);
            }
            if inode.has(inode_flags::INLINE_DATA) || inode.file_type() != FileType::Regular {
                return Ok(Some(if data { offset } else { size }));
            }
            let (mut at, end) = (offset >> bits, size.div_ceil(1 << bits));
            while at < end {
                let run = core.map(&inode, at, end - at)?;
                if (run.state == MappingState::Written) == data {
                    return Ok(Some((at << bits).max(offset)));
                }
                at += run.len;
            }
            Ok(if data { None } else { Some(size) })
        })
    }

    /// Tells the device of free runs of at least `min_len` bytes in `start..start + len` (FITRIM). Gives the bytes told.
    ///
    /// # Errors
    /// [`Error::NotSupported`] where the device can't.
    pub fn trim(&self, start: u64, len: u64, min_len: u64) -> Result<u64> {
        let (g, device) = {
            let core = self.core.read();
            (core.geometry.clone(), core.device.clone())
        };
        let bits = g.block_bits;
        let (lo, hi) = (start >> bits, (start.saturating_add(len) >> bits).min(g.blocks_count));
        if lo >= g.blocks_count || g.cluster_bits > 0 {
            return Err(Error::Invalid);
        }
        let least = min_len.div_ceil(1 << bits).max(1) as u32;
        let mut trimmed = 0;
        for number in g.group_of(lo.max(g.first_data_block))..g.groups {
            let first = g.group_first_block(number);
            if first >= hi {
                break;
            }
            // Nothing is allocated while the core is held for reading, so what is free here stays free.
            let core = self.core.read();
            let mut busy = core.block_bitmap(number)?.to_vec();
            for run in core.held.get(&number).into_iter().flatten() {
                bitmap::change(&mut busy, run.start, run.len, true);
            }
            let mut bit = lo.saturating_sub(first) as u32;
            let end = u64::from(g.blocks_in_group(number)).min(hi - first) as u32;
            while bit < end {
                let free = bitmap::next(&busy, bit, end, false);
                let stop = bitmap::next(&busy, free, end, true);
                if stop - free >= least {
                    let per_block = (g.block_size / SECTOR_SIZE) as u64;
                    match device.discard((first + u64::from(free)) * per_block, u64::from(stop - free) * per_block) {
                        Err(Errno::EOPNOTSUPP) => return Err(Error::NotSupported),
                        result => result?,
                    }
                    trimmed += u64::from(stop - free) << bits;
                }
                bit = stop;
            }
        }
        Ok(trimmed)
    }
}
