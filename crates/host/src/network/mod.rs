//! The host's sockets, for a guest's network that needs no privileges: see `platform`'s [`HostNetwork`].
//!
//! All sockets are non-blocking and watched by one epoll instance, edge by edge. A thread waits in the host only while the machine sleeps: it
//! watches that instance through a second one, which tells of it once each time it is asked to.
//!
//! What it is not: a judge. Whom a guest may reach is decided above.

mod datagram;
mod listener;
mod resolv;
mod route;
mod stream;
#[cfg(test)]
mod tests;

use abi::Errno;
use platform::{HostDatagram, HostListener, HostNetwork, HostStream, Reach, SocketReady};
use route::Routes;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU8;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use stream::Stream;
use sync::{Events, Observer};

fn errno(error: io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error()).unwrap_or(Errno::EIO)
}

/// Sockets that are told of in one call of the host.
const EVENTS: usize = 64;
/// What the second epoll instance says of: the first, or that all is over.
const SOCKETS: u64 = 0;
const OVER: u64 = 1;

/// What all sockets of one network share.
struct Shared {
    sockets: OwnedFd,
    alarm: OwnedFd,
    over: OwnedFd,
    observer: OnceLock<Arc<dyn Observer>>,
    routes: Mutex<Routes>,
    /// Whether TCP sockets remember an offset to peek from: see `stream`.
    peek_offset: AtomicU8,
    /// Where bytes are peeked into that nobody wants, where they do not.
    scratch: Mutex<Vec<u8>>,
}

impl Shared {
    /// Has a socket watched.
    fn watch(&self, socket: BorrowedFd<'_>, token: u64) -> Result<(), Errno> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.sockets, socket, epoll::EventData::new_u64(token), flags).map_err(errno)
    }

    /// A new socket.
    fn open(&self, to: IpAddr, kind: SocketType, protocol: Option<Protocol>) -> Result<OwnedFd, Errno> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, protocol).map_err(errno)
    }

    /// Waits in the host and tells the observer.
    fn wait(&self) {
        let mut events = Vec::with_capacity(2);
        loop {
            events.clear();
            match epoll::wait(&self.alarm, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) if events.iter().any(|event| event.data.u64() == OVER) => return,
                Ok(_) => {
                    if let Some(observer) = self.observer.get() {
                        observer.notify(Events::IN | Events::OUT);
                    }
                }
                Err(io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

/// See the module.
pub struct Network {
    shared: Arc<Shared>,
}

impl Network {
    /// A network without sockets, and its thread.
    pub fn new() -> Result<Network, Errno> {
        let create = || epoll::create(epoll::CreateFlags::CLOEXEC).map_err(errno);
        let (sockets, alarm) = (create()?, create()?);
        let over = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(errno)?;
        // Not armed: nothing is told of before somebody sleeps.
        epoll::add(&alarm, &sockets, epoll::EventData::new_u64(SOCKETS), epoll::EventFlags::ONESHOT).map_err(errno)?;
        epoll::add(&alarm, &over, epoll::EventData::new_u64(OVER), epoll::EventFlags::IN).map_err(errno)?;
        let shared = Arc::new(Shared {
            sockets,
            alarm,
            over,
            observer: OnceLock::new(),
            routes: Mutex::new(Routes::new()),
            peek_offset: AtomicU8::new(stream::UNKNOWN),
            scratch: Mutex::default(),
        });
        let waiter = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("host-network".into())
            .stack_size(128 * 1024)
            .spawn(move || waiter.wait())
            .map_err(|_| Errno::EAGAIN)?;
        Ok(Network { shared })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The thread ends; sockets that are still there keep what they need of the rest.
        let _ = io::write(&self.shared.over, &1u64.to_ne_bytes());
    }
}

impl HostNetwork for Network {
    fn connect(&self, to: SocketAddr, token: u64) -> Result<Box<dyn HostStream>, Errno> {
        Ok(Box::new(Stream::connect(&self.shared, to, token)?))
    }

    fn listen(&self, at: SocketAddr, token: u64) -> Result<Box<dyn HostListener>, Errno> {
        Ok(Box::new(listener::Listener::new(&self.shared, at, token)?))
    }

    fn connect_datagram(&self, to: SocketAddr, token: u64) -> Result<Box<dyn HostDatagram>, Errno> {
        Ok(Box::new(datagram::Datagram::connect(&self.shared, to, None, token)?))
    }

    fn bind_datagram(&self, at: SocketAddr, token: u64) -> Result<Box<dyn HostDatagram>, Errno> {
        Ok(Box::new(datagram::Datagram::bind(&self.shared, at, token)?))
    }

    fn connect_echo(&self, to: IpAddr, token: u64) -> Result<Box<dyn HostDatagram>, Errno> {
        let protocol = if to.is_ipv4() { rustix::net::ipproto::ICMP } else { rustix::net::ipproto::ICMPV6 };
        Ok(Box::new(datagram::Datagram::connect(&self.shared, SocketAddr::new(to, 0), Some(protocol), token)?))
    }

    fn reach(&self, to: IpAddr) -> Reach {
        self.shared.routes.lock().unwrap_or_else(PoisonError::into_inner).reach(to)
    }

    fn resolvers(&self) -> Vec<SocketAddr> {
        resolv::name_servers()
    }

    fn take_ready(&self, into: &mut Vec<(u64, SocketReady)>) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            let now = rustix::event::Timespec::default();
            let count = epoll::wait(&self.shared.sockets, rustix::buffer::spare_capacity(&mut events), Some(&now)).unwrap_or(0);
            for event in &events {
                let flags = event.flags;
                let mut ready = SocketReady::empty();
                ready.set(SocketReady::READ, flags.contains(epoll::EventFlags::IN));
                ready.set(SocketReady::WRITE, flags.contains(epoll::EventFlags::OUT));
                let ended = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
                ready.set(SocketReady::HANGUP, flags.intersects(ended));
                into.push((event.data.u64(), ready));
            }
            if count < EVENTS {
                return;
            }
        }
    }

    fn arm(&self) {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        // It was added when all this was made.
        let _ = epoll::modify(&self.shared.alarm, &self.shared.sockets, epoll::EventData::new_u64(SOCKETS), flags);
    }

    fn observe(&self, observer: Arc<dyn Observer>) {
        // There is one machine, and so one observer.
        let _ = self.shared.observer.set(observer);
    }
}

/// The address in front of the host's own form of it.
fn address(any: rustix::net::SocketAddrAny) -> Option<SocketAddr> {
    SocketAddr::try_from(any).ok()
}

/// Where a socket is bound.
fn own_address(socket: impl AsFd) -> Option<SocketAddr> {
    rustix::net::getsockname(socket).ok().and_then(address)
}

/// Whether both ends of a connection have one address: then it never leaves the host.
fn is_local(socket: impl AsFd) -> bool {
    let peer = rustix::net::getpeername(&socket).ok().flatten().and_then(address);
    match (own_address(&socket), peer) {
        (Some(own), Some(peer)) => own.ip().to_canonical() == peer.ip().to_canonical() || peer.ip().to_canonical().is_loopback(),
        _ => false,
    }
}

/// The addresses of a name, as the host's resolver knows them; none if it does not. May wait in the host.
#[must_use]
pub fn resolve(name: &str) -> Vec<IpAddr> {
    std::net::ToSocketAddrs::to_socket_addrs(&(name, 0)).map(|found| found.map(|address| address.ip()).collect()).unwrap_or_default()
}

/// Domains that the host looks names up in (`search` in resolv.conf(5)).
#[must_use]
pub fn search_domains() -> Vec<String> {
    resolv::search_domains()
}

/// How many sockets a guest's network may use: an eighth of our descriptors, since guest processes need them too.
#[must_use]
pub fn sockets_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit / 8).unwrap_or(usize::MAX).clamp(16, 4096)
}
