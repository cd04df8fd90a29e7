//! One program, two names. Called `linux` it is the kernel with UML's command line; called `umlaut` it is the front end for people.
//!
//! What it is not: the machine. It turns words into a [`kernel::Config`] and the machine's end into an exit status.
#![forbid(unsafe_code)]

mod boot;
mod doctor;
mod front;
mod manage;

use kernel::cmdline::{CommandLine, Stop};
use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

/// Looks at the name it was called by.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    if std::env::args_os().nth(1).is_some_and(|word| word == "port-helper") {
        let words = arguments.skip(1).map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>();
        return ExitCode::from(host::channel::helper(&words));
    }
    let called = Path::new(&program).file_name().unwrap_or(OsStr::new("umlaut"));
    if called == OsStr::new("linux") {
        let words = arguments.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>();
        linux(&words)
    } else {
        front::main()
    }
}

/// The kernel under its own name.
fn linux(words: &[String]) -> ExitCode {
    let line = match CommandLine::parse(words) {
        Ok(line) => line,
        Err(Stop::Answer(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(Stop::Mistake(sentence)) => {
            eprintln!("{sentence}");
            return ExitCode::from(1);
        }
    };
    match kernel::Config::from_command_line(&line) {
        Ok(config) => kernel::start(config).as_linux(),
        Err(sentence) => {
            eprintln!("linux: {sentence}");
            ExitCode::from(1)
        }
    }
}
