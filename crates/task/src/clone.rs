//! Making threads and processes, clone(2), clone3(2), fork(2), vfork(2).

use crate::current::{Current, Shared};
use crate::process::Process;
use crate::signal::{Actions, ThreadSignals};
use crate::system::System;
use crate::task::{Task, VforkDone, comm_of};
use abi::arch::{Regs, TASK_SIZE};
use abi::{AltStack, CloneFlags, Errno, Resource, Restart, SigSet, Signal, SysError, SysResult};
use platform::{GuestThread, SpaceGone};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use sync::SpinLock;
use vfs::{Capability, Credentials, UserMemory};

/// What clone(2) or clone3(2) asks for. Addresses; 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CloneRequest {
    pub flags: CloneFlags,
    /// What the parent gets when the child dies.
    pub exit_signal: Option<Signal>,
    /// The child's stack pointer; 0: the maker's.
    pub stack: u64,
    pub tls: u64,
    pub parent_tid: u64,
    pub child_tid: u64,
    pub pidfd: u64,
    /// `CLONE_INTO_CGROUP`: the group that a new process begins in; none: its maker's.
    pub cgroup: Option<crate::cgroup::GroupId>,
}

impl CloneRequest {
    /// fork(2).
    #[must_use]
    pub fn fork() -> CloneRequest {
        CloneRequest {
            flags: CloneFlags::empty(),
            exit_signal: Some(Signal::SIGCHLD),
            stack: 0,
            tls: 0,
            parent_tid: 0,
            child_tid: 0,
            pidfd: 0,
            cgroup: None,
        }
    }

    /// Whether the flags make sense together, clone(2) "ERRORS".
    ///
    /// # Errors
    /// EINVAL.
    pub fn check(&self) -> Result<(), Errno> {
        use CloneFlags as F;
        let has = |flags: F| self.flags.contains(flags);
        let wrong = (has(F::THREAD) && !has(F::SIGHAND))
            || (has(F::SIGHAND) && !has(F::VM))
            || has(F::NEWNS | F::FS)
            || has(F::NEWUSER | F::FS)
            || has(F::SIGHAND | F::CLEAR_SIGHAND)
            || has(F::NEWIPC | F::SYSVSEM)
            || (has(F::THREAD) && self.flags.intersects(F::NEWUSER | F::NEWPID))
            || has(F::PIDFD | F::DETACHED)
            || has(F::PIDFD | F::THREAD)
            || (has(F::SETTLS) && self.tls >= TASK_SIZE)
            || self.stack >= TASK_SIZE;
        if wrong { Err(Errno::EINVAL) } else { Ok(()) }
    }
}

fn gone(_: SpaceGone) -> Errno {
    Errno::EAGAIN
}

impl Current {
    /// Makes a thread or a process as `request` says; the new one's number.
    ///
    /// # Errors
    /// EINVAL, EAGAIN (limits), ENOMEM, EPERM; a restart while a signal is pending.
    pub fn clone_task(&mut self, request: &CloneRequest) -> SysResult<i32> {
        use CloneFlags as F;
        request.check()?;
        let flags = request.flags;
        if flags.contains(F::NEWUTS) {
            self.credentials().require(Capability::SYS_ADMIN)?;
        }
        if flags.intersects(F::NAMESPACES.difference(F::NEWNS | F::NEWUTS)) {
            // As Linux without these namespaces; who may not ask gets the other answer.
            self.credentials().require(Capability::SYS_ADMIN)?;
            return Err(Errno::EINVAL.into());
        }
        if flags.contains(F::PARENT) && self.pid() == 1 {
            return Err(Errno::EINVAL.into());
        }
        if sync::current().is_interrupted() {
            // A signal to the whole group must be taken before there is one more to take it.
            return Err(SysError::Restart(Restart::Always));
        }
        self.check_limits(request.cgroup)?;
        let shared = self.share(flags)?;
        let thread = self.thread_for(&shared, request)?;
        let task = self.publish(request, &shared)?;
        let tid = task.tid();
        if let Err(errno) = self.write_numbers(request, &shared, tid) {
            self.system().withdraw(&task);
            return Err(errno.into());
        }
        if flags.contains(F::CHILD_CLEARTID) {
            task.clear_child_tid.store(request.child_tid, Ordering::Relaxed);
        }
        let pidfd = match self.give_pidfd(request, &task) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                self.system().withdraw(&task);
                return Err(error);
            }
        };
        let vfork = flags.contains(F::VFORK).then(|| Arc::new(VforkDone::default()));
        task.vfork.lock().clone_from(&vfork);
        self.system().forks.fetch_add(1, Ordering::Relaxed);
        let event = self.trace_child(&task, flags, request.exit_signal);
        let child = Current::new(task.clone(), thread, shared);
        if let Err(errno) = self.system().hooks.start(child) {
            self.system().withdraw(&task);
            if let Some(fd) = pidfd {
                let file = self.files().remove(fd);
                drop(file);
            }
            return Err(errno.into());
        }
        drop(task);
        self.trace_made(event, tid);
        if let Some(done) = vfork {
            self.wait_for_vfork(&done);
            self.trace_vfork_done(tid);
        }
        Ok(tid)
    }

    fn check_limits(&self, cgroup: Option<crate::cgroup::GroupId>) -> Result<(), Errno> {
        let system = self.system();
        if system.table().tree.thread_count() >= system.limits.threads_max {
            return Err(Errno::EAGAIN);
        }
        let credentials = self.credentials();
        let free = credentials.uid == 0 || credentials.has(Capability::SYS_RESOURCE) || credentials.has(Capability::SYS_ADMIN);
        let tasks = system.account(credentials.uid).tasks.load(Ordering::Relaxed);
        if !free && tasks >= self.process().rlimit(Resource::Nproc).soft {
            return Err(Errno::EAGAIN);
        }
        system.cgroups.may_fork(cgroup.unwrap_or_else(|| self.process().cgroup.load(Ordering::Relaxed)))
    }

    fn share(&mut self, flags: CloneFlags) -> Result<Shared, Errno> {
        let mut shared = self.shared();
        if !flags.contains(CloneFlags::VM) {
            let space = self.system().platform.new_space()?;
            let regs = self.thread.regs().map_err(gone)?;
            // What parent and child touch first.
            shared.memory = self.memory().fork(space, &[regs.rip, regs.rsp, regs.fs_base])?;
        }
        if !flags.contains(CloneFlags::FILES) {
            shared.files = self.files().fork()?;
        }
        if !flags.contains(CloneFlags::FS) {
            shared.fs = self.fs().fork();
        }
        if flags.contains(CloneFlags::NEWNS) {
            // CAP_SYS_ADMIN is asked for there.
            let (namespace, map) = self.caller().copy_namespace()?;
            shared.fs.translate(|path| map.translate(path));
            shared.namespace = namespace;
        }
        Ok(shared)
    }

    /// A guest thread in the child's address space, with the maker's registers.
    fn thread_for(&mut self, shared: &Shared, request: &CloneRequest) -> Result<Box<dyn GuestThread>, Errno> {
        let mut thread = shared.memory.guest_space().new_thread()?;
        let mut regs = self.thread.regs().map_err(gone)?;
        regs.set_result(0);
        if request.stack != 0 {
            regs.rsp = request.stack;
        }
        if request.flags.contains(CloneFlags::SETTLS) {
            regs.fs_base = request.tls;
        }
        thread.set_regs(&regs).map_err(gone)?;
        let xstate = self.thread.xstate().map_err(gone)?;
        thread.set_xstate(&xstate).map_err(gone)?;
        Ok(thread)
    }

    fn child_signals(&self, flags: CloneFlags) -> ThreadSignals {
        let signals = self.process().signals();
        let (mask, alt) = signals.thread(self.tid()).map_or((SigSet::EMPTY, AltStack::default()), |t| (t.blocked, t.alt_stack));
        let keeps_stack = !flags.contains(CloneFlags::VM) || flags.contains(CloneFlags::VFORK);
        ThreadSignals::inherited(mask, if keeps_stack { alt } else { AltStack::default() })
    }

    /// Puts the new thread or process into the table.
    fn publish(&self, request: &CloneRequest, shared: &Shared) -> SysResult<Arc<Task>> {
        let flags = request.flags;
        let system = self.system();
        let signals = self.child_signals(flags);
        let tid = system.table().tree.next_pid()?;
        let (credentials, comm) = (self.task().credentials(), self.task().comm());
        let nice = self.task().nice.load(Ordering::Relaxed);
        let is_thread = flags.contains(CloneFlags::THREAD);
        let process = if is_thread { self.process().clone() } else { self.new_process(tid, flags, signals_for_process(&signals)) };
        let task = Task::new(tid, process.clone(), shared.resources(), credentials, comm, nice)?;
        task.timer_slack_ns.store(self.task().timer_slack_ns.load(Ordering::Relaxed), Ordering::Relaxed);
        task.policy.store(self.task().policy.load(Ordering::Relaxed), Ordering::Relaxed);
        task.priority.store(self.task().priority.load(Ordering::Relaxed), Ordering::Relaxed);
        task.io_priority.store(self.task().io_priority.load(Ordering::Relaxed), Ordering::Relaxed);
        let uts = self.uts();
        *task.uts.lock() = if flags.contains(CloneFlags::NEWUTS) { uts.copy() } else { uts };
        let seccomp = self.task().seccomp.lock().clone();
        *task.seccomp.lock() = seccomp;
        let mut table = system.table();
        if is_thread {
            if !process.signals().add_thread(tid, signals) {
                return Err(SysError::Restart(Restart::Always));
            }
            table.tree.add_thread(tid, process.pid());
        } else {
            let (parent, parent_thread, exit_signal) = if flags.contains(CloneFlags::PARENT) {
                let own = table.tree.get(self.pid()).ok_or(Errno::ESRCH)?;
                (own.parent, own.parent_thread, own.exit_signal)
            } else {
                (self.pid(), self.tid(), request.exit_signal)
            };
            table.tree.add_child(tid, parent, parent_thread, exit_signal)?;
            table.processes.insert(tid, process.clone());
        }
        table.tasks.insert(tid, task.clone());
        drop(table);
        process.add_thread(&task);
        if !is_thread {
            let group = request.cgroup.unwrap_or_else(|| self.process().cgroup.load(Ordering::Relaxed));
            system.cgroups.join(group, &process);
        }
        Ok(task)
    }

    fn new_process(&self, pid: i32, flags: CloneFlags, signals: ThreadSignals) -> Arc<Process> {
        let own = self.process();
        let shared = own.signals().actions.clone();
        let actions = if flags.contains(CloneFlags::SIGHAND) {
            shared
        } else {
            let mut copy = shared.lock().clone();
            if flags.contains(CloneFlags::CLEAR_SIGHAND) {
                copy.clear_handlers();
            }
            Arc::new(SpinLock::new(copy))
        };
        let process = Process::new(pid, own.system, actions, signals, own.rlimits());
        process.dumpable.store(own.dumpable.load(Ordering::Relaxed), Ordering::Relaxed);
        process.personality.store(own.personality.load(Ordering::Relaxed), Ordering::Relaxed);
        process.oom_score_adj.store(own.oom_score_adj.load(Ordering::Relaxed), Ordering::Relaxed);
        process.login.uid.store(own.login.uid.load(Ordering::Relaxed), Ordering::Relaxed);
        process.login.session.store(own.login.session.load(Ordering::Relaxed), Ordering::Relaxed);
        process.exit_uid.store(self.credentials().uid, Ordering::Relaxed);
        process.timers.watch_cpu_limit(own.rlimit(Resource::Cpu).soft);
        *process.program.lock() = own.program();
        // Both run it: the guard against writers is shared.
        *process.executable.lock() = own.executable();
        process
    }

    fn write_numbers(&self, request: &CloneRequest, shared: &Shared, tid: i32) -> Result<(), Errno> {
        let number = tid.to_ne_bytes();
        if request.flags.contains(CloneFlags::PARENT_SETTID) {
            self.memory().write_all(request.parent_tid, &number)?;
        }
        if request.flags.contains(CloneFlags::CHILD_SETTID) {
            // In the child a bad address is nobody's error.
            let _ = shared.memory.write_all(request.child_tid, &number);
        }
        Ok(())
    }

    /// `CLONE_PIDFD`: the descriptor is there before the child runs.
    fn give_pidfd(&self, request: &CloneRequest, task: &Arc<Task>) -> SysResult<Option<vfs::Fd>> {
        if !request.flags.contains(CloneFlags::PIDFD) {
            return Ok(None);
        }
        let fd = self.open_pidfd(task.process().clone(), vfs::OpenFlags::empty())?;
        if let Err(errno) = self.memory().write_all(request.pidfd, &fd.to_ne_bytes()) {
            let file = self.files().remove(fd);
            drop(file);
            return Err(errno.into());
        }
        Ok(Some(fd))
    }

    /// Sleeps until the child has another address space or is dead; only death ends that early.
    fn wait_for_vfork(&self, done: &VforkDone) {
        self.set_killable_only(true);
        done.wait();
        self.set_killable_only(false);
    }

    /// Whether only death interrupts this thread's waits.
    pub(crate) fn set_killable_only(&self, on: bool) {
        let tid = self.tid();
        let mut signals = self.process().signals();
        if let Some(thread) = signals.thread_mut(tid) {
            thread.killable_only = on;
        }
        signals.recalc(tid);
    }
}

/// A process's first thread and a later thread begin alike.
fn signals_for_process(signals: &ThreadSignals) -> ThreadSignals {
    ThreadSignals::inherited(signals.blocked, signals.alt_stack)
}

impl System {
    /// Takes a thread that never ran out of the table again.
    fn withdraw(&self, task: &Arc<Task>) {
        let process = task.process();
        let tid = task.tid();
        let resources = std::mem::take(&mut *task.resources.lock());
        drop(resources);
        process.remove_thread(task);
        let mut table = self.table();
        process.signals().remove_thread(tid);
        table.tasks.remove(&tid);
        if tid == process.pid() {
            table.tree.withdraw(tid);
            table.processes.remove(&tid);
            drop(table);
            self.cgroups.leave(process);
        } else {
            table.tree.remove_thread(tid);
        }
    }

    /// The first process, number 1, with root's identity and nothing mapped: the caller runs a program in it by [`Current::exec`] or sets its
    /// registers.
    ///
    /// # Errors
    /// What the platform or memory answers; EEXIST if there is one already.
    pub fn first_process(&'static self, shared: Shared, name: &[u8]) -> Result<Current, Errno> {
        let thread = shared.memory.guest_space().new_thread()?;
        let pid = {
            let mut table = self.table();
            if table.tree.get(1).is_some() {
                return Err(Errno::EEXIST);
            }
            let pid = table.tree.next_pid()?;
            table.tree.add_init(pid);
            pid
        };
        let actions = Arc::new(SpinLock::new(Actions::default()));
        let process = Process::new(pid, self, actions, ThreadSignals::default(), self.limits.initial_rlimits());
        let task = Task::new(pid, process.clone(), shared.resources(), Arc::new(Credentials::root()), comm_of(name), 0)?;
        process.add_thread(&task);
        self.cgroups.join(crate::cgroup::ROOT, &process);
        let mut table = self.table();
        table.processes.insert(pid, process);
        table.tasks.insert(pid, task.clone());
        drop(table);
        let mut current = Current::new(task, thread, shared);
        let regs = Regs { flags: Regs::USER_FLAGS, selectors: Regs::USER_SELECTORS, ..Regs::default() };
        current.thread().set_regs(&regs).map_err(gone)?;
        Ok(current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_contradict_each_other_are_invalid() {
        use CloneFlags as F;
        let check = |flags| CloneRequest { flags, ..CloneRequest::fork() }.check();
        let thread = F::VM | F::FS | F::FILES | F::SIGHAND | F::THREAD | F::SYSVSEM | F::SETTLS;
        for flags in [F::empty(), F::VM | F::VFORK, thread, thread | F::CHILD_CLEARTID | F::PARENT_SETTID] {
            assert_eq!(check(flags), Ok(()), "{flags:?}");
        }
        for flags in [
            F::THREAD,
            F::THREAD | F::VM,
            F::SIGHAND,
            F::NEWNS | F::FS,
            thread | F::CLEAR_SIGHAND,
            thread | F::NEWPID,
            F::PIDFD | F::DETACHED,
        ] {
            assert_eq!(check(flags), Err(Errno::EINVAL), "{flags:?}");
        }
        assert!(CloneRequest { stack: TASK_SIZE, ..CloneRequest::fork() }.check().is_err());
    }
}
