//! UDP (RFC 768, RFC 1122 4.1, udp(7)): sending with corking and segmentation, and finding who gets a datagram. Ping sockets send here too.

use core::net::IpAddr;

use abi::Errno;

use super::{Cork, Datagram, DatagramSocket, Datagrams, Endpoint, Kind, SendCall, output_for};
use crate::core::{Core, IpInfo, Ready, SocketId};
use crate::frame::is_trusted;
use crate::interface::InterfaceId;
use crate::ip::PathMtu;
use crate::packet::Packet;
use crate::prefix::Family;
use crate::route::{Query, RouteKind};
use crate::wire::checksum::Sum;
use crate::wire::icmp::{v4, v6};
use crate::wire::udp::{HEADER_LEN, UdpHeader, checksum};
use crate::wire::{protocol, put};

/// Most payload in one datagram (the length field counts the header).
const MAX_PAYLOAD: usize = 65_535 - HEADER_LEN;
/// Datagrams of one segmented send (`UDP_MAX_SEGMENTS`).
const MAX_SEGMENTS: usize = 128;

impl Datagrams {
    /// sendto(2). EDESTADDRREQ without a destination, EMSGSIZE, EACCES for broadcasts without `SO_BROADCAST`, EPIPE after shutdown, or what
    /// routing says. With `more` or corked the data waits for the rest of its datagram.
    pub(crate) fn send_to(
        &mut self,
        core: &mut Core,
        id: SocketId,
        data: &[u8],
        to: Option<Endpoint>,
        call: SendCall,
    ) -> Result<usize, Errno> {
        let socket = self.sockets.get_mut(&id).ok_or(Errno::EBADF)?;
        if let Some(errno) = socket.error.take() {
            return Err(errno);
        }
        if socket.shut.1 {
            return Err(Errno::EPIPE);
        }
        if let Kind::Raw(protocol) = socket.kind {
            return self.send_raw(core, id, protocol, data, to, call);
        }
        let to = to.or(socket.remote).ok_or(Errno::EDESTADDRREQ)?;
        if to.port == 0 && socket.kind == Kind::Udp {
            return Err(Errno::EINVAL);
        }
        if !socket.speaks(Family::of(to.address)) {
            return Err(Errno::EAFNOSUPPORT);
        }
        let held = socket.cork.as_ref().map_or(0, |cork| cork.data.len());
        let most = MAX_PAYLOAD - if to.address.is_ipv4() { 20 } else { 0 };
        if held + data.len() > most || data.len() > socket.send_limit {
            return Err(Errno::EMSGSIZE);
        }
        if socket.kind == Kind::Udp && (call.more || socket.corked || socket.cork.is_some()) {
            let cork = socket.cork.get_or_insert_with(|| Cork { to, call, data: Vec::new() });
            cork.data.extend_from_slice(data);
            core.memory_bytes += data.len();
            socket.queued_bytes += data.len();
            if call.more || socket.corked {
                return Ok(data.len());
            }
            return self.uncork(core, id).map(|()| data.len());
        }
        self.bind_for_sending(core, id)?;
        self.send_whole(core, id, data, to, call).map(|()| data.len())
    }

    /// Sends what corking held back (`UDP_CORK` off, a send without `MSG_MORE`).
    pub(crate) fn uncork(&mut self, core: &mut Core, id: SocketId) -> Result<(), Errno> {
        let socket = self.sockets.get_mut(&id).ok_or(Errno::EBADF)?;
        socket.corked = false;
        let Some(cork) = socket.cork.take() else { return Ok(()) };
        core.memory_bytes = core.memory_bytes.saturating_sub(cork.data.len());
        socket.queued_bytes = socket.queued_bytes.saturating_sub(cork.data.len());
        self.bind_for_sending(core, id)?;
        self.send_whole(core, id, &cork.data, cork.to, cork.call)
    }

    fn bind_for_sending(&mut self, core: &mut Core, id: SocketId) -> Result<(), Errno> {
        let socket = self.sockets.get(&id).ok_or(Errno::EBADF)?;
        if socket.local.port != 0 {
            return Ok(());
        }
        let any = Endpoint { port: 0, ..socket.local };
        let port = self.claim_port(core, id, any).map_err(|_| Errno::EAGAIN)?;
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.local.port = port;
        }
        Ok(())
    }

    fn send_whole(&mut self, core: &mut Core, id: SocketId, data: &[u8], to: Endpoint, call: SendCall) -> Result<(), Errno> {
        let socket = self.sockets.get(&id).ok_or(Errno::EBADF)?;
        let piece = usize::from(call.segment);
        if socket.kind != Kind::Udp || piece == 0 || data.len() <= piece {
            return socket.send_one(core, data, to, call);
        }
        if data.len().div_ceil(piece) > MAX_SEGMENTS {
            return Err(Errno::EINVAL);
        }
        data.chunks(piece).try_for_each(|part| socket.send_one(core, part, to, call))
    }

    /// A UDP datagram for this machine.
    pub(crate) fn udp_input(&mut self, core: &mut Core, mut packet: Packet, info: &IpInfo) {
        let family = Family::of(info.dst);
        let bytes = packet.bytes().get(info.transport..).unwrap_or_default();
        let Ok(header) = UdpHeader::parse(bytes) else {
            core.statistics.udp[family.index()].in_errors += 1;
            return;
        };
        let datagram = &bytes[..usize::from(header.len)];
        let unchecked = header.checksum == 0 && family == Family::V4;
        let valid = unchecked || is_trusted(&packet) || {
            header.checksum != 0 && Sum::pseudo(info.src, info.dst, protocol::UDP, datagram.len()).with(datagram).is_valid()
        };
        if !valid {
            core.statistics.udp[family.index()].in_checksum_errors += 1;
            core.statistics.udp[family.index()].in_errors += 1;
            return;
        }
        let mut takers = self.takers(core, info, &header);
        let unheard = takers.is_empty();
        takers.retain(|id| self.sockets.get(id).is_some_and(|socket| socket.filter_keeps(datagram, info.interface)));
        if unheard {
            let counters = &mut core.statistics.udp[family.index()];
            if info.kind == RouteKind::Local {
                counters.no_ports += 1;
                let (kind, code) = match family {
                    Family::V4 => (v4::UNREACHABLE, v4::unreachable::PORT),
                    Family::V6 => (v6::UNREACHABLE, v6::unreachable::PORT),
                };
                core.icmp_error(&packet, kind, code, 0);
            } else {
                counters.ignored_multicast += 1;
            }
            return;
        }
        packet.truncate(info.transport + usize::from(header.len));
        packet.pull(info.transport + HEADER_LEN);
        let from = Endpoint { address: info.src, port: header.src_port, interface: crate::ip::icmp::scoped(info.src, info.interface) };
        self.hand_out(core, packet, info, from, &takers);
    }

    /// Queues a datagram at each taker; the last gets it without a copy.
    pub(super) fn hand_out(&mut self, core: &mut Core, packet: Packet, info: &IpInfo, from: Endpoint, takers: &[SocketId]) {
        let index = Family::of(info.dst).index();
        let mut packet = Some(packet);
        for (n, id) in takers.iter().enumerate() {
            let payload = if n + 1 == takers.len() { packet.take() } else { packet.clone() };
            let (Some(payload), Some(socket)) = (payload, self.sockets.get_mut(id)) else { continue };
            let at_ns = payload.at_ns;
            let datagram = Datagram { payload, from, to: info.dst, interface: info.interface, ttl: info.ttl, tos: info.tos, at_ns };
            let counted = socket.kind == Kind::Udp;
            if socket.enqueue(datagram, core) {
                if counted {
                    core.statistics.udp[index].in_datagrams += 1;
                }
                core.wake(*id, Ready::IN);
            } else if counted {
                core.statistics.udp[index].receive_buffer_errors += 1;
                core.statistics.udp[index].in_errors += 1;
            }
        }
    }

    /// Who gets a datagram: all members and listeners for a group or broadcast, else the closest match.
    fn takers(&self, core: &Core, info: &IpInfo, header: &UdpHeader) -> Vec<SocketId> {
        let Some(ids) = self.udp.get(&header.dst_port) else { return Vec::new() };
        let fits =
            |socket: &DatagramSocket| socket.is_bound_to(info.dst, info.interface) && socket.is_connected_to(info.src, header.src_port);
        let matching = ids.iter().filter_map(|id| Some((*id, self.sockets.get(id)?))).filter(|(_, socket)| fits(socket));
        match info.kind {
            RouteKind::Multicast => {
                matching.filter(|(_, socket)| socket.wants_group(info.dst, info.src, info.interface)).map(|(id, _)| id).collect()
            }
            RouteKind::Broadcast => matching.map(|(id, _)| id).collect(),
            _ => {
                let score = |socket: &DatagramSocket| {
                    u8::from(socket.family == Family::of(info.dst))
                        + 4 * u8::from(socket.remote.is_some())
                        + 2 * u8::from(!socket.local.address.is_unspecified())
                        + 2 * u8::from(socket.send.interface != InterfaceId::NONE)
                };
                let scored: Vec<(u8, SocketId, bool)> = matching.map(|(id, socket)| (score(socket), id, socket.reuse_port)).collect();
                let Some(best) = scored.iter().map(|(score, ..)| *score).max() else { return Vec::new() };
                let equals: Vec<&(u8, SocketId, bool)> = scored.iter().filter(|(score, ..)| *score == best).collect();
                // A group that shares the port shares the flows; otherwise the youngest binding has it.
                let share = equals.iter().all(|(.., reuse_port)| *reuse_port);
                let flow = core.random.flow(b'u', (info.src, header.src_port), (info.dst, header.dst_port), 0);
                let chosen = if share { equals.get(flow as usize % equals.len()) } else { equals.last() };
                chosen.map(|(_, id, _)| *id).into_iter().collect()
            }
        }
    }

    /// An echo reply that a ping socket may wait for; the ICMP header is part of what it reads.
    pub(crate) fn ping_input(&mut self, core: &mut Core, packet: &Packet, info: &IpInfo) {
        let message = packet.bytes().get(info.transport..).unwrap_or_default();
        let reply = if info.dst.is_ipv4() { v4::ECHO_REPLY } else { v6::ECHO_REPLY };
        let (Some(kind), Some(ident)) = (message.first(), crate::wire::icmp::echo_ident(message)) else { return };
        if *kind != reply {
            return;
        }
        let ids = self.ping.get(&ident).cloned().unwrap_or_default();
        let fits =
            |id: &SocketId| self.sockets.get(id).is_some_and(|s| s.is_bound_to(info.dst, info.interface) && s.is_connected_to(info.src, 0));
        let Some(id) = ids.into_iter().find(fits) else { return };
        let mut payload = packet.clone();
        payload.pull(info.transport);
        let from = Endpoint { address: info.src, port: 0, interface: crate::ip::icmp::scoped(info.src, info.interface) };
        self.hand_out(core, payload, info, from, &[id]);
    }
}

impl DatagramSocket {
    /// Where this socket's datagram to `to` goes and what it comes from, with the options for its header.
    pub(super) fn way(
        &self,
        core: &Core,
        to: Endpoint,
        call: SendCall,
    ) -> Result<(crate::route::Decision, IpAddr, crate::ip::SendOptions), Errno> {
        let dst = to.address;
        let output = output_for(self, dst, to.interface, call.interface);
        let fixed = (!self.local.address.is_unspecified() && !self.local.address.is_multicast()).then_some(self.local.address);
        let src = call.source.or(fixed).filter(|src| src.is_ipv4() == dst.is_ipv4());
        let tos = call.tos.unwrap_or(self.send.tos);
        let flow = core.random.flow(b'u', (dst, to.port), (dst, self.local.port), 0);
        let query = Query { dst, src, input: InterfaceId::NONE, output, mark: self.send.mark, tos, flow };
        let (decision, source) = core.route(&query)?;
        if decision.kind == RouteKind::Broadcast && !self.broadcast {
            return Err(Errno::EACCES);
        }
        if call.dont_route && decision.via_gateway {
            return Err(Errno::ENETUNREACH);
        }
        let mut options = self.send;
        options.tos = tos;
        options.interface = output;
        options.ttl = call.ttl.or(if decision.kind == RouteKind::Multicast { Some(self.multicast_ttl) } else { self.send.ttl });
        Ok((decision, source, options))
    }

    fn send_one(&self, core: &mut Core, data: &[u8], to: Endpoint, call: SendCall) -> Result<(), Errno> {
        let mut to = to;
        if to.address.is_unspecified() {
            to.address = super::loopback_of(Family::of(to.address));
        }
        let dst = to.address;
        let family = Family::of(dst);
        let (decision, src, options) = self.way(core, to, call)?;
        if call.confirm {
            core.neighbours.confirm((decision.interface, decision.next), core.now_ns);
        }
        let (packet, number) = match self.kind {
            Kind::Udp => (self.udp_packet(core, &decision, (src, to), data, &options)?, protocol::UDP),
            _ => (self.ping_packet(core, src, dst, data)?, if family == Family::V4 { protocol::ICMP } else { protocol::ICMPV6 }),
        };
        let sent = core.ip_send(&decision, src, dst, number, &options, packet);
        match sent {
            Ok(()) => {
                if self.kind == Kind::Udp {
                    core.statistics.udp[family.index()].out_datagrams += 1;
                }
                Ok(())
            }
            // A full queue is loss, which nobody promised to tell.
            Err(Errno::ENOBUFS) if !self.receive_errors => {
                core.statistics.udp[family.index()].send_buffer_errors += 1;
                Ok(())
            }
            Err(errno) => Err(errno),
        }
    }

    fn udp_packet(
        &self,
        core: &Core,
        decision: &crate::route::Decision,
        (src, to): (IpAddr, Endpoint),
        data: &[u8],
        options: &crate::ip::SendOptions,
    ) -> Result<Packet, Errno> {
        let dst = to.address;
        let len = HEADER_LEN + data.len();
        let mut packet = Packet::with_capacity(len);
        let header = UdpHeader { src_port: self.local.port, dst_port: to.port, len: len as u16, checksum: 0 };
        packet.extend(&[0; HEADER_LEN]);
        header.emit(packet.bytes_mut());
        packet.extend(data);
        let family = Family::of(dst);
        let mtu = if options.path_mtu == PathMtu::Probe { core.interface_mtu(decision, dst) } else { core.mtu(decision, dst) };
        let whole = len + family.header_len() + options.options.as_slice().len() <= mtu as usize;
        if self.no_check && family == Family::V4 {
            return Ok(packet);
        }
        if whole {
            // The device finishes it, or the last step before the device does.
            let sum = Sum::pseudo(src, dst, protocol::UDP, len).folded();
            put(packet.bytes_mut(), 6, &sum.to_be_bytes());
            packet.set_partial_checksum(0, 6);
        } else {
            let sum = checksum(src, dst, packet.bytes());
            put(packet.bytes_mut(), 6, &sum.to_be_bytes());
        }
        Ok(packet)
    }

    /// An echo request with this socket's identifier. EINVAL for anything else.
    fn ping_packet(&self, core: &mut Core, src: IpAddr, dst: IpAddr, data: &[u8]) -> Result<Packet, Errno> {
        let (request, sum) = match Family::of(dst) {
            Family::V4 => (v4::ECHO_REQUEST, Sum::new()),
            Family::V6 => (v6::ECHO_REQUEST, Sum::pseudo(src, dst, protocol::ICMPV6, data.len())),
        };
        if data.len() < 8 || data[0] != request || data[1] != 0 {
            return Err(Errno::EINVAL);
        }
        let mut packet = Packet::copy_of(data);
        put(packet.bytes_mut(), 2, &[0, 0]);
        put(packet.bytes_mut(), 4, &self.local.port.to_be_bytes());
        let check = sum.with(packet.bytes()).finish();
        put(packet.bytes_mut(), 2, &check.to_be_bytes());
        let counters = &mut core.statistics.icmp[Family::of(dst).index()];
        counters.out_messages += 1;
        counters.out_echos += 1;
        Ok(packet)
    }
}
