//! Inodes of tmpfs.

use super::{DIRENT_SIZE, Space, directory::Directory, is_dir};
use abi::{Errno, PAGE_SIZE, SysResult};
use ram::Charge;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use sync::{Mutex, Rank, SpinLock};
use vfs::{
    Access, AccessPolicy, Acl, Attachments, Credentials, DeviceNumber, Emit, FileKind, FileOps, FileSystem, Inode, Metadata, Open, Owner,
    PageCache, PageSource, Pages, RenameFlags, SetAttr, Timestamp, XattrMode,
};

/// Bytes charged for an inode.
const INODE_COST: usize = 512;
/// Bytes of extended attributes that one inode may have.
const XATTR_TOTAL: usize = 128 * 1024;

/// A file of tmpfs.
pub struct TmpfsInode {
    pub(super) space: Arc<Space>,
    ino: u64,
    mode: AtomicU32,
    uid: AtomicU32,
    gid: AtomicU32,
    links: AtomicU32,
    times: SpinLock<Times>,
    created: Timestamp,
    pub(super) body: Body,
    xattrs: OnceLock<Box<SpinLock<Xattrs>>>,
    attachments: Attachments,
    _charge: Charge,
}

#[derive(Clone, Copy)]
struct Times {
    accessed: Timestamp,
    modified: Timestamp,
    changed: Timestamp,
}

#[derive(Default)]
struct Xattrs {
    values: BTreeMap<Vec<u8>, (Vec<u8>, Charge)>,
    len_bytes: usize,
}

pub(super) enum Body {
    Regular(Regular),
    Directory(Directory),
    Symlink(Arc<[u8]>),
    Special(FileKind, DeviceNumber),
}

pub(super) struct Regular {
    pub cache: Arc<PageCache>,
    /// Keeps writers and truncation apart.
    pub lock: Mutex<()>,
    /// `F_SEAL_*`.
    pub seals: AtomicU32,
}

/// What a new inode is.
pub(super) enum NewBody<'a> {
    Regular,
    Directory,
    Symlink(&'a [u8]),
    Special(FileKind, DeviceNumber),
}

impl TmpfsInode {
    pub(super) fn new(space: &Arc<Space>, body: NewBody<'_>, owner: Owner) -> Result<Arc<TmpfsInode>, Errno> {
        let extra = if let NewBody::Symlink(target) = body { target.len() } else { 0 };
        let charge = space.ram.charge(INODE_COST + extra)?;
        space.count_inode()?;
        let body = match body {
            NewBody::Regular => {
                let source: Weak<Space> = Arc::downgrade(space);
                let cache = PageCache::new(space.ram, source as Weak<dyn PageSource>, false, 0);
                // Sealable files are made by memfd_create; all others have the seal against seals.
                let seals = AtomicU32::new(abi::raw::general::F_SEAL_SEAL);
                Body::Regular(Regular { cache, lock: Mutex::ranked(Rank::Inode, ()), seals })
            }
            NewBody::Directory => Body::Directory(Directory::default()),
            NewBody::Symlink(target) => Body::Symlink(Arc::from(target)),
            NewBody::Special(kind, rdev) => Body::Special(kind, rdev),
        };
        let now = Timestamp::now();
        Ok(Arc::new(TmpfsInode {
            space: space.clone(),
            ino: space.next_ino.fetch_add(1, Ordering::Relaxed),
            mode: AtomicU32::new(owner.mode & 0o7777),
            uid: AtomicU32::new(owner.uid),
            gid: AtomicU32::new(owner.gid),
            links: AtomicU32::new(if matches!(body, Body::Directory(_)) { 2 } else { 1 }),
            times: SpinLock::new(Times { accessed: now, modified: now, changed: now }),
            created: now,
            body,
            xattrs: OnceLock::new(),
            attachments: Attachments::new(),
            _charge: charge,
        }))
    }

    pub(super) fn regular(&self) -> Result<&Regular, Errno> {
        match &self.body {
            Body::Regular(regular) => Ok(regular),
            Body::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }
    fn directory(&self) -> Result<&Directory, Errno> {
        if let Body::Directory(directory) = &self.body { Ok(directory) } else { Err(Errno::ENOTDIR) }
    }
    pub(super) fn set_links(&self, links: u32) {
        self.links.store(links, Ordering::Relaxed);
    }
    fn add_links(&self, by: i32) {
        self.links.fetch_add_signed(by);
    }
    pub(super) fn note_modified(&self) {
        let now = Timestamp::now();
        let mut times = self.times.lock();
        times.modified = now;
        times.changed = now;
    }
    fn note_changed(&self) {
        let now = Timestamp::now();
        self.times.lock().changed = now;
    }

    /// Makes an inode and gives it a name here.
    fn make(&self, name: &[u8], body: NewBody<'_>, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        let directory = self.directory()?;
        let inode = TmpfsInode::new(&self.space, body, owner)?;
        self.inherit_acl(&inode)?;
        directory.insert(self.space.ram, name, inode.clone())?;
        if is_dir(inode.kind()) {
            self.add_links(1);
        }
        self.note_modified();
        Ok(inode)
    }

    /// Applies the default access-control list of this directory to what is made in it, acl(5).
    fn inherit_acl(&self, inode: &TmpfsInode) -> Result<(), Errno> {
        let Some(default) = self.xattr(Acl::DEFAULT) else { return Ok(()) };
        if inode.kind() == FileKind::Symlink {
            return Ok(());
        }
        if is_dir(inode.kind()) {
            inode.store_xattr(Acl::DEFAULT, &default)?;
        }
        let mut acl = Acl::parse(&default)?;
        let mode = acl.create(inode.mode.load(Ordering::Relaxed));
        inode.mode.store(mode, Ordering::Relaxed);
        match acl.as_mode() {
            Some(_) => Ok(()),
            None => inode.store_xattr(Acl::ACCESS, &acl.to_bytes()),
        }
    }

    fn xattr(&self, name: &[u8]) -> Option<Vec<u8>> {
        self.xattrs.get()?.lock().values.get(name).map(|(value, _)| value.clone())
    }
    fn store_xattr(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        let charge = self.space.ram.charge(name.len() + value.len() + 96)?;
        let old = {
            let mut xattrs = self.xattrs.get_or_init(Box::default).lock();
            let old = xattrs.values.get(name).map_or(0, |(value, _)| name.len() + value.len());
            let total = xattrs.len_bytes - old + name.len() + value.len();
            if total > XATTR_TOTAL {
                return Err(Errno::ENOSPC);
            }
            xattrs.len_bytes = total;
            xattrs.values.insert(name.to_vec(), (value.to_vec(), charge))
        };
        drop(old);
        Ok(())
    }
    fn drop_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        let mut xattrs = self.xattrs.get().ok_or(Errno::ENODATA)?.lock();
        let (value, charge) = xattrs.values.remove(name).ok_or(Errno::ENODATA)?;
        xattrs.len_bytes -= name.len() + value.len();
        drop(xattrs);
        drop(charge);
        Ok(())
    }

    /// What is to be left of an access-control list that was set: the mode holds the rest.
    fn set_access_acl(&self, value: &[u8]) -> Result<(), Errno> {
        let acl = Acl::parse(value)?;
        let mode = self.mode.load(Ordering::Relaxed);
        self.mode.store(mode & 0o7000 | acl.mode_bits(), Ordering::Relaxed);
        if acl.as_mode().is_some() {
            return self.drop_xattr(Acl::ACCESS).or(Ok(()));
        }
        self.store_xattr(Acl::ACCESS, value)
    }
}

trait AddSigned {
    fn fetch_add_signed(&self, by: i32);
}
impl AddSigned for AtomicU32 {
    fn fetch_add_signed(&self, by: i32) {
        let _ = self.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_add_signed(by)));
    }
}

impl Inode for TmpfsInode {
    fn metadata(&self) -> Result<Metadata, Errno> {
        let times = *self.times.lock();
        let (size_bytes, blocks) = match &self.body {
            Body::Regular(regular) => (regular.cache.size_bytes(), regular.cache.cached_pages() as u64 * (PAGE_SIZE as u64 / 512)),
            Body::Directory(directory) => (directory.len() as u64 * DIRENT_SIZE, 0),
            Body::Symlink(target) => (target.len() as u64, 0),
            Body::Special(..) => (0, 0),
        };
        let owner = self.owner();
        Ok(Metadata {
            dev: DeviceNumber::NONE,
            ino: self.ino,
            kind: self.kind(),
            mode: owner.mode,
            links: self.links.load(Ordering::Relaxed),
            uid: owner.uid,
            gid: owner.gid,
            rdev: self.rdev(),
            size_bytes,
            blocks,
            block_size_bytes: PAGE_SIZE as u32,
            accessed: times.accessed,
            modified: times.modified,
            changed: times.changed,
            created: Some(self.created),
            attributes: 0,
        })
    }
    fn kind(&self) -> FileKind {
        match &self.body {
            Body::Regular(_) => FileKind::Regular,
            Body::Directory(_) => FileKind::Directory,
            Body::Symlink(_) => FileKind::Symlink,
            Body::Special(kind, _) => *kind,
        }
    }
    fn ino(&self) -> u64 {
        self.ino
    }
    fn owner(&self) -> Owner {
        Owner { mode: self.mode.load(Ordering::Relaxed), uid: self.uid.load(Ordering::Relaxed), gid: self.gid.load(Ordering::Relaxed) }
    }
    fn file_system(&self) -> Arc<dyn FileSystem> {
        // Whoever uses an inode holds a mount of its file system.
        self.space.file_system.upgrade().unwrap_or_else(|| unreachable!("an inode is used through a mount"))
    }
    fn attachments(&self) -> &Attachments {
        &self.attachments
    }
    fn permission(&self, credentials: &Credentials, want: Access) -> Result<(), Errno> {
        let owner = self.owner();
        if owner.mode & 0o070 != 0
            && self.xattrs.get().is_some()
            && let Some(acl) = self.xattr(Acl::ACCESS)
        {
            return Acl::parse(&acl)?.check(credentials, &owner, self.kind(), want);
        }
        credentials.check(&owner, self.kind(), want)
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        Ok(self.directory()?.get(name).ok_or(Errno::ENOENT)?)
    }
    fn readdir(&self, from: u64, emit: Emit<'_>) -> Result<(), Errno> {
        self.directory()?.read(from, emit);
        Ok(())
    }
    fn create(&self, name: &[u8], owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.make(name, NewBody::Regular, owner)
    }
    fn mkdir(&self, name: &[u8], owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.make(name, NewBody::Directory, owner)
    }
    fn mknod(&self, name: &[u8], kind: FileKind, rdev: DeviceNumber, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.make(name, NewBody::Special(kind, rdev), owner)
    }
    fn symlink(&self, name: &[u8], target: &[u8], owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.make(name, NewBody::Symlink(target), owner)
    }
    fn tmpfile(&self, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        let inode = TmpfsInode::new(&self.space, NewBody::Regular, owner)?;
        self.inherit_acl(&inode)?;
        inode.set_links(0);
        Ok(inode)
    }
    fn link(&self, inode: &Arc<dyn Inode>, name: &[u8]) -> Result<(), Errno> {
        let inode = inode.clone().downcast_arc::<TmpfsInode>().ok_or(Errno::EXDEV)?;
        self.directory()?.insert(self.space.ram, name, inode.clone())?;
        inode.add_links(1);
        inode.note_changed();
        self.note_modified();
        Ok(())
    }
    fn unlink(&self, name: &[u8], _: &Arc<dyn Inode>) -> Result<(), Errno> {
        let gone = self.directory()?.remove(name).ok_or(Errno::ENOENT)?;
        gone.add_links(-1);
        gone.note_changed();
        self.note_modified();
        Ok(())
    }
    fn rmdir(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        let victim = inode.downcast::<TmpfsInode>().ok_or(Errno::EIO)?;
        if victim.directory()?.len() > 0 {
            return Err(Errno::ENOTEMPTY);
        }
        let gone = self.directory()?.remove(name).ok_or(Errno::ENOENT)?;
        gone.set_links(0);
        gone.note_changed();
        self.add_links(-1);
        self.note_modified();
        Ok(())
    }
    fn rename(
        &self,
        name: &[u8],
        inode: &Arc<dyn Inode>,
        to_dir: &Arc<dyn Inode>,
        to: &[u8],
        replaced: Option<&Arc<dyn Inode>>,
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let to_dir = to_dir.downcast::<TmpfsInode>().ok_or(Errno::EXDEV)?;
        let moved = inode.clone().downcast_arc::<TmpfsInode>().ok_or(Errno::EIO)?;
        let replaced = match replaced {
            Some(replaced) => Some(replaced.clone().downcast_arc::<TmpfsInode>().ok_or(Errno::EIO)?),
            None => None,
        };
        let (from_entries, to_entries) = (self.directory()?, to_dir.directory()?);
        let moves_dir = i32::from(is_dir(moved.kind()));
        let replaces_dir = i32::from(replaced.as_ref().is_some_and(|r| is_dir(r.kind())));
        if let Some(replaced) = &replaced
            && flags.contains(RenameFlags::EXCHANGE)
        {
            from_entries.replace(name, replaced.clone());
            to_entries.replace(to, moved.clone());
            self.add_links(replaces_dir - moves_dir);
            to_dir.add_links(moves_dir - replaces_dir);
            replaced.note_changed();
        } else {
            let whiteout = if flags.contains(RenameFlags::WHITEOUT) {
                let owner = Owner { mode: 0, ..moved.owner() };
                Some(TmpfsInode::new(&self.space, NewBody::Special(FileKind::CharDevice, DeviceNumber::NONE), owner)?)
            } else {
                None
            };
            match &replaced {
                Some(replaced) => {
                    if replaces_dir != 0 && replaced.directory()?.len() > 0 {
                        return Err(Errno::ENOTEMPTY);
                    }
                    to_entries.replace(to, moved.clone());
                    replaced.add_links(-1 - replaces_dir);
                    replaced.note_changed();
                }
                None => to_entries.insert(self.space.ram, to, moved.clone())?,
            }
            match whiteout {
                Some(whiteout) => from_entries.replace(name, whiteout),
                None => drop(from_entries.remove(name)),
            }
            self.add_links(-moves_dir);
            to_dir.add_links(moves_dir - replaces_dir);
        }
        moved.note_changed();
        self.note_modified();
        to_dir.note_modified();
        Ok(())
    }
    fn has_default_acl(&self) -> bool {
        self.xattrs.get().is_some_and(|xattrs| xattrs.lock().values.contains_key(Acl::DEFAULT))
    }

    fn readlink(&self) -> Result<Arc<[u8]>, Errno> {
        if let Body::Symlink(target) = &self.body { Ok(target.clone()) } else { Err(Errno::EINVAL) }
    }
    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        if let Some(mode) = change.mode {
            self.mode.store(mode & 0o7777, Ordering::Relaxed);
            if let Some(acl) = self.xattr(Acl::ACCESS) {
                let mut acl = Acl::parse(&acl)?;
                acl.chmod(mode);
                self.store_xattr(Acl::ACCESS, &acl.to_bytes())?;
            }
        }
        if let Some(uid) = change.uid {
            self.uid.store(uid, Ordering::Relaxed);
        }
        if let Some(gid) = change.gid {
            self.gid.store(gid, Ordering::Relaxed);
        }
        let mut times = self.times.lock();
        times.accessed = change.accessed.unwrap_or(times.accessed);
        times.modified = change.modified.unwrap_or(times.modified);
        times.changed = change.changed.unwrap_or(times.changed);
        Ok(())
    }
    fn touch_accessed(&self, policy: AccessPolicy) {
        let now = Timestamp::now();
        let mut times = self.times.lock();
        if policy.applies(times.accessed, times.modified, times.changed, now) {
            times.accessed = now;
        }
    }
    fn truncate(&self, size_bytes: u64) -> Result<(), Errno> {
        let regular = self.regular()?;
        let _writers = regular.lock.lock();
        regular.check_resize(size_bytes)?;
        regular.cache.truncate(size_bytes)?;
        self.note_modified();
        Ok(())
    }
    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.xattr(name).ok_or(Errno::ENODATA)
    }
    fn set_xattr(&self, name: &[u8], value: &[u8], mode: XattrMode) -> Result<(), Errno> {
        match (mode, self.xattr(name).is_some()) {
            (XattrMode::Create, true) => return Err(Errno::EEXIST),
            (XattrMode::Replace, false) => return Err(Errno::ENODATA),
            _ => {}
        }
        match name {
            _ if name == Acl::ACCESS => {
                if self.kind() == FileKind::Symlink {
                    return Err(Errno::EOPNOTSUPP);
                }
                self.set_access_acl(value)?;
            }
            _ if name == Acl::DEFAULT => {
                if !is_dir(self.kind()) {
                    return Err(Errno::EACCES);
                }
                Acl::parse(value)?;
                self.store_xattr(name, value)?;
            }
            _ if name.starts_with(b"system.") => return Err(Errno::EOPNOTSUPP),
            _ => self.store_xattr(name, value)?,
        }
        self.note_changed();
        Ok(())
    }
    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        self.drop_xattr(name)?;
        self.note_changed();
        Ok(())
    }
    fn list_xattr(&self) -> Result<Vec<Vec<u8>>, Errno> {
        Ok(self.xattrs.get().map(|xattrs| xattrs.lock().values.keys().cloned().collect()).unwrap_or_default())
    }

    fn open(self: Arc<Self>, _: &Open<'_>) -> SysResult<Arc<dyn FileOps>> {
        Ok(self)
    }
    fn rdev(&self) -> DeviceNumber {
        if let Body::Special(_, rdev) = &self.body { *rdev } else { DeviceNumber::NONE }
    }
    fn pages(&self) -> Option<Arc<dyn Pages>> {
        if let Body::Regular(regular) = &self.body { Some(regular.cache.clone()) } else { None }
    }
}

impl Drop for TmpfsInode {
    fn drop(&mut self) {
        self.space.uncount_inode();
        // A loop, not recursion: a guest decides how deep directories are.
        let mut stack = if let Body::Directory(directory) = &mut self.body { directory.take_all() } else { Vec::new() };
        while let Some(inode) = stack.pop() {
            if let Some(mut last) = Arc::into_inner(inode)
                && let Body::Directory(directory) = &mut last.body
            {
                stack.extend(directory.take_all());
            }
        }
    }
}
