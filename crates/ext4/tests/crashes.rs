//! Power failures at every moment: after replay the image is clean, and everything that fsync promised is there.
mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use block::{BlockDevice, FaultyDisk, Kept};
use common::*;
use ext4::{Claim, Error, Event, Fallocate, Filesystem, ROOT_INODE, RenameMode};

/// What fsync promised: names in the root, and their content.
struct Promise {
    /// Operations of the disk when it was given.
    at: usize,
    files: BTreeMap<String, Vec<u8>>,
    /// Names that were changed before the next promise: a crash may show them before or after.
    touched: BTreeSet<String>,
}

fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..len).map(|_| random.next() as u8 | 1).collect()
}

/// A day in the life of a small file system, with a promise after each fsync.
fn live(fs: &Filesystem, disk: &FaultyDisk, seed: u64, steps: u64) -> Vec<Promise> {
    let mut random = Random::new(seed);
    let mut promises = vec![Promise { at: 0, files: BTreeMap::new(), touched: BTreeSet::new() }];
    let mut files: BTreeMap<String, (u32, Vec<u8>)> = BTreeMap::new();
    let dir = fs.create(ROOT_INODE, b"dir", &directory()).unwrap().ino;
    for step in 0..steps {
        let name = format!("file{}", random.below(6));
        let kind = random.below(10);
        if let Some(promise) = promises.last_mut().filter(|_| matches!(kind, 0..=4 | 7 | 8)) {
            promise.touched.insert(name.clone());
        }
        match kind {
            0..=3 => {
                let ino = match files.get(&name) {
                    Some((ino, _)) => *ino,
                    None => fs.create(ROOT_INODE, name.as_bytes(), &file(0o644)).unwrap().ino,
                };
                let at = random.below(30_000) as usize;
                let data = content(1 + random.below(20_000) as usize, step);
                fs.write(ino, at as u64, &data, NOW, Claim::Ordinary).unwrap();
                let model = &mut files.entry(name).or_insert((ino, Vec::new())).1;
                model.resize(model.len().max(at + data.len()), 0);
                model[at..at + data.len()].copy_from_slice(&data);
            }
            4 => {
                if let Some((ino, _)) = files.remove(&name) {
                    fs.unlink(ROOT_INODE, name.as_bytes(), NOW).unwrap();
                    if random.below(3) > 0 {
                        fs.evict(ino).unwrap();
                    }
                }
            }
            5 => {
                for i in 0..30 {
                    let node = format!("{step}-{i}-{}", "x".repeat(40));
                    fs.create(dir, node.as_bytes(), &file(0o600)).unwrap();
                }
            }
            6 => {
                for entry in fs.read_dir(dir, 0).unwrap().iter().filter(|e| !e.name.starts_with(b".")).take(20) {
                    if let Some(ino) = fs.unlink(dir, &entry.name, NOW).unwrap() {
                        fs.evict(ino).unwrap();
                    }
                }
            }
            7 => {
                let to = format!("file{}", random.below(6));
                if let Some(promise) = promises.last_mut() {
                    promise.touched.insert(to.clone());
                }
                if let Some(moved) = files.remove(&name) {
                    if let Some(gone) =
                        fs.rename((ROOT_INODE, name.as_bytes()), (ROOT_INODE, to.as_bytes()), RenameMode::Replace, NOW).unwrap()
                    {
                        fs.evict(gone).unwrap();
                    }
                    files.insert(to, moved);
                }
            }
            8 => {
                if let Some((ino, model)) = files.get_mut(&name) {
                    let size = random.below(40_000);
                    fs.truncate(*ino, size, NOW).unwrap();
                    model.resize(size as usize, 0);
                    let _ = fs.fallocate(*ino, 50_000, 9_000, Fallocate::KeepSize, NOW, Claim::Ordinary);
                }
            }
            _ => {
                match files.values().next() {
                    Some((ino, _)) if random.below(2) == 0 => fs.sync_inode(*ino).unwrap(),
                    _ => fs.commit().unwrap(),
                }
                // fsync of one file takes the whole transaction along, so everything is promised; sync_inode of an unchanged file is not.
                fs.commit().unwrap();
                let files = files.iter().map(|(name, (_, model))| (name.clone(), model.clone())).collect();
                promises.push(Promise { at: disk.operations(), files, touched: BTreeSet::new() });
            }
        }
    }
    promises
}

/// Mounts what the crash left, compares with the last promise, and has e2fsck judge if asked.
fn survive(image: Vec<u8>, promised: Option<&BTreeMap<String, Vec<u8>>>, judge: bool, what: &str) {
    let disk = disk(image);
    let fs = Filesystem::mount(disk.clone() as Arc<dyn BlockDevice>, options()).unwrap_or_else(|e| panic!("{what}: mount: {e}"));
    for (name, bytes) in promised.into_iter().flatten() {
        let ino = fs.lookup(ROOT_INODE, name.as_bytes()).unwrap_or_else(|e| panic!("{what}: {name}: {e}"));
        assert!(read_all(&fs, ino) == *bytes, "{what}: {name} lost data");
    }
    names(&fs, ROOT_INODE);
    fs.unmount().unwrap();
    let events = fs.take_events();
    assert!(!events.iter().any(|e| matches!(e, Event::Corrupt { .. } | Event::HasErrors)), "{what}: {events:?}");
    if judge {
        assert_clean(&disk.image(), what);
    }
}

#[test]
fn after_any_crash_the_image_is_clean_and_keeps_what_fsync_promised() {
    if !have_tools() {
        return;
    }
    for (kind, args) in [KINDS[2], KINDS[3], KINDS[4], KINDS[5]] {
        for seed in 0..scale() {
            let disk = Arc::new(FaultyDisk::from_image(make_image(args, 17 * 1024, None)));
            let fs = Filesystem::mount(disk.clone() as Arc<dyn BlockDevice>, options()).unwrap();
            disk.checkpoint();
            let promises = live(&fs, &disk, seed, 120);
            let (end, mut random) = (disk.operations(), Random::new(seed + 99));
            let step = (end / 20).max(1);
            for at in (0..=end).step_by(step) {
                let promise = promises.iter().rfind(|promise| promise.at <= at);
                let settled = promise.map(|promise| {
                    let mut files = promise.files.clone();
                    files.retain(|name, _| !promise.touched.contains(name));
                    files
                });
                let settled = settled.as_ref();
                let undurable = disk.undurable(at);
                let what = format!("{kind}, seed {seed}, after {at} of {end}");
                survive(disk.crash_keeping_prefix(at, random.below(undurable as u64 + 2) as usize), settled, at % (5 * step) == 0, &what);
                let torn = disk.crash(at, |_| match random.below(3) {
                    0 => Kept::Whole,
                    1 => Kept::Lost,
                    _ => Kept::Torn(0..1 + random.below(4) as usize),
                });
                survive(torn, settled, at % (5 * step) == 0, &what);
            }
            for promise in &promises {
                survive(
                    disk.crash_keeping_prefix(promise.at, 0),
                    Some(&promise.files),
                    false,
                    &format!("{kind}, seed {seed}, promise at {}", promise.at),
                );
            }
        }
    }
}

#[test]
fn e2fsck_replays_our_journal_and_finds_nothing_else() {
    if !have_tools() {
        return;
    }
    for (kind, args) in [KINDS[2], KINDS[3], KINDS[4], KINDS[5]] {
        let disk = Arc::new(FaultyDisk::from_image(make_image(args, 17 * 1024, None)));
        let fs = Filesystem::mount(disk.clone() as Arc<dyn BlockDevice>, options()).unwrap();
        disk.checkpoint();
        let promises = live(&fs, &disk, 5, 100);
        let end = disk.operations();
        for at in (0..=end).step_by((end / 12).max(1)).chain(promises.iter().map(|promise| promise.at).take(5)) {
            let image = disk.crash_keeping_prefix(at, 0);
            let (code, repaired, said) = repair(&image);
            // This mark is set by every mount, as Linux does.
            let said = said.replace("orphan_present is set but orphan file is clean.\nClear? yes", "");
            // e2fsck 1.47 finishes the orphans of the file first and empties its blocks in this way afterwards.
            let said = said.replace("block 0 is not clean.\nClear? yes", "");
            assert!(code <= 1 && !said.contains("? yes"), "{kind} after {at}: {code} {said}");
            // And both replays agree on what is in the root.
            let ours = common::disk(image);
            let (a, b) = (mount(&ours), mount(&common::disk(repaired)));
            assert_eq!(names(&a, ROOT_INODE), names(&b, ROOT_INODE), "{kind} after {at}");
        }
    }
}

#[test]
fn without_a_journal_sync_makes_everything_durable() {
    if !have_tools() {
        return;
    }
    for (kind, args) in [KINDS[0], KINDS[1], KINDS[6]] {
        let disk = Arc::new(FaultyDisk::from_image(make_image(args, 17 * 1024, None)));
        let fs = Filesystem::mount(disk.clone() as Arc<dyn BlockDevice>, options()).unwrap();
        disk.checkpoint();
        let promises = live(&fs, &disk, 3, 100);
        for promise in &promises[1..] {
            let fs = mount(&common::disk(disk.crash_keeping_prefix(promise.at, 0)));
            for (name, bytes) in &promise.files {
                assert!(read_all(&fs, walk(&fs, name)) == *bytes, "{kind}: {name}");
            }
        }
    }
}

#[test]
fn a_dying_disk_ends_in_errors_and_never_in_a_panic() {
    if !have_tools() {
        return;
    }
    let image = make_image(KINDS[3].1, 17 * 1024, None);
    for left in (0..200).step_by(9) {
        let disk = Arc::new(FaultyDisk::from_image(image.clone()));
        let fs = Filesystem::mount(disk.clone() as Arc<dyn BlockDevice>, options()).unwrap();
        disk.die_after(left);
        let mut failed = None;
        for i in 0..300u32 {
            let made = fs.create(ROOT_INODE, format!("f{i}").as_bytes(), &file(0o644));
            let result = made.and_then(|a| fs.write(a.ino, 0, &[7; 9000], NOW, Claim::Ordinary)).and_then(|_| fs.commit());
            if let Err(error) = result {
                failed = Some(error);
                break;
            }
        }
        assert!(matches!(failed, Some(Error::Device(_) | Error::Aborted | Error::ReadOnly)), "{left}: {failed:?}");
        disk.heal();
        survive(disk.image(), None, true, &format!("died after {left}"));
    }
}

#[test]
fn blocks_of_a_deleted_file_are_not_reused_before_the_deletion_is_durable() {
    if !have_tools() {
        return;
    }
    for (kind, args) in [KINDS[2], KINDS[3]] {
        let disk = Arc::new(FaultyDisk::from_image(make_image(args, 17 * 1024, None)));
        let fs = Filesystem::mount(disk.clone() as Arc<dyn BlockDevice>, options()).unwrap();
        let old = content(300_000, 1);
        let ino = fs.create(ROOT_INODE, b"old", &file(0o644)).unwrap().ino;
        fs.write(ino, 0, &old, NOW, Claim::Ordinary).unwrap();
        let filler = fs.create(ROOT_INODE, b"filler", &file(0o644)).unwrap().ino;
        let mut at = 0;
        while let Ok(count) = fs.write(filler, at, &[9; 65536], NOW, Claim::Ordinary) {
            at += count as u64;
        }
        fs.commit().unwrap();
        disk.checkpoint();
        fs.unlink(ROOT_INODE, b"old", NOW).unwrap();
        fs.evict(ino).unwrap();
        let new = fs.create(ROOT_INODE, b"new", &file(0o644)).unwrap().ino;
        let data = content(200_000, 2);
        assert_eq!(fs.write(new, 0, &data, NOW, Claim::Ordinary), Ok(data.len()), "{kind}");
        fs.commit().unwrap();
        for at in 0..=disk.operations() {
            let fs = mount(&common::disk(disk.crash_keeping_prefix(at, usize::MAX)));
            match fs.lookup(ROOT_INODE, b"old") {
                Ok(ino) => assert!(read_all(&fs, ino) == old, "{kind} after {at}: deleted but not durably, and overwritten"),
                Err(error) => assert_eq!(error, Error::NotFound),
            }
        }
    }
}
