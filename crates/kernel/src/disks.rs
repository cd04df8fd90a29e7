//! The machine's disks: opens what `ubd` options name, reads partition tables, and finds the root device.
//!
//! Source: the documentation of User Mode Linux on `ubd`; the messages are the reference's.

use crate::config::Config;
use crate::machine::Machine;
use crate::wiring::INFO;
use abi::Errno;
use block::BlockDevice;
use cow::open::{BackingFiles, BackingStat};
use cow::{Header, HeaderError};
use drivers::ubd::{self, CowDisk, Disk, Spec};
use fs::blockdev::BlockDev;
use host::files::ImageOpen;
use platform::HostFile;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;
use vfs::{Device, DeviceInfo, DeviceKind, DeviceNumber};

/// Level of what went wrong.
const ERROR: u8 = 3;
/// The file of disk 0 when no option names one.
const DEFAULT_FILE: &str = "root_fs";

/// Makes every disk that the command line names. One that can't be made is told of, and the boot goes on without it.
pub fn make(machine: &Machine, config: &Config) {
    machine.vfs.devices.register_major(DeviceKind::Block, ubd::MAJOR, "ubd", None);
    let mut specs: Vec<Spec> = Vec::new();
    for (unit, flags, value) in &config.disks {
        match Spec::parse(unit, flags, value) {
            Ok(mut spec) => {
                spec.synchronous |= config.disks_synchronous;
                specs.retain(|known| known.unit != spec.unit);
                specs.push(spec);
            }
            Err(reason) => {
                machine.vfs.log.print(ERROR, &format!("Failed to initialize device with \"{unit}{flags}={value}\" : {reason}"));
            }
        }
    }
    if matches!(config.root, crate::config::Root::Device(_)) && !specs.iter().any(|spec| spec.unit == 0) {
        specs.extend(Spec::parse("0", "", DEFAULT_FILE));
    }
    for spec in specs {
        if let Err(reason) = add(machine, &spec) {
            machine.vfs.log.print(ERROR, &reason);
        }
    }
}

fn add(machine: &Machine, spec: &Spec) -> Result<(), String> {
    let mut log = |line: String| machine.vfs.log.print(INFO, &line);
    let disk: Arc<dyn BlockDevice> = open(spec, &mut log).map_err(|errno| {
        if errno == Errno::ENOENT {
            format!("Failed to initialize ubd device {} :Couldn't determine size of device's file", spec.unit)
        } else {
            format!("{}: Can't open \"{}\": errno = {}", spec.name(), spec.file, errno.raw())
        }
    })?;
    let failed = |errno: Errno| format!("{}: the device could not be registered ({errno})", spec.name());
    let register = |minor: u32, name: &str, disk: Arc<dyn BlockDevice>| {
        let device: Arc<dyn Device> = BlockDev::new(machine.system.ram, &machine.vfs.page_caches, disk);
        machine.vfs.devices.add(DeviceInfo::block(DeviceNumber::new(ubd::MAJOR, minor), name, 0o660, device))
    };
    let (first, name) = (spec.unit * ubd::MINORS, spec.name());
    register(first, &name, disk.clone()).map_err(failed)?;
    let table = block::partitions::read(&*disk).map_err(failed)?;
    for entry in table.entries.iter().filter(|entry| entry.number < ubd::MINORS) {
        let part = Arc::new(block::partitions::Partition::new(disk.clone(), entry));
        register(first + entry.number, &format!("{name}{}", entry.number), part).map_err(failed)?;
    }
    let described = table.describe(&name);
    if !described.is_empty() {
        log(described);
    }
    for complaint in &table.complaints {
        log(format!("{name}: {complaint}"));
    }
    Ok(())
}

/// Opens and locks a file as a disk; whether it could be opened for writing.
fn open_locked(spec: &Spec, path: &Path, write: bool, log: &mut dyn FnMut(String)) -> Result<(Arc<dyn HostFile>, bool), Errno> {
    let how = |write| ImageOpen { write, synchronous: spec.synchronous, create_mode: None };
    let (file, writable) = match host::files::open_image(path, how(write)) {
        Err(Errno::EACCES | Errno::EROFS | Errno::EPERM) if write => (host::files::open_image(path, how(false))?, false),
        opened => (opened?, write),
    };
    let shown = path.display();
    if spec.shared {
        log(format!("Not locking \"{shown}\" on the host"));
    } else if let Err((errno, holder)) = file.lock(writable) {
        if let Some(holder) = holder {
            log(format!("F_SETLK failed, file already locked by pid {holder}"));
        }
        log(format!("Failed to lock '{shown}', err = {}", errno.raw()));
        return Err(errno);
    }
    Ok((file, writable))
}

fn open(spec: &Spec, log: &mut dyn FnMut(String)) -> Result<Arc<dyn BlockDevice>, Errno> {
    let path = Path::new(&spec.file);
    if let (Some(backing), false) = (&spec.backing, path.exists()) {
        create_cow(spec, path, backing, log)?;
    }
    let (file, writable) = open_locked(spec, path, !spec.read_only, log)?;
    let discards = !spec.no_discard;
    let header = if spec.plain { None } else { cow_header(spec, &file, log)? };
    let Some(mut header) = header else {
        return Ok(Arc::new(Disk::new(file, !writable, discards)?));
    };
    let storage = ubd::storage(file.clone());
    let requested = spec.backing.as_deref().map(str::as_bytes);
    cow::open::choose_backing(&mut header, &storage, &spec.file, requested, &HostNames, log).map_err(|error| error.errno())?;
    let backing_path = std::ffi::OsString::from_vec(header.backing_path.clone());
    let (backing, _) = open_locked(spec, Path::new(&backing_path), false, log)?;
    let disk = CowDisk::new(file, &header, backing, !writable, discards).map_err(|error| {
        log(format!("{}: {error}", spec.file));
        error.errno()
    })?;
    Ok(Arc::new(disk))
}

/// The header of a COW file; `None` for a file that is not one, unless a backing file was named, which makes that an error.
fn cow_header(spec: &Spec, file: &Arc<dyn HostFile>, log: &mut dyn FnMut(String)) -> Result<Option<Header>, Errno> {
    match Header::read(&ubd::storage(file.clone())) {
        Ok(header) => Ok(Some(header)),
        Err(HeaderError::NotCow) if spec.backing.is_none() => Ok(None),
        Err(error) => {
            log(cow::open::unreadable_header_message(&spec.file, &error));
            Err(error.errno())
        }
    }
}

fn create_cow(spec: &Spec, path: &Path, backing: &str, log: &mut dyn FnMut(String)) -> Result<(), Errno> {
    log(cow::open::creating_message(&spec.file, backing));
    let header = cow::open::new_header(backing.as_bytes(), &HostNames).map_err(|error| error.errno())?;
    let how = ImageOpen { write: true, synchronous: spec.synchronous, create_mode: Some(0o644) };
    let file = host::files::open_image(path, how)?;
    header.create(&ubd::storage(file)).map_err(|error| error.errno())
}

/// The host's names, for COW headers.
struct HostNames;

impl BackingFiles for HostNames {
    fn stat(&self, path: &[u8]) -> Result<BackingStat, Errno> {
        let file = host::files::open_image(Path::new(std::ffi::OsStr::from_bytes(path)), ImageOpen::default())?;
        let found = file.metadata()?;
        let seconds = found.modified_ns.div_euclid(1_000_000_000);
        Ok(BackingStat { size: found.size_bytes, mtime: seconds as u32, identity: (found.dev, found.ino) })
    }
    fn absolute(&self, path: &[u8]) -> Result<Vec<u8>, Errno> {
        let errno = |error: std::io::Error| error.raw_os_error().and_then(Errno::from_raw).unwrap_or(Errno::EIO);
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        let name = path.file_name().ok_or(Errno::EISDIR)?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let full = std::fs::canonicalize(directory).map_err(errno)?.join(name);
        Ok(full.into_os_string().into_vec())
    }
}

/// The device that `root=` names: `98:0`, `/dev/ubda1`, `ubd0`, `/dev/ubd/0`, or a number in hexadecimal as the reference has it.
pub fn root_device(machine: &Machine, name: &str) -> Option<DeviceNumber> {
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
        return Some(DeviceNumber::new(ubd::MAJOR, unit * ubd::MINORS));
    }
    let number = u32::from_str_radix(name, 16).ok()?;
    Some(DeviceNumber::new(number >> 8, number & 0xff))
}
