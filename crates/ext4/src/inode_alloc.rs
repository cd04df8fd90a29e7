//! Inode allocation: where a new inode goes, and the inode bitmaps.
//!
//! Not here: what the inode then holds (`create`).
//!
//! The rules are Linux's (Orlov's allocator): top-level directories are spread over the disk, other directories stay near their parent
//! unless its group is full, files go to their directory's group.

use std::sync::Arc;

use crate::bitmap;
use crate::cache::{Block, BlockData, Kind};
use crate::core::{Core, Seal};
use crate::error::{Error, Result, corrupt};
use crate::group::{self, flags};
use crate::inode::{Inode, ROOT_INODE, inode_flags};

impl Core {
    pub(crate) fn inode_bitmap(&self, number: u32) -> Result<Block> {
        let group = self.group(number)?;
        let g = &self.geometry;
        if group.has(flags::INODE_UNINIT) && !self.running.blocks.contains_key(&group.inode_bitmap) {
            let mut map = vec![0; g.block_size];
            bitmap::change(&mut map, g.inodes_per_group, g.block_size as u32 * 8 - g.inodes_per_group, true);
            return Ok(Arc::new(BlockData::new(map, Kind::InodeBitmap)));
        }
        self.checked(group.inode_bitmap, Kind::InodeBitmap, |bytes| {
            if g.has_metadata_csum() && group.inode_bitmap_checksum != group::bitmap_checksum(bytes, g.inodes_per_group, g) {
                return corrupt(group.inode_bitmap, "inode bitmap checksum");
            }
            if bitmap::count_clear(bytes, g.inodes_per_group) != group.free_inodes {
                return corrupt(group.inode_bitmap, "inode bitmap and free count disagree");
            }
            Ok(())
        })
    }

    fn inode_bitmap_mut(&mut self, number: u32) -> Result<&mut [u8]> {
        let map = self.inode_bitmap(number)?;
        let home = self.group(number)?.inode_bitmap;
        if self.group(number)?.has(flags::INODE_UNINIT) {
            self.group_mut(number)?.flags &= !flags::INODE_UNINIT;
            self.new_block(home, Seal::InodeBitmap(number)).copy_from_slice(&map);
        }
        drop(map);
        self.block_mut(home, Seal::InodeBitmap(number))
    }

    /// Allocates an inode number for a child of `parent`. `spread` tells top-level directories apart.
    pub(crate) fn allocate_inode(&mut self, parent: &Inode, is_directory: bool, spread: u32) -> Result<u32> {
        let first = match is_directory {
            true => self.directory_group(parent, spread)?,
            false => self.inode_place(parent.ino)?.0,
        };
        for step in 0..self.geometry.groups {
            let number = (first + step) % self.geometry.groups;
            if self.group(number)?.free_inodes == 0 || self.corrupt_groups.contains(&number) {
                continue;
            }
            let map = match self.inode_bitmap(number) {
                Err(error @ Error::Corrupt { .. }) => {
                    self.corrupt_groups.insert(number);
                    return Err(error);
                }
                map => map?,
            };
            let from = if number == 0 { self.geometry.first_inode - 1 } else { 0 };
            let index = bitmap::next(&map, from, self.geometry.inodes_per_group, false);
            if index < self.geometry.inodes_per_group {
                let ino = number * self.geometry.inodes_per_group + index + 1;
                self.take_inode(ino, is_directory)?;
                return Ok(ino);
            }
        }
        Err(Error::NoSpace)
    }

    /// Marks an inode as used.
    pub(crate) fn take_inode(&mut self, ino: u32, is_directory: bool) -> Result<()> {
        let (number, index) = self.inode_place(ino)?;
        let per_group = self.geometry.inodes_per_group;
        let was_unused = self.group(number)?.unused_inodes;
        let home = self.group(number)?.inode_bitmap;
        if !bitmap::change(self.inode_bitmap_mut(number)?, index, 1, true) {
            return corrupt(home, "inode bitmap: the inode is in use");
        }
        let unused = was_unused.min(per_group - index - 1);
        let has_checksums = self.geometry.has_group_checksums();
        let group = self.group_mut(number)?;
        group.free_inodes = group.free_inodes.checked_sub(1).ok_or(Error::Corrupt { block: home, what: "free inode count" })?;
        group.directories += u32::from(is_directory);
        if has_checksums {
            group.unused_inodes = unused;
            self.zero_inode_table(number, was_unused, unused)?;
        }
        self.free_inodes = self.free_inodes.saturating_sub(1);
        // Linux initialises the block bitmap together with the inode bitmap; e2fsck wants a directory's group initialised.
        Ok(())
    }

    /// Gives an inode number back.
    pub(crate) fn free_inode_number(&mut self, ino: u32, is_directory: bool) -> Result<()> {
        let (number, index) = self.inode_place(ino)?;
        let home = self.group(number)?.inode_bitmap;
        if !bitmap::change(self.inode_bitmap_mut(number)?, index, 1, false) {
            return corrupt(home, "inode bitmap: freeing an inode that is free");
        }
        let group = self.group_mut(number)?;
        group.free_inodes += 1;
        group.directories = group.directories.saturating_sub(u32::from(is_directory));
        self.free_inodes += 1;
        Ok(())
    }

    pub(crate) fn is_inode_in_use(&self, ino: u32) -> Result<bool> {
        let (number, index) = self.inode_place(ino)?;
        Ok(bitmap::is_set(&self.inode_bitmap(number)?, index))
    }

    fn directory_group(&self, parent: &Inode, spread: u32) -> Result<u32> {
        let groups = self.geometry.groups;
        let average_inodes = self.free_inodes / u64::from(groups);
        let average_clusters = self.free_clusters / u64::from(groups);
        let roomy = |number: u32, part: u64| {
            self.group(number).is_ok_and(|group| {
                group.free_inodes > 0
                    && u64::from(group.free_inodes) >= average_inodes / part
                    && u64::from(group.free_clusters) >= average_clusters / part
            })
        };
        let home = self.inode_place(parent.ino)?.0;
        if parent.ino == ROOT_INODE || parent.has(inode_flags::TOPDIR) {
            let from = spread % groups;
            let best = (0..groups)
                .map(|i| (from + i) % groups)
                .filter(|&n| roomy(n, 1))
                .min_by_key(|&n| self.group(n).map_or(u32::MAX, |g| g.directories));
            if let Some(number) = best {
                return Ok(number);
            }
        }
        Ok((0..groups).map(|i| (home + i) % groups).find(|&n| roomy(n, 4)).unwrap_or(home))
    }
}
