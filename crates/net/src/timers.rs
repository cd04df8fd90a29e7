//! Deadlines by key: at most one each, the earliest first.

use std::collections::{BTreeMap, BTreeSet};

/// A set of deadlines in nanoseconds, one for each key.
#[derive(Clone, Debug)]
pub struct Timers<K> {
    by_time: BTreeSet<(u64, K)>,
    by_key: BTreeMap<K, u64>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Timers { by_time: BTreeSet::new(), by_key: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Timers<K> {
    /// Sets or moves the deadline of `key`; `None` takes it away.
    pub fn set(&mut self, key: K, at_ns: Option<u64>) {
        let old = match at_ns {
            Some(at) => self.by_key.insert(key, at),
            None => self.by_key.remove(&key),
        };
        if old == at_ns {
            return;
        }
        if let Some(old) = old {
            self.by_time.remove(&(old, key));
        }
        if let Some(at) = at_ns {
            self.by_time.insert((at, key));
        }
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes out one key whose deadline has come.
    pub fn pop_due(&mut self, now_ns: u64) -> Option<K> {
        let &(at, key) = self.by_time.first()?;
        if at > now_ns {
            return None;
        }
        self.by_time.pop_first();
        self.by_key.remove(&key);
        Some(key)
    }

    /// Takes out every key whose deadline has come, so that one set again for now waits for the next round.
    pub fn take_due(&mut self, now_ns: u64) -> Vec<K> {
        core::iter::from_fn(|| self.pop_due(now_ns)).collect()
    }
}
