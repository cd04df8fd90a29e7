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

fn crc32c(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |mut crc, &byte| {
        crc ^= u32::from(byte);
        (0..8).for_each(|_| crc = if crc & 1 != 0 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 });
        crc
    })
}

/// Builds the records of a fast commit.
#[derive(Default)]
struct FastCommit(Vec<u8>);

impl FastCommit {
    fn record(mut self, tag: u16, parts: &[&[u8]]) -> FastCommit {
        let value = parts.concat();
        self.0.extend_from_slice(&tag.to_le_bytes());
        self.0.extend_from_slice(&(value.len() as u16).to_le_bytes());
        self.0.extend_from_slice(&value);
        self
    }

    /// Closes it with a tail that fills its block.
    fn close(mut self, tid: u32, size: usize) -> Vec<u8> {
        let len = (size - self.0.len() % size - 4) as u16;
        self.0.extend_from_slice(&8u16.to_le_bytes());
        self.0.extend_from_slice(&len.to_le_bytes());
        self.0.extend_from_slice(&tid.to_le_bytes());
        let sum = crc32c(0, &self.0);
        self.0.extend_from_slice(&sum.to_le_bytes());
        self.0.resize(self.0.len().next_multiple_of(size), 0);
        self.0
    }
}

#[test]
fn fast_commits_are_done_again_as_e2fsck_does() {
    if !have_tools() {
        return;
    }
    let size = 4096;
    let args = "-b 4096 -I 256 -J size=8 -O none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum,fast_commit";
    let device = disk(make_image(args, 32 << 10, None));
    let fs = mount(&device);
    let old = fs.create(ROOT_INODE, b"old", &file(0o644)).unwrap().ino;
    fs.write(old, 0, &[1; 40_000], NOW, Claim::Ordinary).unwrap();
    fs.create(ROOT_INODE, b"gone", &file(0o644)).unwrap();
    let keeper = fs.lookup(ROOT_INODE, b"gone").unwrap();
    fs.link(keeper, ROOT_INODE, b"keeper", NOW).unwrap();
    fs.commit().unwrap();
    let mut image = device.image();
    let is_header = |at: usize, kind: u8| image[at..at + 4] == MAGIC && image[at + 4..at + 8] == [0, 0, 0, kind];
    let at = (0..image.len()).step_by(size).find(|&at| is_header(at, 4)).unwrap();
    let number = |bytes: &[u8]| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let last = (0..image.len()).step_by(size).filter(|&at| is_header(at, 2)).map(|at| number(&image[at + 8..])).max().unwrap();
    let (len, area) = (number(&image[at + 0x10..]), number(&image[at + 0x54..]));
    let (_, said) = debugfs(&image, &[&format!("bmap <8> {}", len - area + 1)]);
    let area = size * said.lines().filter_map(|line| line.trim().parse::<usize>().ok()).next().unwrap();
    // mke2fs leaves the journal's feature to the first mount that writes fast commits.
    image[at + 0x2b] |= 0x20;
    image[at + 0xfc..at + 0x100].fill(0);
    let sum = crc32c(!0, &image[at..at + 1024]);
    image[at + 0xfc..at + 0x100].copy_from_slice(&sum.to_be_bytes());
    // A new file of two blocks, a name less, a new extent for the old file in place of two of its blocks.
    let (new, tid, data) = (30u32, last + 1, 6000u32);
    let mut raw = vec![0u8; 256];
    raw[0..2].copy_from_slice(&0o100_640u16.to_le_bytes());
    raw[4..8].copy_from_slice(&8000u32.to_le_bytes());
    raw[0x1a] = 1;
    raw[0x20..0x24].copy_from_slice(&0x8_0000u32.to_le_bytes());
    raw[0x64] = 77;
    raw[0x80] = 32;
    let range = |ino: u32, logical: u32, len: u16, physical: u32| {
        [&ino.to_le_bytes()[..], &logical.to_le_bytes(), &len.to_le_bytes(), &0u16.to_le_bytes(), &physical.to_le_bytes()].concat()
    };
    let root = ROOT_INODE.to_le_bytes();
    let mut kept_raw = raw.clone();
    kept_raw[4] = 0;
    kept_raw[5] = 0;
    kept_raw[0x64..0x68].copy_from_slice(&fs.attributes(keeper).unwrap().generation.to_le_bytes());
    let commit = FastCommit::default()
        .record(9, &[&0u32.to_le_bytes(), &tid.to_le_bytes()])
        .record(6, &[&new.to_le_bytes(), &raw])
        .record(1, &[&range(new, 0, 2, data)])
        .record(3, &[&root, &new.to_le_bytes(), b"new"])
        .record(5, &[&root, &keeper.to_le_bytes(), b"gone"])
        .record(6, &[&keeper.to_le_bytes(), &kept_raw])
        .record(2, &[&old.to_le_bytes(), &2u32.to_le_bytes(), &2u32.to_le_bytes()])
        .record(1, &[&range(old, 5, 1, data + 10)])
        .close(tid, size);
    image[area..area + commit.len()].copy_from_slice(&commit);
    // A second one that was cut off must not count.
    let cut = FastCommit::default().record(5, &[&root, &old.to_le_bytes(), b"old"]).0;
    image[area + commit.len()..area + commit.len() + cut.len()].copy_from_slice(&cut);
    for block in [data, data + 1, data + 10] {
        image[block as usize * size..(block as usize + 1) * size].fill(9);
    }
    let (_, theirs, said) = repair(&image);
    let look = |image: Vec<u8>| {
        let fs = mount(&disk(image));
        let new = fs.lookup(ROOT_INODE, b"new").map(|ino| (ino, read_all(&fs, ino), fs.attributes(ino).unwrap()));
        (names(&fs, ROOT_INODE), new, read_all(&fs, old), fs.attributes(old).unwrap().sectors)
    };
    let ours = disk(image.clone());
    let fs = mount(&ours);
    assert_eq!(fs.take_events(), [Event::Recovered]);
    fs.unmount().unwrap();
    assert_clean(&ours.image(), "after our replay");
    let (mine, other) = (look(ours.image()), look(theirs));
    assert_eq!(mine.0, ["keeper", "lost+found", "new", "old"], "{said}");
    assert!(mine.1.as_ref().is_ok_and(|(ino, bytes, _)| *ino == new && bytes.len() == 8000 && bytes.iter().all(|&b| b == 9)));
    assert!(
        mine.2[..8192].iter().all(|&b| b == 1)
            && mine.2[8192..16384].iter().all(|&b| b == 0)
            && mine.2[20480..24576].iter().all(|&b| b == 9)
    );
    assert_eq!(mine.3, 8 * 8);
    assert!(
        mine == other,
        "e2fsck replays otherwise: {said} {:?} {:?} {} {:?}",
        other.0,
        other.1.as_ref().map(|n| (n.0, n.1.len(), n.2)),
        other.3,
        mine.1.as_ref().map(|n| n.2)
    );
}
