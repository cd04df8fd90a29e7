//! The UDP header (RFC 768).

use core::net::IpAddr;

use super::checksum::Sum;
use super::{Malformed, be16, protocol, put};

/// Bytes in the header.
pub const HEADER_LEN: usize = 8;

/// A UDP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpHeader {
    /// Source port; 0 when no answer is wanted.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Header and payload in bytes.
    pub len: u16,
    /// The checksum field; 0 when the sender made none, which only IPv4 allows.
    pub checksum: u16,
}

impl UdpHeader {
    /// Reads the header; the length must lie between the header's own and that of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<UdpHeader, Malformed> {
        let fields =
            || Some(UdpHeader { src_port: be16(bytes, 0)?, dst_port: be16(bytes, 2)?, len: be16(bytes, 4)?, checksum: be16(bytes, 6)? });
        let header = fields().ok_or(Malformed::Truncated)?;
        if usize::from(header.len) < HEADER_LEN || usize::from(header.len) > bytes.len() {
            return Err(Malformed::Header);
        }
        Ok(header)
    }

    /// Writes [`HEADER_LEN`] bytes.
    pub fn emit(&self, out: &mut [u8]) {
        put(out, 0, &self.src_port.to_be_bytes());
        put(out, 2, &self.dst_port.to_be_bytes());
        put(out, 4, &self.len.to_be_bytes());
        put(out, 6, &self.checksum.to_be_bytes());
    }
}

/// The checksum of a whole datagram whose checksum field is zero; never zero itself, because zero means "none".
#[must_use]
pub fn checksum(src: IpAddr, dst: IpAddr, datagram: &[u8]) -> u16 {
    match Sum::pseudo(src, dst, protocol::UDP, datagram.len()).with(datagram).finish() {
        0 => 0xffff,
        sum => sum,
    }
}
