//! Message queues, msgget(2), msgop(2), msgctl(2).
//!
//! Always true: messages are whole; a queue's bytes are those of its messages; each message is charged.

use super::{Object, Permission, now};
use abi::{Errno, SysError, SysResult};
use ram::{Charge, Ram};
use std::collections::VecDeque;
use std::sync::Arc;
use sync::{SpinLock, WaitQueue};

/// `MSGMAX`: most bytes of a message.
pub const MESSAGE_MAX: usize = 8192;
/// `MSGMNB`: bytes that a new queue may hold.
pub const QUEUE_MAX: u64 = 16_384;
/// Charged for a message beside its bytes.
const MESSAGE_COST: usize = 64;

/// A message.
pub struct Message {
    pub kind: i64,
    pub data: Vec<u8>,
    _charge: Charge,
}

/// What msgrcv(2) is after.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    First,
    Kind(i64),
    /// `MSG_EXCEPT`.
    Other(i64),
    /// The lowest kind that is not above this.
    Lowest(i64),
}

/// What msgctl(2) tells of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    pub sent: i64,
    pub received: i64,
    pub changed: i64,
    pub bytes: u64,
    pub messages: u64,
    pub most: u64,
    pub sender: i32,
    pub receiver: i32,
}

struct State {
    permission: Permission,
    messages: VecDeque<Message>,
    figures: Figures,
    removed: bool,
}

/// A queue.
pub struct Queue {
    state: SpinLock<State>,
    senders: WaitQueue,
    receivers: WaitQueue,
    _charge: Charge,
}

impl Object for Queue {
    fn permission(&self) -> Permission {
        self.state.lock().permission
    }
    fn set_sequence(&self, sequence: u16) {
        self.state.lock().permission.sequence = sequence;
    }
}

impl State {
    fn find(&self, wanted: Wanted) -> Option<usize> {
        match wanted {
            Wanted::First => (!self.messages.is_empty()).then_some(0),
            Wanted::Kind(kind) => self.messages.iter().position(|m| m.kind == kind),
            Wanted::Other(kind) => self.messages.iter().position(|m| m.kind != kind),
            Wanted::Lowest(most) => {
                let candidates = self.messages.iter().enumerate().filter(|(_, m)| m.kind <= most);
                candidates.min_by_key(|(_, m)| m.kind).map(|(at, _)| at)
            }
        }
    }
}

impl Queue {
    /// An empty queue. ENOMEM.
    pub fn new(ram: &'static Ram, permission: Permission) -> Result<Arc<Queue>, Errno> {
        let charge = ram.charge(size_of::<Queue>()).map_err(|_| Errno::ENOMEM)?;
        let figures = Figures { changed: now(), most: QUEUE_MAX, ..Figures::default() };
        let state = State { permission, messages: VecDeque::new(), figures, removed: false };
        Ok(Arc::new(Queue { state: SpinLock::new(state), senders: WaitQueue::new(), receivers: WaitQueue::new(), _charge: charge }))
    }
    /// What it holds and who used it.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.state.lock().figures
    }
    /// `IPC_SET`; `most` is the new size in bytes.
    pub fn change(&self, uid: u32, gid: u32, mode: u32, most: u64) {
        let mut state = self.state.lock();
        state.permission.change(uid, gid, mode);
        state.figures.most = most;
        state.figures.changed = now();
        drop(state);
        self.senders.wake_all();
    }
    /// It has left the table: all that wait are told.
    pub fn removed(&self) {
        self.state.lock().removed = true;
        self.senders.wake_all();
        self.receivers.wake_all();
    }

    /// msgsnd(2).
    ///
    /// # Errors
    /// EAGAIN, EIDRM, ENOMEM; EINTR: it is never restarted.
    pub fn send(&self, ram: &'static Ram, kind: i64, data: Vec<u8>, waits: bool, pid: i32) -> SysResult<()> {
        let charge = ram.charge(MESSAGE_COST + data.len()).map_err(|_| Errno::ENOMEM)?;
        let len = data.len() as u64;
        let mut message = Some(Message { kind, data, _charge: charge });
        let mut attempt = || {
            let mut state = self.state.lock();
            if state.removed {
                return Some(Err(Errno::EIDRM));
            }
            // Messages without bytes are bounded by their number.
            if state.figures.bytes + len > state.figures.most || state.figures.messages + 1 > state.figures.most {
                return None;
            }
            state.messages.extend(message.take());
            let figures = &mut state.figures;
            figures.bytes += len;
            figures.messages += 1;
            (figures.sent, figures.sender) = (now(), pid);
            Some(Ok(()))
        };
        let done = match attempt() {
            Some(done) => done,
            None if !waits => Err(Errno::EAGAIN),
            None => self.senders.wait_interruptible(attempt).map_err(|_| SysError::Errno(Errno::EINTR))?,
        };
        self.receivers.wake_all();
        Ok(done?)
    }

    /// msgrcv(2): at most `room` bytes; a longer message is E2BIG, or cut with `cut`.
    ///
    /// # Errors
    /// E2BIG, ENOMSG, EIDRM, EINTR.
    pub fn receive(&self, wanted: Wanted, room: usize, cut: bool, waits: bool, pid: i32) -> SysResult<Message> {
        let attempt = || {
            let mut state = self.state.lock();
            if state.removed {
                return Some(Err(Errno::EIDRM));
            }
            let at = state.find(wanted)?;
            if !cut && state.messages.get(at).is_some_and(|m| m.data.len() > room) {
                return Some(Err(Errno::E2BIG));
            }
            let mut message = state.messages.remove(at)?;
            let figures = &mut state.figures;
            figures.bytes -= message.data.len() as u64;
            figures.messages -= 1;
            (figures.received, figures.receiver) = (now(), pid);
            message.data.truncate(room);
            Some(Ok(message))
        };
        let message = match attempt() {
            Some(message) => message,
            None if !waits => Err(Errno::ENOMSG),
            None => self.receivers.wait_interruptible(attempt).map_err(|_| SysError::Errno(Errno::EINTR))?,
        };
        self.senders.wake_all();
        Ok(message?)
    }

    /// `MSG_COPY`: the message at a place, left where it is.
    ///
    /// # Errors
    /// ENOMSG, E2BIG.
    pub fn copy(&self, index: usize, room: usize, cut: bool) -> Result<(i64, Vec<u8>), Errno> {
        let state = self.state.lock();
        let message = state.messages.get(index).ok_or(Errno::ENOMSG)?;
        if !cut && message.data.len() > room {
            return Err(Errno::E2BIG);
        }
        Ok((message.kind, message.data.get(..room.min(message.data.len())).unwrap_or_default().to_vec()))
    }
}
