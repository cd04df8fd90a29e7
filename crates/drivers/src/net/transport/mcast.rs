//! `mcast[,MAC][,GROUP][,PORT][,TTL]`: every machine with the same group and port is on one network.

use super::{Arguments, Parsed, Wire};
use std::net::{Ipv4Addr, SocketAddrV4};

const DEFAULT_GROUP: Ipv4Addr = Ipv4Addr::new(239, 192, 168, 1);
pub(super) const DEFAULT_PORT: u16 = 1102;

pub(super) fn parse(arguments: &mut Arguments<'_>) -> Result<Parsed, String> {
    let mac = arguments.take().map(str::to_owned);
    let address: Ipv4Addr = arguments.number("multicast address", DEFAULT_GROUP)?;
    let port = arguments.number("port", DEFAULT_PORT)?;
    let ttl = arguments.number("ttl", 1u8)?;
    if !address.is_multicast() {
        return Err(format!("mcast_setup - {address} is no multicast address: those are 224.0.0.0 to 239.255.255.255"));
    }
    let backend = format!("mcast backend multicast address: {address}:{port}, TTL:{ttl}");
    Ok(Parsed { mac, wire: Wire::Multicast { group: SocketAddrV4::new(address, port), ttl }, backend })
}
