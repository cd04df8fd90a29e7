//! Scheduling parameters. They are kept and told, not obeyed: the scheduler is fair to all.

use crate::args::{UserAddr, UserRef};
use abi::{Errno, NS_PER_SEC, SysResult, Timespec};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use task::{Current, Task};
use vfs::{Capability, UserMemory};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const SCHED_FIFO: i32 = 1;
const SCHED_RR: i32 = 2;

fn target(current: &Current, pid: i32) -> Result<Arc<Task>, Errno> {
    match pid {
        0 => Ok(current.task().clone()),
        pid if pid < 0 => Err(Errno::EINVAL),
        pid => current.system().task(pid),
    }
}

fn may_change(current: &Current, task: &Task) -> Result<(), Errno> {
    let (own, other) = (current.credentials(), task.credentials());
    if own.euid == other.euid || own.euid == other.uid { Ok(()) } else { own.require(Capability::SYS_NICE) }
}

/// sched_yield(2).
pub fn sched_yield(_current: &mut Current) -> SysResult<()> {
    sync::yield_now();
    Ok(())
}

/// Which priorities a policy has. EINVAL for a policy that there is not.
fn priorities(policy: i32) -> Result<(i32, i32), Errno> {
    match policy {
        SCHED_FIFO | SCHED_RR => Ok((1, 99)),
        0 | 3 | 5 | 6 => Ok((0, 0)),
        _ => Err(Errno::EINVAL),
    }
}

/// sched_get_priority_max(2).
pub fn sched_get_priority_max(_current: &mut Current, policy: i32) -> SysResult<i32> {
    Ok(priorities(policy)?.1)
}
/// sched_get_priority_min(2).
pub fn sched_get_priority_min(_current: &mut Current, policy: i32) -> SysResult<i32> {
    Ok(priorities(policy)?.0)
}

/// sched_setscheduler(2).
pub fn sched_setscheduler(current: &mut Current, pid: i32, policy: i32, param: UserRef<i32>) -> SysResult<()> {
    // SCHED_RESET_ON_FORK is accepted and forgotten.
    set_policy(current, pid, Some(policy & !0x4000_0000), param)
}
/// sched_setparam(2).
pub fn sched_setparam(current: &mut Current, pid: i32, param: UserRef<i32>) -> SysResult<()> {
    set_policy(current, pid, None, param)
}

fn set_policy(current: &Current, pid: i32, policy: Option<i32>, param: UserRef<i32>) -> SysResult<()> {
    let priority = param.read(current)?;
    let task = target(current, pid)?;
    let policy = policy.unwrap_or_else(|| task.policy.load(Ordering::Relaxed));
    let (low, high) = priorities(policy)?;
    if !(low..=high).contains(&priority) || policy == 6 {
        return Err(Errno::EINVAL.into());
    }
    may_change(current, &task)?;
    if priority > 0 && priority as u64 > task.process().rlimit(abi::Resource::Rtprio).soft {
        current.credentials().require(Capability::SYS_NICE)?;
    }
    task.policy.store(policy, Ordering::Relaxed);
    task.priority.store(priority, Ordering::Relaxed);
    Ok(())
}

/// sched_getscheduler(2).
pub fn sched_getscheduler(current: &mut Current, pid: i32) -> SysResult<i32> {
    Ok(target(current, pid)?.policy.load(Ordering::Relaxed))
}
/// sched_getparam(2).
pub fn sched_getparam(current: &mut Current, pid: i32, param: UserRef<i32>) -> SysResult<()> {
    let priority = target(current, pid)?.priority.load(Ordering::Relaxed);
    Ok(param.write(current, &priority)?)
}
/// sched_rr_get_interval(2).
pub fn sched_rr_get_interval(current: &mut Current, pid: i32, to: UserRef<Timespec>) -> SysResult<()> {
    let policy = target(current, pid)?.policy.load(Ordering::Relaxed);
    let ns = match policy {
        SCHED_RR => 100_000_000,
        SCHED_FIFO => 0,
        _ => sync::sched::SLICE_NS,
    };
    Ok(to.write(current, &Timespec::from_ns(ns.min(NS_PER_SEC)))?)
}

fn cpus() -> usize {
    sync::sched::scheduler().map_or(1, sync::sched::Scheduler::cpus)
}

/// sched_getaffinity(2): every virtual CPU. Gives the bytes written.
pub fn sched_getaffinity(current: &mut Current, pid: i32, len: usize, mask: UserAddr) -> SysResult<usize> {
    target(current, pid)?;
    let words = cpus().div_ceil(64);
    if len < words * 8 || len & 7 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut bytes = vec![0u8; words * 8];
    for cpu in 0..cpus() {
        if let Some(byte) = bytes.get_mut(cpu / 8) {
            *byte |= 1 << (cpu % 8);
        }
    }
    current.memory().write_all(mask.0, &bytes)?;
    Ok(bytes.len())
}

/// sched_setaffinity(2): accepted as long as it leaves a virtual CPU.
pub fn sched_setaffinity(current: &mut Current, pid: i32, len: usize, mask: UserAddr) -> SysResult<()> {
    let mut bytes = vec![0u8; len.min(128)];
    current.memory().read_exact(mask.0, &mut bytes)?;
    let task = target(current, pid)?;
    may_change(current, &task)?;
    let any = (0..cpus()).any(|cpu| bytes.get(cpu / 8).is_some_and(|b| b & (1 << (cpu % 8)) != 0));
    if any { Ok(()) } else { Err(Errno::EINVAL.into()) }
}

/// getcpu(2). There is one node.
pub fn getcpu(current: &mut Current, cpu: Option<UserRef<u32>>, node: Option<UserRef<u32>>) -> SysResult<()> {
    if let Some(cpu) = cpu {
        cpu.write(current, &(sync::sched::cpu_number() as u32))?;
    }
    if let Some(node) = node {
        node.write(current, &0)?;
    }
    Ok(())
}

/// The tasks that getpriority(2) and setpriority(2) mean.
pub(crate) fn chosen(current: &Current, which: u32, who: i32) -> Result<Vec<Arc<Task>>, Errno> {
    let table = current.system().table();
    let threads = |process: &Arc<task::Process>| process.threads();
    Ok(match which {
        0 if who == 0 => vec![current.task().clone()],
        0 => table.task(who).cloned().into_iter().collect(),
        1 => {
            let group = if who == 0 { table.tree.get(current.pid()).map_or(0, |n| n.group) } else { who };
            table.group(group).flat_map(threads).collect()
        }
        2 => {
            let uid = if who == 0 { current.credentials().uid } else { who as u32 };
            let all = table.tree.pids().filter_map(|pid| table.process(pid)).flat_map(threads);
            all.filter(|t| t.credentials().uid == uid).collect()
        }
        _ => return Err(Errno::EINVAL),
    })
}

/// getpriority(2): 20 minus the nice value, so that it is positive.
pub fn getpriority(current: &mut Current, which: u32, who: i32) -> SysResult<i32> {
    let nice = chosen(current, which, who)?.iter().map(|t| t.nice.load(Ordering::Relaxed)).min();
    Ok(20 - nice.ok_or(Errno::ESRCH)?)
}

/// setpriority(2).
pub fn setpriority(current: &mut Current, which: u32, who: i32, nice: i32) -> SysResult<()> {
    let nice = nice.clamp(-20, 19);
    let mut result = Err(Errno::ESRCH);
    for task in chosen(current, which, who)? {
        let (own, other) = (current.credentials(), task.credentials());
        let mine = own.euid == other.uid || own.euid == other.euid;
        let limit = task.process().rlimit(abi::Resource::Nice).soft;
        let one = if !mine && !own.has(Capability::SYS_NICE) {
            Err(Errno::EPERM)
        } else if nice < task.nice.load(Ordering::Relaxed) && (20 - nice) as u64 > limit && !own.has(Capability::SYS_NICE) {
            Err(Errno::EACCES)
        } else {
            task.nice.store(nice, Ordering::Relaxed);
            Ok(())
        };
        if result == Err(Errno::ESRCH) || one.is_err() {
            result = one;
        }
    }
    Ok(result?)
}

/// membarrier(2): every command that asks for a barrier. Threads of a process that run elsewhere are stopped by the kick and see memory in
/// order when they go on.
pub fn membarrier(current: &mut Current, command: u32, flags: u32, _cpu: i32) -> SysResult<u32> {
    const GLOBAL: u32 = 1;
    const PRIVATE_EXPEDITED: u32 = 8;
    const REGISTER_PRIVATE_EXPEDITED: u32 = 16;
    if flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    match command {
        0 => Ok(GLOBAL | PRIVATE_EXPEDITED | REGISTER_PRIVATE_EXPEDITED),
        GLOBAL | PRIVATE_EXPEDITED => {
            current.process().stop_briefly(current.task());
            std::sync::atomic::fence(Ordering::SeqCst);
            Ok(0)
        }
        REGISTER_PRIVATE_EXPEDITED => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// `struct sched_attr` as far as it was first published.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

/// sched_setattr(2).
pub fn sched_setattr(current: &mut Current, pid: i32, attr: UserRef<SchedAttr>, flags: u32) -> SysResult<()> {
    if flags != 0 || pid < 0 {
        return Err(Errno::EINVAL.into());
    }
    let size = UserRef::<u32>::at(attr.0).read(current)? as usize;
    if size != 0 && size < size_of::<SchedAttr>() {
        return Err(Errno::E2BIG.into());
    }
    let wanted = attr.read(current)?;
    let task = target(current, pid)?;
    let policy = i32::try_from(wanted.policy).map_err(|_| Errno::EINVAL)?;
    let (low, high) = priorities(policy)?;
    let priority = i32::try_from(wanted.priority).map_err(|_| Errno::EINVAL)?;
    // Deadlines are nobody's to promise here.
    if !(low..=high).contains(&priority) || policy == 6 {
        return Err(Errno::EINVAL.into());
    }
    may_change(current, &task)?;
    let nice = wanted.nice.clamp(-20, 19);
    let raises_priority = priority > 0 && priority as u64 > task.process().rlimit(abi::Resource::Rtprio).soft;
    let raises_nice = nice < task.nice.load(Ordering::Relaxed) && (20 - nice) as u64 > task.process().rlimit(abi::Resource::Nice).soft;
    if raises_priority || raises_nice {
        current.credentials().require(Capability::SYS_NICE)?;
    }
    task.policy.store(policy, Ordering::Relaxed);
    task.priority.store(priority, Ordering::Relaxed);
    task.nice.store(nice, Ordering::Relaxed);
    Ok(())
}

/// sched_getattr(2).
pub fn sched_getattr(current: &mut Current, pid: i32, attr: UserRef<SchedAttr>, size: u32, flags: u32) -> SysResult<()> {
    let len = size_of::<SchedAttr>() as u32;
    if flags != 0 || pid < 0 || !(len..=abi::PAGE_SIZE as u32).contains(&size) {
        return Err(Errno::EINVAL.into());
    }
    let task = target(current, pid)?;
    let known = SchedAttr {
        size: len,
        policy: task.policy.load(Ordering::Relaxed) as u32,
        nice: task.nice.load(Ordering::Relaxed),
        priority: task.priority.load(Ordering::Relaxed) as u32,
        ..SchedAttr::default()
    };
    Ok(attr.write(current, &known)?)
}
