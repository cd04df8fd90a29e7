//! Every operation, on every kind of image; e2fsck -fn is the judge.
mod common;

use common::*;
use ext4::{
    Claim, Error, Fallocate, FileType, MappingState, NewInode, ROOT_INODE, RenameMode, SetAttributes, SetMode, Timestamp, inode_flags,
};

fn on_every_kind(mib: u32, test: impl Fn(&std::sync::Arc<ext4::Filesystem>, &str)) {
    if !have_tools() {
        return;
    }
    for (kind, args) in KINDS {
        let disk = disk(make_image(args, mib * 1024, None));
        let fs = mount(&disk);
        test(&fs, kind);
        fs.unmount().unwrap();
        assert_eq!(fs.take_events(), [], "{kind}");
        assert_clean(&disk.image(), kind);
        let again = mount(&disk);
        assert!(again.take_events().is_empty());
    }
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..len).map(|_| random.next() as u8).collect()
}

#[test]
fn files_directories_links_and_nodes_are_made_and_removed() {
    on_every_kind(24, |fs, kind| {
        let dir = fs.create(ROOT_INODE, b"dir", &directory()).unwrap();
        let a = fs.create(dir.ino, b"a", &file(0o644)).unwrap();
        assert_eq!((a.mode, a.uid, a.links, a.size), (0o100_644, 1000, 1, 0));
        assert_eq!(fs.create(dir.ino, b"a", &file(0o644)), Err(Error::Exists));
        assert_eq!(fs.create(dir.ino, &[b'x'; 256], &file(0o644)), Err(Error::NameTooLong));
        assert_eq!(fs.create(a.ino, b"x", &file(0o644)), Err(Error::NotDirectory));
        fs.link(a.ino, ROOT_INODE, b"hard", NOW).unwrap();
        assert_eq!(fs.attributes(a.ino).unwrap().links, 2);
        for (name, target) in [("fast", "x".repeat(59)), ("slow", "y".repeat(60)), ("long", "z".repeat(1023))] {
            let ino = fs.symlink(dir.ino, name.as_bytes(), target.as_bytes(), &file(0)).unwrap().ino;
            assert_eq!(fs.read_link(ino).unwrap(), target.as_bytes(), "{kind}");
        }
        let node = NewInode { mode: 0o020_600, device: (300, 70000), ..file(0) };
        assert_eq!(fs.create(dir.ino, b"node", &node).unwrap().device, (300, 70000));
        fs.create(dir.ino, b"pipe", &NewInode { mode: 0o010_600, ..file(0) }).unwrap();
        assert_eq!(fs.remove_dir(ROOT_INODE, b"dir", NOW), Err(Error::NotEmpty));
        assert_eq!(fs.unlink(ROOT_INODE, b"dir", NOW), Err(Error::IsDirectory));
        assert_eq!(fs.remove_dir(dir.ino, b"a", NOW), Err(Error::NotDirectory));
        assert_eq!(fs.unlink(dir.ino, b"a", NOW), Ok(None));
        assert_eq!(fs.unlink(ROOT_INODE, b"hard", NOW), Ok(Some(a.ino)));
        assert_eq!(fs.attributes(a.ino).unwrap().links, 0);
        fs.evict(a.ino).unwrap();
        assert_eq!(fs.attributes(a.ino), Err(Error::Stale));
        for name in ["fast", "slow", "long", "node", "pipe"] {
            let ino = fs.unlink(dir.ino, name.as_bytes(), NOW).unwrap().unwrap();
            fs.evict(ino).unwrap();
        }
        let sub = fs.create(dir.ino, b"sub", &directory()).unwrap();
        assert_eq!(fs.attributes(dir.ino).unwrap().links, 3);
        assert_eq!(fs.remove_dir(dir.ino, b"sub", NOW), Ok(sub.ino));
        fs.evict(sub.ino).unwrap();
        assert_eq!(fs.attributes(dir.ino).unwrap().links, 2);
        fs.create(dir.ino, b"kept", &file(0o600)).unwrap();
    });
}

#[test]
fn data_comes_back_from_every_corner_of_a_file() {
    on_every_kind(24, |fs, kind| {
        let ino = fs.create(ROOT_INODE, b"f", &file(0o644)).unwrap().ino;
        let mut model = vec![0u8; 3_000_000];
        let mut random = Random::new(1);
        let mut size = 0;
        for i in 0..60 {
            let at = random.below(2_900_000) as usize;
            let len = 1 + random.below(if i % 3 == 0 { 90_000 } else { 5000 }) as usize;
            let data = pattern(len, i);
            assert_eq!(fs.write(ino, at as u64, &data, NOW, Claim::Ordinary).unwrap(), len);
            model[at..at + len].copy_from_slice(&data);
            size = size.max(at + len);
        }
        assert!(read_all(fs, ino) == model[..size], "{kind}");
        for cut in [2_000_001, 1_999_999, 70_000, 13_000, 5_000, 1] {
            fs.truncate(ino, cut as u64, NOW).unwrap();
            fs.truncate(ino, 2_500_000, NOW).unwrap();
            model[cut..].fill(0);
            assert!(read_all(fs, ino) == model[..2_500_000], "{kind}: cut at {cut}");
        }
        fs.truncate(ino, 0, NOW).unwrap();
        assert_eq!(fs.attributes(ino).unwrap().sectors, 0, "{kind}");
        // Backwards, block by block, with gaps: the worst case for a block map.
        let block = fs.block_size() as u64;
        for i in (0..400u64).rev() {
            fs.write(ino, i * 2 * block, &[(i % 250) as u8 + 1; 100], NOW, Claim::Ordinary).unwrap();
        }
        for i in (0..400u64).step_by(3) {
            fs.fallocate(ino, i * 2 * block, block, Fallocate::PunchHole, NOW, Claim::Ordinary).unwrap();
        }
        let bytes = read_all(fs, ino);
        for i in 0..400usize {
            assert_eq!(bytes[i * 2 * block as usize], if i % 3 == 0 { 0 } else { (i % 250) as u8 + 1 }, "{kind}: block {i}");
        }
    });
}

#[test]
fn large_directories_get_an_index_and_lose_nothing() {
    on_every_kind(32, |fs, kind| {
        let dir = fs.create(ROOT_INODE, b"d", &directory()).unwrap().ino;
        let name = |i: u32| format!("{i}-{}", "n".repeat((i % 200) as usize));
        let target = fs.create(ROOT_INODE, b"t", &file(0o644)).unwrap().ino;
        let count = 4000;
        for i in 0..count {
            fs.link(target, dir, name(i).as_bytes(), NOW).unwrap();
        }
        let indexed = fs.attributes(dir).unwrap().flags & inode_flags::INDEX != 0;
        assert_eq!(indexed, !kind.contains("without anything"), "{kind}");
        let mut expected: Vec<String> = (0..count).map(name).collect();
        expected.sort();
        assert_eq!(names(fs, dir), expected, "{kind}");
        for i in (0..count).filter(|i| i % 4 != 0) {
            assert_eq!(fs.unlink(dir, name(i).as_bytes(), NOW), Ok(None));
        }
        for i in 0..count {
            assert_eq!(fs.lookup(dir, name(i).as_bytes()).is_ok(), i % 4 == 0, "{kind}: {i}");
        }
        // Reading while the directory changes: what stays is seen exactly once.
        let (mut seen, mut cursor, mut extra) = (Vec::new(), 0, 0);
        loop {
            let batch = fs.read_dir(dir, cursor).unwrap();
            let Some(last) = batch.get(batch.len() / 2) else { break };
            cursor = last.next;
            seen.extend(batch[..=batch.len() / 2].iter().map(|e| String::from_utf8(e.name.clone()).unwrap()).filter(|n| n.contains('-')));
            if indexed && extra < 300 {
                for _ in 0..10 {
                    extra += 1;
                    fs.link(target, dir, format!("extra {extra} {}", "e".repeat(150)).as_bytes(), NOW).unwrap();
                }
            }
        }
        seen.sort();
        let kept: Vec<String> = {
            let mut k: Vec<String> = (0..count).filter(|i| i % 4 == 0).map(name).collect();
            k.sort();
            k
        };
        assert_eq!(seen, kept, "{kind}");
    });
}

#[test]
fn renames_move_replace_exchange_and_refuse() {
    on_every_kind(24, |fs, _| {
        let (a, b) = (fs.create(ROOT_INODE, b"a", &directory()).unwrap().ino, fs.create(ROOT_INODE, b"b", &directory()).unwrap().ino);
        let f = fs.create(a, b"f", &file(0o644)).unwrap().ino;
        let g = fs.create(b, b"g", &file(0o644)).unwrap().ino;
        let rename = |from: (u32, &[u8]), to: (u32, &[u8]), mode| fs.rename(from, to, mode, NOW);
        assert_eq!(rename((a, b"f"), (b, b"g"), RenameMode::NoReplace), Err(Error::Exists));
        assert_eq!(rename((a, b"f"), (b, b"h"), RenameMode::Exchange), Err(Error::NotFound));
        assert_eq!(rename((a, b"f"), (b, b"g"), RenameMode::Replace), Ok(Some(g)));
        fs.evict(g).unwrap();
        assert_eq!((fs.lookup(b, b"g"), fs.lookup(a, b"f")), (Ok(f), Err(Error::NotFound)));
        let sub = fs.create(a, b"sub", &directory()).unwrap().ino;
        assert_eq!(rename((ROOT_INODE, b"a"), (sub, b"x"), RenameMode::Replace), Err(Error::Invalid));
        assert_eq!(rename((a, b"sub"), (b, b"g"), RenameMode::Replace), Err(Error::NotDirectory));
        assert_eq!(rename((b, b"g"), (a, b"sub"), RenameMode::Replace), Err(Error::IsDirectory));
        assert_eq!(rename((a, b"sub"), (b, b"sub2"), RenameMode::Replace), Ok(None));
        assert_eq!(fs.lookup(sub, b".."), Ok(b));
        assert_eq!(fs.attributes(a).unwrap().links, 2);
        assert_eq!(fs.attributes(b).unwrap().links, 3);
        let empty = fs.create(a, b"empty", &directory()).unwrap().ino;
        assert_eq!(rename((b, b"sub2"), (a, b"empty"), RenameMode::Replace), Ok(Some(empty)));
        fs.evict(empty).unwrap();
        assert_eq!((fs.attributes(a).unwrap().links, fs.attributes(b).unwrap().links), (3, 2));
        assert_eq!(rename((a, b"empty"), (b, b"g"), RenameMode::Exchange), Ok(None));
        assert_eq!((fs.lookup(a, b"empty"), fs.lookup(b, b"g")), (Ok(f), Ok(sub)));
        assert_eq!((fs.attributes(a).unwrap().links, fs.attributes(b).unwrap().links), (2, 3));
        assert_eq!(rename((a, b"empty"), (a, b"moved"), RenameMode::Whiteout), Ok(None));
        let whiteout = fs.attributes(fs.lookup(a, b"empty").unwrap()).unwrap();
        assert_eq!((whiteout.file_type(), whiteout.device), (FileType::CharDevice, (0, 0)));
        fs.create(b, b"same dir 1", &directory()).unwrap();
        let second = fs.create(b, b"same dir 2", &directory()).unwrap().ino;
        assert_eq!(rename((b, b"same dir 1"), (b, b"same dir 2"), RenameMode::Replace), Ok(Some(second)));
        fs.evict(second).unwrap();
        assert_eq!(rename((b, b"same dir 2"), (b, b"same dir 2"), RenameMode::Replace), Ok(None));
    });
}

#[test]
fn attributes_of_every_size_are_set_replaced_and_removed() {
    on_every_kind(24, |fs, kind| {
        let ino = fs.create(ROOT_INODE, b"f", &file(0o644)).unwrap().ino;
        let set = |name: &str, value: Option<&[u8]>, mode| fs.set_attribute(ino, name.as_bytes(), value, mode, NOW);
        for (i, len) in [0usize, 1, 3, 40, 100, 300].into_iter().enumerate() {
            set(&format!("user.a{i}"), Some(&pattern(len, i as u64)), SetMode::Any).unwrap();
        }
        assert_eq!(set("user.a0", Some(b"x"), SetMode::Create), Err(Error::Exists));
        assert_eq!(set("user.b", Some(b"x"), SetMode::Replace), Err(Error::NoAttribute));
        assert_eq!(set("user.b", None, SetMode::Any), Err(Error::NoAttribute));
        assert_eq!(set("foreign.b", Some(b"x"), SetMode::Any), Err(Error::NotSupported));
        assert_eq!(set("user.big", Some(&vec![1; fs.block_size()]), SetMode::Any), Err(Error::AttributeTooBig));
        set("user.a3", Some(&pattern(120, 50)), SetMode::Replace).unwrap();
        set("user.a1", None, SetMode::Any).unwrap();
        let acl = [
            &2u32.to_le_bytes()[..],
            &[1, 0, 6, 0, 255, 255, 255, 255],
            &[4, 0, 4, 0, 255, 255, 255, 255],
            &[32, 0, 4, 0, 255, 255, 255, 255],
        ]
        .concat();
        set("system.posix_acl_access", Some(&acl), SetMode::Any).unwrap();
        for (name, value) in
            [("user.a0", vec![]), ("user.a3", pattern(120, 50)), ("user.a5", pattern(300, 5)), ("system.posix_acl_access", acl.clone())]
        {
            assert_eq!(fs.get_attribute(ino, name.as_bytes()), Ok(value), "{kind}: {name}");
        }
        let other =
            fs.create(ROOT_INODE, b"g", &NewInode { attributes: &[(b"security.label", b"from birth")], ..file(0o600) }).unwrap().ino;
        assert_eq!(fs.get_attribute(other, b"security.label").unwrap(), b"from birth");
        for name in ["user.a0", "user.a2", "user.a3", "user.a4", "user.a5", "system.posix_acl_access"] {
            set(name, None, SetMode::Any).unwrap();
        }
        assert_eq!(fs.list_attributes(ino), Ok(vec![]));
        assert_eq!(fs.attributes(ino).unwrap().sectors, 0, "{kind}: the attribute block is given back");
    });
}

#[test]
fn times_owners_and_flags_are_kept() {
    on_every_kind(24, |fs, kind| {
        let ino = fs.create(ROOT_INODE, b"f", &file(0o644)).unwrap().ino;
        let late = Timestamp { seconds: 1 << 33, nanoseconds: 987_654_321 };
        let set = SetAttributes {
            mode: Some(0o4711),
            uid: Some(70_000),
            gid: Some(80_000),
            modified: Some(late),
            flags: Some(inode_flags::NODUMP | inode_flags::EXTENTS | inode_flags::INLINE_DATA),
            ..SetAttributes::default()
        };
        let now = fs.set_attributes(ino, &set).unwrap();
        assert_eq!((now.mode, now.uid, now.gid), (0o104_711, 70_000, 80_000));
        assert_eq!(now.flags & !inode_flags::EXTENTS, inode_flags::NODUMP);
        let kept = if kind.starts_with("ext2") { Timestamp { seconds: i64::from(i32::MAX), nanoseconds: 0 } } else { late };
        assert_eq!(now.modified, kept, "{kind}");
    });
}

#[test]
fn preallocated_blocks_read_as_zeroes_until_they_are_written() {
    on_every_kind(24, |fs, kind| {
        let ino = fs.create(ROOT_INODE, b"f", &file(0o644)).unwrap().ino;
        let block = fs.block_size() as u64;
        if fs.attributes(ino).unwrap().flags & inode_flags::EXTENTS == 0 {
            assert_eq!(fs.fallocate(ino, 0, 100, Fallocate::Extend, NOW, Claim::Ordinary), Err(Error::NotSupported));
            return;
        }
        fs.fallocate(ino, 0, 50 * block, Fallocate::KeepSize, NOW, Claim::Ordinary).unwrap();
        assert_eq!(fs.attributes(ino).unwrap().size, 0);
        fs.fallocate(ino, 0, 50 * block + 7, Fallocate::Extend, NOW, Claim::Ordinary).unwrap();
        assert!(read_all(fs, ino).iter().all(|&b| b == 0), "{kind}");
        fs.write(ino, 10 * block + 5, &pattern(3 * block as usize, 1), NOW, Claim::Ordinary).unwrap();
        let mut model = vec![0; 50 * block as usize + 7];
        model[10 * block as usize + 5..13 * block as usize + 5].copy_from_slice(&pattern(3 * block as usize, 1));
        assert!(read_all(fs, ino) == model, "{kind}");
        fs.fallocate(ino, 11 * block + 3, block, Fallocate::ZeroRange, NOW, Claim::Ordinary).unwrap();
        model[11 * block as usize + 3..12 * block as usize + 3].fill(0);
        assert!(read_all(fs, ino) == model, "{kind}");
        fs.fallocate(ino, 12 * block + 3, 2 * block, Fallocate::PunchHole, NOW, Claim::Ordinary).unwrap();
        model[12 * block as usize + 3..14 * block as usize + 3].fill(0);
        assert!(read_all(fs, ino) == model, "{kind}");
        let map = fs.fiemap(ino, 0, u64::MAX, 100).unwrap();
        assert_eq!(map.iter().map(|e| e.len).sum::<u64>(), 50 * block, "{kind}: {map:?}");
        assert!(map.last().unwrap().flags & ext4::fiemap_flags::LAST != 0);
        assert_eq!(fs.seek(ino, 0, true), Ok(Some(10 * block)));
        assert_eq!(fs.seek(ino, 10 * block, false).unwrap().map(|at| at > 10 * block), Some(true));
        // As a page cache does it: promise, allocate unwritten, write, convert, extend.
        fs.reserve(8, Claim::Ordinary).unwrap();
        let handle = fs.begin(40).unwrap();
        let mapping = handle.allocate(ino, 100, 8, Claim::Promised, MappingState::Unwritten).unwrap();
        assert_eq!((mapping.state, mapping.logical), (MappingState::Unwritten, 100));
        drop(handle);
        let handle = fs.begin(40).unwrap();
        assert_eq!(handle.convert_unwritten(ino, 100, mapping.len), Ok(100 + mapping.len));
        handle.set_size(ino, (100 + mapping.len) * block, NOW).unwrap();
        drop(handle);
        fs.release(8 - mapping.len);
    });
}

#[test]
fn a_full_disk_says_so_and_loses_nothing() {
    on_every_kind(17, |fs, kind| {
        let mut written = Vec::new();
        'full: for i in 0..4000u32 {
            let ino = match fs.create(ROOT_INODE, format!("file {i}").as_bytes(), &file(0o644)) {
                Ok(made) => made.ino,
                Err(Error::NoSpace) => break,
                Err(other) => panic!("{kind}: {other}"),
            };
            let data = pattern(200_000, u64::from(i));
            let mut at = 0;
            while at < data.len() {
                match fs.write(ino, at as u64, &data[at..], NOW, Claim::Ordinary) {
                    Ok(count) => at += count,
                    Err(Error::NoSpace) => {
                        written.push((i, ino, at));
                        break 'full;
                    }
                    Err(other) => panic!("{kind}: {other}"),
                }
            }
            written.push((i, ino, at));
        }
        assert!(written.len() > 10, "{kind}");
        assert_eq!(fs.statistics().available_blocks, 0, "{kind}");
        for &(i, ino, len) in &written {
            assert!(read_all(fs, ino) == pattern(200_000, u64::from(i))[..len], "{kind}: file {i}");
        }
        for (i, ino, _) in written.iter().filter(|(i, ..)| i % 2 == 0) {
            fs.unlink(ROOT_INODE, format!("file {i}").as_bytes(), NOW).unwrap();
            fs.evict(*ino).unwrap();
        }
        // What was just freed can be used at once, though it waits for a commit.
        let ino = fs.create(ROOT_INODE, b"again", &file(0o644)).unwrap().ino;
        assert_eq!(fs.write(ino, 0, &pattern(1_000_000, 9), NOW, Claim::Ordinary), Ok(1_000_000), "{kind}");
    });
}

#[test]
fn garbage_in_inode_tables_that_nobody_zeroed_does_no_harm() {
    if !have_tools() {
        return;
    }
    for features in ["metadata_csum,64bit,flex_bg", "uninit_bg", "uninit_bg,flex_bg,64bit"] {
        let scratch = Scratch::new();
        let path = scratch.path("image");
        std::fs::write(&path, vec![0xa5u8; 40 << 20]).unwrap();
        let args = format!(
            "-q -F -b 1024 -I 256 -J size=1 -E lazy_itable_init=1,nodiscard -O none,has_journal,dir_index,filetype,extent,extra_isize,{features}"
        );
        let mut words: Vec<&str> = args.split(' ').collect();
        words.push(path.to_str().unwrap());
        assert!(run("mke2fs", &words).status.success());
        let disk = disk(std::fs::read(&path).unwrap());
        let fs = mount(&disk);
        for i in 0..12 {
            let dir = fs.create(ROOT_INODE, format!("dir {i}").as_bytes(), &directory()).unwrap().ino;
            for j in 0..300 {
                let ino = fs.create(dir, format!("file {j}").as_bytes(), &file(0o644)).unwrap().ino;
                fs.write(ino, 0, &[1; 2000], NOW, Claim::Ordinary).unwrap();
            }
        }
        fs.unmount().unwrap();
        assert_eq!(fs.take_events(), []);
        assert_clean(&disk.image(), features);
    }
}

#[test]
fn directories_of_three_levels_and_more_than_65000_subdirectories_work() {
    if !have_tools() || scale() == 1 {
        return;
    }
    let disk = disk(make_image(
        "-b 1024 -I 128 -N 140000 -O none,dir_index,filetype,extent,large_dir,dir_nlink,sparse_super,flex_bg",
        400 << 10,
        None,
    ));
    let fs = mount(&disk);
    let dir = fs.create(ROOT_INODE, b"many", &directory()).unwrap().ino;
    for i in 0..66_000 {
        fs.create(dir, format!("{i:06}").as_bytes(), &directory()).unwrap();
    }
    assert_eq!(fs.attributes(dir).unwrap().links, 1);
    let wide = fs.create(ROOT_INODE, b"wide", &directory()).unwrap().ino;
    let target = fs.create(ROOT_INODE, b"target", &file(0o644)).unwrap().ino;
    for i in 0..60_000 {
        fs.link(target, wide, format!("{}{i:06}", "w".repeat(240)).as_bytes(), NOW).unwrap();
    }
    assert_eq!(names(&fs, wide).len(), 60_000);
    assert_eq!(names(&fs, dir).len(), 66_000);
    fs.unmount().unwrap();
    assert_clean(&disk.image(), "three levels");
}
