//! Tracing one thread by another process, ptrace(2): the state of both sides and every stop.
//!
//! A traced thread that stops parks on its own fiber ([`Current::trace_stop`]) and serves what its tracer asks about its registers there: nobody
//! else touches them. Memory needs no help: the tracer reads and writes the address space itself.
//!
//! Always true: a thread has one tracer at most; requests but for attaching and interrupting are answered only while it is stopped; SIGKILL ends every
//! stop; a tracer that dies lets its threads go, or kills them if it said so.

use crate::current::Current;
use crate::process::Process;
use crate::signal::To;
use crate::system::System;
use crate::task::Task;
use crate::tree::Waited;
use abi::arch::Regs;
use abi::siginfo::code;
use abi::{Errno, Rusage, SaFlags, SigFields, SigInfo, Signal, WaitFor, WaitStatus};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use sync::{SpinLock, WaitQueue};
use vfs::{Capability, Credentials};

bitflags::bitflags! {
    /// `PTRACE_O_*`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Options: u64 {
        const SYSGOOD = 1;
        const FORK = 2;
        const VFORK = 4;
        const CLONE = 8;
        const EXEC = 0x10;
        const VFORK_DONE = 0x20;
        const EXIT = 0x40;
        const SECCOMP = 0x80;
        const EXIT_KILL = 0x10_0000;
        const SUSPEND_SECCOMP = 0x20_0000;
    }
}

/// `PTRACE_EVENT_*`.
pub mod event {
    pub const FORK: i32 = 1;
    pub const VFORK: i32 = 2;
    pub const CLONE: i32 = 3;
    pub const EXEC: i32 = 4;
    pub const VFORK_DONE: i32 = 5;
    pub const EXIT: i32 = 6;
    pub const SECCOMP: i32 = 7;
    pub const STOP: i32 = 128;
}

/// The trap flag of the processor.
const TRAP_FLAG: u64 = 0x100;

const KILLED: WaitStatus = WaitStatus::Killed(Signal::SIGKILL, false);

/// How a thread goes on after a stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Resume {
    #[default]
    Continue,
    /// Until it enters or leaves a system call.
    Syscall,
    /// One instruction.
    Step,
    /// It stays stopped with its process, and tells when that ends.
    Listen,
}

/// What a stop is about, for `PTRACE_GET_SYSCALL_INFO`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum At {
    #[default]
    Other,
    Entry,
    Exit,
    /// The whole process is stopped.
    Group,
    /// A signal is about to be delivered.
    Signal,
    /// It is about to end.
    Dying,
}

type Request = Box<dyn FnOnce(&mut Current) + Send>;

struct Stop {
    at: At,
    info: Option<SigInfo>,
    listening: bool,
}

/// A thread's tracer and what it asked for.
pub struct Tracing {
    tracer: Weak<Process>,
    seized: bool,
    options: Options,
    stop: Option<Stop>,
    /// What wait(2) has not told yet.
    report: Option<i32>,
    message: u64,
    resume: Resume,
    /// The signal that the tracer lets through, or its own.
    signal: i32,
    requests: VecDeque<Request>,
}

/// An answer that one fiber leaves for another.
struct Reply<R> {
    value: SpinLock<Option<R>>,
    done: AtomicBool,
    queue: WaitQueue,
}

/// Says that no answer comes any more, when it is dropped.
struct Answering<R>(Arc<Reply<R>>);

impl<R> Drop for Answering<R> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::SeqCst);
        self.0.queue.wake_all();
    }
}

/// A thread of another process that has ended while it was traced.
pub struct Departed {
    tid: i32,
    status: WaitStatus,
    uid: u32,
}

/// What a process traces.
#[derive(Default)]
pub struct Tracees {
    threads: Vec<Weak<Task>>,
    departed: Vec<Departed>,
}

/// Whether `tracer` may trace `task`, ptrace(2) "Ptrace access mode checking".
///
/// # Errors
/// EPERM.
pub fn may_trace(tracer: &Credentials, task: &Task) -> Result<(), Errno> {
    let target = task.credentials();
    let same = [target.uid, target.euid, target.suid].iter().all(|id| *id == tracer.uid)
        && [target.gid, target.egid, target.sgid].iter().all(|id| *id == tracer.gid);
    let dumpable = task.process().dumpable.load(Ordering::Relaxed) == 1;
    if same && dumpable { Ok(()) } else { tracer.require(Capability::SYS_PTRACE) }
}

impl Task {
    /// Who traces it; 0 for nobody.
    #[must_use]
    pub fn tracer(&self) -> i32 {
        self.trace.lock().as_ref().and_then(|trace| trace.tracer.upgrade()).map_or(0, |tracer| tracer.pid())
    }
    /// Whether it is stopped for its tracer.
    #[must_use]
    pub fn is_trace_stopped(&self) -> bool {
        self.is_traced.load(Ordering::Relaxed) && self.trace.lock().as_ref().is_some_and(|trace| trace.stop.is_some())
    }

    fn trace_by(&self, tracer: &Arc<Process>, seized: bool, options: Options) -> Result<(), Errno> {
        {
            let mut trace = self.trace.lock();
            if trace.is_some() {
                return Err(Errno::EPERM);
            }
            *trace = Some(Tracing {
                tracer: Arc::downgrade(tracer),
                seized,
                options,
                stop: None,
                report: None,
                message: 0,
                resume: Resume::Continue,
                signal: 0,
                requests: VecDeque::new(),
            });
        }
        self.is_traced.store(true, Ordering::SeqCst);
        // Tracers see every call.
        self.system().platform.forget_answers();
        self.process().signals().set_traced(self.tid(), true);
        Ok(())
    }

    /// Lets it go, with a signal perhaps.
    fn untrace(&self, signal: i32) {
        let old = {
            let mut trace = self.trace.lock();
            if let Some(trace) = &mut *trace
                && trace.stop.is_some()
            {
                self.detach_signal.store(signal, Ordering::Relaxed);
            }
            trace.take()
        };
        self.is_traced.store(false, Ordering::SeqCst);
        self.process().signals().set_traced(self.tid(), false);
        self.process().stopped.wake_all();
        // Requests that nobody answers any more go with it.
        drop(old);
    }

    /// Makes it stop as soon as it would run guest code.
    fn trap(&self) {
        let wake = self.process().signals().set_trap(self.tid());
        self.process().stopped.wake_all();
        if wake {
            self.kick();
        }
    }
}

impl Process {
    fn adopt_tracee(&self, task: &Arc<Task>) {
        let mut tracees = self.tracees.lock();
        tracees.threads.retain(|weak| weak.strong_count() > 0);
        tracees.threads.push(Arc::downgrade(task));
    }
    fn forget_tracee(&self, task: &Task) {
        self.tracees.lock().threads.retain(|weak| !std::ptr::eq(weak.as_ptr(), task));
    }

    /// The tracer is dead: its threads are free, or die with it.
    pub(crate) fn release_tracees(&self) {
        let tracees = std::mem::take(&mut *self.tracees.lock());
        for task in tracees.threads.iter().filter_map(Weak::upgrade) {
            let kill = task.trace.lock().as_ref().is_some_and(|trace| trace.options.contains(Options::EXIT_KILL));
            task.untrace(0);
            if kill {
                task.process().kill_forcibly();
            }
        }
    }

    /// SIGCHLD for a tracer, and whatever waits there looks again.
    fn tell_tracer(&self, task: &Task, status: WaitStatus) {
        let action = self.signals().actions.lock().get(Signal::SIGCHLD);
        let stops = !matches!(status, WaitStatus::Traced(_)) || !action.flags().contains(SaFlags::NOCLDSTOP);
        if action.handler != abi::siginfo::SIG_IGN && stops {
            let (code, status) = status.child_code();
            let fields = SigFields::Child { pid: task.tid(), uid: task.credentials().uid, status, user_ticks: 0, system_ticks: 0 };
            // A standard signal always finds room.
            let _ = self.send(To::Process, SigInfo { signal: Signal::SIGCHLD, errno: 0, code, fields });
        }
        self.child_changed.wake_all();
    }

    /// What wait(2) can tell of traced threads; whether there is any that matches.
    pub(crate) fn look_for_tracee(&self, which: WaitFor, keep: bool) -> (bool, Option<Waited>) {
        let group_of = |task: &Task| task.process().group();
        let mut tracees = self.tracees.lock();
        let gone = tracees.departed.iter().position(|d| match which {
            WaitFor::Any => true,
            WaitFor::Process(pid) => pid == d.tid,
            WaitFor::Group(_) => false,
        });
        let told = |tid, status, uid| Waited { pid: tid, status, uid, usage: Rusage::default() };
        if let Some(at) = gone {
            let Departed { tid, status, uid } = tracees.departed[at];
            if !keep {
                tracees.departed.remove(at);
            }
            return (true, Some(told(tid, status, uid)));
        }
        let threads: Vec<Arc<Task>> = tracees.threads.iter().filter_map(Weak::upgrade).collect();
        drop(tracees);
        let mut any = false;
        for task in threads {
            let matches = match which {
                WaitFor::Any => true,
                WaitFor::Process(pid) => pid == task.tid(),
                WaitFor::Group(group) => group == group_of(&task),
            };
            if !matches {
                continue;
            }
            any = true;
            let report = task.trace.lock().as_mut().and_then(|trace| if keep { trace.report } else { trace.report.take() });
            if let Some(report) = report {
                return (true, Some(told(task.tid(), WaitStatus::Traced(report), task.credentials().uid)));
            }
        }
        (any, None)
    }
}

impl System {
    /// A traced thread has ended: its tracer hears, unless the tracer is told as the parent anyway.
    pub(crate) fn tell_of_departure(&self, task: &Task, status: WaitStatus, is_process: bool) {
        let Some(trace) = task.trace.lock().take() else { return };
        task.is_traced.store(false, Ordering::SeqCst);
        let tracer = trace.tracer.upgrade();
        drop(trace);
        let Some(tracer) = tracer else { return };
        tracer.forget_tracee(task);
        if is_process && task.process().parent() == tracer.pid() {
            return;
        }
        let departed = Departed { tid: task.tid(), status, uid: task.credentials().uid };
        tracer.tracees.lock().departed.push(departed);
        tracer.tell_tracer(task, status);
    }
}

/// The tracer's side.
impl Current {
    /// `PTRACE_TRACEME`.
    ///
    /// # Errors
    /// EPERM when somebody traces it already.
    pub fn trace_me(&mut self) -> Result<(), Errno> {
        let parent = self.system().process(self.process().parent())?;
        self.task().trace_by(&parent, false, Options::empty())?;
        parent.adopt_tracee(self.task());
        Ok(())
    }

    /// `PTRACE_ATTACH`, and `PTRACE_SEIZE` with options.
    ///
    /// # Errors
    /// ESRCH, EPERM.
    pub fn attach(&mut self, tid: i32, seize: Option<Options>) -> Result<(), Errno> {
        let task = self.system().task(tid)?;
        if Arc::ptr_eq(task.process(), self.process()) {
            return Err(Errno::EPERM);
        }
        may_trace(self.credentials(), &task)?;
        task.trace_by(self.process(), seize.is_some(), seize.unwrap_or_default())?;
        self.process().adopt_tracee(&task);
        if seize.is_none() {
            // It stops by this signal, which ends its waits too.
            let _ = task.signal(SigInfo::kernel(Signal::SIGSTOP));
        }
        Ok(())
    }

    /// A thread that this process traces.
    ///
    /// # Errors
    /// ESRCH.
    pub fn tracee(&self, tid: i32) -> Result<Arc<Task>, Errno> {
        let task = self.system().task(tid)?;
        let is_ours = task.trace.lock().as_ref().is_some_and(|t| std::ptr::eq(t.tracer.as_ptr(), Arc::as_ptr(self.process())));
        if is_ours { Ok(task) } else { Err(Errno::ESRCH) }
    }

    fn with_trace<R>(&self, task: &Task, change: impl FnOnce(&mut Tracing) -> Result<R, Errno>) -> Result<R, Errno> {
        let mut trace = task.trace.lock();
        let trace = trace.as_mut().ok_or(Errno::ESRCH)?;
        // A thread that listens is not stopped for requests.
        if trace.stop.as_ref().is_none_or(|stop| stop.listening) {
            return Err(Errno::ESRCH);
        }
        change(trace)
    }

    /// Has a stopped thread run `request` on its own fiber, and waits for the answer.
    ///
    /// # Errors
    /// ESRCH when it is not stopped, or dies meanwhile.
    pub fn ask_tracee<R: Send + 'static>(&self, task: &Task, request: impl FnOnce(&mut Current) -> R + Send + 'static) -> Result<R, Errno> {
        let reply = Arc::new(Reply { value: SpinLock::new(None), done: AtomicBool::new(false), queue: WaitQueue::new() });
        let answering = Answering(reply.clone());
        let run: Request = Box::new(move |current| {
            let value = request(current);
            *answering.0.value.lock() = Some(value);
        });
        self.with_trace(task, |trace| {
            trace.requests.push_back(run);
            Ok(())
        })?;
        task.process().stopped.wake_all();
        reply.queue.wait_until(|| reply.done.load(Ordering::SeqCst).then_some(()));
        let value = reply.value.lock().take();
        value.ok_or(Errno::ESRCH)
    }

    /// Lets a stopped thread go on, with a signal or without (0).
    ///
    /// # Errors
    /// ESRCH, EIO for a number that is no signal, EINVAL for a thread that can't listen.
    pub fn resume_tracee(&self, task: &Task, how: Resume, signal: i32) -> Result<(), Errno> {
        if signal != 0 && Signal::new(signal).is_none() {
            return Err(Errno::EIO);
        }
        self.with_trace(task, |trace| {
            trace.report = None;
            if how == Resume::Listen {
                let seized = trace.seized;
                let stop = trace.stop.as_mut().filter(|stop| seized && stop.at == At::Group).ok_or(Errno::EIO)?;
                stop.listening = true;
            } else {
                (trace.resume, trace.signal, trace.stop) = (how, signal, None);
            }
            Ok(())
        })?;
        task.process().stopped.wake_all();
        Ok(())
    }

    /// `PTRACE_DETACH`.
    ///
    /// # Errors
    /// ESRCH, EIO.
    pub fn detach(&self, task: &Task, signal: i32) -> Result<(), Errno> {
        if signal != 0 && Signal::new(signal).is_none() {
            return Err(Errno::EIO);
        }
        {
            let trace = task.trace.lock();
            if trace.as_ref().is_none_or(|trace| trace.stop.is_none()) {
                return Err(Errno::ESRCH);
            }
        }
        self.process().forget_tracee(task);
        task.untrace(signal);
        Ok(())
    }

    /// `PTRACE_INTERRUPT`.
    ///
    /// # Errors
    /// EIO for a thread that was not seized.
    pub fn interrupt_tracee(&self, task: &Task) -> Result<(), Errno> {
        if !task.trace.lock().as_ref().is_some_and(|trace| trace.seized) {
            return Err(Errno::EIO);
        }
        task.trap();
        Ok(())
    }

    /// `PTRACE_SETOPTIONS`.
    ///
    /// # Errors
    /// ESRCH.
    pub fn set_trace_options(&self, task: &Task, options: Options) -> Result<(), Errno> {
        self.with_trace(task, |trace| {
            trace.options = options;
            Ok(())
        })
    }
    /// `PTRACE_GETEVENTMSG`.
    ///
    /// # Errors
    /// ESRCH.
    pub fn trace_message(&self, task: &Task) -> Result<u64, Errno> {
        self.with_trace(task, |trace| Ok(trace.message))
    }
    /// `PTRACE_GETSIGINFO`.
    ///
    /// # Errors
    /// ESRCH; EINVAL when the stop is of no signal.
    pub fn trace_siginfo(&self, task: &Task) -> Result<SigInfo, Errno> {
        self.with_trace(task, |trace| trace.stop.as_ref().and_then(|stop| stop.info).ok_or(Errno::EINVAL))
    }
    /// `PTRACE_SETSIGINFO`.
    ///
    /// # Errors
    /// As [`Current::trace_siginfo`].
    pub fn set_trace_siginfo(&self, task: &Task, info: SigInfo) -> Result<(), Errno> {
        self.with_trace(task, |trace| {
            let slot = trace.stop.as_mut().and_then(|stop| stop.info.as_mut()).ok_or(Errno::EINVAL)?;
            *slot = info;
            Ok(())
        })
    }
    /// What the stop is about.
    ///
    /// # Errors
    /// ESRCH.
    pub fn trace_at(&self, task: &Task) -> Result<At, Errno> {
        self.with_trace(task, |trace| Ok(trace.stop.as_ref().map_or(At::Other, |stop| stop.at)))
    }
}

/// How a stop ended.
pub(crate) struct Resumed {
    signal: i32,
    /// The signal's own information, as the tracer left it.
    info: Option<SigInfo>,
}

/// The traced thread's side.
impl Current {
    /// Whether somebody traces it.
    #[must_use]
    pub fn is_traced(&self) -> bool {
        self.task().is_traced.load(Ordering::Relaxed)
    }
    /// Whether its tracer has CAP_SYS_PTRACE.
    pub(crate) fn tracer_is_privileged(&self) -> bool {
        let tracer = self.task().trace.lock().as_ref().and_then(|trace| trace.tracer.upgrade());
        tracer.and_then(|tracer| tracer.any_thread()).is_some_and(|task| task.credentials().has(Capability::SYS_PTRACE))
    }
    fn trace_has(&self, option: Options) -> bool {
        self.is_traced() && self.task().trace.lock().as_ref().is_some_and(|trace| trace.options.contains(option))
    }

    /// Stops for the tracer until it lets the thread go on, or death comes.
    pub(crate) fn trace_stop(&mut self, report: i32, at: At, info: Option<SigInfo>, message: Option<u64>) -> Resumed {
        let task = self.task().clone();
        let process = self.process().clone();
        let tid = self.tid();
        task.detach_signal.store(0, Ordering::Relaxed);
        let tracer = {
            let mut trace = task.trace.lock();
            let Some(trace) = trace.as_mut() else { return Resumed { signal: info.map_or(0, |i| i.signal.number()), info } };
            trace.stop = Some(Stop { at, info, listening: false });
            trace.report = Some(report);
            if let Some(message) = message {
                trace.message = message;
            }
            trace.signal = 0;
            trace.tracer.upgrade()
        };
        if let Some(tracer) = tracer {
            tracer.tell_tracer(&task, WaitStatus::Traced(report));
        }
        let mut resumed = Resumed { signal: 0, info };
        loop {
            enum Next {
                Request(Request),
                GoOn(i32, Resume),
                /// With what nobody answers any more.
                Die(VecDeque<Request>),
            }
            let next = process.stopped.wait_until(|| {
                let died = {
                    let signals = process.signals();
                    // A thread that ends by itself stops once more; one that is killed does not.
                    let ending = signals.group_exit().filter(|status| at != At::Dying || *status == KILLED);
                    ending.is_some() || (at != At::Dying && signals.is_killed(tid))
                };
                let must_park = process.signals().must_park(tid);
                let mut trace = task.trace.lock();
                let Some(trace) = trace.as_mut() else {
                    return Some(Next::GoOn(task.detach_signal.load(Ordering::Relaxed), Resume::Continue));
                };
                if died {
                    (trace.stop, trace.report) = (None, None);
                    return Some(Next::Die(std::mem::take(&mut trace.requests)));
                }
                if let Some(request) = trace.requests.pop_front() {
                    return Some(Next::Request(request));
                }
                match &mut trace.stop {
                    None => Some(Next::GoOn(trace.signal, trace.resume)),
                    Some(stop) => {
                        resumed.info = stop.info;
                        // Its process goes on: a thread that listens says so.
                        (stop.listening && !must_park).then_some(Next::GoOn(0, Resume::Listen))
                    }
                }
            });
            match next {
                Next::Request(request) => request(self),
                Next::Die(abandoned) => {
                    drop(abandoned);
                    return resumed;
                }
                Next::GoOn(_, Resume::Listen) => {
                    let stop = Signal::SIGTRAP.number() | event::STOP << 8;
                    return self.trace_stop(stop, At::Group, None, None);
                }
                Next::GoOn(signal, how) => {
                    resumed.signal = signal;
                    self.trace_resume = how;
                    self.set_stepping(how == Resume::Step);
                    return resumed;
                }
            }
        }
    }

    /// Turns the processor's trap flag on or off.
    fn set_stepping(&mut self, on: bool) {
        if on == self.stepping {
            return;
        }
        self.stepping = on;
        let changed = self.thread.regs().and_then(|mut regs| {
            regs.flags = if on { regs.flags | TRAP_FLAG } else { regs.flags & !TRAP_FLAG };
            self.thread.set_regs(&regs)
        });
        if changed.is_err() {
            self.handle_gone();
        }
    }

    /// Before a signal frame is built: the flag is ours, not the program's. Whether the thread is being stepped.
    pub(crate) fn stop_stepping(&mut self) -> bool {
        let was = self.stepping;
        self.set_stepping(false);
        was
    }

    /// An event that the tracer asked for.
    fn trace_event(&mut self, event: i32, message: u64) {
        self.trace_event_at(event, message, At::Other);
    }
    fn trace_event_at(&mut self, event: i32, message: u64, at: At) {
        let report = Signal::SIGTRAP.number() | event << 8;
        let fields = SigFields::Kill { pid: self.pid(), uid: self.credentials().uid };
        let info = SigInfo { signal: Signal::SIGTRAP, errno: 0, code: report, fields };
        self.trace_stop(report, at, Some(info), Some(message));
    }

    /// A new thread or process, before it runs: whether the tracer follows it, and with which event.
    pub(crate) fn trace_child(&self, child: &Arc<Task>, flags: abi::CloneFlags, exit_signal: Option<Signal>) -> Option<i32> {
        if !self.is_traced() || flags.contains(abi::CloneFlags::UNTRACED) {
            return None;
        }
        let (option, event) = if flags.contains(abi::CloneFlags::VFORK) {
            (Options::VFORK, event::VFORK)
        } else if exit_signal == Some(Signal::SIGCHLD) {
            (Options::FORK, event::FORK)
        } else {
            (Options::CLONE, event::CLONE)
        };
        let (tracer, seized, options) = {
            let trace = self.task().trace.lock();
            let trace = trace.as_ref()?;
            (trace.tracer.upgrade()?, trace.seized, trace.options)
        };
        let follows = options.contains(option);
        if !follows && !flags.contains(abi::CloneFlags::PTRACE) {
            return None;
        }
        child.trace_by(&tracer, seized, options).ok()?;
        tracer.adopt_tracee(child);
        if seized {
            child.process().signals().set_trap(child.tid());
        } else {
            let _ = child.signal(SigInfo::kernel(Signal::SIGSTOP));
        }
        follows.then_some(event)
    }

    /// The child is there.
    pub(crate) fn trace_made(&mut self, event: Option<i32>, tid: i32) {
        if let Some(event) = event {
            self.trace_event(event, tid as u64);
        }
    }
    /// The child of vfork has gone on.
    pub(crate) fn trace_vfork_done(&mut self, tid: i32) {
        if self.trace_has(Options::VFORK_DONE) {
            self.trace_event(event::VFORK_DONE, tid as u64);
        }
    }
    /// A new program is in place. `old` is the thread's number before.
    pub(crate) fn trace_exec(&mut self, old: i32) {
        if !self.is_traced() {
            return;
        }
        // The stop flag belonged to the old registers.
        self.stepping = false;
        if self.trace_has(Options::EXEC) {
            self.trace_event(event::EXEC, old as u64);
        } else if self.task().trace.lock().as_ref().is_some_and(|trace| !trace.seized) {
            let fields = SigFields::Kill { pid: self.pid(), uid: self.credentials().uid };
            let _ = self.task().signal(SigInfo { signal: Signal::SIGTRAP, errno: 0, code: code::SI_USER, fields });
        }
    }
    /// The thread is about to end with this status.
    pub(crate) fn trace_exit(&mut self, status: WaitStatus) {
        if self.trace_has(Options::EXIT) {
            self.trace_event_at(event::EXIT, status.encode() as u64, At::Dying);
        }
    }

    /// A signal is about to be delivered; what the tracer makes of it.
    pub(crate) fn trace_signal(&mut self, info: SigInfo) -> Option<SigInfo> {
        let resumed = self.trace_stop(info.signal.number(), At::Signal, Some(info), None);
        let signal = Signal::new(resumed.signal)?;
        match resumed.info {
            Some(info) if info.signal == signal => Some(info),
            _ => Some(SigInfo::user(signal, self.task().tracer(), 0)),
        }
    }
    /// The process stops, or the tracer asked for a stop (no signal).
    pub(crate) fn trace_group_stop(&mut self, signal: Option<Signal>) {
        let seized = self.task().trace.lock().as_ref().is_some_and(|trace| trace.seized);
        let number = signal.unwrap_or(Signal::SIGTRAP).number();
        if seized {
            let report = number | event::STOP << 8;
            let fields = SigFields::Kill { pid: self.pid(), uid: self.credentials().uid };
            let info = SigInfo { signal: signal.unwrap_or(Signal::SIGTRAP), errno: 0, code: report, fields };
            let (at, info) = if signal.is_some() { (At::Group, None) } else { (At::Other, Some(info)) };
            self.trace_stop(report, at, info, None);
        } else if signal.is_some() {
            self.trace_stop(number, At::Group, None, None);
        }
    }

    fn syscall_stop(&mut self, at: At) -> Resumed {
        let good = self.trace_has(Options::SYSGOOD);
        let trap = Signal::SIGTRAP.number();
        let report = if good { trap | 0x80 } else { trap };
        let fields = SigFields::Kill { pid: self.pid(), uid: self.credentials().uid };
        let info = SigInfo { signal: Signal::SIGTRAP, errno: 0, code: report, fields };
        self.trace_stop(report, at, Some(info), Some(if at == At::Entry { 1 } else { 2 }))
    }

    /// Enters a system call under a tracer: the call that is to be run, or `None` to skip it (its result is set).
    pub fn enter_traced_call(&mut self, number: u64, args: [u64; 6]) -> Option<(u64, [u64; 6])> {
        if self.trace_resume != Resume::Syscall {
            return Some((number, args));
        }
        (self.orig_rax, self.at_entry) = (Some(number), true);
        let resumed = self.syscall_stop(At::Entry);
        self.at_entry = false;
        self.pass_signal(&resumed);
        if self.process().signals().group_exit().is_some() {
            return None;
        }
        let changed = self.orig_rax.unwrap_or(number) as u32;
        if changed == u32::MAX {
            return None;
        }
        match self.thread.regs() {
            Ok(regs) => Some((u64::from(changed), regs.syscall_args())),
            Err(platform::SpaceGone) => {
                self.handle_gone();
                None
            }
        }
    }

    /// Leaves a system call under a tracer.
    pub fn leave_traced_call(&mut self) {
        let ends = self.exiting.is_some() || {
            let signals = self.process().signals();
            signals.group_exit().is_some() || signals.is_killed(self.tid())
        };
        if ends {
            return;
        }
        if self.trace_resume == Resume::Syscall && self.is_traced() {
            let interrupted = self.call.and_then(|call| call.restart);
            if let Some(restart) = interrupted {
                self.thread.set_result(restart_number(restart));
            }
            let resumed = self.syscall_stop(At::Exit);
            self.pass_signal(&resumed);
        } else if self.stepping {
            // The processor's trap comes one instruction after the call's.
            self.set_stepping(false);
            self.force(SigInfo { signal: Signal::SIGTRAP, errno: 0, code: code::TRAP_TRACE, fields: SigFields::Fault { addr: 0 } });
        }
        self.orig_rax = None;
    }

    /// A signal that the tracer sends by letting the thread go on from a system call.
    fn pass_signal(&mut self, resumed: &Resumed) {
        if let Some(signal) = Signal::new(resumed.signal) {
            let _ = self.task().signal(SigInfo::user(signal, self.task().tracer(), 0));
        }
    }

    /// The registers as a debugger sees them, `struct user_regs_struct`.
    ///
    /// # Errors
    /// ESRCH when the process is gone.
    pub fn debug_regs(&mut self) -> Result<[u64; 27], Errno> {
        let r = self.thread.regs().map_err(|_| Errno::ESRCH)?;
        let rax = if self.at_entry { -i64::from(Errno::ENOSYS.raw()) as u64 } else { r.rax };
        let selector = |n: u32| r.selectors >> (16 * n) & 0xffff;
        let flags = if self.stepping { r.flags & !TRAP_FLAG } else { r.flags };
        let orig = self.orig_rax.unwrap_or(u64::MAX);
        Ok([
            r.r15,
            r.r14,
            r.r13,
            r.r12,
            r.rbp,
            r.rbx,
            r.r11,
            r.r10,
            r.r9,
            r.r8,
            rax,
            r.rcx,
            r.rdx,
            r.rsi,
            r.rdi,
            orig,
            r.rip,
            selector(0),
            flags,
            r.rsp,
            selector(3),
            r.fs_base,
            r.gs_base,
            0,
            0,
            selector(2),
            selector(1),
        ])
    }

    /// Sets them. Selectors stay as they are.
    ///
    /// # Errors
    /// EIO for segment bases outside of the address space, ESRCH.
    pub fn set_debug_regs(&mut self, u: [u64; 27]) -> Result<(), Errno> {
        if u[21] >= abi::arch::TASK_SIZE || u[22] >= abi::arch::TASK_SIZE {
            return Err(Errno::EIO);
        }
        let old = self.thread.regs().map_err(|_| Errno::ESRCH)?;
        let mut new = Regs {
            r15: u[0],
            r14: u[1],
            r13: u[2],
            r12: u[3],
            rbp: u[4],
            rbx: u[5],
            r11: u[6],
            r10: u[7],
            r9: u[8],
            r8: u[9],
            rax: u[10],
            rcx: u[11],
            rdx: u[12],
            rsi: u[13],
            rdi: u[14],
            rip: u[16],
            flags: u[18],
            rsp: u[19],
            fs_base: u[21],
            gs_base: u[22],
            ..old
        };
        if self.stepping {
            new.flags |= TRAP_FLAG;
        }
        if self.orig_rax.is_some() || u[15] as i64 >= 0 {
            self.orig_rax = Some(u[15]);
        }
        if self.at_entry && new.rax == -i64::from(Errno::ENOSYS.raw()) as u64 {
            // As it was; a call that is skipped returns this.
            new.rax = if u[15] as u32 == u32::MAX { new.rax } else { old.rax };
        }
        self.thread.set_regs(&new).map_err(|_| Errno::ESRCH)
    }

    /// The vector state as `NT_X86_XSTATE` has it.
    ///
    /// # Errors
    /// ESRCH.
    pub fn debug_xstate(&mut self) -> Result<Vec<u8>, Errno> {
        const SW_RESERVED: usize = 464;
        let mut state = self.thread.xstate().map_err(|_| Errno::ESRCH)?;
        // Where a signal frame tells of itself, a debugger looks for the set of features.
        let features = state.get(SW_RESERVED + 8..SW_RESERVED + 16).map(<[u8]>::to_vec);
        if let (Some(features), Some(slot)) = (features, state.get_mut(SW_RESERVED..SW_RESERVED + 48)) {
            slot.fill(0);
            slot[..8].copy_from_slice(&features);
        }
        Ok(state)
    }

    /// Sets what of the vector state `bytes` has: the beginning of it at least.
    ///
    /// # Errors
    /// EINVAL for too little, ESRCH.
    pub fn set_debug_xstate(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        const LEGACY: usize = 464;
        const EXTENDED: usize = 512;
        let mut state = self.thread.xstate().map_err(|_| Errno::ESRCH)?;
        let len = bytes.len().min(state.len());
        if len < LEGACY {
            return Err(Errno::EINVAL);
        }
        let copy = |state: &mut [u8], range: std::ops::Range<usize>| {
            if let (Some(to), Some(from)) = (state.get_mut(range.clone()), bytes.get(range)) {
                to.copy_from_slice(from);
            }
        };
        copy(&mut state, 0..LEGACY);
        if len > EXTENDED {
            copy(&mut state, EXTENDED..len);
        }
        self.thread.set_xstate(&state).map_err(|_| Errno::ESRCH)
    }
}

/// What an interrupted call shows at its exit (`ERESTARTSYS` and its kin).
pub(crate) fn restart_number(restart: abi::Restart) -> u64 {
    let number: i64 = match restart {
        abi::Restart::IfRestartable => 512,
        abi::Restart::Always => 513,
        abi::Restart::IfNoHandler => 514,
        abi::Restart::Block => 516,
    };
    -number as u64
}
