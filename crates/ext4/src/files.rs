//! Operations on inodes: attributes, block maps, data, size, and their end.
//!
//! A page cache above uses [`Filesystem::reserve`], [`Filesystem::map_blocks`], [`Handle::allocate`], [`Handle::convert_unwritten`] and
//! [`Handle::set_size`], and moves data itself. [`Filesystem::read`] and [`Filesystem::write`] move data straight to and from the device
//! and know of no cache.
//!
//! Not here: locks between writers of one file; the caller has an inode lock.

use block::{BlockDevice, Durability, SECTOR_SIZE};

use crate::block_alloc::Claim;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::filesystem::{CREDITS, Filesystem, Handle};
use crate::inode::{FileType, Inode, Timestamp, inode_flags};
use crate::mapping::{Mapping, MappingState};
use crate::xattr::SetMode;

/// Blocks that one step of unmapping may change.
pub(crate) const UNMAP_CREDITS: u32 = 96;
/// Data moved in one handle.
const WRITE_STEP_BYTES: u64 = 1 << 20;

/// An inode's attributes, stat(2) and statx(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Number.
    pub ino: u32,
    /// Type and permissions.
    pub mode: u16,
    /// Links; 1 for a directory with more subdirectories than can be counted.
    pub links: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Sectors of 512 bytes in use.
    pub sectors: u64,
    /// Last access.
    pub accessed: Timestamp,
    /// Last change of content.
    pub modified: Timestamp,
    /// Last change of the inode.
    pub changed: Timestamp,
    /// Birth.
    pub created: Option<Timestamp>,
    /// Device number of a device node.
    pub device: (u32, u32),
    /// Tells uses of one inode number apart.
    pub generation: u32,
    /// [`crate::inode_flags`].
    pub flags: u32,
    /// Project.
    pub project: u32,
    /// Counts changes.
    pub version: u64,
}

impl Attributes {
    /// The type.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        FileType::from_mode(self.mode)
    }
}

/// What to change of an inode; None leaves it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttributes {
    /// Permission bits; the type stays.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access.
    pub accessed: Option<Timestamp>,
    /// Last change of content.
    pub modified: Option<Timestamp>,
    /// Last change of the inode.
    pub changed: Option<Timestamp>,
    /// Flags, of which only those of [`crate::inode_flags::USER_MODIFIABLE`] change.
    pub flags: Option<u32>,
    /// Project.
    pub project: Option<u32>,
}

impl Core {
    /// Fills `buffer` from a file's blocks; holes and unwritten blocks give zeroes. It does not look at the size.
    pub(crate) fn read_data(&self, inode: &Inode, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let (bits, size) = (self.geometry.block_bits, self.geometry.block_size as u64);
        let mut done = 0usize;
        while done < buffer.len() {
            let at = offset + done as u64;
            let within = at % size;
            let wanted = (buffer.len() - done) as u64;
            let mapping = self.map(inode, at >> bits, (within + wanted).div_ceil(size))?;
            let len = (mapping.len * size - within).min(wanted) as usize;
            let part = &mut buffer[done..done + len];
            match mapping.state {
                MappingState::Written => read_bytes(self.device.as_ref(), mapping.physical * size + within, part)?,
                MappingState::Hole | MappingState::Unwritten => part.fill(0),
            }
            done += len;
        }
        Ok(())
    }

    pub(crate) fn attributes_of(&self, inode: &Inode) -> Attributes {
        let is_node = matches!(inode.file_type(), FileType::CharDevice | FileType::BlockDevice);
        Attributes {
            ino: inode.ino,
            mode: inode.mode(),
            links: inode.links(),
            uid: inode.uid(),
            gid: inode.gid(),
            size: inode.size(),
            sectors: inode.sectors(&self.geometry),
            accessed: inode.accessed(),
            modified: inode.modified(),
            changed: inode.changed(),
            created: inode.created(),
            device: if is_node { inode.device() } else { (0, 0) },
            generation: inode.generation(),
            flags: inode.flags(),
            project: inode.project(),
            version: inode.version(),
        }
    }

    /// A regular file that may be changed.
    pub(crate) fn regular(&self, ino: u32) -> Result<Inode> {
        let inode = self.live_inode(ino)?;
        match inode.file_type() {
            FileType::Regular => Ok(inode),
            FileType::Directory => Err(Error::IsDirectory),
            _ => Err(Error::Invalid),
        }
    }

    /// Largest size that this inode's map allows.
    pub(crate) fn size_limit(&self, inode: &Inode) -> u64 {
        (self.logical_end(inode) << self.geometry.block_bits).min(i64::MAX as u64)
    }
}

/// Reads bytes at any place of the device.
pub(crate) fn read_bytes(device: &dyn BlockDevice, at: u64, buffer: &mut [u8]) -> Result<()> {
    let unit = SECTOR_SIZE as u64;
    let (first, skip) = (at / unit, (at % unit) as usize);
    if skip == 0 && buffer.len().is_multiple_of(SECTOR_SIZE) {
        return Ok(device.read(first, buffer)?);
    }
    let mut whole = vec![0; (skip + buffer.len()).next_multiple_of(SECTOR_SIZE)];
    device.read(first, &mut whole)?;
    buffer.copy_from_slice(&whole[skip..skip + buffer.len()]);
    Ok(())
}

/// Writes bytes at any place of the device, keeping the rest of the sectors at both ends.
pub(crate) fn write_bytes(device: &dyn BlockDevice, at: u64, data: &[u8]) -> Result<()> {
    let unit = SECTOR_SIZE as u64;
    let (first, skip) = (at / unit, (at % unit) as usize);
    if skip == 0 && data.len().is_multiple_of(SECTOR_SIZE) {
        return Ok(device.write(first, data, Durability::Cached)?);
    }
    let mut whole = vec![0; (skip + data.len()).next_multiple_of(SECTOR_SIZE)];
    device.read(first, &mut whole)?;
    whole[skip..skip + data.len()].copy_from_slice(data);
    Ok(device.write(first, &whole, Durability::Cached)?)
}

impl Handle<'_> {
    /// Maps the start of `logical..logical + len` (blocks), allocating where there is a hole, and gives what is there; call again for the
    /// rest. In state `Unwritten` the blocks read as zeroes until [`Handle::convert_unwritten`]; in state `Written` the caller writes
    /// every byte of them before it drops this handle. Files without extents know only `Written`.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::FileTooBig`].
    pub fn allocate(&self, ino: u32, logical: u64, len: u64, claim: Claim, state: MappingState) -> Result<Mapping> {
        self.run_reported(|core| {
            let mut inode = core.regular(ino)?;
            let before = core.map(&inode, logical, len)?;
            if before.state != MappingState::Hole {
                return Ok(before);
            }
            let state = if inode.has(inode_flags::EXTENTS) { state } else { MappingState::Written };
            let mapping = core.fill_hole(&mut inode, logical, len, claim, state)?;
            core.write_inode(&mut inode)?;
            if claim == Claim::Promised {
                core.reserved_clusters = core.reserved_clusters.saturating_sub(mapping.len);
            }
            Ok(mapping)
        })
    }

    /// Marks blocks as written after their data is on its way. Gives where to go on, in another handle, if that is before the end.
    ///
    /// # Errors
    /// [`Error::NoSpace`] when the extent tree can't grow.
    pub fn convert_unwritten(&self, ino: u32, logical: u64, len: u64) -> Result<u64> {
        self.run_reported(|core| {
            let mut inode = core.orphan_or_live(ino)?;
            let next = core.mark_written(&mut inode, logical, logical.saturating_add(len))?;
            core.write_inode(&mut inode)?;
            Ok(next)
        })
    }

    /// Sets size and times after an extending write; it never frees anything.
    ///
    /// # Errors
    /// [`Error::FileTooBig`].
    pub fn set_size(&self, ino: u32, size: u64, now: Timestamp) -> Result<()> {
        self.run_reported(|core| {
            let mut inode = core.regular(ino)?;
            if size > core.size_limit(&inode) {
                return Err(Error::FileTooBig);
            }
            inode.set_size(size);
            inode.set_modified(now);
            inode.set_changed(now);
            inode.bump_version();
            core.write_inode(&mut inode)
        })
    }
}

impl Filesystem {
    /// An inode's attributes.
    ///
    /// # Errors
    /// [`Error::Stale`] for one that is not in use.
    pub fn attributes(&self, ino: u32) -> Result<Attributes> {
        self.look(|core| Ok(core.attributes_of(&core.live_inode(ino)?)))
    }

    /// Changes attributes in one transaction. Permission is the caller's to check.
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub fn set_attributes(&self, ino: u32, set: &SetAttributes) -> Result<Attributes> {
        self.update(CREDITS, |core| {
            let mut inode = core.live_inode(ino)?;
            if let Some(mode) = set.mode {
                inode.set_mode(inode.mode() & 0o170_000 | mode & 0o7777);
            }
            inode.set_owner(set.uid.unwrap_or(inode.uid()), set.gid.unwrap_or(inode.gid()));
            set.accessed.into_iter().for_each(|time| inode.set_accessed(time));
            set.modified.into_iter().for_each(|time| inode.set_modified(time));
            set.changed.into_iter().for_each(|time| inode.set_changed(time));
            set.project.into_iter().for_each(|project| inode.set_project(project));
            if let Some(flags) = set.flags {
                let mask = inode_flags::USER_MODIFIABLE;
                inode.set_flags(inode.flags() & !mask | flags & mask);
            }
            inode.bump_version();
            core.write_inode(&mut inode)?;
            Ok(core.attributes_of(&inode))
        })
    }

    /// Promises blocks to delayed allocation, so that write-back finds room: one a page.
    ///
    /// # Errors
    /// [`Error::NoSpace`], after which the caller may [`Filesystem::commit`] once and try again.
    pub fn reserve(&self, blocks: u64, claim: Claim) -> Result<()> {
        let mut core = self.core.write();
        let available = core.available(claim);
        // Extent and indirect blocks for what is promised are not promised themselves.
        let margin = (core.free_clusters / 50).min(4096);
        if blocks > available.saturating_sub(margin) {
            return Err(Error::NoSpace);
        }
        core.reserved_clusters += blocks;
        Ok(())
    }

    /// Gives promises back that were not used.
    pub fn release(&self, blocks: u64) {
        let mut core = self.core.write();
        core.reserved_clusters = core.reserved_clusters.saturating_sub(blocks);
    }

    /// Where the start of `logical..logical + len` (blocks) is.
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub fn map_blocks(&self, ino: u32, logical: u64, len: u64) -> Result<Mapping> {
        self.look(|core| core.map(&core.live_inode(ino)?, logical, len))
    }

    /// Reads a file's bytes straight from the device. Gives how many there were before the end.
    ///
    /// # Errors
    /// [`Error::IsDirectory`].
    pub fn read(&self, ino: u32, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.look(|core| {
            let inode = core.regular(ino)?;
            let len = inode.size().saturating_sub(offset).min(buffer.len() as u64) as usize;
            let buffer = &mut buffer[..len];
            if inode.has(inode_flags::INLINE_DATA) {
                let bytes = core.inline_bytes(&inode)?;
                let from = crate::field::part(&bytes, offset as usize, len);
                buffer[..from.len()].copy_from_slice(from);
                buffer[from.len()..].fill(0);
            } else {
                core.read_data(&inode, offset, buffer)?;
            }
            Ok(len)
        })
    }

    /// Writes bytes straight to the device, allocating and extending as needed. Gives how many were written: fewer only when space ran
    /// out in the middle.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::FileTooBig`].
    pub fn write(&self, ino: u32, offset: u64, data: &[u8], now: Timestamp, claim: Claim) -> Result<usize> {
        self.set_clock(now);
        let inode = self.look(|core| {
            let inode = core.regular(ino)?;
            let limit = core.size_limit(&inode);
            if offset.checked_add(data.len() as u64).is_none_or(|end| end > limit) { Err(Error::FileTooBig) } else { Ok(inode) }
        })?;
        let mut done = 0;
        let mut tried = false;
        while done < data.len() {
            match self.write_step(&inode, offset + done as u64, &data[done..], now, claim) {
                Ok(count) => {
                    done += count;
                    tried = false;
                }
                Err(Error::NoSpace) if !tried => {
                    tried = true;
                    self.commit()?;
                }
                Err(Error::NoSpace) if done > 0 => return Ok(done),
                Err(error) => return Err(self.report(error)),
            }
        }
        Ok(done)
    }

    fn write_step(&self, inode: &Inode, offset: u64, data: &[u8], now: Timestamp, claim: Claim) -> Result<usize> {
        let (ino, size) = (inode.ino, self.block_size() as u64);
        let within = offset % size;
        let end = (offset + (data.len() as u64).min(WRITE_STEP_BYTES)).div_ceil(size);
        let handle = self.begin(CREDITS)?;
        let before = handle.run(|core| core.map(&core.regular(ino)?, offset / size, 1))?.state;
        let mapping = handle.allocate(ino, offset / size, end - offset / size, claim, MappingState::Written)?;
        let count = (mapping.len * size - within).min(data.len() as u64) as usize;
        let device = self.core.read().device.clone();
        let place = mapping.physical * size + within;
        if before == MappingState::Written {
            write_bytes(device.as_ref(), place, &data[..count])?;
        } else {
            // What the blocks held before belongs to somebody else.
            let mut whole = vec![0; (within as usize + count).next_multiple_of(size as usize)];
            whole[within as usize..within as usize + count].copy_from_slice(&data[..count]);
            write_bytes(device.as_ref(), place - within, &whole)?;
        }
        handle.run(|core| {
            let mut inode = core.regular(ino)?;
            if before == MappingState::Unwritten {
                let blocks = (within + count as u64).div_ceil(size);
                core.mark_written(&mut inode, mapping.logical, mapping.logical + blocks)?;
            }
            inode.set_size(inode.size().max(offset + count as u64));
            inode.set_modified(now);
            inode.set_changed(now);
            inode.bump_version();
            core.write_inode(&mut inode)
        })?;
        Ok(count)
    }

    /// Sets a file's size; blocks behind it are freed, and a partial last block is zeroed on the device from there.
    ///
    /// # Errors
    /// [`Error::FileTooBig`], [`Error::IsDirectory`].
    pub fn truncate(&self, ino: u32, size: u64, now: Timestamp) -> Result<()> {
        self.set_clock(now);
        let (bits, old_size) = self.look(|core| {
            let inode = core.regular(ino)?;
            if size > core.size_limit(&inode) { Err(Error::FileTooBig) } else { Ok((core.geometry.block_bits, inode.size())) }
        })?;
        let first_gone = size.div_ceil(1 << bits);
        // Before the transaction, so that the zeroes are on the disk when the new size is; behind a growing file's old end too, where
        // another writer may have left something.
        let zero_from = size.min(old_size);
        self.zero_bytes(ino, zero_from, zero_from.next_multiple_of(1 << bits) - zero_from)?;
        let done = self.update(UNMAP_CREDITS, |core| {
            let mut inode = core.regular(ino)?;
            // Blocks that were preallocated behind the end stay when the file grows, as in Linux.
            let shrinks = size <= inode.size();
            inode.set_size(size);
            inode.set_modified(now);
            inode.set_changed(now);
            inode.bump_version();
            let done = !shrinks || core.unmap_step(&mut inode, first_gone, u64::MAX)?;
            if !done {
                core.add_orphan(&mut inode)?;
            }
            core.write_inode(&mut inode)?;
            Ok(done)
        })?;
        if done { Ok(()) } else { self.finish_truncation(ino) }
    }

    /// Frees what lies behind an orphan's size and takes it off the orphan record.
    fn finish_truncation(&self, ino: u32) -> Result<()> {
        loop {
            let done = self.update(UNMAP_CREDITS, |core| {
                let mut inode = core.orphan_or_live(ino)?;
                let first_gone = inode.size().div_ceil(core.geometry.block_size as u64);
                let done = core.unmap_step(&mut inode, first_gone, u64::MAX)?;
                if done && inode.links() > 0 {
                    core.remove_orphan(&mut inode)?;
                }
                core.write_inode(&mut inode)?;
                Ok(done)
            })?;
            if done {
                return Ok(());
            }
        }
    }

    /// Zeroes bytes inside one block on the device, if it holds data.
    pub(crate) fn zero_bytes(&self, ino: u32, offset: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let size = self.block_size() as u64;
        let mapping = self.map_blocks(ino, offset / size, 1)?;
        if mapping.state != MappingState::Written {
            return Ok(());
        }
        let device = self.core.read().device.clone();
        let len = len.min(size - offset % size) as usize;
        write_bytes(device.as_ref(), mapping.physical * size + offset % size, &vec![0; len])
    }

    /// Frees an inode that has no name and no user left. One that has a name is left alone.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; then it stays an orphan.
    pub fn evict(&self, ino: u32) -> Result<()> {
        loop {
            let done = self.update(UNMAP_CREDITS, |core| {
                let mut inode = core.orphan_or_live(ino)?;
                if inode.links() > 0 {
                    return Ok(true);
                }
                let done = core.unmap_step(&mut inode, 0, u64::MAX)?;
                core.write_inode(&mut inode)?;
                Ok(done)
            })?;
            if done {
                break;
            }
        }
        let now = self.clock();
        self.update(CREDITS, |core| {
            let mut inode = core.orphan_or_live(ino)?;
            if inode.links() > 0 {
                return Ok(());
            }
            core.release_attribute_block(&mut inode)?;
            core.remove_orphan(&mut inode)?;
            inode.set_size(0);
            inode.set_deletion(u32::try_from(now.seconds).unwrap_or(u32::MAX).max(1));
            core.write_inode(&mut inode)?;
            core.free_inode_number(ino, inode.is_directory())
        })
    }

    /// Finishes what a crash interrupted: deletes inodes without names, and truncates.
    pub(crate) fn finish_orphans(&self) -> Result<()> {
        let found = { self.core.write().find_orphans() };
        let list = match found {
            Ok(list) => list,
            Err(error) => {
                // As Linux: the list is given up, the error is noted, the mount goes on.
                self.report(error);
                let mut core = self.core.write();
                core.orphans.clear();
                core.superblock.set_first_orphan(0);
                return Ok(());
            }
        };
        let (mut deleted, mut truncated) = (0, 0);
        for ino in list {
            let result = self.finish_orphan(ino, &mut deleted, &mut truncated);
            if let Err(error @ (Error::Device(_) | Error::Aborted)) = result {
                return Err(error);
            }
            if self.is_read_only() {
                return Ok(());
            }
        }
        if deleted + truncated > 0 {
            self.note_orphans(deleted, truncated);
        }
        Ok(())
    }

    fn finish_orphan(&self, ino: u32, deleted: &mut u32, truncated: &mut u32) -> Result<()> {
        let inode = self.look(|core| {
            if core.is_inode_in_use(ino)? {
                core.orphan_or_live(ino)
            } else {
                Err(Error::Corrupt { block: 0, what: "orphan: inode not in use" })
            }
        })?;
        if inode.links() == 0 {
            *deleted += 1;
            return self.evict(ino);
        }
        *truncated += 1;
        self.finish_truncation(ino)
    }

    /// The value of an extended attribute, by its full name.
    ///
    /// # Errors
    /// [`Error::NoAttribute`], [`Error::NotSupported`] for a namespace that ext4 has not.
    pub fn get_attribute(&self, ino: u32, name: &[u8]) -> Result<Vec<u8>> {
        self.look(|core| core.attribute(&core.live_inode(ino)?, name))
    }

    /// Full names of an inode's extended attributes. Which of them the caller may see is the caller's to know.
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub fn list_attributes(&self, ino: u32) -> Result<Vec<Vec<u8>>> {
        self.look(|core| core.attribute_names(&core.live_inode(ino)?))
    }

    /// Sets an extended attribute, or removes it with None.
    ///
    /// # Errors
    /// [`Error::AttributeTooBig`], [`Error::NoAttribute`], [`Error::Exists`], [`Error::NotSupported`].
    pub fn set_attribute(&self, ino: u32, name: &[u8], value: Option<&[u8]>, mode: SetMode, now: Timestamp) -> Result<()> {
        self.set_clock(now);
        self.update(CREDITS, |core| {
            let mut inode = core.live_inode(ino)?;
            core.set_attribute(&mut inode, name, value, mode)?;
            inode.set_changed(now);
            inode.bump_version();
            core.write_inode(&mut inode)
        })
    }
}
