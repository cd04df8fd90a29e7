//! Packet sockets, packet(7): frames as interfaces see them. DHCP clients, `arping` and `tcpdump` speak through them.
//!
//! What it is not: which frame is for whom (`net`), or memory-mapped rings (ENOPROTOOPT).

use crate::message::{Control, MessageFlags, ReceiveRequest, Received, SendRequest};
use crate::network::{Network, events, unless_again};
use crate::options::{self, Options};
use crate::patience::Patience;
use crate::protocol::{Call, How, Protocol};
use crate::socket::{Kind, Socket};
use crate::sockets::Sockets;
use abi::raw::net as raw;
use abi::{Errno, SysResult};
use net::bpf::{Instruction, Program};
use net::packet_socket::{Frame, FrameMode, LinkAddress, PacketMembership};
use net::{InterfaceId, MacAddress, SocketId};
use ram::Charge;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use sync::{Events, WaitQueue};
use vfs::{Capability, PollTable, Sink, Source};

/// Bytes charged for a socket.
const SOCKET_COST: usize = 2048;
/// Bytes of `struct sockaddr_ll`, and the least that names a protocol and an interface.
const ADDRESS_LEN: usize = 20;
const ADDRESS_MIN: usize = 12;
/// Longest frame that is taken.
const FRAME_MAX: usize = 65_550;
const SOL_PACKET: i32 = 263;
const PACKET_ADD_MEMBERSHIP: i32 = 1;
const PACKET_DROP_MEMBERSHIP: i32 = 2;
const PACKET_STATISTICS: i32 = 6;
const PACKET_AUXDATA: i32 = 8;
const PACKET_IGNORE_OUTGOING: i32 = 23;
/// `TP_STATUS_USER` and `TP_STATUS_CSUM_VALID`: what the reader gets has its checksum.
const STATUS: u32 = 1 | 1 << 7;

/// See the module.
struct PacketSocket {
    sockets: &'static Sockets,
    network: &'static Network,
    id: SocketId,
    options: Arc<Options>,
    queue: Arc<WaitQueue>,
    /// Where in a frame the network's header is.
    mode: FrameMode,
    auxiliary: AtomicBool,
    released: AtomicBool,
    _charge: Charge,
}

/// socket(2) of AF_PACKET. EPERM, ESOCKTNOSUPPORT.
pub(crate) fn create(sockets: &'static Sockets, kind: Kind, protocol: i32) -> Result<Arc<Socket>, Errno> {
    sockets.who().credentials.require(Capability::NET_RAW)?;
    let mode = match kind {
        Kind::Raw => FrameMode::Raw,
        Kind::Datagram => FrameMode::Cooked,
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    };
    let charge = sockets.ram.charge(SOCKET_COST)?;
    let network = sockets.network();
    // The number comes in the order of the network.
    let id = network.look(|stack| stack.packet_open(mode, (protocol as u16).swap_bytes()));
    let options = Arc::new(Options::default());
    let socket = PacketSocket {
        sockets,
        network,
        id,
        options: options.clone(),
        queue: network.watch(id),
        mode,
        auxiliary: AtomicBool::new(false),
        released: AtomicBool::new(false),
        _charge: charge,
    };
    Ok(Socket::new(sockets, raw::AF_PACKET, kind, protocol, options, Arc::new(socket)))
}

/// From a `struct sockaddr_ll`.
fn parse(address: &[u8]) -> Result<LinkAddress, Errno> {
    if address.len() < ADDRESS_MIN {
        return Err(Errno::EINVAL);
    }
    if u32::from(u16::from_ne_bytes([address[0], address[1]])) != raw::AF_PACKET {
        return Err(Errno::EINVAL);
    }
    let mut mac = [0; 6];
    if let Some(bytes) = address.get(12..18) {
        mac.copy_from_slice(bytes);
    }
    Ok(LinkAddress {
        protocol: u16::from_be_bytes([address[2], address[3]]),
        interface: InterfaceId(u32::from_ne_bytes([address[4], address[5], address[6], address[7]])),
        mac: MacAddress(mac),
        ..LinkAddress::default()
    })
}

/// A `struct sockaddr_ll`.
fn format(address: &LinkAddress) -> Vec<u8> {
    let mut bytes = (raw::AF_PACKET as u16).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&address.protocol.to_be_bytes());
    bytes.extend_from_slice(&address.interface.0.to_ne_bytes());
    bytes.extend_from_slice(&address.hardware.to_ne_bytes());
    bytes.extend_from_slice(&[address.kind as u8, 6]);
    bytes.extend_from_slice(&address.mac.0);
    bytes.resize(ADDRESS_LEN, 0);
    bytes
}

impl PacketSocket {
    fn with_socket<R>(&self, act: impl FnOnce(&mut net::packet_socket::PacketSocket) -> R) -> Result<R, Errno> {
        self.network.look(|stack| stack.packet_mut(self.id).map(act)).ok_or(Errno::EBADF)
    }

    /// PACKET_ADD_MEMBERSHIP and its opposite: a `struct packet_mreq`.
    fn set_membership(&self, value: &[u8], on: bool) -> Result<(), Errno> {
        const MULTICAST: u16 = 0;
        const PROMISCUOUS: u16 = 1;
        const ALL_MULTICAST: u16 = 2;
        let request = value.get(..16).ok_or(Errno::EINVAL)?;
        let interface = InterfaceId(u32::from_ne_bytes([request[0], request[1], request[2], request[3]]));
        let membership = match u16::from_ne_bytes([request[4], request[5]]) {
            PROMISCUOUS => PacketMembership::Promiscuous,
            // One group more is some group more: nobody is harmed by a frame that a filter would have kept away.
            MULTICAST | ALL_MULTICAST => PacketMembership::AllMulticast,
            _ => return Err(Errno::EINVAL),
        };
        self.network.with(|stack| stack.packet_membership(self.id, interface, membership, on))
    }

    /// Control messages that options ask for.
    fn describe(&self, frame: &Frame, control: &mut Vec<Control>) {
        let timestamp = self.options.timestamp.load(Ordering::Relaxed);
        if timestamp != 0 {
            let stamp = self.sockets.stamp(frame.packet.at_ns, timestamp as u32);
            control.push(Control::Other(raw::SOL_SOCKET as i32, timestamp, stamp));
        }
        if self.auxiliary.load(Ordering::Relaxed) {
            // `struct tpacket_auxdata`.
            let network_at = if self.mode == FrameMode::Raw { net::wire::ethernet::HEADER_LEN as u16 } else { 0 };
            let words = [STATUS, frame.original_len as u32, frame.packet.len() as u32];
            let mut data: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            data.extend([0, network_at, 0, 0].iter().flat_map(|half: &u16| half.to_ne_bytes()));
            control.push(Control::Other(SOL_PACKET, PACKET_AUXDATA, data));
        }
    }
}

impl Drop for PacketSocket {
    fn drop(&mut self) {
        self.release();
    }
}

impl Protocol for PacketSocket {
    fn bind(&self, _: &Call<'_>, address: &[u8]) -> SysResult<()> {
        if address.len() < ADDRESS_LEN - 2 {
            return Err(Errno::EINVAL.into());
        }
        let to = parse(address)?;
        Ok(self.network.with(|stack| stack.packet_bind(self.id, to.protocol, to.interface))?)
    }
    fn name(&self) -> Result<Vec<u8>, Errno> {
        let (protocol, interface) = self.with_socket(|socket| socket.bound())?;
        let (hardware, mac) = self.network.look(|stack| {
            stack.interfaces.get(interface).map_or((0, MacAddress::ZERO), |there| (crate::hardware_type(there), there.link.mac()))
        });
        Ok(format(&LinkAddress { protocol, interface, hardware, mac, ..LinkAddress::default() }))
    }
    fn peer_name(&self) -> Result<Vec<u8>, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    fn shutdown(&self, _: How) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    fn send(&self, _: Option<&Call<'_>>, patience: Patience, request: SendRequest<'_>, source: &mut dyn Source) -> SysResult<usize> {
        let to = request.to.map(parse).transpose()?;
        let len = source.left();
        if len > FRAME_MAX {
            return Err(Errno::EMSGSIZE.into());
        }
        let mut data = vec![0; len];
        if source.take(&mut data)? < len {
            return Err(Errno::EFAULT.into());
        }
        let attempt = || unless_again(self.network.with(|stack| stack.packet_send(self.id, &data, to)));
        Ok(patience.wait(&self.queue, attempt)??)
    }
    fn receive(&self, patience: Patience, request: ReceiveRequest, sink: &mut dyn Sink) -> SysResult<Received> {
        let peek = request.flags.contains(MessageFlags::PEEK);
        let frame = patience.wait(&self.queue, || unless_again(self.network.with(|stack| stack.packet_receive(self.id, peek))))??;
        let bytes = frame.packet.bytes();
        let want = bytes.len().min(sink.room());
        if sink.put(bytes.get(..want).unwrap_or_default())? < want {
            return Err(Errno::EFAULT.into());
        }
        let mut received = Received { len: want, ..Received::default() };
        if want < bytes.len() {
            received.flags |= MessageFlags::TRUNC;
            if request.flags.contains(MessageFlags::TRUNC) {
                received.len = bytes.len();
            }
        }
        if request.wants_address {
            received.from = Some(format(&frame.address));
        }
        self.describe(&frame, &mut received.control);
        self.network.settle();
        Ok(received)
    }
    fn poll(&self, table: Option<&mut PollTable>) -> Events {
        if let Some(table) = table {
            table.listen(&self.queue);
        }
        self.with_socket(|socket| socket.ready()).map_or(Events::ERR | Events::HUP, events)
    }
    fn changed(&self, name: u32) {
        if name == raw::SO_RCVBUF {
            let limit = self.options.receive_buffer.load(Ordering::Relaxed);
            // A socket that is gone has no buffer.
            let _ = self.with_socket(|socket| socket.receive_limit = limit);
        }
    }
    fn set_option(&self, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        const SOL_SOCKET: i32 = raw::SOL_SOCKET as i32;
        match (level, name) {
            (SOL_SOCKET, _) if name == raw::SO_ATTACH_FILTER as i32 => {
                let filter = Program::new(Instruction::parse_all(value))?;
                self.with_socket(|socket| socket.filter = Some(filter))
            }
            (SOL_SOCKET, _) if name == raw::SO_DETACH_FILTER as i32 => {
                self.with_socket(|socket| socket.filter.take())?.map(drop).ok_or(Errno::ENOENT)
            }
            (SOL_PACKET, PACKET_ADD_MEMBERSHIP) => self.set_membership(value, true),
            (SOL_PACKET, PACKET_DROP_MEMBERSHIP) => self.set_membership(value, false),
            (SOL_PACKET, PACKET_AUXDATA) => {
                self.auxiliary.store(options::read::<i32>(value)? != 0, Ordering::Relaxed);
                Ok(())
            }
            (SOL_PACKET, PACKET_IGNORE_OUTGOING) => {
                let on = options::read::<i32>(value)? != 0;
                self.with_socket(|socket| socket.ignore_outgoing = on)
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }
    fn option(&self, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
        let int = |on: bool| i32::from(on).to_ne_bytes().to_vec();
        match (level, name) {
            (SOL_PACKET, PACKET_STATISTICS) => {
                let (seen, dropped) = self.with_socket(|socket| socket.take_statistics())?;
                Ok([seen as u32, dropped as u32].iter().flat_map(|word| word.to_ne_bytes()).collect())
            }
            (SOL_PACKET, PACKET_AUXDATA) => Ok(int(self.auxiliary.load(Ordering::Relaxed))),
            (SOL_PACKET, PACKET_IGNORE_OUTGOING) => Ok(int(self.with_socket(|socket| socket.ignore_outgoing)?)),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }
    fn take_error(&self) -> Option<Errno> {
        self.with_socket(|socket| socket.take_error()).ok().flatten()
    }
    fn release(&self) {
        if self.released.swap(true, Ordering::AcqRel) {
            return;
        }
        self.network.with(|stack| stack.packet_close(self.id));
        self.network.unwatch(self.id);
        self.network.settle();
    }
}
