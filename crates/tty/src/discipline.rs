//! One terminal: N_TTY without a driver.
//!
//! What it is: the settings, the input buffer, the echo queue, the output queue, and what happens to a byte on its way through them.
//!
//! What it is not: reading ([`crate::read`] adds it), erasing (in `erase`), the other end of a pty ([`crate::PtyPair`]), hangup and job
//! control (the caller asks [`crate::job`] first).
//!
//! Always true: nothing is queued for output while output is stopped with [`Hold::Writers`]; input beyond [`LineDiscipline::room`] is left
//! to the caller; the map of special characters belongs to the settings in force.
//!
//! Sources: termios(3); POSIX.1-2017 11.1 and 11.2.

use abi::Signal;

use crate::INPUT_BUFFER_BYTES;
use crate::ctype;
use crate::echo::{Echo, EchoQueue};
use crate::effects::{Effects, Flow, Hold, LineEvent, Poll, Queue};
use crate::input::{EOF_MARK, Input};
use crate::output::{Full, Output};
use crate::termios::{ControlChar, InputFlags, LocalFlags, OutputFlags, Termios};

/// Output bytes pending below which poll says writable.
const WAKEUP_BYTES: usize = 256;

/// A terminal's line discipline. See the crate's description.
#[derive(Debug)]
pub struct LineDiscipline {
    termios: Termios,
    /// Bytes that are more than text under these settings.
    special: [bool; 256],
    pub(crate) input: Input,
    echoes: EchoQueue,
    /// How many of the next received bytes were refused before, and looked at then for START and STOP.
    looked_ahead: usize,
    pub(crate) out: Output,
    hold: Hold,
    /// The next byte is literal (LNEXT).
    literal_next: bool,
    /// Inside the `\.../` of ECHOPRT.
    pub(crate) erasing: bool,
    stopped: bool,
    /// Stopped by TCXONC: START and IXANY don't start it.
    stopped_by_program: bool,
}

impl LineDiscipline {
    /// A terminal with settings `termios` whose output queue holds `output_capacity` bytes.
    #[must_use]
    pub fn new(termios: Termios, output_capacity: usize, hold: Hold) -> Self {
        let special = special_map(&termios);
        LineDiscipline {
            termios,
            special,
            input: Input::new(),
            echoes: EchoQueue::default(),
            looked_ahead: 0,
            out: Output::new(output_capacity),
            hold,
            literal_next: false,
            erasing: false,
            stopped: false,
            stopped_by_program: false,
        }
    }

    /// A console or serial line: fresh settings, 4,096 bytes of output.
    #[must_use]
    pub fn console() -> Self {
        LineDiscipline::new(Termios::default(), 4096, Hold::Line)
    }

    /// The settings in force.
    #[must_use]
    pub fn termios(&self) -> &Termios {
        &self.termios
    }

    /// Whether output is stopped (by STOP or by TCXONC).
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Puts settings in force. TCSADRAIN and TCSAFLUSH are the caller's: wait until [`output_len`](Self::output_len) is 0 first, and
    /// [`flush`](Self::flush) the input.
    ///
    /// A change of ICANON or EXTPROC forgets where lines ended: what is buffered becomes one line, or plain bytes.
    pub fn set_termios(&mut self, new: Termios) -> Effects {
        let mut effects = Effects { readable: true, writable: true, ..Effects::default() };
        let old = std::mem::replace(&mut self.termios, new);
        self.special = special_map(&self.termios);
        if (old.local ^ self.termios.local).intersects(LocalFlags::ICANON | LocalFlags::EXTPROC) {
            self.input.reframe(self.has(LocalFlags::ICANON));
            self.erasing = false;
            self.literal_next = false;
        }
        if old.input.contains(InputFlags::IXON) && !self.input_has(InputFlags::IXON) && !self.stopped_by_program {
            self.start(&mut effects);
            self.process_echoes(&mut effects);
        }
        effects
    }

    /// How many bytes [`receive`](Self::receive) would take now. A canonical line that fills the buffer goes on being taken and dropped, so
    /// that its end can arrive.
    #[must_use]
    pub fn room(&self) -> usize {
        match self.true_room() {
            0 if self.line_overflows() => usize::MAX,
            room => room,
        }
    }

    fn true_room(&self) -> usize {
        let free = INPUT_BUFFER_BYTES.saturating_sub(self.input.len());
        let free = if self.input_has(InputFlags::PARMRK) { free.div_ceil(3) } else { free };
        free.saturating_sub(1)
    }

    fn line_overflows(&self) -> bool {
        self.has(LocalFlags::ICANON) && self.input.lines_len() == 0
    }

    /// Takes bytes that the hardware received. Returns how many were taken: the rest does not fit until something is read, and the caller
    /// offers it again then, before any other. START and STOP in the rest act at once, so that a full buffer can't hold them up, and not
    /// again later.
    /// When the caller drops the rest instead, it says so by [`forget_refused`](Self::forget_refused).
    pub fn receive(&mut self, bytes: &[u8]) -> (usize, Effects) {
        let mut effects = Effects::default();
        let mut taken = 0;
        loop {
            let room = match self.true_room() {
                0 if self.line_overflows() => 1,
                room => room,
            };
            let rest = bytes.get(taken..).unwrap_or_default();
            let batch = rest.get(..room).unwrap_or(rest);
            if batch.is_empty() {
                break;
            }
            self.receive_batch(batch, &mut effects);
            taken += batch.len();
        }
        if !self.termios.reads_lines() && self.input.len() > 0 {
            effects.readable = true;
        }
        self.look_ahead(bytes.get(taken..).unwrap_or_default(), &mut effects);
        (taken, effects)
    }

    fn receive_batch(&mut self, bytes: &[u8], effects: &mut Effects) {
        for &byte in bytes {
            self.receive_byte(byte, effects);
            self.looked_ahead = self.looked_ahead.saturating_sub(1);
        }
        // A line that is too long loses its last byte again, so that its end can take that place.
        if self.input.len() >= INPUT_BUFFER_BYTES && self.line_overflows() {
            self.input.pop_editing();
        }
        if (self.has(LocalFlags::ECHO) || self.has(LocalFlags::ECHONL)) && self.echoes.commit_all() {
            self.output_echoes(effects);
        }
    }

    fn look_ahead(&mut self, refused: &[u8], effects: &mut Effects) {
        let fresh = refused.get(self.looked_ahead..).unwrap_or_default();
        if self.input_has(InputFlags::IXON) {
            fresh.iter().for_each(|&byte| self.receive_flow(byte, effects));
        }
        self.looked_ahead = self.looked_ahead.max(refused.len());
    }

    /// Acts on a byte if it is START or STOP.
    fn receive_flow(&mut self, byte: u8, effects: &mut Effects) {
        if self.is_char(byte, ControlChar::Start) {
            self.start_by_input(effects);
            self.process_echoes(effects);
        } else if self.is_char(byte, ControlChar::Stop) {
            self.stop(effects);
        }
    }

    /// Takes what the line reports besides good bytes, under IGNBRK, BRKINT, INPCK, IGNPAR and PARMRK.
    pub fn receive_event(&mut self, event: LineEvent) -> Effects {
        let mut effects = Effects::default();
        match event {
            LineEvent::Break if self.input_has(InputFlags::IGNBRK) => {}
            LineEvent::Break if self.input_has(InputFlags::BRKINT) => self.signal(Signal::SIGINT, &mut effects),
            LineEvent::Break => self.receive_marked(0, &mut effects),
            LineEvent::BadByte(byte) if !self.input_has(InputFlags::INPCK) => {
                if self.room() > 0 {
                    effects.merge(self.receive(&[byte]).1);
                }
            }
            LineEvent::BadByte(_) if self.input_has(InputFlags::IGNPAR) => {}
            LineEvent::BadByte(byte) => self.receive_marked(byte, &mut effects),
        }
        effects
    }

    /// A byte that did not arrive well: `\377 \0 byte` with PARMRK, else 0.
    fn receive_marked(&mut self, byte: u8, effects: &mut Effects) {
        if self.true_room() == 0 {
            return;
        }
        if self.input_has(InputFlags::PARMRK) {
            self.input.push(0xff);
            self.input.push(0);
            self.input.push(byte);
        } else {
            self.input.push(0);
        }
        effects.readable |= !self.termios.reads_lines();
    }

    fn receive_byte(&mut self, byte: u8, effects: &mut Effects) {
        let literal = std::mem::take(&mut self.literal_next);
        let mut byte = byte;
        if self.input_has(InputFlags::ISTRIP) {
            byte &= 0x7f;
        }
        if self.input_has(InputFlags::IUCLC) && self.has(LocalFlags::IEXTEN) {
            byte = ctype::to_lower(byte);
        }
        if literal {
            self.receive_text(byte, effects);
        } else if self.has(LocalFlags::EXTPROC) {
            self.input.push(byte);
        } else if self.special.get(usize::from(byte)).copied().unwrap_or(false) {
            self.receive_special(byte, effects);
        } else {
            self.receive_text(byte, effects);
        }
    }

    fn receive_text(&mut self, byte: u8, effects: &mut Effects) {
        self.start_on_any(effects);
        if self.has(LocalFlags::ECHO) {
            self.finish_erasing();
            self.echo_in_line(byte);
            self.commit_echoes(effects);
        }
        self.push_text(byte);
    }

    /// Buffers one byte; PARMRK doubles 0xff, so that a reader can tell it from a mark.
    fn push_text(&mut self, byte: u8) {
        if byte == 0xff && self.input_has(InputFlags::PARMRK) {
            self.input.push(byte);
        }
        self.input.push(byte);
    }

    /// A byte of the special map: flow control, then signals, then CR and NL mapping, then editing.
    fn receive_special(&mut self, byte: u8, effects: &mut Effects) {
        let controls_flow = self.is_char(byte, ControlChar::Start) || self.is_char(byte, ControlChar::Stop);
        if self.input_has(InputFlags::IXON) && controls_flow {
            if self.looked_ahead == 0 {
                self.receive_flow(byte, effects);
            }
            return;
        }
        if self.has(LocalFlags::ISIG) {
            for (which, signal) in
                [(ControlChar::Intr, Signal::SIGINT), (ControlChar::Quit, Signal::SIGQUIT), (ControlChar::Susp, Signal::SIGTSTP)]
            {
                if self.is_char(byte, which) {
                    self.receive_signal_char(byte, signal, effects);
                    return;
                }
            }
        }
        self.start_on_any(effects);
        let byte = match byte {
            b'\r' if self.input_has(InputFlags::IGNCR) => return,
            b'\r' if self.input_has(InputFlags::ICRNL) => b'\n',
            b'\n' if self.input_has(InputFlags::INLCR) => b'\r',
            other => other,
        };
        if self.has(LocalFlags::ICANON) && self.receive_editing(byte, effects) {
            return;
        }
        if self.has(LocalFlags::ECHO) {
            self.finish_erasing();
            if byte == b'\n' {
                self.echo_byte(b'\n');
            } else {
                self.echo_in_line(byte);
            }
            self.commit_echoes(effects);
        }
        self.push_text(byte);
    }

    fn receive_signal_char(&mut self, byte: u8, signal: Signal, effects: &mut Effects) {
        self.signal(signal, effects);
        if self.input_has(InputFlags::IXON) {
            self.start_by_input(effects);
        }
        if self.has(LocalFlags::ECHO) {
            self.echo_char(byte);
            self.commit_echoes(effects);
        } else {
            self.process_echoes(effects);
        }
    }

    /// Raises a signal; without NOFLSH everything that waits in either direction goes.
    fn signal(&mut self, signal: Signal, effects: &mut Effects) {
        effects.signals.add(signal);
        if !self.has(LocalFlags::NOFLSH) {
            self.echoes.clear();
            self.out.clear();
            self.clear_input();
            effects.input_flushed = true;
            effects.output_flushed = true;
            effects.writable = true;
        }
    }

    /// Canonical mode's own characters. Returns whether the byte was one.
    fn receive_editing(&mut self, byte: u8, effects: &mut Effects) -> bool {
        let extended = self.has(LocalFlags::IEXTEN);
        let echo = self.has(LocalFlags::ECHO);
        if let Some(kind) = self.eraser(byte) {
            self.erase(kind);
            self.commit_echoes(effects);
        } else if extended && self.is_char(byte, ControlChar::LiteralNext) {
            self.literal_next = true;
            if echo {
                self.finish_erasing();
                if self.has(LocalFlags::ECHOCTL) {
                    self.echo_byte(b'^');
                    self.echo_byte(0x08);
                    self.commit_echoes(effects);
                }
            }
        } else if extended && echo && self.is_char(byte, ControlChar::Reprint) {
            self.reprint(byte);
            self.commit_echoes(effects);
        } else if byte == b'\n' {
            if echo || self.has(LocalFlags::ECHONL) {
                self.echo_byte(b'\n');
                self.commit_echoes(effects);
            }
            self.end_line(byte, effects);
        } else if self.is_char(byte, ControlChar::Eof) {
            self.end_line(EOF_MARK, effects);
        } else if self.is_char(byte, ControlChar::Eol) || (extended && self.is_char(byte, ControlChar::Eol2)) {
            if echo {
                self.echo_in_line(byte);
                self.commit_echoes(effects);
            }
            if byte == 0xff && self.input_has(InputFlags::PARMRK) {
                self.input.push(byte);
            }
            self.end_line(byte, effects);
        } else {
            return false;
        }
        true
    }

    fn end_line(&mut self, byte: u8, effects: &mut Effects) {
        self.input.push_line_end(byte);
        effects.readable = true;
    }

    /// TCXONC and IXANY: a text byte starts output that a STOP byte stopped.
    fn start_on_any(&mut self, effects: &mut Effects) {
        if self.stopped && !self.stopped_by_program && self.termios.input.contains(InputFlags::IXON | InputFlags::IXANY) {
            self.start(effects);
            self.process_echoes(effects);
        }
    }

    fn start_by_input(&mut self, effects: &mut Effects) {
        if !self.stopped_by_program {
            self.start(effects);
        }
    }

    fn start(&mut self, effects: &mut Effects) {
        if std::mem::replace(&mut self.stopped, false) {
            effects.flow = Some(Flow::Started);
            effects.writable = true;
            effects.output |= self.out.len() > 0;
        }
    }

    fn stop(&mut self, effects: &mut Effects) {
        if !std::mem::replace(&mut self.stopped, true) {
            effects.flow = Some(Flow::Stopped);
        }
    }

    /// TCXONC with TCOOFF (`stop`) or TCOON.
    pub fn stop_by_program(&mut self, stop: bool) -> Effects {
        let mut effects = Effects::default();
        if self.stopped_by_program != stop {
            self.stopped_by_program = stop;
            if stop { self.stop(&mut effects) } else { self.start(&mut effects) }
        }
        effects
    }

    /// TCXONC with TCIOFF (`stop`) or TCION: sends STOP or START, even when a STOP byte stopped output. When a program stopped it, nothing
    /// is sent, as on a Linux pty.
    pub fn send_flow_char(&mut self, stop: bool) -> Effects {
        let which = if stop { ControlChar::Stop } else { ControlChar::Start };
        let mut effects = Effects::default();
        if let Some(byte) = self.termios.char(which)
            && !self.stopped_by_program
            && self.out.put_raw(&[byte]).is_ok()
        {
            effects.output = true;
            effects.flow = self.stopped.then_some(Flow::Stopped);
        }
        effects
    }

    /// Throws a queue away, TCFLSH and TCSAFLUSH.
    pub fn flush(&mut self, queue: Queue) -> Effects {
        let mut effects = Effects::default();
        if matches!(queue, Queue::Input | Queue::Both) {
            self.clear_input();
            effects.input_flushed = true;
        }
        if matches!(queue, Queue::Output | Queue::Both) {
            self.out.clear();
            effects.output_flushed = true;
            effects.writable = true;
        }
        effects
    }

    /// The terminal hangs up: everything that waits is gone, output runs, and `fresh` settings apply where the driver wants them.
    pub fn hang_up(&mut self, fresh: Option<Termios>) -> Effects {
        let mut effects = self.flush(Queue::Both);
        self.echoes.clear();
        self.literal_next = false;
        self.stopped_by_program = false;
        self.start(&mut effects);
        if let Some(fresh) = fresh {
            effects.merge(self.set_termios(fresh));
        }
        effects.readable = true;
        effects
    }

    /// What was refused will not be offered again.
    pub fn forget_refused(&mut self) {
        self.looked_ahead = 0;
    }

    /// Pending echoes and a pending LNEXT survive this on Linux.
    fn clear_input(&mut self) {
        self.input.clear();
        self.erasing = false;
    }

    /// Takes a program's bytes for output. Returns how many were taken; fewer than given means the queue is full or output is stopped, and
    /// the writer waits for [`Effects::writable`] (or gets EAGAIN if nothing was taken and it doesn't wait).
    pub fn write(&mut self, bytes: &[u8]) -> (usize, Effects) {
        let mut effects = Effects::default();
        self.process_echoes(&mut effects);
        if !self.may_output() {
            return (0, effects);
        }
        let taken = if self.termios.output.contains(OutputFlags::OPOST) {
            let utf8 = self.input_has(InputFlags::IUTF8);
            let flags = self.termios.output;
            bytes.iter().take_while(|&&byte| self.out.put_processed(byte, flags, utf8).is_ok()).count()
        } else {
            let count = bytes.len().min(self.out.room());
            let fits = self.out.put_raw(bytes.get(..count).unwrap_or_default());
            if fits.is_ok() { count } else { 0 }
        };
        effects.output |= taken > 0;
        (taken, effects)
    }

    /// Bytes that wait for the driver, TIOCOUTQ.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.out.len()
    }

    /// Gives up to `max` bytes to the driver. Nothing while the line is held. The driver wakes writers afterwards.
    #[must_use]
    pub fn take_output(&mut self, max: usize) -> Vec<u8> {
        if self.line_is_held() { Vec::new() } else { self.out.take(max) }
    }

    /// What [`take_output`](Self::take_output) would give, or its first part, without taking it. With
    /// [`consume_output`](Self::consume_output), for a driver that learns only later how much went out.
    #[must_use]
    pub fn peek_output(&self) -> &[u8] {
        if self.line_is_held() { &[] } else { self.out.peek() }
    }

    /// Drops bytes that went out.
    pub fn consume_output(&mut self, count: usize) {
        self.out.consume(count);
    }

    fn line_is_held(&self) -> bool {
        self.stopped && self.hold == Hold::Line
    }

    fn may_output(&self) -> bool {
        !(self.stopped && self.hold == Hold::Writers)
    }

    /// What poll(2) would say.
    #[must_use]
    pub fn poll(&self) -> Poll {
        let wanted = match (self.termios.raw_char(ControlChar::Time), self.termios.raw_char(ControlChar::Min)) {
            (0, min) if min > 0 => usize::from(min),
            _ => 1,
        };
        Poll {
            readable: if self.termios.reads_lines() { self.input.lines_len() > 0 } else { self.input.len() >= wanted },
            writable: match self.hold {
                // What is queued is the other end's already.
                Hold::Writers => !self.stopped && self.out.room() > 0,
                Hold::Line => self.out.len() < WAKEUP_BYTES && self.out.room() > 0,
            },
        }
    }

    /// Bytes that a read could get now, FIONREAD.
    #[must_use]
    pub fn readable_bytes(&self) -> usize {
        if self.termios.reads_lines() { self.input.readable_line_bytes() } else { self.input.len() }
    }

    pub(crate) fn has(&self, flag: LocalFlags) -> bool {
        self.termios.has(flag)
    }

    pub(crate) fn input_has(&self, flag: InputFlags) -> bool {
        self.termios.input.contains(flag)
    }

    pub(crate) fn is_char(&self, byte: u8, which: ControlChar) -> bool {
        self.termios.char(which) == Some(byte)
    }

    /// Echoes a byte of the line; before its first one, remembers where on the screen the line begins.
    fn echo_in_line(&mut self, byte: u8) {
        if self.input.is_at_line_start() {
            self.push_echo(Echo::MarkLineColumn);
        }
        self.echo_char(byte);
    }

    /// Echoes a byte, a control character as `^X` with ECHOCTL.
    pub(crate) fn echo_char(&mut self, byte: u8) {
        let caret = self.has(LocalFlags::ECHOCTL) && ctype::is_control(byte) && byte != b'\t';
        self.push_echo(if caret { Echo::Caret(byte) } else { Echo::Byte(byte) });
    }

    /// Echoes a byte as it is.
    pub(crate) fn echo_byte(&mut self, byte: u8) {
        self.push_echo(Echo::Byte(byte));
    }

    pub(crate) fn push_echo(&mut self, echo: Echo) {
        self.echoes.push(echo);
    }

    /// Ends what one byte echoes.
    fn commit_echoes(&mut self, effects: &mut Effects) {
        if self.echoes.commit() {
            self.output_echoes(effects);
        }
    }

    /// Outputs what was to be echoed before now.
    fn process_echoes(&mut self, effects: &mut Effects) {
        if self.echoes.commit_marked() {
            self.output_echoes(effects);
        }
    }

    /// Outputs what is committed, as far as output allows.
    fn output_echoes(&mut self, effects: &mut Effects) {
        if self.may_output() {
            while let Some(echo) = self.echoes.front() {
                if self.output_echo(echo).is_err() {
                    break;
                }
                self.echoes.pop();
            }
            effects.output |= self.out.len() > 0;
        }
        self.echoes.discard_excess();
    }

    fn output_echo(&mut self, echo: Echo) -> Result<(), Full> {
        match echo {
            Echo::MarkLineColumn => self.out.mark_line_column(),
            Echo::BackColumn => self.out.back_column(),
            Echo::Caret(byte) => {
                self.out.put_raw(&[b'^', byte ^ 0x40])?;
                self.out.advance(2);
            }
            // Linux gives 0xff past output processing.
            Echo::Byte(0xff) => {
                self.out.put_raw(&[0xff])?;
                self.out.advance(1);
            }
            Echo::Byte(byte) if self.termios.output.contains(OutputFlags::OPOST) => {
                let utf8 = self.input_has(InputFlags::IUTF8);
                self.out.put_processed(byte, self.termios.output, utf8)?;
            }
            Echo::Byte(byte) => self.out.put_raw(&[byte])?,
            Echo::EraseTab { columns, after_tab } => {
                let from = columns % 8 + if after_tab { 0 } else { self.out.line_column() };
                let width = 8 - from % 8;
                self.out.put_raw([0x08; 8].get(..width).unwrap_or_default())?;
                for _ in 0..width {
                    self.out.back_column();
                }
            }
        }
        Ok(())
    }
}

/// Which bytes are more than text under these settings. A control character that is disabled never is, nor is a 0.
fn special_map(termios: &Termios) -> [bool; 256] {
    use ControlChar as C;
    let mut map = [false; 256];
    let mut mark = |byte: u8| {
        if let Some(slot) = map.get_mut(usize::from(byte)) {
            *slot = true;
        }
    };
    let extended = termios.has(LocalFlags::IEXTEN);
    if termios.input.intersects(InputFlags::IGNCR | InputFlags::ICRNL) {
        mark(b'\r');
    }
    if termios.input.contains(InputFlags::INLCR) {
        mark(b'\n');
    }
    let mut chars: Vec<C> = Vec::new();
    if termios.has(LocalFlags::ICANON) {
        mark(b'\n');
        chars.extend([C::Erase, C::Kill, C::Eof, C::Eol]);
        if extended {
            chars.extend([C::WordErase, C::LiteralNext, C::Eol2]);
            if termios.has(LocalFlags::ECHO) {
                chars.push(C::Reprint);
            }
        }
    }
    if termios.input.contains(InputFlags::IXON) {
        chars.extend([C::Start, C::Stop]);
    }
    if termios.has(LocalFlags::ISIG) {
        chars.extend([C::Intr, C::Quit, C::Susp]);
    }
    chars.into_iter().filter_map(|which| termios.char(which)).for_each(&mut mark);
    map
}
