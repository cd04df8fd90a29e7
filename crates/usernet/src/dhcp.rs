//! The DHCP server (RFC 2131, RFC 2132) and the DHCPv6 server (RFC 8415) of the guest's network.
//!
//! Leases are by hardware address, in the order in which they are first asked for; the first gets the address that the network is known by.
//! Nothing is written down: a lease is good for as long as the machine.
//!
//! Always true: at most [`LEASES_MAX`] hardware addresses are remembered; beyond that there is no answer.

use crate::core::Core;
use crate::datagram::{end, send_udp};
use crate::frame::be16;
use net::wire::MacAddress;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

const LEASES_MAX: usize = 16;
const LEASE_S: u32 = 86_400;
/// Most octets of domain names that are told.
const NAMES_MAX: usize = 200;

/// Ports of RFC 2131 and RFC 8415.
pub const SERVER_PORT: u16 = 67;
pub const CLIENT_PORT: u16 = 68;
pub const SERVER6_PORT: u16 = 547;

const COOKIE: [u8; 4] = [99, 130, 83, 99];
const OPTIONS_AT: usize = 240;
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;
const INFORM: u8 = 8;

/// Who has been given what.
#[derive(Default)]
pub struct Leases(Vec<MacAddress>);

impl Leases {
    fn index(&mut self, mac: MacAddress) -> Option<u8> {
        let index = match self.0.iter().position(|known| *known == mac) {
            Some(index) => index,
            None if self.0.len() < LEASES_MAX && mac.is_unicast() => {
                self.0.push(mac);
                self.0.len() - 1
            }
            None => return None,
        };
        u8::try_from(index).ok()
    }
}

/// Domain names in DNS form, one behind the other; those that have none are left out.
pub fn search_list(names: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    for name in names {
        let labels = || name.trim_end_matches('.').split('.');
        if labels().any(|label| label.is_empty() || label.len() > 63) || out.len() + name.len() + 2 > NAMES_MAX {
            continue;
        }
        for label in labels() {
            out.push(label.len() as u8);
            out.extend_from_slice(label.as_bytes());
        }
        out.push(0);
    }
    out
}

/// The options of a DHCP message; pads are skipped, and a cut one ends the list.
fn options(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        loop {
            let (&code, rest) = bytes.split_first()?;
            match code {
                0 => bytes = rest,
                255 => return None,
                _ => {
                    let (&len, rest) = rest.split_first()?;
                    let value = rest.get(..usize::from(len))?;
                    bytes = &rest[usize::from(len)..];
                    return Some((code, value));
                }
            }
        }
    })
}

/// A datagram to the server's port.
pub fn input(core: &mut Core, message: &[u8]) {
    let Some(head) = message.get(..OPTIONS_AT) else { return };
    // BOOTREQUEST over Ethernet.
    if head[..3] != [1, 1, 6] || head[236..240] != COOKIE {
        return;
    }
    let mac = MacAddress([head[28], head[29], head[30], head[31], head[32], head[33]]);
    let mut kind = None;
    let mut requested = None;
    let mut server = None;
    let address = |value: &[u8]| <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
    for (code, value) in options(&message[OPTIONS_AT..]) {
        match code {
            53 => kind = value.first().copied(),
            50 => requested = address(value),
            54 => server = address(value),
            _ => {}
        }
    }
    let current = Ipv4Addr::new(head[12], head[13], head[14], head[15]);
    let Some(index) = core.leases.index(mac) else { return };
    let lease = Ipv4Addr::from(u32::from(core.config.guest) + u32::from(index));
    let answer = match kind {
        Some(DISCOVER) => OFFER,
        Some(REQUEST) if server.is_some_and(|server| server != core.config.gateway) => return,
        Some(REQUEST) if requested.unwrap_or(current) == lease => ACK,
        Some(REQUEST) => NAK,
        Some(INFORM) => ACK,
        _ => return,
    };
    let is_inform = kind == Some(INFORM);
    let mut reply = vec![0; OPTIONS_AT];
    reply[..4].copy_from_slice(&[2, 1, 6, 0]);
    reply[4..8].copy_from_slice(&head[4..8]);
    reply[10..12].copy_from_slice(&head[10..12]);
    reply[12..16].copy_from_slice(&current.octets());
    if answer != NAK && !is_inform {
        reply[16..20].copy_from_slice(&lease.octets());
    }
    reply[20..24].copy_from_slice(&core.config.gateway.octets());
    reply[28..44].copy_from_slice(&head[28..44]);
    reply[236..240].copy_from_slice(&COOKIE);
    write_options(core, &mut reply, answer, is_inform);
    let wants_broadcast = head[10] & 0x80 != 0 || answer == NAK;
    let (to, mac) = match (wants_broadcast, current.is_unspecified()) {
        (false, false) => (current, mac),
        (false, true) => (lease, mac),
        (true, _) => (Ipv4Addr::BROADCAST, MacAddress::BROADCAST),
    };
    send_udp(core, end(core.config.gateway, SERVER_PORT), end(to, CLIENT_PORT), Some(mac), &reply);
}

fn write_options(core: &Core, reply: &mut Vec<u8>, answer: u8, is_inform: bool) {
    let config = &core.config;
    let mut option = |code: u8, value: &[u8]| {
        reply.extend_from_slice(&[code, value.len() as u8]);
        reply.extend_from_slice(value);
    };
    option(53, &[answer]);
    option(54, &config.gateway.octets());
    if answer != NAK {
        if !is_inform {
            option(51, &LEASE_S.to_be_bytes());
        }
        option(1, &config.netmask().octets());
        option(28, &config.broadcast().octets());
        option(3, &config.gateway.octets());
        option(6, &config.dns.octets());
        option(26, &config.mtu.to_be_bytes());
        if let Some(name) = config.hostname.as_ref().filter(|name| (1..=63).contains(&name.len())) {
            option(12, name.as_bytes());
        }
        let names = search_list(&config.search);
        if !names.is_empty() {
            option(119, &names);
        }
    }
    reply.push(255);
    // BOOTP's least length, which old clients insist on.
    let len = reply.len().max(300);
    reply.resize(len, 0);
}

mod v6 {
    pub const SOLICIT: u8 = 1;
    pub const ADVERTISE: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const CONFIRM: u8 = 4;
    pub const RENEW: u8 = 5;
    pub const REBIND: u8 = 6;
    pub const REPLY: u8 = 7;
    pub const RELEASE: u8 = 8;
    pub const DECLINE: u8 = 9;
    pub const INFORMATION: u8 = 11;

    pub const CLIENT_ID: u16 = 1;
    pub const SERVER_ID: u16 = 2;
    pub const IA_NA: u16 = 3;
    pub const ADDRESS: u16 = 5;
    pub const STATUS: u16 = 13;
    pub const RAPID_COMMIT: u16 = 14;
    pub const DNS: u16 = 23;
    pub const SEARCH: u16 = 24;
}

/// The options of a DHCPv6 message; a cut one ends the list.
fn options6(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (code, len) = (be16(bytes, 0)?, usize::from(be16(bytes, 2)?));
        let value = bytes.get(4..4 + len)?;
        bytes = &bytes[4 + len..];
        Some((code, value))
    })
}

fn option6(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}

/// A datagram to the DHCPv6 server's port, from a station of this hardware address.
pub fn input6(core: &mut Core, from: SocketAddr, mac: MacAddress, message: &[u8]) {
    let Some((head, rest)) = message.split_at_checked(4) else { return };
    let kind = head[0];
    let [a, b, c, d, e, f] = core.config.gateway_mac.0;
    // DUID-LL, RFC 8415 11.4.
    let own_id = [0, 3, 0, 1, a, b, c, d, e, f];
    let mut client = None;
    let mut associations: Vec<[u8; 4]> = Vec::new();
    let mut rapid = false;
    for (code, value) in options6(rest) {
        match code {
            v6::CLIENT_ID if (1..=130).contains(&value.len()) => client = Some(value),
            v6::SERVER_ID if value != own_id => return,
            v6::IA_NA if associations.len() < 4 => associations.extend(value.get(..4).and_then(|id| <[u8; 4]>::try_from(id).ok())),
            v6::RAPID_COMMIT => rapid = true,
            _ => {}
        }
    }
    let (answer, with_addresses) = match kind {
        v6::SOLICIT => (if rapid { v6::REPLY } else { v6::ADVERTISE }, true),
        v6::REQUEST | v6::RENEW | v6::REBIND => (v6::REPLY, true),
        v6::CONFIRM | v6::RELEASE | v6::DECLINE | v6::INFORMATION => (v6::REPLY, false),
        _ => return,
    };
    if client.is_none() && kind != v6::INFORMATION {
        return;
    }
    let Some(index) = core.leases.index(mac) else { return };
    let lease = Ipv6Addr::from(u128::from(core.config.guest6) + u128::from(index));
    let mut reply = vec![answer, head[1], head[2], head[3]];
    if let Some(client) = client {
        option6(&mut reply, v6::CLIENT_ID, client);
    }
    option6(&mut reply, v6::SERVER_ID, &own_id);
    if answer == v6::REPLY && kind == v6::SOLICIT {
        option6(&mut reply, v6::RAPID_COMMIT, &[]);
    }
    if with_addresses {
        for id in associations {
            let mut association = id.to_vec();
            association.extend_from_slice(&(LEASE_S / 2).to_be_bytes());
            association.extend_from_slice(&(LEASE_S / 5 * 4).to_be_bytes());
            let mut address = lease.octets().to_vec();
            address.extend_from_slice(&LEASE_S.to_be_bytes());
            address.extend_from_slice(&LEASE_S.to_be_bytes());
            option6(&mut association, v6::ADDRESS, &address);
            option6(&mut reply, v6::IA_NA, &association);
        }
    } else if kind != v6::INFORMATION {
        option6(&mut reply, v6::STATUS, &[0, 0]);
    }
    option6(&mut reply, v6::DNS, &core.config.dns6.octets());
    let names = search_list(&core.config.search);
    if !names.is_empty() {
        option6(&mut reply, v6::SEARCH, &names);
    }
    send_udp(core, end(core.config.link_local, SERVER6_PORT), from, Some(mac), &reply);
}
