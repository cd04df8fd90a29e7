//! The kernel's log: what printk keeps, and syslog(2) and `/dev/kmsg` give out. dmesg(1), `Documentation/ABI/testing/dev-kmsg`.
//!
//! Always true: records have consecutive sequence numbers; when the log is full the oldest go; adding never fails and never sleeps.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use sync::{Events, SpinLock, WaitQueue};

/// Bytes of text kept.
const CAPACITY: usize = 256 * 1024;
/// Bytes counted for a record beside its text.
const RECORD_COST: usize = 48;
/// Longest record (`LOG_LINE_MAX`); the rest is cut off.
pub const LINE_MAX: usize = 1024;

/// A line of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogRecord {
    pub sequence: u64,
    pub at_ns: u64,
    /// 0 (emergency) to 7 (debug).
    pub level: u8,
    /// 0 for the kernel, 1 for users and so on, syslog(3).
    pub facility: u8,
    pub text: Arc<[u8]>,
}

type Console = Arc<dyn Fn(&LogRecord) + Send + Sync>;

/// The log.
#[derive(Default)]
pub struct KernelLog {
    records: SpinLock<Records>,
    changed: Arc<WaitQueue>,
    console: SpinLock<Option<Console>>,
    /// Records below this level are shown on the console.
    console_level: AtomicU8,
}

#[derive(Default)]
struct Records {
    queue: VecDeque<LogRecord>,
    len_bytes: usize,
    next: u64,
    /// First record after the last `SYSLOG_ACTION_CLEAR`.
    cleared: u64,
    /// First record that `SYSLOG_ACTION_READ` has not given out.
    unread: u64,
}

impl KernelLog {
    /// Adds a line as the kernel's.
    pub fn print(&self, level: u8, text: &str) {
        self.add(level, 0, text.as_bytes());
    }
    /// Adds a line.
    pub fn add(&self, level: u8, facility: u8, text: &[u8]) {
        let text = text.get(..LINE_MAX).unwrap_or(text);
        let mut dropped = Vec::new();
        let record = {
            let mut records = self.records.lock();
            let record =
                LogRecord { sequence: records.next, at_ns: sync::monotonic_ns(), level: level & 7, facility, text: Arc::from(text) };
            records.next += 1;
            records.len_bytes += text.len() + RECORD_COST;
            records.queue.push_back(record.clone());
            while records.len_bytes > CAPACITY {
                let Some(oldest) = records.queue.pop_front() else { break };
                records.len_bytes -= oldest.text.len() + RECORD_COST;
                dropped.push(oldest);
            }
            record
        };
        drop(dropped);
        if record.level < self.console_level() {
            self.show(&record);
        }
        self.changed.notify(Events::IN | Events::RDNORM);
    }
    /// Shows a record on the console, whatever its level.
    pub fn show(&self, record: &LogRecord) {
        let console = self.console.lock().clone();
        if let Some(console) = console {
            console(record);
        }
    }
    /// Records below this level are shown on the console as they come; 0 shows none.
    #[must_use]
    pub fn console_level(&self) -> u8 {
        self.console_level.load(Ordering::Relaxed)
    }
    /// Sets that: `loglevel=`, the magic SysRq keys 0 to 9.
    pub fn set_console_level(&self, level: u8) {
        self.console_level.store(level, Ordering::Relaxed);
    }
    /// Whom records are shown to from now on; it must not sleep.
    pub fn set_console(&self, console: Box<dyn Fn(&LogRecord) + Send + Sync>) {
        *self.console.lock() = Some(Arc::from(console));
    }
    /// The first record at or after `sequence`: the oldest that is kept, if that is later.
    #[must_use]
    pub fn at(&self, sequence: u64) -> Option<LogRecord> {
        let records = self.records.lock();
        let first = records.queue.front()?.sequence;
        records.queue.get(sequence.saturating_sub(first) as usize).cloned()
    }
    /// Sequence number of the oldest record, and of the next one.
    #[must_use]
    pub fn range(&self) -> (u64, u64) {
        let records = self.records.lock();
        (records.queue.front().map_or(records.next, |r| r.sequence), records.next)
    }
    /// First record after the last clear.
    #[must_use]
    pub fn cleared(&self) -> u64 {
        self.records.lock().cleared
    }
    /// First record that `SYSLOG_ACTION_READ` has not given out.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.records.lock().unread
    }
    /// Records before this one have been given out.
    pub fn set_unread(&self, sequence: u64) {
        self.records.lock().unread = sequence;
    }
    /// `SYSLOG_ACTION_CLEAR`: what is there now is not shown by `SYSLOG_ACTION_READ_ALL` any more.
    pub fn clear(&self) {
        let mut records = self.records.lock();
        records.cleared = records.next;
    }
    /// Bytes that the log holds at most (`SYSLOG_ACTION_SIZE_BUFFER`).
    #[must_use]
    pub fn capacity(&self) -> usize {
        CAPACITY
    }
    /// Told of every record.
    #[must_use]
    pub fn changed(&self) -> &Arc<WaitQueue> {
        &self.changed
    }
}
