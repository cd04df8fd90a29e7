//! The control protocol byte for byte, and forwarding as a table and against a model.

use std::collections::HashMap;

use switch::forwarding::{AGE_NS, Forwarding, MAX_ADDRESSES_OF_PORT, Mac, Mode, Verdict};
use switch::protocol::{Address, NewPort, RequestError, parse_request, request};

fn scaled(count: u64, full: u64) -> u64 {
    match std::env::var("UMLAUT_SCALE").as_deref() {
        Ok("full") => full,
        Ok(factor) => count * factor.parse::<u64>().unwrap_or(1),
        Err(_) => count,
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16
    }
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

#[test]
fn a_request_has_124_bytes_and_an_answer_110() {
    let address = Address::abstract_of(0x3d33, 0x10729);
    let bytes = request(&address);
    assert_eq!(bytes[..12], words(&[0xfeed_face, 3, 0]));
    assert_eq!(bytes[12..26], [&1u16.to_ne_bytes()[..], &[0, 0, 0, 0], &0x3d33u32.to_ne_bytes(), &0x10729u32.to_ne_bytes()].concat());
    assert_eq!(bytes.len(), 124);
    assert_eq!(parse_request(&bytes), Ok(NewPort { address, wants_answer: true }));
    assert_eq!(address.encode()[..], bytes[12..122]);
    assert_eq!(Address::parse(&address.encode()), Some(address));
}

#[test]
fn every_version_is_read_or_refused_with_the_line_of_the_reference() {
    let address = Address::from_abstract_name(b"client").unwrap();
    let old = |magic: &[u32]| [words(magic), vec![2, 0, 0, 0, 0, 1], address.encode().to_vec()].concat();
    assert_eq!(parse_request(&old(&[0])), Ok(NewPort { address, wants_answer: false }));
    assert_eq!(parse_request(&old(&[0xfeed_face, 0])), Ok(NewPort { address, wants_answer: true }));
    let refused: [(Vec<u8>, RequestError, &str); 7] = [
        (vec![], RequestError::Eof, "EOF from new port"),
        (words(&[0xfeed_face, 2, 0]), RequestError::Version2, "Version 2 is not supported"),
        (words(&[0xfeed_face, 9, 0]), RequestError::Unknown(9), "Request for a version 9 port, which this uml_switch doesn't support"),
        (words(&[0xfeed_face, 3, 7]), RequestError::Type(7), "Bad request type : 7"),
        (words(&[0xfeed_face, 1, 0]), RequestError::Type(1), "Bad request type : 1"),
        (b"\xff\xff\xff\xff".to_vec(), RequestError::Type(-1), "Bad request type : -1"),
        (words(&[0xfeed_face, 3, 0, 2]), RequestError::Address, "Bad request : its socket address is not a Unix one"),
    ];
    for (bytes, error, line) in refused {
        assert_eq!(parse_request(&bytes), Err(error));
        assert_eq!(error.to_string(), line);
    }
}

#[test]
fn addresses_are_abstract_names_or_paths() {
    let path = Address::from_path(b"/tmp/x").unwrap();
    assert_eq!((path.as_path(), path.as_abstract_name()), (Some(&b"/tmp/x"[..]), None));
    let name = Address::from_abstract_name(b"ab").unwrap();
    assert_eq!((name.as_path(), name.as_abstract_name().map(|name| (name.len(), &name[..3]))), (None, Some((107, &b"ab\0"[..]))));
    assert!(Address::from_path(&[b'x'; 108]).is_none() && Address::from_path(b"").is_none() && Address::from_path(b"a\0").is_none());
    assert!(Address::from_abstract_name(&[b'x'; 108]).is_none() && Address::from_abstract_name(&[b'x'; 107]).is_some());
}

fn frame(to: u8, from: u8) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 8, 0][..], b"data"].concat()
}

#[test]
fn frames_go_where_their_receiver_was_last_seen() {
    let mut table = Forwarding::new(Mode::Switch);
    let mut log = Vec::new();
    let mut broadcast = frame(0, 1);
    broadcast[..6].fill(0xff);
    let mut from_group = frame(1, 9);
    from_group[6] |= 1;
    let steps: [(u32, Vec<u8>, Verdict); 9] = [
        (5, broadcast, Verdict::Flood),
        (6, frame(1, 2), Verdict::To(5)),
        (7, frame(99, 3), Verdict::Flood),
        (7, frame(1, 2), Verdict::To(5)),
        (5, frame(2, 1), Verdict::To(7)),
        (7, frame(2, 3), Verdict::Drop),
        (8, from_group, Verdict::To(5)),
        (8, vec![0; 13], Verdict::Drop),
        (8, vec![], Verdict::Drop),
    ];
    for (port, frame, verdict) in steps {
        assert_eq!(table.decide(port, &frame, 0, &mut |event| log.push(event.to_string())), verdict, "{frame:?}");
    }
    assert_eq!(
        log,
        [
            " Addr: 02:00:00:00:00:01 New port 5",
            " Addr: 02:00:00:00:00:02 New port 6",
            " Addr: 02:00:00:00:00:03 New port 7",
            "unknown Addr: 02:00:00:00:00:63 from port 7",
            " Addr: 02:00:00:00:00:02 New port 7 old port 6",
        ]
    );
}

#[test]
fn addresses_age_and_leave_with_their_port_and_a_hub_knows_none() {
    let mut table = Forwarding::new(Mode::Switch);
    let quiet = &mut |_| {};
    table.decide(1, &frame(9, 1), 0, quiet);
    table.decide(2, &frame(9, 2), AGE_NS, quiet);
    table.age(AGE_NS);
    assert_eq!(table.len(), 2);
    table.age(AGE_NS + 1);
    assert_eq!(table.len(), 1);
    assert_eq!(table.decide(2, &frame(1, 2), AGE_NS + 2, quiet), Verdict::Flood);
    table.remove_port(2);
    assert!(table.is_empty());
    let mut hub = Forwarding::new(Mode::Hub);
    assert_eq!(hub.decide(1, &frame(2, 1), 0, quiet), Verdict::Flood);
    assert!(hub.is_empty());
}

#[test]
fn a_port_that_sends_from_every_address_fills_only_its_own_share() {
    let mut table = Forwarding::new(Mode::Switch);
    for number in 0..2 * MAX_ADDRESSES_OF_PORT as u64 {
        let mut frame = frame(1, 0);
        frame[8..12].copy_from_slice(&(number as u32).to_be_bytes());
        table.decide(1, &frame, 0, &mut |_| {});
    }
    table.decide(2, &[&[0u8; 6][..], &[6; 6], &[8, 0]].concat(), 0, &mut |_| {});
    assert_eq!(table.len(), MAX_ADDRESSES_OF_PORT + 1);
    table.remove_port(1);
    assert_eq!(table.len(), 1);
}

#[test]
fn random_traffic_agrees_with_a_model_and_random_requests_never_panic() {
    let mut random = Random(3);
    let mut table = Forwarding::new(Mode::Switch);
    let mut model: HashMap<Mac, (u32, u64)> = HashMap::new();
    let mut now_ns = 0;
    for _ in 0..scaled(20_000, 2_000_000) {
        now_ns += random.next() % (AGE_NS / 20);
        let port = (random.next() % 5) as u32;
        match random.next() % 40 {
            0 => {
                table.remove_port(port);
                model.retain(|_, known| known.0 != port);
            }
            1 => {
                table.age(now_ns);
                model.retain(|_, known| now_ns - known.1 <= AGE_NS);
            }
            _ => {
                let frame = frame((random.next() % 8) as u8, (random.next() % 8) as u8);
                let (to, from) = (Mac(*frame.first_chunk().unwrap()), Mac(*frame[6..].first_chunk().unwrap()));
                model.insert(from, (port, now_ns));
                let expected = match model.get(&to) {
                    None => Verdict::Flood,
                    Some((there, _)) if *there == port => Verdict::Drop,
                    Some((there, _)) => Verdict::To(*there),
                };
                assert_eq!(table.decide(port, &frame, now_ns, &mut |_| {}), expected);
            }
        }
        assert_eq!(table.len(), model.len());
        let mut bytes = words(&[
            if random.next().is_multiple_of(4) { 0 } else { 0xfeed_face },
            (random.next() % 5) as u32,
            (random.next() % 2) as u32,
            1,
        ]);
        bytes.extend((0..random.next() % 130).map(|_| random.next() as u8));
        bytes.truncate(random.next() as usize % 150);
        if let Ok(port) = parse_request(&bytes) {
            assert!(port.address.as_path().is_some() != port.address.as_abstract_name().is_some());
        }
    }
}
