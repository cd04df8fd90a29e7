//! What the format needs of a file, and such a file in memory.

use std::sync::{Mutex, MutexGuard, PoisonError};

use abi::Errno;

/// A file with positioned reads and writes.
///
/// Calls may come from several threads. Writes are volatile until [`Storage::sync`]; a host that fails may lose any of those that are not
/// synced, in any order.
pub trait Storage: Send + Sync {
    /// Length in bytes.
    fn len_bytes(&self) -> Result<u64, Errno>;

    /// Reads from `offset`, as much as there is; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno>;

    /// Writes all of `data` at `offset`, extending the file with zeroes where need be.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), Errno>;

    /// Makes every completed change durable (fdatasync(2)).
    fn sync(&self) -> Result<(), Errno>;

    /// Makes a range read as zeroes and gives its room back (`FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE` of fallocate(2)).
    fn punch(&self, _offset: u64, _len_bytes: u64) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The first offset at or after `offset` that may hold something other than zeroes (`SEEK_DATA` of lseek(2)); `None` when there is
    /// none. The answer `offset` is always right.
    fn next_data(&self, offset: u64) -> Result<Option<u64>, Errno> {
        Ok(Some(offset))
    }
}

impl<S: Storage + ?Sized> Storage for &S {
    fn len_bytes(&self) -> Result<u64, Errno> {
        (**self).len_bytes()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        (**self).read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        (**self).write_at(offset, data)
    }
    fn sync(&self) -> Result<(), Errno> {
        (**self).sync()
    }
    fn punch(&self, offset: u64, len_bytes: u64) -> Result<(), Errno> {
        (**self).punch(offset, len_bytes)
    }
    fn next_data(&self, offset: u64) -> Result<Option<u64>, Errno> {
        (**self).next_data(offset)
    }
}

/// Fills `buffer` from `offset`; what lies behind the end of the file reads as zeroes.
pub(crate) fn read_or_zeroes(storage: &(impl Storage + ?Sized), offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match storage.read_at(offset + filled as u64, &mut buffer[filled..])? {
            0 => break,
            count => filled += count.min(buffer.len() - filled),
        }
    }
    buffer[filled..].fill(0);
    Ok(())
}

/// A file in memory, at most 4 GiB long: longer ones answer EFBIG.
#[derive(Default)]
pub struct MemoryStorage {
    bytes: Mutex<Vec<u8>>,
}

impl MemoryStorage {
    /// A file with this content.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> MemoryStorage {
        MemoryStorage { bytes: Mutex::new(bytes) }
    }

    /// A copy of the content.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn position(offset: u64, len_bytes: usize) -> Result<std::ops::Range<usize>, Errno> {
    let end = offset.checked_add(len_bytes as u64).filter(|&end| end <= 1 << 32).ok_or(Errno::EFBIG)?;
    Ok(offset as usize..end as usize)
}

impl Storage for MemoryStorage {
    fn len_bytes(&self) -> Result<u64, Errno> {
        Ok(self.lock().len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let bytes = self.lock();
        let Some(rest) = usize::try_from(offset).ok().and_then(|start| bytes.get(start..)) else { return Ok(0) };
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let range = position(offset, data.len())?;
        let mut bytes = self.lock();
        let len_bytes = bytes.len().max(range.end);
        bytes.resize(len_bytes, 0);
        bytes[range].copy_from_slice(data);
        Ok(())
    }

    fn sync(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn punch(&self, offset: u64, len_bytes: u64) -> Result<(), Errno> {
        let mut bytes = self.lock();
        let end = offset.saturating_add(len_bytes).min(bytes.len() as u64);
        if offset < end {
            bytes[offset as usize..end as usize].fill(0);
        }
        Ok(())
    }
}
