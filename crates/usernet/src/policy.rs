//! What a guest may reach: the rest of the world, and of the host itself only what was named.
//!
//! Refused by their look: this host (0.0.0.0/8, 127.0.0.0/8, ::, ::1), link-local addresses (169.254.0.0/16, fe80::/10; clouds keep their metadata
//! services there) with the metadata services that lie elsewhere, groups, broadcast and reserved addresses, and every IPv6 form of an IPv4 address that
//! is refused (mapped, compatible, 6to4, NAT64). Refused by the host's routing table: whatever leads to the host itself, to everybody or to a group.
//!
//! Always true: the address that is judged is the one that the host is given, after every translation.

use platform::{HostNetwork, Reach};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

/// An exception: these ports of this address may be reached, whatever else holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Allow {
    /// An address of the host, or any other.
    pub address: IpAddr,
    /// TCP and UDP alike.
    pub ports: RangeInclusive<u16>,
}

/// The judge.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    /// The exceptions.
    pub allow: Vec<Allow>,
}

/// Metadata services outside of the link-local ranges: Alibaba Cloud's, and Amazon's and Google's for IPv6.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Whether an address is refused whatever the host's routes are.
#[must_use]
pub fn is_refused(address: IpAddr) -> bool {
    METADATA.contains(&address)
        || match address {
            IpAddr::V4(address) => is_refused_v4(address),
            IpAddr::V6(address) => is_refused_v6(address),
        }
}

fn is_refused_v4(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    // 224.0.0.0/4 are groups, 240.0.0.0/4 is reserved and ends in broadcast.
    first == 0 || first == 127 || first >= 224 || address.is_link_local()
}

fn is_refused_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |at: usize| {
        let ([a, b], [c, d]) = (segments[at].to_be_bytes(), segments[at + 1].to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // ::, ::1, and addresses that hold an IPv4 address: compatible and mapped (RFC 4291 2.5.5), translated (RFC 2765).
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => true,
        // 6to4 (RFC 3056), NAT64 (RFC 6052) and local NAT64 (RFC 8215).
        [0x2002, ..] => is_refused(embedded(1)),
        [0x64, 0xff9b, ..] => is_refused(embedded(6)),
        // Link-local, site-local (RFC 3879), groups.
        [first, ..] => first & 0xffc0 == 0xfe80 || first & 0xffc0 == 0xfec0 || first & 0xff00 == 0xff00,
    }
}

impl Policy {
    /// Whether an exception names this place. Without a port: any port of the address.
    #[must_use]
    pub fn is_allowed(&self, address: IpAddr, port: Option<u16>) -> bool {
        self.allow.iter().any(|allow| allow.address == address && port.is_none_or(|port| allow.ports.contains(&port)))
    }

    /// Whether the guest may reach `to`, an address as the host will be given it.
    pub fn permits(&self, to: SocketAddr, host: &dyn HostNetwork) -> bool {
        to.port() != 0 && self.permits_place(to.ip(), Some(to.port()), host)
    }

    /// Whether the guest may send echo requests to `to`.
    pub fn permits_echo(&self, to: IpAddr, host: &dyn HostNetwork) -> bool {
        self.permits_place(to, None, host)
    }

    fn permits_place(&self, to: IpAddr, port: Option<u16>, host: &dyn HostNetwork) -> bool {
        if self.is_allowed(to, port) {
            return true;
        }
        // Nowhere is for the host to say: the guest is to see ENETUNREACH.
        !is_refused(to) && matches!(host.reach(to), Reach::Remote | Reach::Nowhere)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_host_and_of_no_single_station_are_refused_in_every_form() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::ffff:0:127.0.0.1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::",
            "64:ff9b::127.0.0.1",
            "64:ff9b:1::169.254.169.254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "ff0e::1",
            "fd00:ec2::254",
        ] {
            assert!(is_refused(text.parse().unwrap()), "{text}");
        }
        for text in
            ["1.1.1.1", "10.0.0.1", "192.168.1.1", "100.100.100.201", "2606:4700::1111", "fd12::1", "2002:808:808::1", "64:ff9b::8.8.8.8"]
        {
            assert!(!is_refused(text.parse().unwrap()), "{text}");
        }
    }
}
