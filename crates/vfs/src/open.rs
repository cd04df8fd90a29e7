//! Opening by path: open(2), openat2(2).
//!
//! What it is not: what an open file does (`file`), or descriptors (`fdtable`).

use crate::dentry::Dentry;
use crate::device::DeviceKind;
use crate::file::{FileOps, OpenFile, SyncKind};
use crate::flags::{Access, LookupFlags, MountFlags, OpenFlags};
use crate::fscontext::Caller;
use crate::inode::{Emit, Inode, Open};
use crate::path::Path;
use crate::types::{DirEntry, FileKind, Owner};
use crate::walk::{Last, PathAt, Walk, lookup_locked};
use abi::raw::general::{STATX_ATTR_APPEND, STATX_ATTR_IMMUTABLE};
use abi::{Errno, SysResult};
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};

/// Bytes charged for an open file.
pub(crate) const FILE_COST: usize = 256;

/// How to open: `struct open_how`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenHow {
    pub flags: OpenFlags,
    /// Mode of a file that is made, before the umask.
    pub mode: u32,
    /// Restrictions of the walk: [`LookupFlags::from_resolve`].
    pub resolve: LookupFlags,
}

impl OpenHow {
    /// As open(2) says it.
    #[must_use]
    pub fn new(flags: OpenFlags, mode: u32) -> OpenHow {
        OpenHow { flags, mode, resolve: LookupFlags::empty() }
    }
}

/// What an O_PATH descriptor can do: nothing.
struct PathOnly;
impl FileOps for PathOnly {}

/// An open directory.
struct OpenDirectory;

impl FileOps for OpenDirectory {
    fn read(&self, _: &OpenFile, _: &mut u64, _: &mut dyn crate::Sink) -> SysResult<usize> {
        Err(Errno::EISDIR.into())
    }
    fn readdir(&self, file: &OpenFile, position: &mut u64, emit: Emit<'_>) -> SysResult<()> {
        let directory = &file.path().dentry;
        let inode = file.inode();
        if directory.is_deleted() {
            return Err(Errno::ENOENT.into());
        }
        let dots: [(&[u8], u64); 2] = [(b".", 1), (b"..", 2)];
        for (name, next) in dots {
            if *position < next {
                let ino = if next == 1 { inode.ino() } else { directory.parent().map_or(inode.ino(), |p| p.expect_inode().ino()) };
                if !emit(DirEntry { name, ino, kind: Some(FileKind::Directory), next }) {
                    return Ok(());
                }
                *position = next;
            }
        }
        let _names = directory.lock_names();
        let from = if *position <= 2 { 0 } else { *position };
        inode.readdir(from, &mut |entry| {
            let taken = emit(entry);
            if taken {
                *position = entry.next;
            }
            taken
        })?;
        Ok(())
    }
    fn fsync(&self, file: &OpenFile, _: u64, _: u64, _: SyncKind) -> SysResult<()> {
        Ok(file.inode().fsync()?)
    }
}

static PATH_ONLY: LazyLock<Arc<dyn FileOps>> = LazyLock::new(|| Arc::new(PathOnly));
static OPEN_DIRECTORY: LazyLock<Arc<dyn FileOps>> = LazyLock::new(|| Arc::new(OpenDirectory));

/// What a walk for open found.
struct Found {
    path: Path,
    /// The open made it: permission is not asked again.
    created: bool,
}

impl Caller<'_> {
    /// open(2), openat2(2): flags that contradict each other are EINVAL.
    pub fn open(&self, path: PathAt<'_>, how: OpenHow) -> SysResult<Arc<OpenFile>> {
        let mut flags = how.flags;
        if flags.contains(OpenFlags::PATH) {
            flags = flags.intersection(OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC);
        }
        if flags.contains(OpenFlags::TMPFILE) {
            if !flags.can_write() || flags.contains(OpenFlags::CREAT) {
                return Err(Errno::EINVAL.into());
            }
            return self.open_tmpfile(path, how);
        }
        if flags.contains(OpenFlags::CREAT | OpenFlags::DIRECTORY) || flags.contains(OpenFlags::TMPFILE_BIT) {
            return Err(Errno::EINVAL.into());
        }
        let found = if flags.contains(OpenFlags::CREAT) {
            self.find_or_create(path, &OpenHow { flags, ..how })?
        } else {
            let mut lookup = how.resolve | if flags.contains(OpenFlags::NOFOLLOW) { LookupFlags::empty() } else { LookupFlags::FOLLOW };
            if flags.contains(OpenFlags::DIRECTORY) {
                lookup |= LookupFlags::DIRECTORY;
            }
            Found { path: self.lookup(path, lookup)?, created: false }
        };
        self.open_found(found, flags)
    }

    /// Opens what was found already, with all checks: `/proc/PID/fd/N`, open_by_handle_at(2).
    pub fn open_path(&self, path: Path, flags: OpenFlags) -> SysResult<Arc<OpenFile>> {
        self.open_found(Found { path, created: false }, flags)
    }

    fn find_or_create(&self, path: PathAt<'_>, how: &OpenHow) -> SysResult<Found> {
        let mut walk = Walk::new(self, path, how.resolve)?;
        let exclusive = how.flags.contains(OpenFlags::EXCL);
        loop {
            let component = match walk.parent()? {
                Last::Name(component) => component,
                // `.`, `..`, `/` or the end of a magic link: it is there.
                last => {
                    if exclusive {
                        return Err(Errno::EEXIST.into());
                    }
                    if matches!(last, Last::DotDot | Last::Dot) {
                        return Err(Errno::EISDIR.into());
                    }
                    return Ok(Found { path: walk.at, created: false });
                }
            };
            if component.trailing_slash {
                return Err(Errno::EISDIR.into());
            }
            let dentry = match walk.lookup(component.name())? {
                dentry if dentry.is_negative() => match self.create_in(&walk.at, component.name(), how)? {
                    Ok(created) => return Ok(Found { path: Path { mount: walk.at.mount, dentry: created }, created: true }),
                    Err(there) => there,
                },
                dentry => dentry,
            };
            if exclusive {
                return Err(Errno::EEXIST.into());
            }
            let is_link = dentry.inode().is_some_and(|inode| inode.kind() == FileKind::Symlink);
            if !is_link {
                self.may_create_over(&walk.at, &dentry)?;
                walk.step(dentry, false)?;
                return Ok(Found { path: walk.at, created: false });
            }
            if how.flags.contains(OpenFlags::NOFOLLOW) {
                return Err(Errno::ELOOP.into());
            }
            walk.follow(&dentry)?;
        }
    }

    /// What `protected_fifos` and `protected_regular` ask of an open with O_CREAT that finds something there.
    fn may_create_over(&self, dir: &Path, dentry: &Dentry) -> Result<(), Errno> {
        let Some(inode) = dentry.inode() else { return Ok(()) };
        let level = match inode.kind() {
            FileKind::Fifo => &self.vfs.protections.fifos,
            FileKind::Regular => &self.vfs.protections.regular,
            _ => return Ok(()),
        };
        let level = level.load(Ordering::Relaxed);
        if level == 0 {
            return Ok(());
        }
        let (place, owner) = (dir.inode().owner(), inode.owner());
        let open_to_all = place.mode & 0o002 != 0 || (level >= 2 && place.mode & 0o020 != 0);
        let stranger = owner.uid != place.uid && owner.uid != self.credentials.fsuid;
        if place.mode & 0o1000 != 0 && open_to_all && stranger { Err(Errno::EACCES) } else { Ok(()) }
    }

    /// Makes a regular file, or gives the dentry that somebody else made meanwhile.
    fn create_in(&self, dir: &Path, name: &[u8], how: &OpenHow) -> SysResult<Result<Arc<Dentry>, Arc<Dentry>>> {
        let _names = dir.dentry.lock_names();
        let dentry = lookup_locked(&dir.dentry, name)?;
        if !dentry.is_negative() {
            return Ok(Err(dentry));
        }
        self.may_create(dir)?;
        let inode = dir.inode().create(name, self.new_owner(dir.inode(), how.mode & 0o7777, FileKind::Regular))?;
        let dentry = dir.dentry.remember(name, Some(inode))?;
        Ok(Ok(dentry))
    }

    fn open_tmpfile(&self, path: PathAt<'_>, how: OpenHow) -> SysResult<Arc<OpenFile>> {
        let dir = self.lookup(path, how.resolve | LookupFlags::FOLLOW | LookupFlags::DIRECTORY)?;
        self.may_create(&dir)?;
        let inode = dir.inode().tmpfile(self.new_owner(dir.inode(), how.mode & 0o7777, FileKind::Regular))?;
        let name = format!("#{}", inode.ino());
        let dentry = dir.dentry.detached(name.as_bytes(), inode)?;
        self.open_found(Found { path: Path { mount: dir.mount, dentry }, created: true }, how.flags.difference(OpenFlags::TMPFILE))
    }

    /// `may_open` and `do_dentry_open` of Linux.
    fn open_found(&self, found: Found, flags: OpenFlags) -> SysResult<Arc<OpenFile>> {
        let charge = self.vfs.ram().charge(FILE_COST)?;
        let path = found.path;
        let inode = path.inode().clone();
        let file = |ops: Arc<dyn FileOps>, path: Path, flags| OpenFile::new(ops, path, flags, self.credentials.clone(), Some(charge));
        if flags.contains(OpenFlags::PATH) {
            return Ok(Arc::new(file(PATH_ONLY.clone(), path, flags)));
        }
        self.may_open(&path, &inode, flags, found.created)?;
        let kind = inode.kind();
        let counts = kind == FileKind::Regular && flags.can_write();
        if counts {
            inode.attachments().begin_write()?;
        }
        let ops = self.open_inode(&path, &inode, flags, found.created);
        let ops = match ops {
            Ok(ops) => ops,
            Err(error) => {
                if counts {
                    inode.attachments().end_write();
                }
                return Err(error);
            }
        };
        let mut file = file(ops, path, flags);
        file.set_counts_as_writer(counts);
        if found.created
            && let Some(parent) = file.path().dentry.parent()
            && !file.path().dentry.is_deleted()
        {
            let dir = Path { mount: file.path().mount.clone(), dentry: parent };
            crate::notify::created(&dir, &file.path().dentry);
        }
        crate::notify::opened(file.path());
        Ok(Arc::new(file))
    }

    fn open_inode(&self, path: &Path, inode: &Arc<dyn Inode>, flags: OpenFlags, created: bool) -> SysResult<Arc<dyn FileOps>> {
        if flags.contains(OpenFlags::TRUNC) && inode.kind() == FileKind::Regular && !created {
            inode.truncate(0)?;
            self.drop_privileges(inode)?;
        }
        let open = Open { flags, credentials: self.credentials, path };
        if inode.opens_itself() {
            return inode.clone().open(&open);
        }
        match inode.kind() {
            FileKind::Regular => inode.clone().open(&open),
            FileKind::Directory => Ok(OPEN_DIRECTORY.clone()),
            FileKind::CharDevice => self.vfs.devices.open(DeviceKind::Char, inode.rdev(), &open),
            FileKind::BlockDevice => self.vfs.devices.open(DeviceKind::Block, inode.rdev(), &open),
            FileKind::Fifo => crate::pipe::open_fifo(self.vfs, inode, &open),
            FileKind::Socket => Err(Errno::ENXIO.into()),
            FileKind::Symlink => Err(Errno::ELOOP.into()),
        }
    }

    fn may_open(&self, path: &Path, inode: &Arc<dyn Inode>, flags: OpenFlags, created: bool) -> Result<(), Errno> {
        let mut want = flags.access();
        if flags.contains(OpenFlags::TRUNC) {
            want |= Access::WRITE;
        }
        let mount_flags = path.mount.all_flags();
        match inode.kind() {
            FileKind::Symlink => return Err(Errno::ELOOP),
            FileKind::Directory if want.contains(Access::WRITE) || flags.contains(OpenFlags::CREAT) => return Err(Errno::EISDIR),
            kind if kind.is_device() && mount_flags.contains(MountFlags::NODEV) => return Err(Errno::EACCES),
            FileKind::Regular if want.contains(Access::WRITE) && mount_flags.contains(MountFlags::RDONLY) => return Err(Errno::EROFS),
            _ => {}
        }
        if created {
            return Ok(());
        }
        let attributes = inode.attributes();
        if attributes & u64::from(STATX_ATTR_IMMUTABLE) != 0 && want.contains(Access::WRITE) {
            return Err(Errno::EPERM);
        }
        inode.permission(self.credentials, want)?;
        let truncates = flags.contains(OpenFlags::TRUNC);
        if attributes & u64::from(STATX_ATTR_APPEND) != 0
            && want.contains(Access::WRITE)
            && (truncates || !flags.contains(OpenFlags::APPEND))
        {
            return Err(Errno::EPERM);
        }
        if flags.contains(OpenFlags::NOATIME) && !self.credentials.owns(&inode.owner()) {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// Whether a name may be made in `dir`: EROFS, ENOENT (removed), EACCES.
    pub(crate) fn may_create(&self, dir: &Path) -> Result<(), Errno> {
        if dir.mount.is_read_only() {
            return Err(Errno::EROFS);
        }
        if dir.dentry.is_deleted() {
            return Err(Errno::ENOENT);
        }
        dir.inode().permission(self.credentials, Access::WRITE | Access::EXEC)
    }

    /// Owner and mode of a new file in `dir`, inode(7) "set-group-ID". `mode` is as the call gave it.
    pub(crate) fn new_owner(&self, dir: &Arc<dyn Inode>, mode: u32, kind: FileKind) -> Owner {
        let parent = dir.owner();
        let mut mode = if dir.has_default_acl() { mode } else { mode & !self.fs.umask() };
        let mut gid = self.credentials.fsgid;
        if parent.mode & 0o2000 != 0 {
            gid = parent.gid;
            if kind == FileKind::Directory {
                mode |= 0o2000;
            } else if mode & 0o2010 == 0o2010 && !self.credentials.in_group(gid) && !self.credentials.has(crate::Capability::FSETID) {
                mode &= !0o2000;
            }
        }
        Owner { mode, uid: self.credentials.fsuid, gid }
    }
}
