//! Signals that wait to be taken: a set, and what is known about each in the order of arrival.

use abi::{Errno, SigInfo, SigSet};
use ram::{Charge, Ram};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What one user has outstanding, over all its processes: bounds of `RLIMIT_SIGPENDING` and `RLIMIT_NPROC`.
#[derive(Default, Debug)]
pub struct UserAccount {
    /// Queued signals.
    pub signals: AtomicU64,
    /// Tasks, by real user id.
    pub tasks: AtomicU64,
}

/// Bytes that a queued signal costs.
const ENTRY_BYTES: usize = 192;

/// A queued signal's place in its sender's or receiver's account; given back when the signal is taken.
#[derive(Debug)]
pub struct Slot {
    account: Arc<UserAccount>,
    _charge: Option<Charge>,
}

impl Slot {
    /// A place for one more, while the user has fewer than `limit` (`RLIMIT_SIGPENDING`).
    ///
    /// # Errors
    /// EAGAIN when the user has `limit` already or memory is used up.
    pub fn take(account: &Arc<UserAccount>, limit: u64, ram: Option<&'static Ram>) -> Result<Slot, Errno> {
        if account.signals.fetch_add(1, Ordering::Relaxed) >= limit {
            account.signals.fetch_sub(1, Ordering::Relaxed);
            return Err(Errno::EAGAIN);
        }
        // From here on dropping the slot gives the place back.
        let mut slot = Slot { account: account.clone(), _charge: None };
        if let Some(ram) = ram {
            slot._charge = Some(ram.charge(ENTRY_BYTES).map_err(|_| Errno::EAGAIN)?);
        }
        Ok(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.account.signals.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Entry {
    info: SigInfo,
    _slot: Option<Slot>,
}

/// The pending signals of a thread, or those of a process that any thread may take.
#[derive(Default)]
pub struct Pending {
    set: SigSet,
    queue: VecDeque<Entry>,
}

impl Pending {
    /// The signals that are pending.
    #[must_use]
    pub fn set(&self) -> SigSet {
        self.set
    }

    /// Adds a signal. A standard signal that is pending already is dropped (false); a real-time one queues as often as it is sent. Without a
    /// slot a real-time signal is only marked, and its information is lost.
    pub fn add(&mut self, info: SigInfo, slot: Option<Slot>) -> bool {
        let signal = info.signal;
        if !signal.is_realtime() && self.set.has(signal) {
            return false;
        }
        self.set.add(signal);
        if slot.is_some() || !signal.is_realtime() {
            self.queue.push_back(Entry { info, _slot: slot });
        }
        true
    }

    /// Whether a signal of POSIX timer `id` is queued.
    #[must_use]
    pub fn has_timer(&self, timer: i32) -> bool {
        self.queue.iter().any(|e| matches!(e.info.fields, abi::SigFields::Timer { id, .. } if id == timer))
    }

    /// Takes out what POSIX timer `id` queued, when it is deleted.
    pub fn remove_timer(&mut self, timer: i32) {
        self.queue.retain(|e| !matches!(e.info.fields, abi::SigFields::Timer { id, .. } if id == timer));
        self.rebuild();
    }

    /// Takes the next of the signals in `allowed`: those that an instruction caused first, then by number, then by age.
    pub fn take(&mut self, allowed: SigSet) -> Option<SigInfo> {
        let ready = SigSet(self.set.0 & allowed.0);
        let signal = SigSet(ready.0 & super::SYNCHRONOUS.0).first().or_else(|| ready.first())?;
        let Some(at) = self.queue.iter().position(|e| e.info.signal == signal) else {
            self.set.remove(signal);
            return Some(SigInfo::lost(signal));
        };
        let entry = self.queue.remove(at)?;
        if !self.queue.iter().any(|e| e.info.signal == signal) {
            self.set.remove(signal);
        }
        Some(entry.info)
    }

    /// Forgets every signal in `which`.
    pub fn flush(&mut self, which: SigSet) {
        if self.set.0 & which.0 != 0 {
            self.set = self.set.without(which);
            self.queue.retain(|e| !which.has(e.info.signal));
        }
    }

    fn rebuild(&mut self) {
        self.set = self.queue.iter().fold(SigSet::EMPTY, |set, e| set.union(SigSet::of(e.info.signal)));
    }

    /// Number of queued entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }
    /// Whether nothing is pending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }
}

/// A queued signal with the given value, for tests and for `sigqueue`.
#[cfg(test)]
pub(super) fn queued(signal: abi::Signal, value: u64) -> SigInfo {
    SigInfo { signal, errno: 0, code: abi::siginfo::code::SI_QUEUE, fields: abi::SigFields::Queue { pid: 1, uid: 0, value } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::Signal;

    fn rt(n: i32) -> Signal {
        Signal::new(n).unwrap()
    }

    #[test]
    fn a_standard_signal_is_pending_once_and_a_realtime_one_as_often_as_it_was_queued() {
        let account = Arc::new(UserAccount::default());
        let slot = || Slot::take(&account, 100, None).ok();
        let mut pending = Pending::default();
        assert!(pending.add(queued(Signal::SIGUSR1, 1), slot()));
        assert!(!pending.add(queued(Signal::SIGUSR1, 2), slot()));
        for value in 0..3 {
            assert!(pending.add(queued(rt(40), value), slot()));
        }
        assert_eq!(pending.take(SigSet::ALL), Some(queued(Signal::SIGUSR1, 1)));
        for value in 0..3 {
            assert_eq!(pending.take(SigSet::ALL), Some(queued(rt(40), value)));
        }
        assert_eq!(pending.take(SigSet::ALL), None);
        assert_eq!(account.signals.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn faults_come_first_and_then_the_lowest_number() {
        let mut pending = Pending::default();
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGSEGV] {
            pending.add(SigInfo::kernel(signal), None);
        }
        let order: Vec<Signal> = std::iter::from_fn(|| pending.take(SigSet::ALL)).map(|i| i.signal).collect();
        assert_eq!(order, [Signal::SIGSEGV, Signal::SIGHUP, Signal::SIGTERM]);
    }

    #[test]
    fn beyond_the_limit_a_signal_can_not_be_queued_but_is_marked() {
        let account = Arc::new(UserAccount::default());
        let first = Slot::take(&account, 1, None).ok();
        assert!(first.is_some());
        assert_eq!(Slot::take(&account, 1, None).err(), Some(Errno::EAGAIN));
        let mut pending = Pending::default();
        pending.add(queued(rt(40), 1), first);
        pending.add(queued(rt(41), 2), None);
        assert_eq!(pending.take(SigSet::of(rt(41))), Some(SigInfo::lost(rt(41))));
        pending.flush(SigSet::ALL);
        assert!(pending.is_empty());
        assert_eq!(account.signals.load(Ordering::Relaxed), 0);
    }
}
