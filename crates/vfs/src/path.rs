//! A place in the tree of names: a mount and a dentry in it.

use crate::dentry::Dentry;
use crate::inode::Inode;
use crate::mount::Mount;
use std::sync::Arc;

/// A mount and a dentry of its file system. Holding one keeps both in use: the mount can't be unmounted (but lazily).
#[derive(Clone)]
pub struct Path {
    pub mount: Arc<Mount>,
    /// Positive, always.
    pub dentry: Arc<Dentry>,
}

impl Path {
    /// The file.
    #[must_use]
    pub fn inode(&self) -> &Arc<dyn Inode> {
        self.dentry.expect_inode()
    }
    /// Whether this is the root of its mount.
    #[must_use]
    pub fn is_mount_root(&self) -> bool {
        Arc::ptr_eq(&self.dentry, self.mount.root())
    }
}

impl PartialEq for Path {
    fn eq(&self, other: &Path) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && Arc::ptr_eq(&self.dentry, &other.dentry)
    }
}
impl Eq for Path {}

impl std::fmt::Debug for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Path({}:{})", self.mount.id(), String::from_utf8_lossy(&self.dentry.name()))
    }
}
