//! Finding losses: RACK by time (RFC 8985), three duplicate acknowledgements where the peer has no SACK (RFC 6582), and taking back what was a
//! mistake (RFC 3522 by timestamps, RFC 3708 by duplicate SACK).

use super::send::Segment;
use super::seq::Seq;
use super::socket::TcpSocket;
use crate::core::{Core, MILLISECOND};

/// Where loss recovery stands (Linux's `tcpi_ca_state`, disorder counted as open).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Phase {
    /// Nothing lost.
    #[default]
    Open,
    /// Losses found by acknowledgements are being repaired.
    Recovery,
    /// After a timeout.
    Loss,
}

/// Loss recovery.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recovery {
    pub phase: Phase,
    /// Recovery ends when this is acknowledged.
    pub high: Seq,
    /// Duplicate acknowledgements of a peer without SACK.
    pub dup_acks: u32,
    /// `snd_una` when it began; retransmissions since then may prove needless.
    pub undo_from: Option<Seq>,
    /// Retransmissions that no duplicate SACK has shown to be needless.
    pub undo_left: i64,
    /// The timestamp of the first retransmission.
    pub resent_stamp: Option<u32>,
    /// A tail loss probe is out; it is judged when this is acknowledged. Whether it was a retransmission.
    pub probe: Option<(Seq, bool)>,
}

/// RACK's state (RFC 8985 5.2).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rack {
    /// Of the segments that were delivered, the one sent last.
    pub order: u64,
    pub end: Seq,
    pub rtt_ns: u64,
    /// The last transmission's number.
    pub last_order: u64,
    /// Quarters of the least round trip in the reordering window.
    pub multiplier: u64,
    /// Recoveries until the window shrinks again.
    pub persist: u32,
    pub reordering: bool,
    /// The farthest sequence number sacked.
    pub farthest: Seq,
    pub duplicate_round: Option<Seq>,
    /// A look at what may be lost by then is due.
    pub due_ns: Option<u64>,
}

/// By order of transmission; pieces of one packet by their numbers.
fn sent_after(a: (u64, Seq), b: (u64, Seq)) -> bool {
    a.0 > b.0 || (a.0 == b.0 && a.1.after(b.1))
}

impl TcpSocket {
    /// A segment was delivered.
    pub(super) fn rack_delivered(&mut self, now_ns: u64, segment: &Segment, echo: Option<u32>) {
        let (sent_ns, resent) = (segment.sent_ns, segment.transmissions > 1);
        let rtt_ns = now_ns.saturating_sub(sent_ns);
        if resent {
            // An acknowledgement that comes too soon is for the original.
            let too_soon = self.rtt.min_ns().is_some_and(|min| rtt_ns < min);
            let older = echo.is_some_and(|echo| (echo.wrapping_sub(self.timestamp(sent_ns)) as i32) < 0);
            if too_soon || older {
                return;
            }
        }
        self.rack.rtt_ns = rtt_ns;
        if sent_after((segment.order, segment.end), (self.rack.order, self.rack.end)) {
            (self.rack.order, self.rack.end) = (segment.order, segment.end);
        }
    }

    /// How long to wait for segments that overtook each other.
    fn reordering_window_ns(&self) -> u64 {
        if !self.rack.reordering {
            let many = self.send.segments.iter().filter(|segment| segment.sacked).take(3).count() >= 3;
            if self.recovery.phase != Phase::Open || many {
                return 0;
            }
        }
        let quarter = self.rtt.min_ns().unwrap_or(0) / 4;
        (quarter * self.rack.multiplier.max(1)).min(self.rtt.smoothed_ns)
    }

    /// Marks as lost what was sent long enough before something that was delivered; answers whether anything was.
    pub(super) fn rack_detect(&mut self, core: &mut Core) -> bool {
        self.rack.due_ns = None;
        if !core.config.tcp.rack || !self.sack || self.rack.order == 0 {
            return false;
        }
        let window_ns = self.reordering_window_ns();
        let (newest, rtt_ns, now_ns) = ((self.rack.order, self.rack.end), self.rack.rtt_ns, core.now_ns);
        let mut found = false;
        let mut wait_ns = 0;
        for segment in self.send.segments.iter_mut().filter(|segment| !segment.sacked && (!segment.lost || segment.resent)) {
            if !sent_after(newest, (segment.order, segment.end)) {
                continue;
            }
            let deadline_ns = segment.sent_ns + rtt_ns + window_ns;
            if deadline_ns <= now_ns {
                if segment.resent {
                    core.statistics.tcp.lost_retransmit += 1;
                }
                (segment.lost, segment.resent) = (true, false);
                found = true;
            } else {
                wait_ns = wait_ns.max(deadline_ns - now_ns);
            }
        }
        if wait_ns > 0 {
            self.rack.due_ns = Some(now_ns + wait_ns + MILLISECOND);
        }
        found
    }

    /// Without SACK: the first segment is lost.
    pub(super) fn mark_head_lost(&mut self) {
        let mss = self.mss;
        let seq = self.snd_una;
        self.send.split(0, seq + mss);
        if let Some(head) = self.send.segments.front_mut() {
            (head.lost, head.resent) = (true, false);
        }
    }

    /// Losses were found: begin to repair them.
    pub(super) fn enter_recovery(&mut self, core: &mut Core) {
        if self.recovery.phase != Phase::Open {
            return;
        }
        if self.sack {
            core.statistics.tcp.sack_recovery += 1;
        } else {
            core.statistics.tcp.reno_recovery += 1;
        }
        let flight = u64::from(self.snd_nxt.since(self.snd_una));
        self.congestion.enter_recovery(flight);
        self.recovery.phase = Phase::Recovery;
        self.recovery.high = self.snd_nxt;
        self.begin_undo();
    }

    pub(super) fn begin_undo(&mut self) {
        self.recovery.undo_from = Some(self.snd_una);
        self.recovery.undo_left = 0;
        self.recovery.resent_stamp = None;
    }

    /// What was taken for lost was only late: everything as before.
    pub(super) fn try_undo(&mut self, core: &mut Core, echo: Option<u32>, by_duplicates: bool) -> bool {
        if self.recovery.phase == Phase::Open || self.recovery.undo_from.is_none() {
            return false;
        }
        let by_echo = match (echo, self.recovery.resent_stamp) {
            (Some(echo), Some(stamp)) => (echo.wrapping_sub(stamp) as i32) < 0,
            _ => false,
        };
        if !by_echo && !by_duplicates {
            return false;
        }
        if !self.congestion.undo() {
            return false;
        }
        if by_duplicates {
            core.statistics.tcp.dsack_undo += 1;
        }
        if self.recovery.phase == Phase::Loss {
            core.statistics.tcp.spurious_rtos += 1;
            self.rtt.backoff = 0;
            self.timers.timeouts = 0;
        }
        for segment in &mut self.send.segments {
            (segment.lost, segment.resent) = (false, false);
        }
        self.recovery.phase = Phase::Open;
        self.recovery.undo_from = None;
        true
    }

    /// A duplicate SACK: the peer got something twice.
    pub(super) fn duplicate_sacked(&mut self, core: &mut Core, range: (Seq, Seq)) -> bool {
        core.statistics.tcp.dsack_received += 1;
        // Once a round the reordering window grows (RFC 8985 6.2 step 4).
        if self.rack.duplicate_round.is_none_or(|round| self.snd_una.at_or_after(round)) {
            self.rack.duplicate_round = Some(self.snd_nxt);
            self.rack.multiplier = (self.rack.multiplier.max(1) + 1).min(20);
            self.rack.persist = 16;
            self.rack.reordering = true;
        }
        if let Some(from) = self.recovery.undo_from
            && range.1.after(from)
            && self.recovery.undo_left > 0
        {
            self.recovery.undo_left -= 1;
            return self.recovery.undo_left == 0;
        }
        false
    }

    /// Recovery is over.
    pub(super) fn leave_recovery(&mut self) {
        if self.recovery.phase == Phase::Recovery {
            self.congestion.leave_recovery();
            self.rack.persist = self.rack.persist.saturating_sub(1);
            if self.rack.persist == 0 {
                self.rack.multiplier = 1;
            }
        }
        self.recovery.phase = Phase::Open;
        self.recovery.undo_from = None;
        self.recovery.dup_acks = 0;
        for segment in &mut self.send.segments {
            (segment.lost, segment.resent) = (false, false);
        }
    }
}
