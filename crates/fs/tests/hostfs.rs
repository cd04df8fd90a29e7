//! hostfs over real directories of the host.

mod trees;

use abi::Errno;
use fs::hostfs::{HostFs, HostFsType, Options};
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::Arc;
use trees::*;
use vfs::{FileKind, FileSystemType, MountFlags, MountRequest, OpenFlags};

const AT_ONCE: Options = Options { valid_ns: 0, read_only: false, append: false };

fn mounted(dir: &TempDir, options: Options) -> Machine {
    let vfs = machine();
    let tree = host::files::open_tree(&dir.0).unwrap();
    Machine::new(vfs, HostFs::new(vfs.ram(), tree, options, "").unwrap())
}

#[test]
fn random_operations_do_what_they_do_in_a_plain_directory() {
    for seed in 0..4 * scale() {
        let (shared, plain) = (TempDir::new(), TempDir::new());
        let machine = mounted(&shared, AT_ONCE);
        let dir = plain.fd();
        let mut random = Random(seed);
        for step in 0..400 {
            let op = Op::random(&mut random);
            assert_eq!(op.in_machine(&machine), op.on_host(&dir), "seed {seed}, step {step}: {op:?}");
            if step % 50 == 49 {
                let (mut seen, mut on_host, mut expected) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
                machine_tree(&machine, "", &mut seen);
                host_tree(&shared.fd(), "", &mut on_host);
                host_tree(&dir, "", &mut expected);
                assert_eq!(on_host, expected, "seed {seed}, step {step}: on the host");
                assert_eq!(seen, expected, "seed {seed}, step {step}: in the machine");
            }
        }
    }
}

#[test]
fn changes_on_the_host_are_seen_at_once_or_when_what_is_known_has_aged() {
    for (valid_ns, at_once) in [(0, true), (300_000_000, false)] {
        let dir = TempDir::new();
        dir.write("f", "old");
        std::fs::create_dir(dir.path("d")).unwrap();
        let machine = mounted(&dir, Options { valid_ns, ..AT_ONCE });
        assert_eq!(machine.read("/f").unwrap(), b"old");
        let held = machine.open("/f", OpenFlags::empty()).unwrap();
        dir.write("f", "newer");
        if !at_once {
            assert_eq!(machine.read("/f").unwrap(), b"old", "served from memory");
            std::thread::sleep(std::time::Duration::from_millis(310));
        }
        assert_eq!(machine.read("/f").unwrap(), b"newer");
        assert_eq!(read_all(&held).unwrap(), b"newer");
        assert_eq!(machine.stat("/f").unwrap().size_bytes, 5);
        dir.write("d/new", "x");
        assert_eq!(machine.read("/d/new").unwrap(), b"x", "a new name is seen at once");
        std::fs::remove_file(dir.path("f")).unwrap();
        std::fs::create_dir(dir.path("f")).unwrap();
        std::thread::sleep(std::time::Duration::from_nanos(valid_ns + 10_000_000));
        assert_eq!(machine.stat("/f").unwrap().kind, FileKind::Directory);
    }
}

#[test]
fn a_file_of_many_pages_is_read_whole_and_in_pieces() {
    let dir = TempDir::new();
    let data: Vec<u8> = (0..3_000_001u32).map(|i| (i / 3) as u8).collect();
    dir.write("big", &data);
    let machine = mounted(&dir, AT_ONCE);
    assert!(machine.read("/big").unwrap() == data);
    let file = machine.open("/big", OpenFlags::RDWR).unwrap();
    let mut buffer = [0; 10];
    let n = file.read_at(1_000_000, &mut vfs::SliceSink::new(&mut buffer)).unwrap();
    assert_eq!(&buffer[..n], &data[1_000_000..1_000_010]);
    assert_eq!(file.read_at(3_000_001, &mut vfs::SliceSink::new(&mut buffer)), Ok(0));
    assert_eq!(file.read_at(u64::MAX - 5, &mut vfs::SliceSink::new(&mut buffer)), Ok(0));
    write_at(&file, 4090, b"across pages").unwrap();
    assert_eq!(&dir.read("big")[4090..4102], b"across pages");
    let mut buffer = [0; 12];
    file.read_at(4090, &mut vfs::SliceSink::new(&mut buffer)).unwrap();
    assert_eq!(&buffer, b"across pages");
}

#[test]
fn pages_are_given_up_when_ram_runs_out() {
    let dir = TempDir::new();
    for i in 0..6 {
        std::fs::write(dir.path(&format!("f{i}")), vec![i as u8; 20 << 20]).unwrap();
    }
    let machine = mounted(&dir, AT_ONCE);
    for round in 0..2 {
        for i in 0..6 {
            let data = machine.read(&format!("/f{i}")).unwrap();
            assert!(data.len() == 20 << 20 && data.iter().all(|b| *b == i as u8), "round {round}");
        }
    }
}

#[test]
fn stores_through_a_shared_mapping_reach_the_host_at_fsync() {
    let dir = TempDir::new();
    dir.write("f", [b'.'; 5000]);
    let machine = mounted(&dir, AT_ONCE);
    let file = machine.open("/f", OpenFlags::RDWR).unwrap();
    let request = vfs::MapRequest { offset: 0, len: 8192, access: vfs::MapAccess::READ | vfs::MapAccess::WRITE | vfs::MapAccess::SHARED };
    let pages = file.mmap(&request).unwrap();
    assert_eq!(pages.len_pages(), 2);
    let frame = pages.page(1, true).unwrap();
    frame.write(0, b"stored");
    assert_eq!(pages.page(2, false).err(), Some(Errno::ENXIO));
    file.fsync(0, u64::MAX, vfs::SyncKind::All).unwrap();
    assert_eq!(&dir.read("f")[4096..4103], b"stored.");
    assert_eq!(dir.read("f").len(), 5000);
    pages.page(0, true).unwrap().write(0, b"unsynced");
    drop((file, pages, frame));
    machine.path("/f").unwrap().mount.superblock().file_system().sync().unwrap();
    assert_eq!(&dir.read("f")[..8], b"unsynced");
}

#[test]
fn what_a_mapping_stored_behind_the_end_is_gone_when_the_file_grows() {
    let dir = TempDir::new();
    dir.write("f", "short");
    let machine = mounted(&dir, AT_ONCE);
    let file = machine.open("/f", OpenFlags::RDWR).unwrap();
    let request = vfs::MapRequest { offset: 0, len: 4096, access: vfs::MapAccess::READ | vfs::MapAccess::WRITE | vfs::MapAccess::SHARED };
    let pages = file.mmap(&request).unwrap();
    for grow in [0, 1] {
        let end = file.inode().metadata().unwrap().size_bytes;
        pages.page(0, true).unwrap().write(end as usize, b"beyond");
        match grow {
            0 => write_at(&file, end + 10, b"x").unwrap(),
            _ => file.inode().truncate(end + 20).unwrap(),
        }
        let data = read_all(&file).unwrap();
        assert!(data[end as usize..end as usize + 10].iter().all(|b| *b == 0), "{data:?}");
        assert_eq!(dir.read("f"), data);
    }
}

#[test]
fn an_unlinked_file_lives_on_while_it_is_open() {
    let dir = TempDir::new();
    let machine = mounted(&dir, AT_ONCE);
    machine.write("/f", b"data").unwrap();
    let file = machine.open("/f", OpenFlags::RDWR).unwrap();
    assert_eq!(Op::Unlink("f".into()).in_machine(&machine), 0);
    write_at(&file, 4, b" more").unwrap();
    assert_eq!(read_all(&file).unwrap(), b"data more");
    assert_eq!(file.inode().metadata().unwrap().links, 0);
    assert_eq!(machine.read("/f"), Err(Errno::ENOENT));
}

#[test]
fn nodes_of_the_host_appear_but_lead_to_the_guest() {
    let machine = mounted(&TempDir(std::path::PathBuf::from("/dev").join("..").join("dev")).leak(), AT_ONCE);
    let null = machine.stat("/null").unwrap();
    assert_eq!((null.kind, null.rdev), (FileKind::CharDevice, vfs::DeviceNumber::new(1, 3)));
    // No driver in this machine, though the host has one.
    assert_eq!(machine.open("/null", OpenFlags::empty()).err(), Some(Errno::ENXIO));
    let dir = TempDir::new();
    let machine = mounted(&dir, AT_ONCE);
    let made = machine.caller().mknod(vfs::PathAt::cwd(b"/dev0"), FileKind::CharDevice, 0o600, vfs::DeviceNumber::new(1, 3));
    assert_eq!(made.err().map(|e| e.errno()), Some(Errno::EPERM));
    machine.caller().mknod(vfs::PathAt::cwd(b"/fifo"), FileKind::Fifo, 0o600, vfs::DeviceNumber::NONE).unwrap();
    assert_eq!(machine.stat("/fifo").unwrap().kind, FileKind::Fifo);
}

impl TempDir {
    /// For a directory that is not ours to remove.
    fn leak(self) -> std::mem::ManuallyDrop<TempDir> {
        std::mem::ManuallyDrop::new(self)
    }
}

#[test]
fn the_append_option_lets_files_only_grow() {
    let dir = TempDir::new();
    dir.write("log", "one ");
    let machine = mounted(&dir, Options { append: true, ..AT_ONCE });
    let file = machine.open("/log", OpenFlags::WRONLY | OpenFlags::TRUNC).unwrap();
    write_at(&file, 0, b"two").unwrap();
    assert_eq!(dir.read("log"), b"one two");
    assert_eq!(Op::Unlink("log".into()).in_machine(&machine), Errno::EPERM.raw());
}

#[test]
fn a_read_only_instance_changes_nothing() {
    let dir = TempDir::new();
    dir.write("f", "x");
    let machine = mounted(&dir, Options { read_only: true, ..AT_ONCE });
    for seed in 0..50 {
        let op = Op::random(&mut Random(seed));
        assert_ne!(op.in_machine(&machine), 0, "{op:?}");
    }
    assert_eq!(machine.open("/f", OpenFlags::RDWR).err(), Some(Errno::EROFS));
    assert_eq!(dir.read("f"), b"x");
}

#[test]
fn a_mount_below_the_confinement_stays_below_it() {
    let dir = TempDir::new();
    std::fs::create_dir_all(dir.path("in/sub/deep")).unwrap();
    dir.write("secret", "SECRET");
    dir.write("in/sub/f", "inside");
    symlink("sub", dir.path("in/link")).unwrap();
    symlink("/sub/deep", dir.path("in/absolute")).unwrap();
    symlink("..", dir.path("in/up")).unwrap();
    symlink("/", dir.path("in/top")).unwrap();
    symlink("../..", dir.path("in/sub/out")).unwrap();
    let tree = host::files::open_tree(&dir.path("in")).unwrap();
    let kind = HostFsType::new(tree, AT_ONCE);
    let vfs = machine();
    let credentials = vfs::Credentials::root();
    let mount = |data: &[u8]| {
        let (source, flags) = (&b"none"[..], MountFlags::empty());
        let request = MountRequest { vfs, source, source_path: None, flags, data, credentials: &credentials };
        kind.mount(&request).map(|fs| Machine::new(vfs, fs))
    };
    assert_eq!(mount(b"").unwrap().names("/").unwrap().len(), 5);
    assert_eq!(mount(b"/sub").unwrap().read("/f").unwrap(), b"inside");
    assert_eq!(mount(b"/link").unwrap().read("/f").unwrap(), b"inside");
    assert_eq!(mount(b"/absolute").unwrap().names("/").unwrap(), Vec::<String>::new());
    // `/` is the top of what was given away.
    assert_eq!(mount(b"/top").unwrap().names("/").unwrap().len(), 5);
    for out in [&b"/.."[..], b"/sub/../..", b"/up", b"/sub/out", b"/sub/out/x", b"/missing"] {
        assert!(mount(out).is_err(), "{}", String::from_utf8_lossy(out));
    }
    // A link is the guest's own affair once mounted: it leads to the guest's root.
    let machine = mount(b"/").unwrap();
    assert_eq!(machine.read("/up/secret"), Err(Errno::ENOENT));
    assert_eq!(machine.read("/sub/../../secret"), Err(Errno::ENOENT));
    assert_eq!(machine.read("/sub/out/secret"), Err(Errno::ENOENT));
}

#[test]
fn inode_numbers_and_owners_are_the_hosts() {
    let dir = TempDir::new();
    dir.write("f", "x");
    std::fs::hard_link(dir.path("f"), dir.path("g")).unwrap();
    let machine = mounted(&dir, AT_ONCE);
    let (ours, theirs) = (machine.stat("/f").unwrap(), std::fs::metadata(dir.path("f")).unwrap());
    assert_eq!((ours.ino, ours.uid, ours.mode, ours.links), (theirs.ino(), theirs.uid(), theirs.mode() & 0o7777, 2));
    let (f, g) = (machine.path("/f").unwrap(), machine.path("/g").unwrap());
    assert!(Arc::ptr_eq(f.inode(), g.inode()));
    machine.write("/f", b"both").unwrap();
    assert_eq!(machine.read("/g").unwrap(), b"both");
}
