//! `struct sockaddr_in` and `struct sockaddr_in6`, ip(7), ipv6(7).

use abi::Errno;
use abi::raw::net::{AF_INET, AF_INET6, AF_UNSPEC};
use net::{Endpoint, Family, InterfaceId};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of `struct sockaddr_in`.
const V4_LEN: usize = 16;
/// Bytes that a `struct sockaddr_in6` has at least (RFC 2133 knew no scope).
const V6_MIN: usize = 24;

/// The family of an address.
pub(crate) fn family(address: &[u8]) -> u32 {
    address.get(..2).and_then(|b| b.try_into().ok()).map_or(0, |b| u32::from(u16::from_ne_bytes(b)))
}

fn array<const N: usize>(address: &[u8], at: usize) -> Result<[u8; N], Errno> {
    address.get(at..at + N).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)
}

/// An address for a socket of `family`. EINVAL if it is too short, EAFNOSUPPORT if it is of another family.
pub(crate) fn parse(own: Family, address: &[u8]) -> Result<Endpoint, Errno> {
    let family = family(address);
    let too_short = match own {
        Family::V4 => address.len() < V4_LEN,
        Family::V6 => address.len() < if family == AF_INET { V4_LEN } else { V6_MIN },
    };
    if too_short {
        return Err(Errno::EINVAL);
    }
    let port = u16::from_be_bytes(array(address, 2)?);
    match (own, family) {
        (Family::V4, AF_INET) => Ok(Endpoint::new(Ipv4Addr::from(array::<4>(address, 4)?).into(), port)),
        (Family::V6, AF_INET6) => {
            let ip = Ipv6Addr::from(array::<16>(address, 8)?);
            let scope = array::<4>(address, 24).map_or(0, u32::from_ne_bytes);
            let address = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
            Ok(Endpoint { address, port, interface: InterfaceId(scope) })
        }
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// `__inet_bind`: the unspecified address without a family is taken for one of AF_INET. EAFNOSUPPORT for everything else.
pub(crate) fn unspecified(own: Family, address: &[u8]) -> Result<Endpoint, Errno> {
    let is_it = own == Family::V4 && family(address) == AF_UNSPEC && array::<4>(address, 4)? == [0; 4];
    if !is_it {
        return Err(Errno::EAFNOSUPPORT);
    }
    Ok(Endpoint { port: u16::from_be_bytes(array(address, 2)?), ..Endpoint::any(Family::V4) })
}

/// An address as a socket of `family` tells it.
pub(crate) fn format(own: Family, endpoint: Endpoint) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    let family = if own == Family::V4 { AF_INET } else { AF_INET6 };
    bytes.extend_from_slice(&(family as u16).to_ne_bytes());
    bytes.extend_from_slice(&endpoint.port.to_be_bytes());
    match (own, endpoint.address) {
        (Family::V4, address) => {
            let ip = if let IpAddr::V4(ip) = address { ip } else { Ipv4Addr::UNSPECIFIED };
            bytes.extend_from_slice(&ip.octets());
            bytes.extend_from_slice(&[0; 8]);
        }
        (Family::V6, address) => {
            let ip = match address {
                IpAddr::V6(ip) => ip,
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            };
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&ip.octets());
            let scope = if ip.is_unicast_link_local() { endpoint.interface.0 } else { 0 };
            bytes.extend_from_slice(&scope.to_ne_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_there_and_back() {
        for (family, address) in [(Family::V4, "127.0.0.1"), (Family::V6, "::1"), (Family::V6, "10.1.2.3"), (Family::V6, "fe80::1")] {
            let scope = if address == "fe80::1" { 3 } else { 0 };
            let endpoint = Endpoint { address: address.parse().unwrap(), port: 8080, interface: InterfaceId(scope) };
            let bytes = format(family, endpoint);
            assert_eq!(bytes.len(), if family == Family::V4 { 16 } else { 28 });
            assert_eq!(parse(family, &bytes), Ok(endpoint));
            assert_eq!(parse(family, &bytes[..8]), Err(Errno::EINVAL));
        }
        let v4 = format(Family::V4, Endpoint::any(Family::V4));
        assert_eq!(parse(Family::V6, &v4), Err(Errno::EAFNOSUPPORT));
    }
}
