//! Block group descriptors: where a group's bitmaps and inode table are, and what is free in it.
//!
//! Not here: the bitmaps themselves (`bitmap`), and when descriptors reach the disk (`core` stores changed ones at commit).
//!
//! Always true of a loaded group: its bitmaps and its whole inode table lie inside the file system.
//!
//! Source: Linux `Documentation/filesystems/ext4/group_descr.rst`.

use crate::checksum::{crc16, crc32c};
use crate::error::{Result, corrupt};
use crate::field::{le16, le32, part, put_le16};
use crate::superblock::{Compat, Geometry, Incompat, RoCompat, Superblock};

/// `bg_flags`.
pub(crate) mod flags {
    /// The inode bitmap was never written: all inodes are free.
    pub(crate) const INODE_UNINIT: u16 = 1;
    /// The block bitmap was never written: all but the group's own metadata is free.
    pub(crate) const BLOCK_UNINIT: u16 = 2;
    /// The inode table is zeroed.
    pub(crate) const INODE_ZEROED: u16 = 4;
}

/// One descriptor, decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Group {
    pub(crate) block_bitmap: u64,
    pub(crate) inode_bitmap: u64,
    pub(crate) inode_table: u64,
    pub(crate) free_clusters: u32,
    pub(crate) free_inodes: u32,
    pub(crate) directories: u32,
    pub(crate) unused_inodes: u32,
    pub(crate) flags: u16,
    pub(crate) block_bitmap_checksum: u32,
    pub(crate) inode_bitmap_checksum: u32,
}

impl Group {
    /// Decodes descriptor `number` from its `raw` bytes in `block` and checks it.
    pub(crate) fn parse(raw: &[u8], number: u32, block: u64, sb: &Superblock, g: &Geometry) -> Result<Group> {
        let wide = g.is_64bit() && g.descriptor_size >= 64;
        let number64 = |low: usize, high: usize| u64::from(le32(raw, low)) | if wide { u64::from(le32(raw, high)) << 32 } else { 0 };
        let number32 = |low: usize, high: usize| u32::from(le16(raw, low)) | if wide { u32::from(le16(raw, high)) << 16 } else { 0 };
        let mut group = Group {
            block_bitmap: number64(0, 0x20),
            inode_bitmap: number64(4, 0x24),
            inode_table: number64(8, 0x28),
            free_clusters: number32(0xc, 0x2c),
            free_inodes: number32(0xe, 0x2e),
            directories: number32(0x10, 0x30),
            unused_inodes: number32(0x1c, 0x32),
            flags: le16(raw, 0x12),
            block_bitmap_checksum: number32(0x18, 0x38),
            inode_bitmap_checksum: number32(0x1a, 0x3a),
        };
        if g.has_group_checksums() {
            if le16(raw, 0x1e) != checksum(raw, number, sb, g) {
                return corrupt(block, "group descriptor checksum");
            }
        } else {
            group.flags = 0;
            group.unused_inodes = 0;
        }
        let inside = |start: u64, len: u64| {
            start > 0 && start >= g.first_data_block && start.checked_add(len).is_some_and(|end| end <= g.blocks_count)
        };
        if !inside(group.block_bitmap, 1) || !inside(group.inode_bitmap, 1) {
            return corrupt(block, "group descriptor: bitmap outside the file system");
        }
        if !inside(group.inode_table, u64::from(g.inode_table_blocks())) {
            return corrupt(block, "group descriptor: inode table outside the file system");
        }
        if group.free_clusters > g.clusters_in_group(number) || group.free_inodes > g.inodes_per_group {
            return corrupt(block, "group descriptor: more free than there is");
        }
        if group.unused_inodes > g.inodes_per_group {
            return corrupt(block, "group descriptor: unused inodes");
        }
        Ok(group)
    }

    /// Encodes into `raw`, and seals it.
    pub(crate) fn store(&self, raw: &mut [u8], number: u32, sb: &Superblock, g: &Geometry) {
        put_le16(raw, 0xc, self.free_clusters as u16);
        put_le16(raw, 0xe, self.free_inodes as u16);
        put_le16(raw, 0x10, self.directories as u16);
        put_le16(raw, 0x12, self.flags);
        put_le16(raw, 0x18, self.block_bitmap_checksum as u16);
        put_le16(raw, 0x1a, self.inode_bitmap_checksum as u16);
        put_le16(raw, 0x1c, self.unused_inodes as u16);
        if g.is_64bit() && g.descriptor_size >= 64 {
            put_le16(raw, 0x2c, (self.free_clusters >> 16) as u16);
            put_le16(raw, 0x2e, (self.free_inodes >> 16) as u16);
            put_le16(raw, 0x30, (self.directories >> 16) as u16);
            put_le16(raw, 0x32, (self.unused_inodes >> 16) as u16);
            put_le16(raw, 0x38, (self.block_bitmap_checksum >> 16) as u16);
            put_le16(raw, 0x3a, (self.inode_bitmap_checksum >> 16) as u16);
        }
        if g.has_group_checksums() {
            let sum = checksum(raw, number, sb, g);
            put_le16(raw, 0x1e, sum);
        }
    }

    pub(crate) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// The checksum of a descriptor: CRC-32C under metadata_csum, else CRC-16.
fn checksum(raw: &[u8], number: u32, sb: &Superblock, g: &Geometry) -> u16 {
    if g.has_metadata_csum() {
        let mut sum = crc32c(g.checksum_seed, &number.to_le_bytes());
        sum = crc32c(sum, part(raw, 0, 0x1e));
        sum = crc32c(sum, &[0, 0]);
        return crc32c(sum, part(raw, 0x20, raw.len())) as u16;
    }
    let mut sum = crc16(!0, &sb.uuid());
    sum = crc16(sum, &number.to_le_bytes());
    sum = crc16(sum, part(raw, 0, 0x1e));
    if g.is_64bit() { crc16(sum, part(raw, 0x20, raw.len())) } else { sum }
}

/// The checksum of a bitmap, over the bytes that carry bits. Only its low half is stored where descriptors are 32 bytes.
pub(crate) fn bitmap_checksum(bitmap: &[u8], bits: u32, g: &Geometry) -> u32 {
    let sum = crc32c(g.checksum_seed, part(bitmap, 0, bits as usize / 8));
    if g.descriptor_size >= 64 { sum } else { sum & 0xffff }
}

/// Whether a group begins with a copy of the superblock.
pub(crate) fn has_superblock(group: u32, sb: &Superblock, g: &Geometry) -> bool {
    if group == 0 {
        return true;
    }
    if g.compat.contains(Compat::SPARSE_SUPER2) {
        return sb.backup_groups().contains(&group);
    }
    if group == 1 || !g.ro_compat.contains(RoCompat::SPARSE_SUPER) {
        return true;
    }
    [3u64, 5, 7].into_iter().any(|base| {
        let mut power = base;
        while power < u64::from(group) {
            power *= base;
        }
        power == u64::from(group)
    })
}

/// The block that holds the superblock.
pub(crate) fn superblock_block(g: &Geometry) -> u64 {
    u64::from(g.block_size == 1024)
}

/// Where block `index` of the descriptor table is.
pub(crate) fn descriptor_block(index: u32, sb: &Superblock, g: &Geometry) -> u64 {
    if !g.incompat.contains(Incompat::META_BG) || index < sb.first_meta_bg() {
        return superblock_block(g) + 1 + u64::from(index);
    }
    let group = index * g.descriptors_per_block();
    let mut block = g.group_first_block(group) + u64::from(has_superblock(group, sb, g));
    // With 1 KiB blocks and bigalloc the first data block is 0 and the superblock's block is 1.
    if g.block_size == 1024 && index == 0 && g.first_data_block == 0 {
        block += 1;
    }
    block
}

/// Blocks at the start of a group that hold the superblock, descriptors and their reserve.
pub(crate) fn leading_blocks(group: u32, sb: &Superblock, g: &Geometry) -> u64 {
    let copy = has_superblock(group, sb, g);
    let meta_bg = g.incompat.contains(Incompat::META_BG);
    let meta_group = group / g.descriptors_per_block();
    let first_meta = sb.first_meta_bg();
    if !meta_bg || meta_group < first_meta {
        if !copy {
            return 0;
        }
        let table = if meta_bg { first_meta.min(g.descriptor_blocks()) } else { g.descriptor_blocks() };
        return 1 + u64::from(table) + u64::from(sb.reserved_gdt_blocks());
    }
    let within = group % g.descriptors_per_block();
    u64::from(copy) + u64::from(within == 0 || within == 1 || within == g.descriptors_per_block() - 1)
}
