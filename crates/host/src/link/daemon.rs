//! A port of a switch: a control connection over a Unix stream, frames as datagrams between two Unix sockets.
//!
//! What it is not: the words of the control protocol (`switch::protocol`), which whoever makes the transport gives us as bytes.

use super::{Transport, Wire, errno};
use abi::Errno;
use platform::HostFrame;
use rustix::event::PollFlags;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, recv, send, socket_with};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Longest frame.
const FRAME_MAX: usize = 65_536 + 64;

/// How the two sides of a control connection speak.
pub trait ControlProtocol: Send + Sync {
    /// A name for our data socket, without the leading NUL, from the number of this process and one of its own.
    fn data_name(&self, process: u32, number: u32) -> Vec<u8>;
    /// The request for a port, for a data socket with that name.
    fn request(&self, data_name: &[u8]) -> Vec<u8>;
    /// Bytes of the whole answer.
    fn answer_len(&self) -> usize;
    /// The name of the switch's data socket, with its leading NUL if it is abstract. `None` for an answer that is none.
    fn understand(&self, answer: &[u8]) -> Option<Vec<u8>>;
}

/// Ports of the switch that has the control socket `path`.
pub struct SwitchPort {
    /// The control socket.
    pub path: PathBuf,
    /// What is said on it.
    pub protocol: Box<dyn ControlProtocol>,
}

struct Port {
    control: OwnedFd,
    data: OwnedFd,
    data_name: Vec<u8>,
    of: Arc<SwitchPort>,
}

/// An address from a path, or from an abstract name with its leading NUL.
fn address(name: &[u8]) -> Result<SocketAddrUnix, Errno> {
    match name.strip_prefix(&[0]) {
        Some(name) => SocketAddrUnix::new_abstract_name(name).map_err(errno),
        None => SocketAddrUnix::new(name).map_err(errno),
    }
}

impl Transport for Arc<SwitchPort> {
    fn open(&self) -> Result<Box<dyn Wire>, Errno> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let control = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(errno)?;
        let path = SocketAddrUnix::new(self.path.as_path()).map_err(errno)?;
        connect(&control, &path).map_err(errno)?;
        let data = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).map_err(errno)?;
        let name = loop {
            let name = self.protocol.data_name(std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
            match bind(&data, &SocketAddrUnix::new_abstract_name(&name).map_err(errno)?) {
                Ok(()) => break name,
                // A process with our number in another namespace was first.
                Err(rustix::io::Errno::ADDRINUSE) => {}
                Err(error) => return Err(errno(error)),
            }
        };
        // Large frames, and many of them, want more room than the default; what the host does not give is no fault.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&data, 1 << 20);
        Ok(Box::new(Port { control, data, data_name: name, of: self.clone() }))
    }
}

impl Wire for Port {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.data.as_fd()
    }

    fn control(&self) -> Option<BorrowedFd<'_>> {
        Some(self.control.as_fd())
    }

    fn connect(&self, pause: &dyn Fn(BorrowedFd<'_>, PollFlags) -> bool) -> Result<(), Errno> {
        let protocol = &self.of.protocol;
        let request = protocol.request(&self.data_name);
        let mut rest = &request[..];
        while !rest.is_empty() {
            match send(&self.control, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(rustix::io::Errno::AGAIN) if pause(self.control.as_fd(), PollFlags::OUT) => {}
                Err(error) => return Err(errno(error)),
            }
        }
        let mut answer = vec![0; protocol.answer_len()];
        let mut have = 0;
        while have < answer.len() {
            match recv(&self.control, answer.get_mut(have..).unwrap_or_default(), RecvFlags::empty()) {
                Ok((0, _)) => return Err(Errno::ECONNRESET),
                Ok((n, _)) => have += n,
                Err(rustix::io::Errno::AGAIN) if pause(self.control.as_fd(), PollFlags::IN) => {}
                Err(error) => return Err(errno(error)),
            }
        }
        let peer = protocol.understand(&answer).ok_or(Errno::EPROTO)?;
        // Connected, so that nobody but the switch can send to us.
        connect(&self.data, &address(&peer)?).map_err(errno)
    }

    fn send(&self, frames: &[HostFrame]) -> Result<usize, Errno> {
        for (count, frame) in frames.iter().enumerate() {
            match send(&self.data, frame.bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(_) => {}
                Err(_) if count > 0 => return Ok(count),
                Err(error) => return Err(errno(error)),
            }
        }
        Ok(frames.len())
    }

    fn receive(&self, buffer: &mut Vec<u8>, push: &mut dyn FnMut(HostFrame)) -> Result<(), Errno> {
        buffer.resize(FRAME_MAX, 0);
        let (len, _) = recv(&self.data, buffer.as_mut_slice(), RecvFlags::DONTWAIT).map_err(errno)?;
        push(HostFrame::copy_of(buffer.get(..len).unwrap_or_default()));
        Ok(())
    }
}
