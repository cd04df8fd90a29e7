//! Moving bytes through pipes inside the kernel: splice(2), tee(2), vmsplice(2).
//!
//! Pages are copied, not moved: what a guest sees is the same.

use crate::args::{UserAddr, UserRef};
use crate::data::{RW_MAX, read_iovec};
use crate::file::{signal_failure, user_offset};
use abi::{Errno, SysResult};
use std::sync::Arc;
use sync::Events;
use task::Current;
use vfs::{Fd, OpenFile, OpenFlags, PipeEnd, Positioning, SliceSink, SliceSource, UserSink, UserSource};

const NONBLOCK: u32 = 2;
/// `SPLICE_F_MOVE`, `NONBLOCK`, `MORE` and `GIFT`.
const FLAGS: u32 = 0xf;
/// Bytes moved at once.
const CHUNK: usize = 64 << 10;

fn pipe(file: &OpenFile) -> Option<&PipeEnd> {
    file.ops().downcast::<PipeEnd>()
}

/// Whether splicing through the pipe end of `file` may wait.
fn waits(file: &OpenFile, flags: u32) -> bool {
    flags & NONBLOCK == 0 && !file.is_nonblocking()
}

/// splice(2).
pub fn splice(
    current: &mut Current,
    input: Fd,
    in_offset: UserRef<i64>,
    out: Fd,
    out_offset: UserRef<i64>,
    len: usize,
    flags: u32,
) -> SysResult<usize> {
    if len == 0 {
        return Ok(0);
    }
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (from, to) = (current.files().get_usable(input)?, current.files().get_usable(out)?);
    if !from.flags().can_read() || !to.flags().can_write() {
        return Err(Errno::EBADF.into());
    }
    let len = len.min(RW_MAX);
    let result = match (pipe(&from), pipe(&to)) {
        (Some(source), Some(target)) => {
            if !in_offset.is_null() || !out_offset.is_null() {
                return Err(Errno::ESPIPE.into());
            }
            if source.is_same_pipe(target) {
                return Err(Errno::EINVAL.into());
            }
            between(source, waits(&from, flags), target, waits(&to, flags), len)
        }
        (Some(source), None) => {
            if !in_offset.is_null() {
                return Err(Errno::ESPIPE.into());
            }
            out_of(current, source, waits(&from, flags), &to, out_offset, len)
        }
        (None, Some(target)) => {
            if !out_offset.is_null() {
                return Err(Errno::ESPIPE.into());
            }
            into(current, &from, in_offset, target, waits(&to, flags), len)
        }
        (None, None) => return Err(Errno::EINVAL.into()),
    };
    signal_failure(current, &to, result, u64::MAX)
}

fn between(source: &PipeEnd, source_waits: bool, target: &PipeEnd, target_waits: bool, len: usize) -> SysResult<usize> {
    loop {
        if !source.wait_data(!source_waits)? {
            return Ok(0);
        }
        let room = target.wait_room(!target_waits)?;
        match source.drain(len.min(room), &mut |bytes| target.put(true, &mut SliceSource::new(bytes))) {
            // Somebody else was quicker, at either end.
            Ok(0) => {}
            Err(error) if error.errno() == Errno::EAGAIN && source_waits && target_waits => {}
            result => return result,
        }
    }
}

fn out_of(
    current: &Current,
    source: &PipeEnd,
    source_waits: bool,
    to: &Arc<OpenFile>,
    offset: UserRef<i64>,
    len: usize,
) -> SysResult<usize> {
    if to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EINVAL.into());
    }
    let mut at = user_offset(current, offset)?;
    if at.is_some() && to.ops().positioning() == Positioning::Stream {
        return Err(Errno::ESPIPE.into());
    }
    let mut put = |bytes: &[u8]| {
        let mut from = SliceSource::new(bytes);
        match &mut at {
            Some(at) => to.write_at(*at, &mut from).inspect(|n| *at += *n as u64),
            None => to.write(&mut from),
        }
    };
    let mut total = 0;
    while total < len {
        match source.wait_data(!source_waits || total > 0) {
            Ok(true) => {}
            Ok(false) => break,
            Err(_) if total > 0 => break,
            Err(error) => return Err(error),
        }
        match source.drain(len - total, &mut put) {
            Ok(n) => total += n,
            Err(_) if total > 0 => break,
            Err(error) => return Err(error),
        }
    }
    if let Some(at) = at {
        offset.write(current, &(at as i64))?;
    }
    Ok(total)
}

fn into(
    current: &Current,
    from: &Arc<OpenFile>,
    offset: UserRef<i64>,
    target: &PipeEnd,
    target_waits: bool,
    len: usize,
) -> SysResult<usize> {
    let mut at = user_offset(current, offset)?;
    let is_stream = from.ops().positioning() == Positioning::Stream;
    if at.is_some() && is_stream {
        return Err(Errno::ESPIPE.into());
    }
    let mut total = 0;
    let mut buffer = Vec::new();
    while total < len {
        let room = match target.wait_room(!target_waits || total > 0) {
            Ok(room) => room,
            Err(_) if total > 0 => break,
            Err(error) => return Err(error),
        };
        // Without waiting, only what is there already is taken from a stream.
        if !target_waits && is_stream && from.ops().can_poll() && !from.poll(None).intersects(Events::IN | Events::HUP | Events::ERR) {
            return if total > 0 { Ok(total) } else { Err(Errno::EAGAIN.into()) };
        }
        buffer.resize(room.min(len - total).min(CHUNK), 0);
        let mut sink = SliceSink::new(&mut buffer);
        let read = match &at {
            Some(at) => from.read_at(*at, &mut sink),
            None => from.read(&mut sink),
        };
        let n = match read {
            Ok(0) => break,
            Ok(n) => n,
            Err(_) if total > 0 => break,
            Err(error) => return Err(error),
        };
        // There was room a moment ago; if another writer took it, this waits for the reader.
        let put = target.put(false, &mut SliceSource::new(buffer.get(..n).unwrap_or_default()))?;
        total += put;
        if let Some(at) = &mut at {
            *at += put as u64;
        }
        if is_stream || put < n {
            break;
        }
    }
    if let Some(at) = at {
        offset.write(current, &(at as i64))?;
    }
    Ok(total)
}

/// tee(2).
pub fn tee(current: &mut Current, input: Fd, out: Fd, len: usize, flags: u32) -> SysResult<usize> {
    if len == 0 {
        return Ok(0);
    }
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (from, to) = (current.files().get_usable(input)?, current.files().get_usable(out)?);
    if !from.flags().can_read() || !to.flags().can_write() {
        return Err(Errno::EBADF.into());
    }
    let (source, target) = (pipe(&from).ok_or(Errno::EINVAL)?, pipe(&to).ok_or(Errno::EINVAL)?);
    if source.is_same_pipe(target) {
        return Err(Errno::EINVAL.into());
    }
    let result = loop {
        match source.wait_data(!waits(&from, flags)) {
            Ok(true) => {}
            Ok(false) => break Ok(0),
            Err(error) => break Err(error),
        }
        if let Err(error) = target.wait_room(!waits(&to, flags)) {
            break Err(error);
        }
        let n = source.copy_to(target, len.min(RW_MAX));
        if n > 0 {
            break Ok(n);
        }
    };
    signal_failure(current, &to, result, u64::MAX)
}

/// vmsplice(2): into a pipe as writev(2), out of one as readv(2).
pub fn vmsplice(current: &mut Current, fd: Fd, iov: UserAddr, count: usize, flags: u32) -> SysResult<usize> {
    if flags & !FLAGS != 0 {
        return Err(Errno::EINVAL.into());
    }
    let file = current.files().get_usable(fd)?;
    let end = pipe(&file).ok_or(Errno::EBADF)?;
    let ranges = read_iovec(current, iov.0, count)?;
    let memory = current.memory().clone();
    let nonblocking = !waits(&file, flags);
    if end.is_writer() {
        let result = end.put(nonblocking, &mut UserSource::vectored(&*memory, ranges));
        return signal_failure(current, &file, result, u64::MAX);
    }
    end.get(nonblocking, &mut UserSink::vectored(&*memory, ranges))
}
