//! Open files and descriptor tables: positions, append, limits, holes, seals, lowest numbers, close-on-exec.

mod common;

use abi::Errno;
use abi::raw::general as raw;
use common::{Machine, read_some, write};
use std::sync::Arc;
use vfs::{FdTable, MapAccess, MapRequest, OnExec, OpenFile, OpenFlags, OpenHow, PathAt, SliceSink, SliceSource, Whence};

fn file(m: &Machine, flags: OpenFlags) -> Arc<OpenFile> {
    m.open("/f", OpenFlags::CREAT | flags).unwrap()
}

#[test]
fn descriptors_are_the_lowest_free_numbers() {
    let m = Machine::new();
    let f = file(&m, OpenFlags::RDWR);
    let table = FdTable::new(m.vfs.ram());
    for expected in 0..200 {
        assert_eq!(table.add(f.clone(), 1024, OnExec::Keep).unwrap(), expected);
    }
    for fd in [150, 3, 70] {
        table.remove(fd).unwrap();
    }
    assert_eq!(table.get(70).map(drop).unwrap_err(), Errno::EBADF);
    assert_eq!(table.add_from(f.clone(), 60, 1024, OnExec::Keep).unwrap(), 70);
    let expected = [3, 150, 200, 201];
    assert_eq!(expected.map(|_| table.add(f.clone(), 1024, OnExec::Close).unwrap()), expected);
    assert_eq!(table.add_from(f.clone(), 500, 1024, OnExec::Keep).unwrap(), 500);
    assert_eq!(table.add(f.clone(), 202, OnExec::Keep).unwrap_err(), Errno::EMFILE);
    assert_eq!(table.add_from(f.clone(), 1024, 1024, OnExec::Keep).unwrap_err(), Errno::EINVAL);
    let child = table.fork().unwrap();
    assert_eq!(child.remove_cloexec().len(), 4);
    assert_eq!(child.descriptors().len(), 199);
    assert_eq!(child.add(f.clone(), 1024, OnExec::Keep).unwrap(), 3);
    assert_eq!(table.remove_range(10, u32::MAX).len(), 193);
    assert_eq!(table.descriptors(), (0..10).collect::<Vec<_>>());
    let other = m.open("/g", OpenFlags::CREAT).unwrap();
    let fd = table.add(other, 1024, OnExec::Close).unwrap();
    assert!(Arc::ptr_eq(&table.replace(fd, 0, 1024, OnExec::Close).unwrap().unwrap(), &f));
    assert_eq!(table.on_exec(0).unwrap(), OnExec::Close);
    assert_eq!(table.replace(fd, 2000, 1024, OnExec::Keep).map(drop).unwrap_err(), Errno::EBADF);
    assert_eq!(table.get(-1).map(drop).unwrap_err(), Errno::EBADF);
    let reserved = table.reserve(0, 1024, OnExec::Keep).unwrap();
    assert_eq!(table.get(reserved).map(drop).unwrap_err(), Errno::EBADF);
    assert_eq!(table.replace(0, reserved, 1024, OnExec::Keep).map(drop).unwrap_err(), Errno::EBUSY);
    table.cancel(reserved);
    assert_eq!(table.add(f, 1024, OnExec::Keep).unwrap(), reserved);
}

#[test]
fn positions_move_and_appends_go_to_the_end() {
    let m = Machine::new();
    let f = file(&m, OpenFlags::RDWR);
    write(&f, b"hello world").unwrap();
    assert_eq!(f.seek(-5, Whence::Current).unwrap(), 6);
    assert_eq!(read_some(&f, 100).unwrap(), b"world");
    assert_eq!(f.seek(-1, Whence::Set).unwrap_err().errno(), Errno::EINVAL);
    let append = m.open("/f", OpenFlags::WRONLY | OpenFlags::APPEND).unwrap();
    write(&f, b"!").unwrap();
    write(&append, b"?").unwrap();
    append.write_at(0, &mut SliceSource::new(b".")).unwrap();
    assert_eq!(m.read("/f").unwrap(), b"hello world!?.");
    assert_eq!(read_some(&append, 1).unwrap_err().errno(), Errno::EBADF);
    append.set_flags(OpenFlags::empty()).unwrap();
    append.write_at(0, &mut SliceSource::new(b"J")).unwrap();
    assert_eq!(&m.read("/f").unwrap()[..2], b"Je");
    let path = m.open("/f", OpenFlags::PATH).unwrap();
    assert_eq!(read_some(&path, 1).unwrap_err().errno(), Errno::EBADF);
    assert_eq!(path.seek(0, Whence::Set).unwrap_err().errno(), Errno::EBADF);
}

#[test]
fn a_writer_stops_at_his_limit_and_then_fails() {
    let m = Machine::new();
    let f = file(&m, OpenFlags::RDWR);
    assert_eq!(f.write_within(&mut SliceSource::new(&[1; 100]), 60).unwrap(), 60);
    assert_eq!(f.write_within(&mut SliceSource::new(b"x"), 60).unwrap_err().errno(), Errno::EFBIG);
    assert_eq!(f.write_at_within(10, &mut SliceSource::new(b"x"), 60).unwrap(), 1);
    assert_eq!(f.write_within(&mut SliceSource::new(b""), 60).unwrap(), 0);
}

#[test]
fn holes_read_as_zeroes_cost_nothing_and_are_found() {
    let m = Machine::new();
    let f = file(&m, OpenFlags::RDWR);
    f.write_at(1 << 40, &mut SliceSource::new(b"end")).unwrap();
    let s = m.stat("/f").unwrap();
    assert_eq!((s.size_bytes, s.blocks), ((1 << 40) + 3, 8));
    let mut buffer = [9; 10];
    assert_eq!(f.read_at(12345, &mut SliceSink::new(&mut buffer)).unwrap(), 10);
    assert_eq!(buffer, [0; 10]);
    assert_eq!(f.seek(0, Whence::Data).unwrap(), 1 << 40);
    assert_eq!(f.seek(0, Whence::Hole).unwrap(), 0);
    assert_eq!(f.seek(1 << 40, Whence::Hole).unwrap(), (1 << 40) + 3);
    assert_eq!(f.seek(1 << 41, Whence::Data).unwrap_err().errno(), Errno::ENXIO);
    f.fallocate(0, 0, 8192).unwrap();
    assert_eq!(m.stat("/f").unwrap().blocks, 24);
    f.fallocate(3, 4096, 4096).unwrap();
    assert_eq!(m.stat("/f").unwrap().blocks, 16);
    assert_eq!(f.fallocate(0x10, 0, 10).unwrap_err().errno(), Errno::EOPNOTSUPP);
}

#[test]
fn a_nameless_file_can_be_given_a_name() {
    let m = Machine::new();
    let f = m.caller().open(PathAt::cwd(b"/"), OpenHow::new(OpenFlags::TMPFILE | OpenFlags::RDWR, 0o600)).unwrap();
    write(&f, b"x").unwrap();
    assert_eq!(m.names("/").unwrap().len(), 2);
    m.caller().link(f.path(), PathAt::cwd(b"/named")).unwrap();
    assert_eq!((m.read("/named").unwrap(), m.stat("/named").unwrap().links), (b"x".to_vec(), 1));
}

#[test]
fn seals_forbid_what_they_name_for_ever() {
    let m = Machine::new();
    let f = fs::tmpfs::memfd(&m.caller(), b"s", 2).unwrap();
    write(&f, &[1; 100]).unwrap();
    let add = |seals: u32| f.ops().fcntl(&f, raw::F_ADD_SEALS, u64::from(seals)).map_err(|e| e.errno());
    add(raw::F_SEAL_SHRINK | raw::F_SEAL_GROW).unwrap();
    let c = m.caller();
    assert_eq!(c.truncate_open(f.path(), 99).unwrap_err(), Errno::EPERM);
    assert_eq!(c.truncate_open(f.path(), 101).unwrap_err(), Errno::EPERM);
    assert_eq!(f.write_at(99, &mut SliceSource::new(b"xy")).unwrap_err().errno(), Errno::EPERM);
    f.write_at(98, &mut SliceSource::new(b"xy")).unwrap();
    add(raw::F_SEAL_WRITE).unwrap();
    assert_eq!(f.write_at(0, &mut SliceSource::new(b"x")).unwrap_err().errno(), Errno::EPERM);
    let map = |access| f.mmap(&MapRequest { offset: 0, len: 4096, access }).map(drop).map_err(|e| e.errno());
    assert_eq!(map(MapAccess::SHARED | MapAccess::WRITE | MapAccess::READ), Err(Errno::EPERM));
    assert_eq!(map(MapAccess::WRITE | MapAccess::READ), Ok(()));
    add(raw::F_SEAL_SEAL).unwrap();
    assert_eq!(add(raw::F_SEAL_WRITE), Err(Errno::EPERM));
    assert_eq!(f.ops().fcntl(&f, raw::F_GET_SEALS, 0).unwrap(), 15);
    let unsealable = fs::tmpfs::memfd(&m.caller(), b"u", 0).unwrap();
    assert_eq!(unsealable.ops().fcntl(&unsealable, raw::F_ADD_SEALS, 2).unwrap_err().errno(), Errno::EPERM);
}

#[test]
fn a_directory_deeper_than_any_stack_is_made_and_dropped() {
    let m = Machine::with_ram(256 << 20);
    let depth = 20_000;
    for _ in 0..depth {
        m.mkdir("d").unwrap();
        m.caller().chdir(PathAt::cwd(b"d")).unwrap();
    }
    assert_eq!(m.caller().path_name(&m.fs.cwd()).unwrap().len(), 2 * depth);
    m.mkdir("/mnt").unwrap();
    m.mount("tmpfs", "/mnt", vfs::MountFlags::empty(), "nr_inodes=0").unwrap();
    m.caller().chdir(PathAt::cwd(b"/mnt")).unwrap();
    for _ in 0..depth {
        m.mkdir("d").unwrap();
        m.caller().chdir(PathAt::cwd(b"d")).unwrap();
    }
    m.umount("/mnt", vfs::Unmount::Detach).unwrap();
    m.caller().chdir(PathAt::cwd(b"/")).unwrap();
}

#[test]
fn times_follow_reads_and_writes_as_relatime_says() {
    let m = Machine::new();
    let f = file(&m, OpenFlags::RDWR);
    write(&f, b"x").unwrap();
    let written = m.stat("/f").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2));
    f.seek(0, Whence::Set).unwrap();
    read_some(&f, 1).unwrap();
    let read = m.stat("/f").unwrap();
    assert!(read.accessed > written.modified);
    std::thread::sleep(std::time::Duration::from_millis(2));
    f.seek(0, Whence::Set).unwrap();
    read_some(&f, 1).unwrap();
    assert_eq!(m.stat("/f").unwrap().accessed, read.accessed, "a second read leaves no trace");
}
