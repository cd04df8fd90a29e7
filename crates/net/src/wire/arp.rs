//! ARP for IPv4 over Ethernet (RFC 826).

use core::net::Ipv4Addr;

use super::{MacAddress, Malformed, array, be16, put};

/// Bytes in an ARP packet for Ethernet and IPv4.
pub const LEN: usize = 28;

/// What an ARP packet asks or tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has the sender address.
    Reply,
}

/// An ARP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArpPacket {
    /// Request or reply.
    pub operation: Operation,
    /// The sender's hardware address.
    pub sender_mac: MacAddress,
    /// The sender's address; unspecified in a probe (RFC 5227).
    pub sender: Ipv4Addr,
    /// The target's hardware address; meaningless in a request.
    pub target_mac: MacAddress,
    /// The address asked for.
    pub target: Ipv4Addr,
}

impl ArpPacket {
    /// Reads an ARP packet; any other hardware or protocol type is [`Malformed::Header`].
    pub fn parse(bytes: &[u8]) -> Result<ArpPacket, Malformed> {
        if bytes.len() < LEN {
            return Err(Malformed::Truncated);
        }
        let fixed = (be16(bytes, 0), be16(bytes, 2), bytes[4], bytes[5]);
        if fixed != (Some(1), Some(0x0800), 6, 4) {
            return Err(Malformed::Header);
        }
        let operation = match be16(bytes, 6) {
            Some(1) => Operation::Request,
            Some(2) => Operation::Reply,
            _ => return Err(Malformed::Header),
        };
        let fields = || {
            Some(ArpPacket {
                operation,
                sender_mac: MacAddress(array(bytes, 8)?),
                sender: Ipv4Addr::from(array::<4>(bytes, 14)?),
                target_mac: MacAddress(array(bytes, 18)?),
                target: Ipv4Addr::from(array::<4>(bytes, 24)?),
            })
        };
        fields().ok_or(Malformed::Truncated)
    }

    /// Writes [`LEN`] bytes.
    pub fn emit(&self, out: &mut [u8]) {
        let operation = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        put(out, 0, &[0, 1, 8, 0, 6, 4, 0, operation]);
        put(out, 8, &self.sender_mac.0);
        put(out, 14, &self.sender.octets());
        put(out, 18, &self.target_mac.0);
        put(out, 24, &self.target.octets());
    }
}
