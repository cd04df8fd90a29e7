//! Ethernet II frames (IEEE 802.3, RFC 894) and hardware addresses.

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};

use super::{Malformed, array, be16, put};

/// Bytes in an Ethernet header.
pub const HEADER_LEN: usize = 14;

/// EtherType numbers.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// `ETH_P_ALL`: every protocol, packet(7).
    pub const ALL: u16 = 0x0003;
}

/// A 48-bit hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: MacAddress = MacAddress([0xff; 6]);
    /// 00:00:00:00:00:00
    pub const ZERO: MacAddress = MacAddress([0; 6]);

    /// Whether the group bit is set; broadcast is a group too.
    #[must_use]
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether a station may have this address.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self != MacAddress::ZERO
    }

    /// The group address of an IPv4 group (RFC 1112 6.4).
    #[must_use]
    pub fn from_ipv4_group(group: Ipv4Addr) -> MacAddress {
        let [_, b, c, d] = group.octets();
        MacAddress([0x01, 0x00, 0x5e, b & 0x7f, c, d])
    }

    /// The group address of an IPv6 group (RFC 2464 7).
    #[must_use]
    pub fn from_ipv6_group(group: Ipv6Addr) -> MacAddress {
        let o = group.octets();
        MacAddress([0x33, 0x33, o[12], o[13], o[14], o[15]])
    }

    /// The modified EUI-64 interface identifier (RFC 4291 appendix A).
    #[must_use]
    pub fn eui64(self) -> [u8; 8] {
        let [a, b, c, d, e, f] = self.0;
        [a ^ 0x02, b, c, 0xff, 0xfe, d, e, f]
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EthernetHeader {
    /// To whom.
    pub dst: MacAddress,
    /// From whom.
    pub src: MacAddress,
    /// What follows; below 1536 it is an 802.3 length, which nothing here speaks.
    pub ethertype: u16,
}

impl EthernetHeader {
    /// Reads the header in front of `frame`.
    pub fn parse(frame: &[u8]) -> Result<EthernetHeader, Malformed> {
        let fields =
            || Some(EthernetHeader { dst: MacAddress(array(frame, 0)?), src: MacAddress(array(frame, 6)?), ethertype: be16(frame, 12)? });
        fields().ok_or(Malformed::Truncated)
    }

    /// Writes [`HEADER_LEN`] bytes.
    pub fn emit(&self, out: &mut [u8]) {
        put(out, 0, &self.dst.0);
        put(out, 6, &self.src.0);
        put(out, 12, &self.ethertype.to_be_bytes());
    }
}
