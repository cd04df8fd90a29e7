//! TCP: the guest's segments as reads and writes of the host's sockets, with no second TCP in between.
//!
//! What the guest may send is what the host's socket takes; what is acknowledged to it is what the host's peer acknowledged. What goes to the guest
//! is looked at in the host's socket (MSG_PEEK) and taken away when the guest acknowledges it, so nothing is kept here to be sent again. Only the
//! part of a segment that the host's socket did not take is held, and the window then stands still.
//!
//! Not here: congestion control, timestamps, selective acknowledgement. Between the guest and us nothing is lost but by the guest's own
//! choice; beyond the host's sockets the host's TCP does all that.
//!
//! Always true: each connection holds at most [`WINDOW`] bytes, all together [`crate::core::PENDING_MAX_BYTES`]; there are at most
//! `flows_max` of them.

mod flow;

use crate::config::Publish;
use crate::core::{Core, Kind, OUT_MAX_BYTES, Target};
use crate::frame::{self, Parsed};
use abi::Errno;
use flow::{Flow, Outcome};
use net::packet::Packet;
use net::tcp::seq::Seq;
use net::wire::protocol;
use net::wire::tcp::{Flags, TcpHeader};
use platform::{HostListener, SocketReady};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

/// What the guest may send beyond what the host's socket has taken.
pub const WINDOW: u32 = 256 << 10;

/// A connection as the guest sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    pub guest: SocketAddr,
    pub remote: SocketAddr,
}

/// A listening socket whose connections go to the guest.
struct Published {
    listener: Box<dyn HostListener>,
    port: u16,
}

/// All connections.
#[derive(Default)]
pub struct Tcp {
    flows: HashMap<u64, Flow>,
    keys: HashMap<Key, u64>,
    published: HashMap<u64, Published>,
    /// Flows to be served at the end of this round.
    dirty: Vec<u64>,
    /// Flows with something to read for which there was no room.
    waiting: VecDeque<u64>,
    timers: BTreeSet<(u64, u64)>,
}

impl Tcp {
    /// Listens on the host for the guest. Says where, as the host chose.
    pub fn publish(&mut self, core: &mut Core, publish: &Publish, at: SocketAddr) -> Result<SocketAddr, Errno> {
        let token = core.token(Kind::Published);
        let listener = core.host.listen(at, token)?;
        let address = listener.address();
        self.published.insert(token, Published { listener, port: publish.port });
        Ok(address)
    }

    /// A segment of the guest.
    pub fn input(&mut self, core: &mut Core, packet: Packet, parsed: &Parsed) {
        let Ok((header, data_at)) = TcpHeader::parse(parsed.payload(&packet)) else {
            core.statistics.ignored += 1;
            return;
        };
        let key = Key { guest: SocketAddr::new(parsed.src, header.src_port), remote: SocketAddr::new(parsed.dst, header.dst_port) };
        let data = parsed.at + data_at..parsed.end;
        match self.keys.get(&key) {
            Some(&id) => {
                if let Some(flow) = self.flows.get_mut(&id) {
                    flow.input(core, &header, packet, data);
                    self.touch(id);
                }
            }
            None if header.flags.has(Flags::RST) => {}
            None if header.flags.has(Flags::SYN) && !header.flags.has(Flags::ACK) => self.begin(core, key, &header, &packet),
            None => refuse(core, key, &header, data.len()),
        }
    }

    /// A guest's SYN.
    fn begin(&mut self, core: &mut Core, key: Key, syn: &TcpHeader, packet: &Packet) {
        let ports = key.guest.port() != 0 && key.remote.port() != 0;
        let Target::To(to) = (if ports { core.target(key.remote) } else { Target::Denied }) else {
            core.statistics.denied += 1;
            return refuse(core, key, syn, 0);
        };
        if !core.has_room() {
            core.statistics.failed += 1;
            return refuse(core, key, syn, 0);
        }
        let token = core.token(Kind::Tcp);
        match core.host.connect(to, token) {
            Ok(stream) => {
                let flow = Flow::from_guest(core, key, syn, stream);
                self.add(core, token, flow);
            }
            Err(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::ENETDOWN | Errno::EADDRNOTAVAIL) => {
                core.statistics.failed += 1;
                let quoted = packet.bytes().get(frame::IP_AT..).unwrap_or_default();
                core.send_unreachable(key.guest.ip(), key.remote.ip(), Errno::ENETUNREACH, quoted);
            }
            Err(_) => {
                core.statistics.failed += 1;
                refuse(core, key, syn, 0);
            }
        }
    }

    fn add(&mut self, core: &mut Core, id: u64, flow: Flow) {
        core.flows += 1;
        core.statistics.flows += 1;
        self.keys.insert(flow.key, id);
        self.flows.insert(id, flow);
        self.touch(id);
    }

    fn touch(&mut self, id: u64) {
        if let Some(flow) = self.flows.get_mut(&id)
            && !std::mem::replace(&mut flow.dirty, true)
        {
            self.dirty.push(id);
        }
    }

    /// A socket of the host became ready.
    pub fn ready(&mut self, core: &mut Core, token: u64, ready: SocketReady) {
        if let Some(flow) = self.flows.get_mut(&token) {
            flow.ready(ready);
            self.touch(token);
        } else if self.published.contains_key(&token) {
            self.accept(core, token);
        }
    }

    /// Takes all connections that wait at a published port.
    fn accept(&mut self, core: &mut Core, listener: u64) {
        while let Some(published) = self.published.get(&listener) {
            let token = core.token(Kind::Tcp);
            let port = published.port;
            let (stream, peer) = match published.listener.accept(token) {
                Ok(accepted) => accepted,
                // A connection that went away before it was taken; there may be more.
                Err(Errno::ECONNABORTED) => continue,
                Err(_) => return,
            };
            let guest = SocketAddr::new(core.guest.unwrap_or(core.config.guest).into(), port);
            let key = self.shown(core, guest, peer);
            let Some(key) = key.filter(|_| core.has_room()) else {
                core.statistics.failed += 1;
                stream.reset();
                continue;
            };
            let flow = Flow::from_host(core, key, stream);
            self.add(core, token, flow);
        }
    }

    /// How the guest is to see a peer: as it is, or behind the gateway if its own address means nothing in the guest's network.
    fn shown(&self, core: &Core, guest: SocketAddr, peer: SocketAddr) -> Option<Key> {
        let is_free = |key: &Key| !self.keys.contains_key(key);
        if let Some(remote) = crate::shown_peer(core, peer) {
            return Some(Key { guest, remote }).filter(is_free);
        }
        let gateway = IpAddr::V4(core.config.gateway);
        (0..1000u16)
            .map(|step| peer.port().wrapping_add(step).max(1))
            .map(|port| Key { guest, remote: SocketAddr::new(gateway, port) })
            .find(is_free)
    }

    /// Serves everything that was touched, and what the time has come for.
    pub fn serve(&mut self, core: &mut Core) {
        while let Some(&(at, id)) = self.timers.first() {
            if at > core.now_ns {
                break;
            }
            self.timers.pop_first();
            if let Some(flow) = self.flows.get_mut(&id) {
                flow.deadline = None;
                flow.expired(core);
                self.touch(id);
            }
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            self.serve_one(core, id);
        }
        self.dirty = dirty;
        // As many rounds as there is room for: one packet for each connection in turn.
        for _ in 0..self.waiting.len() {
            if core.out_bytes >= OUT_MAX_BYTES {
                break;
            }
            let Some(id) = self.waiting.pop_front() else { break };
            if let Some(flow) = self.flows.get_mut(&id) {
                flow.waiting = false;
            }
            self.serve_one(core, id);
        }
    }

    fn serve_one(&mut self, core: &mut Core, id: u64) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.dirty = false;
        let outcome = flow.serve(core);
        if outcome == Outcome::Over {
            self.remove(core, id);
            return;
        }
        if flow.wants_to_read() && !std::mem::replace(&mut flow.waiting, true) {
            self.waiting.push_back(id);
        }
        let deadline = flow.next_deadline(core.now_ns);
        if deadline != flow.deadline {
            if let Some(at) = flow.deadline {
                self.timers.remove(&(at, id));
            }
            if let Some(at) = deadline {
                self.timers.insert((at, id));
            }
            flow.deadline = deadline;
        }
    }

    fn remove(&mut self, core: &mut Core, id: u64) {
        let Some(flow) = self.flows.remove(&id) else { return };
        self.keys.remove(&flow.key);
        if let Some(at) = flow.deadline {
            self.timers.remove(&(at, id));
        }
        core.flows -= 1;
        core.pending_bytes -= flow.pending_bytes();
    }

    /// When to be called again; 0: at once, if there is room for frames.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.waiting.is_empty() { self.timers.first().map(|(at, _)| *at) } else { Some(0) }
    }

    /// Connections.
    pub fn len(&self) -> usize {
        self.flows.len()
    }
}

/// Answers a segment of no connection with a reset (RFC 9293 3.10.7.1).
fn refuse(core: &mut Core, key: Key, header: &TcpHeader, data_len: usize) {
    let reset = if header.flags.has(Flags::ACK) {
        TcpHeader { seq: header.ack, flags: Flags::RST, ..TcpHeader::default() }
    } else {
        let mut len = data_len as u32;
        len += u32::from(header.flags.has(Flags::SYN)) + u32::from(header.flags.has(Flags::FIN));
        TcpHeader { ack: header.seq + len, flags: Flags::RST.with(Flags::ACK), ..TcpHeader::default() }
    };
    send(core, key, reset);
}

/// Sends the guest a segment without data.
fn send(core: &mut Core, key: Key, header: TcpHeader) {
    let at = frame::headers_len(key.guest.ip());
    let mut packet = Packet::zeroed(at + header.header_len());
    emit(&mut packet, key, header);
    core.send(packet, key.remote.ip(), key.guest.ip(), protocol::TCP, flow::CHECKSUM_AT, None);
}

fn emit(packet: &mut Packet, key: Key, header: TcpHeader) {
    let at = frame::headers_len(key.guest.ip());
    if let Some(room) = packet.bytes_mut().get_mut(at..) {
        TcpHeader { src_port: key.remote.port(), dst_port: key.guest.port(), ..header }.emit(room);
    }
}

/// The sequence number `len` bytes before.
fn minus(seq: Seq, len: u32) -> Seq {
    Seq(seq.0.wrapping_sub(len))
}
