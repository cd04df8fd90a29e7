//! Between the IP layer and the devices: link headers, neighbours, the queue of a full device, offloads done in software, and taps for packet
//! sockets.

use core::net::{IpAddr, Ipv4Addr};

use abi::Errno;

use crate::core::{Core, Event};
use crate::gso;
use crate::interface::InterfaceId;
use crate::link::{Medium, TransmitError};
use crate::neighbour::{Due, Output};
use crate::packet::{Checksum, Packet, PacketKind};
use crate::prefix::Family;
use crate::route::{Decision, RouteKind};
use crate::wire::MacAddress;
use crate::wire::ethernet::{EthernetHeader, HEADER_LEN, ethertype};

/// Frames taken from one device before the others have their turn.
const BUDGET: usize = 64;
/// Frames that wait for packet sockets.
const MAX_TAPS: usize = 1000;

impl Core {
    /// Takes what the devices have, a bounded number of frames from each; answers whether there was any.
    pub(crate) fn receive_all(&mut self) -> bool {
        let mut any = false;
        for id in self.interfaces.ids() {
            for _ in 0..BUDGET {
                let Some(interface) = self.interfaces.get_mut(id).filter(|interface| interface.up) else { break };
                let Some(mut packet) = interface.link.receive() else { break };
                interface.statistics.rx_packets += 1;
                interface.statistics.rx_bytes += packet.len() as u64;
                packet.interface = id;
                packet.at_ns = self.now_ns;
                self.receive_frame(packet);
                any = true;
            }
        }
        for _ in 0..BUDGET {
            let Some(packet) = self.backlog.pop_front() else { break };
            self.receive_network(packet);
            any = true;
        }
        any
    }

    /// A frame from a device, starting at its link header.
    pub(crate) fn receive_frame(&mut self, mut packet: Packet) {
        let Some(interface) = self.interfaces.get_mut(packet.interface) else { return };
        let capabilities = interface.capabilities();
        let own = interface.link.mac();
        let mut protocol = match packet.bytes().first().map(|byte| byte >> 4) {
            Some(4) => ethertype::IPV4,
            Some(6) => ethertype::IPV6,
            _ => 0,
        };
        if capabilities.medium != Medium::Ip {
            let Ok(header) = EthernetHeader::parse(packet.bytes()) else {
                interface.statistics.rx_errors += 1;
                return;
            };
            protocol = header.ethertype;
            packet.kind = match header.dst {
                _ if capabilities.medium == Medium::Loopback => PacketKind::Host,
                MacAddress::BROADCAST => PacketKind::Broadcast,
                dst if dst.is_multicast() => PacketKind::Multicast,
                dst if dst == own => PacketKind::Host,
                _ => PacketKind::OtherHost,
            };
            if packet.kind == PacketKind::Multicast {
                interface.statistics.multicast += 1;
            }
        }
        self.tap(&packet);
        if packet.kind == PacketKind::OtherHost {
            return;
        }
        if capabilities.medium != Medium::Ip {
            packet.pull(HEADER_LEN);
        }
        match protocol {
            ethertype::ARP if capabilities.arp => self.arp_input(&packet),
            ethertype::IPV4 | ethertype::IPV6 => self.receive_network(packet),
            _ => {
                if let Some(interface) = self.interfaces.get_mut(packet.interface) {
                    interface.statistics.rx_dropped += 1;
                }
            }
        }
    }

    fn receive_network(&mut self, packet: Packet) {
        match packet.bytes().first().map(|byte| byte >> 4) {
            Some(4) => self.ipv4_input(packet),
            Some(6) => self.ipv6_input(packet),
            _ => {}
        }
    }

    /// Shows a frame to packet sockets.
    pub(crate) fn tap(&mut self, packet: &Packet) {
        if self.tap_users > 0 && self.taps.len() < MAX_TAPS {
            self.taps.push_back(packet.clone());
        }
    }

    /// Sends an IP packet to the neighbour that `decision` names.
    pub(crate) fn send_to_neighbour(&mut self, decision: &Decision, packet: Packet) -> Result<(), Errno> {
        let id = match decision.kind {
            RouteKind::Local => self.interfaces.loopback().filter(|lo| lo.up).map(|lo| lo.id).ok_or(Errno::ENETUNREACH)?,
            _ => decision.interface,
        };
        let interface = self.interfaces.get(id).ok_or(Errno::ENODEV)?;
        if !interface.up {
            return Err(Errno::ENETDOWN);
        }
        let capabilities = interface.capabilities();
        let own = interface.link.mac();
        let protocol = match Family::of(decision.next) {
            Family::V4 => ethertype::IPV4,
            Family::V6 => ethertype::IPV6,
        };
        match capabilities.medium {
            Medium::Ip => self.transmit(id, packet),
            Medium::Loopback => self.transmit_to(id, MacAddress::ZERO, MacAddress::ZERO, protocol, packet),
            Medium::Ethernet => {
                let group = match decision.next {
                    IpAddr::V4(Ipv4Addr::BROADCAST) => Some(MacAddress::BROADCAST),
                    _ if decision.kind == RouteKind::Broadcast => Some(MacAddress::BROADCAST),
                    IpAddr::V4(next) if next.is_multicast() => Some(MacAddress::from_ipv4_group(next)),
                    IpAddr::V6(next) if next.is_multicast() => Some(MacAddress::from_ipv6_group(next)),
                    // Without resolution every station is meant (IFF_NOARP).
                    _ if !capabilities.arp => Some(own),
                    _ => None,
                };
                if let Some(mac) = group {
                    return self.transmit_to(id, own, mac, protocol, packet);
                }
                let key = (id, decision.next);
                match self.neighbours.output(key, packet, self.now_ns) {
                    Output::Send(packet, mac) => self.transmit_to(id, own, mac, protocol, packet),
                    Output::Queued { solicit } => {
                        if solicit {
                            self.solicit(key, None);
                        }
                        Ok(())
                    }
                    Output::Dropped => Err(Errno::ENOBUFS),
                }
            }
        }
    }

    /// Sends packets that waited for a neighbour whose address is now known.
    pub(crate) fn send_resolved(&mut self, id: InterfaceId, mac: MacAddress, packets: impl IntoIterator<Item = Packet>) {
        let Some(own) = self.interfaces.get(id).map(|interface| interface.link.mac()) else { return };
        for packet in packets {
            let protocol = if packet.bytes().first().is_some_and(|byte| byte >> 4 == 6) { ethertype::IPV6 } else { ethertype::IPV4 };
            let _ = self.transmit_to(id, own, mac, protocol, packet);
        }
    }

    /// Puts an Ethernet header in front and sends.
    pub(crate) fn transmit_to(
        &mut self,
        id: InterfaceId,
        src: MacAddress,
        dst: MacAddress,
        protocol: u16,
        mut packet: Packet,
    ) -> Result<(), Errno> {
        EthernetHeader { dst, src, ethertype: protocol }.emit(packet.push(HEADER_LEN));
        self.transmit(id, packet)
    }

    /// Gives a frame, starting at its link header, to a device, or to its queue. ENOBUFS when that is full.
    pub(crate) fn transmit(&mut self, id: InterfaceId, mut packet: Packet) -> Result<(), Errno> {
        packet.at_ns = self.now_ns;
        if self.tap_users > 0 {
            let mut seen = packet.clone();
            (seen.kind, seen.interface) = (PacketKind::Outgoing, id);
            self.tap(&seen);
        }
        let interface = self.interfaces.get_mut(id).filter(|interface| interface.up).ok_or(Errno::ENETDOWN)?;
        let capabilities = interface.capabilities();
        let header_len = interface.header_len();
        let mut frames = Vec::new();
        if packet.gso.is_some() && packet.len() - header_len.min(packet.len()) > capabilities.gso_max_bytes {
            frames = gso::segment(&packet, header_len);
        } else {
            frames.push(packet);
        }
        for mut frame in frames {
            if !capabilities.checksum {
                frame.finish_checksum();
            }
            if !interface.queue.is_empty() {
                interface.enqueue(frame)?;
                continue;
            }
            match interface.hand_over(frame) {
                Ok(()) => {}
                Err(TransmitError::Full(frame)) => interface.enqueue(frame)?,
                Err(TransmitError::Failed(errno)) => {
                    interface.statistics.tx_errors += 1;
                    return Err(errno);
                }
            }
        }
        Ok(())
    }

    /// Gives the devices what waited for them; answers whether any took something.
    pub(crate) fn flush_queues(&mut self) -> bool {
        let mut any = false;
        for interface in self.interfaces.iter_mut() {
            while let Some(frame) = interface.queue.pop_front() {
                match interface.hand_over(frame) {
                    Ok(()) => any = true,
                    Err(TransmitError::Full(frame)) => {
                        interface.queue.push_front(frame);
                        break;
                    }
                    Err(TransmitError::Failed(_)) => interface.statistics.tx_errors += 1,
                }
            }
        }
        any
    }

    /// Asks for a neighbour: all of the network, or the neighbour itself at `mac`.
    pub(crate) fn solicit(&mut self, (id, target): (InterfaceId, IpAddr), mac: Option<MacAddress>) {
        match target {
            IpAddr::V4(target) => self.arp_request(id, target, mac),
            IpAddr::V6(target) => self.nd_solicit(id, target, mac),
        }
    }

    /// Acts on the neighbour table's timers.
    pub(crate) fn poll_neighbours(&mut self) {
        for due in self.neighbours.poll(self.now_ns) {
            match due {
                Due::Solicit(key, mac) => self.solicit(key, mac),
                Due::Unreachable(key, packets) => {
                    self.event(Event::Neighbour(key.0, key.1));
                    for packet in packets {
                        self.host_unreachable(packet);
                    }
                }
            }
        }
    }
}

impl crate::interface::Interface {
    fn hand_over(&mut self, frame: Packet) -> Result<(), TransmitError> {
        let bytes = frame.len() as u64;
        self.link.transmit(frame)?;
        self.statistics.tx_packets += 1;
        self.statistics.tx_bytes += bytes;
        Ok(())
    }

    fn enqueue(&mut self, frame: Packet) -> Result<(), Errno> {
        if self.queue.len() >= self.queue_len {
            self.statistics.tx_dropped += 1;
            return Err(Errno::ENOBUFS);
        }
        self.queue.push_back(frame);
        Ok(())
    }
}

/// Whether a received transport checksum need not be computed.
pub(crate) fn is_trusted(packet: &Packet) -> bool {
    // A partial checksum comes from this machine or from a guest of the same host: it never crossed a wire.
    packet.checksum != Checksum::InData
}
