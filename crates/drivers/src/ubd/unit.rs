//! A disk as the machine knows it, whether its host file is open or not.
//!
//! Always true: the host file is opened, locked and its COW file made when the first user comes, and closed when the last one goes, as UML does
//! it; so an image that nobody uses can be replaced, grown or locked by others.

use abi::Errno;
use block::{BlockDevice, Durability};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sync::{Mutex, Rank, SpinLock};

/// The geometry that UML invents, so that partition tools agree on one.
pub const HEADS: u32 = 128;
pub const SECTORS_PER_TRACK: u32 = 32;

/// Who can open a disk's host file.
pub trait Opener: Send + Sync {
    /// Bytes that the disk will have, not opening it for good.
    fn size_bytes(&self) -> Result<u64, Errno>;
    /// Opens and locks the file, or both of a COW pair. What goes wrong has been told in the log.
    fn open(&self) -> Result<Arc<dyn BlockDevice>, Errno>;
}

/// A configured disk.
pub struct Unit {
    opener: Box<dyn Opener>,
    users: Mutex<usize>,
    opened: SpinLock<Option<Arc<dyn BlockDevice>>>,
    /// As of configuration, of the last first use, or of the last look at it.
    sectors: AtomicU64,
    read_only: AtomicBool,
}

impl Unit {
    /// A disk of the size that its file has now.
    pub fn new(opener: Box<dyn Opener>, read_only: bool) -> Result<Unit, Errno> {
        let sectors = super::sectors_of(opener.size_bytes()?);
        Ok(Unit {
            opener,
            users: Mutex::ranked(Rank::Device, 0),
            opened: SpinLock::default(),
            sectors: AtomicU64::new(sectors),
            read_only: AtomicBool::new(read_only),
        })
    }

    /// Whether nobody uses it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        *self.users.lock() == 0
    }

    /// The open device. ENXIO between users: nobody should ask then.
    fn device(&self) -> Result<Arc<dyn BlockDevice>, Errno> {
        self.opened.lock().clone().ok_or(Errno::ENXIO)
    }
}

impl BlockDevice for Unit {
    fn acquire(&self) -> Result<(), Errno> {
        let mut users = self.users.lock();
        if *users == 0 {
            let device = self.opener.open()?;
            self.sectors.store(device.sectors(), Ordering::Relaxed);
            self.read_only.store(device.is_read_only(), Ordering::Relaxed);
            *self.opened.lock() = Some(device);
        }
        *users += 1;
        Ok(())
    }
    fn release(&self) {
        let mut users = self.users.lock();
        *users = users.saturating_sub(1);
        let last = if *users == 0 { self.opened.lock().take() } else { None };
        // Closed with no short lock held.
        drop(last);
    }
    fn look_again(&self) -> Result<(), Errno> {
        let users = self.users.lock();
        let opened = self.opened.lock().clone();
        let sectors = match opened {
            Some(device) => {
                device.look_again()?;
                device.sectors()
            }
            None => super::sectors_of(self.opener.size_bytes()?),
        };
        self.sectors.store(sectors, Ordering::Relaxed);
        drop(users);
        Ok(())
    }
    fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Relaxed)
    }
    fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }
    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.device()?.read(sector, buffer)
    }
    fn write(&self, sector: u64, data: &[u8], durability: Durability) -> Result<(), Errno> {
        self.device()?.write(sector, data, durability)
    }
    fn flush(&self) -> Result<(), Errno> {
        self.device()?.flush()
    }
    fn discard(&self, sector: u64, sectors: u64) -> Result<(), Errno> {
        self.device()?.discard(sector, sectors)
    }
    fn write_zeroes(&self, sector: u64, sectors: u64) -> Result<(), Errno> {
        self.device()?.write_zeroes(sector, sectors)
    }
}

#[cfg(test)]
mod tests {
    use super::{Opener, Unit};
    use abi::Errno;
    use block::{BlockDevice, RamDisk};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Opens a RAM disk of so many sectors; none: locked by another.
    struct Opens(Arc<AtomicUsize>, Arc<AtomicUsize>);

    impl Opener for Opens {
        fn size_bytes(&self) -> Result<u64, Errno> {
            Ok(self.0.load(Ordering::Relaxed) as u64 * 512)
        }
        fn open(&self) -> Result<Arc<dyn BlockDevice>, Errno> {
            self.1.fetch_add(1, Ordering::Relaxed);
            match self.0.load(Ordering::Relaxed) {
                0 => Err(Errno::EAGAIN),
                sectors => Ok(Arc::new(RamDisk::new(sectors as u64))),
            }
        }
    }

    #[test]
    fn a_disk_is_opened_by_its_first_user_and_closed_by_its_last() {
        let (sectors, opened) = (Arc::new(AtomicUsize::new(8)), Arc::new(AtomicUsize::new(0)));
        let unit = Unit::new(Box::new(Opens(sectors.clone(), opened.clone())), false).unwrap();
        let mut buffer = [0; 512];
        assert_eq!((unit.read(0, &mut buffer), unit.is_idle()), (Err(Errno::ENXIO), true));
        unit.acquire().unwrap();
        unit.acquire().unwrap();
        unit.release();
        unit.read(7, &mut buffer).unwrap();
        assert!(!unit.is_idle());
        unit.release();
        assert_eq!((unit.read(0, &mut buffer), opened.load(Ordering::Relaxed)), (Err(Errno::ENXIO), 1));
        sectors.store(0, Ordering::Relaxed);
        assert_eq!((unit.acquire(), unit.is_idle()), (Err(Errno::EAGAIN), true));
        sectors.store(16, Ordering::Relaxed);
        unit.acquire().unwrap();
        assert_eq!(unit.sectors(), 16);
    }
}
