//! TCP's rules one at a time: a script plays the peer, segment by segment, in the notation of packetdrill.
//!
//! `send!` gives the stack segments, `recv!` names all that it must have sent since. Numbers are relative to the two initial sequence numbers:
//! `P. 1:1001(1000) ack 1` is data 1 to 1000 with PSH; `<...>` holds options: `mss`, `sackOK`, `wscale`, `ts value echo`, `sack a:b`, `urg`.

mod common;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use abi::Errno;
use common::{MS, SEC};
use net::config::Config;
use net::datagram::Endpoint;
use net::link::{Capabilities, Link, TransmitError};
use net::prefix::Family;
use net::tcp::seq::Seq;
use net::tcp::{ReceiveCall, SendCall, State};
use net::wire::checksum::Sum;
use net::wire::ipv4::{Ipv4Header, Options};
use net::wire::tcp::{Flags, TcpHeader};
use net::{MacAddress, Packet, SocketId, Stack};

const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// The peer's initial sequence number: data wraps around zero early.
const PEER_ISS: Seq = Seq(u32::MAX - 1500);

#[derive(Default)]
struct Queues {
    to_stack: VecDeque<Packet>,
    from_stack: VecDeque<Packet>,
}

/// A bare IP link whose other end is the script.
struct Bench(Arc<Mutex<Queues>>);

impl Link for Bench {
    fn capabilities(&self) -> Capabilities {
        Capabilities::IP
    }
    fn mac(&self) -> MacAddress {
        MacAddress::ZERO
    }
    fn default_mtu(&self) -> u32 {
        1040
    }
    fn transmit(&mut self, packet: Packet) -> Result<(), TransmitError> {
        self.0.lock().unwrap().from_stack.push_back(packet);
        Ok(())
    }
    fn receive(&mut self) -> Option<Packet> {
        self.0.lock().unwrap().to_stack.pop_front()
    }
    fn driver(&self) -> &'static str {
        "bench"
    }
}

struct Script {
    stack: Stack,
    queues: Arc<Mutex<Queues>>,
    now: u64,
    our_iss: Option<Seq>,
    our_port: u16,
    peer_port: u16,
    socket: SocketId,
}

fn script(configure: impl FnOnce(&mut Config)) -> Script {
    let mut config = Config::default();
    configure(&mut config);
    let mut stack = Stack::new(config, [1, 2]);
    let queues = Arc::new(Mutex::new(Queues::default()));
    stack.set_now(SEC);
    stack.attach("tun0", Box::new(Bench(queues.clone())), &["10.0.0.1/24".parse().unwrap()]).unwrap();
    let socket = stack.tcp_open(Family::V4);
    let mut script = Script { stack, queues, now: SEC, our_iss: None, our_port: 80, peer_port: 5000, socket };
    script.run(0);
    script.taken();
    script
}

/// A listener that has been connected to; data may flow. Options are those of the peer's SYN.
fn accepted(options: &str, configure: impl FnOnce(&mut Config)) -> Script {
    let mut t = script(configure);
    let listener = t.socket;
    t.stack.tcp_bind(listener, Endpoint::new(US.into(), 80)).unwrap();
    t.stack.tcp_listen(listener, 5).unwrap();
    t.give(&format!("S 0:0(0) win 30000 {options}"));
    t.run(0);
    t.taken();
    t.run(20 * MS);
    t.give(if options.contains("ts") { ". 1:1(0) ack 1 win 30000 <ts 100 0>" } else { ". 1:1(0) ack 1 win 30000" });
    t.run(0);
    assert!(t.taken().is_empty());
    t.socket = t.stack.tcp_accept(listener).unwrap();
    t
}

/// The usual peer: segments of 1000 bytes, SACK, no timestamps.
fn established() -> Script {
    accepted("<mss 1000,sackOK>", |_| {})
}

impl Script {
    fn run(&mut self, ns: u64) {
        let end = self.now + ns;
        loop {
            match self.stack.poll(self.now) {
                Some(at) if at <= end => self.now = at.max(self.now + 1),
                _ => break,
            }
        }
        self.now = end;
        self.stack.poll(self.now);
    }

    /// The stack's next segments, in notation.
    fn taken(&mut self) -> Vec<String> {
        let packets: Vec<Packet> = self.queues.lock().unwrap().from_stack.drain(..).collect();
        packets.iter().filter_map(|packet| self.describe(packet.bytes())).collect()
    }

    fn describe(&mut self, bytes: &[u8]) -> Option<String> {
        let ip = Ipv4Header::parse(bytes).ok().filter(|ip| ip.protocol == 6)?;
        let segment = &bytes[ip.header_len()..];
        assert!(Sum::pseudo(ip.src.into(), ip.dst.into(), 6, segment.len()).with(segment).is_valid(), "checksum");
        let (header, data_at) = TcpHeader::parse(segment).unwrap();
        let len = segment.len() - data_at;
        if header.flags.has(Flags::SYN) {
            self.our_iss = Some(header.seq);
            self.our_port = header.src_port;
        }
        let iss = self.our_iss.unwrap_or(header.seq);
        let seq = header.seq.0.wrapping_sub(iss.0);
        let mut text = format!("{:?} {seq}:{}({len})", header.flags, seq.wrapping_add(len as u32));
        if header.flags.has(Flags::ACK) {
            text += &format!(" ack {}", header.ack.0.wrapping_sub(PEER_ISS.0));
        }
        if header.flags.has(Flags::URG) {
            text += &format!(" urg {}", header.urgent);
        }
        if !header.options.sack.as_slice().is_empty() {
            let blocks: Vec<String> = header
                .options
                .sack
                .as_slice()
                .iter()
                .map(|(left, right)| format!("{}:{}", left.0.wrapping_sub(PEER_ISS.0), right.0.wrapping_sub(PEER_ISS.0)))
                .collect();
            text += &format!(" <sack {}>", blocks.join(" "));
        }
        Some(text)
    }

    /// Gives the stack a segment in notation.
    fn give(&mut self, text: &str) {
        let (plain, options) = text.split_once(" <").map_or((text, ""), |(plain, options)| (plain, options.trim_end_matches('>')));
        let words: Vec<&str> = plain.split_whitespace().collect();
        let iss = self.our_iss.unwrap_or(Seq(0));
        let number = |key: &str| words.iter().position(|word| *word == key).map(|at| words[at + 1].parse::<u32>().unwrap());
        let flags = words[0].chars().fold(Flags::default(), |flags, letter| {
            flags.with(match letter {
                'F' => Flags::FIN,
                'S' => Flags::SYN,
                'R' => Flags::RST,
                'P' => Flags::PSH,
                '.' => Flags::ACK,
                _ => Flags::URG,
            })
        });
        let (seq, rest) = words[1].split_once(':').unwrap();
        let len: usize = rest.split_once('(').unwrap().1.trim_end_matches(')').parse().unwrap();
        let seq: i64 = seq.parse().unwrap();
        let mut header = TcpHeader {
            src_port: self.peer_port,
            dst_port: self.our_port,
            seq: PEER_ISS + seq as u32,
            ack: number("ack").map_or(Seq(0), |ack| iss + ack),
            flags,
            window: number("win").unwrap_or(30_000) as u16,
            urgent: number("urg").unwrap_or(0) as u16,
            ..TcpHeader::default()
        };
        for option in options.split(',') {
            let words: Vec<&str> = option.split_whitespace().collect();
            match words.first().copied() {
                Some("mss") => header.options.mss = words[1].parse().ok(),
                Some("sackOK") => header.options.sack_permitted = true,
                Some("wscale") => header.options.window_scale = words[1].parse().ok(),
                Some("ts") => header.options.timestamps = Some((words[1].parse().unwrap(), words[2].parse().unwrap())),
                Some("sack") => {
                    for block in &words[1..] {
                        let (left, right) = block.split_once(':').unwrap();
                        header.options.sack.push(iss + left.parse::<u32>().unwrap(), iss + right.parse::<u32>().unwrap());
                    }
                }
                _ => {}
            }
        }
        let mut packet = Packet::zeroed(header.header_len());
        header.emit(packet.bytes_mut());
        let data: Vec<u8> = (0..len).map(|n| (seq + n as i64) as u8).collect();
        packet.extend(&data);
        let check = Sum::pseudo(PEER.into(), US.into(), 6, packet.len()).with(packet.bytes()).finish();
        packet.bytes_mut()[16..18].copy_from_slice(&check.to_be_bytes());
        let ip = Ipv4Header {
            tos: 0,
            total_len: (packet.len() + 20) as u16,
            ident: 1,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 64,
            protocol: 6,
            src: PEER,
            dst: US,
            options: Options::NONE,
        };
        ip.emit(packet.push(20));
        self.queues.lock().unwrap().to_stack.push_back(packet);
    }

    fn write(&mut self, len: usize) {
        let data = vec![b'x'; len];
        assert_eq!(self.stack.tcp_send(self.socket, &data, SendCall::default()), Ok(len));
        self.run(0);
    }

    fn read(&mut self, len: usize) -> Result<usize, Errno> {
        let mut buffer = vec![0; len];
        let result = self.stack.tcp_receive(self.socket, &mut buffer, ReceiveCall::default());
        self.run(0);
        result
    }

    fn state(&self) -> Option<State> {
        self.stack.tcp(self.socket).map(|socket| socket.state())
    }

    fn error(&mut self) -> Option<Errno> {
        self.stack.tcp_mut(self.socket)?.take_error()
    }
}

macro_rules! send {
    ($t:expr, $($segment:expr),+) => {{
        $($t.give($segment);)+
        $t.run(0);
    }};
}

macro_rules! recv {
    ($t:expr $(, $segment:expr)*) => {{
        let expected: Vec<&str> = vec![$($segment),*];
        assert_eq!($t.taken(), expected, "at {} ms", $t.now / MS);
    }};
}

#[test]
fn a_listener_answers_a_syn_and_asks_again_until_it_gives_up() {
    let mut t = script(|config| config.tcp.synack_retries = 2);
    t.stack.tcp_bind(t.socket, Endpoint::new(US.into(), 80)).unwrap();
    t.stack.tcp_listen(t.socket, 5).unwrap();
    send!(t, "S 0:0(0) win 1000 <mss 1000,sackOK>");
    recv!(t, "S. 0:0(0) ack 1");
    t.run(SEC);
    recv!(t, "S. 0:0(0) ack 1");
    t.run(SEC);
    recv!(t);
    t.run(SEC);
    recv!(t, "S. 0:0(0) ack 1");
    t.run(60 * SEC);
    recv!(t);
    send!(t, ". 1:1(0) ack 1");
    recv!(t, "R 1:1(0)");
}

#[test]
fn a_connection_is_opened_and_refused() {
    let mut t = script(|_| {});
    t.peer_port = 80;
    assert_eq!(t.stack.tcp_connect(t.socket, Endpoint::new(PEER.into(), 80)), Err(Errno::EINPROGRESS));
    recv!(t, "S 0:0(0)");
    t.run(SEC);
    recv!(t, "S 0:0(0)");
    t.run(2 * SEC);
    recv!(t, "S 0:0(0)");
    send!(t, "S. 0:0(0) ack 2");
    recv!(t, "R 2:2(0)");
    send!(t, "S. 0:0(0) ack 1 <mss 1000>");
    recv!(t, ". 1:1(0) ack 1");
    assert_eq!(t.state(), Some(State::Established));

    let mut t = script(|_| {});
    t.peer_port = 80;
    assert_eq!(t.stack.tcp_connect(t.socket, Endpoint::new(PEER.into(), 80)), Err(Errno::EINPROGRESS));
    recv!(t, "S 0:0(0)");
    send!(t, "R. 0:0(0) ack 1");
    assert_eq!(t.error(), Some(Errno::ECONNREFUSED));
}

#[test]
fn a_segment_to_nobody_is_reset() {
    let mut t = script(|_| {});
    send!(t, "S 0:0(0)");
    recv!(t, "R. 0:0(0) ack 1");
    t.our_iss = Some(Seq(0));
    send!(t, "P. 5:15(10) ack 77");
    recv!(t, "R 77:77(0)");
    send!(t, "R 5:5(0)");
    recv!(t);
}

#[test]
fn segments_are_full_and_the_last_is_pushed() {
    let mut t = established();
    t.write(2500);
    // The rest is small, but nothing small is out, so Minshall lets it go.
    recv!(t, ". 1:1001(1000) ack 1", ". 1001:2001(1000) ack 1", "P. 2001:2501(500) ack 1");
    let mut t = established();
    t.write(100);
    t.write(100);
    t.write(100);
    recv!(t, "P. 1:101(100) ack 1");
    send!(t, ". 1:1(0) ack 101");
    recv!(t, "P. 101:301(200) ack 1");
    t.stack.tcp_mut(t.socket).unwrap().options.no_delay = true;
    t.write(10);
    t.write(10);
    recv!(t, "P. 301:311(10) ack 1", "P. 311:321(10) ack 1");
}

#[test]
fn a_cork_holds_a_partial_segment_for_200_ms() {
    let mut t = established();
    t.stack.tcp_mut(t.socket).unwrap().options.cork = true;
    t.write(100);
    t.run(150 * MS);
    recv!(t);
    t.run(60 * MS);
    recv!(t, "P. 1:101(100) ack 1");
    t.write(1100);
    recv!(t, ". 101:1101(1000) ack 1");
    t.stack.tcp_mut(t.socket).unwrap().options.cork = false;
    t.stack.tcp_push(t.socket);
    recv!(t, "P. 1101:1201(100) ack 1");
}

#[test]
fn nothing_is_sent_beyond_the_peers_window() {
    let mut t = established();
    send!(t, "P. 1:2(1) ack 1", ". 2:2(0) ack 1 win 2500");
    t.taken();
    t.write(10_000);
    recv!(t, ". 1:1001(1000) ack 2", ". 1001:2001(1000) ack 2");
    send!(t, ". 2:2(0) ack 2001 win 2500");
    recv!(t, ". 2001:3001(1000) ack 2", ". 3001:4001(1000) ack 2");
}

#[test]
fn sacked_data_makes_a_hole_lost_at_once() {
    let mut t = established();
    t.run(100 * MS);
    t.write(5000);
    recv!(
        t,
        ". 1:1001(1000) ack 1",
        ". 1001:2001(1000) ack 1",
        ". 2001:3001(1000) ack 1",
        ". 3001:4001(1000) ack 1",
        "P. 4001:5001(1000) ack 1"
    );
    t.run(10 * MS);
    send!(t, ". 1:1(0) ack 1 <sack 1001:2001>", ". 1:1(0) ack 1 <sack 1001:3001>");
    recv!(t);
    send!(t, ". 1:1(0) ack 1 <sack 1001:4001>");
    recv!(t, ". 1:1001(1000) ack 1");
    send!(t, ". 1:1(0) ack 4001");
    recv!(t);
    assert_eq!(t.stack.statistics.tcp.sack_recovery, 1);
    assert_eq!(t.stack.statistics.tcp.retransmitted, 1);
}

#[test]
fn without_sack_three_duplicates_resend_the_first_and_a_partial_acknowledgement_the_next() {
    let mut t = accepted("<mss 1000>", |_| {});
    t.write(6000);
    t.taken();
    t.run(10 * MS);
    send!(t, ". 1:1(0) ack 1", ". 1:1(0) ack 1");
    recv!(t);
    send!(t, ". 1:1(0) ack 1");
    recv!(t, ". 1:1001(1000) ack 1");
    send!(t, ". 1:1(0) ack 3001");
    recv!(t, ". 3001:4001(1000) ack 1");
    send!(t, ". 1:1(0) ack 6001");
    recv!(t);
    assert_eq!(t.stack.statistics.tcp.timeouts, 0);
}

#[test]
fn a_lost_tail_is_probed_before_the_timeout() {
    let mut t = established();
    t.run(20 * MS);
    t.write(3000);
    t.taken();
    t.run(20 * MS);
    send!(t, ". 1:1(0) ack 1001");
    t.run(30 * MS);
    recv!(t);
    t.run(40 * MS);
    recv!(t, "P. 2001:3001(1000) ack 1");
    assert_eq!(t.stack.statistics.tcp.loss_probes, 1);
    // The probe is sacked: what was before it is lost.
    t.run(20 * MS);
    send!(t, ". 1:1(0) ack 1001 <sack 2001:3001>");
    t.run(30 * MS);
    recv!(t, ". 1001:2001(1000) ack 1");
    assert_eq!(t.stack.statistics.tcp.timeouts, 0);
}

#[test]
fn timeouts_double() {
    let mut t = accepted("<mss 1000>", |_| {});
    t.write(100);
    recv!(t, "P. 1:101(100) ack 1");
    let mut times = Vec::new();
    for _ in 0..4000 {
        t.run(MS);
        if !t.taken().is_empty() {
            times.push((t.now - SEC) / MS);
        }
    }
    let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((200..=261).contains(&times[0]), "{times:?}");
    assert!(gaps.iter().zip([440, 880, 1760]).all(|(gap, wanted)| gap.abs_diff(wanted) <= 4), "{gaps:?}");
}

#[test]
fn a_timeout_that_was_a_mistake_is_taken_back_by_its_timestamp() {
    let mut t = accepted("<mss 1000,sackOK,ts 100 0>", |_| {});
    t.write(9000);
    let before = t.stack.tcp(t.socket).unwrap().info().window_segments;
    let first = t.taken();
    assert!(first.len() >= 9, "{first:?}");
    let sent_at = t.now;
    t.run(600 * MS);
    assert!(t.stack.statistics.tcp.timeouts >= 1);
    assert_eq!(t.stack.tcp(t.socket).unwrap().info().window_segments, 1);
    t.taken();
    // The original's acknowledgement at last: it echoes a stamp from before the retransmission.
    let echo = t.echo_of(sent_at);
    t.give(&format!(". 1:1(0) ack 989 <ts 200 {echo}>"));
    t.run(0);
    assert_eq!(t.stack.statistics.tcp.spurious_rtos, 1);
    assert!(t.stack.tcp(t.socket).unwrap().info().window_segments >= before);
}

impl Script {
    /// What the stack's timestamp was at `at`, told by a segment that it sends now.
    fn echo_of(&mut self, at: u64) -> u32 {
        self.stack.tcp_mut(self.socket).unwrap().options.no_delay = true;
        self.give(". 0:0(0) ack 1 <ts 150 0>");
        self.run(0);
        let packets: Vec<Packet> = self.queues.lock().unwrap().from_stack.drain(..).collect();
        let last = packets.last().expect("an answer to an old segment");
        let (header, _) = TcpHeader::parse(&last.bytes()[20..]).unwrap();
        let (value, _) = header.options.timestamps.unwrap();
        value.wrapping_sub(((self.now - at) / MS) as u32)
    }
}

#[test]
fn early_data_is_acknowledged_at_once_with_sack_and_repeated_data_with_a_duplicate_block() {
    let mut t = established();
    send!(t, "P. 1001:2001(1000) ack 1");
    recv!(t, ". 1:1(0) ack 1 <sack 1001:2001>");
    send!(t, "P. 3001:4001(1000) ack 1");
    recv!(t, ". 1:1(0) ack 1 <sack 3001:4001 1001:2001>");
    send!(t, "P. 1:1001(1000) ack 1");
    recv!(t, ". 1:1(0) ack 2001 <sack 3001:4001>");
    send!(t, "P. 1:1001(1000) ack 1");
    recv!(t, ". 1:1(0) ack 2001 <sack 1:1001 3001:4001>");
    send!(t, "P. 2001:3001(1000) ack 1");
    recv!(t, ". 1:1(0) ack 4001");
    assert_eq!(t.read(10_000), Ok(4000));
}

#[test]
fn every_second_segment_is_acknowledged_and_a_single_one_soon() {
    let mut t = established();
    t.stack.tcp_mut(t.socket).unwrap().options.quick_ack = false;
    send!(t, ". 1:1001(1000) ack 1");
    recv!(t);
    send!(t, "P. 1001:2001(1000) ack 1");
    recv!(t, ". 1:1(0) ack 2001");
    send!(t, "P. 2001:2101(100) ack 1");
    t.run(30 * MS);
    recv!(t);
    t.run(170 * MS);
    recv!(t, ". 1:1(0) ack 2101");
    // What is sent carries it.
    send!(t, "P. 2101:2201(100) ack 1");
    t.write(10);
    recv!(t, "P. 1:11(10) ack 2201");
}

#[test]
fn a_closed_window_is_probed_and_reopened() {
    let mut t = established();
    send!(t, ". 1:1(0) ack 1 win 0");
    t.write(100);
    recv!(t);
    t.run(1100 * MS);
    let probes = t.taken();
    assert!(!probes.is_empty() && probes.iter().all(|probe| probe == ". 0:0(0) ack 1"), "{probes:?}");
    send!(t, ". 1:1(0) ack 1 win 5000");
    recv!(t, "P. 1:101(100) ack 1");
}

#[test]
fn our_window_closes_when_nobody_reads_and_a_read_reopens_it() {
    let mut t = accepted("<mss 1000,sackOK>", |config| config.tcp.receive = [4096, 20_000, 20_000]);
    let mut at = 1;
    for _ in 0..30 {
        send!(t, &format!("P. {at}:{}(1000) ack 1", at + 1000));
        at += 1000;
    }
    t.taken();
    let readable = t.stack.tcp(t.socket).unwrap().readable();
    assert!((5_000..20_000).contains(&readable), "{readable}");
    assert!(t.stack.memory_bytes < 60_000, "{}", t.stack.memory_bytes);
    assert_eq!(t.read(100_000), Ok(readable));
    assert_eq!(t.taken().len(), 1, "a window update");
}

#[test]
fn a_reset_counts_only_at_the_exact_number() {
    let mut t = established();
    send!(t, "R 100:100(0)");
    recv!(t, ". 1:1(0) ack 1");
    assert_eq!(t.state(), Some(State::Established));
    send!(t, "R 40000:40000(0)");
    send!(t, "R 1:1(0)");
    assert_eq!((t.state(), t.error()), (Some(State::Closed), Some(Errno::ECONNRESET)));
}

#[test]
fn a_syn_in_a_connection_and_an_absurd_acknowledgement_are_challenged() {
    let mut t = established();
    send!(t, "S 1:1(0)");
    recv!(t, ". 1:1(0) ack 1");
    send!(t, "P. 1:11(10) ack 5000");
    recv!(t, ". 1:1(0) ack 1");
    assert_eq!(t.read(10), Err(Errno::EAGAIN), "the data came with a lie");
    assert_eq!(t.state(), Some(State::Established));
}

#[test]
fn an_old_timestamp_is_refused() {
    let mut t = accepted("<mss 1000,sackOK,ts 100 0>", |_| {});
    send!(t, "P. 1:11(10) ack 1 <ts 200 0>");
    assert_eq!(t.taken().len(), 1);
    send!(t, "P. 11:21(10) ack 1 <ts 150 0>");
    assert_eq!(t.taken().len(), 1, "acknowledged, not taken");
    assert_eq!(t.stack.statistics.tcp.paws_rejected, 1);
    assert_eq!(t.read(100), Ok(10));
}

#[test]
fn closing_first_leads_through_fin_wait_to_time_wait() {
    let mut t = established();
    t.stack.tcp_shutdown(t.socket, false, true).unwrap();
    recv!(t, "F. 1:1(0) ack 1");
    assert_eq!(t.state(), Some(State::FinWait1));
    send!(t, ". 1:1(0) ack 2");
    assert_eq!(t.state(), Some(State::FinWait2));
    send!(t, "P. 1:11(10) ack 2");
    assert_eq!(t.read(100), Ok(10));
    t.run(300 * MS);
    t.taken();
    send!(t, "F. 11:11(0) ack 2");
    recv!(t, ". 2:2(0) ack 12");
    assert_eq!((t.state(), t.stack.tcp_time_waits()), (Some(State::Closed), 1));
    assert_eq!(t.read(100), Ok(0));
    // The FIN again is answered again, and the minute starts anew.
    t.run(40 * SEC);
    send!(t, "F. 11:11(0) ack 2");
    recv!(t, ". 2:2(0) ack 12");
    t.run(40 * SEC);
    assert_eq!(t.stack.tcp_time_waits(), 1);
    // A new SYN beyond the old numbers opens a new connection.
    send!(t, "S 5000:5000(0) <mss 1000>");
    recv!(t, "S. 0:0(0) ack 5001");
    assert_eq!(t.stack.tcp_time_waits(), 0);
}

#[test]
fn being_closed_first_leads_through_close_wait_to_nothing() {
    let mut t = established();
    send!(t, "FP. 1:11(10) ack 1");
    recv!(t, ". 1:1(0) ack 12");
    assert_eq!(t.state(), Some(State::CloseWait));
    assert_eq!((t.read(100), t.read(100)), (Ok(10), Ok(0)));
    t.write(100);
    t.stack.tcp_close(t.socket);
    recv!(t, "P. 1:101(100) ack 12", "F. 101:101(0) ack 12");
    send!(t, ". 12:12(0) ack 102");
    assert_eq!((t.state(), t.stack.tcp_time_waits()), (None, 0));
}

#[test]
fn both_closing_at_once_ends_in_time_wait() {
    let mut t = established();
    t.stack.tcp_close(t.socket);
    recv!(t, "F. 1:1(0) ack 1");
    send!(t, "F. 1:1(0) ack 1");
    recv!(t, ". 2:2(0) ack 2");
    send!(t, ". 2:2(0) ack 2");
    assert_eq!((t.state(), t.stack.tcp_time_waits()), (None, 1));
}

#[test]
fn closing_with_unread_data_or_a_zero_linger_resets() {
    let mut t = established();
    send!(t, "P. 1:11(10) ack 1");
    t.taken();
    t.stack.tcp_close(t.socket);
    recv!(t, "R. 1:1(0) ack 11");
    assert_eq!(t.state(), None);

    let mut t = established();
    t.stack.tcp_mut(t.socket).unwrap().options.linger_s = Some(0);
    t.write(10);
    t.taken();
    t.stack.tcp_close(t.socket);
    recv!(t, "R. 11:11(0) ack 1");
    assert_eq!(t.stack.memory_bytes, t.stack.tcp_sockets().count() * net::packet::OVERHEAD);
}

#[test]
fn data_for_a_closed_socket_is_reset_and_an_orphan_does_not_wait_for_ever() {
    let mut t = established();
    t.stack.tcp_close(t.socket);
    t.taken();
    send!(t, ". 1:1(0) ack 2");
    send!(t, "P. 1:11(10) ack 2");
    recv!(t, "R. 2:2(0) ack 1");
    assert_eq!(t.state(), None);

    let mut t = established();
    t.stack.tcp_close(t.socket);
    send!(t, ". 1:1(0) ack 2");
    t.run(59 * SEC);
    assert_eq!(t.state(), Some(State::FinWait2));
    t.run(2 * SEC);
    assert_eq!(t.state(), None);
}

#[test]
fn urgent_data_is_marked_and_found() {
    let mut t = established();
    assert_eq!(t.stack.tcp_send(t.socket, b"abcX", SendCall { urgent: true, ..SendCall::default() }), Ok(4));
    recv!(t, "P.U 1:5(4) ack 1 urg 4");
    send!(t, "P.U 1:11(10) ack 5 urg 4");
    t.taken();
    let mut byte = [0];
    let urgent = ReceiveCall { urgent: true, ..ReceiveCall::default() };
    assert_eq!(t.read(100), Ok(3));
    assert!(t.stack.tcp(t.socket).unwrap().at_mark());
    assert_eq!((t.stack.tcp_receive(t.socket, &mut byte, urgent), byte), (Ok(1), [4]));
    assert_eq!(t.stack.tcp_receive(t.socket, &mut byte, urgent), Err(Errno::EINVAL));
    assert_eq!(t.read(100), Ok(6));
}

#[test]
fn a_silent_peer_is_probed_and_given_up() {
    let mut t = established();
    let options = &mut t.stack.tcp_mut(t.socket).unwrap().options;
    (options.keepalive, options.keepalive_time_s, options.keepalive_interval_s, options.keepalive_probes) = (true, 10, 5, 2);
    t.stack.tcp_push(t.socket);
    t.run(11 * SEC);
    recv!(t, ". 0:0(0) ack 1");
    send!(t, ". 1:1(0) ack 1");
    t.run(11 * SEC);
    recv!(t, ". 0:0(0) ack 1");
    t.run(5 * SEC);
    recv!(t, ". 0:0(0) ack 1");
    t.run(5 * SEC);
    recv!(t, "R. 1:1(0) ack 1");
    assert_eq!(t.error(), Some(Errno::ETIMEDOUT));
}

#[test]
fn the_users_timeout_ends_a_connection_before_the_retries_do() {
    let mut t = established();
    t.stack.tcp_mut(t.socket).unwrap().options.user_timeout_ms = 3000;
    t.write(100);
    t.run(10 * SEC);
    assert_eq!(t.error(), Some(Errno::ETIMEDOUT));
}

#[test]
fn a_connection_that_waits_for_data_is_accepted_with_it() {
    let mut t = script(|_| {});
    t.stack.tcp_mut(t.socket).unwrap().options.defer_accept = true;
    t.stack.tcp_bind(t.socket, Endpoint::new(US.into(), 80)).unwrap();
    t.stack.tcp_listen(t.socket, 5).unwrap();
    send!(t, "S 0:0(0) <mss 1000>");
    t.taken();
    send!(t, ". 1:1(0) ack 1");
    assert_eq!(t.stack.tcp_accept(t.socket), Err(Errno::EAGAIN));
    send!(t, "P. 1:11(10) ack 1");
    t.socket = t.stack.tcp_accept(t.socket).unwrap();
    assert_eq!(t.read(100), Ok(10));
}

#[test]
fn a_peer_that_shreds_its_sacks_does_not_shred_our_queue() {
    let mut t = established();
    t.write(10_000);
    t.taken();
    for n in 0..2000u32 {
        let left = 1 + n * 5;
        t.give(&format!(". 1:1(0) ack 1 <sack {left}:{}>", left + 1));
    }
    t.run(0);
    assert!(t.stack.tcp(t.socket).unwrap().info().unacked <= 10);
}

#[test]
fn addresses_are_as_the_script_says() {
    let t = established();
    assert_eq!(t.stack.tcp(t.socket).unwrap().local(), Endpoint::new(IpAddr::V4(US), 80));
    assert_eq!(t.stack.tcp(t.socket).unwrap().remote(), Ok(Endpoint::new(IpAddr::V4(PEER), 5000)));
}
