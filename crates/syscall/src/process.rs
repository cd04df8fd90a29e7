//! Processes and threads: fork(2), clone(2), exit(2), wait(2), process groups and sessions, prctl(2).

use crate::args::{Fd, UserAddr, UserRef};
use abi::raw::general::{__NR_getpid, __NR_getppid, __NR_gettid};
use abi::siginfo::code;
use abi::{CLONE_ARGS_SIZE_VER0, CloneArgs, CloneFlags, Errno, Rusage, SigFields, SigInfo, Signal, SysResult, WaitFor, WaitOptions};
use std::sync::atomic::Ordering;
use task::futex::{ROBUST_HEAD_LEN, RobustList};
use task::tree::Waited;
use task::{CloneRequest, Current, Outcome};
use vfs::{Capability, UserMemory};
use zerocopy::{FromZeros, IntoBytes};

/// exit(2), of one thread.
pub fn exit(current: &mut Current, status: i32) -> Outcome {
    current.begin_exit(status);
    Outcome::Registers
}

/// exit_group(2).
pub fn exit_group(current: &mut Current, status: i32) -> Outcome {
    current.begin_group_exit(status);
    Outcome::Registers
}

/// getpid(2).
pub fn getpid(current: &mut Current) -> SysResult<i32> {
    current.told(__NR_getpid, |current| current.pid())
}
/// gettid(2).
pub fn gettid(current: &mut Current) -> SysResult<i32> {
    current.told(__NR_gettid, |current| current.tid())
}
/// getppid(2).
pub fn getppid(current: &mut Current) -> SysResult<i32> {
    current.told(__NR_getppid, |current| current.process().parent())
}

/// fork(2).
pub fn fork(current: &mut Current) -> SysResult<i32> {
    current.clone_task(&CloneRequest::fork())
}

/// vfork(2).
pub fn vfork(current: &mut Current) -> SysResult<i32> {
    current.clone_task(&CloneRequest { flags: CloneFlags::VM | CloneFlags::VFORK, ..CloneRequest::fork() })
}

/// clone(2). The low byte of the flags is the exit signal; unknown flags are ignored, as ever.
pub fn clone(current: &mut Current, flags: u64, stack: u64, parent_tid: u64, child_tid: u64, tls: u64) -> SysResult<i32> {
    let mut flag_bits = CloneFlags::from_bits_truncate(flags & 0xffff_ff00);
    let signal = (flags & 0xff) as i32;
    // DETACHED has had no meaning since Linux 2.6.2.
    if !flag_bits.contains(CloneFlags::PIDFD) {
        flag_bits.remove(CloneFlags::DETACHED);
    }
    if flag_bits.contains(CloneFlags::PIDFD | CloneFlags::PARENT_SETTID) {
        return Err(Errno::EINVAL.into());
    }
    current.clone_task(&CloneRequest {
        flags: flag_bits,
        exit_signal: exit_signal(signal)?,
        stack,
        tls,
        parent_tid,
        child_tid,
        pidfd: parent_tid,
        cgroup: None,
    })
}

fn exit_signal(number: i32) -> Result<Option<Signal>, Errno> {
    match number {
        0 => Ok(None),
        n => Signal::new(n).map(Some).ok_or(Errno::EINVAL),
    }
}

/// clone3(2). Bytes beyond the structure that we know must be zero.
pub fn clone3(current: &mut Current, args: UserAddr, size: usize) -> SysResult<i32> {
    if size > abi::PAGE_SIZE {
        return Err(Errno::E2BIG.into());
    }
    if size < CLONE_ARGS_SIZE_VER0 {
        return Err(Errno::EINVAL.into());
    }
    let mut bytes = vec![0u8; size];
    current.memory().read_exact(args.0, &mut bytes)?;
    let known = size_of::<CloneArgs>().min(size);
    if bytes.get(known..).unwrap_or_default().iter().any(|b| *b != 0) {
        return Err(Errno::E2BIG.into());
    }
    let mut args = CloneArgs::new_zeroed();
    args.as_mut_bytes()[..known].copy_from_slice(&bytes[..known]);
    let flags = CloneFlags::from_bits(args.flags).ok_or(Errno::EINVAL)?;
    if flags.contains(CloneFlags::DETACHED) || args.set_tid_size > 0 || args.set_tid != 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags.intersects(CloneFlags::THREAD | CloneFlags::PARENT) && args.exit_signal != 0 {
        return Err(Errno::EINVAL.into());
    }
    // clone3 takes the lowest address of the stack and its size.
    if (args.stack == 0) != (args.stack_size == 0) {
        return Err(Errno::EINVAL.into());
    }
    let signal = i32::try_from(args.exit_signal).map_err(|_| Errno::EINVAL)?;
    let cgroup = if flags.contains(CloneFlags::INTO_CGROUP) {
        let fd = i32::try_from(args.cgroup).map_err(|_| Errno::EINVAL)?;
        Some(current.system().hooks.cgroup_of(&*current.files().get(fd)?).ok_or(Errno::EBADF)?)
    } else {
        None
    };
    current.clone_task(&CloneRequest {
        flags,
        exit_signal: exit_signal(signal)?,
        stack: args.stack.checked_add(args.stack_size).ok_or(Errno::EINVAL)?,
        tls: args.tls,
        parent_tid: args.parent_tid,
        child_tid: args.child_tid,
        pidfd: args.pidfd,
        cgroup,
    })
}

/// wait4(2).
pub fn wait4(
    current: &mut Current,
    pid: i32,
    status: Option<UserRef<i32>>,
    options: u32,
    rusage: Option<UserRef<Rusage>>,
) -> SysResult<i32> {
    let options = WaitOptions::from_bits(options).ok_or(Errno::EINVAL)?;
    if options.intersects(WaitOptions::EXITED | WaitOptions::NOWAIT) {
        return Err(Errno::EINVAL.into());
    }
    let which = WaitFor::from_wait4(pid, current.process().group())?;
    let Some(waited) = current.wait(which, options | WaitOptions::EXITED)? else { return Ok(0) };
    if let Some(status) = status {
        status.write(current, &waited.status.encode())?;
    }
    if let Some(rusage) = rusage {
        rusage.write(current, &waited.usage)?;
    }
    Ok(waited.pid)
}

/// waitid(2).
pub fn waitid(current: &mut Current, kind: u32, id: i32, info: UserAddr, options: u32, rusage: Option<UserRef<Rusage>>) -> SysResult<i32> {
    let options = WaitOptions::from_bits(options).ok_or(Errno::EINVAL)?;
    if !options.intersects(WaitOptions::EXITED | WaitOptions::STOPPED | WaitOptions::CONTINUED) {
        return Err(Errno::EINVAL.into());
    }
    let which = match kind {
        0 => WaitFor::Any,
        1 if id > 0 => WaitFor::Process(id),
        2 if id == 0 => WaitFor::Group(current.process().group()),
        2 if id > 0 => WaitFor::Group(id),
        // P_PIDFD
        3 if id >= 0 => WaitFor::Process(current.pidfd(id)?.pid()),
        _ => return Err(Errno::EINVAL.into()),
    };
    let waited = current.wait(which, options)?;
    if let (Some(waited), Some(rusage)) = (&waited, rusage) {
        rusage.write(current, &waited.usage)?;
    }
    if !info.is_null() {
        write_waitid_info(current, info, waited.as_ref())?;
    }
    Ok(0)
}

/// waitid(2) writes six fields of the structure and leaves the rest as it is.
fn write_waitid_info(current: &Current, info: UserAddr, waited: Option<&Waited>) -> Result<(), Errno> {
    let bytes = waited.map_or([0; 128], |w| {
        let (code, status) = w.status.child_code();
        let fields = SigFields::Child { pid: w.pid, uid: w.uid, status, user_ticks: 0, system_ticks: 0 };
        SigInfo { signal: Signal::SIGCHLD, errno: 0, code, fields }.to_bytes()
    });
    let memory = current.memory();
    memory.write_all(info.0, bytes.get(..12).unwrap_or_default())?;
    memory.write_all(info.0.wrapping_add(16), bytes.get(16..28).unwrap_or_default())
}

/// setpgid(2).
pub fn setpgid(current: &mut Current, pid: i32, group: i32) -> SysResult<()> {
    Ok(current.system().table().tree.setpgid(current.pid(), pid, group)?)
}
/// getpgid(2).
pub fn getpgid(current: &mut Current, pid: i32) -> SysResult<i32> {
    let pid = if pid == 0 { current.pid() } else { pid };
    let table = current.system().table();
    let process = table.tree.process_of(pid).unwrap_or(pid);
    Ok(table.tree.get(process).ok_or(Errno::ESRCH)?.group)
}
/// getpgrp(2).
pub fn getpgrp(current: &mut Current) -> SysResult<i32> {
    Ok(current.process().group())
}
/// setsid(2).
pub fn setsid(current: &mut Current) -> SysResult<i32> {
    Ok(current.system().table().tree.setsid(current.pid())?)
}
/// getsid(2).
pub fn getsid(current: &mut Current, pid: i32) -> SysResult<i32> {
    let pid = if pid == 0 { current.pid() } else { pid };
    let table = current.system().table();
    let process = table.tree.process_of(pid).unwrap_or(pid);
    Ok(table.tree.get(process).ok_or(Errno::ESRCH)?.session)
}

/// set_tid_address(2).
pub fn set_tid_address(current: &mut Current, addr: UserAddr) -> SysResult<i32> {
    current.task().clear_child_tid.store(addr.0, Ordering::Relaxed);
    Ok(current.tid())
}

/// set_robust_list(2).
pub fn set_robust_list(current: &mut Current, head: UserAddr, len: usize) -> SysResult<()> {
    if len as u64 != ROBUST_HEAD_LEN {
        return Err(Errno::EINVAL.into());
    }
    current.task().set_robust_list(RobustList { head: head.0 });
    Ok(())
}

/// get_robust_list(2).
pub fn get_robust_list(current: &mut Current, tid: i32, head: UserRef<u64>, len: UserRef<u64>) -> SysResult<()> {
    let task = if tid == 0 { current.task().clone() } else { current.system().task(tid)? };
    if task.credentials().uid != current.credentials().euid && !current.credentials().has(Capability::SYS_PTRACE) {
        return Err(Errno::EPERM.into());
    }
    len.write(current, &ROBUST_HEAD_LEN)?;
    Ok(head.write(current, &task.robust_list().head)?)
}

/// arch_prctl(2): the segment bases.
pub fn arch_prctl(current: &mut Current, operation: u32, addr: u64) -> SysResult<()> {
    const SET_GS: u32 = 0x1001;
    const SET_FS: u32 = 0x1002;
    const GET_FS: u32 = 0x1003;
    const GET_GS: u32 = 0x1004;
    let gone = |_| Errno::ESRCH;
    let mut regs = current.thread().regs().map_err(gone)?;
    match operation {
        SET_FS | SET_GS if addr >= abi::arch::TASK_SIZE => Err(Errno::EPERM.into()),
        SET_FS => {
            regs.fs_base = addr;
            Ok(current.thread().set_regs(&regs).map_err(gone)?)
        }
        SET_GS => {
            regs.gs_base = addr;
            Ok(current.thread().set_regs(&regs).map_err(gone)?)
        }
        GET_FS => Ok(UserRef::<u64>::at(addr).write(current, &regs.fs_base)?),
        GET_GS => Ok(UserRef::<u64>::at(addr).write(current, &regs.gs_base)?),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// personality(2). 0xffffffff only asks.
pub fn personality(current: &mut Current, persona: u32) -> SysResult<u32> {
    let word = &current.process().personality;
    let old = word.load(Ordering::Relaxed) as u32;
    if persona != u32::MAX {
        word.store(persona as i32, Ordering::Relaxed);
    }
    Ok(old)
}

/// unshare(2), of what can be shared without namespaces.
pub fn unshare(current: &mut Current, flags: u64) -> SysResult<()> {
    let flags = CloneFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    if flags.contains(CloneFlags::NEWUTS) {
        current.credentials().require(Capability::SYS_ADMIN)?;
    }
    if flags.intersects(CloneFlags::NAMESPACES.difference(CloneFlags::NEWNS | CloneFlags::NEWUTS)) {
        current.credentials().require(Capability::SYS_ADMIN)?;
        return Err(Errno::EINVAL.into());
    }
    let known = CloneFlags::NEWNS
        | CloneFlags::NEWUTS
        | CloneFlags::FS
        | CloneFlags::FILES
        | CloneFlags::THREAD
        | CloneFlags::SIGHAND
        | CloneFlags::VM
        | CloneFlags::SYSVSEM;
    if !known.contains(flags) {
        return Err(Errno::EINVAL.into());
    }
    if flags.intersects(CloneFlags::THREAD | CloneFlags::SIGHAND | CloneFlags::VM) && current.process().signals().threads() > 1 {
        return Err(Errno::EINVAL.into());
    }
    let namespace = if flags.contains(CloneFlags::NEWNS) { Some(current.caller().copy_namespace()?) } else { None };
    // Whoever has mounts of its own has a root and a working directory of its own.
    if flags.intersects(CloneFlags::FS | CloneFlags::NEWNS) {
        let fs = current.fs().fork();
        current.set_fs(fs);
    }
    if let Some((namespace, map)) = namespace {
        current.fs().translate(|path| map.translate(path));
        current.set_namespace(namespace);
    }
    if flags.contains(CloneFlags::NEWUTS) {
        let own = current.uts().copy();
        let old = std::mem::replace(&mut *current.task().uts.lock(), own);
        drop(old);
    }
    if flags.contains(CloneFlags::FILES) {
        let files = current.files().fork()?;
        current.set_files(files);
    }
    Ok(())
}

/// kcmp(2): whether two processes share something.
pub fn kcmp(current: &mut Current, first: i32, second: i32, kind: u32, a: u64, b: u64) -> SysResult<i32> {
    let (one, two) = (current.system().task(first)?, current.system().task(second)?);
    let (r1, r2) = (one.resources(), two.resources());
    fn order<T: ?Sized>(a: Option<std::sync::Arc<T>>, b: Option<std::sync::Arc<T>>) -> i32 {
        let at = |x: &Option<std::sync::Arc<T>>| x.as_ref().map_or(0, |x| std::sync::Arc::as_ptr(x).cast::<u8>() as usize);
        // 0 equal, 1 less, 2 greater; addresses of ours are not told beyond that.
        match at(&a).cmp(&at(&b)) {
            std::cmp::Ordering::Equal => 0,
            std::cmp::Ordering::Less => 1,
            std::cmp::Ordering::Greater => 2,
        }
    }
    match kind {
        0 => {
            let file = |r: &task::task::Resources, fd: u64| r.files.as_ref().ok_or(Errno::EBADF)?.get(fd as i32);
            Ok(order(Some(file(&r1, a)?), Some(file(&r2, b)?)))
        }
        1 => Ok(order(r1.memory, r2.memory)),
        2 => Ok(order(r1.files, r2.files)),
        3 => Ok(order(r1.fs, r2.fs)),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// The argument structure of a signal sent by this thread.
pub(crate) fn own_info(current: &Current, signal: Signal, code_of: i32) -> SigInfo {
    SigInfo { code: code_of, ..SigInfo::user(signal, current.pid(), current.credentials().uid) }
}

/// kill(2).
pub fn kill(current: &mut Current, pid: i32, signal: i32) -> SysResult<()> {
    let signal = signal_or_check(signal)?;
    let targets: Vec<_> = {
        let table = current.system().table();
        match pid {
            pid if pid > 0 => {
                let process = table.tree.process_of(pid).unwrap_or(pid);
                vec![table.process(process).cloned().ok_or(Errno::ESRCH)?]
            }
            0 => {
                let group = table.tree.get(current.pid()).map_or(0, |n| n.group);
                table.group(group).cloned().collect()
            }
            -1 => {
                let everybody = table.tree.pids().filter(|p| *p > 1 && *p != current.pid());
                everybody.filter_map(|p| table.process(p).cloned()).collect()
            }
            i32::MIN => return Err(Errno::ESRCH.into()),
            group => table.group(-group).cloned().collect(),
        }
    };
    let mut result = Err(Errno::ESRCH);
    for target in targets {
        let sent = (|| {
            let Some(task) = target.any_thread() else { return Ok(()) };
            task.may_signal(current.task(), signal)?;
            match signal {
                Some(signal) => target.send(task::signal::To::Process, own_info(current, signal, code::SI_USER)),
                None => Ok(()),
            }
        })();
        // One that could be signalled makes it a success.
        if result.is_err() {
            result = sent;
        }
    }
    Ok(result?)
}

pub(crate) fn signal_or_check(signal: i32) -> Result<Option<Signal>, Errno> {
    match signal {
        0 => Ok(None),
        n => Signal::new(n).map(Some).ok_or(Errno::EINVAL),
    }
}

/// tkill(2).
pub fn tkill(current: &mut Current, tid: i32, signal: i32) -> SysResult<()> {
    signal_thread(current, None, tid, signal)
}

/// tgkill(2).
pub fn tgkill(current: &mut Current, pid: i32, tid: i32, signal: i32) -> SysResult<()> {
    if pid <= 0 {
        return Err(Errno::EINVAL.into());
    }
    signal_thread(current, Some(pid), tid, signal)
}

fn signal_thread(current: &Current, pid: Option<i32>, tid: i32, signal: i32) -> SysResult<()> {
    if tid <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let signal = signal_or_check(signal)?;
    let task = current.system().task(tid)?;
    if pid.is_some_and(|pid| task.process().pid() != pid) {
        return Err(Errno::ESRCH.into());
    }
    task.may_signal(current.task(), signal)?;
    if let Some(signal) = signal {
        task.signal(own_info(current, signal, code::SI_TKILL))?;
    }
    Ok(())
}

/// vhangup(2).
pub fn vhangup(current: &mut Current) -> SysResult<()> {
    current.credentials().require(Capability::SYS_TTY_CONFIG)?;
    let session = current.process().session();
    let terminal = current.system().table().terminal(session).cloned();
    if let Some(terminal) = terminal {
        terminal.leader_exits();
    }
    Ok(())
}

/// setns(2): no namespaces are configured.
pub fn setns(_current: &mut Current, _fd: Fd, _kind: i32) -> SysResult<()> {
    Err(Errno::EINVAL.into())
}
