//! Whatever a guest sends: no panic, no growth without bound, and no address given to the host that the policy refuses.

mod common;

use common::{Guest, MAC, Pretended, config};
use net::packet::Packet;
use net::wire::checksum::Sum;
use net::wire::ethernet::EthernetHeader;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use usernet::Engine;
use usernet::policy::is_refused;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

const OWN: [&str; 2] = ["203.0.113.5", "2001:db8:5::5"];

const V4: [[u8; 4]; 14] = [
    [127, 0, 0, 1],
    [0, 0, 0, 0],
    [10, 0, 2, 2],
    [10, 0, 2, 3],
    [10, 0, 2, 15],
    [10, 0, 2, 255],
    [169, 254, 169, 254],
    [224, 0, 0, 251],
    [255, 255, 255, 255],
    [203, 0, 113, 5],
    [198, 51, 100, 1],
    [8, 8, 8, 8],
    [240, 1, 1, 1],
    [127, 255, 255, 255],
];

const V6: [&str; 14] = [
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:203.0.113.5",
    "::127.0.0.1",
    "fe80::2",
    "fe80::1",
    "ff02::1",
    "ff02::1:2",
    "fd75:6d6c:6175::2",
    "fd75:6d6c:6175::3",
    "2001:db8:5::5",
    "2001:db8::1",
    "64:ff9b::7f00:1",
];

/// A frame that looks like traffic: right checksums mostly, wrong everything else.
fn frame(random: &mut Random, gateway: net::MacAddress) -> Vec<u8> {
    let v6 = random.below(2) == 1;
    let len = random.pick(&[0, 1, 8, 20, 24, 40, 100, 1000]);
    let mut payload: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
    let protocol = random.pick(&[6u8, 6, 6, 17, 17, 17, 1, 58, 44, 0, 60]);
    let port = random.pick(&[0u16, 53, 67, 68, 80, 546, 547, 1024]);
    if let Some(ports) = payload.get_mut(..4) {
        ports[..2].copy_from_slice(&random.pick(&[1000u16, 1001, 68, 546]).to_be_bytes());
        ports[2..].copy_from_slice(&port.to_be_bytes());
    }
    if protocol == 6 && payload.len() >= 20 {
        payload[12] = random.pick(&[0x50, 0x50, 0x60, 0xf0, 0x00]);
        payload[13] = random.pick(&[2, 2, 0x10, 0x11, 0x14, 0x04, 0x12, 0x18]);
    }
    if protocol == 17 && payload.len() >= 8 {
        let len = if random.below(8) == 0 { random.next() as u16 } else { payload.len() as u16 };
        payload[4..6].copy_from_slice(&len.to_be_bytes());
        payload[6..8].copy_from_slice(&[0, 0]);
    }
    if matches!(protocol, 1 | 58) && payload.len() >= 8 {
        payload[0] = random.pick(&[8, 128, 133, 135, 3, 0, 130]);
    }
    let check_at = match protocol {
        6 => Some(16),
        17 => Some(6),
        1 | 58 => Some(2),
        _ => None,
    };
    let (src, dst): (IpAddr, IpAddr) = if v6 {
        let src: Ipv6Addr = random.pick(&["fd75:6d6c:6175::15", "fe80::9", "::1", "2001:db8::9"]).parse().unwrap();
        (src.into(), random.pick(&V6).parse::<Ipv6Addr>().unwrap().into())
    } else {
        let src = Ipv4Addr::from(random.pick(&[[10, 0, 2, 15], [10, 0, 2, 15], [127, 0, 0, 1], [0, 0, 0, 0], [10, 0, 2, 2]]));
        (src.into(), Ipv4Addr::from(random.pick(&V4)).into())
    };
    if let Some(at) = check_at
        && payload.len() >= at + 2
    {
        payload[at..at + 2].copy_from_slice(&[0, 0]);
        let sum = if protocol == 1 { Sum::new() } else { Sum::pseudo(src, dst, protocol, payload.len()) };
        let check = sum.with(&payload).finish();
        payload[at..at + 2].copy_from_slice(&check.to_be_bytes());
    }
    let mut frame = vec![0; 14];
    EthernetHeader { dst: gateway, src: MAC, ethertype: if v6 { 0x86dd } else { 0x0800 } }.emit(&mut frame);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut header = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            header[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
            header[12..16].copy_from_slice(&src.octets());
            header[16..].copy_from_slice(&dst.octets());
            let check = net::wire::checksum::checksum(&header);
            header[10..12].copy_from_slice(&check.to_be_bytes());
            frame.extend_from_slice(&header);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            frame.extend_from_slice(&[0x60, 0, 0, 0]);
            frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
            frame.extend_from_slice(&[protocol, 255]);
            frame.extend_from_slice(&src.octets());
            frame.extend_from_slice(&dst.octets());
        }
        _ => unreachable!(),
    }
    frame.extend_from_slice(&payload);
    // One in four is damaged.
    if random.below(4) == 0 {
        let at = random.below(frame.len());
        frame[at] = random.next() as u8;
        frame.truncate(frame.len() - random.below(frame.len().min(9)));
    }
    frame
}

#[test]
fn nothing_that_is_refused_is_ever_asked_of_the_host() {
    let scale = match std::env::var("UMLAUT_SCALE").as_deref() {
        Ok("full") => 100,
        Ok(n) => n.parse().unwrap_or(1),
        Err(_) => 1,
    };
    let own = OWN.map(|text| text.parse().unwrap()).to_vec();
    let mut reached = [0; 3];
    for seed in 0..20 * scale {
        let resolver = "192.0.2.53:53".parse().unwrap();
        let host = Arc::new(Pretended { own: own.clone(), resolvers: vec![resolver], ..Pretended::default() });
        let mut network = config("allow=127.0.0.1:80,allow=203.0.113.5:1024");
        network.flows_max = 50;
        let gateway = network.gateway_mac;
        let mut engine = Engine::new(network, host.clone(), [seed, 2]);
        let mut random = Random(seed);
        let mut now = 1;
        for _ in 0..2000 {
            let mut packet = Packet::copy_of(&frame(&mut random, gateway));
            if random.below(10) == 0 {
                packet.checksum = net::packet::Checksum::Verified;
            }
            engine.input(packet);
            now += random.next() % 3_000_000_000;
            engine.serve(now);
            while engine.output().is_some() {}
            let (streams, others) = engine.flows();
            assert!(streams + others <= 50);
        }
        let asked = host.asked.lock().unwrap();
        for to in asked.streams.iter().chain(&asked.datagrams) {
            let excepted = ["127.0.0.1:80", "203.0.113.5:1024", "192.0.2.53:53"].contains(&to.to_string().as_str());
            assert!(excepted || !is_refused(to.ip()) && !own.contains(&to.ip()), "seed {seed}: the host was asked for {to}");
            assert!(excepted || !to.ip().to_string().starts_with("10.0.2."), "seed {seed}: {to} is the guest's own network");
        }
        for to in &asked.echoes {
            let excepted = to.to_string() == "203.0.113.5" || to.to_string() == "127.0.0.1";
            assert!(excepted || !is_refused(*to) && !own.contains(to), "seed {seed}: the host was to ping {to}");
        }
        reached = [reached[0] + asked.streams.len(), reached[1] + asked.datagrams.len(), reached[2] + asked.echoes.len()];
    }
    assert!(reached.iter().all(|count| *count > 0), "the test reaches what it tests: {reached:?}");
}

#[test]
fn a_guest_that_never_reads_holds_a_bounded_number_of_frames() {
    let host = Arc::new(Pretended::default());
    let mut guest = Guest::before(config(""), host.clone());
    let id = guest.stack.udp_open(net::prefix::Family::V4);
    let to = net::datagram::Endpoint::new([198, 51, 100, 1].into(), 9);
    guest.stack.datagram_send(id, b"x", Some(to), Default::default()).unwrap();
    let token = guest.until("the host was asked", |_| host.asked.lock().unwrap().tokens.first().copied());
    {
        let mut asked = host.asked.lock().unwrap();
        asked.arriving.entry(token).or_default().extend((0..10_000).map(|_| Ok(vec![0; 1400])));
        asked.ready.push((token, platform::SocketReady::READ));
    }
    let mut now = 10_000_000_000;
    for _ in 0..100 {
        now += 1;
        guest.engine.serve(now);
    }
    let held = std::iter::from_fn(|| guest.engine.output()).map(|frame| frame.len()).sum::<usize>();
    assert!((1 << 20..4 << 20).contains(&held), "{held}");
    guest.engine.serve(now + 1);
    assert!(guest.engine.output().is_some(), "what waited comes when there is room");
}
