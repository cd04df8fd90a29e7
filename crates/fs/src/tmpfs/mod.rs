//! tmpfs(5): files in memory. Also ramfs, the root that everything starts on (rootfs), the nameless files of memfd_create(2) and shared memory, and
//! the ground that devtmpfs stands on.
//!
//! What it is not: swap; its pages stay in RAM until they are truncated.
//!
//! Always true: an instance holds at most `size=` bytes of pages and `nr_inodes=` inodes; every inode and name is charged to RAM. A directory tree of
//! any depth is freed without recursion.

mod directory;
mod file;
mod inode;
mod memfd;

pub use inode::TmpfsInode;
pub use memfd::{memfd, shared_memory};

use abi::{Errno, PAGE_SIZE};
use ram::{Frame, Ram};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use sync::SpinLock;
use vfs::{FileKind, FileSystem, FileSystemType, Inode, MountFlags, MountRequest, Owner, PageSource, StatFs};

/// `TMPFS_MAGIC`.
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// `RAMFS_MAGIC`.
const RAMFS_MAGIC: u64 = 0x8584_58f6;

/// What an instance may hold and holds, shared by its inodes.
pub(crate) struct Space {
    pub ram: &'static Ram,
    /// 0: no limit but RAM.
    max_pages: AtomicU64,
    used_pages: AtomicU64,
    /// 0: no limit but RAM.
    max_inodes: AtomicU64,
    used_inodes: AtomicU64,
    next_ino: AtomicU64,
    file_system: Weak<Tmpfs>,
}

impl Space {
    fn count_inode(&self) -> Result<(), Errno> {
        let max = self.max_inodes.load(Ordering::Relaxed);
        let fits = |used: u64| (max == 0 || used < max).then_some(used + 1);
        self.used_inodes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).map(drop).map_err(|_| Errno::ENOSPC)
    }
    fn uncount_inode(&self) {
        self.used_inodes.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PageSource for Space {
    fn is_backed(&self) -> bool {
        false
    }
    fn read_pages(&self, _: u64, frames: &[Frame]) -> Result<(), Errno> {
        frames.iter().for_each(|frame| frame.fill(0, PAGE_SIZE, 0));
        Ok(())
    }
    fn reserve(&self, first: u64, end: u64) -> Result<(), Errno> {
        let max = self.max_pages.load(Ordering::Relaxed);
        let fits = |used: u64| used.checked_add(end - first).filter(|used| max == 0 || *used <= max);
        self.used_pages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).map(drop).map_err(|_| Errno::ENOSPC)
    }
    fn release(&self, pages: u64) {
        self.used_pages.fetch_sub(pages, Ordering::Relaxed);
    }
}

/// Options of a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Most pages; `None`: the default of the type.
    pub pages: Option<u64>,
    pub inodes: Option<u64>,
    /// Owner and mode of the root directory.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

fn number(text: &str, radix: u32) -> Result<u32, Errno> {
    u32::from_str_radix(text, radix).map_err(|_| Errno::EINVAL)
}

/// A size with a suffix k, m, g, or % of RAM, as `memparse` of Linux takes it. 0 is no limit.
fn size(text: &str, total_bytes: u64) -> Result<u64, Errno> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent: u64 = percent.parse().map_err(|_| Errno::EINVAL)?;
        return Ok(total_bytes / 100 * percent);
    }
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        Some(b't' | b'T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let value: u64 = digits.parse().map_err(|_| Errno::EINVAL)?;
    value.checked_mul(1 << shift).ok_or(Errno::EINVAL)
}

impl Options {
    /// Reads the options string of mount(2); `total_bytes` is what percentages are of. EINVAL for what tmpfs(5) does not name.
    pub fn parse(data: &[u8], total_bytes: u64) -> Result<Options, Errno> {
        let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
        let mut options = Options::default();
        for option in text.split(',').filter(|o| !o.is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            match key {
                "size" => options.pages = Some(size(value, total_bytes)?.div_ceil(PAGE_SIZE as u64)),
                "nr_blocks" => options.pages = Some(size(value, total_bytes)?),
                "nr_inodes" => options.inodes = Some(size(value, total_bytes)?),
                "mode" => options.mode = Some(number(value, 8)? & 0o7777),
                "uid" => options.uid = Some(number(value, 10)?),
                "gid" => options.gid = Some(number(value, 10)?),
                // Where pages lie and how big they are is decided by the host.
                "mpol" | "huge" | "inode32" | "inode64" | "noswap" => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(options)
    }
}

/// An instance.
pub struct Tmpfs {
    name: &'static str,
    space: Arc<Space>,
    root: OnceLock<Arc<TmpfsInode>>,
    shown: SpinLock<Options>,
}

impl Tmpfs {
    /// An instance of the type `name` (`tmpfs`, `ramfs`, `rootfs`, `devtmpfs`). Only tmpfs has limits of its own by default: half of RAM.
    pub fn new(ram: &'static Ram, name: &'static str, options: Options) -> Result<Arc<Tmpfs>, Errno> {
        let limited = name == "tmpfs" || name == "devtmpfs";
        let default = if limited { ram.frames() as u64 / 2 } else { 0 };
        let tmpfs = Arc::new_cyclic(|this: &Weak<Tmpfs>| Tmpfs {
            name,
            space: Arc::new(Space {
                ram,
                max_pages: AtomicU64::new(options.pages.unwrap_or(default)),
                used_pages: AtomicU64::new(0),
                max_inodes: AtomicU64::new(options.inodes.unwrap_or(default)),
                used_inodes: AtomicU64::new(0),
                next_ino: AtomicU64::new(1),
                file_system: this.clone(),
            }),
            root: OnceLock::new(),
            shown: SpinLock::new(options),
        });
        let default_mode = if name == "tmpfs" { 0o1777 } else { 0o755 };
        let owner = Owner { mode: options.mode.unwrap_or(default_mode), uid: options.uid.unwrap_or(0), gid: options.gid.unwrap_or(0) };
        let root = TmpfsInode::new(&tmpfs.space, inode::NewBody::Directory, owner)?;
        let _ = tmpfs.root.set(root);
        Ok(tmpfs)
    }

    /// A file without a name.
    pub(crate) fn nameless(&self, owner: Owner) -> Result<Arc<TmpfsInode>, Errno> {
        let inode = TmpfsInode::new(&self.space, inode::NewBody::Regular, owner)?;
        inode.set_links(0);
        Ok(inode)
    }
}

impl FileSystem for Tmpfs {
    fn root(&self) -> Arc<dyn Inode> {
        match self.root.get() {
            Some(root) => root.clone(),
            None => unreachable!("made in new"),
        }
    }
    fn type_name(&self) -> &'static str {
        self.name
    }
    fn statfs(&self) -> Result<StatFs, Errno> {
        let space = &self.space;
        let max = space.max_pages.load(Ordering::Relaxed);
        let max_inodes = space.max_inodes.load(Ordering::Relaxed);
        let free = max.saturating_sub(space.used_pages.load(Ordering::Relaxed));
        Ok(StatFs {
            magic: if self.name == "ramfs" { RAMFS_MAGIC } else { TMPFS_MAGIC },
            block_size_bytes: PAGE_SIZE as u64,
            blocks: max,
            blocks_free: free,
            blocks_available: free,
            files: max_inodes,
            files_free: max_inodes.saturating_sub(space.used_inodes.load(Ordering::Relaxed)),
            fsid: 0,
            name_max: 255,
        })
    }
    fn remount(&self, _: MountFlags, data: &[u8]) -> Result<(), Errno> {
        let options = Options::parse(data, self.space.ram.frames() as u64 * PAGE_SIZE as u64)?;
        let mut shown = self.shown.lock();
        if let Some(pages) = options.pages {
            if pages != 0 && pages < self.space.used_pages.load(Ordering::Relaxed) {
                return Err(Errno::EINVAL);
            }
            self.space.max_pages.store(pages, Ordering::Relaxed);
            shown.pages = Some(pages);
        }
        if let Some(inodes) = options.inodes {
            if inodes != 0 && inodes < self.space.used_inodes.load(Ordering::Relaxed) {
                return Err(Errno::EINVAL);
            }
            self.space.max_inodes.store(inodes, Ordering::Relaxed);
            shown.inodes = Some(inodes);
        }
        Ok(())
    }
    fn show_options(&self) -> String {
        let options = *self.shown.lock();
        let mut text = String::new();
        if let Some(pages) = options.pages {
            text += &format!(",size={}k", pages * (PAGE_SIZE as u64 / 1024));
        }
        if let Some(inodes) = options.inodes {
            text += &format!(",nr_inodes={inodes}");
        }
        if let Some(mode) = options.mode {
            text += &format!(",mode={mode:03o}");
        }
        if let Some(uid) = options.uid {
            text += &format!(",uid={uid}");
        }
        if let Some(gid) = options.gid {
            text += &format!(",gid={gid}");
        }
        text
    }
}

/// The types `tmpfs` and `ramfs`.
pub struct TmpfsType {
    name: &'static str,
}

impl TmpfsType {
    /// tmpfs.
    pub const TMPFS: TmpfsType = TmpfsType { name: "tmpfs" };
    /// ramfs, which ignores options that it does not know and has no limits.
    pub const RAMFS: TmpfsType = TmpfsType { name: "ramfs" };
}

impl FileSystemType for TmpfsType {
    fn name(&self) -> &'static str {
        self.name
    }
    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<dyn FileSystem>, Errno> {
        let ram = request.vfs.ram();
        let options = Options::parse(request.data, ram.frames() as u64 * PAGE_SIZE as u64);
        let options = if self.name == "ramfs" { Options { pages: None, inodes: None, ..options.unwrap_or_default() } } else { options? };
        Ok(Tmpfs::new(ram, self.name, options)?)
    }
}

/// What a kind of node counts as in `st_size` of its directory.
const DIRENT_SIZE: u64 = 20;

pub(crate) fn is_dir(kind: FileKind) -> bool {
    kind == FileKind::Directory
}
