//! Netlink sockets of NETLINK_ROUTE and NETLINK_KOBJECT_UEVENT, netlink(7): requests are answered while they are sent; events of devices, and
//! what processes send each other (udevd does), go to ports and groups.
//!
//! What it is not: other netlink families (EPROTONOSUPPORT, as without their modules), or messages between processes over NETLINK_ROUTE.
//!
//! Always true: what waits to be read is charged and bounded by the receive buffer; what is beyond that is ENOBUFS for the reader.

mod message;
mod route;
mod uevent;

use crate::message::{MessageFlags, ReceiveRequest, Received, SendRequest};
use crate::options::{self, Options};
use crate::patience::Patience;
use crate::protocol::{Call, How, Protocol};
use crate::socket::{Kind, Socket};
use crate::sockets::Sockets;
use abi::raw::net as raw;
use abi::{Errno, SysResult};
use message::{NLM_F_ACK, NLM_F_REQUEST, NLMSG_MIN_TYPE};
use net::bpf::{Ancillary, Instruction, Program};
use ram::Charge;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use sync::{Events, SpinLock, WaitQueue};
use vfs::{PollTable, Sink, Source};

/// `NETLINK_ROUTE`.
const ROUTE: i32 = 0;
/// `NETLINK_KOBJECT_UEVENT`.
const UEVENT: i32 = 15;
/// Bytes charged for a socket.
const SOCKET_COST: usize = 1024;
/// Bytes of `struct sockaddr_nl`.
const ADDRESS_LEN: usize = 12;
/// Bytes that one send may have.
const SEND_MAX: usize = 32 << 10;
const SOL_NETLINK: i32 = raw::SOL_NETLINK as i32;
/// Options 1 to this one are taken; membership of NETLINK_ROUTE's groups brings no events yet.
const LAST_OPTION: i32 = 12;
const ADD_MEMBERSHIP: i32 = 1;
const DROP_MEMBERSHIP: i32 = 2;

pub(crate) use uevent::Uevents;

/// Ports in use: each socket that sends or is bound has one.
#[derive(Default)]
pub(crate) struct Ports(SpinLock<HashSet<u32>>);

impl Ports {
    /// Takes `wanted`, or any if it is 0 or (for no choice of the caller's) taken. EADDRINUSE.
    fn take(&self, wanted: u32, may_choose: bool) -> Result<u32, Errno> {
        let mut ports = self.0.lock();
        if wanted != 0 && ports.insert(wanted) {
            return Ok(wanted);
        }
        if !may_choose {
            return Err(Errno::EADDRINUSE);
        }
        // `netlink_autobind` goes down from -4097.
        (1..).map(|n| 0xffff_efff_u32.wrapping_sub(n)).find(|port| ports.insert(*port)).ok_or(Errno::EADDRINUSE)
    }
    fn give_back(&self, port: u32) {
        self.0.lock().remove(&port);
    }
}

struct Waiting {
    data: Vec<u8>,
    from: Sender,
    _charge: Charge,
}

/// Who sent a message, and to which group.
#[derive(Clone, Copy)]
struct Sender {
    port: u32,
    group: u32,
    who: crate::message::Ucred,
}

impl Sender {
    const KERNEL: Sender = Sender { port: 0, group: 0, who: crate::message::Ucred { pid: 0, uid: 0, gid: 0 } };
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    overrun: bool,
}

/// See the module.
struct NetlinkSocket {
    sockets: &'static Sockets,
    protocol: i32,
    options: Arc<Options>,
    /// 0: none yet.
    port: AtomicU32,
    /// Whom connect(2) named.
    peer: AtomicU32,
    groups: AtomicU32,
    flags: AtomicU64,
    queue: SpinLock<Queue>,
    readers: Arc<WaitQueue>,
    /// SO_ATTACH_FILTER.
    filter: SpinLock<Option<Arc<Program>>>,
    _charge: Charge,
}

/// socket(2) of AF_NETLINK.
pub(crate) fn create(sockets: &'static Sockets, kind: Kind, protocol: i32) -> Result<Arc<Socket>, Errno> {
    if !matches!(kind, Kind::Raw | Kind::Datagram) {
        return Err(Errno::ESOCKTNOSUPPORT);
    }
    if !matches!(protocol, ROUTE | UEVENT) {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let options = Arc::new(Options::default());
    let socket = Arc::new(NetlinkSocket {
        sockets,
        protocol,
        options: options.clone(),
        port: AtomicU32::new(0),
        peer: AtomicU32::new(0),
        groups: AtomicU32::new(0),
        flags: AtomicU64::new(0),
        queue: SpinLock::default(),
        readers: Arc::default(),
        filter: SpinLock::default(),
        _charge: sockets.ram.charge(SOCKET_COST)?,
    });
    if protocol == UEVENT {
        sockets.uevents.listen(&socket);
    }
    Ok(Socket::new(sockets, raw::AF_NETLINK, kind, protocol, options, socket))
}

/// Port and groups of a `struct sockaddr_nl`. EINVAL.
fn parse(address: &[u8]) -> Result<(u32, u32), Errno> {
    let family = address.get(..2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    if address.len() < ADDRESS_LEN || family != Some(raw::AF_NETLINK as u16) {
        return Err(Errno::EINVAL);
    }
    Ok((message::u32_at(address, 4), message::u32_at(address, 8)))
}

fn format(port: u32, groups: u32) -> Vec<u8> {
    let mut bytes = (raw::AF_NETLINK as u16).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&port.to_ne_bytes());
    bytes.extend_from_slice(&groups.to_ne_bytes());
    bytes
}

impl NetlinkSocket {
    /// The socket's port; one is taken if it has none: the process's number if that is free.
    fn port(&self) -> Result<u32, Errno> {
        match self.port.load(Ordering::Acquire) {
            0 => self.set_port(self.sockets.who().pid as u32, true),
            port => Ok(port),
        }
    }
    fn set_port(&self, wanted: u32, may_choose: bool) -> Result<u32, Errno> {
        let port = self.ports().take(wanted, may_choose)?;
        match self.port.compare_exchange(0, port, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(port),
            Err(there) => {
                self.ports().give_back(port);
                Ok(there)
            }
        }
    }
    /// Each family numbers its own.
    fn ports(&self) -> &Ports {
        if self.protocol == UEVENT { &self.sockets.uevents.ports } else { &self.sockets.ports }
    }
    fn answer(&self, data: Vec<u8>) {
        self.deliver(data, Sender::KERNEL);
    }
    fn deliver(&self, mut data: Vec<u8>, from: Sender) {
        let filter = self.filter.lock().clone();
        if let Some(filter) = filter {
            match filter.run(&data, &Ancillary::default()) {
                0 => return,
                keep => data.truncate(keep as usize),
            }
        }
        let charge = self.sockets.ram.charge(data.capacity() + size_of::<Waiting>() * 2);
        {
            let mut queue = self.queue.lock();
            let full = queue.bytes >= self.options.receive_buffer.load(Ordering::Relaxed);
            match charge {
                Ok(_charge) if !full => {
                    queue.bytes += data.len();
                    queue.waiting.push_back(Waiting { data, from, _charge });
                }
                _ => queue.overrun = true,
            }
        }
        self.readers.notify(Events::IN | Events::RDNORM);
    }
}

impl Drop for NetlinkSocket {
    fn drop(&mut self) {
        let port = self.port.load(Ordering::Acquire);
        if port != 0 {
            self.ports().give_back(port);
        }
    }
}

impl Protocol for NetlinkSocket {
    fn bind(&self, _: &Call<'_>, address: &[u8]) -> SysResult<()> {
        let (port, groups) = parse(address)?;
        let own = self.port.load(Ordering::Acquire);
        if own != 0 && port != own {
            return Err(Errno::EINVAL.into());
        }
        if own == 0 {
            let wanted = if port == 0 { self.sockets.who().pid as u32 } else { port };
            self.set_port(wanted, port == 0)?;
        }
        self.groups.store(groups, Ordering::Relaxed);
        Ok(())
    }
    fn connect(&self, _: &Call<'_>, address: &[u8], _: Patience) -> SysResult<()> {
        let (peer, _) = parse(address)?;
        self.port()?;
        self.peer.store(peer, Ordering::Relaxed);
        Ok(())
    }
    fn name(&self) -> Result<Vec<u8>, Errno> {
        Ok(format(self.port.load(Ordering::Acquire), self.groups.load(Ordering::Relaxed)))
    }
    fn peer_name(&self) -> Result<Vec<u8>, Errno> {
        Ok(format(self.peer.load(Ordering::Relaxed), 0))
    }
    fn shutdown(&self, _: How) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    fn send(&self, _: Option<&Call<'_>>, _: Patience, request: SendRequest<'_>, source: &mut dyn Source) -> SysResult<usize> {
        if request.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let (to, group) = match request.to {
            Some(to) => parse(to)?,
            None => (self.peer.load(Ordering::Relaxed), 0),
        };
        if self.protocol == UEVENT {
            return self.send_uevent(to, group, source);
        }
        if to != 0 {
            // Only the kernel listens.
            return Err(Errno::ECONNREFUSED.into());
        }
        let len = source.left();
        if len > SEND_MAX {
            return Err(Errno::EMSGSIZE.into());
        }
        let port = self.port()?;
        let mut data = vec![0; len];
        if source.take(&mut data)? < len {
            return Err(Errno::EFAULT.into());
        }
        let who = self.sockets.who();
        let mut rest = &data[..];
        while let Some(request) = message::next(&mut rest) {
            let is_request = request.flags & NLM_F_REQUEST != 0 && request.kind >= NLMSG_MIN_TYPE;
            let answers = if is_request {
                route::handle(self.sockets.network(), &who.credentials, &request, port)
            } else {
                let mut answers = message::Answers::new(&request, port, 0);
                if request.flags & NLM_F_ACK != 0 || request.kind == message::NLMSG_NOOP {
                    answers.error(&request, Ok(()));
                }
                answers
            };
            answers.datagrams.into_iter().for_each(|data| self.answer(data));
        }
        Ok(len)
    }
    fn receive(&self, patience: Patience, request: ReceiveRequest, sink: &mut dyn Sink) -> SysResult<Received> {
        let peek = request.flags.contains(MessageFlags::PEEK);
        let (data, from) = patience.wait(&self.readers, || {
            let mut queue = self.queue.lock();
            if std::mem::take(&mut queue.overrun) {
                return Some(Err(Errno::ENOBUFS));
            }
            if peek {
                return queue.waiting.front().map(|first| Ok((first.data.clone(), first.from)));
            }
            let first = queue.waiting.pop_front()?;
            queue.bytes -= first.data.len();
            Some(Ok((first.data, first.from)))
        })??;
        let want = data.len().min(sink.room());
        if sink.put(data.get(..want).unwrap_or_default())? < want {
            return Err(Errno::EFAULT.into());
        }
        let mut received = Received { len: want, ..Received::default() };
        if want < data.len() {
            received.flags |= MessageFlags::TRUNC;
            if request.flags.contains(MessageFlags::TRUNC) {
                received.len = data.len();
            }
        }
        if request.wants_address {
            received.from = Some(format(from.port, from.group));
        }
        if self.options.passes_credentials() {
            received.control.push(crate::message::Control::Credentials(from.who));
        }
        Ok(received)
    }
    fn poll(&self, table: Option<&mut PollTable>) -> Events {
        if let Some(table) = table {
            table.listen(&self.readers);
        }
        let queue = self.queue.lock();
        let mut events = Events::OUT | Events::WRNORM | Events::WRBAND;
        if !queue.waiting.is_empty() {
            events |= Events::IN | Events::RDNORM;
        }
        if queue.overrun {
            events |= Events::ERR;
        }
        events
    }
    fn set_option(&self, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        if level == raw::SOL_SOCKET as i32 && matches!(name as u32, raw::SO_ATTACH_FILTER | raw::SO_DETACH_FILTER) {
            let filter = match name as u32 {
                raw::SO_ATTACH_FILTER => Some(Arc::new(Program::new(Instruction::parse_all(value))?)),
                _ => None,
            };
            let is_there = filter.is_some();
            let old = std::mem::replace(&mut *self.filter.lock(), filter);
            return if is_there || old.is_some() { Ok(()) } else { Err(Errno::ENOENT) };
        }
        if level != SOL_NETLINK || !(1..=LAST_OPTION).contains(&name) {
            return Err(Errno::ENOPROTOOPT);
        }
        let number = options::read::<i32>(value)?;
        if matches!(name, ADD_MEMBERSHIP | DROP_MEMBERSHIP) {
            let group = number.checked_sub(1).filter(|n| (0..32).contains(n)).ok_or(Errno::EINVAL)?;
            if name == ADD_MEMBERSHIP {
                self.groups.fetch_or(1 << group, Ordering::Relaxed);
            } else {
                self.groups.fetch_and(!(1 << group), Ordering::Relaxed);
            }
            return Ok(());
        }
        let (bit, on) = (1u64 << name, number != 0);
        let _ = self.flags.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(if on { old | bit } else { old & !bit }));
        Ok(())
    }
    fn option(&self, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
        if level != SOL_NETLINK || !(1..=LAST_OPTION).contains(&name) {
            return Err(Errno::ENOPROTOOPT);
        }
        Ok(i32::from(self.flags.load(Ordering::Relaxed) & 1 << name != 0).to_ne_bytes().to_vec())
    }
    fn take_error(&self) -> Option<Errno> {
        std::mem::take(&mut self.queue.lock().overrun).then_some(Errno::ENOBUFS)
    }
    fn release(&self) {}
}
