//! Requests, replies and notifications, byte for byte, and a whole console served from a table.

use mconsole::client;
use mconsole::command::{self, Command};
use mconsole::packet::{self, Answer, Notification, RequestError, parse_reply, parse_request};
use mconsole::server::{Machine, Output, Refusal, Server};

fn scaled(count: u64, full: u64) -> u64 {
    match std::env::var("UMLAUT_SCALE").as_deref() {
        Ok("full") => full,
        Ok(factor) => count * factor.parse::<u64>().unwrap_or(1),
        Err(_) => count,
    }
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

#[test]
fn a_request_has_524_bytes_as_recorded_from_debians_client() {
    let request = packet::request(b"version").unwrap();
    assert_eq!(request.len(), 524);
    assert_eq!(request[..19], [words(&[0xcafe_babe, 2, 7]), b"version".to_vec()].concat());
    assert!(request[19..].iter().all(|&byte| byte == 0));
    assert!(packet::request(&[b'x'; 511]).is_some());
    assert!(packet::request(&[b'x'; 512]).is_none());
}

type Judged<'a> = (Vec<u8>, Result<&'a [u8], RequestError>);

#[test]
fn requests_are_judged_by_magic_then_version_then_length() {
    let with = |header: &[u32], text: &[u8]| [words(header), text.to_vec()].concat();
    let table: [Judged; 11] = [
        (with(&[0xcafe_babe, 2, 4], b"halt"), Ok(b"halt")),
        (with(&[0xcafe_babe, 2, 2], b"halt"), Ok(b"ha")),
        (with(&[0xcafe_babe, 2, 400], b"halt"), Ok(b"halt")),
        (with(&[0xcafe_babe, 2, 9], b"halt\0rest"), Ok(b"halt")),
        (with(&[0xcafe_babe, 2, 0], b""), Ok(b"")),
        (b"version".to_vec(), Err(RequestError::OldClient)),
        (vec![], Err(RequestError::OldClient)),
        (words(&[0xcafe_babe, 2]), Err(RequestError::Truncated)),
        (with(&[0xcafe_babe, 3, 4], b"halt"), Err(RequestError::Version(3))),
        (with(&[0xcafe_babe, 2, 512], b"halt"), Err(RequestError::TooLarge(512))),
        (with(&[0xcafe_babe, 2, u32::MAX], b""), Err(RequestError::TooLarge(u32::MAX))),
    ];
    for (datagram, expected) in table {
        assert_eq!(parse_request(&datagram), expected, "{datagram:?}");
    }
    assert_eq!(RequestError::OldClient.reply(), [b"ERR Version 0 mconsole clients are not supported by this driver"]);
    assert_eq!(RequestError::Truncated.reply(), Vec::<Vec<u8>>::new());
}

#[test]
fn replies_are_cut_at_511_characters_with_the_error_in_the_first_only() {
    assert_eq!(packet::reply(0, b""), [[words(&[0, 0, 1]), vec![0]].concat()]);
    assert_eq!(packet::reply(-16, b"busy"), [[words(&[-16i32 as u32, 0, 5]), b"busy\0".to_vec()].concat()]);
    for (len, sizes) in [(511, vec![524]), (512, vec![524, 14]), (1022, vec![524, 524]), (1023, vec![524, 524, 14])] {
        let packets = packet::reply(5, &vec![b'x'; len]);
        assert_eq!(packets.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
        let mut answer = Answer::default();
        for (index, datagram) in packets.iter().enumerate() {
            let parsed = parse_reply(datagram).unwrap();
            assert_eq!((parsed.err, parsed.more), (if index == 0 { 5 } else { 0 }, index + 1 < packets.len()));
            assert_eq!(answer.add(&parsed), index + 1 == packets.len());
        }
        assert_eq!(answer, Answer { err: 5, text: vec![b'x'; len] });
    }
    // Measured: help came in two datagrams of these sizes.
    let help: Vec<usize> = packet::reply(0, command::HELP.as_bytes()).iter().map(Vec::len).collect();
    assert_eq!(help, [524, 224]);
}

#[test]
fn notifications_are_as_measured() {
    let path = b"/home/u/.uml/x/mconsol\0";
    let datagram = Notification::Socket.datagram(path);
    assert_eq!(datagram.len(), 39);
    assert_eq!(datagram[..16], words(&[0xcafe_babe, 2, 0, 23]));
    for kind in [Notification::Socket, Notification::Panic, Notification::Hang, Notification::User] {
        assert_eq!(Notification::parse(&kind.datagram(b"text")), Some((kind, &b"text"[..])));
    }
    assert_eq!(Notification::User.datagram(&[1; 600]).len(), 528);
    assert_eq!(Notification::parse(&words(&[0xcafe_babe, 2, 4, 0])), None);
}

#[test]
fn commands_match_by_prefix_and_take_the_rest() {
    let table: [(&str, Option<Command<'_>>); 21] = [
        ("version", Some(Command::Version)),
        ("versionxyz", Some(Command::Version)),
        ("help", Some(Command::Help)),
        ("config", Some(Command::Query(b""))),
        ("config  con0", Some(Command::Query(b"con0"))),
        ("config ubdb=a,b", Some(Command::Configure(b"ubdb=a,b"))),
        ("config vec0:transport=tap", Some(Command::Configure(b"vec0:transport=tap"))),
        ("configcon1", Some(Command::Query(b"con1"))),
        ("remove ubdb", Some(Command::Remove(b"ubdb"))),
        ("sysrq", Some(Command::Sysrq(None))),
        ("sysrq s", Some(Command::Sysrq(Some(b's')))),
        ("stop", Some(Command::Stop)),
        ("stack", Some(Command::Stack(None))),
        ("stack x", Some(Command::Stack(None))),
        ("stack 12x", Some(Command::Stack(Some(12)))),
        ("stack 99999999999999", Some(Command::Stack(Some(0)))),
        ("log \n", Some(Command::Log(b"\n"))),
        ("proc //self/maps", Some(Command::Proc(b"self/maps"))),
        ("", None),
        (" version", None),
        ("vers", None),
    ];
    for (text, expected) in table {
        assert_eq!(command::parse(text.as_bytes()), expected, "{text:?}");
    }
}

/// A machine with one disk that notes what is done to it.
#[derive(Default)]
struct Small {
    done: Vec<String>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Machine for Small {
    fn version(&mut self) -> String {
        "Linux small 6.12.0-umlaut #1 x86_64".into()
    }
    fn halt(&mut self) {
        self.done.push("halt".into());
    }
    fn reboot(&mut self) {
        self.done.push("reboot".into());
    }
    fn configure(&mut self, setting: &[u8]) -> Result<(), Refusal> {
        match setting {
            b"ubdb=/x" => Ok(()),
            b"ubda=/x" => Err(Refusal::errno(abi::Errno::EBUSY, "Device is already configured")),
            _ => Err(Refusal::bad_config()),
        }
    }
    fn query(&mut self, device: &[u8]) -> Result<String, Refusal> {
        match device {
            b"ubda" => Ok("/cow,/back".into()),
            b"ubdb" => Ok(String::new()),
            b"eth0" => Err(Refusal::no_query()),
            _ => Err(Refusal::bad_config()),
        }
    }
    fn remove(&mut self, _: &[u8]) -> Result<(), Refusal> {
        Err(Refusal::bad_remove())
    }
    fn sysrq(&mut self, letter: Option<u8>, output: Output<'_>) -> Result<(), Refusal> {
        self.done.push(format!("sysrq {letter:?}"));
        output(b"sysrq: Emergency Sync\n");
        output(b"done\n");
        Ok(())
    }
    fn ctrl_alt_del(&mut self) {
        self.done.push("cad".into());
    }
    fn stop(&mut self) {
        self.done.push("stop".into());
    }
    fn go(&mut self) {
        self.done.push("go".into());
    }
    fn log(&mut self, line: &[u8]) {
        self.done.push(format!("log {}", text(line)));
    }
    fn proc_file(&mut self, path: &[u8], output: Output<'_>) -> Result<(), Refusal> {
        match path {
            b"version" => {
                output(b"Linux\n");
                Ok(())
            }
            b"empty" => Ok(()),
            _ => Err(Refusal::new("Failed to open file")),
        }
    }
    fn stack(&mut self, pid: i32, output: Output<'_>) -> bool {
        if pid == 1 {
            output(b"Stack:\n");
        }
        pid == 1
    }
}

/// (err, more, text) of each packet.
type Packets = Vec<(i32, bool, String)>;

/// Asks, and gives the packets.
fn ask(server: &mut Server, machine: &mut Small, command: &str) -> Packets {
    let mut packets = Vec::new();
    server.serve(&packet::request(command.as_bytes()).unwrap(), machine, &mut |datagram| packets.push(datagram));
    let parsed = packets.iter().map(|datagram| parse_reply(datagram).unwrap());
    parsed.map(|packet| (packet.err, packet.more, text(packet.text))).collect()
}

#[test]
fn a_console_answers_as_the_reference_does() {
    let (mut server, mut machine) = (Server::new(), Small::default());
    let last = |err: i32, text: &str| vec![(err, false, text.to_owned())];
    let stream = |parts: &[&str]| parts.iter().map(|part| (0, true, (*part).to_owned())).chain([(0, false, String::new())]).collect();
    let table: Vec<(&str, Packets)> = vec![
        ("version", last(0, "Linux small 6.12.0-umlaut #1 x86_64")),
        ("config ubda", last(0, "/cow,/back")),
        ("config ubdb", last(0, "")),
        ("config ubdb=/x", last(0, "")),
        ("config ubda=/x", last(-16, "Device is already configured")),
        ("config eth0", last(1, "No get_config routine defined")),
        ("config", last(1, "Bad configuration option")),
        ("remove bogus", last(1, "Bad remove option")),
        ("bogus", last(1, "Unknown command")),
        ("log hello", last(0, "")),
        ("proc /version", stream(&["\n", "Linux\n"])),
        ("proc empty", stream(&["\n"])),
        ("proc nosuch", last(1, "Failed to open file")),
        ("sysrq s", stream(&["sysrq: Emergency Sync\n", "done\n"])),
        ("stack 1", stream(&["Stack:\n"])),
        ("stack 0", last(1, "Couldn't find that pid")),
        ("stack 99999", last(1, "Couldn't find that pid")),
        ("stack", last(1, "Please specify a pid")),
        ("go", last(1, "Not stopped")),
        ("stop", last(0, "stopped")),
        ("stop", last(1, "Already stopped")),
        ("version", last(0, "Linux small 6.12.0-umlaut #1 x86_64")),
        ("go", last(0, "")),
        ("cad", last(0, "")),
        ("halt", last(0, "")),
    ];
    for (command, expected) in table {
        assert_eq!(ask(&mut server, &mut machine, command), expected, "{command}");
    }
    assert_eq!(machine.done, ["log hello", "sysrq Some(115)", "stop", "go", "cad", "halt"]);
}

#[test]
fn sysrq_b_is_answered_before_it_is_done_and_a_wrong_version_does_nothing() {
    let (mut server, mut machine) = (Server::new(), Small::default());
    assert_eq!(ask(&mut server, &mut machine, "sysrq b")[0], (0, false, String::new()));
    machine.done.clear();
    let mut datagram = packet::request(b"halt").unwrap();
    datagram[4..8].copy_from_slice(&1u32.to_ne_bytes());
    let mut sent = Vec::new();
    server.serve(&datagram, &mut machine, &mut |datagram| sent.push(datagram));
    assert_eq!(parse_reply(&sent[0]).unwrap().text, b"This driver only supports version 2 clients");
    assert!(machine.done.is_empty());
}

#[test]
fn sockets_are_looked_for_by_name_and_then_as_a_path() {
    let candidates = client::socket_candidates("deb".as_ref(), Some("/home/u".as_ref()));
    assert_eq!(
        candidates.iter().map(|path| path.to_str().unwrap()).collect::<Vec<_>>(),
        ["/home/u/.uml/deb/mconsole", "/tmp/uml/deb/mconsole", "deb"]
    );
    assert_eq!(client::socket_candidates("/x/y".as_ref(), None)[0].to_str(), Some("/tmp/uml//x/y/mconsole"));
    assert_eq!(client::prompt("a-long-machine-name"), "(a-long-mac) ");
}

#[test]
fn file_names_are_found_in_disk_settings_only() {
    let table: [(&str, &[&str]); 9] = [
        ("config ubdb=swap", &["swap"]),
        ("config ubdb=cow,back", &["cow", "back"]),
        ("config ubd1r=cow:back", &["cow", "back"]),
        ("config ubdb=img,,SERIAL", &["img"]),
        ("config ubdb=cow,back,SERIAL", &["cow", "back"]),
        ("config ubd=sync", &[]),
        ("config ubdb", &[]),
        ("config con0=fd:0,fd:1", &[]),
        ("version ubdb=x", &[]),
    ];
    for (command, names) in table {
        let found: Vec<&str> = client::disk_names(command).into_iter().map(|range| &command[range]).collect();
        assert_eq!(found, names, "{command}");
    }
}

#[test]
fn log_text_is_cut_to_what_fits_in_a_request() {
    let commands = client::log_commands(&[b'x'; 1200]);
    assert_eq!(commands.iter().map(Vec::len).collect::<Vec<_>>(), [510, 510, 192]);
    assert!(commands.iter().all(|command| command.starts_with(b"log ") && packet::request(command).is_some()));
}

#[test]
fn random_datagrams_never_panic_and_whole_requests_always_get_a_last_packet() {
    let mut state = 7u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16
    };
    let (mut server, mut machine) = (Server::new(), Small::default());
    for _ in 0..scaled(20_000, 2_000_000) {
        let mut datagram = Vec::new();
        if next() % 8 > 0 {
            let version = if next() % 16 == 0 { next() as u32 } else { 2 };
            datagram.extend(words(&[0xcafe_babe, version, (next() % 600) as u32]));
            if next() % 2 == 0 {
                datagram.extend(command::WORDS[next() as usize % 13].as_bytes());
                datagram.push(b' ');
            }
        }
        datagram.extend((0..next() % 40).map(|_| next() as u8));
        if next() % 16 == 0 {
            datagram.truncate(next() as usize % 20);
        }
        let mut last = None;
        server.serve(&datagram, &mut machine, &mut |packet| last = Some(packet));
        if parse_request(&datagram).is_ok() {
            let last = last.unwrap();
            assert!(!parse_reply(&last).unwrap().more);
        }
        let _ = (parse_reply(&datagram), Notification::parse(&datagram));
        client::disk_names(&String::from_utf8_lossy(&datagram)).into_iter().for_each(|range| assert!(range.end <= datagram.len() * 3));
    }
}
