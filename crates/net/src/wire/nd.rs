//! Neighbour discovery messages and options (RFC 4861, RFC 4862).

use core::net::Ipv6Addr;

use super::{MacAddress, array, be16, be32, put};

/// Option types.
pub mod option {
    /// Source link-layer address.
    pub const SOURCE_LINK: u8 = 1;
    /// Target link-layer address.
    pub const TARGET_LINK: u8 = 2;
    /// Prefix information.
    pub const PREFIX: u8 = 3;
    /// MTU.
    pub const MTU: u8 = 5;
}

/// Neighbour advertisement: the sender is a router.
pub const NA_ROUTER: u32 = 1 << 31;
/// Neighbour advertisement: in answer to a solicitation.
pub const NA_SOLICITED: u32 = 1 << 30;
/// Neighbour advertisement: replace a cached link-layer address.
pub const NA_OVERRIDE: u32 = 1 << 29;

/// A prefix information option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrefixInformation {
    /// Significant bits.
    pub prefix_len: u8,
    /// The prefix is on the link.
    pub on_link: bool,
    /// Addresses may be made from it.
    pub autonomous: bool,
    /// Seconds it is valid; all ones is for ever.
    pub valid_s: u32,
    /// Seconds it is preferred.
    pub preferred_s: u32,
    /// The prefix.
    pub prefix: Ipv6Addr,
}

impl PrefixInformation {
    /// Reads the option, type and length included.
    #[must_use]
    pub fn parse(option: &[u8]) -> Option<PrefixInformation> {
        let prefix = Ipv6Addr::from(array::<16>(option, 16)?);
        Some(PrefixInformation {
            prefix_len: option[2],
            on_link: option[3] & 0x80 != 0,
            autonomous: option[3] & 0x40 != 0,
            valid_s: be32(option, 4)?,
            preferred_s: be32(option, 8)?,
            prefix,
        })
    }

    /// The option as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        let mut out = [0; 32];
        put(&mut out, 0, &[option::PREFIX, 4, self.prefix_len, u8::from(self.on_link) << 7 | u8::from(self.autonomous) << 6]);
        put(&mut out, 4, &self.valid_s.to_be_bytes());
        put(&mut out, 8, &self.preferred_s.to_be_bytes());
        put(&mut out, 16, &self.prefix.octets());
        out
    }
}

/// The options that matter, from the option area of a message. `None` when one has length zero or is cut: the message is dropped.
pub fn options(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let len = usize::from(*bytes.get(1)?) * 8;
        if len == 0 {
            return None;
        }
        found.push(bytes.get(..len)?);
        bytes = &bytes[len..];
    }
    Some(found)
}

/// The hardware address in the first option of type `kind`.
#[must_use]
pub fn link_address(options: &[&[u8]], kind: u8) -> Option<MacAddress> {
    options.iter().find(|option| option[0] == kind && option.len() == 8).and_then(|option| Some(MacAddress(array(option, 2)?)))
}

/// A link-layer address option.
#[must_use]
pub fn link_option(kind: u8, mac: MacAddress) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac.0;
    [kind, 1, a, b, c, d, e, f]
}

/// A router advertisement's fixed part, behind the first four bytes of ICMP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouterAdvertisement {
    /// Hop limit to use; 0 says nothing.
    pub hop_limit: u8,
    /// Managed and other-configuration flags, and the preference (RFC 4191).
    pub flags: u8,
    /// Seconds the sender is a default router; 0 is not at all.
    pub lifetime_s: u16,
    /// Milliseconds a neighbour is reachable; 0 says nothing.
    pub reachable_ms: u32,
    /// Milliseconds between solicitations; 0 says nothing.
    pub retransmit_ms: u32,
}

/// Where the options of a router advertisement start in the ICMP message.
pub const RA_OPTIONS: usize = 16;

impl RouterAdvertisement {
    /// Reads it from an ICMP message.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<RouterAdvertisement> {
        Some(RouterAdvertisement {
            hop_limit: *message.get(4)?,
            flags: *message.get(5)?,
            lifetime_s: be16(message, 6)?,
            reachable_ms: be32(message, 8)?,
            retransmit_ms: be32(message, 12)?,
        })
    }

    /// Writes bytes 4 to 16 of the ICMP message.
    pub fn emit(&self, message: &mut [u8]) {
        put(message, 4, &[self.hop_limit, self.flags]);
        put(message, 6, &self.lifetime_s.to_be_bytes());
        put(message, 8, &self.reachable_ms.to_be_bytes());
        put(message, 12, &self.retransmit_ms.to_be_bytes());
    }
}

/// The solicited-node group of an address (RFC 4291 2.7.1).
#[must_use]
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let o = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, o[13], o[14], o[15]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_of_length_zero_or_beyond_the_end_spoils_the_message() {
        assert_eq!(options(&[]), Some(vec![]));
        assert_eq!(options(&[1, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(options(&[1, 2, 0, 0, 0, 0, 0, 0]), None);
        let bytes = link_option(1, MacAddress([2, 0, 0, 0, 0, 7]));
        assert_eq!(link_address(&options(&bytes).unwrap(), 1), Some(MacAddress([2, 0, 0, 0, 0, 7])));
    }

    #[test]
    fn a_prefix_is_read_back() {
        let prefix = PrefixInformation {
            prefix_len: 64,
            on_link: true,
            autonomous: true,
            valid_s: 86400,
            preferred_s: 14400,
            prefix: "2001:db8::".parse().unwrap(),
        };
        assert_eq!(PrefixInformation::parse(&prefix.to_bytes()), Some(prefix));
    }
}
