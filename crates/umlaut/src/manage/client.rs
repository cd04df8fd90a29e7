//! Machines of this user: finding them, and asking one.

use mconsole::packet::{self, Answer};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a machine may think before it counts as one that does not answer. A stop writes everything back first.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine's directory on the host.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    pub directory: PathBuf,
}

impl Entry {
    pub fn socket(&self) -> PathBuf {
        self.directory.join("mconsole")
    }
    /// The machine's process, by its pid file.
    pub fn pid(&self) -> Option<u32> {
        std::fs::read_to_string(self.directory.join("pid")).ok()?.trim().parse().ok()
    }
    /// Whether that process lives.
    pub fn is_alive(&self) -> bool {
        self.pid().is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists())
    }
}

/// Where machines' directories are: below `~/.uml`, where `linux` puts them, and where it does without a home directory.
fn bases() -> Vec<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut bases: Vec<PathBuf> = set("HOME").map(|home| home.join(".uml")).into_iter().collect();
    bases.extend(set("TMPDIR").map(|dir| dir.join("uml")));
    bases.push(PathBuf::from("/tmp/uml"));
    bases.dedup();
    bases
}

/// Every machine that is there, by name; those below `uml_dir` if it is given.
pub fn machines(uml_dir: Option<&Path>) -> Vec<Entry> {
    let bases = uml_dir.map_or_else(bases, |dir| vec![dir.to_owned()]);
    let mut found: Vec<Entry> = Vec::new();
    for base in bases {
        for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
            let entry = Entry { name: entry.file_name().to_string_lossy().into_owned(), directory: entry.path() };
            if entry.directory.join("pid").exists() {
                found.push(entry);
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// A machine that can be asked.
pub struct Machine {
    pub entry: Entry,
    socket: UnixDatagram,
}

impl Machine {
    /// The machine called `name`, or whose directory or socket that is. A sentence when there is none.
    pub fn find(name: &str) -> Result<Machine, String> {
        let path = Path::new(name);
        let directory = if path.is_dir() && name.contains('/') { Some(path) } else { path.parent().filter(|_| path.ends_with("mconsole")) };
        let entry = match directory {
            Some(directory) => {
                let name = directory.file_name().map_or_else(|| name.to_owned(), |name| name.to_string_lossy().into_owned());
                Some(Entry { name, directory: directory.to_owned() })
            }
            None => machines(None).into_iter().find(|entry| entry.name == name),
        };
        let entry = entry.ok_or_else(|| format!("there is no machine called {name}; umlaut ps shows those that there are"))?;
        let socket = own_socket().map_err(|error| format!("no socket for the answers could be made ({error})"))?;
        Ok(Machine { entry, socket })
    }

    /// Asks, handing on each part of the answer as it comes; the error's number, 0 for none.
    pub fn ask_in_parts(&self, command: &str, mut part: impl FnMut(&[u8])) -> Result<i32, String> {
        let request = packet::request(command.as_bytes()).ok_or_else(|| format!("a command has at most {} bytes", packet::MAX_TEXT))?;
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => format!("{} does not run any more", self.entry.name),
            io::ErrorKind::PermissionDenied => format!("{} is another user's machine", self.entry.name),
            io::ErrorKind::WouldBlock => format!("{} does not answer", self.entry.name),
            _ => format!("{} can't be reached: {error}", self.entry.name),
        };
        self.socket.send_to(&request, self.entry.socket()).map_err(failed)?;
        let (mut answer, mut datagram) = (Answer::default(), [0; packet::MAX_DATAGRAM]);
        loop {
            let len = match self.socket.recv(&mut datagram) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(failed)?,
            };
            let reply = packet::parse_reply(datagram.get(..len).unwrap_or_default());
            let reply = reply.ok_or_else(|| format!("what answers for {} is no management console", self.entry.name))?;
            part(reply.text);
            if answer.add(&packet::ReplyPacket { text: b"", ..reply }) {
                return Ok(answer.err);
            }
        }
    }

    /// Asks; the text of the answer, or its text as a sentence of failure.
    pub fn ask(&self, command: &str) -> Result<String, String> {
        let mut text = Vec::new();
        let err = self.ask_in_parts(command, |part| text.extend_from_slice(part))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        match (err, text.is_empty()) {
            (0, _) => Ok(text),
            (_, false) => Err(text),
            (err, true) => Err(format!("{command} was refused (error {err})")),
        }
    }
}

/// A datagram socket with an abstract name of its own, which is where answers go.
fn own_socket() -> io::Result<UnixDatagram> {
    for number in 0.. {
        let name = format!("umlaut-{}-{number}", std::process::id());
        match UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
            Ok(socket) => {
                socket.set_read_timeout(Some(PATIENCE))?;
                return Ok(socket);
            }
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}
