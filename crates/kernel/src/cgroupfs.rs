//! The file system `cgroup2`: control groups as directories, cgroups(7).
//!
//! There is one hierarchy; every mount shows it. What the files mean is `task::cgroup`'s; here they are read, written and told of changes.

use abi::{Errno, PAGE_SIZE, SysResult};
use fs::kernfs::{Asking, FileSpec, Maker, Node, parse};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use sync::{Events, SpinLock, WaitQueue};
use task::System;
use task::cgroup::{Controllers, GroupId, ROOT, Settings};
use vfs::{Access, Credentials, FileSystem, FileSystemType, Inode, MountRequest, Owner, StatFs};

/// `CGROUP2_SUPER_MAGIC`.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// A group's directory, and who waits for its events.
struct Shown {
    directory: Weak<Node>,
    events: Weak<Node>,
    changes: Arc<AtomicU64>,
    queue: Arc<WaitQueue>,
}

/// The hierarchy's file system, and its type.
pub struct CgroupFs {
    system: &'static System,
    tree: OnceLock<Arc<Node>>,
    shown: SpinLock<HashMap<GroupId, Shown>>,
    this: Weak<CgroupFs>,
}

/// One group's directory, for mkdir and rmdir in it.
struct Directory {
    fs: Weak<CgroupFs>,
    group: GroupId,
}

impl CgroupFs {
    /// The hierarchy of this machine. Register it as a type to make it mountable.
    #[must_use]
    pub fn new(system: &'static System) -> Arc<CgroupFs> {
        let fs = Arc::new_cyclic(|this| CgroupFs { system, tree: OnceLock::new(), shown: SpinLock::default(), this: Weak::clone(this) });
        let weak: Weak<dyn FileSystem> = fs.this.clone();
        let root = fs.tree.get_or_init(|| Node::root(weak, ROOT, None)).clone();
        fs.fill(&root, ROOT);
        let told = fs.this.clone();
        system.cgroups.on_change(move |group| {
            if let Some(fs) = told.upgrade() {
                fs.tell(group);
            }
        });
        fs
    }

    fn tree(&self) -> &Arc<Node> {
        self.tree.get().unwrap_or_else(|| unreachable!("made in new"))
    }

    /// The group whose directory this is.
    #[must_use]
    pub fn group_of(&self, inode: &Arc<dyn Inode>) -> Option<GroupId> {
        let node = inode.clone().downcast_arc::<Node>()?;
        self.group_of_node(&node)
    }
    fn group_of_node(&self, node: &Arc<Node>) -> Option<GroupId> {
        self.shown.lock().iter().find(|(_, shown)| std::ptr::eq(shown.directory.as_ptr(), Arc::as_ptr(node))).map(|(group, _)| *group)
    }

    fn tell(&self, group: GroupId) {
        let (events, queue) = match self.shown.lock().get(&group) {
            Some(shown) => {
                shown.changes.fetch_add(1, Ordering::Relaxed);
                (shown.events.upgrade(), shown.queue.clone())
            }
            None => return,
        };
        queue.notify(Events::PRI | Events::ERR);
        if let Some(events) = events {
            let inode: Arc<dyn Inode> = events;
            vfs::notify::changed_by_itself(&inode);
        }
    }

    /// The files that every group has, and those of the controllers that its parent gives it.
    fn fill(&self, node: &Arc<Node>, group: GroupId) {
        let system = self.system;
        let (changes, queue) = (Arc::new(AtomicU64::new(0)), Arc::new(WaitQueue::new()));
        let groups = &system.cgroups;
        node.set_maker(Arc::new(Directory { fs: self.this.clone(), group }));
        node.file("cgroup.procs", 0o644, self.processes(group));
        node.file("cgroup.threads", 0o644, self.threads(group));
        node.file("cgroup.controllers", 0o444, text(move || groups.available(group).names() + "\n"));
        node.file("cgroup.subtree_control", 0o644, self.subtree_control(group));
        node.file(
            "cgroup.stat",
            0o444,
            text(move || {
                let below = count_below(system, group);
                format!("nr_descendants {below}\nnr_dying_descendants 0\n")
            }),
        );
        let limits =
            [Limit::number("cgroup.max.descendants", |s| &mut s.max_descendants), Limit::number("cgroup.max.depth", |s| &mut s.max_depth)];
        for limit in limits {
            limit.add(system, node, group);
        }
        node.file("cpu.stat", 0o444, text(move || cpu_stat(system, group)));
        let mut events = Weak::new();
        if group != ROOT {
            let counter = changes.clone();
            let spec = text(move || {
                let (populated, frozen) = groups.events(group);
                format!("populated {}\nfrozen {}\n", u8::from(populated), u8::from(frozen))
            });
            events = Arc::downgrade(&node.file(
                "cgroup.events",
                0o444,
                spec.changes_with(queue.clone(), move || counter.load(Ordering::Relaxed)),
            ));
            node.file(
                "cgroup.type",
                0o644,
                text(|| "domain\n".to_owned()).store(|_, data| {
                    // Threaded groups are not there.
                    Err(if word(data)? == "threaded" { Errno::EOPNOTSUPP } else { Errno::EINVAL }.into())
                }),
            );
            node.file(
                "cgroup.freeze",
                0o644,
                text(move || format!("{}\n", u8::from(groups.freezes(group)))).store(move |_, data| match parse::<u32>(data)? {
                    on @ (0 | 1) => Ok(groups.freeze(group, on == 1)?),
                    _ => Err(Errno::ERANGE.into()),
                }),
            );
            node.file(
                "cgroup.kill",
                0o200,
                FileSpec::default().store(move |_, data| {
                    if parse::<u32>(data)? != 1 {
                        return Err(Errno::ERANGE.into());
                    }
                    groups.kill(group);
                    Ok(())
                }),
            );
            add_controllers(system, node, group, groups.available(group));
        }
        self.shown.lock().insert(group, Shown { directory: Arc::downgrade(node), events, changes, queue });
    }

    fn processes(&self, group: GroupId) -> FileSpec {
        let (system, fs) = (self.system, self.this.clone());
        let show = move |_: &Asking<'_>| {
            let mut pids: Vec<i32> = system.cgroups.members(group).iter().map(|p| p.pid()).collect();
            pids.sort_unstable();
            Ok(pids.into_iter().map(|pid| format!("{pid}\n")).collect::<String>().into_bytes())
        };
        FileSpec::show(show).store(move |asking, data| {
            let pid: i32 = parse(data)?;
            let process = match pid {
                0 => task::current_task().ok_or(Errno::ESRCH)?.process().clone(),
                pid if pid > 0 => system.process(pid).or_else(|_| system.task(pid).map(|t| t.process().clone()))?,
                _ => return Err(Errno::EINVAL.into()),
            };
            let fs = fs.upgrade().ok_or(Errno::ENODEV)?;
            fs.may_move(asking.credentials, process.cgroup.load(Ordering::Relaxed), group)?;
            Ok(system.cgroups.move_process(&process, group)?)
        })
    }

    /// Whoever moves a process may write the `cgroup.procs` of the group that both places have in common, cgroups(7) "Delegation".
    fn may_move(&self, credentials: &Credentials, from: GroupId, to: GroupId) -> Result<(), Errno> {
        let common = self.system.cgroups.common(from, to);
        let directory = self.shown.lock().get(&common).and_then(|shown| shown.directory.upgrade()).ok_or(Errno::ENOENT)?;
        directory.find("cgroup.procs").ok_or(Errno::ENOENT)?.permission(credentials, Access::WRITE)
    }

    fn threads(&self, group: GroupId) -> FileSpec {
        let system = self.system;
        let show = move |_: &Asking<'_>| {
            let mut tids: Vec<i32> = system.cgroups.members(group).iter().flat_map(|p| p.threads()).map(|t| t.tid()).collect();
            tids.sort_unstable();
            Ok(tids.into_iter().map(|tid| format!("{tid}\n")).collect::<String>().into_bytes())
        };
        // Threads stay with their process: there are no threaded groups.
        FileSpec::show(show).store(|_, _| Err(Errno::EOPNOTSUPP.into()))
    }

    fn subtree_control(&self, group: GroupId) -> FileSpec {
        let (system, fs) = (self.system, self.this.clone());
        text(move || system.cgroups.enabled(group).names() + "\n").store(move |_, data| {
            let (mut on, mut off) = (Controllers::empty(), Controllers::empty());
            for item in std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?.split_whitespace() {
                let (sign, name) = item.split_at_checked(1).ok_or(Errno::EINVAL)?;
                let known = Controllers::NAMES.iter().find(|(known, _)| *known == name).ok_or(Errno::EINVAL)?.1;
                match sign {
                    "+" => (on, off) = (on | known, off.difference(known)),
                    "-" => (on, off) = (on.difference(known), off | known),
                    _ => return Err(Errno::EINVAL.into()),
                }
            }
            let before = system.cgroups.enabled(group);
            system.cgroups.share(group, on, off)?;
            let after = system.cgroups.enabled(group);
            let fs = fs.upgrade().ok_or(Errno::ENODEV)?;
            for child in system.cgroups.children(group) {
                let node = fs.shown.lock().get(&child).and_then(|shown| shown.directory.upgrade());
                if let Some(node) = node {
                    remove_controllers(&node, before.difference(after));
                    add_controllers(system, &node, child, after.difference(before));
                    let owner = node.owner();
                    node.give(owner.uid, owner.gid);
                }
            }
            Ok(())
        })
    }
}

impl Maker for Directory {
    fn mkdir(&self, name: &str, node: &Arc<Node>, _: Owner) -> Result<(), Errno> {
        let fs = self.fs.upgrade().ok_or(Errno::ENODEV)?;
        let group = fs.system.cgroups.create(self.group, name)?;
        fs.fill(node, group);
        Ok(())
    }
    fn rmdir(&self, node: &Arc<Node>) -> Result<(), Errno> {
        let fs = self.fs.upgrade().ok_or(Errno::ENODEV)?;
        let group = fs.group_of_node(node).ok_or(Errno::ENOENT)?;
        fs.system.cgroups.remove(group)?;
        let gone = fs.shown.lock().remove(&group);
        drop(gone);
        Ok(())
    }
}

fn text(text: impl Fn() -> String + Send + Sync + 'static) -> FileSpec {
    FileSpec::text(text)
}

fn word(data: &[u8]) -> Result<&str, Errno> {
    Ok(std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?.trim())
}

fn count_below(system: &System, group: GroupId) -> usize {
    let mut waiting = system.cgroups.children(group);
    let mut count = 0;
    while let Some(child) = waiting.pop() {
        count += 1;
        waiting.extend(system.cgroups.children(child));
    }
    count
}

fn cpu_stat(system: &System, group: GroupId) -> String {
    let used = system.cgroups.cpu_time(group);
    let (total, user) = (used.total_ns / 1000, used.user_ns / 1000);
    format!("usage_usec {total}\nuser_usec {user}\nsystem_usec {}\n", total.saturating_sub(user))
}

/// What the subtree's processes have in memory, bytes: anonymous, of files, shared. A page that several have counts for each.
fn memory_use(system: &System, group: GroupId) -> [u64; 3] {
    let page = PAGE_SIZE as u64;
    let mut sum = [0; 3];
    for memory in system.cgroups.all_members(group).iter().filter_map(|p| p.memory()) {
        let resident = memory.usage().resident;
        for (sum, pages) in sum.iter_mut().zip([resident.anon, resident.file, resident.shmem]) {
            *sum += pages * page;
        }
    }
    sum
}

/// A file that shows and sets a number of [`Settings`], in which `max` stands for no limit.
struct Limit {
    name: &'static str,
    field: fn(&mut Settings) -> &mut u64,
}

impl Limit {
    fn number(name: &'static str, field: fn(&mut Settings) -> &mut u64) -> Limit {
        Limit { name, field }
    }
    /// Adds the file; a limit in bytes takes suffixes and is cut to pages.
    fn add(self, system: &'static System, node: &Arc<Node>, group: GroupId) {
        let Limit { name, field } = self;
        let in_bytes = name.starts_with("memory.");
        let show = move |_: &Asking<'_>| -> SysResult<Vec<u8>> {
            let value = *field(&mut system.cgroups.settings(group)?);
            Ok(if value == u64::MAX { b"max\n".to_vec() } else { format!("{value}\n").into_bytes() })
        };
        let store = move |_: &Asking<'_>, data: &[u8]| -> SysResult<()> {
            let value = match word(data)? {
                "max" => u64::MAX,
                text if in_bytes => bytes(text).ok_or(Errno::EINVAL)? / PAGE_SIZE as u64 * PAGE_SIZE as u64,
                text => text.parse().map_err(|_| Errno::EINVAL)?,
            };
            Ok(system.cgroups.set(group, |settings| *field(settings) = value)?)
        };
        node.file(name, 0o644, FileSpec::show(show).store(store));
    }
}

/// A number with K, M or G.
fn bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (text.get(..at)?, 10),
        (at, 'm' | 'M') => (text.get(..at)?, 20),
        (at, 'g' | 'G') => (text.get(..at)?, 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn add_controllers(system: &'static System, node: &Arc<Node>, group: GroupId, controllers: Controllers) {
    if controllers.contains(Controllers::PIDS) {
        let groups = &system.cgroups;
        node.file("pids.current", 0o444, text(move || format!("{}\n", groups.threads(group))));
        node.file("pids.events", 0o444, text(move || format!("max {}\n", groups.pids_refused(group))));
        Limit::number("pids.max", |s| &mut s.pids_max).add(system, node, group);
    }
    if controllers.contains(Controllers::MEMORY) {
        add_memory(system, node, group);
    }
    if controllers.contains(Controllers::CPU) {
        add_cpu(system, node, group);
    }
}

fn add_memory(system: &'static System, node: &Arc<Node>, group: GroupId) {
    node.file("memory.current", 0o444, text(move || format!("{}\n", memory_use(system, group).iter().sum::<u64>())));
    node.file(
        "memory.stat",
        0o444,
        text(move || {
            let [anon, file, shmem] = memory_use(system, group);
            format!("anon {anon}\nfile {}\nkernel 0\nshmem {shmem}\nfile_mapped {file}\n", file + shmem)
        }),
    );
    node.file("memory.events", 0o444, text(|| "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n".to_owned()));
    node.file("memory.swap.current", 0o444, text(|| "0\n".to_owned()));
    for limit in [
        Limit::number("memory.min", |s| &mut s.memory_min),
        Limit::number("memory.low", |s| &mut s.memory_low),
        Limit::number("memory.high", |s| &mut s.memory_high),
        Limit::number("memory.max", |s| &mut s.memory_max),
        Limit::number("memory.swap.max", |s| &mut s.swap_max),
    ] {
        limit.add(system, node, group);
    }
    let show = move |_: &Asking<'_>| Ok(format!("{}\n", u8::from(system.cgroups.settings(group)?.oom_group)).into_bytes());
    node.file(
        "memory.oom.group",
        0o644,
        FileSpec::show(show).store(move |_, data| match parse::<u32>(data)? {
            on @ (0 | 1) => Ok(system.cgroups.set(group, |settings| settings.oom_group = on == 1)?),
            _ => Err(Errno::EINVAL.into()),
        }),
    );
}

fn add_cpu(system: &'static System, node: &Arc<Node>, group: GroupId) {
    let show = move |_: &Asking<'_>| Ok(format!("{}\n", system.cgroups.settings(group)?.cpu_weight).into_bytes());
    node.file(
        "cpu.weight",
        0o644,
        FileSpec::show(show).store(move |_, data| match parse::<u64>(data)? {
            weight @ 1..=10_000 => Ok(system.cgroups.set(group, |settings| settings.cpu_weight = weight)?),
            _ => Err(Errno::ERANGE.into()),
        }),
    );
    let show = move |_: &Asking<'_>| Ok(format!("{}\n", u8::from(system.cgroups.settings(group)?.cpu_idle)).into_bytes());
    node.file(
        "cpu.idle",
        0o644,
        FileSpec::show(show).store(move |_, data| match parse::<u64>(data)? {
            on @ (0 | 1) => Ok(system.cgroups.set(group, |settings| settings.cpu_idle = on == 1)?),
            _ => Err(Errno::ERANGE.into()),
        }),
    );
    let show = move |_: &Asking<'_>| {
        let (quota, period) = system.cgroups.settings(group)?.cpu_max;
        let quota = if quota == u64::MAX { "max".to_owned() } else { quota.to_string() };
        Ok(format!("{quota} {period}\n").into_bytes())
    };
    node.file(
        "cpu.max",
        0o644,
        FileSpec::show(show).store(move |_, data| {
            let mut words = word(data)?.split_whitespace();
            let quota = match words.next().ok_or(Errno::EINVAL)? {
                "max" => u64::MAX,
                text => text.parse().ok().filter(|quota| *quota >= 1000).ok_or(Errno::EINVAL)?,
            };
            let period = words.next().map_or(Ok(100_000), |text| text.parse().map_err(|_| Errno::EINVAL))?;
            if !(1000..=1_000_000).contains(&period) {
                return Err(Errno::EINVAL.into());
            }
            Ok(system.cgroups.set(group, |settings| settings.cpu_max = (quota, period))?)
        }),
    );
}

/// Takes away the files of controllers.
fn remove_controllers(node: &Arc<Node>, controllers: Controllers) {
    let files: [(Controllers, &[&str]); 3] = [
        (Controllers::PIDS, &["pids.current", "pids.events", "pids.max"]),
        (
            Controllers::MEMORY,
            &[
                "memory.current",
                "memory.stat",
                "memory.events",
                "memory.swap.current",
                "memory.min",
                "memory.low",
                "memory.high",
                "memory.max",
                "memory.swap.max",
                "memory.oom.group",
            ],
        ),
        (Controllers::CPU, &["cpu.weight", "cpu.idle", "cpu.max"]),
    ];
    for (controller, names) in files {
        if controllers.contains(controller) {
            names.iter().for_each(|name| node.remove(name));
        }
    }
}

impl FileSystem for CgroupFs {
    fn root(&self) -> Arc<dyn Inode> {
        self.tree().clone()
    }
    fn type_name(&self) -> &'static str {
        "cgroup2"
    }
    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs { magic: CGROUP2_MAGIC, block_size_bytes: PAGE_SIZE as u64, name_max: 255, ..StatFs::default() })
    }
}

impl FileSystemType for CgroupFs {
    fn name(&self) -> &'static str {
        "cgroup2"
    }
    fn mount(&self, request: &MountRequest<'_>) -> Result<Arc<dyn FileSystem>, Errno> {
        const OPTIONS: [&[u8]; 6] =
            [b"nsdelegate", b"favordynmods", b"memory_localevents", b"memory_recursiveprot", b"memory_hugetlb_accounting", b""];
        if !request.data.split(|b| *b == b',').all(|option| OPTIONS.contains(&option)) {
            return Err(Errno::EINVAL);
        }
        let this: Arc<dyn FileSystem> = self.this.upgrade().ok_or(Errno::ENODEV)?;
        Ok(this)
    }
}

/// `/proc/cgroups`.
#[must_use]
pub fn table(system: &System) -> String {
    let count = system.cgroups.count();
    let rows = Controllers::NAMES.map(|(name, _)| format!("{name}\t0\t{count}\t1\n"));
    format!("#subsys_name\thierarchy\tnum_cgroups\tenabled\n{}", rows.concat())
}
