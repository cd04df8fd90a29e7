//! Files without a place in the tree: pipes, sockets and the kernel's own objects that a descriptor stands for (`anon_inode:[eventpoll]`).
//!
//! Each kind has a file system that is mounted for the kernel only, so that such files have an inode number, metadata and a name like all others.

use crate::attachments::Attachments;
use crate::dentry::Dentry;
use crate::file::{FileOps, OpenFile};
use crate::filesystem::FileSystem;
use crate::flags::{MountFlags, OpenFlags};
use crate::fscontext::Caller;
use crate::inode::Inode;
use crate::mount::Mount;
use crate::path::Path;
use crate::types::{FileKind, Metadata, Owner, SetAttr, StatFs};
use crate::vfs::Vfs;
use abi::{Errno, SysResult};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use sync::SpinLock;

/// The file systems of nameless files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AnonKind {
    Pipe,
    Socket,
    /// All the rest.
    Inode,
}

impl AnonKind {
    fn type_name(self) -> &'static str {
        match self {
            AnonKind::Pipe => "pipefs",
            AnonKind::Socket => "sockfs",
            AnonKind::Inode => "anon_inodefs",
        }
    }
    fn magic(self) -> u64 {
        match self {
            AnonKind::Pipe => 0x5049_5045,
            AnonKind::Socket => 0x534f_434b,
            AnonKind::Inode => 0x0904_1934,
        }
    }
}

struct AnonFileSystem {
    kind: AnonKind,
    root: OnceLock<Arc<AnonInode>>,
    this: Weak<AnonFileSystem>,
    next_ino: AtomicU64,
}

impl FileSystem for AnonFileSystem {
    fn root(&self) -> Arc<dyn Inode> {
        self.root.get_or_init(|| Arc::new(AnonInode::new(self, FileKind::Directory, Owner { mode: 0o755, uid: 0, gid: 0 }))).clone()
    }
    fn type_name(&self) -> &'static str {
        self.kind.type_name()
    }
    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs { magic: self.kind.magic(), block_size_bytes: abi::PAGE_SIZE as u64, name_max: 255, ..StatFs::default() })
    }
}

/// The inode of a nameless file.
pub struct AnonInode {
    file_system: Weak<AnonFileSystem>,
    metadata: SpinLock<Metadata>,
    attachments: Attachments,
}

impl AnonInode {
    fn new(file_system: &AnonFileSystem, kind: FileKind, owner: Owner) -> AnonInode {
        let ino = file_system.next_ino.fetch_add(1, Ordering::Relaxed);
        AnonInode {
            file_system: file_system.this.clone(),
            metadata: SpinLock::new(Metadata::new(kind, ino, owner)),
            attachments: Attachments::new(),
        }
    }
}

impl Inode for AnonInode {
    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(*self.metadata.lock())
    }
    fn kind(&self) -> FileKind {
        self.metadata.lock().kind
    }
    fn ino(&self) -> u64 {
        self.metadata.lock().ino
    }
    fn owner(&self) -> Owner {
        self.metadata.lock().owner()
    }
    fn file_system(&self) -> Arc<dyn FileSystem> {
        // The kernel's mounts are never taken down, so its file system is there.
        self.file_system.upgrade().unwrap_or_else(|| unreachable!("kernel mounts stay"))
    }
    fn attachments(&self) -> &Attachments {
        &self.attachments
    }
    fn lookup(&self, _: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::ENOENT)
    }
    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        change.apply(&mut self.metadata.lock());
        Ok(())
    }
}

/// The kernel's mounts, made when first needed.
#[derive(Default)]
pub(crate) struct AnonMounts {
    pipe: OnceLock<(Arc<AnonFileSystem>, Arc<Mount>)>,
    socket: OnceLock<(Arc<AnonFileSystem>, Arc<Mount>)>,
    inode: OnceLock<(Arc<AnonFileSystem>, Arc<Mount>)>,
    shared: SpinLock<Vec<(&'static str, Path)>>,
}

impl Vfs {
    fn anon(&self, kind: AnonKind) -> Result<&(Arc<AnonFileSystem>, Arc<Mount>), Errno> {
        let cell = match kind {
            AnonKind::Pipe => &self.anon.pipe,
            AnonKind::Socket => &self.anon.socket,
            AnonKind::Inode => &self.anon.inode,
        };
        if let Some(there) = cell.get() {
            return Ok(there);
        }
        let file_system = Arc::new_cyclic(|this: &Weak<AnonFileSystem>| AnonFileSystem {
            kind,
            root: OnceLock::new(),
            this: this.clone(),
            next_ino: AtomicU64::new(1),
        });
        let mount = self.new_mount(file_system.clone(), kind.type_name().as_bytes(), MountFlags::NOATIME)?;
        Ok(cell.get_or_init(|| (file_system, mount)))
    }

    /// A new nameless file: a pipe or socket. Its name shows its number: `pipe:[17]`.
    pub fn anon_path(&self, anon: AnonKind, kind: FileKind, owner: Owner) -> Result<Path, Errno> {
        let (file_system, mount) = self.anon(anon)?;
        let inode = AnonInode::new(file_system, kind, owner);
        let what = if anon == AnonKind::Pipe { "pipe" } else { "socket" };
        let name = format!("{what}:[{}]", inode.ino());
        let dentry = self.dentries().new_detached(name.as_bytes(), Arc::new(inode))?;
        Ok(Path { mount: mount.clone(), dentry })
    }

    /// A path to a file that has no name in the tree of `mount`; `name` is what `/proc/PID/fd` shows.
    pub fn detached_path(&self, mount: &Arc<Mount>, name: &[u8], inode: Arc<dyn Inode>) -> Result<Path, Errno> {
        let dentry = self.dentries().new_detached(name, inode)?;
        dentry.set_deleted();
        Ok(Path { mount: mount.clone(), dentry })
    }

    /// The path that all nameless files called `name` share: `anon_inode:[eventfd]`.
    pub fn anon_inode_path(&self, name: &'static str) -> Result<Path, Errno> {
        if let Some((_, path)) = self.anon.shared.lock().iter().find(|(known, _)| *known == name) {
            return Ok(path.clone());
        }
        let (file_system, mount) = self.anon(AnonKind::Inode)?;
        let inode = AnonInode::new(file_system, FileKind::Regular, Owner { mode: 0o600, uid: 0, gid: 0 });
        let dentry: Arc<Dentry> = self.dentries().new_detached(name.as_bytes(), Arc::new(inode))?;
        let path = Path { mount: mount.clone(), dentry };
        self.anon.shared.lock().push((name, path.clone()));
        Ok(path)
    }
}

impl Caller<'_> {
    /// An open file for a kernel object: eventfd, epoll, timerfd and the like. `name` as `/proc/PID/fd` shows it: `anon_inode:[eventfd]`.
    pub fn open_anon(&self, name: &'static str, ops: Arc<dyn FileOps>, flags: OpenFlags) -> SysResult<Arc<OpenFile>> {
        let path = self.vfs.anon_inode_path(name)?;
        self.open_with(path, ops, flags)
    }

    /// An open file of these operations at `path`, without any check.
    pub fn open_with(&self, path: Path, ops: Arc<dyn FileOps>, flags: OpenFlags) -> SysResult<Arc<OpenFile>> {
        let charge = self.vfs.ram().charge(crate::open::FILE_COST)?;
        Ok(Arc::new(OpenFile::new(ops, path, flags, self.credentials.clone(), Some(charge))))
    }
}
