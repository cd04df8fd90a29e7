//! What has been done to a device since it appeared: the counts behind `/proc/diskstats` and `/sys/block/*/stat`.
//!
//! Source: Linux, `Documentation/admin-guide/iostats.rst`.

use crate::{BlockDevice, Durability, SECTOR_SIZE};
use abi::Errno;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use sync::SpinLock;

/// One kind of request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Requests that succeeded.
    pub requests: u64,
    /// Sectors moved.
    pub sectors: u64,
    /// Nanoseconds from submission to answer, summed.
    pub time_ns: u64,
}

/// The fields of a line of `/proc/diskstats`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    pub reads: Counters,
    /// Writes, and zeroing, which is a kind of write to Linux too.
    pub writes: Counters,
    pub discards: Counters,
    /// Flushes, which have no sectors.
    pub flushes: Counters,
    /// Requests that run now.
    pub in_flight: u64,
    /// Nanoseconds with anything in flight.
    pub busy_ns: u64,
}

impl fmt::Display for Statistics {
    /// The numbers as `/sys/block/*/stat` and `/proc/diskstats` have them, one space between. Nothing is ever merged: write-back hands over whole runs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ns: u64| ns / 1_000_000;
        for kind in [self.reads, self.writes] {
            write!(f, "{} 0 {} {} ", kind.requests, kind.sectors, ms(kind.time_ns))?;
        }
        let all = [self.reads, self.writes, self.discards, self.flushes].iter().map(|kind| kind.time_ns).sum();
        write!(f, "{} {} {} ", self.in_flight, ms(self.busy_ns), ms(all))?;
        write!(f, "{} 0 {} {} ", self.discards.requests, self.discards.sectors, ms(self.discards.time_ns))?;
        write!(f, "{} {}", self.flushes.requests, ms(self.flushes.time_ns))
    }
}

#[derive(Default)]
struct Kind {
    requests: AtomicU64,
    sectors: AtomicU64,
    time_ns: AtomicU64,
}

impl Kind {
    fn read(&self) -> Counters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters { requests: of(&self.requests), sectors: of(&self.sectors), time_ns: of(&self.time_ns) }
    }
}

/// How many requests run, and since when any does.
#[derive(Default)]
struct Flight {
    running: u64,
    since_ns: u64,
    busy_ns: u64,
}

/// A device whose requests are counted. A partition's count for its disk too, if its disk is counted.
pub struct Counted {
    device: Arc<dyn BlockDevice>,
    reads: Kind,
    writes: Kind,
    discards: Kind,
    flushes: Kind,
    flight: SpinLock<Flight>,
}

impl Counted {
    /// Counts from zero.
    #[must_use]
    pub fn new(device: Arc<dyn BlockDevice>) -> Counted {
        let [reads, writes, discards, flushes] = Default::default();
        Counted { device, reads, writes, discards, flushes, flight: SpinLock::default() }
    }

    /// What was counted so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let (in_flight, busy_ns) = {
            let flight = self.flight.lock();
            let running_ns = if flight.running > 0 { sync::monotonic_ns().saturating_sub(flight.since_ns) } else { 0 };
            (flight.running, flight.busy_ns + running_ns)
        };
        let [reads, writes, discards, flushes] = [&self.reads, &self.writes, &self.discards, &self.flushes].map(Kind::read);
        Statistics { reads, writes, discards, flushes, in_flight, busy_ns }
    }

    fn count(&self, kind: &Kind, sectors: u64, request: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        let start_ns = sync::monotonic_ns();
        {
            let mut flight = self.flight.lock();
            if flight.running == 0 {
                flight.since_ns = start_ns;
            }
            flight.running += 1;
        }
        let result = request();
        let end_ns = sync::monotonic_ns();
        {
            let mut flight = self.flight.lock();
            flight.running -= 1;
            if flight.running == 0 {
                flight.busy_ns += end_ns.saturating_sub(flight.since_ns);
            }
        }
        if result.is_ok() {
            kind.requests.fetch_add(1, Ordering::Relaxed);
            kind.sectors.fetch_add(sectors, Ordering::Relaxed);
            kind.time_ns.fetch_add(end_ns.saturating_sub(start_ns), Ordering::Relaxed);
        }
        result
    }
}

impl BlockDevice for Counted {
    fn acquire(&self) -> Result<(), Errno> {
        self.device.acquire()
    }
    fn release(&self) {
        self.device.release();
    }
    fn look_again(&self) -> Result<(), Errno> {
        self.device.look_again()
    }
    fn sectors(&self) -> u64 {
        self.device.sectors()
    }
    fn logical_block_size(&self) -> usize {
        self.device.logical_block_size()
    }
    fn is_read_only(&self) -> bool {
        self.device.is_read_only()
    }
    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let sectors = (buffer.len() / SECTOR_SIZE) as u64;
        self.count(&self.reads, sectors, || self.device.read(sector, buffer))
    }
    fn write(&self, sector: u64, data: &[u8], durability: Durability) -> Result<(), Errno> {
        let sectors = (data.len() / SECTOR_SIZE) as u64;
        self.count(&self.writes, sectors, || self.device.write(sector, data, durability))
    }
    fn flush(&self) -> Result<(), Errno> {
        self.count(&self.flushes, 0, || self.device.flush())
    }
    fn discard(&self, sector: u64, sectors: u64) -> Result<(), Errno> {
        self.count(&self.discards, sectors, || self.device.discard(sector, sectors))
    }
    fn write_zeroes(&self, sector: u64, sectors: u64) -> Result<(), Errno> {
        self.count(&self.writes, sectors, || self.device.write_zeroes(sector, sectors))
    }
}

#[cfg(test)]
mod tests {
    use super::Counted;
    use crate::{BlockDevice, Durability, RamDisk, SECTOR_SIZE};
    use std::sync::Arc;

    #[test]
    fn what_succeeds_is_counted_by_kind() {
        let disk = Counted::new(Arc::new(RamDisk::new(8)));
        let mut buffer = [0; 2 * SECTOR_SIZE];
        disk.read(0, &mut buffer).unwrap();
        disk.write(6, &buffer, Durability::Cached).unwrap();
        disk.write(7, &buffer, Durability::Cached).unwrap_err();
        disk.flush().unwrap();
        let counted = disk.statistics();
        assert_eq!((counted.reads.requests, counted.reads.sectors), (1, 2));
        assert_eq!((counted.writes.requests, counted.writes.sectors), (1, 2));
        assert_eq!((counted.flushes.requests, counted.in_flight), (1, 0));
        assert_eq!(counted.to_string().split(' ').count(), 17);
    }
}
