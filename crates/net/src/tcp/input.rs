//! A segment for a connection (RFC 9293 3.10.7, RFC 7323 5, RFC 5961).

use abi::Errno;

use super::receive::Insert;
use super::seq::Seq;
use super::socket::{State, TcpSocket};
use super::time_wait::TimeWait;
use crate::core::{Core, MILLISECOND, Ready, SECOND};
use crate::packet::Packet;
use crate::wire::tcp::{Flags, TcpHeader};

/// Timestamps older than this are no longer compared (RFC 7323 5.5).
const PAWS_IDLE_NS: u64 = 24 * 24 * 3600 * SECOND;

impl TcpSocket {
    /// A segment of this connection; `payload` is its data.
    pub(super) fn input(&mut self, core: &mut Core, header: &TcpHeader, payload: Packet) {
        self.counts.segments_in += 1;
        match self.state {
            State::Closed | State::Listen => {}
            State::SynSent => self.syn_sent_input(core, header, payload),
            _ => self.synchronized_input(core, header, payload),
        }
    }

    fn syn_sent_input(&mut self, core: &mut Core, header: &TcpHeader, payload: Packet) {
        let flags = header.flags;
        if flags.has(Flags::ACK) {
            let stale = self.timestamps
                && header.options.timestamps.is_some_and(|(_, echo)| {
                    let sent = self.send.segments.front().map_or(core.now_ns, |syn| syn.first_sent_ns);
                    (echo.wrapping_sub(self.timestamp(sent)) as i32) < 0 || (self.timestamp(core.now_ns).wrapping_sub(echo) as i32) < 0
                });
            if header.ack != self.snd_nxt || stale {
                if !flags.has(Flags::RST) {
                    self.reset_for(core, header);
                }
                return;
            }
            if flags.has(Flags::RST) {
                self.abort(core, Errno::ECONNREFUSED);
                return;
            }
        } else if flags.has(Flags::RST) {
            return;
        }
        if !flags.has(Flags::SYN) {
            return;
        }
        self.learn_syn(core, header);
        if flags.has(Flags::ACK) {
            self.snd_wnd = header.window.into();
            self.max_window = self.snd_wnd;
            self.snd_wl1 = header.seq;
            self.take_syn_ack(core, header);
            self.become_established(core);
            self.ack.pending = true;
            self.ack.now = true;
            if !payload.is_empty() {
                self.take_data(core, header.seq + 1, payload);
            }
            self.finish_input(core);
        } else {
            // Both opened at once (RFC 9293 3.5 figure 8).
            self.state = State::SynReceived;
            self.snd_wnd = header.window.into();
            self.send_syn_again(core);
        }
    }

    /// What a SYN says about the peer.
    fn learn_syn(&mut self, core: &mut Core, header: &TcpHeader) {
        let options = &header.options;
        self.irs = header.seq;
        self.rcv_nxt = header.seq + 1;
        self.rcv_wup = self.rcv_nxt;
        self.peer_mss = u32::from(options.mss.unwrap_or(536)).max(64);
        match options.window_scale {
            Some(shift) if self.rcv_scale > 0 || core.config.tcp.window_scaling => self.snd_scale = shift.min(14),
            _ => (self.snd_scale, self.rcv_scale) = (0, 0),
        }
        self.sack = self.sack && options.sack_permitted;
        self.timestamps = self.timestamps && options.timestamps.is_some();
        if let Some((value, _)) = options.timestamps {
            (self.ts_recent, self.ts_recent_ns) = (value, core.now_ns);
        }
        self.route = None;
        let _ = self.decision(core);
        self.rcv_mss = self.mss;
    }

    fn take_syn_ack(&mut self, core: &mut Core, header: &TcpHeader) {
        if let Some(syn) = self.send.segments.pop_front()
            && syn.transmissions == 1
        {
            self.rtt.sample(core.now_ns.saturating_sub(syn.sent_ns), core.now_ns);
        }
        self.snd_una = header.ack;
        self.timers.retransmit = None;
        self.timers.timeouts = 0;
    }

    pub(super) fn become_established(&mut self, core: &mut Core) {
        self.state = State::Established;
        let initial = self.decision(core).map_or(0, |decision| decision.initial_window);
        self.congestion = super::congestion::Congestion::new(self.options.congestion, self.mss, initial);
        self.tuning.since_ns = core.now_ns;
        self.timers.heard(core.now_ns);
        core.wake(self.id, Ready::OUT);
    }

    fn synchronized_input(&mut self, core: &mut Core, header: &TcpHeader, payload: Packet) {
        let len = payload.len() as u32 + u32::from(header.flags.has(Flags::FIN));
        if !self.is_acceptable(core, header, len, payload.len()) {
            return;
        }
        let flags = header.flags;
        if flags.has(Flags::RST) {
            self.reset_received(core, header);
            return;
        }
        if flags.has(Flags::SYN) {
            if self.state == State::SynReceived && header.seq == self.irs {
                // The peer's SYN again, now with the acknowledgement of ours: simultaneous opening.
                if !(flags.has(Flags::ACK) && header.ack == self.snd_nxt) {
                    return;
                }
            } else {
                self.challenge(core);
                return;
            }
        }
        if !flags.has(Flags::ACK) {
            return;
        }
        if self.state == State::SynReceived {
            if header.ack != self.snd_nxt {
                self.reset_for(core, header);
                return;
            }
            self.snd_wnd = if flags.has(Flags::SYN) { header.window.into() } else { u32::from(header.window) << self.snd_scale };
            self.max_window = self.snd_wnd;
            self.snd_wl1 = header.seq;
            self.take_syn_ack(core, header);
            self.become_established(core);
        } else if !self.acknowledge(core, header, payload.len()) {
            return;
        }
        self.timers.heard(core.now_ns);
        self.note_timestamp(core, header);
        self.acknowledged_fin(core);
        if self.state == State::Closed {
            return;
        }
        let at = if flags.has(Flags::SYN) { header.seq + 1 } else { header.seq };
        self.take_urgent(core, header);
        let had_data = !payload.is_empty();
        let end = at + payload.len() as u32;
        if had_data {
            if self.refuses_data(core, end) {
                return;
            }
            self.take_data(core, at, payload);
        }
        if flags.has(Flags::FIN) {
            self.take_fin(core, end);
        } else if let Some(fin) = self.early_fin {
            self.take_fin(core, fin);
        }
        self.finish_input(core);
    }

    /// The checks of RFC 9293 3.10.7.4 first step and RFC 7323 5.3.
    fn is_acceptable(&mut self, core: &mut Core, header: &TcpHeader, len: u32, data_len: usize) -> bool {
        if self.timestamps && !header.flags.has(Flags::RST) {
            match header.options.timestamps {
                Some((value, _)) => {
                    let old = (value.wrapping_sub(self.ts_recent) as i32) < 0;
                    if old && core.now_ns < self.ts_recent_ns + PAWS_IDLE_NS {
                        core.statistics.tcp.paws_rejected += 1;
                        self.note_duplicate(header.seq, header.seq + data_len as u32);
                        self.answer_invalid(core, data_len);
                        return false;
                    }
                }
                // RFC 7323 3.2: once negotiated they are never missing.
                None => return false,
            }
        }
        let window_end = self.rcv_wup + self.rcv_wnd;
        let ends_late_enough = (header.seq + len).at_or_after(self.rcv_wup);
        let starts_soon_enough = header.seq.at_or_before(window_end.max(self.rcv_nxt));
        if ends_late_enough && starts_soon_enough {
            return true;
        }
        if !header.flags.has(Flags::RST) {
            if len > 0 && (header.seq + len).at_or_before(self.rcv_nxt) {
                core.statistics.tcp.dsack_sent += u64::from(self.sack);
                self.note_duplicate(header.seq, header.seq + data_len as u32);
            }
            self.answer_invalid(core, data_len);
        }
        false
    }

    /// Acknowledges a segment outside of the window, at a limited rate unless it carries data (`tcp_invalid_ratelimit`).
    fn answer_invalid(&mut self, core: &mut Core, data_len: usize) {
        let limit_ns = core.config.tcp.invalid_ratelimit_ms * MILLISECOND;
        if data_len == 0 && self.ack.invalid_ns != 0 && core.now_ns < self.ack.invalid_ns + limit_ns {
            return;
        }
        if data_len == 0 {
            self.ack.invalid_ns = core.now_ns;
        }
        self.send_ack(core);
    }

    /// A duplicate that a D-SACK block will name.
    pub(super) fn note_duplicate(&mut self, left: Seq, right: Seq) {
        if self.sack && left.before(right) {
            self.duplicate = Some((left, right));
        }
    }

    fn reset_received(&mut self, core: &mut Core, header: &TcpHeader) {
        // RFC 5961 3.2: only an exact one counts; others are asked to prove themselves.
        if header.seq != self.rcv_nxt {
            self.challenge(core);
            return;
        }
        if matches!(self.state, State::Established | State::CloseWait) {
            core.statistics.tcp.established_resets += 1;
        }
        let errno = match self.state {
            State::SynReceived => Errno::ECONNREFUSED,
            State::CloseWait => Errno::EPIPE,
            _ => Errno::ECONNRESET,
        };
        self.abort(core, errno);
    }

    /// A challenge acknowledgement (RFC 5961 7), rate-limited.
    pub(super) fn challenge(&mut self, core: &mut Core) {
        let second = core.now_ns / SECOND;
        let (last, count) = self.ack.challenged;
        let count = if last == second { count } else { 0 };
        if count < core.config.tcp.challenge_acks_per_second {
            self.ack.challenged = (second, count + 1);
            core.statistics.tcp.challenge_acks += 1;
            self.send_ack(core);
        }
    }

    /// RFC 7323 4.3: remember the timestamp of the segment that the last acknowledgement was for.
    fn note_timestamp(&mut self, core: &Core, header: &TcpHeader) {
        if let Some((value, _)) = header.options.timestamps
            && self.timestamps
            && header.seq.at_or_before(self.last_ack_sent)
            && (value.wrapping_sub(self.ts_recent) as i32) >= 0
        {
            (self.ts_recent, self.ts_recent_ns) = (value, core.now_ns);
        }
    }

    /// What follows when our FIN is acknowledged.
    fn acknowledged_fin(&mut self, core: &mut Core) {
        if !self.fin_acknowledged() {
            return;
        }
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                core.wake(self.id, Ready::OUT);
                if self.orphan {
                    match self.options.linger2_s {
                        Some(seconds) => self.timers.fin_wait = Some(core.now_ns + seconds * SECOND),
                        None => self.close_now(core),
                    }
                }
            }
            State::Closing => self.enter_time_wait(core),
            State::LastAck => self.close_now(core),
            _ => {}
        }
    }

    pub(super) fn enter_time_wait(&mut self, core: &mut Core) {
        self.time_wait = self.quad.map(|quad| TimeWait::new(quad, self));
        self.close_now(core);
    }

    /// Data for a socket whose user is gone is answered by a reset (RFC 2525 2.17).
    fn refuses_data(&mut self, core: &mut Core, end: Seq) -> bool {
        let gone = self.orphan && matches!(self.state, State::FinWait1 | State::FinWait2 | State::Closing);
        if gone && end.after(self.rcv_nxt) {
            core.statistics.tcp.abort_on_data += 1;
            self.send_reset_now(core);
            self.abort(core, Errno::ECONNRESET);
            return true;
        }
        false
    }

    fn position(&self, seq: Seq) -> Option<u64> {
        let base = self.receive.next;
        let next = self.irs + 1 + base as u32;
        if seq.at_or_after(next) { Some(base + u64::from(seq.since(next))) } else { base.checked_sub(u64::from(next.since(seq))) }
    }

    fn take_urgent(&mut self, core: &mut Core, header: &TcpHeader) {
        if !header.flags.has(Flags::URG) || self.fin_received || header.urgent == 0 {
            return;
        }
        // The pointer points behind the byte, as everyone but RFC 1122 has it (RFC 6093).
        if let Some(at) = self.position(header.seq + u32::from(header.urgent) - 1)
            && self.receive.announce_urgent(at)
        {
            core.wake(self.id, Ready::PRI);
        }
    }

    /// Data at `at`: trimmed to the window and kept.
    fn take_data(&mut self, core: &mut Core, at: Seq, mut payload: Packet) {
        if self.fin_received {
            return;
        }
        let end = at + payload.len() as u32;
        let window_end = self.rcv_wup + self.rcv_wnd;
        if end.after(window_end) {
            payload.truncate(window_end.since(at) as usize);
        }
        let len = payload.len() as u32;
        if at.before(self.rcv_nxt) {
            self.note_duplicate(at, (at + len).min(self.rcv_nxt));
            core.statistics.tcp.duplicate_segments += 1;
        }
        let Some(position) = self.position(at) else {
            (self.ack.pending, self.ack.now) = (true, true);
            return;
        };
        // Beyond its bound the queue takes nothing but what fills the gap; then that is dropped too.
        let limit = self.options.receive_limit;
        if self.receive.cost() + payload.len() > limit || !core.has_memory(payload.len()) {
            core.statistics.tcp.out_of_order_pruned += self.receive.prune(limit / 2);
            let gap = position <= self.receive.next;
            if !gap || self.receive.cost() > limit {
                core.statistics.tcp.receive_pruned += 1;
                (self.ack.pending, self.ack.now) = (true, true);
                return;
            }
        }
        let early_before = self.receive.has_early();
        match self.receive.insert(position, payload) {
            Insert::InOrder(count) => {
                self.rcv_nxt += count as u32;
                self.counts.bytes_received += count as u64;
                self.measure_segment(len);
                self.pace_acks(core);
                self.ack.pending = true;
                // Filling a gap is told at once (RFC 5681 4.2).
                self.ack.now |= early_before || self.receive.has_early();
                if !self.receive_shut {
                    core.wake(self.id, Ready::IN);
                }
                if matches!(self.receive.urgent, super::receive::Urgent::Here(..)) {
                    core.wake(self.id, Ready::PRI);
                }
            }
            Insert::Early => {
                core.statistics.tcp.out_of_order += 1;
                (self.ack.pending, self.ack.now) = (true, true);
            }
            Insert::Duplicate => {
                if len > 0 {
                    core.statistics.tcp.dsack_sent += u64::from(self.sack);
                    self.note_duplicate(at, at + len);
                }
                (self.ack.pending, self.ack.now) = (true, true);
            }
        }
    }

    /// The peer's segment size, for acknowledging every second one.
    fn measure_segment(&mut self, len: u32) {
        if len >= self.rcv_mss {
            self.rcv_mss = len.min(self.mss.max(536));
        }
    }

    /// The delay of acknowledgements follows the gaps between segments (Linux: `tcp_event_data_recv`).
    fn pace_acks(&mut self, core: &Core) {
        let gap_ns = core.now_ns.saturating_sub(self.ack.received_ns);
        let state = &mut self.ack;
        if state.received_ns == 0 || gap_ns > self.rtt.rto_ns.max(SECOND) {
            state.quick = state.quick.max(16);
            state.interactive = false;
        } else if gap_ns <= super::output::DELAY_MIN_NS / 2 {
            state.delay_ns = state.delay_ns / 2 + super::output::DELAY_MIN_NS / 2;
        } else if gap_ns < state.delay_ns {
            state.delay_ns = (state.delay_ns / 2 + gap_ns).min(self.rtt.rto_ns);
        }
        state.received_ns = core.now_ns;
    }

    fn take_fin(&mut self, core: &mut Core, at: Seq) {
        if self.fin_received {
            (self.ack.pending, self.ack.now) = (true, true);
            return;
        }
        if at.after(self.rcv_nxt) {
            if at.at_or_before(self.rcv_wup + self.rcv_wnd) {
                self.early_fin = Some(at);
            }
            return;
        }
        if at != self.rcv_nxt {
            return;
        }
        self.rcv_nxt += 1;
        self.fin_received = true;
        self.early_fin = None;
        (self.ack.pending, self.ack.now) = (true, true);
        match self.state {
            State::Established | State::SynReceived => self.state = State::CloseWait,
            State::FinWait1 => self.state = State::Closing,
            State::FinWait2 => {
                self.send_ack(core);
                self.enter_time_wait(core);
            }
            _ => {}
        }
        core.wake(self.id, Ready::IN | Ready::RDHUP | if self.is_send_shut() { Ready::HUP } else { Ready::RDHUP });
    }

    /// Sends what may be sent now, and the acknowledgement if nothing carried it.
    fn finish_input(&mut self, core: &mut Core) {
        if self.state == State::Closed {
            return;
        }
        self.flush(core);
        self.check_ack(core);
    }
}
