//! ICMP for both families: the common header, message types and codes (RFC 792, RFC 1122, RFC 1812, RFC 4443).

use super::{Malformed, be16, be32, put};

/// Bytes in the header: type, code, checksum and four that depend on the type.
pub const HEADER_LEN: usize = 8;

/// ICMPv4 types.
pub mod v4 {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Source quench, obsolete (RFC 6633) and ignored.
    pub const SOURCE_QUENCH: u8 = 4;
    /// Redirect.
    pub const REDIRECT: u8 = 5;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER: u8 = 12;
    /// Timestamp request.
    pub const TIMESTAMP: u8 = 13;
    /// Timestamp reply.
    pub const TIMESTAMP_REPLY: u8 = 14;

    /// Codes of [`UNREACHABLE`].
    pub mod unreachable {
        /// Network unreachable.
        pub const NET: u8 = 0;
        /// Host unreachable.
        pub const HOST: u8 = 1;
        /// Protocol unreachable.
        pub const PROTOCOL: u8 = 2;
        /// Port unreachable.
        pub const PORT: u8 = 3;
        /// Fragmentation needed and DF set; the next hop's MTU is in the header's last two bytes (RFC 1191).
        pub const FRAGMENTATION: u8 = 4;
        /// Source route failed.
        pub const SOURCE_ROUTE: u8 = 5;
        /// Communication administratively prohibited.
        pub const ADMIN: u8 = 13;
    }
}

/// ICMPv6 types.
pub mod v6 {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Packet too big.
    pub const TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem.
    pub const PARAMETER: u8 = 4;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// MLD query.
    pub const MLD_QUERY: u8 = 130;
    /// MLDv1 report.
    pub const MLD_REPORT: u8 = 131;
    /// MLDv1 done.
    pub const MLD_DONE: u8 = 132;
    /// Router solicitation.
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement.
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbour solicitation.
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement.
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// Redirect.
    pub const REDIRECT: u8 = 137;
    /// MLDv2 report.
    pub const MLD2_REPORT: u8 = 143;

    /// Codes of [`UNREACHABLE`].
    pub mod unreachable {
        /// No route.
        pub const NO_ROUTE: u8 = 0;
        /// Administratively prohibited.
        pub const ADMIN: u8 = 1;
        /// Beyond the scope of the source address.
        pub const SCOPE: u8 = 2;
        /// Address unreachable.
        pub const ADDRESS: u8 = 3;
        /// Port unreachable.
        pub const PORT: u8 = 4;
    }
}

/// The header that all ICMP messages share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcmpHeader {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Identifier and sequence, MTU, pointer or gateway, by type.
    pub rest: u32,
}

impl IcmpHeader {
    /// Reads the header; the checksum is the caller's business.
    pub fn parse(bytes: &[u8]) -> Result<IcmpHeader, Malformed> {
        match (bytes.first(), bytes.get(1), be32(bytes, 4)) {
            (Some(&kind), Some(&code), Some(rest)) => Ok(IcmpHeader { kind, code, rest }),
            _ => Err(Malformed::Truncated),
        }
    }

    /// Writes [`HEADER_LEN`] bytes with a zero checksum.
    pub fn emit(&self, out: &mut [u8]) {
        put(out, 0, &[self.kind, self.code, 0, 0]);
        put(out, 4, &self.rest.to_be_bytes());
    }
}

/// The identifier of an echo message: what a ping socket is bound to.
#[must_use]
pub fn echo_ident(bytes: &[u8]) -> Option<u16> {
    be16(bytes, 4)
}
