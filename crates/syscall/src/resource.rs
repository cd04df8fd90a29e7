//! Resource limits and usage.

use crate::args::UserRef;
use abi::{Errno, PAGE_SIZE, Resource, Rlimit, Rusage, SysResult};
use std::sync::Arc;
use task::process::usage_of;
use task::{Current, Process};
use vfs::Capability;

/// getrlimit(2).
pub fn getrlimit(current: &mut Current, resource: u32, to: UserRef<Rlimit>) -> SysResult<()> {
    let resource = Resource::new(resource).ok_or(Errno::EINVAL)?;
    let limit = current.process().rlimit(resource);
    Ok(to.write(current, &limit)?)
}

/// setrlimit(2).
pub fn setrlimit(current: &mut Current, resource: u32, from: UserRef<Rlimit>) -> SysResult<()> {
    let resource = Resource::new(resource).ok_or(Errno::EINVAL)?;
    let limit = from.read(current)?;
    let process = current.process().clone();
    Ok(set(current, &process, resource, limit)?)
}

fn set(current: &Current, process: &Arc<Process>, resource: Resource, limit: Rlimit) -> Result<(), Errno> {
    if limit.soft > limit.hard {
        return Err(Errno::EINVAL);
    }
    let old = process.rlimit(resource);
    // `fs.nr_open`.
    if resource == Resource::Nofile && limit.hard > 1 << 20 {
        return Err(Errno::EPERM);
    }
    if limit.hard > old.hard {
        current.credentials().require(Capability::SYS_RESOURCE)?;
    }
    process.set_rlimit(resource, limit);
    apply_to_memory(process);
    Ok(())
}

/// The address space keeps its own copy of the limits that bind it. Processes that share one (vfork) share the limit set last, until exec.
fn apply_to_memory(process: &Process) {
    let Some(thread) = process.any_thread() else { return };
    let (Ok(memory), credentials) = (thread.memory(), thread.credentials()) else { return };
    memory.set_limits(process.memory_limits(&credentials));
}

/// prlimit64(2).
pub fn prlimit64(
    current: &mut Current,
    pid: i32,
    resource: u32,
    new: Option<UserRef<Rlimit>>,
    old: Option<UserRef<Rlimit>>,
) -> SysResult<()> {
    let resource = Resource::new(resource).ok_or(Errno::EINVAL)?;
    let new = match new {
        Some(new) => Some(new.read(current)?),
        None => None,
    };
    let process = if pid == 0 { current.process().clone() } else { current.system().task(pid)?.process().clone() };
    if !Arc::ptr_eq(&process, current.process()) {
        let target = process.any_thread().ok_or(Errno::ESRCH)?.credentials();
        let own = current.credentials();
        let same = [target.uid, target.euid, target.suid].iter().all(|id| *id == own.uid)
            && [target.gid, target.egid, target.sgid].iter().all(|id| *id == own.gid);
        if !same && !own.has(Capability::SYS_RESOURCE) {
            return Err(Errno::EPERM.into());
        }
    }
    let previous = process.rlimit(resource);
    if let Some(new) = new {
        set(current, &process, resource, new)?;
    }
    if let Some(old) = old {
        old.write(current, &previous)?;
    }
    Ok(())
}

/// getrusage(2).
pub fn getrusage(current: &mut Current, who: i32, to: UserRef<Rusage>) -> SysResult<()> {
    let mut usage = match who {
        0 => current.process().usage(),
        -1 => current.process().children_usage(),
        1 => usage_of(current.task()),
        _ => return Err(Errno::EINVAL.into()),
    };
    if who != -1 {
        // The address space keeps no high-water mark; what is resident now stands for it.
        usage.max_rss_kib = (current.memory().usage().resident.total() * (PAGE_SIZE as u64 >> 10)) as i64;
    }
    Ok(to.write(current, &usage)?)
}

/// times(2), in hundredths of a second.
pub fn times(current: &mut Current, to: Option<UserRef<[i64; 4]>>) -> SysResult<i64> {
    let ticks = |t: abi::Timeval| t.sec * 100 + t.usec / 10_000;
    if let Some(to) = to {
        let (own, children) = (current.process().usage(), current.process().children_usage());
        to.write(current, &[ticks(own.user), ticks(own.system), ticks(children.user), ticks(children.system)])?;
    }
    Ok((sync::monotonic_ns() / 10_000_000) as i64)
}
