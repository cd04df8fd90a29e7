//! Mounts: a superblock's tree, or a part of it, put at a place of another mount. mount_namespaces(7).
//!
//! What it is not: the operations that change the tree (`mounting`).
//!
//! Always true: the tree of mounts changes only under [`crate::Vfs`]'s mount lock. A mount that is in the tree is in its parent's table under the
//! dentry that it covers, and that dentry's count says so; a path walk needs no lock but that table's.

use crate::dentry::Dentry;
use crate::filesystem::FileSystem;
use crate::flags::MountFlags;
use crate::path::Path;
use crate::types::DeviceNumber;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use sync::{Events, SpinLock, WaitQueue};

/// A file system in use: its dentry tree and device number. Lives while a mount or an open file needs it.
pub struct SuperBlock {
    file_system: Arc<dyn FileSystem>,
    root: Arc<Dentry>,
    dev: DeviceNumber,
    flags: AtomicU32,
}

impl SuperBlock {
    pub(crate) fn new(file_system: Arc<dyn FileSystem>, root: Arc<Dentry>, dev: DeviceNumber, flags: MountFlags) -> SuperBlock {
        SuperBlock { file_system, root, dev, flags: AtomicU32::new(flags.bits()) }
    }
    /// The file system.
    #[must_use]
    pub fn file_system(&self) -> &Arc<dyn FileSystem> {
        &self.file_system
    }
    /// Dentry of its root directory.
    #[must_use]
    pub fn root(&self) -> &Arc<Dentry> {
        &self.root
    }
    /// `st_dev` of its files.
    #[must_use]
    pub fn dev(&self) -> DeviceNumber {
        self.dev
    }
    /// Flags of all its mounts: [`MountFlags::RDONLY`], [`MountFlags::SYNCHRONOUS`], ...
    #[must_use]
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_retain(self.flags.load(Ordering::Relaxed)) | self.file_system.flags()
    }
    pub(crate) fn set_flags(&self, flags: MountFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }
}

impl Drop for SuperBlock {
    fn drop(&mut self) {
        self.root.forget_below();
        // Nobody is left to tell of an error.
        let _ = self.file_system.sync();
        self.file_system.unmount();
    }
}

/// How mounts and unmounts below a mount spread to others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Propagation {
    /// Peer group that events are shared with; 0: private.
    pub group: u64,
    /// Peer group that events are received from; 0: not a slave.
    pub master: u64,
    /// May not be bind-mounted.
    pub unbindable: bool,
}

#[derive(Default)]
pub(crate) struct MountPlace {
    /// Where it is mounted; `None` for the root of a namespace and for detached mounts.
    pub at: Option<Path>,
    /// Namespace it is in; 0: none.
    pub namespace: u64,
    pub propagation: Propagation,
}

/// A mount.
pub struct Mount {
    id: u64,
    superblock: Arc<SuperBlock>,
    root: Arc<Dentry>,
    source: Arc<[u8]>,
    flags: AtomicU32,
    pub(crate) place: SpinLock<MountPlace>,
    /// Mounts on dentries of this one, by the dentry's address.
    pub(crate) children: SpinLock<HashMap<usize, Arc<Mount>>>,
    _charge: Option<ram::Charge>,
}

static NEXT_MOUNT_ID: AtomicU64 = AtomicU64::new(1);

/// Flags that belong to the mount, not to the superblock.
pub const PER_MOUNT: MountFlags = MountFlags::RDONLY
    .union(MountFlags::NOSUID)
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC)
    .union(MountFlags::NOATIME)
    .union(MountFlags::NODIRATIME)
    .union(MountFlags::RELATIME)
    .union(MountFlags::STRICTATIME)
    .union(MountFlags::NOSYMFOLLOW);

impl Mount {
    /// A mount of the part of `superblock` below `root`, not in any tree yet.
    #[must_use]
    pub fn new(
        superblock: Arc<SuperBlock>,
        root: Arc<Dentry>,
        source: Arc<[u8]>,
        flags: MountFlags,
        charge: Option<ram::Charge>,
    ) -> Arc<Mount> {
        Arc::new(Mount {
            id: NEXT_MOUNT_ID.fetch_add(1, Ordering::Relaxed),
            superblock,
            root,
            source,
            flags: AtomicU32::new(flags.intersection(PER_MOUNT).bits()),
            place: SpinLock::default(),
            children: SpinLock::default(),
            _charge: charge,
        })
    }
    /// Number of the mount in `/proc/self/mountinfo`.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }
    /// What is mounted.
    #[must_use]
    pub fn superblock(&self) -> &Arc<SuperBlock> {
        &self.superblock
    }
    /// The directory (or file, for a bind mount of one) that appears at the mount point.
    #[must_use]
    pub fn root(&self) -> &Arc<Dentry> {
        &self.root
    }
    /// The path of its root.
    #[must_use]
    pub fn root_path(self: &Arc<Mount>) -> Path {
        Path { mount: self.clone(), dentry: self.root.clone() }
    }
    /// What mount(2) was told to mount.
    #[must_use]
    pub fn source(&self) -> &Arc<[u8]> {
        &self.source
    }
    /// Its own flags.
    #[must_use]
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }
    pub(crate) fn set_flags(&self, flags: MountFlags) {
        self.flags.store(flags.intersection(PER_MOUNT).bits(), Ordering::Relaxed);
    }
    /// Its own flags and its superblock's.
    #[must_use]
    pub fn all_flags(&self) -> MountFlags {
        self.flags() | self.superblock.flags()
    }
    /// Whether nothing may be written through it.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.all_flags().contains(MountFlags::RDONLY)
    }
    /// Where it is mounted; `None` for the root of a namespace and for a detached mount.
    #[must_use]
    pub fn mountpoint(&self) -> Option<Path> {
        self.place.lock().at.clone()
    }
    /// How events spread.
    #[must_use]
    pub fn propagation(&self) -> Propagation {
        self.place.lock().propagation
    }
    /// Number of the namespace it is in; 0: none.
    #[must_use]
    pub fn namespace_id(&self) -> u64 {
        self.place.lock().namespace
    }
    /// The mount that covers `dentry` of this mount.
    #[must_use]
    pub fn child_at(&self, dentry: &Arc<Dentry>) -> Option<Arc<Mount>> {
        self.children.lock().get(&(Arc::as_ptr(dentry) as usize)).cloned()
    }
    /// All mounts on this one, oldest first.
    #[must_use]
    pub fn submounts(&self) -> Vec<Arc<Mount>> {
        let mut mounts: Vec<_> = self.children.lock().values().cloned().collect();
        mounts.sort_by_key(|m| m.id);
        mounts
    }
}

/// A tree of mounts that a group of processes sees.
pub struct MountNamespace {
    id: u64,
    pub(crate) root: SpinLock<Arc<Mount>>,
    events: AtomicU64,
    changed: Arc<WaitQueue>,
}

static NEXT_NAMESPACE_ID: AtomicU64 = AtomicU64::new(1);

impl MountNamespace {
    /// A namespace whose tree starts at `root`.
    #[must_use]
    pub fn new(root: Arc<Mount>) -> Arc<MountNamespace> {
        let id = NEXT_NAMESPACE_ID.fetch_add(1, Ordering::Relaxed);
        root.place.lock().namespace = id;
        Arc::new(MountNamespace { id, root: SpinLock::new(root), events: AtomicU64::new(0), changed: Arc::new(WaitQueue::new()) })
    }
    /// A number that no other namespace of mounts has.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }
    /// The mount at its root.
    #[must_use]
    pub fn root(&self) -> Arc<Mount> {
        self.root.lock().clone()
    }
    /// Every mount, parents before children.
    #[must_use]
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        let mut all = vec![self.root()];
        let mut at = 0;
        while let Some(mount) = all.get(at) {
            let below = mount.submounts();
            all.extend(below);
            at += 1;
        }
        all
    }
    /// Counts changes of the tree; `/proc/self/mounts` polls as changed when it moved.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Acquire)
    }
    /// Told when the tree changes.
    #[must_use]
    pub fn changed(&self) -> &Arc<WaitQueue> {
        &self.changed
    }
    pub(crate) fn note_change(&self) {
        self.events.fetch_add(1, Ordering::AcqRel);
        self.changed.notify(Events::PRI | Events::ERR);
    }
}

impl Drop for MountNamespace {
    fn drop(&mut self) {
        let root = self.root.get_mut().clone();
        crate::mounting::dissolve(&root);
    }
}
