//! What the tests of the programs share: a directory that goes away, running a program, finding Debian's.
#![allow(dead_code, reason = "each test program uses its part")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of the test's own, removed at its end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("uml-tools-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path.canonicalize().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How a program ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Ended {
        Ended {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a program in a directory.
pub fn run(program: impl AsRef<Path>, arguments: &[&str], directory: &Path) -> Ended {
    let mut command = Command::new(program.as_ref());
    command.args(arguments).current_dir(directory).env("LC_ALL", "C").stdin(Stdio::null());
    command.output().unwrap().into()
}

/// Debian's program of this name, from `uml-utilities`; without it says so where nobody can miss it.
pub fn debian(name: &str) -> Option<PathBuf> {
    let path = Path::new("/usr/bin").join(name);
    if path.exists() {
        return Some(path);
    }
    // Straight to the descriptor: what the print macros write is hidden while a test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {name} of Debian's uml-utilities is not installed; nothing was compared with it");
    None
}
