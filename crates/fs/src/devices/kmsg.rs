//! `/dev/kmsg`: the kernel's log, a record a read. `Documentation/ABI/testing/dev-kmsg`.

use abi::{Errno, SysResult};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use sync::Events;
use vfs::{FileOps, KernelLog, LogRecord, OpenFile, PollTable, Positioning, Sink, Source, Whence};

/// Bytes that a writer may give at once.
const WRITE_MAX: usize = 1024 - 32;

pub struct Kmsg {
    log: &'static KernelLog,
    next: AtomicU64,
}

impl Kmsg {
    pub fn new(log: &'static KernelLog) -> Kmsg {
        Kmsg { log, next: AtomicU64::new(log.range().0) }
    }
}

/// `6,1234,567890,-;text`, what can't be printed as `\xNN`.
fn render(record: &LogRecord) -> String {
    let priority = u32::from(record.facility) << 3 | u32::from(record.level);
    let mut text = format!("{priority},{},{},-;", record.sequence, record.at_ns / 1000);
    for &byte in record.text.iter() {
        if (byte < 32 && byte != b'\t') || byte >= 127 || byte == b'\\' {
            let _ = write!(text, "\\x{byte:02x}");
        } else {
            text.push(char::from(byte));
        }
    }
    text.push('\n');
    text
}

impl FileOps for Kmsg {
    fn positioning(&self) -> Positioning {
        Positioning::Seekable
    }
    fn read(&self, file: &OpenFile, _: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        let next = self.next.load(Ordering::Relaxed);
        let record = match self.log.at(next) {
            Some(record) => record,
            None if file.is_nonblocking() => return Err(Errno::EAGAIN.into()),
            None => self.log.changed().wait_interruptible(|| self.log.at(next))?,
        };
        if record.sequence > next {
            // Records were lost: said once, then reading goes on at the oldest.
            self.next.store(record.sequence, Ordering::Relaxed);
            return Err(Errno::EPIPE.into());
        }
        let text = render(&record);
        if sink.room() < text.len() {
            return Err(Errno::EINVAL.into());
        }
        let len = sink.put(text.as_bytes())?;
        self.next.store(record.sequence + 1, Ordering::Relaxed);
        Ok(len)
    }
    fn write(&self, _: &OpenFile, _: &mut u64, source: &mut dyn Source) -> SysResult<usize> {
        let len = source.left();
        if len > WRITE_MAX {
            return Err(Errno::EINVAL.into());
        }
        let mut buffer = vec![0; len];
        let got = source.take(&mut buffer)?;
        if got < len {
            return Err(Errno::EFAULT.into());
        }
        let (priority, text) = split_priority(&buffer);
        // A user can't pretend to be the kernel.
        let facility = if priority >> 3 == 0 { 1 } else { priority >> 3 };
        self.log.add((priority & 7) as u8, facility as u8, text.trim_ascii_end());
        Ok(len)
    }
    fn seek(&self, _: &OpenFile, _: u64, offset: i64, whence: Whence) -> SysResult<u64> {
        if offset != 0 {
            return Err(Errno::ESPIPE.into());
        }
        let (first, next) = self.log.range();
        let to = match whence {
            Whence::Set => first,
            Whence::End => next,
            Whence::Data => self.log.cleared(),
            _ => return Err(Errno::EINVAL.into()),
        };
        self.next.store(to, Ordering::Relaxed);
        Ok(0)
    }
    fn can_poll(&self) -> bool {
        true
    }
    fn poll(&self, _: &OpenFile, table: Option<&mut PollTable>) -> Events {
        if let Some(table) = table {
            table.listen(self.log.changed());
        }
        let next = self.next.load(Ordering::Relaxed);
        match self.log.at(next) {
            Some(record) if record.sequence > next => Events::IN | Events::RDNORM | Events::ERR | Events::PRI,
            Some(_) => Events::IN | Events::RDNORM,
            None => Events::empty(),
        }
    }
}

/// `<14>text`: the number and the rest; 4 (warning) of the users' facility without one.
fn split_priority(line: &[u8]) -> (u32, &[u8]) {
    const DEFAULT: u32 = 1 << 3 | 4;
    let Some(rest) = line.strip_prefix(b"<") else { return (DEFAULT, line) };
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let number = rest.get(..digits).and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| d.parse().ok());
    match (number, rest.get(digits), rest.get(digits + 1..)) {
        (Some(number), Some(b'>'), Some(text)) if number < 1 << 11 => (number, text),
        _ => (DEFAULT, line),
    }
}
