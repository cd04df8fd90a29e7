//! `/proc`, proc(5).
//!
//! Three kinds of content: files that a crate registers once ([`Proc::tree`]), the directories of processes (`process`), which get theirs from files
//! that are registered for every process ([`Proc::process_file`]) and from what a [`ProcessSource`] tells, and the system's own (`system`, `sysctl`).
//!
//! What it is not: anything about processes; `task` knows them and is asked.

mod mounts;
mod process;
mod sysctl;
mod system;

pub use process::{ProcessFile, ProcessSource, ProcessView, Scope};
pub use sysctl::{Setting, register_sysctls};
pub use system::{SystemInfo, register_system};

use crate::kernfs::Node;
use abi::{Errno, PAGE_SIZE};
use process::Processes;
use std::sync::{Arc, OnceLock, Weak};
use vfs::{FileSystem, FileSystemType, Inode, Mount, MountFlags, MountRequest, Path, StatFs, Vfs};

/// `PROC_SUPER_MAGIC`.
const PROC_MAGIC: u64 = 0x9fa0;
/// `PROC_ROOT_INO`.
const ROOT_INO: u64 = 1;

/// The file system `proc` of one machine, and its type.
pub struct Proc {
    tree: OnceLock<Arc<Node>>,
    processes: Arc<Processes>,
    vfs: &'static Vfs,
    /// The kernel's own mount, for nodes that are in no directory.
    mount: OnceLock<Arc<Mount>>,
    this: Weak<Proc>,
}

impl Proc {
    /// A `/proc` with the system's own files and those of every process. Register it as a type to make it mountable.
    #[must_use]
    pub fn new(vfs: &'static Vfs) -> Arc<Proc> {
        let proc = Arc::new_cyclic(|this: &Weak<Proc>| Proc {
            tree: OnceLock::new(),
            processes: Processes::new(this.clone()),
            vfs,
            mount: OnceLock::new(),
            this: this.clone(),
        });
        let file_system: Weak<dyn FileSystem> = proc.this.clone();
        let _ = proc.tree.set(Node::root(file_system, ROOT_INO, Some(proc.processes.clone())));
        process::register_links(&proc);
        process::register_files(&proc);
        system::register_basics(&proc, vfs);
        proc
    }
    /// The root, to hang files on.
    #[must_use]
    pub fn tree(&self) -> &Arc<Node> {
        self.tree.get().unwrap_or_else(|| unreachable!("made in new"))
    }
    /// A path to a node that is in no directory: what `ns/NAME` leads to.
    fn detached(&self, node: Arc<Node>) -> Result<Path, Errno> {
        let mount = match self.mount.get() {
            Some(mount) => mount,
            None => {
                let this: Arc<dyn FileSystem> = self.this.upgrade().ok_or(Errno::ENODEV)?;
                let mount = self.vfs.new_mount(this, b"proc", MountFlags::NOATIME)?;
                self.mount.get_or_init(|| mount)
            }
        };
        self.vfs.detached_path(mount, b"ns", node)
    }
    /// Tells who knows the processes: once. Before, there are none.
    pub fn set_source(&self, source: Arc<dyn ProcessSource>) {
        self.processes.set_source(source);
    }
    /// Who knows the processes.
    #[must_use]
    pub fn source(&self) -> Option<Arc<dyn ProcessSource>> {
        self.processes.source()
    }
    /// Adds a file to the directory of every process, thread, or both. A second one of the same name replaces the first.
    pub fn process_file(&self, file: ProcessFile) {
        self.processes.add_file(file);
    }
}

impl FileSystem for Proc {
    fn root(&self) -> Arc<dyn Inode> {
        self.tree().clone()
    }
    fn type_name(&self) -> &'static str {
        "proc"
    }
    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs { magic: PROC_MAGIC, block_size_bytes: PAGE_SIZE as u64, name_max: 255, ..StatFs::default() })
    }
}

impl FileSystemType for Proc {
    fn name(&self) -> &'static str {
        "proc"
    }
    /// Options (`hidepid=`, `gid=`, `subset=`) are taken and change nothing.
    fn mount(&self, _: &MountRequest<'_>) -> Result<Arc<dyn FileSystem>, Errno> {
        let this: Arc<dyn FileSystem> = self.this.upgrade().ok_or(Errno::ENODEV)?;
        Ok(this)
    }
}
