//! One TCP socket: its options, its state, and what can be asked of it.

use core::net::IpAddr;

use abi::Errno;

use super::Quad;
use super::congestion::{Algorithm, Congestion};
use super::listen::Listener;
use super::rack::{Rack, Recovery};
use super::receive::ReceiveQueue;
use super::rtt::Rtt;
use super::send::SendQueue;
use super::seq::Seq;
use super::time_wait::TimeWait;
use super::timer::TcpTimers;
use crate::config::TcpConfig;
use crate::core::{Core, IcmpError, Ready, SocketId};
use crate::datagram::Endpoint;
use crate::interface::InterfaceId;
use crate::ip::{PathMtu, SendOptions};
use crate::packet::OVERHEAD;
use crate::prefix::Family;
use crate::route::{Decision, Query};

/// Connection states, with Linux's numbers (`/proc/net/tcp`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Connected.
    Established = 1,
    /// SYN sent.
    SynSent = 2,
    /// SYN received; here only by simultaneous opening, listeners keep requests.
    SynReceived = 3,
    /// FIN sent.
    FinWait1 = 4,
    /// FIN sent and acknowledged.
    FinWait2 = 5,
    /// Nothing, or over.
    Closed = 7,
    /// FIN received.
    CloseWait = 8,
    /// FIN received, then sent.
    LastAck = 9,
    /// Waiting for connections.
    Listen = 10,
    /// Both sent a FIN at once.
    Closing = 11,
}

/// What setsockopt(2) sets.
#[derive(Clone, Debug)]
pub struct Options {
    /// `IPV6_V6ONLY`
    pub v6_only: bool,
    /// `SO_REUSEADDR`
    pub reuse_address: bool,
    /// `SO_REUSEPORT`
    pub reuse_port: bool,
    /// Who opened it.
    pub owner: u32,
    /// `IP_FREEBIND`
    pub free_bind: bool,
    /// `TCP_NODELAY`
    pub no_delay: bool,
    /// `TCP_CORK`
    pub cork: bool,
    /// `TCP_QUICKACK`
    pub quick_ack: bool,
    /// `TCP_MAXSEG`; 0 is none
    pub max_segment: u16,
    /// `SO_KEEPALIVE`
    pub keepalive: bool,
    /// `TCP_KEEPIDLE`, seconds
    pub keepalive_time_s: u32,
    /// `TCP_KEEPINTVL`, seconds
    pub keepalive_interval_s: u32,
    /// `TCP_KEEPCNT`
    pub keepalive_probes: u32,
    /// `TCP_USER_TIMEOUT`, milliseconds; 0 is none
    pub user_timeout_ms: u64,
    /// `TCP_SYNCNT`; 0 is the default
    pub syn_retries: u32,
    /// `TCP_LINGER2`, seconds; `None` closes at once instead of FIN-WAIT-2
    pub linger2_s: Option<u64>,
    /// `SO_LINGER`, seconds; 0 resets on close. The waiting is the caller's.
    pub linger_s: Option<u32>,
    /// `TCP_DEFER_ACCEPT`
    pub defer_accept: bool,
    /// `SO_OOBINLINE`
    pub urgent_inline: bool,
    /// `TCP_WINDOW_CLAMP`; 0 is none
    pub window_clamp: u32,
    /// `TCP_CONGESTION`, for connections yet to be made; [`TcpSocket::set_congestion`] changes a live one
    pub congestion: Algorithm,
    /// `TCP_NOTSENT_LOWAT`
    pub not_sent_low_water: usize,
    /// `IP_RECVERR`: ICMP errors end a connection attempt's silence at once
    pub receive_errors: bool,
    /// Headers, mark, `SO_BINDTODEVICE`
    pub send: SendOptions,
    /// Receive buffer in bytes
    pub receive_limit: usize,
    /// `SO_RCVBUF` was set: no tuning
    pub receive_locked: bool,
    /// Send buffer in bytes
    pub send_limit: usize,
    /// `SO_SNDBUF` was set: no tuning
    pub send_locked: bool,
}

impl Options {
    fn new(config: &TcpConfig) -> Options {
        Options {
            v6_only: false,
            reuse_address: false,
            reuse_port: false,
            owner: 0,
            free_bind: false,
            no_delay: false,
            cork: false,
            quick_ack: true,
            max_segment: 0,
            keepalive: false,
            keepalive_time_s: config.keepalive_time_s,
            keepalive_interval_s: config.keepalive_interval_s,
            keepalive_probes: config.keepalive_probes,
            user_timeout_ms: 0,
            syn_retries: 0,
            linger2_s: Some(config.fin_timeout_s),
            linger_s: None,
            defer_accept: false,
            urgent_inline: false,
            window_clamp: 0,
            congestion: config.congestion,
            not_sent_low_water: config.not_sent_low_water,
            receive_errors: false,
            send: SendOptions { path_mtu: PathMtu::Want, ..SendOptions::default() },
            receive_limit: config.receive[1],
            receive_locked: false,
            send_limit: config.send[1],
            send_locked: false,
        }
    }
}

/// When an acknowledgement is owed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AckState {
    /// Something is to be acknowledged.
    pub pending: bool,
    /// Now rather than soon.
    pub now: bool,
    /// Acknowledgements left that go out at once (slow-starting peers need them).
    pub quick: u32,
    /// The user answers what it reads, so acknowledgements ride on data.
    pub interactive: bool,
    /// The delay, which follows the peer's pace.
    pub delay_ns: u64,
    /// When data last arrived.
    pub received_ns: u64,
    /// When a challenge was last sent, and how many in this second.
    pub challenged: (u64, u32),
    /// When an out-of-window answer was last sent.
    pub invalid_ns: u64,
}

/// Receive-buffer tuning (dynamic right-sizing).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tuning {
    pub read: u64,
    pub since_ns: u64,
    pub space: u64,
}

/// Counters of one connection, for `TCP_INFO`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpInfo {
    /// `tcpi_state`
    pub state: u8,
    /// `tcpi_retransmits`: timeouts in a row
    pub retransmits: u32,
    /// `tcpi_probes`
    pub probes: u32,
    /// `tcpi_rto`, microseconds
    pub rto_us: u32,
    /// `tcpi_snd_mss`
    pub send_mss: u32,
    /// `tcpi_rtt`, microseconds
    pub rtt_us: u32,
    /// `tcpi_rttvar`, microseconds
    pub rtt_var_us: u32,
    /// `tcpi_min_rtt`, microseconds
    pub min_rtt_us: u32,
    /// `tcpi_snd_cwnd`, segments
    pub window_segments: u32,
    /// `tcpi_snd_ssthresh`, segments
    pub threshold_segments: u32,
    /// `tcpi_unacked`, segments
    pub unacked: u32,
    /// `tcpi_sacked`, segments
    pub sacked: u32,
    /// `tcpi_lost`, segments
    pub lost: u32,
    /// `tcpi_total_retrans`
    pub total_retransmitted: u32,
    /// `tcpi_pmtu`
    pub path_mtu: u32,
    /// `tcpi_bytes_acked`
    pub bytes_acked: u64,
    /// `tcpi_bytes_received`
    pub bytes_received: u64,
    /// `tcpi_segs_out`
    pub segments_out: u64,
    /// `tcpi_segs_in`
    pub segments_in: u64,
    /// `tcpi_notsent_bytes`
    pub not_sent: u32,
    /// `tcpi_options`: timestamps 1, SACK 2, window scale 4
    pub options: u8,
    /// `tcpi_snd_wscale`, `tcpi_rcv_wscale`
    pub scales: (u8, u8),
}

/// A TCP socket.
pub struct TcpSocket {
    /// Options; setting them takes effect as tcp(7) says.
    pub options: Options,
    pub(super) id: SocketId,
    pub(super) family: Family,
    pub(super) state: State,
    pub(super) local: Endpoint,
    pub(super) quad: Option<Quad>,
    pub(super) hashed: Option<Quad>,
    pub(super) error: Option<Errno>,
    pub(super) soft_error: Option<Errno>,
    pub(super) orphan: bool,
    pub(super) charged: usize,
    pub(super) listen: Option<Box<Listener>>,
    pub(super) time_wait: Option<TimeWait>,
    // Sending.
    pub(super) iss: Seq,
    pub(super) snd_una: Seq,
    pub(super) snd_nxt: Seq,
    pub(super) snd_wnd: u32,
    pub(super) snd_wl1: Seq,
    pub(super) max_window: u32,
    pub(super) snd_scale: u8,
    pub(super) send: SendQueue,
    pub(super) fin_queued: bool,
    pub(super) urgent_end: Option<Seq>,
    pub(super) small_end: Seq,
    pub(super) push_end: Seq,
    pub(super) peer_mss: u32,
    pub(super) mss: u32,
    pub(super) path_mtu: u32,
    pub(super) was_limited: bool,
    /// An option that held data back was taken away: what waits goes, whatever Nagle says (`TCP_NAGLE_PUSH`).
    pub(super) push_all: bool,
    pub(super) last_sent_ns: u64,
    // Receiving.
    pub(super) irs: Seq,
    pub(super) rcv_nxt: Seq,
    pub(super) rcv_wup: Seq,
    pub(super) rcv_wnd: u32,
    pub(super) rcv_scale: u8,
    pub(super) receive: ReceiveQueue,
    pub(super) early_fin: Option<Seq>,
    pub(super) fin_received: bool,
    pub(super) receive_shut: bool,
    pub(super) duplicate: Option<(Seq, Seq)>,
    pub(super) ack: AckState,
    pub(super) tuning: Tuning,
    pub(super) rcv_mss: u32,
    // Negotiated.
    pub(super) timestamps: bool,
    pub(super) ts_recent: u32,
    pub(super) ts_recent_ns: u64,
    pub(super) ts_offset: u32,
    pub(super) last_ack_sent: Seq,
    pub(super) sack: bool,
    // Control.
    pub(super) rtt: Rtt,
    pub(super) congestion: Congestion,
    pub(super) recovery: Recovery,
    pub(super) rack: Rack,
    pub(super) timers: TcpTimers,
    pub(super) route: Option<(u64, Decision)>,
    pub(super) counts: TcpInfo,
}

impl TcpSocket {
    pub(super) fn new(id: SocketId, family: Family, config: &TcpConfig) -> TcpSocket {
        TcpSocket {
            options: Options::new(config),
            id,
            family,
            state: State::Closed,
            local: Endpoint::any(family),
            quad: None,
            hashed: None,
            error: None,
            soft_error: None,
            orphan: false,
            charged: 0,
            listen: None,
            time_wait: None,
            iss: Seq(0),
            snd_una: Seq(0),
            snd_nxt: Seq(0),
            snd_wnd: 0,
            snd_wl1: Seq(0),
            max_window: 0,
            snd_scale: 0,
            send: SendQueue::default(),
            fin_queued: false,
            urgent_end: None,
            small_end: Seq(0),
            push_end: Seq(0),
            peer_mss: 536,
            mss: 536,
            path_mtu: 576,
            was_limited: false,
            push_all: false,
            last_sent_ns: 0,
            irs: Seq(0),
            rcv_nxt: Seq(0),
            rcv_wup: Seq(0),
            rcv_wnd: 0,
            rcv_scale: 0,
            receive: ReceiveQueue::default(),
            early_fin: None,
            fin_received: false,
            receive_shut: false,
            duplicate: None,
            ack: AckState { quick: 16, delay_ns: super::output::DELAY_MIN_NS, ..AckState::default() },
            tuning: Tuning::default(),
            rcv_mss: 536,
            timestamps: false,
            ts_recent: 0,
            ts_recent_ns: 0,
            ts_offset: 0,
            last_ack_sent: Seq(0),
            sack: false,
            rtt: Rtt::default(),
            congestion: Congestion::new(config.congestion, 536, 0),
            recovery: Recovery::default(),
            rack: Rack::default(),
            timers: TcpTimers::default(),
            route: None,
            counts: TcpInfo::default(),
        }
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The family; an IPv6 socket may carry IPv4.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// `getsockname`
    #[must_use]
    pub fn local(&self) -> Endpoint {
        self.local
    }

    /// `getpeername`: ENOTCONN unless there is a peer.
    pub fn remote(&self) -> Result<Endpoint, Errno> {
        match self.state {
            State::Closed | State::Listen | State::SynSent => Err(Errno::ENOTCONN),
            _ => self.quad.map(|quad| quad.remote_endpoint()).ok_or(Errno::ENOTCONN),
        }
    }

    /// Takes the pending error (`SO_ERROR`).
    pub fn take_error(&mut self) -> Option<Errno> {
        self.error.take()
    }

    /// Bytes that can be read (`FIONREAD`).
    #[must_use]
    pub fn readable(&self) -> usize {
        self.receive.readable()
    }

    /// Bytes not acknowledged (`SIOCOUTQ`).
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.send.len() + usize::from(self.fin_queued && self.state != State::FinWait2 && self.state != State::Closed)
    }

    /// Bytes not sent (`SIOCOUTQNSD`).
    #[must_use]
    pub fn not_sent(&self) -> usize {
        self.send.end().since(self.snd_nxt) as usize
    }

    /// Whether the next byte is the urgent one (`SIOCATMARK`).
    #[must_use]
    pub fn at_mark(&self) -> bool {
        self.receive.at_mark()
    }

    /// Everything sent has been acknowledged, FIN included, or the connection is over: what `SO_LINGER` waits for.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        match self.state {
            State::Closed | State::FinWait2 => true,
            State::FinWait1 | State::LastAck | State::Closing => false,
            _ => self.send.len() == 0,
        }
    }

    /// `TCP_CONGESTION` on a live connection: the window stays, the algorithm starts anew.
    pub fn set_congestion(&mut self, algorithm: Algorithm) {
        self.options.congestion = algorithm;
        let (window, threshold) = (self.congestion.window, self.congestion.threshold);
        self.congestion = Congestion::new(algorithm, self.mss, 0);
        (self.congestion.window, self.congestion.threshold) = (window, threshold);
    }

    /// What poll(2) sees.
    #[must_use]
    pub fn ready(&self) -> Ready {
        let mut ready = Ready::default();
        if let Some(listener) = &self.listen {
            return if listener.has_connection() { Ready::IN } else { ready };
        }
        if self.error.is_some() {
            ready |= Ready::ERR;
        }
        // A socket that never was connected has hung up, but there is no end to read.
        let read_over = self.receive_shut || self.fin_received || (self.state == State::Closed && self.quad.is_some());
        if self.state == State::Closed || (read_over && self.is_send_shut()) {
            ready |= Ready::HUP;
        }
        if read_over {
            ready |= Ready::IN | Ready::RDHUP;
        }
        if matches!(self.state, State::SynSent | State::SynReceived) {
            return ready;
        }
        if self.receive.readable() > 0 {
            ready |= Ready::IN;
        }
        if self.is_send_shut() || self.state == State::Closed || self.is_writeable() {
            ready |= Ready::OUT;
        }
        if matches!(self.receive.urgent, super::receive::Urgent::Here(..)) {
            ready |= Ready::PRI;
        }
        ready
    }

    pub(super) fn is_send_shut(&self) -> bool {
        self.fin_queued
    }

    /// A third of the buffer is free, and little is unsent where the user wants that (`sk_stream_is_writeable`).
    pub(super) fn is_writeable(&self) -> bool {
        let used = self.send.cost();
        used * 3 <= self.options.send_limit * 2 && self.not_sent() < self.options.not_sent_low_water.max(1)
    }

    pub(super) fn speaks(&self, family: Family) -> bool {
        self.family == family || (self.family == Family::V6 && !self.options.v6_only)
    }

    pub(super) fn listens_at(&self, address: IpAddr, interface: InterfaceId) -> bool {
        let device = self.options.send.interface;
        self.state == State::Listen
            && self.speaks(Family::of(address))
            && (self.local.address.is_unspecified() || self.local.address == address)
            && (device == InterfaceId::NONE || device == interface)
    }

    pub(super) fn binding_score(&self) -> u8 {
        u8::from(!self.local.address.is_unspecified()) * 2
            + u8::from(self.options.send.interface != InterfaceId::NONE) * 2
            + u8::from(self.family == Family::V4)
    }

    /// Memory that the socket holds.
    pub(super) fn cost(&self) -> usize {
        OVERHEAD + self.send.cost() + self.receive.cost() + self.listen.as_ref().map_or(0, |listener| listener.cost())
    }

    /// Where segments go now; looked up again when routes have changed.
    pub(super) fn decision(&mut self, core: &Core) -> Result<Decision, Errno> {
        let quad = self.quad.ok_or(Errno::ENOTCONN)?;
        if let Some((generation, decision)) = self.route
            && generation == core.routes.generation
        {
            return Ok(decision);
        }
        let send = &self.options.send;
        let output = quad.scope.some().unwrap_or(send.interface);
        let flow = core.random.flow(b't', (quad.local, quad.local_port), (quad.remote, quad.remote_port), 0);
        let query = Query { src: Some(quad.local), output, mark: send.mark, tos: send.tos, flow, ..Query::to(quad.remote) };
        let decision = core.route(&query)?.0;
        self.route = Some((core.routes.generation, decision));
        self.follow_path_mtu(core, &decision);
        Ok(decision)
    }

    /// Sets the segment size by the path's MTU and the peer's.
    pub(super) fn follow_path_mtu(&mut self, core: &Core, decision: &Decision) {
        let Some(quad) = self.quad else { return };
        // The loopback's MTU is one more than an IPv4 packet can have.
        self.path_mtu = core.mtu(decision, quad.remote).min(65_535);
        let headers = Family::of(quad.remote).header_len() as u32 + 20;
        let mut mss = self.path_mtu.saturating_sub(headers).min(self.peer_mss);
        if self.options.max_segment != 0 {
            mss = mss.min(self.options.max_segment.into());
        }
        let option_len = if self.timestamps { 12 } else { 0 };
        // Below this a segment would be all header (`TCP_MIN_SND_MSS`).
        self.mss = mss.max(48) - option_len;
        self.congestion.set_mss(self.mss);
    }

    /// The clock of timestamps: milliseconds, shifted by a secret of the connection (RFC 7323 7.1).
    pub(super) fn timestamp(&self, now_ns: u64) -> u32 {
        ((now_ns / crate::core::MILLISECOND) as u32).wrapping_add(self.ts_offset)
    }

    /// Ends the connection with an error.
    pub(super) fn abort(&mut self, core: &mut Core, errno: Errno) {
        self.error = Some(errno);
        self.close_now(core);
    }

    pub(super) fn close_now(&mut self, core: &mut Core) {
        if matches!(self.state, State::SynSent | State::SynReceived) {
            core.statistics.tcp.attempt_fails += 1;
        }
        self.state = State::Closed;
        self.timers = TcpTimers::default();
        self.send = SendQueue::new(self.send.end());
        self.fin_queued = true;
        core.wake(self.id, Ready::IN | Ready::OUT | Ready::HUP | Ready::RDHUP | if self.error.is_some() { Ready::ERR } else { Ready::HUP });
    }

    /// The peer or the path reports an error (RFC 5927: believed only for what is in flight).
    pub(super) fn icmp_error(&mut self, core: &mut Core, error: &IcmpError, seq: Seq) {
        let outstanding = seq.at_or_after(self.snd_una) && seq.before(self.snd_nxt.max(self.snd_una + 1));
        if !outstanding {
            return;
        }
        if error.errno == Errno::EMSGSIZE {
            if let Ok(decision) = self.decision(core) {
                let before = self.mss;
                self.follow_path_mtu(core, &decision);
                if self.mss < before {
                    self.resend_too_long(core);
                }
            }
            return;
        }
        if self.state == State::SynSent && error.hard {
            self.abort(core, error.errno);
        } else {
            self.soft_error = Some(error.errno);
            if self.options.receive_errors {
                self.error = Some(error.errno);
                core.wake(self.id, Ready::ERR);
            }
        }
    }

    /// `TCP_INFO`
    #[must_use]
    pub fn info(&self) -> TcpInfo {
        let us = |ns: u64| u32::try_from(ns / 1000).unwrap_or(u32::MAX);
        let segments = |bytes: u64| u32::try_from(bytes / u64::from(self.mss.max(1))).unwrap_or(u32::MAX);
        let count = |want: fn(&super::send::Segment) -> bool| self.send.segments.iter().filter(|s| want(s)).count() as u32;
        TcpInfo {
            state: self.state as u8,
            retransmits: self.timers.timeouts,
            probes: self.timers.probes,
            rto_us: us(self.rtt.timeout_ns()),
            send_mss: self.mss,
            rtt_us: us(self.rtt.smoothed_ns),
            rtt_var_us: us(self.rtt.deviation_ns),
            min_rtt_us: self.rtt.min_ns().map_or(u32::MAX, us),
            window_segments: segments(self.congestion.window),
            threshold_segments: segments(self.congestion.threshold),
            unacked: self.send.segments.len() as u32,
            sacked: count(|segment| segment.sacked),
            lost: count(|segment| segment.lost),
            path_mtu: self.path_mtu,
            not_sent: self.not_sent() as u32,
            options: u8::from(self.timestamps) | u8::from(self.sack) << 1 | u8::from(self.snd_scale > 0 || self.rcv_scale > 0) << 2,
            scales: (self.snd_scale, self.rcv_scale),
            ..self.counts
        }
    }
}
