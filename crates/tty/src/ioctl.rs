//! The ioctls of terminals: their numbers as requests, and the layouts that they carry.
//!
//! Sources: ioctl_tty(2), tty_ioctl(4), termios(3); x86-64 layouts, little-endian.

use abi::raw::ioctl as number;

use crate::effects::Queue;
use crate::termios::{InputFlags, LocalFlags, OutputFlags, Termios, WinSize, control};

/// Which structure carries the settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// `struct termios`, 36 bytes: TCGETS.
    Termios,
    /// `struct termios2`, 44 bytes, with speeds: TCGETS2.
    Termios2,
    /// `struct termio`, 18 bytes, System V's: TCGETA.
    Termio,
}

/// When settings take effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// TCSANOW.
    Now,
    /// TCSADRAIN: once all output is transmitted.
    Drain,
    /// TCSAFLUSH: as `Drain`, and pending input is thrown away.
    Flush,
}

/// TCXONC's argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowControl {
    /// TCOOFF: stop output.
    StopOutput,
    /// TCOON: start it again.
    StartOutput,
    /// TCIOFF: send a STOP character.
    SendStop,
    /// TCION: send a START character.
    SendStart,
}

/// What an ioctl asks of a terminal. A number that is not here is not a terminal's: ENOTTY.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Request {
    GetSettings(Layout),
    SetSettings(Layout, When),
    /// TCSBRK (argument 0: break; else drain) and TCSBRKP.
    SendBreak,
    Drain,
    SetBreak,
    ClearBreak,
    /// TCXONC; decode the argument with [`FlowControl::from_argument`].
    FlowControl,
    /// TCFLSH; decode the argument with [`queue_from_argument`].
    Flush,
    /// FIONREAD, to an int.
    CountInput,
    /// TIOCOUTQ, to an int.
    CountOutput,
    /// TIOCSTI: a byte at the argument is received as if typed.
    Inject,
    GetWinSize,
    SetWinSize,
    SetControlling,
    GiveUpControlling,
    GetForeground,
    SetForeground,
    GetSession,
    GetExclusive,
    SetExclusive,
    ClearExclusive,
    /// The discipline's number, an int; only 0 (N_TTY) can be set.
    GetDiscipline,
    SetDiscipline,
    HangUp,
    GetPacketMode,
    SetPacketMode,
    GetPtyNumber,
    GetPtyLock,
    SetPtyLock,
    OpenPtyPeer,
    /// TIOCSIG: on a master, the argument is the signal.
    SignalForeground,
    GetDevice,
    /// CLOCAL as an int.
    GetSoftCarrier,
    SetSoftCarrier,
    GetModemLines,
    SetModemLines,
    RaiseModemLines,
    ClearModemLines,
    RedirectConsole,
}

impl Request {
    /// The request of an ioctl number.
    #[must_use]
    pub fn from_number(ioctl: u32) -> Option<Request> {
        use Layout as L;
        use Request as R;
        Some(match ioctl {
            number::TCGETS => R::GetSettings(L::Termios),
            number::TCGETS2 => R::GetSettings(L::Termios2),
            TCGETA => R::GetSettings(L::Termio),
            number::TCSETS => R::SetSettings(L::Termios, When::Now),
            number::TCSETSW => R::SetSettings(L::Termios, When::Drain),
            number::TCSETSF => R::SetSettings(L::Termios, When::Flush),
            number::TCSETS2 => R::SetSettings(L::Termios2, When::Now),
            number::TCSETSW2 => R::SetSettings(L::Termios2, When::Drain),
            number::TCSETSF2 => R::SetSettings(L::Termios2, When::Flush),
            number::TCSETA => R::SetSettings(L::Termio, When::Now),
            number::TCSETAW => R::SetSettings(L::Termio, When::Drain),
            number::TCSETAF => R::SetSettings(L::Termio, When::Flush),
            TCSBRK => R::Drain,
            TCSBRKP => R::SendBreak,
            number::TIOCSBRK => R::SetBreak,
            number::TIOCCBRK => R::ClearBreak,
            TCXONC => R::FlowControl,
            TCFLSH => R::Flush,
            number::FIONREAD => R::CountInput,
            number::TIOCOUTQ => R::CountOutput,
            number::TIOCSTI => R::Inject,
            number::TIOCGWINSZ => R::GetWinSize,
            number::TIOCSWINSZ => R::SetWinSize,
            number::TIOCSCTTY => R::SetControlling,
            number::TIOCNOTTY => R::GiveUpControlling,
            number::TIOCGPGRP => R::GetForeground,
            number::TIOCSPGRP => R::SetForeground,
            number::TIOCGSID => R::GetSession,
            number::TIOCGEXCL => R::GetExclusive,
            number::TIOCEXCL => R::SetExclusive,
            number::TIOCNXCL => R::ClearExclusive,
            number::TIOCGETD => R::GetDiscipline,
            number::TIOCSETD => R::SetDiscipline,
            number::TIOCVHANGUP => R::HangUp,
            number::TIOCGPKT => R::GetPacketMode,
            number::TIOCPKT => R::SetPacketMode,
            number::TIOCGPTN => R::GetPtyNumber,
            number::TIOCGPTLCK => R::GetPtyLock,
            number::TIOCSPTLCK => R::SetPtyLock,
            number::TIOCGPTPEER => R::OpenPtyPeer,
            number::TIOCSIG => R::SignalForeground,
            number::TIOCGDEV => R::GetDevice,
            number::TIOCGSOFTCAR => R::GetSoftCarrier,
            number::TIOCSSOFTCAR => R::SetSoftCarrier,
            number::TIOCMGET => R::GetModemLines,
            number::TIOCMSET => R::SetModemLines,
            number::TIOCMBIS => R::RaiseModemLines,
            number::TIOCMBIC => R::ClearModemLines,
            number::TIOCCONS => R::RedirectConsole,
            _ => return None,
        })
    }

    /// Whether a background process is stopped by it (SIGTTOU): ask [`crate::job::Control::check`] with [`crate::job::Access::Change`].
    /// SetForeground has a check of its own.
    #[must_use]
    pub fn changes_terminal(self) -> bool {
        use Request as R;
        matches!(
            self,
            R::SetSettings(..)
                | R::SendBreak
                | R::Drain
                | R::SetBreak
                | R::ClearBreak
                | R::FlowControl
                | R::Flush
                | R::SetDiscipline
                | R::SetSoftCarrier
        )
    }
}

const TCGETA: u32 = 0x5405;
const TCSBRK: u32 = 0x5409;
const TCXONC: u32 = 0x540a;
const TCFLSH: u32 = 0x540b;
const TCSBRKP: u32 = 0x5425;

impl FlowControl {
    /// TCXONC's argument; `None` is EINVAL.
    #[must_use]
    pub fn from_argument(argument: u64) -> Option<Self> {
        Some(match argument {
            0 => FlowControl::StopOutput,
            1 => FlowControl::StartOutput,
            2 => FlowControl::SendStop,
            3 => FlowControl::SendStart,
            _ => return None,
        })
    }
}

/// TCFLSH's argument; `None` is EINVAL.
#[must_use]
pub fn queue_from_argument(argument: u64) -> Option<Queue> {
    Some(match argument {
        0 => Queue::Input,
        1 => Queue::Output,
        2 => Queue::Both,
        _ => return None,
    })
}

/// Bytes of a `struct winsize`.
pub const WINSIZE_BYTES: usize = 8;

impl WinSize {
    /// The layout of `struct winsize`.
    #[must_use]
    pub fn to_bytes(self) -> [u8; WINSIZE_BYTES] {
        let mut bytes = [0; WINSIZE_BYTES];
        for (slot, value) in bytes.chunks_exact_mut(2).zip([self.rows, self.columns, self.x_pixels, self.y_pixels]) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// From the layout of `struct winsize`.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; WINSIZE_BYTES]) -> Self {
        let [r0, r1, c0, c1, x0, x1, y0, y1] = *bytes;
        WinSize {
            rows: u16::from_le_bytes([r0, r1]),
            columns: u16::from_le_bytes([c0, c1]),
            x_pixels: u16::from_le_bytes([x0, x1]),
            y_pixels: u16::from_le_bytes([y0, y1]),
        }
    }
}

impl Layout {
    /// Bytes of the structure.
    #[must_use]
    pub fn len_bytes(self) -> usize {
        match self {
            Layout::Termios => 36,
            Layout::Termios2 => 44,
            Layout::Termio => 18,
        }
    }

    /// The settings in this layout.
    #[must_use]
    pub fn encode(self, termios: &Termios) -> Vec<u8> {
        let flags = [termios.input.bits(), termios.output.bits(), termios.control, termios.local.bits()];
        let mut bytes = Vec::with_capacity(self.len_bytes());
        if self == Layout::Termio {
            flags.iter().for_each(|flag| bytes.extend((*flag as u16).to_le_bytes()));
            bytes.push(termios.line);
            bytes.extend(termios.chars.iter().take(8));
        } else {
            flags.iter().for_each(|flag| bytes.extend(flag.to_le_bytes()));
            bytes.push(termios.line);
            bytes.extend(termios.chars);
        }
        if self == Layout::Termios2 {
            bytes.extend(termios.input_speed.to_le_bytes());
            bytes.extend(termios.output_speed.to_le_bytes());
        }
        bytes.resize(self.len_bytes(), 0);
        bytes
    }

    /// The settings `old` with what these bytes change. `None` if there are too few bytes.
    ///
    /// `struct termio` holds the lower halves of the flags and eight characters: the rest stays. Speeds follow from `c_cflag`, but in
    /// `termios2` where it says BOTHER.
    #[must_use]
    pub fn decode(self, bytes: &[u8], old: &Termios) -> Option<Termios> {
        let mut new = old.clone();
        let mut at = Cursor(bytes.get(..self.len_bytes())?);
        if self == Layout::Termio {
            let mut half = |old: u32| Some((old & 0xffff_0000) | u32::from(at.u16()?));
            new.input = InputFlags::from_bits_retain(half(old.input.bits())?);
            new.output = OutputFlags::from_bits_retain(half(old.output.bits())?);
            new.control = half(old.control)?;
            new.local = LocalFlags::from_bits_retain(half(old.local.bits())?);
        } else {
            new.input = InputFlags::from_bits_retain(at.u32()?);
            new.output = OutputFlags::from_bits_retain(at.u32()?);
            new.control = at.u32()?;
            new.local = LocalFlags::from_bits_retain(at.u32()?);
        }
        new.line = at.u8()?;
        let chars = if self == Layout::Termio { 8 } else { new.chars.len() };
        for slot in new.chars.iter_mut().take(chars) {
            *slot = at.u8()?;
        }
        let given = if self == Layout::Termios2 { (at.u32()?, at.u32()?) } else { (old.input_speed, old.output_speed) };
        new.output_speed = speed_of_code(new.control, given.1);
        new.input_speed = match new.control >> control::IBSHIFT & control::CBAUD {
            0 => new.output_speed,
            code => speed_of_code(code, given.0),
        };
        Some(new)
    }
}

/// Bytes taken from the front, never beyond the end.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
}

/// Baud by speed code: codes 0 to 15, then BOTHER and up.
const SLOW: [u32; 16] = [0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400];
const FAST: [u32; 15] = [
    57_600, 115_200, 230_400, 460_800, 500_000, 576_000, 921_600, 1_000_000, 1_152_000, 1_500_000, 2_000_000, 2_500_000, 3_000_000,
    3_500_000, 4_000_000,
];

/// The speed in baud that the code in `c_cflag` means; `other` where the code says BOTHER.
fn speed_of_code(flags: u32, other: u32) -> u32 {
    let code = flags & control::CBAUD;
    let low = (code & 0o17) as usize;
    if code & control::BOTHER == 0 {
        SLOW.get(low).copied().unwrap_or(0)
    } else {
        match low.checked_sub(1) {
            None => other,
            Some(index) => FAST.get(index).copied().unwrap_or(0),
        }
    }
}
