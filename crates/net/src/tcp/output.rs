//! What is sent and when: segments within both windows, Nagle's rule with Minshall's refinement (RFC 896, RFC 1122 4.2.3.4), retransmissions,
//! acknowledgements now or later (RFC 1122 4.2.3.2), and the window that is offered.

use super::Quad;
use super::rack::Phase;
use super::send::Segment;
use super::seq::Seq;
use super::socket::{State, TcpSocket};
use crate::core::{Core, MILLISECOND};
use crate::link::Medium;
use crate::packet::{Gso, Packet};
use crate::prefix::Family;
use crate::wire::checksum::Sum;
use crate::wire::tcp::{Flags, SackBlocks, TcpHeader, TcpOptions};
use crate::wire::{protocol, put};

/// `TCP_DELACK_MIN`
pub const DELAY_MIN_NS: u64 = 40 * MILLISECOND;
/// `TCP_DELACK_MAX`
pub const DELAY_MAX_NS: u64 = 200 * MILLISECOND;
/// A corked piece leaves after this.
const CORK_NS: u64 = 200 * MILLISECOND;
/// Segments of one packet towards a device that cuts it, or that has it cut just before.
const MAX_SEGMENTS: u32 = 44;

impl TcpSocket {
    /// Sends what lost segments and new data the windows allow, and sets the timers.
    pub(super) fn flush(&mut self, core: &mut Core) {
        if !matches!(
            self.state,
            State::Established | State::CloseWait | State::FinWait1 | State::LastAck | State::Closing | State::FinWait2
        ) {
            return;
        }
        let mut sent = self.send_lost(core);
        while self.send_new(core, false) {
            sent = true;
        }
        if sent {
            self.arm_after_send(core);
        }
        self.arm_probe(core);
    }

    /// Sends lost segments again as the window allows.
    fn send_lost(&mut self, core: &mut Core) -> bool {
        let mut any = false;
        if self.recovery.phase == Phase::Open {
            return false;
        }
        while let Some(index) = self.send.first_lost() {
            let pipe = self.pipe();
            let room = self.congestion.window.saturating_sub(pipe);
            // One segment may always go while nothing is on its way.
            if room < u64::from(self.mss) && pipe > 0 {
                break;
            }
            if !self.resend(core, index) {
                break;
            }
            any = true;
        }
        any
    }

    /// Sends the segment at `index` again, at most one full segment of it.
    pub(super) fn resend(&mut self, core: &mut Core, index: usize) -> bool {
        let Some(segment) = self.send.segments.get(index).copied() else { return false };
        self.send.split(index, segment.seq + self.mss + u32::from(segment.syn));
        let Some(segment) = self.send.segments.get(index).copied() else { return false };
        let stamp = self.timestamp(core.now_ns);
        self.transmit_segment(core, &segment);
        core.statistics.tcp.retransmitted += 1;
        self.counts.total_retransmitted += 1;
        self.recovery.resent_stamp.get_or_insert(stamp);
        if self.recovery.undo_from.is_some() {
            self.recovery.undo_left += 1;
        }
        if self.recovery.phase == Phase::Recovery {
            self.congestion.on_recovery_send(u64::from(segment.len()));
        }
        let (now_ns, order) = (core.now_ns, self.next_order());
        if let Some(segment) = self.send.segments.get_mut(index) {
            (segment.sent_ns, segment.order) = (now_ns, order);
            segment.transmissions += 1;
            segment.resent = segment.lost;
        }
        true
    }

    fn next_order(&mut self) -> u64 {
        self.rack.last_order += 1;
        self.rack.last_order
    }

    fn transmit_segment(&mut self, core: &mut Core, segment: &Segment) {
        let mut flags = Flags::ACK;
        if segment.syn {
            flags = if self.state == State::SynSent { Flags::SYN } else { Flags::SYN.with(Flags::ACK) };
        }
        if segment.fin {
            flags = flags.with(Flags::FIN);
        }
        let len = segment.len() - u32::from(segment.syn) - u32::from(segment.fin);
        if len > 0 && (segment.end - u32::from(segment.fin)).at_or_after(self.push_end.min(self.send.end())) {
            flags = flags.with(Flags::PSH);
        }
        self.transmit(core, segment.seq, flags, len);
    }

    /// Sends the next new data, if the rules let it go; `probe` disregards the congestion window (tail loss probe).
    pub(super) fn send_new(&mut self, core: &mut Core, probe: bool) -> bool {
        self.was_limited = false;
        let unsent = self.send.end().since(self.snd_nxt);
        let fin_sent = self.snd_nxt.after(self.send.end());
        let fin_now = self.fin_queued && !fin_sent;
        if unsent == 0 && !fin_now {
            return false;
        }
        let idle_ns = core.now_ns.saturating_sub(self.last_sent_ns);
        if self.send.segments.is_empty() && self.last_sent_ns != 0 && idle_ns > self.rtt.rto_ns && core.config.tcp.slow_start_after_idle {
            let initial = self.route.map_or(0, |(_, decision)| decision.initial_window);
            self.congestion.on_idle(idle_ns, self.rtt.rto_ns, initial);
            self.last_sent_ns = core.now_ns;
        }
        let window_left = (self.snd_una + self.snd_wnd).since(self.snd_nxt);
        if unsent > 0 && window_left == 0 {
            return false;
        }
        let pipe = self.pipe();
        let room = self.congestion.window.saturating_sub(pipe);
        let wanted = u64::from(unsent.min(self.mss));
        if !probe && (room < wanted || (room == 0 && pipe > 0)) {
            self.was_limited = true;
            return false;
        }
        let mut len = unsent.min(window_left).min(self.largest_packet(core));
        if !probe {
            len = len.min(u32::try_from(room).unwrap_or(u32::MAX).max(self.mss));
        } else {
            len = len.min(self.mss);
        }
        // Whole segments, unless this is all.
        if len > self.mss && len < unsent {
            len -= len % self.mss;
        }
        let all = len == unsent;
        if !probe && !len.is_multiple_of(self.mss) && !self.may_send_partial(core, len, all && fin_now) {
            // The whole segments in front of a partial one may go.
            len -= len % self.mss;
            if len == 0 {
                return false;
            }
        }
        let fin = fin_now && len == unsent;
        self.send_segment(core, len, fin);
        true
    }

    /// Nagle, corking and silly-window avoidance for a segment that is not full.
    fn may_send_partial(&mut self, core: &mut Core, len: u32, last: bool) -> bool {
        let unsent = self.send.end().since(self.snd_nxt);
        let urgent = self.urgent_end.is_some();
        if len < unsent {
            // The window cuts it: wait for it to open unless nothing is on its way, or it is half of all that was ever offered.
            return self.send.segments.is_empty() || len >= self.max_window / 2;
        }
        if last || urgent || self.push_all {
            return true;
        }
        if self.options.cork {
            let due_ns = *self.timers.cork.get_or_insert(core.now_ns + CORK_NS);
            return due_ns <= core.now_ns;
        }
        // Minshall: only one small segment may be unacknowledged.
        let small_out = self.small_end.after(self.snd_una) && self.small_end.at_or_before(self.snd_nxt);
        self.options.no_delay || !small_out
    }

    fn send_segment(&mut self, core: &mut Core, len: u32, fin: bool) {
        let now_ns = core.now_ns;
        let seq = self.snd_nxt;
        let end = seq + len + u32::from(fin);
        let segment = Segment {
            seq,
            end,
            syn: false,
            fin,
            sent_ns: now_ns,
            order: self.next_order(),
            first_sent_ns: now_ns,
            transmissions: 1,
            sacked: false,
            lost: false,
            resent: false,
        };
        if !len.is_multiple_of(self.mss) {
            self.small_end = end;
        }
        self.timers.cork = None;
        self.snd_nxt = end;
        self.last_sent_ns = now_ns;
        if now_ns < self.ack.received_ns + self.ack.delay_ns {
            self.ack.interactive = true;
        }
        self.transmit_segment(core, &segment);
        if self.recovery.phase == Phase::Recovery {
            self.congestion.on_recovery_send(u64::from(len));
        }
        self.send.segments.push_back(segment);
    }

    /// Payload of one packet: whole segments up to what the device, or we for it, will cut.
    fn largest_packet(&mut self, core: &Core) -> u32 {
        let Ok(decision) = self.decision(core) else { return self.mss };
        let device = match decision.kind {
            crate::route::RouteKind::Local => core.interfaces.loopback(),
            _ => core.interfaces.get(decision.interface),
        };
        let Some(capabilities) = device.map(crate::interface::Interface::capabilities) else { return self.mss };
        // A path with a smaller MTU than the device's still gets its segments by size.
        let most = match (capabilities.medium, capabilities.gso_max_bytes) {
            (Medium::Loopback, most) => most as u32,
            (_, 0) => self.mss * MAX_SEGMENTS,
            (_, most) => most as u32,
        };
        let whole = most.min(65_000).saturating_sub(120) / self.mss;
        self.mss * whole.max(1)
    }

    /// Builds a segment of `len` bytes from `seq` and sends it; every such segment carries the acknowledgement.
    fn transmit(&mut self, core: &mut Core, seq: Seq, flags: Flags, len: u32) {
        let Some(quad) = self.quad else { return };
        let mut header = TcpHeader {
            src_port: quad.local_port,
            dst_port: quad.remote_port,
            seq,
            flags,
            options: self.outgoing_options(core, flags),
            ..TcpHeader::default()
        };
        if flags.has(Flags::ACK) {
            header.ack = self.rcv_nxt;
        }
        header.window = self.offered_window(core, flags.has(Flags::SYN));
        if let Some(end) = self.urgent_end
            && end.after(seq)
            && !flags.has(Flags::SYN)
        {
            header.flags = header.flags.with(Flags::URG);
            header.urgent = u16::try_from(end.since(seq)).unwrap_or(u16::MAX);
        }
        let header_len = header.header_len();
        let mut packet = Packet::with_capacity(header_len + len as usize);
        packet.extend(&[0; crate::wire::tcp::MAX_HEADER_LEN][..header_len]);
        header.emit(packet.bytes_mut());
        self.send.copy_into(seq, len as usize, &mut packet);
        if len > self.mss {
            packet.gso = Some(Gso { v6: quad.remote.is_ipv6(), size: self.mss as u16 });
        }
        self.counts.segments_out += 1;
        self.send_packet(core, &quad, packet);
        if header.flags.has(Flags::ACK) {
            self.acknowledgement_sent();
        }
    }

    fn send_packet(&mut self, core: &mut Core, quad: &Quad, mut packet: Packet) {
        let sum = Sum::pseudo(quad.local, quad.remote, protocol::TCP, packet.len()).folded();
        put(packet.bytes_mut(), 16, &sum.to_be_bytes());
        packet.set_partial_checksum(0, 16);
        core.statistics.tcp.out_segments += 1;
        let Ok(decision) = self.decision(core) else { return };
        let options = self.options.send;
        // A segment that finds a full queue or no neighbour is lost like any other.
        let _ = core.ip_send(&decision, quad.local, quad.remote, protocol::TCP, &options, packet);
    }

    fn outgoing_options(&mut self, core: &Core, flags: Flags) -> TcpOptions {
        let mut options = TcpOptions::default();
        if self.timestamps && !flags.has(Flags::RST) {
            let echo = if flags.has(Flags::ACK) { self.ts_recent } else { 0 };
            options.timestamps = Some((self.timestamp(core.now_ns), echo));
        }
        if flags.has(Flags::SYN) {
            options.mss = Some(self.advertised_mss(core));
            options.sack_permitted = self.sack;
            let scaling = core.config.tcp.window_scaling && (self.state == State::SynSent || self.rcv_scale > 0);
            options.window_scale = scaling.then_some(self.rcv_scale);
        } else if self.sack {
            if let Some((left, right)) = self.duplicate.take()
                && core.config.tcp.dsack
            {
                options.sack.push(left, right);
            }
            let base = self.irs + 1;
            for (left, right) in self.receive.sack_runs() {
                options.sack.push(base + *left as u32, base + *right as u32);
            }
            let most = if options.timestamps.is_some() { 3 } else { 4 };
            let mut kept = SackBlocks::default();
            options.sack.as_slice().iter().take(most).for_each(|(left, right)| kept.push(*left, *right));
            options.sack = kept;
        }
        options
    }

    /// The segment size that we ask for.
    pub(super) fn advertised_mss(&mut self, core: &Core) -> u16 {
        let headers = self.quad.map_or(40, |quad| Family::of(quad.remote).header_len() as u32 + 20);
        let mss = match self.decision(core) {
            Ok(decision) if decision.advertised_mss != 0 => decision.advertised_mss,
            Ok(decision) => self.quad.map_or(536, |quad| core.interface_mtu(&decision, quad.remote).min(65_535)).saturating_sub(headers),
            Err(_) => 536,
        };
        let own = if self.options.max_segment == 0 { u32::MAX } else { self.options.max_segment.into() };
        u16::try_from(mss.min(own)).unwrap_or(u16::MAX)
    }

    /// Room that the receive buffer has for data; half of it is for what holds the data.
    pub(super) fn receive_space(&self) -> u32 {
        let free = self.options.receive_limit.saturating_sub(self.receive.cost()) / 2;
        let clamp = if self.options.window_clamp == 0 { u32::MAX } else { self.options.window_clamp };
        u32::try_from(free).unwrap_or(u32::MAX).min(clamp)
    }

    /// Chooses the window to offer (RFC 9293 3.8.6.2.2): never less than was offered, and no sliver.
    fn offered_window(&mut self, core: &mut Core, syn: bool) -> u16 {
        let space = self.receive_space();
        if syn {
            // Not scaled, and no more than one initial flight needs.
            self.rcv_wnd = space.min(65_535);
            self.rcv_wup = self.rcv_nxt;
            return self.rcv_wnd as u16;
        }
        let left = (self.rcv_wup + self.rcv_wnd).since(self.rcv_nxt);
        let full = u32::try_from(self.options.receive_limit / 2).unwrap_or(u32::MAX);
        let sliver = self.rcv_mss.min(full / 2);
        let most = 65_535u32 << self.rcv_scale;
        let mut window = if space < sliver || (space < full / 16 && self.receive.cost() > 0) { 0 } else { space.min(most) };
        if self.rcv_scale == 0 && window > 0 {
            window -= window % self.rcv_mss.max(1).min(window);
        }
        // Rounded up where it must not shrink, down otherwise.
        let unit = 1u32 << self.rcv_scale;
        let window = if window < left { left.div_ceil(unit) * unit } else { window / unit * unit };
        if window == 0 && self.rcv_wnd > 0 {
            core.statistics.tcp.zero_window_sent += 1;
        }
        self.rcv_wnd = window;
        self.rcv_wup = self.rcv_nxt;
        u16::try_from(window >> self.rcv_scale).unwrap_or(u16::MAX)
    }

    fn acknowledgement_sent(&mut self) {
        self.ack.pending = false;
        self.ack.now = false;
        self.ack.quick = self.ack.quick.saturating_sub(1);
        self.timers.delayed_ack = None;
        self.last_ack_sent = self.rcv_nxt;
    }

    /// A bare acknowledgement.
    pub(super) fn send_ack(&mut self, core: &mut Core) {
        if matches!(self.state, State::Closed | State::Listen | State::SynSent) {
            return;
        }
        self.transmit(core, self.snd_nxt, Flags::ACK, 0);
    }

    /// Decides whether what is owed is acknowledged now or a little later.
    pub(super) fn check_ack(&mut self, core: &mut Core) {
        if !self.ack.pending {
            return;
        }
        let owed = self.rcv_nxt.since(self.rcv_wup);
        let two_segments =
            owed > self.rcv_mss && self.receive_space() >= (self.rcv_wup + self.rcv_wnd).since(self.rcv_nxt).min(self.rcv_mss);
        let quick = self.options.quick_ack && self.ack.quick > 0 && !self.ack.interactive;
        if self.ack.now || two_segments || quick {
            self.send_ack(core);
            return;
        }
        if self.timers.delayed_ack.is_none() {
            core.statistics.tcp.delayed_acks += 1;
            self.timers.delayed_ack = Some(core.now_ns + self.ack.delay_ns.clamp(DELAY_MIN_NS, DELAY_MAX_NS));
        }
    }

    /// A probe of a zero window, or a keepalive: an old byte that must be answered.
    pub(super) fn send_probe(&mut self, core: &mut Core) {
        self.transmit(core, self.snd_una - 1, Flags::ACK, 0);
    }

    /// A reset that ends this connection.
    pub(super) fn send_reset_now(&mut self, core: &mut Core) {
        core.statistics.tcp.out_resets += 1;
        self.transmit(core, self.snd_nxt, Flags::RST.with(Flags::ACK), 0);
    }

    /// A reset for a segment that does not belong here.
    pub(super) fn reset_for(&mut self, core: &mut Core, header: &TcpHeader) {
        if let Some(quad) = self.quad {
            super::send_reset(core, &quad, header, 0);
        }
    }

    /// The SYN for a new connection.
    pub(super) fn send_syn(&mut self, core: &mut Core) {
        let now_ns = core.now_ns;
        let segment = Segment {
            seq: self.iss,
            end: self.iss + 1,
            syn: true,
            fin: false,
            sent_ns: now_ns,
            order: self.next_order(),
            first_sent_ns: now_ns,
            transmissions: 1,
            sacked: false,
            lost: false,
            resent: false,
        };
        self.snd_nxt = self.iss + 1;
        self.last_sent_ns = now_ns;
        self.transmit_segment(core, &segment);
        self.send.segments.push_back(segment);
        self.rearm(core);
    }

    /// The SYN again, as SYN and acknowledgement in one.
    pub(super) fn send_syn_again(&mut self, core: &mut Core) {
        if let Some(segment) = self.send.segments.front().copied() {
            self.transmit_segment(core, &segment);
        }
    }

    /// The path got narrower: what was too long for it is lost (RFC 1191 6.4).
    pub(super) fn resend_too_long(&mut self, core: &mut Core) {
        let mss = self.mss;
        let mut any = false;
        for segment in self.send.segments.iter_mut().filter(|segment| !segment.sacked && segment.len() > mss) {
            (segment.lost, segment.resent) = (true, false);
            any = true;
        }
        if any && self.recovery.phase == Phase::Open {
            // No congestion: the window stays as it is.
            self.recovery.phase = Phase::Loss;
            self.recovery.high = self.snd_nxt;
            self.recovery.undo_from = None;
        }
        self.flush(core);
    }
}
