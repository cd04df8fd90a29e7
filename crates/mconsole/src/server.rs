//! The machine's side: a datagram comes in, datagrams go out, and a [`Machine`] does what was asked.
//!
//! Not here: devices. What `config` and `remove` do, and their errors, is the drivers' matter.
//!
//! Always true: every whole request is answered, the last packet saying that it is; `halt` and `reboot` are answered before they are done;
//! a client of another version is told so and nothing else happens.

use crate::command::{self, Command};
use crate::packet;

/// A request that was not fulfilled: what the client is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// 1, or a negative errno.
    pub err: i32,
    /// Why, for a person.
    pub text: String,
}

impl Refusal {
    /// A refusal without a number of its own.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Refusal {
        Refusal { err: 1, text: text.into() }
    }

    /// A refusal with an errno.
    #[must_use]
    pub fn errno(errno: abi::Errno, text: impl Into<String>) -> Refusal {
        Refusal { err: -errno.raw(), text: text.into() }
    }

    /// `config` of something that is no device.
    #[must_use]
    pub fn bad_config() -> Refusal {
        Refusal::new("Bad configuration option")
    }

    /// `remove` of something that is no device.
    #[must_use]
    pub fn bad_remove() -> Refusal {
        Refusal::new("Bad remove option")
    }

    /// `config DEV` of a device that can't say.
    #[must_use]
    pub fn no_query() -> Refusal {
        Refusal::new("No get_config routine defined")
    }
}

/// Where the parts of a long answer go.
pub type Output<'a> = &'a mut dyn FnMut(&[u8]);

/// What a machine can be asked to do. Texts are bytes as they came; a machine trusts none of them.
pub trait Machine {
    /// `sysname nodename release version machine`.
    fn version(&mut self) -> String;
    /// Stops at once, with nothing written back.
    fn halt(&mut self);
    /// Starts anew at once.
    fn reboot(&mut self);
    /// `DEV=CFG`, or `DEV:CFG` with a `=` behind.
    fn configure(&mut self, setting: &[u8]) -> Result<(), Refusal>;
    /// A device's configuration, empty when it has none.
    fn query(&mut self, device: &[u8]) -> Result<String, Refusal>;
    /// Takes a device away.
    fn remove(&mut self, device: &[u8]) -> Result<(), Refusal>;
    /// Does what the letter says (an unknown one, or none: prints the help), handing on what the kernel prints meanwhile.
    fn sysrq(&mut self, letter: Option<u8>, output: Output<'_>) -> Result<(), Refusal>;
    /// Ctrl-Alt-Del.
    fn ctrl_alt_del(&mut self);
    /// Freezes: clocks stand, guests do not run.
    fn stop(&mut self);
    /// Thaws.
    fn go(&mut self);
    /// Adds to the kernel log at warning level, no newline added.
    fn log(&mut self, text: &[u8]);
    /// The content of `/proc/PATH`.
    fn proc_file(&mut self, path: &[u8], output: Output<'_>) -> Result<(), Refusal>;
    /// Prints a task's stack; false when there is no such task.
    fn stack(&mut self, pid: i32, output: Output<'_>) -> bool;
}

/// Answers one datagram after the other.
#[derive(Debug, Default)]
pub struct Server {
    stopped: bool,
}

impl Server {
    /// A server of a machine that runs.
    #[must_use]
    pub fn new() -> Server {
        Server::default()
    }

    /// Whether the machine is frozen by `stop`.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Serves one datagram; `send` takes each datagram of the answer to its sender.
    pub fn serve(&mut self, datagram: &[u8], machine: &mut dyn Machine, send: &mut dyn FnMut(Vec<u8>)) {
        let text = match packet::parse_request(datagram) {
            Ok(text) => text,
            Err(error) => return error.reply().into_iter().for_each(send),
        };
        let mut reply = |err: i32, text: &[u8]| packet::reply(err, text).into_iter().for_each(&mut *send);
        let Some(command) = command::parse(text) else { return reply(1, b"Unknown command") };
        match command {
            Command::Version => reply(0, machine.version().as_bytes()),
            Command::Help => reply(0, command::HELP.as_bytes()),
            Command::Halt => {
                reply(0, b"");
                machine.halt();
            }
            Command::Reboot => {
                reply(0, b"");
                machine.reboot();
            }
            Command::Configure(setting) => result(&mut reply, machine.configure(setting).map(|()| String::new())),
            Command::Query(device) => result(&mut reply, machine.query(device)),
            Command::Remove(device) => result(&mut reply, machine.remove(device).map(|()| String::new())),
            Command::Cad => {
                // It may restart the machine before the answer is on its way.
                reply(0, b"");
                machine.ctrl_alt_del();
            }
            Command::Stop if self.stopped => reply(1, b"Already stopped"),
            Command::Stop => {
                machine.stop();
                self.stopped = true;
                reply(0, b"stopped");
            }
            Command::Go if !self.stopped => reply(1, b"Not stopped"),
            Command::Go => {
                self.stopped = false;
                machine.go();
                reply(0, b"");
            }
            Command::Log(text) => {
                machine.log(text);
                reply(0, b"");
            }
            Command::Sysrq(Some(b'b')) => {
                // The machine is gone before it could say more.
                reply(0, b"");
                let _ = machine.sysrq(Some(b'b'), &mut |_| {});
            }
            Command::Sysrq(letter) => {
                let done = machine.sysrq(letter, &mut |text| packet::partial_reply(text).into_iter().for_each(&mut *send));
                finish(send, done);
            }
            Command::Proc(path) => serve_proc(machine, path, send),
            Command::Stack(None) => reply(1, b"Please specify a pid"),
            Command::Stack(Some(pid)) => {
                let found = pid > 0 && machine.stack(pid, &mut |text| packet::partial_reply(text).into_iter().for_each(&mut *send));
                finish(send, if found { Ok(()) } else { Err(Refusal::new("Couldn't find that pid")) });
            }
        }
    }
}

fn result(reply: &mut dyn FnMut(i32, &[u8]), result: Result<String, Refusal>) {
    match result {
        Ok(text) => reply(0, text.as_bytes()),
        Err(refusal) => reply(refusal.err, refusal.text.as_bytes()),
    }
}

/// The packet that ends a streamed answer.
fn finish(send: &mut dyn FnMut(Vec<u8>), done: Result<(), Refusal>) {
    let packets = match done {
        Ok(()) => packet::reply(0, b""),
        Err(refusal) => packet::reply(refusal.err, refusal.text.as_bytes()),
    };
    packets.into_iter().for_each(send);
}

/// A newline, the file, and an empty packet; of a file that can't be opened only the refusal.
fn serve_proc(machine: &mut dyn Machine, path: &[u8], send: &mut dyn FnMut(Vec<u8>)) {
    let mut begun = false;
    let done = machine.proc_file(path, &mut |text| {
        if !std::mem::replace(&mut begun, true) {
            packet::partial_reply(b"\n").into_iter().for_each(&mut *send);
        }
        packet::partial_reply(text).into_iter().for_each(&mut *send);
    });
    if done.is_ok() && !begun {
        packet::partial_reply(b"\n").into_iter().for_each(&mut *send);
    }
    finish(send, done);
}
