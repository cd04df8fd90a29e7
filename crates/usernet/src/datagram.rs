//! UDP and echo requests: each pair of addresses of the guest's is one socket of the host, for as long as it is used.
//!
//! Always true: a flow that is not used for [`LONE_NS`], or [`ANSWERED_NS`] if it was answered, is forgotten (RFC 4787 REQ-5 asks for two minutes).

use crate::config::{Protocol, Publish};
use crate::core::{Core, Kind, OUT_MAX_BYTES, SECOND, Target};
use crate::frame::{self, Parsed};
use abi::Errno;
use net::packet::Packet;
use net::wire::icmp::{self, IcmpHeader, v4, v6};
use net::wire::udp::{self, UdpHeader};
use net::wire::{MacAddress, protocol};
use platform::{HostDatagram, SocketReady};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

const LONE_NS: u64 = 30 * SECOND;
const ANSWERED_NS: u64 = 180 * SECOND;
/// A question to a name server is answered soon or never.
const DNS_NS: u64 = 10 * SECOND;
const CHECKSUM_AT: usize = 6;
/// Longest datagram there is.
const DATAGRAM_MAX: usize = 65_535;
/// Errors in a row after which a published port is left alone until something new arrives.
const ERRORS_MAX: usize = 64;
/// Most flows that one published port may have.
const PEERS_MAX: usize = 256;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    guest: SocketAddr,
    remote: SocketAddr,
    /// ICMP rather than UDP; the guest's port is the identifier.
    echo: bool,
}

enum Via {
    /// A socket of its own.
    Socket(Box<dyn HostDatagram>),
    /// A published port, and who is at its other end.
    Published(u64, SocketAddr),
}

struct Flow {
    key: Key,
    via: Via,
    expires_ns: u64,
    answered: bool,
    waiting: bool,
}

struct Published {
    socket: Box<dyn HostDatagram>,
    port: u16,
    peers: HashMap<SocketAddr, u64>,
}

/// All flows.
#[derive(Default)]
pub struct Datagrams {
    flows: HashMap<u64, Flow>,
    keys: HashMap<Key, u64>,
    published: HashMap<u64, Published>,
    timers: BTreeSet<(u64, u64)>,
    waiting: VecDeque<u64>,
    buffer: Vec<u8>,
}

impl Datagrams {
    /// Opens a port of the host for the guest. Says where, as the host chose.
    pub fn publish(&mut self, core: &mut Core, publish: &Publish, at: SocketAddr) -> Result<SocketAddr, Errno> {
        debug_assert_eq!(publish.protocol, Protocol::Udp);
        let token = core.token(Kind::Published);
        let socket = core.host.bind_datagram(at, token)?;
        let address = socket.address();
        self.published.insert(token, Published { socket, port: publish.port, peers: HashMap::new() });
        Ok(address)
    }

    /// A UDP datagram of the guest, for somebody beyond the wire.
    pub fn udp_input(&mut self, core: &mut Core, packet: &Packet, parsed: &Parsed) {
        let datagram = parsed.payload(packet);
        let Ok(header) = UdpHeader::parse(datagram) else {
            core.statistics.ignored += 1;
            return;
        };
        let guest = SocketAddr::new(parsed.src, header.src_port);
        let remote = SocketAddr::new(parsed.dst, header.dst_port);
        let data = datagram.get(udp::HEADER_LEN..usize::from(header.len)).unwrap_or_default();
        let key = Key { guest, remote, echo: false };
        if let Err(errno) = self.send(core, key, data) {
            let quoted = packet.bytes().get(frame::IP_AT..).unwrap_or_default();
            core.send_unreachable(guest.ip(), remote.ip(), errno, quoted);
        }
    }

    /// An echo request of the guest, for somebody beyond the wire.
    pub fn echo_input(&mut self, core: &mut Core, packet: &Packet, parsed: &Parsed) {
        let message = parsed.payload(packet);
        let Some(ident) = icmp::echo_ident(message) else { return };
        let key = Key { guest: SocketAddr::new(parsed.src, ident), remote: SocketAddr::new(parsed.dst, 0), echo: true };
        if let Err(errno) = self.send(core, key, message) {
            // Where the host has no ping sockets for us, that is prohibited too.
            let errno = if errno == Errno::ECONNREFUSED { Errno::EACCES } else { errno };
            let quoted = packet.bytes().get(frame::IP_AT..).unwrap_or_default();
            core.send_unreachable(parsed.src, parsed.dst, errno, quoted);
        }
    }

    /// Sends on the guest's behalf. An error is what the guest is to be told.
    fn send(&mut self, core: &mut Core, key: Key, data: &[u8]) -> Result<(), Errno> {
        let id = match self.keys.get(&key) {
            Some(&id) => id,
            None => self.begin(core, key)?,
        };
        let Some(flow) = self.flows.get_mut(&id) else { return Ok(()) };
        flow.expires_ns = core.now_ns + lifetime(core, flow);
        let sent = match &flow.via {
            Via::Socket(socket) => socket.send(data, None),
            Via::Published(token, peer) => match self.published.get(token) {
                Some(published) => published.socket.send(data, Some(*peer)),
                None => Ok(()),
            },
        };
        match sent {
            // A full queue loses datagrams everywhere.
            Ok(()) | Err(Errno::EAGAIN | Errno::ENOBUFS) => Ok(()),
            // What went before was refused; this one is on its way now.
            Err(errno @ (Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH)) => {
                next_resolver(core, &key);
                Err(errno)
            }
            Err(Errno::EMSGSIZE | Errno::EINVAL) => Ok(()),
            Err(_) => Err(Errno::EHOSTUNREACH),
        }
    }

    fn begin(&mut self, core: &mut Core, key: Key) -> Result<u64, Errno> {
        if !core.has_room() || key.guest.port() == 0 && !key.echo {
            core.statistics.failed += 1;
            return Err(Errno::EHOSTUNREACH);
        }
        let token = core.token(Kind::Datagram);
        let (socket, may_be_local) = if key.echo {
            let to = key.remote.ip();
            if !core.config.policy.permits_echo(to, &*core.host) {
                core.statistics.denied += 1;
                return Err(Errno::EACCES);
            }
            (core.host.connect_echo(to, token), core.config.policy.is_allowed(to, None))
        } else {
            let Target::To(to) = core.target(key.remote) else {
                core.statistics.denied += 1;
                return Err(Errno::ECONNREFUSED);
            };
            let may_be_local = core.is_dns(key.remote.ip()) || core.config.policy.is_allowed(to.ip(), Some(to.port()));
            (core.host.connect_datagram(to, token), may_be_local)
        };
        let socket = socket.inspect_err(|_| core.statistics.failed += 1)?;
        if socket.is_local() && !may_be_local {
            core.statistics.denied += 1;
            return Err(Errno::ECONNREFUSED);
        }
        self.add(core, token, key, Via::Socket(socket));
        Ok(token)
    }

    fn add(&mut self, core: &mut Core, id: u64, key: Key, via: Via) {
        let mut flow = Flow { key, via, expires_ns: 0, answered: false, waiting: false };
        flow.expires_ns = core.now_ns + lifetime(core, &flow);
        self.timers.insert((flow.expires_ns, id));
        self.keys.insert(key, id);
        self.flows.insert(id, flow);
        core.flows += 1;
        core.statistics.flows += 1;
    }

    fn remove(&mut self, core: &mut Core, id: u64) {
        let Some(flow) = self.flows.remove(&id) else { return };
        if let Via::Published(token, peer) = flow.via
            && let Some(published) = self.published.get_mut(&token)
        {
            published.peers.remove(&peer);
        }
        self.keys.remove(&flow.key);
        core.flows -= 1;
        if !flow.answered {
            next_resolver(core, &flow.key);
        }
    }

    /// A socket of the host became ready.
    pub fn ready(&mut self, core: &mut Core, token: u64, ready: SocketReady) {
        if !ready.intersects(SocketReady::READ | SocketReady::HANGUP) {
            return;
        }
        if self.flows.contains_key(&token) {
            self.receive(core, token);
        } else if self.published.contains_key(&token) {
            self.receive_published(core, token);
        }
    }

    /// Brings the guest what waits in a socket, as far as there is room.
    fn receive(&mut self, core: &mut Core, id: u64) {
        self.buffer.resize(DATAGRAM_MAX, 0);
        while let Some(flow) = self.flows.get_mut(&id) {
            let Via::Socket(socket) = &flow.via else { return };
            if core.out_bytes >= OUT_MAX_BYTES {
                if !std::mem::replace(&mut flow.waiting, true) {
                    self.waiting.push_back(id);
                }
                return;
            }
            match socket.receive(&mut self.buffer) {
                Ok((len, _)) => {
                    flow.answered = true;
                    flow.expires_ns = core.now_ns + lifetime(core, flow);
                    let data = self.buffer.get(..len).unwrap_or_default();
                    deliver(core, &flow.key, data);
                }
                Err(Errno::EAGAIN) => return,
                Err(errno) => {
                    let key = flow.key;
                    next_resolver(core, &key);
                    core.send_unreachable(key.guest.ip(), key.remote.ip(), errno, &quoted(&key));
                    // A broken socket is not asked again until it tells of something new.
                    if !matches!(errno, Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH) {
                        return;
                    }
                }
            }
        }
    }

    fn receive_published(&mut self, core: &mut Core, token: u64) {
        self.buffer.resize(DATAGRAM_MAX, 0);
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut errors = 0;
        while let Some(published) = self.published.get(&token) {
            if core.out_bytes >= OUT_MAX_BYTES {
                if !self.waiting.contains(&token) {
                    self.waiting.push_back(token);
                }
                break;
            }
            let (len, peer) = match published.socket.receive(&mut buffer) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => break,
                // What came back for datagrams that were sent; a socket that is broken for good says so again and again.
                Err(_) if errors < ERRORS_MAX => {
                    errors += 1;
                    continue;
                }
                Err(_) => break,
            };
            let Some(id) = self.peer_flow(core, token, peer) else { continue };
            let Some(flow) = self.flows.get_mut(&id) else { continue };
            flow.expires_ns = core.now_ns + lifetime(core, flow);
            deliver(core, &flow.key, buffer.get(..len).unwrap_or_default());
        }
        self.buffer = buffer;
    }

    /// The flow of somebody who sends to a published port.
    fn peer_flow(&mut self, core: &mut Core, token: u64, peer: SocketAddr) -> Option<u64> {
        let published = self.published.get(&token)?;
        if let Some(&id) = published.peers.get(&peer) {
            return Some(id);
        }
        if !core.has_room() || published.peers.len() >= PEERS_MAX {
            core.statistics.failed += 1;
            return None;
        }
        let guest = SocketAddr::new(core.guest.unwrap_or(core.config.guest).into(), published.port);
        let key = |remote| Key { guest, remote, echo: false };
        let key = match crate::shown_peer(core, peer) {
            Some(remote) => Some(key(remote)).filter(|key| !self.keys.contains_key(key)),
            None => (0..1000u16)
                .map(|step| key(SocketAddr::new(core.config.gateway.into(), peer.port().wrapping_add(step).max(1))))
                .find(|key| !self.keys.contains_key(key)),
        }?;
        let id = core.token(Kind::Datagram);
        self.add(core, id, key, Via::Published(token, peer));
        self.published.get_mut(&token)?.peers.insert(peer, id);
        Some(id)
    }

    /// Forgets what is over, and goes on where there was no room.
    pub fn serve(&mut self, core: &mut Core) {
        while let Some(&(at, id)) = self.timers.first() {
            if at > core.now_ns {
                break;
            }
            self.timers.pop_first();
            match self.flows.get(&id) {
                Some(flow) if flow.expires_ns > core.now_ns => {
                    self.timers.insert((flow.expires_ns, id));
                }
                _ => self.remove(core, id),
            }
        }
        for _ in 0..self.waiting.len() {
            if core.out_bytes >= OUT_MAX_BYTES {
                break;
            }
            let Some(id) = self.waiting.pop_front() else { break };
            if let Some(flow) = self.flows.get_mut(&id) {
                flow.waiting = false;
            }
            self.ready(core, id, SocketReady::READ);
        }
    }

    /// When to be called again; 0: at once, if there is room for frames.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.waiting.is_empty() { self.timers.first().map(|(at, _)| *at) } else { Some(0) }
    }

    /// Flows.
    pub fn len(&self) -> usize {
        self.flows.len()
    }
}

fn lifetime(core: &Core, flow: &Flow) -> u64 {
    match flow.answered {
        _ if core.is_dns(flow.key.remote.ip()) => DNS_NS,
        true => ANSWERED_NS,
        false => LONE_NS,
    }
}

/// A name server that does not answer is not asked the next time.
fn next_resolver(core: &mut Core, key: &Key) {
    if core.is_dns(key.remote.ip()) {
        core.resolver = core.resolver.wrapping_add(1);
    }
}

/// Gives the guest what arrived in one of its flows.
fn deliver(core: &mut Core, key: &Key, data: &[u8]) {
    if !key.echo {
        return send_udp(core, key.remote, key.guest, None, data);
    }
    let Ok(header) = IcmpHeader::parse(data) else { return };
    let reply = if key.guest.is_ipv4() { v4::ECHO_REPLY } else { v6::ECHO_REPLY };
    if header.kind != reply {
        return;
    }
    // The host's socket has an identifier of its own.
    let rest = header.rest & 0xffff | u32::from(key.guest.port()) << 16;
    let data = data.get(icmp::HEADER_LEN..).unwrap_or_default();
    core.send_icmp(key.remote.ip(), key.guest.ip(), IcmpHeader { kind: reply, code: 0, rest }, data, None);
}

/// Sends the guest a datagram; `mac` where it is not for the station that we know.
pub fn send_udp(core: &mut Core, src: SocketAddr, dst: SocketAddr, mac: Option<MacAddress>, data: &[u8]) {
    let at = frame::headers_len(dst.ip());
    let len = udp::HEADER_LEN + data.len();
    // What the field can't say was never a datagram.
    let Ok(len_field) = u16::try_from(len + at - frame::IP_AT).map(|_| len as u16) else { return };
    let mut packet = Packet::zeroed(at + len);
    let Some(datagram) = packet.bytes_mut().get_mut(at..) else { return };
    UdpHeader { src_port: src.port(), dst_port: dst.port(), len: len_field, checksum: 0 }.emit(datagram);
    datagram[udp::HEADER_LEN..].copy_from_slice(data);
    let before = core.guest_mac;
    core.guest_mac = mac.unwrap_or(before);
    core.send(packet, src.ip(), dst.ip(), protocol::UDP, CHECKSUM_AT, None);
    core.guest_mac = before;
}

/// The start of the guest's datagram, from its IP header on, for an ICMP error.
fn quoted(key: &Key) -> Vec<u8> {
    let at = frame::headers_len(key.remote.ip());
    let mut packet = Packet::zeroed(at + udp::HEADER_LEN);
    let transport = packet.bytes_mut().get_mut(at..).unwrap_or_default();
    let number = match (key.echo, key.remote) {
        (false, _) => {
            UdpHeader { src_port: key.guest.port(), dst_port: key.remote.port(), len: udp::HEADER_LEN as u16, checksum: 0 }.emit(transport);
            protocol::UDP
        }
        (true, SocketAddr::V4(_)) => {
            IcmpHeader { kind: v4::ECHO_REQUEST, code: 0, rest: u32::from(key.guest.port()) << 16 }.emit(transport);
            protocol::ICMP
        }
        (true, SocketAddr::V6(_)) => {
            IcmpHeader { kind: v6::ECHO_REQUEST, code: 0, rest: u32::from(key.guest.port()) << 16 }.emit(transport);
            protocol::ICMPV6
        }
    };
    let nobody = MacAddress::ZERO;
    let route = frame::Route { src_mac: nobody, dst_mac: nobody, src: key.guest.ip(), dst: key.remote.ip() };
    frame::emit_headers(&mut packet, route, number, None);
    packet.bytes().get(frame::IP_AT..).unwrap_or_default().to_vec()
}

/// An address as a flow's end, for whoever needs it.
pub fn end(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}
