//! How much may be in flight: slow start, Reno (RFC 5681, RFC 6582) and CUBIC (RFC 9438) with HyStart's delay test (RFC 9406), and
//! proportional rate reduction during recovery (RFC 6937).
//!
//! What it is not: finding losses (`rack`). It is told of acknowledgements and of losses.

use crate::core::{MILLISECOND, SECOND};

/// Which congestion control (`TCP_CONGESTION`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// RFC 9438.
    Cubic,
    /// RFC 5681.
    Reno,
}

impl Algorithm {
    /// Linux's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Cubic => "cubic",
            Algorithm::Reno => "reno",
        }
    }

    /// By Linux's name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Algorithm> {
        [Algorithm::Cubic, Algorithm::Reno].into_iter().find(|algorithm| algorithm.name() == name)
    }
}

const CUBIC_C: f64 = 0.4;
const CUBIC_BETA: f64 = 0.7;
/// Samples of a round before HyStart judges it.
const HYSTART_SAMPLES: u32 = 8;

#[derive(Clone, Copy, Debug, Default)]
struct Cubic {
    w_max: f64,
    epoch_ns: Option<u64>,
    cwnd_epoch: f64,
    k: f64,
    w_est: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct HyStart {
    round_end_bytes: u64,
    last_min_ns: u64,
    this_min_ns: u64,
    samples: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct RateReduction {
    delivered: u64,
    sent: u64,
    flight_at_start: u64,
}

/// The congestion window and what moves it. All in bytes.
#[derive(Clone, Debug)]
pub struct Congestion {
    /// Which algorithm.
    pub algorithm: Algorithm,
    /// The window.
    pub window: u64,
    /// Slow start ends here.
    pub threshold: u64,
    /// Never more than this (`snd_cwnd_clamp`).
    pub clamp: u64,
    mss: u64,
    cubic: Cubic,
    hystart: HyStart,
    reduction: RateReduction,
    acked_total: u64,
    fraction: u64,
    /// Before the last reduction, to undo it: window, threshold and the cubic state.
    saved: Option<(u64, u64, Cubic)>,
}

impl Congestion {
    /// The initial window: ten segments (RFC 6928), or what a route decrees.
    #[must_use]
    pub fn new(algorithm: Algorithm, mss: u32, initial_segments: u32) -> Congestion {
        let mss = u64::from(mss.max(1));
        let segments = if initial_segments == 0 { 10 } else { initial_segments };
        Congestion {
            algorithm,
            window: mss * u64::from(segments),
            threshold: u64::MAX,
            clamp: u64::MAX,
            mss,
            cubic: Cubic::default(),
            hystart: HyStart::default(),
            reduction: RateReduction::default(),
            acked_total: 0,
            fraction: 0,
            saved: None,
        }
    }

    /// The segment size changed.
    pub fn set_mss(&mut self, mss: u32) {
        self.mss = u64::from(mss.max(1));
        self.window = self.window.max(self.mss);
    }

    /// Below the threshold.
    #[must_use]
    pub fn in_slow_start(&self) -> bool {
        self.window < self.threshold
    }

    /// `acked` new bytes were acknowledged outside of recovery. `limited`: the window was what held the sender back.
    pub fn on_ack(&mut self, acked: u64, now_ns: u64, rtt_ns: Option<u64>, srtt_ns: u64, limited: bool) {
        self.acked_total += acked;
        if let Some(rtt_ns) = rtt_ns {
            self.hystart(rtt_ns);
        }
        if !limited {
            return;
        }
        let mut acked = acked;
        if self.in_slow_start() {
            let grown = (self.window + acked).min(self.threshold.max(self.window));
            acked -= grown - self.window;
            self.window = grown;
        }
        if acked > 0 && !self.in_slow_start() {
            match self.algorithm {
                Algorithm::Reno => self.grow(acked, self.window),
                Algorithm::Cubic => self.cubic_ack(acked, now_ns, srtt_ns),
            }
        }
        self.window = self.window.min(self.clamp).max(self.mss);
    }

    /// One segment more for each `per` bytes acknowledged.
    fn grow(&mut self, acked: u64, per: u64) {
        self.fraction += acked;
        let per = per.max(1);
        if self.fraction >= per {
            self.window += self.mss * (self.fraction / per);
            self.fraction %= per;
        }
    }

    fn cubic_ack(&mut self, acked: u64, now_ns: u64, srtt_ns: u64) {
        let segments = self.window as f64 / self.mss as f64;
        let cubic = &mut self.cubic;
        let epoch_ns = *cubic.epoch_ns.get_or_insert_with(|| {
            cubic.cwnd_epoch = segments;
            cubic.w_est = segments;
            if cubic.w_max < segments {
                cubic.w_max = segments;
            }
            cubic.k = ((cubic.w_max - segments) / CUBIC_C).cbrt();
            now_ns
        });
        let seconds = |ns: u64| ns as f64 / SECOND as f64;
        let curve = |t: f64| CUBIC_C * (t - cubic.k).powi(3) + cubic.w_max;
        let t = seconds(now_ns.saturating_sub(epoch_ns));
        let target = curve(t + seconds(srtt_ns)).clamp(segments, 1.5 * segments);
        let alpha = if cubic.w_est >= cubic.w_max { 1.0 } else { 3.0 * (1.0 - CUBIC_BETA) / (1.0 + CUBIC_BETA) };
        cubic.w_est += alpha * (acked as f64 / self.mss as f64) / segments;
        let friendly = cubic.w_est;
        let wanted = if curve(t) < friendly { friendly.max(target.min(friendly)) } else { target };
        // Bytes acknowledged for one more segment.
        let per = if wanted > segments { self.window as f64 / (wanted - segments) } else { self.window as f64 * 100.0 };
        self.grow(acked, (per as u64).max(2 * self.mss).min(self.window.saturating_mul(100)));
    }

    /// Leaves slow start when a round's least delay has grown by an eighth.
    fn hystart(&mut self, rtt_ns: u64) {
        if !self.in_slow_start() || self.algorithm != Algorithm::Cubic {
            return;
        }
        let state = &mut self.hystart;
        if self.acked_total >= state.round_end_bytes {
            state.last_min_ns = state.this_min_ns;
            (state.this_min_ns, state.samples) = (u64::MAX, 0);
            state.round_end_bytes = self.acked_total + self.window;
        }
        state.this_min_ns = state.this_min_ns.min(rtt_ns);
        state.samples += 1;
        let judged = state.samples >= HYSTART_SAMPLES && (1..u64::MAX).contains(&state.last_min_ns);
        let allowance = (state.last_min_ns / 8).clamp(4 * MILLISECOND, 16 * MILLISECOND);
        if judged && state.this_min_ns >= state.last_min_ns + allowance && self.window >= 16 * self.mss {
            self.threshold = self.window;
        }
    }

    fn reduced(&mut self) -> u64 {
        let segments = self.window as f64 / self.mss as f64;
        match self.algorithm {
            Algorithm::Reno => (self.window / 2).max(2 * self.mss),
            Algorithm::Cubic => {
                // Fast convergence (RFC 9438 4.7).
                self.cubic.w_max = if segments < self.cubic.w_max { segments * (1.0 + CUBIC_BETA) / 2.0 } else { segments };
                self.cubic.epoch_ns = None;
                ((self.window as f64 * CUBIC_BETA) as u64).max(2 * self.mss)
            }
        }
    }

    /// A loss was found by acknowledgements: lowers the threshold, and the window step by step as data is delivered.
    pub fn enter_recovery(&mut self, flight: u64) {
        self.saved = Some((self.window, self.threshold, self.cubic));
        self.threshold = self.reduced();
        self.fraction = 0;
        self.reduction = RateReduction { delivered: 0, sent: 0, flight_at_start: flight.max(1) };
    }

    /// `delivered` bytes arrived during recovery, `pipe` are in flight. `advanced`: new data was acknowledged and nothing more was lost.
    pub fn on_recovery_ack(&mut self, delivered: u64, pipe: u64, advanced: bool) {
        let reduction = &mut self.reduction;
        reduction.delivered += delivered;
        let allowance = if pipe > self.threshold {
            (reduction.delivered * self.threshold).div_ceil(reduction.flight_at_start).saturating_sub(reduction.sent)
        } else {
            let mut limit = reduction.delivered.saturating_sub(reduction.sent).max(delivered);
            if advanced {
                limit += self.mss;
            }
            limit.min(self.threshold - pipe)
        };
        // The first retransmission is never held back.
        let allowance = if reduction.sent == 0 { allowance.max(self.mss) } else { allowance };
        self.window = pipe + allowance;
    }

    /// Something was sent during recovery.
    pub fn on_recovery_send(&mut self, bytes: u64) {
        self.reduction.sent += bytes;
    }

    /// Recovery is over.
    pub fn leave_recovery(&mut self) {
        self.window = self.threshold.max(self.mss);
        self.saved = None;
    }

    /// A retransmission timeout. `first`: not one after another.
    pub fn on_timeout(&mut self, first: bool) {
        if first {
            self.saved = Some((self.window, self.threshold, self.cubic));
            self.threshold = self.reduced();
        }
        self.window = self.mss;
        self.fraction = 0;
    }

    /// The last reduction was a mistake; answers whether it could be taken back.
    pub fn undo(&mut self) -> bool {
        let Some((window, threshold, cubic)) = self.saved.take() else { return false };
        self.window = self.window.max(window);
        self.threshold = threshold.max(self.threshold);
        self.cubic = cubic;
        true
    }

    /// Nothing was sent for `idle_ns`, a timeout or more: the window decays to the initial one (RFC 2861, RFC 5681 4.1).
    pub fn on_idle(&mut self, idle_ns: u64, rto_ns: u64, initial_segments: u32) {
        let segments = if initial_segments == 0 { 10 } else { u64::from(initial_segments) };
        let restart = (self.mss * segments).min(self.window);
        self.threshold = self.threshold.max(self.window * 3 / 4);
        let mut left = idle_ns;
        while left >= rto_ns.max(1) && self.window > restart {
            self.window /= 2;
            left -= rto_ns.max(1);
        }
        self.window = self.window.max(restart);
        self.cubic.epoch_ns = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;

    #[test]
    fn slow_start_doubles_and_reno_adds_a_segment_a_round() {
        let mut reno = Congestion::new(Algorithm::Reno, MSS, 0);
        reno.on_ack(10_000, 0, None, 1, true);
        assert_eq!(reno.window, 20_000);
        reno.enter_recovery(20_000);
        reno.leave_recovery();
        assert_eq!(reno.window, 10_000);
        for _ in 0..10 {
            reno.on_ack(1000, 0, None, 1, true);
        }
        assert_eq!(reno.window, 11_000);
        reno.on_ack(100_000, 0, None, 1, false);
        assert_eq!(reno.window, 11_000, "an idle window does not grow");
    }

    #[test]
    fn cubic_returns_to_where_it_lost_and_then_goes_beyond() {
        let mut cubic = Congestion::new(Algorithm::Cubic, MSS, 100);
        cubic.enter_recovery(100_000);
        cubic.leave_recovery();
        assert_eq!(cubic.window, 70_000);
        let rtt = 100 * MILLISECOND;
        let mut windows = Vec::new();
        for round in 0..80u64 {
            let mut left = cubic.window;
            while left > 0 {
                cubic.on_ack(left.min(2000), round * rtt, None, rtt, true);
                left = left.saturating_sub(2000);
            }
            windows.push(cubic.window / 1000);
        }
        // K = cbrt(30 / 0.4) = 4.2 s: flat near 100 segments there.
        assert!((96..=104).contains(&windows[42]), "{windows:?}");
        assert!(windows[20] > 85 && windows[79] > 115, "{windows:?}");
    }

    #[test]
    fn a_mistaken_reduction_is_taken_back() {
        let mut cubic = Congestion::new(Algorithm::Cubic, MSS, 50);
        cubic.on_timeout(true);
        cubic.on_timeout(false);
        assert_eq!((cubic.window, cubic.threshold), (1000, 35_000));
        assert!(cubic.undo());
        assert_eq!((cubic.window, cubic.threshold), (50_000, u64::MAX));
        assert!(!cubic.undo());
    }

    #[test]
    fn rate_reduction_sends_in_proportion_to_what_arrives() {
        let mut reno = Congestion::new(Algorithm::Reno, MSS, 20);
        reno.enter_recovery(20_000);
        let (mut pipe, mut sent) = (20_000u64, 0);
        for _ in 0..20 {
            pipe -= 1000;
            reno.on_recovery_ack(1000, pipe, false);
            while pipe + 1000 <= reno.window {
                pipe += 1000;
                sent += 1;
                reno.on_recovery_send(1000);
            }
        }
        assert_eq!(pipe, 10_000);
        assert_eq!(sent, 10);
    }
}
