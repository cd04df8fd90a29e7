//! The management console: the machine is asked, changed, stopped and continued from the host.
//!
//! * [`Host`]: what the machine has of this on the host: its identity, the listener of its notifications;
//! * [`serve`]: the socket, served by a thread of its own, which is no fiber: it goes on while all of the machine stands still;
//! * [`commands`]: what each command does to this machine.
//!
//! What it is not: the protocol and its words (`mconsole`), devices (each driver registers its kind in [`Machine::configurable`]).
//!
//! Source: the documentation of User Mode Linux on the management console; the replies are the reference's, byte for byte.

mod commands;
mod memory;

use crate::config::{Config, End};
use crate::machine::Machine;
use crate::wiring::INFO;
use commands::Commands;
use fs::kernfs::{Asking, FileSpec};
use fs::proc::Proc;
use host::identity::{Identity, Mailbox, Places};
use mconsole::packet::{MAX_DATAGRAM, Notification};
use mconsole::server::Server;
use platform::HostMailbox;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Log level of what went wrong.
const ERROR: u8 = 3;

/// `umid=`, `uml_dir=` and `mconsole=` of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManagementConfig {
    /// Whether the machine has a name, a directory and a console at all.
    pub enabled: bool,
    /// The name; none: one made at random.
    pub umid: Option<String>,
    /// Where machines have their directories; none: `~/.uml`.
    pub uml_dir: Option<PathBuf>,
    /// The socket that is told of the machine's start, panic and messages (`mconsole=notify:PATH`).
    pub notify: Option<PathBuf>,
}

/// What the machine has on the host for its management.
pub struct Host {
    identity: Mutex<Option<Identity>>,
    listener: Option<PathBuf>,
}

impl Host {
    /// Takes the machine's name on the host. Nothing that goes wrong here keeps a machine from running.
    pub fn prepare(machine_log: &vfs::KernelLog, config: &ManagementConfig) -> Arc<Host> {
        let identity = if config.enabled {
            let mut say = |text: String| machine_log.print(ERROR, &text);
            Identity::claim(config.umid.as_deref(), config.uml_dir.as_deref(), &Places::of_environment(), &mut say)
        } else {
            None
        };
        Arc::new(Host { identity: Mutex::new(identity), listener: config.notify.clone() })
    }

    fn with_identity<R>(&self, look: impl FnOnce(&Identity) -> R) -> Option<R> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(look)
    }

    /// Takes the machine's files away: it ends.
    pub fn remove(&self) {
        if let Some(identity) = self.identity.lock().unwrap_or_else(PoisonError::into_inner).take() {
            identity.remove();
        }
    }

    /// Tells the listener, if there is one. The number of the host's error otherwise.
    pub fn notify(&self, kind: Notification, data: &[u8]) -> Result<(), abi::Errno> {
        match &self.listener {
            Some(path) => host::identity::notify(path, &kind.datagram(data)),
            None => Ok(()),
        }
    }

    /// Tells the listener of a panic: its text and a NUL.
    pub fn notify_panic(&self, text: &str) {
        // Whoever should have listened is gone, and so are we.
        let _ = self.notify(Notification::Panic, &[text.as_bytes(), b"\0"].concat());
    }
}

/// The files of `/proc` that belong to the management: `/proc/sysrq-trigger`, and `/proc/mconsole` where somebody listens.
pub fn make_files(machine: &Machine, config: &Config, proc: &Proc) {
    let sysrq = machine.sysrq.clone();
    let press = move |_: &Asking<'_>, text: &[u8]| {
        if let Some(letter) = text.first() {
            sysrq.press(*letter);
        }
        Ok(())
    };
    proc.tree().file("sysrq-trigger", 0o200, FileSpec::default().store(press));
    let log = &machine.vfs.log;
    proc.tree().file("umlaut/log", 0o400, FileSpec::text(move || whole_log(log)));
    if config.management.notify.is_some() {
        let host = machine.host.clone();
        let tell = move |_: &Asking<'_>, text: &[u8]| Ok(host.notify(Notification::User, text)?);
        proc.tree().file("mconsole", 0o200, FileSpec::default().store(tell));
    }
}

/// The kernel's log as dmesg(1) shows it.
fn whole_log(log: &vfs::KernelLog) -> String {
    let (mut next, end) = log.range();
    let mut text = String::new();
    while let Some(record) = log.at(next).filter(|record| record.sequence < end) {
        next = record.sequence + 1;
        let (seconds, micros) = (record.at_ns / abi::NS_PER_SEC, record.at_ns % abi::NS_PER_SEC / 1000);
        for line in String::from_utf8_lossy(&record.text).trim_end_matches('\n').split('\n') {
            text.push_str(&format!("[{seconds:5}.{micros:06}] {line}\n"));
        }
    }
    text
}

/// Registers what belongs to the kernel itself, opens the socket and serves it from now on.
pub fn serve(machine: &Machine, config: &ManagementConfig, proc: &Arc<Proc>) {
    machine.configurable.register(Arc::new(memory::Memory::new(machine.system.ram)));
    let log = &machine.vfs.log;
    if config.enabled {
        let ending = machine.ending.clone();
        if let Err(errno) = host::termination::on_termination(move || ending.end(End::Interrupted)) {
            log.print(ERROR, &format!("SIGINT and SIGTERM will end the machine without cleaning up ({errno})"));
        }
    }
    let Some((path, mailbox)) = machine.host.with_identity(|identity| (identity.socket_path(), Mailbox::open(identity))) else { return };
    let started = mailbox.map_err(|errno| errno.to_string()).and_then(|mailbox| {
        let commands = Commands::new(machine, proc).map_err(|errno| errno.to_string())?;
        host::start::thread("mconsole", move || run(&mailbox, commands)).map_err(|errno| errno.to_string())
    });
    match started {
        Ok(()) => {
            log.print(INFO, &format!("mconsole (version 2) initialized on {}", path.display()));
            tell_of_socket(machine, &path);
        }
        Err(reason) => log.print(ERROR, &format!("Failed to initialize management console ({reason})")),
    }
}

fn tell_of_socket(machine: &Machine, path: &Path) {
    let data = [path.as_os_str().as_encoded_bytes(), b"\0"].concat();
    if let Err(errno) = machine.host.notify(Notification::Socket, &data) {
        machine.vfs.log.print(ERROR, &format!("mconsole_notify - sendto failed, errno = {}", errno.raw()));
    }
}

/// Answers datagrams as long as the process lives.
fn run(mailbox: &dyn HostMailbox, mut commands: Commands) {
    let mut server = Server::new();
    let mut buffer = [0; MAX_DATAGRAM];
    loop {
        let (len, sender) = match mailbox.receive(&mut buffer) {
            Ok(datagram) => datagram,
            Err(errno) => {
                commands.log_failure(&format!("mconsole: receiving failed ({errno}); the console is closed"));
                return;
            }
        };
        let mut deaf = false;
        let mut send = |packet: Vec<u8>| {
            // One that does not take a packet does not get the rest.
            deaf = deaf || mailbox.send(&sender, &packet).is_err();
        };
        let datagram = buffer.get(..len).unwrap_or_default();
        // A bug of ours in one command must not cost the console: it is what a machine in trouble is asked by.
        if catch_unwind(AssertUnwindSafe(|| server.serve(datagram, &mut commands, &mut send))).is_err() {
            commands.log_failure("Oops: a command of the management console ended in the middle");
            mconsole::packet::reply(1, b"Oops").into_iter().for_each(send);
        }
    }
}
