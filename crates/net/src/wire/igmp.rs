//! Group membership messages: IGMP (RFC 1112, 2236, 3376) and MLD (RFC 2710, 3810).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::checksum;
use super::{array, be16, put};

/// IGMP query.
pub const IGMP_QUERY: u8 = 0x11;
/// IGMPv1 report.
pub const IGMP1_REPORT: u8 = 0x12;
/// IGMPv2 report.
pub const IGMP2_REPORT: u8 = 0x16;
/// IGMPv2 leave.
pub const IGMP2_LEAVE: u8 = 0x17;
/// IGMPv3 report.
pub const IGMP3_REPORT: u8 = 0x22;

/// What a record of a version 3 IGMP or version 2 MLD report says about a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordKind {
    /// In answer to a query: only these sources.
    IsInclude = 1,
    /// In answer to a query: all but these sources.
    IsExclude = 2,
    /// Changed to only these sources; with none, left.
    ToInclude = 3,
    /// Changed to all but these sources; with none, joined.
    ToExclude = 4,
}

/// Which protocol version a querier speaks, and so which one answers it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Version {
    /// IGMPv1.
    One,
    /// IGMPv2 or MLDv1.
    Two,
    /// IGMPv3 or MLDv2.
    Three,
}

/// A query for memberships.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Query {
    /// The querier's version.
    pub version: Version,
    /// The group asked for; unspecified asks for all.
    pub group: IpAddr,
    /// Answer within this many milliseconds.
    pub max_response_ms: u32,
}

/// The floating-point code of versions 3 and 2 (RFC 3376 4.1.1, RFC 3810 5.1.3): `bits` of mantissa below a 3-bit exponent.
fn decode(code: u32, bits: u32) -> u32 {
    if code < 1 << (bits + 3) {
        return code;
    }
    let mantissa = code & ((1 << bits) - 1);
    let exponent = code >> bits & 7;
    (mantissa | 1 << bits) << (exponent + 3)
}

/// Reads an IGMP query whose checksum has been verified.
#[must_use]
pub fn parse_igmp_query(message: &[u8]) -> Option<Query> {
    let group = IpAddr::V4(Ipv4Addr::from(array::<4>(message, 4)?));
    let code = u32::from(message[1]);
    let (version, tenths) = match (message.len(), code) {
        (8, 0) => (Version::One, 100),
        (8, _) => (Version::Two, code),
        (12.., _) => (Version::Three, decode(code, 4)),
        _ => return None,
    };
    Some(Query { version, group, max_response_ms: tenths * 100 })
}

/// Reads an MLD query, from its ICMPv6 header on.
#[must_use]
pub fn parse_mld_query(message: &[u8]) -> Option<Query> {
    let group = IpAddr::V6(Ipv6Addr::from(array::<16>(message, 8)?));
    let code = u32::from(be16(message, 4)?);
    let (version, max_response_ms) = match message.len() {
        24 => (Version::Two, code),
        28.. => (Version::Three, decode(code, 12)),
        _ => return None,
    };
    Some(Query { version, group, max_response_ms })
}

/// A version 1 or 2 IGMP message about one group.
#[must_use]
pub fn igmp_message(kind: u8, group: Ipv4Addr) -> Vec<u8> {
    let mut out = vec![kind, 0, 0, 0];
    out.extend_from_slice(&group.octets());
    let check = checksum(&out);
    put(&mut out, 2, &check.to_be_bytes());
    out
}

/// A version 3 IGMP report.
#[must_use]
pub fn igmp3_report(records: &[(RecordKind, Ipv4Addr, Vec<Ipv4Addr>)]) -> Vec<u8> {
    let mut out = vec![IGMP3_REPORT, 0, 0, 0, 0, 0];
    out.extend_from_slice(&(records.len() as u16).to_be_bytes());
    for (kind, group, sources) in records {
        out.extend_from_slice(&[*kind as u8, 0]);
        out.extend_from_slice(&(sources.len() as u16).to_be_bytes());
        out.extend_from_slice(&group.octets());
        sources.iter().for_each(|source| out.extend_from_slice(&source.octets()));
    }
    let check = checksum(&out);
    put(&mut out, 2, &check.to_be_bytes());
    out
}

/// A version 2 MLD report without the ICMPv6 checksum, which needs the addresses.
#[must_use]
pub fn mld2_report(records: &[(RecordKind, Ipv6Addr, Vec<Ipv6Addr>)]) -> Vec<u8> {
    let mut out = vec![super::icmp::v6::MLD2_REPORT, 0, 0, 0, 0, 0];
    out.extend_from_slice(&(records.len() as u16).to_be_bytes());
    for (kind, group, sources) in records {
        out.extend_from_slice(&[*kind as u8, 0]);
        out.extend_from_slice(&(sources.len() as u16).to_be_bytes());
        out.extend_from_slice(&group.octets());
        sources.iter().for_each(|source| out.extend_from_slice(&source.octets()));
    }
    out
}

/// A version 1 MLD report or done message without its checksum.
#[must_use]
pub fn mld_message(kind: u8, group: Ipv6Addr) -> Vec<u8> {
    let mut out = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    out.extend_from_slice(&group.octets());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_querys_version_shows_in_its_length_and_code() {
        let all = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        for (bytes, version, ms) in [
            (&[0x11, 0, 0, 0, 0, 0, 0, 0][..], Version::One, 10_000),
            (&[0x11, 100, 0, 0, 0, 0, 0, 0], Version::Two, 10_000),
            (&[0x11, 100, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Version::Three, 10_000),
            (&[0x11, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Version::Three, 12_800),
            (&[0x11, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Version::Three, 3_174_400),
        ] {
            assert_eq!(parse_igmp_query(bytes), Some(Query { version, group: all, max_response_ms: ms }), "{bytes:?}");
        }
        assert_eq!(parse_igmp_query(&[0x11, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(parse_igmp_query(&[]), None);
    }
}
