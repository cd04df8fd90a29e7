//! A pair of pseudoterminals: two disciplines back to back. pty(7), ioctl_tty(2).
//!
//! What one end outputs is the other end's received input. Each end has an N_TTY of its own; the master's settings are transparent and never
//! change, because settings asked of either end are the slave's. Between the ends lies the output queue of the sender, which is what a
//! writer's back-pressure comes from.
//!
//! Not here: device numbers, file descriptors, and who owns the terminal ([`crate::job::Control`], which the slave has and the master has
//! not).
//!
//! Always true: after every call, whatever the receiver has room for has been moved to it.

use abi::{Errno, SigSet, Signal};
use bitflags::bitflags;

use crate::discipline::LineDiscipline;
use crate::effects::{Effects, Flow, Hold, Queue};
use crate::ioctl::FlowControl;
use crate::read::{Read, ReadCall};
use crate::termios::{ControlChar, InputFlags, LocalFlags, Termios, WinSize};

bitflags! {
    /// The first byte that a master in packet mode reads, ioctl_tty(2) TIOCPKT. 0 is data.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PacketStatus: u8 {
        /// The slave's input was flushed.
        const FLUSHREAD = 1;
        /// The slave's output was flushed.
        const FLUSHWRITE = 2;
        /// Output to the slave was stopped.
        const STOP = 4;
        /// Output to the slave was started.
        const START = 8;
        /// STOP and START are not `^S` and `^Q` any more.
        const NOSTOP = 16;
        /// They are now.
        const DOSTOP = 32;
        /// The settings changed under EXTPROC.
        const IOCTL = 64;
    }
}

/// Which end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The end of the terminal emulator.
    Master,
    /// The end of the programs, `/dev/pts/N`.
    Slave,
}

impl Side {
    /// The other end.
    #[must_use]
    pub fn other(self) -> Side {
        match self {
            Side::Master => Side::Slave,
            Side::Slave => Side::Master,
        }
    }
}

/// What a call on a pair asks of its caller, besides its result.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use = "signals must be raised and sleepers woken"]
pub struct PtyEffects {
    /// Signals for the slave's foreground process group.
    pub signals: SigSet,
    /// Wake readers, writers and pollers of the master.
    pub wake_master: bool,
    /// Wake readers, writers and pollers of the slave.
    pub wake_slave: bool,
    /// The slave hung up: apply [`crate::job::Control::hang_up`] to its session.
    pub hang_up: bool,
}

impl PtyEffects {
    /// Adds the effects of a later call.
    pub fn merge(&mut self, later: PtyEffects) {
        self.signals = self.signals.union(later.signals);
        self.wake_master |= later.wake_master;
        self.wake_slave |= later.wake_slave;
        self.hang_up |= later.hang_up;
    }
}

/// What poll(2) would say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PtyPoll {
    /// POLLIN | POLLRDNORM.
    pub readable: bool,
    /// POLLOUT | POLLWRNORM.
    pub writable: bool,
    /// POLLPRI: a packet-mode status waits.
    pub status: bool,
    /// POLLHUP.
    pub hung_up: bool,
    /// POLLERR.
    pub error: bool,
}

/// Bytes between the ends beyond what the receiver has buffered.
const TRANSIT_BYTES: usize = 8192;

#[derive(Debug)]
struct End {
    ld: LineDiscipline,
    opens: usize,
    /// The other end was open and is not any more.
    other_closed: bool,
    /// The receiver refused input; it is offered again after the next read.
    choked: bool,
}

/// A master and a slave.
#[derive(Debug)]
pub struct PtyPair {
    master: End,
    slave: End,
    locked: bool,
    packet_mode: bool,
    status: PacketStatus,
    size: WinSize,
}

impl Default for PtyPair {
    fn default() -> Self {
        PtyPair::new()
    }
}

impl PtyPair {
    /// A fresh pair: the master open once, the slave locked and not open.
    #[must_use]
    pub fn new() -> Self {
        let end = |termios, opens| End {
            ld: LineDiscipline::new(termios, TRANSIT_BYTES, Hold::Writers),
            opens,
            other_closed: false,
            choked: false,
        };
        PtyPair {
            master: end(Termios::transparent(), 1),
            slave: end(Termios::pty_slave(), 0),
            locked: true,
            packet_mode: false,
            status: PacketStatus::empty(),
            size: WinSize::default(),
        }
    }

    fn end(&self, side: Side) -> &End {
        match side {
            Side::Master => &self.master,
            Side::Slave => &self.slave,
        }
    }

    fn end_mut(&mut self, side: Side) -> &mut End {
        match side {
            Side::Master => &mut self.master,
            Side::Slave => &mut self.slave,
        }
    }

    /// Moves what `from` has output into the other end, until that is full or nothing is left.
    fn transmit(&mut self, from: Side, effects: &mut PtyEffects) {
        loop {
            let (sender, receiver) = match from {
                Side::Master => (&mut self.master.ld, &mut self.slave),
                Side::Slave => (&mut self.slave.ld, &mut self.master),
            };
            let pending = sender.out.all();
            if pending.is_empty() {
                receiver.choked = false;
                break;
            }
            let (taken, produced) = receiver.ld.receive(pending);
            receiver.choked = taken < pending.len();
            sender.consume_output(taken);
            self.absorb(from.other(), produced, effects);
            if self.end(from.other()).choked {
                break;
            }
            *wake(effects, from) = true;
        }
    }

    /// Deals with what the discipline of `side` asked for.
    fn absorb(&mut self, side: Side, produced: Effects, effects: &mut PtyEffects) {
        effects.signals = effects.signals.union(produced.signals);
        *wake(effects, side) |= produced.readable || produced.writable;
        if side == Side::Slave {
            let mut status = PacketStatus::empty();
            status.set(PacketStatus::FLUSHREAD, produced.input_flushed);
            status.set(PacketStatus::FLUSHWRITE, produced.output_flushed);
            self.report(status, effects);
            match produced.flow {
                Some(Flow::Stopped) => self.report_instead(PacketStatus::START, PacketStatus::STOP, effects),
                Some(Flow::Started) => self.report_instead(PacketStatus::STOP, PacketStatus::START, effects),
                None => {}
            }
        }
        if produced.output {
            self.transmit(side, effects);
        }
    }

    fn report(&mut self, status: PacketStatus, effects: &mut PtyEffects) {
        if self.packet_mode && !status.is_empty() {
            self.status |= status;
            effects.wake_master = true;
        }
    }

    fn report_instead(&mut self, old: PacketStatus, new: PacketStatus, effects: &mut PtyEffects) {
        if self.packet_mode {
            self.status.remove(old);
            self.report(new, effects);
        }
    }

    /// write(2). 0 bytes taken: the other end is full or output is stopped, so wait, or EAGAIN. Job control is the caller's.
    ///
    /// # Errors
    /// EIO: the slave hung up.
    pub fn write(&mut self, side: Side, bytes: &[u8]) -> (Result<usize, Errno>, PtyEffects) {
        let mut effects = PtyEffects::default();
        if side == Side::Slave && self.master.opens == 0 {
            return (Err(Errno::EIO), effects);
        }
        let mut written = 0;
        loop {
            let rest = bytes.get(written..).unwrap_or_default();
            let (taken, produced) = self.end_mut(side).ld.write(rest);
            self.absorb(side, produced, &mut effects);
            written += taken;
            if taken == 0 || written == bytes.len() {
                return (Ok(written), effects);
            }
        }
    }

    /// read(2), see [`LineDiscipline::read`]. Job control is the caller's.
    ///
    /// # Errors
    /// EIO: on the master, the slave is closed and all it wrote is read; on the slave, the master closed during the wait.
    pub fn read(
        &mut self,
        side: Side,
        call: &mut ReadCall,
        buf: &mut [u8],
        now_ns: u64,
        nonblocking: bool,
    ) -> (Result<Read, Errno>, PtyEffects) {
        let mut effects = PtyEffects::default();
        if side == Side::Slave && self.master.opens == 0 {
            let outcome = if call.has_waited() && call.filled() == 0 { Err(Errno::EIO) } else { Ok(Read::Done(call.filled())) };
            return (outcome, effects);
        }
        if side == Side::Master && self.packet_mode && call.filled() == 0 && !buf.is_empty() {
            let status = std::mem::take(&mut self.status);
            if !status.is_empty() || self.master.ld.has_input() {
                call.begin(&self.master.ld, now_ns);
                if let Some(first) = buf.first_mut() {
                    *first = status.bits();
                }
                call.count_status_byte();
                if !status.is_empty() {
                    return (Ok(Read::Done(1)), effects);
                }
            }
        }
        let read = self.end_mut(side).ld.read(call, buf, now_ns, nonblocking);
        if self.end(side).choked {
            self.transmit(side.other(), &mut effects);
        }
        let waits = matches!(read, Read::Wait { .. } | Read::WouldBlock);
        if waits && self.end(side).other_closed {
            return (if call.filled() > 0 { Ok(Read::Done(call.filled())) } else { Err(Errno::EIO) }, effects);
        }
        (Ok(read), effects)
    }

    /// The slave's settings, whichever end asks.
    #[must_use]
    pub fn termios(&self) -> &Termios {
        self.slave.ld.termios()
    }

    /// Changes the slave's settings (TCSANOW, TCSADRAIN), whichever end asks. What has no hardware here is forced ([`Termios::force_pty_hardware`]).
    pub fn set_termios(&mut self, mut new: Termios) -> PtyEffects {
        let mut effects = PtyEffects::default();
        new.force_pty_hardware();
        let old = self.termios().clone();
        let produced = self.slave.ld.set_termios(new);
        let extproc = old.has(LocalFlags::EXTPROC) || self.termios().has(LocalFlags::EXTPROC);
        let (old_flow, new_flow) = (uses_ctrl_s_q(&old), uses_ctrl_s_q(self.termios()));
        self.absorb(Side::Slave, produced, &mut effects);
        match (old_flow, new_flow) {
            (false, true) => self.report_instead(PacketStatus::NOSTOP, PacketStatus::DOSTOP, &mut effects),
            (true, false) => self.report_instead(PacketStatus::DOSTOP, PacketStatus::NOSTOP, &mut effects),
            _ => {}
        }
        if extproc {
            self.report(PacketStatus::IOCTL, &mut effects);
        }
        effects
    }

    /// TCFLSH. An end's output is what the other end has not yet buffered.
    pub fn flush(&mut self, side: Side, queue: Queue) -> PtyEffects {
        let mut effects = PtyEffects::default();
        if queue != Queue::Output {
            self.end_mut(side.other()).ld.out.clear();
            let end = self.end_mut(side);
            end.choked = false;
            end.ld.forget_refused();
            *wake(&mut effects, side.other()) = true;
        }
        let produced = self.end_mut(side).ld.flush(queue);
        self.absorb(side, produced, &mut effects);
        effects
    }

    /// Changes the settings as TCSAFLUSH does: what the slave has buffered is gone; what is on the way arrives under the new settings.
    pub fn set_termios_and_flush(&mut self, new: Termios) -> PtyEffects {
        let mut effects = PtyEffects::default();
        let produced = self.slave.ld.flush(Queue::Input);
        self.absorb(Side::Slave, produced, &mut effects);
        effects.merge(self.set_termios(new));
        self.transmit(Side::Master, &mut effects);
        effects
    }

    /// TCXONC.
    pub fn control_flow(&mut self, side: Side, control: FlowControl) -> PtyEffects {
        let mut effects = PtyEffects::default();
        let ld = &mut self.end_mut(side).ld;
        let produced = match control {
            FlowControl::StopOutput => ld.stop_by_program(true),
            FlowControl::StartOutput => ld.stop_by_program(false),
            FlowControl::SendStop => ld.send_flow_char(true),
            FlowControl::SendStart => ld.send_flow_char(false),
        };
        self.absorb(side, produced, &mut effects);
        effects
    }

    /// Bytes that a read could get now, FIONREAD.
    #[must_use]
    pub fn readable_bytes(&self, side: Side) -> usize {
        self.end(side).ld.readable_bytes()
    }

    /// What poll(2) would say.
    #[must_use]
    pub fn poll(&self, side: Side) -> PtyPoll {
        if side == Side::Slave && self.master.opens == 0 {
            return PtyPoll { readable: true, writable: true, status: false, hung_up: true, error: true };
        }
        let end = self.end(side);
        let poll = end.ld.poll();
        let status = side == Side::Master && self.packet_mode && !self.status.is_empty();
        PtyPoll { readable: poll.readable || status, writable: poll.writable, status, hung_up: end.other_closed, error: false }
    }

    /// Whether packet mode is on, TIOCGPKT.
    #[must_use]
    pub fn packet_mode(&self) -> bool {
        self.packet_mode
    }

    /// TIOCPKT. Turning it on forgets older states.
    pub fn set_packet_mode(&mut self, on: bool) {
        if on && !self.packet_mode {
            self.status = PacketStatus::empty();
        }
        self.packet_mode = on;
    }

    /// TIOCGPTLCK.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    /// TIOCSPTLCK: a locked slave can't be opened. unlockpt(3) clears it.
    pub fn set_locked(&mut self, locked: bool) {
        self.locked = locked;
    }

    /// Another open file description of the end.
    ///
    /// # Errors
    /// EIO: of a slave that is locked, or whose master is closed; of the master, always (each open of `/dev/ptmx` makes a pair).
    pub fn open(&mut self, side: Side) -> Result<PtyEffects, Errno> {
        if side == Side::Master || self.locked || self.master.opens == 0 {
            return Err(Errno::EIO);
        }
        self.slave.opens += 1;
        self.master.other_closed = false;
        Ok(PtyEffects { wake_master: true, ..PtyEffects::default() })
    }

    /// The last reference to an open file description of the end went away.
    ///
    /// When it was the slave's last, the master reads what is left and then EIO, until the slave is opened again. When it was the master's,
    /// the slave hangs up for good.
    pub fn close(&mut self, side: Side) -> PtyEffects {
        let end = self.end_mut(side);
        end.opens = end.opens.saturating_sub(1);
        if end.opens > 0 {
            return PtyEffects::default();
        }
        self.end_mut(side.other()).other_closed = true;
        if side == Side::Slave {
            return PtyEffects { wake_master: true, ..PtyEffects::default() };
        }
        self.packet_mode = false;
        self.hang_up_slave()
    }

    /// The slave hangs up: vhangup(2), TIOCVHANGUP, or the master's close. Not when its session's leader exits. What it buffers is gone and
    /// its settings are fresh. Its files that are open now are dead: from now on the caller answers for them (reads give 0, the rest EIO),
    /// but still counts their [`close`](Self::close). While the master is open, the slave can be opened anew.
    pub fn hang_up_slave(&mut self) -> PtyEffects {
        let mut effects = PtyEffects { wake_master: true, wake_slave: true, hang_up: true, ..PtyEffects::default() };
        let produced = self.slave.ld.hang_up(Some(Termios::pty_slave()));
        self.absorb(Side::Slave, produced, &mut effects);
        effects
    }

    /// Whether either end is open: if not, the pair can go.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.master.opens > 0 || self.slave.opens > 0
    }

    /// The size that both ends see, TIOCGWINSZ.
    #[must_use]
    pub fn size(&self) -> WinSize {
        self.size
    }

    /// TIOCSWINSZ on either end. A change raises SIGWINCH.
    pub fn set_size(&mut self, size: WinSize) -> PtyEffects {
        let mut effects = PtyEffects::default();
        if std::mem::replace(&mut self.size, size) != size {
            effects.signals.add(Signal::SIGWINCH);
        }
        effects
    }

    /// TIOCSIG on the master: raises a signal in the slave's foreground group; queues stay as they are.
    ///
    /// # Errors
    /// EINVAL: not SIGINT, SIGQUIT or SIGTSTP.
    pub fn signal(&self, signal: Signal) -> Result<PtyEffects, Errno> {
        if [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP].contains(&signal) {
            Ok(PtyEffects { signals: SigSet::of(signal), ..PtyEffects::default() })
        } else {
            Err(Errno::EINVAL)
        }
    }
}

fn wake(effects: &mut PtyEffects, side: Side) -> &mut bool {
    match side {
        Side::Master => &mut effects.wake_master,
        Side::Slave => &mut effects.wake_slave,
    }
}

/// Whether the terminal's flow control is the usual `^S` and `^Q`, which a packet-mode master may then do itself.
fn uses_ctrl_s_q(termios: &Termios) -> bool {
    termios.input.contains(InputFlags::IXON) && termios.raw_char(ControlChar::Stop) == 0o23 && termios.raw_char(ControlChar::Start) == 0o21
}
