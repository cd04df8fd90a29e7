//! ioctl(2) commands of file systems rather than of files: the same for all of them, asked on any file or directory.
//!
//! Source: ioctl_fideduperange(2)'s neighbours, Linux `Documentation/filesystems/fiemap.rst`, fstrim(8).

use crate::file::{IoctlCaller, OpenFile};
use crate::{Capability, FileKind};
use abi::{Errno, SysResult};

const FIGETBSZ: u32 = 2;
const FITRIM: u32 = 0xc018_5879;
const FS_IOC_FIEMAP: u32 = 0xc020_660b;

/// Extents that one FIEMAP answers at most; a caller asks again from the last one on.
const EXTENTS_MAX: usize = 4096;
/// Bytes of `struct fiemap` before the extents, and of one extent.
const FIEMAP_HEAD: usize = 32;
const FIEMAP_EXTENT: usize = 56;
const FIEMAP_FLAG_SYNC: u32 = 1;

/// Where a part of a file lies on its device: a `struct fiemap_extent`, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileExtent {
    /// In the file.
    pub logical: u64,
    /// On the device.
    pub physical: u64,
    pub len: u64,
    /// `FIEMAP_EXTENT_*`.
    pub flags: u32,
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u64::from_le_bytes(*raw))
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |raw| u32::from_le_bytes(*raw))
}

/// Answers a command of this family; `None` for any other.
pub(crate) fn of_file_system(file: &OpenFile, caller: &IoctlCaller<'_>, command: u32, argument: u64) -> Option<SysResult<i64>> {
    if !matches!(file.inode().kind(), FileKind::Regular | FileKind::Directory) {
        return None;
    }
    match command {
        FIGETBSZ => Some(block_size(file, caller, argument)),
        FITRIM => Some(trim(file, caller, argument)),
        FS_IOC_FIEMAP => Some(fiemap(file, caller, argument)),
        _ => None,
    }
}

fn block_size(file: &OpenFile, caller: &IoctlCaller<'_>, argument: u64) -> SysResult<i64> {
    let size = file.inode().file_system().statfs()?.block_size_bytes;
    caller.memory.write_all(argument, &(size as u32).to_ne_bytes())?;
    Ok(0)
}

fn trim(file: &OpenFile, caller: &IoctlCaller<'_>, argument: u64) -> SysResult<i64> {
    caller.credentials.require(Capability::SYS_ADMIN)?;
    let mut range = [0; 24];
    caller.memory.read_exact(argument, &mut range)?;
    let trimmed = file.inode().file_system().trim(le64(&range, 0), le64(&range, 8), le64(&range, 16))?;
    caller.memory.write_all(argument + 8, &trimmed.to_ne_bytes())?;
    Ok(0)
}

fn fiemap(file: &OpenFile, caller: &IoctlCaller<'_>, argument: u64) -> SysResult<i64> {
    let mut head = [0; FIEMAP_HEAD];
    caller.memory.read_exact(argument, &mut head)?;
    let (start, len, flags, room) = (le64(&head, 0), le64(&head, 8), le32(&head, 16), le32(&head, 24) as usize);
    if len == 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags & !FIEMAP_FLAG_SYNC != 0 {
        // What was not understood is told.
        caller.memory.write_all(argument + 16, &(flags & !FIEMAP_FLAG_SYNC).to_ne_bytes())?;
        return Err(Errno::EBADR.into());
    }
    // Without room the extents are only counted.
    let most = if room == 0 { usize::MAX } else { room.min(EXTENTS_MAX) };
    let extents = file.inode().extents(start, len, most)?;
    if room > 0 {
        for (at, extent) in extents.iter().take(room).enumerate() {
            let mut raw = [0; FIEMAP_EXTENT];
            for (place, word) in [(0, extent.logical), (8, extent.physical), (16, extent.len)] {
                raw[place..place + 8].copy_from_slice(&word.to_ne_bytes());
            }
            raw[40..44].copy_from_slice(&extent.flags.to_ne_bytes());
            let place = argument.checked_add((FIEMAP_HEAD + at * FIEMAP_EXTENT) as u64).ok_or(Errno::EFAULT)?;
            caller.memory.write_all(place, &raw)?;
        }
    }
    caller.memory.write_all(argument + 20, &(extents.len() as u32).to_ne_bytes())?;
    Ok(0)
}
