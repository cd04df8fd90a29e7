//! How long a call waits: O_NONBLOCK, MSG_DONTWAIT, SO_RCVTIMEO and SO_SNDTIMEO as one value.

use abi::{Errno, SysResult};
use sync::{WaitError, WaitQueue};

/// How long a call waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// Not at all: EAGAIN.
    None,
    /// Until a signal comes; the call may be restarted then.
    Forever,
    /// Until this time of the monotonic clock, nanoseconds: EAGAIN. A signal ends the call with EINTR, as it can't be restarted with what is left
    /// (socket(7)).
    Until(u64),
}

impl Patience {
    /// Waits on `queue` for `condition`, which is tested first.
    pub fn wait<R>(self, queue: &WaitQueue, mut condition: impl FnMut() -> Option<R>) -> SysResult<R> {
        if let Some(value) = condition() {
            return Ok(value);
        }
        match self {
            Patience::None => Err(Errno::EAGAIN.into()),
            Patience::Forever => Ok(queue.wait_interruptible(condition)?),
            Patience::Until(at) => queue.wait_deadline(Some(at), condition).map_err(|error| match error {
                WaitError::TimedOut => Errno::EAGAIN.into(),
                WaitError::Interrupted => Errno::EINTR.into(),
            }),
        }
    }
}
