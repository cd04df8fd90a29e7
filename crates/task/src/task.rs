//! One thread as others see it. What only the running thread may touch is in [`crate::current::Current`].

use crate::credentials;
use crate::futex::RobustList;
use crate::process::Process;
use crate::system::System;
use abi::{Errno, SigInfo, Signal};
use ram::Charge;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use sync::{Fiber, SpinLock, WaitQueue};
use vfs::{Capability, Credentials, FdTable, FsContext, MountNamespace};

use mm::AddressSpace;

/// Bytes charged for a thread: this object, its kernel stack, its place in tables.
pub const TASK_COST: usize = 24 << 10;

/// The name of a thread (`comm`): 15 bytes and a NUL.
pub type Comm = [u8; 16];

/// A name cut to what fits.
#[must_use]
pub fn comm_of(name: &[u8]) -> Comm {
    let mut comm = [0; 16];
    for (to, from) in comm.iter_mut().take(15).zip(name.iter().take_while(|b| **b != 0)) {
        *to = *from;
    }
    comm
}

/// A vfork(2) child's promise to its parent.
#[derive(Default)]
pub struct VforkDone {
    done: AtomicBool,
    queue: WaitQueue,
}

impl VforkDone {
    /// The child has another address space, or is dead.
    pub fn complete(&self) {
        self.done.store(true, Ordering::SeqCst);
        self.queue.wake_all();
    }
    /// Waits for that. False when the waiting thread must die first.
    pub(crate) fn wait(&self) -> bool {
        self.queue.wait_interruptible(|| self.done.load(Ordering::SeqCst).then_some(())).is_ok()
    }
}

/// Processor time and events of a thread.
#[derive(Default)]
pub struct Usage {
    /// Time in guest code.
    pub user_ns: AtomicU64,
    /// Monotonic time at which it entered guest code; 0 while it is not there.
    pub entered_at_ns: AtomicU64,
    /// How often it has left guest code.
    pub exits: AtomicU64,
    pub minor_faults: AtomicU64,
    pub major_faults: AtomicU64,
    pub voluntary_switches: AtomicU64,
    pub involuntary_switches: AtomicU64,
}

/// What a thread shares with others or not, one counted reference each. Absent once it has exited.
#[derive(Clone, Default)]
pub struct Resources {
    pub memory: Option<Arc<AddressSpace>>,
    pub files: Option<Arc<FdTable>>,
    pub fs: Option<Arc<FsContext>>,
    pub namespace: Option<Arc<MountNamespace>>,
}

/// A thread.
pub struct Task {
    tid: AtomicI32,
    process: Arc<Process>,
    fiber: OnceLock<Fiber>,
    pub(crate) resources: SpinLock<Resources>,
    credentials: SpinLock<Arc<Credentials>>,
    comm: SpinLock<Comm>,
    /// Address to clear and wake when the thread ends; 0: none.
    pub clear_child_tid: AtomicU64,
    robust_list: AtomicU64,
    /// Who traces it, ptrace(2).
    pub(crate) trace: SpinLock<Option<crate::ptrace::Tracing>>,
    pub(crate) is_traced: AtomicBool,
    /// The signal with which its tracer let it go for good.
    pub(crate) detach_signal: AtomicI32,
    pub seccomp: SpinLock<crate::seccomp::Mode>,
    /// Another thread changed it.
    pub(crate) seccomp_changed: AtomicBool,
    pub(crate) vfork: SpinLock<Option<Arc<VforkDone>>>,
    /// It runs guest code now.
    pub in_guest: AtomicBool,
    /// The system call that is served for it, plus one; 0: none.
    pub(crate) in_call: AtomicU64,
    /// Where in guest code it came from when it made its last system call.
    pub(crate) last_ip: AtomicU64,
    /// The host's number of the thread that runs its guest code, as the platform counts.
    pub(crate) host_thread: AtomicU64,
    pub usage: Usage,
    /// sched(7): nice value, policy and real-time priority; kept, not obeyed.
    pub nice: AtomicI32,
    pub policy: AtomicI32,
    pub priority: AtomicI32,
    /// ioprio_set(2); kept, not obeyed.
    pub io_priority: AtomicI32,
    /// Its UTS namespace.
    pub uts: SpinLock<Arc<crate::uts::Uts>>,
    /// Timer slack, nanoseconds, prctl(2).
    pub timer_slack_ns: AtomicU64,
    /// Monotonic time of its birth.
    pub started_at_ns: u64,
    _charge: Charge,
}

/// Where a thread is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// The system call that the kernel serves for it.
    pub call: Option<u64>,
    /// Instruction pointer in guest code.
    pub ip: u64,
    /// Stack pointer in guest code, where the host tells.
    pub sp: Option<u64>,
}

impl Task {
    /// Where it is. It goes on meanwhile unless the machine is stopped.
    #[must_use]
    pub fn position(&self) -> Position {
        let call = self.in_call.load(Ordering::Relaxed).checked_sub(1);
        let told = self.process.system.platform.user_position(self.host_thread.load(Ordering::Relaxed));
        let last = self.last_ip.load(Ordering::Relaxed);
        Position { call, ip: told.map_or(last, |(ip, _)| ip), sp: told.map(|(_, sp)| sp) }
    }

    /// Whether it sleeps where no signal reaches it (state `D`).
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.in_call.load(Ordering::Relaxed) != 0 && self.fiber.get().is_some_and(Fiber::is_blocked)
    }

    pub(crate) fn new(
        tid: i32,
        process: Arc<Process>,
        resources: Resources,
        credentials: Arc<Credentials>,
        comm: Comm,
        nice: i32,
    ) -> Result<Arc<Task>, Errno> {
        let charge = process.system.ram.charge(TASK_COST).map_err(|_| Errno::ENOMEM)?;
        let uts = SpinLock::new(process.system.uts.clone());
        process.system.account(credentials.uid).tasks.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Task {
            tid: AtomicI32::new(tid),
            process,
            fiber: OnceLock::new(),
            resources: SpinLock::new(resources),
            credentials: SpinLock::new(credentials),
            comm: SpinLock::new(comm),
            clear_child_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            trace: SpinLock::new(None),
            is_traced: AtomicBool::new(false),
            detach_signal: AtomicI32::new(0),
            seccomp: SpinLock::default(),
            seccomp_changed: AtomicBool::new(false),
            vfork: SpinLock::new(None),
            in_guest: AtomicBool::new(false),
            in_call: AtomicU64::new(0),
            last_ip: AtomicU64::new(0),
            host_thread: AtomicU64::new(0),
            usage: Usage::default(),
            nice: AtomicI32::new(nice),
            policy: AtomicI32::new(0),
            priority: AtomicI32::new(0),
            io_priority: AtomicI32::new(0),
            uts,
            timer_slack_ns: AtomicU64::new(50_000),
            started_at_ns: sync::monotonic_ns(),
            _charge: charge,
        }))
    }

    /// Its number, which execve(2) may change to the process's.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.tid.load(Ordering::Relaxed)
    }
    pub(crate) fn set_tid(&self, tid: i32) {
        self.tid.store(tid, Ordering::Relaxed);
    }
    /// The process that it is a thread of.
    #[must_use]
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }
    /// The machine.
    #[must_use]
    pub fn system(&self) -> &'static System {
        self.process.system
    }
    /// Its fiber, once it runs.
    #[must_use]
    pub fn fiber(&self) -> Option<&Fiber> {
        self.fiber.get()
    }
    pub(crate) fn set_fiber(&self, fiber: Fiber) {
        // A thread has one fiber for life; it is told once.
        let _ = self.fiber.set(fiber);
    }
    /// Its identity now.
    #[must_use]
    pub fn credentials(&self) -> Arc<Credentials> {
        self.credentials.lock().clone()
    }
    /// A new identity; only the thread itself may do that.
    pub(crate) fn set_credentials(&self, credentials: Arc<Credentials>) {
        let old = {
            let mut slot = self.credentials.lock();
            std::mem::replace(&mut *slot, credentials.clone())
        };
        if old.uid != credentials.uid {
            let system = self.process.system;
            system.account(credentials.uid).tasks.fetch_add(1, Ordering::Relaxed);
            system.account(old.uid).tasks.fetch_sub(1, Ordering::Relaxed);
        }
    }
    /// What it shares, as of now.
    #[must_use]
    pub fn resources(&self) -> Resources {
        self.resources.lock().clone()
    }
    /// Its address space. ESRCH once it has exited.
    pub fn memory(&self) -> Result<Arc<AddressSpace>, Errno> {
        self.resources.lock().memory.clone().ok_or(Errno::ESRCH)
    }
    /// The System V objects that it sees.
    #[must_use]
    pub fn ipc(&self) -> Arc<crate::ipc::Ipc> {
        self.system().ipc.clone()
    }
    /// Its name.
    #[must_use]
    pub fn comm(&self) -> Comm {
        *self.comm.lock()
    }
    /// Its name as text, for the log.
    #[must_use]
    pub fn comm_text(&self) -> String {
        let comm = self.comm();
        String::from_utf8_lossy(comm.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
    }
    /// prctl(PR_SET_NAME), `/proc/PID/comm`, execve(2).
    pub fn set_comm(&self, comm: Comm) {
        *self.comm.lock() = comm;
    }
    /// Its robust list.
    #[must_use]
    pub fn robust_list(&self) -> RobustList {
        RobustList { head: self.robust_list.load(Ordering::Relaxed) }
    }
    /// set_robust_list(2).
    pub fn set_robust_list(&self, list: RobustList) {
        self.robust_list.store(list.head, Ordering::Relaxed);
    }

    /// Time it has run, nanoseconds: in guest code and in all.
    #[must_use]
    pub fn cpu_time_ns(&self) -> (u64, u64) {
        // A thread that never stops has to be counted while it runs.
        let now_inside = match self.usage.entered_at_ns.load(Ordering::Relaxed) {
            0 => 0,
            entered => sync::monotonic_ns().saturating_sub(entered),
        };
        let user = self.usage.user_ns.load(Ordering::Relaxed) + now_inside;
        let total = self.fiber().map_or(0, sync::sched::run_time_ns);
        (user, total.max(user))
    }

    /// Whether a thread with `sender`'s identity may send `signal` to this one, kill(2).
    pub fn may_signal(&self, sender: &Task, signal: Option<Signal>) -> Result<(), Errno> {
        if Arc::ptr_eq(&self.process, &sender.process) {
            return Ok(());
        }
        let (from, to) = (sender.credentials(), self.credentials());
        if credentials::may_signal(&from, &to) || from.has(Capability::KILL) {
            return Ok(());
        }
        if signal == Some(Signal::SIGCONT) && self.process.session() == sender.process.session() {
            return Ok(());
        }
        Err(Errno::EPERM)
    }

    /// Sends a signal to this very thread.
    pub fn signal(&self, info: SigInfo) -> Result<(), Errno> {
        self.process.send(crate::signal::To::Thread(self.tid()), info)
    }

    /// Makes it notice a signal if it runs guest code elsewhere.
    pub(crate) fn kick(&self) {
        if let Some(fiber) = self.fiber()
            && *fiber != sync::current()
        {
            self.process.system.hooks.kick(fiber);
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let uid = self.credentials.get_mut().uid;
        self.process.system.account(uid).tasks.fetch_sub(1, Ordering::Relaxed);
    }
}
