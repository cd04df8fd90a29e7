//! One connection: what the guest sent and may send, what the host's socket holds for it, and the end of both.

use super::{Key, WINDOW, emit, minus, refuse, send};
use crate::core::{Core, MS, OUT_MAX_BYTES, PENDING_MAX_BYTES, SECOND};
use crate::frame;
use abi::Errno;
use net::packet::Packet;
use net::tcp::seq::Seq;
use net::wire::protocol;
use net::wire::tcp::{self, Flags, TcpHeader, TcpOptions};
use platform::{HostStream, SocketReady};
use std::collections::VecDeque;
use std::ops::Range;

/// Where in a TCP header the checksum is.
pub const CHECKSUM_AT: usize = 16;
/// Our window scale: windows of up to 8 MiB, since what the host's peer has not acknowledged counts.
const SCALE: u8 = 7;
/// Most data in one packet to the guest; with headers it must stay below 64 KiB.
const PIECE_MAX: usize = 65_535 - 60 - tcp::HEADER_LEN;
/// What is on its way to the guest, at most; also what is peeked over where the host can't remember an offset.
const FLIGHT_MAX: u32 = 1 << 20;
/// The first wait for an acknowledgement by the guest, and for an answer to a probe. It doubles.
const PATIENCE_NS: u64 = SECOND;
const PATIENCE_MAX_NS: u64 = 60 * SECOND;
const TRIES_MAX: u32 = 8;
/// How often the host is asked whether its peer has acknowledged: from 1 ms on, doubling.
const ASK_NS: u64 = MS;
const ASK_MAX_NS: u64 = 100 * MS;
/// A silent connection is probed (`tcp_keepalive_time`).
const IDLE_NS: u64 = 7200 * SECOND;
/// The least a peer must take (RFC 9293 3.7.1), and a bound for those who claim less.
const MSS_DEFAULT: u16 = 536;
const MSS_MIN: u16 = 88;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The guest's SYN came, the host's socket connects.
    Connecting,
    /// Our SYN and ACK went to the guest.
    SynReceived,
    /// Our SYN went to the guest: a published port.
    SynSent,
    Open,
}

/// Whether a connection goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Goes,
    Over,
}

/// A part of a frame that is the guest's data.
struct Piece {
    packet: Packet,
    data: Range<usize>,
}

/// See the module.
pub struct Flow {
    pub key: Key,
    /// In the list of those to be served.
    pub dirty: bool,
    /// In the list of those that wait for room.
    pub waiting: bool,
    /// As the table's timers have it.
    pub deadline: Option<u64>,
    stream: Option<Box<dyn HostStream>>,
    state: State,
    /// Payload of one segment to the guest.
    mss: u16,
    scaling: bool,

    // Towards the guest.
    una: Seq,
    nxt: Seq,
    /// The furthest that was ever sent.
    max: Seq,
    window: u32,
    window_scale: u8,
    /// Acknowledged by the guest, still in the host's socket.
    unconsumed: usize,
    readable: bool,
    hangup: bool,
    /// The sequence number of our FIN, when the host's stream has ended.
    fin: Option<Seq>,
    duplicates: u32,
    tries: u32,
    /// When the guest's silence is looked into.
    patience_at: u64,
    heard_ns: u64,

    // From the guest.
    /// The next byte that the guest is to send.
    rcv: Seq,
    /// Up to here the host's socket has it.
    taken: Seq,
    /// Up to here the guest was told that it arrived.
    acked: Seq,
    /// Up to here the guest may send.
    edge: Seq,
    pending: VecDeque<Piece>,
    writable: bool,
    guest_fin: bool,
    shut: bool,
    /// The guest must be answered whether or not anything changed.
    answer: bool,
    ask_at: Option<u64>,
    ask_ns: u64,
}

impl Flow {
    fn new(core: &mut Core, key: Key, stream: Box<dyn HostStream>, state: State) -> Flow {
        let isn = Seq(core.random.next_u32());
        let nobody = Seq(0);
        Flow {
            key,
            dirty: false,
            waiting: false,
            deadline: None,
            stream: Some(stream),
            state,
            mss: MSS_DEFAULT,
            scaling: false,
            una: isn,
            nxt: isn,
            max: isn,
            window: 0,
            window_scale: 0,
            unconsumed: 0,
            readable: true,
            hangup: false,
            fin: None,
            duplicates: 0,
            tries: 0,
            patience_at: core.now_ns + PATIENCE_NS,
            heard_ns: core.now_ns,
            rcv: nobody,
            taken: nobody,
            acked: nobody,
            edge: nobody,
            pending: VecDeque::new(),
            writable: true,
            guest_fin: false,
            shut: false,
            answer: false,
            ask_at: None,
            ask_ns: ASK_NS,
        }
    }

    /// A connection that the guest's SYN asks for.
    pub fn from_guest(core: &mut Core, key: Key, syn: &TcpHeader, stream: Box<dyn HostStream>) -> Flow {
        let mut flow = Flow::new(core, key, stream, State::Connecting);
        flow.learn(core, syn);
        flow
    }

    /// A connection that somebody made to a published port.
    pub fn from_host(core: &mut Core, key: Key, stream: Box<dyn HostStream>) -> Flow {
        let mut flow = Flow::new(core, key, stream, State::SynSent);
        flow.send_syn(core);
        flow
    }

    /// What the guest's SYN says.
    fn learn(&mut self, core: &Core, syn: &TcpHeader) {
        let most = core.config.mtu - if self.key.guest.is_ipv4() { 40 } else { 60 };
        self.mss = syn.options.mss.unwrap_or(MSS_DEFAULT).clamp(MSS_MIN, most);
        self.scaling = syn.options.window_scale.is_some();
        self.window_scale = syn.options.window_scale.unwrap_or(0).min(14);
        self.window = u32::from(syn.window);
        self.rcv = syn.seq + 1;
        (self.taken, self.acked, self.edge) = (self.rcv, self.rcv, self.rcv + u32::from(u16::MAX));
    }

    /// Bytes held for the host's socket.
    pub fn pending_bytes(&self) -> usize {
        self.pending.iter().map(|piece| piece.data.len()).sum()
    }

    fn send_syn(&mut self, core: &mut Core) {
        let answer = self.state != State::SynSent;
        let mss = core.config.mtu - if self.key.guest.is_ipv4() { 40 } else { 60 };
        let options = TcpOptions { mss: Some(mss), window_scale: (self.scaling || !answer).then_some(SCALE), ..TcpOptions::default() };
        let flags = if answer { Flags::SYN.with(Flags::ACK) } else { Flags::SYN };
        send(core, self.key, TcpHeader { seq: self.una, ack: self.rcv, flags, window: u16::MAX, options, ..TcpHeader::default() });
        self.nxt = self.una + 1;
        self.max = self.nxt;
    }

    fn send_ack(&mut self, core: &mut Core, seq: Seq) {
        let header = self.header(seq, Flags::ACK);
        send(core, self.key, header);
        self.answer = false;
    }

    fn header(&self, seq: Seq, flags: Flags) -> TcpHeader {
        let room = self.edge.since(self.acked);
        let room = if self.scaling { room >> SCALE } else { room };
        let window = u16::try_from(room).unwrap_or(u16::MAX);
        TcpHeader { seq, ack: self.acked, flags, window, ..TcpHeader::default() }
    }

    /// A segment of the guest for this connection.
    pub fn input(&mut self, core: &mut Core, header: &TcpHeader, packet: Packet, data: Range<usize>) {
        self.heard_ns = core.now_ns;
        let flags = header.flags;
        if flags.has(Flags::RST) {
            // Only one that the guest's own stack would send: in the window, or in answer to our SYN.
            let in_place = match self.state {
                State::Connecting | State::Open | State::SynReceived => {
                    header.seq.at_or_after(self.acked) && header.seq.at_or_before(self.edge)
                }
                State::SynSent => flags.has(Flags::ACK) && header.ack == self.nxt,
            };
            if in_place {
                self.break_off();
            }
            return;
        }
        match self.state {
            // The guest repeats its SYN; the host's socket is still at it.
            State::Connecting => return,
            State::SynSent if flags.has(Flags::SYN.with(Flags::ACK)) && header.ack == self.nxt => {
                self.learn(core, header);
                self.open();
                self.answer = true;
                return;
            }
            State::SynSent => return refuse(core, self.key, header, data.len()),
            State::SynReceived if flags.has(Flags::SYN) => return self.send_syn(core),
            State::SynReceived if flags.has(Flags::ACK) && header.ack == self.nxt => self.open(),
            State::SynReceived => return refuse(core, self.key, header, data.len()),
            State::Open if flags.has(Flags::SYN) || !flags.has(Flags::ACK) => {
                // RFC 5961 4: somebody's SYN in a connection is answered, and the guest resets what it does not know.
                self.answer = true;
                return;
            }
            State::Open => {}
        }
        self.acknowledged(header, data.is_empty());
        self.take(core, header, packet, data);
    }

    fn open(&mut self) {
        self.state = State::Open;
        self.una = self.nxt;
        self.tries = 0;
    }

    /// What the segment says of what the guest received.
    fn acknowledged(&mut self, header: &TcpHeader, is_bare: bool) {
        if header.ack.after(self.max) || header.ack.before(self.una) {
            self.answer |= header.ack.after(self.max);
            return;
        }
        let window = u32::from(header.window) << self.window_scale;
        if header.ack.after(self.una) {
            let fin_acked = self.fin.is_some_and(|fin| header.ack.after(fin));
            self.unconsumed += (header.ack.since(self.una) - u32::from(fin_acked)) as usize;
            self.una = header.ack;
            self.patience_at = self.heard_ns + PATIENCE_NS;
            self.nxt = self.nxt.max(self.una);
            self.duplicates = 0;
        } else if is_bare && self.una != self.nxt && window == self.window && !header.flags.has(Flags::FIN) {
            self.duplicates += 1;
            if self.duplicates == 3 {
                self.go_back();
            }
        }
        self.tries = 0;
        self.window = window;
    }

    /// The guest lost something: all that it has not acknowledged is sent again.
    fn go_back(&mut self) {
        self.nxt = self.una;
        self.readable = true;
    }

    /// Takes the guest's data, as far as it continues what came before and fits.
    fn take(&mut self, core: &mut Core, header: &TcpHeader, packet: Packet, mut data: Range<usize>) {
        let fin = header.flags.has(Flags::FIN);
        if data.is_empty() && !fin {
            // A keepalive or a probe of our window.
            self.answer |= header.seq != self.rcv;
            return;
        }
        let before = if header.seq.before(self.rcv) { self.rcv.since(header.seq) as usize } else { 0 };
        if header.seq.after(self.rcv) || self.guest_fin || before > data.len() {
            // A hole, or nothing new.
            self.answer = true;
            return;
        }
        data.start += before;
        let room = self.edge.since(self.rcv) as usize;
        let room = if core.pending_bytes > PENDING_MAX_BYTES { 0 } else { room };
        let fits = data.len() <= room;
        if !fits {
            data.end = data.start + room;
            self.answer = true;
        }
        self.rcv += data.len() as u32;
        self.guest_fin = fin && fits;
        if self.guest_fin {
            self.rcv += 1;
        }
        if !data.is_empty() {
            core.pending_bytes += data.len();
            self.pending.push_back(Piece { packet, data });
            self.write(core);
        }
    }

    /// Gives the host's socket what it takes.
    fn write(&mut self, core: &mut Core) {
        while self.writable
            && let (Some(piece), Some(stream)) = (self.pending.front_mut(), self.stream.as_mut())
        {
            match stream.send(piece.packet.bytes().get(piece.data.clone()).unwrap_or_default()) {
                Ok(len) => {
                    piece.data.start += len;
                    self.taken += len as u32;
                    core.pending_bytes -= len;
                    if piece.data.is_empty() {
                        self.pending.pop_front();
                    } else {
                        self.writable = false;
                    }
                }
                Err(Errno::EAGAIN) => self.writable = false,
                Err(_) => return self.fail(core),
            }
        }
        if self.guest_fin
            && self.pending.is_empty()
            && !self.shut
            && let Some(stream) = self.stream.as_mut()
        {
            // A peer that has gone already leaves nothing to shut.
            self.shut = true;
            self.taken += 1;
            if stream.shut_write().is_err() && self.fin.is_none() {
                self.fail(core);
            }
        }
    }

    /// The host's connection broke: the guest sees a reset.
    fn fail(&mut self, core: &mut Core) {
        let header = TcpHeader { flags: Flags::RST.with(Flags::ACK), ..self.header(self.nxt, Flags::RST) };
        send(core, self.key, TcpHeader { ack: self.rcv, ..header });
        self.stream = None;
    }

    /// The guest broke it: the host's peer sees a reset.
    fn break_off(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.reset();
        }
    }

    /// The host's socket became ready.
    pub fn ready(&mut self, ready: SocketReady) {
        self.readable |= ready.intersects(SocketReady::READ | SocketReady::HANGUP);
        self.hangup |= ready.contains(SocketReady::HANGUP);
        self.writable |= ready.intersects(SocketReady::WRITE | SocketReady::HANGUP);
    }

    /// Whether there is something in the host's socket that the guest would take, if there were room for the frame.
    pub fn wants_to_read(&self) -> bool {
        self.state == State::Open
            && self.readable
            && self.stream.is_some()
            && self.room() > 0
            && self.fin.is_none_or(|fin| !self.nxt.after(fin))
    }

    /// Does all that can be done now.
    pub fn serve(&mut self, core: &mut Core) -> Outcome {
        if self.state == State::Connecting {
            self.finish_connecting(core);
        }
        if self.state == State::Open {
            self.write(core);
            self.acknowledge(core);
            self.consume(core);
            self.read(core);
            if self.answer {
                self.send_ack(core, self.nxt);
            }
        }
        let over = self.shut && self.acked == self.rcv && self.fin.is_some_and(|fin| self.una.after(fin));
        if over || self.stream.is_none() { Outcome::Over } else { Outcome::Goes }
    }

    fn finish_connecting(&mut self, core: &mut Core) {
        let Some(stream) = self.stream.as_ref() else { return };
        let outcome = match stream.connected() {
            Err(Errno::EAGAIN) => return,
            // The routes may have changed since they were asked: the socket itself has the last word.
            Ok(()) if stream.is_local() && !self.may_be_local(core) => Err(Errno::ECONNREFUSED),
            outcome => outcome,
        };
        match outcome {
            Ok(()) => {
                self.state = State::SynReceived;
                self.patience_at = core.now_ns + PATIENCE_NS;
                self.send_syn(core);
            }
            Err(errno) => {
                core.statistics.failed += 1;
                if matches!(errno, Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::ETIMEDOUT | Errno::EACCES | Errno::EPERM) {
                    let quoted = self.quoted();
                    core.send_unreachable(self.key.guest.ip(), self.key.remote.ip(), errno, &quoted);
                } else {
                    let flags = Flags::RST.with(Flags::ACK);
                    send(core, self.key, TcpHeader { ack: self.rcv, flags, ..TcpHeader::default() });
                }
                self.stream = None;
            }
        }
    }

    /// Whether a connection to the host itself was meant: to the name server, or by an exception of the policy.
    fn may_be_local(&self, core: &Core) -> bool {
        let (ip, port) = (self.key.remote.ip(), Some(self.key.remote.port()));
        core.is_dns(ip) || core.config.policy.is_allowed(core.loopback_for(ip).unwrap_or(ip), port)
    }

    /// The guest's SYN from its IP header on, for an ICMP error.
    fn quoted(&self) -> Vec<u8> {
        let (guest, remote) = (self.key.guest, self.key.remote);
        let mut packet = Packet::zeroed(frame::headers_len(remote.ip()) + tcp::HEADER_LEN);
        let at = frame::headers_len(remote.ip());
        let syn = TcpHeader {
            src_port: guest.port(),
            dst_port: remote.port(),
            seq: minus(self.rcv, 1),
            flags: Flags::SYN,
            ..TcpHeader::default()
        };
        syn.emit(packet.bytes_mut().get_mut(at..).unwrap_or_default());
        let nobody = net::MacAddress::ZERO;
        let route = frame::Route { src_mac: nobody, dst_mac: nobody, src: guest.ip(), dst: remote.ip() };
        frame::emit_headers(&mut packet, route, protocol::TCP, None);
        packet.bytes().get(frame::IP_AT..).unwrap_or_default().to_vec()
    }

    /// Moves on what the guest is told: what arrived at the host's peer, and how much more there is room for.
    fn acknowledge(&mut self, core: &mut Core) {
        let Some(stream) = self.stream.as_ref() else { return };
        let on_the_way = if self.acked == self.taken { 0 } else { stream.unacknowledged().unwrap_or(0) };
        let held = self.taken.since(self.acked).min(u32::try_from(on_the_way).unwrap_or(u32::MAX));
        let arrived = minus(self.taken, held);
        if arrived.after(self.acked) {
            self.acked = arrived;
            self.answer = true;
            self.ask_ns = ASK_NS;
        }
        if self.pending.is_empty() && !self.guest_fin {
            let edge = self.taken + WINDOW;
            // Told at once when the guest may be held up by it, else with the next segment.
            self.answer |= edge.since(self.edge) >= WINDOW / 4;
            self.edge = self.edge.max(edge);
        }
        self.ask_at = (self.acked != self.taken).then(|| core.now_ns + self.ask_ns);
    }

    fn consume(&mut self, core: &mut Core) {
        if self.unconsumed > 0
            && let Some(stream) = self.stream.as_mut()
        {
            match stream.consume(self.unconsumed) {
                Ok(()) => self.unconsumed = 0,
                Err(_) => self.fail(core),
            }
        }
    }

    /// What the guest's window and our own patience leave room for.
    fn room(&self) -> u32 {
        let flight = self.nxt.since(self.una);
        let room = self.window.min(FLIGHT_MAX).saturating_sub(flight);
        // No crumbs while something is on its way that will open the window further (RFC 9293 3.8.6.2.1).
        if flight > 0 && room < u32::from(self.mss) { 0 } else { room }
    }

    /// Brings what the host's socket holds to the guest.
    fn read(&mut self, core: &mut Core) {
        let mut sent = false;
        while self.wants_to_read() && core.out_bytes < OUT_MAX_BYTES {
            let at = frame::headers_len(self.key.guest.ip()) + tcp::HEADER_LEN;
            let flight = self.nxt.since(self.una) as usize;
            let want = (self.room() as usize).min(PIECE_MAX);
            let Some(stream) = self.stream.as_mut() else { return };
            let mut packet = core.spare.take().filter(|packet| packet.len() >= at + want).unwrap_or_else(|| Packet::zeroed(at + PIECE_MAX));
            let room = packet.bytes_mut().get_mut(at..at + want).unwrap_or_default();
            match stream.peek(flight, room) {
                Ok(0) => {
                    core.spare = Some(packet);
                    self.readable = false;
                    let header = self.header(self.nxt, Flags::FIN.with(Flags::ACK));
                    send(core, self.key, header);
                    self.fin = Some(self.nxt);
                    self.nxt += 1;
                    sent = true;
                }
                Ok(len) => {
                    if len < PIECE_MAX / 2 {
                        // Whoever queues it pays for its buffer: the large one is used again.
                        let small = Packet::copy_of(packet.bytes().get(..at + len).unwrap_or_default());
                        core.spare = Some(std::mem::replace(&mut packet, small));
                    }
                    packet.truncate(at + len);
                    // A short read has emptied the socket, and more will be told of; but not an end that was told of already.
                    self.readable = len == want || self.hangup;
                    let flags = if self.readable { Flags::ACK } else { Flags::ACK.with(Flags::PSH) };
                    emit(&mut packet, self.key, self.header(self.nxt, flags));
                    let gso = (len > usize::from(self.mss)).then_some(self.mss);
                    core.send(packet, self.key.remote.ip(), self.key.guest.ip(), protocol::TCP, CHECKSUM_AT, gso);
                    self.nxt += len as u32;
                    sent = true;
                }
                Err(Errno::EAGAIN) => {
                    core.spare = Some(packet);
                    self.readable = false;
                }
                Err(_) => return self.fail(core),
            }
            if self.nxt.after(self.max) {
                self.max = self.nxt;
            }
        }
        if sent {
            self.answer = false;
            self.patience_at = core.now_ns + self.patience();
        }
    }

    fn patience(&self) -> u64 {
        (PATIENCE_NS << self.tries.min(10)).min(PATIENCE_MAX_NS)
    }

    /// Whether the guest owes us something: an acknowledgement, or room.
    fn is_owed(&self) -> bool {
        self.nxt != self.una || self.readable && self.window == 0 && self.fin.is_none()
    }

    /// When to look again.
    pub fn next_deadline(&self, now_ns: u64) -> Option<u64> {
        let silence = match self.state {
            // The host's socket has its own patience.
            State::Connecting => return None,
            State::SynReceived | State::SynSent => self.patience_at,
            State::Open if self.is_owed() => self.patience_at.max(now_ns),
            State::Open => self.heard_ns + IDLE_NS + self.patience() * u64::from(self.tries),
        };
        Some(self.ask_at.map_or(silence, |at| at.min(silence)))
    }

    /// The time has come for something.
    pub fn expired(&mut self, core: &mut Core) {
        if self.ask_at.is_some_and(|at| at <= core.now_ns) {
            self.ask_ns = (self.ask_ns * 2).min(ASK_MAX_NS);
        }
        let silent = self.patience_at <= core.now_ns && (self.state != State::Open || self.is_owed());
        let idle = self.state == State::Open && self.heard_ns + IDLE_NS + self.patience() * u64::from(self.tries) <= core.now_ns;
        if !silent && !idle || self.state == State::Connecting {
            return;
        }
        self.tries += 1;
        self.patience_at = core.now_ns + self.patience();
        if self.tries > TRIES_MAX {
            // The guest is gone.
            if self.state == State::Open {
                let header = self.header(self.nxt, Flags::RST.with(Flags::ACK));
                send(core, self.key, header);
            }
            return self.break_off();
        }
        match self.state {
            State::SynReceived | State::SynSent => self.send_syn(core),
            _ if self.nxt != self.una => self.go_back(),
            // One before: every stack answers with where it is.
            _ => self.send_ack(core, minus(self.nxt, 1)),
        }
    }
}
