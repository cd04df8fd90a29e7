//! What `/proc` shows of processes and of the machine: `task`'s and `mm`'s facts in proc(5)'s words.

use crate::machine::Machine;
use abi::{Errno, PAGE_SIZE, SigSet, Signal};
use fs::kernfs::{Asking, FileSpec};
use fs::proc::{Proc, ProcessFile, ProcessSource, ProcessView, Scope, SystemInfo, register_system};
use mm::AddressSpace;
use platform::Protection;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use task::{System, Task, current_task};
use vfs::{Credentials, MountNamespace, OnExec, OpenFile, Path, UserMemory};

/// Most descriptors told of at once.
const DESCRIPTORS_AT_ONCE: usize = 256;
/// How far [`View::auxv`] looks, and the most that it takes.
const AUXV_WORDS: u64 = 1 << 20;
const AUXV_PAIRS: usize = 64;
/// The map of the first user namespace: everybody is who he is.
const ALL_IDS: &[u8] = b"         0          0 4294967295\n";
/// Ticks of a second in `/proc/PID/stat`.
const TICK_NS: u64 = 10_000_000;

/// All processes.
struct Source(&'static System);

/// A process (by its first thread, or what is left of it) or a thread.
struct View {
    system: &'static System,
    process: Arc<task::Process>,
    /// None for a zombie.
    task: Option<Arc<Task>>,
    tid: i32,
}

impl Source {
    fn view(&self, process: Arc<task::Process>, tid: i32) -> Arc<View> {
        let task = self.0.task(tid).ok().or_else(|| process.any_thread());
        Arc::new(View { system: self.0, process, task, tid })
    }
}

impl ProcessSource for Source {
    fn current(&self) -> Option<Arc<dyn ProcessView>> {
        let task = current_task()?;
        Some(Arc::new(View { system: self.0, process: task.process().clone(), tid: task.tid(), task: Some(task) }))
    }
    fn find(&self, id: i32) -> Option<Arc<dyn ProcessView>> {
        if let Ok(process) = self.0.process(id) {
            return Some(self.view(process, id));
        }
        let task = self.0.task(id).ok()?;
        Some(self.view(task.process().clone(), id))
    }
    fn caller_may_inspect(&self, target: &Arc<dyn ProcessView>) -> bool {
        current_task().is_none_or(|task| target.may_inspect(&task.credentials()))
    }
    fn processes(&self, from: i32, count: usize) -> Vec<i32> {
        self.0.table().tree.pids().filter(|pid| *pid >= from).take(count).collect()
    }
}

impl ProcessView for View {
    fn pid(&self) -> i32 {
        self.process.pid()
    }
    fn tid(&self) -> i32 {
        self.tid
    }
    fn is_alive(&self) -> bool {
        let table = self.system.table();
        table.process(self.tid).is_some_and(|p| Arc::ptr_eq(p, &self.process)) || table.task(self.tid).is_some()
    }
    fn owner(&self) -> (u32, u32) {
        let dumpable = self.process.dumpable.load(Ordering::Relaxed) == 1;
        self.task.as_ref().filter(|_| dumpable).map_or((0, 0), |task| {
            let credentials = task.credentials();
            (credentials.euid, credentials.egid)
        })
    }
    fn may_inspect(&self, credentials: &Credentials) -> bool {
        let Some(task) = &self.task else { return credentials.has(vfs::Capability::SYS_PTRACE) };
        let target = task.credentials();
        let same = [target.uid, target.euid, target.suid].iter().all(|uid| *uid == credentials.fsuid)
            && [target.gid, target.egid, target.sgid].iter().all(|gid| *gid == credentials.fsgid);
        let dumpable = self.process.dumpable.load(Ordering::Relaxed) == 1;
        (same && dumpable) || credentials.has(vfs::Capability::SYS_PTRACE)
    }
    fn threads(&self) -> Vec<i32> {
        let mut tids: Vec<i32> = self.process.threads().iter().map(|t| t.tid()).collect();
        tids.sort_unstable();
        tids
    }
    fn thread(&self, tid: i32) -> Option<Arc<dyn ProcessView>> {
        let task = self.process.threads().into_iter().find(|t| t.tid() == tid)?;
        Some(Arc::new(View { system: self.system, process: self.process.clone(), task: Some(task), tid }))
    }
    fn descriptors(&self, from: i32) -> Vec<i32> {
        let Some(files) = self.task.as_ref().and_then(|t| t.resources().files) else { return Vec::new() };
        files.descriptors().into_iter().filter(|fd| *fd >= from).take(DESCRIPTORS_AT_ONCE).collect()
    }
    fn file(&self, fd: i32) -> Option<(Arc<OpenFile>, OnExec)> {
        let files = self.task.as_ref()?.resources().files?;
        Some((files.get(fd).ok()?, files.on_exec(fd).ok()?))
    }
    fn exe(&self) -> Option<Path> {
        Some(self.process.executable()?.file().path().clone())
    }
    fn cwd(&self) -> Option<Path> {
        Some(self.task.as_ref()?.resources().fs?.cwd())
    }
    fn root(&self) -> Option<Path> {
        Some(self.task.as_ref()?.resources().fs?.root())
    }
    fn mounts(&self) -> Option<Arc<MountNamespace>> {
        self.task.as_ref()?.resources().namespace
    }
    fn namespaces(&self) -> Vec<(&'static str, u64)> {
        // Only those that there can be more than one of: what is not here is not configured.
        const FIRST: u64 = 0xf000_0000;
        let mount = self.mounts().map_or(0, |m| m.id());
        let uts = self.task.as_ref().map_or_else(|| self.system.uts.id(), |task| task.uts.lock().id());
        vec![("mnt", FIRST + mount), ("uts", uts)]
    }
}

impl View {
    fn memory(&self) -> Option<Arc<AddressSpace>> {
        self.task.as_ref()?.resources().memory
    }

    /// The letter of `State`.
    fn state(&self) -> (char, &'static str) {
        if self.task.as_ref().is_some_and(|t| t.is_trace_stopped()) {
            return ('t', "tracing stop");
        }
        let (dead, stopped) = {
            let table = self.system.table();
            table.tree.get(self.pid()).map_or((true, false), |n| (n.is_dead(), n.stopped))
        };
        let running =
            self.task.as_ref().is_some_and(|t| t.in_guest.load(Ordering::Relaxed) || current_task().is_some_and(|c| c.tid() == t.tid()));
        match (dead, stopped, running) {
            (true, ..) => ('Z', "zombie"),
            (_, true, _) => ('T', "stopped"),
            (.., true) => ('R', "running"),
            _ => ('S', "sleeping"),
        }
    }

    fn name(&self) -> String {
        self.task.as_ref().map_or_else(
            || String::from_utf8_lossy(self.process.comm().split(|b| *b == 0).next().unwrap_or_default()).into_owned(),
            |t| t.comm_text(),
        )
    }

    /// Bytes of the process's memory in a range, less what can't be read.
    fn bytes(&self, range: std::ops::Range<u64>) -> Vec<u8> {
        const LIMIT: u64 = 1 << 20;
        let Some(memory) = self.memory() else { return Vec::new() };
        let mut bytes = vec![0; (range.end - range.start).min(LIMIT) as usize];
        let n = memory.read(range.start, &mut bytes).unwrap_or(0);
        bytes.truncate(n);
        bytes
    }

    fn stat(&self) -> String {
        let page = PAGE_SIZE as u64;
        let usage = self.memory().map(|m| m.usage());
        let layout = self.memory().map(|m| m.layout());
        let (parent, group, session, tty, foreground) = {
            let table = self.system.table();
            let node = table.tree.get(self.pid());
            let session = node.map_or(0, |n| n.session);
            let terminal = table.terminal(session).cloned();
            let (tty, foreground) = terminal.map_or((0, -1), |t| (t.device(), t.foreground().unwrap_or(-1)));
            (node.map_or(0, |n| n.parent), node.map_or(0, |n| n.group), session, tty, foreground)
        };
        let (user_ns, total_ns) = self.process.cpu_time_ns();
        let signals = self.signals();
        let threads = self.process.threads().len().max(1);
        let started = self.task.as_ref().map_or(0, |t| t.started_at_ns) / TICK_NS;
        let nice = self.task.as_ref().map_or(0, |t| t.nice.load(Ordering::Relaxed));
        let own = self.process.usage();
        let vsize = usage.as_ref().map_or(0, |u| u.total * page);
        let rss = usage.as_ref().map_or(0, |u| u.resident.anon + u.resident.file + u.resident.shmem);
        let (code, stack) = layout.as_ref().map_or((0..0, 0), |l| (l.code.clone(), l.start_stack));
        format!(
            "{} ({}) {} {parent} {group} {session} {tty} {foreground} 4194560 {} 0 {} 0 {} {} 0 0 {} {nice} {threads} 0 {started} {vsize} {rss} {} {} {} {stack} 0 0 {} {} {} {} 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
            self.tid,
            self.name(),
            self.state().0,
            own.minor_faults,
            own.major_faults,
            user_ns / TICK_NS,
            total_ns.saturating_sub(user_ns) / TICK_NS,
            20 + nice,
            u64::MAX,
            code.start,
            code.end,
            signals[0].0 & 0x7fff_ffff,
            signals[2].0 & 0x7fff_ffff,
            signals[3].0 & 0x7fff_ffff,
            signals[4].0 & 0x7fff_ffff,
        )
    }

    /// Pending for the thread, pending for the process, blocked, ignored, caught.
    fn signals(&self) -> [SigSet; 5] {
        let signals = self.process.signals();
        let (own, shared) = signals.pending_parts(self.tid);
        let blocked = signals.thread(self.tid).map_or(SigSet::EMPTY, |t| t.blocked);
        let actions = signals.actions.lock();
        let (mut ignored, mut caught) = (SigSet::EMPTY, SigSet::EMPTY);
        for signal in (1..=64).filter_map(Signal::new) {
            match actions.get(signal).handler {
                abi::siginfo::SIG_DFL => {}
                abi::siginfo::SIG_IGN => ignored.add(signal),
                _ => caught.add(signal),
            }
        }
        [own, shared, blocked, ignored, caught]
    }

    fn status(&self) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: String| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name}:\t{value}");
        };
        let (letter, word) = self.state();
        row("Name", self.name());
        row("Umask", self.task.as_ref().and_then(|t| t.resources().fs).map_or("0022".into(), |fs| format!("{:04o}", fs.umask())));
        row("State", format!("{letter} ({word})"));
        row("Tgid", self.pid().to_string());
        row("Ngid", "0".into());
        row("Pid", self.tid.to_string());
        row("PPid", self.process.parent().to_string());
        row("TracerPid", self.task.as_ref().map_or(0, |t| t.tracer()).to_string());
        let credentials = self.task.as_ref().map(|t| t.credentials());
        if let Some(c) = &credentials {
            row("Uid", format!("{}\t{}\t{}\t{}", c.uid, c.euid, c.suid, c.fsuid));
            row("Gid", format!("{}\t{}\t{}\t{}", c.gid, c.egid, c.sgid, c.fsgid));
        }
        row("FDSize", self.task.as_ref().and_then(|t| t.resources().files).map_or(0, |f| f.capacity()).to_string());
        if let Some(c) = &credentials {
            row("Groups", c.groups.iter().map(|g| format!("{g} ")).collect());
        }
        if let Some(u) = self.memory().map(|m| m.usage()) {
            let kb = |pages: u64| format!("{:>8} kB", (pages * PAGE_SIZE as u64) >> 10);
            let resident = u.resident.anon + u.resident.file + u.resident.shmem;
            for (name, bytes) in [
                ("VmPeak", u.total),
                ("VmSize", u.total),
                ("VmLck", u.locked),
                ("VmHWM", resident),
                ("VmRSS", resident),
                ("RssAnon", u.resident.anon),
                ("RssFile", u.resident.file),
                ("RssShmem", u.resident.shmem),
                ("VmData", u.data),
                ("VmStk", u.stack),
                ("VmExe", u.code),
                ("VmPTE", u.table_bytes / PAGE_SIZE as u64),
                ("VmSwap", 0),
            ] {
                row(name, kb(bytes));
            }
        }
        row("Threads", self.process.threads().len().to_string());
        let [own, shared, blocked, ignored, caught] = self.signals();
        row("SigQ", format!("0/{}", self.process.rlimit(abi::Resource::Sigpending).soft));
        for (name, set) in [("SigPnd", own), ("ShdPnd", shared), ("SigBlk", blocked), ("SigIgn", ignored), ("SigCgt", caught)] {
            row(name, format!("{:016x}", set.0));
        }
        if let Some(c) = &credentials {
            for (name, set) in
                [("CapInh", c.inheritable), ("CapPrm", c.permitted), ("CapEff", c.effective), ("CapBnd", c.bounding), ("CapAmb", c.ambient)]
            {
                row(name, format!("{:016x}", set.0));
            }
            row("NoNewPrivs", u8::from(c.no_new_privs).to_string());
        }
        let seccomp = self.task.as_ref().map(|t| t.seccomp.lock().clone()).unwrap_or_default();
        row("Seccomp", seccomp.number().to_string());
        row("Seccomp_filters", seccomp.filters().to_string());
        let cpus = sync::sched::scheduler().map_or(1, sync::sched::Scheduler::cpus);
        row("Cpus_allowed", format!("{:x}", (1u128 << cpus.min(127)) - 1));
        row("Cpus_allowed_list", if cpus == 1 { "0".into() } else { format!("0-{}", cpus - 1) });
        if let Some(task) = &self.task {
            row("voluntary_ctxt_switches", task.usage.voluntary_switches.load(Ordering::Relaxed).to_string());
            row("nonvoluntary_ctxt_switches", task.usage.involuntary_switches.load(Ordering::Relaxed).to_string());
        }
        text
    }

    fn maps(&self, with_pages: bool) -> String {
        let mut text = String::new();
        let Some(memory) = self.memory() else { return text };
        memory.for_each_vma(|vma| {
            let right = |bit, letter| if vma.rights.contains(bit) { letter } else { '-' };
            let shared = if vma.flags.contains(mm::VmaFlags::SHARED) { 's' } else { 'p' };
            let (device, inode) = vma.file.as_ref().map_or((0, 0), |f| (f.device(), f.inode()));
            let (major, minor) = (device >> 8 & 0xfff, device & 0xff);
            let mut line = format!(
                "{:08x}-{:08x} {}{}{}{shared} {:08x} {major:02x}:{minor:02x} {inode} ",
                vma.start,
                vma.end,
                right(Protection::READ, 'r'),
                right(Protection::WRITE, 'w'),
                right(Protection::EXEC, 'x'),
                vma.offset
            );
            let name = vma
                .file
                .as_ref()
                .map(|f| String::from_utf8_lossy(&f.path()).replace('\n', "\\012"))
                .or_else(|| vma.name.map(str::to_owned));
            if let Some(name) = name {
                line = format!("{line:<73}{name}");
            }
            text.push_str(&line);
            text.push('\n');
            if with_pages {
                let s = memory.smaps(vma.start, vma.end);
                for (name, bytes) in [
                    ("Size", vma.end - vma.start),
                    ("KernelPageSize", PAGE_SIZE as u64),
                    ("MMUPageSize", PAGE_SIZE as u64),
                    ("Rss", s.resident),
                    ("Pss", s.proportional),
                    ("Shared_Clean", s.shared_clean),
                    ("Shared_Dirty", s.shared_dirty),
                    ("Private_Clean", s.private_clean),
                    ("Private_Dirty", s.private_dirty),
                    ("Referenced", s.referenced),
                    ("Anonymous", s.anonymous),
                ] {
                    let _ = writeln!(text, "{:<16}{:>8} kB", format!("{name}:"), bytes >> 10);
                }
            }
        });
        text
    }

    /// What the program was started with besides its strings, from where exec laid it: behind the pointers to arguments and environment.
    fn auxv(&self) -> Vec<u8> {
        let Some(memory) = self.memory() else { return Vec::new() };
        let start = memory.layout().start_stack;
        let word = |index: u64| {
            let mut bytes = [0; 8];
            memory.read_exact(start.wrapping_add(index * 8), &mut bytes).map(|()| u64::from_ne_bytes(bytes)).ok()
        };
        // The count of arguments, they, a null, the environment, a null.
        let Some(mut at) = word(0).filter(|count| *count < AUXV_WORDS).map(|count| count + 2) else { return Vec::new() };
        while at < AUXV_WORDS && word(at).is_some_and(|pointer| pointer != 0) {
            at += 1;
        }
        let mut bytes = Vec::new();
        for index in (at + 1..).step_by(2).take(AUXV_PAIRS) {
            let (Some(key), Some(value)) = (word(index), word(index + 1)) else { break };
            bytes.extend_from_slice(&key.to_ne_bytes());
            bytes.extend_from_slice(&value.to_ne_bytes());
            if key == 0 {
                break;
            }
        }
        bytes
    }

    fn limits(&self) -> String {
        let mut text = format!("{:<26}{:<21}{:<21}{:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
        for resource in abi::Resource::ALL {
            let limit = self.process.rlimit(resource);
            let shown = |value: u64| if value == abi::RLIM_INFINITY { "unlimited".to_owned() } else { value.to_string() };
            let (name, unit) = resource.label();
            let _ = writeln!(text, "{name:<26}{:<21}{:<21}{unit:<10}", shown(limit.soft), shown(limit.hard));
        }
        text
    }
}

fn file(name: &'static str, mode: u32, show: impl Fn(&View) -> Vec<u8> + Send + Sync + 'static) -> ProcessFile {
    ProcessFile::show(name, mode, move |process, _| Ok(show(process.downcast::<View>().ok_or(Errno::ESRCH)?)))
}

/// A file that its process, and whoever owns it, may write.
fn written(
    name: &'static str,
    show: impl Fn(&View) -> Vec<u8> + Send + Sync + 'static,
    store: impl Fn(&View, &Asking<'_>, &[u8]) -> Result<(), Errno> + Send + Sync + 'static,
) -> ProcessFile {
    let (show, store) = (Arc::new(show), Arc::new(store));
    ProcessFile::new(name, 0o644, move |process| {
        let (shown, stored, show, store) = (process.clone(), process.clone(), show.clone(), store.clone());
        FileSpec::show(move |_| Ok(show(shown.downcast::<View>().ok_or(Errno::ESRCH)?)))
            .store(move |asking, data| Ok(store(stored.downcast::<View>().ok_or(Errno::ESRCH)?, asking, data)?))
    })
}

/// Only a thread of the same process may name another, proc(5).
fn set_comm(view: &View, _: &Asking<'_>, data: &[u8]) -> Result<(), Errno> {
    if current_task().is_none_or(|task| !Arc::ptr_eq(task.process(), &view.process)) {
        return Err(Errno::EINVAL);
    }
    let task = view.task.as_ref().ok_or(Errno::ESRCH)?;
    task.set_comm(task::task::comm_of(data));
    Ok(())
}

/// From -1000 to 1000; to lower it takes CAP_SYS_RESOURCE.
fn set_oom_score_adj(view: &View, asking: &Asking<'_>, data: &[u8]) -> Result<(), Errno> {
    let value: i32 = fs::kernfs::parse(data)?;
    if !(-1000..=1000).contains(&value) {
        return Err(Errno::EINVAL);
    }
    let score = &view.process.oom_score_adj;
    if value < score.load(Ordering::Relaxed) && !asking.credentials.has(vfs::Capability::SYS_RESOURCE) {
        return Err(Errno::EACCES);
    }
    score.store(value, Ordering::Relaxed);
    Ok(())
}

/// Set once by whoever logs somebody in; after that only with CAP_AUDIT_CONTROL, and by the process itself alone.
fn set_loginuid(view: &View, asking: &Asking<'_>, data: &[u8]) -> Result<(), Errno> {
    static LOGINS: AtomicU32 = AtomicU32::new(0);
    let is_own = current_task().is_some_and(|task| Arc::ptr_eq(task.process(), &view.process));
    let wanted: u32 = fs::kernfs::parse(data)?;
    let login = &view.process.login;
    let is_set = login.uid.load(Ordering::Relaxed) != u32::MAX;
    if !is_own || (is_set && !asking.credentials.has(vfs::Capability::AUDIT_CONTROL)) {
        return Err(Errno::EPERM);
    }
    let session = if wanted == u32::MAX { u32::MAX } else { LOGINS.fetch_add(1, Ordering::Relaxed) + 1 };
    login.uid.store(wanted, Ordering::Relaxed);
    login.session.store(session, Ordering::Relaxed);
    Ok(())
}

fn register_process_files(proc: &Proc) {
    for entry in [
        file("stat", 0o444, |v| v.stat().into_bytes()),
        file("status", 0o444, |v| v.status().into_bytes()),
        written("comm", |v| format!("{}\n", v.name()).into_bytes(), set_comm),
        file("cmdline", 0o444, |v| v.memory().map(|m| v.bytes(m.layout().arg)).unwrap_or_default()),
        file("environ", 0o400, |v| v.memory().map(|m| v.bytes(m.layout().env)).unwrap_or_default()).inspecting(),
        file("maps", 0o444, |v| v.maps(false).into_bytes()).inspecting(),
        file("smaps", 0o444, |v| v.maps(true).into_bytes()).inspecting(),
        file("auxv", 0o400, View::auxv).inspecting(),
        file("personality", 0o400, |v| format!("{:08x}\n", v.process.personality.load(Ordering::Relaxed)).into_bytes()).inspecting(),
        file("uid_map", 0o644, |_| ALL_IDS.to_vec()),
        file("gid_map", 0o644, |_| ALL_IDS.to_vec()),
        file("setgroups", 0o644, |_| b"allow\n".to_vec()),
        file("limits", 0o444, |v| v.limits().into_bytes()),
        file("wchan", 0o444, |_| b"0".to_vec()),
        written("oom_score_adj", |v| format!("{}\n", v.process.oom_score_adj.load(Ordering::Relaxed)).into_bytes(), set_oom_score_adj),
        file("oom_score", 0o444, |v| format!("{}\n", v.memory().map_or(0, |m| m.badness())).into_bytes()).scoped(Scope::Process),
        written("loginuid", |v| v.process.login.uid.load(Ordering::Relaxed).to_string().into_bytes(), set_loginuid),
        file("sessionid", 0o444, |v| v.process.login.session.load(Ordering::Relaxed).to_string().into_bytes()),
        file("cgroup", 0o444, |v| format!("0::{}\n", v.system.cgroups.path(v.process.cgroup.load(Ordering::Relaxed))).into_bytes()),
        file("statm", 0o444, move |v| {
            let Some(u) = v.memory().map(|m| m.usage()) else { return b"0 0 0 0 0 0 0\n".to_vec() };
            let shared = u.resident.file + u.resident.shmem;
            format!("{} {} {} {} 0 {} 0\n", u.total, u.resident.anon + shared, shared, u.code, u.data + u.stack).into_bytes()
        }),
    ] {
        proc.process_file(entry);
    }
    let memory = ProcessFile::new("mem", 0o600, |process| {
        let process = process.clone();
        FileSpec::open_with(move |_| {
            let view = process.downcast::<View>().ok_or(Errno::ESRCH)?;
            Ok(crate::procmem::open(&view.memory().ok_or(Errno::ESRCH)?))
        })
    });
    proc.process_file(memory.inspecting());
}

fn cpuinfo(cpus: usize) -> String {
    let host = host::start::uname();
    let flags = host::start::processor_flags();
    (0..cpus)
        .map(|n| {
            format!(
                "processor\t: {n}\nvendor_id\t: User Mode Linux\nmodel name\t: UML\nmode\t\t: skas\nhost\t\t: {host}\nfpu\t\t: yes\nflags\t\t: {flags}\ncache_alignment\t: 64\nbogomips\t: {:.2}\n\n",
                host::start::bogomips()
            )
        })
        .collect()
}

fn stat(system: &'static System) -> String {
    let cpus = sync::sched::scheduler().map_or(1, sync::sched::Scheduler::cpus);
    let (mut user, mut total) = (0, 0);
    for task in system.table().all_tasks() {
        let (u, t) = task.cpu_time_ns();
        (user, total) = (user + u, total + t);
    }
    let idle = (sync::monotonic_ns() * cpus as u64).saturating_sub(total);
    let row = |name: &str, share: u64| {
        format!(
            "{name} {} 0 {} {} 0 0 0 0 0 0\n",
            user / TICK_NS / share,
            total.saturating_sub(user) / TICK_NS / share,
            idle / TICK_NS / share
        )
    };
    let mut text = row("cpu ", 1);
    for cpu in 0..cpus {
        text.push_str(&row(&format!("cpu{cpu}"), cpus as u64));
    }
    let switches = sync::sched::scheduler().map_or(0, |s| s.stats.switches.load(Ordering::Relaxed));
    let boot = (sync::realtime_ns().saturating_sub(sync::monotonic_ns())) / abi::NS_PER_SEC;
    let waiting = sync::sched::scheduler().map_or(0, sync::sched::Scheduler::waiting);
    let _ = write!(
        text,
        "intr 0\nctxt {switches}\nbtime {boot}\nprocesses {}\nprocs_running {}\nprocs_blocked 0\nsoftirq 0\n",
        system.forks.load(Ordering::Relaxed),
        waiting + 1
    );
    text
}

/// Makes `/proc` and tells it of this machine.
pub fn make(machine: &Machine, command_line: &str) -> Arc<Proc> {
    let system = machine.system;
    let cpus = machine.scheduler.cpus();
    let proc = Proc::new(machine.vfs);
    proc.set_source(Arc::new(Source(system)));
    register_process_files(&proc);
    crate::sysctls::register(&proc, machine.system);
    let info = SystemInfo {
        version: format!("Linux version {} (umlaut) (rustc) #1 SMP PREEMPT_DYNAMIC", crate::RELEASE),
        cmdline: command_line.to_owned(),
        cpuinfo: Box::new(move || cpuinfo(cpus)),
        stat: Box::new(move || stat(system)),
        loadavg: Box::new(move || {
            let waiting = sync::sched::scheduler().map_or(0, sync::sched::Scheduler::waiting);
            let table = system.table();
            format!("{} {}/{} {}\n", system.load.text(), waiting + 1, table.tree.thread_count(), table.tree.last_pid())
        }),
        idle_ns: Box::new(move || {
            let used: u64 = system.table().all_tasks().iter().map(|t| t.cpu_time_ns().1).sum();
            (sync::monotonic_ns() * cpus as u64).saturating_sub(used)
        }),
        memory: Box::new(Vec::new),
        swaps: Box::new(|| "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_owned()),
    };
    register_system(&proc, machine.vfs, info);
    proc.tree().file("cgroups", 0o444, FileSpec::text(move || crate::cgroupfs::table(system)));
    register_umlaut(&proc, machine);
    proc
}

/// `/proc/umlaut`: counters of our own.
fn register_umlaut(proc: &Proc, machine: &Machine) {
    let stubs = machine.stubs;
    let scheduler = machine.scheduler;
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    proc.tree().file(
        "umlaut/counters",
        0o444,
        FileSpec::text(move || {
            let c = &stubs.counters;
            [
                ("guest_stops", scheduler.guest_stops()),
                ("map_batches", count(&c.map_batches)),
                ("map_commands", count(&c.map_commands)),
                ("stubs_made", count(&c.stubs_made)),
                ("stubs_recycled", count(&c.stubs_recycled)),
                ("stubs_alive", stubs.alive() as u64),
                ("threads_made", count(&c.threads_made)),
                ("killed_defiant", count(&c.killed_defiant)),
                ("killed_forged", count(&c.killed_forged)),
                ("fiber_switches", count(&scheduler.stats.switches)),
                ("kicks", count(&scheduler.stats.kicks)),
                ("steals", count(&scheduler.stats.steals)),
            ]
            .iter()
            .map(|(name, value)| format!("{name} {value}\n"))
            .chain([format!("hand_over {}\n", stubs.hand_over().name())])
            .collect()
        }),
    );
    proc.tree().file(
        "umlaut/unimplemented",
        0o444,
        FileSpec::text(|| {
            let counts = syscall::unimplemented_counts();
            counts.iter().map(|(number, count)| format!("{number} {} {count}\n", syscall::name(*number).unwrap_or("?"))).collect()
        }),
    );
}
