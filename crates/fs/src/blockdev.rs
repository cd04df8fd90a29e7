//! Block devices as files: `/dev/ubda` and its like, with a page cache over any [`block::BlockDevice`]. sd(4), `linux/fs.h` for the ioctls.
//!
//! What it is not: partitions or drivers. A file system that mounts the device takes the [`block::BlockDevice`] itself ([`BlockDev::of`]), past
//! this cache, and [`BlockDev::invalidate`]s it.

use abi::{Errno, PAGE_SIZE, SysResult};
use block::statistics::Statistics;
use block::{BlockDevice, Counted, Durability, SECTOR_SIZE};
use ram::{Frame, Ram};
use std::any::Any;
use std::sync::{Arc, Weak};
use sync::{Mutex, Rank};
use vfs::{
    Capability, Device, DeviceInfo, FileOps, IoctlCaller, MapRequest, Open, OpenFile, OpenFlags, PageCache, PageCaches, PageSource, Pages,
    ReadAhead, Sink, Source, SyncKind, Whence,
};

const BLKROGET: u32 = 0x125e;
const BLKRRPART: u32 = 0x125f;
const BLKGETSIZE: u32 = 0x1260;
const BLKFLSBUF: u32 = 0x1261;
const BLKRASET: u32 = 0x1262;
const BLKRAGET: u32 = 0x1263;
const BLKSSZGET: u32 = 0x1268;
const BLKBSZGET: u32 = 0x8008_1270;
const BLKBSZSET: u32 = 0x4008_1271;
const BLKGETSIZE64: u32 = 0x8008_1272;
const BLKDISCARD: u32 = 0x1277;
const BLKSECTGET: u32 = 0x1267;
const BLKDISCARDZEROES: u32 = 0x127c;
const BLKIOMIN: u32 = 0x1278;
const BLKIOOPT: u32 = 0x1279;
const BLKALIGNOFF: u32 = 0x127a;
const BLKPBSZGET: u32 = 0x127b;
const BLKROTATIONAL: u32 = 0x127e;
const BLKZEROOUT: u32 = 0x127f;

/// Bytes of one request past the cache.
const DIRECT_BYTES: usize = 128 << 10;
const SECTORS_PER_PAGE: u64 = (PAGE_SIZE / SECTOR_SIZE) as u64;

/// What a device's driver knows of it beyond reading and writing.
pub trait DiskControl: Send + Sync {
    /// Reads the partition table again (`BLKRRPART`). EBUSY while a partition is used, EINVAL for what is a partition itself.
    fn reread_partitions(&self) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }
    /// What only this driver answers; ENOTTY for what it does not know.
    fn ioctl(&self, caller: &IoctlCaller<'_>, command: u32, argument: u64) -> Result<i64, Errno> {
        let _ = (caller, command, argument);
        Err(Errno::ENOTTY)
    }
}

/// A device whose driver knows no more.
struct Plain;

impl DiskControl for Plain {}

/// What a device is beside its sectors.
pub struct About {
    pub control: Box<dyn DiskControl>,
    /// For a partition: its number, and its first sector on the disk.
    pub partition: Option<(u32, u64)>,
    /// `/sys/block/*/serial`.
    pub serial: Option<String>,
    /// Most bytes that one discard may have, as `/sys/block/*/queue` shows it; 0 where it can't.
    pub discard_bytes: u64,
}

impl Default for About {
    fn default() -> About {
        About { control: Box::new(Plain), partition: None, serial: None, discard_bytes: 0 }
    }
}

/// A user of a block device: an open file, a mount, swap. While there is one the device can't be taken away; when the last one goes, what is cached
/// is written back and forgotten.
pub struct Hold {
    dev: Arc<BlockDev>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.dev.let_go();
    }
}

/// A block device with its page cache. Register it with [`vfs::Devices::add`].
pub struct BlockDev {
    disk: Arc<dyn BlockDevice>,
    /// The same.
    counted: Arc<Counted>,
    about: About,
    cache: Arc<PageCache>,
    users: Mutex<usize>,
    /// Keeps writers apart.
    writers: Mutex<()>,
    this: Weak<BlockDev>,
}

impl BlockDev {
    /// A file over `disk`.
    #[must_use]
    pub fn new(ram: &'static Ram, caches: &PageCaches, disk: Arc<dyn BlockDevice>) -> Arc<BlockDev> {
        BlockDev::with(ram, caches, disk, About::default())
    }
    /// The same with more to say about it.
    #[must_use]
    pub fn with(ram: &'static Ram, caches: &PageCaches, disk: Arc<dyn BlockDevice>, about: About) -> Arc<BlockDev> {
        let counted = Arc::new(Counted::new(disk));
        let disk: Arc<dyn BlockDevice> = counted.clone();
        let dev = Arc::new_cyclic(|this: &Weak<BlockDev>| {
            let source: Weak<dyn PageSource> = this.clone();
            let cache = PageCache::new(ram, source, true, disk.sectors() * SECTOR_SIZE as u64);
            let (users, writers) = (Mutex::ranked(Rank::Inode, 0), Mutex::ranked(Rank::Inode, ()));
            BlockDev { disk, counted, about, cache, users, writers, this: this.clone() }
        });
        caches.add(&dev.cache);
        dev
    }
    /// The block device behind a device of the registry; `None` if it is not one of ours.
    #[must_use]
    pub fn of(info: &DeviceInfo) -> Option<Arc<BlockDev>> {
        info.device.as_any()?.downcast_ref::<BlockDev>()?.this.upgrade()
    }
    /// What it is beside its sectors.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.about
    }
    /// What was done to it.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.counted.statistics()
    }
    /// Counts one more user. What the device answers when it can't be made ready.
    pub fn hold(&self) -> Result<Hold, Errno> {
        let dev = self.this.upgrade().ok_or(Errno::ENXIO)?;
        let mut users = self.users.lock();
        if *users == 0 {
            self.disk.acquire()?;
        }
        *users += 1;
        Ok(Hold { dev: dev.clone() })
    }
    fn let_go(&self) {
        let mut users = self.users.lock();
        if *users == 1 {
            // Nobody is left to tell of an error.
            let _ = self.invalidate();
            self.disk.release();
        }
        *users = users.saturating_sub(1);
    }
    /// Whether somebody uses it.
    #[must_use]
    pub fn is_held(&self) -> bool {
        *self.users.lock() > 0
    }
    /// The disk itself.
    #[must_use]
    pub fn disk(&self) -> &Arc<dyn BlockDevice> {
        &self.disk
    }
    /// Writes back and forgets what is cached: before a file system takes the disk, and after it gives it back.
    pub fn invalidate(&self) -> Result<(), Errno> {
        let written = if self.disk.is_read_only() { Ok(()) } else { self.sync() };
        self.cache.invalidate(0, u64::MAX);
        written
    }
    fn sync(&self) -> Result<(), Errno> {
        self.cache.sync()?;
        self.disk.flush()
    }
    /// Size now, the cache told of it: a disk may have grown.
    fn size_bytes(&self) -> Result<u64, Errno> {
        let size = self.disk.sectors() * SECTOR_SIZE as u64;
        if size != self.cache.size_bytes() {
            self.cache.truncate(size)?;
        }
        Ok(size)
    }

    /// Bytes of the page at `index` that lie on the disk.
    fn on_disk(&self, index: u64) -> usize {
        let sectors = self.disk.sectors().saturating_sub(index * SECTORS_PER_PAGE).min(SECTORS_PER_PAGE);
        sectors as usize * SECTOR_SIZE
    }
    /// Runs `copy(first sector, buffer)` over pages, several at a time.
    fn pieces(
        &self,
        first: u64,
        frames: &[Frame],
        mut act: impl FnMut(u64, &mut [u8], &[Frame]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        const PAGES: usize = 32;
        let mut buffer = vec![0; PAGES.min(frames.len()) * PAGE_SIZE];
        for (at, piece) in frames.chunks(PAGES).enumerate() {
            let start = first + (at * PAGES) as u64;
            let len: usize = (start..start + piece.len() as u64).map(|index| self.on_disk(index)).sum();
            act(start * SECTORS_PER_PAGE, buffer.get_mut(..len).unwrap_or_default(), piece)?;
        }
        Ok(())
    }

    fn range(&self, caller: &IoctlCaller<'_>, argument: u64) -> Result<(u64, u64), Errno> {
        let mut words = [0; 16];
        caller.memory.read_exact(argument, &mut words)?;
        let (start, len) = words.split_at(8);
        let word = |bytes: &[u8]| bytes.try_into().map(u64::from_ne_bytes).unwrap_or(0);
        let (start, len) = (word(start), word(len));
        let sector = SECTOR_SIZE as u64;
        let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
        if start % sector != 0 || len % sector != 0 || end > self.size_bytes()? {
            return Err(Errno::EINVAL);
        }
        self.cache.punch(start, end)?;
        Ok((start / sector, len / sector))
    }
}

impl PageSource for BlockDev {
    fn is_backed(&self) -> bool {
        true
    }
    fn read_pages(&self, first: u64, frames: &[Frame]) -> Result<(), Errno> {
        self.pieces(first, frames, |sector, buffer, piece| {
            self.disk.read(sector, buffer)?;
            let mut pages = buffer.chunks(PAGE_SIZE);
            for frame in piece {
                let data = pages.next().unwrap_or_default();
                frame.write(0, data);
                frame.fill(data.len(), PAGE_SIZE - data.len(), 0);
            }
            Ok(())
        })
    }
    fn write_pages(&self, first: u64, frames: &[Frame]) -> Result<(), Errno> {
        self.pieces(first, frames, |sector, buffer, piece| {
            for (frame, part) in piece.iter().zip(buffer.chunks_mut(PAGE_SIZE)) {
                frame.read(0, part);
            }
            self.disk.write(sector, buffer, Durability::Cached)
        })
    }
    fn reserve(&self, _: u64, _: u64) -> Result<(), Errno> {
        if self.disk.is_read_only() { Err(Errno::EROFS) } else { Ok(()) }
    }
}

impl Device for BlockDev {
    fn open(&self, open: &Open<'_>) -> SysResult<Arc<dyn FileOps>> {
        let hold = self.hold()?;
        if open.flags.can_write() && self.disk.is_read_only() {
            return Err(Errno::EROFS.into());
        }
        self.size_bytes()?;
        Ok(Arc::new(OpenBlockDev { dev: hold.dev.clone(), _hold: hold, ahead: ReadAhead::default() }))
    }
    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

struct OpenBlockDev {
    dev: Arc<BlockDev>,
    _hold: Hold,
    ahead: ReadAhead,
}

impl OpenBlockDev {
    /// Refuses what `O_DIRECT` refuses: all but whole sectors.
    fn check_direct(position: u64, len: usize) -> Result<(), Errno> {
        let whole = position.is_multiple_of(SECTOR_SIZE as u64) && len.is_multiple_of(SECTOR_SIZE);
        if whole { Ok(()) } else { Err(Errno::EINVAL) }
    }
    /// Reads past the cache, which is written back first.
    fn read_direct(&self, position: u64, sink: &mut dyn Sink) -> SysResult<usize> {
        let wanted = sink.room();
        Self::check_direct(position, wanted)?;
        let room = self.dev.size_bytes()?.saturating_sub(position);
        let len = wanted.min(usize::try_from(room).unwrap_or(usize::MAX));
        let pages = |bytes: u64| bytes / PAGE_SIZE as u64;
        self.dev.cache.write_back(pages(position), pages(position + len as u64 + PAGE_SIZE as u64 - 1))?;
        let mut buffer = vec![0; len.min(DIRECT_BYTES)];
        let mut done = 0;
        while done < len {
            let part = buffer.get_mut(..DIRECT_BYTES.min(len - done)).unwrap_or_default();
            self.dev.disk.read((position + done as u64) / SECTOR_SIZE as u64, part)?;
            let taken = sink.put(part)?;
            done += taken;
            if taken < part.len() {
                break;
            }
        }
        Ok(done)
    }
    /// Writes past the cache, which forgets what it had there.
    fn write_direct(&self, position: u64, source: &mut dyn Source, room: usize) -> SysResult<usize> {
        let len = source.left().min(room);
        Self::check_direct(position, source.left())?;
        let _writers = self.dev.writers.lock();
        let mut buffer = vec![0; len.min(DIRECT_BYTES)];
        let mut done = 0;
        while done < len {
            let part = buffer.get_mut(..DIRECT_BYTES.min(len - done)).unwrap_or_default();
            let taken = source.take(part)?;
            let whole = taken / SECTOR_SIZE * SECTOR_SIZE;
            let at = position + done as u64;
            self.dev.cache.write_back(at / PAGE_SIZE as u64, (at + whole as u64).div_ceil(PAGE_SIZE as u64))?;
            self.dev.disk.write(at / SECTOR_SIZE as u64, part.get(..whole).unwrap_or_default(), Durability::Cached)?;
            self.dev.cache.invalidate(at / PAGE_SIZE as u64, (at + whole as u64).div_ceil(PAGE_SIZE as u64));
            done += whole;
            if whole < part.len() {
                break;
            }
        }
        Ok(done)
    }
}

impl FileOps for OpenBlockDev {
    fn read(&self, file: &OpenFile, position: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        if file.flags().contains(OpenFlags::DIRECT) {
            let len = self.read_direct(*position, sink)?;
            *position += len as u64;
            return Ok(len);
        }
        let len = self.dev.cache.read(*position, sink, Some(&self.ahead))?;
        *position += len as u64;
        Ok(len)
    }
    fn write(&self, file: &OpenFile, position: &mut u64, source: &mut dyn Source) -> SysResult<usize> {
        let size = self.dev.cache.size_bytes();
        if file.flags().contains(OpenFlags::APPEND) {
            *position = size;
        }
        let room = usize::try_from(size.saturating_sub(*position)).unwrap_or(usize::MAX);
        if room == 0 && source.left() > 0 {
            return Err(Errno::ENOSPC.into());
        }
        let len = if file.flags().contains(OpenFlags::DIRECT) {
            self.write_direct(*position, source, room)?
        } else {
            let _writers = self.dev.writers.lock();
            self.dev.cache.write(*position, &mut vfs::FirstBytes::new(source, room))?
        };
        *position += len as u64;
        self.dev.cache.balance();
        Ok(len)
    }
    fn seek(&self, _: &OpenFile, current: u64, offset: i64, whence: Whence) -> SysResult<u64> {
        let base = match whence {
            Whence::Set => 0,
            Whence::Current => current,
            Whence::End => self.dev.size_bytes()?,
            Whence::Data | Whence::Hole => return Err(Errno::EINVAL.into()),
        };
        Ok(base.checked_add_signed(offset).filter(|at| i64::try_from(*at).is_ok()).ok_or(Errno::EINVAL)?)
    }
    fn mmap(&self, _: &OpenFile, _: &MapRequest) -> SysResult<Arc<dyn Pages>> {
        Ok(self.dev.cache.clone())
    }
    fn fsync(&self, _: &OpenFile, _: u64, _: u64, _: SyncKind) -> SysResult<()> {
        Ok(self.dev.sync()?)
    }
    fn ioctl(&self, file: &OpenFile, caller: &IoctlCaller<'_>, command: u32, argument: u64) -> SysResult<i64> {
        let (dev, disk) = (&self.dev, &self.dev.disk);
        let int = |value: usize| caller.memory.write_all(argument, &(value as u32).to_ne_bytes());
        let long = |value: u64| caller.memory.write_all(argument, &value.to_ne_bytes());
        match command {
            BLKROGET => int(usize::from(disk.is_read_only()))?,
            BLKGETSIZE => long(dev.size_bytes()? / SECTOR_SIZE as u64)?,
            BLKGETSIZE64 => long(dev.size_bytes()?)?,
            BLKSSZGET | BLKPBSZGET | BLKIOMIN => int(disk.logical_block_size())?,
            BLKBSZGET => long(PAGE_SIZE as u64)?,
            BLKRAGET => long(256)?,
            BLKIOOPT | BLKALIGNOFF | BLKDISCARDZEROES => int(0)?,
            BLKSECTGET => caller.memory.write_all(argument, &((DIRECT_BYTES / SECTOR_SIZE) as u16).to_ne_bytes())?,
            BLKROTATIONAL => caller.memory.write_all(argument, &0u16.to_ne_bytes())?,
            BLKBSZSET | BLKRASET => caller.credentials.require(Capability::SYS_ADMIN).map_err(|_| Errno::EACCES)?,
            BLKFLSBUF => {
                caller.credentials.require(Capability::SYS_ADMIN).map_err(|_| Errno::EACCES)?;
                dev.invalidate()?;
            }
            BLKDISCARD | BLKZEROOUT if !file.flags().can_write() => return Err(Errno::EBADF.into()),
            BLKDISCARD => {
                let (sector, sectors) = dev.range(caller, argument)?;
                disk.discard(sector, sectors)?;
            }
            BLKZEROOUT => {
                let (sector, sectors) = dev.range(caller, argument)?;
                disk.write_zeroes(sector, sectors)?;
            }
            BLKRRPART => {
                caller.credentials.require(Capability::SYS_ADMIN).map_err(|_| Errno::EACCES)?;
                dev.sync()?;
                dev.disk.look_again()?;
                dev.size_bytes()?;
                dev.about.control.reread_partitions()?;
            }
            _ => return Ok(dev.about.control.ioctl(caller, command, argument)?),
        }
        Ok(0)
    }
    fn release(&self, file: &OpenFile) {
        if file.flags().can_write() {
            // Nobody is left to tell of an error; the pages stay dirty and are tried again.
            let _ = self.dev.sync();
        }
    }
}
