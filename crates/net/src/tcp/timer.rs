//! What time does to a connection: retransmission (RFC 6298), tail loss probes (RFC 8985 7), zero-window probes (RFC 9293 3.8.6.1), delayed
//! acknowledgements, keepalive (RFC 1122 4.2.3.6), giving up, FIN-WAIT-2.

use abi::Errno;

use super::rack::Phase;
use super::rtt::RTO_MAX_NS;
use super::socket::{State, TcpSocket};
use crate::core::{Core, MILLISECOND, SECOND};

/// What the retransmission timer is set for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Something was not acknowledged for too long.
    Timeout,
    /// The tail of a flight may be lost.
    LossProbe,
    /// The peer's window is closed.
    WindowProbe,
}

/// Deadlines of a connection, all in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TcpTimers {
    pub retransmit: Option<(u64, Kind)>,
    /// When the retransmission timer was set anew.
    pub base_ns: u64,
    pub delayed_ack: Option<u64>,
    pub cork: Option<u64>,
    pub fin_wait: Option<u64>,
    pub keepalive: Option<u64>,
    /// Timeouts in a row.
    pub timeouts: u32,
    /// Window probes in a row without an answer.
    pub probes: u32,
    /// How often the window probe's wait has doubled.
    pub probe_backoff: u32,
    /// Keepalive probes without an answer.
    pub keepalives: u32,
    pub heard_ns: u64,
}

impl TcpTimers {
    /// The peer gave a sign of life.
    pub fn heard(&mut self, now_ns: u64) {
        self.heard_ns = now_ns;
        self.keepalives = 0;
    }
}

impl TcpSocket {
    pub(super) fn next_deadline(&self) -> Option<u64> {
        if let Some(listener) = &self.listen {
            return listener.next_deadline();
        }
        if self.state == State::Closed {
            return None;
        }
        let timers = &self.timers;
        let retransmit = timers.retransmit.map(|(at_ns, _)| at_ns);
        let all = [retransmit, timers.delayed_ack, timers.cork, timers.fin_wait, self.keepalive_due(), self.rack.due_ns];
        all.into_iter().flatten().min()
    }

    fn keepalive_due(&self) -> Option<u64> {
        let alive = matches!(self.state, State::Established | State::CloseWait | State::FinWait1 | State::FinWait2 | State::Closing);
        if !self.options.keepalive || !alive {
            return None;
        }
        let idle_s = if self.timers.keepalives == 0 { self.options.keepalive_time_s } else { self.options.keepalive_interval_s };
        let since_ns = self.timers.keepalive.unwrap_or(0).max(self.timers.heard_ns);
        Some(since_ns + u64::from(idle_s.max(1)) * SECOND)
    }

    /// Something is due.
    pub(super) fn on_time(&mut self, core: &mut Core) {
        if self.listen.is_some() {
            self.poll_requests(core);
            return;
        }
        let now_ns = core.now_ns;
        let due = |at: Option<u64>| at.is_some_and(|at| at <= now_ns);
        if due(self.timers.fin_wait) {
            self.close_now(core);
            return;
        }
        if due(self.rack.due_ns) && self.rack_detect(core) {
            self.enter_recovery(core);
            let pipe = self.pipe();
            if self.recovery.phase == Phase::Recovery {
                self.congestion.on_recovery_ack(0, pipe, false);
            }
            self.flush(core);
            self.rearm(core);
        }
        if due(self.timers.delayed_ack) {
            self.timers.delayed_ack = None;
            // The wait was too long for the peer: be quicker next time, and stop waiting for data to ride on.
            self.ack.interactive = false;
            self.ack.delay_ns = (self.ack.delay_ns * 2).min(super::output::DELAY_MAX_NS);
            self.send_ack(core);
        }
        if due(self.timers.cork) {
            self.flush(core);
            // What a window held back is that window's business now.
            self.timers.cork = self.timers.cork.filter(|at_ns| *at_ns > now_ns);
        }
        if let Some((at_ns, kind)) = self.timers.retransmit
            && at_ns <= now_ns
        {
            self.timers.retransmit = None;
            match kind {
                Kind::Timeout => self.on_timeout(core),
                Kind::LossProbe => self.on_loss_probe(core),
                Kind::WindowProbe => self.on_window_probe(core),
            }
        }
        if due(self.keepalive_due()) {
            self.on_keepalive(core);
        }
    }

    /// Sets the retransmission timer anew: something was acknowledged, or sent again.
    pub(super) fn rearm(&mut self, core: &Core) {
        self.timers.base_ns = core.now_ns;
        if self.send.segments.is_empty() {
            if !matches!(self.timers.retransmit, Some((_, Kind::WindowProbe))) {
                self.timers.retransmit = None;
            }
            return;
        }
        let timeout_ns = core.now_ns + self.rtt.timeout_ns();
        self.timers.retransmit = Some((timeout_ns, Kind::Timeout));
        self.arm_loss_probe(core, timeout_ns);
    }

    /// New data was sent.
    pub(super) fn arm_after_send(&mut self, core: &Core) {
        match self.timers.retransmit {
            Some((_, Kind::Timeout | Kind::LossProbe)) => {
                let timeout_ns = self.timers.base_ns.max(core.now_ns.saturating_sub(self.rtt.timeout_ns())) + self.rtt.timeout_ns();
                self.timers.retransmit = Some((timeout_ns, Kind::Timeout));
                self.arm_loss_probe(core, timeout_ns);
            }
            _ => self.rearm(core),
        }
    }

    /// A probe of the tail before the timeout, where that may help (RFC 8985 7.2).
    fn arm_loss_probe(&mut self, core: &Core, timeout_ns: u64) {
        let usable = core.config.tcp.tail_loss_probe
            && self.sack
            && self.recovery.phase == Phase::Open
            && self.recovery.probe.is_none()
            && self.rtt.smoothed_ns > 0
            && self.timers.timeouts == 0
            && self.state != State::SynSent
            && !self.send.segments.iter().any(|segment| segment.sacked);
        if !usable {
            return;
        }
        let mut wait_ns = 2 * self.rtt.smoothed_ns;
        // A single segment may be waiting for a delayed acknowledgement.
        wait_ns += if self.pipe() <= u64::from(self.mss) { super::output::DELAY_MAX_NS } else { 2 * MILLISECOND };
        let at_ns = core.now_ns + wait_ns;
        if at_ns < timeout_ns {
            self.timers.retransmit = Some((at_ns, Kind::LossProbe));
        }
    }

    /// With nothing on its way and a window that lets nothing out, probing must go on, or a lost update stalls both for ever.
    pub(super) fn arm_probe(&mut self, core: &Core) {
        let waiting = self.not_sent() > 0;
        if !self.send.segments.is_empty() || !waiting {
            if let Some((_, Kind::WindowProbe)) = self.timers.retransmit {
                self.timers.retransmit = None;
                self.timers.probe_backoff = 0;
            }
            return;
        }
        let window_left = (self.snd_una + self.snd_wnd).since(self.snd_nxt);
        if window_left > 0 && (self.timers.cork.is_some() || self.not_sent() as u32 <= window_left) {
            return;
        }
        if self.timers.retransmit.is_none() {
            let wait_ns = (self.rtt.rto_ns << self.timers.probe_backoff.min(10)).min(RTO_MAX_NS);
            self.timers.retransmit = Some((core.now_ns + wait_ns, Kind::WindowProbe));
        }
    }

    fn retries(&self, core: &Core) -> u32 {
        let config = &core.config.tcp;
        match self.state {
            State::SynSent | State::SynReceived if self.options.syn_retries != 0 => self.options.syn_retries,
            State::SynSent | State::SynReceived => config.syn_retries,
            _ if self.orphan => {
                if config.orphan_retries == 0 {
                    8
                } else {
                    config.orphan_retries
                }
            }
            _ => config.retries2,
        }
    }

    fn is_given_up(&self, core: &Core, count: u32, since_ns: u64) -> bool {
        let user_ns = self.options.user_timeout_ms * MILLISECOND;
        if user_ns > 0 && !matches!(self.state, State::SynSent | State::SynReceived) {
            return core.now_ns >= since_ns + user_ns;
        }
        count > self.retries(core)
    }

    fn give_up(&mut self, core: &mut Core) {
        core.statistics.tcp.abort_on_timeout += 1;
        let errno = self.soft_error.unwrap_or(Errno::ETIMEDOUT);
        self.abort(core, errno);
    }

    fn on_timeout(&mut self, core: &mut Core) {
        let Some(head) = self.send.segments.front().copied() else { return };
        core.statistics.tcp.timeouts += 1;
        self.timers.timeouts += 1;
        if self.is_given_up(core, self.timers.timeouts, head.first_sent_ns) {
            self.give_up(core);
            return;
        }
        self.rtt.backoff = (self.rtt.backoff + 1).min(20);
        if matches!(self.state, State::SynSent | State::SynReceived) {
            self.resend(core, 0);
            self.rearm(core);
            return;
        }
        let first = self.recovery.phase != Phase::Loss;
        if first || self.snd_una.at_or_after(self.recovery.high) {
            self.begin_undo();
            self.recovery.high = self.snd_nxt;
        }
        self.congestion.on_timeout(first);
        self.recovery.phase = Phase::Loss;
        self.recovery.dup_acks = 0;
        self.recovery.probe = None;
        // What the peer said it has it may have thrown away (RFC 2018 8), but only a second timeout says so.
        let renege = self.timers.timeouts > 2 || head.sacked;
        for segment in &mut self.send.segments {
            if renege {
                segment.sacked = false;
            }
            if !segment.sacked {
                (segment.lost, segment.resent) = (true, false);
            }
        }
        if self.timers.timeouts >= core.config.tcp.retries1 {
            // Perhaps the way is to blame.
            self.route = None;
            let _ = self.decision(core);
        }
        if let Some(index) = self.send.first_lost() {
            self.resend(core, index);
        }
        self.rearm(core);
    }

    fn on_loss_probe(&mut self, core: &mut Core) {
        core.statistics.tcp.loss_probes += 1;
        let fresh = self.not_sent() > 0 && self.send_new(core, true);
        if !fresh && let Some(last) = self.send.segments.len().checked_sub(1) {
            let tail = self.send.segments.get(last).map_or(0, super::send::Segment::len);
            let mut index = last;
            if tail > self.mss
                && let Some(segment) = self.send.segments.get(last).copied()
            {
                let rest = if tail.is_multiple_of(self.mss) { self.mss } else { tail % self.mss };
                self.send.split(last, segment.end - rest);
                index = last + 1;
            }
            self.resend(core, index);
        }
        self.recovery.probe = Some((self.snd_nxt, !fresh));
        self.timers.base_ns = core.now_ns;
        self.timers.retransmit = Some((core.now_ns + self.rtt.timeout_ns(), Kind::Timeout));
    }

    fn on_window_probe(&mut self, core: &mut Core) {
        if self.send.segments.is_empty() && self.not_sent() > 0 {
            self.timers.probes += 1;
            let since_ns = self.timers.heard_ns;
            if self.is_given_up(core, self.timers.probes, since_ns) {
                self.give_up(core);
                return;
            }
            core.statistics.tcp.window_probes += 1;
            self.timers.probe_backoff = (self.timers.probe_backoff + 1).min(10);
            if (self.snd_una + self.snd_wnd).after(self.snd_nxt) {
                self.flush(core);
            }
            if self.send.segments.is_empty() {
                self.send_probe(core);
            }
        }
        self.arm_probe(core);
    }

    fn on_keepalive(&mut self, core: &mut Core) {
        if !self.send.segments.is_empty() || self.not_sent() > 0 {
            // Data in flight keeps the connection honest by itself.
            self.timers.heard(core.now_ns);
            return;
        }
        let user_ns = self.options.user_timeout_ms * MILLISECOND;
        let silent = user_ns > 0 && self.timers.keepalives > 0 && core.now_ns >= self.timers.heard_ns + user_ns;
        if silent || (user_ns == 0 && self.timers.keepalives >= self.options.keepalive_probes) {
            self.send_reset_now(core);
            self.give_up(core);
            return;
        }
        core.statistics.tcp.keepalives += 1;
        self.timers.keepalives += 1;
        self.timers.keepalive = Some(core.now_ns);
        self.send_probe(core);
    }
}
