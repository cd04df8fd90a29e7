//! A file of an overlay: lower, upper or both.

use super::file::OverlayFile;
use super::{Overlay, is_whiteout, key};
use crate::listing::{Entry, Listing};
use abi::{Errno, SysResult};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use sync::{Mutex, Rank, SpinLock};
use vfs::{
    Access, AccessPolicy, Attachments, CachePolicy, Credentials, DeviceNumber, Emit, FileKind, FileOps, FileSystem, Inode, Metadata, Open,
    Owner, Pages, RenameFlags, SetAttr, XattrMode,
};

/// Directory and name.
pub(super) type Place = (Arc<OverlayInode>, Arc<[u8]>);

pub(super) struct OverlayInode {
    this: Weak<OverlayInode>,
    pub fs: Arc<Overlay>,
    kind: FileKind,
    ino: u64,
    /// Of a directory: what shows through. Of another file: what is or was shown until it was brought up.
    lower: Option<Arc<dyn Inode>>,
    upper: OnceLock<Arc<dyn Inode>>,
    /// Where it is brought up to; none for the root, and once its name is gone.
    place: SpinLock<Option<Place>>,
    /// It had a name and lost it while it was only a lower file.
    deleted: AtomicBool,
    /// One bringing-up at a time.
    pub copying: Mutex<()>,
    listing: Mutex<Listing>,
    attachments: Attachments,
}

impl OverlayInode {
    pub fn new(fs: &Arc<Overlay>, upper: Option<Arc<dyn Inode>>, lower: Option<Arc<dyn Inode>>, place: Option<Place>) -> Arc<OverlayInode> {
        let (kind, ino) = match (&upper, &lower) {
            (Some(upper), _) => (upper.kind(), fs.visible_ino(upper.ino())),
            (None, Some(lower)) => (lower.kind(), lower.ino()),
            (None, None) => unreachable!("an inode is something"),
        };
        Arc::new_cyclic(|this| OverlayInode {
            this: this.clone(),
            fs: fs.clone(),
            kind,
            ino,
            lower,
            upper: upper.map_or_else(OnceLock::new, OnceLock::from),
            place: SpinLock::new(place),
            deleted: AtomicBool::new(false),
            copying: Mutex::ranked(Rank::Directory, ()),
            listing: Mutex::default(),
            attachments: Attachments::new(),
        })
    }

    fn arc(&self) -> Result<Arc<OverlayInode>, Errno> {
        self.this.upgrade().ok_or(Errno::EIO)
    }
    pub fn upper(&self) -> Option<&Arc<dyn Inode>> {
        self.upper.get()
    }
    pub fn lower(&self) -> Option<&Arc<dyn Inode>> {
        self.lower.as_ref()
    }
    pub fn place(&self) -> Option<Place> {
        self.place.lock().clone()
    }
    pub fn set_place(&self, place: Option<Place>) {
        if place.is_some() {
            let old = std::mem::replace(&mut *self.place.lock(), place);
            drop(old);
        }
    }
    /// Its name is gone.
    fn lose_place(&self) {
        let old = self.place.lock().take();
        drop(old);
        self.deleted.store(true, Ordering::Relaxed);
    }
    pub fn set_upper(&self, upper: Arc<dyn Inode>) {
        self.fs.nodes.lock().insert(key(&upper), self.this.clone());
        let _ = self.upper.set(upper);
    }

    /// The file that is shown.
    fn real(&self) -> Result<&Arc<dyn Inode>, Errno> {
        self.upper().or(self.lower()).ok_or(Errno::EIO)
    }
    /// The upper file, brought up if need be.
    fn up(&self) -> Result<Arc<dyn Inode>, Errno> {
        self.arc()?.copy_up()
    }

    fn of(inode: &Arc<dyn Inode>) -> Result<Arc<OverlayInode>, Errno> {
        inode.clone().downcast_arc::<OverlayInode>().ok_or(Errno::EXDEV)
    }

    /// The upper entry called `name`, a whiteout too.
    fn upper_entry(&self, name: &[u8]) -> Result<Option<Arc<dyn Inode>>, Errno> {
        match self.upper().map(|upper| upper.lookup(name)) {
            None | Some(Err(Errno::ENOENT)) => Ok(None),
            Some(Ok(found)) => Ok(Some(found)),
            Some(Err(errno)) => Err(errno),
        }
    }

    /// The lower file that `name` would show if no upper entry were in the way.
    fn lower_entry(&self, name: &[u8]) -> Result<Option<Arc<dyn Inode>>, Errno> {
        match self.lower().map(|lower| lower.lookup(name)) {
            // What we may not look into is empty.
            None | Some(Err(Errno::ENOENT | Errno::EACCES)) => Ok(None),
            Some(Ok(found)) => Ok(Some(found)),
            Some(Err(errno)) => Err(errno),
        }
    }

    /// Makes a new upper file here.
    fn make(
        &self,
        name: &[u8],
        make: impl FnOnce(&Arc<dyn Inode>, &[u8]) -> Result<Arc<dyn Inode>, Errno>,
    ) -> Result<Arc<dyn Inode>, Errno> {
        let dir = self.up()?;
        // The usual case needs no detour: nothing to replace.
        let made = if self.upper_entry(name)?.is_none() { make(&dir, name)? } else { self.fs.make_at(&dir, name, make)? };
        Ok(self.fs.node(Some(made), None, Some((self.arc()?, Arc::from(name)))))
    }

    /// Everything that the directory shows.
    fn merged(&self) -> Result<Vec<Entry>, Errno> {
        let mut hidden: HashSet<Arc<[u8]>> = HashSet::new();
        let mut entries = Vec::new();
        if let Some(upper) = self.upper() {
            upper.readdir(0, &mut |entry| {
                let name: Arc<[u8]> = Arc::from(entry.name);
                hidden.insert(name.clone());
                entries.push(Entry { name, ino: self.fs.visible_ino(entry.ino), kind: entry.kind });
                true
            })?;
            let whiteouts = self.fs.whiteouts_in(upper)?;
            let whiteouts: HashSet<&[u8]> = whiteouts.iter().map(Vec::as_slice).collect();
            entries.retain(|entry| !whiteouts.contains(&*entry.name));
        }
        let Some(lower) = self.lower() else { return Ok(entries) };
        let read = lower.readdir(0, &mut |entry| {
            if !hidden.contains(entry.name) {
                entries.push(Entry { name: Arc::from(entry.name), ino: entry.ino, kind: entry.kind });
            }
            true
        });
        match read {
            // Once brought up it is an ordinary directory, empty.
            Err(Errno::EACCES) if self.upper().is_some() => Ok(entries),
            other => other.map(|()| entries),
        }
    }

    /// ENOTEMPTY if the directory shows anything; else takes its whiteouts away, for it is about to go.
    fn empty_out(&self) -> Result<(), Errno> {
        let shown = match self.merged() {
            Err(Errno::EACCES) => return Err(Errno::ENOTEMPTY),
            other => other?,
        };
        if !shown.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        let Some(upper) = self.upper() else { return Ok(()) };
        for name in self.fs.whiteouts_in(upper)? {
            let whiteout = upper.lookup(&name)?;
            upper.unlink(&name, &whiteout)?;
        }
        Ok(())
    }

    /// Takes `name` away: unlink and rmdir.
    fn remove(&self, name: &[u8], victim: &OverlayInode) -> Result<(), Errno> {
        let hides = self.lower_entry(name)?.is_some();
        let dir = if hides { Some(self.up()?) } else { None };
        // Somebody who has it open may be bringing it up, to this very name.
        let _copying = victim.copying.lock();
        let upper = self.upper_entry(name)?;
        if let Some(dir) = dir {
            self.fs.white_out(&dir, name, upper.as_ref())?;
        } else if let (Some(dir), Some(upper)) = (self.upper(), &upper) {
            match upper.kind() {
                FileKind::Directory => dir.rmdir(name, upper)?,
                _ => dir.unlink(name, upper)?,
            }
        }
        if let Some(upper) = &upper {
            self.fs.forget_origin(upper);
        }
        if victim.upper().is_none() || victim.kind == FileKind::Directory {
            victim.lose_place();
        }
        Ok(())
    }
}

impl Inode for OverlayInode {
    fn metadata(&self) -> Result<Metadata, Errno> {
        let mut metadata = self.real()?.metadata()?;
        metadata.dev = DeviceNumber::NONE;
        metadata.ino = self.ino;
        if self.upper().is_none() && self.deleted.load(Ordering::Relaxed) {
            metadata.links = 0;
        } else if self.kind == FileKind::Directory && self.upper().is_some() && self.lower().is_some() && metadata.links > 0 {
            // How many directories are inside is not counted, as in Linux.
            metadata.links = 1;
        }
        Ok(metadata)
    }
    fn kind(&self) -> FileKind {
        self.kind
    }
    fn ino(&self) -> u64 {
        self.ino
    }
    fn owner(&self) -> Owner {
        self.real().map(|real| real.owner()).unwrap_or_default()
    }
    fn file_system(&self) -> Arc<dyn FileSystem> {
        self.fs.clone()
    }
    fn attachments(&self) -> &Attachments {
        &self.attachments
    }
    fn permission(&self, credentials: &Credentials, want: Access) -> Result<(), Errno> {
        self.real()?.permission(credentials, want)
    }
    fn attributes(&self) -> u64 {
        self.real().map_or(0, |real| real.attributes())
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        if self.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let place = Some((self.arc()?, Arc::from(name)));
        match self.upper_entry(name)? {
            Some(upper) if is_whiteout(&upper) => Err(Errno::ENOENT),
            Some(upper) => {
                let lower = self.fs.lower_of(&upper);
                Ok(self.fs.node(Some(upper), lower, place))
            }
            None => {
                let lower = self.lower_entry(name)?.ok_or(Errno::ENOENT)?;
                Ok(self.fs.node(None, Some(lower), place))
            }
        }
    }
    fn cache_policy(&self) -> CachePolicy {
        // Names of a directory without a lower part change through us only.
        self.lower().map_or(CachePolicy::Cached, |lower| lower.cache_policy())
    }
    fn is_current(&self) -> bool {
        self.upper().is_some() || self.lower().is_none_or(|lower| lower.is_current())
    }
    fn readdir(&self, from: u64, emit: Emit<'_>) -> Result<(), Errno> {
        if self.kind != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let mut listing = self.listing.lock();
        if from == 0 || listing.is_new() {
            listing.refresh(self.fs.ram, self.merged()?)?;
        }
        listing.emit(from, emit);
        Ok(())
    }
    fn create(&self, name: &[u8], owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.make(name, |dir, name| dir.create(name, owner))
    }
    fn mkdir(&self, name: &[u8], owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.make(name, |dir, name| dir.mkdir(name, owner))
    }
    fn mknod(&self, name: &[u8], kind: FileKind, rdev: DeviceNumber, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        if kind == FileKind::CharDevice && rdev == DeviceNumber::NONE {
            // It would be a whiteout.
            return Err(Errno::EPERM);
        }
        self.make(name, |dir, name| dir.mknod(name, kind, rdev, owner))
    }
    fn symlink(&self, name: &[u8], target: &[u8], owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        self.make(name, |dir, name| dir.symlink(name, target, owner))
    }
    fn tmpfile(&self, owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        let made = self.up()?.tmpfile(owner)?;
        Ok(self.fs.node(Some(made), None, None))
    }
    fn link(&self, inode: &Arc<dyn Inode>, name: &[u8]) -> Result<(), Errno> {
        let upper = OverlayInode::of(inode)?.copy_up()?;
        let dir = self.up()?;
        match self.upper_entry(name)? {
            None => dir.link(&upper, name),
            Some(_) => {
                let link = |work: &Arc<dyn Inode>, name: &[u8]| work.link(&upper, name).map(|()| upper.clone());
                self.fs.make_at(&dir, name, link).map(drop)
            }
        }
    }
    fn unlink(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.remove(name, &*OverlayInode::of(inode)?)
    }
    fn rmdir(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        let victim = OverlayInode::of(inode)?;
        victim.empty_out()?;
        self.remove(name, &victim)
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
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::EINVAL);
        }
        let (moved, into) = (OverlayInode::of(inode)?, OverlayInode::of(to_dir)?);
        let replaced = replaced.map(OverlayInode::of).transpose()?;
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        if let Some(replaced) = replaced.as_ref().filter(|replaced| !exchange && replaced.kind == FileKind::Directory) {
            replaced.empty_out()?;
        }
        let upper = moved.copy_up()?;
        let (from_up, into_up) = (self.up()?, into.up()?);
        if let Some(replaced) = replaced.as_ref().filter(|_| exchange) {
            let other = replaced.copy_up()?;
            from_up.rename(name, &upper, &into_up, to, Some(&other), RenameFlags::EXCHANGE)?;
            replaced.set_place(Some((self.arc()?, Arc::from(name))));
        } else {
            // As in `remove`.
            let _copying = replaced.as_ref().map(|replaced| replaced.copying.lock());
            // An upper file or a whiteout; a lower file is hidden by what comes.
            let there = into.upper_entry(to)?;
            let leave = if self.lower_entry(name)?.is_some() { RenameFlags::WHITEOUT } else { RenameFlags::empty() };
            from_up.rename(name, &upper, &into_up, to, there.as_ref(), leave)?;
            if let Some(gone) = there.filter(|there| !is_whiteout(there)) {
                self.fs.forget_origin(&gone);
            }
            if let Some(replaced) = replaced.as_ref().filter(|r| r.upper().is_none() || r.kind == FileKind::Directory) {
                replaced.lose_place();
            }
        }
        moved.set_place(Some((into, Arc::from(to))));
        Ok(())
    }
    fn has_default_acl(&self) -> bool {
        self.real().is_ok_and(|real| real.has_default_acl())
    }

    fn readlink(&self) -> Result<Arc<[u8]>, Errno> {
        self.real()?.readlink()
    }

    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        self.up()?.set_attr(change)
    }
    fn truncate(&self, size_bytes: u64) -> Result<(), Errno> {
        if self.kind != FileKind::Regular {
            return Err(Errno::EINVAL);
        }
        self.arc()?.copy_up_to(size_bytes)?.truncate(size_bytes)
    }
    fn touch_accessed(&self, policy: AccessPolicy) {
        if let Some(upper) = self.upper() {
            upper.touch_accessed(policy);
        }
    }
    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.real()?.get_xattr(name)
    }
    fn set_xattr(&self, name: &[u8], value: &[u8], mode: XattrMode) -> Result<(), Errno> {
        self.up()?.set_xattr(name, value, mode)
    }
    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        // What is not there needs no bringing up.
        self.real()?.get_xattr(name)?;
        self.up()?.remove_xattr(name)
    }
    fn list_xattr(&self) -> Result<Vec<Vec<u8>>, Errno> {
        self.real()?.list_xattr()
    }

    fn open(self: Arc<Self>, open: &Open<'_>) -> SysResult<Arc<dyn FileOps>> {
        if open.flags.can_write() {
            self.copy_up()?;
        }
        let opened = self.real()?.clone().open(open)?;
        let (lower, upper) = match self.upper() {
            Some(_) => (None, OnceLock::from(opened)),
            None => (Some(opened), OnceLock::new()),
        };
        Ok(Arc::new(OverlayFile { flags: open.flags, credentials: open.credentials.clone(), lower, upper, inode: self }))
    }
    fn rdev(&self) -> DeviceNumber {
        self.real().map_or(DeviceNumber::NONE, |real| real.rdev())
    }
    fn pages(&self) -> Option<Arc<dyn Pages>> {
        self.real().ok()?.pages()
    }
    fn fsync(&self) -> Result<(), Errno> {
        self.upper().map_or(Ok(()), |upper| upper.fsync())
    }
}

impl Drop for OverlayInode {
    fn drop(&mut self) {
        {
            let mut nodes = self.fs.nodes.lock();
            for at in self.upper.get().iter().map(|upper| key(upper)).chain(self.lower.iter().map(key)) {
                if nodes.get(&at).is_some_and(|weak| weak.strong_count() == 0) {
                    nodes.remove(&at);
                }
            }
        }
        // A chain of directories that only this one held is let go of link by link, not by recursion.
        let mut place = self.place.get_mut().take();
        while let Some((parent, _)) = place {
            place = Arc::into_inner(parent).and_then(|mut parent| parent.place.get_mut().take());
        }
    }
}
