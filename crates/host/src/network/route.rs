//! Where the host's routing table leads, asked over rtnetlink(7), route by route. Where that is forbidden, a UDP socket is asked: connected to
//! the host itself, its own address is the other's.

use super::{errno, is_local};
use platform::Reach;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socket_with};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

const HEADER: usize = 16;
const ROUTE: usize = 12;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const RTA_DST: u16 = 1;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RTN_BROADCAST: u8 = 3;
const RTN_ANYCAST: u8 = 4;
const RTN_MULTICAST: u8 = 5;

/// The question's way to the host.
pub struct Routes {
    socket: Option<OwnedFd>,
    sequence: u32,
}

impl Routes {
    pub fn new() -> Routes {
        let flags = SocketFlags::CLOEXEC;
        let open = || {
            let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            // The answer is there when the question has been sent; should it ever not be, nobody waits long.
            rustix::net::sockopt::set_socket_timeout(
                &socket,
                rustix::net::sockopt::Timeout::Recv,
                Some(std::time::Duration::from_millis(200)),
            )?;
            rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
            Ok::<OwnedFd, rustix::io::Errno>(socket)
        };
        Routes { socket: open().ok(), sequence: 0 }
    }

    /// Where packets to `to` would go.
    pub fn reach(&mut self, to: IpAddr) -> Reach {
        self.ask(to).unwrap_or_else(|| try_socket(to))
    }

    pub fn ask(&mut self, to: IpAddr) -> Option<Reach> {
        let socket = self.socket.as_ref()?;
        self.sequence = self.sequence.wrapping_add(1);
        rustix::net::send(socket, &question(to, self.sequence), SendFlags::empty()).ok()?;
        let mut buffer = [0; 4096];
        loop {
            let (_, len) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()).ok()?;
            let message = buffer.get(..len)?;
            let word = |at: usize| Some(u32::from_ne_bytes(message.get(at..at + 4)?.try_into().ok()?));
            if word(8)? == self.sequence {
                return answer(u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?), message.get(HEADER..)?);
            }
        }
    }
}

/// RTM_GETROUTE for one destination (rtnetlink(7)).
fn question(to: IpAddr, sequence: u32) -> Vec<u8> {
    let (family, bits, octets) = match to {
        IpAddr::V4(to) => (libc::AF_INET as u8, 32, to.octets().to_vec()),
        IpAddr::V6(to) => (libc::AF_INET6 as u8, 128, to.octets().to_vec()),
    };
    let len = HEADER + ROUTE + 4 + octets.len();
    let mut message = Vec::with_capacity(len);
    message.extend_from_slice(&(len as u32).to_ne_bytes());
    message.extend_from_slice(&RTM_GETROUTE.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    message.extend_from_slice(&sequence.to_ne_bytes());
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&[family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    message.extend_from_slice(&(4 + octets.len() as u16).to_ne_bytes());
    message.extend_from_slice(&RTA_DST.to_ne_bytes());
    message.extend_from_slice(&octets);
    message
}

/// What an answer says, behind its header.
fn answer(kind: u16, body: &[u8]) -> Option<Reach> {
    match kind {
        RTM_NEWROUTE => Some(match *body.get(7)? {
            RTN_UNICAST => Reach::Remote,
            RTN_LOCAL | RTN_ANYCAST => Reach::Local,
            RTN_BROADCAST | RTN_MULTICAST => Reach::Group,
            _ => Reach::Nowhere,
        }),
        // ENETUNREACH and its like: there is no route, or one that says so.
        NLMSG_ERROR => {
            let code = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
            matches!(-code, libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL).then_some(Reach::Nowhere)
        }
        _ => None,
    }
}

pub fn try_socket(to: IpAddr) -> Reach {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let connected = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .and_then(|socket| rustix::net::connect(&socket, &SocketAddr::new(to, 9)).map(|()| socket));
    match connected.map_err(errno) {
        Ok(socket) if is_local(&socket) => Reach::Local,
        Ok(_) => Reach::Remote,
        // EACCES is the answer for a broadcast address.
        Err(abi::Errno::EACCES) => Reach::Group,
        Err(_) => Reach::Nowhere,
    }
}
