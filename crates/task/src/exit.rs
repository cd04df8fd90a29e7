//! The end of threads and processes, exit(2), and who hears of it.

use crate::current::Current;
use crate::process::{Process, usage_of};
use crate::signal::To;
use crate::system::{System, Table};
use abi::siginfo::SIG_IGN;
use abi::{SigInfo, Signal, WaitStatus};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use sync::Events;
use vfs::UserMemory;

/// Signals to send once the table's lock is released.
#[derive(Default)]
struct Farewells {
    signals: Vec<(Arc<Process>, SigInfo)>,
    wake: Vec<Arc<Process>>,
    reap: Vec<i32>,
}

impl Current {
    /// Ends this thread, and the process with its last thread. The fiber ends after this.
    pub fn exit(mut self) {
        let status = self.exiting.unwrap_or(WaitStatus::Exited(0));
        self.trace_exit(status);
        let task = self.task().clone();
        let process = self.process().clone();
        let system = self.system();
        let tid = task.tid();
        let wake = process.signals().set_exiting(tid);
        process.kick(&wake);
        sync::current().set_interrupted(false);
        self.leave_memory();
        let shared = self.shared();
        self.end();
        // The guest thread first: nothing may run in an address space that goes away.
        drop(self);
        let resources = std::mem::take(&mut *task.resources.lock());
        drop(resources);
        drop(shared.memory);
        close_files(shared.files);
        drop((shared.fs, shared.namespace));

        process.add_own_usage(&usage_of(&task));
        process.remove_thread(&task);
        if tid == process.pid() {
            *process.leader_status.lock() = Some(status);
        }
        let (wake, stop, last) = {
            let mut table = system.table();
            let mut signals = process.signals();
            let (wake, stop) = signals.remove_thread(tid);
            let last = signals.threads() == 0;
            drop(signals);
            table.tasks.remove(&tid);
            if tid != process.pid() {
                table.tree.remove_thread(tid);
            }
            (wake, stop, last)
        };
        process.kick(&wake);
        if last || tid != process.pid() {
            let status = if last { process.final_status(status) } else { status };
            system.tell_of_departure(&task, status, last);
        }
        if last {
            process.finish(status);
        } else if let Some(signal) = stop {
            process.tell_parent_of_stop(WaitStatus::Stopped(signal));
        }
        process.exited.notify(Events::IN);
    }

    /// What a thread owes its address space when it leaves it by exit or exec: robust locks, the cleared thread number, vfork's promise.
    pub(crate) fn leave_memory(&mut self) {
        let task = self.task().clone();
        let memory = self.memory().clone();
        let futexes = &self.system().futexes;
        futexes.owner_died(&*memory, &*memory, task.robust_list(), task.tid());
        task.set_robust_list(crate::futex::RobustList::default());
        let clear = task.clear_child_tid.swap(0, Ordering::Relaxed);
        if clear != 0 && memory.write_all(clear, &0u32.to_ne_bytes()).is_ok() {
            // Whoever joins the thread waits there; a bad address wakes nobody.
            let _ = futexes.wake(&*memory, clear, true, 1, crate::futex::ANY);
        }
        let vfork = task.vfork.lock().take();
        if let Some(done) = vfork {
            done.complete();
        }
    }
}

/// Closes every descriptor if nobody else has the table.
pub(crate) fn close_files(files: Arc<vfs::FdTable>) {
    if Arc::strong_count(&files) > 1 {
        return;
    }
    for (_, file) in files.remove_range(0, u32::MAX) {
        // exit(2) tells nobody about errors on close.
        let _ = file.ops().flush(&file);
    }
}

impl Process {
    /// Its last thread has gone.
    fn finish(self: &Arc<Process>, last_thread: WaitStatus) {
        let system = self.system;
        let status = self.final_status(last_thread);
        self.release_tracees();
        self.timers.clear();
        let executable = self.executable.lock().take();
        drop(executable);
        system.cgroups.leave(self);
        if self.has_undo.load(Ordering::Relaxed) {
            for (_, set) in system.ipc.semaphores.all() {
                set.undo(self.pid());
            }
        }
        if self.pid() == 1 {
            system.hooks.init_died(status);
            return;
        }
        let mut farewells = Farewells::default();
        let terminal = {
            let mut table = system.table();
            let aftermath = table.tree.die(self.pid(), self.death(status, self.last_uid()));
            table.tree.remove_thread(self.pid());
            if !aftermath.reparented.is_empty() {
                system.platform.forget_answers();
            }
            let session = table.tree.get(self.pid()).map_or(0, |n| n.session);
            for group in &aftermath.orphaned {
                for member in table.group(*group) {
                    farewells.signals.push((member.clone(), SigInfo::kernel(Signal::SIGHUP)));
                    farewells.signals.push((member.clone(), SigInfo::kernel(Signal::SIGCONT)));
                }
            }
            for (child, parent, is_zombie) in &aftermath.reparented {
                let Some(process) = table.process(*child).cloned() else { continue };
                if let Some(signal) = Signal::new(process.parent_death_signal.load(Ordering::Relaxed)) {
                    farewells.signals.push((process.clone(), SigInfo::kernel(signal)));
                }
                if *is_zombie {
                    farewells.tell_parent(&table, &process, *parent, Some(Signal::SIGCHLD));
                }
            }
            farewells.tell_parent(&table, self, aftermath.parent, aftermath.exit_signal);
            for pid in std::mem::take(&mut farewells.reap) {
                table.reap(pid);
            }
            if aftermath.session_leader { table.terminals.remove(&session) } else { None }
        };
        if let Some(terminal) = terminal {
            terminal.leader_exits();
        }
        farewells.carry_out();
    }

    /// How the process ends, when its last thread ends like this.
    fn final_status(&self, last_thread: WaitStatus) -> WaitStatus {
        self.signals().group_exit().or(*self.leader_status.lock()).unwrap_or(last_thread)
    }

    fn last_uid(&self) -> u32 {
        self.exit_uid.load(Ordering::Relaxed)
    }
}

impl Farewells {
    /// A zombie's parent hears of it, or lets it go at once.
    fn tell_parent(&mut self, table: &Table, child: &Arc<Process>, parent: i32, exit_signal: Option<Signal>) {
        let Some(parent) = table.process(parent).cloned() else {
            self.reap.push(child.pid());
            return;
        };
        let Some(death) = table.tree.get(child.pid()).and_then(|n| n.death()) else { return };
        let actions = parent.signals().actions.clone();
        let (reaps, ignores) = {
            let actions = actions.lock();
            (actions.reaps_children(), actions.get(Signal::SIGCHLD).handler == SIG_IGN)
        };
        let is_sigchld = exit_signal == Some(Signal::SIGCHLD);
        if let Some(signal) = exit_signal
            && !(is_sigchld && ignores)
        {
            let info = SigInfo { signal, ..child.child_info(signal, death.status, death.uid) };
            self.signals.push((parent.clone(), info));
        }
        if is_sigchld && reaps {
            self.reap.push(child.pid());
        }
        self.wake.push(parent);
    }

    fn carry_out(self) {
        for (process, info) in self.signals {
            // Standard signals always find room, and nobody is left to be told otherwise.
            let _ = process.send(To::Process, info);
        }
        for process in self.wake {
            process.child_changed.wake_all();
        }
    }
}

impl Table {
    /// Forgets a zombie.
    pub(crate) fn reap(&mut self, pid: i32) {
        self.tree.reap(pid);
        self.processes.remove(&pid);
    }
}

impl System {
    /// Whether a process is on its way out and still holds memory.
    pub(crate) fn someone_is_dying(&self) -> bool {
        let processes = self.table().all_processes();
        processes.iter().any(|p| p.signals().group_exit().is_some() && p.memory().is_some())
    }

    /// The process that is to die when memory is used up: the largest by resident pages and `oom_score_adj`; never init, never one that is dying.
    pub(crate) fn oom_victim(&self) -> Option<Arc<Process>> {
        let candidates: Vec<Arc<Process>> = {
            let table = self.table();
            table.processes.values().filter(|p| p.pid() != 1 && p.oom_score_adj.load(Ordering::Relaxed) > -1000).cloned().collect()
        };
        let total = self.ram.frames() as i64;
        let score = |p: &Arc<Process>| {
            let resident = p.memory().map(|m| m.badness() as i64)?;
            Some(resident + i64::from(p.oom_score_adj.load(Ordering::Relaxed)) * total / 1000)
        };
        candidates
            .into_iter()
            .filter(|p| p.signals().group_exit().is_none())
            .filter_map(|p| score(&p).map(|s| (s, p)))
            .max_by_key(|(s, _)| *s)
            .map(|(_, p)| p)
    }
}
