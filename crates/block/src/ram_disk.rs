//! A disk held in memory: what file systems are tested on.
//!
//! Not here: loss of writes (see [`crate::FaultyDisk`]); here every write is durable at once.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use abi::Errno;

use crate::{BlockDevice, Durability, SECTOR_SIZE, byte_range, sector_range};

/// A disk in memory. Its length is always a whole number of sectors.
pub struct RamDisk {
    bytes: RwLock<Vec<u8>>,
    logical_block_size: usize,
    read_only: bool,
}

impl RamDisk {
    /// A disk of `sectors` sectors of zeroes.
    #[must_use]
    pub fn new(sectors: u64) -> RamDisk {
        RamDisk::from_image(vec![0; sectors as usize * SECTOR_SIZE])
    }

    /// A disk with this content, padded with zeroes to a whole sector.
    #[must_use]
    pub fn from_image(mut image: Vec<u8>) -> RamDisk {
        image.resize(image.len().next_multiple_of(SECTOR_SIZE), 0);
        RamDisk { bytes: RwLock::new(image), logical_block_size: SECTOR_SIZE, read_only: false }
    }

    /// The same disk, answering EROFS to every change.
    #[must_use]
    pub fn read_only(mut self) -> RamDisk {
        self.read_only = true;
        self
    }

    /// The same disk with another logical block size in bytes. It is only reported: requests of single sectors still succeed.
    #[must_use]
    pub fn with_logical_block_size(mut self, bytes: usize) -> RamDisk {
        self.logical_block_size = bytes;
        self
    }

    /// A copy of the whole content.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        self.get().clone()
    }

    /// The whole content, without a copy.
    #[must_use]
    pub fn into_image(self) -> Vec<u8> {
        self.bytes.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the disk longer, as a host file that grows under a running machine. A smaller count changes nothing.
    pub fn grow(&self, sectors: u64) {
        let mut bytes = self.get_mut();
        let len_bytes = bytes.len().max(sectors as usize * SECTOR_SIZE);
        bytes.resize(len_bytes, 0);
    }

    fn get(&self) -> RwLockReadGuard<'_, Vec<u8>> {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn get_mut(&self) -> RwLockWriteGuard<'_, Vec<u8>> {
        self.bytes.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn zero(&self, sector: u64, sectors: u64) -> Result<(), Errno> {
        if self.read_only {
            return Err(Errno::EROFS);
        }
        let mut bytes = self.get_mut();
        let range = sector_range(sector, sectors, bytes.len())?;
        bytes[range].fill(0);
        Ok(())
    }
}

impl BlockDevice for RamDisk {
    fn sectors(&self) -> u64 {
        (self.get().len() / SECTOR_SIZE) as u64
    }

    fn logical_block_size(&self) -> usize {
        self.logical_block_size
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let bytes = self.get();
        let range = byte_range(sector, buffer.len(), bytes.len())?;
        buffer.copy_from_slice(&bytes[range]);
        Ok(())
    }

    fn write(&self, sector: u64, data: &[u8], _durability: Durability) -> Result<(), Errno> {
        if self.read_only {
            return Err(Errno::EROFS);
        }
        let mut bytes = self.get_mut();
        let range = byte_range(sector, data.len(), bytes.len())?;
        bytes[range].copy_from_slice(data);
        Ok(())
    }

    fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn discard(&self, sector: u64, sectors: u64) -> Result<(), Errno> {
        self.zero(sector, sectors)
    }

    fn write_zeroes(&self, sector: u64, sectors: u64) -> Result<(), Errno> {
        self.zero(sector, sectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_the_rest_is_zero() {
        let disk = RamDisk::new(4);
        disk.write(1, &[7; 1024], Durability::Cached).unwrap();
        let mut all = vec![0xff; 2048];
        disk.read(0, &mut all).unwrap();
        assert!(all[..512].iter().all(|&b| b == 0) && all[512..1536].iter().all(|&b| b == 7) && all[1536..].iter().all(|&b| b == 0));
    }

    #[test]
    fn requests_past_the_end_or_of_part_of_a_sector_are_eio() {
        let disk = RamDisk::new(4);
        for (sector, len) in [(4, 512), (3, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (0, 100)] {
            assert_eq!(disk.read(sector, &mut vec![0; len]), Err(Errno::EIO), "read {sector} {len}");
            assert_eq!(disk.write(sector, &vec![0; len], Durability::Cached), Err(Errno::EIO), "write {sector} {len}");
        }
        for (sector, sectors) in [(0, 5), (4, 1), (u64::MAX, 1), (1, u64::MAX)] {
            assert_eq!(disk.discard(sector, sectors), Err(Errno::EIO));
            assert_eq!(disk.write_zeroes(sector, sectors), Err(Errno::EIO));
        }
    }

    #[test]
    fn a_read_only_disk_answers_erofs_to_every_change() {
        let disk = RamDisk::from_image(vec![1; 700]).read_only();
        assert_eq!(disk.sectors(), 2);
        assert_eq!(disk.write(0, &[0; 512], Durability::Cached), Err(Errno::EROFS));
        assert_eq!(disk.discard(0, 1), Err(Errno::EROFS));
        assert_eq!(disk.write_zeroes(0, 1), Err(Errno::EROFS));
        assert_eq!(&disk.image()[690..702], &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
    }

    #[test]
    fn a_grown_disk_keeps_its_content() {
        let disk = RamDisk::from_image(vec![3; 512]);
        disk.grow(3);
        disk.grow(1);
        assert_eq!(disk.sectors(), 3);
        assert_eq!(disk.into_image()[..513], [vec![3; 512], vec![0]].concat());
    }
}
