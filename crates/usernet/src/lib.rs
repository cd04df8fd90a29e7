//! The world without privileges: what a guest sends is translated to calls on sockets of the host, and what these bring to frames for the guest.
//!
//! The guest sees a small network with a gateway, a name server, DHCP, and router advertisements. Behind the gateway is whatever the host
//! can reach and the [`policy`] lets through. There is no address translation as a router does it, and no TCP of our own: `tcp` says how. The idea is
//! passt's.
//!
//! What it is not: sockets (`host` has them, behind `platform`'s [`HostNetwork`]), the guest's stack (`net`), or threads. [`Engine`] is told the
//! time and what became ready, and says when it wants to be called again; `drivers` joins it to an interface.
//!
//! Always true: whatever frames the guest sends, nothing here panics, loops or grows without bound, and no address that the policy refuses is given
//! to the host.
#![forbid(unsafe_code)]

pub mod config;
mod core;
mod datagram;
mod dhcp;
mod frame;
mod neighbour;
pub mod policy;
mod port;
mod tcp;

pub use config::Config;
pub use core::Statistics;
pub use port::{Mac, Port, PortQueue, port};

use crate::core::{Core, Kind};
use abi::Errno;
use config::Protocol;
use net::MacAddress;
use net::packet::Packet;
use net::wire::ethernet::{EthernetHeader, ethertype};
use net::wire::icmp::{v4, v6};
use net::wire::protocol;
use net::wire::udp::{self, UdpHeader};
use platform::{HostNetwork, Reach, SocketReady};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The translation of one guest's network.
pub struct Engine {
    core: Core,
    tcp: tcp::Tcp,
    datagrams: datagram::Datagrams,
    ready: Vec<(u64, SocketReady)>,
}

impl Engine {
    /// A network with these addresses. `key` must be secret: sequence numbers come from it.
    #[must_use]
    pub fn new(config: Config, host: Arc<dyn HostNetwork>, key: [u64; 2]) -> Engine {
        let core = Core::new(config, host, key);
        Engine { core, tcp: tcp::Tcp::default(), datagrams: datagram::Datagrams::default(), ready: Vec::new() }
    }

    /// Opens the published ports. Says which address the host did not give, and why; of several addresses of one port it needs the first.
    pub fn publish(&mut self) -> Result<Vec<SocketAddr>, (SocketAddr, Errno)> {
        let mut opened = Vec::new();
        for publish in self.core.config.publish.clone() {
            for (index, at) in publish.at.iter().enumerate() {
                let result = match publish.protocol {
                    Protocol::Tcp => self.tcp.publish(&mut self.core, &publish, *at),
                    Protocol::Udp => self.datagrams.publish(&mut self.core, &publish, *at),
                };
                match result {
                    Ok(address) => opened.push(address),
                    // A host without IPv6 has no ::1.
                    Err(_) if index > 0 => {}
                    Err(errno) => return Err((*at, errno)),
                }
            }
        }
        Ok(opened)
    }

    /// Tells the time: nanoseconds of a clock that never goes back.
    pub fn set_now(&mut self, now_ns: u64) {
        self.core.now_ns = self.core.now_ns.max(now_ns);
    }

    /// A frame from the guest. [`Engine::serve`] must follow, after this or several.
    pub fn input(&mut self, packet: Packet) {
        let Ok(header) = EthernetHeader::parse(packet.bytes()) else {
            self.core.statistics.ignored += 1;
            return;
        };
        let is_for_us = header.dst == self.core.config.gateway_mac || header.dst.is_multicast();
        if !header.src.is_unicast() || header.src == self.core.config.gateway_mac || !is_for_us {
            self.core.statistics.ignored += 1;
            return;
        }
        self.core.guest_mac = header.src;
        match header.ethertype {
            ethertype::ARP => neighbour::arp_input(&mut self.core, &packet),
            ethertype::IPV4 if self.core.config.ipv4 => self.ip_input(packet, header.ethertype, header.src),
            ethertype::IPV6 if self.core.config.ipv6 => self.ip_input(packet, header.ethertype, header.src),
            _ => self.core.statistics.ignored += 1,
        }
    }

    fn ip_input(&mut self, packet: Packet, kind: u16, mac: MacAddress) {
        let core = &mut self.core;
        let Some(parsed) = frame::parse(&packet, kind).filter(|parsed| parsed.is_intact(&packet)) else {
            core.statistics.ignored += 1;
            return;
        };
        // Before it has an address, a station may speak to its neighbours and to the DHCP server only.
        let is_station = is_station(core, parsed.src);
        if is_station {
            core.learn(parsed.src);
        }
        let is_group = match parsed.dst {
            IpAddr::V4(dst) => dst.is_multicast() || dst.is_broadcast() || dst == core.config.broadcast(),
            IpAddr::V6(dst) => dst.is_multicast(),
        };
        match parsed.protocol {
            protocol::UDP if is_dhcp(core, &packet, &parsed, is_group) => {
                let datagram = parsed.payload(&packet);
                let data = datagram.get(udp::HEADER_LEN..).unwrap_or_default();
                match (parsed.src, UdpHeader::parse(datagram)) {
                    (IpAddr::V4(_), Ok(_)) => dhcp::input(core, data),
                    (IpAddr::V6(_), Ok(header)) => dhcp::input6(core, SocketAddr::new(parsed.src, header.src_port), mac, data),
                    _ => {}
                }
            }
            protocol::ICMPV6 | protocol::ICMP if is_group || core.config.is_ours(parsed.dst) => {
                neighbour::icmp_input(core, &packet, &parsed);
            }
            _ if is_group || !is_station => core.statistics.ignored += 1,
            protocol::TCP => self.tcp.input(core, packet, &parsed),
            protocol::UDP => self.datagrams.udp_input(core, &packet, &parsed),
            protocol::ICMP if parsed.payload(&packet).first() == Some(&v4::ECHO_REQUEST) => {
                self.datagrams.echo_input(core, &packet, &parsed);
            }
            protocol::ICMPV6 if parsed.payload(&packet).first() == Some(&v6::ECHO_REQUEST) => {
                self.datagrams.echo_input(core, &packet, &parsed);
            }
            _ => core.statistics.ignored += 1,
        }
    }

    /// Looks at the host's sockets, does all that can be done, and answers when to be called again at the latest; `None`: when something
    /// arrives. A time that has passed says that there is more to do as soon as frames have been taken.
    pub fn serve(&mut self, now_ns: u64) -> Option<u64> {
        self.set_now(now_ns);
        let mut ready = std::mem::take(&mut self.ready);
        self.core.host.take_ready(&mut ready);
        for (token, what) in ready.drain(..) {
            match Kind::of(token) {
                Kind::Tcp => self.tcp.ready(&mut self.core, token, what),
                Kind::Datagram => self.datagrams.ready(&mut self.core, token, what),
                Kind::Published => {
                    self.tcp.ready(&mut self.core, token, what);
                    self.datagrams.ready(&mut self.core, token, what);
                }
            }
        }
        self.ready = ready;
        self.tcp.serve(&mut self.core);
        self.datagrams.serve(&mut self.core);
        neighbour::serve(&mut self.core);
        [self.tcp.next_deadline(), self.datagrams.next_deadline(), self.core.advertise_at].into_iter().flatten().min()
    }

    /// The next frame for the guest.
    pub fn output(&mut self) -> Option<Packet> {
        let packet = self.core.out.pop_front()?;
        self.core.out_bytes -= packet.cost();
        Some(packet)
    }

    /// The network's configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.core.config
    }

    /// What became of the guest's traffic.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.core.statistics
    }

    /// Flows that there are now: TCP, and the others.
    #[must_use]
    pub fn flows(&self) -> (usize, usize) {
        (self.tcp.len(), self.datagrams.len())
    }
}

/// Whether an address can be that of a station in the guest.
fn is_station(core: &Core, address: IpAddr) -> bool {
    let link_local = matches!(address, IpAddr::V6(address) if address.segments()[0] & 0xffc0 == 0xfe80);
    (link_local || !policy::is_refused(address)) && !core.config.is_ours(address)
}

fn is_dhcp(core: &Core, packet: &Packet, parsed: &frame::Parsed, is_group: bool) -> bool {
    let port = UdpHeader::parse(parsed.payload(packet)).map_or(0, |header| header.dst_port);
    let is_ours = is_group || core.config.is_ours(parsed.dst);
    is_ours && port == if parsed.src.is_ipv4() { dhcp::SERVER_PORT } else { dhcp::SERVER6_PORT }
}

/// How the guest may see somebody who comes to a published port: by its own address, if that leads back through us.
fn shown_peer(core: &Core, peer: SocketAddr) -> Option<SocketAddr> {
    let ip = peer.ip().to_canonical();
    let is_plain = ip.is_ipv4() && !policy::is_refused(ip) && !core.config.is_inside(ip) && core.host.reach(ip) == Reach::Remote;
    is_plain.then(|| SocketAddr::new(ip, peer.port()))
}

impl Core {
    /// Remembers where the guest is, for connections that come to it. The address that it was given is believed most.
    fn learn(&mut self, address: IpAddr) {
        if let IpAddr::V4(address) = address
            && self.guest != Some(self.config.guest)
            && self.config.is_inside(address.into())
            && !self.config.is_ours(address.into())
        {
            self.guest = Some(address);
        }
    }
}
