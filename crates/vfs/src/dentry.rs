//! Dentries: names that were looked up, remembered per directory with a hash, absent names too.
//!
//! What it is not: path walk (`walk`), or the truth: the file system's directories are; this is a cache of them, except that a directory's dentry
//! is also its identity for mounts, working directories and `..`.
//!
//! Always true: a positive dentry stays positive and a negative one negative; a change replaces the dentry in its parent's table. A directory has one
//! dentry at most. A parent outlives its children. Tables change only under the parent's [`Dentry::lock_names`], but for eviction, which takes
//! out only what nobody else holds. Every dentry is charged to RAM; beyond [`DentryCache`]'s bound unused ones go.

use crate::inode::{CachePolicy, Inode};
use abi::Errno;
use ram::{Charge, Ram, Reclaim};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use sync::{Mutex, MutexGuard, Rank, SpinLock};

/// A name, shared: cloning is cheap.
pub type Name = Arc<[u8]>;

/// Bytes that a dentry, its table entry and a small inode cost, beside the name.
const DENTRY_COST: usize = 384;

/// A name in a directory, and what it stands for.
pub struct Dentry {
    inode: Option<Arc<dyn Inode>>,
    place: SpinLock<Place>,
    /// Directories only.
    directory: OnceLock<Box<Directory>>,
    policy: CachePolicy,
    /// Its name was removed: `(deleted)`.
    unhashed: AtomicBool,
    /// How many mounts cover it, in whatever namespace.
    mounted: AtomicU32,
    /// Used since the clock hand last came by.
    referenced: AtomicBool,
    slot: u32,
    cache: &'static DentryCache,
    _charge: Charge,
}

struct Place {
    parent: Option<Arc<Dentry>>,
    name: Name,
}

#[derive(Default)]
struct Directory {
    children: SpinLock<HashMap<Name, Arc<Dentry>>>,
    /// One lookup, creation, removal or reading of names at a time.
    names: NamesLock,
}

struct NamesLock(Mutex<()>);

impl Default for NamesLock {
    fn default() -> Self {
        NamesLock(Mutex::ranked(Rank::Directory, ()))
    }
}

/// All dentries of the machine, and the clock that finds unused ones.
pub struct DentryCache {
    ram: &'static Ram,
    clock: SpinLock<Clock>,
    count: AtomicUsize,
    limit: usize,
}

#[derive(Default)]
struct Clock {
    slots: Vec<Option<Weak<Dentry>>>,
    free: Vec<u32>,
    hand: usize,
}

impl DentryCache {
    /// A cache charged to `ram`, of at most an eighth of it.
    #[must_use]
    pub fn new(ram: &'static Ram) -> DentryCache {
        let limit = (ram.frames() * abi::PAGE_SIZE / 8 / DENTRY_COST).max(1024);
        DentryCache { ram, clock: SpinLock::default(), count: AtomicUsize::new(0), limit }
    }
    /// Dentries that exist.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The root of a file system.
    pub fn new_root(&'static self, inode: Arc<dyn Inode>) -> Result<Arc<Dentry>, Errno> {
        self.make(None, Arc::from(&b"/"[..]), Some(inode), CachePolicy::Cached)
    }

    /// A name that is in no directory: of a nameless file.
    pub(crate) fn new_detached(&'static self, name: &[u8], inode: Arc<dyn Inode>) -> Result<Arc<Dentry>, Errno> {
        self.make(None, Arc::from(name), Some(inode), CachePolicy::Cached)
    }

    fn make(
        &'static self,
        parent: Option<Arc<Dentry>>,
        name: Name,
        inode: Option<Arc<dyn Inode>>,
        policy: CachePolicy,
    ) -> Result<Arc<Dentry>, Errno> {
        let charge = self.ram.charge(DENTRY_COST + name.len())?;
        if self.count.fetch_add(1, Ordering::Relaxed) >= self.limit {
            // A few at a time: what is in use can't go, and looking at all of it for each new name would cost more than the memory.
            self.evict_scanning(8, 64);
        }
        let mut clock = self.clock.lock();
        let slot = clock.free.pop().unwrap_or(clock.slots.len() as u32);
        let dentry = Arc::new(Dentry {
            inode,
            place: SpinLock::new(Place { parent, name }),
            directory: OnceLock::new(),
            policy,
            unhashed: AtomicBool::new(false),
            mounted: AtomicU32::new(0),
            referenced: AtomicBool::new(true),
            slot,
            cache: self,
            _charge: charge,
        });
        let entry = Some(Arc::downgrade(&dentry));
        match clock.slots.get_mut(slot as usize) {
            Some(free) => *free = entry,
            None => clock.slots.push(entry),
        }
        Ok(dentry)
    }

    /// Drops up to `want` dentries that nobody uses and that were not looked up since the hand last came by; answers how many.
    pub fn evict(&self, want: usize) -> usize {
        self.evict_scanning(want, usize::MAX)
    }

    fn evict_scanning(&self, want: usize, budget: usize) -> usize {
        let (mut freed, mut looked) = (0, 0);
        while freed < want && looked < budget {
            let candidate = {
                let mut clock = self.clock.lock();
                let len = clock.slots.len();
                if len == 0 || looked > 2 * len {
                    break;
                }
                looked += 1;
                clock.hand = (clock.hand + 1) % len;
                let hand = clock.hand;
                clock.slots.get(hand).and_then(Option::as_ref).and_then(Weak::upgrade)
            };
            if let Some(dentry) = candidate
                && !dentry.referenced.swap(false, Ordering::Relaxed)
                && dentry.forget_if_unused()
            {
                freed += 1;
            }
        }
        freed
    }
}

impl Reclaim for DentryCache {
    fn reclaim(&self, frames: usize) -> usize {
        let per_frame = abi::PAGE_SIZE / DENTRY_COST;
        self.evict(frames.saturating_mul(per_frame)) / per_frame
    }
}

impl Dentry {
    /// What the name stands for; `None`: it is known to be absent.
    #[must_use]
    pub fn inode(&self) -> Option<&Arc<dyn Inode>> {
        self.inode.as_ref()
    }
    /// The inode of a positive dentry, which every [`crate::Path`] holds.
    pub(crate) fn expect_inode(&self) -> &Arc<dyn Inode> {
        self.inode.as_ref().unwrap_or_else(|| unreachable!("a path leads to a positive dentry"))
    }
    /// Whether the name is known to be absent.
    #[must_use]
    pub fn is_negative(&self) -> bool {
        self.inode.is_none()
    }
    /// The name now; `/` for a root.
    #[must_use]
    pub fn name(&self) -> Name {
        self.place.lock().name.clone()
    }
    /// The directory that the name is in now; `None` for a root.
    #[must_use]
    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.place.lock().parent.clone()
    }
    /// Name and parent of one moment.
    #[must_use]
    pub fn place(&self) -> (Option<Arc<Dentry>>, Name) {
        let place = self.place.lock();
        (place.parent.clone(), place.name.clone())
    }
    /// Whether the name was removed.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.unhashed.load(Ordering::Acquire)
    }
    pub(crate) fn set_deleted(&self) {
        self.unhashed.store(true, Ordering::Release);
    }
    /// Whether a mount may cover it.
    #[must_use]
    pub fn is_mountpoint(&self) -> bool {
        self.mounted.load(Ordering::Acquire) != 0
    }
    pub(crate) fn count_mount(&self, more: bool) {
        if more {
            self.mounted.fetch_add(1, Ordering::AcqRel);
        } else {
            self.mounted.fetch_sub(1, Ordering::AcqRel);
        }
    }
    /// Whether a remembered entry has to be asked if it still holds.
    pub(crate) fn is_stale(&self) -> bool {
        self.policy == CachePolicy::Revalidate && self.inode.as_ref().is_none_or(|inode| !inode.is_current())
    }
    /// Whether `ancestor` is this dentry or above it in the same file system.
    #[must_use]
    pub fn is_at_or_below(self: &Arc<Dentry>, ancestor: &Arc<Dentry>) -> bool {
        let mut at = self.clone();
        loop {
            if Arc::ptr_eq(&at, ancestor) {
                return true;
            }
            match at.parent() {
                Some(parent) => at = parent,
                None => return false,
            }
        }
    }

    /// Whether this dentry is above `other` in the same file system.
    #[must_use]
    pub fn is_ancestor_of(self: &Arc<Dentry>, other: &Arc<Dentry>) -> bool {
        !Arc::ptr_eq(self, other) && other.is_at_or_below(self)
    }

    fn dir(&self) -> &Directory {
        self.directory.get_or_init(Box::default)
    }
    /// Keeps names in this directory as they are: held over the file system's lookup, create, unlink and so on.
    pub fn lock_names(&self) -> MutexGuard<'_, ()> {
        self.dir().names.0.lock()
    }
    /// The remembered entry called `name`, negative or not.
    #[must_use]
    pub fn child(&self, name: &[u8]) -> Option<Arc<Dentry>> {
        let child = self.dir().children.lock().get(name).cloned()?;
        if !child.referenced.load(Ordering::Relaxed) {
            child.referenced.store(true, Ordering::Relaxed);
        }
        Some(child)
    }

    /// Remembers what `name` stands for; with names locked. Whatever was remembered before is forgotten.
    pub(crate) fn remember(self: &Arc<Dentry>, name: &[u8], inode: Option<Arc<dyn Inode>>) -> Result<Arc<Dentry>, Errno> {
        let policy = self.expect_inode().cache_policy();
        let name: Name = Arc::from(name);
        let dentry = self.cache.make(Some(self.clone()), name.clone(), inode, policy)?;
        let old = self.dir().children.lock().insert(name, dentry.clone());
        if let Some(old) = old {
            old.unhashed.store(true, Ordering::Release);
        }
        Ok(dentry)
    }
    /// A name here that is in no table: O_TMPFILE.
    pub(crate) fn detached(self: &Arc<Dentry>, name: &[u8], inode: Arc<dyn Inode>) -> Result<Arc<Dentry>, Errno> {
        let dentry = self.cache.make(Some(self.clone()), Arc::from(name), Some(inode), CachePolicy::Cached)?;
        dentry.unhashed.store(true, Ordering::Release);
        Ok(dentry)
    }
    /// Forgets `child` because its name is gone; with names locked. It and what is remembered below it count as deleted.
    pub(crate) fn remove_child(&self, child: &Arc<Dentry>) {
        child.unhashed.store(true, Ordering::Release);
        let name = child.name();
        let old = {
            let mut children = self.dir().children.lock();
            if children.get(&name).is_some_and(|there| Arc::ptr_eq(there, child)) { children.remove(&name) } else { None }
        };
        drop(old);
    }
    /// Moves `child` here under a new name; with the names of both directories locked.
    pub(crate) fn adopt(self: &Arc<Dentry>, child: &Arc<Dentry>, name: &[u8]) {
        let name: Name = Arc::from(name);
        let (old_parent, old_name) = child.place();
        let taken_out = old_parent.as_ref().and_then(|parent| {
            let mut children = parent.dir().children.lock();
            if children.get(&old_name).is_some_and(|there| Arc::ptr_eq(there, child)) { children.remove(&old_name) } else { None }
        });
        let old_place = std::mem::replace(&mut *child.place.lock(), Place { parent: Some(self.clone()), name: name.clone() });
        let replaced = self.dir().children.lock().insert(name, child.clone());
        if let Some(replaced) = &replaced {
            replaced.unhashed.store(true, Ordering::Release);
        }
        drop((taken_out, old_place, replaced));
    }
    /// Lets two children change places (`RENAME_EXCHANGE`); with the names of both directories locked.
    pub(crate) fn exchange(a: &Arc<Dentry>, b: &Arc<Dentry>) {
        let (place_a, place_b) = (a.place(), b.place());
        for (dentry, (parent, name)) in [(a, place_b), (b, place_a)] {
            let displaced = parent.as_ref().and_then(|p| p.dir().children.lock().insert(name.clone(), dentry.clone()));
            let old = std::mem::replace(&mut *dentry.place.lock(), Place { parent, name });
            drop((displaced, old));
        }
    }
    /// Forgets whatever is remembered of `name`.
    pub(crate) fn forget_child(&self, name: &[u8]) {
        let old = self.dir().children.lock().remove(name);
        drop(old);
    }
    /// Forgets everything below, unused or not (the caller knows that nothing is used): breaks the circle of parents and children.
    pub(crate) fn forget_below(&self) {
        let mut stack: Vec<Arc<Dentry>> = Vec::new();
        let take = |dentry: &Dentry, stack: &mut Vec<Arc<Dentry>>| {
            if let Some(directory) = dentry.directory.get() {
                let children = std::mem::take(&mut *directory.children.lock());
                stack.extend(children.into_values());
            }
        };
        take(self, &mut stack);
        while let Some(dentry) = stack.pop() {
            take(&dentry, &mut stack);
        }
    }

    /// Takes itself out of the parent's table if only the table (and the caller) hold it.
    fn forget_if_unused(self: &Arc<Dentry>) -> bool {
        let (Some(parent), name) = self.place() else { return false };
        let taken_out = {
            let mut children = parent.dir().children.lock();
            let there = children.get(&name).is_some_and(|there| Arc::ptr_eq(there, self));
            // The table and the caller. A child would be a third, by its parent pointer.
            if there && Arc::strong_count(self) == 2 { children.remove(&name) } else { None }
        };
        taken_out.is_some()
    }
}

impl Drop for Dentry {
    fn drop(&mut self) {
        let mut clock = self.cache.clock.lock();
        let weak = clock.slots.get_mut(self.slot as usize).and_then(Option::take);
        clock.free.push(self.slot);
        drop(clock);
        drop(weak);
        self.cache.count.fetch_sub(1, Ordering::Relaxed);
        // A loop, not recursion: a guest decides how deep directories are.
        let mut parent = self.place.get_mut().parent.take();
        while let Some(mut last) = parent.take().and_then(Arc::into_inner) {
            parent = last.place.get_mut().parent.take();
        }
    }
}
