//! Runs scripts against the library.

use abi::{Errno, Signal};
use tty::ioctl::When;
use tty::job::{Caller, Control, Farewell};
use tty::{PtyEffects, PtyPair, Read, ReadCall, Side};

use super::script::{EndState, Script, State, Step, poll_letters, quoted, words};

/// The recorder leads session 100, whose controlling terminal is the slave.
const SESSION: i32 = 100;

struct Machine {
    pair: PtyPair,
    control: Control,
    now_ns: u64,
    slave_open: bool,
    /// The slave's open file was hung up.
    slave_dead: bool,
    master_open: bool,
    signals: Vec<Signal>,
}

/// The observations of a script, one per step.
pub fn run(script: &Script) -> Vec<String> {
    let mut pair = PtyPair::new();
    pair.set_locked(false);
    let _ = pair.open(Side::Slave);
    let mut control = Control::new();
    let recorder = Caller {
        session: SESSION,
        group: SESSION,
        is_session_leader: true,
        controls_this: false,
        has_terminal: false,
        shuns_ttin: false,
        shuns_ttou: false,
        is_orphaned: true,
        is_admin: false,
    };
    assert_eq!(control.acquire(&recorder, false, true), Ok(None));
    let mut machine = Machine { pair, control, now_ns: 0, slave_open: true, slave_dead: false, master_open: true, signals: Vec::new() };
    script.steps.iter().map(|step| machine.step(step)).collect()
}

impl Machine {
    fn step(&mut self, step: &Step) -> String {
        let result = self.result(step);
        let mut signals: Vec<&'static str> = self.signals.drain(..).map(Signal::name).collect();
        signals.sort_unstable();
        signals.dedup();
        State { result, slave: self.state(Side::Slave), master: self.state(Side::Master), signals }.to_string()
    }

    fn state(&self, side: Side) -> EndState {
        let open = if side == Side::Master { self.master_open } else { self.slave_open };
        if side == Side::Slave && self.slave_dead {
            return EndState { open, pending: Err("EIO".to_owned()), poll: "rwhe".to_owned() };
        }
        let poll = self.pair.poll(side);
        EndState {
            open,
            pending: Ok(self.pair.readable_bytes(side)),
            poll: poll_letters([poll.readable, poll.writable, poll.status, poll.hung_up, poll.error]),
        }
    }

    fn apply(&mut self, effects: PtyEffects) {
        let mut set = effects.signals;
        while let Some(signal) = set.first() {
            set.remove(signal);
            if self.control.foreground() == Some(SESSION) {
                self.signals.push(signal);
            }
        }
        if effects.hang_up {
            self.slave_dead = true;
            let Farewell { signals, .. } = self.control.hang_up();
            self.signals.extend(signals.into_iter().map(|(_, signal)| signal));
        }
    }

    fn result(&mut self, step: &Step) -> String {
        let side = match step {
            Step::Write(side, _) | Step::Read(side, _) | Step::ReadWaiting(side, _) | Step::Flush(side, _) | Step::Flow(side, _) => *side,
            Step::Set(..) | Step::Get if self.slave_open => Side::Slave,
            _ => Side::Master,
        };
        let dead = side == Side::Slave && self.slave_dead;
        let ok = |machine: &mut Machine, effects: PtyEffects| {
            machine.apply(effects);
            "ok".to_owned()
        };
        match step {
            Step::Read(..) | Step::ReadWaiting(..) if dead => quoted(b""),
            Step::OpenSlave => match self.pair.open(Side::Slave) {
                Ok(effects) => {
                    self.slave_open = true;
                    self.slave_dead = false;
                    ok(self, effects)
                }
                Err(error) => error.to_string(),
            },
            Step::CloseSlave => {
                self.slave_open = false;
                let effects = self.pair.close(Side::Slave);
                ok(self, effects)
            }
            Step::CloseMaster => {
                self.master_open = false;
                let effects = self.pair.close(Side::Master);
                ok(self, effects)
            }
            _ if dead => Errno::EIO.to_string(),
            Step::Set(termios, when) => {
                let effects = match when {
                    When::Flush => self.pair.set_termios_and_flush(termios.clone()),
                    When::Now | When::Drain => self.pair.set_termios(termios.clone()),
                };
                ok(self, effects)
            }
            Step::Get => format!("[{}]", words(self.pair.termios())),
            Step::Write(_, bytes) => {
                let (written, effects) = self.pair.write(side, bytes);
                self.apply(effects);
                match written {
                    Ok(0) if !bytes.is_empty() => Errno::EAGAIN.to_string(),
                    Ok(count) => count.to_string(),
                    Err(error) => error.to_string(),
                }
            }
            Step::Read(_, count) => self.read(side, *count, true),
            Step::ReadWaiting(_, count) => self.read(side, *count, false),
            Step::Flush(_, queue) => {
                let effects = self.pair.flush(side, *queue);
                ok(self, effects)
            }
            Step::Flow(_, flow) => {
                let effects = self.pair.control_flow(side, *flow);
                ok(self, effects)
            }
            Step::PacketMode(on) => {
                self.pair.set_packet_mode(*on);
                ok(self, PtyEffects::default())
            }
            Step::Size(rows, columns) => {
                let effects = self.pair.set_size(tty::WinSize { rows: *rows, columns: *columns, ..Default::default() });
                ok(self, effects)
            }
        }
    }

    fn read(&mut self, side: Side, count: usize, nonblocking: bool) -> String {
        let (mut call, mut buf) = (ReadCall::new(), vec![0; count]);
        loop {
            let (read, effects) = self.pair.read(side, &mut call, &mut buf, self.now_ns, nonblocking);
            self.apply(effects);
            return match read {
                Ok(Read::Done(filled)) => quoted(&buf[..filled]),
                Ok(Read::WouldBlock) => Errno::EAGAIN.to_string(),
                Ok(Read::Wait { deadline_ns: Some(deadline_ns) }) => {
                    self.now_ns = deadline_ns;
                    continue;
                }
                Ok(Read::Wait { deadline_ns: None }) => "waits for ever".to_owned(),
                Err(error) => error.to_string(),
            };
        }
    }
}
