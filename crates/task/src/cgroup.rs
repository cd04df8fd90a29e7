//! Control groups of version 2, cgroups(7): the tree of groups, which processes are in which, what they use and may have.
//!
//! Controllers: `cpu` (accounting; weights and limits are kept and not obeyed), `memory` (accounting; limits are kept and not obeyed) and `pids`
//! (obeyed). The freezer and `cgroup.kill` are every group's own.
//!
//! What it is not: files; `kernel::cgroupfs` shows this as a file system.
//!
//! Always true: every living process is in one group, and a zombie in none; a group's count of populated processes is that of its subtree; only a
//! group without children and processes can be removed. Whoever is told of events holds no lock of ours.

use crate::process::Process;
use abi::{Errno, WaitStatus};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use sync::SpinLock;

/// A group's number, never used again; `cgroup.id` and the inode of its directory.
pub type GroupId = u64;

/// The group that is always there.
pub const ROOT: GroupId = 1;
/// Most groups: each costs us a few hundred bytes.
const GROUPS_MAX: usize = 65_536;

bitflags::bitflags! {
    /// What a group may share out among its children, `cgroup.subtree_control`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Controllers: u8 {
        const CPU = 1;
        const MEMORY = 2;
        const PIDS = 4;
    }
}

impl Controllers {
    /// Names as the files have them, in their order.
    pub const NAMES: [(&str, Controllers); 3] = [("cpu", Controllers::CPU), ("memory", Controllers::MEMORY), ("pids", Controllers::PIDS)];

    /// `cpu memory pids`.
    #[must_use]
    pub fn names(self) -> String {
        Self::NAMES.iter().filter(|(_, c)| self.contains(*c)).map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
    }
}

/// Limits and weights of a group: numbers that files show and set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// `u64::MAX` is "max".
    pub pids_max: u64,
    pub memory_min: u64,
    pub memory_low: u64,
    pub memory_high: u64,
    pub memory_max: u64,
    pub swap_max: u64,
    pub oom_group: bool,
    pub cpu_weight: u64,
    pub cpu_idle: bool,
    /// Quota and period, microseconds.
    pub cpu_max: (u64, u64),
    pub max_descendants: u64,
    pub max_depth: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            pids_max: u64::MAX,
            memory_min: 0,
            memory_low: 0,
            memory_high: u64::MAX,
            memory_max: u64::MAX,
            swap_max: u64::MAX,
            oom_group: false,
            cpu_weight: 100,
            cpu_idle: false,
            cpu_max: (u64::MAX, 100_000),
            max_descendants: u64::MAX,
            max_depth: u64::MAX,
        }
    }
}

/// Processor time, nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuTime {
    pub user_ns: u64,
    pub total_ns: u64,
}

impl CpuTime {
    fn of(process: &Process) -> CpuTime {
        let (user_ns, total_ns) = process.cpu_time_ns();
        CpuTime { user_ns, total_ns }
    }
    fn plus(self, other: CpuTime) -> CpuTime {
        CpuTime { user_ns: self.user_ns + other.user_ns, total_ns: self.total_ns + other.total_ns }
    }
    fn minus(self, other: CpuTime) -> CpuTime {
        CpuTime { user_ns: self.user_ns.saturating_sub(other.user_ns), total_ns: self.total_ns.saturating_sub(other.total_ns) }
    }
}

struct Member {
    process: Weak<Process>,
    /// What it had used when it came.
    before: CpuTime,
}

struct Group {
    name: String,
    parent: GroupId,
    children: BTreeMap<String, GroupId>,
    members: BTreeMap<i32, Member>,
    /// Processes in the subtree.
    populated: usize,
    enabled: Controllers,
    settings: Settings,
    /// `cgroup.freeze` was set here.
    freeze: bool,
    /// Used by those that left.
    gone: CpuTime,
    /// How often `pids.max` refused a fork.
    pids_refused: u64,
}

impl Group {
    fn new(name: &str, parent: GroupId) -> Group {
        Group {
            name: name.to_owned(),
            parent,
            children: BTreeMap::new(),
            members: BTreeMap::new(),
            populated: 0,
            enabled: Controllers::empty(),
            settings: Settings::default(),
            freeze: false,
            gone: CpuTime::default(),
            pids_refused: 0,
        }
    }
}

struct Groups {
    groups: BTreeMap<GroupId, Group>,
    last: GroupId,
}

impl Groups {
    /// A group and those above it, up to the root.
    fn chain(&self, id: GroupId) -> Vec<GroupId> {
        let mut chain = vec![id];
        let mut at = id;
        while at != ROOT {
            match self.groups.get(&at) {
                Some(group) => at = group.parent,
                None => break,
            }
            chain.push(at);
        }
        chain
    }
    /// A group and all below it.
    fn subtree(&self, id: GroupId) -> Vec<GroupId> {
        let mut all = vec![id];
        let mut at = 0;
        while let Some(group) = all.get(at).and_then(|id| self.groups.get(id)) {
            all.extend(group.children.values());
            at += 1;
        }
        all
    }
    fn is_frozen(&self, id: GroupId) -> bool {
        self.chain(id).iter().filter_map(|id| self.groups.get(id)).any(|group| group.freeze)
    }
    /// Counts a process in or out; the groups that have become empty, or no longer are.
    fn count(&mut self, id: GroupId, more: bool) -> Vec<GroupId> {
        let mut changed = Vec::new();
        for id in self.chain(id) {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            let before = group.populated;
            group.populated = if more { before + 1 } else { before.saturating_sub(1) };
            if before == 0 || group.populated == 0 {
                changed.push(id);
            }
        }
        changed
    }
    fn add(&mut self, id: GroupId, process: &Arc<Process>, before: CpuTime) -> Vec<GroupId> {
        let Some(group) = self.groups.get_mut(&id) else { return Vec::new() };
        group.members.insert(process.pid(), Member { process: Arc::downgrade(process), before });
        self.count(id, true)
    }
    /// `None` if the process is not in it.
    fn remove(&mut self, id: GroupId, process: &Process, used: CpuTime) -> Option<Vec<GroupId>> {
        let group = self.groups.get_mut(&id)?;
        let member = group.members.get(&process.pid()).filter(|member| std::ptr::eq(member.process.as_ptr(), process))?;
        group.gone = group.gone.plus(used.minus(member.before));
        group.members.remove(&process.pid());
        Some(self.count(id, false))
    }
    fn members(&self, ids: &[GroupId]) -> Vec<Arc<Process>> {
        let groups = ids.iter().filter_map(|id| self.groups.get(id));
        groups.flat_map(|group| group.members.values()).filter_map(|member| member.process.upgrade()).collect()
    }
}

/// All groups of the machine.
pub struct Cgroups {
    groups: SpinLock<Groups>,
    /// Told of groups whose `cgroup.events` changed.
    changed: OnceLock<Box<dyn Fn(GroupId) + Send + Sync>>,
}

impl Default for Cgroups {
    fn default() -> Cgroups {
        let groups = BTreeMap::from([(ROOT, Group::new("", ROOT))]);
        Cgroups { groups: SpinLock::new(Groups { groups, last: ROOT }), changed: OnceLock::new() }
    }
}

impl Cgroups {
    /// Who hears of groups whose events changed; the first one counts.
    pub fn on_change(&self, told: impl Fn(GroupId) + Send + Sync + 'static) {
        let _ = self.changed.set(Box::new(told));
    }
    fn tell(&self, ids: Vec<GroupId>) {
        if let Some(told) = self.changed.get() {
            ids.into_iter().for_each(told);
        }
    }

    /// A new group below `parent`.
    ///
    /// # Errors
    /// EEXIST, EINVAL for a name with a newline, EAGAIN at a limit, ENODEV when the parent is gone.
    pub fn create(&self, parent: GroupId, name: &str) -> Result<GroupId, Errno> {
        if name.contains('\n') {
            return Err(Errno::EINVAL);
        }
        let mut groups = self.groups.lock();
        for (depth, id) in groups.chain(parent).into_iter().enumerate() {
            let settings = groups.groups.get(&id).ok_or(Errno::ENODEV)?.settings;
            let unlimited = settings.max_descendants == u64::MAX || (groups.subtree(id).len() as u64 - 1) < settings.max_descendants;
            if !unlimited || depth as u64 >= settings.max_depth {
                return Err(Errno::EAGAIN);
            }
        }
        if groups.groups.len() >= GROUPS_MAX {
            return Err(Errno::EAGAIN);
        }
        let id = groups.last + 1;
        let above = groups.groups.get_mut(&parent).ok_or(Errno::ENODEV)?;
        if above.children.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        above.children.insert(name.to_owned(), id);
        groups.last = id;
        groups.groups.insert(id, Group::new(name, parent));
        Ok(id)
    }

    /// Takes a group away.
    ///
    /// # Errors
    /// EBUSY while it has children or processes.
    pub fn remove(&self, id: GroupId) -> Result<(), Errno> {
        let mut groups = self.groups.lock();
        let group = groups.groups.get(&id).ok_or(Errno::ENODEV)?;
        if id == ROOT || !group.children.is_empty() || group.populated > 0 {
            return Err(Errno::EBUSY);
        }
        let Some(group) = groups.groups.remove(&id) else { return Ok(()) };
        if let Some(parent) = groups.groups.get_mut(&group.parent) {
            parent.children.remove(&group.name);
            parent.gone = parent.gone.plus(group.gone);
        }
        Ok(())
    }

    /// Its path from the root, `/` for the root itself.
    #[must_use]
    pub fn path(&self, id: GroupId) -> String {
        let groups = self.groups.lock();
        let names: Vec<&str> = groups
            .chain(id)
            .iter()
            .rev()
            .filter_map(|id| groups.groups.get(id))
            .map(|g| g.name.as_str())
            .filter(|n| !n.is_empty())
            .collect();
        format!("/{}", names.join("/"))
    }

    /// What controllers it may share out: those that its parent gives it.
    #[must_use]
    pub fn available(&self, id: GroupId) -> Controllers {
        if id == ROOT {
            return Controllers::all();
        }
        let groups = self.groups.lock();
        let parent = groups.groups.get(&id).map(|group| group.parent);
        parent.and_then(|parent| groups.groups.get(&parent)).map_or(Controllers::empty(), |parent| parent.enabled)
    }
    /// What controllers its children have.
    #[must_use]
    pub fn enabled(&self, id: GroupId) -> Controllers {
        self.groups.lock().groups.get(&id).map_or(Controllers::empty(), |group| group.enabled)
    }
    /// Its children.
    #[must_use]
    pub fn children(&self, id: GroupId) -> Vec<GroupId> {
        self.groups.lock().groups.get(&id).map_or_else(Vec::new, |group| group.children.values().copied().collect())
    }

    /// Gives controllers to the children, and takes others from them.
    ///
    /// # Errors
    /// ENOENT for one that the group has not itself; EBUSY for a group that has processes (but the root), or while a child shares it out further.
    pub fn share(&self, id: GroupId, on: Controllers, off: Controllers) -> Result<(), Errno> {
        if !self.available(id).contains(on) {
            return Err(Errno::ENOENT);
        }
        let mut groups = self.groups.lock();
        let group = groups.groups.get(&id).ok_or(Errno::ENODEV)?;
        let still = group.children.values().filter_map(|child| groups.groups.get(child)).any(|child| child.enabled.intersects(off));
        let enabled = (group.enabled | on).difference(off);
        if still || (id != ROOT && !group.members.is_empty() && !enabled.is_empty()) {
            return Err(Errno::EBUSY);
        }
        if let Some(group) = groups.groups.get_mut(&id) {
            group.enabled = enabled;
        }
        Ok(())
    }

    /// Its limits and weights.
    ///
    /// # Errors
    /// ENODEV when it is gone.
    pub fn settings(&self, id: GroupId) -> Result<Settings, Errno> {
        self.groups.lock().groups.get(&id).map(|group| group.settings).ok_or(Errno::ENODEV)
    }
    /// Changes them.
    ///
    /// # Errors
    /// ENODEV when it is gone.
    pub fn set(&self, id: GroupId, change: impl FnOnce(&mut Settings)) -> Result<(), Errno> {
        change(&mut self.groups.lock().groups.get_mut(&id).ok_or(Errno::ENODEV)?.settings);
        Ok(())
    }

    /// Processes of the group itself.
    #[must_use]
    pub fn members(&self, id: GroupId) -> Vec<Arc<Process>> {
        self.groups.lock().members(&[id])
    }
    /// Processes of the group and all below it.
    #[must_use]
    pub fn all_members(&self, id: GroupId) -> Vec<Arc<Process>> {
        let groups = self.groups.lock();
        groups.members(&groups.subtree(id))
    }
    /// Whether the subtree has a process, and whether all of them are frozen because they were asked to.
    #[must_use]
    pub fn events(&self, id: GroupId) -> (bool, bool) {
        let (populated, wanted) = {
            let groups = self.groups.lock();
            (groups.groups.get(&id).is_some_and(|g| g.populated > 0), groups.is_frozen(id))
        };
        (populated, wanted && self.all_members(id).iter().all(|process| process.signals().is_frozen()))
    }
    /// What the subtree has used.
    #[must_use]
    pub fn cpu_time(&self, id: GroupId) -> CpuTime {
        let (mut sum, members) = {
            let groups = self.groups.lock();
            let mut sum = CpuTime::default();
            let mut members = Vec::new();
            for group in groups.subtree(id).iter().filter_map(|id| groups.groups.get(id)) {
                sum = sum.plus(group.gone);
                members.extend(group.members.values().filter_map(|member| Some((member.process.upgrade()?, member.before))));
            }
            (sum, members)
        };
        for (process, before) in members {
            sum = sum.plus(CpuTime::of(&process).minus(before));
        }
        sum
    }
    /// Threads in the subtree.
    #[must_use]
    pub fn threads(&self, id: GroupId) -> u64 {
        self.all_members(id).iter().map(|process| process.threads().len() as u64).sum()
    }
    /// How often `pids.max` refused a thread.
    #[must_use]
    pub fn pids_refused(&self, id: GroupId) -> u64 {
        self.groups.lock().groups.get(&id).map_or(0, |group| group.pids_refused)
    }

    /// Whether one more thread fits where `id` is.
    ///
    /// # Errors
    /// EAGAIN at `pids.max` of the group or of one above.
    pub(crate) fn may_fork(&self, id: GroupId) -> Result<(), Errno> {
        let limited: Vec<(GroupId, u64)> = {
            let groups = self.groups.lock();
            let chain = groups.chain(id);
            let limit = |id: &GroupId| groups.groups.get(id).map(|g| (*id, g.settings.pids_max)).filter(|(_, max)| *max != u64::MAX);
            chain.iter().filter_map(limit).collect()
        };
        for (id, max) in limited {
            if self.threads(id) >= max {
                if let Some(group) = self.groups.lock().groups.get_mut(&id) {
                    group.pids_refused += 1;
                }
                return Err(Errno::EAGAIN);
            }
        }
        Ok(())
    }

    /// A new process begins in a group; in the root if that has gone.
    pub(crate) fn join(&self, id: GroupId, process: &Arc<Process>) {
        let (changed, frozen) = {
            let mut groups = self.groups.lock();
            let id = if groups.groups.contains_key(&id) { id } else { ROOT };
            process.cgroup.store(id, Ordering::Relaxed);
            (groups.add(id, process, CpuTime::default()), groups.is_frozen(id))
        };
        if frozen {
            process.set_frozen(true);
        }
        self.tell(changed);
    }

    /// A process is dead.
    pub(crate) fn leave(&self, process: &Process) {
        let used = CpuTime::of(process);
        let changed = self.groups.lock().remove(process.cgroup.load(Ordering::Relaxed), process, used);
        self.tell(changed.unwrap_or_default());
    }

    /// Moves a living process.
    ///
    /// # Errors
    /// ENODEV when the group is gone, EBUSY when it shares controllers out to its children, ESRCH for a process that is dead.
    pub fn move_process(&self, process: &Arc<Process>, to: GroupId) -> Result<(), Errno> {
        let used = CpuTime::of(process);
        let (changed, frozen) = {
            let mut groups = self.groups.lock();
            let target = groups.groups.get(&to).ok_or(Errno::ENODEV)?;
            if to != ROOT && !target.enabled.is_empty() {
                return Err(Errno::EBUSY);
            }
            let from = process.cgroup.load(Ordering::Relaxed);
            if from == to {
                return Ok(());
            }
            let mut changed = groups.remove(from, process, used).ok_or(Errno::ESRCH)?;
            process.cgroup.store(to, Ordering::Relaxed);
            changed.extend(groups.add(to, process, used));
            (changed, groups.is_frozen(to))
        };
        process.set_frozen(frozen);
        self.tell(changed);
        Ok(())
    }

    /// Whether `cgroup.freeze` is set in this very group.
    #[must_use]
    pub fn freezes(&self, id: GroupId) -> bool {
        self.groups.lock().groups.get(&id).is_some_and(|group| group.freeze)
    }
    /// Freezes or thaws the subtree. Threads stop as soon as they would run guest code.
    ///
    /// # Errors
    /// ENODEV when it is gone.
    pub fn freeze(&self, id: GroupId, on: bool) -> Result<(), Errno> {
        let (members, affected) = {
            let mut groups = self.groups.lock();
            groups.groups.get_mut(&id).ok_or(Errno::ENODEV)?.freeze = on;
            let subtree = groups.subtree(id);
            let members: Vec<(Arc<Process>, bool)> =
                subtree.iter().flat_map(|id| groups.members(&[*id]).into_iter().map(|p| (p, groups.is_frozen(*id)))).collect();
            (members, subtree)
        };
        for (process, frozen) in members {
            process.set_frozen(frozen);
        }
        self.tell(affected);
        Ok(())
    }
    /// A process has come to rest because it is frozen.
    pub(crate) fn note_frozen(&self, process: &Process) {
        let chain = self.groups.lock().chain(process.cgroup.load(Ordering::Relaxed));
        self.tell(chain);
    }
    /// `cgroup.kill`: SIGKILL to everybody in the subtree.
    pub fn kill(&self, id: GroupId) {
        for process in self.all_members(id) {
            process.start_group_exit(WaitStatus::Killed(abi::Signal::SIGKILL, false));
        }
    }
    /// How many groups there are, `/proc/cgroups`.
    #[must_use]
    pub fn count(&self) -> usize {
        self.groups.lock().groups.len()
    }
    /// The nearest group that both are in or below.
    #[must_use]
    pub fn common(&self, a: GroupId, b: GroupId) -> GroupId {
        let groups = self.groups.lock();
        let above = groups.chain(a);
        groups.chain(b).into_iter().find(|id| above.contains(id)).unwrap_or(ROOT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_made_shared_and_removed_by_the_rules() {
        let groups = Cgroups::default();
        let a = groups.create(ROOT, "a").unwrap();
        assert_eq!(groups.create(ROOT, "a"), Err(Errno::EEXIST));
        assert_eq!(groups.create(ROOT, "a\nb"), Err(Errno::EINVAL));
        assert_eq!(groups.share(a, Controllers::PIDS, Controllers::empty()), Err(Errno::ENOENT));
        groups.share(ROOT, Controllers::PIDS, Controllers::empty()).unwrap();
        groups.share(a, Controllers::PIDS, Controllers::empty()).unwrap();
        assert_eq!(groups.share(ROOT, Controllers::empty(), Controllers::PIDS), Err(Errno::EBUSY));
        let b = groups.create(a, "b").unwrap();
        assert_eq!((groups.path(ROOT).as_str(), groups.path(b).as_str()), ("/", "/a/b"));
        assert_eq!((groups.available(b), groups.common(b, a)), (Controllers::PIDS, a));
        assert_eq!(groups.remove(a), Err(Errno::EBUSY));
        groups.set(a, |settings| settings.max_descendants = 1).unwrap();
        assert_eq!(groups.create(a, "c"), Err(Errno::EAGAIN));
        groups.remove(b).unwrap();
        groups.remove(a).unwrap();
        assert_eq!((groups.remove(a), groups.remove(ROOT)), (Err(Errno::ENODEV), Err(Errno::EBUSY)));
    }
}
