//! devpts: the directory of pseudoterminals' slaves, and the multiplexer `ptmx` that makes pairs.
//!
//! What it is not: what a pair does ([`crate::pty`]).
//!
//! Always true: a number is taken until both ends are closed, and its name is there while the master is open. Every mount is an instance of its
//! own with numbers of its own. `/dev/ptmx` makes pairs in the devpts that is mounted on `pts` beside it.
//!
//! Source: Linux Documentation/filesystems/devpts.rst, pts(4).

use crate::pty::{Home, Pty, SLAVE_MAJOR};
use crate::terminal::{Jobs, Tty};
use abi::{Errno, PAGE_SIZE, SysResult};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use sync::SpinLock;
use vfs::{
    Attachments, CachePolicy, Device, DeviceInfo, DeviceKind, DeviceNumber, DirEntry, Emit, FileKind, FileOps, FileSystem, FileSystemType,
    Inode, Metadata, MountFlags, MountRequest, Open, Owner, SetAttr, StatFs, Timestamp, Vfs,
};

/// `DEVPTS_SUPER_MAGIC`.
const MAGIC: u64 = 0x1cd1;
/// Pairs of an instance, unless `max=` says less: `kernel.pty.max`.
const MAX_PAIRS: u32 = 4096;
const PTMX: DeviceNumber = DeviceNumber::new(5, 2);
const ROOT_INO: u64 = 1;
const PTMX_INO: u64 = 2;
/// Slave N has inode number N + 3, as on Linux.
const FIRST_SLAVE_INO: u64 = 3;

/// Mount options.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Options {
    uid: Option<u32>,
    gid: Option<u32>,
    mode: u32,
    ptmx_mode: u32,
    max: u32,
}

impl Options {
    fn parse(data: &[u8]) -> Result<Options, Errno> {
        let mut options = Options { uid: None, gid: None, mode: 0o600, ptmx_mode: 0, max: MAX_PAIRS };
        let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
        for option in text.split(',').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let number = |radix| u32::from_str_radix(value, radix).map_err(|_| Errno::EINVAL);
            match name {
                "uid" => options.uid = Some(number(10)?),
                "gid" => options.gid = Some(number(10)?),
                "mode" => options.mode = number(8)? & 0o7777,
                "ptmxmode" => options.ptmx_mode = number(8)? & 0o7777,
                "max" => options.max = Some(number(10)?).filter(|max| *max <= 1 << 20).ok_or(Errno::EINVAL)?,
                "newinstance" => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(options)
    }
}

/// What a node of the directory is.
enum Body {
    Root,
    Ptmx,
    Slave(Arc<Pty>),
}

/// The directory, the multiplexer or a slave.
struct Node {
    body: Body,
    metadata: SpinLock<Metadata>,
    devpts: Weak<DevPts>,
    attachments: Attachments,
}

struct Pairs {
    nodes: BTreeMap<u32, Arc<Node>>,
    /// Numbers whose masters are closed while slaves are open.
    nameless: BTreeMap<u32, Arc<Node>>,
    options: Options,
}

/// An instance of the file system.
pub struct DevPts {
    jobs: Arc<dyn Jobs>,
    root: Arc<Node>,
    ptmx: Arc<Node>,
    pairs: SpinLock<Pairs>,
    me: Weak<DevPts>,
}

impl DevPts {
    fn new(jobs: Arc<dyn Jobs>, options: Options) -> Arc<DevPts> {
        Arc::new_cyclic(|me: &Weak<DevPts>| {
            let node = |body, kind, ino, mode, rdev| Node::new(body, kind, ino, Owner { mode, uid: 0, gid: 0 }, rdev, me.clone());
            DevPts {
                jobs,
                root: node(Body::Root, FileKind::Directory, ROOT_INO, 0o755, DeviceNumber::NONE),
                ptmx: node(Body::Ptmx, FileKind::CharDevice, PTMX_INO, options.ptmx_mode, PTMX),
                pairs: SpinLock::new(Pairs { nodes: BTreeMap::new(), nameless: BTreeMap::new(), options }),
                me: me.clone(),
            }
        })
    }

    /// A new pair, its master open. ENOSPC when no number is free.
    fn open_master(&self, open: &Open<'_>) -> SysResult<Arc<dyn FileOps>> {
        let me: Arc<dyn Home> = self.me.upgrade().ok_or(Errno::ENODEV)?;
        let mut pairs = self.pairs.lock();
        let options = pairs.options;
        let free = (0..options.max).find(|index| !pairs.nodes.contains_key(index) && !pairs.nameless.contains_key(index));
        let index = free.ok_or(Errno::ENOSPC)?;
        let pty = Pty::new(index, self.jobs.clone(), Arc::downgrade(&me));
        let owner = Owner {
            mode: options.mode,
            uid: options.uid.unwrap_or(open.credentials.fsuid),
            gid: options.gid.unwrap_or(open.credentials.fsgid),
        };
        let ino = FIRST_SLAVE_INO + u64::from(index);
        let node = Node::new(Body::Slave(pty.clone()), FileKind::CharDevice, ino, owner, pty.number(), self.me.clone());
        pairs.nodes.insert(index, node);
        drop(pairs);
        Ok(pty.master_file())
    }
}

impl Home for DevPts {
    fn unlist(&self, index: u32) {
        let mut pairs = self.pairs.lock();
        if let Some(node) = pairs.nodes.remove(&index) {
            pairs.nameless.insert(index, node);
        }
    }
    fn forget(&self, index: u32) {
        let gone = {
            let mut pairs = self.pairs.lock();
            (pairs.nodes.remove(&index), pairs.nameless.remove(&index))
        };
        drop(gone);
    }
}

impl FileSystem for DevPts {
    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }
    fn type_name(&self) -> &'static str {
        "devpts"
    }
    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs { magic: MAGIC, block_size_bytes: PAGE_SIZE as u64, name_max: 255, ..StatFs::default() })
    }
    fn remount(&self, _: MountFlags, data: &[u8]) -> Result<(), Errno> {
        let options = Options::parse(data)?;
        self.pairs.lock().options = options;
        self.ptmx.metadata.lock().mode = options.ptmx_mode;
        Ok(())
    }
    fn show_options(&self) -> String {
        let options = self.pairs.lock().options;
        let id = |name, id: Option<u32>| id.map_or(String::new(), |id| format!(",{name}={id}"));
        let max = if options.max == MAX_PAIRS { String::new() } else { format!(",max={}", options.max) };
        let (uid, gid) = (id("uid", options.uid), id("gid", options.gid));
        format!("{uid}{gid},mode={:03o},ptmxmode={:03o}{max}", options.mode, options.ptmx_mode)
    }
}

impl Node {
    fn new(body: Body, kind: FileKind, ino: u64, owner: Owner, rdev: DeviceNumber, devpts: Weak<DevPts>) -> Arc<Node> {
        let metadata =
            Metadata { uid: owner.uid, gid: owner.gid, rdev, created: None, block_size_bytes: 1024, ..Metadata::new(kind, ino, owner) };
        Arc::new(Node { body, metadata: SpinLock::new(metadata), devpts, attachments: Attachments::new() })
    }
    fn devpts(&self) -> Result<Arc<DevPts>, Errno> {
        self.devpts.upgrade().ok_or(Errno::ENODEV)
    }
}

impl Inode for Node {
    fn metadata(&self) -> Result<Metadata, Errno> {
        Ok(*self.metadata.lock())
    }
    fn kind(&self) -> FileKind {
        self.metadata.lock().kind
    }
    fn ino(&self) -> u64 {
        self.metadata.lock().ino
    }
    fn owner(&self) -> Owner {
        let metadata = self.metadata.lock();
        Owner { mode: metadata.mode, uid: metadata.uid, gid: metadata.gid }
    }
    fn file_system(&self) -> Arc<dyn FileSystem> {
        // Whoever uses an inode holds a mount of its file system.
        self.devpts.upgrade().unwrap_or_else(|| unreachable!("an inode is used through a mount"))
    }
    fn attachments(&self) -> &Attachments {
        &self.attachments
    }
    fn cache_policy(&self) -> CachePolicy {
        CachePolicy::Revalidate
    }
    fn is_current(&self) -> bool {
        let Body::Slave(pty) = &self.body else { return true };
        let Some(devpts) = self.devpts.upgrade() else { return false };
        let there = devpts.pairs.lock().nodes.get(&pty.index()).cloned();
        there.is_some_and(|node| std::ptr::eq(&*node, self))
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let Body::Root = self.body else { return Err(Errno::ENOTDIR) };
        let devpts = self.devpts()?;
        if name == b"ptmx" {
            return Ok(devpts.ptmx.clone());
        }
        let index = std::str::from_utf8(name).ok().and_then(|name| name.parse::<u32>().ok()).ok_or(Errno::ENOENT)?;
        if index.to_string().as_bytes() != name {
            return Err(Errno::ENOENT);
        }
        let node = devpts.pairs.lock().nodes.get(&index).cloned();
        Ok(node.ok_or(Errno::ENOENT)?)
    }
    fn readdir(&self, from: u64, emit: Emit<'_>) -> Result<(), Errno> {
        let Body::Root = self.body else { return Err(Errno::ENOTDIR) };
        let indices: Vec<u32> = self.devpts()?.pairs.lock().nodes.keys().copied().collect();
        // Cookies: 3 is ptmx, slave N is N + 4.
        let ptmx = (3, "ptmx".to_owned(), PTMX_INO);
        let slaves = indices.into_iter().map(|index| (u64::from(index) + 4, index.to_string(), FIRST_SLAVE_INO + u64::from(index)));
        for (cookie, name, ino) in std::iter::once(ptmx).chain(slaves).filter(|entry| entry.0 >= from) {
            if !emit(DirEntry { name: name.as_bytes(), ino, kind: Some(FileKind::CharDevice), next: cookie + 1 }) {
                break;
            }
        }
        Ok(())
    }
    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        change.apply(&mut self.metadata.lock());
        Ok(())
    }
    fn touch_accessed(&self, _: vfs::AccessPolicy) {
        self.metadata.lock().accessed = Timestamp::now();
    }
    fn opens_itself(&self) -> bool {
        !matches!(self.body, Body::Root)
    }
    fn open(self: Arc<Self>, open: &Open<'_>) -> SysResult<Arc<dyn FileOps>> {
        match &self.body {
            Body::Root => Err(Errno::EISDIR.into()),
            Body::Ptmx => self.devpts()?.open_master(open),
            Body::Slave(pty) => pty.open(open),
        }
    }
    fn rdev(&self) -> DeviceNumber {
        self.metadata.lock().rdev
    }
}

/// The type `devpts`, and the device 5:2 beside it.
pub struct DevPtsType {
    jobs: Arc<dyn Jobs>,
    instances: SpinLock<Vec<Weak<DevPts>>>,
}

impl DevPtsType {
    /// Registers the type, `/dev/ptmx` and the slaves' major number.
    pub fn register(vfs: &'static Vfs, jobs: Arc<dyn Jobs>) -> Result<(), Errno> {
        let kind = Arc::new(DevPtsType { jobs, instances: SpinLock::default() });
        vfs.register_type(kind.clone());
        vfs.devices.register_major(DeviceKind::Char, SLAVE_MAJOR, "pts", None);
        vfs.devices.add(DeviceInfo::char(PTMX, "ptmx", 0o666, "tty", kind))
    }
}

impl FileSystemType for DevPtsType {
    fn name(&self) -> &'static str {
        "devpts"
    }
    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<dyn FileSystem>, Errno> {
        let devpts = DevPts::new(self.jobs.clone(), Options::parse(request.data)?);
        let mut instances = self.instances.lock();
        instances.retain(|instance| instance.strong_count() > 0);
        instances.push(Arc::downgrade(&devpts));
        Ok(devpts)
    }
}

/// Opens a `ptmx` that is not in a devpts itself.
impl Device for DevPtsType {
    fn open(&self, open: &Open<'_>) -> SysResult<Arc<dyn FileOps>> {
        let beside = open.path.dentry.parent().and_then(|parent| parent.child(b"pts"));
        let mount = beside.and_then(|pts| open.path.mount.child_at(&pts)).ok_or(Errno::ENODEV)?;
        let wanted = Arc::as_ptr(mount.superblock().file_system()).cast::<()>();
        let instances: Vec<_> = self.instances.lock().iter().filter_map(Weak::upgrade).collect();
        let devpts = instances.iter().find(|devpts| Arc::as_ptr(devpts).cast::<()>() == wanted).ok_or(Errno::ENODEV)?;
        devpts.open_master(open)
    }
}
