//! devtmpfs: a tmpfs in which device nodes appear and disappear with their devices. There is one instance, mounted as often as one likes.
//!
//! What it is not: udev. Nodes belong to root with the mode that their driver says; links, groups and permissions are user space's.
//!
//! Always true: a node that somebody else made or replaced is left alone when its device goes.

use crate::tmpfs::{Options, Tmpfs};
use abi::{Errno, SysResult};
use std::sync::Arc;
use vfs::{
    Caller, Credentials, DeviceAction, DeviceInfo, DeviceKind, DeviceSubscriber, FileKind, FileSystem, FileSystemType, FsContext,
    LookupFlags, MountFlags, MountNamespace, MountRequest, PathAt, Vfs,
};

/// The type `devtmpfs`.
pub struct Devtmpfs {
    tmpfs: Arc<Tmpfs>,
    nodes: Arc<Nodes>,
}

/// The kernel's own mount of it, through which nodes are made.
struct Nodes {
    vfs: &'static Vfs,
    credentials: Arc<Credentials>,
    fs: Arc<FsContext>,
    namespace: Arc<MountNamespace>,
}

impl Devtmpfs {
    /// The instance of this machine, holding a node for every device from now on. Register it as a type to make it mountable.
    pub fn new(vfs: &'static Vfs) -> Result<Arc<Devtmpfs>, Errno> {
        let tmpfs = Tmpfs::new(vfs.ram(), "devtmpfs", Options { mode: Some(0o755), ..Options::default() })?;
        let mount = vfs.new_mount(tmpfs.clone(), b"devtmpfs", MountFlags::empty())?;
        let fs = FsContext::new(mount.root_path());
        fs.set_umask(0);
        let namespace = MountNamespace::new(mount);
        let nodes = Arc::new(Nodes { vfs, credentials: Arc::new(Credentials::root()), fs, namespace });
        vfs.devices.subscribe(nodes.clone());
        Ok(Arc::new(Devtmpfs { tmpfs, nodes }))
    }
    /// The file system, to be mounted without mount(2).
    #[must_use]
    pub fn file_system(&self) -> Arc<dyn FileSystem> {
        self.tmpfs.clone()
    }
    /// Who makes its nodes: to make links in it (`fd`, `stdin`) before user space runs.
    #[must_use]
    pub fn caller(&self) -> Caller<'_> {
        self.nodes.caller()
    }
}

impl FileSystemType for Devtmpfs {
    fn name(&self) -> &'static str {
        "devtmpfs"
    }
    fn mount(&self, _: &MountRequest<'_>) -> Result<Arc<dyn FileSystem>, Errno> {
        Ok(self.tmpfs.clone())
    }
}

impl Nodes {
    fn caller(&self) -> Caller<'_> {
        Caller { vfs: self.vfs, credentials: &self.credentials, fs: &self.fs, namespace: &self.namespace, file_size_limit: u64::MAX }
    }
    fn kind(info: &DeviceInfo) -> FileKind {
        match info.kind {
            DeviceKind::Char => FileKind::CharDevice,
            DeviceKind::Block => FileKind::BlockDevice,
        }
    }
    fn add(&self, info: &DeviceInfo) -> SysResult<()> {
        let caller = self.caller();
        for (at, _) in info.name.match_indices('/') {
            let dir = info.name.get(..at).unwrap_or_default();
            match caller.mkdir(PathAt::cwd(dir.as_bytes()), 0o755) {
                Ok(_) => {}
                Err(error) if error.errno() == Errno::EEXIST => {}
                Err(error) => return Err(error),
            }
        }
        let mode = if info.mode == 0 { 0o600 } else { info.mode };
        caller.mknod(PathAt::cwd(info.name.as_bytes()), Self::kind(info), mode, info.number)?;
        Ok(())
    }
    fn remove(&self, info: &DeviceInfo) -> SysResult<()> {
        let caller = self.caller();
        let path = PathAt::cwd(info.name.as_bytes());
        let there = caller.stat(path, LookupFlags::empty())?;
        if there.kind != Self::kind(info) || there.rdev != info.number {
            return Ok(());
        }
        caller.unlink(path)?;
        // Directories that held nothing else go too, from the innermost out.
        for (at, _) in info.name.rmatch_indices('/') {
            caller.rmdir(PathAt::cwd(info.name.get(..at).unwrap_or_default().as_bytes()))?;
        }
        Ok(())
    }
}

impl DeviceSubscriber for Nodes {
    fn device(&self, action: DeviceAction, info: &DeviceInfo, _: u64) {
        let result = match action {
            DeviceAction::Add => self.add(info),
            DeviceAction::Remove => self.remove(info),
            DeviceAction::Change => Ok(()),
        };
        let expected = [Errno::ENOENT, Errno::ENOTEMPTY, Errno::EEXIST];
        if let Err(error) = result
            && !expected.contains(&error.errno())
        {
            self.vfs.log.print(4, &format!("devtmpfs: {} {}: {}", action.name(), info.name, error.errno()));
        }
    }
}
