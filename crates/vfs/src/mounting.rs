//! Calls that change the mount tree: mount(2), umount2(2), pivot_root(2), chroot(2), and copies of whole namespaces. mount_namespaces(7).
//!
//! Always true: all of it happens under the machine's mount lock, which is taken after paths were looked up. Shared subtrees spread mounts and
//! unmounts to peers and slaves; a mount that is put below a shared one becomes shared.

use crate::credentials::Capability;
use crate::dentry::Dentry;
use crate::filesystem::{FileSystem, MountRequest};
use crate::flags::{Access, LookupFlags, MountFlags};
use crate::fscontext::Caller;
use crate::mount::{Mount, MountNamespace, PER_MOUNT, Propagation, SuperBlock};
use crate::path::Path;
use crate::types::FileKind;
use crate::vfs::Vfs;
use crate::walk::{PathAt, is_below};
use abi::{Errno, SysResult};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes charged for a mount.
const MOUNT_COST: usize = 512;

static NEXT_GROUP: AtomicU64 = AtomicU64::new(1);

fn new_group() -> u64 {
    NEXT_GROUP.fetch_add(1, Ordering::Relaxed)
}

/// How umount2(2) goes about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmount {
    /// EBUSY while anything uses it.
    IfUnused,
    /// `MNT_DETACH`: out of sight at once, gone when unused.
    Detach,
}

/// Which mounts of a copied namespace stand for which of the old one.
pub struct MountMap(HashMap<u64, Arc<Mount>>);

impl MountMap {
    /// The same place in the copy.
    #[must_use]
    pub fn translate(&self, path: &Path) -> Option<Path> {
        Some(Path { mount: self.0.get(&path.mount.id())?.clone(), dentry: path.dentry.clone() })
    }
}

/// Takes a tree of mounts apart, so that its mounts live only as long as somebody uses them.
pub(crate) fn dissolve(top: &Arc<Mount>) {
    let mut stack = vec![top.clone()];
    while let Some(mount) = stack.pop() {
        let children = std::mem::take(&mut *mount.children.lock());
        stack.extend(children.into_values());
        let place = std::mem::take(&mut *mount.place.lock());
        if let Some(at) = &place.at {
            at.dentry.count_mount(false);
        }
    }
}

fn tree(top: &Arc<Mount>) -> Vec<Arc<Mount>> {
    let mut all = vec![top.clone()];
    let mut at = 0;
    while let Some(mount) = all.get(at) {
        let below = mount.submounts();
        all.extend(below);
        at += 1;
    }
    all
}

/// The topmost place where `path` is seen: down into whatever is mounted there.
fn topmost(mut path: Path) -> Path {
    while let Some(mount) = path.mount.child_at(&path.dentry) {
        path = mount.root_path();
    }
    path
}

fn attach(mount: &Arc<Mount>, at: &Path) {
    let namespace = at.mount.namespace_id();
    for below in tree(mount) {
        below.place.lock().namespace = namespace;
    }
    mount.place.lock().at = Some(at.clone());
    at.dentry.count_mount(true);
    let old = at.mount.children.lock().insert(Arc::as_ptr(&at.dentry) as usize, mount.clone());
    drop(old);
}

fn detach(mount: &Arc<Mount>) -> Option<Path> {
    let at = mount.place.lock().at.take()?;
    at.dentry.count_mount(false);
    let old = at.mount.children.lock().remove(&(Arc::as_ptr(&at.dentry) as usize));
    drop(old);
    Some(at)
}

/// How a copy of a mount spreads events.
#[derive(Clone, Copy)]
enum Copied {
    /// Shares with what it was copied from, if that is shared.
    AsPeer,
    /// Receives from what it was copied from.
    AsSlave { shared: bool },
}

impl Vfs {
    fn clone_mount(&self, mount: &Arc<Mount>, root: &Arc<Dentry>, how: Copied) -> Result<Arc<Mount>, Errno> {
        let charge = self.ram().charge(MOUNT_COST)?;
        let copy = Mount::new(mount.superblock().clone(), root.clone(), mount.source().clone(), mount.flags(), Some(charge));
        let from = mount.propagation();
        let propagation = match how {
            Copied::AsPeer => from,
            Copied::AsSlave { shared } => {
                Propagation { group: if shared { new_group() } else { 0 }, master: from.group, unbindable: false }
            }
        };
        copy.place.lock().propagation = propagation;
        self.note_propagation(&copy);
        Ok(copy)
    }

    /// Copies the mounts at and below `root` of `top`, keeping in `map` which is which.
    fn copy_tree(
        &self,
        top: &Arc<Mount>,
        root: &Arc<Dentry>,
        how: Copied,
        keep: &dyn Fn(&Mount) -> bool,
        map: &mut HashMap<u64, Arc<Mount>>,
    ) -> Result<Arc<Mount>, Errno> {
        let copy = self.clone_mount(top, root, how)?;
        map.insert(top.id(), copy.clone());
        let mut stack = vec![(top.clone(), copy.clone())];
        while let Some((from, to)) = stack.pop() {
            for child in from.submounts() {
                let Some(at) = child.mountpoint() else { continue };
                if !keep(&child) || !at.dentry.is_at_or_below(to.root()) {
                    continue;
                }
                let child_copy = match self.clone_mount(&child, child.root(), how) {
                    Ok(copy) => copy,
                    Err(errno) => {
                        dissolve(&copy);
                        return Err(errno);
                    }
                };
                attach(&child_copy, &Path { mount: to.clone(), dentry: at.dentry });
                map.insert(child.id(), child_copy.clone());
                stack.push((child, child_copy));
            }
        }
        Ok(copy)
    }

    /// Mounts that hear of what happens below `mount`, and how.
    fn receivers(&self, mount: &Arc<Mount>) -> Vec<(Arc<Mount>, Copied)> {
        let group = mount.propagation().group;
        if group == 0 {
            return Vec::new();
        }
        let all = self.propagating();
        let (mut found, mut groups, mut at) = (Vec::new(), vec![group], 0);
        while let Some(&group) = groups.get(at) {
            let direct = at == 0;
            at += 1;
            for other in &all {
                let propagation = other.propagation();
                let known = Arc::ptr_eq(other, mount) || found.iter().any(|(m, _)| Arc::ptr_eq(m, other));
                if known || other.namespace_id() == 0 {
                    continue;
                }
                if propagation.group == group {
                    found.push((other.clone(), if direct { Copied::AsPeer } else { Copied::AsSlave { shared: true } }));
                } else if propagation.master == group {
                    let shared = propagation.group != 0;
                    found.push((other.clone(), Copied::AsSlave { shared }));
                    if shared && !groups.contains(&propagation.group) {
                        groups.push(propagation.group);
                    }
                }
            }
        }
        found
    }

    /// Puts a tree of mounts at `at`, and copies of it wherever that spreads to.
    fn attach_spreading(&self, mount: &Arc<Mount>, at: &Path) -> Result<(), Errno> {
        let receivers = self.receivers(&at.mount);
        if at.mount.propagation().group != 0 {
            for below in tree(mount) {
                {
                    let propagation = &mut below.place.lock().propagation;
                    if propagation.group == 0 {
                        propagation.group = new_group();
                    }
                }
                self.note_propagation(&below);
            }
        }
        let mut copies = Vec::new();
        for (receiver, how) in receivers {
            if at.dentry.is_at_or_below(receiver.root()) {
                let copy = self.copy_tree(mount, mount.root(), how, &|_| true, &mut HashMap::new())?;
                copies.push((copy, topmost(Path { mount: receiver, dentry: at.dentry.clone() })));
            }
        }
        attach(mount, at);
        for (copy, at) in copies {
            attach(&copy, &at);
        }
        Ok(())
    }

    /// A mount of `file_system` that is in no tree yet.
    pub fn new_mount(&self, file_system: Arc<dyn FileSystem>, source: &[u8], flags: MountFlags) -> Result<Arc<Mount>, Errno> {
        let superblock = self.superblock(file_system, flags.intersection(SUPERBLOCK))?;
        self.mount_of(superblock, source, flags)
    }

    fn mount_of(&self, superblock: Arc<SuperBlock>, source: &[u8], flags: MountFlags) -> Result<Arc<Mount>, Errno> {
        let charge = self.ram().charge(MOUNT_COST)?;
        let root = superblock.root().clone();
        Ok(Mount::new(superblock, root, Arc::from(source), with_atime_default(flags), Some(charge)))
    }
}

/// Flags of mount(2) that belong to the superblock.
const SUPERBLOCK: MountFlags = MountFlags::RDONLY
    .union(MountFlags::SYNCHRONOUS)
    .union(MountFlags::DIRSYNC)
    .union(MountFlags::LAZYTIME)
    .union(MountFlags::SILENT)
    .union(MountFlags::POSIXACL);

/// relatime is the default, and gives way to the other two.
fn with_atime_default(flags: MountFlags) -> MountFlags {
    if flags.intersects(MountFlags::NOATIME | MountFlags::STRICTATIME) {
        flags.difference(MountFlags::RELATIME)
    } else {
        flags | MountFlags::RELATIME
    }
}

impl Caller<'_> {
    fn in_my_namespace(&self, mount: &Mount) -> bool {
        mount.namespace_id() == self.namespace.id()
    }

    /// mount(2), all its forms. `kind` is the type's name.
    pub fn mount(&self, source: &[u8], target: PathAt<'_>, kind: &[u8], flags: MountFlags, data: &[u8]) -> SysResult<()> {
        let target = self.lookup(target, LookupFlags::FOLLOW)?;
        self.credentials.require(Capability::SYS_ADMIN)?;
        let change = MountFlags::SHARED | MountFlags::PRIVATE | MountFlags::SLAVE | MountFlags::UNBINDABLE;
        if flags.contains(MountFlags::REMOUNT) {
            return Ok(self.remount(&target, flags, data)?);
        }
        if flags.contains(MountFlags::BIND) {
            let source = self.lookup(PathAt::cwd(source), LookupFlags::FOLLOW)?;
            return Ok(self.bind(&source, &target, flags.contains(MountFlags::REC))?);
        }
        if flags.intersects(change) {
            return Ok(self.change_propagation(&target, flags)?);
        }
        if flags.contains(MountFlags::MOVE) {
            let source = self.lookup(PathAt::cwd(source), LookupFlags::FOLLOW)?;
            return Ok(self.move_mount(&source, &target)?);
        }
        self.mount_new(source, &target, kind, flags, data)
    }

    fn mount_new(&self, source: &[u8], target: &Path, kind: &[u8], flags: MountFlags, data: &[u8]) -> SysResult<()> {
        // "fuse.sshfs": the part behind the dot is the program's own.
        let kind = kind.split(|b| *b == b'.').next().unwrap_or_default();
        let kind = self.vfs.file_system_type(kind)?;
        let source_path = match self.lookup(PathAt::cwd(source), LookupFlags::FOLLOW) {
            Ok(path) => Some(path),
            Err(error) if kind.needs_device() => return Err(error),
            Err(_) => None,
        };
        let request = MountRequest { vfs: self.vfs, source, source_path, flags, data, credentials: self.credentials };
        let file_system = kind.mount(&request)?;
        let mount = self.vfs.new_mount(file_system, source, flags)?;
        Ok(self.attach_new(&mount, target)?)
    }

    /// Puts a mount that is in no tree at `target`. EBUSY if the same file system is there already, ENOTDIR when kinds differ.
    pub fn attach_new(&self, mount: &Arc<Mount>, target: &Path) -> Result<(), Errno> {
        let _lock = self.vfs.mount_lock.lock();
        let target = topmost(target.clone());
        if !self.in_my_namespace(&target.mount) {
            return Err(Errno::EINVAL);
        }
        if target.is_mount_root() && Arc::ptr_eq(target.mount.superblock(), mount.superblock()) && Arc::ptr_eq(mount.root(), &target.dentry)
        {
            return Err(Errno::EBUSY);
        }
        self.graft(mount, &target)
    }

    fn graft(&self, mount: &Arc<Mount>, target: &Path) -> Result<(), Errno> {
        let is_dir = |dentry: &Dentry| dentry.inode().is_some_and(|inode| inode.kind() == FileKind::Directory);
        if is_dir(mount.root()) != is_dir(&target.dentry) {
            return Err(Errno::ENOTDIR);
        }
        if target.dentry.is_deleted() {
            return Err(Errno::ENOENT);
        }
        self.vfs.attach_spreading(mount, target)?;
        self.namespace.note_change();
        Ok(())
    }

    fn bind(&self, source: &Path, target: &Path, recursive: bool) -> Result<(), Errno> {
        let _lock = self.vfs.mount_lock.lock();
        let target = topmost(target.clone());
        if !self.in_my_namespace(&source.mount) || !self.in_my_namespace(&target.mount) || source.mount.propagation().unbindable {
            return Err(Errno::EINVAL);
        }
        let keep = |mount: &Mount| recursive && !mount.propagation().unbindable;
        let copy = self.vfs.copy_tree(&source.mount, &source.dentry, Copied::AsPeer, &keep, &mut HashMap::new())?;
        self.graft(&copy, &target).inspect_err(|_| dissolve(&copy))
    }

    fn move_mount(&self, source: &Path, target: &Path) -> Result<(), Errno> {
        let _lock = self.vfs.mount_lock.lock();
        let target = topmost(target.clone());
        let mount = &source.mount;
        let at = mount.mountpoint().ok_or(Errno::EINVAL)?;
        let mine = self.in_my_namespace(mount) && self.in_my_namespace(&target.mount);
        if !mine || !source.is_mount_root() || at.mount.propagation().group != 0 {
            return Err(Errno::EINVAL);
        }
        if is_below(&target, source) {
            return Err(Errno::ELOOP);
        }
        detach(mount);
        self.graft(mount, &target).inspect_err(|_| attach(mount, &at))
    }

    fn remount(&self, target: &Path, flags: MountFlags, data: &[u8]) -> Result<(), Errno> {
        let _lock = self.vfs.mount_lock.lock();
        if !target.is_mount_root() || !self.in_my_namespace(&target.mount) {
            return Err(Errno::EINVAL);
        }
        let mount_flags = with_atime_default(flags.intersection(PER_MOUNT));
        if !flags.contains(MountFlags::BIND) {
            let superblock = target.mount.superblock();
            superblock.file_system().remount(flags.intersection(SUPERBLOCK), data)?;
            superblock.set_flags(flags.intersection(SUPERBLOCK));
        }
        target.mount.set_flags(mount_flags);
        self.namespace.note_change();
        Ok(())
    }

    fn change_propagation(&self, target: &Path, flags: MountFlags) -> Result<(), Errno> {
        let _lock = self.vfs.mount_lock.lock();
        let kinds = flags & (MountFlags::SHARED | MountFlags::PRIVATE | MountFlags::SLAVE | MountFlags::UNBINDABLE);
        if kinds.bits().count_ones() != 1 || !target.is_mount_root() || !self.in_my_namespace(&target.mount) {
            return Err(Errno::EINVAL);
        }
        let mounts = if flags.contains(MountFlags::REC) { tree(&target.mount) } else { vec![target.mount.clone()] };
        for mount in mounts {
            let old = mount.propagation();
            let has_peers = old.group != 0
                && self.vfs.propagating().iter().any(|other| !Arc::ptr_eq(other, &mount) && other.propagation().group == old.group);
            let new = if kinds == MountFlags::SHARED {
                Propagation { group: if old.group == 0 { new_group() } else { old.group }, unbindable: false, ..old }
            } else if kinds == MountFlags::SLAVE {
                // A slave of its former peers; without any, of its former master or of nobody.
                Propagation { group: 0, master: if has_peers { old.group } else { old.master }, unbindable: false }
            } else {
                Propagation { group: 0, master: 0, unbindable: kinds == MountFlags::UNBINDABLE }
            };
            mount.place.lock().propagation = new;
            self.vfs.note_propagation(&mount);
        }
        self.namespace.note_change();
        Ok(())
    }

    /// umount2(2). EINVAL if the path is no mount's root, EBUSY.
    pub fn unmount(&self, path: Path, how: Unmount) -> Result<(), Errno> {
        self.credentials.require(Capability::SYS_ADMIN)?;
        let dead = {
            let _lock = self.vfs.mount_lock.lock();
            let is_root = path.is_mount_root();
            let mount = path.mount;
            drop(path.dentry);
            if !is_root || !self.in_my_namespace(&mount) {
                return Err(Errno::EINVAL);
            }
            let Some(at) = mount.mountpoint() else {
                return self.unmount_root(&mount, how);
            };
            // The parent's table and our own reference; files, working directories and submounts hold more.
            if how == Unmount::IfUnused && (!mount.children.lock().is_empty() || Arc::strong_count(&mount) > 2) {
                return Err(Errno::EBUSY);
            }
            let mut dead = Vec::new();
            for (receiver, _) in self.vfs.receivers(&at.mount) {
                if let Some(same) = receiver.child_at(&at.dentry)
                    && Arc::ptr_eq(same.root(), mount.root())
                    && (how == Unmount::Detach || same.children.lock().is_empty())
                {
                    dead.push(same);
                }
            }
            dead.push(mount);
            for mount in &dead {
                detach(mount);
                dissolve(mount);
            }
            self.namespace.note_change();
            dead
        };
        // The last reference writes the file system back: not under the lock.
        drop(dead);
        Ok(())
    }

    /// The root of the tree can't go: it is made read-only, as umount(8) expects of a shutdown.
    fn unmount_root(&self, mount: &Arc<Mount>, how: Unmount) -> Result<(), Errno> {
        if how == Unmount::Detach {
            return Err(Errno::EINVAL);
        }
        let superblock = mount.superblock();
        superblock.file_system().remount(MountFlags::RDONLY, b"")?;
        superblock.set_flags(superblock.flags() | MountFlags::RDONLY);
        Ok(())
    }

    /// pivot_root(2). The caller then moves every task of the namespace whose root or working directory is the old root, with
    /// [`crate::FsContext::translate`]: answers the old and the new one.
    pub fn pivot_root(&self, new: PathAt<'_>, put_old: PathAt<'_>) -> SysResult<(Path, Path)> {
        self.credentials.require(Capability::SYS_ADMIN)?;
        let flags = LookupFlags::FOLLOW | LookupFlags::DIRECTORY;
        let (new, put_old, old) = (self.lookup(new, flags)?, self.lookup(put_old, flags)?, self.fs.root());
        let _lock = self.vfs.mount_lock.lock();
        let put_old = topmost(put_old);
        if [&new, &put_old, &old].iter().any(|path| !self.in_my_namespace(&path.mount)) {
            return Err(Errno::EINVAL.into());
        }
        if new.dentry.is_deleted() {
            return Err(Errno::ENOENT.into());
        }
        if Arc::ptr_eq(&new.mount, &old.mount) || Arc::ptr_eq(&put_old.mount, &old.mount) {
            return Err(Errno::EBUSY.into());
        }
        let shared = |path: &Option<Path>| path.as_ref().is_some_and(|p| p.mount.propagation().group != 0);
        let (new_at, old_at) = (new.mount.mountpoint(), old.mount.mountpoint());
        let (Some(_), Some(root_at)) = (&new_at, &old_at) else { return Err(Errno::EINVAL.into()) };
        let wrong = !old.is_mount_root()
            || !new.is_mount_root()
            || shared(&new_at)
            || shared(&old_at)
            || put_old.mount.propagation().group != 0
            || !is_below(&put_old, &new)
            || !is_below(&new, &old);
        if wrong {
            return Err(Errno::EINVAL.into());
        }
        let root_at = root_at.clone();
        detach(&new.mount);
        detach(&old.mount);
        attach(&old.mount, &put_old);
        attach(&new.mount, &root_at);
        self.namespace.note_change();
        Ok((old, new))
    }

    /// chroot(2).
    pub fn chroot(&self, path: PathAt<'_>) -> SysResult<()> {
        let path = self.lookup(path, LookupFlags::FOLLOW | LookupFlags::DIRECTORY)?;
        path.inode().permission(self.credentials, Access::EXEC)?;
        self.credentials.require(Capability::SYS_CHROOT)?;
        self.fs.set_root(path);
        Ok(())
    }

    /// chdir(2), fchdir(2) (with [`PathAt::itself`] and [`LookupFlags::EMPTY`]).
    pub fn chdir(&self, path: PathAt<'_>) -> SysResult<()> {
        let path = self.lookup(path, LookupFlags::FOLLOW | LookupFlags::DIRECTORY | LookupFlags::EMPTY)?;
        path.inode().permission(self.credentials, Access::EXEC)?;
        self.fs.set_cwd(path);
        Ok(())
    }

    /// A copy of the caller's namespace (CLONE_NEWNS), and which mount became which, to move the task's root and working directory.
    pub fn copy_namespace(&self) -> Result<(Arc<MountNamespace>, MountMap), Errno> {
        self.credentials.require(Capability::SYS_ADMIN)?;
        let _lock = self.vfs.mount_lock.lock();
        let root = self.namespace.root();
        let mut map = HashMap::new();
        let copy = self.vfs.copy_tree(&root, root.root(), Copied::AsPeer, &|_| true, &mut map)?;
        let namespace = MountNamespace::new(copy);
        for mount in namespace.mounts() {
            mount.place.lock().namespace = namespace.id();
        }
        Ok((namespace, MountMap(map)))
    }
}
