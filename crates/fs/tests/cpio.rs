//! Initramfs archives unpacked into a tmpfs.

mod trees;

use fs::tmpfs::{Options, Tmpfs};
use trees::*;
use vfs::{DeviceNumber, FileKind, LookupFlags, PathAt};

/// An entry: name, mode, inode number, names, device number, data. Owner 3:4, time 1,600,000,000.
fn entry(out: &mut Vec<u8>, name: &str, mode: u32, ino: u32, links: u32, rdev: (u32, u32), data: &[u8]) {
    let numbers = [ino, mode, 3, 4, links, 1_600_000_000, data.len() as u32, 8, 1, rdev.0, rdev.1, name.len() as u32 + 1, 0];
    out.extend_from_slice(b"070701");
    numbers.iter().for_each(|number| out.extend_from_slice(format!("{number:08x}").as_bytes()));
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn machine_with_tmpfs(pages: u64) -> Machine {
    let vfs = machine();
    Machine::new(vfs, Tmpfs::new(vfs.ram(), "tmpfs", Options { pages: Some(pages), ..Options::default() }).unwrap())
}

fn unpack(machine: &Machine, archive: &[u8]) -> Result<fs::cpio::Unpacked, (fs::cpio::Error, fs::cpio::Unpacked)> {
    let root = machine.path("/").unwrap();
    fs::cpio::unpack_into(&machine.caller(), &root, &mut &archive[..])
}

#[test]
fn an_archive_becomes_files_with_their_owners_modes_and_times() {
    let mut archive = Vec::new();
    entry(&mut archive, ".", 0o040_755, 1, 2, (0, 0), b"");
    entry(&mut archive, "dir", 0o042_770, 2, 2, (0, 0), b"");
    entry(&mut archive, "dir/suid", 0o104_755, 3, 1, (0, 0), &[7; 100_000]);
    entry(&mut archive, "null", 0o020_666, 4, 1, (1, 3), b"");
    entry(&mut archive, "link", 0o120_777, 5, 1, (0, 0), b"dir/suid");
    entry(&mut archive, "one", 0o100_644, 6, 2, (0, 0), b"");
    entry(&mut archive, "two", 0o100_644, 6, 2, (0, 0), b"both");
    entry(&mut archive, "missing/parent", 0o100_644, 7, 1, (0, 0), b"x");
    entry(&mut archive, "../escape", 0o100_644, 8, 1, (0, 0), b"x");
    entry(&mut archive, "TRAILER!!!", 0, 0, 1, (0, 0), b"");
    // A second archive replaces what the first one made.
    entry(&mut archive, "null", 0o100_600, 1, 1, (0, 0), b"file now");
    entry(&mut archive, "dir", 0o040_700, 2, 2, (0, 0), b"");
    entry(&mut archive, "TRAILER!!!", 0, 0, 1, (0, 0), b"");
    let machine = machine_with_tmpfs(1000);
    let done = unpack(&machine, &archive).unwrap();
    assert_eq!((done.entries, done.skipped), (9, 2));
    let suid = machine.stat("/dir/suid").unwrap();
    assert_eq!((suid.mode, suid.uid, suid.gid, suid.size_bytes, suid.modified.sec), (0o4755, 3, 4, 100_000, 1_600_000_000));
    assert_eq!(machine.read("/link").unwrap(), vec![7; 100_000]);
    let dir = machine.stat("/dir").unwrap();
    assert_eq!((dir.mode, dir.modified.sec), (0o700, 1_600_000_000));
    assert_eq!((machine.read("/one").unwrap(), machine.read("/two").unwrap()), (b"both".to_vec(), b"both".to_vec()));
    assert_eq!(machine.stat("/one").unwrap().links, 2);
    assert_eq!(machine.read("/null").unwrap(), b"file now");
    assert_eq!(machine.names("/").unwrap(), ["dir", "link", "null", "one", "two"]);
}

#[test]
fn nodes_are_made_and_links_of_an_archive_lead_nowhere_outside() {
    let mut archive = Vec::new();
    entry(&mut archive, "console", 0o020_600, 1, 1, (5, 1), b"");
    entry(&mut archive, "fifo", 0o010_644, 2, 1, (0, 0), b"");
    entry(&mut archive, "up", 0o120_777, 3, 1, (0, 0), b"../../..");
    entry(&mut archive, "up/made", 0o100_644, 4, 1, (0, 0), b"x");
    let machine = machine_with_tmpfs(1000);
    assert_eq!(unpack(&machine, &archive).unwrap().entries, 4);
    let console = machine.stat("/console").unwrap();
    assert_eq!((console.kind, console.rdev, console.mode), (FileKind::CharDevice, DeviceNumber::new(5, 1), 0o600));
    assert_eq!(machine.stat("/fifo").unwrap().kind, FileKind::Fifo);
    // Up from the root is the root.
    let made = machine.caller().lookup(PathAt::cwd(b"/made"), LookupFlags::empty()).unwrap();
    assert_eq!(made.inode().kind(), FileKind::Regular);
}

#[test]
fn an_archive_that_does_not_fit_ends_with_the_name_of_what_did_not() {
    let mut archive = Vec::new();
    entry(&mut archive, "fits", 0o100_644, 1, 1, (0, 0), &[1; 4096]);
    entry(&mut archive, "too big", 0o100_644, 2, 1, (0, 0), &[1; 1 << 20]);
    let machine = machine_with_tmpfs(16);
    let (error, done) = unpack(&machine, &archive).unwrap_err();
    assert_eq!(error, fs::cpio::Error::Target { name: b"too big".to_vec(), errno: abi::Errno::ENOSPC });
    assert_eq!(done.entries, 2);
    assert_eq!(machine.read("/fits").unwrap(), [1; 4096]);
}
