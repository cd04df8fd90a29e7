//! Load averages: how many threads ran or wanted to, over one, five and fifteen minutes.
//!
//! A sample every five seconds moves each average towards the number of that moment, as proc(5) `loadavg` and sysinfo(2) have it: fixed-point
//! numbers with eleven bits behind the point.

use std::sync::atomic::{AtomicU64, Ordering};

/// Time between two samples.
pub const PERIOD_NS: u64 = 5_000_000_000;
/// 1.0.
const ONE: u64 = 1 << 11;
/// What is kept of an average at each sample: e to the power of -5/60, -5/300 and -5/900.
const KEPT: [u64; 3] = [1884, 2014, 2037];

/// The three averages.
#[derive(Debug, Default)]
pub struct LoadAverages([AtomicU64; 3]);

impl LoadAverages {
    /// Takes a sample: so many threads run or want to. Samples come one after the other.
    pub fn sample(&self, active: u64) {
        for (average, kept) in self.0.iter().zip(KEPT) {
            let old = average.load(Ordering::Relaxed);
            let target = active * ONE;
            // Rounded towards the target, so that an average reaches it.
            let round = if target >= old { ONE - 1 } else { 0 };
            average.store((old * kept + target * (ONE - kept) + round) / ONE, Ordering::Relaxed);
        }
    }
    /// As sysinfo(2) has them: sixteen bits behind the point.
    #[must_use]
    pub fn fixed_point(&self) -> [u64; 3] {
        [0, 1, 2].map(|i| self.0.get(i).map_or(0, |average| average.load(Ordering::Relaxed)) << 5)
    }
    /// `0.50 0.20 0.10`.
    #[must_use]
    pub fn text(&self) -> String {
        // Rounded to hundredths.
        let hundredths = self.fixed_point().map(|fixed| ((fixed >> 5) + ONE / 200) * 100 / ONE);
        hundredths.map(|n| format!("{}.{:02}", n / 100, n % 100)).join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_follow_a_steady_load_and_fall_when_it_ends() {
        let load = LoadAverages::default();
        assert_eq!(load.text(), "0.00 0.00 0.00");
        for _ in 0..12 {
            load.sample(2);
        }
        // A minute of two: 2 (1 - 1/e) and so on.
        assert_eq!(load.text(), "1.27 0.37 0.13");
        for _ in 0..12 * 60 * 2 {
            load.sample(2);
        }
        assert_eq!(load.text(), "2.00 2.00 2.00");
        assert_eq!(load.fixed_point(), [2 << 16; 3]);
        for _ in 0..12 * 60 * 6 {
            load.sample(0);
        }
        assert_eq!(load.text(), "0.00 0.00 0.00");
    }
}
