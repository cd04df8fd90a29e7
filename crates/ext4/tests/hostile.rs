//! Damaged images: whatever they say, nothing panics, nothing hangs, and what can be read is read.
mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use block::BlockDevice;
use common::*;
use ext4::{Claim, ErrorPolicy, Event, Fallocate, FileType, Filesystem, Options, ROOT_INODE, RenameMode, SetMode};

/// A small image with something of everything.
fn furnished(args: &str) -> Vec<u8> {
    let device = disk(make_image(args, if args.contains("-b 1024") { 5 << 10 } else { 20 << 10 }, None));
    let fs = mount(&device);
    let dir = fs.create(ROOT_INODE, b"dir", &directory()).unwrap().ino;
    for i in 0..150 {
        let name = format!("{i}{}", "-".repeat(60));
        let ino = fs.create(dir, name.as_bytes(), &file(0o644)).unwrap().ino;
        if i % 10 == 0 {
            fs.write(ino, i * 3000, &[i as u8; 3000], NOW, Claim::Ordinary).unwrap();
        }
    }
    let ino = fs.create(ROOT_INODE, b"fragmented", &file(0o644)).unwrap().ino;
    for i in (0..300).rev() {
        fs.write(ino, i * 2 * fs.block_size() as u64, b"x", NOW, Claim::Ordinary).unwrap();
    }
    for (name, len) in [("user.small", 10), ("user.large", 700)] {
        fs.set_attribute(ino, name.as_bytes(), Some(&vec![5; len]), SetMode::Any, NOW).unwrap();
    }
    fs.symlink(ROOT_INODE, b"slow", &[b's'; 200], &file(0)).unwrap();
    fs.symlink(ROOT_INODE, b"fast", b"target", &file(0)).unwrap();
    let orphan = fs.create(ROOT_INODE, b"orphan", &file(0o644)).unwrap().ino;
    fs.write(orphan, 0, &[1; 5000], NOW, Claim::Ordinary).unwrap();
    fs.unlink(ROOT_INODE, b"orphan", NOW).unwrap();
    // Left dirty where there is a journal: log and orphans are damaged too.
    fs.commit().unwrap();
    device.image()
}

/// Reads everything within bounds, then changes this and that.
fn exercise(fs: &Filesystem) {
    let (mut dirs, mut seen, mut inodes) = (vec![ROOT_INODE], 0, Vec::new());
    let mut buffer = vec![0; 5000];
    while let Some(dir) = dirs.pop() {
        let mut cursor = 0;
        while let Ok(batch) = fs.read_dir(dir, cursor) {
            let Some(last) = batch.last() else { break };
            assert!(last.next > cursor, "cursors must grow");
            cursor = last.next;
            for entry in batch {
                seen += 1;
                if entry.name == b"." || entry.name == b".." {
                    continue;
                }
                let _ = fs.lookup(dir, &entry.name);
                let Ok(attributes) = fs.attributes(entry.ino) else { continue };
                inodes.push(entry.ino);
                if attributes.file_type() == FileType::Directory {
                    dirs.push(entry.ino);
                }
                for offset in [0, 4000, attributes.size.saturating_sub(3000)] {
                    let _ = fs.read(entry.ino, offset, &mut buffer);
                }
                let _ = fs.read_link(entry.ino);
                let _ = fs.fiemap(entry.ino, 0, u64::MAX, 100);
                for name in fs.list_attributes(entry.ino).unwrap_or_default() {
                    let _ = fs.get_attribute(entry.ino, &name);
                }
            }
            if seen > 1000 {
                break;
            }
        }
        if seen > 1000 {
            break;
        }
    }
    let dir = fs.lookup(ROOT_INODE, b"dir").unwrap_or(ROOT_INODE);
    for i in 0..20 {
        let name = format!("new {i} {}", "n".repeat(100));
        if let Ok(made) = fs.create(dir, name.as_bytes(), &file(0o644)) {
            let _ = fs.write(made.ino, 10_000, &[3; 3000], NOW, Claim::Ordinary);
            let _ = fs.set_attribute(made.ino, b"user.x", Some(&[1; 400]), SetMode::Any, NOW);
        }
        let _ = fs.rename((dir, name.as_bytes()), (ROOT_INODE, format!("moved {i}").as_bytes()), RenameMode::Replace, NOW);
    }
    for (i, &ino) in inodes.iter().enumerate().take(60) {
        let _ = match i % 4 {
            0 => fs.truncate(ino, 100, NOW),
            1 => fs.fallocate(ino, 2000, 9000, Fallocate::PunchHole, NOW, Claim::Ordinary),
            2 => fs.write(ino, 7000, &[4; 2000], NOW, Claim::Ordinary).map(|_| ()),
            _ => fs.set_attribute(ino, b"user.y", Some(&[2; 200]), SetMode::Any, NOW),
        };
    }
    for name in ["fragmented", "slow", "fast"] {
        if let Ok(Some(ino)) = fs.unlink(ROOT_INODE, name.as_bytes(), NOW) {
            let _ = fs.evict(ino);
        }
    }
    if let Ok(batch) = fs.read_dir(dir, 0) {
        for entry in batch.iter().filter(|e| !e.name.starts_with(b".")).take(50) {
            if let Ok(Some(ino)) = fs.unlink(dir, &entry.name, NOW) {
                let _ = fs.evict(ino);
            }
        }
    }
    let _ = fs.trim(0, u64::MAX, 0);
    let _ = fs.commit();
    let _ = fs.unmount();
}

#[test]
fn flipped_bytes_anywhere_are_survived() {
    if !have_tools() {
        return;
    }
    // Without checksums damage gets furthest.
    let bare = (
        "ext4 without any checksum",
        "-b 1024 -I 256 -J size=1 -O none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,orphan_file,large_dir",
    );
    for (index, (kind, args)) in [bare].iter().chain(&KINDS[..8]).enumerate() {
        let image = furnished(args);
        // Bytes that matter: blocks that are not all zeroes, and the start of the image more often.
        let blocks: Vec<usize> =
            (0..image.len()).step_by(1024).filter(|&at| image[at..(at + 1024).min(image.len())].iter().any(|&b| b != 0)).collect();
        for seed in 0..60 * scale() {
            let mut random = Random::new(seed * 8 + index as u64);
            let mut damaged = image.clone();
            for _ in 0..1 + random.below(24) {
                let among = if random.below(3) == 0 { 12 } else { blocks.len() as u64 };
                let block = blocks[random.below(among) as usize];
                // Structures begin at the start of blocks and of 128 bytes.
                let at = block + if random.below(2) == 0 { random.below(64) } else { random.below(1024) } as usize;
                let value = match random.below(4) {
                    0 => 0,
                    1 => 0xff,
                    2 => damaged[at] ^ 1 << random.below(8),
                    _ => random.next() as u8,
                };
                damaged[at] = value;
            }
            let started = Instant::now();
            let errors = if seed % 2 == 0 { ErrorPolicy::Continue } else { ErrorPolicy::RemountReadOnly };
            let device: Arc<dyn BlockDevice> = disk(damaged);
            match Filesystem::mount(device.clone(), Options { errors: Some(errors), ..options() }) {
                Ok(fs) => exercise(&fs),
                Err(_) => {
                    if let Ok(fs) = Filesystem::mount(device, Options { read_only: true, no_load: true, ..options() }) {
                        exercise(&fs);
                    }
                }
            }
            assert!(started.elapsed() < Duration::from_secs(20), "{kind}, seed {seed}: {:?}", started.elapsed());
        }
    }
}

#[test]
fn damaged_images_that_are_only_read_are_survived_too() {
    if !have_tools() {
        return;
    }
    let tree = Scratch::new();
    std::fs::create_dir(tree.path("dir")).unwrap();
    for i in 0..60 {
        std::fs::write(tree.path(&format!("dir/file {i}")), vec![i as u8; i * 7]).unwrap();
    }
    std::os::unix::fs::symlink("x".repeat(100), tree.path("link")).unwrap();
    for args in [
        "-b 1024 -I 256 -O none,inline_data,extent,dir_index,filetype,ext_attr",
        "-b 1024 -C 4096 -O none,bigalloc,extent,filetype,dir_index",
    ] {
        let image = make_image(args, 4096, Some(&tree.0));
        let blocks: Vec<usize> = (0..image.len()).step_by(1024).filter(|&at| image[at..at + 1024].iter().any(|&b| b != 0)).collect();
        for seed in 0..150 * scale() {
            let mut random = Random::new(seed);
            let mut damaged = image.clone();
            for _ in 0..1 + random.below(30) {
                let block = blocks[random.below(blocks.len() as u64) as usize];
                damaged[block + random.below(1024) as usize] = random.next() as u8;
            }
            if let Ok(fs) = Filesystem::mount(disk(damaged), Options { read_only: true, ..options() }) {
                exercise(&fs);
            }
        }
    }
}

#[test]
fn corruption_is_told_recorded_and_makes_the_mount_read_only() {
    if !have_tools() {
        return;
    }
    let (image, _) = debugfs(&make_image(KINDS[3].1, 20 << 10, None), &["mkdir victim", "set_inode_field victim block[5] 0xffffff"]);
    for (policy, read_only, panics) in
        [(ErrorPolicy::Continue, false, false), (ErrorPolicy::RemountReadOnly, true, false), (ErrorPolicy::Panic, true, true)]
    {
        let device = disk(image.clone());
        let fs = Filesystem::mount(device.clone(), Options { errors: Some(policy), ..options() }).unwrap();
        let victim = walk(&fs, "victim");
        assert!(matches!(fs.read_dir(victim, 0), Err(ext4::Error::Corrupt { .. })));
        let events = fs.take_events();
        assert!(matches!(events[0], Event::Corrupt { .. }), "{events:?}");
        assert_eq!(
            (fs.is_read_only(), events.contains(&Event::RemountedReadOnly), events.contains(&Event::Panic)),
            (read_only, read_only, panics)
        );
        assert_eq!(fs.recorded_errors().0, 1);
        let made = fs.create(ROOT_INODE, b"f", &file(0o644));
        assert_eq!(made.is_err(), read_only, "{made:?}");
        drop(fs);
        let again = mount(&device);
        assert!(again.take_events().contains(&Event::HasErrors));
    }
}
