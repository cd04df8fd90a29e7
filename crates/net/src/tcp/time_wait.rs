//! What is left of a closed connection for a minute (RFC 9293 3.6.1, RFC 6191, RFC 1337): enough to answer late segments and to tell a new
//! connection from an old one.

use super::Quad;
use super::seq::Seq;
use super::socket::TcpSocket;
use crate::core::{Core, SECOND};
use crate::ip::SendOptions;
use crate::wire::tcp::{Flags, TcpHeader, TcpOptions};

/// `TCP_TIMEWAIT_LEN`
pub(super) const LENGTH_NS: u64 = 60 * SECOND;

/// A connection in TIME-WAIT.
#[derive(Clone, Debug)]
pub(super) struct TimeWait {
    pub quad: Quad,
    pub snd_nxt: Seq,
    rcv_nxt: Seq,
    rcv_wnd: u16,
    timestamps: bool,
    pub ts_recent: u32,
    pub ts_recent_ns: u64,
    ts_offset: u32,
    answered_ns: u64,
    options: SendOptions,
}

/// What a segment does to it.
pub(super) enum TimeWaitAnswer {
    Done,
    /// The peer's FIN came again: the minute starts anew.
    Restart(u64),
    Kill,
    /// A SYN that is certainly new; a listener may have it.
    NewConnection,
}

impl TimeWait {
    pub fn new(quad: Quad, socket: &TcpSocket) -> TimeWait {
        TimeWait {
            quad,
            snd_nxt: socket.snd_nxt,
            rcv_nxt: socket.rcv_nxt,
            rcv_wnd: u16::try_from(socket.rcv_wnd >> socket.rcv_scale).unwrap_or(u16::MAX),
            timestamps: socket.timestamps,
            ts_recent: socket.ts_recent,
            ts_recent_ns: socket.ts_recent_ns,
            ts_offset: socket.ts_offset,
            answered_ns: 0,
            options: socket.options.send,
        }
    }

    /// Whether a new connection of ours may take the place: only timestamps tell old segments apart, so there must be some, a second old.
    pub fn may_be_reused(&self, now_ns: u64) -> bool {
        self.timestamps && now_ns > self.ts_recent_ns + SECOND
    }

    pub fn input(&mut self, core: &mut Core, quad: &Quad, header: &TcpHeader, len: usize) -> TimeWaitAnswer {
        let flags = header.flags;
        let stamp = header.options.timestamps.filter(|_| self.timestamps).map(|(value, _)| value);
        let older = stamp.is_some_and(|value| (value.wrapping_sub(self.ts_recent) as i32) < 0);
        if flags.has(Flags::RST) {
            let exact = header.seq == self.rcv_nxt || header.seq + len as u32 == self.rcv_nxt;
            return if exact && !core.config.tcp.rfc1337 && !older { TimeWaitAnswer::Kill } else { TimeWaitAnswer::Done };
        }
        if flags.has(Flags::SYN) && !flags.has(Flags::ACK) && !older {
            let newer = stamp.is_some_and(|value| (value.wrapping_sub(self.ts_recent) as i32) > 0);
            if header.seq.after(self.rcv_nxt) || newer {
                core.statistics.tcp.time_waits_recycled += 1;
                return TimeWaitAnswer::NewConnection;
            }
        }
        if let (Some(value), false) = (stamp, older)
            && header.seq.at_or_before(self.rcv_nxt)
        {
            (self.ts_recent, self.ts_recent_ns) = (value, core.now_ns);
        }
        let empty = len == 0 && !flags.has(Flags::SYN) && !flags.has(Flags::FIN);
        if empty && header.seq == self.rcv_nxt {
            return TimeWaitAnswer::Done;
        }
        // At most two answers a second, whatever arrives.
        if self.answered_ns == 0 || core.now_ns > self.answered_ns + SECOND / 2 || flags.has(Flags::FIN) {
            self.answered_ns = core.now_ns;
            self.answer(core, quad);
        }
        if flags.has(Flags::FIN) { TimeWaitAnswer::Restart(core.now_ns + LENGTH_NS) } else { TimeWaitAnswer::Done }
    }

    fn answer(&self, core: &mut Core, quad: &Quad) {
        let mut options = TcpOptions::default();
        if self.timestamps {
            let clock = (core.now_ns / crate::core::MILLISECOND) as u32;
            options.timestamps = Some((clock.wrapping_add(self.ts_offset), self.ts_recent));
        }
        let header = TcpHeader {
            src_port: quad.local_port,
            dst_port: quad.remote_port,
            seq: self.snd_nxt,
            ack: self.rcv_nxt,
            flags: Flags::ACK,
            window: self.rcv_wnd,
            options,
            ..TcpHeader::default()
        };
        super::send_bare(core, quad, &header, &self.options);
    }
}
