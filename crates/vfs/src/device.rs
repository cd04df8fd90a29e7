//! The device registry: which driver answers for which major and minor number, and who hears of devices that come and go.
//!
//! What it is not: the nodes in `/dev` (`fs::devtmpfs` subscribes and makes them) or in `/sys` (`fs::sysfs` likewise).
//!
//! Always true: at most one device has a number. A subscriber is told of every device, of those that were there before it too, in order. An open
//! file of a device that is removed stays; its driver answers ENODEV or ENXIO.

use crate::file::FileOps;
use crate::inode::Open;
use crate::types::DeviceNumber;
use abi::{Errno, SysResult};
use std::collections::BTreeMap;
use std::sync::Arc;
use sync::SpinLock;

/// The two name spaces of device numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum DeviceKind {
    Char,
    Block,
}

/// A driver's side of a device node.
pub trait Device: Send + Sync {
    /// Opens it. ENXIO when nothing is there. May wait, for a terminal's carrier for example.
    fn open(&self, open: &Open<'_>) -> SysResult<Arc<dyn FileOps>>;
    /// For downcasting by file systems that need a disk: gives the block device, as whatever type drivers and file systems agree on.
    fn as_any(&self) -> Option<&dyn std::any::Any> {
        None
    }
}

/// A driver that is a closure: a device that is there for everybody, or that depends on who asks (`/dev/tty`).
impl<F: Fn(&Open<'_>) -> SysResult<Arc<dyn FileOps>> + Send + Sync> Device for F {
    fn open(&self, open: &Open<'_>) -> SysResult<Arc<dyn FileOps>> {
        self(open)
    }
}

/// A device as the registry knows it.
#[derive(Clone)]
pub struct DeviceInfo {
    pub kind: DeviceKind,
    pub number: DeviceNumber,
    /// Path of the node below `/dev`: `ubda1`, `pts/0`.
    pub name: String,
    /// Mode of the node.
    pub mode: u32,
    /// `/sys/class/CLASS`, `SUBSYSTEM` of uevents: `tty`, `mem`, `block`.
    pub class: &'static str,
    /// More lines of uevents and `/sys/.../uevent`: `DEVTYPE=disk`.
    pub properties: Vec<(String, String)>,
    /// Its directory below `/sys`, where it is not the one of a virtual device: `devices/platform/uml-blkdev.0/block/ubda`.
    pub place: Option<String>,
    pub device: Arc<dyn Device>,
}

impl DeviceInfo {
    /// A character device of a class, without more properties.
    #[must_use]
    pub fn char(number: DeviceNumber, name: &str, mode: u32, class: &'static str, device: Arc<dyn Device>) -> DeviceInfo {
        DeviceInfo { kind: DeviceKind::Char, number, name: name.to_owned(), mode, class, properties: Vec::new(), place: None, device }
    }
    /// A disk or partition.
    #[must_use]
    pub fn block(number: DeviceNumber, name: &str, mode: u32, device: Arc<dyn Device>) -> DeviceInfo {
        DeviceInfo {
            kind: DeviceKind::Block,
            number,
            name: name.to_owned(),
            mode,
            class: "block",
            properties: Vec::new(),
            place: None,
            device,
        }
    }
}

impl DeviceInfo {
    /// Its directory below `/sys`, with a slash before it: `DEVPATH` of uevents. Names there have no slash.
    #[must_use]
    pub fn path(&self) -> String {
        match &self.place {
            Some(place) => format!("/{place}"),
            None => format!("/devices/virtual/{}/{}", self.class, self.name.replace('/', "!")),
        }
    }
}

/// What happened to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceAction {
    Add,
    Remove,
    Change,
}

impl DeviceAction {
    /// `ACTION` of a uevent.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DeviceAction::Add => "add",
            DeviceAction::Remove => "remove",
            DeviceAction::Change => "change",
        }
    }
}

/// Somebody who wants to hear of devices: devtmpfs, sysfs, netlink's uevent group. May sleep; must not change the registry.
pub trait DeviceSubscriber: Send + Sync {
    /// `sequence` counts all events of the machine (`SEQNUM`).
    fn device(&self, action: DeviceAction, info: &DeviceInfo, sequence: u64);
}

/// A driver for all minors of a major number that no device is registered for by itself.
type Majors = BTreeMap<(DeviceKind, u32), (Vec<String>, Option<Arc<dyn Device>>)>;

/// All devices of the machine.
pub struct Devices {
    devices: SpinLock<BTreeMap<(DeviceKind, DeviceNumber), DeviceInfo>>,
    majors: SpinLock<Majors>,
    /// Held while subscribers are told, so that they hear in order.
    telling: sync::Mutex<Telling>,
}

impl Default for Devices {
    fn default() -> Devices {
        // Outside of directories: subscribers make nodes.
        let telling = sync::Mutex::ranked(sync::Rank::Mounts, Telling::default());
        Devices { devices: SpinLock::default(), majors: SpinLock::default(), telling }
    }
}

#[derive(Default)]
struct Telling {
    subscribers: Vec<Arc<dyn DeviceSubscriber>>,
    sequence: u64,
}

impl Devices {
    /// Claims a major number for a driver's name (`/proc/devices`); `any` answers for minors that have no device of their own. Several drivers
    /// may share a number, as `tty` and `ttyS` do.
    pub fn register_major(&self, kind: DeviceKind, major: u32, name: &str, any: Option<Arc<dyn Device>>) {
        let mut majors = self.majors.lock();
        let (names, answers) = majors.entry((kind, major)).or_default();
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
        *answers = any.or_else(|| answers.take());
    }
    /// Adds a device. EEXIST if its number is taken.
    pub fn add(&self, info: DeviceInfo) -> Result<(), Errno> {
        let mut telling = self.telling.lock();
        {
            let mut devices = self.devices.lock();
            if devices.contains_key(&(info.kind, info.number)) {
                return Err(Errno::EEXIST);
            }
            devices.insert((info.kind, info.number), info.clone());
        }
        telling.tell(DeviceAction::Add, &info);
        Ok(())
    }
    /// Takes a device away. ENODEV if there is none.
    pub fn remove(&self, kind: DeviceKind, number: DeviceNumber) -> Result<(), Errno> {
        let mut telling = self.telling.lock();
        let info = self.devices.lock().remove(&(kind, number)).ok_or(Errno::ENODEV)?;
        telling.tell(DeviceAction::Remove, &info);
        Ok(())
    }
    /// Tells subscribers that a device changed (a disk's size, a trigger through `/sys/.../uevent`), with `more` lines for this event.
    pub fn change(&self, kind: DeviceKind, number: DeviceNumber, action: DeviceAction, more: Vec<(String, String)>) -> Result<(), Errno> {
        let mut telling = self.telling.lock();
        let mut info = self.get(kind, number).ok_or(Errno::ENODEV)?;
        info.properties.extend(more);
        telling.tell(action, &info);
        Ok(())
    }
    /// Tells `subscriber` of every device that there is, and of what happens from now on.
    pub fn subscribe(&self, subscriber: Arc<dyn DeviceSubscriber>) {
        let mut telling = self.telling.lock();
        for info in self.list() {
            subscriber.device(DeviceAction::Add, &info, telling.sequence);
        }
        telling.subscribers.push(subscriber);
    }
    /// The device with this number.
    #[must_use]
    pub fn get(&self, kind: DeviceKind, number: DeviceNumber) -> Option<DeviceInfo> {
        self.devices.lock().get(&(kind, number)).cloned()
    }
    /// The device called `name` below `/dev`.
    #[must_use]
    pub fn by_name(&self, kind: DeviceKind, name: &str) -> Option<DeviceInfo> {
        self.devices.lock().values().find(|info| info.kind == kind && info.name == name).cloned()
    }
    /// All devices, by number.
    #[must_use]
    pub fn list(&self) -> Vec<DeviceInfo> {
        self.devices.lock().values().cloned().collect()
    }
    /// Major numbers and their drivers, for `/proc/devices`.
    #[must_use]
    pub fn majors(&self, kind: DeviceKind) -> Vec<(u32, String)> {
        let majors = self.majors.lock();
        let of_kind = majors.iter().filter(|((k, _), _)| *k == kind);
        of_kind.flat_map(|((_, major), (names, _))| names.iter().map(|name| (*major, name.clone()))).collect()
    }
    /// Opens a device node. ENXIO when no driver answers for its number.
    pub fn open(&self, kind: DeviceKind, number: DeviceNumber, open: &Open<'_>) -> SysResult<Arc<dyn FileOps>> {
        let own = self.devices.lock().get(&(kind, number)).map(|info| info.device.clone());
        let device = own.or_else(|| self.majors.lock().get(&(kind, number.major())).and_then(|(_, any)| any.clone()));
        device.ok_or(Errno::ENXIO)?.open(open)
    }
}

impl Telling {
    fn tell(&mut self, action: DeviceAction, info: &DeviceInfo) {
        self.sequence += 1;
        for subscriber in &self.subscribers {
            subscriber.device(action, info, self.sequence);
        }
    }
}
