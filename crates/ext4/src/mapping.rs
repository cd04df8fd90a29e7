//! The map from a file's blocks to the device's, whichever form the inode has it in.
//!
//! Not here: file data. Whoever moves data asks here where to.
//!
//! Always true: what [`Core::map`] calls mapped lies inside the file system and outside its metadata.

use crate::block_alloc::Claim;
use crate::core::Core;
use crate::error::{Error, Result, corrupt};
use crate::extent::{self, Extent, MAX_UNWRITTEN, MAX_WRITTEN};
use crate::indirect;
use crate::inode::{FileType, Inode, inode_flags};

/// Runs given back in one transaction at most, so that its size is bounded: each may touch another group.
pub(crate) const RUNS_PER_STEP: usize = 16;
/// Blocks of directories and symlinks given back in one transaction: each is revoked.
const REVOKES_PER_STEP: u64 = 128;
/// Blocks mapped in one transaction through indirect blocks.
const POINTERS_PER_STEP: u32 = 1024;

/// What a run of a file's blocks is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MappingState {
    /// Nothing is allocated; it reads as zeroes.
    Hole,
    /// Data.
    Written,
    /// Allocated, reads as zeroes.
    Unwritten,
}

/// A run of a file's blocks that are alike and follow each other on the device. Units are blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// First block in the file.
    pub logical: u64,
    /// Blocks, 1 at least.
    pub len: u64,
    /// First block on the device; 0 for a hole.
    pub physical: u64,
    /// What they hold.
    pub state: MappingState,
}

impl Core {
    /// The run that holds `logical`, from there on, `want` blocks at most.
    pub(crate) fn map(&self, inode: &Inode, logical: u64, want: u64) -> Result<Mapping> {
        let want = want.max(1);
        let hole = |len: u64| Mapping { logical, len: len.clamp(1, want), physical: 0, state: MappingState::Hole };
        if !inode.maps_blocks(&self.geometry) {
            return Ok(hole(want));
        }
        if logical >= self.logical_end(inode) {
            return Ok(hole(want));
        }
        if !inode.has(inode_flags::EXTENTS) {
            let (physical, len) = self.find_pointer(inode, logical, want)?;
            return Ok(match physical {
                0 => hole(len),
                _ => Mapping { logical, len: len.min(want), physical, state: MappingState::Written },
            });
        }
        let found = self.find_extent(inode, logical as u32)?;
        let Some(extent) = found.extent else {
            if found.hole_end <= logical {
                return corrupt(inode.table_block, "extent keys");
            }
            return Ok(hole(found.hole_end - logical));
        };
        let skip = logical - u64::from(extent.logical);
        Ok(Mapping {
            logical,
            len: (u64::from(extent.len) - skip).min(want),
            physical: extent.physical + skip,
            state: if extent.unwritten { MappingState::Unwritten } else { MappingState::Written },
        })
    }

    /// Logical blocks that this inode can map.
    pub(crate) fn logical_end(&self, inode: &Inode) -> u64 {
        match inode.has(inode_flags::EXTENTS) {
            true => u64::from(u32::MAX),
            false => indirect::logical_end(self.geometry.pointers_per_block()),
        }
    }

    /// The physical block of a directory's, symlink's or system file's block. Holes are none.
    pub(crate) fn mapped_block(&self, inode: &Inode, logical: u64) -> Result<Option<u64>> {
        let mapping = self.map(inode, logical, 1)?;
        Ok((mapping.state == MappingState::Written).then_some(mapping.physical))
    }

    /// Where the block should go if it may: behind what precedes it in the file.
    fn goal(&self, inode: &Inode, logical: u64) -> Result<u64> {
        if inode.has(inode_flags::EXTENTS) {
            let found = self.find_extent(inode, logical as u32)?;
            if let Some(before) = found.before {
                let gap = logical - u64::from(before.logical);
                return Ok(before.physical + gap.min(1 << 20));
            }
        } else if logical > 0 {
            let (physical, _) = self.find_pointer(inode, logical - 1, 1)?;
            if physical != 0 {
                return Ok(physical + 1);
            }
        }
        Ok(self.inode_goal(inode))
    }

    /// Allocates blocks for the start of the hole at `logical`, `want` at most, and maps them. Gives what was mapped, which may be less.
    pub(crate) fn fill_hole(&mut self, inode: &mut Inode, logical: u64, want: u64, claim: Claim, state: MappingState) -> Result<Mapping> {
        let unwritten = state == MappingState::Unwritten;
        if logical >= self.logical_end(inode) {
            return Err(Error::FileTooBig);
        }
        let hole = self.map(inode, logical, want.min(self.logical_end(inode) - logical))?;
        if hole.state != MappingState::Hole {
            return Ok(hole);
        }
        let extents = inode.has(inode_flags::EXTENTS);
        if unwritten && !extents {
            return Err(Error::NotSupported);
        }
        let most = match (extents, unwritten) {
            (true, true) => MAX_UNWRITTEN,
            (true, false) => MAX_WRITTEN,
            (false, _) => POINTERS_PER_STEP,
        };
        let goal = self.goal(inode, logical)?;
        let (physical, len) = self.allocate_run(goal, hole.len.min(u64::from(most)) as u32, claim)?;
        if extents {
            self.insert_extent(inode, Extent { logical: logical as u32, len, physical, unwritten })?;
        } else {
            self.insert_pointers(inode, logical, physical, u64::from(len))?;
        }
        let g = self.geometry.clone();
        inode.charge(i64::from(len), &g)?;
        Ok(Mapping { logical, len: u64::from(len), physical, state })
    }

    /// Unmaps and frees a bounded part of `lo..hi`. True when nothing is left there; else it is to be called again in a new transaction.
    pub(crate) fn unmap_step(&mut self, inode: &mut Inode, lo: u64, hi: u64) -> Result<bool> {
        if !inode.maps_blocks(&self.geometry) {
            return Ok(true);
        }
        let is_metadata = matches!(inode.file_type(), FileType::Directory | FileType::Symlink);
        let (lo, hi, mut done) = match is_metadata {
            false => (lo, hi, true),
            true => match self.next_mapped(inode, lo, hi)? {
                None => return Ok(true),
                Some(first) => (first, hi.min(first + REVOKES_PER_STEP), first + REVOKES_PER_STEP >= hi),
            },
        };
        let (runs, all) = match inode.has(inode_flags::EXTENTS) {
            true => self.remove_extents(inode, lo, hi, RUNS_PER_STEP)?,
            false => self.remove_pointers(inode, lo, hi, RUNS_PER_STEP)?,
        };
        done &= all;
        let g = self.geometry.clone();
        for (start, len) in runs {
            self.free_run(start, len)?;
            inode.charge(-(len as i64), &g)?;
            if is_metadata {
                (start..start + len).for_each(|block| self.forget(block));
            }
        }
        Ok(done)
    }

    /// The first block of `lo..hi` that is mapped.
    pub(crate) fn next_mapped(&self, inode: &Inode, lo: u64, hi: u64) -> Result<Option<u64>> {
        let (mut at, hi) = (lo, hi.min(self.logical_end(inode)));
        while at < hi {
            let mapping = self.map(inode, at, hi - at)?;
            if mapping.state != MappingState::Hole {
                return Ok(Some(at));
            }
            at += mapping.len;
        }
        Ok(None)
    }

    /// Marks what is mapped in `lo..hi` as written; gives where to go on in a new transaction, `hi` at the end.
    pub(crate) fn mark_written(&mut self, inode: &mut Inode, lo: u64, hi: u64) -> Result<u64> {
        match inode.has(inode_flags::EXTENTS) {
            true => self.mark_extents(inode, lo, hi, false, RUNS_PER_STEP),
            false => Ok(hi),
        }
    }

    /// Marks what is mapped in `lo..hi` as unwritten, so that it reads as zeroes.
    pub(crate) fn mark_unwritten(&mut self, inode: &mut Inode, lo: u64, hi: u64) -> Result<u64> {
        match inode.has(inode_flags::EXTENTS) {
            true => self.mark_extents(inode, lo, hi, true, RUNS_PER_STEP),
            false => Err(Error::NotSupported),
        }
    }

    /// Gives a fresh inode the form of map that this file system makes.
    pub(crate) fn start_map(&self, inode: &mut Inode) {
        if self.geometry.has_extents() {
            extent::make_root(inode.i_block_mut());
            inode.set_flags(inode.flags() | inode_flags::EXTENTS);
        }
    }
}
