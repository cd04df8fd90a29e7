//! The gateway as a neighbour: ARP (RFC 826), neighbour discovery and router advertisements (RFC 4861, RFC 8106), and its own echo replies.
//!
//! Always true: we answer for our own addresses and for no other.

use crate::core::{Core, SECOND};
use crate::frame::Parsed;
use net::packet::Packet;
use net::wire::arp::{self, ArpPacket, Operation};
use net::wire::ethernet::{self, EthernetHeader, ethertype};
use net::wire::icmp::{self, IcmpHeader, v4, v6};
use net::wire::nd::{self, PrefixInformation, RouterAdvertisement};
use std::net::{IpAddr, Ipv6Addr};

/// Router advertisements come this often, and are good for three times as long.
const ADVERTISE_NS: u64 = 200 * SECOND;
const LIFETIME_S: u32 = 3600;
/// The group of all nodes.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Managed addresses and other configuration: there is DHCPv6 (RFC 4861 4.2).
const RA_FLAGS: u8 = 0xc0;

/// A request for a hardware address.
pub fn arp_input(core: &mut Core, packet: &Packet) {
    let Some(Ok(request)) = packet.bytes().get(ethernet::HEADER_LEN..).map(ArpPacket::parse) else {
        core.statistics.ignored += 1;
        return;
    };
    core.learn(request.sender.into());
    if request.operation != Operation::Request || !core.config.ipv4 || !core.config.is_ours(request.target.into()) {
        return;
    }
    let mac = core.config.gateway_mac;
    let mut frame = Packet::zeroed(ethernet::HEADER_LEN + arp::LEN);
    let bytes = frame.bytes_mut();
    EthernetHeader { dst: request.sender_mac, src: mac, ethertype: ethertype::ARP }.emit(bytes);
    ArpPacket {
        operation: Operation::Reply,
        sender_mac: mac,
        sender: request.target,
        target_mac: request.sender_mac,
        target: request.sender,
    }
    .emit(bytes.get_mut(ethernet::HEADER_LEN..).unwrap_or_default());
    core.push(frame);
}

/// An ICMP message for one of our addresses, or for a group.
pub fn icmp_input(core: &mut Core, packet: &Packet, parsed: &Parsed) {
    let message = parsed.payload(packet);
    let Ok(header) = IcmpHeader::parse(message) else { return };
    let data = message.get(icmp::HEADER_LEN..).unwrap_or_default();
    match (parsed.dst, parsed.src, header.kind) {
        (IpAddr::V4(_), _, v4::ECHO_REQUEST) if core.config.is_ours(parsed.dst) => {
            core.send_icmp(parsed.dst, parsed.src, IcmpHeader { kind: v4::ECHO_REPLY, ..header }, data, None);
        }
        (IpAddr::V6(_), _, v6::ECHO_REQUEST) if core.config.is_ours(parsed.dst) => {
            core.send_icmp(parsed.dst, parsed.src, IcmpHeader { kind: v6::ECHO_REPLY, ..header }, data, None);
        }
        // What came over a router is no neighbour's (RFC 4861 7.1.1).
        (IpAddr::V6(_), IpAddr::V6(src), v6::NEIGHBOUR_SOLICITATION) if parsed.hop_limit == 255 => solicited(core, src, data),
        (IpAddr::V6(_), IpAddr::V6(src), v6::ROUTER_SOLICITATION) if parsed.hop_limit == 255 => {
            advertise(core, if src.is_unspecified() { ALL_NODES } else { src });
        }
        _ => {}
    }
}

fn solicited(core: &mut Core, src: Ipv6Addr, data: &[u8]) {
    let Some(target) = data.get(..16).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(Ipv6Addr::from) else { return };
    if !core.config.is_ours(target.into()) {
        return;
    }
    // A station that looks whether its new address is free asks from nowhere, and everybody is told.
    let (to, solicited) = if src.is_unspecified() { (ALL_NODES, 0) } else { (src, nd::NA_SOLICITED) };
    let mut answer = target.octets().to_vec();
    answer.extend_from_slice(&nd::link_option(nd::option::TARGET_LINK, core.config.gateway_mac));
    let rest = nd::NA_ROUTER | nd::NA_OVERRIDE | solicited;
    core.send_icmp(target.into(), to.into(), IcmpHeader { kind: v6::NEIGHBOUR_ADVERTISEMENT, code: 0, rest }, &answer, Some(255));
}

/// Sends a router advertisement: the network's prefix, we as the router and the name server, and the MTU.
fn advertise(core: &mut Core, to: Ipv6Addr) {
    let config = &core.config;
    let mut message = vec![0; nd::RA_OPTIONS];
    let lifetime_s = LIFETIME_S as u16;
    RouterAdvertisement { hop_limit: 64, flags: RA_FLAGS, lifetime_s, reachable_ms: 0, retransmit_ms: 0 }.emit(&mut message);
    message.extend_from_slice(&nd::link_option(nd::option::SOURCE_LINK, config.gateway_mac));
    let [high, low] = config.mtu.to_be_bytes();
    message.extend_from_slice(&[nd::option::MTU, 1, 0, 0, 0, 0, high, low]);
    let segments = config.gateway6.segments();
    let prefix = Ipv6Addr::new(segments[0], segments[1], segments[2], segments[3], 0, 0, 0, 0);
    let information =
        PrefixInformation { prefix_len: 64, on_link: true, autonomous: true, valid_s: u32::MAX, preferred_s: u32::MAX, prefix };
    message.extend_from_slice(&information.to_bytes());
    // RDNSS and DNSSL, RFC 8106 5.1 and 5.2.
    message.extend_from_slice(&[25, 3, 0, 0]);
    message.extend_from_slice(&LIFETIME_S.to_be_bytes());
    message.extend_from_slice(&config.dns6.octets());
    let names = crate::dhcp::search_list(&config.search);
    if !names.is_empty() {
        let padded = names.len().next_multiple_of(8);
        message.extend_from_slice(&[31, (1 + padded / 8) as u8, 0, 0]);
        message.extend_from_slice(&LIFETIME_S.to_be_bytes());
        message.extend_from_slice(&names);
        message.resize(message.len() + padded - names.len(), 0);
    }
    let src = config.link_local;
    let (fixed, options) = message.split_at(icmp::HEADER_LEN);
    let rest = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
    core.send_icmp(src.into(), to.into(), IcmpHeader { kind: v6::ROUTER_ADVERTISEMENT, code: 0, rest }, options, Some(255));
    core.advertise_at = Some(core.now_ns + ADVERTISE_NS);
}

/// Advertises again when the time has come. The first advertisement waits for the first solicitation: until then nobody is there.
pub fn serve(core: &mut Core) {
    if core.advertise_at.is_some_and(|at| at <= core.now_ns) {
        advertise(core, ALL_NODES);
    }
}
