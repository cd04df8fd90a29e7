//! A process: what its threads have in common, and sending signals to it.
//!
//! Relations between processes are numbers in the table's tree; this is the object behind a number. It outlives its threads as a zombie.

use crate::signal::{Actions, Sent, Signals, Slot, ThreadSignals, To};
use crate::system::System;
use crate::task::{Comm, Task};
use crate::tree::Death;
use abi::siginfo::code;
use abi::{Errno, RLIM_NLIMITS, Resource, Rlimit, Rusage, SaFlags, SigFields, SigInfo, Signal, Timeval, WaitStatus};
use mm::AddressSpace;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use sync::{Events, Rank, SpinLock, WaitQueue};
use vfs::{Capability, Credentials};

/// Processor time of threads that are gone and of children that were waited for.
#[derive(Clone, Copy, Default, Debug)]
pub struct Totals {
    pub own: Rusage,
    pub children: Rusage,
}

/// A process.
pub struct Process {
    pid: i32,
    pub system: &'static System,
    signals: SpinLock<Signals>,
    /// Observers of arriving signals: signalfd(2).
    pub signal_arrived: Arc<WaitQueue>,
    /// Parents sleep here in wait(2).
    pub child_changed: WaitQueue,
    /// Its death: pidfds poll for it, execve(2) waits here for the other threads to go.
    pub exited: Arc<WaitQueue>,
    pub(crate) stopped: WaitQueue,
    threads: SpinLock<Vec<Weak<Task>>>,
    rlimits: SpinLock<[Rlimit; RLIM_NLIMITS]>,
    totals: SpinLock<Totals>,
    /// What the first thread passed to exit(2): the process's status if no group exit overrules it.
    pub(crate) leader_status: SpinLock<Option<WaitStatus>>,
    /// Its real user, for when its last thread is gone.
    pub(crate) exit_uid: AtomicU32,
    /// The signal that it gets when its parent dies, prctl(PR_SET_PDEATHSIG); 0: none.
    pub parent_death_signal: AtomicI32,
    /// prctl(PR_SET_DUMPABLE): 0 not, 1 yes, 2 by root only.
    pub dumpable: AtomicU8,
    /// The personality(2).
    pub personality: AtomicI32,
    /// `/proc/PID/oom_score_adj`.
    pub oom_score_adj: AtomicI32,
    /// Who logged in, for audit.
    pub login: Login,
    /// The program that it runs, as its path was given, for the log and `/proc`.
    pub(crate) program: SpinLock<Vec<u8>>,
    /// The program's file: `/proc/PID/exe`.
    pub(crate) executable: SpinLock<Option<Arc<crate::exec::Executable>>>,
    pub timers: crate::timers::ProcessTimers,
    /// The control group that it is in; a dead one's last.
    pub cgroup: AtomicU64,
    /// Threads of other processes that it traces.
    pub(crate) tracees: SpinLock<crate::ptrace::Tracees>,
    /// It has used semaphores with `SEM_UNDO`.
    pub(crate) has_undo: AtomicBool,
}

/// `/proc/PID/loginuid` and `sessionid`: whose login a process comes from. Both all ones: nobody's.
pub struct Login {
    pub uid: AtomicU32,
    pub session: AtomicU32,
}

impl Default for Login {
    fn default() -> Login {
        Login { uid: AtomicU32::new(u32::MAX), session: AtomicU32::new(u32::MAX) }
    }
}

impl Process {
    pub(crate) fn new(
        pid: i32,
        system: &'static System,
        actions: Arc<SpinLock<Actions>>,
        first_thread: ThreadSignals,
        rlimits: [Rlimit; RLIM_NLIMITS],
    ) -> Arc<Process> {
        Arc::new_cyclic(|this: &Weak<Process>| Process {
            pid,
            system,
            signals: SpinLock::ranked(Rank::Signals, Signals::new(actions, pid, first_thread, pid == 1)),
            signal_arrived: Arc::new(WaitQueue::new()),
            child_changed: WaitQueue::new(),
            exited: Arc::new(WaitQueue::new()),
            stopped: WaitQueue::new(),
            threads: SpinLock::default(),
            rlimits: SpinLock::new(rlimits),
            totals: SpinLock::default(),
            leader_status: SpinLock::new(None),
            exit_uid: AtomicU32::new(0),
            parent_death_signal: AtomicI32::new(0),
            dumpable: AtomicU8::new(1),
            personality: AtomicI32::new(0),
            oom_score_adj: AtomicI32::new(0),
            login: Login::default(),
            program: SpinLock::default(),
            executable: SpinLock::new(None),
            timers: crate::timers::ProcessTimers::new(this.clone()),
            cgroup: AtomicU64::new(crate::cgroup::ROOT),
            tracees: SpinLock::default(),
            has_undo: AtomicBool::new(false),
        })
    }

    /// Its number (`getpid`).
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }
    /// Its parent's number; 0 for the first process.
    #[must_use]
    pub fn parent(&self) -> i32 {
        self.system.table().tree.get(self.pid).map_or(0, |n| n.parent)
    }
    /// Its process group.
    #[must_use]
    pub fn group(&self) -> i32 {
        self.system.table().tree.get(self.pid).map_or(0, |n| n.group)
    }
    /// Its session.
    #[must_use]
    pub fn session(&self) -> i32 {
        self.system.table().tree.get(self.pid).map_or(0, |n| n.session)
    }
    /// Whether it is a zombie.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.system.table().tree.get(self.pid).is_none_or(crate::tree::Node::is_dead)
    }
    /// Its living threads.
    #[must_use]
    pub fn threads(&self) -> Vec<Arc<Task>> {
        self.threads.lock().iter().filter_map(Weak::upgrade).collect()
    }
    pub(crate) fn add_thread(&self, task: &Arc<Task>) {
        self.threads.lock().push(Arc::downgrade(task));
    }
    pub(crate) fn remove_thread(&self, task: &Task) {
        self.threads.lock().retain(|weak| !std::ptr::eq(weak.as_ptr(), task));
    }
    /// Its first living thread.
    #[must_use]
    pub fn any_thread(&self) -> Option<Arc<Task>> {
        self.threads.lock().iter().find_map(Weak::upgrade)
    }
    /// The address space of its first living thread.
    #[must_use]
    pub fn memory(&self) -> Option<Arc<AddressSpace>> {
        self.any_thread().and_then(|t| t.memory().ok())
    }
    /// The name of its first thread.
    #[must_use]
    pub fn comm(&self) -> Comm {
        self.any_thread().map_or([0; 16], |t| t.comm())
    }

    /// One resource limit.
    #[must_use]
    pub fn rlimit(&self, resource: Resource) -> Rlimit {
        self.rlimits.lock()[resource as usize]
    }
    /// All of them.
    #[must_use]
    pub fn rlimits(&self) -> [Rlimit; RLIM_NLIMITS] {
        *self.rlimits.lock()
    }
    /// Changes one; the caller checked it.
    pub fn set_rlimit(&self, resource: Resource, limit: Rlimit) {
        self.rlimits.lock()[resource as usize] = limit;
        if resource == Resource::Cpu {
            self.timers.watch_cpu_limit(limit.soft);
        }
    }
    /// Those that bind an address space, for a process with these credentials.
    #[must_use]
    pub fn memory_limits(&self, credentials: &Credentials) -> mm::Limits {
        let limit = |resource| self.rlimit(resource).soft;
        mm::Limits {
            address_space: limit(Resource::As),
            data: limit(Resource::Data),
            stack: limit(Resource::Stack),
            locked: if credentials.has(Capability::IPC_LOCK) { u64::MAX } else { limit(Resource::Memlock) },
        }
    }

    /// Its signal state. The lock is short, and the table's lock may not be taken under it.
    pub fn signals(&self) -> sync::SpinGuard<'_, Signals> {
        self.signals.lock()
    }

    /// Sends a signal, without asking whether the sender may.
    ///
    /// # Errors
    /// EAGAIN when a real-time signal with information can't be queued; ESRCH when no thread is left.
    pub fn send(&self, to: To, info: SigInfo) -> Result<(), Errno> {
        let slot = self.slot_for(&info)?;
        let sent = {
            let mut signals = self.signals();
            if signals.threads() == 0 {
                // A zombie may be signalled; nothing happens.
                return Ok(());
            }
            signals.send(to, info, slot)
        };
        self.after_send(&sent);
        Ok(())
    }

    fn slot_for(&self, info: &SigInfo) -> Result<Option<Slot>, Errno> {
        if !info.signal.is_realtime() {
            return Ok(None);
        }
        let uid = self.any_thread().map_or(0, |t| t.credentials().uid);
        let slot = Slot::take(&self.system.account(uid), self.rlimit(Resource::Sigpending).soft, Some(self.system.ram));
        match slot {
            Ok(slot) => Ok(Some(slot)),
            // kill(2) of a real-time signal is never refused: it is marked, and who sent it is lost.
            Err(_) if info.code == code::SI_USER || info.code == code::SI_KERNEL => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// What is to be done after [`Signals::send`], with no lock held.
    pub(crate) fn after_send(&self, sent: &Sent) {
        self.kick(&sent.wake);
        if sent.queued {
            self.signal_arrived.notify(Events::IN);
        }
        if !sent.wake.is_empty() {
            self.stopped.wake_all();
        }
        if sent.continued {
            self.tell_parent_of_stop(WaitStatus::Continued);
        }
    }

    /// Stops the named threads in guest code.
    pub(crate) fn kick(&self, tids: &[i32]) {
        if tids.is_empty() {
            return;
        }
        for task in self.threads() {
            if tids.contains(&task.tid()) {
                task.kick();
            }
        }
    }

    /// Makes every other thread leave guest code for a moment, so that all have seen what memory held before (membarrier(2)).
    pub fn stop_briefly(&self, caller: &Task) {
        let inside: Vec<(Arc<Task>, u64)> = self
            .threads()
            .into_iter()
            .filter(|t| !std::ptr::eq(&**t, caller) && t.in_guest.load(Ordering::SeqCst))
            .map(|t| {
                let exits = t.usage.exits.load(Ordering::SeqCst);
                (t, exits)
            })
            .collect();
        for (task, _) in &inside {
            task.kick();
        }
        for (task, exits) in inside {
            let left = || !task.in_guest.load(Ordering::SeqCst) || task.usage.exits.load(Ordering::SeqCst) != exits;
            while !left() {
                sync::park(Some(sync::monotonic_ns() + 50_000));
            }
        }
    }

    /// Ends the whole process with `status`, unless its end is decided already. Returns at once.
    pub fn start_group_exit(&self, status: WaitStatus) {
        let wake = self.signals().start_group_exit(status);
        self.stopped.wake_all();
        self.kick(&wake);
    }

    /// Freezes all threads where they would run guest code, or lets them go on: the freezer of control groups.
    pub(crate) fn set_frozen(&self, frozen: bool) {
        let wake = self.signals().set_frozen(frozen);
        self.stopped.wake_all();
        self.kick(&wake);
    }

    /// The machine is out of memory, or its stub was lost: it dies of SIGKILL, whatever it is.
    pub fn kill_forcibly(&self) {
        self.start_group_exit(WaitStatus::Killed(Signal::SIGKILL, false));
    }

    /// Its real user, by its first thread.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.any_thread().map_or_else(|| self.exit_uid.load(Ordering::Relaxed), |t| t.credentials().uid)
    }

    /// All its threads have stopped, or it goes on: the parent may wait for that, and gets SIGCHLD unless it does not want to hear.
    pub(crate) fn tell_parent_of_stop(&self, status: WaitStatus) {
        let uid = self.uid();
        let mut table = self.system.table();
        match status {
            WaitStatus::Stopped(signal) => {
                // SIGCONT may have come since.
                if self.signals().stopped_by().is_none() {
                    return;
                }
                table.tree.note_stopped(self.pid, signal, uid);
            }
            _ => table.tree.note_continued(self.pid, uid),
        }
        let parent = table.tree.get(self.pid).and_then(|n| table.process(n.parent)).cloned();
        drop(table);
        let Some(parent) = parent else { return };
        let action = parent.signals().actions.lock().get(Signal::SIGCHLD);
        if action.handler != abi::siginfo::SIG_IGN && !action.flags().contains(SaFlags::NOCLDSTOP) {
            // A standard signal always finds room.
            let _ = parent.send(To::Process, self.child_info(Signal::SIGCHLD, status, uid));
        }
        parent.child_changed.wake_all();
    }

    /// What SIGCHLD says of this process.
    pub(crate) fn child_info(&self, signal: Signal, status: WaitStatus, uid: u32) -> SigInfo {
        let usage = self.usage();
        let ticks = |t: Timeval| t.sec * 100 + t.usec / 10_000;
        let (code, status) = status.child_code();
        let fields = SigFields::Child { pid: self.pid, uid, status, user_ticks: ticks(usage.user), system_ticks: ticks(usage.system) };
        SigInfo { signal, errno: 0, code, fields }
    }

    /// What its threads have used so far, the dead ones included.
    #[must_use]
    pub fn usage(&self) -> Rusage {
        self.threads().iter().fold(self.totals.lock().own, |sum, task| add(&sum, &usage_of(task)))
    }
    /// What children that were waited for have used.
    #[must_use]
    pub fn children_usage(&self) -> Rusage {
        self.totals.lock().children
    }
    /// Processor time of all its threads, nanoseconds: in guest code, and in all.
    #[must_use]
    pub fn cpu_time_ns(&self) -> (u64, u64) {
        let own = self.totals.lock().own;
        let ns = |t: Timeval| t.sec as u64 * 1_000_000_000 + t.usec as u64 * 1000;
        let dead = (ns(own.user), ns(own.user) + ns(own.system));
        self.threads().iter().fold(dead, |(user, total), task| {
            let (u, t) = task.cpu_time_ns();
            (user + u, total + t)
        })
    }
    pub(crate) fn add_own_usage(&self, usage: &Rusage) {
        let mut totals = self.totals.lock();
        totals.own = add(&totals.own, usage);
    }
    pub(crate) fn add_children_usage(&self, usage: &Rusage) {
        let mut totals = self.totals.lock();
        totals.children = add(&totals.children, usage);
    }
    /// How it died, for the tree.
    pub(crate) fn death(&self, status: WaitStatus, uid: u32) -> Death {
        let totals = *self.totals.lock();
        Death { status, uid, usage: add(&totals.own, &totals.children) }
    }
    /// The program's file; none before its first execve(2), nor once it is dead.
    #[must_use]
    pub fn executable(&self) -> Option<Arc<crate::exec::Executable>> {
        self.executable.lock().clone()
    }
    /// The path of its program.
    #[must_use]
    pub fn program(&self) -> Vec<u8> {
        self.program.lock().clone()
    }
}

/// What one thread has used.
#[must_use]
pub fn usage_of(task: &Task) -> Rusage {
    let (user, total) = task.cpu_time_ns();
    Rusage {
        user: Timeval::from_ns(user),
        system: Timeval::from_ns(total - user),
        minor_faults: task.usage.minor_faults.load(Ordering::Relaxed) as i64,
        major_faults: task.usage.major_faults.load(Ordering::Relaxed) as i64,
        voluntary_switches: task.usage.voluntary_switches.load(Ordering::Relaxed) as i64,
        involuntary_switches: task.usage.involuntary_switches.load(Ordering::Relaxed) as i64,
        ..Rusage::default()
    }
}

/// The sum of two usages; the larger resident set.
#[must_use]
pub fn add(a: &Rusage, b: &Rusage) -> Rusage {
    let time = |x: Timeval, y: Timeval| {
        let usec = x.usec + y.usec;
        Timeval { sec: x.sec + y.sec + usec / 1_000_000, usec: usec % 1_000_000 }
    };
    Rusage {
        user: time(a.user, b.user),
        system: time(a.system, b.system),
        max_rss_kib: a.max_rss_kib.max(b.max_rss_kib),
        unused: [0; 3],
        minor_faults: a.minor_faults + b.minor_faults,
        major_faults: a.major_faults + b.major_faults,
        swaps: 0,
        blocks_in: a.blocks_in + b.blocks_in,
        blocks_out: a.blocks_out + b.blocks_out,
        unused_too: [0; 3],
        voluntary_switches: a.voluntary_switches + b.voluntary_switches,
        involuntary_switches: a.involuntary_switches + b.involuntary_switches,
    }
}
