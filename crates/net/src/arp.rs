//! ARP (RFC 826, RFC 5227): asking for and answering IPv4 neighbours, conflicts, proxy answers.

use core::net::{IpAddr, Ipv4Addr};

use crate::core::{Core, Event};
use crate::interface::InterfaceId;
use crate::neighbour::Update;
use crate::packet::{Packet, PacketKind};
use crate::prefix::Family;
use crate::route::{Query, RouteKind};
use crate::wire::MacAddress;
use crate::wire::arp::{self, ArpPacket, Operation};
use crate::wire::ethernet::ethertype;

impl Core {
    /// An ARP packet, behind its Ethernet header.
    pub(crate) fn arp_input(&mut self, packet: &Packet) {
        let Ok(arp) = ArpPacket::parse(packet.bytes()) else { return };
        let id = packet.interface;
        let Some(interface) = self.interfaces.get(id) else { return };
        let own_mac = interface.link.mac();
        if arp.sender_mac.is_multicast() || arp.sender_mac == own_mac || arp.sender.is_multicast() || arp.target.is_multicast() {
            return;
        }
        if interface.has_address(arp.sender.into()) && !arp.sender.is_unspecified() {
            self.event(Event::Duplicate(id, arp.sender.into()));
            return;
        }
        let ours = match interface.settings.arp_ignore {
            0 => self.interfaces.owner(arp.target.into()).is_some(),
            _ => interface.has_address(arp.target.into()),
        };
        let proxied = !ours && arp.operation == Operation::Request && self.is_proxied(id, arp.target);
        if arp.operation == Operation::Request && (ours || proxied) {
            self.arp_reply(id, &arp);
        }
        // RFC 826: whoever speaks of himself to us is learned; others only when known already.
        let for_us = packet.kind == PacketKind::Host;
        let update = Update {
            solicited: arp.operation == Operation::Reply && for_us,
            replace: true,
            create: ours && !arp.sender.is_unspecified(),
            router: None,
        };
        let waiting = self.neighbours.learn((id, arp.sender.into()), arp.sender_mac, update, self.now_ns);
        self.send_resolved(id, arp.sender_mac, waiting);
    }

    /// Whether `proxy_arp` makes us answer for `target`: it is routed, and out of another interface.
    fn is_proxied(&self, id: InterfaceId, target: Ipv4Addr) -> bool {
        let Some(interface) = self.interfaces.get(id) else { return false };
        if !interface.settings.proxy_arp || !interface.settings.forwarding[Family::V4.index()] {
            return false;
        }
        let query = Query { input: id, ..Query::to(target.into()) };
        self.routes.lookup(&query, &self.interfaces).is_ok_and(|to| to.kind == RouteKind::Unicast && to.interface != id)
    }

    fn arp_reply(&mut self, id: InterfaceId, request: &ArpPacket) {
        let Some(own) = self.interfaces.get(id).map(|interface| interface.link.mac()) else { return };
        let reply = ArpPacket {
            operation: Operation::Reply,
            sender_mac: own,
            sender: request.target,
            target_mac: request.sender_mac,
            target: request.sender,
        };
        self.send_arp(id, own, request.sender_mac, &reply);
    }

    /// Asks who has `target`.
    pub(crate) fn arp_request(&mut self, id: InterfaceId, target: Ipv4Addr, mac: Option<MacAddress>) {
        let Some(interface) = self.interfaces.get(id) else { return };
        let own = interface.link.mac();
        let sender = match interface.source_for(target.into(), self.now_ns) {
            Some(IpAddr::V4(sender)) => sender,
            // An interface without an address of its own asks with another's.
            _ => match self.interfaces.iter().filter(|i| i.up).find_map(|i| i.source_for(target.into(), self.now_ns)) {
                Some(IpAddr::V4(sender)) => sender,
                _ => Ipv4Addr::UNSPECIFIED,
            },
        };
        let request = ArpPacket { operation: Operation::Request, sender_mac: own, sender, target_mac: MacAddress::ZERO, target };
        self.send_arp(id, own, mac.unwrap_or(MacAddress::BROADCAST), &request);
    }

    /// Tells everyone where our address lives (`arp_notify`, and duplicate detection of RFC 5227 3).
    pub(crate) fn arp_announce(&mut self, id: InterfaceId, address: Ipv4Addr) {
        let Some(own) = self.interfaces.get(id).map(|interface| interface.link.mac()) else { return };
        let packet =
            ArpPacket { operation: Operation::Request, sender_mac: own, sender: address, target_mac: MacAddress::ZERO, target: address };
        self.send_arp(id, own, MacAddress::BROADCAST, &packet);
    }

    fn send_arp(&mut self, id: InterfaceId, src: MacAddress, dst: MacAddress, arp: &ArpPacket) {
        let mut packet = Packet::zeroed(arp::LEN);
        arp.emit(packet.bytes_mut());
        let _ = self.transmit_to(id, src, dst, ethertype::ARP, packet);
    }
}
