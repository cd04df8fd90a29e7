//! Inodes of ext2, ext3 and ext4.
//!
//! Always true: [`State::attributes`] is the image's inode as this machine last changed or read it, but for times that are newer in memory
//! ([`State::times_dirty`]) and the size, which the page cache has.

use super::file::{Contents, ExtOpenFile};
use super::{ExtFs, stamp, time};
use ::ext4::{Attributes, FileType, Filesystem, NewInode, RenameMode, SetAttributes, SetMode, inode_flags};
use abi::{Errno, SysResult};
use ram::Charge;
use std::sync::{Arc, OnceLock, Weak};
use sync::{Mutex, Rank, SpinLock};
use vfs::{
    Access, AccessPolicy, Acl, Attachments, Credentials, DeviceNumber, DirEntry, Emit, FileKind, FileOps, FileSystem, Inode, Metadata,
    Open, Owner, PageCache, PageSource, Pages, ReadAhead, RenameFlags, SetAttr, Timestamp, XattrMode,
};

/// Bytes charged for an inode.
const INODE_COST: usize = 1024;
/// `STATX_ATTR_IMMUTABLE`, `STATX_ATTR_APPEND`, `STATX_ATTR_NODUMP`.
const STATX_FLAGS: [(u32, u64); 3] = [(inode_flags::IMMUTABLE, 0x10), (inode_flags::APPEND, 0x20), (inode_flags::NODUMP, 0x40)];
/// What cookies of the image are moved by: 0 to 2 are `.`, `..` and what follows them.
const COOKIE_BASE: u64 = 3;

/// A file of an image.
pub struct ExtInode {
    fs: Arc<ExtFs>,
    ino: u32,
    kind: FileKind,
    state: SpinLock<State>,
    contents: Option<Contents>,
    target: OnceLock<Arc<[u8]>>,
    /// The access-control list; outer `None`: not looked for yet.
    acl: SpinLock<Option<Option<Arc<Acl>>>>,
    attachments: Attachments,
    this: Weak<ExtInode>,
    _charge: Charge,
}

struct State {
    attributes: Attributes,
    times_dirty: bool,
}

fn kind_of(file_type: FileType) -> Option<FileKind> {
    Some(match file_type {
        FileType::Regular => FileKind::Regular,
        FileType::Directory => FileKind::Directory,
        FileType::CharDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::Symlink => FileKind::Symlink,
        FileType::Unknown => return None,
    })
}

/// Largest size of a file: blocks are counted in 32 bits, and a map of pointers ends sooner.
fn max_size(block_size: u64, flags: u32) -> u64 {
    let blocks = if flags & inode_flags::EXTENTS != 0 {
        1 << 32
    } else {
        let pointers = block_size / 4;
        (12 + pointers + pointers.pow(2) + pointers.pow(3)).min(1 << 32)
    };
    (blocks * block_size).saturating_sub(1).min(i64::MAX as u64)
}

impl ExtInode {
    /// Reads an inode. EUCLEAN if the image contradicts itself, ESTALE if the number is not in use.
    pub(super) fn load(fs: &Arc<ExtFs>, ino: u32) -> Result<Arc<ExtInode>, Errno> {
        let charge = fs.vfs.ram().charge(INODE_COST)?;
        let attributes = fs.image.attributes(ino)?;
        let kind = kind_of(attributes.file_type()).ok_or(Errno::EUCLEAN)?;
        Ok(Arc::new_cyclic(|this: &Weak<ExtInode>| {
            let contents = (kind == FileKind::Regular).then(|| {
                let source: Weak<dyn PageSource> = this.clone();
                let cache = PageCache::new(fs.vfs.ram(), source, true, attributes.size);
                fs.vfs.page_caches.add(&cache);
                Contents {
                    cache,
                    writers: Mutex::ranked(Rank::Inode, ()),
                    promised: SpinLock::default(),
                    failed: SpinLock::default(),
                    max_size: max_size(fs.image.block_size() as u64, attributes.flags),
                }
            });
            ExtInode {
                fs: fs.clone(),
                ino,
                kind,
                state: SpinLock::new(State { attributes, times_dirty: false }),
                contents,
                target: OnceLock::new(),
                acl: SpinLock::default(),
                attachments: Attachments::new(),
                this: this.clone(),
                _charge: charge,
            }
        }))
    }

    pub(super) fn number(&self) -> u32 {
        self.ino
    }
    pub(super) fn image(&self) -> &Filesystem {
        &self.fs.image
    }
    pub(super) fn file_system_of(&self) -> &ExtFs {
        &self.fs
    }
    pub(super) fn contents(&self) -> Result<&Contents, Errno> {
        self.contents.as_ref().ok_or(if self.kind == FileKind::Directory { Errno::EISDIR } else { Errno::EINVAL })
    }
    pub(super) fn modified(&self) -> Timestamp {
        time(self.state.lock().attributes.modified)
    }

    /// Contents or times are newer than the image's: keeps the inode until [`ExtInode::write_back`].
    pub(super) fn mark_dirty(&self) {
        if let Some(this) = self.this.upgrade() {
            let old = self.fs.dirty.lock().insert(self.ino, this);
            drop(old);
        }
    }

    /// The contents changed.
    pub(super) fn note_written(&self, now: Timestamp) {
        {
            let mut state = self.state.lock();
            (state.attributes.modified, state.attributes.changed) = (stamp(now), stamp(now));
            state.times_dirty = true;
        }
        self.mark_dirty();
    }

    /// Reads the inode again after an operation changed it.
    pub(super) fn refresh(&self) -> Result<(), Errno> {
        let mut fresh = self.fs.image.attributes(self.ino)?;
        let mut state = self.state.lock();
        if state.times_dirty {
            let known = state.attributes;
            fresh.accessed = known.accessed.max(fresh.accessed);
            fresh.modified = known.modified.max(fresh.modified);
            fresh.changed = known.changed.max(fresh.changed);
        }
        state.attributes = fresh;
        Ok(())
    }

    /// Writes contents and times to the image, which is not committed yet.
    pub(super) fn write_back(self: &Arc<ExtInode>) -> Result<(), Errno> {
        let entry = self.fs.dirty.lock().remove(&self.ino);
        drop(entry);
        // Ours is the last reference but for the caller's list, and no name leads here: nobody will ever read it.
        if self.state.lock().attributes.links == 0 && Arc::strong_count(self) == 1 {
            self.discard_contents();
            return Ok(());
        }
        let result = self.write_contents_and_times();
        if result.is_err() {
            self.mark_dirty();
        }
        result
    }

    fn write_contents_and_times(&self) -> Result<(), Errno> {
        let written = self.contents.as_ref().map_or(Ok(()), |contents| contents.cache.sync());
        let set = {
            let mut state = self.state.lock();
            let times = state.attributes;
            std::mem::take(&mut state.times_dirty).then_some(SetAttributes {
                accessed: Some(times.accessed),
                modified: Some(times.modified),
                changed: Some(times.changed),
                ..SetAttributes::default()
            })
        };
        if let Some(set) = set {
            self.fs.image.set_attributes(self.ino, &set).inspect_err(|_| self.state.lock().times_dirty = true)?;
        }
        self.refresh()?;
        written
    }

    /// fsync(2). An error that write-back met since the last call is told once.
    pub(super) fn sync_all(&self) -> Result<(), Errno> {
        let written = self.write_contents_and_times();
        let earlier = self.contents.as_ref().and_then(|contents| contents.failed.lock().take());
        self.fs.image.sync_inode(self.ino)?;
        self.fs.tell_events();
        match (written, earlier) {
            (Err(errno), _) | (Ok(()), Some(errno)) => Err(errno),
            (Ok(()), None) => Ok(()),
        }
    }

    /// Makes an inode and gives it a name here; with `target`, a symbolic link.
    fn make(
        &self,
        name: Option<&[u8]>,
        kind: FileKind,
        rdev: DeviceNumber,
        owner: Owner,
        target: Option<&[u8]>,
    ) -> Result<Arc<dyn Inode>, Errno> {
        self.fs.writable()?;
        self.fs.free_unnamed();
        let mut mode = owner.mode & 0o7777;
        let mut attributes: Vec<(&[u8], Vec<u8>)> = Vec::new();
        if kind != FileKind::Symlink
            && let Some(default) = self.attribute(Acl::DEFAULT)?
        {
            let mut acl = Acl::parse(&default)?;
            mode = acl.create(mode);
            if kind == FileKind::Directory {
                attributes.push((Acl::DEFAULT, default));
            }
            if acl.as_mode().is_none() {
                attributes.push((Acl::ACCESS, acl.to_bytes()));
            }
        }
        let borrowed: Vec<(&[u8], &[u8])> = attributes.iter().map(|(name, value)| (*name, value.as_slice())).collect();
        let new = NewInode {
            mode: (kind.mode_bits() | mode) as u16,
            uid: owner.uid,
            gid: owner.gid,
            device: (rdev.major(), rdev.minor()),
            now: stamp(Timestamp::now()),
            attributes: &borrowed,
        };
        let image = &self.fs.image;
        let made = match (name, target) {
            (Some(name), Some(target)) => image.symlink(self.ino, name, target, &new)?,
            (Some(name), None) => image.create(self.ino, name, &new)?,
            (None, _) => image.create_unnamed(self.ino, &new)?,
        };
        self.refresh()?;
        Ok(self.fs.inode(made.ino)?)
    }

    fn attribute(&self, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        match self.fs.image.get_attribute(self.ino, name).map_err(Errno::from) {
            Ok(value) => Ok(Some(value)),
            Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn access_acl(&self) -> Result<Option<Arc<Acl>>, Errno> {
        if let Some(known) = &*self.acl.lock() {
            return Ok(known.clone());
        }
        let acl = match self.attribute(Acl::ACCESS)? {
            Some(value) => Some(Arc::new(Acl::parse(&value)?)),
            None => None,
        };
        *self.acl.lock() = Some(acl.clone());
        Ok(acl)
    }

    fn store_attribute(&self, name: &[u8], value: Option<&[u8]>, mode: SetMode) -> Result<(), Errno> {
        self.fs.image.set_attribute(self.ino, name, value, mode, stamp(Timestamp::now()))?;
        if name == Acl::ACCESS {
            *self.acl.lock() = None;
        }
        self.refresh()
    }

    fn set_mode(&self, mode: u32) -> Result<(), Errno> {
        let set = SetAttributes { mode: Some((mode & 0o7777) as u16), changed: Some(stamp(Timestamp::now())), ..SetAttributes::default() };
        self.fs.image.set_attributes(self.ino, &set)?;
        self.refresh()
    }
}

/// A file of another file system can't be reached here.
fn ours(inode: &Arc<dyn Inode>) -> Result<&ExtInode, Errno> {
    inode.downcast::<ExtInode>().ok_or(Errno::EXDEV)
}

impl Inode for ExtInode {
    fn extents(&self, start: u64, len: u64, most: usize) -> Result<Vec<vfs::FileExtent>, Errno> {
        // Blocks are allocated when pages are written.
        if let Some(contents) = &self.contents {
            contents.cache.sync()?;
        }
        let of = |found: ::ext4::FiemapExtent| vfs::FileExtent {
            logical: found.logical,
            physical: found.physical,
            len: found.len,
            flags: found.flags,
        };
        Ok(self.fs.image.fiemap(self.ino, start, len, most)?.into_iter().map(of).collect())
    }
    fn metadata(&self) -> Result<Metadata, Errno> {
        let known = self.state.lock().attributes;
        let block = self.fs.image.block_size() as u64;
        let (size_bytes, promised) = match &self.contents {
            Some(contents) => (contents.cache.size_bytes(), contents.promised.lock().values().sum()),
            None => (known.size, 0),
        };
        Ok(Metadata {
            dev: DeviceNumber::NONE,
            ino: u64::from(self.ino),
            kind: self.kind,
            mode: u32::from(known.mode) & 0o7777,
            links: u32::from(known.links),
            uid: known.uid,
            gid: known.gid,
            rdev: DeviceNumber::new(known.device.0, known.device.1),
            size_bytes,
            blocks: known.sectors + promised * (block / 512),
            block_size_bytes: block as u32,
            accessed: time(known.accessed),
            modified: time(known.modified),
            changed: time(known.changed),
            created: known.created.map(time),
            attributes: self.attributes(),
        })
    }
    fn kind(&self) -> FileKind {
        self.kind
    }
    fn ino(&self) -> u64 {
        u64::from(self.ino)
    }
    fn owner(&self) -> Owner {
        let known = &self.state.lock().attributes;
        Owner { mode: u32::from(known.mode) & 0o7777, uid: known.uid, gid: known.gid }
    }
    fn file_system(&self) -> Arc<dyn FileSystem> {
        self.fs.clone()
    }
    fn attachments(&self) -> &Attachments {
        &self.attachments
    }
    fn permission(&self, credentials: &Credentials, want: Access) -> Result<(), Errno> {
        let owner = self.owner();
        if owner.mode & 0o070 != 0
            && self.kind != FileKind::Symlink
            && let Some(acl) = self.access_acl()?
        {
            return acl.check(credentials, &owner, self.kind, want);
        }
        credentials.check(&owner, self.kind, want)
    }
    fn attributes(&self) -> u64 {
        let flags = self.state.lock().attributes.flags;
        STATX_FLAGS.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, shown)| shown).sum()
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let ino = self.fs.image.lookup(self.ino, name)?;
        Ok(self.fs.inode(ino)?)
    }
    fn readdir(&self, from: u64, emit: Emit<'_>) -> Result<(), Errno> {
        let mut cursor = from.saturating_sub(COOKIE_BASE);
        loop {
            let entries = self.fs.image.read_dir(self.ino, cursor)?;
            let Some(last) = entries.last() else { return Ok(()) };
            let next = last.next;
            for entry in &entries {
                if entry.name == b"." || entry.name == b".." {
                    continue;
                }
                let shown = DirEntry {
                    name: &entry.name,
                    ino: u64::from(entry.ino),
                    kind: kind_of(entry.file_type),
                    next: entry.next.saturating_add(COOKIE_BASE),
                };
                if !emit(shown) {
                    return Ok(());
                }
            }
            if next == cursor {
                return Ok(());
            }
            cursor = next;
        }
    }
    fn create(&self, name: &[u8], owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.make(Some(name), FileKind::Regular, DeviceNumber::NONE, owner, None)
    }
    fn mkdir(&self, name: &[u8], owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.make(Some(name), FileKind::Directory, DeviceNumber::NONE, owner, None)
    }
    fn mknod(&self, name: &[u8], kind: FileKind, rdev: DeviceNumber, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.make(Some(name), kind, rdev, owner, None)
    }
    fn symlink(&self, name: &[u8], target: &[u8], owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.make(Some(name), FileKind::Symlink, DeviceNumber::NONE, Owner { mode: 0o777, ..owner }, Some(target))
    }
    fn tmpfile(&self, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.make(None, FileKind::Regular, DeviceNumber::NONE, owner, None)
    }
    fn link(&self, inode: &Arc<dyn Inode>, name: &[u8]) -> Result<(), Errno> {
        self.fs.writable()?;
        let inode = ours(inode)?;
        self.fs.image.link(inode.ino, self.ino, name, stamp(Timestamp::now()))?;
        inode.refresh()?;
        self.refresh()
    }
    fn unlink(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.fs.writable()?;
        self.fs.image.unlink(self.ino, name, stamp(Timestamp::now()))?;
        ours(inode)?.refresh()?;
        self.fs.free_unnamed();
        self.refresh()
    }
    fn rmdir(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.fs.writable()?;
        self.fs.image.remove_dir(self.ino, name, stamp(Timestamp::now()))?;
        ours(inode)?.refresh()?;
        self.fs.free_unnamed();
        self.refresh()
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
        self.fs.writable()?;
        let (moved, to_dir) = (ours(inode)?, ours(to_dir)?);
        let mode = if flags.contains(RenameFlags::EXCHANGE) {
            RenameMode::Exchange
        } else if flags.contains(RenameFlags::WHITEOUT) {
            RenameMode::Whiteout
        } else {
            RenameMode::Replace
        };
        // A file that takes another's place brings its contents along: whoever renames over a file expects the old contents or the new after a crash.
        if replaced.is_some() && moved.contents.is_some() {
            moved.write_contents_and_times()?;
        }
        self.fs.image.rename((self.ino, name), (to_dir.ino, to), mode, stamp(Timestamp::now()))?;
        moved.refresh()?;
        if let Some(replaced) = replaced {
            ours(replaced)?.refresh()?;
        }
        to_dir.refresh()?;
        self.fs.free_unnamed();
        self.refresh()
    }
    fn has_default_acl(&self) -> bool {
        matches!(self.attribute(Acl::DEFAULT), Ok(Some(_)))
    }

    fn readlink(&self) -> Result<Arc<[u8]>, Errno> {
        if self.kind != FileKind::Symlink {
            return Err(Errno::EINVAL);
        }
        if let Some(target) = self.target.get() {
            return Ok(target.clone());
        }
        let target: Arc<[u8]> = self.fs.image.read_link(self.ino)?.into();
        Ok(self.target.get_or_init(|| target).clone())
    }

    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        self.fs.writable()?;
        let pending = {
            let mut state = self.state.lock();
            std::mem::take(&mut state.times_dirty).then_some(state.attributes)
        };
        let chosen = |new: Option<Timestamp>, known: Option<::ext4::Timestamp>| new.map(stamp).or(known);
        let set = SetAttributes {
            mode: change.mode.map(|mode| (mode & 0o7777) as u16),
            uid: change.uid,
            gid: change.gid,
            accessed: chosen(change.accessed, pending.map(|known| known.accessed)),
            modified: chosen(change.modified, pending.map(|known| known.modified)),
            changed: chosen(change.changed, pending.map(|known| known.changed)),
            ..SetAttributes::default()
        };
        self.fs.image.set_attributes(self.ino, &set)?;
        if let (Some(mode), Some(acl)) = (change.mode, self.access_acl()?) {
            let mut acl = Acl::clone(&acl);
            acl.chmod(mode);
            self.store_attribute(Acl::ACCESS, Some(&acl.to_bytes()), SetMode::Any)?;
        }
        self.refresh()
    }
    fn touch_accessed(&self, policy: AccessPolicy) {
        let now = Timestamp::now();
        {
            let mut state = self.state.lock();
            let known = &state.attributes;
            if self.fs.image.is_read_only() || !policy.applies(time(known.accessed), time(known.modified), time(known.changed), now) {
                return;
            }
            state.attributes.accessed = stamp(now);
            state.times_dirty = true;
        }
        self.mark_dirty();
    }
    fn truncate(&self, size_bytes: u64) -> Result<(), Errno> {
        self.resize(size_bytes)
    }
    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        Ok(self.fs.image.get_attribute(self.ino, name)?)
    }
    fn set_xattr(&self, name: &[u8], value: &[u8], mode: XattrMode) -> Result<(), Errno> {
        self.fs.writable()?;
        let set_mode = match mode {
            XattrMode::Set => SetMode::Any,
            XattrMode::Create => SetMode::Create,
            XattrMode::Replace => SetMode::Replace,
        };
        match name {
            _ if name == Acl::ACCESS => {
                if self.kind == FileKind::Symlink {
                    return Err(Errno::EOPNOTSUPP);
                }
                let acl = Acl::parse(value)?;
                self.set_mode(self.owner().mode & 0o7000 | acl.mode_bits())?;
                if acl.as_mode().is_none() {
                    return self.store_attribute(name, Some(value), set_mode);
                }
                match self.store_attribute(name, None, SetMode::Any) {
                    Err(Errno::ENODATA) => Ok(()),
                    result => result,
                }
            }
            _ if name == Acl::DEFAULT => {
                if self.kind != FileKind::Directory {
                    return Err(Errno::EACCES);
                }
                Acl::parse(value)?;
                self.store_attribute(name, Some(value), set_mode)
            }
            _ => self.store_attribute(name, Some(value), set_mode),
        }
    }
    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        self.fs.writable()?;
        self.store_attribute(name, None, SetMode::Any)
    }
    fn list_xattr(&self) -> Result<Vec<Vec<u8>>, Errno> {
        Ok(self.fs.image.list_attributes(self.ino)?)
    }

    fn open(self: Arc<Self>, _: &Open<'_>) -> SysResult<Arc<dyn FileOps>> {
        self.contents()?;
        Ok(Arc::new(ExtOpenFile { inode: self, ahead: ReadAhead::default() }))
    }
    fn rdev(&self) -> DeviceNumber {
        let (major, minor) = self.state.lock().attributes.device;
        DeviceNumber::new(major, minor)
    }
    fn pages(&self) -> Option<Arc<dyn Pages>> {
        self.contents.as_ref().map(|contents| contents.cache.clone() as Arc<dyn Pages>)
    }
    fn fsync(&self) -> Result<(), Errno> {
        self.sync_all()
    }
}

impl Drop for ExtInode {
    fn drop(&mut self) {
        let is_unnamed = self.state.get_mut().attributes.links == 0;
        self.fs.forget(self.ino, is_unnamed && !self.fs.image.is_read_only());
    }
}
