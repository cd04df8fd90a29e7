//! hostfs: a directory of the host as a file system.
//!
//! Here: the instance, its table of inodes, its options. [`inode`] has the files, [`cache`] their pages.
//!
//! What it is not: confinement, which lies below the traits ([`HostDir`] reaches nothing outside its tree).
//!
//! Always true: owners, modes, times and sizes are the host's; every change is made on the host before the call returns; devices, FIFOs and sockets
//! of the host appear as nodes, and opening one reaches the guest's own driver, pipe or socket, never the host's. What the host's user
//! may not do fails with the host's errno, whatever the guest's user may.
//!
//! How soon changes by others are seen is [`Options::valid_ns`]: attributes younger than that are believed without asking; older ones are asked
//! for again, and pages are read again when size or modification time moved.
//!
//! Source: `docs` of User Mode Linux on hostfs; the statfs magic is its own.

mod cache;
mod file;
mod inode;

use abi::Errno;
use inode::HostInode;
use platform::{HostDir, HostKind, HostMetadata};
use ram::{Ram, Reclaim};
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use sync::SpinLock;
use vfs::{FileKind, FileSystem, FileSystemType, Inode, MountFlags, MountRequest, StatFs};

/// `f_type` of statfs(2).
pub const MAGIC: u64 = 0x00c0_ffee;

/// How an instance behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// How long attributes are believed, nanoseconds. 0: a change on the host is seen at once.
    pub valid_ns: u64,
    /// Nothing may be changed (EROFS).
    pub read_only: bool,
    /// Files only grow: writes go to the end, truncation is ignored, names can't be taken away (EPERM). `hostfs=ROOT,append`.
    pub append: bool,
}

/// A directory of the host as a file system.
pub struct HostFs {
    ram: &'static Ram,
    root: SpinLock<Option<Arc<HostInode>>>,
    options: Options,
    /// What `/proc/mounts` shows of the options.
    shown: String,
    /// The inodes that somebody holds, by the host's device and inode number.
    inodes: SpinLock<HashMap<(u64, u64), Weak<HostInode>>>,
    /// The host's devices, in the order met: part of inode numbers, which are unique over all of them so.
    devices: SpinLock<Vec<u64>>,
}

impl HostFs {
    /// The tree below `dir`. `shown` is added to its options in `/proc/mounts`.
    pub fn new(ram: &'static Ram, dir: Arc<dyn HostDir>, options: Options, shown: &str) -> Result<Arc<HostFs>, Errno> {
        let metadata = dir.metadata()?;
        let fs = Arc::new(HostFs {
            ram,
            root: SpinLock::new(None),
            options,
            shown: shown.to_string(),
            inodes: SpinLock::default(),
            devices: SpinLock::default(),
        });
        let root = HostInode::root(&fs, dir, metadata);
        *fs.root.lock() = Some(root);
        let weak: Weak<HostFs> = Arc::downgrade(&fs);
        ram.register_reclaim(weak as Weak<dyn Reclaim>);
        Ok(fs)
    }

    fn root_inode(&self) -> Arc<HostInode> {
        self.root.lock().clone().unwrap_or_else(|| unreachable!("a file system has its root from the start"))
    }

    /// The number by which the guest knows an inode: the host's, made unique over the host's devices.
    fn ino(&self, dev: u64, ino: u64) -> u64 {
        let mut devices = self.devices.lock();
        let index = devices.iter().position(|known| *known == dev).unwrap_or_else(|| {
            devices.push(dev);
            devices.len() - 1
        });
        ino ^ ((index as u64) << 48)
    }

    /// The inode of a host file that was just looked at: the one there is, told of the news, or a new one.
    fn inode(self: &Arc<HostFs>, parent: &Arc<dyn HostDir>, name: &[u8], metadata: HostMetadata) -> Arc<HostInode> {
        let key = (metadata.dev, metadata.ino);
        let known = self.inodes.lock().get(&key).and_then(Weak::upgrade);
        if let Some(known) = known
            && known.kind() == kind(metadata.kind)
        {
            known.seen_at(parent, name, metadata);
            return known;
        }
        let inode = HostInode::new(self, parent.clone(), name, metadata);
        let mut inodes = self.inodes.lock();
        // Somebody may have met it meanwhile, by another of its names.
        let other = inodes.get(&key).and_then(Weak::upgrade).filter(|other| other.kind() == inode.kind());
        if other.is_none() {
            inodes.insert(key, Arc::downgrade(&inode));
        }
        drop(inodes);
        other.unwrap_or(inode)
    }

    /// An inode goes: its place in the table is free unless a newer one has it.
    fn forget(&self, key: (u64, u64)) {
        let mut inodes = self.inodes.lock();
        if inodes.get(&key).is_some_and(|weak| weak.strong_count() == 0) {
            inodes.remove(&key);
        }
    }

    fn all(&self) -> Vec<Arc<HostInode>> {
        self.inodes.lock().values().filter_map(Weak::upgrade).collect()
    }

    fn writable(&self) -> Result<(), Errno> {
        if self.options.read_only { Err(Errno::EROFS) } else { Ok(()) }
    }
}

/// A host's kind of file as ours.
pub(crate) fn kind(kind: HostKind) -> FileKind {
    match kind {
        HostKind::File => FileKind::Regular,
        HostKind::Directory => FileKind::Directory,
        HostKind::Symlink => FileKind::Symlink,
        HostKind::CharDevice => FileKind::CharDevice,
        HostKind::BlockDevice => FileKind::BlockDevice,
        HostKind::Fifo => FileKind::Fifo,
        HostKind::Socket => FileKind::Socket,
    }
}

impl FileSystem for HostFs {
    fn root(&self) -> Arc<dyn Inode> {
        self.root_inode()
    }
    fn type_name(&self) -> &'static str {
        "hostfs"
    }
    fn statfs(&self) -> Result<StatFs, Errno> {
        let found = self.root_inode().dir()?.statfs()?;
        Ok(StatFs {
            magic: MAGIC,
            block_size_bytes: found.block_size_bytes,
            blocks: found.blocks,
            blocks_free: found.blocks_free,
            blocks_available: found.blocks_available,
            files: found.files,
            files_free: found.files_free,
            fsid: 0,
            name_max: found.name_max,
        })
    }
    fn sync(&self) -> Result<(), Errno> {
        let mut result = Ok(());
        for inode in self.all() {
            result = result.and(inode.write_back());
        }
        result
    }
    fn flags(&self) -> MountFlags {
        if self.options.read_only { MountFlags::RDONLY } else { MountFlags::empty() }
    }
    fn show_options(&self) -> String {
        self.shown.clone()
    }
    fn unmount(&self) {
        // The root holds the file system, and the file system the root.
        let root = self.root.lock().take();
        drop(root);
    }
}

impl Reclaim for HostFs {
    fn reclaim(&self, frames: usize) -> usize {
        let mut freed = 0;
        for inode in self.all() {
            if freed >= frames {
                break;
            }
            freed += inode.reclaim(frames - freed);
        }
        freed
    }
}

/// mount(2) of type `hostfs`: `-o PATH` names a directory below what `hostfs=` gave away.
pub struct HostFsType {
    root: Arc<dyn HostDir>,
    options: Options,
}

impl HostFsType {
    /// A type whose mounts are all below `root`.
    #[must_use]
    pub fn new(root: Arc<dyn HostDir>, options: Options) -> HostFsType {
        HostFsType { root, options }
    }

    /// The directory that `path` names below the root. A symbolic link at its very end is followed once, inside.
    fn directory(&self, path: &[u8]) -> Result<Arc<dyn HostDir>, Errno> {
        let mut names: Vec<Vec<u8>> = components(path)?;
        let mut followed = false;
        'walk: loop {
            let mut dir = self.root.clone();
            for (at, name) in names.iter().enumerate() {
                match dir.open_dir(name) {
                    Ok(next) => dir = next,
                    Err(Errno::ENOTDIR) if at + 1 == names.len() && !followed => {
                        let target = dir.read_link(name).map_err(|_| Errno::ENOTDIR)?;
                        let mut real = if target.starts_with(b"/") { Vec::new() } else { names.get(..at).unwrap_or_default().to_vec() };
                        real.extend(components(&target)?);
                        (names, followed) = (real, true);
                        continue 'walk;
                    }
                    Err(errno) => return Err(errno),
                }
            }
            return Ok(dir);
        }
    }
}

/// The names of a path. EINVAL for `..`: the path is taken below the root and leads nowhere else.
fn components(path: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let names: Vec<Vec<u8>> = path.split(|b| *b == b'/').filter(|name| !name.is_empty() && *name != b".").map(<[u8]>::to_vec).collect();
    if names.iter().any(|name| name == b"..") { Err(Errno::EINVAL) } else { Ok(names) }
}

impl FileSystemType for HostFsType {
    fn name(&self) -> &'static str {
        "hostfs"
    }
    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<dyn FileSystem>, Errno> {
        let mut options = self.options;
        let mut path: &[u8] = b"/";
        for option in request.data.split(|b| *b == b',').filter(|option| !option.is_empty()) {
            match option {
                b"append" => options.append = true,
                option if option.starts_with(b"/") => path = option,
                option => path = option.strip_prefix(b"hostfs=").unwrap_or(option),
            }
        }
        options.read_only |= request.flags.contains(MountFlags::RDONLY);
        let mut shown = format!(",{}", String::from_utf8_lossy(path));
        if options.append {
            shown += ",append";
        }
        Ok(HostFs::new(request.vfs.ram(), self.directory(path)?, options, &shown)?)
    }
}
