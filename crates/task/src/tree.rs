//! The process tree as numbers: who descends from whom, process groups, sessions, the dead that nobody has asked about yet.
//!
//! Follows credentials(7), setpgid(2), setsid(2), wait(2), pid_namespaces(7) (reaping), and POSIX on orphaned process groups.
//!
//! What it is not: tasks, signals or locks. It answers and changes numbers; `process` holds it under the table's lock and acts on the answers.
//!
//! Always true: every process but the first has a living parent in the tree; a number is in use while a thread, a process, a process group or a
//! session has it; a process is a member of its group and its group belongs to its session.

use abi::{Errno, Rusage, Signal, WaitFor, WaitOptions, WaitStatus};
use std::collections::BTreeMap;

/// Numbers below this are not given out again after the first round (`RESERVED_PIDS`).
const RESERVED: i32 = 300;

/// How a process ended, and what wait(2) tells about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Death {
    pub status: WaitStatus,
    /// Its real user.
    pub uid: u32,
    /// Its own and its waited-for children's use.
    pub usage: Rusage,
}

/// What wait(2) found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waited {
    pub pid: i32,
    pub status: WaitStatus,
    pub uid: u32,
    pub usage: Rusage,
}

/// A process in the tree.
#[derive(Debug)]
pub struct Node {
    pub parent: i32,
    /// The thread of the parent that made it, for `__WNOTHREAD`.
    pub parent_thread: i32,
    pub children: Vec<i32>,
    pub group: i32,
    pub session: i32,
    /// What the parent gets when it dies; none: nothing.
    pub exit_signal: Option<Signal>,
    /// prctl(PR_SET_CHILD_SUBREAPER).
    pub subreaper: bool,
    /// It has called execve(2): its parent may not move it to another group any more.
    pub executed: bool,
    /// All its threads are stopped.
    pub stopped: bool,
    uid: u32,
    death: Option<Death>,
    stop_report: Option<Signal>,
    continue_report: bool,
}

impl Node {
    /// Whether it is a zombie.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.death.is_some()
    }
    /// How it died.
    #[must_use]
    pub fn death(&self) -> Option<Death> {
        self.death
    }
}

/// What the death of a process changes around it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Aftermath {
    /// Children that have another parent now: child, new parent, and whether the child is a zombie that the new parent is to be told of.
    pub reparented: Vec<(i32, i32, bool)>,
    /// Groups that are orphaned now and hold stopped members: SIGHUP and SIGCONT to each.
    pub orphaned: Vec<i32>,
    /// It led its session.
    pub session_leader: bool,
    pub parent: i32,
    pub exit_signal: Option<Signal>,
}

/// The tree.
#[derive(Debug)]
pub struct Tree {
    nodes: BTreeMap<i32, Node>,
    /// Thread to process; the first thread has the process's number.
    threads: BTreeMap<i32, i32>,
    groups: BTreeMap<i32, Vec<i32>>,
    sessions: BTreeMap<i32, usize>,
    last: i32,
    pid_max: i32,
    init: i32,
    /// The first process is an ordinary command, a shell perhaps, and no init: what it controls is not orphaned.
    pub init_is_command: bool,
}

impl Tree {
    /// An empty tree. Numbers stay below `pid_max`.
    #[must_use]
    pub fn new(pid_max: i32) -> Tree {
        let pid_max = pid_max.max(RESERVED + 1);
        Tree {
            nodes: BTreeMap::new(),
            threads: BTreeMap::new(),
            groups: BTreeMap::new(),
            sessions: BTreeMap::new(),
            last: 0,
            pid_max,
            init: 1,
            init_is_command: false,
        }
    }

    /// `/proc/sys/kernel/pid_max`.
    #[must_use]
    pub fn pid_max(&self) -> i32 {
        self.pid_max
    }
    /// Numbers stay below `pid_max` from now on; those that are in use stay too.
    pub fn set_pid_max(&mut self, pid_max: i32) {
        self.pid_max = pid_max.max(RESERVED + 1);
    }
    /// The number that was given out last, for `/proc/loadavg`.
    #[must_use]
    pub fn last_pid(&self) -> i32 {
        self.last
    }
    /// Living threads.
    #[must_use]
    pub fn thread_count(&self) -> usize {
        self.threads.len()
    }

    fn in_use(&self, number: i32) -> bool {
        self.threads.contains_key(&number)
            || self.nodes.contains_key(&number)
            || self.groups.contains_key(&number)
            || self.sessions.contains_key(&number)
    }

    /// The next free number.
    ///
    /// # Errors
    /// EAGAIN when all are in use.
    pub fn next_pid(&mut self) -> Result<i32, Errno> {
        for step in 0..self.pid_max {
            let mut candidate = self.last.saturating_add(1);
            if candidate >= self.pid_max {
                candidate = RESERVED;
            }
            self.last = candidate;
            if !self.in_use(candidate) {
                return Ok(candidate);
            }
            debug_assert!(step < self.pid_max);
        }
        Err(Errno::EAGAIN)
    }

    /// The first process: its own parent, group and session.
    pub fn add_init(&mut self, pid: i32) {
        self.init = pid;
        self.insert(pid, Node::new(0, 0, pid, pid, None));
    }

    /// A child of `parent`, in its group and session.
    ///
    /// # Errors
    /// ESRCH when the parent is gone.
    pub fn add_child(&mut self, pid: i32, parent: i32, parent_thread: i32, exit_signal: Option<Signal>) -> Result<(), Errno> {
        let node = self.nodes.get_mut(&parent).ok_or(Errno::ESRCH)?;
        node.children.push(pid);
        let (group, session) = (node.group, node.session);
        self.insert(pid, Node::new(parent, parent_thread, group, session, exit_signal));
        Ok(())
    }

    fn insert(&mut self, pid: i32, node: Node) {
        self.groups.entry(node.group).or_default().push(pid);
        *self.sessions.entry(node.session).or_default() += 1;
        self.threads.insert(pid, pid);
        self.nodes.insert(pid, node);
    }

    /// Another thread of `pid`.
    pub fn add_thread(&mut self, tid: i32, pid: i32) {
        self.threads.insert(tid, pid);
    }
    /// A thread has ended.
    pub fn remove_thread(&mut self, tid: i32) {
        self.threads.remove(&tid);
    }
    /// The process that a living thread belongs to.
    #[must_use]
    pub fn process_of(&self, tid: i32) -> Option<i32> {
        self.threads.get(&tid).copied()
    }
    /// A process, zombies included.
    #[must_use]
    pub fn get(&self, pid: i32) -> Option<&Node> {
        self.nodes.get(&pid)
    }
    /// A process, to change its flags.
    pub fn get_mut(&mut self, pid: i32) -> Option<&mut Node> {
        self.nodes.get_mut(&pid)
    }
    /// Every process, zombies included, by number.
    pub fn pids(&self) -> impl Iterator<Item = i32> + '_ {
        self.nodes.keys().copied()
    }
    /// The members of a process group, zombies included.
    #[must_use]
    pub fn group(&self, group: i32) -> &[i32] {
        self.groups.get(&group).map_or(&[], Vec::as_slice)
    }
    /// The session that a process group belongs to; none for a group without members.
    #[must_use]
    pub fn session_of_group(&self, group: i32) -> Option<i32> {
        self.group(group).first().and_then(|pid| self.nodes.get(pid)).map(|n| n.session)
    }

    fn leave_group(&mut self, pid: i32, group: i32) {
        if let Some(members) = self.groups.get_mut(&group) {
            members.retain(|m| *m != pid);
            if members.is_empty() {
                self.groups.remove(&group);
            }
        }
    }

    fn leave_session(&mut self, session: i32) {
        if let Some(count) = self.sessions.get_mut(&session) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.sessions.remove(&session);
            }
        }
    }

    /// setpgid(2) by `caller`. 0 stands for the caller, and for `pid`.
    ///
    /// # Errors
    /// EINVAL, ESRCH, EACCES (a child that has called execve), EPERM (a session leader, another session, no such group).
    pub fn setpgid(&mut self, caller: i32, pid: i32, group: i32) -> Result<(), Errno> {
        let pid = if pid == 0 { caller } else { pid };
        let group = if group == 0 { pid } else { group };
        if group < 0 {
            return Err(Errno::EINVAL);
        }
        let own_session = self.nodes.get(&caller).ok_or(Errno::ESRCH)?.session;
        let node = self.nodes.get(&pid).ok_or(Errno::ESRCH)?;
        if node.parent == caller {
            if node.session != own_session {
                return Err(Errno::EPERM);
            }
            if node.executed {
                return Err(Errno::EACCES);
            }
        } else if pid != caller {
            return Err(Errno::ESRCH);
        }
        if node.session == pid {
            return Err(Errno::EPERM);
        }
        if group != pid && self.session_of_group(group) != Some(own_session) {
            return Err(Errno::EPERM);
        }
        let old = node.group;
        if old != group {
            self.leave_group(pid, old);
            self.groups.entry(group).or_default().push(pid);
            if let Some(node) = self.nodes.get_mut(&pid) {
                node.group = group;
            }
        }
        Ok(())
    }

    /// setsid(2).
    ///
    /// # Errors
    /// EPERM when the caller leads a group, or its number is still some group's.
    pub fn setsid(&mut self, caller: i32) -> Result<i32, Errno> {
        let node = self.nodes.get(&caller).ok_or(Errno::ESRCH)?;
        if node.session == caller || self.groups.contains_key(&caller) {
            return Err(Errno::EPERM);
        }
        let (group, session) = (node.group, node.session);
        self.leave_group(caller, group);
        self.leave_session(session);
        self.groups.insert(caller, vec![caller]);
        *self.sessions.entry(caller).or_default() += 1;
        if let Some(node) = self.nodes.get_mut(&caller) {
            (node.group, node.session) = (caller, caller);
        }
        Ok(caller)
    }

    /// Whether no living member of the group has a parent in another group of the same session. `ignored` counts as dead already.
    #[must_use]
    pub fn is_orphaned(&self, group: i32, ignored: Option<i32>) -> bool {
        !self.group(group).iter().filter(|pid| Some(**pid) != ignored).any(|pid| {
            let Some(node) = self.nodes.get(pid) else { return false };
            let Some(parent) = self.nodes.get(&node.parent) else { return false };
            let by_init = node.parent == self.init && !self.init_is_command;
            node.death.is_none() && !by_init && parent.group != group && parent.session == node.session
        })
    }

    fn has_stopped(&self, group: i32) -> bool {
        self.group(group).iter().filter_map(|pid| self.nodes.get(pid)).any(|n| n.stopped && n.death.is_none())
    }

    /// Who adopts the children of `pid`: the nearest living ancestor that asked for it, else init.
    fn reaper_of(&self, pid: i32) -> i32 {
        let mut at = self.nodes.get(&pid).map_or(self.init, |n| n.parent);
        // The bound is the number of processes: parents form a tree.
        for _ in 0..self.nodes.len() {
            match self.nodes.get(&at) {
                Some(node) if node.subreaper && node.death.is_none() => return at,
                Some(node) if node.parent != 0 => at = node.parent,
                _ => break,
            }
        }
        self.init
    }

    /// The last thread of `pid` has ended. It becomes a zombie; its children move to their new parent.
    pub fn die(&mut self, pid: i32, death: Death) -> Aftermath {
        let reaper = self.reaper_of(pid);
        let Some(node) = self.nodes.get_mut(&pid) else { return Aftermath::default() };
        node.death = Some(death);
        node.stopped = false;
        (node.stop_report, node.continue_report) = (None, false);
        let children = std::mem::take(&mut node.children);
        let mut aftermath =
            Aftermath { session_leader: node.session == pid, parent: node.parent, exit_signal: node.exit_signal, ..Aftermath::default() };
        let (own_group, parent, session) = (node.group, node.parent, node.session);
        // Its own group may have been held in touch by this process's parent alone.
        let linked = self.nodes.get(&parent).is_some_and(|p| p.group != own_group && p.session == session);
        if linked && self.is_orphaned(own_group, Some(pid)) && self.has_stopped(own_group) {
            aftermath.orphaned.push(own_group);
        }
        for child in children {
            let Some(node) = self.nodes.get_mut(&child) else { continue };
            node.parent = reaper;
            node.parent_thread = reaper;
            if node.exit_signal.is_some() {
                node.exit_signal = Some(Signal::SIGCHLD);
            }
            let dead = node.death.is_some();
            let (group, child_session) = (node.group, node.session);
            if let Some(reaper) = self.nodes.get_mut(&reaper) {
                reaper.children.push(child);
            }
            aftermath.reparented.push((child, reaper, dead));
            let was_linked = group != own_group && child_session == session;
            if was_linked && !aftermath.orphaned.contains(&group) && self.is_orphaned(group, None) && self.has_stopped(group) {
                aftermath.orphaned.push(group);
            }
        }
        aftermath
    }

    /// Takes a child that never ran out again.
    pub fn withdraw(&mut self, pid: i32) {
        if let Some(node) = self.nodes.get_mut(&pid) {
            node.death = Some(Death { status: WaitStatus::Exited(0), uid: 0, usage: Rusage::default() });
        }
        self.reap(pid);
    }

    /// Forgets a zombie. Its number is free again, unless its group or session lives on.
    pub fn reap(&mut self, pid: i32) {
        if !self.nodes.get(&pid).is_some_and(Node::is_dead) {
            return;
        }
        let Some(node) = self.nodes.remove(&pid) else { return };
        self.threads.remove(&pid);
        if let Some(parent) = self.nodes.get_mut(&node.parent) {
            parent.children.retain(|c| *c != pid);
        }
        self.leave_group(pid, node.group);
        self.leave_session(node.session);
    }

    /// All threads of `pid` have stopped.
    pub fn note_stopped(&mut self, pid: i32, signal: Signal, uid: u32) {
        if let Some(node) = self.nodes.get_mut(&pid) {
            node.stopped = true;
            node.uid = uid;
            node.stop_report = Some(signal);
            node.continue_report = false;
        }
    }

    /// `pid` goes on after a stop.
    pub fn note_continued(&mut self, pid: i32, uid: u32) {
        if let Some(node) = self.nodes.get_mut(&pid) {
            node.stopped = false;
            node.uid = uid;
            node.stop_report = None;
            node.continue_report = true;
        }
    }

    /// Looks for a child that wait(2) by thread `tid` of `parent` can tell of. What is told is not told again, unless `options` says NOWAIT. A
    /// zombie stays until [`Tree::reap`].
    ///
    /// # Errors
    /// ECHILD when no child could ever match.
    pub fn find_waitable(&mut self, parent: i32, tid: i32, which: WaitFor, options: WaitOptions) -> Result<Option<Waited>, Errno> {
        let children = self.nodes.get(&parent).map_or(&[][..], |n| n.children.as_slice());
        let mut any = false;
        let mut found = None;
        for &pid in children {
            let Some(node) = self.nodes.get(&pid) else { continue };
            let wanted = match which {
                WaitFor::Any => true,
                WaitFor::Process(p) => p == pid,
                WaitFor::Group(g) => g == node.group,
            };
            let is_clone = node.exit_signal != Some(Signal::SIGCHLD);
            let kind = options.contains(WaitOptions::ALL) || is_clone == options.contains(WaitOptions::CLONE);
            if !wanted || !kind || (options.contains(WaitOptions::NOTHREAD) && node.parent_thread != tid) {
                continue;
            }
            any = true;
            let status = if let Some(death) = &node.death {
                options.contains(WaitOptions::EXITED).then_some(death.status)
            } else if let (Some(signal), true) = (node.stop_report, options.contains(WaitOptions::STOPPED)) {
                Some(WaitStatus::Stopped(signal))
            } else if node.continue_report && options.contains(WaitOptions::CONTINUED) {
                Some(WaitStatus::Continued)
            } else {
                None
            };
            if let Some(status) = status {
                found = Some((pid, status));
                break;
            }
        }
        let Some((pid, status)) = found else { return if any { Ok(None) } else { Err(Errno::ECHILD) } };
        let Some(node) = self.nodes.get_mut(&pid) else { return Ok(None) };
        if !options.contains(WaitOptions::NOWAIT) {
            match status {
                WaitStatus::Stopped(_) => node.stop_report = None,
                WaitStatus::Continued => node.continue_report = false,
                WaitStatus::Exited(_) | WaitStatus::Killed(..) | WaitStatus::Traced(_) => {}
            }
        }
        let (uid, usage) = node.death.map_or((node.uid, Rusage::default()), |d| (d.uid, d.usage));
        Ok(Some(Waited { pid, status, uid, usage }))
    }
}

impl Node {
    fn new(parent: i32, parent_thread: i32, group: i32, session: i32, exit_signal: Option<Signal>) -> Node {
        Node {
            parent,
            parent_thread,
            children: Vec::new(),
            group,
            session,
            exit_signal,
            subreaper: false,
            executed: false,
            stopped: false,
            uid: 0,
            death: None,
            stop_report: None,
            continue_report: false,
        }
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
