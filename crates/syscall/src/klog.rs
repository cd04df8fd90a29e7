//! syslog(2): reading and clearing the kernel's log, and what of it the console shows.

use crate::args::UserAddr;
use abi::{Errno, SysResult};
use std::fmt::Write as _;
use task::Current;
use vfs::{Capability, KernelLog, LogRecord, UserMemory};

/// Most bytes given out by one call.
const READ_MAX: usize = 1 << 20;
/// What the console shows when it is turned on again: everything but debugging.
const DEFAULT_LEVEL: u8 = 7;
/// The least level, at which only emergencies are shown.
const MINIMUM_LEVEL: u8 = 1;

/// syslog(2).
pub fn syslog(current: &mut Current, action: u32, to: UserAddr, len: i32) -> SysResult<usize> {
    let log = &current.system().vfs.log;
    // Reading it all and its size are everybody's, as with `dmesg_restrict` off.
    if !matches!(action, 3 | 10) && action <= 10 {
        current.credentials().require(Capability::SYSLOG)?;
    }
    let room = || usize::try_from(len).map(|len| len.min(READ_MAX)).map_err(|_| Errno::EINVAL);
    match action {
        // Open, close.
        0 | 1 => Ok(0),
        2 => read(current, to, room()?),
        3 | 4 => {
            let text = newest(log, room()?);
            current.memory().write_all(to.0, text.as_bytes())?;
            if action == 4 {
                log.clear();
            }
            Ok(text.len())
        }
        5 => {
            log.clear();
            Ok(0)
        }
        6 => {
            log.set_console_level(MINIMUM_LEVEL);
            Ok(0)
        }
        7 => {
            log.set_console_level(DEFAULT_LEVEL);
            Ok(0)
        }
        8 => match u8::try_from(len) {
            Ok(level @ 1..=8) => {
                log.set_console_level(level);
                Ok(0)
            }
            _ => Err(Errno::EINVAL.into()),
        },
        9 => Ok(records(log, log.unread()).map(|record| show(&record).len()).sum()),
        10 => Ok(log.capacity()),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// What nobody has read yet by this action: waits until there is something, and takes whole lines.
fn read(current: &mut Current, to: UserAddr, room: usize) -> SysResult<usize> {
    let log = &current.system().vfs.log;
    if room == 0 {
        return Ok(0);
    }
    log.changed().wait_interruptible(|| log.at(log.unread()).map(drop))?;
    let mut text = String::new();
    for record in records(log, log.unread()) {
        let line = show(&record);
        if text.len() + line.len() > room {
            // One that alone is too long for the reader is cut.
            if text.is_empty() {
                text.push_str(line.get(..room).unwrap_or_default());
                log.set_unread(record.sequence + 1);
            }
            break;
        }
        text.push_str(&line);
        log.set_unread(record.sequence + 1);
    }
    current.memory().write_all(to.0, text.as_bytes())?;
    Ok(text.len())
}

/// The last whole lines since the log was cleared that fit in `room` bytes.
fn newest(log: &KernelLog, room: usize) -> String {
    let mut lines: Vec<String> = records(log, log.cleared()).map(|record| show(&record)).collect();
    let mut len: usize = lines.iter().map(String::len).sum();
    let too_many = lines
        .iter()
        .take_while(|line| {
            let over = len > room;
            len -= if over { line.len() } else { 0 };
            over
        })
        .count();
    lines.drain(..too_many);
    lines.concat()
}

fn records(log: &KernelLog, from: u64) -> impl Iterator<Item = LogRecord> + '_ {
    let (_, end) = log.range();
    let mut next = from;
    std::iter::from_fn(move || {
        let record = log.at(next).filter(|record| record.sequence < end)?;
        next = record.sequence + 1;
        Some(record)
    })
}

/// `<priority>[seconds] text`, every line of it.
fn show(record: &LogRecord) -> String {
    let mut text = String::new();
    let whole = String::from_utf8_lossy(&record.text);
    for line in whole.trim_end_matches('\n').split('\n') {
        let (seconds, micros) = (record.at_ns / abi::NS_PER_SEC, record.at_ns % abi::NS_PER_SEC / 1000);
        // Writing to a string does not fail.
        let _ = writeln!(text, "<{}>[{seconds:5}.{micros:06}] {line}", u32::from(record.facility) << 3 | u32::from(record.level));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_their_priority_and_time_and_the_newest_are_kept() {
        let log = KernelLog::default();
        log.print(6, "first");
        log.add(4, 1, b"two\nlines\n");
        let all = newest(&log, 1000);
        let lines: Vec<&str> = all.lines().collect();
        assert!(lines.len() == 3 && lines[0].starts_with("<6>[") && lines[0].ends_with("] first"), "{all}");
        assert!(lines[1].starts_with("<12>[") && lines[2].ends_with("] lines"), "{all}");
        let last: usize = lines[1..].iter().map(|line| line.len() + 1).sum();
        assert_eq!(newest(&log, last), all[all.len() - last..]);
        assert_eq!(newest(&log, last - 1), "");
        log.clear();
        assert_eq!(newest(&log, 1000), "");
    }
}
