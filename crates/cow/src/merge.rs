//! One file out of a COW file and its backing file, for `uml_moo`.
//!
//! The result of either way equals a sector-by-sector read of the device, also in a last sector that the backing file only begins: what
//! the guest wrote there is kept, and the result then is a whole number of sectors long.
//!
//! Not here: the check that the backing file is the right one (see [`crate::open::check`]).

use abi::Errno;
use block::BlockDevice;

use crate::device::Device;
use crate::storage::{Storage, read_or_zeroes};

const SECTOR: u64 = block::SECTOR_SIZE as u64;
/// Bytes copied at once.
const COPY_LEN: usize = 256 * 1024;

/// What went wrong, and with which file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MergeError {
    /// Reading the COW file or its backing file failed near this byte of the device.
    Read(u64, Errno),
    /// Writing the result failed near this byte.
    Write(u64, Errno),
}

/// What is done with sectors that are all zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zeroes {
    /// The output reads as zeroes already: an empty file. They become holes.
    LeaveHoles,
    /// The output holds something else: a disk.
    Write,
}

/// Writes the device's whole content to `output`. The last sector is written whatever it holds, so that the length is right.
pub fn copy(device: &Device<impl Storage, impl Storage>, output: &(impl Storage + ?Sized), zeroes: Zeroes) -> Result<(), MergeError> {
    let sectors = device.sectors();
    let mut buffer = vec![0; COPY_LEN];
    let mut at = 0;
    while at < sectors {
        let (owned, count) = device.run(at, sectors - at).map_err(|errno| MergeError::Read(at * SECTOR, errno))?;
        let end = at + count;
        while at < end {
            if zeroes == Zeroes::LeaveHoles {
                at = skip_hole(device, owned, at, end).map_err(|errno| MergeError::Read(at * SECTOR, errno))?;
            }
            let len_bytes = ((end - at) * SECTOR).min(COPY_LEN as u64) as usize;
            let part = &mut buffer[..len_bytes];
            device.read(at, part).map_err(|errno| MergeError::Read(at * SECTOR, errno))?;
            write_changed(output, at * SECTOR, part, |range| zeroes == Zeroes::Write || part[range].iter().any(|&byte| byte != 0))
                .map_err(|errno| MergeError::Write(at * SECTOR, errno))?;
            at += len_bytes as u64 / SECTOR;
        }
    }
    if let Some(last) = sectors.checked_sub(1) {
        let mut sector = [0; SECTOR as usize];
        device.read(last, &mut sector).map_err(|errno| MergeError::Read(last * SECTOR, errno))?;
        output.write_at(last * SECTOR, &sector).map_err(|errno| MergeError::Write(last * SECTOR, errno))?;
    }
    output.sync().map_err(|errno| MergeError::Write(sectors * SECTOR, errno))
}

/// Writes what the COW file owns into `backing`, the same file that the device reads. Sectors that are zero in both stay holes.
pub fn in_place(device: &Device<impl Storage, impl Storage>, backing: &(impl Storage + ?Sized)) -> Result<(), MergeError> {
    let sectors = device.sectors();
    let (mut new, mut old) = (vec![0; COPY_LEN], vec![0; COPY_LEN]);
    let mut at = 0;
    while at < sectors {
        let (owned, count) = device.run(at, sectors - at).map_err(|errno| MergeError::Read(at * SECTOR, errno))?;
        if !owned {
            at += count;
            continue;
        }
        let len_bytes = (count * SECTOR).min(COPY_LEN as u64) as usize;
        let (new, old) = (&mut new[..len_bytes], &mut old[..len_bytes]);
        device.read(at, new).map_err(|errno| MergeError::Read(at * SECTOR, errno))?;
        read_or_zeroes(backing, at * SECTOR, old).map_err(|errno| MergeError::Read(at * SECTOR, errno))?;
        write_changed(backing, at * SECTOR, new, |range| new[range.clone()] != old[range])
            .map_err(|errno| MergeError::Write(at * SECTOR, errno))?;
        at += len_bytes as u64 / SECTOR;
    }
    backing.sync().map_err(|errno| MergeError::Write(sectors * SECTOR, errno))
}

/// The first sector from `at` on, before `end`, that its owner's file may have data for; the last before `end` when there is none.
fn skip_hole(device: &Device<impl Storage, impl Storage>, owned: bool, at: u64, end: u64) -> Result<u64, Errno> {
    let base = if owned { device.layout().data_offset } else { 0 };
    let offset = base + at * SECTOR;
    let data = if owned { device.cow().next_data(offset)? } else { device.backing().next_data(offset)? };
    let sector = data.map_or(end - 1, |data| data.saturating_sub(base) / SECTOR);
    Ok(sector.clamp(at, end - 1))
}

/// Writes the sectors of `data` that `wanted` picks, neighbours together.
fn write_changed(
    output: &(impl Storage + ?Sized),
    offset: u64,
    data: &[u8],
    wanted: impl Fn(std::ops::Range<usize>) -> bool,
) -> Result<(), Errno> {
    let sector = SECTOR as usize;
    let mut start = None;
    for at in (0..data.len()).step_by(sector) {
        match (wanted(at..at + sector), start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                output.write_at(offset + from as u64, &data[from..at])?;
                start = None;
            }
            _ => {}
        }
    }
    match start {
        Some(from) => output.write_at(offset + from as u64, &data[from..]),
        None => Ok(()),
    }
}
