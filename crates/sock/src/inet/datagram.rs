//! UDP and raw sockets: messages in both directions, and errors that came back. udp(7), raw(7), ip(7) "IP_RECVERR".

use super::{InetSocket, address};
use crate::message::{Control, MessageFlags, ReceiveRequest, Received, SendRequest};
use crate::patience::Patience;
use abi::raw::net as raw;
use abi::{Errno, SysResult};
use net::datagram::{Datagram, SendCall};
use net::{Endpoint, Family, InterfaceId};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::Ordering;
use vfs::{Sink, Source};

/// Most bytes that one datagram can have.
const DATAGRAM_MAX: usize = 65_535;
const SOL_IP: i32 = raw::SOL_IP as i32;
const SOL_IPV6: i32 = raw::SOL_IPV6 as i32;
const IP_PKTINFO: i32 = 8;
const IP_TTL: i32 = 2;
const IP_TOS: i32 = 1;
const IP_RECVERR: i32 = 11;
const IPV6_PKTINFO: i32 = 50;
const IPV6_HOPLIMIT: i32 = 52;
const IPV6_TCLASS: i32 = 67;
const IPV6_RECVERR: i32 = 25;

fn int(data: &[u8]) -> Result<i32, Errno> {
    data.get(..4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes).ok_or(Errno::EINVAL)
}

/// What control messages of level IP and IPV6 ask for. EINVAL for others.
fn send_call(request: &SendRequest<'_>) -> Result<SendCall, Errno> {
    let mut call = SendCall {
        more: request.flags.contains(MessageFlags::MORE),
        confirm: request.flags.contains(MessageFlags::CONFIRM),
        dont_route: request.flags.contains(MessageFlags::DONTROUTE),
        ..SendCall::default()
    };
    for (level, kind, data) in &request.control {
        match (*level, *kind) {
            (SOL_IP, IP_TTL) | (SOL_IPV6, IPV6_HOPLIMIT) => call.ttl = u8::try_from(int(data)?).ok(),
            (SOL_IP, IP_TOS) => call.tos = Some(data.first().copied().ok_or(Errno::EINVAL)?),
            (SOL_IPV6, IPV6_TCLASS) => call.tos = u8::try_from(int(data)?).ok(),
            (SOL_IP, IP_PKTINFO) => {
                call.interface = InterfaceId(int(data)? as u32);
                let bytes: [u8; 4] = data.get(4..8).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
                call.source = Some(Ipv4Addr::from(bytes)).filter(|ip| !ip.is_unspecified()).map(IpAddr::V4);
            }
            (SOL_IPV6, IPV6_PKTINFO) => {
                let bytes: [u8; 16] = data.get(..16).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?;
                call.interface = InterfaceId(int(data.get(16..).unwrap_or_default())? as u32);
                call.source = Some(Ipv6Addr::from(bytes)).filter(|ip| !ip.is_unspecified()).map(IpAddr::V6);
            }
            (SOL_IP | SOL_IPV6, _) => return Err(Errno::EINVAL),
            _ => {}
        }
    }
    Ok(call)
}

impl InetSocket {
    /// Sends a message.
    pub(super) fn send_datagram(&self, patience: Patience, request: &SendRequest<'_>, source: &mut dyn Source) -> SysResult<usize> {
        if request.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let len = source.left();
        if len > DATAGRAM_MAX {
            return Err(Errno::EMSGSIZE.into());
        }
        let to = request.to.map(|to| address::parse(self.family, to)).transpose()?;
        let call = send_call(request)?;
        let mut data = vec![0; len];
        if source.take(&mut data)? < len {
            return Err(Errno::EFAULT.into());
        }
        self.retry(patience, |stack| stack.datagram_send(self.id, &data, to, call))
    }

    /// Receives a message.
    pub(super) fn receive_datagram(&self, patience: Patience, request: ReceiveRequest, sink: &mut dyn Sink) -> SysResult<Received> {
        let peek = request.flags.contains(MessageFlags::PEEK);
        let found = self.retry(patience, |stack| stack.datagram_receive(self.id, peek))?;
        let Some(datagram) = found else { return Ok(Received::default()) };
        let bytes = datagram.payload.bytes();
        let want = bytes.len().min(sink.room());
        if sink.put(bytes.get(..want).unwrap_or_default())? < want {
            return Err(Errno::EFAULT.into());
        }
        let mut received = Received { len: want, ..Received::default() };
        if want < bytes.len() {
            received.flags |= MessageFlags::TRUNC;
            if request.flags.contains(MessageFlags::TRUNC) {
                received.len = bytes.len();
            }
        }
        if request.wants_address {
            received.from = Some(address::format(self.family, datagram.from));
        }
        self.describe(&datagram, &mut received.control);
        Ok(received)
    }

    /// Control messages that options ask for.
    fn describe(&self, datagram: &Datagram, control: &mut Vec<Control>) {
        let int = |number: i32| number.to_ne_bytes().to_vec();
        let timestamp = self.options.timestamp.load(Ordering::Relaxed);
        if timestamp != 0 {
            control.push(Control::Other(raw::SOL_SOCKET as i32, timestamp, self.sockets.stamp(datagram.at_ns, timestamp as u32)));
        }
        match (self.family, datagram.to) {
            (Family::V4, IpAddr::V4(to)) => {
                if self.wants(SOL_IP, IP_PKTINFO) {
                    let mut info = int(datagram.interface.0 as i32);
                    info.extend_from_slice(&to.octets());
                    info.extend_from_slice(&to.octets());
                    control.push(Control::Other(SOL_IP, IP_PKTINFO, info));
                }
                if self.wants(SOL_IP, super::options::IP_RECVTTL) {
                    control.push(Control::Other(SOL_IP, IP_TTL, int(datagram.ttl.into())));
                }
                if self.wants(SOL_IP, super::options::IP_RECVTOS) {
                    control.push(Control::Other(SOL_IP, IP_TOS, vec![datagram.tos]));
                }
            }
            (Family::V6, to) => {
                let to = match to {
                    IpAddr::V6(to) => to,
                    IpAddr::V4(to) => to.to_ipv6_mapped(),
                };
                if self.wants(SOL_IPV6, super::options::IPV6_RECVPKTINFO) {
                    let mut info = to.octets().to_vec();
                    info.extend_from_slice(&datagram.interface.0.to_ne_bytes());
                    control.push(Control::Other(SOL_IPV6, IPV6_PKTINFO, info));
                }
                if self.wants(SOL_IPV6, super::options::IPV6_RECVHOPLIMIT) {
                    control.push(Control::Other(SOL_IPV6, IPV6_HOPLIMIT, int(datagram.ttl.into())));
                }
                if self.wants(SOL_IPV6, super::options::IPV6_RECVTCLASS) {
                    control.push(Control::Other(SOL_IPV6, IPV6_TCLASS, int(datagram.tos.into())));
                }
            }
            _ => {}
        }
    }

    /// Takes an error off the error queue: MSG_ERRQUEUE. EAGAIN.
    pub(super) fn receive_error(&self, request: ReceiveRequest, sink: &mut dyn Sink) -> SysResult<Received> {
        if self.is_tcp() {
            return Err(Errno::EAGAIN.into());
        }
        let report = self.network.with(|stack| stack.datagram_receive_error(self.id))?;
        let want = report.payload.len().min(sink.room());
        if sink.put(report.payload.get(..want).unwrap_or_default())? < want {
            return Err(Errno::EFAULT.into());
        }
        // `struct sock_extended_err` and the offender's address.
        let mut data = (report.errno.raw() as u32).to_ne_bytes().to_vec();
        data.extend_from_slice(&[report.origin, report.icmp_type, report.icmp_code, 0]);
        data.extend_from_slice(&report.info.to_ne_bytes());
        data.extend_from_slice(&[0; 4]);
        let offender = report.offender.map_or_else(|| Endpoint::any(self.family), |ip| Endpoint::new(ip, 0));
        let mut address = address::format(self.family, offender);
        if report.offender.is_none() {
            address.fill(0);
        }
        data.extend_from_slice(&address);
        let (level, kind) = if self.family == Family::V4 { (SOL_IP, IP_RECVERR) } else { (SOL_IPV6, IPV6_RECVERR) };
        let mut received = Received { len: want, flags: MessageFlags::ERRQUEUE, ..Received::default() };
        if want < report.payload.len() {
            received.flags |= MessageFlags::TRUNC;
        }
        if request.wants_address {
            received.from = Some(address::format(self.family, report.destination));
        }
        received.control.push(Control::Other(level, kind, data));
        Ok(received)
    }
}
