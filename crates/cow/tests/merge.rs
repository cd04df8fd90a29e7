//! Merged files equal the device, sector by sector.

mod common;

use abi::Errno;
use block::{BlockDevice, Durability};
use common::{Random, scaled};
use cow::device::Access;
use cow::merge::{self, MergeError, Zeroes};
use cow::{Device, Header, MemoryStorage, Storage};

/// A device with random holes and data on both sides, and its content.
fn random_device(seed: u64) -> (Header, MemoryStorage, MemoryStorage, Vec<u8>) {
    let mut random = Random::new(seed);
    let size = match random.below(3) {
        0 => random.below(3) * 512,
        1 => 1 + random.below(3000),
        _ => 512 * 1200 + random.below(1024),
    };
    let mut backing = vec![0; size as usize];
    for _ in 0..random.below(5) * size.min(1) {
        let at = random.below(size) as usize;
        let end = (at + random.below(5000) as usize).min(backing.len());
        backing[at..end].fill(random.next() as u8);
    }
    let header = Header::new(b"/b".to_vec(), size, 1);
    let (file, backing) = (MemoryStorage::default(), MemoryStorage::new(backing));
    header.create(&file).unwrap();
    let device = Device::new(&file, &header, &backing, Access::ReadWrite).unwrap();
    for _ in 0..random.below(20) * size.min(1) {
        let at = random.below(device.sectors());
        let count = 1 + random.below((device.sectors() - at).min(30));
        let data = vec![random.next() as u8 * random.below(2) as u8; count as usize * 512];
        device.write(at, &data, Durability::Cached).unwrap();
    }
    device.flush().unwrap();
    let mut content = vec![0; device.sectors() as usize * 512];
    device.read(0, &mut content).unwrap();
    drop(device);
    (header, file, backing, content)
}

#[test]
fn a_merged_copy_equals_the_device_and_leaves_both_files_alone() {
    for seed in 0..scaled(60, 6_000) {
        let (header, file, backing, content) = random_device(seed);
        let before = (file.image(), backing.image());
        let output = MemoryStorage::default();
        let device = Device::new(&file, &header, &backing, Access::ReadOnly).unwrap();
        merge::copy(&device, &output, Zeroes::LeaveHoles).unwrap();
        assert!(output.image() == content, "seed {seed}");
        let disk = MemoryStorage::new(vec![0xee; content.len()]);
        merge::copy(&device, &disk, Zeroes::Write).unwrap();
        assert!(disk.image() == content, "seed {seed}");
        assert!((file.image(), backing.image()) == before, "seed {seed}");
    }
}

#[test]
fn a_merge_in_place_makes_the_backing_file_equal_to_the_device() {
    for seed in 0..scaled(60, 6_000) {
        let (header, file, backing, content) = random_device(seed);
        let device = Device::new(&file, &header, &backing, Access::ReadOnly).unwrap();
        merge::in_place(&device, &backing).unwrap();
        let mut merged = backing.image();
        assert!(merged.len() as u64 >= header.size);
        merged.resize(content.len(), 0);
        assert!(merged == content, "seed {seed}");
    }
}

/// A file whose room is used up at some length.
struct Full(MemoryStorage, u64);

impl Storage for Full {
    fn len_bytes(&self) -> Result<u64, Errno> {
        self.0.len_bytes()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        if offset + data.len() as u64 > self.1 { Err(Errno::ENOSPC) } else { self.0.write_at(offset, data) }
    }
    fn sync(&self) -> Result<(), Errno> {
        Ok(())
    }
}

#[test]
fn a_full_host_is_reported_with_the_place() {
    let header = Header::new(b"/b".to_vec(), 1 << 20, 1);
    let (file, backing) = (MemoryStorage::default(), MemoryStorage::new(vec![1; 1 << 20]));
    header.create(&file).unwrap();
    let device = Device::new(&file, &header, &backing, Access::ReadOnly).unwrap();
    let output = Full(MemoryStorage::default(), 600_000);
    assert_eq!(merge::copy(&device, &output, Zeroes::LeaveHoles), Err(MergeError::Write(512 * 1024, Errno::ENOSPC)));
}
