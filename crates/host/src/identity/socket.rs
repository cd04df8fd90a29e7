//! The management console's socket: datagrams of the owner's programs, and notifications to a program of the host. unix(7).

use super::Identity;
use abi::Errno;
use platform::{HostMailbox, MailAddress};
use rustix::fs::Mode;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType,
    bind, recvmsg, sendto, socket_with, sockopt,
};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// How long a slow receiver of an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error()).unwrap_or(Errno::EIO)
}

fn datagram_socket(flags: SocketFlags) -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags | SocketFlags::CLOEXEC, None).map_err(errno)
}

/// A machine's socket.
pub struct Mailbox {
    socket: OwnedFd,
    owner: u32,
}

impl Mailbox {
    /// Binds the identity's socket, for its owner alone.
    pub fn open(identity: &Identity) -> Result<Mailbox, Errno> {
        let socket = datagram_socket(SocketFlags::empty())?;
        let path = identity.directory.join("mconsole");
        bind(&socket, &SocketAddrUnix::new(&path).map_err(errno)?).map_err(errno)?;
        // Nobody else can enter the directory anyway.
        rustix::fs::chmod(&path, Mode::RUSR | Mode::WUSR).map_err(errno)?;
        sockopt::set_socket_passcred(&socket, true).map_err(errno)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE)).map_err(errno)?;
        Ok(Mailbox { socket, owner: rustix::process::geteuid().as_raw() })
    }

    fn one(&self, buffer: &mut [u8]) -> Result<Option<(usize, MailAddress)>, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(&self.socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC).map_err(errno)?;
        let sender = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.uid.as_raw()),
            _ => None,
        });
        if !sender.is_some_and(|uid| uid == 0 || uid == self.owner) {
            return Ok(None);
        }
        Ok(Some((got.bytes, got.address.map(address_bytes).unwrap_or_default())))
    }
}

/// An address as unix(7) lays it out: a path, or a NUL and a name.
fn address_bytes(address: SocketAddrAny) -> MailAddress {
    let Ok(address) = SocketAddrUnix::try_from(address) else { return MailAddress::default() };
    let name = address.abstract_name().map(|name| [b"\0", name].concat());
    MailAddress(name.or_else(|| address.path_bytes().map(<[u8]>::to_vec)).unwrap_or_default())
}

fn to_address(address: &MailAddress) -> Result<SocketAddrUnix, Errno> {
    match address.0.split_first() {
        None => Err(Errno::EDESTADDRREQ),
        Some((0, name)) => SocketAddrUnix::new_abstract_name(name).map_err(errno),
        Some(_) => SocketAddrUnix::new(Path::new(std::ffi::OsStr::from_bytes(&address.0))).map_err(errno),
    }
}

impl HostMailbox for Mailbox {
    fn receive(&self, buffer: &mut [u8]) -> Result<(usize, MailAddress), Errno> {
        loop {
            match self.one(buffer) {
                Ok(Some(datagram)) => return Ok(datagram),
                Ok(None) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    fn send(&self, to: &MailAddress, datagram: &[u8]) -> Result<(), Errno> {
        let to = to_address(to)?;
        loop {
            match sendto(&self.socket, datagram, SendFlags::NOSIGNAL, &to).map_err(errno) {
                Err(Errno::EINTR) => {}
                other => return other.map(drop),
            }
        }
    }
}

/// Sends one datagram to the socket at `path`, without waiting for anybody.
pub fn notify(path: &Path, datagram: &[u8]) -> Result<(), Errno> {
    let socket = datagram_socket(SocketFlags::NONBLOCK)?;
    let to = SocketAddrUnix::new(path).map_err(errno)?;
    sendto(&socket, datagram, SendFlags::NOSIGNAL, &to).map_err(errno).map(drop)
}
