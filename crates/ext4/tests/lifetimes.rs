//! Ends of files: orphans, files that never had a name, and what the device is told of free space.
mod common;

use std::sync::Arc;

use block::BlockDevice;
use common::*;
use ext4::{Claim, Error, Event, Filesystem, Options, ROOT_INODE};

#[test]
fn the_next_mount_deletes_files_that_were_open_without_a_name() {
    if !have_tools() {
        return;
    }
    for (kind, args) in KINDS {
        let device = disk(make_image(args, 24 << 10, None));
        let fs = mount(&device);
        let free = fs.statistics().free_blocks;
        for i in 0..5u8 {
            let name = [b'f', b'0' + i];
            let ino = fs.create(ROOT_INODE, &name, &file(0o644)).unwrap().ino;
            fs.write(ino, 0, &[i; 100_000], NOW, Claim::Ordinary).unwrap();
            assert_eq!(fs.unlink(ROOT_INODE, &name, NOW), Ok(Some(ino)));
            // It can still be read and written by those who have it open.
            fs.write(ino, 50_000, b"late", NOW, Claim::Ordinary).unwrap();
            assert_eq!(&read_all(&fs, ino)[50_000..50_004], b"late");
        }
        let unnamed = fs.create_unnamed(ROOT_INODE, &file(0o600)).unwrap().ino;
        fs.write(unnamed, 0, b"never named", NOW, Claim::Ordinary).unwrap();
        fs.commit().unwrap();
        drop(fs);
        let fs = Filesystem::mount(device.clone() as Arc<dyn BlockDevice>, Options { read_only: true, ..options() }).unwrap();
        assert!(fs.take_events().contains(&Event::Orphans(6, 0)), "{kind}");
        assert_eq!(fs.statistics().free_blocks, free, "{kind}");
        assert_clean(&device.image(), kind);
    }
}

#[test]
fn a_file_without_a_name_can_be_given_one() {
    if !have_tools() {
        return;
    }
    for (kind, args) in KINDS {
        let device = disk(make_image(args, 24 << 10, None));
        let fs = mount(&device);
        let (a, b, c) = (
            fs.create_unnamed(ROOT_INODE, &file(0o600)).unwrap().ino,
            fs.create_unnamed(ROOT_INODE, &file(0o600)).unwrap().ino,
            fs.create_unnamed(ROOT_INODE, &file(0o600)).unwrap().ino,
        );
        fs.write(b, 0, b"here at last", NOW, Claim::Ordinary).unwrap();
        fs.link(b, ROOT_INODE, b"named", NOW).unwrap();
        fs.evict(a).unwrap();
        fs.evict(c).unwrap();
        assert_eq!((fs.attributes(a), fs.attributes(b).unwrap().links), (Err(Error::Stale), 1));
        // Evicting an inode that has a name does nothing.
        fs.evict(b).unwrap();
        assert_eq!(read_all(&fs, b), b"here at last");
        fs.unmount().unwrap();
        assert_clean(&device.image(), kind);
    }
}

#[test]
fn freed_blocks_are_discarded_after_the_commit_and_trim_tells_the_rest() {
    if !have_tools() {
        return;
    }
    for (kind, args) in [KINDS[2], KINDS[3], KINDS[5], KINDS[7]] {
        let device = disk(make_image(args, 24 << 10, None));
        let fs = Filesystem::mount(device.clone() as Arc<dyn BlockDevice>, Options { discard: true, ..options() }).unwrap();
        let kept = fs.create(ROOT_INODE, b"kept", &file(0o644)).unwrap().ino;
        fs.write(kept, 0, &[5; 500_000], NOW, Claim::Ordinary).unwrap();
        let gone = fs.create(ROOT_INODE, b"gone", &file(0o644)).unwrap().ino;
        fs.write(gone, 0, &[7; 500_000], NOW, Claim::Ordinary).unwrap();
        let place = (fs.map_blocks(gone, 0, 1).unwrap().physical * fs.block_size() as u64) as usize;
        fs.unlink(ROOT_INODE, b"gone", NOW).unwrap();
        fs.evict(gone).unwrap();
        assert_eq!(device.image()[place], 7, "{kind}: not before the commit");
        // Nor by trim: a crash would bring the file back.
        fs.trim(0, u64::MAX, 0).unwrap();
        assert_eq!(device.image()[place], 7, "{kind}: not by trim before the commit");
        fs.commit().unwrap();
        assert_eq!(device.image()[place], 0, "{kind}: discarded");
        let block = fs.block_size() as u64;
        assert_eq!(fs.trim(0, u64::MAX, 0).unwrap(), fs.statistics().free_blocks * block, "{kind}");
        assert!(fs.trim(0, u64::MAX, 64 * block).unwrap() <= fs.statistics().free_blocks * block);
        assert!(read_all(&fs, kept).iter().all(|&b| b == 5), "{kind}");
        fs.unmount().unwrap();
        assert_clean(&device.image(), kind);
    }
}
