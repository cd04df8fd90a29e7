//! Terminal settings: the flags, the control characters, the speeds. termios(3).
//!
//! Not here: the ioctl layouts ([`crate::ioctl`]) and what a flag does (the discipline).

use bitflags::bitflags;

bitflags! {
    /// `c_iflag`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct InputFlags: u32 {
        #[allow(missing_docs)] const IGNBRK = 0o1;
        #[allow(missing_docs)] const BRKINT = 0o2;
        #[allow(missing_docs)] const IGNPAR = 0o4;
        #[allow(missing_docs)] const PARMRK = 0o10;
        #[allow(missing_docs)] const INPCK = 0o20;
        #[allow(missing_docs)] const ISTRIP = 0o40;
        #[allow(missing_docs)] const INLCR = 0o100;
        #[allow(missing_docs)] const IGNCR = 0o200;
        #[allow(missing_docs)] const ICRNL = 0o400;
        #[allow(missing_docs)] const IUCLC = 0o1000;
        #[allow(missing_docs)] const IXON = 0o2000;
        #[allow(missing_docs)] const IXANY = 0o4000;
        /// Kept, not acted on: N_TTY leaves it to a serial driver to send STOP. Here a sender feels refused
        /// input ([`crate::LineDiscipline::room`]).
        const IXOFF = 0o10000;
        /// Linux acts as if it were always set, termios(3): input beyond a full buffer is dropped silently.
        const IMAXBEL = 0o20000;
        #[allow(missing_docs)] const IUTF8 = 0o40000;
        const _ = !0;
    }

    /// `c_oflag`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct OutputFlags: u32 {
        #[allow(missing_docs)] const OPOST = 0o1;
        #[allow(missing_docs)] const OLCUC = 0o2;
        #[allow(missing_docs)] const ONLCR = 0o4;
        #[allow(missing_docs)] const OCRNL = 0o10;
        #[allow(missing_docs)] const ONOCR = 0o20;
        #[allow(missing_docs)] const ONLRET = 0o40;
        /// Both bits of `TABDLY` set: tabs become spaces.
        const XTABS = 0o14000;
        const _ = !0;
    }

    /// `c_lflag`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct LocalFlags: u32 {
        #[allow(missing_docs)] const ISIG = 0o1;
        #[allow(missing_docs)] const ICANON = 0o2;
        #[allow(missing_docs)] const ECHO = 0o10;
        #[allow(missing_docs)] const ECHOE = 0o20;
        #[allow(missing_docs)] const ECHOK = 0o40;
        #[allow(missing_docs)] const ECHONL = 0o100;
        #[allow(missing_docs)] const NOFLSH = 0o200;
        #[allow(missing_docs)] const TOSTOP = 0o400;
        #[allow(missing_docs)] const ECHOCTL = 0o1000;
        #[allow(missing_docs)] const ECHOPRT = 0o2000;
        #[allow(missing_docs)] const ECHOKE = 0o4000;
        #[allow(missing_docs)] const IEXTEN = 0o100000;
        #[allow(missing_docs)] const EXTPROC = 0o200000;
        const _ = !0;
    }
}

/// `c_cflag` bits. The discipline looks at none of them: they are kept for programs that set and read them.
pub mod control {
    /// Mask of the output speed code.
    pub const CBAUD: u32 = 0o10017;
    /// Speed code "see `c_ospeed`".
    pub const BOTHER: u32 = 0o10000;
    /// Mask of the character size.
    pub const CSIZE: u32 = 0o60;
    /// Eight bits a character.
    pub const CS8: u32 = 0o60;
    /// Receiver on.
    pub const CREAD: u32 = 0o200;
    /// Parity on.
    pub const PARENB: u32 = 0o400;
    /// Hang up on last close.
    pub const HUPCL: u32 = 0o2000;
    /// Ignore modem lines.
    pub const CLOCAL: u32 = 0o4000;
    /// How far the input speed code is shifted.
    pub const IBSHIFT: u32 = 16;
    /// Speed code of 38,400 baud.
    pub const B38400: u32 = 0o17;
}

/// Which control character: the index into `c_cc`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum ControlChar {
    Intr = 0,
    Quit = 1,
    Erase = 2,
    Kill = 3,
    Eof = 4,
    Time = 5,
    Min = 6,
    Switch = 7,
    Start = 8,
    Stop = 9,
    Susp = 10,
    Eol = 11,
    Reprint = 12,
    Discard = 13,
    WordErase = 14,
    LiteralNext = 15,
    Eol2 = 16,
}

/// The settings of a terminal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Termios {
    /// `c_iflag`.
    pub input: InputFlags,
    /// `c_oflag`.
    pub output: OutputFlags,
    /// `c_cflag`, see [`control`].
    pub control: u32,
    /// `c_lflag`.
    pub local: LocalFlags,
    /// `c_line`: the discipline's number, 0 for N_TTY. Kept, not acted on.
    pub line: u8,
    /// `c_cc`.
    pub chars: [u8; 19],
    /// Input speed in baud.
    pub input_speed: u32,
    /// Output speed in baud.
    pub output_speed: u32,
}

/// `c_cc` of a fresh terminal.
const INITIAL_CHARS: [u8; 19] = [3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0];

impl Default for Termios {
    /// The settings of a fresh terminal on Linux: canonical, echoing, `^C ^\ DEL ^U ^D`.
    fn default() -> Self {
        Termios {
            input: InputFlags::ICRNL | InputFlags::IXON,
            output: OutputFlags::OPOST | OutputFlags::ONLCR,
            control: control::B38400 | control::CS8 | control::CREAD | control::HUPCL,
            local: LocalFlags::ISIG
                | LocalFlags::ICANON
                | LocalFlags::ECHO
                | LocalFlags::ECHOE
                | LocalFlags::ECHOK
                | LocalFlags::ECHOCTL
                | LocalFlags::ECHOKE
                | LocalFlags::IEXTEN,
            line: 0,
            chars: INITIAL_CHARS,
            input_speed: 38400,
            output_speed: 38400,
        }
    }
}

impl Termios {
    /// What the slave of a fresh pty pair has: as [`Termios::default`] without HUPCL.
    #[must_use]
    pub fn pty_slave() -> Self {
        Termios { control: control::B38400 | control::CS8 | control::CREAD, ..Termios::default() }
    }

    /// Everything off, one byte at a time: what the master of a pty pair has, and always keeps.
    #[must_use]
    pub fn transparent() -> Self {
        Termios {
            input: InputFlags::empty(),
            output: OutputFlags::empty(),
            control: control::B38400 | control::CS8 | control::CREAD,
            local: LocalFlags::empty(),
            ..Termios::default()
        }
    }

    /// The control character; `None` where it is disabled (`_POSIX_VDISABLE`, which is 0).
    #[must_use]
    pub fn char(&self, which: ControlChar) -> Option<u8> {
        Some(self.raw_char(which)).filter(|&byte| byte != 0)
    }

    /// The `c_cc` entry as it stands: VMIN and VTIME are counts, so 0 means something there.
    #[must_use]
    pub fn raw_char(&self, which: ControlChar) -> u8 {
        self.chars.get(which as usize).copied().unwrap_or(0)
    }

    /// Sets one `c_cc` entry.
    pub fn set_char(&mut self, which: ControlChar, byte: u8) {
        if let Some(slot) = self.chars.get_mut(which as usize) {
            *slot = byte;
        }
    }

    /// Whether the local flag is set.
    #[must_use]
    pub fn has(&self, flag: LocalFlags) -> bool {
        self.local.contains(flag)
    }

    /// Whether programs read lines: canonical, and not processed on the far side (EXTPROC).
    pub(crate) fn reads_lines(&self) -> bool {
        self.has(LocalFlags::ICANON) && !self.has(LocalFlags::EXTPROC)
    }

    /// Forces what a pty has no hardware for: eight bits, no parity, receiver on. Linux does this on every change of a pty's settings.
    pub fn force_pty_hardware(&mut self) {
        self.control = (self.control & !(control::CSIZE | control::PARENB)) | control::CS8 | control::CREAD;
    }

    /// Keeps of `old` what a line without settable hardware can't change: all of `c_cflag` but HUPCL, CREAD and CLOCAL, and the speeds.
    /// For drivers like a console's.
    pub fn keep_hardware(&mut self, old: &Termios) {
        let settable = control::HUPCL | control::CREAD | control::CLOCAL;
        self.control = (self.control & settable) | (old.control & !settable);
        self.input_speed = old.input_speed;
        self.output_speed = old.output_speed;
    }
}

/// `struct winsize`, ioctl_tty(2) TIOCGWINSZ.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WinSize {
    /// Lines of text.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
    /// Width in pixels; often 0.
    pub x_pixels: u16,
    /// Height in pixels; often 0.
    pub y_pixels: u16,
}
