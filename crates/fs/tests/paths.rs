//! Path operations on tmpfs, as tables of what Linux answers.

mod common;

use abi::Errno;
use common::{Machine, write};
use vfs::{MountFlags, OpenFlags, Unmount};

#[test]
fn a_file_holds_what_was_written_and_its_names_come_and_go() {
    let m = Machine::new();
    m.mkdir("/d").unwrap();
    m.write("/d/f", b"hello").unwrap();
    assert_eq!(m.read("/d/f").unwrap(), b"hello");
    assert_eq!(m.read("d/../d/./f").unwrap(), b"hello");
    m.link("/d/f", "/g").unwrap();
    assert_eq!(m.stat("/g").unwrap().links, 2);
    m.rename("/g", "/d/h").unwrap();
    assert_eq!(m.names("/d").unwrap(), [".", "..", "f", "h"]);
    m.unlink("/d/f").unwrap();
    m.unlink("/d/h").unwrap();
    m.rmdir("/d").unwrap();
    assert_eq!(m.stat("/d").unwrap_err(), Errno::ENOENT);
}

#[test]
fn symbolic_links_are_followed_forty_times() {
    let m = Machine::new();
    m.write("/l0", b"end").unwrap();
    for i in 1..=41 {
        m.symlink(&format!("l{}", i - 1), &format!("/l{i}")).unwrap();
    }
    assert_eq!(m.read("/l40").unwrap(), b"end");
    assert_eq!(m.read("/l41").unwrap_err(), Errno::ELOOP);
    m.mkdir("/d").unwrap();
    m.symlink("../d/", "/d/self").unwrap();
    m.write("/d/self/self/self/f", b"x").unwrap();
    assert_eq!(m.read("/d/f").unwrap(), b"x");
}

#[test]
fn a_mount_covers_and_uncovers_a_directory() {
    let m = Machine::new();
    m.mkdir("/mnt").unwrap();
    m.write("/mnt/below", b"").unwrap();
    m.mount("tmpfs", "/mnt", MountFlags::empty(), "size=8k,mode=700").unwrap();
    assert_eq!(m.stat("/mnt/below").unwrap_err(), Errno::ENOENT);
    assert_eq!(m.stat("/mnt").unwrap().mode, 0o700);
    assert_ne!(m.stat("/mnt").unwrap().dev, m.stat("/").unwrap().dev);
    assert_eq!(m.stat("/mnt/..").unwrap().ino, m.stat("/").unwrap().ino);
    let file = m.open("/mnt/f", OpenFlags::CREAT | OpenFlags::RDWR).unwrap();
    assert_eq!(write(&file, &[1; 10000]).unwrap(), 8192);
    assert_eq!(write(&file, b"x").unwrap_err().errno(), Errno::ENOSPC);
    assert_eq!(m.umount("/mnt", Unmount::IfUnused).unwrap_err(), Errno::EBUSY);
    drop(file);
    m.umount("/mnt", Unmount::IfUnused).unwrap();
    assert_eq!(m.read("/mnt/below").unwrap(), b"");
}
