//! The switch as a process: sockets, ports, the loop. What goes where is `switch::forwarding`'s decision.
//!
//! Always true: nothing here blocks but the wait for events; a machine that does not take its frames loses them, as on a wire; a port
//! lives as long as its control connection.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use switch::forwarding::{AGEING_PERIOD_NS, Forwarding, Mode, Port, Verdict};
use switch::protocol::{self, Address};

use crate::command_line::strerror;
use crate::say;
use crate::signals::Caught;

/// Where the control socket is unless told otherwise.
pub const DEFAULT_CONTROL: &str = "/tmp/uml.ctl";
/// Where the data socket of protocol 0 is unless told otherwise.
pub const DEFAULT_DATA: &str = "/tmp/uml.data";
/// Frames are carried up to this length, though machines with an MTU of 1500 send at most 1514 bytes.
const MAX_FRAME: usize = 65_536;
/// Frames of one source that are carried before others get their turn.
const BURST: usize = 64;

/// What the switch is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// The control socket.
    pub control: PathBuf,
    /// A path for the data socket, for clients of protocol 0, which are not told its name.
    pub data: Option<PathBuf>,
    /// Switch or hub.
    pub mode: Mode,
    /// A tap device of the host as one more port.
    pub tap: Option<String>,
}

/// Why a socket could not be had; prints as the historical switch's messages with what to do.
#[derive(Debug)]
pub enum StartError {
    /// A living switch has it.
    InUse(PathBuf),
    /// Something other than a socket is there.
    NotASocket(PathBuf),
    /// The host refused: what was tried, and where.
    Host(&'static str, PathBuf, io::Error),
    /// The tap device.
    Tap(io::Error),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::InUse(path) => {
                let path = path.display();
                writeln!(f, "The control socket '{path}' has another server attached to it")?;
                write!(f, "You can either\n\tremove '{path}'\n\tor rerun with a different, unused filename for a socket")
            }
            StartError::NotASocket(path) => {
                write!(f, "'{}' exists and is no socket: it is left alone\nRerun with a different, unused filename", path.display())
            }
            StartError::Host(what, path, error) => write!(f, "{what}: {}\n  {}", strerror(error), path.display()),
            StartError::Tap(error) => write!(f, "{}", strerror(error)),
        }
    }
}

enum Outlet {
    Socket(SocketAddr),
    Tap,
}

struct PortState {
    outlet: Outlet,
    /// The name its frames come from.
    address: Option<Address>,
    control: Option<UnixStream>,
}

/// The running switch.
pub struct Daemon {
    listener: UnixListener,
    data: UnixDatagram,
    data_address: Address,
    sockets: Vec<PathBuf>,
    tap: Option<(Port, File)>,
    forwarding: Forwarding,
    /// Connected, and silent so far.
    strangers: Vec<UnixStream>,
    ports: HashMap<Port, PortState>,
    by_address: HashMap<Address, Port>,
    started: Instant,
}

/// Why the loop ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// A signal came.
    Signal(i32),
    /// Standard input, a terminal, ended.
    Eof,
}

impl Daemon {
    /// Opens the sockets. A control socket that nobody listens on any more is replaced.
    pub fn start(options: &Options) -> Result<Daemon, StartError> {
        let tap = match &options.tap {
            Some(name) => {
                let file = crate::tap::attach(name).map_err(StartError::Tap)?;
                Some((file.as_raw_fd() as Port, file))
            }
            None => None,
        };
        let listener = bind(&options.control, |path| UnixListener::bind(path))?;
        let mut sockets = vec![options.control.clone()];
        let host = |what, error| StartError::Host(what, options.control.clone(), error);
        let (data, data_address) = match &options.data {
            Some(path) => {
                let bound = bind(path, |path| UnixDatagram::bind(path)).inspect_err(|_| remove(&sockets))?;
                sockets.push(path.clone());
                let address = Address::from_path(path.as_os_str().as_encoded_bytes());
                (bound, address.ok_or_else(|| host("data socket", io::ErrorKind::InvalidFilename.into()))?)
            }
            None => data_socket().map_err(|error| host("data socket", error))?,
        };
        listener.set_nonblocking(true).and_then(|()| data.set_nonblocking(true)).map_err(|error| host("socket", error))?;
        let mut ports = HashMap::new();
        if let Some((port, _)) = &tap {
            ports.insert(*port, PortState { outlet: Outlet::Tap, address: None, control: None });
        }
        Ok(Daemon {
            listener,
            data,
            data_address,
            sockets,
            tap,
            forwarding: Forwarding::new(options.mode),
            strangers: Vec::new(),
            ports,
            by_address: HashMap::new(),
            started: Instant::now(),
        })
    }

    /// Carries frames until a signal comes or, where standard input is a terminal, that ends. Then the sockets are gone.
    pub fn run(mut self, signals: &[Caught], stdin: Option<io::Stdin>) -> io::Result<End> {
        let end = self.carry(signals, stdin.as_ref());
        remove(&self.sockets);
        end
    }

    fn carry(&mut self, signals: &[Caught], stdin: Option<&io::Stdin>) -> io::Result<End> {
        let mut buffer = vec![0; MAX_FRAME];
        let mut aged_ns = 0;
        loop {
            let ready = self.wait(signals, stdin)?;
            if let Some(signal) = signals.iter().find_map(Caught::came) {
                return Ok(End::Signal(signal));
            }
            if let (true, Some(stdin)) = (ready.stdin, stdin)
                && stdin.lock().read(&mut [0; 256]).unwrap_or(0) == 0
            {
                return Ok(End::Eof);
            }
            if ready.data {
                self.carry_data(&mut buffer);
            }
            if ready.tap {
                self.carry_tap(&mut buffer);
            }
            if ready.listener {
                self.accept();
            }
            if ready.controls {
                self.serve_strangers();
                self.drop_disconnected();
            }
            let now_ns = self.now_ns();
            if now_ns >= aged_ns + AGEING_PERIOD_NS {
                self.forwarding.age(now_ns);
                aged_ns = now_ns;
            }
        }
    }

    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn wait(&self, signals: &[Caught], stdin: Option<&io::Stdin>) -> io::Result<Ready> {
        let controls = self.strangers.iter().chain(self.ports.values().filter_map(|port| port.control.as_ref()));
        let mut descriptors: Vec<BorrowedFd<'_>> = vec![self.listener.as_fd(), self.data.as_fd()];
        descriptors.extend(controls.map(AsFd::as_fd));
        let controls_end = descriptors.len();
        descriptors.extend(self.tap.iter().map(|(_, tap)| tap.as_fd()));
        let tap_end = descriptors.len();
        descriptors.extend(stdin.iter().map(|stdin| stdin.as_fd()));
        let stdin_end = descriptors.len();
        descriptors.extend(signals.iter().map(AsFd::as_fd));
        let mut polled: Vec<PollFd<'_>> = descriptors.into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let period = Timespec { tv_sec: (AGEING_PERIOD_NS / 1_000_000_000) as i64, tv_nsec: 0 };
        match poll(&mut polled, Some(&period)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let any = |range: std::ops::Range<usize>| polled.get(range).is_some_and(|fds| fds.iter().any(|fd| !fd.revents().is_empty()));
        Ok(Ready {
            listener: any(0..1),
            data: any(1..2),
            controls: any(2..controls_end),
            tap: any(controls_end..tap_end),
            stdin: any(tap_end..stdin_end),
        })
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            say!("New connection");
            if stream.set_nonblocking(true).is_ok() {
                self.strangers.push(stream);
            }
        }
    }

    fn serve_strangers(&mut self) {
        for mut stream in std::mem::take(&mut self.strangers) {
            let mut bytes = [0; 256];
            let len = match stream.read(&mut bytes) {
                Ok(len) => len,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    self.strangers.push(stream);
                    continue;
                }
                Err(error) => {
                    say!("Reading request: {}", strerror(&error));
                    continue;
                }
            };
            match protocol::parse_request(&bytes[..len]) {
                Ok(new) => self.add_port(new, stream),
                Err(error) => say!("{error}"),
            }
        }
    }

    fn add_port(&mut self, new: protocol::NewPort, mut control: UnixStream) {
        let outlet = match (new.address.as_abstract_name(), new.address.as_path()) {
            (Some(name), _) => SocketAddr::from_abstract_name(name),
            (None, path) => SocketAddr::from_pathname(OsStr::from_bytes(path.unwrap_or_default())),
        };
        let Ok(outlet) = outlet else {
            say!("{}", protocol::RequestError::Address);
            return;
        };
        if new.wants_answer
            && let Err(error) = control.write_all(&self.data_address.encode())
        {
            say!("Sending data socket name: {}", strerror(&error));
            return;
        }
        let port = control.as_raw_fd() as Port;
        self.by_address.insert(new.address, port);
        self.ports.insert(port, PortState { outlet: Outlet::Socket(outlet), address: Some(new.address), control: Some(control) });
    }

    fn drop_disconnected(&mut self) {
        let gone = |state: &PortState| match &state.control {
            // Whatever a machine says after its request means nothing.
            Some(control) => loop {
                match (&*control).read(&mut [0; 256]) {
                    Ok(0) => break true,
                    Ok(_) => {}
                    Err(error) => break !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
                }
            },
            None => false,
        };
        let gone: Vec<Port> = self.ports.iter().filter(|(_, state)| gone(state)).map(|(port, _)| *port).collect();
        for port in gone {
            say!("Disconnect");
            self.forwarding.remove_port(port);
            let address = self.ports.remove(&port).and_then(|state| state.address);
            if let Some(address) = address
                && self.by_address.get(&address) == Some(&port)
            {
                self.by_address.remove(&address);
            }
        }
    }

    fn carry_data(&mut self, buffer: &mut [u8]) {
        for _ in 0..BURST {
            let Ok((len, from)) = self.data.recv_from(buffer) else { return };
            let Some(&port) = address_of(&from).and_then(|address| self.by_address.get(&address)) else { continue };
            // A name that was bound shorter than the request says is reached by what it really is.
            if let Some(PortState { outlet: Outlet::Socket(outlet), .. }) = self.ports.get_mut(&port)
                && outlet.as_abstract_name() != from.as_abstract_name()
            {
                *outlet = from;
            }
            self.carry_frame(port, &buffer[..len]);
        }
    }

    fn carry_tap(&mut self, buffer: &mut [u8]) {
        for _ in 0..BURST {
            let Some((port, tap)) = &mut self.tap else { return };
            let (port, read) = (*port, tap.read(buffer));
            match read {
                Ok(len @ 1..) => self.carry_frame(port, &buffer[..len]),
                _ => return,
            }
        }
    }

    fn carry_frame(&mut self, from: Port, frame: &[u8]) {
        let now_ns = self.now_ns();
        match self.forwarding.decide(from, frame, now_ns, &mut |event| say!("{event}")) {
            Verdict::Drop => {}
            Verdict::To(port) => {
                if let Some(state) = self.ports.get(&port) {
                    self.send(&state.outlet, frame);
                }
            }
            Verdict::Flood => self.ports.iter().filter(|(port, _)| **port != from).for_each(|(_, state)| self.send(&state.outlet, frame)),
        }
    }

    /// A frame that can't be taken is lost.
    fn send(&self, outlet: &Outlet, frame: &[u8]) {
        let _ = match (outlet, &self.tap) {
            (Outlet::Socket(address), _) => self.data.send_to_addr(frame, address),
            (Outlet::Tap, Some((_, tap))) => (&*tap).write(frame),
            (Outlet::Tap, None) => Ok(0),
        };
    }
}

struct Ready {
    listener: bool,
    data: bool,
    controls: bool,
    tap: bool,
    stdin: bool,
}

fn address_of(address: &SocketAddr) -> Option<Address> {
    match address.as_abstract_name() {
        Some(name) => Address::from_abstract_name(name),
        None => Address::from_path(address.as_pathname()?.as_os_str().as_encoded_bytes()),
    }
}

/// A data socket with the kind of name that UML's switch has.
fn data_socket() -> io::Result<(UnixDatagram, Address)> {
    for number in 0..1000 {
        let address = Address::abstract_of(std::process::id(), number);
        let name = SocketAddr::from_abstract_name(address.as_abstract_name().unwrap_or_default())?;
        match UnixDatagram::bind_addr(&name) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            other => return other.map(|socket| (socket, address)),
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// Binds a socket to a path, replacing a socket that nobody answers on.
fn bind<S>(path: &Path, bind: impl Fn(&Path) -> io::Result<S>) -> Result<S, StartError> {
    match bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        other => return other.map_err(|error| StartError::Host("bind", path.to_owned(), error)),
    }
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if !is_socket {
        return Err(StartError::NotASocket(path.to_owned()));
    }
    let in_use = match UnixStream::connect(path) {
        Ok(_) => true,
        // A data socket is of another type: that it can be connected to shows that it lives.
        Err(_) => UnixDatagram::unbound().is_ok_and(|probe| probe.connect(path).is_ok()),
    };
    if in_use {
        return Err(StartError::InUse(path.to_owned()));
    }
    std::fs::remove_file(path).and_then(|()| bind(path)).map_err(|error| StartError::Host("bind", path.to_owned(), error))
}

fn remove(sockets: &[PathBuf]) {
    for path in sockets {
        let _ = std::fs::remove_file(path);
    }
}
