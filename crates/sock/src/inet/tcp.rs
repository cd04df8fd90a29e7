//! TCP sockets: connecting, bytes in both directions, closing. tcp(7).

use super::{InetSocket, address};
use crate::message::{MessageFlags, ReceiveRequest, Received, SendRequest};
use crate::patience::Patience;
use abi::raw::net as raw;
use abi::{Errno, SysResult};
use net::tcp::{ReceiveCall, SendCall, State};
use std::sync::atomic::Ordering;
use vfs::{Sink, Source};

/// Bytes that go to or from the stack at once.
const CHUNK: usize = 64 << 10;

impl InetSocket {
    /// connect(2). EINPROGRESS for a socket that may not wait, EALREADY while it goes on.
    pub(super) fn connect_tcp(&self, address: &[u8], patience: Patience) -> SysResult<()> {
        if address::family(address) == raw::AF_UNSPEC {
            return Ok(self.network.with(|stack| stack.tcp_shutdown(self.id, true, true))?);
        }
        let to = address::parse(self.family, address)?;
        match self.network.with(|stack| stack.tcp_connect(self.id, to)) {
            // Who may not wait is not told the outcome by this call, though over the loopback it is known by now: Linux's answer to the SYN waits
            // until the socket's lock is released.
            Err(Errno::EINPROGRESS) if patience == Patience::None => return Err(Errno::EINPROGRESS.into()),
            Err(Errno::EINPROGRESS) => {}
            // A call that was interrupted and goes on.
            Err(Errno::EALREADY) if patience != Patience::None => {}
            other => return Ok(other?),
        }
        let outcome = patience.wait(&self.queue, || {
            self.network.look(|stack| {
                let Some(tcp) = stack.tcp_mut(self.id) else { return Some(Err(Errno::ECONNABORTED)) };
                match tcp.state() {
                    State::SynSent | State::SynReceived => None,
                    State::Closed => Some(Err(tcp.take_error().unwrap_or(Errno::ECONNABORTED))),
                    _ => Some(Ok(())),
                }
            })
        });
        match outcome {
            // Not connected in the time that there was.
            Err(error) if error.errno() == Errno::EAGAIN => Err(Errno::EINPROGRESS.into()),
            other => Ok(other??),
        }
    }

    /// Sends. With MSG_OOB the last byte is urgent.
    pub(super) fn send_tcp(&self, patience: Patience, request: &SendRequest<'_>, source: &mut dyn Source) -> SysResult<usize> {
        let mut done = 0;
        let mut buffer = vec![0; source.left().min(CHUNK)];
        while source.left() > 0 || done == 0 {
            let want = source.left().min(CHUNK);
            let part = buffer.get_mut(..want).unwrap_or_default();
            let got = match source.take(part) {
                Ok(got) => got,
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno.into()),
            };
            let last = source.left() == 0 || got < want;
            let call = SendCall {
                more: request.flags.contains(MessageFlags::MORE) || !last,
                urgent: request.flags.contains(MessageFlags::OOB) && last,
            };
            let mut rest = buffer.get(..got).unwrap_or_default();
            loop {
                match self.retry(patience, |stack| stack.tcp_send(self.id, rest, call)) {
                    Ok(n) => {
                        done += n;
                        rest = rest.get(n..).unwrap_or_default();
                    }
                    Err(_) if done > 0 => return Ok(done),
                    Err(error) => return Err(error),
                }
                if rest.is_empty() {
                    break;
                }
            }
            if last {
                break;
            }
        }
        Ok(done)
    }

    /// Receives. A fault in the buffer loses what was to go there.
    pub(super) fn receive_tcp(&self, patience: Patience, request: ReceiveRequest, sink: &mut dyn Sink) -> SysResult<Received> {
        let flags = request.flags;
        let call = ReceiveCall { peek: flags.contains(MessageFlags::PEEK), urgent: flags.contains(MessageFlags::OOB) };
        let low = self.options.receive_low.load(Ordering::Relaxed).max(1) as usize;
        let room = sink.room();
        let target = if flags.contains(MessageFlags::WAITALL) && !call.peek { room } else { low.min(room) }.max(1);
        let mut buffer = vec![0; room.min(CHUNK)];
        let mut done = 0;
        while sink.room() > 0 {
            let want = sink.room().min(CHUNK);
            let waits = if done < target { patience } else { Patience::None };
            let part = buffer.get_mut(..want).unwrap_or_default();
            let n = match self.retry(waits, |stack| stack.tcp_receive(self.id, part, call)) {
                Ok(0) => break,
                Ok(n) => n,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            if flags.contains(MessageFlags::TRUNC) {
                // tcp(7): the bytes are thrown away.
                done += n;
                if call.peek || done >= room { break } else { continue }
            }
            let put = sink.put(part.get(..n).unwrap_or_default());
            let copied = *put.as_ref().unwrap_or(&0);
            done += copied;
            if copied < n {
                if done == 0 {
                    return Err(put.err().unwrap_or(Errno::EFAULT).into());
                }
                break;
            }
            if call.peek || call.urgent {
                break;
            }
        }
        let mut received = Received { len: done, ..Received::default() };
        if call.urgent {
            received.flags |= MessageFlags::OOB;
        }
        Ok(received)
    }

    /// close(2): with SO_LINGER it waits until the other side has everything, or time is up.
    pub(super) fn close_tcp(&self) {
        let linger = self.network.look(|stack| stack.tcp(self.id).and_then(|tcp| tcp.options.linger_s)).filter(|s| *s > 0);
        self.network.with(|stack| stack.tcp_close(self.id));
        if let Some(seconds) = linger {
            let until = Patience::Until(sync::monotonic_ns().saturating_add(u64::from(seconds) * 1_000_000_000));
            // close(2) succeeds however the wait ends.
            let _ =
                until.wait(&self.queue, || self.network.look(|stack| stack.tcp(self.id).is_none_or(|tcp| tcp.is_flushed())).then_some(()));
        }
    }
}
