//! Telnet on a connection that came in: the host's user at a console, a line at a time or a byte at a time as his program likes.
//!
//! We echo, both sides suppress go-ahead, and the client tells its window's size. Binary transmission is asked for both ways, so that all eight
//! bits pass; where the client declines, CR NUL and CR LF are what a plain terminal's return key means.
//!
//! Always true: what arrives is hostile. An answer is sent only where the state of an option changes, so no peer can make us chatter; nothing kept
//! of a peer grows beyond a few hundred bytes.
//!
//! Sources: RFC 854, 855, 856 (binary), 857 (echo), 858 (go-ahead), 1073 (window size).

use abi::Errno;
use platform::{Blocking, HostChannel, TerminalMode, WindowSize};
use std::sync::{Arc, Weak};
use sync::{Events, Observer, SpinLock};

const IAC: u8 = 255;
const DONT: u8 = 254;
const DO: u8 = 253;
const WONT: u8 = 252;
const WILL: u8 = 251;
const SB: u8 = 250;
const EL: u8 = 248;
const EC: u8 = 247;
const AYT: u8 = 246;
const IP: u8 = 244;
const SE: u8 = 240;

const BINARY: u8 = 0;
const ECHO: u8 = 1;
const GO_AHEAD: u8 = 3;
const NAWS: u8 = 31;

/// Longest subnegotiation that means anything here: NAWS with every byte doubled.
const SUB_MAX: usize = 16;
/// Answers that wait for a peer that does not read; more are not given.
const ANSWERS_MAX: usize = 256;
/// Bytes encoded at once.
const CHUNK: usize = 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Parse {
    Data,
    /// After CR, in the network terminal's alphabet.
    Return,
    Iac,
    /// After WILL, WONT, DO or DONT.
    Option(u8),
    Sub,
    SubIac,
}

/// One side's telnet: bytes in, bytes out.
#[derive(Debug)]
pub struct Telnet {
    parse: Parse,
    sub: Vec<u8>,
    /// Options that we perform and that the peer performs, as agreed or asked for.
    ours: Vec<u8>,
    theirs: Vec<u8>,
    /// Asked for and not answered yet: the answer changes nothing that would need another.
    asked_ours: Vec<u8>,
    asked_theirs: Vec<u8>,
    answers: Vec<u8>,
    size: Option<WindowSize>,
}

impl Default for Telnet {
    fn default() -> Telnet {
        Telnet::new()
    }
}

impl Telnet {
    /// A connection's beginning: our wishes are among the answers.
    #[must_use]
    pub fn new() -> Telnet {
        let mut answers = Vec::new();
        for (verb, option) in [(WILL, ECHO), (WILL, GO_AHEAD), (DO, GO_AHEAD), (DO, NAWS), (WILL, BINARY), (DO, BINARY)] {
            answers.extend_from_slice(&[IAC, verb, option]);
        }
        Telnet {
            parse: Parse::Data,
            sub: Vec::new(),
            ours: Vec::new(),
            theirs: Vec::new(),
            asked_ours: vec![ECHO, GO_AHEAD, BINARY],
            asked_theirs: vec![GO_AHEAD, NAWS, BINARY],
            answers,
            size: None,
        }
    }

    /// The window's size, once the client has told it.
    #[must_use]
    pub fn size(&self) -> Option<WindowSize> {
        self.size
    }

    /// What is to be sent before anything else; taken by it.
    pub fn take_answers(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.answers)
    }

    fn answer(&mut self, bytes: &[u8]) {
        if self.answers.len() + bytes.len() <= ANSWERS_MAX {
            self.answers.extend_from_slice(bytes);
        }
    }

    /// What a program writes, as it is sent.
    pub fn encode(&self, data: &[u8], out: &mut Vec<u8>) {
        let binary = self.ours.contains(&BINARY);
        for (i, &byte) in data.iter().enumerate() {
            out.push(byte);
            match byte {
                IAC => out.push(IAC),
                // A bare CR is CR NUL in the network terminal's alphabet.
                b'\r' if !binary && data.get(i + 1) != Some(&b'\n') => out.push(0),
                _ => {}
            }
        }
    }

    /// What arrived, as typed bytes.
    pub fn decode(&mut self, arrived: &[u8], out: &mut Vec<u8>) {
        for &byte in arrived {
            self.byte(byte, out);
        }
    }

    fn byte(&mut self, byte: u8, out: &mut Vec<u8>) {
        self.parse = match self.parse {
            Parse::Return if matches!(byte, 0 | b'\n') => Parse::Data,
            Parse::Data | Parse::Return => match byte {
                IAC => Parse::Iac,
                b'\r' if !self.theirs.contains(&BINARY) => {
                    out.push(byte);
                    Parse::Return
                }
                _ => {
                    out.push(byte);
                    Parse::Data
                }
            },
            Parse::Iac => match byte {
                WILL | WONT | DO | DONT => Parse::Option(byte),
                SB => {
                    self.sub.clear();
                    Parse::Sub
                }
                _ => {
                    self.command(byte, out);
                    Parse::Data
                }
            },
            Parse::Option(verb) => {
                self.negotiate(verb, byte);
                Parse::Data
            }
            Parse::Sub if byte == IAC => Parse::SubIac,
            Parse::SubIac if byte == SE => {
                self.subnegotiated();
                Parse::Data
            }
            Parse::SubIac if byte != IAC => Parse::Sub,
            Parse::Sub | Parse::SubIac => {
                if self.sub.len() < SUB_MAX {
                    self.sub.push(byte);
                }
                Parse::Sub
            }
        };
    }

    /// The keys that a network terminal has beyond its alphabet.
    fn command(&mut self, byte: u8, out: &mut Vec<u8>) {
        match byte {
            IAC => out.push(IAC),
            IP => out.push(0x03),
            EC => out.push(0x7f),
            EL => out.push(0x15),
            AYT => self.answer(b"\r\n[yes]\r\n"),
            _ => {}
        }
    }

    fn negotiate(&mut self, verb: u8, option: u8) {
        let about_ours = matches!(verb, DO | DONT);
        let on = matches!(verb, DO | WILL);
        let (known, state, asked): (&[u8], _, _) = if about_ours {
            (&[ECHO, GO_AHEAD, BINARY], &mut self.ours, &mut self.asked_ours)
        } else {
            (&[GO_AHEAD, NAWS, BINARY], &mut self.theirs, &mut self.asked_theirs)
        };
        let was_asked = asked.contains(&option);
        asked.retain(|o| *o != option);
        let was_on = state.contains(&option);
        let refused = on && !known.contains(&option);
        if on && !refused && !was_on {
            state.push(option);
        }
        if !on {
            state.retain(|o| *o != option);
        }
        let changed = on != was_on;
        if refused {
            self.answer(&[IAC, if about_ours { WONT } else { DONT }, option]);
        } else if changed && !was_asked {
            self.answer(&[
                IAC,
                if about_ours {
                    if on { WILL } else { WONT }
                } else if on {
                    DO
                } else {
                    DONT
                },
                option,
            ]);
        }
    }

    fn subnegotiated(&mut self) {
        if let [NAWS, a, b, c, d] = *self.sub.as_slice() {
            // A zero is a size that the client does not know.
            let (columns, rows) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            self.size = Some(WindowSize { rows, columns, ..WindowSize::default() });
        }
    }
}

struct State {
    telnet: Telnet,
    /// Encoded, not yet taken by the connection.
    unsent: Vec<u8>,
}

/// A telnet connection as a channel.
pub struct TelnetChannel {
    connection: Arc<dyn HostChannel>,
    state: SpinLock<State>,
    observers: SpinLock<Vec<Arc<dyn Observer>>>,
}

/// Sends what waits when the connection takes more, then tells the others.
struct Relay(Weak<TelnetChannel>);

impl Observer for Relay {
    fn notify(&self, events: Events) {
        let Some(channel) = self.0.upgrade() else { return };
        let _ = channel.push(&mut channel.state.lock());
        let observers = channel.observers.lock().clone();
        observers.iter().for_each(|observer| observer.notify(events));
    }
}

impl TelnetChannel {
    /// Greets a client.
    pub fn new(connection: Arc<dyn HostChannel>) -> Arc<TelnetChannel> {
        let mut telnet = Telnet::new();
        let unsent = telnet.take_answers();
        let state = SpinLock::new(State { telnet, unsent });
        let channel = Arc::new(TelnetChannel { connection, state, observers: SpinLock::default() });
        let _ = channel.push(&mut channel.state.lock());
        channel.connection.observe(Arc::new(Relay(Arc::downgrade(&channel))));
        channel
    }

    /// Sends what waits, as far as it goes.
    fn push(&self, state: &mut State) -> Result<(), Errno> {
        while !state.unsent.is_empty() {
            match self.connection.write(&state.unsent, Blocking::No)? {
                0 => return Err(Errno::EAGAIN),
                n => state.unsent.drain(..n.min(state.unsent.len())),
            };
        }
        Ok(())
    }
}

impl HostChannel for TelnetChannel {
    fn read(&self, buffer: &mut [u8], blocking: Blocking) -> Result<usize, Errno> {
        let mut raw = vec![0; buffer.len()];
        loop {
            let n = self.connection.read(&mut raw, blocking)?;
            if n == 0 {
                return Ok(0);
            }
            let mut typed = Vec::with_capacity(n);
            {
                let mut state = self.state.lock();
                state.telnet.decode(raw.get(..n).unwrap_or_default(), &mut typed);
                let answers = state.telnet.take_answers();
                if state.unsent.len() <= 4 * CHUNK {
                    state.unsent.extend_from_slice(&answers);
                }
                let _ = self.push(&mut state);
            }
            // No more than what arrived is ever typed.
            if let Some(place) = buffer.get_mut(..typed.len()).filter(|place| !place.is_empty()) {
                place.copy_from_slice(&typed);
                return Ok(typed.len());
            }
        }
    }

    fn write(&self, data: &[u8], blocking: Blocking) -> Result<usize, Errno> {
        let mut state = self.state.lock();
        self.push(&mut state)?;
        let part = data.get(..CHUNK).unwrap_or(data);
        let mut encoded = Vec::with_capacity(part.len() + 16);
        state.telnet.encode(part, &mut encoded);
        state.unsent = encoded;
        match self.push(&mut state) {
            Ok(()) | Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(errno),
        }
        drop(state);
        if blocking == Blocking::Yes && part.len() < data.len() {
            return Ok(part.len() + self.write(data.get(part.len()..).unwrap_or_default(), blocking).unwrap_or(0));
        }
        Ok(part.len())
    }

    fn is_terminal(&self) -> bool {
        true
    }
    fn window_size(&self) -> Result<WindowSize, Errno> {
        self.state.lock().telnet.size().ok_or(Errno::ENOTTY)
    }
    fn set_mode(&self, _: TerminalMode) -> Result<(), Errno> {
        Ok(())
    }
    fn observe(&self, observer: Arc<dyn Observer>) {
        self.observers.lock().push(observer);
        // What arrived before is told of now.
        self.connection.observe(Arc::new(Silent));
    }
    fn close(&self) {
        self.observers.lock().clear();
        self.connection.close();
    }
}

/// Wants to hear only so that the connection looks again.
struct Silent;

impl Observer for Silent {
    fn notify(&self, _: Events) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(telnet: &mut Telnet, arrived: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        telnet.decode(arrived, &mut out);
        out
    }

    fn sent(telnet: &Telnet, written: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        telnet.encode(written, &mut out);
        out
    }

    /// A client that has heard our wishes.
    fn greeted() -> Telnet {
        let mut telnet = Telnet::new();
        assert!(telnet.take_answers().starts_with(&[IAC, WILL, ECHO, IAC, WILL, GO_AHEAD]));
        telnet
    }

    #[test]
    fn return_is_cr_nul_or_cr_lf_until_both_sides_are_binary() {
        let mut telnet = greeted();
        assert_eq!(typed(&mut telnet, b"root\r\0pass\r\nx\ry"), b"root\rpass\rx\ry");
        assert_eq!(sent(&telnet, b"a\r\nb\rc"), b"a\r\nb\r\0c");
        typed(&mut telnet, &[IAC, WILL, BINARY, IAC, DO, BINARY]);
        assert_eq!(telnet.take_answers(), [], "both were asked for");
        assert_eq!(typed(&mut telnet, b"\r\0\xfe"), b"\r\0\xfe");
        assert_eq!(sent(&telnet, b"b\rc"), b"b\rc");
    }

    #[test]
    fn all_bytes_pass_both_ways_in_binary() {
        let mut telnet = greeted();
        typed(&mut telnet, &[IAC, WILL, BINARY, IAC, DO, BINARY]);
        let all: Vec<u8> = (0..=255).collect();
        let wire = sent(&telnet, &all);
        assert_eq!(wire.len(), 257);
        let mut got = Vec::new();
        for byte in wire {
            telnet.decode(&[byte], &mut got);
        }
        assert_eq!(got, all);
    }

    #[test]
    fn a_size_is_told_with_a_doubled_255_in_it() {
        let mut telnet = greeted();
        typed(&mut telnet, &[IAC, WILL, NAWS, IAC, SB, NAWS, 0, IAC, IAC, 0, 50, IAC, SE]);
        assert_eq!(telnet.size().map(|s| (s.columns, s.rows)), Some((255, 50)));
        assert_eq!(telnet.take_answers(), []);
    }

    #[test]
    fn options_that_are_not_known_are_refused_and_changes_answered_once() {
        let mut telnet = greeted();
        typed(&mut telnet, &[IAC, DO, 99, IAC, WILL, 24]);
        assert_eq!(telnet.take_answers(), [IAC, WONT, 99, IAC, DONT, 24]);
        typed(&mut telnet, &[IAC, DO, ECHO, IAC, DO, ECHO]);
        assert_eq!(telnet.take_answers(), [], "it was our wish");
        typed(&mut telnet, &[IAC, DONT, ECHO, IAC, DONT, ECHO]);
        assert_eq!(telnet.take_answers(), [IAC, WONT, ECHO]);
    }

    #[test]
    fn keys_of_a_network_terminal_are_control_characters() {
        let mut telnet = greeted();
        assert_eq!(typed(&mut telnet, &[b'a', IAC, IP, IAC, EC, IAC, EL, IAC, IAC, IAC, 241]), [b'a', 3, 0x7f, 0x15, 255]);
    }

    #[test]
    fn a_hostile_peer_makes_nothing_grow() {
        let mut telnet = greeted();
        let mut out = Vec::new();
        let mut seed = 1u32;
        for round in 0..200_000u32 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let byte = (seed >> 24) as u8;
            telnet.decode(&[if byte & 3 == 0 { 240 + (byte >> 4) } else { byte }], &mut out);
            if round % 64 == 0 {
                out.clear();
            }
            assert!(
                telnet.sub.len() <= SUB_MAX && telnet.answers.len() <= ANSWERS_MAX && telnet.ours.len() <= 3 && telnet.theirs.len() <= 3
            );
        }
        telnet.decode(&[IAC, SB], &mut out);
        telnet.decode(&[7; 100_000], &mut out);
        assert!(telnet.sub.len() <= SUB_MAX);
    }
}
