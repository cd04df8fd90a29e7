//! Talking to a machine's management console: finding it, sending commands, and the commands that the client does itself.
//!
//! Not here: the terminal (`uml_mconsole` reads it), and the bytes on the wire (`mconsole::packet`).

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use mconsole::client;
use mconsole::packet::{self, Answer};

use crate::command_line::strerror;

/// What `help` adds to the machine's own list.
pub const LOCAL_HELP: &str = "Additional local mconsole commands:
    quit - Quit mconsole
    switch <socket-name> - Switch control to the given machine
    log -f <filename> - use contents of <filename> as UML log messages
    mconsole-version - version of this mconsole program
    int  - Interrupt UML session
";

/// What became of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was not; the number is the machine's, never 0.
    Failed(i32),
    /// The person wants to leave.
    Quit,
}

impl Outcome {
    /// The exit status of a command that was given on the command line: as the historical client, the low byte of the machine's number.
    #[must_use]
    pub fn status(self) -> u8 {
        match self {
            Outcome::Done | Outcome::Quit => 0,
            Outcome::Failed(err) => match err as u8 {
                0 => 1,
                status => status,
            },
        }
    }
}

/// A machine that commands go to.
pub struct Console {
    name: String,
    path: PathBuf,
    socket: UnixDatagram,
}

impl Console {
    /// Finds a machine by its name or its socket's path. Each place where it is not is a warning on standard error.
    pub fn find(name: &OsStr) -> io::Result<Console> {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        for path in client::socket_candidates(Path::new(name), home.as_deref()) {
            match std::fs::metadata(&path) {
                Ok(_) => return Ok(Console { name: name.to_string_lossy().into_owned(), path, socket: own_socket()? }),
                Err(error) => eprintln!("Warning: couldn't stat file: {} - {}", path.display(), strerror(&error)),
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// The name it was found by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends one command to the machine and waits for the whole answer.
    pub fn ask(&self, command: &[u8]) -> io::Result<Answer> {
        let request = packet::request(command)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("a command has at most {} bytes", packet::MAX_TEXT)))?;
        self.socket.send_to(&request, &self.path)?;
        let (mut answer, mut datagram) = (Answer::default(), [0; packet::MAX_DATAGRAM]);
        loop {
            let len = match self.socket.recv(&mut datagram) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            match packet::parse_reply(&datagram[..len]) {
                Some(packet) if answer.add(&packet) => return Ok(answer),
                Some(_) => {}
                None => return Err(io::Error::new(io::ErrorKind::InvalidData, "what answered is no management console")),
            }
        }
    }

    /// Does one line that a person gave: locally, or by the machine.
    pub fn perform(&mut self, line: &str) -> Outcome {
        let line = line.trim_end();
        let (word, rest) = line.trim_start().split_once(char::is_whitespace).unwrap_or((line.trim_start(), ""));
        let rest = rest.trim_start();
        match word {
            "quit" => Outcome::Quit,
            "mconsole-version" => {
                println!("uml_mconsole client version {}", packet::VERSION);
                Outcome::Done
            }
            "switch" => self.switch(rest),
            "int" => self.interrupt(),
            "log" => self.log(rest),
            "umlfs" => umlfs(rest),
            "help" => {
                let outcome = self.send(b"help");
                print!("{LOCAL_HELP}");
                outcome
            }
            _ => self.send(absolutize(line).as_bytes()),
        }
    }

    /// Sends a command and prints its answer as `OK text` or `ERR text`.
    fn send(&self, command: &[u8]) -> Outcome {
        match self.ask(command) {
            Ok(answer) => {
                let mut line = if answer.err == 0 { b"OK ".to_vec() } else { b"ERR ".to_vec() };
                line.extend(&answer.text);
                line.push(b'\n');
                // Nobody reads: then nobody misses it.
                let _ = io::stdout().write_all(&line);
                if answer.err == 0 { Outcome::Done } else { Outcome::Failed(answer.err) }
            }
            Err(error) => {
                let advice = match error.kind() {
                    io::ErrorKind::ConnectionRefused => "\n  The machine is gone and left its socket behind. Start it again",
                    io::ErrorKind::PermissionDenied => "\n  It is another user's machine",
                    _ => "",
                };
                eprintln!("Sending command to '{}' : {}{advice}", self.path.display(), strerror(&error));
                Outcome::Failed(1)
            }
        }
    }

    fn switch(&mut self, name: &str) -> Outcome {
        match Console::find(OsStr::new(name)) {
            Ok(console) => {
                *self = console;
                println!("Switched to '{name}'");
                Outcome::Done
            }
            Err(_) => Outcome::Failed(1),
        }
    }

    fn log(&self, rest: &str) -> Outcome {
        let file = rest.strip_prefix("-f").filter(|rest| rest.starts_with(char::is_whitespace)).map(str::trim_start);
        let text = match file.map(std::fs::read) {
            Some(Ok(text)) => text,
            Some(Err(error)) => {
                eprintln!("opening file: {}\n  {}", strerror(&error), file.unwrap_or_default());
                return Outcome::Failed(1);
            }
            None => rest.as_bytes().to_vec(),
        };
        let mut commands = client::log_commands(&text);
        // The machine adds none.
        if text.last() != Some(&b'\n') {
            commands.push(b"log \n".to_vec());
        }
        let failed = commands.iter().map(|command| self.send(command)).find(|outcome| *outcome != Outcome::Done);
        failed.unwrap_or(Outcome::Done)
    }

    /// Sends SIGINT to the machine's process, whose number lies beside its socket.
    fn interrupt(&self) -> Outcome {
        let pid_file = self.path.with_file_name("pid");
        let pid = std::fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse().ok());
        // 1 and below are not machines, and kill(2) takes them for something else.
        let Some(pid) = pid.filter(|&pid: &i32| pid > 1).and_then(rustix::process::Pid::from_raw) else {
            println!("Cannot determine the PID of your UML session, not sending signal.");
            return Outcome::Failed(1);
        };
        match rustix::process::kill_process(pid, rustix::process::Signal::INT) {
            Ok(()) => Outcome::Done,
            Err(error) => {
                eprintln!("Sending SIGINT to process {} : {}", pid.as_raw_nonzero(), strerror(&error.into()));
                Outcome::Failed(1)
            }
        }
    }
}

/// A datagram socket with an abstract name of its own: without one there is nowhere for answers to go.
fn own_socket() -> io::Result<UnixDatagram> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let name = format!("uml_mconsole-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        match UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            other => return other,
        }
    }
}

/// The machine works in another directory than the person who types: file names of disks are sent in full.
fn absolutize(command: &str) -> String {
    let mut result = command.to_owned();
    // From the last to the first, so that the places found stay right.
    for range in client::disk_names(command).into_iter().rev() {
        let name = Path::new(&command[range.clone()]);
        match crate::backing::absolute(name) {
            Ok(path) => result.replace_range(range, &path.to_string_lossy()),
            Err(error) => {
                let directory = name.parent().unwrap_or(Path::new("")).display();
                eprintln!("absolutize : Can't cd to '{directory}', {}", strerror(&error));
            }
        }
    }
    result
}

fn umlfs(argument: &str) -> Outcome {
    if argument.parse::<u32>().is_err() {
        println!("ERR Failed to parse file descriptor");
        return Outcome::Failed(-abi::Errno::EINVAL.raw());
    }
    println!("ERR umlfs is not supported: mount a directory of the host in the machine with hostfs instead");
    Outcome::Failed(1)
}
