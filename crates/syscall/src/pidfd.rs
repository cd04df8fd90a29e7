//! Descriptors for processes: pidfd_open(2) and its kin; and another process's memory, process_vm_readv(2).

use crate::args::{UserAddr, UserRef};
use abi::siginfo::{SIGINFO_LEN, code};
use abi::{Errno, SigInfo, SysResult};
use std::sync::Arc;
use task::signal::To;
use task::{Current, Task};
use vfs::{Capability, OnExec, OpenFlags, UserMemory};

/// pidfd_open(2). Only of processes: `PIDFD_THREAD` is EINVAL.
pub fn pidfd_open(current: &mut Current, pid: i32, flags: u32) -> SysResult<i32> {
    let flags = OpenFlags::from_bits_retain(flags);
    if !OpenFlags::NONBLOCK.contains(flags) || pid <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let process = current.system().process(pid).map_err(|errno| {
        // A thread that is not its process's first has no descriptor.
        if current.system().task(pid).is_ok() { Errno::EINVAL } else { errno }
    })?;
    current.open_pidfd(process, flags)
}

/// pidfd_send_signal(2).
pub fn pidfd_send_signal(
    current: &mut Current,
    fd: i32,
    signal: i32,
    info: Option<UserRef<[u8; SIGINFO_LEN]>>,
    flags: u32,
) -> SysResult<()> {
    if flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    let process = current.pidfd(fd)?;
    let signal = crate::process::signal_or_check(signal)?;
    let given = match info {
        Some(info) => {
            let bytes = info.read(current)?;
            let info = SigInfo::from_bytes(signal.ok_or(Errno::EINVAL)?, &bytes);
            let number = i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            if signal.is_none_or(|s| s.number() != number) {
                return Err(Errno::EINVAL.into());
            }
            if process.pid() != current.pid() && (info.code >= 0 || info.code == code::SI_TKILL) {
                return Err(Errno::EPERM.into());
            }
            Some(info)
        }
        None => None,
    };
    let task = process.any_thread().ok_or(Errno::ESRCH)?;
    task.may_signal(current.task(), signal)?;
    if let Some(signal) = signal {
        process.send(To::Process, given.unwrap_or_else(|| crate::process::own_info(current, signal, code::SI_USER)))?;
    }
    Ok(())
}

/// Whether the caller may look into another process (`ptrace_may_access`): the same user through and through, or CAP_SYS_PTRACE.
fn may_access(current: &Current, task: &Task) -> Result<(), Errno> {
    if Arc::ptr_eq(task.process(), current.process()) {
        return Ok(());
    }
    let (own, other) = (current.credentials(), task.credentials());
    let same = [other.uid, other.euid, other.suid].iter().all(|id| *id == own.fsuid)
        && [other.gid, other.egid, other.sgid].iter().all(|id| *id == own.fsgid)
        && task.process().dumpable.load(std::sync::atomic::Ordering::Relaxed) == 1;
    if same { Ok(()) } else { own.require(Capability::SYS_PTRACE) }
}

/// pidfd_getfd(2).
pub fn pidfd_getfd(current: &mut Current, fd: i32, target: i32, flags: u32) -> SysResult<i32> {
    if flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    let process = current.pidfd(fd)?;
    let task = process.any_thread().ok_or(Errno::ESRCH)?;
    may_access(current, &task)?;
    let file = task.resources().files.ok_or(Errno::ESRCH)?.get(target)?;
    let limit = current.process().rlimit(abi::Resource::Nofile).soft;
    Ok(current.files().add(file, limit, OnExec::Close)?)
}

/// Pieces at most (`UIO_MAXIOV`).
const IOV_MAX: usize = 1024;

fn pieces(current: &Current, iov: UserAddr, count: usize) -> Result<Vec<(u64, usize)>, Errno> {
    if count > IOV_MAX {
        return Err(Errno::EINVAL);
    }
    let list = UserRef::<[u64; 2]>::at(iov.0).read_many(current, count)?;
    Ok(list.into_iter().map(|[addr, len]| (addr, len as usize)).filter(|(_, len)| *len > 0).collect())
}

/// Copies piece by piece, through a buffer; as far as it goes.
fn copy(from: &dyn UserMemory, from_list: &[(u64, usize)], to: &dyn UserMemory, to_list: &[(u64, usize)]) -> Result<usize, Errno> {
    let (mut from_list, mut to_list) = (from_list.iter().copied(), to_list.iter().copied());
    let (mut source, mut target) = (from_list.next(), to_list.next());
    let mut buffer = vec![0u8; 64 << 10];
    let mut done = 0;
    while let (Some((from_addr, from_len)), Some((to_addr, to_len))) = (source, target) {
        let want = from_len.min(to_len).min(buffer.len());
        let part = buffer.get_mut(..want).unwrap_or_default();
        let moved = from.read(from_addr, part).and_then(|got| to.write(to_addr, part.get(..got).unwrap_or_default()));
        let moved = match moved {
            Ok(n) => n,
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => 0,
        };
        done += moved;
        if moved < want || sync::current().is_interrupted() {
            break;
        }
        let rest = |(addr, len): (u64, usize)| (len > moved).then(|| (addr.wrapping_add(moved as u64), len - moved));
        source = rest((from_addr, from_len)).or_else(|| from_list.next());
        target = rest((to_addr, to_len)).or_else(|| to_list.next());
    }
    Ok(done)
}

fn remote(current: &Current, pid: i32, flags: u64) -> Result<Arc<mm::AddressSpace>, Errno> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let task = current.system().task(pid)?;
    may_access(current, &task)?;
    task.memory()
}

/// process_vm_readv(2).
pub fn process_vm_readv(
    current: &mut Current,
    pid: i32,
    local: UserAddr,
    local_count: usize,
    remote_iov: UserAddr,
    remote_count: usize,
    flags: u64,
) -> SysResult<usize> {
    let (own, theirs) = (pieces(current, local, local_count)?, pieces(current, remote_iov, remote_count)?);
    let memory = remote(current, pid, flags)?;
    Ok(copy(&*memory, &theirs, &**current.memory(), &own)?)
}

/// process_vm_writev(2).
pub fn process_vm_writev(
    current: &mut Current,
    pid: i32,
    local: UserAddr,
    local_count: usize,
    remote_iov: UserAddr,
    remote_count: usize,
    flags: u64,
) -> SysResult<usize> {
    let (own, theirs) = (pieces(current, local, local_count)?, pieces(current, remote_iov, remote_count)?);
    let memory = remote(current, pid, flags)?;
    Ok(copy(&**current.memory(), &own, &*memory, &theirs)?)
}
