//! The IPv4 header (RFC 791, RFC 2474 for the traffic class byte).

use core::net::Ipv4Addr;

use super::checksum::checksum;
use super::{Malformed, array, be16, put};

/// Bytes in a header without options.
pub const HEADER_LEN: usize = 20;
/// Most bytes of options.
pub const MAX_OPTIONS: usize = 40;
/// The router alert option (RFC 2113).
pub const ROUTER_ALERT: [u8; 4] = [0x94, 0x04, 0x00, 0x00];

/// IPv4 options, a multiple of four bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    bytes: [u8; MAX_OPTIONS],
    len: u8,
}

impl Options {
    /// No options.
    pub const NONE: Options = Options { bytes: [0; MAX_OPTIONS], len: 0 };

    /// These options, padded with end-of-list to a multiple of four; `None` when longer than 40 bytes.
    #[must_use]
    pub fn new(options: &[u8]) -> Option<Options> {
        let mut bytes = [0; MAX_OPTIONS];
        bytes.get_mut(..options.len())?.copy_from_slice(options);
        Some(Options { bytes, len: options.len().next_multiple_of(4) as u8 })
    }

    /// The option bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The options that every fragment carries (copied flag set, RFC 791 3.1).
    #[must_use]
    pub fn for_later_fragments(&self) -> Options {
        let mut kept = [0u8; MAX_OPTIONS];
        let mut len = 0;
        for option in self.iter() {
            if option[0] & 0x80 != 0 {
                kept[len..len + option.len()].copy_from_slice(option);
                len += option.len();
            }
        }
        Options::new(&kept[..len]).unwrap_or(Options::NONE)
    }

    /// The well-formed options in order; stops at the end of list or at the first that is cut short.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.as_slice();
        core::iter::from_fn(move || {
            let len = match *rest.first()? {
                0 => return None,
                1 => 1,
                _ => usize::from(*rest.get(1)?),
            };
            if len == 0 || (len == 1 && rest[0] != 1) {
                return None;
            }
            let option = rest.get(..len)?;
            rest = &rest[len..];
            Some(option)
        })
    }
}

/// An IPv4 header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv4Header {
    /// Type of service: DSCP and ECN.
    pub tos: u8,
    /// Header and payload, in bytes. Zero in an emitted header of a packet over 64 KiB that a device will segment.
    pub total_len: u16,
    /// Identification, for reassembly.
    pub ident: u16,
    /// Routers must not fragment.
    pub dont_fragment: bool,
    /// More fragments follow.
    pub more_fragments: bool,
    /// Where this fragment's payload belongs, in bytes, a multiple of 8.
    pub fragment_offset: u16,
    /// Hops left.
    pub ttl: u8,
    /// What follows.
    pub protocol: u8,
    /// Source.
    pub src: Ipv4Addr,
    /// Destination.
    pub dst: Ipv4Addr,
    /// Options.
    pub options: Options,
}

impl Ipv4Header {
    /// Bytes of this header with its options.
    #[must_use]
    pub fn header_len(&self) -> usize {
        HEADER_LEN + usize::from(self.options.len)
    }

    /// Whether this is a piece of a datagram.
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }

    /// Reads and verifies a header: version, lengths against `packet`, and the checksum.
    pub fn parse(packet: &[u8]) -> Result<Ipv4Header, Malformed> {
        let header = Ipv4Header::parse_quoted(packet)?;
        if usize::from(header.total_len) > packet.len() || usize::from(header.total_len) < header.header_len() {
            return Err(Malformed::Truncated);
        }
        if checksum(&packet[..header.header_len()]) != 0 {
            return Err(Malformed::Checksum);
        }
        Ok(header)
    }

    /// Reads the header that an ICMP error quotes: the payload may be cut and the checksum altered on the way.
    pub fn parse_quoted(packet: &[u8]) -> Result<Ipv4Header, Malformed> {
        if packet.len() < HEADER_LEN {
            return Err(Malformed::Truncated);
        }
        let ihl = usize::from(packet[0] & 0xf) * 4;
        if packet[0] >> 4 != 4 || ihl < HEADER_LEN {
            return Err(Malformed::Header);
        }
        let options = packet.get(HEADER_LEN..ihl).and_then(Options::new).ok_or(Malformed::Truncated)?;
        let fields = || {
            let fragment = be16(packet, 6)?;
            Some(Ipv4Header {
                tos: packet[1],
                total_len: be16(packet, 2)?,
                ident: be16(packet, 4)?,
                dont_fragment: fragment & 0x4000 != 0,
                more_fragments: fragment & 0x2000 != 0,
                fragment_offset: (fragment & 0x1fff) << 3,
                ttl: packet[8],
                protocol: packet[9],
                src: Ipv4Addr::from(array::<4>(packet, 12)?),
                dst: Ipv4Addr::from(array::<4>(packet, 16)?),
                options,
            })
        };
        fields().ok_or(Malformed::Truncated)
    }

    /// Writes [`Ipv4Header::header_len`] bytes, checksum included.
    pub fn emit(&self, out: &mut [u8]) {
        let len = self.header_len();
        let mut fragment = self.fragment_offset >> 3;
        fragment |= u16::from(self.dont_fragment) << 14 | u16::from(self.more_fragments) << 13;
        put(out, 0, &[0x40 | (len / 4) as u8, self.tos]);
        put(out, 2, &self.total_len.to_be_bytes());
        put(out, 4, &self.ident.to_be_bytes());
        put(out, 6, &fragment.to_be_bytes());
        put(out, 8, &[self.ttl, self.protocol, 0, 0]);
        put(out, 12, &self.src.octets());
        put(out, 16, &self.dst.octets());
        put(out, HEADER_LEN, self.options.as_slice());
        if let Some(header) = out.get(..len) {
            let check = checksum(header);
            put(out, 10, &check.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Ipv4Header {
        Ipv4Header {
            tos: 0x10,
            total_len: 28,
            ident: 7,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 64,
            protocol: 17,
            src: Ipv4Addr::new(10, 0, 0, 1),
            dst: Ipv4Addr::new(10, 0, 0, 2),
            options: Options::new(&ROUTER_ALERT).unwrap(),
        }
    }

    #[test]
    fn what_is_emitted_is_read_back() {
        let mut bytes = [0u8; 28];
        header().emit(&mut bytes);
        assert_eq!(Ipv4Header::parse(&bytes), Ok(header()));
    }

    #[test]
    fn a_header_that_lies_is_refused() {
        let mut good = [0u8; 28];
        header().emit(&mut good);
        for (at, value, error) in [
            (0, 0x65, Malformed::Header),
            (0, 0x44, Malformed::Header),
            (0, 0x4f, Malformed::Truncated),
            (3, 29, Malformed::Truncated),
            (3, 23, Malformed::Truncated),
            (12, 99, Malformed::Checksum),
        ] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(Ipv4Header::parse(&bad), Err(error), "byte {at} = {value}");
        }
    }

    #[test]
    fn later_fragments_keep_only_copied_options() {
        let options = Options::new(&[7, 4, 4, 0, 0x94, 4, 0, 0, 1]).unwrap();
        assert_eq!(options.for_later_fragments(), Options::new(&ROUTER_ALERT).unwrap());
        assert_eq!(Options::new(&[7, 0, 0, 0]).unwrap().iter().count(), 0);
        assert_eq!(Options::new(&[7, 1, 0, 0]).unwrap().iter().count(), 0);
    }
}
