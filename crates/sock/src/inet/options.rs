//! Options of levels SOL_SOCKET, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP and IPPROTO_UDP: socket(7), ip(7), ipv6(7), tcp(7), udp(7).
//!
//! What it is not: multicast memberships with source filters (`MCAST_*`), which are ENOPROTOOPT.

use super::{InetSocket, Which};
use crate::options::read;
use abi::Errno;
use abi::raw::net as raw;
use net::datagram::{DatagramSocket, FilterMode, Kind, Membership};
use net::ip::PathMtu;
use net::tcp::congestion::Algorithm;
use net::tcp::{Options as TcpOptions, TcpInfo};
use net::wire::protocol;
use net::{Family, InterfaceId, Stack};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::Ordering;

const SOL_SOCKET: i32 = raw::SOL_SOCKET as i32;
const SOL_IP: i32 = raw::SOL_IP as i32;
const SOL_IPV6: i32 = raw::SOL_IPV6 as i32;
const SOL_TCP: i32 = raw::SOL_TCP as i32;
const SOL_UDP: i32 = raw::SOL_UDP as i32;
const SOL_RAW: i32 = 255;
const SOL_ICMPV6: i32 = 58;

const IP_TOS: i32 = 1;
const IP_TTL: i32 = 2;
const IP_HDRINCL: i32 = 3;
pub(super) const IP_PKTINFO: i32 = 8;
const IP_MTU_DISCOVER: i32 = 10;
const IP_RECVERR: i32 = 11;
pub(super) const IP_RECVTTL: i32 = 12;
pub(super) const IP_RECVTOS: i32 = 13;
const IP_FREEBIND: i32 = 15;
const IP_BIND_ADDRESS_NO_PORT: i32 = 24;
const IP_MULTICAST_IF: i32 = 32;
const IP_MULTICAST_TTL: i32 = 33;
const IP_MULTICAST_LOOP: i32 = 34;
const IP_ADD_MEMBERSHIP: i32 = 35;
const IP_DROP_MEMBERSHIP: i32 = 36;
const IP_MULTICAST_ALL: i32 = 49;

const IPV6_UNICAST_HOPS: i32 = 16;
const IPV6_MULTICAST_IF: i32 = 17;
const IPV6_MULTICAST_HOPS: i32 = 18;
const IPV6_MULTICAST_LOOP: i32 = 19;
const IPV6_ADD_MEMBERSHIP: i32 = 20;
const IPV6_DROP_MEMBERSHIP: i32 = 21;
const IPV6_MTU_DISCOVER: i32 = 23;
const IPV6_RECVERR: i32 = 25;
const IPV6_V6ONLY: i32 = 26;
pub(super) const IPV6_RECVPKTINFO: i32 = 49;
pub(super) const IPV6_RECVHOPLIMIT: i32 = 51;
pub(super) const IPV6_RECVTCLASS: i32 = 66;
const IPV6_TCLASS: i32 = 67;

const TCP_NODELAY: i32 = 1;
const TCP_MAXSEG: i32 = 2;
const TCP_CORK: i32 = 3;
const TCP_KEEPIDLE: i32 = 4;
const TCP_KEEPINTVL: i32 = 5;
const TCP_KEEPCNT: i32 = 6;
const TCP_SYNCNT: i32 = 7;
const TCP_LINGER2: i32 = 8;
const TCP_DEFER_ACCEPT: i32 = 9;
const TCP_WINDOW_CLAMP: i32 = 10;
const TCP_INFO: i32 = 11;
const TCP_QUICKACK: i32 = 12;
const TCP_CONGESTION: i32 = 13;
const TCP_USER_TIMEOUT: i32 = 18;
const TCP_NOTSENT_LOWAT: i32 = 25;

const UDP_CORK: i32 = 1;
/// On raw sockets of ICMP, raw(7): one bit for each type that is not wanted.
const ICMP_FILTER: i32 = 1;
/// On raw sockets of ICMPv6 (RFC 3542 3.2).
const ICMPV6_FILTER: i32 = 1;

/// Options that ask for control messages; their place is their bit.
const ASKING: [(i32, i32); 7] = [
    (SOL_IP, IP_PKTINFO),
    (SOL_IP, IP_RECVTTL),
    (SOL_IP, IP_RECVTOS),
    (SOL_IPV6, IPV6_RECVPKTINFO),
    (SOL_IPV6, IPV6_RECVHOPLIMIT),
    (SOL_IPV6, IPV6_RECVTCLASS),
    (SOL_IP, IP_BIND_ADDRESS_NO_PORT),
];

fn asking_bit(level: i32, name: i32) -> Option<u32> {
    ASKING.iter().position(|asking| *asking == (level, name)).map(|at| 1 << at)
}

fn number(value: i32) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

/// An int, or a byte where only one is given: ip(7)'s options take both.
fn small(value: &[u8]) -> Result<i32, Errno> {
    match value {
        [byte] | [byte, _] | [byte, _, _] => Ok((*byte).into()),
        _ => read(value),
    }
}

fn path_mtu(number: i32) -> Result<PathMtu, Errno> {
    Ok(match number {
        0 => PathMtu::Dont,
        1 => PathMtu::Want,
        2 => PathMtu::Do,
        3 => PathMtu::Probe,
        4 => PathMtu::Interface,
        5 => PathMtu::Omit,
        _ => return Err(Errno::EINVAL),
    })
}

fn at_least<T: Copy + PartialOrd>(value: T, range: std::ops::RangeInclusive<T>) -> Result<T, Errno> {
    if range.contains(&value) { Ok(value) } else { Err(Errno::EINVAL) }
}

impl InetSocket {
    /// Whether a control message was asked for.
    pub(super) fn wants(&self, level: i32, name: i32) -> bool {
        asking_bit(level, name).is_some_and(|bit| self.asked.load(Ordering::Relaxed) & bit != 0)
    }

    /// An option of level SOL_SOCKET changed: the stack's socket learns of it.
    pub(super) fn apply(&self, name: u32) {
        let options = &self.options;
        let linger: Vec<i32> = options.get(raw::SO_LINGER).unwrap_or_default().chunks_exact(4).filter_map(|b| read(b).ok()).collect();
        let value = |name: u32| options.get(name).and_then(|bytes| read::<i32>(&bytes).ok()).unwrap_or(0);
        let (send, receive) = (options.send_buffer.load(Ordering::Relaxed), options.receive_buffer.load(Ordering::Relaxed));
        self.network.with(|stack| match self.which {
            Which::Tcp => {
                let Some(tcp) = stack.tcp_mut(self.id) else { return };
                let o = &mut tcp.options;
                match name {
                    raw::SO_REUSEADDR => o.reuse_address = options.has(name),
                    raw::SO_REUSEPORT => o.reuse_port = options.has(name),
                    raw::SO_KEEPALIVE => o.keepalive = options.has(name),
                    raw::SO_OOBINLINE => o.urgent_inline = options.has(name),
                    raw::SO_MARK => o.send.mark = value(name) as u32,
                    raw::SO_PRIORITY => o.send.priority = value(name) as u32,
                    raw::SO_SNDBUF | raw::SO_SNDBUFFORCE => (o.send_limit, o.send_locked) = (send, true),
                    raw::SO_RCVBUF | raw::SO_RCVBUFFORCE => (o.receive_limit, o.receive_locked) = (receive, true),
                    raw::SO_LINGER => {
                        o.linger_s = match linger[..] {
                            [on, seconds] if on != 0 => Some(seconds.max(0) as u32),
                            _ => None,
                        }
                    }
                    _ => {}
                }
            }
            Which::Datagram(_) => {
                let Some(o) = stack.datagram_mut(self.id) else { return };
                match name {
                    raw::SO_REUSEADDR => o.reuse_address = options.has(name),
                    raw::SO_REUSEPORT => o.reuse_port = options.has(name),
                    raw::SO_BROADCAST => o.broadcast = options.has(name),
                    raw::SO_NO_CHECK => o.no_check = options.has(name),
                    raw::SO_MARK => o.send.mark = value(name) as u32,
                    raw::SO_PRIORITY => o.send.priority = value(name) as u32,
                    raw::SO_SNDBUF | raw::SO_SNDBUFFORCE => o.send_limit = send,
                    raw::SO_RCVBUF | raw::SO_RCVBUFFORCE => o.receive_limit = receive,
                    _ => {}
                }
            }
        });
    }

    /// setsockopt(2) of what [`crate::Options`] does not keep.
    pub(super) fn set(&self, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        if let Some(bit) = asking_bit(level, name) {
            let on = small(value)? != 0;
            let _ = self.asked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(if on { old | bit } else { old & !bit }));
            return Ok(());
        }
        match (level, self.which) {
            (SOL_SOCKET, _) if name == raw::SO_BINDTODEVICE as i32 => self.bind_to_device(value),
            (SOL_IP, _) => self.set_ip(name, value),
            (SOL_IPV6, _) if self.family == Family::V6 => self.set_ipv6(name, value),
            (SOL_TCP, Which::Tcp) => self.set_tcp(name, value),
            (SOL_UDP, Which::Datagram(_)) if name == UDP_CORK => {
                let on = read::<i32>(value)? != 0;
                self.network.with(|stack| {
                    if let Some(socket) = stack.datagram_mut(self.id) {
                        socket.corked = on;
                    }
                    if on { Ok(()) } else { stack.datagram_uncork(self.id) }
                })
            }
            (SOL_RAW, _) if name == ICMP_FILTER => self.set_icmp_filter(protocol::ICMP, value.get(..4).ok_or(Errno::EINVAL)?),
            (SOL_ICMPV6, _) if name == ICMPV6_FILTER => self.set_icmp_filter(protocol::ICMPV6, value.get(..32).ok_or(Errno::EINVAL)?),
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    /// Which types of ICMP a raw socket of this protocol does not want.
    fn set_icmp_filter(&self, number: u8, value: &[u8]) -> Result<(), Errno> {
        self.network.look(|stack| {
            let socket = stack.datagram_mut(self.id).ok_or(Errno::ENOPROTOOPT)?;
            filters(socket, number)?;
            for (word, bytes) in socket.icmp_filter.iter_mut().zip(value.chunks_exact(4)) {
                *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
            Ok(())
        })
    }

    fn bind_to_device(&self, value: &[u8]) -> Result<(), Errno> {
        let name = value.split(|b| *b == 0).next().unwrap_or_default();
        let name = std::str::from_utf8(name).map_err(|_| Errno::ENODEV)?;
        self.network.look(|stack| {
            let id = match name {
                "" => InterfaceId::NONE,
                name => stack.interfaces.by_name(name).ok_or(Errno::ENODEV)?.id,
            };
            if let Some(tcp) = stack.tcp_mut(self.id) {
                tcp.options.send.interface = id;
            } else if let Some(socket) = stack.datagram_mut(self.id) {
                socket.send.interface = id;
            }
            Ok(())
        })
    }

    fn with_send(&self, change: impl FnOnce(&mut net::ip::SendOptions)) {
        self.network.look(|stack| match self.which {
            Which::Tcp => stack.tcp_mut(self.id).map(|tcp| change(&mut tcp.options.send)),
            Which::Datagram(_) => stack.datagram_mut(self.id).map(|socket| change(&mut socket.send)),
        });
    }

    fn set_errors(&self, on: bool) {
        self.network.look(|stack| match self.which {
            Which::Tcp => stack.tcp_mut(self.id).map(|tcp| tcp.options.receive_errors = on),
            Which::Datagram(_) => stack.datagram_mut(self.id).map(|socket| socket.receive_errors = on),
        });
    }

    fn set_ip(&self, name: i32, value: &[u8]) -> Result<(), Errno> {
        if matches!(name, IP_ADD_MEMBERSHIP | IP_DROP_MEMBERSHIP) {
            return self.set_membership_v4(name == IP_ADD_MEMBERSHIP, value);
        }
        if name == IP_MULTICAST_IF {
            return self.set_multicast_interface_v4(value);
        }
        let value = small(value)?;
        match name {
            IP_TOS => self.with_send(|send| send.tos = value as u8),
            IP_TTL => {
                let ttl = if value == -1 { None } else { Some(at_least(value, 1..=255)? as u8) };
                self.with_send(|send| send.ttl = ttl);
            }
            IP_MTU_DISCOVER => {
                let discover = path_mtu(value)?;
                self.with_send(|send| send.path_mtu = discover);
            }
            IP_RECVERR => self.set_errors(value != 0),
            IP_MULTICAST_LOOP => self.with_send(|send| send.multicast_loop = value != 0),
            IP_FREEBIND => {
                self.network.look(|stack| match self.which {
                    Which::Tcp => stack.tcp_mut(self.id).map(|tcp| tcp.options.free_bind = value != 0),
                    Which::Datagram(_) => stack.datagram_mut(self.id).map(|socket| socket.free_bind = value != 0),
                });
            }
            IP_MULTICAST_TTL | IP_MULTICAST_ALL | IP_HDRINCL => {
                let ttl = if name == IP_MULTICAST_TTL { at_least(if value == -1 { 1 } else { value }, 0..=255)? } else { 0 };
                return self.network.look(|stack| {
                    let socket = stack.datagram_mut(self.id).ok_or(Errno::ENOPROTOOPT)?;
                    match name {
                        IP_MULTICAST_TTL => socket.multicast_ttl = ttl as u8,
                        IP_HDRINCL => socket.header_included = value != 0,
                        _ => socket.multicast_all = value != 0,
                    }
                    Ok(())
                });
            }
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    fn set_ipv6(&self, name: i32, value: &[u8]) -> Result<(), Errno> {
        if matches!(name, IPV6_ADD_MEMBERSHIP | IPV6_DROP_MEMBERSHIP) {
            let group = value.get(..16).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(Ipv6Addr::from).ok_or(Errno::EINVAL)?;
            let interface = InterfaceId(read::<u32>(value.get(16..).unwrap_or_default())?);
            return self.set_membership(name == IPV6_ADD_MEMBERSHIP, group.into(), interface);
        }
        let value: i32 = read(value)?;
        match name {
            IPV6_UNICAST_HOPS => {
                let ttl = if value == -1 { None } else { Some(at_least(value, 0..=255)? as u8) };
                self.with_send(|send| send.ttl = ttl);
            }
            IPV6_TCLASS => self.with_send(|send| send.tos = if value == -1 { 0 } else { value as u8 }),
            IPV6_MTU_DISCOVER => {
                let discover = path_mtu(value)?;
                self.with_send(|send| send.path_mtu = discover);
            }
            IPV6_RECVERR => self.set_errors(value != 0),
            IPV6_MULTICAST_LOOP => self.with_send(|send| send.multicast_loop = value != 0),
            IPV6_V6ONLY | IPV6_MULTICAST_HOPS | IPV6_MULTICAST_IF => {
                return self.network.look(|stack| match (name, stack.tcp_mut(self.id)) {
                    (IPV6_V6ONLY, Some(tcp)) => {
                        tcp.options.v6_only = value != 0;
                        Ok(())
                    }
                    _ => {
                        let socket = stack.datagram_mut(self.id).ok_or(Errno::ENOPROTOOPT)?;
                        match name {
                            IPV6_V6ONLY => socket.v6_only = value != 0,
                            IPV6_MULTICAST_HOPS => socket.multicast_ttl = if value < 0 { 1 } else { value as u8 },
                            _ => socket.multicast_interface = InterfaceId(value as u32),
                        }
                        Ok(())
                    }
                });
            }
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    /// `struct ip_mreq` or `struct ip_mreqn`: group, address of the interface, and its index.
    fn set_membership_v4(&self, join: bool, value: &[u8]) -> Result<(), Errno> {
        let address = |at: usize| value.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(Ipv4Addr::from);
        let group = address(0).ok_or(Errno::EINVAL)?;
        let own = address(4).ok_or(Errno::EINVAL)?;
        let index = value.get(8..12).map_or(Ok(0), read::<u32>)?;
        let interface = self.network.look(|stack| interface_for(stack, index, own))?;
        self.set_membership(join, group.into(), interface)
    }

    fn set_membership(&self, join: bool, group: IpAddr, interface: InterfaceId) -> Result<(), Errno> {
        self.network.with(|stack| {
            if join {
                stack.datagram_join(self.id, Membership { group, interface, mode: FilterMode::Exclude, sources: Vec::new() })
            } else {
                stack.datagram_leave(self.id, group, interface)
            }
        })
    }

    fn set_multicast_interface_v4(&self, value: &[u8]) -> Result<(), Errno> {
        let address = |at: usize| value.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(Ipv4Addr::from);
        // An address alone, or `struct ip_mreqn`.
        let own = if value.len() >= 8 { address(4) } else { address(0) }.ok_or(Errno::EINVAL)?;
        let index = value.get(8..12).map_or(Ok(0), read::<u32>)?;
        self.network.look(|stack| {
            let interface = interface_for(stack, index, own)?;
            stack.datagram_mut(self.id).ok_or(Errno::ENOPROTOOPT)?.multicast_interface = interface;
            Ok(())
        })
    }

    fn set_tcp(&self, name: i32, value: &[u8]) -> Result<(), Errno> {
        if name == TCP_CONGESTION {
            let name = value.split(|b| *b == 0).next().unwrap_or_default();
            let algorithm = std::str::from_utf8(name).ok().and_then(Algorithm::from_name).ok_or(Errno::ENOENT)?;
            self.network.look(|stack| {
                if let Some(tcp) = stack.tcp_mut(self.id) {
                    tcp.options.congestion = algorithm;
                    tcp.set_congestion(algorithm);
                }
            });
            return Ok(());
        }
        let value: i32 = read(value)?;
        self.network.with(|stack| {
            let tcp = stack.tcp_mut(self.id).ok_or(Errno::EINVAL)?;
            set_tcp_option(&mut tcp.options, name, value)?;
            if matches!(name, TCP_NODELAY | TCP_CORK) {
                stack.tcp_push(self.id);
            }
            Ok(())
        })
    }

    /// getsockopt(2) of what [`crate::Options`] does not keep.
    pub(super) fn get(&self, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
        if asking_bit(level, name).is_some() {
            return Ok(number(self.wants(level, name).into()));
        }
        self.network.look(|stack| match (level, self.which) {
            (SOL_TCP, Which::Tcp) => tcp_option(stack.tcp(self.id).ok_or(Errno::EINVAL)?, name),
            (SOL_RAW, _) if name == ICMP_FILTER => icmp_filter(stack.datagram(self.id), protocol::ICMP, 1),
            (SOL_ICMPV6, _) if name == ICMPV6_FILTER => icmp_filter(stack.datagram(self.id), protocol::ICMPV6, 8),
            (SOL_IP | SOL_IPV6 | SOL_UDP, _) => self.ip_option(stack, level, name),
            _ => Err(Errno::ENOPROTOOPT),
        })
    }

    fn ip_option(&self, stack: &mut Stack, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
        let default_ttl = stack.config.default_ttl;
        let (send, errors, v6_only) = match self.which {
            Which::Tcp => {
                let o = &stack.tcp(self.id).ok_or(Errno::EINVAL)?.options;
                (&o.send, o.receive_errors, o.v6_only)
            }
            Which::Datagram(_) => {
                let o = stack.datagram(self.id).ok_or(Errno::EINVAL)?;
                (&o.send, o.receive_errors, o.v6_only)
            }
        };
        let datagram = stack.datagram(self.id);
        Ok(number(match (level, name) {
            (SOL_IP, IP_TOS) | (SOL_IPV6, IPV6_TCLASS) => send.tos.into(),
            (SOL_IP, IP_TTL) | (SOL_IPV6, IPV6_UNICAST_HOPS) => send.ttl.unwrap_or(default_ttl).into(),
            (SOL_IP, IP_MTU_DISCOVER) | (SOL_IPV6, IPV6_MTU_DISCOVER) => match send.path_mtu {
                PathMtu::Dont => 0,
                PathMtu::Want => 1,
                PathMtu::Do => 2,
                PathMtu::Probe => 3,
                PathMtu::Interface => 4,
                PathMtu::Omit => 5,
            },
            (SOL_IP, IP_RECVERR) | (SOL_IPV6, IPV6_RECVERR) => errors.into(),
            (SOL_IPV6, IPV6_V6ONLY) => v6_only.into(),
            (SOL_IP, IP_MULTICAST_LOOP) | (SOL_IPV6, IPV6_MULTICAST_LOOP) => send.multicast_loop.into(),
            (SOL_IP, IP_MULTICAST_TTL) | (SOL_IPV6, IPV6_MULTICAST_HOPS) => datagram.ok_or(Errno::ENOPROTOOPT)?.multicast_ttl.into(),
            (SOL_IP, IP_MULTICAST_ALL) => datagram.ok_or(Errno::ENOPROTOOPT)?.multicast_all.into(),
            (SOL_IP, IP_HDRINCL) => datagram.ok_or(Errno::ENOPROTOOPT)?.header_included.into(),
            (SOL_UDP, UDP_CORK) => datagram.ok_or(Errno::ENOPROTOOPT)?.corked.into(),
            _ => return Err(Errno::ENOPROTOOPT),
        }))
    }
}

/// The interface that an index or an own address names; none for neither. ENODEV, EADDRNOTAVAIL.
fn interface_for(stack: &mut Stack, index: u32, own: Ipv4Addr) -> Result<InterfaceId, Errno> {
    if index != 0 {
        return stack.interfaces.get(InterfaceId(index)).map(|interface| interface.id).ok_or(Errno::ENODEV);
    }
    if own.is_unspecified() {
        return Ok(InterfaceId::NONE);
    }
    stack.interfaces.owner(own.into()).map(|interface| interface.id).ok_or(Errno::EADDRNOTAVAIL)
}

fn set_tcp_option(o: &mut TcpOptions, name: i32, value: i32) -> Result<(), Errno> {
    match name {
        TCP_NODELAY => o.no_delay = value != 0,
        TCP_MAXSEG => o.max_segment = if value == 0 { 0 } else { at_least(value, 88..=32767)? as u16 },
        TCP_CORK => o.cork = value != 0,
        TCP_KEEPIDLE => o.keepalive_time_s = at_least(value, 1..=32767)? as u32,
        TCP_KEEPINTVL => o.keepalive_interval_s = at_least(value, 1..=32767)? as u32,
        TCP_KEEPCNT => o.keepalive_probes = at_least(value, 1..=127)? as u32,
        TCP_SYNCNT => o.syn_retries = at_least(value, 1..=127)? as u32,
        TCP_LINGER2 => o.linger2_s = if value < 0 { None } else { Some(value.min(120) as u64) },
        TCP_DEFER_ACCEPT => o.defer_accept = value > 0,
        TCP_WINDOW_CLAMP => o.window_clamp = value.max(0) as u32,
        TCP_QUICKACK => o.quick_ack = value != 0,
        TCP_USER_TIMEOUT => o.user_timeout_ms = at_least(value, 0..=i32::MAX)? as u64,
        TCP_NOTSENT_LOWAT => o.not_sent_low_water = value as u32 as usize,
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

fn tcp_option(tcp: &net::tcp::TcpSocket, name: i32) -> Result<Vec<u8>, Errno> {
    let o = &tcp.options;
    Ok(number(match name {
        TCP_NODELAY => o.no_delay.into(),
        TCP_MAXSEG => match tcp.info().send_mss {
            0 => 536,
            mss => mss as i32,
        },
        TCP_CORK => o.cork.into(),
        TCP_KEEPIDLE => o.keepalive_time_s as i32,
        TCP_KEEPINTVL => o.keepalive_interval_s as i32,
        TCP_KEEPCNT => o.keepalive_probes as i32,
        TCP_SYNCNT => o.syn_retries as i32,
        TCP_LINGER2 => o.linger2_s.map_or(-1, |s| s as i32),
        TCP_DEFER_ACCEPT => o.defer_accept.into(),
        TCP_WINDOW_CLAMP => o.window_clamp as i32,
        TCP_QUICKACK => o.quick_ack.into(),
        TCP_USER_TIMEOUT => o.user_timeout_ms as i32,
        TCP_NOTSENT_LOWAT => o.not_sent_low_water.min(u32::MAX as usize) as u32 as i32,
        TCP_INFO => return Ok(tcp_info(&tcp.info())),
        TCP_CONGESTION => {
            let mut name = o.congestion.name().as_bytes().to_vec();
            name.resize(16, 0);
            return Ok(name);
        }
        _ => return Err(Errno::ENOPROTOOPT),
    }))
}

/// `struct tcp_info` up to `tcpi_total_retrans`, as older programs have it, and the byte counts behind it.
fn tcp_info(info: &TcpInfo) -> Vec<u8> {
    let mut bytes = vec![info.state, 0, info.retransmits as u8, info.probes as u8, 0, info.options, info.scales.0 | info.scales.1 << 4, 0];
    let words = [
        info.rto_us,
        0,
        info.send_mss,
        info.send_mss,
        info.unacked,
        info.sacked,
        info.lost,
        0,
        0,
        0,
        0,
        0,
        0,
        info.path_mtu,
        0,
        info.rtt_us,
        info.rtt_var_us,
        info.threshold_segments,
        info.window_segments,
        info.send_mss,
        0,
        0,
        0,
        info.total_retransmitted,
    ];
    bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    // Pacing rates: no limit.
    bytes.extend([u64::MAX, u64::MAX, info.bytes_acked, info.bytes_received].iter().flat_map(|word| word.to_ne_bytes()));
    bytes.extend([info.segments_out as u32, info.segments_in as u32, info.not_sent, info.min_rtt_us].iter().flat_map(|w| w.to_ne_bytes()));
    bytes
}

fn icmp_filter(socket: Option<&DatagramSocket>, number: u8, words: usize) -> Result<Vec<u8>, Errno> {
    let socket = socket.ok_or(Errno::EINVAL)?;
    filters(socket, number)?;
    Ok(socket.icmp_filter.iter().take(words).flat_map(|word| word.to_ne_bytes()).collect())
}

/// Whether the option exists for a socket: for a raw one of the protocol.
fn filters(socket: &DatagramSocket, number: u8) -> Result<(), Errno> {
    match socket.kind() {
        Kind::Raw(own) if own == number => Ok(()),
        Kind::Raw(_) => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_enough_for_small_options() {
        assert_eq!(small(&[7]), Ok(7));
        assert_eq!(small(&[7, 0, 0, 0]), Ok(7));
        assert_eq!(small(&[]), Err(Errno::EINVAL));
    }
}
