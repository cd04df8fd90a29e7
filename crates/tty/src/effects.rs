//! The words between a discipline and its driver: what calls ask for besides their results, and what drivers report and choose.

use abi::SigSet;

/// What a call asks of its caller, besides its result. Merge several with [`Effects::merge`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use = "signals must be raised and sleepers woken"]
pub struct Effects {
    /// Signals for the foreground process group (SIGINT, SIGQUIT, SIGTSTP).
    pub signals: SigSet,
    /// Readers and pollers may find something now: wake them.
    pub readable: bool,
    /// Writers and pollers may find room now, or must look again: wake them.
    pub writable: bool,
    /// Output was queued: drain it.
    pub output: bool,
    /// Output was stopped or started. A driver that buffers further down follows.
    pub flow: Option<Flow>,
    /// Input was thrown away: what the driver still holds of it goes too, and the sender may go on.
    pub input_flushed: bool,
    /// Output was thrown away: what the driver still holds goes too.
    pub output_flushed: bool,
}

impl Effects {
    /// Adds the effects of a later call.
    pub fn merge(&mut self, later: Effects) {
        self.signals = self.signals.union(later.signals);
        self.readable |= later.readable;
        self.writable |= later.writable;
        self.output |= later.output;
        self.flow = later.flow.or(self.flow);
        self.input_flushed |= later.input_flushed;
        self.output_flushed |= later.output_flushed;
    }
}

/// Output was stopped or started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Flow {
    Stopped,
    Started,
}

/// What stopping the output holds back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// Writers: what is queued already goes out. A pty, whose queue is the other end's.
    Writers,
    /// The line: the queue fills, and nothing leaves it. A console or a serial line.
    Line,
}

/// Which queue to throw away, TCFLSH.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queue {
    /// TCIFLUSH: received, not read.
    Input,
    /// TCOFLUSH: written, not transmitted.
    Output,
    /// TCIOFLUSH: both.
    Both,
}

/// What a line reports besides good bytes. Ptys never do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LineEvent {
    /// A break condition.
    Break,
    /// A byte with a parity or framing error.
    BadByte(u8),
}

/// What poll(2) would say, hangup and packet mode aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Poll {
    /// POLLIN | POLLRDNORM.
    pub readable: bool,
    /// POLLOUT | POLLWRNORM.
    pub writable: bool,
}
