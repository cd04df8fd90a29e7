//! `ucast[,MAC],REMOTE[,LISTENPORT][,REMOTEPORT]`: a cable to one other station, by UDP.

use super::mcast::DEFAULT_PORT;
use super::{Arguments, Parsed, Wire};
use std::net::{Ipv4Addr, SocketAddrV4};

pub(super) fn parse(arguments: &mut Arguments<'_>) -> Result<Parsed, String> {
    let mac = arguments.take().map(str::to_owned);
    let Some(remote) = arguments.take() else { return Err("ucast_setup - Missing remote address".into()) };
    let remote: Ipv4Addr = remote.parse().map_err(|_| format!("ucast_setup - Bad remote address : '{remote}'"))?;
    let listen_port = arguments.number("listen port", DEFAULT_PORT)?;
    let remote_port = arguments.number("remote port", DEFAULT_PORT)?;
    let backend = format!("ucast backend address: {remote}:{remote_port} listen port: {listen_port}");
    Ok(Parsed { mac, wire: Wire::Unicast { remote: SocketAddrV4::new(remote, remote_port), listen_port }, backend })
}
