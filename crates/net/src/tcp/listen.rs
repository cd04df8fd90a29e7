//! Connections that others open: requests that wait for the third segment, SYN cookies when there are too many (RFC 4987), and the queue of
//! connections that wait for accept(2).
//!
//! Always true: at most `backlog + 1` connections and `max(backlog, 1)` requests wait for one listener; a cookie keeps no state at all.

use std::collections::{BTreeMap, VecDeque};

use super::Quad;
use super::rtt::RTO_INITIAL_NS;
use super::seq::Seq;
use super::socket::{State, TcpSocket};
use crate::core::{Core, IpInfo, MILLISECOND, SECOND, SocketId};
use crate::packet::OVERHEAD;
use crate::prefix::Family;
use crate::route::Query;
use crate::timers::Timers;
use crate::wire::tcp::{Flags, TcpHeader, TcpOptions};

/// The segment sizes that a cookie can name.
const COOKIE_MSS: [u16; 8] = [536, 1220, 1300, 1400, 1440, 1452, 1460, 8940];
/// Periods of a minute that a cookie lives.
const COOKIE_PERIODS: u32 = 2;
/// Bits of a timestamp that carry a cookie's options: four for the scale, one for SACK.
const STAMP_BITS: u32 = 6;
const NO_SCALE: u32 = 0xf;

/// A half-open connection.
#[derive(Clone, Debug)]
struct Request {
    irs: Seq,
    iss: Seq,
    peer_mss: u16,
    peer_scale: Option<u8>,
    own_scale: u8,
    sack: bool,
    stamp: Option<u32>,
    ts_offset: u32,
    window: u16,
    retries: u32,
    /// The third segment came while the accept queue was full, or without the data that `TCP_DEFER_ACCEPT` waits for.
    acked: bool,
    born_ns: u64,
    sent_ns: u64,
    cookie: bool,
}

/// What a listener keeps.
#[derive(Default)]
pub(super) struct Listener {
    pub backlog: usize,
    requests: BTreeMap<Quad, Request>,
    timers: Timers<Quad>,
    queue: VecDeque<SocketId>,
    /// When a cookie was last sent: only for a while after are acknowledgements taken for answers to one.
    cookie_ns: Option<u64>,
}

impl Listener {
    pub fn has_connection(&self) -> bool {
        !self.queue.is_empty()
    }

    pub fn take(&mut self) -> Option<SocketId> {
        self.queue.pop_front()
    }

    pub fn waiting(&mut self) -> VecDeque<SocketId> {
        core::mem::take(&mut self.queue)
    }

    pub fn queue_len(&self) -> usize {
        self.queue.len()
    }

    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.next()
    }

    pub fn cost(&self) -> usize {
        self.requests.len() * OVERHEAD
    }

    fn is_full(&self) -> bool {
        self.queue.len() > self.backlog
    }
}

/// What a segment for a listener leads to.
pub(super) enum ListenAnswer {
    Done,
    Reset,
    /// A connection; the segment is to be processed by it.
    Connected(Box<TcpSocket>),
}

impl TcpSocket {
    pub(super) fn accepted(&mut self, child: SocketId) {
        if let Some(listener) = &mut self.listen {
            listener.queue.push_back(child);
        }
    }

    pub(super) fn listen_input(&mut self, core: &mut Core, quad: Quad, header: &TcpHeader, len: usize, info: &IpInfo) -> ListenAnswer {
        let flags = header.flags;
        let known = self.listen.as_ref().and_then(|listener| listener.requests.get(&quad).cloned());
        if let Some(request) = known {
            return self.request_input(core, quad, header, len, request);
        }
        if flags.has(Flags::RST) {
            return ListenAnswer::Done;
        }
        if flags.has(Flags::SYN) && !flags.has(Flags::ACK) && !flags.has(Flags::FIN) {
            self.syn_received(core, quad, header, info);
            return ListenAnswer::Done;
        }
        if flags.has(Flags::ACK) && !flags.has(Flags::SYN) {
            return match self.check_cookie(core, &quad, header) {
                Some(_) if self.listen.as_ref().is_none_or(|listener| listener.is_full()) => ListenAnswer::Done,
                Some(request) => ListenAnswer::Connected(self.child(core, quad, &request)),
                // A segment that overtook the one with the cookie's number is sent again when nobody refuses it.
                None if self.has_sent_cookies(core) => ListenAnswer::Done,
                None => ListenAnswer::Reset,
            };
        }
        if flags.has(Flags::ACK) { ListenAnswer::Reset } else { ListenAnswer::Done }
    }

    fn syn_received(&mut self, core: &mut Core, quad: Quad, header: &TcpHeader, info: &IpInfo) {
        let Some(listener) = &mut self.listen else { return };
        if listener.is_full() {
            core.statistics.tcp.listen_overflows += 1;
            core.statistics.tcp.listen_drops += 1;
            return;
        }
        let config = &core.config.tcp;
        let crowded = listener.requests.len() >= listener.backlog.max(1).min(config.max_syn_backlog);
        let cookie = config.syn_cookies == 2 || (crowded && config.syn_cookies == 1);
        if crowded && !cookie {
            core.statistics.tcp.request_queue_drops += 1;
            core.statistics.tcp.listen_drops += 1;
            return;
        }
        if crowded {
            core.statistics.tcp.request_queue_cookies += 1;
        }
        let options = &header.options;
        let mut request = Request {
            irs: header.seq,
            iss: Seq(0),
            peer_mss: options.mss.unwrap_or(536).max(64),
            peer_scale: options.window_scale.filter(|_| config.window_scaling),
            own_scale: self.scale_for(core),
            sack: options.sack_permitted && config.sack,
            stamp: options.timestamps.map(|(value, _)| value).filter(|_| config.timestamps),
            ts_offset: timestamp_offset(core, &quad),
            window: header.window,
            retries: 0,
            acked: false,
            born_ns: core.now_ns,
            sent_ns: core.now_ns,
            cookie,
        };
        if cookie {
            core.statistics.tcp.syn_cookies_sent += 1;
            request.iss = make_cookie(core, &quad, header.seq, request.peer_mss);
            if request.stamp.is_none() {
                // Nothing carries the other options.
                (request.peer_scale, request.sack) = (None, false);
            }
            self.send_syn_ack(core, &quad, &request);
            if let Some(listener) = &mut self.listen {
                listener.cookie_ns = Some(core.now_ns);
            }
            return;
        }
        request.iss = initial_sequence(core, &quad);
        self.send_syn_ack(core, &quad, &request);
        let _ = info;
        if let Some(listener) = &mut self.listen {
            listener.timers.set(quad, Some(core.now_ns + RTO_INITIAL_NS));
            listener.requests.insert(quad, request);
        }
    }

    fn send_syn_ack(&mut self, core: &mut Core, quad: &Quad, request: &Request) {
        let output = quad.scope.some().unwrap_or(self.options.send.interface);
        let query = Query { src: Some(quad.local), output, mark: self.options.send.mark, ..Query::to(quad.remote) };
        let Ok((decision, _)) = core.route(&query) else { return };
        let headers = Family::of(quad.remote).header_len() as u32 + 20;
        let mut mss = if decision.advertised_mss != 0 {
            decision.advertised_mss
        } else {
            core.interface_mtu(&decision, quad.remote).min(65_535).saturating_sub(headers)
        };
        if self.options.max_segment != 0 {
            mss = mss.min(self.options.max_segment.into());
        }
        let mut stamp = ((core.now_ns / MILLISECOND) as u32).wrapping_add(request.ts_offset);
        if request.cookie {
            let bits = request.peer_scale.map_or(NO_SCALE, |scale| u32::from(scale.min(14))) | u32::from(request.sack) << 4;
            let tagged = stamp & !((1 << STAMP_BITS) - 1) | bits;
            // Never from the future, or a later plain stamp would seem old.
            stamp = if (tagged.wrapping_sub(stamp) as i32) > 0 { tagged.wrapping_sub(1 << STAMP_BITS) } else { tagged };
        }
        let options = TcpOptions {
            mss: Some(u16::try_from(mss).unwrap_or(u16::MAX)),
            window_scale: request.peer_scale.map(|_| request.own_scale),
            sack_permitted: request.sack,
            timestamps: request.stamp.map(|theirs| (stamp, theirs)),
            ..TcpOptions::default()
        };
        let header = TcpHeader {
            src_port: quad.local_port,
            dst_port: quad.remote_port,
            seq: request.iss,
            ack: request.irs + 1,
            flags: Flags::SYN.with(Flags::ACK),
            window: u16::try_from(self.receive_space()).unwrap_or(u16::MAX),
            options,
            ..TcpHeader::default()
        };
        let send = self.options.send;
        super::send_bare(core, quad, &header, &send);
    }

    fn request_input(&mut self, core: &mut Core, quad: Quad, header: &TcpHeader, len: usize, request: Request) -> ListenAnswer {
        let flags = header.flags;
        let old = match (request.stamp, header.options.timestamps) {
            (Some(recent), Some((value, _))) => (value.wrapping_sub(recent) as i32) < 0,
            _ => false,
        };
        if flags.has(Flags::SYN) && header.seq == request.irs && !flags.has(Flags::ACK) {
            // The SYN again: answered again, at most every half second.
            if core.now_ns >= request.sent_ns + SECOND / 2 {
                self.send_syn_ack(core, &quad, &request);
                self.with_request(&quad, |request| request.sent_ns = core.now_ns);
            }
            return ListenAnswer::Done;
        }
        let window = u32::from(u16::try_from(self.receive_space()).unwrap_or(u16::MAX));
        let next = request.irs + 1;
        let inside = header.seq.at_or_after(next) && header.seq.at_or_before(next + window);
        if !inside || old {
            if !flags.has(Flags::RST) {
                self.send_syn_ack(core, &quad, &request);
            }
            return ListenAnswer::Done;
        }
        if flags.has(Flags::RST) || flags.has(Flags::SYN) {
            if flags.has(Flags::RST) && header.seq != next {
                return ListenAnswer::Done;
            }
            core.statistics.tcp.attempt_fails += 1;
            self.forget_request(&quad);
            return if flags.has(Flags::SYN) { ListenAnswer::Reset } else { ListenAnswer::Done };
        }
        if !flags.has(Flags::ACK) {
            return ListenAnswer::Done;
        }
        if header.ack != request.iss + 1 {
            return ListenAnswer::Reset;
        }
        if self.options.defer_accept && len == 0 && header.seq == next && request.retries < core.config.tcp.synack_retries {
            self.with_request(&quad, |request| request.acked = true);
            return ListenAnswer::Done;
        }
        if self.listen.as_ref().is_none_or(|listener| listener.is_full()) {
            core.statistics.tcp.listen_overflows += 1;
            if core.config.tcp.abort_on_overflow {
                self.forget_request(&quad);
                return ListenAnswer::Reset;
            }
            self.with_request(&quad, |request| request.acked = true);
            return ListenAnswer::Done;
        }
        self.forget_request(&quad);
        ListenAnswer::Connected(self.child(core, quad, &request))
    }

    fn with_request(&mut self, quad: &Quad, change: impl FnOnce(&mut Request)) {
        if let Some(request) = self.listen.as_mut().and_then(|listener| listener.requests.get_mut(quad)) {
            change(request);
        }
    }

    fn forget_request(&mut self, quad: &Quad) {
        if let Some(listener) = &mut self.listen {
            listener.requests.remove(quad);
            listener.timers.set(*quad, None);
        }
    }

    /// Answers requests again that were not heard of, and gives up on old ones.
    pub(super) fn poll_requests(&mut self, core: &mut Core) {
        let Some(listener) = &mut self.listen else { return };
        for quad in listener.timers.take_due(core.now_ns) {
            let Some(mut request) = self.listen.as_ref().and_then(|listener| listener.requests.get(&quad)).cloned() else { continue };
            if request.retries >= core.config.tcp.synack_retries {
                self.forget_request(&quad);
                continue;
            }
            request.retries += 1;
            request.sent_ns = core.now_ns;
            // One that was acknowledged waits for room or data, and need not be told anything until its last moment.
            if !request.acked || request.retries >= core.config.tcp.synack_retries {
                core.statistics.tcp.retransmitted += 1;
                self.send_syn_ack(core, &quad, &request);
            }
            if let Some(listener) = &mut self.listen {
                listener.timers.set(quad, Some(core.now_ns + (RTO_INITIAL_NS << request.retries.min(16))));
                listener.requests.insert(quad, request);
            }
        }
    }

    /// The window scale to offer for a receive buffer that may grow to its limit.
    pub(super) fn scale_for(&self, core: &Core) -> u8 {
        if !core.config.tcp.window_scaling {
            return 0;
        }
        let most =
            if self.options.receive_locked { self.options.receive_limit } else { core.config.tcp.receive[2].max(core.config.receive_max) };
        (0..14u8).find(|shift| most >> shift <= 65_535).unwrap_or(14)
    }

    /// The connection that a request has become, established by the segment that comes next.
    fn child(&self, core: &mut Core, quad: Quad, request: &Request) -> Box<TcpSocket> {
        core.statistics.tcp.passive_opens += 1;
        let mut child = TcpSocket::new(SocketId(0), self.family, &core.config.tcp);
        child.options = self.options.clone();
        child.local = quad.local_endpoint();
        (child.quad, child.hashed) = (Some(quad), Some(quad));
        child.state = State::SynReceived;
        child.iss = request.iss;
        (child.snd_una, child.snd_nxt) = (request.iss, request.iss + 1);
        child.send = super::send::SendQueue::new(request.iss + 1);
        child.small_end = request.iss;
        child.push_end = request.iss + 1;
        (child.irs, child.rcv_nxt, child.rcv_wup) = (request.irs, request.irs + 1, request.irs + 1);
        child.last_ack_sent = child.rcv_nxt;
        child.rcv_wnd = self.receive_space().min(65_535);
        child.snd_wnd = request.window.into();
        child.peer_mss = request.peer_mss.into();
        (child.snd_scale, child.rcv_scale) = request.peer_scale.map_or((0, 0), |scale| (scale.min(14), request.own_scale));
        child.sack = request.sack;
        child.timestamps = request.stamp.is_some();
        child.ts_offset = request.ts_offset;
        (child.ts_recent, child.ts_recent_ns) = (request.stamp.unwrap_or(0), core.now_ns);
        child.rack.farthest = child.snd_nxt;
        child.recovery.high = child.snd_nxt;
        let _ = child.decision(core);
        child.rcv_mss = child.mss;
        if request.retries == 0 && !request.cookie {
            child.rtt.sample(core.now_ns.saturating_sub(request.born_ns), core.now_ns);
        }
        Box::new(child)
    }

    fn has_sent_cookies(&self, core: &Core) -> bool {
        let life_ns = u64::from(COOKIE_PERIODS) * 60 * SECOND;
        self.listen.as_ref().and_then(|listener| listener.cookie_ns).is_some_and(|at_ns| core.now_ns < at_ns + life_ns)
    }

    fn check_cookie(&mut self, core: &mut Core, quad: &Quad, header: &TcpHeader) -> Option<Request> {
        if !self.has_sent_cookies(core) {
            return None;
        }
        let iss = header.ack - 1;
        let irs = header.seq - 1;
        let now = minute(core.now_ns);
        let age = (now.wrapping_sub(iss.0 >> 27)) & 0x1f;
        let index = (iss.0 >> 24 & 7) as usize;
        let valid = age < COOKIE_PERIODS && cookie_hash(core, quad, irs, now.wrapping_sub(age) & 0x1f, index) == iss.0 & 0xff_ffff;
        if !valid {
            core.statistics.tcp.syn_cookies_failed += 1;
            return None;
        }
        core.statistics.tcp.syn_cookies_received += 1;
        let ts_offset = timestamp_offset(core, quad);
        let (mut peer_scale, mut sack, mut stamp) = (None, false, None);
        if let Some((value, echo)) = header.options.timestamps {
            let bits = echo & ((1 << STAMP_BITS) - 1);
            peer_scale = (bits & 0xf != NO_SCALE).then_some((bits & 0xf) as u8);
            sack = bits & 0x10 != 0;
            stamp = Some(value);
        }
        let peer_mss = COOKIE_MSS.get(index).copied().unwrap_or(536);
        let own_scale = self.scale_for(core);
        let now_ns = core.now_ns;
        Some(Request {
            irs,
            iss,
            peer_mss,
            peer_scale,
            own_scale,
            sack,
            stamp,
            ts_offset,
            window: header.window,
            retries: 0,
            acked: true,
            born_ns: now_ns,
            sent_ns: now_ns,
            cookie: true,
        })
    }
}

fn minute(now_ns: u64) -> u32 {
    (now_ns / (60 * SECOND)) as u32 & 0x1f
}

fn cookie_hash(core: &Core, quad: &Quad, irs: Seq, period: u32, index: usize) -> u32 {
    let extra = u64::from(irs.0) << 32 | u64::from(period) << 8 | index as u64;
    core.random.flow(b'c', (quad.local, quad.local_port), (quad.remote, quad.remote_port), extra) as u32 & 0xff_ffff
}

/// Five bits of time, three of segment size, 24 of proof.
fn make_cookie(core: &Core, quad: &Quad, irs: Seq, peer_mss: u16) -> Seq {
    let index = COOKIE_MSS.iter().rposition(|mss| *mss <= peer_mss).unwrap_or(0);
    let period = minute(core.now_ns);
    Seq(period << 27 | (index as u32) << 24 | cookie_hash(core, quad, irs, period, index))
}

/// An initial sequence number: a clock of 64 ns ticks plus a keyed hash of the connection (RFC 6528).
pub(super) fn initial_sequence(core: &Core, quad: &Quad) -> Seq {
    let hash = core.random.flow(b'i', (quad.local, quad.local_port), (quad.remote, quad.remote_port), 0) as u32;
    Seq(hash.wrapping_add((core.now_ns >> 6) as u32))
}

pub(super) fn timestamp_offset(core: &Core, quad: &Quad) -> u32 {
    core.random.flow(b's', (quad.local, 0), (quad.remote, 0), 0) as u32
}
