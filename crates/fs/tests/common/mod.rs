//! A machine with a tmpfs as its root, and short ways to say what a task does on it.
#![allow(dead_code, reason = "each test file uses some of it")]

use abi::{Errno, SysError, SysResult};
use ram::Ram;
use std::sync::Arc;
use vfs::{
    Caller, Credentials, FsContext, LookupFlags, Metadata, MountFlags, MountNamespace, OpenFile, OpenFlags, OpenHow, PathAt, SliceSink,
    SliceSource, Vfs,
};

pub struct Machine {
    pub vfs: &'static Vfs,
    pub namespace: Arc<MountNamespace>,
    pub fs: Arc<FsContext>,
    pub credentials: Arc<Credentials>,
}

impl Machine {
    pub fn new() -> Machine {
        Machine::with_ram(32 << 20)
    }
    pub fn with_ram(len_bytes: usize) -> Machine {
        let ram = Ram::for_tests(len_bytes);
        let vfs = Vfs::new(ram);
        vfs.register_type(Arc::new(fs::tmpfs::TmpfsType::TMPFS));
        let root = fs::tmpfs::Tmpfs::new(ram, "rootfs", fs::tmpfs::Options::default()).unwrap();
        let mount = vfs.new_mount(root, b"rootfs", MountFlags::empty()).unwrap();
        let namespace = MountNamespace::new(mount.clone());
        let fs = FsContext::new(mount.root_path());
        Machine { vfs, namespace, fs, credentials: Arc::new(Credentials::root()) }
    }
    /// The same machine, seen by somebody else.
    pub fn user(&self, uid: u32, gid: u32) -> Machine {
        let credentials = Arc::new(Credentials::user(uid, gid, vfs::CapabilitySet::EMPTY));
        Machine { vfs: self.vfs, namespace: self.namespace.clone(), fs: self.fs.fork(), credentials }
    }
    pub fn caller(&self) -> Caller<'_> {
        Caller { vfs: self.vfs, credentials: &self.credentials, fs: &self.fs, namespace: &self.namespace, file_size_limit: u64::MAX }
    }
    pub fn open(&self, path: &str, flags: OpenFlags) -> SysResult<Arc<OpenFile>> {
        self.caller().open(PathAt::cwd(path.as_bytes()), OpenHow::new(flags, 0o644))
    }
    pub fn mkdir(&self, path: &str) -> Result<(), Errno> {
        self.caller().mkdir(PathAt::cwd(path.as_bytes()), 0o755).map(drop).map_err(SysError::errno)
    }
    pub fn write(&self, path: &str, data: &[u8]) -> Result<(), Errno> {
        let file = self.open(path, OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC).map_err(SysError::errno)?;
        let n = file.write(&mut SliceSource::new(data)).map_err(SysError::errno)?;
        assert_eq!(n, data.len());
        Ok(())
    }
    pub fn read(&self, path: &str) -> Result<Vec<u8>, Errno> {
        let file = self.open(path, OpenFlags::empty()).map_err(SysError::errno)?;
        read_all(&file).map_err(SysError::errno)
    }
    pub fn stat(&self, path: &str) -> Result<Metadata, Errno> {
        self.caller().stat(PathAt::cwd(path.as_bytes()), LookupFlags::FOLLOW).map_err(SysError::errno)
    }
    pub fn lstat(&self, path: &str) -> Result<Metadata, Errno> {
        self.caller().stat(PathAt::cwd(path.as_bytes()), LookupFlags::empty()).map_err(SysError::errno)
    }
    pub fn symlink(&self, target: &str, path: &str) -> Result<(), Errno> {
        self.caller().symlink(target.as_bytes(), PathAt::cwd(path.as_bytes())).map(drop).map_err(SysError::errno)
    }
    pub fn unlink(&self, path: &str) -> Result<(), Errno> {
        self.caller().unlink(PathAt::cwd(path.as_bytes())).map_err(SysError::errno)
    }
    pub fn rmdir(&self, path: &str) -> Result<(), Errno> {
        self.caller().rmdir(PathAt::cwd(path.as_bytes())).map_err(SysError::errno)
    }
    pub fn rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        let flags = vfs::RenameFlags::empty();
        self.caller().rename(PathAt::cwd(from.as_bytes()), PathAt::cwd(to.as_bytes()), flags).map_err(SysError::errno)
    }
    pub fn link(&self, from: &str, to: &str) -> Result<(), Errno> {
        let from = self.caller().lookup(PathAt::cwd(from.as_bytes()), LookupFlags::empty()).map_err(SysError::errno)?;
        self.caller().link(&from, PathAt::cwd(to.as_bytes())).map_err(SysError::errno)
    }
    pub fn names(&self, path: &str) -> Result<Vec<String>, Errno> {
        let file = self.open(path, OpenFlags::DIRECTORY).map_err(SysError::errno)?;
        let mut names = Vec::new();
        file.readdir(&mut |entry| {
            names.push(String::from_utf8_lossy(entry.name).into_owned());
            true
        })
        .map_err(SysError::errno)?;
        Ok(names)
    }
    pub fn mount(&self, kind: &str, target: &str, flags: MountFlags, data: &str) -> Result<(), Errno> {
        self.mount_from("none", kind, target, flags, data)
    }
    pub fn mount_from(&self, source: &str, kind: &str, target: &str, flags: MountFlags, data: &str) -> Result<(), Errno> {
        let target = PathAt::cwd(target.as_bytes());
        self.caller().mount(source.as_bytes(), target, kind.as_bytes(), flags, data.as_bytes()).map_err(SysError::errno)
    }
    pub fn umount(&self, path: &str, how: vfs::Unmount) -> Result<(), Errno> {
        let path = self.caller().lookup(PathAt::cwd(path.as_bytes()), LookupFlags::FOLLOW).map_err(SysError::errno)?;
        self.caller().unmount(path, how)
    }
}

pub fn read_all(file: &OpenFile) -> SysResult<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let mut buffer = vec![0; 65536];
        let n = file.read(&mut SliceSink::new(&mut buffer))?;
        if n == 0 {
            return Ok(all);
        }
        all.extend_from_slice(&buffer[..n]);
    }
}
pub fn read_some(file: &OpenFile, len: usize) -> SysResult<Vec<u8>> {
    let mut buffer = vec![0; len];
    let n = file.read(&mut SliceSink::new(&mut buffer))?;
    buffer.truncate(n);
    Ok(buffer)
}
pub fn write(file: &OpenFile, data: &[u8]) -> SysResult<usize> {
    file.write(&mut SliceSource::new(data))
}
