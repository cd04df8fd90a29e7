//! Addresses with a prefix length, and questions about addresses that the standard library leaves open.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Bits in an address.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    /// `0.0.0.0` or `::`.
    #[must_use]
    pub fn unspecified(self) -> IpAddr {
        match self {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// The shortest IP header.
    #[must_use]
    pub fn header_len(self) -> usize {
        match self {
            Family::V4 => 20,
            Family::V6 => 40,
        }
    }

    /// 0 for IPv4, 1 for IPv6: the index of paired counters.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Family::V4 => 0,
            Family::V6 => 1,
        }
    }
}

/// The bits of an address, the first at the top.
pub(crate) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The mask of a prefix length, the first bit at the top.
pub(crate) fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0)
}

/// An address and how many of its first bits count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    /// The address; bits beyond the length may be set (an interface's address).
    pub address: IpAddr,
    /// Significant bits, at most 32 or 128.
    pub len: u8,
}

impl Prefix {
    /// A prefix; the length is clamped to the family's.
    #[must_use]
    pub fn new(address: IpAddr, len: u8) -> Prefix {
        Prefix { address, len: len.min(Family::of(address).bits()) }
    }

    /// One address alone.
    #[must_use]
    pub fn host(address: IpAddr) -> Prefix {
        Prefix::new(address, 128)
    }

    /// The whole family: a default route.
    #[must_use]
    pub fn all(family: Family) -> Prefix {
        Prefix { address: family.unspecified(), len: 0 }
    }

    /// Whether `address` lies inside; never for the other family.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && (bits(self.address) ^ bits(address)) & mask(self.len) == 0
    }

    /// The prefix with all other bits zero.
    #[must_use]
    pub fn network(&self) -> Prefix {
        let masked = bits(self.address) & mask(self.len);
        let address = match self.address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits((masked >> 96) as u32)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(masked)),
        };
        Prefix { address, len: self.len }
    }

    /// The directed broadcast address; none for IPv6, /31 and /32.
    #[must_use]
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        match self.address {
            IpAddr::V4(address) if self.len < 31 => Some(Ipv4Addr::from_bits(address.to_bits() | !((mask(self.len) >> 96) as u32))),
            _ => None,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::str::FromStr for Prefix {
    type Err = ();

    /// `10.0.0.1/24`, `2001:db8::/64`, or an address alone.
    fn from_str(text: &str) -> Result<Prefix, ()> {
        let Some((address, len)) = text.split_once('/') else { return text.parse().map(Prefix::host).map_err(|_| ()) };
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let len: u8 = len.parse().map_err(|_| ())?;
        if len > Family::of(address).bits() { Err(()) } else { Ok(Prefix { address, len }) }
    }
}

/// Whether `address` is link-local: 169.254/16 or fe80::/10.
#[must_use]
pub fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// The scope of an IPv6 address as RFC 4007 orders them: 1 interface, 2 link, 5 site, 14 global.
#[must_use]
pub fn scope(address: Ipv6Addr) -> u8 {
    if address.is_multicast() {
        address.octets()[1] & 0xf
    } else if address.is_loopback() || address.is_unicast_link_local() {
        2
    } else {
        14
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_contain_what_they_should() {
        for (prefix, address, inside) in [
            ("10.0.0.1/24", "10.0.0.255", true),
            ("10.0.0.1/24", "10.0.1.0", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("fe80::/10", "febf::1", true),
            ("fe80::/10", "fec0::1", false),
            ("10.0.0.1/32", "10.0.0.1", true),
        ] {
            let prefix: Prefix = prefix.parse().unwrap();
            assert_eq!(prefix.contains(address.parse().unwrap()), inside, "{prefix} {address}");
        }
        assert_eq!("10.1.2.3/22".parse::<Prefix>().unwrap().broadcast(), Some(Ipv4Addr::new(10, 1, 3, 255)));
        assert_eq!("10.1.2.3/31".parse::<Prefix>().unwrap().broadcast(), None);
        assert_eq!("10.1.2.3/33".parse::<Prefix>(), Err(()));
    }
}
