//! Round-trip time and the retransmission timeout (RFC 6298, with Linux's bounds), and the least of late (RFC 8985 6.1).

use crate::core::{MILLISECOND, SECOND};

/// `TCP_RTO_MIN`
pub const RTO_MIN_NS: u64 = 200 * MILLISECOND;
/// `TCP_RTO_MAX`
pub const RTO_MAX_NS: u64 = 120 * SECOND;
/// `TCP_TIMEOUT_INIT`
pub const RTO_INITIAL_NS: u64 = SECOND;
/// `tcp_min_rtt_wlen`
const MIN_WINDOW_NS: u64 = 300 * SECOND;

/// Estimates, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Rtt {
    /// Smoothed; 0 before the first sample.
    pub smoothed_ns: u64,
    /// Mean deviation.
    pub deviation_ns: u64,
    /// The timeout without backoff.
    pub rto_ns: u64,
    /// How often the timeout has doubled.
    pub backoff: u32,
    min_ns: u64,
    min_at_ns: u64,
}

impl Default for Rtt {
    fn default() -> Rtt {
        Rtt { smoothed_ns: 0, deviation_ns: 0, rto_ns: RTO_INITIAL_NS, backoff: 0, min_ns: u64::MAX, min_at_ns: 0 }
    }
}

impl Rtt {
    /// One more sample.
    pub fn sample(&mut self, rtt_ns: u64, now_ns: u64) {
        let rtt_ns = rtt_ns.max(1);
        if self.smoothed_ns == 0 {
            self.smoothed_ns = rtt_ns;
            self.deviation_ns = rtt_ns / 2;
        } else {
            let error = self.smoothed_ns.abs_diff(rtt_ns);
            self.deviation_ns = self.deviation_ns - self.deviation_ns / 4 + error / 4;
            self.smoothed_ns = self.smoothed_ns - self.smoothed_ns / 8 + rtt_ns / 8;
        }
        self.rto_ns = (self.smoothed_ns + (4 * self.deviation_ns).max(RTO_MIN_NS)).min(RTO_MAX_NS);
        self.backoff = 0;
        if rtt_ns <= self.min_ns || now_ns > self.min_at_ns + MIN_WINDOW_NS {
            (self.min_ns, self.min_at_ns) = (rtt_ns, now_ns);
        }
    }

    /// The timeout with backoff.
    #[must_use]
    pub fn timeout_ns(&self) -> u64 {
        self.rto_ns.checked_shl(self.backoff.min(20)).unwrap_or(u64::MAX).min(RTO_MAX_NS)
    }

    /// The least of late; `None` before the first sample.
    #[must_use]
    pub fn min_ns(&self) -> Option<u64> {
        (self.min_ns != u64::MAX).then_some(self.min_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_follows_the_samples_within_its_bounds() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout_ns(), SECOND);
        for n in 0..100 {
            rtt.sample(10 * MILLISECOND, n);
        }
        assert_eq!(rtt.timeout_ns() / MILLISECOND, 210);
        rtt.backoff = 3;
        assert_eq!(rtt.timeout_ns() / MILLISECOND, 1680);
        rtt.backoff = 63;
        assert_eq!(rtt.timeout_ns(), RTO_MAX_NS);
        rtt.sample(500 * MILLISECOND, 100);
        assert!(rtt.timeout_ns() > 500 * MILLISECOND);
        assert_eq!(rtt.min_ns(), Some(10 * MILLISECOND));
    }
}
