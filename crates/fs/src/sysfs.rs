//! `/sys`, sysfs(5): devices as directories, classes and numbers as links to them, and the few other files that programs look for.
//!
//! Nodes follow the device registry. A driver that has more to show about a device hangs it into [`Sysfs::device`].
//!
//! What it is not: a model of buses; every device is a virtual one.

use crate::blockdev::BlockDev;
use crate::kernfs::{FileSpec, Node, SYSFS_FILE_SIZE, parse};
use abi::{Errno, PAGE_SIZE};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use vfs::{DeviceAction, DeviceInfo, DeviceKind, DeviceSubscriber, FileSystem, FileSystemType, Inode, MountRequest, StatFs, Vfs};

/// `SYSFS_MAGIC`.
const SYSFS_MAGIC: u64 = 0x6265_6572;
/// Root inode.
const ROOT_INO: u64 = 1;

/// The file system `sysfs` of one machine, and its type.
pub struct Sysfs {
    vfs: &'static Vfs,
    tree: OnceLock<Arc<Node>>,
    sequence: AtomicU64,
    this: Weak<Sysfs>,
}

/// Names of devices in `/sys` have no slash.
fn flat(name: &str) -> String {
    name.replace('/', "!")
}

fn device_path(info: &DeviceInfo) -> String {
    info.path().trim_start_matches('/').to_owned()
}

fn attribute(text: impl Fn() -> String + Send + Sync + 'static) -> FileSpec {
    FileSpec::text(text).sized(SYSFS_FILE_SIZE)
}

impl Sysfs {
    /// A `/sys` with every device there is and will be. Register it as a type to make it mountable.
    #[must_use]
    pub fn new(vfs: &'static Vfs) -> Arc<Sysfs> {
        let sysfs =
            Arc::new_cyclic(|this: &Weak<Sysfs>| Sysfs { vfs, tree: OnceLock::new(), sequence: AtomicU64::new(0), this: this.clone() });
        let file_system: Weak<dyn FileSystem> = sysfs.this.clone();
        let _ = sysfs.tree.set(Node::root(file_system, ROOT_INO, None));
        for dir in [
            "block",
            "bus",
            "class",
            "dev/block",
            "dev/char",
            "devices/virtual",
            "devices/system",
            "firmware",
            "fs/cgroup",
            "hypervisor",
            "kernel/security",
            "module",
            "power",
        ] {
            sysfs.tree().dir(dir);
        }
        let weak = sysfs.this.clone();
        let sequence = move || format!("{}\n", weak.upgrade().map_or(0, |sysfs| sysfs.sequence.load(Ordering::Relaxed)));
        sysfs.tree().file("kernel/uevent_seqnum", 0o444, attribute(sequence));
        let subscriber: Arc<Sysfs> = sysfs.clone();
        vfs.devices.subscribe(subscriber);
        sysfs
    }
    /// The root, to hang files on.
    #[must_use]
    pub fn tree(&self) -> &Arc<Node> {
        self.tree.get().unwrap_or_else(|| unreachable!("made in new"))
    }
    /// The directory of a device.
    #[must_use]
    pub fn device(&self, info: &DeviceInfo) -> Option<Arc<Node>> {
        self.tree().find(&device_path(info))
    }
    /// Shows `count` processors, all present and online.
    pub fn set_cpus(&self, count: usize) {
        let range = if count > 1 { format!("0-{}\n", count - 1) } else { "0\n".to_owned() };
        for name in ["online", "possible", "present"] {
            let range = range.clone();
            self.tree().file(&format!("devices/system/cpu/{name}"), 0o444, attribute(move || range.clone()));
        }
        self.tree().file("devices/system/cpu/offline", 0o444, attribute(|| "\n".to_owned()));
        self.tree().file("devices/system/cpu/kernel_max", 0o444, attribute(|| "8191\n".to_owned()));
        for cpu in 0..count {
            let topology = format!("devices/system/cpu/cpu{cpu}/topology");
            for (name, value) in [("core_id", cpu.to_string()), ("physical_package_id", "0".to_owned())] {
                self.tree().file(&format!("{topology}/{name}"), 0o444, attribute(move || format!("{value}\n")));
            }
        }
        self.tree().file("devices/system/node/online", 0o444, attribute(|| "0\n".to_owned()));
    }

    fn add(&self, info: &DeviceInfo) {
        // An event that was asked for through `uevent` tells of what is there.
        if self.device(info).is_some() {
            return;
        }
        let path = device_path(info);
        let (name, number) = (flat(&info.name), info.number);
        let tree = self.tree();
        tree.dir(&path);
        tree.file(&format!("{path}/dev"), 0o444, attribute(move || format!("{number}\n")));
        tree.file(&format!("{path}/uevent"), 0o644, self.uevent(info));
        let up = "../".repeat(path.split('/').count());
        tree.link(&format!("{path}/subsystem"), &format!("{up}class/{}", info.class));
        tree.link(&format!("class/{}/{name}", info.class), &format!("../../{path}"));
        let by_number = match info.kind {
            DeviceKind::Char => "char",
            DeviceKind::Block => "block",
        };
        tree.link(&format!("dev/{by_number}/{number}"), &format!("../../{path}"));
        let dev = BlockDev::of(info);
        if info.kind == DeviceKind::Block && dev.as_ref().is_none_or(|dev| dev.about().partition.is_none()) {
            tree.link(&format!("block/{name}"), &format!("../{path}"));
        }
        if let Some(dev) = dev {
            crate::sysblock::describe(tree, &path, &dev);
        }
    }

    fn remove(&self, info: &DeviceInfo) {
        let name = flat(&info.name);
        self.tree().remove(&device_path(info));
        self.tree().remove(&format!("class/{}/{name}", info.class));
        self.tree().remove(&format!("dev/char/{}", info.number));
        if info.kind == DeviceKind::Block {
            self.tree().remove(&format!("dev/block/{}", info.number));
            self.tree().remove(&format!("block/{name}"));
        }
    }

    /// Shows what the device's events say, and makes one when written to: `udevadm trigger`.
    fn uevent(&self, info: &DeviceInfo) -> FileSpec {
        let (shown, kind, number, vfs) = (info.clone(), info.kind, info.number, self.vfs);
        let show = move || {
            let mut text = format!("MAJOR={}\nMINOR={}\nDEVNAME={}\n", shown.number.major(), shown.number.minor(), shown.name);
            for (key, value) in &shown.properties {
                text += &format!("{key}={value}\n");
            }
            text
        };
        attribute(show).store(move |_, data| {
            let text: String = parse(data)?;
            let mut words = text.split_ascii_whitespace();
            let action = words.next().unwrap_or_default();
            let action = match action {
                "add" => DeviceAction::Add,
                "change" => DeviceAction::Change,
                "remove" | "move" | "online" | "offline" | "bind" | "unbind" => return Ok(()),
                _ => return Err(Errno::EINVAL.into()),
            };
            Ok(vfs.devices.change(kind, number, action, synthetic(words)?)?)
        })
    }
}

/// What a request for an event says behind the action: a UUID, then `KEY=VALUE` with letters and digits only, sysfs-uevent of Linux's ABI
/// documents. EINVAL.
fn synthetic<'a>(mut words: impl Iterator<Item = &'a str>) -> Result<Vec<(String, String)>, Errno> {
    let Some(uuid) = words.next() else { return Ok(vec![("SYNTH_UUID".into(), "0".into())]) };
    let is_uuid = uuid.len() == 36 && uuid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    let alphanumeric = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
    let mut lines = vec![("SYNTH_UUID".to_owned(), uuid.to_owned())];
    for word in words {
        let (key, value) = word.split_once('=').filter(|(key, value)| alphanumeric(key) && alphanumeric(value)).ok_or(Errno::EINVAL)?;
        lines.push((format!("SYNTH_ARG_{key}"), value.to_owned()));
    }
    if is_uuid { Ok(lines) } else { Err(Errno::EINVAL) }
}

impl DeviceSubscriber for Sysfs {
    fn device(&self, action: DeviceAction, info: &DeviceInfo, sequence: u64) {
        self.sequence.store(sequence, Ordering::Relaxed);
        match action {
            DeviceAction::Add => self.add(info),
            DeviceAction::Remove => self.remove(info),
            DeviceAction::Change => {}
        }
    }
}

impl FileSystem for Sysfs {
    fn root(&self) -> Arc<dyn Inode> {
        self.tree().clone()
    }
    fn type_name(&self) -> &'static str {
        "sysfs"
    }
    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs { magic: SYSFS_MAGIC, block_size_bytes: PAGE_SIZE as u64, name_max: 255, ..StatFs::default() })
    }
}

impl FileSystemType for Sysfs {
    fn name(&self) -> &'static str {
        "sysfs"
    }
    fn mount(&self, _: &MountRequest<'_>) -> Result<Arc<dyn FileSystem>, Errno> {
        let this: Arc<dyn FileSystem> = self.this.upgrade().ok_or(Errno::ENODEV)?;
        Ok(this)
    }
}
