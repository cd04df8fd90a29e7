//! overlay of a host directory and a tmpfs.

mod trees;

use abi::Errno;
use fs::hostfs::{HostFs, Options};
use fs::overlay::Overlay;
use fs::tmpfs::Tmpfs;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use trees::*;
use vfs::{FileKind, FileSystem, OpenFlags, PathAt, RenameFlags};

fn mounted(dir: &TempDir) -> Machine {
    mounted_with(dir, fs::tmpfs::Options::default())
}

fn mounted_with(dir: &TempDir, upper: fs::tmpfs::Options) -> Machine {
    let vfs = machine();
    let options = Options { valid_ns: 0, read_only: true, append: false };
    let lower = HostFs::new(vfs.ram(), host::files::open_tree(&dir.0).unwrap(), options, "").unwrap();
    let upper = Tmpfs::new(vfs.ram(), "tmpfs", upper).unwrap();
    Machine::new(vfs, Overlay::new(vfs.ram(), lower.root(), upper, "").unwrap())
}

fn host_state(dir: &TempDir) -> BTreeMap<String, impl std::fmt::Debug + PartialEq + use<>> {
    let mut out = BTreeMap::new();
    host_tree(&dir.fd(), "", &mut out);
    out
}

#[test]
fn random_operations_do_what_they_do_in_a_plain_directory_and_leave_the_lower_one_alone() {
    for seed in 0..8 * scale() {
        let (lower, plain) = (TempDir::new(), TempDir::new());
        let dir = plain.fd();
        let mut random = Random(seed + 1000);
        // Both start with the same, but for files of several names, which are brought up one by one.
        for _ in 0..150 {
            let op = Op::random(&mut random);
            if !matches!(op, Op::Link(..)) {
                assert_eq!(op.on_host(&lower.fd()), op.on_host(&dir));
            }
        }
        let before = host_state(&lower);
        let machine = mounted(&lower);
        for step in 0..400 {
            let op = Op::random(&mut random);
            assert_eq!(op.in_machine(&machine), op.on_host(&dir), "seed {seed}, step {step}: {op:?}");
            if step % 40 == 39 {
                let (mut seen, mut expected) = (BTreeMap::new(), BTreeMap::new());
                machine_tree(&machine, "", &mut seen);
                host_tree(&dir, "", &mut expected);
                assert_eq!(seen, expected, "seed {seed}, step {step}");
                // Forgetting what is not in use must lose nothing.
                machine.vfs.dentries().evict(1 << 20);
            }
        }
        assert_eq!(host_state(&lower), before, "seed {seed}: the lower directory is only read");
    }
}

#[test]
fn a_file_opened_for_reading_follows_when_it_is_brought_up() {
    let lower = TempDir::new();
    lower.write("f", "lower");
    let machine = mounted(&lower);
    let reader = machine.open("/f", OpenFlags::empty()).unwrap();
    let mapped = reader.mmap(&vfs::MapRequest { offset: 0, len: 4096, access: vfs::MapAccess::READ }).unwrap();
    let before = machine.stat("/f").unwrap();
    let writer = machine.open("/f", OpenFlags::RDWR).unwrap();
    write_at(&writer, 0, b"UPPER").unwrap();
    assert_eq!(read_all(&reader).unwrap(), b"UPPER");
    let mut page = [0; 5];
    mapped.page(0, false).unwrap().read(0, &mut page);
    assert_eq!(&page, b"lower", "a private mapping keeps what it has");
    assert_eq!(machine.stat("/f").unwrap().ino, before.ino);
    assert_eq!(lower.read("f"), b"lower");
}

#[test]
fn attributes_survive_being_brought_up() {
    let lower = TempDir::new();
    std::fs::create_dir(lower.path("d")).unwrap();
    lower.write("d/f", vec![7; 100_000]);
    let dir_before = std::fs::metadata(lower.path("d")).unwrap();
    let file_before = std::fs::metadata(lower.path("d/f")).unwrap();
    let machine = mounted(&lower);
    drop(machine.open("/d/f", OpenFlags::RDWR).unwrap());
    let (dir, file) = (machine.stat("/d").unwrap(), machine.stat("/d/f").unwrap());
    assert_eq!((dir.modified.sec, i64::from(dir.modified.nsec)), (dir_before.mtime(), dir_before.mtime_nsec()));
    assert_eq!((file.modified.sec, i64::from(file.modified.nsec)), (file_before.mtime(), file_before.mtime_nsec()));
    assert_eq!(
        (file.mode, file.uid, file.size_bytes, file.ino),
        (file_before.mode() & 0o7777, file_before.uid(), 100_000, file_before.ino())
    );
    assert_eq!(machine.read("/d/f").unwrap(), vec![7; 100_000]);
}

#[test]
fn a_directory_keeps_its_place_in_a_reading_while_its_names_go() {
    let lower = TempDir::new();
    for i in 0..300 {
        lower.write(&format!("f{i:03}"), "x");
    }
    let machine = mounted(&lower);
    let dir = machine.open("/", OpenFlags::DIRECTORY).unwrap();
    let mut removed = 0;
    // As `rm -r` does it: read some, remove them, go on.
    loop {
        let mut names = Vec::new();
        dir.readdir(&mut |entry| {
            let room = names.len() < 7;
            if room {
                names.push(String::from_utf8_lossy(entry.name).into_owned());
            }
            room
        })
        .unwrap();
        if names.is_empty() {
            break;
        }
        for name in names.iter().filter(|name| !name.starts_with('.')) {
            assert_eq!(Op::Unlink(name.clone()).in_machine(&machine), 0);
            removed += 1;
        }
    }
    assert_eq!(removed, 300);
    assert_eq!(machine.names("/").unwrap(), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(&lower.0).unwrap().count(), 300);
}

#[test]
fn a_renamed_lower_directory_takes_its_contents_along_and_a_new_one_in_its_place_is_empty() {
    let lower = TempDir::new();
    std::fs::create_dir_all(lower.path("a/deep/er")).unwrap();
    lower.write("a/deep/er/f", "x");
    lower.write("a/g", "y");
    let machine = mounted(&lower);
    let ino = machine.stat("/a").unwrap().ino;
    assert_eq!(Op::Rename("a".into(), "b".into(), 0).in_machine(&machine), 0);
    assert_eq!(machine.read("/b/deep/er/f").unwrap(), b"x");
    assert_eq!(machine.stat("/b").unwrap().ino, ino);
    assert_eq!(machine.read("/a/g"), Err(Errno::ENOENT));
    assert_eq!(Op::Mkdir("a".into(), 0o755).in_machine(&machine), 0);
    assert_eq!(machine.names("/a").unwrap(), Vec::<String>::new());
    machine.vfs.dentries().evict(1 << 20);
    assert_eq!(machine.names("/a").unwrap(), Vec::<String>::new());
    machine.write("/b/deep/er/f", b"changed").unwrap();
    assert_eq!(Op::Rename("b/deep".into(), "a/deep".into(), 0).in_machine(&machine), 0);
    machine.vfs.dentries().evict(1 << 20);
    assert_eq!(machine.read("/a/deep/er/f").unwrap(), b"changed");
    assert_eq!(machine.names("/b").unwrap(), ["g"]);
    assert_eq!(lower.read("a/deep/er/f"), b"x");
}

#[test]
fn an_unlinked_lower_file_lives_on_while_it_is_open_and_may_be_changed() {
    let lower = TempDir::new();
    lower.write("f", "lower");
    let machine = mounted(&lower);
    let file = machine.open("/f", OpenFlags::empty()).unwrap();
    assert_eq!(Op::Unlink("f".into()).in_machine(&machine), 0);
    assert_eq!(file.inode().metadata().unwrap().links, 0);
    assert_eq!(read_all(&file).unwrap(), b"lower");
    machine.caller().chmod(file.path(), 0o600).unwrap();
    let metadata = file.inode().metadata().unwrap();
    assert_eq!((metadata.links, metadata.mode), (0, 0o600));
    assert_eq!(read_all(&file).unwrap(), b"lower");
    assert_eq!(machine.names("/").unwrap(), Vec::<String>::new());
}

#[test]
fn changes_of_the_lower_directory_by_others_are_seen_until_something_is_brought_up() {
    let lower = TempDir::new();
    lower.write("f", "one");
    lower.write("g", "one");
    let machine = mounted(&lower);
    assert_eq!(machine.read("/f").unwrap(), b"one");
    machine.write("/g", b"mine").unwrap();
    lower.write("f", "two");
    lower.write("g", "two");
    lower.write("h", "new");
    assert_eq!(machine.read("/f").unwrap(), b"two");
    assert_eq!(machine.read("/g").unwrap(), b"mine");
    assert_eq!(machine.read("/h").unwrap(), b"new");
    assert_eq!(machine.names("/").unwrap(), ["f", "g", "h"]);
}

#[test]
fn what_does_not_fit_above_leaves_everything_as_it_was() {
    let lower = TempDir::new();
    lower.write("big", vec![1; 1 << 20]);
    lower.write("small", "x");
    let machine = mounted_with(&lower, fs::tmpfs::Options { pages: Some(16), ..Default::default() });
    assert_eq!(machine.open("/big", OpenFlags::RDWR).err(), Some(Errno::ENOSPC));
    assert_eq!(machine.read("/big").unwrap().len(), 1 << 20);
    assert_eq!(machine.names("/").unwrap(), ["big", "small"]);
    machine.write("/small", b"fits").unwrap();
    // Cut off, it needs no room.
    machine.write("/big", b"little").unwrap();
    assert_eq!(machine.read("/big").unwrap(), b"little");
}

#[test]
fn whiteouts_can_neither_be_seen_nor_made() {
    let lower = TempDir::new();
    lower.write("f", "x");
    let machine = mounted(&lower);
    let caller = machine.caller();
    let made = caller.mknod(PathAt::cwd(b"/w"), FileKind::CharDevice, 0o600, vfs::DeviceNumber::NONE);
    assert_eq!(made.err().map(|e| e.errno()), Some(Errno::EPERM));
    let renamed = caller.rename(PathAt::cwd(b"/f"), PathAt::cwd(b"/g"), RenameFlags::WHITEOUT);
    assert_eq!(renamed.err().map(|e| e.errno()), Some(Errno::EINVAL));
    assert_eq!(machine.names("/").unwrap(), ["f"]);
}

#[test]
fn holes_stay_holes() {
    let lower = TempDir::new();
    let file = std::fs::File::create(lower.path("sparse")).unwrap();
    file.set_len(40 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"end", (40 << 20) - 3).unwrap();
    let machine = mounted(&lower);
    let opened = machine.open("/sparse", OpenFlags::RDWR).unwrap();
    let metadata = opened.inode().metadata().unwrap();
    assert_eq!((metadata.size_bytes, metadata.blocks), (40 << 20, 8));
}

/// Runs `test` on a thread without privileges; not at all where we have none to drop.
fn unprivileged(test: impl FnOnce() + Send) {
    use rustix::process::Uid;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (root, user) = (Uid::from_raw(0), Uid::from_raw(12_345));
            rustix::thread::set_thread_res_uid(root, user, root).unwrap();
            test();
        });
    });
}

#[test]
fn what_the_host_user_may_not_read_is_empty_once_it_is_brought_up() {
    use std::os::unix::fs::PermissionsExt;
    let lower = TempDir::new();
    lower.write("shadow", "SECRET");
    lower.write("readable", "x");
    std::fs::create_dir_all(lower.path("partial/inner")).unwrap();
    lower.write("partial/f", "SECRET");
    for (name, mode) in [("shadow", 0o600), ("partial", 0o700), ("readable", 0o644), ("", 0o755)] {
        std::fs::set_permissions(lower.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    unprivileged(|| {
        let machine = mounted(&lower);
        assert_eq!(machine.read("/readable").unwrap(), b"x");
        assert_eq!(machine.read("/shadow"), Err(Errno::EACCES), "though the guest is root");
        assert_eq!(machine.stat("/shadow").unwrap().size_bytes, 6);
        assert_eq!(machine.names("/partial"), Err(Errno::EACCES));
        assert_eq!(machine.read("/partial/f"), Err(Errno::ENOENT));
        machine.write("/partial/new", b"y").unwrap();
        assert_eq!(machine.names("/partial").unwrap(), ["new"]);
        let file = machine.open("/shadow", OpenFlags::RDWR).unwrap();
        assert_eq!(read_all(&file).unwrap(), b"");
        write_at(&file, 0, b"mine").unwrap();
        assert_eq!(machine.read("/shadow").unwrap(), b"mine");
        let metadata = machine.stat("/shadow").unwrap();
        assert_eq!((metadata.mode, metadata.uid), (0o600, 0));
        assert_eq!(Op::Rmdir("partial".into()).in_machine(&machine), Errno::ENOTEMPTY.raw());
    });
}

#[test]
fn bringing_up_and_taking_away_at_once_leaves_one_truth() {
    for round in 0..100 * scale() {
        let lower = TempDir::new();
        for name in ["a", "b", "c"] {
            lower.write(name, "lower");
        }
        let machine = mounted(&lower);
        let open: Vec<_> = ["a", "b", "c"].iter().map(|name| machine.open(name, OpenFlags::empty()).unwrap()).collect();
        let removing = [Op::Unlink("a".into()), Op::Rename("c".into(), "b".into(), 0)];
        std::thread::scope(|scope| {
            for file in &open {
                scope.spawn(|| machine.caller().chmod(file.path(), 0o600).unwrap());
            }
            for op in &removing {
                scope.spawn(|| assert_eq!(op.in_machine(&machine), 0));
            }
        });
        assert_eq!(machine.names("/").unwrap(), ["b"], "round {round}");
        machine.vfs.dentries().evict(1 << 20);
        assert_eq!(machine.names("/").unwrap(), ["b"], "round {round}");
        assert_eq!(machine.stat("/b").unwrap().links, 1);
        assert_eq!(Op::Unlink("b".into()).in_machine(&machine), 0);
        assert_eq!(machine.names("/").unwrap(), Vec::<String>::new());
    }
}
