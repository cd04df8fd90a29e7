//! A terminal of the guest on a channel of the host: line discipline in the middle, job control beside it.
//!
//! What it is not: a pty (its other end would be a guest program) or the discipline itself (`tty`).
//!
//! Always true: bytes from the channel are taken only while the discipline has room, the rest waits in the channel; output that the channel refuses
//! stays queued and goes out when it says there is room; nothing here waits for the host but the first open. The channel is there from the first
//! open until some moments after the last close: a getty that comes back, or login(1) that hangs up and opens anew, finds the same window
//! or telnet. An open file that a hangup has ended stays dead though the terminal is opened anew.
//!
//! Source: ioctl_tty(2), termios(3), credentials(7).

use abi::{Errno, Interrupted, Signal, SysError, SysResult};
use platform::{Blocking, HostChannel};
use std::sync::{Arc, Weak};
use sync::{Events, Observer, SpinLock, Timer, WaitQueue};
use tty::ioctl::{FlowControl, Layout, Request, When, queue_from_argument};
use tty::job::{Access, Caller, Control, Decision, Farewell, Id, Target};
use tty::{Effects, LineDiscipline, Queue, Read, ReadCall, WinSize};
use vfs::{Device, FileOps, IoctlCaller, Open, OpenFile, OpenFlags, PollTable, Positioning, Sink, Source};

/// The kernel's side of job control: who calls, and who is to be told.
pub trait Jobs: Send + Sync {
    /// The calling process, towards terminal `terminal`.
    fn caller(&self, terminal: u64) -> Caller;
    /// The session of a process group; `None` if there is no such group.
    fn group_session(&self, group: Id) -> Option<Id>;
    /// Sends a signal from the terminal.
    fn signal(&self, target: Target, signal: Signal);
    /// The session now has this terminal, or none.
    fn set_controlling(&self, session: Id, terminal: Option<Arc<dyn Tty>>);
    /// The session lost its terminal to a hangup: when its leader exits, this group gets SIGHUP and SIGCONT.
    fn remember_group(&self, session: Id, group: Id);
    /// The caller alone gives its terminal up (TIOCNOTTY by one who leads nothing).
    fn drop_controlling(&self);
    /// The caller's controlling terminal, for `/dev/tty`.
    fn controlling(&self) -> Option<Arc<dyn Tty>>;
}

/// A terminal that a session can have. Opening it as a device gives `/dev/tty`'s file.
pub trait Tty: Device {
    /// A number that no other terminal has.
    fn id(&self) -> u64;
    /// Its device number.
    fn number(&self) -> vfs::DeviceNumber;
    /// The foreground process group, if a session has the terminal.
    fn foreground(&self) -> Option<Id>;
    /// The session's leader has exited while it had this terminal.
    fn leader_exits(&self);
}

/// Where a terminal's channel comes from.
pub trait Plug: Send + Sync {
    /// Opens the channel; may wait. ENODEV: there is no such device.
    fn connect(&self) -> SysResult<Arc<dyn HostChannel>>;
}

/// A channel that is there already, and stays.
pub struct FixedPlug(pub Arc<dyn HostChannel>);

impl Plug for FixedPlug {
    fn connect(&self) -> SysResult<Arc<dyn HostChannel>> {
        Ok(self.0.clone())
    }
}

/// How long a channel outlives the last close.
const LINGER_NS: u64 = 2_000_000_000;
/// Bytes taken from the channel while nobody has the terminal open.
const TYPED_AHEAD: usize = 4096;
/// Bytes taken from the channel at once.
const INPUT_CHUNK: usize = 1024;
/// Bytes that one read or write moves under one hold of the line.
const IO_CHUNK: usize = 4096;

struct Line {
    discipline: LineDiscipline,
    control: Control,
    size: WinSize,
    channel: Option<Arc<dyn HostChannel>>,
    /// Counts channels: what an earlier one tells is of no interest.
    link: u64,
    /// Somebody waits for the channel.
    connecting: bool,
    /// Stays open though no file is.
    pinned: bool,
    /// Input that the discipline had no room for.
    refused: Vec<u8>,
    /// Counts hangups: a file that was opened before the last one is dead, but for those of `/dev/console`.
    hangups: u64,
    /// Nothing more will come from the channel; readers get the end of the file, and output goes on.
    input_ended: bool,
    exclusive: bool,
    opens: usize,
    /// Those of them that are `/dev/console`.
    console_opens: usize,
}

/// One terminal.
pub struct Terminal {
    id: u64,
    /// `tty0`, `ttyS1`.
    name: String,
    number: vfs::DeviceNumber,
    plug: Arc<dyn Plug>,
    jobs: Arc<dyn Jobs>,
    line: SpinLock<Line>,
    readers: Arc<WaitQueue>,
    writers: Arc<WaitQueue>,
    /// Who waits for the channel to be opened by another.
    openers: WaitQueue,
    linger: Timer,
    me: Weak<Terminal>,
}

/// Tells the terminal that its channel moved.
struct ChannelWatch {
    terminal: Weak<Terminal>,
    link: u64,
}

impl Observer for ChannelWatch {
    fn notify(&self, _: Events) {
        if let Some(terminal) = self.terminal.upgrade()
            && terminal.line.lock().link == self.link
        {
            terminal.pump();
        }
    }
}

impl Terminal {
    /// A terminal called `name` with this device number, on the channel that `plug` opens.
    pub fn new(name: &str, number: vfs::DeviceNumber, plug: Arc<dyn Plug>, jobs: Arc<dyn Jobs>) -> Arc<Terminal> {
        Arc::new_cyclic(|me: &Weak<Terminal>| Terminal {
            id: u64::from(number.major()) << 32 | u64::from(number.minor()),
            name: name.to_owned(),
            number,
            plug,
            jobs,
            line: SpinLock::new(Line {
                discipline: LineDiscipline::console(),
                control: Control::new(),
                size: WinSize::default(),
                channel: None,
                link: 0,
                connecting: false,
                pinned: false,
                refused: Vec::new(),
                hangups: 0,
                input_ended: false,
                exclusive: false,
                opens: 0,
                console_opens: 0,
            }),
            readers: Arc::new(WaitQueue::new()),
            writers: Arc::new(WaitQueue::new()),
            openers: WaitQueue::new(),
            linger: {
                let me = me.clone();
                Timer::new(move || {
                    if let Some(terminal) = me.upgrade() {
                        terminal.let_go();
                    }
                })
            },
            me: me.clone(),
        })
    }

    /// Its name below `/dev`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
    fn tty(&self) -> Option<Arc<dyn Tty>> {
        self.me.upgrade().map(|me| me as Arc<dyn Tty>)
    }
    /// Whether somebody has it open, or is about to.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let line = self.line.lock();
        line.opens > 0
    }

    /// Opens the channel, if need be waiting for it, and keeps it open: kernel messages go there.
    pub fn pin(&self) -> SysResult<()> {
        self.plug_in(|line| line.pinned = true)
    }

    /// Runs `change`, unless the terminal is open: then `false`. A channel that outlived the last close goes first.
    pub fn replug(&self, change: impl FnOnce()) -> bool {
        let gone = {
            let mut line = self.line.lock();
            if line.opens > 0 || line.connecting {
                return false;
            }
            change();
            line.unplug()
        };
        if let Some(channel) = gone {
            channel.close();
        }
        true
    }

    /// Has a channel, opened now if need be, and does `then` with the line that has it.
    fn plug_in(&self, then: impl FnOnce(&mut Line)) -> SysResult<()> {
        let connects = || {
            let mut line = self.line.lock();
            if line.channel.is_some() {
                return Some(false);
            }
            (!std::mem::replace(&mut line.connecting, true)).then_some(true)
        };
        if !self.openers.wait_interruptible(connects)? {
            then(&mut self.line.lock());
            return Ok(());
        }
        let connected = self.plug.connect();
        let mut line = self.line.lock();
        line.connecting = false;
        let result = connected.map(|channel| {
            line.link += 1;
            line.input_ended = false;
            line.refused.clear();
            line.channel = Some(channel.clone());
            then(&mut line);
            (channel, line.link)
        });
        drop(line);
        self.openers.wake_all();
        let (channel, link) = result?;
        channel.observe(Arc::new(ChannelWatch { terminal: self.me.clone(), link }));
        self.update_size();
        Ok(())
    }

    /// Some moments after the last close.
    fn let_go(&self) {
        let gone = {
            let mut line = self.line.lock();
            if line.opens > 0 || line.connecting || line.pinned { None } else { line.unplug() }
        };
        if let Some(channel) = gone {
            channel.close();
        }
    }

    /// Kernel messages. Lines begin at the left even where a program has turned output processing off.
    pub fn print(&self, bytes: &[u8]) {
        let raw = {
            let line = self.line.lock();
            if line.channel.is_none() {
                return;
            }
            let output = line.discipline.termios().output;
            !output.contains(tty::OutputFlags::OPOST | tty::OutputFlags::ONLCR)
        };
        let converted: Vec<u8>;
        let mut rest = bytes;
        if raw {
            converted = bytes.iter().flat_map(|&byte| [b'\r', byte].into_iter().skip(usize::from(byte != b'\n'))).collect();
            rest = &converted;
        }
        while !rest.is_empty() {
            let (taken, effects) = self.line.lock().discipline.write(rest);
            if effects.output {
                // Not more: whoever logs may hold locks, and a channel that ended says so by itself.
                self.line.lock().drain();
            }
            rest = rest.get(taken..).unwrap_or_default();
            if taken == 0 {
                // Stopped or full: the kernel does not wait for a terminal; what does not fit is in the log.
                return;
            }
        }
    }

    /// A signal for the foreground group, as if its character had been typed: the host's own SIGINT and the like.
    pub fn signal_foreground(&self, signal: Signal) {
        if let Some(group) = self.foreground() {
            self.jobs.signal(Target::Group(group), signal);
        }
    }

    /// Makes it the controlling terminal of a session, with this foreground group: what opening it would do for a leader without one.
    pub fn give_to(&self, session: Id, group: Id) {
        let leader = Caller {
            session,
            group,
            is_session_leader: true,
            controls_this: false,
            has_terminal: false,
            shuns_ttin: false,
            shuns_ttou: false,
            is_orphaned: false,
            is_admin: true,
        };
        if self.line.lock().control.acquire_by_open(&leader, true) {
            self.jobs.set_controlling(session, self.tty());
        }
    }

    /// All who have it open lose it (vhangup(2), TIOCVHANGUP): their files are dead, the session's leader is told. The channel stays for
    /// whoever opens it next.
    pub fn hang_up(&self) {
        let farewell = self.line.lock().control.hang_up();
        self.part(farewell);
    }

    fn part(&self, farewell: Farewell) {
        if farewell.hang_up {
            let effects = {
                let mut line = self.line.lock();
                line.hangups += 1;
                line.opens = line.console_opens;
                line.exclusive = false;
                line.discipline.hang_up(None)
            };
            self.apply(effects);
            self.linger.arm(sync::monotonic_ns() + LINGER_NS);
        }
        if let Some(session) = farewell.released_session {
            self.jobs.set_controlling(session, None);
            if let Some(group) = farewell.remembered_group {
                self.jobs.remember_group(session, group);
            }
        }
        for (target, signal) in farewell.signals {
            self.jobs.signal(target, signal);
        }
        self.readers.notify(Events::HUP);
        self.writers.notify(Events::HUP);
    }

    /// Moves bytes both ways as far as they go without waiting.
    fn pump(&self) {
        self.update_size();
        self.take_input();
        self.update_size();
        if self.line.lock().drain() {
            self.channel_ended();
        }
        self.writers.notify(Events::OUT);
    }

    fn take_input(&self) {
        let mut buffer = [0; INPUT_CHUNK];
        loop {
            let mut line = self.line.lock();
            let Some(channel) = line.channel.clone() else { return };
            if line.input_ended && line.refused.is_empty() {
                return;
            }
            if line.refused.is_empty() || line.opens == 0 {
                let full = line.discipline.room() == 0 && line.discipline.poll().readable;
                // While nobody has it open a person's typing is kept, and his leaving noticed; a file or a pipe is left alone.
                let unwanted = line.opens == 0 && (!channel.is_terminal() || line.input_ended || line.refused.len() >= TYPED_AHEAD);
                if full || unwanted {
                    return;
                }
                match channel.read(&mut buffer, Blocking::No) {
                    Err(Errno::EAGAIN) => return,
                    Ok(n) if n > 0 => line.refused.extend_from_slice(buffer.get(..n).unwrap_or_default()),
                    _ => {
                        drop(line);
                        self.channel_ended();
                        return;
                    }
                }
            }
            if line.opens == 0 {
                continue;
            }
            let bytes = std::mem::take(&mut line.refused);
            let (taken, effects) = line.discipline.receive(&bytes);
            line.refused = bytes.get(taken..).unwrap_or_default().to_vec();
            let stuck = taken == 0;
            drop(line);
            self.apply(effects);
            if stuck {
                return;
            }
        }
    }

    /// A terminal or a connection of the host that ends is a hangup, and the next open gets a new one; a file or pipe that ends has only been read.
    fn channel_ended(&self) {
        let gone = {
            let mut line = self.line.lock();
            let hangs_up = line.channel.as_ref().is_some_and(|channel| channel.is_terminal());
            let first = !std::mem::replace(&mut line.input_ended, true);
            if first && hangs_up { line.unplug() } else { None }
        };
        if let Some(channel) = gone {
            channel.close();
            self.hang_up();
        }
        self.readers.notify(Events::IN | Events::RDNORM);
    }

    fn update_size(&self) {
        let Some(channel) = self.line.lock().channel.clone() else { return };
        let Ok(size) = channel.window_size() else { return };
        let size = WinSize { rows: size.rows, columns: size.columns, x_pixels: size.width_pixels, y_pixels: size.height_pixels };
        self.resize(size);
    }

    fn resize(&self, size: WinSize) {
        let foreground = {
            let mut line = self.line.lock();
            if line.size == size {
                return;
            }
            line.size = size;
            line.control.foreground()
        };
        if let Some(group) = foreground {
            self.jobs.signal(Target::Group(group), Signal::SIGWINCH);
        }
    }

    /// Makes what a discipline's call asked for happen.
    fn apply(&self, effects: Effects) {
        if effects.output || effects.flow.is_some() {
            // A channel that ended tells its observer, which hangs up.
            self.line.lock().drain();
        }
        let mut signals = effects.signals;
        while let Some(signal) = signals.first() {
            signals.remove(signal);
            self.signal_foreground(signal);
        }
        if effects.readable {
            self.readers.notify(Events::IN | Events::RDNORM);
        }
        if effects.writable || effects.output || effects.output_flushed {
            self.writers.notify(Events::OUT | Events::WRNORM);
        }
    }

    /// Asks job control; a stopped caller restarts its call when it goes on.
    fn permit(&self, access: Access) -> SysResult<()> {
        let caller = self.jobs.caller(self.id);
        let decision = self.line.lock().control.check(&caller, access);
        self.obey(decision, &caller)
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

    fn tostop(&self) -> bool {
        self.line.lock().discipline.termios().local.contains(tty::LocalFlags::TOSTOP)
    }

    /// Waits until everything written has gone to the channel.
    fn wait_drained(&self, opened: Opened) -> SysResult<()> {
        self.writers.wait_interruptible(|| {
            let line = self.line.lock();
            (line.discipline.output_len() == 0 || line.is_dead_for(opened)).then_some(())
        })?;
        Ok(())
    }

    fn poll_now(&self, opened: Opened) -> Events {
        let line = self.line.lock();
        if line.is_dead_for(opened) {
            return Events::IN | Events::RDNORM | Events::OUT | Events::WRNORM | Events::ERR | Events::HUP;
        }
        let poll = line.discipline.poll();
        let mut events = Events::empty();
        events.set(Events::IN | Events::RDNORM, poll.readable || line.input_ended);
        events.set(Events::OUT | Events::WRNORM, poll.writable);
        events
    }
}

/// When a file was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Opened {
    /// After so many hangups.
    After(u64),
    /// As `/dev/console`, which outlives them: init holds it while sessions come and go.
    AsConsole,
}

impl Line {
    fn is_dead_for(&self, opened: Opened) -> bool {
        matches!(opened, Opened::After(hangups) if hangups != self.hangups)
    }

    /// Gives queued output to the channel, as much as it takes. Whether the channel is found to have ended.
    fn drain(&mut self) -> bool {
        let Some(channel) = self.channel.clone() else {
            self.discipline.consume_output(self.discipline.output_len());
            return false;
        };
        let mut ended = false;
        loop {
            let n = match self.discipline.peek_output() {
                [] => break,
                bytes => match channel.write(bytes, Blocking::No) {
                    Ok(n) => n,
                    Err(Errno::EAGAIN) => break,
                    // Nobody reads any more: what is written is lost, as on an unplugged line.
                    Err(_) => {
                        ended = true;
                        bytes.len()
                    }
                },
            };
            if n == 0 {
                break;
            }
            self.discipline.consume_output(n);
        }
        ended && channel.is_terminal()
    }

    /// Takes the channel out; what waited in either direction is gone with it.
    fn unplug(&mut self) -> Option<Arc<dyn HostChannel>> {
        self.link += 1;
        self.refused.clear();
        self.channel.take()
    }
}

/// An open terminal.
struct TerminalFile {
    terminal: Arc<Terminal>,
    opened: Opened,
}

impl TerminalFile {
    fn is_dead(&self) -> bool {
        self.terminal.line.lock().is_dead_for(self.opened)
    }
}

/// `/dev/console` on a terminal: its files are not dead after a hangup, and opening it makes it nobody's controlling terminal.
pub struct Console(pub Arc<Terminal>);

impl Device for Console {
    fn open(&self, _: &Open<'_>) -> SysResult<Arc<dyn FileOps>> {
        self.0.open_file(None)
    }
}

impl Tty for Terminal {
    fn id(&self) -> u64 {
        self.id
    }
    fn number(&self) -> vfs::DeviceNumber {
        self.number
    }
    fn foreground(&self) -> Option<Id> {
        self.line.lock().control.foreground()
    }
    fn leader_exits(&self) {
        let farewell = self.line.lock().control.leader_exits();
        self.part(farewell);
    }
}

impl Terminal {
    /// Opens it; `claim`: as what may become the caller's terminal, or as the console.
    fn open_file(&self, claim: Option<&Open<'_>>) -> SysResult<Arc<dyn FileOps>> {
        let terminal = self.me.upgrade().ok_or(Errno::ENXIO)?;
        let caller = self.jobs.caller(self.id);
        if self.line.lock().exclusive && !caller.is_admin {
            return Err(Errno::EBUSY.into());
        }
        let (mut acquired, mut opened) = (false, Opened::AsConsole);
        self.plug_in(|line| {
            line.opens += 1;
            let Some(open) = claim else {
                line.console_opens += 1;
                return;
            };
            opened = Opened::After(line.hangups);
            acquired = !open.flags.contains(OpenFlags::NOCTTY) && line.control.acquire_by_open(&caller, open.flags.can_read());
        })?;
        self.linger.cancel();
        if acquired {
            self.jobs.set_controlling(caller.session, Some(terminal.clone()));
        }
        // What was typed before anybody was there.
        self.take_input();
        Ok(Arc::new(TerminalFile { terminal, opened }))
    }
}

impl Device for Terminal {
    fn open(&self, open: &Open<'_>) -> SysResult<Arc<dyn FileOps>> {
        self.open_file(Some(open))
    }
}

impl FileOps for TerminalFile {
    fn positioning(&self) -> Positioning {
        Positioning::Stream
    }

    fn read(&self, file: &OpenFile, _: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        let terminal = &*self.terminal;
        if self.is_dead() {
            return Ok(0);
        }
        terminal.permit(Access::Read)?;
        let want = sink.room().min(IO_CHUNK);
        if want == 0 {
            return Ok(0);
        }
        let mut buffer = vec![0; want];
        let mut call = ReadCall::new();
        let nonblocking = file.is_nonblocking();
        let done = loop {
            let mut deadline = None;
            let step = {
                let mut line = terminal.line.lock();
                if line.is_dead_for(self.opened) || (line.input_ended && !line.discipline.poll().readable) {
                    break call.filled();
                }
                line.discipline.read(&mut call, &mut buffer, sync::monotonic_ns(), nonblocking)
            };
            match step {
                Read::Done(n) => break n,
                Read::Wait { deadline_ns } => deadline = deadline_ns.or(deadline),
                _ => return Err(Errno::EAGAIN.into()),
            }
            let ready = || terminal.poll_now(self.opened).intersects(Events::IN | Events::HUP).then_some(());
            match terminal.readers.wait_deadline(deadline, ready) {
                Ok(()) | Err(sync::WaitError::TimedOut) => {}
                Err(sync::WaitError::Interrupted) if call.filled() > 0 => break call.filled(),
                Err(sync::WaitError::Interrupted) => return Err(Interrupted.into()),
            }
            terminal.permit(Access::Read)?;
        };
        // There is room again: what the channel holds may come in.
        terminal.take_input();
        Ok(sink.put(buffer.get(..done).unwrap_or_default())?)
    }

    fn write(&self, file: &OpenFile, _: &mut u64, source: &mut dyn Source) -> SysResult<usize> {
        let terminal = &*self.terminal;
        let mut total = 0;
        while source.left() > 0 {
            if let Err(error) = terminal.permit(Access::Write { tostop: terminal.tostop() }) {
                return if total > 0 { Ok(total) } else { Err(error) };
            }
            let mut buffer = vec![0; source.left().min(IO_CHUNK)];
            let n = match source.take(&mut buffer) {
                Ok(n) => n,
                Err(_) if total > 0 => return Ok(total),
                Err(errno) => return Err(errno.into()),
            };
            let mut rest = buffer.get(..n).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            while !rest.is_empty() {
                let (taken, effects) = {
                    let mut line = terminal.line.lock();
                    if line.is_dead_for(self.opened) {
                        return if total > 0 { Ok(total) } else { Err(Errno::EIO.into()) };
                    }
                    line.discipline.write(rest)
                };
                terminal.apply(effects);
                rest = rest.get(taken..).unwrap_or_default();
                total += taken;
                if taken > 0 {
                    continue;
                }
                if file.is_nonblocking() {
                    return if total > 0 { Ok(total) } else { Err(Errno::EAGAIN.into()) };
                }
                let room = || terminal.poll_now(self.opened).intersects(Events::OUT | Events::HUP).then_some(());
                if terminal.writers.wait_interruptible(room).is_err() {
                    return if total > 0 { Ok(total) } else { Err(Interrupted.into()) };
                }
            }
        }
        Ok(total)
    }

    fn poll(&self, _: &OpenFile, table: Option<&mut PollTable>) -> Events {
        if let Some(table) = table {
            table.listen(&self.terminal.readers);
            table.listen(&self.terminal.writers);
        }
        self.terminal.poll_now(self.opened)
    }

    fn can_poll(&self) -> bool {
        true
    }

    fn ioctl(&self, file: &OpenFile, caller: &IoctlCaller<'_>, command: u32, argument: u64) -> SysResult<i64> {
        let request = Request::from_number(command).ok_or(Errno::ENOTTY)?;
        let terminal = &*self.terminal;
        if self.is_dead() {
            return Err(Errno::EIO.into());
        }
        if request.changes_terminal() && request != Request::SetForeground {
            terminal.permit(Access::Change)?;
        }
        terminal.control(self.opened, file, caller, request, argument).map(|()| 0)
    }

    fn release(&self, _: &OpenFile) {
        let mut line = self.terminal.line.lock();
        if line.is_dead_for(self.opened) {
            return;
        }
        if self.opened == Opened::AsConsole {
            line.console_opens = line.console_opens.saturating_sub(1);
        }
        line.opens = line.opens.saturating_sub(1);
        if line.opens > 0 {
            return;
        }
        line.exclusive = false;
        // What nobody read is gone.
        let _ = line.discipline.flush(Queue::Input);
        drop(line);
        self.terminal.linger.arm(sync::monotonic_ns() + LINGER_NS);
    }
}

pub(crate) fn put_int(caller: &IoctlCaller<'_>, addr: u64, value: i32) -> SysResult<()> {
    Ok(caller.memory.write_all(addr, &value.to_ne_bytes())?)
}

pub(crate) fn get_int(caller: &IoctlCaller<'_>, addr: u64) -> SysResult<i32> {
    let mut bytes = [0; 4];
    caller.memory.read_exact(addr, &mut bytes)?;
    Ok(i32::from_ne_bytes(bytes))
}

impl Terminal {
    fn control(&self, opened: Opened, file: &OpenFile, caller: &IoctlCaller<'_>, request: Request, argument: u64) -> SysResult<()> {
        match request {
            Request::GetSettings(layout) => {
                let bytes = layout.encode(self.line.lock().discipline.termios());
                Ok(caller.memory.write_all(argument, &bytes)?)
            }
            Request::SetSettings(layout, when) => self.set_settings(opened, caller, layout, when, argument),
            // There is no wire to hold: a break is nothing, as on UML's lines.
            Request::SendBreak | Request::Drain => self.wait_drained(opened),
            Request::SetBreak | Request::ClearBreak => Ok(()),
            Request::GetSoftCarrier => {
                let local = self.line.lock().discipline.termios().control & tty::control::CLOCAL != 0;
                put_int(caller, argument, i32::from(local))
            }
            Request::SetSoftCarrier => {
                let local = get_int(caller, argument)? != 0;
                let mut line = self.line.lock();
                let mut new = line.discipline.termios().clone();
                new.control = if local { new.control | tty::control::CLOCAL } else { new.control & !tty::control::CLOCAL };
                let effects = line.discipline.set_termios(new);
                drop(line);
                self.apply(effects);
                Ok(())
            }
            Request::FlowControl => {
                let effects = {
                    let mut line = self.line.lock();
                    match FlowControl::from_argument(argument).ok_or(Errno::EINVAL)? {
                        FlowControl::StopOutput => line.discipline.stop_by_program(true),
                        FlowControl::StartOutput => line.discipline.stop_by_program(false),
                        FlowControl::SendStop => line.discipline.send_flow_char(true),
                        FlowControl::SendStart => line.discipline.send_flow_char(false),
                    }
                };
                self.apply(effects);
                Ok(())
            }
            Request::Flush => {
                let effects = self.line.lock().discipline.flush(queue_from_argument(argument).ok_or(Errno::EINVAL)?);
                self.apply(effects);
                Ok(())
            }
            // The lock is let go before guest memory is touched, here and below.
            Request::CountInput => {
                let count = self.line.lock().discipline.readable_bytes();
                put_int(caller, argument, count as i32)
            }
            Request::CountOutput => {
                let count = self.line.lock().discipline.output_len();
                put_int(caller, argument, count as i32)
            }
            Request::Inject => {
                let mut byte = [0];
                caller.memory.read_exact(argument, &mut byte)?;
                let me = self.jobs.caller(self.id);
                if !me.is_admin && !me.controls_this {
                    return Err(Errno::EPERM.into());
                }
                let (_, effects) = self.line.lock().discipline.receive(&byte);
                self.apply(effects);
                Ok(())
            }
            Request::GetWinSize => {
                let size = self.line.lock().size;
                Ok(caller.memory.write_all(argument, &size.to_bytes())?)
            }
            Request::SetWinSize => {
                let mut bytes = [0; tty::ioctl::WINSIZE_BYTES];
                caller.memory.read_exact(argument, &mut bytes)?;
                self.resize(WinSize::from_bytes(&bytes));
                Ok(())
            }
            Request::GetExclusive => {
                let exclusive = self.line.lock().exclusive;
                put_int(caller, argument, i32::from(exclusive))
            }
            Request::SetExclusive | Request::ClearExclusive => {
                self.line.lock().exclusive = request == Request::SetExclusive;
                Ok(())
            }
            Request::GetDiscipline => put_int(caller, argument, 0),
            Request::SetDiscipline if get_int(caller, argument)? == 0 => Ok(()),
            Request::SetDiscipline => Err(Errno::EINVAL.into()),
            Request::GetDevice => put_int(caller, argument, (self.number.major() << 8 | self.number.minor()) as i32),
            Request::HangUp => {
                if !self.jobs.caller(self.id).is_admin {
                    return Err(Errno::EPERM.into());
                }
                self.hang_up();
                Ok(())
            }
            _ => self.control_session(file, caller, request, argument),
        }
    }

    fn set_settings(&self, opened: Opened, caller: &IoctlCaller<'_>, layout: Layout, when: When, argument: u64) -> SysResult<()> {
        let mut bytes = vec![0; layout.len_bytes()];
        caller.memory.read_exact(argument, &mut bytes)?;
        if when != When::Now {
            self.wait_drained(opened)?;
        }
        let effects = {
            let mut line = self.line.lock();
            let mut effects = if when == When::Flush { line.discipline.flush(Queue::Input) } else { Effects::default() };
            let new = layout.decode(&bytes, line.discipline.termios()).ok_or(Errno::EFAULT)?;
            effects.merge(line.discipline.set_termios(new));
            effects
        };
        self.apply(effects);
        self.take_input();
        Ok(())
    }

    fn control_session(&self, file: &OpenFile, caller: &IoctlCaller<'_>, request: Request, argument: u64) -> SysResult<()> {
        let me = self.jobs.caller(self.id);
        match request {
            Request::SetControlling => {
                let robbed = self.line.lock().control.acquire(&me, argument == 1, file.flags().can_read())?;
                if let Some(session) = robbed {
                    self.jobs.set_controlling(session, None);
                }
                self.jobs.set_controlling(me.session, self.tty());
                Ok(())
            }
            Request::GiveUpControlling => {
                let farewell = self.line.lock().control.release(&me)?;
                if farewell == Farewell::default() {
                    self.jobs.drop_controlling();
                }
                self.part(farewell);
                Ok(())
            }
            Request::GetForeground => {
                let group = self.line.lock().control.foreground_for(&me)?;
                put_int(caller, argument, group)
            }
            Request::SetForeground => {
                let decision = self.line.lock().control.check_set_foreground(&me);
                self.obey(decision, &me)?;
                let group = get_int(caller, argument)?;
                let session = self.jobs.group_session(group);
                Ok(self.line.lock().control.set_foreground(&me, group, session)?)
            }
            Request::GetSession => {
                let session = self.line.lock().control.session_for(&me, false)?;
                put_int(caller, argument, session)
            }
            _ => Err(SysError::Errno(Errno::ENOTTY)),
        }
    }
}

/// `/dev/tty`: the caller's own controlling terminal.
pub struct ControllingTerminal(pub Arc<dyn Jobs>);

impl Device for ControllingTerminal {
    fn open(&self, open: &Open<'_>) -> SysResult<Arc<dyn FileOps>> {
        self.0.controlling().ok_or(Errno::ENXIO)?.open(open)
    }
}
