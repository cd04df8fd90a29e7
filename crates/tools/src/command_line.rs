//! How a program ends: usage texts, errors, exit statuses.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Why a program ends before its work is done.
#[derive(Debug)]
pub enum Failure {
    /// The command line makes no sense: the usage text goes to standard error.
    Usage {
        /// The program's usage text.
        text: &'static str,
        /// What about it, if more can be said.
        reason: Option<String>,
        /// Exit status.
        status: u8,
    },
    /// Something did not work: these lines go to standard error, the exit status is 1.
    Message(String),
}

impl Failure {
    /// A failed operation on a file: `what: strerror`, as perror(3) prints it, then where and what to do about it.
    #[must_use]
    pub fn io(what: &str, path: &Path, error: &std::io::Error) -> Failure {
        let advice = match error.kind() {
            std::io::ErrorKind::PermissionDenied => ": you may not. Ask its owner, or work on a copy",
            std::io::ErrorKind::NotFound => ": there is no such file or directory. Check the name",
            std::io::ErrorKind::StorageFull => ": its file system is full. Make room and try again",
            _ => "",
        };
        Failure::Message(format!("{what}: {}\n  {}{advice}", strerror(error), path.display()))
    }

    /// Prints it and gives the exit status.
    pub fn report(self) -> ExitCode {
        match self {
            Failure::Usage { text, reason, status } => {
                if let Some(reason) = reason {
                    eprintln!("{reason}");
                }
                eprint!("{text}");
                ExitCode::from(status)
            }
            Failure::Message(message) => {
                eprintln!("{message}");
                ExitCode::FAILURE
            }
        }
    }
}

/// The system's text for an error, without Rust's ` (os error N)`.
#[must_use]
pub fn strerror(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// As [`strerror`], for a number.
#[must_use]
pub fn strerror_of(errno: abi::Errno) -> String {
    strerror(&std::io::Error::from_raw_os_error(errno.raw()))
}

/// Runs a program's body and turns its end into an exit status.
pub fn run(body: impl FnOnce() -> Result<(), Failure>) -> ExitCode {
    match body() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// A path from a command line.
#[must_use]
pub fn path(argument: OsString) -> PathBuf {
    PathBuf::from(argument)
}

/// Prints a line to standard output, as `println!`, but goes on when nobody reads it: a daemon outlives its terminal.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {{
        let _ = ::std::io::Write::write_fmt(&mut ::std::io::stdout(), format_args!("{}\n", format_args!($($argument)*)));
    }};
}
