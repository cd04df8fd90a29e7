//! Inodes as they lie in the inode table: fields, times, checksum.
//!
//! Not here: what `i_block` means (`extent`, `indirect`, `inline`), and allocation (`inode_alloc`).
//!
//! Source: Linux `Documentation/filesystems/ext4/inodes.rst`.

use crate::checksum::crc32c;
use crate::core::{Core, Seal};
use crate::error::{Error, Result, corrupt};
use crate::field::{le16, le32, part, put_le16, put_le32, put_part};
use crate::group::flags;
use crate::superblock::{Geometry, RoCompat};

/// The root directory.
pub const ROOT_INODE: u32 = 2;

/// `i_flags`, the ones that mean something here (chattr(1) sets some of them).
pub mod inode_flags {
    /// Writes are synchronous.
    pub const SYNC: u32 = 0x8;
    /// Nothing may change.
    pub const IMMUTABLE: u32 = 0x10;
    /// Only appending.
    pub const APPEND: u32 = 0x20;
    /// Not dumped.
    pub const NODUMP: u32 = 0x40;
    /// Reading does not change the access time.
    pub const NOATIME: u32 = 0x80;
    /// A directory with an htree.
    pub const INDEX: u32 = 0x1000;
    /// Data goes through the journal.
    pub const JOURNAL_DATA: u32 = 0x4000;
    /// Directory changes are synchronous.
    pub const DIRSYNC: u32 = 0x1_0000;
    /// Subdirectories are spread over the disk.
    pub const TOPDIR: u32 = 0x2_0000;
    /// Counted in blocks, not sectors.
    pub const HUGE_FILE: u32 = 0x4_0000;
    /// Mapped by extents.
    pub const EXTENTS: u32 = 0x8_0000;
    /// Protected by fs-verity.
    pub const VERITY: u32 = 0x10_0000;
    /// Holds an attribute's value.
    pub const EA_INODE: u32 = 0x20_0000;
    /// Content inside the inode.
    pub const INLINE_DATA: u32 = 0x1000_0000;
    /// Children inherit the project.
    pub const PROJINHERIT: u32 = 0x2000_0000;
    /// Names compare without case.
    pub const CASEFOLD: u32 = 0x4000_0000;
    /// Encrypted.
    pub const ENCRYPT: u32 = 0x800;
    /// What a new file takes from its directory (`EXT4_FL_INHERITED`), less what needs features refused here.
    pub const INHERITED: u32 = 0x1 | 0x2 | 0x4 | SYNC | NODUMP | NOATIME | 0x400 | JOURNAL_DATA | 0x8000 | DIRSYNC | PROJINHERIT;
    /// What `FS_IOC_SETFLAGS` may change.
    pub const USER_MODIFIABLE: u32 =
        0x1 | 0x2 | SYNC | IMMUTABLE | APPEND | NODUMP | NOATIME | JOURNAL_DATA | 0x8000 | DIRSYNC | TOPDIR | PROJINHERIT;
}

/// Seconds and nanoseconds since 1970. Without room in the inode, nanoseconds are lost and years end at 2038.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Timestamp {
    /// Seconds; before 1970 negative.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// The earliest time an inode can hold.
    pub const MIN: i64 = i32::MIN as i64;
    /// The latest, with room for the extra word: 2446-05-10.
    pub const MAX_EXTRA: i64 = (1 << 34) - 1 + i32::MIN as i64;
}

/// The type part of `i_mode`, stat(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileType {
    /// `S_IFREG`.
    Regular,
    /// `S_IFDIR`.
    Directory,
    /// `S_IFCHR`.
    CharDevice,
    /// `S_IFBLK`.
    BlockDevice,
    /// `S_IFIFO`.
    Fifo,
    /// `S_IFSOCK`.
    Socket,
    /// `S_IFLNK`.
    Symlink,
    /// None of Linux's: a damaged inode, or an entry of a file system without the filetype feature.
    Unknown,
}

/// (type, `S_IF*` >> 12, number in directory entries).
const FILE_TYPES: [(FileType, u16, u8); 7] = [
    (FileType::Regular, 8, 1),
    (FileType::Directory, 4, 2),
    (FileType::CharDevice, 2, 3),
    (FileType::BlockDevice, 6, 4),
    (FileType::Fifo, 1, 5),
    (FileType::Socket, 12, 6),
    (FileType::Symlink, 10, 7),
];

impl FileType {
    /// From `st_mode`.
    #[must_use]
    pub fn from_mode(mode: u16) -> FileType {
        FILE_TYPES.iter().find(|t| t.1 == mode >> 12).map_or(FileType::Unknown, |t| t.0)
    }

    pub(crate) fn from_entry(number: u8) -> FileType {
        FILE_TYPES.iter().find(|t| t.2 == number).map_or(FileType::Unknown, |t| t.0)
    }

    pub(crate) fn entry_number(self) -> u8 {
        FILE_TYPES.iter().find(|t| t.0 == self).map_or(0, |t| t.2)
    }
}

/// One inode, copied out of its table.
#[derive(Clone, Debug)]
pub(crate) struct Inode {
    pub(crate) ino: u32,
    /// The table block it came from, for error reports.
    pub(crate) table_block: u64,
    raw: Vec<u8>,
}

const I_BLOCK: usize = 0x28;
/// Bytes of `i_block`.
pub(crate) const I_BLOCK_LEN: usize = 60;

impl Inode {
    /// A fresh inode with room for the extra fields where the image has it.
    pub(crate) fn new(ino: u32, g: &Geometry) -> Inode {
        let mut raw = vec![0; g.inode_size];
        if g.inode_size > 128 {
            let room = (g.inode_size - 128) as u16;
            let extra = if g.want_extra_isize == 0 { 32 } else { g.want_extra_isize };
            put_le16(&mut raw, 0x80, extra.clamp(4, room) & !3);
        }
        Inode { ino, table_block: 0, raw }
    }

    /// An inode as a fast commit recorded it, padded or cut to this file system's size.
    pub(crate) fn logged(ino: u32, bytes: &[u8], g: &Geometry) -> Inode {
        let mut raw = vec![0; g.inode_size];
        put_part(&mut raw, 0, bytes);
        Inode { ino, table_block: 0, raw }
    }

    pub(crate) fn mode(&self) -> u16 {
        le16(&self.raw, 0)
    }

    pub(crate) fn set_mode(&mut self, mode: u16) {
        put_le16(&mut self.raw, 0, mode);
    }

    pub(crate) fn file_type(&self) -> FileType {
        FileType::from_mode(self.mode())
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    pub(crate) fn uid(&self) -> u32 {
        u32::from(le16(&self.raw, 2)) | u32::from(le16(&self.raw, 0x78)) << 16
    }

    pub(crate) fn gid(&self) -> u32 {
        u32::from(le16(&self.raw, 0x18)) | u32::from(le16(&self.raw, 0x7a)) << 16
    }

    pub(crate) fn set_owner(&mut self, uid: u32, gid: u32) {
        put_le16(&mut self.raw, 2, uid as u16);
        put_le16(&mut self.raw, 0x78, (uid >> 16) as u16);
        put_le16(&mut self.raw, 0x18, gid as u16);
        put_le16(&mut self.raw, 0x7a, (gid >> 16) as u16);
    }

    /// Bytes; the high word counts for regular files and, with large directories, for directories.
    pub(crate) fn size(&self) -> u64 {
        u64::from(le32(&self.raw, 4)) | u64::from(le32(&self.raw, 0x6c)) << 32
    }

    pub(crate) fn set_size(&mut self, size: u64) {
        put_le32(&mut self.raw, 4, size as u32);
        put_le32(&mut self.raw, 0x6c, (size >> 32) as u32);
    }

    pub(crate) fn links(&self) -> u16 {
        le16(&self.raw, 0x1a)
    }

    pub(crate) fn set_links(&mut self, links: u16) {
        put_le16(&mut self.raw, 0x1a, links);
    }

    /// `i_dtime`: deletion time, or the next orphan.
    pub(crate) fn deletion(&self) -> u32 {
        le32(&self.raw, 0x14)
    }

    pub(crate) fn set_deletion(&mut self, value: u32) {
        put_le32(&mut self.raw, 0x14, value);
    }

    pub(crate) fn flags(&self) -> u32 {
        le32(&self.raw, 0x20)
    }

    pub(crate) fn set_flags(&mut self, flags: u32) {
        put_le32(&mut self.raw, 0x20, flags);
    }

    pub(crate) fn has(&self, flag: u32) -> bool {
        self.flags() & flag != 0
    }

    pub(crate) fn generation(&self) -> u32 {
        le32(&self.raw, 0x64)
    }

    pub(crate) fn set_generation(&mut self, value: u32) {
        put_le32(&mut self.raw, 0x64, value);
    }

    /// The attribute block, 0 without.
    pub(crate) fn attribute_block(&self) -> u64 {
        u64::from(le32(&self.raw, 0x68)) | u64::from(le16(&self.raw, 0x76)) << 32
    }

    pub(crate) fn set_attribute_block(&mut self, block: u64) {
        put_le32(&mut self.raw, 0x68, block as u32);
        put_le16(&mut self.raw, 0x76, (block >> 32) as u16);
    }

    /// Sectors of 512 bytes in use, mapping blocks and attribute block included.
    pub(crate) fn sectors(&self, g: &Geometry) -> u64 {
        let low = u64::from(le32(&self.raw, 0x1c));
        if !g.ro_compat.contains(RoCompat::HUGE_FILE) {
            return low;
        }
        let count = low | u64::from(le16(&self.raw, 0x74)) << 32;
        if self.has(inode_flags::HUGE_FILE) { count.saturating_mul(g.block_size as u64 / 512) } else { count }
    }

    /// Sets how many sectors are in use.
    pub(crate) fn set_sectors(&mut self, sectors: u64, g: &Geometry) -> Result<()> {
        let huge = g.ro_compat.contains(RoCompat::HUGE_FILE);
        let (count, flags) = if sectors >> if huge { 48 } else { 32 } == 0 {
            (sectors, self.flags() & !inode_flags::HUGE_FILE)
        } else if huge {
            (sectors / (g.block_size as u64 / 512), self.flags() | inode_flags::HUGE_FILE)
        } else {
            return Err(Error::FileTooBig);
        };
        put_le32(&mut self.raw, 0x1c, count as u32);
        if huge {
            put_le16(&mut self.raw, 0x74, (count >> 32) as u16);
        }
        self.set_flags(flags);
        Ok(())
    }

    /// Counts `blocks` more, or fewer, as used by this inode.
    pub(crate) fn charge(&mut self, blocks: i64, g: &Geometry) -> Result<()> {
        let change = blocks * (g.block_size as i64 / 512);
        // A hostile count may be too small for what is freed.
        let sectors = self.sectors(g).saturating_add_signed(change);
        self.set_sectors(sectors, g)
    }

    pub(crate) fn i_block(&self) -> &[u8] {
        part(&self.raw, I_BLOCK, I_BLOCK_LEN)
    }

    pub(crate) fn i_block_mut(&mut self) -> &mut [u8] {
        let end = (I_BLOCK + I_BLOCK_LEN).min(self.raw.len());
        &mut self.raw[I_BLOCK.min(end)..end]
    }

    /// Bytes of the fields past the first 128, 0 without.
    pub(crate) fn extra_len(&self) -> usize {
        if self.raw.len() > 128 { usize::from(le16(&self.raw, 0x80)) } else { 0 }
    }

    /// The space after the fixed fields, where attributes may be; empty when the inode has none.
    pub(crate) fn attribute_space(&self) -> &[u8] {
        if self.extra_len() == 0 { &[] } else { part(&self.raw, 128 + self.extra_len(), self.raw.len()) }
    }

    pub(crate) fn set_attribute_space(&mut self, bytes: &[u8]) {
        let at = 128 + self.extra_len();
        put_part(&mut self.raw, at, bytes);
    }

    fn holds(&self, offset: usize, len: usize) -> bool {
        offset + len <= 128 + self.extra_len()
    }

    fn time(&self, at: usize, extra_at: usize) -> Timestamp {
        let low = i64::from(le32(&self.raw, at) as i32);
        if !self.holds(extra_at, 4) {
            return Timestamp { seconds: low, nanoseconds: 0 };
        }
        let extra = le32(&self.raw, extra_at);
        Timestamp { seconds: low + (i64::from(extra & 3) << 32), nanoseconds: (extra >> 2).min(999_999_999) }
    }

    fn set_time(&mut self, at: usize, extra_at: usize, time: Timestamp) {
        if !self.holds(extra_at, 4) {
            let seconds = time.seconds.clamp(Timestamp::MIN, i64::from(i32::MAX));
            put_le32(&mut self.raw, at, seconds as u32);
            return;
        }
        let seconds = time.seconds.clamp(Timestamp::MIN, Timestamp::MAX_EXTRA);
        put_le32(&mut self.raw, at, seconds as u32);
        let epoch = ((seconds - i64::from(seconds as i32)) >> 32) as u32 & 3;
        put_le32(&mut self.raw, extra_at, epoch | time.nanoseconds.min(999_999_999) << 2);
    }

    pub(crate) fn accessed(&self) -> Timestamp {
        self.time(0x8, 0x8c)
    }

    pub(crate) fn set_accessed(&mut self, time: Timestamp) {
        self.set_time(0x8, 0x8c, time);
    }

    pub(crate) fn changed(&self) -> Timestamp {
        self.time(0xc, 0x84)
    }

    pub(crate) fn set_changed(&mut self, time: Timestamp) {
        self.set_time(0xc, 0x84, time);
    }

    pub(crate) fn modified(&self) -> Timestamp {
        self.time(0x10, 0x88)
    }

    pub(crate) fn set_modified(&mut self, time: Timestamp) {
        self.set_time(0x10, 0x88, time);
    }

    /// Birth, where the inode has room for it.
    pub(crate) fn created(&self) -> Option<Timestamp> {
        self.holds(0x90, 4).then(|| self.time(0x90, 0x94))
    }

    pub(crate) fn set_created(&mut self, time: Timestamp) {
        if self.holds(0x90, 4) {
            self.set_time(0x90, 0x94, time);
        }
    }

    /// `i_version`: counts changes.
    pub(crate) fn version(&self) -> u64 {
        u64::from(le32(&self.raw, 0x24)) | if self.holds(0x98, 4) { u64::from(le32(&self.raw, 0x98)) << 32 } else { 0 }
    }

    pub(crate) fn bump_version(&mut self) {
        let next = self.version().wrapping_add(1);
        put_le32(&mut self.raw, 0x24, next as u32);
        if self.holds(0x98, 4) {
            put_le32(&mut self.raw, 0x98, (next >> 32) as u32);
        }
    }

    pub(crate) fn project(&self) -> u32 {
        if self.holds(0x9c, 4) { le32(&self.raw, 0x9c) } else { 0 }
    }

    pub(crate) fn set_project(&mut self, project: u32) {
        if self.holds(0x9c, 4) {
            put_le32(&mut self.raw, 0x9c, project);
        }
    }

    /// Device number of a device node: the old 8:8 form, else the new 12:20 form.
    pub(crate) fn device(&self) -> (u32, u32) {
        let old = le32(self.i_block(), 0);
        if old != 0 {
            return (old >> 8 & 0xff, old & 0xff);
        }
        let new = le32(self.i_block(), 4);
        (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00)
    }

    pub(crate) fn set_device(&mut self, major: u32, minor: u32) {
        let words = if major < 256 && minor < 256 {
            [major << 8 | minor, 0]
        } else {
            [0, minor & 0xff | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12]
        };
        let area = self.i_block_mut();
        put_le32(area, 0, words[0]);
        put_le32(area, 4, words[1]);
    }

    /// A symlink whose target lies in `i_block`.
    pub(crate) fn is_fast_symlink(&self, g: &Geometry) -> bool {
        let attribute_sectors = if self.attribute_block() == 0 { 0 } else { (g.block_size as u64 / 512) << g.cluster_bits };
        self.file_type() == FileType::Symlink
            && !self.has(inode_flags::EXTENTS | inode_flags::INLINE_DATA)
            && self.sectors(g).saturating_sub(attribute_sectors) == 0
    }

    /// Whether `i_block` maps blocks.
    pub(crate) fn maps_blocks(&self, g: &Geometry) -> bool {
        match self.file_type() {
            FileType::Regular | FileType::Directory => !self.has(inode_flags::INLINE_DATA),
            FileType::Symlink => !self.has(inode_flags::INLINE_DATA) && !self.is_fast_symlink(g),
            _ => false,
        }
    }

    pub(crate) fn seed(&self, g: &Geometry) -> u32 {
        g.inode_seed(self.ino, self.generation())
    }

    fn checksum(&self, g: &Geometry) -> u32 {
        let mut sum = self.seed(g);
        sum = crc32c(sum, part(&self.raw, 0, 0x7c));
        sum = crc32c(sum, &[0, 0]);
        sum = crc32c(sum, part(&self.raw, 0x7e, 2));
        if self.raw.len() == 128 {
            return sum;
        }
        if self.extra_len() < 4 {
            return crc32c(sum, part(&self.raw, 128, self.raw.len()));
        }
        sum = crc32c(sum, part(&self.raw, 128, 2));
        sum = crc32c(sum, &[0, 0]);
        crc32c(sum, part(&self.raw, 0x84, self.raw.len()))
    }

    fn has_right_checksum(&self, g: &Geometry) -> bool {
        let sum = self.checksum(g);
        let high = self.raw.len() == 128 || self.extra_len() < 4 || le16(&self.raw, 0x82) == (sum >> 16) as u16;
        le16(&self.raw, 0x7c) == sum as u16 && high
    }

    fn seal(&mut self, g: &Geometry) {
        if g.has_metadata_csum() {
            let sum = self.checksum(g);
            put_le16(&mut self.raw, 0x7c, sum as u16);
            if self.extra_len() >= 4 {
                put_le16(&mut self.raw, 0x82, (sum >> 16) as u16);
            }
        }
    }

    fn check(&self, g: &Geometry) -> Result<()> {
        // A slot that never held an inode has no checksum either.
        if g.has_metadata_csum() && !self.has_right_checksum(g) && self.raw.iter().any(|&b| b != 0) {
            return corrupt(self.table_block, "inode checksum");
        }
        let extra = self.extra_len();
        if self.raw.len() > 128 && (128 + extra > self.raw.len() || !extra.is_multiple_of(4)) {
            return corrupt(self.table_block, "inode extra size");
        }
        if self.size() > i64::MAX as u64 {
            return corrupt(self.table_block, "inode size");
        }
        Ok(())
    }
}

impl Core {
    /// Group of an inode, and its index there.
    pub(crate) fn inode_place(&self, ino: u32) -> Result<(u32, u32)> {
        if ino == 0 || ino > self.geometry.inodes_count {
            return corrupt(0, "inode number");
        }
        Ok(((ino - 1) / self.geometry.inodes_per_group, (ino - 1) % self.geometry.inodes_per_group))
    }

    fn inode_slot(&self, ino: u32) -> Result<(u64, usize)> {
        let (group, index) = self.inode_place(ino)?;
        let per_block = (self.geometry.block_size / self.geometry.inode_size) as u32;
        let block = self.group(group)?.inode_table + u64::from(index / per_block);
        Ok((block, (index % per_block) as usize * self.geometry.inode_size))
    }

    /// Any inode, in use or not, with its checksum checked.
    pub(crate) fn read_inode(&self, ino: u32) -> Result<Inode> {
        let (table_block, at) = self.inode_slot(ino)?;
        let block = self.block(table_block)?;
        let inode = Inode { ino, table_block, raw: part(&block, at, self.geometry.inode_size).to_vec() };
        inode.check(&self.geometry)?;
        Ok(inode)
    }

    /// An inode that a name or a caller refers to: it must be in use.
    pub(crate) fn live_inode(&self, ino: u32) -> Result<Inode> {
        if ino < self.geometry.first_inode && ino != ROOT_INODE {
            return corrupt(0, "a reserved inode is referred to");
        }
        self.orphan_or_live(ino)
    }

    /// As [`Core::live_inode`], and reserved inodes too.
    pub(crate) fn orphan_or_live(&self, ino: u32) -> Result<Inode> {
        let inode = self.read_inode(ino)?;
        if inode.mode() == 0 || (inode.links() == 0 && !self.orphans.contains(&ino)) {
            return Err(Error::Stale);
        }
        if inode.file_type() == FileType::Unknown {
            return corrupt(inode.table_block, "inode mode");
        }
        Ok(inode)
    }

    /// Stores an inode in the running transaction.
    pub(crate) fn write_inode(&mut self, inode: &mut Inode) -> Result<()> {
        let g = self.geometry.clone();
        let (block, at) = self.inode_slot(inode.ino)?;
        if inode.size() > i32::MAX as u64 && !self.superblock.ro_compat().contains(RoCompat::LARGE_FILE) {
            self.superblock_mut().set_ro_compat(RoCompat::LARGE_FILE, true);
        }
        inode.seal(&g);
        put_part(self.block_mut(block, Seal::Plain)?, at, &inode.raw);
        self.note_inode(inode.ino);
        Ok(())
    }

    /// Makes the table blocks between two counts of unused inodes readable, where nobody ever zeroed the table.
    pub(crate) fn zero_inode_table(&mut self, group: u32, was_unused: u32, is_unused: u32) -> Result<()> {
        let g = self.geometry.clone();
        let (table, zeroed) = (self.group(group)?.inode_table, self.group(group)?.has(flags::INODE_ZEROED));
        if zeroed || !g.has_group_checksums() {
            return Ok(());
        }
        let per_block = (g.block_size / g.inode_size) as u32;
        let first = (g.inodes_per_group - was_unused).div_ceil(per_block);
        let end = (g.inodes_per_group - is_unused).div_ceil(per_block);
        for index in first..end {
            self.new_block(table + u64::from(index), Seal::Plain);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry() -> Geometry {
        let mut raw = vec![0u8; 1024];
        for (at, value) in [(0u32, 1024u32), (4, 8192), (0x14, 1), (0x20, 8192), (0x28, 1024), (0x4c, 1), (0x54, 11)] {
            put_le32(&mut raw, at as usize, value);
        }
        put_le16(&mut raw, 0x38, 0xef53);
        put_le16(&mut raw, 0x58, 256);
        crate::superblock::Superblock::parse(raw, 1 << 30).unwrap().1
    }

    #[test]
    fn times_before_1970_and_after_2038_keep_their_nanoseconds() {
        let mut inode = Inode::new(12, &geometry());
        for seconds in [Timestamp::MIN, -1, 0, i64::from(i32::MAX), i64::from(i32::MAX) + 1, 1 << 32, 1 << 33, Timestamp::MAX_EXTRA] {
            let time = Timestamp { seconds, nanoseconds: 999_999_999 };
            inode.set_modified(time);
            inode.set_created(time);
            assert_eq!((inode.modified(), inode.created()), (time, Some(time)));
        }
        inode.set_changed(Timestamp { seconds: i64::MAX, nanoseconds: 0 });
        assert_eq!(inode.changed().seconds, Timestamp::MAX_EXTRA);
    }

    #[test]
    fn device_numbers_of_both_forms_come_back() {
        let mut inode = Inode::new(12, &geometry());
        for device in [(1, 3), (255, 255), (256, 0), (8, 256), (4095, 0xf_ffff)] {
            inode.set_device(device.0, device.1);
            assert_eq!(inode.device(), device);
        }
    }

    #[test]
    fn owners_of_32_bits_and_large_counts_are_kept() {
        let g = geometry();
        let mut inode = Inode::new(12, &g);
        inode.set_owner(0x1234_5678, 0xffff_fffe);
        assert_eq!((inode.uid(), inode.gid()), (0x1234_5678, 0xffff_fffe));
        inode.charge(5, &g).unwrap();
        assert_eq!(inode.sectors(&g), 10);
        inode.charge(-100, &g).unwrap();
        assert_eq!(inode.sectors(&g), 0);
        assert_eq!(le16(&inode.raw, 0x80), 32);
    }
}
