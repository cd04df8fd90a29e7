//! TCP ports of the host at which consoles wait: each telnet that comes in gets a line of its own.
//!
//! Always true: a port listens from the first time that a line is opened there until no line is configured so any more ([`Kept`]). A telnet that
//! finds no line waiting is told so, and gets the next one.
//!
//! Source: rows CON-10, consoles.md section 4 of the specification.

use crate::telnet::TelnetChannel;
use abi::{Errno, SysResult};
use platform::{Blocking, ConsoleListener, HostChannel, HostChannels};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};
use sync::{Events, Observer, SpinLock, WaitQueue};

/// Telnets that may wait for a line; more are sent away.
const SPARE: usize = 16;

/// Says something in the kernel's log.
pub type Log = Arc<dyn Fn(&str) + Send + Sync>;

#[derive(Default)]
struct State {
    lines_waiting: usize,
    spare: VecDeque<Arc<TelnetChannel>>,
}

struct Port {
    number: u16,
    listener: Arc<dyn ConsoleListener>,
    state: SpinLock<State>,
    arrived: WaitQueue,
    log: Log,
}

/// All ports of a machine.
pub struct Ports {
    host: Arc<dyn HostChannels>,
    log: Log,
    ports: SpinLock<BTreeMap<u16, Weak<Port>>>,
    /// Held while a port is opened, so that two lines share one.
    opening: sync::Mutex<()>,
}

/// Keeps a port open.
pub struct Kept(#[allow(dead_code, reason = "held, not looked at")] Arc<Port>);

struct Arrivals(Weak<Port>);

impl Observer for Arrivals {
    fn notify(&self, _: Events) {
        if let Some(port) = self.0.upgrade() {
            port.take_in();
        }
    }
}

impl Port {
    fn take_in(&self) {
        while let Ok(connection) = self.listener.accept() {
            let telnet = TelnetChannel::new(connection);
            let (waiting, room) = {
                let state = self.state.lock();
                (state.lines_waiting > state.spare.len(), state.spare.len() < SPARE)
            };
            if !waiting {
                let text = "\r\n***************************************************\r\n\
                            * No UML consoles are waiting on this port now.   *\r\n\
                            * You get the next one that is opened.            *\r\n\
                            ***************************************************\r\n";
                // The connection is new: there is room.
                let _ = telnet.write(text.as_bytes(), Blocking::No);
                (self.log)(&format!("No one waiting for port {}", self.number));
            }
            if !room {
                telnet.close();
                continue;
            }
            self.state.lock().spare.push_back(telnet);
            self.arrived.wake_all();
        }
    }
}

impl Ports {
    /// No port listens yet.
    pub fn new(host: Arc<dyn HostChannels>, log: Log) -> Ports {
        Ports { host, log, ports: SpinLock::default(), opening: sync::Mutex::new(()) }
    }

    fn port(&self, number: u16) -> Result<Arc<Port>, Errno> {
        let _opening = self.opening.lock();
        let known = self.ports.lock().get(&number).and_then(Weak::upgrade);
        if let Some(port) = known {
            return Ok(port);
        }
        let listener = self.host.listen(number).map_err(|errno| {
            (self.log)(&format!("binding to port {number} failed, errno = {}", errno.raw()));
            Errno::ENODEV
        })?;
        let port = Arc::new(Port { number, listener, state: SpinLock::default(), arrived: WaitQueue::new(), log: self.log.clone() });
        port.listener.observe(Arc::new(Arrivals(Arc::downgrade(&port))));
        self.ports.lock().insert(number, Arc::downgrade(&port));
        Ok(port)
    }

    /// Waits for a telnet.
    pub fn connect(&self, number: u16) -> SysResult<(Arc<dyn HostChannel>, Kept)> {
        let port = self.port(number)?;
        port.state.lock().lines_waiting += 1;
        port.take_in();
        let got = port.arrived.wait_interruptible(|| port.state.lock().spare.pop_front());
        port.state.lock().lines_waiting -= 1;
        Ok((got?, Kept(port)))
    }
}
