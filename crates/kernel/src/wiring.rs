//! What joins the rooms: the kernel's answers to `task`'s hooks and to the terminals' questions.

use crate::config::End;
use crate::machine::Ending;
use crate::run;
use crate::vdso::Vdso;
use abi::{Errno, SigInfo, Signal, WaitStatus};
use drivers::terminal::{Jobs, Tty};
use std::any::Any;
use std::sync::{Arc, OnceLock};
use sync::Fiber;
use sync::sched::Scheduler;
use task::system::{ControllingTerminal, Power};
use task::{Current, Hooks, System, current_task};
use tty::job::{Caller, Id, Target};
use vfs::Capability;

/// Log level of ordinary kernel messages.
pub const INFO: u8 = 6;

/// [`Hooks`] of the real machine.
pub struct Wiring {
    pub scheduler: &'static Scheduler,
    pub vfs: &'static vfs::Vfs,
    pub vdso: Arc<Vdso>,
    pub cgroups: Arc<OnceLock<Arc<crate::cgroupfs::CgroupFs>>>,
    pub ending: Arc<Ending>,
    /// The first process is a command, and its end is the machine's.
    pub first_is_command: bool,
}

impl Hooks for Wiring {
    fn start(&self, current: Current) -> Result<(), Errno> {
        self.scheduler.spawn(move || run::run(current)).map(drop)
    }
    fn kick(&self, fiber: &Fiber) {
        self.scheduler.kick_fiber(fiber);
    }
    fn entropy(&self, bytes: &mut [u8]) {
        host::checks::entropy(bytes);
    }
    fn log(&self, line: &str) {
        self.vfs.log.print(INFO, line);
    }
    fn init_died(&self, status: WaitStatus) {
        if self.first_is_command {
            self.ending.end(End::Exited(status));
            return;
        }
        let text = format!("Kernel panic - not syncing: Attempted to kill init! exitcode=0x{:08x}", status.encode());
        self.ending.panic(&self.vfs.log, &text);
    }
    fn power(&self, power: Power) {
        self.vfs.sync_all();
        let text = match power {
            Power::Halt => "reboot: System halted",
            Power::Off => "reboot: Power down",
            Power::Restart => "reboot: Restarting system",
        };
        self.vfs.log.print(0, text);
        self.ending.end(if power == Power::Restart { End::Restart } else { End::Halted });
    }
    fn realtime_was_set(&self, offset_ns: i64) {
        self.vdso.set_realtime_offset(offset_ns);
    }
    fn cgroup_of(&self, file: &vfs::OpenFile) -> Option<task::cgroup::GroupId> {
        self.cgroups.get()?.group_of(file.inode())
    }
    fn vdso(&self) -> Option<Arc<dyn vfs::Pages>> {
        Some(self.vdso.clone())
    }
}

/// A terminal as its session's processes know it.
struct Controlling(Arc<dyn Tty>);

impl ControllingTerminal for Controlling {
    fn device(&self) -> u64 {
        self.0.number().encode()
    }
    fn foreground(&self) -> Option<i32> {
        self.0.foreground()
    }
    fn leader_exits(&self) {
        self.0.leader_exits();
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What a session that lost its terminal to a hangup remembers of it: the group that was in the foreground.
struct Former {
    system: &'static System,
    group: Id,
}

impl ControllingTerminal for Former {
    fn device(&self) -> u64 {
        0
    }
    fn foreground(&self) -> Option<i32> {
        None
    }
    fn leader_exits(&self) {
        for (target, signal) in tty::job::leader_exits_later(Some(self.group)) {
            send(self.system, target, signal);
        }
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn send(system: &System, target: Target, signal: Signal) {
    let processes: Vec<_> = {
        let table = system.table();
        match target {
            Target::Group(group) => table.group(group).cloned().collect(),
            Target::SessionLeader(session) => table.process(session).cloned().into_iter().collect(),
        }
    };
    for process in processes {
        // A process that dies meanwhile needs no signal.
        let _ = process.send(task::signal::To::Process, SigInfo::kernel(signal));
    }
}

/// [`Jobs`] of the real machine. It learns of the system once that is made.
#[derive(Default)]
pub struct JobControl {
    pub system: OnceLock<&'static System>,
}

impl JobControl {
    fn terminal_of(&self, session: Id) -> Option<Arc<dyn Tty>> {
        let table = self.system.get()?.table();
        table.terminal(session).and_then(|t| t.as_any().downcast_ref::<Controlling>()).map(|c| c.0.clone())
    }
}

impl Jobs for JobControl {
    fn caller(&self, terminal: u64) -> Caller {
        let nobody = Caller {
            session: 0,
            group: 0,
            is_session_leader: false,
            controls_this: false,
            has_terminal: false,
            shuns_ttin: false,
            shuns_ttou: false,
            is_orphaned: false,
            is_admin: true,
        };
        let Some(task) = current_task() else { return nobody };
        let process = task.process();
        let (session, group) = (process.session(), process.group());
        let own = self.terminal_of(session);
        let shuns = |signal: Signal| {
            let signals = process.signals();
            let blocked = signals.thread(task.tid()).is_some_and(|t| t.blocked.has(signal));
            blocked || signals.actions.lock().ignores(signal)
        };
        let is_orphaned = process.system.table().tree.is_orphaned(group, None);
        Caller {
            session,
            group,
            is_session_leader: session == process.pid(),
            controls_this: own.as_ref().is_some_and(|t| t.id() == terminal),
            has_terminal: own.is_some(),
            shuns_ttin: shuns(Signal::SIGTTIN),
            shuns_ttou: shuns(Signal::SIGTTOU),
            is_orphaned,
            is_admin: task.credentials().has(Capability::SYS_ADMIN),
        }
    }
    fn group_session(&self, group: Id) -> Option<Id> {
        self.system.get()?.table().tree.session_of_group(group)
    }
    fn signal(&self, target: Target, signal: Signal) {
        if let Some(system) = self.system.get() {
            send(system, target, signal);
        }
    }
    fn remember_group(&self, session: Id, group: Id) {
        if let Some(&system) = self.system.get() {
            system.set_session_terminal(session, Some(Arc::new(Former { system, group })));
        }
    }
    fn set_controlling(&self, session: Id, terminal: Option<Arc<dyn Tty>>) {
        let Some(system) = self.system.get() else { return };
        let terminal: Option<Arc<dyn ControllingTerminal>> = terminal.map(|t| Arc::new(Controlling(t)) as Arc<dyn ControllingTerminal>);
        system.set_session_terminal(session, terminal);
    }
    fn drop_controlling(&self) {
        // A process that leads nothing shares its session's terminal: it can't give it up alone here.
    }
    fn controlling(&self) -> Option<Arc<dyn Tty>> {
        let session = current_task()?.process().session();
        self.terminal_of(session)
    }
}
