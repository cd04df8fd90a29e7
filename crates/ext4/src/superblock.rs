//! The superblock: feature words, geometry, and the fields that change while mounted.
//!
//! Not here: free counts while mounted (`crate::core` keeps them and stores them at commit), backups in other groups (only a resize
//! changes those).
//!
//! Always true of a [`Superblock`] that parsed: the block size is 1 to 64 KiB, group sizes fit one bitmap block, and the group count
//! times the group size covers the block count. Nothing of it is trusted before [`Superblock::parse`] checked it.
//!
//! Source: Linux `Documentation/filesystems/ext4/super.rst`.

use bitflags::bitflags;

use crate::checksum::crc32c;
use crate::error::{Error, Result};
use crate::field::{byte, le16, le32, le64, part, put_byte, put_le16, put_le32, put_le64, put_part};

/// Bytes of a superblock.
pub(crate) const LEN_BYTES: usize = 1024;
/// Where it lies on the device.
pub(crate) const OFFSET_BYTES: u64 = 1024;
const MAGIC: u16 = 0xef53;

bitflags! {
    /// `s_feature_compat`: an implementation that does not know a bit may still write.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Compat: u32 {
        /// Directory preallocation.
        const DIR_PREALLOC = 0x1;
        /// A journal inode or device.
        const HAS_JOURNAL = 0x4;
        /// Extended attributes.
        const EXT_ATTR = 0x8;
        /// Reserved blocks for growing the descriptor table.
        const RESIZE_INODE = 0x10;
        /// Hashed directories.
        const DIR_INDEX = 0x20;
        /// Two backups of the superblock at most.
        const SPARSE_SUPER2 = 0x200;
        /// The journal has a fast-commit area.
        const FAST_COMMIT = 0x400;
        /// Inode numbers must not change (encryption).
        const STABLE_INODES = 0x800;
        /// Orphans are recorded in a file.
        const ORPHAN_FILE = 0x1000;
        const _ = !0;
    }

    /// `s_feature_incompat`: an implementation that does not know a bit must not mount.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Incompat: u32 {
        /// Compressed files.
        const COMPRESSION = 0x1;
        /// File types in directory entries.
        const FILETYPE = 0x2;
        /// The journal must be replayed.
        const RECOVER = 0x4;
        /// This is an external journal.
        const JOURNAL_DEV = 0x8;
        /// Descriptors lie in their meta group.
        const META_BG = 0x10;
        /// Files mapped by extents.
        const EXTENTS = 0x40;
        /// 64-bit block numbers.
        const BIT64 = 0x80;
        /// Multiple mount protection.
        const MMP = 0x100;
        /// Group metadata may lie in another group.
        const FLEX_BG = 0x200;
        /// Large attribute values in inodes of their own.
        const EA_INODE = 0x400;
        /// Data in directory entries.
        const DIRDATA = 0x1000;
        /// The checksum seed is stored.
        const CSUM_SEED = 0x2000;
        /// Directories over 2 GiB, or with three htree levels.
        const LARGEDIR = 0x4000;
        /// Small files inside their inode.
        const INLINE_DATA = 0x8000;
        /// Encrypted files.
        const ENCRYPT = 0x1_0000;
        /// Case-insensitive directories.
        const CASEFOLD = 0x2_0000;
        const _ = !0;
    }

    /// `s_feature_ro_compat`: an implementation that does not know a bit may only read.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct RoCompat: u32 {
        /// Backups in groups that are powers of 3, 5 and 7 only.
        const SPARSE_SUPER = 0x1;
        /// Files over 2 GiB.
        const LARGE_FILE = 0x2;
        /// Never used.
        const BTREE_DIR = 0x4;
        /// Files counted in blocks rather than sectors.
        const HUGE_FILE = 0x8;
        /// CRC-16 of descriptors, uninitialised groups.
        const GDT_CSUM = 0x10;
        /// More than 65,000 subdirectories.
        const DIR_NLINK = 0x20;
        /// Inodes with room for nanoseconds.
        const EXTRA_ISIZE = 0x40;
        /// A snapshot.
        const HAS_SNAPSHOT = 0x80;
        /// Quota in hidden inodes.
        const QUOTA = 0x100;
        /// Allocation by clusters of blocks.
        const BIGALLOC = 0x200;
        /// CRC-32C of all metadata.
        const METADATA_CSUM = 0x400;
        /// Replicas.
        const REPLICA = 0x800;
        /// Never written.
        const READONLY = 0x1000;
        /// Project numbers in inodes.
        const PROJECT = 0x2000;
        /// Blocks shared by several files (Android).
        const SHARED_BLOCKS = 0x4000;
        /// fs-verity.
        const VERITY = 0x8000;
        /// The orphan file is not empty.
        const ORPHAN_PRESENT = 0x1_0000;
        const _ = !0;
    }
}

/// `s_state`.
pub(crate) mod state {
    /// Unmounted cleanly.
    pub(crate) const VALID: u16 = 1;
    /// Errors were found.
    pub(crate) const ERROR: u16 = 2;
}

/// Everything about the image's shape that does not change while it is mounted.
#[derive(Clone, Debug)]
pub(crate) struct Geometry {
    pub(crate) block_size: usize,
    pub(crate) block_bits: u32,
    /// log2 of blocks in a cluster; 0 without bigalloc.
    pub(crate) cluster_bits: u32,
    pub(crate) blocks_count: u64,
    pub(crate) reserved_blocks: u64,
    pub(crate) first_data_block: u64,
    pub(crate) blocks_per_group: u32,
    pub(crate) clusters_per_group: u32,
    pub(crate) inodes_per_group: u32,
    pub(crate) inodes_count: u32,
    pub(crate) inode_size: usize,
    pub(crate) first_inode: u32,
    pub(crate) descriptor_size: usize,
    pub(crate) groups: u32,
    /// Groups in a flexible group; 1 without flex_bg.
    pub(crate) flex_groups: u32,
    /// What every metadata checksum starts from.
    pub(crate) checksum_seed: u32,
    pub(crate) want_extra_isize: u16,
    pub(crate) hash_seed: [u32; 4],
    pub(crate) unsigned_hash: bool,
    pub(crate) default_hash: u8,
    pub(crate) compat: Compat,
    pub(crate) incompat: Incompat,
    pub(crate) ro_compat: RoCompat,
}

impl Geometry {
    pub(crate) fn has_metadata_csum(&self) -> bool {
        self.ro_compat.contains(RoCompat::METADATA_CSUM)
    }

    /// Whether groups may be marked uninitialised.
    pub(crate) fn has_group_checksums(&self) -> bool {
        self.ro_compat.intersects(RoCompat::METADATA_CSUM | RoCompat::GDT_CSUM)
    }

    pub(crate) fn is_64bit(&self) -> bool {
        self.incompat.contains(Incompat::BIT64)
    }

    pub(crate) fn has_extents(&self) -> bool {
        self.incompat.contains(Incompat::EXTENTS)
    }

    /// The group of a block that is at or past `first_data_block`.
    pub(crate) fn group_of(&self, block: u64) -> u32 {
        (block.saturating_sub(self.first_data_block) / u64::from(self.blocks_per_group)) as u32
    }

    pub(crate) fn group_first_block(&self, group: u32) -> u64 {
        self.first_data_block + u64::from(group) * u64::from(self.blocks_per_group)
    }

    /// Blocks in a group: the last one may be short.
    pub(crate) fn blocks_in_group(&self, group: u32) -> u32 {
        let left = self.blocks_count.saturating_sub(self.group_first_block(group));
        left.min(u64::from(self.blocks_per_group)) as u32
    }

    pub(crate) fn clusters_in_group(&self, group: u32) -> u32 {
        self.blocks_in_group(group).div_ceil(1 << self.cluster_bits)
    }

    pub(crate) fn inode_table_blocks(&self) -> u32 {
        (u64::from(self.inodes_per_group) * self.inode_size as u64).div_ceil(self.block_size as u64) as u32
    }

    pub(crate) fn descriptors_per_block(&self) -> u32 {
        (self.block_size / self.descriptor_size) as u32
    }

    /// Blocks of the whole descriptor table.
    pub(crate) fn descriptor_blocks(&self) -> u32 {
        self.groups.div_ceil(self.descriptors_per_block())
    }

    /// Pointers in an indirect block.
    pub(crate) fn pointers_per_block(&self) -> u64 {
        self.block_size as u64 / 4
    }

    /// The seed of checksums that belong to an inode's own blocks.
    pub(crate) fn inode_seed(&self, ino: u32, generation: u32) -> u32 {
        crc32c(crc32c(self.checksum_seed, &ino.to_le_bytes()), &generation.to_le_bytes())
    }
}

/// The raw superblock, with names.
#[derive(Clone)]
pub(crate) struct Superblock {
    raw: Vec<u8>,
}

macro_rules! words {
    ($($name:ident $set:ident $at:literal;)*) => {$(
        pub(crate) fn $name(&self) -> u32 { le32(&self.raw, $at) }
        pub(crate) fn $set(&mut self, value: u32) { put_le32(&mut self.raw, $at, value); }
    )*};
}

impl Superblock {
    /// Takes the 1,024 bytes at [`OFFSET_BYTES`] of a device of `device_bytes`, and checks all that later code relies on.
    pub(crate) fn parse(raw: Vec<u8>, device_bytes: u64) -> Result<(Superblock, Geometry)> {
        let sb = Superblock { raw };
        if le16(&sb.raw, 0x38) != MAGIC || sb.raw.len() != LEN_BYTES {
            return Err(Error::NotExt("no superblock magic"));
        }
        let geometry = sb.geometry()?;
        sb.check_features(&geometry)?;
        if geometry.has_metadata_csum() {
            if byte(&sb.raw, 0x175) != 1 {
                return Err(Error::NotExt("unknown checksum type"));
            }
            if le32(&sb.raw, 0x3fc) != crc32c(!0, part(&sb.raw, 0, 0x3fc)) {
                return Err(Error::Corrupt { block: 0, what: "superblock checksum" });
            }
        }
        if geometry.blocks_count > device_bytes >> geometry.block_bits {
            return Err(Error::NotExt("the file system is larger than the device"));
        }
        Ok((sb, geometry))
    }

    fn check_features(&self, geometry: &Geometry) -> Result<()> {
        let known = Incompat::FILETYPE
            | Incompat::RECOVER
            | Incompat::META_BG
            | Incompat::EXTENTS
            | Incompat::BIT64
            | Incompat::MMP
            | Incompat::FLEX_BG
            | Incompat::EA_INODE
            | Incompat::CSUM_SEED
            | Incompat::LARGEDIR
            | Incompat::INLINE_DATA
            | Incompat::ENCRYPT
            | Incompat::CASEFOLD;
        let unknown = geometry.incompat.difference(known);
        for (feature, name) in [
            (Incompat::COMPRESSION, "compression"),
            (Incompat::JOURNAL_DEV, "journal_dev (an external journal)"),
            (Incompat::DIRDATA, "dirdata"),
        ] {
            if unknown.contains(feature) {
                return Err(Error::Unsupported(name));
            }
        }
        if unknown.is_empty() { Ok(()) } else { Err(Error::Unsupported("an incompatible feature without a name here")) }
    }

    /// The first feature that forbids writing.
    pub(crate) fn read_only_feature(geometry: &Geometry) -> Option<&'static str> {
        let incompat = [
            (Incompat::MMP, "mmp"),
            (Incompat::EA_INODE, "ea_inode"),
            (Incompat::INLINE_DATA, "inline_data"),
            (Incompat::ENCRYPT, "encrypt"),
            (Incompat::CASEFOLD, "casefold"),
        ];
        let ro_compat = [
            (RoCompat::BTREE_DIR, "btree_dir"),
            (RoCompat::HAS_SNAPSHOT, "has_snapshot"),
            (RoCompat::QUOTA, "quota"),
            (RoCompat::BIGALLOC, "bigalloc"),
            (RoCompat::REPLICA, "replica"),
            (RoCompat::READONLY, "read-only"),
            (RoCompat::SHARED_BLOCKS, "shared_blocks"),
            (RoCompat::VERITY, "verity"),
        ];
        let unknown = geometry.ro_compat.bits() & !0x1_ffff != 0;
        let named = incompat.iter().find(|(bit, _)| geometry.incompat.contains(*bit)).map(|(_, name)| *name);
        named
            .or_else(|| ro_compat.iter().find(|(bit, _)| geometry.ro_compat.contains(*bit)).map(|(_, name)| *name))
            .or(unknown.then_some("a read-only-compatible feature without a name here"))
    }

    fn geometry(&self) -> Result<Geometry> {
        let raw = &self.raw;
        let dynamic = le32(raw, 0x4c) >= 1;
        let features = |at| if dynamic { le32(raw, at) } else { 0 };
        let (compat, incompat, ro_compat) = (
            Compat::from_bits_retain(features(0x5c)),
            Incompat::from_bits_retain(features(0x60)),
            RoCompat::from_bits_retain(features(0x64)),
        );
        let log_block = le32(raw, 0x18);
        if log_block > 6 {
            return Err(Error::NotExt("block size"));
        }
        let (block_bits, bigalloc) = (10 + log_block, ro_compat.contains(RoCompat::BIGALLOC));
        let block_size = 1usize << block_bits;
        let cluster_bits = if bigalloc { le32(raw, 0x1c).wrapping_sub(log_block) } else { 0 };
        if cluster_bits > 20 {
            return Err(Error::NotExt("cluster size"));
        }
        let bit64 = incompat.contains(Incompat::BIT64);
        let high = |at| if bit64 { u64::from(le32(raw, at)) << 32 } else { 0 };
        let descriptor_size = if bit64 { usize::from(le16(raw, 0xfe)) } else { 32 };
        if bit64 && !(64..=1024).contains(&descriptor_size) || !descriptor_size.is_power_of_two() {
            return Err(Error::NotExt("descriptor size"));
        }
        let inode_size = if dynamic { usize::from(le16(raw, 0x58)) } else { 128 };
        if inode_size < 128 || inode_size > block_size || !inode_size.is_power_of_two() {
            return Err(Error::NotExt("inode size"));
        }
        let mut seed = [0; 4];
        for (i, word) in seed.iter_mut().enumerate() {
            *word = le32(raw, 0xec + 4 * i);
        }
        let log_flex = byte(raw, 0x174);
        let mut geometry = Geometry {
            block_size,
            block_bits,
            cluster_bits,
            blocks_count: u64::from(le32(raw, 4)) | high(0x150),
            reserved_blocks: u64::from(le32(raw, 8)) | high(0x154),
            first_data_block: u64::from(le32(raw, 0x14)),
            blocks_per_group: le32(raw, 0x20),
            clusters_per_group: if bigalloc { le32(raw, 0x24) } else { le32(raw, 0x20) },
            inodes_per_group: le32(raw, 0x28),
            inodes_count: le32(raw, 0),
            inode_size,
            first_inode: if dynamic { le32(raw, 0x54) } else { 11 },
            descriptor_size,
            groups: 0,
            flex_groups: if incompat.contains(Incompat::FLEX_BG) && (1..=31).contains(&log_flex) { 1 << log_flex } else { 1 },
            checksum_seed: if incompat.contains(Incompat::CSUM_SEED) { le32(raw, 0x270) } else { crc32c(!0, part(raw, 0x68, 16)) },
            want_extra_isize: le16(raw, 0x15e).max(le16(raw, 0x15c)),
            hash_seed: seed,
            unsigned_hash: le32(raw, 0x160) & 2 != 0,
            default_hash: byte(raw, 0xfc),
            compat,
            incompat,
            ro_compat,
        };
        Superblock::check_groups(&mut geometry)?;
        Ok(geometry)
    }

    fn check_groups(geometry: &mut Geometry) -> Result<()> {
        let bits = geometry.block_size as u32 * 8;
        let g = &*geometry;
        if g.clusters_per_group == 0 || g.clusters_per_group > bits || !g.clusters_per_group.is_multiple_of(8) {
            return Err(Error::NotExt("blocks per group"));
        }
        if u64::from(g.blocks_per_group) != u64::from(g.clusters_per_group) << g.cluster_bits {
            return Err(Error::NotExt("blocks and clusters per group disagree"));
        }
        if g.inodes_per_group == 0 || g.inodes_per_group > bits || (g.inodes_per_group as usize * g.inode_size) < g.block_size {
            return Err(Error::NotExt("inodes per group"));
        }
        if g.first_inode < 11 || g.first_inode > g.inodes_count {
            return Err(Error::NotExt("first inode"));
        }
        if g.first_data_block >= g.blocks_count || g.first_data_block != u64::from(g.block_size == 1024 && g.cluster_bits == 0) {
            return Err(Error::NotExt("first data block"));
        }
        let groups = (g.blocks_count - g.first_data_block).div_ceil(u64::from(g.blocks_per_group));
        let groups = u32::try_from(groups).map_err(|_| Error::NotExt("too many groups"))?;
        if u64::from(groups) * u64::from(g.inodes_per_group) != u64::from(g.inodes_count) {
            return Err(Error::NotExt("inode count"));
        }
        // A table larger than the file system itself is a lie about the block count.
        if u64::from(groups.div_ceil((g.block_size / g.descriptor_size) as u32)) >= g.blocks_count {
            return Err(Error::NotExt("descriptor table"));
        }
        geometry.groups = groups;
        Ok(())
    }

    /// Seals the checksum and gives the bytes to store.
    pub(crate) fn sealed(&mut self, geometry: &Geometry) -> &[u8] {
        if geometry.has_metadata_csum() {
            let sum = crc32c(!0, part(&self.raw, 0, 0x3fc));
            put_le32(&mut self.raw, 0x3fc, sum);
        }
        &self.raw
    }

    words! {
        first_orphan set_first_orphan 0xe8;
        error_count set_error_count 0x194;
    }

    pub(crate) fn journal_inode(&self) -> u32 {
        le32(&self.raw, 0xe0)
    }

    pub(crate) fn orphan_file_inode(&self) -> u32 {
        le32(&self.raw, 0x280)
    }

    pub(crate) fn first_meta_bg(&self) -> u32 {
        le32(&self.raw, 0x104)
    }

    pub(crate) fn journal_uuid(&self) -> &[u8] {
        part(&self.raw, 0xd0, 16)
    }

    pub(crate) fn uuid(&self) -> [u8; 16] {
        let mut uuid = [0; 16];
        uuid.copy_from_slice(part(&self.raw, 0x68, 16));
        uuid
    }

    pub(crate) fn label(&self) -> &[u8] {
        let label = part(&self.raw, 0x78, 16);
        &label[..label.iter().position(|&b| b == 0).unwrap_or(label.len())]
    }

    pub(crate) fn state(&self) -> u16 {
        le16(&self.raw, 0x3a)
    }

    pub(crate) fn set_state(&mut self, value: u16) {
        put_le16(&mut self.raw, 0x3a, value);
    }

    /// `s_errors`: 1 continue, 2 remount read-only, 3 panic.
    pub(crate) fn errors_behaviour(&self) -> u16 {
        le16(&self.raw, 0x3c)
    }

    pub(crate) fn reserved_gdt_blocks(&self) -> u16 {
        le16(&self.raw, 0xce)
    }

    /// The two groups that hold backups under sparse_super2.
    pub(crate) fn backup_groups(&self) -> [u32; 2] {
        [le32(&self.raw, 0x24c), le32(&self.raw, 0x250)]
    }

    pub(crate) fn reserved_owner(&self) -> (u32, u32) {
        (u32::from(le16(&self.raw, 0x50)), u32::from(le16(&self.raw, 0x52)))
    }

    pub(crate) fn set_free_counts(&mut self, geometry: &Geometry, blocks: u64, inodes: u32) {
        put_le32(&mut self.raw, 0xc, blocks as u32);
        if geometry.is_64bit() {
            put_le32(&mut self.raw, 0x158, (blocks >> 32) as u32);
        }
        put_le32(&mut self.raw, 0x10, inodes);
    }

    pub(crate) fn compat(&self) -> Compat {
        Compat::from_bits_retain(le32(&self.raw, 0x5c))
    }

    pub(crate) fn add_compat(&mut self, features: Compat) {
        let bits = self.compat() | features;
        put_le32(&mut self.raw, 0x5c, bits.bits());
    }

    pub(crate) fn incompat(&self) -> Incompat {
        Incompat::from_bits_retain(le32(&self.raw, 0x60))
    }

    pub(crate) fn set_incompat(&mut self, features: Incompat, on: bool) {
        let mut bits = self.incompat();
        bits.set(features, on);
        put_le32(&mut self.raw, 0x60, bits.bits());
    }

    pub(crate) fn ro_compat(&self) -> RoCompat {
        RoCompat::from_bits_retain(le32(&self.raw, 0x64))
    }

    pub(crate) fn set_ro_compat(&mut self, features: RoCompat, on: bool) {
        let mut bits = self.ro_compat();
        bits.set(features, on);
        put_le32(&mut self.raw, 0x64, bits.bits());
    }

    /// Counts a mount at `now_s` seconds since 1970.
    pub(crate) fn note_mount(&mut self, now_s: i64) {
        let count = le16(&self.raw, 0x34).saturating_add(1);
        put_le16(&mut self.raw, 0x34, count);
        put_le32(&mut self.raw, 0x2c, now_s as u32);
        put_byte(&mut self.raw, 0x275, (now_s >> 32) as u8);
    }

    pub(crate) fn note_write(&mut self, now_s: i64) {
        put_le32(&mut self.raw, 0x30, now_s as u32);
        put_byte(&mut self.raw, 0x274, (now_s >> 32) as u8);
    }

    /// Records an error as Linux does, for `dumpe2fs`, `e2fsck` and the next mount to see.
    pub(crate) fn note_error(&mut self, block: u64, what: &str, now_s: i64) {
        self.set_state(self.state() | state::ERROR);
        let count = self.error_count().saturating_add(1);
        self.set_error_count(count);
        let mut name = [0u8; 32];
        put_part(&mut name, 0, part(what.as_bytes(), 0, 31));
        if count == 1 {
            put_le32(&mut self.raw, 0x198, now_s as u32);
            put_le64(&mut self.raw, 0x1a0, block);
            put_part(&mut self.raw, 0x1a8, &name);
        }
        put_le32(&mut self.raw, 0x1cc, now_s as u32);
        put_le64(&mut self.raw, 0x1d8, block);
        put_part(&mut self.raw, 0x1e0, &name);
    }

    /// Error count, block and text of the last recorded error.
    pub(crate) fn last_error(&self) -> (u32, u64, &[u8]) {
        (self.error_count(), le64(&self.raw, 0x1d8), part(&self.raw, 0x1e0, 32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_zeroes_or_a_short_one_is_not_a_file_system() {
        for len in [0, 100, 1024] {
            assert!(matches!(Superblock::parse(vec![0; len], 1 << 30), Err(Error::NotExt(_))));
        }
    }
}
