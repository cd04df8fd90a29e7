//! overlay: a file system that shows a lower one and keeps every change in an upper one.
//!
//! Here: the instance and its table of inodes. [`inode`] has lookup and names, [`copy_up`] brings things up, [`file`] follows a file that is
//! brought up while it is open.
//!
//! The upper file system belongs to the overlay alone and lives as long as it (a tmpfs): two directories in it, `root` with the changes and `work`
//! for things that are being made. As in Linux's overlayfs a removed name is a *whiteout*, a character device 0:0. Unlike there, which upper
//! directory shows which lower one is kept in memory ([`Overlay::origins`]), not found by name: a directory that was copied up may be renamed and
//! goes on showing its lower contents, and one that was made afresh shows nothing of what had its name before.
//!
//! Always true: the lower file system is only read; an entry appears in `root` complete, by a rename out of `work`; an inode gets an upper file at
//! most once and keeps its number; what the lower file system may not be read (EACCES) counts as empty where it is brought up, and is
//! absent where it is looked into.
//!
//! Not here: lower files with several names are brought up one name at a time, as Linux does without `index=on`. Nothing of it outlives the machine.

mod copy_up;
mod file;
mod inode;

use abi::Errno;
use inode::OverlayInode;
use ram::Ram;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use sync::SpinLock;
use vfs::{DeviceNumber, FileKind, FileSystem, Inode, Owner, RenameFlags, StatFs};

/// `OVERLAYFS_SUPER_MAGIC`.
const MAGIC: u64 = 0x794c_7630;
/// Set in the numbers of inodes that have no lower file, to keep them apart from those of the lower file system.
const UPPER_INO: u64 = 1 << 60;

/// What an upper file came from.
struct Origin {
    /// The number it had, and keeps.
    ino: u64,
    /// The lower directory that shows through; none for other kinds.
    lower: Option<Arc<dyn Inode>>,
}

/// A lower directory and an upper file system, shown as one.
pub struct Overlay {
    ram: &'static Ram,
    /// Kept in use: inodes may ask for their file system.
    upper: Arc<dyn FileSystem>,
    work: Arc<dyn Inode>,
    root: SpinLock<Option<Arc<OverlayInode>>>,
    /// Inodes that somebody holds, by the address of their upper file and of their lower one if that has one name only.
    nodes: SpinLock<HashMap<usize, Weak<OverlayInode>>>,
    /// By the upper file's number.
    origins: SpinLock<HashMap<u64, Origin>>,
    next_work: AtomicU64,
    shown: String,
}

fn key(inode: &Arc<dyn Inode>) -> usize {
    Arc::as_ptr(inode).cast::<()>() as usize
}

fn is_whiteout(inode: &Arc<dyn Inode>) -> bool {
    inode.kind() == FileKind::CharDevice && inode.rdev() == DeviceNumber::NONE
}

impl Overlay {
    /// Shows `lower`, a directory, with changes kept in `upper`, which is empty and used by nobody else. `shown` is what `/proc/mounts` says of
    /// its options.
    pub fn new(ram: &'static Ram, lower: Arc<dyn Inode>, upper: Arc<dyn FileSystem>, shown: &str) -> Result<Arc<Overlay>, Errno> {
        if lower.kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let top = upper.root();
        let work = top.mkdir(b"work", Owner::default())?;
        let metadata = lower.metadata()?;
        let root = top.mkdir(b"root", metadata.owner())?;
        copy_up::set_times(&root, &metadata)?;
        let overlay = Arc::new(Overlay {
            ram,
            upper,
            work,
            root: SpinLock::new(None),
            nodes: SpinLock::default(),
            origins: SpinLock::default(),
            next_work: AtomicU64::new(0),
            shown: shown.to_string(),
        });
        overlay.remember_origin(&root, lower.ino(), Some(lower.clone()));
        let node = overlay.node(Some(root), Some(lower), None);
        *overlay.root.lock() = Some(node);
        Ok(overlay)
    }

    fn remember_origin(&self, upper: &Arc<dyn Inode>, ino: u64, lower: Option<Arc<dyn Inode>>) {
        let old = self.origins.lock().insert(upper.ino(), Origin { ino, lower });
        drop(old);
    }

    /// An upper file has lost its last name.
    fn forget_origin(&self, upper: &Arc<dyn Inode>) {
        if upper.metadata().is_ok_and(|m| m.links == 0 || upper.kind() == FileKind::Directory) {
            let old = self.origins.lock().remove(&upper.ino());
            drop(old);
        }
    }

    /// The lower directory that shows through an upper one.
    fn lower_of(&self, upper: &Arc<dyn Inode>) -> Option<Arc<dyn Inode>> {
        self.origins.lock().get(&upper.ino()).and_then(|origin| origin.lower.clone())
    }

    /// The number by which the guest knows an upper file.
    fn visible_ino(&self, upper_ino: u64) -> u64 {
        self.origins.lock().get(&upper_ino).map_or(upper_ino | UPPER_INO, |origin| origin.ino)
    }

    /// The inode of an upper file, a lower one, or both: the one there is, or a new one.
    fn node(
        self: &Arc<Overlay>,
        upper: Option<Arc<dyn Inode>>,
        lower: Option<Arc<dyn Inode>>,
        place: Option<inode::Place>,
    ) -> Arc<OverlayInode> {
        let at = match (&upper, &lower) {
            (Some(upper), _) => Some(key(upper)),
            // Each name of a lower file with several is a file of its own.
            (None, Some(lower)) if lower.kind() == FileKind::Directory || lower.metadata().is_ok_and(|m| m.links <= 1) => Some(key(lower)),
            _ => None,
        };
        let find = |nodes: &HashMap<usize, Weak<OverlayInode>>| at.and_then(|at| nodes.get(&at)).and_then(Weak::upgrade);
        let known = find(&self.nodes.lock());
        let node = match known {
            Some(known) => known,
            None => {
                let new = OverlayInode::new(self, upper, lower, place.clone());
                let mut nodes = self.nodes.lock();
                let other = find(&nodes);
                if let (None, Some(at)) = (&other, at) {
                    nodes.insert(at, Arc::downgrade(&new));
                }
                drop(nodes);
                other.unwrap_or(new)
            }
        };
        node.set_place(place);
        node
    }

    /// Makes something in `work` with `make`, then gives it the place `name` in `dir`, over the whiteout or file that is there. What fails leaves
    /// `dir` as it was.
    fn make_at(
        &self,
        dir: &Arc<dyn Inode>,
        name: &[u8],
        make: impl FnOnce(&Arc<dyn Inode>, &[u8]) -> Result<Arc<dyn Inode>, Errno>,
    ) -> Result<Arc<dyn Inode>, Errno> {
        let there = match dir.lookup(name) {
            Ok(there) => Some(there),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        let temporary = self.work_name();
        let made = make(&self.work, &temporary)?;
        let moved = self.work.rename(&temporary, &made, dir, name, there.as_ref(), RenameFlags::empty());
        if let Err(errno) = moved {
            self.discard(&temporary, &made);
            return Err(errno);
        }
        Ok(made)
    }

    fn work_name(&self) -> Vec<u8> {
        format!("#{}", self.next_work.fetch_add(1, Ordering::Relaxed)).into_bytes()
    }

    /// Removes what was being made.
    fn discard(&self, temporary: &[u8], made: &Arc<dyn Inode>) {
        let removed = match made.kind() {
            FileKind::Directory => self.work.rmdir(temporary, made),
            _ => self.work.unlink(temporary, made),
        };
        // Nobody sees it; it goes with the file system.
        let _ = removed;
    }

    /// Puts a whiteout in the place of whatever upper file `name` of `dir` is.
    fn white_out(&self, dir: &Arc<dyn Inode>, name: &[u8], upper: Option<&Arc<dyn Inode>>) -> Result<(), Errno> {
        let upper = match upper {
            None => return whiteout(dir, name).map(drop),
            Some(upper) if upper.kind() != FileKind::Directory => return self.make_at(dir, name, whiteout).map(drop),
            Some(upper) => upper,
        };
        let temporary = self.work_name();
        let made = whiteout(&self.work, &temporary)?;
        if let Err(errno) = self.work.rename(&temporary, &made, dir, name, Some(upper), RenameFlags::EXCHANGE) {
            self.discard(&temporary, &made);
            return Err(errno);
        }
        self.discard(&temporary, upper);
        Ok(())
    }
}

fn whiteout(dir: &Arc<dyn Inode>, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
    dir.mknod(name, FileKind::CharDevice, DeviceNumber::NONE, Owner::default())
}

impl FileSystem for Overlay {
    fn root(&self) -> Arc<dyn Inode> {
        self.root.lock().clone().unwrap_or_else(|| unreachable!("a file system has its root from the start"))
    }
    fn type_name(&self) -> &'static str {
        "overlay"
    }
    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs { magic: MAGIC, ..self.upper.statfs()? })
    }
    fn sync(&self) -> Result<(), Errno> {
        self.upper.sync()
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
