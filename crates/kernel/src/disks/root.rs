//! The root device: which one `root=` means, waiting for it, mounting it, and what is said when there is none.
//!
//! Source: Linux, `Documentation/admin-guide/kernel-parameters.rst` (`root=`, `rootwait`, `rootdelay`, `rootfstype`); the messages are the
//! reference's.

use super::Disks;
use crate::config::{Config, End};
use crate::machine::Machine;
use crate::wiring::INFO;
use abi::Errno;
use drivers::ubd;
use fs::blockdev::BlockDev;
use fs::ext4::{ExtFs, ExtType};
use std::sync::Arc;
use std::time::Duration;
use vfs::{Caller, DeviceInfo, DeviceKind, DeviceNumber, FileSystem, FileSystemType, MountFlags};

/// How long boot waits for the root device to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Patience {
    /// `rootdelay=`: seconds to wait before looking at all.
    pub delay_s: u64,
    /// `rootwait`, `rootwait=`: seconds to wait for it, `u64::MAX` for ever.
    pub wait_s: u64,
}

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Mounts the root device over the root: read-only unless `rw`, as every Linux, since init checks it first.
pub fn mount(machine: &Machine, disks: &Disks, caller: &Caller<'_>, config: &Config, name: &str, ext: &[Arc<ExtType>]) -> Result<(), End> {
    let device = wait_for(machine, disks, config.root_patience, name);
    let Some(device) = device else { return Err(cannot_open(machine, disks, name, DeviceNumber::new(0, 0), Errno::ENXIO)) };
    // The open's own error, before any type looks at it.
    let opened = machine.vfs.devices.get(DeviceKind::Block, device).and_then(|info| BlockDev::of(&info)).ok_or(Errno::ENXIO);
    let _hold = opened.and_then(|dev| dev.hold()).map_err(|errno| cannot_open(machine, disks, name, device, errno))?;
    let mut flags = if config.root_read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    let wanted = |kind: &&Arc<ExtType>| config.root_type.as_deref().is_none_or(|types| types.split(',').any(|t| t == kind.name()));
    let kinds: Vec<&Arc<ExtType>> = ext.iter().filter(wanted).collect();
    let attempt = |flags: MountFlags| -> Result<(&Arc<ExtType>, Arc<ExtFs>), Errno> {
        let mut answer = Err(Errno::EINVAL);
        for kind in &kinds {
            match kind.mount_device(machine.vfs, device, flags, config.root_flags.as_bytes()) {
                Ok(mounted) => return Ok((*kind, mounted)),
                // Another type may suit it.
                Err(Errno::EINVAL) => {}
                Err(errno) => {
                    answer = Err(errno);
                    break;
                }
            }
        }
        answer
    };
    let mut mounted = attempt(flags);
    if matches!(mounted, Err(Errno::EROFS | Errno::EACCES)) {
        flags |= MountFlags::RDONLY;
        mounted = attempt(flags);
    }
    let (kind, root) = mounted.map_err(|errno| match errno {
        Errno::EINVAL => no_file_system(machine, disks, device, &kinds),
        errno => cannot_open(machine, disks, name, device, errno),
    })?;
    let attach = |root: Arc<dyn FileSystem>| -> Result<(), Errno> {
        let mount = machine.vfs.new_mount(root, b"/dev/root", flags)?;
        caller.attach_new(&mount, &caller.fs.root())?;
        let root = mount.root_path();
        caller.fs.set_root(root.clone());
        caller.fs.set_cwd(root);
        Ok(())
    };
    attach(root).map_err(|errno| cannot_open(machine, disks, name, device, errno))?;
    let how = if flags.contains(MountFlags::RDONLY) { " readonly" } else { "" };
    machine.vfs.log.print(INFO, &format!("VFS: Mounted root ({} filesystem){how} on device {device}.", kind.name()));
    Ok(())
}

/// The device, once it is there.
fn wait_for(machine: &Machine, disks: &Disks, patience: Patience, name: &str) -> Option<DeviceNumber> {
    if patience.delay_s > 0 {
        machine.vfs.log.print(INFO, &format!("Waiting {} sec before mounting root device...", patience.delay_s));
        std::thread::sleep(Duration::from_secs(patience.delay_s));
    }
    let there = || find(machine, disks, name).filter(|number| machine.vfs.devices.get(DeviceKind::Block, *number).is_some());
    let mut left_ms = patience.wait_s.saturating_mul(1000);
    if left_ms > 0 && there().is_none() && patience.wait_s == u64::MAX {
        machine.vfs.log.print(INFO, &format!("Waiting for root device {name}..."));
    }
    while left_ms > 0 && there().is_none() {
        if left_ms.is_multiple_of(1000) && patience.wait_s != u64::MAX {
            machine.vfs.log.print(INFO, &format!("VFS: Waiting {}sec for root device...", left_ms / 1000));
        }
        // The machine's processors run meanwhile: the management console may bring the disk.
        std::thread::sleep(LOOK_AGAIN);
        left_ms = left_ms.saturating_sub(100);
    }
    find(machine, disks, name)
}

/// The device that `root=` names: `98:0`, `/dev/ubda1`, `ubd0`, `/dev/ubd/0`, a number in hexadecimal, `PARTUUID=`, `PARTLABEL=`; and `UUID=` and
/// `LABEL=` of an ext file system, which Linux leaves to an initramfs.
fn find(machine: &Machine, disks: &Disks, name: &str) -> Option<DeviceNumber> {
    if let Some(uuid) = name.strip_prefix("PARTUUID=") {
        let (uuid, offset) = uuid.split_once("/PARTNROFF=").unwrap_or((uuid, "0"));
        let offset: i64 = offset.parse().ok()?;
        let (unit, part) = disks.find_part(|entry| entry.uuid.eq_ignore_ascii_case(uuid))?;
        let part = u32::try_from(i64::from(part) + offset).ok().filter(|part| (1..ubd::MINORS).contains(part))?;
        return Some(DeviceNumber::new(ubd::MAJOR, unit * ubd::MINORS + part));
    }
    if let Some(label) = name.strip_prefix("PARTLABEL=") {
        let (unit, part) = disks.find_part(|entry| entry.label == label)?;
        return Some(DeviceNumber::new(ubd::MAJOR, unit * ubd::MINORS + part));
    }
    if let Some(wanted) = name.strip_prefix("UUID=") {
        let wanted = wanted.to_ascii_lowercase();
        return by_content(machine, |found| block::partitions::uuid_text(&found.uuid) == wanted);
    }
    if let Some(wanted) = name.strip_prefix("LABEL=") {
        return by_content(machine, |found| found.label == wanted.as_bytes());
    }
    let name = name.strip_prefix("/dev/").unwrap_or(name);
    if let Some((major, minor)) = name.split_once(':') {
        return Some(DeviceNumber::new(major.parse().ok()?, minor.parse().ok()?));
    }
    if let Some(info) = machine.vfs.devices.by_name(DeviceKind::Block, name) {
        return Some(info.number);
    }
    let unit = name.strip_prefix("ubd/disc").or_else(|| name.strip_prefix("ubd/")).or_else(|| name.strip_prefix("ubd"));
    if let Some(unit) = unit {
        let unit: u32 = unit.parse().ok().filter(|unit| *unit < ubd::DISKS)?;
        let number = DeviceNumber::new(ubd::MAJOR, unit * ubd::MINORS);
        return machine.vfs.devices.get(DeviceKind::Block, number).map(|info| info.number);
    }
    let number = u32::from_str_radix(name, 16).ok()?;
    Some(DeviceNumber::new(number >> 8, number & 0xff))
}

/// The first device whose file system suits.
fn by_content(machine: &Machine, suits: impl Fn(&ext4::probe::Identity) -> bool) -> Option<DeviceNumber> {
    let holds = |info: &DeviceInfo| -> Result<bool, Errno> {
        let dev = BlockDev::of(info).ok_or(Errno::ENXIO)?;
        let _hold = dev.hold()?;
        Ok(ext4::probe::probe(&**dev.disk())?.is_some_and(|found| suits(&found)))
    };
    machine.vfs.devices.list().into_iter().find(|info| holds(info).unwrap_or(false)).map(|info| info.number)
}

/// The block devices as a panic lists them.
fn list(machine: &Machine, disks: &Disks) {
    for info in machine.vfs.devices.list() {
        let Some(dev) = BlockDev::of(&info) else { continue };
        let (number, kib) = (info.number, dev.disk().sectors() / 2);
        let text = match dev.about().partition {
            Some(_) => {
                format!("  {:02x}{:02x} {kib:15} {} {}\n", number.major(), number.minor(), info.name, disks.part_uuid(number))
            }
            None => format!("{:02x}{:02x} {kib:15} {} \n driver: uml-blkdev", number.major(), number.minor(), info.name),
        };
        machine.vfs.log.print(0, text.trim_end_matches('\n'));
    }
}

fn unable(machine: &Machine, device: DeviceNumber) -> End {
    let text = format!("Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block({},{})", device.major(), device.minor());
    machine.vfs.log.print(0, &text);
    End::Panicked(text)
}

/// The reference's words for a root device that can't be opened.
fn cannot_open(machine: &Machine, disks: &Disks, name: &str, device: DeviceNumber, errno: Errno) -> End {
    let log = |text: &str| machine.vfs.log.print(0, text);
    let shown = name.strip_prefix("/dev/").unwrap_or(name);
    let (major, minor, raw) = (device.major(), device.minor(), errno.raw());
    log(&format!("VFS: Cannot open root device \"{shown}\" or unknown-block({major},{minor}): error -{raw}"));
    log("Please append a correct \"root=\" boot option; here are the available partitions:");
    list(machine, disks);
    unable(machine, device)
}

/// And for one that holds nothing known.
fn no_file_system(machine: &Machine, disks: &Disks, device: DeviceNumber, kinds: &[&Arc<ExtType>]) -> End {
    let log = |text: &str| machine.vfs.log.print(0, text);
    log("List of all partitions:");
    list(machine, disks);
    log("No filesystem could mount root, tried: ");
    log(&kinds.iter().map(|kind| format!(" {}", kind.name())).collect::<String>());
    unable(machine, device)
}
