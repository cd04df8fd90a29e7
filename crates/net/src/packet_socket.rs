//! Packet sockets (packet(7)): frames as devices see them, in and out, through a filter.
//!
//! What it is not: memory-mapped rings; a reader takes frames one at a time.
//!
//! Always true: what waits costs at most the receive buffer; with no socket open no frame is copied.

use std::collections::{BTreeMap, VecDeque};

use abi::Errno;

use crate::bpf::{Ancillary, Program};
use crate::core::{Core, Ready, SocketId};
use crate::interface::InterfaceId;
use crate::link::Medium;
use crate::packet::{Packet, PacketKind};
use crate::wire::MacAddress;
use crate::wire::ethernet::{EthernetHeader, HEADER_LEN, ethertype};

/// What readers and writers see of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameMode {
    /// All of it (`SOCK_RAW`).
    Raw,
    /// What is behind the link header (`SOCK_DGRAM`).
    Cooked,
}

/// `struct sockaddr_ll`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkAddress {
    /// EtherType.
    pub protocol: u16,
    /// Interface.
    pub interface: InterfaceId,
    /// Hardware type (`ARPHRD_*`).
    pub hardware: u16,
    /// To whom.
    pub kind: PacketKind,
    /// The sender's address on receive, the receiver's on send.
    pub mac: MacAddress,
}

/// A frame that waits to be read.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The frame, cut to what the filter kept.
    pub packet: Packet,
    /// How long it was.
    pub original_len: usize,
    /// About it.
    pub address: LinkAddress,
}

/// What a socket asks of an interface (`PACKET_ADD_MEMBERSHIP`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PacketMembership {
    /// Promiscuous mode.
    Promiscuous,
    /// All groups.
    AllMulticast,
}

/// A packet socket.
#[derive(Debug)]
pub struct PacketSocket {
    mode: FrameMode,
    protocol: u16,
    interface: InterfaceId,
    /// `SO_ATTACH_FILTER`
    pub filter: Option<Program>,
    /// `PACKET_IGNORE_OUTGOING`
    pub ignore_outgoing: bool,
    /// `SO_RCVBUF`
    pub receive_limit: usize,
    queue: VecDeque<Frame>,
    queued_bytes: usize,
    memberships: Vec<(InterfaceId, PacketMembership)>,
    seen: u64,
    dropped: u64,
    error: Option<Errno>,
}

impl PacketSocket {
    /// `PACKET_STATISTICS`: frames and drops since the last call.
    pub fn take_statistics(&mut self) -> (u64, u64) {
        (core::mem::take(&mut self.seen), core::mem::take(&mut self.dropped))
    }

    /// Protocol and interface that it is bound to.
    #[must_use]
    pub fn bound(&self) -> (u16, InterfaceId) {
        (self.protocol, self.interface)
    }

    /// What poll(2) sees.
    #[must_use]
    pub fn ready(&self) -> Ready {
        let mut ready = Ready::OUT;
        if !self.queue.is_empty() {
            ready |= Ready::IN;
        }
        if self.error.is_some() {
            ready |= Ready::ERR;
        }
        ready
    }

    /// `SO_ERROR`
    pub fn take_error(&mut self) -> Option<Errno> {
        self.error.take()
    }
}

/// All packet sockets of a stack.
#[derive(Default)]
pub struct PacketSockets {
    sockets: BTreeMap<SocketId, PacketSocket>,
}

impl PacketSockets {
    /// Opens a socket for frames of `protocol` (an EtherType, [`ethertype::ALL`], or 0 for none until bound).
    pub(crate) fn open(&mut self, core: &mut Core, mode: FrameMode, protocol: u16) -> SocketId {
        let id = core.new_socket_id();
        let socket = PacketSocket {
            mode,
            protocol,
            interface: InterfaceId::NONE,
            filter: None,
            ignore_outgoing: false,
            receive_limit: core.config.receive_default,
            queue: VecDeque::new(),
            queued_bytes: 0,
            memberships: Vec::new(),
            seen: 0,
            dropped: 0,
            error: None,
        };
        self.sockets.insert(id, socket);
        core.tap_users = self.sockets.len();
        id
    }

    pub(crate) fn get_mut(&mut self, id: SocketId) -> Option<&mut PacketSocket> {
        self.sockets.get_mut(&id)
    }

    pub(crate) fn close(&mut self, core: &mut Core, id: SocketId) {
        let Some(socket) = self.sockets.remove(&id) else { return };
        core.memory_bytes = core.memory_bytes.saturating_sub(socket.queued_bytes);
        for (interface, membership) in socket.memberships {
            change_mode(core, interface, membership, false);
        }
        core.tap_users = self.sockets.len();
        core.forget_ready(id);
    }

    /// bind(2): frames of `protocol` (0 keeps the present one) on `interface` (none is all).
    pub(crate) fn bind(&mut self, core: &Core, id: SocketId, protocol: u16, interface: InterfaceId) -> Result<(), Errno> {
        if interface != InterfaceId::NONE && core.interfaces.get(interface).is_none() {
            return Err(Errno::ENODEV);
        }
        let socket = self.sockets.get_mut(&id).ok_or(Errno::EBADF)?;
        if protocol != 0 {
            socket.protocol = protocol;
        }
        socket.interface = interface;
        Ok(())
    }

    /// `PACKET_ADD_MEMBERSHIP` and its opposite.
    pub(crate) fn set_membership(
        &mut self,
        core: &mut Core,
        id: SocketId,
        interface: InterfaceId,
        membership: PacketMembership,
        on: bool,
    ) -> Result<(), Errno> {
        let socket = self.sockets.get_mut(&id).ok_or(Errno::EBADF)?;
        core.interfaces.get(interface).ok_or(Errno::ENODEV)?;
        let there = socket.memberships.iter().position(|m| *m == (interface, membership));
        match (on, there) {
            (true, _) if socket.memberships.len() >= 64 => return Err(Errno::ENOBUFS),
            (true, _) => socket.memberships.push((interface, membership)),
            (false, Some(at)) => {
                socket.memberships.remove(at);
            }
            (false, None) => return Err(Errno::EADDRNOTAVAIL),
        }
        change_mode(core, interface, membership, on);
        Ok(())
    }

    /// Shows a frame, starting at its link header, to whoever wants it.
    pub(crate) fn input(&mut self, core: &mut Core, mut packet: Packet) {
        let Some(interface) = core.interfaces.get(packet.interface) else { return };
        let medium = interface.capabilities().medium;
        let header_len = interface.header_len();
        let hardware = match medium {
            Medium::Ethernet => 1,
            Medium::Loopback => 772,
            Medium::Ip => 0xfffe,
        };
        let (protocol, mac) = match medium {
            Medium::Ip => {
                (if packet.bytes().first().is_some_and(|b| b >> 4 == 6) { ethertype::IPV6 } else { ethertype::IPV4 }, MacAddress::ZERO)
            }
            _ => match EthernetHeader::parse(packet.bytes()) {
                Ok(header) => (header.ethertype, header.src),
                Err(_) => return,
            },
        };
        // A partial checksum means nothing to a reader without auxiliary data.
        packet.finish_checksum();
        let address = LinkAddress { protocol, interface: packet.interface, hardware, kind: packet.kind, mac };
        for (id, socket) in &mut self.sockets {
            let outgoing = packet.kind == PacketKind::Outgoing;
            // A protocol of 0 hears nothing, and a given one hears only what comes in (Linux's ptype_base).
            let wanted = socket.protocol == ethertype::ALL || (socket.protocol == protocol && !outgoing);
            let here = socket.interface == InterfaceId::NONE || socket.interface == packet.interface;
            if wanted && here && !(outgoing && socket.ignore_outgoing) {
                socket.offer(core, *id, &packet, header_len, address);
            }
        }
    }

    /// recvfrom(2): EAGAIN when nothing is there.
    pub(crate) fn receive(&mut self, core: &mut Core, id: SocketId, peek: bool) -> Result<Frame, Errno> {
        let socket = self.sockets.get_mut(&id).ok_or(Errno::EBADF)?;
        if let Some(errno) = socket.error.take() {
            return Err(errno);
        }
        if peek {
            return socket.queue.front().cloned().ok_or(Errno::EAGAIN);
        }
        let frame = socket.queue.pop_front().ok_or(Errno::EAGAIN)?;
        let cost = frame.packet.cost();
        socket.queued_bytes = socket.queued_bytes.saturating_sub(cost);
        core.memory_bytes = core.memory_bytes.saturating_sub(cost);
        Ok(frame)
    }

    /// sendto(2): a whole frame, or its inside with the receiver in `to`. ENXIO without an interface, EMSGSIZE, EINVAL, ENETDOWN.
    pub(crate) fn send(&mut self, core: &mut Core, id: SocketId, data: &[u8], to: Option<LinkAddress>) -> Result<usize, Errno> {
        let socket = self.sockets.get(&id).ok_or(Errno::EBADF)?;
        let device = to.and_then(|to| to.interface.some()).or(socket.interface.some()).ok_or(Errno::ENXIO)?;
        let interface = core.interfaces.get(device).ok_or(Errno::ENXIO)?;
        if !interface.up {
            return Err(Errno::ENETDOWN);
        }
        let header_len = interface.header_len();
        let own = interface.link.mac();
        let most = interface.mtu as usize + if socket.mode == FrameMode::Raw { header_len } else { 0 };
        if data.len() > most {
            return Err(Errno::EMSGSIZE);
        }
        let mut packet = Packet::copy_of(data);
        match socket.mode {
            FrameMode::Raw if data.len() < header_len => return Err(Errno::EINVAL),
            FrameMode::Raw => {}
            FrameMode::Cooked if header_len == 0 => {}
            FrameMode::Cooked => {
                let to = to.ok_or(Errno::EDESTADDRREQ)?;
                let protocol = if to.protocol == 0 { socket.protocol } else { to.protocol };
                EthernetHeader { dst: to.mac, src: own, ethertype: protocol }.emit(packet.push(HEADER_LEN));
            }
        }
        core.transmit(device, packet)?;
        Ok(data.len())
    }
}

impl PacketSocket {
    fn offer(&mut self, core: &mut Core, id: SocketId, packet: &Packet, header_len: usize, address: LinkAddress) {
        let skip = if self.mode == FrameMode::Cooked { header_len } else { 0 };
        let bytes = packet.bytes().get(skip..).unwrap_or_default();
        let mut keep = bytes.len();
        if let Some(filter) = &self.filter {
            let ancillary = Ancillary {
                protocol: address.protocol,
                kind: address.kind as u32,
                interface: address.interface.0,
                mark: packet.mark,
                hardware: address.hardware.into(),
                network_at: header_len - skip,
                random: core.random.next_u32(),
            };
            keep = keep.min(filter.run(bytes, &ancillary) as usize);
            if keep == 0 {
                return;
            }
        }
        self.seen += 1;
        let mut kept = Packet::copy_of(&bytes[..keep]);
        (kept.kind, kept.interface, kept.at_ns, kept.mark) = (packet.kind, packet.interface, packet.at_ns, packet.mark);
        let cost = kept.cost();
        if self.queued_bytes + cost > self.receive_limit || !core.has_memory(cost) {
            self.dropped += 1;
            return;
        }
        self.queued_bytes += cost;
        core.memory_bytes += cost;
        self.queue.push_back(Frame { packet: kept, original_len: bytes.len(), address });
        core.wake(id, Ready::IN);
    }
}

fn change_mode(core: &mut Core, interface: InterfaceId, membership: PacketMembership, on: bool) {
    let Some(interface) = core.interfaces.get_mut(interface) else { return };
    let users = match membership {
        PacketMembership::Promiscuous => &mut interface.promiscuous,
        PacketMembership::AllMulticast => &mut interface.all_multicast,
    };
    *users = if on { *users + 1 } else { users.saturating_sub(1) };
    interface.update_filter();
}
