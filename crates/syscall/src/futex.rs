//! futex(2).

use crate::args::{UserAddr, UserRef};
use abi::raw::general as raw;
use abi::{ClockId, Errno, Restart, SysError, SysResult, Timespec};
use task::Current;
use task::futex::{ANY, WakeOp};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// futex(2). The fourth argument is a timeout for some operations and a number for others.
pub fn futex(current: &mut Current, addr: UserAddr, op: u32, value: u32, fourth: u64, second: UserAddr, value3: u32) -> SysResult<u64> {
    let shared = op & raw::FUTEX_PRIVATE_FLAG == 0;
    let realtime = op & raw::FUTEX_CLOCK_REALTIME != 0;
    let command = op & !(raw::FUTEX_PRIVATE_FLAG | raw::FUTEX_CLOCK_REALTIME);
    let takes_clock =
        matches!(command, raw::FUTEX_WAIT | raw::FUTEX_WAIT_BITSET | raw::FUTEX_WAIT_REQUEUE_PI | raw::FUTEX_LOCK_PI2 | raw::FUTEX_LOCK_PI);
    if realtime && !takes_clock {
        return Err(Errno::ENOSYS.into());
    }
    let futexes = &current.system().futexes;
    let memory = current.memory().clone();
    let count = |n: u32| if (n as i32) < 0 { usize::MAX } else { n as usize };
    match command {
        raw::FUTEX_WAIT | raw::FUTEX_WAIT_BITSET => {
            let bitset = if command == raw::FUTEX_WAIT { ANY } else { value3 };
            let deadline = deadline(current, fourth, command == raw::FUTEX_WAIT_BITSET, realtime)?;
            wait(current, addr.0, shared, value, bitset, deadline)
        }
        raw::FUTEX_WAKE => Ok(futexes.wake(&*memory, addr.0, shared, count(value).max(1), ANY)? as u64),
        raw::FUTEX_WAKE_BITSET => Ok(futexes.wake(&*memory, addr.0, shared, count(value).max(1), value3)? as u64),
        raw::FUTEX_REQUEUE | raw::FUTEX_CMP_REQUEUE => {
            let (wake, requeue) = (value as i32, fourth as i32);
            if wake < 0 || requeue < 0 {
                return Err(Errno::EINVAL.into());
            }
            let expected = (command == raw::FUTEX_CMP_REQUEUE).then_some(value3);
            let counts = (wake as usize, requeue as usize);
            let (woken, moved) = futexes.requeue(&*memory, addr.0, second.0, shared, counts, expected)?;
            Ok(if expected.is_some() { woken + moved } else { woken } as u64)
        }
        raw::FUTEX_WAKE_OP => {
            let counts = (count(value).max(1), count(fourth as u32).max(1));
            Ok(futexes.wake_op(&*memory, addr.0, second.0, shared, counts, WakeOp::decode(value3))? as u64)
        }
        raw::FUTEX_LOCK_PI | raw::FUTEX_LOCK_PI2 => {
            // The old call's timeout is always on the real-time clock.
            let deadline = deadline(current, fourth, true, realtime || command == raw::FUTEX_LOCK_PI)?;
            let system = current.system();
            let is_alive = |tid| system.task(tid).is_ok();
            let locked = futexes.lock_pi(&*memory, addr.0, shared, current.tid(), deadline, &is_alive);
            locked.map(|()| 0).map_err(|error| match error {
                SysError::Restart(_) => SysError::Restart(Restart::Always),
                error => error,
            })
        }
        raw::FUTEX_TRYLOCK_PI => match futexes.try_lock_pi(&*memory, addr.0, current.tid())? {
            true => Ok(0),
            false => Err(Errno::EAGAIN.into()),
        },
        raw::FUTEX_UNLOCK_PI => Ok(futexes.unlock_pi(&*memory, addr.0, shared, current.tid()).map(|()| 0)?),
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn deadline(current: &Current, timeout: u64, absolute: bool, realtime: bool) -> Result<Option<u64>, Errno> {
    if timeout == 0 {
        return Ok(None);
    }
    let ns = UserRef::<Timespec>::at(timeout).read(current)?.to_ns()?;
    Ok(Some(match (absolute, realtime) {
        (false, _) => sync::monotonic_ns().saturating_add(ns),
        (true, false) => ns,
        (true, true) => current.system().deadline_ns(ClockId::Realtime, ns).unwrap_or(u64::MAX),
    }))
}

fn wait(current: &mut Current, addr: u64, shared: bool, value: u32, bitset: u32, deadline: Option<u64>) -> SysResult<u64> {
    let memory = current.memory().clone();
    let result = current.system().futexes.wait(&*memory, addr, shared, value, bitset, deadline);
    match result {
        Err(SysError::Restart(_)) if deadline.is_some() => {
            current.set_restart(Box::new(move |current| wait(current, addr, shared, value, bitset, deadline)));
            Err(SysError::Restart(Restart::Block))
        }
        result => result.map(|()| 0),
    }
}

/// `struct futex_waitv`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FutexWaitv {
    value: u64,
    addr: u64,
    flags: u32,
    reserved: u32,
}

/// futex_waitv(2).
pub fn futex_waitv(
    current: &mut Current,
    words: UserRef<FutexWaitv>,
    count: u32,
    flags: u32,
    timeout: Option<UserRef<Timespec>>,
    clock: i32,
) -> SysResult<usize> {
    if flags != 0 || count == 0 || count > raw::FUTEX_WAITV_MAX {
        return Err(Errno::EINVAL.into());
    }
    let deadline = match timeout {
        None => None,
        Some(timeout) => {
            let clock = ClockId::new(clock)?;
            if !matches!(clock, ClockId::Monotonic | ClockId::Realtime) {
                return Err(Errno::EINVAL.into());
            }
            let at = timeout.read(current)?.to_ns()?;
            current.system().deadline_ns(clock, at)
        }
    };
    let mut list = Vec::new();
    for word in words.read_many(current, count as usize)? {
        // 32-bit words only, private or not.
        if word.flags & !raw::FUTEX_PRIVATE_FLAG != raw::FUTEX_32 || word.reserved != 0 {
            return Err(Errno::EINVAL.into());
        }
        let value = u32::try_from(word.value).map_err(|_| Errno::EINVAL)?;
        list.push((word.addr, word.flags & raw::FUTEX_PRIVATE_FLAG == 0, value));
    }
    let memory = current.memory().clone();
    current.system().futexes.wait_any(&*memory, &list, deadline)
}
