//! The machine as tasks see it: the table of processes, limits, futexes, users, names; and what the kernel's wiring must give ([`Hooks`]).
//!
//! Always true: the table's lock ([`Rank::Processes`]) is taken before any process's signal lock, and never while one is held.

use crate::current::Current;
use crate::futex::Futexes;
use crate::process::Process;
use crate::signal::UserAccount;
use crate::task::Task;
use crate::tree::Tree;
use abi::{Errno, RLIM_INFINITY, RLIM_NLIMITS, Resource, Rlimit, SigInfo, WaitStatus};
use platform::Platform;
use ram::Ram;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::sync::{Arc, Weak};
use sync::{Fiber, Rank, SpinLock};
use vfs::Vfs;

/// How much there may be of what a guest can make. The kernel derives it from RAM and the host's own limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Threads in the machine (`/proc/sys/kernel/threads-max`).
    pub threads_max: usize,
    /// Thread numbers stay below this.
    pub pid_max: i32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { threads_max: 4096, pid_max: 32768 }
    }
}

impl Limits {
    /// Resource limits of the first process, as `INIT_RLIMITS` has them.
    #[must_use]
    pub fn initial_rlimits(&self) -> [Rlimit; RLIM_NLIMITS] {
        let mut limits = [Rlimit::INFINITE; RLIM_NLIMITS];
        let half = Rlimit::both(self.threads_max as u64 / 2);
        for (resource, limit) in [
            (Resource::Stack, Rlimit { soft: 8 << 20, hard: RLIM_INFINITY }),
            (Resource::Core, Rlimit { soft: 0, hard: RLIM_INFINITY }),
            (Resource::Nproc, half),
            (Resource::Nofile, Rlimit { soft: 1024, hard: 4096 }),
            (Resource::Memlock, Rlimit::both(8 << 20)),
            (Resource::Sigpending, half),
            (Resource::Msgqueue, Rlimit::both(819_200)),
            (Resource::Nice, Rlimit::both(0)),
            (Resource::Rtprio, Rlimit::both(0)),
        ] {
            limits[resource as usize] = limit;
        }
        limits
    }
}

/// What reboot(2) asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Power {
    Halt,
    Off,
    Restart,
}

/// What the kernel's wiring does for tasks.
pub trait Hooks: Send + Sync {
    /// Runs a new thread's loop (`kernel::run`) on a fiber of its own. EAGAIN, ENOMEM.
    fn start(&self, current: Current) -> Result<(), Errno>;
    /// Stops the guest thread that the fiber may be running on another virtual CPU, so that it notices a signal. Harmless if it runs none.
    fn kick(&self, fiber: &Fiber);
    /// Random bytes for `AT_RANDOM`, address-space layout and getrandom(2).
    fn entropy(&self, bytes: &mut [u8]);
    /// A line for the kernel log.
    fn log(&self, line: &str);
    /// The first process has died: the machine can't go on.
    fn init_died(&self, status: WaitStatus);
    /// reboot(2): the machine ends, or begins again. May return; the caller's process goes on until it does not.
    fn power(&self, power: Power);
    /// clock_settime(2): the real-time clock shows this much more than the host's.
    fn realtime_was_set(&self, _offset_ns: i64) {}
    /// The pages of the guest's vDSO, to be mapped in every program.
    fn vdso(&self) -> Option<Arc<dyn vfs::Pages>> {
        None
    }
    /// The control group whose directory this open file is.
    fn cgroup_of(&self, _file: &vfs::OpenFile) -> Option<crate::cgroup::GroupId> {
        None
    }
    /// Writes a core file for the process of `current`, if its limits allow one. Whether it did.
    fn dump_core(&self, _current: &mut Current, _info: &SigInfo) -> bool {
        false
    }
}

/// A terminal as its session knows it. The terminal keeps the foreground group and sends the signals.
pub trait ControllingTerminal: Send + Sync {
    /// `tty_nr` of `/proc/PID/stat`: the device number as `new_encode_dev` has it.
    fn device(&self) -> u64;
    /// The foreground process group (`tpgid`).
    fn foreground(&self) -> Option<i32>;
    /// The session's leader has died, or gives the terminal up: SIGHUP and SIGCONT to the foreground group, and no session any more.
    fn leader_exits(&self);
    /// For drivers that want their own type back.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// Host and domain name, uname(2).
#[derive(Clone, Debug)]
pub struct Names {
    pub node: Vec<u8>,
    pub domain: Vec<u8>,
    pub release: Vec<u8>,
    pub version: Vec<u8>,
}

/// The table of processes. Everything in it changes under one short lock.
pub struct Table {
    pub tree: Tree,
    pub(crate) processes: HashMap<i32, Arc<Process>>,
    pub(crate) tasks: HashMap<i32, Arc<Task>>,
    /// Session to terminal.
    pub(crate) terminals: BTreeMap<i32, Arc<dyn ControllingTerminal>>,
}

impl Table {
    /// A process by number, zombies included.
    #[must_use]
    pub fn process(&self, pid: i32) -> Option<&Arc<Process>> {
        self.processes.get(&pid)
    }
    /// A living thread by number.
    #[must_use]
    pub fn task(&self, tid: i32) -> Option<&Arc<Task>> {
        self.tasks.get(&tid)
    }
    /// Every process, zombies included.
    #[must_use]
    pub fn all_processes(&self) -> Vec<Arc<Process>> {
        self.processes.values().cloned().collect()
    }
    /// Every living thread.
    #[must_use]
    pub fn all_tasks(&self) -> Vec<Arc<Task>> {
        self.tasks.values().cloned().collect()
    }
    /// The members of a process group.
    pub fn group(&self, group: i32) -> impl Iterator<Item = &Arc<Process>> {
        self.tree.group(group).iter().filter_map(|pid| self.processes.get(pid))
    }
    /// The terminal that controls a session.
    #[must_use]
    pub fn terminal(&self, session: i32) -> Option<&Arc<dyn ControllingTerminal>> {
        self.terminals.get(&session)
    }
}

/// One machine. Tests make several.
pub struct System {
    pub ram: &'static Ram,
    pub vfs: &'static Vfs,
    pub platform: Arc<dyn Platform>,
    pub hooks: Box<dyn Hooks>,
    pub limits: Limits,
    pub futexes: Futexes,
    pub cgroups: crate::cgroup::Cgroups,
    /// The first IPC namespace.
    pub ipc: Arc<crate::ipc::Ipc>,
    /// The first UTS namespace.
    pub uts: Arc<crate::uts::Uts>,
    /// Monotonic time at which the machine was started: `CLOCK_BOOTTIME` and `/proc/uptime` count from it.
    pub started_at_ns: u64,
    /// What clock_settime(2) has added to the host's real-time clock.
    pub(crate) realtime_offset_ns: AtomicI64,
    /// When a process was last killed for its memory; 0: never.
    pub(crate) last_oom_ns: AtomicU64,
    /// Ctrl-Alt-Del restarts the machine at once; otherwise the first process gets SIGINT. reboot(2).
    pub ctrl_alt_del_restarts: AtomicBool,
    /// Processes made since then, for `/proc/stat`.
    pub forks: AtomicU64,
    pub load: crate::load::LoadAverages,
    table: SpinLock<Table>,
    users: SpinLock<HashMap<u32, Weak<UserAccount>>>,
}

impl System {
    /// A machine without processes.
    pub fn new(
        ram: &'static Ram,
        vfs: &'static Vfs,
        platform: Arc<dyn Platform>,
        hooks: Box<dyn Hooks>,
        limits: Limits,
    ) -> &'static System {
        let table = Table { tree: Tree::new(limits.pid_max), processes: HashMap::new(), tasks: HashMap::new(), terminals: BTreeMap::new() };
        Box::leak(Box::new(System {
            ram,
            vfs,
            platform,
            hooks,
            limits,
            futexes: Futexes::default(),
            cgroups: crate::cgroup::Cgroups::default(),
            ipc: Arc::default(),
            uts: crate::uts::Uts::first(Names {
                node: b"(none)".to_vec(),
                domain: b"(none)".to_vec(),
                release: b"6.12.0-umlaut".to_vec(),
                version: b"#1 SMP PREEMPT_DYNAMIC".to_vec(),
            }),
            started_at_ns: sync::monotonic_ns(),
            realtime_offset_ns: AtomicI64::new(0),
            last_oom_ns: AtomicU64::new(0),
            ctrl_alt_del_restarts: AtomicBool::new(true),
            forks: AtomicU64::new(0),
            load: crate::load::LoadAverages::default(),
            table: SpinLock::ranked(Rank::Processes, table),
            users: SpinLock::default(),
        }))
    }

    /// The table of processes.
    pub fn table(&self) -> sync::SpinGuard<'_, Table> {
        self.table.lock()
    }
    /// A living or dead process. ESRCH.
    pub fn process(&self, pid: i32) -> Result<Arc<Process>, Errno> {
        self.table().process(pid).cloned().ok_or(Errno::ESRCH)
    }
    /// A living thread. ESRCH.
    pub fn task(&self, tid: i32) -> Result<Arc<Task>, Errno> {
        self.table().task(tid).cloned().ok_or(Errno::ESRCH)
    }
    /// The terminal that controls a session, or none any more.
    pub fn set_session_terminal(&self, session: i32, terminal: Option<Arc<dyn ControllingTerminal>>) {
        let mut table = self.table();
        let old = match terminal {
            Some(terminal) => table.terminals.insert(session, terminal),
            None => table.terminals.remove(&session),
        };
        drop(table);
        drop(old);
    }
    /// What a user has outstanding.
    pub fn account(&self, uid: u32) -> Arc<UserAccount> {
        let mut users = self.users.lock();
        if let Some(account) = users.get(&uid).and_then(Weak::upgrade) {
            return account;
        }
        if users.len() > 1024 {
            users.retain(|_, account| account.strong_count() > 0);
        }
        let account = Arc::new(UserAccount::default());
        users.insert(uid, Arc::downgrade(&account));
        account
    }
    /// Random bytes.
    #[must_use]
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.hooks.entropy(&mut bytes);
        bytes
    }
}
