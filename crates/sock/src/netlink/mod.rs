//! Netlink sockets, netlink(7): NETLINK_ROUTE, whose requests are answered while they are sent; NETLINK_KOBJECT_UEVENT, which tells of
//! devices; NETLINK_USERSOCK and the other groups, by which processes tell each other.
//!
//! What it is not: other netlink families (EPROTONOSUPPORT, as without their modules).

mod announce;
mod hub;
mod message;
mod route;
mod rule;
mod uevent;

use crate::message::{MessageFlags, ReceiveRequest, Received, SendRequest};
use crate::options::{self, Options};
use crate::patience::Patience;
use crate::protocol::{Call, How, Protocol};
use crate::socket::{Kind, Socket};
use crate::sockets::Sockets;
use abi::raw::net as raw;
use abi::{Errno, SysResult};
pub(crate) use announce::Announcer;
pub(crate) use hub::Hub;
use hub::{Inbox, Sender};
use message::{NLM_F_ACK, NLM_F_REQUEST, NLMSG_MIN_TYPE};
use net::bpf::{Instruction, Program};
use ram::Charge;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use sync::Events;
pub(crate) use uevent::Uevents;
use vfs::{Capability, PollTable, Sink, Source};

/// `NETLINK_ROUTE`.
const ROUTE: i32 = 0;
/// `NETLINK_USERSOCK`: the kernel does not listen.
const USERSOCK: i32 = 2;
/// Bytes charged for a socket.
const SOCKET_COST: usize = 1024;
/// Bytes of `struct sockaddr_nl`.
const ADDRESS_LEN: usize = 12;
/// Bytes that one send may have.
const SEND_MAX: usize = 32 << 10;
const SOL_NETLINK: i32 = raw::SOL_NETLINK as i32;
/// Options 1 to this one are taken.
const LAST_OPTION: i32 = 12;
const NETLINK_ADD_MEMBERSHIP: i32 = 1;
const NETLINK_DROP_MEMBERSHIP: i32 = 2;
const NETLINK_PKTINFO: i32 = 3;
const NETLINK_LIST_MEMBERSHIPS: i32 = 9;
/// Groups that a socket can be in.
const GROUPS: i32 = 64;

/// See the module.
struct NetlinkSocket {
    sockets: &'static Sockets,
    family: i32,
    /// 0: none yet.
    port: AtomicU32,
    /// Whom connect(2) named.
    peer: AtomicU32,
    peer_groups: AtomicU32,
    flags: AtomicU64,
    inbox: Arc<Inbox>,
    _charge: Charge,
}

/// socket(2) of AF_NETLINK.
pub(crate) fn create(sockets: &'static Sockets, kind: Kind, protocol: i32) -> Result<Arc<Socket>, Errno> {
    if !matches!(kind, Kind::Raw | Kind::Datagram) {
        return Err(Errno::ESOCKTNOSUPPORT);
    }
    if !matches!(protocol, ROUTE | USERSOCK | uevent::FAMILY) {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let options = Arc::new(Options::default());
    let socket = NetlinkSocket {
        sockets,
        family: protocol,
        port: AtomicU32::new(0),
        peer: AtomicU32::new(0),
        peer_groups: AtomicU32::new(0),
        flags: AtomicU64::new(0),
        inbox: Inbox::new(sockets.ram, options.clone()),
        _charge: sockets.ram.charge(SOCKET_COST)?,
    };
    Ok(Socket::new(sockets, raw::AF_NETLINK, kind, protocol, options, Arc::new(socket)))
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
        let port = self.sockets.hub.take(self.family, wanted, may_choose, &self.inbox)?;
        match self.port.compare_exchange(0, port, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(port),
            Err(there) => {
                self.sockets.hub.give_back(self.family, port);
                Ok(there)
            }
        }
    }

    /// A message for another process, or for all in a group.
    fn forward(&self, port: u32, groups: u32, request: &SendRequest<'_>, data: Vec<u8>) -> Result<(), Errno> {
        let who = self.sockets.who();
        if self.family != USERSOCK && !who.credentials.has(Capability::NET_ADMIN) {
            return Err(Errno::EPERM);
        }
        // Of several groups Linux takes the first.
        let group = if groups == 0 { 0 } else { groups.trailing_zeros() + 1 };
        let from = Sender { port: self.port()?, group, credentials: request.credentials.unwrap_or_else(|| who.ucred()) };
        if group != 0 {
            self.sockets.hub.multicast(self.family, &data, from);
        }
        if port != 0 { self.sockets.hub.unicast(self.family, port, data, from) } else { Ok(()) }
    }

    /// Messages for the kernel.
    fn ask_kernel(&self, data: &[u8]) -> Result<(), Errno> {
        if self.family == USERSOCK {
            return Err(Errno::ECONNREFUSED);
        }
        let port = self.port()?;
        let who = self.sockets.who();
        let mut rest = data;
        while let Some(request) = message::next(&mut rest) {
            let is_request = request.flags & NLM_F_REQUEST != 0 && request.kind >= NLMSG_MIN_TYPE;
            let answers = if is_request && self.family == ROUTE {
                route::handle(self.sockets.network(), &who.credentials, &request, port)
            } else {
                let mut answers = message::Answers::new(&request, port, 0);
                if is_request {
                    answers.error(&request, Err(Errno::EOPNOTSUPP));
                } else if request.flags & NLM_F_ACK != 0 || request.kind == message::NLMSG_NOOP {
                    answers.error(&request, Ok(()));
                }
                answers
            };
            answers.datagrams.into_iter().for_each(|data| self.inbox.deliver(data, Sender::kernel(0)));
        }
        Ok(())
    }
}

impl Drop for NetlinkSocket {
    fn drop(&mut self) {
        let port = self.port.load(Ordering::Acquire);
        if port != 0 {
            self.sockets.hub.give_back(self.family, port);
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
        // The address has the first 32 groups; membership of the others stays.
        let _ = self.inbox.groups.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(old >> 32 << 32 | u64::from(groups)));
        Ok(())
    }
    fn connect(&self, _: &Call<'_>, address: &[u8], _: Patience) -> SysResult<()> {
        let (peer, groups) = parse(address)?;
        self.port()?;
        self.peer.store(peer, Ordering::Relaxed);
        self.peer_groups.store(groups, Ordering::Relaxed);
        Ok(())
    }
    fn name(&self) -> Result<Vec<u8>, Errno> {
        Ok(format(self.port.load(Ordering::Acquire), self.inbox.groups.load(Ordering::Relaxed) as u32))
    }
    fn peer_name(&self) -> Result<Vec<u8>, Errno> {
        Ok(format(self.peer.load(Ordering::Relaxed), self.peer_groups.load(Ordering::Relaxed)))
    }
    fn shutdown(&self, _: How) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    fn send(&self, _: Option<&Call<'_>>, _: Patience, request: SendRequest<'_>, source: &mut dyn Source) -> SysResult<usize> {
        if request.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let (to, groups) = match request.to {
            Some(to) => parse(to)?,
            None => (self.peer.load(Ordering::Relaxed), self.peer_groups.load(Ordering::Relaxed)),
        };
        let len = source.left();
        if len > SEND_MAX.max(self.inbox.options.send_buffer.load(Ordering::Relaxed)) {
            return Err(Errno::EMSGSIZE.into());
        }
        let mut data = vec![0; len];
        if source.take(&mut data)? < len {
            return Err(Errno::EFAULT.into());
        }
        if to != 0 || groups != 0 {
            self.forward(to, groups, &request, data)?;
        } else {
            self.ask_kernel(&data)?;
        }
        Ok(len)
    }
    fn receive(&self, patience: Patience, request: ReceiveRequest, sink: &mut dyn Sink) -> SysResult<Received> {
        let peek = request.flags.contains(MessageFlags::PEEK);
        let (data, from) = patience.wait(&self.inbox.readers, || {
            let mut queue = self.inbox.queue.lock();
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
            let groups = if from.group == 0 { 0 } else { 1u32.checked_shl(from.group - 1).unwrap_or(0) };
            received.from = Some(format(from.port, groups));
        }
        if self.inbox.options.passes_credentials() {
            received.control.push(crate::message::Control::Credentials(from.credentials));
        }
        if self.flags.load(Ordering::Relaxed) & 1 << NETLINK_PKTINFO != 0 {
            received.control.push(crate::message::Control::Other(SOL_NETLINK, NETLINK_PKTINFO, from.group.to_ne_bytes().to_vec()));
        }
        Ok(received)
    }
    fn poll(&self, table: Option<&mut PollTable>) -> Events {
        if let Some(table) = table {
            table.listen(&self.inbox.readers);
        }
        let queue = self.inbox.queue.lock();
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
            let old = std::mem::replace(&mut *self.inbox.filter.lock(), filter);
            return if is_there || old.is_some() { Ok(()) } else { Err(Errno::ENOENT) };
        }
        if level != SOL_NETLINK || !(1..=LAST_OPTION).contains(&name) {
            return Err(Errno::ENOPROTOOPT);
        }
        if matches!(name, NETLINK_ADD_MEMBERSHIP | NETLINK_DROP_MEMBERSHIP) {
            let group = options::read::<i32>(value)?;
            if !(1..=GROUPS).contains(&group) {
                return Err(Errno::EINVAL);
            }
            // Members are found by their port.
            self.port()?;
            let bit = 1u64 << (group - 1);
            match name {
                NETLINK_ADD_MEMBERSHIP => self.inbox.groups.fetch_or(bit, Ordering::Relaxed),
                _ => self.inbox.groups.fetch_and(!bit, Ordering::Relaxed),
            };
            return Ok(());
        }
        let (bit, on) = (1u64 << name, options::read::<i32>(value)? != 0);
        let _ = self.flags.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(if on { old | bit } else { old & !bit }));
        Ok(())
    }
    fn option(&self, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
        if level != SOL_NETLINK || !(1..=LAST_OPTION).contains(&name) {
            return Err(Errno::ENOPROTOOPT);
        }
        if name == NETLINK_LIST_MEMBERSHIPS {
            return Ok(self.inbox.groups.load(Ordering::Relaxed).to_ne_bytes().to_vec());
        }
        Ok(i32::from(self.flags.load(Ordering::Relaxed) & 1 << name != 0).to_ne_bytes().to_vec())
    }
    fn take_error(&self) -> Option<Errno> {
        std::mem::take(&mut self.inbox.queue.lock().overrun).then_some(Errno::ENOBUFS)
    }
    fn release(&self) {}
}
