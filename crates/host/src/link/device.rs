//! Taps, packet sockets and inherited descriptors: one frame for each read and write, most with a virtio header in front.

use super::{Transport, Wire, errno, virtio};
use crate::sys::check;
use crate::tun::{CLONE_DEVICE, FrameHeader, Tap, VIRTIO_HEADER_LEN};
use abi::Errno;
use platform::{HostFrame, LinkOffload};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::io::{self, FdFlags};
use std::io::{IoSlice, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

/// Longest frame, with its header and room to notice a longer one.
const FRAME_MAX: usize = 65_536 + 128;
/// Longest TCP packet that the host cuts for us.
const SEGMENTS_MAX: usize = 65_000;

/// A tap device of the host.
#[derive(Clone, Debug)]
pub struct TapDevice {
    /// Its name.
    pub name: String,
    /// Whether checksums and large TCP packets may be left to the other side.
    pub offload: bool,
    /// Run with the tap's name when it is open.
    pub if_up: Option<String>,
}

/// An interface of the host, by a packet socket: needs CAP_NET_RAW.
#[derive(Clone, Debug)]
pub struct RawInterface {
    /// Its name.
    pub name: String,
    /// As [`TapDevice::offload`].
    pub offload: bool,
    /// As [`TapDevice::if_up`].
    pub if_up: Option<String>,
}

/// A descriptor that this program inherited.
#[derive(Clone, Debug)]
pub struct Inherited {
    /// Its number.
    pub number: i32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It never waits.
    Device,
    Socket,
    /// It may wait: ask first.
    Other,
}

struct Descriptor {
    fd: OwnedFd,
    kind: Kind,
    header: FrameHeader,
    /// What to run once it is open, and with which argument.
    if_up: Option<(String, String)>,
}

fn offload(wanted: bool) -> LinkOffload {
    if wanted { LinkOffload { checksum: true, segment_bytes: SEGMENTS_MAX } } else { LinkOffload::default() }
}

impl Transport for TapDevice {
    fn offload(&self) -> LinkOffload {
        offload(self.offload)
    }

    fn open(&self) -> Result<Box<dyn Wire>, Errno> {
        let header = if self.offload { FrameHeader::Virtio } else { FrameHeader::None };
        let tap = Tap::attach(Path::new(CLONE_DEVICE), &self.name, header)?;
        if self.offload {
            tap.set_offload()?;
        }
        let if_up = self.if_up.clone().map(|program| (program, tap.name().to_owned()));
        Ok(Box::new(Descriptor { fd: tap.into_descriptor(), kind: Kind::Device, header, if_up }))
    }
}

impl Transport for RawInterface {
    fn offload(&self) -> LinkOffload {
        offload(self.offload)
    }

    fn open(&self) -> Result<Box<dyn Wire>, Errno> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no memory is involved. Protocol 0: nothing arrives before it is bound.
        let number = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: the descriptor is new and ours.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        let index = rustix::net::netdevice::name_to_index(&fd, &self.name).map_err(errno)?;
        let set = |option: libc::c_int, value: &[u8]| {
            let (pointer, len) = (value.as_ptr().cast(), value.len() as libc::socklen_t);
            // SAFETY: the value lives across the call.
            check(unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_PACKET, option, pointer, len) }).map(drop)
        };
        if self.offload {
            set(libc::PACKET_VNET_HDR, &1i32.to_ne_bytes())?;
        }
        // What leaves by it, ours included, is not for us. Then everything that arrives is.
        set(libc::PACKET_IGNORE_OUTGOING, &1i32.to_ne_bytes())?;
        // `struct packet_mreq`: index, type, length of an address, the address.
        let promiscuous = [&index.to_ne_bytes()[..], &(libc::PACKET_MR_PROMISC as u16).to_ne_bytes(), &[0; 10]].concat();
        set(libc::PACKET_ADD_MEMBERSHIP, &promiscuous)?;
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: index as libc::c_int,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the address lives across the call.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) })?;
        let header = if self.offload { FrameHeader::Virtio } else { FrameHeader::None };
        let if_up = self.if_up.clone().map(|program| (program, self.name.clone()));
        Ok(Box::new(Descriptor { fd, kind: Kind::Socket, header, if_up }))
    }
}

impl Inherited {
    /// Whether that descriptor is one that we were given, and carries frames. Ours are all closed at exec, others could not have come through one.
    fn take(&self) -> Result<(OwnedFd, Kind), Errno> {
        if self.number < 3 {
            return Err(Errno::EBADF);
        }
        // SAFETY: it is only asked about and duplicated, and nothing of ours is closed in between: what is not ours is not close-on-exec.
        let fd = unsafe { BorrowedFd::borrow_raw(self.number) };
        if io::fcntl_getfd(fd).map_err(errno)?.contains(FdFlags::CLOEXEC) {
            return Err(Errno::EBADF);
        }
        let kind = match FileType::from_raw_mode(rustix::fs::fstat(fd).map_err(errno)?.st_mode) {
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => Kind::Other,
            _ => return Err(Errno::EINVAL),
        };
        Ok((io::fcntl_dupfd_cloexec(fd, 3).map_err(errno)?, kind))
    }
}

impl Transport for Inherited {
    fn open(&self) -> Result<Box<dyn Wire>, Errno> {
        let (fd, kind) = self.take()?;
        Ok(Box::new(Descriptor { fd, kind, header: FrameHeader::None, if_up: None }))
    }
}

impl Descriptor {
    fn is_ready(&self, flags: PollFlags) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.kind != Kind::Other || poll(&mut [PollFd::new(&self.fd, flags)], Some(&now)).is_ok_and(|ready| ready > 0)
    }

    fn send_one(&self, frame: &HostFrame) -> Result<(), io::Errno> {
        use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
        if !self.is_ready(PollFlags::OUT) {
            return Err(io::Errno::AGAIN);
        }
        let header = virtio::header(frame);
        let both = [IoSlice::new(&header), IoSlice::new(frame.bytes())];
        let parts = if self.header == FrameHeader::Virtio { &both[..] } else { &both[1..] };
        match self.kind {
            Kind::Socket => sendmsg(&self.fd, parts, &mut SendAncillaryBuffer::default(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            _ => io::writev(&self.fd, parts),
        }
        .map(drop)
    }
}

impl Wire for Descriptor {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn connect(&self, _: &dyn Fn(BorrowedFd<'_>, PollFlags) -> bool) -> Result<(), Errno> {
        let Some((program, name)) = &self.if_up else { return Ok(()) };
        let mut command = Command::new(program);
        let ran = command.arg(name).stdin(Stdio::null()).stdout(Stdio::null()).status();
        match ran {
            Ok(status) if status.success() => {}
            // As the reference has it: the interface works, whatever the program did.
            Ok(status) => drop(writeln!(std::io::stderr(), "{program} {name}: {status}")),
            Err(error) => drop(writeln!(std::io::stderr(), "{program}: {error}")),
        }
        Ok(())
    }

    fn send(&self, frames: &[HostFrame]) -> Result<usize, Errno> {
        for (count, frame) in frames.iter().enumerate() {
            match self.send_one(frame) {
                Ok(()) => {}
                Err(_) if count > 0 => return Ok(count),
                Err(error) => return Err(errno(error)),
            }
        }
        Ok(frames.len())
    }

    fn receive(&self, buffer: &mut Vec<u8>, push: &mut dyn FnMut(HostFrame)) -> Result<(), Errno> {
        if !self.is_ready(PollFlags::IN) {
            return Err(Errno::EAGAIN);
        }
        buffer.resize(FRAME_MAX, 0);
        let len = match self.kind {
            Kind::Socket => rustix::net::recv(&self.fd, buffer.as_mut_slice(), rustix::net::RecvFlags::DONTWAIT).map(|(len, _)| len),
            _ => io::read(&self.fd, buffer.as_mut_slice()),
        };
        let len = len.map_err(errno)?;
        if len == 0 && self.kind == Kind::Socket && self.header == FrameHeader::None {
            // The other end of a pair is gone.
            return Err(Errno::EPIPE);
        }
        let bytes = buffer.get(..len).unwrap_or_default();
        match self.header {
            FrameHeader::None => push(HostFrame::copy_of(bytes)),
            FrameHeader::Virtio if len > VIRTIO_HEADER_LEN => {
                if let Some(frame) = virtio::parse(bytes) {
                    push(frame);
                }
            }
            FrameHeader::Virtio => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_descriptors_that_were_inherited_and_carry_frames_are_taken() {
        let take = |number: i32| Inherited { number }.take().map(|(_, kind)| kind == Kind::Socket);
        let (one, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
        assert_eq!(take(one.as_raw_fd()), Err(Errno::EBADF), "it is ours");
        io::fcntl_setfd(&one, FdFlags::empty()).unwrap();
        assert_eq!(take(one.as_raw_fd()), Ok(true));
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        io::fcntl_setfd(&file, FdFlags::empty()).unwrap();
        assert_eq!(take(file.as_raw_fd()), Err(Errno::EINVAL), "files carry no frames");
        assert_eq!((take(0), take(-1), take(1 << 20)), (Err(Errno::EBADF), Err(Errno::EBADF), Err(Errno::EBADF)));
    }
}
