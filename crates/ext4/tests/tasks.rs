//! Several tasks at once: handles, commits, group commit, and readers beside writers.
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::Errno;
use block::{BlockDevice, Durability, RamDisk};
use common::*;
use ext4::{Claim, Filesystem, MappingState, ROOT_INODE, RenameMode};

/// Counts flushes, each of which takes a moment.
struct SlowFlush {
    disk: RamDisk,
    flushes: AtomicU64,
}

impl BlockDevice for SlowFlush {
    fn sectors(&self) -> u64 {
        self.disk.sectors()
    }

    fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.disk.read(sector, buffer)
    }

    fn write(&self, sector: u64, data: &[u8], durability: Durability) -> Result<(), Errno> {
        self.disk.write(sector, data, durability)
    }

    fn flush(&self) -> Result<(), Errno> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(std::time::Duration::from_millis(2));
        self.disk.flush()
    }
}

#[test]
fn tasks_that_sync_together_share_commits_and_lose_nothing() {
    if !have_tools() {
        return;
    }
    let device = Arc::new(SlowFlush { disk: RamDisk::from_image(make_image(KINDS[4].1, 32 << 10, None)), flushes: AtomicU64::new(0) });
    let fs = Filesystem::mount(device.clone() as Arc<dyn BlockDevice>, options()).unwrap();
    let (tasks, rounds) = (8u64, 20u64);
    let before = device.flushes.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        for task in 0..tasks {
            let fs = &fs;
            scope.spawn(move || {
                let dir = fs.create(ROOT_INODE, format!("task {task}").as_bytes(), &directory()).unwrap().ino;
                for round in 0..rounds {
                    let name = format!("file {round}");
                    let ino = fs.create(dir, name.as_bytes(), &file(0o644)).unwrap().ino;
                    fs.write(ino, 0, &vec![task as u8 + 1; 3000 + round as usize * 500], NOW, Claim::Ordinary).unwrap();
                    fs.sync_inode(ino).unwrap();
                    if round % 3 == 2 {
                        let gone = fs
                            .rename((dir, name.as_bytes()), (dir, format!("file {}", round - 1).as_bytes()), RenameMode::Replace, NOW)
                            .unwrap();
                        fs.evict(gone.unwrap()).unwrap();
                    }
                }
            });
        }
    });
    let flushes = device.flushes.load(Ordering::Relaxed) - before;
    assert!(flushes < tasks * rounds, "{flushes} flushes for {} syncs", tasks * rounds);
    for task in 0..tasks {
        let dir = walk(&fs, &format!("task {task}"));
        for name in names(&fs, dir) {
            assert!(read_all(&fs, walk(&fs, &format!("task {task}/{name}"))).iter().all(|&b| b == task as u8 + 1));
        }
    }
    fs.unmount().unwrap();
    assert_clean(&device.disk.image(), "after all tasks");
}

#[test]
fn readers_beside_writers_see_whole_directories() {
    if !have_tools() {
        return;
    }
    let device = disk(make_image(KINDS[3].1, 32 << 10, None));
    let fs = mount(&device);
    let dir = fs.create(ROOT_INODE, b"d", &directory()).unwrap().ino;
    for i in 0..200 {
        fs.create(dir, format!("stays {i} {}", "s".repeat(100)).as_bytes(), &file(0o644)).unwrap();
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(names(&fs, dir).iter().filter(|n| n.starts_with("stays")).count(), 200);
                }
            });
        }
        for i in 0..600 {
            fs.create(dir, format!("comes {i} {}", "c".repeat(150)).as_bytes(), &file(0o644)).unwrap();
            if i % 50 == 0 {
                fs.commit().unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    fs.unmount().unwrap();
    assert_clean(&device.image(), "after all tasks");
}

#[test]
fn a_commit_waits_for_open_handles_and_takes_what_they_did() {
    if !have_tools() {
        return;
    }
    let device = disk(make_image(KINDS[3].1, 32 << 10, None));
    let fs = mount(&device);
    let ino = fs.create(ROOT_INODE, b"f", &file(0o644)).unwrap().ino;
    let committed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let handle = fs.begin(40).unwrap();
        scope.spawn(|| {
            fs.commit().unwrap();
            committed.store(true, Ordering::Release);
        });
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert!(!committed.load(Ordering::Acquire));
        // Ordered data: allocated and written inside one handle.
        let mapping = handle.allocate(ino, 0, 3, Claim::Ordinary, MappingState::Written).unwrap();
        device.write(mapping.physical * 8, &vec![6; 4096 * mapping.len as usize], Durability::Cached).unwrap();
        handle.set_size(ino, 4096 * mapping.len, NOW).unwrap();
    });
    assert!(committed.load(Ordering::Acquire));
    let after = mount(&disk(device.image()));
    let bytes = read_all(&after, walk(&after, "f"));
    assert!(!bytes.is_empty() && bytes.iter().all(|&b| b == 6));
}
