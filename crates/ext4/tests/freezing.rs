//! A file system that is frozen: its device can be copied and needs no repair, and it goes on afterwards.
mod common;

use common::*;
use ext4::{Claim, Error, ROOT_INODE};

#[test]
fn a_copy_of_a_frozen_image_is_clean_and_has_everything() {
    if !have_tools() {
        return;
    }
    for (kind, args) in KINDS {
        let device = disk(make_image(args, 24 << 10, None));
        let fs = mount(&device);
        for round in 0..4u8 {
            let name = [b'f', b'0' + round];
            let ino = fs.create(ROOT_INODE, &name, &file(0o644)).unwrap().ino;
            fs.write(ino, 0, &[round; 70_000], NOW, Claim::Ordinary).unwrap();
            fs.freeze().unwrap();
            fs.freeze().unwrap();
            assert_eq!(fs.create(ROOT_INODE, b"late", &file(0o644)).map(drop), Err(Error::ReadOnly), "{kind}");
            assert_clean(&device.image(), kind);
            let copy = mount(&disk(device.image()));
            for earlier in 0..=round {
                let found = read_all(&copy, walk(&copy, &format!("f{earlier}")));
                assert!(found.len() == 70_000 && found.iter().all(|byte| *byte == earlier), "{kind}");
            }
            fs.thaw().unwrap();
            fs.thaw().unwrap();
        }
        // It is in use again: what is written now is as safe as before.
        let ino = fs.create(ROOT_INODE, b"after", &file(0o644)).unwrap().ino;
        fs.write(ino, 0, b"went on", NOW, Claim::Ordinary).unwrap();
        fs.sync_inode(ino).unwrap();
        let crashed = mount(&disk(device.image()));
        assert_eq!(read_all(&crashed, walk(&crashed, "after")), b"went on", "{kind}");
        fs.unmount().unwrap();
        assert_clean(&device.image(), kind);
    }
}

#[test]
fn files_without_a_name_survive_a_freeze() {
    if !have_tools() {
        return;
    }
    for (kind, args) in KINDS {
        let device = disk(make_image(args, 24 << 10, None));
        let fs = mount(&device);
        let ino = fs.create(ROOT_INODE, b"gone", &file(0o644)).unwrap().ino;
        fs.write(ino, 0, &[7; 50_000], NOW, Claim::Ordinary).unwrap();
        assert_eq!(fs.unlink(ROOT_INODE, b"gone", NOW), Ok(Some(ino)));
        fs.freeze().unwrap();
        fs.thaw().unwrap();
        assert!(read_all(&fs, ino).iter().all(|byte| *byte == 7), "{kind}");
        fs.evict(ino).unwrap();
        fs.unmount().unwrap();
        assert_clean(&device.image(), kind);
    }
}
