//! A task's view of the tree: root, working directory, umask; shared by CLONE_FS.

use crate::credentials::Credentials;
use crate::mount::MountNamespace;
use crate::path::Path;
use crate::vfs::Vfs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use sync::SpinLock;

/// Root, working directory and umask.
pub struct FsContext {
    dirs: SpinLock<Dirs>,
    umask: AtomicU32,
}

#[derive(Clone)]
struct Dirs {
    root: Path,
    cwd: Path,
}

impl FsContext {
    /// A context with both at `root` and umask 022.
    #[must_use]
    pub fn new(root: Path) -> Arc<FsContext> {
        Arc::new(FsContext { dirs: SpinLock::new(Dirs { cwd: root.clone(), root }), umask: AtomicU32::new(0o022) })
    }
    /// A copy of its own, for a fork without CLONE_FS.
    #[must_use]
    pub fn fork(&self) -> Arc<FsContext> {
        let dirs = self.dirs.lock().clone();
        Arc::new(FsContext { dirs: SpinLock::new(dirs), umask: AtomicU32::new(self.umask()) })
    }
    /// The root directory.
    #[must_use]
    pub fn root(&self) -> Path {
        self.dirs.lock().root.clone()
    }
    /// The working directory.
    #[must_use]
    pub fn cwd(&self) -> Path {
        self.dirs.lock().cwd.clone()
    }
    /// Changes the root; the caller checked it.
    pub fn set_root(&self, root: Path) {
        let old = std::mem::replace(&mut self.dirs.lock().root, root);
        drop(old);
    }
    /// Changes the working directory; the caller checked it.
    pub fn set_cwd(&self, cwd: Path) {
        let old = std::mem::replace(&mut self.dirs.lock().cwd, cwd);
        drop(old);
    }
    /// The umask, 0777 at most.
    #[must_use]
    pub fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }
    /// Sets the umask and gives the old one.
    pub fn set_umask(&self, umask: u32) -> u32 {
        self.umask.swap(umask & 0o777, Ordering::Relaxed)
    }
    /// Replaces paths as `translate` says, for a task that gets a namespace of its own or whose root is pivoted.
    pub fn translate(&self, translate: impl Fn(&Path) -> Option<Path>) {
        let dirs = self.dirs.lock().clone();
        if let Some(root) = translate(&dirs.root) {
            self.set_root(root);
        }
        if let Some(cwd) = translate(&dirs.cwd) {
            self.set_cwd(cwd);
        }
    }
}

/// Who asks: everything that a path operation has to know of the calling task.
#[derive(Clone)]
pub struct Caller<'a> {
    pub vfs: &'static Vfs,
    pub credentials: &'a Arc<Credentials>,
    pub fs: &'a FsContext,
    pub namespace: &'a Arc<MountNamespace>,
    /// RLIMIT_FSIZE and the like are the caller's own business; this one counts: the most bytes a file may be made to hold.
    pub file_size_limit: u64,
}

/// `/proc/sys/fs/protected_*`: what is refused in sticky directories that others may write to, proc_sys_fs(5). All off at start, as in Linux.
#[derive(Default)]
pub struct Protections {
    /// Following others' symbolic links there.
    pub symlinks: AtomicU32,
    /// Linking to files that one could not write to, anywhere.
    pub hardlinks: AtomicU32,
    /// Opening others' FIFOs there with O_CREAT: 1 world-writable directories, 2 group-writable ones too.
    pub fifos: AtomicU32,
    /// The same for regular files.
    pub regular: AtomicU32,
}
