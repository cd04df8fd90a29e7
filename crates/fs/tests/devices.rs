//! Devices without hardware, and the nodes that come and go with devices.

mod common;

use abi::Errno;
use common::{Machine, read_some, write};
use std::sync::Arc;
use vfs::{DeviceInfo, DeviceKind, DeviceNumber, FileKind, FileOps, MountFlags, Open, OpenFlags};

fn machine() -> Machine {
    let m = Machine::new();
    fs::devices::register(m.vfs, Arc::new(|buffer: &mut [u8]| buffer.fill(7))).unwrap();
    let devtmpfs = fs::devtmpfs::Devtmpfs::new(m.vfs).unwrap();
    m.vfs.register_type(devtmpfs);
    m.mkdir("/dev").unwrap();
    m.mount("devtmpfs", "/dev", MountFlags::empty(), "").unwrap();
    m
}

#[test]
fn the_memory_devices_behave_as_null_4_says() {
    let m = machine();
    let open = |name: &str| m.open(name, OpenFlags::RDWR).unwrap();
    let (null, zero, full, random) = (open("/dev/null"), open("/dev/zero"), open("/dev/full"), open("/dev/random"));
    assert_eq!(read_some(&null, 5).unwrap(), b"");
    assert_eq!(write(&null, b"hello").unwrap(), 5);
    assert_eq!(read_some(&zero, 5).unwrap(), [0; 5]);
    assert_eq!(write(&zero, b"hello").unwrap(), 5);
    assert_eq!(read_some(&full, 5).unwrap(), [0; 5]);
    assert_eq!(write(&full, b"hello").unwrap_err().errno(), Errno::ENOSPC);
    assert_eq!(read_some(&random, 300).unwrap(), [7; 300]);
}

#[test]
fn a_node_lives_as_long_as_its_device() {
    let m = machine();
    let ops: Arc<dyn FileOps> = m.open("/dev/null", OpenFlags::RDWR).unwrap().ops().clone();
    let device = Arc::new(move |_: &Open<'_>| Ok(ops.clone()));
    let number = DeviceNumber::new(200, 5);
    assert_eq!(m.stat("/dev/sub/dir/thing").unwrap_err(), Errno::ENOENT);
    m.vfs.devices.add(DeviceInfo::char(number, "sub/dir/thing", 0o640, "misc", device)).unwrap();
    let there = m.stat("/dev/sub/dir/thing").unwrap();
    assert_eq!((there.kind, there.rdev, there.mode), (FileKind::CharDevice, number, 0o640));
    m.open("/dev/sub/dir/thing", OpenFlags::RDWR).unwrap();
    m.vfs.devices.remove(DeviceKind::Char, number).unwrap();
    assert_eq!(m.stat("/dev/sub").unwrap_err(), Errno::ENOENT);
    m.caller().mknod(vfs::PathAt::cwd(b"/dev/orphan"), FileKind::CharDevice, 0o600, number).unwrap();
    assert_eq!(m.open("/dev/orphan", OpenFlags::RDWR).map(drop).unwrap_err().errno(), Errno::ENXIO);
}

#[test]
fn the_log_is_read_a_record_at_a_time_and_written_as_a_user() {
    let m = machine();
    m.vfs.log.print(6, "first\\line");
    let kmsg = m.open("/dev/kmsg", OpenFlags::RDWR | OpenFlags::NONBLOCK).unwrap();
    assert_eq!(write(&kmsg, b"<3>oops\n").unwrap(), 8);
    let line = |text: Vec<u8>| String::from_utf8(text).unwrap();
    let first = line(read_some(&kmsg, 1000).unwrap());
    assert!(first.starts_with("6,0,") && first.ends_with(",-;first\\x5cline\n"), "{first}");
    assert_eq!(read_some(&kmsg, 4).unwrap_err().errno(), Errno::EINVAL);
    let second = line(read_some(&kmsg, 1000).unwrap());
    assert!(second.starts_with("11,1,") && second.ends_with(",-;oops\n"), "{second}");
    assert_eq!(read_some(&kmsg, 1000).unwrap_err().errno(), Errno::EAGAIN);
}

#[test]
fn sys_shows_devices_by_class_and_by_number() {
    let m = machine();
    let sysfs = fs::sysfs::Sysfs::new(m.vfs);
    m.vfs.register_type(sysfs.clone());
    m.mkdir("/sys").unwrap();
    m.mount("sysfs", "/sys", MountFlags::empty(), "").unwrap();
    sysfs.set_cpus(2);
    assert_eq!(m.read("/sys/dev/char/1:3/dev").unwrap(), b"1:3\n");
    assert_eq!(m.read("/sys/class/mem/null/uevent").unwrap(), b"MAJOR=1\nMINOR=3\nDEVNAME=null\n");
    assert_eq!(m.read("/sys/class/mem/null/subsystem/zero/dev").unwrap(), b"1:5\n");
    assert_eq!(m.read("/sys/devices/system/cpu/online").unwrap(), b"0-1\n");
    m.mount("tmpfs", "/sys/fs/cgroup", MountFlags::empty(), "").unwrap();
    m.write("/sys/fs/cgroup/x", b"").unwrap();
    let ops: Arc<dyn FileOps> = m.open("/dev/null", OpenFlags::RDWR).unwrap().ops().clone();
    let device = Arc::new(move |_: &Open<'_>| Ok(ops.clone()));
    m.vfs.devices.add(DeviceInfo::block(DeviceNumber::new(98, 0), "ubda", 0o660, device)).unwrap();
    assert_eq!(m.read("/sys/block/ubda/dev").unwrap(), b"98:0\n");
    m.write("/sys/block/ubda/uevent", b"change\n").unwrap();
    assert_eq!(m.write("/sys/block/ubda/uevent", b"explode").unwrap_err(), Errno::EINVAL);
    m.vfs.devices.remove(DeviceKind::Block, DeviceNumber::new(98, 0)).unwrap();
    assert_eq!(m.stat("/sys/block/ubda").unwrap_err(), Errno::ENOENT);
    assert_eq!(m.mkdir("/sys/block/x").unwrap_err(), Errno::EPERM);
}
