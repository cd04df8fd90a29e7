//! Signal-driven I/O: sends what fcntl(2) F_SETOWN and F_SETSIG asked for when a file with O_ASYNC becomes ready.

use abi::siginfo::code;
use abi::{SigFields, SigInfo, Signal};
use std::sync::Arc;
use sync::Events;
use task::System;
use task::signal::To;
use vfs::{OwnerKind, SignalOwner, SignalSink};

/// The machine's processes as files see them.
struct Sink(&'static System);

/// From now on files signal their owners.
pub fn install(system: &'static System) {
    // A second machine in one process (tests) keeps the first one's sink.
    let _ = vfs::install_signal_sink(Arc::new(Sink(system)));
}

/// Whether whoever called F_SETOWN may signal this process (`sigio_perm`).
fn may_signal(owner: &SignalOwner, process: &task::Process) -> bool {
    let Some(task) = process.any_thread() else { return false };
    let target = task.credentials();
    owner.euid == 0 || [owner.uid, owner.euid].iter().any(|uid| *uid == target.uid || *uid == target.suid)
}

fn info(owner: &SignalOwner, fd: i32, events: Events) -> SigInfo {
    let Some(signal) = owner.signal else { return SigInfo::kernel(Signal::SIGIO) };
    // POLL_IN, POLL_OUT, POLL_MSG, POLL_ERR, POLL_PRI, POLL_HUP: the first that holds.
    let code = if events.intersects(Events::IN) {
        code::POLL_IN
    } else if events.intersects(Events::OUT) {
        code::POLL_IN + 1
    } else if events.intersects(Events::HUP) {
        code::POLL_HUP
    } else {
        code::POLL_IN + 3
    };
    SigInfo { signal, errno: 0, code, fields: SigFields::Poll { band: i64::from(events.bits()), fd } }
}

impl SignalSink for Sink {
    fn io_possible(&self, owner: &SignalOwner, fd: i32, events: Events) {
        let targets: Vec<(Arc<task::Process>, To)> = {
            let table = self.0.table();
            match owner.kind {
                OwnerKind::Group => table.group(owner.id).map(|p| (p.clone(), To::Process)).collect(),
                OwnerKind::Process => table.process(owner.id).map(|p| (p.clone(), To::Process)).into_iter().collect(),
                OwnerKind::Thread => table.task(owner.id).map(|t| (t.process().clone(), To::Thread(owner.id))).into_iter().collect(),
            }
        };
        for (process, to) in targets {
            if may_signal(owner, &process) && process.send(to, info(owner, fd, events)).is_err() {
                // The queue is full: SIGIO alone says that something was lost.
                let _ = process.send(to, SigInfo::kernel(Signal::SIGIO));
            }
        }
    }
}
