//! Building the program, packing an initramfs and booting it, always with a limit on the time.
//!
//! The archive is "newc" (Documentation/driver-api/early-userspace/buffer-format.rst). Owners are root, times are zero, so that the same
//! files give the same bytes.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The two names of the program.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The kernel with UML's command line.
    pub linux: PathBuf,
    /// The front end for people.
    pub umlaut: PathBuf,
}

impl Programs {
    /// Builds them, with the profile of the caller; or takes those in the directory that `UMLAUT_PROGRAMS` names.
    ///
    /// # Errors
    /// A sentence, when they can't be built.
    pub fn build() -> Result<Self, String> {
        let directory = match std::env::var_os("UMLAUT_PROGRAMS") {
            Some(directory) => PathBuf::from(directory),
            None => build()?,
        };
        let programs = Self { linux: directory.join("linux"), umlaut: directory.join("umlaut") };
        if programs.linux.exists() { Ok(programs) } else { Err(format!("{} is not there", programs.linux.display())) }
    }
}

fn build() -> Result<PathBuf, String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(crate::repository()).args(["build", "--quiet", "-p", "umlaut", "-p", "tools"]);
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    if profile == "release" {
        cargo.arg("--release");
    }
    let status = cargo.status().map_err(|error| format!("cargo can't be run: {error}"))?;
    if !status.success() {
        return Err(format!("cargo build -p umlaut -p tools: {status}"));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| crate::repository().join("target"), PathBuf::from);
    Ok(target.join(profile))
}

/// An initramfs in the making.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// Adds a directory. Parents come first.
    pub fn directory(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    /// Adds a file that may be executed.
    pub fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_755, content);
    }

    /// Adds a file that only its owner may write, and that is no program.
    pub fn text(&mut self, name: &str, content: &str) {
        self.entry(name, 0o100_644, content.as_bytes());
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, name: &str, target: &str) {
        self.entry(name, 0o120_777, target.as_bytes());
    }

    /// The whole archive, with its trailer.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_length = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(b"070701");
        for field in [self.inode, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name_length, 0] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// A program that runs, with its output line by line.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
}

/// What came of waiting for a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// One line, without its end.
    Is(String),
    /// The output has ended.
    Ended,
    /// Nothing within the time.
    Late,
}

impl Running {
    /// Starts `command` without input, its errors among its output.
    ///
    /// # Errors
    /// What starting it answers.
    pub fn start(command: &mut Command) -> std::io::Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (sender, lines) = channel();
        let pipes: [Option<Box<dyn Read + Send>>; 2] =
            [child.stdout.take().map(|pipe| Box::new(pipe) as _), child.stderr.take().map(|pipe| Box::new(pipe) as _)];
        for pipe in pipes.into_iter().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(pipe);
                let mut line = Vec::new();
                while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                    let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                    line.clear();
                    if sender.send(text).is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Self { child, lines })
    }

    /// Its process number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the next line.
    pub fn line(&mut self, limit: Duration) -> Line {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Line::Is(line),
            Err(RecvTimeoutError::Timeout) => Line::Late,
            Err(RecvTimeoutError::Disconnected) => Line::Ended,
        }
    }

    /// Waits for the end; `None` when it didn't come in time and the program was killed.
    pub fn end(&mut self, limit: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            if Instant::now() >= until {
                self.kill();
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills it, and waits.
    pub fn kill(&mut self) {
        // Both only fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a program said, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Its exit status; `None` when a signal ended it.
    pub status: Option<i32>,
    /// Its standard output, what isn't UTF-8 replaced.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a program to its end, with `input` as its standard input.
///
/// # Panics
/// When it can't be started, or takes longer than `limit`; it is killed then.
pub fn output(command: &mut Command, input: &[u8], limit: Duration) -> Output {
    let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = started.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let writer = child.stdin.take().map(|mut stdin| {
        let input = input.to_vec();
        // Who doesn't read its input closes it early; that is its right.
        std::thread::spawn(move || drop(std::io::Write::write_all(&mut stdin, &input)))
    });
    let gather = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What was read before an error is what it said.
            let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = gather(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = gather(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let until = Instant::now() + limit;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            _ if Instant::now() > until => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{command:?} took over {} s", limit.as_secs());
            }
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let _ = writer.map(std::thread::JoinHandle::join);
    let text = |thread: std::thread::JoinHandle<String>| thread.join().unwrap_or_default();
    Output { status: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// Compiles a C program, static; nothing is done when `program` is newer than its sources.
///
/// # Errors
/// What the compiler said.
pub fn compile(source: &Path, program: &Path, includes: &[&Path], flags: &[String]) -> Result<(), String> {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let newest = std::iter::once(&source).chain(includes).filter_map(|path| modified(path)).max();
    if modified(program) > newest {
        return Ok(());
    }
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-g", "-static", "-pthread", "-Werror=implicit-function-declaration", "-D_GNU_SOURCE"]).args(flags);
    gcc.arg("-o").arg(program).arg(source).args(flags.iter().filter(|flag| flag.starts_with("-l")));
    let output = gcc.output().map_err(|error| format!("gcc can't be run ({error}); on Debian: apt-get install gcc libc6-dev"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_entries_at_multiples_of_four_and_a_trailer() {
        let mut archive = Archive::default();
        archive.directory("dir");
        archive.file("dir/file", b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(bytes.windows(6).filter(|w| *w == b"070701").count(), 3);
        assert!(bytes.windows(10).any(|w| w == b"TRAILER!!!"));
    }

    #[test]
    fn a_program_that_takes_too_long_is_killed() {
        let mut running = Running::start(Command::new("sleep").arg("60")).unwrap();
        assert_eq!(running.line(Duration::from_millis(10)), Line::Late);
        assert_eq!(running.end(Duration::from_millis(10)), None);
    }
}
