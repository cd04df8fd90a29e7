//! Block devices: partitions, statistics, RAM disks for tests.
//!
//! What it is not: a driver. `drivers::ubd` implements [`BlockDevice`] over host files; file systems and partitions consume it.
#![forbid(unsafe_code)]

use abi::Errno;

mod faulty;
pub mod partitions;
mod ram_disk;
pub mod statistics;

pub use faulty::{FaultyDisk, Kept, UndurableWrite};
pub use ram_disk::RamDisk;
pub use statistics::Counted;

/// Bytes in a sector, the unit of every position and length on a block device.
pub const SECTOR_SIZE: usize = 512;

/// What a write must have done before it is called complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// It may sit in a volatile cache.
    #[default]
    Cached,
    /// On stable storage when it completes (`REQ_FUA`).
    ForceUnitAccess,
}

/// A device of whole 512-byte sectors that can be read and written at random.
///
/// Calls block until done and may be made from several tasks at once. Writes that do not overlap may reach the medium in any order;
/// [`BlockDevice::flush`] orders them: every write that completed before it began is durable when it returns.
pub trait BlockDevice: Send + Sync {
    /// A user comes: an open file, a mount, swap. The first one may make the device ready, as UML opens and locks a disk's file no sooner;
    /// what that answers is the open's error. Reads and writes come between this and [`BlockDevice::release`] only. May sleep.
    fn acquire(&self) -> Result<(), Errno> {
        Ok(())
    }
    /// A user of [`BlockDevice::acquire`] goes.
    fn release(&self) {}
    /// Takes over the size of what is behind, which may have grown.
    fn look_again(&self) -> Result<(), Errno> {
        Ok(())
    }
    /// Size in sectors; may grow while the device is in use.
    fn sectors(&self) -> u64;
    /// Bytes that the medium writes at once, a multiple of 512 (`BLKSSZGET`).
    fn logical_block_size(&self) -> usize {
        SECTOR_SIZE
    }
    /// Whether writes answer EROFS.
    fn is_read_only(&self) -> bool {
        false
    }
    /// Fills `buffer`, a whole number of sectors, from `sector`. EIO past the end.
    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Errno>;
    /// Writes `data`, a whole number of sectors, at `sector`. EROFS, EIO past the end, ENOSPC when the host has no room.
    fn write(&self, sector: u64, data: &[u8], durability: Durability) -> Result<(), Errno>;
    /// Makes every completed write durable.
    fn flush(&self) -> Result<(), Errno>;
    /// Tells the device that the contents of these sectors do not matter. EOPNOTSUPP where it can't use that.
    fn discard(&self, _sector: u64, _sectors: u64) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Makes these sectors read as zeroes.
    fn write_zeroes(&self, sector: u64, sectors: u64) -> Result<(), Errno> {
        write_zeroes_by_hand(self, sector, sectors)
    }
}

/// Writes zeroes where a device has no better way.
pub fn write_zeroes_by_hand(device: &(impl BlockDevice + ?Sized), sector: u64, sectors: u64) -> Result<(), Errno> {
    let zeroes = [0u8; 64 * SECTOR_SIZE];
    let (mut at, end) = (sector, sector.checked_add(sectors).ok_or(Errno::EIO)?);
    while at < end {
        let count = (end - at).min(64);
        device.write(at, zeroes.get(..count as usize * SECTOR_SIZE).unwrap_or_default(), Durability::Cached)?;
        at += count;
    }
    Ok(())
}

/// The byte range of a request on a device held in memory: EIO unless it is whole sectors and lies inside.
pub(crate) fn byte_range(sector: u64, len_bytes: usize, device_len_bytes: usize) -> Result<std::ops::Range<usize>, Errno> {
    if !len_bytes.is_multiple_of(SECTOR_SIZE) {
        return Err(Errno::EIO);
    }
    let start = usize::try_from(sector).ok().and_then(|s| s.checked_mul(SECTOR_SIZE)).ok_or(Errno::EIO)?;
    let end = start.checked_add(len_bytes).filter(|&end| end <= device_len_bytes).ok_or(Errno::EIO)?;
    Ok(start..end)
}

/// As [`byte_range`], for a length in sectors.
pub(crate) fn sector_range(sector: u64, sectors: u64, device_len_bytes: usize) -> Result<std::ops::Range<usize>, Errno> {
    let len_bytes = usize::try_from(sectors).ok().and_then(|s| s.checked_mul(SECTOR_SIZE)).ok_or(Errno::EIO)?;
    byte_range(sector, len_bytes, device_len_bytes)
}
