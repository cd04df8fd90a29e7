//! A file of the host as an inode.
//!
//! An inode remembers one name by which it was last seen, its attributes, and when they were asked for. Host descriptors are opened when first needed
//! and stay with the inode (below the traits their number is bounded).

use super::cache::PageCache;
use super::file::HostOpenFile;
use super::{HostFs, kind};
use crate::listing::{Entry, Listing};
use abi::{Errno, PAGE_SIZE, SysResult};
use platform::{HostDir, HostFile, HostKind, HostMetadata, HostOpen};
use ram::Frame;
use std::sync::{Arc, OnceLock, Weak};
use sync::{Mutex, Rank, SpinLock};
use vfs::{
    AccessPolicy, Attachments, CachePolicy, DeviceNumber, Emit, FileKind, FileOps, FileSystem, Inode, Mapper, Metadata, Open, Owner, Pages,
    RenameFlags, SetAttr, Timestamp,
};

/// `FALLOC_FL_KEEP_SIZE` and `FALLOC_FL_PUNCH_HOLE` of fallocate(2).
const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;

struct Attributes {
    metadata: HostMetadata,
    /// When the host was asked, monotonic.
    asked_ns: u64,
}

/// The open files behind an inode.
#[derive(Default)]
struct Handles {
    read: Option<Arc<dyn HostFile>>,
    write: Option<Arc<dyn HostFile>>,
}

type Place = (Arc<dyn HostDir>, Arc<[u8]>);

pub(crate) struct HostInode {
    this: Weak<HostInode>,
    fs: Arc<HostFs>,
    key: (u64, u64),
    kind: FileKind,
    ino: u64,
    /// Directory and name where it was last seen; none for the root.
    place: SpinLock<Option<Place>>,
    attributes: SpinLock<Attributes>,
    dir: OnceLock<Arc<dyn HostDir>>,
    handles: SpinLock<Handles>,
    cache: PageCache,
    listing: Mutex<Listing>,
    /// Writing, truncating: one after the other, so that size and pages agree.
    changing: Mutex<()>,
    attachments: Attachments,
}

impl HostInode {
    pub fn root(fs: &Arc<HostFs>, dir: Arc<dyn HostDir>, metadata: HostMetadata) -> Arc<HostInode> {
        Arc::new_cyclic(|this| HostInode::with_place(fs, this, None, OnceLock::from(dir), metadata))
    }

    pub fn new(fs: &Arc<HostFs>, parent: Arc<dyn HostDir>, name: &[u8], metadata: HostMetadata) -> Arc<HostInode> {
        Arc::new_cyclic(|this| HostInode::with_place(fs, this, Some((parent, Arc::from(name))), OnceLock::new(), metadata))
    }

    fn with_place(
        fs: &Arc<HostFs>,
        this: &Weak<HostInode>,
        place: Option<Place>,
        dir: OnceLock<Arc<dyn HostDir>>,
        metadata: HostMetadata,
    ) -> HostInode {
        HostInode {
            this: this.clone(),
            fs: fs.clone(),
            key: (metadata.dev, metadata.ino),
            kind: kind(metadata.kind),
            ino: fs.ino(metadata.dev, metadata.ino),
            place: SpinLock::new(place),
            attributes: SpinLock::new(Attributes { metadata, asked_ns: now_ns() }),
            dir,
            handles: SpinLock::default(),
            cache: PageCache::new(fs.ram),
            listing: Mutex::default(),
            changing: Mutex::ranked(Rank::Inode, ()),
            attachments: Attachments::new(),
        }
    }

    /// The directory itself.
    pub fn dir(&self) -> Result<&Arc<dyn HostDir>, Errno> {
        if let Some(dir) = self.dir.get() {
            return Ok(dir);
        }
        let (parent, name) = self.place()?;
        let dir = parent.open_dir(&name).map_err(gone)?;
        Ok(self.dir.get_or_init(|| dir))
    }

    fn place(&self) -> Result<Place, Errno> {
        self.place.lock().clone().ok_or(Errno::EPERM)
    }

    /// It was found as `name` in `parent`, with these attributes.
    pub fn seen_at(&self, parent: &Arc<dyn HostDir>, name: &[u8], metadata: HostMetadata) {
        let old = self.place.lock().replace((parent.clone(), Arc::from(name)));
        drop(old);
        self.learn(metadata);
    }

    fn host_metadata(&self) -> HostMetadata {
        self.attributes.lock().metadata
    }
    pub fn size_bytes(&self) -> u64 {
        self.host_metadata().size_bytes
    }

    /// Takes over what the host says now. Pages of a file that others changed are forgotten.
    fn learn(&self, metadata: HostMetadata) {
        let changed = {
            let mut attributes = self.attributes.lock();
            let old = attributes.metadata;
            *attributes = Attributes { metadata, asked_ns: now_ns() };
            (old.modified_ns, old.size_bytes) != (metadata.modified_ns, metadata.size_bytes)
        };
        if changed && self.kind == FileKind::Regular {
            self.cache.forget(self.id());
        }
    }

    /// Takes over what the host says after a change of ours: the pages are right.
    fn learn_own(&self, metadata: HostMetadata) {
        *self.attributes.lock() = Attributes { metadata, asked_ns: now_ns() };
    }

    /// Makes the next look ask the host.
    fn expire(&self) {
        self.attributes.lock().asked_ns = 0;
    }

    fn is_fresh(&self) -> bool {
        let asked_ns = self.attributes.lock().asked_ns;
        asked_ns != 0 && sync::monotonic_ns().saturating_sub(asked_ns) < self.fs.options.valid_ns
    }

    /// Asks the host for attributes, however fresh they are. ENOENT when it is gone or another file.
    fn ask(&self) -> Result<HostMetadata, Errno> {
        let open = self.any_handle();
        let place = self.place.lock().clone();
        let found = match (place, self.dir.get(), open) {
            (None, Some(dir), _) => dir.metadata()?,
            (Some((parent, name)), _, open) => match parent.entry_metadata(&name) {
                Ok(found) if (found.dev, found.ino) == self.key => found,
                // Its name is gone or somebody else's; an open file still knows.
                other => match open {
                    Some(open) => open.metadata()?,
                    None => return Err(other.err().unwrap_or(Errno::ENOENT)),
                },
            },
            (None, None, _) => return Err(Errno::ENOENT),
        };
        Ok(found)
    }

    /// Asks the host if what we know has aged.
    pub fn revalidate(&self) {
        if !self.is_fresh()
            && let Ok(found) = self.ask()
        {
            self.learn(found);
        }
    }

    fn any_handle(&self) -> Option<Arc<dyn HostFile>> {
        let handles = self.handles.lock();
        handles.write.clone().or_else(|| handles.read.clone())
    }

    fn read_handle(&self) -> Result<Arc<dyn HostFile>, Errno> {
        let held = { self.handles.lock().read.clone() };
        match held {
            Some(held) => Ok(held),
            None => self.open_handle(false),
        }
    }

    fn write_handle(&self) -> Result<Arc<dyn HostFile>, Errno> {
        self.fs.writable()?;
        let held = { self.handles.lock().write.clone() };
        match held {
            Some(held) => Ok(held),
            None => self.open_handle(true),
        }
    }

    fn open_handle(&self, write: bool) -> Result<Arc<dyn HostFile>, Errno> {
        let (parent, name) = self.place()?;
        let opened = parent.open_file(&name, HostOpen { write, create_mode: None }).map_err(gone)?;
        let metadata = opened.metadata()?;
        if (metadata.dev, metadata.ino) != self.key {
            return Err(Errno::ENOENT);
        }
        let mut handles = self.handles.lock();
        // A handle that writes reads too.
        if write {
            handles.write = Some(opened.clone());
        }
        handles.read.get_or_insert_with(|| opened.clone());
        Ok(opened)
    }

    pub fn page_at(&self, index: u64, write: bool) -> Result<Frame, Errno> {
        if write {
            self.write_handle()?;
        }
        if let Some(frame) = self.cache.cached(index).filter(|_| !write) {
            return Ok(frame);
        }
        self.cache.page(&*self.read_handle()?, index, self.size_bytes(), write)
    }

    /// Writes at `position` (`None`: the end) and answers where the written ends.
    pub fn write(&self, position: Option<u64>, data: &[u8]) -> Result<u64, Errno> {
        let file = self.write_handle()?;
        let _changing = self.changing.lock();
        let at = match position {
            Some(at) if !self.fs.options.append => at,
            _ => file.metadata()?.size_bytes,
        };
        file.write_at(at, data)?;
        let end = at + data.len() as u64;
        if end > self.size_bytes() {
            self.cache.wipe_tail(self.size_bytes());
        }
        self.cache.update(at, data);
        self.learn_own(file.metadata()?);
        Ok(end)
    }

    /// Writes back all dirty pages, to the host's disk.
    pub fn write_back(&self) -> Result<(), Errno> {
        if !self.cache.has_dirty() {
            return Ok(());
        }
        self.write_back_range(0, u64::MAX)?;
        self.sync_host(true)
    }

    pub fn write_back_range(&self, first: u64, end: u64) -> Result<(), Errno> {
        if !self.cache.has_dirty() {
            return Ok(());
        }
        let file = self.write_handle()?;
        let _changing = self.changing.lock();
        self.cache.write_back(self.id(), &*file, first, end, self.size_bytes())?;
        self.learn_own(file.metadata()?);
        Ok(())
    }

    pub fn sync_host(&self, data_only: bool) -> Result<(), Errno> {
        self.any_handle().map_or(Ok(()), |file| file.sync(data_only))
    }

    pub fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        let file = self.write_handle()?;
        let _changing = self.changing.lock();
        let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
        match mode {
            0 if file.metadata()?.size_bytes < end => file.set_len(end)?,
            0 | KEEP_SIZE => {}
            mode if mode == PUNCH_HOLE | KEEP_SIZE => {
                file.punch(offset, len)?;
                self.cache.forget(self.id());
            }
            _ => return Err(Errno::EOPNOTSUPP),
        }
        self.learn_own(file.metadata()?);
        Ok(())
    }

    pub fn reclaim(&self, want: usize) -> usize {
        self.cache.reclaim(want)
    }

    /// After a change in this directory: what is new of `name`.
    fn made(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        self.expire();
        let dir = self.dir()?;
        Ok(self.fs.inode(dir, name, dir.entry_metadata(name).map_err(gone)?))
    }

    fn as_host(inode: &Arc<dyn Inode>) -> Result<&HostInode, Errno> {
        inode.downcast::<HostInode>().ok_or(Errno::EXDEV)
    }

    fn listed(&self) -> Result<Vec<Entry>, Errno> {
        let dev = self.key.0;
        let entries = self.dir()?.entries().map_err(gone)?;
        let ours = |entry: platform::HostDirEntry| Entry {
            name: Arc::from(entry.name),
            ino: self.fs.ino(dev, entry.ino),
            kind: Some(kind(entry.kind)),
        };
        Ok(entries.into_iter().map(ours).collect())
    }
}

/// The monotonic clock; never 0, which stands for never.
fn now_ns() -> u64 {
    sync::monotonic_ns().max(1)
}

/// A directory that others moved away is no longer there.
fn gone(errno: Errno) -> Errno {
    if errno == Errno::ESTALE { Errno::ENOENT } else { errno }
}

fn host_kind(kind: FileKind) -> Result<HostKind, Errno> {
    match kind {
        FileKind::Fifo => Ok(HostKind::Fifo),
        FileKind::Socket => Ok(HostKind::Socket),
        FileKind::CharDevice => Ok(HostKind::CharDevice),
        FileKind::BlockDevice => Ok(HostKind::BlockDevice),
        _ => Err(Errno::EINVAL),
    }
}

impl Inode for HostInode {
    fn metadata(&self) -> Result<Metadata, Errno> {
        self.revalidate();
        let m = self.host_metadata();
        Ok(Metadata {
            dev: DeviceNumber::NONE,
            ino: self.ino,
            kind: self.kind,
            mode: m.mode,
            links: u32::try_from(m.links).unwrap_or(u32::MAX),
            uid: m.uid,
            gid: m.gid,
            rdev: DeviceNumber::decode(m.rdev),
            size_bytes: m.size_bytes,
            blocks: m.blocks,
            block_size_bytes: u32::try_from(m.block_size_bytes).unwrap_or(PAGE_SIZE as u32),
            accessed: Timestamp::from_ns(m.accessed_ns),
            modified: Timestamp::from_ns(m.modified_ns),
            changed: Timestamp::from_ns(m.changed_ns),
            created: None,
            attributes: 0,
        })
    }
    fn kind(&self) -> FileKind {
        self.kind
    }
    fn ino(&self) -> u64 {
        self.ino
    }
    fn owner(&self) -> Owner {
        let m = self.host_metadata();
        Owner { mode: m.mode, uid: m.uid, gid: m.gid }
    }
    fn file_system(&self) -> Arc<dyn FileSystem> {
        self.fs.clone()
    }
    fn attachments(&self) -> &Attachments {
        &self.attachments
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        if self.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let dir = self.dir()?;
        Ok(self.fs.inode(dir, name, dir.entry_metadata(name).map_err(gone)?))
    }
    fn cache_policy(&self) -> CachePolicy {
        CachePolicy::Revalidate
    }
    fn is_current(&self) -> bool {
        if self.is_fresh() {
            return true;
        }
        let place = self.place.lock().clone();
        let Some((parent, name)) = place else { return true };
        match parent.entry_metadata(&name) {
            Ok(found) if (found.dev, found.ino) == self.key && kind(found.kind) == self.kind => {
                self.learn(found);
                true
            }
            _ => false,
        }
    }
    fn readdir(&self, from: u64, emit: Emit<'_>) -> Result<(), Errno> {
        if self.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let mut listing = self.listing.lock();
        if from == 0 || listing.is_new() {
            listing.refresh(self.fs.ram, self.listed()?)?;
        }
        listing.emit(from, emit);
        Ok(())
    }
    fn create(&self, name: &[u8], owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.fs.writable()?;
        let dir = self.dir()?;
        let file = dir.open_file(name, HostOpen { write: true, create_mode: Some(owner.mode) }).map_err(gone)?;
        self.expire();
        let inode = self.fs.inode(dir, name, file.metadata()?);
        let mut handles = inode.handles.lock();
        (handles.read, handles.write) = (Some(file.clone()), Some(file));
        drop(handles);
        Ok(inode)
    }
    fn mkdir(&self, name: &[u8], owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.fs.writable()?;
        self.dir()?.make_dir(name, owner.mode).map_err(gone)?;
        self.made(name)
    }
    fn mknod(&self, name: &[u8], kind: FileKind, _: DeviceNumber, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.fs.writable()?;
        self.dir()?.make_node(name, host_kind(kind)?, owner.mode).map_err(gone)?;
        self.made(name)
    }
    fn symlink(&self, name: &[u8], target: &[u8], _: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.fs.writable()?;
        self.dir()?.make_symlink(name, target).map_err(gone)?;
        self.made(name)
    }
    fn link(&self, inode: &Arc<dyn Inode>, name: &[u8]) -> Result<(), Errno> {
        self.fs.writable()?;
        let inode = HostInode::as_host(inode)?;
        let (from, old) = inode.place()?;
        from.link(&old, &**self.dir()?, name).map_err(gone)?;
        self.expire();
        inode.expire();
        Ok(())
    }
    fn unlink(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.fs.writable()?;
        if self.fs.options.append {
            return Err(Errno::EPERM);
        }
        self.dir()?.unlink(name).map_err(gone)?;
        self.expire();
        HostInode::as_host(inode)?.expire();
        Ok(())
    }
    fn rmdir(&self, name: &[u8], _: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.fs.writable()?;
        self.dir()?.remove_dir(name).map_err(gone)?;
        self.expire();
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
        self.fs.writable()?;
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::EINVAL);
        }
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        if self.fs.options.append && replaced.is_some() {
            return Err(Errno::EPERM);
        }
        let (to_inode, inode) = (HostInode::as_host(to_dir)?, HostInode::as_host(inode)?);
        let (from_dir, into_dir) = (self.dir()?, to_inode.dir()?);
        from_dir.rename(name, &**into_dir, to, flags.contains(RenameFlags::NOREPLACE), exchange).map_err(gone)?;
        let moves = [Some((inode, into_dir, to)), replaced.filter(|_| exchange).and_then(|r| r.downcast()).map(|r| (r, from_dir, name))];
        for (moved, dir, name) in moves.into_iter().flatten() {
            let old = moved.place.lock().replace((dir.clone(), Arc::from(name)));
            drop(old);
            moved.expire();
        }
        if let Some(replaced) = replaced {
            HostInode::as_host(replaced)?.expire();
        }
        self.expire();
        to_inode.expire();
        Ok(())
    }

    fn readlink(&self) -> Result<Arc<[u8]>, Errno> {
        if self.kind != FileKind::Symlink {
            return Err(Errno::EINVAL);
        }
        let (parent, name) = self.place()?;
        Ok(Arc::from(parent.read_link(&name).map_err(gone)?))
    }

    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        self.fs.writable()?;
        let (parent, name) = self.place()?;
        // The owner first: changing that takes set-id bits away.
        if change.uid.is_some() || change.gid.is_some() {
            parent.set_owner(&name, change.uid, change.gid).map_err(gone)?;
        }
        if let Some(mode) = change.mode {
            parent.set_mode(&name, mode).map_err(gone)?;
        }
        if change.accessed.is_some() || change.modified.is_some() {
            let ns = |time: Option<Timestamp>| time.map(Timestamp::as_ns);
            parent.set_times(&name, ns(change.accessed), ns(change.modified)).map_err(gone)?;
        }
        if let Ok(found) = self.ask() {
            self.learn_own(found);
        }
        Ok(())
    }
    fn truncate(&self, size_bytes: u64) -> Result<(), Errno> {
        if self.kind != FileKind::Regular {
            return Err(Errno::EINVAL);
        }
        let file = self.write_handle()?;
        if self.fs.options.append {
            return Ok(());
        }
        let _changing = self.changing.lock();
        self.cache.wipe_tail(self.size_bytes());
        file.set_len(size_bytes)?;
        self.learn_own(file.metadata()?);
        self.cache.truncate(self.id(), size_bytes);
        Ok(())
    }
    fn touch_accessed(&self, _: AccessPolicy) {
        // The host notes accesses itself, when pages are read.
    }

    fn open(self: Arc<Self>, open: &Open<'_>) -> SysResult<Arc<dyn FileOps>> {
        self.revalidate();
        if open.flags.can_write() {
            self.write_handle()?;
        } else {
            self.read_handle()?;
        }
        Ok(Arc::new(HostOpenFile { inode: self }))
    }
    fn rdev(&self) -> DeviceNumber {
        DeviceNumber::decode(self.host_metadata().rdev)
    }
    fn pages(&self) -> Option<Arc<dyn Pages>> {
        if self.kind != FileKind::Regular {
            return None;
        }
        self.this.upgrade().map(|this| this as Arc<dyn Pages>)
    }
}

impl Pages for HostInode {
    fn page(&self, index: u64, write: bool) -> Result<Frame, Errno> {
        self.page_at(index, write)
    }
    fn page_if_cached(&self, index: u64) -> Option<Frame> {
        self.cache.cached(index)
    }
    fn len_pages(&self) -> u64 {
        self.size_bytes().div_ceil(PAGE_SIZE as u64)
    }
    fn id(&self) -> u64 {
        // The address: no other object has it while this one lives.
        std::ptr::from_ref(self) as u64
    }
    fn register_mapper(&self, mapper: Weak<dyn Mapper>) {
        self.cache.register(mapper);
    }
}

impl Drop for HostInode {
    fn drop(&mut self) {
        // Stores through shared mappings that nobody has synced; there is nobody to tell of an error, and nobody to lock out.
        if self.cache.has_dirty()
            && let Ok(file) = self.write_handle()
        {
            let _ = self.cache.write_back(self.id(), &*file, 0, u64::MAX, self.size_bytes());
        }
        self.fs.forget(self.key);
    }
}
