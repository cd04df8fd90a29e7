//! Pairs: locks, closes, waits and back-pressure; and no input whatever that upsets them.
#![forbid(unsafe_code)]
#![allow(dead_code)]

mod support;

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use abi::{Errno, SigSet, Signal};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use support::generate::Chance;
use tty::ioctl::FlowControl;
use tty::{
    ControlChar, INPUT_BUFFER_BYTES, InputFlags, LineDiscipline, LineEvent, LocalFlags, OutputFlags, PtyPair, Queue, Read, ReadCall, Side,
    Termios,
};

fn open_pair() -> PtyPair {
    let mut pair = PtyPair::new();
    pair.set_locked(false);
    let _ = pair.open(Side::Slave).expect("an unlocked slave opens");
    pair
}

fn read(pair: &mut PtyPair, side: Side, len: usize) -> Result<Vec<u8>, Errno> {
    let (mut call, mut buf) = (ReadCall::new(), vec![0; len]);
    match pair.read(side, &mut call, &mut buf, 0, true).0? {
        Read::Done(count) => Ok(buf[..count].to_vec()),
        _ => Err(Errno::EAGAIN),
    }
}

fn host_pair() -> Option<(OwnedFd, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).ok()?;
    grantpt(&master).ok()?;
    unlockpt(&master).ok()?;
    let name = ptsname(&master, Vec::new()).ok()?;
    let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    Some((master, slave))
}

fn blocked_read(end: OwnedFd) -> JoinHandle<Result<usize, i32>> {
    let reader = thread::spawn(move || File::from(end).read(&mut [0; 10]).map_err(|error| error.raw_os_error().unwrap_or(0)));
    thread::sleep(Duration::from_millis(50));
    assert!(!reader.is_finished(), "the read waits");
    reader
}

#[test]
fn a_locked_slave_does_not_open() {
    let mut pair = PtyPair::new();
    assert!(pair.is_locked());
    assert_eq!(pair.open(Side::Slave).err(), Some(Errno::EIO));
    if let Ok(master) = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC) {
        let name = ptsname(&master, Vec::new()).expect("a name");
        let linux = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty());
        assert_eq!(linux.map(drop).map_err(rustix::io::Errno::raw_os_error), Err(Errno::EIO.raw()));
    }
    pair.set_locked(false);
    assert!(pair.open(Side::Slave).is_ok());
}

#[test]
fn a_master_that_waits_gets_eio_when_the_slave_closes() {
    let mut pair = open_pair();
    let (mut call, mut buf) = (ReadCall::new(), [0; 10]);
    assert_eq!(pair.read(Side::Master, &mut call, &mut buf, 0, false).0, Ok(Read::Wait { deadline_ns: None }));
    assert!(pair.close(Side::Slave).wake_master);
    let ours = pair.read(Side::Master, &mut call, &mut buf, 0, false).0;
    assert_eq!(ours, Err(Errno::EIO));
    let Some((master, slave)) = host_pair() else { return };
    let reader = blocked_read(master);
    drop(slave);
    assert_eq!(reader.join().expect("a reader"), Err(Errno::EIO.raw()));
}

#[test]
fn a_slave_that_waits_gets_eio_when_the_master_closes_and_the_end_of_file_from_then_on() {
    let mut pair = open_pair();
    let (mut call, mut buf) = (ReadCall::new(), [0; 10]);
    assert_eq!(pair.read(Side::Slave, &mut call, &mut buf, 0, false).0, Ok(Read::Wait { deadline_ns: None }));
    let effects = pair.close(Side::Master);
    assert!(effects.wake_slave && effects.hang_up);
    assert_eq!(pair.read(Side::Slave, &mut call, &mut buf, 0, false).0, Err(Errno::EIO));
    assert_eq!(read(&mut pair, Side::Slave, 10), Ok(Vec::new()));
    assert_eq!(pair.open(Side::Slave).err(), Some(Errno::EIO));
    let Some((master, slave)) = host_pair() else { return };
    let again = slave.try_clone().expect("another descriptor");
    let reader = blocked_read(slave);
    drop(master);
    assert_eq!(reader.join().expect("a reader"), Err(Errno::EIO.raw()));
    assert_eq!(File::from(again).read(&mut [0; 10]).map_err(|error| error.raw_os_error()), Ok(0));
}

/// Bytes and when they arrive, in milliseconds.
type Arrivals = &'static [(u64, &'static [u8])];
/// VMIN, VTIME and what arrives for a raw read of ten bytes.
const ARRIVALS: [(u8, u8, Arrivals); 5] = [
    (3, 2, &[(0, b"a"), (100, b"b")]),
    (3, 2, &[(50, b"a"), (150, b"b"), (250, b"c"), (350, b"d")]),
    (3, 0, &[(0, b"ab"), (100, b"cdefghijklm")]),
    (0, 2, &[(100, b"ab")]),
    (0, 2, &[(400, b"ab")]),
];

/// What the read gets, and when, in tenths of a second.
fn timed_read(min: u8, time: u8, arrivals: Arrivals) -> (Vec<u8>, u64) {
    let mut pair = open_pair();
    let mut raw = pair.termios().clone();
    raw.local = LocalFlags::empty();
    raw.set_char(ControlChar::Min, min);
    raw.set_char(ControlChar::Time, time);
    let _ = pair.set_termios(raw);
    let (mut call, mut buf, mut now_ns) = (ReadCall::new(), [0; 10], 0);
    let mut arrivals = arrivals.iter().peekable();
    loop {
        while let Some((_, bytes)) = arrivals.next_if(|(at_ms, _)| at_ms * 1_000_000 <= now_ns) {
            let _ = pair.write(Side::Master, bytes);
        }
        match pair.read(Side::Slave, &mut call, &mut buf, now_ns, false).0.expect("the master is open") {
            Read::Done(count) => return (buf[..count].to_vec(), now_ns / 100_000_000),
            Read::Wait { deadline_ns } => {
                let arrival = arrivals.peek().map(|(at_ms, _)| at_ms * 1_000_000);
                now_ns = deadline_ns.into_iter().chain(arrival).min().expect("something will happen");
            }
            Read::WouldBlock => panic!("the read may wait"),
        }
    }
}

fn timed_read_on_host(min: u8, time: u8, arrivals: Arrivals) -> Option<(Vec<u8>, u64)> {
    let (master, slave) = host_pair()?;
    let mut settings = rustix::termios::tcgetattr(&slave).expect("settings");
    settings.local_modes = rustix::termios::LocalModes::empty();
    settings.special_codes[rustix::termios::SpecialCodeIndex::VMIN] = min;
    settings.special_codes[rustix::termios::SpecialCodeIndex::VTIME] = time;
    rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &settings).expect("settings");
    let started = Instant::now();
    let typist = thread::spawn(move || {
        for (at_ms, bytes) in arrivals {
            thread::sleep(Duration::from_millis(*at_ms).saturating_sub(started.elapsed()));
            rustix::io::write(&master, bytes).expect("the master takes it");
        }
        master
    });
    let mut buf = [0; 10];
    let count = File::from(slave).read(&mut buf).expect("a read");
    // The host's ticks are not quite ours.
    let tenths = (started.elapsed().as_millis() as u64 + 20) / 100;
    drop(typist.join());
    Some((buf[..count].to_vec(), tenths))
}

#[test]
fn raw_reads_take_as_long_as_on_this_host() {
    for (min, time, arrivals) in ARRIVALS {
        let ours = timed_read(min, time, arrivals);
        // A busy machine is late now and then.
        let mut others = Vec::new();
        loop {
            match timed_read_on_host(min, time, arrivals) {
                None => return,
                Some(linux) if linux == ours => break,
                Some(linux) => others.push(linux),
            }
            assert!(others.len() < 5, "VMIN {min} VTIME {time}: {ours:?}, but on Linux {others:?}");
        }
    }
}

#[test]
fn a_packet_status_ends_a_wait() {
    let mut pair = open_pair();
    pair.set_packet_mode(true);
    let (mut call, mut buf) = (ReadCall::new(), [0; 10]);
    assert_eq!(pair.read(Side::Master, &mut call, &mut buf, 0, false).0, Ok(Read::Wait { deadline_ns: None }));
    assert!(pair.flush(Side::Slave, Queue::Input).wake_master);
    assert_eq!(pair.read(Side::Master, &mut call, &mut buf, 0, false).0, Ok(Read::Done(1)));
    assert_eq!(buf[0], 1);
}

#[test]
fn after_a_hangup_the_slave_opens_anew_with_fresh_settings() {
    let mut pair = open_pair();
    let mut raw = pair.termios().clone();
    raw.local = LocalFlags::empty();
    let _ = pair.set_termios(raw);
    let _ = pair.write(Side::Master, b"unread");
    let _ = pair.write(Side::Slave, b"out");
    let effects = pair.hang_up_slave();
    assert!(effects.hang_up && effects.wake_slave && effects.wake_master);
    assert_eq!(*pair.termios(), Termios::pty_slave());
    assert_eq!(pair.readable_bytes(Side::Slave), 0);
    assert_eq!(read(&mut pair, Side::Master, 10), Ok(b"out".to_vec()));
    assert_eq!(read(&mut pair, Side::Master, 10), Err(Errno::EAGAIN), "the dead file is still open");
    assert!(pair.open(Side::Slave).is_ok());
    let _ = pair.close(Side::Slave);
    assert_eq!(read(&mut pair, Side::Master, 10), Err(Errno::EAGAIN));
    let _ = pair.close(Side::Slave);
    assert_eq!(read(&mut pair, Side::Master, 10), Err(Errno::EIO));
}

#[test]
fn writers_are_held_back_and_nothing_is_lost() {
    for (writer, reader) in [(Side::Slave, Side::Master), (Side::Master, Side::Slave)] {
        let mut pair = open_pair();
        let mut raw = pair.termios().clone();
        (raw.input, raw.output, raw.local) = (InputFlags::empty(), OutputFlags::empty(), LocalFlags::empty());
        let _ = pair.set_termios(raw);
        let sent: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
        let (mut written, mut got, mut refusals) = (0, Vec::new(), 0);
        while got.len() < sent.len() {
            let (taken, _) = pair.write(writer, &sent[written..]);
            written += taken.expect("the other end is open");
            refusals += usize::from(!pair.poll(writer).writable);
            assert!(written - got.len() <= 16 * 1024, "what is on the way is bounded");
            got.extend(read(&mut pair, reader, 1000).expect("something to read"));
        }
        assert_eq!(got, sent);
        assert!(refusals > 10);
    }
}

#[test]
fn the_master_raises_three_signals_and_no_other() {
    let pair = open_pair();
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP] {
        assert_eq!(pair.signal(signal).map(|effects| effects.signals), Ok(SigSet::of(signal)));
    }
    for signal in [Signal::SIGHUP, Signal::SIGKILL, Signal::SIGCONT, Signal::SIGWINCH] {
        assert_eq!(pair.signal(signal).err(), Some(Errno::EINVAL));
    }
    let Some((master, _slave)) = host_pair() else { return };
    let program = "print join(' ', map { ioctl(STDIN, 0x40045436, $_) ? 0 : $! + 0 } (2, 3, 20, 1, 9, 18, 28))";
    let Ok(output) = Command::new("perl").args(["-e", program]).stdin(Stdio::from(master)).output() else { return };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0 0 0 22 22 22 22");
}

#[test]
fn a_line_reports_breaks_and_bad_bytes_as_its_flags_say() {
    use InputFlags as I;
    let table: [(I, LineEvent, &[u8], bool); 11] = [
        (I::empty(), LineEvent::Break, b"\0", false),
        (I::IGNBRK, LineEvent::Break, b"", false),
        (I::BRKINT, LineEvent::Break, b"", true),
        (I::IGNBRK.union(I::BRKINT), LineEvent::Break, b"", false),
        (I::PARMRK, LineEvent::Break, b"\xff\0\0", false),
        (I::empty(), LineEvent::BadByte(b'x'), b"x", false),
        (I::INPCK, LineEvent::BadByte(b'x'), b"\0", false),
        (I::INPCK.union(I::PARMRK), LineEvent::BadByte(b'x'), b"\xff\0x", false),
        (I::INPCK.union(I::IGNPAR), LineEvent::BadByte(b'x'), b"", false),
        (I::IGNPAR, LineEvent::BadByte(b'x'), b"x", false),
        (I::PARMRK, LineEvent::BadByte(b'x'), b"x", false),
    ];
    for (flags, event, expected, interrupts) in table {
        let mut line = LineDiscipline::console();
        let mut settings = line.termios().clone();
        settings.input = flags;
        settings.local = LocalFlags::ISIG;
        let _ = line.set_termios(settings);
        let effects = line.receive_event(event);
        let (mut call, mut buf) = (ReadCall::new(), [0; 10]);
        let got = match line.read(&mut call, &mut buf, 0, true) {
            Read::Done(count) => buf[..count].to_vec(),
            _ => Vec::new(),
        };
        assert_eq!(got, expected, "{flags:?} {event:?}");
        assert_eq!(effects.signals.has(Signal::SIGINT), interrupts, "{flags:?} {event:?}");
        assert_eq!(effects.readable, !expected.is_empty(), "{flags:?} {event:?}");
    }
}

/// Any settings at all.
fn any_settings(chance: &mut Chance) -> Termios {
    let mut bits = || (chance.below(1 << 16) | chance.below(1 << 16) << 16) as u32;
    let mut settings = Termios::pty_slave();
    settings.input = InputFlags::from_bits_retain(bits());
    settings.output = OutputFlags::from_bits_retain(bits());
    settings.local = LocalFlags::from_bits_retain(bits());
    settings.control = bits();
    for slot in &mut settings.chars {
        *slot = chance.below(256) as u8;
    }
    settings
}

#[test]
fn no_settings_and_no_bytes_upset_a_pair() {
    let rounds = match std::env::var("UMLAUT_SCALE").as_deref() {
        Ok("full") => 2_000,
        Ok(number) => 100 * number.parse().unwrap_or(1),
        Err(_) => 100,
    };
    for seed in 0..rounds {
        let mut chance = Chance::new(seed);
        let mut pair = open_pair();
        let mut now_ns = 0;
        let mut call = ReadCall::new();
        let mut buf = vec![0; 8192];
        for _ in 0..300 {
            let side = if chance.below(2) == 0 { Side::Master } else { Side::Slave };
            match chance.below(12) {
                0 => {
                    let _ = pair.set_termios(any_settings(&mut chance));
                }
                1..5 => {
                    let most = if chance.below(8) == 0 { 6000 } else { 30 };
                    let bytes: Vec<u8> = (0..chance.below(most)).map(|_| chance.below(256) as u8).collect();
                    let (taken, _) = pair.write(side, &bytes);
                    assert!(taken.is_ok_and(|taken| taken <= bytes.len()));
                }
                5..8 => {
                    let len = chance.below(buf.len());
                    call = ReadCall::new();
                    let (outcome, _) = pair.read(side, &mut call, &mut buf[..len], now_ns, chance.below(2) == 0);
                    assert!(!matches!(outcome, Ok(Read::Done(count)) if count > len));
                }
                8 => {
                    // The rest of an earlier call, in a buffer that may have shrunk.
                    now_ns += 50_000_000;
                    let len = chance.below(buf.len());
                    let _ = pair.read(side, &mut call, &mut buf[..len], now_ns, false);
                }
                9 => {
                    let _ = pair.flush(side, [Queue::Input, Queue::Output, Queue::Both][chance.below(3)]);
                }
                10 => {
                    let control = [FlowControl::StopOutput, FlowControl::StartOutput, FlowControl::SendStop, FlowControl::SendStart];
                    let _ = pair.control_flow(side, control[chance.below(4)]);
                }
                _ => pair.set_packet_mode(chance.below(2) == 0),
            }
            for side in [Side::Master, Side::Slave] {
                assert!(pair.readable_bytes(side) <= INPUT_BUFFER_BYTES);
                let _ = pair.poll(side);
            }
        }
    }
}

#[test]
fn a_console_takes_any_bytes_under_any_settings_and_its_queue_stays_bounded() {
    for seed in 0..100 {
        let mut chance = Chance::new(seed);
        let mut console = LineDiscipline::console();
        for _ in 0..200 {
            if chance.below(5) == 0 {
                let _ = console.set_termios(any_settings(&mut chance));
            }
            let bytes: Vec<u8> = (0..chance.below(200)).map(|_| chance.below(256) as u8).collect();
            let (taken, _) = console.receive(&bytes);
            if taken < bytes.len() {
                assert_eq!(console.room(), 0, "bytes are refused only for want of room");
                let _ = console.flush(Queue::Input);
                console.forget_refused();
            }
            let _ = console.write(&bytes);
            let _ = console.receive_event(if chance.below(2) == 0 { LineEvent::Break } else { LineEvent::BadByte(7) });
            assert!(console.output_len() <= 4096);
            if chance.below(3) == 0 {
                let _ = console.take_output(chance.below(5000));
            }
            let mut buf = [0; 100];
            let _ = console.read(&mut ReadCall::new(), &mut buf, 0, true);
        }
    }
}

#[test]
fn a_disabled_character_is_text() {
    let mut console = LineDiscipline::console();
    let mut settings = console.termios().clone();
    settings.set_char(ControlChar::Intr, 0);
    let _ = console.set_termios(settings);
    let (_, effects) = console.receive(b"\x03\0\n");
    assert!(effects.signals.is_empty());
    let mut buf = [0; 10];
    assert_eq!(console.read(&mut ReadCall::new(), &mut buf, 0, true), Read::Done(3));
    assert_eq!(&buf[..3], b"\x03\0\n");
}
