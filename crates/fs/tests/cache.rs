//! The page cache of a file that has a disk behind it, and memory running short.

mod common;

use abi::{Errno, PAGE_SIZE};
use ram::{Frame, Ram};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use vfs::{Mapper, PageCache, PageCaches, PageSource, Pages, ReadAhead, SliceSink, SliceSource};

const PAGE: usize = PAGE_SIZE;

/// A disk in a vector that counts what is asked of it.
struct Disk {
    bytes: Mutex<Vec<u8>>,
    reads: AtomicUsize,
    pages_read: AtomicUsize,
    writes: AtomicUsize,
    broken: AtomicBool,
}

impl PageSource for Disk {
    fn is_backed(&self) -> bool {
        true
    }
    fn read_pages(&self, first: u64, frames: &[Frame]) -> Result<(), Errno> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.pages_read.fetch_add(frames.len(), Ordering::Relaxed);
        if self.broken.load(Ordering::Relaxed) {
            return Err(Errno::EIO);
        }
        let bytes = self.bytes.lock().unwrap();
        for (at, frame) in frames.iter().enumerate() {
            let start = (first as usize + at) * PAGE;
            let part = bytes.get(start..bytes.len().min(start + PAGE)).unwrap_or_default();
            frame.write(0, part);
            frame.fill(part.len(), PAGE - part.len(), 0);
        }
        Ok(())
    }
    fn write_pages(&self, first: u64, frames: &[Frame]) -> Result<(), Errno> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        if self.broken.load(Ordering::Relaxed) {
            return Err(Errno::EIO);
        }
        let mut bytes = self.bytes.lock().unwrap();
        let end = (first as usize + frames.len()) * PAGE;
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        for (at, frame) in frames.iter().enumerate() {
            let start = (first as usize + at) * PAGE;
            frame.read(0, &mut bytes[start..start + PAGE]);
        }
        Ok(())
    }
    fn reserve(&self, _: u64, _: u64) -> Result<(), Errno> {
        Ok(())
    }
}

fn cached(ram: &'static Ram, len: usize) -> (Arc<Disk>, Arc<PageCache>) {
    let bytes = (0..len).map(|i| (i / 7 % 256) as u8).collect();
    let zero = || AtomicUsize::new(0);
    let disk =
        Arc::new(Disk { bytes: Mutex::new(bytes), reads: zero(), pages_read: zero(), writes: zero(), broken: AtomicBool::new(false) });
    let weak: Weak<Disk> = Arc::downgrade(&disk);
    let cache = PageCache::new(ram, weak, true, len as u64);
    (disk, cache)
}

fn read(cache: &PageCache, at: u64, len: usize, ahead: Option<&ReadAhead>) -> Vec<u8> {
    let mut buffer = vec![0; len];
    let n = cache.read(at, &mut SliceSink::new(&mut buffer), ahead).unwrap();
    buffer.truncate(n);
    buffer
}

#[test]
fn a_sequential_reader_asks_the_disk_in_ever_larger_pieces() {
    let (disk, cache) = cached(Ram::for_tests(16 << 20), 100 * PAGE + 5);
    let ahead = ReadAhead::default();
    let mut all = Vec::new();
    loop {
        let piece = read(&cache, all.len() as u64, 1000, Some(&ahead));
        if piece.is_empty() {
            break;
        }
        all.extend(piece);
    }
    assert_eq!(all, *disk.bytes.lock().unwrap());
    assert_eq!(disk.pages_read.load(Ordering::Relaxed), 101, "each page once");
    assert!(disk.reads.load(Ordering::Relaxed) <= 8, "{}", disk.reads.load(Ordering::Relaxed));
}

#[test]
fn what_is_written_reaches_the_disk_when_asked_and_not_beyond_the_end() {
    let (disk, cache) = cached(Ram::for_tests(16 << 20), 3 * PAGE);
    cache.write(100, &mut SliceSource::new(b"hello")).unwrap();
    cache.write(10 * PAGE as u64 + 7, &mut SliceSource::new(b"far")).unwrap();
    assert_eq!(disk.writes.load(Ordering::Relaxed), 0);
    assert_eq!(cache.dirty_pages(), 2);
    // A mapping stores beyond the end; that must not come out.
    cache.page(10, true).unwrap().write(500, b"junk");
    cache.sync().unwrap();
    assert_eq!(cache.dirty_pages(), 0);
    let on_disk = disk.bytes.lock().unwrap().clone();
    assert_eq!(&on_disk[100..105], b"hello");
    assert_eq!(&on_disk[10 * PAGE + 7..10 * PAGE + 10], b"far");
    assert!(on_disk[10 * PAGE + 10..].iter().all(|b| *b == 0));
    assert_eq!(read(&cache, 5 * PAGE as u64, 10, None), [0; 10]);
}

#[test]
fn a_page_that_could_not_be_written_stays_dirty_and_one_that_could_not_be_read_is_tried_again() {
    let (disk, cache) = cached(Ram::for_tests(16 << 20), 3 * PAGE);
    cache.write(0, &mut SliceSource::new(b"x")).unwrap();
    disk.broken.store(true, Ordering::Relaxed);
    assert_eq!(cache.sync().unwrap_err(), Errno::EIO);
    assert_eq!(cache.dirty_pages(), 1);
    let mut buffer = [0; 1];
    assert_eq!(cache.read(PAGE as u64, &mut SliceSink::new(&mut buffer), None).unwrap_err(), Errno::EIO);
    disk.broken.store(false, Ordering::Relaxed);
    assert_eq!(read(&cache, PAGE as u64, 1, None).len(), 1);
    cache.sync().unwrap();
    assert_eq!(cache.dirty_pages(), 0);
}

#[test]
fn truncation_unmaps_first_and_the_tail_reads_as_zeroes_afterwards() {
    struct Space(Mutex<Vec<(u64, u64)>>);
    impl Mapper for Space {
        fn unmap_object(&self, _: u64, first: u64, end: u64, _: bool) {
            self.0.lock().unwrap().push((first, end));
        }
        fn write_protect_object(&self, _: u64, _: u64, _: u64) {}
    }
    let (disk, cache) = cached(Ram::for_tests(16 << 20), 5 * PAGE);
    let space = Arc::new(Space(Mutex::default()));
    let weak: Weak<Space> = Arc::downgrade(&space);
    cache.register_mapper(weak);
    let _mapped = cache.page(3, false).unwrap();
    cache.truncate(PAGE as u64 + 10).unwrap();
    assert_eq!(space.0.lock().unwrap()[0], (2, u64::MAX));
    assert_eq!(cache.page(2, false).unwrap_err(), Errno::ENXIO);
    disk.bytes.lock().unwrap().truncate(2 * PAGE);
    cache.truncate(4 * PAGE as u64).unwrap();
    assert!(read(&cache, PAGE as u64 + 10, PAGE, None).iter().all(|b| *b == 0));
    cache.punch(5, PAGE as u64 + 3).unwrap();
    assert!(read(&cache, 5, PAGE - 2, None).iter().all(|b| *b == 0));
}

#[test]
fn clean_pages_make_room_when_frames_run_out_and_dirty_or_used_ones_stay() {
    let ram = Ram::for_tests(256 * PAGE);
    let caches = PageCaches::new(ram);
    let (_disk, cache) = cached(ram, 200 * PAGE);
    caches.add(&cache);
    read(&cache, 0, 200 * PAGE, None);
    cache.write(0, &mut SliceSource::new(b"dirty")).unwrap();
    let used = cache.page(1, false).unwrap();
    let mut frames = Vec::new();
    while let Ok(frame) = ram.alloc() {
        frames.push(frame);
    }
    assert!(frames.len() > 220, "{}", frames.len());
    assert_eq!(cache.cached_pages(), 2);
    drop(frames);
    assert_eq!(&read(&cache, 0, 5, None), b"dirty");
    drop(used);
    assert_eq!(caches.stats(), (1, cache.cached_pages()));
}

#[test]
fn many_readers_of_one_missing_page_get_one_frame() {
    let (disk, cache) = cached(Ram::for_tests(16 << 20), 64 * PAGE);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for page in 0..64 {
                    let frame = cache.page(page, false).unwrap();
                    assert_eq!(frame.pfn(), cache.page(page, false).unwrap().pfn());
                }
            });
        }
    });
    assert_eq!(disk.pages_read.load(Ordering::Relaxed), 64);
}

#[test]
fn a_machine_with_little_memory_answers_enomem_or_forgets_names_but_goes_on() {
    let m = common::Machine::with_ram(2 << 20);
    let mut made = 0;
    let error = loop {
        match m.write(&format!("/f{made}"), b"x") {
            Ok(()) => made += 1,
            Err(errno) => break errno,
        }
    };
    assert!(matches!(error, Errno::ENOMEM | Errno::ENOSPC), "{error:?}");
    assert!(made > 100, "{made}");
    for i in 0..made {
        m.unlink(&format!("/f{i}")).unwrap();
    }
    for i in 0..100_000 {
        assert_eq!(m.stat(&format!("/absent{i}")).unwrap_err(), Errno::ENOENT);
    }
    assert!(m.vfs.dentries().len() < 3000, "{}", m.vfs.dentries().len());
    m.write("/again", b"y").unwrap();
}

#[test]
fn a_disk_is_a_file_with_a_cache_and_an_end() {
    use block::BlockDevice;
    use vfs::{DeviceInfo, DeviceKind, DeviceNumber, FileKind, OpenFlags, PathAt, SyncKind, Whence};
    let m = common::Machine::new();
    let disk = Arc::new(block::RamDisk::new(19));
    let dev = fs::blockdev::BlockDev::new(m.vfs.ram(), &m.vfs.page_caches, disk.clone());
    let number = DeviceNumber::new(98, 0);
    m.vfs.devices.add(DeviceInfo::block(number, "ubda", 0o660, dev)).unwrap();
    m.caller().mknod(PathAt::cwd(b"/ubda"), FileKind::BlockDevice, 0o600, number).unwrap();
    let file = m.open("/ubda", OpenFlags::RDWR).unwrap();
    assert_eq!(file.seek(0, Whence::End).unwrap(), 19 * 512);
    assert_eq!(common::write(&file, b"x").unwrap_err().errno(), Errno::ENOSPC);
    assert_eq!(file.write_at(19 * 512 - 3, &mut SliceSource::new(b"hello")).unwrap(), 3);
    let mut sector = [0; 512];
    disk.read(18, &mut sector).unwrap();
    assert_eq!(sector[509..], [0; 3]);
    file.fsync(0, u64::MAX, SyncKind::All).unwrap();
    disk.read(18, &mut sector).unwrap();
    assert_eq!(&sector[509..], b"hel");
    let info = m.vfs.devices.get(DeviceKind::Block, number).unwrap();
    let again = fs::blockdev::BlockDev::of(&info).unwrap();
    disk.write(0, &[7; 512], block::Durability::Cached).unwrap();
    again.invalidate().unwrap();
    let mut buffer = [0; 4];
    file.read_at(0, &mut SliceSink::new(&mut buffer)).unwrap();
    assert_eq!(buffer, [7; 4]);
}
