//! Job control: which session and which process group own a terminal, and who may do what with it.
//!
//! Decisions are values: the caller describes itself ([`Caller`]), [`Control`] says what is to happen, and `task` makes it happen. Nothing
//! here knows a task, and nothing here sends a signal.
//!
//! Identifiers are the numbers of sessions and process groups in the root namespace; the caller translates for namespaces.
//!
//! Sources: credentials(7), tcsetpgrp(3), ioctl_tty(2) "Controlling terminal", POSIX.1-2017 11.1.3 and 11.1.4, setsid(2).

use abi::{Errno, Signal};

/// A session's or a process group's number.
pub type Id = i32;

/// What a terminal needs to know of the process that uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Its session.
    pub session: Id,
    /// Its process group.
    pub group: Id,
    /// Whether it leads its session.
    pub is_session_leader: bool,
    /// Whether this very terminal is its controlling one.
    pub controls_this: bool,
    /// Whether it has a controlling terminal at all.
    pub has_terminal: bool,
    /// Whether the calling thread blocks or ignores SIGTTIN.
    pub shuns_ttin: bool,
    /// Whether the calling thread blocks or ignores SIGTTOU.
    pub shuns_ttou: bool,
    /// Whether its process group is orphaned: no member has a parent in the same session but another group.
    pub is_orphaned: bool,
    /// CAP_SYS_ADMIN.
    pub is_admin: bool,
}

/// What a process wants of the terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// read(2).
    Read,
    /// write(2).
    Write {
        /// Whether the settings have TOSTOP.
        tostop: bool,
    },
    /// An ioctl that changes the terminal ([`crate::ioctl::Request::changes_terminal`]).
    Change,
}

/// What is to happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Go on.
    Allow,
    /// Send this signal to the caller's whole process group, and restart the call once it has been dealt with (ERESTARTSYS).
    StopGroup(Signal),
    /// The call fails.
    Fail(Errno),
}

/// A process group or session leader to be signalled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Every process in the group.
    Group(Id),
    /// The process that leads the session.
    SessionLeader(Id),
}

/// What becomes of the session when its terminal goes away. Send the signals in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Farewell {
    /// Who gets what.
    pub signals: Vec<(Target, Signal)>,
    /// The session whose every process now has no controlling terminal.
    pub released_session: Option<Id>,
    /// All open files of the terminal are dead from now on: reads give the end of file, the rest EIO.
    pub hang_up: bool,
    /// To be kept for the session's leader: when it exits, this group gets SIGHUP and SIGCONT ([`leader_exits_later`]).
    pub remembered_group: Option<Id>,
}

/// Who owns a terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Control {
    session: Option<Id>,
    foreground: Option<Id>,
}

impl Control {
    /// A terminal that controls no session.
    #[must_use]
    pub fn new() -> Self {
        Control::default()
    }

    /// The session that the terminal controls.
    #[must_use]
    pub fn session(&self) -> Option<Id> {
        self.session
    }

    /// The foreground process group: who gets SIGINT, SIGQUIT, SIGTSTP and SIGWINCH.
    #[must_use]
    pub fn foreground(&self) -> Option<Id> {
        self.foreground
    }

    /// Whether the caller may go on. A process in the background of its own controlling terminal may not, unless it arranged for that.
    #[must_use]
    pub fn check(&self, caller: &Caller, access: Access) -> Decision {
        if matches!(access, Access::Write { tostop: false }) || !caller.controls_this {
            return Decision::Allow;
        }
        if self.foreground.is_none_or(|group| group == caller.group) {
            return Decision::Allow;
        }
        match access {
            Access::Read if caller.shuns_ttin || caller.is_orphaned => Decision::Fail(Errno::EIO),
            Access::Read => Decision::StopGroup(Signal::SIGTTIN),
            _ if caller.shuns_ttou => Decision::Allow,
            _ if caller.is_orphaned => Decision::Fail(Errno::EIO),
            _ => Decision::StopGroup(Signal::SIGTTOU),
        }
    }

    /// open(2) without O_NOCTTY: whether the terminal becomes the caller's. `readable`: the file is open for reading.
    ///
    /// Not for the master of a pty, which never becomes a controlling terminal by being opened.
    pub fn acquire_by_open(&mut self, caller: &Caller, readable: bool) -> bool {
        let acquires = caller.is_session_leader && !caller.has_terminal && self.session.is_none() && readable;
        if acquires {
            self.own(caller);
        }
        acquires
    }

    /// TIOCSCTTY. `steal`: the argument is 1. Returns the session that just lost the terminal, if one did: each of its processes has no
    /// controlling terminal now. On success the caller has one.
    ///
    /// # Errors
    /// EPERM: not a session leader, has another terminal, the terminal is another session's and may not be stolen, or the file is not open
    /// for reading.
    pub fn acquire(&mut self, caller: &Caller, steal: bool, readable: bool) -> Result<Option<Id>, Errno> {
        if caller.is_session_leader && self.session == Some(caller.session) {
            return Ok(None);
        }
        if !caller.is_session_leader || caller.has_terminal {
            return Err(Errno::EPERM);
        }
        let robbed = self.session;
        if robbed.is_some() && !(steal && caller.is_admin) {
            return Err(Errno::EPERM);
        }
        if !readable && !caller.is_admin {
            return Err(Errno::EPERM);
        }
        self.own(caller);
        Ok(robbed)
    }

    fn own(&mut self, caller: &Caller) {
        self.session = Some(caller.session);
        self.foreground = Some(caller.group);
    }

    /// TIOCGPGRP, on the terminal itself. 0 means that it has no foreground group.
    ///
    /// # Errors
    /// ENOTTY: not the caller's controlling terminal.
    pub fn foreground_for(&self, caller: &Caller) -> Result<Id, Errno> {
        if caller.controls_this { Ok(self.foreground_for_master()) } else { Err(Errno::ENOTTY) }
    }

    /// TIOCGPGRP on the master of a pty: anybody may ask.
    #[must_use]
    pub fn foreground_for_master(&self) -> Id {
        self.foreground.unwrap_or(0)
    }

    /// TIOCGSID; `through_master` when asked of a pty's master.
    ///
    /// # Errors
    /// ENOTTY: not the caller's controlling terminal, or nobody's.
    pub fn session_for(&self, caller: &Caller, through_master: bool) -> Result<Id, Errno> {
        if !through_master && !caller.controls_this {
            return Err(Errno::ENOTTY);
        }
        self.session.ok_or(Errno::ENOTTY)
    }

    /// TIOCSTI: who may put bytes into a terminal as if they were typed. Otherwise EPERM.
    #[must_use]
    pub fn may_inject(&self, caller: &Caller) -> bool {
        caller.controls_this || caller.is_admin
    }

    /// TIOCSPGRP's first half: whether the caller may change the foreground group at all.
    #[must_use]
    pub fn check_set_foreground(&self, caller: &Caller) -> Decision {
        match self.check(caller, Access::Change) {
            Decision::Fail(Errno::EIO) => Decision::Fail(Errno::ENOTTY),
            decision => decision,
        }
    }

    /// TIOCSPGRP's second half, after [`check_set_foreground`](Self::check_set_foreground) allowed it. `group_session` is the session of the
    /// process group `group`; `None` if there is no such group.
    ///
    /// # Errors
    /// EINVAL: a negative number. ENOTTY: not the caller's controlling terminal. ESRCH: no such group. EPERM: it is in another session.
    pub fn set_foreground(&mut self, caller: &Caller, group: Id, group_session: Option<Id>) -> Result<(), Errno> {
        if group < 0 {
            return Err(Errno::EINVAL);
        }
        if !caller.controls_this || self.session != Some(caller.session) {
            return Err(Errno::ENOTTY);
        }
        match group_session {
            None => Err(Errno::ESRCH),
            Some(session) if session != caller.session => Err(Errno::EPERM),
            Some(_) => {
                self.foreground = Some(group);
                Ok(())
            }
        }
    }

    /// TIOCNOTTY: the caller gives up its controlling terminal; a session leader does so for its whole session, and the foreground group
    /// gets SIGHUP and SIGCONT. A caller that leads nothing gives up only its own. Nothing hangs up.
    ///
    /// # Errors
    /// ENOTTY: not the caller's controlling terminal.
    pub fn release(&mut self, caller: &Caller) -> Result<Farewell, Errno> {
        if !caller.controls_this {
            return Err(Errno::ENOTTY);
        }
        if !caller.is_session_leader {
            return Ok(Farewell::default());
        }
        Ok(self.part_from_session(&[Signal::SIGHUP, Signal::SIGCONT]))
    }

    /// The session's leader exits while it has this terminal, which is no pty: the terminal hangs up, and the foreground group gets SIGHUP.
    pub fn leader_exits(&mut self) -> Farewell {
        let foreground = self.foreground;
        let mut farewell = self.hang_up();
        farewell.remembered_group = None;
        if let Some(group) = foreground {
            farewell.signals.push((Target::Group(group), Signal::SIGHUP));
        }
        farewell
    }

    /// The session's leader exits while it has this pty slave: the foreground group gets SIGHUP, and the slave stays as it is, so that a
    /// background job can still write to it.
    pub fn pty_leader_exits(&mut self) -> Farewell {
        self.part_from_session(&[Signal::SIGHUP])
    }

    fn part_from_session(&mut self, signals: &[Signal]) -> Farewell {
        let mut farewell = Farewell { released_session: self.session, ..Farewell::default() };
        if let Some(group) = self.foreground {
            farewell.signals = signals.iter().map(|&signal| (Target::Group(group), signal)).collect();
        }
        *self = Control::default();
        farewell
    }

    /// The terminal hangs up (carrier lost, the pty's master closed, vhangup(2)): the session's leader gets SIGHUP and SIGCONT, and nobody
    /// is controlled any more. The foreground group hears of it when the leader exits.
    pub fn hang_up(&mut self) -> Farewell {
        let mut farewell =
            Farewell { hang_up: true, released_session: self.session, remembered_group: self.foreground, ..Farewell::default() };
        if let Some(session) = self.session {
            farewell.signals = vec![(Target::SessionLeader(session), Signal::SIGHUP), (Target::SessionLeader(session), Signal::SIGCONT)];
        }
        *self = Control::default();
        farewell
    }
}

/// A session leader exits that lost its terminal to a hangup before: what the group it was told to remember gets.
#[must_use]
pub fn leader_exits_later(remembered_group: Option<Id>) -> Vec<(Target, Signal)> {
    remembered_group.map(|group| vec![(Target::Group(group), Signal::SIGHUP), (Target::Group(group), Signal::SIGCONT)]).unwrap_or_default()
}
