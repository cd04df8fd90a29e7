//! What a guest finds on its network: addresses by DHCP and by router advertisements, neighbours, names, echo replies, datagrams.

mod common;

use abi::Errno;
use common::{Guest, MAC, Pretended, config};
use net::datagram::{Endpoint, Kind, SendCall};
use net::packet::Packet;
use net::prefix::Family;
use net::wire::ethernet::EthernetHeader;
use net::wire::ipv4::{Ipv4Header, Options};
use net::wire::ipv6::Ipv6Header;
use net::wire::udp::UdpHeader;
use net::wire::{MacAddress, icmp};
use net::{SocketId, wire};
use platform::SocketReady;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use usernet::Engine;

fn endpoint(text: &str) -> Endpoint {
    let at: SocketAddr = text.parse().unwrap();
    Endpoint::new(at.ip(), at.port())
}

fn udp(guest: &mut Guest, to: &str) -> SocketId {
    let to = endpoint(to);
    let id = guest.stack.udp_open(Family::of(to.address));
    guest.stack.datagram_connect(id, Some(to)).unwrap();
    id
}

fn send(guest: &mut Guest, id: SocketId, data: &[u8]) {
    guest.stack.datagram_send(id, data, None, SendCall::default()).unwrap();
}

fn receive(guest: &mut Guest, id: SocketId) -> Result<Vec<u8>, Errno> {
    guest.until("a datagram", |guest| match guest.stack.datagram_receive(id, false) {
        Ok(Some(datagram)) => Some(Ok(datagram.payload.bytes().to_vec())),
        Ok(None) => None,
        Err(Errno::EAGAIN) => None,
        Err(errno) => Some(Err(errno)),
    })
}

#[test]
fn datagrams_reach_a_server_and_come_back() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let mut guest = Guest::new(&format!("allow=127.0.0.1:{port}"));
    let id = udp(&mut guest, &format!("10.0.2.2:{port}"));
    for len in [0, 1, 1472, 60_000] {
        let data = common::pattern(len, 9);
        send(&mut guest, id, &data);
        guest.turn();
        guest.turn();
        let mut buffer = vec![0; 65_536];
        server.set_read_timeout(Some(common::PATIENCE)).unwrap();
        let (got, from) = guest.until("at the server", |_| {
            server.set_nonblocking(true).unwrap();
            server.recv_from(&mut buffer).ok()
        });
        assert!(buffer[..got] == data);
        server.send_to(&data, from).unwrap();
        assert!(receive(&mut guest, id).unwrap() == data, "{len} bytes");
    }
    assert_eq!(guest.engine.flows(), (0, 1));
}

#[test]
fn a_datagram_to_nobody_and_one_that_is_forbidden_are_refused() {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut guest = Guest::new(&format!("allow=127.0.0.1:{port},allow=[::1]:{port}"));
    for to in [
        format!("10.0.2.2:{port}"),
        "10.0.2.2:9".into(),
        "127.0.0.9:9".replace("127.0.0.9", "169.254.169.254"),
        format!("[fd75:6d6c:6175::2]:{port}"),
    ] {
        let id = udp(&mut guest, &to);
        send(&mut guest, id, b"x");
        assert_eq!(receive(&mut guest, id), Err(Errno::ECONNREFUSED), "{to}");
    }
}

#[test]
fn a_published_datagram_port_leads_into_the_guest() {
    let mut guest = Guest::new("publish=127.0.0.1:0:53/udp");
    let at = guest.engine.publish().unwrap()[0];
    let id = guest.stack.udp_open(Family::V4);
    guest.stack.datagram_bind(id, endpoint("0.0.0.0:53")).unwrap();
    let clients: Vec<_> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for (n, client) in clients.iter().enumerate() {
        client.send_to(&[n as u8; 5], at).unwrap();
    }
    for _ in &clients {
        let datagram = guest.until("a datagram", |guest| guest.stack.datagram_receive(id, false).ok().flatten());
        assert_eq!(datagram.from.address, IpAddr::from([10, 0, 2, 2]));
        let back = [datagram.payload.bytes(), b"!"].concat();
        guest.stack.datagram_send(id, &back, Some(datagram.from), SendCall::default()).unwrap();
        guest.turn();
    }
    for (n, client) in clients.iter().enumerate() {
        client.set_read_timeout(Some(common::PATIENCE)).unwrap();
        let mut buffer = [0; 16];
        let (len, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from), (&[n as u8, n as u8, n as u8, n as u8, n as u8, b'!'][..], at));
    }
}

#[test]
fn the_gateway_answers_echo_requests_itself_and_the_host_sends_the_others() {
    let host = Arc::new(Pretended::default());
    let mut guest = Guest::before(config(""), host.clone());
    let echo = |guest: &mut Guest, to: &str| {
        let to: IpAddr = to.parse().unwrap();
        let id = guest.stack.datagram_open(Kind::Ping, Family::of(to));
        let kind = if to.is_ipv4() { icmp::v4::ECHO_REQUEST } else { icmp::v6::ECHO_REQUEST };
        let message = [kind, 0, 0, 0, 0, 0, 0, 7, b'p', b'i', b'n', b'g'];
        guest.stack.datagram_send(id, &message, Some(Endpoint::new(to, 0)), SendCall::default()).unwrap();
        id
    };
    for to in ["10.0.2.2", "10.0.2.3", "fd75:6d6c:6175::2"] {
        let id = echo(&mut guest, to);
        let answer = receive(&mut guest, id).unwrap();
        assert_eq!((&answer[6..8], &answer[8..]), (&[0, 7][..], &b"ping"[..]), "{to}");
    }
    let id = echo(&mut guest, "198.51.100.7");
    let token = guest.until("the host was asked", |_| host.asked.lock().unwrap().tokens.first().copied());
    assert_eq!(host.asked.lock().unwrap().echoes, ["198.51.100.7".parse::<IpAddr>().unwrap()]);
    {
        let mut asked = host.asked.lock().unwrap();
        let mut reply = asked.sent[0].1.clone();
        // The host's own identifier, and a reply.
        (reply[0], reply[4], reply[5]) = (icmp::v4::ECHO_REPLY, 0xab, 0xcd);
        asked.arriving.entry(token).or_default().push_back(Ok(reply));
        asked.ready.push((token, SocketReady::READ));
    }
    assert_eq!(&receive(&mut guest, id).unwrap()[8..], b"ping");
    for refused in ["127.0.0.1", "169.254.169.254"] {
        let frame = icmp_frame(refused.parse().unwrap());
        guest.inject(&frame);
    }
    assert_eq!(host.asked.lock().unwrap().echoes.len(), 1);
}

/// An echo request to an address that the guest's own stack would keep.
fn icmp_frame(to: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0; 14 + 20 + 8];
    EthernetHeader { dst: config("").gateway_mac, src: MAC, ethertype: 0x0800 }.emit(&mut frame);
    ipv4(to, 1, 28).emit(&mut frame[14..]);
    frame[34] = 8;
    let check = wire::checksum::checksum(&frame[34..]);
    frame[36..38].copy_from_slice(&check.to_be_bytes());
    frame
}

fn ipv4(dst: Ipv4Addr, protocol: u8, total_len: u16) -> Ipv4Header {
    Ipv4Header {
        tos: 0,
        total_len,
        ident: 0,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol,
        src: Ipv4Addr::new(10, 0, 2, 15),
        dst,
        options: Options::NONE,
    }
}

#[test]
fn where_the_host_has_no_ping_sockets_the_guest_is_told() {
    let host = Arc::new(Pretended { no_ping: true, ..Pretended::default() });
    let mut guest = Guest::before(config(""), host);
    let frame = icmp_frame(Ipv4Addr::new(198, 51, 100, 7));
    guest.inject(&frame);
    let answer = guest.frames().pop().unwrap();
    assert_eq!(answer.bytes()[34..36], [icmp::v4::UNREACHABLE, icmp::v4::unreachable::ADMIN]);
}

#[test]
fn names_are_asked_of_the_host_s_servers_one_after_the_other() {
    let resolvers = ["127.0.0.53:53", "192.0.2.53:53"].map(|text| text.parse().unwrap());
    let host = Arc::new(Pretended { resolvers: resolvers.to_vec(), ..Pretended::default() });
    let mut guest = Guest::before(config(""), host.clone());
    let id = udp(&mut guest, "10.0.2.3:53");
    send(&mut guest, id, b"question");
    guest.until("the host was asked", |_| (!host.asked.lock().unwrap().sent.is_empty()).then_some(()));
    {
        let mut asked = host.asked.lock().unwrap();
        assert_eq!(asked.datagrams, resolvers[..1], "even on the host's loopback");
        let token = asked.tokens[0];
        asked.arriving.entry(token).or_default().push_back(Err(Errno::ECONNREFUSED));
        asked.ready.push((token, SocketReady::READ | SocketReady::HANGUP));
    }
    assert_eq!(receive(&mut guest, id), Err(Errno::ECONNREFUSED));
    let id = udp(&mut guest, "10.0.2.3:53");
    send(&mut guest, id, b"question");
    guest.until("the host was asked", |_| (host.asked.lock().unwrap().sent.len() == 2).then_some(()));
    assert_eq!(host.asked.lock().unwrap().datagrams, resolvers);
    // Nothing but names is behind that address, and TCP is for long answers.
    let id = guest.connect("10.0.2.3:80".parse().unwrap());
    assert_eq!(guest.connected(id), Err(Errno::ECONNREFUSED));
    let id = guest.connect("[fd75:6d6c:6175::3]:53".parse().unwrap());
    guest.connected(id).unwrap();
    assert_eq!(host.asked.lock().unwrap().streams, resolvers[1..]);
}

#[test]
fn a_stack_configures_itself_from_router_advertisements() {
    let mut guest = Guest::bare(config(""), Arc::new(Pretended::default()));
    let address = guest.until("an address", |guest| {
        let interface = guest.stack.interfaces.get(guest.eth0)?;
        interface
            .addresses
            .iter()
            .map(|address| address.prefix.address)
            .find(|address| matches!(address, IpAddr::V6(address) if address.segments()[..4] == [0xfd75, 0x6d6c, 0x6175, 0]))
    });
    assert_eq!(address, "fd75:6d6c:6175:0:5054:ff:fe12:3456".parse::<IpAddr>().unwrap());
    let id = guest.stack.udp_open(Family::V6);
    guest.until("a route", |guest| guest.stack.datagram_send(id, b"x", Some(endpoint("[2001:db8::1]:9")), SendCall::default()).ok());
}

/// A UDP datagram in a frame, as a station without an address sends it.
fn dhcp_frame(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 42];
    EthernetHeader { dst: MacAddress::BROADCAST, src: MAC, ethertype: 0x0800 }.emit(&mut frame);
    let header = Ipv4Header { src: Ipv4Addr::UNSPECIFIED, ..ipv4(Ipv4Addr::BROADCAST, 17, (28 + message.len()) as u16) };
    header.emit(&mut frame[14..]);
    UdpHeader { src_port: 68, dst_port: 67, len: (8 + message.len()) as u16, checksum: 0 }.emit(&mut frame[34..]);
    frame.extend_from_slice(message);
    frame
}

fn dhcp_message(kind: u8, mac: MacAddress, options: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 240];
    message[..4].copy_from_slice(&[1, 1, 6, 0]);
    message[4..8].copy_from_slice(&[1, 2, 3, 4]);
    message[28..34].copy_from_slice(&mac.0);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend_from_slice(&[53, 1, kind]);
    message.extend_from_slice(options);
    message.push(255);
    message
}

type Options4 = Vec<(u8, Vec<u8>)>;

/// The answer's kind, address, and options.
fn dhcp(guest: &mut Guest, message: &[u8]) -> Option<(u8, Ipv4Addr, Options4)> {
    guest.inject(&dhcp_frame(message));
    let answer = guest.frames().pop()?;
    let bytes = answer.bytes();
    let address = Ipv4Addr::new(bytes[58], bytes[59], bytes[60], bytes[61]);
    let mut options = Vec::new();
    let mut rest = &bytes[42 + 240..];
    while rest[0] != 255 {
        let len = usize::from(rest[1]);
        options.push((rest[0], rest[2..2 + len].to_vec()));
        rest = &rest[2 + len..];
    }
    let kind = options.iter().find(|(code, _)| *code == 53).unwrap().1[0];
    Some((kind, address, options))
}

#[test]
fn dhcp_leases_addresses_and_tells_the_rest() {
    let mut network = config("mtu=9000");
    network.search = vec!["a.example".into(), "b..bad".into()];
    network.hostname = Some("guest".into());
    let mut guest = Guest::bare(network, Arc::new(Pretended::default()));
    let (kind, address, options) = dhcp(&mut guest, &dhcp_message(1, MAC, &[])).unwrap();
    assert_eq!((kind, address), (2, Ipv4Addr::new(10, 0, 2, 15)));
    for wanted in [
        (1, vec![255, 255, 255, 0]),
        (3, vec![10, 0, 2, 2]),
        (6, vec![10, 0, 2, 3]),
        (26, vec![0x23, 0x28]),
        (12, b"guest".to_vec()),
        (119, b"\x01a\x07example\0".to_vec()),
    ] {
        assert!(options.contains(&wanted), "{wanted:?} in {options:?}");
    }
    let request = |address: [u8; 4]| [&[50, 4][..], &address, &[54, 4, 10, 0, 2, 2]].concat();
    let (kind, address, _) = dhcp(&mut guest, &dhcp_message(3, MAC, &request([10, 0, 2, 15]))).unwrap();
    assert_eq!((kind, address), (5, Ipv4Addr::new(10, 0, 2, 15)));
    let (kind, _, _) = dhcp(&mut guest, &dhcp_message(3, MAC, &request([10, 0, 2, 99]))).unwrap();
    assert_eq!(kind, 6, "an address that it does not have");
    let another = MacAddress([2, 0, 0, 0, 0, 9]);
    let (_, address, _) = dhcp(&mut guest, &dhcp_message(1, another, &[])).unwrap();
    assert_eq!(address, Ipv4Addr::new(10, 0, 2, 16));
    assert!(dhcp(&mut guest, &dhcp_message(3, MAC, &[54, 4, 10, 0, 2, 77])).is_none(), "another server's");
    for n in 0..100 {
        dhcp(&mut guest, &dhcp_message(1, MacAddress([2, 0, 0, 0, 1, n]), &[]));
    }
    assert!(dhcp(&mut guest, &dhcp_message(1, MacAddress([2, 0, 0, 0, 2, 1]), &[])).is_none(), "there are no more leases");
}

#[test]
fn dhcpv6_leases_an_address() {
    let mut guest = Guest::bare(config(""), Arc::new(Pretended::default()));
    let src: Ipv6Addr = "fe80::5054:ff:fe12:3456".parse().unwrap();
    let dst: Ipv6Addr = "ff02::1:2".parse().unwrap();
    let mut ask = |kind: u8, options: &[u8]| {
        let mut datagram = vec![0; 8];
        datagram.extend_from_slice(&[kind, 9, 9, 9, 0, 1, 0, 4, 0, 3, 0, 1]);
        datagram.extend_from_slice(options);
        UdpHeader { src_port: 546, dst_port: 547, len: datagram.len() as u16, checksum: 0 }.emit(&mut datagram);
        let check = wire::udp::checksum(src.into(), dst.into(), &datagram);
        datagram[6..8].copy_from_slice(&check.to_be_bytes());
        let mut frame = vec![0; 54];
        EthernetHeader { dst: MacAddress::from_ipv6_group(dst), src: MAC, ethertype: 0x86dd }.emit(&mut frame);
        Ipv6Header { traffic_class: 0, flow_label: 0, payload_len: datagram.len() as u16, next_header: 17, hop_limit: 1, src, dst }
            .emit(&mut frame[14..]);
        frame.extend_from_slice(&datagram);
        guest.inject(&frame);
        guest.frames().pop().map(|frame| frame.bytes()[62..].to_vec())
    };
    let association = [0, 3, 0, 12, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0];
    let lease: Ipv6Addr = "fd75:6d6c:6175::15".parse().unwrap();
    let advertise = ask(1, &association).unwrap();
    assert_eq!(advertise[..4], [2, 9, 9, 9]);
    assert!(advertise.windows(16).any(|window| window == lease.octets()));
    let reply = ask(3, &association).unwrap();
    assert_eq!(reply[0], 7);
    assert!(reply.windows(16).any(|window| window == lease.octets()));
    assert!(ask(3, &[0, 2, 0, 4, 0, 3, 0, 1]).is_none(), "another server's");
}

#[test]
fn flows_that_nobody_uses_are_forgotten() {
    let host = Arc::new(Pretended::default());
    let mut engine = Engine::new(config(""), host.clone(), [1, 1]);
    let mut datagram = vec![0; 42];
    EthernetHeader { dst: engine.config().gateway_mac, src: MAC, ethertype: 0x0800 }.emit(&mut datagram);
    ipv4(Ipv4Addr::new(198, 51, 100, 7), 17, 28).emit(&mut datagram[14..]);
    UdpHeader { src_port: 1000, dst_port: 2000, len: 8, checksum: 0 }.emit(&mut datagram[34..]);
    const SECOND: u64 = 1_000_000_000;
    engine.set_now(SECOND);
    engine.input(Packet::copy_of(&datagram));
    assert_eq!(engine.serve(SECOND), Some(31 * SECOND));
    assert_eq!(engine.flows(), (0, 1));
    engine.set_now(20 * SECOND);
    engine.input(Packet::copy_of(&datagram));
    engine.serve(31 * SECOND);
    assert_eq!(engine.flows(), (0, 1), "it was used again");
    engine.serve(51 * SECOND);
    assert_eq!(engine.flows(), (0, 0));
    assert_eq!(host.asked.lock().unwrap().datagrams.len(), 1);
}
