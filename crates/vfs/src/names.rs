//! Calls that make, remove and move names: mkdir(2), mknod(2), symlink(2), link(2), unlink(2), rmdir(2), rename(2).
//!
//! Always true: the names of every directory that changes are locked, of two the ancestor first, else the one with the lower address; with two
//! directories the machine's rename lock is held as well, so that no tree moves below another while loops are looked for.

use crate::credentials::Capability;
use crate::dentry::Dentry;
use crate::flags::{Access, LookupFlags, RenameFlags};
use crate::fscontext::Caller;
use crate::inode::Inode;
use crate::path::Path;
use crate::types::{DeviceNumber, FileKind};
use crate::walk::{Component, Last, PathAt, Walk, lookup_locked};
use abi::raw::general::{STATX_ATTR_APPEND, STATX_ATTR_IMMUTABLE};
use abi::{Errno, SysResult};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A directory and a name in it.
struct Place<'a> {
    dir: Path,
    name: Component<'a>,
}

impl Caller<'_> {
    fn place<'a>(&'a self, path: PathAt<'a>, no_name: impl Fn(&Last<'_>) -> Errno) -> SysResult<Place<'a>> {
        let mut walk = Walk::new(self, path, LookupFlags::empty())?;
        match walk.parent()? {
            Last::Name(name) => {
                if walk.at.inode().kind() != FileKind::Directory {
                    return Err(Errno::ENOTDIR.into());
                }
                Ok(Place { dir: walk.at, name })
            }
            other => Err(no_name(&other).into()),
        }
    }

    /// Makes a name with `make`: EEXIST, ENOENT for a trailing slash unless it is a directory, EROFS, EACCES, in Linux's order.
    fn make(
        &self,
        path: PathAt<'_>,
        directory: bool,
        make: impl FnOnce(&Arc<dyn Inode>, &[u8]) -> Result<Arc<dyn Inode>, Errno>,
    ) -> SysResult<Path> {
        let place = self.place(path, |_| Errno::EEXIST)?;
        let dentry = {
            let _names = place.dir.dentry.lock_names();
            if !lookup_locked(&place.dir.dentry, place.name.name())?.is_negative() {
                return Err(Errno::EEXIST.into());
            }
            if place.name.trailing_slash && !directory {
                return Err(Errno::ENOENT.into());
            }
            self.may_create(&place.dir)?;
            let inode = make(place.dir.inode(), place.name.name())?;
            place.dir.dentry.remember(place.name.name(), Some(inode))?
        };
        crate::notify::created(&place.dir, &dentry);
        Ok(Path { mount: place.dir.mount, dentry })
    }

    /// mkdir(2).
    pub fn mkdir(&self, path: PathAt<'_>, mode: u32) -> SysResult<Path> {
        self.make(path, true, |dir, name| dir.mkdir(name, self.new_owner(dir, mode & 0o1777, FileKind::Directory)))
    }

    /// mknod(2), and bind(2) of a socket. A regular file is made as open would. EPERM for devices without CAP_MKNOD.
    pub fn mknod(&self, path: PathAt<'_>, kind: FileKind, mode: u32, rdev: DeviceNumber) -> SysResult<Path> {
        match kind {
            FileKind::Directory | FileKind::Symlink => return Err(Errno::EPERM.into()),
            // 0:0 is overlayfs's whiteout, which anybody may make.
            FileKind::CharDevice if rdev == DeviceNumber::NONE => {}
            kind if kind.is_device() => self.credentials.require(Capability::MKNOD)?,
            _ => {}
        }
        self.make(path, false, |dir, name| {
            let owner = self.new_owner(dir, mode & 0o7777, kind);
            if kind == FileKind::Regular { dir.create(name, owner) } else { dir.mknod(name, kind, rdev, owner) }
        })
    }

    /// symlink(2). ENOENT for an empty target.
    pub fn symlink(&self, target: &[u8], path: PathAt<'_>) -> SysResult<Path> {
        if target.is_empty() {
            return Err(Errno::ENOENT.into());
        }
        if target.len() >= crate::walk::PATH_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        self.make(path, false, |dir, name| {
            let owner = self.new_owner(dir, 0o777, FileKind::Symlink);
            dir.symlink(name, target, crate::Owner { mode: 0o777, ..owner })
        })
    }

    /// link(2): another name `to` for what `from` leads to. EXDEV across mounts, EPERM for directories.
    pub fn link(&self, from: &Path, to: PathAt<'_>) -> SysResult<()> {
        let place = self.place(to, |_| Errno::EEXIST)?;
        let inode = from.inode();
        let dentry = {
            let _names = place.dir.dentry.lock_names();
            if !lookup_locked(&place.dir.dentry, place.name.name())?.is_negative() {
                return Err(Errno::EEXIST.into());
            }
            if place.name.trailing_slash {
                return Err(Errno::ENOENT.into());
            }
            if !Arc::ptr_eq(&from.mount, &place.dir.mount) {
                return Err(Errno::EXDEV.into());
            }
            self.may_create(&place.dir)?;
            let fixed = inode.attributes() & u64::from(STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND) != 0;
            if fixed || inode.kind() == FileKind::Directory || !self.may_link(inode) {
                return Err(Errno::EPERM.into());
            }
            place.dir.inode().link(inode, place.name.name())?;
            place.dir.dentry.remember(place.name.name(), Some(inode.clone()))?
        };
        crate::notify::attributes(from);
        crate::notify::created(&place.dir, &dentry);
        Ok(())
    }

    /// What `protected_hardlinks` asks: one's own file, or a plain one that one may read and write.
    fn may_link(&self, inode: &Arc<dyn Inode>) -> bool {
        let owner = inode.owner();
        if self.vfs.protections.hardlinks.load(Ordering::Relaxed) == 0 || self.credentials.owns(&owner) {
            return true;
        }
        let privileged = owner.mode & 0o4000 != 0 || owner.mode & 0o2010 == 0o2010;
        inode.kind() == FileKind::Regular && !privileged && inode.permission(self.credentials, Access::READ | Access::WRITE).is_ok()
    }

    /// Whether a mount of the caller's namespace covers `dentry`. Mounts of other namespaces do not keep a name: they go out of sight with it.
    fn is_my_mountpoint(&self, dentry: &Arc<Dentry>) -> bool {
        let covers = |at: Path| Arc::ptr_eq(&at.dentry, dentry);
        dentry.is_mountpoint() && self.namespace.mounts().iter().any(|mount| mount.mountpoint().is_some_and(covers))
    }

    /// Whether the caller may take the name of `victim` out of `dir`: `may_delete` of Linux.
    fn may_delete(&self, dir: &Path, victim: &Arc<Dentry>, directory: bool) -> Result<(), Errno> {
        let inode = victim.inode().ok_or(Errno::ENOENT)?;
        dir.inode().permission(self.credentials, Access::WRITE | Access::EXEC)?;
        if dir.inode().attributes() & u64::from(STATX_ATTR_APPEND) != 0 {
            return Err(Errno::EPERM);
        }
        let (dir_owner, owner) = (dir.inode().owner(), inode.owner());
        let sticky = dir_owner.mode & 0o1000 != 0;
        if sticky && dir_owner.uid != self.credentials.fsuid && !self.credentials.owns(&owner) {
            return Err(Errno::EPERM);
        }
        if inode.attributes() & u64::from(STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND) != 0 {
            return Err(Errno::EPERM);
        }
        match (directory, inode.kind() == FileKind::Directory) {
            (true, false) => Err(Errno::ENOTDIR),
            (false, true) => Err(Errno::EISDIR),
            (true, true) if victim.parent().is_none() => Err(Errno::EBUSY),
            _ if dir.dentry.is_deleted() => Err(Errno::ENOENT),
            _ => Ok(()),
        }
    }

    /// unlink(2). EISDIR for a directory.
    pub fn unlink(&self, path: PathAt<'_>) -> SysResult<()> {
        let place = self.place(path, |_| Errno::EISDIR)?;
        let victim = {
            let _names = place.dir.dentry.lock_names();
            let victim = lookup_locked(&place.dir.dentry, place.name.name())?;
            let inode = victim.inode().ok_or(Errno::ENOENT)?;
            if place.name.trailing_slash {
                return Err(if inode.kind() == FileKind::Directory { Errno::EISDIR } else { Errno::ENOTDIR }.into());
            }
            place.dir.require_writable()?;
            self.may_delete(&place.dir, &victim, false)?;
            if self.is_my_mountpoint(&victim) {
                return Err(Errno::EBUSY.into());
            }
            place.dir.inode().unlink(place.name.name(), inode)?;
            place.dir.dentry.remove_child(&victim);
            victim
        };
        crate::notify::removed(&place.dir, &victim);
        Ok(())
    }

    /// rmdir(2). ENOTEMPTY, EBUSY for a mount point, EINVAL for `.`.
    pub fn rmdir(&self, path: PathAt<'_>) -> SysResult<()> {
        let place = self.place(path, |last| match last {
            Last::DotDot => Errno::ENOTEMPTY,
            Last::Dot => Errno::EINVAL,
            _ => Errno::EBUSY,
        })?;
        let victim = {
            let _names = place.dir.dentry.lock_names();
            let victim = lookup_locked(&place.dir.dentry, place.name.name())?;
            let inode = victim.inode().ok_or(Errno::ENOENT)?;
            place.dir.require_writable()?;
            self.may_delete(&place.dir, &victim, true)?;
            if self.is_my_mountpoint(&victim) {
                return Err(Errno::EBUSY.into());
            }
            // So that nothing is made inside while it goes away.
            let _inside = victim.lock_names();
            place.dir.inode().rmdir(place.name.name(), inode)?;
            place.dir.dentry.remove_child(&victim);
            victim.clone()
        };
        victim.forget_below();
        crate::notify::removed(&place.dir, &victim);
        Ok(())
    }

    /// renameat2(2).
    pub fn rename(&self, from: PathAt<'_>, to: PathAt<'_>, flags: RenameFlags) -> SysResult<()> {
        if flags.contains(RenameFlags::EXCHANGE) && flags.intersects(RenameFlags::NOREPLACE | RenameFlags::WHITEOUT) {
            return Err(Errno::EINVAL.into());
        }
        if flags.contains(RenameFlags::WHITEOUT) {
            self.credentials.require(Capability::MKNOD)?;
        }
        // Both ways are walked before either end is judged.
        let mut from = Walk::new(self, from, LookupFlags::empty())?;
        let from_last = from.parent()?;
        let mut to = Walk::new(self, to, LookupFlags::empty())?;
        let to_last = to.parent()?;
        if !Arc::ptr_eq(&from.at.mount, &to.at.mount) {
            return Err(Errno::EXDEV.into());
        }
        let Last::Name(from_name) = from_last else { return Err(Errno::EBUSY.into()) };
        let Last::Name(to_name) = to_last else {
            return Err(if flags.contains(RenameFlags::NOREPLACE) { Errno::EEXIST } else { Errno::EBUSY }.into());
        };
        let (from, to) = (Place { dir: from.at, name: from_name }, Place { dir: to.at, name: to_name });
        let moved = self.rename_locked(&from, &to, flags)?;
        if let Some(moved) = moved {
            crate::notify::renamed(&from.dir, &to.dir, &moved, from.name.name());
        }
        Ok(())
    }

    fn rename_locked(&self, from: &Place<'_>, to: &Place<'_>, flags: RenameFlags) -> SysResult<Option<Renamed>> {
        let (a, b) = (&from.dir.dentry, &to.dir.dentry);
        let same = Arc::ptr_eq(a, b);
        let _rename = (!same).then(|| self.vfs.rename_lock.lock());
        // The ancestor is locked first; strangers by address.
        let a_first = a.is_ancestor_of(b) || (!b.is_ancestor_of(a) && Arc::as_ptr(a) < Arc::as_ptr(b));
        let (first, second) = if same || a_first { (a, b) } else { (b, a) };
        let _first = first.lock_names();
        let _second = (!same).then(|| second.lock_names());

        let source = lookup_locked(a, from.name.name())?;
        let inode = source.inode().ok_or(Errno::ENOENT)?.clone();
        let target = lookup_locked(b, to.name.name())?;
        self.check_rename(from, to, &source, &target, flags)?;
        if let Some(replaced) = target.inode()
            && Arc::ptr_eq(replaced, &inode)
        {
            return Ok(None);
        }
        from.dir.inode().rename(from.name.name(), &inode, to.dir.inode(), to.name.name(), target.inode(), flags)?;
        if flags.contains(RenameFlags::EXCHANGE) {
            Dentry::exchange(&source, &target);
            return Ok(Some(Renamed { source, target: Some(target), exchanged: true }));
        }
        b.adopt(&source, to.name.name());
        if flags.contains(RenameFlags::WHITEOUT) {
            // Looked up again when somebody asks.
            a.forget_child(from.name.name());
        }
        let target = (!target.is_negative()).then_some(target);
        Ok(Some(Renamed { source, target, exchanged: false }))
    }

    fn check_rename(
        &self,
        from: &Place<'_>,
        to: &Place<'_>,
        source: &Arc<Dentry>,
        target: &Arc<Dentry>,
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let is_dir = |dentry: &Dentry| dentry.inode().is_some_and(|inode| inode.kind() == FileKind::Directory);
        if flags.contains(RenameFlags::NOREPLACE) && !target.is_negative() {
            return Err(Errno::EEXIST);
        }
        if exchange {
            if target.is_negative() {
                return Err(Errno::ENOENT);
            }
            if !is_dir(target) && to.name.trailing_slash {
                return Err(Errno::ENOTDIR);
            }
        }
        if !is_dir(source) && (from.name.trailing_slash || (!exchange && to.name.trailing_slash)) {
            return Err(Errno::ENOTDIR);
        }
        if source.is_ancestor_of(&to.dir.dentry) || Arc::ptr_eq(source, &to.dir.dentry) {
            return Err(Errno::EINVAL);
        }
        if target.is_ancestor_of(&from.dir.dentry) || Arc::ptr_eq(target, &from.dir.dentry) {
            return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        from.dir.require_writable()?;
        if let (Some(a), Some(b)) = (source.inode(), target.inode())
            && Arc::ptr_eq(a, b)
        {
            return Ok(());
        }
        self.may_delete(&from.dir, source, is_dir(source))?;
        if target.is_negative() {
            self.may_create(&to.dir)?;
        } else {
            self.may_delete(&to.dir, target, if exchange { is_dir(target) } else { is_dir(source) })?;
        }
        // `..` of a directory that moves is written to.
        if !Arc::ptr_eq(&from.dir.dentry, &to.dir.dentry) {
            let moving = [Some(source), exchange.then_some(target)];
            for dentry in moving.into_iter().flatten().filter(|d| is_dir(d)) {
                dentry.expect_inode().permission(self.credentials, Access::WRITE)?;
            }
        }
        if self.is_my_mountpoint(source) || self.is_my_mountpoint(target) { Err(Errno::EBUSY) } else { Ok(()) }
    }
}

/// What a rename did, for those who watch.
pub(crate) struct Renamed {
    pub source: Arc<Dentry>,
    /// What was replaced, or what it changed places with.
    pub target: Option<Arc<Dentry>>,
    pub exchanged: bool,
}
