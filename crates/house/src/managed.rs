//! A machine with a shell on its console and a management console, for the conversations that tests have with both.
//!
//! The guest is busybox in an initramfs: its shell reads commands from standard input, which is the machine's console.

use crate::machine::{Archive, Programs};
use mconsole::packet::{self, Answer, MAX_DATAGRAM, parse_reply};
use std::io::{Read, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up: machines share their processors with whatever else runs.
pub const LIMIT: Duration = Duration::from_secs(60);

/// What the shell runs first.
const INIT: &[u8] = b"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /mnt
/bin/busybox --install -s /bin
export PATH=/bin PS1=
mount -t proc proc /proc
mount -t sysfs sys /sys
stty -echo
echo SHELL-IS-READY
exec sh
";

/// An initramfs with busybox and `more` files beside; `None`, and a line that says so, where there is no static busybox.
#[must_use]
pub fn shell_archive(more: &[(&str, &[u8])]) -> Option<Vec<u8>> {
    let Some(busybox) = ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|path| std::fs::read(path).ok()) else {
        println!("skipped: busybox is not installed");
        return None;
    };
    let mut archive = Archive::default();
    archive.directory("bin");
    archive.directory("dev");
    archive.file("bin/busybox", &busybox);
    archive.file("init", INIT);
    for (name, content) in more {
        archive.file(name, content);
    }
    Some(archive.finish())
}

#[derive(Default)]
struct Output {
    text: Mutex<(Vec<u8>, bool)>,
    more: Condvar,
}

/// A machine.
pub struct Managed {
    child: Child,
    console: Option<ChildStdin>,
    output: Arc<Output>,
    /// How far the output was looked through.
    seen: usize,
    directory: PathBuf,
    name: String,
    client: UnixDatagram,
    mark: u32,
}

/// What a test can't go on without.
fn done<T>(result: std::io::Result<T>, what: &str) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// A directory of the test's own.
#[must_use]
pub fn scratch() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    // Short: the path of a socket has at most 107 bytes.
    let path = std::env::temp_dir().join(format!("um{}-{number}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    if let Err(error) = std::fs::create_dir_all(&path) {
        println!("{} can't be made: {error}", path.display());
    }
    path
}

impl Managed {
    /// Boots `linux` with a shell, `umid=` and `uml_dir=`, and waits until the shell is there. `None` where there is no busybox.
    ///
    /// # Panics
    /// When the machine does not come up.
    #[must_use]
    pub fn boot(programs: &Programs, arguments: &[&str], more: &[(&str, &[u8])]) -> Option<Managed> {
        let archive = shell_archive(more)?;
        let directory = scratch();
        let initrd = directory.join("shell.cpio");
        done(std::fs::write(&initrd, archive), "writing the archive");
        let mut command = Command::new(&programs.linux);
        command.arg(format!("initrd={}", initrd.display()));
        command.arg(format!("uml_dir={}", directory.display()));
        command.args(["umid=m", "mem=128M", "quiet"]).args(arguments);
        let mut machine = Managed::start(command, directory, "m");
        machine.wait_for("SHELL-IS-READY");
        Some(machine)
    }

    /// Starts what `command` says, as machine `name` below `directory`.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    pub fn start(mut command: Command, directory: PathBuf, name: &str) -> Managed {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = done(command.spawn(), "starting the machine");
        let output = Arc::new(Output::default());
        let pipes: [Option<Box<dyn Read + Send>>; 2] =
            [child.stdout.take().map(|pipe| Box::new(pipe) as _), child.stderr.take().map(|pipe| Box::new(pipe) as _)];
        let open = Arc::new(AtomicU32::new(2));
        for mut pipe in pipes.into_iter().flatten() {
            let (output, open) = (output.clone(), open.clone());
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(len) = pipe.read(&mut buffer) {
                    if len == 0 {
                        break;
                    }
                    output.text.lock().unwrap_or_else(PoisonError::into_inner).0.extend_from_slice(&buffer[..len]);
                    output.more.notify_all();
                }
                if open.fetch_sub(1, Ordering::SeqCst) == 1 {
                    output.text.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
                    output.more.notify_all();
                }
            });
        }
        let client = done(UnixDatagram::bind(directory.join("client")), "binding a socket");
        done(client.set_read_timeout(Some(LIMIT)), "a socket's timeout");
        let console = child.stdin.take();
        Managed { child, console, output, seen: 0, directory, name: name.to_owned(), client, mark: 0 }
    }

    /// The test's directory, in which the machine's own is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The management console's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.join(&self.name).join("mconsole")
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that came out so far.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.output.text.lock().unwrap_or_else(PoisonError::into_inner).0).replace('\r', "")
    }

    /// Types a line on the machine's console.
    ///
    /// # Panics
    /// When nobody reads it.
    pub fn type_line(&mut self, line: &str) {
        if let Some(console) = &mut self.console {
            done(console.write_all(format!("{line}\n").as_bytes()), "typing");
        }
    }

    /// Runs a command in the shell and gives what it printed.
    ///
    /// # Panics
    /// When it takes too long.
    pub fn shell(&mut self, command: &str) -> String {
        self.mark += 1;
        let mark = format!("END-{}-OF-COMMAND", self.mark);
        // Told apart from an echo of the line by the quotes.
        self.type_line(&format!("{command}\necho E\"\"ND-{}-OF-COMMAND", self.mark));
        self.wait_for(&mark)
    }

    /// Waits for a text in the output after what was waited for last; gives what came before it.
    ///
    /// # Panics
    /// When it does not come.
    pub fn wait_for(&mut self, wanted: &str) -> String {
        let until = Instant::now() + LIMIT;
        let mut text = self.output.text.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let fresh = text.0.get(self.seen..).unwrap_or_default();
            if let Some(at) = fresh.windows(wanted.len()).position(|window| window == wanted.as_bytes()) {
                let before = String::from_utf8_lossy(&fresh[..at]).replace('\r', "");
                self.seen += at + wanted.len();
                return before;
            }
            let left = until.saturating_duration_since(Instant::now());
            let shown = String::from_utf8_lossy(&text.0).into_owned();
            assert!(!text.1, "the machine ended without saying {wanted:?}:\n{shown}");
            assert!(!left.is_zero(), "{wanted:?} did not come in time:\n{shown}");
            text = self.output.more.wait_timeout(text, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sends raw bytes to the management console.
    ///
    /// # Errors
    /// What the host says.
    pub fn send(&self, datagram: &[u8]) -> std::io::Result<usize> {
        self.client.send_to(datagram, self.socket())
    }

    /// Receives one datagram from it.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn receive(&self) -> std::io::Result<Vec<u8>> {
        let mut buffer = [0; MAX_DATAGRAM];
        self.client.recv(&mut buffer).map(|len| buffer[..len].to_vec())
    }

    /// Sends a command and gathers the answer.
    ///
    /// # Panics
    /// When no whole answer comes.
    #[must_use]
    pub fn ask(&self, command: &str) -> Answer {
        let request = packet::request(command.as_bytes()).unwrap_or_default();
        done(self.send(&request), command);
        let mut answer = Answer::default();
        loop {
            let datagram = self.receive().unwrap_or_else(|error| panic!("{command}: no answer ({error})\n{}", self.text()));
            match parse_reply(&datagram) {
                Some(packet) if answer.add(&packet) => return answer,
                Some(_) => {}
                None => panic!("{command}: {datagram:?} is no answer"),
            }
        }
    }

    /// As [`Managed::ask`]: the error's number and the text.
    #[must_use]
    pub fn told(&self, command: &str) -> (i32, String) {
        let answer = self.ask(command);
        (answer.err, String::from_utf8_lossy(&answer.text).into_owned())
    }

    /// Waits for the machine's end.
    ///
    /// # Panics
    /// When it goes on.
    pub fn end(&mut self) -> ExitStatus {
        let until = Instant::now() + LIMIT;
        loop {
            if let Some(status) = done(self.child.try_wait(), "waiting for the machine") {
                return status;
            }
            assert!(Instant::now() < until, "the machine does not end:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        // Both only fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
