//! `/proc` over a made-up process.

mod common;

use abi::Errno;
use common::{Machine, read_some};
use fs::proc::{Proc, ProcessFile, ProcessSource, ProcessView};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use sync::Events;
use vfs::{Credentials, FdTable, FileKind, FsContext, LookupFlags, MountFlags, MountNamespace, OnExec, OpenFile, OpenFlags, Path, PathAt};

struct Fake {
    pid: i32,
    alive: AtomicBool,
    files: Arc<FdTable>,
    fs: Arc<FsContext>,
    namespace: Arc<MountNamespace>,
    uid: u32,
}

impl ProcessView for Fake {
    fn pid(&self) -> i32 {
        self.pid
    }
    fn tid(&self) -> i32 {
        self.pid
    }
    fn is_alive(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }
    fn owner(&self) -> (u32, u32) {
        (self.uid, self.uid)
    }
    fn may_inspect(&self, credentials: &Credentials) -> bool {
        credentials.fsuid == self.uid || credentials.fsuid == 0
    }
    fn threads(&self) -> Vec<i32> {
        vec![self.pid]
    }
    fn thread(&self, _: i32) -> Option<Arc<dyn ProcessView>> {
        None
    }
    fn descriptors(&self, from: i32) -> Vec<i32> {
        self.files.descriptors().into_iter().filter(|fd| *fd >= from).collect()
    }
    fn file(&self, fd: i32) -> Option<(Arc<OpenFile>, OnExec)> {
        Some((self.files.get(fd).ok()?, self.files.on_exec(fd).ok()?))
    }
    fn exe(&self) -> Option<Path> {
        None
    }
    fn cwd(&self) -> Option<Path> {
        Some(self.fs.cwd())
    }
    fn root(&self) -> Option<Path> {
        Some(self.fs.root())
    }
    fn mounts(&self) -> Option<Arc<MountNamespace>> {
        Some(self.namespace.clone())
    }
    fn namespaces(&self) -> Vec<(&'static str, u64)> {
        vec![("mnt", 4026531841), ("pid_for_children", 4026531836)]
    }
}

struct Source(Vec<Arc<Fake>>);

impl ProcessSource for Source {
    fn current(&self) -> Option<Arc<dyn ProcessView>> {
        Some(self.0[0].clone())
    }
    fn find(&self, id: i32) -> Option<Arc<dyn ProcessView>> {
        let found = self.0.iter().find(|p| p.pid == id && p.is_alive())?.clone();
        Some(found)
    }
    fn caller_may_inspect(&self, _: &Arc<dyn ProcessView>) -> bool {
        true
    }
    fn processes(&self, from: i32, count: usize) -> Vec<i32> {
        self.0.iter().map(|p| p.pid).filter(|pid| *pid >= from).take(count).collect()
    }
}

fn machine() -> (Machine, Vec<Arc<Fake>>, Arc<Proc>) {
    let m = Machine::new();
    let proc = Proc::new(m.vfs);
    m.vfs.register_type(proc.clone());
    m.mkdir("/proc").unwrap();
    m.mount("proc", "/proc", MountFlags::NOSUID, "hidepid=0").unwrap();
    let fake = |pid, uid| {
        let files = FdTable::new(m.vfs.ram());
        Arc::new(Fake { pid, uid, alive: AtomicBool::new(true), files, fs: m.fs.clone(), namespace: m.namespace.clone() })
    };
    let fakes = vec![fake(1, 0), fake(77, 1000)];
    proc.set_source(Arc::new(Source(fakes.clone())));
    proc.process_file(ProcessFile::show("comm", 0o644, |p, _| Ok(format!("p{}\n", p.pid()).into_bytes())));
    proc.process_file(ProcessFile::show("environ", 0o400, |_, _| Ok(b"A=1\0".to_vec())).inspecting());
    (m, fakes, proc)
}

fn link(m: &Machine, path: &str) -> String {
    String::from_utf8(m.caller().readlink(PathAt::cwd(path.as_bytes())).unwrap().to_vec()).unwrap()
}

#[test]
fn a_process_has_its_directory_while_it_lives() {
    let (m, fakes, _) = machine();
    let names = m.names("/proc").unwrap();
    for name in ["self", "meminfo", "mounts", "sys", "1", "77"] {
        assert!(names.iter().any(|n| n == name), "{name}");
    }
    assert_eq!(m.read("/proc/77/comm").unwrap(), b"p77\n");
    assert_eq!(m.read("/proc/self/comm").unwrap(), b"p1\n");
    assert_eq!(link(&m, "/proc/self"), "1");
    assert_eq!(m.stat("/proc/77/comm").unwrap().uid, 1000);
    assert_eq!(m.stat("/proc/0077").unwrap_err(), Errno::ENOENT);
    assert_eq!(m.user(1001, 1001).read("/proc/77/environ").unwrap_err(), Errno::EACCES);
    assert_eq!(m.user(1000, 1000).read("/proc/77/environ").unwrap(), b"A=1\0");
    fakes[1].alive.store(false, Ordering::SeqCst);
    assert_eq!(m.stat("/proc/77/comm").unwrap_err(), Errno::ENOENT);
    assert_eq!(m.stat("/proc/77").unwrap_err(), Errno::ENOENT);
}

#[test]
fn descriptors_are_links_straight_to_their_files() {
    let (m, fakes, _) = machine();
    m.write("/a b", b"text").unwrap();
    let file = m.open("/a b", OpenFlags::RDWR).unwrap();
    let (r, w) = m.caller().pipe(OpenFlags::empty()).unwrap();
    let files = &fakes[0].files;
    files.add(file, 100, OnExec::Keep).unwrap();
    files.add(r, 100, OnExec::Close).unwrap();
    files.add(w, 100, OnExec::Keep).unwrap();
    let memfd = fs::tmpfs::memfd(&m.caller(), b"mem", 0).unwrap();
    files.add(memfd, 100, OnExec::Keep).unwrap();
    assert_eq!(m.names("/proc/self/fd").unwrap(), [".", "..", "0", "1", "2", "3"]);
    assert_eq!(link(&m, "/proc/self/fd/0"), "/a b");
    assert!(link(&m, "/proc/self/fd/1").starts_with("pipe:["));
    assert_eq!(link(&m, "/proc/self/fd/3"), "/memfd:mem (deleted)");
    m.unlink("/a b").unwrap();
    assert_eq!(link(&m, "/proc/self/fd/0"), "/a b (deleted)");
    assert_eq!(m.read("/proc/self/fd/0").unwrap(), b"text", "a removed file can be opened again");
    let writer = m.open("/proc/self/fd/2", OpenFlags::WRONLY).unwrap();
    common::write(&writer, b"hello").unwrap();
    assert_eq!(read_some(&m.open("/proc/self/fd/1", OpenFlags::NONBLOCK).unwrap(), 9).unwrap(), b"hello");
    assert_eq!(m.lstat("/proc/self/fd/1").unwrap().mode, 0o500);
    let info = String::from_utf8(m.read("/proc/self/fdinfo/1").unwrap()).unwrap();
    assert!(info.starts_with("pos:\t0\nflags:\t02000000\nmnt_id:\t"), "{info}");
    assert_eq!(link(&m, "/proc/self/ns/mnt"), "mnt:[4026531841]");
    assert_eq!(link(&m, "/proc/self/ns/pid_for_children"), "pid:[4026531836]");
    drop(files.remove(1));
    assert_eq!(m.lstat("/proc/self/fd/1").unwrap_err(), Errno::ENOENT);
    let no_magic = LookupFlags::from_resolve(2).unwrap();
    let error = m.caller().lookup(PathAt::cwd(b"/proc/self/fd/0"), no_magic | LookupFlags::FOLLOW).unwrap_err();
    assert_eq!(error.errno(), Errno::ELOOP);
}

#[test]
fn mountinfo_shows_the_tree_and_polls_as_changed() {
    let (m, _, _) = machine();
    m.mkdir("/a b").unwrap();
    let file = m.open("/proc/self/mountinfo", OpenFlags::empty()).unwrap();
    common::read_all(&file).unwrap();
    assert!(!file.poll(None).contains(Events::PRI));
    m.mount("tmpfs", "/a b", MountFlags::NOSUID | MountFlags::NODEV, "size=64k,mode=700").unwrap();
    assert!(file.poll(None).contains(Events::PRI | Events::ERR));
    let text = String::from_utf8(m.read("/proc/self/mountinfo").unwrap()).unwrap();
    let line = text.lines().find(|line| line.contains("/a\\040b")).unwrap();
    let fields: Vec<&str> = line.split(' ').collect();
    assert_eq!(fields[3..], ["/", "/a\\040b", "rw,nosuid,nodev,relatime", "-", "tmpfs", "none", "rw,size=64k,mode=700"]);
    let mounts = String::from_utf8(m.read("/proc/mounts").unwrap()).unwrap();
    assert!(mounts.contains("none /a\\040b tmpfs rw,size=64k,mode=700,nosuid,nodev,relatime 0 0\n"), "{mounts}");
}

#[test]
fn settings_are_read_written_and_guarded() {
    let (m, _, _) = machine();
    assert_eq!(m.read("/proc/sys/fs/pipe-max-size").unwrap(), b"1048576\n");
    m.write("/proc/sys/vm/swappiness", b"10\n").unwrap();
    assert_eq!(m.read("/proc/sys/vm/swappiness").unwrap(), b"10\n");
    assert_eq!(m.write("/proc/sys/vm/swappiness", b"1000").unwrap_err(), Errno::EINVAL);
    assert_eq!(m.write("/proc/sys/vm/swappiness", b"x").unwrap_err(), Errno::EINVAL);
    assert_eq!(m.user(5, 5).write("/proc/sys/vm/swappiness", b"1").unwrap_err(), Errno::EACCES);
    assert_eq!(m.stat("/proc/sys/kernel").unwrap().kind, FileKind::Directory);
    let meminfo = String::from_utf8(m.read("/proc/meminfo").unwrap()).unwrap();
    assert!(meminfo.starts_with("MemTotal:          32768 kB\n"), "{meminfo}");
    m.write("/proc/sys/vm/drop_caches", b"3").unwrap();
}
