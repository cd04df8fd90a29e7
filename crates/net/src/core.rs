//! What every protocol of a stack shares: interfaces, routes, neighbours, counters, settings, the clock's last reading, and the queues between
//! the layers.
//!
//! What it is not: the transports. They are beside it in [`crate::Stack`] and get it lent for each call, so that a packet never walks a cycle:
//! what goes up waits in `inbox`, what goes to packet sockets in `taps`, what a multicast sender hears of itself in `backlog`.
//!
//! Always true: each of those queues is bounded, and so is the list of events.

use core::net::IpAddr;
use std::collections::{BTreeMap, VecDeque};

use crate::config::Config;
use crate::hook::{Filter, Hook, HookContext, Verdict};
use crate::interface::{InterfaceId, Interfaces};
use crate::ip::reassembly::Reassembly;
use crate::neighbour::Neighbours;
use crate::packet::Packet;
use crate::random::Random;
use crate::route::{RouteKind, Routes};
use crate::stats::Statistics;

/// A second in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;
/// A millisecond in nanoseconds.
pub const MILLISECOND: u64 = 1_000_000;
/// Events that wait for whoever listens to them.
const MAX_EVENTS: usize = 4096;
/// Packets between layers.
pub(crate) const MAX_BACKLOG: usize = 1000;

/// A socket of any kind in one stack; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SocketId(pub u64);

/// What a socket can do without blocking, as poll(2) has it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Ready(pub u16);

impl Ready {
    /// Something to read, or a connection to accept, or end of file (`POLLIN`).
    pub const IN: Ready = Ready(0x1);
    /// Urgent data (`POLLPRI`).
    pub const PRI: Ready = Ready(0x2);
    /// Room to write (`POLLOUT`).
    pub const OUT: Ready = Ready(0x4);
    /// An error waits (`POLLERR`).
    pub const ERR: Ready = Ready(0x8);
    /// Both directions are shut (`POLLHUP`).
    pub const HUP: Ready = Ready(0x10);
    /// The peer writes no more (`POLLRDHUP`).
    pub const RDHUP: Ready = Ready(0x2000);

    /// Whether any of `other` is set.
    #[must_use]
    pub fn any(self, other: Ready) -> bool {
        self.0 & other.0 != 0
    }
}

impl core::ops::BitOr for Ready {
    type Output = Ready;
    fn bitor(self, other: Ready) -> Ready {
        Ready(self.0 | other.0)
    }
}

impl core::ops::BitOrAssign for Ready {
    fn bitor_assign(&mut self, other: Ready) {
        self.0 |= other.0;
    }
}

impl core::fmt::Debug for Ready {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let names = [
            (Ready::IN, "IN"),
            (Ready::PRI, "PRI"),
            (Ready::OUT, "OUT"),
            (Ready::ERR, "ERR"),
            (Ready::HUP, "HUP"),
            (Ready::RDHUP, "RDHUP"),
        ];
        let set: Vec<&str> = names.iter().filter(|(bit, _)| self.any(*bit)).map(|(_, name)| *name).collect();
        f.write_str(&set.join("|"))
    }
}

/// A change that rtnetlink listeners hear of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// An interface came, changed or lost its carrier.
    Link(InterfaceId),
    /// An interface went.
    LinkRemoved(InterfaceId),
    /// Addresses of an interface changed.
    Addresses(InterfaceId),
    /// Routes or rules changed.
    Routes,
    /// A neighbour changed.
    Neighbour(InterfaceId, IpAddr),
    /// Someone else has our address.
    Duplicate(InterfaceId, IpAddr),
    /// Events were lost because nobody took them (ENOBUFS on a netlink socket).
    Overrun,
}

/// What the IP layer knows of a packet for this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpInfo {
    /// From where.
    pub src: IpAddr,
    /// To where.
    pub dst: IpAddr,
    /// Which transport.
    pub protocol: u8,
    /// Hops left.
    pub ttl: u8,
    /// Traffic class byte.
    pub tos: u8,
    /// Where the transport header starts, from the IP header.
    pub transport: usize,
    /// Arrived on.
    pub interface: InterfaceId,
    /// Local, broadcast or multicast.
    pub kind: RouteKind,
}

/// An ICMP error about something that this machine sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IcmpError {
    /// Who reports it.
    pub offender: IpAddr,
    /// ICMP type, of the family of `remote`.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// What a socket sees, and whether a connection dies of it at once.
    pub errno: abi::Errno,
    /// It is final rather than a passing state of the network.
    pub hard: bool,
    /// MTU, or pointer.
    pub info: u32,
    /// Who sent the packet: one of our addresses.
    pub local: IpAddr,
    /// To whom it was sent.
    pub remote: IpAddr,
    /// Its transport.
    pub protocol: u8,
    /// What is quoted of its transport header and data.
    pub quoted: Vec<u8>,
    /// Arrived on.
    pub interface: InterfaceId,
}

/// What goes up from the IP layer.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// A whole packet, starting at its IP header.
    Packet(Packet, IpInfo),
    /// An error.
    Error(IcmpError),
}

/// See the module.
pub struct Core {
    /// The clock at the last call that told it.
    pub now_ns: u64,
    /// Settings.
    pub config: Config,
    /// Devices.
    pub interfaces: Interfaces,
    /// Tables and rules.
    pub routes: Routes,
    /// Who is next to us.
    pub neighbours: Neighbours,
    /// Counters.
    pub statistics: Statistics,
    /// Secrets.
    pub random: Random,
    /// Bytes that all sockets hold.
    pub memory_bytes: usize,
    pub(crate) filters: Vec<Box<dyn Filter>>,
    pub(crate) reassembly: Reassembly,
    pub(crate) inbox: VecDeque<Delivery>,
    pub(crate) taps: VecDeque<Packet>,
    /// Packet sockets that want to see frames.
    pub(crate) tap_users: usize,
    pub(crate) backlog: VecDeque<Packet>,
    pub(crate) icmp_tokens: (u64, u64),
    /// When slow timers (addresses, groups, solicitations, routes) are due.
    pub(crate) housekeeping_ns: u64,
    ready: BTreeMap<SocketId, Ready>,
    events: VecDeque<Event>,
    last_socket: u64,
}

impl Core {
    pub(crate) fn new(config: Config, key: [u64; 2]) -> Core {
        let mut neighbours = Neighbours::default();
        neighbours.max = config.max_neighbours;
        Core {
            now_ns: 0,
            config,
            interfaces: Interfaces::default(),
            routes: Routes::new(),
            neighbours,
            statistics: Statistics::default(),
            random: Random::new(key),
            memory_bytes: 0,
            filters: Vec::new(),
            reassembly: Reassembly::default(),
            inbox: VecDeque::new(),
            taps: VecDeque::new(),
            tap_users: 0,
            backlog: VecDeque::new(),
            icmp_tokens: (0, 0),
            housekeeping_ns: u64::MAX,
            ready: BTreeMap::new(),
            events: VecDeque::new(),
            last_socket: 0,
        }
    }

    pub(crate) fn new_socket_id(&mut self) -> SocketId {
        self.last_socket += 1;
        SocketId(self.last_socket)
    }

    /// A socket became ready for something; its waiters will be told.
    pub(crate) fn wake(&mut self, id: SocketId, ready: Ready) {
        *self.ready.entry(id).or_default() |= ready;
    }

    /// Sockets that became ready since the last call.
    pub(crate) fn take_ready(&mut self) -> BTreeMap<SocketId, Ready> {
        core::mem::take(&mut self.ready)
    }

    pub(crate) fn forget_ready(&mut self, id: SocketId) {
        self.ready.remove(&id);
    }

    pub(crate) fn event(&mut self, event: Event) {
        if self.events.back() == Some(&event) {
            return;
        }
        if self.events.len() >= MAX_EVENTS {
            self.events.clear();
            self.events.push_back(Event::Overrun);
        }
        self.events.push_back(event);
    }

    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        self.events.drain(..).collect()
    }

    /// Slow timers have something to do at `at_ns`.
    pub(crate) fn keep_house_at(&mut self, at_ns: u64) {
        self.housekeeping_ns = self.housekeeping_ns.min(at_ns);
    }

    /// Asks every filter about a packet that starts at its IP header.
    pub(crate) fn judge(&mut self, packet: &mut Packet, hook: Hook, output: InterfaceId) -> Verdict {
        if self.filters.is_empty() {
            return Verdict::Accept;
        }
        let context = HookContext { hook, input: packet.interface, output, now_ns: self.now_ns };
        for filter in &mut self.filters {
            if filter.judge(packet, context) == Verdict::Drop {
                return Verdict::Drop;
            }
        }
        Verdict::Accept
    }

    /// Queues something for the layer above; dropped when that is far behind.
    pub(crate) fn deliver(&mut self, delivery: Delivery) {
        if self.inbox.len() < MAX_BACKLOG {
            self.inbox.push_back(delivery);
        }
    }

    /// Bytes that unfinished datagrams hold (`FRAG` in `/proc/net/sockstat`).
    #[must_use]
    pub fn reassembly_bytes(&self) -> usize {
        self.reassembly.bytes()
    }

    /// Whether sockets may hold `bytes` more. Never an exact science: a queue that is within its own bound is not cut for it.
    pub(crate) fn has_memory(&self, bytes: usize) -> bool {
        self.memory_bytes + bytes <= self.config.memory_max
    }
}
