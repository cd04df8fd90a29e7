//! A TCP port that listens: connections for consoles.

use super::{Channel, Observers, QUEUE_BYTES};
use abi::Errno;
use platform::{ConsoleListener, HostChannel, Way};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use sync::{Events, Observer};

/// Connections that wait to be taken; more are closed at once.
const WAITING: usize = 64;

struct Shared {
    socket: TcpListener,
    wake: OwnedFd,
    waiting: Mutex<VecDeque<Arc<Channel>>>,
    observers: Observers,
}

/// A listening port. Dropping it closes it.
pub(super) struct Listener(Arc<Shared>);

fn number(error: &std::io::Error) -> Errno {
    error.raw_os_error().and_then(Errno::from_raw).unwrap_or(Errno::EIO)
}

impl Listener {
    pub fn new(port: u16) -> Result<Listener, Errno> {
        // The standard library sets SO_REUSEADDR; an IPv6 socket takes IPv4 too, where the host says so.
        let any6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let any4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let socket = TcpListener::bind(any6).or_else(|_| TcpListener::bind(any4)).map_err(|error| number(&error))?;
        socket.set_nonblocking(true).map_err(|error| number(&error))?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(super::errno)?;
        let shared = Arc::new(Shared { socket, wake, waiting: Mutex::default(), observers: Observers::default() });
        let theirs = shared.clone();
        let spawned = std::thread::Builder::new().name("host-port".into()).stack_size(128 * 1024).spawn(move || theirs.pump());
        spawned.map_err(|_| Errno::EAGAIN)?;
        Ok(Listener(shared))
    }
}

impl Shared {
    fn pump(&self) {
        loop {
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
            let polled = poll(&mut fds, None);
            if polled.is_err() || fds.get(1).is_some_and(|wake| !wake.revents().is_empty()) {
                return;
            }
            match self.socket.accept() {
                Ok((stream, _)) => self.arrived(OwnedFd::from(stream)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                // Out of descriptors, most likely: it stays in the host's queue, and is asked for again a little later.
                Err(_) => {
                    let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
                    let _ = poll(&mut [PollFd::new(&self.wake, PollFlags::IN)], Some(&pause));
                }
            }
        }
    }

    fn arrived(&self, socket: OwnedFd) {
        // A peer that vanished is noticed some day; a console's bytes are few and shall not wait for each other.
        let _ = rustix::net::sockopt::set_socket_keepalive(&socket, true);
        let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, QUEUE_BYTES);
        let Ok(channel) = Channel::owned(socket, Way::Both) else { return };
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= WAITING {
            return;
        }
        waiting.push_back(Arc::new(channel));
        drop(waiting);
        self.observers.notify(Events::IN);
    }
}

impl ConsoleListener for Listener {
    fn accept(&self) -> Result<Arc<dyn HostChannel>, Errno> {
        let next = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        Ok(next.ok_or(Errno::EAGAIN)?)
    }
    fn observe(&self, observer: Arc<dyn Observer>) {
        self.0.observers.add(observer);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.observers.clear();
        let _ = rustix::io::write(&self.0.wake, &1u64.to_ne_bytes());
    }
}
