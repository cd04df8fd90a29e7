//! Pseudoterminals as files: a [`PtyPair`] in the middle, `/dev/ptmx`'s and `/dev/pts/N`'s open files at its ends.
//!
//! What it is not: the pair's rules (`tty`), or the file system that the slaves' nodes are in ([`crate::devpts`]).
//!
//! Always true: signals are sent, sessions told and sleepers woken after the pair's lock is let go. An open file of a slave that hung up stays dead
//! though the slave is opened anew. A read or write looks at the pair under one hold of its lock and sleeps until that end was woken since then.
//!
//! Source: pty(7), ioctl_tty(2), TIOCPKT(2const), TIOCSPTLCK(2const).

use crate::terminal::{Jobs, Tty, get_int, put_int};
use abi::{Errno, Interrupted, Signal, SysResult};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use sync::{Events, SpinLock, WaitQueue};
use tty::ioctl::{FlowControl, Layout, Request, When, queue_from_argument};
use tty::job::{Access, Caller, Control, Decision, Farewell, Id, Target};
use tty::{PtyEffects, PtyPair, Read, ReadCall, Side, WinSize, control};
use vfs::{Device, DeviceNumber, FileOps, IoctlCaller, Open, OpenFile, OpenFlags, PollTable, Positioning, Sink, Source};

/// Major number of Unix 98 slaves.
pub const SLAVE_MAJOR: u32 = 136;
/// Bytes that one read or write moves under one hold of the pair.
const IO_CHUNK: usize = 4096;

/// Told when ends of a pair close: its directory.
pub trait Home: Send + Sync {
    /// The master closed: the slave's name goes.
    fn unlist(&self, index: u32);
    /// Neither end is open: the number is free.
    fn forget(&self, index: u32);
}

struct State {
    pair: PtyPair,
    control: Control,
    exclusive: bool,
    /// Counts hangups: a slave's file that was opened before the last one is dead.
    hangups: u64,
    /// How often the master and the slave were woken.
    wakes: [u64; 2],
}

/// A pair and who waits for it.
pub struct Pty {
    id: u64,
    index: u32,
    jobs: Arc<dyn Jobs>,
    home: Weak<dyn Home>,
    state: SpinLock<State>,
    master: Arc<WaitQueue>,
    slave: Arc<WaitQueue>,
    me: Weak<Pty>,
}

/// Pairs have numbers of their own, above those that device numbers make: an index comes back, and several devpts use the same.
static NEXT_ID: AtomicU64 = AtomicU64::new(1 << 63);

impl Pty {
    /// A pair whose master is open: give that to the opener by [`Pty::master_file`].
    pub fn new(index: u32, jobs: Arc<dyn Jobs>, home: Weak<dyn Home>) -> Arc<Pty> {
        Arc::new_cyclic(|me| Pty {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            index,
            jobs,
            home,
            state: SpinLock::new(State { pair: PtyPair::new(), control: Control::new(), exclusive: false, hangups: 0, wakes: [0; 2] }),
            master: Arc::new(WaitQueue::new()),
            slave: Arc::new(WaitQueue::new()),
            me: me.clone(),
        })
    }
    /// N of `/dev/pts/N`.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }
    /// The open master.
    pub fn master_file(self: &Arc<Pty>) -> Arc<dyn FileOps> {
        Arc::new(PtyFile { pty: self.clone(), side: Side::Master, hangups: 0 })
    }

    fn queue(&self, side: Side) -> &Arc<WaitQueue> {
        if side == Side::Master { &self.master } else { &self.slave }
    }

    /// Does something to the pair and, after that, all that follows from it.
    fn act<R>(&self, act: impl FnOnce(&mut State) -> (R, PtyEffects)) -> R {
        let mut state = self.state.lock();
        let (result, effects) = act(&mut state);
        for (count, woken) in state.wakes.iter_mut().zip([effects.wake_master, effects.wake_slave]) {
            *count += u64::from(woken);
        }
        let foreground = state.control.foreground();
        let farewell = effects.hang_up.then(|| {
            state.hangups += 1;
            state.exclusive = false;
            state.control.hang_up()
        });
        drop(state);
        let mut signals = effects.signals;
        while let Some(signal) = signals.first() {
            signals.remove(signal);
            if let Some(group) = foreground {
                self.jobs.signal(Target::Group(group), signal);
            }
        }
        if let Some(farewell) = farewell {
            self.part(farewell);
        }
        for (side, woken) in [(Side::Master, effects.wake_master), (Side::Slave, effects.wake_slave)] {
            if woken {
                self.queue(side).notify(self.poll_pair(side) | Events::RDNORM | Events::WRNORM);
            }
        }
        result
    }

    fn part(&self, farewell: Farewell) {
        if let Some(session) = farewell.released_session {
            self.jobs.set_controlling(session, None);
            if let Some(group) = farewell.remembered_group {
                self.jobs.remember_group(session, group);
            }
        }
        for (target, signal) in farewell.signals {
            self.jobs.signal(target, signal);
        }
    }

    fn poll_pair(&self, side: Side) -> Events {
        let poll = self.state.lock().pair.poll(side);
        let mut events = Events::empty();
        events.set(Events::IN | Events::RDNORM, poll.readable);
        events.set(Events::OUT | Events::WRNORM, poll.writable);
        events.set(Events::PRI, poll.status);
        events.set(Events::HUP, poll.hung_up);
        events.set(Events::ERR, poll.error);
        events
    }

    fn obey(&self, decision: Decision, caller: &Caller) -> SysResult<()> {
        match decision {
            Decision::Allow => Ok(()),
            Decision::Fail(errno) => Err(errno.into()),
            Decision::StopGroup(signal) => {
                self.jobs.signal(Target::Group(caller.group), signal);
                Err(Interrupted.into())
            }
        }
    }
    /// Job control of the slave; a stopped caller restarts its call when it goes on.
    fn permit(&self, access: Access) -> SysResult<()> {
        let caller = self.jobs.caller(self.id);
        let decision = self.state.lock().control.check(&caller, access);
        self.obey(decision, &caller)
    }
}

impl Tty for Pty {
    fn id(&self) -> u64 {
        self.id
    }
    fn number(&self) -> DeviceNumber {
        DeviceNumber::new(SLAVE_MAJOR, self.index)
    }
    fn foreground(&self) -> Option<Id> {
        self.state.lock().control.foreground()
    }
    fn leader_exits(&self) {
        let farewell = self.state.lock().control.pty_leader_exits();
        self.part(farewell);
    }
}

/// Opens the slave.
impl Device for Pty {
    fn open(&self, open: &Open<'_>) -> SysResult<Arc<dyn FileOps>> {
        let pty = self.me.upgrade().ok_or(Errno::EIO)?;
        let caller = self.jobs.caller(self.id);
        let opened = self.act(|state| {
            if state.exclusive && !caller.is_admin {
                return (Err(Errno::EBUSY), PtyEffects::default());
            }
            let effects = match state.pair.open(Side::Slave) {
                Ok(effects) => effects,
                Err(errno) => return (Err(errno), PtyEffects::default()),
            };
            let acquired = !open.flags.contains(OpenFlags::NOCTTY) && state.control.acquire_by_open(&caller, open.flags.can_read());
            (Ok((acquired, state.hangups)), effects)
        });
        let (acquired, hangups) = opened?;
        if acquired {
            self.jobs.set_controlling(caller.session, Some(pty.clone()));
        }
        Ok(Arc::new(PtyFile { pty, side: Side::Slave, hangups }))
    }
}

/// An open end.
struct PtyFile {
    pty: Arc<Pty>,
    side: Side,
    /// How often the slave had hung up when it was opened.
    hangups: u64,
}

impl PtyFile {
    fn is_dead(&self, state: &State) -> bool {
        self.side == Side::Slave && state.hangups != self.hangups
    }
    fn permit(&self, access: Access) -> SysResult<()> {
        if self.side == Side::Master { Ok(()) } else { self.pty.permit(access) }
    }
    fn wakes(&self, state: &State) -> u64 {
        let [master, slave] = state.wakes;
        if self.side == Side::Master { master } else { slave }
    }
    /// Sleeps until the end was woken since its count was `seen`.
    fn wait(&self, seen: u64, deadline_ns: Option<u64>) -> Result<(), sync::WaitError> {
        let moved = || (self.wakes(&self.pty.state.lock()) != seen).then_some(());
        self.pty.queue(self.side).wait_deadline(deadline_ns, moved)
    }
}

impl FileOps for PtyFile {
    fn positioning(&self) -> Positioning {
        Positioning::Stream
    }

    fn read(&self, file: &OpenFile, _: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        if self.is_dead(&self.pty.state.lock()) {
            return Ok(0);
        }
        self.permit(Access::Read)?;
        let mut buffer = vec![0; sink.room().min(IO_CHUNK)];
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut call = ReadCall::new();
        let nonblocking = file.is_nonblocking();
        let done = loop {
            let (step, seen) = self.pty.act(|state| {
                if self.is_dead(state) {
                    let end = if call.filled() > 0 { Ok(Read::Done(call.filled())) } else { Err(Errno::EIO) };
                    return ((end, 0), PtyEffects::default());
                }
                let (step, effects) = state.pair.read(self.side, &mut call, &mut buffer, sync::monotonic_ns(), nonblocking);
                ((step, self.wakes(state)), effects)
            });
            let deadline = match step? {
                Read::Done(n) => break n,
                Read::Wait { deadline_ns } => deadline_ns,
                Read::WouldBlock => return Err(Errno::EAGAIN.into()),
            };
            // The call itself may have woken this end: once more at worst.
            match self.wait(seen, deadline) {
                Ok(()) | Err(sync::WaitError::TimedOut) => {}
                Err(sync::WaitError::Interrupted) if call.filled() > 0 => break call.filled(),
                Err(sync::WaitError::Interrupted) => return Err(Interrupted.into()),
            }
            self.permit(Access::Read)?;
        };
        Ok(sink.put(buffer.get(..done).unwrap_or_default())?)
    }

    fn write(&self, file: &OpenFile, _: &mut u64, source: &mut dyn Source) -> SysResult<usize> {
        let mut total = 0;
        let so_far = |total: usize, error: abi::SysError| if total > 0 { Ok(total) } else { Err(error) };
        while source.left() > 0 {
            let tostop = self.pty.state.lock().pair.termios().local.contains(tty::LocalFlags::TOSTOP);
            if let Err(error) = self.permit(Access::Write { tostop }) {
                return so_far(total, error);
            }
            let mut buffer = vec![0; source.left().min(IO_CHUNK)];
            let n = match source.take(&mut buffer) {
                Ok(n) => n,
                Err(errno) => return so_far(total, errno.into()),
            };
            let mut rest = buffer.get(..n).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            while !rest.is_empty() {
                let (taken, seen) = self.pty.act(|state| {
                    if self.is_dead(state) {
                        return ((Err(Errno::EIO), 0), PtyEffects::default());
                    }
                    let (taken, effects) = state.pair.write(self.side, rest);
                    ((taken, self.wakes(state)), effects)
                });
                let taken = match taken {
                    Ok(taken) => taken,
                    Err(errno) => return so_far(total, errno.into()),
                };
                rest = rest.get(taken..).unwrap_or_default();
                total += taken;
                if taken > 0 {
                    continue;
                }
                if file.is_nonblocking() {
                    return so_far(total, Errno::EAGAIN.into());
                }
                if self.wait(seen, None).is_err() {
                    return so_far(total, Interrupted.into());
                }
            }
        }
        Ok(total)
    }

    fn poll(&self, _: &OpenFile, table: Option<&mut PollTable>) -> Events {
        if let Some(table) = table {
            table.listen(self.pty.queue(self.side));
        }
        if self.is_dead(&self.pty.state.lock()) {
            return Events::IN | Events::RDNORM | Events::OUT | Events::WRNORM | Events::ERR | Events::HUP;
        }
        self.pty.poll_pair(self.side)
    }

    fn can_poll(&self) -> bool {
        true
    }

    fn ioctl(&self, file: &OpenFile, caller: &IoctlCaller<'_>, command: u32, argument: u64) -> SysResult<i64> {
        let request = Request::from_number(command).ok_or(Errno::ENOTTY)?;
        if self.is_dead(&self.pty.state.lock()) {
            return Err(Errno::EIO.into());
        }
        if request.changes_terminal() && request != Request::SetForeground {
            self.pty.permit(Access::Change)?;
        }
        self.control(file, caller, request, argument).map(|()| 0)
    }

    fn release(&self, _: &OpenFile) {
        let gone = self.pty.act(|state| {
            let effects = state.pair.close(self.side);
            (!state.pair.is_open(), effects)
        });
        let Some(home) = self.pty.home.upgrade() else { return };
        if self.side == Side::Master {
            home.unlist(self.pty.index);
        }
        if gone {
            home.forget(self.pty.index);
        }
    }
}

impl PtyFile {
    fn control(&self, file: &OpenFile, caller: &IoctlCaller<'_>, request: Request, argument: u64) -> SysResult<()> {
        let pty = &*self.pty;
        match request {
            Request::GetSettings(layout) => {
                let bytes = layout.encode(pty.state.lock().pair.termios());
                Ok(caller.memory.write_all(argument, &bytes)?)
            }
            Request::SetSettings(layout, when) => self.set_settings(caller, layout, when, argument),
            // What was written is with the other end already.
            Request::SendBreak | Request::Drain => Ok(()),
            Request::FlowControl => {
                let flow = FlowControl::from_argument(argument).ok_or(Errno::EINVAL)?;
                pty.act(|state| ((), state.pair.control_flow(self.side, flow)));
                Ok(())
            }
            Request::Flush => {
                let queue = queue_from_argument(argument).ok_or(Errno::EINVAL)?;
                pty.act(|state| ((), state.pair.flush(self.side, queue)));
                Ok(())
            }
            Request::CountInput => {
                let count = pty.state.lock().pair.readable_bytes(self.side);
                put_int(caller, argument, count as i32)
            }
            Request::CountOutput => put_int(caller, argument, 0),
            Request::GetWinSize => {
                let size = pty.state.lock().pair.size();
                Ok(caller.memory.write_all(argument, &size.to_bytes())?)
            }
            Request::SetWinSize => {
                let mut bytes = [0; tty::ioctl::WINSIZE_BYTES];
                caller.memory.read_exact(argument, &mut bytes)?;
                pty.act(|state| ((), state.pair.set_size(WinSize::from_bytes(&bytes))));
                Ok(())
            }
            Request::GetExclusive => {
                let exclusive = pty.state.lock().exclusive;
                put_int(caller, argument, i32::from(exclusive))
            }
            Request::SetExclusive | Request::ClearExclusive => {
                pty.state.lock().exclusive = request == Request::SetExclusive;
                Ok(())
            }
            Request::GetDiscipline => put_int(caller, argument, 0),
            Request::SetDiscipline if get_int(caller, argument)? == 0 => Ok(()),
            Request::SetDiscipline => Err(Errno::EINVAL.into()),
            Request::GetSoftCarrier => {
                let local = pty.state.lock().pair.termios().control & control::CLOCAL != 0;
                put_int(caller, argument, i32::from(local))
            }
            Request::HangUp => {
                if !pty.jobs.caller(pty.id).is_admin {
                    return Err(Errno::EPERM.into());
                }
                pty.act(|state| ((), state.pair.hang_up_slave()));
                Ok(())
            }
            _ if self.side == Side::Master => self.control_master(file, caller, request, argument),
            _ => self.control_session(file, caller, request, argument),
        }
    }

    fn set_settings(&self, caller: &IoctlCaller<'_>, layout: Layout, when: When, argument: u64) -> SysResult<()> {
        let mut bytes = vec![0; layout.len_bytes()];
        caller.memory.read_exact(argument, &mut bytes)?;
        self.pty.act(|state| match layout.decode(&bytes, state.pair.termios()) {
            None => (Err(Errno::EFAULT), PtyEffects::default()),
            Some(new) if when == When::Flush => (Ok(()), state.pair.set_termios_and_flush(new)),
            Some(new) => (Ok(()), state.pair.set_termios(new)),
        })?;
        Ok(())
    }

    fn control_master(&self, file: &OpenFile, caller: &IoctlCaller<'_>, request: Request, argument: u64) -> SysResult<()> {
        let pty = &*self.pty;
        match request {
            Request::GetPtyNumber => put_int(caller, argument, pty.index as i32),
            Request::GetPtyLock => {
                let locked = pty.state.lock().pair.is_locked();
                put_int(caller, argument, i32::from(locked))
            }
            Request::SetPtyLock => {
                let locked = get_int(caller, argument)? != 0;
                pty.state.lock().pair.set_locked(locked);
                Ok(())
            }
            Request::GetPacketMode => {
                let on = pty.state.lock().pair.packet_mode();
                put_int(caller, argument, i32::from(on))
            }
            Request::SetPacketMode => {
                let on = get_int(caller, argument)? != 0;
                pty.state.lock().pair.set_packet_mode(on);
                Ok(())
            }
            Request::SignalForeground => {
                let signal = i32::try_from(argument).ok().and_then(Signal::new).ok_or(Errno::EINVAL)?;
                pty.act(|state| match state.pair.signal(signal) {
                    Ok(effects) => (Ok(()), effects),
                    Err(errno) => (Err(errno), PtyEffects::default()),
                })?;
                Ok(())
            }
            Request::GetForeground => {
                let group = pty.state.lock().control.foreground_for_master();
                put_int(caller, argument, group)
            }
            Request::GiveUpControlling => Err(Errno::ENOTTY.into()),
            _ => self.control_session(file, caller, request, argument),
        }
    }

    fn control_session(&self, file: &OpenFile, caller: &IoctlCaller<'_>, request: Request, argument: u64) -> SysResult<()> {
        let pty = &*self.pty;
        let me = pty.jobs.caller(pty.id);
        match request {
            Request::SetControlling => {
                let robbed = pty.state.lock().control.acquire(&me, argument == 1, file.flags().can_read())?;
                if let Some(session) = robbed {
                    pty.jobs.set_controlling(session, None);
                }
                pty.jobs.set_controlling(me.session, Some(self.pty.clone()));
                Ok(())
            }
            Request::GiveUpControlling => {
                let farewell = pty.state.lock().control.release(&me)?;
                if farewell == Farewell::default() {
                    pty.jobs.drop_controlling();
                }
                pty.part(farewell);
                Ok(())
            }
            Request::GetForeground => {
                let group = pty.state.lock().control.foreground_for(&me)?;
                put_int(caller, argument, group)
            }
            Request::SetForeground => {
                let decision = pty.state.lock().control.check_set_foreground(&me);
                pty.obey(decision, &me)?;
                let group = get_int(caller, argument)?;
                let session = pty.jobs.group_session(group);
                Ok(pty.state.lock().control.set_foreground(&me, group, session)?)
            }
            Request::GetSession => {
                let session = pty.state.lock().control.session_for(&me, self.side == Side::Master)?;
                put_int(caller, argument, session)
            }
            Request::GetDevice => {
                let (major, minor) = if self.side == Side::Master { (5, 2) } else { (SLAVE_MAJOR, pty.index) };
                put_int(caller, argument, DeviceNumber::new(major, minor).encode() as i32)
            }
            // A byte as if typed: as with dev.tty.legacy_tiocsti off.
            Request::Inject => Err(Errno::EIO.into()),
            _ => Err(Errno::ENOTTY.into()),
        }
    }
}
