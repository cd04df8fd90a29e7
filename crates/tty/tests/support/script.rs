//! The language of the traces.
//!
//! A trace is a line `# name` and then one line per step, `step => observation`. A step is one call on one end of a pair; the observation is
//! its result, what FIONREAD and poll(2) then say of both ends, and the signals that the foreground group got:
//!
//! ```text
//! # erase a character
//! set -ECHOKE min=3 now => ok s0w m0w
//! master "ab\x7f" => 3 s0w m5rw
//! read-master 64 => "ab\x08 \x08" s0w m0w
//! ```
//!
//! Settings are given as what differs from those of a fresh slave. Poll's letters: `r`eadable, `w`ritable, `p`acket status, `h`ung up,
//! `e`rror.

use std::fmt::{self, Display};

use tty::ioctl::{FlowControl, When};
use tty::{ControlChar, InputFlags, LocalFlags, OutputFlags, Queue, Side, Termios};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Set(Termios, When),
    /// Reports the settings as the kernel has them.
    Get,
    Write(Side, Vec<u8>),
    /// Without waiting.
    Read(Side, usize),
    /// Waiting. Only where it must come to an end by itself.
    ReadWaiting(Side, usize),
    Flush(Side, Queue),
    Flow(Side, FlowControl),
    PacketMode(bool),
    Size(u16, u16),
    CloseSlave,
    OpenSlave,
    CloseMaster,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Script {
    pub name: String,
    pub steps: Vec<Step>,
}

/// A script with what each step observed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trace {
    pub script: Script,
    pub observed: Vec<String>,
}

/// What both runners report after a step; its text is the observation.
pub struct State {
    pub result: String,
    pub slave: EndState,
    pub master: EndState,
    pub signals: Vec<&'static str>,
}

pub struct EndState {
    pub open: bool,
    /// FIONREAD, or its error.
    pub pending: Result<usize, String>,
    pub poll: String,
}

impl Display for EndState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pending {
            _ if !self.open => write!(f, "-"),
            Ok(pending) => write!(f, "{pending}{}", self.poll),
            Err(error) => write!(f, "{error}{}", self.poll),
        }
    }
}

impl Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s{} m{}", self.result, self.slave, self.master)?;
        self.signals.iter().try_for_each(|signal| write!(f, " {signal}"))
    }
}

pub fn poll_letters(flags: [bool; 5]) -> String {
    "rwphe".chars().zip(flags).filter_map(|(letter, on)| on.then_some(letter)).collect()
}

/// Runs of one byte from this length on are written as `"x"*5000`.
const LONG_RUN: usize = 40;

/// Bytes as text: `"ab\n"`, or several such parts with `+` between them where a byte repeats for long.
pub fn quoted(bytes: &[u8]) -> String {
    let mut parts: Vec<(Vec<u8>, usize)> = Vec::new();
    let mut rest = bytes;
    while let Some(&first) = rest.first() {
        let run = rest.iter().take_while(|&&byte| byte == first).count();
        let (head, tail) = rest.split_at(run);
        rest = tail;
        match parts.last_mut() {
            _ if run >= LONG_RUN => parts.push((vec![first], run)),
            Some((text, 1)) => text.extend(head),
            _ => parts.push((head.to_vec(), 1)),
        }
    }
    if parts.is_empty() {
        return "\"\"".to_owned();
    }
    let texts = parts.iter().map(|(text, times)| {
        let text = text.escape_ascii();
        if *times == 1 { format!("\"{text}\"") } else { format!("\"{text}\"*{times}") }
    });
    texts.collect::<Vec<_>>().join("+")
}

const INPUT: [(&str, InputFlags); 15] = [
    ("IGNBRK", InputFlags::IGNBRK),
    ("BRKINT", InputFlags::BRKINT),
    ("IGNPAR", InputFlags::IGNPAR),
    ("PARMRK", InputFlags::PARMRK),
    ("INPCK", InputFlags::INPCK),
    ("ISTRIP", InputFlags::ISTRIP),
    ("INLCR", InputFlags::INLCR),
    ("IGNCR", InputFlags::IGNCR),
    ("ICRNL", InputFlags::ICRNL),
    ("IUCLC", InputFlags::IUCLC),
    ("IXON", InputFlags::IXON),
    ("IXANY", InputFlags::IXANY),
    ("IXOFF", InputFlags::IXOFF),
    ("IMAXBEL", InputFlags::IMAXBEL),
    ("IUTF8", InputFlags::IUTF8),
];
const OUTPUT: [(&str, OutputFlags); 7] = [
    ("OPOST", OutputFlags::OPOST),
    ("OLCUC", OutputFlags::OLCUC),
    ("ONLCR", OutputFlags::ONLCR),
    ("OCRNL", OutputFlags::OCRNL),
    ("ONOCR", OutputFlags::ONOCR),
    ("ONLRET", OutputFlags::ONLRET),
    ("XTABS", OutputFlags::XTABS),
];
const LOCAL: [(&str, LocalFlags); 13] = [
    ("ISIG", LocalFlags::ISIG),
    ("ICANON", LocalFlags::ICANON),
    ("ECHO", LocalFlags::ECHO),
    ("ECHOE", LocalFlags::ECHOE),
    ("ECHOK", LocalFlags::ECHOK),
    ("ECHONL", LocalFlags::ECHONL),
    ("NOFLSH", LocalFlags::NOFLSH),
    ("TOSTOP", LocalFlags::TOSTOP),
    ("ECHOCTL", LocalFlags::ECHOCTL),
    ("ECHOPRT", LocalFlags::ECHOPRT),
    ("ECHOKE", LocalFlags::ECHOKE),
    ("IEXTEN", LocalFlags::IEXTEN),
    ("EXTPROC", LocalFlags::EXTPROC),
];
const CHARS: [(&str, ControlChar); 17] = [
    ("intr", ControlChar::Intr),
    ("quit", ControlChar::Quit),
    ("erase", ControlChar::Erase),
    ("kill", ControlChar::Kill),
    ("eof", ControlChar::Eof),
    ("time", ControlChar::Time),
    ("min", ControlChar::Min),
    ("switch", ControlChar::Switch),
    ("start", ControlChar::Start),
    ("stop", ControlChar::Stop),
    ("susp", ControlChar::Susp),
    ("eol", ControlChar::Eol),
    ("reprint", ControlChar::Reprint),
    ("discard", ControlChar::Discard),
    ("werase", ControlChar::WordErase),
    ("lnext", ControlChar::LiteralNext),
    ("eol2", ControlChar::Eol2),
];

/// The names of all flags, for scripts that try each.
pub fn flag_names() -> impl Iterator<Item = &'static str> {
    INPUT.iter().map(|flag| flag.0).chain(OUTPUT.iter().map(|flag| flag.0)).chain(LOCAL.iter().map(|flag| flag.0))
}

/// The names of all control characters.
pub fn char_names() -> impl Iterator<Item = &'static str> {
    CHARS.iter().map(|char| char.0)
}

/// Applies words like `-ECHO`, `+IUTF8`, `min=3` to settings.
pub fn with(mut termios: Termios, words: &str) -> Termios {
    for word in words.split_whitespace() {
        if let Some(value) = word.strip_prefix("control=") {
            termios.control = u32::from_str_radix(value, 8).expect("octal digits");
            continue;
        }
        if let Some((name, value)) = word.split_once('=') {
            let which = CHARS.iter().find(|char| char.0 == name).unwrap_or_else(|| panic!("no character {name}")).1;
            termios.set_char(which, value.parse().expect("a byte"));
            continue;
        }
        let (on, name) = (word.starts_with('+'), &word[1..]);
        if let Some(flag) = INPUT.iter().find(|flag| flag.0 == name) {
            termios.input.set(flag.1, on);
        } else if let Some(flag) = OUTPUT.iter().find(|flag| flag.0 == name) {
            termios.output.set(flag.1, on);
        } else if let Some(flag) = LOCAL.iter().find(|flag| flag.0 == name) {
            termios.local.set(flag.1, on);
        } else {
            panic!("no flag {name}");
        }
    }
    termios
}

/// The inverse of [`with`], from a fresh slave's settings.
pub fn words(termios: &Termios) -> String {
    let fresh = Termios::pty_slave();
    let mut words = Vec::new();
    let mut flag = |name: &str, was: bool, is: bool| {
        if was != is {
            words.push(format!("{}{name}", if is { '+' } else { '-' }));
        }
    };
    for (name, bit) in INPUT {
        flag(name, fresh.input.contains(bit), termios.input.contains(bit));
    }
    for (name, bit) in OUTPUT {
        flag(name, fresh.output.contains(bit), termios.output.contains(bit));
    }
    for (name, bit) in LOCAL {
        flag(name, fresh.local.contains(bit), termios.local.contains(bit));
    }
    for (name, which) in CHARS {
        if fresh.raw_char(which) != termios.raw_char(which) {
            words.push(format!("{name}={}", termios.raw_char(which)));
        }
    }
    if fresh.control != termios.control {
        words.push(format!("control={:o}", termios.control));
    }
    words.join(" ")
}

fn side_name(side: Side) -> &'static str {
    match side {
        Side::Master => "master",
        Side::Slave => "slave",
    }
}

fn flow_name(flow: FlowControl) -> &'static str {
    match flow {
        FlowControl::StopOutput => "stop-output",
        FlowControl::StartOutput => "start-output",
        FlowControl::SendStop => "send-stop",
        FlowControl::SendStart => "send-start",
    }
}

fn queue_name(queue: Queue) -> &'static str {
    match queue {
        Queue::Input => "input",
        Queue::Output => "output",
        Queue::Both => "both",
    }
}

fn when_name(when: When) -> &'static str {
    match when {
        When::Now => "now",
        When::Drain => "drain",
        When::Flush => "flush",
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Set(termios, when) => write!(f, "set {} {}", words(termios), when_name(*when)),
            Step::Get => write!(f, "get"),
            Step::Write(side, bytes) => write!(f, "{} {}", side_name(*side), quoted(bytes)),
            Step::Read(side, count) => write!(f, "read-{} {count}", side_name(*side)),
            Step::ReadWaiting(side, count) => write!(f, "read-waiting-{} {count}", side_name(*side)),
            Step::Flush(side, queue) => write!(f, "flush-{} {}", side_name(*side), queue_name(*queue)),
            Step::Flow(side, flow) => write!(f, "flow-{} {}", side_name(*side), flow_name(*flow)),
            Step::PacketMode(on) => write!(f, "packet-mode {on}"),
            Step::Size(rows, columns) => write!(f, "size {rows} {columns}"),
            Step::CloseSlave => write!(f, "close-slave"),
            Step::OpenSlave => write!(f, "open-slave"),
            Step::CloseMaster => write!(f, "close-master"),
        }
    }
}

fn unquoted(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.trim();
    while let Some(inside) = rest.strip_prefix('"') {
        let (part, after) = unquoted_part(inside);
        let digits = after.strip_prefix('*').map_or(0, |after| after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len()));
        let times = if digits > 0 { after[1..=digits].parse().expect("a count") } else { 1 };
        bytes.extend(part.repeat(times));
        rest = if digits > 0 { &after[1 + digits..] } else { after };
        rest = rest.strip_prefix('+').unwrap_or(rest);
    }
    assert!(rest.is_empty(), "not a quoted string: {text}");
    bytes
}

/// The bytes up to the closing quote, and what follows it.
fn unquoted_part(text: &str) -> (Vec<u8>, &str) {
    let mut bytes = Vec::new();
    let mut rest = text.char_indices();
    while let Some((at, char)) = rest.next() {
        match char {
            '"' => return (bytes, &text[at + 1..]),
            '\\' => bytes.push(match rest.next().expect("an escape").1 {
                'n' => b'\n',
                'r' => b'\r',
                't' => b'\t',
                'x' => {
                    let digits: String = rest.by_ref().take(2).map(|(_, digit)| digit).collect();
                    u8::from_str_radix(&digits, 16).expect("two hex digits")
                }
                other => other as u8,
            }),
            other => bytes.push(other as u8),
        }
    }
    panic!("no closing quote: {text}");
}

fn parse_step(text: &str) -> Step {
    let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
    let sides = [(Side::Master, "master"), (Side::Slave, "slave")];
    for (side, name) in sides {
        if verb == name {
            return Step::Write(side, unquoted(rest));
        }
        if verb.strip_prefix("read-waiting-") == Some(name) {
            return Step::ReadWaiting(side, rest.parse().expect("a count"));
        }
        if verb.strip_prefix("read-") == Some(name) {
            return Step::Read(side, rest.parse().expect("a count"));
        }
        if verb.strip_prefix("flush-") == Some(name) {
            let queues = [Queue::Input, Queue::Output, Queue::Both];
            return Step::Flush(side, queues.into_iter().find(|queue| queue_name(*queue) == rest).expect("a queue"));
        }
        if verb.strip_prefix("flow-") == Some(name) {
            let flows = [FlowControl::StopOutput, FlowControl::StartOutput, FlowControl::SendStop, FlowControl::SendStart];
            return Step::Flow(side, flows.into_iter().find(|flow| flow_name(*flow) == rest).expect("a flow control"));
        }
    }
    match verb {
        "set" => {
            let (words, when) = rest.rsplit_once(' ').unwrap_or(("", rest));
            let whens = [When::Now, When::Drain, When::Flush];
            let when = whens.into_iter().find(|each| when_name(*each) == when).expect("a moment");
            Step::Set(with(Termios::pty_slave(), words), when)
        }
        "get" => Step::Get,
        "packet-mode" => Step::PacketMode(rest == "true"),
        "size" => {
            let (rows, columns) = rest.split_once(' ').expect("rows and columns");
            Step::Size(rows.parse().expect("rows"), columns.parse().expect("columns"))
        }
        "close-slave" => Step::CloseSlave,
        "open-slave" => Step::OpenSlave,
        "close-master" => Step::CloseMaster,
        _ => panic!("no such step: {text}"),
    }
}

/// Reads traces, or scripts: lines without an observation.
pub fn parse(text: &str) -> Vec<Trace> {
    let mut traces: Vec<Trace> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(name) = line.strip_prefix("# ") {
            traces.push(Trace { script: Script { name: name.to_owned(), steps: Vec::new() }, observed: Vec::new() });
            continue;
        }
        let trace = traces.last_mut().expect("a name before the first step");
        let (step, observed) = line.split_once(" => ").unwrap_or((line, ""));
        trace.script.steps.push(parse_step(step));
        trace.observed.push(observed.to_owned());
    }
    traces
}

impl Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# {}", self.name)?;
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# {}", self.script.name)?;
        self.script.steps.iter().zip(&self.observed).try_for_each(|(step, observed)| writeln!(f, "{step} => {observed}"))
    }
}

/// Where two runs of a script part, as a text for people; `None` if they agree.
pub fn difference(script: &Script, linux: &[String], library: &[String]) -> Option<String> {
    let at = (0..script.steps.len()).find(|&at| linux.get(at) != library.get(at))?;
    let mut text = format!("# {}\n", script.name);
    for (index, step) in script.steps.iter().enumerate().take(at) {
        text += &format!("{step} => {}\n", linux[index]);
    }
    text += &format!("{}\n    Linux:   {:?}\n    library: {:?}\n", script.steps[at], linux.get(at), library.get(at));
    Some(text)
}
