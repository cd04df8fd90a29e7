//! What an acknowledgement does: window, scoreboard, round-trip time, losses, congestion (RFC 9293 3.10.7.4, RFC 5681, RFC 6675, RFC 5961).

use super::rack::Phase;
use super::seq::Seq;
use super::socket::{State, TcpSocket};
use crate::core::{Core, Ready};
use crate::wire::tcp::{Flags, TcpHeader};

/// What one acknowledgement brought.
#[derive(Default)]
struct Harvest {
    /// Bytes newly known to have arrived, acknowledged or sacked.
    delivered: u64,
    /// Bytes newly acknowledged.
    acked: u64,
    /// From a segment that was sent once.
    rtt_ns: Option<u64>,
    /// All duplicates are accounted for.
    all_needless: bool,
    saw_duplicate: bool,
}

impl TcpSocket {
    /// Processes the acknowledgement of an acceptable segment; false when the segment is to be dropped.
    pub(super) fn acknowledge(&mut self, core: &mut Core, header: &TcpHeader, data_len: usize) -> bool {
        let ack = header.ack;
        if ack.before(self.snd_una) {
            // RFC 5961 5.2: far too old is an attack.
            if ack.before(self.snd_una - self.max_window.max(65_535)) {
                self.challenge(core);
                return false;
            }
            let mut harvest = Harvest::default();
            self.take_sack(core, header, &mut harvest);
            self.judge_losses(core, header, harvest, false);
            return true;
        }
        if ack.after(self.snd_nxt) {
            self.send_ack(core);
            return false;
        }
        let window = if header.flags.has(Flags::SYN) { u32::from(header.window) } else { u32::from(header.window) << self.snd_scale };
        let advances = ack.after(self.snd_una);
        let window_changed = window != self.snd_wnd;
        if advances || header.seq.after(self.snd_wl1) || (header.seq == self.snd_wl1 && (window > self.snd_wnd || window == 0)) {
            self.snd_wl1 = header.seq;
            self.snd_wnd = window;
            self.max_window = self.max_window.max(window);
        }
        self.timers.probes = 0;
        let mut harvest = Harvest::default();
        if advances {
            self.take_acked(core, ack, &mut harvest);
        }
        self.take_sack(core, header, &mut harvest);
        if !advances && !self.sack && data_len == 0 && !window_changed && !self.send.segments.is_empty() && ack == self.snd_una {
            self.recovery.dup_acks += 1;
            harvest.delivered += u64::from(self.mss);
        }
        self.judge_probe(header, &harvest);
        self.judge_losses(core, header, harvest, advances);
        if advances {
            self.timers.timeouts = 0;
            self.soft_error = None;
            self.rearm(core);
            if !self.orphan && self.is_writeable() {
                core.wake(self.id, Ready::OUT);
            }
            if let Ok(decision) = self.decision(core) {
                core.neighbours.confirm((decision.interface, decision.next), core.now_ns);
            }
        }
        true
    }

    /// Takes acknowledged segments off the scoreboard.
    fn take_acked(&mut self, core: &mut Core, ack: Seq, harvest: &mut Harvest) {
        let (now_ns, echo) = (core.now_ns, None);
        while let Some(head) = self.send.segments.front_mut() {
            if !head.end.at_or_before(ack) {
                // A partly acknowledged piece keeps its clock.
                if head.seq.before(ack) {
                    if !head.sacked {
                        harvest.delivered += u64::from(ack.since(head.seq));
                    }
                    head.seq = ack;
                    head.syn = false;
                }
                break;
            }
            let Some(head) = self.send.segments.pop_front() else { break };
            if !head.sacked {
                harvest.delivered += u64::from(head.len());
                if head.transmissions == 1 {
                    harvest.rtt_ns = Some(now_ns.saturating_sub(head.sent_ns));
                    if head.end.before(self.rack.farthest) {
                        self.rack.reordering = true;
                    }
                }
                self.rack_delivered(now_ns, &head, echo);
            }
        }
        harvest.acked = u64::from(ack.since(self.snd_una));
        self.counts.bytes_acked += harvest.acked;
        self.snd_una = ack;
        self.send.release(ack);
        if self.urgent_end.is_some_and(|end| end.at_or_before(ack)) {
            self.urgent_end = None;
        }
        if !self.sack {
            let segments = (harvest.acked / u64::from(self.mss)).max(1) as u32;
            self.recovery.dup_acks = self.recovery.dup_acks.saturating_sub(segments - 1);
        }
    }

    /// Notes what the SACK option says.
    fn take_sack(&mut self, core: &mut Core, header: &TcpHeader, harvest: &mut Harvest) {
        let blocks = header.options.sack.as_slice();
        if !self.sack || blocks.is_empty() {
            return;
        }
        let echo = if self.timestamps { header.options.timestamps.map(|(_, echo)| echo) } else { None };
        let mut rest = blocks;
        if let Some(&(left, right)) = blocks.first() {
            let inside_next = blocks.get(1).is_some_and(|next| left.at_or_after(next.0) && right.at_or_before(next.1));
            if left.before(header.ack) || inside_next {
                rest = &blocks[1..];
                let plausible = left.before(right) && right.at_or_before(self.snd_nxt);
                if plausible {
                    harvest.saw_duplicate = true;
                    harvest.all_needless |= self.duplicate_sacked(core, (left, right));
                }
            }
        }
        for &(left, right) in rest {
            if left.before(right) && left.at_or_after(self.snd_una) && right.at_or_before(self.snd_nxt) {
                self.take_block(core, (left, right), echo, harvest);
            }
        }
    }

    fn take_block(&mut self, core: &mut Core, (left, right): (Seq, Seq), echo: Option<u32>, harvest: &mut Harvest) {
        let now_ns = core.now_ns;
        let mut index = self.send.find(left);
        while let Some(segment) = self.send.segments.get(index).copied() {
            if segment.seq.at_or_after(right) {
                break;
            }
            // Pieces are whole multiples of the segment size, so that no peer can shred the queue (Linux: tcp_match_skb_to_sack).
            if segment.seq.before(left) {
                let skip = left.since(segment.seq).div_ceil(self.mss) * self.mss;
                if !self.send.split(index, segment.seq + skip) {
                    index += 1;
                    continue;
                }
                index += 1;
                continue;
            }
            if segment.end.after(right) {
                let whole = right.since(segment.seq) / self.mss * self.mss;
                if whole == 0 || !self.send.split(index, segment.seq + whole) {
                    break;
                }
            }
            let Some(segment) = self.send.segments.get_mut(index) else { break };
            index += 1;
            if segment.sacked {
                continue;
            }
            let segment_now = *segment;
            (segment.sacked, segment.lost, segment.resent) = (true, false, false);
            harvest.delivered += u64::from(segment_now.len());
            if segment_now.transmissions == 1 {
                harvest.rtt_ns = harvest.rtt_ns.or(Some(now_ns.saturating_sub(segment_now.sent_ns)));
                if segment_now.end.before(self.rack.farthest) {
                    self.rack.reordering = true;
                }
            }
            self.rack.farthest =
                if self.rack.farthest.before(self.snd_una) { segment_now.end } else { self.rack.farthest.max(segment_now.end) };
            self.rack_delivered(now_ns, &segment_now, echo);
        }
    }

    /// Was the tail loss probe the only loss? Then it was a loss all the same (RFC 8985 7.4).
    fn judge_probe(&mut self, header: &TcpHeader, harvest: &Harvest) {
        let Some((high, resent)) = self.recovery.probe else { return };
        if !header.ack.at_or_after(high) {
            return;
        }
        self.recovery.probe = None;
        if resent && !harvest.saw_duplicate && self.recovery.phase == Phase::Open {
            self.congestion.enter_recovery(u64::from(self.snd_nxt.since(self.snd_una)));
            self.congestion.leave_recovery();
        }
    }

    /// Updates the round-trip time, finds losses and moves the congestion window.
    fn judge_losses(&mut self, core: &mut Core, header: &TcpHeader, harvest: Harvest, advances: bool) {
        let now_ns = core.now_ns;
        let echo = if self.timestamps { header.options.timestamps.map(|(_, echo)| echo).filter(|echo| *echo != 0) } else { None };
        let sample = harvest.rtt_ns.or_else(|| {
            // A retransmitted segment is measured by its echo (RFC 7323 4.1).
            let echo = echo.filter(|_| advances)?;
            let elapsed_ms = self.timestamp(now_ns).wrapping_sub(echo);
            // Less than the stamp's unit measures nothing.
            (1..1 << 24).contains(&elapsed_ms).then(|| u64::from(elapsed_ms) * crate::core::MILLISECOND)
        });
        if let Some(rtt_ns) = sample {
            self.rtt.sample(rtt_ns, now_ns);
        }
        if advances {
            self.rtt.backoff = 0;
        }
        let undone = (advances || harvest.all_needless) && self.try_undo(core, echo, harvest.all_needless);
        let over = self.snd_una.at_or_after(self.recovery.high);
        if self.recovery.phase != Phase::Open && over {
            self.leave_recovery();
        }
        let mut found = !undone && self.rack_detect(core);
        if !self.sack {
            let again = self.recovery.phase == Phase::Recovery && advances;
            if again || (self.recovery.phase == Phase::Open && self.recovery.dup_acks >= 3) {
                if again {
                    self.recovery.dup_acks = 0;
                }
                self.mark_head_lost();
                found = true;
            }
        }
        if found {
            self.enter_recovery(core);
        }
        match self.recovery.phase {
            Phase::Recovery => {
                let pipe = self.pipe();
                self.congestion.on_recovery_ack(harvest.delivered, pipe, advances && !found);
            }
            Phase::Open | Phase::Loss => {
                let flight = self.pipe() + harvest.acked;
                let limited = self.was_limited || (self.congestion.in_slow_start() && self.congestion.window < 2 * flight);
                self.congestion.on_ack(harvest.acked, now_ns, harvest.rtt_ns, self.rtt.smoothed_ns, limited);
            }
        }
        if !self.options.send_locked {
            self.tune_send_buffer(core);
        }
    }

    /// The send buffer holds two windows (`tcp_sndbuf_expand`).
    fn tune_send_buffer(&mut self, core: &Core) {
        let per_segment = u64::from(self.mss) + crate::packet::OVERHEAD as u64;
        let segments = (self.congestion.window / u64::from(self.mss)).max(10);
        let wanted = usize::try_from(2 * segments * per_segment).unwrap_or(usize::MAX).min(core.config.tcp.send[2]);
        if wanted > self.options.send_limit && core.has_memory(wanted - self.options.send_limit) {
            self.options.send_limit = wanted;
        }
    }

    /// Bytes in the network.
    pub(super) fn pipe(&self) -> u64 {
        let pipe = self.send.pipe();
        if self.sack { pipe } else { pipe.saturating_sub(u64::from(self.recovery.dup_acks) * u64::from(self.mss)) }
    }

    /// Our FIN has been acknowledged.
    pub(super) fn fin_acknowledged(&self) -> bool {
        self.fin_queued && self.snd_una == self.send.end() + 1 && !matches!(self.state, State::Closed)
    }
}
