//! Descriptors: dup(2), fcntl(2), ioctl(2), pipe(2), flock(2).

use crate::args::UserRef;
use crate::data::{file, nofile};
use abi::raw::general as raw;
use abi::{Errno, Signal, SysResult};
use task::Current;
use vfs::{Fd, IoctlCaller, OnExec, OpenFile, OpenFlags, OwnerKind, SignalOwner};

/// A descriptor of `file` was closed: what close(2) does besides. The process's record locks on the file go, whichever descriptor took them.
pub fn closed(current: &mut Current, file: &OpenFile) -> SysResult<()> {
    crate::lock::drop_process_locks(current, file);
    Ok(file.ops().flush(file)?)
}

/// dup(2).
pub fn dup(current: &mut Current, fd: Fd) -> SysResult<Fd> {
    let file = file(current, fd)?;
    let limit = nofile(current);
    Ok(current.files().add(file, limit, OnExec::Keep)?)
}

/// dup2(2). The same number twice checks that it is open.
pub fn dup2(current: &mut Current, from: Fd, to: Fd) -> SysResult<Fd> {
    if from == to {
        return file(current, from).map(|_| to).map_err(Into::into);
    }
    replace(current, from, to, OnExec::Keep)
}

/// dup3(2).
pub fn dup3(current: &mut Current, from: Fd, to: Fd, flags: u32) -> SysResult<Fd> {
    if flags & !raw::O_CLOEXEC != 0 || from == to {
        return Err(Errno::EINVAL.into());
    }
    replace(current, from, to, if flags == 0 { OnExec::Keep } else { OnExec::Close })
}

fn replace(current: &mut Current, from: Fd, to: Fd, on_exec: OnExec) -> SysResult<Fd> {
    let limit = nofile(current);
    if let Some(old) = current.files().replace(from, to, limit, on_exec)? {
        // dup2(2): errors of the close that it implies are lost.
        let _ = closed(current, &old);
    }
    Ok(to)
}

/// close_range(2).
pub fn close_range(current: &mut Current, first: u32, last: u32, flags: u32) -> SysResult<()> {
    const UNSHARE: u32 = 2;
    const CLOEXEC: u32 = 4;
    if flags & !(UNSHARE | CLOEXEC) != 0 || first > last {
        return Err(Errno::EINVAL.into());
    }
    if flags & UNSHARE != 0 {
        let own = current.files().fork()?;
        current.set_files(own);
    }
    if flags & CLOEXEC != 0 {
        current.files().set_range_cloexec(first, last);
        return Ok(());
    }
    for (_, file) in current.files().remove_range(first, last) {
        // close_range(2) reports no error of a single close.
        let _ = closed(current, &file);
    }
    Ok(())
}

/// fcntl(2).
pub fn fcntl(current: &mut Current, fd: Fd, command: u32, argument: u64) -> SysResult<i64> {
    let file = file(current, fd)?;
    let path_only = file.flags().contains(OpenFlags::PATH);
    let allowed_for_path = [raw::F_DUPFD, raw::F_DUPFD_CLOEXEC, raw::F_GETFD, raw::F_SETFD, raw::F_GETFL];
    if path_only && !allowed_for_path.contains(&command) {
        return Err(Errno::EBADF.into());
    }
    match command {
        raw::F_DUPFD | raw::F_DUPFD_CLOEXEC => {
            let limit = nofile(current);
            if argument >= limit {
                return Err(Errno::EINVAL.into());
            }
            let on_exec = if command == raw::F_DUPFD { OnExec::Keep } else { OnExec::Close };
            Ok(i64::from(current.files().add_from(file, argument as usize, limit, on_exec)?))
        }
        raw::F_GETFD => Ok(i64::from(current.files().on_exec(fd)? == OnExec::Close)),
        raw::F_SETFD => {
            let on_exec = if argument & u64::from(raw::FD_CLOEXEC) != 0 { OnExec::Close } else { OnExec::Keep };
            current.files().set_on_exec(fd, on_exec)?;
            Ok(0)
        }
        raw::F_GETFL => Ok(i64::from((file.flags() | OpenFlags::LARGEFILE).bits())),
        raw::F_SETFL => {
            file.set_flags_by(fd, OpenFlags::from_bits_truncate(argument as u32))?;
            Ok(0)
        }
        raw::F_GETOWN => Ok(file.signal_owner().map_or(0, |o| i64::from(if o.kind == OwnerKind::Group { -o.id } else { o.id }))),
        raw::F_SETOWN => {
            let id = argument as i32;
            let kind = if id < 0 { OwnerKind::Group } else { OwnerKind::Process };
            let credentials = current.credentials();
            let signal = file.signal_owner().and_then(|o| o.signal);
            let owner =
                SignalOwner { kind, id: id.checked_abs().ok_or(Errno::EINVAL)?, uid: credentials.uid, euid: credentials.euid, signal };
            file.set_signal_owner((id != 0).then_some(owner));
            Ok(0)
        }
        raw::F_GETSIG => Ok(file.signal_owner().and_then(|o| o.signal).map_or(0, |s| i64::from(s.number()))),
        raw::F_SETSIG => {
            let signal = match argument {
                0 => None,
                n => Some(i32::try_from(n).ok().and_then(Signal::new).ok_or(Errno::EINVAL)?),
            };
            let credentials = current.credentials();
            let none = SignalOwner { kind: OwnerKind::Process, id: 0, uid: credentials.uid, euid: credentials.euid, signal };
            file.set_signal_owner(Some(SignalOwner { signal, ..file.signal_owner().unwrap_or(none) }));
            Ok(0)
        }
        raw::F_GETLK | raw::F_SETLK | raw::F_SETLKW | raw::F_OFD_GETLK | raw::F_OFD_SETLK | raw::F_OFD_SETLKW => {
            crate::lock::fcntl_lock(current, &file, command, UserRef::<crate::lock::Flock>::at(argument))
        }
        _ => file.ops().fcntl(&file, command, argument),
    }
}

/// ioctl(2). What concerns the descriptor is answered here, the rest by the file.
pub fn ioctl(current: &mut Current, fd: Fd, command: u32, argument: u64) -> SysResult<i64> {
    const FIOCLEX: u32 = 0x5451;
    const FIONCLEX: u32 = 0x5450;
    const FIONBIO: u32 = 0x5421;
    const FIOASYNC: u32 = 0x5452;
    let file = current.files().get_usable(fd)?;
    match command {
        FIOCLEX | FIONCLEX => {
            current.files().set_on_exec(fd, if command == FIOCLEX { OnExec::Close } else { OnExec::Keep })?;
            Ok(0)
        }
        FIONBIO | FIOASYNC => {
            let on = UserRef::<i32>::at(argument).read(current)? != 0;
            let mut flags = file.flags();
            flags.set(if command == FIONBIO { OpenFlags::NONBLOCK } else { OpenFlags::ASYNC }, on);
            file.set_flags_by(fd, flags)?;
            Ok(0)
        }
        _ => {
            let memory = current.memory().clone();
            let credentials = current.credentials().clone();
            file.ioctl(&IoctlCaller { memory: &*memory, credentials: &credentials }, command, argument)
        }
    }
}

/// pipe(2).
pub fn pipe(current: &mut Current, fds: UserRef<[Fd; 2]>) -> SysResult<()> {
    pipe2(current, fds, 0)
}

/// pipe2(2).
pub fn pipe2(current: &mut Current, fds: UserRef<[Fd; 2]>, flags: u32) -> SysResult<()> {
    if flags & !(raw::O_CLOEXEC | raw::O_NONBLOCK | raw::O_DIRECT) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let on_exec = if flags & raw::O_CLOEXEC != 0 { OnExec::Close } else { OnExec::Keep };
    let kept = OpenFlags::from_bits_truncate(flags & (raw::O_NONBLOCK | raw::O_DIRECT));
    let (reader, writer) = current.caller().pipe(kept)?;
    let limit = nofile(current);
    let read_fd = current.files().add(reader, limit, on_exec)?;
    let write_fd = match current.files().add(writer, limit, on_exec) {
        Ok(fd) => fd,
        Err(errno) => {
            // The first descriptor was ours alone; nobody can have used it.
            let _ = current.files().remove(read_fd);
            return Err(errno.into());
        }
    };
    if let Err(errno) = fds.write(current, &[read_fd, write_fd]) {
        let _ = current.files().remove(read_fd);
        let _ = current.files().remove(write_fd);
        return Err(errno.into());
    }
    Ok(())
}
