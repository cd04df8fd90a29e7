//! Ways for network frames to leave the machine: queues and two threads around a socket or device of the host.
//!
//! One thread waits for frames and reads them, the other sends what is queued; the kernel waits for neither. What is read goes into a queue that
//! the observer empties at once; what is to be sent waits in a bounded one, and its sender is told when there is room again.
//!
//! What it is not: Ethernet. Frames are bytes here.
//!
//! Always true: the threads of an opening end with it; a closed link holds no descriptor, and no frame of an earlier opening is seen later.

mod daemon;
mod datagram;
mod device;
mod virtio;

pub use daemon::{ControlProtocol, SwitchPort};
pub use datagram::{Multicast, Unicast};
pub use device::{Inherited, RawInterface, TapDevice};

use abi::Errno;
use platform::{HostFrame, HostLink, LinkOffload};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io;
use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use sync::{Events, Observer};

/// Bytes of frames that wait to be sent, and that wait to be taken, at most; one frame always fits.
const QUEUE_BYTES: usize = 1 << 20;
/// Frames of one turn.
const BATCH: usize = 64;

fn errno(error: io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error()).unwrap_or(Errno::EIO)
}

/// One kind of link to the host: makes wires.
pub trait Transport: Send + Sync {
    /// What its wires do for their sender.
    fn offload(&self) -> LinkOffload {
        LinkOffload::default()
    }
    /// Makes a wire, without waiting.
    fn open(&self) -> Result<Box<dyn Wire>, Errno>;
}

/// Something of the host that carries frames. All calls but [`Wire::connect`] answer at once.
pub trait Wire: Send + Sync {
    /// What to poll for frames and for room.
    fn descriptor(&self) -> BorrowedFd<'_>;
    /// A second descriptor, whose end is the wire's.
    fn control(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// What is left to be done before frames can go; called on a thread that may wait, as long as `pause` (told what to wait for) says true.
    fn connect(&self, pause: &dyn Fn(BorrowedFd<'_>, PollFlags) -> bool) -> Result<(), Errno> {
        let _ = pause;
        Ok(())
    }
    /// Sends some frames from the front; EAGAIN when there is no room for the first. Other errors are about the first.
    fn send(&self, frames: &[HostFrame]) -> Result<usize, Errno>;
    /// Receives some frames; EAGAIN when there are none.
    fn receive(&self, buffer: &mut Vec<u8>, push: &mut dyn FnMut(HostFrame)) -> Result<(), Errno>;
}

#[derive(Default)]
struct Queues {
    to_host: VecDeque<HostFrame>,
    to_host_bytes: usize,
    to_guest: VecDeque<HostFrame>,
    to_guest_bytes: usize,
    /// The sender thread sleeps.
    idle: bool,
    /// A frame was refused since the last word about room.
    refused: bool,
    connected: bool,
    /// The wire is cut; until the next opening frames are lost as on one.
    cut: bool,
    /// Counts openings; what belongs to another one is of no interest.
    opening: u64,
    wire: Option<Arc<Opened>>,
}

struct Opened {
    wire: Box<dyn Wire>,
    /// Readable when the link is to be closed, for ever.
    closing: OwnedFd,
    opening: u64,
}

/// Counters for `ethtool -S`.
#[derive(Default)]
struct Counters {
    receive_calls: AtomicU64,
    received: AtomicU64,
    send_calls: AtomicU64,
    sent: AtomicU64,
    send_errors: AtomicU64,
    receive_max: AtomicU64,
    send_max: AtomicU64,
    refusals: AtomicU64,
    restarts: AtomicU64,
}

struct Shared {
    transport: Box<dyn Transport>,
    queues: Mutex<Queues>,
    work: Condvar,
    observer: OnceLock<Arc<dyn Observer>>,
    /// Told in words of what goes wrong behind the caller's back.
    log: Box<dyn Fn(&str) + Send + Sync>,
    counters: Counters,
}

/// A link over a transport.
pub struct Link(Arc<Shared>);

impl Link {
    /// A link, closed. `log` hears of failures that no call reports.
    #[must_use]
    pub fn new(transport: Box<dyn Transport>, log: Box<dyn Fn(&str) + Send + Sync>) -> Link {
        let (queues, work) = (Mutex::default(), Condvar::new());
        Link(Arc::new(Shared { transport, queues, work, observer: OnceLock::new(), log, counters: Counters::default() }))
    }
}

/// Sleeps until `fd` has one of `flags`; `false` when the link is to be closed.
fn pause(closing: &OwnedFd, fd: BorrowedFd<'_>, flags: PollFlags) -> bool {
    let mut fds = [PollFd::new(closing, PollFlags::IN), PollFd::from_borrowed_fd(fd, flags)];
    let _ = poll(&mut fds, None);
    fds[0].revents().is_empty()
}

impl Shared {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self, events: Events) {
        if let Some(observer) = self.observer.get() {
            observer.notify(events);
        }
    }

    /// Sets the carrier, unless the opening is over.
    fn set_connected(&self, opened: &Opened, connected: bool) {
        {
            let mut queues = self.queues();
            if queues.opening != opened.opening {
                return;
            }
            (queues.connected, queues.cut) = (connected, !connected);
            if !connected {
                queues.to_host.clear();
                queues.to_host_bytes = 0;
            }
        }
        self.work.notify_all();
        self.notify(Events::HUP);
    }

    /// The thread that reads.
    fn receive_loop(&self, opened: &Opened) {
        let wire = &*opened.wire;
        if let Err(errno) = wire.connect(&|fd, flags| pause(&opened.closing, fd, flags)) {
            (self.log)(&format!("could not be connected: {errno}"));
            self.set_connected(opened, false);
            return;
        }
        self.set_connected(opened, true);
        let mut buffer = Vec::new();
        loop {
            let mut fds = vec![PollFd::new(&opened.closing, PollFlags::IN), PollFd::from_borrowed_fd(wire.descriptor(), PollFlags::IN)];
            fds.extend(wire.control().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            let _ = poll(&mut fds, None);
            if !fds[0].revents().is_empty() {
                return;
            }
            if fds.get(2).is_some_and(|control| !control.revents().is_empty()) {
                (self.log)("the other side has closed the connection");
                break;
            }
            if let Err(errno) = self.receive_some(opened, &mut buffer) {
                (self.log)(&format!("read returned {}, shutting it down", -errno.raw()));
                break;
            }
        }
        self.set_connected(opened, false);
    }

    /// Reads what is there, or as much as the stack is to take in one turn.
    fn receive_some(&self, opened: &Opened, buffer: &mut Vec<u8>) -> Result<(), Errno> {
        let mut frames: Vec<HostFrame> = Vec::new();
        let result = loop {
            match opened.wire.receive(buffer, &mut |frame| frames.push(frame)) {
                Ok(()) if frames.len() < BATCH => {}
                Ok(()) | Err(Errno::EAGAIN | Errno::EINTR) => break Ok(()),
                // A datagram of ours was refused by a station that is not there: no fault of the wire.
                Err(Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH) if frames.len() < BATCH => {}
                Err(Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH) => break Ok(()),
                Err(errno) => break Err(errno),
            }
        };
        if frames.is_empty() {
            return result;
        }
        self.counters.receive_calls.fetch_add(1, Ordering::Relaxed);
        self.counters.received.fetch_add(frames.len() as u64, Ordering::Relaxed);
        self.counters.receive_max.fetch_max(frames.len() as u64, Ordering::Relaxed);
        {
            let mut queues = self.queues();
            if queues.opening != opened.opening {
                return result;
            }
            for frame in frames {
                let len = frame.buffer.capacity();
                if queues.to_guest_bytes + len > QUEUE_BYTES && !queues.to_guest.is_empty() {
                    continue;
                }
                queues.to_guest_bytes += len;
                queues.to_guest.push_back(frame);
            }
        }
        self.notify(Events::IN);
        result
    }

    /// The next frames to send; `None` when the opening is over.
    fn wait_work(&self, opened: &Opened) -> Option<Vec<HostFrame>> {
        let mut queues = self.queues();
        loop {
            if queues.opening != opened.opening {
                return None;
            }
            if queues.connected && !queues.to_host.is_empty() {
                break;
            }
            queues.idle = true;
            queues = self.work.wait(queues).unwrap_or_else(PoisonError::into_inner);
            queues.idle = false;
        }
        let count = queues.to_host.len().min(BATCH);
        let batch: Vec<HostFrame> = queues.to_host.drain(..count).collect();
        queues.to_host_bytes -= batch.iter().map(|frame| frame.buffer.capacity()).sum::<usize>().min(queues.to_host_bytes);
        Some(batch)
    }

    /// The thread that sends.
    fn send_loop(&self, opened: &Opened) {
        while let Some(batch) = self.wait_work(opened) {
            self.counters.send_calls.fetch_add(1, Ordering::Relaxed);
            self.counters.sent.fetch_add(batch.len() as u64, Ordering::Relaxed);
            self.counters.send_max.fetch_max(batch.len() as u64, Ordering::Relaxed);
            let mut rest = &batch[..];
            while !rest.is_empty() {
                match opened.wire.send(rest) {
                    Ok(sent) => rest = rest.get(sent.max(1)..).unwrap_or_default(),
                    Err(Errno::EINTR) => {}
                    Err(Errno::EAGAIN | Errno::ENOBUFS) => {
                        if !pause(&opened.closing, opened.wire.descriptor(), PollFlags::OUT) {
                            return;
                        }
                    }
                    Err(_) => {
                        // As on a wire that nobody listens to; the reader finds out whether it is cut.
                        self.counters.send_errors.fetch_add(1, Ordering::Relaxed);
                        rest = rest.get(1..).unwrap_or_default();
                    }
                }
            }
            let room = {
                let mut queues = self.queues();
                let room = queues.refused && queues.to_host_bytes < QUEUE_BYTES / 2;
                queues.refused &= !room;
                room
            };
            if room {
                self.counters.restarts.fetch_add(1, Ordering::Relaxed);
                self.notify(Events::OUT);
            }
        }
    }

    fn spawn(self: &Arc<Shared>, name: &str, opened: &Arc<Opened>, run: fn(&Shared, &Opened)) -> Result<(), Errno> {
        let (shared, opened) = (self.clone(), opened.clone());
        let thread = std::thread::Builder::new().name(name.into()).stack_size(512 * 1024);
        thread.spawn(move || run(&shared, &opened)).map(drop).map_err(|_| Errno::EAGAIN)
    }
}

impl HostLink for Link {
    fn offload(&self) -> LinkOffload {
        self.0.transport.offload()
    }

    fn open(&self) -> Result<(), Errno> {
        self.close();
        let wire = self.0.transport.open()?;
        let closing = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(errno)?;
        let opened = {
            let mut queues = self.0.queues();
            let opened = Arc::new(Opened { wire, closing, opening: queues.opening });
            queues.wire = Some(opened.clone());
            opened
        };
        let threads = [("net-receive", Shared::receive_loop as fn(&Shared, &Opened)), ("net-send", Shared::send_loop)];
        for (name, run) in threads {
            if let Err(errno) = self.0.spawn(name, &opened, run) {
                self.close();
                return Err(errno);
            }
        }
        Ok(())
    }

    fn close(&self) {
        let opened = {
            let mut queues = self.0.queues();
            let (opened, opening) = (queues.wire.take(), queues.opening + 1);
            *queues = Queues { opening, ..Queues::default() };
            opened
        };
        self.0.work.notify_all();
        if let Some(opened) = opened {
            let _ = io::write(&opened.closing, &1u64.to_ne_bytes());
        }
    }

    fn is_connected(&self) -> bool {
        self.0.queues().connected
    }

    fn send(&self, frame: HostFrame) -> Result<(), HostFrame> {
        let wake = {
            let mut queues = self.0.queues();
            if queues.cut || queues.wire.is_none() {
                self.0.counters.send_errors.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            let len = frame.buffer.capacity();
            if queues.to_host_bytes + len > QUEUE_BYTES && !queues.to_host.is_empty() {
                queues.refused = true;
                self.0.counters.refusals.fetch_add(1, Ordering::Relaxed);
                return Err(frame);
            }
            queues.to_host_bytes += len;
            queues.to_host.push_back(frame);
            std::mem::take(&mut queues.idle)
        };
        if wake {
            self.0.work.notify_one();
        }
        Ok(())
    }

    fn receive(&self) -> Option<HostFrame> {
        let mut queues = self.0.queues();
        let frame = queues.to_guest.pop_front()?;
        queues.to_guest_bytes = queues.to_guest_bytes.saturating_sub(frame.buffer.capacity());
        Some(frame)
    }

    fn observe(&self, observer: Arc<dyn Observer>) {
        // The first one stays: an interface has one link and one driver.
        let _ = self.0.observer.set(observer);
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        let counters = &self.0.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let average = |frames: &AtomicU64, calls: &AtomicU64| get(frames) / get(calls).max(1);
        // The reference's names, in its order.
        vec![
            ("rx_queue_max", get(&counters.receive_max)),
            ("rx_queue_running_average", average(&counters.received, &counters.receive_calls)),
            ("tx_queue_max", get(&counters.send_max)),
            ("tx_queue_running_average", average(&counters.sent, &counters.send_calls)),
            ("rx_encaps_errors", 0),
            ("tx_timeout_count", get(&counters.send_errors)),
            ("tx_restart_queue", get(&counters.restarts)),
            ("tx_kicks", get(&counters.send_calls)),
            ("tx_flow_control_xon", get(&counters.restarts)),
            ("tx_flow_control_xoff", get(&counters.refusals)),
            ("rx_csum_offload_good", 0),
            ("rx_csum_offload_errors", 0),
            ("sg_ok", 0),
            ("sg_linearized", 0),
        ]
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close();
    }
}
