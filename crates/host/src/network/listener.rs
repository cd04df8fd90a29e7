//! Ports of the host that lead to the guest.

use super::{Shared, address, errno, own_address};
use crate::network::stream::Stream;
use abi::Errno;
use platform::{HostListener, HostStream};
use rustix::net::{SocketFlags, SocketType, acceptfrom_with, sockopt};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

const BACKLOG: i32 = 128;

pub struct Listener {
    fd: OwnedFd,
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Listener {
    pub fn new(shared: &Arc<Shared>, at: SocketAddr, token: u64) -> Result<Listener, Errno> {
        let fd = shared.open(at.ip(), SocketType::STREAM, None)?;
        sockopt::set_socket_reuseaddr(&fd, true).map_err(errno)?;
        rustix::net::bind(&fd, &at).map_err(errno)?;
        rustix::net::listen(&fd, BACKLOG).map_err(errno)?;
        shared.watch(fd.as_fd(), token)?;
        let address = own_address(&fd).unwrap_or(at);
        Ok(Listener { fd, shared: Arc::clone(shared), address })
    }
}

impl HostListener for Listener {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn accept(&self, token: u64) -> Result<(Box<dyn HostStream>, SocketAddr), Errno> {
        let (fd, peer) = acceptfrom_with(&self.fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).map_err(errno)?;
        let peer = peer.and_then(address).ok_or(Errno::ECONNABORTED)?;
        Ok((Box::new(Stream::adopt(&self.shared, fd, token)?), peer))
    }
}
