//! Descriptors that tell of events: epoll(7), eventfd(2), timerfd_create(2), inotify(7); and memfd_create(2), which makes one out of nothing too.

use crate::args::{UserAddr, UserRef};
use crate::data::{file, nofile, read_path, read_string};
use abi::raw::general as raw;
use abi::{ClockId, Errno, Itimerspec, SigSet, SysResult, Timespec};
use fs::epoll::{Epoll, EpollControl, EpollEvent, epoll};
use fs::eventfd::{EventFdMode, eventfd};
use fs::inotify::{Inotify, inotify};
use fs::timerfd::{TimerClock, TimerFd, TimerSpec, TimerStart, timerfd};
use std::sync::Arc;
use task::Current;
use vfs::{Fd, LookupFlags, OnExec, OpenFile, OpenFlags, PathAt, UserMemory};

/// `O_CLOEXEC` and `O_NONBLOCK`, which all of these calls have under names of their own.
const COMMON: u32 = raw::O_CLOEXEC | raw::O_NONBLOCK;

fn install(current: &Current, file: Arc<OpenFile>, flags: u32) -> SysResult<Fd> {
    let on_exec = if flags & raw::O_CLOEXEC != 0 { OnExec::Close } else { OnExec::Keep };
    Ok(current.files().add(file, nofile(current), on_exec)?)
}

fn only(flags: u32, known: u32) -> Result<OpenFlags, Errno> {
    if flags & !known != 0 { Err(Errno::EINVAL) } else { Ok(OpenFlags::from_bits_truncate(flags & raw::O_NONBLOCK)) }
}

/// epoll_create(2).
pub fn epoll_create(current: &mut Current, size: i32) -> SysResult<Fd> {
    if size <= 0 {
        return Err(Errno::EINVAL.into());
    }
    epoll_create1(current, 0)
}

/// epoll_create1(2).
pub fn epoll_create1(current: &mut Current, flags: u32) -> SysResult<Fd> {
    only(flags, raw::O_CLOEXEC)?;
    let file = epoll(&current.caller())?;
    install(current, file, flags)
}

/// Bytes of `struct epoll_event`, which is packed on x86-64.
const EVENT_LEN: usize = 12;

fn read_event(current: &Current, addr: UserAddr) -> Result<EpollEvent, Errno> {
    let [a, b, c] = UserRef::<[u32; 3]>::at(addr.0).read(current)?;
    Ok(EpollEvent { events: a, data: u64::from(b) | u64::from(c) << 32 })
}

/// epoll_ctl(2).
pub fn epoll_ctl(current: &mut Current, epfd: Fd, operation: i32, fd: Fd, event: UserAddr) -> SysResult<()> {
    let control = match operation {
        1 => EpollControl::Add(read_event(current, event)?),
        2 => EpollControl::Delete,
        3 => EpollControl::Modify(read_event(current, event)?),
        _ => return Err(Errno::EINVAL.into()),
    };
    let instance = file(current, epfd)?;
    let target = current.files().get_usable(fd)?;
    if Arc::ptr_eq(&instance, &target) {
        return Err(Errno::EINVAL.into());
    }
    let instance = instance.ops().downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    Ok(instance.control(fd, &target, control)?)
}

fn wait(current: &mut Current, epfd: Fd, events: UserAddr, max: i32, deadline: Option<u64>) -> SysResult<usize> {
    let most = i32::MAX as usize / EVENT_LEN;
    let max = usize::try_from(max).ok().filter(|max| (1..=most).contains(max)).ok_or(Errno::EINVAL)?;
    let instance = file(current, epfd)?;
    let epoll = instance.ops().downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    let ready = epoll.wait(max.min(4096), deadline)?;
    let mut bytes = Vec::with_capacity(ready.len() * EVENT_LEN);
    for event in &ready {
        bytes.extend(event.events.to_ne_bytes());
        bytes.extend(event.data.to_ne_bytes());
    }
    current.memory().write_all(events.0, &bytes)?;
    Ok(ready.len())
}

fn in_ms(timeout_ms: i32) -> Option<u64> {
    match u64::try_from(timeout_ms) {
        Err(_) => None,
        Ok(0) => Some(0),
        Ok(ms) => Some(sync::monotonic_ns().saturating_add(ms * 1_000_000)),
    }
}

/// A wait of epoll is never run again by itself, signal(7).
fn not_again<T>(result: SysResult<T>) -> SysResult<T> {
    result.map_err(|error| error.errno().into())
}

/// epoll_wait(2).
pub fn epoll_wait(current: &mut Current, epfd: Fd, events: UserAddr, max: i32, timeout_ms: i32) -> SysResult<usize> {
    not_again(wait(current, epfd, events, max, in_ms(timeout_ms)))
}

fn masked(current: &mut Current, mask: UserRef<u64>, size: usize, call: impl FnOnce(&mut Current) -> SysResult<usize>) -> SysResult<usize> {
    let mask = mask.read_optional(current)?.map(SigSet);
    if mask.is_some() && size != 8 {
        return Err(Errno::EINVAL.into());
    }
    not_again(current.with_signal_mask(mask, call))
}

/// epoll_pwait(2).
pub fn epoll_pwait(current: &mut Current, epfd: Fd, events: UserAddr, max: i32, timeout_ms: i32, mask: UserRef<u64>) -> SysResult<usize> {
    masked(current, mask, 8, |current| wait(current, epfd, events, max, in_ms(timeout_ms)))
}

/// epoll_pwait2(2).
pub fn epoll_pwait2(
    current: &mut Current,
    epfd: Fd,
    events: UserAddr,
    max: i32,
    timeout: UserRef<Timespec>,
    mask: UserRef<u64>,
) -> SysResult<usize> {
    let deadline = match timeout.read_optional(current)? {
        None => None,
        Some(time) => Some(time.to_ns()?).map(|ns| if ns == 0 { 0 } else { sync::monotonic_ns().saturating_add(ns) }),
    };
    masked(current, mask, 8, |current| wait(current, epfd, events, max, deadline))
}

/// eventfd(2).
pub fn eventfd1(current: &mut Current, initial: u32) -> SysResult<Fd> {
    eventfd2(current, initial, 0)
}

/// eventfd2(2).
pub fn eventfd2(current: &mut Current, initial: u32, flags: u32) -> SysResult<Fd> {
    const SEMAPHORE: u32 = 1;
    let kept = only(flags, COMMON | SEMAPHORE)?;
    let mode = if flags & SEMAPHORE != 0 { EventFdMode::Semaphore } else { EventFdMode::Counter };
    let file = eventfd(&current.caller(), initial, mode, kept)?;
    install(current, file, flags)
}

/// timerfd_create(2).
pub fn timerfd_create(current: &mut Current, clock: i32, flags: u32) -> SysResult<Fd> {
    let kept = only(flags, COMMON)?;
    let clock = match ClockId::new(clock)? {
        ClockId::Realtime | ClockId::RealtimeAlarm => TimerClock::Realtime,
        ClockId::Monotonic | ClockId::Boottime | ClockId::BoottimeAlarm => TimerClock::Monotonic,
        _ => return Err(Errno::EINVAL.into()),
    };
    let file = timerfd(&current.caller(), clock, kept)?;
    install(current, file, flags)
}

fn spec_out(spec: TimerSpec) -> Itimerspec {
    Itimerspec { interval: Timespec::from_ns(spec.interval_ns), value: Timespec::from_ns(spec.value_ns) }
}

/// timerfd_settime(2).
pub fn timerfd_settime(current: &mut Current, fd: Fd, flags: u32, new: UserRef<Itimerspec>, old: UserRef<Itimerspec>) -> SysResult<()> {
    let start = match flags {
        0 => TimerStart::Relative,
        1 => TimerStart::Absolute,
        3 => TimerStart::AbsoluteUnlessSet,
        2 => TimerStart::Relative,
        _ => return Err(Errno::EINVAL.into()),
    };
    let new = new.read(current)?;
    let spec = TimerSpec { value_ns: new.value.to_ns()?, interval_ns: new.interval.to_ns()? };
    let file = file(current, fd)?;
    let timer = file.ops().downcast::<TimerFd>().ok_or(Errno::EINVAL)?;
    let before = timer.set(start, spec);
    Ok(old.write_optional(current, &spec_out(before))?)
}

/// timerfd_gettime(2).
pub fn timerfd_gettime(current: &mut Current, fd: Fd, out: UserRef<Itimerspec>) -> SysResult<()> {
    let file = file(current, fd)?;
    let timer = file.ops().downcast::<TimerFd>().ok_or(Errno::EINVAL)?;
    Ok(out.write(current, &spec_out(timer.get()))?)
}

/// inotify_init(2).
pub fn inotify_init(current: &mut Current) -> SysResult<Fd> {
    inotify_init1(current, 0)
}

/// inotify_init1(2).
pub fn inotify_init1(current: &mut Current, flags: u32) -> SysResult<Fd> {
    let kept = only(flags, COMMON)?;
    let file = inotify(&current.caller(), kept)?;
    install(current, file, flags)
}

/// inotify_add_watch(2).
pub fn inotify_add_watch(current: &mut Current, fd: Fd, path: UserAddr, mask: u32) -> SysResult<i32> {
    let file = file(current, fd)?;
    let instance = file.ops().downcast::<Inotify>().ok_or(Errno::EINVAL)?;
    let path = read_path(current, path)?;
    instance.add_watch(&current.caller(), PathAt::cwd(&path), mask)
}

/// inotify_rm_watch(2).
pub fn inotify_rm_watch(current: &mut Current, fd: Fd, wd: i32) -> SysResult<()> {
    let file = file(current, fd)?;
    let instance = file.ops().downcast::<Inotify>().ok_or(Errno::EINVAL)?;
    Ok(instance.remove_watch(wd)?)
}

/// Longest name of a memfd, its NUL included (`MFD_NAME_MAX_LEN` and the prefix).
const MEMFD_NAME_MAX: usize = 250;

/// memfd_create(2).
pub fn memfd_create(current: &mut Current, name: UserAddr, flags: u32) -> SysResult<Fd> {
    const KNOWN: u32 = raw::MFD_CLOEXEC | raw::MFD_ALLOW_SEALING | raw::MFD_NOEXEC_SEAL | raw::MFD_EXEC;
    if flags & !KNOWN != 0 || flags & (raw::MFD_NOEXEC_SEAL | raw::MFD_EXEC) == raw::MFD_NOEXEC_SEAL | raw::MFD_EXEC {
        return Err(Errno::EINVAL.into());
    }
    let name = read_string(current, name.0, MEMFD_NAME_MAX, Errno::EINVAL)?;
    let file = fs::tmpfs::memfd(&current.caller(), &name, flags)?;
    install(current, file, if flags & raw::MFD_CLOEXEC != 0 { raw::O_CLOEXEC } else { 0 })
}

/// name_to_handle_at(2): no file system here gives handles out.
pub fn name_to_handle_at(current: &mut Current, _dir: Fd, path: UserAddr, _handle: u64, _mount: u64, _flags: u32) -> SysResult<()> {
    let path = read_path(current, path)?;
    current.caller().lookup(PathAt::cwd(&path), LookupFlags::FOLLOW)?;
    Err(Errno::EOPNOTSUPP.into())
}
