//! Frames as UDP datagrams, one each: to a multicast group that all members of a network join, or between two stations.

use super::{Transport, Wire, errno};
use abi::Errno;
use platform::HostFrame;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with, sockopt};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Longest datagram.
const DATAGRAM_MAX: usize = 65_536;
/// Room in the host for what arrives while we are busy.
const BUFFER_BYTES: usize = 1 << 20;

/// A network that is a multicast group. Who sends hears itself, as every member does.
#[derive(Clone, Debug)]
pub struct Multicast {
    /// Group and port.
    pub group: SocketAddrV4,
    /// How many routers a datagram may cross.
    pub ttl: u8,
}

/// A cable between two stations.
#[derive(Clone, Debug)]
pub struct Unicast {
    /// The other end.
    pub remote: SocketAddrV4,
    /// Our port.
    pub listen_port: u16,
}

struct Datagrams {
    socket: OwnedFd,
    to: SocketAddrV4,
}

fn socket() -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None).map_err(errno)?;
    sockopt::set_socket_reuseaddr(&socket, true).map_err(errno)?;
    // The host caps it as it likes.
    let _ = sockopt::set_socket_recv_buffer_size(&socket, BUFFER_BYTES);
    let _ = sockopt::set_socket_send_buffer_size(&socket, BUFFER_BYTES);
    Ok(socket)
}

impl Transport for Multicast {
    fn open(&self) -> Result<Box<dyn Wire>, Errno> {
        let socket = socket()?;
        sockopt::set_ip_multicast_ttl(&socket, u32::from(self.ttl)).map_err(errno)?;
        sockopt::set_ip_multicast_loop(&socket, true).map_err(errno)?;
        bind(&socket, &self.group).map_err(errno)?;
        match sockopt::set_ip_add_membership(&socket, self.group.ip(), &Ipv4Addr::UNSPECIFIED) {
            Err(rustix::io::Errno::NODEV) => {
                // A host without a route to groups: its own machines can still meet.
                sockopt::set_ip_add_membership(&socket, self.group.ip(), &Ipv4Addr::LOCALHOST).map_err(errno)?;
                sockopt::set_ip_multicast_if(&socket, &Ipv4Addr::LOCALHOST).map_err(errno)?;
            }
            joined => joined.map_err(errno)?,
        }
        Ok(Box::new(Datagrams { socket, to: self.group }))
    }
}

impl Transport for Unicast {
    fn open(&self) -> Result<Box<dyn Wire>, Errno> {
        let socket = socket()?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, self.listen_port)).map_err(errno)?;
        Ok(Box::new(Datagrams { socket, to: self.remote }))
    }
}

impl Wire for Datagrams {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn send(&self, frames: &[HostFrame]) -> Result<usize, Errno> {
        for (count, frame) in frames.iter().enumerate() {
            match sendto(&self.socket, frame.bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL, &self.to) {
                Ok(_) => {}
                Err(_) if count > 0 => return Ok(count),
                Err(error) => return Err(errno(error)),
            }
        }
        Ok(frames.len())
    }

    fn receive(&self, buffer: &mut Vec<u8>, push: &mut dyn FnMut(HostFrame)) -> Result<(), Errno> {
        buffer.resize(DATAGRAM_MAX, 0);
        let (len, _) = recv(&self.socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT).map_err(errno)?;
        push(HostFrame::copy_of(buffer.get(..len).unwrap_or_default()));
        Ok(())
    }
}
