//! Reading: a thread that waits in the host so that nobody else does.

use super::{Observers, QUEUE_BYTES, errno};
use abi::Errno;
use platform::Blocking;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io;
use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use sync::{Events, WaitQueue};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Read ahead; its end of file is not for ever.
    Terminal,
    Other,
}

#[derive(Default)]
struct State {
    queue: VecDeque<u8>,
    /// Bytes that the thread is to read; while it is not 0 only the thread reads.
    demand: usize,
    /// Somebody wants to hear when there is something.
    watched: bool,
    ended: bool,
    error: Option<Errno>,
    closing: bool,
    started: bool,
    /// The host can't say "that would block" for this descriptor.
    cannot_say_busy: bool,
}

struct Shared {
    fd: OwnedFd,
    kind: Kind,
    wake: OwnedFd,
    state: Mutex<State>,
    work: Condvar,
    waiters: WaitQueue,
    observers: Arc<Observers>,
}

/// The reading side of a channel.
pub(super) struct Input {
    shared: Arc<Shared>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What can be had without the thread; `None`: nothing yet, and the thread has been asked.
    fn take(self: &Arc<Shared>, buffer: &mut [u8]) -> Option<Result<usize, Errno>> {
        let mut state = self.state();
        if !state.queue.is_empty() {
            let n = buffer.len().min(state.queue.len());
            for (to, from) in buffer.iter_mut().zip(state.queue.drain(..n)) {
                *to = from;
            }
            return Some(Ok(n));
        }
        if buffer.is_empty() || state.ended {
            return Some(Ok(0));
        }
        if let Some(errno) = state.error.take() {
            return Some(Err(errno));
        }
        if state.demand == 0 && self.kind == Kind::Other && !state.cannot_say_busy {
            match io::preadv2(&self.fd, &mut [IoSliceMut::new(buffer)], u64::MAX, io::ReadWriteFlags::NOWAIT) {
                Ok(0) => {
                    state.ended = true;
                    return Some(Ok(0));
                }
                Ok(n) => return Some(Ok(n)),
                Err(io::Errno::AGAIN | io::Errno::INTR) => {}
                Err(_) => state.cannot_say_busy = true,
            }
        }
        if state.demand == 0 {
            let read_ahead = if self.kind == Kind::Other { 1 } else { 4096 };
            state.demand = buffer.len().clamp(read_ahead, QUEUE_BYTES);
            self.rouse(&mut state);
        }
        None
    }

    /// Has the thread look at what is asked of it; starts it the first time.
    fn rouse(self: &Arc<Shared>, state: &mut State) {
        if !state.started {
            state.started = true;
            let shared = self.clone();
            let spawned = std::thread::Builder::new().name("host-input".into()).stack_size(128 * 1024).spawn(move || shared.pump());
            if spawned.is_err() {
                state.started = false;
                state.demand = 0;
                state.error = Some(Errno::EAGAIN);
            }
        }
        self.work.notify_one();
    }

    fn pump(&self) {
        let mut buffer = vec![0; QUEUE_BYTES];
        loop {
            let want = {
                let mut state = self.state();
                while state.demand == 0 && !state.watched && !state.closing {
                    state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if state.closing {
                    return;
                }
                state.demand
            };
            if !self.wait_readable() {
                continue;
            }
            if want == 0 {
                self.state().watched = false;
                self.observers.notify(Events::IN | Events::RDNORM);
                continue;
            }
            let read = io::read(&self.fd, buffer.get_mut(..want).unwrap_or_default());
            self.deliver(read, &buffer);
            self.waiters.wake_all();
            self.observers.notify(Events::IN | Events::RDNORM);
        }
    }

    /// Takes over what a read gave.
    fn deliver(&self, read: Result<usize, io::Errno>, buffer: &[u8]) {
        let mut state = self.state();
        match read {
            Err(io::Errno::AGAIN | io::Errno::INTR) => return,
            Ok(0) => state.ended = true,
            Ok(n) => state.queue.extend(buffer.get(..n).unwrap_or_default()),
            Err(error) => {
                state.error = Some(errno(error));
                // A terminal that hung up stays so: one error, then the end.
                state.ended = self.kind == Kind::Terminal;
            }
        }
        state.demand = 0;
    }

    /// Sleeps until the descriptor is readable, ended or in error; `false` when woken for something else.
    fn wait_readable(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) => {
                let [fd, wake] = &fds;
                if !wake.revents().is_empty() {
                    let _ = io::read(&self.wake, &mut [0; 8]);
                    return false;
                }
                !fd.revents().is_empty()
            }
            Err(_) => false,
        }
    }
}

impl Input {
    pub fn new(fd: OwnedFd, observers: Arc<super::Observers>) -> Result<Input, Errno> {
        let kind = if rustix::termios::isatty(&fd) { Kind::Terminal } else { Kind::Other };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(errno)?;
        let state = Mutex::new(State::default());
        Ok(Input { shared: Arc::new(Shared { fd, kind, wake, state, work: Condvar::new(), waiters: WaitQueue::new(), observers }) })
    }

    pub fn read(&self, buffer: &mut [u8], blocking: Blocking) -> Result<usize, Errno> {
        match blocking {
            Blocking::No => self.shared.take(buffer).unwrap_or(Err(Errno::EAGAIN)),
            Blocking::Yes => self.shared.waiters.wait_until(|| self.shared.take(buffer)),
        }
    }

    /// Observers want to hear when there is something to read.
    pub fn watch(&self) {
        let mut state = self.shared.state();
        if self.shared.kind == Kind::Other {
            state.watched = true;
        } else if state.demand == 0 {
            state.demand = 4096;
        }
        self.shared.rouse(&mut state);
    }

    /// Nothing more is to be read.
    pub fn give_up(&self) {
        let mut state = self.shared.state();
        state.closing = true;
        state.ended = true;
        drop(state);
        self.shared.work.notify_one();
        let _ = io::write(&self.shared.wake, &1u64.to_ne_bytes());
        self.shared.waiters.wake_all();
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.give_up();
    }
}
