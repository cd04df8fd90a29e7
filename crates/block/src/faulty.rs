//! A disk that forgets: it records every write and flush, so that a test can ask what the medium could hold had the power failed at any
//! moment; and it fails where it is told to.
//!
//! Not here: time. Requests complete at once, in the order they are made.
//!
//! Always true: a write that completed before a flush began, or that asked for [`Durability::ForceUnitAccess`], is in every crash image
//! taken after that flush, or after itself. Any other write may be there whole, torn at a sector's edge, or not at all, and in any order
//! with its unflushed neighbours: that is what a volatile write cache may do (Linux `Documentation/block/writeback_cache_control.rst`).

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use abi::Errno;

use crate::{BlockDevice, Durability, SECTOR_SIZE, byte_range, sector_range};

enum Operation {
    Write { sector: u64, data: Vec<u8>, durability: Durability },
    Flush,
}

struct State {
    base: Vec<u8>,
    current: Vec<u8>,
    log: Vec<Operation>,
    bad_reads: Vec<Range<u64>>,
    bad_writes: Vec<Range<u64>>,
    fail_flushes: bool,
    operations_left: Option<usize>,
}

/// A write that the medium need not hold after a crash, as shown to the chooser of [`FaultyDisk::crash`].
#[derive(Clone, Copy, Debug)]
pub struct UndurableWrite<'a> {
    /// Its number among all operations of the disk.
    pub operation: usize,
    /// Where it starts.
    pub sector: u64,
    /// What it holds, whole sectors.
    pub data: &'a [u8],
    /// It had begun but not completed at the crash.
    pub in_flight: bool,
}

/// What became of a write that was not yet durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kept {
    /// All of it reached the medium.
    Whole,
    /// Nothing of it did.
    Lost,
    /// Only these sectors of it did, counted from the start of the write.
    Torn(Range<usize>),
}

/// A recording, failing disk in memory.
pub struct FaultyDisk {
    state: Mutex<State>,
}

impl FaultyDisk {
    /// A disk of zeroes.
    #[must_use]
    pub fn new(sectors: u64) -> FaultyDisk {
        FaultyDisk::from_image(vec![0; sectors as usize * SECTOR_SIZE])
    }

    /// A disk whose content, padded to a whole sector, is durable.
    #[must_use]
    pub fn from_image(mut image: Vec<u8>) -> FaultyDisk {
        image.resize(image.len().next_multiple_of(SECTOR_SIZE), 0);
        let state = State {
            current: image.clone(),
            base: image,
            log: Vec::new(),
            bad_reads: Vec::new(),
            bad_writes: Vec::new(),
            fail_flushes: false,
            operations_left: None,
        };
        FaultyDisk { state: Mutex::new(state) }
    }

    /// How many writes and flushes have completed. Moments to crash at are `0..=operations()`.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.lock().log.len()
    }

    /// What a reader sees now, with no crash.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        self.lock().current.clone()
    }

    /// Forgets the record: all that was written so far is durable, and operations count from 0 again.
    pub fn checkpoint(&self) {
        let mut state = self.lock();
        state.base = state.current.clone();
        state.log.clear();
    }

    /// The medium as it may be when power fails after `at` operations have completed (`at` is capped at [`FaultyDisk::operations`]).
    ///
    /// `choose` is asked, in the order of writing, for each write that is not durable then, the one in flight last.
    pub fn crash(&self, at: usize, mut choose: impl FnMut(UndurableWrite<'_>) -> Kept) -> Vec<u8> {
        let state = self.lock();
        let at = at.min(state.log.len());
        let flushed = state.log[..at].iter().rposition(|op| matches!(op, Operation::Flush)).unwrap_or(0);
        let mut image = state.base.clone();
        for (operation, op) in state.log.iter().enumerate().take(at + 1) {
            let Operation::Write { sector, data, durability } = op else { continue };
            let in_flight = operation == at;
            let durable = operation < flushed || (*durability == Durability::ForceUnitAccess && !in_flight);
            let kept = match durable {
                true => Kept::Whole,
                false => choose(UndurableWrite { operation, sector: *sector, data, in_flight }),
            };
            let sectors = match kept {
                Kept::Whole => 0..data.len() / SECTOR_SIZE,
                Kept::Lost => 0..0,
                Kept::Torn(range) => range.start..range.end.min(data.len() / SECTOR_SIZE),
            };
            if sectors.start < sectors.end {
                let part = &data[sectors.start * SECTOR_SIZE..sectors.end * SECTOR_SIZE];
                let start = *sector as usize * SECTOR_SIZE + sectors.start * SECTOR_SIZE;
                image[start..start + part.len()].copy_from_slice(part);
            }
        }
        image
    }

    /// The commonest crash: after `at` operations, of the writes that are not durable only the first `kept` reached the medium.
    #[must_use]
    pub fn crash_keeping_prefix(&self, at: usize, kept: usize) -> Vec<u8> {
        let mut seen = 0;
        self.crash(at, |_| {
            seen += 1;
            if seen <= kept { Kept::Whole } else { Kept::Lost }
        })
    }

    /// How many completed writes are not durable after `at` operations.
    #[must_use]
    pub fn undurable(&self, at: usize) -> usize {
        let state = self.lock();
        let done = &state.log[..at.min(state.log.len())];
        let flushed = done.iter().rposition(|op| matches!(op, Operation::Flush)).unwrap_or(0);
        done[flushed..].iter().filter(|op| matches!(op, Operation::Write { durability: Durability::Cached, .. })).count()
    }

    /// Reads that touch these sectors fail with EIO.
    pub fn fail_reads(&self, sectors: Range<u64>) {
        self.lock().bad_reads.push(sectors);
    }

    /// Writes that touch these sectors fail with EIO and change nothing.
    pub fn fail_writes(&self, sectors: Range<u64>) {
        self.lock().bad_writes.push(sectors);
    }

    /// Whether flushes fail with EIO. A failed flush makes nothing durable.
    pub fn fail_flushes(&self, fail: bool) {
        self.lock().fail_flushes = fail;
    }

    /// After this many more writes and flushes the disk is gone: every request answers EIO.
    pub fn die_after(&self, operations: usize) {
        self.lock().operations_left = Some(operations);
    }

    /// Ends every injected failure.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.bad_reads.clear();
        state.bad_writes.clear();
        state.fail_flushes = false;
        state.operations_left = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count_operation(&mut self) -> Result<(), Errno> {
        match &mut self.operations_left {
            Some(0) => Err(Errno::EIO),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn write(&mut self, sector: u64, data: Vec<u8>, durability: Durability) -> Result<(), Errno> {
        let range = byte_range(sector, data.len(), self.current.len())?;
        if touches(&self.bad_writes, sector, data.len()) {
            return Err(Errno::EIO);
        }
        self.count_operation()?;
        self.current[range].copy_from_slice(&data);
        self.log.push(Operation::Write { sector, data, durability });
        Ok(())
    }
}

fn touches(bad: &[Range<u64>], sector: u64, len_bytes: usize) -> bool {
    let end = sector + (len_bytes / SECTOR_SIZE) as u64;
    bad.iter().any(|range| range.start < end && sector < range.end)
}

impl BlockDevice for FaultyDisk {
    fn sectors(&self) -> u64 {
        (self.lock().current.len() / SECTOR_SIZE) as u64
    }

    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let state = self.lock();
        let range = byte_range(sector, buffer.len(), state.current.len())?;
        if state.operations_left == Some(0) || touches(&state.bad_reads, sector, buffer.len()) {
            return Err(Errno::EIO);
        }
        buffer.copy_from_slice(&state.current[range]);
        Ok(())
    }

    fn write(&self, sector: u64, data: &[u8], durability: Durability) -> Result<(), Errno> {
        self.lock().write(sector, data.to_vec(), durability)
    }

    fn flush(&self) -> Result<(), Errno> {
        let mut state = self.lock();
        if state.fail_flushes {
            return Err(Errno::EIO);
        }
        state.count_operation()?;
        state.log.push(Operation::Flush);
        Ok(())
    }

    /// A discarded sector reads as zeroes, and until the next flush may also still hold what it held.
    fn discard(&self, sector: u64, sectors: u64) -> Result<(), Errno> {
        self.write_zeroes(sector, sectors)
    }

    fn write_zeroes(&self, sector: u64, sectors: u64) -> Result<(), Errno> {
        let mut state = self.lock();
        let len_bytes = sector_range(sector, sectors, state.current.len())?.len();
        state.write(sector, vec![0; len_bytes], Durability::Cached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(disk: &FaultyDisk, sector: u64, value: u8, sectors: usize) {
        disk.write(sector, &vec![value; sectors * SECTOR_SIZE], Durability::Cached).unwrap();
    }

    /// The first byte of each sector.
    fn marks(image: &[u8]) -> Vec<u8> {
        image.chunks(SECTOR_SIZE).map(|sector| sector[0]).collect()
    }

    #[test]
    fn an_unflushed_write_may_be_lost_and_a_flushed_one_never_is() {
        let disk = FaultyDisk::new(4);
        write(&disk, 0, 1, 1);
        disk.flush().unwrap();
        write(&disk, 1, 2, 1);
        write(&disk, 2, 3, 1);
        assert_eq!(marks(&disk.image()), [1, 2, 3, 0]);
        assert_eq!(disk.undurable(4), 2);
        assert_eq!(marks(&disk.crash_keeping_prefix(4, 0)), [1, 0, 0, 0]);
        assert_eq!(marks(&disk.crash_keeping_prefix(4, 1)), [1, 2, 0, 0]);
        assert_eq!(marks(&disk.crash_keeping_prefix(4, 2)), [1, 2, 3, 0]);
        assert_eq!(marks(&disk.crash_keeping_prefix(1, 0)), [0, 0, 0, 0]);
        let reordered = disk.crash(4, |w| if w.sector == 2 { Kept::Whole } else { Kept::Lost });
        assert_eq!(marks(&reordered), [1, 0, 3, 0]);
    }

    #[test]
    fn a_write_can_be_torn_at_a_sector_edge_and_be_in_flight() {
        let disk = FaultyDisk::new(4);
        write(&disk, 0, 9, 4);
        assert_eq!(marks(&disk.crash(1, |_| Kept::Torn(1..3))), [0, 9, 9, 0]);
        let in_flight = disk.crash(0, |w| {
            assert!(w.in_flight);
            Kept::Torn(0..99)
        });
        assert_eq!(marks(&in_flight), [9, 9, 9, 9]);
    }

    #[test]
    fn a_forced_write_is_durable_alone_once_complete() {
        let disk = FaultyDisk::new(2);
        write(&disk, 0, 1, 1);
        disk.write(1, &[2; SECTOR_SIZE], Durability::ForceUnitAccess).unwrap();
        assert_eq!(marks(&disk.crash_keeping_prefix(2, 0)), [0, 2]);
        assert_eq!(marks(&disk.crash_keeping_prefix(1, 0)), [0, 0]);
        assert_eq!(disk.undurable(2), 1);
    }

    #[test]
    fn injected_failures_are_eio_until_healed() {
        let disk = FaultyDisk::new(8);
        disk.fail_reads(2..3);
        disk.fail_writes(5..6);
        disk.fail_flushes(true);
        assert_eq!(disk.read(1, &mut [0; 1024]), Err(Errno::EIO));
        assert_eq!(disk.read(3, &mut [0; 1024]), Ok(()));
        assert_eq!(disk.write(4, &[1; 1024], Durability::Cached), Err(Errno::EIO));
        assert_eq!(disk.flush(), Err(Errno::EIO));
        assert_eq!(disk.operations(), 0);
        disk.heal();
        disk.die_after(1);
        assert_eq!(disk.flush(), Ok(()));
        assert_eq!(disk.flush(), Err(Errno::EIO));
        assert_eq!(disk.read(0, &mut [0; 512]), Err(Errno::EIO));
    }

    #[test]
    fn a_checkpoint_makes_everything_durable_and_forgets() {
        let disk = FaultyDisk::new(2);
        write(&disk, 1, 4, 1);
        disk.checkpoint();
        assert_eq!(disk.operations(), 0);
        assert_eq!(marks(&disk.crash_keeping_prefix(0, 0)), [0, 4]);
    }
}
