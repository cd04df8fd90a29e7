//! Where scripts come from: one for each flag and character, conversations written by hand, and seeded chance.

use tty::ioctl::{FlowControl, When};
use tty::{ControlChar, InputFlags, LocalFlags, OutputFlags, Queue, Side, Termios};

use super::script::{Script, Step, char_names, flag_names, parse, with};

/// Three kinds of terminal that each flag is tried on: a shell's, a line without lines, and a transparent one.
const BASES: [(&str, &str); 3] = [
    ("canonical", ""),
    ("bytewise", "-ICANON"),
    ("transparent", "-ICRNL -IXON -OPOST -ONLCR -ISIG -ICANON -ECHO -ECHOE -ECHOK -ECHOCTL -ECHOKE -IEXTEN"),
];

/// What is typed, one batch after the other, to bring out every flag and character.
const TYPED: [&[u8]; 9] = [
    b"Ab\tc\x01\x7f\x7f\x7f",
    b"one  two_3 \x17\x17\x16\x7f\x7f",
    b"xyz\x15q\x12r\r",
    b"\xc3\xa9\xe6\x97\xa5\x7f\x7f\x7f\x7f\xff\xd7\n",
    b"e\x04\x04",
    b"s\x13t",
    b"u\x11v\n",
    b"k\x03m\n\x1cn\x1ao\n",
    b"a\x08b\x00c\x1b[A\n\n",
];
/// What programs write.
const WRITTEN: &[u8] = b"\rab\tC\xc3\xa9\tz\r\r\nq\x08\x08\tw\x07\nv";

fn probes(steps: &mut Vec<Step>) {
    for typed in TYPED {
        steps.push(Step::Write(Side::Master, typed.to_vec()));
        steps.push(Step::Read(Side::Slave, 7));
        steps.push(Step::Read(Side::Slave, 100));
    }
    steps.push(Step::Read(Side::Slave, 100));
    steps.push(Step::Read(Side::Master, 1000));
    steps.push(Step::Write(Side::Slave, WRITTEN.to_vec()));
    // What a tab erases depends on where the line began.
    steps.push(Step::Write(Side::Master, b"\tx\t\x7f\x7f\x7f\n".to_vec()));
    steps.push(Step::Read(Side::Master, 1000));
}

fn script(name: String, base: &str, change: &str) -> Script {
    let mut steps = vec![Step::Set(with(with(Termios::pty_slave(), base), change), When::Now)];
    probes(&mut steps);
    Script { name, steps }
}

/// Each flag on and off, on each kind of terminal.
pub fn flags() -> Vec<Script> {
    let tried = |(kind, base): (&str, &'static str)| {
        let kind = kind.to_owned();
        flag_names().flat_map(move |flag| {
            let kind = kind.clone();
            ["+", "-"].into_iter().map(move |sign| script(format!("{kind} {sign}{flag}"), base, &format!("{sign}{flag}")))
        })
    };
    BASES.into_iter().flat_map(tried).collect()
}

/// Each control character disabled and set to bytes that mean something else already.
pub fn chars() -> Vec<Script> {
    let values = [0, b'o', b'\n', b'\r', b'\t', 0xff, 0x7f];
    char_names()
        .filter(|name| !["time", "min", "switch", "discard"].contains(name))
        .flat_map(|name| values.map(|value| script(format!("{name} is {value}"), "", &format!("{name}={value}"))))
        .collect()
}

/// Pairs of echo flags, which are read together.
pub fn echoes() -> Vec<Script> {
    let flags = ["ECHOE", "ECHOK", "ECHOCTL", "ECHOKE", "ECHOPRT", "ECHONL"];
    let combinations = (0..1 << flags.len()).map(|bits: u32| {
        let words: Vec<String> =
            flags.iter().enumerate().map(|(at, flag)| format!("{}{flag}", if bits & 1 << at == 0 { '-' } else { '+' })).collect();
        script(format!("echo {}", words.join(" ")), "", &words.join(" "))
    });
    combinations.collect()
}

/// Conversations written by hand.
pub fn conversations() -> Vec<Script> {
    parse(include_str!("conversations.txt")).into_iter().map(|trace| trace.script).collect()
}

/// Numbers from a seed, the same everywhere (xorshift).
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 33) % bound as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

const WORDS: [&[u8]; 46] = [
    b"a",
    b"Bc",
    b"word ",
    b"x",
    b"o",
    b" ",
    b"  ",
    b"\t",
    b"\t\t",
    b"\n",
    b"\n",
    b"\r",
    b"\x7f",
    b"\x7f",
    b"\x7f\x7f",
    b"\x15",
    b"\x17",
    b"\x17",
    b"\x12",
    b"\x16",
    b"\x16",
    b"\x04",
    b"\x03",
    b"\x1c",
    b"\x1a",
    b"\x13",
    b"\x11",
    b"\x08",
    b"\x01",
    b"\x1b",
    b"\x00",
    b"\xff",
    b"\xc3\xa9",
    b"\xe6\x97\xa5",
    b"\x80",
    b"\xc3",
    b"\xdf",
    b"\xd7",
    b"_",
    b"9",
    b".",
    b"-",
    b"\x07",
    b"\x0c",
    b"\xbf\xbf",
    b"end\n",
];

fn text(chance: &mut Chance, words: usize) -> Vec<u8> {
    (0..=chance.below(words)).flat_map(|_| chance.pick(&WORDS).iter().copied()).collect()
}

/// Enough of one thing to fill buffers, now and then.
fn bulk(chance: &mut Chance, most: usize) -> Vec<u8> {
    let what = chance.pick(&[&b"x"[..], b"y", b"\xff", b"long line\n", b"\t", b"\x01", b"\xc3\xa9", b"\n"]);
    let mut bytes = what.repeat(1 + chance.below(most) / what.len());
    bytes.extend(text(chance, 4));
    bytes
}

/// Whether the bytes flush output that they echoed themselves. In a long batch Linux may have moved some of that on by then, or not.
fn flushes(termios: &Termios, bytes: &[u8]) -> bool {
    let chars = [ControlChar::Intr, ControlChar::Quit, ControlChar::Susp].map(|which| termios.char(which));
    termios.has(LocalFlags::ISIG) && bytes.iter().any(|&byte| chars.contains(&Some(byte)))
}

fn settings(chance: &mut Chance) -> Termios {
    let flags: Vec<&str> = flag_names().filter(|name| *name != "EXTPROC").collect();
    let mut termios = with(Termios::pty_slave(), chance.pick(&BASES.map(|base| base.1)));
    for _ in 0..chance.below(7) {
        let sign = if chance.one_in(2) { '+' } else { '-' };
        termios = with(termios, &format!("{sign}{}", chance.pick(&flags)));
    }
    // The flags that change most are tried most.
    for (flag, odds) in [(LocalFlags::ECHOPRT, 8), (LocalFlags::ICANON, 6), (LocalFlags::NOFLSH, 4), (LocalFlags::EXTPROC, 24)] {
        if chance.one_in(odds) {
            termios.local.toggle(flag);
        }
    }
    if chance.one_in(3) {
        termios.input.toggle(InputFlags::IUTF8);
    }
    if chance.one_in(6) {
        termios.output.toggle(OutputFlags::XTABS);
    }
    while chance.one_in(3) {
        let names: Vec<&str> = char_names().filter(|name| *name != "time").collect();
        let value = chance.pick(&[0, b'x', b'o', b'\n', b'\r', b'\t', 0x08, 0xff, b' ', 0x7f, 0x04, 3]);
        termios = with(termios, &format!("{}={value}", chance.pick(&names)));
    }
    if chance.one_in(8) {
        // Everything but the speed.
        termios.control ^= (chance.below(1 << 8) as u32) << 4;
    }
    if chance.one_in(12) {
        termios = with(termios, "min=0 time=1");
    }
    termios
}

/// A script of this seed. `packets`: whether it may use packet mode.
pub fn random(seed: u64, packets: bool) -> Script {
    let mut chance = Chance::new(seed);
    let chance = &mut chance;
    let mut steps = Vec::new();
    let mut slave_open = true;
    let mut current = Termios::pty_slave();
    let mut had_long_line = false;
    // So few that the bytes on the way stay below what every Linux lets be there: how many that are is the allocator's affair.
    let mut bulks = 0;
    if packets && chance.one_in(8) {
        steps.push(Step::PacketMode(true));
    }
    let length = if chance.one_in(10) { 60 } else { 16 };
    for _ in 0..6 + chance.below(length) {
        let count = chance.pick(&[1, 2, 5, 10, 63, 64, 65, 100, 128, 1000, 5000]);
        let side = if chance.one_in(4) { Side::Master } else { Side::Slave };
        let step = match chance.below(100) {
            0..12 => {
                current = settings(chance);
                Step::Set(current.clone(), chance.pick(&[When::Now, When::Now, When::Drain, When::Flush]))
            }
            12..15 if bulks == 3 => continue,
            12..14 => {
                // On Linux, erasing a long line can overrun the echo buffer, and then old echoes come up again. That is not ours to repeat.
                let canonical = current.has(LocalFlags::ICANON);
                bulks += 1;
                let expands = current.output.contains(OutputFlags::XTABS);
                let bytes = bulk(
                    chance,
                    if expands {
                        150
                    } else if canonical {
                        450
                    } else {
                        1500
                    },
                );
                if flushes(&current, &bytes) || (canonical && std::mem::replace(&mut had_long_line, true)) {
                    continue;
                }
                Step::Write(Side::Master, bytes)
            }
            14 if slave_open => {
                bulks += 1;
                Step::Write(Side::Slave, bulk(chance, if current.output.contains(OutputFlags::XTABS) { 150 } else { 1500 }))
            }
            15..50 => Step::Write(Side::Master, text(chance, 12)),
            50..62 if slave_open => Step::Write(Side::Slave, text(chance, 12)),
            62..76 if slave_open => Step::Read(Side::Slave, count),
            76..88 => Step::Read(Side::Master, count),
            88..91 if slave_open || side == Side::Master => Step::Flush(side, chance.pick(&[Queue::Input, Queue::Output, Queue::Both])),
            91..95 if slave_open => Step::Flow(
                Side::Slave,
                chance.pick(&[FlowControl::StopOutput, FlowControl::StartOutput, FlowControl::SendStop, FlowControl::SendStart]),
            ),
            95 => Step::Size(chance.below(3) as u16, 80),
            96 if slave_open => {
                slave_open = false;
                Step::CloseSlave
            }
            _ if !slave_open => {
                slave_open = true;
                Step::OpenSlave
            }
            97 => Step::Get,
            _ => continue,
        };
        steps.push(step);
    }
    steps.extend([Step::Read(Side::Master, 1000), Step::Read(Side::Slave, 1000)].into_iter().take(if slave_open { 2 } else { 1 }));
    if chance.one_in(6) {
        steps.push(Step::CloseMaster);
        if slave_open {
            steps.extend([Step::Read(Side::Slave, 100), Step::Write(Side::Slave, b"x".to_vec()), Step::Get]);
        }
    }
    Script { name: format!("seed {seed}"), steps }
}
