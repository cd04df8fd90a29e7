//! Writing: a queue and a thread for each file of the host that is written to.

use super::{Observers, QUEUE_BYTES, errno};
use abi::Errno;
use platform::Blocking;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io;
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use sync::{Events, WaitQueue};

/// One way to a file of the host: the channel's own descriptor.
pub(super) struct Target {
    fd: OwnedFd,
    output: Arc<Output>,
    observers: Arc<Observers>,
    /// What writing ended with, once it has; 0 before.
    error: AtomicI32,
    /// Bytes of this channel in the queue.
    queued: AtomicUsize,
    /// An open file of our own, which never blocks: written to when this says that it was given up, a write that waits ends.
    given_up: Option<OwnedFd>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Arc<Target>, Vec<u8>)>,
    /// Bytes in the queue and in the thread's hands.
    bytes: usize,
    started: bool,
    /// Somebody was told that there is no room.
    wants_room: bool,
    /// The end of the machine waits until what was written is out. Not for what nobody may ever read.
    awaited: bool,
}

/// The queue of one file of the host, whoever writes to it.
#[derive(Default)]
pub(super) struct Output {
    state: Mutex<State>,
    work: Condvar,
    room: WaitQueue,
}

type Key = (u64, u64, u64);

fn outputs() -> MutexGuard<'static, HashMap<Key, Weak<Output>>> {
    static OUTPUTS: OnceLock<Mutex<HashMap<Key, Weak<Output>>>> = OnceLock::new();
    OUTPUTS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sleeps until everything written to descriptors that the process was started with has left it, at most until the monotonic clock reaches
/// `deadline_ns`. For the end of the machine. ETIMEDOUT.
pub fn flush_all(deadline_ns: Option<u64>) -> Result<(), Errno> {
    let all: Vec<Arc<Output>> = outputs().values().filter_map(Weak::upgrade).collect();
    for output in all {
        let out = || {
            let state = output.state();
            (!state.awaited || state.bytes == 0).then_some(())
        };
        output.room.wait_deadline(deadline_ns, out).map_err(|_| Errno::ETIMEDOUT)?;
    }
    Ok(())
}

impl Output {
    /// A way to the file behind `fd`, with a queue shared by all ways to it. `given_up`: the open file is our own.
    pub fn target(fd: OwnedFd, observers: Arc<Observers>, given_up: Option<OwnedFd>) -> Result<Arc<Target>, Errno> {
        let file = rustix::fs::fstat(&fd).map_err(errno)?;
        let mut outputs = outputs();
        outputs.retain(|_, output| output.strong_count() > 0);
        let known = outputs.entry((file.st_dev, file.st_ino, file.st_rdev)).or_default();
        let output = known.upgrade().unwrap_or_default();
        *known = Arc::downgrade(&output);
        output.state().awaited |= given_up.is_none();
        Ok(Arc::new(Target { fd, output, observers, error: AtomicI32::new(0), queued: AtomicUsize::new(0), given_up }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pump(&self) {
        loop {
            let (target, data) = {
                let mut state = self.state();
                loop {
                    if let Some(next) = state.queue.pop_front() {
                        break next;
                    }
                    // An idle thread of a queue that nobody holds any more goes away.
                    let (kept, timeout) =
                        self.work.wait_timeout(state, std::time::Duration::from_secs(5)).unwrap_or_else(PoisonError::into_inner);
                    state = kept;
                    if timeout.timed_out() && state.queue.is_empty() {
                        state.started = false;
                        return;
                    }
                }
            };
            if target.error.load(Ordering::Acquire) == 0
                && let Err(error) = target.write_out(&data)
            {
                target.error.store(error.raw(), Ordering::Release);
            }
            target.queued.fetch_sub(data.len(), Ordering::AcqRel);
            let tell = {
                let mut state = self.state();
                state.bytes -= data.len();
                let tell = state.wants_room && state.bytes <= QUEUE_BYTES / 2;
                state.wants_room &= !tell;
                tell || target.error.load(Ordering::Acquire) != 0
            };
            self.room.wake_all();
            if tell {
                target.observers.notify(Events::OUT | Events::WRNORM);
            }
        }
    }
}

impl Target {
    fn failed(&self) -> Result<(), Errno> {
        match Errno::from_raw(self.error.load(Ordering::Acquire)) {
            Some(errno) => Err(errno),
            None => Ok(()),
        }
    }

    /// Writes all of `data`, waiting in the host.
    fn write_out(&self, data: &[u8]) -> Result<(), Errno> {
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            match io::write(&self.fd, rest) {
                Ok(n) => done += n,
                Err(io::Errno::INTR) => {}
                // Our own, or somebody else set O_NONBLOCK.
                Err(io::Errno::AGAIN) => self.wait_writable()?,
                Err(error) => return Err(errno(error)),
            }
        }
        Ok(())
    }

    /// Sleeps until the host takes more. EIO when the channel was given up meanwhile.
    fn wait_writable(&self) -> Result<(), Errno> {
        let given_up = self.given_up.as_ref().unwrap_or(&self.fd);
        let end = if self.given_up.is_some() { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = [PollFd::new(&self.fd, PollFlags::OUT), PollFd::new(given_up, end)];
        let _ = poll(&mut fds, None);
        let [_, end] = &fds;
        if self.given_up.is_some() && !end.revents().is_empty() { Err(Errno::EIO) } else { Ok(()) }
    }

    /// Nothing more is to be written; what waits is dropped. Only a file of our own can be given up.
    pub fn give_up(&self) {
        if let Some(given_up) = &self.given_up {
            self.error.store(Errno::EIO.raw(), Ordering::Release);
            let _ = io::write(given_up, &1u64.to_ne_bytes());
        }
    }

    fn push(self: &Arc<Target>, data: &[u8]) -> Result<usize, Errno> {
        self.failed()?;
        if data.is_empty() {
            return Ok(0);
        }
        let mut state = self.output.state();
        let room = QUEUE_BYTES.saturating_sub(state.bytes);
        let part = data.get(..room.min(data.len())).unwrap_or_default();
        if part.is_empty() {
            state.wants_room = true;
            return Err(Errno::EAGAIN);
        }
        state.wants_room |= part.len() < data.len();
        if !state.started {
            let output = self.output.clone();
            let spawned = std::thread::Builder::new().name("host-output".into()).stack_size(128 * 1024).spawn(move || output.pump());
            if spawned.is_err() {
                return Err(Errno::EAGAIN);
            }
            state.started = true;
        }
        state.bytes += part.len();
        self.queued.fetch_add(part.len(), Ordering::AcqRel);
        match state.queue.back_mut() {
            Some((last, bytes)) if Arc::ptr_eq(last, self) => bytes.extend_from_slice(part),
            _ => state.queue.push_back((self.clone(), part.to_vec())),
        }
        drop(state);
        self.output.work.notify_one();
        Ok(part.len())
    }

    pub fn write(self: &Arc<Target>, data: &[u8], blocking: Blocking) -> Result<usize, Errno> {
        if blocking == Blocking::No {
            return self.push(data);
        }
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let n = self.output.room.wait_until(|| match self.push(rest) {
                Err(Errno::EAGAIN) => None,
                other => Some(other),
            });
            match n {
                Ok(n) => done += n,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    pub fn flush(&self, deadline_ns: Option<u64>) -> Result<(), Errno> {
        let drained = self.output.room.wait_deadline(deadline_ns, || (self.queued.load(Ordering::Acquire) == 0).then_some(()));
        drained.map_err(|_| Errno::ETIMEDOUT)?;
        self.failed()
    }
}
