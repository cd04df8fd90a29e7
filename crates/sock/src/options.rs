//! Options of level SOL_SOCKET that mean the same for every family, socket(7).

use crate::patience::Patience;
use abi::raw::net as raw;
use abi::{Errno, Timeval};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use zerocopy::{FromBytes, IntoBytes};

/// `/proc/sys/net/core/wmem_default` and its relatives: bytes.
const BUFFER_DEFAULT: usize = 212_992;
/// `/proc/sys/net/core/wmem_max`: what SO_SNDBUF and SO_RCVBUF are cut to, bytes.
const BUFFER_MAX: usize = 212_992;
/// `SOCK_MIN_SNDBUF` and `SOCK_MIN_RCVBUF`, bytes.
const SEND_MIN: usize = 4608;
const RECEIVE_MIN: usize = 2304;
/// A timeout that never ends.
const NEVER: u64 = 0;

/// Options that are on or off and that nothing here acts on beyond keeping them; bit n of the mask is option n.
const KEPT_FLAGS: [u32; 10] = [
    raw::SO_DEBUG,
    raw::SO_REUSEADDR,
    raw::SO_DONTROUTE,
    raw::SO_BROADCAST,
    raw::SO_KEEPALIVE,
    raw::SO_OOBINLINE,
    raw::SO_NO_CHECK,
    raw::SO_REUSEPORT,
    raw::SO_RXQ_OVFL,
    raw::SO_SELECT_ERR_QUEUE,
];

/// What setsockopt(2) changes at level SOL_SOCKET.
pub struct Options {
    /// Bytes that may be on the way from this socket.
    pub send_buffer: AtomicUsize,
    /// Bytes that may wait to be read.
    pub receive_buffer: AtomicUsize,
    send_timeout_ns: AtomicU64,
    receive_timeout_ns: AtomicU64,
    /// SO_RCVLOWAT, at least 1.
    pub receive_low: AtomicI32,
    /// SO_PASSCRED.
    pub pass_credentials: AtomicBool,
    /// SO_PEEK_OFF; -1 is off.
    pub peek_offset: AtomicI32,
    flags: AtomicU64,
    priority: AtomicI32,
    mark: AtomicU32,
    linger: [AtomicI32; 2],
    /// SO_TIMESTAMP, SO_TIMESTAMPNS: 0, or the option's number.
    pub timestamp: AtomicI32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            send_buffer: AtomicUsize::new(BUFFER_DEFAULT),
            receive_buffer: AtomicUsize::new(BUFFER_DEFAULT),
            send_timeout_ns: AtomicU64::new(NEVER),
            receive_timeout_ns: AtomicU64::new(NEVER),
            receive_low: AtomicI32::new(1),
            pass_credentials: AtomicBool::new(false),
            peek_offset: AtomicI32::new(-1),
            flags: AtomicU64::new(0),
            priority: AtomicI32::new(0),
            mark: AtomicU32::new(0),
            linger: [AtomicI32::new(0), AtomicI32::new(0)],
            timestamp: AtomicI32::new(0),
        }
    }
}

/// The first bytes of `value` as a `T`. EINVAL if there are fewer.
pub(crate) fn read<T: FromBytes>(value: &[u8]) -> Result<T, Errno> {
    T::read_from_prefix(value).map(|(value, _)| value).map_err(|_| Errno::EINVAL)
}

fn timeout_ns(value: &[u8]) -> Result<u64, Errno> {
    let time: Timeval = read(value)?;
    if !(0..1_000_000).contains(&time.usec) {
        return Err(Errno::EDOM);
    }
    if time.sec < 0 {
        // `sock_set_timeout`: over before it began. One nanosecond is that.
        return Ok(1);
    }
    Ok((time.sec as u64).saturating_mul(1_000_000_000).saturating_add(time.usec as u64 * 1000))
}

impl Options {
    /// How long a receive waits.
    #[must_use]
    pub fn receive_patience(&self, nonblocking: bool) -> Patience {
        patience(nonblocking, self.receive_timeout_ns.load(Ordering::Relaxed))
    }
    /// How long a send waits.
    #[must_use]
    pub fn send_patience(&self, nonblocking: bool) -> Patience {
        patience(nonblocking, self.send_timeout_ns.load(Ordering::Relaxed))
    }
    /// Whether an option that is on or off is on.
    #[must_use]
    pub fn has(&self, option: u32) -> bool {
        option < 64 && self.flags.load(Ordering::Relaxed) & 1 << option != 0
    }
    pub(crate) fn passes_credentials(&self) -> bool {
        self.pass_credentials.load(Ordering::Relaxed)
    }

    /// setsockopt(2). `None` if the option is not one of these.
    pub(crate) fn set(&self, name: u32, value: &[u8], is_admin: bool) -> Option<Result<(), Errno>> {
        // Every option here is at least an int, and Linux reads that first.
        let number: i32 = match read(value) {
            Ok(number) => number,
            Err(errno) => return Some(Err(errno)),
        };
        match name {
            raw::SO_SNDBUF | raw::SO_RCVBUF | raw::SO_SNDBUFFORCE | raw::SO_RCVBUFFORCE => {
                let forced = matches!(name, raw::SO_SNDBUFFORCE | raw::SO_RCVBUFFORCE);
                if forced && !is_admin {
                    return Some(Err(Errno::EPERM));
                }
                let most = if forced { i32::MAX as usize / 2 } else { BUFFER_MAX };
                let asked = if forced { number.max(0) as usize } else { number as u32 as usize }.min(most) * 2;
                match name {
                    raw::SO_SNDBUF | raw::SO_SNDBUFFORCE => self.send_buffer.store(asked.max(SEND_MIN), Ordering::Relaxed),
                    _ => self.receive_buffer.store(asked.max(RECEIVE_MIN), Ordering::Relaxed),
                }
            }
            raw::SO_RCVTIMEO_OLD | raw::SO_RCVTIMEO_NEW | raw::SO_SNDTIMEO_OLD | raw::SO_SNDTIMEO_NEW => {
                let ns = match timeout_ns(value) {
                    Ok(ns) => ns,
                    Err(errno) => return Some(Err(errno)),
                };
                let receives = matches!(name, raw::SO_RCVTIMEO_OLD | raw::SO_RCVTIMEO_NEW);
                if receives { &self.receive_timeout_ns } else { &self.send_timeout_ns }.store(ns, Ordering::Relaxed);
            }
            raw::SO_RCVLOWAT => self.receive_low.store(if number < 0 { i32::MAX } else { number.max(1) }, Ordering::Relaxed),
            raw::SO_PASSCRED => self.pass_credentials.store(number != 0, Ordering::Relaxed),
            raw::SO_PRIORITY if (0..=6).contains(&number) || is_admin => self.priority.store(number, Ordering::Relaxed),
            raw::SO_MARK if is_admin => self.mark.store(number as u32, Ordering::Relaxed),
            raw::SO_PRIORITY | raw::SO_MARK => return Some(Err(Errno::EPERM)),
            raw::SO_LINGER => {
                let both: [i32; 2] = match read(value) {
                    Ok(both) => both,
                    Err(errno) => return Some(Err(errno)),
                };
                for (kept, new) in self.linger.iter().zip(both) {
                    kept.store(new, Ordering::Relaxed);
                }
            }
            raw::SO_TIMESTAMP_OLD | raw::SO_TIMESTAMPNS_OLD | raw::SO_TIMESTAMP_NEW | raw::SO_TIMESTAMPNS_NEW => {
                self.timestamp.store(if number != 0 { name as i32 } else { 0 }, Ordering::Relaxed);
            }
            raw::SO_DEBUG if number != 0 && !is_admin => return Some(Err(Errno::EACCES)),
            // `SO_BSDCOMPAT` does nothing, and so it is with the rest of these.
            raw::SO_BSDCOMPAT | raw::SO_BUSY_POLL | raw::SO_INCOMING_CPU => {}
            _ if KEPT_FLAGS.contains(&name) => {
                let bit = 1u64 << name;
                let _ = self
                    .flags
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(if number != 0 { old | bit } else { old & !bit }));
            }
            raw::SO_TYPE | raw::SO_PROTOCOL | raw::SO_DOMAIN | raw::SO_ERROR | raw::SO_ACCEPTCONN => return Some(Err(Errno::ENOPROTOOPT)),
            _ => return None,
        }
        Some(Ok(()))
    }

    /// getsockopt(2). `None` if the option is not one of these.
    pub(crate) fn get(&self, name: u32) -> Option<Vec<u8>> {
        let time = |ns: &AtomicU64| Timeval::from_ns(ns.load(Ordering::Relaxed)).as_bytes().to_vec();
        let number = |number: i32| number.to_ne_bytes().to_vec();
        Some(match name {
            raw::SO_SNDBUF => number(self.send_buffer.load(Ordering::Relaxed) as i32),
            raw::SO_RCVBUF => number(self.receive_buffer.load(Ordering::Relaxed) as i32),
            raw::SO_RCVTIMEO_OLD | raw::SO_RCVTIMEO_NEW => time(&self.receive_timeout_ns),
            raw::SO_SNDTIMEO_OLD | raw::SO_SNDTIMEO_NEW => time(&self.send_timeout_ns),
            raw::SO_RCVLOWAT => number(self.receive_low.load(Ordering::Relaxed)),
            raw::SO_SNDLOWAT => number(1),
            raw::SO_PASSCRED => number(self.passes_credentials().into()),
            raw::SO_PRIORITY => number(self.priority.load(Ordering::Relaxed)),
            raw::SO_MARK => number(self.mark.load(Ordering::Relaxed) as i32),
            raw::SO_LINGER => [&self.linger[0], &self.linger[1]].map(|l| l.load(Ordering::Relaxed)).as_bytes().to_vec(),
            raw::SO_TIMESTAMP_OLD | raw::SO_TIMESTAMPNS_OLD | raw::SO_TIMESTAMP_NEW | raw::SO_TIMESTAMPNS_NEW => {
                number((self.timestamp.load(Ordering::Relaxed) == name as i32).into())
            }
            raw::SO_BSDCOMPAT | raw::SO_BUSY_POLL => number(0),
            raw::SO_INCOMING_CPU => number(-1),
            _ if KEPT_FLAGS.contains(&name) => number(self.has(name).into()),
            _ => return None,
        })
    }
}

fn patience(nonblocking: bool, timeout_ns: u64) -> Patience {
    match timeout_ns {
        _ if nonblocking => Patience::None,
        NEVER => Patience::Forever,
        ns => Patience::Until(sync::monotonic_ns().saturating_add(ns)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(options: &Options, name: u32) -> i32 {
        read(&options.get(name).unwrap()).unwrap()
    }

    #[test]
    fn buffer_sizes_are_doubled_and_bounded() {
        let options = Options::default();
        for (asked, answered) in [(10_000, 20_000), (1, 4608), (-1, 425_984), (i32::MAX, 425_984)] {
            options.set(raw::SO_SNDBUF, &i32::to_ne_bytes(asked), false).unwrap().unwrap();
            assert_eq!(number(&options, raw::SO_SNDBUF), answered);
        }
        assert_eq!(options.set(raw::SO_SNDBUFFORCE, &[0; 4], false), Some(Err(Errno::EPERM)));
    }

    #[test]
    fn a_value_that_is_too_short_is_einval_and_a_time_out_of_range_is_edom() {
        let options = Options::default();
        assert_eq!(options.set(raw::SO_KEEPALIVE, &[1, 0], false), Some(Err(Errno::EINVAL)));
        assert_eq!(options.set(raw::SO_RCVTIMEO_OLD, [0i64, 1_000_000].as_bytes(), false), Some(Err(Errno::EDOM)));
        assert_eq!(options.receive_patience(false), Patience::Forever);
        options.set(raw::SO_RCVTIMEO_OLD, [1i64, 0].as_bytes(), false).unwrap().unwrap();
        assert!(matches!(options.receive_patience(false), Patience::Until(_)));
        assert_eq!(options.receive_patience(true), Patience::None);
    }
}
