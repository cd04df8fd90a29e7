//! Classic BPF: the filter language of packet sockets (bpf(4) of BSD, Linux's `networking/filter.rst`), checked when attached, then interpreted.
//!
//! Always true: a [`Program`] has only forward jumps inside of itself and ends in a return, so a run takes at most one step for each
//! instruction; it reads nothing outside of the packet and the scratch cells that it wrote; a read past the end rejects the packet.

use abi::Errno;

/// One instruction, `struct sock_filter`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when true.
    pub jump_true: u8,
    /// Instructions to skip when false.
    pub jump_false: u8,
    /// Operand.
    pub k: u32,
}

impl Instruction {
    /// Instructions as they lie in memory, eight bytes each.
    #[must_use]
    pub fn parse_all(bytes: &[u8]) -> Vec<Instruction> {
        let one = |b: &[u8; 8]| Instruction {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jump_true: b[2],
            jump_false: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        };
        bytes.as_chunks().0.iter().map(one).collect()
    }
}

/// Most instructions (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;
const CELLS: usize = 16;

/// What a program can ask about a packet beside its bytes (`SKF_AD_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ancillary {
    /// EtherType.
    pub protocol: u16,
    /// `PACKET_HOST` and the like.
    pub kind: u32,
    /// Interface index.
    pub interface: u32,
    /// Firewall mark.
    pub mark: u32,
    /// Hardware type of the interface.
    pub hardware: u32,
    /// Where the network header is in the packet, for loads relative to it.
    pub network_at: usize,
    /// A random number.
    pub random: u32,
}

/// A program that has been checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    instructions: Vec<Instruction>,
}

// Classes and fields of an operation code.
const LD: u16 = 0;
const LDX: u16 = 1;
const ST: u16 = 2;
const STX: u16 = 3;
const ALU: u16 = 4;
const JMP: u16 = 5;
const RET: u16 = 6;

impl Program {
    /// Checks a program as Linux does. EINVAL for one that is empty, too long, jumps out of itself, divides by zero, reads a cell that may
    /// not have been written, has an unknown operation, or does not end in a return.
    pub fn new(instructions: Vec<Instruction>) -> Result<Program, Errno> {
        let len = instructions.len();
        if len == 0 || len > MAX_INSTRUCTIONS {
            return Err(Errno::EINVAL);
        }
        // Which cells are surely written where control arrives.
        let mut written = vec![u16::MAX; len];
        written[0] = 0;
        for at in 0..len {
            let instruction = instructions[at];
            let mut cells = written[at];
            if !is_known(instruction) {
                return Err(Errno::EINVAL);
            }
            let mut flow = |to: usize, cells: u16| match written.get_mut(to) {
                Some(there) => {
                    *there &= cells;
                    Ok(())
                }
                None => Err(Errno::EINVAL),
            };
            match instruction.code & 7 {
                ST | STX => {
                    cells |= 1 << instruction.k;
                    flow(at + 1, cells)?;
                }
                LD | LDX => {
                    if instruction.code & 0xe0 == 0x60 && cells & 1 << instruction.k == 0 {
                        return Err(Errno::EINVAL);
                    }
                    flow(at + 1, cells)?;
                }
                JMP if instruction.code & 0xf0 == 0 => {
                    let to = usize::try_from(instruction.k).ok().and_then(|k| at.checked_add(1)?.checked_add(k)).ok_or(Errno::EINVAL)?;
                    flow(to, cells)?;
                }
                JMP => {
                    flow(at + 1 + usize::from(instruction.jump_true), cells)?;
                    flow(at + 1 + usize::from(instruction.jump_false), cells)?;
                }
                RET => {}
                _ => flow(at + 1, cells)?,
            }
        }
        match instructions.last() {
            Some(last) if last.code & 7 == RET => Ok(Program { instructions }),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The instructions (`SO_GET_FILTER`).
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// How many bytes of `packet` to keep; 0 rejects it.
    #[must_use]
    pub fn run(&self, packet: &[u8], ancillary: &Ancillary) -> u32 {
        Machine { packet, ancillary, a: 0, x: 0, cells: [0; CELLS] }.run(&self.instructions)
    }
}

/// Whether the operation exists and its operand makes sense.
fn is_known(instruction: Instruction) -> bool {
    let Instruction { code, k, .. } = instruction;
    match code {
        // Loads: absolute, indirect and length in three widths, constants, cells, the IP header length.
        0x20 | 0x28 | 0x30 | 0x40 | 0x48 | 0x50 | 0x80 | 0x00 | 0x81 | 0x01 | 0xb1 => true,
        0x60 | 0x61 | 0x02 | 0x03 => (k as usize) < CELLS,
        // Arithmetic with a constant and with X.
        0x04 | 0x14 | 0x24 | 0x44 | 0x54 | 0xa4 | 0x84 => true,
        0x34 | 0x94 => k != 0,
        0x64 | 0x74 => k < 32,
        0x0c | 0x1c | 0x2c | 0x3c | 0x4c | 0x5c | 0x6c | 0x7c | 0x9c | 0xac => true,
        // Jumps, returns, moves.
        0x05 | 0x15 | 0x25 | 0x35 | 0x45 | 0x1d | 0x2d | 0x3d | 0x4d => true,
        0x06 | 0x16 | 0x07 | 0x87 => true,
        _ => false,
    }
}

struct Machine<'a> {
    packet: &'a [u8],
    ancillary: &'a Ancillary,
    a: u32,
    x: u32,
    cells: [u32; CELLS],
}

impl Machine<'_> {
    fn run(mut self, instructions: &[Instruction]) -> u32 {
        let mut at = 0;
        while let Some(&instruction) = instructions.get(at) {
            at += 1;
            let Instruction { code, jump_true, jump_false, k } = instruction;
            let cell = k as usize % CELLS;
            match code {
                0x20 | 0x28 | 0x30 => match self.load(u64::from(k), code) {
                    Some(value) => self.a = value,
                    None => return 0,
                },
                0x40 | 0x48 | 0x50 => match self.load_indirect(k, code) {
                    Some(value) => self.a = value,
                    None => return 0,
                },
                0x80 => self.a = self.packet.len() as u32,
                0x81 => self.x = self.packet.len() as u32,
                0x00 => self.a = k,
                0x01 => self.x = k,
                0x60 => self.a = self.cells[cell],
                0x61 => self.x = self.cells[cell],
                0xb1 => match self.load(u64::from(k), 0x30) {
                    Some(byte) => self.x = (byte & 0xf) * 4,
                    None => return 0,
                },
                0x02 => self.cells[cell] = self.a,
                0x03 => self.cells[cell] = self.x,
                0x05 => at += k as usize,
                0x06 => return k,
                0x16 => return self.a,
                0x07 => self.x = self.a,
                0x87 => self.a = self.x,
                _ if code & 7 == ALU => {
                    let operand = if code & 8 != 0 { self.x } else { k };
                    match alu(code & 0xf0, self.a, operand) {
                        Some(value) => self.a = value,
                        None => return 0,
                    }
                }
                _ => {
                    let operand = if code & 8 != 0 { self.x } else { k };
                    let holds = match code & 0xf0 {
                        0x10 => self.a == operand,
                        0x20 => self.a > operand,
                        0x30 => self.a >= operand,
                        _ => self.a & operand != 0,
                    };
                    at += usize::from(if holds { jump_true } else { jump_false });
                }
            }
        }
        0
    }

    fn load_indirect(&mut self, k: u32, code: u16) -> Option<u32> {
        // Linux adds as signed, so that a negative base still means ancillary data.
        let at = if (k as i32) < 0 { u64::from(k.wrapping_add(self.x)) } else { u64::from(k) + u64::from(self.x) };
        self.load(
            at,
            if code == 0x40 {
                0x20
            } else if code == 0x48 {
                0x28
            } else {
                0x30
            },
        )
    }

    /// A word, half-word or byte at `at`, big-endian; negative positions are ancillary.
    fn load(&mut self, at: u64, code: u16) -> Option<u32> {
        let signed = i64::from(at as u32 as i32);
        if at <= u64::from(u32::MAX) && signed < 0 {
            return self.load_special(signed, code);
        }
        self.bytes(usize::try_from(at).ok()?, code)
    }

    fn bytes(&self, at: usize, code: u16) -> Option<u32> {
        let width = match code {
            0x20 => 4,
            0x28 => 2,
            _ => 1,
        };
        let bytes = self.packet.get(at..at.checked_add(width)?)?;
        Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }

    fn load_special(&mut self, at: i64, code: u16) -> Option<u32> {
        const AD: i64 = -0x1000;
        const NET: i64 = -0x10_0000;
        const LINK: i64 = -0x20_0000;
        if at < NET {
            return self.bytes(usize::try_from(at - LINK).ok()?, code);
        }
        if at < AD {
            return self.bytes(usize::try_from(at - NET).ok()?.checked_add(self.ancillary.network_at)?, code);
        }
        match at - AD {
            0 => Some(self.ancillary.protocol.into()),
            4 => Some(self.ancillary.kind),
            8 => Some(self.ancillary.interface),
            20 => Some(self.ancillary.mark),
            28 => Some(self.ancillary.hardware),
            40 => Some(self.a ^ self.x),
            // Queue, hash, processor, VLAN: none here.
            24 | 32 | 36 | 44 | 48 | 60 => Some(0),
            52 => Some(self.ancillary.network_at as u32),
            56 => Some(self.ancillary.random),
            _ => None,
        }
    }
}

fn alu(operation: u16, a: u32, operand: u32) -> Option<u32> {
    Some(match operation {
        0x00 => a.wrapping_add(operand),
        0x10 => a.wrapping_sub(operand),
        0x20 => a.wrapping_mul(operand),
        0x30 => a.checked_div(operand)?,
        0x40 => a | operand,
        0x50 => a & operand,
        0x60 => a.checked_shl(operand).unwrap_or(0),
        0x70 => a.checked_shr(operand).unwrap_or(0),
        0x80 => a.wrapping_neg(),
        0x90 => a.checked_rem(operand)?,
        _ => a ^ operand,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(code: &[(u16, u8, u8, u32)]) -> Result<Program, Errno> {
        Program::new(code.iter().map(|&(code, jump_true, jump_false, k)| Instruction { code, jump_true, jump_false, k }).collect())
    }

    #[test]
    fn what_tcpdump_makes_of_udp_port_53_accepts_just_that() {
        // tcpdump -dd "ip and udp dst port 53" on Ethernet.
        let filter = program(&[
            (0x28, 0, 0, 12),
            (0x15, 0, 8, 0x800),
            (0x30, 0, 0, 23),
            (0x15, 0, 6, 17),
            (0x28, 0, 0, 20),
            (0x45, 4, 0, 0x1fff),
            (0xb1, 0, 0, 14),
            (0x48, 0, 0, 16),
            (0x15, 0, 1, 53),
            (0x06, 0, 0, 262_144),
            (0x06, 0, 0, 0),
        ])
        .unwrap();
        let mut packet = vec![0; 60];
        packet[12] = 8;
        (packet[14], packet[23], packet[37]) = (0x45, 17, 53);
        assert_eq!(filter.run(&packet, &Ancillary::default()), 262_144);
        packet[37] = 54;
        assert_eq!(filter.run(&packet, &Ancillary::default()), 0);
        assert_eq!(filter.run(&packet[..30], &Ancillary::default()), 0, "cut short");
    }

    #[test]
    fn programs_that_could_run_away_are_refused() {
        for (code, why) in [
            (&[][..], "empty"),
            (&[(0x00, 0, 0, 1)], "no return"),
            (&[(0x05, 0, 0, 5), (0x06, 0, 0, 0)], "a jump out"),
            (&[(0x05, 0, 0, u32::MAX), (0x06, 0, 0, 0)], "a jump back"),
            (&[(0x15, 1, 0, 0), (0x06, 0, 0, 0)], "a branch out"),
            (&[(0x34, 0, 0, 0), (0x06, 0, 0, 0)], "division by zero"),
            (&[(0x02, 0, 0, 16), (0x06, 0, 0, 0)], "a cell too far"),
            (&[(0x60, 0, 0, 3), (0x06, 0, 0, 0)], "a cell never written"),
            (&[(0x15, 0, 1, 0), (0x02, 0, 0, 3), (0x60, 0, 0, 3), (0x06, 0, 0, 0)], "a cell written on one way only"),
            (&[(0xff, 0, 0, 0), (0x06, 0, 0, 0)], "an unknown operation"),
        ] {
            assert_eq!(program(code), Err(Errno::EINVAL), "{why}");
        }
        assert!(program(&[(0x02, 0, 0, 3), (0x60, 0, 0, 3), (0x16, 0, 0, 0)]).is_ok());
    }

    #[test]
    fn division_by_an_x_of_zero_and_reads_past_the_end_reject() {
        let run =
            |code: &[(u16, u8, u8, u32)]| program(code).unwrap().run(&[1, 2, 3, 4], &Ancillary { interface: 7, ..Ancillary::default() });
        assert_eq!(run(&[(0x3c, 0, 0, 0), (0x06, 0, 0, 9)]), 0);
        assert_eq!(run(&[(0x20, 0, 0, 1), (0x06, 0, 0, 9)]), 0);
        assert_eq!(run(&[(0x20, 0, 0, 0), (0x16, 0, 0, 0)]), 0x0102_0304);
        assert_eq!(run(&[(0x20, 0, 0, 0xffff_f008), (0x16, 0, 0, 0)]), 7, "the interface index");
        assert_eq!(run(&[(0x01, 0, 0, u32::MAX), (0x50, 0, 0, 1), (0x06, 0, 0, 9)]), 0, "an index that would wrap");
    }

    #[test]
    fn any_program_that_is_accepted_ends() {
        let mut state = 1u64;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        let known: Vec<u16> = (0..256).filter(|code| is_known(Instruction { code: *code, jump_true: 0, jump_false: 0, k: 1 })).collect();
        let mut accepted = 0;
        for _ in 0..50_000 {
            let len = 1 + next() % 12;
            let mut code: Vec<(u16, u8, u8, u32)> = (0..len)
                .map(|_| {
                    (
                        known[next() as usize % known.len()],
                        (next() % 4) as u8,
                        (next() % 4) as u8,
                        [next() % 20, next()][next() as usize % 2],
                    )
                })
                .collect();
            code.push((0x16, 0, 0, 0));
            if let Ok(program) = program(&code) {
                accepted += 1;
                let _ = program.run(&[0xff; 40], &Ancillary::default());
            }
        }
        assert!(accepted > 1000);
    }
}
