//! A machine with a mounted tree, host directories to play with, and random operations made both in the machine and in a plain directory.
#![allow(dead_code, reason = "each test program uses its own part")]

use abi::Errno;
use ram::Ram;
use rustix::fs::{self as host_fs, AtFlags, FileType, Mode, OFlags};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use vfs::{
    Caller, Credentials, FileKind, FileSystem, FsContext, LookupFlags, MountFlags, MountNamespace, OpenFile, OpenFlags, OpenHow, PathAt,
    RenameFlags, SliceSink, SliceSource, Vfs,
};

/// A directory of the host that goes away with the test.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("umlaut-fs-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
    pub fn write(&self, name: &str, data: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), data).unwrap();
    }
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }
    pub fn fd(&self) -> OwnedFd {
        host_fs::open(&self.0, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn scale() -> u64 {
    match std::env::var("UMLAUT_SCALE").as_deref() {
        Ok("full") => 100,
        Ok(number) => number.parse().unwrap_or(1),
        Err(_) => 1,
    }
}

/// A machine whose root is one file system.
pub struct Machine {
    pub vfs: &'static Vfs,
    credentials: Arc<Credentials>,
    fs: Arc<FsContext>,
    namespace: Arc<MountNamespace>,
}

pub fn machine() -> &'static Vfs {
    Vfs::new(Ram::for_tests(64 << 20))
}

impl Machine {
    pub fn new(vfs: &'static Vfs, root: Arc<dyn FileSystem>) -> Machine {
        let mount = vfs.new_mount(root, b"none", MountFlags::empty()).unwrap();
        let namespace = MountNamespace::new(mount.clone());
        let fs = FsContext::new(mount.root_path());
        fs.set_umask(0);
        Machine { vfs, credentials: Arc::new(Credentials::root()), fs, namespace }
    }
    /// A machine of these mounts.
    pub fn of(vfs: &'static Vfs, namespace: Arc<MountNamespace>, root: vfs::Path, directory: vfs::Path) -> Machine {
        let fs = FsContext::new(root);
        fs.set_umask(0);
        fs.set_cwd(directory);
        Machine { vfs, credentials: Arc::new(Credentials::root()), fs, namespace }
    }
    pub fn unmount(&self, path: &str) -> Result<(), Errno> {
        self.caller().unmount(self.path(path)?, vfs::Unmount::IfUnused)
    }
    pub fn caller(&self) -> Caller<'_> {
        Caller { vfs: self.vfs, credentials: &self.credentials, fs: &self.fs, namespace: &self.namespace, file_size_limit: u64::MAX }
    }
    pub fn open(&self, path: &str, flags: OpenFlags) -> Result<Arc<OpenFile>, Errno> {
        self.caller().open(PathAt::cwd(path.as_bytes()), OpenHow::new(flags, 0o644)).map_err(|e| e.errno())
    }
    pub fn read(&self, path: &str) -> Result<Vec<u8>, Errno> {
        read_all(&*self.open(path, OpenFlags::empty())?)
    }
    pub fn write(&self, path: &str, data: &[u8]) -> Result<(), Errno> {
        let file = self.open(path, OpenFlags::WRONLY | OpenFlags::CREAT | OpenFlags::TRUNC)?;
        write_at(&file, 0, data)
    }
    pub fn stat(&self, path: &str) -> Result<vfs::Metadata, Errno> {
        self.caller().stat(PathAt::cwd(path.as_bytes()), LookupFlags::empty()).map_err(|e| e.errno())
    }
    pub fn path(&self, path: &str) -> Result<vfs::Path, Errno> {
        self.caller().lookup(PathAt::cwd(path.as_bytes()), LookupFlags::empty()).map_err(|e| e.errno())
    }
    pub fn names(&self, path: &str) -> Result<Vec<String>, Errno> {
        Ok(self.list(path)?.into_iter().map(|(name, _, _)| name).collect())
    }
    /// Names, kinds and inode numbers, sorted; read a few at a time.
    pub fn list(&self, path: &str) -> Result<Vec<(String, Option<FileKind>, u64)>, Errno> {
        let dir = self.open(path, OpenFlags::DIRECTORY)?;
        let mut out = Vec::new();
        loop {
            let before = out.len();
            dir.readdir(&mut |entry| {
                let room = out.len() - before < 3;
                if room {
                    out.push((String::from_utf8_lossy(entry.name).into_owned(), entry.kind, entry.ino));
                }
                room
            })
            .map_err(|e| e.errno())?;
            if out.len() == before {
                break;
            }
        }
        out.retain(|(name, _, _)| name != "." && name != "..");
        out.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(out)
    }
}

pub fn read_all(file: &OpenFile) -> Result<Vec<u8>, Errno> {
    let mut out = Vec::new();
    loop {
        let mut buffer = [0; 5000];
        let n = file.read_at(out.len() as u64, &mut SliceSink::new(&mut buffer)).map_err(|e| e.errno())?;
        if n == 0 {
            return Ok(out);
        }
        out.extend_from_slice(&buffer[..n]);
    }
}

pub fn write_at(file: &OpenFile, offset: u64, data: &[u8]) -> Result<(), Errno> {
    let n = file.write_at(offset, &mut SliceSource::new(data)).map_err(|e| e.errno())?;
    assert_eq!(n, data.len());
    Ok(())
}

/// A random number generator (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    /// A path of one to three names of a few.
    pub fn path(&mut self) -> String {
        let depth = 1 + self.below(3);
        let names: Vec<&str> = (0..depth).map(|_| ["a", "b", "c", "d"][self.below(4) as usize]).collect();
        names.join("/")
    }
}

#[derive(Clone, Debug)]
pub enum Op {
    Mkdir(String, u32),
    Rmdir(String),
    Create(String, bool, Vec<u8>),
    Write(String, u64, Vec<u8>),
    Truncate(String, u64),
    Unlink(String),
    Rename(String, String, u32),
    Link(String, String),
    Symlink(String, String),
    Chmod(String, u32),
    Chown(String, u32),
    SetTime(String, i64),
}

impl Op {
    pub fn random(random: &mut Random) -> Op {
        let (path, other) = (random.path(), random.path());
        let len = 1 + random.below(9000) as usize;
        let data = vec![random.next() as u8; len];
        match random.below(15) {
            0 | 1 => Op::Mkdir(path, 0o700 + random.below(64) as u32),
            2 => Op::Rmdir(path),
            3 | 4 => Op::Create(path, random.below(2) == 0, data),
            5 => Op::Write(path, random.below(20_000), data),
            6 => Op::Truncate(path, random.below(20_000)),
            7 => Op::Unlink(path),
            8 | 9 => Op::Rename(path, other, random.below(3) as u32),
            10 => Op::Link(path, other),
            11 => Op::Symlink(["a", "b/c", "c"][random.below(3) as usize].to_string(), path),
            12 => Op::Chmod(path, 0o600 + random.below(128) as u32),
            13 => Op::Chown(path, 1000 + random.below(3) as u32),
            _ => Op::SetTime(path, random.below(1 << 30) as i64),
        }
    }

    /// Does it in a plain directory; the number of the error, or 0.
    pub fn on_host(&self, dir: &OwnedFd) -> i32 {
        let result = match self {
            Op::Mkdir(path, mode) => host_fs::mkdirat(dir, path.as_str(), Mode::from_raw_mode(*mode))
                // The umask of the test's process.
                .and_then(|()| host_fs::chmodat(dir, path.as_str(), Mode::from_raw_mode(*mode), AtFlags::empty())),
            Op::Rmdir(path) => host_fs::unlinkat(dir, path.as_str(), AtFlags::REMOVEDIR),
            Op::Create(path, exclusive, data) => {
                let mut flags = OFlags::RDWR | OFlags::CREATE;
                flags.set(OFlags::EXCL, *exclusive);
                let there = host_fs::statat(dir, path.as_str(), AtFlags::empty()).is_ok();
                host_fs::openat(dir, path.as_str(), flags, Mode::from_raw_mode(0o644)).and_then(|fd| {
                    if !there {
                        host_fs::fchmod(&fd, Mode::from_raw_mode(0o644))?;
                    }
                    rustix::io::write(fd, data).map(drop)
                })
            }
            Op::Write(path, offset, data) => host_fs::openat(dir, path.as_str(), OFlags::WRONLY, Mode::empty())
                .and_then(|fd| rustix::io::pwrite(fd, data, *offset).map(drop)),
            Op::Truncate(path, len) => {
                host_fs::openat(dir, path.as_str(), OFlags::WRONLY, Mode::empty()).and_then(|fd| host_fs::ftruncate(fd, *len))
            }
            Op::Unlink(path) => host_fs::unlinkat(dir, path.as_str(), AtFlags::empty()),
            Op::Rename(from, to, flags) => {
                host_fs::renameat_with(dir, from.as_str(), dir, to.as_str(), host_fs::RenameFlags::from_bits_retain(*flags))
            }
            Op::Link(from, to) => host_fs::linkat(dir, from.as_str(), dir, to.as_str(), AtFlags::empty()),
            Op::Symlink(target, path) => host_fs::symlinkat(target.as_str(), dir, path.as_str()),
            Op::Chmod(path, mode) => host_fs::chmodat(dir, path.as_str(), Mode::from_raw_mode(*mode), AtFlags::empty()),
            Op::Chown(path, uid) => {
                host_fs::chownat(dir, path.as_str(), Some(host_fs::Uid::from_raw(*uid)), None, AtFlags::SYMLINK_NOFOLLOW)
            }
            Op::SetTime(path, sec) => {
                let time = host_fs::Timespec { tv_sec: *sec, tv_nsec: 7 };
                let times = host_fs::Timestamps { last_access: time, last_modification: time };
                host_fs::utimensat(dir, path.as_str(), &times, AtFlags::SYMLINK_NOFOLLOW)
            }
        };
        result.err().map_or(0, rustix::io::Errno::raw_os_error)
    }

    /// Does it in the machine.
    pub fn in_machine(&self, machine: &Machine) -> i32 {
        let caller = machine.caller();
        let at = |path: &'_ str| -> Vec<u8> { path.as_bytes().to_vec() };
        let result = match self {
            Op::Mkdir(path, mode) => caller.mkdir(PathAt::cwd(&at(path)), *mode).map(drop),
            Op::Rmdir(path) => caller.rmdir(PathAt::cwd(&at(path))),
            Op::Create(path, exclusive, data) => {
                let mut flags = OpenFlags::RDWR | OpenFlags::CREAT;
                flags.set(OpenFlags::EXCL, *exclusive);
                let opened = caller.open(PathAt::cwd(&at(path)), OpenHow::new(flags, 0o644));
                opened.and_then(|file| file.write(&mut SliceSource::new(data)).map(drop))
            }
            Op::Write(path, offset, data) => {
                let opened = caller.open(PathAt::cwd(&at(path)), OpenHow::new(OpenFlags::WRONLY, 0));
                opened.and_then(|file| file.write_at(*offset, &mut SliceSource::new(data)).map(drop))
            }
            Op::Truncate(path, len) => {
                let opened = caller.open(PathAt::cwd(&at(path)), OpenHow::new(OpenFlags::WRONLY, 0));
                opened.and_then(|file| Ok(caller.truncate_open(file.path(), *len)?))
            }
            Op::Unlink(path) => caller.unlink(PathAt::cwd(&at(path))),
            Op::Rename(from, to, flags) => {
                caller.rename(PathAt::cwd(&at(from)), PathAt::cwd(&at(to)), RenameFlags::from_bits_retain(*flags))
            }
            Op::Link(from, to) => {
                let from = caller.lookup(PathAt::cwd(&at(from)), LookupFlags::empty());
                from.and_then(|from| caller.link(&from, PathAt::cwd(&at(to))))
            }
            Op::Symlink(target, path) => caller.symlink(target.as_bytes(), PathAt::cwd(&at(path))).map(drop),
            Op::Chmod(path, mode) => {
                let path = caller.lookup(PathAt::cwd(&at(path)), LookupFlags::FOLLOW);
                path.and_then(|path| Ok(caller.chmod(&path, *mode)?))
            }
            Op::Chown(path, uid) => {
                let path = caller.lookup(PathAt::cwd(&at(path)), LookupFlags::empty());
                path.and_then(|path| Ok(caller.chown(&path, Some(*uid), None)?))
            }
            Op::SetTime(path, sec) => {
                let time = vfs::SetTime::At(vfs::Timestamp { sec: *sec, nsec: 7 });
                let path = caller.lookup(PathAt::cwd(&at(path)), LookupFlags::empty());
                path.and_then(|path| Ok(caller.utimens(&path, time, time)?))
            }
        };
        result.err().map_or(0, |error| error.errno().raw())
    }
}

/// What a test can see of a file: kind, mode, owner, names (not of directories), contents or target or modification time.
type Seen = (FileKind, u32, u32, u64, Vec<u8>);

/// Everything below a plain directory.
pub fn host_tree(dir: &OwnedFd, prefix: &str, out: &mut BTreeMap<String, Seen>) {
    let at = if prefix.is_empty() { "." } else { prefix };
    let fd = host_fs::openat(dir, at, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    for entry in host_fs::Dir::new(fd).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_str().unwrap();
        if name == "." || name == ".." {
            continue;
        }
        let path = if prefix.is_empty() { name.to_string() } else { format!("{prefix}/{name}") };
        let stat = host_fs::statat(dir, path.as_str(), AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let (mode, uid) = (stat.st_mode & 0o7777, stat.st_uid);
        let seen = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                host_tree(dir, &path, out);
                (FileKind::Directory, mode, uid, 0, Vec::new())
            }
            FileType::Symlink => {
                let target = host_fs::readlinkat(dir, path.as_str(), Vec::new()).unwrap().into_bytes();
                (FileKind::Symlink, 0o777, uid, stat.st_nlink, target)
            }
            _ => {
                let fd = host_fs::openat(dir, path.as_str(), OFlags::RDONLY, Mode::empty()).unwrap();
                let mut data = vec![0; stat.st_size as usize];
                assert_eq!(rustix::io::pread(&fd, &mut data, 0).unwrap(), data.len());
                (FileKind::Regular, mode, uid, stat.st_nlink, data)
            }
        };
        out.insert(path, seen);
    }
}

/// Everything that the machine sees below a directory.
pub fn machine_tree(machine: &Machine, prefix: &str, out: &mut BTreeMap<String, Seen>) {
    for (name, kind, ino) in machine.list(if prefix.is_empty() { "/" } else { prefix }).unwrap() {
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let stat = machine.stat(&path).unwrap();
        assert_eq!((kind, ino), (Some(stat.kind), stat.ino), "readdir and stat of {path}");
        let seen = match stat.kind {
            FileKind::Directory => {
                machine_tree(machine, &path, out);
                (stat.kind, stat.mode, stat.uid, 0, Vec::new())
            }
            FileKind::Symlink => {
                let target = machine.caller().readlink(PathAt::cwd(path.as_bytes())).unwrap().to_vec();
                (stat.kind, 0o777, stat.uid, u64::from(stat.links), target)
            }
            _ => {
                let data = machine.read(&path).unwrap();
                assert_eq!(stat.size_bytes, data.len() as u64, "size of {path}");
                (stat.kind, stat.mode, stat.uid, u64::from(stat.links), data)
            }
        };
        out.insert(path, seen);
    }
}
