//! The kernel's log: printk and what reads it.
//!
//! Lines are kept in a bounded ring and printed on the console when their level is below the console's. `/dev/kmsg`, `/proc/kmsg` and syslog(2) read the
//! ring.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use sync::{Events, SpinLock, WaitQueue};

/// Log levels, syslog(2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    Emergency = 0,
    Alert = 1,
    Critical = 2,
    Error = 3,
    Warning = 4,
    Notice = 5,
    Info = 6,
    Debug = 7,
}

/// Bytes of text that the ring keeps.
const RING_BYTES: usize = 256 << 10;

/// One line.
#[derive(Clone, Debug)]
pub struct Record {
    pub sequence: u64,
    pub level: Level,
    /// Monotonic time.
    pub at_ns: u64,
    pub text: Arc<str>,
}

struct Ring {
    records: VecDeque<Record>,
    bytes: usize,
    next: u64,
}

/// Where lines are shown as they come.
pub type Sink = Arc<dyn Fn(&str) + Send + Sync>;

/// The log.
pub struct Log {
    ring: SpinLock<Ring>,
    console_level: AtomicU8,
    console: SpinLock<Option<Sink>>,
    /// Readers of `/dev/kmsg`.
    pub arrived: Arc<WaitQueue>,
}

impl Default for Log {
    fn default() -> Self {
        Log {
            ring: SpinLock::new(Ring { records: VecDeque::new(), bytes: 0, next: 0 }),
            console_level: AtomicU8::new(7),
            console: SpinLock::new(None),
            arrived: Arc::new(WaitQueue::new()),
        }
    }
}

impl Log {
    /// Shows lines from now on, and those of the ring that were not shown yet.
    pub fn attach_console(&self, sink: Sink) {
        let backlog: Vec<Record> = self.ring.lock().records.iter().cloned().collect();
        for record in backlog {
            self.show(&sink, &record);
        }
        *self.console.lock() = Some(sink);
    }

    /// Lines of this level and above (numerically) are kept off the console.
    pub fn set_console_level(&self, level: u8) {
        self.console_level.store(level, Ordering::Relaxed);
    }
    /// The console's level.
    pub fn console_level(&self) -> u8 {
        self.console_level.load(Ordering::Relaxed)
    }

    /// Adds a line.
    pub fn print(&self, level: Level, text: &str) {
        for line in text.lines() {
            let record = {
                let mut ring = self.ring.lock();
                let record = Record { sequence: ring.next, level, at_ns: sync::monotonic_ns(), text: line.into() };
                ring.next += 1;
                ring.bytes += line.len();
                ring.records.push_back(record.clone());
                while ring.bytes > RING_BYTES {
                    let Some(old) = ring.records.pop_front() else { break };
                    ring.bytes -= old.text.len();
                }
                record
            };
            let sink = self.console.lock().clone();
            if let Some(sink) = sink {
                self.show(&sink, &record);
            }
        }
        self.arrived.notify(Events::IN);
    }

    fn show(&self, sink: &Sink, record: &Record) {
        if (record.level as u8) < self.console_level() {
            sink(&format!("{}\n", record.text));
        }
    }

    /// Lines from sequence number `from` on.
    pub fn since(&self, from: u64) -> Vec<Record> {
        self.ring.lock().records.iter().filter(|r| r.sequence >= from).cloned().collect()
    }
    /// The sequence number that the next line will have.
    pub fn next_sequence(&self) -> u64 {
        self.ring.lock().next
    }
}
