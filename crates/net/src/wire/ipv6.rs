//! The IPv6 header and its extension headers (RFC 8200).

use core::net::Ipv6Addr;

use super::{Malformed, array, be16, be32, protocol, put};

/// Bytes in the fixed header.
pub const HEADER_LEN: usize = 40;
/// Bytes in a fragment header.
pub const FRAGMENT_LEN: usize = 8;
/// The hop-by-hop header with a router alert for MLD (RFC 2711), next header first byte to be filled in.
pub const HOP_BY_HOP_MLD: [u8; 8] = [protocol::ICMPV6, 0, 5, 2, 0, 0, 1, 0];
/// More extension headers than this in one packet are not walked.
const MAX_EXTENSIONS: usize = 12;
/// More options than this in one header are not walked; Linux bounds them likewise (`max_dst_opts_number`).
const MAX_OPTIONS: usize = 64;

/// The fixed IPv6 header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv6Header {
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// Bytes after this header. Zero in a packet that a device will segment and that is too long for the field.
    pub payload_len: u16,
    /// What follows.
    pub next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    /// Source.
    pub src: Ipv6Addr,
    /// Destination.
    pub dst: Ipv6Addr,
}

impl Ipv6Header {
    /// Reads the header and checks its length against `packet`.
    pub fn parse(packet: &[u8]) -> Result<Ipv6Header, Malformed> {
        let header = Ipv6Header::parse_quoted(packet)?;
        if HEADER_LEN + usize::from(header.payload_len) > packet.len() {
            return Err(Malformed::Truncated);
        }
        Ok(header)
    }

    /// Reads the header that an ICMP error quotes, whose payload may be cut.
    pub fn parse_quoted(packet: &[u8]) -> Result<Ipv6Header, Malformed> {
        let first = be32(packet, 0).ok_or(Malformed::Truncated)?;
        if first >> 28 != 6 {
            return Err(Malformed::Header);
        }
        let fields = || {
            Some(Ipv6Header {
                traffic_class: (first >> 20) as u8,
                flow_label: first & 0xf_ffff,
                payload_len: be16(packet, 4)?,
                next_header: *packet.get(6)?,
                hop_limit: *packet.get(7)?,
                src: Ipv6Addr::from(array::<16>(packet, 8)?),
                dst: Ipv6Addr::from(array::<16>(packet, 24)?),
            })
        };
        fields().ok_or(Malformed::Truncated)
    }

    /// Writes [`HEADER_LEN`] bytes.
    pub fn emit(&self, out: &mut [u8]) {
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label & 0xf_ffff;
        put(out, 0, &first.to_be_bytes());
        put(out, 4, &self.payload_len.to_be_bytes());
        put(out, 6, &[self.next_header, self.hop_limit]);
        put(out, 8, &self.src.octets());
        put(out, 24, &self.dst.octets());
    }
}

/// A fragment header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// What follows it in the whole packet.
    pub next_header: u8,
    /// Where this piece belongs, in bytes.
    pub offset: u16,
    /// More pieces follow.
    pub more: bool,
    /// Identification.
    pub ident: u32,
}

impl Fragment {
    /// Reads the fragment header at the start of `bytes`.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Fragment> {
        let field = be16(bytes, 2)?;
        Some(Fragment { next_header: *bytes.first()?, offset: field & 0xfff8, more: field & 1 != 0, ident: be32(bytes, 4)? })
    }

    /// Writes [`FRAGMENT_LEN`] bytes.
    pub fn emit(&self, out: &mut [u8]) {
        put(out, 0, &[self.next_header, 0]);
        put(out, 2, &(self.offset & 0xfff8 | u16::from(self.more)).to_be_bytes());
        put(out, 4, &self.ident.to_be_bytes());
    }
}

/// What the extension headers of a packet lead to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extensions {
    /// The protocol behind them.
    pub protocol: u8,
    /// Where it starts, from the IPv6 header.
    pub offset: usize,
    /// Where the byte is that names the last header walked to, for parameter problems and for fragmenting.
    pub next_header_at: usize,
    /// The fragment header and where it starts. The walk stops behind it unless the packet is whole (an atomic fragment, RFC 6946).
    pub fragment: Option<(Fragment, usize)>,
    /// A hop-by-hop router alert is there.
    pub router_alert: bool,
}

/// Why a walk over extension headers ends in a dropped packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// Drop silently.
    Discard,
    /// Answer an ICMPv6 parameter problem with this code and pointer.
    Parameter {
        /// RFC 4443 3.4 code.
        code: u8,
        /// Offset of the offending byte.
        pointer: u32,
        /// Whether multicast destinations answer too (option type `10`).
        even_multicast: bool,
    },
}

/// Walks the extension headers of `packet`, which starts at its IPv6 header.
///
/// A first fragment and a whole packet are walked to the upper layer; in a later fragment `offset` is where its data starts.
pub fn walk(packet: &[u8]) -> Result<Extensions, Problem> {
    let mut at = HEADER_LEN;
    let mut state = Extensions {
        protocol: *packet.get(6).ok_or(Problem::Discard)?,
        offset: at,
        next_header_at: 6,
        fragment: None,
        router_alert: false,
    };
    for count in 0..MAX_EXTENSIONS {
        let header = packet.get(at..).unwrap_or_default();
        let len = match state.protocol {
            protocol::HOP_BY_HOP if count == 0 => {
                let len = options_len(header)?;
                state.router_alert = walk_options(packet, at, len)?;
                len
            }
            // Only directly behind the IPv6 header (RFC 8200 4.3).
            protocol::HOP_BY_HOP => {
                return Err(Problem::Parameter { code: 1, pointer: state.next_header_at as u32, even_multicast: false });
            }
            protocol::DESTINATION => {
                let len = options_len(header)?;
                walk_options(packet, at, len)?;
                len
            }
            protocol::ROUTING => {
                let len = options_len(header)?;
                // Segments left: no type is processed here (type 0 is deprecated by RFC 5095).
                if *header.get(3).ok_or(Problem::Discard)? != 0 {
                    return Err(Problem::Parameter { code: 0, pointer: at as u32 + 2, even_multicast: false });
                }
                len
            }
            protocol::FRAGMENT if state.fragment.is_none() => {
                let fragment = Fragment::parse(header).ok_or(Problem::Discard)?;
                state.fragment = Some((fragment, at));
                if fragment.offset != 0 {
                    state.protocol = fragment.next_header;
                    state.offset = at + FRAGMENT_LEN;
                    return Ok(state);
                }
                FRAGMENT_LEN
            }
            _ => {
                state.offset = at;
                return Ok(state);
            }
        };
        state.protocol = *header.first().ok_or(Problem::Discard)?;
        state.next_header_at = at;
        at += len;
    }
    Err(Problem::Discard)
}

/// The length of an extension header that has a length byte, when all of it is there.
fn options_len(header: &[u8]) -> Result<usize, Problem> {
    let len = (usize::from(*header.get(1).ok_or(Problem::Discard)?) + 1) * 8;
    if len > header.len() { Err(Problem::Discard) } else { Ok(len) }
}

/// Checks the options of the header at `at`; answers whether a router alert is among them.
fn walk_options(packet: &[u8], at: usize, len: usize) -> Result<bool, Problem> {
    let end = at + len;
    let mut here = at + 2;
    let mut alert = false;
    for _ in 0..MAX_OPTIONS {
        if here >= end {
            return Ok(alert);
        }
        let kind = *packet.get(here).ok_or(Problem::Discard)?;
        if kind == 0 {
            here += 1;
            continue;
        }
        let option_len = usize::from(*packet.get(here + 1).ok_or(Problem::Discard)?);
        if here + 2 + option_len > end {
            return Err(Problem::Discard);
        }
        let parameter = |even_multicast| Problem::Parameter { code: 2, pointer: here as u32, even_multicast };
        match kind {
            1 => {}
            5 => alert = true,
            _ => match kind >> 6 {
                0 => {}
                1 => return Err(Problem::Discard),
                2 => return Err(parameter(true)),
                _ => return Err(parameter(false)),
            },
        }
        here += 2 + option_len;
    }
    Err(Problem::Discard)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(next_header: u8, rest: &[u8]) -> Vec<u8> {
        let header = Ipv6Header {
            traffic_class: 3,
            flow_label: 0x12345,
            payload_len: rest.len() as u16,
            next_header,
            hop_limit: 64,
            src: Ipv6Addr::LOCALHOST,
            dst: Ipv6Addr::LOCALHOST,
        };
        let mut bytes = vec![0; HEADER_LEN];
        header.emit(&mut bytes);
        assert_eq!(Ipv6Header::parse_quoted(&bytes), Ok(header));
        bytes.extend_from_slice(rest);
        bytes
    }

    #[test]
    fn extension_headers_lead_to_the_upper_layer() {
        let walked = walk(&packet(0, &[17, 0, 5, 2, 0, 0, 1, 0, 0xaa])).unwrap();
        assert_eq!((walked.protocol, walked.offset, walked.router_alert), (17, 48, true));
        let walked = walk(&packet(44, &[6, 0, 0, 1, 0, 0, 0, 9, 1, 2])).unwrap();
        assert_eq!((walked.protocol, walked.offset), (6, 48));
        assert_eq!(walked.fragment, Some((Fragment { next_header: 6, offset: 0, more: true, ident: 9 }, 40)));
        let walked = walk(&packet(44, &[60, 0, 0, 8, 0, 0, 0, 9, 1, 2])).unwrap();
        assert_eq!((walked.protocol, walked.offset), (60, 48), "the data of a later fragment is not a header");
    }

    #[test]
    fn bad_extension_headers_have_the_answer_that_rfc_8200_wants() {
        let parameter = |code, pointer, even_multicast| Err(Problem::Parameter { code, pointer, even_multicast });
        assert_eq!(walk(&packet(0, &[17, 1, 0, 0])), Err(Problem::Discard));
        assert_eq!(walk(&packet(60, &[0, 0, 1, 4, 0, 0, 0, 0])), parameter(1, 40, false));
        assert_eq!(walk(&packet(43, &[17, 0, 0, 1, 0, 0, 0, 0])), parameter(0, 42, false));
        assert_eq!(walk(&packet(60, &[17, 0, 0x3f, 4, 0, 0, 0, 0])).map(|e| e.protocol), Ok(17));
        assert_eq!(walk(&packet(60, &[17, 0, 0x7f, 4, 0, 0, 0, 0])), Err(Problem::Discard));
        assert_eq!(walk(&packet(60, &[17, 0, 0xbf, 4, 0, 0, 0, 0])), parameter(2, 42, true));
        assert_eq!(walk(&packet(60, &[17, 0, 0xff, 4, 0, 0, 0, 0])), parameter(2, 42, false));
        assert_eq!(walk(&packet(60, &[60, 0, 1, 4, 0, 0, 0, 0].repeat(20))), Err(Problem::Discard));
    }
}
