//! Host files as [`cow::Storage`].

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use abi::Errno;
use rustix::fs::{FallocateFlags, SeekFrom};

/// A host file or disk.
pub struct HostFile(pub File);

/// The number behind an error of the host; EIO for one that has none.
#[must_use]
pub fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().and_then(Errno::from_raw).unwrap_or(Errno::EIO)
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error()).unwrap_or(Errno::EIO)
}

impl cow::Storage for HostFile {
    fn len_bytes(&self) -> Result<u64, Errno> {
        // Seeking answers for disks too, whose st_size is 0.
        rustix::fs::seek(&self.0, SeekFrom::End(0)).map_err(errno)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        loop {
            match self.0.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map_err(|error| errno_of(&error)),
            }
        }
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.0.write_all_at(data, offset).map_err(|error| errno_of(&error))
    }

    fn sync(&self) -> Result<(), Errno> {
        self.0.sync_data().map_err(|error| errno_of(&error))
    }

    fn punch(&self, offset: u64, len_bytes: u64) -> Result<(), Errno> {
        rustix::fs::fallocate(&self.0, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len_bytes).map_err(errno)
    }

    fn next_data(&self, offset: u64) -> Result<Option<u64>, Errno> {
        match rustix::fs::seek(&self.0, SeekFrom::Data(offset)) {
            Ok(at) => Ok(Some(at)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            // Not every file system, and no disk, can tell.
            Err(_) => Ok(Some(offset)),
        }
    }
}
