//! The machine's disks: made from `ubd` options at boot, and by the management console while it runs.
//!
//! Here: what disks there are, their partitions, and how they come, grow and go ([`Disks`]). [`open`] opens the host's files, [`root`] finds and
//! mounts the root device.
//!
//! Always true: a disk or partition that is mounted, open or swapped on is not taken away.
//!
//! Source: the documentation of User Mode Linux on `ubd`; the messages are the reference's.

mod open;
pub mod root;

use crate::config::{Config, Root};
use crate::machine::Machine;
use crate::wiring::INFO;
use abi::Errno;
use block::partitions::{Entry, Partition, Table};
use drivers::ubd::{self, HEADS, SECTORS_PER_TRACK, Spec, Unit};
use fs::blockdev::{About, BlockDev, DiskControl};
use mconsole::devices::{DeviceKind as ConfigurableKind, busy, not_there};
use mconsole::server::Refusal;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use sync::{Mutex, Rank};
use vfs::{DeviceInfo, DeviceKind, DeviceNumber, IoctlCaller, Vfs};

/// Level of what went wrong.
const ERROR: u8 = 3;
/// The file of disk 0 when no option names one.
const DEFAULT_FILE: &str = "root_fs";
/// Most that one discard or zeroing of a ubd has, as UML has it.
const DISCARD_BYTES: u64 = 32 << 10;

const HDIO_GETGEO: u32 = 0x0301;
const HDIO_GET_IDENTITY: u32 = 0x030d;
const CDROMVOLREAD: u32 = 0x5313;

/// A configured disk.
struct Slot {
    spec: Spec,
    dev: Arc<BlockDev>,
    parts: Vec<(Entry, Arc<BlockDev>)>,
}

/// All disks, by unit.
pub struct Disks {
    vfs: &'static Vfs,
    synchronous: AtomicBool,
    slots: Mutex<BTreeMap<u32, Slot>>,
    this: Weak<Disks>,
}

/// Makes every disk that the command line names. One that can't be made is told of, and the boot goes on without it.
pub fn make(machine: &Machine, config: &Config) -> Arc<Disks> {
    machine.vfs.devices.register_major(DeviceKind::Block, ubd::MAJOR, "ubd", None);
    let disks = Arc::new_cyclic(|this: &Weak<Disks>| Disks {
        vfs: machine.vfs,
        synchronous: AtomicBool::new(config.disks_synchronous),
        slots: Mutex::ranked(Rank::Configuration, BTreeMap::new()),
        this: this.clone(),
    });
    machine.configurable.register(disks.clone());
    let mut settings: BTreeMap<u32, Spec> = BTreeMap::new();
    for (unit, flags, value) in &config.disks {
        let setting = format!("{unit}{flags}={value}");
        match Spec::parse(&setting) {
            Ok(spec) if settings.contains_key(&spec.unit) => disks.failed_to_initialize(&setting, "Device is already configured"),
            Ok(spec) => drop(settings.insert(spec.unit, spec)),
            Err(reason) => disks.failed_to_initialize(&setting, reason),
        }
    }
    if matches!(config.root, Root::Device(_)) && !settings.contains_key(&0) {
        settings.extend(Spec::parse(&format!("0={DEFAULT_FILE}")).map(|spec| (0, spec)));
    }
    for (unit, spec) in settings {
        if let Err((_, reason)) = disks.add(spec) {
            disks.log(ERROR, &format!("Failed to initialize ubd device {unit} :{reason}"));
        }
    }
    disks
}

impl Disks {
    fn log(&self, level: u8, text: &str) {
        self.vfs.log.print(level, text);
    }

    fn failed_to_initialize(&self, setting: &str, reason: &str) {
        self.log(ERROR, &format!("Failed to initialize device with \"{setting}\" : {reason}"));
    }

    /// Makes a disk. Its host file may be missing no longer than now; whether it can be opened shows when somebody does.
    fn add(&self, mut spec: Spec) -> Result<(), (Errno, &'static str)> {
        spec.synchronous |= self.synchronous.load(Ordering::Relaxed);
        let mut slots = self.slots.lock();
        if slots.contains_key(&spec.unit) {
            return Err((Errno::EBUSY, "Device is already configured"));
        }
        let opener = Box::new(open::HostFiles { vfs: self.vfs, spec: spec.clone() });
        let unit = Unit::new(opener, spec.read_only).map_err(|errno| (errno, "Couldn't determine size of device's file"))?;
        let control = Box::new(Control { disks: self.this.clone(), unit: spec.unit, start: None });
        let discard_bytes = if spec.no_discard { 0 } else { DISCARD_BYTES };
        let about = About { control, partition: None, serial: spec.serial.clone(), discard_bytes };
        let dev = BlockDev::with(self.vfs.ram(), &self.vfs.page_caches, Arc::new(unit), about);
        let (name, number) = (spec.name(), spec.unit * ubd::MINORS);
        let mut info = DeviceInfo::block(DeviceNumber::new(ubd::MAJOR, number), &name, 0o600, dev.clone());
        info.properties = vec![("DEVTYPE".into(), "disk".into())];
        info.place = Some(place(&spec));
        self.vfs.devices.add(info).map_err(|errno| (errno, "Failed to register device"))?;
        let mut slot = Slot { spec, dev, parts: Vec::new() };
        // A disk that can't be opened now is there all the same.
        if let Ok(table) = self.read_table(&slot) {
            self.add_parts(&mut slot, table);
        }
        slots.insert(slot.spec.unit, slot);
        Ok(())
    }

    fn read_table(&self, slot: &Slot) -> Result<Table, Errno> {
        let _hold = slot.dev.hold()?;
        block::partitions::read(&**slot.dev.disk())
    }

    fn add_parts(&self, slot: &mut Slot, table: Table) {
        let name = slot.spec.name();
        let described = table.describe(&name);
        if !described.is_empty() {
            self.log(INFO, &described);
        }
        for complaint in &table.complaints {
            self.log(INFO, &format!("{name}: {complaint}"));
        }
        for entry in table.entries.into_iter().filter(|entry| entry.number < ubd::MINORS) {
            let disk = Arc::new(Partition::new(slot.dev.disk().clone(), &entry));
            let control = Box::new(Control { disks: self.this.clone(), unit: slot.spec.unit, start: Some(entry.start) });
            let discard_bytes = slot.dev.about().discard_bytes;
            let about = About { control, partition: Some((entry.number, entry.start)), serial: None, discard_bytes };
            let dev = BlockDev::with(self.vfs.ram(), &self.vfs.page_caches, disk, about);
            let (part, number) = (format!("{name}{}", entry.number), slot.spec.unit * ubd::MINORS + entry.number);
            let mut info = DeviceInfo::block(DeviceNumber::new(ubd::MAJOR, number), &part, 0o600, dev.clone());
            info.properties = vec![("DEVTYPE".into(), "partition".into()), ("PARTN".into(), entry.number.to_string())];
            if !entry.label.is_empty() {
                info.properties.push(("PARTNAME".into(), entry.label.clone()));
            }
            info.place = Some(format!("{}/{part}", place(&slot.spec)));
            match self.vfs.devices.add(info) {
                Ok(()) => slot.parts.push((entry, dev)),
                Err(errno) => self.log(ERROR, &format!("{part}: could not be registered ({errno})")),
            }
        }
    }

    fn remove_parts(&self, slot: &mut Slot) {
        for (entry, _) in slot.parts.drain(..) {
            let number = DeviceNumber::new(ubd::MAJOR, slot.spec.unit * ubd::MINORS + entry.number);
            // It was added, and nobody else takes it away.
            let _ = self.vfs.devices.remove(DeviceKind::Block, number);
        }
    }

    /// Reads a disk's partition table again. EBUSY while a partition is used.
    fn reread(&self, unit: u32) -> Result<(), Errno> {
        let mut slots = self.slots.lock();
        let slot = slots.get_mut(&unit).ok_or(Errno::ENXIO)?;
        if slot.parts.iter().any(|(_, dev)| dev.is_held()) {
            return Err(Errno::EBUSY);
        }
        let table = self.read_table(slot)?;
        self.remove_parts(slot);
        self.add_parts(slot, table);
        Ok(())
    }

    /// The partition with this `PARTUUID` (`by` compares), as its unit and number.
    fn find_part(&self, by: impl Fn(&Entry) -> bool) -> Option<(u32, u32)> {
        let slots = self.slots.lock();
        slots.iter().find_map(|(unit, slot)| slot.parts.iter().find(|(entry, _)| by(entry)).map(|(entry, _)| (*unit, entry.number)))
    }

    /// The `PARTUUID` of a partition; empty for a whole disk.
    fn part_uuid(&self, number: DeviceNumber) -> String {
        let slots = self.slots.lock();
        let slot = slots.get(&(number.minor() / ubd::MINORS));
        let entry = slot.and_then(|slot| slot.parts.iter().find(|(entry, _)| entry.number == number.minor() % ubd::MINORS));
        entry.map(|(entry, _)| entry.uuid.clone()).unwrap_or_default()
    }
}

/// A disk's directory below `/sys`.
fn place(spec: &Spec) -> String {
    format!("devices/platform/uml-blkdev.{}/block/{}", spec.unit, spec.name())
}

/// The management console's side: `config ubdb=file`, `config ubdb`, `remove ubdb`.
impl ConfigurableKind for Disks {
    fn name(&self) -> &'static str {
        "ubd"
    }
    fn configure(&self, setting: &str) -> Result<(), Refusal> {
        if let Some(global) = setting.strip_prefix('=') {
            return match global {
                "sync" => {
                    self.synchronous.store(true, Ordering::Relaxed);
                    self.log(INFO, "ubd: Synchronous mode");
                    Ok(())
                }
                _ => Err(Refusal::errno(Errno::EINVAL, "fake major not supported any more")),
            };
        }
        let spec = Spec::parse(setting).map_err(|reason| Refusal::errno(Errno::EINVAL, reason))?;
        self.add(spec).map_err(|(errno, reason)| Refusal::errno(errno, reason))
    }
    fn query(&self, device: &str) -> Result<String, Refusal> {
        match self.parse_unit(device) {
            Some(unit) if unit < ubd::DISKS => Ok(self.slots.lock().get(&unit).map(|slot| slot.spec.files()).unwrap_or_default()),
            _ => Err(Refusal::new("ubd_get_config : device number out of range")),
        }
    }
    fn units(&self) -> RangeInclusive<u32> {
        0..=ubd::DISKS - 1
    }
    fn parse_unit(&self, device: &str) -> Option<u32> {
        ubd::parse_unit(device).map(|(unit, _)| unit)
    }
    fn remove(&self, unit: u32) -> Result<(), Refusal> {
        let mut slots = self.slots.lock();
        let slot = slots.get_mut(&unit).ok_or_else(not_there)?;
        if slot.dev.is_held() || slot.parts.iter().any(|(_, dev)| dev.is_held()) {
            return Err(busy());
        }
        self.remove_parts(slot);
        let removed = self.vfs.devices.remove(DeviceKind::Block, DeviceNumber::new(ubd::MAJOR, unit * ubd::MINORS));
        slots.remove(&unit);
        removed.map_err(|errno| Refusal::errno(errno, "Device doesn't exist"))
    }
}

/// What a ubd or its partition answers beyond reading and writing.
struct Control {
    disks: Weak<Disks>,
    unit: u32,
    /// First sector, of a partition.
    start: Option<u64>,
}

impl Control {
    /// Cylinders of the whole disk, as far as the old calls can tell.
    fn cylinders(&self) -> Result<u16, Errno> {
        let disks = self.disks.upgrade().ok_or(Errno::ENXIO)?;
        let slots = disks.slots.lock();
        let sectors = slots.get(&self.unit).ok_or(Errno::ENXIO)?.dev.disk().sectors();
        Ok(u16::try_from(sectors / u64::from(HEADS * SECTORS_PER_TRACK)).unwrap_or(u16::MAX))
    }
}

impl DiskControl for Control {
    fn reread_partitions(&self) -> Result<(), Errno> {
        match self.start {
            Some(_) => Err(Errno::EINVAL),
            None => self.disks.upgrade().ok_or(Errno::ENXIO)?.reread(self.unit),
        }
    }
    fn ioctl(&self, caller: &IoctlCaller<'_>, command: u32, argument: u64) -> Result<i64, Errno> {
        match command {
            HDIO_GETGEO => {
                let mut geometry = [0; 16];
                geometry[0] = HEADS as u8;
                geometry[1] = SECTORS_PER_TRACK as u8;
                geometry[2..4].copy_from_slice(&self.cylinders()?.to_ne_bytes());
                geometry[8..].copy_from_slice(&self.start.unwrap_or(0).to_ne_bytes());
                caller.memory.write_all(argument, &geometry)?;
            }
            HDIO_GET_IDENTITY => {
                // The words of the ATA identity that say the geometry: 1, 3 and 6.
                let mut identity = [0; 512];
                identity[2..4].copy_from_slice(&self.cylinders()?.to_ne_bytes());
                identity[6] = HEADS as u8;
                identity[12] = SECTORS_PER_TRACK as u8;
                caller.memory.write_all(argument, &identity)?;
            }
            CDROMVOLREAD => caller.memory.write_all(argument, &[255; 4])?,
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }
}
