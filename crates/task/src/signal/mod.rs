//! Signals: what is pending, what a process wants done about it, and what is to happen next, signal(7).
//!
//! [`Signals`] is the state of one process; it knows no task, no clock and no frame in guest memory. It *decides* ([`Delivery`]); the run loop
//! acts. [`frame`] lays out and takes apart the frame that a handler runs on.
//!
//! What it is not: who may signal whom (`process`), job control's view of the terminal (`tty` by way of `process`), or the wait status of the
//! dead.
//!
//! Always true: SIGKILL and SIGSTOP are never blocked; a stop signal and SIGCONT are never pending together; after `group_exit` is set nothing
//! else is ever delivered.

pub mod frame;
mod pending;
mod state;

pub use pending::{Pending, Slot, UserAccount};
pub use state::{Delivery, Sent, Signals, ThreadSignals, To};

use abi::siginfo::{SIG_DFL, SIG_IGN};
use abi::{Restart, SaFlags, SigAction, SigSet, Signal};

/// What a signal does to a process that asked for nothing else, signal(7) "Signal dispositions".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DefaultAction {
    Terminate,
    Core,
    Ignore,
    Stop,
    Continue,
}

/// SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU.
pub const STOP_SIGNALS: SigSet = SigSet((1 << 18) | (1 << 19) | (1 << 20) | (1 << 21));
/// Signals that an instruction of the thread itself causes; they are taken before all others.
pub const SYNCHRONOUS: SigSet = SigSet((1 << 10) | (1 << 6) | (1 << 3) | (1 << 4) | (1 << 7) | (1 << 30));

/// The default action of `signal`.
#[must_use]
pub fn default_action(signal: Signal) -> DefaultAction {
    match signal {
        Signal::SIGCHLD | Signal::SIGWINCH | Signal::SIGURG => DefaultAction::Ignore,
        Signal::SIGCONT => DefaultAction::Continue,
        Signal::SIGSTOP | Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU => DefaultAction::Stop,
        Signal::SIGQUIT
        | Signal::SIGILL
        | Signal::SIGTRAP
        | Signal::SIGABRT
        | Signal::SIGFPE
        | Signal::SIGSEGV
        | Signal::SIGBUS
        | Signal::SIGSYS
        | Signal::SIGXCPU
        | Signal::SIGXFSZ => DefaultAction::Core,
        _ => DefaultAction::Terminate,
    }
}

/// What a process wants done about each signal. Shared between processes by `CLONE_SIGHAND`.
#[derive(Clone)]
pub struct Actions([SigAction; 64]);

impl Default for Actions {
    fn default() -> Self {
        Actions([SigAction::default(); 64])
    }
}

impl Actions {
    /// The action for `signal`.
    #[must_use]
    pub fn get(&self, signal: Signal) -> SigAction {
        self.0.get(signal.index()).copied().unwrap_or_default()
    }
    /// Sets it. SIGKILL and SIGSTOP can't be blocked by a handler's mask.
    pub fn set(&mut self, signal: Signal, mut action: SigAction) {
        action.mask = action.mask().without(SigSet::UNBLOCKABLE).0;
        if let Some(slot) = self.0.get_mut(signal.index()) {
            *slot = action;
        }
    }
    /// Whether `signal` is dropped, by choice or by default.
    #[must_use]
    pub fn ignores(&self, signal: Signal) -> bool {
        let handler = self.get(signal).handler;
        handler == SIG_IGN || (handler == SIG_DFL && matches!(default_action(signal), DefaultAction::Ignore | DefaultAction::Continue))
    }
    /// execve(2): what was caught is back to the default, what was ignored stays so.
    pub fn reset_for_exec(&mut self) {
        for action in &mut self.0 {
            let handler = if action.handler == SIG_IGN { SIG_IGN } else { SIG_DFL };
            *action = SigAction { handler, ..SigAction::default() };
        }
    }
    /// `CLONE_CLEAR_SIGHAND`: the same, for a new child.
    pub fn clear_handlers(&mut self) {
        self.reset_for_exec();
    }
    /// Signals that are ignored by choice, and those that are caught, for `/proc/PID/status`.
    #[must_use]
    pub fn ignored_and_caught(&self) -> (SigSet, SigSet) {
        let mut sets = (SigSet::EMPTY, SigSet::EMPTY);
        for (index, action) in self.0.iter().enumerate() {
            match action.handler {
                SIG_DFL => {}
                SIG_IGN => sets.0.0 |= 1 << index,
                _ => sets.1.0 |= 1 << index,
            }
        }
        sets
    }
    /// Whether children become no zombies: SIGCHLD is ignored by choice or has `SA_NOCLDWAIT`.
    #[must_use]
    pub fn reaps_children(&self) -> bool {
        let action = self.get(Signal::SIGCHLD);
        action.handler == SIG_IGN || action.flags().contains(SaFlags::NOCLDWAIT)
    }
}

/// How an interrupted system call ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resumption {
    /// It fails with EINTR.
    Interrupted,
    /// It runs again from the beginning.
    Again,
    /// restart_syscall(2) runs in its place.
    RestartSyscall,
}

/// What becomes of a system call that ended with `restart`, given the handler that is about to run, if any. signal(7), "Interruption of system
/// calls and library functions by signal handlers".
#[must_use]
pub fn resumption(restart: Restart, handler: Option<&SigAction>) -> Resumption {
    match (restart, handler) {
        (Restart::Always, _) | (Restart::IfRestartable | Restart::IfNoHandler, None) => Resumption::Again,
        (Restart::Block, None) => Resumption::RestartSyscall,
        (Restart::IfRestartable, Some(action)) if action.flags().contains(SaFlags::RESTART) => Resumption::Again,
        (Restart::IfRestartable | Restart::IfNoHandler | Restart::Block, Some(_)) => Resumption::Interrupted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_runs_again_by_its_kind_and_the_handler_s_sa_restart() {
        let plain = SigAction { handler: 0x1000, ..SigAction::default() };
        let restarting = SigAction { flags: SaFlags::RESTART.bits(), ..plain };
        use Resumption::*;
        for (restart, without, with_plain, with_restarting) in [
            (Restart::IfRestartable, Again, Interrupted, Again),
            (Restart::IfNoHandler, Again, Interrupted, Interrupted),
            (Restart::Always, Again, Again, Again),
            (Restart::Block, RestartSyscall, Interrupted, Interrupted),
        ] {
            assert_eq!(resumption(restart, None), without, "{restart:?}");
            assert_eq!(resumption(restart, Some(&plain)), with_plain, "{restart:?}");
            assert_eq!(resumption(restart, Some(&restarting)), with_restarting, "{restart:?}");
        }
    }

    #[test]
    fn exec_resets_handlers_and_keeps_what_was_ignored() {
        let mut actions = Actions::default();
        actions.set(Signal::SIGINT, SigAction { handler: 0x1000, mask: !0, ..SigAction::default() });
        assert_eq!(actions.get(Signal::SIGINT).mask(), SigSet::ALL.without(SigSet::UNBLOCKABLE));
        actions.set(Signal::SIGHUP, SigAction { handler: SIG_IGN, ..SigAction::default() });
        actions.reset_for_exec();
        assert_eq!(actions.get(Signal::SIGINT), SigAction::default());
        assert_eq!(actions.get(Signal::SIGHUP).handler, SIG_IGN);
        assert!(actions.ignores(Signal::SIGHUP) && !actions.ignores(Signal::SIGINT) && actions.ignores(Signal::SIGCHLD));
    }
}
