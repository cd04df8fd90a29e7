//! The mount tree: bind, move, remount, propagation, pivot_root, namespaces.

mod common;

use abi::{Errno, SysError};
use common::Machine;
use vfs::{LookupFlags, MountFlags, OpenFlags, PathAt, Unmount};

fn bind(m: &Machine, from: &str, to: &str, more: MountFlags) -> Result<(), Errno> {
    m.mount_from(from, "", to, MountFlags::BIND | more, "")
}

#[test]
fn a_bind_mount_shows_the_same_files_at_another_place() {
    let m = Machine::new();
    for dir in ["/a", "/a/sub", "/b", "/c"] {
        m.mkdir(dir).unwrap();
    }
    m.mount("tmpfs", "/a/sub", MountFlags::empty(), "").unwrap();
    m.write("/a/sub/in", b"deep").unwrap();
    m.write("/a/f", b"one").unwrap();
    bind(&m, "/a", "/b", MountFlags::empty()).unwrap();
    assert_eq!(m.read("/b/f").unwrap(), b"one");
    assert_eq!(m.stat("/b/sub/in").unwrap_err(), Errno::ENOENT, "not recursive");
    bind(&m, "/a", "/c", MountFlags::REC).unwrap();
    assert_eq!(m.read("/c/sub/in").unwrap(), b"deep");
    assert_eq!(m.rename("/a/f", "/b/g").unwrap_err(), Errno::EXDEV);
    assert_eq!(m.link("/a/f", "/b/g").unwrap_err(), Errno::EXDEV);
    m.mount("", "/b", MountFlags::BIND | MountFlags::REMOUNT | MountFlags::RDONLY, "").unwrap();
    assert_eq!(m.write("/b/f", b"two").unwrap_err(), Errno::EROFS);
    m.write("/a/f", b"two").unwrap();
    assert_eq!(m.umount("/c", Unmount::IfUnused).unwrap_err(), Errno::EBUSY);
    m.umount("/c", Unmount::Detach).unwrap();
    assert_eq!(m.stat("/c/f").unwrap_err(), Errno::ENOENT);
    m.write("/file", b"").unwrap();
    assert_eq!(bind(&m, "/a", "/file", MountFlags::empty()).unwrap_err(), Errno::ENOTDIR);
    m.write("/other", b"other").unwrap();
    bind(&m, "/other", "/file", MountFlags::empty()).unwrap();
    assert_eq!(m.read("/file").unwrap(), b"other");
    assert_eq!(m.unlink("/file").unwrap_err(), Errno::EBUSY);
}

#[test]
fn a_mount_moves_with_everything_below_but_not_below_itself() {
    let m = Machine::new();
    m.mkdir("/a").unwrap();
    m.mkdir("/b").unwrap();
    m.mount("tmpfs", "/a", MountFlags::empty(), "").unwrap();
    m.mkdir("/a/x").unwrap();
    m.mount("tmpfs", "/a/x", MountFlags::empty(), "").unwrap();
    m.write("/a/x/f", b"f").unwrap();
    assert_eq!(m.mount_from("/a", "", "/a/x", MountFlags::MOVE, "").unwrap_err(), Errno::ELOOP);
    m.mount_from("/a", "", "/b", MountFlags::MOVE, "").unwrap();
    assert_eq!(m.read("/b/x/f").unwrap(), b"f");
    assert_eq!(m.names("/a").unwrap().len(), 2);
    assert_eq!(m.stat("/b/x/../..").unwrap().ino, m.stat("/").unwrap().ino);
}

#[test]
fn shared_mounts_spread_and_slaves_only_receive() {
    let m = Machine::new();
    for dir in ["/a", "/peer", "/slave", "/private"] {
        m.mkdir(dir).unwrap();
    }
    m.mount("tmpfs", "/a", MountFlags::empty(), "").unwrap();
    for dir in ["/a/x", "/a/y"] {
        m.mkdir(dir).unwrap();
    }
    m.mount("", "/a", MountFlags::SHARED, "").unwrap();
    bind(&m, "/a", "/peer", MountFlags::empty()).unwrap();
    bind(&m, "/a", "/slave", MountFlags::empty()).unwrap();
    m.mount("", "/slave", MountFlags::SLAVE, "").unwrap();
    bind(&m, "/a", "/private", MountFlags::empty()).unwrap();
    m.mount("", "/private", MountFlags::PRIVATE, "").unwrap();
    m.mount("tmpfs", "/peer/x", MountFlags::empty(), "").unwrap();
    m.write("/peer/x/f", b"").unwrap();
    let sees = |path: &str| m.stat(path).is_ok();
    assert_eq!([sees("/a/x/f"), sees("/slave/x/f"), sees("/private/x/f")], [true, true, false]);
    m.mount("tmpfs", "/slave/y", MountFlags::empty(), "").unwrap();
    m.write("/slave/y/f", b"").unwrap();
    assert_eq!([sees("/a/y/f"), sees("/peer/y/f")], [false, false]);
    m.umount("/a/x", Unmount::IfUnused).unwrap();
    assert_eq!([sees("/peer/x/f"), sees("/slave/x/f")], [false, false]);
}

#[test]
fn a_copied_namespace_goes_its_own_way() {
    let m = Machine::new();
    m.mkdir("/a").unwrap();
    m.mount("tmpfs", "/a", MountFlags::empty(), "").unwrap();
    m.mkdir("/a/cwd").unwrap();
    m.caller().chdir(PathAt::cwd(b"/a/cwd")).unwrap();
    let (namespace, map) = m.caller().copy_namespace().unwrap();
    let other = Machine { vfs: m.vfs, namespace, fs: m.fs.fork(), credentials: m.credentials.clone() };
    other.fs.translate(|path| map.translate(path));
    drop(map);
    other.mkdir("sub").unwrap();
    assert!(m.stat("/a/cwd/sub").is_ok(), "files are shared, mounts are not");
    other.mount("tmpfs", "/a/cwd/sub", MountFlags::empty(), "").unwrap();
    other.write("/a/cwd/sub/f", b"").unwrap();
    assert_eq!(m.stat("/a/cwd/sub/f").unwrap_err(), Errno::ENOENT);
    m.caller().chdir(PathAt::cwd(b"/")).unwrap();
    m.umount("/a", Unmount::IfUnused).unwrap();
    assert!(other.stat("/a/cwd/sub/f").is_ok());
    m.mkdir("/theirs").unwrap();
    other.mount("tmpfs", "/theirs", MountFlags::empty(), "").unwrap();
    assert_eq!(other.rmdir("/theirs").unwrap_err(), Errno::EBUSY);
    m.rmdir("/theirs").unwrap();
    assert_eq!(other.stat("/theirs").unwrap_err(), Errno::ENOENT);
}

#[test]
fn pivot_root_puts_the_old_root_where_it_is_told() {
    let m = Machine::new();
    m.mkdir("/new").unwrap();
    let pivot = |new: &str, old: &str| {
        m.caller().pivot_root(PathAt::cwd(new.as_bytes()), PathAt::cwd(old.as_bytes())).map(|(old, new)| {
            m.fs.translate(|path| (*path == old).then(|| new.clone()));
        })
    };
    assert_eq!(pivot("/new", "/new").map_err(SysError::errno).unwrap_err(), Errno::EBUSY);
    // As the kernel does at boot: a root over the first one, moved there.
    m.mount("tmpfs", "/new", MountFlags::empty(), "").unwrap();
    m.caller().chdir(PathAt::cwd(b"/new")).unwrap();
    m.mount_from(".", "", "/", MountFlags::MOVE, "").unwrap();
    m.caller().chroot(PathAt::cwd(b".")).unwrap();
    m.mkdir("/second").unwrap();
    m.mount("tmpfs", "/second", MountFlags::empty(), "").unwrap();
    m.mkdir("/second/old").unwrap();
    m.caller().chdir(PathAt::cwd(b"/")).unwrap();
    pivot("/second", "/second/old").unwrap();
    assert!(m.stat("/old/second").is_ok());
    m.umount("/old", Unmount::Detach).unwrap();
    assert_eq!(m.names("/old").unwrap().len(), 2);
}

#[test]
fn chroot_confines_and_openat2_confines_more() {
    let m = Machine::new();
    for dir in ["/jail", "/jail/in", "/out"] {
        m.mkdir(dir).unwrap();
    }
    m.write("/secret", b"s").unwrap();
    m.symlink("/secret", "/jail/abs").unwrap();
    m.symlink("../../secret", "/jail/in/rel").unwrap();
    let c = m.caller();
    let jail = c.lookup(PathAt::cwd(b"/jail"), LookupFlags::FOLLOW).unwrap();
    let at = |path: &'static [u8], resolve: u64| {
        let flags = LookupFlags::from_resolve(resolve).unwrap() | LookupFlags::FOLLOW;
        c.lookup(PathAt::at(&jail, path), flags).map(drop).map_err(SysError::errno)
    };
    const BENEATH: u64 = 8;
    const IN_ROOT: u64 = 16;
    const NO_SYMLINKS: u64 = 4;
    assert_eq!(at(b"abs", 0), Ok(()));
    assert_eq!(at(b"abs", BENEATH), Err(Errno::EXDEV));
    assert_eq!(at(b"abs", IN_ROOT), Err(Errno::ENOENT));
    assert_eq!(at(b"abs", NO_SYMLINKS), Err(Errno::ELOOP));
    assert_eq!(at(b"in/rel", BENEATH), Err(Errno::EXDEV));
    assert_eq!(at(b"in/../in", BENEATH), Ok(()));
    assert_eq!(at(b"..", BENEATH), Err(Errno::EXDEV));
    assert_eq!(at(b"../../in", IN_ROOT), Ok(()));
    assert_eq!(at(b"/in", BENEATH), Err(Errno::EXDEV));
    assert_eq!(at(b"/in", IN_ROOT), Ok(()));
    let inside = Machine { vfs: m.vfs, namespace: m.namespace.clone(), fs: m.fs.fork(), credentials: m.credentials.clone() };
    inside.caller().chroot(PathAt::cwd(b"/jail")).unwrap();
    inside.caller().chdir(PathAt::cwd(b"/")).unwrap();
    assert_eq!(inside.stat("/abs").unwrap_err(), Errno::ENOENT);
    assert!(inside.stat("/../../in").is_ok());
    let fd = inside.open("/in", OpenFlags::DIRECTORY).unwrap();
    assert_eq!(inside.caller().path_name(fd.path()).unwrap(), b"/in");
}
