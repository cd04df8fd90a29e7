//! The machine's files as a whole: known file-system types, superblocks in use, the dentry cache, devices, the lock of the mount tree.

use crate::anon::AnonMounts;
use crate::cache::PageCaches;
use crate::dentry::DentryCache;
use crate::device::Devices;
use crate::filesystem::{FileSystem, FileSystemType};
use crate::flags::MountFlags;
use crate::fscontext::Protections;
use crate::klog::KernelLog;
use crate::mount::{Mount, Propagation, SuperBlock};
use crate::types::DeviceNumber;
use abi::Errno;
use ram::{Ram, Reclaim};
use std::any::Any;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use sync::{Mutex, Rank, SpinLock};

/// One per machine (tests make several).
pub struct Vfs {
    ram: &'static Ram,
    dentries: &'static DentryCache,
    types: SpinLock<Vec<Arc<dyn FileSystemType>>>,
    superblocks: SpinLock<Vec<Weak<SuperBlock>>>,
    next_anonymous: AtomicU32,
    /// Mounts that are shared or slaves, perhaps no longer.
    propagating: SpinLock<Vec<Weak<Mount>>>,
    /// Which drivers answer for which device numbers.
    pub devices: Devices,
    /// Every page cache that has a disk behind it.
    pub page_caches: Arc<PageCaches>,
    /// What is refused in directories that others may write to.
    pub protections: Protections,
    /// The kernel's log.
    pub log: KernelLog,
    /// What the machine's sockets have in common, put here by the first of them (`sock`).
    pub sockets: OnceLock<&'static (dyn Any + Send + Sync)>,
    pub(crate) anon: AnonMounts,
    pub(crate) mount_lock: Mutex<()>,
    pub(crate) rename_lock: Mutex<()>,
}

impl Vfs {
    /// A machine without mounts, devices and file-system types, charged to `ram`.
    #[must_use]
    pub fn new(ram: &'static Ram) -> &'static Vfs {
        let cache: Arc<DentryCache> = Arc::new(DentryCache::new(ram));
        let weak: Weak<DentryCache> = Arc::downgrade(&cache);
        ram.register_reclaim(weak as Weak<dyn Reclaim>);
        let kept: &'static Arc<DentryCache> = Box::leak(Box::new(cache));
        let dentries: &'static DentryCache = kept;
        Box::leak(Box::new(Vfs {
            ram,
            dentries,
            types: SpinLock::default(),
            superblocks: SpinLock::default(),
            next_anonymous: AtomicU32::new(1),
            propagating: SpinLock::default(),
            devices: Devices::default(),
            page_caches: PageCaches::new(ram),
            protections: Protections::default(),
            log: KernelLog::default(),
            sockets: OnceLock::new(),
            anon: AnonMounts::default(),
            mount_lock: Mutex::ranked(Rank::Mounts, ()),
            rename_lock: Mutex::ranked(Rank::Rename, ()),
        }))
    }
    /// What everything is charged to.
    #[must_use]
    pub fn ram(&self) -> &'static Ram {
        self.ram
    }
    /// All dentries.
    #[must_use]
    pub fn dentries(&self) -> &'static DentryCache {
        self.dentries
    }

    /// Makes a kind of file system known to mount(2). A second one of the same name replaces the first.
    pub fn register_type(&self, kind: Arc<dyn FileSystemType>) {
        let mut types = self.types.lock();
        types.retain(|known| known.name() != kind.name());
        types.push(kind);
    }
    /// The kind called `name`. ENODEV.
    pub fn file_system_type(&self, name: &[u8]) -> Result<Arc<dyn FileSystemType>, Errno> {
        self.types.lock().iter().find(|known| known.name().as_bytes() == name).cloned().ok_or(Errno::ENODEV)
    }
    /// All kinds, in order of registration, for `/proc/filesystems`.
    #[must_use]
    pub fn file_system_types(&self) -> Vec<Arc<dyn FileSystemType>> {
        self.types.lock().clone()
    }

    /// The superblock of a file system: the one in use already, or a new one.
    pub fn superblock(&self, file_system: Arc<dyn FileSystem>, flags: MountFlags) -> Result<Arc<SuperBlock>, Errno> {
        let is_it = |sb: &Arc<SuperBlock>| Arc::ptr_eq(sb.file_system(), &file_system);
        let in_use = self.superblocks();
        if let Some(found) = in_use.iter().find(|sb| is_it(sb)) {
            return Ok(found.clone());
        }
        let root = self.dentries.new_root(file_system.root())?;
        let dev = file_system.device().unwrap_or_else(|| self.anonymous_device());
        let superblock = Arc::new(SuperBlock::new(file_system, root, dev, flags));
        let mut superblocks = self.superblocks.lock();
        superblocks.retain(|weak| weak.strong_count() > 0);
        superblocks.push(Arc::downgrade(&superblock));
        Ok(superblock)
    }
    /// Every superblock in use.
    #[must_use]
    pub fn superblocks(&self) -> Vec<Arc<SuperBlock>> {
        self.superblocks.lock().iter().filter_map(Weak::upgrade).collect()
    }
    /// A device number for a file system without a device.
    #[must_use]
    pub fn anonymous_device(&self) -> DeviceNumber {
        DeviceNumber::new(0, self.next_anonymous.fetch_add(1, Ordering::Relaxed))
    }
    /// Keeps track of a mount whose propagation was set.
    pub(crate) fn note_propagation(&self, mount: &Arc<Mount>) {
        if mount.propagation() == Propagation::default() {
            return;
        }
        let mut propagating = self.propagating.lock();
        propagating.retain(|weak| weak.strong_count() > 0);
        if !propagating.iter().any(|weak| std::ptr::eq(weak.as_ptr(), Arc::as_ptr(mount))) {
            propagating.push(Arc::downgrade(mount));
        }
    }
    pub(crate) fn propagating(&self) -> Vec<Arc<Mount>> {
        self.propagating.lock().iter().filter_map(Weak::upgrade).collect()
    }
    /// sync(2).
    pub fn sync_all(&self) {
        for superblock in self.superblocks() {
            // sync(2) tells of no error.
            let _ = superblock.file_system().sync();
        }
        // Block devices that are used as files.
        self.page_caches.write_back_all();
    }
}
