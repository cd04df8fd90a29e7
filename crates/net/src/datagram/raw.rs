//! Raw sockets (raw(7), RFC 3542 3): a copy of every packet of their protocol, and packets with a transport header, or a whole IPv4 header, of
//! the sender's making.

use abi::Errno;

use super::{DatagramSocket, Datagrams, Endpoint, Kind, SendCall};
use crate::core::{Core, IcmpError, IpInfo, SocketId};
use crate::packet::Packet;
use crate::prefix::Family;
use crate::route::RouteKind;
use crate::wire::checksum::Sum;
use crate::wire::ipv4::Ipv4Header;
use crate::wire::{protocol, put};

impl Datagrams {
    /// Gives raw sockets their copies; answers whether any took one.
    pub(crate) fn raw_input(&mut self, core: &mut Core, packet: &Packet, info: &IpInfo) -> bool {
        if self.raw.is_empty() {
            return false;
        }
        let message = packet.bytes().get(info.transport..).unwrap_or_default();
        let seen = if info.dst.is_ipv4() { packet.bytes() } else { message };
        let wants = |id: &&SocketId| {
            self.sockets.get(id).is_some_and(|socket| socket.wants_raw(info, message) && socket.filter_keeps(seen, info.interface))
        };
        let takers: Vec<SocketId> = self.raw.iter().filter(wants).copied().collect();
        if takers.is_empty() {
            return false;
        }
        let mut copy = packet.clone();
        // Readers expect finished checksums.
        copy.finish_checksum();
        if info.dst.is_ipv6() {
            copy.pull(info.transport);
        }
        let from = Endpoint { address: info.src, port: 0, interface: crate::ip::icmp::scoped(info.src, info.interface) };
        self.hand_out(core, copy, info, from, &takers);
        true
    }

    /// Sends from a raw socket.
    pub(super) fn send_raw(
        &mut self,
        core: &mut Core,
        id: SocketId,
        number: u8,
        data: &[u8],
        to: Option<Endpoint>,
        call: SendCall,
    ) -> Result<usize, Errno> {
        let socket = self.sockets.get(&id).ok_or(Errno::EBADF)?;
        let to = to.or(socket.remote).ok_or(Errno::EDESTADDRREQ)?;
        if Family::of(to.address) != socket.family {
            return Err(Errno::EAFNOSUPPORT);
        }
        if data.len() > 65_535 {
            return Err(Errno::EMSGSIZE);
        }
        let (decision, src, options) = socket.way(core, to, call)?;
        if socket.header_included && socket.family == Family::V4 {
            return send_with_header(core, &decision, src, to, &options, data);
        }
        let mut packet = Packet::copy_of(data);
        if socket.family == Family::V6 {
            let at = if number == protocol::ICMPV6 { Some(2) } else { socket.checksum_at.map(usize::from) };
            if let Some(at) = at {
                if at + 2 > packet.len() {
                    return Err(Errno::EINVAL);
                }
                put(packet.bytes_mut(), at, &[0, 0]);
                let sum = Sum::pseudo(src, to.address, number, packet.len()).with(packet.bytes()).finish();
                put(packet.bytes_mut(), at, &sum.to_be_bytes());
            }
        }
        core.ip_send(&decision, src, to.address, number, &options, packet)?;
        Ok(data.len())
    }

    pub(super) fn raw_error(&mut self, core: &mut Core, error: &IcmpError) {
        for id in self.raw.clone() {
            let Some(socket) = self.sockets.get_mut(&id) else { continue };
            let concerned = socket.kind == Kind::Raw(error.protocol)
                && socket.is_bound_to(error.local, error.interface)
                && socket.is_connected_to(error.remote, 0);
            if concerned {
                socket.hear(core, id, error, Endpoint::new(error.remote, 0), &error.quoted);
            }
        }
    }
}

/// Sends a packet whose IPv4 header the sender made; the kernel fills in checksum and length, and source and identification when zero.
fn send_with_header(
    core: &mut Core,
    decision: &crate::route::Decision,
    src: core::net::IpAddr,
    to: Endpoint,
    options: &crate::ip::SendOptions,
    data: &[u8],
) -> Result<usize, Errno> {
    let mut header = Ipv4Header::parse_quoted(data).map_err(|_| Errno::EINVAL)?;
    let mtu = core.interface_mtu(decision, to.address);
    if data.len() > mtu as usize {
        return Err(Errno::EMSGSIZE);
    }
    header.total_len = data.len() as u16;
    if header.src.is_unspecified()
        && let core::net::IpAddr::V4(src) = src
    {
        header.src = src;
    }
    if header.ident == 0 {
        header.ident = core.random.next_u32() as u16;
    }
    let mut packet = Packet::copy_of(data);
    packet.mark = options.mark;
    header.emit(packet.bytes_mut());
    core.statistics.ip[0].out_requests += 1;
    core.send_local(decision, to.address, options, packet, mtu)?;
    Ok(data.len())
}

impl DatagramSocket {
    fn wants_raw(&self, info: &IpInfo, message: &[u8]) -> bool {
        let Kind::Raw(number) = self.kind else { return false };
        if number != info.protocol || self.family != Family::of(info.dst) {
            return false;
        }
        if !self.is_bound_to(info.dst, info.interface) || !self.is_connected_to(info.src, 0) {
            return false;
        }
        if info.kind == RouteKind::Multicast && !self.wants_group(info.dst, info.src, info.interface) {
            return false;
        }
        let kind = usize::from(message.first().copied().unwrap_or(0));
        match number {
            protocol::ICMP => kind >= 32 || self.icmp_filter[0] & 1 << kind == 0,
            protocol::ICMPV6 => self.icmp_filter[kind / 32] & 1 << (kind % 32) == 0,
            _ => true,
        }
    }
}
