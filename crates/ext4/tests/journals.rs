//! Journals that others wrote: debugfs makes them, in every checksum version, and e2fsck's replay is the one to equal.
mod common;

use std::sync::Arc;

use block::BlockDevice;
use common::*;
use ext4::{Claim, Error, Event, Filesystem, Options, ROOT_INODE};

const MAGIC: [u8; 4] = [0xc0, 0x3b, 0x39, 0x98];

fn block_of(image: &[u8], size: usize, number: usize) -> &[u8] {
    &image[number * size..(number + 1) * size]
}

#[test]
fn journals_of_every_version_are_replayed_as_e2fsck_does() {
    if !have_tools() {
        return;
    }
    let plain = "none,has_journal,extent,filetype,sparse_super";
    let cases = [
        ("no checksums", format!("-b 1024 -J size=1 -O {plain}"), ""),
        ("v1", format!("-b 1024 -J size=1 -O {plain}"), "-c -v 1"),
        ("v2", format!("-b 1024 -J size=1 -O {plain},metadata_csum"), "-c -v 2"),
        ("v3", format!("-b 1024 -J size=1 -O {plain},metadata_csum"), "-c -v 3"),
        ("no checksums, 64 bit", format!("-b 4096 -J size=4 -O {plain},64bit"), ""),
        ("v2, 64 bit", format!("-b 4096 -J size=4 -O {plain},metadata_csum,64bit"), "-c -v 2"),
        ("v3, 64 bit", format!("-b 4096 -J size=4 -O {plain},metadata_csum,64bit"), "-c -v 3"),
    ];
    for (what, args, open) in cases {
        let image = make_image(&args, 24 * 1024, None);
        let size = if args.contains("4096") { 4096 } else { 1024 };
        let scratch = Scratch::new();
        let blocks: Vec<u8> = (0..300 * size).map(|i| (i / size + 1) as u8).collect();
        let mut escaped = vec![0x55; size];
        escaped[..4].copy_from_slice(&MAGIC);
        std::fs::write(scratch.path("many"), &blocks).unwrap();
        std::fs::write(scratch.path("escaped"), &escaped).unwrap();
        std::fs::write(scratch.path("revoked"), vec![0x66; 2 * size]).unwrap();
        let path = |name: &str| scratch.path(name).display().to_string();
        // debugfs fills more than one descriptor of version 2 in a way that its own e2fsck does not accept.
        let count = if what.starts_with("v2") { 40 } else { 300 };
        let list = (4000..4000 + count).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let commands = [
            format!("jo {open}"),
            format!("jw -b {list} {}", path("many")),
            format!("jw -b 4500,4501 {}", path("revoked")),
            "jw -r 4500,4510".to_owned(),
            format!("jw -b 4501 {}", path("escaped")),
            format!("jw -b 4510 {}", path("revoked")),
            "jc".to_owned(),
        ];
        let (dirty, said) = debugfs(&image, &commands.iter().map(String::as_str).collect::<Vec<_>>());
        let (_, theirs, fsck) = repair(&dirty);
        assert!(fsck.contains("recovering journal"), "{what}: {said} {fsck}");
        let device = disk(dirty);
        let fs = mount(&device);
        assert_eq!(fs.take_events(), [Event::Recovered], "{what}");
        fs.unmount().unwrap();
        let ours = device.image();
        for number in 4000..4600 {
            assert!(block_of(&ours, size, number) == block_of(&theirs, size, number), "{what}: block {number}");
        }
        // debugfs takes v1's checksum before it escapes a block, so such a journal rightly ends there.
        if what == "v1" {
            continue;
        }
        assert!(block_of(&ours, size, 4501) == escaped, "{what}");
        assert_eq!(block_of(&ours, size, 3999 + count)[0], count as u8, "{what}");
        assert!(block_of(&ours, size, 4500) == vec![0; size], "{what}: revoked");
        assert_eq!(block_of(&ours, size, 4510)[0], 0x66, "{what}: written again after it was revoked");
    }
}

#[test]
fn a_transaction_whose_commit_is_damaged_is_not_replayed() {
    if !have_tools() {
        return;
    }
    let image = make_image("-b 1024 -J size=1 -O none,has_journal,extent,filetype,metadata_csum", 16 * 1024, None);
    let scratch = Scratch::new();
    std::fs::write(scratch.path("data"), vec![0x77; 1024]).unwrap();
    let write = |block: u32| format!("jw -b {block} {}", scratch.path("data").display());
    let (dirty, _) = debugfs(&image, &["jo -c -v 3", &write(9000), &write(9001), "jc"]);
    // The second commit block: the last block of the log that begins like one.
    let commits: Vec<usize> =
        (0..dirty.len()).step_by(1024).filter(|&at| dirty[at..].starts_with(&[0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 2])).collect();
    let mut torn = dirty.clone();
    torn[commits[1] + 100] ^= 1;
    let device = disk(torn);
    let fs = mount(&device);
    fs.unmount().unwrap();
    let after = device.image();
    assert_eq!((after[9000 * 1024], after[9001 * 1024]), (0x77, 0));
    // Damage to a block inside a committed transaction is not the end of the log but a lost block, and must be told.
    let mut torn = dirty;
    torn[commits[1] - 1024] ^= 1;
    assert!(matches!(Filesystem::mount(disk(torn), options()), Err(Error::Corrupt { .. })));
}

#[test]
fn a_read_only_mount_replays_too_unless_told_not_to() {
    if !have_tools() {
        return;
    }
    let device = disk(make_image(KINDS[3].1, 24 * 1024, None));
    let fs = mount(&device);
    fs.create(ROOT_INODE, b"new", &file(0o644)).unwrap();
    fs.commit().unwrap();
    let dirty = device.image();
    drop(fs);
    let read_only = Options { read_only: true, ..options() };
    let replayed = Filesystem::mount(disk(dirty.clone()), read_only.clone()).unwrap();
    assert!(replayed.lookup(ROOT_INODE, b"new").is_ok() && replayed.is_read_only());
    assert_eq!(replayed.create(ROOT_INODE, b"x", &file(0o644)), Err(Error::ReadOnly));
    let not = Filesystem::mount(disk(dirty.clone()), Options { no_load: true, ..read_only.clone() }).unwrap();
    assert_eq!(not.lookup(ROOT_INODE, b"new"), Err(Error::NotFound));
    assert!(not.remount(options()).is_err());
    // A device that can't be written can't be recovered.
    let hard = Arc::new(block::RamDisk::from_image(dirty).read_only());
    assert_eq!(Filesystem::mount(hard as Arc<dyn BlockDevice>, read_only).err(), Some(Error::ReadOnly));
}

#[test]
fn remounting_leaves_a_clean_image_and_comes_back() {
    if !have_tools() {
        return;
    }
    for (kind, args) in KINDS {
        let device = disk(make_image(args, 24 * 1024, None));
        let fs = mount(&device);
        fs.create(ROOT_INODE, b"one", &file(0o644)).unwrap();
        fs.remount(Options { read_only: true, ..options() }).unwrap();
        assert_clean(&device.image(), kind);
        assert_eq!(fs.create(ROOT_INODE, b"two", &file(0o644)), Err(Error::ReadOnly));
        fs.remount(options()).unwrap();
        fs.create(ROOT_INODE, b"two", &file(0o644)).unwrap();
        fs.unmount().unwrap();
        assert_clean(&device.image(), kind);
        assert_eq!(names(&mount(&device), ROOT_INODE), ["lost+found", "one", "two"], "{kind}");
    }
}

#[test]
fn an_external_journal_is_used_when_it_belongs_to_the_image() {
    if !have_tools() {
        return;
    }
    let scratch = Scratch::new();
    let (image, journal) = (scratch.path("image"), scratch.path("journal"));
    for (path, mib) in [(&image, 24), (&journal, 4)] {
        std::fs::File::create(path).unwrap().set_len(mib << 20).unwrap();
    }
    let made = run("mke2fs", &["-q", "-F", "-b", "1024", "-O", "journal_dev,64bit", journal.to_str().unwrap()]);
    assert!(made.status.success());
    let (image, journal) =
        (make_image("-b 1024 -O none,extent,filetype,dir_index,64bit,metadata_csum", 24 * 1024, None), std::fs::read(&journal).unwrap());
    // mke2fs wants a block device for -J device=; what it would store is the journal's UUID and the feature.
    let uuid: String = journal[1024 + 0x68..1024 + 0x78].iter().map(|b| format!("{b:02x}")).collect();
    let uuid = format!("{}-{}-{}-{}-{}", &uuid[..8], &uuid[8..12], &uuid[12..16], &uuid[16..20], &uuid[20..]);
    let (image, said) =
        debugfs(&image, &["feature has_journal", &format!("set_super_value journal_uuid {uuid}"), "set_super_value journal_dev 0x801"]);
    let device = disk(image);
    assert!(matches!(Filesystem::mount(device.clone(), options()), Err(Error::BadOption(_))), "{said}");
    let log = disk(journal);
    let with_log = Options { journal_device: Some(log.clone() as Arc<dyn BlockDevice>), ..options() };
    let fs = Filesystem::mount(device.clone(), with_log.clone()).unwrap();
    let ino = fs.create(ROOT_INODE, b"f", &file(0o644)).unwrap().ino;
    fs.write(ino, 0, b"logged", NOW, Claim::Ordinary).unwrap();
    fs.commit().unwrap();
    drop(fs);
    let fs = Filesystem::mount(device, with_log).unwrap();
    assert_eq!(fs.take_events(), [Event::Recovered]);
    assert_eq!(read_all(&fs, walk(&fs, "f")), b"logged");
}
