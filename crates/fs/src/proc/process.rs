//! The directories of processes and threads.
//!
//! Always true: a node of a process that has gone answers ESRCH or ENOENT, never another process's data: it holds the process it was made for, not
//! its number. What shows a process's memory or files asks [`ProcessView::may_inspect`] first.

use super::Proc;
use super::mounts;
use crate::kernfs::{Asking, Dynamic, FileSpec, Node};
use abi::{Errno, SysResult};
use std::any::Any;
use std::sync::{Arc, OnceLock, Weak};
use sync::SpinLock;
use vfs::{Credentials, FileKind, FileOps, Inode, Link, MountNamespace, Open, OpenFile, OpenFlags, Owner, Path, display_name};

/// Who knows the processes: `task` implements it.
pub trait ProcessSource: Send + Sync {
    /// The caller's own thread, if it is one.
    fn current(&self) -> Option<Arc<dyn ProcessView>>;
    /// The process (not a mere thread) or thread with this number, as the caller numbers them.
    fn find(&self, id: i32) -> Option<Arc<dyn ProcessView>>;
    /// Whether the caller may look into `target`: [`ProcessView::may_inspect`] with its own credentials.
    fn caller_may_inspect(&self, target: &Arc<dyn ProcessView>) -> bool;
    /// Processes from number `from` on, in order, at most `count`.
    fn processes(&self, from: i32, count: usize) -> Vec<i32>;
}

/// A process or thread as `/proc` sees it.
pub trait ProcessView: Any + Send + Sync {
    /// Number of the process.
    fn pid(&self) -> i32;
    /// Number of the thread; that of the process for its first one.
    fn tid(&self) -> i32;
    /// Whether it has not been reaped yet.
    fn is_alive(&self) -> bool;
    /// Whom its files belong to: its effective user and group, or root's if it is not dumpable.
    fn owner(&self) -> (u32, u32);
    /// Whether `credentials` may look into it, as ptrace(2) "access mode checking" says.
    fn may_inspect(&self, credentials: &Credentials) -> bool;
    /// Threads of the process, in order.
    fn threads(&self) -> Vec<i32>;
    /// A thread of the process.
    fn thread(&self, tid: i32) -> Option<Arc<dyn ProcessView>>;
    /// Open descriptors from `from` on, lowest first, some at least.
    fn descriptors(&self, from: i32) -> Vec<i32>;
    /// An open file.
    fn file(&self, fd: i32) -> Option<(Arc<OpenFile>, vfs::OnExec)>;
    /// The running program.
    fn exe(&self) -> Option<Path>;
    /// Working directory.
    fn cwd(&self) -> Option<Path>;
    /// Root directory.
    fn root(&self) -> Option<Path>;
    /// Mount namespace.
    fn mounts(&self) -> Option<Arc<MountNamespace>>;
    /// `ns/*`: names and numbers.
    fn namespaces(&self) -> Vec<(&'static str, u64)>;
    /// Opens `ns/NAME`, for setns(2).
    fn open_namespace(&self, _name: &str, _open: &Open<'_>) -> SysResult<Arc<dyn FileOps>> {
        Err(Errno::ENXIO.into())
    }
}

impl dyn ProcessView {
    /// As `task`'s own type, for the files that `task` registers.
    #[must_use]
    pub fn downcast<T: ProcessView>(&self) -> Option<&T> {
        let any: &dyn Any = self;
        any.downcast_ref()
    }
}

/// Which directories have a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// `/proc/PID` only.
    Process,
    /// `/proc/PID/task/TID` only.
    Thread,
    Both,
}

type Process = Arc<dyn ProcessView>;
type Make = Arc<dyn Fn(&Process) -> FileSpec + Send + Sync>;

/// A file that every process has.
#[derive(Clone)]
pub struct ProcessFile {
    name: &'static str,
    mode: u32,
    scope: Scope,
    inspects: bool,
    make: Make,
}

impl ProcessFile {
    /// A file whose node is made by `make` for a process.
    pub fn new(name: &'static str, mode: u32, make: impl Fn(&Process) -> FileSpec + Send + Sync + 'static) -> ProcessFile {
        ProcessFile { name, mode, scope: Scope::Both, inspects: false, make: Arc::new(make) }
    }
    /// A file that shows what the closure says of a process.
    pub fn show(
        name: &'static str,
        mode: u32,
        show: impl Fn(&Process, &Asking<'_>) -> SysResult<Vec<u8>> + Send + Sync + 'static,
    ) -> ProcessFile {
        let show = Arc::new(show);
        ProcessFile::new(name, mode, move |process| {
            let (process, show) = (process.clone(), show.clone());
            FileSpec::show(move |asking| show(&process, asking))
        })
    }
    /// Only for those who may inspect the process (EACCES for others, when it is opened).
    #[must_use]
    pub fn inspecting(self) -> ProcessFile {
        ProcessFile { inspects: true, ..self }
    }
    /// Only in some directories.
    #[must_use]
    pub fn scoped(self, scope: Scope) -> ProcessFile {
        ProcessFile { scope, ..self }
    }
}

/// All processes, as entries of `/proc`.
pub(super) struct Processes {
    source: OnceLock<Arc<dyn ProcessSource>>,
    files: SpinLock<Vec<ProcessFile>>,
    proc: Weak<Proc>,
    this: Weak<Processes>,
}

impl Processes {
    pub fn new(proc: Weak<Proc>) -> Arc<Processes> {
        Arc::new_cyclic(|this| Processes { source: OnceLock::new(), files: SpinLock::default(), proc, this: this.clone() })
    }
    pub fn set_source(&self, source: Arc<dyn ProcessSource>) {
        let _ = self.source.set(source);
    }
    pub fn source(&self) -> Option<Arc<dyn ProcessSource>> {
        self.source.get().cloned()
    }
    pub fn add_file(&self, file: ProcessFile) {
        let mut files = self.files.lock();
        files.retain(|known| known.name != file.name || known.scope != file.scope);
        files.push(file);
    }
    fn directory(&self, process: Process, scope: Scope) -> Option<Arc<Node>> {
        let ino = ino_of(&process, if scope == Scope::Process { 1 } else { 2 });
        let entries = Entries { process: process.clone(), scope, processes: self.this.upgrade()?, place: Place::Top };
        let owner = owner(&process, 0o555);
        Some(self.proc.upgrade()?.tree().transient_dir(ino, owner, Arc::new(entries), move || process.is_alive()))
    }
}

fn parse_number(name: &[u8]) -> Option<i32> {
    let text = std::str::from_utf8(name).ok()?;
    let plain = !text.starts_with('+') && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|number| plain && *number >= 0)
}

fn ino_of(process: &Process, entry: u64) -> u64 {
    (process.tid() as u64) << 20 | entry
}

fn owner(process: &Process, mode: u32) -> Owner {
    let (uid, gid) = process.owner();
    Owner { mode, uid, gid }
}

impl Dynamic for Processes {
    fn lookup(&self, name: &[u8]) -> Option<Arc<dyn Inode>> {
        let process = self.source.get()?.find(parse_number(name)?)?;
        // A thread's number leads to its own directory, though listing does not show it.
        Some(self.directory(process, Scope::Process)?)
    }
    fn list(&self, from: u64) -> Vec<(u64, String, FileKind)> {
        let (Some(source), Ok(from)) = (self.source.get(), i32::try_from(from)) else { return Vec::new() };
        source.processes(from, 128).into_iter().map(|pid| (pid as u64, pid.to_string(), FileKind::Directory)).collect()
    }
}

/// A directory of a process.
struct Entries {
    process: Process,
    scope: Scope,
    processes: Arc<Processes>,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Top,
    Task,
    Fd,
    FdInfo,
    Ns,
}

/// Directories and links that every process has, before the registered files.
const FIXED: [(&str, FileKind); 7] = [
    ("task", FileKind::Directory),
    ("fd", FileKind::Directory),
    ("fdinfo", FileKind::Directory),
    ("ns", FileKind::Directory),
    ("exe", FileKind::Symlink),
    ("cwd", FileKind::Symlink),
    ("root", FileKind::Symlink),
];

impl Entries {
    fn tree(&self) -> Option<Arc<Node>> {
        Some(self.processes.proc.upgrade()?.tree().clone())
    }
    fn alive(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let process = self.process.clone();
        move || process.is_alive()
    }
    fn files(&self) -> Vec<ProcessFile> {
        let files = self.processes.files.lock();
        files.iter().filter(|file| file.scope == Scope::Both || file.scope == self.scope).cloned().collect()
    }

    fn subdirectory(&self, place: Place, entry: u64) -> Option<Arc<dyn Inode>> {
        let mode = if place == Place::Fd { 0o500 } else { 0o555 };
        let entries = Entries { process: self.process.clone(), scope: self.scope, processes: self.processes.clone(), place };
        Some(self.tree()?.transient_dir(ino_of(&self.process, entry), owner(&self.process, mode), Arc::new(entries), self.alive()))
    }

    /// A link that leads straight to what `target` gives, for those who may inspect the process.
    fn magic(
        &self,
        entry: u64,
        mode: u32,
        target: impl Fn(&Process) -> Option<Path> + Send + Sync + 'static,
        alive: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Option<Arc<dyn Inode>> {
        let target = Arc::new(target);
        let (process, shown, source) = (self.process.clone(), target.clone(), self.processes.source.get().cloned());
        let text = move || {
            let path = shown(&process).ok_or(Errno::ENOENT)?;
            if source.as_ref().is_some_and(|source| !source.caller_may_inspect(&process)) {
                return Err(Errno::EACCES);
            }
            let root = source.as_ref().and_then(|source| source.current()).and_then(|current| current.root());
            let root = root.unwrap_or_else(|| path.mount.root_path());
            Ok(Arc::from(display_name(&path, &root)))
        };
        let process = self.process.clone();
        let leads = move |credentials: &Credentials| {
            if !process.may_inspect(credentials) {
                return Err(Errno::EACCES.into());
            }
            Ok(Link::Magic(target(&process).ok_or(Errno::ENOENT)?))
        };
        let owner = owner(&self.process, mode);
        Some(self.tree()?.transient_link(ino_of(&self.process, entry), owner, text, Some(Arc::new(leads)), alive))
    }

    fn top(&self, name: &str) -> Option<Arc<dyn Inode>> {
        match name {
            "task" if self.scope == Scope::Process => self.subdirectory(Place::Task, 3),
            "fd" => self.subdirectory(Place::Fd, 4),
            "fdinfo" => self.subdirectory(Place::FdInfo, 5),
            "ns" => self.subdirectory(Place::Ns, 6),
            "exe" => self.magic(7, 0o777, |p| p.exe(), self.alive()),
            "cwd" => self.magic(8, 0o777, |p| p.cwd(), self.alive()),
            "root" => self.magic(9, 0o777, |p| p.root(), self.alive()),
            _ => {
                let files = self.files();
                let at = files.iter().position(|file| file.name == name)?;
                let file = files.get(at)?;
                let mut spec = (file.make)(&self.process);
                if file.inspects {
                    let process = self.process.clone();
                    spec = spec.check(move |credentials| if process.may_inspect(credentials) { Ok(()) } else { Err(Errno::EACCES) });
                }
                let ino = ino_of(&self.process, 0x100 + at as u64);
                Some(self.tree()?.transient_file(ino, owner(&self.process, file.mode), spec, self.alive()))
            }
        }
    }

    fn descriptor(&self, fd: i32) -> Option<Arc<dyn Inode>> {
        let (file, _) = self.process.file(fd)?;
        let flags = file.flags();
        let mut mode = 0;
        if flags.can_read() || flags.contains(OpenFlags::PATH) {
            mode |= 0o500;
        }
        if flags.can_write() {
            mode |= 0o300;
        }
        let id = file.id();
        let process = self.process.clone();
        // The number may stand for another file later.
        let alive = move || process.file(fd).is_some_and(|(file, _)| file.id() == id);
        self.magic(0x10000 + fd as u64, mode, move |p| Some(p.file(fd)?.0.path().clone()), alive)
    }

    fn descriptor_info(&self, fd: i32) -> Option<Arc<dyn Inode>> {
        self.process.file(fd)?;
        let process = self.process.clone();
        let spec = FileSpec::show(move |_| {
            let (file, on_exec) = process.file(fd).ok_or(Errno::ENOENT)?;
            let mut flags = file.flags().bits();
            if on_exec == vfs::OnExec::Close {
                flags |= OpenFlags::CLOEXEC.bits();
            }
            let mount = file.path().mount.id();
            let ino = file.inode().ino();
            let more = file.ops().fdinfo(&file);
            Ok(format!("pos:\t{}\nflags:\t0{flags:o}\nmnt_id:\t{mount}\nino:\t{ino}\n{more}", file.position()).into_bytes())
        });
        let ino = ino_of(&self.process, 0x80000 + fd as u64);
        Some(self.tree()?.transient_file(ino, owner(&self.process, 0o444), spec, self.alive()))
    }

    fn namespace(&self, name: &str) -> Option<Arc<dyn Inode>> {
        let all = self.process.namespaces();
        let at = all.iter().position(|(known, _)| *known == name)?;
        let name = all.get(at)?.0;
        // `pid_for_children` is a place for another pid namespace.
        let kind = name.strip_suffix("_for_children").unwrap_or(name);
        let process = self.process.clone();
        let text = move || {
            let id = process.namespaces().into_iter().find(|(known, _)| *known == name).ok_or(Errno::ENOENT)?.1;
            Ok(Arc::from(format!("{kind}:[{id}]").as_bytes()))
        };
        let process = self.process.clone();
        let (tree, owned, alive) = (self.tree()?, owner(&self.process, 0o777), self.alive());
        let ino = ino_of(&self.process, 0x40 + at as u64);
        let leads = {
            let tree = tree.clone();
            let vfs_proc = self.processes.proc.clone();
            move |_: &Credentials| -> SysResult<Link> {
                let opener = process.clone();
                let spec = FileSpec::open_with(move |open| opener.open_namespace(name, open));
                let owner = owner(&process, 0o444);
                let alive = process.clone();
                let node = tree.transient_file(ino, owner, spec, move || alive.is_alive());
                let proc = vfs_proc.upgrade().ok_or(Errno::ENOENT)?;
                Ok(Link::Magic(proc.detached(node)?))
            }
        };
        Some(tree.transient_link(ino, owned, text, Some(Arc::new(leads)), alive))
    }
}

impl Dynamic for Entries {
    fn lookup(&self, name: &[u8]) -> Option<Arc<dyn Inode>> {
        match self.place {
            Place::Top => self.top(std::str::from_utf8(name).ok()?),
            Place::Task => {
                let thread = self.process.thread(parse_number(name)?)?;
                Some(self.processes.directory(thread, Scope::Thread)?)
            }
            Place::Fd => self.descriptor(parse_number(name)?),
            Place::FdInfo => self.descriptor_info(parse_number(name)?),
            Place::Ns => self.namespace(std::str::from_utf8(name).ok()?),
        }
    }
    fn list(&self, from: u64) -> Vec<(u64, String, FileKind)> {
        let numbers = |numbers: Vec<i32>, kind| numbers.into_iter().map(|n| (n as u64, n.to_string(), kind)).collect();
        let after = i32::try_from(from).unwrap_or(i32::MAX);
        match self.place {
            Place::Top => {
                let fixed = FIXED.iter().filter(|(name, _)| *name != "task" || self.scope == Scope::Process).copied();
                let files = self.files();
                let all = fixed.chain(files.iter().map(|file| (file.name, FileKind::Regular)));
                let numbered = all.enumerate().map(|(at, (name, kind))| (at as u64, name.to_owned(), kind));
                numbered.filter(|entry| entry.0 >= from).collect()
            }
            Place::Task => numbers(self.process.threads().into_iter().filter(|tid| *tid >= after).collect(), FileKind::Directory),
            Place::Fd => numbers(self.process.descriptors(after), FileKind::Symlink),
            Place::FdInfo => numbers(self.process.descriptors(after), FileKind::Regular),
            Place::Ns => {
                let all = self.process.namespaces().into_iter().enumerate();
                all.map(|(at, (name, _))| (at as u64, name.to_owned(), FileKind::Symlink)).filter(|entry| entry.0 >= from).collect()
            }
        }
    }
}

/// `self` and `thread-self`.
pub(super) fn register_links(proc: &Arc<Proc>) {
    let text = |proc: &Arc<Proc>, of: fn(&dyn ProcessView) -> String| {
        let proc = Arc::downgrade(proc);
        move || {
            let current = proc.upgrade().and_then(|proc| proc.source()).and_then(|source| source.current()).ok_or(Errno::ENOENT)?;
            Ok(Arc::from(of(&*current).as_bytes()))
        }
    };
    proc.tree().link_with("self", text(proc, |p| p.pid().to_string()));
    proc.tree().link_with("thread-self", text(proc, |p| format!("{}/task/{}", p.pid(), p.tid())));
    for name in ["mounts", "net"] {
        proc.tree().link(name, &format!("self/{name}"));
    }
}

/// Files that need nothing but what this crate knows.
pub(super) fn register_files(proc: &Arc<Proc>) {
    for (name, mode, form) in
        [("mounts", 0o444, mounts::Form::Mounts), ("mountinfo", 0o444, mounts::Form::MountInfo), ("mountstats", 0o400, mounts::Form::Stats)]
    {
        proc.process_file(ProcessFile::new(name, mode, move |process| mounts::file(process, form)));
    }
}
