//! No crash loses a flushed write or shows content that was never there.
//!
//! A model keeps, for every sector, what a reader may see after a crash: the value at the last flush and every value written since. Random
//! work runs on a device whose COW file records each change. Then the host fails at every change, with every suffix of what was not
//! synced lost, and with random parts of it lost or torn; each resulting file must show only what the model allows. Then work goes on
//! upon one of the survivors.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use block::{BlockDevice, Durability};
use common::{Fate, Random, Recorded, scaled};
use cow::device::Access;
use cow::{Device, Header, MemoryStorage, Storage, Version};

const SECTORS: u64 = 40;
type Stamp = u64;
type Allowed = Vec<Vec<Stamp>>;

fn stamped(stamp: Stamp) -> [u8; 512] {
    let mut sector = [0; 512];
    sector.chunks_mut(8).for_each(|word| word.copy_from_slice(&stamp.to_le_bytes()));
    sector
}

/// The stamp of a sector, or `u64::MAX` for one that is torn.
fn stamp_of(sector: &[u8]) -> Stamp {
    let first = u64::from_le_bytes(*sector.first_chunk().unwrap());
    if sector == stamped(first) { first } else { u64::MAX }
}

fn read_all(device: &impl BlockDevice) -> Vec<Stamp> {
    let mut bytes = vec![0; SECTORS as usize * 512];
    device.read(0, &mut bytes).unwrap();
    bytes.chunks(512).map(stamp_of).collect()
}

struct Run {
    /// After each device operation: how many changes of the file it took to get there, and what may be seen.
    states: Vec<(usize, Allowed)>,
}

impl Run {
    /// What may be seen when the host fails after `at` changes of the file.
    fn allowed(&self, at: usize) -> Allowed {
        let done = self.states.iter().rposition(|(changes, _)| *changes <= at).unwrap();
        let mut allowed = self.states[done].1.clone();
        if let Some((_, next)) = self.states.get(done + 1) {
            allowed.iter_mut().zip(next).for_each(|(now, next)| now.extend(next));
        }
        allowed
    }
}

fn work(random: &mut Random, file: &Recorded, header: &Header, backing: &MemoryStorage, next_stamp: &mut Stamp) -> Run {
    let device = Device::new(file, header, backing, Access::ReadWrite).unwrap();
    let mut allowed: Allowed = read_all(&device).into_iter().map(|stamp| vec![stamp]).collect();
    let mut states = vec![(file.changes(), allowed.clone())];
    for _ in 0..6 + random.below(10) {
        let start = random.below(SECTORS);
        let count = 1 + random.below((SECTORS - start).min(6));
        let range = start as usize..(start + count) as usize;
        match random.below(10) {
            kind @ 0..=5 => {
                let durability = if kind == 0 { Durability::ForceUnitAccess } else { Durability::Cached };
                let mut data = Vec::new();
                for stamps in &mut allowed[range.clone()] {
                    *next_stamp += 1;
                    data.extend(stamped(*next_stamp));
                    stamps.push(*next_stamp);
                }
                device.write(start, &data, durability).unwrap();
                if kind == 0 {
                    allowed[range].iter_mut().for_each(|stamps| *stamps = stamps.split_off(stamps.len() - 1));
                }
            }
            6 => {
                device.write_zeroes(start, count).unwrap();
                allowed[range].iter_mut().for_each(|stamps| stamps.push(0));
            }
            7 => {
                let _ = device.discard(start, count);
                let now = read_all(&device);
                allowed.iter_mut().zip(now).for_each(|(stamps, now)| stamps.push(now));
            }
            _ => {
                device.flush().unwrap();
                allowed.iter_mut().for_each(|stamps| *stamps = stamps.split_off(stamps.len() - 1));
            }
        }
        let now = read_all(&device);
        assert!(now.iter().zip(&allowed).all(|(now, stamps)| stamps.last() == Some(now)), "reads before any crash");
        states.push((file.changes(), allowed.clone()));
    }
    Run { states }
}

/// The first sector that shows what it must not.
fn violation(image: &[u8], header: &Header, backing: &MemoryStorage, allowed: &Allowed) -> Option<String> {
    let file = MemoryStorage::new(image.to_vec());
    assert_eq!(&Header::read(&file).unwrap(), header);
    let device = Device::new(&file, header, backing, Access::ReadOnly).unwrap();
    let seen = read_all(&device);
    let bad = (0..SECTORS as usize).find(|&sector| !allowed[sector].contains(&seen[sector]))?;
    Some(format!("sector {bad} shows {:#x}, allowed {:x?}", seen[bad], allowed[bad]))
}

/// Every crash of one run; the first violation.
fn sweep(random: &mut Random, run: &Run, file: &Recorded, header: &Header, backing: &MemoryStorage) -> Option<String> {
    for at in 0..=file.changes() {
        let allowed = run.allowed(at);
        let mut undurable = 0;
        file.crash(at, |_| {
            undurable += 1;
            Fate::Lost
        });
        for kept in 0..=undurable {
            let mut seen = 0;
            let image = file.crash(at, |_| {
                seen += 1;
                if seen <= kept { Fate::Whole } else { Fate::Lost }
            });
            if let Some(what) = violation(&image, header, backing, &allowed) {
                return Some(format!("after {at} changes keeping {kept} of {undurable}: {what}"));
            }
        }
        for _ in 0..3 {
            let image = file.crash(at, |_| match random.below(3) {
                0 => Fate::Whole,
                1 => Fate::Lost,
                _ => Fate::Torn(512 * random.below(7) as usize),
            });
            if let Some(what) = violation(&image, header, backing, &allowed) {
                return Some(format!("after {at} changes with random loss: {what}"));
            }
        }
    }
    None
}

fn start(version: Version) -> (Header, MemoryStorage, Vec<u8>) {
    let backing: Vec<u8> = (0..SECTORS).flat_map(|sector| stamped(0xbac0_0000 + sector)).collect();
    let alignment = if version.number() == 3 { 4096 } else { 512 };
    let header = Header { version, alignment, ..Header::new(b"/backing".to_vec(), SECTORS * 512, 5) };
    let file = MemoryStorage::default();
    header.create(&file).unwrap();
    (header, MemoryStorage::new(backing), file.image())
}

#[test]
fn no_crash_at_any_change_loses_a_flushed_write_or_shows_what_was_never_there() {
    for seed in 0..scaled(100, 10_000) {
        let mut random = Random::new(seed);
        let version = [Version::V3, Version::V2, Version::V1Little, Version::V3Broken][random.below(4) as usize];
        let (header, backing, mut image) = start(version);
        let mut next_stamp = 0;
        for life in 0..4 {
            let mut file = Recorded::new(image);
            file.can_punch = random.below(3) > 0;
            let run = work(&mut random, &file, &header, &backing, &mut next_stamp);
            if let Some(what) = sweep(&mut random, &run, &file, &header, &backing) {
                panic!("seed {seed}, life {life}, {version:?}: {what}");
            }
            let at = random.below(file.changes() as u64 + 1) as usize;
            image = file.crash(at, |_| if random.below(2) == 0 { Fate::Whole } else { Fate::Lost });
        }
    }
}

/// The classic mistake is to write the bitmap without having synced the data first. The sweep must see it.
#[test]
fn the_sweep_catches_a_device_that_does_not_sync_data_before_its_bits() {
    let caught = (0..20).any(|seed| {
        let mut random = Random::new(seed);
        let (header, backing, image) = start(Version::V3);
        let mut file = Recorded::new(image);
        file.forget_syncs_after_data_from = Some(header.layout().unwrap().data_offset);
        let run = work(&mut random, &file, &header, &backing, &mut 0);
        sweep(&mut random, &run, &file, &header, &backing).is_some()
    });
    assert!(caught);
}

#[test]
fn a_flush_during_writes_of_other_threads_keeps_every_write_that_came_before_it() {
    let (header, backing, image) = start(Version::V3);
    let file = Recorded::new(image);
    let device = Device::new(&file, &header, &backing, Access::ReadWrite).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (device, file, header, backing) = (&device, &file, &header, &backing);
            scope.spawn(move || {
                for round in 1..=scaled(40, 2_000) {
                    let sector = thread * 10 + round % 10;
                    device.write(sector, &stamped(round), Durability::Cached).unwrap();
                    device.flush().unwrap();
                    if round % 10 == 0 {
                        let image = MemoryStorage::new(file.crash(file.changes(), |_| Fate::Lost));
                        let after = Device::new(&image, header, backing, Access::ReadOnly).unwrap();
                        assert_eq!(read_all(&after)[sector as usize], round);
                    }
                }
            });
        }
    });
}

/// A file whose first sync waits until it is let go.
struct SlowSync {
    file: MemoryStorage,
    syncs: AtomicU32,
    go: AtomicBool,
}

impl Storage for SlowSync {
    fn len_bytes(&self) -> Result<u64, abi::Errno> {
        self.file.len_bytes()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, abi::Errno> {
        self.file.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), abi::Errno> {
        self.file.write_at(offset, data)
    }
    fn sync(&self) -> Result<(), abi::Errno> {
        if self.syncs.fetch_add(1, Ordering::SeqCst) == 0 {
            while !self.go.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
        Ok(())
    }
}

#[test]
fn a_flush_waits_for_another_that_has_its_bits_in_hand() {
    let (header, backing, image) = start(Version::V3);
    let file = SlowSync { file: MemoryStorage::new(image), syncs: AtomicU32::new(0), go: AtomicBool::new(false) };
    let device = Device::new(&file, &header, &backing, Access::ReadWrite).unwrap();
    device.write(0, &stamped(1), Durability::Cached).unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| device.flush().unwrap());
        while file.syncs.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        let second = scope.spawn(|| device.flush().unwrap());
        std::thread::sleep(std::time::Duration::from_millis(30));
        let too_early = second.is_finished();
        file.go.store(true, Ordering::SeqCst);
        first.join().unwrap();
        second.join().unwrap();
        assert!(!too_early, "its bits were not on disk");
    });
}
