//! Trees whose files are closures: the ground that `/proc` and `/sys` stand on. Each crate hangs its own files here, with what they show, what
//! may be written to them and who may.
//!
//! What it is not: processes' directories (`proc::process` makes their nodes as they are looked up).
//!
//! Always true: what a file shows is made at once when reading starts at its beginning, and stays as it is for that reader until he starts again; a
//! write reaches its closure whole, [`WRITE_MAX`] bytes at most; names that are removed answer ENOENT though they were looked up before.

use abi::{Errno, PAGE_SIZE, SysResult};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use sync::{Events, SpinLock, WaitQueue};
use vfs::{
    Attachments, CachePolicy, Credentials, DirEntry, Emit, FileKind, FileOps, FileSystem, Inode, Link, Metadata, Open, OpenFile, Owner,
    PollTable, SetAttr, Sink, Source, Timestamp, Whence,
};

/// Most bytes of one write.
pub const WRITE_MAX: usize = 64 * 1024;
/// The first cookie that is not for `.` or `..`.
const FIRST_COOKIE: u64 = 3;
/// Cookies of a directory's dynamic entries start here.
const DYNAMIC_COOKIE: u64 = 1 << 32;

/// Who reads or writes.
pub struct Asking<'a> {
    /// Of whoever opened the file.
    pub credentials: &'a Credentials,
    pub file: &'a OpenFile,
}

type Show = Arc<dyn Fn(&Asking<'_>) -> SysResult<Vec<u8>> + Send + Sync>;
type Store = Arc<dyn Fn(&Asking<'_>, &[u8]) -> SysResult<()> + Send + Sync>;
type OpenWith = Arc<dyn Fn(&Open<'_>) -> SysResult<Arc<dyn FileOps>> + Send + Sync>;
type Check = Arc<dyn Fn(&Credentials) -> Result<(), Errno> + Send + Sync>;
type Leads = Arc<dyn Fn(&Credentials) -> SysResult<Link> + Send + Sync>;
type Counter = Arc<dyn Fn() -> u64 + Send + Sync>;
type Text = Arc<dyn Fn() -> Result<Arc<[u8]>, Errno> + Send + Sync>;

/// What a file is made of.
#[derive(Clone, Default)]
pub struct FileSpec {
    show: Option<Show>,
    store: Option<Store>,
    open: Option<OpenWith>,
    check: Option<Check>,
    changed: Option<(Arc<WaitQueue>, Counter)>,
    size_bytes: u64,
}

impl FileSpec {
    /// A file that shows what the closure gives.
    #[must_use]
    pub fn show(show: impl Fn(&Asking<'_>) -> SysResult<Vec<u8>> + Send + Sync + 'static) -> FileSpec {
        FileSpec { show: Some(Arc::new(show)), ..FileSpec::default() }
    }
    /// A file that shows a text.
    #[must_use]
    pub fn text(text: impl Fn() -> String + Send + Sync + 'static) -> FileSpec {
        FileSpec::show(move |_| Ok(text().into_bytes()))
    }
    /// A file whose open gives operations of its own.
    #[must_use]
    pub fn open_with(open: impl Fn(&Open<'_>) -> SysResult<Arc<dyn FileOps>> + Send + Sync + 'static) -> FileSpec {
        FileSpec { open: Some(Arc::new(open)), ..FileSpec::default() }
    }
    /// A file that is written to.
    #[must_use]
    pub fn store(self, store: impl Fn(&Asking<'_>, &[u8]) -> SysResult<()> + Send + Sync + 'static) -> FileSpec {
        FileSpec { store: Some(Arc::new(store)), ..self }
    }
    /// Asks before the file is opened, besides its mode.
    #[must_use]
    pub fn check(self, check: impl Fn(&Credentials) -> Result<(), Errno> + Send + Sync + 'static) -> FileSpec {
        FileSpec { check: Some(Arc::new(check)), ..self }
    }
    /// A file that polls as changed (`POLLPRI | POLLERR`) when `counter` moved since it was read; `queue` is told of that.
    #[must_use]
    pub fn changes_with(self, queue: Arc<WaitQueue>, counter: impl Fn() -> u64 + Send + Sync + 'static) -> FileSpec {
        FileSpec { changed: Some((queue, Arc::new(counter))), ..self }
    }
    /// What stat(2) gives for its size; files of `/sys` say a page.
    #[must_use]
    pub fn sized(self, size_bytes: u64) -> FileSpec {
        FileSpec { size_bytes, ..self }
    }
}

/// Entries of a directory that are made as they are asked for.
pub trait Dynamic: Send + Sync {
    /// The entry called `name`.
    fn lookup(&self, name: &[u8]) -> Option<Arc<dyn Inode>>;
    /// Names with their number, in order of that number; those from `from` on, a few at least.
    fn list(&self, from: u64) -> Vec<(u64, String, FileKind)>;
}

/// A directory in which mkdir(2) and rmdir(2) mean something: a control group.
pub trait Maker: Send + Sync {
    /// Makes what the new directory `node` stands for and fills it.
    fn mkdir(&self, name: &str, node: &Arc<Node>, owner: Owner) -> Result<(), Errno>;
    /// Takes away what the directory stands for. Its files go with it.
    fn rmdir(&self, node: &Arc<Node>) -> Result<(), Errno>;
}

enum Body {
    Directory {
        children: SpinLock<BTreeMap<String, (u64, Arc<Node>)>>,
        made: AtomicU64,
        dynamic: Option<Arc<dyn Dynamic>>,
        maker: OnceLock<Arc<dyn Maker>>,
    },
    File(FileSpec),
    Symlink {
        leads: Option<Leads>,
        text: Text,
    },
}

/// A node: directory, file or symbolic link.
pub struct Node {
    ino: u64,
    mode: AtomicU32,
    uid: AtomicU32,
    gid: AtomicU32,
    made_at: Timestamp,
    removed: AtomicBool,
    alive: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
    body: Body,
    file_system: Weak<dyn FileSystem>,
    attachments: Attachments,
}

static NEXT_INO: AtomicU64 = AtomicU64::new(0xf000_0000);

/// A number for a node that stays.
fn next_ino() -> u64 {
    NEXT_INO.fetch_add(1, Ordering::Relaxed)
}

impl Node {
    fn new(file_system: Weak<dyn FileSystem>, ino: u64, mode: u32, body: Body) -> Node {
        Node {
            ino,
            mode: AtomicU32::new(mode),
            uid: AtomicU32::new(0),
            gid: AtomicU32::new(0),
            made_at: Timestamp::now(),
            removed: AtomicBool::new(false),
            alive: None,
            body,
            file_system,
            attachments: Attachments::new(),
        }
    }
    /// The root of a tree; `dynamic` gives entries beside those that are added.
    pub fn root(file_system: Weak<dyn FileSystem>, ino: u64, dynamic: Option<Arc<dyn Dynamic>>) -> Arc<Node> {
        Arc::new(Node::new(file_system, ino, 0o555, directory_body(dynamic)))
    }
    /// A directory that is not in a tree: of a process. It lives as long as `alive` says.
    pub fn transient_dir(
        &self,
        ino: u64,
        owner: Owner,
        dynamic: Arc<dyn Dynamic>,
        alive: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Arc<Node> {
        let node = Node::new(self.file_system.clone(), ino, owner.mode, directory_body(Some(dynamic)));
        Arc::new(node.owned(owner, alive))
    }
    /// A file that is not in a tree.
    pub fn transient_file(&self, ino: u64, owner: Owner, spec: FileSpec, alive: impl Fn() -> bool + Send + Sync + 'static) -> Arc<Node> {
        let node = Node::new(self.file_system.clone(), ino, owner.mode, Body::File(spec));
        Arc::new(node.owned(owner, alive))
    }
    /// A symbolic link that is not in a tree: `text` for readlink, `leads` for path walk.
    pub fn transient_link(
        &self,
        ino: u64,
        owner: Owner,
        text: impl Fn() -> Result<Arc<[u8]>, Errno> + Send + Sync + 'static,
        leads: Option<Leads>,
        alive: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Arc<Node> {
        let node = Node::new(self.file_system.clone(), ino, owner.mode, Body::Symlink { leads, text: Arc::new(text) });
        Arc::new(node.owned(owner, alive))
    }
    fn owned(mut self, owner: Owner, alive: impl Fn() -> bool + Send + Sync + 'static) -> Node {
        self.alive = Some(Arc::new(alive));
        *self.uid.get_mut() = owner.uid;
        *self.gid.get_mut() = owner.gid;
        self
    }

    /// Adds a node under `path`, whose directories are made as needed. What was there goes.
    fn add(self: &Arc<Node>, path: &str, mode: u32, body: Body) -> Arc<Node> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let node = Arc::new(Node::new(self.file_system.clone(), next_ino(), mode, body));
        self.dir(dir).insert(name, node.clone());
        node
    }
    fn insert(&self, name: &str, node: Arc<Node>) {
        let Body::Directory { children, made, .. } = &self.body else { return };
        let cookie = FIRST_COOKIE + made.fetch_add(1, Ordering::Relaxed);
        let old = children.lock().insert(name.to_owned(), (cookie, node));
        if let Some((_, old)) = old {
            old.removed.store(true, Ordering::Release);
        }
    }
    /// The directory `path`, made if it is not there.
    pub fn dir(self: &Arc<Node>, path: &str) -> Arc<Node> {
        let mut at = self.clone();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = match at.child(name) {
                Some(there) => there,
                None => {
                    let node = Arc::new(Node::new(self.file_system.clone(), next_ino(), 0o555, directory_body(None)));
                    at.insert(name, node.clone());
                    node
                }
            };
        }
        at
    }
    /// Adds a file.
    pub fn file(self: &Arc<Node>, path: &str, mode: u32, spec: FileSpec) -> Arc<Node> {
        self.add(path, mode, Body::File(spec))
    }
    /// Lets mkdir(2) and rmdir(2) work in this directory.
    pub fn set_maker(&self, maker: Arc<dyn Maker>) {
        if let Body::Directory { maker: slot, .. } = &self.body {
            // One for life.
            let _ = slot.set(maker);
        }
    }
    fn maker(&self) -> Result<&Arc<dyn Maker>, Errno> {
        match &self.body {
            Body::Directory { maker, .. } => maker.get().ok_or(Errno::EPERM),
            _ => Err(Errno::ENOTDIR),
        }
    }
    /// Gives it and the files right below it an owner.
    pub fn give(&self, uid: u32, gid: u32) {
        let below: Vec<Arc<Node>> = match &self.body {
            Body::Directory { children, .. } => children.lock().values().map(|(_, node)| node.clone()).collect(),
            _ => Vec::new(),
        };
        for node in below.iter().map(|node| &**node).chain([self]) {
            node.uid.store(uid, Ordering::Relaxed);
            node.gid.store(gid, Ordering::Relaxed);
        }
    }
    /// Adds a symbolic link to a fixed text.
    pub fn link(self: &Arc<Node>, path: &str, target: &str) -> Arc<Node> {
        let target: Arc<[u8]> = Arc::from(target.as_bytes());
        self.link_with(path, move || Ok(target.clone()))
    }
    /// Adds a symbolic link whose text depends on who asks.
    pub fn link_with(self: &Arc<Node>, path: &str, text: impl Fn() -> Result<Arc<[u8]>, Errno> + Send + Sync + 'static) -> Arc<Node> {
        self.add(path, 0o777, Body::Symlink { leads: None, text: Arc::new(text) })
    }
    /// Takes a node, and all below it, away.
    pub fn remove(self: &Arc<Node>, path: &str) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(dir) = self.find(dir) else { return };
        let Body::Directory { children, .. } = &dir.body else { return };
        let gone = children.lock().remove(name);
        if let Some((_, gone)) = gone {
            gone.mark_removed();
        }
    }
    fn mark_removed(&self) {
        self.removed.store(true, Ordering::Release);
        if let Body::Directory { children, .. } = &self.body {
            let below: Vec<_> = children.lock().values().map(|(_, node)| node.clone()).collect();
            below.iter().for_each(|node| node.mark_removed());
        }
    }
    /// The node under `path`.
    #[must_use]
    pub fn find(self: &Arc<Node>, path: &str) -> Option<Arc<Node>> {
        let mut at = self.clone();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = at.child(name)?;
        }
        Some(at)
    }
    fn child(&self, name: &str) -> Option<Arc<Node>> {
        let Body::Directory { children, .. } = &self.body else { return None };
        children.lock().get(name).map(|(_, node)| node.clone())
    }
}

fn directory_body(dynamic: Option<Arc<dyn Dynamic>>) -> Body {
    Body::Directory { children: SpinLock::default(), made: AtomicU64::new(0), dynamic, maker: OnceLock::new() }
}

impl Inode for Node {
    fn metadata(&self) -> Result<Metadata, Errno> {
        let owner = self.owner();
        let (size_bytes, links) = match &self.body {
            Body::File(spec) => (spec.size_bytes, 1),
            Body::Symlink { leads, .. } => (if leads.is_some() { 64 } else { 0 }, 1),
            Body::Directory { children, .. } => {
                let dirs = children.lock().values().filter(|(_, node)| node.kind() == FileKind::Directory).count();
                (0, 2 + dirs as u32)
            }
        };
        let metadata = Metadata::new(self.kind(), self.ino, owner);
        let at = self.made_at;
        Ok(Metadata { size_bytes, links, accessed: at, modified: at, changed: at, created: None, block_size_bytes: 1024, ..metadata })
    }
    fn kind(&self) -> FileKind {
        match &self.body {
            Body::Directory { .. } => FileKind::Directory,
            Body::File(_) => FileKind::Regular,
            Body::Symlink { .. } => FileKind::Symlink,
        }
    }
    fn ino(&self) -> u64 {
        self.ino
    }
    fn owner(&self) -> Owner {
        let get = |field: &AtomicU32| field.load(Ordering::Relaxed);
        Owner { mode: get(&self.mode), uid: get(&self.uid), gid: get(&self.gid) }
    }
    fn file_system(&self) -> Arc<dyn FileSystem> {
        // Whoever uses an inode holds a mount of its file system.
        self.file_system.upgrade().unwrap_or_else(|| unreachable!("an inode is used through a mount"))
    }
    fn attachments(&self) -> &Attachments {
        &self.attachments
    }
    fn cache_policy(&self) -> CachePolicy {
        CachePolicy::Revalidate
    }
    fn is_current(&self) -> bool {
        !self.removed.load(Ordering::Acquire) && self.alive.as_ref().is_none_or(|alive| alive())
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let Body::Directory { dynamic, .. } = &self.body else { return Err(Errno::ENOTDIR) };
        if !self.is_current() {
            return Err(Errno::ENOENT);
        }
        if let Some(child) = std::str::from_utf8(name).ok().and_then(|name| self.child(name)) {
            return Ok(child);
        }
        dynamic.as_ref().and_then(|dynamic| dynamic.lookup(name)).ok_or(Errno::ENOENT)
    }
    fn readdir(&self, from: u64, emit: Emit<'_>) -> Result<(), Errno> {
        let Body::Directory { children, dynamic, .. } = &self.body else { return Err(Errno::ENOTDIR) };
        if !self.is_current() {
            return Err(Errno::ENOENT);
        }
        let mut fixed: Vec<_> = {
            let children = children.lock();
            children.iter().map(|(name, (cookie, node))| (*cookie, name.clone(), node.ino, node.kind())).collect()
        };
        fixed.retain(|entry| entry.0 >= from);
        fixed.sort_by_key(|entry| entry.0);
        for (cookie, name, ino, kind) in fixed {
            if !emit(DirEntry { name: name.as_bytes(), ino, kind: Some(kind), next: cookie + 1 }) {
                return Ok(());
            }
        }
        let Some(dynamic) = dynamic else { return Ok(()) };
        let mut number = from.saturating_sub(DYNAMIC_COOKIE);
        loop {
            let batch = dynamic.list(number);
            let Some(last) = batch.last() else { return Ok(()) };
            number = last.0 + 1;
            for (at, name, kind) in batch {
                // A number that is good enough: whoever needs the true one calls stat.
                let ino = self.ino.wrapping_mul(31).wrapping_add(at + 1) & 0x7fff_ffff;
                if !emit(DirEntry { name: name.as_bytes(), ino, kind: Some(kind), next: DYNAMIC_COOKIE + at + 1 }) {
                    return Ok(());
                }
            }
        }
    }
    fn mkdir(&self, name: &[u8], owner: Owner) -> Result<Arc<dyn Inode>, Errno> {
        let maker = self.maker()?;
        if !self.is_current() {
            return Err(Errno::ENOENT);
        }
        let name = std::str::from_utf8(name).map_err(|_| Errno::EINVAL)?;
        let node = Arc::new(Node::new(self.file_system.clone(), next_ino(), owner.mode & 0o7777, directory_body(None)));
        maker.mkdir(name, &node, owner)?;
        node.give(owner.uid, owner.gid);
        self.insert(name, node.clone());
        Ok(node)
    }
    fn rmdir(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        let maker = self.maker()?;
        let name = std::str::from_utf8(name).map_err(|_| Errno::EINVAL)?;
        let node = inode.clone().downcast_arc::<Node>().ok_or(Errno::EPERM)?;
        maker.rmdir(&node)?;
        node.mark_removed();
        if let Body::Directory { children, .. } = &self.body {
            let gone = children.lock().remove(name);
            drop(gone);
        }
        Ok(())
    }
    fn readlink(&self) -> Result<Arc<[u8]>, Errno> {
        if let Body::Symlink { text, .. } = &self.body { text() } else { Err(Errno::EINVAL) }
    }
    fn follow_link(&self, credentials: &Credentials) -> SysResult<Link> {
        match &self.body {
            Body::Symlink { leads: Some(leads), .. } => leads(credentials),
            _ => Ok(Link::Text(self.readlink()?)),
        }
    }
    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        if let Some(mode) = change.mode {
            self.mode.store(mode & 0o7777, Ordering::Relaxed);
        }
        if let Some(uid) = change.uid {
            self.uid.store(uid, Ordering::Relaxed);
        }
        if let Some(gid) = change.gid {
            self.gid.store(gid, Ordering::Relaxed);
        }
        Ok(())
    }
    fn truncate(&self, _: u64) -> Result<(), Errno> {
        // `echo 1 > /proc/sys/...` opens with O_TRUNC.
        Ok(())
    }
    fn open(self: Arc<Self>, open: &Open<'_>) -> SysResult<Arc<dyn FileOps>> {
        let Body::File(spec) = &self.body else { return Err(Errno::EINVAL.into()) };
        if !self.is_current() {
            return Err(Errno::ENOENT.into());
        }
        if let Some(check) = &spec.check {
            check(open.credentials)?;
        }
        if let Some(open_with) = &spec.open {
            return open_with(open);
        }
        let seen = AtomicU64::new(spec.changed.as_ref().map_or(0, |(_, counter)| counter()));
        Ok(Arc::new(OpenNode { spec: spec.clone(), shown: SpinLock::default(), seen }))
    }
}

/// An open file of a tree.
struct OpenNode {
    spec: FileSpec,
    shown: SpinLock<Option<Arc<[u8]>>>,
    /// What the counter of changes said when it was last read.
    seen: AtomicU64,
}

impl FileOps for OpenNode {
    fn read(&self, file: &OpenFile, position: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        let Some(show) = &self.spec.show else { return Err(Errno::EIO.into()) };
        let known = if *position == 0 { None } else { self.shown.lock().clone() };
        let text = match known {
            Some(text) => text,
            None => {
                if let Some((_, counter)) = &self.spec.changed {
                    self.seen.store(counter(), Ordering::Relaxed);
                }
                let text: Arc<[u8]> = Arc::from(show(&Asking { credentials: file.credentials(), file })?);
                *self.shown.lock() = Some(text.clone());
                text
            }
        };
        let rest = usize::try_from(*position).ok().and_then(|at| text.get(at..)).unwrap_or_default();
        let n = sink.put(rest.get(..rest.len().min(sink.room())).unwrap_or_default())?;
        *position += n as u64;
        Ok(n)
    }
    fn write(&self, file: &OpenFile, position: &mut u64, source: &mut dyn Source) -> SysResult<usize> {
        let Some(store) = &self.spec.store else { return Err(Errno::EIO.into()) };
        let mut buffer = vec![0; source.left().min(WRITE_MAX)];
        let got = source.take(&mut buffer)?;
        buffer.truncate(got);
        store(&Asking { credentials: file.credentials(), file }, &buffer)?;
        *position += got as u64;
        Ok(got)
    }
    fn seek(&self, _: &OpenFile, current: u64, offset: i64, whence: Whence) -> SysResult<u64> {
        let base = match whence {
            Whence::Set => 0,
            Whence::Current => current,
            _ => return Err(Errno::EINVAL.into()),
        };
        Ok(base.checked_add_signed(offset).filter(|at| i64::try_from(*at).is_ok()).ok_or(Errno::EINVAL)?)
    }
    fn can_poll(&self) -> bool {
        self.spec.changed.is_some()
    }
    fn poll(&self, _: &OpenFile, table: Option<&mut PollTable>) -> Events {
        let ready = Events::IN | Events::OUT | Events::RDNORM | Events::WRNORM;
        let Some((queue, counter)) = &self.spec.changed else { return ready };
        if let Some(table) = table {
            table.listen(queue);
        }
        // Told once: the next change is the next event.
        let now = counter();
        if self.seen.swap(now, Ordering::Relaxed) == now { ready } else { ready | Events::ERR | Events::PRI }
    }
}

/// A number as `/proc` shows it, with a newline.
#[must_use]
pub fn line(value: impl std::fmt::Display) -> Vec<u8> {
    format!("{value}\n").into_bytes()
}

/// The first word of what was written, as a number. EINVAL.
pub fn parse<T: std::str::FromStr>(data: &[u8]) -> Result<T, Errno> {
    let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
    text.trim_matches(|c: char| c.is_whitespace() || c == '\0').parse().map_err(|_| Errno::EINVAL)
}

/// `st_size` of files in `/sys`.
pub const SYSFS_FILE_SIZE: u64 = PAGE_SIZE as u64;
