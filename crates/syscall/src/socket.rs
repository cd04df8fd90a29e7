//! Sockets, socket(2) to recvmmsg(2): addresses, messages and control messages in and out, and the descriptors that come with them.

use crate::args::{UserAddr, UserRef};
use crate::data::{RW_MAX, nofile, read_iovec};
use abi::raw::net as raw;
use abi::{Errno, Resource, Signal, SysError, SysResult, Timespec};
use sock::{Call, Control, How, Identity, MessageFlags, ReceiveRequest, Received, SCM_MAX_FD, SendRequest, Socket, Sockets, Ucred, World};
use std::any::Any;
use std::sync::{Arc, Weak};
use task::{Current, Process, System};
use vfs::{Capability, Fd, OnExec, OpenFile, OpenFlags, UserMemory, UserSink, UserSource};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of `struct sockaddr_storage`: most that an address has.
const ADDRESS_MAX: usize = 128;
/// `/proc/sys/net/core/optmem_max`: most bytes of control messages, and of an option.
const CONTROL_MAX: u64 = 128 << 10;
/// Bytes of `struct cmsghdr`.
const HEADER: usize = 16;
/// Messages of one sendmmsg or recvmmsg.
const MESSAGES_MAX: u32 = 1024;

const SOL_SOCKET: i32 = raw::SOL_SOCKET as i32;
const SCM_RIGHTS: i32 = raw::SCM_RIGHTS as i32;
const SCM_CREDENTIALS: i32 = raw::SCM_CREDENTIALS as i32;

/// `struct msghdr`.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MsgHdr {
    name: u64,
    name_len: i32,
    pad: u32,
    iov: u64,
    iov_len: u64,
    control: u64,
    control_len: u64,
    flags: u32,
    pad_too: u32,
}

/// `struct mmsghdr`.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MmsgHdr {
    header: MsgHdr,
    len: u32,
    pad: u32,
}

fn weak(process: &Arc<Process>) -> Weak<dyn Any + Send + Sync> {
    Arc::downgrade(&(process.clone() as Arc<dyn Any + Send + Sync>))
}

/// SO_PEERPIDFD: a descriptor for the process at the other end. ESRCH when nobody remembers it any more.
fn peer_pidfd(current: &Current, socket: &Socket) -> SysResult<Fd> {
    let process = socket.peer_process()?.upgrade().ok_or(Errno::ESRCH)?;
    let process = process.downcast::<Process>().map_err(|_| Errno::ENODATA)?;
    current.open_pidfd(process, OpenFlags::empty())
}

/// The machine as sockets see it.
struct Machine(&'static System);

impl World for Machine {
    fn identity(&self) -> Identity {
        match task::current_task() {
            Some(task) => Identity {
                pid: task.process().pid(),
                credentials: task.credentials(),
                nofile: task.process().rlimit(Resource::Nofile).soft,
                process: weak(task.process()),
            },
            // A kernel task: nothing is refused to it.
            None => Identity { pid: 0, credentials: Arc::new(vfs::Credentials::root()), nofile: u64::MAX, process: Weak::<()>::new() },
        }
    }
    fn random(&self, bytes: &mut [u8]) {
        self.0.hooks.entropy(bytes);
    }
    fn realtime_offset_ns(&self) -> u64 {
        self.0.realtime_ns().wrapping_sub(sync::monotonic_ns())
    }
}

/// The machine's sockets, and its network.
#[must_use]
pub fn of_machine(system: &'static System) -> &'static Sockets {
    Sockets::of(system.vfs, || Box::new(Machine(system)))
}

fn sockets(current: &Current) -> &'static Sockets {
    of_machine(current.system())
}

/// A descriptor's file, which is a socket. EBADF, ENOTSOCK.
fn file(current: &Current, fd: Fd) -> Result<Arc<OpenFile>, Errno> {
    let file = current.files().get_usable(fd)?;
    Socket::from_file(&file)?;
    Ok(file)
}

fn call<'a>(current: &'a Current, file: &'a OpenFile) -> Call<'a> {
    Call { caller: current.caller(), file }
}

/// Flags that socket's type argument carries, and accept4's.
fn file_flags(flags: u32) -> Result<(OpenFlags, OnExec), Errno> {
    const CLOEXEC: u32 = abi::raw::general::O_CLOEXEC;
    const NONBLOCK: u32 = abi::raw::general::O_NONBLOCK;
    if flags & !(CLOEXEC | NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    Ok((OpenFlags::from_bits_truncate(flags & NONBLOCK), if flags & CLOEXEC != 0 { OnExec::Close } else { OnExec::Keep }))
}

/// Splits socket(2)'s second argument.
fn kind_and_flags(kind: u32) -> Result<(u32, OpenFlags, OnExec), Errno> {
    const TYPE_MASK: u32 = 0xf;
    let (flags, on_exec) = file_flags(kind & !TYPE_MASK)?;
    Ok((kind & TYPE_MASK, flags, on_exec))
}

/// An address of the guest's. EINVAL, EFAULT.
fn read_address(current: &Current, address: u64, len: i32) -> Result<Vec<u8>, Errno> {
    let len = usize::try_from(len).ok().filter(|len| *len <= ADDRESS_MAX).ok_or(Errno::EINVAL)?;
    let mut bytes = vec![0; len];
    if len > 0 {
        current.memory().read_exact(address, &mut bytes)?;
    }
    Ok(bytes)
}

/// The same, refusing one without a family.
fn read_full_address(current: &Current, address: u64, len: i32) -> Result<Vec<u8>, Errno> {
    let bytes = read_address(current, address, len)?;
    if bytes.len() < 2 { Err(Errno::EINVAL) } else { Ok(bytes) }
}

/// `move_addr_to_user`: as much as fits, and how long it is.
fn write_address(current: &Current, bytes: &[u8], address: u64, len: UserRef<i32>) -> Result<(), Errno> {
    let room = usize::try_from(len.read(current)?).map_err(|_| Errno::EINVAL)?;
    current.memory().write_all(address, bytes.get(..room.min(bytes.len())).unwrap_or_default())?;
    len.write(current, &(bytes.len() as i32))
}

/// socket(2).
pub fn socket(current: &mut Current, domain: i32, kind: u32, protocol: i32) -> SysResult<Fd> {
    let (kind, flags, on_exec) = kind_and_flags(kind)?;
    let socket = sockets(current).create(domain, kind, protocol)?;
    let file = Sockets::open(&current.caller(), socket, flags)?;
    let limit = nofile(current);
    Ok(current.files().add(file, limit, on_exec)?)
}

/// socketpair(2).
pub fn socketpair(current: &mut Current, domain: i32, kind: u32, protocol: i32, fds: UserRef<[Fd; 2]>) -> SysResult<()> {
    let (kind, flags, on_exec) = kind_and_flags(kind)?;
    let (a, b) = sockets(current).pair(domain, kind, protocol)?;
    let a = Sockets::open(&current.caller(), a, flags)?;
    let b = Sockets::open(&current.caller(), b, flags)?;
    let limit = nofile(current);
    let first = current.files().reserve(0, limit, on_exec)?;
    let second = current.files().reserve(0, limit, on_exec).inspect_err(|_| current.files().cancel(first))?;
    if let Err(errno) = fds.write(current, &[first, second]) {
        current.files().cancel(first);
        current.files().cancel(second);
        return Err(errno.into());
    }
    current.files().install(first, a);
    current.files().install(second, b);
    Ok(())
}

/// bind(2).
pub fn bind(current: &mut Current, fd: Fd, address: UserAddr, len: i32) -> SysResult<()> {
    let file = file(current, fd)?;
    let address = read_full_address(current, address.0, len)?;
    Socket::from_file(&file)?.bind(&call(current, &file), &address)
}

/// connect(2).
pub fn connect(current: &mut Current, fd: Fd, address: UserAddr, len: i32) -> SysResult<()> {
    let file = file(current, fd)?;
    let address = read_full_address(current, address.0, len)?;
    Socket::from_file(&file)?.connect(&call(current, &file), &address)
}

/// listen(2).
pub fn listen(current: &mut Current, fd: Fd, backlog: i32) -> SysResult<()> {
    Socket::from_file(&*file(current, fd)?)?.listen(backlog)
}

/// accept(2).
pub fn accept(current: &mut Current, fd: Fd, address: UserAddr, len: UserRef<i32>) -> SysResult<Fd> {
    accept4(current, fd, address, len, 0)
}

/// accept4(2). The descriptor's number is taken before the connection, so that none is lost for want of one.
pub fn accept4(current: &mut Current, fd: Fd, address: UserAddr, len: UserRef<i32>, flags: u32) -> SysResult<Fd> {
    let (flags, on_exec) = file_flags(flags)?;
    let listener = file(current, fd)?;
    let limit = nofile(current);
    let new = current.files().reserve(0, limit, on_exec)?;
    let accepted = accept_one(current, &listener, address, len, flags);
    match accepted {
        Ok(file) => {
            current.files().install(new, file);
            Ok(new)
        }
        Err(error) => {
            current.files().cancel(new);
            Err(error)
        }
    }
}

fn accept_one(current: &Current, listener: &OpenFile, address: UserAddr, len: UserRef<i32>, flags: OpenFlags) -> SysResult<Arc<OpenFile>> {
    let socket = Socket::from_file(listener)?.accept(listener)?;
    let file = Sockets::open(&current.caller(), socket.clone(), flags)?;
    if !address.is_null() {
        let peer = socket.peer_name().map_err(|_| Errno::ECONNABORTED)?;
        write_address(current, &peer, address.0, len)?;
    }
    Ok(file)
}

/// getsockname(2).
pub fn getsockname(current: &mut Current, fd: Fd, address: UserAddr, len: UserRef<i32>) -> SysResult<()> {
    let name = Socket::from_file(&*file(current, fd)?)?.name()?;
    Ok(write_address(current, &name, address.0, len)?)
}

/// getpeername(2).
pub fn getpeername(current: &mut Current, fd: Fd, address: UserAddr, len: UserRef<i32>) -> SysResult<()> {
    let name = Socket::from_file(&*file(current, fd)?)?.peer_name()?;
    Ok(write_address(current, &name, address.0, len)?)
}

/// shutdown(2).
pub fn shutdown(current: &mut Current, fd: Fd, how: i32) -> SysResult<()> {
    let file = file(current, fd)?;
    Ok(Socket::from_file(&file)?.shutdown(How::from_raw(how).ok_or(Errno::EINVAL)?)?)
}

/// setsockopt(2).
pub fn setsockopt(current: &mut Current, fd: Fd, level: i32, name: i32, value: UserAddr, len: i32) -> SysResult<()> {
    let file = file(current, fd)?;
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    let mut bytes = vec![0; len.min(CONTROL_MAX as usize)];
    current.memory().read_exact(value.0, &mut bytes)?;
    if level == SOL_SOCKET && name == raw::SO_ATTACH_FILTER as i32 {
        bytes = read_filter(current, &bytes)?;
    }
    let is_admin = current.credentials().has(Capability::NET_ADMIN);
    Ok(Socket::from_file(&file)?.set_option(level, name, &bytes, is_admin)?)
}

/// What a `struct sock_fprog` points to: a classic BPF program, as protocols take it.
pub(crate) fn read_filter(current: &Current, program: &[u8]) -> Result<Vec<u8>, Errno> {
    const PROGRAM_LEN: usize = 16;
    const INSTRUCTION_LEN: usize = 8;
    let whole: &[u8; PROGRAM_LEN] = program.try_into().map_err(|_| Errno::EINVAL)?;
    let count = usize::from(u16::from_ne_bytes([whole[0], whole[1]]));
    if count == 0 || count > net::bpf::MAX_INSTRUCTIONS {
        return Err(Errno::EINVAL);
    }
    let at = whole.get(8..).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes);
    if at == 0 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; count * INSTRUCTION_LEN];
    current.memory().read_exact(at, &mut bytes)?;
    Ok(bytes)
}

/// getsockopt(2). A value that does not fit is cut off, but for SO_PEERGROUPS (ERANGE, with the size that is needed).
pub fn getsockopt(current: &mut Current, fd: Fd, level: i32, name: i32, value: UserAddr, len: UserRef<i32>) -> SysResult<()> {
    let file = file(current, fd)?;
    let room = usize::try_from(len.read(current)?).map_err(|_| Errno::EINVAL)?;
    let socket = Socket::from_file(&file)?;
    let bytes = if level == SOL_SOCKET && name == raw::SO_PEERPIDFD as i32 {
        peer_pidfd(current, socket)?.to_ne_bytes().to_vec()
    } else {
        socket.option(level, name)?
    };
    if level == SOL_SOCKET && name == raw::SO_PEERGROUPS as i32 && room < bytes.len() {
        len.write(current, &(bytes.len() as i32))?;
        return Err(Errno::ERANGE.into());
    }
    let given = bytes.get(..room.min(bytes.len())).unwrap_or_default();
    current.memory().write_all(value.0, given)?;
    Ok(len.write(current, &(given.len() as i32))?)
}

/// Sends; a stream that nobody reads comes with SIGPIPE.
fn send(current: &mut Current, file: &OpenFile, request: SendRequest<'_>, source: &mut UserSource<'_>) -> SysResult<usize> {
    let socket = Socket::from_file(file)?;
    let quiet = request.flags.contains(MessageFlags::NOSIGNAL);
    let result = socket.send(&call(current, file), request, source);
    if result == Err(SysError::Errno(Errno::EPIPE)) && !quiet && file.ops().raises_sigpipe() {
        // A signal to oneself is never refused.
        let _ = current.task().signal(abi::SigInfo::kernel(Signal::SIGPIPE));
    }
    result
}

/// sendto(2), and send(2).
pub fn sendto(
    current: &mut Current,
    fd: Fd,
    buf: UserAddr,
    len: usize,
    flags: u32,
    address: UserAddr,
    address_len: i32,
) -> SysResult<usize> {
    let file = file(current, fd)?;
    let to = if address.is_null() { None } else { Some(read_address(current, address.0, address_len)?) };
    let memory = current.memory().clone();
    let to = to.as_deref().filter(|to| !to.is_empty());
    let request = SendRequest { flags: MessageFlags::from_bits_retain(flags), to, ..SendRequest::default() };
    send(current, &file, request, &mut UserSource::new(&*memory, buf.0, len.min(RW_MAX)))
}

/// recvfrom(2), and recv(2).
pub fn recvfrom(
    current: &mut Current,
    fd: Fd,
    buf: UserAddr,
    len: usize,
    flags: u32,
    address: UserAddr,
    address_len: UserRef<i32>,
) -> SysResult<usize> {
    let file = file(current, fd)?;
    let memory = current.memory().clone();
    let request = ReceiveRequest { flags: MessageFlags::from_bits_retain(flags), wants_address: !address.is_null() };
    // Descriptors that came with the data are lost, as there is no room for them.
    let received = Socket::from_file(&file)?.receive(&file, request, &mut UserSink::new(&*memory, buf.0, len.min(RW_MAX)))?;
    if !address.is_null() {
        write_address(current, received.from.as_deref().unwrap_or_default(), address.0, address_len)?;
    }
    Ok(received.len)
}

/// What a message's control messages ask for.
#[derive(Default)]
struct Sent {
    rights: Vec<Arc<OpenFile>>,
    credentials: Option<Ucred>,
    other: Vec<(i32, i32, Vec<u8>)>,
}

impl Sent {
    /// Goes through the control messages, cmsg(3). EINVAL for one that does not fit or is not known, EBADF.
    fn parse(current: &Current, mut bytes: &[u8]) -> Result<Sent, Errno> {
        let mut sent = Sent::default();
        while let Some((header, _)) = bytes.split_at_checked(HEADER) {
            let ([len_bytes, ..], [.., level, kind]) = (<[[u8; 8]; 2]>::read_from_bytes(header).map_err(|_| Errno::EINVAL)?, {
                <[i32; 4]>::read_from_bytes(header).map_err(|_| Errno::EINVAL)?
            });
            let len = usize::try_from(u64::from_ne_bytes(len_bytes)).map_err(|_| Errno::EINVAL)?;
            let data = bytes.get(HEADER..len).ok_or(Errno::EINVAL)?;
            match (level, kind) {
                (SOL_SOCKET, SCM_RIGHTS) => {
                    for fd in data.chunks_exact(4) {
                        let fd = fd.try_into().map(Fd::from_ne_bytes).map_err(|_| Errno::EINVAL)?;
                        sent.rights.push(current.files().get(fd)?);
                    }
                    if sent.rights.len() > SCM_MAX_FD {
                        return Err(Errno::EINVAL);
                    }
                }
                (SOL_SOCKET, SCM_CREDENTIALS) => sent.credentials = Some(Ucred::read_from_bytes(data).map_err(|_| Errno::EINVAL)?),
                (SOL_SOCKET, _) => return Err(Errno::EINVAL),
                _ => sent.other.push((level, kind, data.to_vec())),
            }
            bytes = bytes.get(len.next_multiple_of(8)..).unwrap_or_default();
        }
        Ok(sent)
    }
}

fn send_message(current: &mut Current, file: &OpenFile, header: &MsgHdr, flags: MessageFlags) -> SysResult<usize> {
    // `copy_msghdr_from_user`: an address that is too long is cut off, and one without length is none.
    let to = match header.name {
        0 => Vec::new(),
        _ if header.name_len < 0 => return Err(Errno::EINVAL.into()),
        name => read_address(current, name, header.name_len.min(ADDRESS_MAX as i32))?,
    };
    if header.iov_len > 1024 {
        return Err(Errno::EMSGSIZE.into());
    }
    let ranges = read_iovec(current, header.iov, header.iov_len as usize)?;
    let sent = if header.control_len == 0 {
        Sent::default()
    } else {
        if header.control_len > CONTROL_MAX {
            return Err(Errno::ENOBUFS.into());
        }
        let mut bytes = vec![0; header.control_len as usize];
        current.memory().read_exact(header.control, &mut bytes)?;
        Sent::parse(current, &bytes)?
    };
    let request = SendRequest {
        flags,
        to: (!to.is_empty()).then_some(&*to),
        credentials: sent.credentials,
        rights: sent.rights,
        control: sent.other,
    };
    let memory = current.memory().clone();
    send(current, file, request, &mut UserSource::vectored(&*memory, ranges))
}

/// sendmsg(2).
pub fn sendmsg(current: &mut Current, fd: Fd, message: UserRef<MsgHdr>, flags: u32) -> SysResult<usize> {
    let file = file(current, fd)?;
    let header = message.read(current)?;
    send_message(current, &file, &header, MessageFlags::from_bits_retain(flags))
}

/// sendmmsg(2). An error counts only when no message was sent.
pub fn sendmmsg(current: &mut Current, fd: Fd, messages: UserRef<MmsgHdr>, count: u32, flags: u32) -> SysResult<u32> {
    let file = file(current, fd)?;
    let flags = MessageFlags::from_bits_retain(flags);
    let mut done = 0;
    for index in 0..count.min(MESSAGES_MAX) {
        let one = messages.nth(index as usize);
        let sent = one.read(current).map_err(SysError::from).and_then(|mut message| {
            message.len = send_message(current, &file, &message.header, flags)? as u32;
            Ok(one.write(current, &message)?)
        });
        match sent {
            Ok(()) => done += 1,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Control messages on their way to a guest, cmsg(3).
struct ControlWriter {
    at: u64,
    room: usize,
    used: usize,
    flags: MessageFlags,
}

impl ControlWriter {
    /// `put_cmsg`: cut off where room ends.
    fn put(&mut self, current: &Current, level: i32, kind: i32, data: &[u8]) -> Result<(), Errno> {
        if self.room < HEADER {
            self.flags |= MessageFlags::CTRUNC;
            return Ok(());
        }
        let mut len = HEADER + data.len();
        if len > self.room {
            self.flags |= MessageFlags::CTRUNC;
            len = self.room;
        }
        let mut bytes = Vec::with_capacity(HEADER + data.len());
        bytes.extend_from_slice(&(len as u64).to_ne_bytes());
        bytes.extend_from_slice([level, kind].as_bytes());
        bytes.extend_from_slice(data);
        bytes.truncate(len);
        current.memory().write_all(self.at, &bytes)?;
        let space = len.next_multiple_of(8).min(self.room);
        self.at += space as u64;
        self.room -= space;
        self.used += space;
        Ok(())
    }

    /// `scm_detach_fds`: as many descriptors as there is room for in the buffer and in the table; the rest is closed.
    fn put_rights(&mut self, current: &Current, files: Vec<Arc<OpenFile>>, on_exec: OnExec) -> Result<(), Errno> {
        let fit = self.room.saturating_sub(HEADER) / 4;
        let (limit, count) = (nofile(current), files.len());
        let mut fds: Vec<Fd> = Vec::new();
        for file in files.into_iter().take(fit) {
            match current.files().add(file, limit, on_exec) {
                Ok(fd) => fds.push(fd),
                Err(_) => break,
            }
        }
        if fds.len() < count {
            self.flags |= MessageFlags::CTRUNC;
        }
        if fds.is_empty() { Ok(()) } else { self.put(current, SOL_SOCKET, SCM_RIGHTS, fds.as_bytes()) }
    }
}

fn receive_message(current: &mut Current, file: &OpenFile, header: &mut MsgHdr, flags: MessageFlags) -> SysResult<usize> {
    if header.name != 0 && header.name_len < 0 {
        return Err(Errno::EINVAL.into());
    }
    if header.iov_len > 1024 {
        return Err(Errno::EMSGSIZE.into());
    }
    let ranges = read_iovec(current, header.iov, header.iov_len as usize)?;
    let memory = current.memory().clone();
    let request = ReceiveRequest { flags, wants_address: header.name != 0 };
    let received: Received = Socket::from_file(file)?.receive(file, request, &mut UserSink::vectored(&*memory, ranges))?;
    if header.name != 0 {
        let from = received.from.as_deref().unwrap_or_default();
        let room = header.name_len as usize;
        current.memory().write_all(header.name, from.get(..room.min(from.len())).unwrap_or_default())?;
        header.name_len = from.len() as i32;
    }
    let on_exec = if flags.contains(MessageFlags::CMSG_CLOEXEC) { OnExec::Close } else { OnExec::Keep };
    let room = if header.control == 0 { 0 } else { header.control_len as usize };
    let mut out = ControlWriter { at: header.control, room, used: 0, flags: received.flags | flags & MessageFlags::CMSG_CLOEXEC };
    for control in received.control {
        match control {
            Control::Credentials(ucred) => out.put(current, SOL_SOCKET, SCM_CREDENTIALS, ucred.as_bytes())?,
            Control::Rights(files) => out.put_rights(current, files, on_exec)?,
            Control::Other(level, kind, data) => out.put(current, level, kind, &data)?,
        }
    }
    header.control_len = out.used as u64;
    header.flags = out.flags.bits();
    Ok(received.len)
}

/// recvmsg(2).
pub fn recvmsg(current: &mut Current, fd: Fd, message: UserRef<MsgHdr>, flags: u32) -> SysResult<usize> {
    let file = file(current, fd)?;
    let mut header = message.read(current)?;
    let len = receive_message(current, &file, &mut header, MessageFlags::from_bits_retain(flags))?;
    message.write(current, &header)?;
    Ok(len)
}

/// recvmmsg(2). The timeout is looked at after each message only, as Linux does (recvmmsg(2) "BUGS").
pub fn recvmmsg(
    current: &mut Current,
    fd: Fd,
    messages: UserRef<MmsgHdr>,
    count: u32,
    flags: u32,
    timeout: Option<UserRef<Timespec>>,
) -> SysResult<u32> {
    let file = file(current, fd)?;
    let mut flags = MessageFlags::from_bits_retain(flags);
    let deadline = match timeout {
        Some(timeout) => Some(sync::monotonic_ns().saturating_add(timeout.read(current)?.to_ns()?)),
        None => None,
    };
    let mut done = 0;
    for index in 0..count.min(MESSAGES_MAX) {
        let one = messages.nth(index as usize);
        let received = one.read(current).map_err(SysError::from).and_then(|mut message| {
            message.len = receive_message(current, &file, &mut message.header, flags.difference(MessageFlags::WAITFORONE))? as u32;
            Ok(one.write(current, &message)?)
        });
        match received {
            Ok(()) => done += 1,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
        if flags.contains(MessageFlags::WAITFORONE) {
            flags |= MessageFlags::DONTWAIT;
        }
        if deadline.is_some_and(|at| sync::monotonic_ns() >= at) {
            break;
        }
    }
    if let (Some(timeout), Some(at)) = (timeout, deadline) {
        timeout.write(current, &Timespec::from_ns(at.saturating_sub(sync::monotonic_ns())))?;
    }
    Ok(done)
}
