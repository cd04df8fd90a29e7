//! UDP and ping sockets.

use super::{Shared, address, errno, is_local, own_address};
use abi::Errno;
use platform::HostDatagram;
use rustix::net::{Protocol, RecvFlags, SendFlags, SocketType};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

pub struct Datagram {
    fd: OwnedFd,
}

/// Where a socket without an address is.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl Datagram {
    pub fn connect(shared: &Shared, to: SocketAddr, protocol: Option<Protocol>, token: u64) -> Result<Datagram, Errno> {
        let fd = shared.open(to.ip(), SocketType::DGRAM, protocol)?;
        rustix::net::connect(&fd, &to).map_err(errno)?;
        shared.watch(fd.as_fd(), token)?;
        Ok(Datagram { fd })
    }

    pub fn bind(shared: &Shared, at: SocketAddr, token: u64) -> Result<Datagram, Errno> {
        let fd = shared.open(at.ip(), SocketType::DGRAM, None)?;
        rustix::net::bind(&fd, &at).map_err(errno)?;
        shared.watch(fd.as_fd(), token)?;
        Ok(Datagram { fd })
    }
}

impl HostDatagram for Datagram {
    fn address(&self) -> SocketAddr {
        own_address(&self.fd).unwrap_or(NOWHERE)
    }

    fn is_local(&self) -> bool {
        is_local(&self.fd)
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<(usize, SocketAddr), Errno> {
        let (len, _, from) = rustix::net::recvfrom(&self.fd, buffer, RecvFlags::DONTWAIT).map_err(errno)?;
        Ok((len, from.and_then(address).unwrap_or(NOWHERE)))
    }

    fn send(&self, data: &[u8], to: Option<SocketAddr>) -> Result<(), Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match to {
            Some(to) => rustix::net::sendto(&self.fd, data, flags, &to),
            None => rustix::net::send(&self.fd, data, flags),
        }
        .map(drop)
        .map_err(errno)
    }
}
