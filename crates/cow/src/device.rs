//! A COW file and its backing file as one block device.
//!
//! What it is not: the opening of files or the check of size and mtime (see [`crate::open`]). The backing file is never written.
//!
//! Always true, so that a kill or a power failure at any instant loses no flushed write and shows no sector that holds neither its old
//! nor its new content:
//! * a bit reaches the file only after the data of its sector is durable: a flush syncs, then writes the bits that were set before it
//!   began, then syncs again;
//! * a bit on disk is never cleared: a discarded sector stays the COW file's, or the backing file's old content would come back;
//! * a sector that has its bit is overwritten in place, so it holds old or new.
//!
//! Bits that are set between flushes live in memory only, at most some megabytes of them. Writes that were never flushed may therefore be
//! lost when the process is killed, as on any disk with a write cache that loses power.
//!
//! Calls block the host thread that makes them where the storage does. Several may be made at once: only a look at the bitmap and a flush wait for
//! each other.

use std::ops::Range;

use abi::Errno;
use block::{BlockDevice, Durability};
use sync::{Mutex, Rank};

use crate::bitmap::Bitmap;
use crate::header::{Header, HeaderError, Layout};
use crate::storage::{Storage, read_or_zeroes};

const SECTOR: u64 = block::SECTOR_SIZE as u64;
/// Chunks of bitmap (16 MiB of device each) that may wait for a flush before one is made for them.
const MAX_DIRTY_CHUNKS: usize = 512;

/// What may be done with the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Everything.
    ReadWrite,
    /// Writes answer EROFS.
    ReadOnly,
}

/// The device that the guest sees.
pub struct Device<C, B> {
    cow: C,
    backing: B,
    backing_len: u64,
    layout: Layout,
    access: Access,
    bitmap: Mutex<Bitmap>,
    /// Held over a whole flush: a flush that finds another's bits taken must not return before they are durable.
    flushing: Mutex<()>,
}

impl<C: Storage, B: Storage> Device<C, B> {
    /// Joins a COW file, whose header was read, with the backing file that was found right for it. Reads nothing.
    pub fn new(cow: C, header: &Header, backing: B, access: Access) -> Result<Device<C, B>, HeaderError> {
        let layout = header.layout()?;
        // Versions 1 and 2 count too few bytes of bitmap for some sizes. A byte in the gap before the data is as good.
        let bitmap_len = layout.sectors.div_ceil(8).min(layout.data_offset - layout.bitmap_offset);
        let bitmap = Mutex::ranked(Rank::DeviceMap, Bitmap::new(bitmap_len));
        Ok(Device { cow, backing, backing_len: header.size, layout, access, bitmap, flushing: Mutex::ranked(Rank::Device, ()) })
    }

    /// How many sectors from `sector` on (at least one, at most `max`) have one owner, and whether it is the COW file.
    pub fn run(&self, sector: u64, max: u64) -> Result<(bool, u64), Errno> {
        self.bitmap.lock().run(sector, max, |offset, bytes| self.load_bitmap(offset, bytes))
    }

    /// Where the parts of the COW file lie.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The COW file.
    pub fn cow(&self) -> &C {
        &self.cow
    }

    /// The backing file.
    pub fn backing(&self) -> &B {
        &self.backing
    }

    fn load_bitmap(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        read_or_zeroes(&self.cow, self.layout.bitmap_offset + offset, bytes)
    }

    fn check(&self, sector: u64, sectors: u64) -> Result<Range<u64>, Errno> {
        let end = sector.checked_add(sectors).filter(|&end| end <= self.layout.sectors).ok_or(Errno::EIO)?;
        Ok(sector..end)
    }

    fn check_bytes(&self, sector: u64, len_bytes: usize) -> Result<Range<u64>, Errno> {
        match (len_bytes as u64).is_multiple_of(SECTOR) {
            true => self.check(sector, len_bytes as u64 / SECTOR),
            false => Err(Errno::EIO),
        }
    }

    fn check_change(&self, sector: u64, sectors: u64) -> Result<Range<u64>, Errno> {
        match self.access {
            Access::ReadOnly => Err(Errno::EROFS),
            Access::ReadWrite => self.check(sector, sectors),
        }
    }

    fn data_offset(&self, sector: u64) -> u64 {
        self.layout.data_offset + sector * SECTOR
    }

    /// Reads whole sectors of the backing file. It may end inside one, and may by now be longer than the header says.
    fn read_backing(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let offset = sector * SECTOR;
        let there = self.backing_len.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let (data, rest) = buffer.split_at_mut(there);
        rest.fill(0);
        read_or_zeroes(&self.backing, offset, data)
    }

    /// Makes sectors, whose data is written, the COW file's.
    fn own(&self, sectors: Range<u64>) -> Result<(), Errno> {
        let too_many = {
            let mut bitmap = self.bitmap.lock();
            bitmap.set(sectors, |offset, bytes| self.load_bitmap(offset, bytes))?;
            bitmap.dirty_chunks() > MAX_DIRTY_CHUNKS
        };
        if too_many { self.flush_all() } else { Ok(()) }
    }

    fn flush_all(&self) -> Result<(), Errno> {
        let _one_at_a_time = self.flushing.lock();
        let pieces = self.bitmap.lock().begin_write_out();
        let result = self.cow.sync().and_then(|()| {
            for piece in &pieces {
                self.cow.write_at(self.layout.bitmap_offset + piece.offset, &piece.bytes)?;
            }
            if pieces.is_empty() { Ok(()) } else { self.cow.sync() }
        });
        self.bitmap.lock().end_write_out(pieces, result.is_ok());
        result
    }

    fn punch_or_zero(&self, sectors: Range<u64>) -> Result<(), Errno> {
        let len_bytes = (sectors.end - sectors.start) * SECTOR;
        match self.cow.punch(self.data_offset(sectors.start), len_bytes) {
            Err(Errno::EOPNOTSUPP) => {}
            other => return other,
        }
        let zeroes = [0; 64 * block::SECTOR_SIZE];
        let mut at = 0;
        while at < len_bytes {
            let count = (len_bytes - at).min(zeroes.len() as u64);
            self.cow.write_at(self.data_offset(sectors.start) + at, &zeroes[..count as usize])?;
            at += count;
        }
        Ok(())
    }
}

impl<C: Storage, B: Storage> BlockDevice for Device<C, B> {
    fn sectors(&self) -> u64 {
        self.layout.sectors
    }

    fn is_read_only(&self) -> bool {
        self.access == Access::ReadOnly
    }

    fn read(&self, sector: u64, mut buffer: &mut [u8]) -> Result<(), Errno> {
        let mut at = self.check_bytes(sector, buffer.len())?;
        while at.start < at.end {
            let (owned, count) = self.run(at.start, at.end - at.start)?;
            let (part, rest) = buffer.split_at_mut((count * SECTOR) as usize);
            match owned {
                true => read_or_zeroes(&self.cow, self.data_offset(at.start), part)?,
                false => self.read_backing(at.start, part)?,
            }
            buffer = rest;
            at.start += count;
        }
        Ok(())
    }

    fn write(&self, sector: u64, data: &[u8], durability: Durability) -> Result<(), Errno> {
        if self.access == Access::ReadOnly {
            return Err(Errno::EROFS);
        }
        let sectors = self.check_bytes(sector, data.len())?;
        self.cow.write_at(self.data_offset(sector), data)?;
        self.own(sectors)?;
        match durability {
            Durability::Cached => Ok(()),
            Durability::ForceUnitAccess => self.flush_all(),
        }
    }

    fn flush(&self) -> Result<(), Errno> {
        match self.access {
            Access::ReadOnly => Ok(()),
            Access::ReadWrite => self.flush_all(),
        }
    }

    /// Gives the host the room of those sectors that the COW file owns; they then read as zeroes. The backing file's stay as they are.
    fn discard(&self, sector: u64, sectors: u64) -> Result<(), Errno> {
        let mut at = self.check_change(sector, sectors)?;
        while at.start < at.end {
            let (owned, count) = self.run(at.start, at.end - at.start)?;
            if owned {
                self.cow.punch(self.data_offset(at.start), count * SECTOR)?;
            }
            at.start += count;
        }
        Ok(())
    }

    fn write_zeroes(&self, sector: u64, sectors: u64) -> Result<(), Errno> {
        let range = self.check_change(sector, sectors)?;
        self.punch_or_zero(range.clone())?;
        self.own(range)
    }
}
