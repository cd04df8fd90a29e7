//! ioprio_get(2) and ioprio_set(2): kept and told, not obeyed, as by a device without a scheduler.

use crate::sched::chosen;
use abi::{Errno, SysResult};
use std::sync::atomic::Ordering;
use task::Current;
use vfs::Capability;

const CLASS_SHIFT: i32 = 13;
const NONE: i32 = 0;
const REALTIME: i32 = 1;
const BEST_EFFORT: i32 = 2;
const IDLE: i32 = 3;
/// Level of a task that never chose one.
const DEFAULT_LEVEL: i32 = 4;

/// `IOPRIO_WHO_PROCESS` to `_USER` are one more than the `PRIO_` numbers.
fn which(who: u32) -> Result<u32, Errno> {
    who.checked_sub(1).ok_or(Errno::EINVAL)
}

/// ioprio_set(2).
pub fn ioprio_set(current: &mut Current, which_kind: u32, who: i32, priority: i32) -> SysResult<()> {
    let (class, level) = (priority >> CLASS_SHIFT, priority & 7);
    let credentials = current.credentials();
    match class {
        NONE if level == 0 => {}
        REALTIME if !credentials.has(Capability::SYS_ADMIN) && !credentials.has(Capability::SYS_NICE) => return Err(Errno::EPERM.into()),
        REALTIME | BEST_EFFORT | IDLE => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    let tasks = chosen(current, which(which_kind)?, who)?;
    if tasks.is_empty() {
        return Err(Errno::ESRCH.into());
    }
    for task in tasks {
        let (own, other) = (current.credentials(), task.credentials());
        if other.uid != own.euid && other.uid != own.uid && !own.has(Capability::SYS_NICE) {
            return Err(Errno::EPERM.into());
        }
        task.io_priority.store(priority, Ordering::Relaxed);
    }
    Ok(())
}

/// ioprio_get(2): of several tasks the best, where one that never chose counts as best effort.
pub fn ioprio_get(current: &mut Current, which_kind: u32, who: i32) -> SysResult<i32> {
    let which = which(which_kind)?;
    let priorities = chosen(current, which, who)?.into_iter().map(|task| task.io_priority.load(Ordering::Relaxed));
    let told =
        |priority: i32| if which != 0 && priority >> CLASS_SHIFT == NONE { BEST_EFFORT << CLASS_SHIFT | DEFAULT_LEVEL } else { priority };
    Ok(priorities.map(told).min().ok_or(Errno::ESRCH)?)
}
