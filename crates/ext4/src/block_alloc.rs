//! Block allocation: runs near a goal, group by group; freeing; what delayed allocation was promised.
//!
//! Not here: who owns a block. Without bigalloc, which is read-only here, a cluster is a block.
//!
//! Always true: a block of the file system's own metadata is never handed out nor taken back, whatever the bitmaps say; a group's free
//! count is what its bitmap says after every operation.

use std::sync::Arc;

use crate::bitmap;
use crate::cache::{Block, BlockData, Kind};
use crate::core::{Core, Seal};
use crate::error::{Error, Result, corrupt};
use crate::group::{self, flags};
use crate::inode::Inode;

/// Groups searched for a run of the full length before a shorter one is good enough.
const PATIENCE_GROUPS: u32 = 32;

/// Who asks, which decides what of the free blocks may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Claim {
    /// An ordinary write: not the reserve of root, not what delayed allocation was promised.
    #[default]
    Ordinary,
    /// A caller with CAP_SYS_RESOURCE, or the reserve's owner.
    Privileged,
    /// Write-back of pages that hold a promise ([`crate::Filesystem::reserve`]).
    Promised,
}

impl Core {
    /// Clusters that such a caller may still take.
    pub(crate) fn available(&self, claim: Claim) -> u64 {
        let free = self.free_clusters.saturating_sub(self.held_clusters);
        match claim {
            Claim::Promised => free,
            Claim::Privileged => free.saturating_sub(self.reserved_clusters),
            Claim::Ordinary => free.saturating_sub(self.reserved_clusters).saturating_sub(self.geometry.reserved_blocks),
        }
    }

    /// A group's block bitmap: made up where it was never written, checked where it was.
    pub(crate) fn block_bitmap(&self, number: u32) -> Result<Block> {
        let group = self.group(number)?;
        if group.has(flags::BLOCK_UNINIT) && !self.running.blocks.contains_key(&group.block_bitmap) {
            return Ok(Arc::new(BlockData::new(self.initial_block_bitmap(number)?, Kind::BlockBitmap)));
        }
        let g = &self.geometry;
        self.checked(group.block_bitmap, Kind::BlockBitmap, |bytes| {
            if g.has_metadata_csum() && group.block_bitmap_checksum != group::bitmap_checksum(bytes, g.clusters_per_group, g) {
                return corrupt(group.block_bitmap, "block bitmap checksum");
            }
            if bitmap::count_clear(bytes, g.clusters_in_group(number)) != group.free_clusters {
                return corrupt(group.block_bitmap, "block bitmap and free count disagree");
            }
            Ok(())
        })
    }

    fn initial_block_bitmap(&self, number: u32) -> Result<Vec<u8>> {
        let g = &self.geometry;
        let mut map = vec![0; g.block_size];
        let (first, blocks) = (g.group_first_block(number), u64::from(g.blocks_in_group(number)));
        let from = self.system_blocks.partition_point(|&(start, len)| start + len <= first);
        for &(start, len) in self.system_blocks.get(from..).unwrap_or(&[]).iter().take_while(|run| run.0 < first + blocks) {
            let (start, end) = (start.max(first), (start + len).min(first + blocks));
            let (start, end) = ((start - first) >> g.cluster_bits, (end - first).div_ceil(1 << g.cluster_bits));
            bitmap::change(&mut map, start as u32, (end - start) as u32, true);
        }
        let end = g.clusters_in_group(number);
        bitmap::change(&mut map, end, g.block_size as u32 * 8 - end, true);
        if bitmap::count_clear(&map, end) != self.group(number)?.free_clusters {
            return corrupt(self.group(number)?.block_bitmap, "free count of an uninitialised group");
        }
        Ok(map)
    }

    /// The bitmap to change, made real if the group was uninitialised.
    fn block_bitmap_mut(&mut self, number: u32) -> Result<&mut [u8]> {
        let map = self.block_bitmap(number)?;
        let home = self.group(number)?.block_bitmap;
        if self.group(number)?.has(flags::BLOCK_UNINIT) {
            self.group_mut(number)?.flags &= !flags::BLOCK_UNINIT;
            let new = self.new_block(home, Seal::BlockBitmap(number));
            new.copy_from_slice(&map);
        }
        drop(map);
        self.block_mut(home, Seal::BlockBitmap(number))
    }

    /// Allocates up to `want` blocks in one run, as near to `goal` as may be, and gives the first and how many. The run is at least one
    /// block long; NoSpace when there is none for this caller.
    pub(crate) fn allocate_run(&mut self, goal: u64, want: u32, claim: Claim) -> Result<(u64, u32)> {
        let available = self.available(claim);
        if available == 0 || want == 0 {
            return Err(Error::NoSpace);
        }
        let g = self.geometry.clone();
        let want = want.min(g.clusters_per_group).min(u32::try_from(available).unwrap_or(u32::MAX));
        let goal = if goal > g.first_data_block && goal < g.blocks_count { goal } else { g.first_data_block + 1 };
        let (goal_group, mut goal_bit) = (g.group_of(goal), ((goal - g.first_data_block) % u64::from(g.blocks_per_group)) as u32);
        let mut best: Option<(u32, bitmap::Run)> = None;
        for step in 0..g.groups {
            let number = (goal_group + step) % g.groups;
            if step > 0 {
                goal_bit = 0;
            }
            let free = self.group(number)?.free_clusters;
            let beat = best.map_or(0, |(_, run)| run.len);
            if free <= beat
                || self.corrupt_groups.contains(&number)
                || self.longest_free.get(&number).is_some_and(|&longest| longest <= beat)
            {
                continue;
            }
            let run = match self.search_group(number, goal_bit, want) {
                Err(error @ Error::Corrupt { .. }) => {
                    self.corrupt_groups.insert(number);
                    return Err(error);
                }
                found => found?,
            };
            if run.len > beat {
                best = Some((number, run));
            }
            // Next to the goal even a part is better than a whole run elsewhere.
            let enough = run.len >= want || (step == 0 && run.start == goal_bit && run.len >= want.min(bitmap::NEAR_ENOUGH));
            if enough || (step >= PATIENCE_GROUPS && best.is_some()) {
                break;
            }
        }
        let (number, run) = best.ok_or(Error::NoSpace)?;
        self.take_run(number, run)
    }

    fn search_group(&mut self, number: u32, goal: u32, want: u32) -> Result<bitmap::Run> {
        let map = self.block_bitmap(number)?;
        let end = self.geometry.clusters_in_group(number);
        let (run, longest) = match self.held.get(&number) {
            None => bitmap::find_run(&map, goal, end, want),
            Some(held) => {
                let mut busy = map.to_vec();
                for run in held {
                    bitmap::change(&mut busy, run.start, run.len, true);
                }
                bitmap::find_run(&busy, goal, end, want)
            }
        };
        if let Some(longest) = longest {
            self.longest_free.insert(number, longest);
        }
        Ok(run)
    }

    fn take_run(&mut self, number: u32, run: bitmap::Run) -> Result<(u64, u32)> {
        let start = self.geometry.group_first_block(number) + u64::from(run.start);
        let home = self.group(number)?.block_bitmap;
        if !self.is_data_run(start, u64::from(run.len)) {
            return corrupt(home, "block bitmap: the file system's own blocks are marked free");
        }
        bitmap::change(self.block_bitmap_mut(number)?, run.start, run.len, true);
        let group = self.group_mut(number)?;
        group.free_clusters = group.free_clusters.checked_sub(run.len).ok_or(Error::Corrupt { block: home, what: "free block count" })?;
        self.free_clusters = self.free_clusters.saturating_sub(u64::from(run.len));
        Ok((start, run.len))
    }

    /// Takes what is free of this very run: fast commits say which blocks a file has.
    pub(crate) fn claim_run(&mut self, start: u64, len: u32) -> Result<()> {
        let g = self.geometry.clone();
        if !self.is_data_run(start, u64::from(len)) {
            return corrupt(start, "a file's block outside the data area");
        }
        let (mut at, end) = (start, start + u64::from(len));
        while at < end {
            let number = g.group_of(at);
            let first = (at - g.group_first_block(number)) as u32;
            let count = (end - at).min(u64::from(g.blocks_in_group(number) - first)) as u32;
            let map = self.block_bitmap(number)?;
            for bit in first..first + count {
                if !bitmap::is_set(&map, bit) {
                    self.take_run(number, bitmap::Run { start: bit, len: 1 })?;
                }
            }
            at += u64::from(count);
        }
        Ok(())
    }

    /// Gives a run of blocks back. They stay unused until this transaction has committed.
    pub(crate) fn free_run(&mut self, start: u64, len: u64) -> Result<()> {
        if !self.is_data_run(start, len) {
            return corrupt(start, "freeing blocks outside the data area");
        }
        let g = self.geometry.clone();
        let (mut at, end) = (start, start + len);
        while at < end {
            let number = g.group_of(at);
            let first = (at - g.group_first_block(number)) as u32;
            let count = (end - at).min(u64::from(g.blocks_in_group(number) - first)) as u32;
            let home = self.group(number)?.block_bitmap;
            if !bitmap::change(self.block_bitmap_mut(number)?, first, count, false) {
                return corrupt(home, "block bitmap: freeing a block that is free");
            }
            self.group_mut(number)?.free_clusters += count;
            self.free_clusters += u64::from(count);
            self.longest_free.remove(&number);
            self.hold(number, first, count);
            at += u64::from(count);
        }
        Ok(())
    }

    /// A block for an inode's own mapping, directory or attributes.
    pub(crate) fn allocate_metadata_block(&mut self, inode: &mut Inode, goal: u64) -> Result<u64> {
        let (block, _) = self.allocate_run(goal, 1, Claim::Promised)?;
        let g = self.geometry.clone();
        inode.charge(1, &g)?;
        Ok(block)
    }

    /// Gives such a block back.
    pub(crate) fn free_metadata_block(&mut self, inode: &mut Inode, block: u64) -> Result<()> {
        self.free_run(block, 1)?;
        self.forget(block);
        let g = self.geometry.clone();
        inode.charge(-1, &g)
    }

    /// Where a file's first block should go: the data part of its inode's flexible group.
    pub(crate) fn inode_goal(&self, inode: &Inode) -> u64 {
        let g = &self.geometry;
        let mut group = self.inode_place(inode.ino).map_or(0, |(group, _)| group);
        if g.flex_groups >= 4 {
            group -= group % g.flex_groups;
            if !inode.is_directory() && group + 1 < g.groups {
                group += 1;
            }
        }
        g.group_first_block(group) + 1
    }
}
