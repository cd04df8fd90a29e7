//! ext2, ext3 and ext4 as file systems of the machine: the crate `ext4` under the traits of `vfs`, with a page cache between.
//!
//! Here: the instance, its table of inodes, mounting. [`inode`] has the files, [`file`] their contents.
//!
//! What it is not: the format or the journal, which the crate `ext4` has.
//!
//! Always true: an inode with dirty pages or times is held in [`ExtFs::dirty`] until they are written, so nothing is lost when the last name and
//! the last descriptor go. An inode without a name is freed at the next operation after its last user left, never inside an allocation.
//!
//! Follows Linux `Documentation/filesystems/ext4/` and ext4(5).

mod file;
mod inode;

use crate::blockdev::{BlockDev, Hold};
use ::ext4::probe::Generation;
use ::ext4::{Event, Filesystem, Options, ROOT_INODE};
use abi::Errno;
use inode::ExtInode;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use sync::SpinLock;
use vfs::{DeviceNumber, FileSystem, FileSystemType, Inode, MountFlags, MountRequest, StatFs, Timestamp, Vfs};

/// `f_type` of statfs(2).
const MAGIC: u64 = 0xef53;

/// Log levels of what a mount has to say.
const ERROR: u8 = 3;
const NOTICE: u8 = 5;

fn stamp(time: Timestamp) -> ::ext4::Timestamp {
    ::ext4::Timestamp { seconds: time.sec, nanoseconds: time.nsec }
}

fn time(stamp: ::ext4::Timestamp) -> Timestamp {
    Timestamp { sec: stamp.seconds, nsec: stamp.nanoseconds }
}

/// Whether an image can be mounted as that type. The journal of an ext3 image is used under any name, as Linux's ext4 does.
fn suits(type_name: &str, generation: Generation) -> bool {
    match type_name {
        "ext2" => generation != Generation::Ext4,
        "ext3" => generation == Generation::Ext3,
        _ => true,
    }
}

/// A mounted image.
pub struct ExtFs {
    vfs: &'static Vfs,
    image: Arc<Filesystem>,
    device: DeviceNumber,
    /// What log lines call it: `ubda`.
    device_name: String,
    type_name: &'static str,
    root: SpinLock<Option<Arc<ExtInode>>>,
    /// Keeps the device; given back when it is unmounted.
    hold: SpinLock<Option<Hold>>,
    /// The inodes that somebody holds.
    inodes: SpinLock<HashMap<u32, Weak<ExtInode>>>,
    /// Those whose contents or times are not on their way to the disk yet.
    dirty: SpinLock<HashMap<u32, Arc<ExtInode>>>,
    /// Inodes without a name whose last user left.
    unnamed: SpinLock<Vec<u32>>,
    this: Weak<ExtFs>,
}

impl ExtFs {
    /// Mounts the image on a block device of the registry.
    ///
    /// ENXIO if there is no such device, EINVAL if it holds no such file system or the options make no sense, EROFS if it has to be written and can't.
    pub fn mount(
        vfs: &'static Vfs,
        device: DeviceNumber,
        type_name: &'static str,
        flags: MountFlags,
        data: &[u8],
    ) -> Result<Arc<ExtFs>, Errno> {
        let info = vfs.devices.get(vfs::DeviceKind::Block, device).ok_or(Errno::ENXIO)?;
        let block_dev = BlockDev::of(&info).ok_or(Errno::ENXIO)?;
        let hold = block_dev.hold()?;
        block_dev.invalidate()?;
        let generation = ::ext4::probe::probe(&**block_dev.disk())?.map(|found| found.generation);
        if generation.is_none_or(|generation| !suits(type_name, generation)) {
            return Err(Errno::EINVAL);
        }
        let complain = |text: String| vfs.log.print(ERROR, &format!("EXT4-fs ({}): {text}", info.name));
        let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
        let mut options = Options::default().parse(text).map_err(|error| {
            complain(error.to_string());
            Errno::EINVAL
        })?;
        options.read_only |= flags.contains(MountFlags::RDONLY);
        options.now = stamp(Timestamp::now());
        let image = Filesystem::mount(block_dev.disk().clone(), options).map_err(|error| {
            complain(error.to_string());
            Errno::from(error)
        })?;
        let fs = Arc::new_cyclic(|this: &Weak<ExtFs>| ExtFs {
            vfs,
            image,
            device,
            device_name: info.name.to_string(),
            type_name,
            root: SpinLock::new(None),
            hold: SpinLock::new(Some(hold)),
            inodes: SpinLock::default(),
            dirty: SpinLock::default(),
            unnamed: SpinLock::default(),
            this: this.clone(),
        });
        let root = fs.inode(ROOT_INODE)?;
        *fs.root.lock() = Some(root);
        fs.tell_events();
        let mode = if fs.image.is_read_only() { "ro" } else { "r/w" };
        vfs.log.print(NOTICE, &format!("EXT4-fs ({}): mounted filesystem {mode}", fs.device_name));
        Ok(fs)
    }

    /// Puts what the image has to say into the kernel's log.
    fn tell_events(&self) {
        for event in self.image.take_events() {
            let (level, text) = match event {
                Event::Corrupt { block, what } => (ERROR, format!("error: block {block}: {what}")),
                Event::JournalAborted(errno) => (ERROR, format!("the journal has aborted: {errno}")),
                Event::RemountedReadOnly => (ERROR, "Remounting filesystem read-only".into()),
                Event::Panic => (ERROR, "panic forced after error".into()),
                Event::Recovered => (NOTICE, "recovery complete".into()),
                Event::Orphans(deleted, truncated) => (NOTICE, format!("{deleted} orphan inodes deleted, {truncated} truncated")),
                Event::HasErrors => (ERROR, "warning: mounting fs with errors, running e2fsck is recommended".into()),
            };
            self.vfs.log.print(level, &format!("EXT4-fs ({}): {text}", self.device_name));
        }
    }

    /// The inode of a number that a directory names.
    fn inode(&self, ino: u32) -> Result<Arc<ExtInode>, Errno> {
        if let Some(known) = self.inodes.lock().get(&ino).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let this = self.this.upgrade().ok_or(Errno::EIO)?;
        let inode = ExtInode::load(&this, ino)?;
        let mut inodes = self.inodes.lock();
        if let Some(other) = inodes.get(&ino).and_then(Weak::upgrade) {
            drop(inodes);
            return Ok(other);
        }
        inodes.insert(ino, Arc::downgrade(&inode));
        Ok(inode)
    }

    /// An inode goes: its place in the table is free unless a newer one has it. Called from `drop`, perhaps inside an allocation.
    fn forget(&self, ino: u32, is_unnamed: bool) {
        {
            let mut inodes = self.inodes.lock();
            if inodes.get(&ino).is_some_and(|weak| weak.strong_count() == 0) {
                inodes.remove(&ino);
            }
        }
        if is_unnamed {
            self.unnamed.lock().push(ino);
        }
    }

    /// Frees inodes without a name that nobody uses any more.
    fn free_unnamed(&self) {
        loop {
            let gone = std::mem::take(&mut *self.unnamed.lock());
            if gone.is_empty() {
                return;
            }
            for ino in gone {
                if let Err(error) = self.image.evict(ino) {
                    // The inode stays on the image's list of orphans; the next mount finishes it.
                    self.vfs.log.print(ERROR, &format!("EXT4-fs ({}): inode {ino} could not be freed: {error}", self.device_name));
                }
            }
        }
    }

    fn writable(&self) -> Result<(), Errno> {
        if self.image.is_read_only() { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// Writes every dirty page and time to the image, which is not committed yet.
    fn write_back(&self) -> Result<(), Errno> {
        let dirty: Vec<Arc<ExtInode>> = self.dirty.lock().values().cloned().collect();
        let mut result = Ok(());
        for inode in dirty {
            result = result.and(inode.write_back());
        }
        self.free_unnamed();
        result
    }
}

impl FileSystem for ExtFs {
    fn root(&self) -> Arc<dyn Inode> {
        self.root.lock().clone().unwrap_or_else(|| unreachable!("a file system has its root while it is mounted"))
    }
    fn type_name(&self) -> &'static str {
        self.type_name
    }
    fn statfs(&self) -> Result<StatFs, Errno> {
        let found = self.image.statistics();
        let (low, high) = found.uuid.split_at(8);
        let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        Ok(StatFs {
            magic: MAGIC,
            block_size_bytes: u64::from(found.block_size),
            blocks: found.blocks,
            blocks_free: found.free_blocks,
            blocks_available: found.available_blocks,
            files: found.inodes,
            files_free: found.free_inodes,
            fsid: word(low) ^ word(high),
            name_max: 255,
        })
    }
    fn sync(&self) -> Result<(), Errno> {
        let written = self.write_back();
        let committed = if self.image.is_read_only() { Ok(()) } else { self.image.commit().map_err(Errno::from) };
        self.tell_events();
        written.and(committed)
    }
    fn freeze(&self) -> Result<(), Errno> {
        let written = self.write_back();
        let frozen = self.image.freeze().map_err(Errno::from);
        self.tell_events();
        written.and(frozen)
    }
    fn thaw(&self) -> Result<(), Errno> {
        let thawed = self.image.thaw().map_err(Errno::from);
        self.tell_events();
        thawed
    }
    fn device(&self) -> Option<DeviceNumber> {
        Some(self.device)
    }
    fn flags(&self) -> MountFlags {
        if self.image.is_read_only() { MountFlags::RDONLY } else { MountFlags::empty() }
    }
    fn remount(&self, flags: MountFlags, data: &[u8]) -> Result<(), Errno> {
        let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
        let mut options = self.image.options().parse(text).map_err(|_| Errno::EINVAL)?;
        options.read_only = flags.contains(MountFlags::RDONLY);
        options.now = stamp(Timestamp::now());
        if options.read_only {
            self.write_back()?;
        }
        let result = self.image.remount(options).map_err(Errno::from);
        self.tell_events();
        result
    }
    fn trim(&self, start: u64, len: u64, least: u64) -> Result<u64, Errno> {
        self.writable()?;
        // What was freed can be told of only when it is sure to stay free.
        self.sync()?;
        Ok(self.image.trim(start, len, least)?)
    }
    fn show_options(&self) -> String {
        let shown = self.image.options().show();
        if shown.is_empty() { shown } else { format!(",{shown}") }
    }
    fn unmount(&self) {
        // The root holds the file system, and the file system the root.
        let root = self.root.lock().take();
        drop(root);
        self.free_unnamed();
        if let Err(error) = self.image.unmount() {
            self.vfs.log.print(ERROR, &format!("EXT4-fs ({}): unmount: {error}", self.device_name));
        }
        self.tell_events();
        let hold = self.hold.lock().take();
        drop(hold);
    }
}

/// mount(2) of type `ext2`, `ext3` or `ext4`: one implementation under three names.
pub struct ExtType {
    name: &'static str,
    /// What is mounted, so that a second mount of a device shares it.
    mounted: Arc<SpinLock<Vec<Weak<ExtFs>>>>,
}

impl ExtType {
    /// The three types, which share their mounts, in the order in which Linux tries them.
    #[must_use]
    pub fn all() -> [Arc<ExtType>; 3] {
        let mounted: Arc<SpinLock<Vec<Weak<ExtFs>>>> = Arc::default();
        ["ext3", "ext2", "ext4"].map(|name| Arc::new(ExtType { name, mounted: mounted.clone() }))
    }

    /// Mounts a device by number: what mount(2) does after it found the node, and the kernel for its root.
    pub fn mount_device(&self, vfs: &'static Vfs, device: DeviceNumber, flags: MountFlags, data: &[u8]) -> Result<Arc<ExtFs>, Errno> {
        let known = {
            let mut mounted = self.mounted.lock();
            mounted.retain(|weak| weak.strong_count() > 0);
            mounted.iter().filter_map(Weak::upgrade).find(|fs| fs.device == device && fs.root.lock().is_some())
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let fs = ExtFs::mount(vfs, device, self.name, flags, data)?;
        self.mounted.lock().push(Arc::downgrade(&fs));
        Ok(fs)
    }
}

impl FileSystemType for ExtType {
    fn name(&self) -> &'static str {
        self.name
    }
    fn needs_device(&self) -> bool {
        true
    }
    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<dyn FileSystem>, Errno> {
        let path = request.source_path.as_ref().ok_or(Errno::ENOENT)?;
        let inode = path.inode();
        if inode.kind() != vfs::FileKind::BlockDevice {
            return Err(Errno::ENOTBLK);
        }
        Ok(self.mount_device(request.vfs, inode.rdev(), request.flags, request.data)?)
    }
}
